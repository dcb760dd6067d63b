#include "allocd.h"

#include "common/err.h"
#include "common/log.h"

#include <stdio.h>

#define PAGE 256           /* inputs or outputs asked for at a time */
#define PLACES_FILES 128   /* of one question for locations */
/* Extents of one such answer: about 600 bytes each with three replicas, of at most 1 MiB of control. */
#define PLACES_EXTENTS 1200
#define CHUNK_BYTES MIB(64)
#define HOLDS_SHARE 10     /* a node with less than a tenth of the input is no holder */

/* ---- tasks */

static struct run_task *add_task(struct run *run, const char *path)
{
    if (run->n_tasks == run->cap_tasks) {
        size_t cap = run->cap_tasks != 0 ? run->cap_tasks * 2 : 64;
        struct run_task **tasks = realloc(run->tasks, cap * sizeof *tasks);
        if (tasks == NULL)
            return NULL;
        run->tasks = tasks;
        run->cap_tasks = cap;
    }
    struct run_task *task = calloc(1, sizeof *task);
    if (task == NULL || (path != NULL && (task->path = strdup(path)) == NULL)) {
        free(task);
        return NULL;
    }
    task->run = run;
    task->index = run->n_tasks;
    task->alloc.group = &run->group;
    list_init(&task->starting);
    list_init(&task->on_agent);
    run->tasks[run->n_tasks++] = task;
    return task;
}

/* ---- where the inputs are */

struct held {
    uint32_t node;
    uint64_t bytes;
};

static void add_held(struct held *held, unsigned *n, unsigned max, uint32_t node, uint64_t bytes)
{
    for (unsigned i = 0; i < *n; i++) {
        if (held[i].node == node) {
            held[i].bytes += bytes;
            return;
        }
    }
    if (*n < max)
        held[(*n)++] = (struct held){node, bytes};
}

static int most_first(const void *a, const void *b)
{
    const struct held *x = a, *y = b;
    return x->bytes < y->bytes ? 1 : x->bytes > y->bytes ? -1 : (int)x->node - (int)y->node;
}

static void set_holders(struct run_task *task, const Tarn__LocatedFile *file)
{
    struct held held[64];
    unsigned n = 0;
    for (size_t i = 0; i < file->n_extents; i++)
        for (size_t j = 0; j < file->extents[i]->n_replicas; j++) {
            const Tarn__Replica *replica = file->extents[i]->replicas[j];
            if (replica->up && replica->ready)
                add_held(held, &n, ARRAY_SIZE(held), replica->node, file->extents[i]->length);
        }
    qsort(held, n, sizeof *held, most_first);
    struct alloc_task *alloc = &task->alloc;
    alloc->bytes = file->attr != NULL ? file->attr->size : task->size;
    alloc->n_holders = 0;
    for (unsigned i = 0; i < n && alloc->n_holders < ALLOC_HOLDERS_MAX; i++)
        if (held[i].bytes * HOLDS_SHARE >= alloc->bytes)
            alloc->holders[alloc->n_holders++] = (struct alloc_holder){held[i].node, held[i].bytes};
}

/* Answers come in the order of the question. A task whose input's place is not known runs anywhere. */
static int ask_places(struct run *run, size_t from, size_t n)
{
    char *paths[PLACES_FILES];
    Tarn__Locations request = TARN__LOCATIONS__INIT;
    Tarn__LocationsReply *reply = NULL;
    for (size_t i = 0; i < n; i++)
        paths[i] = run->tasks[from + i]->path;
    request.paths = paths;
    request.n_paths = n;
    request.max = (uint32_t)n;
    int err = meta_call(run->allocd->meta, OP_LOCATIONS, &request.base, &request.ctx, &meta_root,
                        &tarn__locations_reply__descriptor, &reply, NULL);
    if (err != 0)
        return err;
    for (size_t i = 0; i < reply->n_files && i < n; i++)
        if (strcmp(reply->files[i]->path, paths[i]) == 0 && reply->files[i]->status == 0)
            set_holders(run->tasks[from + i], reply->files[i]);
    tarn__locations_reply__free_unpacked(reply, NULL);
    return 0;
}

static int find_places(struct run *run, size_t from)
{
    while (from < run->n_tasks) {
        size_t n = 0;
        uint64_t extents = 0;
        while (from + n < run->n_tasks && n < PLACES_FILES) {
            extents += run->tasks[from + n]->size / CHUNK_BYTES + 1;
            if (n > 0 && extents > PLACES_EXTENTS)
                break;
            n++;
        }
        int err = ask_places(run, from, n);
        if (err == -E_CANCELED)
            return err;
        if (err != 0)
            log_warn("cannot learn where %zu inputs of job %llu are: %s; they run anywhere", n,
                     (unsigned long long)run->id, err_sentence(err));
        from += n;
    }
    return 0;
}

/* ---- what earlier holders of our role did */

static void adopt(struct run_task *task, const Tarn__Task *record)
{
    struct allocd *allocd = task->run->allocd;
    if (task->state != RUN_TASK_WAITING)
        return; /* a repeated look */
    task->attempt = record->attempt;
    /* How the earlier attempts ended is not recorded: count them for both. */
    task->user_failures = record->attempt > 0 ? record->attempt - 1 : 0;
    if (record->state == TARN__TASK_STATE__TASK_DONE || record->state == TARN__TASK_STATE__TASK_FAILED) {
        task->state = RUN_TASK_OVER;
        task->run->n_over++;
        return;
    }
    struct agent *agent = allocd_agent(allocd, record->node);
    if (record->state != TARN__TASK_STATE__TASK_RUNNING || agent == NULL ||
        alloc_task_adopt(allocd->alloc, &task->alloc, record->node) != 0)
        return;
    task->state = RUN_TASK_RUNNING;
    task->node = record->node;
    task->pushed_ms = io_mono_ms(allocd->io);
    task->run->n_busy++;
    list_append(&agent->tasks, &task->on_agent);
}

static int adopt_records(struct run *run, size_t from)
{
    Tarn__TaskList request = TARN__TASK_LIST__INIT;
    request.job = run->id;
    request.phase = run->phase;
    request.max = PAGE;
    request.after = from;
    for (;;) {
        Tarn__TaskListReply *reply = NULL;
        int err = meta_call(run->allocd->meta, OP_TASK_LIST, &request.base, &request.ctx, &meta_root,
                            &tarn__task_list_reply__descriptor, &reply, NULL);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_tasks; i++) {
            const Tarn__Task *record = reply->tasks[i];
            request.after = record->index + 1;
            if (record->index < run->n_tasks)
                adopt(run->tasks[record->index], record);
        }
        bool end = reply->end || reply->n_tasks == 0 || request.after >= run->n_tasks;
        tarn__task_list_reply__free_unpacked(reply, NULL);
        if (end)
            return 0;
    }
}

/* ---- plans */

static int record_plan(struct run *run)
{
    Tarn__JobPlan request = TARN__JOB_PLAN__INIT;
    request.job = run->id;
    request.role_epoch = run->allocd->role_epoch;
    request.phase = run->phase;
    request.tasks = run->n_tasks;
    return meta_call(run->allocd->meta, OP_JOB_PLAN, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

/* The tasks that are new are complete: recorded, then ready. May be repeated after a failure. */
static int publish(struct run *run)
{
    size_t from = run->n_published;
    int err = record_plan(run);
    if (err == 0 && run->recovered)
        err = adopt_records(run, from);
    if (err != 0)
        return err;
    run->n_published = run->n_tasks;
    for (size_t i = from; i < run->n_tasks; i++)
        if (run->tasks[i]->state == RUN_TASK_WAITING)
            run_task_ready(run->tasks[i]);
    allocd_pump(run->allocd);
    return 0;
}

/* One page of the job's inputs. */
static int add_inputs(struct run *run)
{
    Tarn__JobInputList request = TARN__JOB_INPUT_LIST__INIT;
    Tarn__JobInputListReply *reply = NULL;
    request.job = run->id;
    request.after = run->n_tasks;
    request.max = PAGE;
    int err = meta_call(run->allocd->meta, OP_JOB_INPUT_LIST, &request.base, &request.ctx, &meta_root,
                        &tarn__job_input_list_reply__descriptor, &reply, NULL);
    if (err != 0)
        return err;
    for (size_t i = 0; i < reply->n_inputs && err == 0; i++) {
        const Tarn__JobInput *input = reply->inputs[i];
        struct run_task *task = input->index == run->n_tasks ? add_task(run, input->path) : NULL;
        if (task == NULL) {
            err = input->index == run->n_tasks ? -E_NOMEM : -E_PROTO;
            break;
        }
        task->ino = input->ino;
        task->version = input->version;
        task->size = task->alloc.bytes = input->size;
    }
    if (reply->n_inputs == 0)
        err = -E_PROTO; /* the job's record says that there are more */
    tarn__job_input_list_reply__free_unpacked(reply, NULL);
    return err;
}

static int plan_inputs(struct run *run)
{
    if (run->job->inputs == 0)
        return run->job->input_done ? record_plan(run) : 0;
    while (run->n_published < run->job->inputs) {
        size_t from = run->n_published;
        int err = run->n_tasks == from ? add_inputs(run) : 0;
        if (err == 0)
            err = find_places(run, from);
        if (err == 0)
            err = publish(run);
        if (err != 0)
            return err;
    }
    return 0;
}

static int add_outputs(struct run *run)
{
    Tarn__TaskList request = TARN__TASK_LIST__INIT;
    request.job = run->id;
    request.phase = run->phase - 1;
    request.max = PAGE;
    for (bool end = false; !end;) {
        Tarn__TaskListReply *reply = NULL;
        int err = meta_call(run->allocd->meta, OP_TASK_LIST, &request.base, &request.ctx, &meta_root,
                            &tarn__task_list_reply__descriptor, &reply, NULL);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_tasks && err == 0; i++) {
            request.after = reply->tasks[i]->index + 1;
            for (size_t j = 0; j < reply->tasks[i]->n_outputs && err == 0; j++)
                err = add_task(run, reply->tasks[i]->outputs[j]) != NULL ? 0 : -E_NOMEM;
        }
        end = reply->end || reply->n_tasks == 0;
        tarn__task_list_reply__free_unpacked(reply, NULL);
        if (err != 0)
            return err;
    }
    return find_places(run, 0);
}

static int add_reducers(struct run *run)
{
    uint32_t count = run->job->phases[run->phase]->count;
    for (uint32_t i = 0; i < MAX(count, 1u); i++)
        if (add_task(run, NULL) == NULL)
            return -E_NOMEM;
    return 0;
}

/* A phase whose tasks are all known at its beginning. */
static int plan_whole(struct run *run, int (*add)(struct run *run))
{
    int err = run->n_tasks == 0 ? add(run) : 0;
    if (err != 0) {
        run_clear_tasks(run);
        return err;
    }
    return publish(run);
}

int plan_phase(struct run *run)
{
    if (run->all_planned)
        return 0;
    bool reduce = strcmp(run->job->phases[run->phase]->type, "reduce") == 0;
    if (run->phase == 0 && reduce && !run->job->input_done)
        return 0;
    int err = reduce            ? plan_whole(run, add_reducers)
              : run->phase == 0 ? plan_inputs(run)
                                : plan_whole(run, add_outputs);
    if (err == 0)
        run->all_planned = run->phase > 0 || reduce || (run->job->input_done && run->n_published == run->job->inputs);
    return err;
}
