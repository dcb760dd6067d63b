/* What the metadata service asks of this store: taken from the answers to beats, carried out, told with a later beat. Small
 * ones (DELETE, SEAL) begin at once. Those that move or read whole chunks (COPY, BUILD, VERIFY, PACK) wait for room: urgent ones
 * first, then those of the disk with the fewest under way, then the oldest. A task may come twice, and may be of no use any
 * more when its turn comes: every one can be repeated, and a DELETE ends what is being made of its chunk.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_TASKS_H
#define TARN_OBJSTORE_TASKS_H

#include "store.h"
#include "meta.pb-c.h"

#define TASKS_KEPT_MAX 64       /* of urgent ones, and of others; more come again with a later beat */
#define TASKS_DISK_HEAVY_MAX 4  /* under way on one disk: enough to keep it busy while one waits for the net or a sync */
/* Under way in all: a BUILD takes 17 windows of memory at most, so they take 136 of the 220 there are (buffers.h). */
#define TASKS_HEAVY_MAX 8

struct tasks;
int tasks_create(struct store *store, struct tasks **ret); /* -E_NOMEM */
/* One that is known already, or that there is no room for, is not taken. */
void tasks_take(struct tasks *tasks, const Tarn__ChunkTask *task);
/* Up to `max` results that are not yet told, borrowed until tasks_told(). */
size_t tasks_results(struct tasks *tasks, Tarn__ChunkTaskDone **ret, size_t max);
void tasks_told(struct tasks *tasks, Tarn__ChunkTaskDone *const *results, size_t n);
/* Ends what is under way, waits for it, frees. NULL allowed. */
void tasks_destroy(struct tasks *tasks);
/* Deletes the chunk unless a newer generation of it is here, and remembers that (volume_note_deleted). */
int tasks_delete_chunk(struct volume *volume, uint64_t chunk, uint64_t generation);

#endif
