#include "repair.h"

#include "build.h"
#include "cells.h"
#include "object.pb-c.h"
#include "common/err.h"
#include "common/log.h"
#include "proto/ops.h"

#include <fcntl.h>

#define PULL_TIMEOUT_MS 5000

struct repair {
    struct background *background;
    struct store *store;
    struct volume *volume;
    const Tarn__ChunkTask *task;
    uint8_t *buf; /* CELLS_WINDOW cells */
    struct build *others; /* of its group; NULL: not needed yet */
    bool unreachable; /* a source did not answer for some cell */
    int wrote;        /* first failure of writing */
};

/* ------------------------------------------------------------------ finding the bytes */
static int pull_cell(struct repair *r, const Tarn__Replica *from, uint32_t i, struct cell cell)
{
    struct rpc_client *client = store_peer(r->store, from->address);
    if (client == NULL)
        return -E_NOMEM;
    Tarn__ChunkGet request = TARN__CHUNK_GET__INIT;
    request.chunk = r->task->chunk;
    request.disk = from->disk;
    request.offset = (uint64_t)i * CELL_BYTES;
    request.length = cell.valid;
    struct rpc_call call = {.op = OP_CHUNK_GET, .request = &request.base, .timeout_ms = PULL_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_get_reply__descriptor, .into = r->buf, .into_size = CELL_BYTES};
    int err = rpc_call(client, &call);
    if (err == 0 && (call.reply_payload_len != cell.valid || crc32c(0, r->buf, cell.valid) != cell.crc))
        err = -E_CORRUPT; /* of another time, or not what it says */
    rpc_call_fini(&call);
    return err;
}

/* From the other shards of its group. */
static int compute_cell(struct repair *r, uint32_t i, struct cell cell)
{
    int err = r->others == NULL ? build_ranges_begin(r->background, r->task, &r->others) : 0;
    if (err == 0)
        err = build_range(r->others, (uint64_t)i * CELL_BYTES, cell.valid, r->buf);
    return err == 0 && crc32c(0, r->buf, cell.valid) != cell.crc ? -E_CORRUPT : err;
}

/* The cell's bytes into r->buf: from our own disk or cache, when one of the two is right, else from another member, else
 * from its group. */
static int find_cell(struct repair *r, const struct chunk *c, uint32_t i, struct cell cell)
{
    for (unsigned way = CELLS_DISK; way <= CELLS_CACHE; way++) {
        _cleanup_(io_closep) struct io_file *file = NULL;
        bool is_right = false;
        int err = cells_open(r->volume, c, (enum cells_way)way, &file);
        if (err == 0)
            err = cells_look_one(file, i, cell, r->buf, &is_right);
        if (err == -E_CANCELED || is_right)
            return err;
    }
    for (size_t n = 0; n < r->task->n_from; n++) {
        const Tarn__Replica *from = r->task->from[n];
        if (from->disk == r->volume->super.disk && strcmp(from->address, r->store->address) == 0)
            continue;
        int err = pull_cell(r, from, i, cell);
        if (err == 0 || err == -E_CANCELED)
            return err;
        r->unreachable |= err != -E_CORRUPT && err != -E_NOENT && err != -E_IO;
    }
    if (r->task->n_sources > 0) {
        int err = compute_cell(r, i, cell);
        if (err == 0 || err == -E_CANCELED)
            return err;
        r->unreachable |= err != -E_CORRUPT;
    }
    return r->unreachable ? -E_UNAVAIL : -E_CORRUPT;
}

/* ------------------------------------------------------------------ writing them */
static int sync_shard(struct volume *v, uint64_t chunk)
{
    char path[512];
    volume_chunk_path(v, chunk, path);
    *strrchr(path, '/') = '\0';
    return io_sync_dir(v->io, path);
}

/* A descriptor of our own: what the kernel has to say about its sync is said to nobody else. A file that somebody removed is
 * made anew; who has the old one open lets go of it first. */
static int open_to_write(struct volume *v, struct chunk *c, struct io_file **ret)
{
    char path[512];
    volume_chunk_path(v, c->id, path);
    int err = io_open(v->io, path, O_RDWR, 0600, ret);
    if (err != -E_NOENT)
        return err;
    if (c->pins > 0)
        return -E_BUSY;
    volume_file_forget(v, c);
    err = io_open(v->io, path, O_RDWR | O_CREAT, 0600, ret);
    if (err == 0) {
        c->has_file = true;
        c->allocated = 0;
        err = sync_shard(v, c->id);
    }
    return err;
}

static int write_file(struct volume *v, struct chunk *c, uint32_t i, uint32_t n, const uint8_t *data)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    uint64_t size = 0;
    int err = open_to_write(v, c, &file);
    if (err == 0 && n > 0)
        err = io_pwrite(file, data, n, (uint64_t)i * CELL_BYTES);
    if (err == 0)
        err = io_size(file, &size);
    if (err == 0 && (c->flags & CHUNK_SEALED) != 0 && size > c->length)
        err = io_truncate(file, c->length);
    return err != 0 ? err : io_sync(file);
}

/* The bytes in r->buf into the place of the cell, if it is still the same one, and a look whether they are there. */
static int write_cell(struct repair *r, struct chunk *c, uint32_t i, struct cell cell)
{
    struct volume *v = r->volume;
    struct cell now = chunk_cell(c, i);
    struct cell_set bad = {0};
    if (c->dead || now.crc != cell.crc || now.valid != cell.valid)
        return 0; /* written anew meanwhile: right by itself */
    int err = write_file(v, c, i, cell.valid, r->buf);
    if (err == 0)
        err = cells_check(v, c, CELLS_DISK, i, 1, r->buf, &bad);
    if (err == 0)
        err = cells_check(v, c, CELLS_CACHE, i, 1, r->buf, &bad);
    return err == 0 && cell_set_has(&bad, i) ? -E_IO : err;
}

/* Not held while others are asked: they may be waiting for this store with the same cell held. */
static int repair_cell(struct repair *r, uint32_t i)
{
    struct held held;
    int err = background_take(r->background, CELL_BYTES);
    if (err == 0)
        err = store_hold(r->volume, r->task->chunk, false, i, i, false, &held);
    if (err != 0)
        return err;
    struct cell cell = chunk_cell(held.chunk, i);
    struct chunk *c = held.chunk;
    c->refs++;
    store_release(&held);
    err = cell.valid > 0 ? find_cell(r, c, i, cell) : 0;
    chunk_unref(&r->volume->index, c);
    if (err != 0)
        return err;
    err = store_hold(r->volume, r->task->chunk, false, i, i, true, &held);
    if (err != 0)
        return err;
    err = write_cell(r, held.chunk, i, cell);
    r->wrote = r->wrote != 0 ? r->wrote : err;
    store_release(&held);
    return err;
}

/* ------------------------------------------------------------------ a chunk */
/* What is wrong with it, a window at a time. */
static int look(struct repair *r, struct cell_set *bad, uint32_t *ret_cells)
{
    struct volume *v = r->volume;
    uint32_t n = 1;
    int err = 0;
    for (uint32_t at = 0; at < n && err == 0; at += CELLS_WINDOW) {
        struct held held;
        uint32_t last = MIN(at + (uint32_t)CELLS_WINDOW, (uint32_t)CHUNK_CELLS_MAX) - 1;
        err = background_take(r->background, 2 * BACKGROUND_WINDOW_BYTES); /* read twice */
        if (err == 0)
            err = store_hold(r->volume, r->task->chunk, false, at, last, false, &held);
        if (err != 0)
            break;
        n = MAX(cells_of(held.chunk), 1u);
        err = (held.chunk->flags & CHUNK_PARTIAL) != 0 ? -E_BUSY : held.chunk->broken;
        for (unsigned way = CELLS_DISK; way <= CELLS_CACHE && err == 0; way++)
            err = cells_check(v, held.chunk, (enum cells_way)way, at, MIN(n - at, (uint32_t)CELLS_WINDOW), r->buf, bad);
        store_release(&held);
    }
    *ret_cells = n;
    return err;
}

static int repair_cells(struct repair *r, uint64_t *ret_bytes)
{
    struct cell_set bad = {0};
    uint32_t n;
    int err = look(r, &bad, &n);
    unsigned found = err == 0 ? cell_set_count(&bad) : 0, left = found;
    for (uint32_t i = 0; i < n && err != -E_CANCELED && found > 0; i++) {
        if (!cell_set_has(&bad, i))
            continue;
        int one = repair_cell(r, i);
        left -= one == 0;
        err = one == -E_CANCELED || err == 0 ? one : err;
    }
    *ret_bytes = (uint64_t)left * CELL_BYTES;
    if (found > 0)
        log_info("chunk %llx: %u damaged cells, %u repaired", (unsigned long long)r->task->chunk, found, found - left);
    if (err == 0 || err == -E_CANCELED || found == 0)
        return err;
    return r->wrote != 0 ? r->wrote : r->unreachable ? -E_UNAVAIL : err;
}

int repair_chunk(struct background *background, const Tarn__ChunkTask *task, uint64_t *ret_bytes)
{
    struct volume *v = background->volume;
    struct repair r = {.background = background, .store = background->store, .volume = v, .task = task};
    int err = buffers_get(&v->buffers, MIB(1), &r.buf);
    if (err != 0)
        return err;
    err = repair_cells(&r, ret_bytes);
    build_ranges_end(r.others);
    buffers_put(&v->buffers, MIB(1), r.buf);
    if (err == 0)
        damage_forget(&v->damages, task->chunk);
    return err;
}
