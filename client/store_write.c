/* Changes of a chunk: sent to its primary, which carries them to the other members. Every one may be
 * repeated (same bytes at the same place), so failures are met the same way each time:
 *
 *   a member failed          → report it, go on with the rest under the new generation
 *   the primary is silent    → some seconds of tries, then report the primary
 *   the primary cannot store → report the primary
 *   a store knows a newer generation → ask for it; sealed meanwhile: the caller must refresh (-E_STALE)
 *
 * Several fibers change one chunk at a time (windows of a put). Only one of them reports; the others
 * find the extent's generation changed and repeat under it. Nothing of *extent is held across a wait. */
#include "store_internal.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <stdio.h>

/* A primary that forwards waits up to 8 s for a member: it must be able to say so. */
#define CHANGE_TIMEOUT_MS 15000
#define SILENT_MS 3000   /* a restarting store is back sooner */
#define BUSY_MS 30000    /* longer than any queue of a living store */
#define PAUSE_MS 20      /* plus up to as much again */
#define REPORTS_MAX 16   /* each takes a member away: more is no progress */
#define CHAIN_OVER KIB(64)

struct chunk_change {
    unsigned op;
    uint64_t session;        /* whose */
    uint64_t offset, length; /* CLONE: length only */
    const void *data;        /* PUT */
    uint32_t crcs[STORE_CRCS_MAX];
    size_t n_crcs;
    bool sync;
    uint64_t clone_of, clone_generation; /* CLONE */
};

/* A copy of the extent's members for one request. */
struct members {
    uint64_t chunk, generation;
    size_t n;
    Tarn__Member items[STORE_MEMBERS_MAX];
    Tarn__Member *pointers[STORE_MEMBERS_MAX];
    char addresses[STORE_MEMBERS_MAX][STORE_ADDRESS_MAX];
    char socket[STORE_ADDRESS_MAX]; /* of the primary when it is near, else empty */
};

static void members_from(const struct stores *stores, const Tarn__Extent *extent,
                         struct members *ret)
{
    ret->chunk = extent->chunk;
    ret->generation = extent->generation;
    ret->n = MIN(extent->n_replicas, (size_t)STORE_MEMBERS_MAX);
    ret->socket[0] = '\0';
    for (size_t i = 0; i < ret->n; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        tarn__member__init(&ret->items[i]);
        snprintf(ret->addresses[i], STORE_ADDRESS_MAX, "%s", replica->address);
        ret->items[i].disk = replica->disk;
        ret->items[i].address = ret->addresses[i];
        ret->pointers[i] = &ret->items[i];
    }
    if (ret->n > 0 && store_replica_has_socket(stores, extent->replicas[0]))
        snprintf(ret->socket, STORE_ADDRESS_MAX, "%s", extent->replicas[0]->local);
}

/* ------------------------------------------------------------------ one request */

union change_request {
    Tarn__ChunkPut put;
    Tarn__ChunkSync sync;
    Tarn__ChunkClone clone;
};

static void put_fill(Tarn__ChunkPut *put, struct members *m, struct chunk_change *change)
{
    tarn__chunk_put__init(put);
    put->chunk = m->chunk;
    put->generation = m->generation;
    put->offset = change->offset;
    put->length = change->length;
    put->n_crcs = change->n_crcs;
    put->crcs = change->crcs;
    put->n_members = m->n;
    put->members = m->pointers;
    put->session = change->session;
    put->flags = change->sync ? TARN__WRITE_FLAGS__WF_SYNC : 0;
    if (change->length > CHAIN_OVER)
        put->flags |= TARN__WRITE_FLAGS__WF_CHAIN;
}

static const ProtobufCMessage *request_fill(union change_request *request, struct members *m, struct chunk_change *change)
{
    switch (change->op) {
    case OP_CHUNK_PUT:
        put_fill(&request->put, m, change);
        return &request->put.base;
    case OP_CHUNK_SYNC:
        tarn__chunk_sync__init(&request->sync);
        request->sync.chunk = m->chunk;
        request->sync.generation = m->generation;
        request->sync.session = change->session;
        request->sync.n_members = m->n;
        request->sync.members = m->pointers;
        return &request->sync.base;
    default:
        CHECK(change->op == OP_CHUNK_CLONE);
        tarn__chunk_clone__init(&request->clone);
        request->clone.chunk = m->chunk;
        request->clone.generation = m->generation;
        request->clone.session = change->session;
        request->clone.from = change->clone_of;
        request->clone.from_generation = change->clone_generation;
        request->clone.length = change->length;
        request->clone.n_members = m->n;
        request->clone.members = m->pointers;
        return &request->clone.base;
    }
}

/* What came of one try. failed_disk: a member (or 0) that the primary could not reach. */
struct outcome {
    int err;
    uint32_t failed_disk;
    bool full; /* the disk that failed: nothing else is wrong with it */
    struct store_lives lives; /* of the members that took it; none: they do not tell (an older version) */
    char why[160];
};

static void change_send_to(struct stores *stores, const char *address, struct members *m,
                           struct chunk_change *change, struct outcome *ret)
{
    *ret = (struct outcome){.err = -E_NOMEM};
    struct store_peer *peer = store_peer_get(stores, address);
    if (!peer)
        return;
    union change_request request;
    struct iovec payload = {.iov_base = (void *)change->data, .iov_len = change->length};
    struct rpc_call call = {
        .op = change->op,
        .request = request_fill(&request, m, change),
        .epoch = change->session,
        .timeout_ms = CHANGE_TIMEOUT_MS,
        .reply_type = &tarn__chunk_put_reply__descriptor,
    };
    if (change->op == OP_CHUNK_PUT) {
        call.payload = &payload;
        call.n_payload = 1;
        call.payload_cells = true;
    }
    ret->err = rpc_call(peer->rpc, &call);
    const Tarn__ChunkPutReply *reply = (const Tarn__ChunkPutReply *)call.reply;
    if (ret->err == 0 && reply) {
        ret->failed_disk = reply->failed_disk;
        ret->full = reply->full;
        store_lives_note(&ret->lives, MIN(reply->n_disks, reply->n_lives), reply->disks, reply->lives);
        snprintf(ret->why, sizeof ret->why, "%s", reply->why);
    } else if (ret->err < 0) {
        ret->full = ret->err == -E_NOSPC;
        snprintf(ret->why, sizeof ret->why, "%s", call.detail[0] ? call.detail : err_sentence(ret->err));
    }
    rpc_call_fini(&call);
}

/* By the unix socket when there is one; by the address when that does not answer. */
static void change_send(struct stores *stores, struct members *m, struct chunk_change *change,
                        struct outcome *ret)
{
    if (m->socket[0]) {
        change_send_to(stores, m->socket, m, change, ret);
        if (ret->err != -E_CONN)
            return;
    }
    change_send_to(stores, m->addresses[0], m, change, ret);
}

/* ------------------------------------------------------------------ failures */

/* The reply's members and generation move into *extent; file offsets and clone stay. */
static void extent_renew(Tarn__Extent *extent, Tarn__Extent *from)
{
    size_t n = extent->n_replicas;
    Tarn__Replica **replicas = extent->replicas;
    extent->n_replicas = from->n_replicas;
    extent->replicas = from->replicas;
    from->n_replicas = n;
    from->replicas = replicas;
    extent->generation = from->generation;
    extent->state = from->state;
}

static int report(struct stores *stores, Tarn__Extent *extent, const struct members *m,
                  uint32_t disk, bool full, const char *why)
{
    Tarn__ChunkFailed failed = TARN__CHUNK_FAILED__INIT;
    failed.chunk = m->chunk;
    failed.generation = m->generation;
    failed.disk = disk;
    failed.why = (char *)why;
    failed.full = full;
    Tarn__ChunkReply *reply = NULL;
    int r = meta_call(stores->meta, OP_CHUNK_FAILED, &failed.base, &failed.ctx, &meta_root,
                      &tarn__chunk_reply__descriptor, &reply, NULL);
    if (disk)
        log_warn("chunk %llx generation %llu: disk %u does not store it (%s), reported: %s",
                 (unsigned long long)m->chunk, (unsigned long long)m->generation, disk, why,
                 r < 0 ? err_sentence(r) : "going on with the others");
    if (r < 0)
        return r;
    if (reply->extent && reply->extent->generation > m->generation)
        extent_renew(extent, reply->extent);
    else
        r = -E_STALE;
    tarn__chunk_reply__free_unpacked(reply, NULL);
    return r;
}

static int report_once(struct stores *stores, Tarn__Extent *extent, const struct members *m,
                       uint32_t disk, bool full, const char *why)
{
    int r = fiber_mutex_lock(&stores->failing);
    if (r < 0)
        return r;
    if (extent->generation == m->generation)
        r = report(stores, extent, m, disk, full, why);
    fiber_mutex_unlock(&stores->failing);
    return r;
}

static int pause_briefly(struct stores *stores)
{
    return io_sleep_ms(stores->io, PAUSE_MS + io_random_u64(stores->io) % PAUSE_MS);
}

/* True when the fault lies with the disk that was asked, not with the request or with us. */
static bool primary_is_at_fault(int err)
{
    return err == -E_IO || err == -E_NOSPC || err == -E_CORRUPT || err == -E_NOENT ||
           err == -E_TIMEOUT || err == -E_CONN || err == -E_UNAVAIL;
}

/* A store knows more than our extent: asks for how things are, by a report about no disk. */
static int renew(struct stores *stores, Tarn__Extent *extent, const struct members *m, unsigned op)
{
    int r = report_once(stores, extent, m, 0, false, "");
    if (r < 0)
        return r;
    bool still_open = extent->state == TARN__CHUNK_STATE__CHUNK_OPEN;
    return still_open || op == OP_CHUNK_SYNC ? 0 : -E_STALE;
}

/* 0: try again. silent_since is the time of the first unanswered try of this row, or 0. */
static int change_failed(struct stores *stores, Tarn__Extent *extent, const struct members *m,
                         unsigned op, const struct outcome *outcome, uint64_t *silent_since,
                         unsigned *reports)
{
    int err = outcome->err;
    uint64_t now = io_mono_ms(stores->io) + 1;
    if (extent->generation != m->generation)
        return 0; /* another fiber reported meanwhile */
    if (err == -E_STALE)
        return ++*reports > REPORTS_MAX ? err : renew(stores, extent, m, op);
    if (err == 0 || primary_is_at_fault(err)) {
        if (*silent_since == 0)
            *silent_since = now;
        if (err == -E_CONN && now < *silent_since + SILENT_MS)
            return pause_briefly(stores);
        if (++*reports > REPORTS_MAX)
            return -E_UNAVAIL;
        *silent_since = 0;
        uint32_t disk = err == 0 ? outcome->failed_disk : m->items[0].disk;
        int r = report_once(stores, extent, m, disk, outcome->full, outcome->why);
        return r == -E_UNAVAIL && err == -E_NOSPC ? err : r;
    }
    if (err == -E_BUSY || err == -E_NOMEM) {
        if (*silent_since == 0)
            *silent_since = now;
        return now < *silent_since + BUSY_MS ? pause_briefly(stores) : err;
    }
    return err;
}

/* ret_lives: of the members that have it. */
static int change_run(struct stores *stores, Tarn__Extent *extent, struct chunk_change *change, struct store_lives *ret_lives)
{
    struct members *m = malloc(sizeof *m);
    if (!m)
        return -E_NOMEM;
    uint64_t silent_since = 0;
    unsigned reports = 0;
    int r = 0;
    while (r == 0) {
        members_from(stores, extent, m);
        r = m->n == 0 ? -E_UNAVAIL : change->session != meta_session(stores->meta) ? -E_NO_SESSION : 0;
        if (r < 0)
            break;
        struct outcome outcome;
        change_send(stores, m, change, &outcome);
        if (outcome.err == 0 && outcome.failed_disk == 0) {
            *ret_lives = outcome.lives;
            break;
        }
        r = change_failed(stores, extent, m, change->op, &outcome, &silent_since, &reports);
    }
    free(m);
    if (r == -E_NO_SESSION)
        meta_session_refused(stores->meta, change->session);
    return r;
}

/* ------------------------------------------------------------------ the changes */

int stores_write(struct stores *stores, uint64_t session, Tarn__Extent *extent, uint64_t offset, const void *buf, size_t n,
                 bool sync, struct store_lives *lives)
{
    const uint8_t *at = buf;
    struct store_lives took;
    while (n > 0) {
        struct chunk_change change = {.op = OP_CHUNK_PUT, .session = session, .offset = offset, .data = at};
        change.sync = sync;
        change.length = MIN(n, (size_t)(STORE_WINDOW - offset % STORE_WINDOW));
        change.n_crcs = store_crcs(offset, at, change.length, change.crcs);
        int r = change_run(stores, extent, &change, &took);
        if (r < 0)
            return r;
        if (!sync && lives)
            store_lives_add(lives, &took);
        stores->counters.written += change.length;
        offset += change.length;
        at += change.length;
        n -= change.length;
    }
    return 0;
}

int stores_sync(struct stores *stores, uint64_t session, Tarn__Extent *extent, struct store_lives *lives)
{
    struct chunk_change change = {.op = OP_CHUNK_SYNC, .session = session};
    struct store_lives before = *lives, synced;
    *lives = (struct store_lives){0}; /* writes that come meanwhile are for the next sync */
    int r = change_run(stores, extent, &change, &synced);
    if (r < 0) {
        store_lives_add(lives, &before);
        return r;
    }
    if (store_lives_same(&before, &synced))
        return 0;
    log_warn("chunk %llx: a store that was written to has lost power before the bytes were on its disk: they may be gone",
             (unsigned long long)extent->chunk);
    return -E_IO;
}

/* The content goes through this client. Written in windows and synced once: a member that loses power in between is found out by
 * its life (C22), so that nothing is put in place that is not on its disks (C19). */
static int clone_copy(struct stores *stores, uint64_t session, Tarn__Extent *extent, const Tarn__Extent *source)
{
    struct store_lives lives = {0};
    _cleanup_free_ uint8_t *window = malloc(STORE_WINDOW);
    if (!window)
        return -E_NOMEM;
    int r = 0;
    for (uint64_t at = 0; at < extent->clone_length && r == 0;) {
        size_t n = (size_t)MIN(extent->clone_length - at, STORE_WINDOW);
        r = stores_read(stores, source, source->chunk_offset + at, window, n);
        if (r == 0)
            r = stores_write(stores, session, extent, extent->chunk_offset + at, window, n, false, &lives);
        at += n;
    }
    return r < 0 || extent->clone_length == 0 ? r : stores_sync(stores, session, extent, &lives);
}

int stores_clone(struct stores *stores, uint64_t session, Tarn__Extent *extent, const Tarn__Extent *source)
{
    CHECK(extent->clone_of != 0);
    if (source)
        return clone_copy(stores, session, extent, source);
    struct chunk_change change = {
        .op = OP_CHUNK_CLONE,
        .session = session,
        .length = extent->clone_length,
        .clone_of = extent->clone_of,
        .clone_generation = extent->clone_generation,
    };
    struct store_lives took; /* all of it is on their disks */
    return change_run(stores, extent, &change, &took);
}
