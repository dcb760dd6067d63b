/* The life of one job at the allocator, as a fiber: phase after phase is planned and run, then the job is
 * finished. A task moves
 *
 *     WAITING -(bound to a node)-> STARTING -(agent told)-> RUNNING -(report)-> OVER
 *        ^____________________________|__________(lost)________|
 *
 * and ends in OVER from wherever it is when the job is cancelled. */
#include "allocd.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <stdio.h>

#define READ_PAUSE_MS 10    /* between two looks at a job's record: commits change it all the time */
#define CATCH_UP_MS 2000    /* a push may have been lost */
#define RETRY_MS 500
#define CANCEL_WAIT_MS 5000 /* for the reports of killed tasks; their commits are refused anyway */
#define SWEEPERS 16
#define SWEEP_PAGE 512

/* ---- tasks */

struct run_task *run_find(struct allocd *allocd, const Tarn__TaskKey *key)
{
    struct run *run = map_get(&allocd->runs, key->job);
    if (run == NULL || run->phase != key->phase || key->index >= run->n_published)
        return NULL;
    return run->tasks[key->index];
}

static void leave_agent(struct run_task *task)
{
    if (!list_empty(&task->on_agent))
        list_remove(&task->on_agent);
}

static bool is_busy(const struct run_task *task)
{
    return task->state == RUN_TASK_STARTING || task->state == RUN_TASK_RUNNING;
}

void run_task_ready(struct run_task *task)
{
    struct allocd *allocd = task->run->allocd;
    task->state = RUN_TASK_WAITING;
    if (alloc_task_ready(allocd->alloc, &task->alloc, allocd_now_us(allocd)) != 0)
        allocd_resign(allocd, "out of memory");
}

void run_task_over(struct run_task *task, uint64_t ran_us)
{
    struct run *run = task->run;
    if (task->state == RUN_TASK_OVER)
        return;
    if (is_busy(task))
        run->n_busy--;
    leave_agent(task);
    task->state = RUN_TASK_OVER;
    run->n_over++;
    alloc_task_end(run->allocd->alloc, &task->alloc, ran_us, allocd_now_us(run->allocd));
    fiber_queue_wake_all(&run->changed);
    allocd_pump(run->allocd);
}

void run_task_lost(struct run_task *task, const char *why)
{
    struct run *run = task->run;
    struct allocd *allocd = run->allocd;
    if (!is_busy(task))
        return;
    if (run->ending) {
        run_task_over(task, 0);
        return;
    }
    leave_agent(task);
    run->n_busy--;
    alloc_task_end(allocd->alloc, &task->alloc, 0, allocd_now_us(allocd));
    task->alloc.avoid = task->node;
    snprintf(task->why, sizeof task->why, "%s", why);
    if (++task->system_failures < ALLOCD_SYSTEM_ATTEMPTS) {
        run_task_ready(task);
    } else { /* the queue of starts has a fiber for the commit that says so */
        task->give_up = true;
        task->state = RUN_TASK_STARTING;
        run->n_busy++;
        list_append(&allocd->starting, &task->starting);
        fiber_queue_wake_one(&allocd->starters);
    }
    allocd_pump(allocd);
}

void run_clear_tasks(struct run *run)
{
    struct allocd *allocd = run->allocd;
    for (size_t i = 0; i < run->n_tasks; i++) {
        struct run_task *task = run->tasks[i];
        CHECK(task->state != RUN_TASK_STARTING);
        leave_agent(task);
        alloc_task_end(allocd->alloc, &task->alloc, 0, allocd_now_us(allocd));
        free(task->path);
        free(task);
    }
    free(run->tasks);
    run->tasks = NULL;
    run->n_tasks = run->cap_tasks = run->n_published = run->n_over = run->n_busy = 0;
    run->all_planned = false;
}

/* ---- the job's record */

static int read_job(struct run *run)
{
    Tarn__JobGet request = TARN__JOB_GET__INIT;
    Tarn__JobReply *reply = NULL;
    request.job = run->id;
    run->dirty = false;
    int err = meta_call(run->allocd->meta, OP_JOB_GET, &request.base, &request.ctx, &meta_root,
                        &tarn__job_reply__descriptor, &reply, NULL);
    run->read_ms = io_mono_ms(run->allocd->io);
    if (err != 0)
        return err;
    if (reply->job == NULL || reply->job->n_phases == 0) {
        tarn__job_reply__free_unpacked(reply, NULL);
        return -E_PROTO;
    }
    if (run->job == NULL)
        run->recovered = reply->job->state == TARN__JOB_STATE__JOB_RUNNING;
    else
        tarn__job__free_unpacked(run->job, NULL);
    run->job = reply->job;
    reply->job = NULL;
    tarn__job_reply__free_unpacked(reply, NULL);
    return 0;
}

static bool is_live(const struct run *run)
{
    return run->job->state == TARN__JOB_STATE__JOB_QUEUED || run->job->state == TARN__JOB_STATE__JOB_RUNNING;
}

void run_touch(struct run *run)
{
    run->dirty = true;
    fiber_queue_wake_all(&run->changed);
}

/* Waits for news and reads the record when it may have changed. */
static int wait_news(struct run *run)
{
    uint64_t now = io_mono_ms(run->allocd->io), wait = CATCH_UP_MS;
    if (run->dirty)
        wait = run->read_ms + READ_PAUSE_MS > now ? run->read_ms + READ_PAUSE_MS - now : 0;
    if (wait != 0) {
        int err = fiber_queue_wait(&run->changed, wait);
        if (err == -E_CANCELED)
            return err;
        now = io_mono_ms(run->allocd->io);
        if (err != -E_TIMEOUT && !(run->dirty && run->read_ms + READ_PAUSE_MS <= now))
            return 0;
    }
    int err = read_job(run);
    return err == -E_CANCELED ? err : 0; /* not reachable now: tried again at the next turn */
}

/* ---- the end of a job */

struct sweep {
    struct run *run;
    uint64_t dir;
    char **names;
    size_t n, next;
    struct fiber_group group;
};

static int unlink_at(struct run *run, uint64_t dir, const char *name, bool directory)
{
    Tarn__Unlink request = TARN__UNLINK__INIT;
    Tarn__Where parent = TARN__WHERE__INIT;
    parent.ino = dir;
    request.parent = &parent;
    request.name = (char *)name;
    request.directory = directory;
    return meta_call(run->allocd->meta, OP_UNLINK, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

static void sweep_fiber(void *arg)
{
    struct sweep *sweep = arg;
    while (sweep->next < sweep->n)
        unlink_at(sweep->run, sweep->dir, sweep->names[sweep->next++], false);
    fiber_group_done(&sweep->group);
}

static void sweep_names(struct sweep *sweep)
{
    for (unsigned i = 0; i < SWEEPERS && i < sweep->n; i++) {
        fiber_group_add(&sweep->group);
        if (fiber_spawn(sweep->run->allocd->io, "job sweep", sweep_fiber, sweep) != 0)
            fiber_group_done(&sweep->group);
    }
    fiber_group_wait(&sweep->group);
}

/* Removes /jobs/ID/tmp. What is left after a failure is found by the next holder of the role, because
 * the job is finished only afterwards. */
static int remove_intermediates(struct run *run)
{
    char path[256];
    Tarn__Where where = TARN__WHERE__INIT;
    snprintf(path, sizeof path, "%s/tmp", run->job->dir);
    where.path = path;
    for (uint64_t before = 0;;) {
        Tarn__ReadDir request = TARN__READ_DIR__INIT;
        Tarn__ReadDirReply *reply = NULL;
        request.where = &where;
        request.max = SWEEP_PAGE;
        int err = meta_call(run->allocd->meta, OP_READDIR, &request.base, &request.ctx, &meta_root,
                            &tarn__read_dir_reply__descriptor, &reply, NULL);
        if (err != 0)
            return err == -E_NOENT ? 0 : err;
        struct sweep sweep = {.run = run, .dir = reply->dir != NULL ? reply->dir->ino : 0};
        char *names[SWEEP_PAGE];
        for (size_t i = 0; i < reply->n_entries && sweep.n < SWEEP_PAGE; i++)
            if (strcmp(reply->entries[i]->name, ".") != 0 && strcmp(reply->entries[i]->name, "..") != 0)
                names[sweep.n++] = reply->entries[i]->name;
        sweep.names = names;
        sweep_names(&sweep);
        bool stuck = sweep.n != 0 && before == sweep.n && reply->end;
        before = sweep.n;
        bool empty = sweep.n == 0;
        tarn__read_dir_reply__free_unpacked(reply, NULL);
        if (stuck)
            return -E_NOTEMPTY;
        if (empty)
            break;
    }
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    Tarn__LookupReply *dir = NULL;
    Tarn__Where above = TARN__WHERE__INIT;
    above.path = run->job->dir;
    lookup.where = &above;
    int err = meta_call(run->allocd->meta, OP_LOOKUP, &lookup.base, &lookup.ctx, &meta_root,
                        &tarn__lookup_reply__descriptor, &dir, NULL);
    if (err != 0)
        return err;
    err = dir->attr != NULL ? unlink_at(run, dir->attr->ino, "tmp", true) : -E_PROTO;
    tarn__lookup_reply__free_unpacked(dir, NULL);
    return err == -E_NOENT ? 0 : err;
}

static int finish(struct run *run, Tarn__JobState state)
{
    int err = remove_intermediates(run);
    if (err == -E_CANCELED)
        return err;
    if (err != 0)
        log_warn("cannot remove %s/tmp: %s", run->job->dir, err_sentence(err));
    Tarn__JobFinish request = TARN__JOB_FINISH__INIT;
    request.job = run->id;
    request.role_epoch = run->allocd->role_epoch;
    request.state = state;
    err = meta_call(run->allocd->meta, OP_JOB_FINISH, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    if (err == -E_STALE)
        allocd_resign(run->allocd, "another allocator holds the role");
    else if (err != 0 && err != -E_NOENT && err != -E_CANCELED)
        log_warn("cannot finish job %llu: %s; it is tried again", (unsigned long long)run->id, err_sentence(err));
    return err == -E_NOENT ? 0 : err;
}

/* ---- cancel */

static void kill_task(struct run_task *task)
{
    struct agent *agent = allocd_agent(task->run->allocd, task->node);
    Tarn__TaskKill request = TARN__TASK_KILL__INIT;
    Tarn__TaskKey key = TARN__TASK_KEY__INIT;
    key.job = task->run->id;
    key.phase = task->run->phase;
    key.index = task->index;
    key.attempt = task->attempt;
    request.key = &key;
    /* An agent that does not get it is told with the answer to its next beat. */
    if (agent != NULL && agent->conn != NULL)
        rpc_push(agent->conn, OP_TASK_KILL, &request.base);
}

/* No task of the run starts any more; those that run are killed. Waits for their reports. */
static void stop_tasks(struct run *run)
{
    run->ending = true;
    for (size_t i = 0; i < run->n_published; i++) {
        struct run_task *task = run->tasks[i];
        if (task->state == RUN_TASK_WAITING)
            run_task_over(task, 0);
        else if (task->state == RUN_TASK_RUNNING && run->allocd->active)
            kill_task(task);
    }
    uint64_t end = io_mono_ms(run->allocd->io) + CANCEL_WAIT_MS;
    while (run->n_busy > 0 && run->allocd->active && io_mono_ms(run->allocd->io) < end)
        if (fiber_queue_wait(&run->changed, 100) == -E_CANCELED)
            break;
}

/* Starters hold pointers to tasks while they wait: they always come back. */
static void settle(struct run *run)
{
    for (size_t i = 0; i < run->n_tasks; i++) {
        struct run_task *task = run->tasks[i];
        while (task->state == RUN_TASK_STARTING && !list_empty(&task->starting)) {
            list_remove(&task->starting); /* not taken by a starter yet */
            run_task_over(task, 0);
        }
        while (task->state == RUN_TASK_STARTING && fiber_queue_wait(&run->changed, 0) == 0)
            continue;
        while (task->state == RUN_TASK_STARTING)
            fiber_yield(); /* stopping: their waits end at once */
    }
}

/* ---- phases */

static void begin_phase(struct run *run, unsigned phase)
{
    settle(run);
    run_clear_tasks(run);
    run->phase = phase;
    run->group = (struct alloc_group){.tenant = run->job->uid};
}

static bool phase_done(const struct run *run)
{
    return run->all_planned && run->n_over == run->n_tasks;
}

/* One turn: -E_CANCELED ends the fiber, *ret_over when the job is. */
static int turn(struct run *run, bool *ret_over)
{
    if (!is_live(run)) {
        *ret_over = true;
        return 0;
    }
    if (run->job->cancel) {
        stop_tasks(run);
        *ret_over = true;
        return finish(run, TARN__JOB_STATE__JOB_CANCELED);
    }
    int err = plan_phase(run);
    if (err == -E_STALE)
        allocd_resign(run->allocd, "another allocator holds the role");
    if (err != 0 && err != -E_CANCELED)
        log_warn("cannot plan phase %u of job %llu: %s; it is tried again", run->phase, (unsigned long long)run->id,
                 err_sentence(err));
    if (err != 0) /* -E_CANCELED: of the job, or we stop */
        return io_sleep_ms(run->allocd->io, RETRY_MS) == 0 ? read_job(run) : -E_CANCELED;
    if (!phase_done(run))
        return wait_news(run);
    if (run->phase + 1 < run->job->n_phases) {
        begin_phase(run, run->phase + 1);
        return 0;
    }
    err = read_job(run); /* the last commits count */
    if (err != 0)
        return err;
    if (run->job->cancel)
        return 0;
    *ret_over = true;
    return finish(run, run->job->tasks_failed != 0 ? TARN__JOB_STATE__JOB_FAILED : TARN__JOB_STATE__JOB_DONE);
}

static void run_free(struct run *run)
{
    run->ending = true;
    settle(run);
    map_remove(&run->allocd->runs, run->id);
    run_clear_tasks(run);
    if (run->job != NULL)
        tarn__job__free_unpacked(run->job, NULL);
    free(run);
}

static void run_fiber(void *arg)
{
    struct run *run = arg;
    struct allocd *allocd = run->allocd;
    bool over = false;
    int err = read_job(run);
    if (err == 0)
        begin_phase(run, MIN(run->job->phase, (uint32_t)run->job->n_phases - 1));
    while (!io_stopping(allocd->io) && allocd->active && !over) {
        if (err == 0)
            err = turn(run, &over);
        if (err == -E_NOENT)
            over = true;
        if (err != 0 && !over) {
            over = false;
            if (io_sleep_ms(allocd->io, RETRY_MS) != 0)
                break;
            err = read_job(run);
            if (err == 0 && run->tasks == NULL && run->phase == 0)
                begin_phase(run, MIN(run->job->phase, (uint32_t)run->job->n_phases - 1));
        }
    }
    run_free(run);
    fiber_group_done(&allocd->run_fibers);
}

int run_start(struct allocd *allocd, uint64_t job)
{
    struct run *run = calloc(1, sizeof *run);
    if (run == NULL)
        return -E_NOMEM;
    run->allocd = allocd;
    run->id = job;
    int err = map_put(&allocd->runs, job, run);
    if (err == 0) {
        fiber_group_add(&allocd->run_fibers);
        err = fiber_spawn(allocd->io, "job", run_fiber, run);
        if (err == 0)
            return 0;
        fiber_group_done(&allocd->run_fibers);
        map_remove(&allocd->runs, job);
    }
    free(run);
    return err;
}
