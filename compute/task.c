#include "task.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "environment.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define COMMIT_TRY_MS 500   /* between tries while the metadata service does not answer */
#define MEMORY_DEFAULT GIB(1)

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static enum attempt_action step(struct task *task, enum attempt_event_kind kind, int err)
{
    struct attempt_event event = {.kind = kind, .err = err};
    return attempt_step(&task->attempt, &event);
}

/* Ends what runs; the end comes back as an event of the sandbox. */
static void kill_sandbox(struct task *task)
{
    if (task->slot != NULL && task->slot->sandbox != NULL)
        sandbox_kill(task->slot->sandbox);
}

static bool is_reduce(const struct task *task)
{
    return strcmp(task->assign->phase->type, "reduce") == 0;
}

static char *format(const char *fmt, ...) _printf_(1, 2);
static char *format(const char *fmt, ...)
{
    va_list args;
    char *text = NULL;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    return n < 0 ? NULL : text;
}

/* ---- streams: one fiber each */

static void output_fiber(void *arg)
{
    struct task *task = arg;
    const Tarn__TaskAssign *assign = task->assign;
    task->out_err = collect_output(task->host->meta, task->host->stores, task->out_fd, task->output_path, assign->uid,
                                   assign->gid, &task->output);
    close_fd(&task->out_fd);
    fiber_group_done(&task->streams);
}

static void errors_fiber(void *arg)
{
    struct task *task = arg;
    /* What cannot be kept is lost: the task's result does not depend on it. */
    collect_err_read(task->host->io, task->err_fd, &task->errors);
    close_fd(&task->err_fd);
    fiber_group_done(&task->streams);
}

static void feed_fiber(void *arg)
{
    struct task *task = arg;
    task->feed_err = stage_feed(&task->host->stage, task->assign, task->in_fd, &task->count);
    /* Before the pipe is closed: a half-read input must not look like a whole one. */
    if (task->feed_err != 0 && step(task, ATTEMPT_STARVED, task->feed_err) == ATTEMPT_DO_KILL)
        kill_sandbox(task);
    close_fd(&task->in_fd);
    fiber_group_done(&task->streams);
}

static int start_stream(struct task *task, const char *name, fiber_fn fn)
{
    fiber_group_add(&task->streams);
    int err = fiber_spawn(task->host->io, name, fn, task);
    if (err != 0)
        fiber_group_done(&task->streams);
    return err;
}

/* The sandbox's ends of the three streams. */
struct ends {
    int fds[3];
};

static int open_pipes(struct task *task, struct ends *ends)
{
    int out[2] = {-1, -1}, err[2] = {-1, -1}, in[2] = {-1, -1};
    *ends = (struct ends){{-1, -1, -1}};
    if (pipe2(out, O_CLOEXEC) != 0 || pipe2(err, O_CLOEXEC) != 0 || (is_reduce(task) && pipe2(in, O_CLOEXEC) != 0)) {
        int code = err_from_errno(errno);
        for (unsigned i = 0; i < 2; i++) {
            close_fd(&out[i]);
            close_fd(&err[i]);
        }
        return code;
    }
    task->out_fd = out[0];
    task->err_fd = err[0];
    task->in_fd = in[1];
    ends->fds[0] = in[0];
    ends->fds[1] = out[1];
    ends->fds[2] = err[1];
    return 0;
}

static int start_streams(struct task *task)
{
    int err = start_stream(task, "task output", output_fiber);
    if (err == 0)
        err = start_stream(task, "task errors", errors_fiber);
    if (err == 0 && is_reduce(task))
        err = start_stream(task, "task input", feed_fiber);
    return err;
}

/* ---- states */

static int stage(struct task *task)
{
    const char *dir = task->assign->dir;
    const Tarn__TaskKey *key = task->assign->key;
    task->output_path = format("%s/%s/%u.%llu", dir, task->assign->last_phase ? "out" : "tmp", key->phase,
                               (unsigned long long)key->index);
    task->stderr_path = format("%s/err/%u.%llu", dir, key->phase, (unsigned long long)key->index);
    if (task->output_path == NULL || task->stderr_path == NULL)
        return -E_NOMEM;
    uint64_t begun_ns = io_mono_ns(task->host->io);
    int err = is_reduce(task) ? 0 : stage_open(&task->host->stage, task->assign, &task->input, &task->count);
    task->staging_ns = io_mono_ns(task->host->io) - begun_ns;
    return err;
}

static int request_sandbox(struct task *task, const struct ends *ends)
{
    const Tarn__JobPhase *phase = task->assign->phase;
    struct environment env;
    int err = environment_init(&env, task->assign, task->output_path);
    if (err != 0)
        return err;
    struct sandbox_task request = {
        .exec = phase->exec,
        .init = phase->init,
        .strict = phase->strict,
        .uid = task->assign->uid,
        .gid = task->assign->gid,
        .memory = phase->memory != 0 ? phase->memory : MEMORY_DEFAULT,
        .scratch = phase->disk,
        .cpu_milli = phase->cpu_milli,
        .env = (const char *const *)env.vars,
        .n_env = env.n,
        .input_name = task->input.tree >= 0 ? env.input_name : NULL,
        .input_tree = task->input.tree,
        .stdin_fd = ends->fds[0] >= 0 ? ends->fds[0] : task->input.stdin_fd,
        .stdout_fd = ends->fds[1],
        .stderr_fd = ends->fds[2],
    };
    task->requested_ns = io_mono_ns(task->host->io);
    task->started_real_ns = io_real_ns(task->host->io);
    err = sandbox_run(task->slot->sandbox, &request);
    environment_fini(&env);
    return err;
}

static void on_started(struct task *task, const struct sandbox_event *event)
{
    task->exec_ns = event->exec_ns;
    stage_release(&task->input);
    step(task, ATTEMPT_STARTED, 0);
}

static void on_ended(struct task *task, const struct sandbox_event *event)
{
    struct attempt_event ended = {.kind = ATTEMPT_ENDED,
                                  .exit = {.setup_errno = event->setup_errno,
                                           .step = event->step,
                                           .init_failed = event->init_failed,
                                           .core = event->core,
                                           .out_of_memory = event->out_of_memory,
                                           .status = event->status}};
    task->cpu_us = event->cpu_us;
    attempt_step(&task->attempt, &ended);
}

/* Until the time of the phase is up: milliseconds for the poll, 0 = for ever. */
static uint64_t time_left_ms(const struct task *task)
{
    if (task->attempt.timeout_ms == 0 || task->attempt.expired)
        return 0;
    uint64_t end = task->requested_ns / 1000000 + task->attempt.timeout_ms;
    uint64_t now = io_mono_ms(task->host->io);
    return now < end ? end - now : 1;
}

/* Events of the sandbox until it has ended. */
static int watch_sandbox(struct task *task)
{
    struct sandbox *sandbox = task->slot->sandbox;
    while (task->attempt.state != ATTEMPT_DRAINING) {
        struct sandbox_event event;
        int r = sandbox_event(sandbox, &event);
        if (r == 1 && event.kind == SANDBOX_STARTED)
            on_started(task, &event);
        else if (r == 1)
            on_ended(task, &event);
        if (r < 0)
            return r;
        if (r != 0)
            continue;
        r = io_poll(task->host->io, sandbox_fd(sandbox), POLLIN, time_left_ms(task));
        if (r == -E_TIMEOUT && step(task, ATTEMPT_EXPIRED, 0) == ATTEMPT_DO_KILL)
            kill_sandbox(task);
        else if (r < 0 && r != -E_TIMEOUT)
            return r;
    }
    return 0;
}

static void give_slot(struct task *task)
{
    struct slot *slot = task->slot;
    task->slot = NULL;
    slots_give(task->host->slots, slot);
}

/* STARTING and RUNNING. */
static void run(struct task *task)
{
    struct ends ends;
    int err = open_pipes(task, &ends);
    if (err == 0)
        err = request_sandbox(task, &ends);
    for (unsigned i = 0; i < 3; i++)
        close_fd(&ends.fds[i]);
    bool asked = err == 0;
    if (err == 0)
        err = start_streams(task);
    if (err == 0)
        err = watch_sandbox(task);
    if (err != 0 && (asked || err == -E_CONN))
        slots_renew(task->host->slots, task->slot); /* whatever runs there ends with its zygote */
    task->ended_ns = io_mono_ns(task->host->io);
    give_slot(task);
    stage_release(&task->input);
    if (err != 0)
        step(task, ATTEMPT_ENDED, err);
}

static int drain(struct task *task)
{
    const Tarn__TaskAssign *assign = task->assign;
    fiber_group_wait(&task->streams);
    close_fd(&task->out_fd);
    close_fd(&task->err_fd);
    close_fd(&task->in_fd);
    if (task->attempt.killed || task->attempt.system_error)
        return 0;
    if (!collect_err_empty(&task->errors)) {
        int err = collect_err_store(task->host->meta, task->host->stores, &task->errors, task->stderr_path, assign->uid,
                                    assign->gid, &task->stderr_object);
        if (err != 0)
            log_warn("cannot keep the standard error of %s: %s", task->stderr_path, err_sentence(err));
    }
    return task->attempt.failed ? 0 : task->out_err;
}

static void fill_receipt(const struct task *task, Tarn__Receipt *receipt)
{
    const struct stage_count *count = &task->count;
    tarn__receipt__init(receipt);
    receipt->mapped = count->mapped;
    receipt->local = count->mapped + count->read.read_fd + count->read.read_local;
    receipt->rack = count->read.read_rack;
    receipt->remote = count->read.read_remote;
    receipt->cpu_us = task->cpu_us;
    receipt->wall_us = (task->ended_ns - task->requested_ns) / 1000;
    if (task->exec_ns > task->requested_ns)
        receipt->start_us = (task->staging_ns + task->exec_ns - task->requested_ns) / 1000;
}

static void fill_record(const struct task *task, Tarn__Task *record)
{
    const struct attempt *attempt = &task->attempt;
    const Tarn__TaskKey *key = task->assign->key;
    tarn__task__init(record);
    record->job = key->job;
    record->phase = key->phase;
    record->index = key->index;
    record->attempt = key->attempt;
    record->node = task->host->stage.node;
    record->state = attempt->failed ? TARN__TASK_STATE__TASK_FAILED : TARN__TASK_STATE__TASK_DONE;
    record->exit_code = attempt->exit_code;
    record->signal = attempt->signal;
    if (attempt->failed) {
        record->code = (char *)attempt->code;
        record->error = (char *)attempt->why;
    }
    if (task->stderr_object != NULL && !attempt->over_quota)
        record->stderr_path = task->stderr_path;
    record->started = task->started_real_ns;
    record->ended = io_real_ns(task->host->io);
}

/* Again and again while the answer is unknown: the same attempt commits at most once. */
static int commit(struct task *task)
{
    Tarn__Task record;
    Tarn__Receipt receipt;
    Tarn__NewObject *objects[2];
    Tarn__TaskCommit request = TARN__TASK_COMMIT__INIT;
    char *input = task->assign->n_inputs == 1 ? task->assign->inputs[0]->path : NULL;
    fill_record(task, &record);
    fill_receipt(task, &receipt);
    record.receipt = &receipt;
    if (input != NULL) {
        record.inputs = &input;
        record.n_inputs = 1;
    }
    request.task = &record;
    request.objects = objects;
    if (task->output != NULL && !task->attempt.failed) {
        objects[request.n_objects++] = task->output;
        record.outputs = &task->output_path;
        record.n_outputs = 1;
    }
    if (task->stderr_object != NULL && !task->attempt.over_quota)
        objects[request.n_objects++] = task->stderr_object;
    for (;;) {
        int err = meta_call(task->host->meta, OP_TASK_COMMIT, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
        if (err_retry(err) != ERR_RETRY_AGAIN || err == 0)
            return err;
        if (io_sleep_ms(task->host->io, COMMIT_TRY_MS) != 0)
            return -E_CANCELED;
    }
}

static void report(struct task *task)
{
    const struct attempt *attempt = &task->attempt;
    Tarn__TaskReport message = TARN__TASK_REPORT__INIT;
    message.key = task->assign->key;
    message.node = task->host->stage.node;
    message.committed = attempt->committed;
    message.system_error = attempt->system_error;
    message.retry = attempt->retry && !attempt->killed;
    message.killed = attempt->killed && !attempt->committed;
    message.failed = attempt->failed;
    message.why = (char *)attempt->why;
    message.ran_us = (task->ended_ns - task->requested_ns) / 1000;
    task->host->report(task->host->arg, &message); /* fails only when we stop */
}

static void queue(struct task *task)
{
    int err = slots_take(task->host->slots, &task->attempt.killed, &task->slot);
    if (err == 0)
        step(task, ATTEMPT_SLOT, 0);
    else if (task->attempt.state == ATTEMPT_QUEUED)
        step(task, ATTEMPT_KILL, 0); /* stopping */
}

static void task_free(struct task *task)
{
    stage_release(&task->input);
    collect_err_fini(&task->errors);
    if (task->output != NULL)
        tarn__new_object__free_unpacked(task->output, NULL);
    if (task->stderr_object != NULL)
        tarn__new_object__free_unpacked(task->stderr_object, NULL);
    free(task->output_path);
    free(task->stderr_path);
    tarn__task_assign__free_unpacked(task->assign, NULL);
    free(task);
}

static void task_fiber(void *arg)
{
    struct task *task = arg;
    while (task->attempt.state != ATTEMPT_OVER) {
        switch (task->attempt.state) {
        case ATTEMPT_NEW:
            step(task, ATTEMPT_ASSIGNED, 0);
            break;
        case ATTEMPT_STAGING:
            step(task, ATTEMPT_STAGED, stage(task));
            break;
        case ATTEMPT_QUEUED:
            queue(task);
            break;
        case ATTEMPT_STARTING:
            run(task);
            break;
        case ATTEMPT_DRAINING:
            step(task, ATTEMPT_DRAINED, drain(task));
            break;
        case ATTEMPT_COMMITTING:
            step(task, ATTEMPT_COMMITTED, commit(task));
            break;
        case ATTEMPT_REPORTING:
            report(task);
            step(task, ATTEMPT_REPORTED, 0);
            break;
        default:
            CHECK(!"a state the fiber waits in");
        }
    }
    list_remove(&task->list);
    struct task_host *host = task->host;
    task_free(task);
    fiber_group_done(&host->running);
}

int task_start(struct task_host *host, Tarn__TaskAssign *assign)
{
    struct task *task = calloc(1, sizeof *task);
    if (task == NULL) {
        tarn__task_assign__free_unpacked(assign, NULL);
        return -E_NOMEM;
    }
    task->host = host;
    task->assign = assign;
    task->input = (struct stage_input){.stdin_fd = -1, .tree = -1};
    task->out_fd = task->err_fd = task->in_fd = -1;
    attempt_init(&task->attempt, assign->phase->timeout_ms, assign->retries_left);
    list_append(&host->tasks, &task->list);
    fiber_group_add(&host->running);
    int err = fiber_spawn(host->io, "task", task_fiber, task);
    if (err != 0) {
        list_remove(&task->list);
        fiber_group_done(&host->running);
        task_free(task);
    }
    return err;
}

void task_kill(struct task *task)
{
    if (step(task, ATTEMPT_KILL, 0) == ATTEMPT_DO_KILL)
        kill_sandbox(task);
    slots_wake(task->host->slots);
}

bool task_is(const struct task *task, const Tarn__TaskKey *key)
{
    const Tarn__TaskKey *own = task->assign->key;
    return own->job == key->job && own->phase == key->phase && own->index == key->index && own->attempt == key->attempt;
}
