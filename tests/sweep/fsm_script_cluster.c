/* The sweep's script, second part: sessions, nodes, chunks, policies, users, roles and jobs. */
#include "fsm_sweep.h"

#include "common/err.h"
#include "ops.h"

#include <fcntl.h>

#define NODES 4
#define CHUNK_BYTES 1000 /* what a store says of each chunk */
#define CHUNK_DIGEST 77
#define ROUNDS_MAX 10

static Tarn__Where at(const char *path)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)(uintptr_t)path;
    return where;
}

/* ---- sessions and nodes */

static void node_join(struct sweep *s, uint8_t which)
{
    uint8_t uuid[16] = {which}, disk_uuid[2][16] = {{which, 1}, {which, 2}};
    Tarn__Node node = TARN__NODE__INIT;
    Tarn__Disk disk[2] = {TARN__DISK__INIT, TARN__DISK__INIT}, *disks[] = {&disk[0], &disk[1]};
    Tarn__NodeJoin join = TARN__NODE_JOIN__INIT;
    for (unsigned i = 0; i < 2; i++) {
        disk[i].uuid = (ProtobufCBinaryData){.data = disk_uuid[i], .len = sizeof disk_uuid[i]};
        disk[i].total = disk[i].free = GIB(100);
    }
    node.host = node.machine = "h";
    node.rack = which % 2 == 1 ? "r1" : "r2";
    node.address = "tcp:h:1";
    node.disks = disks;
    node.n_disks = ARRAY_SIZE(disks);
    join.node = &node;
    join.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
    sweep_apply(s, OP_NODE_JOIN, &join.base, 0);
}

void sweep_script_begin(struct sweep *s)
{
    for (uint8_t i = 1; i <= NODES; i++)
        node_join(s, i);
    for (uint8_t i = 1; i <= 2; i++) {
        uint8_t uuid[16] = {i};
        Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
        open.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
        open.name = "sweep";
        sweep_apply(s, OP_SESSION_OPEN, &open.base, 0);
    }
}

static void session_end(struct sweep *s, uint64_t session, bool expired, Tarn__EndStage stage)
{
    Tarn__SessionEnd end = TARN__SESSION_END__INIT;
    end.session = session;
    end.expired = expired;
    end.stage = stage;
    end.ctx = sweep_ctx(s);
    sweep_apply(s, OP_SESSION_END, &end.base, 0);
}

void sweep_script_end(struct sweep *s)
{
    session_end(s, 2, true, TARN__END_STAGE__END_FENCE);
    sweep_look(s);
    session_end(s, 2, true, TARN__END_STAGE__END_RELEASE);
    session_end(s, 1, false, TARN__END_STAGE__END_WHOLE);
    sweep_look(s);
}

/* ---- what stores do */

static void task_done(struct sweep *s, uint32_t node, const Tarn__ChunkTask *task)
{
    Tarn__ChunkTaskDone done = TARN__CHUNK_TASK_DONE__INIT, *one[] = {&done};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    done.id = task->id;
    done.chunk = task->chunk;
    done.generation = task->generation;
    done.kind = task->kind;
    done.length = CHUNK_BYTES;
    done.digest = CHUNK_DIGEST;
    m.node = node;
    m.done = one;
    m.n_done = 1;
    sweep_apply(s, OP_CHUNK_TASKS_DONE, &m.base, 0);
}

/* Tasks there are, carried out. */
static size_t node_works(struct sweep *s, uint32_t node)
{
    struct kv_txn *txn;
    uint8_t *reply = NULL;
    size_t len = 0;
    if (kv_begin(s->kv, false, &txn) != 0 || fsm_node_tasks(txn, node, 100, &reply, &len) != 0)
        abort();
    kv_abort(txn);
    Tarn__NodeBeatReply *beat = tarn__node_beat_reply__unpack(NULL, len, reply);
    free(reply);
    if (beat == NULL)
        abort();
    size_t n = beat->n_tasks;
    for (size_t i = 0; i < n; i++)
        task_done(s, node, beat->tasks[i]);
    tarn__node_beat_reply__free_unpacked(beat, NULL);
    return n;
}

/* Background work of the leader's and tasks of the stores', until nothing is left. */
static void settle(struct sweep *s)
{
    size_t n = 1;
    for (unsigned round = 0; round < ROUNDS_MAX && n > 0; round++) {
        sweep_look(s);
        Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
        sweep_apply(s, OP_CHUNK_TASKS_DONE, &m.base, 0);
        n = 0;
        for (uint32_t node = 1; node <= NODES; node++)
            n += node_works(s, node);
    }
}

/* ---- files of chunks */

static uint64_t open_data(struct sweep *s, bool create, uint64_t *ret_ino)
{
    Tarn__Where root = at(""), file = at("/data");
    Tarn__Create made = TARN__CREATE__INIT;
    Tarn__Open open = TARN__OPEN__INIT;
    made.ctx = open.ctx = sweep_ctx(s);
    made.parent = &root;
    made.name = "data";
    made.type = TARN__FILE_TYPE__FT_FILE;
    made.open = true;
    made.open_flags = open.flags = O_RDWR;
    open.where = &file;
    if (create)
        sweep_apply(s, OP_CREATE, &made.base, 0);
    else
        sweep_apply(s, OP_OPEN, &open.base, 0);
    Tarn__Entry *entry = sweep_reply(s, &tarn__entry__descriptor);
    *ret_ino = entry->attr->ino;
    return entry->handle;
}

static Tarn__Extent *chunk_write(struct sweep *s, uint64_t ino)
{
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ctx = sweep_ctx(s);
    m.ino = ino;
    m.writer_node = 1;
    sweep_apply(s, OP_CHUNK_WRITE, &m.base, 0);
    return ((Tarn__ChunkReply *)sweep_reply(s, &tarn__chunk_reply__descriptor))->extent;
}

static void grow(struct sweep *s, uint64_t ino)
{
    Tarn__Where file = TARN__WHERE__INIT;
    Tarn__SetAttr set = TARN__SET_ATTR__INIT;
    file.ino = ino;
    set.ctx = sweep_ctx(s);
    set.where = &file;
    set.mask = TARN__SET_ATTR_BITS__SA_GROW;
    set.size = CHUNK_BYTES;
    sweep_apply(s, OP_SETATTR, &set.base, 0);
}

static void close_data(struct sweep *s, uint64_t handle)
{
    Tarn__Close close = TARN__CLOSE__INIT;
    close.ctx = sweep_ctx(s);
    close.handle = handle;
    sweep_apply(s, OP_CLOSE, &close.base, 0);
}

static void chunks(struct sweep *s)
{
    uint64_t ino, handle = open_data(s, true, &ino);
    const Tarn__Extent *extent = chunk_write(s, ino);
    Tarn__ChunkFailed failed = TARN__CHUNK_FAILED__INIT;
    failed.chunk = extent->chunk;
    failed.generation = extent->generation;
    failed.disk = extent->replicas[1]->disk;
    failed.why = "sweep";
    failed.ctx = sweep_ctx(s);
    sweep_apply(s, OP_CHUNK_FAILED, &failed.base, 0);
    grow(s, ino);
    close_data(s, handle); /* seals */
    settle(s);
    handle = open_data(s, false, &ino);
    extent = chunk_write(s, ino); /* a clone of the sealed one */
    Tarn__ChunkSwap swap = TARN__CHUNK_SWAP__INIT;
    swap.ino = ino;
    swap.old_chunk = extent->clone_of;
    swap.new_chunk = extent->chunk;
    swap.ctx = sweep_ctx(s);
    sweep_apply(s, OP_CHUNK_SWAP, &swap.base, 0);
    close_data(s, handle);
    settle(s);
}

static uint64_t upload(struct sweep *s)
{
    Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
    m.ctx = sweep_ctx(s);
    m.copies = 3;
    sweep_apply(s, OP_UPLOAD_CHUNK, &m.base, 0);
    return ((Tarn__UploadChunkReply *)sweep_reply(s, &tarn__upload_chunk_reply__descriptor))->upload;
}

static void objects(struct sweep *s)
{
    uint64_t length = CHUNK_BYTES;
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts = &part;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    part.upload = upload(s);
    part.lengths = &length;
    part.n_lengths = 1;
    object.path = "d/deep/er/object";
    object.parts = &parts;
    object.n_parts = 1;
    commit.object = &object;
    commit.ctx = sweep_ctx(s);
    sweep_apply(s, OP_OBJECT_COMMIT, &commit.base, 0);
    Tarn__UploadAbort abort_it = TARN__UPLOAD_ABORT__INIT;
    abort_it.upload = upload(s);
    abort_it.ctx = sweep_ctx(s);
    sweep_apply(s, OP_UPLOAD_ABORT, &abort_it.base, 0);
    Tarn__Where where = at("/d/deep/er/object");
    Tarn__FileMap map = TARN__FILE_MAP__INIT;
    map.where = &where;
    sweep_query(s, OP_FILE_MAP, &map.base, 0);
    settle(s);
}

/* ---- nodes and policies */

/* A snapshot of files with chunks, a clone, a write into the clone: chunks that are shared. */
static void shared_chunks(struct sweep *s)
{
    Tarn__Where deep = at("/d/deep"), root = at("");
    Tarn__SnapshotTake take = TARN__SNAPSHOT_TAKE__INIT;
    take.where = &deep;
    take.name = "s";
    take.ctx = sweep_ctx(s);
    sweep_apply(s, OP_SNAPSHOT_TAKE, &take.base, 0);
    Tarn__Clone clone = TARN__CLONE__INIT;
    clone.where = &deep;
    clone.name = "s";
    clone.parent = &root;
    clone.new_name = "deep2";
    clone.ctx = sweep_ctx(s);
    sweep_apply(s, OP_CLONE, &clone.base, 0);
    Tarn__Where file = at("/deep2/er/object");
    Tarn__SetAttr set = TARN__SET_ATTR__INIT;
    set.where = &file;
    set.mask = TARN__SET_ATTR_BITS__SA_SIZE;
    set.size = 0;
    set.ctx = sweep_ctx(s);
    sweep_apply(s, OP_SETATTR, &set.base, 0);
    settle(s);
}

static void policies(struct sweep *s)
{
    Tarn__Where dir = at("/d");
    Tarn__Policy policy = TARN__POLICY__INIT;
    Tarn__PolicySet set = TARN__POLICY_SET__INIT;
    policy.copies = 2;
    policy.domain = 3;
    policy.chunk_bytes = MIB(4);
    policy.affinity = "near";
    set.where = &dir;
    set.policy = &policy;
    set.mask = 15;
    set.ctx = sweep_ctx(s);
    sweep_apply(s, OP_POLICY_SET, &set.base, 0);
    settle(s); /* existing chunks are brought to it */
    Tarn__PolicyGet get = TARN__POLICY_GET__INIT;
    get.where = &dir;
    sweep_query(s, OP_POLICY_GET, &get.base, 0);
}

static void code(struct sweep *s, uint32_t k, uint32_t m)
{
    Tarn__Where root = at("");
    Tarn__Policy policy = TARN__POLICY__INIT;
    Tarn__PolicySet set = TARN__POLICY_SET__INIT;
    policy.code_k = k;
    policy.code_m = m;
    set.where = &root;
    set.policy = &policy;
    set.mask = 16;
    set.ctx = sweep_ctx(s);
    sweep_apply(s, OP_POLICY_SET, &set.base, 0);
}

/* A group that is coded while it is written, and given up. */
static void upload_group(struct sweep *s)
{
    Tarn__Where root = at("");
    Tarn__UploadGroup m = TARN__UPLOAD_GROUP__INIT;
    m.ctx = sweep_ctx(s);
    m.near = &root;
    m.remaining = MIB(8);
    sweep_apply(s, OP_UPLOAD_GROUP, &m.base, 0);
    Tarn__UploadAbort abort_it = TARN__UPLOAD_ABORT__INIT;
    abort_it.upload = ((Tarn__UploadGroupReply *)sweep_reply(s, &tarn__upload_group_reply__descriptor))->upload;
    abort_it.ctx = sweep_ctx(s);
    sweep_apply(s, OP_UPLOAD_ABORT, &abort_it.base, 0);
}

/* Two chunks become a group, one of them dies, then the file: the parity is made anew and goes. */
static void coded(struct sweep *s)
{
    uint64_t lengths[2] = {CHUNK_BYTES, CHUNK_BYTES};
    Tarn__Where root = at(""), big = at("/big");
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts = &part;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    code(s, 2, 1);
    upload_group(s);
    for (uint64_t i = 0; i < 2; i++) {
        Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
        m.ctx = sweep_ctx(s);
        m.near = &root;
        m.upload = part.upload;
        m.index = i;
        sweep_apply(s, OP_UPLOAD_CHUNK, &m.base, 0);
        part.upload = ((Tarn__UploadChunkReply *)sweep_reply(s, &tarn__upload_chunk_reply__descriptor))->upload;
    }
    part.lengths = lengths;
    part.n_lengths = 2;
    object.path = "big";
    object.parts = &parts;
    object.n_parts = 1;
    commit.object = &object;
    commit.ctx = sweep_ctx(s);
    sweep_apply(s, OP_OBJECT_COMMIT, &commit.base, 0);
    settle(s);
    Tarn__GroupGet get = TARN__GROUP_GET__INIT;
    get.group = 2;
    sweep_query(s, OP_GROUP_GET, &get.base, 0);
    Tarn__SetAttr set = TARN__SET_ATTR__INIT;
    set.where = &big;
    set.mask = TARN__SET_ATTR_BITS__SA_SIZE;
    set.size = CHUNK_BYTES;
    set.ctx = sweep_ctx(s);
    sweep_apply(s, OP_SETATTR, &set.base, 0);
    settle(s);
    code(s, 0, 0);
    settle(s);
}

static void node_up(struct sweep *s, uint32_t node, bool up)
{
    Tarn__NodeSet m = TARN__NODE_SET__INIT;
    m.node = node;
    m.up = up;
    sweep_apply(s, OP_NODE_SET, &m.base, 0);
}

/* A store says it has one chunk that nobody knows, and nothing else. */
static void inventory(struct sweep *s, uint32_t node)
{
    Tarn__NodeList list = TARN__NODE_LIST__INIT;
    sweep_query(s, OP_NODE_LIST, &list.base, 0);
    Tarn__NodeListReply *nodes = sweep_reply(s, &tarn__node_list_reply__descriptor);
    Tarn__ChunkHeld held = TARN__CHUNK_HELD__INIT, *chunks[] = {&held};
    Tarn__NodeInventory m = TARN__NODE_INVENTORY__INIT;
    m.node = node;
    m.epoch = nodes->nodes[node - 1]->epoch;
    held.chunk = 1;
    m.first = 1;
    m.last = 1000;
    m.chunks = chunks;
    m.n_chunks = 1;
    sweep_apply(s, OP_NODE_INVENTORY, &m.base, 0);
    settle(s);
}

static void nodes(struct sweep *s)
{
    inventory(s, 1);
    node_up(s, 2, false);
    settle(s);
    node_up(s, 2, true);
    Tarn__TopologySet topology = TARN__TOPOLOGY_SET__INIT;
    topology.node = 2;
    topology.rack = "/site/r3";
    topology.ctx = sweep_ctx(s);
    sweep_apply(s, OP_TOPOLOGY_SET, &topology.base, 0);
    Tarn__NodeDrain drain = TARN__NODE_DRAIN__INIT;
    drain.node = 3;
    drain.ctx = sweep_ctx(s);
    sweep_apply(s, OP_NODE_DRAIN, &drain.base, 0);
    settle(s);
    Tarn__HealStatus heal = TARN__HEAL_STATUS__INIT;
    sweep_query(s, OP_HEAL_STATUS, &heal.base, 0);
    Tarn__Status status = TARN__STATUS__INIT;
    sweep_query(s, OP_STATUS, &status.base, 0);
    drain.undo = true;
    drain.ctx = sweep_ctx(s);
    sweep_apply(s, OP_NODE_DRAIN, &drain.base, 0);
}

/* ---- users, roles, jobs */

static void users(struct sweep *s)
{
    Tarn__User user = TARN__USER__INIT;
    Tarn__UserPut put = TARN__USER_PUT__INIT;
    user.name = "u";
    user.access_key = "AK";
    user.secret = "s";
    put.user = &user;
    put.ctx = sweep_ctx(s);
    sweep_apply(s, OP_USER_PUT, &put.base, 0);
    Tarn__UserGet get = TARN__USER_GET__INIT;
    get.access_key = "AK";
    sweep_query(s, OP_USER_GET, &get.base, 0);
}

static uint64_t role(struct sweep *s)
{
    Tarn__RoleClaim claim = TARN__ROLE_CLAIM__INIT;
    claim.role = "allocator";
    claim.address = "tcp:h:9";
    claim.ctx = sweep_ctx(s);
    sweep_apply(s, OP_ROLE_CLAIM, &claim.base, 0);
    Tarn__RoleGet get = TARN__ROLE_GET__INIT;
    get.role = "allocator";
    sweep_query(s, OP_ROLE_GET, &get.base, 0);
    return ((Tarn__RoleReply *)sweep_reply(s, &tarn__role_reply__descriptor))->epoch;
}

static uint64_t job_with_input(struct sweep *s)
{
    Tarn__JobPhase phase = TARN__JOB_PHASE__INIT, *phases[] = {&phase};
    Tarn__Job job = TARN__JOB__INIT;
    Tarn__JobCreate create = TARN__JOB_CREATE__INIT;
    phase.exec = "wc";
    job.phases = phases;
    job.n_phases = 1;
    create.job = &job;
    create.ctx = sweep_ctx(s);
    sweep_apply(s, OP_JOB_CREATE, &create.base, 0);
    uint64_t id = ((Tarn__JobReply *)sweep_reply(s, &tarn__job_reply__descriptor))->job->id;
    char *path = "/d/deep/er/object";
    Tarn__JobInputs inputs = TARN__JOB_INPUTS__INIT;
    inputs.job = id;
    inputs.paths = &path;
    inputs.n_paths = 1;
    inputs.end = true;
    inputs.ctx = sweep_ctx(s);
    sweep_apply(s, OP_JOB_INPUTS, &inputs.base, 0);
    return id;
}

static void task(struct sweep *s, uint64_t job, uint64_t epoch)
{
    Tarn__JobPlan plan = TARN__JOB_PLAN__INIT;
    plan.job = job;
    plan.role_epoch = epoch;
    plan.tasks = 2;
    plan.ctx = sweep_ctx(s);
    sweep_apply(s, OP_JOB_PLAN, &plan.base, 0);
    Tarn__TaskStart start = TARN__TASK_START__INIT;
    start.job = job;
    start.role_epoch = epoch;
    start.node = 1;
    start.ctx = sweep_ctx(s);
    sweep_apply(s, OP_TASK_START, &start.base, 0);
    char *outputs[] = {"/out/a"};
    Tarn__Task record = TARN__TASK__INIT;
    record.job = job;
    record.attempt = 1;
    record.state = TARN__TASK_STATE__TASK_DONE;
    record.outputs = outputs;
    record.n_outputs = 1;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT, *made[] = {&object};
    object.path = "out/a";
    object.data = (ProtobufCBinaryData){.data = (uint8_t *)"1", .len = 1};
    Tarn__TaskCommit commit = TARN__TASK_COMMIT__INIT;
    commit.task = &record;
    commit.objects = made;
    commit.n_objects = 1;
    commit.ctx = sweep_ctx(s);
    sweep_apply(s, OP_TASK_COMMIT, &commit.base, 0);
}

static void job_queries(struct sweep *s, uint64_t job)
{
    Tarn__JobGet get = TARN__JOB_GET__INIT;
    get.job = job;
    sweep_query(s, OP_JOB_GET, &get.base, 0);
    Tarn__JobList list = TARN__JOB_LIST__INIT;
    list.max = 10;
    sweep_query(s, OP_JOB_LIST, &list.base, 0);
    list.live = true;
    sweep_query(s, OP_JOB_LIST, &list.base, 0);
    Tarn__JobInputList inputs = TARN__JOB_INPUT_LIST__INIT;
    inputs.job = job;
    inputs.max = 10;
    sweep_query(s, OP_JOB_INPUT_LIST, &inputs.base, 0);
    Tarn__TaskList tasks = TARN__TASK_LIST__INIT;
    tasks.job = job;
    tasks.max = 10;
    sweep_query(s, OP_TASK_LIST, &tasks.base, 0);
}

static void jobs(struct sweep *s)
{
    uint64_t epoch = role(s), job = job_with_input(s);
    task(s, job, epoch);
    job_queries(s, job);
    Tarn__JobCancel cancel = TARN__JOB_CANCEL__INIT;
    cancel.job = job;
    cancel.ctx = sweep_ctx(s);
    sweep_apply(s, OP_JOB_CANCEL, &cancel.base, 0);
    Tarn__JobFinish finish = TARN__JOB_FINISH__INIT;
    finish.job = job;
    finish.role_epoch = epoch;
    finish.state = TARN__JOB_STATE__JOB_CANCELED;
    finish.ctx = sweep_ctx(s);
    sweep_apply(s, OP_JOB_FINISH, &finish.base, 0);
}

void sweep_script_cluster(struct sweep *s)
{
    chunks(s);
    objects(s);
    shared_chunks(s);
    coded(s);
    policies(s);
    nodes(s);
    users(s);
    jobs(s);
}
