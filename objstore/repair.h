/* Making a damaged chunk of this disk whole again, in place: each cell that does not match its checksum is fetched from a
 * member that has it, written where it was, synced and read back from the disk. Whatever a source sends counts only if it
 * has the checksum that this disk's own index has for the cell: a source that lies or is older cannot do harm. So
 * two copies that are damaged in different cells repair each other. A shard of a parity group has no other copy: its cells are computed
 * from the same cells of k others (build.h). Works on sealed and on open chunks. Threads: the io's. */
#ifndef TARN_OBJSTORE_REPAIR_H
#define TARN_OBJSTORE_REPAIR_H

#include "background.h"
#include "meta.pb-c.h"

/* Reads every cell of the task's chunk, both past the page cache and as readers get it, and repairs those that are wrong from
 * task->from, or else from task->sources. 0: all is right now. *ret_bytes: what still is not. Errors: -E_CORRUPT every source answered and none has
 * the bytes; -E_UNAVAIL a source that may have them did not answer; -E_BUSY; -E_IO, -E_NOSPC they cannot be written. */
int repair_chunk(struct background *background, const Tarn__ChunkTask *task, uint64_t *ret_bytes);

#endif
