/* The table of read leases: E1-E6 of docs/invariants.md as far as they are arithmetic. */
#include "common/prng.h"
#include "metadata/lease.h"
#include "tests/unit/cmocka.h"

static struct {
    unsigned n;
    uint64_t session, ino, number;
} asked;

static void recall(void *arg, uint64_t session, uint64_t ino, uint64_t number)
{
    asked.n++;
    asked.session = session;
    asked.ino = ino;
    asked.number = number;
}

static int setup(void **state)
{
    static struct lease_table table;
    lease_table_init(&table);
    memset(&asked, 0, sizeof asked);
    *state = &table;
    return 0;
}

static int teardown(void **state)
{
    lease_table_fini(*state);
    return 0;
}

static uint64_t grant(struct lease_table *table, uint64_t session, uint64_t ino, uint64_t now)
{
    return lease_grant(table, session, ino, now, recall, NULL);
}

static uint64_t take_back(struct lease_table *table, uint64_t session, uint64_t ino, uint64_t now)
{
    return lease_recall(table, ino, session, now, recall, NULL);
}

static void a_change_waits_for_the_leases_of_others_only(void **state)
{
    struct lease_table *t = *state;
    assert_true(grant(t, 1, 7, 100) != 0);
    assert_true(take_back(t, 1, 7, 100) <= 100);
    assert_true(take_back(t, 2, 8, 100) <= 100);
    assert_int_equal(asked.n, 0);
    assert_int_equal(take_back(t, 2, 7, 110), 100 + LEASE_HOLD_MS);
    assert_int_equal(asked.n, 1);
    assert_int_equal(asked.session, 1);
    assert_int_equal(take_back(t, 2, 7, 120), 100 + LEASE_HOLD_MS);
    assert_int_equal(asked.n, 1); /* once */
    lease_give_back(t, 1, 7, asked.number, 130);
    assert_true(take_back(t, 2, 7, 130) <= 130);
    assert_int_equal(t->count, 0);
}

static void a_term_is_renewed_by_pings_but_not_beside_an_unanswered_recall(void **state)
{
    struct lease_table *t = *state;
    assert_true(grant(t, 1, 7, 100) != 0);
    assert_true(lease_renew(t, 1, 500));
    assert_int_equal(lease_end(t, 7, 2, 500), 500 + LEASE_HOLD_MS);
    assert_int_equal(take_back(t, 2, 7, 600), 500 + LEASE_HOLD_MS);
    assert_false(lease_renew(t, 1, 700)); /* nobody waits longer than a term */
    assert_int_equal(lease_end(t, 7, 2, 700), 500 + LEASE_HOLD_MS);
    assert_int_equal(grant(t, 1, 9, 700), 0);
    struct lease_item owed[4];
    assert_int_equal(lease_owed(t, 1, owed, 4), 1);
    assert_int_equal(owed[0].ino, 7);
    lease_give_back(t, 1, 7, owed[0].number, 1200);
    assert_true(lease_renew(t, 1, 1200));
    assert_true(grant(t, 1, 7, 1200) != 0);
}

static void who_was_silent_has_nothing_and_must_say_that_it_knows(void **state)
{
    struct lease_table *t = *state;
    assert_true(grant(t, 1, 7, 100) != 0);
    take_back(t, 2, 7, 110);
    assert_true(take_back(t, 2, 7, 100 + LEASE_HOLD_MS) <= 100 + LEASE_HOLD_MS);
    assert_int_equal(t->count, 0);
    assert_false(lease_renew(t, 1, 1300));
    assert_true(lease_deaf_since(t, 1) != 0);
    lease_give_back_all(t, 1, 1310);
    assert_int_equal(lease_deaf_since(t, 1), 0);
    assert_true(lease_renew(t, 1, 1320));
}

static void an_answer_to_an_old_recall_does_not_end_a_newer_lease(void **state)
{
    struct lease_table *t = *state;
    uint64_t first = grant(t, 1, 7, 100), second = grant(t, 1, 7, 110);
    assert_true(second > first);
    lease_give_back(t, 1, 7, first, 120);
    assert_int_equal(t->count, 1);
    take_back(t, 2, 7, 130);
    assert_true(asked.number > second); /* voids the grant, should its reply come later */
    lease_give_back(t, 1, 7, asked.number, 140);
    assert_int_equal(t->count, 0);
}

static void nothing_is_given_while_a_change_is_under_way(void **state)
{
    struct lease_table *t = *state;
    assert_int_equal(lease_block(t, 7), 0);
    assert_int_equal(lease_block(t, 7), 0);
    assert_int_equal(grant(t, 1, 7, 100), 0);
    lease_unblock(t, 7);
    assert_int_equal(grant(t, 1, 7, 100), 0);
    lease_unblock(t, 7);
    assert_true(grant(t, 1, 7, 100) != 0);
}

static void beyond_the_limit_the_oldest_is_asked_back(void **state)
{
    struct lease_table *t = *state;
    t->session_max = 3;
    t->total_max = 5;
    for (uint64_t ino = 1; ino <= 3; ino++)
        assert_true(grant(t, 1, ino, 100) != 0);
    assert_int_equal(grant(t, 1, 4, 100), 0);
    assert_int_equal(asked.ino, 1);
    assert_int_equal(asked.session, 1);
    assert_true(grant(t, 2, 1, 110) != 0);
    assert_true(grant(t, 2, 2, 110) != 0);
    lease_give_back(t, 1, 1, asked.number, 120);
    assert_true(grant(t, 1, 4, 120) != 0);
    assert_int_equal(grant(t, 2, 3, 130), 0); /* of all: session 1's again */
    assert_int_equal(asked.session, 1);
    assert_int_equal(asked.ino, 2);
    assert_true(grant(t, 2, 3, 120 + LEASE_HOLD_MS) != 0); /* it never answered: its term made room */
    assert_int_equal(t->count, 3);
}

static void a_new_leader_waits_a_term_for_what_it_does_not_know(void **state)
{
    struct lease_table *t = *state;
    assert_true(grant(t, 1, 7, 100) != 0);
    lease_table_restart(t, true, 200);
    assert_int_equal(t->count, 0);
    assert_int_equal(take_back(t, 1, 8, 210), 200 + LEASE_HOLD_MS);
    assert_true(grant(t, 1, 7, 210) != 0);
    assert_true(take_back(t, 1, 8, 200 + LEASE_HOLD_MS) <= 200 + LEASE_HOLD_MS);
    lease_unblock(t, 99); /* of a change that began under the leader before */
}

static void rows_asked_back_count_against_the_deaf(void **state)
{
    struct lease_table *t = *state;
    lease_rows_asked(t, 1, 100);
    lease_rows_asked(t, 1, 300);
    assert_int_equal(lease_deaf_since(t, 1), 101);
    assert_true(lease_renew(t, 1, 300)); /* what it reads is not concerned */
    lease_rows_returned(t, 1);
    assert_int_equal(lease_deaf_since(t, 1), 0);
    lease_sweep(t, 300 + LEASE_HOLD_MS);
    assert_int_equal(t->sessions.count, 0);
}

/* 200,000 steps of everything: who believes to have a lease by the rules a client follows is in the table. */
static void a_client_never_believes_more_than_the_leader_knows(void **state)
{
    enum { SESSIONS = 5, INOS = 6 };
    struct lease_table *t = *state;
    struct prng prng = prng_init(11);
    uint64_t held[SESSIONS][INOS] = {{0}}, until[SESSIONS] = {0}, now = 1000;
    t->session_max = 4;
    t->total_max = 12;
    for (unsigned i = 0; i < 200000; i++) {
        uint64_t s = prng_below(&prng, SESSIONS), ino = prng_below(&prng, INOS);
        now += prng_below(&prng, 10) == 0 ? prng_below(&prng, 700) : prng_below(&prng, 20);
        uint64_t number;
        struct lease_item owed[INOS];
        switch (prng_below(&prng, 6)) {
        case 0:
        case 1:
            number = grant(t, s + 1, ino + 1, now);
            if (number == 0)
                break;
            if (until[s] <= now)
                memset(held[s], 0, sizeof held[s]);
            held[s][ino] = number;
            until[s] = now + LEASE_TERM_MS;
            break;
        case 2:
            if (lease_renew(t, s + 1, now)) {
                if (until[s] <= now)
                    memset(held[s], 0, sizeof held[s]);
                until[s] = now + LEASE_TERM_MS;
            }
            break;
        case 3: /* answers some of what it owes */
            for (size_t n = lease_owed(t, s + 1, owed, INOS); n-- > 0;) {
                held[s][owed[n].ino - 1] = 0;
                lease_give_back(t, s + 1, owed[n].ino, owed[n].number, now);
            }
            break;
        case 4:
            if (until[s] <= now) {
                memset(held[s], 0, sizeof held[s]);
                lease_give_back_all(t, s + 1, now);
            }
            break;
        default:
            if (take_back(t, s + 1, ino + 1, now) > now)
                break;
            for (unsigned other = 0; other < SESSIONS; other++)
                assert_true(other == s || held[other][ino] == 0 || until[other] <= now);
        }
        assert_true(t->count <= t->total_max);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_change_waits_for_the_leases_of_others_only),
        T(a_term_is_renewed_by_pings_but_not_beside_an_unanswered_recall),
        T(who_was_silent_has_nothing_and_must_say_that_it_knows),
        T(an_answer_to_an_old_recall_does_not_end_a_newer_lease),
        T(nothing_is_given_while_a_change_is_under_way),
        T(beyond_the_limit_the_oldest_is_asked_back),
        T(a_new_leader_waits_a_term_for_what_it_does_not_know),
        T(rows_asked_back_count_against_the_deaf),
        T(a_client_never_believes_more_than_the_leader_knows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
