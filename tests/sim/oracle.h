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
/* True when the stores hold these copies, and nothing else. *ret_why is static text, made for this call. */
bool oracle_stores(struct world *world, const struct oracle_copies *copies, const char **ret_why);
/* Calls excuse(arg, ino) for each file of which not synced bytes may be lost: a chunk that is not yet
 * sealed on a disk, with a ready copy on a tainted store and none on a good one (by id - 1). */
void oracle_excuse(struct kv *kv, const bool tainted[WORLD_STORES], const bool good[WORLD_STORES],
                   void (*excuse)(void *arg, uint64_t ino), void *arg);

#endif
