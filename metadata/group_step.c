/* What is due of parity groups, in bounded steps with a cursor in the tables: groups to form from candidates,
 * makings that can not end any more, parity to make anew without the dead, groups to dissolve. */
#include "common/err.h"
#include "group_make.h"
#include "group_plan.h"
#include "namespace.h"

#define STEP_ROWS 16         /* owners and groups looked at in one step */
#define OWNER_LOOK 256       /* candidates of one owner looked at */
#define OWNER_GROUPS 4       /* groups begun for one owner in one step */
#define MOVE_STUCK 256       /* owners that are looked at again in one step when nodes came */
#define PASS_NS 1000000000ull
#define CLOCK_MAX_NS (60 * 1000000000ull)      /* a pause that lasts longer was set by a wrong clock */
/* What is left of a file that is not written waits so long for more before fewer than k are coded. Containers come
 * one after the other. */
#define PATIENCE_NS (3 * 1000000000ull)
#define PATIENCE_CONTAINER_NS (60 * 1000000000ull)
#define MAKING_MAX_NS (3600 * 1000000000ull)   /* a store that does not answer for an hour will not */

/* ------------------------------------------------------------------ candidates of one owner */
struct candidate {
    uint64_t offset, chunk, since;
};
struct owner_look {
    uint64_t owner;
    struct policy policy; /* k = 0: none of its chunks is to be coded */
    size_t n;
    struct candidate items[OWNER_LOOK];
    uint64_t newest;
};

static int owner_policy(struct tables *t, uint64_t owner, struct policy *ret)
{
    policy_default(ret);
    if (group_policy_of_number(owner, ret))
        return 0;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(t, owner, &inode);
    if (err == 0)
        err = policy_of(t, &inode, ret);
    return err == -E_NOENT ? 0 : err;
}

static int owner_load(struct tables *t, uint64_t owner, struct owner_look *ret)
{
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = key_2(TABLE_GROUP_DUE, GROUP_CANDIDATE, owner);
    *ret = (struct owner_look){.owner = owner};
    int err = owner_policy(t, owner, &ret->policy);
    if (err == 0)
        err = tables_rows(t, &prefix, &prefix, OWNER_LOOK, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        const struct row *row = &rows.rows[i];
        struct candidate *c = &ret->items[ret->n];
        if (number_decode(row->value, row->len, &c->since) != 0)
            return tables_corrupt(t, &row->key, "chunk to be coded");
        c->offset = key_number(&row->key, 2);
        c->chunk = key_number(&row->key, 3);
        ret->newest = MAX(ret->newest, c->since);
        if (ret->policy.code_k == 0)
            err = tables_del(t, &row->key);
        else
            ret->n++;
    }
    return err;
}

static uint64_t window_of(const struct owner_look *o, size_t i)
{
    return (o->items[i].offset >> o->policy.shift) / o->policy.code_k;
}

/* The first k whose slots are one window (they were placed for that); 0 when no window is complete. */
static unsigned full_window(const struct owner_look *o, size_t *ret_first)
{
    size_t first = 0;
    for (size_t i = 0; i < o->n; i++) {
        if (window_of(o, i) != window_of(o, first))
            first = i;
        if (i - first + 1 == o->policy.code_k) {
            *ret_first = first;
            return o->policy.code_k;
        }
    }
    return 0;
}

/* Nothing more will come by itself: what is there is coded, a last one alone stays as it is. */
static bool settled(struct tables *t, const struct owner_look *o)
{
    uint64_t patience = group_is_policy_number(o->owner) ? PATIENCE_CONTAINER_NS : PATIENCE_NS;
    struct key open = key_1(TABLE_OPEN_CHUNK, o->owner);
    return !tables_any(t, &open) && t->now >= o->newest + patience;
}

static int plan_request(const struct healer *h, const struct chunk *chunks, unsigned n, const struct policy *policy,
                        struct group_plan_request *ret)
{
    *ret = (struct group_plan_request){.k = n, .m = policy->code_m, .domain = policy->domain};
    for (unsigned i = 0; i < n; i++) {
        struct group_plan_chunk *c = &ret->chunks[i];
        for (unsigned j = 0; j < chunks[i].n_replicas; j++) {
            const struct chunk_replica *r = &chunks[i].replicas[j];
            size_t at = placement_find(&h->map, r->disk);
            if (chunk_replica_whole(r) && at != SIZE_MAX && h->disks[at].up && !h->disks[at].draining)
                c->disks[c->n++] = at;
        }
        if (c->n == 0)
            return -E_BUSY; /* all are being emptied, or just went: healing is at it */
    }
    return 0;
}

/* Begins a group of `n` candidates from `first` on. -E_BUSY: not now; -E_NOSPC: too few nodes. */
static int form(struct healer *h, const struct owner_look *o, size_t first, unsigned n)
{
    struct group_plan_request request;
    struct group_plan plan;
    _cleanup_free_ struct chunk *chunks = calloc(EC_DATA_MAX, sizeof *chunks);
    int err = chunks == NULL ? tables_note(h->t, -E_NOMEM) : 0;
    for (unsigned i = 0; i < n && err == 0; i++) {
        err = chunk_get(h->t, o->items[first + i].chunk, &chunks[i]);
        if (err == 0 && !group_is_candidate(&chunks[i]))
            err = -E_BUSY;
    }
    if (err == 0)
        err = plan_request(h, chunks, n, &o->policy, &request);
    if (err == 0)
        err = group_plan(&request, &h->map, &h->t->prng, &plan);
    if (err != 0)
        return err;
    struct group_intent intent = {.owner = o->owner, .k = o->policy.code_k, .m = o->policy.code_m,
                                  .domain = o->policy.domain, .n = n, .chunks = chunks};
    return group_begin(h, &intent, &plan);
}

/* ------------------------------------------------------------------ owners that cannot be coded now */
static int stuck_count(struct tables *t, int64_t change)
{
    struct heal_state heal;
    int err = change == 0 ? -E_NOENT : heal_state_get(t, &heal);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    heal.uncoded += (uint64_t)change;
    return heal_state_put(t, &heal);
}

static int stuck_drop(struct tables *t, uint64_t owner)
{
    struct key key = key_2(TABLE_GROUP_DUE, GROUP_STUCK, owner);
    struct kv_val value;
    uint64_t n;
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT)
        return 0;
    if (err == 0 && number_decode(value.data, value.len, &n) != 0)
        err = tables_corrupt(t, &key, "owner of chunks to be coded");
    if (err == 0)
        err = stuck_count(t, -(int64_t)n);
    return err == 0 ? tables_del(t, &key) : err;
}

static int stuck_add(struct tables *t, uint64_t owner, uint64_t n)
{
    struct key key = key_2(TABLE_GROUP_DUE, GROUP_STUCK, owner);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(n, &w);
    int err = tables_put(t, &key, &w);
    return err == 0 ? stuck_count(t, (int64_t)n) : err;
}

static int owner_done(struct tables *t, uint64_t owner)
{
    struct key key = key_2(TABLE_GROUP_DUE, GROUP_OWNER, owner);
    return tables_del(t, &key);
}

/* What is to be coded next of it: *ret_n 0 = nothing now, *ret_wait = it is looked at again. */
static void select_next(struct tables *t, const struct owner_look *o, size_t *ret_first, unsigned *ret_n, bool *ret_wait)
{
    struct key open = key_1(TABLE_OPEN_CHUNK, o->owner);
    *ret_first = 0;
    *ret_n = full_window(o, ret_first);
    *ret_wait = false;
    if (*ret_n != 0 || o->n < EC_DATA_MIN)
        return;
    if (settled(t, o))
        *ret_n = (unsigned)MIN(o->n, (size_t)o->policy.code_k);
    else
        *ret_wait = !tables_any(t, &open); /* the last chunk to be sealed lists its file again */
}

static int owner_step(struct healer *h, uint64_t owner)
{
    _cleanup_free_ struct owner_look *o = malloc(sizeof *o);
    if (o == NULL)
        return tables_note(h->t, -E_NOMEM);
    int err = stuck_drop(h->t, owner);
    for (unsigned i = 0; i < OWNER_GROUPS && err == 0; i++) {
        size_t first;
        unsigned n;
        bool wait;
        err = owner_load(h->t, owner, o);
        if (err != 0)
            return err;
        select_next(h->t, o, &first, &n, &wait);
        if (n == 0)
            return wait ? 0 : owner_done(h->t, owner);
        err = form(h, o, first, n);
    }
    if (err == -E_NOSPC) {
        err = owner_done(h->t, owner);
        return err == 0 ? stuck_add(h->t, owner, o->n) : err;
    }
    return err == -E_BUSY ? h->t->failed : err;
}

/* ------------------------------------------------------------------ groups */
static bool gone(const struct healer *h, uint32_t disk)
{
    size_t at = placement_find(&h->map, disk);
    return at == SIZE_MAX || h->disks[at].away || h->disks[at].draining;
}

/* G4: a member that changed, died, was found damaged or whose disk goes ends the making. One that is away for a moment does not. */
static int broken(struct healer *h, const struct group *g, bool *ret)
{
    *ret = h->t->now > g->next_ns + MAKING_MAX_NS;
    for (unsigned i = 0; i < group_shards(g) && !*ret; i++) {
        struct chunk chunk;
        bool there = false;
        if (g->next[i].chunk == 0)
            continue;
        int err = chunk_get(h->t, g->next[i].chunk, &chunk);
        if (err != 0 && err != -E_NOENT)
            return err;
        for (unsigned j = 0; err == 0 && j < chunk.n_replicas; j++)
            there |= chunk.replicas[j].disk == g->next[i].keeper &&
                     (chunk.replicas[j].flags & (REPLICA_READY | REPLICA_COPYING)) != 0 &&
                     !(chunk.replicas[j].flags & REPLICA_DAMAGED);
        *ret = err != 0 || !there || chunk.group != g->id || gone(h, g->next[i].keeper);
    }
    return 0;
}

/* Members have the copies that the policy asks now, verified and on disks that stay. */
static int may_go(struct healer *h, const struct group *g, bool *ret)
{
    *ret = true;
    for (unsigned i = 0; i < g->k && *ret; i++) {
        struct chunk chunk;
        unsigned good = 0;
        if (g->shards[i].chunk == 0 || (g->ghosts & 1u << i))
            continue;
        int err = chunk_get(h->t, g->shards[i].chunk, &chunk);
        if (err != 0)
            return err;
        for (unsigned j = 0; j < chunk.n_replicas; j++) {
            const struct chunk_replica *r = &chunk.replicas[j];
            size_t at = placement_find(&h->map, r->disk);
            good += chunk_replica_whole(r) && at != SIZE_MAX && h->disks[at].up && !h->disks[at].draining;
        }
        *ret = good >= chunk.want && chunk.wish >= chunk.want && good > 0;
    }
    return 0;
}

static unsigned alive(const struct group *g)
{
    unsigned n = 0;
    for (unsigned i = 0; i < g->k; i++)
        n += g->shards[i].chunk != 0 && !(g->ghosts & 1u << i);
    return n;
}

/* G7: each living member wants copies on its own account before the group may go, as many as the policy of its owner
 * now says (with a code: as many as bear what that bears). The walk that told the group to go comes to them one after the
 * other, and not at all to those of another file or of a snapshot alone. */
static int members_want(struct healer *h, struct group *g)
{
    unsigned places = cluster_places(&h->cluster);
    int err = 0;
    for (unsigned i = 0; i < g->k && err == 0; i++) {
        struct chunk chunk;
        struct policy policy;
        if (g->shards[i].chunk == 0 || (g->ghosts & 1u << i))
            continue;
        err = chunk_get(h->t, g->shards[i].chunk, &chunk);
        if (err == 0)
            err = owner_policy(h->t, chunk.owner, &policy);
        if (err != 0 || chunk.wish >= policy.copies)
            continue;
        chunk.wish = policy.copies;
        chunk.want = chunk_target(chunk.wish, places);
        err = chunk_save(h->t, &chunk);
    }
    return err == 0 ? group_get(h->t, g->id, g) : err; /* the members have changed it */
}

/* A last one alone is kept in copies, as one that was always alone is. */
static int leave_alone(struct healer *h, struct group *g)
{
    g->leaving = true;
    int err = group_put(h->t, g);
    return err == 0 ? members_want(h, g) : err;
}

static int work_step(struct healer *h, uint64_t id)
{
    struct group g;
    bool yes = false;
    int err = group_get(h->t, id, &g);
    if (err != 0)
        return err;
    if (g.next_generation != 0) {
        err = broken(h, &g, &yes);
        if (err != 0)
            return err;
        return yes ? group_abort(h->t, &g) : group_flip(h->t, &g);
    }
    if (g.leaving) {
        err = members_want(h, &g);
        if (err == 0)
            err = may_go(h, &g, &yes);
        return err == 0 && yes ? group_dissolve(h->t, &g) : err;
    }
    bool rests = g.after_ns > h->t->now && g.after_ns <= h->t->now + CLOCK_MAX_NS;
    if (g.state != GROUP_CODED || g.ghosts == 0 || g.lost != 0 || rests)
        return 0;
    if (alive(&g) < EC_DATA_MIN)
        return leave_alone(h, &g);
    err = group_begin_anew(h, &g);
    return err == -E_BUSY ? h->t->failed : err;
}

/* ------------------------------------------------------------------ one step */
static struct key room_key(enum group_room room)
{
    return key_1(TABLE_GROUP_DUE, room);
}

static int cursor_put(struct tables *t, uint64_t room, uint64_t next, bool pass_ends)
{
    struct heal_state heal;
    int err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    heal.code_room = pass_ends ? 0 : room;
    heal.code_next = pass_ends ? 0 : next;
    heal.code_after_ns = pass_ends ? t->now + PASS_NS : 0;
    return heal_state_put(t, &heal);
}

/* More nodes, or others: those that had too few are looked at again. */
static int unstick(struct tables *t, bool *ret_all)
{
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = room_key(GROUP_STUCK);
    int err = tables_rows(t, &prefix, &prefix, MOVE_STUCK, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        uint64_t owner = key_number(&rows.rows[i].key, 1);
        struct key due = key_2(TABLE_GROUP_DUE, GROUP_OWNER, owner);
        err = stuck_drop(t, owner);
        if (err == 0)
            err = tables_put_empty(t, &due);
    }
    *ret_all = rows.count < MOVE_STUCK;
    return err;
}

static int epoch_put(struct tables *t)
{
    struct heal_state heal;
    int err = heal_state_get(t, &heal);
    heal.code_epoch = t->state.epoch;
    return err == 0 ? heal_state_put(t, &heal) : err;
}

static bool rests(const struct heal_state *heal, uint64_t now)
{
    return heal->code_after_ns > now && heal->code_after_ns <= now + CLOCK_MAX_NS;
}

static bool any_stuck(struct tables *t)
{
    struct key stuck = room_key(GROUP_STUCK);
    return tables_any(t, &stuck);
}

static int rows_step(struct tables *t, const struct heal_state *heal)
{
    _cleanup_(healer_fini) struct healer h = {0};
    _cleanup_(rows_fini) struct rows rows = {0};
    uint64_t room = MAX(heal->code_room, (uint64_t)GROUP_OWNER), next = heal->code_next;
    struct key start = key_2(TABLE_GROUP_DUE, room, next), prefix = key_table(TABLE_GROUP_DUE);
    int err = healer_init(&h, t, HEAL_MOVE);
    if (err == 0)
        err = tables_rows(t, &start, &prefix, STEP_ROWS, &rows);
    bool ends = rows.count < STEP_ROWS;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        uint64_t id = key_number(&rows.rows[i].key, 1);
        room = key_number(&rows.rows[i].key, 0);
        if (room == GROUP_STUCK) {
            ends = true;
            break;
        }
        if (!tables_has(t, &rows.rows[i].key)) /* one before it was the reason that it went */
            continue;
        err = room == GROUP_OWNER ? owner_step(&h, id) : work_step(&h, id);
        next = id + 1;
        if (h.copies >= HEAL_STEP_COPIES) {
            ends = false;
            break;
        }
    }
    return err == 0 ? cursor_put(t, room, next, ends) : err;
}

int group_step(struct tables *t)
{
    struct heal_state heal;
    int err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    if (any_stuck(t) && heal.code_epoch != t->state.epoch) {
        bool all;
        err = unstick(t, &all);
        if (err == 0 && all)
            err = epoch_put(t);
        if (err == 0)
            err = heal_state_get(t, &heal);
    }
    struct key owners = room_key(GROUP_OWNER), work = room_key(GROUP_WORK);
    if (err != 0 || rests(&heal, t->now) || !(tables_any(t, &owners) || tables_any(t, &work)))
        return err;
    return rows_step(t, &heal);
}

bool group_step_due(struct tables *t, const struct heal_state *heal, uint64_t now)
{
    struct key owners = room_key(GROUP_OWNER), work = room_key(GROUP_WORK);
    if (any_stuck(t) && heal->code_epoch != t->state.epoch)
        return true;
    return !rests(heal, now) && (tables_any(t, &owners) || tables_any(t, &work));
}
