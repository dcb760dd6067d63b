/* Collections: an intrusive doubly linked list, a hash map from u64 to pointer, a binary min-heap.
 * Pure; single-threaded. */
#ifndef TARN_COMMON_COLL_H
#define TARN_COMMON_COLL_H
#include "base.h"

struct list {
    struct list *next, *prev;
};
static inline void list_init(struct list *head) { head->next = head->prev = head; }
static inline bool list_empty(const struct list *head) { return head->next == head; }
static inline void list_insert_before(struct list *at, struct list *node)
{
    node->prev = at->prev;
    node->next = at;
    at->prev->next = node;
    at->prev = node;
}
static inline void list_append(struct list *head, struct list *node) { list_insert_before(head, node); }
static inline void list_prepend(struct list *head, struct list *node) { list_insert_before(head->next, node); }
static inline void list_remove(struct list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    node->next = node->prev = node;
}
#define list_entry(node, type, member) container_of(node, type, member)
#define list_foreach(head, it) for (struct list *it = (head)->next; it != (head); it = it->next)
#define list_foreach_safe(head, it, nx)                                                            \
    for (struct list *it = (head)->next, *nx = it->next; it != (head); it = nx, nx = it->next)

/* Keys are any u64, values any pointer but NULL. Iteration order is insertion-independent only for
 * the same sequence of operations (deterministic: no address enters the hash). */
struct map {
    struct map_slot *slots;
    size_t count, cap, used;
};
void map_fini(struct map *map); /* frees the table, not the values; zero-initialised is empty */
int map_put(struct map *map, uint64_t key, void *value); /* replaces; 0 or -E_NOMEM */
void *map_get(const struct map *map, uint64_t key);      /* NULL when absent */
void *map_remove(struct map *map, uint64_t key);         /* the value or NULL */
/* Next entry with slot index >= *at: advances *at; false at the end. Do not change the map meanwhile
 * except by map_remove of the entry just returned. */
bool map_next(const struct map *map, size_t *at, uint64_t *ret_key, void **ret_value);

struct heap_node {
    uint64_t key; /* smallest first; ties by insertion order */
    uint64_t order;
    size_t index; /* internal; SIZE_MAX when not in a heap */
};
struct heap {
    struct heap_node **nodes;
    size_t count, cap;
    uint64_t next_order;
};
int heap_push(struct heap *heap, struct heap_node *node);
struct heap_node *heap_peek(const struct heap *heap); /* NULL when empty */
void heap_remove(struct heap *heap, struct heap_node *node);
void heap_fini(struct heap *heap);
#endif
