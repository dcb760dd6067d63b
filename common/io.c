/* io.h in front of its two implementations: checks who calls, refuses what comes after the stop, and
 * puts together what is the same in both. */
#include "io_core.h"

static bool stopped(const struct io *io)
{
    CHECK_MAGIC(io, IO_MAGIC);
    return io->stopping;
}

int io_run(struct io *io)
{
    CHECK_MAGIC(io, IO_MAGIC);
    return io->ops->run(io);
}

void io_stop(struct io *io)
{
    if (stopped(io))
        return;
    core_stop(io);
    io->ops->stop(io);
}

bool io_stopping(const struct io *io)
{
    return stopped(io);
}

void io_destroy(struct io *io)
{
    if (io != NULL)
        io->ops->destroy(io);
}

int io_post(struct io *io, void (*fn)(void *arg), void *arg)
{
    return io->ops->post(io, fn, arg);
}

int io_stop_on_signals(struct io *io, const int *signals)
{
    return stopped(io) ? -E_CANCELED : io->ops->stop_on_signals(io, signals);
}

uint64_t io_mono_ns(struct io *io)
{
    return io->ops->mono_ns(io);
}

uint64_t io_real_ns(struct io *io)
{
    return io->ops->real_ns(io);
}

int io_sleep_ms(struct io *io, uint64_t ms)
{
    if (stopped(io))
        return -E_CANCELED;
    if (ms == 0) {
        fiber_yield();
        return io->stopping ? -E_CANCELED : 0;
    }
    struct fiber_queue nobody = {0};
    int r = core_wait(io, &nobody, core_deadline_after(io, ms), true);
    return r == -E_TIMEOUT ? 0 : r;
}

void io_random(struct io *io, void *buf, size_t n)
{
    io->ops->random(io, buf, n);
}

/* ---- files ---- */

int io_open(struct io *io, const char *path, int flags, mode_t mode, struct io_file **ret_file)
{
    return stopped(io) ? -E_CANCELED : io->ops->open(io, path, flags, mode, ret_file);
}

void io_close(struct io_file *file)
{
    if (file != NULL)
        file->io->ops->close(file);
}

void io_closep(struct io_file **file)
{
    io_close(take_ptr(*file));
}

int64_t io_pread(struct io_file *file, void *buf, size_t n, uint64_t offset)
{
    return stopped(file->io) ? -E_CANCELED : file->io->ops->pread(file, buf, n, offset);
}

int io_pwrite(struct io_file *file, const void *buf, size_t n, uint64_t offset)
{
    struct iovec iov = {.iov_base = (void *)buf, .iov_len = n};
    return io_pwritev(file, &iov, 1, offset);
}

int io_pwritev(struct io_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset)
{
    return stopped(file->io) ? -E_CANCELED : file->io->ops->pwritev(file, iov, n_iov, offset);
}

int io_sync(struct io_file *file)
{
    return stopped(file->io) ? -E_CANCELED : file->io->ops->sync(file);
}

int io_truncate(struct io_file *file, uint64_t length)
{
    return stopped(file->io) ? -E_CANCELED : file->io->ops->truncate(file, length);
}

int io_allocate(struct io_file *file, uint64_t offset, uint64_t length)
{
    return stopped(file->io) ? -E_CANCELED : file->io->ops->allocate(file, offset, length);
}

int io_size(struct io_file *file, uint64_t *ret_size)
{
    return stopped(file->io) ? -E_CANCELED : file->io->ops->size(file, ret_size);
}

int io_file_fd(struct io_file *file)
{
    return file->io->ops->file_fd(file);
}

int io_unlink(struct io *io, const char *path)
{
    return stopped(io) ? -E_CANCELED : io->ops->unlink(io, path);
}

int io_rename(struct io *io, const char *from, const char *to)
{
    return stopped(io) ? -E_CANCELED : io->ops->rename(io, from, to);
}

int io_mkdir(struct io *io, const char *path, mode_t mode)
{
    return stopped(io) ? -E_CANCELED : io->ops->mkdir(io, path, mode);
}

int io_sync_dir(struct io *io, const char *path)
{
    return stopped(io) ? -E_CANCELED : io->ops->sync_dir(io, path);
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int io_list(struct io *io, const char *path, int (*fn)(void *arg, const char *name), void *arg)
{
    if (stopped(io))
        return -E_CANCELED;
    char **names = NULL;
    size_t n = 0;
    int r = io->ops->list(io, path, &names, &n);
    if (r < 0)
        return r;
    if (n > 1)
        qsort(names, n, sizeof *names, name_compare);
    for (size_t i = 0; i < n; i++) {
        if (r == 0)
            r = fn(arg, names[i]);
        free(names[i]);
    }
    free(names);
    return r;
}

int io_statfs(struct io *io, const char *path, uint64_t *ret_total, uint64_t *ret_free)
{
    return stopped(io) ? -E_CANCELED : io->ops->statfs(io, path, ret_total, ret_free);
}

/* ---- sockets ---- */

int io_listen(struct io *io, const char *address, struct io_listener **ret_listener)
{
    return stopped(io) ? -E_CANCELED : io->ops->listen(io, address, ret_listener);
}

const char *io_listener_address(struct io_listener *listener)
{
    return listener->address;
}

int io_accept(struct io_listener *listener, struct io_sock **ret_sock)
{
    return stopped(listener->io) ? -E_CANCELED : listener->io->ops->accept(listener, ret_sock);
}

void io_listener_close(struct io_listener *listener)
{
    if (listener != NULL)
        listener->io->ops->listener_close(listener);
}

int io_connect(struct io *io, const char *address, uint64_t timeout_ms, struct io_sock **ret_sock)
{
    return stopped(io) ? -E_CANCELED : io->ops->connect(io, address, timeout_ms, ret_sock);
}

int64_t io_recv(struct io_sock *sock, void *buf, size_t n, uint64_t timeout_ms)
{
    return stopped(sock->io) ? -E_CANCELED : sock->io->ops->recv(sock, buf, n, timeout_ms);
}

int io_recv_all(struct io_sock *sock, void *buf, size_t n, uint64_t timeout_ms)
{
    struct io *io = sock->io;
    uint64_t deadline_ns = core_deadline_after(io, timeout_ms); /* one for all parts */
    uint64_t left_ms = timeout_ms;
    for (size_t done = 0; done < n;) {
        int64_t r = io_recv(sock, (char *)buf + done, n - done, left_ms);
        if (r < 0)
            return (int)r;
        if (r == 0)
            return -E_CONN;
        done += (size_t)r;
        if (done == n || deadline_ns == CORE_NEVER)
            continue;
        uint64_t now_ns = io_mono_ns(io);
        if (now_ns >= deadline_ns)
            return -E_TIMEOUT;
        left_ms = (deadline_ns - now_ns) / 1000000 + 1;
    }
    return 0;
}

int io_send(struct io_sock *sock, const void *buf, size_t n)
{
    struct iovec iov = {.iov_base = (void *)buf, .iov_len = n};
    return io_sendv(sock, &iov, 1);
}

int io_sendv(struct io_sock *sock, struct iovec *iov, unsigned n_iov)
{
    return stopped(sock->io) ? -E_CANCELED : sock->io->ops->sendv(sock, iov, n_iov);
}

void io_sock_shutdown(struct io_sock *sock)
{
    sock->io->ops->sock_shutdown(sock);
}

void io_sock_close(struct io_sock *sock)
{
    if (sock != NULL)
        sock->io->ops->sock_close(sock);
}

const char *io_sock_peer(struct io_sock *sock)
{
    return sock->peer;
}

bool io_sock_is_local(struct io_sock *sock)
{
    return sock->local;
}

int io_sock_fd(struct io_sock *sock)
{
    return sock->io->ops->sock_fd(sock);
}

int io_send_fd(struct io_sock *sock, int fd)
{
    return stopped(sock->io) ? -E_CANCELED : sock->io->ops->send_fd(sock, fd);
}

int io_recv_fd(struct io_sock *sock, int *ret_fd, uint64_t timeout_ms)
{
    return stopped(sock->io) ? -E_CANCELED : sock->io->ops->recv_fd(sock, ret_fd, timeout_ms);
}

/* ---- edges ---- */

int io_poll(struct io *io, int fd, short events, uint64_t timeout_ms)
{
    return stopped(io) ? -E_CANCELED : io->ops->poll(io, fd, events, timeout_ms);
}

int64_t io_read_fd(struct io *io, int fd, void *buf, size_t n, int64_t offset)
{
    return stopped(io) ? -E_CANCELED : io->ops->read_fd(io, fd, buf, n, offset);
}

int64_t io_write_fd(struct io *io, int fd, const void *buf, size_t n, int64_t offset)
{
    return stopped(io) ? -E_CANCELED : io->ops->write_fd(io, fd, buf, n, offset);
}

int io_work(struct io *io, void (*fn)(void *arg), void *arg)
{
    return stopped(io) ? -E_CANCELED : io->ops->work(io, fn, arg);
}
