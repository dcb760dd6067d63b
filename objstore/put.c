#include "put.h"

#include "get.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"


size_t put_pieces(uint64_t offset, size_t length)
{
    return length == 0 ? 0 : (offset + length - 1) / CELL_BYTES - offset / CELL_BYTES + 1;
}

/* One piece of a write: the bytes of it that fall into one cell. */
struct piece {
    uint64_t cell;
    uint32_t start, end;  /* in the cell */
    const uint8_t *data;
    uint32_t crc;
};

static struct piece piece_at(const struct put *put, size_t i)
{
    uint64_t cell = put->offset / CELL_BYTES + i;
    uint64_t start = MAX(put->offset, cell * CELL_BYTES);
    uint64_t end = MIN(put->offset + put->length, (cell + 1) * CELL_BYTES);
    return (struct piece){.cell = cell, .start = (uint32_t)(start - cell * CELL_BYTES),
                          .end = (uint32_t)(end - cell * CELL_BYTES), .data = put->data + (start - put->offset),
                          .crc = put->crcs[i]};
}

int put_check(const struct put *put)
{
    if (put->length == 0 || put->length > FRAME_PAYLOAD_MAX || put->offset > CHUNK_BYTES_MAX ||
        put->length > CHUNK_BYTES_MAX - put->offset)
        return -E_INVAL;
    if (put->n_crcs != put_pieces(put->offset, put->length))
        return -E_INVAL;
    for (size_t i = 0; i < put->n_crcs; i++) {
        struct piece piece = piece_at(put, i);
        if (crc32c(0, piece.data, piece.end - piece.start) != piece.crc)
            return -E_CORRUPT;
    }
    return 0;
}

static int check_open(const struct chunk *c, const struct record *record)
{
    if ((c->flags & CHUNK_SEALED) != 0 || record->generation < c->generation)
        return -E_STALE;
    return c->broken;
}

/* ------------------------------------------------------------------ write */
static uint32_t crc_zeros(uint32_t crc, size_t n)
{
    static const uint8_t zeros[4096];
    for (; n > sizeof zeros; n -= sizeof zeros)
        crc = crc32c(crc, zeros, sizeof zeros);
    return crc32c(crc, zeros, n);
}

/* Old content and new bytes together: the old cell is read and compared first. */
static int cell_merge(struct volume *v, struct chunk *c, const struct piece *piece, struct cell *ret)
{
    struct get get;
    struct cell old = chunk_cell(c, piece->cell);
    int err = get_read(v, c, piece->cell * CELL_BYTES, old.valid, &get);
    if (err != 0)
        return err;
    CHECK(get.length == old.valid);
    memcpy(get.buffer + piece->start, piece->data, piece->end - piece->start);
    ret->valid = MAX(old.valid, piece->end);
    ret->crc = crc32c(0, get.buffer, ret->valid);
    get_fini(v, &get);
    return 0;
}

static int cell_after(struct volume *v, struct chunk *c, const struct piece *piece, struct cell *ret)
{
    struct cell old = chunk_cell(c, piece->cell);
    if (piece->start == 0 && piece->end >= old.valid) {
        *ret = (struct cell){piece->crc, piece->end};
        return 0;
    }
    if (piece->start < old.valid)
        return cell_merge(v, c, piece, ret);
    uint32_t crc = crc_zeros(old.crc, piece->start - old.valid);
    *ret = (struct cell){crc32c(crc, piece->data, piece->end - piece->start), piece->end};
    return 0;
}

/* The pieces from here to the end can go straight into the file. */
static size_t direct_from(const struct chunk *c, const struct put *put)
{
    size_t i = put->n_crcs;
    for (; i > 0; i--) {
        struct piece piece = piece_at(put, i - 1);
        if (piece.start != 0 || chunk_cell(c, piece.cell).valid != 0)
            break;
    }
    uint64_t start = MAX(put->offset, (put->offset / CELL_BYTES + i) * CELL_BYTES);
    return put->offset + put->length - MIN(start, put->offset + put->length) > PUT_JOURNAL_BYTES ? i : put->n_crcs;
}

static int write_direct(struct volume *v, struct chunk *c, const uint8_t *data, uint64_t offset, size_t length)
{
    struct io_file *file;
    uint8_t *bounce = NULL;
    size_t padded = round_up_u64(length, BLOCK_BYTES);
    int err = volume_file(v, c, FILE_DIRECT, true, &file);
    if (err != 0)
        return err;
    err = volume_file_allocate(v, c, file, offset + padded);
    if (err == 0 && (uintptr_t)data % BLOCK_BYTES != 0) {
        err = buffers_get(&v->buffers, padded, &bounce);
        if (err == 0)
            data = memcpy(bounce, data, length);
    }
    if (err == 0)
        err = io_pwrite(file, data, padded, offset);
    buffers_put(&v->buffers, padded, bounce);
    volume_file_written(v, c, true);
    volume_file_done(v, c);
    return err;
}

/* The journaled bytes into the file. It must work, or the chunk is not readable until a restart. */
static void carry(struct volume *v, struct chunk *c, const struct record *record)
{
    static uint8_t zeros[CELL_BYTES];
    struct io_file *file;
    int err = volume_file(v, c, FILE_BUFFERED, true, &file);
    if (err == 0) {
        struct iovec iov[2] = {{zeros, record->data_zeros},
                               {(void *)record->data, record->data_len - record->data_zeros}};
        if (record->data_zeros > 0)
            err = volume_write_surely(v, file, iov, 2, record->data_offset);
        else
            err = volume_write_surely(v, file, iov + 1, 1, record->data_offset);
        volume_file_written(v, c, false);
        volume_file_done(v, c);
    }
    if (err != 0 && err != -E_CANCELED)
        log_error("chunk %llx: cannot carry a journaled write to its file: %s", (unsigned long long)c->id,
                  err_sentence(err));
    if (err != 0)
        c->broken = err == -E_CANCELED ? err : -E_IO;
}

/* The first `n` pieces travel in the record, with zeros for a gap in front of the first. */
static void fill_data(const struct chunk *c, const struct put *put, size_t n, struct record *record)
{
    if (n == 0)
        return;
    struct piece first = piece_at(put, 0), last = piece_at(put, n - 1);
    uint32_t valid = chunk_cell(c, first.cell).valid;
    record->data_zeros = first.start > valid ? first.start - valid : 0;
    record->data_offset = put->offset - record->data_zeros;
    record->data = put->data;
    record->data_len = (uint32_t)(last.cell * CELL_BYTES + last.end - record->data_offset);
}

/* When a change must be on disk. */
enum durable {
    DURABLE_LATER,  /* with the next sync */
    DURABLE_REPLY,  /* before the caller goes on */
    DURABLE_FIRST   /* also before the file is touched: bytes that were valid are written over */
};

/* A record that changes valid bytes must be on disk before the file is: if power is lost in between,
 * the old checksums would stand beside the new bytes, and a cell that was synced would be lost. */
static int commit_write(struct volume *v, struct chunk *c, struct record *record, enum durable when)
{
    int err = volume_record(v, c, record, check_open);
    if (err != 0)
        return err;
    err = journal_commit(v->journal, record->lsn, when == DURABLE_FIRST);
    if (record->data_len > 0) {
        if (err == 0)
            carry(v, c, record);
        else
            c->broken = err;
        if (c->broken == 0)
            journal_applied(v->journal, record);
        else
            journal_fail(v->journal, c->broken); /* its segment must stay for the next start */
    }
    if (err == 0 && when == DURABLE_REPLY)
        err = journal_commit(v->journal, record->lsn, true);
    return err != 0 ? err : c->broken;
}

static bool writes_over(const struct chunk *c, const struct put *put)
{
    for (size_t i = 0; i < put->n_crcs; i++) {
        struct piece piece = piece_at(put, i);
        if (piece.start < chunk_cell(c, piece.cell).valid)
            return true;
    }
    return false;
}

/* What the put may take of the disk: nothing for bytes that are there, or that were asked from the file system before. */
static uint64_t new_bytes(const struct chunk *c, const struct put *put)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < put->n_crcs; i++) {
        struct piece piece = piece_at(put, i);
        uint32_t valid = chunk_cell(c, piece.cell).valid;
        if (piece.end > valid && (piece.cell + 1) * CELL_BYTES > c->allocated)
            sum += piece.end - valid;
    }
    return sum;
}

/* A record that is journaled must get into its file: with little space its blocks are there first. */
static int allocate_first(struct volume *v, struct chunk *c, const struct record *record)
{
    struct io_file *file;
    int err = volume_file(v, c, FILE_BUFFERED, true, &file);
    if (err != 0)
        return err;
    err = volume_file_allocate(v, c, file, record->data_offset + record->data_len);
    volume_file_done(v, c);
    return err;
}

int put_bytes(struct volume *v, struct chunk *c, const struct put *put)
{
    struct cell cells[PUT_PIECES_MAX];
    uint64_t first = put->offset / CELL_BYTES, end = put->offset + put->length;
    struct record record = {.type = RECORD_WRITE, .flags = c->flags | put->flags,
                            .generation = MAX(put->generation, (uint64_t)1), .length = end,
                            .first_cell = (uint32_t)first, .n_cells = (uint32_t)put->n_crcs, .cells = cells};
    CHECK(put->n_crcs <= PUT_PIECES_MAX);
    uint64_t fresh = new_bytes(c, put);
    int err = check_open(c, &record);
    if (err == 0)
        err = fresh > 0 ? volume_has_room(v, fresh, (put->flags & CHUNK_PARTIAL) != 0) : 0;
    if (err == 0)
        err = chunk_reserve(c, record.first_cell + record.n_cells);
    if (err != 0)
        return err;
    size_t direct = direct_from(c, put);
    enum durable when = writes_over(c, put) ? DURABLE_FIRST : put->sync ? DURABLE_REPLY : DURABLE_LATER;
    for (size_t i = 0; i < put->n_crcs && err == 0; i++) {
        struct piece piece = piece_at(put, i);
        err = cell_after(v, c, &piece, &cells[i]);
    }
    fill_data(c, put, direct, &record);
    if (err == 0 && record.data_len > 0 && fresh > 0 && volume_is_tight(v))
        err = allocate_first(v, c, &record);
    if (err == 0 && direct < put->n_crcs) {
        struct piece piece = piece_at(put, direct);
        uint64_t start = piece.cell * CELL_BYTES + piece.start;
        err = write_direct(v, c, piece.data, start, end - start);
    }
    return err != 0 ? err : commit_write(v, c, &record, when);
}

/* ------------------------------------------------------------------ truncate */
/* The cell as it is when cut to `keep` bytes. */
static int cell_cut(struct volume *v, struct chunk *c, uint64_t i, uint32_t keep, struct cell *ret)
{
    struct get get;
    int err = get_read(v, c, i * CELL_BYTES, chunk_cell(c, i).valid, &get);
    if (err != 0)
        return err;
    *ret = (struct cell){crc32c(0, get.buffer, keep), keep};
    get_fini(v, &get);
    return 0;
}

int put_truncate(struct volume *v, struct chunk *c, uint64_t generation, uint64_t length)
{
    if (length > CHUNK_BYTES_MAX)
        return -E_INVAL;
    struct cell cell;
    uint64_t tail = length / CELL_BYTES;
    uint32_t keep = length % CELL_BYTES;
    struct record record = {.type = RECORD_TRUNCATE, .flags = c->flags, .generation = MAX(generation, (uint64_t)1),
                            .length = length, .first_cell = (uint32_t)MIN(tail, CHUNK_CELLS_MAX - 1), .cells = &cell};
    int err = check_open(c, &record);
    if (err == 0 && keep > 0 && chunk_cell(c, tail).valid > keep) {
        record.n_cells = 1;
        err = cell_cut(v, c, tail, keep, &cell);
    }
    /* Cells that are dropped may be written straight into the file next: no record, no way back. */
    bool drops = length < c->length && c->n_cells > 0;
    return err != 0 ? err : commit_write(v, c, &record, drops ? DURABLE_REPLY : DURABLE_LATER);
}

/* ------------------------------------------------------------------ seal */
/* Zeros into the file behind what the cell has, up to `want`. */
static int cell_complete(struct volume *v, struct chunk *c, uint64_t i, uint32_t want, struct cell *ret)
{
    static uint8_t zeros[CELL_BYTES];
    struct cell old = chunk_cell(c, i);
    struct io_file *file;
    if (old.valid > want)
        return cell_cut(v, c, i, want, ret);
    *ret = (struct cell){crc_zeros(old.crc, want - old.valid), want};
    if (old.valid == want)
        return 0;
    int err = volume_file(v, c, FILE_BUFFERED, true, &file);
    if (err != 0)
        return err;
    err = io_pwrite(file, zeros, want - old.valid, i * CELL_BYTES + old.valid);
    volume_file_written(v, c, true);
    volume_file_done(v, c);
    return err;
}

static int cut_file(struct volume *v, struct chunk *c)
{
    struct io_file *file;
    int err = volume_file(v, c, FILE_BUFFERED, true, &file);
    if (err != 0)
        return err;
    if (c->length != c->allocated || c->length == 0)
        err = io_truncate(file, c->length);
    if (err == 0)
        c->allocated = c->length;
    volume_file_written(v, c, false);
    volume_file_done(v, c);
    return err;
}

static int seal_again(struct volume *v, struct chunk *c, uint64_t generation, uint64_t length)
{
    if (c->length != length)
        return -E_RANGE;
    if (generation < c->generation)
        return -E_STALE;
    return generation == c->generation ? 0 : put_state(v, c, generation, c->flags, false);
}

int put_seal(struct volume *v, struct chunk *c, uint64_t generation, uint64_t length)
{
    if ((c->flags & CHUNK_SEALED) != 0)
        return seal_again(v, c, generation, length);
    if (c->length < length)
        return -E_RANGE;
    uint32_t n = (uint32_t)((length + CELL_BYTES - 1) / CELL_BYTES);
    _cleanup_free_ struct cell *cells = calloc(MAX(n, 1u), sizeof *cells);
    struct record record = {.type = RECORD_SEAL, .flags = (c->flags & ~CHUNK_PARTIAL) | CHUNK_SEALED,
                            .generation = MAX(generation, (uint64_t)1), .length = length, .n_cells = n, .cells = cells};
    int err = cells == NULL ? -E_NOMEM : check_open(c, &record);
    for (uint32_t i = 0; i < n && err == 0; i++)
        err = cell_complete(v, c, i, (uint32_t)MIN(CELL_BYTES, length - i * CELL_BYTES), &cells[i]);
    /* The record must not reach the disk before the zeros do: the replay trusts it. */
    if (err == 0)
        err = volume_file_sync(v, c);
    if (err == 0)
        err = chunk_reserve(c, n);
    if (err == 0)
        err = commit_write(v, c, &record, DURABLE_REPLY);
    return err != 0 ? err : cut_file(v, c);
}

int put_state(struct volume *v, struct chunk *c, uint64_t generation, uint32_t flags, bool sync)
{
    struct record record = {.type = RECORD_STATE, .flags = flags, .generation = MAX(generation, c->generation)};
    int err = volume_record(v, c, &record, NULL);
    return err != 0 ? err : journal_commit(v->journal, record.lsn, sync);
}
