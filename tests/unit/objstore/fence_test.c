/* Which sessions a store takes changes from: X1-X5 of docs/invariants.md. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/prng.h"
#include "objstore/fence.h"

static const uint64_t sessions[] = {3, 4, 7};
#define NEXT 9 /* sessions given out: 1 … 8 */

static int setup(void **state)
{
    static struct fences f;
    fences_init(&f);
    assert_int_equal(fences_reset(&f, 5, NEXT, sessions, ARRAY_SIZE(sessions)), 0);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    fences_fini(*state);
    return 0;
}

static int enters(struct fences *f, uint64_t session, bool forwarded)
{
    struct fence_op op;
    int err = fences_enter(f, &op, session, forwarded);
    if (err == 0)
        fences_leave(f, &op);
    return err;
}

static void nothing_is_taken_before_the_sessions_are_known(void **state)
{
    struct fences f;
    fences_init(&f);
    assert_int_equal(enters(&f, 3, false), -E_BUSY);
    assert_int_equal(enters(&f, 3, true), -E_BUSY);
    fences_fini(&f);
}

static void sessions_that_there_are_and_new_ones_are_taken(void **state)
{
    assert_int_equal(enters(*state, 3, false), 0);
    assert_int_equal(enters(*state, 7, true), 0);
    assert_int_equal(enters(*state, NEXT, false), 0);
    assert_int_equal(enters(*state, UINT64_MAX, false), 0);
}

static void sessions_that_have_ended_and_none_at_all_are_refused(void **state)
{
    static const uint64_t ended[] = {0, 1, 2, 5, 6, 8};
    for (size_t i = 0; i < ARRAY_SIZE(ended); i++) {
        assert_int_equal(enters(*state, ended[i], false), -E_NO_SESSION);
        assert_int_equal(enters(*state, ended[i], true), -E_NO_SESSION);
    }
}

static void a_fenced_session_orders_nothing_but_what_was_ordered_goes_on(void **state)
{
    struct fences *f = *state;
    assert_int_equal(fences_add(f, 6, 4), 0);
    assert_int_equal(enters(f, 4, false), -E_NO_SESSION);
    assert_int_equal(enters(f, 4, true), 0);
    assert_int_equal(fences_settle(f, 6), 0);
    assert_int_equal(enters(f, 4, true), -E_NO_SESSION);
    assert_int_equal(enters(f, 3, false), 0);
}

static void a_change_that_waited_while_the_fence_came_is_refused(void **state)
{
    struct fences *f = *state;
    struct fence_op ours, others;
    assert_int_equal(fences_enter(f, &ours, 4, false), 0);
    assert_int_equal(fences_enter(f, &others, 3, false), 0);
    assert_int_equal(fences_check(f, &ours), 0);
    assert_int_equal(fences_add(f, 6, 4), 0);
    assert_int_equal(fences_check(f, &ours), -E_NO_SESSION);
    assert_int_equal(fences_check(f, &others), 0);
    assert_true(fences_leave(f, &ours));
    assert_false(fences_leave(f, &others));
}

static void a_fence_is_answered_when_nothing_older_is_under_way(void **state)
{
    struct fences *f = *state;
    struct fence_op ordered, forwarded;
    assert_int_equal(fences_enter(f, &ordered, 4, false), 0);
    assert_int_equal(fences_enter(f, &forwarded, 4, true), 0);
    assert_int_equal(fences_add(f, 6, 4), 0);
    assert_int_equal(fences_add(f, 7, 3), 0);
    fences_told(f, 7);
    assert_int_equal(fences_ordered(f), 5);
    assert_false(fences_late(f, &ordered)); /* the fence waits for it: it counts */
    fences_leave(f, &ordered);
    assert_int_equal(fences_ordered(f), 7);
    assert_int_equal(fences_closed(f), 0); /* nothing is settled yet */
    assert_int_equal(fences_settle(f, 7), 0);
    assert_int_equal(fences_closed(f), 5);
    fences_leave(f, &forwarded);
    assert_int_equal(fences_closed(f), 7);
}

static void a_forwarded_change_that_entered_after_the_fence_holds_up_only_its_close(void **state)
{
    struct fences *f = *state;
    struct fence_op op;
    assert_int_equal(fences_add(f, 6, 4), 0);
    fences_told(f, 6);
    assert_int_equal(fences_enter(f, &op, 4, true), 0);
    assert_int_equal(fences_check(f, &op), 0);
    assert_int_equal(fences_ordered(f), 6);
    assert_int_equal(fences_settle(f, 6), 0);
    assert_int_equal(fences_check(f, &op), -E_NO_SESSION);
    assert_int_equal(fences_closed(f), 5);
    fences_leave(f, &op);
    assert_int_equal(fences_closed(f), 6);
}

static void a_fence_told_twice_changes_nothing(void **state)
{
    struct fences *f = *state;
    assert_int_equal(fences_add(f, 6, 4), 0);
    assert_int_equal(fences_add(f, 6, 4), 0);
    fences_told(f, 6);
    assert_int_equal(fences_settle(f, 6), 0);
    assert_int_equal(fences_add(f, 6, 4), 0);
    assert_int_equal(fences_settle(f, 3), 0); /* an answer that was overtaken */
    assert_int_equal(fences_closed(f), 6);
    assert_int_equal(f->n_pending, 0);
}

static void a_store_that_missed_fences_is_told_the_sessions_and_old_changes_are_late(void **state)
{
    struct fences *f = *state;
    struct fence_op late;
    static const uint64_t now[] = {4, 9, 11};
    assert_int_equal(fences_enter(f, &late, 3, false), 0);
    assert_int_equal(fences_reset(f, 9, 12, now, ARRAY_SIZE(now)), 0);
    assert_int_equal(fences_check(f, &late), -E_NO_SESSION);
    assert_true(fences_late(f, &late));
    assert_int_equal(fences_ordered(f), 5);
    fences_leave(f, &late);
    assert_int_equal(fences_ordered(f), 9);
    assert_int_equal(enters(f, 10, false), -E_NO_SESSION);
    assert_int_equal(enters(f, 11, false), 0);
    assert_int_equal(enters(f, 12, false), 0);
}

static void what_is_remembered_stays_small(void **state)
{
    struct fences *f = *state;
    for (uint64_t id = NEXT; id < NEXT + 1000; id++) { /* all of them fall silent */
        assert_int_equal(fences_add(f, id - 3, id), 0);
        assert_int_equal(fences_settle(f, id - 3), 0);
    }
    assert_int_equal(f->n_ended, 3); /* 0-2, 5-6, 8-1008 */
    assert_int_equal(fences_forget_below(f, 1000), 0);
    assert_int_equal(f->n_ended, 1);
    assert_int_equal(enters(f, 3, false), -E_NO_SESSION);
    assert_int_equal(enters(f, NEXT + 999, true), -E_NO_SESSION);
    assert_int_equal(enters(f, NEXT + 1000, false), 0);
}

static void too_many_ranges_ask_for_the_set_of_sessions(void **state)
{
    struct fences *f = *state;
    uint64_t number = 5;
    for (uint64_t id = NEXT + 1; !fences_crowded(f); id += 2) { /* every other one lives */
        assert_int_equal(fences_add(f, ++number, id), 0);
        assert_int_equal(fences_settle(f, number), 0);
        assert_true(f->n_ended <= FENCE_RANGES_MAX + 1);
    }
    fences_told(f, number);
    assert_int_equal(fences_reset(f, number, number * 3, sessions, ARRAY_SIZE(sessions)), 0);
    assert_false(fences_crowded(f));
}

/* Everything that can be told, in any order, against a plain table of states. */
#define IDS 64
enum { LIVES, FENCED, ENDED };
static void random_news_agree_with_a_table(void **state)
{
    struct fences *f = *state;
    struct prng prng = prng_init(1);
    uint8_t is[IDS] = {ENDED, ENDED, ENDED, LIVES, LIVES, ENDED, ENDED, LIVES, ENDED};
    uint64_t fence_of[IDS] = {0}, number = 5;
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t id = 1 + prng_below(&prng, IDS - 1), to = prng_below(&prng, number + 1);
        switch (prng_below(&prng, 40)) {
        case 0:
            if (is[id] == LIVES) {
                assert_int_equal(fences_add(f, fence_of[id] = ++number, id), 0);
                is[id] = FENCED;
            }
            break;
        case 1:
            assert_int_equal(fences_settle(f, to), 0);
            for (uint64_t i = 0; i < IDS; i++)
                is[i] = is[i] == FENCED && fence_of[i] <= to ? ENDED : is[i];
            break;
        case 2:
            if (prng_below(&prng, 50) != 0)
                break;
            teardown(state); /* a new life */
            setup(state);
            memset(is, LIVES, sizeof is);
            memcpy(is, (uint8_t[]){ENDED, ENDED, ENDED, LIVES, LIVES, ENDED, ENDED, LIVES, ENDED}, 9);
            number = 5;
            break;
        default:
            assert_int_equal(enters(f, id, false), is[id] == LIVES ? 0 : -E_NO_SESSION);
            assert_int_equal(enters(f, id, true), is[id] == ENDED ? -E_NO_SESSION : 0);
        }
    }
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(nothing_is_taken_before_the_sessions_are_known),
        CASE(sessions_that_there_are_and_new_ones_are_taken),
        CASE(sessions_that_have_ended_and_none_at_all_are_refused),
        CASE(a_fenced_session_orders_nothing_but_what_was_ordered_goes_on),
        CASE(a_change_that_waited_while_the_fence_came_is_refused),
        CASE(a_fence_is_answered_when_nothing_older_is_under_way),
        CASE(a_forwarded_change_that_entered_after_the_fence_holds_up_only_its_close),
        CASE(a_fence_told_twice_changes_nothing),
        CASE(a_store_that_missed_fences_is_told_the_sessions_and_old_changes_are_late),
        CASE(what_is_remembered_stays_small),
        CASE(too_many_ranges_ask_for_the_set_of_sessions),
        CASE(random_news_agree_with_a_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
