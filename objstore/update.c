#include "update.h"

#include "partial.h"
#include "put.h"
#include "readback.h"
#include "common/err.h"

struct update {
    struct background *background;
    const struct pull *from;
    struct volume *volume;
    struct chunk *chunk;
    uint64_t generation;
    uint32_t n;                          /* cells of the source's version */
    struct cell cells[CHUNK_CELLS_MAX];  /* as they are to be */
    bool fetch[CHUNK_CELLS_MAX];
};

static uint64_t end_of(const struct update *u, uint32_t i)
{
    return MIN((uint64_t)i * CELL_BYTES, u->from->length);
}

/* ------------------------------------------------------------------ what differs */
static uint32_t count_different(struct update *u)
{
    uint32_t different = 0;
    for (uint32_t i = 0; i < u->n; i++) {
        struct cell mine = chunk_cell(u->chunk, i);
        u->fetch[i] = mine.crc != u->cells[i].crc || mine.valid != u->cells[i].valid;
        different += u->fetch[i];
    }
    return different;
}

/* Cells that are equal by their checksums are read from the disk; one that is not right there is fetched like the others. */
static int read_equal(struct update *u)
{
    int err = volume_file_sync(u->volume, u->chunk);
    for (uint32_t i = 0; i < u->n && err == 0;) {
        uint32_t end = i;
        uint64_t bad = 0;
        if (u->fetch[i]) {
            i++;
            continue;
        }
        while (end < u->n && !u->fetch[end] && end - i < BACKGROUND_WINDOW_BYTES / CELL_BYTES)
            end++;
        uint64_t at = (uint64_t)i * CELL_BYTES, length = end_of(u, end) - at;
        err = background_take(u->background, length);
        if (err == 0)
            err = readback_window(u->volume, u->chunk, at, length, &bad);
        i = end;
        if (err == -E_CORRUPT || err == -E_IO) {
            i = (uint32_t)(bad / CELL_BYTES);
            u->fetch[i++] = true;
            err = 0;
        }
    }
    return err;
}

/* ------------------------------------------------------------------ fetching it */
/* The next run of cells to fetch from *at on, a window at most. */
static bool next_run(const struct update *u, uint32_t *at, uint32_t *ret_end)
{
    while (*at < u->n && !u->fetch[*at])
        ++*at;
    uint32_t end = *at;
    while (end < u->n && u->fetch[end] && end - *at < BACKGROUND_WINDOW_BYTES / CELL_BYTES)
        end++;
    *ret_end = end;
    return end > *at;
}

/* Over bytes that are valid it goes through the journal (V1); a file that was cut short gets the rest directly. */
static int fetch_runs(struct update *u)
{
    uint8_t *buf;
    int err = buffers_get(&u->volume->buffers, BACKGROUND_WINDOW_BYTES, &buf);
    if (err != 0)
        return err;
    for (uint32_t at = 0, end; err == 0 && next_run(u, &at, &end); at = end)
        err = pull_window(u->background, u->from, u->chunk, u->generation, (uint64_t)at * CELL_BYTES,
                          (size_t)(end_of(u, end) - (uint64_t)at * CELL_BYTES), buf);
    buffers_put(&u->volume->buffers, BACKGROUND_WINDOW_BYTES, buf);
    return err;
}

static int read_back_runs(struct update *u)
{
    int err = volume_file_sync(u->volume, u->chunk);
    for (uint32_t at = 0, end; err == 0 && next_run(u, &at, &end); at = end)
        err = readback_window(u->volume, u->chunk, (uint64_t)at * CELL_BYTES, end_of(u, end) - (uint64_t)at * CELL_BYTES, NULL);
    return err;
}

/* Partial on disk before a cell changes: a mixture of two versions never survives a crash. */
static int change(struct update *u)
{
    struct chunk *c = u->chunk;
    uint32_t flags = (c->flags & ~CHUNK_SEALED) | CHUNK_PARTIAL;
    int err = put_state(u->volume, c, u->generation, flags, true);
    if (err == 0 && c->length > u->from->length)
        err = put_truncate(u->volume, c, u->generation, u->from->length);
    if (err == 0)
        err = fetch_runs(u);
    if (err == 0)
        err = read_back_runs(u);
    if (err == 0)
        err = put_seal(u->volume, c, u->generation, u->from->length);
    return err == 0 && chunk_digest(c) != u->from->digest ? -E_CORRUPT : err;
}

static void count_saved(const struct update *u)
{
    for (uint32_t i = 0; i < u->n; i++)
        u->background->store->counters.bytes_saved += u->fetch[i] ? 0 : u->cells[i].valid;
}

static int update(struct update *u)
{
    struct chunk *c = u->chunk;
    int err = pull_cells(u->from, u->cells);
    if (err == -E_NOTSUP)
        return -E_CONFLICT; /* of the version before: it does not tell them */
    if (err != 0)
        return err;
    if (count_different(u) > u->n / 2)
        return -E_CONFLICT;
    err = read_equal(u);
    if (err != 0)
        return err;
    uint32_t at = 0, end;
    if ((c->flags & CHUNK_SEALED) != 0 && c->length == u->from->length && !next_run(u, &at, &end))
        err = put_seal(u->volume, c, u->generation, c->length);
    else
        err = (c->flags & CHUNK_EXPOSED) != 0 ? -E_CONFLICT : change(u);
    if (err == 0)
        count_saved(u);
    return err;
}

int update_chunk(struct background *b, const struct pull *from, struct chunk *c, uint64_t generation)
{
    struct update *u = calloc(1, sizeof *u);
    if (u == NULL)
        return -E_NOMEM;
    *u = (struct update){.background = b, .from = from, .volume = b->volume, .chunk = c, .generation = generation,
                         .n = (uint32_t)((from->length + CELL_BYTES - 1) / CELL_BYTES)};
    int err = update(u); /* a partial one, too: what was set aside, or what a copy under way has brought */
    free(u);
    return err;
}
