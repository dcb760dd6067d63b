/* Objects on a few nodes whose stores do what they are told, for tests of packing. */
#ifndef TARN_TEST_METADATA_PACK_WORLD_H
#define TARN_TEST_METADATA_PACK_WORLD_H

#include "world.h"
#include "metadata/record.h"

#define SECOND 1000000000ull
#define PACK_NODES_MAX 12

struct pack_world {
    struct world w;
    uint32_t nodes;
    bool down[PACK_NODES_MAX + 1];
};
void pack_begin(struct pack_world *p, unsigned nodes); /* with the directory /d */
void pack_end(struct pack_world *p);
void pack_put(struct pack_world *p, const char *dir, const char *name, uint64_t length); /* of one chunk, or replaces */
void pack_put_chunks(struct pack_world *p, const char *dir, const char *name, uint64_t length, unsigned n); /* n, each so long */
/* Stores that are up do what they are told; the work goes on until `seconds` have passed. The checker looks now and then. */
void pack_run(struct pack_world *p, unsigned seconds);
void pack_set_policy(struct pack_world *p, const char *dir, uint32_t mask, Tarn__Policy to);
/* The extents of a file; valid until the next query. */
const Tarn__FileMapReply *pack_map(struct pack_world *p, const char *path);
/* The only one of the file; valid until the next query. */
Tarn__Extent *pack_extent(struct pack_world *p, const char *path);
struct chunk pack_chunk(struct pack_world *p, uint64_t id);
bool pack_has_chunk(struct pack_world *p, uint64_t id);
uint64_t pack_rows(struct pack_world *p, enum table table); /* how many there are */
/* The object is read from a container, every byte of it (raw) or its compressed form, from as many copies as asked. */
void pack_assert_packed(struct pack_world *p, const char *path, uint64_t length, unsigned copies);

#endif
