/* The one door to the outside: files, network, time, chance. Two implementations: io_uring
 * (io_uring.c) in production, a seeded simulation (io_sim.c) in tests; above this header nobody can
 * tell which. Every call that may wait is called from a fiber (fiber.h) and suspends it. Errors are
 * negative codes of err.def; -E_CANCELED means the process (or simulated host) is stopping.
 * Threads: an io and all its objects belong to one thread, except io_post(). */
#ifndef TARN_COMMON_IO_H
#define TARN_COMMON_IO_H

#include "base.h"
#include <sys/uio.h>

struct io;
struct io_file;
struct io_sock;
struct io_listener;

/* ---- life of a loop (production; the simulator has its own in io_sim.h) ---- */
struct io_options {
    unsigned entries;  /* submission queue entries, 0 = 1024 */
    unsigned workers;  /* threads for io_work(), 0 = 2 */
    unsigned fibers;   /* limit of fibers, 0 = 65536 */
};
/* Names the kernel feature it misses on standard error when it fails. */
int io_uring_create(const struct io_options *options, struct io **ret_io);
/* Runs until io_stop() was called and every fiber has ended. Returns 0 or the fatal error. */
int io_run(struct io *io);
void io_stop(struct io *io);     /* all waiting calls return -E_CANCELED from now on */
bool io_stopping(const struct io *io);
void io_destroy(struct io *io);  /* after io_run() has returned */
/* From any thread: runs fn(arg) on the loop's thread, outside any fiber, soon. */
int io_post(struct io *io, void (*fn)(void *arg), void *arg);
/* io_stop() when one of these signals arrives (production only; pass 0 to end the list). They stay
 * blocked in the calling thread: call it before other threads start, and unblock them in children. */
int io_stop_on_signals(struct io *io, const int *signals);

/* ---- time and chance ---- */
uint64_t io_mono_ns(struct io *io); /* monotonic, since an arbitrary start; goes on while the machine is suspended or the process stopped */
uint64_t io_real_ns(struct io *io); /* since 1970-01-01 UTC */
static inline uint64_t io_mono_ms(struct io *io) { return io_mono_ns(io) / 1000000; }
int io_sleep_ms(struct io *io, uint64_t ms);
void io_random(struct io *io, void *buf, size_t n);
static inline uint64_t io_random_u64(struct io *io)
{
    uint64_t v;
    io_random(io, &v, sizeof v);
    return v;
}

/* ---- files. Paths are absolute or relative to the working directory. ---- */
/* flags: those of open(2): O_RDONLY O_RDWR O_CREAT O_EXCL O_TRUNC O_DIRECT O_DSYNC O_DIRECTORY.
 * With O_DIRECT buffer, length and offset are multiples of 4096. */
int io_open(struct io *io, const char *path, int flags, mode_t mode, struct io_file **ret_file);
void io_close(struct io_file *file); /* NULL is allowed; never waits */
void io_closep(struct io_file **file);
/* Reads until n bytes or end of file. Returns bytes read (short only at the end) or an error. */
int64_t io_pread(struct io_file *file, void *buf, size_t n, uint64_t offset);
int io_pwrite(struct io_file *file, const void *buf, size_t n, uint64_t offset); /* all or error */
int io_pwritev(struct io_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset);
int io_sync(struct io_file *file); /* fdatasync */
int io_truncate(struct io_file *file, uint64_t length);
int io_allocate(struct io_file *file, uint64_t offset, uint64_t length); /* fallocate, keeps zeros */
int io_size(struct io_file *file, uint64_t *ret_size);
int io_file_fd(struct io_file *file); /* the descriptor, borrowed; -1 in simulation */
int io_unlink(struct io *io, const char *path);
int io_rename(struct io *io, const char *from, const char *to); /* replaces `to` */
int io_mkdir(struct io *io, const char *path, mode_t mode);     /* -E_EXIST when there */
int io_sync_dir(struct io *io, const char *path);
/* Calls fn for each name but . and .. in byte order; a non-zero return ends and is returned. */
int io_list(struct io *io, const char *path, int (*fn)(void *arg, const char *name), void *arg);
/* Bytes of the file system under path. */
int io_statfs(struct io *io, const char *path, uint64_t *ret_total, uint64_t *ret_free);

/* ---- stream sockets. Addresses: "tcp:HOST:PORT" (port 0 = any; IPv6 as "tcp:[::1]:PORT") or
 * "unix:/path". A connection whose peer vanished without a word fails after about 20 s, also when idle
 * (TCP user timeout and keep-alive); silence of a peer that lives is the caller's to time. ---- */
/* Does not wait: may be called before io_run(). A unix path whose owner has died is replaced. */
int io_listen(struct io *io, const char *address, struct io_listener **ret_listener);
const char *io_listener_address(struct io_listener *listener); /* with the real port */
int io_accept(struct io_listener *listener, struct io_sock **ret_sock);
void io_listener_close(struct io_listener *listener); /* NULL allowed; wakes io_accept: -E_CANCELED */
int io_connect(struct io *io, const char *address, uint64_t timeout_ms, struct io_sock **ret_sock);
/* At least one byte; 0 = the peer closed. timeout_ms 0 = for ever (-E_TIMEOUT else). */
int64_t io_recv(struct io_sock *sock, void *buf, size_t n, uint64_t timeout_ms);
int io_recv_all(struct io_sock *sock, void *buf, size_t n, uint64_t timeout_ms); /* -E_CONN at early end */
/* Sends everything or fails. One fiber at a time per direction. */
int io_send(struct io_sock *sock, const void *buf, size_t n);
int io_sendv(struct io_sock *sock, struct iovec *iov, unsigned n_iov); /* may change iov */
/* Ends both directions: waiting receives and sends of other fibers return; from now on io_recv()
 * returns 0 and io_send() -E_CONN. Then close once. */
void io_sock_shutdown(struct io_sock *sock);
void io_sock_close(struct io_sock *sock); /* NULL allowed */
const char *io_sock_peer(struct io_sock *sock);
bool io_sock_is_local(struct io_sock *sock); /* a unix socket */
int io_sock_fd(struct io_sock *sock);        /* borrowed; -1 in simulation */
/* One byte with a descriptor over a unix socket (SCM_RIGHTS). The receiver owns *ret_fd (CLOEXEC). */
int io_send_fd(struct io_sock *sock, int fd);
int io_recv_fd(struct io_sock *sock, int *ret_fd, uint64_t timeout_ms);

/* ---- edges that only production has ---- */
/* Waits until poll(2) events are there: the revents, -E_TIMEOUT, -E_CANCELED. */
int io_poll(struct io *io, int fd, short events, uint64_t timeout_ms);
/* read(2)/write(2)-like on a descriptor of any kind through the loop (offset -1 = none). With
 * O_NONBLOCK set it is tried in place and polled, which some kinds (/dev/fuse) need to do without threads. */
int64_t io_read_fd(struct io *io, int fd, void *buf, size_t n, int64_t offset);
int64_t io_write_fd(struct io *io, int fd, const void *buf, size_t n, int64_t offset);
/* Runs fn(arg) on a worker thread while the fiber waits; the simulation runs it in place.
 * Never cancelled: returns 0 after fn has returned, or -E_CANCELED before it was started. */
int io_work(struct io *io, void (*fn)(void *arg), void *arg);

#endif
