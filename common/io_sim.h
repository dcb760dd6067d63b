/* A cluster in one thread: hosts with an io each, a network between them, a disk under each, and one
 * virtual clock, all driven by one seed. The same seed, options and host code give the same run, step
 * by step: sim_trace_hash() proves it, a failing seed is a reproducible test.
 *
 *     struct sim *sim = sim_create(seed, NULL);
 *     struct sim_host *a = sim_host_create(sim, "a");
 *     fiber_spawn(sim_host_io(a), "server", server_main, ...);      // reachable as "tcp:a:PORT"
 *     assert(sim_run(sim, 60000, all_done, &state) == SIM_DONE);    // up to 60 s of virtual time
 *     sim_host_crash(a, true);                                      // power loss
 *     fiber_spawn(sim_host_restart(a), "server", server_main, ...); // the same disk, a new process
 *     sim_destroy(sim);
 *
 * FAULT MODEL: what a program must survive, and what it need not.
 * Time      Virtual: only waiting takes time (a turn of a host takes 1 us). Hosts that are ready at
 *           the same instant run in an order drawn by the seed. Monotonic clocks of hosts start apart,
 *           real-time clocks differ by up to `clock_skew_ms`,
 *           and jump when a test asks for it; monotonic clocks never jump, but may run fast or slow.
 * Network   A connection is TCP: bytes arrive in order, once, and unchanged, after a drawn delay, in
 *           pieces of drawn size. What can happen:
 *           - loss (`loss_ppm` per piece): from there on the connection carries nothing, either way, and
 *             nobody is told until it is reset up to `reset_after_ms` later (-E_CONN at both ends);
 *           - reset (`reset_ppm` per piece): both ends see -E_CONN soon, bytes in flight may be lost;
 *           - partition: pieces wait and are sent again; the flow goes on if it heals before
 *             `reset_after_ms`, otherwise both ends see -E_CONN. An idle connection does not notice;
 *           - connecting into a partition or to a host without power: silence until the timeout;
 *             to a host without such a listener: -E_CONN after a round trip.
 *           A sender never learns whether the last bytes before an error arrived. Within a host
 *           (tcp to itself, unix) there is neither loss nor reset.
 * Disk      An operation takes a drawn time; concurrent ones end in drawn order. Completed writes are
 *           visible to all readers at once, but only io_sync() (or O_DSYNC) makes bytes and length
 *           durable, and only io_sync_dir() of the directory makes names durable; io_sync() of a new
 *           file does not make its name durable. O_DIRECT alone makes nothing durable.
 *           - A crash of the process loses nothing that had completed. What was under way has
 *             happened, has not happened, or (writes) has happened for some 4 KiB pages.
 *           - Power loss: besides, each 4 KiB page not yet durable is kept, dropped, or has the
 *             content of an earlier unsynced write, each on its own (so larger writes tear); length
 *             changes likewise; of the name changes that were not made durable the youngest may be undone
 *             (the journal of a file system: a prefix survives). A page itself never tears, and a
 *             page not written is never harmed.
 *           - Errors: sim_disk_fail() and `disk_error_ppm`. A failed write may have reached some pages. After a
 *             failed sync some dirty pages are given up: read as written, gone after a power loss,
 *             and a later sync that succeeds does not save them (as Linux does it).
 *           - Slow: every operation of the host's disk takes `factor` times as long.
 *           - Full: past the limit writes that need new space return -E_NOSPC and change nothing.
 *           - Rot: only where a test asks for it, sim_disk_corrupt().
 * Crash     At the instant of sim_host_crash() nothing more reaches disk or network: all calls return
 *           -E_CANCELED from then on and the fibers unwind. Bytes sent before still arrive (after a
 *           power loss: perhaps). Peers: reset soon after a crash of the process; after a power loss silence, until
 *           `reset_after_ms` have passed or the restarted host answers with a reset. A crash may be asked for at
 *           the n-th operation of the disk from now on: what that operation does is cut off.
 * Pause     A host that is paused (a stopped process, a machine that swaps) runs nothing and its timers do not
 *           fire, but its clocks go on; bytes for it arrive and wait. Afterwards everything is due at once.
 * Not simulated: io_poll() and all calls on descriptors (-E_NOTSUP; io_file_fd() is -1), permissions,
 * symbolic links, "..", times of files. io_work() runs in place. io_stop_on_signals() does nothing.
 *
 * Threads: a simulation and everything in it belong to one thread. All sim_*() calls but sim_run()
 * and sim_destroy() may come from fibers too. */
#ifndef TARN_COMMON_IO_SIM_H
#define TARN_COMMON_IO_SIM_H

#include "io.h"

struct sim;
struct sim_host;

#define SIM_HOSTS_MAX 64
#define SIM_NAME_MAX 64

struct sim_options {               /* 0 = the default */
    uint64_t net_delay_min_ns;     /* 20 us */
    uint64_t net_delay_max_ns;     /* 400 us */
    unsigned net_slow_ppm;         /* of pieces that take up to 200 times as long; 0 */
    unsigned loss_ppm, reset_ppm;  /* 0 */
    uint64_t reset_after_ms;       /* 20000, as the production io has it */
    uint64_t disk_delay_min_ns;    /* 10 us */
    uint64_t disk_delay_max_ns;    /* 2 ms */
    unsigned disk_error_ppm;       /* of disk operations that return -E_IO; 0 */
    uint64_t disk_bytes;           /* of each host's disk; 1 TiB */
    uint64_t clock_skew_ms;        /* 0 */
};

/* `options` may be NULL. CHECK-fails when out of memory, as all of this header does. */
struct sim *sim_create(uint64_t seed, const struct sim_options *options);
/* Crashes what still runs, lets it unwind, frees all. A fiber that does not unwind is named and CHECK-fails. */
void sim_destroy(struct sim *sim);
/* From now on: for instance calm weather, to see whether the cluster recovers. */
void sim_set_options(struct sim *sim, const struct sim_options *options);

/* A host that is up, with an empty disk. Hosts and their names are never reused. */
struct sim_host *sim_host_create(struct sim *sim, const char *name);
struct sim_host *sim_host_find(struct sim *sim, const char *name); /* NULL when unknown */
const char *sim_host_name(const struct sim_host *host);
/* The io of the host's present (or last) life: after a restart a new one. Valid until sim_destroy(). */
struct io *sim_host_io(struct sim_host *host);
bool sim_host_up(const struct sim_host *host); /* neither crashed nor stopped */

enum sim_end {
    SIM_DONE, /* done() was true */
    SIM_TIME, /* the time was up */
    SIM_IDLE, /* nothing left that could ever happen */
};
/* Runs for at most `ms` of virtual time, until done(arg) is true (asked after every step; may be NULL). */
enum sim_end sim_run(struct sim *sim, uint64_t ms, bool (*done)(void *arg), void *arg);
uint64_t sim_now_ns(const struct sim *sim); /* since sim_create() */
uint64_t sim_trace_hash(const struct sim *sim);
uint64_t sim_random_u64(struct sim *sim); /* chance for the test itself, from the same seed */

/* kill -9, or power loss. Outside any fiber the host's fibers have unwound when it returns. */
void sim_host_crash(struct sim_host *host, bool power_loss);
/* A new life on the same disk. The old one must have crashed or stopped. */
struct io *sim_host_restart(struct sim_host *host);

/* Stops the host's fibers in their tracks, and lets them go on. A crash ends a pause. */
void sim_host_pause(struct sim_host *host, bool on);
/* The host's real-time clock from now on is `ms` further, or back. */
void sim_clock_jump(struct sim_host *host, int64_t ms);
/* The host's clocks from now on gain `ppm` microseconds a second; negative: they lose. At most a half. */
void sim_clock_drift(struct sim_host *host, int ppm);

/* Cuts (or mends) the way of bytes from `from` to `to`. */
void sim_cut(struct sim_host *from, struct sim_host *to, bool on);
void sim_partition(struct sim_host *a, struct sim_host *b, bool on); /* both ways */
void sim_isolate(struct sim_host *host, bool on);                    /* from every other host */

/* Fails `count` disk operations of the host with `err` (-E_IO, -E_NOSPC), from the `nth` from now on
 * (1 = the next). nth 0 ends it. */
void sim_disk_fail(struct sim_host *host, uint64_t nth, uint64_t count, int err);
/* Crashes the host at its `nth` disk operation from now on (1 = the next); 0 = not any more. */
void sim_disk_crash_at(struct sim_host *host, uint64_t nth, bool power_loss);
void sim_disk_slow(struct sim_host *host, unsigned factor); /* 1 = as usual */
uint64_t sim_disk_ops(const struct sim_host *host); /* so far, for sweeps over all of them */
void sim_disk_limit(struct sim_host *host, uint64_t bytes);
uint64_t sim_disk_used(const struct sim_host *host);
/* Flips one bit of the byte at `offset`, durably. -E_NOENT, -E_RANGE when there is none. */
int sim_disk_corrupt(struct sim_host *host, const char *path, uint64_t offset);
/* What a program would read there now, without its doing anything and without time. -E_NOENT; -E_RANGE: not that long. */
int sim_disk_peek(struct sim_host *host, const char *path, uint64_t offset, void *buf, size_t n);

#endif
