/* Sessions that end without their own wish: the two changes, and what stores are told. X1-X3 of docs/invariants.md. */
#include "metadata/fence.h"
#include "world.h"

#include <fcntl.h>

#define F 3 /* inode of /f */

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    return world_make(&w, TARN__FILE_TYPE__FT_FILE, "/", "f", 0644) != 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static int end(struct world *w, uint64_t session, Tarn__EndStage stage)
{
    Tarn__SessionEnd m = TARN__SESSION_END__INIT;
    m.session = session;
    m.expired = true;
    m.stage = stage;
    return world_apply(w, OP_SESSION_END, &m.base, NULL);
}

static int lock(struct world *w, uint64_t session, bool wait)
{
    Tarn__Lock m = TARN__LOCK__INIT;
    w->session = session;
    w->seq += 100;
    m.ino = F;
    m.type = TARN__LOCK_TYPE__LOCK_EX;
    m.end = UINT64_MAX;
    m.owner = 1;
    m.wait = wait;
    m.waiter = wait ? 7 : 0;
    int err = world_apply(w, OP_LOCK, &m.base, &m.ctx);
    return err != 0 ? err : ((Tarn__LockReply *)world_reply(w, &tarn__lock_reply__descriptor))->granted;
}

static void news(struct world *w, uint64_t after, bool whole, struct fence_news *ret)
{
    struct kv_txn *txn;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(fence_read_txn(txn, after, whole, ret), 0);
    kv_abort(txn);
}

static void a_fenced_session_is_refused_and_keeps_its_lock(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, other = world_session(w, "other");
    assert_int_equal(lock(w, first, false), 1);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_FENCE), 0);
    assert_true(w->result.fences_changed);
    assert_int_equal(w->result.ended_session, first);
    assert_int_equal(lock(w, first, false), -E_NO_SESSION);
    assert_int_equal(lock(w, other, false), -E_WOULDBLOCK);
}

static void the_release_hands_the_lock_on_in_one_change(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, other = world_session(w, "other");
    assert_int_equal(lock(w, first, false), 1);
    assert_int_equal(lock(w, other, true), 0);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_FENCE), 0);
    assert_int_equal(w->result.n_pushes, 0);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_RELEASE), 0);
    assert_int_equal(w->result.n_pushes, 1);
    assert_int_equal(w->result.pushes[0].session, other);
    assert_int_equal(world_status(w)->sessions, 1);
}

static void a_fenced_session_waits_for_nothing_any_more(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, second = world_session(w, "second"), third = world_session(w, "third");
    assert_int_equal(lock(w, first, false), 1);
    assert_int_equal(lock(w, second, true), 0);
    assert_int_equal(lock(w, third, true), 0);
    assert_int_equal(end(w, second, TARN__END_STAGE__END_FENCE), 0);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_WHOLE), 0);
    assert_int_equal(w->result.n_pushes, 1);
    assert_int_equal(w->result.pushes[0].session, third);
    assert_int_equal(end(w, second, TARN__END_STAGE__END_RELEASE), 0);
    assert_int_equal(w->result.n_pushes, 0);
}

static void each_stage_may_come_twice(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session;
    world_session(w, "other");
    assert_int_equal(end(w, first, TARN__END_STAGE__END_RELEASE), -E_INVAL); /* not fenced: nobody was asked */
    assert_int_equal(end(w, first, TARN__END_STAGE__END_FENCE), 0);
    uint32_t fenced = world_dump(w);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_FENCE), 0);
    struct fence_news n;
    news(w, 0, true, &n);
    assert_int_equal(n.last, 1);
    assert_int_equal(n.n, 1);
    fence_news_fini(&n);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_WHOLE), -E_NO_SESSION); /* its own wish comes too late */
    assert_int_not_equal(fenced, 0);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_RELEASE), 0);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_RELEASE), 0);
    assert_int_equal(end(w, first, (Tarn__EndStage)9), 0); /* it is gone: what was asked for */
}

static void a_command_of_the_version_before_ends_a_session_at_once(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, other = world_session(w, "other");
    assert_int_equal(lock(w, first, false), 1);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_WHOLE), 0);
    assert_int_equal(lock(w, other, false), 1);
    struct fence_news n;
    news(w, 0, false, &n);
    assert_int_equal(n.last, 0);
    assert_false(n.whole);
    fence_news_fini(&n);
}

static void a_fenced_uuid_opens_no_session(void **state)
{
    struct world *w = *state;
    uint64_t other = world_session(w, "other");
    assert_int_equal(end(w, other, TARN__END_STAGE__END_FENCE), 0);
    Tarn__SessionOpen m = TARN__SESSION_OPEN__INIT;
    m.uuid = (ProtobufCBinaryData){5, (uint8_t *)"other"};
    m.name = (char *)"";
    assert_int_equal(world_apply(w, OP_SESSION_OPEN, &m.base, NULL), -E_NO_SESSION);
    assert_int_equal(end(w, other, TARN__END_STAGE__END_RELEASE), 0);
    assert_true(world_session(w, "other") > other);
}

static void a_store_is_told_what_it_does_not_know(void **state)
{
    struct world *w = *state;
    uint64_t ids[4];
    static const char *const names[] = {"s1", "s2", "s3", "s4"};
    for (unsigned i = 0; i < 4; i++)
        ids[i] = world_session(w, names[i]);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(end(w, ids[i], TARN__END_STAGE__END_FENCE), 0);
    struct fence_news n;
    news(w, 1, false, &n);
    assert_false(n.whole);
    assert_int_equal(n.last, 3);
    assert_int_equal(n.n, 2);
    assert_int_equal(n.fences[0].number, 2);
    assert_int_equal(n.fences[0].session, ids[1]);
    fence_news_fini(&n);
    news(w, 3, false, &n);
    assert_int_equal(n.n, 0);
    assert_false(n.whole);
    fence_news_fini(&n);
}

static void a_store_that_missed_a_release_is_told_all_sessions(void **state)
{
    struct world *w = *state;
    uint64_t own = w->session, a = world_session(w, "a"), b = world_session(w, "b");
    assert_int_equal(end(w, a, TARN__END_STAGE__END_FENCE), 0);
    assert_int_equal(end(w, b, TARN__END_STAGE__END_FENCE), 0);
    assert_int_equal(end(w, a, TARN__END_STAGE__END_RELEASE), 0);
    struct fence_news n;
    news(w, 0, false, &n);
    assert_true(n.whole);
    assert_int_equal(n.n, 1); /* b, not released */
    assert_int_equal(n.set.n_steps, 2);
    assert_int_equal(n.set.steps[0], own);
    assert_int_equal(n.set.steps[0] + n.set.steps[1], b);
    assert_int_equal(n.set.next_session, b + 1);
    assert_int_equal(n.oldest, own);
    fence_news_fini(&n);
    news(w, 1, false, &n); /* knew the released one */
    assert_false(n.whole);
    assert_int_equal(n.n, 1);
    fence_news_fini(&n);
}

static void a_node_that_joins_is_told_all_sessions(void **state)
{
    struct world *w = *state;
    uint64_t own = w->session, a = world_session(w, "a");
    assert_int_equal(end(w, a, TARN__END_STAGE__END_FENCE), 0);
    world_node(w, "n", "r");
    Tarn__NodeJoinReply *reply = world_reply(w, &tarn__node_join_reply__descriptor);
    assert_non_null(reply->sessions);
    assert_int_equal(reply->sessions->n_steps, 2);
    assert_int_equal(reply->sessions->steps[0], own);
    assert_int_equal(reply->fence_last, 1);
    assert_int_equal(reply->n_fences, 1);
    assert_int_equal(reply->fences[0]->session, a);
}

static void a_fenced_writer_leaves_sealed_chunks_also_beside_other_writers(void **state)
{
    struct world *w = *state;
    uint64_t handle, first = w->session, other = world_session(w, "other");
    for (unsigned i = 0; i < 3; i++)
        world_node(w, (const char *[]){"n1", "n2", "n3"}[i], "r");
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = F;
    assert_int_equal(world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    uint64_t chunk = ((Tarn__ChunkReply *)world_reply(w, &tarn__chunk_reply__descriptor))->extent->chunk;
    w->session = other;
    w->seq = 1000;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_FENCE), 0);
    assert_int_equal(end(w, first, TARN__END_STAGE__END_RELEASE), 0);
    assert_int_equal(world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    assert_int_not_equal(((Tarn__ChunkReply *)world_reply(w, &tarn__chunk_reply__descriptor))->extent->chunk, chunk);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(a_fenced_session_is_refused_and_keeps_its_lock),
        CASE(the_release_hands_the_lock_on_in_one_change),
        CASE(a_fenced_session_waits_for_nothing_any_more),
        CASE(each_stage_may_come_twice),
        CASE(a_command_of_the_version_before_ends_a_session_at_once),
        CASE(a_fenced_uuid_opens_no_session),
        CASE(a_store_is_told_what_it_does_not_know),
        CASE(a_store_that_missed_a_release_is_told_all_sessions),
        CASE(a_node_that_joins_is_told_all_sessions),
        CASE(a_fenced_writer_leaves_sealed_chunks_also_beside_other_writers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
