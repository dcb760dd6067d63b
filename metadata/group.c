#include "group.h"

#include "common/check.h"
#include "common/err.h"
#include "group_make.h"
#include "heal_state.h"

#define GROUP_VERSION 1
#define GROUP_LEAVING 1 /* in the stored flags */
#define GROUP_NEXT 2    /* … the row has what is being made */

/* ------------------------------------------------------------------ rows */
unsigned group_shards(const struct group *group)
{
    return (unsigned)group->k + group->m;
}

static void encode_next(const struct group *g, struct writer *w)
{
    writer_u64(w, g->next_generation);
    writer_u64(w, g->next_length);
    writer_u64(w, g->next_task);
    writer_u64(w, g->next_ns);
    writer_u32(w, g->done);
    for (unsigned i = 0; i < group_shards(g); i++) {
        writer_u64(w, g->next[i].chunk);
        writer_u32(w, g->next[i].keeper);
    }
}

void group_encode(const struct group *g, struct writer *w)
{
    writer_u8(w, GROUP_VERSION);
    writer_u8(w, g->k);
    writer_u8(w, g->m);
    writer_u8(w, g->state);
    writer_u8(w, g->domain);
    writer_u8(w, (g->leaving ? GROUP_LEAVING : 0) | (g->next_generation != 0 ? GROUP_NEXT : 0));
    const uint64_t numbers[] = {g->generation, g->generation_last, g->length, g->owner, g->after_ns};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        writer_u64(w, numbers[i]);
    writer_u32(w, g->lost);
    writer_u32(w, g->ghosts);
    writer_u32(w, g->known);
    for (unsigned i = 0; i < group_shards(g); i++) {
        writer_u64(w, g->shards[i].chunk);
        if (g->shards[i].chunk == 0)
            continue;
        writer_u32(w, g->shards[i].length);
        writer_u32(w, g->shards[i].digest);
    }
    if (g->next_generation != 0)
        encode_next(g, w);
}

static void decode_next(struct reader *r, struct group *g)
{
    g->next_generation = reader_u64(r);
    g->next_length = reader_u64(r);
    g->next_task = reader_u64(r);
    g->next_ns = reader_u64(r);
    g->done = reader_u32(r);
    for (unsigned i = 0; i < group_shards(g); i++) {
        g->next[i].chunk = reader_u64(r);
        g->next[i].keeper = reader_u32(r);
    }
    r->failed |= g->next_generation == 0; /* nothing would be said by it */
}

static bool masks_fit(const struct group *g)
{
    return ((g->lost | g->ghosts | g->known | g->done) >> group_shards(g)) == 0;
}

int group_decode(uint64_t id, const void *data, size_t n, struct group *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != GROUP_VERSION)
        return -E_CORRUPT;
    struct group g = {.id = id};
    g.k = reader_u8(&r);
    g.m = reader_u8(&r);
    g.state = reader_u8(&r);
    g.domain = reader_u8(&r);
    uint8_t flags = reader_u8(&r);
    if (r.failed || g.k < EC_DATA_MIN || g.k > EC_DATA_MAX || g.m < 1 || g.m > EC_PARITY_MAX || g.state < GROUP_UPLOAD ||
        g.state > GROUP_CODED || g.domain > DOMAIN_SITE || (flags & ~(GROUP_LEAVING | GROUP_NEXT)) != 0)
        return -E_CORRUPT;
    g.leaving = flags & GROUP_LEAVING;
    uint64_t *const numbers[] = {&g.generation, &g.generation_last, &g.length, &g.owner, &g.after_ns};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        *numbers[i] = reader_u64(&r);
    g.lost = reader_u32(&r);
    g.ghosts = reader_u32(&r);
    g.known = reader_u32(&r);
    for (unsigned i = 0; i < group_shards(&g); i++) {
        g.shards[i].chunk = reader_u64(&r);
        if (g.shards[i].chunk == 0)
            continue;
        g.shards[i].length = reader_u32(&r);
        g.shards[i].digest = reader_u32(&r);
    }
    if (flags & GROUP_NEXT)
        decode_next(&r, &g);
    if (r.failed || reader_left(&r) != 0 || !masks_fit(&g))
        return -E_CORRUPT;
    *ret = g;
    return 0;
}

int group_get(struct tables *t, uint64_t id, struct group *ret)
{
    struct key key = key_1(TABLE_GROUP, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    return group_decode(id, value.data, value.len, ret) != 0 ? tables_corrupt(t, &key, "parity group") : 0;
}

uint64_t group_id_next(struct tables *t)
{
    return ++tables_state(t)->last_group;
}

/* ------------------------------------------------------------------ what a group bears */
static uint32_t all_bits(unsigned n)
{
    return (uint32_t)((1ull << n) - 1);
}

uint32_t group_zeros(const struct group *g)
{
    uint32_t zeros = 0;
    for (unsigned i = 0; i < group_shards(g); i++)
        zeros |= g->shards[i].chunk == 0 ? 1u << i : 0;
    return zeros;
}

static unsigned live(const struct group *g)
{
    return (unsigned)__builtin_popcount(all_bits(group_shards(g)) & ~g->lost);
}

unsigned group_spare(const struct group *g)
{
    return live(g) > g->k ? live(g) - g->k : 0;
}

unsigned group_level(const struct group *g)
{
    return live(g) >= g->k ? live(g) - g->k + 1 : 0;
}

int group_index(const struct group_shard *shards, unsigned n, uint64_t chunk)
{
    for (unsigned i = 0; i < n; i++)
        if (chunk != 0 && shards[i].chunk == chunk)
            return (int)i;
    return -1;
}

/* With fewer than k left, what has a copy is still there, and the rest is lost. */
void group_count(const struct group *g, int sign, uint64_t *by_copies)
{
    if (g->state != GROUP_CODED)
        return;
    unsigned real = group_shards(g) - (unsigned)__builtin_popcount(group_zeros(g));
    unsigned lost = (unsigned)__builtin_popcount(g->lost), level = group_level(g);
    uint64_t step = (uint64_t)sign;
    if (level > 0) {
        by_copies[MIN(level, (unsigned)MD_COPIES_MAX)] += step * real;
        return;
    }
    by_copies[1] += step * (real - lost);
    by_copies[0] += step * lost;
}

/* ------------------------------------------------------------------ counters */
static void sums(const struct group *g, int sign, struct heal_state *heal)
{
    uint64_t step = (uint64_t)sign;
    heal->groups += g->state == GROUP_CODED ? step : 0;
    heal->coding += g->next_generation != 0 ? step : 0;
    heal->ghosts += step * (uint64_t)__builtin_popcount(g->ghosts);
}

static bool same_sums(const struct group *a, const struct group *b)
{
    return a->state == b->state && (a->next_generation != 0) == (b->next_generation != 0) && a->ghosts == b->ghosts;
}

static int counted(struct tables *t, const struct group *old, const struct group *new)
{
    struct heal_state heal;
    struct state *s = tables_state(t);
    if (old != NULL)
        group_count(old, -1, s->by_copies);
    if (new != NULL)
        group_count(new, 1, s->by_copies);
    if (old != NULL && new != NULL && same_sums(old, new))
        return 0;
    int err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    if (old != NULL)
        sums(old, -1, &heal);
    if (new != NULL)
        sums(new, 1, &heal);
    return heal_state_put(t, &heal);
}

/* Lost members are listed by what is left of the group: when that changes they all move. `but` is being saved
 * and lists itself. */
static int relist(struct tables *t, const struct group *old, const struct group *new, uint64_t but)
{
    unsigned from = group_level(old), to = group_level(new);
    int err = 0;
    for (unsigned i = 0; i < group_shards(new) && from != to && err == 0; i++) {
        uint64_t id = new->shards[i].chunk;
        struct key before = key_2(TABLE_ENDANGERED, from, id), after = key_2(TABLE_ENDANGERED, to, id);
        if (!(old->lost & new->lost & 1u << i) || id == but)
            continue;
        err = tables_del(t, &before);
        if (err == 0)
            err = tables_put_empty(t, &after);
        if (err == 0 && to < from)
            chunk_heal_first(t, to, id);
    }
    return err;
}

static int put(struct tables *t, const struct group *g)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct key key = key_1(TABLE_GROUP, g->id);
    group_encode(g, &w);
    return tables_put(t, &key, &w);
}

int group_put(struct tables *t, struct group *g)
{
    struct group old;
    int err = group_get(t, g->id, &old);
    if (err != 0 && err != -E_NOENT)
        return err;
    err = counted(t, err == 0 ? &old : NULL, g);
    if (err == 0)
        err = group_due(t, g);
    return err == 0 ? put(t, g) : err;
}

int group_del(struct tables *t, const struct group *g)
{
    struct group old;
    struct key key = key_1(TABLE_GROUP, g->id);
    int err = group_get(t, g->id, &old);
    if (err == 0)
        err = counted(t, &old, NULL);
    if (err == 0)
        err = group_due_drop(t, g->id);
    return err == 0 ? tables_del(t, &key) : err;
}

/* ------------------------------------------------------------------ members */
struct members {
    unsigned n;
    struct chunk chunks[EC_SHARDS_MAX]; /* id 0: zeros */
};

static int members_load(struct tables *t, const struct group *g, const struct chunk *instead, struct members *ret)
{
    int err = 0;
    ret->n = group_shards(g);
    for (unsigned i = 0; i < ret->n && err == 0; i++) {
        ret->chunks[i] = (struct chunk){0};
        if (g->shards[i].chunk == instead->id)
            ret->chunks[i] = *instead;
        else if (g->shards[i].chunk != 0)
            err = chunk_get(t, g->shards[i].chunk, &ret->chunks[i]);
    }
    return err;
}

/* The disk of a copy that is up: a whole one, else one not compared yet, else one that is damaged, which may be repaired
 * where it is. */
static int live_disk(struct tables *t, const struct chunk *chunk, struct disk *ret, bool *ret_found)
{
    *ret_found = false;
    for (unsigned pass = 0; pass < 3; pass++)
        for (unsigned i = 0; i < chunk->n_replicas; i++) {
            const struct chunk_replica *r = &chunk->replicas[i];
            unsigned rank = r->flags & REPLICA_DAMAGED ? 2 : r->flags & REPLICA_SEALED ? 0 : 1;
            if (!(r->flags & REPLICA_READY) || rank != pass)
                continue;
            int err = disk_get(t, r->disk, ret);
            if (err != 0 && err != -E_NOENT)
                return err;
            *ret_found = err == 0 && ret->up;
            if (*ret_found)
                return 0;
        }
    return 0;
}

/* Where the shards are now. */
struct spots {
    bool there[EC_SHARDS_MAX];
    struct disk disks[EC_SHARDS_MAX];
    char racks[EC_SHARDS_MAX][NODE_TEXT_MAX + 1];
};

/* What a row says is live, as it was counted when it was saved: so that all that is listed by it agrees. */
static int spots_load(struct tables *t, const struct members *members, uint8_t domain, struct spots *ret)
{
    int err = 0;
    for (unsigned i = 0; i < members->n && err == 0; i++) {
        struct node node;
        ret->there[i] = false;
        ret->racks[i][0] = '\0';
        if (members->chunks[i].live > 0)
            err = live_disk(t, &members->chunks[i], &ret->disks[i], &ret->there[i]);
        if (err != 0 || !ret->there[i] || domain < DOMAIN_RACK)
            continue;
        err = clustermap_get(t, ret->disks[i].node, &node);
        if (err != 0)
            return err;
        size_t len = domain == DOMAIN_SITE ? node_site_len(node.rack) : strlen(node.rack);
        memcpy(ret->racks[i], node.rack, len);
        ret->racks[i][len] = '\0';
    }
    return err;
}

/* Of one node (or disk) there is one shard; of one rack or site as many as may be lost at once (G2). */
static bool crowded(const struct group *g, const struct spots *spots, unsigned i)
{
    unsigned same_node = 0, same_rack = 0;
    for (unsigned j = 0; j < i; j++) {
        if (!spots->there[j])
            continue;
        same_node += g->domain == DOMAIN_DISK ? spots->disks[j].id == spots->disks[i].id
                                              : spots->disks[j].node == spots->disks[i].node;
        same_rack += g->domain >= DOMAIN_RACK && strcmp(spots->racks[j], spots->racks[i]) == 0;
    }
    return same_node > 0 || same_rack >= g->m;
}

/* A sealed copy says what the shard's bytes are. */
static void learn(struct group *g, unsigned i, const struct chunk *chunk)
{
    for (unsigned j = 0; j < chunk->n_replicas && !(g->known & 1u << i); j++) {
        const struct chunk_replica *r = &chunk->replicas[j];
        if (!(r->flags & REPLICA_READY) || !(r->flags & REPLICA_SEALED) || r->length != chunk->length)
            continue;
        g->shards[i].length = (uint32_t)r->length;
        g->shards[i].digest = r->digest;
        g->known |= 1u << i;
    }
}

static int refresh(struct tables *t, struct group *g, struct members *members, struct chunk *saved)
{
    struct group old = *g;
    struct spots spots;
    int err = spots_load(t, members, g->domain, &spots);
    g->lost = 0;
    for (unsigned i = 0; i < members->n && err == 0; i++) {
        struct chunk *chunk = &members->chunks[i];
        if (chunk->id == 0)
            continue;
        learn(g, i, chunk);
        g->lost |= chunk->live > 0 ? 0 : 1u << i;
        uint8_t spread = !spots.there[i] || crowded(g, &spots, i) ? 0 : MAX(chunk->want, (uint8_t)1);
        if (chunk->id == saved->id)
            saved->spread = spread;
        else if (chunk->coded && chunk->spread != spread)
            err = chunk_respread(t, chunk, spread);
    }
    bool same = old.lost == g->lost && old.known == g->known;
    if (err == 0 && !same)
        err = relist(t, &old, g, saved->id);
    return err == 0 && !same ? group_put(t, g) : err;
}

int group_refresh(struct tables *t, struct chunk *chunk)
{
    struct group g;
    int err = group_get(t, chunk->group, &g);
    if (err != 0 || g.state != GROUP_CODED)
        return err;
    _cleanup_free_ struct members *members = malloc(sizeof *members);
    if (members == NULL)
        return tables_note(t, -E_NOMEM);
    err = members_load(t, &g, chunk, members);
    return err == 0 ? refresh(t, &g, members, chunk) : err;
}

int group_endangered_level(struct tables *t, const struct chunk *chunk, uint64_t *ret)
{
    struct group g;
    int err = group_get(t, chunk->group, &g);
    if (err == 0) /* one that is there gains copies because its policy asks them: nothing is lost */
        *ret = chunk->live == 0 ? group_level(&g) : (uint64_t)g.m + 1;
    return err;
}

int group_can_rebuild(struct tables *t, const struct chunk *chunk, bool *ret)
{
    struct group g;
    *ret = false;
    if (!chunk->coded)
        return 0;
    int err = group_get(t, chunk->group, &g);
    int index = err == 0 ? group_index(g.shards, group_shards(&g), chunk->id) : -1;
    if (index < 0)
        return err;
    g.lost |= 1u << index;
    *ret = group_level(&g) > 0;
    return 0;
}

static bool has_copy(const struct chunk *chunk)
{
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if ((chunk->replicas[i].flags & (REPLICA_READY | REPLICA_DAMAGED)) == REPLICA_READY)
            return true;
    return false;
}

int group_bears_loss(struct tables *t, const struct chunk *chunk, bool *ret)
{
    struct group g;
    unsigned others = 0;
    *ret = false;
    int err = chunk->coded ? group_get(t, chunk->group, &g) : -E_NOENT;
    for (unsigned i = 0; err == 0 && i < group_shards(&g); i++) {
        struct chunk other;
        if (g.shards[i].chunk == chunk->id)
            continue;
        err = g.shards[i].chunk != 0 ? chunk_get(t, g.shards[i].chunk, &other) : 0;
        others += err == 0 && (g.shards[i].chunk == 0 || has_copy(&other));
    }
    *ret = err == 0 && others >= g.k;
    return err == -E_NOENT && !chunk->coded ? 0 : err;
}

int group_apart(struct tables *t, const struct chunk *chunk, uint32_t *disks, unsigned *ret_n)
{
    struct group g;
    *ret_n = 0;
    int err = group_get(t, chunk->group, &g);
    for (unsigned i = 0; i < group_shards(&g) && err == 0; i++) {
        struct chunk other;
        struct disk disk;
        bool found;
        if (g.shards[i].chunk == 0 || g.shards[i].chunk == chunk->id)
            continue;
        err = chunk_get(t, g.shards[i].chunk, &other);
        if (err == 0)
            err = live_disk(t, &other, &disk, &found);
        if (err == 0 && found)
            disks[(*ret_n)++] = disk.id;
    }
    return err;
}

/* ------------------------------------------------------------------ a policy as a number */
uint64_t group_policy_number(const struct policy *policy)
{
    return 1ull << 63 | (uint64_t)policy->compress << 32 | (uint64_t)policy->domain << 24 | (uint64_t)policy->copies << 16 |
           (uint64_t)policy->code_k << 8 | policy->code_m;
}

bool group_policy_of_number(uint64_t number, struct policy *ret)
{
    if (!group_is_policy_number(number))
        return false;
    policy_default(ret);
    ret->compress = (uint8_t)(number >> 32);
    ret->domain = (uint8_t)(number >> 24);
    ret->copies = (uint8_t)(number >> 16);
    ret->code_k = (uint8_t)(number >> 8);
    ret->code_m = (uint8_t)number;
    return true;
}

/* ------------------------------------------------------------------ GROUP_GET */
struct shard_message {
    Tarn__Shard shard;
    struct extent_message extent;
};

static int fill_shard(struct tables *t, const struct group *g, unsigned i, const struct cluster *cluster,
                      struct shard_message *out)
{
    struct chunk chunk;
    tarn__shard__init(&out->shard);
    out->shard.index = i;
    if (g->shards[i].chunk == 0)
        return 0;
    int err = chunk_get(t, g->shards[i].chunk, &chunk);
    if (err != 0)
        return err;
    extent_message_fill(&(struct extent){.chunk = chunk.id}, &chunk, cluster, &out->extent);
    out->shard.chunk = chunk.id;
    out->shard.generation = chunk.generation;
    out->shard.length = chunk.length;
    out->shard.replicas = out->extent.extent.replicas;
    out->shard.n_replicas = out->extent.extent.n_replicas;
    return 0;
}

int group_query_get(struct tables *t, const void *message)
{
    const Tarn__GroupGet *m = message;
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    struct group g;
    Tarn__Shard *pointers[EC_SHARDS_MAX];
    int err = group_get(t, m->group, &g);
    if (err == -E_NOENT || (err == 0 && g.state != GROUP_CODED))
        return tables_fail(t, -E_NOENT, "parity group %llu is not there", (unsigned long long)m->group);
    if (err == 0)
        err = clustermap_load(t, &cluster);
    _cleanup_free_ struct shard_message *shards = calloc(EC_SHARDS_MAX, sizeof *shards);
    if (err == 0 && shards == NULL)
        err = tables_note(t, -E_NOMEM);
    Tarn__GroupReply reply = TARN__GROUP_REPLY__INIT;
    for (; reply.n_shards < group_shards(&g) && err == 0; reply.n_shards++) {
        err = fill_shard(t, &g, (unsigned)reply.n_shards, &cluster, &shards[reply.n_shards]);
        pointers[reply.n_shards] = &shards[reply.n_shards].shard;
    }
    if (err != 0)
        return err;
    reply.group = g.id;
    reply.k = g.k;
    reply.m = g.m;
    reply.generation = g.generation;
    reply.length = g.length;
    reply.shards = pointers;
    return tables_reply(t, &reply.base);
}
