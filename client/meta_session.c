/* The session with the metadata service: opened when it is needed, kept alive by the keeper fiber, lost by our clock or its word. */
#include "meta_internal.h"

#define PUSH_PING_MS 1000    /* while a push is waited for: a silent change of leader is noticed this soon */
#define LEARN_MS 5000        /* members may have changed while the leader stayed */
#define CLOCK_MARGIN 16      /* our clock may run a 16th slower than the service's: then a session still ends here first */
#define END_MS 2000          /* the last words of a client; without them the session times out */

void meta_session_lost(struct meta *meta, uint64_t session, const char *why)
{
    if (session == 0 || meta->session != session)
        return;
    log_warn("%s: session %llx with the metadata service has ended (%s): %u open files must be opened again, locks were taken through %u of them",
             meta->name, (unsigned long long)session, why, meta->files, meta->locked);
    meta->session = 0;
    meta->files = meta->locked = 0;
    leases_session_lost(meta->leases);
    meta_waits_wake(meta);
    fiber_queue_wake_all(&meta->keeper);
    if (meta->options.lost)
        meta->options.lost(meta->options.arg);
}

uint64_t meta_session_until_ms(const struct meta *meta)
{
    return meta->session == 0 ? 0 : meta->proved_ms + meta->granted_ms - meta->granted_ms / CLOCK_MARGIN;
}

uint64_t meta_session(const struct meta *meta)
{
    return meta->session != 0 && io_mono_ms(meta->io) < meta_session_until_ms(meta) ? meta->session : 0;
}

void meta_session_check(struct meta *meta)
{
    if (meta->session != meta_session(meta))
        meta_session_lost(meta, meta->session, "the service did not answer in all its time");
}

void meta_session_refused(struct meta *meta, uint64_t session)
{
    meta_session_lost(meta, session, "a store refuses it");
}

/* An answer shows that the service heard the session not before the request was sent. */
void meta_session_proved(struct meta *meta, uint64_t session, const struct leader_call *c)
{
    if (session != 0 && meta->session == session)
        meta->proved_ms = MAX(meta->proved_ms, c->sent_ms);
}

void meta_holds(struct meta *meta, uint64_t session, int files, int locked)
{
    if (session == 0 || session != meta->session)
        return; /* of one that is lost: not counted any more */
    meta->files += (unsigned)files;
    meta->locked += (unsigned)locked;
}

static int session_open(struct meta *meta)
{
    if (!meta->uuid_set) {
        io_random(meta->io, meta->uuid, sizeof meta->uuid);
        meta->uuid_set = true;
    }
    Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
    open.uuid = (ProtobufCBinaryData){.data = meta->uuid, .len = sizeof meta->uuid};
    open.name = meta->name;
    open.timeout_ms = meta->options.timeout_ms;
    open.node = meta->config->node;
    struct leader_call c = {
        .op = OP_SESSION_OPEN,
        .request = &open.base,
        .reply_type = &tarn__session_open_reply__descriptor,
        .give_up_ms = meta->options.give_up_ms,
    };
    int r = meta_leader_call(meta, &c);
    if (r == -E_NO_SESSION)
        meta->uuid_set = false; /* opened by a try before, and over already */
    if (r < 0)
        return r;
    Tarn__SessionOpenReply *reply = (Tarn__SessionOpenReply *)c.reply;
    meta->session = reply->session;
    meta->granted_ms = reply->timeout_ms ? reply->timeout_ms : meta->options.timeout_ms;
    meta->proved_ms = c.sent_ms;
    meta->last_seq = 0;
    meta->uuid_set = false;
    tarn__session_open_reply__free_unpacked(reply, NULL);
    return meta->session ? 0 : -E_PROTO;
}

/* Opens a session when there is none; fibers that come meanwhile wait for the first of them. */
int meta_session_ensure(struct meta *meta)
{
    meta_session_check(meta);
    if (meta->session)
        return 0;
    int r = fiber_mutex_lock(&meta->opening);
    if (r < 0)
        return r;
    if (!meta->session)
        r = session_open(meta);
    fiber_mutex_unlock(&meta->opening);
    if (r == 0)
        meta_keeper_start(meta);
    return r;
}

uint64_t meta_acked(const struct meta *meta)
{
    list_foreach(&meta->changes, it) {
        const struct change *change = list_entry(it, struct change, node);
        if (change->session == meta->session)
            return change->seq - 1;
    }
    return meta->last_seq;
}

static void ping(struct meta *meta, uint64_t interval_ms)
{
    uint64_t session = meta->session;
    Tarn__Ctx ctx = TARN__CTX__INIT;
    ctx.session = session;
    ctx.acked = meta_acked(meta);
    Tarn__SessionPing request = TARN__SESSION_PING__INIT;
    request.ctx = &ctx;
    struct leader_call c = {
        .op = OP_SESSION_PING,
        .request = &request.base,
        .reply_type = &tarn__session_ping_reply__descriptor,
        .session = session,
        .give_up_ms = interval_ms,
    };
    struct lease_ping lease;
    leases_ping_begin(meta->leases, &lease);
    int r = meta_leader_call(meta, &c);
    if (r == -E_NO_SESSION)
        meta_session_lost(meta, session, "the service has not heard of it in time");
    if (r < 0)
        return;
    meta_session_proved(meta, session, &c);
    if (session == meta->session)
        leases_ping_end(meta->leases, &lease, (const Tarn__SessionPingReply *)c.reply);
    protobuf_c_message_free_unpacked(c.reply, NULL);
}

static uint64_t keeper_interval(const struct meta *meta)
{
    uint64_t ms = MAX(meta->granted_ms / 3, 1u), leases_ms = leases_ping_ms(meta->leases);
    if (leases_ms != 0)
        ms = MIN(ms, leases_ms);
    return meta->waits.count || meta->watches ? MIN(ms, (uint64_t)PUSH_PING_MS) : ms;
}

/* A watch belongs to a connection. What changed before the new one watches is told as "something". */
static void watch_again(struct meta *meta)
{
    if (!meta->watches || meta->watched_epoch == meta->epoch)
        return;
    uint64_t epoch = meta->epoch;
    Tarn__Ctx ctx = TARN__CTX__INIT;
    ctx.session = meta->session;
    Tarn__Watch watch = TARN__WATCH__INIT;
    watch.ctx = &ctx;
    watch.jobs = true;
    struct leader_call c = {
        .op = OP_WATCH,
        .request = &watch.base,
        .give_up_ms = PUSH_PING_MS,
    };
    if (meta_leader_call(meta, &c) < 0)
        return; /* after the next ping again */
    meta->watched_epoch = epoch;
    if (meta->options.push) /* an empty message: job 0 */
        meta->options.push(meta->options.arg, OP_JOB_CHANGED, (const uint8_t *)"", 0);
}

/* After each change of the route and now and then: who takes part. So we find our way when all whom the configuration file names
 * have been replaced since. */
static void learn_members(struct meta *meta)
{
    uint64_t epoch = meta->epoch, now = io_mono_ms(meta->io);
    if (meta->learned_epoch == epoch && now < meta->learn_again_ms)
        return;
    Tarn__MetaStatus request = TARN__META_STATUS__INIT;
    struct leader_call c = {
        .op = OP_META_STATUS,
        .request = &request.base,
        .reply_type = &tarn__meta_status_reply__descriptor,
        .give_up_ms = PUSH_PING_MS,
    };
    int r = meta_leader_call(meta, &c);
    if (r < 0 && meta_worth_another_try(r))
        return; /* after the next ping again */
    meta->learned_epoch = epoch;
    meta->learn_again_ms = now + LEARN_MS;
    if (r < 0)
        return; /* one of the version before does not know the question */
    const Tarn__MetaStatusReply *status = (const Tarn__MetaStatusReply *)c.reply;
    for (size_t i = 0; i < status->n_members; i++)
        if (config_address_wrong(status->members[i]->address) == NULL)
            meta_peer_learn(meta, status, status->members[i]->address);
    protobuf_c_message_free_unpacked(c.reply, NULL);
}

static void keeper_run(void *arg)
{
    struct meta *meta = arg;
    while (!meta->closing && !io_stopping(meta->io)) {
        int r = meta_session_ensure(meta);
        if (r == -E_CANCELED)
            break;
        if (r == 0) {
            ping(meta, keeper_interval(meta));
            leases_reclaim(meta->leases);
            watch_again(meta);
            learn_members(meta);
            meta_session_check(meta);
        }
        if (meta->closing || (r == 0 && !meta->session))
            continue; /* lost in that ping: open the next one now */
        uint64_t wait_ms = r == 0 ? keeper_interval(meta) : PAUSE_MS_MAX;
        uint64_t now_ms = io_mono_ms(meta->io);
        if (r == 0) /* its end is not slept through */
            wait_ms = MIN(wait_ms, MAX(meta_session_until_ms(meta), now_ms + 1) - now_ms);
        if (fiber_queue_wait(&meta->keeper, wait_ms) == -E_CANCELED)
            break;
    }
    fiber_group_done(&meta->fibers);
}

void meta_keeper_start(struct meta *meta)
{
    if (meta->keeper_runs || meta->closing)
        return;
    fiber_group_add(&meta->fibers);
    if (fiber_spawn(meta->io, "meta-keeper", keeper_run, meta) < 0) {
        fiber_group_done(&meta->fibers); /* the next change tries again */
        return;
    }
    meta->keeper_runs = true;
}

void meta_session_last_words(struct meta *meta)
{
    if (!meta->session)
        return;
    Tarn__Ctx ctx = TARN__CTX__INIT;
    ctx.session = meta->session;
    ctx.seq = ++meta->last_seq;
    ctx.acked = meta_acked(meta);
    Tarn__SessionEnd end = TARN__SESSION_END__INIT;
    end.ctx = &ctx;
    end.session = meta->session;
    end.seal = true;
    struct leader_call c = {
        .op = OP_SESSION_END,
        .request = &end.base,
        .give_up_ms = END_MS,
        .last_words = true,
    };
    int r = meta_leader_call(meta, &c);
    if (r < 0)
        log_debug("session not ended (%s): it will time out", err_sentence(r));
}
