#include "placement.h"

#include "common/check.h"
#include "common/err.h"

/* So many draws for a place without any neighbour before all disks are looked at. */
#define DRAWS_MAX 24
/* Fewer disks than this are all looked at: it is as cheap and leaves nothing to luck. */
#define SCAN_ALL 32
/* A request in the queue counts like 0.05 % of fill, up to 64 of them: load decides between equals
 * and never unbalances the disks. */
#define QUEUE_FILL 500
#define QUEUE_MAX 64

int placement_map_init(struct placement_map *map, struct placement_disk *disks, size_t n)
{
    *map = (struct placement_map){.disks = disks, .n = n};
    map->weights = calloc(n + 1, sizeof *map->weights);
    if (map->weights == NULL)
        return -E_NOMEM;
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        CHECK(i == 0 || disks[i - 1].id < disks[i].id);
        bool counts = disks[i].up && !disks[i].draining;
        sum += counts ? disks[i].total / MIB(1) + 1 : 0;
        map->weights[i] = sum;
        map->total_mib += counts ? disks[i].total / MIB(1) : 0;
        map->used_mib += counts ? disks[i].used / MIB(1) : 0;
    }
    return 0;
}

void placement_map_fini(struct placement_map *map)
{
    free(map->weights);
    *map = (struct placement_map){0};
}

size_t placement_find(const struct placement_map *map, uint32_t id)
{
    size_t low = 0, high = map->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (map->disks[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < map->n && map->disks[low].id == id ? low : SIZE_MAX;
}

void placement_use(struct placement_map *map, size_t index, int64_t bytes)
{
    struct placement_disk *disk = &map->disks[index];
    uint64_t before = disk->used / MIB(1);
    uint64_t less = bytes < 0 ? (uint64_t)-bytes : 0;
    disk->used = bytes >= 0 ? disk->used + (uint64_t)bytes : disk->used - MIN(disk->used, less);
    if (disk->up && !disk->draining)
        map->used_mib += disk->used / MIB(1) - before;
}

static uint32_t share(uint64_t used_mib, uint64_t total_mib)
{
    return total_mib == 0 ? 1000000 : (uint32_t)MIN(used_mib * 1000000 / total_mib, (uint64_t)1000000);
}

uint32_t placement_fill(const struct placement_disk *disk)
{
    return share(disk->used / MIB(1), disk->total / MIB(1));
}

uint32_t placement_average(const struct placement_map *map)
{
    return map->total_mib == 0 ? 0 : share(map->used_mib, map->total_mib);
}

bool placement_usable(const struct placement_disk *disk)
{
    uint64_t room = MAX(MIB(1), MIN(PLACEMENT_ROOM_BYTES, disk->total / PLACEMENT_ROOM_SHARE));
    return disk->up && !disk->draining && !disk->busy && disk->free >= room;
}

bool placement_same_domain(const struct placement_disk *a, const struct placement_disk *b, enum domain domain)
{
    switch (domain) {
    case DOMAIN_DISK:
        return a->id == b->id;
    case DOMAIN_RACK:
        return a->rack == b->rack;
    case DOMAIN_SITE:
        return a->site == b->site;
    case DOMAIN_DEFAULT:
    case DOMAIN_NODE:
        break;
    }
    return a->node == b->node;
}

unsigned placement_spread(const struct placement_map *map, enum domain domain, const size_t *disks, unsigned n)
{
    unsigned spread = 0;
    for (unsigned i = 0; i < n; i++) {
        bool new = true;
        for (unsigned j = 0; j < i; j++)
            new &= !placement_same_domain(&map->disks[disks[i]], &map->disks[disks[j]], domain);
        spread += new;
    }
    return spread;
}

struct choice {
    const struct placement_map *map;
    const struct placement_request *request;
    struct prng *prng;
    unsigned n; /* held and chosen */
    size_t taken[2 * PLACEMENT_MEMBERS_MAX];
    bool loose[2 * PLACEMENT_MEMBERS_MAX]; /* its node is not taken */
};

static bool candidate(const struct choice *c, size_t index)
{
    if (!placement_usable(&c->map->disks[index]))
        return false;
    for (unsigned i = 0; i < c->n; i++)
        if (c->taken[i] == index ||
            (c->request->apart && !c->loose[i] && c->map->disks[c->taken[i]].node == c->map->disks[index].node))
            return false;
    return true;
}

/* How crowded its surroundings are: 0 = nobody there. Sites before racks before nodes. */
static uint32_t crowd(const struct choice *c, size_t index)
{
    const struct placement_disk *disk = &c->map->disks[index];
    uint32_t site = 0, rack = 0, node = 0;
    for (unsigned i = 0; i < c->n; i++) {
        const struct placement_disk *other = &c->map->disks[c->taken[i]];
        site += c->request->domain == DOMAIN_SITE && other->site == disk->site;
        rack += other->rack == disk->rack;
        node += other->node == disk->node;
    }
    return site << 16 | rack << 8 | node;
}

static uint32_t score(const struct placement_disk *disk)
{
    return placement_fill(disk) + MIN(disk->queue, (uint32_t)QUEUE_MAX) * QUEUE_FILL;
}

static size_t better(const struct choice *c, size_t a, size_t b)
{
    return score(&c->map->disks[b]) < score(&c->map->disks[a]) ? b : a;
}

/* A disk drawn in proportion to its size. */
static size_t draw(const struct choice *c)
{
    const struct placement_map *map = c->map;
    uint64_t at = prng_below(c->prng, map->weights[map->n - 1]);
    size_t low = 0, high = map->n - 1;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (map->weights[middle] <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The better of two draws, both where no copy is near. SIZE_MAX when luck does not find one. */
static size_t pick_drawn(const struct choice *c)
{
    size_t found = SIZE_MAX;
    for (unsigned i = 0; i < DRAWS_MAX && c->map->weights[c->map->n - 1] > 0; i++) {
        size_t at = draw(c);
        if (!candidate(c, at) || crowd(c, at) != 0)
            continue;
        if (found != SIZE_MAX)
            return better(c, found, at);
        found = at;
    }
    return found;
}

static uint32_t crowd_least(const struct choice *c, uint64_t *ret_weight)
{
    uint32_t least = UINT32_MAX;
    *ret_weight = 0;
    for (size_t i = 0; i < c->map->n; i++) {
        if (!candidate(c, i))
            continue;
        uint32_t here = crowd(c, i);
        if (here < least) {
            least = here;
            *ret_weight = 0;
        }
        if (here == least)
            *ret_weight += c->map->disks[i].total / MIB(1) + 1;
    }
    return least;
}

static size_t nth_weight(const struct choice *c, uint32_t least, uint64_t at)
{
    for (size_t i = 0; i < c->map->n; i++) {
        if (!candidate(c, i) || crowd(c, i) != least)
            continue;
        uint64_t weight = c->map->disks[i].total / MIB(1) + 1;
        if (at < weight)
            return i;
        at -= weight;
    }
    return SIZE_MAX;
}

static size_t emptiest(const struct choice *c, uint32_t least)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < c->map->n; i++)
        if (candidate(c, i) && crowd(c, i) == least)
            best = best == SIZE_MAX ? i : better(c, best, i);
    return best;
}

static size_t pick(const struct choice *c)
{
    size_t found = SIZE_MAX;
    if (c->map->n > SCAN_ALL && !c->request->emptiest)
        found = pick_drawn(c);
    if (found != SIZE_MAX)
        return found;
    uint64_t weight;
    uint32_t least = crowd_least(c, &weight);
    if (least == UINT32_MAX)
        return SIZE_MAX;
    if (c->request->emptiest)
        return emptiest(c, least);
    size_t a = nth_weight(c, least, prng_below(c->prng, weight));
    size_t b = nth_weight(c, least, prng_below(c->prng, weight));
    return better(c, a, b);
}

static bool leans(const struct choice *c, size_t index)
{
    return placement_fill(&c->map->disks[index]) > placement_average(c->map) + PLACEMENT_LEAN;
}

static uint64_t mix(uint64_t v)
{
    v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ull; /* splitmix64's finalizer */
    v = (v ^ v >> 27) * 0x94d049bb133111ebull;
    return v ^ v >> 31;
}

/* The group's disk: the one with the highest hash of both (rendezvous hashing), so a disk that comes
 * or goes changes only the groups it wins or had won. */
static size_t pick_affine(const struct choice *c)
{
    uint64_t weight, highest = 0;
    uint32_t least = crowd_least(c, &weight);
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < c->map->n; i++) {
        if (!candidate(c, i) || crowd(c, i) != least || leans(c, i))
            continue;
        uint64_t hash = mix(c->request->affinity ^ mix(c->map->disks[i].id));
        if (best == SIZE_MAX || hash > highest) {
            best = i;
            highest = hash;
        }
    }
    return best;
}

/* The least full disk of the writer's own node. */
static size_t pick_own(const struct choice *c)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < c->map->n; i++)
        if (c->map->disks[i].node == c->request->writer && candidate(c, i) && !leans(c, i))
            best = best == SIZE_MAX ? i : better(c, best, i);
    return best;
}

static size_t next(const struct choice *c, bool first)
{
    size_t found = SIZE_MAX;
    if (c->request->affinity != 0)
        found = pick_affine(c);
    else if (first && c->request->writer != 0)
        found = pick_own(c);
    return found != SIZE_MAX ? found : pick(c);
}

unsigned placement_choose(const struct placement_map *map, const struct placement_request *request,
                          struct prng *prng, size_t *ret)
{
    CHECK(request->copies <= PLACEMENT_MEMBERS_MAX && request->n_held <= PLACEMENT_MEMBERS_MAX);
    struct choice c = {.map = map, .request = request, .prng = prng};
    for (unsigned i = 0; i < request->n_held; i++) {
        size_t at = placement_find(map, request->held[i]);
        if (at == SIZE_MAX)
            continue;
        c.loose[c.n] = i >= request->n_held - request->n_loose;
        c.taken[c.n++] = at;
    }
    unsigned chosen = 0;
    while (chosen < request->copies && map->n > 0) {
        size_t found = next(&c, chosen == 0 && request->n_held == 0);
        if (found == SIZE_MAX)
            break;
        c.taken[c.n++] = ret[chosen++] = found;
    }
    return chosen;
}
