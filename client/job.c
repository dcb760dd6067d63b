#include "job.h"

#include "common/err.h"

#include <stdio.h>

#define PAGE 500
#define BATCH_PATHS 500
#define BATCH_BYTES KIB(512) /* of paths in one JOB_INPUTS: half of what a frame's control may be */
#define DEPTH_MAX 256        /* of directories below an input */

/* ---- small calls */

static int job_call(struct meta *meta, const struct meta_cred *cred, unsigned op, ProtobufCMessage *request,
                    Tarn__Ctx **ctx, Tarn__Job **ret, char *detail)
{
    Tarn__JobReply *reply = NULL;
    int err = meta_call(meta, op, request, ctx, cred, &tarn__job_reply__descriptor, &reply, detail);
    if (err != 0)
        return err;
    if (reply->job == NULL)
        err = -E_PROTO;
    else if (ret != NULL)
        *ret = take_ptr(reply->job);
    tarn__job_reply__free_unpacked(reply, NULL);
    return err;
}

int job_create(struct meta *meta, const struct meta_cred *cred, const Tarn__Job *job, uint64_t *ret_id, char *detail)
{
    Tarn__JobCreate request = TARN__JOB_CREATE__INIT;
    Tarn__Job *made = NULL;
    request.job = (Tarn__Job *)job;
    int err = job_call(meta, cred, OP_JOB_CREATE, &request.base, &request.ctx, &made, detail);
    if (err != 0)
        return err;
    *ret_id = made->id;
    tarn__job__free_unpacked(made, NULL);
    return 0;
}

int job_get(struct meta *meta, const struct meta_cred *cred, uint64_t id, Tarn__Job **ret, char *detail)
{
    Tarn__JobGet request = TARN__JOB_GET__INIT;
    request.job = id;
    return job_call(meta, cred, OP_JOB_GET, &request.base, &request.ctx, ret, detail);
}

int job_cancel(struct meta *meta, const struct meta_cred *cred, uint64_t id, char *detail)
{
    Tarn__JobCancel request = TARN__JOB_CANCEL__INIT;
    request.job = id;
    return job_call(meta, cred, OP_JOB_CANCEL, &request.base, &request.ctx, NULL, detail);
}

int job_end_inputs(struct meta *meta, const struct meta_cred *cred, uint64_t id, char *detail)
{
    Tarn__JobInputs request = TARN__JOB_INPUTS__INIT;
    request.job = id;
    request.end = true;
    return job_call(meta, cred, OP_JOB_INPUTS, &request.base, &request.ctx, NULL, detail);
}

int job_watch(struct meta *meta, const struct meta_cred *cred)
{
    Tarn__Watch request = TARN__WATCH__INIT;
    request.jobs = true;
    return meta_call(meta, OP_WATCH, &request.base, &request.ctx, cred, NULL, NULL, NULL);
}

bool job_is_over(const Tarn__Job *job)
{
    return job->state != TARN__JOB_STATE__JOB_QUEUED && job->state != TARN__JOB_STATE__JOB_RUNNING;
}

const char *job_state_name(Tarn__JobState state)
{
    static const char *const names[] = {"unknown", "queued", "running", "done", "failed", "cancelled"};
    return (unsigned)state < ARRAY_SIZE(names) ? names[state] : names[0];
}

const char *job_task_state_name(Tarn__TaskState state)
{
    static const char *const names[] = {"unknown", "ready", "running", "done", "failed"};
    return (unsigned)state < ARRAY_SIZE(names) ? names[state] : names[0];
}

/* ---- inputs */

struct inputs {
    struct meta *meta;
    const struct meta_cred *cred;
    uint64_t id;
    char *detail;
    char *paths[BATCH_PATHS];
    size_t n, bytes;
};

static int flush(struct inputs *inputs)
{
    Tarn__JobInputs request = TARN__JOB_INPUTS__INIT;
    request.job = inputs->id;
    request.paths = inputs->paths;
    request.n_paths = inputs->n;
    int err = inputs->n == 0 ? 0
                             : job_call(inputs->meta, inputs->cred, OP_JOB_INPUTS, &request.base, &request.ctx, NULL,
                                        inputs->detail);
    for (size_t i = 0; i < inputs->n; i++)
        free(inputs->paths[i]);
    inputs->n = inputs->bytes = 0;
    return err;
}

static int add_path(struct inputs *inputs, const char *path)
{
    size_t len = strlen(path);
    if (inputs->n == BATCH_PATHS || inputs->bytes + len > BATCH_BYTES) {
        int err = flush(inputs);
        if (err != 0)
            return err;
    }
    char *copy = strdup(path);
    if (copy == NULL)
        return -E_NOMEM;
    inputs->paths[inputs->n++] = copy;
    inputs->bytes += len;
    return 0;
}

static int add_directory(struct inputs *inputs, const char *path, unsigned depth);

static int add_entry(struct inputs *inputs, const char *dir, const Tarn__DirEntry *entry, unsigned depth)
{
    _cleanup_free_ char *path = NULL;
    bool slash = dir[0] != '\0' && dir[strlen(dir) - 1] == '/';
    if (strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0 || entry->attr == NULL)
        return 0;
    if (asprintf(&path, "%s%s%s", dir, slash ? "" : "/", entry->name) < 0) {
        path = NULL;
        return -E_NOMEM;
    }
    if (entry->attr->type == TARN__FILE_TYPE__FT_DIR)
        return add_directory(inputs, path, depth + 1);
    return entry->attr->type == TARN__FILE_TYPE__FT_FILE ? add_path(inputs, path) : 0;
}

static int add_directory(struct inputs *inputs, const char *path, unsigned depth)
{
    Tarn__Where where = TARN__WHERE__INIT;
    _cleanup_free_ char *after = strdup("");
    where.path = (char *)path;
    if (depth > DEPTH_MAX)
        return -E_LOOP;
    for (bool end = false; !end;) {
        Tarn__ReadDir request = TARN__READ_DIR__INIT;
        Tarn__ReadDirReply *reply = NULL;
        request.where = &where;
        request.max = PAGE;
        request.after = after;
        if (after == NULL)
            return -E_NOMEM;
        int err = meta_call(inputs->meta, OP_READDIR, &request.base, &request.ctx, inputs->cred,
                            &tarn__read_dir_reply__descriptor, &reply, inputs->detail);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_entries && err == 0; i++)
            err = add_entry(inputs, path, reply->entries[i], depth);
        end = reply->end || reply->n_entries == 0;
        if (!end) {
            free(after);
            after = strdup(reply->entries[reply->n_entries - 1]->name);
        }
        tarn__read_dir_reply__free_unpacked(reply, NULL);
        if (err != 0)
            return err;
    }
    return 0;
}

static int add_input(struct inputs *inputs, const char *path)
{
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    Tarn__LookupReply *reply = NULL;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    request.where = &where;
    int err = meta_call(inputs->meta, OP_LOOKUP, &request.base, &request.ctx, inputs->cred,
                        &tarn__lookup_reply__descriptor, &reply, inputs->detail);
    if (err != 0)
        return err;
    bool directory = reply->attr != NULL && reply->attr->type == TARN__FILE_TYPE__FT_DIR;
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return directory ? add_directory(inputs, path, 0) : add_path(inputs, path);
}

int job_add_inputs(struct meta *meta, const struct meta_cred *cred, uint64_t id, char *const *paths, size_t n,
                   const char **ret_failed, char *detail)
{
    struct inputs *inputs = calloc(1, sizeof *inputs); /* 4 KiB: not for a fiber's stack */
    if (inputs == NULL)
        return -E_NOMEM;
    *inputs = (struct inputs){.meta = meta, .cred = cred, .id = id, .detail = detail};
    int err = 0;
    for (size_t i = 0; i < n && err == 0; i++) {
        if (ret_failed != NULL)
            *ret_failed = paths[i];
        err = add_input(inputs, paths[i]);
    }
    int last = flush(inputs);
    free(inputs);
    return err != 0 ? err : last;
}

/* ---- lists */

int job_list(struct meta *meta, const struct meta_cred *cred, job_visit_fn fn, void *arg, char *detail)
{
    Tarn__JobList request = TARN__JOB_LIST__INIT;
    request.max = PAGE;
    for (;;) {
        Tarn__JobListReply *reply = NULL;
        int err = meta_call(meta, OP_JOB_LIST, &request.base, &request.ctx, cred, &tarn__job_list_reply__descriptor,
                            &reply, detail);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_jobs && err == 0; i++) {
            request.after = reply->jobs[i]->id;
            err = fn(arg, reply->jobs[i]);
        }
        bool end = reply->end || reply->n_jobs == 0;
        tarn__job_list_reply__free_unpacked(reply, NULL);
        if (err != 0 || end)
            return err;
    }
}

int job_tasks(struct meta *meta, const struct meta_cred *cred, uint64_t id, uint32_t phase, job_task_fn fn, void *arg,
              char *detail)
{
    Tarn__TaskList request = TARN__TASK_LIST__INIT;
    request.job = id;
    request.phase = phase;
    request.max = PAGE;
    for (;;) {
        Tarn__TaskListReply *reply = NULL;
        int err = meta_call(meta, OP_TASK_LIST, &request.base, &request.ctx, cred, &tarn__task_list_reply__descriptor,
                            &reply, detail);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_tasks && err == 0; i++) {
            request.after = reply->tasks[i]->index + 1; /* `after` is the index to start at */
            err = fn(arg, reply->tasks[i]);
        }
        bool end = reply->end || reply->n_tasks == 0;
        tarn__task_list_reply__free_unpacked(reply, NULL);
        if (err != 0 || end)
            return err;
    }
}
