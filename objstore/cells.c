#include "cells.h"

#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>

unsigned cell_set_count(const struct cell_set *set)
{
    unsigned n = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(set->bits); i++)
        n += (unsigned)__builtin_popcountll(set->bits[i]);
    return n;
}

int cells_open(struct volume *v, const struct chunk *c, enum cells_way way, struct io_file **ret)
{
    char path[512];
    volume_chunk_path(v, c->id, path);
    int err = -E_INVAL;
    if (way == CELLS_DISK)
        err = io_open(v->io, path, O_RDONLY | O_DIRECT, 0, ret);
    return err == -E_INVAL ? io_open(v->io, path, O_RDONLY, 0, ret) : err;
}

static bool right(struct cell cell, const uint8_t *data, uint64_t n)
{
    return n >= cell.valid && crc32c(0, data, cell.valid) == cell.crc;
}

int cells_look_one(struct io_file *file, uint32_t i, struct cell cell, uint8_t *buf, bool *ret_right)
{
    *ret_right = cell.valid == 0;
    if (cell.valid == 0)
        return 0;
    int64_t got = io_pread(file, buf, CELL_BYTES, (uint64_t)i * CELL_BYTES);
    if (got < 0 && got != -E_IO)
        return (int)got;
    *ret_right = got >= 0 && right(cell, buf, (uint64_t)got);
    return 0;
}

/* A sector that cannot be read fails the whole window: its neighbours are read on their own. */
static int look_singly(struct io_file *file, const struct chunk *c, uint32_t first, uint32_t n, uint8_t *buf, struct cell_set *bad)
{
    int err = 0;
    for (uint32_t i = first; i < first + n && err == 0; i++) {
        bool is_right;
        err = cells_look_one(file, i, chunk_cell(c, i), buf, &is_right);
        if (err == 0 && !is_right)
            cell_set_add(bad, i);
    }
    return err;
}

int cells_look(struct io_file *file, const struct chunk *c, uint32_t first, uint32_t n, uint8_t *buf, struct cell_set *bad)
{
    CHECK(n <= CELLS_WINDOW && first + n <= CHUNK_CELLS_MAX);
    int64_t got = io_pread(file, buf, (size_t)n * CELL_BYTES, (uint64_t)first * CELL_BYTES);
    if (got == -E_IO)
        return look_singly(file, c, first, n, buf, bad);
    if (got < 0)
        return (int)got;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t at = (uint64_t)i * CELL_BYTES, left = (uint64_t)got > at ? (uint64_t)got - at : 0;
        struct cell cell = chunk_cell(c, first + i);
        if (cell.valid > 0 && !right(cell, buf + at, left))
            cell_set_add(bad, first + i);
    }
    return 0;
}

static void all_bad(const struct chunk *c, uint32_t first, uint32_t n, struct cell_set *bad)
{
    for (uint32_t i = first; i < first + n; i++)
        if (chunk_cell(c, i).valid > 0)
            cell_set_add(bad, i);
}

/* Only the whole file is the object that tasks and descriptors read: a byte more or less is damage. */
static int check_length(struct io_file *file, const struct chunk *c, uint32_t first, uint32_t n, struct cell_set *bad)
{
    uint32_t last = MAX(cells_of(c), 1u) - 1;
    uint64_t size;
    if ((c->flags & CHUNK_SEALED) == 0 || last < first || last >= first + n)
        return 0;
    int err = io_size(file, &size);
    if (err == 0 && size != c->length)
        cell_set_add(bad, last);
    return err;
}

int cells_check(struct volume *v, const struct chunk *c, enum cells_way way, uint32_t first, uint32_t n, uint8_t *buf,
                struct cell_set *bad)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    int err = cells_open(v, c, way, &file);
    if (err == -E_NOENT || err == -E_IO) {
        all_bad(c, first, n, bad);
        return 0;
    }
    if (err == 0)
        err = cells_look(file, c, first, n, buf, bad);
    return err != 0 ? err : check_length(file, c, first, n, bad);
}
