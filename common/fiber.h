/* Fibers: functions that wait for I/O without blocking the thread, so that a request is written as
 * straight-line code with cleanup attributes. Co-operative, one thread per scheduler, never moved
 * between threads. Everything that waits in Tarn's daemons waits here.
 *
 * A fiber runs until it calls something that waits (io_*, fiber_*wait*, fiber_sleep); between
 * two such calls it has the state of its thread to itself. Stacks are 256 KiB of address space with
 * a guard page: no large arrays on them, no recursion without a bound.
 * When a scheduler (a simulated host or a whole process) is stopped, every waiting call returns
 * -E_CANCELED at once and for ever: a fiber that sees it frees what it owns and returns. */
#ifndef TARN_COMMON_FIBER_H
#define TARN_COMMON_FIBER_H

#include "base.h"

struct io;
struct fiber;
typedef void (*fiber_fn)(void *arg);

/* Starts `fn(arg)` as a fiber of `io`; it first runs on a later turn of the loop, never inside this
 * call. `name` must be a literal. Errors: -E_NOMEM, -E_BUSY past the limit of fibers,
 * -E_CANCELED when io is stopping; then `fn` does not run and `arg` stays the caller's. */
int fiber_spawn(struct io *io, const char *name, fiber_fn fn, void *arg);
struct fiber *fiber_self(void); /* NULL outside any fiber */
struct io *fiber_io(void);      /* the io the running fiber belongs to */
void fiber_yield(void);         /* lets every other ready fiber run once */

/* The primitive under everything below and under io: suspend until fiber_wake(). A wake that comes
 * first is remembered (one, not counted). Returns 0 or -E_CANCELED. Callers loop on their condition. */
int fiber_suspend(void);
void fiber_wake(struct fiber *fiber); /* from the same thread only */

/* A list of waiting fibers. Zero-initialised is valid and empty. */
struct fiber_queue {
    struct fiber *head, *tail;
};
/* Waits until woken: 0; -E_TIMEOUT after timeout_ms (0 = for ever), -E_CANCELED when stopping. */
int fiber_queue_wait(struct fiber_queue *queue, uint64_t timeout_ms);
void fiber_queue_wake_one(struct fiber_queue *queue);
void fiber_queue_wake_all(struct fiber_queue *queue);

/* Mutual exclusion across waiting calls, first come first served. */
struct fiber_mutex {
    bool held;
    struct fiber_queue waiters;
};
int fiber_mutex_lock(struct fiber_mutex *mutex); /* 0 or -E_CANCELED, then not held */
void fiber_mutex_unlock(struct fiber_mutex *mutex);

/* Counts what is under way. wait returns when the count is zero. */
struct fiber_group {
    unsigned running;
    struct fiber_queue waiters;
};
void fiber_group_add(struct fiber_group *group);
void fiber_group_done(struct fiber_group *group);
void fiber_group_wait(struct fiber_group *group); /* also waits while stopping: members do end */

#endif
