#include "fsm.h"

#include "command.h"
#include "common/err.h"
#include "heal.h"
#include "lease_rows.h"
#include "namespace.h"
#include "quota.h"
#include "session.h"

#define SCRATCH_BYTES KIB(2) /* an unpacked request; larger ones go on in malloc'd blocks */

static void result_drop_messages(struct fsm_result *result)
{
    for (size_t i = 0; i < result->n_pushes; i++)
        free(result->pushes[i].control);
    free(result->pushes);
    free(result->reply);
    free(result->next);
    result->next = NULL;
    result->pushes = NULL;
    result->n_pushes = 0;
    result->reply = NULL;
    result->reply_len = 0;
}

void fsm_result_fini(struct fsm_result *result)
{
    result_drop_messages(result);
    free(result->touched);
    free(result->recalls);
    *result = (struct fsm_result){0};
}

int fsm_applied_index(struct kv_txn *txn, uint64_t *ret_index)
{
    struct key key = key_table(TABLE_APPLIED);
    struct kv_val value;
    *ret_index = 0;
    int err = kv_get(txn, key.data, key.len, &value);
    if (err == -E_NOENT)
        return 0;
    return err != 0 ? err : number_decode(value.data, value.len, ret_index);
}

static int applied_put(struct kv_txn *txn, uint64_t index)
{
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(index, &w);
    struct key key = key_table(TABLE_APPLIED);
    return w.failed ? -E_NOMEM : kv_put(txn, key.data, key.len, w.data, w.len);
}

int fsm_init(struct kv_txn *txn)
{
    struct tables t;
    struct fsm_result result = {0};
    int err = tables_init(&t, txn, true, &result);
    if (err != -E_NOENT)
        return err;
    t.state = (struct state){.next_ino = MD_ROOT + 1,
                             .next_chunk = 1,
                             .next_session = 1,
                             .next_upload = 1,
                             .next_task = 1,
                             .next_handle = 1,
                             .next_job = 1,
                             .next_node = 1,
                             .epoch = 1};
    t.state_dirty = true;
    err = tables_finish(&t, ns_init(&t));
    fsm_result_fini(&result);
    return err;
}

static void set_cred(struct tables *t, const Tarn__Ctx *ctx)
{
    if (ctx == NULL)
        return;
    t->session = t->result->session = ctx->session;
    t->cred = (struct cred){
        .uid = ctx->uid, .gid = ctx->gid, .groups = ctx->groups, .n_groups = ctx->n_groups};
}

/* An answer that is an error is an answer, too: the same number again must not find other circumstances and succeed after
 * the client was told that it failed. What is worth another try with the same number is no answer (client/meta.c). */
static bool is_answer(int err)
{
    return err != -E_UNAVAIL && err != -E_BUSY && err != -E_NOMEM && err != -E_NO_SESSION;
}

static int keep_refusal(struct tables *t, const Tarn__Ctx *ctx, const struct tables_mark *before, int err)
{
    if (t->failed != 0 || !is_answer(err))
        return err;
    if (!t->keep_on_error) {
        t->result->nodes_changed = t->result->tasks_changed = false;
        t->result->n_touched = 0;
        t->result->touched_more = t->result->rights_returned = false;
        if (tables_rollback(t, before) != 0)
            return err;
    }
    int kept = session_keep_error(t, ctx, err);
    t->keep_on_error = t->keep_on_error || kept == 0;
    return err;
}

/* A change of a client: known session, not carried out before. */
static int run_in_session(struct tables *t, const struct command *command,
                          const ProtobufCMessage *message, const Tarn__Ctx *ctx)
{
    if (ctx == NULL || ctx->session == 0)
        return tables_fail(t, -E_NO_SESSION, "a change needs a session");
    if (ctx->seq == 0)
        return tables_fail(t, -E_INVAL, "a change needs a number");
    bool again;
    int err = session_begin(t, ctx, &again);
    if (err != 0 || again)
        return err;
    struct tables_mark before = tables_mark(t);
    err = command->handle(t, message);
    if (err == 0)
        err = exclusive_conflicts_touched(t);
    if (err == 0)
        err = quota_settle(t, true);
    if (err == 0)
        err = session_keep(t, ctx);
    return err == 0 ? 0 : keep_refusal(t, ctx, &before, err);
}

static int run(struct tables *t, const struct command *command, const uint8_t *body, size_t len)
{
    _Alignas(16) uint8_t scratch[SCRATCH_BYTES];
    _cleanup_(arena_fini) struct arena arena;
    arena_init(&arena, scratch, sizeof scratch);
    ProtobufCMessage *message = NULL;
    int err = command_decode(command, body, len, &arena, &message);
    if (err == -E_PROTO)
        tables_fail(t, err, "the message of %s cannot be read", command->name);
    if (err != 0)
        return err;
    const Tarn__Ctx *ctx = command_ctx(command, message);
    set_cred(t, ctx);
    err = command->flags & (COMMAND_LEADER | COMMAND_QUERY)
              ? command->handle(t, message)
              : run_in_session(t, command, message, ctx);
    if (err == 0)
        err = quota_settle(t, false); /* a client's change has settled: nothing is left */
    t->cred = (struct cred){0}; /* it borrowed from the message */
    return err;
}

/* The answer as the requester gets it: a code, or a reply that is never NULL. */
static int result_settle(struct fsm_result *result, int err, bool kept)
{
    if (err != 0) {
        result_drop_messages(result);
        result->nodes_changed &= kept;
        if (!kept)
            result->n_touched = 0, result->touched_more = result->rights_returned = false;
        result->tasks_changed &= kept;
        result->fences_changed &= kept;
        result->err = err;
        return 0;
    }
    result->detail[0] = 0;
    if (result->reply == NULL)
        result->reply = calloc(1, 1);
    return result->reply == NULL ? -E_NOMEM : 0;
}

int fsm_apply(struct kv_txn *txn, const struct fsm_command *command, struct fsm_result *ret)
{
    *ret = (struct fsm_result){0};
    uint64_t applied;
    int err = fsm_applied_index(txn, &applied);
    if (err != 0 || command->index <= applied)
        return err;
    struct tables t;
    err = tables_init(&t, txn, true, ret);
    if (err != 0)
        return err;
    t.now = command->real_ns;
    t.prng = prng_init(command->seed);
    const struct command *row = command_find(command->op);
    if (row == NULL || (row->flags & COMMAND_QUERY))
        err = tables_fail(&t, -E_PROTO, "operation %u is not a change", command->op);
    else
        err = run(&t, row, command->body, command->body_len);
    if (err == -E_NOMEM && t.failed == 0)
        t.failed = err; /* the other replicas may have had the memory: this one tries again, it does not answer */
    err = tables_finish(&t, err);
    int failed = t.failed;
    if (failed == 0)
        failed = result_settle(ret, err, t.keep_on_error);
    if (failed == 0)
        failed = applied_put(txn, command->index);
    if (failed != 0)
        fsm_result_fini(ret);
    return failed;
}

int fsm_query(struct kv_txn *txn, unsigned op, const uint8_t *body, size_t body_len,
              struct fsm_result *ret)
{
    *ret = (struct fsm_result){0};
    struct tables t;
    int err = tables_init(&t, txn, false, ret);
    if (err != 0)
        return err;
    const struct command *row = command_find(op);
    if (row == NULL || !(row->flags & COMMAND_QUERY))
        err = tables_fail(&t, -E_PROTO, "operation %u is not a query", op);
    else
        err = run(&t, row, body, body_len);
    tables_fini(&t);
    int failed = t.failed;
    if (failed == 0)
        failed = result_settle(ret, err, false);
    if (failed != 0)
        fsm_result_fini(ret);
    return failed;
}

struct sessions_scan {
    uint64_t *ids;
    uint32_t *timeouts_ms;
    size_t max, count;
};

static int session_visit(void *arg, struct kv_val key, struct kv_val value)
{
    struct sessions_scan *scan = arg;
    struct session session;
    struct reader r = reader_init(key.data + 1, key.len - 1);
    if (scan->count == scan->max)
        return 1;
    if (session_decode(reader_be64(&r), value.data, value.len, &session) != 0)
        return -E_CORRUPT;
    if (session.fence != 0)
        return 0;
    scan->ids[scan->count] = session.id;
    scan->timeouts_ms[scan->count++] = session.timeout_ms;
    return 0;
}

int fsm_sessions(struct kv_txn *txn, uint64_t after, uint64_t *ids, uint32_t *timeouts_ms,
                 size_t max, size_t *ret_n)
{
    struct sessions_scan scan = {.ids = ids, .timeouts_ms = timeouts_ms, .max = max};
    struct key prefix = key_table(TABLE_SESSION), start = key_1(TABLE_SESSION, after + 1);
    int err = kv_scan(txn, start.data, start.len, prefix.data, prefix.len, session_visit, &scan);
    if (err == 0)
        *ret_n = scan.count;
    return err;
}

int fsm_node_tasks(struct kv_txn *txn, uint32_t node, size_t max, uint8_t **ret_reply,
                   size_t *ret_len)
{
    struct fsm_result result = {0};
    struct tables t;
    int err = tables_init(&t, txn, false, &result);
    if (err == 0)
        err = heal_node_tasks(&t, node, max);
    if (err == 0) {
        *ret_reply = take_ptr(result.reply);
        *ret_len = result.reply_len;
    }
    tables_fini(&t);
    fsm_result_fini(&result);
    return err;
}

int fsm_work_due(struct kv_txn *txn, uint64_t real_ns, bool *ret_due)
{
    struct fsm_result result = {0};
    struct tables t;
    int err = tables_init(&t, txn, false, &result);
    if (err == 0)
        *ret_due = heal_due(&t, real_ns);
    tables_fini(&t);
    return err != 0 ? err : t.failed;
}
