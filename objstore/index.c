#include "index.h"

#include "common/check.h"
#include "common/err.h"

void index_init(struct index *index, void (*forget)(void *arg, struct chunk *chunk), void *arg)
{
    *index = (struct index){.forget = forget, .arg = arg};
    list_init(&index->dirty);
}

static void chunk_free(struct index *index, struct chunk *chunk)
{
    CHECK(list_empty(&chunk->ranges) && chunk->pins == 0);
    index->forget(index->arg, chunk);
    list_remove(&chunk->dirty);
    free(chunk->cells);
    free(chunk);
}

void index_fini(struct index *index)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    while (map_next(&index->chunks, &at, &id, &value)) {
        struct chunk *chunk = value;
        CHECK(chunk->refs == 1);
        map_remove(&index->chunks, id);
        chunk_free(index, chunk);
    }
    map_fini(&index->chunks);
    writer_fini(&index->tombstones);
}

struct chunk *index_get(struct index *index, uint64_t id)
{
    struct chunk *chunk = map_get(&index->chunks, id);
    if (chunk != NULL)
        chunk->refs++;
    return chunk;
}

int index_get_or_make(struct index *index, uint64_t id, struct chunk **ret)
{
    *ret = index_get(index, id);
    if (*ret != NULL)
        return 0;
    struct chunk *chunk = calloc(1, sizeof *chunk);
    if (chunk == NULL)
        return -E_NOMEM;
    chunk->id = id;
    chunk->refs = 2;
    list_init(&chunk->ranges);
    list_init(&chunk->dirty);
    list_init(&chunk->lru);
    list_init(&chunk->unsynced);
    list_init(&chunk->unflushed);
    int err = map_put(&index->chunks, id, chunk);
    if (err != 0) {
        free(chunk);
        return err;
    }
    *ret = chunk;
    return 0;
}

bool chunk_is_real(const struct chunk *chunk)
{
    return !chunk->dead && chunk->generation != 0;
}

void chunk_unref(struct index *index, struct chunk *chunk)
{
    CHECK(chunk->refs > 0);
    chunk->refs--;
    /* Made by somebody whose write then failed: as if it had never been there. */
    if (chunk->refs == 1 && !chunk->dead && !chunk_is_real(chunk)) {
        map_remove(&index->chunks, chunk->id);
        chunk->refs = 0;
    }
    if (chunk->refs == 0)
        chunk_free(index, chunk);
}

int chunk_reserve(struct chunk *chunk, uint32_t n)
{
    CHECK(n <= CHUNK_CELLS_MAX);
    if (n <= chunk->cap_cells)
        return 0;
    /* One cell for a small object; doubling after that: 64 MiB take ten steps. */
    uint32_t cap = MIN((uint32_t)CHUNK_CELLS_MAX, MAX(n, chunk->cap_cells * 2));
    struct cell *cells = realloc(chunk->cells, cap * sizeof *cells);
    if (cells == NULL)
        return -E_NOMEM;
    memset(cells + chunk->cap_cells, 0, (cap - chunk->cap_cells) * sizeof *cells);
    chunk->cells = cells;
    chunk->cap_cells = cap;
    return 0;
}

uint32_t cell_digest(uint32_t digest, uint32_t crc)
{
    uint8_t le[4] = {(uint8_t)crc, (uint8_t)(crc >> 8), (uint8_t)(crc >> 16), (uint8_t)(crc >> 24)};
    return crc32c(digest, le, sizeof le);
}

uint32_t chunk_digest(const struct chunk *chunk)
{
    uint32_t digest = 0;
    uint64_t n = (chunk->length + CELL_BYTES - 1) / CELL_BYTES;
    for (uint64_t i = 0; i < n; i++)
        digest = cell_digest(digest, chunk_cell(chunk, i).crc);
    return digest;
}

/* ------------------------------------------------------------------ changes */
static uint64_t entry_bytes(const struct chunk *chunk)
{
    return INDEX_ENTRY_BYTES + 8ull * chunk->n_cells;
}

static void drop_from_table(struct index *index, struct chunk *chunk)
{
    map_remove(&index->chunks, chunk->id);
    if (chunk_is_real(chunk))
        index->bytes -= entry_bytes(chunk);
    if (!list_empty(&chunk->dirty)) {
        index->dirty_bytes -= MIN(index->dirty_bytes, entry_bytes(chunk));
        list_remove(&chunk->dirty);
    }
    chunk->dead = true;
    chunk_unref(index, chunk);
}

static int apply_delete(struct index *index, uint64_t id)
{
    writer_u64(&index->tombstones, id);
    if (index->tombstones.failed)
        return -E_NOMEM;
    struct chunk *chunk = map_get(&index->chunks, id);
    if (chunk != NULL)
        drop_from_table(index, chunk);
    return 0;
}

static void cells_cut(struct chunk *chunk, uint64_t length)
{
    uint64_t keep = (length + CELL_BYTES - 1) / CELL_BYTES;
    for (uint64_t i = keep; i < chunk->n_cells; i++)
        chunk->cells[i] = (struct cell){0, 0};
    chunk->n_cells = (uint32_t)MIN(keep, (uint64_t)chunk->n_cells);
}

static void cells_replace(struct chunk *chunk, const struct record *record)
{
    for (uint32_t i = 0; i < record->n_cells; i++)
        chunk->cells[record->first_cell + i] = record_cell(record, i);
    chunk->n_cells = MAX(chunk->n_cells, record->first_cell + record->n_cells);
}

static void account(struct index *index, struct chunk *chunk, bool was_real, uint64_t before)
{
    index->bytes += entry_bytes(chunk);
    if (was_real)
        index->bytes -= before;
    if (list_empty(&chunk->dirty)) {
        list_append(&index->dirty, &chunk->dirty);
        index->dirty_bytes += entry_bytes(chunk);
    } else if (entry_bytes(chunk) > before) {
        index->dirty_bytes += entry_bytes(chunk) - before;
    }
}

int index_apply(struct index *index, const struct record *record)
{
    if (record->type == RECORD_MARK)
        return 0;
    if (record->type == RECORD_DELETE)
        return apply_delete(index, record->chunk);
    struct chunk *chunk;
    int err = index_get_or_make(index, record->chunk, &chunk);
    if (err != 0)
        return err;
    err = chunk_reserve(chunk, record->first_cell + record->n_cells);
    if (err == 0) {
        bool was_real = chunk_is_real(chunk);
        uint64_t before = entry_bytes(chunk);
        chunk->generation = MAX(record->generation, (uint64_t)1);
        chunk->flags = record->flags;
        if (record->type == RECORD_WRITE)
            chunk->length = MAX(chunk->length, record->length);
        else if (record->type != RECORD_STATE) {
            chunk->length = record->length;
            cells_cut(chunk, record->length);
        }
        if (record->type != RECORD_STATE) {
            cells_replace(chunk, record);
            chunk->verified = false;
        }
        account(index, chunk, was_real, before);
    }
    chunk_unref(index, chunk);
    return err;
}

bool index_is_dirty(const struct index *index)
{
    return !list_empty(&index->dirty) || index->tombstones.len > 0;
}

/* ------------------------------------------------------------------ checkpoints */
static void dump_chunk(const struct chunk *chunk, struct writer *w, uint64_t *count)
{
    struct index_entry entry = {.chunk = chunk->id, .generation = chunk->generation, .length = chunk->length,
                                .flags = chunk->flags, .n_cells = chunk->n_cells, .cells = chunk->cells};
    index_entry_encode(w, &entry);
    (*count)++;
}

void index_dump(struct index *index, bool full, struct writer *w, uint64_t *ret_count)
{
    uint64_t count = 0;
    struct reader dead = reader_init(index->tombstones.data, index->tombstones.len);
    while (!full && reader_left(&dead) > 0) {
        struct index_entry entry = {.chunk = reader_u64(&dead), .dead = true};
        index_entry_encode(w, &entry);
        count++;
    }
    if (full) {
        size_t at = 0;
        uint64_t id;
        void *value;
        while (map_next(&index->chunks, &at, &id, &value))
            if (chunk_is_real(value))
                dump_chunk(value, w, &count);
    }
    list_foreach_safe(&index->dirty, it, next) {
        if (!full)
            dump_chunk(list_entry(it, struct chunk, dirty), w, &count);
        list_remove(it);
    }
    index->tombstones.len = 0;
    index->dirty_bytes = 0;
    *ret_count = count;
}

int index_load(struct index *index, const struct index_entry *entry)
{
    struct chunk *chunk;
    if (entry->dead) {
        chunk = map_get(&index->chunks, entry->chunk);
        if (chunk != NULL)
            drop_from_table(index, chunk);
        return 0;
    }
    int err = index_get_or_make(index, entry->chunk, &chunk);
    if (err != 0)
        return err;
    err = chunk_reserve(chunk, entry->n_cells);
    if (err == 0) {
        if (chunk_is_real(chunk))
            index->bytes -= entry_bytes(chunk);
        chunk->generation = MAX(entry->generation, (uint64_t)1);
        chunk->length = entry->length;
        chunk->flags = entry->flags;
        cells_cut(chunk, 0);
        for (uint32_t i = 0; i < entry->n_cells; i++)
            chunk->cells[i] = index_entry_cell(entry, i);
        chunk->n_cells = entry->n_cells;
        index->bytes += entry_bytes(chunk);
    }
    chunk_unref(index, chunk);
    return err;
}

/* ------------------------------------------------------------------ ranges */
static bool ranges_conflict(const struct range *a, const struct range *b)
{
    return (a->write || b->write) && a->first <= b->last && b->first <= a->last;
}

static bool must_wait(const struct chunk *chunk, const struct range *range)
{
    for (const struct list *it = chunk->ranges.next; it != &range->link; it = it->next)
        if (ranges_conflict(list_entry(it, const struct range, link), range))
            return true;
    return false;
}

int chunk_lock(struct chunk *chunk, struct range *range, uint32_t first, uint32_t last, bool write)
{
    CHECK(first <= last && last < CHUNK_CELLS_MAX);
    *range = (struct range){.first = first, .last = last, .write = write};
    list_append(&chunk->ranges, &range->link);
    while (must_wait(chunk, range)) {
        int err = fiber_queue_wait(&chunk->range_waiters, 0);
        if (err != 0) {
            chunk_unlock(chunk, range);
            return err;
        }
    }
    return 0;
}

void chunk_unlock(struct chunk *chunk, struct range *range)
{
    list_remove(&range->link);
    fiber_queue_wake_all(&chunk->range_waiters);
}
