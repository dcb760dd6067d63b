/* Changing a chunk on this store's own disk: write, truncate, seal. The caller holds the cells' range
 * for writing and a reference. What a successful return means: the change survives the end of the
 * process; with `sync` also a loss of power.
 *
 * Bytes that nothing valid lies under, from a cell's border on, go straight into the chunk's file and
 * only their checksums into the journal. Everything else (overwriting, appending inside a cell, small
 * writes) goes into the journal first and then into the file, so that a crash never leaves half of it. */
#ifndef TARN_OBJSTORE_PUT_H
#define TARN_OBJSTORE_PUT_H

#include "volume.h"

/* Up to here a write goes through the journal even where it could go straight: one sync instead of two. */
#define PUT_JOURNAL_BYTES KIB(64)
#define PUT_PIECES_MAX (FRAME_PAYLOAD_MAX / CELL_BYTES + 1)

struct put {
    uint64_t generation; /* the chunk's generation becomes the larger one */
    uint64_t offset;
    size_t length;       /* 1 … FRAME_PAYLOAD_MAX; the end at most CHUNK_BYTES_MAX */
    const uint8_t *data; /* 4096-aligned, readable up to the next multiple of 4096 */
    const uint32_t *crcs; /* of the pieces of the range cut at cell borders */
    size_t n_crcs;
    uint32_t flags;      /* CHUNK_PARTIAL for a copy under way */
    bool sync;
};
size_t put_pieces(uint64_t offset, size_t length);
/* Compares the data with its checksums. -E_CORRUPT, or -E_INVAL for lengths or counts that are wrong. */
int put_check(const struct put *put);
/* Errors: -E_STALE the chunk is sealed or has a newer generation, -E_CORRUPT the cell to be changed
 * does not match, -E_NOSPC, -E_BUSY, -E_IO. */
int put_bytes(struct volume *volume, struct chunk *chunk, const struct put *put);
/* Cuts or extends (with zeros) to `length`. The whole chunk is held. */
int put_truncate(struct volume *volume, struct chunk *chunk, uint64_t generation, uint64_t length);
/* Makes the chunk immutable at exactly `length`: every cell complete in the file, the file cut. Again
 * with the same length: adopts the generation. -E_RANGE: the chunk is shorter, or sealed otherwise. */
int put_seal(struct volume *volume, struct chunk *chunk, uint64_t generation, uint64_t length);
/* Generation and flags only. */
int put_state(struct volume *volume, struct chunk *chunk, uint64_t generation, uint32_t flags, bool sync);

#endif
