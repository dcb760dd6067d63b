/* The files: every chunk's cells, lengths, and what belongs to nobody. */
#include "check.h"

#include "common/err.h"

#include <fcntl.h>
#include <stdio.h>

/* What the journal will write into the file, over what was read of it. */
static void overlay(const struct check_pending *p, uint64_t offset, uint64_t n, uint8_t *buf)
{
    if (p == NULL)
        return;
    list_foreach(&p->redos, it) {
        const struct check_redo *redo = list_entry(it, const struct check_redo, link);
        uint64_t from = MAX(redo->offset, offset), end = MIN(redo->offset + redo->len, offset + n);
        if (from < end)
            memcpy(buf + (from - offset), redo->data + (from - redo->offset), end - from);
    }
}

static int read_cell(struct io_file *file, uint32_t i, uint8_t *buf)
{
    int64_t n = file == NULL ? 0 : io_pread(file, buf, CELL_BYTES, (uint64_t)i * CELL_BYTES);
    if (n < 0)
        return (int)n;
    memset(buf + n, 0, CELL_BYTES - (size_t)n);
    return 0;
}

static int look_cells(struct volume_checker *check, const struct chunk *c, struct io_file *file, const struct check_pending *p)
{
    uint64_t bad = 0;
    for (uint32_t i = 0; i < c->n_cells; i++) {
        struct cell cell = chunk_cell(c, i);
        if (cell.valid == 0)
            continue;
        int err = read_cell(file, i, check->buf);
        if (err != 0 && err != -E_IO)
            return err;
        overlay(p, (uint64_t)i * CELL_BYTES, CELL_BYTES, check->buf);
        check->sum->bytes += cell.valid;
        if (err == 0 && crc32c(0, check->buf, cell.valid) == cell.crc)
            continue;
        bool doubt = p != NULL && cell_set_has(&p->doubt, i);
        bad += !doubt;
        volume_check_tell(check, !doubt, "chunk %016llx generation %llu: cell %u (byte %llu) %s", (unsigned long long)c->id,
                          (unsigned long long)c->generation, i, (unsigned long long)i * CELL_BYTES,
                          doubt      ? "was not yet on disk when the store stopped; nobody was told that it was"
                          : err != 0 ? "cannot be read: input/output error"
                                     : "does not match its checksum");
    }
    check->sum->damaged_cells += bad;
    check->sum->damaged_chunks += bad > 0;
    return 0;
}

/* Complete cells, and a file of exactly that length; a seal that the journal still has is carried out at the next start. */
static int look_sealed(struct volume_checker *check, const struct chunk *c, struct io_file *file, const struct check_pending *p)
{
    uint64_t size = 0;
    for (uint32_t i = 0; i < cells_of(c); i++)
        if (chunk_cell(c, i).valid != MIN(CELL_BYTES, c->length - (uint64_t)i * CELL_BYTES)) {
            volume_check_tell(check, true, "chunk %016llx is sealed and cell %u of it is not complete", (unsigned long long)c->id, i);
            break;
        }
    int err = file != NULL ? io_size(file, &size) : 0;
    if (err == 0 && size != c->length && !(p != NULL && size > c->length))
        volume_check_tell(check, true, "chunk %016llx is sealed with %llu bytes and its file has %llu", (unsigned long long)c->id,
                          (unsigned long long)c->length, (unsigned long long)size);
    return err;
}

static bool has_content(const struct chunk *c)
{
    for (uint32_t i = 0; i < c->n_cells; i++)
        if (chunk_cell(c, i).valid > 0)
            return true;
    return false;
}

int volume_check_chunk(struct volume_checker *check, const struct chunk *c)
{
    char path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    const struct check_pending *p = map_get(&check->pending, c->id);
    if ((c->flags & CHUNK_PARTIAL) != 0) /* the next start drops it */
        return 0;
    check->sum->chunks++;
    check->sum->sealed += (c->flags & CHUNK_SEALED) != 0;
    volume_chunk_path(check->volume, c->id, path);
    int err = io_open(check->volume->io, path, O_RDONLY, 0, &file);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (err == -E_NOENT && has_content(c) && p == NULL) {
        check->sum->lost_files++;
        check->sum->damaged_chunks++;
        volume_check_tell(check, true, "chunk %016llx has no file", (unsigned long long)c->id);
        return 0;
    }
    err = (c->flags & CHUNK_SEALED) != 0 && (file != NULL || p == NULL) ? look_sealed(check, c, file, p) : 0;
    return err == 0 && !check->fast ? look_cells(check, c, file, p) : err;
}

/* ------------------------------------------------------------------ files */
static int see_name(void *arg, const char *name)
{
    struct volume_checker *check = arg;
    char *end;
    uint64_t id = strtoull(name, &end, 16);
    if (strlen(name) != 16 || *end != '\0' || map_get(&check->volume->index.chunks, id) != NULL)
        return 0;
    check->sum->strays++;
    volume_check_tell(check, false, "the file of chunk %s belongs to no chunk: the next start removes it", name);
    return 0;
}

int volume_check_files(struct volume_checker *check)
{
    char path[512];
    int err = 0;
    for (unsigned shard = 0; shard < VOLUME_SHARDS && err == 0; shard++) {
        snprintf(path, sizeof path, "%s/chunks/%02x", check->volume->dir, shard);
        err = io_list(check->volume->io, path, see_name, check);
        if (err == -E_NOENT) {
            volume_check_tell(check, true, "the directory chunks/%02x is missing", shard);
            err = 0;
        }
    }
    return err;
}
