/* Pieces: chunks whose bytes are a part of another chunk, the body. The body is a container, made by packing (pack_job.h):
 * of many small chunks, or of one large one whose bytes are compressed. Extents, histories and clones go on naming the
 * piece; where its bytes are is said by its row alone, so packing and compaction change that row and nothing else.
 * A container's row has no extent: owner is the number of its class of policies (pack_rows.h), owner_offset its own
 * id, `stored` the bytes of its live pieces. Rules PI1-PI6 in docs/invariants.md. Threads: the transaction's. */
#ifndef TARN_METADATA_PIECE_H
#define TARN_METADATA_PIECE_H

#include "chunkmap.h"

/* A container is made anew from its live pieces when less than this share of it is alive. */
#define PIECE_ALIVE_PERCENT 50

/* Where a piece's bytes are. */
struct piece_place {
    uint64_t offset, stored; /* in the body */
    uint8_t form;            /* Tarn__ChunkForm */
};

/* The chunk that has the bytes: the chunk itself, or its body. */
int piece_body(struct tables *t, const struct chunk *chunk, struct chunk *ret);
/* The chunk, physical or a piece, has its bytes in `body` from now on; its own replicas leave. Saves both rows. */
int piece_enter(struct tables *t, struct chunk *chunk, struct chunk *body, const struct piece_place *place);
/* The piece is not in its body any more; with the last one the container goes, and one that is less than half alive is
 * noted for compaction. *chunk loses its body and is not yet saved. */
int piece_leave(struct tables *t, struct chunk *chunk);
bool piece_half_dead(const struct chunk *container);
/* As extent_message_fill(), of pieces too: the message names the chunk that has the bytes. */
int piece_extent(struct tables *t, const struct extent *extent, const struct chunk *chunk, const struct cluster *cluster,
                 struct extent_message *out);

#endif
