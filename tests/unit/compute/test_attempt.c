/* Attempts: each test tells one story of a task and expects its verdict. */
#include "compute/attempt.h"

#include "common/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>

static enum attempt_action step(struct attempt *attempt, enum attempt_event_kind kind, int err)
{
    struct attempt_event event = {.kind = kind, .err = err};
    return attempt_step(attempt, &event);
}

static enum attempt_action end(struct attempt *attempt, struct attempt_exit exit)
{
    struct attempt_event event = {.kind = ATTEMPT_ENDED, .exit = exit};
    return attempt_step(attempt, &event);
}

static struct attempt running(uint32_t retries)
{
    struct attempt attempt;
    attempt_init(&attempt, 1000, retries);
    assert_int_equal(step(&attempt, ATTEMPT_ASSIGNED, 0), ATTEMPT_DO_STAGE);
    assert_int_equal(step(&attempt, ATTEMPT_STAGED, 0), ATTEMPT_DO_QUEUE);
    assert_int_equal(step(&attempt, ATTEMPT_SLOT, 0), ATTEMPT_DO_START);
    assert_int_equal(step(&attempt, ATTEMPT_STARTED, 0), ATTEMPT_DO_NOTHING);
    return attempt;
}

/* Runs a task that ends so, up to its commit. */
static struct attempt ended(struct attempt_exit exit, enum attempt_action expected)
{
    struct attempt attempt = running(0);
    assert_int_equal(end(&attempt, exit), ATTEMPT_DO_DRAIN);
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, 0), expected);
    return attempt;
}

static void success_commits_reports_and_is_over(void **state)
{
    struct attempt attempt = ended((struct attempt_exit){.status = 0}, ATTEMPT_DO_COMMIT);
    assert_false(attempt.failed);
    assert_null(attempt.code);
    assert_int_equal(step(&attempt, ATTEMPT_COMMITTED, 0), ATTEMPT_DO_REPORT);
    assert_true(attempt.committed);
    assert_int_equal(step(&attempt, ATTEMPT_REPORTED, 0), ATTEMPT_DO_FREE);
}

static void a_result_over_the_quota_is_the_users_failure_and_committed_without_it(void **state)
{
    struct attempt attempt = ended((struct attempt_exit){.status = 0}, ATTEMPT_DO_COMMIT);
    assert_int_equal(step(&attempt, ATTEMPT_COMMITTED, -E_DQUOT), ATTEMPT_DO_COMMIT);
    assert_true(attempt.failed && attempt.over_quota && !attempt.retry && !attempt.system_error);
    assert_string_equal(attempt.code, "QuotaExceededError");
    assert_int_equal(step(&attempt, ATTEMPT_COMMITTED, 0), ATTEMPT_DO_REPORT);
    assert_true(attempt.committed);
    attempt = running(3); /* the store of the output was refused already; another try would be, too */
    assert_int_equal(end(&attempt, (struct attempt_exit){.status = 0}), ATTEMPT_DO_DRAIN);
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, -E_DQUOT), ATTEMPT_DO_COMMIT);
    assert_int_equal(step(&attempt, ATTEMPT_COMMITTED, -E_DQUOT), ATTEMPT_DO_REPORT);
    assert_true(attempt.system_error && !attempt.committed);
}

static void an_exit_code_is_the_users_failure_and_is_committed(void **state)
{
    struct attempt attempt = ended((struct attempt_exit){.status = 3 << 8}, ATTEMPT_DO_COMMIT);
    assert_true(attempt.failed);
    assert_int_equal(attempt.exit_code, 3);
    assert_string_equal(attempt.code, "UserTaskError");
    assert_string_equal(attempt.why, "the command ended with exit code 3");
}

static void a_signal_is_named(void **state)
{
    struct attempt attempt = ended((struct attempt_exit){.status = SIGSEGV}, ATTEMPT_DO_COMMIT);
    assert_int_equal(attempt.signal, SIGSEGV);
    assert_string_equal(attempt.code, "UserTaskError");
}

static void a_core_fails_a_command_that_exits_with_zero(void **state)
{
    struct attempt attempt = ended((struct attempt_exit){.status = 0, .core = true}, ATTEMPT_DO_COMMIT);
    assert_true(attempt.failed);
    assert_string_equal(attempt.why, "a process of the task dumped core");
}

static void want_of_memory_has_its_own_code(void **state)
{
    struct attempt attempt =
        ended((struct attempt_exit){.status = 137 << 8, .out_of_memory = true}, ATTEMPT_DO_COMMIT);
    assert_string_equal(attempt.code, "TaskMemoryError");
}

static void a_failed_init_has_its_own_code(void **state)
{
    struct attempt attempt = ended((struct attempt_exit){.status = 1 << 8, .init_failed = true}, ATTEMPT_DO_COMMIT);
    assert_string_equal(attempt.code, "TaskInitError");
}

static void a_task_out_of_time_is_killed_and_failed(void **state)
{
    struct attempt attempt = running(0);
    assert_int_equal(step(&attempt, ATTEMPT_EXPIRED, 0), ATTEMPT_DO_KILL);
    assert_int_equal(end(&attempt, (struct attempt_exit){.status = SIGKILL}), ATTEMPT_DO_DRAIN);
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, 0), ATTEMPT_DO_COMMIT);
    assert_string_equal(attempt.code, "TaskTimeoutError");
}

static void a_retry_is_reported_not_committed(void **state)
{
    struct attempt attempt = running(1);
    end(&attempt, (struct attempt_exit){.status = 1 << 8});
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, 0), ATTEMPT_DO_REPORT);
    assert_true(attempt.retry);
    assert_false(attempt.committed);
}

static void a_sandbox_that_cannot_be_made_is_the_systems_failure(void **state)
{
    struct attempt attempt;
    attempt_init(&attempt, 0, 0);
    step(&attempt, ATTEMPT_ASSIGNED, 0);
    step(&attempt, ATTEMPT_STAGED, 0);
    step(&attempt, ATTEMPT_SLOT, 0);
    assert_int_equal(end(&attempt, (struct attempt_exit){.setup_errno = 28, .step = "/tmp"}), ATTEMPT_DO_DRAIN);
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, 0), ATTEMPT_DO_REPORT);
    assert_true(attempt.system_error);
    assert_string_equal(attempt.why, "/tmp: No space left on device");
}

static void a_missing_input_fails_the_task_an_unreachable_one_does_not(void **state)
{
    struct attempt attempt;
    attempt_init(&attempt, 0, 3);
    step(&attempt, ATTEMPT_ASSIGNED, 0);
    assert_int_equal(step(&attempt, ATTEMPT_STAGED, -E_NOENT), ATTEMPT_DO_COMMIT);
    assert_string_equal(attempt.code, "ResourceNotFoundError");
    attempt_init(&attempt, 0, 0);
    step(&attempt, ATTEMPT_ASSIGNED, 0);
    assert_int_equal(step(&attempt, ATTEMPT_STAGED, -E_UNAVAIL), ATTEMPT_DO_REPORT);
    assert_true(attempt.system_error);
}

static void an_input_that_fails_half_way_is_not_taken_for_its_end(void **state)
{
    struct attempt attempt = running(0);
    assert_int_equal(step(&attempt, ATTEMPT_STARVED, -E_UNAVAIL), ATTEMPT_DO_KILL);
    end(&attempt, (struct attempt_exit){.status = 0});
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, 0), ATTEMPT_DO_REPORT);
    assert_true(attempt.system_error);
}

static void output_that_cannot_be_stored_is_the_systems_failure(void **state)
{
    struct attempt attempt = running(0);
    end(&attempt, (struct attempt_exit){.status = 0});
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, -E_NOSPC), ATTEMPT_DO_REPORT);
    assert_true(attempt.system_error);
    assert_false(attempt.failed);
}

static void a_stale_commit_is_dropped_quietly(void **state)
{
    struct attempt attempt = ended((struct attempt_exit){.status = 0}, ATTEMPT_DO_COMMIT);
    assert_int_equal(step(&attempt, ATTEMPT_COMMITTED, -E_STALE), ATTEMPT_DO_REPORT);
    assert_false(attempt.committed);
    assert_false(attempt.system_error);
    assert_true(attempt.killed);
}

static void a_kill_works_in_every_state(void **state)
{
    static const struct {
        unsigned steps;
        enum attempt_action action;
    } cases[] = {{0, ATTEMPT_DO_REPORT}, {1, ATTEMPT_DO_NOTHING}, {2, ATTEMPT_DO_REPORT},  {3, ATTEMPT_DO_KILL},
                 {4, ATTEMPT_DO_KILL},   {5, ATTEMPT_DO_NOTHING}, {6, ATTEMPT_DO_NOTHING}, {7, ATTEMPT_DO_NOTHING}};
    static const enum attempt_event_kind path[] = {ATTEMPT_ASSIGNED, ATTEMPT_STAGED,  ATTEMPT_SLOT,     ATTEMPT_STARTED,
                                                   ATTEMPT_ENDED,    ATTEMPT_DRAINED, ATTEMPT_COMMITTED};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct attempt attempt;
        attempt_init(&attempt, 0, 0);
        for (unsigned j = 0; j < cases[i].steps; j++)
            step(&attempt, path[j], 0);
        assert_int_equal(step(&attempt, ATTEMPT_KILL, 0), cases[i].action);
    }
}

static void a_killed_task_is_never_committed(void **state)
{
    struct attempt attempt = running(0);
    step(&attempt, ATTEMPT_KILL, 0);
    end(&attempt, (struct attempt_exit){.status = SIGKILL});
    assert_int_equal(step(&attempt, ATTEMPT_DRAINED, 0), ATTEMPT_DO_REPORT);
    attempt_init(&attempt, 0, 0);
    step(&attempt, ATTEMPT_ASSIGNED, 0);
    step(&attempt, ATTEMPT_KILL, 0);
    assert_int_equal(step(&attempt, ATTEMPT_STAGED, 0), ATTEMPT_DO_REPORT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(success_commits_reports_and_is_over),
        cmocka_unit_test(a_result_over_the_quota_is_the_users_failure_and_committed_without_it),
        cmocka_unit_test(an_exit_code_is_the_users_failure_and_is_committed),
        cmocka_unit_test(a_signal_is_named),
        cmocka_unit_test(a_core_fails_a_command_that_exits_with_zero),
        cmocka_unit_test(want_of_memory_has_its_own_code),
        cmocka_unit_test(a_failed_init_has_its_own_code),
        cmocka_unit_test(a_task_out_of_time_is_killed_and_failed),
        cmocka_unit_test(a_retry_is_reported_not_committed),
        cmocka_unit_test(a_sandbox_that_cannot_be_made_is_the_systems_failure),
        cmocka_unit_test(a_missing_input_fails_the_task_an_unreachable_one_does_not),
        cmocka_unit_test(an_input_that_fails_half_way_is_not_taken_for_its_end),
        cmocka_unit_test(output_that_cannot_be_stored_is_the_systems_failure),
        cmocka_unit_test(a_stale_commit_is_dropped_quietly),
        cmocka_unit_test(a_kill_works_in_every_state),
        cmocka_unit_test(a_killed_task_is_never_committed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
