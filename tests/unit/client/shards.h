/* Stores that hold shards of parity groups and pieces of chunks, and a metadata service that knows what the groups are made of, for
 * tests of reads. Each store can fail in its own way. Group n (from 1) has the chunks n * 100 + index. */
#ifndef TARN_TESTS_CLIENT_SHARDS_H
#define TARN_TESTS_CLIENT_SHARDS_H

#include "client/store.h"
#include "common/coll.h"
#include "common/ec.h"
#include "tests/unit/common/io_suite.h"

#define HOLDERS 8

enum ailment {
    WELL,
    CLOSED,  /* the connection ends instead of an answer */
    SILENT,  /* no answer at all, until it is well again */
    SLOW,    /* answers after slow_ms */
    ROTTEN,  /* a flipped bit under the right checksums */
    SPOTTED, /* the same, at the byte `spot` of its chunks only */
    EMPTY,   /* does not have the chunk */
    SHORT,   /* has half of it */
    NEWER    /* knows a newer generation */
};

struct shards;
struct held_chunk {
    uint64_t id, generation, length;
    uint8_t *data;
    bool synced; /* since it was written to */
};
struct holder {
    struct shards *shards;
    struct rpc_server *server;
    struct rpc_service service;
    char address[64];
    enum ailment ailment;
    uint64_t slow_ms, spot;
    struct fiber_queue gate;
    struct held_chunk chunks[8];
    unsigned n_chunks;
    unsigned reads;      /* requests */
    uint64_t bytes_read; /* asked for */
};

struct shards {
    struct io *io;
    struct config config;
    struct rpc_server *meta_server;
    struct rpc_service meta_service;
    struct holder holders[HOLDERS];
    unsigned k, m;
    uint64_t lengths[EC_SHARDS_MAX]; /* 0 = a shard of zeros */
    uint64_t generation;             /* of the group */
    bool dissolved;
    unsigned asked; /* GROUP_GET */
    struct meta *meta;
    struct stores *stores;
};

void shards_start(struct shards *s, struct io *io, const char *host);
void shards_stop(struct shards *s);
/* Group 1: shard i on holder i, data of the given lengths (k of them, 0 = no chunk) drawn by the seed, parity computed. */
void shards_group(struct shards *s, unsigned k, unsigned m, const uint64_t *lengths, uint64_t seed);
/* The shard as a client's map has it: a sealed chunk of the group with one copy. */
Tarn__Extent *shards_extent(const struct shards *s, unsigned index);
/* A sealed chunk outside of any group with copies on the holders of the mask; takes the data. */
Tarn__Extent *shards_chunk(struct shards *s, uint64_t id, uint8_t *data, uint64_t length, unsigned mask);
/* A new open chunk, empty, with members on the holders of the mask. */
Tarn__Extent *shards_open(const struct shards *s, uint64_t id, unsigned mask);
struct held_chunk *shards_held(struct shards *s, unsigned holder, uint64_t chunk); /* NULL: not there */
void shards_ail(struct shards *s, unsigned holder, enum ailment ailment);

#endif
