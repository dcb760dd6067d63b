/* The scheduler. States of a fiber and what ends them:
 *
 *   READY ──run──> RUNNING ──fiber_suspend──> SUSPENDED ──fiber_wake, stop──> READY
 *                     │─────core_wait───────> WAITING ───queue, timer, stop─> READY
 *                     │─────core_wait, core_park───> PARKED ──queue, timer, core_unpark──> READY
 *                     └─────return──────────> ENDED
 *
 * Control goes from the loop to a fiber and back, never from fiber to fiber. */
#include "io_core.h"
#include <stdio.h>

enum fiber_state { FIBER_READY, FIBER_RUNNING, FIBER_SUSPENDED, FIBER_WAITING, FIBER_PARKED, FIBER_ENDED };

struct fiber {
    unsigned magic;
    enum fiber_state state;
    bool wake_kept; /* fiber_wake() came before fiber_suspend() */
    struct io *io;
    const char *name;
    fiber_fn fn;
    void *arg;
    void *stack;
    struct fiber *ready_next;
    struct list all; /* in io->fibers */
    /* While in a queue; `queue` is NULL as soon as the queue has woken it. */
    struct fiber_queue *queue;
    struct fiber *queue_next, *queue_prev;
    struct core_timer timer;
    struct fiber_context context;
};

static __thread struct fiber *current;

struct fiber *fiber_self(void)
{
    return current;
}

struct io *fiber_io(void)
{
    return current != NULL ? current->io : NULL;
}

void core_init(struct io *io, const struct io_ops *ops, unsigned fibers_max)
{
    memset(io, 0, sizeof *io);
    io->magic = IO_MAGIC;
    io->ops = ops;
    io->fibers_max = fibers_max != 0 ? fibers_max : IO_FIBERS_DEFAULT;
    list_init(&io->fibers);
}

void core_trim(struct io *io)
{
    while (io->n_stacks > 0)
        fiber_stack_unmap(io->stacks[--io->n_stacks]);
}

void core_fini(struct io *io)
{
    CHECK_MAGIC(io, IO_MAGIC);
    if (io->n_fibers != 0)
        core_report(io);
    CHECK(io->n_fibers == 0);
    core_trim(io);
    CHECK(heap_peek(&io->timers) == NULL);
    heap_fini(&io->timers);
    io->magic = 0;
}

void core_report(struct io *io)
{
    static const char *const names[] = {"ready", "running", "suspended", "waiting", "parked", "ended"};
    list_foreach(&io->fibers, it) {
        const struct fiber *fiber = list_entry(it, struct fiber, all);
        fprintf(stderr, "fiber '%s' is still %s\n", fiber->name, names[fiber->state]);
    }
}

static void make_ready(struct fiber *fiber)
{
    CHECK_MAGIC(fiber, FIBER_MAGIC);
    if (fiber->state == FIBER_READY || fiber->state == FIBER_RUNNING)
        return;
    CHECK(fiber->state != FIBER_ENDED);
    struct io *io = fiber->io;
    fiber->state = FIBER_READY;
    fiber->ready_next = NULL;
    if (io->ready_tail != NULL)
        io->ready_tail->ready_next = fiber;
    else
        io->ready_head = fiber;
    io->ready_tail = fiber;
    io->n_ready++;
}

static void fiber_main(void)
{
    struct fiber *fiber = current;
    fiber_context_entered(&fiber->io->loop);
    fiber->fn(fiber->arg);
    fiber->state = FIBER_ENDED;
    fiber_context_switch(&fiber->context, &fiber->io->loop, true);
    CHECK(!"an ended fiber runs");
}

static void *stack_get(struct io *io)
{
    return io->n_stacks > 0 ? io->stacks[--io->n_stacks] : fiber_stack_map();
}

static void stack_put(struct io *io, void *stack)
{
    if (io->n_stacks < CORE_STACKS_KEPT)
        io->stacks[io->n_stacks++] = stack;
    else
        fiber_stack_unmap(stack);
}

static void timer_fired(struct core_timer *timer)
{
    make_ready(container_of(timer, struct fiber, timer));
}

int fiber_spawn(struct io *io, const char *name, fiber_fn fn, void *arg)
{
    CHECK_MAGIC(io, IO_MAGIC);
    if (io->stopping)
        return -E_CANCELED;
    if (io->n_fibers >= io->fibers_max)
        return -E_BUSY;
    struct fiber *fiber = calloc(1, sizeof *fiber);
    if (fiber == NULL)
        return -E_NOMEM;
    fiber->stack = stack_get(io);
    if (fiber->stack == NULL) {
        free(fiber);
        return -E_NOMEM;
    }
    fiber->magic = FIBER_MAGIC;
    fiber->state = FIBER_PARKED;
    fiber->io = io;
    fiber->name = name;
    fiber->fn = fn;
    fiber->arg = arg;
    core_timer_init(&fiber->timer, timer_fired);
    fiber_context_init(&fiber->context, fiber->stack, fiber_main);
    list_append(&io->fibers, &fiber->all);
    io->n_fibers++;
    make_ready(fiber);
    return 0;
}

static void fiber_free(struct fiber *fiber)
{
    struct io *io = fiber->io;
    CHECK(fiber->queue == NULL);
    list_remove(&fiber->all);
    io->n_fibers--;
    fiber_context_fini(&fiber->context);
    stack_put(io, fiber->stack);
    fiber->magic = 0;
    free(fiber);
}

static void run_one(struct io *io)
{
    struct fiber *fiber = io->ready_head;
    io->ready_head = fiber->ready_next;
    if (io->ready_head == NULL)
        io->ready_tail = NULL;
    io->n_ready--;
    CHECK(fiber->state == FIBER_READY);
    fiber->state = FIBER_RUNNING;
    io->slice = 0;
    io->running = current = fiber;
    fiber_context_switch(&io->loop, &fiber->context, false);
    io->running = current = NULL;
    if (fiber->state == FIBER_ENDED)
        fiber_free(fiber);
}

void core_run_ready(struct io *io)
{
    CHECK(current == NULL); /* loops do not nest */
    for (size_t n = io->n_ready; n > 0; n--)
        run_one(io);
}

static void switch_out(struct fiber *fiber, enum fiber_state state)
{
    fiber->state = state;
    fiber_context_switch(&fiber->context, &fiber->io->loop, false);
}

/* The running fiber, which must be one of `io`. */
static struct fiber *running(const struct io *io)
{
    CHECK(current != NULL); /* a call that waits, outside any fiber */
    CHECK(io == NULL || current->io == io);
    return current;
}

void fiber_yield(void)
{
    struct fiber *fiber = running(NULL);
    fiber->state = FIBER_PARKED;
    make_ready(fiber);
    switch_out(fiber, FIBER_READY);
}

int fiber_suspend(void)
{
    struct fiber *fiber = running(NULL);
    if (fiber->io->stopping)
        return -E_CANCELED;
    if (!fiber->wake_kept)
        switch_out(fiber, FIBER_SUSPENDED);
    fiber->wake_kept = false;
    return fiber->io->stopping ? -E_CANCELED : 0;
}

void fiber_wake(struct fiber *fiber)
{
    CHECK_MAGIC(fiber, FIBER_MAGIC);
    fiber->wake_kept = true;
    if (fiber->state == FIBER_SUSPENDED)
        make_ready(fiber);
}

void core_stop(struct io *io)
{
    io->stopping = true;
    list_foreach(&io->fibers, it) {
        struct fiber *fiber = list_entry(it, struct fiber, all);
        if (fiber->state == FIBER_SUSPENDED || fiber->state == FIBER_WAITING)
            make_ready(fiber);
    }
}

void core_park(struct io *io)
{
    switch_out(running(io), FIBER_PARKED);
}

void core_unpark(struct fiber *fiber)
{
    CHECK_MAGIC(fiber, FIBER_MAGIC);
    if (fiber->state == FIBER_PARKED)
        make_ready(fiber);
}

void core_spend(struct io *io, unsigned cost)
{
    io->slice += cost;
    if (io->slice >= CORE_SLICE && io->running != NULL)
        fiber_yield();
}

/* ---- queues ---- */

static void queue_append(struct fiber_queue *queue, struct fiber *fiber)
{
    fiber->queue = queue;
    fiber->queue_next = NULL;
    fiber->queue_prev = queue->tail;
    if (queue->tail != NULL)
        queue->tail->queue_next = fiber;
    else
        queue->head = fiber;
    queue->tail = fiber;
}

static void queue_remove(struct fiber *fiber)
{
    struct fiber_queue *queue = fiber->queue;
    if (fiber->queue_prev != NULL)
        fiber->queue_prev->queue_next = fiber->queue_next;
    else
        queue->head = fiber->queue_next;
    if (fiber->queue_next != NULL)
        fiber->queue_next->queue_prev = fiber->queue_prev;
    else
        queue->tail = fiber->queue_prev;
    fiber->queue = NULL;
    fiber->queue_next = fiber->queue_prev = NULL;
}

int core_wait(struct io *io, struct fiber_queue *queue, uint64_t deadline_ns, bool cancelable)
{
    struct fiber *fiber = running(io);
    if (cancelable && io->stopping)
        return -E_CANCELED;
    if (deadline_ns != CORE_NEVER) {
        int r = core_timer_start(io, &fiber->timer, deadline_ns);
        if (r < 0)
            return r;
    }
    queue_append(queue, fiber);
    switch_out(fiber, cancelable ? FIBER_WAITING : FIBER_PARKED);
    core_timer_stop(io, &fiber->timer);
    if (fiber->queue == NULL)
        return 0; /* woken, even if the deadline or the stop came in the same turn: no wake is lost */
    queue_remove(fiber);
    return cancelable && io->stopping ? -E_CANCELED : -E_TIMEOUT;
}

int fiber_queue_wait(struct fiber_queue *queue, uint64_t timeout_ms)
{
    struct io *io = running(NULL)->io;
    return core_wait(io, queue, core_deadline_after(io, timeout_ms), true);
}

void fiber_queue_wake_one(struct fiber_queue *queue)
{
    struct fiber *fiber = queue->head;
    if (fiber == NULL)
        return;
    queue_remove(fiber);
    make_ready(fiber);
}

void fiber_queue_wake_all(struct fiber_queue *queue)
{
    while (queue->head != NULL)
        fiber_queue_wake_one(queue);
}

/* ---- mutex: unlock hands over to the first waiter, so nobody can slip in between ---- */

int fiber_mutex_lock(struct fiber_mutex *mutex)
{
    struct io *io = running(NULL)->io;
    if (io->stopping)
        return -E_CANCELED;
    if (!mutex->held) {
        mutex->held = true;
        return 0;
    }
    return core_wait(io, &mutex->waiters, CORE_NEVER, true);
}

void fiber_mutex_unlock(struct fiber_mutex *mutex)
{
    CHECK(mutex->held);
    if (mutex->waiters.head != NULL)
        fiber_queue_wake_one(&mutex->waiters);
    else
        mutex->held = false;
}

/* ---- group ---- */

void fiber_group_add(struct fiber_group *group)
{
    group->running++;
}

void fiber_group_done(struct fiber_group *group)
{
    CHECK(group->running > 0);
    if (--group->running == 0)
        fiber_queue_wake_all(&group->waiters);
}

void fiber_group_wait(struct fiber_group *group)
{
    struct io *io = running(NULL)->io;
    while (group->running > 0)
        CHECK(core_wait(io, &group->waiters, CORE_NEVER, false) == 0);
}

/* ---- timers ---- */

void core_timer_init(struct core_timer *timer, void (*fire)(struct core_timer *timer))
{
    memset(timer, 0, sizeof *timer);
    timer->node.index = SIZE_MAX;
    timer->fire = fire;
}

int core_timer_start(struct io *io, struct core_timer *timer, uint64_t deadline_ns)
{
    CHECK(timer->node.index == SIZE_MAX);
    timer->node.key = deadline_ns;
    return heap_push(&io->timers, &timer->node);
}

void core_timer_stop(struct io *io, struct core_timer *timer)
{
    if (timer->node.index != SIZE_MAX)
        heap_remove(&io->timers, &timer->node);
}

uint64_t core_deadline(const struct io *io)
{
    const struct heap_node *node = heap_peek(&io->timers);
    return node != NULL ? node->key : CORE_NEVER;
}

void core_fire_timers(struct io *io, uint64_t now_ns)
{
    struct heap_node *node;
    while ((node = heap_peek(&io->timers)) != NULL && node->key <= now_ns) {
        struct core_timer *timer = container_of(node, struct core_timer, node);
        heap_remove(&io->timers, node);
        timer->fire(timer);
    }
}

uint64_t core_deadline_after(struct io *io, uint64_t timeout_ms)
{
    uint64_t ns, deadline;
    if (timeout_ms == 0 || mul_overflows(timeout_ms, (uint64_t)1000000, &ns) ||
        add_overflows(io_mono_ns(io), ns, &deadline))
        return CORE_NEVER;
    return deadline;
}
