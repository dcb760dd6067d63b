#include "rebuild.h"

#include "get.h"
#include "put.h"
#include "object.pb-c.h"
#include "common/err.h"
#include "common/log.h"
#include "proto/ops.h"

#define WINDOW_BYTES MIB(1)
#define PULL_TIMEOUT_MS 5000

/* Appends a window to the partial chunk. Holds it only for that long: nobody else may write to it. */
static int append(struct volume *v, struct chunk *c, uint64_t generation, uint64_t offset, const uint8_t *data,
                  size_t length, const uint32_t *crcs, size_t n_crcs)
{
    struct put put = {.generation = generation, .offset = offset, .length = length, .data = data, .crcs = crcs,
                      .n_crcs = n_crcs, .flags = CHUNK_PARTIAL};
    int err = put_check(&put);
    return err != 0 ? err : put_bytes(v, c, &put);
}

/* An empty partial chunk, whatever was there before. The whole chunk is held. */
static int begin(struct volume *v, struct chunk *c, uint64_t generation)
{
    if (!chunk_is_real(c))
        return put_state(v, c, generation, CHUNK_PARTIAL, false);
    int err = put_truncate(v, c, MAX(generation, c->generation), 0);
    return err != 0 ? err : put_state(v, c, generation, CHUNK_PARTIAL, false);
}

/* ------------------------------------------------------------------ clone */
static int clone_window(struct volume *v, struct chunk *to, struct chunk *from, uint64_t generation, uint64_t at,
                        uint64_t length)
{
    struct get get;
    uint32_t crcs[GET_PIECES_MAX];
    int err = get_read(v, from, at, length, &get);
    if (err != 0)
        return err;
    size_t n = get_crcs(from, at, &get, crcs);
    if (get.length > 0)
        err = append(v, to, generation, at, get.buffer + get.skip, get.length, crcs, n);
    get_fini(v, &get);
    return err;
}

/* C19: the source may be on disk everywhere, so the clone must be before it takes over. Here, not by a sync that the client
 * asks for afterwards: a loss of power between the two would leave nothing to sync, and no sign of it. And the bytes
 * before the record that ends CHUNK_PARTIAL: a journal that was not synced may survive a loss of power without them,
 * and the repeated request would take what is left for the clone. */
static int clone_end(struct volume *v, struct chunk *to, uint64_t generation)
{
    int err = volume_file_sync(v, to);
    return err != 0 ? err : put_state(v, to, generation, to->flags & ~CHUNK_PARTIAL, true);
}

static int clone_held(struct volume *v, struct chunk *to, struct chunk *from, uint64_t generation, uint64_t length)
{
    if (chunk_is_real(to) && (to->flags & CHUNK_PARTIAL) == 0)
        return generation < to->generation ? -E_STALE : 0;
    int err = begin(v, to, generation);
    uint64_t end = MIN(length, from->length);
    for (uint64_t at = 0; err == 0 && at < end; at += WINDOW_BYTES)
        err = clone_window(v, to, from, generation, at, MIN(WINDOW_BYTES, end - at));
    if (err == 0 && length > end)
        err = put_truncate(v, to, generation, length);
    return err != 0 ? err : clone_end(v, to, generation);
}

int rebuild_clone(struct volume *v, uint64_t chunk, uint64_t generation, uint64_t from, uint64_t length)
{
    struct held source, target;
    int err = store_hold_all(v, chunk, true, true, &target);
    if (err != 0)
        return err;
    err = store_hold_all(v, from, false, false, &source);
    if (err == 0) {
        err = (source.chunk->flags & CHUNK_PARTIAL) != 0 ? -E_NOENT
                                                         : clone_held(v, target.chunk, source.chunk, generation, length);
        store_release(&source);
    } else if (err == -E_NOENT && chunk_is_real(target.chunk) && (target.chunk->flags & CHUNK_PARTIAL) == 0) {
        err = 0; /* repeated after the swap removed the source */
    }
    store_release(&target);
    return err == 0 ? journal_sync(v->journal) : err; /* a repetition: perhaps the sync was what failed */
}

/* ------------------------------------------------------------------ copy */
struct source {
    struct rpc_client *client;
    uint32_t disk;
    uint64_t chunk, generation, length;
    uint32_t digest;
};

static int source_stat(struct source *source)
{
    Tarn__ChunkStat request = TARN__CHUNK_STAT__INIT;
    request.chunk = source->chunk;
    request.disk = source->disk;
    struct rpc_call call = {.op = OP_CHUNK_STAT, .request = &request.base, .timeout_ms = PULL_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_stat_reply__descriptor};
    int err = rpc_call(source->client, &call);
    if (err == 0) {
        const Tarn__ChunkStatReply *reply = (const Tarn__ChunkStatReply *)call.reply;
        source->generation = reply->generation;
        source->length = reply->length;
        source->digest = reply->digest;
        err = reply->sealed ? 0 : -E_BUSY;
    }
    rpc_call_fini(&call);
    return err;
}

static int pull_window(struct volume *v, struct chunk *c, const struct source *source, uint64_t generation, uint64_t at,
                       uint8_t *buf)
{
    Tarn__ChunkGet request = TARN__CHUNK_GET__INIT;
    request.chunk = source->chunk;
    request.disk = source->disk;
    request.offset = at;
    request.length = MIN(WINDOW_BYTES, source->length - at);
    struct rpc_call call = {.op = OP_CHUNK_GET, .request = &request.base, .timeout_ms = PULL_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_get_reply__descriptor, .into = buf, .into_size = WINDOW_BYTES};
    int err = rpc_call(source->client, &call);
    if (err == 0) {
        const Tarn__ChunkGetReply *reply = (const Tarn__ChunkGetReply *)call.reply;
        if (call.reply_payload_len != request.length)
            err = -E_PROTO;
        else
            err = append(v, c, generation, at, buf, request.length, reply->crcs, reply->n_crcs);
    }
    rpc_call_fini(&call);
    return err;
}

static int pull_held(struct volume *v, struct chunk *c, struct source *source, uint64_t generation)
{
    uint8_t *buf;
    bool sealed = (c->flags & CHUNK_SEALED) != 0;
    if (sealed && c->length == source->length && chunk_digest(c) == source->digest)
        return put_seal(v, c, MAX(generation, c->generation), c->length);
    if (sealed)
        return -E_CONFLICT; /* the caller drops it and comes again */
    int err = buffers_get(&v->buffers, WINDOW_BYTES, &buf);
    if (err != 0)
        return err;
    err = begin(v, c, generation);
    for (uint64_t at = 0; err == 0 && at < source->length; at += WINDOW_BYTES)
        err = pull_window(v, c, source, generation, at, buf);
    buffers_put(&v->buffers, WINDOW_BYTES, buf);
    if (err == 0)
        err = put_seal(v, c, generation, source->length);
    if (err == 0 && chunk_digest(c) != source->digest)
        err = -E_CORRUPT;
    return err;
}

static int drop(struct volume *v, uint64_t chunk)
{
    struct held held;
    int err = store_hold_all(v, chunk, false, true, &held);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    err = volume_delete(v, held.chunk);
    store_release(&held);
    return err;
}

/* What a copy that failed has brought so far. */
static void drop_partial(struct volume *v, uint64_t chunk)
{
    struct held held;
    if (store_hold_all(v, chunk, false, true, &held) != 0)
        return;
    if ((held.chunk->flags & CHUNK_PARTIAL) != 0)
        (void)volume_delete(v, held.chunk); /* if not: the next start drops it */
    store_release(&held);
}

/* One source. A different version that is here is dropped first: this store is not a member with it. */
static int copy_from(struct volume *v, const Tarn__ChunkTask *task, struct source *source)
{
    for (unsigned again = 0; again < 2; again++) {
        struct held held;
        int err = store_hold_all(v, task->chunk, true, true, &held);
        if (err != 0)
            return err;
        uint64_t generation = MAX(task->generation, source->generation);
        generation = MAX(generation, held.chunk->generation);
        err = pull_held(v, held.chunk, source, generation);
        store_release(&held);
        if (err != -E_CONFLICT && err != -E_CORRUPT)
            return err;
        if (drop(v, task->chunk) != 0)
            return -E_IO;
        if (err == -E_CORRUPT)
            return err;
    }
    return -E_CONFLICT;
}

int rebuild_copy(struct store *s, struct volume *v, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest)
{
    int err = -E_UNAVAIL;
    for (size_t i = 0; i < task->n_from; i++) {
        struct source source = {.disk = task->from[i]->disk, .chunk = task->chunk, .client = store_peer(s, task->from[i]->address)};
        /* Another disk of this store is asked like any other. */
        if (source.client == NULL || (source.disk == v->super.disk && strcmp(task->from[i]->address, s->address) == 0))
            continue;
        err = source_stat(&source);
        if (err == 0)
            err = copy_from(v, task, &source);
        if (err == 0) {
            *ret_length = source.length;
            *ret_digest = source.digest;
            return 0;
        }
        if (err == -E_CANCELED)
            return err;
        drop_partial(v, task->chunk);
        log_warn("chunk %llx: no copy from %s: %s", (unsigned long long)task->chunk, task->from[i]->address,
                 err_sentence(err));
    }
    return err;
}
