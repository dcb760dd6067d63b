#include "stage.h"

#include "client/fetch.h"
#include "common/err.h"
#include "common/fiber.h"
#include "sandbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIST_TASKS 512    /* of one question for outputs */
#define COPY_PREFIX "stage-"

static bool is_here(const struct stage *stage, const Tarn__Extent *extent)
{
    for (size_t i = 0; i < extent->n_replicas; i++)
        if (extent->replicas[i]->node == stage->node && extent->replicas[i]->ready)
            return true;
    return false;
}

/* Is the object one whole sealed chunk with a copy on this node? Then that file is the object. */
static bool is_one_raw_chunk(const struct stage *stage, const Tarn__FileMapReply *map)
{
    if (map->inline_data || map->next != 0 || map->n_extents != 1)
        return false;
    const Tarn__Extent *extent = map->extents[0];
    return extent->state == TARN__CHUNK_STATE__CHUNK_SEALED && extent->offset == 0 && extent->chunk_offset == 0 && extent->stored == 0 &&
           extent->length == map->attr->size && extent->chunk_length == map->attr->size && is_here(stage, extent);
}

static struct meta_cred job_cred(const Tarn__TaskAssign *task)
{
    return (struct meta_cred){.uid = task->uid, .gid = task->gid};
}

/* ---- map: a file */

static int open_again(int fd)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, O_RDONLY | O_CLOEXEC);
}

/* The store keeps its files to itself by its directory's mode; inside the sandbox the file stands alone
 * and the task's user must be able to open it. The chunk is sealed: nobody writes it any more. */
static int make_readable(int fd, const struct stat *st)
{
    return (st->st_mode & 0444) == 0444 ? 0 : fchmod(fd, (st->st_mode & 07777) | 0444);
}

static int bind_chunk(const struct stage *stage, const Tarn__FileMapReply *map, struct stage_input *ret)
{
    int borrowed, tree = -1;
    int err = stores_fd(stage->stores, map->extents[0], &borrowed);
    if (err != 0)
        return err;
    int fd = open_again(borrowed);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) != 0 || (uint64_t)st.st_size != map->attr->size || make_readable(fd, &st) != 0)
        err = -E_NOTSUP;
    if (err == 0)
        err = sandbox_input_tree(fd, &tree);
    if (err != 0) {
        if (fd >= 0)
            close(fd);
        return err;
    }
    ret->stdin_fd = fd;
    ret->tree = tree;
    return 0;
}

struct copy {
    struct io *io;
    int fd;
};

static int write_copy(void *arg, const void *data, size_t n, uint64_t offset)
{
    struct copy *copy = arg;
    for (size_t done = 0; done < n;) {
        int64_t got = io_write_fd(copy->io, copy->fd, (const uint8_t *)data + done, n - done, (int64_t)(offset + done));
        if (got <= 0)
            return got < 0 ? (int)got : -E_IO;
        done += (size_t)got;
    }
    return 0;
}

/* A name of its own, because a mount needs a file that is linked while it is bound. */
static int make_copy(const struct stage *stage, const Tarn__TaskAssign *task, const Tarn__Where *where,
                     struct stage_input *ret, struct stage_count *count)
{
    struct meta_cred cred = job_cred(task);
    char path[512];
    snprintf(path, sizeof path, "%s/" COPY_PREFIX "%llx-%u-%llu-%u", stage->dir,
             (unsigned long long)task->key->job, task->key->phase, (unsigned long long)task->key->index,
             task->key->attempt);
    struct copy copy = {.io = stage->io,
                        .fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0444)};
    if (copy.fd < 0)
        return err_from_errno(errno);
    ret->path = strdup(path);
    int err = ret->path != NULL ? fetch_object(stage->meta, stage->stores, where, &cred, write_copy, &copy, &count->read)
                                : -E_NOMEM;
    if (err == 0 && (ret->stdin_fd = open_again(copy.fd)) < 0)
        err = err_from_errno(errno);
    if (err == 0)
        err = sandbox_input_tree(copy.fd, &ret->tree);
    close(copy.fd);
    if (ret->path == NULL)
        unlink(path);
    return err;
}

static void input_where(const Tarn__TaskInput *input, Tarn__Where *where)
{
    tarn__where__init(where);
    if (input->ino != 0)
        where->ino = input->ino;
    else
        where->path = input->path;
}

int stage_open(const struct stage *stage, const Tarn__TaskAssign *task, struct stage_input *ret, struct stage_count *count)
{
    *ret = (struct stage_input){.stdin_fd = -1, .tree = -1};
    if (task->n_inputs != 1)
        return -E_INVAL;
    Tarn__Where where;
    Tarn__FileMapReply *map = NULL;
    struct meta_cred cred = job_cred(task);
    input_where(task->inputs[0], &where);
    int err = fetch_map(stage->meta, &where, &cred, &map);
    if (err != 0)
        return err;
    bool bound = is_one_raw_chunk(stage, map) && bind_chunk(stage, map, ret) == 0;
    if (bound)
        count->mapped += map->attr->size;
    tarn__file_map_reply__free_unpacked(map, NULL);
    return bound ? 0 : make_copy(stage, task, &where, ret, count);
}

void stage_release(struct stage_input *input)
{
    if (input->stdin_fd >= 0)
        close(input->stdin_fd);
    if (input->tree >= 0)
        close(input->tree);
    if (input->path != NULL)
        unlink(input->path);
    free(input->path);
    *input = (struct stage_input){.stdin_fd = -1, .tree = -1};
}

void stage_sweep(const char *dir)
{
    DIR *handle = opendir(dir);
    if (handle == NULL)
        return;
    struct dirent *entry;
    while ((entry = readdir(handle)) != NULL)
        if (strncmp(entry->d_name, COPY_PREFIX, strlen(COPY_PREFIX)) == 0)
            unlinkat(dirfd(handle), entry->d_name, 0);
    closedir(handle);
}

/* ---- reduce: a pipe */

struct feed {
    const struct stage *stage;
    struct stage_count *count;
    struct meta_cred cred;
    const Tarn__TaskAssign *task;
    int fd;
    bool closed; /* nobody reads any more: not an error */
};

static int write_pipe(void *arg, const void *data, size_t n, uint64_t offset)
{
    struct feed *feed = arg;
    for (size_t done = 0; done < n;) {
        int64_t got = io_write_fd(feed->stage->io, feed->fd, (const uint8_t *)data + done, n - done, -1);
        if (got == -E_CANCELED)
            return (int)got;
        if (got <= 0) {
            feed->closed = true;
            return -E_CONN;
        }
        done += (size_t)got;
    }
    return 0;
}

static int feed_object(struct feed *feed, const Tarn__Where *where)
{
    int err = fetch_object(feed->stage->meta, feed->stage->stores, where, &feed->cred, write_pipe, feed,
                           &feed->count->read);
    return feed->closed ? 0 : err;
}

static bool is_ours(const struct feed *feed, uint64_t ordinal)
{
    uint32_t count = feed->task->phase->count != 0 ? feed->task->phase->count : 1;
    return ordinal % count == feed->task->key->index;
}

static int feed_outputs(struct feed *feed, const Tarn__Task *task)
{
    int err = 0;
    for (size_t i = 0; i < task->n_outputs && err == 0 && !feed->closed; i++) {
        Tarn__Where where = TARN__WHERE__INIT;
        where.path = task->outputs[i];
        err = feed_object(feed, &where);
    }
    return err;
}

static int feed_phase(struct feed *feed)
{
    Tarn__TaskList request = TARN__TASK_LIST__INIT;
    request.job = feed->task->key->job;
    request.phase = feed->task->key->phase - 1;
    request.max = LIST_TASKS;
    for (uint64_t next = 0;;) {
        Tarn__TaskListReply *reply = NULL;
        request.after = next;
        int err = meta_call(feed->stage->meta, OP_TASK_LIST, &request.base, &request.ctx, &meta_root,
                            &tarn__task_list_reply__descriptor, &reply, NULL);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_tasks && err == 0 && !feed->closed; i++) {
            const Tarn__Task *task = reply->tasks[i];
            if (task->state == TARN__TASK_STATE__TASK_DONE && is_ours(feed, task->index))
                err = feed_outputs(feed, task);
            next = task->index + 1;
        }
        bool end = reply->end || reply->n_tasks == 0;
        tarn__task_list_reply__free_unpacked(reply, NULL);
        if (err != 0 || end || feed->closed)
            return err;
    }
}

static int feed_job_inputs(struct feed *feed)
{
    Tarn__JobInputList request = TARN__JOB_INPUT_LIST__INIT;
    request.job = feed->task->key->job;
    request.max = LIST_TASKS;
    for (uint64_t next = 0;;) {
        Tarn__JobInputListReply *reply = NULL;
        request.after = next;
        int err = meta_call(feed->stage->meta, OP_JOB_INPUT_LIST, &request.base, &request.ctx, &meta_root,
                            &tarn__job_input_list_reply__descriptor, &reply, NULL);
        if (err != 0)
            return err;
        for (size_t i = 0; i < reply->n_inputs && err == 0 && !feed->closed; i++) {
            Tarn__Where where = TARN__WHERE__INIT;
            where.ino = reply->inputs[i]->ino;
            if (where.ino == 0)
                where.path = reply->inputs[i]->path;
            if (is_ours(feed, reply->inputs[i]->index))
                err = feed_object(feed, &where);
            next = reply->inputs[i]->index + 1;
        }
        bool end = reply->end || reply->n_inputs == 0;
        tarn__job_input_list_reply__free_unpacked(reply, NULL);
        if (err != 0 || end || feed->closed)
            return err;
    }
}

int stage_feed(const struct stage *stage, const Tarn__TaskAssign *task, int fd, struct stage_count *count)
{
    struct feed feed = {.stage = stage, .count = count, .cred = job_cred(task), .task = task, .fd = fd};
    return task->key->phase == 0 ? feed_job_inputs(&feed) : feed_phase(&feed);
}
