/* Snapshots and clones of directories: taken in O(1), given back in bounded steps. How rows keep
 * history and clones show their base is in view.h. Invariants K1-K8 in docs/invariants.md; reasons:
 * docs/decisions/snapshots.md. Threads: the transaction's. */
#ifndef TARN_METADATA_SNAPSHOT_TREE_H
#define TARN_METADATA_SNAPSHOT_TREE_H

#include "record_view.h"
#include "tables.h"

/* Background work: rows of removed snapshots, numbers of clones that nothing names. A step looks at
 * a bounded number of rows. */
int snapshot_step(struct tables *t);
bool snapshot_work_due(struct tables *t);

/* Are stores that are up still to carry out seals for snapshots, of tasks given out before that one? */
int snapshot_seals_due(struct kv_txn *txn, uint64_t before, bool *ret_due);

int snapshot_put(struct tables *t, const struct tree_snapshot *snapshot);
/* A clone less (-1) or more (1) rests on it; the last one takes a hidden snapshot with it. */
int snapshot_rests(struct tables *t, uint32_t id, int step);
int snapshot_dying(struct tables *t, struct tree_snapshot *snapshot);
/* A number that no row of the room is stored under, searched from the last one given on. -E_BUSY
 * when all are in use. */
int snapshot_free_id(struct tables *t, enum snapshot_room room, uint64_t max, uint64_t *last,
                     uint32_t *ret);

/* The directory of a request and, with `ret`, its snapshot of that name. -E_PERM when the asker does
 * not own it, -E_ROFS, -E_NOENT. */
int snapshot_of(struct tables *t, const Tarn__Where *where, const char *name, struct inode *ret_dir,
                struct tree_snapshot *ret);

/* snapshot_clone.c. */
/* An entry outside the clone, or a live snapshot of a directory in it, names it once more (1) or
 * less (-1). Clone 0 is the plain tree: nothing is counted. */
int clone_named(struct tables *t, uint32_t clone, int step);
/* The same for a history row. The clone itself may be gone: a dying snapshot's row can outlive it. */
int clone_named_in(struct tables *t, uint32_t clone, uint64_t epoch, int step);
/* The member of the clone's family for clone number `base` in the base; made when there is none. */
int clone_member_make(struct tables *t, const struct clone *clone, uint32_t base, uint32_t *ret);
int clone_step(struct tables *t, unsigned rows_max);
bool clone_work_due(struct tables *t);

/* snapshot_reach.c: which clones and hidden snapshots can still be seen (K7). They refer to each other
 * in rings (a clone rests on a snapshot whose history names a clone …), so this is found out from the
 * live names on, when a clone has lost its last one. */
struct reach;
int reach_find(struct tables *t, struct reach **ret); /* reach_free() */
void reach_free(struct reach **reach);
bool reach_sees(const struct reach *reach, uint32_t family);
/* The members of a family in order: *at begins as 0. False behind the last. */
bool reach_member(const struct reach *reach, uint32_t family, uint32_t *at, uint32_t *ret_base);
bool reach_named(const struct reach *reach, uint32_t family); /* by a live name */
struct key clone_rows(enum table table, uint32_t clone); /* what rows of its inodes begin with */

/* view_change.c. */
struct history;
int history_put(struct tables *t, const struct key *key, uint64_t epoch,
                const struct history *history);
int history_remove(struct tables *t, const struct key *key, uint64_t epoch);
/* What the row refers to is taken (1) or given back (-1). */
int history_refer(struct tables *t, const struct key *key, uint64_t epoch,
                  const struct history *history, int step);

int snapshot_cmd_take(struct tables *t, const void *message);
int snapshot_cmd_drop(struct tables *t, const void *message);
int snapshot_query_list(struct tables *t, const void *message);
int clone_cmd_make(struct tables *t, const void *message);
int clone_cmd_slot(struct tables *t, const void *message);

#endif
