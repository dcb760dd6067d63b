/* Making a chunk here from one that exists: copied from another store, or cloned from a chunk of this
 * one. While it is being made the chunk is CHUNK_PARTIAL: nobody reads it, and a restart drops it. */
#ifndef TARN_OBJSTORE_REBUILD_H
#define TARN_OBJSTORE_REBUILD_H

#include "background.h"
#include "meta.pb-c.h"

/* Copies the sealed chunk of the task here from one of task->from (tried in turn): every piece is verified, the result is on the
 * disk, was read back from there and has the source's digest. An older version that is here is brought up to date (update.h);
 * what is equal stays. *ret_length and *ret_digest of the result. -E_BUSY: no source has it sealed yet; -E_UNAVAIL: no source
 * answers; -E_CANCELED. */
int rebuild_copy(struct background *background, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest);
/* Makes `chunk` with the first `length` bytes of `from` (zeros behind its end). When the chunk is
 * there already, complete, nothing is done. -E_NOENT: no such `from`. */
int rebuild_clone(struct volume *volume, uint64_t chunk, uint64_t generation, uint64_t from, uint64_t length);

#endif
