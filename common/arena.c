#include "common/arena.h"

#define BLOCK_BYTES_MIN KIB(4)
#define BLOCK_BYTES_MAX KIB(256)
#define ALIGN 16

struct arena_block {
    struct arena_block *next;
    _Alignas(ALIGN) uint8_t data[];
};

void arena_init(struct arena *arena, void *first, size_t first_bytes)
{
    *arena = (struct arena){.next_bytes = BLOCK_BYTES_MIN};
    if (first == NULL)
        return;
    uint8_t *begin = first;
    size_t skew = -(uintptr_t)begin & (ALIGN - 1);
    if (skew >= first_bytes)
        return;
    arena->at = begin + skew;
    arena->end = begin + first_bytes;
}

void arena_fini(struct arena *arena)
{
    while (arena->blocks != NULL) {
        struct arena_block *block = arena->blocks;
        arena->blocks = block->next;
        free(block);
    }
    arena->at = arena->end = NULL;
}

static void *give_nothing(struct arena *arena)
{
    arena->failed = true;
    return NULL;
}

void *arena_alloc(struct arena *arena, size_t n)
{
    size_t bytes;
    if (add_overflows(MAX(n, (size_t)1), (size_t)ALIGN - 1, &bytes) || bytes > PTRDIFF_MAX) /* nothing has an address of its own, too */
        return give_nothing(arena); /* beyond half of what there is, asking is a mistake to the sanitizers */
    bytes &= ~(size_t)(ALIGN - 1);
    if (bytes > (size_t)(arena->end - arena->at)) {
        size_t size = MAX(arena->next_bytes, bytes);
        struct arena_block *block = malloc(sizeof *block + size);
        if (block == NULL)
            return give_nothing(arena);
        block->next = arena->blocks;
        arena->blocks = block;
        arena->next_bytes = MIN(arena->next_bytes * 2, (size_t)BLOCK_BYTES_MAX);
        arena->at = block->data;
        arena->end = block->data + size;
    }
    void *p = arena->at;
    arena->at += bytes;
    return p;
}

static void *allocator_alloc(void *arena, size_t n)
{
    return arena_alloc(arena, n);
}

static void allocator_free(void *arena, void *p)
{
}

ProtobufCAllocator arena_allocator(struct arena *arena)
{
    return (ProtobufCAllocator){
        .alloc = allocator_alloc, .free = allocator_free, .allocator_data = arena};
}
