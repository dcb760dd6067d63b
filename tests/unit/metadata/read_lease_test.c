/* Read leases: invariant C14 as far as it is arithmetic. */
#include "metadata/read_lease.h"
#include "tests/unit/cmocka.h"

static void a_writer_waits_for_the_others_leases_only(void **state)
{
    struct read_leases leases = {0};
    assert_true(read_leases_none(&leases, 100));
    read_leases_note(&leases, 7, 1, 100);
    assert_false(read_leases_none(&leases, 100));
    assert_true(read_leases_end(&leases, 7, 1) <= 100);
    assert_int_equal(read_leases_end(&leases, 7, 2), 100 + READ_LEASE_HOLD_MS);
    assert_true(read_leases_end(&leases, 8, 2) <= 100);
    read_leases_note(&leases, 7, 2, 103);
    assert_int_equal(read_leases_end(&leases, 7, 1), 103 + READ_LEASE_HOLD_MS);
    assert_int_equal(read_leases_end(&leases, 7, 2), 100 + READ_LEASE_HOLD_MS);
    assert_int_equal(read_leases_end(&leases, 7, 3), 103 + READ_LEASE_HOLD_MS);
    read_leases_fini(&leases);
}

static void a_session_that_comes_back_does_not_shorten_the_others(void **state)
{
    struct read_leases leases = {0};
    read_leases_note(&leases, 7, 1, 100);
    read_leases_note(&leases, 7, 2, 101);
    read_leases_note(&leases, 7, 1, 102);
    assert_int_equal(read_leases_end(&leases, 7, 1), 101 + READ_LEASE_HOLD_MS);
    read_leases_fini(&leases);
}

static void beyond_the_limit_one_end_serves_for_all(void **state)
{
    struct read_leases leases = {0};
    for (uint64_t ino = 1; ino <= READ_LEASES_MAX; ino++)
        read_leases_note(&leases, ino, 1, 100);
    assert_true(read_leases_end(&leases, 1000000, 2) <= 100);
    read_leases_note(&leases, 1000000, 1, 105);
    assert_int_equal(leases.count, READ_LEASES_MAX);
    assert_int_equal(read_leases_end(&leases, 1000000, 2), 105 + READ_LEASE_HOLD_MS);
    read_leases_note(&leases, 1000001, 1, 200); /* those that are over make room */
    assert_int_equal(leases.count, 1);
    assert_int_equal(read_leases_end(&leases, 1000001, 2), 200 + READ_LEASE_HOLD_MS);
    read_leases_fini(&leases);
}

static void a_new_leader_waits_for_what_it_does_not_know(void **state)
{
    struct read_leases leases = {0};
    read_leases_unknown(&leases, 100);
    assert_false(read_leases_none(&leases, 100));
    assert_int_equal(read_leases_end(&leases, 7, 1), 100 + READ_LEASE_HOLD_MS);
    assert_true(read_leases_none(&leases, 100 + READ_LEASE_HOLD_MS));
    read_leases_fini(&leases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_writer_waits_for_the_others_leases_only),
        cmocka_unit_test(a_session_that_comes_back_does_not_shorten_the_others),
        cmocka_unit_test(beyond_the_limit_one_end_serves_for_all),
        cmocka_unit_test(a_new_leader_waits_for_what_it_does_not_know),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
