#include "group_plan.h"

#include "common/check.h"
#include "common/err.h"

#define TRIES 8 /* matchings looked at for one that spreads well over racks */

/* ------------------------------------------------------------------ who may keep what */
struct planner {
    const struct group_plan_request *request;
    const struct placement_map *map;
    struct prng *prng;
    size_t reserved[EC_PARITY_MAX]; /* parity goes there: keeps nothing */
    unsigned n_reserved;
    int keeper[EC_DATA_MAX]; /* index into the chunk's disks; -1 = none */
    unsigned order[EC_DATA_MAX];
};

static bool apart(const struct planner *p, size_t a, size_t b)
{
    enum domain domain = p->request->domain == DOMAIN_DISK ? DOMAIN_DISK : DOMAIN_NODE;
    return !placement_same_domain(&p->map->disks[a], &p->map->disks[b], domain);
}

static size_t disk_of(const struct planner *p, unsigned chunk, int at)
{
    return p->request->chunks[chunk].disks[at];
}

static bool is_reserved(const struct planner *p, size_t disk)
{
    for (unsigned i = 0; i < p->n_reserved; i++)
        if (!apart(p, p->reserved[i], disk))
            return true;
    return false;
}

/* The chunk whose keeper is in the way; -1 = nobody's. */
static int taken_by(const struct planner *p, size_t disk)
{
    for (unsigned i = 0; i < p->request->k; i++)
        if (p->keeper[i] >= 0 && !apart(p, disk_of(p, i, p->keeper[i]), disk))
            return (int)i;
    return -1;
}

/* Finds a keeper for the chunk; others move when they have another choice (augmenting path). `seen`: disks tried on
 * this path. */
static bool augment(struct planner *p, unsigned chunk, uint32_t *seen)
{
    const struct group_plan_chunk *c = &p->request->chunks[chunk];
    if (*seen & 1u << chunk)
        return false;
    *seen |= 1u << chunk;
    for (unsigned pass = 0; pass < 2; pass++)
        for (unsigned i = 0; i < c->n; i++) {
            if (is_reserved(p, c->disks[i]))
                continue;
            int other = taken_by(p, c->disks[i]);
            if (other == (int)chunk || (pass == 0) != (other < 0))
                continue;
            if (other < 0 || augment(p, (unsigned)other, seen)) {
                p->keeper[chunk] = (int)i;
                return true;
            }
        }
    return false;
}

/* A chunk on the way to another disk must not be found in the way itself, so each path starts with it free. */
static unsigned match(struct planner *p)
{
    unsigned matched = 0;
    for (unsigned i = 0; i < p->request->k; i++)
        p->keeper[i] = -1;
    for (unsigned i = 0; i < p->request->k; i++) {
        int before[EC_DATA_MAX];
        uint32_t seen = 0;
        memcpy(before, p->keeper, sizeof before);
        if (augment(p, p->order[i], &seen))
            matched++;
        else
            memcpy(p->keeper, before, sizeof before);
    }
    return matched;
}

static void shuffle(struct planner *p)
{
    for (unsigned i = 0; i < p->request->k; i++)
        p->order[i] = i;
    for (unsigned i = p->request->k; i > 1; i--) {
        unsigned j = (unsigned)prng_below(p->prng, i), kept = p->order[i - 1];
        p->order[i - 1] = p->order[j];
        p->order[j] = kept;
    }
}

/* ------------------------------------------------------------------ where parity is cheap */
/* Chunks with a copy in the disk's place: what parity made there need not fetch. */
static unsigned local(const struct planner *p, size_t disk)
{
    unsigned n = 0;
    for (unsigned i = 0; i < p->request->k; i++)
        for (unsigned j = 0; j < p->request->chunks[i].n; j++)
            if (!apart(p, p->request->chunks[i].disks[j], disk)) {
                n++;
                break;
            }
    return n;
}

/* The m places that have most of the chunks, if they have half of them at least. */
static void reserve(struct planner *p)
{
    p->n_reserved = 0;
    while (p->n_reserved < p->request->m) {
        size_t best = SIZE_MAX;
        unsigned most = (p->request->k + 1) / 2;
        for (unsigned i = 0; i < p->request->k; i++)
            for (unsigned j = 0; j < p->request->chunks[i].n; j++) {
                size_t disk = p->request->chunks[i].disks[j];
                unsigned n = local(p, disk);
                if (n < most || (n == most && best != SIZE_MAX) || is_reserved(p, disk) ||
                    !placement_usable(&p->map->disks[disk]))
                    continue;
                most = n;
                best = disk;
            }
        if (best == SIZE_MAX)
            return;
        p->reserved[p->n_reserved++] = best;
    }
}

/* ------------------------------------------------------------------ the plan */
unsigned group_plan_places(const struct placement_map *map, enum domain domain)
{
    unsigned places = 0;
    for (size_t i = 0; i < map->n; i++) {
        bool new = map->disks[i].up && !map->disks[i].draining;
        for (size_t j = 0; j < i && new && domain != DOMAIN_DISK; j++)
            new = map->disks[j].node != map->disks[i].node || !map->disks[j].up || map->disks[j].draining;
        places += new;
    }
    return places;
}

/* Shards of one rack (site) beyond those that may be lost at once. */
static unsigned crowding(const struct planner *p, const size_t *disks, unsigned n)
{
    unsigned crowded = 0;
    for (unsigned i = 0; i < n && p->request->domain >= DOMAIN_RACK; i++) {
        unsigned same = 0;
        for (unsigned j = 0; j < i; j++)
            same += placement_same_domain(&p->map->disks[disks[i]], &p->map->disks[disks[j]], p->request->domain);
        crowded += same >= p->request->m;
    }
    return crowded;
}

/* Disks for chunks without a keeper and for the rest of the parity. -E_NOSPC when there are not enough. */
static int fill_up(const struct planner *p, struct group_plan *ret)
{
    struct placement_request wish = {.domain = p->request->domain, .apart = p->request->domain != DOMAIN_DISK};
    ret->copy = 0;
    for (unsigned i = 0; i < p->request->k; i++) {
        if (p->keeper[i] < 0)
            ret->copy |= 1u << i;
        else
            wish.held[wish.n_held++] = p->map->disks[ret->keepers[i] = disk_of(p, i, p->keeper[i])].id;
    }
    for (unsigned i = 0; i < p->n_reserved; i++)
        wish.held[wish.n_held++] = p->map->disks[ret->parity[i] = p->reserved[i]].id;
    unsigned copies = (unsigned)__builtin_popcount(ret->copy), more = copies + p->request->m - p->n_reserved;
    size_t chosen[PLACEMENT_MEMBERS_MAX];
    wish.copies = more;
    if (placement_choose(p->map, &wish, p->prng, chosen) < more)
        return -E_NOSPC;
    unsigned next = 0;
    for (unsigned i = 0; i < p->request->k; i++)
        if (ret->copy & 1u << i)
            ret->keepers[i] = chosen[next++];
    for (unsigned i = p->n_reserved; i < p->request->m; i++)
        ret->parity[i] = chosen[next++];
    return 0;
}

static unsigned worth(const struct planner *p, const struct group_plan *plan)
{
    size_t disks[PLACEMENT_MEMBERS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < p->request->k; i++)
        disks[n++] = plan->keepers[i];
    for (unsigned i = 0; i < p->request->m; i++)
        disks[n++] = plan->parity[i];
    /* Racks first, then data that moves, then parity made far from the data. */
    return crowding(p, disks, n) << 16 | (unsigned)__builtin_popcount(plan->copy) << 8 | (p->request->m - p->n_reserved);
}

static bool any_busy(const struct placement_map *map)
{
    for (size_t i = 0; i < map->n; i++)
        if (map->disks[i].up && !map->disks[i].draining && map->disks[i].busy)
            return true;
    return false;
}

int group_plan(const struct group_plan_request *request, const struct placement_map *map, struct prng *prng,
               struct group_plan *ret)
{
    CHECK(request->k >= 2 && request->k <= EC_DATA_MAX && request->m >= 1 && request->m <= EC_PARITY_MAX);
    struct planner p = {.request = request, .map = map, .prng = prng};
    unsigned best = UINT32_MAX;
    if (group_plan_places(map, request->domain) < request->k + request->m)
        return -E_NOSPC;
    for (unsigned try = 0; try < TRIES && best != 0; try++) {
        struct group_plan plan;
        shuffle(&p);
        reserve(&p);
        /* Data that need not move is worth more than parity that is made near it. */
        while (match(&p) < request->k && p.n_reserved > 0)
            p.n_reserved--;
        if (fill_up(&p, &plan) != 0 || worth(&p, &plan) >= best)
            continue;
        best = worth(&p, &plan);
        *ret = plan;
    }
    if (best != UINT32_MAX)
        return 0;
    return any_busy(map) ? -E_BUSY : -E_NOSPC;
}

/* ------------------------------------------------------------------ new chunks */
static uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull; /* splitmix64's finalizer */
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    return v ^ v >> 31;
}

struct place {
    uint64_t rank;
    size_t disk;
};

static int by_rank(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->rank != y->rank ? (x->rank > y->rank ? -1 : 1) : 0;
}

/* The least full usable disk of each node, in the window's order of nodes (rendezvous hashing: a node that comes or
 * goes changes little). Those that are much fuller than the average come last. */
static size_t places_of(const struct placement_map *map, uint64_t window, struct place *places)
{
    size_t n = 0;
    for (size_t i = 0; i < map->n; i++) {
        const struct placement_disk *disk = &map->disks[i];
        if (!placement_usable(disk))
            continue;
        size_t at = 0;
        while (at < n && map->disks[places[at].disk].node != disk->node)
            at++;
        if (at == n)
            places[n++] = (struct place){.disk = i};
        else if (placement_fill(disk) < placement_fill(&map->disks[places[at].disk]))
            places[at].disk = i;
    }
    for (size_t i = 0; i < n; i++) {
        const struct placement_disk *disk = &map->disks[places[i].disk];
        bool leans = placement_fill(disk) > placement_average(map) + PLACEMENT_LEAN;
        places[i].rank = mix(window ^ mix(disk->node)) >> 1 | (leans ? 0 : 1ull << 63);
    }
    qsort(places, n, sizeof *places, by_rank);
    return n;
}

int group_plan_new(const struct placement_map *map, const struct group_plan_slot *slot, size_t *ret, unsigned *ret_n)
{
    _cleanup_free_ struct place *places = malloc((map->n + 1) * sizeof *places);
    *ret_n = 0;
    if (places == NULL)
        return -E_NOMEM;
    size_t n = places_of(map, slot->window, places), first = slot->m, end = first + slot->k;
    if (n < end)
        return 0;
    /* The first m of the order take the other copies; the writer's own node keeps the first chunk whole. */
    for (size_t i = first; i < end; i++)
        if (slot->writer != 0 && map->disks[places[i].disk].node == slot->writer) {
            struct place kept = places[first];
            places[first] = places[i];
            places[i] = kept;
        }
    ret[0] = places[first + slot->slot % slot->k].disk;
    for (unsigned i = 0; i < slot->m; i++)
        ret[1 + i] = places[i].disk;
    *ret_n = 1 + slot->m;
    return 0;
}
