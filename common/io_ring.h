/* The ring as the files of the production io see it: one request at a time per fiber, described by a
 * struct ring_op on its stack. io_uring.c is the only file that includes liburing.
 *
 * A request's memory belongs to the kernel until its completion has arrived. Therefore ring_call()
 * returns only then: a timeout, io_stop() or ring_cancel() asks the kernel to give the request up and
 * goes on waiting, for the request's completion and for that of the cancellation too (a late one could
 * hit the next request at the same address). */
#ifndef TARN_COMMON_IO_RING_H
#define TARN_COMMON_IO_RING_H

#include "io_core.h"
#include "io_workers.h"

enum ring_code {
    RING_READ,      /* fd, addr, len, offset (-1 = current) */
    RING_WRITE,     /* the same */
    RING_WRITEV,    /* fd, addr = iovec, len = count, offset */
    RING_FSYNC,     /* fd; data only */
    RING_OPEN,      /* addr = path, flags, len = mode */
    RING_ALLOCATE,  /* fd, offset, offset2 = length */
    RING_UNLINK,    /* addr = path */
    RING_RENAME,    /* addr = from, addr2 = to */
    RING_MKDIR,     /* addr = path, len = mode */
    RING_ACCEPT,    /* fd, addr = sockaddr, addr2 = socklen_t */
    RING_CONNECT,   /* fd, addr = sockaddr, len */
    RING_SEND,      /* fd, addr, len */
    RING_SENDMSG,   /* fd, addr = msghdr */
    RING_RECV,      /* fd, addr, len */
    RING_POLL,      /* fd, flags = events */
};

struct ring_op {
    enum ring_code code;
    int fd;
    const void *addr;
    const void *addr2;
    unsigned len;
    int flags;
    uint64_t offset, offset2;
    /* May be given up at a stop. File operations may not: they end by themselves, and their caller
     * had better know how. */
    bool cancelable;
    struct list *owner; /* optional: a list of requests for ring_cancel_all() */

    /* internal */
    struct fiber *fiber;
    int result;
    unsigned pending; /* completions that will still come */
    bool done, timed_out, cancel_wanted, cancel_sent;
    struct list in_flight, owned;
    struct core_timer timer;
    struct uring *uring;
};

/* Submits and waits. Returns the operation's result: >= 0 or a negative errno; -ETIMEDOUT when
 * timeout_ms (0 = none) passed first; -ECANCELED after a stop or a cancellation. */
int ring_call(struct uring *uring, struct ring_op *op, uint64_t timeout_ms);
void ring_cancel(struct ring_op *op);
void ring_cancel_all(struct list *owner);
struct uring *ring_of(struct io *io);

/* Runs fn(arg) on a worker while the fiber waits, also during a stop. 0 or -E_NOMEM. */
int ring_work(struct io *io, void (*fn)(void *arg), void *arg);

/* Translates a negative errno as ring_call() returns it. */
static inline int ring_err(int64_t negative_errno)
{
    return err_from_errno((int)-negative_errno);
}

/* ---- io_uring_file.c ---- */
int uring_open(struct io *io, const char *path, int flags, mode_t mode, struct io_file **ret_file);
void uring_close(struct io_file *file);
int64_t uring_pread(struct io_file *file, void *buf, size_t n, uint64_t offset);
int uring_pwritev(struct io_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset);
int uring_sync(struct io_file *file);
int uring_truncate(struct io_file *file, uint64_t length);
int uring_allocate(struct io_file *file, uint64_t offset, uint64_t length);
int uring_size(struct io_file *file, uint64_t *ret_size);
int uring_file_fd(struct io_file *file);
int uring_unlink(struct io *io, const char *path);
int uring_rename(struct io *io, const char *from, const char *to);
int uring_mkdir(struct io *io, const char *path, mode_t mode);
int uring_sync_dir(struct io *io, const char *path);
int uring_list(struct io *io, const char *path, char ***ret_names, size_t *ret_n);
int uring_statfs(struct io *io, const char *path, uint64_t *ret_total, uint64_t *ret_free);
int uring_poll(struct io *io, int fd, short events, uint64_t timeout_ms);
int64_t uring_read_fd(struct io *io, int fd, void *buf, size_t n, int64_t offset);
int64_t uring_write_fd(struct io *io, int fd, const void *buf, size_t n, int64_t offset);

/* ---- io_uring_net.c ---- */
int uring_listen(struct io *io, const char *address, struct io_listener **ret_listener);
int uring_accept(struct io_listener *listener, struct io_sock **ret_sock);
void uring_listener_close(struct io_listener *listener);
int uring_connect(struct io *io, const char *address, uint64_t timeout_ms, struct io_sock **ret_sock);
int64_t uring_recv(struct io_sock *sock, void *buf, size_t n, uint64_t timeout_ms);
int uring_sendv(struct io_sock *sock, struct iovec *iov, unsigned n_iov);
void uring_sock_shutdown(struct io_sock *sock);
void uring_sock_close(struct io_sock *sock);
int uring_sock_fd(struct io_sock *sock);
int uring_send_fd(struct io_sock *sock, int fd);
int uring_recv_fd(struct io_sock *sock, int *ret_fd, uint64_t timeout_ms);

#endif
