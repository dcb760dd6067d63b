#include "readback.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

static bool cell_matches(const struct chunk *c, uint64_t i, const uint8_t *at)
{
    struct cell cell = chunk_cell(c, i);
    return cell.valid == 0 || crc32c(0, at, cell.valid) == cell.crc;
}

/* Whole blocks, as O_DIRECT wants it. What the file does not have is zeros, and fails the checksums. */
static int read_direct(struct volume *v, struct chunk *c, uint64_t offset, size_t size, uint8_t *buf)
{
    struct io_file *file;
    int err = volume_file(v, c, FILE_DIRECT, false, &file);
    if (err != 0)
        return err == -E_NOENT ? -E_CORRUPT : err;
    int64_t n = io_pread(file, buf, size, offset);
    volume_file_done(v, c);
    if (n < 0)
        return (int)n;
    memset(buf + n, 0, size - (size_t)n);
    return 0;
}

static bool any_stored(const struct chunk *c, uint64_t first, uint64_t end)
{
    for (uint64_t i = first; i < end; i++)
        if (chunk_cell(c, i).valid > 0)
            return true;
    return false;
}

int readback_window(struct volume *v, struct chunk *c, uint64_t offset, uint64_t length, uint64_t *ret_bad)
{
    CHECK(offset % CELL_BYTES == 0 && length <= MIB(1));
    uint64_t first = offset / CELL_BYTES, end = (offset + length + CELL_BYTES - 1) / CELL_BYTES, bad = offset;
    size_t size = (end - first) * CELL_BYTES;
    uint8_t *buf;
    if (c->broken != 0)
        return c->broken;
    if (!any_stored(c, first, end))
        return 0;
    int err = buffers_get(&v->buffers, size, &buf);
    if (err != 0)
        return err;
    err = read_direct(v, c, offset, size, buf);
    for (uint64_t i = first; i < end && err == 0; i++)
        if (!cell_matches(c, i, buf + (i - first) * CELL_BYTES)) {
            bad = i * CELL_BYTES;
            err = -E_CORRUPT;
        }
    buffers_put(&v->buffers, size, buf);
    if (err == -E_CORRUPT)
        log_error("chunk %llx generation %llu: on the disk the cell at %llu does not match its checksum",
                  (unsigned long long)c->id, (unsigned long long)c->generation, (unsigned long long)bad);
    if (ret_bad != NULL && (err == -E_CORRUPT || err == -E_IO))
        *ret_bad = bad;
    return err;
}
