#include "get.h"

#include "verified.h"
#include "common/check.h"
#include "common/err.h"

/* Compares and completes one cell in memory: zeros behind its valid bytes. */
static int cell_check(const struct chunk *c, uint64_t i, uint8_t *at, size_t size)
{
    struct cell cell = chunk_cell(c, i);
    if (cell.valid > 0 && crc32c(0, at, cell.valid) != cell.crc)
        return -E_CORRUPT;
    if (cell.valid < size)
        memset(at + cell.valid, 0, size - cell.valid);
    return 0;
}

/* How far into the file the cells [first, last] reach. */
static uint64_t stored_end(const struct chunk *c, uint64_t first, uint64_t last)
{
    for (uint64_t i = last + 1; i > first; i--)
        if (chunk_cell(c, i - 1).valid > 0)
            return (i - 1) * CELL_BYTES + chunk_cell(c, i - 1).valid;
    return first * CELL_BYTES;
}

static int read_cells(struct volume *v, struct chunk *c, uint64_t first, uint64_t last, uint8_t *buf)
{
    uint64_t start = first * CELL_BYTES, end = stored_end(c, first, last);
    if (end > start) {
        struct io_file *file;
        int err = volume_file(v, c, FILE_BUFFERED, false, &file);
        if (err == -E_NOENT) {
            damage_note(&v->damages, c, first);
            return -E_CORRUPT;
        }
        if (err != 0)
            return err;
        int64_t n = io_pread(file, buf, end - start, start);
        volume_file_done(v, c);
        if (n == -E_IO)
            damage_note(&v->damages, c, first); /* or one behind it: the repair looks at all */
        if (n < 0)
            return (int)n;
        /* A file that is too short fails the checksums below. */
        memset(buf + n, 0, end - start - (uint64_t)n);
    }
    for (uint64_t i = first; i <= last; i++) {
        int err = cell_check(c, i, buf + (i - first) * CELL_BYTES, CELL_BYTES);
        if (err != 0) {
            damage_note(&v->damages, c, i);
            return err;
        }
    }
    return 0;
}

int get_read(struct volume *v, struct chunk *c, uint64_t offset, uint64_t length, struct get *ret)
{
    CHECK(length <= FRAME_PAYLOAD_MAX);
    *ret = (struct get){0};
    if (c->broken != 0)
        return c->broken;
    if (offset >= c->length || length == 0)
        return 0;
    length = MIN(length, c->length - offset);
    uint64_t first = offset / CELL_BYTES, last = (offset + length - 1) / CELL_BYTES;
    struct get get = {.size = (last - first + 1) * CELL_BYTES, .skip = offset % CELL_BYTES, .length = length};
    int err = buffers_get(&v->buffers, get.size, &get.buffer);
    if (err == 0)
        err = read_cells(v, c, first, last, get.buffer);
    if (err != 0) {
        get_fini(v, &get);
        if (err == -E_CORRUPT)
            verified_gone(v, c); /* not handed out any more before it was read whole again */
        return err;
    }
    *ret = get;
    return 0;
}

void get_fini(struct volume *v, struct get *get)
{
    buffers_put(&v->buffers, get->size, get->buffer);
    get->buffer = NULL;
}

size_t get_crcs(const struct chunk *c, uint64_t offset, const struct get *get, uint32_t crcs[GET_PIECES_MAX])
{
    size_t n = 0;
    for (uint64_t at = offset, end = offset + get->length; at < end; n++) {
        uint64_t i = at / CELL_BYTES, stop = MIN(end, (i + 1) * CELL_BYTES);
        struct cell cell = chunk_cell(c, i);
        CHECK(n < GET_PIECES_MAX);
        if (at % CELL_BYTES == 0 && stop - at == cell.valid)
            crcs[n] = cell.crc;
        else
            crcs[n] = crc32c(0, get->buffer + get->skip + (at - offset), stop - at);
        at = stop;
    }
    return n;
}

int get_verify(struct volume *v, struct chunk *c)
{
    for (uint64_t at = 0; at < c->length && !c->verified; at += MIB(1)) {
        struct get get;
        int err = get_read(v, c, at, MIB(1), &get);
        if (err != 0)
            return err;
        get_fini(v, &get);
    }
    verified_note(v, c);
    return 0;
}
