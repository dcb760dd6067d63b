/* The space of a volume. Three marks, counted from the file system's end:
 *
 *   ... clients write ... | reserve: healing, compaction, clones only | a quarter of it: nobody but what frees | end
 *
 * What makes room (a deletion, a truncation) needs the journal, which is allocated for good, and now and then a checkpoint
 * of the index. For that the file `reserve` is kept allocated, large enough for the whole index: on a full disk it
 * becomes the next index segment, a full one, which frees those before it.
 *
 * Near the end ("tight") a write's blocks are allocated before its record is journaled: a record that cannot be carried
 * to its file would stop the volume. */
#include "volume.h"

#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>

#define SPACE_AGE_MS 500 /* how old a look at the free space may be */
#define RESERVE_SHARE 50 /* of the disk: 2 % */
#define RESERVE_MIN MIB(4)
#define RESERVE_MAX GIB(16)

static void reserve_path(const struct volume *v, char out[512])
{
    snprintf(out, 512, "%s/reserve", v->dir);
}

/* ------------------------------------------------------------------ how much there is */
/* What the chunks' files take, about. Cost: O(chunks), twice a second. */
static uint64_t chunks_bytes(struct volume *v)
{
    size_t at = 0;
    uint64_t id, sum = 0;
    void *chunk;
    while (map_next(&v->index.chunks, &at, &id, &chunk))
        sum += MAX(((struct chunk *)chunk)->allocated, ((struct chunk *)chunk)->length);
    return sum;
}

static int space_look(struct volume *v)
{
    uint64_t now = io_mono_ms(v->io);
    if (v->space_at_ms != 0 && now - v->space_at_ms < SPACE_AGE_MS)
        return 0;
    int err = io_statfs(v->io, v->dir, &v->total, &v->free);
    if (err != 0)
        return err;
    v->space_at_ms = MAX(now, (uint64_t)1);
    if (v->capacity != 0) {
        uint64_t used = chunks_bytes(v) + v->n_spares * CHUNK_BYTES_MAX;
        v->total = MIN(v->total, v->capacity);
        uint64_t left = used < v->capacity ? v->capacity - used : 0;
        v->free = MIN(v->free, left);
    }
    if (!v->reserve_given)
        v->reserve_bytes = MIN(RESERVE_MAX, MAX(RESERVE_MIN, v->total / RESERVE_SHARE));
    return 0;
}

bool volume_is_tight(const struct volume *v)
{
    return v->free < 2 * v->reserve_bytes;
}

int volume_has_room(struct volume *v, uint64_t bytes, bool healing)
{
    int err = space_look(v);
    if (err == 0 && v->n_spares > 0 && v->free < 2 * v->reserve_bytes + bytes) {
        volume_spares_drop(v); /* kept for speed; whoever is short of space cannot always use them */
        err = space_look(v);
    }
    if (err != 0)
        return err;
    uint64_t keep = healing ? v->reserve_bytes / 4 : v->reserve_bytes;
    if (v->free + v->n_spares * CHUNK_BYTES_MAX < keep + bytes)
        return -E_NOSPC;
    v->free -= MIN(v->free, bytes);
    return 0;
}

int volume_space(struct volume *v, uint64_t *ret_total, uint64_t *ret_free)
{
    int err = space_look(v);
    if (err != 0)
        return err;
    uint64_t all = v->free + v->n_spares * CHUNK_BYTES_MAX;
    *ret_total = v->total;
    *ret_free = all > v->reserve_bytes ? all - v->reserve_bytes : 0;
    return 0;
}

/* ------------------------------------------------------------------ the file that is kept for a checkpoint */
/* The whole index half as large again as it is: it grows until the next checkpoint, which is at hand then. */
static uint64_t reserve_wanted(const struct volume *v)
{
    return round_up_u64(v->index.bytes + v->index.bytes / 2 + MIB(1), MIB(1));
}

void volume_reserve_find(struct volume *v)
{
    char path[512];
    _cleanup_(io_closep) struct io_file *file = NULL;
    reserve_path(v, path);
    if (io_open(v->io, path, O_RDWR, 0, &file) != 0 || io_size(file, &v->reserved) != 0)
        v->reserved = 0;
}

void volume_reserve_keep(struct volume *v)
{
    char path[512];
    uint64_t want = reserve_wanted(v);
    _cleanup_(io_closep) struct io_file *file = NULL;
    if (v->reserved >= want)
        return;
    reserve_path(v, path);
    int err = io_open(v->io, path, O_RDWR | O_CREAT, 0600, &file);
    if (err == 0)
        err = io_allocate(file, 0, want);
    if (err == 0)
        err = io_sync(file);
    if (err == -E_NOTSUP)
        err = 0; /* a file system that cannot: it allocates as it writes, and there is no help */
    if (err == 0)
        v->reserved = want;
}

bool volume_reserve_give(struct volume *v)
{
    char path[512];
    if (v->reserved == 0)
        return false;
    reserve_path(v, path);
    v->reserved = 0;
    v->space_at_ms = 0;
    /* Blocks of a file that could come back after a loss of power are not given to others yet. */
    return io_unlink(v->io, path) == 0 && io_sync_dir(v->io, v->dir) == 0;
}

int volume_reserve_take(struct volume *v, const char *path, uint64_t bytes)
{
    char from[512];
    if (bytes > v->reserved)
        return -E_NOSPC;
    reserve_path(v, from);
    v->reserved = 0;
    return io_rename(v->io, from, path);
}

int volume_write_surely(struct volume *v, struct io_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset)
{
    int err = io_pwritev(file, iov, n_iov, offset);
    return err == -E_NOSPC && volume_reserve_give(v) ? io_pwritev(file, iov, n_iov, offset) : err;
}
