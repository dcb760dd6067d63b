/* The allocator over a simulated cluster: 1,000 nodes of 10 slots in racks of 40, chunks with 3 copies in
 * different racks, jobs of mixed sizes arriving at random up to 80 % load, tasks of exponential length
 * (mean 20 s). Seeded; prints what it measured. With price 1 a task waits only as long as moving its bytes
 * would take (134 ms), with price 8 up to a second: facts for choosing it, and a bound for each. */
#include "common/coll.h"
#include "common/prng.h"
#include "compute/allocator.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#define NODES 1000u
#define SLOTS 10u
#define RACK_NODES 40u
#define COPIES 3u
#define TASKS 200000u
#define TENANTS 50u
#define MEAN_TASK_S 20.0
#define LOAD 0.8

struct job {
    struct alloc_group group;
    unsigned tasks_left;
};

struct task {
    struct alloc_task alloc;
    struct heap_node end;
    struct job *job;
    uint64_t run_us;
};

struct sim {
    struct prng prng;
    struct alloc *alloc;
    struct heap ends;
    uint64_t now_us;
    unsigned made, done;
    unsigned long level[4], queued, queued_local;
};

static double draw(struct sim *sim)
{
    return ((double)(prng_u64(&sim->prng) >> 11) + 0.5) / 9007199254740992.0;
}

static double draw_exponential(struct sim *sim, double mean)
{
    return -mean * log(draw(sim));
}

/* 65 % one task, 9 % 2–10, 16 % 10–228, 10 % up to 830, a twelfth of the slots: the shape of the Facebook
 * traces, cut so that a job is to this cluster what it was to theirs. */
static unsigned draw_job_size(struct sim *sim)
{
    double kind = draw(sim), u = draw(sim);
    if (kind < 0.65)
        return 1;
    if (kind < 0.74)
        return 2 + (unsigned)(u * 9);
    if (kind < 0.90)
        return 10 + (unsigned)(u * 219);
    return (unsigned)exp(log(228) + u * (log(830) - log(228)));
}

static void start_bound(struct sim *sim)
{
    uint32_t node;
    struct alloc_task *bound;
    while ((bound = alloc_next(sim->alloc, &node)) != NULL) {
        struct task *task = container_of(bound, struct task, alloc);
        task->end.key = sim->now_us + task->run_us;
        assert_int_equal(heap_push(&sim->ends, &task->end), 0);
    }
}

static void end_first(struct sim *sim)
{
    struct heap_node *first = heap_peek(&sim->ends);
    struct task *task = container_of(first, struct task, end);
    heap_remove(&sim->ends, first);
    bool queued = task->alloc.queued;
    sim->level[task->alloc.level]++;
    sim->queued += queued;
    sim->queued_local += queued && task->alloc.level == ALLOC_LOCAL;
    alloc_task_end(sim->alloc, &task->alloc, task->run_us, sim->now_us);
    sim->done++;
    if (--task->job->tasks_left == 0)
        free(task->job);
    free(task);
}

static void place(struct sim *sim, struct alloc_task *task)
{
    task->n_holders = COPIES;
    for (unsigned i = 0; i < COPIES; i++) {
        bool again;
        do {
            uint32_t node = (uint32_t)(prng_u64(&sim->prng) % NODES);
            again = false;
            for (unsigned j = 0; j < i; j++)
                again |= (task->holders[j].node - 1) / RACK_NODES == node / RACK_NODES;
            task->holders[i] = (struct alloc_holder){node + 1, MIB(64)};
        } while (again);
    }
}

static void submit(struct sim *sim, unsigned size)
{
    struct job *job = calloc(1, sizeof *job);
    assert_non_null(job);
    job->group.tenant = prng_u64(&sim->prng) % TENANTS;
    job->tasks_left = size;
    for (unsigned i = 0; i < size; i++) {
        struct task *task = calloc(1, sizeof *task);
        assert_non_null(task);
        task->job = job;
        task->run_us = 1 + (uint64_t)draw_exponential(sim, MEAN_TASK_S * 1e6);
        task->alloc.group = &job->group;
        task->alloc.bytes = MIB(64);
        place(sim, &task->alloc);
        assert_int_equal(alloc_task_ready(sim->alloc, &task->alloc, sim->now_us), 0);
    }
    sim->made += size;
}

/* The mean of draw_job_size(), measured: arrival times follow from it and the load. */
static double mean_job_size(uint64_t seed)
{
    struct sim sim = {0};
    double sum = 0;
    sim.prng = prng_init(seed);
    for (unsigned i = 0; i < 100000; i++)
        sum += draw_job_size(&sim);
    return sum / 100000;
}

static void run(struct sim *sim, uint64_t seed, double price)
{
    struct alloc_options options = {.price = price};
    double gap_us = mean_job_size(seed) * MEAN_TASK_S * 1e6 / (NODES * SLOTS * LOAD);
    uint64_t next_job = 0;
    sim->prng = prng_init(seed);
    assert_int_equal(alloc_create(&options, &sim->alloc), 0);
    for (uint32_t node = 0; node < NODES; node++)
        alloc_node_up(sim->alloc, node + 1, node / RACK_NODES, SLOTS, 0);
    while (sim->made < TASKS || sim->done < sim->made) {
        const struct heap_node *first = heap_peek(&sim->ends);
        uint64_t end = first != NULL ? first->key : UINT64_MAX;
        uint64_t arrival = sim->made < TASKS ? next_job : UINT64_MAX;
        uint64_t timer = alloc_deadline(sim->alloc);
        sim->now_us = MIN(end, arrival);
        sim->now_us = MIN(sim->now_us, timer);
        assert_true(sim->now_us != UINT64_MAX);
        if (timer <= sim->now_us) {
            alloc_advance(sim->alloc, sim->now_us);
        } else if (end <= sim->now_us) {
            end_first(sim);
        } else {
            submit(sim, draw_job_size(sim));
            next_job += (uint64_t)draw_exponential(sim, gap_us);
        }
        start_bound(sim);
    }
    uint64_t slots, bound;
    alloc_load(sim->alloc, &slots, &bound);
    assert_int_equal(bound, 0);
    heap_fini(&sim->ends);
    alloc_destroy(sim->alloc);
}

static double local_share(double price)
{
    const char *text = getenv("TARN_SEED");
    uint64_t seed = text != NULL ? strtoull(text, NULL, 0) : 1;
    struct sim sim = {0};
    run(&sim, seed, price);
    double local = 100.0 * (double)sim.level[ALLOC_LOCAL] / sim.done;
    print_message("seed %llu, price %.0f: %u tasks, node %.2f %%, rack %.2f %%, any %.2f %%; of the %lu that waited, "
                  "node %.2f %%\n",
                  (unsigned long long)seed, price, sim.done, local, 100.0 * (double)sim.level[ALLOC_RACK] / sim.done,
                  100.0 * (double)sim.level[ALLOC_ANY] / sim.done, sim.queued,
                  sim.queued != 0 ? 100.0 * (double)sim.queued_local / (double)sim.queued : 100.0);
    return local;
}

static void nine_of_ten_tasks_run_on_a_holder_when_time_is_all(void **state)
{
    assert_true(local_share(1) >= 90.0);
}

static void nineteen_of_twenty_do_when_remote_bytes_cost_eight_times(void **state)
{
    assert_true(local_share(8) >= 95.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nine_of_ten_tasks_run_on_a_holder_when_time_is_all),
        cmocka_unit_test(nineteen_of_twenty_do_when_remote_bytes_cost_eight_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
