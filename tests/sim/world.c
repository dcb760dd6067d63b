#include "world.h"

#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "metadata/replica_impl.h"
#include "metadata/server.h"
#include "objstore/store.h"

#include <stdio.h>

#define META_PORT 7000
#define STORE_PORT 7100
#define SNAPSHOT_ENTRIES 300 /* small, so that snapshots and their transfer happen in every run */
#define DOWN_MS_MAX 8000
#define PARTITION_MS_MAX 4000

/* ---- the programs of the hosts: what metad.c and stored.c do, less the command line */

/* Both end when their host crashes: the wait returns -E_CANCELED. */
static void wait_for_the_end(void)
{
    struct fiber_queue never = {0};
    while (fiber_queue_wait(&never, 0) == 0)
        continue;
}

static void meta_program(void *arg)
{
    struct world_host *self = arg;
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
    snprintf(listen, sizeof listen, "tcp:%s:%u", host, STORE_PORT);
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
                                    .journal_bytes = MIB(8)};
    struct store *store = NULL;
    const char *why = "";
    int err = store_open(fiber_io(), &options, &store, &why);
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
    int err = fiber_spawn(sim_host_io(self->host), self->meta ? "metad" : "stored", self->meta ? meta_program : store_program,
                          self);
    CHECK(err == 0);
}

/* ---- life */

static struct sim_options weather(bool stormy)
{
    struct sim_options options = {.clock_skew_ms = 200};
    if (stormy) {
        options.loss_ppm = 60;
        options.reset_ppm = 60;
        options.net_slow_ppm = 500;
        options.reset_after_ms = 3000;
    }
    return options;
}

void world_create(struct world *world, uint64_t seed, bool stormy)
{
    *world = (struct world){0};
    struct sim_options options = weather(stormy);
    world->sim = sim_create(seed, &options);
    world->config.auth.cluster_id = 7;
    memset(world->config.auth.key, 7, sizeof world->config.auth.key);
    world->config.n_meta = WORLD_META;
    char name[32];
    for (unsigned i = 0; i < WORLD_META; i++) {
        snprintf(name, sizeof name, "m%u", i + 1);
        snprintf(world->config.meta[i], sizeof world->config.meta[i], "tcp:%s:%u", name, META_PORT);
        world->metas[i] = (struct world_host){.world = world, .host = sim_host_create(world->sim, name), .index = i + 1, .meta = true};
        host_start(&world->metas[i]);
    }
    for (unsigned i = 0; i < WORLD_STORES; i++) {
        snprintf(name, sizeof name, "s%u", i + 1);
        world->stores[i] = (struct world_host){.world = world, .host = sim_host_create(world->sim, name), .index = i + 1};
        host_start(&world->stores[i]);
    }
    for (unsigned i = 0; i < WORLD_CLIENTS; i++) {
        snprintf(name, sizeof name, "c%u", i + 1);
        world->clients[i] = sim_host_create(world->sim, name);
    }
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

static void crash(struct world *world, struct world_host *victim)
{
    bool power = draw(world, 2) == 0;
    if (victim->back_at_ns != 0)
        return;
    world->crashes++;
    world->power_losses += power;
    victim->boots += power;
    sim_host_crash(victim->host, power);
    victim->back_at_ns = sim_now_ns(world->sim) + draw(world, DOWN_MS_MAX) * 1000000 + 1;
}

static struct sim_host *any_host(struct world *world)
{
    uint64_t i = draw(world, WORLD_META + WORLD_STORES + WORLD_CLIENTS);
    if (i < WORLD_META)
        return world->metas[i].host;
    i -= WORLD_META;
    return i < WORLD_STORES ? world->stores[i].host : world->clients[i - WORLD_STORES];
}

static void partition(struct world *world)
{
    struct sim_host *a = any_host(world), *b = any_host(world);
    world->partitions++;
    if (a == b)
        sim_isolate(a, true);
    else if (draw(world, 2) == 0)
        sim_partition(a, b, true);
    else
        sim_cut(a, b, true);
    sim_run(world->sim, draw(world, PARTITION_MS_MAX), NULL, NULL);
    sim_isolate(a, false);
    sim_partition(a, b, false);
}

void world_fault(struct world *world)
{
    switch (draw(world, 4)) {
    case 0: /* a minority of the replicas: the rest goes on */
        if (down(world->metas, WORLD_META) == 0)
            crash(world, &world->metas[draw(world, WORLD_META)]);
        break;
    case 1: /* at most two stores: one copy of three is left, and the two come back with theirs */
        if (down(world->stores, WORLD_STORES) < 2)
            crash(world, &world->stores[draw(world, WORLD_STORES)]);
        break;
    case 2:
        partition(world);
        break;
    default: /* all replicas at once: what was acknowledged is on their disks */
        if (draw(world, 6) == 0)
            for (unsigned i = 0; i < WORLD_META; i++)
                crash(world, &world->metas[i]);
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
    for (unsigned i = 0; i < WORLD_STORES; i++)
        mend(&world->stores[i], all);
    if (all) {
        struct sim_options calm = weather(false);
        sim_set_options(world->sim, &calm);
    }
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
