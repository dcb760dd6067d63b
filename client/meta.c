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
#include "meta_internal.h"

#include <stdio.h>

#define ATTEMPT_MS 5000      /* one try at one replica; a commit takes milliseconds */
#define PAUSE_MS_FIRST 10    /* doubles up to PAUSE_MS_MAX, each time between half and all of it */
#define HOPS_MAX 3           /* redirects followed in a row */
/* "Not enough servers" may be a leader that is just losing its followers, or a final answer (no store
 * is up): those who can do something else should learn of it soon. */
#define UNAVAIL_MS 3000
#define TIMEOUT_MS_DEFAULT 30000
#define GIVE_UP_MS_DEFAULT 30000

const struct meta_cred meta_root = {0};

/* ------------------------------------------------------------------ replicas */

/* Whoever waits for a push must make itself known again. */
static void route_changed(struct meta *meta)
{
    meta->epoch++;
    leases_route_changed(meta->leases);
    meta_waits_wake(meta);
    fiber_queue_wake_all(&meta->keeper);
}

static void peer_lost(void *arg)
{
    struct peer *peer = arg;
    struct meta *meta = peer->meta;
    if (peer == &meta->peers[meta->leader] && !meta->closing)
        route_changed(meta);
}

static void peer_push(void *arg, unsigned op, const uint8_t *control, size_t control_len)
{
    struct peer *peer = arg;
    struct meta *meta = peer->meta;
    CHECK_MAGIC(meta, META_MAGIC);
    if (op == OP_LOCK_GRANTED)
        meta_lock_granted(meta, control, control_len);
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
void meta_peer_learn(struct meta *meta, const Tarn__MetaStatusReply *status, const char *address)
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

bool meta_worth_another_try(int err)
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

int meta_leader_call(struct meta *meta, struct leader_call *c)
{
    uint64_t deadline = io_mono_ms(meta->io) + c->give_up_ms;
    uint64_t left_ms = c->give_up_ms;
    for (;;) {
        if (meta->closing && !c->last_words)
            return -E_CANCELED;
        meta_session_check(meta);
        if (c->session != 0 && c->session != meta->session)
            return -E_NO_SESSION;
        char leader[64] = "";
        unsigned asked = meta->leader;
        int r = attempt(meta, c, left_ms, leader);
        if (!meta_worth_another_try(r))
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
        meta_keeper_start(meta);
    *ret = meta;
    return 0;
}

void meta_disconnect(struct meta *meta)
{
    if (!meta)
        return;
    CHECK_MAGIC(meta, META_MAGIC);
    meta->closing = true;
    meta_waits_wake(meta);
    fiber_queue_wake_all(&meta->keeper);
    fiber_queue_wake_all(&meta->room);
    fiber_group_wait(&meta->fibers);
    meta_session_last_words(meta);
    meta_free(meta);
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
