/* How a call finds its way:
 *
 *   meta_call ── change? ── session_ensure ── seq ──┐
 *        └────── query ─────────────────────────────┴─ leader_call ── rpc_call ── answer
 *                                                         ▲  │ not leader, no connection, busy
 *                                                         └──┘ other replica, pause, same seq
 *
 * The keeper fiber opens the session (at the first change, or at once when pushes are wanted), sends
 * signs of life and opens a new one after a loss. A lock that waits is a fiber on its own queue: it
 * is woken by the grant, by a lost connection (it asks again: the new leader must know where to push
 * to), by the end of the session and by meta_lock_interrupt(). */
#include "meta.h"

#include "lease_internal.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"

#include <stdio.h>

#define META_MAGIC 0x4d657461u
/* The configured replicas and as many more as redirects have ever named. */
#define PEERS_MAX (CONFIG_META_MAX + 3)
/* Under RPC_CONN_REQUESTS_MAX (256) with room for pings, session calls and asked-again locks. */
#define CALLS_MAX 192
#define TIMEOUT_MS_DEFAULT 30000
#define GIVE_UP_MS_DEFAULT 30000
#define ATTEMPT_MS 5000      /* one try at one replica; a commit takes milliseconds */
#define PAUSE_MS_FIRST 10    /* doubles up to PAUSE_MS_MAX, each time between half and all of it */
#define PAUSE_MS_MAX 500
#define HOPS_MAX 3           /* redirects followed in a row */
#define PUSH_PING_MS 1000    /* while a push is waited for: a silent change of leader is noticed this soon */
#define LEARN_MS 5000        /* members may have changed while the leader stayed */
#define LOCK_ASK_AGAIN_MS 15000 /* a grant whose push was dropped is found this soon */
/* "Not enough servers" may be a leader that is just losing its followers, or a final answer (no store
 * is up): those who can do something else should learn of it soon. */
#define UNAVAIL_MS 3000
#define CLOCK_MARGIN 16 /* our clock may run a 16th slower than the service's: then a session still ends here first */
#define END_MS 2000          /* the last words of a client; without them the session times out */

struct peer {
    struct meta *meta;
    struct rpc_client *rpc;
};

struct meta {
    uint32_t magic;
    struct io *io;
    const struct config *config;
    char name[96];
    struct meta_options options;
    struct peer peers[PEERS_MAX];
    unsigned n_peers, leader;
    uint64_t epoch; /* grows with each lost connection and change of leader */

    uint64_t session;
    uint8_t uuid[16]; /* of the session being opened: the same in each try */
    bool uuid_set;
    uint32_t granted_ms;
    uint64_t proved_ms;    /* when the last request of the session that was answered was sent */
    unsigned files, locked; /* open in it */
    uint64_t last_seq;
    struct list changes; /* struct change, by seq within a session */
    struct fiber_mutex opening;

    bool keeper_runs, closing;
    struct fiber_queue keeper;
    struct fiber_group fibers; /* keeper, calls and waits */
    unsigned calls;
    struct fiber_queue room;

    bool watches;           /* OP_WATCH is in force, asked for in this epoch */
    uint64_t watched_epoch;
    uint64_t learned_epoch, learn_again_ms; /* who takes part was asked for in this epoch, and is again then */

    struct leases *leases;

    struct map waits; /* waiter → struct lock_wait */
    uint64_t last_waiter;
};

/* One change under way: keeps `acked` below its number. */
struct change {
    struct list node;
    uint64_t session, seq;
};

struct lock_wait {
    uint64_t waiter, session;
    bool granted, interrupted;
    int status;
    struct fiber_queue queue;
};

/* One call to whoever leads. session: the call is only right in this one (0 = any). */
struct leader_call {
    unsigned op;
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *reply_type;
    uint64_t session, give_up_ms;
    uint64_t sent_ms; /* the last try */
    bool last_words; /* also goes out while closing */
    ProtobufCMessage *reply;
    char *detail;
    rpc_part_fn part; /* NULL: one reply */
    uint64_t heard_ms; /* of the last part: looking for a leader begins anew there */
    unsigned tries, hops, hinted_by; /* hinted_by: who gave the first of the redirects followed last */
    uint64_t pause_ms;
};

const struct meta_cred meta_root = {0};

static void keeper_start(struct meta *meta);
static void session_check(struct meta *meta);

/* ------------------------------------------------------------------ replicas */

static void waits_wake(struct meta *meta)
{
    size_t at = 0;
    uint64_t waiter;
    void *value;
    while (map_next(&meta->waits, &at, &waiter, &value))
        fiber_queue_wake_all(&((struct lock_wait *)value)->queue);
}

/* Whoever waits for a push must make itself known again. */
static void route_changed(struct meta *meta)
{
    meta->epoch++;
    leases_route_changed(meta->leases);
    waits_wake(meta);
    fiber_queue_wake_all(&meta->keeper);
}

static void peer_lost(void *arg)
{
    struct peer *peer = arg;
    struct meta *meta = peer->meta;
    if (peer == &meta->peers[meta->leader] && !meta->closing)
        route_changed(meta);
}

static void lock_granted(struct meta *meta, const uint8_t *control, size_t control_len)
{
    Tarn__LockGranted *grant = tarn__lock_granted__unpack(NULL, control_len, control);
    if (!grant)
        return;
    struct lock_wait *wait = map_get(&meta->waits, grant->waiter);
    if (wait) {
        wait->granted = true;
        wait->status = err_from_wire(grant->status);
        fiber_queue_wake_all(&wait->queue);
    }
    tarn__lock_granted__free_unpacked(grant, NULL);
}

static void peer_push(void *arg, unsigned op, const uint8_t *control, size_t control_len)
{
    struct peer *peer = arg;
    struct meta *meta = peer->meta;
    CHECK_MAGIC(meta, META_MAGIC);
    if (op == OP_LOCK_GRANTED)
        lock_granted(meta, control, control_len);
    else if (op == OP_LEASE_RECALLED)
        leases_push(meta->leases, meta->session, control, control_len);
    else if (meta->options.push)
        meta->options.push(meta->options.arg, op, control, control_len);
}

static int peer_add(struct meta *meta, const char *address)
{
    if (meta->n_peers == PEERS_MAX)
        return -E_NOMEM;
    struct peer *peer = &meta->peers[meta->n_peers];
    peer->meta = meta;
    peer->rpc = rpc_client_create(meta->io, address, &meta->config->auth);
    if (!peer->rpc)
        return -E_NOMEM;
    rpc_client_on_push(peer->rpc, peer_push, peer_lost, peer);
    meta->n_peers++;
    return 0;
}

/* Index of the replica at this address, made when new; -1 when there is no room. */
static int peer_find(struct meta *meta, const char *address)
{
    for (unsigned i = 0; i < meta->n_peers; i++)
        if (strcmp(rpc_client_address(meta->peers[i].rpc), address) == 0)
            return (int)i;
    return peer_add(meta, address) < 0 ? -1 : (int)meta->n_peers - 1;
}

/* A place for another address: a new one, or that of a replica nobody names any more. */
static void peer_learn(struct meta *meta, const Tarn__MetaStatusReply *status, const char *address)
{
    if (peer_find(meta, address) >= 0 || meta->n_peers < PEERS_MAX)
        return;
    for (unsigned i = 0; i < meta->n_peers; i++) {
        bool named = i == meta->leader;
        for (size_t j = 0; j < status->n_members; j++)
            named |= strcmp(rpc_client_address(meta->peers[i].rpc), status->members[j]->address) == 0;
        struct rpc_client *rpc = named ? NULL : rpc_client_create(meta->io, address, &meta->config->auth);
        if (rpc == NULL)
            continue;
        rpc_client_destroy(meta->peers[i].rpc); /* a call under way fails and goes elsewhere */
        meta->peers[i].rpc = rpc;
        rpc_client_on_push(rpc, peer_push, peer_lost, &meta->peers[i]);
        return;
    }
}

static void leader_set(struct meta *meta, unsigned index)
{
    if (meta->leader == index)
        return;
    meta->leader = index;
    route_changed(meta);
}

/* ------------------------------------------------------------------ one call, until it is answered */

static bool worth_another_try(int err)
{
    return err == -E_NOT_LEADER || err == -E_CONN || err == -E_TIMEOUT || err == -E_UNAVAIL ||
           err == -E_BUSY || err == -E_NOMEM;
}

/* Decides where the next try goes; true when it should go there without a pause. */
static bool retry_where(struct meta *meta, struct leader_call *c, unsigned asked, int err,
                        const char *leader)
{
    c->tries++;
    if (err == -E_NOT_LEADER && leader[0] && c->hops < HOPS_MAX) {
        int index = peer_find(meta, leader);
        if (index >= 0 && (unsigned)index != asked) {
            if (c->hops++ == 0)
                c->hinted_by = asked;
            leader_set(meta, (unsigned)index);
            return true;
        }
    }
    if (err != -E_NOT_LEADER && err != -E_CONN && err != -E_TIMEOUT)
        return false;
    /* A redirect may be old: from a server that was removed and has not heard of it, to one that is gone. Where it leads
     * nowhere, the search goes on behind the one that gave it, or it would meet the same two for ever. */
    unsigned from = c->hops > 0 ? c->hinted_by : asked;
    c->hops = 0;
    if (meta->leader != asked)
        return true; /* another fiber found a better one meanwhile */
    leader_set(meta, (from + 1) % meta->n_peers);
    return c->tries % meta->n_peers != 0;
}

static int retry_pause(struct meta *meta, struct leader_call *c)
{
    c->pause_ms = c->pause_ms ? MIN(c->pause_ms * 2, (uint64_t)PAUSE_MS_MAX) : PAUSE_MS_FIRST;
    uint64_t half = c->pause_ms / 2;
    return io_sleep_ms(meta->io, half + io_random_u64(meta->io) % (half + 1));
}

static int attempt(struct meta *meta, struct leader_call *c, uint64_t left_ms, char leader[64])
{
    struct rpc_call call = {
        .op = c->op,
        .request = c->request,
        .epoch = meta->session,
        .timeout_ms = MAX(MIN(left_ms, (uint64_t)ATTEMPT_MS), (uint64_t)1),
        .reply_type = c->reply_type,
        .part = c->part,
        .part_arg = c,
    };
    c->sent_ms = io_mono_ms(meta->io);
    int r = rpc_call(meta->peers[meta->leader].rpc, &call);
    if (r == 0)
        c->reply = take_ptr(call.reply);
    else if (c->detail && call.detail[0])
        memcpy(c->detail, call.detail, sizeof call.detail);
    memcpy(leader, call.leader, sizeof call.leader);
    rpc_call_fini(&call);
    return r;
}

static int leader_call(struct meta *meta, struct leader_call *c)
{
    uint64_t deadline = io_mono_ms(meta->io) + c->give_up_ms;
    uint64_t left_ms = c->give_up_ms;
    for (;;) {
        if (meta->closing && !c->last_words)
            return -E_CANCELED;
        session_check(meta);
        if (c->session != 0 && c->session != meta->session)
            return -E_NO_SESSION;
        char leader[64] = "";
        unsigned asked = meta->leader;
        int r = attempt(meta, c, left_ms, leader);
        if (!worth_another_try(r))
            return r;
        bool at_once = retry_where(meta, c, asked, r, leader);
        uint64_t now = io_mono_ms(meta->io);
        deadline = MAX(deadline, c->heard_ms + c->give_up_ms);
        if (r == -E_UNAVAIL && now + c->give_up_ms >= deadline + UNAVAIL_MS)
            return r;
        if (now >= deadline)
            return r == -E_BUSY || r == -E_NOMEM ? r : -E_UNAVAIL;
        if (!at_once) {
            r = retry_pause(meta, c);
            if (r < 0)
                return r;
        }
        left_ms = deadline - MIN(deadline, io_mono_ms(meta->io));
    }
}

/* ------------------------------------------------------------------ the session */

static void session_lost(struct meta *meta, uint64_t session, const char *why)
{
    if (session == 0 || meta->session != session)
        return;
    log_warn("%s: session %llx with the metadata service has ended (%s): %u open files must be opened again, locks were taken through %u of them",
             meta->name, (unsigned long long)session, why, meta->files, meta->locked);
    meta->session = 0;
    meta->files = meta->locked = 0;
    leases_session_lost(meta->leases);
    waits_wake(meta);
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

static void session_check(struct meta *meta)
{
    if (meta->session != meta_session(meta))
        session_lost(meta, meta->session, "the service did not answer in all its time");
}

void meta_session_refused(struct meta *meta, uint64_t session)
{
    session_lost(meta, session, "a store refuses it");
}

/* An answer shows that the service heard the session not before the request was sent. */
static void session_proved(struct meta *meta, uint64_t session, const struct leader_call *c)
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
    int r = leader_call(meta, &c);
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
static int session_ensure(struct meta *meta)
{
    session_check(meta);
    if (meta->session)
        return 0;
    int r = fiber_mutex_lock(&meta->opening);
    if (r < 0)
        return r;
    if (!meta->session)
        r = session_open(meta);
    fiber_mutex_unlock(&meta->opening);
    if (r == 0)
        keeper_start(meta);
    return r;
}

static uint64_t acked(const struct meta *meta)
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
    ctx.acked = acked(meta);
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
    int r = leader_call(meta, &c);
    if (r == -E_NO_SESSION)
        session_lost(meta, session, "the service has not heard of it in time");
    if (r < 0)
        return;
    session_proved(meta, session, &c);
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
    if (leader_call(meta, &c) < 0)
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
    int r = leader_call(meta, &c);
    if (r < 0 && worth_another_try(r))
        return; /* after the next ping again */
    meta->learned_epoch = epoch;
    meta->learn_again_ms = now + LEARN_MS;
    if (r < 0)
        return; /* one of the version before does not know the question */
    const Tarn__MetaStatusReply *status = (const Tarn__MetaStatusReply *)c.reply;
    for (size_t i = 0; i < status->n_members; i++)
        if (config_address_wrong(status->members[i]->address) == NULL)
            peer_learn(meta, status, status->members[i]->address);
    protobuf_c_message_free_unpacked(c.reply, NULL);
}

static void keeper_run(void *arg)
{
    struct meta *meta = arg;
    while (!meta->closing && !io_stopping(meta->io)) {
        int r = session_ensure(meta);
        if (r == -E_CANCELED)
            break;
        if (r == 0) {
            ping(meta, keeper_interval(meta));
            leases_reclaim(meta->leases);
            watch_again(meta);
            learn_members(meta);
            session_check(meta);
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

static void keeper_start(struct meta *meta)
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

/* ------------------------------------------------------------------ life */

static void name_set(struct meta *meta, const char *name)
{
    snprintf(meta->name, sizeof meta->name, "%s", name ? name : "");
    meta->options.name = meta->name;
}

static void meta_free(struct meta *meta)
{
    for (unsigned i = 0; i < meta->n_peers; i++)
        rpc_client_destroy(meta->peers[i].rpc);
    leases_destroy(meta->leases);
    map_fini(&meta->waits);
    meta->magic = 0;
    free(meta);
}

int meta_connect(struct io *io, const struct config *config, const struct meta_options *options,
                 struct meta **ret)
{
    if (config->n_meta == 0 || config->n_meta > CONFIG_META_MAX)
        return -E_INVAL;
    struct meta *meta = calloc(1, sizeof *meta);
    if (!meta)
        return -E_NOMEM;
    meta->magic = META_MAGIC;
    meta->io = io;
    meta->config = config;
    if (options)
        meta->options = *options;
    name_set(meta, meta->options.name);
    if (!meta->options.timeout_ms)
        meta->options.timeout_ms = TIMEOUT_MS_DEFAULT;
    if (!meta->options.give_up_ms)
        meta->options.give_up_ms = GIVE_UP_MS_DEFAULT;
    list_init(&meta->changes);
    meta->learned_epoch = UINT64_MAX;
    meta->leases = leases_create(meta);
    if (!meta->leases) {
        meta_free(meta);
        return -E_NOMEM;
    }
    for (unsigned i = 0; i < config->n_meta; i++) {
        int r = peer_add(meta, config->meta[i]);
        if (r < 0) {
            meta_free(meta);
            return r;
        }
    }
    meta->leader = (unsigned)(io_random_u64(io) % meta->n_peers);
    if (meta->options.push)
        keeper_start(meta);
    *ret = meta;
    return 0;
}

static void session_end(struct meta *meta)
{
    if (!meta->session)
        return;
    Tarn__Ctx ctx = TARN__CTX__INIT;
    ctx.session = meta->session;
    ctx.seq = ++meta->last_seq;
    ctx.acked = acked(meta);
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
    int r = leader_call(meta, &c);
    if (r < 0)
        log_debug("session not ended (%s): it will time out", err_sentence(r));
}

void meta_disconnect(struct meta *meta)
{
    if (!meta)
        return;
    CHECK_MAGIC(meta, META_MAGIC);
    meta->closing = true;
    waits_wake(meta);
    fiber_queue_wake_all(&meta->keeper);
    fiber_queue_wake_all(&meta->room);
    fiber_group_wait(&meta->fibers);
    session_end(meta);
    meta_free(meta);
}

/* ------------------------------------------------------------------ calls of the user */

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
    session_check(meta);
    int r = session == 0 ? session_ensure(meta) : session != meta->session ? -E_NO_SESSION : 0;
    if (r < 0)
        return r;
    struct change change = {.session = meta->session, .seq = ++meta->last_seq};
    list_append(&meta->changes, &change.node);
    ctx->session = change.session;
    ctx->seq = change.seq;
    ctx->acked = acked(meta);
    c->session = change.session;
    r = leader_call(meta, c);
    list_remove(&change.node);
    if (r == 0)
        session_proved(meta, change.session, c);
    else if (r == -E_NO_SESSION)
        session_lost(meta, change.session, "the service has not heard of it in time");
    session_check(meta);
    if (r == 0 && meta->session != change.session) {
        if (c->reply)
            protobuf_c_message_free_unpacked(take_ptr(c->reply), NULL);
        return -E_NO_SESSION; /* the answer came when what it gives was lost already */
    }
    return r;
}

static int call_query(struct meta *meta, struct leader_call *c, Tarn__Ctx *ctx)
{
    session_check(meta);
    ctx->session = meta->session;
    int r = leader_call(meta, c);
    if (r == 0)
        session_proved(meta, ctx->session, c);
    if (r != -E_NO_SESSION || ctx->session == 0)
        return r;
    session_lost(meta, ctx->session, "the service has not heard of it in time");
    ctx->session = 0;
    return leader_call(meta, c);
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

struct leases *meta_leases(struct meta *meta)
{
    return meta->leases;
}

struct io *meta_io(struct meta *meta)
{
    return meta->io;
}

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

int meta_session_ensure(struct meta *meta)
{
    return session_ensure(meta);
}

void meta_keeper_wake(struct meta *meta)
{
    fiber_queue_wake_all(&meta->keeper);
}

int meta_spawn(struct meta *meta, const char *name, fiber_fn fn, void *arg)
{
    fiber_group_add(&meta->fibers);
    int r = fiber_spawn(meta->io, name, fn, arg);
    if (r < 0)
        fiber_group_done(&meta->fibers);
    return r;
}

void meta_fiber_done(struct meta *meta)
{
    fiber_group_done(&meta->fibers);
}

bool meta_closing(const struct meta *meta)
{
    return meta->closing || io_stopping(meta->io);
}

/* ------------------------------------------------------------------ locks */

uint64_t meta_lock_waiter(struct meta *meta)
{
    return ++meta->last_waiter;
}

static int lock_ask(struct meta *meta, uint64_t session, Tarn__Lock *ask, const struct meta_cred *cred, bool *granted)
{
    Tarn__LockReply *reply = NULL;
    if (ask->want_delegation)
        lease_lock_asking(meta->leases, ask);
    int r = meta_call_in(meta, session, OP_LOCK, &ask->base, &ask->ctx, cred, &tarn__lock_reply__descriptor,
                      &reply, NULL);
    int kept = ask->want_delegation ? lease_lock_asked(meta->leases, session, ask, r < 0 ? NULL : reply) : 0;
    if (r < 0)
        return r;
    *granted = reply->granted;
    bool queued = reply->queued;
    tarn__lock_reply__free_unpacked(reply, NULL);
    if (kept < 0)
        return kept;
    return *granted || queued ? 0 : -E_WOULDBLOCK;
}

/* Takes the request out of the queue. 0: the grant came first and is kept. */
static int lock_give_up(struct meta *meta, uint64_t session, const Tarn__Lock *lock, const struct meta_cred *cred)
{
    Tarn__LockCancel cancel = TARN__LOCK_CANCEL__INIT;
    cancel.ino = lock->ino;
    cancel.waiter = lock->waiter;
    Tarn__LockReply *reply = NULL;
    int r = meta_call_in(meta, session, OP_LOCK_CANCEL, &cancel.base, &cancel.ctx, cred,
                      &tarn__lock_reply__descriptor, &reply, NULL);
    if (r < 0)
        return r;
    bool granted = reply->granted;
    tarn__lock_reply__free_unpacked(reply, NULL);
    return granted ? 0 : -E_INTR;
}

static bool lock_undecided(const struct meta *meta, const struct lock_wait *wait, uint64_t epoch)
{
    return !wait->granted && !wait->interrupted && !meta->closing && meta->epoch == epoch &&
           meta->session == wait->session;
}

static int lock_wait_run(struct meta *meta, struct lock_wait *wait, Tarn__Lock *ask,
                         const struct meta_cred *cred)
{
    for (;;) {
        uint64_t epoch = meta->epoch;
        bool granted = false;
        int r = lock_ask(meta, wait->session, ask, cred, &granted);
        if (r < 0 || granted)
            return r;
        fiber_queue_wake_all(&meta->keeper); /* it now pings more often */
        r = 0;
        while (r == 0 && lock_undecided(meta, wait, epoch))
            r = fiber_queue_wait(&wait->queue, LOCK_ASK_AGAIN_MS);
        session_check(meta);
        if (meta->session != wait->session)
            return -E_NO_SESSION; /* also when it was granted: what was granted is lost */
        if (wait->granted)
            return wait->status;
        if (meta->closing || r == -E_CANCELED)
            return -E_CANCELED;
        if (wait->interrupted)
            return lock_give_up(meta, wait->session, ask, cred);
    }
}

int meta_lock(struct meta *meta, const Tarn__Lock *lock, const struct meta_cred *cred)
{
    return meta_lock_in(meta, 0, lock, cred);
}

int meta_lock_in(struct meta *meta, uint64_t session, const Tarn__Lock *lock, const struct meta_cred *cred)
{
    Tarn__Lock ask = *lock;
    if (!ask.wait) {
        bool granted;
        return lock_ask(meta, session, &ask, cred, &granted);
    }
    struct lock_wait wait = {.waiter = ask.waiter};
    CHECK(wait.waiter != 0 && !map_get(&meta->waits, wait.waiter));
    int r = map_put(&meta->waits, wait.waiter, &wait); /* before any wait: from now on it can be interrupted */
    if (r < 0)
        return r;
    fiber_group_add(&meta->fibers);
    r = session_ensure(meta);
    wait.session = session != 0 ? session : meta->session;
    if (r == 0)
        r = wait.interrupted ? -E_INTR : lock_wait_run(meta, &wait, &ask, cred);
    map_remove(&meta->waits, wait.waiter);
    fiber_group_done(&meta->fibers);
    return r;
}

void meta_lock_interrupt(struct meta *meta, uint64_t waiter)
{
    struct lock_wait *wait = map_get(&meta->waits, waiter);
    if (!wait)
        return;
    wait->interrupted = true;
    fiber_queue_wake_all(&wait->queue);
}
