/* Verifies chunks in idle moments after they were sealed, so that the first local reader or task does not wait for it: a
 * descriptor is only handed over after every cell was read from the disk and compared once (handover.c). Yields to
 * requests. Only for stores with a local socket; elsewhere nobody is handed anything.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_VERIFY_H
#define TARN_OBJSTORE_VERIFY_H

#include "background.h"
#include "meta.pb-c.h"

/* Chunks waiting at a time; what is noted beyond it is verified at its first handover instead. */
#define VERIFY_WAITING_MAX 4096

/* VERIFY: reads every cell of the sealed chunk of the task from the disk, past the page cache, and compares. 0: *ret_length and
 * *ret_digest are the chunk's. -E_CORRUPT: *ret_length is where the first cell begins that is wrong. -E_NOENT it is not here;
 * -E_STALE it is of another generation, not sealed, or not of the task's length (0 = any); -E_CANCELED. */
int verify_task(struct background *background, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest);

struct verify;
int verify_start(struct store *store, struct verify **ret);
/* The chunk was sealed here. Never waits. */
void verify_note(struct verify *verify, struct volume *volume, uint64_t chunk); /* NULL verify allowed */
void verify_stop(struct verify *verify);                 /* NULL allowed; waits, frees */

#endif
