/* A chunk that is being made here: CHUNK_PARTIAL until it is whole, so nobody reads it and a start after a crash drops it.
 * It becomes whole when its bytes are on the disk, were read back from there and are right. The caller holds the whole chunk
 * for writing, and a reference. Threads: the io's, from fibers. */
#ifndef TARN_OBJSTORE_PARTIAL_H
#define TARN_OBJSTORE_PARTIAL_H

#include "background.h"

/* An empty partial chunk, whatever was there before. */
int partial_begin(struct volume *volume, struct chunk *chunk, uint64_t generation);
/* The next window. -E_CORRUPT: the data does not match `crcs`; else as put_bytes(). */
int partial_append(struct volume *volume, struct chunk *chunk, uint64_t generation, uint64_t offset, const uint8_t *data,
                   size_t length, const uint32_t *crcs, size_t n_crcs);
/* Syncs, reads back, seals at `length`. -E_CORRUPT: the disk does not give back what was written; the caller drops it. */
int partial_finish(struct background *background, struct chunk *chunk, uint64_t generation, uint64_t length);
/* What was not finished goes; what is not partial stays. Not held by the caller. */
void partial_drop(struct volume *volume, uint64_t chunk);

#endif
