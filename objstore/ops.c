/* The requests. Every change goes the same way: may it be made (change.h), bounds, hold the cells, refuse what
 * is stale or was fenced meanwhile, send it on to the other members and carry it out here at the same time, answer
 * when all have it. Each may be repeated with the same effect. */
#include "ops.h"

#include "background.h"
#include "change.h"
#include "forward.h"
#include "get.h"
#include "handover.h"
#include "put.h"
#include "rebuild.h"
#include "scrub.h"
#include "store.h"
#include "verify.h"
#include "common/err.h"
#include "proto/ops.h"

/* Another store's background read waits so long for its turn; the store gives it up after 5 s. */
#define YIELD_MS 2000

static int enter(struct store *s)
{
    if (s->requests >= STORE_REQUESTS_MAX)
        return -E_BUSY;
    s->requests++;
    return 0;
}

static void leave(struct store *s)
{
    s->requests--;
}

/* What a client felt of this store, as far as it can tell: its own network is not counted. */
static void served(struct store *s, const struct rpc_request *request, bool write, uint64_t bytes)
{
    uint64_t now = io_mono_ns(s->io);
    pace_served(&s->pace, now, pace_kind_of(write, bytes), now - MIN(now, request->received_ns));
}

/* Nothing is sent on when the chunk here already refuses it. */
static int refuse_stale(const struct chunk *c, uint64_t generation)
{
    if ((c->flags & (CHUNK_SEALED | CHUNK_PARTIAL)) != 0 || generation < c->generation)
        return -E_STALE;
    return 0;
}

/* Of a change: the first member is this store. */
static int volume_of(const struct store *s, uint64_t chunk, Tarn__Member *const *members, size_t n_members, struct volume **ret)
{
    return store_volume(s, n_members > 0 ? members[0]->disk : 0, chunk, ret);
}

static int answer(struct rpc_request *request, int err, Tarn__ChunkPutReply *reply)
{
    return err != 0 ? err : rpc_reply(request, &reply->base);
}

/* ------------------------------------------------------------------ put */
static int put_held(struct change *change, struct rpc_request *request, const Tarn__ChunkPut *m, struct volume *v, const struct put *put)
{
    struct store *s = change->store;
    struct held held;
    struct iovec payload = {request->payload, request->payload_len};
    struct forward forward;
    Tarn__ChunkPutReply reply = TARN__CHUNK_PUT_REPLY__INIT;
    int err = store_hold_bytes(v, m->chunk, true, put->offset, put->length, true, &held);
    if (err != 0)
        return err;
    err = change_may_go(change, held.chunk);
    if (err == 0)
        err = refuse_stale(held.chunk, m->generation);
    if (err == 0)
        err = forward_start(&forward, s, v, OP_CHUNK_PUT, m, m->members, m->n_members, (m->flags & TARN__WRITE_FLAGS__WF_CHAIN) != 0,
                            request->epoch, &payload);
    if (err == 0) {
        int mine = put_bytes(v, held.chunk, put);
        int forwarded = forward_wait(&forward, &reply);
        int verdict = change_verdict(change, held.chunk, mine == 0);
        err = verdict != 0 ? verdict : mine != 0 ? mine : forwarded;
    }
    reply.length = held.chunk->length;
    store_release(&held);
    return answer(request, err, &reply);
}

static int handle_put(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkPut *m = message;
    struct put put = {.generation = m->generation, .offset = m->offset, .length = request->payload_len,
                      .data = request->payload, .crcs = m->crcs, .n_crcs = m->n_crcs,
                      .sync = (m->flags & TARN__WRITE_FLAGS__WF_SYNC) != 0};
    struct change change;
    int err = change_begin(&change, s, request, m->session, m->forwarded);
    if (err != 0)
        return err;
    struct volume *v;
    err = m->length == request->payload_len ? put_check(&put) : -E_INVAL;
    if (err == 0)
        err = volume_of(s, m->chunk, m->members, m->n_members, &v);
    if (err == 0)
        err = volume_refuses(v, m->chunk);
    if (err == 0)
        err = enter(s);
    if (err == 0) {
        err = put_held(&change, request, m, v, &put);
        s->counters.bytes_written += err == 0 ? put.length : 0;
        served(s, request, true, put.length);
        leave(s);
    }
    change_end(&change);
    return err;
}

/* ------------------------------------------------------------------ sync, truncate */
static int sync_chunk(struct change *change, struct rpc_request *request, const Tarn__ChunkSync *m, struct volume *v, const struct chunk *c)
{
    struct store *s = change->store;
    struct forward forward;
    Tarn__ChunkPutReply reply = TARN__CHUNK_PUT_REPLY__INIT;
    int err = chunk_is_real(c) ? c->broken : -E_NOENT;
    if (err == 0)
        err = volume_refuses(v, m->chunk);
    if (err == 0 && m->generation < c->generation)
        err = -E_STALE;
    if (err == 0)
        err = forward_start(&forward, s, v, OP_CHUNK_SYNC, m, m->members, m->n_members, false, request->epoch, NULL);
    if (err == 0) {
        err = journal_sync(v->journal);
        int forwarded = forward_wait(&forward, &reply);
        if (err == 0)
            err = forwarded;
        reply.length = c->length;
    }
    if (err == 0 && fences_late(&s->fences, &change->op))
        err = -E_NO_SESSION;
    return answer(request, err, &reply);
}

static int handle_sync(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkSync *m = message;
    struct change change;
    int err = change_begin(&change, s, request, m->session, m->forwarded);
    if (err != 0)
        return err;
    struct volume *v;
    err = volume_of(s, m->chunk, m->members, m->n_members, &v);
    struct chunk *c = err == 0 ? index_get(&v->index, m->chunk) : NULL;
    if (c != NULL) {
        err = sync_chunk(&change, request, m, v, c);
        chunk_unref(&v->index, c);
    } else if (err == 0) {
        err = -E_NOENT;
    }
    change_end(&change);
    return err;
}

static int truncate_held(struct change *change, struct rpc_request *request, const Tarn__ChunkTruncate *m, struct volume *v)
{
    struct store *s = change->store;
    struct held held;
    struct forward forward;
    Tarn__ChunkPutReply reply = TARN__CHUNK_PUT_REPLY__INIT;
    int err = store_hold_all(v, m->chunk, true, true, &held);
    if (err != 0)
        return err;
    err = change_may_go(change, held.chunk);
    if (err == 0)
        err = refuse_stale(held.chunk, m->generation);
    if (err == 0)
        err = forward_start(&forward, s, v, OP_CHUNK_TRUNCATE, m, m->members, m->n_members, false, request->epoch, NULL);
    if (err == 0) {
        int mine = put_truncate(v, held.chunk, m->generation, m->length);
        int forwarded = forward_wait(&forward, &reply);
        int verdict = change_verdict(change, held.chunk, mine == 0);
        err = verdict != 0 ? verdict : mine != 0 ? mine : forwarded;
    }
    reply.length = held.chunk->length;
    store_release(&held);
    return answer(request, err, &reply);
}

static int handle_truncate(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkTruncate *m = message;
    struct change change;
    int err = change_begin(&change, s, request, m->session, m->forwarded);
    if (err != 0)
        return err;
    struct volume *v;
    err = m->length <= CHUNK_BYTES_MAX ? volume_of(s, m->chunk, m->members, m->n_members, &v) : -E_INVAL;
    if (err == 0)
        err = volume_refuses(v, m->chunk);
    if (err == 0)
        err = truncate_held(&change, request, m, v);
    change_end(&change);
    return err;
}

/* ------------------------------------------------------------------ clone */
/* Nobody sees a clone before the session has put it in its place (CHUNK_SWAP): one that comes too late is given back. */
static int clone(struct change *change, struct rpc_request *request, const Tarn__ChunkClone *m, struct volume *v)
{
    struct store *s = change->store;
    struct forward forward;
    Tarn__ChunkPutReply reply = TARN__CHUNK_PUT_REPLY__INIT;
    int err = forward_start(&forward, s, v, OP_CHUNK_CLONE, m, m->members, m->n_members, false, request->epoch, NULL);
    if (err != 0)
        return err;
    err = rebuild_clone(v, m->chunk, m->generation, m->from, m->length);
    int forwarded = forward_wait(&forward, &reply);
    if (err == 0)
        err = forwarded;
    if (err == 0 && fences_late(&s->fences, &change->op))
        err = -E_NO_SESSION;
    reply.length = m->length;
    return answer(request, err, &reply);
}

static int handle_clone(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkClone *m = message;
    struct change change;
    int err = change_begin(&change, s, request, m->session, m->forwarded);
    if (err != 0)
        return err;
    struct volume *v;
    err = m->length <= CHUNK_BYTES_MAX && m->chunk != m->from ? volume_of(s, m->from, m->members, m->n_members, &v) : -E_INVAL;
    if (err == 0)
        err = volume_refuses(v, m->chunk);
    if (err == 0)
        err = volume_refuses(v, m->from) == -E_BUSY ? -E_BUSY : 0; /* the swap may have removed it: this is a repetition */
    if (err == 0)
        err = enter(s);
    if (err == 0) {
        err = clone(&change, request, m, v);
        leave(s);
    }
    change_end(&change);
    return err;
}

/* ------------------------------------------------------------------ get, stat, seal */
static int reply_get(struct rpc_request *request, const struct chunk *c, uint64_t offset, const struct get *get)
{
    uint32_t crcs[GET_PIECES_MAX];
    Tarn__ChunkGetReply reply = TARN__CHUNK_GET_REPLY__INIT;
    struct iovec payload = {get->buffer + get->skip, get->length};
    reply.length = get->length;
    reply.generation = c->generation;
    if (get->length == 0)
        return rpc_reply(request, &reply.base);
    reply.n_crcs = get_crcs(c, offset, get, crcs);
    reply.crcs = crcs;
    return rpc_reply_payload(request, &reply.base, &payload, 1, true);
}

static int get_held(struct store *s, struct rpc_request *request, const Tarn__ChunkGet *m, const struct held *held)
{
    struct chunk *c = held->chunk;
    struct get get;
    if ((c->flags & CHUNK_PARTIAL) != 0)
        return -E_NOENT;
    if (m->generation != 0 && m->generation < c->generation)
        return -E_STALE;
    int err = store_may_serve(s, c);
    if (err == 0)
        err = get_read(held->volume, c, m->offset, m->length, &get);
    if (err != 0) {
        s->counters.corrupt += err == -E_CORRUPT;
        return err;
    }
    s->counters.bytes_read += get.length;
    if (m->work == TARN__STORE_WORK__WORK_CLIENT)
        served(s, request, false, get.length);
    err = reply_get(request, c, m->offset, &get);
    get_fini(held->volume, &get);
    return err;
}

/* What is being made here is held until it is whole: nobody waits for that. */
static bool is_partial(const struct volume *v, uint64_t id)
{
    const struct chunk *c = map_get(&v->index.chunks, id);
    return c != NULL && (c->flags & CHUNK_PARTIAL) != 0;
}

static int handle_get(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkGet *m = message;
    struct held held;
    if (m->length == 0 || m->length > FRAME_PAYLOAD_MAX)
        return -E_INVAL;
    struct volume *v;
    int err = store_volume(s, m->disk, m->chunk, &v);
    if (err == 0)
        err = volume_refuses(v, m->chunk);
    if (err == 0 && m->work != TARN__STORE_WORK__WORK_CLIENT)
        err = background_yield(s, m->length, m->work == TARN__STORE_WORK__WORK_URGENT, YIELD_MS);
    if (err == 0 && is_partial(v, m->chunk))
        err = -E_NOENT;
    if (err == 0)
        err = enter(s);
    if (err != 0)
        return err;
    err = store_hold_bytes(v, m->chunk, false, m->offset, m->length, false, &held);
    if (err == 0) {
        err = get_held(s, request, m, &held);
        store_release(&held);
    }
    leave(s);
    return err;
}

static void stat_fill(const struct chunk *c, Tarn__ChunkStatReply *reply)
{
    reply->generation = c->generation;
    reply->length = c->length;
    reply->sealed = (c->flags & CHUNK_SEALED) != 0;
    reply->digest = reply->sealed ? chunk_digest(c) : 0;
}

static int handle_stat(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkStat *m = message;
    Tarn__ChunkStatReply reply = TARN__CHUNK_STAT_REPLY__INIT;
    struct volume *v;
    int err = store_volume(s, m->disk, m->chunk, &v);
    struct chunk *c = err == 0 ? index_get(&v->index, m->chunk) : NULL;
    if (c == NULL)
        return err == 0 ? -E_NOENT : err;
    bool there = chunk_is_real(c) && (c->flags & CHUNK_PARTIAL) == 0;
    stat_fill(c, &reply);
    chunk_unref(&v->index, c);
    return there ? rpc_reply(request, &reply.base) : -E_NOENT;
}

static int cells_refused(const struct store *s, const struct chunk *c, uint64_t generation)
{
    if ((c->flags & CHUNK_SEALED) == 0)
        return (c->flags & CHUNK_PARTIAL) != 0 ? -E_NOENT : -E_BUSY;
    return generation != 0 && generation < c->generation ? -E_STALE : store_may_serve(s, c);
}

/* What a copy of the sealed chunk would have: who has an older version of it fetches only what differs. */
static int handle_cells(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkCells *m = message;
    struct volume *v;
    struct held held;
    Tarn__ChunkCellsReply reply = TARN__CHUNK_CELLS_REPLY__INIT;
    _cleanup_free_ uint32_t *crcs = malloc(CHUNK_CELLS_MAX * sizeof *crcs);
    _cleanup_free_ uint32_t *valid = malloc(CHUNK_CELLS_MAX * sizeof *valid);
    int err = crcs == NULL || valid == NULL ? -E_NOMEM : store_volume(s, m->disk, m->chunk, &v);
    if (err == 0)
        err = volume_refuses(v, m->chunk);
    if (err == 0 && is_partial(v, m->chunk))
        err = -E_NOENT;
    if (err == 0)
        err = store_hold_all(v, m->chunk, false, false, &held);
    if (err != 0)
        return err;
    const struct chunk *c = held.chunk;
    err = cells_refused(s, c, m->generation);
    for (uint32_t i = 0; i < c->n_cells && err == 0; i++) {
        crcs[i] = c->cells[i].crc;
        valid[i] = c->cells[i].valid;
    }
    reply.generation = c->generation;
    reply.length = c->length;
    reply.digest = err == 0 ? chunk_digest(c) : 0;
    reply.crcs = crcs;
    reply.valid = valid;
    reply.n_crcs = reply.n_valid = c->n_cells;
    store_release(&held);
    return err != 0 ? err : rpc_reply(request, &reply.base);
}

static int handle_seal(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    const Tarn__ChunkSeal *m = message;
    struct held held;
    Tarn__ChunkStatReply reply = TARN__CHUNK_STAT_REPLY__INIT;
    struct volume *v;
    int err = store_volume(s, m->disk, m->chunk, &v);
    if (err == 0)
        err = store_hold_all(v, m->chunk, m->length == 0, true, &held);
    if (err != 0)
        return err;
    err = put_seal(v, held.chunk, m->generation, m->length);
    stat_fill(held.chunk, &reply);
    store_release(&held);
    if (err == 0)
        verify_note(s->verify, v, m->chunk);
    return err != 0 ? err : rpc_reply(request, &reply.base);
}

/* ------------------------------------------------------------------ descriptors, ping */
static int handle_fd(void *ctx, struct rpc_request *request, const void *message)
{
    return handover_fd(ctx, request, message);
}

static void ping_background(const struct store *s, Tarn__StorePingReply *reply)
{
    reply->bytes_fetched = s->counters.bytes_fetched;
    reply->bytes_saved = s->counters.bytes_saved;
    reply->built = s->counters.built;
    reply->verified = s->counters.verified;
    reply->background_rate = s->pace.rate == PACE_FULL ? 0 : s->pace.rate;
    reply->client_p99_us = s->pace.felt_ns / 1000;
    reply->calm_p99_us = s->pace.baseline_ns / 1000;
}

static int handle_ping(void *ctx, struct rpc_request *request, const void *message)
{
    struct store *s = ctx;
    Tarn__StorePingReply reply = TARN__STORE_PING_REPLY__INIT;
    reply.node = s->volumes[0]->super.node;
    reply.disk = s->volumes[0]->super.disk;
    for (unsigned i = 0; i < s->n_volumes; i++)
        reply.chunks += volume_chunks(s->volumes[i]);
    reply.bytes_read = s->counters.bytes_read;
    reply.bytes_written = s->counters.bytes_written;
    reply.fds_passed = s->counters.fds_passed;
    reply.fds_dropped = s->counters.fds_dropped;
    reply.fds_held = handover_held(s->handover);
    ping_background(s, &reply);
    return rpc_reply(request, &reply.base);
}

static int handle_scrub(void *ctx, struct rpc_request *request, const void *message)
{
    return scrub_handle(ctx, request, message);
}

const struct rpc_op store_ops[] = {
    {OP_CHUNK_PUT, "chunk-put", &tarn__chunk_put__descriptor, handle_put},
    {OP_CHUNK_GET, "chunk-get", &tarn__chunk_get__descriptor, handle_get},
    {OP_CHUNK_SYNC, "chunk-sync", &tarn__chunk_sync__descriptor, handle_sync},
    {OP_CHUNK_TRUNCATE, "chunk-truncate", &tarn__chunk_truncate__descriptor, handle_truncate},
    {OP_CHUNK_SEAL, "chunk-seal", &tarn__chunk_seal__descriptor, handle_seal},
    {OP_CHUNK_CLONE, "chunk-clone", &tarn__chunk_clone__descriptor, handle_clone},
    {OP_CHUNK_STAT, "chunk-stat", &tarn__chunk_stat__descriptor, handle_stat},
    {OP_CHUNK_CELLS, "chunk-cells", &tarn__chunk_cells__descriptor, handle_cells},
    {OP_CHUNK_FD, "chunk-fd", &tarn__chunk_fd__descriptor, handle_fd},
    {OP_STORE_PING, "store-ping", &tarn__store_ping__descriptor, handle_ping},
    {OP_STORE_SCRUB, "store-scrub", &tarn__store_scrub__descriptor, handle_scrub},
};
const size_t store_n_ops = ARRAY_SIZE(store_ops);
