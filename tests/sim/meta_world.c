#include "meta_world.h"

#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "metadata/replica_impl.h"
#include "metadata/server.h"

#include <stdio.h>

#define PORT 7000
#define RESTART_MS 200
#define DOWN_MS_MAX 3000
#define PARTITION_MS_MAX 4000
#define PAUSE_MS_MAX 4000
#define AWAKE_MS_MAX 600
#define AILING_MS_MAX 3000
#define SEGMENT_BYTES KIB(128) /* small, so that segments end and are dropped in every run */
#define DISK_BYTES GIB(1)
#define PPM_MAX 100000 /* two clocks then differ by a fifth; leases allow a third */

static uint64_t draw(struct meta_world *world, uint64_t bound)
{
    return sim_random_u64(world->sim) % bound;
}

/* ---- a replica's process */

static int remove_one(void *arg, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", (const char *)arg, name);
    int err = io_unlink(fiber_io(), path);
    return err == -E_ISDIR || err == -E_NOENT ? 0 : err;
}

static int wipe(void)
{
    static char dirs[][32] = {"/meta/log", "/meta/snapshots", "/meta"};
    int err = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(dirs) && err == 0; i++) {
        err = io_list(fiber_io(), dirs[i], remove_one, dirs[i]);
        if (err == -E_NOENT)
            return 0;
        if (err == 0)
            err = io_sync_dir(fiber_io(), dirs[i]);
    }
    return err;
}

/* One life of a replica's program. */
struct life {
    struct meta_host *host;
    struct fiber_queue end;
    bool removed;
};

static void wait_for_the_end(struct life *life)
{
    while (!life->removed && fiber_queue_wait(&life->end, 0) == 0)
        continue;
}

static void on_end(void *arg, int err)
{
    struct life *life = arg;
    life->removed |= err == -E_PERM; /* else the disk: the host is started again when that is mended */
    fiber_queue_wake_all(&life->end);
}

static int serve(struct life *life, struct server **ret)
{
    const struct meta_host *self = life->host;
    const struct meta_world *world = self->world;
    const char *addresses[CONFIG_META_MAX];
    for (unsigned i = 0; i < world->n_replicas; i++)
        addresses[i] = world->config.meta[i];
    struct server_options options = {.listen = addresses[self->index - 1],
                                     .on_end = on_end,
                                     .end_arg = life,
                                     .replica = {.dir = "/meta",
                                                 .id = self->id,
                                                 .n_servers = self->joins ? 0 : world->n_first,
                                                 .addresses = addresses,
                                                 .join = self->joins,
                                                 .address = addresses[self->index - 1],
                                                 .auth = &world->config.auth,
                                                 .memory_tables = true,
                                                 .election_ms = world->election_ms,
                                                 .heartbeat_ms = world->election_ms / 10,
                                                 .segment_bytes = SEGMENT_BYTES,
                                                 .snapshot_entries = world->snapshot_entries,
                                                 .trailing_entries = world->snapshot_entries / 2}};
    return server_start(fiber_io(), &options, ret);
}

/* A disk that fails or is full at the start: whoever starts services tries again. */
static void replica_program(void *arg)
{
    struct meta_host *self = arg;
    struct life life = {.host = self};
    int err = self->wiped ? wipe() : 0;
    while (err != 0 && err != -E_CANCELED)
        err = io_sleep_ms(fiber_io(), RESTART_MS) != 0 ? -E_CANCELED : wipe();
    if (err != 0)
        return; /* crashed again: the next life does it */
    self->wiped = false;
    struct server *server = NULL;
    err = serve(&life, &server);
    while (err == -E_IO || err == -E_NOSPC) {
        if (io_sleep_ms(fiber_io(), RESTART_MS) != 0)
            return;
        err = serve(&life, &server);
    }
    if (err == 0) {
        self->server = server;
        wait_for_the_end(&life);
        self->server = NULL;
        server_stop(server);
        self->removed = life.removed;
    } else if (err == -E_PERM) {
        self->removed = true;
    } else if (err != -E_CANCELED) {
        fprintf(stderr, "metadata replica %u cannot start: %s\n", self->index, err_name(err));
        abort();
    }
}

static void host_start(struct meta_host *self)
{
    if (self->client)
        self->world->client(self);
    else
        CHECK(fiber_spawn(sim_host_io(self->host), "metad", replica_program, self) == 0);
}

/* ---- life */

static struct sim_options weather(struct meta_world *world, bool calm)
{
    struct sim_options options = {.clock_skew_ms = 3000, .disk_bytes = DISK_BYTES};
    if (calm)
        return options;
    static const unsigned ppm[] = {0, 100, 1000, 5000};
    options.loss_ppm = ppm[draw(world, ARRAY_SIZE(ppm))];
    options.reset_ppm = ppm[draw(world, ARRAY_SIZE(ppm))];
    options.net_slow_ppm = 2000 * (unsigned)draw(world, 3);
    options.net_delay_max_ns = 400000 << 2 * draw(world, 3);
    options.reset_after_ms = 500 + draw(world, 3000);
    options.disk_delay_max_ns = 500000 << draw(world, 5);
    return options;
}

static void hosts_create(struct meta_world *world, struct meta_host *hosts, unsigned n, bool client)
{
    for (unsigned i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "%c%u", client ? 'c' : 'm', i + 1);
        if (!client)
            snprintf(world->config.meta[i], sizeof world->config.meta[i], "tcp:%s:%u", name, PORT);
        hosts[i] = (struct meta_host){
            .world = world, .host = sim_host_create(world->sim, name), .index = i + 1, .id = i + 1, .client = client};
        hosts[i].spare = !client && i >= world->n_first;
        hosts[i].part = hosts[i].spare ? META_OUT : META_IN;
    }
}

void meta_world_create(struct meta_world *world, uint64_t seed, bool spares, void (*client)(struct meta_host *host))
{
    static const unsigned elections[] = {300, 1000};
    static const uint64_t snapshots[] = {40, 150, 600};
    struct sim_options first = {.clock_skew_ms = 3000, .disk_bytes = DISK_BYTES};
    unsigned n = seed % 2 == 1 ? 3 : 5;
    *world = (struct meta_world){.n_first = n, .n_replicas = spares ? META_WORLD_REPLICAS_MAX : n, .client = client};
    world->sim = sim_create(seed, &first);
    world->config.auth.cluster_id = 7;
    memset(world->config.auth.key, 7, sizeof world->config.auth.key);
    world->config.n_meta = world->n_replicas;
    world->election_ms = elections[draw(world, ARRAY_SIZE(elections))];
    world->snapshot_entries = snapshots[draw(world, ARRAY_SIZE(snapshots))];
    world->raft_repeat_percent = 5 * (unsigned)draw(world, 3);
    hosts_create(world, world->replicas, world->n_replicas, false);
    hosts_create(world, world->clients, META_WORLD_CLIENTS, true);
    struct sim_options options = weather(world, false);
    sim_set_options(world->sim, &options);
    world->desk = sim_host_create(world->sim, "o1");
    for (unsigned i = 0; i < world->n_first; i++)
        host_start(&world->replicas[i]);
    for (unsigned i = 0; i < META_WORLD_CLIENTS; i++)
        host_start(&world->clients[i]);
}

void meta_world_destroy(struct meta_world *world)
{
    sim_destroy(world->sim);
}

/* ---- faults */

static bool unharmed(const struct meta_host *host)
{
    return host->back_at_ns == 0 && host->calm_at_ns == 0 && !host->spare && sim_host_up(host->host);
}

static unsigned harmed(const struct meta_world *world)
{
    unsigned n = 0;
    for (unsigned i = 0; i < world->n_replicas; i++)
        n += !world->replicas[i].spare && !unharmed(&world->replicas[i]);
    return n;
}

static uint64_t later(struct meta_world *world, uint64_t ms_max)
{
    return sim_now_ns(world->sim) + (1 + draw(world, ms_max)) * 1000000;
}

static void crash(struct meta_host *victim, bool power)
{
    struct meta_world *world = victim->world;
    if (victim->back_at_ns != 0 || victim->spare)
        return;
    world->faults.crashes++;
    world->faults.power_losses += power;
    victim->back_at_ns = later(world, DOWN_MS_MAX);
    sim_host_crash(victim->host, power);
}

static bool coin(struct meta_world *world)
{
    return draw(world, 2) == 0;
}

struct meta_host *meta_world_leader(struct meta_world *world)
{
    for (unsigned i = 0; i < world->n_replicas; i++) {
        struct meta_host *host = &world->replicas[i];
        if (host->server != NULL && replica_leads(server_replica(host->server)))
            return host;
    }
    return NULL;
}

/* Often the leader: there the damage is done. */
static struct meta_host *some_replica(struct meta_world *world)
{
    struct meta_host *leads = meta_world_leader(world), *any = &world->replicas[draw(world, world->n_replicas)];
    return leads != NULL && coin(world) ? leads : any->spare ? &world->replicas[0] : any;
}

static struct sim_host *any_host(struct meta_world *world)
{
    uint64_t i = draw(world, world->n_replicas + META_WORLD_CLIENTS);
    return i < world->n_replicas ? world->replicas[i].host : world->clients[i - world->n_replicas].host;
}

static void run_ms(struct meta_world *world, uint64_t ms)
{
    if (sim_run(world->sim, ms, NULL, NULL) == SIM_IDLE)
        meta_world_mend(world, true);
}

/* Nothing reaches the host, nothing leaves it, or both; the others or one of them. */
static void cut(struct meta_world *world, struct sim_host *host, struct sim_host *other, unsigned how, bool on)
{
    if (how & 1)
        sim_cut(host, other, on);
    if (how & 2)
        sim_cut(other, host, on);
}

static void cut_all(struct meta_world *world, struct sim_host *host, unsigned how, bool on)
{
    for (unsigned i = 0; i < world->n_replicas; i++)
        if (world->replicas[i].host != host)
            cut(world, host, world->replicas[i].host, how, on);
}

static void partition(struct meta_world *world)
{
    struct sim_host *a = some_replica(world)->host, *b = any_host(world);
    unsigned how = 1 + (unsigned)draw(world, 3);
    world->faults.partitions++;
    if (a == b || coin(world)) {
        cut_all(world, a, how, true);
        run_ms(world, draw(world, PARTITION_MS_MAX));
        cut_all(world, a, how, false);
    } else {
        cut(world, a, b, how, true);
        run_ms(world, draw(world, PARTITION_MS_MAX));
        cut(world, a, b, how, false);
    }
}

/* Some replicas are cut off one by one, and come back in another order. */
static void swizzle(struct meta_world *world)
{
    struct sim_host *order[META_WORLD_REPLICAS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < world->n_replicas; i++)
        if (coin(world))
            order[n++] = world->replicas[i].host;
    world->faults.swizzles++;
    for (unsigned i = 0; i < n; i++) {
        cut_all(world, order[i], 3, true);
        run_ms(world, draw(world, 700));
    }
    for (unsigned left = n; left > 0; left--) {
        uint64_t at = draw(world, left);
        cut_all(world, order[at], 3, false);
        order[at] = order[left - 1];
        run_ms(world, draw(world, 700));
    }
}

/* One replica loses its directory, while all others have theirs and are not newcomers themselves. */
static void lose_directory(struct meta_world *world)
{
    if (world->operating) /* then the operator replaces it */
        return;
    for (unsigned i = 0; i < world->n_replicas; i++)
        if (!unharmed(&world->replicas[i]) || world->replicas[i].wiped || world->replicas[i].server == NULL ||
            server_replica(world->replicas[i].server)->newcomer)
            return;
    struct meta_host *victim = &world->replicas[draw(world, world->n_replicas)];
    crash(victim, false);
    victim->wiped = true;
    world->faults.wipes++;
}

static void disk_fault(struct meta_world *world, struct meta_host *victim)
{
    if (!unharmed(victim))
        return;
    victim->calm_at_ns = later(world, AILING_MS_MAX);
    switch (draw(world, 3)) {
    case 0: /* what failed may be on the disk or not: only a restart can tell */
        victim->ailing = true;
        world->faults.disk_errors++;
        sim_disk_fail(victim->host, 1 + draw(world, 30), 1 + draw(world, 3), -E_IO);
        break;
    case 1:
        world->faults.disk_full++;
        sim_disk_limit(victim->host, sim_disk_used(victim->host) + draw(world, 300000));
        break;
    default:
        world->faults.disk_slow++;
        sim_disk_slow(victim->host, 5u << draw(world, 8));
    }
}

static void pause_one(struct meta_world *world, struct meta_host *victim)
{
    if (!unharmed(victim))
        return;
    world->faults.pauses++;
    victim->calm_at_ns = later(world, PAUSE_MS_MAX);
    sim_host_pause(victim->host, true);
}

/* A client's machine sleeps, and has no network for a while after it awoke: what it knows is old, and nobody tells it. */
static void sleep_and_wake(struct meta_world *world, struct meta_host *victim)
{
    if (!unharmed(victim))
        return;
    world->faults.pauses++;
    cut_all(world, victim->host, 3, true);
    sim_host_pause(victim->host, true);
    run_ms(world, draw(world, PAUSE_MS_MAX));
    sim_host_pause(victim->host, false);
    run_ms(world, draw(world, AWAKE_MS_MAX));
    cut_all(world, victim->host, 3, false);
}

static void clock_fault(struct meta_world *world)
{
    struct sim_host *host = any_host(world);
    world->faults.clocks++;
    if (coin(world))
        sim_clock_jump(host, (int64_t)draw(world, 7200000) - 3600000);
    else
        sim_clock_drift(host, (int)draw(world, 2 * PPM_MAX) - PPM_MAX);
}

void meta_world_fault(struct meta_world *world)
{
    struct meta_host *victim = some_replica(world);
    bool minority = harmed(world) < (world->n_replicas - 1) / 2;
    switch (draw(world, 21)) {
    case 0:
    case 1:
    case 2:
        if (minority || draw(world, 4) == 0)
            crash(victim, coin(world));
        break;
    case 3:
    case 4:
    case 5:
    case 6:
        if (unharmed(victim)) {
            world->faults.disk_crashes++;
            sim_disk_crash_at(victim->host, 1 + draw(world, 1 + draw(world, 60)), coin(world));
        }
        break;
    case 7:
    case 8:
    case 9:
    case 10:
        partition(world);
        break;
    case 11:
        swizzle(world);
        break;
    case 12:
    case 13:
        pause_one(world, draw(world, 4) == 0 ? &world->clients[draw(world, META_WORLD_CLIENTS)] : victim);
        break;
    case 20:
        sleep_and_wake(world, &world->clients[draw(world, META_WORLD_CLIENTS)]);
        break;
    case 14:
        clock_fault(world);
        break;
    case 15:
    case 16:
        if (minority || draw(world, 4) == 0)
            disk_fault(world, victim);
        break;
    case 17:
        crash(&world->clients[draw(world, META_WORLD_CLIENTS)], coin(world));
        break;
    case 18:
        lose_directory(world);
        break;
    default: /* what was acknowledged is on the disks */
        for (unsigned i = 0; i < world->n_replicas; i++)
            crash(&world->replicas[i], coin(world));
    }
}

/* ---- mending */

static void heal(struct meta_host *host)
{
    bool restart = host->ailing && sim_host_up(host->host);
    host->calm_at_ns = 0;
    host->ailing = false;
    sim_host_pause(host->host, false);
    sim_disk_fail(host->host, 0, 0, 0);
    sim_disk_limit(host->host, DISK_BYTES);
    sim_disk_slow(host->host, 1);
    if (restart)
        crash(host, false);
}

static void mend(struct meta_host *host, bool now)
{
    struct meta_world *world = host->world;
    if (host->spare)
        return;
    if (host->back_at_ns == 0 && !sim_host_up(host->host)) { /* it crashed at an operation of its disk */
        host->back_at_ns = later(world, DOWN_MS_MAX);
        world->faults.crashes++;
    }
    if (host->calm_at_ns != 0 && (now || sim_now_ns(world->sim) >= host->calm_at_ns))
        heal(host);
    if (host->back_at_ns == 0 || (!now && sim_now_ns(world->sim) < host->back_at_ns))
        return;
    host->back_at_ns = 0;
    sim_host_restart(host->host);
    host_start(host);
}

void meta_world_mend(struct meta_world *world, bool all)
{
    for (unsigned i = 0; i < world->n_replicas; i++)
        mend(&world->replicas[i], all);
    for (unsigned i = 0; i < META_WORLD_CLIENTS; i++)
        mend(&world->clients[i], all);
}

void meta_world_calm(struct meta_world *world)
{
    for (unsigned i = 0; i < world->n_replicas; i++) {
        sim_disk_crash_at(world->replicas[i].host, 0, false);
        sim_clock_drift(world->replicas[i].host, 0);
    }
    sim_run(world->sim, 20, NULL, NULL); /* a host that has just crashed unwinds */
    meta_world_mend(world, true);
    struct sim_options options = weather(world, true);
    sim_set_options(world->sim, &options);
    world->raft_repeat_percent = 0;
}

void meta_world_renew(struct meta_host *host)
{
    if (host->spare)
        host_start(host);
    else if (host->back_at_ns == 0)
        crash(host, false);
    host->spare = host->removed = false;
    host->joins = host->wiped = true;
}

/* ---- the replicas' tables */

static int digest_piece(void *arg, const void *data, size_t n)
{
    uint32_t *crc = arg;
    *crc = crc32c(*crc, data, n);
    return 0;
}

static uint32_t tables_digest(struct replica *replica, uint64_t *ret_applied)
{
    struct kv_txn *txn = NULL;
    uint32_t crc = 0;
    CHECK(kv_begin(replica->kv, false, &txn) == 0);
    CHECK(fsm_applied_index(txn, ret_applied) == 0);
    CHECK(kv_dump(txn, digest_piece, &crc) == 0);
    kv_abort(txn);
    return crc;
}

bool meta_world_equal(struct meta_world *world, const char **ret_why)
{
    uint32_t first = 0;
    uint64_t first_applied = 0;
    bool any = false;
    if (!meta_world_members(world, ret_why))
        return false;
    for (unsigned i = 0; i < world->n_replicas; i++) {
        uint64_t applied;
        if (!world->replicas[i].member)
            continue;
        *ret_why = "a replica does not run";
        if (world->replicas[i].server == NULL)
            return false;
        uint32_t digest = tables_digest(server_replica(world->replicas[i].server), &applied);
        *ret_why = any && applied == first_applied ? "tables at the same index differ" : "a replica lags behind";
        if (any && (applied != first_applied || digest != first))
            return false;
        any = true;
        first = digest;
        first_applied = applied;
    }
    return true;
}
