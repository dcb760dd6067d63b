#include "group_make.h"

#include "common/check.h"
#include "common/err.h"
#include "group_plan.h"
#include "namespace.h"
#include "pack.h"

#define RETRY_NS (5 * 1000000000ull) /* after what was made anew had to be given up */

/* ------------------------------------------------------------------ what waits to be coded */
static struct key candidate_key(const struct chunk *chunk)
{
    struct key id = key_1(TABLE_GROUP_DUE, chunk->id); /* its number, without the letter, goes behind */
    return key_append(key_3(TABLE_GROUP_DUE, GROUP_CANDIDATE, chunk->owner, chunk->owner_offset), id.data + 1, 8);
}

bool group_is_candidate(const struct chunk *chunk)
{
    bool kind = chunk->kind == CHUNK_DATA || chunk->kind == CHUNK_CONTAINER;
    if (!chunk_counts(chunk) || !kind || chunk->state != TARN__CHUNK_STATE__CHUNK_SEALED || chunk->flags != 0 ||
        chunk->group != 0 || chunk->length == 0 || chunk->live < chunk->want)
        return false;
    unsigned sealed = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        if ((r->flags & REPLICA_READY) && !(r->flags & REPLICA_SEALED))
            return false;
        sealed += (r->flags & REPLICA_READY) != 0;
    }
    return sealed > 0;
}

static int policy_of_chunk(struct tables *t, const struct chunk *chunk, struct policy *ret)
{
    struct heal_state heal;
    policy_default(ret);
    if (group_policy_of_number(chunk->owner, ret))
        return 0;
    int err = heal_state_get(t, &heal);
    if (err != 0 || heal.policies == 0)
        return err;
    _cleanup_(inode_fini) struct inode inode = {0};
    err = ns_inode_get(t, chunk->owner, &inode);
    if (err == 0 && inode.type == TARN__FILE_TYPE__FT_FILE)
        err = policy_of(t, &inode, ret);
    return err == -E_NOENT ? 0 : err; /* kept for a snapshot alone: as it is */
}

/* The list is looked at with the next step. */
static int wake(struct tables *t)
{
    struct heal_state heal;
    int err = heal_state_get(t, &heal);
    if (err != 0 || heal.code_after_ns == 0)
        return err;
    heal.code_after_ns = 0;
    return heal_state_put(t, &heal);
}

static int candidate_add(struct tables *t, const struct chunk *chunk)
{
    struct key key = candidate_key(chunk), owner = key_2(TABLE_GROUP_DUE, GROUP_OWNER, chunk->owner);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(t->now, &w);
    int err = tables_put(t, &key, &w);
    if (err == 0)
        err = tables_put_empty(t, &owner);
    return err == 0 ? wake(t) : err;
}

static int candidate_drop(struct tables *t, const struct chunk *chunk)
{
    struct key key = candidate_key(chunk);
    return tables_has(t, &key) ? tables_del(t, &key) : t->failed;
}

int group_candidate(struct tables *t, const struct chunk *before, const struct chunk *chunk)
{
    bool was = group_is_candidate(before), is = group_is_candidate(chunk);
    bool moved = before->owner != chunk->owner || before->owner_offset != chunk->owner_offset; /* to another file */
    if (was == is && !(was && moved))
        return 0;
    int err = was ? candidate_drop(t, before) : 0;
    if (err != 0 || !is)
        return err;
    struct policy policy;
    err = policy_of_chunk(t, chunk, &policy);
    return err == 0 && policy.code_k != 0 && !pack_compresses(chunk, &policy) ? candidate_add(t, chunk) : err;
}

/* The parity is of what lies on the disks: with a member that is to be compressed and was not tried yet the group goes first. */
static int to_be_compressed(struct tables *t, const struct group *g, const struct policy *policy, bool *ret)
{
    const struct group_shard *shards = g->state == GROUP_MAKING ? g->next : g->shards;
    int err = 0;
    *ret = false;
    for (unsigned i = 0; i < g->k && policy->compress != 0 && !*ret && err == 0; i++) {
        struct chunk chunk;
        if (shards[i].chunk == 0)
            continue;
        err = chunk_get(t, shards[i].chunk, &chunk);
        *ret = err == 0 && pack_compresses(&chunk, policy); /* never of a ghost or a container */
    }
    return err;
}

static bool same_code(const struct group *g, const struct policy *policy)
{
    return policy->code_k == g->k && policy->code_m == g->m;
}

static int follow_coded(struct tables *t, struct chunk *chunk, const struct policy *policy)
{
    struct group g;
    bool compress;
    int err = group_get(t, chunk->group, &g);
    if (err == 0)
        err = to_be_compressed(t, &g, policy, &compress);
    if (err != 0)
        return err;
    bool same = same_code(&g, policy) && !compress;
    chunk->wish = same ? 1 : policy->copies;
    if (g.leaving == !same && g.domain == policy->domain)
        return 0;
    g.leaving = !same;
    g.domain = policy->domain;
    err = group_put(t, &g);
    return err == 0 ? wake(t) : err;
}

int group_follow(struct tables *t, struct chunk *chunk, const struct policy *policy)
{
    if (chunk->coded)
        return follow_coded(t, chunk, policy);
    struct group g;
    bool compress = false;
    int err = chunk->group == 0 ? -E_NOENT : group_get(t, chunk->group, &g);
    if (err == 0 && g.state == GROUP_MAKING)
        err = to_be_compressed(t, &g, policy, &compress);
    if (err == 0 && g.state == GROUP_MAKING && (!same_code(&g, policy) || compress)) {
        err = group_abort(t, &g);
        chunk->group = chunk->shard = 0;
    }
    if (err != 0 && err != -E_NOENT)
        return err;
    if (!group_is_candidate(chunk))
        return 0;
    return policy->code_k != 0 && !pack_compresses(chunk, policy) ? candidate_add(t, chunk) : candidate_drop(t, chunk);
}

int group_due_drop(struct tables *t, uint64_t group)
{
    struct key key = key_2(TABLE_GROUP_DUE, GROUP_WORK, group);
    return tables_has(t, &key) ? tables_del(t, &key) : t->failed;
}

int group_due(struct tables *t, const struct group *g)
{
    struct key key = key_2(TABLE_GROUP_DUE, GROUP_WORK, g->id);
    bool due = g->next_generation != 0 || (g->state == GROUP_CODED && (g->ghosts != 0 || g->leaving));
    if (due == tables_has(t, &key))
        return t->failed;
    return due ? tables_put_empty(t, &key) : tables_del(t, &key);
}

/* ------------------------------------------------------------------ the intent */
static void next_begin(struct tables *t, struct group *g)
{
    g->next_generation = ++g->generation_last;
    g->next_task = t->state.next_task;
    g->next_ns = t->now;
    g->next_length = 0;
    g->done = 0;
    memset(g->next, 0, sizeof g->next);
}

/* A chunk that nothing depends on until the flip. */
static int parity_make(struct healer *h, const struct group *g, unsigned shard, size_t target, struct group_shard *ret)
{
    struct chunk chunk = {.id = tables_state(h->t)->next_chunk++,
                          .state = TARN__CHUNK_STATE__CHUNK_SEALED,
                          .want = 1,
                          .wish = 1,
                          .flags = CHUNK_MAKING,
                          .kind = CHUNK_PARITY,
                          .owner = g->id,
                          .owner_offset = shard,
                          .generation = g->next_generation,
                          .length = g->next_length,
                          .domain = g->domain,
                          .group = g->id,
                          .shard = (uint8_t)shard};
    *ret = (struct group_shard){.chunk = chunk.id, .keeper = h->disks[target].id};
    int err = healer_copy(h, &chunk, target, SIZE_MAX);
    return err == 0 ? chunk_save(h->t, &chunk) : err;
}

static int parity_all(struct healer *h, struct group *g, const size_t *targets)
{
    int err = 0;
    for (unsigned j = 0; j < g->m && err == 0; j++)
        err = parity_make(h, g, g->k + j, targets[j], &g->next[g->k + j]);
    return err;
}

static const struct chunk_replica *replica_at(const struct chunk *chunk, uint32_t disk)
{
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if (chunk->replicas[i].disk == disk && !(chunk->replicas[i].flags & REPLICA_LEAVING))
            return &chunk->replicas[i];
    return NULL;
}

static bool verified(const struct chunk_replica *r)
{
    return r != NULL && chunk_replica_whole(r);
}

/* The disk that has a verified copy and most room to give it; SIZE_MAX = none. */
static size_t copy_source(const struct healer *h, const struct chunk *chunk)
{
    size_t best = SIZE_MAX;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        size_t at = placement_find(&h->map, chunk->replicas[i].disk);
        if (verified(&chunk->replicas[i]) && at != SIZE_MAX && h->disks[at].up &&
            (best == SIZE_MAX || h->disks[at].source_room > h->disks[best].source_room))
            best = at;
    }
    return best;
}

/* The keeper verifies what it has, or gets a copy. */
static int member_begin(struct healer *h, struct group *g, unsigned i, struct chunk *chunk, size_t keeper, bool copy)
{
    size_t source = copy ? copy_source(h, chunk) : keeper;
    CHECK(source != SIZE_MAX);
    chunk->group = g->id;
    chunk->shard = (uint8_t)i;
    g->next[i] = (struct group_shard){.chunk = chunk->id, .keeper = h->disks[keeper].id};
    int err = copy ? healer_copy(h, chunk, keeper, source)
                   : chunk_task_add(h->t, h->disks[keeper].id, TARN__CHUNK_TASK__KIND__VERIFY, chunk);
    return err == 0 ? chunk_save(h->t, chunk) : err;
}

int group_begin(struct healer *h, const struct group_intent *intent, const struct group_plan *plan)
{
    CHECK(intent->n >= EC_DATA_MIN && intent->n <= intent->k);
    for (unsigned i = 0; i < intent->n; i++)
        if (plan->copy & 1u << i) {
            size_t source = copy_source(h, &intent->chunks[i]);
            if (source == SIZE_MAX || h->disks[source].source_room == 0)
                return -E_BUSY; /* before anything is changed: a disk that has room now may give all of them that it has */
        }
    struct group g = {.id = group_id_next(h->t), .k = intent->k, .m = intent->m, .state = GROUP_MAKING,
                      .domain = intent->domain, .owner = intent->owner};
    next_begin(h->t, &g);
    for (unsigned i = 0; i < intent->n; i++)
        g.next_length = MAX(g.next_length, intent->chunks[i].length);
    int err = 0;
    for (unsigned i = 0; i < intent->n && err == 0; i++)
        err = member_begin(h, &g, i, &intent->chunks[i], plan->keepers[i], plan->copy & 1u << i);
    if (err == 0)
        err = parity_all(h, &g, plan->parity);
    return err == 0 ? group_put(h->t, &g) : err;
}

/* The data that is left stays where it is; parity goes to nodes that have none of it. */
static int anew_places(struct healer *h, const struct group *g, size_t *keepers, size_t *parity)
{
    struct placement_request wish = {.copies = g->m, .domain = g->domain, .apart = g->domain != DOMAIN_DISK};
    for (unsigned i = 0; i < g->k; i++) {
        struct chunk chunk;
        if (g->shards[i].chunk == 0 || (g->ghosts & 1u << i))
            continue;
        int err = chunk_get(h->t, g->shards[i].chunk, &chunk);
        if (err != 0)
            return err;
        keepers[i] = SIZE_MAX;
        for (unsigned j = 0; j < chunk.n_replicas; j++) {
            size_t at = placement_find(&h->map, chunk.replicas[j].disk);
            if (verified(&chunk.replicas[j]) && at != SIZE_MAX && h->disks[at].up && !h->disks[at].draining)
                keepers[i] = at;
        }
        if (keepers[i] == SIZE_MAX)
            return -E_BUSY;
        wish.held[wish.n_held++] = h->disks[keepers[i]].id;
    }
    return placement_choose(&h->map, &wish, &h->t->prng, parity) < g->m ? -E_BUSY : 0;
}

int group_begin_anew(struct healer *h, struct group *g)
{
    size_t keepers[EC_DATA_MAX], parity[PLACEMENT_MEMBERS_MAX];
    int err = anew_places(h, g, keepers, parity);
    if (err != 0)
        return err;
    next_begin(h->t, g);
    for (unsigned i = 0; i < g->k && err == 0; i++) {
        struct chunk chunk;
        if (g->shards[i].chunk == 0 || (g->ghosts & 1u << i))
            continue;
        err = chunk_get(h->t, g->shards[i].chunk, &chunk);
        if (err == 0)
            err = member_begin(h, g, i, &chunk, keepers[i], false);
        g->next_length = MAX(g->next_length, chunk.length);
    }
    if (err == 0)
        err = parity_all(h, g, parity);
    return err == 0 ? group_put(h->t, g) : err;
}

/* ------------------------------------------------------------------ the end of a making */
/* It is no shard any more: what its group bears does not count for it. */
static int member_free(struct tables *t, uint64_t id, struct chunk *ret)
{
    int err = chunk_get(t, id, ret);
    ret->coded = false;
    ret->group = ret->shard = 0;
    return err;
}

/* … but a chunk like others, which may be packed or compressed now. */
static int member_released(struct tables *t, uint64_t id)
{
    struct chunk chunk;
    int err = member_free(t, id, &chunk);
    if (err == 0)
        err = chunk_save(t, &chunk);
    return err == 0 ? pack_consider(t, &chunk) : err;
}

static int shard_delete(struct tables *t, uint64_t id)
{
    struct chunk chunk;
    int err = id == 0 ? -E_NOENT : member_free(t, id, &chunk);
    return err == 0 ? chunk_delete(t, &chunk) : err == -E_NOENT ? 0 : err;
}

/* Of an array of shards those that the other does not have: parity and the dead. */
static int delete_others(struct tables *t, const struct group *g, const struct group_shard *from, const struct group_shard *but)
{
    int err = 0;
    for (unsigned i = 0; i < group_shards(g) && err == 0; i++)
        if (group_index(but, group_shards(g), from[i].chunk) < 0 && (i >= g->k || (g->ghosts & 1u << i)))
            err = shard_delete(t, from[i].chunk);
    return err;
}

static void next_clear(struct group *g)
{
    memset(g->next, 0, sizeof g->next);
    g->next_generation = g->next_length = g->next_task = g->next_ns = 0;
    g->done = 0;
}

int group_abort(struct tables *t, struct group *g)
{
    struct group was = *g;
    was.ghosts = 0; /* none of `next` is dead */
    int err = delete_others(t, &was, was.next, was.shards);
    next_clear(g);
    if (g->state == GROUP_CODED) {
        g->after_ns = t->now + RETRY_NS;
        return err == 0 ? group_put(t, g) : err;
    }
    if (err == 0)
        err = group_del(t, g);
    for (unsigned i = 0; i < was.k && err == 0; i++) {
        err = was.next[i].chunk == 0 ? -E_NOENT : member_released(t, was.next[i].chunk);
        err = err == -E_NOENT ? 0 : err;
    }
    return err;
}

static int member_coded(struct tables *t, struct group *g, unsigned i, uint32_t keeper)
{
    struct chunk chunk;
    int err = chunk_get(t, g->shards[i].chunk, &chunk);
    if (err != 0)
        return err;
    chunk.coded = true;
    chunk.group = g->id;
    chunk.shard = (uint8_t)i;
    chunk.flags &= (uint8_t)~CHUNK_MAKING;
    chunk.domain = g->domain;
    chunk.want = chunk.wish = 1;
    /* G5: copies go now that the parity bears their loss, and not before. */
    for (unsigned j = 0; j < chunk.n_replicas && err == 0; j++)
        if (keeper != 0 && chunk.replicas[j].disk != keeper)
            err = chunk_replica_drop(t, &chunk, j);
    return err == 0 ? chunk_save(t, &chunk) : err;
}

int group_become_coded(struct tables *t, struct group *g)
{
    struct group_shard shards[EC_SHARDS_MAX];
    memcpy(shards, g->shards, sizeof shards);
    g->state = GROUP_CODED;
    g->lost = g->known = 0;
    int err = group_put(t, g);
    for (unsigned i = 0; i < group_shards(g) && err == 0; i++)
        if (shards[i].chunk != 0)
            err = member_coded(t, g, i, shards[i].keeper);
    return err == 0 ? group_get(t, g->id, g) : err; /* the members have changed it */
}

/* Compare: every member is what the intent said, verified, and on a disk that is up. */
static int still_right(struct tables *t, const struct group *g, bool *ret)
{
    uint32_t all = 0;
    *ret = true;
    for (unsigned i = 0; i < group_shards(g) && *ret; i++) {
        struct chunk chunk;
        struct disk disk;
        if (g->next[i].chunk == 0)
            continue;
        all |= 1u << i;
        int err = chunk_get(t, g->next[i].chunk, &chunk);
        if (err == 0)
            err = disk_get(t, g->next[i].keeper, &disk);
        if (err != 0 && err != -E_NOENT)
            return err;
        *ret = err == 0 && chunk.state == TARN__CHUNK_STATE__CHUNK_SEALED && chunk.group == g->id &&
               chunk.kind != CHUNK_GHOST && chunk.shard == i && disk.up && verified(replica_at(&chunk, g->next[i].keeper));
    }
    *ret &= (g->done & all) == all;
    return 0;
}

/* No chunk of it is read before the flip, so a crash at any point leaves copies, or the parity that was. */
int group_flip(struct tables *t, struct group *g)
{
    bool right;
    int err = still_right(t, g, &right);
    if (err != 0 || !right)
        return err;
    if (g->state == GROUP_CODED) /* the parity before, and the dead, whose bytes nothing needs now */
        err = delete_others(t, g, g->shards, g->next);
    memcpy(g->shards, g->next, sizeof g->shards);
    g->generation = g->next_generation;
    g->length = g->next_length;
    g->ghosts = 0;
    next_clear(g);
    return err == 0 ? group_become_coded(t, g) : err;
}

int group_dissolve(struct tables *t, struct group *g)
{
    struct group_shard none[EC_SHARDS_MAX] = {0};
    int err = g->next_generation != 0 ? group_abort(t, g) : 0;
    if (err == 0)
        err = delete_others(t, g, g->shards, none);
    for (unsigned i = 0; i < g->k && err == 0; i++) {
        if (g->shards[i].chunk != 0 && !(g->ghosts & 1u << i))
            err = member_released(t, g->shards[i].chunk);
    }
    return err == 0 ? group_del(t, g) : err;
}

/* ------------------------------------------------------------------ a member dies */
static bool all_dead(const struct group *g)
{
    for (unsigned i = 0; i < g->k; i++)
        if (g->shards[i].chunk != 0 && !(g->ghosts & 1u << i))
            return false;
    return true;
}

int group_member_dies(struct tables *t, struct chunk *chunk, bool *ret_stays)
{
    struct group g;
    *ret_stays = false;
    int err = group_get(t, chunk->group, &g);
    if (err == 0 && g.next_generation != 0)
        err = group_abort(t, &g);
    if (err != 0 && err != -E_NOENT)
        return err;
    int index = err == 0 && chunk->coded ? group_index(g.shards, g.k, chunk->id) : -1;
    if (index < 0) {
        chunk->coded = false;
        chunk->group = chunk->shard = 0;
        return 0;
    }
    g.ghosts |= 1u << index;
    if (!all_dead(&g)) {
        chunk->kind = CHUNK_GHOST;
        chunk->owner = g.id;
        chunk->owner_offset = (uint64_t)index;
        *ret_stays = true;
        return group_put(t, &g);
    }
    uint64_t self = chunk->id;
    for (unsigned i = 0; i < group_shards(&g) && err == 0; i++)
        if (g.shards[i].chunk != self)
            err = shard_delete(t, g.shards[i].chunk);
    /* The caller deletes this one; it must not count by a group that is gone. */
    if (err == 0)
        err = member_free(t, self, chunk);
    if (err == 0)
        err = chunk_save(t, chunk);
    return err == 0 ? group_del(t, &g) : err;
}

/* ------------------------------------------------------------------ reports */
static int reported(struct tables *t, struct group *g, unsigned i)
{
    g->done |= 1u << i;
    int err = group_put(t, g);
    return err == 0 ? group_flip(t, g) : err;
}

/* Is this what the making waits for? -1 = no: it is of an earlier one, or another disk's. */
static int awaited(const struct group *g, const struct chunk *chunk, uint32_t disk)
{
    int i = group_index(g->next, group_shards(g), chunk->id);
    return g->next_generation != 0 && i >= 0 && g->next[i].keeper == disk ? i : -1;
}

static void replica_is_verified(struct chunk_replica *r, const Tarn__ChunkTaskDone *done)
{
    *r = (struct chunk_replica){
        .disk = r->disk, .flags = REPLICA_READY | REPLICA_SEALED, .length = done->length, .digest = done->digest};
}

/* A lost shard was computed: right when it is what the shard was. */
static int done_rebuild(struct tables *t, struct chunk *chunk, const struct group *g, unsigned index,
                        const Tarn__ChunkTaskDone *done)
{
    int i = group_index(g->shards, group_shards(g), chunk->id);
    bool right = done->status == 0 && i >= 0 && done->length == chunk->length && done->generation == chunk->generation &&
                 (!(g->known & 1u << i) || done->digest == g->shards[i].digest);
    if (!right) {
        chunk->heal_after_ns = t->now + RETRY_NS;
        int err = chunk_replica_drop(t, chunk, index);
        return err == 0 ? chunk_save(t, chunk) : err;
    }
    replica_is_verified(&chunk->replicas[index], done);
    int err = chunk_save(t, chunk);
    if (err == 0)
        err = heal_rate_add(t, done->length);
    return err == 0 && chunk_ready(chunk) > chunk->want ? heal_trim(t, chunk) : err;
}

int group_done_build(struct tables *t, struct chunk *chunk, unsigned index, const Tarn__ChunkTaskDone *done)
{
    struct group g;
    if (!(chunk->replicas[index].flags & REPLICA_COPYING))
        return 0;
    int err = group_get(t, chunk->group, &g);
    if (err == -E_NOENT) { /* the group went, the shard stayed as a chunk with copies: what is computed is not needed */
        err = chunk_replica_drop(t, chunk, index);
        return err == 0 ? chunk_save(t, chunk) : err;
    }
    if (err != 0)
        return err;
    if (!(chunk->flags & CHUNK_MAKING))
        return done_rebuild(t, chunk, &g, index, done);
    int i = awaited(&g, chunk, chunk->replicas[index].disk);
    if (i < 0 || done->status != 0 || done->length != chunk->length || done->generation != g.next_generation)
        return group_abort(t, &g);
    replica_is_verified(&chunk->replicas[index], done);
    err = chunk_save(t, chunk);
    return err == 0 ? reported(t, &g, (unsigned)i) : err;
}

int group_done_verify(struct tables *t, struct chunk *chunk, unsigned index, const Tarn__ChunkTaskDone *done)
{
    struct group g;
    const struct chunk_replica *r = &chunk->replicas[index];
    int err = chunk->group == 0 ? -E_NOENT : group_get(t, chunk->group, &g);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    int i = awaited(&g, chunk, r->disk);
    if (i < 0 || done->id < g.next_task)
        return 0;
    if (verified(r) && done->status == 0 && done->length == r->length && done->digest == r->digest)
        return reported(t, &g, (unsigned)i);
    return group_abort(t, &g);
}

int group_done_copy(struct tables *t, const struct chunk *chunk, uint32_t disk)
{
    struct group g;
    int err = chunk->group == 0 ? -E_NOENT : group_get(t, chunk->group, &g);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    int i = awaited(&g, chunk, disk);
    return i >= 0 && verified(replica_at(chunk, disk)) ? reported(t, &g, (unsigned)i) : 0;
}
