/* What the two implementations of io.h share, and nobody else includes: the scheduler of fibers
 * (fiber.c) and the table of operations through which io.c reaches the ring or the simulation.
 * So fibers behave the same in both: one FIFO of ready fibers, one heap of timers, one way to stop.
 *
 * Who waits how:
 *   fiber_suspend()      until fiber_wake() or stop
 *   core_wait()          in a queue, until woken, a deadline, or (when cancelable) stop
 *   core_park()          until core_unpark(), and nothing else: for what must not be abandoned, as a
 *                        request whose buffer the kernel still has. Callers loop on their condition.
 * A fiber_wake() of a fiber that waits in one of the latter two is kept for its next fiber_suspend(). */
#ifndef TARN_COMMON_IO_CORE_H
#define TARN_COMMON_IO_CORE_H

#include "check.h"
#include "coll.h"
#include "err.h"
#include "fiber.h"
#include "fiber_context.h"
#include "io.h"

#define IO_MAGIC 0x696f2101u
#define FIBER_MAGIC 0x66696221u
#define IO_FIBERS_DEFAULT 65536u
#define CORE_STACKS_KEPT 1024u /* x about 8 KiB resident = 8 MiB; mapping one anew costs more than a lookup */
#define CORE_SLICE 64u        /* what a fiber may spend on calls that did not have to wait, see core_spend() */
#define CORE_NEVER UINT64_MAX

struct io_ops {
    void (*stop)(struct io *io); /* once, after the scheduler stopped: cancel what is under way */
    int (*run)(struct io *io);
    void (*destroy)(struct io *io);
    int (*post)(struct io *io, void (*fn)(void *arg), void *arg);
    int (*stop_on_signals)(struct io *io, const int *signals);
    uint64_t (*mono_ns)(struct io *io);
    uint64_t (*real_ns)(struct io *io);
    void (*random)(struct io *io, void *buf, size_t n);

    int (*open)(struct io *io, const char *path, int flags, mode_t mode, struct io_file **ret_file);
    void (*close)(struct io_file *file);
    int64_t (*pread)(struct io_file *file, void *buf, size_t n, uint64_t offset);
    int (*pwritev)(struct io_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset);
    int (*sync)(struct io_file *file);
    int (*truncate)(struct io_file *file, uint64_t length);
    int (*allocate)(struct io_file *file, uint64_t offset, uint64_t length);
    int (*size)(struct io_file *file, uint64_t *ret_size);
    int (*file_fd)(struct io_file *file);
    int (*unlink)(struct io *io, const char *path);
    int (*rename)(struct io *io, const char *from, const char *to);
    int (*mkdir)(struct io *io, const char *path, mode_t mode);
    int (*sync_dir)(struct io *io, const char *path);
    /* All names but . and .., in any order; the caller frees the array and each name. */
    int (*list)(struct io *io, const char *path, char ***ret_names, size_t *ret_n);
    int (*statfs)(struct io *io, const char *path, uint64_t *ret_total, uint64_t *ret_free);

    int (*listen)(struct io *io, const char *address, struct io_listener **ret_listener);
    int (*accept)(struct io_listener *listener, struct io_sock **ret_sock);
    void (*listener_close)(struct io_listener *listener);
    int (*connect)(struct io *io, const char *address, uint64_t timeout_ms, struct io_sock **ret_sock);
    int64_t (*recv)(struct io_sock *sock, void *buf, size_t n, uint64_t timeout_ms);
    int (*sendv)(struct io_sock *sock, struct iovec *iov, unsigned n_iov);
    void (*sock_shutdown)(struct io_sock *sock);
    void (*sock_close)(struct io_sock *sock);
    int (*sock_fd)(struct io_sock *sock);
    int (*send_fd)(struct io_sock *sock, int fd);
    int (*recv_fd)(struct io_sock *sock, int *ret_fd, uint64_t timeout_ms);

    int (*poll)(struct io *io, int fd, short events, uint64_t timeout_ms);
    int64_t (*read_fd)(struct io *io, int fd, void *buf, size_t n, int64_t offset);
    int64_t (*write_fd)(struct io *io, int fd, const void *buf, size_t n, int64_t offset);
    int (*work)(struct io *io, void (*fn)(void *arg), void *arg);
};

struct io {
    unsigned magic;
    const struct io_ops *ops;
    bool stopping;
    struct fiber *running;
    struct fiber *ready_head, *ready_tail;
    size_t n_ready;
    struct list fibers; /* all of them, oldest first */
    unsigned n_fibers, fibers_max;
    unsigned slice; /* what the running fiber has spent */
    struct heap timers;
    struct fiber_context loop;
    void *stacks[CORE_STACKS_KEPT]; /* free ones, to be used again */
    unsigned n_stacks;
};

/* The part of these that both implementations have; each embeds it first. */
struct io_file {
    struct io *io;
};
#define IO_ADDRESS_MAX 256 /* "unix:" + 108 bytes of sun_path; host names up to 240 */
struct io_sock {
    struct io *io;
    bool local; /* a unix socket */
    char peer[IO_ADDRESS_MAX];
};
struct io_listener {
    struct io *io;
    char address[IO_ADDRESS_MAX];
};

/* ---- the scheduler (fiber.c) ---- */
void core_init(struct io *io, const struct io_ops *ops, unsigned fibers_max);
void core_fini(struct io *io); /* no fiber may be left */
void core_trim(struct io *io); /* gives free stacks back */
/* Runs every fiber that is ready now once; those that become ready meanwhile wait for the next call. */
void core_run_ready(struct io *io);
/* Every cancelable wait ends, now and for ever. */
void core_stop(struct io *io);
/* Names of the fibers still there on standard error: who does not unwind. */
void core_report(struct io *io);

struct core_timer {
    struct heap_node node;
    void (*fire)(struct core_timer *timer); /* once, outside any fiber */
};
void core_timer_init(struct core_timer *timer, void (*fire)(struct core_timer *timer));
int core_timer_start(struct io *io, struct core_timer *timer, uint64_t deadline_ns); /* 0, -E_NOMEM */
void core_timer_stop(struct io *io, struct core_timer *timer); /* also when not started */
uint64_t core_deadline(const struct io *io);                   /* of the first timer, or CORE_NEVER */
void core_fire_timers(struct io *io, uint64_t now_ns);

void core_park(struct io *io);
void core_unpark(struct fiber *fiber);
/* 0 when woken, -E_TIMEOUT past deadline_ns, -E_CANCELED when stopping and `cancelable`, -E_NOMEM. */
int core_wait(struct io *io, struct fiber_queue *queue, uint64_t deadline_ns, bool cancelable);
uint64_t core_deadline_after(struct io *io, uint64_t timeout_ms); /* 0 = CORE_NEVER */
/* A call that completed without waiting tells its price; past CORE_SLICE the others get their turn,
 * so that one busy connection does not keep the loop for itself. */
void core_spend(struct io *io, unsigned cost);

#endif
