/* The metadata service alone in the simulation: replicas on simulated disks with tables in memory, and clients, under one seed.
 * Much cheaper than world.h, so that thousands of seeds are run. Fault model: common/io_sim.h; which faults come is in README.md. */
#ifndef TARN_TESTS_SIM_META_WORLD_H
#define TARN_TESTS_SIM_META_WORLD_H

#include "common/config.h"
#include "common/fiber.h"
#include "common/io_sim.h"

#define META_WORLD_REPLICAS_MAX 5
#define META_WORLD_CLIENTS 3

struct meta_world;
struct meta_host {
    struct meta_world *world;
    struct sim_host *host;
    unsigned index; /* 1 … within its kind */
    bool client, wiped;
    void *server;        /* a replica's running struct server, NULL while it is down */
    uint64_t back_at_ns; /* when it comes back; 0 = it is up */
    uint64_t calm_at_ns; /* when its disk or its pause ends; 0 = nothing to end */
    bool ailing;         /* its disk has failed operations: a restart is due at calm_at_ns */
};
struct meta_faults {
    unsigned crashes, power_losses, disk_crashes, partitions, swizzles, pauses, clocks, disk_errors, disk_full, disk_slow, wipes;
};
struct meta_world {
    struct sim *sim;
    struct config config;
    unsigned n_replicas;
    struct meta_host replicas[META_WORLD_REPLICAS_MAX], clients[META_WORLD_CLIENTS];
    void (*client)(struct meta_host *host); /* starts a client's program */
    struct meta_faults faults;
    unsigned raft_repeat_percent; /* of messages between replicas that are sent twice, or not at all (a tenth of these) */
    unsigned election_ms;
    uint64_t snapshot_entries;
};

/* All hosts up and their programs starting. The seed decides the number of replicas (odd 3, even 5), the
 * weather of the network and the sizes. */
void meta_world_create(struct meta_world *world, uint64_t seed, void (*client)(struct meta_host *host));
void meta_world_destroy(struct meta_world *world);
/* One fault, drawn by the seed. Everything comes back. */
void meta_world_fault(struct meta_world *world);
void meta_world_mend(struct meta_world *world, bool all); /* ends what is due; all: everything */
void meta_world_calm(struct meta_world *world);           /* all of it ends, and the network is kind */
/* All replicas up, the same index applied, the tables equal byte for byte; *ret_why says what is not. */
bool meta_world_equal(struct meta_world *world, const char **ret_why);

#endif
