/* Handles and reads. A read is cut into windows that are read side by side; when one of them finds
 * the map stale or no copy answering, the map is fetched again and the whole read repeated. */
#include "file_internal.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"

#include <fcntl.h>
#include <unistd.h>

/* ------------------------------------------------------------------ open and close */

int file_adopt(struct meta *meta, struct stores *stores, const Tarn__Attr *attr, uint64_t handle,
               uint32_t flags, const struct meta_cred *cred, struct file **ret)
{
    struct file *file = calloc(1, sizeof *file);
    if (!file)
        return -E_NOMEM;
    file->magic = FILE_MAGIC;
    file->meta = meta;
    file->stores = stores;
    file->io = fiber_io();
    file->handle = handle;
    file->flags = flags;
    file->session = meta_session(meta);
    meta_holds(meta, file->session, 1, 0);
    int r = inode_get(file, attr->ino, &file->inode);
    if (r < 0) {
        meta_holds(meta, file->session, -1, 0);
        free(file);
        return r;
    }
    if (flags & O_TRUNC)
        inode_open_clear(file->inode);
    if ((flags & O_TRUNC) || attr->version != file->inode->version)
        inode_pages_drop(file->inode);
    inode_learn(file->inode, attr);
    file->inode->settled |= file->inode->handles == 1 && attr->size == 0;
    *ret = file;
    return 0;
}

/* With the session the handle went, too. */
static int handle_close(struct meta *meta, uint64_t session, uint64_t handle)
{
    Tarn__Close request = TARN__CLOSE__INIT;
    request.handle = handle;
    int r = meta_call_in(meta, session, OP_CLOSE, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    return r == -E_NO_SESSION ? 0 : r;
}

int file_open(struct meta *meta, struct stores *stores, const Tarn__Where *where, uint32_t flags,
              const struct meta_cred *cred, struct file **ret)
{
    Tarn__Open request = TARN__OPEN__INIT;
    request.where = (Tarn__Where *)where;
    request.flags = flags;
    Tarn__Entry *entry = NULL;
    int r = meta_call(meta, OP_OPEN, &request.base, &request.ctx, cred, &tarn__entry__descriptor,
                      &entry, NULL);
    if (r < 0)
        return r;
    r = entry->attr ? file_adopt(meta, stores, entry->attr, entry->handle, flags, cred, ret)
                    : -E_PROTO;
    if (r < 0)
        handle_close(meta, meta_session(meta), entry->handle);
    tarn__entry__free_unpacked(entry, NULL);
    return r;
}

int file_close(struct file *file)
{
    if (!file)
        return 0;
    CHECK_MAGIC(file, FILE_MAGIC);
    int flushed = file_flush(file);
    if (file_writes(file) && --file->inode->writers == 0) {
        /* The close may seal our chunks, which brings them to disk, too: file_sync() waits for that. */
        file->inode->settled = false;
        inode_open_clear(file->inode);
        inode_pages_drop(file->inode);
    }
    int r = handle_close(file->meta, file->session, file->handle);
    meta_holds(file->meta, file->session, -1, file->locked ? -1 : 0);
    inode_put(file, file->inode);
    file->magic = 0;
    free(file);
    return r < 0 ? r : flushed;
}

uint64_t file_ino(const struct file *file)
{
    return file->inode->ino;
}

uint64_t file_handle(const struct file *file)
{
    return file->handle;
}

int file_session(struct file *file, uint64_t *ret_session)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    int r = file_lives(file);
    if (r < 0)
        return r;
    if (!file->locked)
        meta_holds(file->meta, file->session, 0, 1);
    file->locked = true;
    *ret_session = file->session;
    return 0;
}

uint64_t file_size_known(const struct file *file)
{
    return file->inode->size;
}

void file_refresh(struct file *file)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    inode_pages_drop(file->inode);
    for (unsigned i = 0; i < OPEN_MAX; i++)
        if (file->inode->open[i])
            file->inode->open[i]->checked_ms = file->inode->open[i]->version = 0;
}

void file_keep_fresh(struct file *file)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    file->fresh = true;
}

int file_attr(struct file *file, Tarn__Attr **ret)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    int r = file_lives(file) == 0 ? file_mtime_flush(file) : 0;
    if (r < 0)
        return r;
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = file->inode->ino;
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    Tarn__LookupReply *reply = NULL;
    r = meta_call(file->meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root,
                  &tarn__lookup_reply__descriptor, &reply, NULL);
    if (r < 0)
        return r;
    Tarn__Attr *attr = take_ptr(reply->attr);
    tarn__lookup_reply__free_unpacked(reply, NULL);
    if (!attr)
        return -E_PROTO;
    inode_learn(file->inode, attr);
    *ret = attr;
    return 0;
}

/* ------------------------------------------------------------------ jobs side by side */

static void job_finish(struct file_job *job, int r)
{
    if (r < 0 && job->jobs->err == 0)
        job->jobs->err = r;
    extent_ref_drop(job->ref);
}

static void job_fiber(void *arg)
{
    struct file_job *job = arg;
    struct file_jobs *jobs = job->jobs;
    job_finish(job, job->run(job));
    free(job);
    fiber_queue_wake_one(&jobs->room);
    fiber_group_done(&jobs->group);
}

/* False: no room or no memory for another fiber; the caller runs the job itself. */
static bool job_spawn(struct file_jobs *jobs, const struct file_job *job)
{
    while (jobs->group.running >= FILE_JOBS_MAX)
        if (fiber_queue_wait(&jobs->room, 0) < 0)
            return false;
    struct file_job *own = malloc(sizeof *own);
    if (!own)
        return false;
    *own = *job;
    own->jobs = jobs;
    fiber_group_add(&jobs->group);
    if (fiber_spawn(job->file->io, "file-window", job_fiber, own) == 0)
        return true;
    fiber_group_done(&jobs->group);
    free(own);
    return false;
}

void file_jobs_add(struct file_jobs *jobs, const struct file_job *job)
{
    if (jobs->err == 0 && job_spawn(jobs, job))
        return;
    struct file_job here = *job;
    here.jobs = jobs;
    job_finish(&here, jobs->err ? jobs->err : here.run(&here));
}

int file_jobs_wait(struct file_jobs *jobs)
{
    fiber_group_wait(&jobs->group);
    return jobs->err;
}

/* ------------------------------------------------------------------ reads */

static int read_job(struct file_job *job)
{
    struct stores *stores = job->file->stores;
    return job->fetched ? stores_read(stores, job->ref->extent, job->offset, job->buf, job->n)
                        : stores_read_known(stores, job->ref->extent, job->offset, job->buf, job->n);
}

/* One read call. `true_map`: the map was fetched since the call began, or is being checked beside the
 * transfer, so its holes and its size are true. */
struct read {
    struct file *file;
    uint8_t *buf;
    uint64_t offset, end;
    struct file_view view;
    bool true_map;
};

static void read_inline(const struct map_page *page, const struct read *rd)
{
    for (uint64_t at = rd->offset; at < rd->end;) {
        size_t n = (size_t)(rd->end - at);
        if (at < page->data_len) {
            n = MIN(n, page->data_len - (size_t)at);
            memcpy(rd->buf + (at - rd->offset), page->data + at, n);
        } else {
            memset(rd->buf + (at - rd->offset), 0, n);
        }
        at += n;
    }
}

/* Cuts [at, …) of the extent into windows. Returns the end of what was cut. */
static uint64_t read_extent(const struct read *rd, struct file_jobs *jobs, struct extent_ref *ref,
                            uint64_t at)
{
    const Tarn__Extent *extent = ref->extent;
    uint64_t in_extent = at - extent->offset;
    uint64_t end = MIN(rd->end, extent->offset + extent->length);
    uint64_t chunk_at = extent->chunk_offset + in_extent;
    while (at < end) {
        size_t n = (size_t)MIN(end - at, MIB(1) - chunk_at % MIB(1));
        struct file_job job = {.run = read_job, .file = rd->file, .ref = extent_ref_take(ref)};
        job.offset = chunk_at;
        job.buf = rd->buf + (at - rd->offset);
        job.n = n;
        job.fetched = rd->view.fetched;
        if (at == rd->offset && at + n == rd->end) { /* the only one: no fiber */
            job.jobs = jobs;
            int r = job.run(&job);
            extent_ref_drop(ref);
            jobs->err = r;
        } else {
            file_jobs_add(jobs, &job);
        }
        at += n;
        chunk_at += n;
    }
    return end;
}

/* The extent at `at` (counted), or NULL and the hole's end; -E_STALE: ask again, then look again. */
static int read_find(struct read *rd, uint64_t at, struct extent_ref **ret, uint64_t *ret_end)
{
    *ret = file_view_open(rd->file, &rd->view, at);
    if (*ret) {
        extent_ref_take(*ret);
        return 0;
    }
    struct map_page *page = NULL;
    int r = file_map_page(rd->file, &rd->view, at, &page);
    if (r < 0)
        return r;
    if (page->is_inline)
        return -E_STALE;
    *ret = map_page_find(page, at, ret_end);
    return *ret || rd->true_map ? 0 : -E_STALE;
}

static int read_extents(struct read *rd)
{
    struct file_jobs jobs = {0};
    int r = 0;
    for (uint64_t at = rd->offset; at < rd->end && jobs.err == 0;) {
        struct extent_ref *ref = NULL;
        uint64_t hole_end = 0;
        r = read_find(rd, at, &ref, &hole_end);
        if (r < 0)
            break;
        if (ref) {
            at = read_extent(rd, &jobs, ref, at);
            extent_ref_drop(ref);
            continue;
        }
        uint64_t end = MIN(hole_end, rd->end);
        memset(rd->buf + (at - rd->offset), 0, (size_t)(end - at));
        at = end;
    }
    int waited = file_jobs_wait(&jobs);
    return r < 0 ? r : waited;
}

/* -E_STALE: fetch the map and come again. */
static int64_t read_once(struct read *rd, size_t n)
{
    struct inode *inode = rd->file->inode;
    struct map_page *page = NULL;
    bool open = file_view_open(rd->file, &rd->view, rd->offset) != NULL;
    if (!open || rd->view.fetched) {
        int r = file_map_page(rd->file, &rd->view, rd->offset, &page);
        if (r < 0)
            return r;
    }
    uint64_t wanted = rd->offset + n;
    if (wanted > inode->size && !rd->true_map)
        return -E_STALE; /* somebody may have written behind the end we know */
    if (rd->offset >= inode->size)
        return 0;
    rd->end = MIN(wanted, inode->size);
    if (page && page->is_inline && !file_view_open(rd->file, &rd->view, rd->offset)) {
        read_inline(page, rd);
        return (int64_t)(rd->end - rd->offset);
    }
    int r = read_extents(rd);
    return r < 0 ? r : (int64_t)(rd->end - rd->offset);
}

/* The first try, by what is known already. A fresh file's is repeated at once by a fetched map
 * (view.fetched) when nothing was known, or when it turns out that it did not hold any more. */
static int64_t read_known(struct read *rd, size_t n)
{
    if (!rd->file->fresh)
        return read_once(rd, n);
    int64_t got = 0;
    bool same = false;
    bool known = file_view_knows(rd->file, &rd->view, rd->offset);
    if (known && inode_leased(rd->file)) {
        rd->true_map = same = true;
        got = read_once(rd, n);
    } else if (known) {
        struct file_check check;
        file_check_begin(&check, rd->file, rd->offset);
        rd->true_map = true;
        got = read_once(rd, n);
        int r = file_check_end(&check, &same);
        if (r < 0)
            return r;
    }
    if (same && got != -E_STALE)
        return got;
    rd->view.fetched = rd->true_map = true;
    return read_once(rd, n);
}

int64_t file_read(struct file *file, void *buf, size_t n, uint64_t offset)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    uint64_t end;
    if (add_overflows(offset, (uint64_t)n, &end) || n > SSIZE_MAX)
        return -E_INVAL;
    struct read rd = {.file = file, .buf = buf, .offset = offset};
    rd.view.fetches = file->inode->fetches;
    struct file_retry retry = {0};
    for (unsigned tries = 0;; tries++) {
        int lives = file_lives(file);
        if (lives < 0)
            return lives;
        int64_t got = tries == 0 ? read_known(&rd, n) : read_once(&rd, n);
        bool again = got == -E_STALE || got == -E_UNAVAIL || (got == -E_CORRUPT && tries < 3);
        if (!again && got >= 0 && (lives = file_lives(file)) < 0)
            return lives; /* a lock that it was read under may have been in other hands already */
        if (!again)
            return got;
        if (rd.view.fetched) {
            int r = file_retry_pause(file, &retry);
            if (r < 0)
                return r == -E_TIMEOUT ? (got == -E_STALE ? -E_UNAVAIL : got) : r;
            struct extent_ref *open = inode_open_find(file->inode, offset);
            if (open)
                inode_open_drop(file->inode, open);
        }
        int r = file_map_fetch(file, offset, 0, NULL);
        if (r < 0)
            return r;
        rd.view.fetched = rd.true_map = true;
    }
}

/* ------------------------------------------------------------------ descriptors */

/* How much of the extent is read from the chunk's file: behind a piece are the bytes of others. */
static uint64_t raw_length(const Tarn__Extent *extent)
{
    if (extent->stored == 0)
        return extent->length;
    uint64_t end = extent->piece_offset + extent->stored;
    return extent->chunk_offset < end ? MIN(extent->length, end - extent->chunk_offset) : 0;
}

int file_local_part(struct file *file, uint64_t offset, struct file_part *ret)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    struct map_page *page = NULL;
    struct file_view view = {.fetches = file->inode->fetches};
    int r = file_lives(file);
    if (r == 0)
        r = file_map_page(file, &view, offset, &page);
    if (r < 0)
        return r;
    if (page->is_inline || offset >= file->inode->size || inode_open_find(file->inode, offset))
        return -E_NOTSUP;
    uint64_t hole_end;
    _cleanup_(extent_ref_dropp) struct extent_ref *ref = map_page_find(page, offset, &hole_end);
    if (!ref || offset - ref->extent->offset >= raw_length(ref->extent))
        return -E_NOTSUP;
    int fd = -1;
    r = stores_fd(file->stores, ref->extent, &fd);
    if (r < 0)
        return r;
    const Tarn__Extent *extent = ref->extent;
    ret->chunk = extent->chunk;
    ret->size = file->inode->size;
    ret->offset = extent->offset;
    ret->length = MIN(raw_length(extent), ret->size - extent->offset); /* offset < size: it begins before */
    ret->fd_offset = extent->chunk_offset;
    ret->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    return ret->fd < 0 ? -E_NOTSUP : 0;
}

int file_raw_fd(struct file *file, int *ret_fd, uint64_t *ret_chunk)
{
    CHECK_MAGIC(file, FILE_MAGIC);
    struct map_page *page = NULL;
    struct file_view view = {.fetches = file->inode->fetches};
    int r = file_map_page(file, &view, 0, &page);
    if (r < 0)
        return r;
    uint64_t size = file->inode->size;
    if (page->is_inline || page->n != 1 || size == 0 || inode_open_find(file->inode, 0))
        return -E_NOTSUP;
    const Tarn__Extent *extent = page->refs[0]->extent;
    if (extent->offset != 0 || extent->chunk_offset != 0 || extent->length != size || extent->stored != 0 ||
        extent->chunk_length != size)
        return -E_NOTSUP;
    struct file_part part;
    r = file_local_part(file, 0, &part);
    if (r < 0)
        return r;
    *ret_fd = part.fd;
    *ret_chunk = part.chunk;
    return 0;
}
