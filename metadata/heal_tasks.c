/* The tasks of a node, as messages. */
#include "chunkmap.h"
#include "common/err.h"
#include "heal.h"

struct task_message {
    Tarn__ChunkTask task;
    Tarn__Replica replicas[MD_REPLICAS_MAX];
    Tarn__Replica *pointers[MD_REPLICAS_MAX];
};

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
    if (task.kind != TARN__CHUNK_TASK__KIND__COPY)
        return 0;
    int err = chunk_get(t, task.chunk, &chunk);
    if (err != 0) /* gone: without a source the store reports failure and the task ends */
        return err == -E_NOENT ? 0 : err;
    for (unsigned i = 0; i < chunk.n_replicas; i++) {
        const struct chunk_replica *r = &chunk.replicas[i];
        const struct disk *disk = cluster_disk(cluster, r->disk);
        if (!(r->flags & REPLICA_READY) || !(r->flags & REPLICA_SEALED) || disk == NULL || !disk->up)
            continue;
        replica_message(r, cluster, &out->replicas[m->n_from]);
        out->pointers[m->n_from] = &out->replicas[m->n_from];
        m->n_from++;
    }
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
    _cleanup_free_ struct task_message *tasks = calloc(rows.count + 1, sizeof *tasks);
    _cleanup_free_ Tarn__ChunkTask **pointers = calloc(rows.count + 1, sizeof *pointers);
    if (err == 0 && (tasks == NULL || pointers == NULL))
        err = -E_NOMEM;
    Tarn__NodeBeatReply reply = TARN__NODE_BEAT_REPLY__INIT;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        err = task_fill(t, &rows.rows[i], node, &cluster, &tasks[i]);
        pointers[i] = &tasks[i].task;
    }
    reply.tasks = pointers;
    reply.n_tasks = rows.count;
    return err == 0 ? tables_reply(t, &reply.base) : err;
}
