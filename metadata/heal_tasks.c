/* The tasks of a node, as messages. */
#include "chunkmap.h"
#include "common/err.h"
#include "group.h"
#include "heal.h"
#include "pack.h"

#define PIECES_MAX 1024 /* of PACK tasks in one answer: up to 200 KiB, a fifth of a frame's control message */

struct task_message {
    Tarn__ChunkTask task;
    Tarn__Replica replicas[MD_REPLICAS_MAX];
    Tarn__Replica *pointers[MD_REPLICAS_MAX];
    struct build_message *build; /* owned */
    struct pack_message pack;
};
/* What a shard is computed from. */
struct build_message {
    Tarn__Shard shards[EC_SHARDS_MAX];
    Tarn__Shard *pointers[EC_SHARDS_MAX];
    Tarn__Replica replicas[EC_SHARDS_MAX][MD_REPLICAS_MAX];
    Tarn__Replica *replica_pointers[EC_SHARDS_MAX][MD_REPLICAS_MAX];
};

struct task_messages {
    struct task_message *items;
    size_t n;
};

static void task_messages_fini(struct task_messages *messages)
{
    for (size_t i = 0; i < messages->n; i++)
        pack_message_fini(&messages->items[i].pack);
    for (size_t i = 0; i < messages->n; i++)
        free(messages->items[i].build);
    free(messages->items);
}

/* The disk that was chosen as the source comes first; the others are there if it fails. */
static void source_first(const struct chunk *chunk, uint32_t target, Tarn__ChunkTask *m)
{
    uint32_t source = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if (chunk->replicas[i].disk == target)
            source = chunk->replicas[i].source;
    for (size_t i = 1; i < m->n_from; i++)
        if (m->from[i]->disk == source) {
            Tarn__Replica *first = m->from[i];
            m->from[i] = m->from[0];
            m->from[0] = first;
        }
}

/* Verified copies on disks that are up, those of the node that asks first: they cost no network. */
static size_t live_replicas(const struct chunk *chunk, const struct cluster *cluster, uint32_t near, Tarn__Replica *out,
                            Tarn__Replica **pointers)
{
    size_t n = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        const struct disk *disk = cluster_disk(cluster, r->disk);
        if (!(r->flags & REPLICA_READY) || !(r->flags & REPLICA_SEALED) || (r->flags & REPLICA_DAMAGED) || disk == NULL || !disk->up)
            continue;
        replica_message(r, cluster, &out[n]);
        pointers[n] = &out[n];
        if (disk->node == near && n > 0) {
            pointers[n] = pointers[0];
            pointers[0] = &out[n];
        }
        n++;
    }
    return n;
}

/* All others that are up for a repair, damaged ones too: each may have just the cells that are wrong here. */
static size_t other_replicas(const struct chunk *chunk, const struct cluster *cluster, uint32_t than, Tarn__Replica *out,
                             Tarn__Replica **pointers)
{
    size_t n = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        const struct disk *disk = cluster_disk(cluster, r->disk);
        if (!(r->flags & REPLICA_READY) || r->disk == than || disk == NULL || !disk->up)
            continue;
        replica_message(r, cluster, &out[n]);
        pointers[n] = &out[n];
        n++;
    }
    return n;
}

/* `damaged`: with copies that are damaged, too: most of their cells are right. */
static int source_fill(struct tables *t, uint64_t id, unsigned index, uint32_t node, bool damaged, const struct cluster *cluster,
                       struct build_message *b, size_t *n)
{
    struct chunk chunk = {0};
    Tarn__Shard *shard = &b->shards[*n];
    tarn__shard__init(shard);
    shard->index = index;
    int err = id != 0 ? chunk_get(t, id, &chunk) : 0;
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    shard->chunk = id;
    shard->generation = chunk.generation;
    shard->length = chunk.length;
    shard->replicas = b->replica_pointers[index];
    shard->n_replicas = damaged ? other_replicas(&chunk, cluster, 0, b->replicas[index], b->replica_pointers[index])
                                : live_replicas(&chunk, cluster, node, b->replicas[index], b->replica_pointers[index]);
    if (id == 0 || shard->n_replicas > 0)
        b->pointers[(*n)++] = shard;
    return 0;
}

/* G6: parity that is being made comes from the data it is made for; a lost shard, or a damaged one's cells, from any that
 * are there. Shards of the two are never mixed. */
static int build_fill(struct tables *t, const struct chunk *chunk, uint32_t node, const struct cluster *cluster,
                      struct task_message *out)
{
    struct group g;
    int err = group_get(t, chunk->group, &g);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    out->build = calloc(1, sizeof *out->build);
    if (out->build == NULL)
        return tables_note(t, -E_NOMEM);
    bool making = chunk->flags & CHUNK_MAKING, repair = out->task.kind == TARN__CHUNK_TASK__KIND__REPAIR;
    const struct group_shard *shards = making ? g.next : g.shards;
    Tarn__ChunkTask *m = &out->task;
    for (unsigned i = 0; i < (making ? g.k : group_shards(&g)) && err == 0; i++)
        if (shards[i].chunk != chunk->id)
            err = source_fill(t, shards[i].chunk, i, node, repair, cluster, out->build, &m->n_sources);
    m->sources = out->build->pointers;
    m->k = g.k;
    m->m = g.m;
    m->shard = chunk->shard;
    m->background |= making;
    return err;
}

static int task_fill(struct tables *t, const struct row *row, uint32_t node, const struct cluster *cluster,
                     struct task_message *out)
{
    struct store_task task;
    if (store_task_decode(key_number(&row->key, 1), row->value, row->len, &task) != 0)
        return tables_corrupt(t, &row->key, "store task");
    Tarn__ChunkTask *m = &out->task;
    tarn__chunk_task__init(m);
    m->id = task.id;
    m->kind = (Tarn__ChunkTask__Kind)task.kind;
    m->chunk = task.chunk;
    m->generation = task.generation;
    m->length = task.length;
    m->disk = task.disk != 0 ? task.disk : node;
    m->from = out->pointers;
    struct chunk chunk;
    m->background = task.kind == TARN__CHUNK_TASK__KIND__VERIFY;
    if (task.kind == TARN__CHUNK_TASK__KIND__PACK)
        return pack_task_fill(t, task.chunk, cluster, &out->pack, m);
    bool repair = task.kind == TARN__CHUNK_TASK__KIND__REPAIR;
    if (task.kind != TARN__CHUNK_TASK__KIND__COPY && task.kind != TARN__CHUNK_TASK__KIND__BUILD && !repair)
        return 0;
    int err = chunk_get(t, task.chunk, &chunk);
    if (err != 0) /* gone: without a source the store reports failure and the task ends */
        return err == -E_NOENT ? 0 : err;
    if (task.kind == TARN__CHUNK_TASK__KIND__BUILD)
        return build_fill(t, &chunk, node, cluster, out);
    m->background = chunk.live >= chunk.want;
    if (repair) {
        m->n_from = other_replicas(&chunk, cluster, m->disk, out->replicas, out->pointers);
        return chunk.coded ? build_fill(t, &chunk, node, cluster, out) : 0;
    }
    m->n_from = live_replicas(&chunk, cluster, 0, out->replicas, out->pointers);
    source_first(&chunk, m->disk, m);
    return 0;
}

int heal_node_tasks(struct tables *t, uint32_t node, size_t max)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    struct key prefix = key_1(TABLE_TASK, node);
    _cleanup_(rows_fini) struct rows rows = {0};
    err = tables_rows(t, &prefix, &prefix, MIN(max, (size_t)1000), &rows);
    _cleanup_(task_messages_fini) struct task_messages tasks = {.items = calloc(rows.count + 1, sizeof *tasks.items)};
    _cleanup_free_ Tarn__ChunkTask **pointers = calloc(rows.count + 1, sizeof *pointers);
    if (err == 0 && (tasks.items == NULL || pointers == NULL))
        err = -E_NOMEM;
    Tarn__NodeBeatReply reply = TARN__NODE_BEAT_REPLY__INIT;
    size_t pieces = 0; /* long: the rest comes when these are done */
    for (size_t i = 0; i < rows.count && err == 0 && pieces < PIECES_MAX; i++) {
        tasks.n++;
        err = task_fill(t, &rows.rows[i], node, &cluster, &tasks.items[i]);
        pointers[i] = &tasks.items[i].task;
        pieces += tasks.items[i].pack.n;
    }
    reply.tasks = pointers;
    reply.n_tasks = tasks.n;
    return err == 0 ? tables_reply(t, &reply.base) : err;
}
