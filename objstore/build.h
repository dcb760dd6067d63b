/* BUILD: a shard of a parity group is computed from k others: when a group is coded, and when a shard was lost. Windows of
 * 1 MiB of the sources are read at the same time, own chunks from the own disk; every byte is compared with a checksum. Which k
 * are read is decided anew whenever one of them fails, is not of the generation and length that was told, or does not
 * answer: byte n of the shard depends on bytes n of the sources only, so windows may come from different ones.
 * Memory: k + 1 windows. Threads: the io's, from fibers. */
#ifndef TARN_OBJSTORE_BUILD_H
#define TARN_OBJSTORE_BUILD_H

#include "background.h"
#include "meta.pb-c.h"

/* Makes shard task->shard of a group of k + m as the sealed chunk task->chunk of task->length bytes: whole on the disk
 * and read back from there. One that is here already, of that generation and length and right on the disk, stays. *ret_length
 * and *ret_digest of the result. Errors: -E_INVAL the task makes no sense; -E_UNAVAIL (or what the last source said) fewer
 * than k sources can be read; -E_CORRUPT the disk does not give back what was written; -E_NOSPC, -E_BUSY, -E_IO, -E_CANCELED. After a failure
 * nothing of it is left here. */
int build_shard(struct background *background, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest);

/* Some bytes of a shard that is here, for a repair: nothing is written. `task` must live until the end. Errors: -E_INVAL,
 * -E_NOMEM, -E_BUSY no windows left now. */
struct build;
int build_ranges_begin(struct background *background, const Tarn__ChunkTask *task, struct build **ret);
/* [at, at + n) of the shard task->shard, within a window and from a cell's border. A source that is damaged there is asked again for
 * other ranges. Nobody has compared the result with anything yet: sources may be of another time. Errors: -E_CORRUPT all other
 * shards answered, and fewer than k have their part; -E_UNAVAIL others might; -E_CANCELED. */
int build_range(struct build *b, uint64_t at, size_t n, uint8_t *buf);
void build_ranges_end(struct build *b); /* NULL allowed; frees */

#endif
