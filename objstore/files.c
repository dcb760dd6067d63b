/* Chunk files: chunks/XX/ID, found by id alone. Bytes of a file behind a cell's `valid` mean nothing,
 * so files are preallocated in steps, and a full-sized file of a deleted chunk serves the next chunk
 * with its old content still in it: writing over written blocks is what disks do fastest. */
#include "volume.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <fcntl.h>
#include <stdio.h>

static unsigned shard_of(uint64_t id)
{
    return (unsigned)((id * 0x9e3779b97f4a7c15ull) >> 56);
}

static void shard_path(const struct volume *v, unsigned shard, char out[512])
{
    snprintf(out, 512, "%s/chunks/%02x", v->dir, shard);
}

void volume_chunk_path(const struct volume *v, uint64_t id, char out[512])
{
    snprintf(out, 512, "%s/chunks/%02x/%016llx", v->dir, shard_of(id), (unsigned long long)id);
}

static void spare_path(const struct volume *v, uint64_t number, char out[512])
{
    snprintf(out, 512, "%s/spare/%016llx", v->dir, (unsigned long long)number);
}

/* ------------------------------------------------------------------ open files */
void volume_file_forget(void *arg, struct chunk *c)
{
    struct volume *v = arg;
    CHECK(c->pins == 0);
    if (c->buffered != NULL || c->direct != NULL)
        v->n_open--;
    io_close(c->buffered);
    io_close(c->direct);
    c->buffered = c->direct = NULL;
    list_remove(&c->lru);
    list_remove(&c->unsynced);
    list_remove(&c->unflushed);
}

static void close_oldest(struct volume *v)
{
    list_foreach(&v->open, it) {
        struct chunk *c = list_entry(it, struct chunk, lru);
        if (c->pins > 0)
            continue;
        io_close(c->buffered);
        io_close(c->direct);
        c->buffered = c->direct = NULL;
        list_remove(&c->lru);
        v->n_open--;
        return;
    }
}

/* A spare file takes the chunk's name. */
static bool take_spare(struct volume *v, struct chunk *c, const char *path)
{
    if (v->n_spares == 0)
        return false;
    uint64_t number = v->spares[--v->n_spares];
    char from[512];
    spare_path(v, number, from);
    if (io_rename(v->io, from, path) != 0)
        return false;
    c->allocated = CHUNK_BYTES_MAX;
    return true;
}

static int open_file(struct volume *v, struct chunk *c, enum volume_file_kind kind, bool make)
{
    char path[512];
    volume_chunk_path(v, c->id, path);
    int flags = O_RDWR;
    if (!c->has_file) {
        if (!make)
            return -E_NOENT;
        if (kind != FILE_DIRECT || !take_spare(v, c, path))
            flags |= O_CREAT;
        c->new_name = true;
    }
    struct io_file *file;
    int err = io_open(v->io, path, flags | (kind == FILE_DIRECT ? O_DIRECT : 0), 0600, &file);
    if (err != 0)
        return err;
    c->has_file = true;
    if (c->buffered == NULL && c->direct == NULL) {
        while (v->n_open >= v->files_max && v->n_open > 0) {
            unsigned before = v->n_open;
            close_oldest(v);
            if (v->n_open == before)
                break; /* all are in use: bounded by the requests in flight */
        }
        v->n_open++;
        list_append(&v->open, &c->lru);
    }
    *(kind == FILE_DIRECT ? &c->direct : &c->buffered) = file;
    return 0;
}

int volume_file(struct volume *v, struct chunk *c, enum volume_file_kind kind, bool make, struct io_file **ret)
{
    struct io_file **slot = kind == FILE_DIRECT ? &c->direct : &c->buffered;
    c->pins++;
    if (*slot == NULL) {
        int err = fiber_mutex_lock(&c->opening);
        if (err == 0) {
            if (*slot == NULL)
                err = open_file(v, c, kind, make);
            fiber_mutex_unlock(&c->opening);
        }
        if (err != 0) {
            volume_file_done(v, c);
            return err;
        }
    }
    list_remove(&c->lru);
    list_append(&v->open, &c->lru);
    *ret = *slot;
    return 0;
}

void volume_file_done(struct volume *v, struct chunk *c)
{
    CHECK(c->pins > 0);
    c->pins--;
}

/* ------------------------------------------------------------------ written, allocated, synced */
void volume_file_written(struct volume *v, struct chunk *c, bool direct)
{
    if (direct && list_empty(&c->unsynced))
        list_append(&v->unsynced, &c->unsynced);
    if (list_empty(&c->unflushed))
        list_append(&v->unflushed, &c->unflushed);
}

int volume_file_allocate(struct volume *v, struct chunk *c, struct io_file *file, uint64_t end)
{
    if (end <= c->allocated)
        return 0;
    int err = fiber_mutex_lock(&c->opening);
    if (err != 0)
        return err;
    if (end > c->allocated) {
        /* Small chunks are allocated exactly; bulk ones double: 2, 4, … 64 MiB. With little space nothing is taken ahead. */
        uint64_t want = volume_is_tight(v) ? end : MAX(end, MIN(CHUNK_BYTES_MAX, c->allocated * 2));
        want = MIN(CHUNK_BYTES_MAX, round_up_u64(want, want > MIB(1) && !volume_is_tight(v) ? MIB(1) : BLOCK_BYTES));
        err = io_allocate(file, c->allocated, want - c->allocated);
        if (err == -E_NOTSUP)
            err = 0; /* a file system without it allocates as it writes */
        if (err == 0)
            c->allocated = want;
    }
    fiber_mutex_unlock(&c->opening);
    return err;
}

static int sync_name(struct volume *v, struct chunk *c)
{
    if (!c->new_name)
        return 0;
    char dir[512];
    shard_path(v, shard_of(c->id), dir);
    int err = io_sync_dir(v->io, dir);
    if (err == 0)
        c->new_name = false;
    return err;
}

int volume_file_sync(struct volume *v, struct chunk *c)
{
    struct io_file *file;
    if (!c->has_file)
        return 0;
    int err = volume_file(v, c, c->direct != NULL ? FILE_DIRECT : FILE_BUFFERED, false, &file);
    if (err != 0)
        return err;
    err = io_sync(file);
    /* A failed sync may have given dirty pages up; a later one that succeeds does not bring them back (Linux). What the
     * file holds is not known any more: nothing is acknowledged until the next start has looked. */
    if (err != 0 && err != -E_CANCELED && v->journal != NULL)
        journal_fail(v->journal, err);
    if (err == 0)
        err = sync_name(v, c);
    volume_file_done(v, c);
    return err;
}

/* Syncs one chunk taken off its list. A chunk deleted meanwhile needs nothing. */
static int sync_one(struct volume *v, struct chunk *c)
{
    c->refs++;
    int err = c->dead ? 0 : volume_file_sync(v, c);
    if (c->dead && err == -E_NOENT)
        err = 0;
    chunk_unref(&v->index, c);
    return err;
}

static void move_all(struct list *from, struct list *to)
{
    list_init(to);
    while (!list_empty(from)) {
        struct list *node = from->next;
        list_remove(node);
        list_append(to, node);
    }
}

int volume_sync_unsynced(void *arg, bool *ret_any)
{
    struct volume *v = arg;
    struct list now;
    int err = 0;
    move_all(&v->unsynced, &now);
    while (!list_empty(&now)) {
        struct chunk *c = list_entry(now.next, struct chunk, unsynced);
        list_remove(&c->unsynced);
        *ret_any = true;
        if (err == 0)
            err = sync_one(v, c);
        else
            list_append(&v->unsynced, &c->unsynced);
    }
    return err;
}

int volume_sync_unflushed(struct volume *v)
{
    struct list now;
    int err = 0;
    move_all(&v->unflushed, &now);
    while (!list_empty(&now)) {
        struct chunk *c = list_entry(now.next, struct chunk, unflushed);
        list_remove(&c->unflushed);
        if (err == 0)
            err = sync_one(v, c);
        if (err != 0 && !c->dead)
            list_append(&v->unflushed, &c->unflushed);
    }
    return err;
}

/* ------------------------------------------------------------------ removal */
void volume_file_remove(struct volume *v, struct chunk *c)
{
    if (!c->has_file)
        return;
    char path[512], spare[512];
    volume_chunk_path(v, c->id, path);
    bool reusable = c->allocated == CHUNK_BYTES_MAX && c->length == CHUNK_BYTES_MAX &&
                    (c->flags & CHUNK_EXPOSED) == 0 && v->n_spares < VOLUME_SPARES_MAX && !volume_is_tight(v);
    int err;
    if (reusable) {
        uint64_t number = v->next_spare++;
        spare_path(v, number, spare);
        err = io_rename(v->io, path, spare);
        if (err == 0 && v->n_spares < VOLUME_SPARES_MAX)
            v->spares[v->n_spares++] = number;
        else if (err == 0)
            err = io_unlink(v->io, spare);
        else if (err != -E_CANCELED)
            err = io_unlink(v->io, path); /* the other directory could not take one name more */
    } else {
        err = io_unlink(v->io, path);
    }
    c->has_file = false;
    v->space_at_ms = 0;
    if (err != 0 && err != -E_NOENT && err != -E_CANCELED)
        log_warn("cannot remove %s: %s; the next start does", path, err_sentence(err));
}

void volume_spares_drop(struct volume *v)
{
    char path[512];
    while (v->n_spares > 0) {
        spare_path(v, v->spares[--v->n_spares], path);
        int err = io_unlink(v->io, path);
        if (err != 0 && err != -E_CANCELED)
            log_warn("cannot remove %s: %s; the next start does", path, err_sentence(err));
    }
    v->space_at_ms = 0;
}

struct scan {
    struct volume *v;
    unsigned shard;
    uint64_t orphans[256];
    size_t n;
};

static int scan_name(void *arg, const char *name)
{
    struct scan *scan = arg;
    char *end;
    uint64_t id = strtoull(name, &end, 16);
    if (strlen(name) != 16 || *end != '\0')
        return 0; /* not ours: left alone */
    struct chunk *c = map_get(&scan->v->index.chunks, id);
    if (c != NULL && shard_of(id) == scan->shard)
        c->has_file = true;
    else if (scan->n < ARRAY_SIZE(scan->orphans))
        scan->orphans[scan->n++] = id;
    return 0;
}

static int scan_shard(struct volume *v, struct scan *scan, unsigned shard)
{
    char path[512];
    do {
        *scan = (struct scan){.v = v, .shard = shard};
        shard_path(v, shard, path);
        int err = io_list(v->io, path, scan_name, scan);
        for (size_t i = 0; err == 0 && i < scan->n; i++) {
            snprintf(path, sizeof path, "%s/chunks/%02x/%016llx", v->dir, shard,
                     (unsigned long long)scan->orphans[i]);
            err = io_unlink(v->io, path);
        }
        if (err != 0)
            return err;
    } while (scan->n == ARRAY_SIZE(scan->orphans));
    return 0;
}

static int remove_spare(void *arg, const char *name)
{
    struct scan *scan = arg;
    char *end;
    if (scan->n < ARRAY_SIZE(scan->orphans) && strlen(name) == 16)
        scan->orphans[scan->n++] = strtoull(name, &end, 16);
    return 0;
}

/* Spares do not outlive the process: whether a rename out of them is on disk is not known. */
static int remove_spares(struct volume *v, struct scan *scan)
{
    char path[512];
    *scan = (struct scan){.v = v};
    snprintf(path, sizeof path, "%s/spare", v->dir);
    int err = io_list(v->io, path, remove_spare, scan);
    for (size_t i = 0; err == 0 && i < scan->n; i++) {
        spare_path(v, scan->orphans[i], path);
        err = io_unlink(v->io, path);
    }
    return err;
}

int volume_files_scan(struct volume *v)
{
    _cleanup_free_ struct scan *scan = malloc(sizeof *scan);
    if (scan == NULL)
        return -E_NOMEM;
    int err = remove_spares(v, scan);
    for (unsigned shard = 0; err == 0 && shard < VOLUME_SHARDS; shard++)
        err = scan_shard(v, scan, shard);
    return err;
}
