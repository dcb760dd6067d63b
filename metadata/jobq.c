#include "jobq.h"

#include <stdio.h>

#include "common/err.h"
#include "namespace.h"
#include "ops.h"
#include "session.h"

#define LIST_MAX 500            /* jobs, inputs or tasks in one answer */
#define LIST_BYTES_MAX KIB(700) /* of one answer: below the frame's 1 MiB of control */

/* ---- rows that are packed messages behind the version byte */
static int message_put(struct tables *t, const struct key *key, const ProtobufCMessage *message)
{
    _cleanup_(writer_fini) struct writer w = {0};
    size_t len = protobuf_c_message_get_packed_size(message);
    _cleanup_free_ uint8_t *packed = malloc(len + 1);
    if (packed == NULL)
        return -E_NOMEM;
    protobuf_c_message_pack(message, packed);
    writer_u8(&w, RECORD_VERSION);
    writer_bytes(&w, packed, len);
    return tables_put(t, key, &w);
}

static int message_get(struct tables *t, const struct key *key,
                       const ProtobufCMessageDescriptor *type, void *ret)
{
    struct kv_val value;
    int err = tables_get(t, key, &value);
    if (err != 0)
        return err;
    ProtobufCMessage *message;
    err = tables_message(t, key, value, type, &message);
    if (err == 0)
        memcpy(ret, &message, sizeof message);
    return err;
}

static void job_freep(Tarn__Job **job)
{
    tarn__job__free_unpacked(*job, NULL);
}

static void task_freep(Tarn__Task **task)
{
    tarn__task__free_unpacked(*task, NULL);
}

static int job_load(struct tables *t, uint64_t id, Tarn__Job **ret)
{
    struct key key = key_1(TABLE_JOB, id);
    int err = message_get(t, &key, &tarn__job__descriptor, ret);
    return err == -E_NOENT ? tables_fail(t, err, "job %llu is not known", (unsigned long long)id)
                           : err;
}

static bool job_live(const Tarn__Job *job)
{
    return job->state == TARN__JOB_STATE__JOB_QUEUED || job->state == TARN__JOB_STATE__JOB_RUNNING;
}

/* Stores the job and tells everybody who watches. */
static int job_store(struct tables *t, Tarn__Job *job)
{
    job->version++;
    struct key key = key_1(TABLE_JOB, job->id), live = key_1(TABLE_JOB_LIVE, job->id);
    int err = message_put(t, &key, &job->base);
    if (err == 0 && job_live(job) != tables_has(t, &live))
        err = job_live(job) ? tables_put_empty(t, &live) : tables_del(t, &live);
    Tarn__JobChanged changed = TARN__JOB_CHANGED__INIT;
    changed.job = job->id;
    return err == 0 ? tables_push(t, 0, OP_JOB_CHANGED, &changed.base) : err;
}

static int job_reply(struct tables *t, Tarn__Job *job)
{
    Tarn__JobReply reply = TARN__JOB_REPLY__INIT;
    reply.job = job;
    return tables_reply(t, &reply.base);
}

static int may_use(const struct tables *t, const Tarn__Job *job)
{
    return t->cred.uid == 0 || t->cred.uid == job->uid ? 0 : -E_ACCES;
}

/* Ordered by time, unique, and below 2^53 so that every JSON reader keeps it exact. */
static uint64_t next_id(struct tables *t)
{
    struct state *s = tables_state(t);
    uint64_t by_time = t->now / 1000000000u << 20;
    uint64_t id = MAX(s->next_job, by_time);
    s->next_job = id + 1;
    return id;
}

static int make_dir(struct tables *t, const Tarn__Job *job)
{
    struct entry entry;
    _cleanup_(inode_fini) struct inode jobs = {0};
    _cleanup_(inode_fini) struct inode dir = {0};
    int err = ns_entry_get(t, MD_ROOT, "jobs", &entry);
    if (err == 0)
        err = ns_inode_get(t, entry.ino, &jobs);
    if (err != 0)
        return tables_fail(t, err, "the directory /jobs is not there; root makes it with 'tarn mkdir /jobs'");
    struct ns_new spec = {
        .type = TARN__FILE_TYPE__FT_DIR, .mode = 0755, .uid = job->uid, .gid = job->gid};
    return ns_mkdir(t, &jobs, strrchr(job->dir, '/') + 1, &spec, &dir);
}

int jobq_cmd_create(struct tables *t, const void *message)
{
    const Tarn__JobCreate *m = message;
    if (m->job == NULL || m->job->n_phases == 0 || m->job->n_phases > JOBQ_PHASES_MAX)
        return tables_fail(t, -E_INVAL, "a job has 1 to %d phases", JOBQ_PHASES_MAX);
    for (size_t i = 0; i < m->job->n_phases; i++)
        if (m->job->phases[i]->exec[0] == 0)
            return tables_fail(t, -E_INVAL, "phase %zu has no command", i);
    char dir[64];
    Tarn__Job job = TARN__JOB__INIT;
    job.id = next_id(t);
    (void)snprintf(dir, sizeof dir, "/jobs/%llu", (unsigned long long)job.id);
    job.dir = dir;
    job.name = m->job->name;
    job.n_phases = m->job->n_phases;
    job.phases = m->job->phases;
    job.state = TARN__JOB_STATE__JOB_QUEUED;
    job.uid = t->cred.uid;
    job.gid = t->cred.gid;
    job.created = t->now;
    int err = make_dir(t, &job);
    if (err == 0)
        err = job_store(t, &job);
    return err == 0 ? job_reply(t, &job) : err;
}

static int input_add(struct tables *t, Tarn__Job *job, const char *path)
{
    _cleanup_(ns_walk_fini) struct ns_walk walk;
    int err = ns_walk(t, MD_ROOT, path, 0, &walk);
    if (err == 0)
        err = ns_may(t, &walk.inode, NS_READ);
    if (err == 0 && walk.inode.type != TARN__FILE_TYPE__FT_FILE)
        err = -E_ISDIR;
    if (err != 0)
        return tables_fail(t, err, "input %.120s: %s", path, err_sentence(err));
    Tarn__JobInput input = TARN__JOB_INPUT__INIT;
    input.index = job->inputs++;
    input.path = (char *)path;
    input.ino = walk.inode.ino;
    input.version = walk.inode.version;
    input.size = walk.inode.size;
    job->bytes += input.size;
    struct key key = key_2(TABLE_JOB_INPUT, job->id, input.index);
    return message_put(t, &key, &input.base);
}

int jobq_cmd_inputs(struct tables *t, const void *message)
{
    const Tarn__JobInputs *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    int err = job_load(t, m->job, &job);
    if (err == 0)
        err = may_use(t, job);
    if (err != 0)
        return err;
    if (!job_live(job) || (job->input_done && m->n_paths > 0))
        return tables_fail(t, -E_INVAL, "job %llu takes no more inputs",
                           (unsigned long long)m->job);
    for (size_t i = 0; i < m->n_paths && err == 0; i++)
        err = input_add(t, job, m->paths[i]);
    job->input_done |= m->end;
    if (err == 0)
        err = job_store(t, job);
    return err == 0 ? job_reply(t, job) : err;
}

int jobq_cmd_cancel(struct tables *t, const void *message)
{
    const Tarn__JobCancel *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    int err = job_load(t, m->job, &job);
    if (err == 0)
        err = may_use(t, job);
    if (err != 0)
        return err;
    if (!job_live(job) || job->cancel)
        return job_reply(t, job);
    job->cancel =
        true; /* from now on no task commits; the allocator ends the running ones and finishes */
    if (job->state == TARN__JOB_STATE__JOB_QUEUED) {
        job->state = TARN__JOB_STATE__JOB_CANCELED;
        job->done = t->now;
    }
    err = job_store(t, job);
    return err == 0 ? job_reply(t, job) : err;
}

int jobq_cmd_finish(struct tables *t, const void *message)
{
    const Tarn__JobFinish *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    if (m->state != TARN__JOB_STATE__JOB_DONE && m->state != TARN__JOB_STATE__JOB_FAILED &&
        m->state != TARN__JOB_STATE__JOB_CANCELED)
        return -E_INVAL;
    int err = session_role_check(t, JOBQ_ROLE, m->role_epoch);
    if (err == 0)
        err = job_load(t, m->job, &job);
    if (err != 0)
        return err;
    if (!job_live(job))
        return job_reply(t, job);
    job->state = job->cancel ? TARN__JOB_STATE__JOB_CANCELED : m->state;
    job->done = t->now;
    err = job_store(t, job);
    return err == 0 ? job_reply(t, job) : err;
}

static int planned(struct tables *t, uint64_t job, uint32_t phase, uint64_t *ret)
{
    struct key key = key_2(TABLE_JOB_PHASE, job, phase);
    struct kv_val value;
    *ret = 0;
    int err = tables_get(t, &key, &value);
    if (err == 0 && number_decode(value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "job phase");
    return err == -E_NOENT ? 0 : err;
}

/* The phase has that many tasks; a plan only grows (inputs may still come), a repeated one changes
 * nothing. */
int jobq_cmd_plan(struct tables *t, const void *message)
{
    const Tarn__JobPlan *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    uint64_t before;
    int err = session_role_check(t, JOBQ_ROLE, m->role_epoch);
    if (err == 0)
        err = job_load(t, m->job, &job);
    if (err == 0)
        err = planned(t, m->job, m->phase, &before);
    if (err != 0)
        return err;
    if (m->phase >= job->n_phases || m->tasks > JOBQ_TASKS_MAX)
        return -E_INVAL;
    if (!job_live(job) || job->cancel)
        return -E_CANCELED;
    if (m->tasks < before)
        return tables_fail(t, -E_INVAL, "phase %u has %llu tasks already", m->phase,
                           (unsigned long long)before);
    job->tasks += m->tasks - before;
    job->phase = MAX(job->phase, m->phase);
    job->state = TARN__JOB_STATE__JOB_RUNNING;
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(m->tasks, &w);
    struct key key = key_2(TABLE_JOB_PHASE, m->job, m->phase);
    err = tables_put(t, &key, &w);
    if (err == 0)
        err = job_store(t, job);
    return err == 0 ? job_reply(t, job) : err;
}

/* ---- tasks */
static struct key task_key(uint64_t job, uint32_t phase, uint64_t index)
{
    return key_3(TABLE_TASK_RECORD, job, phase, index);
}

static int task_reply(struct tables *t, Tarn__Task *task)
{
    Tarn__TaskStartReply reply = TARN__TASK_START_REPLY__INIT;
    reply.attempt = task->attempt;
    reply.task = task;
    return tables_reply(t, &reply.base);
}

int jobq_cmd_task_start(struct tables *t, const void *message)
{
    const Tarn__TaskStart *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    _cleanup_(task_freep) Tarn__Task *before = NULL;
    uint64_t tasks;
    struct key key = task_key(m->job, m->phase, m->index);
    int err = session_role_check(t, JOBQ_ROLE, m->role_epoch);
    if (err == 0)
        err = job_load(t, m->job, &job);
    if (err == 0)
        err = planned(t, m->job, m->phase, &tasks);
    if (err != 0)
        return err;
    if (!job_live(job) || job->cancel)
        return -E_CANCELED;
    if (m->index >= tasks)
        return tables_fail(t, -E_INVAL, "phase %u has %llu tasks", m->phase,
                           (unsigned long long)tasks);
    err = message_get(t, &key, &tarn__task__descriptor, &before);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (before != NULL && before->state == TARN__TASK_STATE__TASK_DONE)
        return tables_fail(t, -E_CONFLICT, "the task is done");
    Tarn__Task task = TARN__TASK__INIT;
    task.job = m->job;
    task.phase = m->phase;
    task.index = m->index;
    task.state = TARN__TASK_STATE__TASK_RUNNING;
    task.attempt = before == NULL ? 1 : before->attempt + 1;
    task.node = m->node;
    task.started = t->now;
    task.n_inputs = m->n_inputs != 0 || before == NULL ? m->n_inputs : before->n_inputs;
    task.inputs = m->n_inputs != 0 || before == NULL ? m->inputs : before->inputs;
    err = message_put(t, &key, &task.base);
    if (err == 0 && before != NULL && before->state == TARN__TASK_STATE__TASK_FAILED) {
        job->tasks_failed--;
        err = job_store(t, job);
    }
    return err == 0 ? task_reply(t, &task) : err;
}

static void receipt_add(Tarn__Receipt *sum, const Tarn__Receipt *one)
{
    sum->local += one->local;
    sum->rack += one->rack;
    sum->remote += one->remote;
    sum->mapped += one->mapped;
    sum->cpu_us += one->cpu_us;
    sum->wall_us += one->wall_us;
    sum->start_us += one->start_us;
}

static int commit_job(struct tables *t, Tarn__Job *job, const Tarn__Task *task)
{
    if (task->state == TARN__TASK_STATE__TASK_DONE) {
        job->tasks_done++;
        job->outputs += task->n_outputs;
    } else {
        job->tasks_failed++;
    }
    Tarn__Receipt sum = TARN__RECEIPT__INIT, *own = job->receipt;
    if (own != NULL)
        receipt_add(&sum, own);
    if (task->receipt != NULL)
        receipt_add(&sum, task->receipt);
    job->receipt = &sum;
    int err = job_store(t, job);
    job->receipt = own;
    return err;
}

/* J2: 0 when the attempt is the current one and still runs; 1 when it has committed before. */
static int commit_check(struct tables *t, const Tarn__Task *task, const Tarn__Task *current)
{
    if (current == NULL || task->attempt != current->attempt)
        return tables_fail(t, -E_STALE, "attempt %u of the task is not the current one (%u)",
                           task->attempt, current == NULL ? 0 : current->attempt);
    return current->state == TARN__TASK_STATE__TASK_RUNNING ? 0 : 1;
}

int jobq_cmd_task_commit(struct tables *t, const void *message)
{
    const Tarn__TaskCommit *m = message;
    if (m->task == NULL || (m->task->state != TARN__TASK_STATE__TASK_DONE &&
                            m->task->state != TARN__TASK_STATE__TASK_FAILED))
        return tables_fail(t, -E_INVAL, "a task commits as done or failed");
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    _cleanup_(task_freep) Tarn__Task *current = NULL;
    struct key key = task_key(m->task->job, m->task->phase, m->task->index);
    int err = job_load(t, m->task->job, &job);
    if (err == 0)
        err = message_get(t, &key, &tarn__task__descriptor, &current);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (job == NULL)
        return err;
    int again = commit_check(t, m->task, current);
    if (again < 0)
        return again;
    if (again == 1)
        return task_reply(t, current);
    if (!job_live(job) || job->cancel)
        return -E_CANCELED;
    for (size_t i = 0; i < m->n_objects && err == 0; i++) {
        _cleanup_(inode_fini) struct inode inode = {0};
        err = ns_object_commit(t, m->objects[i], &inode);
    }
    Tarn__Task task = *m->task;
    task.started = current->started;
    task.ended = t->now;
    task.node = current->node;
    if (task.n_inputs == 0) {
        task.n_inputs = current->n_inputs;
        task.inputs = current->inputs;
    }
    if (err == 0)
        err = message_put(t, &key, &task.base);
    if (err == 0)
        err = commit_job(t, job, &task);
    return err == 0 ? task_reply(t, &task) : err;
}

/* ---- queries */
int jobq_query_get(struct tables *t, const void *message)
{
    const Tarn__JobGet *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    int err = job_load(t, m->job, &job);
    if (err == 0)
        err = may_use(t, job);
    return err == 0 ? job_reply(t, job) : err;
}

/* A list of unpacked messages with a bound on their number and size. */
struct list {
    const ProtobufCMessageDescriptor *type;
    struct tables *t;
    size_t max, count, bytes;
    ProtobufCMessage **messages;
    bool more, own_jobs_only;
};

static void list_fini(struct list *list)
{
    for (size_t i = 0; i < list->count; i++)
        protobuf_c_message_free_unpacked(list->messages[i], NULL);
    free(list->messages);
}

static int list_init(struct list *list, uint32_t max)
{
    list->max = max == 0 ? LIST_MAX : MIN((size_t)max, (size_t)LIST_MAX);
    list->messages = calloc(list->max + 1, sizeof *list->messages);
    return list->messages == NULL ? -E_NOMEM : 0;
}

static int list_visit(void *arg, struct kv_val key, struct kv_val value)
{
    struct list *list = arg;
    if (list->count == list->max || (list->count > 0 && list->bytes + value.len > LIST_BYTES_MAX)) {
        list->more = true;
        return 1;
    }
    ProtobufCMessage *message;
    struct key table = key_table((enum table)key.data[0]);
    int err = tables_message(list->t, &table, value, list->type, &message);
    if (err != 0)
        return err;
    if (list->own_jobs_only && may_use(list->t, (Tarn__Job *)message) != 0) {
        protobuf_c_message_free_unpacked(message, NULL);
        return 0;
    }
    list->messages[list->count++] = message;
    list->bytes += value.len;
    return 0;
}

static int live_jobs(struct tables *t, uint64_t after, struct list *list)
{
    struct key prefix = key_table(TABLE_JOB_LIVE), start = key_1(TABLE_JOB_LIVE, after + 1);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &start, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0 && !list->more; i++) {
        struct key key = key_1(TABLE_JOB, key_number(&rows.rows[i].key, 0));
        struct kv_val value;
        err = tables_get(t, &key, &value);
        if (err == 0)
            err = list_visit(list, (struct kv_val){.data = key.data, .len = key.len}, value);
        err = err == 1 ? 0 : err;
    }
    return err;
}

int jobq_query_list(struct tables *t, const void *message)
{
    const Tarn__JobList *m = message;
    _cleanup_(list_fini) struct list list = {
        .type = &tarn__job__descriptor, .t = t, .own_jobs_only = t->cred.uid != 0};
    struct key prefix = key_table(TABLE_JOB), start = key_1(TABLE_JOB, m->after + 1);
    int err = list_init(&list, m->max);
    if (err == 0)
        err = m->live ? live_jobs(t, m->after, &list)
                      : tables_scan(t, &start, &prefix, list_visit, &list);
    if (err != 0)
        return err;
    Tarn__JobListReply reply = TARN__JOB_LIST_REPLY__INIT;
    reply.n_jobs = list.count;
    reply.jobs = (Tarn__Job **)list.messages;
    reply.end = !list.more;
    return tables_reply(t, &reply.base);
}

int jobq_query_inputs(struct tables *t, const void *message)
{
    const Tarn__JobInputList *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    _cleanup_(list_fini) struct list list = {.type = &tarn__job_input__descriptor, .t = t};
    struct key prefix = key_1(TABLE_JOB_INPUT, m->job),
               start = key_2(TABLE_JOB_INPUT, m->job, m->after);
    int err = job_load(t, m->job, &job);
    if (err == 0)
        err = may_use(t, job);
    if (err == 0)
        err = list_init(&list, m->max);
    if (err == 0)
        err = tables_scan(t, &start, &prefix, list_visit, &list);
    if (err != 0)
        return err;
    Tarn__JobInputListReply reply = TARN__JOB_INPUT_LIST_REPLY__INIT;
    reply.n_inputs = list.count;
    reply.inputs = (Tarn__JobInput **)list.messages;
    reply.end = !list.more;
    return tables_reply(t, &reply.base);
}

/* `after`: index to start at, as for inputs. */
int jobq_query_tasks(struct tables *t, const void *message)
{
    const Tarn__TaskList *m = message;
    _cleanup_(job_freep) Tarn__Job *job = NULL;
    _cleanup_(list_fini) struct list list = {.type = &tarn__task__descriptor, .t = t};
    struct key prefix = key_2(TABLE_TASK_RECORD, m->job, m->phase);
    struct key start = key_3(TABLE_TASK_RECORD, m->job, m->phase, m->after);
    int err = job_load(t, m->job, &job);
    if (err == 0)
        err = may_use(t, job);
    if (err == 0)
        err = list_init(&list, m->max);
    if (err == 0)
        err = tables_scan(t, &start, &prefix, list_visit, &list);
    if (err != 0)
        return err;
    Tarn__TaskListReply reply = TARN__TASK_LIST_REPLY__INIT;
    reply.n_tasks = list.count;
    reply.tasks = (Tarn__Task **)list.messages;
    reply.end = !list.more;
    return tables_reply(t, &reply.base);
}
