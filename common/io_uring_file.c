/* Files and borrowed descriptors on the ring. Cached reads are tried in place first (preadv2 with
 * RWF_NOWAIT costs one system call and no turn of the loop); what may block goes to the ring, and what
 * the ring cannot do (ftruncate, readdir, statfs) to a worker. */
#include "io_ring.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define READ_PART_MAX MIB(1)   /* copied in place at a time: about 100 us */
#define RING_PART_MAX MIB(512) /* the kernel takes no more than 2 GiB - 4 KiB */
#define COST_UNIT KIB(16)      /* see core_spend(): CORE_SLICE units are 1 MiB */
#define IOV_PART 64
#define DIRECT_UNIT 4096u

struct file {
    struct io_file base; /* first */
    int fd;
    unsigned refs; /* one for the owner, one for each call under way */
    bool direct;
    bool no_nowait; /* this file system cannot tell whether a read would block */
};

static struct file *file_ref(struct io_file *base)
{
    struct file *file = container_of(base, struct file, base);
    CHECK(file->refs > 0);
    file->refs++;
    return file;
}

static void file_unref(struct file **ref)
{
    struct file *file = *ref;
    if (--file->refs > 0)
        return;
    close(file->fd);
    free(file);
}
#define _cleanup_file_ _cleanup_(file_unref)

int uring_open(struct io *io, const char *path, int flags, mode_t mode, struct io_file **ret_file)
{
    struct file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return -E_NOMEM;
    struct ring_op op = {.code = RING_OPEN, .addr = path, .flags = flags | O_CLOEXEC, .len = mode};
    int fd = ring_call(ring_of(io), &op, 0);
    if (fd < 0) {
        free(file);
        return ring_err(fd);
    }
    *file = (struct file){.base.io = io, .fd = fd, .refs = 1, .direct = (flags & O_DIRECT) != 0};
    *ret_file = &file->base;
    return 0;
}

void uring_close(struct io_file *base)
{
    struct file *file = container_of(base, struct file, base);
    file_unref(&file);
}

/* One part: bytes, 0 at the end of the file, or a negative errno. */
static int64_t read_part(struct file *file, void *buf, size_t n, uint64_t offset)
{
    if (!file->direct && !file->no_nowait) {
        struct iovec iov = {.iov_base = buf, .iov_len = MIN(n, (size_t)READ_PART_MAX)};
        ssize_t r = preadv2(file->fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
        if (r >= 0) {
            core_spend(file->base.io, 1 + (unsigned)((size_t)r / COST_UNIT));
            return r;
        }
        if (errno == EOPNOTSUPP)
            file->no_nowait = true;
        else if (errno != EAGAIN && errno != EINTR)
            return -errno;
    }
    struct ring_op op = {.code = RING_READ, .fd = file->fd, .addr = buf,
                         .len = (unsigned)MIN(n, (size_t)RING_PART_MAX), .offset = offset};
    return ring_call(ring_of(file->base.io), &op, 0);
}

int64_t uring_pread(struct io_file *base, void *buf, size_t n, uint64_t offset)
{
    _cleanup_file_ struct file *file = file_ref(base);
    if (n > INT64_MAX || offset > INT64_MAX - n)
        return -E_INVAL;
    size_t done = 0;
    while (done < n) {
        int64_t r = read_part(file, (char *)buf + done, n - done, offset + done);
        if (r == -EINTR || r == -EAGAIN)
            continue;
        if (r < 0)
            return ring_err(r);
        done += (size_t)r;
        /* A direct read that is not a whole number of blocks met the end; asking on would be EINVAL. */
        if (r == 0 || (file->direct && (size_t)r % DIRECT_UNIT != 0))
            break;
        if (done < n && base->io->stopping)
            return -E_CANCELED;
    }
    return (int64_t)done;
}

/* Copies at most `max` vectors without their first `skip` bytes. Returns how many. */
static unsigned iov_from(struct iovec *to, unsigned max, const struct iovec *iov, unsigned n_iov, size_t skip)
{
    unsigned n = 0;
    for (unsigned i = 0; i < n_iov && n < max; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= iov[i].iov_len;
            continue;
        }
        to[n].iov_base = (char *)iov[i].iov_base + skip;
        to[n++].iov_len = iov[i].iov_len - skip;
        skip = 0;
    }
    return n;
}

int uring_pwritev(struct io_file *base, const struct iovec *iov, unsigned n_iov, uint64_t offset)
{
    _cleanup_file_ struct file *file = file_ref(base);
    size_t total = 0;
    for (unsigned i = 0; i < n_iov; i++)
        if (add_overflows(total, iov[i].iov_len, &total))
            return -E_INVAL;
    if (total > INT64_MAX || offset > INT64_MAX - total)
        return -E_INVAL;
    size_t done = 0;
    while (done < total) {
        struct iovec part[IOV_PART];
        unsigned n_part = iov_from(part, IOV_PART, iov, n_iov, done);
        struct ring_op op = {.code = RING_WRITEV, .fd = file->fd, .addr = part, .len = n_part, .offset = offset + done};
        if (n_part == 1) {
            op.code = RING_WRITE;
            op.addr = part[0].iov_base;
            op.len = (unsigned)MIN(part[0].iov_len, (size_t)RING_PART_MAX);
        }
        int r = ring_call(ring_of(base->io), &op, 0);
        if (r == -EINTR || r == -EAGAIN)
            continue;
        if (r < 0)
            return ring_err(r);
        if (r == 0)
            return -E_IO; /* neither progress nor a reason */
        done += (size_t)r;
        if (done < total && base->io->stopping)
            return -E_CANCELED;
    }
    return 0;
}

int uring_sync(struct io_file *base)
{
    _cleanup_file_ struct file *file = file_ref(base);
    struct ring_op op = {.code = RING_FSYNC, .fd = file->fd};
    int r = ring_call(ring_of(base->io), &op, 0);
    return r < 0 ? ring_err(r) : 0;
}

/* ---- what workers do; each fills `r` with 0 or a negative errno ---- */

struct file_work {
    const char *path;
    int fd;
    uint64_t length;
    char **names;
    size_t n_names;
    struct statvfs vfs;
    int r;
};

static int file_work(struct io *io, void (*fn)(void *arg), struct file_work *work)
{
    int r = ring_work(io, fn, work);
    return r < 0 ? r : work->r < 0 ? ring_err(work->r) : 0;
}

static void work_truncate(void *arg)
{
    struct file_work *work = arg;
    work->r = ftruncate(work->fd, (off_t)work->length) == 0 ? 0 : -errno;
}

int uring_truncate(struct io_file *base, uint64_t length)
{
    _cleanup_file_ struct file *file = file_ref(base);
    if (length > INT64_MAX)
        return -E_INVAL;
    struct file_work work = {.fd = file->fd, .length = length};
    return file_work(base->io, work_truncate, &work);
}

int uring_allocate(struct io_file *base, uint64_t offset, uint64_t length)
{
    _cleanup_file_ struct file *file = file_ref(base);
    if (length > INT64_MAX || offset > INT64_MAX - length)
        return -E_INVAL;
    struct ring_op op = {.code = RING_ALLOCATE, .fd = file->fd, .offset = offset, .offset2 = length};
    int r;
    do
        r = ring_call(ring_of(base->io), &op, 0);
    while (r == -EINTR && !base->io->stopping);
    return r < 0 ? ring_err(r) : 0;
}

int uring_size(struct io_file *base, uint64_t *ret_size)
{
    const struct file *file = container_of(base, struct file, base);
    struct stat st;
    if (fstat(file->fd, &st) < 0)
        return err_from_errno(errno);
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

int uring_file_fd(struct io_file *base)
{
    return container_of(base, struct file, base)->fd;
}

/* ---- names ---- */

static int path_call(struct io *io, struct ring_op op)
{
    int r = ring_call(ring_of(io), &op, 0);
    return r < 0 ? ring_err(r) : 0;
}

int uring_unlink(struct io *io, const char *path)
{
    return path_call(io, (struct ring_op){.code = RING_UNLINK, .addr = path});
}

int uring_rename(struct io *io, const char *from, const char *to)
{
    return path_call(io, (struct ring_op){.code = RING_RENAME, .addr = from, .addr2 = to});
}

int uring_mkdir(struct io *io, const char *path, mode_t mode)
{
    return path_call(io, (struct ring_op){.code = RING_MKDIR, .addr = path, .len = mode});
}

static void work_sync_dir(void *arg)
{
    struct file_work *work = arg;
    int fd = open(work->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        work->r = -errno;
        return;
    }
    work->r = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
}

int uring_sync_dir(struct io *io, const char *path)
{
    struct file_work work = {.path = path};
    return file_work(io, work_sync_dir, &work);
}

static int names_add(struct file_work *work, const char *name)
{
    if ((work->n_names & (work->n_names - 1)) == 0) { /* 0 and powers of two: twice the room */
        size_t cap = work->n_names != 0 ? work->n_names * 2 : 1;
        char **names = realloc(work->names, cap * sizeof *names);
        if (names == NULL)
            return -ENOMEM;
        work->names = names;
    }
    char *copy = strdup(name);
    if (copy == NULL)
        return -ENOMEM;
    work->names[work->n_names++] = copy;
    return 0;
}

static void work_list(void *arg)
{
    struct file_work *work = arg;
    DIR *dir = opendir(work->path);
    if (dir == NULL) {
        work->r = -errno;
        return;
    }
    const struct dirent *entry;
    for (errno = 0; work->r == 0 && (entry = readdir(dir)) != NULL; errno = 0)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            work->r = names_add(work, entry->d_name);
    if (work->r == 0 && errno != 0)
        work->r = -errno;
    closedir(dir);
}

int uring_list(struct io *io, const char *path, char ***ret_names, size_t *ret_n)
{
    struct file_work work = {.path = path};
    int r = file_work(io, work_list, &work);
    if (r == 0) {
        *ret_names = work.names;
        *ret_n = work.n_names;
        return 0;
    }
    for (size_t i = 0; i < work.n_names; i++)
        free(work.names[i]);
    free(work.names);
    return r;
}

static void work_statfs(void *arg)
{
    struct file_work *work = arg;
    work->r = statvfs(work->path, &work->vfs) == 0 ? 0 : -errno;
}

int uring_statfs(struct io *io, const char *path, uint64_t *ret_total, uint64_t *ret_free)
{
    struct file_work work = {.path = path};
    int r = file_work(io, work_statfs, &work);
    if (r < 0)
        return r;
    *ret_total = (uint64_t)work.vfs.f_blocks * work.vfs.f_frsize;
    *ret_free = (uint64_t)work.vfs.f_bavail * work.vfs.f_frsize;
    return 0;
}

/* ---- borrowed descriptors ---- */

static int poll_fd(struct io *io, int fd, short events, uint64_t timeout_ms)
{
    struct ring_op op = {.code = RING_POLL, .fd = fd, .flags = events, .cancelable = true};
    return ring_call(ring_of(io), &op, timeout_ms);
}

int uring_poll(struct io *io, int fd, short events, uint64_t timeout_ms)
{
    int r = poll_fd(io, fd, events, timeout_ms);
    return r < 0 ? ring_err(r) : r;
}

/* A descriptor with O_NONBLOCK is tried in place and polled (some, as /dev/fuse, know no other way to
 * wait without a thread); any other is the ring's business from the start. */
static int64_t fd_call(struct io *io, bool write_it, int fd, void *buf, size_t n, int64_t offset)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return err_from_errno(errno);
    n = MIN(n, (size_t)RING_PART_MAX);
    for (;;) {
        int64_t r;
        if (flags & O_NONBLOCK) {
            if (offset < 0)
                r = write_it ? write(fd, buf, n) : read(fd, buf, n);
            else
                r = write_it ? pwrite(fd, buf, n, offset) : pread(fd, buf, n, offset);
            if (r >= 0)
                core_spend(io, 1 + (unsigned)((size_t)r / COST_UNIT));
            else
                r = -errno;
        } else {
            struct ring_op op = {.code = write_it ? RING_WRITE : RING_READ, .fd = fd, .addr = buf,
                                 .len = (unsigned)n, .offset = (uint64_t)offset, .cancelable = true};
            r = ring_call(ring_of(io), &op, 0);
        }
        if (r == -EINTR && !io->stopping)
            continue;
        if (r != -EAGAIN)
            return r < 0 ? ring_err(r) : r;
        int polled = poll_fd(io, fd, write_it ? POLLOUT : POLLIN, 0);
        if (polled < 0)
            return ring_err(polled);
    }
}

int64_t uring_read_fd(struct io *io, int fd, void *buf, size_t n, int64_t offset)
{
    return fd_call(io, false, fd, buf, n, offset);
}

int64_t uring_write_fd(struct io *io, int fd, const void *buf, size_t n, int64_t offset)
{
    return fd_call(io, true, fd, (void *)buf, n, offset);
}
