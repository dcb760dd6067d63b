/* Groups that are coded while an object is put: the service makes k data chunks and m for the parity, each with one member on
 * another node, and the writer fills all of them. Until the object's commit group and chunks belong to the upload and go with
 * it; the commit makes the group a coded one like any other. Rule G10 in docs/invariants.md, reasons in
 * docs/decisions/direct-coding.md. Threads: the transaction's. */
#ifndef TARN_METADATA_UPLOAD_GROUP_H
#define TARN_METADATA_UPLOAD_GROUP_H

#include "upload.h"

#define UPLOAD_SHARD_MIN MIB(1)      /* less than k of it is kept in copies, and packed (pieces) */
#define UPLOAD_SHARD_STEP KIB(64)    /* one cell */
#define UPLOAD_SHARD_UNKNOWN MIB(4)  /* of the first group of an object whose end is not known */

/* Bytes of a shard for `remaining` bytes (0 = not known) that come after `before`, in chunks of at most 2^shift; 0: too few,
 * copies are better. With all data shards but the last of that length what is put costs (k + m) / k: what is known is spread over
 * k shards; where the end is not known shards grow with the object, so a last group that is mostly parity costs m/k of it at most. Pure. */
uint64_t upload_group_shape(unsigned k, unsigned shift, uint64_t remaining, uint64_t before);

int chunk_cmd_upload_group(struct tables *t, const void *message);
/* A group of an upload goes, with all its chunks. */
int upload_group_drop(struct tables *t, uint64_t group);
/* The upload ends: `lengths` are those of the chunks from data shard 0 on, `n` of them were put (0 when it is given up); `lost` are
 * not on their disks. Chunks that were not put leave the group, without any it goes; the parity is sealed. *ret_lost is added to: how many
 * of `lost` are of this group. -E_INVAL: too many. */
struct upload_group_end {
    const uint64_t *lengths;
    size_t n;
    const uint64_t *lost;
    size_t n_lost;
};
int upload_group_settle(struct tables *t, uint64_t group, const struct upload_group_end *end, size_t *ret_lost);
/* Its data chunks are sealed and the file's: from now on the parity bears their loss. */
int upload_group_adopt(struct tables *t, uint64_t group, uint64_t ino);

#endif
