/* Making a container: parts of sealed chunks, of this store or pulled from others, become one sealed chunk, each
 * compressed (common/codec.h) where its task asks for it and it pays. While it is made the container is CHUNK_PARTIAL:
 * nobody reads it, and a restart drops it. Before it is sealed it is on disk, and was read from there and compared. */
#ifndef TARN_OBJSTORE_PACK_H
#define TARN_OBJSTORE_PACK_H

#include "background.h"
#include "meta.pb-c.h"

struct pack_result {
    uint64_t length; /* 0: one large chunk that compression does not make smaller, and nothing was written */
    uint32_t digest;
    /* Where those that were packed are, in the order of the task; what could not be read is left out. Owned. */
    size_t n;
    Tarn__Piece *pieces, **pointers;
};
void pack_result_fini(struct pack_result *result);
/* Onto the background's volume. Errors: -E_CONFLICT the container is here already, -E_STALE it was deleted here, -E_UNAVAIL nothing could be read,
 * -E_NOSPC, -E_IO, … : then nothing is left of it. */
int pack_make(struct background *background, const Tarn__ChunkTask *task, struct pack_result *ret);

#endif
