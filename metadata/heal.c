#include "heal.h"

#include "common/check.h"
#include "common/err.h"
#include "damage.h"
#include "group.h"
#include "group_make.h"
#include "heal_impl.h"
#include "heal_kept.h"
#include "namespace.h"
#include "pack.h"
#include "quota.h"
#include "snapshot_tree.h"

#define STEP_GARBAGE 16                   /* files collected in one step, 64 chunks of each */
#define STEP_STUCK 64                     /* chunks for which every disk has enough to do */
#define RECOUNT_BATCH 2048 /* chunks counted again in one command: some ten milliseconds */
#define PAUSE_NS 1000000000ull            /* between two rounds over the endangered chunks */
#define PAUSE_MAX_NS (60 * 1000000000ull) /* the leader's clock went back: do not wait for it */

/* ------------------------------------------------------------------ one step's disks */
void healer_fini(struct healer *h)
{
    placement_map_fini(&h->map);
    cluster_fini(&h->cluster);
    free(h->disks);
}

/* A disk takes and gives as much as its rate and its number of copies under way allow. */
static void look_busy(struct healer *h, size_t index)
{
    struct placement_disk *disk = &h->disks[index];
    const struct disk *row = &h->cluster.disks[index];
    uint64_t now = h->t->now, burst = h->kind == HEAL_LOST ? HEAL_BURST_NS : MOVE_BURST_NS;
    uint64_t ahead = row->busy_ns > now && row->busy_ns < now + PAUSE_MAX_NS ? row->busy_ns - now : 0;
    disk->busy = row->copying >= CHUNK_COPY_TASKS_MAX || ahead >= burst;
    bool gives = row->sources < CHUNK_COPY_TASKS_MAX && ahead < burst;
    disk->source_room = gives ? CHUNK_COPY_TASKS_MAX - (unsigned)row->sources : 0;
    h->busy |= (disk->busy || !gives) && disk->up;
}

int healer_init(struct healer *h, struct tables *t, enum heal_kind kind)
{
    *h = (struct healer){.t = t, .kind = kind};
    int err = clustermap_load(t, &h->cluster);
    if (err == 0)
        err = cluster_placement(&h->cluster, t->now, &h->disks, &h->map);
    for (size_t i = 0; err == 0 && i < h->cluster.n_disks; i++)
        look_busy(h, i);
    return err;
}

/* ------------------------------------------------------------------ one chunk */
int healer_view(struct tables *t, const struct chunk *chunk, const struct policy *policy, struct heal_chunk *ret)
{
    *ret = (struct heal_chunk){.want = chunk->want,
                               .domain = chunk->domain,
                               .affinity = policy != NULL ? policy->group : 0,
                               .n = chunk->n_replicas};
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        ret->replicas[i] = (struct heal_replica){.disk = r->disk,
                                                 .ready = (r->flags & (REPLICA_READY | REPLICA_DAMAGED)) == REPLICA_READY,
                                                 .damaged = r->flags & REPLICA_DAMAGED,
                                                 .sealed = r->flags & REPLICA_SEALED,
                                                 .copying = r->flags & REPLICA_COPYING,
                                                 .leaving = r->flags & REPLICA_LEAVING};
    }
    ret->coded = chunk->coded;
    int err = group_can_rebuild(t, chunk, &ret->can_build);
    return err == 0 && chunk->coded ? group_apart(t, chunk, ret->apart, &ret->n_apart) : err;
}

/* The copy's share of the disk's time at the rate we allow. */
static int busy_add(struct healer *h, size_t index, uint64_t bytes)
{
    uint64_t rate = h->kind == HEAL_LOST ? HEAL_RATE : MOVE_RATE;
    struct disk disk;
    int err = disk_get(h->t, h->disks[index].id, &disk);
    if (err != 0)
        return err;
    uint64_t now = h->t->now;
    if (disk.busy_ns < now || disk.busy_ns > now + PAUSE_MAX_NS)
        disk.busy_ns = now;
    disk.busy_ns += bytes * 1000 / (rate / 1000000);
    h->cluster.disks[index].busy_ns = disk.busy_ns;
    return disk_put(h->t, &disk);
}

int healer_copy_to(struct healer *h, struct chunk *chunk, unsigned index, size_t target, size_t source)
{
    bool build = source == SIZE_MAX;
    chunk->replicas[index] = (struct chunk_replica){
        .disk = h->disks[target].id, .flags = REPLICA_COPYING, .source = build ? 0 : h->disks[source].id};
    int err = chunk_task_add(h->t, h->disks[target].id,
                             build ? TARN__CHUNK_TASK__KIND__BUILD : TARN__CHUNK_TASK__KIND__COPY, chunk);
    if (err == 0)
        err = busy_add(h, target, chunk->length);
    h->copies++;
    h->cluster.disks[target].copying++;
    placement_use(&h->map, target, (int64_t)chunk->length);
    look_busy(h, target);
    if (err != 0 || build) /* its sources are read a k-th each: no disk of them is the bottleneck */
        return err;
    err = busy_add(h, source, chunk->length);
    h->cluster.disks[source].sources++;
    look_busy(h, source);
    return err;
}

int healer_copy(struct healer *h, struct chunk *chunk, size_t target, size_t source)
{
    CHECK(chunk->n_replicas < MD_REPLICAS_MAX);
    return healer_copy_to(h, chunk, chunk->n_replicas++, target, source);
}

static int carry_out(struct healer *h, struct chunk *chunk, const struct heal_decision *d, bool may_add)
{
    int err = 0;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        if (d->drop & 1u << i)
            err = chunk_replica_drop(h->t, chunk, i);
    for (unsigned i = 0; i < d->n_add && may_add && err == 0; i++)
        err = healer_copy(h, chunk, d->targets[i], d->sources[i]);
    return err;
}

int healer_chunk(struct healer *h, struct chunk *chunk, bool may_add, bool improve, struct heal_decision *ret)
{
    *ret = (struct heal_decision){0};
    /* C8: an open chunk is not copied: its writers would not know. It is when it is sealed. */
    if (chunk->state != TARN__CHUNK_STATE__CHUNK_SEALED || !chunk_counts(chunk))
        return 0;
    return healer_place(h, chunk, NULL, may_add, improve, ret);
}

int healer_place(struct healer *h, struct chunk *chunk, const struct policy *policy, bool may_add, bool improve,
                 struct heal_decision *ret)
{
    struct heal_chunk view;
    bool changed = false, wait = false;
    int err = chunk_seal_again(h->t, chunk, &changed);
    if (err == 0)
        err = heal_kept(h, chunk, may_add, &changed, &wait);
    if (err == 0)
        err = healer_view(h->t, chunk, policy, &view);
    if (err != 0)
        return err;
    heal_decide(&view, &h->map, improve, &h->t->prng, ret);
    if (chunk->group != 0 && !chunk->coded) /* its group is being made from copies that are there now */
        ret->drop = 0;
    if (wait) { /* it is brought up to date there */
        ret->n_add = 0;
        ret->wait = ret->stuck = true;
    }
    if (err == 0)
        err = carry_out(h, chunk, ret, may_add);
    changed |= ret->drop != 0 || (may_add && ret->n_add > 0);
    return err == 0 && changed ? chunk_save(h->t, chunk) : err;
}

int heal_trim(struct tables *t, struct chunk *chunk)
{
    _cleanup_(healer_fini) struct healer h;
    struct heal_decision decision;
    int err = healer_init(&h, t, HEAL_MOVE);
    return err == 0 ? healer_chunk(&h, chunk, false, false, &decision) : err;
}

/* ------------------------------------------------------------------ endangered chunks */
static int heal_chunk(struct healer *h, uint64_t id, unsigned *stuck)
{
    struct chunk chunk;
    struct heal_decision decision;
    int err = chunk_get(h->t, id, &chunk);
    if (err != 0 || chunk.heal_after_ns > h->t->now)
        return err;
    err = healer_chunk(h, &chunk, true, false, &decision);
    *stuck += decision.stuck && h->busy;
    return err;
}

static void round_end(struct tables *t)
{
    struct state *s = tables_state(t);
    s->heal_level = s->heal_cursor = 0;
    s->heal_next_ns = t->now + PAUSE_NS;
}

/* One level's chunks from the cursor on. Sets the cursor to where the next step goes on, or to the
 * next level. */
static int heal_level(struct healer *h, size_t *looked, unsigned *stuck)
{
    struct state *s = tables_state(h->t);
    struct key prefix = key_1(TABLE_ENDANGERED, s->heal_level);
    struct key start = key_2(TABLE_ENDANGERED, s->heal_level, s->heal_cursor);
    _cleanup_(rows_fini) struct rows rows = {0};
    size_t room = HEAL_STEP_LOOK - *looked, i = 0;
    int err = tables_rows(h->t, &start, &prefix, room, &rows);
    uint64_t level = s->heal_level;
    for (; i < rows.count && h->copies < HEAL_STEP_COPIES && *stuck < STEP_STUCK && err == 0; i++)
        err = heal_chunk(h, key_number(&rows.rows[i].key, 1), stuck);
    *looked += i;
    if (s->heal_level != level) /* a chunk fell to a lower level meanwhile: that comes first */
        return err;
    if (i < rows.count || rows.count == room) {
        s->heal_cursor = i == 0 ? s->heal_cursor : key_number(&rows.rows[i - 1].key, 1) + 1;
    } else {
        s->heal_level++;
        s->heal_cursor = 0;
    }
    return err;
}

static unsigned disks_up(const struct cluster *cluster)
{
    unsigned up = 0;
    for (size_t i = 0; i < cluster->n_disks; i++)
        up += cluster->disks[i].up;
    return up;
}

/* Levels are numbers of live copies; level 0 has nothing to copy from, and with n disks up no chunk
 * gets more than n. When every disk has enough to do, the round rests where it is. */
static int heal_endangered(struct tables *t)
{
    _cleanup_(healer_fini) struct healer h;
    struct state *s = tables_state(t);
    int err = healer_init(&h, t, HEAL_LOST);
    uint64_t levels = MIN(disks_up(&h.cluster), (unsigned)MD_COPIES_MAX + 1);
    size_t looked = 0;
    unsigned stuck = 0;
    s->heal_level = MAX(s->heal_level, (uint64_t)1);
    while (err == 0 && s->heal_level < levels && looked < HEAL_STEP_LOOK && h.copies < HEAL_STEP_COPIES &&
           stuck < STEP_STUCK)
        err = heal_level(&h, &looked, &stuck);
    if (err == 0 && stuck >= STEP_STUCK)
        s->heal_next_ns = t->now + PAUSE_NS;
    if (err == 0 && s->heal_level >= levels)
        round_end(t);
    return err;
}

/* ------------------------------------------------------------------ counting again */
static int recount(struct healer *h, uint64_t id)
{
    struct chunk chunk;
    struct heal_decision decision;
    int err = chunk_get(h->t, id, &chunk);
    if (err == 0)
        err = healer_chunk(h, &chunk, false, false, &decision);
    return err == 0 ? chunk_save(h->t, &chunk) : err;
}

int heal_recount_step(struct tables *t, uint32_t id)
{
    struct disk disk;
    _cleanup_(healer_fini) struct healer h = {0};
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = disk_get(t, id, &disk);
    if (err != 0 || disk.recount == 0)
        return err;
    err = healer_init(&h, t, HEAL_MOVE);
    struct key prefix = key_1(TABLE_ON_DISK, id);
    struct key start = key_2(TABLE_ON_DISK, id, disk.recount);
    if (err == 0)
        err = tables_rows(t, &start, &prefix, RECOUNT_BATCH, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = recount(&h, key_number(&rows.rows[i].key, 1));
    if (err == 0)
        err = disk_get(t, id, &disk); /* the chunks have changed it */
    if (err != 0)
        return err;
    disk.recount = rows.count < RECOUNT_BATCH ? 0 : key_number(&rows.rows[rows.count - 1].key, 1) + 1;
    return disk_put(t, &disk);
}

static int recount_next(struct tables *t)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    for (size_t i = 0; i < cluster.n_disks && err == 0; i++)
        if (cluster.disks[i].recount != 0)
            return heal_recount_step(t, cluster.disks[i].id);
    return err;
}

/* ------------------------------------------------------------------ what comes when */
static bool endangered_waits(const struct tables *t, uint64_t now)
{
    return t->state.heal_next_ns > now && t->state.heal_next_ns <= now + PAUSE_MAX_NS;
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
        err = quota_step(t);
    if (err == 0)
        err = snapshot_step(t);
    if (err == 0)
        err = recount_next(t);
    if (err == 0)
        err = group_step(t);
    if (err == 0)
        err = damage_step(t);
    if (err == 0 && !endangered_waits(t, t->now))
        err = heal_endangered(t);
    if (err == 0)
        err = heal_move_step(t);
    return err == 0 ? pack_step(t) : err;
}

static bool endangered_due(struct tables *t, const struct cluster *cluster, uint64_t now)
{
    if (t->state.below_target == 0 || endangered_waits(t, now))
        return false;
    unsigned up = disks_up(cluster);
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
    if (tables_any(t, &garbage) || tables_any(t, &to_seal) || ns_upgrade_due(t) ||
        quota_due(t) || snapshot_work_due(t) || damage_due(t, now) || pack_due(t, now))
        return true;
    _cleanup_(cluster_fini) struct cluster cluster;
    struct heal_state heal;
    if (clustermap_load(t, &cluster) != 0 || heal_state_get(t, &heal) != 0)
        return false;
    for (size_t i = 0; i < cluster.n_disks; i++)
        if (cluster.disks[i].recount != 0)
            return true;
    return group_step_due(t, &heal, now) || endangered_due(t, &cluster, now) || heal_move_due(t, &cluster, &heal, now);
}
