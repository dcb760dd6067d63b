#include "verified.h"

#include "volume.h"
#include "common/bytes.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>

#define HEADER_MAGIC 0x4446524556524154ull /* "TARVERFD" as a little-endian integer */
#define READ_RECORDS 1024                  /* at a time: 40 KiB */

struct verified {
    struct io_file *file;    /* NULL: nothing is kept, all chunks are read once in each life of the process */
    struct fiber_mutex lock; /* one write at a time: a record does not fall between the old file and the new one */
    uint64_t records;        /* in the file, void ones among them */
    uint64_t live;           /* chunks that count as read */
};

/* ------------------------------------------------------------------ bytes */
static void put_u32(uint8_t *out, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        out[i] = (uint8_t)(v >> (8 * i));
}

static void put_u64(uint8_t *out, uint64_t v)
{
    put_u32(out, (uint32_t)v);
    put_u32(out + 4, (uint32_t)(v >> 32));
}

void verified_header_encode(const struct verified_header *header, uint8_t out[VERIFIED_HEADER_BYTES])
{
    memset(out, 0, VERIFIED_HEADER_BYTES);
    put_u64(out, HEADER_MAGIC);
    put_u32(out + 8, VERIFIED_VERSION);
    memcpy(out + 16, header->uuid, 16);
    memcpy(out + 32, header->boot, strnlen(header->boot, VERIFIED_BOOT_MAX - 1));
    put_u32(out + VERIFIED_HEADER_BYTES - 4, crc32c(0, out, VERIFIED_HEADER_BYTES - 4));
}

int verified_header_decode(const uint8_t *data, size_t n, struct verified_header *ret)
{
    if (n < VERIFIED_HEADER_BYTES)
        return -E_CORRUPT;
    struct reader r = reader_init(data, VERIFIED_HEADER_BYTES);
    uint64_t magic = reader_u64(&r);
    uint32_t version = reader_u32(&r);
    (void)reader_u32(&r);
    struct verified_header header = {0};
    memcpy(header.uuid, reader_bytes(&r, 16), 16);
    memcpy(header.boot, reader_bytes(&r, VERIFIED_BOOT_MAX), VERIFIED_BOOT_MAX);
    (void)reader_bytes(&r, VERIFIED_HEADER_BYTES - 4 - 32 - VERIFIED_BOOT_MAX);
    if (magic != HEADER_MAGIC || reader_u32(&r) != crc32c(0, data, VERIFIED_HEADER_BYTES - 4) ||
        header.boot[VERIFIED_BOOT_MAX - 1] != '\0')
        return -E_CORRUPT;
    if (version != VERIFIED_VERSION)
        return -E_VERSION;
    *ret = header;
    return 0;
}

void verified_record_encode(const struct verified_record *record, uint8_t out[VERIFIED_RECORD_BYTES])
{
    memset(out, 0, VERIFIED_RECORD_BYTES);
    put_u32(out + 4, record->kind);
    put_u64(out + 8, record->chunk);
    put_u64(out + 16, record->generation);
    put_u64(out + 24, record->length);
    put_u32(out + 32, record->digest);
    put_u32(out, crc32c(0, out + 4, VERIFIED_RECORD_BYTES - 4));
}

int verified_record_decode(const uint8_t *data, size_t n, struct verified_record *ret)
{
    if (n < VERIFIED_RECORD_BYTES)
        return -E_CORRUPT;
    struct reader r = reader_init(data, VERIFIED_RECORD_BYTES);
    uint32_t crc = reader_u32(&r), kind = reader_u32(&r);
    struct verified_record record = {.kind = (enum verified_kind)kind, .chunk = reader_u64(&r)};
    record.generation = reader_u64(&r);
    record.length = reader_u64(&r);
    record.digest = reader_u32(&r);
    if (crc != crc32c(0, data + 4, VERIFIED_RECORD_BYTES - 4) || (kind != VERIFIED_RIGHT && kind != VERIFIED_GONE))
        return -E_CORRUPT;
    *ret = record;
    return 0;
}

/* ------------------------------------------------------------------ the file, read */
static void path_of(const struct volume *v, const char *name, char out[512])
{
    snprintf(out, 512, "%s/%s", v->dir, name);
}

/* A record that was cut short by a kill, or was never written behind a later one, says nothing. */
static void believe(struct volume *v, struct verified *known, const uint8_t *data)
{
    struct verified_record record;
    if (verified_record_decode(data, VERIFIED_RECORD_BYTES, &record) != 0)
        return;
    struct chunk *c = map_get(&v->index.chunks, record.chunk);
    if (c == NULL || !chunk_is_real(c))
        return;
    bool right = record.kind == VERIFIED_RIGHT && (c->flags & (CHUNK_SEALED | CHUNK_PARTIAL)) == CHUNK_SEALED &&
                 record.generation == c->generation && record.length == c->length && record.digest == chunk_digest(c);
    known->live += right && !c->verified;
    known->live -= !right && c->verified;
    c->verified = right;
}

/* Volumes whose boot is not known, or that are suspect: what the kernel shows may not be what the disk has. */
static bool may_keep(const struct volume *v)
{
    return strcmp(v->boot, "unknown") != 0 && !v->suspect;
}

static int header_read(struct volume *v, struct io_file *file)
{
    uint8_t data[VERIFIED_HEADER_BYTES];
    struct verified_header header;
    int64_t n = io_pread(file, data, sizeof data, 0);
    int err = n < 0 ? (int)n : verified_header_decode(data, (size_t)n, &header);
    if (err != 0)
        return err;
    return memcmp(header.uuid, v->super.uuid, sizeof header.uuid) == 0 && strcmp(header.boot, v->boot) == 0 ? 0 : -E_STALE;
}

static int records_read(struct volume *v, struct verified *known, struct io_file *file)
{
    size_t size = READ_RECORDS * VERIFIED_RECORD_BYTES;
    _cleanup_free_ uint8_t *data = malloc(size);
    if (data == NULL)
        return -E_NOMEM;
    for (;;) {
        int64_t n = io_pread(file, data, size, VERIFIED_HEADER_BYTES + known->records * VERIFIED_RECORD_BYTES);
        if (n < 0)
            return (int)n;
        size_t whole = (size_t)n / VERIFIED_RECORD_BYTES;
        for (size_t i = 0; i < whole; i++)
            believe(v, known, data + i * VERIFIED_RECORD_BYTES);
        known->records += whole;
        if (whole < READ_RECORDS)
            return 0;
    }
}

/* ------------------------------------------------------------------ the file, written anew */
static int collect(struct volume *v, struct writer *w)
{
    struct verified_header header = {0};
    uint8_t first[VERIFIED_HEADER_BYTES], record[VERIFIED_RECORD_BYTES];
    memcpy(header.uuid, v->super.uuid, sizeof header.uuid);
    snprintf(header.boot, sizeof header.boot, "%s", v->boot);
    verified_header_encode(&header, first);
    writer_bytes(w, first, sizeof first);
    size_t at = 0;
    uint64_t id;
    void *value;
    while (map_next(&v->index.chunks, &at, &id, &value)) {
        const struct chunk *c = value;
        if (!c->verified)
            continue;
        verified_record_encode(&(struct verified_record){VERIFIED_RIGHT, chunk_digest(c), id, c->generation, c->length}, record);
        writer_bytes(w, record, sizeof record);
    }
    return w->failed ? -E_NOMEM : 0;
}

/* Not synced, see the header: a file that lost its bytes with the machine is of another boot. */
static int write_anew(struct volume *v, struct verified *known)
{
    char temporary[512], path[512];
    struct io_file *file = NULL;
    _cleanup_(writer_fini) struct writer w = {0};
    path_of(v, "verified.new", temporary);
    path_of(v, "verified", path);
    int err = collect(v, &w);
    if (err == 0)
        err = io_open(v->io, temporary, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (err == 0)
        err = io_pwrite(file, w.data, w.len, 0);
    if (err == 0)
        err = io_rename(v->io, temporary, path);
    if (err != 0) {
        io_close(file);
        return err;
    }
    io_close(known->file);
    known->file = file;
    known->live = known->records = (w.len - VERIFIED_HEADER_BYTES) / VERIFIED_RECORD_BYTES;
    return 0;
}

/* Nothing more is kept; what the file says counts no more, as far as we can bring that about. */
static void give_up(struct volume *v, struct verified *known, int err)
{
    char path[512];
    path_of(v, "verified", path);
    if (err != -E_CANCELED)
        log_warn("%s: which chunks were verified is not kept (%s): after a restart they are read again", v->dir, err_sentence(err));
    if (known->file != NULL)
        (void)io_truncate(known->file, 0); /* works on a full disk, too */
    io_close(known->file);
    known->file = NULL;
    (void)io_unlink(v->io, path);
}

/* ------------------------------------------------------------------ open, note */
int verified_open(struct volume *v, struct verified **ret)
{
    struct verified *known = calloc(1, sizeof *known);
    if (known == NULL)
        return -E_NOMEM;
    *ret = known;
    char path[512];
    struct io_file *file = NULL;
    path_of(v, "verified", path);
    int err = io_open(v->io, path, O_RDWR, 0, &file);
    if (err == 0)
        err = may_keep(v) ? header_read(v, file) : -E_STALE;
    if (err == 0)
        err = records_read(v, known, file);
    known->file = file;
    if (!may_keep(v))
        give_up(v, known, -E_CANCELED);
    else if (err != 0 || known->records > 2 * known->live + VERIFIED_RECORDS_SPARE)
        err = write_anew(v, known);
    if (known->file != NULL && err != 0)
        give_up(v, known, err);
    return 0;
}

void verified_close(struct verified *known)
{
    if (known == NULL)
        return;
    io_close(known->file);
    free(known);
}

static void append(struct volume *v, const struct chunk *c, enum verified_kind kind)
{
    struct verified *known = v->verified;
    struct verified_record record = {kind, chunk_digest(c), c->id, c->generation, c->length};
    uint8_t bytes[VERIFIED_RECORD_BYTES];
    verified_record_encode(&record, bytes);
    int err = fiber_mutex_lock(&known->lock);
    if (err != 0)
        return; /* the process ends */
    if (known->file != NULL) {
        uint64_t at = VERIFIED_HEADER_BYTES + known->records++ * VERIFIED_RECORD_BYTES;
        err = known->records > 2 * known->live + VERIFIED_RECORDS_SPARE ? write_anew(v, known)
                                                                       : io_pwrite(known->file, bytes, sizeof bytes, at);
        if (err != 0)
            give_up(v, known, err);
    }
    fiber_mutex_unlock(&known->lock);
}

void verified_note(struct volume *v, struct chunk *c)
{
    if (c->verified)
        return;
    c->verified = true;
    v->verified->live++;
    append(v, c, VERIFIED_RIGHT);
}

void verified_gone(struct volume *v, struct chunk *c)
{
    if (v->withdraw != NULL)
        v->withdraw(v->withdraw_arg, v, c->id);
    if (!c->verified)
        return;
    c->verified = false;
    v->verified->live--;
    append(v, c, VERIFIED_GONE);
}
