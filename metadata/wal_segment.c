/* Segments: taking the spare as the next one, making a spare, letting old ones go. */
#include "wal_impl.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include <fcntl.h>
#include <stdio.h>

#define FILL_BYTES MIB(1)

void wal_segment_path(const struct wal *wal, char out[WAL_PATH_MAX], uint64_t number)
{
    snprintf(out, WAL_PATH_MAX, "%s/segment-%016llx.log", wal->dir, (unsigned long long)number);
}

static int fill(struct wal *wal, struct io_file *file)
{
    size_t piece = MIN(FILL_BYTES, wal->segment_bytes);
    _cleanup_free_ uint8_t *zeros = wal_aligned(piece);
    if (zeros == NULL)
        return -E_NOMEM;
    for (uint64_t at = 0; at < wal->segment_bytes; at += piece) {
        int err = io_pwrite(file, zeros, MIN(piece, wal->segment_bytes - at), at);
        if (err != 0)
            return err;
    }
    return io_sync(file);
}

/* Writes a file full, so that later writes neither allocate nor extend, and names it the spare. */
static int spare_make(struct wal *wal)
{
    char temp[WAL_PATH_MAX], path[WAL_PATH_MAX];
    wal_path(wal, temp, "spare.tmp");
    wal_path(wal, path, "spare.log");
    _cleanup_(io_closep) struct io_file *file = NULL;
    int err = io_open(wal->io, temp, O_RDWR | O_CREAT | O_TRUNC, 0600, &file);
    if (err == 0)
        err = fill(wal, file);
    if (err == 0)
        err = io_rename(wal->io, temp, path);
    if (err == 0)
        err = io_sync_dir(wal->io, wal->dir);
    if (err == 0)
        wal->spare_ready = true;
    else if (err != -E_CANCELED)
        (void)io_unlink(wal->io, temp); /* gives the space back; a leftover goes at the next start */
    return err;
}

static void spare_fiber(void *arg)
{
    struct wal *wal = arg;
    int err = spare_make(wal);
    if (err != 0 && err != -E_CANCELED)
        log_warn("log %s: cannot prepare the next segment: %s; tried again when it is needed",
                 wal->dir, err_sentence(err));
    wal->spare_making = false;
    fiber_group_done(&wal->making);
}

static void spare_start(struct wal *wal)
{
    if (wal->spare_ready || wal->spare_making)
        return;
    wal->spare_making = true;
    fiber_group_add(&wal->making);
    if (fiber_spawn(wal->io, "wal-spare", spare_fiber, wal) != 0) {
        wal->spare_making = false;
        fiber_group_done(&wal->making);
    }
}

static int spare_wait(struct wal *wal)
{
    if (wal->spare_making)
        fiber_group_wait(&wal->making);
    return wal->spare_ready ? 0 : spare_make(wal);
}

/* Puts a header into the spare and gives it its name: both durable before the first group. */
static int spare_take(struct wal *wal, struct wal_segment *segment)
{
    char spare[WAL_PATH_MAX], path[WAL_PATH_MAX];
    wal_path(wal, spare, "spare.log");
    wal_segment_path(wal, path, segment->header.number);
    _cleanup_free_ uint8_t *block = wal_aligned(WAL_BLOCK);
    if (block == NULL)
        return -E_NOMEM;
    int err = wal_file_open(wal->io, spare, 0, &segment->file);
    if (err != 0)
        return err;
    wal_segment_encode(&segment->header, block);
    err = io_pwrite(segment->file, block, WAL_BLOCK, 0);
    if (err == 0)
        err = io_rename(wal->io, spare, path);
    if (err == 0) {
        wal->spare_ready = false;
        err = io_sync_dir(wal->io, wal->dir);
    }
    return err;
}

static int segment_switch(struct wal *wal)
{
    int err = spare_wait(wal);
    if (err != 0)
        return err;
    struct wal_segment *segment = calloc(1, sizeof *segment);
    if (segment == NULL)
        return -E_NOMEM;
    list_init(&segment->link);
    uint64_t number = 1;
    if (!list_empty(&wal->segments))
        number = list_entry(wal->segments.prev, struct wal_segment, link)->header.number + 1;
    segment->header = (struct wal_segment_header){.number = number,
                                                  .salt = io_random_u64(wal->io),
                                                  .first_sequence = wal->sequence,
                                                  .bytes = wal->segment_bytes};
    err = spare_take(wal, segment);
    if (err != 0) {
        wal_segment_free(segment);
        return err;
    }
    list_append(&wal->segments, &segment->link);
    wal->offset = WAL_BLOCK;
    spare_start(wal);
    return 0;
}

int wal_segment_switch(struct wal *wal)
{
    int err = fiber_mutex_lock(&wal->files);
    if (err != 0)
        return err;
    err = segment_switch(wal);
    fiber_mutex_unlock(&wal->files);
    return err;
}

/* The oldest segment becomes the spare, or is removed when there is one already. */
static int segment_retire(struct wal *wal, struct wal_segment *segment)
{
    char path[WAL_PATH_MAX], spare[WAL_PATH_MAX];
    wal_segment_path(wal, path, segment->header.number);
    wal_path(wal, spare, "spare.log");
    bool reuse =
        !wal->spare_ready && !wal->spare_making && segment->header.bytes == wal->segment_bytes;
    int err = reuse ? io_rename(wal->io, path, spare) : io_unlink(wal->io, path);
    if (err != 0)
        return err;
    wal->spare_ready = wal->spare_ready || reuse;
    wal_segment_free(segment);
    return 0;
}

static int segments_trim(struct wal *wal)
{
    bool changed = false;
    while (wal->segments.next != wal->segments.prev) {
        struct wal_segment *oldest = list_entry(wal->segments.next, struct wal_segment, link);
        if (oldest->max_index >= wal->first || oldest->readers > 0)
            break;
        int err = segment_retire(wal, oldest);
        if (err != 0)
            return err;
        changed = true;
    }
    return changed ? io_sync_dir(wal->io, wal->dir) : 0;
}

int wal_segments_trim(struct wal *wal)
{
    int err = fiber_mutex_lock(&wal->files);
    if (err != 0)
        return err;
    err = segments_trim(wal);
    fiber_mutex_unlock(&wal->files);
    return err;
}
