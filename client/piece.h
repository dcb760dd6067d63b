/* Extents whose bytes are a compressed part of a chunk: independent zstd frames and a table of them (common/codec.h). The table is
 * read once and kept; a read decompresses the frames it needs. A frame that is read in parts is kept for a while, so that small reads
 * in order do not decompress it again and again.
 *
 * A frame or a table that is wrong, though its bytes match the checksums of the cells, is asked of every replica and then
 * computed from the group before it is -E_CORRUPT.
 * Threads: the io's, from fibers. Memory: PIECE_TABLES_BYTES and PIECE_FRAMES_BYTES, and what reads under way hold. */
#ifndef TARN_CLIENT_PIECE_H
#define TARN_CLIENT_PIECE_H

#include "store_internal.h"

#define PIECE_TABLES_BYTES MIB(8)  /* tables: 24 bytes for a frame; small pieces are kept whole */
#define PIECE_FRAMES_BYTES MIB(32) /* decompressed */

struct pieces; /* made at first use, in stores->pieces */
void pieces_destroy(struct pieces *pieces); /* NULL allowed */

/* [offset, offset + n) of the extent's content; behind its end are zeros. Sets the results in *ask: where the compressed bytes came
 * from, and in `computed` the bytes of content of which no replica had some compressed byte.
 * Errors: as of stores_read(); -E_NOTSUP a form this version does not know. */
int piece_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, uint8_t *buf, size_t n, struct store_ask *ask);

#endif
