/* Records of jobs, their inputs and tasks. The allocator decides what runs where; here is what is
 * true: which attempt of a task is the current one, and that only it can commit, once (J1-J4 in
 * docs/invariants.md). A task without a record is ready and was never started. Threads: the
 * transaction's. */
#ifndef TARN_METADATA_JOBQ_H
#define TARN_METADATA_JOBQ_H

#include "tables.h"

#define JOBQ_ROLE                                                                                  \
    "allocator" /* JOB_PLAN, JOB_FINISH and TASK_START carry the epoch of its holder */
#define JOBQ_PHASES_MAX 64
#define JOBQ_TASKS_MAX 10000000ull /* of one phase */

int jobq_cmd_create(struct tables *t, const void *message);
int jobq_cmd_inputs(struct tables *t, const void *message);
int jobq_cmd_cancel(struct tables *t, const void *message);
int jobq_cmd_finish(struct tables *t, const void *message);
int jobq_cmd_plan(struct tables *t, const void *message);
int jobq_cmd_task_start(struct tables *t, const void *message);
int jobq_cmd_task_commit(struct tables *t, const void *message);
int jobq_query_get(struct tables *t, const void *message);
int jobq_query_list(struct tables *t, const void *message);
int jobq_query_inputs(struct tables *t, const void *message);
int jobq_query_tasks(struct tables *t, const void *message);

#endif
