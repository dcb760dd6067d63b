/* A simulated cluster: metadata replicas, stores and clients, the production code on the simulated io,
 * in one process under one seed. The fault model is that of common/io_sim.h; which faults come, and what they
 * may cost, is in README.md. */
#ifndef TARN_TESTS_SIM_WORLD_H
#define TARN_TESTS_SIM_WORLD_H

#include "client/file.h"
#include "client/object.h"
#include "common/config.h"
#include "common/fiber.h"
#include "common/io_sim.h"

#define WORLD_META 3
#define WORLD_STORE_PORT 7100
#define WORLD_STORES 5     /* of a cluster with copies */
#define WORLD_STORES_MAX 8 /* of one that codes 4+2: two places more than a group has shards */
#define WORLD_CLIENTS 2
#define WORLD_WORKERS 3 /* fibers a client works with */

struct kv;
struct world;
enum world_kind { WORLD_IS_META, WORLD_IS_STORE, WORLD_IS_CLIENT };
struct world_host {
    struct world *world;
    struct sim_host *host;
    enum world_kind kind;
    unsigned index;      /* 1 … within its kind */
    void *service;       /* the running struct server or struct store, NULL while it is down */
    uint64_t back_at_ns; /* when it comes back; 0 = it is up */
    unsigned boots;      /* losses of power so far */
    bool wiped;          /* a replica: its next start finds an empty directory */
    bool tainted;        /* a store lost power and the cluster has not yet decided what of it counts */
};
struct world_hooks {
    void (*client)(struct world_host *host);         /* starts a client's program */
    void (*client_crashed)(struct world_host *host); /* its fibers have unwound */
    /* Not synced bytes of the file may be lost: no member is left that has not lost power. */
    void (*excuse)(void *arg, uint64_t ino);
    void *arg;
};
struct world {
    struct sim *sim;
    struct config config;
    struct world_hooks hooks;
    unsigned n_stores;
    struct world_host metas[WORLD_META], stores[WORLD_STORES_MAX], clients[WORLD_CLIENTS];
    bool quiet; /* the workers rest between operations: more losses of power, which then find more that is not synced */
    unsigned crashes, power_losses, partitions, disk_faults, wipes, write_crashes, absences;
};

/* All hosts up and their programs starting. stormy: the network loses and resets. */
void world_create(struct world *world, uint64_t seed, bool stormy, unsigned n_stores, const struct world_hooks *hooks);
void world_destroy(struct world *world);
/* kill -9 of one host; world_mend() brings it back. */
void world_kill(struct world *world, struct world_host *victim);
/* One fault, drawn by the seed; never so many that the cluster could not serve at all for good: everything
 * comes back. */
void world_fault(struct world *world);
/* One more, of a store: at one of its writes, so long that it is given up, or it stands still. */
void world_store_fault(struct world *world);
/* Calls hooks.excuse for what the present state of the hosts may cost. */
void world_excuse(struct world *world);
/* Brings back what is due; with `all` everything. */
void world_mend(struct world *world, bool all);
void world_calm(struct world *world); /* everything back, and the network loses nothing any more */
/* True when all replicas have applied the same and their tables are equal byte for byte; *ret_why says
 * what differs. Only with all hosts up. */
/* Tables that no other running replica has newer ones than; NULL when a replica is down, it may have. */
struct kv *world_tables(struct world *world);
bool world_replicas_equal(struct world *world, const char **ret_why);

#endif
