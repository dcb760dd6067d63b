/* Memory that is taken in small pieces and given back at once. Pure; single-threaded.
 * Owns: everything it gave out, until arena_fini(). Cost: a few instructions a piece, one malloc() a block. */
#ifndef TARN_COMMON_ARENA_H
#define TARN_COMMON_ARENA_H

#include "base.h"
#include <protobuf-c/protobuf-c.h>

struct arena_block;
struct arena {
    uint8_t *at, *end;          /* of what is left of the block in use */
    struct arena_block *blocks; /* those that were malloc'd */
    size_t next_bytes;          /* size of the next one: they double */
    bool failed;                /* a piece could not be given */
};
/* `first` (may be NULL) is used before anything is malloc'd and must outlive the arena. */
void arena_init(struct arena *arena, void *first, size_t first_bytes);
void arena_fini(struct arena *arena);
void *arena_alloc(struct arena *arena, size_t n); /* aligned to 16; NULL without memory */
/* For protobuf_c_message_unpack(); what it makes needs no free_unpacked. Borrows the arena. */
ProtobufCAllocator arena_allocator(struct arena *arena);

#endif
