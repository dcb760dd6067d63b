/* Looking at a chunk's cells in its file: which of them do not have the bytes that the index says. Past the page cache (what
 * the disk has) or through it (what readers get). For the scrubber and for repairs; clients' reads are get.h.
 * The caller holds the cells (at least for reading) and a reference. Threads: the io's. */
#ifndef TARN_OBJSTORE_CELLS_H
#define TARN_OBJSTORE_CELLS_H

#include "volume.h"

#define CELLS_WINDOW (MIB(1) / CELL_BYTES) /* looked at with one read */

struct cell_set {
    uint64_t bits[CHUNK_CELLS_MAX / 64];
};
static inline void cell_set_add(struct cell_set *set, uint32_t i)
{
    set->bits[i / 64] |= 1ull << i % 64;
}
static inline void cell_set_del(struct cell_set *set, uint32_t i)
{
    set->bits[i / 64] &= ~(1ull << i % 64);
}
static inline bool cell_set_has(const struct cell_set *set, uint32_t i)
{
    return (set->bits[i / 64] >> i % 64 & 1) != 0;
}
unsigned cell_set_count(const struct cell_set *set);

enum cells_way { CELLS_DISK, CELLS_CACHE };
/* The chunk's file by its name, on a descriptor of its own. A file system without O_DIRECT is read through its cache.
 * Errors: -E_NOENT, -E_IO … */
int cells_open(struct volume *volume, const struct chunk *chunk, enum cells_way way, struct io_file **ret);
/* Reads `n` cells from `first` on (at most CELLS_WINDOW) into `buf` (4096-aligned, CELLS_WINDOW cells long) and adds those that
 * do not match, or that the disk cannot read, to *bad. Errors: other than damage (-E_CANCELED …). */
int cells_look(struct io_file *file, const struct chunk *chunk, uint32_t first, uint32_t n, uint8_t *buf, struct cell_set *bad);
/* The same for one cell by its checksum: true when it matches. */
int cells_look_one(struct io_file *file, uint32_t i, struct cell cell, uint8_t *buf, bool *ret_right);
/* Opens, looks and closes. A file that is missing makes all cells with bytes bad; a sealed one that is not exactly as long
 * as the chunk makes the last cell bad when it is among those looked at (an empty chunk's: cell 0). */
int cells_check(struct volume *volume, const struct chunk *chunk, enum cells_way way, uint32_t first, uint32_t n, uint8_t *buf,
                struct cell_set *bad);
/* Cells that the chunk has. */
static inline uint32_t cells_of(const struct chunk *chunk)
{
    return (uint32_t)((chunk->length + CELL_BYTES - 1) / CELL_BYTES);
}

#endif
