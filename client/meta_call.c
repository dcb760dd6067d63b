/* Calls of the user: changes with their numbers, queries, answers in parts. */
#include "meta_internal.h"

/* Under RPC_CONN_REQUESTS_MAX (256) with room for pings, session calls and asked-again locks. */
#define CALLS_MAX 192

static int call_enter(struct meta *meta)
{
    while (meta->calls >= CALLS_MAX && !meta->closing) {
        int r = fiber_queue_wait(&meta->room, 0);
        if (r < 0)
            return r;
    }
    if (meta->closing)
        return -E_CANCELED;
    meta->calls++;
    fiber_group_add(&meta->fibers);
    return 0;
}

static void call_leave(struct meta *meta)
{
    meta->calls--;
    fiber_queue_wake_one(&meta->room);
    fiber_group_done(&meta->fibers);
}

static int call_change(struct meta *meta, uint64_t session, struct leader_call *c, Tarn__Ctx *ctx)
{
    meta_session_check(meta);
    int r = session == 0 ? meta_session_ensure(meta) : session != meta->session ? -E_NO_SESSION : 0;
    if (r < 0)
        return r;
    struct change change = {.session = meta->session, .seq = ++meta->last_seq};
    list_append(&meta->changes, &change.node);
    ctx->session = change.session;
    ctx->seq = change.seq;
    ctx->acked = meta_acked(meta);
    c->session = change.session;
    r = meta_leader_call(meta, c);
    list_remove(&change.node);
    if (r == 0)
        meta_session_proved(meta, change.session, c);
    else if (r == -E_NO_SESSION)
        meta_session_lost(meta, change.session, "the service has not heard of it in time");
    meta_session_check(meta);
    if (r == 0 && meta->session != change.session) {
        if (c->reply)
            protobuf_c_message_free_unpacked(take_ptr(c->reply), NULL);
        return -E_NO_SESSION; /* the answer came when what it gives was lost already */
    }
    return r;
}

static int call_query(struct meta *meta, struct leader_call *c, Tarn__Ctx *ctx)
{
    meta_session_check(meta);
    ctx->session = meta->session;
    int r = meta_leader_call(meta, c);
    if (r == 0)
        meta_session_proved(meta, ctx->session, c);
    if (r != -E_NO_SESSION || ctx->session == 0)
        return r;
    meta_session_lost(meta, ctx->session, "the service has not heard of it in time");
    ctx->session = 0;
    return meta_leader_call(meta, c);
}

static void ctx_fill(Tarn__Ctx *ctx, const struct meta_cred *cred)
{
    if (!cred)
        return;
    ctx->uid = cred->uid;
    ctx->gid = cred->gid;
    ctx->n_groups = cred->n_groups;
    ctx->groups = (uint32_t *)cred->groups;
}

/* Called with the call counted. */
static int call_run(struct meta *meta, uint64_t session, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                    const struct meta_cred *cred, const ProtobufCMessageDescriptor *reply_type,
                    void *ret_reply, char *detail)
{
    Tarn__Ctx ctx = TARN__CTX__INIT;
    ctx_fill(&ctx, cred);
    struct leader_call c = {
        .op = op,
        .request = request,
        .reply_type = ret_reply ? reply_type : NULL,
        .give_up_ms = meta->options.give_up_ms,
        .detail = detail,
    };
    if (ctx_field)
        *ctx_field = &ctx;
    bool change = op <= OP_META_CHANGE_LAST && ctx_field;
    uint64_t epoch = meta->epoch;
    int r = change ? call_change(meta, session, &c, &ctx) : call_query(meta, &c, &ctx);
    if (ctx_field)
        *ctx_field = NULL;
    if (r == 0 && op == OP_WATCH) {
        meta->watches = ((const Tarn__Watch *)request)->jobs;
        meta->watched_epoch = epoch;
    }
    if (r == 0 && ret_reply)
        memcpy(ret_reply, &c.reply, sizeof c.reply);
    return r;
}

/* ------------------------------------------------------------------ answers in parts */

struct stream_call {
    struct leader_call c;
    struct meta *meta;
    meta_part_fn part;
    void *arg;
    int result; /* of the last `part` */
};

/* What the user says ends the call as it is: no code of his may look like one that is worth another try. */
static int stream_part(void *arg, const ProtobufCMessage *part)
{
    struct stream_call *s = container_of((struct leader_call *)arg, struct stream_call, c);
    s->result = s->part(s->arg, part);
    s->c.heard_ms = io_mono_ms(s->meta->io);
    s->c.tries = s->c.hops = 0;
    s->c.pause_ms = 0;
    return s->result == 0 ? 0 : -E_CANCELED;
}

int meta_stream(struct meta *meta, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                const struct meta_cred *cred, const ProtobufCMessageDescriptor *reply_type, meta_part_fn part,
                void *arg, char *detail)
{
    CHECK_MAGIC(meta, META_MAGIC);
    CHECK(op > OP_META_CHANGE_LAST);
    Tarn__Ctx ctx = TARN__CTX__INIT;
    if (detail)
        detail[0] = '\0';
    ctx_fill(&ctx, cred);
    struct stream_call s = {.meta = meta, .part = part, .arg = arg};
    int r = call_enter(meta);
    if (r < 0)
        return r;
    *ctx_field = &ctx;
    while (r == 0 && s.result == 0) {
        s.c = (struct leader_call){.op = op,
                                   .request = request,
                                   .reply_type = reply_type,
                                   .give_up_ms = meta->options.give_up_ms,
                                   .detail = detail,
                                   .part = stream_part};
        r = call_query(meta, &s.c, &ctx);
        if (r == 0) {
            s.result = part(arg, s.c.reply);
            protobuf_c_message_free_unpacked(s.c.reply, NULL);
        }
    }
    *ctx_field = NULL;
    call_leave(meta);
    return s.result == META_END ? 0 : s.result < 0 ? s.result : r;
}

int meta_call(struct meta *meta, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
              const struct meta_cred *cred, const ProtobufCMessageDescriptor *reply_type,
              void *ret_reply, char *detail)
{
    return meta_call_in(meta, 0, op, request, ctx_field, cred, reply_type, ret_reply, detail);
}

int meta_call_in(struct meta *meta, uint64_t session, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                 const struct meta_cred *cred, const ProtobufCMessageDescriptor *reply_type, void *ret_reply, char *detail)
{
    CHECK_MAGIC(meta, META_MAGIC);
    if (detail)
        detail[0] = '\0';
    int r = call_enter(meta);
    if (r < 0)
        return r;
    r = call_run(meta, session, op, request, ctx_field, cred, reply_type, ret_reply, detail);
    call_leave(meta);
    return r;
}

/* ------------------------------------------------------------------ for the leases */

int meta_call_urgent(struct meta *meta, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                     const ProtobufCMessageDescriptor *reply_type, void *ret_reply)
{
    if (meta->closing)
        return -E_CANCELED;
    fiber_group_add(&meta->fibers);
    int r = call_run(meta, 0, op, request, ctx_field, &meta_root, reply_type, ret_reply, NULL);
    fiber_group_done(&meta->fibers);
    return r;
}

int meta_call_urgent_in(struct meta *meta, uint64_t session, unsigned op, ProtobufCMessage *request,
                        Tarn__Ctx **ctx_field)
{
    if (meta->closing)
        return -E_CANCELED;
    fiber_group_add(&meta->fibers);
    int r = call_run(meta, session, op, request, ctx_field, &meta_root, NULL, NULL, NULL);
    fiber_group_done(&meta->fibers);
    return r;
}
