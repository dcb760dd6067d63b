/* Inside the simulation: shared by io_sim.c (hosts, time), io_sim_disk.c and io_sim_net.c only. */
#ifndef TARN_COMMON_IO_SIM_CORE_H
#define TARN_COMMON_IO_SIM_CORE_H

#include "io_core.h"
#include "io_sim.h"
#include "prng.h"

/* Something that happens at a virtual time. Ties happen in the order of scheduling. */
struct sim_event {
    struct heap_node node;
    void (*fire)(struct sim_event *event);
    void (*drop)(struct sim_event *event); /* at sim_destroy(); NULL = its owner frees it */
};

struct sim_inode;
struct sim_disk {
    struct sim_inode *root;
    struct list journal; /* name changes not yet durable, oldest first */
    uint64_t used, limit;
    uint64_t ops, fail_in, fail_count, crash_in;
    int fail_err;
    bool crash_power;
    unsigned slow; /* factor; 0 = 1 */
};

/* One life of a host: from start or restart to stop or crash. */
struct sim_life {
    struct io io; /* first */
    struct sim_host *host;
    struct sim_life *older;
    bool crashed;
    struct prng prng;      /* for io_random() */
    struct list disk_ops;  /* under way */
    struct list listeners; /* open */
};

struct sim_host {
    struct sim *sim;
    char name[SIM_NAME_MAX];
    unsigned index;
    struct sim_life *life; /* the youngest */
    bool powered, paused;
    uint64_t mono_base_ns, base_ns; /* what the monotonic clock showed at that virtual time */
    int64_t drift_ppm;              /* what it has gained since, per million */
    int64_t real_offset_ns;
    unsigned next_port;
    struct sim_disk disk;
};

struct sim {
    struct prng prng;
    struct sim_options options;
    uint64_t now_ns, hash;
    struct heap events;
    struct sim_host *hosts[SIM_HOSTS_MAX];
    unsigned n_hosts;
    bool cut[SIM_HOSTS_MAX][SIM_HOSTS_MAX]; /* [from][to] */
    struct list conns;
};

enum sim_trace_kind {
    TRACE_RUN = 1, TRACE_CRASH, TRACE_RESTART, TRACE_CUT, TRACE_DISK, TRACE_NET, TRACE_RANDOM, TRACE_PAUSE, TRACE_CLOCK
};
void sim_trace(struct sim *sim, enum sim_trace_kind kind, uint64_t a, uint64_t b, uint64_t c);
/* Evenly from min to max, both included. */
uint64_t sim_draw(struct sim *sim, uint64_t min, uint64_t max);
bool sim_chance(struct sim *sim, unsigned ppm);
static inline bool sim_coin(struct sim *sim)
{
    return sim_draw(sim, 0, 1) != 0;
}

void sim_event_init(struct sim_event *event, void (*fire)(struct sim_event *event));
void sim_event_at(struct sim *sim, struct sim_event *event, uint64_t at_ns);
void sim_event_cancel(struct sim *sim, struct sim_event *event); /* also when not scheduled */
static inline bool sim_event_pending(const struct sim_event *event)
{
    return event->node.index != SIZE_MAX;
}
uint64_t sim_host_mono_ns(const struct sim_host *host);
struct sim_life *sim_life_of(struct io *io);
void *sim_alloc(size_t n); /* zeroed; never NULL */
void *sim_copy(const void *from, size_t n);

/* ---- io_sim_disk.c ---- */
void sim_disk_init(struct sim_disk *disk, uint64_t limit);
void sim_disk_fini(struct sim_disk *disk);
void sim_disk_crash(struct sim_life *life, bool power_loss);
int sim_open(struct io *io, const char *path, int flags, mode_t mode, struct io_file **ret_file);
void sim_close(struct io_file *file);
int64_t sim_pread(struct io_file *file, void *buf, size_t n, uint64_t offset);
int sim_pwritev(struct io_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset);
int sim_sync(struct io_file *file);
int sim_truncate(struct io_file *file, uint64_t length);
int sim_allocate(struct io_file *file, uint64_t offset, uint64_t length);
int sim_size(struct io_file *file, uint64_t *ret_size);
int sim_file_fd(struct io_file *file);
int sim_unlink(struct io *io, const char *path);
int sim_rename(struct io *io, const char *from, const char *to);
int sim_mkdir(struct io *io, const char *path, mode_t mode);
int sim_sync_dir(struct io *io, const char *path);
int sim_list(struct io *io, const char *path, char ***ret_names, size_t *ret_n);
int sim_statfs(struct io *io, const char *path, uint64_t *ret_total, uint64_t *ret_free);

/* ---- io_sim_net.c ---- */
void sim_net_crash(struct sim_life *life, bool power_loss);
void sim_net_fini(struct sim *sim); /* frees connections whose sockets nobody has; the rest goes with them */
int sim_listen(struct io *io, const char *address, struct io_listener **ret_listener);
int sim_accept(struct io_listener *listener, struct io_sock **ret_sock);
void sim_listener_close(struct io_listener *listener);
int sim_connect(struct io *io, const char *address, uint64_t timeout_ms, struct io_sock **ret_sock);
int64_t sim_recv(struct io_sock *sock, void *buf, size_t n, uint64_t timeout_ms);
int sim_sendv(struct io_sock *sock, struct iovec *iov, unsigned n_iov);
void sim_sock_shutdown(struct io_sock *sock);
void sim_sock_close(struct io_sock *sock);
int sim_sock_fd(struct io_sock *sock);
int sim_send_fd(struct io_sock *sock, int fd);
int sim_recv_fd(struct io_sock *sock, int *ret_fd, uint64_t timeout_ms);

#endif
