#include "heal.h"

#include "chunkmap.h"
#include "common/err.h"
#include "namespace.h"
#include "placement.h"

#define STEP_GARBAGE 16                   /* files collected in one step, 64 chunks of each */
#define STEP_LOOK 256                     /* endangered chunks looked at in one step */
#define STEP_COPIES 64                    /* COPY tasks given out in one step */
#define PAUSE_NS 1000000000ull            /* between two rounds over the endangered chunks */
#define PAUSE_MAX_NS (60 * 1000000000ull) /* the leader's clock went back: do not wait for it */

struct healer {
    struct tables *t;
    struct cluster cluster;
    struct placement_node *nodes;
    unsigned copies; /* given out in this step */
};

static void healer_fini(struct healer *h)
{
    cluster_fini(&h->cluster);
    free(h->nodes);
}

static int count_copy(void *arg, struct kv_val key, struct kv_val value)
{
    struct store_task task;
    if (store_task_decode(0, value.data, value.len, &task) != 0)
        return -E_CORRUPT;
    unsigned *count = arg;
    *count += task.kind == TARN__CHUNK_TASK__KIND__COPY;
    return *count >= CHUNK_COPY_TASKS_MAX ? 1 : 0;
}

static int healer_init(struct healer *h)
{
    int err = clustermap_load(h->t, &h->cluster);
    if (err != 0)
        return err;
    h->nodes = cluster_for_placement(&h->cluster);
    if (h->nodes == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < h->cluster.count && err == 0; i++) {
        struct key prefix = key_1(TABLE_TASK, h->nodes[i].id);
        unsigned count = 0;
        err = tables_scan(h->t, &prefix, &prefix, count_copy, &count);
        h->nodes[i].excluded = count >= CHUNK_COPY_TASKS_MAX;
    }
    return err;
}

static bool away_long(const struct healer *h, uint32_t id)
{
    const struct node *node = cluster_node(&h->cluster, id);
    if (node == NULL)
        return true;
    return !node->up &&
           (h->t->now >= node->down_since_ns + HEAL_DELAY_NS || h->t->now < node->down_since_ns);
}

static bool is_up(const struct healer *h, uint32_t id)
{
    const struct node *node = cluster_node(&h->cluster, id);
    return node != NULL && node->up;
}

struct need {
    bool wait;       /* a member's node may come back soon */
    bool source;     /* a verified copy is up */
    unsigned usable; /* copies that live or come */
};

static struct need look(const struct healer *h, const struct chunk *chunk)
{
    struct need need = {0};
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        bool up = is_up(h, r->disk);
        bool ready = r->flags & REPLICA_READY, copying = r->flags & REPLICA_COPYING;
        need.usable += up && (ready || copying);
        need.source |= up && ready && (r->flags & REPLICA_SEALED);
        need.wait |= !up && (ready || copying) && !away_long(h, r->disk);
    }
    return need;
}

/* A COPY whose target went away for long is given up. */
static int drop_lost_copies(struct healer *h, struct chunk *chunk, bool *ret_changed)
{
    int err = 0;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        if ((chunk->replicas[i].flags & REPLICA_COPYING) && away_long(h, chunk->replicas[i].disk)) {
            err = chunk_replica_drop(h->t, chunk, i);
            *ret_changed = true;
        }
    return err;
}

static int give_out(struct healer *h, struct chunk *chunk, unsigned missing)
{
    for (size_t i = 0; i < h->cluster.count; i++) {
        h->nodes[i].holds = false;
        for (unsigned j = 0; j < chunk->n_replicas; j++)
            h->nodes[i].holds |= chunk->replicas[j].disk == h->nodes[i].id;
    }
    uint32_t ids[PLACEMENT_COPIES_MAX];
    missing = MIN(missing, (unsigned)(MD_REPLICAS_MAX - chunk->n_replicas));
    unsigned n = placement_choose(h->nodes, h->cluster.count, missing, 0, &h->t->prng, ids);
    int err = 0;
    for (unsigned i = 0; i < n && err == 0; i++) {
        chunk->replicas[chunk->n_replicas++] =
            (struct chunk_replica){.disk = ids[i], .flags = REPLICA_COPYING};
        err = chunk_task_add(h->t, ids[i], TARN__CHUNK_TASK__KIND__COPY, chunk);
        h->copies++;
    }
    return err;
}

static int heal_chunk(struct healer *h, uint64_t id)
{
    struct chunk chunk;
    int err = chunk_get(h->t, id, &chunk);
    /* C8: an open chunk is not copied: its writers would not know. It is when it is sealed. */
    if (err != 0 || chunk.state != TARN__CHUNK_STATE__CHUNK_SEALED ||
        chunk.heal_after_ns > h->t->now)
        return err;
    bool changed = false;
    err = drop_lost_copies(h, &chunk, &changed);
    if (err == 0)
        err = chunk_seal_again(h->t, &chunk, &changed);
    struct need need = look(h, &chunk);
    unsigned before = chunk.n_replicas;
    if (err == 0 && !need.wait && need.source && need.usable < chunk.want)
        err = give_out(h, &chunk, chunk.want - need.usable);
    changed |= before != chunk.n_replicas;
    return err == 0 && changed ? chunk_save(h->t, &chunk) : err;
}

static void round_end(struct tables *t)
{
    struct state *s = tables_state(t);
    s->heal_level = s->heal_cursor = 0;
    s->heal_next_ns = t->now + PAUSE_NS;
}

/* One level's chunks from the cursor on. Sets the cursor to where the next step goes on, or to the
 * next level. */
static int heal_level(struct healer *h, size_t *looked)
{
    struct state *s = tables_state(h->t);
    struct key prefix = key_1(TABLE_ENDANGERED, s->heal_level);
    struct key start = key_2(TABLE_ENDANGERED, s->heal_level, s->heal_cursor);
    _cleanup_(rows_fini) struct rows rows = {0};
    size_t room = STEP_LOOK - *looked, i = 0;
    int err = tables_rows(h->t, &start, &prefix, room, &rows);
    for (; i < rows.count && h->copies < STEP_COPIES && err == 0; i++)
        err = heal_chunk(h, key_number(&rows.rows[i].key, 1));
    *looked += i;
    if (i < rows.count || rows.count == room) {
        s->heal_cursor = i == 0 ? s->heal_cursor : key_number(&rows.rows[i - 1].key, 1) + 1;
    } else {
        s->heal_level++;
        s->heal_cursor = 0;
    }
    return err;
}

/* Levels are numbers of live copies; level 0 has nothing to copy from, and with n nodes up no chunk
 * gets more than n. */
static int heal_endangered(struct tables *t)
{
    _cleanup_(healer_fini) struct healer h = {.t = t};
    struct state *s = tables_state(t);
    int err = healer_init(&h);
    uint64_t levels = MIN(cluster_up(&h.cluster), (unsigned)MD_COPIES_MAX + 1);
    size_t looked = 0;
    s->heal_level = MAX(s->heal_level, (uint64_t)1);
    while (err == 0 && s->heal_level < levels && looked < STEP_LOOK && h.copies < STEP_COPIES)
        err = heal_level(&h, &looked);
    if (err == 0 && s->heal_level >= levels)
        round_end(t);
    return err;
}

static int recount_next(struct tables *t)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    for (size_t i = 0; i < cluster.count && err == 0; i++)
        if (cluster.nodes[i].recount != 0)
            return chunk_recount_step(t, cluster.nodes[i].id);
    return err;
}

int heal_step(struct tables *t)
{
    unsigned done = 0;
    int err = ns_garbage_step(t, STEP_GARBAGE, &done);
    if (err == 0)
        err = chunk_seal_due_step(t, STEP_GARBAGE, &done);
    if (err == 0)
        err = ns_upgrade_step(t);
    if (err == 0)
        err = recount_next(t);
    if (err == 0 &&
        (t->state.heal_next_ns <= t->now || t->state.heal_next_ns > t->now + PAUSE_MAX_NS))
        err = heal_endangered(t);
    return err;
}

static bool endangered_due(struct tables *t, const struct cluster *cluster, uint64_t now)
{
    if (t->state.below_target == 0 ||
        (t->state.heal_next_ns > now && t->state.heal_next_ns <= now + PAUSE_MAX_NS))
        return false;
    unsigned up = cluster_up(cluster);
    for (unsigned level = 1; level < up && level <= MD_COPIES_MAX; level++) {
        struct key prefix = key_1(TABLE_ENDANGERED, level);
        if (tables_any(t, &prefix))
            return true;
    }
    return false;
}

bool heal_due(struct tables *t, uint64_t now)
{
    struct key garbage = key_table(TABLE_GARBAGE), to_seal = key_table(TABLE_TO_SEAL);
    if (tables_any(t, &garbage) || tables_any(t, &to_seal) || ns_upgrade_due(t))
        return true;
    _cleanup_(cluster_fini) struct cluster cluster;
    if (clustermap_load(t, &cluster) != 0)
        return false;
    for (size_t i = 0; i < cluster.count; i++)
        if (cluster.nodes[i].recount != 0)
            return true;
    return endangered_due(t, &cluster, now);
}

/* ---- the tasks of a node, as messages */
struct task_message {
    Tarn__ChunkTask task;
    Tarn__Replica replicas[MD_REPLICAS_MAX];
    Tarn__Replica *pointers[MD_REPLICAS_MAX];
};

static int task_fill(struct tables *t, const struct row *row, const struct cluster *cluster,
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
    m->from = out->pointers;
    struct chunk chunk;
    if (task.kind != TARN__CHUNK_TASK__KIND__COPY)
        return 0;
    int err = chunk_get(t, task.chunk, &chunk);
    if (err != 0) /* gone: without a source the store reports failure and the task ends */
        return err == -E_NOENT ? 0 : err;
    for (unsigned i = 0; i < chunk.n_replicas; i++) {
        const struct chunk_replica *r = &chunk.replicas[i];
        const struct node *node = cluster_node(cluster, r->disk);
        if (!(r->flags & REPLICA_READY) || !(r->flags & REPLICA_SEALED) || node == NULL ||
            !node->up)
            continue;
        replica_message(r, cluster, &out->replicas[m->n_from]);
        out->pointers[m->n_from] = &out->replicas[m->n_from];
        m->n_from++;
    }
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
        err = task_fill(t, &rows.rows[i], &cluster, &tasks[i]);
        pointers[i] = &tasks[i].task;
    }
    reply.tasks = pointers;
    reply.n_tasks = rows.count;
    return err == 0 ? tables_reply(t, &reply.base) : err;
}
