/* What is not urgent: chunks brought to their policies, disks emptied, domains improved, fill balanced. In
 * this order, each in bounded steps with a cursor in the tables, so a new leader goes on where the old one
 * was.
 *
 *   walk:    all chunks by id; asked for by a change of policy, of the number of places, and once after
 *            an upgrade (rows of version 1 are counted on their disks then)
 *   drain:   the chunks of a draining disk, round after round until none depends on it
 *   weak:    chunks in too few domains, once for every change of the cluster map
 *   balance: the chunks of the fullest disk, until all disks are within two points of the average */
#include "common/err.h"
#include "group_make.h"
#include "heal_impl.h"
#include "namespace.h"
#include "pack.h"

#define ROUND_PAUSE_NS 1000000000ull
#define IDLE_PAUSE_NS (10 * 1000000000ull) /* between two looks whether the fill is balanced */
#define STUCK_PAUSE_NS (600 * 1000000000ull)
#define CLOCK_MAX_NS (3600 * 1000000000ull) /* a pause that lasts longer was set by a wrong clock */
#define BALANCE_STEP_MOVES 4
/* A file that stays open keeps its open chunks where they are for so long after the drain began; then its
 * member on the draining disk leaves, as one that failed does (C2), if enough others are ready. */
#define OPEN_PATIENCE_NS (60 * 1000000000ull)
#define OPEN_MEMBERS_MIN 2

static bool rests(uint64_t until, uint64_t now)
{
    return until > now && until <= now + CLOCK_MAX_NS;
}

/* ------------------------------------------------------------------ policies */
struct walk {
    struct healer h;
    unsigned places;
    bool counting;
    uint64_t owner; /* whose policy is in `policy` */
    bool known;     /* false: the owner is gone or is no file */
    struct policy policy;
};

static int owner_policy(struct walk *w, const struct chunk *chunk)
{
    if (w->owner == chunk->owner)
        return 0;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(w->h.t, chunk->owner, &inode);
    w->owner = chunk->owner;
    w->known = err == 0;
    if (err == 0)
        err = policy_of(w->h.t, &inode, &w->policy);
    return err == -E_NOENT ? 0 : err;
}

static int walk_chunk(struct walk *w, const struct row *row)
{
    struct chunk chunk;
    struct heal_decision decision;
    /* As it is now: a chunk before it in this step may have changed their group. */
    int err = chunk_get(w->h.t, key_number(&row->key, 0), &chunk);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    struct chunk before = chunk;
    /* Rows of version 1 do not say whether their number of copies was a file's own: they keep it. */
    bool of_file = !(chunk.flags & (CHUNK_OF_UPLOAD | CHUNK_PENDING)) && !w->counting && chunk.kind == CHUNK_DATA &&
                   chunk.state != TARN__CHUNK_STATE__CHUNK_DELETING;
    if (chunk.flags & CHUNK_MAKING)
        return 0;
    if (of_file)
        err = owner_policy(w, &chunk);
    if (chunk.body != 0) /* a piece: its container is of one class, and it moves to another one */
        return err == 0 && w->known ? pack_consider_under(w->h.t, &chunk, &w->policy) : err;
    if (err == 0 && of_file && w->known) {
        chunk.wish = w->policy.copies;
        chunk.domain = w->policy.domain;
        err = group_follow(w->h.t, &chunk, &w->policy);
    }
    chunk.want = chunk_target(chunk.wish, w->places);
    if (err == 0 && of_file && w->known)
        err = pack_consider_under(w->h.t, &chunk, &w->policy);
    bool same = chunk.counted && chunk.wish == before.wish && chunk.want == before.want && chunk.domain == before.domain;
    if (err != 0 || same)
        return err;
    err = healer_chunk(&w->h, &chunk, false, false, &decision);
    return err == 0 ? chunk_save(w->h.t, &chunk) : err;
}

static void walk_on(struct heal_state *heal, uint64_t next, bool end)
{
    heal->walk_next = next;
    if (!end && next < heal->walk_end)
        return;
    /* What changed behind the walk is walked again, up to where it was then. */
    heal->counting = false;
    heal->walk_next = heal->walk_again != 0 ? 1 : 0;
    heal->walk_end = heal->walk_again;
    heal->walk_again = 0;
}

static int heal_walk_step(struct tables *t)
{
    struct heal_state heal;
    _cleanup_(rows_fini) struct rows rows = {0};
    struct walk w = {0};
    int err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    struct key prefix = key_table(TABLE_CHUNK), start = key_1(TABLE_CHUNK, heal.walk_next);
    err = healer_init(&w.h, t, HEAL_MOVE);
    w.places = cluster_places(&w.h.cluster);
    w.counting = heal.counting;
    if (err == 0)
        err = tables_rows(t, &start, &prefix, HEAL_STEP_LOOK, &rows);
    uint64_t next = heal.walk_next;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        err = walk_chunk(&w, &rows.rows[i]);
        next = key_number(&rows.rows[i].key, 0) + 1;
    }
    healer_fini(&w.h);
    if (err == 0)
        err = heal_state_get(t, &heal); /* the chunks have changed it */
    if (err != 0)
        return err;
    walk_on(&heal, next, rows.count < HEAL_STEP_LOOK);
    return heal_state_put(t, &heal);
}

/* ------------------------------------------------------------------ draining */
static bool drain_left(const struct disk *disk)
{
    return (disk->flags & DISK_DRAINING) && disk->ready + disk->copying > 0;
}

/* C2: the member leaves and a new generation fences whoever writes by the old map. */
static int drain_open(struct healer *h, struct chunk *chunk, const struct disk *disk)
{
    unsigned others = 0, index = MD_REPLICAS_MAX;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        const struct disk *at = cluster_disk(&h->cluster, r->disk);
        if (r->disk == disk->id && (r->flags & REPLICA_READY))
            index = i;
        else if ((r->flags & REPLICA_READY) && at != NULL && at->up && !(at->flags & DISK_DRAINING))
            others++;
    }
    bool patient = h->t->now < disk->drain_since_ns + OPEN_PATIENCE_NS;
    if (index == MD_REPLICAS_MAX || others < OPEN_MEMBERS_MIN || patient)
        return 0;
    int err = chunk_replica_drop(h->t, chunk, index);
    chunk->generation++;
    return err == 0 ? chunk_save(h->t, chunk) : err;
}

static int drain_chunk(struct healer *h, uint64_t id, const struct disk *disk, unsigned *stuck)
{
    struct chunk chunk;
    struct heal_decision decision;
    int err = chunk_get(h->t, id, &chunk);
    if (err != 0 || chunk.heal_after_ns > h->t->now)
        return err;
    if (chunk.state == TARN__CHUNK_STATE__CHUNK_OPEN)
        return drain_open(h, &chunk, disk);
    err = healer_chunk(h, &chunk, true, false, &decision);
    *stuck += decision.stuck && h->busy;
    return err;
}

/* The draining disk the cursor is on, or the next one; NULL ends the round. */
static const struct disk *drain_disk(const struct cluster *cluster, struct heal_state *heal)
{
    for (size_t i = 0; i < cluster->n_disks; i++) {
        const struct disk *disk = &cluster->disks[i];
        if (disk->id < heal->drain_disk || !drain_left(disk))
            continue;
        if (disk->id != heal->drain_disk)
            heal->drain_next = 0;
        heal->drain_disk = disk->id;
        return disk;
    }
    return NULL;
}

static int drain_rows(struct healer *h, const struct disk *disk, struct heal_state *heal)
{
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = key_1(TABLE_ON_DISK, disk->id), start = key_2(TABLE_ON_DISK, disk->id, heal->drain_next);
    int err = tables_rows(h->t, &start, &prefix, HEAL_STEP_LOOK, &rows);
    unsigned stuck = 0;
    size_t i = 0;
    for (; i < rows.count && h->copies < HEAL_STEP_COPIES && stuck == 0 && err == 0; i++) {
        uint64_t id = key_number(&rows.rows[i].key, 1);
        err = drain_chunk(h, id, disk, &stuck);
        heal->drain_next = stuck == 0 ? id + 1 : id;
    }
    if (stuck > 0)
        heal->drain_after_ns = h->t->now + ROUND_PAUSE_NS;
    if (i == rows.count && rows.count < HEAL_STEP_LOOK && stuck == 0) {
        heal->drain_disk++;
        heal->drain_next = 0;
    }
    return err;
}

/* Takes over what this file owns into the row as it is now. */
static int cursors_put(struct tables *t, const struct heal_state *mine)
{
    struct heal_state now;
    int err = heal_state_get(t, &now);
    if (err != 0)
        return err;
    now.drain_disk = mine->drain_disk;
    now.drain_next = mine->drain_next;
    now.drain_after_ns = mine->drain_after_ns;
    now.weak_next = mine->weak_next;
    now.weak_epoch = mine->weak_epoch;
    now.balancing = mine->balancing;
    now.balance_disk = mine->balance_disk;
    now.balance_next = mine->balance_next;
    now.balance_after_ns = mine->balance_after_ns;
    now.balance_moved = mine->balance_moved;
    return heal_state_put(t, &now);
}

static int drain_step(struct tables *t, struct heal_state *heal)
{
    _cleanup_(healer_fini) struct healer h;
    int err = healer_init(&h, t, HEAL_MOVE);
    if (err != 0)
        return err;
    const struct disk *disk = drain_disk(&h.cluster, heal);
    if (disk != NULL) {
        struct disk at = *disk; /* its row in `h` moves on */
        return drain_rows(&h, &at, heal);
    }
    heal->drain_disk = heal->drain_next = 0;
    heal->drain_after_ns = t->now + ROUND_PAUSE_NS;
    return 0;
}

/* ------------------------------------------------------------------ domains */
static int weak_step(struct tables *t, struct heal_state *heal)
{
    _cleanup_(healer_fini) struct healer h;
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = key_1(TABLE_ENDANGERED, ENDANGERED_WEAK);
    struct key start = key_2(TABLE_ENDANGERED, ENDANGERED_WEAK, heal->weak_next);
    int err = healer_init(&h, t, HEAL_MOVE);
    if (err == 0)
        err = tables_rows(t, &start, &prefix, HEAL_STEP_LOOK, &rows);
    size_t i = 0;
    for (; i < rows.count && h.copies < HEAL_STEP_COPIES && err == 0; i++) {
        struct chunk chunk;
        struct heal_decision decision = {0};
        uint64_t id = key_number(&rows.rows[i].key, 1);
        err = chunk_get(t, id, &chunk);
        if (err == 0)
            err = healer_chunk(&h, &chunk, true, true, &decision);
        if (decision.stuck && h.busy) {
            heal->drain_after_ns = t->now + ROUND_PAUSE_NS;
            return err;
        }
        heal->weak_next = id + 1;
    }
    if (err == 0 && i == rows.count && rows.count < HEAL_STEP_LOOK) {
        heal->weak_next = 0;
        heal->weak_epoch = t->state.epoch;
    }
    return err;
}

/* ------------------------------------------------------------------ balance */
static void balance_mask(struct healer *h)
{
    for (size_t i = 0; i < h->cluster.n_disks; i++)
        if (rests(h->cluster.disks[i].balance_after_ns, h->t->now) || h->cluster.disks[i].sources >= BALANCE_STEP_MOVES)
            h->disks[i].source_room = 0;
}

static int chunk_policy(struct tables *t, const struct chunk *chunk, struct policy *ret)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    policy_default(ret);
    if (chunk->kind == CHUNK_CONTAINER)
        return pack_policy(t, chunk, ret);
    if (chunk->kind != CHUNK_DATA) /* it has no file */
        return 0;
    int err = ns_inode_get(t, chunk->owner, &inode);
    if (err == 0)
        err = policy_of(t, &inode, ret);
    return err == -E_NOENT ? 0 : err;
}

static int balance_chunk(struct healer *h, uint64_t id, size_t source, struct heal_state *heal)
{
    struct chunk chunk;
    struct policy policy;
    struct heal_chunk view;
    int err = chunk_get(h->t, id, &chunk);
    if (err != 0 || chunk.state != TARN__CHUNK_STATE__CHUNK_SEALED || chunk.length == 0 ||
        chunk.heal_after_ns > h->t->now || !chunk_counts(&chunk) || (chunk.group != 0 && !chunk.coded))
        return err;
    err = chunk_policy(h->t, &chunk, &policy);
    if (err != 0)
        return err;
    err = healer_view(h->t, &chunk, &policy, &view);
    if (err != 0)
        return err;
    size_t target = heal_balance_target(&view, &h->map, source, &h->t->prng);
    if (target == SIZE_MAX)
        return 0;
    heal->balance_moved++;
    placement_use(&h->map, source, -(int64_t)chunk.length);
    err = healer_copy(h, &chunk, target, source);
    return err == 0 ? chunk_save(h->t, &chunk) : err;
}

/* The pass over the source's chunks is through. When nothing could go, it is left alone for a while. */
static int balance_pass_end(struct healer *h, size_t source, struct heal_state *heal)
{
    uint64_t moved = heal->balance_moved;
    heal->balance_next = heal->balance_moved = 0;
    heal->balance_disk = 0;
    if (moved > 0)
        return 0;
    struct disk disk;
    int err = disk_get(h->t, h->disks[source].id, &disk);
    disk.balance_after_ns = h->t->now + STUCK_PAUSE_NS;
    return err == 0 ? disk_put(h->t, &disk) : err;
}

static int balance_from(struct healer *h, size_t source, struct heal_state *heal)
{
    uint32_t id = h->disks[source].id;
    if (heal->balance_disk != id) {
        heal->balance_next = heal->balance_moved = 0;
        heal->balance_disk = id;
    }
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = key_1(TABLE_ON_DISK, id), start = key_2(TABLE_ON_DISK, id, heal->balance_next);
    int err = tables_rows(h->t, &start, &prefix, HEAL_STEP_LOOK, &rows);
    size_t i = 0;
    for (; i < rows.count && h->copies < BALANCE_STEP_MOVES && h->disks[source].source_room > 0 && err == 0; i++) {
        heal->balance_next = key_number(&rows.rows[i].key, 1) + 1;
        err = balance_chunk(h, heal->balance_next - 1, source, heal);
    }
    if (err == 0 && i == rows.count && rows.count < HEAL_STEP_LOOK)
        err = balance_pass_end(h, source, heal);
    return err;
}

static int balance_step(struct tables *t, struct heal_state *heal)
{
    _cleanup_(healer_fini) struct healer h;
    int err = healer_init(&h, t, HEAL_MOVE);
    if (err != 0)
        return err;
    heal->balance_after_ns = t->now + ROUND_PAUSE_NS;
    heal->balancing = heal_unbalanced(&h.map, heal->balancing ? BALANCE_STOP : BALANCE_START);
    if (!heal->balancing) {
        heal->balance_after_ns = t->now + IDLE_PAUSE_NS;
        return 0;
    }
    balance_mask(&h);
    size_t source = heal_balance_source(&h.map);
    return source == SIZE_MAX ? 0 : balance_from(&h, source, heal);
}

/* ------------------------------------------------------------------ which of them */
static bool draining(const struct cluster *cluster)
{
    for (size_t i = 0; i < cluster->n_disks; i++)
        if (drain_left(&cluster->disks[i]))
            return true;
    return false;
}

static bool weak_due(const struct tables *t, const struct heal_state *heal)
{
    return heal->weak > 0 && heal->weak_epoch != t->state.epoch;
}

static bool balance_due(const struct tables *t, const struct cluster *cluster, const struct heal_state *heal,
                        uint64_t now)
{
    if (cluster->n_disks < 2 || t->state.below_target > 0 || rests(heal->balance_after_ns, now))
        return false;
    if (heal->balancing)
        return true;
    struct placement_disk *disks = NULL;
    struct placement_map map;
    if (cluster_placement(cluster, now, &disks, &map) != 0)
        return false;
    bool off = heal_unbalanced(&map, BALANCE_START);
    placement_map_fini(&map);
    free(disks);
    return off;
}

bool heal_move_due(struct tables *t, const struct cluster *cluster, const struct heal_state *heal, uint64_t now)
{
    if (heal->walk_next != 0)
        return true;
    if ((draining(cluster) || weak_due(t, heal)) && !rests(heal->drain_after_ns, now))
        return true;
    return balance_due(t, cluster, heal, now);
}

int heal_move_step(struct tables *t)
{
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    struct heal_state heal;
    int err = heal_state_get(t, &heal);
    if (err == 0 && heal.walk_next != 0)
        return heal_walk_step(t);
    if (err == 0)
        err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    if (draining(&cluster) && !rests(heal.drain_after_ns, t->now))
        err = drain_step(t, &heal);
    else if (weak_due(t, &heal) && !rests(heal.drain_after_ns, t->now))
        err = weak_step(t, &heal);
    else if (balance_due(t, &cluster, &heal, t->now))
        err = balance_step(t, &heal);
    else
        return 0;
    return err == 0 ? cursors_put(t, &heal) : err;
}
