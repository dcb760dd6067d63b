#include "rebuild.h"

#include "get.h"
#include "partial.h"
#include "pull.h"
#include "put.h"
#include "update.h"
#include "common/err.h"
#include "common/log.h"

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
        err = partial_append(v, to, generation, at, get.buffer + get.skip, get.length, crcs, n);
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
    uint64_t end = MIN(length, from->length);
    int err = volume_has_room(v, end, false); /* a client's wish, unlike copies */
    if (err == 0)
        err = partial_begin(v, to, generation);
    for (uint64_t at = 0; err == 0 && at < end; at += BACKGROUND_WINDOW_BYTES)
        err = clone_window(v, to, from, generation, at, MIN(BACKGROUND_WINDOW_BYTES, end - at));
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
/* The whole chunk, window by window. */
static int pull_whole(struct background *b, struct chunk *c, const struct pull *from, uint64_t generation)
{
    struct volume *v = b->volume;
    uint8_t *buf;
    int err = buffers_get(&v->buffers, BACKGROUND_WINDOW_BYTES, &buf);
    if (err != 0)
        return err;
    err = partial_begin(v, c, generation);
    for (uint64_t at = 0; err == 0 && at < from->length; at += BACKGROUND_WINDOW_BYTES)
        err = pull_window(b, from, c, generation, at, MIN(BACKGROUND_WINDOW_BYTES, from->length - at), buf);
    buffers_put(&v->buffers, BACKGROUND_WINDOW_BYTES, buf);
    if (err == 0)
        err = partial_finish(b, c, generation, from->length);
    if (err == 0 && chunk_digest(c) != from->digest)
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

/* One source. Another version that is here is brought up to date; where that does not pay it is dropped: this store is no
 * member with it. Nor is a file changed that somebody has a descriptor of. */
static int copy_from(struct background *b, const Tarn__ChunkTask *task, struct pull *from)
{
    for (unsigned again = 0; again < 2; again++) {
        struct held held;
        int err = store_hold_all(b->volume, task->chunk, true, true, &held);
        if (err != 0)
            return err;
        struct chunk *c = held.chunk;
        uint64_t generation = MAX(task->generation, from->generation);
        generation = MAX(generation, c->generation);
        err = chunk_is_real(c) ? update_chunk(b, from, c, generation) : pull_whole(b, c, from, generation);
        store_release(&held);
        if (err != -E_CONFLICT && err != -E_CORRUPT)
            return err;
        if (drop(b->volume, task->chunk) != 0)
            return -E_IO;
        if (err == -E_CORRUPT)
            return err;
    }
    return -E_CONFLICT;
}

int rebuild_copy(struct background *b, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest)
{
    struct store *s = b->store;
    int err = -E_UNAVAIL;
    for (size_t i = 0; i < task->n_from; i++) {
        struct pull from = {.disk = task->from[i]->disk, .chunk = task->chunk, .client = store_peer(s, task->from[i]->address)};
        /* Another disk of this store is asked like any other. */
        if (from.client == NULL || (from.disk == b->volume->super.disk && strcmp(task->from[i]->address, s->address) == 0))
            continue;
        err = pull_stat(&from);
        if (err == 0)
            err = copy_from(b, task, &from);
        if (err == 0) {
            *ret_length = from.length;
            *ret_digest = from.digest;
            return 0;
        }
        partial_drop(b->volume, task->chunk);
        if (err == -E_CANCELED)
            return err;
        log_warn("chunk %llx: no copy from %s: %s", (unsigned long long)task->chunk, task->from[i]->address,
                 err_sentence(err));
    }
    return err;
}
