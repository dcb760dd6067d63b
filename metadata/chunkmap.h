/* Chunks: which file or upload owns each, who holds it, in which generation; files' extents; and
 * the work queued for the chunk stores. The rules that keep acknowledged bytes (C1-C12) are in
 * docs/invariants.md; in short: an open chunk has only complete members; its members change or it
 * is sealed only with a new generation, which fences late writers; only sealed chunks are copied.
 * chunkmap.c: chunk rows, counters, tasks · chunkmap_file.c: extents · chunkmap_write.c: commands
 * of writers · chunkmap_store.c: what stores report. Threads: the transaction's. */
#ifndef TARN_METADATA_CHUNKMAP_H
#define TARN_METADATA_CHUNKMAP_H

#include "clustermap.h"
#include "policy.h"
#include "tables.h"

#define CHUNK_COPY_TASKS_MAX 16        /* COPY under way to, and from, one disk: 1 GiB, seconds of work */
#define ENDANGERED_WEAK 100            /* level in TABLE_ENDANGERED of chunks in too few domains */
#define CHUNK_COMMIT_EXTENTS_MAX 16384 /* of one object: 1 TiB in full chunks */
#define CHUNK_WRITTEN_MAX 256          /* named by one change of a size */

int chunk_get(struct tables *t, uint64_t id, struct chunk *ret); /* -E_NOENT */
/* Puts the row and keeps the counters, the endangered index and the reverse index in step. A chunk
 * being deleted without replicas is removed. */
int chunk_save(struct tables *t, struct chunk *chunk);
/* Another shard of its group moved: it shares a domain now, or not any more. Puts the row. */
int chunk_respread(struct tables *t, struct chunk *chunk, uint8_t spread);
/* A chunk has fallen to a level of safety below where the healing round is: it comes next (H1). */
void chunk_heal_first(struct tables *t, uint64_t level, uint64_t id);
unsigned chunk_ready(const struct chunk *chunk); /* replicas that are ready, up or not */
/* For whom a chunk is made: with a code, chunks of one owner that will be one group are placed for that. */
struct chunk_place {
    uint32_t writer; /* node or 0 */
    uint64_t owner;  /* inode or upload; 0 = nobody's in particular */
    uint64_t index;  /* of the slot in the file, or in the upload */
};
/* A new open chunk on as many disks as the policy asks and there are. -E_NOSPC none has room, -E_UNAVAIL
 * none is up. Not yet saved. */
int chunk_make(struct tables *t, const struct policy *policy, const struct chunk_place *place, struct chunk *ret);
/* The number of copies for a wish when there are so many places (C20). */
uint8_t chunk_target(unsigned wish, unsigned places);
int chunk_seal(struct tables *t, struct chunk *chunk, uint64_t length);
Tarn__ChunkTask__Kind chunk_seal_kind(const struct chunk *chunk); /* the task that seals it */
/* Seals for a snapshot while writers go on: what the copies have got by the time they hear of it
 * stays, whatever the file's size is (K5). `length`: at most so much. */
int chunk_seal_keep(struct tables *t, struct chunk *chunk, uint64_t length);
int chunk_delete(struct tables *t, struct chunk *chunk);
/* One more row names the sealed chunk. */
int chunk_share(struct tables *t, uint64_t id);
/* A row that named the chunk is gone, and with the last one the chunk (C11). */
int chunk_unshare(struct tables *t, uint64_t id);
/* Asks the last ready copy again for the SEAL that failed there. Not yet saved. */
int chunk_seal_again(struct tables *t, struct chunk *chunk, bool *ret_changed);
/* The member leaves: DELETE is queued, the row keeps it until that is done. Not yet saved. */
int chunk_replica_drop(struct tables *t, struct chunk *chunk, unsigned index);
int chunk_task_add(struct tables *t, uint32_t disk, Tarn__ChunkTask__Kind kind,
                   const struct chunk *chunk);

/* ---- files */
int extent_put(struct tables *t, uint64_t ino, const struct extent *extent);
/* The extent that covers `offset`, or the nearest before it (*ret_covers false); -E_NOENT when
 * none. */
int extent_find(struct tables *t, uint64_t ino, uint64_t offset, struct extent *ret,
                bool *ret_covers);
/* Where an extent may end that begins at `offset` and has `length` bytes already: at the end of the slot of
 * 2^shift bytes or at the next extent, and never before its own end (parts of an upload cross slots). */
int extent_room(struct tables *t, uint64_t ino, uint64_t offset, uint64_t length, unsigned shift,
                uint64_t *ret_end);
/* Removes up to `max` extents and their chunks; *ret_done when none is left. */
int chunk_file_drop(struct tables *t, uint64_t ino, unsigned max, bool *ret_done);
/* Seals all open chunks of a file that a snapshot is taken of. */
int chunk_file_freeze(struct tables *t, uint64_t ino);
/* Truncates or extends; sets size and allocated, the caller puts the inode. */
int chunk_file_resize(struct tables *t, struct inode *inode, uint64_t size);
/* Cuts the map at `size`: chunks behind it go, one that reaches over it is sealed there if it is open. The size
 * stays; the caller puts the inode. */
int chunk_file_cut(struct tables *t, struct inode *inode, uint64_t size);
/* -E_STALE when one of the chunks is not in the file's map up to where it was written (C23). */
int chunk_file_written(struct tables *t, uint64_t ino, Tarn__WrittenTo *const *written, size_t n);
/* The last writer is gone: open chunks are cut to the file's size and sealed, many in steps. */
int chunk_file_seal(struct tables *t, uint64_t ino);
int chunk_seal_due_step(struct tables *t, unsigned steps, unsigned *ret_done);
/* The policy of its (new) owner decides about it from now on. Saves it. */
int chunk_follow(struct tables *t, const struct policy *policy, unsigned places, struct chunk *chunk);
/* Appends an upload's chunks to a new file's extents; the upload is gone afterwards. */
int chunk_upload_adopt(struct tables *t, const Tarn__UploadPart *part, struct inode *inode);
/* What a session leaves: chunks made for a swap that never came, uploads. */
int chunk_session_end(struct tables *t, uint64_t session);

/* ---- messages */
struct extent_message {
    Tarn__Extent extent;
    Tarn__Replica replicas[MD_REPLICAS_MAX];
    Tarn__Replica *pointers[MD_REPLICAS_MAX];
};
/* Fills *out with the ready replicas; borrows `cluster`'s strings. *out must not move afterwards.
 */
void extent_message_fill(const struct extent *extent, const struct chunk *chunk,
                         const struct cluster *cluster, struct extent_message *out);
void replica_message(const struct chunk_replica *replica, const struct cluster *cluster,
                     Tarn__Replica *out);

int chunk_cmd_write(struct tables *t, const void *message);
int chunk_cmd_swap(struct tables *t, const void *message);
int chunk_cmd_upload_chunk(struct tables *t, const void *message);
int chunk_cmd_upload_abort(struct tables *t, const void *message);
int chunk_cmd_failed(struct tables *t, const void *message);
int chunk_cmd_tasks_done(struct tables *t, const void *message);
int chunk_cmd_inventory(struct tables *t, const void *message);

#endif
