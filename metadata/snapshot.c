/* See snapshot.h. */
#include "snapshot.h"
#include "common/bytes.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"
#include <fcntl.h>
#include <stdio.h>

#define MAGIC 0x504e5354u
#define VERSION 1
#define FIELDS_END (48 + SNAPSHOT_SERVERS_MAX * 96)
#define PATH_BYTES 512
#define KEPT 2

void snapshot_name(char out[SNAPSHOT_NAME_MAX], uint64_t index, uint64_t term)
{
    snprintf(out, SNAPSHOT_NAME_MAX, "snapshot-%016llx-%016llx", (unsigned long long)index,
             (unsigned long long)term);
}

static bool name_parse(const char *name, uint64_t *ret_index, uint64_t *ret_term)
{
    unsigned long long index, term;
    int end = 0;
    char again[SNAPSHOT_NAME_MAX];
    if (sscanf(name, "snapshot-%16llx-%16llx%n", &index, &term, &end) != 2 || name[end] != '\0')
        return false;
    snapshot_name(again, index, term);
    *ret_index = index;
    *ret_term = term;
    return strcmp(again, name) == 0;
}

bool snapshot_name_valid(const char *name)
{
    uint64_t index, term;
    return strlen(name) < SNAPSHOT_NAME_MAX && name_parse(name, &index, &term);
}

/* ------------------------------------------------------------------ header */
int snapshot_encode(const struct snapshot_meta *meta, uint8_t out[SNAPSHOT_HEADER])
{
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u32(&w, MAGIC);
    writer_u32(&w, VERSION);
    writer_u64(&w, meta->index);
    writer_u64(&w, meta->term);
    writer_u64(&w, meta->conf_index);
    writer_u64(&w, meta->real_ns);
    writer_u32(&w, meta->n_servers);
    writer_u32(&w, 0);
    for (unsigned i = 0; i < SNAPSHOT_SERVERS_MAX; i++) {
        static const struct snapshot_server none;
        const struct snapshot_server *server = i < meta->n_servers ? &meta->servers[i] : &none;
        char address[64] = {0};
        memcpy(address, server->address, strnlen(server->address, sizeof address - 1));
        writer_u64(&w, server->id);
        writer_u32(&w, server->role);
        writer_u32(&w, 0);
        writer_bytes(&w, address, sizeof address);
        writer_zero(&w, 16);
    }
    writer_u32(&w, w.failed ? 0 : crc32c(0, w.data, w.len));
    if (w.failed)
        return -E_NOMEM;
    memset(out, 0, SNAPSHOT_HEADER);
    memcpy(out, w.data, w.len);
    return 0;
}

static void decode_server(struct reader *r, struct snapshot_server *ret)
{
    ret->id = reader_u64(r);
    ret->role = reader_u32(r);
    (void)reader_u32(r);
    const uint8_t *address = reader_bytes(r, sizeof ret->address);
    (void)reader_bytes(r, 16);
    if (address != NULL)
        memcpy(ret->address, address, sizeof ret->address);
    ret->address[sizeof ret->address - 1] = '\0';
}

int snapshot_decode(const uint8_t in[SNAPSHOT_HEADER], struct snapshot_meta *ret)
{
    struct reader r = reader_init(in, SNAPSHOT_HEADER);
    uint32_t magic = reader_u32(&r), version = reader_u32(&r);
    struct snapshot_meta meta = {.index = reader_u64(&r)};
    meta.term = reader_u64(&r);
    meta.conf_index = reader_u64(&r);
    meta.real_ns = reader_u64(&r);
    meta.n_servers = reader_u32(&r);
    (void)reader_u32(&r);
    for (unsigned i = 0; i < SNAPSHOT_SERVERS_MAX; i++)
        decode_server(&r, &meta.servers[i]);
    if (magic != MAGIC || version != VERSION || reader_u32(&r) != crc32c(0, in, FIELDS_END) ||
        meta.index == 0 || meta.term == 0 || meta.n_servers == 0 ||
        meta.n_servers > SNAPSHOT_SERVERS_MAX)
        return -E_CORRUPT;
    *ret = meta;
    return 0;
}

/* ------------------------------------------------------------------ write */
struct step {
    struct kv_dump *dump;
    const uint8_t *data;
    size_t len;
    int err;
};

static void step_work(void *arg)
{
    struct step *step = arg;
    step->err = kv_dump_step(step->dump, &step->data, &step->len);
}

static int write_tables(struct io *io, struct io_file *file, struct kv_txn *txn, uint64_t *offset)
{
    struct step step = {0};
    int err = kv_dump_open(txn, &step.dump);
    while (err == 0) {
        err = io_work(io, step_work, &step);
        if (err == 0)
            err = step.err;
        if (err != 0 || step.len == 0)
            break;
        err = io_pwrite(file, step.data, step.len, *offset);
        *offset += step.len;
    }
    kv_dump_close(step.dump);
    return err;
}

static int write_file(struct io *io, const char *path, const struct snapshot_meta *meta,
                      struct kv_txn *txn, uint64_t *ret_bytes)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *header = malloc(SNAPSHOT_HEADER);
    if (header == NULL)
        return -E_NOMEM;
    int err = io_open(io, path, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (err != 0)
        return err;
    *ret_bytes = SNAPSHOT_HEADER;
    err = snapshot_encode(meta, header);
    if (err == 0)
        err = io_pwrite(file, header, SNAPSHOT_HEADER, 0);
    if (err == 0)
        err = write_tables(io, file, txn, ret_bytes);
    return err != 0 ? err : io_sync(file);
}

int snapshot_write(struct io *io, const char *dir, const struct snapshot_meta *meta,
                   struct kv_txn *txn, uint64_t *ret_bytes)
{
    char name[SNAPSHOT_NAME_MAX], path[PATH_BYTES], temp[PATH_BYTES + 8];
    snapshot_name(name, meta->index, meta->term);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(temp, sizeof temp, "%s.tmp", path);
    int err = write_file(io, temp, meta, txn, ret_bytes);
    if (err == 0)
        err = io_rename(io, temp, path);
    if (err == 0)
        return io_sync_dir(io, dir);
    if (err != -E_CANCELED)
        (void)io_unlink(io, temp); /* gives the space back; a leftover goes at the next start */
    return err;
}

/* ------------------------------------------------------------------ find */
#define NAMES_MAX 64

struct names {
    bool (*want)(const char *name);
    char list[NAMES_MAX][64];
    unsigned count;
};

static int names_add(void *arg, const char *name)
{
    struct names *names = arg;
    if (names->count < NAMES_MAX && strlen(name) < sizeof names->list[0] && names->want(name))
        strcpy(names->list[names->count++], name);
    return 0;
}

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static bool is_temporary(const char *name)
{
    return ends_with(name, ".tmp");
}

static bool is_part(const char *name)
{
    return ends_with(name, ".part");
}

/* Removes the wanted files but the last `keep` in the order of names, which is that of indexes. */
static int remove_names(struct io *io, const char *dir, bool (*want)(const char *name), unsigned keep)
{
    _cleanup_free_ struct names *names = calloc(1, sizeof *names);
    if (names == NULL)
        return -E_NOMEM;
    names->want = want;
    int err = io_list(io, dir, names_add, names);
    for (unsigned i = 0; err == 0 && i + keep < names->count; i++) {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", dir, names->list[i]);
        err = io_unlink(io, path);
        err = err == -E_NOENT ? 0 : err; /* an installation and a snapshot of our own may clear up side by side */
    }
    return err;
}

int snapshot_clean(struct io *io, const char *dir)
{
    /* A name that is seen is built upon: the log before it goes. It must last. */
    int err = io_sync_dir(io, dir);
    return err != 0 ? err : remove_names(io, dir, is_temporary, 0);
}

int snapshot_prune(struct io *io, const char *dir)
{
    int err = remove_names(io, dir, is_part, 0);
    return err != 0 ? err : remove_names(io, dir, snapshot_name_valid, KEPT);
}

static int header_read(struct io *io, const char *path, struct snapshot_meta *ret, uint64_t *ret_bytes)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *header = malloc(SNAPSHOT_HEADER);
    if (header == NULL)
        return -E_NOMEM;
    int err = io_open(io, path, O_RDONLY, 0, &file);
    if (err == 0)
        err = io_size(file, ret_bytes);
    if (err != 0)
        return err;
    int64_t got = io_pread(file, header, SNAPSHOT_HEADER, 0);
    if (got < 0)
        return (int)got;
    return got == SNAPSHOT_HEADER ? snapshot_decode(header, ret) : -E_CORRUPT;
}

int snapshot_newest(struct io *io, const char *dir, struct snapshot_meta *ret, uint64_t *ret_bytes)
{
    _cleanup_free_ struct names *names = calloc(1, sizeof *names);
    if (names == NULL)
        return -E_NOMEM;
    names->want = snapshot_name_valid;
    int err = io_list(io, dir, names_add, names);
    if (err != 0)
        return err;
    for (unsigned i = names->count; i-- > 0;) {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s/%s", dir, names->list[i]);
        err = header_read(io, path, ret, ret_bytes);
        if (err != -E_CORRUPT)
            return err;
        log_error("snapshot %s: its header is damaged; trying the one before", path);
    }
    return names->count > 0 ? -E_CORRUPT : -E_NOENT;
}

int snapshot_set_aside(struct io *io, const char *dir, const struct snapshot_meta *meta)
{
    char name[SNAPSHOT_NAME_MAX], path[PATH_BYTES], bad[PATH_BYTES + 8];
    snapshot_name(name, meta->index, meta->term);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(bad, sizeof bad, "%s.bad", path);
    int err = io_rename(io, path, bad);
    return err != 0 ? err : io_sync_dir(io, dir);
}

/* ------------------------------------------------------------------ load */
struct source {
    struct io_file *file;
    uint64_t offset;
    uint8_t *buffer; /* SNAPSHOT_PIECE */
    size_t at, len;
};

static int64_t source_read(void *arg, void *buf, size_t n)
{
    struct source *source = arg;
    if (source->at == source->len) {
        int64_t got = io_pread(source->file, source->buffer, SNAPSHOT_PIECE, source->offset);
        if (got <= 0)
            return got;
        source->offset += (uint64_t)got;
        source->at = 0;
        source->len = (size_t)got;
    }
    size_t more = MIN(n, source->len - source->at);
    memcpy(buf, source->buffer + source->at, more);
    source->at += more;
    return (int64_t)more;
}

int snapshot_load(struct io *io, const char *dir, const struct snapshot_meta *meta, struct kv *kv)
{
    char name[SNAPSHOT_NAME_MAX], path[PATH_BYTES];
    snapshot_name(name, meta->index, meta->term);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *buffer = malloc(SNAPSHOT_PIECE);
    if (buffer == NULL)
        return -E_NOMEM;
    int err = io_open(io, path, O_RDONLY, 0, &file);
    if (err != 0)
        return err;
    struct source source = {.file = file, .offset = SNAPSHOT_HEADER, .buffer = buffer};
    err = kv_load(kv, source_read, &source);
    if (err == -E_CORRUPT)
        log_error("snapshot %s is damaged", path);
    return err;
}
