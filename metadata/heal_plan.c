#include "heal_plan.h"

/* A replica with its disk. */
struct member {
    unsigned index;
    size_t disk;
};

struct view {
    const struct heal_chunk *chunk;
    const struct placement_map *map;
    unsigned n_keepers; /* verified copies that are up and stay */
    struct member keepers[PLACEMENT_COPIES_MAX];
    unsigned usable;  /* copies that live and stay, or come */
    unsigned copying; /* of these */
    unsigned draining_ready;
    bool readable; /* some disk that is up has a verified copy */
    unsigned damaged;
    bool wait;
};

static const struct placement_disk *disk_of(const struct view *v, unsigned i, size_t *ret_index)
{
    *ret_index = placement_find(v->map, v->chunk->replicas[i].disk);
    return *ret_index == SIZE_MAX ? NULL : &v->map->disks[*ret_index];
}

static struct view look(const struct heal_chunk *chunk, const struct placement_map *map)
{
    struct view v = {.chunk = chunk, .map = map};
    for (unsigned i = 0; i < chunk->n; i++) {
        const struct heal_replica *r = &chunk->replicas[i];
        size_t index;
        const struct placement_disk *disk = disk_of(&v, i, &index);
        v.damaged += r->damaged;
        if (disk == NULL || r->leaving || !(r->ready || r->copying))
            continue;
        v.wait |= !disk->up && !disk->away;
        if (!disk->up)
            continue;
        v.draining_ready += r->ready && disk->draining;
        v.readable |= r->ready && r->sealed;
        if (disk->draining)
            continue;
        v.usable++;
        v.copying += r->copying;
        if (r->ready && r->sealed)
            v.keepers[v.n_keepers++] = (struct member){i, index};
    }
    return v;
}

/* Copies that will not come any more, because their target went away or is being emptied. */
static void drop_lost(const struct heal_chunk *chunk, const struct placement_map *map, struct heal_decision *d)
{
    for (unsigned i = 0; i < chunk->n; i++) {
        size_t at = placement_find(map, chunk->replicas[i].disk);
        if (chunk->replicas[i].copying && (at == SIZE_MAX || map->disks[at].away || map->disks[at].draining))
            d->drop |= (uint16_t)(1u << i);
    }
}

/* ---- surplus */
/* Where the others of its group are; `disks` has room for them and the copies. */
static unsigned apart(const struct heal_chunk *chunk, const struct placement_map *map, size_t *disks)
{
    unsigned n = 0;
    for (unsigned i = 0; i < chunk->n_apart; i++) {
        size_t at = placement_find(map, chunk->apart[i]);
        if (at != SIZE_MAX)
            disks[n++] = at;
    }
    return n;
}

static unsigned spread_without(const struct view *v, enum domain domain, unsigned left_out)
{
    size_t disks[PLACEMENT_COPIES_MAX + PLACEMENT_MEMBERS_MAX];
    unsigned n = apart(v->chunk, v->map, disks);
    for (unsigned i = 0; i < v->n_keepers; i++)
        if (i != left_out)
            disks[n++] = v->keepers[i].disk;
    return placement_spread(v->map, domain, disks, n);
}

/* The keeper that is missed least: domains first, then nodes, racks, and then the fullest disk. */
static unsigned least_missed(const struct view *v)
{
    unsigned best = 0;
    uint64_t best_value = 0;
    for (unsigned i = 0; i < v->n_keepers; i++) {
        uint64_t value = (uint64_t)spread_without(v, v->chunk->domain, i) << 48 |
                         (uint64_t)spread_without(v, DOMAIN_NODE, i) << 40 |
                         (uint64_t)spread_without(v, DOMAIN_RACK, i) << 32 |
                         placement_fill(&v->map->disks[v->keepers[i].disk]);
        if (value >= best_value) {
            best = i;
            best_value = value;
        }
    }
    return best;
}

/* Only verified copies on disks that stay let others go, so at no instant are there fewer than wanted. */
static void drop_surplus(struct view *v, struct heal_decision *d)
{
    for (unsigned i = 0; i < v->chunk->n; i++) {
        size_t index;
        const struct placement_disk *disk = disk_of(v, i, &index);
        bool emptied = disk != NULL && disk->draining && v->chunk->replicas[i].ready;
        if (emptied || v->chunk->replicas[i].damaged)
            d->drop |= (uint16_t)(1u << i);
    }
    while (v->n_keepers > v->chunk->want) {
        unsigned gone = least_missed(v);
        d->drop |= (uint16_t)(1u << v->keepers[gone].index);
        v->keepers[gone] = v->keepers[--v->n_keepers];
    }
}

/* ---- more copies */
static unsigned given(const struct heal_decision *d, size_t disk)
{
    unsigned n = 0;
    for (unsigned i = 0; i < d->n_add; i++)
        n += d->sources[i] == disk;
    return n;
}

/* The source that may give most now; also a disk that is being emptied, as long as it lives. */
static size_t source(const struct view *v, const struct heal_decision *d)
{
    unsigned most = 0;
    size_t best = SIZE_MAX;
    for (unsigned i = 0; i < v->chunk->n; i++) {
        const struct heal_replica *r = &v->chunk->replicas[i];
        size_t index;
        const struct placement_disk *disk = disk_of(v, i, &index);
        if (disk == NULL || !disk->up || !r->ready || !r->sealed || r->leaving)
            continue;
        unsigned room = disk->source_room - MIN(disk->source_room, given(d, index));
        if (room > most) {
            most = room;
            best = index;
        }
    }
    return best;
}

/* Those that leave count as held (C9), but not for the spread; drained ones neither. */
static struct placement_request request(const struct view *v, unsigned copies)
{
    struct placement_request request = {
        .copies = copies, .domain = v->chunk->domain, .affinity = v->chunk->affinity};
    /* A shard's own copies do not stay together, so they may share a node for a while; others of its group not. */
    const struct heal_chunk *chunk = v->chunk;
    request.apart = chunk->coded && chunk->want == 1 && chunk->domain != DOMAIN_DISK;
    for (unsigned i = 0; i < chunk->n_apart && chunk->want == 1; i++)
        request.held[request.n_held++] = chunk->apart[i];
    for (unsigned i = 0; i < chunk->n && request.n_held < PLACEMENT_MEMBERS_MAX; i++) {
        request.held[request.n_held++] = chunk->replicas[i].disk;
        request.n_loose += request.apart;
    }
    return request;
}

static void add(const struct view *v, unsigned copies, struct prng *prng, struct heal_decision *d)
{
    unsigned room = PLACEMENT_COPIES_MAX - v->chunk->n;
    struct placement_request wish = request(v, MIN(copies, room));
    unsigned places = placement_choose(v->map, &wish, prng, d->targets);
    for (; d->n_add < places; d->n_add++) {
        size_t from = source(v, d);
        if (from == SIZE_MAX && !(v->chunk->can_build && !v->readable))
            break;
        d->sources[d->n_add] = from;
    }
    d->stuck = d->n_add < copies;
}

/* One more copy when it brings a new domain; the surplus goes when it has come. */
static void improve_spread(const struct view *v, struct prng *prng, struct heal_decision *d)
{
    size_t disks[PLACEMENT_COPIES_MAX + PLACEMENT_MEMBERS_MAX];
    unsigned n = apart(v->chunk, v->map, disks), wanted = v->chunk->want + n;
    for (unsigned i = 0; i < v->n_keepers; i++)
        disks[n++] = v->keepers[i].disk;
    unsigned before = placement_spread(v->map, v->chunk->domain, disks, n);
    if (before >= wanted || v->n_keepers >= PLACEMENT_COPIES_MAX)
        return;
    add(v, 1, prng, d);
    if (d->n_add == 0)
        return;
    disks[n++] = d->targets[0];
    if (placement_spread(v->map, v->chunk->domain, disks, n) == before)
        d->n_add = 0;
}

void heal_decide(const struct heal_chunk *chunk, const struct placement_map *map, bool improve,
                 struct prng *prng, struct heal_decision *ret)
{
    *ret = (struct heal_decision){0};
    struct view v = look(chunk, map);
    drop_lost(chunk, map, ret);
    if (v.n_keepers >= chunk->want && v.n_keepers > 0 && (v.n_keepers > chunk->want || v.draining_ready > 0 || v.damaged > 0)) {
        drop_surplus(&v, ret);
        return;
    }
    if (v.usable < chunk->want) {
        ret->wait = v.wait;
        if (!v.wait)
            add(&v, chunk->want - v.usable, prng, ret);
        return;
    }
    if (improve && v.copying == 0 && v.n_keepers == chunk->want)
        improve_spread(&v, prng, ret);
}

/* ---- balance */
static bool weighs(const struct placement_disk *disk)
{
    return disk->up && !disk->draining && disk->total > 0;
}

bool heal_unbalanced(const struct placement_map *map, uint32_t points)
{
    uint32_t average = placement_average(map);
    for (size_t i = 0; i < map->n; i++) {
        uint32_t fill = placement_fill(&map->disks[i]);
        if (weighs(&map->disks[i]) && (fill > average ? fill - average : average - fill) > points)
            return true;
    }
    return false;
}

size_t heal_balance_source(const struct placement_map *map)
{
    size_t best = SIZE_MAX;
    uint32_t highest = placement_average(map);
    for (size_t i = 0; i < map->n; i++) {
        const struct placement_disk *disk = &map->disks[i];
        uint32_t fill = placement_fill(disk);
        if (weighs(disk) && disk->source_room > 0 && fill > highest) {
            highest = fill;
            best = i;
        }
    }
    return best;
}

/* A quarter of the band in which nothing begins: what is moved stays where it went. */
#define BALANCE_GAIN (BALANCE_STOP / 4)

size_t heal_balance_target(const struct heal_chunk *chunk, const struct placement_map *map, size_t source,
                           struct prng *prng)
{
    struct view v = look(chunk, map);
    struct placement_request wish = {.copies = 1, .domain = chunk->domain, .emptiest = true};
    size_t others[PLACEMENT_COPIES_MAX + PLACEMENT_MEMBERS_MAX], now[PLACEMENT_COPIES_MAX + PLACEMENT_MEMBERS_MAX], target;
    unsigned n = 0, n_now = 0;
    bool holds = false;
    /* A chunk with anything under way, or of an affinity group, stays. */
    if (v.n_keepers != chunk->n || v.n_keepers != chunk->want || chunk->affinity != 0)
        return SIZE_MAX;
    wish.apart = chunk->coded && chunk->domain != DOMAIN_DISK;
    n = n_now = apart(chunk, map, now);
    memcpy(others, now, n * sizeof *others);
    for (unsigned i = 0; i < n; i++)
        wish.held[wish.n_held++] = map->disks[now[i]].id;
    for (unsigned i = 0; i < v.n_keepers; i++) {
        size_t keeper = now[n_now++] = v.keepers[i].disk;
        if (keeper == source) {
            holds = true;
            continue;
        }
        others[n++] = keeper;
        wish.held[wish.n_held++] = map->disks[keeper].id;
    }
    if (!holds || placement_choose(map, &wish, prng, &target) == 0 || target == source)
        return SIZE_MAX;
    if (placement_fill(&map->disks[target]) + BALANCE_GAIN >= placement_fill(&map->disks[source]))
        return SIZE_MAX;
    others[n++] = target;
    bool kept = placement_spread(map, chunk->domain, others, n) >= placement_spread(map, chunk->domain, now, n_now) &&
                placement_spread(map, DOMAIN_RACK, others, n) >= placement_spread(map, DOMAIN_RACK, now, n_now);
    return kept ? target : SIZE_MAX;
}
