#include "chunkmap.h"

#include "common/check.h"
#include "common/err.h"

#define RECOUNT_BATCH 2048 /* chunks counted again in one command: some ten milliseconds */

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

static bool node_up(struct tables *t, uint32_t id)
{
    struct node node;
    return clustermap_get(t, id, &node) == 0 && node.up;
}

static uint8_t live_copies(struct tables *t, const struct chunk *chunk)
{
    uint8_t live = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if ((chunk->replicas[i].flags & REPLICA_READY) && node_up(t, chunk->replicas[i].disk))
            live++;
    return live;
}

/* Takes the stored row out of the counters and the index (sign -1), or the new one in (+1). */
static int count(struct tables *t, const struct chunk *chunk, int sign)
{
    if (chunk->state == TARN__CHUNK_STATE__CHUNK_DELETING)
        return 0;
    struct state *s = tables_state(t);
    uint64_t step = (uint64_t)sign;
    s->chunks += step;
    s->by_copies[MIN(chunk->live, (uint8_t)MD_COPIES_MAX)] += step;
    if (chunk->live >= chunk->want)
        return 0;
    s->below_target += step;
    struct key key = key_2(TABLE_ENDANGERED, chunk->live, chunk->id);
    return sign > 0 ? tables_put_empty(t, &key) : tables_del(t, &key);
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
    if (err != 0)
        return err;
    struct key key = key_1(TABLE_CHUNK, chunk->id);
    if (chunk->state == TARN__CHUNK_STATE__CHUNK_DELETING && chunk->n_replicas == 0)
        return tables_del(t, &key);
    chunk->live = live_copies(t, chunk);
    err = count(t, chunk, 1);
    if (err != 0)
        return err;
    _cleanup_(writer_fini) struct writer w = {0};
    chunk_encode(chunk, &w);
    return tables_put(t, &key, &w);
}

int chunk_task_add(struct tables *t, uint32_t node, Tarn__ChunkTask__Kind kind,
                   const struct chunk *chunk)
{
    struct store_task task = {.kind = (uint8_t)kind,
                              .chunk = chunk->id,
                              .generation = chunk->generation,
                              .length = chunk->length};
    struct state *s = tables_state(t);
    struct key key = key_2(TABLE_TASK, node, s->next_task++);
    s->tasks++;
    t->result->tasks_changed = true;
    _cleanup_(writer_fini) struct writer w = {0};
    store_task_encode(&task, &w);
    return tables_put(t, &key, &w);
}

int chunk_make(struct tables *t, unsigned want, uint32_t writer, struct chunk *ret)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    _cleanup_free_ struct placement_node *nodes = cluster_for_placement(&cluster);
    if (nodes == NULL)
        return -E_NOMEM;
    /* The target is what the cluster can ever give: a small one is not "below target" for ever. */
    want = MIN(want, (unsigned)MD_COPIES_MAX);
    want = MIN(want, (unsigned)cluster.count);
    want = MAX(want, 1u);
    uint32_t ids[PLACEMENT_COPIES_MAX];
    unsigned n = placement_choose(nodes, cluster.count, want, writer, &t->prng, ids);
    if (n == 0 && cluster_up(&cluster) == 0)
        return tables_fail(t, -E_UNAVAIL, "none of %zu storage nodes is up", cluster.count);
    if (n == 0)
        return tables_fail(t, -E_NOSPC,
                           "none of the storage nodes that are up has room for a chunk");
    *ret = (struct chunk){.id = tables_state(t)->next_chunk++,
                          .state = TARN__CHUNK_STATE__CHUNK_OPEN,
                          .want = (uint8_t)want,
                          .generation = 1,
                          .n_replicas = (uint8_t)n};
    for (unsigned i = 0; i < n; i++)
        ret->replicas[i] = (struct chunk_replica){.disk = ids[i], .flags = REPLICA_READY};
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
            err = chunk_task_add(t, chunk->replicas[i].disk, TARN__CHUNK_TASK__KIND__SEAL, chunk);
    return err == 0 ? chunk_save(t, chunk) : err;
}

int chunk_replica_drop(struct tables *t, struct chunk *chunk, unsigned index)
{
    struct chunk_replica *replica = &chunk->replicas[index];
    if (replica->flags & REPLICA_LEAVING)
        return 0;
    replica->flags = REPLICA_LEAVING;
    return chunk_task_add(t, replica->disk, TARN__CHUNK_TASK__KIND__DELETE, chunk);
}

int chunk_delete(struct tables *t, struct chunk *chunk)
{
    int err = 0;
    struct key open = key_2(TABLE_OPEN_CHUNK, chunk->owner, chunk->id);
    struct key pending = key_2(TABLE_SESSION_CHUNK, chunk->session, chunk->id);
    if (chunk->state == TARN__CHUNK_STATE__CHUNK_OPEN &&
        !(chunk->flags & (CHUNK_OF_UPLOAD | CHUNK_PENDING)))
        err = tables_del(t, &open);
    if (err == 0 && (chunk->flags & CHUNK_PENDING))
        err = tables_del(t, &pending);
    chunk->state = TARN__CHUNK_STATE__CHUNK_DELETING;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        err = chunk_replica_drop(t, chunk, i);
    return err == 0 ? chunk_save(t, chunk) : err;
}

static unsigned rack_mates(const struct chunk *chunk, const struct cluster *cluster, unsigned index)
{
    const struct node *node = cluster_node(cluster, chunk->replicas[index].disk);
    unsigned mates = 0;
    for (unsigned i = 0; i < chunk->n_replicas && node != NULL; i++) {
        const struct node *other = cluster_node(cluster, chunk->replicas[i].disk);
        if (other != NULL && other->up && (chunk->replicas[i].flags & REPLICA_READY))
            mates += strcmp(other->rack, node->rack) == 0;
    }
    return mates;
}

/* A node came back after its copies had been made again: the one from the fullest rack goes. */
static int trim(struct tables *t, struct chunk *chunk, const struct cluster *cluster)
{
    for (uint8_t live = live_copies(t, chunk); live > chunk->want; live--) {
        int worst = -1;
        unsigned worst_mates = 0;
        for (unsigned i = 0; i < chunk->n_replicas; i++) {
            const struct node *node = cluster_node(cluster, chunk->replicas[i].disk);
            /* One that has not answered the SEAL is not sure to be complete on disk, but one that
             * has is. */
            if (!(chunk->replicas[i].flags & REPLICA_READY) || node == NULL || !node->up)
                continue;
            unsigned mates =
                rack_mates(chunk, cluster, i) * 2 + !(chunk->replicas[i].flags & REPLICA_SEALED);
            if (mates >= worst_mates) {
                worst_mates = mates;
                worst = (int)i;
            }
        }
        if (worst < 0)
            return 0;
        int err = chunk_replica_drop(t, chunk, (unsigned)worst);
        if (err != 0)
            return err;
    }
    return 0;
}

static int recount(struct tables *t, uint64_t id, const struct cluster *cluster)
{
    struct chunk chunk;
    int err = chunk_get(t, id, &chunk);
    if (err != 0)
        return err;
    if (chunk.state == TARN__CHUNK_STATE__CHUNK_SEALED)
        err = trim(t, &chunk, cluster);
    return err == 0 ? chunk_save(t, &chunk) : err;
}

int chunk_recount_step(struct tables *t, uint32_t id)
{
    struct node node;
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = clustermap_get(t, id, &node);
    if (err != 0 || node.recount == 0)
        return err;
    err = clustermap_load(t, &cluster);
    struct key prefix = key_1(TABLE_ON_DISK, id);
    struct key start = key_2(TABLE_ON_DISK, id, node.recount);
    if (err == 0)
        err = tables_rows(t, &start, &prefix, RECOUNT_BATCH, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = recount(t, key_number(&rows.rows[i].key, 1), &cluster);
    if (err != 0)
        return err;
    node.recount =
        rows.count < RECOUNT_BATCH ? 0 : key_number(&rows.rows[rows.count - 1].key, 1) + 1;
    return clustermap_put(t, &node);
}

void replica_message(const struct chunk_replica *replica, const struct cluster *cluster,
                     Tarn__Replica *out)
{
    tarn__replica__init(out);
    out->node = out->disk = replica->disk;
    out->ready = (replica->flags & REPLICA_READY) != 0;
    const struct node *node = cluster_node(cluster, replica->disk);
    if (node == NULL)
        return;
    out->address = (char *)node->address;
    out->local = (char *)node->local;
    out->host = (char *)node->host;
    out->rack = (char *)node->rack;
    out->machine = (char *)node->machine;
    out->up = node->up;
}

/* A member that is down counts for nothing: it may come back without what was not synced. */
static bool unsettled(const struct chunk *chunk, const struct cluster *cluster)
{
    bool any = false;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        const struct node *node = cluster_node(cluster, r->disk);
        if (!(r->flags & REPLICA_READY))
            continue;
        if (!(r->flags & REPLICA_SEALED) && node != NULL && node->up)
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
