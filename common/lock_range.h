/* Range locks of one file and kind, in memory: who holds what, who waits, who is next. Used by the metadata
 * service for all locks and by a client for those it was given to decide alone. Pure: no clock, no I/O.
 * Source: POSIX.1-2017 fcntl(), F_SETLK and F_SETLKW; flock(2); L1-L6 in docs/invariants.md. First come,
 * first served: a request waits behind a conflicting holder and behind a conflicting earlier waiter (so a
 * writer is not starved by readers). */
#ifndef TARN_COMMON_LOCK_RANGE_H
#define TARN_COMMON_LOCK_RANGE_H

#include "base.h"

/* Of one file: ranges held and, twice, those waited for. A grant puts at most two ranges more in place of one waiter, so it
 * never meets the bound; an unlock only does when it cuts a range in two. */
#define LOCK_RANGES_MAX 12000
#define LOCK_ROW_MAX 18000 /* 57 bytes each, in a row of at most 1 MiB; the version before counted waiters once */

enum lock_range_type { LOCK_RANGE_UN = 0, LOCK_RANGE_SH = 1, LOCK_RANGE_EX = 2 };

struct lock_owner {
    uint64_t session, owner;
};
struct lock_range {
    struct lock_owner owner;
    uint64_t start, end; /* both included */
    uint8_t type;        /* enum lock_range_type: SH or EX */
    uint32_t pid;
    uint64_t handle;
    uint64_t waiter; /* of the request that set it: the client's number, unique in the session; 0 =
                        did not wait */
};
struct lock_table {
    struct lock_range *held; /* by start, then owner; of one owner they never overlap (L2) */
    size_t n_held, cap_held;
    struct lock_range *waiters; /* in order of arrival */
    size_t n_waiters, cap_waiters;
};
void lock_table_fini(struct lock_table *table);

/* The first holder that conflicts, or NULL. */
const struct lock_range *lock_table_conflict(const struct lock_table *table,
                                             const struct lock_range *range);
/* True when an earlier waiter (index below `before`) conflicts. Whoever holds a part of the range
 * already (an upgrade) goes before those who wait for it: behind them it would wait for itself
 * (L4). */
bool lock_table_queued(const struct lock_table *table, const struct lock_range *range,
                       size_t before);
/* Puts the range for its owner in place of what it had there (LOCK_RANGE_UN removes), merging neighbours
 * of the same type. Upgrades and splits are atomic. -E_NOLCK LOCK_RANGES_MAX, -E_NOMEM; then nothing
 * changed. */
int lock_table_set(struct lock_table *table, const struct lock_range *range);
/* Puts a range that overlaps no other, without merging. -E_NOLCK, -E_NOMEM. */
int lock_table_insert(struct lock_table *table, const struct lock_range *range);
int lock_table_wait(struct lock_table *table,
                    const struct lock_range *waiter); /* -E_NOLCK -E_NOMEM */
/* Removes a waiter; false when it is not there. */
bool lock_table_unwait(struct lock_table *table, uint64_t session, uint64_t waiter);
/* Grants the first waiter that can go: sets its range, removes it, true. Call until false. */
int lock_table_grant(struct lock_table *table, struct lock_range *ret, bool *ret_granted);

/* Removes the ranges and waiters that match; *ret_removed counts. */
typedef bool (*lock_match)(const void *arg, const struct lock_range *range);
void lock_table_remove(struct lock_table *table, lock_match match, const void *arg,
                       size_t *ret_removed);

static inline bool lock_owner_same(const struct lock_owner *a, const struct lock_owner *b)
{
    return a->session == b->session && a->owner == b->owner;
}
/* True when the two cannot be held at the same time. */
bool lock_range_blocks(const struct lock_range *a, const struct lock_range *b);
/* True when the owner holds any part of the range, of whichever type. */
bool lock_table_has_part(const struct lock_table *table, const struct lock_range *range);
/* True when the owner holds the whole range with that type already. */
bool lock_table_holds(const struct lock_table *table, const struct lock_range *range);

#endif
