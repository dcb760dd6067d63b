#include "world.h"

#include "oracle.h"

#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "metadata/replica_impl.h"
#include "metadata/server.h"
#include "objstore/store.h"

#include <stdio.h>

#define META_PORT 7000
#define SNAPSHOT_ENTRIES 300 /* small, so that snapshots and their transfer happen in every run */
#define INVENTORY_MS 60000
#define RESTART_MS 500
#define DOWN_MS_MAX 8000
#define PARTITION_MS_MAX 4000
#define AWAY_MS 31000
#define STALL_MS_MAX 6000

/* ---- the programs of the hosts: what metad.c and stored.c do, less the command line */

/* Both end when their host crashes: the wait returns -E_CANCELED. */
static void wait_for_the_end(void)
{
    struct fiber_queue never = {0};
    while (fiber_queue_wait(&never, 0) == 0)
        continue;
}

static int remove_one(void *arg, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", (const char *)arg, name);
    int err = io_unlink(fiber_io(), path);
    return err == -E_CANCELED ? err : 0;
}

/* The disk of the replica is replaced by an empty one. */
static int wipe(void)
{
    static char dirs[][32] = {"/meta/log", "/meta/snapshots", "/meta"};
    int err = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(dirs) && err == 0; i++) {
        err = io_list(fiber_io(), dirs[i], remove_one, dirs[i]);
        if (err == 0)
            err = io_sync_dir(fiber_io(), dirs[i]);
    }
    return err;
}

static void meta_program(void *arg)
{
    struct world_host *self = arg;
    if (self->wiped && wipe() != 0)
        return; /* crashed again: the next life does it */
    self->wiped = false;
    const struct config *config = &self->world->config;
    const char *addresses[CONFIG_META_MAX];
    for (unsigned i = 0; i < config->n_meta; i++)
        addresses[i] = config->meta[i];
    struct server_options options = {.listen = config->meta[self->index - 1],
                                     .replica = {.dir = "/meta",
                                                 .id = self->index,
                                                 .n_servers = config->n_meta,
                                                 .addresses = addresses,
                                                 .auth = &config->auth,
                                                 .memory_tables = true,
                                                 .snapshot_entries = SNAPSHOT_ENTRIES}};
    struct server *server = NULL;
    int err = server_start(fiber_io(), &options, &server);
    if (err == 0) {
        self->service = server;
        wait_for_the_end();
        self->service = NULL;
        server_stop(server);
    } else if (err != -E_CANCELED) {
        fprintf(stderr, "metadata replica %u cannot start: %s\n", self->index, err_name(err));
        abort();
    }
}

static void store_program(void *arg)
{
    struct world_host *self = arg;
    const struct config *config = &self->world->config;
    char listen[64], host[32], rack[32], boot[32];
    snprintf(host, sizeof host, "s%u", self->index);
    snprintf(listen, sizeof listen, "tcp:%s:%u", host, WORLD_STORE_PORT);
    snprintf(boot, sizeof boot, "boot-%u", self->boots);
    snprintf(rack, sizeof rack, "rack-%u", self->index % 2 + 1);
    struct store_options options = {.dir = "/disk",
                                    .auth = &config->auth,
                                    .listen = listen,
                                    .host = host,
                                    .rack = rack,
                                    .machine = host,
                                    .boot = boot,
                                    .node = self->index,
                                    .n_meta = config->n_meta,
                                    .meta = config->meta,
                                    .journal_bytes = MIB(8),
                                    .inventory_ms = INVENTORY_MS};
    struct store *store = NULL;
    const char *why = "";
    int err = store_open(fiber_io(), &options, &store, &why);
    while (err == -E_IO || err == -E_NOSPC) { /* a failing disk: whoever starts services tries again */
        if (io_sleep_ms(fiber_io(), RESTART_MS) != 0)
            return;
        err = store_open(fiber_io(), &options, &store, &why);
    }
    if (err == 0) {
        err = store_serve(store);
        self->service = store;
        if (err == 0)
            wait_for_the_end();
        self->service = NULL;
        store_stop(store);
    } else if (err != -E_CANCELED) {
        fprintf(stderr, "store %u cannot start: %s: %s\n", self->index, err_name(err), why);
        abort();
    }
}

static void host_start(struct world_host *self)
{
    if (self->kind == WORLD_IS_CLIENT) {
        self->world->hooks.client(self);
        return;
    }
    bool meta = self->kind == WORLD_IS_META;
    int err = fiber_spawn(sim_host_io(self->host), meta ? "metad" : "stored", meta ? meta_program : store_program, self);
    CHECK(err == 0);
}

/* ---- life */

static struct sim_options weather(bool stormy)
{
    struct sim_options options = {.clock_skew_ms = 3000};
    if (stormy) {
        options.loss_ppm = 60;
        options.reset_ppm = 60;
        options.net_slow_ppm = 500;
        options.reset_after_ms = 3000;
    }
    return options;
}

static void hosts_create(struct world *world, enum world_kind kind, struct world_host *hosts, unsigned n, char letter)
{
    for (unsigned i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "%c%u", letter, i + 1);
        if (kind == WORLD_IS_META)
            snprintf(world->config.meta[i], sizeof world->config.meta[i], "tcp:%s:%u", name, META_PORT);
        hosts[i] = (struct world_host){.world = world, .host = sim_host_create(world->sim, name), .kind = kind, .index = i + 1};
    }
    for (unsigned i = 0; i < n; i++)
        host_start(&hosts[i]);
}

void world_create(struct world *world, uint64_t seed, bool stormy, unsigned n_stores, const struct world_hooks *hooks)
{
    CHECK(n_stores >= 1 && n_stores <= WORLD_STORES_MAX);
    *world = (struct world){.hooks = *hooks, .n_stores = n_stores};
    struct sim_options options = weather(stormy);
    world->sim = sim_create(seed, &options);
    world->config.auth.cluster_id = 7;
    memset(world->config.auth.key, 7, sizeof world->config.auth.key);
    world->config.n_meta = WORLD_META;
    hosts_create(world, WORLD_IS_META, world->metas, WORLD_META, 'm');
    hosts_create(world, WORLD_IS_STORE, world->stores, world->n_stores, 's');
    hosts_create(world, WORLD_IS_CLIENT, world->clients, WORLD_CLIENTS, 'c');
}

void world_destroy(struct world *world)
{
    sim_destroy(world->sim);
}

/* ---- faults */

static unsigned down(const struct world_host *hosts, unsigned n)
{
    unsigned count = 0;
    for (unsigned i = 0; i < n; i++)
        count += hosts[i].back_at_ns != 0;
    return count;
}

static uint64_t draw(struct world *world, uint64_t bound)
{
    return sim_random_u64(world->sim) % bound;
}

static void crashed(struct world *world, struct world_host *victim, bool power)
{
    world->crashes++;
    world->power_losses += power;
    victim->boots += power;
    victim->tainted |= power;
    victim->back_at_ns = sim_now_ns(world->sim) + draw(world, DOWN_MS_MAX) * 1000000 + 1;
    if (victim->kind == WORLD_IS_CLIENT)
        world->hooks.client_crashed(victim);
    world_excuse(world);
}

static void crash(struct world *world, struct world_host *victim, bool power)
{
    if (victim->back_at_ns != 0)
        return;
    sim_host_crash(victim->host, power);
    crashed(world, victim, power);
}

void world_kill(struct world *world, struct world_host *victim)
{
    crash(world, victim, false);
}

static bool power_or_not(struct world *world)
{
    return draw(world, 2) == 0;
}

static struct sim_host *any_host(struct world *world)
{
    uint64_t i = draw(world, WORLD_META + world->n_stores + WORLD_CLIENTS);
    if (i < WORLD_META)
        return world->metas[i].host;
    i -= WORLD_META;
    return i < world->n_stores ? world->stores[i].host : world->clients[i - world->n_stores].host;
}

static struct sim_host *leader(struct world *world)
{
    for (unsigned i = 0; i < WORLD_META; i++)
        if (world->metas[i].service != NULL && replica_leads(server_replica(world->metas[i].service)))
            return world->metas[i].host;
    return NULL;
}

static void partition(struct world *world)
{
    struct sim_host *a = any_host(world), *b = any_host(world), *leads = leader(world);
    world->partitions++;
    if (leads != NULL && draw(world, 3) == 0)
        sim_isolate(a = leads, true);
    else if (a == b)
        sim_isolate(a, true);
    else if (draw(world, 2) == 0)
        sim_partition(a, b, true);
    else
        sim_cut(a, b, true);
    uint64_t end = sim_now_ns(world->sim) + draw(world, PARTITION_MS_MAX) * 1000000;
    while (sim_now_ns(world->sim) < end && sim_run(world->sim, 200, NULL, NULL) != SIM_IDLE)
        world_excuse(world);
    sim_isolate(a, false);
    sim_partition(a, b, false);
}

/* Some operations fail, or the disk takes no more for a while. A store whose journal fails serves nothing
 * until it is started again: it is stopped soon after. */
static void disk_fault(struct world *world)
{
    struct world_host *victim = &world->stores[draw(world, world->n_stores)];
    if (victim->back_at_ns != 0 || down(world->stores, world->n_stores) >= 2)
        return;
    world->disk_faults++;
    if (draw(world, 2) == 0)
        sim_disk_fail(victim->host, 1 + draw(world, 20), 1 + draw(world, 3), -E_IO);
    else
        sim_disk_limit(victim->host, sim_disk_used(victim->host) + MIB(64));
    sim_run(world->sim, draw(world, 2000), NULL, NULL);
    sim_disk_fail(victim->host, 0, 0, 0);
    sim_disk_limit(victim->host, GIB(1024));
    crash(world, victim, false);
    victim->tainted = true; /* what a failed sync gave up */
    world_excuse(world);
}

static void all_lose_power(struct world *world)
{
    for (unsigned i = 0; i < world->n_stores; i++)
        crash(world, &world->stores[i], true);
}

/* One replica loses its directory, while the others have theirs and are not newcomers themselves. */
static void lose_directory(struct world *world)
{
    for (unsigned i = 0; i < WORLD_META; i++)
        if (world->metas[i].service == NULL || server_replica(world->metas[i].service)->newcomer)
            return;
    struct world_host *victim = &world->metas[draw(world, WORLD_META)];
    crash(world, victim, false);
    victim->wiped = true;
    world->wipes++;
}

void world_fault(struct world *world)
{
    switch (draw(world, world->quiet ? 18 : 12)) {
    case 0: /* a minority of the replicas: the rest goes on */
    case 1:
    case 2:
        if (draw(world, 8) == 0)
            lose_directory(world);
        else if (down(world->metas, WORLD_META) == 0)
            crash(world, &world->metas[draw(world, WORLD_META)], power_or_not(world));
        break;
    case 3: /* at most two stores: one copy of three is left, and the two come back with theirs */
    case 4:
    case 5:
        if (down(world->stores, world->n_stores) < 2)
            crash(world, &world->stores[draw(world, world->n_stores)], power_or_not(world));
        break;
    case 6:
    case 7:
    case 8:
        partition(world);
        break;
    case 9:
        crash(world, &world->clients[draw(world, WORLD_CLIENTS)], power_or_not(world));
        break;
    case 10:
        disk_fault(world);
        break;
    default: /* what was acknowledged (of the stores: as synced) is on the disks */
        if (world->quiet || draw(world, 3) == 0)
            all_lose_power(world);
        else if (draw(world, 2) == 0)
            for (unsigned i = 0; i < WORLD_META; i++)
                crash(world, &world->metas[i], power_or_not(world));
    }
}

/* ---- faults in the middle of what stores do by themselves */

static bool is_down(void *arg)
{
    return !sim_host_up(arg);
}

/* At one of its next writes. */
static void crash_at_write(struct world *world, struct world_host *victim)
{
    bool power = power_or_not(world);
    sim_disk_crash_at(victim->host, 1 + draw(world, 1 + draw(world, 300)), power);
    if (sim_run(world->sim, 2000, is_down, victim->host) == SIM_DONE) {
        world->write_crashes++;
        crashed(world, victim, power);
        sim_run(world->sim, 1, NULL, NULL); /* its fibers unwind */
    } else {
        sim_disk_crash_at(victim->host, 0, false);
    }
}

/* Longer than a node counts as expected back: what it has is made anew on others, and it comes back with the old. */
static void stay_away(struct world *world, struct world_host *victim)
{
    uint64_t now = sim_now_ns(world->sim);
    for (unsigned i = 0; i < world->n_stores; i++)
        if (world->stores[i].back_at_ns > now + DOWN_MS_MAX * 1000000ull)
            return;
    crash(world, victim, power_or_not(world));
    world->absences++;
    victim->back_at_ns = now + AWAY_MS * 1000000ull + draw(world, AWAY_MS) * 1000000;
}

/* SIGSTOP, or a disk that takes long for everything. */
static void stall(struct world *world, struct world_host *victim)
{
    bool stop = draw(world, 2) == 0;
    if (stop)
        sim_host_pause(victim->host, true);
    else
        sim_disk_slow(victim->host, 5u << draw(world, 7));
    uint64_t end = sim_now_ns(world->sim) + draw(world, STALL_MS_MAX) * 1000000;
    while (sim_now_ns(world->sim) < end && sim_run(world->sim, 200, NULL, NULL) != SIM_IDLE)
        world_excuse(world);
    sim_host_pause(victim->host, false);
    sim_disk_slow(victim->host, 1);
}

void world_store_fault(struct world *world)
{
    struct world_host *victim = &world->stores[draw(world, world->n_stores)];
    if (victim->back_at_ns != 0 || down(world->stores, world->n_stores) >= 3)
        return;
    switch (draw(world, 8)) {
    case 0:
        stay_away(world, victim);
        break;
    case 1:
    case 2:
        stall(world, victim);
        break;
    default:
        crash_at_write(world, victim);
    }
}

static void mend(struct world_host *host, bool now)
{
    if (host->back_at_ns == 0 || (!now && sim_now_ns(host->world->sim) < host->back_at_ns))
        return;
    host->back_at_ns = 0;
    sim_host_restart(host->host);
    host_start(host);
}

void world_mend(struct world *world, bool all)
{
    for (unsigned i = 0; i < WORLD_META; i++)
        mend(&world->metas[i], all);
    for (unsigned i = 0; i < world->n_stores; i++)
        mend(&world->stores[i], all);
    for (unsigned i = 0; i < WORLD_CLIENTS; i++)
        mend(&world->clients[i], all);
}

void world_calm(struct world *world)
{
    world_mend(world, true);
    struct sim_options calm = weather(false);
    sim_set_options(world->sim, &calm);
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

bool world_replicas_equal(struct world *world, const char **ret_why)
{
    uint32_t digest[WORLD_META];
    uint64_t applied[WORLD_META];
    for (unsigned i = 0; i < WORLD_META; i++) {
        if (world->metas[i].service == NULL) {
            *ret_why = "a replica does not run";
            return false;
        }
        digest[i] = tables_digest(server_replica(world->metas[i].service), &applied[i]);
    }
    for (unsigned i = 1; i < WORLD_META; i++) {
        if (applied[i] != applied[0]) {
            *ret_why = "a replica lags behind";
            return false;
        }
        if (digest[i] != digest[0]) {
            *ret_why = "tables at the same index differ";
            return false;
        }
    }
    return true;
}

struct kv *world_tables(struct world *world)
{
    struct replica *newest = NULL;
    for (unsigned i = 0; i < WORLD_META; i++) {
        if (world->metas[i].service == NULL)
            return NULL; /* the newest may be among those that are down */
        struct replica *replica = server_replica(world->metas[i].service);
        if (newest == NULL || replica_applied(replica) > replica_applied(newest))
            newest = replica;
    }
    return newest->kv;
}

/* ---- what may be lost */

void world_excuse(struct world *world)
{
    bool tainted[WORLD_STORES_MAX] = {false}, good[WORLD_STORES_MAX] = {false}, any = false;
    for (unsigned i = 0; i < world->n_stores; i++) {
        struct world_host *host = &world->stores[i];
        const struct store *store = host->service;
        if (store != NULL && host->back_at_ns == 0 && !store->volumes[0]->suspect)
            host->tainted = false;
        tainted[i] = host->tainted;
        good[i] = host->back_at_ns == 0 && store != NULL && !host->tainted;
        any |= tainted[i];
    }
    struct kv *kv = any ? world_tables(world) : NULL;
    if (kv != NULL)
        oracle_excuse(kv, tainted, good, world->hooks.excuse, world->hooks.arg);
    else if (any)
        world->hooks.excuse(world->hooks.arg, 0);
}
