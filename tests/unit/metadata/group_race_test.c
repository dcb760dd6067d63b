/* Parity groups while other things go on: copies found damaged, walks of changed policies, uploads under a policy that
 * was, disks that come back without what they had. Every test ends with the checker. */
#include <stdio.h>

#include "coded_world.h"

/* ------------------------------------------------------------------ damage */
/* As a store tells it with a beat. Disks have the numbers of their nodes here. */
static void damaged(struct coded_world *c, uint32_t disk, uint64_t chunk)
{
    Tarn__Damage damage = TARN__DAMAGE__INIT, *one[] = {&damage};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    damage.disk = disk;
    damage.chunk = chunk;
    m.node = disk;
    m.damaged = one;
    m.n_damaged = 1;
    assert_int_equal(world_apply(&c->w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
}

static unsigned whole(struct coded_world *c, uint64_t id)
{
    struct chunk chunk = coded_chunk(c, id);
    unsigned n = 0;
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        n += chunk_replica_whole(&chunk.replicas[i]);
    return n;
}

/* W2, G4: what was verified before the scrubber found it wrong does not let the whole copies go. */
static void a_keeper_found_damaged_after_it_was_verified_ends_the_making(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_making(&c, 6, chunks);
    struct group g = coded_group(&c, coded_chunk(&c, chunks[0]).group);
    assert_int_equal(coded_answer(&c, TARN__CHUNK_TASK__KIND__VERIFY, 0, true), 4);
    for (unsigned i = 0; i < 3; i++) /* one more than the parity could bear */
        damaged(&c, g.next[i].keeper, chunks[i]);
    assert_int_equal(coded_answer(&c, TARN__CHUNK_TASK__KIND__BUILD, 0, true), 2);
    for (unsigned i = 0; i < 3; i++) {
        assert_false(coded_chunk(&c, chunks[i]).coded);
        assert_int_equal(whole(&c, chunks[i]), 2);
    }
    world_check(&c.w);
    c.w.now += 2 * SECOND; /* the next look at groups that are being made */
    coded_work(&c);
    assert_int_equal(coded_status(&c)->coding, 0);
    coded_run(&c, 60);
    assert_true(coded_chunk(&c, chunks[0]).coded);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    coded_end(&c);
}

/* G7: the only copy of a member is damaged: the parity that gives it back stays until there is a whole one. */
static void a_group_does_not_go_while_a_member_has_only_a_damaged_copy(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 7, 4, 2, 4, chunks);
    damaged(&c, coded_chunk(&c, chunks[1]).replicas[0].disk, chunks[1]);
    coded_copies(&c, 1);
    coded_work(&c);
    assert_true(coded_chunk(&c, chunks[1]).coded);
    world_check(&c.w);
    coded_run(&c, 60);
    for (unsigned i = 0; i < 4; i++) {
        assert_false(coded_chunk(&c, chunks[i]).coded);
        assert_int_equal(whole(&c, chunks[i]), 1);
    }
    assert_int_equal(coded_status(&c)->below_target, 0);
    coded_end(&c);
}

/* ------------------------------------------------------------------ the intent is all or nothing */
/* 28 chunks on the same two nodes: their disks may give sixteen in a second. */
static void a_group_whose_sources_get_busy_is_begun_as_a_whole(void **state)
{
    struct coded_world c;
    uint64_t first[14], second[14];
    coded_begin(&c, 15, 15);
    Tarn__Policy to = TARN__POLICY__INIT;
    to.affinity = "study";
    assert_int_equal(coded_policy(&c, 8, &to), 0);
    coded_code(&c, 14, 1);
    coded_put(&c, "o", 14, first);
    coded_put(&c, "p", 14, second);
    for (unsigned i = 0; i < 20; i++) {
        coded_run(&c, 1);
        world_check(&c.w);
    }
    assert_true(coded_chunk(&c, first[13]).coded);
    assert_true(coded_chunk(&c, second[13]).coded);
    coded_end(&c);
}

/* ------------------------------------------------------------------ policies */
static uint64_t begin_upload(struct coded_world *c, unsigned n, uint64_t upload, uint64_t first, uint64_t *ret_chunks)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/d";
    for (unsigned i = 0; i < n; i++) {
        Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
        m.near = &at;
        m.upload = upload;
        m.index = first + i;
        assert_int_equal(world_apply(&c->w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
        const Tarn__UploadChunkReply *reply = world_reply(&c->w, &tarn__upload_chunk_reply__descriptor);
        upload = reply->upload;
        if (ret_chunks != NULL)
            ret_chunks[i] = reply->extent->chunk;
    }
    return upload;
}

static void commit_upload(struct coded_world *c, uint64_t upload, unsigned n)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/d";
    uint64_t lengths[16];
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    for (unsigned i = 0; i < n; i++)
        lengths[i] = LENGTH;
    part.upload = upload;
    part.lengths = lengths;
    part.n_lengths = n;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &at;
    object.path = "o";
    object.parts = parts;
    object.n_parts = 1;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    commit.object = &object;
    assert_int_equal(world_apply(&c->w, OP_OBJECT_COMMIT, &commit.base, &commit.ctx), 0);
}

/* One step of the leader's, and of the stores'. */
static void step(struct coded_world *c)
{
    (void)world_work(&c->w);
    for (uint32_t node = 1; node <= c->nodes; node++)
        (void)world_do_tasks(&c->w, node, DIGEST, LENGTH);
    c->w.now += SECOND;
}

/* G7: the walk takes steps from the first members of the group to the last ones. The first have their copies before it
 * comes to the last: these would be left with one copy and without parity. */
static void a_group_does_not_go_before_its_last_member_has_copies(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_begin(&c, 6, 6);
    coded_code(&c, 4, 2);
    uint64_t upload = begin_upload(&c, 2, 0, 0, chunks);
    (void)begin_upload(&c, 3000, 0, 0, NULL);
    (void)begin_upload(&c, 2, upload, 2, chunks + 2);
    commit_upload(&c, upload, 4);
    coded_run(&c, 8);
    assert_true(coded_chunk(&c, chunks[3]).coded);
    coded_copies(&c, 2);
    unsigned steps = 0;
    for (; steps < 60 && coded_chunk(&c, chunks[3]).coded; steps++) {
        step(&c);
        for (unsigned i = 0; i < 4; i++) {
            struct chunk chunk = coded_chunk(&c, chunks[i]);
            assert_true(chunk.coded || coded_live(&chunk) >= 2);
        }
    }
    assert_true(steps < 60);
    coded_run(&c, 10);
    assert_int_equal(world_status(&c.w)->by_copies[1], 0);
    coded_end(&c);
}

static uint64_t walked(struct coded_world *c)
{
    return coded_status(c)->walked;
}

/* A third policy comes while what the second had not reached is walked again. */
static void the_last_policy_reaches_all_chunks_however_often_it_changes(void **state)
{
    struct coded_world c;
    uint64_t last;
    coded_begin(&c, 6, 6);
    (void)begin_upload(&c, 1100, 0, 0, NULL);
    coded_put(&c, "last", 1, &last);
    coded_run(&c, 3);
    coded_copies(&c, 4);
    while (walked(&c) < 600)
        step(&c);
    coded_copies(&c, 5);
    uint64_t before;
    do {
        before = walked(&c);
        step(&c);
    } while (walked(&c) >= before);
    assert_true(coded_status(&c)->walk_end > 0); /* the second time */
    coded_copies(&c, 2);
    coded_run(&c, 20);
    struct chunk chunk = coded_chunk(&c, last);
    assert_int_equal(chunk.wish, 2);
    assert_int_equal(coded_live(&chunk), 2);
    coded_end(&c);
}

/* No walk comes to the chunks of an upload. */
static void what_was_uploaded_under_another_policy_follows_the_one_there_is(void **state)
{
    for (unsigned coded_then = 0; coded_then < 2; coded_then++) {
        struct coded_world c;
        uint64_t chunks[4], upload;
        coded_begin(&c, 6, 6);
        if (coded_then) {
            Tarn__Where at = TARN__WHERE__INIT;
            at.path = "/d";
            Tarn__UploadGroup m = TARN__UPLOAD_GROUP__INIT;
            coded_code(&c, 4, 2);
            m.near = &at;
            m.remaining = 4 * LENGTH;
            assert_int_equal(world_apply(&c.w, OP_UPLOAD_GROUP, &m.base, &m.ctx), 0);
            const Tarn__UploadGroupReply *reply = world_reply(&c.w, &tarn__upload_group_reply__descriptor);
            upload = reply->upload;
            for (unsigned i = 0; i < 4; i++)
                chunks[i] = reply->data[i]->chunk;
        } else {
            upload = begin_upload(&c, 4, 0, 0, chunks);
        }
        coded_copies(&c, 2);
        coded_work(&c);
        commit_upload(&c, upload, 4);
        world_check(&c.w);
        coded_run(&c, 15);
        for (unsigned i = 0; i < 4; i++) {
            struct chunk chunk = coded_chunk(&c, chunks[i]);
            assert_false(chunk.coded);
            assert_int_equal(coded_live(&chunk), 2);
        }
        assert_int_equal(world_status(&c.w)->by_copies[2], 4);
        coded_end(&c);
    }
}

/* ------------------------------------------------------------------ disks that lost a shard */
static void comes_back_empty(struct coded_world *c, uint32_t node)
{
    Tarn__NodeJoin join = TARN__NODE_JOIN__INIT;
    Tarn__Node description = TARN__NODE__INIT;
    char uuid[16];
    size_t len = (size_t)snprintf(uuid, sizeof uuid, "n%u", node);
    description.address = "tcp:127.0.0.1:1";
    description.total = description.free = 1ull << 40;
    join.node = &description;
    join.uuid = (ProtobufCBinaryData){.data = (uint8_t *)uuid, .len = len};
    assert_int_equal(world_apply(&c->w, OP_NODE_JOIN, &join.base, NULL), 0);
    Tarn__NodeInventory m = TARN__NODE_INVENTORY__INIT;
    m.node = node;
    m.epoch = ((Tarn__NodeJoinReply *)world_reply(&c->w, &tarn__node_join_reply__descriptor))->epoch;
    m.last = UINT64_MAX;
    assert_int_equal(world_apply(&c->w, OP_NODE_INVENTORY, &m.base, NULL), 0);
}

/* All were down; the first to come back has lost its disk's content. That the others are not up yet is no reason to
 * count its shard as there for ever. */
static void a_shard_that_is_not_there_is_found_also_when_all_start_at_once(void **state)
{
    struct coded_world c;
    uint64_t chunks[4];
    coded_object(&c, 7, 4, 2, 4, chunks);
    uint32_t node = coded_chunk(&c, chunks[2]).replicas[0].disk;
    for (uint32_t i = 1; i <= c.nodes; i++)
        coded_set_up(&c, i, false);
    comes_back_empty(&c, node);
    c.down[node] = false;
    for (uint32_t i = 1; i <= c.nodes; i++)
        if (i != node)
            coded_set_up(&c, i, true);
    coded_work(&c);
    assert_int_equal(world_status(&c.w)->by_copies[3], 0);
    coded_run(&c, 30);
    struct chunk chunk = coded_chunk(&c, chunks[2]);
    assert_int_equal(coded_live(&chunk), 1);
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    coded_end(&c);
}

/* Stores that have nothing of what was acknowledged: a shard is computed from the others or lost, never zeros. */
static void a_shard_that_no_store_has_is_lost_and_not_empty(void **state)
{
    struct coded_world c;
    coded_begin(&c, 3, 3);
    coded_code(&c, 2, 1);
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/d";
    Tarn__UploadGroup m = TARN__UPLOAD_GROUP__INIT;
    m.near = &at;
    m.remaining = 2 * LENGTH;
    assert_int_equal(world_apply(&c.w, OP_UPLOAD_GROUP, &m.base, &m.ctx), 0);
    const Tarn__UploadGroupReply *reply = world_reply(&c.w, &tarn__upload_group_reply__descriptor);
    uint64_t upload = reply->upload, chunks[2] = {reply->data[0]->chunk, reply->data[1]->chunk};
    commit_upload(&c, upload, 2);
    for (uint32_t node = 1; node <= 3; node++) {
        Tarn__NodeBeatReply *beat = coded_tasks(&c, node);
        for (size_t i = 0; i < beat->n_tasks; i++)
            coded_report(&c, node, beat->tasks[i], E_NOENT, 0);
        tarn__node_beat_reply__free_unpacked(beat, NULL);
    }
    for (unsigned i = 0; i < 2; i++) {
        struct chunk chunk = coded_chunk(&c, chunks[i]);
        assert_int_equal(chunk.length, LENGTH);
        assert_int_equal(whole(&c, chunks[i]), 0);
    }
    coded_end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_keeper_found_damaged_after_it_was_verified_ends_the_making),
        cmocka_unit_test(a_group_does_not_go_while_a_member_has_only_a_damaged_copy),
        cmocka_unit_test(a_group_whose_sources_get_busy_is_begun_as_a_whole),
        cmocka_unit_test(a_group_does_not_go_before_its_last_member_has_copies),
        cmocka_unit_test(the_last_policy_reaches_all_chunks_however_often_it_changes),
        cmocka_unit_test(what_was_uploaded_under_another_policy_follows_the_one_there_is),
        cmocka_unit_test(a_shard_that_is_not_there_is_found_also_when_all_start_at_once),
        cmocka_unit_test(a_shard_that_no_store_has_is_lost_and_not_empty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
