/* Circles of waits, through several files and sessions, with locks that clients decided about themselves; and what
 * only looks like one. L5 and E11 of docs/invariants.md. */
#include "lock_world.h"

#define FILES_MAX 4

/* Owner 1 of each session holds one file and waits for the next; the last of them closes the circle. */
static void a_circle(struct world *w, unsigned files)
{
    uint64_t sessions[FILES_MAX], none[1];
    for (unsigned i = 0; i < files; i++) {
        sessions[i] = world_session(w, (char[]){'s', (char)('0' + i), 0});
        assert_int_equal(lock_as(w, sessions[i], F + i, 1, EX, 0, 9, 0), GRANTED);
    }
    for (unsigned i = 0; i + 1 < files; i++)
        assert_int_equal(lock_as(w, sessions[i], F + i + 1, 1, SH, 5, 5, 10 + i), QUEUED);
    uint32_t before = lock_rows(w);
    assert_int_equal(lock_as(w, sessions[files - 1], F, 1, EX, 9, ALL, 99), -E_DEADLOCK);
    assert_int_equal(lock_rows(w), before);
    assert_int_equal(lock_told(w, 0, none, 1), 0);
    for (unsigned i = files; i-- > 1;) {
        assert_int_equal(lock_as(w, sessions[i], F + i, 1, UN, 0, ALL, 0), GRANTED);
        assert_int_equal(lock_told_one(w), 10 + i - 1);
    }
}

static void a_circle_through_three_files_is_found(void **state)
{
    a_circle(*state, 3);
}

static void a_circle_through_four_files_is_found(void **state)
{
    a_circle(*state, 4);
}

/* All hold their file in a delegation: each wait brings the next one's lock among the rows, the last return shows
 * the circle, and the wait in that file ends. */
static void a_delegated_circle(struct world *w, unsigned files)
{
    const struct lock_range held = {.owner = {.owner = 1}, .type = EX, .start = 0, .end = 9};
    uint64_t sessions[FILES_MAX], numbers[FILES_MAX], told[1];
    for (unsigned i = 0; i < files; i++) {
        sessions[i] = world_session(w, (char[]){'s', (char)('0' + i), 0});
        numbers[i] = lock_delegated(w, sessions[i], F + i, 1, 0, 9);
        assert_true(numbers[i] != 0);
    }
    for (unsigned i = 0; i < files; i++) {
        unsigned next = (i + 1) % files;
        assert_int_equal(lock_as(w, sessions[i], F + next, 1, EX, 5, 5, 10 + i), QUEUED);
        assert_int_equal(lock_return(w, sessions[next], DELEGATED, F + next, numbers[next], &held, 1), 0);
        if (next != 0)
            assert_int_equal(lock_told(w, 0, told, 1), 0);
    }
    assert_int_equal(lock_told(w, -E_DEADLOCK, told, 1), 1);
    assert_int_equal(told[0], 10 + files - 1);
    assert_int_equal(lock_as(w, sessions[files - 1], F + files - 1, 1, UN, 0, ALL, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 10 + files - 2);
}

static void a_circle_of_delegated_locks_is_found_when_the_last_comes_back(void **state)
{
    a_delegated_circle(*state, 2);
}

static void a_circle_of_four_delegated_files_is_found(void **state)
{
    a_delegated_circle(*state, 4);
}

static void a_delegation_that_comes_back_without_the_lock_closes_no_circle(void **state)
{
    struct world *w = *state;
    uint64_t a = world_session(w, "a"), b = world_session(w, "b");
    uint64_t number = lock_delegated(w, a, F, 1, 0, 9);
    assert_true(number != 0);
    assert_int_equal(lock_as(w, b, G, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock_as(w, a, G, 1, EX, 0, 9, 11), QUEUED);
    assert_int_equal(lock_as(w, b, F, 1, EX, 0, 9, 12), QUEUED);
    assert_int_equal(lock_return(w, a, DELEGATED, F, number, NULL, 0), 0);
    assert_int_equal(lock_told_one(w), 12);
    assert_int_equal(lock_as(w, b, G, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
}

static void a_circle_through_one_who_waits_behind_a_waiter_is_found(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, G, 3, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), QUEUED);
    assert_int_equal(lock(w, F, 3, SH, 0, 9, 13), QUEUED); /* only because 2 came before */
    assert_int_equal(lock(w, G, 1, EX, 0, 9, 11), -E_DEADLOCK); /* 1 → 3 → 2 → 1 */
    assert_false(lock_cancel(w, F, 12));
    assert_int_equal(lock_told_one(w), 13);
}

static void many_ways_to_one_holder_are_no_circle(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, I, 9, EX, 0, 9, 0), GRANTED);
    for (uint64_t owner = 1; owner <= 3; owner++) {
        assert_int_equal(lock(w, F, owner, SH, 0, 9, 0), GRANTED);
        assert_int_equal(lock(w, I, owner, EX, owner, owner, 10 + owner), QUEUED);
    }
    assert_int_equal(lock(w, F, 4, EX, 0, 9, 14), QUEUED);
    assert_int_equal(lock(w, G, 9, EX, 0, 9, 0), GRANTED);
    uint64_t told[4];
    assert_int_equal(lock(w, I, 9, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told(w, 0, told, ARRAY_SIZE(told)), 3);
}

/* Open file descriptions of one process are owners of their own; so are equal numbers in two sessions. */
static void owners_of_one_process_or_of_one_number_are_not_one(void **state)
{
    struct world *w = *state;
    uint64_t other = world_session(w, "other");
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, G, 2, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), QUEUED);
    assert_int_equal(lock_as(w, other, G, 1, EX, 0, 9, 11), QUEUED); /* the 1 of another session */
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 12);
    assert_int_equal(lock(w, G, 2, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
}

static void among_flocks_no_circle_is_looked_for(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock_flock(w, F, 1, EX, 0), GRANTED);
    assert_int_equal(lock_flock(w, G, 2, EX, 0), GRANTED);
    assert_int_equal(lock_flock(w, G, 1, EX, 11), QUEUED);
    assert_int_equal(lock_flock(w, F, 2, EX, 12), QUEUED);
    assert_false(lock_cancel(w, F, 12)); /* a signal ends it */
    assert_int_equal(lock_flock(w, G, 2, UN, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 11);
}

static void an_fcntl_and_a_flock_make_no_circle(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock_flock(w, G, 2, EX, 0), GRANTED);
    assert_int_equal(lock_flock(w, G, 1, EX, 11), QUEUED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), QUEUED);
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(lock_told_one(w), 12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {LOCK_TEST(a_circle_through_three_files_is_found),
                                       LOCK_TEST(a_circle_through_four_files_is_found),
                                       LOCK_TEST(a_circle_of_delegated_locks_is_found_when_the_last_comes_back),
                                       LOCK_TEST(a_circle_of_four_delegated_files_is_found),
                                       LOCK_TEST(a_delegation_that_comes_back_without_the_lock_closes_no_circle),
                                       LOCK_TEST(a_circle_through_one_who_waits_behind_a_waiter_is_found),
                                       LOCK_TEST(many_ways_to_one_holder_are_no_circle),
                                       LOCK_TEST(owners_of_one_process_or_of_one_number_are_not_one),
                                       LOCK_TEST(among_flocks_no_circle_is_looked_for),
                                       LOCK_TEST(an_fcntl_and_a_flock_make_no_circle)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
