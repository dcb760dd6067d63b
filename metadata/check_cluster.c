/* Nodes, users, and J2-J4: jobs, their inputs and tasks. */
#include "check_impl.h"
#include "clustermap.h"
#include "meta.pb-c.h"

/* ---- nodes and users */
static int see_node(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct node node;
    uint64_t id = key_number(key, 0), of_uuid = 0;
    if (node_decode((uint32_t)id, value.data, value.len, &node) != 0) {
        check_undecodable(check, key, "node");
        return 0;
    }
    struct key uuid = key_named(TABLE_NODE_UUID, 0, (const char *)node.uuid, node.uuid_len);
    struct kv_val number;
    if (!check_get(check, &uuid, &number) || number_decode(number.data, number.len, &of_uuid) != 0 || of_uuid != id)
        check_violation(check, "P6", "node %llu is not found by its uuid", (unsigned long long)id);
    if (id >= check->state.next_node || node.epoch > check->state.epoch)
        check_violation(check, "P6", "node %llu was never given out, or not in epoch %llu", (unsigned long long)id,
                        (unsigned long long)node.epoch);
    return 0;
}

static int see_node_uuid(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t id = 0;
    bool known = number_decode(value.data, value.len, &id) == 0;
    struct key node = key_1(key_number(key, 0) == 0 ? TABLE_NODE : TABLE_DISK, id);
    if (!known || !check_has(check, &node))
        check_violation(check, "P6", "a uuid names node or disk %llu, which does not exist", (unsigned long long)id);
    return 0;
}

/* Rows that are a packed message behind the version byte. */
static ProtobufCMessage *unpack(struct check *check, const struct key *key, struct kv_val value,
                                const ProtobufCMessageDescriptor *type)
{
    ProtobufCMessage *message = value.len < 1 || value.data[0] != RECORD_VERSION
                                    ? NULL
                                    : protobuf_c_message_unpack(type, NULL, value.len - 1, value.data + 1);
    if (message == NULL)
        check_undecodable(check, key, type->short_name);
    return message;
}

static int see_user(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    Tarn__User *user = (Tarn__User *)unpack(check, key, value, &tarn__user__descriptor);
    size_t len;
    const char *access_key = key_name(key, &len);
    if (user == NULL)
        return 0;
    if (strlen(user->access_key) != len || memcmp(user->access_key, access_key, len) != 0)
        check_violation(check, "U1", "the user %s is filed under another access key", user->name);
    tarn__user__free_unpacked(user, NULL);
    return 0;
}

/* ---- jobs */
struct job {
    uint64_t id, inputs, bytes, planned, done, failed, outputs;
};

static int add_input(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct job *job = arg;
    Tarn__JobInput *input = (Tarn__JobInput *)unpack(check, key, value, &tarn__job_input__descriptor);
    if (input == NULL)
        return 0;
    job->inputs++;
    job->bytes += input->size;
    tarn__job_input__free_unpacked(input, NULL);
    return 0;
}

static int add_phase(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct job *job = arg;
    uint64_t tasks;
    if (number_decode(value.data, value.len, &tasks) != 0)
        check_undecodable(check, key, "number of tasks");
    else
        job->planned += tasks;
    return 0;
}

static int add_task(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct job *job = arg;
    Tarn__Task *task = (Tarn__Task *)unpack(check, key, value, &tarn__task__descriptor);
    if (task == NULL)
        return 0;
    job->done += task->state == TARN__TASK_STATE__TASK_DONE;
    job->failed += task->state == TARN__TASK_STATE__TASK_FAILED;
    job->outputs += task->state == TARN__TASK_STATE__TASK_DONE ? task->n_outputs : 0;
    tarn__task__free_unpacked(task, NULL);
    return 0;
}

static void compare(struct check *check, const struct job *job, const char *what, uint64_t says, uint64_t is)
{
    if (says != is)
        check_violation(check, "J2", "job %llu says that it has %llu %s, there are %llu", (unsigned long long)job->id,
                        (unsigned long long)says, what, (unsigned long long)is);
}

static int see_job(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct job job = {.id = key_number(key, 0)};
    struct key inputs = key_1(TABLE_JOB_INPUT, job.id), phases = key_1(TABLE_JOB_PHASE, job.id),
               tasks = key_1(TABLE_TASK_RECORD, job.id), live = key_1(TABLE_JOB_LIVE, job.id);
    Tarn__Job *row = (Tarn__Job *)unpack(check, key, value, &tarn__job__descriptor);
    if (row == NULL)
        return 0;
    int err = check_below(check, &inputs, add_input, &job);
    if (err == 0)
        err = check_below(check, &phases, add_phase, &job);
    if (err == 0)
        err = check_below(check, &tasks, add_task, &job);
    bool lives = row->state == TARN__JOB_STATE__JOB_QUEUED || row->state == TARN__JOB_STATE__JOB_RUNNING;
    if (lives != check_has(check, &live))
        check_violation(check, "J3", "job %llu is %s and is %s the live ones", (unsigned long long)job.id,
                        lives ? "not finished" : "finished", lives ? "not among" : "among");
    compare(check, &job, "inputs", row->inputs, job.inputs);
    compare(check, &job, "bytes of inputs", row->bytes, job.bytes);
    compare(check, &job, "planned tasks", row->tasks, job.planned);
    compare(check, &job, "tasks done", row->tasks_done, job.done);
    compare(check, &job, "tasks failed", row->tasks_failed, job.failed);
    compare(check, &job, "outputs", row->outputs, job.outputs);
    tarn__job__free_unpacked(row, NULL);
    return err;
}

static int see_of_job(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct key job = key_1(TABLE_JOB, key_number(key, 0));
    if (!check_has(check, &job))
        check_violation(check, "J1", "%s is left of job %llu", (const char *)arg, (unsigned long long)key_number(key, 0));
    return 0;
}

int check_room_cluster(struct check *check)
{
    const struct {
        enum table table;
        check_visit visit;
        const char *what;
    } visits[] = {
        {TABLE_NODE, see_node, NULL},
        {TABLE_NODE_UUID, see_node_uuid, NULL},
        {TABLE_USER, see_user, NULL},
        {TABLE_JOB, see_job, NULL},
        {TABLE_JOB_LIVE, see_of_job, "a place among the live ones"},
        {TABLE_JOB_PHASE, see_of_job, "a phase"},
        {TABLE_JOB_INPUT, see_of_job, "an input"},
        {TABLE_TASK_RECORD, see_of_job, "a task"},
    };
    int err = 0;
    for (size_t i = 0; err == 0 && i < ARRAY_SIZE(visits); i++)
        err = check_each(check, visits[i].table, visits[i].visit, (void *)(uintptr_t)visits[i].what);
    return err;
}
