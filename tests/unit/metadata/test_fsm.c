/* See test_fsm.h. */
#include "test_fsm.h"
#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"

#define HISTORY_MAX 400000

static struct {
    uint64_t last, conflicts;
    uint64_t real_ns;
    uint32_t digest[HISTORY_MAX];
} history;

void test_history_reset(void)
{
    memset(&history, 0, sizeof history);
}

uint64_t test_history_conflicts(void)
{
    return history.conflicts;
}

uint64_t test_history_last(void)
{
    return history.last;
}

static uint64_t get_u64(struct kv_txn *txn, const char *key)
{
    struct kv_val value;
    uint64_t v = 0;
    if (kv_get(txn, key, strlen(key), &value) == 0 && value.len == sizeof v)
        memcpy(&v, value.data, sizeof v);
    return v;
}

uint64_t test_count(struct kv_txn *txn)
{
    return get_u64(txn, "count");
}

bool test_has(struct kv_txn *txn, uint64_t client, uint64_t seq)
{
    struct test_body body = {client, seq};
    struct kv_val value;
    return kv_get(txn, &body, sizeof body, &value) == 0;
}

void fsm_result_fini(struct fsm_result *result)
{
    free(result->reply);
    result->reply = NULL;
}

int fsm_init(struct kv_txn *txn)
{
    struct kv_val value;
    uint64_t zero = 0;
    if (kv_get(txn, "index", 5, &value) == 0)
        return 0;
    return kv_put(txn, "index", 5, &zero, sizeof zero);
}

int fsm_applied_index(struct kv_txn *txn, uint64_t *ret_index)
{
    *ret_index = get_u64(txn, "index");
    return 0;
}

static void note(const struct fsm_command *command)
{
    uint32_t digest = crc32c(0, &command->real_ns, sizeof command->real_ns);
    digest = crc32c(digest, &command->seed, sizeof command->seed);
    digest = crc32c(digest, command->body, command->body_len) | 1;
    CHECK(command->index < HISTORY_MAX);
    uint32_t *slot = &history.digest[command->index];
    if (*slot != 0 && *slot != digest)
        history.conflicts++;
    if (command->index > history.last) {
        history.conflicts += command->real_ns < history.real_ns; /* the clock never goes back */
        history.real_ns = command->real_ns;
        history.last = command->index;
    }
    *slot = digest;
}

int fsm_apply(struct kv_txn *txn, const struct fsm_command *command, struct fsm_result *ret)
{
    if (command->index <= get_u64(txn, "index"))
        return 0;
    note(command);
    uint64_t count = test_count(txn) + 1;
    int err = kv_put(txn, "index", 5, &command->index, sizeof command->index);
    if (err == 0)
        err = kv_put(txn, "count", 5, &count, sizeof count);
    if (err == 0)
        err = kv_put(txn, command->body, sizeof(struct test_body), "", 0);
    ret->reply = malloc(sizeof count);
    if (ret->reply == NULL)
        return -E_NOMEM;
    memcpy(ret->reply, &count, sizeof count);
    ret->reply_len = sizeof count;
    return err;
}
