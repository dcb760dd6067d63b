/* The parts of tarn-allocd. allocd.c: process, role, agents, the queue of tasks to start. run.c: the life
 * of one job. plan.c: which tasks a phase has and where their inputs are.
 * All state is soft: what is true of jobs and tasks is at the metadata service, what runs is at the
 * agents; a new holder of the role rebuilds this from both. Threads: the io's. */
#ifndef TARN_COMPUTE_ALLOCD_H
#define TARN_COMPUTE_ALLOCD_H

#include "allocator.h"
#include "client/meta.h"
#include "common/config.h"
#include "common/fiber.h"
#include "job.pb-c.h"

#define ALLOCD_SYSTEM_ATTEMPTS 4 /* of one task, lost by our fault; then it fails */
#define ALLOCD_AGENT_SILENT_MS 5000
#define ALLOCD_BEAT_MS 1000
#define ALLOCD_STARTERS 48       /* TASK_STARTs under way: one connection takes 256 requests */

struct run;

/* One agent, known by its node. Kept while the process lives. */
struct agent {
    uint32_t node;
    struct rpc_conn *conn; /* NULL: not connected */
    bool up;               /* said hello and was heard within ALLOCD_AGENT_SILENT_MS */
    uint64_t seen_ms;
    struct list tasks;     /* struct run_task.on_agent: RUNNING there as far as we know */
};

enum run_task_state {
    RUN_TASK_WAITING,  /* in the allocator, for a node */
    RUN_TASK_STARTING, /* has a node; TASK_START is due or under way */
    RUN_TASK_RUNNING,  /* its agent was told */
    RUN_TASK_OVER
};

struct run_task {
    struct alloc_task alloc;
    struct run *run;
    uint64_t index;
    enum run_task_state state;
    uint32_t attempt, node;
    uint32_t system_failures, user_failures;
    uint64_t pushed_ms;
    bool give_up; /* STARTING: not to be started again but to be committed as failed */
    char why[160];
    struct list starting, on_agent;
    /* its input, map only */
    char *path;
    uint64_t ino, version, size;
};

/* One live job and its current phase. */
struct run {
    struct allocd *allocd;
    uint64_t id;
    Tarn__Job *job; /* as last read */
    bool dirty;     /* it may have changed since */
    bool recovered; /* it ran before we knew it: task records exist */
    bool ending;    /* cancelled or resigned: nothing new is started */
    uint64_t read_ms;
    struct fiber_queue changed;
    unsigned phase;
    struct alloc_group group;
    struct run_task **tasks;
    size_t n_tasks, cap_tasks;
    size_t n_published; /* in the plan and handed to the allocator */
    size_t n_over;   /* of tasks */
    size_t n_busy;   /* STARTING or RUNNING */
    bool all_planned;
};

struct allocd {
    struct io *io;
    struct config config;
    struct meta *meta;
    char address[64];
    bool quit;            /* a signal asked us to end */
    struct fiber_queue quitting;
    bool active;          /* holds the role and has read what there is */
    bool synced;          /* every live job has a run */
    uint64_t role_epoch;
    struct alloc *alloc;
    struct map agents, runs;
    struct list starting; /* struct run_task.starting */
    struct fiber_queue starters, tick, watch;
    uint64_t armed_us;    /* when the tick fiber wakes by itself */
    struct fiber_group fibers, run_fibers;
    bool jobs_dirty;
    int signal_fd;
    int exit_code;
};

static inline uint64_t allocd_now_us(const struct allocd *allocd)
{
    return io_mono_ns(allocd->io) / 1000;
}

/* ---- allocd.c */
struct agent *allocd_agent(struct allocd *allocd, uint32_t node); /* NULL: no memory */
/* Takes what the allocator decided; call after everything that may have made it decide. */
void allocd_pump(struct allocd *allocd);
/* We do not hold the role any more: everything ends and begins again. Does not wait. */
void allocd_resign(struct allocd *allocd, const char *why);

/* ---- run.c */
int run_start(struct allocd *allocd, uint64_t job);
void run_touch(struct run *run); /* the job's record changed */
struct run_task *run_find(struct allocd *allocd, const Tarn__TaskKey *key); /* whatever its attempt */
/* A task whose attempt is no more (lost, or never reached its agent): it starts again or is given up. */
void run_task_lost(struct run_task *task, const char *why);
void run_task_ready(struct run_task *task);
void run_task_over(struct run_task *task, uint64_t ran_us);
/* Frees the tasks of the phase, which must be over or unpublished. */
void run_clear_tasks(struct run *run);

/* ---- plan.c */
/* Makes the tasks of run->phase that are not there yet, and the phase's plan at the metadata service.
 * run->all_planned tells whether more may come. New tasks are handed to the allocator. */
int plan_phase(struct run *run);

#endif
