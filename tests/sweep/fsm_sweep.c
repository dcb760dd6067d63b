/* Every allocation of every command fails once: the 1st, the 2nd, … until none was reached. While memory is short a command is
 * not carried out at all (fsm_apply() fails, the tables are as before, the replica tries again): no replica may give
 * another answer than the others because it had less memory. Queries say NOMEM, or what they say with memory. Nothing
 * leaks. Every operation of metadata/command.c must have been carried out by the script, with success. */
#include "fsm_sweep.h"

#include "fail_alloc.h"

#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"
#include "metadata/check.h"
#include "metadata/command.h"
#include "metadata/fence.h"
#include "metadata/lease_rows.h"
#include "metadata/lease_touch.h"
#include "ops.h"

#include <stdio.h>

#define SWEEP_MAX 100000

static _Noreturn void broken(const char *what, unsigned op, uint64_t n)
{
    fprintf(stderr, "operation %u (%s), allocation %llu: %s\n", op, command_find(op)->name, (unsigned long long)n, what);
    exit(1);
}

static void need(bool good)
{
    if (!good)
        abort();
}

static int digest_piece(void *arg, const void *data, size_t n)
{
    uint32_t *crc = arg;
    *crc = crc32c(*crc, data, n);
    return 0;
}

static uint32_t digest(struct sweep *s)
{
    struct kv_txn *txn;
    uint32_t crc = 0;
    need(kv_begin(s->kv, false, &txn) == 0 && kv_dump(txn, digest_piece, &crc) == 0);
    kv_abort(txn);
    return crc;
}

static void check(struct sweep *s)
{
    struct kv_txn *txn;
    struct check_summary summary;
    need(kv_begin(s->kv, false, &txn) == 0 && check_tables(txn, NULL, NULL, &summary) == 0);
    kv_abort(txn);
    need(summary.violations == 0);
}

/* ---- one command, again and again */

/* What a command or query comes to: its answer, and the tables after it. */
struct outcome {
    int err;
    uint32_t reply, tables;
};

static struct outcome outcome_of(struct sweep *s, struct kv_txn *txn, const struct fsm_result *result)
{
    struct outcome out = {.err = result->err, .reply = crc32c(0, result->reply, result->reply_len)};
    need(txn == NULL || kv_dump(txn, digest_piece, &out.tables) == 0);
    return out;
}

static bool same(const struct outcome *a, const struct outcome *b)
{
    return a->err == b->err && a->reply == b->reply && a->tables == b->tables;
}

/* With all the memory there is. */
static struct outcome apply_whole(struct sweep *s, const struct fsm_command *command, bool keep)
{
    struct fsm_result result = {0};
    struct kv_txn *txn;
    need(kv_begin(s->kv, true, &txn) == 0 && fsm_apply(txn, command, &result) == 0);
    struct outcome out = outcome_of(s, txn, &result);
    if (keep) {
        need(kv_commit(txn) == 0);
        fsm_result_fini(&s->last);
        s->last = result;
    } else {
        kv_abort(txn);
        fsm_result_fini(&result);
    }
    return out;
}

/* True when the allocation was reached. */
static bool apply_short(struct sweep *s, const struct fsm_command *command, uint64_t n, const struct outcome *expected)
{
    struct fsm_result result = {0};
    struct kv_txn *txn;
    uint32_t before = digest(s);
    uint64_t live = fail_alloc_live();
    need(kv_begin(s->kv, true, &txn) == 0);
    fail_alloc_arm(n);
    int err = fsm_apply(txn, command, &result);
    bool reached = fail_alloc_disarm();
    if (err != 0 && (!reached || err != -E_NOMEM))
        broken(reached ? err_name(err) : "a failure without a reason", command->op, n);
    struct outcome out = err == 0 ? outcome_of(s, txn, &result) : *expected;
    if (!same(&out, expected)) /* it did without, and differently */
        broken(result.detail[0] != 0 ? result.detail : err_name(result.err), command->op, n);
    kv_abort(txn);
    fsm_result_fini(&result);
    if (digest(s) != before)
        broken("the tables have changed", command->op, n);
    if (fail_alloc_live() != live)
        broken("memory is leaked", command->op, n);
    s->failures += reached;
    return reached;
}

static uint8_t *packed(const ProtobufCMessage *message, size_t *ret_len)
{
    *ret_len = protobuf_c_message_get_packed_size(message);
    uint8_t *body = malloc(*ret_len + 1);
    need(body != NULL);
    protobuf_c_message_pack(message, body);
    return body;
}

static void done(struct sweep *s, unsigned op, int err, int expected)
{
    if (err != expected) {
        fprintf(stderr, "%s\n", s->last.detail);
        broken(err_name(err), op, 0);
    }
    s->commands++;
    s->done[op] |= err == 0;
}

/* What the leader looks up before it proposes: whose leases the change concerns. Missing one would break a promise. */
static void touch(struct sweep *s, unsigned op, const ProtobufCMessage *message)
{
    struct lease_touch whole = {0};
    bool reached = true;
    for (uint64_t n = 0; reached && n < SWEEP_MAX; n++) {
        struct lease_touch found = {0};
        struct kv_txn *txn;
        uint64_t live = fail_alloc_live();
        need(kv_begin(s->kv, false, &txn) == 0);
        if (n > 0)
            fail_alloc_arm(n);
        int err = lease_touch_find(txn, op, message, &found);
        reached = n == 0 || fail_alloc_disarm();
        kv_abort(txn);
        whole = n == 0 ? found : whole;
        bool same_inodes = found.n == whole.n && memcmp(found.inos, whole.inos, found.n * sizeof found.inos[0]) == 0;
        if (err == 0 ? !same_inodes : n == 0 || !reached || err != -E_NOMEM)
            broken(err == 0 ? "other leases are concerned" : err_name(err), op, n);
        if (fail_alloc_live() != live)
            broken("memory is leaked", op, n);
        s->failures += n > 0 && reached;
    }
}

void sweep_apply(struct sweep *s, unsigned op, const ProtobufCMessage *message, int expected)
{
    size_t len;
    uint8_t *body = packed(message, &len);
    struct fsm_command command = {
        .index = ++s->index, .op = op, .real_ns = SWEEP_NOW + s->index, .seed = s->index, .body = body, .body_len = len};
    touch(s, op, message);
    struct outcome whole = apply_whole(s, &command, false);
    uint64_t n = 1;
    while (n < SWEEP_MAX && apply_short(s, &command, n, &whole))
        n++;
    need(n < SWEEP_MAX);
    struct outcome kept = apply_whole(s, &command, true);
    if (!same(&kept, &whole))
        broken("the same command again comes to something else", op, n);
    free(body);
    done(s, op, kept.err, expected);
    check(s);
}

/* True when the allocation was reached; n = 0: none fails. */
static bool query_once(struct sweep *s, unsigned op, const uint8_t *body, size_t len, uint64_t n, struct outcome *out)
{
    struct fsm_result result = {0};
    struct kv_txn *txn;
    uint64_t live = fail_alloc_live();
    need(kv_begin(s->kv, false, &txn) == 0);
    if (n > 0)
        fail_alloc_arm(n);
    int err = fsm_query(txn, op, body, len, &result);
    bool reached = n > 0 && fail_alloc_disarm();
    kv_abort(txn);
    struct outcome this = outcome_of(s, NULL, &result);
    this.err = err != 0 ? err : result.err;
    if (n == 0)
        *out = this;
    else if (!same(&this, out) && !(reached && this.err == -E_NOMEM))
        broken(err_name(this.err), op, n);
    if (n == 0) {
        fsm_result_fini(&s->last);
        s->last = result;
        return true;
    }
    fsm_result_fini(&result);
    if (fail_alloc_live() != live)
        broken("memory is leaked", op, n);
    s->failures += reached;
    return reached;
}

void sweep_query(struct sweep *s, unsigned op, const ProtobufCMessage *message, int expected)
{
    size_t len;
    struct outcome whole;
    uint8_t *body = packed(message, &len);
    for (uint64_t n = 0; n < SWEEP_MAX && query_once(s, op, body, len, n, &whole); n++)
        ;
    free(body);
    done(s, op, whole.err, expected);
}

Tarn__Ctx *sweep_ctx(struct sweep *s)
{
    static Tarn__Ctx one;
    tarn__ctx__init(&one);
    one.session = s->session;
    one.seq = ++s->seq;
    one.acked = s->seq - 1;
    return &one;
}

void *sweep_reply(struct sweep *s, const ProtobufCMessageDescriptor *type)
{
    static ProtobufCMessage *reply;
    if (reply != NULL)
        protobuf_c_message_free_unpacked(reply, NULL);
    reply = type == NULL ? NULL : protobuf_c_message_unpack(type, NULL, s->last.reply_len, s->last.reply);
    need(type == NULL || reply != NULL);
    return reply;
}

/* ---- what the leader's own fibers read */

typedef int look_fn(struct sweep *s, struct kv_txn *txn, uint32_t *ret_digest);

static int look_tasks(struct sweep *s, struct kv_txn *txn, uint32_t *ret_digest)
{
    uint8_t *reply = NULL;
    size_t len = 0;
    int err = fsm_node_tasks(txn, 1, 100, &reply, &len);
    *ret_digest = crc32c(0, reply, len);
    free(reply);
    return err;
}

static int look_work(struct sweep *s, struct kv_txn *txn, uint32_t *ret_digest)
{
    bool due = false;
    int err = fsm_work_due(txn, SWEEP_NOW + s->index, &due);
    *ret_digest = due;
    return err;
}

static int look_sessions(struct sweep *s, struct kv_txn *txn, uint32_t *ret_digest)
{
    uint64_t ids[8];
    uint32_t timeouts_ms[8];
    size_t n = 0;
    int err = fsm_sessions(txn, 0, ids, timeouts_ms, ARRAY_SIZE(ids), &n);
    *ret_digest = crc32c(0, ids, n * sizeof ids[0]);
    return err;
}

static int look_recalls(struct sweep *s, struct kv_txn *txn, uint32_t *ret_digest)
{
    Tarn__LeaseItem items[8];
    size_t n = 0;
    *ret_digest = 0;
    int err = recalled_list(txn, s->session, items, ARRAY_SIZE(items), &n);
    for (size_t i = 0; i < n; i++)
        *ret_digest = crc32c(*ret_digest, &items[i].number, sizeof items[i].number);
    return err;
}

static int look_fences(struct sweep *s, struct kv_txn *txn, uint32_t *ret_digest)
{
    struct fence_news news = {0};
    int err = fence_read_txn(txn, 0, true, &news);
    *ret_digest = (uint32_t)(news.last * 1000 + news.n);
    fence_news_fini(&news);
    return err;
}

void sweep_look(struct sweep *s)
{
    static const struct {
        const char *name;
        look_fn *look;
    } looks[] = {{"tasks", look_tasks}, {"work", look_work}, {"sessions", look_sessions}, {"recalls", look_recalls}, {"fences", look_fences}};
    for (size_t i = 0; i < ARRAY_SIZE(looks); i++) {
        uint32_t whole = 0;
        bool reached = true;
        for (uint64_t n = 0; n < SWEEP_MAX && reached; n++) {
            struct kv_txn *txn;
            uint32_t found = 0;
            uint64_t live = fail_alloc_live();
            need(kv_begin(s->kv, false, &txn) == 0);
            if (n > 0)
                fail_alloc_arm(n);
            int err = looks[i].look(s, txn, &found);
            reached = n == 0 || fail_alloc_disarm();
            kv_abort(txn);
            whole = n == 0 ? found : whole;
            bool good = err == 0 ? found == whole : n > 0 && reached && err == -E_NOMEM;
            if (!good || fail_alloc_live() != live) {
                fprintf(stderr, "%s, allocation %llu: %s\n", looks[i].name, (unsigned long long)n,
                        good ? "memory is leaked" : err == 0 ? "another answer" : err_name(err));
                exit(1);
            }
            s->failures += n > 0 && reached;
        }
    }
}

/* ---- */

static bool all_done(const struct sweep *s)
{
    bool all = true;
    for (unsigned op = 0; op < SWEEP_OPS; op++)
        if (command_find(op) != NULL && !s->done[op]) {
            fprintf(stderr, "the script does not carry out %s: add it to fsm_script_*.c\n", command_find(op)->name);
            all = false;
        }
    return all;
}

int main(void)
{
    struct sweep s = {.session = 1};
    struct kv_txn *txn;
    log_init("sweep");
    log_set_level(LOG_OFF);
    need(kv_mem_open(&s.kv) == 0 && kv_begin(s.kv, true, &txn) == 0 && fsm_init(txn) == 0 && kv_commit(txn) == 0);
    sweep_script_begin(&s);
    sweep_script_tree(&s);
    sweep_script_cluster(&s);
    sweep_script_end(&s);
    sweep_reply(&s, NULL);
    fsm_result_fini(&s.last);
    kv_close(s.kv);
    printf("%u commands and queries, %u allocations failed\n", s.commands, s.failures);
    return all_done(&s) ? 0 : 1;
}
