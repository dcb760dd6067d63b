/* Checkpoints: the index on disk is a row of segment files. Each holds the chunks that changed since
 * the one before and says which journal segments it covers; when the row is twice as long as what
 * lives, one full segment replaces it. A segment appears by rename: whole or not at all. */
#include "volume.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>

#define INDEX_READ_BYTES MIB(1)
#define FULL_BYTES_MIN MIB(1) /* below it a row is not worth rewriting for its size */
#define ROW_FILES_MAX 16      /* nor may it become many small files: each is opened at start */
#define RETRY_MS 1000         /* after a checkpoint failed, for example because the disk is full */

static void index_path(const struct volume *v, uint64_t number, char out[512])
{
    snprintf(out, 512, "%s/index-%016llx", v->dir, (unsigned long long)number);
}

/* ------------------------------------------------------------------ load */
struct numbers {
    uint64_t *items;
    size_t n, cap;
};

static int numbers_add(void *arg, const char *name)
{
    struct numbers *numbers = arg;
    char *end;
    if (strncmp(name, "index-", 6) != 0 || strlen(name) != 22)
        return 0;
    uint64_t number = strtoull(name + 6, &end, 16);
    if (*end != '\0')
        return 0;
    if (numbers->n == numbers->cap) {
        size_t cap = MAX(numbers->cap * 2, (size_t)16);
        uint64_t *items = realloc(numbers->items, cap * sizeof *items);
        if (items == NULL)
            return -E_NOMEM;
        numbers->items = items;
        numbers->cap = cap;
    }
    numbers->items[numbers->n++] = number; /* names come in byte order: ascending */
    return 0;
}

static int header_read(struct volume *v, struct io_file *file, uint64_t number, struct index_header *ret)
{
    uint8_t raw[INDEX_HEADER_BYTES];
    int64_t n = io_pread(file, raw, sizeof raw, 0);
    if (n < 0)
        return (int)n;
    int err = index_header_decode(raw, (size_t)n, ret);
    if (err == 0 && (ret->number != number || memcmp(ret->uuid, v->super.uuid, 16) != 0))
        err = -E_CORRUPT;
    return err;
}

/* Entries of a buffer into the table; keeps in *used how far it came. */
static int entries_load(struct volume *v, const uint8_t *data, size_t n, bool last, size_t *used, uint64_t *count,
                        bool *ret_end)
{
    *used = 0;
    while (*used < n && (last || n - *used >= INDEX_ENTRY_BYTES_MAX)) {
        struct index_entry entry;
        size_t size;
        uint64_t want;
        int err = index_entry_decode(data + *used, n - *used, &entry, &size, ret_end, &want);
        if (err != 0)
            return err;
        *used += size;
        if (*ret_end)
            return *count == want ? 0 : -E_CORRUPT;
        err = index_load(&v->index, &entry);
        if (err != 0)
            return err;
        (*count)++;
    }
    return 0;
}

static int segment_load(struct volume *v, struct io_file *file)
{
    _cleanup_free_ uint8_t *buf = malloc(INDEX_READ_BYTES);
    if (buf == NULL)
        return -E_NOMEM;
    uint64_t at = INDEX_HEADER_BYTES, count = 0;
    bool end = false;
    while (!end) {
        int64_t n = io_pread(file, buf, INDEX_READ_BYTES, at);
        if (n < 0)
            return (int)n;
        size_t used;
        int err = entries_load(v, buf, (size_t)n, (uint64_t)n < INDEX_READ_BYTES, &used, &count, &end);
        if (err != 0)
            return err;
        if (!end && used == 0)
            return -E_CORRUPT; /* no footer */
        at += used;
    }
    v->index_bytes += at;
    return 0;
}

static int index_open(struct volume *v, uint64_t number, struct io_file **ret, struct index_header *header)
{
    char path[512];
    index_path(v, number, path);
    int err = io_open(v->io, path, O_RDONLY, 0, ret);
    return err != 0 ? err : header_read(v, *ret, number, header);
}

/* Segments in front of a full one; a crash in between leaves files that the next open removes. */
static void remove_older(struct volume *v, uint64_t number)
{
    char path[512];
    for (uint64_t i = v->oldest_number; i < number && !v->read_only; i++) {
        index_path(v, i, path);
        int err = io_unlink(v->io, path);
        if (err != 0 && err != -E_NOENT && err != -E_CANCELED)
            log_warn("cannot remove %s: %s", path, err_sentence(err));
    }
    v->oldest_number = number;
}

int volume_index_load(struct volume *v, uint64_t *ret_covered)
{
    struct numbers numbers = {0};
    int err = io_list(v->io, v->dir, numbers_add, &numbers);
    _cleanup_free_ uint64_t *items = numbers.items;
    size_t first = numbers.n;
    bool found = false;
    while (err == 0 && first > 0 && !found) {
        _cleanup_(io_closep) struct io_file *file = NULL;
        struct index_header header;
        err = index_open(v, items[--first], &file, &header);
        found = err == 0 && header.full;
    }
    if (err == 0 && numbers.n > 0 && !found)
        err = -E_CORRUPT; /* the first of a row is full */
    *ret_covered = 0;
    v->oldest_number = numbers.n > 0 ? items[0] : 0;
    if (err == 0 && numbers.n > 0)
        remove_older(v, items[first]);
    for (size_t i = first; err == 0 && i < numbers.n; i++) {
        _cleanup_(io_closep) struct io_file *file = NULL;
        struct index_header header;
        err = items[i] == v->oldest_number + (i - first) ? 0 : -E_CORRUPT;
        if (err == 0)
            err = index_open(v, items[i], &file, &header);
        if (err == 0)
            err = segment_load(v, file);
        if (err == 0)
            *ret_covered = header.covered;
        v->index_number = items[i];
    }
    return err;
}

/* ------------------------------------------------------------------ write */
static int file_write(struct volume *v, const char *path, const struct writer *w)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    int err = io_open(v->io, path, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    for (size_t at = 0; err == 0 && at < w->len; at += MIB(1))
        err = io_pwrite(file, w->data + at, MIN(MIB(1), w->len - at), at);
    return err != 0 ? err : io_sync(file);
}

/* On a full disk the file that is kept for this becomes the segment. */
static int write_into_reserve(struct volume *v, const char *path, const struct writer *w)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    (void)io_unlink(v->io, path); /* what the first try left */
    int err = volume_reserve_take(v, path, w->len);
    if (err == 0)
        err = io_open(v->io, path, O_RDWR, 0, &file);
    for (size_t at = 0; err == 0 && at < w->len; at += MIB(1))
        err = io_pwrite(file, w->data + at, MIN(MIB(1), w->len - at), at);
    if (err == 0)
        err = io_truncate(file, w->len);
    return err != 0 ? err : io_sync(file);
}

int volume_index_write(struct volume *v, uint64_t covered, bool full, struct writer *entries, uint64_t count)
{
    char temporary[512], path[512];
    _cleanup_(writer_fini) struct writer w = {0};
    struct index_header header = {.number = v->index_number + 1, .covered = covered, .full = full};
    memcpy(header.uuid, v->super.uuid, 16);
    index_header_encode(&header, &w);
    writer_bytes(&w, entries->data, entries->len);
    index_footer_encode(&w, header.number, count);
    if (w.failed)
        return -E_NOMEM;
    snprintf(temporary, sizeof temporary, "%s/index.new", v->dir);
    index_path(v, header.number, path);
    int err = file_write(v, temporary, &w);
    if (err == -E_NOSPC)
        err = write_into_reserve(v, temporary, &w);
    if (err == 0)
        err = io_rename(v->io, temporary, path);
    if (err == 0)
        err = io_sync_dir(v->io, v->dir);
    if (err != 0)
        return err;
    v->index_number = header.number;
    v->index_bytes = full ? w.len : v->index_bytes + w.len;
    if (full)
        remove_older(v, header.number);
    volume_reserve_keep(v);
    return 0;
}

/* ------------------------------------------------------------------ the living volume */
static bool full_is_due(const struct volume *v)
{
    /* A full one frees the others: on a full disk their space is what the next one is written to. */
    return v->index_number == 0 || volume_is_tight(v) || v->index_number - v->oldest_number >= ROW_FILES_MAX ||
           v->index_bytes > 2 * v->index.bytes + FULL_BYTES_MIN;
}

/* Files and index of what the closed segment recorded. The index is tried until it works (space may
 * come back), because the segment is not reused before. */
static int finish(struct volume *v, uint64_t covered, bool full, struct writer *entries, uint64_t count)
{
    int err = volume_sync_unflushed(v);
    if (err != 0)
        return err; /* what the files hold is not known: no second try */
    for (bool told = false;; told = true) {
        err = volume_index_write(v, covered, full, entries, count);
        if (err == 0 || err == -E_CANCELED || v->closing)
            return err;
        if (!told)
            log_error("checkpoint of %s failed: %s; trying again", v->dir, err_sentence(err));
        err = io_sleep_ms(v->io, RETRY_MS);
        if (err != 0)
            return err;
    }
}

int volume_checkpoint(struct volume *v)
{
    int err = journal_roll_begin(v->journal);
    if (err != 0)
        return err;
    uint64_t covered = v->journal->seq - 1, count;
    bool full = full_is_due(v);
    _cleanup_(writer_fini) struct writer entries = {0};
    index_dump(&v->index, full, &entries, &count);
    journal_roll_end(v->journal);
    if (entries.failed)
        return -E_NOMEM;
    err = journal_wait_applied(v->journal);
    return err != 0 ? err : finish(v, covered, full, &entries, count);
}

void volume_checkpoint_run(void *arg)
{
    struct volume *v = arg;
    int err = 0;
    while (!v->closing && err == 0) {
        if (!v->want_checkpoint) {
            err = fiber_queue_wait(&v->checkpoint_work, 0);
            continue;
        }
        v->want_checkpoint = false;
        err = volume_checkpoint(v);
    }
    if (err != 0)
        journal_fail(v->journal, err);
    fiber_group_done(&v->fibers);
}
