/* What the metadata service's tables say about chunks, beside what the stores hold. oracle_meta.c reads the
 * tables, oracle_store.c the stores' indexes: each knows one side's records only. */
#ifndef TARN_TESTS_SIM_ORACLE_H
#define TARN_TESTS_SIM_ORACLE_H

#include "world.h"

struct kv;
/* A complete copy that the tables count on. */
struct oracle_copy {
    uint64_t chunk, length;
    uint32_t disk, digest;
};
struct oracle_copies {
    struct oracle_copy *items; /* owned */
    size_t n, cap;
};

/* True when the tables are at rest: every chunk sealed, owned by an extent, with as many complete copies as it
 * wants; no task, session, lock, upload, or file without a name left. Else *ret_why says what is not. */
bool oracle_tables(struct kv *kv, struct oracle_copies *ret, const char **ret_why);
uint64_t oracle_groups(struct kv *kv); /* parity groups that were ever begun */
/* True when the counts of redundancy that are reported are those of these copies, all of which are whole on their disks. */
bool oracle_levels(struct kv *kv, const struct oracle_copies *copies, const char **ret_why);
/* True when each coded group's parity is that of its data, computed here from what is on the disks. */
bool oracle_parity(struct world *world, struct kv *kv, const struct oracle_copies *copies, const char **ret_why);
/* What the disk's copy of the chunk says, zeros behind its end. False: it is not there. */
bool oracle_bytes(struct world *world, uint32_t disk, uint64_t chunk, uint8_t *buf, size_t n);
struct oracle_census {
    uint64_t coded, containers, compressed; /* groups; chunks that hold pieces; pieces that are compressed */
};
struct oracle_census oracle_census(struct kv *kv);

/* Copies of which `tolerance` may be damaged at a time without a loss: those of one chunk, or all of a parity group's. */
#define ORACLE_STRIPE_MAX 64
struct oracle_stripe {
    unsigned tolerance; /* 0: this copy may not be harmed now */
    unsigned n;
    uint64_t chunks[ORACLE_STRIPE_MAX];
};
/* What the copy of `chunk` on `disk` is part of. 0 also while anything of it is away, damaged or in doubt already. */
void oracle_stripe(struct kv *kv, uint64_t chunk, uint32_t disk, struct oracle_stripe *ret);
/* True when the stores hold these copies, every cell of them as its checksum says, and nothing else. *ret_why is static text, made for this call. */
bool oracle_stores(struct world *world, const struct oracle_copies *copies, const char **ret_why);
/* Calls excuse(arg, ino) for each file of which not synced bytes may be lost: a chunk that is not yet
 * sealed on a disk, with a ready copy on a tainted store and none on a good one (by id - 1). */
void oracle_excuse(struct kv *kv, const bool tainted[WORLD_STORES_MAX], const bool good[WORLD_STORES_MAX],
                   void (*excuse)(void *arg, uint64_t ino), void *arg);

#endif
