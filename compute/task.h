/* One attempt at one task on this node, as a fiber: carries out what attempt.h decides. Stages the input,
 * takes a slot, runs the sandbox, stores what it writes, commits, reports. Threads: the io's. */
#ifndef TARN_COMPUTE_TASK_H
#define TARN_COMPUTE_TASK_H

#include "attempt.h"
#include "collect.h"
#include "common/coll.h"
#include "common/fiber.h"
#include "slots.h"
#include "stage.h"

/* What tasks use of their agent. */
struct task_host {
    struct io *io;
    struct meta *meta;
    struct stores *stores;
    struct slots *slots;
    struct stage stage;
    struct fiber_group running;
    struct list tasks; /* struct task.list, in order of arrival */
    /* Delivers the report, waiting for the allocator as long as it takes. -E_CANCELED when stopping. */
    int (*report)(void *arg, const Tarn__TaskReport *report);
    void *arg;
};

struct task {
    struct list list;
    struct task_host *host;
    Tarn__TaskAssign *assign; /* owned */
    struct attempt attempt;
    struct slot *slot;        /* while STARTING and RUNNING */
    /* internal */
    struct stage_input input;
    struct stage_count count;
    struct fiber_group streams;
    int out_fd, err_fd, in_fd; /* our ends; each is closed by the fiber that uses it */
    int out_err, feed_err;
    struct collect_err errors;
    Tarn__NewObject *output, *stderr_object;
    char *output_path, *stderr_path;
    uint64_t staging_ns; /* how long; the others are points in time */
    uint64_t requested_ns, exec_ns, ended_ns, started_real_ns, cpu_us;
};

/* Takes over `assign` (also on failure) and starts the fiber. */
int task_start(struct task_host *host, Tarn__TaskAssign *assign);
/* Ends it wherever it is; it reports that it was killed. */
void task_kill(struct task *task);
bool task_is(const struct task *task, const Tarn__TaskKey *key); /* attempt included */

#endif
