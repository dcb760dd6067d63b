#include "chunkmap.h"

#include "common/check.h"
#include "common/err.h"
#include "damage.h"
#include "group.h"
#include "group_make.h"
#include "group_plan.h"
#include "heal_state.h"
#include "piece.h"

int chunk_get(struct tables *t, uint64_t id, struct chunk *ret)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    return chunk_decode(id, value.data, value.len, ret) != 0 ? tables_corrupt(t, &key, "chunk") : 0;
}

unsigned chunk_ready(const struct chunk *chunk)
{
    unsigned ready = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        ready += (chunk->replicas[i].flags & REPLICA_READY) != 0;
    return ready;
}

/* What the row says of where its live copies are. */
struct places {
    unsigned n;
    uint32_t disks[MD_REPLICAS_MAX], nodes[MD_REPLICAS_MAX];
};

static int places_load(struct tables *t, const struct chunk *chunk, struct places *ret)
{
    *ret = (struct places){0};
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        struct disk disk;
        if ((chunk->replicas[i].flags & (REPLICA_READY | REPLICA_DAMAGED)) != REPLICA_READY)
            continue;
        int err = disk_get(t, chunk->replicas[i].disk, &disk);
        if (err != 0 && err != -E_NOENT)
            return err;
        if (err != 0 || !disk.up)
            continue;
        ret->disks[ret->n] = disk.id;
        ret->nodes[ret->n++] = disk.node;
    }
    return 0;
}

static int same_domain(struct tables *t, uint8_t domain, const struct places *p, unsigned i, unsigned j,
                       bool *ret)
{
    *ret = domain == DOMAIN_DISK ? p->disks[i] == p->disks[j] : p->nodes[i] == p->nodes[j];
    if (*ret || domain < DOMAIN_RACK)
        return 0;
    struct node a, b;
    int err = clustermap_get(t, p->nodes[i], &a);
    if (err == 0)
        err = clustermap_get(t, p->nodes[j], &b);
    if (err != 0)
        return err;
    size_t site_a = node_site_len(a.rack), site_b = node_site_len(b.rack);
    *ret = domain == DOMAIN_RACK ? strcmp(a.rack, b.rack) == 0
                                 : site_a == site_b && memcmp(a.rack, b.rack, site_a) == 0;
    return 0;
}

/* Live copies, and in how many domains they are. */
static int live_copies(struct tables *t, struct chunk *chunk)
{
    struct places places;
    int err = places_load(t, chunk, &places);
    unsigned spread = 0;
    for (unsigned i = 0; i < places.n && err == 0; i++) {
        bool shared = false;
        for (unsigned j = 0; j < i && err == 0 && !shared; j++)
            err = same_domain(t, chunk->domain, &places, i, j, &shared);
        spread += !shared;
    }
    chunk->live = (uint8_t)places.n;
    chunk->spread = (uint8_t)spread;
    return err;
}

static bool below(const struct chunk *chunk)
{
    return chunk_counts(chunk) && chunk->live < chunk->want;
}

/* All copies, but too many of them would go with one domain. */
static bool weak(const struct chunk *chunk)
{
    return chunk->counted && chunk_counts(chunk) && !below(chunk) && chunk->spread < chunk->want;
}

/* The sums that only chunks in need are part of. */
static int count_need(struct tables *t, const struct chunk *chunk, uint64_t step)
{
    bool reduced = chunk->counted && chunk->want < chunk->wish;
    if (!below(chunk) && !weak(chunk) && !reduced)
        return 0;
    struct heal_state heal;
    int err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    heal.weak += weak(chunk) ? step : 0;
    heal.reduced += reduced ? step : 0;
    if (below(chunk) && chunk->counted && chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED)
        heal.missing_bytes += step * chunk->length * (uint64_t)(chunk->want - chunk->live);
    return heal_state_put(t, &heal);
}

/* By what is left: of a coded chunk its group's losses count. */
static int endangered_level(struct tables *t, const struct chunk *chunk, uint64_t *ret)
{
    *ret = chunk->live;
    return chunk->coded ? group_endangered_level(t, chunk, ret) : 0;
}

/* Takes the stored row out of the counters and the indexes (sign -1), or the new one in (+1). */
static int count(struct tables *t, const struct chunk *chunk, int sign)
{
    if (!chunk_counts(chunk))
        return 0;
    struct state *s = tables_state(t);
    uint64_t step = (uint64_t)sign, level = ENDANGERED_WEAK;
    s->chunks += step;
    if (!chunk->coded) /* its group counts it */
        s->by_copies[MIN(chunk->live, (uint8_t)MD_COPIES_MAX)] += step;
    int err = count_need(t, chunk, step);
    if (err != 0 || (!below(chunk) && !weak(chunk)))
        return err;
    s->below_target += below(chunk) ? step : 0;
    if (below(chunk))
        err = endangered_level(t, chunk, &level);
    if (err != 0)
        return err;
    struct key key = key_2(TABLE_ENDANGERED, level, chunk->id);
    struct key since = key_2(TABLE_SINCE, chunk->since_ns, chunk->id);
    err = sign > 0 ? tables_put_empty(t, &key) : tables_del(t, &key);
    if (err == 0 && chunk->since_ns != 0)
        err = sign > 0 ? tables_put_empty(t, &since) : tables_del(t, &since);
    return err;
}

static int on_disk(struct tables *t, const struct chunk *old, const struct chunk *chunk)
{
    int err = 0;
    for (unsigned i = 0; i < old->n_replicas && err == 0; i++) {
        struct key key = key_2(TABLE_ON_DISK, old->replicas[i].disk, chunk->id);
        bool stays = false;
        for (unsigned j = 0; j < chunk->n_replicas; j++)
            stays |= chunk->replicas[j].disk == old->replicas[i].disk;
        if (!stays)
            err = tables_del(t, &key);
    }
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++) {
        struct key key = key_2(TABLE_ON_DISK, chunk->replicas[i].disk, chunk->id);
        bool new = true;
        for (unsigned j = 0; j < old->n_replicas; j++)
            new &= old->replicas[j].disk != chunk->replicas[i].disk;
        if (new)
            err = tables_put_empty(t, &key);
    }
    return err;
}

/* The new row's counts, and since when it is in need. */
static int chunk_recount(struct tables *t, const struct chunk *old, struct chunk *chunk)
{
    int err = live_copies(t, chunk);
    chunk->counted = true;
    if (err == 0 && chunk->coded)
        err = group_refresh(t, chunk);
    bool need = below(chunk) || weak(chunk);
    chunk->since_ns = !need ? 0 : old->since_ns != 0 ? old->since_ns : t->now;
    return err;
}

void chunk_heal_first(struct tables *t, uint64_t level, uint64_t id)
{
    struct state *s = tables_state(t);
    if (level == 0 || s->heal_level < level || (s->heal_level == level && s->heal_cursor <= id))
        return;
    s->heal_level = level;
    s->heal_cursor = id;
}

/* A chunk that has fallen to fewer copies than the healing round is at is next (H1). */
static int heal_comes_first(struct tables *t, const struct chunk *old, const struct chunk *chunk)
{
    uint64_t level;
    bool fell = below(chunk) && chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED && (old->live != chunk->live || !below(old));
    int err = fell ? endangered_level(t, chunk, &level) : 0;
    if (err == 0 && fell)
        chunk_heal_first(t, level, chunk->id);
    return err;
}

static int chunk_put(struct tables *t, const struct chunk *chunk)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct key key = key_1(TABLE_CHUNK, chunk->id);
    chunk_encode(chunk, &w);
    return tables_put(t, &key, &w);
}

int chunk_respread(struct tables *t, struct chunk *chunk, uint8_t spread)
{
    uint64_t since = chunk->since_ns;
    int err = count(t, chunk, -1);
    chunk->spread = spread;
    chunk->since_ns = !below(chunk) && !weak(chunk) ? 0 : since != 0 ? since : t->now;
    if (err == 0)
        err = count(t, chunk, 1);
    return err == 0 ? chunk_put(t, chunk) : err;
}

int chunk_save(struct tables *t, struct chunk *chunk)
{
    struct chunk old = {0};
    int err = chunk_get(t, chunk->id, &old);
    if (err == 0)
        err = count(t, &old, -1);
    else if (err == -E_NOENT)
        err = 0;
    if (err == 0)
        err = on_disk(t, &old, chunk);
    if (err == 0)
        err = damage_rows(t, &old, chunk);
    if (err == 0)
        err = chunk_recount(t, &old, chunk);
    if (err == 0)
        err = disk_count_chunk(t, &old, chunk);
    if (err != 0)
        return err;
    chunk->shares = old.shares; /* changed by chunk_share() and chunk_unshare() alone */
    struct key key = key_1(TABLE_CHUNK, chunk->id);
    if (chunk->state == TARN__CHUNK_STATE__CHUNK_DELETING && chunk->n_replicas == 0) {
        err = tables_del(t, &key);
        return err == 0 ? group_candidate(t, &old, chunk) : err;
    }
    err = count(t, chunk, 1);
    if (err == 0)
        err = heal_comes_first(t, &old, chunk);
    if (err == 0)
        err = chunk_put(t, chunk);
    return err == 0 ? group_candidate(t, &old, chunk) : err;
}

int chunk_task_add(struct tables *t, uint32_t disk, Tarn__ChunkTask__Kind kind,
                   const struct chunk *chunk)
{
    struct store_task task = {.kind = (uint8_t)kind,
                              .chunk = chunk->id,
                              .generation = chunk->generation,
                              .length = chunk->length,
                              .disk = disk};
    struct disk row;
    int err = disk_get(t, disk, &row);
    if (err != 0)
        return err;
    struct state *s = tables_state(t);
    struct key key = key_2(TABLE_TASK, row.node, s->next_task++);
    s->tasks++;
    t->result->tasks_changed = true;
    _cleanup_(writer_fini) struct writer w = {0};
    store_task_encode(&task, &w);
    return tables_put(t, &key, &w);
}

uint8_t chunk_target(unsigned wish, unsigned places)
{
    unsigned want = MIN(wish, (unsigned)MD_COPIES_MAX);
    want = MIN(want, places);
    return (uint8_t)MAX(want, 1u);
}

/* With a code: as many of the chunks that will be one group as possible on disks that can keep them. */
static int choose(struct tables *t, const struct placement_map *map, const struct policy *policy,
                  const struct chunk_place *place, unsigned copies, size_t *ret, unsigned *ret_n)
{
    struct placement_request request = {
        .copies = copies, .domain = policy->domain, .writer = place->writer, .affinity = policy->group};
    *ret_n = 0;
    if (policy->code_k != 0 && place->owner != 0 && policy->group == 0 && policy->domain != DOMAIN_DISK &&
        copies == policy->code_m + 1u) {
        struct group_plan_slot slot = {.window = place->owner << 20 ^ place->index / policy->code_k,
                                       .slot = (unsigned)(place->index % policy->code_k),
                                       .k = policy->code_k,
                                       .m = policy->code_m,
                                       .writer = place->writer};
        int err = group_plan_new(map, &slot, ret, ret_n);
        if (err != 0)
            return tables_note(t, err);
    }
    if (*ret_n == 0)
        *ret_n = placement_choose(map, &request, &t->prng, ret);
    return 0;
}

int chunk_make(struct tables *t, const struct policy *policy, const struct chunk_place *place, struct chunk *ret)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    _cleanup_free_ struct placement_disk *disks = NULL;
    _cleanup_(placement_map_fini) struct placement_map map = {0};
    int err = clustermap_load(t, &cluster);
    if (err == 0)
        err = cluster_placement(&cluster, t->now, &disks, &map);
    if (err != 0)
        return err;
    /* The target is what the cluster can give now (C20): a small one is not "below target" for ever. */
    uint8_t want = chunk_target(policy->copies, cluster_places(&cluster));
    size_t chosen[PLACEMENT_COPIES_MAX];
    unsigned n;
    err = choose(t, &map, policy, place, want, chosen, &n);
    if (err != 0)
        return err;
    if (n == 0 && cluster_up(&cluster) == 0)
        return tables_fail(t, -E_UNAVAIL, "none of %zu storage nodes is up", cluster.count);
    if (n == 0)
        return tables_fail(t, -E_NOSPC,
                           "none of the storage nodes that are up has room for a chunk");
    *ret = (struct chunk){.id = tables_state(t)->next_chunk++,
                          .state = TARN__CHUNK_STATE__CHUNK_OPEN,
                          .want = want,
                          .wish = policy->copies,
                          .domain = policy->domain,
                          .shift = policy->shift,
                          .generation = 1,
                          .n_replicas = (uint8_t)n};
    for (unsigned i = 0; i < n; i++)
        ret->replicas[i] = (struct chunk_replica){.disk = disks[chosen[i]].id, .flags = REPLICA_READY};
    return 0;
}

int chunk_seal(struct tables *t, struct chunk *chunk, uint64_t length)
{
    CHECK(chunk->state == TARN__CHUNK_STATE__CHUNK_OPEN);
    chunk->state = TARN__CHUNK_STATE__CHUNK_SEALED;
    chunk->generation++; /* C3: from now on a write under the old generation is refused */
    chunk->length = length;
    struct key key = key_2(TABLE_OPEN_CHUNK, chunk->owner, chunk->id);
    int err = tables_del(t, &key); /* absent when it came from an upload */
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        if (chunk->replicas[i].flags & REPLICA_READY)
            err = chunk_task_add(t, chunk->replicas[i].disk, chunk_seal_kind(chunk), chunk);
    return err == 0 ? chunk_save(t, chunk) : err;
}

Tarn__ChunkTask__Kind chunk_seal_kind(const struct chunk *chunk)
{
    return chunk->flags & CHUNK_KEEP_TAIL ? TARN__CHUNK_TASK__KIND__SEAL_KEEP
                                          : TARN__CHUNK_TASK__KIND__SEAL;
}

int chunk_seal_keep(struct tables *t, struct chunk *chunk, uint64_t length)
{
    chunk->flags |= CHUNK_KEEP_TAIL;
    return chunk_seal(t, chunk, length);
}

int chunk_share(struct tables *t, uint64_t id)
{
    struct chunk chunk;
    int err = chunk_get(t, id, &chunk);
    if (err != 0)
        return err;
    CHECK(chunk.state == TARN__CHUNK_STATE__CHUNK_SEALED); /* what others name never changes */
    chunk.shares++;
    return chunk_put(t, &chunk);
}

int chunk_unshare(struct tables *t, uint64_t id)
{
    struct chunk chunk;
    int err = chunk_get(t, id, &chunk);
    if (err != 0)
        return err;
    if (chunk.shares == 0)
        return chunk_delete(t, &chunk);
    chunk.shares--;
    return chunk_put(t, &chunk);
}

int chunk_replica_drop(struct tables *t, struct chunk *chunk, unsigned index)
{
    struct chunk_replica *replica = &chunk->replicas[index];
    if ((replica->flags & REPLICA_LEAVING) && !(replica->flags & REPLICA_KEPT))
        return 0;
    replica->flags = REPLICA_LEAVING;
    return chunk_task_add(t, replica->disk, TARN__CHUNK_TASK__KIND__DELETE, chunk);
}

int chunk_delete(struct tables *t, struct chunk *chunk)
{
    bool stays = false;
    int err = chunk->group != 0 ? group_member_dies(t, chunk, &stays) : 0;
    if (err != 0 || stays)
        return err == 0 ? chunk_save(t, chunk) : err;
    struct key open = key_2(TABLE_OPEN_CHUNK, chunk->owner, chunk->id);
    struct key pending = key_2(TABLE_SESSION_CHUNK, chunk->session, chunk->id);
    if (chunk->state == TARN__CHUNK_STATE__CHUNK_OPEN &&
        !(chunk->flags & (CHUNK_OF_UPLOAD | CHUNK_PENDING)))
        err = tables_del(t, &open);
    if (err == 0 && (chunk->flags & CHUNK_PENDING))
        err = tables_del(t, &pending);
    if (err == 0 && chunk->body != 0)
        err = piece_leave(t, chunk);
    chunk->state = TARN__CHUNK_STATE__CHUNK_DELETING;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        err = chunk_replica_drop(t, chunk, i);
    return err == 0 ? chunk_save(t, chunk) : err;
}

void replica_message(const struct chunk_replica *replica, const struct cluster *cluster,
                     Tarn__Replica *out)
{
    tarn__replica__init(out);
    out->disk = replica->disk;
    out->ready = (replica->flags & REPLICA_READY) != 0;
    const struct disk *disk = cluster_disk(cluster, replica->disk);
    const struct node *node = disk == NULL ? NULL : cluster_node(cluster, disk->node);
    if (node == NULL)
        return;
    out->node = node->id;
    out->address = (char *)node->address;
    out->local = (char *)node->local;
    out->host = (char *)node->host;
    out->rack = (char *)node->rack;
    out->machine = (char *)node->machine;
    out->up = node->up && disk->up;
}

/* A member that is down counts for nothing: it may come back without what was not synced. */
static bool unsettled(const struct chunk *chunk, const struct cluster *cluster)
{
    bool any = false;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        const struct disk *disk = cluster_disk(cluster, r->disk);
        if (!(r->flags & REPLICA_READY))
            continue;
        if (!(r->flags & REPLICA_SEALED) && disk != NULL && disk->up)
            return true;
        any |= (r->flags & REPLICA_SEALED) != 0;
    }
    return !any;
}

void extent_message_fill(const struct extent *extent, const struct chunk *chunk,
                         const struct cluster *cluster, struct extent_message *out)
{
    Tarn__Extent *m = &out->extent;
    tarn__extent__init(m);
    m->offset = extent->offset;
    m->length = extent->length;
    m->chunk = extent->chunk;
    m->chunk_offset = extent->chunk_offset;
    m->generation = chunk->generation;
    m->group = chunk->coded ? chunk->group : 0;
    m->state = (Tarn__ChunkState)chunk->state;
    m->chunk_length = chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED ? chunk->length : 0;
    m->unsettled = chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED && unsettled(chunk, cluster);
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        if (!(chunk->replicas[i].flags & REPLICA_READY))
            continue;
        replica_message(&chunk->replicas[i], cluster, &out->replicas[m->n_replicas]);
        out->pointers[m->n_replicas] = &out->replicas[m->n_replicas];
        m->n_replicas++;
    }
    m->replicas = out->pointers;
}
