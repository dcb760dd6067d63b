/* G1-G8: parity groups, their members, and what waits to be coded. */
#include "check_impl.h"
#include "group_make.h"
#include "heal_state.h"
#include "meta.pb-c.h"

struct groups {
    uint64_t coded, making, ghosts, uncoded;
    bool recount; /* of a disk that came or went: what is live is being counted */
};

static bool chunk_at(struct check *check, uint64_t id, struct chunk *ret)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_val value;
    return check_get(check, &key, &value) && chunk_decode(id, value.data, value.len, ret) == 0;
}

static bool group_at(struct check *check, uint64_t id, struct group *ret)
{
    struct key key = key_1(TABLE_GROUP, id);
    struct kv_val value;
    return check_get(check, &key, &value) && group_decode(id, value.data, value.len, ret) == 0;
}

static uint32_t node_of(struct check *check, uint32_t id)
{
    struct key key = key_1(TABLE_DISK, id);
    struct kv_val value;
    struct disk disk;
    return check_get(check, &key, &value) && disk_decode(id, value.data, value.len, &disk) == 0 ? disk.node : id;
}

/* Nodes of the ready copies; a shard has one, two while it moves. */
static bool shares_node(struct check *check, const struct chunk *a, const struct chunk *b, bool disks)
{
    for (unsigned i = 0; i < a->n_replicas; i++)
        for (unsigned j = 0; j < b->n_replicas; j++) {
            uint32_t x = a->replicas[i].disk, y = b->replicas[j].disk;
            if ((a->replicas[i].flags & REPLICA_READY) && (b->replicas[j].flags & REPLICA_READY) &&
                (disks ? x == y : node_of(check, x) == node_of(check, y)))
                return true;
        }
    return false;
}

static void see_shard(struct check *check, struct groups *groups, const struct group *g, unsigned i, const struct chunk *chunk)
{
    unsigned long long group = g->id, id = chunk->id;
    enum chunk_kind kind = i >= g->k ? CHUNK_PARITY : g->ghosts & 1u << i ? CHUNK_GHOST : CHUNK_DATA;
    bool right_kind = chunk->kind == kind || (kind == CHUNK_DATA && chunk->kind == CHUNK_CONTAINER);
    if (chunk->group != group || chunk->shard != i || !chunk->coded || !right_kind || !chunk_counts(chunk) ||
        chunk->state != TARN__CHUNK_STATE__CHUNK_SEALED)
        check_violation(check, "G1", "group %llu has chunk %llu as shard %u, which is none", group, id, i);
    if (((g->lost & 1u << i) != 0) != (chunk->live == 0))
        check_violation(check, "G3", "group %llu counts shard %u as %s, chunk %llu has %u live copies", group, i,
                        g->lost & 1u << i ? "lost" : "live", id, chunk->live);
    if ((g->known & 1u << i) && chunk->length != g->shards[i].length)
        check_violation(check, "G1", "group %llu knows shard %u with another length than chunk %llu has", group, i, id);
    if (i >= g->k && chunk->length != g->length)
        check_violation(check, "G1", "parity %llu of group %llu is not as long as its group's", id, group);
    for (unsigned j = 0; j < i && chunk->live == 1 && chunk->spread > 0 && !groups->recount; j++) {
        struct chunk other;
        if (g->shards[j].chunk != 0 && chunk_at(check, g->shards[j].chunk, &other) && other.live == 1 &&
            chunk_ready(chunk) == 1 && chunk_ready(&other) == 1 && shares_node(check, chunk, &other, g->domain == DOMAIN_DISK))
            check_violation(check, "G2", "shards %u and %u of group %llu are on one node, which is not noted", j, i, group);
    }
}

static void see_next(struct check *check, const struct group *g)
{
    for (unsigned i = 0; i < group_shards(g); i++) {
        struct chunk chunk;
        if (g->next[i].chunk == 0)
            continue;
        bool right = chunk_at(check, g->next[i].chunk, &chunk) && chunk.group == g->id && chunk.shard == i &&
                     (i >= g->k) == ((chunk.flags & CHUNK_MAKING) != 0);
        if (!right)
            check_violation(check, "G4", "group %llu is being made of chunk %llu as shard %u, which does not name it",
                            (unsigned long long)g->id, (unsigned long long)g->next[i].chunk, i);
    }
    if (g->next_generation > g->generation_last || g->next_generation <= g->generation)
        check_violation(check, "G4", "group %llu is made under a generation that is not its newest", (unsigned long long)g->id);
}

static int see_group(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct groups *groups = arg;
    struct group g;
    if (group_decode(key_number(key, 0), value.data, value.len, &g) != 0) {
        check_undecodable(check, key, "parity group");
        return 0;
    }
    if (g.id > check->state.last_group)
        check_violation(check, "F4", "group %llu was never given out", (unsigned long long)g.id);
    groups->coded += g.state == GROUP_CODED;
    groups->making += g.next_generation != 0;
    groups->ghosts += (uint64_t)__builtin_popcount(g.ghosts);
    for (unsigned i = 0; i < group_shards(&g) && g.state == GROUP_CODED; i++) {
        struct chunk chunk;
        if (g.shards[i].chunk == 0)
            continue;
        if (chunk_at(check, g.shards[i].chunk, &chunk))
            see_shard(check, groups, &g, i, &chunk);
        else
            check_violation(check, "G1", "group %llu has chunk %llu, which does not exist", (unsigned long long)g.id,
                            (unsigned long long)g.shards[i].chunk);
    }
    if (g.next_generation != 0)
        see_next(check, &g);
    struct key due = key_2(TABLE_GROUP_DUE, GROUP_WORK, g.id);
    bool work = g.next_generation != 0 || (g.state == GROUP_CODED && (g.ghosts != 0 || g.leaving));
    if (work != check_has(check, &due))
        check_violation(check, "G8", "group %llu has %s to do and is %s the list of it", (unsigned long long)g.id,
                        work ? "something" : "nothing", work ? "not in" : "in");
    return 0;
}

/* From the chunk up: whoever says that it is of a group is. */
static int see_member(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct chunk chunk;
    struct group g;
    if (chunk_decode(key_number(key, 0), value.data, value.len, &chunk) != 0 ||
        chunk.state == TARN__CHUNK_STATE__CHUNK_DELETING || (chunk.group == 0 && !chunk.coded && chunk.kind != CHUNK_PARITY))
        return 0;
    bool known = group_at(check, chunk.group, &g);
    bool now = known && g.state == GROUP_CODED && group_index(g.shards, group_shards(&g), chunk.id) == chunk.shard;
    bool next = known && g.next_generation != 0 && group_index(g.next, group_shards(&g), chunk.id) == chunk.shard;
    bool upload = known && g.state == GROUP_UPLOAD && group_index(g.shards, group_shards(&g), chunk.id) == chunk.shard;
    if (chunk.coded ? !now : !next && !upload)
        check_violation(check, "G1", "chunk %llu says that it is shard %u of group %llu and is not", (unsigned long long)chunk.id,
                        chunk.shard, (unsigned long long)chunk.group);
    return 0;
}

static int see_due(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct groups *groups = arg;
    struct chunk chunk;
    struct group g;
    uint64_t n;
    switch (key_number(key, 0)) {
    case GROUP_CANDIDATE:
        if (!chunk_at(check, key_number(key, 3), &chunk) || !group_is_candidate(&chunk) || chunk.owner != key_number(key, 1))
            check_violation(check, "G8", "chunk %llu waits to be coded and can not be", (unsigned long long)key_number(key, 3));
        break;
    case GROUP_WORK:
        if (!group_at(check, key_number(key, 1), &g))
            check_violation(check, "G8", "group %llu has something to do and does not exist",
                            (unsigned long long)key_number(key, 1));
        break;
    case GROUP_STUCK:
        if (number_decode(value.data, value.len, &n) != 0)
            check_undecodable(check, key, "owner of chunks to be coded");
        else
            groups->uncoded += n;
        break;
    default:
        break;
    }
    return 0;
}

static int see_recount(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct disk disk;
    if (disk_decode((uint32_t)key_number(key, 0), value.data, value.len, &disk) == 0)
        ((struct groups *)arg)->recount |= disk.recount != 0;
    return 0;
}

int check_room_groups(struct check *check)
{
    struct groups groups = {0};
    struct heal_state heal = {0};
    struct key key = key_table(TABLE_HEAL);
    struct kv_val value;
    int err = check_each(check, TABLE_DISK, see_recount, &groups);
    if (err == 0)
        err = check_each(check, TABLE_GROUP, see_group, &groups);
    if (err == 0)
        err = check_each(check, TABLE_CHUNK, see_member, NULL);
    if (err == 0)
        err = check_each(check, TABLE_GROUP_DUE, see_due, &groups);
    if (err != 0)
        return err;
    if (check_get(check, &key, &value) && heal_state_decode(value.data, value.len, &heal) != 0)
        return 0; /* the disks' room says so */
    check_counter(check, "G8", "coded groups", heal.groups, groups.coded);
    check_counter(check, "G8", "groups being made", heal.coding, groups.making);
    check_counter(check, "G8", "dead chunks in groups", heal.ghosts, groups.ghosts);
    check_counter(check, "G8", "chunks without nodes for their code", heal.uncoded, groups.uncoded);
    return 0;
}
