/* Locks that wait: conversions, canceling, who is next, ranges without end, what a close takes. L3-L9 of
 * docs/invariants.md. Sources: POSIX.1-2017 fcntl(); Linux flock(2), fcntl(2) on open file description locks. */
#include "lock_world.h"

#define LAST INT64_MAX /* of a file offset */

static void a_flock_that_converts_and_waits_gives_up_what_it_held(void **state)
{
    struct world *w = *state;
    for (uint64_t owner = 1; owner <= 3; owner++)
        assert_int_equal(lock_flock(w, F, owner, SH, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 1, EX, 11), QUEUED);
    assert_int_equal(lock_flock(w, F, 2, EX, 12), QUEUED); /* not for ever: 1 has let go */
    assert_int_equal(lock_flock(w, F, 3, EX, 13), GRANTED); /* it is the only holder now */
    assert_int_equal(lock_flock(w, F, 3, UN, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
    assert_int_equal(lock_flock(w, F, 1, UN, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 12);
}

static void others_come_between_while_a_flock_converts(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock_flock(w, F, 1, SH, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 2, SH, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 3, EX, 13), QUEUED);
    assert_int_equal(lock_flock(w, F, 1, EX, 11), QUEUED);
    assert_int_equal(lock_flock(w, F, 2, UN, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 13);
    assert_int_equal(lock_flock(w, F, 3, UN, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
}

static void a_flock_that_may_not_wait_keeps_what_it_could_not_convert(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock_flock(w, F, 1, SH, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 2, SH, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 1, EX, 0), -E_WOULDBLOCK);
    assert_int_equal(lock_flock(w, F, 2, UN, 0), GRANTED);
    assert_int_equal(lock_holder(w, F, FLOCK, 0, ALL), 1);
}

static void a_canceled_conversion_of_a_flock_leaves_nothing(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock_flock(w, F, 1, SH, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 2, SH, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 1, EX, 11), QUEUED);
    assert_false(lock_cancel(w, F, 11));
    assert_int_equal(lock_flock(w, F, 2, UN, 0), GRANTED);
    assert_int_equal(lock_holder(w, F, FLOCK, 0, ALL), 0);
}

static void an_exclusive_flock_becomes_shared_in_one_step(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock_flock(w, F, 1, EX, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 2, EX, 12), QUEUED);
    assert_int_equal(lock_flock(w, F, 1, SH, 13), GRANTED);
    assert_int_equal(w->result.n_pushes, 0); /* nobody came between */
    assert_int_equal(lock_holder(w, F, FLOCK, 0, ALL), 1);
}

static void an_fcntl_lock_that_waits_for_its_upgrade_keeps_what_it_held(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 11), QUEUED);
    assert_int_equal(lock(w, F, 2, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
    assert_int_equal(lock(w, F, 3, SH, 0, 0, 0), -E_WOULDBLOCK);
}

static void a_reader_waits_behind_an_upgrade(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 11), QUEUED);
    assert_int_equal(lock(w, F, 3, SH, 0, 9, 13), QUEUED);
    assert_int_equal(lock(w, F, 2, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED); /* a downgrade lets it in */
    assert_int_equal(lock_told_one(w), 13);
}

static void readers_that_keep_coming_do_not_starve_a_writer(void **state)
{
    struct world *w = *state;
    uint64_t told[32];
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 5, 5, 20), QUEUED);
    for (uint64_t reader = 21; reader < 41; reader++)
        assert_int_equal(lock(w, F, reader, SH, 0, 9, reader), QUEUED);
    assert_int_equal(lock(w, F, 50, SH, 6, 9, 50), GRANTED); /* not in the writer's way */
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 20);
    assert_int_equal(lock(w, F, 2, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told(w, 0, told, ARRAY_SIZE(told)), 20);
    for (uint64_t i = 0; i < 20; i++)
        assert_int_equal(told[i], 21 + i);
}

static void a_cancel_that_comes_too_late_says_so_and_takes_nothing(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), QUEUED);
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 12);
    assert_true(lock_cancel(w, F, 12));
    assert_true(lock_cancel(w, F, 12)); /* its answer was lost */
    assert_int_equal(lock_holder(w, F, FCNTL, 0, 9), 2);
}

static void a_cancel_ends_no_wait_of_another_session(void **state)
{
    struct world *w = *state;
    uint64_t other = world_session(w, "other");
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock_as(w, other, F, 1, EX, 0, 9, 12), QUEUED);
    uint32_t before = lock_rows(w);
    assert_false(lock_cancel(w, F, 12));
    assert_int_equal(lock_rows(w), before);
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 12);
}

static void the_same_wait_asked_for_again_changes_nothing(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), QUEUED);
    uint32_t before = lock_rows(w);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), QUEUED);
    assert_int_equal(lock_rows(w), before);
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(w->result.n_pushes, 1);
    before = lock_rows(w);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), GRANTED);
    assert_int_equal(lock_rows(w), before);
}

static void ranges_reach_the_last_offset_and_beyond(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, LAST - 1, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, LAST, LAST, 0), GRANTED);
    assert_int_equal(lock(w, F, 3, EX, (uint64_t)LAST + 1, ALL, 0), GRANTED);
    assert_int_equal(lock(w, F, 3, EX, LAST, LAST, 0), -E_WOULDBLOCK);
    assert_int_equal(lock(w, F, 1, EX, LAST, ALL, 11), QUEUED);
    assert_int_equal(lock(w, F, 2, UN, 0, ALL, 0), GRANTED);
    assert_int_equal(w->result.n_pushes, 0); /* 3 is left */
    assert_int_equal(lock(w, F, 3, UN, ALL, ALL, 0), GRANTED);
    assert_int_equal(w->result.n_pushes, 0);
    assert_int_equal(lock_holder(w, F, FCNTL, ALL - 1, ALL - 1), 3);
    assert_int_equal(lock(w, F, 3, UN, 0, ALL - 1, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
    assert_int_equal(lock(w, F, 1, UN, 10, ALL, 0), GRANTED); /* 0 … infinity was one range */
    assert_int_equal(lock(w, F, 2, EX, 10, ALL, 0), GRANTED);
    assert_int_equal(lock_holder(w, F, FCNTL, 0, 9), 1);
    assert_int_equal(lock(w, F, 2, EX, 5, 4, 0), -E_INVAL);
}

static void a_close_takes_the_locks_and_waits_of_its_owner_in_that_file_only(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, SH, 20, 29, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 10, 19, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, EX, 10, 10, 11), QUEUED);
    assert_int_equal(lock(w, F, 3, EX, 10, 10, 13), QUEUED);
    assert_int_equal(lock(w, F, 4, EX, 25, 25, 14), QUEUED);
    assert_int_equal(lock(w, G, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock_flock(w, F, 1, EX, 0), GRANTED);
    assert_int_equal(lock_drop(w, F, FCNTL, 1, 0), 0);
    assert_int_equal(lock_told_one(w), 14);
    assert_int_equal(lock(w, F, 5, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock_holder(w, F, FCNTL, 10, 19), 2);
    assert_int_equal(lock_holder(w, G, FCNTL, 0, 9), 1);
    assert_int_equal(lock_holder(w, F, FLOCK, 0, 9), 1);
    assert_int_equal(lock(w, F, 2, UN, 0, ALL, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 13); /* 1 is not waiting any more */
}

static void a_release_by_handle_takes_what_was_locked_by_it(void **state)
{
    struct world *w = *state;
    uint64_t other = world_session(w, "other");
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, SH, 5, 5, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 7, 7, 0), GRANTED);
    assert_int_equal(lock_as(w, other, F, 1, EX, 9, 9, 0), GRANTED); /* under the same number of a handle */
    assert_int_equal(lock(w, F, 3, EX, 5, 5, 13), QUEUED);
    assert_int_equal(lock_drop(w, F, FCNTL, 0, 1), 0);
    assert_int_equal(lock_told_one(w), 13);
    assert_int_equal(lock_holder(w, F, FCNTL, 0, 4), 0);
    assert_int_equal(lock_holder(w, F, FCNTL, 6, 8), 2);
    assert_int_equal(lock_holder(w, F, FCNTL, 8, 9), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {LOCK_TEST(a_flock_that_converts_and_waits_gives_up_what_it_held),
                                       LOCK_TEST(others_come_between_while_a_flock_converts),
                                       LOCK_TEST(a_flock_that_may_not_wait_keeps_what_it_could_not_convert),
                                       LOCK_TEST(a_canceled_conversion_of_a_flock_leaves_nothing),
                                       LOCK_TEST(an_exclusive_flock_becomes_shared_in_one_step),
                                       LOCK_TEST(an_fcntl_lock_that_waits_for_its_upgrade_keeps_what_it_held),
                                       LOCK_TEST(a_reader_waits_behind_an_upgrade),
                                       LOCK_TEST(readers_that_keep_coming_do_not_starve_a_writer),
                                       LOCK_TEST(a_cancel_that_comes_too_late_says_so_and_takes_nothing),
                                       LOCK_TEST(a_cancel_ends_no_wait_of_another_session),
                                       LOCK_TEST(the_same_wait_asked_for_again_changes_nothing),
                                       LOCK_TEST(ranges_reach_the_last_offset_and_beyond),
                                       LOCK_TEST(a_close_takes_the_locks_and_waits_of_its_owner_in_that_file_only),
                                       LOCK_TEST(a_release_by_handle_takes_what_was_locked_by_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
