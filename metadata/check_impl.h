/* What the rooms of the checker share (check*.c only). A room is one file with one function in the table of
 * check.c: it visits the tables it owns, looks up what their rows refer to, and names each violation. A row that
 * another room owns is only looked up. To add a table: its letter into the room's row, its visit into its file. */
#ifndef TARN_METADATA_CHECK_IMPL_H
#define TARN_METADATA_CHECK_IMPL_H

#include "check.h"
#include "common/coll.h"
#include "common/err.h"
#include "record.h"

struct check {
    struct kv_txn *txn;
    struct state state; /* the counters row */
    check_report report;
    void *arg;
    struct check_summary *summary;
};

/* Rows of a table in the order of keys, without whiteouts. Rows of inodes in clones are only what differs from
 * their bases: rooms do not expect the rest. A non-zero return ends the visit and is returned. */
typedef int (*check_visit)(struct check *check, const struct key *key, struct kv_val value, void *arg);
int check_each(struct check *check, enum table table, check_visit visit, void *arg);
/* The same for the rows whose key begins with `prefix`. */
int check_below(struct check *check, const struct key *prefix, check_visit visit, void *arg);
/* True with the value when the row is there. A table that cannot be read counts as empty here; the visits
 * of the same run tell. */
bool check_get(struct check *check, const struct key *key, struct kv_val *ret);
bool check_has(struct check *check, const struct key *key);
/* Is there such an inode? Of snapshots and clones that is not asked: their rows may be their bases'. */
bool check_has_inode(struct check *check, uint64_t ino);
bool check_any(struct check *check, const struct key *prefix); /* is there a row with this beginning */
void check_violation(struct check *check, const char *rule, const char *fmt, ...) _printf_(3, 4);
/* "the row … cannot be decoded", rule F1 */
void check_undecodable(struct check *check, const struct key *key, const char *what);
/* When the counter differs from what was counted. */
void check_counter(struct check *check, const char *rule, const char *what, uint64_t counter, uint64_t counted);

/* A sum that does not depend on the order: two sets of numbers that differ have different sums (but for one
 * chance in 2^64). */
uint64_t check_mix(uint64_t number);

/* ---- the rooms; 0 or a negative code as check_tables() ---- */
int check_room_tree(struct check *check);    /* check_tree.c: inodes, entries, extended attributes, orphans, garbage */
int check_room_links(struct check *check);   /* check_link.c: from an inode up to its names */
int check_room_quotas(struct check *check);  /* check_quota.c: quotas, flags of access control lists */
int check_room_chunks(struct check *check);  /* check_chunk.c: extents, chunks, where they are, what is due for them */
int check_room_damage(struct check *check);  /* check_damage.c: damaged copies */
int check_room_disks(struct check *check);   /* check_disk.c: disks, what is counted for them, policies */
int check_room_groups(struct check *check);  /* check_group.c: parity groups, what waits to be coded */
int check_room_sessions(struct check *check);/* check_session.c: sessions, handles, kept replies, uploads, roles */
int check_room_locks(struct check *check);   /* check_lock.c */
int check_room_leases(struct check *check);  /* check_lease.c: exclusive leases, what is asked back */
int check_room_cluster(struct check *check); /* check_cluster.c: nodes, users, jobs and tasks */
int check_room_views(struct check *check);   /* check_view.c: snapshots, clones, history; who refers to a chunk */

int check_room_pieces(struct check *check);  /* check_piece.c: pieces of containers, what is being packed */

#endif
