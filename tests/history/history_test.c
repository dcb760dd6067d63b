/* The checker of histories: known good ones, and bad ones that it must refuse. Histories are drawn as text, time from left to right. */
#include "linear.h"

#include "tests/unit/cmocka.h"
#include "common/err.h"
#include "common/prng.h"

#include <unistd.h>

static const char *check_program;

struct setup {
    struct history history;
    uint8_t kind;
};

/* One operation; end 0 = unknown. */
static void op(struct setup *s, uint64_t from, uint64_t to, unsigned verb, uint64_t a, uint64_t b, int status, uint64_t result)
{
    struct history_op op = {.kind = s->kind,
                            .verb = (uint8_t)verb,
                            .a = a,
                            .b = b,
                            .invoke_ns = from,
                            .return_ns = to == 0 ? HISTORY_UNKNOWN : to,
                            .status = status,
                            .result = {result}};
    history_add(&s->history, &op);
}

static void lock_op(struct setup *s, uint64_t from, uint64_t to, unsigned verb, unsigned session, uint64_t a, uint64_t b, int status)
{
    op(s, from, to, verb, a, b, status, verb == VERB_READ ? a : 0);
    s->history.ops[s->history.n - 1].owner = (uint64_t)session << 16 | 1;
}

static void expect(struct setup *s, enum linear_verdict verdict)
{
    struct linear_report report;
    assert_int_equal(linear_check(&s->history, 1000000, &report), verdict);
    assert_true((report.bad == NULL) == (verdict == LINEAR_YES));
    free(report.bad);
    history_fini(&s->history);
}

/* ---- names */

static void test_overlapping_creates_have_one_winner(void **state)
{
    struct setup s = {.kind = HISTORY_DIRECTORY};
    op(&s, 1, 10, VERB_CREATE, 0, 7, 0, 0);
    op(&s, 2, 9, VERB_CREATE, 0, 8, -E_EXIST, 0);
    op(&s, 11, 12, VERB_LOOKUP, 0, 0, 0, 7);
    expect(&s, LINEAR_YES);
}

static void test_two_winners_of_an_exclusive_create_are_refused(void **state)
{
    struct setup s = {.kind = HISTORY_DIRECTORY};
    op(&s, 1, 10, VERB_CREATE, 0, 7, 0, 0);
    op(&s, 2, 9, VERB_CREATE, 0, 8, 0, 0);
    expect(&s, LINEAR_NO);
}

static void test_a_lost_create_is_refused(void **state)
{
    struct setup s = {.kind = HISTORY_DIRECTORY};
    op(&s, 1, 2, VERB_CREATE, 0, 7, 0, 0);
    op(&s, 3, 4, VERB_LOOKUP, 0, 0, -E_NOENT, 0);
    expect(&s, LINEAR_NO);
}

static void test_a_stale_read_is_refused(void **state)
{
    struct setup s = {.kind = HISTORY_DIRECTORY};
    op(&s, 1, 2, VERB_CREATE, 0, 7, 0, 0);
    op(&s, 3, 4, VERB_UNLINK, 0, 0, 0, 0);
    op(&s, 5, 6, VERB_CREATE, 0, 8, 0, 0);
    op(&s, 7, 8, VERB_LOOKUP, 0, 0, 0, 7);
    expect(&s, LINEAR_NO);
}

static void test_a_read_beside_a_change_may_see_either(void **state)
{
    for (unsigned seen = 0; seen < 2; seen++) {
        struct setup s = {.kind = HISTORY_DIRECTORY};
        op(&s, 1, 2, VERB_CREATE, 0, 7, 0, 0);
        op(&s, 3, 9, VERB_RENAME, 0, 1, 0, 0);
        op(&s, 4, 8, VERB_LOOKUP, seen, 0, 0, 7);
        expect(&s, LINEAR_YES);
    }
}

static void test_reads_do_not_go_back_in_time(void **state)
{
    struct setup s = {.kind = HISTORY_DIRECTORY};
    op(&s, 1, 2, VERB_CREATE, 0, 7, 0, 0);
    op(&s, 3, 20, VERB_RENAME, 0, 1, 0, 0);
    op(&s, 4, 5, VERB_LOOKUP, 1, 0, 0, 7);
    op(&s, 6, 7, VERB_LOOKUP, 0, 0, 0, 7);
    expect(&s, LINEAR_NO);
}

static void test_an_unknown_change_may_happen_late_once_or_never(void **state)
{
    static const int seen[][3] = {{-E_NOENT, -E_NOENT, 0}, {-E_NOENT, -E_NOENT, -E_NOENT}, {0, 0, 0}};
    for (size_t i = 0; i < ARRAY_SIZE(seen); i++) {
        struct setup s = {.kind = HISTORY_DIRECTORY};
        op(&s, 1, 0, VERB_CREATE, 0, 7, 0, 0);
        for (unsigned j = 0; j < 3; j++)
            op(&s, 10 + 2 * j, 11 + 2 * j, VERB_LOOKUP, 0, 0, seen[i][j], 7);
        expect(&s, LINEAR_YES);
    }
    struct setup s = {.kind = HISTORY_DIRECTORY};
    op(&s, 1, 0, VERB_CREATE, 0, 7, 0, 0);
    op(&s, 2, 3, VERB_LOOKUP, 0, 0, 0, 7);
    op(&s, 4, 5, VERB_UNLINK, 0, 0, 0, 0);
    op(&s, 6, 7, VERB_LOOKUP, 0, 0, 0, 7); /* it happened twice */
    expect(&s, LINEAR_NO);
}

static void test_a_rename_is_never_half_seen(void **state)
{
    struct setup s = {.kind = HISTORY_DIRECTORY};
    op(&s, 1, 2, VERB_CREATE, 0, 7, 0, 0);
    op(&s, 3, 9, VERB_RENAME, 0, 1, 0, 0);
    op(&s, 4, 5, VERB_LIST, 0, 0, 0, 7);
    s.history.ops[2].result[1] = 7; /* under both names */
    expect(&s, LINEAR_NO);
}

/* ---- sizes */

static void test_an_append_that_ran_twice_is_refused(void **state)
{
    struct setup s = {.kind = HISTORY_SIZE};
    op(&s, 1, 2, VERB_APPEND, 10, 0, 0, 10);
    op(&s, 3, 4, VERB_STAT, 0, 0, 0, 20);
    expect(&s, LINEAR_NO);
}

static void test_a_lost_append_is_refused(void **state)
{
    struct setup s = {.kind = HISTORY_SIZE};
    op(&s, 1, 4, VERB_APPEND, 10, 0, 0, 10);
    op(&s, 2, 3, VERB_APPEND, 5, 0, 0, 5);
    expect(&s, LINEAR_NO);
}

static void test_appends_in_any_order_are_accepted(void **state)
{
    struct setup s = {.kind = HISTORY_SIZE};
    op(&s, 1, 9, VERB_APPEND, 10, 0, 0, 15);
    op(&s, 2, 8, VERB_APPEND, 5, 0, 0, 5);
    op(&s, 3, 0, VERB_CUT, 3, 0, 0, 0);
    op(&s, 10, 11, VERB_STAT, 0, 0, 0, 3);
    op(&s, 12, 13, VERB_GROW, 2, 0, 0, 3);
    expect(&s, LINEAR_YES);
}

/* ---- locks */

static void test_two_holders_are_refused(void **state)
{
    struct setup s = {.kind = HISTORY_LOCK};
    lock_op(&s, 1, 2, VERB_LOCK, 1, 1, 0, 0);
    lock_op(&s, 3, 4, VERB_LOCK, 2, 1, 0, 0);
    expect(&s, LINEAR_NO);
}

static void test_a_lock_passes_on_when_its_session_ends(void **state)
{
    struct setup s = {.kind = HISTORY_LOCK};
    lock_op(&s, 1, 2, VERB_LOCK, 1, 1, 0, 0);
    lock_op(&s, 2, 9, VERB_EXPIRE, 1, 0, 0, 0);
    lock_op(&s, 3, 8, VERB_LOCK, 2, 1, 0, 0);
    lock_op(&s, 10, 11, VERB_WRITE, 2, 5, 0, 0);
    lock_op(&s, 12, 13, VERB_READ, 2, 5, 0, 0);
    expect(&s, LINEAR_YES);
}

static void test_a_write_after_the_lock_went_on_is_refused(void **state)
{
    struct setup s = {.kind = HISTORY_LOCK};
    lock_op(&s, 1, 2, VERB_LOCK, 1, 1, 0, 0);
    lock_op(&s, 2, 0, VERB_EXPIRE, 1, 0, 0, 0);
    lock_op(&s, 3, 4, VERB_LOCK, 2, 1, 0, 0);
    lock_op(&s, 5, 6, VERB_WRITE, 1, 5, 0, 0);
    expect(&s, LINEAR_NO);
}

static void test_shared_locks_overlap_and_keep_writers_out(void **state)
{
    struct setup s = {.kind = HISTORY_LOCK};
    lock_op(&s, 1, 2, VERB_LOCK, 1, 0, 0, 0);
    lock_op(&s, 3, 4, VERB_LOCK, 2, 0, 0, 0);
    lock_op(&s, 5, 6, VERB_LOCK, 3, 1, 1, -E_WOULDBLOCK);
    lock_op(&s, 7, 8, VERB_UNLOCK, 1, 0, 0, 0);
    lock_op(&s, 9, 10, VERB_UNLOCK, 2, 0, 0, 0);
    lock_op(&s, 11, 12, VERB_LOCK, 3, 1, 1, 0);
    expect(&s, LINEAR_YES);
    s.kind = HISTORY_LOCK;
    lock_op(&s, 1, 2, VERB_LOCK, 3, 1, 1, -E_WOULDBLOCK); /* nobody has it */
    expect(&s, LINEAR_NO);
}

/* ---- the search */

static void test_a_bound_makes_the_search_give_up(void **state)
{
    struct setup s = {.kind = HISTORY_SIZE};
    for (unsigned i = 0; i < 30; i++)
        op(&s, 1, 0, VERB_APPEND, UINT64_C(1) << i, 0, 0, 0);
    op(&s, 2, 3, VERB_STAT, 0, 0, 0, (UINT64_C(1) << 31)); /* no sum of them */
    struct linear_report report;
    assert_int_equal(linear_check(&s.history, 10000, &report), LINEAR_UNDECIDED);
    free(report.bad);
    history_fini(&s.history);
}

/* What a real object gave, drawn with overlapping times, is accepted; with one result changed it mostly is not. */
static void test_drawn_histories(void **state)
{
    unsigned refused = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct prng prng = prng_init(seed);
        struct setup s = {.kind = HISTORY_SIZE};
        uint64_t size = 0;
        for (uint64_t t = 100; t < 100 + 60 * 10; t += 10) {
            uint64_t n = 1 + prng_below(&prng, 9);
            op(&s, t - prng_below(&prng, 40), t + 1 + prng_below(&prng, 40), VERB_APPEND, n, 0, 0, size += n);
        }
        struct linear_report report;
        assert_int_equal(linear_check(&s.history, 1000000, &report), LINEAR_YES);
        s.history.ops[prng_below(&prng, 60)].result[0]++;
        refused += linear_check(&s.history, 1000000, &report) == LINEAR_NO;
        free(report.bad);
        history_fini(&s.history);
    }
    assert_true(refused == 300);
}

static int run_check(const char *text)
{
    char path[] = "/tmp/tarn-history-XXXXXX", command[512];
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    snprintf(command, sizeof command, "'%s' '%s' >/dev/null 2>&1", check_program, path);
    int status = system(command);
    unlink(path);
    return WEXITSTATUS(status);
}

static void test_the_program_reads_what_is_printed(void **state)
{
    assert_int_equal(run_check("directory 0 1 create 0 7 0 1 2 0 0 0 0 0\ndirectory 0 1 list 0 0 0 3 4 0 7 0 0 0\n"), 0);
    assert_int_equal(run_check("directory 0 1 create 0 7 0 1 - 0 0 0 0 0\ndirectory 0 1 list 0 0 0 3 4 0 8 0 0 0\n"), 1);
    assert_int_equal(run_check("directory 0 1 create 0 7 0 2 1 0 0 0 0 0\n"), 2);
    assert_int_equal(run_check("directory 0 1 make 0 7 0 1 2 0 0 0 0 0\n"), 2);
    assert_int_equal(run_check(""), 2);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlapping_creates_have_one_winner),
        cmocka_unit_test(test_two_winners_of_an_exclusive_create_are_refused),
        cmocka_unit_test(test_a_lost_create_is_refused),
        cmocka_unit_test(test_a_stale_read_is_refused),
        cmocka_unit_test(test_a_read_beside_a_change_may_see_either),
        cmocka_unit_test(test_reads_do_not_go_back_in_time),
        cmocka_unit_test(test_an_unknown_change_may_happen_late_once_or_never),
        cmocka_unit_test(test_a_rename_is_never_half_seen),
        cmocka_unit_test(test_an_append_that_ran_twice_is_refused),
        cmocka_unit_test(test_a_lost_append_is_refused),
        cmocka_unit_test(test_appends_in_any_order_are_accepted),
        cmocka_unit_test(test_two_holders_are_refused),
        cmocka_unit_test(test_a_lock_passes_on_when_its_session_ends),
        cmocka_unit_test(test_a_write_after_the_lock_went_on_is_refused),
        cmocka_unit_test(test_shared_locks_overlap_and_keep_writers_out),
        cmocka_unit_test(test_a_bound_makes_the_search_give_up),
        cmocka_unit_test(test_drawn_histories),
        cmocka_unit_test(test_the_program_reads_what_is_printed),
    };
    if (argc != 2) {
        fprintf(stderr, "usage: history_test HISTORY-CHECK\n");
        return 2;
    }
    check_program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
