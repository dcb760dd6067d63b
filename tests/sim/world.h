/* A simulated cluster: metadata replicas, stores and clients, the production code on the simulated io,
 * in one process under one seed. The fault model is that of common/io_sim.h; here is which faults come when. */
#ifndef TARN_TESTS_SIM_WORLD_H
#define TARN_TESTS_SIM_WORLD_H

#include "client/file.h"
#include "client/object.h"
#include "common/config.h"
#include "common/fiber.h"
#include "common/io_sim.h"

#define WORLD_META 3
#define WORLD_STORES 5
#define WORLD_CLIENTS 2
#define WORLD_WORKERS 3 /* fibers a client works with */

struct world;
struct world_host {
    struct world *world;
    struct sim_host *host;
    unsigned index; /* 1 … */
    bool meta;
    void *service;  /* the running struct server or struct store, NULL while it is down */
    uint64_t back_at_ns; /* when it comes back; 0 = it is up */
    unsigned boots;      /* losses of power so far */
};
struct world {
    struct sim *sim;
    struct config config;
    struct world_host metas[WORLD_META], stores[WORLD_STORES];
    struct sim_host *clients[WORLD_CLIENTS];
    unsigned crashes, power_losses, partitions;
};

/* All hosts up and their programs starting. power: crashes may be power losses. */
void world_create(struct world *world, uint64_t seed, bool stormy);
void world_destroy(struct world *world);
/* One fault, drawn by the seed: a crash, a power loss, a partition; never so many that the cluster
 * could not serve at all for good (everything comes back). */
void world_fault(struct world *world);
/* Brings back what is due; with `all` everything, and calms network and disks. */
void world_mend(struct world *world, bool all);
/* True when all replicas have applied the same and their tables are equal byte for byte; *ret_why says
 * what differs. Only with all hosts up. */
bool world_replicas_equal(struct world *world, const char **ret_why);

#endif
