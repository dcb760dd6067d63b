/* Parity groups in the tables: made, lost and rebuilt, dead members, changes of policy, aborts, late reports. Every
 * test ends with the checker, which counts levels and members again. G rules of docs/invariants.md. */
#include <stdio.h>

#include "common/prng.h"
#include "coded_world.h"

static const Tarn__GroupReply *group_get_op(struct coded_world *c, uint64_t id)
{
    Tarn__GroupGet m = TARN__GROUP_GET__INIT;
    m.group = id;
    assert_int_equal(world_query(&c->w, OP_GROUP_GET, &m.base, &m.ctx), 0);
    return world_reply(&c->w, &tarn__group_reply__descriptor);
}

/* ------------------------------------------------------------------ made */
static void chunks_of_a_file_become_a_group_on_different_nodes(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 6, 4, 2, 4, chunks);
    uint64_t id = coded_chunk(&c, chunks[0]).group;
    struct group g = coded_group(&c, id);
    bool used[NODES_MAX_HERE + 1] = {false};
    for (unsigned i = 0; i < 6; i++) {
        struct chunk chunk = coded_chunk(&c, g.shards[i].chunk);
        assert_int_equal(chunk.n_replicas, 1); /* copies beyond the shard are gone */
        assert_int_equal(chunk.kind, i < 4 ? CHUNK_DATA : CHUNK_PARITY);
        assert_false(used[chunk.replicas[0].disk]);
        used[chunk.replicas[0].disk] = true;
    }
    assert_int_equal(g.generation, 1);
    assert_int_equal(g.known, 63);
    assert_int_equal(group_level(&g), 3); /* three disks to lose before data is lost */
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    assert_int_equal(coded_status(&c)->below_target, 0);
    assert_int_equal(coded_status(&c)->groups, 1);
    const Tarn__GroupReply *reply = group_get_op(&c, id);
    assert_int_equal(reply->n_shards, 6);
    assert_int_equal(reply->k, 4);
    assert_int_equal(reply->shards[5]->n_replicas, 1);
    assert_int_equal(reply->length, LENGTH);
    coded_end(&c);
}

static void what_is_left_of_a_file_is_coded_with_zeros_and_one_alone_is_not(void **state)
{
    struct coded_world c;
    uint64_t chunks[6], one;
    coded_object(&c, 6, 4, 2, 6, chunks);
    struct group g = coded_group(&c, coded_chunk(&c, chunks[5]).group);
    assert_int_equal(g.k, 4);
    assert_int_equal(g.shards[2].chunk, 0);
    assert_int_equal(g.shards[3].chunk, 0);
    assert_int_equal(group_level(&g), 3);
    coded_put(&c, "one", 1, &one);
    coded_run(&c, 10);
    assert_false(coded_chunk(&c, one).coded);
    struct chunk chunk = coded_chunk(&c, one);
    assert_int_equal(coded_live(&chunk), 3);
    assert_int_equal(coded_status(&c)->below_target, 0);
    coded_end(&c);
}

static void with_too_few_nodes_copies_stay_and_are_told(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_begin(&c, 5, 5);
    coded_code(&c, 4, 2);
    coded_put(&c, "o", 4, chunks);
    coded_run(&c, 10);
    struct chunk chunk = coded_chunk(&c, chunks[0]);
    assert_false(chunk.coded);
    assert_int_equal(coded_live(&chunk), 3);
    assert_int_equal(coded_status(&c)->reduced, 4);
    assert_int_equal(world_node(&c.w, "n6", "/s/r9"), ++c.nodes);
    coded_run(&c, 10);
    assert_true(coded_chunk(&c, chunks[0]).coded);
    assert_int_equal(coded_status(&c)->reduced, 0);
    coded_end(&c);
}

/* The disks that make the parity have copies already: nothing but the parity is written. */
static void new_chunks_lie_so_that_coding_moves_nothing(void **state)
{
    struct coded_world c;
    uint64_t chunks[8];
    coded_begin(&c, 9, 9);
    coded_code(&c, 4, 2);
    coded_put(&c, "o", 8, chunks);
    for (unsigned half = 0; half < 2; half++) {
        uint32_t common = coded_chunk(&c, chunks[4 * half]).replicas[1].disk;
        bool first[NODES_MAX_HERE + 1] = {false};
        for (unsigned i = 4 * half; i < 4 * half + 4; i++) {
            struct chunk chunk = coded_chunk(&c, chunks[i]);
            assert_int_equal(chunk.n_replicas, 3);
            assert_int_equal(chunk.replicas[1].disk, common);
            assert_false(first[chunk.replicas[0].disk]);
            first[chunk.replicas[0].disk] = true;
        }
    }
    coded_run(&c, 8);
    struct group g = coded_group(&c, coded_chunk(&c, chunks[0]).group);
    assert_int_equal(coded_chunk(&c, g.shards[4].chunk).kind, CHUNK_PARITY);
    assert_int_equal(coded_status(&c)->copied_bytes, 0);
    coded_end(&c);
}

/* Affinity puts all chunks on the same nodes: coding moves what must be moved, in one go. */
static void chunks_that_share_their_nodes_are_spread(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_begin(&c, 7, 7);
    Tarn__Policy to = TARN__POLICY__INIT;
    to.affinity = "study";
    assert_int_equal(coded_policy(&c, 8, &to), 0);
    coded_code(&c, 4, 2);
    coded_put(&c, "o", 4, chunks);
    coded_run(&c, 12);
    for (unsigned i = 0; i < 4; i++)
        assert_true(coded_chunk(&c, chunks[i]).coded);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    coded_end(&c);
}

/* ------------------------------------------------------------------ aborts and late reports */
static void a_failed_verification_or_build_gives_it_up_and_it_is_tried_again(void **state)
{
    static const Tarn__ChunkTask__Kind kinds[] = {TARN__CHUNK_TASK__KIND__VERIFY, TARN__CHUNK_TASK__KIND__BUILD};
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct coded_world c;
        uint64_t chunks[4];
        coded_making(&c, 6, chunks);
        assert_int_equal(coded_answer(&c, kinds[i], E_CORRUPT, false), 1);
        assert_int_equal(coded_status(&c)->coding, 0);
        struct chunk chunk = coded_chunk(&c, chunks[0]);
        assert_int_equal(chunk.group, 0);
        assert_int_equal(coded_live(&chunk), 3);
        world_check(&c.w);
        coded_run(&c, 10);
        assert_true(coded_chunk(&c, chunks[0]).coded);
        assert_int_equal(world_status(&c.w)->by_copies[3], 6);
        coded_end(&c);
    }
}

static void reports_of_an_earlier_attempt_do_not_count(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_making(&c, 6, chunks);
    struct group first = coded_group(&c, coded_chunk(&c, chunks[0]).group);
    Tarn__NodeBeatReply *old[7];
    for (uint32_t node = 1; node <= 6; node++)
        old[node] = coded_tasks(&c, node);
    assert_int_equal(coded_answer(&c, TARN__CHUNK_TASK__KIND__VERIFY, E_CORRUPT, false), 1);
    c.w.now += 5 * SECOND;
    coded_work(&c);
    struct group second = coded_group(&c, coded_chunk(&c, chunks[0]).group);
    assert_true(second.id > first.id);
    for (uint32_t node = 1; node <= 6; node++)
        for (size_t i = 0; i < old[node]->n_tasks; i++)
            coded_report(&c, node, old[node]->tasks[i], 0, DIGEST);
    second = coded_group(&c, second.id);
    assert_int_equal(second.done, 0);
    for (uint32_t node = 1; node <= 6; node++)
        tarn__node_beat_reply__free_unpacked(old[node], NULL);
    coded_run(&c, 3);
    assert_true(coded_chunk(&c, chunks[0]).coded);
    coded_end(&c);
}

static void the_same_report_twice_is_one(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_making(&c, 6, chunks);
    for (uint32_t node = 1; node <= 6; node++) {
        Tarn__NodeBeatReply *beat = coded_tasks(&c, node);
        for (unsigned twice = 0; twice < 2; twice++)
            for (size_t i = 0; i < beat->n_tasks; i++)
                coded_report(&c, node, beat->tasks[i], 0, DIGEST);
        tarn__node_beat_reply__free_unpacked(beat, NULL);
    }
    assert_true(coded_chunk(&c, chunks[0]).coded);
    coded_run(&c, 3);
    coded_end(&c);
}

static void unlink_object(struct coded_world *c)
{
    assert_int_equal(world_unlink(&c->w, "/d", "o", false), 0);
}

static void a_member_that_dies_while_the_group_is_made_ends_it(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_making(&c, 6, chunks);
    unlink_object(&c);
    coded_run(&c, 5);
    struct chunk chunk;
    for (unsigned i = 0; i < 4; i++)
        assert_false(coded_chunk_find(&c, chunks[i], &chunk));
    assert_int_equal(world_status(&c.w)->chunks, 0);
    assert_int_equal(coded_status(&c)->coding, 0);
    coded_end(&c);
}

static void a_builder_that_goes_away_ends_it_and_others_build(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_making(&c, 7, chunks);
    struct group g = coded_group(&c, coded_chunk(&c, chunks[0]).group);
    coded_set_up(&c, g.next[4].keeper, false);
    coded_run(&c, 5);
    assert_false(coded_chunk(&c, chunks[0]).coded); /* it may come back */
    coded_run(&c, 45);
    assert_true(coded_chunk(&c, chunks[0]).coded);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    coded_end(&c);
}

/* ------------------------------------------------------------------ lost shards */
static void lost_shards_lower_the_level_and_are_computed_anew(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 8, 4, 2, 4, chunks);
    struct group g = coded_group(&c, coded_chunk(&c, chunks[0]).group);
    uint32_t data = coded_chunk(&c, chunks[1]).replicas[0].disk, parity = coded_chunk(&c, g.shards[4].chunk).replicas[0].disk;
    coded_set_up(&c, data, false);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->by_copies[2], 6);
    assert_int_equal(coded_status(&c)->below_target, 1);
    assert_int_equal(coded_status(&c)->missing_bytes, LENGTH);
    coded_set_up(&c, parity, false);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->by_copies[1], 6);
    assert_int_equal(coded_status(&c)->below_target, 2);
    world_check(&c.w);
    coded_run(&c, 60);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    assert_int_equal(coded_status(&c)->below_target, 0);
    coded_set_up(&c, data, true); /* comes back: one of the two goes */
    coded_set_up(&c, parity, true);
    coded_run(&c, 10);
    struct chunk chunk = coded_chunk(&c, chunks[1]);
    assert_int_equal(coded_live(&chunk), 1);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    assert_int_equal(coded_status(&c)->weak, 0);
    coded_end(&c);
}

static void more_lost_shards_than_parity_are_told_as_lost_until_they_come_back(void **state)
{
    struct coded_world c;
    uint64_t chunks[2];
    coded_object(&c, 3, 2, 1, 2, chunks);
    uint32_t first = coded_chunk(&c, chunks[0]).replicas[0].disk, second = coded_chunk(&c, chunks[1]).replicas[0].disk;
    coded_set_up(&c, first, false);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->by_copies[1], 3);
    coded_set_up(&c, second, false);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->by_copies[0], 2);
    assert_int_equal(world_status(&c.w)->by_copies[1], 1);
    assert_int_equal(coded_status(&c)->lost, 2);
    world_check(&c.w);
    coded_set_up(&c, first, true);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->by_copies[1], 3);
    coded_set_up(&c, second, true);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->by_copies[2], 3);
    coded_end(&c);
}

static void a_shard_is_not_built_beside_another_one(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 6, 4, 2, 4, chunks);
    coded_set_up(&c, coded_chunk(&c, chunks[1]).replicas[0].disk, false);
    coded_run(&c, 60);
    assert_int_equal(coded_status(&c)->below_target, 1); /* six nodes are needed, there are five */
    assert_int_equal(world_node(&c.w, "n7", "/s/r9"), ++c.nodes);
    coded_run(&c, 10);
    assert_int_equal(coded_status(&c)->below_target, 0);
    coded_end(&c);
}

static void a_drained_disk_gives_its_shards_away(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 7, 4, 2, 4, chunks);
    uint32_t node = coded_chunk(&c, chunks[2]).replicas[0].disk;
    Tarn__NodeDrain m = TARN__NODE_DRAIN__INIT;
    m.node = node;
    assert_int_equal(world_apply(&c.w, OP_NODE_DRAIN, &m.base, &m.ctx), 0);
    coded_run(&c, 10);
    struct chunk chunk = coded_chunk(&c, chunks[2]);
    assert_int_equal(chunk.n_replicas, 1);
    assert_true(chunk.replicas[0].disk != node);
    assert_int_equal(coded_status(&c)->n_draining, 1);
    assert_true(coded_status(&c)->draining[0]->safe_to_remove);
    assert_int_equal(coded_status(&c)->weak, 0);
    coded_end(&c);
}

static void a_shard_computed_wrong_does_not_count(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 7, 4, 2, 4, chunks);
    coded_set_up(&c, coded_chunk(&c, chunks[1]).replicas[0].disk, false);
    coded_work(&c);
    c.w.now += 40 * SECOND;
    coded_work(&c);
    bool seen = false;
    for (uint32_t node = 1; node <= 7; node++) {
        Tarn__NodeBeatReply *beat = c.down[node] ? NULL : coded_tasks(&c, node);
        for (size_t i = 0; beat != NULL && i < beat->n_tasks; i++)
            if (beat->tasks[i]->kind == TARN__CHUNK_TASK__KIND__BUILD) {
                assert_int_equal(beat->tasks[i]->shard, 1);
                assert_int_equal(beat->tasks[i]->n_sources, 5);
                assert_int_equal(beat->tasks[i]->k, 4);
                coded_report(&c, node, beat->tasks[i], 0, DIGEST + 1);
                seen = true;
            }
        if (beat != NULL)
            tarn__node_beat_reply__free_unpacked(beat, NULL);
    }
    assert_true(seen);
    assert_int_equal(coded_status(&c)->below_target, 1);
    coded_run(&c, 20);
    assert_int_equal(coded_status(&c)->below_target, 0);
    coded_end(&c);
}

/* ------------------------------------------------------------------ dead members */
static void cut(struct coded_world *c, uint64_t size)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = "/d/o";
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &where;
    m.mask = 8; /* size */
    m.size = size;
    assert_int_equal(world_apply(&c->w, OP_SETATTR, &m.base, &m.ctx), 0);
}

static void a_dead_member_stays_until_the_parity_is_made_without_it(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 6, 4, 2, 4, chunks);
    uint64_t id = coded_chunk(&c, chunks[0]).group;
    cut(&c, 3 * LENGTH);
    assert_int_equal(coded_chunk(&c, chunks[3]).kind, CHUNK_GHOST);
    assert_int_equal(coded_status(&c)->ghosts, 1);
    world_check(&c.w);
    coded_run(&c, 10);
    struct chunk chunk;
    assert_false(coded_chunk_find(&c, chunks[3], &chunk));
    struct group g = coded_group(&c, id);
    assert_int_equal(g.generation, 2);
    assert_int_equal(g.shards[3].chunk, 0);
    assert_int_equal(group_level(&g), 3);
    assert_int_equal(coded_status(&c)->ghosts, 0);
    assert_int_equal(world_status(&c.w)->chunks, 5);
    assert_int_equal(world_status(&c.w)->by_copies[3], 5);
    cut(&c, LENGTH); /* one is left: it is kept in copies */
    coded_run(&c, 15);
    chunk = coded_chunk(&c, chunks[0]);
    assert_false(chunk.coded);
    assert_int_equal(coded_live(&chunk), 3);
    assert_int_equal(world_status(&c.w)->chunks, 1);
    coded_end(&c);
}

static void a_coded_file_that_goes_frees_everything_at_once(void **state)
{
    struct coded_world c;
    uint64_t chunks[6];
    coded_object(&c, 6, 4, 2, 6, chunks);
    cut(&c, 3 * LENGTH);
    unlink_object(&c);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->chunks, 0);
    assert_int_equal(coded_status(&c)->groups, 0);
    coded_run(&c, 3);
    struct chunk chunk;
    assert_false(coded_chunk_find(&c, chunks[0], &chunk));
    coded_end(&c);
}

/* ------------------------------------------------------------------ policies */
static void a_code_becomes_copies_and_a_code_again(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 6, 4, 2, 4, chunks);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(&c.w, "/d/o", &attr), 0);
    uint64_t ino = attr->ino, version = attr->version;
    coded_copies(&c, 2);
    coded_work(&c);
    assert_true(coded_chunk(&c, chunks[0]).coded); /* until the copies are there */
    world_check(&c.w);
    coded_run(&c, 10);
    for (unsigned i = 0; i < 4; i++) {
        struct chunk chunk = coded_chunk(&c, chunks[i]);
        assert_false(chunk.coded);
        assert_int_equal(coded_live(&chunk), 2);
    }
    assert_int_equal(world_status(&c.w)->chunks, 4);
    assert_int_equal(coded_status(&c)->groups, 0);
    coded_code(&c, 3, 1);
    coded_run(&c, 12);
    struct chunk chunk = coded_chunk(&c, chunks[0]);
    assert_true(chunk.coded);
    assert_int_equal(coded_group(&c, chunk.group).k, 3);
    coded_code(&c, 4, 2); /* another code: by copies, the old one stays until they are there */
    coded_run(&c, 15);
    assert_int_equal(coded_group(&c, coded_chunk(&c, chunks[0]).group).k, 4);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    assert_int_equal(world_lookup(&c.w, "/d/o", &attr), 0);
    assert_int_equal(attr->ino, ino);
    assert_int_equal(attr->version, version);
    coded_end(&c);
}

static void a_policy_taken_back_in_time_changes_nothing(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 6, 4, 2, 4, chunks);
    uint64_t group = coded_chunk(&c, chunks[0]).group;
    coded_copies(&c, 3);
    coded_work(&c);
    coded_code(&c, 4, 2);
    coded_run(&c, 10);
    assert_int_equal(coded_chunk(&c, chunks[0]).group, group);
    struct chunk chunk = coded_chunk(&c, chunks[0]);
    assert_int_equal(coded_live(&chunk), 1);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    coded_end(&c);
}

/* The new file takes the chunks over, with their groups; what waited to be coded waits under the new owner. */
static void a_file_made_of_others_keeps_their_groups(void **state)
{
    struct coded_world c;
    uint64_t chunks[4], one;
    coded_object(&c, 6, 4, 2, 4, chunks);
    coded_put(&c, "one", 1, &one);
    coded_run(&c, 5);
    uint64_t group = coded_chunk(&c, chunks[0]).group;
    Tarn__Where at = TARN__WHERE__INIT, from[2] = {TARN__WHERE__INIT, TARN__WHERE__INIT}, *list[] = {&from[0], &from[1]};
    at.path = "/d";
    from[0].path = "/d/o";
    from[1].path = "/d/one";
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &at;
    object.path = "all";
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    commit.object = &object;
    object.from = list;
    object.n_from = 2;
    assert_int_equal(world_apply(&c.w, OP_OBJECT_COMMIT, &commit.base, &commit.ctx), 0);
    world_check(&c.w);
    coded_run(&c, 5);
    struct chunk chunk = coded_chunk(&c, chunks[0]);
    assert_int_equal(chunk.group, group);
    assert_int_equal(coded_live(&chunk), 1);
    assert_false(coded_chunk(&c, one).coded);
    assert_int_equal(world_unlink(&c.w, "/d", "all", false), 0);
    coded_run(&c, 3);
    assert_int_equal(world_status(&c.w)->chunks, 0);
    coded_end(&c);
}

/* ------------------------------------------------------------------ everything at random */
/* What the tables say of safety is what there is: for each group its live shards are enumerated. */
static void enumerate(struct coded_world *c)
{
    uint64_t by[MD_COPIES_MAX + 1] = {0};
    for (uint64_t id = 1; id < 4000; id++) {
        struct chunk chunk;
        if (!coded_chunk_find(c, id, &chunk) || !chunk_counts(&chunk))
            continue;
        unsigned n = 0;
        for (unsigned i = 0; i < chunk.n_replicas; i++)
            n += (chunk.replicas[i].flags & REPLICA_READY) && !c->down[chunk.replicas[i].disk];
        if (!chunk.coded) {
            by[MIN(n, (unsigned)MD_COPIES_MAX)]++;
            continue;
        }
        struct group g = coded_group(c, chunk.group);
        unsigned there = 0;
        for (unsigned s = 0; s < group_shards(&g); s++) {
            struct chunk other;
            bool up = g.shards[s].chunk == 0;
            if (!up)
                other = coded_chunk(c, g.shards[s].chunk);
            for (unsigned i = 0; !up && i < other.n_replicas; i++)
                up |= (other.replicas[i].flags & REPLICA_READY) && !c->down[other.replicas[i].disk];
            there += up;
        }
        by[there >= g.k ? MIN(there - g.k + 1, (unsigned)MD_COPIES_MAX) : n > 0]++;
    }
    const Tarn__StatusReply *said = world_status(&c->w);
    for (unsigned i = 0; i <= MD_COPIES_MAX; i++)
        assert_int_equal(said->by_copies[i], by[i]);
}

static void anything(struct coded_world *c, struct prng *prng, unsigned *names)
{
    static const struct {
        uint32_t k, m;
    } codes[] = {{2, 1}, {3, 2}, {4, 2}};
    uint64_t chunks[10];
    char name[8];
    uint32_t node = 1 + (uint32_t)prng_below(prng, c->nodes);
    unsigned down = 0;
    for (uint32_t i = 1; i <= c->nodes; i++)
        down += c->down[i];
    switch (prng_below(prng, 8)) {
    case 0:
    case 1:
        snprintf(name, sizeof name, "f%u", (*names)++ % 6);
        coded_put(c, name, 1 + (unsigned)prng_below(prng, 9), chunks);
        break;
    case 2:
        snprintf(name, sizeof name, "f%u", (unsigned)prng_below(prng, 6));
        (void)world_unlink(&c->w, "/d", name, false);
        break;
    case 3:
        if (c->down[node] || down < 2)
            coded_set_up(c, node, c->down[node]);
        break;
    case 4: {
        size_t i = prng_below(prng, ARRAY_SIZE(codes));
        coded_code(c, codes[i].k, codes[i].m);
        break;
    }
    case 5:
        if (prng_below(prng, 3) == 0)
            coded_copies(c, 1 + (uint32_t)prng_below(prng, 3));
        break;
    case 6:
        c->w.now += 40 * SECOND;
        break;
    default: {
        Tarn__NodeDrain m = TARN__NODE_DRAIN__INIT;
        m.node = node;
        m.undo = prng_below(prng, 3) != 0;
        (void)world_apply(&c->w, OP_NODE_DRAIN, &m.base, &m.ctx);
    }
    }
}

/* Not all stores answer in time, and some answers are bad. */
static void some_tasks(struct coded_world *c, struct prng *prng)
{
    for (uint32_t node = 1; node <= c->nodes; node++) {
        if (c->down[node] || prng_below(prng, 3) == 0)
            continue;
        Tarn__NodeBeatReply *beat = coded_tasks(c, node);
        for (size_t i = 0; i < beat->n_tasks; i++) {
            const Tarn__ChunkTask *task = beat->tasks[i];
            bool build = task->kind == TARN__CHUNK_TASK__KIND__BUILD;
            bool bad = (build && task->n_sources < task->k) || (task->kind == TARN__CHUNK_TASK__KIND__COPY && task->n_from == 0) ||
                       (prng_below(prng, 20) == 0 && task->kind != TARN__CHUNK_TASK__KIND__DELETE &&
                        task->kind != TARN__CHUNK_TASK__KIND__SEAL);
            coded_report(c, node, task, bad ? E_UNAVAIL : 0, DIGEST);
        }
        tarn__node_beat_reply__free_unpacked(beat, NULL);
    }
}

static void what_is_said_is_what_there_is_after_anything(void **state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct coded_world c;
        struct prng prng = prng_init(seed);
        unsigned names = 0;
        coded_begin(&c, 8, 4);
        coded_code(&c, 4, 2);
        for (unsigned step = 0; step < 60; step++) {
            anything(&c, &prng, &names);
            coded_work(&c);
            some_tasks(&c, &prng);
            coded_work(&c);
            c.w.now += SECOND;
            enumerate(&c);
            world_check(&c.w);
        }
        for (uint32_t node = 1; node <= c.nodes; node++) {
            Tarn__NodeDrain m = TARN__NODE_DRAIN__INIT;
            m.node = node;
            m.undo = true;
            (void)world_apply(&c.w, OP_NODE_DRAIN, &m.base, &m.ctx);
            if (c.down[node])
                coded_set_up(&c, node, true);
        }
        coded_copies(&c, 2);
        coded_code(&c, 4, 2);
        coded_run(&c, 90);
        enumerate(&c);
        const Tarn__HealStatusReply *end_state = coded_status(&c);
        assert_int_equal(end_state->below_target, 0);
        assert_int_equal(end_state->coding, 0);
        assert_int_equal(end_state->ghosts, 0);
        assert_int_equal(world_status(&c.w)->by_copies[0], 0);
        coded_end(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_of_a_file_become_a_group_on_different_nodes),
        cmocka_unit_test(what_is_left_of_a_file_is_coded_with_zeros_and_one_alone_is_not),
        cmocka_unit_test(with_too_few_nodes_copies_stay_and_are_told),
        cmocka_unit_test(new_chunks_lie_so_that_coding_moves_nothing),
        cmocka_unit_test(chunks_that_share_their_nodes_are_spread),
        cmocka_unit_test(a_failed_verification_or_build_gives_it_up_and_it_is_tried_again),
        cmocka_unit_test(reports_of_an_earlier_attempt_do_not_count),
        cmocka_unit_test(the_same_report_twice_is_one),
        cmocka_unit_test(a_member_that_dies_while_the_group_is_made_ends_it),
        cmocka_unit_test(a_builder_that_goes_away_ends_it_and_others_build),
        cmocka_unit_test(lost_shards_lower_the_level_and_are_computed_anew),
        cmocka_unit_test(more_lost_shards_than_parity_are_told_as_lost_until_they_come_back),
        cmocka_unit_test(a_shard_is_not_built_beside_another_one),
        cmocka_unit_test(a_drained_disk_gives_its_shards_away),
        cmocka_unit_test(a_shard_computed_wrong_does_not_count),
        cmocka_unit_test(a_dead_member_stays_until_the_parity_is_made_without_it),
        cmocka_unit_test(a_coded_file_that_goes_frees_everything_at_once),
        cmocka_unit_test(a_code_becomes_copies_and_a_code_again),
        cmocka_unit_test(a_policy_taken_back_in_time_changes_nothing),
        cmocka_unit_test(a_file_made_of_others_keeps_their_groups),
        cmocka_unit_test(what_is_said_is_what_there_is_after_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
