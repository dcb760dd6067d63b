/* Chunks that no replica gives, computed from the other shards of their parity group (common/ec.h): of any k of its k + m shards the
 * same range is read, verified by its checksums, and the missing one's range follows. Only the bytes asked for are read.
 *
 * All shards of one computation are those of one answer of the metadata service: a group has one generation at a time, so
 * shards of two are never mixed. What a group is made of is kept for a while, and asked for again when a store does not have
 * what it says. A store that lies with right checksums is not found out here, nor anywhere but at the next comparison of
 * whole chunks; one whose checksums do not match is as good as absent.
 * Threads: the io's, from fibers. Memory: GROUP_READS_MAX computations at a time, each k + 1 buffers of GROUP_STEP. */
#ifndef TARN_CLIENT_GROUP_H
#define TARN_CLIENT_GROUP_H

#include "store_internal.h"

#define GROUP_READS_MAX 16
#define GROUP_STEP KIB(256) /* 16 + 1 buffers are 4.25 MiB */
#define GROUPS_MAX 256      /* kept; an answer has up to 10 KiB */
#define GROUP_FRESH_MS 30000

struct groups; /* made at first use, in stores->groups */
void groups_destroy(struct groups *groups); /* NULL allowed */

/* [offset, offset + n) of `chunk`, which is a shard of `group`; behind its end are zeros. *ret_from: the farthest shard that was read.
 * stop: see store_stop; with one the requests are second ones and are paid for (store_hedge_pay).
 * Errors: -E_STALE the group is gone or the chunk is not in it any more, -E_UNAVAIL fewer than k shards answer, -E_CORRUPT the same and some are damaged there, -E_INTR, -E_BUSY
 * not paid, those of the metadata service. */
int group_read(struct stores *stores, uint64_t group, uint64_t chunk, uint64_t offset, uint8_t *buf, size_t n,
               struct store_stop *stop, enum store_from *ret_from);

#endif
