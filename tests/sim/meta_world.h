/* The metadata service alone in the simulation: replicas on simulated disks with tables in memory, and clients, under one seed.
 * Much cheaper than world.h, so that thousands of seeds are run. Fault model: common/io_sim.h; which faults come is in README.md. */
#ifndef TARN_TESTS_SIM_META_WORLD_H
#define TARN_TESTS_SIM_META_WORLD_H

#include "common/config.h"
#include "common/fiber.h"
#include "common/io_sim.h"

#define META_WORLD_REPLICAS_MAX 5
#define META_WORLD_CLIENTS 3

enum meta_part { META_IN, META_OUT, META_UNSURE }; /* of the service, as the operator knows; UNSURE: an answer is missing */
struct meta_world;
struct meta_host {
    struct meta_world *world;
    struct sim_host *host;
    unsigned index; /* 1 … within its kind */
    bool client, wiped;
    uint32_t id;         /* a replica's; another one when the machine gets a new replica */
    bool joins;          /* it is added to the service, not one of the first */
    bool spare;          /* no program runs, and none is to */
    bool removed;        /* its program has ended: it takes no part any more */
    enum meta_part part;
    bool member;         /* by the leader's word, at rest */
    void *server;        /* a replica's running struct server, NULL while it is down */
    uint64_t back_at_ns; /* when it comes back; 0 = it is up */
    uint64_t calm_at_ns; /* when its disk or its pause ends; 0 = nothing to end */
    bool ailing;         /* its disk has failed operations: a restart is due at calm_at_ns */
};
struct meta_faults {
    unsigned crashes, power_losses, disk_crashes, partitions, swizzles, pauses, clocks, disk_errors, disk_full, disk_slow, wipes;
    unsigned added, removed, transfers;
};
struct meta_world {
    struct sim *sim;
    struct config config;
    unsigned n_replicas, n_first; /* machines; those of the first configuration */
    struct sim_host *desk;        /* the operator's; no fault meets it but cut connections */
    bool operating, resting;      /* resting: the operator is to end */
    struct meta_host replicas[META_WORLD_REPLICAS_MAX], clients[META_WORLD_CLIENTS];
    void (*client)(struct meta_host *host); /* starts a client's program */
    struct meta_faults faults;
    unsigned raft_repeat_percent; /* of messages between replicas that are sent twice, or not at all (a tenth of these) */
    unsigned election_ms;
    uint64_t snapshot_entries;
};

/* All hosts up and their programs starting. The seed decides the number of replicas (odd 3, even 5), the
 * weather of the network and the sizes. spares: of three replicas, two machines more that wait (meta_world_operate()). */
void meta_world_create(struct meta_world *world, uint64_t seed, bool spares, void (*client)(struct meta_host *host));
void meta_world_destroy(struct meta_world *world);
/* One fault, drawn by the seed. Everything comes back. */
void meta_world_fault(struct meta_world *world);
void meta_world_mend(struct meta_world *world, bool all); /* ends what is due; all: everything */
void meta_world_calm(struct meta_world *world);           /* all of it ends, and the network is kind */
/* meta_member.c: who takes part changes, until `resting`; then `operating` becomes false. */
void meta_world_operate(struct meta_world *world);
/* The leader's configuration has exactly those in it that were added and not removed, and all vote; sets `member`. */
bool meta_world_members(struct meta_world *world, const char **ret_why);
struct meta_host *meta_world_leader(struct meta_world *world); /* NULL: nobody */
void meta_world_renew(struct meta_host *host); /* an empty machine, and a replica on it that waits to be added */
/* All replicas that take part up, the same index applied, the tables equal byte for byte; *ret_why says what is not. */
bool meta_world_equal(struct meta_world *world, const char **ret_why);

#endif
