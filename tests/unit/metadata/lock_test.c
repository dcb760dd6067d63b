/* Locks: the commands. L1-L6 of docs/invariants.md. */
#include "lock_world.h"

static void readers_share_and_writers_do_not(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, SH, 5, 15, 0), GRANTED);
    assert_int_equal(lock(w, F, 3, EX, 15, 20, 0), -E_WOULDBLOCK);
    assert_int_equal(lock(w, F, 3, EX, 16, 20, 0), GRANTED);
    assert_int_equal(lock(w, G, 3, EX, 0, UINT64_MAX, 0), GRANTED);
}

static void a_waiter_is_granted_by_push_once(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 5, 5, 42), QUEUED);
    assert_int_equal(lock(w, F, 2, EX, 5, 5, 42), QUEUED);
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(w->result.n_pushes, 1);
    assert_int_equal(lock_told_one(w), 42);
    assert_int_equal(lock(w, F, 2, EX, 5, 5, 42),
                     GRANTED); /* the push was lost, the client asks again */
}

static void first_come_first_served(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 7), QUEUED);
    assert_int_equal(lock(w, F, 3, SH, 0, 9, 8), QUEUED); /* behind the writer */
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 7);
    assert_int_equal(w->result.n_pushes, 1);
}

static void a_cycle_of_waits_is_a_deadlock(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, G, 2, EX, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 3, EX, 1, 1, 0), GRANTED);
    assert_int_equal(lock(w, G, 1, EX, 0, 0, 5), QUEUED);
    assert_int_equal(lock(w, F, 2, EX, 1, 1, 6), QUEUED);
    assert_int_equal(lock(w, F, 3, EX, 0, 0, 7), -E_DEADLOCK); /* 3 → 1 → 2 → 3 */
    assert_int_equal(lock(w, F, 3, UN, 1, 1, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 6);
}

static void two_upgrades_are_a_deadlock(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, SH, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 5), QUEUED);
    assert_int_equal(lock(w, F, 2, EX, 0, 0, 6), -E_DEADLOCK);
}

static void an_upgrade_passes_those_who_wait_for_it(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 0, 5), QUEUED);
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 6), GRANTED);
}

static void a_canceled_wait_lets_others_pass(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 7), QUEUED);
    assert_int_equal(lock(w, F, 3, SH, 0, 9, 8), QUEUED);
    assert_false(lock_cancel(w, F, 7));
    assert_int_equal(lock_told_one(w), 8);
    assert_true(lock_cancel(w, F, 8));
    assert_false(lock_cancel(w, F, 99));
}

static void the_end_of_a_session_grants_others(void **state)
{
    struct world *w = *state;
    uint64_t mine = w->session;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    w->session = world_session(w, "second");
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 7), QUEUED);
    Tarn__SessionEnd m = TARN__SESSION_END__INIT;
    m.session = mine;
    assert_int_equal(world_apply(w, OP_SESSION_END, &m.base, NULL), 0);
    assert_int_equal(lock_told_one(w), 7);
    Tarn__GetLock g = TARN__GET_LOCK__INIT;
    g.ino = F;
    g.type = (Tarn__LockType)SH;
    g.owner = 2;
    assert_int_equal(world_query(w, OP_GETLK, &g.base, &g.ctx), 0);
    Tarn__GetLockReply *reply = world_reply(w, &tarn__get_lock_reply__descriptor);
    assert_true(reply->conflict);
    assert_int_equal(reply->session, w->session);
}

static void a_drop_by_handle_or_owner_takes_all(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, EX, 5, 5, 0), GRANTED);
    Tarn__LockDrop m = TARN__LOCK_DROP__INIT;
    m.ino = F;
    m.by_handle = true;
    m.handle = 1;
    assert_int_equal(world_apply(w, OP_LOCK_DROP, &m.base, &m.ctx), 0);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 0), GRANTED);
    m.by_handle = false;
    m.owner = 2;
    assert_int_equal(world_apply(w, OP_LOCK_DROP, &m.base, &m.ctx), 0);
    assert_int_equal(lock(w, F, 3, EX, 0, 9, 0), GRANTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {LOCK_TEST(readers_share_and_writers_do_not),
                                       LOCK_TEST(a_waiter_is_granted_by_push_once),
                                       LOCK_TEST(first_come_first_served),
                                       LOCK_TEST(a_cycle_of_waits_is_a_deadlock),
                                       LOCK_TEST(two_upgrades_are_a_deadlock),
                                       LOCK_TEST(an_upgrade_passes_those_who_wait_for_it),
                                       LOCK_TEST(a_canceled_wait_lets_others_pass),
                                       LOCK_TEST(the_end_of_a_session_grants_others),
                                       LOCK_TEST(a_drop_by_handle_or_owner_takes_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
