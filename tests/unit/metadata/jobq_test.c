/* Jobs, tasks and roles: J1-J4 of docs/invariants.md. */
#include "world.h"

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    return world_object(&w, "/", "in/a", "12345") != 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static Tarn__RoleReply *claim(struct world *w)
{
    Tarn__RoleClaim m = TARN__ROLE_CLAIM__INIT;
    m.role = "allocator";
    m.address = "tcp:127.0.0.1:9";
    assert_int_equal(world_apply(w, OP_ROLE_CLAIM, &m.base, &m.ctx), 0);
    return world_reply(w, &tarn__role_reply__descriptor);
}

static uint64_t create(struct world *w)
{
    Tarn__JobPhase phase = TARN__JOB_PHASE__INIT, *phases[] = {&phase};
    phase.exec = "wc";
    Tarn__Job job = TARN__JOB__INIT;
    job.n_phases = 1;
    job.phases = phases;
    Tarn__JobCreate m = TARN__JOB_CREATE__INIT;
    m.job = &job;
    assert_int_equal(world_apply(w, OP_JOB_CREATE, &m.base, &m.ctx), 0);
    return ((Tarn__JobReply *)world_reply(w, &tarn__job_reply__descriptor))->job->id;
}

static Tarn__Job *get(struct world *w, uint64_t id)
{
    Tarn__JobGet m = TARN__JOB_GET__INIT;
    m.job = id;
    assert_int_equal(world_query(w, OP_JOB_GET, &m.base, &m.ctx), 0);
    return ((Tarn__JobReply *)world_reply(w, &tarn__job_reply__descriptor))->job;
}

static int inputs(struct world *w, uint64_t id, char *path, bool end)
{
    Tarn__JobInputs m = TARN__JOB_INPUTS__INIT;
    m.job = id;
    m.n_paths = path != NULL;
    m.paths = &path;
    m.end = end;
    return world_apply(w, OP_JOB_INPUTS, &m.base, &m.ctx);
}

static int plan(struct world *w, uint64_t id, uint64_t epoch, uint64_t tasks)
{
    Tarn__JobPlan m = TARN__JOB_PLAN__INIT;
    m.job = id;
    m.role_epoch = epoch;
    m.tasks = tasks;
    return world_apply(w, OP_JOB_PLAN, &m.base, &m.ctx);
}

static int start(struct world *w, uint64_t id, uint64_t index, uint64_t epoch)
{
    Tarn__TaskStart m = TARN__TASK_START__INIT;
    m.job = id;
    m.index = index;
    m.role_epoch = epoch;
    int err = world_apply(w, OP_TASK_START, &m.base, &m.ctx);
    return err != 0
               ? err
               : (int)((Tarn__TaskStartReply *)world_reply(w, &tarn__task_start_reply__descriptor))
                     ->attempt;
}

static int commit(struct world *w, uint64_t id, uint32_t attempt, Tarn__TaskState how)
{
    Tarn__Receipt receipt = TARN__RECEIPT__INIT;
    receipt.local = 5;
    char *outputs[] = {"/out/a"};
    Tarn__Task task = TARN__TASK__INIT;
    task.job = id;
    task.attempt = attempt;
    task.state = how;
    task.receipt = &receipt;
    task.outputs = outputs;
    task.n_outputs = 1;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT, *objects[] = {&object};
    object.path = "out/a";
    object.data = (ProtobufCBinaryData){.data = (uint8_t *)"1", .len = 1};
    Tarn__TaskCommit m = TARN__TASK_COMMIT__INIT;
    m.task = &task;
    m.objects = objects;
    m.n_objects = how == TARN__TASK_STATE__TASK_DONE;
    return world_apply(w, OP_TASK_COMMIT, &m.base, &m.ctx);
}

static void a_role_has_one_holder_and_a_growing_epoch(void **state)
{
    struct world *w = *state;
    uint64_t mine = w->session, epoch = claim(w)->epoch;
    assert_int_equal(claim(w)->epoch, epoch);
    w->session = world_session(w, "second");
    assert_false(claim(w)->held);
    Tarn__SessionEnd m = TARN__SESSION_END__INIT;
    m.session = mine;
    assert_int_equal(world_apply(w, OP_SESSION_END, &m.base, NULL), 0);
    Tarn__RoleReply *reply = claim(w);
    assert_true(reply->held);
    assert_true(reply->epoch > epoch);
    assert_int_equal(plan(w, 1, epoch, 1), -E_STALE);
}

static void job_ids_grow_and_have_a_directory(void **state)
{
    struct world *w = *state;
    uint64_t first = create(w), second = create(w);
    assert_true(first < second);
    assert_int_equal(world_lookup(w, get(w, second)->dir, NULL), 0);
}

static void inputs_must_exist_until_the_end(void **state)
{
    struct world *w = *state;
    uint64_t id = create(w);
    assert_int_equal(inputs(w, id, "/in/none", false), -E_NOENT);
    assert_int_equal(inputs(w, id, "/in", false), -E_ISDIR);
    assert_int_equal(inputs(w, id, "/in/a", false), 0);
    assert_int_equal(w->result.n_pushes, 1);
    assert_int_equal(inputs(w, id, NULL, true), 0);
    assert_int_equal(inputs(w, id, "/in/a", false), -E_INVAL);
    assert_int_equal(get(w, id)->bytes, 5);
    Tarn__JobInputList m = TARN__JOB_INPUT_LIST__INIT;
    m.job = id;
    assert_int_equal(world_query(w, OP_JOB_INPUT_LIST, &m.base, &m.ctx), 0);
    assert_int_equal(
        ((Tarn__JobInputListReply *)world_reply(w, &tarn__job_input_list_reply__descriptor))
            ->n_inputs,
        1);
}

static void only_the_current_attempt_commits_and_once(void **state)
{
    struct world *w = *state;
    uint64_t id = create(w), epoch = claim(w)->epoch;
    assert_int_equal(start(w, id, 0, epoch), -E_INVAL);
    assert_int_equal(plan(w, id, epoch, 1), 0);
    assert_int_equal(start(w, id, 0, epoch), 1);
    assert_int_equal(start(w, id, 0, epoch), 2);
    assert_int_equal(commit(w, id, 1, TARN__TASK_STATE__TASK_DONE), -E_STALE);
    assert_int_equal(world_lookup(w, "/out/a", NULL), -E_NOENT);
    assert_int_equal(commit(w, id, 2, TARN__TASK_STATE__TASK_DONE), 0);
    assert_int_equal(commit(w, id, 2, TARN__TASK_STATE__TASK_DONE), 0);
    assert_int_equal(world_lookup(w, "/out/a", NULL), 0);
    Tarn__Job *job = get(w, id);
    assert_int_equal(job->tasks_done, 1);
    assert_int_equal(job->outputs, 1);
    assert_int_equal(job->receipt->local, 5);
    assert_int_equal(start(w, id, 0, epoch), -E_CONFLICT);
}

static void a_failed_task_may_start_again(void **state)
{
    struct world *w = *state;
    uint64_t id = create(w), epoch = claim(w)->epoch;
    assert_int_equal(plan(w, id, epoch, 1), 0);
    assert_int_equal(start(w, id, 0, epoch), 1);
    assert_int_equal(commit(w, id, 1, TARN__TASK_STATE__TASK_FAILED), 0);
    assert_int_equal(get(w, id)->tasks_failed, 1);
    assert_int_equal(start(w, id, 0, epoch), 2);
    assert_int_equal(get(w, id)->tasks_failed, 0);
}

static void nothing_commits_after_a_cancel(void **state)
{
    struct world *w = *state;
    uint64_t id = create(w), epoch = claim(w)->epoch;
    assert_int_equal(plan(w, id, epoch, 2), 0);
    assert_int_equal(start(w, id, 0, epoch), 1);
    Tarn__JobCancel m = TARN__JOB_CANCEL__INIT;
    m.job = id;
    assert_int_equal(world_apply(w, OP_JOB_CANCEL, &m.base, &m.ctx), 0);
    assert_int_equal(commit(w, id, 1, TARN__TASK_STATE__TASK_DONE), -E_CANCELED);
    assert_int_equal(start(w, id, 1, epoch), -E_CANCELED);
    Tarn__JobFinish f = TARN__JOB_FINISH__INIT;
    f.job = id;
    f.role_epoch = epoch;
    f.state = TARN__JOB_STATE__JOB_DONE;
    assert_int_equal(world_apply(w, OP_JOB_FINISH, &f.base, &f.ctx), 0);
    assert_int_equal(get(w, id)->state, TARN__JOB_STATE__JOB_CANCELED);
    Tarn__JobList l = TARN__JOB_LIST__INIT;
    l.live = true;
    assert_int_equal(world_query(w, OP_JOB_LIST, &l.base, &l.ctx), 0);
    assert_int_equal(
        ((Tarn__JobListReply *)world_reply(w, &tarn__job_list_reply__descriptor))->n_jobs, 0);
}

static void only_root_sees_secrets(void **state)
{
    struct world *w = *state;
    Tarn__User user = TARN__USER__INIT;
    user.name = "u";
    user.access_key = "AK";
    user.secret = "s";
    user.uid = 7;
    Tarn__UserPut m = TARN__USER_PUT__INIT;
    m.user = &user;
    assert_int_equal(world_apply(w, OP_USER_PUT, &m.base, &m.ctx), 0);
    Tarn__UserGet g = TARN__USER_GET__INIT;
    g.access_key = "AK";
    assert_int_equal(world_query(w, OP_USER_GET, &g.base, &g.ctx), 0);
    assert_int_equal(((Tarn__User *)world_reply(w, &tarn__user__descriptor))->uid, 7);
    w->uid = 7;
    assert_int_equal(world_query(w, OP_USER_GET, &g.base, &g.ctx), -E_PERM);
    assert_int_equal(world_apply(w, OP_USER_PUT, &m.base, &m.ctx), -E_PERM);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(a_role_has_one_holder_and_a_growing_epoch),
                                       T(job_ids_grow_and_have_a_directory),
                                       T(inputs_must_exist_until_the_end),
                                       T(only_the_current_attempt_commits_and_once),
                                       T(a_failed_task_may_start_again),
                                       T(nothing_commits_after_a_cancel),
                                       T(only_root_sees_secrets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
