/* Which node runs which task. Pure: no clock, no chance, no I/O; time comes in, bindings come out.
 * Cost is time: a task goes to the least loaded node that holds its bytes; when none has a free slot
 * it waits for one as long as that is cheaper than moving the bytes, first for its holders, then for
 * their racks, then takes any node (docs/protocols/job.md, "Where a task runs"). Timers count from the
 * task's own ready time and are never re-armed. Between tenants the one with fewer running tasks goes first.
 *
 * The caller embeds tasks and groups and owns them; the allocator owns its nodes.
 * Units: times are microseconds of any monotonic clock; bytes; bandwidth is bytes per second of one
 * task's share. Threads: one. Cost: O(holders × ALLOC_SCAN) per event. */
#ifndef TARN_COMPUTE_ALLOCATOR_H
#define TARN_COMPUTE_ALLOCATOR_H

#include "common/base.h"
#include "common/coll.h"

#define ALLOC_HOLDERS_MAX 8
#define ALLOC_TASK_RACKS_MAX 3 /* racks of one task's holders that are remembered */
#define ALLOC_SCAN 16          /* entries of a list looked at for one free slot */
/* Tasks shorter than this are handed out one per slot ahead, so that a slot need not wait for the
 * round trip to the allocator (about 1 ms); longer ones are bound late, when a slot is really free. */
#define ALLOC_AHEAD_TASK_US 100000

struct alloc;
struct alloc_node;
struct alloc_tenant;
struct alloc_task;

struct alloc_options {
    double price;                           /* of remote bytes; 0 = 1: what they cost in time */
    uint64_t local_bps, rack_bps, core_bps; /* 0 = 500, 250, 100 MB/s */
};

/* One phase of one job: tasks that resemble each other. Zero-initialise, set tenant. */
struct alloc_group {
    uint64_t tenant;
    uint64_t mean_us;            /* moving average of how long its tasks ran; 0 = not known yet */
    struct alloc_tenant *record; /* internal */
};

struct alloc_holder {
    uint32_t node;
    uint64_t bytes; /* of the task's input on that node */
};

enum alloc_state { ALLOC_IDLE, ALLOC_WAITING, ALLOC_BOUND };
/* How far the input is from the node the task was bound to. */
enum alloc_level { ALLOC_LOCAL, ALLOC_RACK, ALLOC_ANY, ALLOC_NO_INPUT };

struct alloc_link {
    struct list list;
    struct alloc_task *task;
};

struct alloc_task {
    /* The caller sets these while the task is ALLOC_IDLE. */
    struct alloc_group *group;
    uint64_t bytes;
    unsigned n_holders;
    struct alloc_holder holders[ALLOC_HOLDERS_MAX];
    uint32_t avoid; /* node whose attempt failed: taken only when it is the last one; 0 = none */
    /* Results. */
    enum alloc_state state;
    enum alloc_level level;
    bool queued; /* no holder was free when it became ready */
    /* Internal. */
    struct alloc_node *node;
    uint64_t ready_us;
    unsigned stage; /* timers gone by: 0 holders only, 1 racks, 2 anywhere */
    struct heap_node timer;
    struct alloc_link pending[ALLOC_HOLDERS_MAX];
    struct alloc_link racks[ALLOC_TASK_RACKS_MAX];
    struct alloc_link queue; /* of tasks that may run anywhere, or of bindings to hand out */
};

int alloc_create(const struct alloc_options *options, struct alloc **ret);
void alloc_destroy(struct alloc *alloc); /* tasks stay the caller's */

/* A node joins, comes back or changes its slots; racks are compared by number. -E_NOMEM. */
int alloc_node_up(struct alloc *alloc, uint32_t node, uint32_t rack, uint32_t slots, uint64_t now_us);
/* No new tasks for it. The caller ends the tasks it considers lost with alloc_task_end(). */
void alloc_node_down(struct alloc *alloc, uint32_t node);
/* Slots that are up, and tasks bound. */
void alloc_load(const struct alloc *alloc, uint64_t *ret_slots, uint64_t *ret_bound);

/* The task (ALLOC_IDLE) may run now. -E_NOMEM: it stays idle. */
int alloc_task_ready(struct alloc *alloc, struct alloc_task *task, uint64_t now_us);
/* The task runs on `node` already (an allocator took over). */
int alloc_task_adopt(struct alloc *alloc, struct alloc_task *task, uint32_t node);
/* Whatever it was, it is ALLOC_IDLE now: a bound one gives its slot back, a waiting one is dropped.
 * ran_us: how long it ran, for the mean; 0 = it did not run to its end. */
void alloc_task_end(struct alloc *alloc, struct alloc_task *task, uint64_t ran_us, uint64_t now_us);

/* Timers: when alloc_advance() is due (UINT64_MAX = never). */
uint64_t alloc_deadline(const struct alloc *alloc);
void alloc_advance(struct alloc *alloc, uint64_t now_us);

/* The next binding decided by the calls above, oldest first; NULL when there is none. */
struct alloc_task *alloc_next(struct alloc *alloc, uint32_t *ret_node);

#endif
