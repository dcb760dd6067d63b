/* What the disk really holds: cells read past the page cache and compared with their checksums. A page cache that still has
 * what was written says nothing about the disk below it.
 * Threads: the io's, from fibers. */
#ifndef TARN_OBJSTORE_READBACK_H
#define TARN_OBJSTORE_READBACK_H

#include "volume.h"

/* Reads the cells of [offset, offset + length) (offset on a cell's border; at most a window of 1 MiB) and compares them. The
 * caller holds them and a reference; what is to be found was synced. *ret_bad (may be NULL): where the first cell begins
 * that does not match. Errors: -E_CORRUPT a cell does not match or the file is missing; -E_IO the disk cannot read it (then
 * *ret_bad is the first cell that was asked for); -E_BUSY, -E_NOMEM, -E_CANCELED. */
int readback_window(struct volume *volume, struct chunk *chunk, uint64_t offset, uint64_t length, uint64_t *ret_bad);

#endif
