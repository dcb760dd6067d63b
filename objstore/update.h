/* An older version of a chunk is brought up to date: what a node holds of a chunk after it was away, or a copy that turned
 * out to be another than the others. Cells that are equal to the source's are taken from the own disk, after they were read
 * from there; only the rest is fetched. Threads: the io's, from fibers. */
#ifndef TARN_OBJSTORE_UPDATE_H
#define TARN_OBJSTORE_UPDATE_H

#include "pull.h"

/* The chunk, held whole for writing, becomes the source's: sealed, on the disk, read back from there. What is so already is not
 * touched but for its generation. From the first change on it is CHUNK_PARTIAL. Errors: -E_CONFLICT it does not
 * pay (more than half differs) or must not be (somebody has a descriptor of the file): drop it and copy the whole; -E_CORRUPT
 * as partial_finish(); else those of the source and the disk. */
int update_chunk(struct background *background, const struct pull *from, struct chunk *chunk, uint64_t generation);

#endif
