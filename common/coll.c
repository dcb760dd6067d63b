#include "common/coll.h"

#include "common/check.h"
#include "common/err.h"

/* ---- map: open addressing with linear probing. A removed entry leaves a tombstone unless the
 * next slot is free, so probe chains stay whole and iteration survives removal. At most 3/4 of the
 * slots are taken (entries and tombstones), so every probe ends. ---- */

struct map_slot {
    uint64_t key;
    void *value; /* NULL free, &tombstone removed */
};

static char tombstone;
#define CAP_MIN 16

/* Finalizer of splitmix64 (Steele, Lea, Flood 2014): neighbouring ids spread over the table. */
static uint64_t hash_u64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static bool is_live(const struct map_slot *slot)
{
    return slot->value != NULL && slot->value != &tombstone;
}

static struct map_slot *find_slot(const struct map *map, uint64_t key)
{
    if (map->cap == 0)
        return NULL;
    size_t mask = map->cap - 1;
    for (size_t i = hash_u64(key) & mask;; i = (i + 1) & mask) {
        struct map_slot *slot = &map->slots[i];
        if (slot->value == NULL)
            return NULL;
        if (slot->value != &tombstone && slot->key == key)
            return slot;
    }
}

/* The key must be absent and a free slot present. */
static void insert(struct map *map, uint64_t key, void *value)
{
    size_t mask = map->cap - 1;
    size_t i = hash_u64(key) & mask;
    while (is_live(&map->slots[i]))
        i = (i + 1) & mask;
    if (map->slots[i].value == NULL)
        map->used++;
    map->slots[i] = (struct map_slot){key, value};
    map->count++;
}

static int rehash(struct map *map)
{
    size_t cap = CAP_MIN;
    while (cap * 3 / 4 <= map->count * 3 / 2)
        cap *= 2;
    struct map next = {.slots = calloc(cap, sizeof(struct map_slot)), .cap = cap};
    if (next.slots == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < map->cap; i++) {
        if (is_live(&map->slots[i]))
            insert(&next, map->slots[i].key, map->slots[i].value);
    }
    free(map->slots);
    *map = next;
    return 0;
}

void map_fini(struct map *map)
{
    free(map->slots);
    *map = (struct map){0};
}

int map_put(struct map *map, uint64_t key, void *value)
{
    CHECK(value != NULL);
    struct map_slot *slot = find_slot(map, key);
    if (slot != NULL) {
        slot->value = value;
        return 0;
    }
    if (map->used + 1 > map->cap * 3 / 4) {
        int err = rehash(map);
        if (err != 0)
            return err;
    }
    insert(map, key, value);
    return 0;
}

void *map_get(const struct map *map, uint64_t key)
{
    struct map_slot *slot = find_slot(map, key);
    return slot == NULL ? NULL : slot->value;
}

void *map_remove(struct map *map, uint64_t key)
{
    struct map_slot *slot = find_slot(map, key);
    if (slot == NULL)
        return NULL;
    void *value = slot->value;
    slot->value = &tombstone;
    map->count--;
    /* Tombstones at the end of a probe chain lead nowhere: free them from the back. */
    size_t mask = map->cap - 1;
    size_t i = (size_t)(slot - map->slots);
    if (map->slots[(i + 1) & mask].value == NULL) {
        for (; map->slots[i].value == &tombstone; i = (i - 1) & mask) {
            map->slots[i].value = NULL;
            map->used--;
        }
    }
    return value;
}

bool map_next(const struct map *map, size_t *at, uint64_t *ret_key, void **ret_value)
{
    while (*at < map->cap) {
        const struct map_slot *slot = &map->slots[(*at)++];
        if (is_live(slot)) {
            if (ret_key != NULL)
                *ret_key = slot->key;
            if (ret_value != NULL)
                *ret_value = slot->value;
            return true;
        }
    }
    return false;
}

/* ---- heap ---- */

static bool before(const struct heap_node *a, const struct heap_node *b)
{
    return a->key != b->key ? a->key < b->key : a->order < b->order;
}

static void place(struct heap *heap, size_t index, struct heap_node *node)
{
    heap->nodes[index] = node;
    node->index = index;
}

static void sift_up(struct heap *heap, size_t index, struct heap_node *node)
{
    while (index > 0 && before(node, heap->nodes[(index - 1) / 2])) {
        place(heap, index, heap->nodes[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    place(heap, index, node);
}

static void sift_down(struct heap *heap, size_t index, struct heap_node *node)
{
    for (;;) {
        size_t child = index * 2 + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && before(heap->nodes[child + 1], heap->nodes[child]))
            child++;
        if (!before(heap->nodes[child], node))
            break;
        place(heap, index, heap->nodes[child]);
        index = child;
    }
    place(heap, index, node);
}

int heap_push(struct heap *heap, struct heap_node *node)
{
    if (heap->count == heap->cap) {
        size_t cap = MAX(heap->cap * 2, (size_t)16);
        struct heap_node **nodes = realloc(heap->nodes, cap * sizeof *nodes);
        if (nodes == NULL)
            return -E_NOMEM;
        heap->nodes = nodes;
        heap->cap = cap;
    }
    node->order = heap->next_order++;
    sift_up(heap, heap->count++, node);
    return 0;
}

struct heap_node *heap_peek(const struct heap *heap)
{
    return heap->count == 0 ? NULL : heap->nodes[0];
}

void heap_remove(struct heap *heap, struct heap_node *node)
{
    size_t index = node->index;
    CHECK(index < heap->count && heap->nodes[index] == node);
    struct heap_node *last = heap->nodes[--heap->count];
    node->index = SIZE_MAX;
    if (last == node)
        return;
    if (index > 0 && before(last, heap->nodes[(index - 1) / 2]))
        sift_up(heap, index, last);
    else
        sift_down(heap, index, last);
}

void heap_fini(struct heap *heap)
{
    free(heap->nodes);
    *heap = (struct heap){0};
}
