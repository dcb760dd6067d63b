/* Hosts, their lives, and time. A step of the simulation is one turn of one host that has ready
 * fibers, or, when none has, the jump to the next event or timer. */
#include "io_sim_core.h"
#include <stdio.h>

#define TURN_NS 1000u /* what one turn of a host takes: so that a busy loop cannot stop time */
#define REAL_START_NS 1767225600000000000ull /* 2026-01-01 */
#define PPM 1000000u

static const struct io_ops sim_ops;

void *sim_alloc(size_t n)
{
    void *mem = calloc(1, n);
    if (mem == NULL) /* a sweep fails one allocation, and what it looks at is not the simulation */
        mem = calloc(1, n);
    CHECK(mem != NULL);
    return mem;
}

void *sim_copy(const void *from, size_t n)
{
    void *mem = sim_alloc(n);
    memcpy(mem, from, n);
    return mem;
}

/* ---- chance and trace ---- */

static void mix(struct sim *sim, uint64_t value)
{
    uint64_t h = (sim->hash ^ value) * 0x9e3779b97f4a7c15ull;
    sim->hash = h ^ (h >> 29);
}

void sim_trace(struct sim *sim, enum sim_trace_kind kind, uint64_t a, uint64_t b, uint64_t c)
{
    mix(sim, kind);
    mix(sim, sim->now_ns);
    mix(sim, a);
    mix(sim, b);
    mix(sim, c);
}

uint64_t sim_trace_hash(const struct sim *sim)
{
    return sim->hash;
}

uint64_t sim_random_u64(struct sim *sim)
{
    return prng_u64(&sim->prng);
}

uint64_t sim_draw(struct sim *sim, uint64_t min, uint64_t max)
{
    return max <= min ? min : min + prng_below(&sim->prng, max - min + 1);
}

bool sim_chance(struct sim *sim, unsigned ppm)
{
    return ppm != 0 && prng_below(&sim->prng, PPM) < ppm;
}

/* ---- events ---- */

void sim_event_init(struct sim_event *event, void (*fire)(struct sim_event *event))
{
    memset(event, 0, sizeof *event);
    event->node.index = SIZE_MAX;
    event->fire = fire;
}

void sim_event_at(struct sim *sim, struct sim_event *event, uint64_t at_ns)
{
    CHECK(!sim_event_pending(event));
    event->node.key = at_ns;
    CHECK(heap_push(&sim->events, &event->node) == 0 || heap_push(&sim->events, &event->node) == 0); /* as sim_alloc() */
}

void sim_event_cancel(struct sim *sim, struct sim_event *event)
{
    if (sim_event_pending(event))
        heap_remove(&sim->events, &event->node);
}

/* ---- the simulation ---- */

static uint64_t or_default(uint64_t value, uint64_t fallback)
{
    return value != 0 ? value : fallback;
}

void sim_set_options(struct sim *sim, const struct sim_options *options)
{
    struct sim_options o = options != NULL ? *options : (struct sim_options){0};
    o.net_delay_min_ns = or_default(o.net_delay_min_ns, 20000);
    o.net_delay_max_ns = or_default(o.net_delay_max_ns, 400000);
    o.reset_after_ms = or_default(o.reset_after_ms, 20000);
    o.disk_delay_min_ns = or_default(o.disk_delay_min_ns, 10000);
    o.disk_delay_max_ns = or_default(o.disk_delay_max_ns, 2000000);
    o.disk_bytes = or_default(o.disk_bytes, GIB(1024));
    sim->options = o;
}

struct sim *sim_create(uint64_t seed, const struct sim_options *options)
{
    struct sim *sim = sim_alloc(sizeof *sim);
    sim->prng = prng_init(seed);
    list_init(&sim->conns);
    sim_set_options(sim, options);
    mix(sim, seed);
    return sim;
}

static struct io *life_create(struct sim_host *host)
{
    struct sim_life *life = sim_alloc(sizeof *life);
    core_init(&life->io, &sim_ops, 0);
    life->host = host;
    life->prng = prng_init(prng_u64(&host->sim->prng));
    life->older = host->life;
    list_init(&life->disk_ops);
    list_init(&life->listeners);
    host->life = life;
    host->powered = true;
    return &life->io;
}

struct sim_host *sim_host_create(struct sim *sim, const char *name)
{
    CHECK(sim->n_hosts < SIM_HOSTS_MAX && strlen(name) < SIM_NAME_MAX && strchr(name, ':') == NULL);
    CHECK(sim_host_find(sim, name) == NULL);
    struct sim_host *host = sim_alloc(sizeof *host);
    host->sim = sim;
    strcpy(host->name, name);
    host->index = sim->n_hosts;
    host->next_port = 40000;
    host->base_ns = sim->now_ns;
    host->mono_base_ns = sim->now_ns + sim_draw(sim, 1, 1000) * 1000000000u;
    uint64_t skew_ns = sim->options.clock_skew_ms * 1000000;
    host->real_offset_ns = (int64_t)sim_draw(sim, 0, 2 * skew_ns) - (int64_t)skew_ns;
    sim_disk_init(&host->disk, sim->options.disk_bytes);
    sim->hosts[sim->n_hosts++] = host;
    life_create(host);
    return host;
}

struct sim_host *sim_host_find(struct sim *sim, const char *name)
{
    for (unsigned i = 0; i < sim->n_hosts; i++)
        if (strcmp(sim->hosts[i]->name, name) == 0)
            return sim->hosts[i];
    return NULL;
}

const char *sim_host_name(const struct sim_host *host)
{
    return host->name;
}

struct io *sim_host_io(struct sim_host *host)
{
    return &host->life->io;
}

bool sim_host_up(const struct sim_host *host)
{
    return !host->life->io.stopping;
}

uint64_t sim_now_ns(const struct sim *sim)
{
    return sim->now_ns;
}

/* ---- clocks ---- */

uint64_t sim_host_mono_ns(const struct sim_host *host)
{
    uint64_t passed = host->sim->now_ns - host->base_ns;
    return host->mono_base_ns + passed + (uint64_t)(int64_t)((__int128)passed * host->drift_ppm / PPM);
}

/* The first virtual time at which the host's monotonic clock shows at least `mono_ns`. */
static uint64_t when_mono(const struct sim_host *host, uint64_t mono_ns)
{
    if (mono_ns <= host->mono_base_ns)
        return host->base_ns;
    unsigned __int128 passed = (unsigned __int128)(mono_ns - host->mono_base_ns) * PPM;
    unsigned rate = (unsigned)((int64_t)PPM + host->drift_ppm);
    return host->base_ns + (uint64_t)((passed + rate - 1) / rate);
}

void sim_clock_jump(struct sim_host *host, int64_t ms)
{
    sim_trace(host->sim, TRACE_CLOCK, host->index, 0, (uint64_t)ms);
    host->real_offset_ns += ms * 1000000;
}

void sim_clock_drift(struct sim_host *host, int ppm)
{
    CHECK(ppm > -(int)PPM / 2 && ppm < (int)PPM / 2);
    sim_trace(host->sim, TRACE_CLOCK, host->index, 1, (uint64_t)ppm);
    host->mono_base_ns = sim_host_mono_ns(host);
    host->base_ns = host->sim->now_ns;
    host->drift_ppm = ppm;
}

/* ---- faults ---- */

/* All its calls return -E_CANCELED, so this ends; who waits for another host's fiber stays for a step. */
static void unwind(struct sim_life *life)
{
    while (life->io.n_ready > 0)
        core_run_ready(&life->io);
}

void sim_host_crash(struct sim_host *host, bool power_loss)
{
    struct sim_life *life = host->life;
    if (power_loss)
        host->powered = false;
    if (life->crashed)
        return;
    host->paused = false;
    host->disk.crash_in = 0;
    sim_trace(host->sim, TRACE_CRASH, host->index, power_loss, 0);
    life->crashed = true;
    core_stop(&life->io);
    sim_disk_crash(life, power_loss);
    sim_net_crash(life, power_loss);
    if (fiber_self() == NULL)
        unwind(life);
}

struct io *sim_host_restart(struct sim_host *host)
{
    CHECK(host->life->io.stopping);
    if (!host->life->crashed)
        sim_host_crash(host, false); /* stopped, perhaps still unwinding: the old life ends here */
    sim_trace(host->sim, TRACE_RESTART, host->index, 0, 0);
    core_trim(&host->life->io);
    return life_create(host);
}

void sim_host_pause(struct sim_host *host, bool on)
{
    sim_trace(host->sim, TRACE_PAUSE, host->index, on, 0);
    host->paused = on && !host->life->crashed;
}

void sim_cut(struct sim_host *from, struct sim_host *to, bool on)
{
    sim_trace(from->sim, TRACE_CUT, from->index, to->index, on);
    from->sim->cut[from->index][to->index] = on;
}

void sim_partition(struct sim_host *a, struct sim_host *b, bool on)
{
    sim_cut(a, b, on);
    sim_cut(b, a, on);
}

void sim_isolate(struct sim_host *host, bool on)
{
    for (unsigned i = 0; i < host->sim->n_hosts; i++)
        if (i != host->index)
            sim_partition(host, host->sim->hosts[i], on);
}

/* ---- running ---- */

/* The n-th life with ready fibers, NULL past the last. */
static struct sim_life *ready_life(struct sim *sim, uint64_t n)
{
    for (unsigned i = 0; i < sim->n_hosts; i++) {
        if (sim->hosts[i]->paused)
            continue;
        for (struct sim_life *life = sim->hosts[i]->life; life != NULL; life = life->older)
            if (life->io.n_ready > 0 && n-- == 0)
                return life;
    }
    return NULL;
}

static bool run_someone(struct sim *sim)
{
    uint64_t n = 0;
    while (ready_life(sim, n) != NULL)
        n++;
    if (n == 0)
        return false;
    struct sim_life *life = ready_life(sim, sim_draw(sim, 0, n - 1));
    sim_trace(sim, TRACE_RUN, life->host->index, life->io.n_ready, 0);
    core_run_ready(&life->io);
    sim->now_ns += TURN_NS;
    return true;
}

static uint64_t next_time(struct sim *sim)
{
    const struct heap_node *first = heap_peek(&sim->events);
    uint64_t next = first != NULL ? first->key : CORE_NEVER;
    for (unsigned i = 0; i < sim->n_hosts; i++) {
        const struct sim_host *host = sim->hosts[i];
        for (struct sim_life *life = host->paused ? NULL : host->life; life != NULL; life = life->older) {
            uint64_t deadline_ns = core_deadline(&life->io);
            if (deadline_ns != CORE_NEVER)
                next = MIN(next, when_mono(host, deadline_ns));
        }
    }
    return next;
}

static void fire_due(struct sim *sim)
{
    struct heap_node *node;
    while ((node = heap_peek(&sim->events)) != NULL && node->key <= sim->now_ns) {
        heap_remove(&sim->events, node);
        struct sim_event *event = container_of(node, struct sim_event, node);
        event->fire(event);
    }
    for (unsigned i = 0; i < sim->n_hosts; i++) {
        const struct sim_host *host = sim->hosts[i];
        for (struct sim_life *life = host->paused ? NULL : host->life; life != NULL; life = life->older)
            core_fire_timers(&life->io, sim_host_mono_ns(host));
    }
}

enum sim_end sim_run(struct sim *sim, uint64_t ms, bool (*done)(void *arg), void *arg)
{
    CHECK(fiber_self() == NULL);
    uint64_t end_ns;
    if (mul_overflows(ms, (uint64_t)1000000, &end_ns) || add_overflows(end_ns, sim->now_ns, &end_ns))
        end_ns = CORE_NEVER - 1;
    for (;;) {
        if (done != NULL && done(arg))
            return SIM_DONE;
        fire_due(sim);
        if (sim->now_ns >= end_ns)
            return SIM_TIME;
        if (run_someone(sim))
            continue;
        uint64_t next = next_time(sim);
        if (next == CORE_NEVER)
            return SIM_IDLE;
        sim->now_ns = MAX(sim->now_ns, MIN(next, end_ns));
    }
}

static void drop_events(struct sim *sim)
{
    struct heap_node *node;
    while ((node = heap_peek(&sim->events)) != NULL) {
        heap_remove(&sim->events, node);
        struct sim_event *event = container_of(node, struct sim_event, node);
        if (event->drop != NULL)
            event->drop(event);
    }
    heap_fini(&sim->events);
}

void sim_destroy(struct sim *sim)
{
    if (sim == NULL)
        return;
    CHECK(fiber_self() == NULL);
    for (unsigned i = 0; i < sim->n_hosts; i++)
        sim_host_crash(sim->hosts[i], false);
    while (run_someone(sim))
        ;
    sim_net_fini(sim);
    drop_events(sim);
    for (unsigned i = 0; i < sim->n_hosts; i++) {
        struct sim_host *host = sim->hosts[i];
        for (struct sim_life *life = host->life, *older; life != NULL; life = older) {
            older = life->older;
            core_fini(&life->io);
            free(life);
        }
        sim_disk_fini(&host->disk);
        free(host);
    }
    free(sim);
}

/* ---- the io of a host ---- */

struct sim_life *sim_life_of(struct io *io)
{
    CHECK(io->ops == &sim_ops);
    return container_of(io, struct sim_life, io);
}

static void sim_stop(struct io *io)
{
    (void)io; /* the scheduler has ended the waits; what the disk is doing ends by itself */
}

static int sim_io_run(struct io *io)
{
    CHECK(!"sim_run() runs simulated hosts");
    return -E_NOTSUP;
}

static void sim_io_destroy(struct io *io)
{
    CHECK(!"sim_destroy() ends simulated hosts");
}

struct sim_post {
    struct sim_event event; /* first */
    struct sim_life *life;
    void (*fn)(void *arg);
    void *arg;
};

static void post_fire(struct sim_event *event)
{
    struct sim_post *post = container_of(event, struct sim_post, event);
    if (!post->life->crashed)
        post->fn(post->arg);
    free(post);
}

static void post_drop(struct sim_event *event)
{
    free(container_of(event, struct sim_post, event));
}

static int sim_post(struct io *io, void (*fn)(void *arg), void *arg)
{
    struct sim_life *life = sim_life_of(io);
    if (life->crashed)
        return -E_CANCELED;
    struct sim_post *post = sim_alloc(sizeof *post);
    *post = (struct sim_post){.life = life, .fn = fn, .arg = arg};
    sim_event_init(&post->event, post_fire);
    post->event.drop = post_drop;
    sim_event_at(life->host->sim, &post->event, life->host->sim->now_ns);
    return 0;
}

static int sim_stop_on_signals(struct io *io, const int *signals)
{
    return 0;
}

static uint64_t sim_mono_ns(struct io *io)
{
    return sim_host_mono_ns(sim_life_of(io)->host);
}

static uint64_t sim_real_ns(struct io *io)
{
    const struct sim_host *host = sim_life_of(io)->host;
    return REAL_START_NS + host->sim->now_ns + (uint64_t)host->real_offset_ns;
}

static void sim_io_random(struct io *io, void *buf, size_t n)
{
    struct sim_life *life = sim_life_of(io);
    uint8_t *out = buf;
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = prng_u64(&life->prng);
        memcpy(out + i, &v, MIN(n - i, sizeof v));
    }
    sim_trace(life->host->sim, TRACE_RANDOM, life->host->index, n, 0);
}

static int sim_poll(struct io *io, int fd, short events, uint64_t timeout_ms)
{
    return -E_NOTSUP;
}

static int64_t sim_read_fd(struct io *io, int fd, void *buf, size_t n, int64_t offset)
{
    return -E_NOTSUP;
}

static int64_t sim_write_fd(struct io *io, int fd, const void *buf, size_t n, int64_t offset)
{
    return -E_NOTSUP;
}

/* In place, but never without the others getting a turn: in production they would. */
static int sim_work(struct io *io, void (*fn)(void *arg), void *arg)
{
    fiber_yield();
    if (io->stopping)
        return -E_CANCELED;
    fn(arg);
    return 0;
}

static const struct io_ops sim_ops = {
    .stop = sim_stop,
    .run = sim_io_run,
    .destroy = sim_io_destroy,
    .post = sim_post,
    .stop_on_signals = sim_stop_on_signals,
    .mono_ns = sim_mono_ns,
    .real_ns = sim_real_ns,
    .random = sim_io_random,
    .open = sim_open,
    .close = sim_close,
    .pread = sim_pread,
    .pwritev = sim_pwritev,
    .sync = sim_sync,
    .truncate = sim_truncate,
    .allocate = sim_allocate,
    .size = sim_size,
    .file_fd = sim_file_fd,
    .unlink = sim_unlink,
    .rename = sim_rename,
    .mkdir = sim_mkdir,
    .sync_dir = sim_sync_dir,
    .list = sim_list,
    .statfs = sim_statfs,
    .listen = sim_listen,
    .accept = sim_accept,
    .listener_close = sim_listener_close,
    .connect = sim_connect,
    .recv = sim_recv,
    .sendv = sim_sendv,
    .sock_shutdown = sim_sock_shutdown,
    .sock_close = sim_sock_close,
    .sock_fd = sim_sock_fd,
    .send_fd = sim_send_fd,
    .recv_fd = sim_recv_fd,
    .poll = sim_poll,
    .read_fd = sim_read_fd,
    .write_fd = sim_write_fd,
    .work = sim_work,
};
