/* What is to be done for one chunk, and which disk gives up chunks to balance the fill. Pure: the
 * chunk, the disks and a generator in, a decision out; heal.c carries it out in the tables. Rules H1-H8
 * in docs/invariants.md. Threads: none of its own. */
#ifndef TARN_METADATA_HEAL_PLAN_H
#define TARN_METADATA_HEAL_PLAN_H

#include "placement.h"

struct heal_replica {
    uint32_t disk;
    bool ready, sealed; /* sealed: verified, its length and digest are known */
    bool copying, leaving;
    bool damaged; /* has bytes that others may need; neither ready nor a place for another copy */
};
struct heal_chunk {
    unsigned want;
    enum domain domain;
    uint64_t affinity;
    unsigned n;
    struct heal_replica replicas[PLACEMENT_COPIES_MAX];
    /* Of a shard: the live disks of the others of its group; no copy goes to one of their nodes (with DOMAIN_DISK:
     * disks). */
    bool coded;
    bool can_build; /* enough of them are live to compute it */
    unsigned n_apart;
    uint32_t apart[PLACEMENT_MEMBERS_MAX];
};
/* Everything that is to change now; all zero = nothing. */
struct heal_decision {
    bool wait;     /* it lacks copies, but a node that has one is expected back */
    bool stuck;    /* it lacks copies, and there is no source or no place for them now */
    uint16_t drop; /* bit i: replicas[i] leaves */
    unsigned n_add;
    size_t targets[PLACEMENT_COPIES_MAX]; /* indices of disks */
    size_t sources[PLACEMENT_COPIES_MAX]; /* SIZE_MAX: it is computed from the others of its group */
};
/* `improve`: also make a copy in another domain when too few domains have one. */
void heal_decide(const struct heal_chunk *chunk, const struct placement_map *map, bool improve,
                 struct prng *prng, struct heal_decision *ret);

/* Balancing begins when a disk is 5 points off the average and goes on until all are within 2 points:
 * in between, nothing goes to and fro. */
#define BALANCE_START 50000
#define BALANCE_STOP 20000
/* Is there a disk that is off by more than `points`? */
bool heal_unbalanced(const struct placement_map *map, uint32_t points);
/* The fullest disk that may give and is above the average by more than BALANCE_STOP / 2; or, when none
 * is, above the average while another is far below; SIZE_MAX = none. */
size_t heal_balance_source(const struct placement_map *map);
/* Where the chunk's copy on `source` (index of a disk) moves; SIZE_MAX = this chunk stays. A move never
 * makes domains fewer, and ends on a disk that is emptier than the source even afterwards. */
size_t heal_balance_target(const struct heal_chunk *chunk, const struct placement_map *map, size_t source,
                           struct prng *prng);

#endif
