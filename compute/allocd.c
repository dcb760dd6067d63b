/* tarn-allocd: hands ready tasks to nodes. One holds the role, others stand by. */
#include "allocd.h"

#include "common/check.h"
#include "common/cli.h"
#include "common/err.h"
#include "common/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>

#define ROLE "allocator"
#define ROLE_TRY_MS 300     /* a standby looks that often whether the role is free */
#define ROLE_CHECK_MS 1000  /* the holder whether it still has it */
#define SESSION_MS 5000     /* how long a dead holder keeps the role */
#define CATCH_UP_MS 2000    /* jobs whose push was lost */
#define LATE_PUSH_MS 3000   /* a task told so long ago must be in the agent's list */
#define JOBS_PAGE 200
#define RETRY_MS 300
#define GOODBYE_MS 3000     /* to end the session in order */

/* ---- the queue of tasks to start */

struct agent *allocd_agent(struct allocd *allocd, uint32_t node)
{
    struct agent *agent = map_get(&allocd->agents, node);
    if (agent != NULL)
        return agent;
    agent = calloc(1, sizeof *agent);
    if (agent == NULL)
        return NULL;
    agent->node = node;
    agent->seen_ms = io_mono_ms(allocd->io);
    list_init(&agent->tasks);
    if (map_put(&allocd->agents, node, agent) != 0) {
        free(agent);
        return NULL;
    }
    return agent;
}

void allocd_pump(struct allocd *allocd)
{
    struct alloc_task *bound;
    uint32_t node;
    while ((bound = alloc_next(allocd->alloc, &node)) != NULL) {
        struct run_task *task = container_of(bound, struct run_task, alloc);
        CHECK(task->state == RUN_TASK_WAITING);
        task->state = RUN_TASK_STARTING;
        task->node = node;
        task->run->n_busy++;
        list_append(&allocd->starting, &task->starting);
        fiber_queue_wake_one(&allocd->starters);
    }
    if (alloc_deadline(allocd->alloc) < allocd->armed_us)
        fiber_queue_wake_all(&allocd->tick);
}

static void fill_key(const struct run_task *task, Tarn__TaskKey *key)
{
    tarn__task_key__init(key);
    key->job = task->run->id;
    key->phase = task->run->phase;
    key->index = task->index;
    key->attempt = task->attempt;
}

static int push_assign(const struct run_task *task, const struct agent *agent)
{
    const Tarn__Job *job = task->run->job;
    Tarn__TaskAssign assign = TARN__TASK_ASSIGN__INIT;
    Tarn__TaskKey key;
    Tarn__TaskInput input = TARN__TASK_INPUT__INIT, *inputs = &input;
    fill_key(task, &key);
    assign.key = &key;
    assign.phase = job->phases[task->run->phase];
    assign.uid = job->uid;
    assign.gid = job->gid;
    assign.dir = job->dir;
    assign.name = job->name;
    assign.last_phase = task->run->phase + 1 == job->n_phases;
    uint32_t retries = assign.phase->retries;
    assign.retries_left = retries > task->user_failures ? retries - task->user_failures : 0;
    if (task->path != NULL) {
        input.path = task->path;
        input.ino = task->ino;
        input.version = task->version;
        input.size = task->size;
        assign.inputs = &inputs;
        assign.n_inputs = 1;
    }
    return rpc_push(agent->conn, OP_TASK_ASSIGN, &assign.base);
}

static void tell_agent(struct allocd *allocd, struct run_task *task)
{
    struct agent *agent = allocd_agent(allocd, task->node);
    if (task->run->ending) {
        run_task_over(task, 0);
        return;
    }
    if (agent == NULL || agent->conn == NULL || !agent->up || push_assign(task, agent) != 0) {
        run_task_lost(task, "the agent could not be told");
        return;
    }
    task->state = RUN_TASK_RUNNING;
    task->pushed_ms = io_mono_ms(allocd->io);
    list_append(&agent->tasks, &task->on_agent);
}

/* Somebody committed it before us: an attempt that we took for lost. */
static void start_refused(struct allocd *allocd, struct run_task *task, int err)
{
    if (err == -E_CONFLICT || err == -E_CANCELED || err == -E_NOENT || err == -E_INVAL) {
        run_task_over(task, 0);
        run_touch(task->run);
        return;
    }
    if (err == -E_STALE)
        allocd_resign(allocd, "another allocator holds the role");
    else
        log_warn("cannot start task %llu.%u.%llu: %s; it is tried again", (unsigned long long)task->run->id,
                 task->run->phase, (unsigned long long)task->index, err_sentence(err));
    if (io_sleep_ms(allocd->io, RETRY_MS) != 0 || task->run->ending) {
        run_task_over(task, 0);
        return;
    }
    task->run->n_busy--;
    alloc_task_end(allocd->alloc, &task->alloc, 0, allocd_now_us(allocd));
    run_task_ready(task);
    allocd_pump(allocd);
}

static void start_task(struct allocd *allocd, struct run_task *task)
{
    Tarn__TaskStart request = TARN__TASK_START__INIT;
    Tarn__TaskStartReply *reply = NULL;
    request.job = task->run->id;
    request.phase = task->run->phase;
    request.index = task->index;
    request.node = task->node;
    request.role_epoch = allocd->role_epoch;
    if (task->path != NULL) {
        request.inputs = &task->path;
        request.n_inputs = 1;
    }
    int err = meta_call(allocd->meta, OP_TASK_START, &request.base, &request.ctx, &meta_root,
                        &tarn__task_start_reply__descriptor, &reply, NULL);
    if (err != 0) {
        start_refused(allocd, task, err);
        return;
    }
    task->attempt = reply->attempt;
    tarn__task_start_reply__free_unpacked(reply, NULL);
    tell_agent(allocd, task);
}

/* All its attempts were lost by our own fault: that is its result. */
static void commit_failure(struct allocd *allocd, struct run_task *task)
{
    Tarn__TaskCommit request = TARN__TASK_COMMIT__INIT;
    Tarn__Task record = TARN__TASK__INIT;
    record.job = task->run->id;
    record.phase = task->run->phase;
    record.index = task->index;
    record.attempt = task->attempt;
    record.state = TARN__TASK_STATE__TASK_FAILED;
    record.code = "InternalError";
    record.error = task->why;
    request.task = &record;
    int err;
    do {
        err = meta_call(allocd->meta, OP_TASK_COMMIT, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    } while (err_retry(err) == ERR_RETRY_AGAIN && err != 0 && !task->run->ending && io_sleep_ms(allocd->io, RETRY_MS) == 0);
    run_task_over(task, 0);
}

static void starter_fiber(void *arg)
{
    struct allocd *allocd = arg;
    while (allocd->active && !io_stopping(allocd->io)) {
        if (list_empty(&allocd->starting)) {
            fiber_queue_wait(&allocd->starters, 0);
            continue;
        }
        struct run_task *task = list_entry(allocd->starting.next, struct run_task, starting);
        list_remove(&task->starting);
        if (task->run->ending)
            run_task_over(task, 0);
        else if (task->give_up)
            commit_failure(allocd, task);
        else
            start_task(allocd, task);
    }
    fiber_group_done(&allocd->fibers);
}

/* ---- agents */

static void agent_lost(struct allocd *allocd, struct agent *agent, const char *why)
{
    if (agent->up)
        log_warn("node %u: %s; its tasks start again elsewhere", agent->node, why);
    agent->up = false;
    alloc_node_down(allocd->alloc, agent->node);
    while (!list_empty(&agent->tasks))
        run_task_lost(list_entry(agent->tasks.next, struct run_task, on_agent), why);
}

static bool lists(Tarn__TaskKey *const *keys, size_t n, const struct run_task *task)
{
    for (size_t i = 0; i < n; i++)
        if (keys[i]->job == task->run->id && keys[i]->phase == task->run->phase && keys[i]->index == task->index &&
            keys[i]->attempt == task->attempt)
            return true;
    return false;
}

/* Tasks we think it runs and it does not. */
static void compare(struct allocd *allocd, struct agent *agent, Tarn__TaskKey *const *keys, size_t n, uint64_t told_before_ms)
{
    list_foreach_safe(&agent->tasks, it, next)
    {
        struct run_task *task = list_entry(it, struct run_task, on_agent);
        if (task->pushed_ms <= told_before_ms && !lists(keys, n, task))
            run_task_lost(task, "the agent does not know the task any more");
    }
}

static uint32_t rack_number(const char *rack)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *rack != '\0'; rack++)
        hash = (hash ^ (uint8_t)*rack) * 16777619u;
    return hash;
}

/* -E_NOENT: the node has not joined (yet). */
static int find_rack(struct allocd *allocd, uint32_t node, uint32_t *ret)
{
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    Tarn__NodeListReply *reply = NULL;
    int err = meta_call(allocd->meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root,
                        &tarn__node_list_reply__descriptor, &reply, NULL);
    if (err != 0)
        return err;
    err = -E_NOENT;
    for (size_t i = 0; i < reply->n_nodes; i++) {
        if (reply->nodes[i]->id != node)
            continue;
        *ret = rack_number(reply->nodes[i]->rack);
        err = 0;
    }
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return err;
}

static int handle_hello(void *ctx, struct rpc_request *request, const void *message)
{
    struct allocd *allocd = ctx;
    const Tarn__AgentHello *hello = message;
    uint32_t rack = 0;
    if (!allocd->active || !allocd->synced)
        return -E_NOT_LEADER;
    if (hello->node == 0 || hello->slots == 0 || hello->slots > 4096)
        return rpc_reply_error(request, -E_INVAL, NULL, "an agent has a node and 1 to 4096 slots");
    int err = find_rack(allocd, hello->node, &rack);
    if (err == -E_NOENT) /* inputs of a node without a store would never be local */
        return rpc_reply_error(request, -E_UNAVAIL, NULL, "the cluster has no storage node of that number");
    if (err != 0)
        return err;
    struct agent *agent = allocd->active ? allocd_agent(allocd, hello->node) : NULL;
    if (agent == NULL)
        return allocd->active ? -E_NOMEM : -E_NOT_LEADER;
    if (agent->conn != NULL && agent->conn != request->conn)
        rpc_conn_set_data(agent->conn, NULL);
    agent->conn = request->conn;
    rpc_conn_set_data(request->conn, agent);
    agent->seen_ms = io_mono_ms(allocd->io);
    agent->up = true;
    log_info("node %u: agent with %u slots, %zu tasks running", hello->node, hello->slots, hello->n_running);
    compare(allocd, agent, hello->running, hello->n_running, UINT64_MAX);
    Tarn__AgentHelloReply reply = TARN__AGENT_HELLO_REPLY__INIT;
    reply.role_epoch = allocd->role_epoch;
    reply.beat_ms = ALLOCD_BEAT_MS;
    err = rpc_reply(request, &reply.base);
    if (err == 0)
        err = alloc_node_up(allocd->alloc, hello->node, rack, hello->slots, allocd_now_us(allocd));
    allocd_pump(allocd);
    return err;
}

/* Does an agent run something it should not? What we have not read yet is left alone. */
static bool is_stray(struct allocd *allocd, const Tarn__TaskKey *key)
{
    struct run *run = map_get(&allocd->runs, key->job);
    if (run == NULL)
        return allocd->synced;
    if (run->job == NULL || run->phase < key->phase)
        return false;
    if (run->ending || run->phase > key->phase)
        return true;
    struct run_task *task = run_find(allocd, key);
    return task != NULL && (task->state == RUN_TASK_RUNNING || task->state == RUN_TASK_OVER) &&
           task->attempt > key->attempt;
}

static int handle_beat(void *ctx, struct rpc_request *request, const void *message)
{
    struct allocd *allocd = ctx;
    const Tarn__AgentBeat *beat = message;
    struct agent *agent = request->conn_data;
    if (!allocd->active || agent == NULL || !agent->up || agent->conn != request->conn)
        return -E_NOT_LEADER; /* the agent says hello again */
    agent->seen_ms = io_mono_ms(allocd->io);
    compare(allocd, agent, beat->running, beat->n_running,
            agent->seen_ms > LATE_PUSH_MS ? agent->seen_ms - LATE_PUSH_MS : 0);
    Tarn__AgentBeatReply reply = TARN__AGENT_BEAT_REPLY__INIT;
    _cleanup_free_ Tarn__TaskKey **kill = calloc(beat->n_running + 1, sizeof *kill);
    if (kill == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < beat->n_running; i++)
        if (is_stray(allocd, beat->running[i]))
            kill[reply.n_kill++] = beat->running[i];
    reply.kill = kill;
    return rpc_reply(request, &reply.base);
}

static void take_report(struct allocd *allocd, struct run_task *task, const Tarn__TaskReport *report)
{
    if (report->committed || task->run->ending) {
        run_task_over(task, report->ran_us);
    } else if (report->retry) {
        task->user_failures++;
        task->system_failures = 0;
        run_task_lost(task, report->why);
    } else { /* the system's fault, or void: whether it is done already is told when it is started */
        run_task_lost(task, report->why);
    }
}

static int handle_report(void *ctx, struct rpc_request *request, const void *message)
{
    struct allocd *allocd = ctx;
    const Tarn__TaskReport *report = message;
    if (!allocd->active || !allocd->synced)
        return -E_NOT_LEADER;
    if (report->key == NULL)
        return -E_INVAL;
    struct run_task *task = run_find(allocd, report->key);
    if (task != NULL && task->state == RUN_TASK_RUNNING && task->attempt == report->key->attempt) {
        if (report->system_error)
            log_warn("task %llu.%u.%llu on node %u, attempt %u: %s", (unsigned long long)report->key->job,
                     report->key->phase, (unsigned long long)report->key->index, report->node, report->key->attempt,
                     report->why);
        take_report(allocd, task, report);
    }
    return rpc_reply(request, NULL);
}

static void on_closed(void *ctx, struct rpc_conn *conn)
{
    struct agent *agent = rpc_conn_data(conn);
    if (agent != NULL && agent->conn == conn)
        agent->conn = NULL; /* it has ALLOCD_AGENT_SILENT_MS to come back */
}

static const struct rpc_op ops[] = {
    {OP_AGENT_HELLO, "agent hello", &tarn__agent_hello__descriptor, handle_hello},
    {OP_AGENT_BEAT, "agent beat", &tarn__agent_beat__descriptor, handle_beat},
    {OP_TASK_REPORT, "task report", &tarn__task_report__descriptor, handle_report},
};

/* ---- fibers of the active allocator */

static void supervise_fiber(void *arg)
{
    struct allocd *allocd = arg;
    while (allocd->active && io_sleep_ms(allocd->io, 250) == 0) {
        uint64_t now = io_mono_ms(allocd->io), node;
        void *value;
        for (size_t at = 0; allocd->active && map_next(&allocd->agents, &at, &node, &value);) {
            struct agent *agent = value;
            bool waits = agent->up || !list_empty(&agent->tasks);
            if (waits && now - agent->seen_ms > ALLOCD_AGENT_SILENT_MS)
                agent_lost(allocd, agent, "the agent is silent");
        }
    }
    fiber_group_done(&allocd->fibers);
}

static void tick_fiber(void *arg)
{
    struct allocd *allocd = arg;
    while (allocd->active && !io_stopping(allocd->io)) {
        alloc_advance(allocd->alloc, allocd_now_us(allocd));
        allocd_pump(allocd);
        allocd->armed_us = alloc_deadline(allocd->alloc);
        uint64_t now = allocd_now_us(allocd), wait_ms = 0;
        if (allocd->armed_us != UINT64_MAX)
            wait_ms = allocd->armed_us > now ? (allocd->armed_us - now) / 1000 + 1 : 1;
        if (fiber_queue_wait(&allocd->tick, wait_ms) == -E_CANCELED)
            break;
    }
    fiber_group_done(&allocd->fibers);
}

static int list_jobs(struct allocd *allocd)
{
    Tarn__JobList request = TARN__JOB_LIST__INIT;
    request.live = true;
    request.max = JOBS_PAGE;
    for (bool end = false; !end;) {
        Tarn__JobListReply *reply = NULL;
        int err = meta_call(allocd->meta, OP_JOB_LIST, &request.base, &request.ctx, &meta_root,
                            &tarn__job_list_reply__descriptor, &reply, NULL);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_jobs && err == 0 && allocd->active; i++) {
            request.after = reply->jobs[i]->id;
            if (map_get(&allocd->runs, reply->jobs[i]->id) == NULL)
                err = run_start(allocd, reply->jobs[i]->id);
        }
        end = reply->end || reply->n_jobs == 0;
        tarn__job_list_reply__free_unpacked(reply, NULL);
        if (err != 0)
            return err;
    }
    return 0;
}

static int watch(struct allocd *allocd)
{
    Tarn__Watch request = TARN__WATCH__INIT;
    request.jobs = true;
    return meta_call(allocd->meta, OP_WATCH, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

/* New jobs: at once by push; what a lost push or another leader hid, by asking. */
static void jobs_fiber(void *arg)
{
    struct allocd *allocd = arg;
    while (allocd->active && !io_stopping(allocd->io)) {
        allocd->jobs_dirty = false;
        int err = watch(allocd);
        if (err == 0)
            err = list_jobs(allocd);
        if (err == 0)
            allocd->synced = true;
        else if (err != -E_CANCELED)
            log_warn("cannot list the jobs: %s", err_sentence(err));
        if (!allocd->jobs_dirty && fiber_queue_wait(&allocd->watch, CATCH_UP_MS) == -E_CANCELED)
            break;
    }
    fiber_group_done(&allocd->fibers);
}

static void touch_all(struct allocd *allocd)
{
    uint64_t id;
    void *run;
    for (size_t at = 0; map_next(&allocd->runs, &at, &id, &run);)
        run_touch(run);
}

static void on_push(void *arg, unsigned op, const uint8_t *control, size_t len)
{
    struct allocd *allocd = arg;
    if (op != OP_JOB_CHANGED || !allocd->active)
        return;
    Tarn__JobChanged *changed = tarn__job_changed__unpack(NULL, len, control);
    if (changed == NULL)
        return;
    struct run *run = map_get(&allocd->runs, changed->job);
    if (changed->job == 0)
        touch_all(allocd); /* pushes may have been missed */
    if (run != NULL) {
        run_touch(run);
    } else {
        allocd->jobs_dirty = true;
        fiber_queue_wake_all(&allocd->watch);
    }
    tarn__job_changed__free_unpacked(changed, NULL);
}

/* ---- the role */

void allocd_resign(struct allocd *allocd, const char *why)
{
    if (!allocd->active)
        return;
    log_warn("giving the role up: %s", why);
    allocd->active = allocd->synced = false;
    uint64_t key;
    void *value;
    for (size_t at = 0; map_next(&allocd->runs, &at, &key, &value);) {
        struct run *run = value;
        run->ending = true;
        fiber_queue_wake_all(&run->changed);
    }
    fiber_queue_wake_all(&allocd->starters);
    fiber_queue_wake_all(&allocd->tick);
    fiber_queue_wake_all(&allocd->watch);
}

static void on_lost(void *arg)
{
    allocd_resign(arg, "the session with the metadata service expired");
}

static int spawn(struct allocd *allocd, const char *name, fiber_fn fn)
{
    fiber_group_add(&allocd->fibers);
    int err = fiber_spawn(allocd->io, name, fn, allocd);
    if (err != 0)
        fiber_group_done(&allocd->fibers);
    return err;
}

static void forget(struct allocd *allocd)
{
    uint64_t key;
    void *value;
    fiber_group_wait(&allocd->run_fibers);
    fiber_group_wait(&allocd->fibers);
    for (size_t at = 0; map_next(&allocd->agents, &at, &key, &value);) {
        struct agent *agent = value;
        if (agent->conn != NULL) {
            rpc_conn_set_data(agent->conn, NULL);
            rpc_conn_close(agent->conn);
        }
        free(agent);
    }
    map_fini(&allocd->agents);
    map_fini(&allocd->runs);
    allocd->agents = allocd->runs = (struct map){.slots = NULL};
    list_init(&allocd->starting);
    alloc_destroy(allocd->alloc);
    allocd->alloc = NULL;
}

static int ask_role(struct allocd *allocd, bool claim, Tarn__RoleReply **ret)
{
    Tarn__RoleClaim claim_request = TARN__ROLE_CLAIM__INIT;
    Tarn__RoleGet get_request = TARN__ROLE_GET__INIT;
    claim_request.role = get_request.role = ROLE;
    claim_request.address = allocd->address;
    return claim ? meta_call(allocd->meta, OP_ROLE_CLAIM, &claim_request.base, &claim_request.ctx, &meta_root,
                             &tarn__role_reply__descriptor, ret, NULL)
                 : meta_call(allocd->meta, OP_ROLE_GET, &get_request.base, &get_request.ctx, &meta_root,
                             &tarn__role_reply__descriptor, ret, NULL);
}

/* 1: the role is ours. */
static int claim_role(struct allocd *allocd)
{
    Tarn__RoleReply *reply = NULL;
    int err = ask_role(allocd, false, &reply);
    if (err != 0)
        return err;
    uint64_t own = meta_session(allocd->meta);
    bool busy = reply->held && reply->session != own;
    tarn__role_reply__free_unpacked(reply, NULL);
    if (busy)
        return 0;
    reply = NULL;
    err = ask_role(allocd, true, &reply);
    if (err != 0)
        return err;
    bool ours = reply->held && reply->session == own;
    allocd->role_epoch = reply->epoch;
    tarn__role_reply__free_unpacked(reply, NULL);
    return ours ? 1 : 0;
}

static void keep_role(struct allocd *allocd)
{
    while (allocd->active && fiber_queue_wait(&allocd->quitting, ROLE_CHECK_MS) == -E_TIMEOUT) {
        Tarn__RoleReply *reply = NULL;
        if (ask_role(allocd, false, &reply) != 0)
            continue; /* not reachable: the session's expiry decides */
        bool ours = reply->held && reply->session == meta_session(allocd->meta) && reply->epoch == allocd->role_epoch;
        tarn__role_reply__free_unpacked(reply, NULL);
        if (!ours)
            allocd_resign(allocd, "another allocator holds the role");
    }
}

static void serve(struct allocd *allocd)
{
    int err = alloc_create(NULL, &allocd->alloc);
    if (err != 0) {
        io_sleep_ms(allocd->io, RETRY_MS);
        return;
    }
    log_info("active: holds the role of the allocator, epoch %llu", (unsigned long long)allocd->role_epoch);
    allocd->active = true;
    allocd->armed_us = UINT64_MAX;
    err = spawn(allocd, "jobs", jobs_fiber);
    if (err == 0)
        err = spawn(allocd, "tick", tick_fiber);
    if (err == 0)
        err = spawn(allocd, "supervise", supervise_fiber);
    for (unsigned i = 0; i < ALLOCD_STARTERS && err == 0; i++)
        err = spawn(allocd, "starter", starter_fiber);
    if (err == 0)
        keep_role(allocd);
    allocd_resign(allocd, err == 0 ? "stopping" : err_sentence(err));
    forget(allocd);
}

static void role_fiber(struct allocd *allocd)
{
    bool told = false;
    while (!allocd->quit) {
        int r = claim_role(allocd);
        if (r == 1) {
            serve(allocd);
            told = false;
            continue;
        }
        if (r == 0 && !told)
            log_info("standing by: another allocator is active");
        told = true;
        if (fiber_queue_wait(&allocd->quitting, ROLE_TRY_MS) != -E_TIMEOUT)
            return;
    }
}

/* ---- process */

/* SIGTERM and SIGINT: the session is ended before the loop stops, so that a standby need not wait for its
 * expiry. When the metadata service does not answer, we end all the same. */
static void signal_fiber(void *arg)
{
    struct allocd *allocd = arg;
    if (io_poll(allocd->io, allocd->signal_fd, POLLIN, 0) < 0)
        return;
    allocd->quit = true;
    allocd_resign(allocd, "stopping");
    fiber_queue_wake_all(&allocd->quitting);
    if (io_sleep_ms(allocd->io, GOODBYE_MS) == 0)
        io_stop(allocd->io);
}

/* Before the first thread: they inherit the mask. */
static int open_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void run_server(struct allocd *allocd, struct io_listener *listener)
{
    const struct rpc_service service = {.ops = ops, .n_ops = ARRAY_SIZE(ops), .ctx = allocd, .closed = on_closed};
    struct rpc_server *server = NULL;
    int err = rpc_server_start(allocd->io, listener, &allocd->config.auth, &service, &server);
    if (err != 0) {
        cli_complain("cannot serve on %s: %s", allocd->address, err_sentence(err));
        allocd->exit_code = cli_exit_for(err);
        return;
    }
    puts("ready");
    fflush(stdout);
    role_fiber(allocd);
    rpc_server_stop(server);
}

struct start {
    struct allocd *allocd;
    const char *listen;
};

static void main_fiber(void *arg)
{
    struct start *start = arg;
    struct allocd *allocd = start->allocd;
    struct meta_options options = {.name = "tarn-allocd", .timeout_ms = SESSION_MS, .push = on_push, .lost = on_lost,
                                   .arg = allocd};
    struct io_listener *listener = NULL;
    int err = io_listen(allocd->io, start->listen, &listener);
    if (err != 0) {
        cli_complain("cannot listen on %s: %s", start->listen, err_sentence(err));
    } else {
        snprintf(allocd->address, sizeof allocd->address, "%s", io_listener_address(listener));
        err = meta_connect(allocd->io, &allocd->config, &options, &allocd->meta);
        if (err == 0) {
            run_server(allocd, listener);
            meta_disconnect(allocd->meta);
        } else {
            io_listener_close(listener);
            if (err != -E_CANCELED)
                cli_complain("cannot reach the metadata service: %s", err_sentence(err));
        }
    }
    if (err != 0 && err != -E_CANCELED)
        allocd->exit_code = cli_exit_for(err);
    io_stop(allocd->io);
}

int main(int argc, char **argv)
{
    static struct allocd allocd;
    struct start start = {.allocd = &allocd, .listen = "tcp:127.0.0.1:0"};
    const char *config_path = NULL, *why = "";
    const struct cli_option options[] = {
        {"config", CLI_STRING, &config_path, "FILE", "where the cluster is ($TARN_CONFIG, /etc/tarn/tarn.conf)", 0, 0},
        {"listen", CLI_ADDRESS, &start.listen, "ADDRESS", "where agents connect (tcp:127.0.0.1:0)", 0, 0},
    };
    int n_args = 0;
    log_init("tarn-allocd");
    cli_parse(argc, argv, "tarn-allocd [OPTION...]", "Hands the tasks of jobs to nodes.", options, ARRAY_SIZE(options),
              &n_args);
    if (n_args != 0) {
        cli_complain("tarn-allocd takes no arguments, only options");
        return CLI_USAGE;
    }
    int err = config_load(config_path, &allocd.config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    snprintf(allocd.config.auth.name, sizeof allocd.config.auth.name, "allocd");
    list_init(&allocd.starting);
    allocd.signal_fd = open_signals();
    err = allocd.signal_fd >= 0 ? io_uring_create(NULL, &allocd.io) : err_from_errno(errno);
    if (err == 0)
        err = fiber_spawn(allocd.io, "signals", signal_fiber, &allocd);
    if (err == 0)
        err = fiber_spawn(allocd.io, "allocd", main_fiber, &start);
    if (err == 0)
        err = io_run(allocd.io);
    if (err != 0)
        cli_complain("cannot run: %s", err_sentence(err));
    if (allocd.io != NULL)
        io_destroy(allocd.io);
    return err != 0 ? cli_exit_for(err) : allocd.exit_code;
}
