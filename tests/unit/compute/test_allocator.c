/* The allocator's rules, one a test. Times are microseconds; the default rates make 64 MiB worth a wait
 * of about 134 ms for a holder (rack against local), 403 ms more before any node is taken. */
#include "compute/allocator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

#define CHUNK MIB(64)

static struct alloc *alloc;
static struct alloc_group group;

static int begin(void **state)
{
    group = (struct alloc_group){.tenant = 1000, .mean_us = 20000000};
    return alloc_create(NULL, &alloc);
}

static int end(void **state)
{
    alloc_destroy(alloc);
    return 0;
}

static struct alloc_task task_on(unsigned n, const uint32_t *nodes)
{
    struct alloc_task task = {.group = &group, .bytes = CHUNK, .n_holders = n};
    for (unsigned i = 0; i < n; i++)
        task.holders[i] = (struct alloc_holder){nodes[i], CHUNK};
    return task;
}
#define TASK_ON(...) task_on(sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t), (uint32_t[]){__VA_ARGS__})

/* The node of the next binding, 0 when there is none. */
static uint32_t bound(struct alloc_task *expected)
{
    uint32_t node = 0;
    struct alloc_task *task = alloc_next(alloc, &node);
    if (task != NULL)
        assert_ptr_equal(task, expected);
    return node;
}

static void a_task_goes_to_its_least_loaded_holder(void **state)
{
    struct alloc_task first = TASK_ON(1), second = TASK_ON(1, 2, 3);
    alloc_node_up(alloc, 1, 1, 2, 0);
    alloc_node_up(alloc, 2, 1, 2, 0);
    alloc_node_up(alloc, 3, 2, 3, 0);
    alloc_task_ready(alloc, &first, 0);
    assert_int_equal(bound(&first), 1);
    alloc_task_ready(alloc, &second, 0);
    assert_int_equal(bound(&second), 3);
    assert_int_equal(second.level, ALLOC_LOCAL);
}

static void more_local_bytes_win_over_less_load(void **state)
{
    struct alloc_task task = TASK_ON(1, 2);
    task.holders[0].bytes = CHUNK / 2;
    alloc_node_up(alloc, 1, 1, 8, 0);
    alloc_node_up(alloc, 2, 1, 1, 0);
    alloc_task_ready(alloc, &task, 0);
    assert_int_equal(bound(&task), 2);
}

static void it_waits_for_a_holder_then_its_rack_then_any_node(void **state)
{
    struct alloc_task first = TASK_ON(1), second = TASK_ON(1), third = TASK_ON(1);
    alloc_node_up(alloc, 1, 1, 1, 0);
    alloc_node_up(alloc, 2, 1, 1, 0);
    alloc_node_up(alloc, 3, 2, 1, 0);
    alloc_task_ready(alloc, &first, 0);
    assert_int_equal(bound(&first), 1);
    alloc_task_ready(alloc, &second, 0);
    alloc_task_ready(alloc, &third, 1);
    assert_int_equal(bound(NULL), 0);
    assert_true(second.queued);
    uint64_t due = alloc_deadline(alloc);
    alloc_advance(alloc, due - 1);
    assert_int_equal(bound(NULL), 0);
    alloc_advance(alloc, due);
    assert_int_equal(bound(&second), 2);
    assert_int_equal(second.level, ALLOC_RACK);
    alloc_advance(alloc, due + 1);
    assert_int_equal(bound(NULL), 0); /* no idle node in the rack any more */
    alloc_advance(alloc, due + 1000000);
    assert_int_equal(bound(&third), 3);
    assert_int_equal(third.level, ALLOC_ANY);
}

static void a_freed_slot_takes_a_local_task_before_an_older_remote_one(void **state)
{
    struct alloc_task first = TASK_ON(1), remote = TASK_ON(2), local = TASK_ON(1);
    alloc_node_up(alloc, 1, 1, 1, 0);
    alloc_task_ready(alloc, &first, 0);
    assert_int_equal(bound(&first), 1);
    alloc_task_ready(alloc, &remote, 0);
    alloc_advance(alloc, 10000000);
    alloc_task_ready(alloc, &local, 10000000);
    alloc_task_end(alloc, &first, 0, 10000001);
    assert_int_equal(bound(&local), 1);
    alloc_task_end(alloc, &local, 0, 10000002);
    assert_int_equal(bound(&remote), 1);
}

static void the_tenant_with_fewer_running_tasks_goes_first(void **state)
{
    struct alloc_group other = {.tenant = 2000, .mean_us = 20000000};
    struct alloc_task running[2] = {TASK_ON(1), TASK_ON(1)}, mine = TASK_ON(1), theirs = {.group = &other};
    alloc_node_up(alloc, 1, 1, 2, 0);
    for (unsigned i = 0; i < 2; i++) {
        alloc_task_ready(alloc, &running[i], 0);
        assert_int_equal(bound(&running[i]), 1);
    }
    alloc_task_ready(alloc, &mine, 0);
    alloc_task_ready(alloc, &theirs, 1);
    alloc_task_end(alloc, &running[0], 0, 1000000);
    assert_int_equal(bound(&theirs), 1);
}

static void brief_tasks_are_handed_out_one_per_slot_ahead(void **state)
{
    struct alloc_task tasks[5];
    group.mean_us = ALLOC_AHEAD_TASK_US / 10;
    alloc_node_up(alloc, 1, 1, 2, 0);
    for (unsigned i = 0; i < 5; i++) {
        tasks[i] = TASK_ON(1);
        alloc_task_ready(alloc, &tasks[i], 0);
        assert_int_equal(bound(&tasks[i]), i < 4 ? 1 : 0);
    }
}

static void nothing_is_moved_ahead_of_a_slot(void **state)
{
    struct alloc_task tasks[2] = {TASK_ON(2), TASK_ON(2)};
    group.mean_us = ALLOC_AHEAD_TASK_US / 10;
    alloc_node_up(alloc, 1, 1, 1, 0);
    alloc_task_ready(alloc, &tasks[0], 0);
    alloc_task_ready(alloc, &tasks[1], 0);
    alloc_advance(alloc, 60000000);
    assert_int_equal(bound(&tasks[0]), 1);
    assert_int_equal(bound(NULL), 0);
}

static void a_node_that_comes_up_takes_what_waits(void **state)
{
    struct alloc_task task = TASK_ON(1), free_task = {.group = &group};
    alloc_task_ready(alloc, &task, 0);
    alloc_task_ready(alloc, &free_task, 0);
    alloc_node_up(alloc, 1, 1, 2, 5);
    assert_int_equal(bound(&task), 1);
    assert_int_equal(bound(&free_task), 1);
    assert_int_equal(free_task.level, ALLOC_NO_INPUT);
}

static void a_node_that_is_down_gets_nothing(void **state)
{
    struct alloc_task task = TASK_ON(1);
    alloc_node_up(alloc, 1, 1, 2, 0);
    alloc_node_down(alloc, 1);
    alloc_task_ready(alloc, &task, 0);
    alloc_advance(alloc, 60000000);
    assert_int_equal(bound(NULL), 0);
}

static void the_node_of_a_failed_attempt_is_avoided_unless_it_is_the_last(void **state)
{
    struct alloc_task task = TASK_ON(1, 2);
    task.avoid = 1;
    alloc_node_up(alloc, 1, 1, 8, 0);
    alloc_node_up(alloc, 2, 1, 1, 0);
    alloc_task_ready(alloc, &task, 0);
    assert_int_equal(bound(&task), 2);
    alloc_task_end(alloc, &task, 0, 1);
    alloc_node_down(alloc, 2);
    alloc_task_ready(alloc, &task, 2);
    assert_int_equal(bound(&task), 1);
}

static void a_dropped_task_leaves_no_trace(void **state)
{
    struct alloc_task running = TASK_ON(1), waiting = TASK_ON(1);
    alloc_node_up(alloc, 1, 1, 1, 0);
    alloc_task_ready(alloc, &running, 0);
    bound(&running);
    alloc_task_ready(alloc, &waiting, 0);
    alloc_task_end(alloc, &waiting, 0, 1);
    assert_true(alloc_deadline(alloc) == UINT64_MAX);
    alloc_task_end(alloc, &running, 0, 2);
    assert_int_equal(bound(NULL), 0);
    uint64_t slots, tasks;
    alloc_load(alloc, &slots, &tasks);
    assert_int_equal(slots, 1);
    assert_int_equal(tasks, 0);
}

static void adopted_tasks_count_against_the_slots(void **state)
{
    struct alloc_task adopted = TASK_ON(1), task = TASK_ON(1);
    alloc_task_adopt(alloc, &adopted, 1);
    alloc_node_up(alloc, 1, 1, 1, 0);
    alloc_task_ready(alloc, &task, 0);
    assert_int_equal(bound(NULL), 0);
    alloc_task_end(alloc, &adopted, 100, 1);
    assert_int_equal(bound(&task), 1);
}

/* Spark's issue 18886: timers re-armed by local launches leave other nodes idle for ever. */
static void waiting_tasks_spread_although_local_ones_keep_starting(void **state)
{
    static struct alloc_task tasks[50];
    unsigned elsewhere = 0;
    for (uint32_t node = 1; node <= 10; node++)
        alloc_node_up(alloc, node, node, 1, 0);
    for (unsigned i = 0; i < 50; i++) {
        tasks[i] = TASK_ON(1);
        alloc_task_ready(alloc, &tasks[i], 0);
    }
    alloc_advance(alloc, 2000000);
    for (uint32_t node; (alloc_next(alloc, &node)) != NULL;)
        elsewhere += node != 1;
    assert_int_equal(elsewhere, 9);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        T(a_task_goes_to_its_least_loaded_holder),
        T(more_local_bytes_win_over_less_load),
        T(it_waits_for_a_holder_then_its_rack_then_any_node),
        T(a_freed_slot_takes_a_local_task_before_an_older_remote_one),
        T(the_tenant_with_fewer_running_tasks_goes_first),
        T(brief_tasks_are_handed_out_one_per_slot_ahead),
        T(nothing_is_moved_ahead_of_a_slot),
        T(a_node_that_comes_up_takes_what_waits),
        T(a_node_that_is_down_gets_nothing),
        T(the_node_of_a_failed_attempt_is_avoided_unless_it_is_the_last),
        T(a_dropped_task_leaves_no_trace),
        T(adopted_tasks_count_against_the_slots),
        T(waiting_tasks_spread_although_local_ones_keep_starting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
