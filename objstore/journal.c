#include "journal.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>

/* Memory for records that wait for the writer: two of the largest. */
#define BATCH_BYTES_MAX (2 * RECORD_BYTES_MAX)

static void journal_path(char out[512], const char *dir, unsigned i)
{
    snprintf(out, 512, "%s/journal-%u", dir, i);
}

/* ------------------------------------------------------------------ format and replay */
static int fill_with_zeros(struct io *io, const char *path, uint64_t bytes)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *zeros = calloc(1, MIB(1));
    if (zeros == NULL)
        return -E_NOMEM;
    int err = io_open(io, path, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    for (uint64_t at = 0; err == 0 && at < bytes; at += MIB(1))
        err = io_pwrite(file, zeros, MIN(MIB(1), bytes - at), at);
    return err != 0 ? err : io_sync(file);
}

int journal_format(struct io *io, const char *dir, const uint8_t uuid[16], uint64_t bytes)
{
    char path[512];
    for (unsigned i = 0; i < 2; i++) {
        journal_path(path, dir, i);
        int err = fill_with_zeros(io, path, bytes);
        if (err != 0)
            return err;
    }
    return 0;
}

struct segment {
    struct segment_header header;
    uint8_t *data;
    bool valid;
};

static int segment_read(struct io *io, const char *dir, unsigned i, const uint8_t uuid[16], uint64_t bytes,
                        struct segment *ret)
{
    char path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    journal_path(path, dir, i);
    int err = io_open(io, path, O_RDONLY, 0, &file);
    if (err != 0)
        return err;
    ret->data = malloc(bytes);
    if (ret->data == NULL)
        return -E_NOMEM;
    int64_t n = io_pread(file, ret->data, bytes, 0);
    if (n < 0)
        return (int)n;
    if ((uint64_t)n < bytes)
        return -E_CORRUPT;
    ret->valid = segment_decode(ret->data, bytes, &ret->header) == 0 &&
                 memcmp(ret->header.uuid, uuid, 16) == 0 && (ret->header.seq & 1) == i;
    return 0;
}

struct replay {
    int (*each)(void *arg, const struct record *record, bool durable);
    void *arg;
    uint64_t lsn; /* of the last record */
};

/* The records of one segment up to the first that is not valid. Two passes: the last MARK says which
 * records need no look at the files. durable_until: known from the next segment's header, or 0. */
static int segment_replay(struct replay *replay, const struct segment *segment, uint64_t bytes,
                          uint64_t durable_until)
{
    uint64_t durable = MAX(durable_until, segment->header.first_lsn - 1);
    for (unsigned pass = 0; pass < 2; pass++) {
        uint64_t at = BLOCK_BYTES, lsn = segment->header.first_lsn;
        struct record record;
        size_t size;
        while (record_decode(segment->data + at, bytes - at, &record, &size) == 0 &&
               record.seq == segment->header.seq && record.lsn == lsn) {
            if (pass == 0 && record.type == RECORD_MARK)
                durable = MAX(durable, record.length);
            if (pass == 1) {
                replay->lsn = lsn;
                int err = replay->each(replay->arg, &record, lsn <= durable);
                if (err != 0)
                    return err;
            }
            at += size;
            lsn++;
        }
    }
    return 0;
}

static int replay_in_order(struct replay *replay, struct segment *older, struct segment *newer, uint64_t bytes,
                           uint64_t covered, uint64_t *ret_seq)
{
    int err;
    *ret_seq = MAX(covered, newer->header.seq);
    if (older != NULL && older->header.seq > covered) {
        if (newer->header.seq != older->header.seq + 1)
            return -E_CORRUPT;
        replay->lsn = older->header.first_lsn - 1;
        err = segment_replay(replay, older, bytes, newer->header.first_lsn - 1);
        if (err != 0)
            return err;
        /* The older segment was on disk as a whole before the newer was begun. */
        if (replay->lsn + 1 != newer->header.first_lsn)
            return -E_CORRUPT;
    }
    if (newer->header.seq <= covered)
        return 0;
    if (older == NULL || older->header.seq <= covered)
        if (newer->header.seq != covered + 1)
            return -E_CORRUPT;
    replay->lsn = newer->header.first_lsn - 1;
    return segment_replay(replay, newer, bytes, 0);
}

int journal_replay(struct io *io, const char *dir, const uint8_t uuid[16], uint64_t bytes, uint64_t covered,
                   int (*each)(void *arg, const struct record *record, bool durable), void *arg,
                   uint8_t *ret_memory[2], uint64_t *ret_seq, uint64_t *ret_lsn)
{
    struct segment segments[2] = {0};
    struct replay replay = {.each = each, .arg = arg};
    int err = 0;
    for (unsigned i = 0; i < 2 && err == 0; i++) {
        err = segment_read(io, dir, i, uuid, bytes, &segments[i]);
        ret_memory[i] = segments[i].data;
    }
    if (err != 0)
        return err;
    struct segment *a = segments[0].valid ? &segments[0] : NULL, *b = segments[1].valid ? &segments[1] : NULL;
    *ret_seq = covered;
    *ret_lsn = 0;
    if (a == NULL && b == NULL)
        return 0;
    if (a != NULL && b != NULL && a->header.seq > b->header.seq)
        err = replay_in_order(&replay, b, a, bytes, covered, ret_seq);
    else
        err = replay_in_order(&replay, b != NULL ? a : NULL, b != NULL ? b : a, bytes, covered, ret_seq);
    *ret_lsn = MAX(replay.lsn, (a != NULL ? a : b)->header.first_lsn);
    if (a != NULL && b != NULL)
        *ret_lsn = MAX(*ret_lsn, b->header.first_lsn);
    return err;
}

/* ------------------------------------------------------------------ writing */
void journal_fail(struct journal *j, int err)
{
    if (err == -E_CANCELED || j->failed != 0) {
        j->failed = j->failed != 0 ? j->failed : err;
    } else {
        j->failed = -E_IO;
        log_error("journal: writing failed: %s; nothing more is accepted until a restart", err_sentence(err));
    }
    fiber_queue_wake_all(&j->done);
    fiber_queue_wake_all(&j->room);
    fiber_queue_wake_all(&j->write_work);
    fiber_queue_wake_all(&j->sync_work);
    fiber_queue_wake_all(&j->applied);
}

static void writer_step(struct journal *j)
{
    struct writer swap = j->flying;
    j->flying = j->batch;
    j->batch = swap;
    j->batch.len = 0;
    uint64_t at = j->batch_at, last = j->next_lsn - 1;
    j->batch_at = j->at;
    fiber_queue_wake_all(&j->room);
    int err = io_pwrite(j->files[j->seq & 1], j->flying.data, j->flying.len, at);
    if (err != 0) {
        journal_fail(j, err);
        return;
    }
    j->written_lsn = last;
    fiber_queue_wake_all(&j->done);
    fiber_queue_wake_one(&j->sync_work);
}

static void writer_run(void *arg)
{
    struct journal *j = arg;
    while (!j->closing && j->failed == 0) {
        if (j->batch.len > 0) {
            writer_step(j);
            continue;
        }
        int err = fiber_queue_wait(&j->write_work, 0);
        if (err != 0)
            journal_fail(j, err);
    }
    fiber_group_done(&j->fibers);
}

static void syncer_step(struct journal *j)
{
    uint64_t target = j->written_lsn;
    struct io_file *file = j->files[j->seq & 1];
    bool any = false;
    int err = j->hooks.before_sync(j->hooks.arg, &any);
    if (err == 0)
        err = io_sync(file);
    if (err != 0) {
        journal_fail(j, err);
        return;
    }
    j->synced_lsn = target;
    if (any)
        j->mark_due = target;
    fiber_queue_wake_all(&j->done);
}

static void syncer_run(void *arg)
{
    struct journal *j = arg;
    while (!j->closing && j->failed == 0) {
        if (j->sync_wanted > j->synced_lsn && j->written_lsn > j->synced_lsn) {
            syncer_step(j);
            continue;
        }
        int err = fiber_queue_wait(&j->sync_work, 0);
        if (err != 0)
            journal_fail(j, err);
    }
    fiber_group_done(&j->fibers);
}

static int header_write(struct journal *j)
{
    struct segment_header header = {.seq = j->seq, .first_lsn = j->next_lsn};
    _cleanup_free_ uint8_t *block = malloc(BLOCK_BYTES);
    if (block == NULL)
        return -E_NOMEM;
    memcpy(header.uuid, j->uuid, 16);
    segment_encode(&header, block);
    return io_pwrite(j->files[j->seq & 1], block, BLOCK_BYTES, 0);
}

static int spawn(struct journal *j, const char *name, fiber_fn fn)
{
    fiber_group_add(&j->fibers);
    int err = fiber_spawn(j->io, name, fn, j);
    if (err != 0)
        fiber_group_done(&j->fibers);
    return err;
}

int journal_open(struct io *io, const char *dir, const uint8_t uuid[16], uint64_t bytes, uint64_t seq,
                 uint64_t next_lsn, const struct journal_hooks *hooks, struct journal **ret)
{
    struct journal *j = calloc(1, sizeof *j);
    if (j == NULL)
        return -E_NOMEM;
    *j = (struct journal){.io = io, .hooks = *hooks, .bytes = bytes, .seq = seq, .at = BLOCK_BYTES,
                          .batch_at = BLOCK_BYTES, .next_lsn = next_lsn, .written_lsn = next_lsn - 1,
                          .synced_lsn = next_lsn - 1};
    memcpy(j->uuid, uuid, 16);
    int err = 0;
    for (unsigned i = 0; i < 2 && err == 0; i++) {
        char path[512];
        journal_path(path, dir, i);
        err = io_open(io, path, O_RDWR, 0, &j->files[i]);
    }
    if (err == 0)
        err = header_write(j);
    if (err == 0)
        err = spawn(j, "journal-writer", writer_run);
    if (err == 0)
        err = spawn(j, "journal-syncer", syncer_run);
    if (err != 0) {
        journal_close(j);
        return err;
    }
    *ret = j;
    return 0;
}

void journal_close(struct journal *j)
{
    j->closing = true;
    journal_fail(j, -E_CANCELED);
    fiber_group_wait(&j->fibers);
    for (unsigned i = 0; i < 2; i++)
        io_close(j->files[i]);
    writer_fini(&j->batch);
    writer_fini(&j->flying);
    free(j);
}

/* ------------------------------------------------------------------ users */
static bool fits(const struct journal *j, size_t size)
{
    return j->at + size + RECORD_HEADER_BYTES <= j->bytes; /* room for a MARK, too */
}

int journal_reserve(struct journal *j, size_t size)
{
    CHECK(size <= RECORD_BYTES_MAX);
    for (;;) {
        if (j->failed != 0)
            return j->failed;
        bool roomy = fits(j, size);
        if (!j->rolling && roomy && (j->batch.len == 0 || j->batch.len + size <= BATCH_BYTES_MAX))
            return 0;
        if (!j->rolling && !roomy)
            j->hooks.want_roll(j->hooks.arg);
        int err = fiber_queue_wait(&j->room, 0);
        if (err != 0)
            return err;
    }
}

static int append(struct journal *j, struct record *record)
{
    record->lsn = j->next_lsn;
    record->seq = j->seq;
    record_encode(&j->batch, record);
    if (j->batch.failed) {
        journal_fail(j, -E_NOMEM);
        return -E_NOMEM;
    }
    j->next_lsn++;
    j->at += record_size(record);
    return 0;
}

int journal_put(struct journal *j, struct record *record)
{
    if (j->failed != 0)
        return j->failed;
    CHECK(!j->rolling && fits(j, record_size(record)));
    if (j->mark_due != 0) {
        struct record mark = {.type = RECORD_MARK, .length = j->mark_due};
        j->mark_due = 0;
        int err = append(j, &mark);
        if (err != 0)
            return err;
    }
    int err = append(j, record);
    if (err != 0)
        return err;
    if (record->data_len > 0)
        j->applying[record->seq & 1]++;
    /* Three quarters: the checkpoint runs while the rest still takes records. */
    if (j->at > j->bytes / 4 * 3)
        j->hooks.want_roll(j->hooks.arg);
    fiber_queue_wake_one(&j->write_work);
    return 0;
}

void journal_applied(struct journal *j, const struct record *record)
{
    if (record->data_len == 0)
        return;
    CHECK(j->applying[record->seq & 1] > 0);
    if (--j->applying[record->seq & 1] == 0)
        fiber_queue_wake_all(&j->applied);
}

int journal_commit(struct journal *j, uint64_t lsn, bool sync)
{
    while ((sync ? j->synced_lsn : j->written_lsn) < lsn) {
        if (j->failed != 0)
            return j->failed;
        if (sync && j->sync_wanted < lsn) {
            j->sync_wanted = lsn;
            fiber_queue_wake_one(&j->sync_work);
        }
        int err = fiber_queue_wait(&j->done, 0);
        if (err != 0)
            return err;
    }
    return 0;
}

int journal_sync(struct journal *j)
{
    return journal_commit(j, j->next_lsn - 1, true);
}

int journal_roll_begin(struct journal *j)
{
    CHECK(!j->rolling);
    if (j->failed != 0)
        return j->failed;
    j->rolling = true;
    int err = journal_sync(j);
    if (err == 0) {
        CHECK(j->batch.len == 0 && j->written_lsn == j->next_lsn - 1 && j->applying[(j->seq + 1) & 1] == 0);
        j->seq++;
        j->at = j->batch_at = BLOCK_BYTES;
        err = header_write(j);
        if (err != 0)
            journal_fail(j, err);
    }
    j->mark_due = 0; /* the header says it */
    if (err != 0)
        journal_roll_end(j);
    return err;
}

void journal_roll_end(struct journal *j)
{
    j->rolling = false;
    fiber_queue_wake_all(&j->room);
}

int journal_wait_applied(struct journal *j)
{
    while (j->applying[(j->seq + 1) & 1] > 0) {
        if (j->failed != 0)
            return j->failed;
        int err = fiber_queue_wait(&j->applied, 0);
        if (err != 0)
            return err;
    }
    return 0;
}
