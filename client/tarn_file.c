/* Files and objects of the public library.
 *
 * Local parts: the loop thread tells which bytes of a file lie in a sealed chunk on this machine and
 * gives a descriptor of its file. A read within one of them is one pread(2) by the calling thread, with
 * no lock: each part has a sequence number that is odd while it changes. A reader whose part changed
 * under its pread throws the bytes away and asks the loop thread. A descriptor's number stays open until
 * the file is closed, another chunk comes under it by dup3(2), so a late reader meets no stranger's file.
 * A part is used for PART_FRESH_MS and not after a change through this library; then the loop thread
 * is asked again. When its descriptor is asked back (the chunk goes), the loop thread puts the null device under the number. */
#include "tarn_internal.h"

#include "common/err.h"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#define PARTS_MAX 64 /* descriptors a file keeps: 4 GiB of full chunks */
#define PART_FRESH_MS 1000

struct part {
    atomic_uint seq; /* even: what follows belongs together */
    atomic_ullong from, to, fd_offset;
    atomic_ullong until_ms;
    atomic_uint change; /* of tarn.changes when it was taken */
    atomic_int fd;
    uint64_t chunk; /* under the file's lock; 0 = the descriptor was asked back */
};

struct tarn_file {
    struct tarn *tarn;
    struct file *file;
    int flags;
    char *path;
    atomic_uint *change;
    struct part parts[PARTS_MAX];
    atomic_uint n_parts;        /* only grows */
    atomic_uint hint;           /* the part of the last read */
    pthread_mutex_t lock;       /* of those who change parts */
    unsigned next_part;         /* under lock */
    atomic_ullong no_part_until_ms;
    struct list link;           /* in tarn->files */
    /* Written at each read by whichever thread: in a line of its own, or every reader waits for its neighbour. */
    _Alignas(64) atomic_ullong direct_bytes;
};

struct file_call {
    struct loop_call call;
    struct tarn_file *file;
    const char *path;
    int flags;
    mode_t mode;
    const void *data;
    void *buf;
    size_t n;
    uint64_t offset;
    bool want_part, has_part;
    struct file_part part;
    unsigned fd_drops; /* of tarn when the part was taken */
};

static struct file_call *file_call_of(struct loop_call *call)
{
    return container_of(call, struct file_call, call);
}

/* ------------------------------------------------------------------ open and close */

static int create_and_open(struct file_call *c)
{
    struct tarn *tarn = c->call.tarn;
    Tarn__Where parent = TARN__WHERE__INIT;
    char *path = strdup(c->path);
    if (!path)
        return -E_NOMEM;
    char *slash = strrchr(path, '/');
    *slash = '\0';
    parent.path = path;
    Tarn__Create request = TARN__CREATE__INIT;
    request.parent = &parent;
    request.name = slash + 1;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = c->mode & 07777;
    request.exclusive = (c->flags & O_EXCL) != 0;
    request.open = true;
    request.open_flags = (uint32_t)c->flags;
    Tarn__Entry *entry = NULL;
    int r = meta_call(tarn->meta, OP_CREATE, &request.base, &request.ctx, &tarn->cred,
                      &tarn__entry__descriptor, &entry, c->call.detail);
    free(path);
    if (r < 0)
        return r;
    r = entry->attr ? file_adopt(tarn->meta, tarn->stores, entry->attr, entry->handle,
                                 (uint32_t)c->flags, &tarn->cred, &c->file->file)
                    : -E_PROTO;
    tarn__entry__free_unpacked(entry, NULL);
    return r;
}

static int64_t file_open_run(struct loop_call *call)
{
    struct file_call *c = file_call_of(call);
    struct tarn *tarn = call->tarn;
    if (c->flags & O_CREAT)
        return create_and_open(c);
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)c->path;
    return file_open(tarn->meta, tarn->stores, &where, (uint32_t)c->flags, &tarn->cred,
                     &c->file->file);
}

static void tarn_file_free(struct tarn_file *file)
{
    for (unsigned i = 0; i < file->n_parts; i++)
        close(file->parts[i].fd);
    pthread_mutex_destroy(&file->lock);
    free(file->path);
    free(file);
}

int tarn_file_open(struct tarn *tarn, const char *path, int flags, mode_t mode, struct tarn_file **ret)
{
    struct tarn_file *file = aligned_alloc(_Alignof(struct tarn_file), sizeof *file);
    if (file)
        memset(file, 0, sizeof *file);
    char *path_copy = strdup(path);
    if (!file || !path_copy || path[0] != '/') {
        free(path_copy);
        free(file);
        return path[0] == '/' ? public_error(-E_NOMEM, NULL, "open %s", path) : public_error_relative("open", path);
    }
    file->tarn = tarn;
    file->flags = flags;
    file->path = path_copy;
    pthread_mutex_init(&file->lock, NULL);
    struct file_call c = {.file = file, .path = path, .flags = flags, .mode = mode};
    int r = (int)loop_call(tarn, &c.call, file_open_run);
    if (r < 0) {
        tarn_file_free(file);
        return public_error(r, c.call.detail, "open %s", path);
    }
    file->change = &tarn->changes[file_ino(file->file) % CHANGE_SLOTS];
    pthread_mutex_lock(&tarn->files_lock);
    list_append(&tarn->files, &file->link);
    pthread_mutex_unlock(&tarn->files_lock);
    *ret = file;
    return 0;
}

static int64_t file_close_run(struct loop_call *call)
{
    return file_close(file_call_of(call)->file->file);
}

int tarn_file_close(struct tarn_file *file)
{
    struct file_call c = {.file = file};
    struct tarn *tarn = file->tarn;
    int r = (int)loop_call(tarn, &c.call, file_close_run);
    pthread_mutex_lock(&tarn->files_lock);
    list_remove(&file->link);
    atomic_fetch_add(&tarn->closed_direct, atomic_load(&file->direct_bytes));
    pthread_mutex_unlock(&tarn->files_lock);
    int failed = r < 0 ? public_error(r, c.call.detail, "close %s", file->path) : 0;
    tarn_file_free(file);
    return failed;
}

/* ------------------------------------------------------------------ local parts */

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* The loads are acquire loads, so the last one, of seq, comes after them; it comes after the pread as well,
 * because taking a reference to a file is a full barrier. Without threads nothing changes a part meanwhile. */
static bool part_try(struct tarn_file *file, struct part *part, void *buf, size_t n, uint64_t offset)
{
    unsigned seq = atomic_load_explicit(&part->seq, memory_order_acquire);
    uint64_t from = atomic_load_explicit(&part->from, memory_order_acquire);
    uint64_t to = atomic_load_explicit(&part->to, memory_order_acquire);
    if (seq % 2 != 0 || offset < from || offset >= to || n > to - offset)
        return false;
    if (atomic_load_explicit(&part->change, memory_order_acquire) != atomic_load(file->change) ||
        now_ms() >= atomic_load_explicit(&part->until_ms, memory_order_acquire))
        return false;
    uint64_t at = atomic_load_explicit(&part->fd_offset, memory_order_acquire) + (offset - from);
    int fd = atomic_load_explicit(&part->fd, memory_order_acquire);
    return pread(fd, buf, n, (off_t)at) == (ssize_t)n &&
           atomic_load_explicit(&part->seq, memory_order_acquire) == seq;
}

/* True when all n bytes came from a local part. */
static bool part_read(struct tarn_file *file, void *buf, size_t n, uint64_t offset)
{
    unsigned n_parts = atomic_load_explicit(&file->n_parts, memory_order_acquire);
    unsigned hint = atomic_load_explicit(&file->hint, memory_order_relaxed);
    bool got = hint < n_parts && part_try(file, &file->parts[hint], buf, n, offset);
    for (unsigned i = 0; i < n_parts && !got; i++) {
        got = i != hint && part_try(file, &file->parts[i], buf, n, offset);
        if (got)
            atomic_store_explicit(&file->hint, i, memory_order_relaxed);
    }
    if (got)
        atomic_fetch_add_explicit(&file->direct_bytes, n, memory_order_relaxed);
    return got;
}

/* The lock is held. The release stores keep the odd number before what they store. */
static void part_store(struct part *part, const struct file_part *got, unsigned change)
{
    unsigned seq = atomic_load_explicit(&part->seq, memory_order_relaxed);
    atomic_store_explicit(&part->seq, seq + 1, memory_order_relaxed);
    atomic_store_explicit(&part->from, got->offset, memory_order_release);
    atomic_store_explicit(&part->to, got->offset + got->length, memory_order_release);
    atomic_store_explicit(&part->fd_offset, got->fd_offset, memory_order_release);
    atomic_store_explicit(&part->until_ms, now_ms() + PART_FRESH_MS, memory_order_release);
    atomic_store_explicit(&part->change, change, memory_order_release);
    part->chunk = got->chunk;
    int fd = atomic_load_explicit(&part->fd, memory_order_relaxed);
    if (fd < 0)
        atomic_store_explicit(&part->fd, got->fd, memory_order_release);
    else if (dup3(got->fd, fd, O_CLOEXEC) < 0) /* it stays what it was: a part that covers nothing */
        atomic_store_explicit(&part->to, got->offset, memory_order_release);
    atomic_store_explicit(&part->seq, seq + 2, memory_order_release);
    if (fd >= 0)
        close(got->fd);
}

/* Takes the descriptor over; the part replaces what it overlaps, or the oldest. Descriptors were asked back since it was
 * taken: it may be one of them, and nobody would find it among the parts. */
static void part_keep(struct tarn_file *file, const struct file_call *c, unsigned change)
{
    const struct file_part *got = &c->part;
    pthread_mutex_lock(&file->lock);
    unsigned n = atomic_load_explicit(&file->n_parts, memory_order_relaxed), at = n;
    for (unsigned i = 0; i < n; i++)
        if (file->parts[i].from < got->offset + got->length && got->offset < file->parts[i].to)
            at = i;
    if (at == PARTS_MAX)
        at = file->next_part++ % PARTS_MAX;
    bool asked_back = c->fd_drops != atomic_load(&file->tarn->fd_drops);
    if (asked_back)
        close(got->fd);
    if (at == n && !asked_back)
        file->parts[at].fd = -1;
    if (!asked_back)
        part_store(&file->parts[at], got, change);
    if (at == n && !asked_back)
        atomic_store_explicit(&file->n_parts, n + 1, memory_order_release);
    pthread_mutex_unlock(&file->lock);
}

/* The lock is held. */
static void part_drop(struct tarn_file *file, struct part *part)
{
    unsigned seq = atomic_load_explicit(&part->seq, memory_order_relaxed);
    atomic_store_explicit(&part->seq, seq + 1, memory_order_relaxed);
    atomic_store_explicit(&part->to, atomic_load_explicit(&part->from, memory_order_relaxed), memory_order_release);
    part->chunk = 0;
    /* Only memory of the kernel can be missing; then the number stays what it was until the file is closed. */
    (void)dup3(file->tarn->null_fd, atomic_load_explicit(&part->fd, memory_order_relaxed), O_CLOEXEC);
    atomic_store_explicit(&part->seq, seq + 2, memory_order_release);
}

void tarn_files_fd_dropped(void *arg, uint64_t chunk)
{
    struct tarn *tarn = arg;
    atomic_fetch_add(&tarn->fd_drops, 1); /* before the locks: what is not among the parts yet is not kept */
    pthread_mutex_lock(&tarn->files_lock);
    list_foreach (&tarn->files, it) {
        struct tarn_file *file = list_entry(it, struct tarn_file, link);
        pthread_mutex_lock(&file->lock);
        for (unsigned i = 0; i < file->n_parts; i++)
            if (file->parts[i].chunk != 0 && (chunk == 0 || file->parts[i].chunk == chunk))
                part_drop(file, &file->parts[i]);
        pthread_mutex_unlock(&file->lock);
    }
    pthread_mutex_unlock(&tarn->files_lock);
}

uint64_t tarn_files_direct_bytes(struct tarn *tarn)
{
    pthread_mutex_lock(&tarn->files_lock);
    uint64_t sum = atomic_load(&tarn->closed_direct);
    list_foreach (&tarn->files, it)
        sum += atomic_load(&list_entry(it, struct tarn_file, link)->direct_bytes);
    pthread_mutex_unlock(&tarn->files_lock);
    return sum;
}

/* ------------------------------------------------------------------ reads and writes */

static int64_t pread_run(struct loop_call *call)
{
    struct file_call *c = file_call_of(call);
    int64_t got = file_read(c->file->file, c->buf, c->n, c->offset);
    c->fd_drops = atomic_load(&call->tarn->fd_drops);
    if (got > 0 && c->want_part)
        c->has_part = file_local_part(c->file->file, c->offset, &c->part) == 0;
    return got;
}

ssize_t tarn_pread(struct tarn_file *file, void *buf, size_t n, off_t offset)
{
    if (offset < 0 || (file->flags & O_ACCMODE) == O_WRONLY)
        return public_error(offset < 0 ? -E_INVAL : -E_BADF, NULL, "read %s", file->path);
    if (part_read(file, buf, n, (uint64_t)offset))
        return (ssize_t)n;
    struct file_call c = {.file = file, .buf = buf, .n = n, .offset = (uint64_t)offset};
    unsigned change = atomic_load(file->change);
    c.want_part = now_ms() >= atomic_load(&file->no_part_until_ms);
    int64_t got = loop_call(file->tarn, &c.call, pread_run);
    if (c.has_part)
        part_keep(file, &c, change);
    else if (c.want_part)
        atomic_store(&file->no_part_until_ms, now_ms() + PART_FRESH_MS);
    return got < 0 ? public_error((int)got, c.call.detail, "read %s", file->path) : (ssize_t)got;
}

static int64_t pwrite_run(struct loop_call *call)
{
    struct file_call *c = file_call_of(call);
    bool to_end = (c->file->flags & O_APPEND) != 0;
    return file_write(c->file->file, c->data, c->n, c->offset, to_end);
}

ssize_t tarn_pwrite(struct tarn_file *file, const void *buf, size_t n, off_t offset)
{
    if (offset < 0 || n > SSIZE_MAX)
        return public_error(-E_INVAL, NULL, "write %s", file->path);
    struct file_call c = {.file = file, .data = buf, .n = n, .offset = (uint64_t)offset};
    atomic_fetch_add(file->change, 1); /* before and after: a part taken in between is not used */
    int r = (int)loop_call(file->tarn, &c.call, pwrite_run);
    atomic_fetch_add(file->change, 1);
    return r < 0 ? public_error(r, c.call.detail, "write %s", file->path) : (ssize_t)n;
}

static int64_t fsync_run(struct loop_call *call)
{
    return file_sync(file_call_of(call)->file->file);
}

int tarn_fsync(struct tarn_file *file)
{
    struct file_call c = {.file = file};
    int r = (int)loop_call(file->tarn, &c.call, fsync_run);
    return r < 0 ? public_error(r, c.call.detail, "sync %s", file->path) : 0;
}

static int64_t ftruncate_run(struct loop_call *call)
{
    struct file_call *c = file_call_of(call);
    return file_truncate(c->file->file, c->offset);
}

int tarn_ftruncate(struct tarn_file *file, off_t size)
{
    if (size < 0)
        return public_error(-E_INVAL, NULL, "truncate %s", file->path);
    struct file_call c = {.file = file, .offset = (uint64_t)size};
    atomic_fetch_add(file->change, 1);
    int r = (int)loop_call(file->tarn, &c.call, ftruncate_run);
    atomic_fetch_add(file->change, 1);
    return r < 0 ? public_error(r, c.call.detail, "truncate %s", file->path) : 0;
}

/* ------------------------------------------------------------------ objects */

struct tarn_put {
    struct tarn *tarn;
    struct put *put;
    char *path;
};

struct put_call {
    struct loop_call call;
    struct tarn_put *put;
    mode_t mode;
    unsigned copies;
    const void *data;
    size_t n;
};

static struct put_call *put_call_of(struct loop_call *call)
{
    return container_of(call, struct put_call, call);
}

static int64_t put_begin_run(struct loop_call *call)
{
    struct put_call *c = put_call_of(call);
    struct tarn *tarn = call->tarn;
    struct put_options options = {
        .cred = &tarn->cred,
        .path = c->put->path + strspn(c->put->path, "/"),
        .mode = c->mode & 07777,
        .copies = c->copies,
        .file = true,
    };
    tarn__where__init(&options.parent);
    return put_begin(tarn->meta, tarn->stores, &options, &c->put->put);
}

static void tarn_put_free(struct tarn_put *put)
{
    free(put->path);
    free(put);
}

int tarn_put_begin(struct tarn *tarn, const char *path, mode_t mode, unsigned copies, struct tarn_put **ret)
{
    if (path[0] != '/')
        return public_error_relative("put", path);
    if (path[strspn(path, "/")] == '\0')
        return public_error(-E_ISDIR, NULL, "put %s", path);
    struct tarn_put *put = calloc(1, sizeof *put);
    if (!put)
        return public_error(-E_NOMEM, NULL, "put %s", path);
    put->tarn = tarn;
    put->path = strdup(path);
    struct put_call c = {.put = put, .mode = mode, .copies = copies};
    int r = put->path ? (int)loop_call(tarn, &c.call, put_begin_run) : -E_NOMEM;
    if (r < 0) {
        tarn_put_free(put);
        return public_error(r, c.call.detail, "put %s", path);
    }
    *ret = put;
    return 0;
}

static int64_t put_expect_run(struct loop_call *call)
{
    struct put_call *c = put_call_of(call);
    put_expect(c->put->put, c->n);
    return 0;
}

void tarn_put_expect(struct tarn_put *put, uint64_t size)
{
    struct put_call c = {.put = put, .n = size};
    loop_call(put->tarn, &c.call, put_expect_run);
}

static int64_t put_write_run(struct loop_call *call)
{
    struct put_call *c = put_call_of(call);
    return put_write(c->put->put, c->data, c->n);
}

int tarn_put_write(struct tarn_put *put, const void *buf, size_t n)
{
    struct put_call c = {.put = put, .data = buf, .n = n};
    int r = (int)loop_call(put->tarn, &c.call, put_write_run);
    return r < 0 ? public_error(r, c.call.detail, "put %s", put->path) : 0;
}

static int64_t put_commit_run(struct loop_call *call)
{
    return put_commit(put_call_of(call)->put->put, NULL, 0, NULL, 0, NULL);
}

int tarn_put_commit(struct tarn_put *put)
{
    struct put_call c = {.put = put};
    int r = (int)loop_call(put->tarn, &c.call, put_commit_run);
    int failed = r < 0 ? public_error(r, c.call.detail, "put %s", put->path) : 0;
    tarn_put_free(put);
    return failed;
}

static int64_t put_abort_run(struct loop_call *call)
{
    put_abort(put_call_of(call)->put->put);
    return 0;
}

void tarn_put_abort(struct tarn_put *put)
{
    struct put_call c = {.put = put};
    loop_call(put->tarn, &c.call, put_abort_run);
    tarn_put_free(put);
}
