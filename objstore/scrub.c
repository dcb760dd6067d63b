#include "scrub.h"

#include "background.h"
#include "cells.h"
#include "verified.h"
#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>

#define DAY_NS (86400 * 1000000000ull)

struct scrub {
    struct store *store;
    struct volume *volume;
    struct background background;
    uint64_t days_ns;
    struct scrub_state state;
    uint64_t *ids; /* of this pass, ascending */
    size_t n_ids, at;
    uint64_t bytes;       /* of the chunks of this pass, those done included */
    uint64_t asked_ms;    /* since when the asked pass is read in this life, for its rate */
    uint64_t asked_bytes; /* … and how far it was then */
    uint64_t saved_ms;
    uint64_t rate;
    uint8_t *buf;
    bool again; /* begin anew from the start */
    bool stopping;
    struct fiber_queue wake;
    struct fiber_group fibers;
};

/* ------------------------------------------------------------------ the place */
static void path_of(const struct scrub *s, const char *name, char out[512])
{
    snprintf(out, 512, "%s/%s", s->volume->dir, name);
}

/* A file that is not there or cannot be understood: everything is read from the start. */
static int state_load(struct scrub *s)
{
    char path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    path_of(s, "scrub", path);
    int err = io_open(s->volume->io, path, O_RDONLY, 0, &file);
    int64_t n = err == 0 ? io_pread(file, s->buf, BLOCK_BYTES, 0) : err;
    if (n == -E_CANCELED)
        return -E_CANCELED;
    struct scrub_state state;
    if (n >= 0 && scrub_state_decode(s->buf, (size_t)n, &state) == 0 && memcmp(state.uuid, s->volume->super.uuid, 16) == 0)
        s->state = state;
    return 0;
}

/* A place that is not kept costs reading: told once in the log, no more. */
static int state_save(struct scrub *s)
{
    char temporary[512], path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *block = malloc(BLOCK_BYTES);
    if (block == NULL)
        return -E_NOMEM;
    memcpy(s->state.uuid, s->volume->super.uuid, 16);
    scrub_state_encode(&s->state, block);
    path_of(s, "scrub.new", temporary);
    path_of(s, "scrub", path);
    s->saved_ms = io_mono_ms(s->volume->io);
    int err = io_open(s->volume->io, temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (err == 0)
        err = io_pwrite(file, block, BLOCK_BYTES, 0);
    if (err == 0)
        err = io_sync(file);
    if (err == 0)
        err = io_rename(s->volume->io, temporary, path);
    if (err != 0 && err != -E_CANCELED)
        log_warn("cannot keep how far the scrubber of %s is: %s", s->volume->dir, err_sentence(err));
    return err == -E_CANCELED ? err : 0;
}

/* ------------------------------------------------------------------ passes */
static int id_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The chunks that are there now, from state.next on. */
static int ids_take(struct scrub *s)
{
    struct map *chunks = &s->volume->index.chunks;
    size_t at = 0;
    uint64_t id;
    void *value;
    free(s->ids);
    s->n_ids = s->at = 0;
    s->bytes = s->state.done_bytes;
    s->ids = malloc(MAX(chunks->count, (size_t)1) * sizeof *s->ids);
    if (s->ids == NULL)
        return -E_NOMEM;
    while (map_next(chunks, &at, &id, &value)) {
        const struct chunk *c = value;
        if (!chunk_is_real(c) || id < s->state.next)
            continue;
        s->ids[s->n_ids++] = id;
        s->bytes += c->length;
    }
    qsort(s->ids, s->n_ids, sizeof *s->ids, id_compare);
    s->asked_ms = io_mono_ms(s->volume->io);
    s->asked_bytes = s->state.done_bytes;
    return 0;
}

static void pass_reset(struct scrub *s, bool asked)
{
    struct scrub_state *state = &s->state;
    *state = (struct scrub_state){.began_ns = io_real_ns(s->volume->io), .asked = asked, .last_end_ns = state->last_end_ns,
                                  .last_chunks = state->last_chunks, .last_cells = state->last_cells};
}

static void pass_end(struct scrub *s)
{
    struct scrub_state *state = &s->state;
    state->last_end_ns = io_real_ns(s->volume->io);
    state->last_chunks = state->found_chunks;
    state->last_cells = state->found_cells;
    if (state->asked || state->found_chunks > 0)
        log_info("%s: all %llu chunks were read: %llu of them are damaged, in %llu cells", s->volume->dir,
                 (unsigned long long)state->done_chunks, (unsigned long long)state->found_chunks,
                 (unsigned long long)state->found_cells);
    pass_reset(s, false);
}

/* ------------------------------------------------------------------ pace */
uint64_t scrub_rest_ms(uint64_t bytes, uint64_t left, uint64_t now_ns, uint64_t due_ns)
{
    if (now_ns >= due_ns || left == 0)
        return 0;
    double ms = (double)(due_ns - now_ns) / 1e6 * (double)bytes / (double)MAX(left, bytes);
    return ms < SCRUB_REST_MS ? (uint64_t)ms : SCRUB_REST_MS;
}

/* In a pass that nobody asked for rests. -E_CANCELED: the process stops. */
static int rest(struct scrub *s, uint64_t bytes)
{
    int err = 0;
    uint64_t left = s->bytes - MIN(s->bytes, s->state.done_bytes);
    uint64_t ms = scrub_rest_ms(bytes, left, io_real_ns(s->volume->io), s->state.began_ns + s->days_ns / 4 * 3);
    if (!s->state.asked && !s->stopping && ms > 0)
        err = fiber_queue_wait(&s->wake, ms);
    return s->stopping ? -E_CANCELED : err == -E_TIMEOUT ? 0 : err;
}

static void measure(struct scrub *s)
{
    uint64_t passed = io_mono_ms(s->volume->io) - s->asked_ms;
    s->rate = (s->state.done_bytes - s->asked_bytes) * 1000 / MAX(passed, (uint64_t)1);
}

/* ------------------------------------------------------------------ a chunk */
static bool to_be_read(const struct scrub *s, const struct chunk *c)
{
    return (c->flags & CHUNK_PARTIAL) == 0 && c->broken == 0 && !c->late && !volume_suspects(s->volume, c);
}

/* Nobody reads the file itself any more before it was verified again (W6). */
static void doubt(struct scrub *s, struct chunk *c)
{
    verified_gone(s->volume, c);
}

/* Held for a window: a write or a deletion does not wait for the rest. *ret_length: of the chunk, 0 = not to be read. */
static int look_window(struct scrub *s, uint64_t id, uint32_t first, struct cell_set *bad, uint64_t *ret_length)
{
    struct held held;
    uint32_t last = MIN(first + (uint32_t)CELLS_WINDOW, (uint32_t)CHUNK_CELLS_MAX) - 1;
    *ret_length = 0;
    int err = store_hold(s->volume, id, false, first, last, false, &held);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    struct chunk *c = held.chunk;
    uint32_t n = MAX(cells_of(c), 1u);
    struct cell_set found = {0};
    if (to_be_read(s, c) && first < n) {
        err = cells_check(s->volume, c, CELLS_DISK, first, MIN(n - first, (uint32_t)CELLS_WINDOW), s->buf, &found);
        for (uint32_t i = first; err == 0 && i <= last; i++)
            if (cell_set_has(&found, i)) {
                damage_note(&s->volume->damages, c, i);
                cell_set_add(bad, i);
            }
        if (err == 0 && cell_set_count(&found) > 0)
            doubt(s, c);
        *ret_length = c->length;
    }
    store_release(&held);
    return err;
}

static int read_chunk(struct scrub *s, uint64_t id)
{
    struct cell_set bad = {0};
    uint64_t length = 1, window = CELLS_WINDOW * CELL_BYTES;
    int err = 0;
    for (uint64_t at = 0; at < length && err == 0 && !s->again; at += window) {
        err = background_take(&s->background, window);
        if (err == 0)
            err = look_window(s, id, (uint32_t)(at / CELL_BYTES), &bad, &length);
        uint64_t bytes = length > at ? MIN(length - at, window) : 0;
        s->state.done_bytes += bytes;
        measure(s);
        if (err == 0 && bytes > 0)
            err = rest(s, bytes);
    }
    if (err == 0 && !s->again) {
        unsigned cells = cell_set_count(&bad);
        s->state.found_cells += cells;
        s->state.found_chunks += cells > 0;
        s->state.done_chunks++;
        s->state.next = id + 1;
    }
    return err;
}

/* ------------------------------------------------------------------ life */
static int step(struct scrub *s)
{
    int err = 0;
    if (s->again) {
        s->again = false;
        pass_reset(s, true);
        err = ids_take(s);
        return err == 0 ? state_save(s) : err;
    }
    if (s->at < s->n_ids) {
        err = read_chunk(s, s->ids[s->at]);
        s->at += !s->again;
    } else {
        pass_end(s);
        err = ids_take(s);
        if (err == 0)
            err = state_save(s);
        /* Nothing there: nothing is due before something comes. */
        if (err == 0 && s->n_ids == 0 && !s->again)
            err = fiber_queue_wait(&s->wake, SCRUB_REST_MS);
        return err == -E_TIMEOUT ? 0 : err;
    }
    if (err == 0 && io_mono_ms(s->volume->io) - s->saved_ms >= SCRUB_SAVE_MS)
        err = state_save(s);
    return err;
}

static void run(void *arg)
{
    struct scrub *s = arg;
    int err = 0;
    while (!s->stopping && err != -E_CANCELED) {
        err = step(s);
        if (err != 0 && err != -E_CANCELED) {
            log_warn("the scrubber of %s cannot go on now: %s", s->volume->dir, err_sentence(err));
            err = io_sleep_ms(s->volume->io, SCRUB_SAVE_MS);
        }
    }
    if (!io_stopping(s->volume->io))
        (void)state_save(s);
    fiber_group_done(&s->fibers);
}

int scrub_start(struct store *store, struct volume *volume, unsigned days, struct scrub **ret)
{
    struct scrub *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -E_NOMEM;
    *s = (struct scrub){.store = store, .volume = volume, .background = {.store = store, .volume = volume},
                        .days_ns = (days != 0 ? days : SCRUB_DAYS) * DAY_NS};
    int err = buffers_get(&volume->buffers, CELLS_WINDOW * CELL_BYTES, &s->buf);
    if (err == 0)
        err = state_load(s); /* before anybody is told how far it is */
    if (err == 0 && s->state.began_ns == 0)
        pass_reset(s, false);
    if (err == 0)
        err = ids_take(s);
    if (err == 0) {
        fiber_group_add(&s->fibers);
        err = fiber_spawn(volume->io, "scrub", run, s);
    }
    if (err != 0) {
        buffers_put(&volume->buffers, CELLS_WINDOW * CELL_BYTES, s->buf);
        free(s->ids);
        free(s);
        return err;
    }
    *ret = s;
    return 0;
}

void scrub_stop(struct scrub *s)
{
    if (s == NULL)
        return;
    s->stopping = s->background.cancelled = true;
    fiber_queue_wake_all(&s->wake);
    fiber_group_wait(&s->fibers);
    buffers_put(&s->volume->buffers, CELLS_WINDOW * CELL_BYTES, s->buf);
    free(s->ids);
    free(s);
}

void scrub_begin(struct scrub *s)
{
    s->again = true;
    s->state.asked = true;
    fiber_queue_wake_all(&s->wake);
}

void scrub_tell(const struct scrub *s, Tarn__ScrubDisk *out)
{
    const struct scrub_state *state = &s->state;
    tarn__scrub_disk__init(out);
    out->disk = s->volume->super.disk;
    out->asked = state->asked || s->again;
    out->done_chunks = s->again ? 0 : state->done_chunks;
    out->done_bytes = s->again ? 0 : state->done_bytes;
    out->chunks = out->done_chunks + (s->n_ids - MIN(s->n_ids, s->at));
    out->bytes = MAX(s->bytes, out->done_bytes);
    out->found = out->asked ? state->found_chunks : state->last_chunks;
    out->found_cells = out->asked ? state->found_cells : state->last_cells;
    out->rate = s->rate;
    out->last_end = state->last_end_ns;
}

int scrub_watch(struct store *store)
{
    int err = 0;
    for (unsigned i = 0; i < store->n_volumes && err == 0; i++)
        if (store->volumes[i]->scrub == NULL)
            err = scrub_start(store, store->volumes[i], store->scrub_days, &store->volumes[i]->scrub);
    return err;
}

void scrub_unwatch(struct store *store)
{
    for (unsigned i = 0; i < store->n_volumes; i++) {
        scrub_stop(store->volumes[i]->scrub);
        store->volumes[i]->scrub = NULL;
    }
}

int scrub_handle(struct store *store, struct rpc_request *request, const Tarn__StoreScrub *m)
{
    Tarn__StoreScrubReply reply = TARN__STORE_SCRUB_REPLY__INIT;
    _cleanup_free_ Tarn__ScrubDisk *disks = calloc(STORE_DISKS_MAX, sizeof *disks);
    Tarn__ScrubDisk *pointers[STORE_DISKS_MAX];
    if (disks == NULL)
        return -E_NOMEM;
    for (unsigned i = 0; i < store->n_volumes; i++) {
        struct volume *v = store->volumes[i];
        if (v->scrub == NULL || volume_failed(v) || (m->disk != 0 && m->disk != v->super.disk))
            continue;
        if (m->begin)
            scrub_begin(v->scrub);
        scrub_tell(v->scrub, &disks[reply.n_disks]);
        pointers[reply.n_disks] = &disks[reply.n_disks];
        reply.n_disks++;
    }
    reply.disks = pointers;
    if (reply.n_disks == 0)
        return rpc_reply_error(request, m->disk != 0 ? -E_NOENT : -E_BUSY, NULL,
                               m->disk != 0 ? "this disk does not serve in this store" : "no disk of this store serves now");
    return rpc_reply(request, &reply.base);
}
