/* A chunk of another store, as a copy is made of it. Threads: the io's, from fibers. */
#ifndef TARN_OBJSTORE_PULL_H
#define TARN_OBJSTORE_PULL_H

#include "background.h"

#define PULL_TIMEOUT_MS 5000

struct pull {
    struct rpc_client *client;
    uint32_t disk; /* of that store */
    uint64_t chunk;
    /* as its store says: */
    uint64_t generation, length;
    uint32_t digest;
};
/* Learns the latter. -E_BUSY: it is not sealed there. */
int pull_stat(struct pull *pull);
/* The cells of the chunk, as many as its length has (at most CHUNK_CELLS_MAX in `ret`). -E_STALE: it is not any more what pull_stat()
 * said; -E_PROTO: they are not those of a sealed chunk of that length and digest. */
int pull_cells(const struct pull *pull, struct cell *ret);
/* Fetches [at, at + n) (from a cell's border, at most a window), compares, and writes it into the partial chunk. `buf` is a window
 * long. */
int pull_window(struct background *background, const struct pull *pull, struct chunk *chunk, uint64_t generation, uint64_t at,
                size_t n, uint8_t *buf);

#endif
