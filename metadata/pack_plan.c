#include "pack_plan.h"

#include "common/err.h"

struct plan {
    const struct pack_item *items;
    size_t n;
    uint64_t bytes_max, now_ns;
    const struct placement_map *map;
};

static bool cold(const struct plan *p, const struct pack_item *item)
{
    return item->since_ns + PACK_COLD_NS <= p->now_ns || item->since_ns == 0;
}

static bool aged(const struct plan *p, const struct pack_item *item)
{
    return item->since_ns + PACK_AGE_NS <= p->now_ns || item->since_ns == 0;
}

static bool takes(const struct plan *p, uint32_t disk)
{
    size_t index = placement_find(p->map, disk);
    return index != SIZE_MAX && placement_usable(&p->map->disks[index]);
}

static bool holds(const struct pack_item *item, uint32_t disk)
{
    for (unsigned i = 0; i < item->n; i++)
        if (item->disks[i] == disk)
            return true;
    return false;
}

/* ---- one large chunk */
/* The emptiest of the disks that hold it. */
static uint32_t home_of(const struct plan *p, const struct pack_item *item)
{
    uint32_t best = 0, fill = UINT32_MAX;
    for (unsigned i = 0; i < item->n; i++) {
        if (!takes(p, item->disks[i]))
            continue;
        uint32_t at = placement_fill(&p->map->disks[placement_find(p->map, item->disks[i])]);
        if (at < fill) {
            best = item->disks[i];
            fill = at;
        }
    }
    return best;
}

static bool plan_alone(const struct plan *p, struct pack_plan *ret)
{
    for (size_t i = 0; i < p->n; i++) {
        if (!p->items[i].alone || !cold(p, &p->items[i]))
            continue;
        ret->disk = home_of(p, &p->items[i]);
        if (ret->disk != 0) {
            ret->items[ret->n++] = i;
            ret->bytes = p->items[i].bytes;
            return true;
        }
        ret->crowded = true;
    }
    return false;
}

/* ---- small ones together */
struct held {
    uint32_t disk;
    uint64_t bytes;
};

static int held_compare(const void *a, const void *b)
{
    const struct held *x = a, *y = b;
    return x->disk < y->disk ? -1 : x->disk > y->disk;
}

/* The disk that holds most of what is cold, of those that may take a container; 0 = none. */
static int best_disk(const struct plan *p, uint32_t *ret)
{
    _cleanup_free_ struct held *held = calloc(p->n * PACK_ITEM_DISKS + 1, sizeof *held);
    size_t n = 0;
    *ret = 0;
    if (held == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < p->n; i++)
        for (unsigned k = 0; k < p->items[i].n && !p->items[i].alone && cold(p, &p->items[i]); k++)
            held[n++] = (struct held){p->items[i].disks[k], p->items[i].bytes};
    qsort(held, n, sizeof *held, held_compare);
    uint64_t most = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum = (i > 0 && held[i].disk == held[i - 1].disk ? sum : 0) + held[i].bytes;
        if (sum > most && takes(p, held[i].disk)) {
            most = sum;
            *ret = held[i].disk;
        }
    }
    return 0;
}

static bool enough(const struct plan *p, const struct pack_plan *so_far)
{
    if (so_far->n >= PACK_ENOUGH_PIECES || so_far->bytes >= MIN(PACK_ENOUGH_BYTES, p->bytes_max / 2))
        return true;
    bool any_aged = false, at_once = false;
    for (unsigned i = 0; i < so_far->n; i++) {
        any_aged |= aged(p, &p->items[so_far->items[i]]);
        at_once |= p->items[so_far->items[i]].since_ns == 0;
    }
    return any_aged && (so_far->n >= 2 || at_once);
}

static void take(const struct plan *p, uint32_t disk, bool held, struct pack_plan *ret)
{
    for (size_t i = 0; i < p->n && ret->n < PACK_PIECES_MAX; i++) {
        const struct pack_item *item = &p->items[i];
        if (item->alone || !cold(p, item) || holds(item, disk) != held || item->n == 0 ||
            item->bytes > p->bytes_max - ret->bytes)
            continue;
        ret->items[ret->n++] = i;
        ret->bytes += item->bytes;
    }
}

/* ---- when to look again */
static uint64_t look_again(const struct plan *p)
{
    uint64_t again = PACK_NEVER, bytes = 0;
    size_t together = 0;
    for (size_t i = 0; i < p->n; i++) {
        together += !p->items[i].alone;
        bytes += p->items[i].alone ? 0 : p->items[i].bytes;
    }
    bool many = together >= PACK_ENOUGH_PIECES || bytes >= MIN(PACK_ENOUGH_BYTES, p->bytes_max / 2);
    for (size_t i = 0; i < p->n; i++) {
        const struct pack_item *item = &p->items[i];
        uint64_t at = item->since_ns + (item->alone || many ? PACK_COLD_NS : PACK_AGE_NS);
        if (at > p->now_ns)
            again = MIN(again, at);
    }
    return again;
}

int pack_plan(const struct pack_item *items, size_t n, uint64_t container_bytes, const struct placement_map *map,
              uint64_t now_ns, struct pack_plan *ret)
{
    struct plan p = {.items = items, .n = n, .bytes_max = container_bytes, .now_ns = now_ns, .map = map};
    *ret = (struct pack_plan){.again_ns = PACK_NEVER};
    if (plan_alone(&p, ret))
        return 0;
    uint32_t disk;
    int err = best_disk(&p, &disk);
    if (err != 0)
        return err;
    take(&p, disk, true, ret);
    if (!enough(&p, ret)) /* not where they are: then some have to be moved */
        take(&p, disk, false, ret);
    bool go = enough(&p, ret);
    ret->crowded |= go && disk == 0;
    ret->disk = disk;
    if (!go || disk == 0) {
        ret->n = 0;
        ret->bytes = 0;
        ret->again_ns = look_again(&p);
    }
    return 0;
}
