/*   kept ──room──> under way ──> done ──told──> freed
 * A task's fiber is made when it begins. */
#include "tasks.h"

#include "background.h"
#include "beat.h"
#include "build.h"
#include "pack.h"
#include "put.h"
#include "rebuild.h"
#include "repair.h"
#include "verify.h"
#include "common/err.h"
#include "common/log.h"

struct task {
    struct list link; /* in tasks->all */
    struct tasks *tasks;
    Tarn__NodeBeatReply *owner; /* keeps `message` */
    const Tarn__ChunkTask *message;
    struct background background;
    bool begun, done;
    Tarn__ChunkTaskDone result;
    struct pack_result pack; /* what `result` borrows after a PACK */
};
struct tasks {
    struct store *store;
    struct list all; /* in order of arrival */
    unsigned n_urgent, n_other, n_heavy;
    bool closing;
    struct fiber_group fibers;
};

static bool is_heavy(const struct task *task)
{
    switch (task->message->kind) {
    case TARN__CHUNK_TASK__KIND__COPY:
    case TARN__CHUNK_TASK__KIND__BUILD:
    case TARN__CHUNK_TASK__KIND__VERIFY:
    case TARN__CHUNK_TASK__KIND__REPAIR:
    case TARN__CHUNK_TASK__KIND__PACK:
        return true;
    default:
        return false;
    }
}

/* ------------------------------------------------------------------ kinds */
int tasks_delete_chunk(struct volume *v, uint64_t chunk, uint64_t generation)
{
    struct held held;
    int err = store_hold_all(v, chunk, false, true, &held);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    /* A newer generation has come since: this is not the chunk that was meant. Noted first: from the moment it is out
     * of the table a write would make it anew (C16), with a file that is about to be removed. */
    volume_note_deleted(v, chunk);
    if (held.chunk->generation <= generation)
        err = volume_delete(v, held.chunk);
    store_release(&held);
    return err;
}

/* What is being made of a chunk that is to go is not made to its end. */
static int task_delete(struct tasks *t, struct volume *v, const Tarn__ChunkTask *message)
{
    list_foreach(&t->all, it) {
        struct task *other = list_entry(it, struct task, link);
        if (other->message->chunk == message->chunk && other->message->disk == message->disk &&
            other->message->generation <= message->generation && is_heavy(other))
            other->background.cancelled = true;
    }
    return tasks_delete_chunk(v, message->chunk, message->generation);
}

/* PARTIAL is what nobody reads and nobody is told of, and what a start drops: then the copy comes whole. On disk before it is
 * answered. What was sealed after the member left has a higher generation: a late ASIDE never hits it. */
static int task_aside(struct volume *v, const Tarn__ChunkTask *message)
{
    struct held held;
    int err = store_hold_all(v, message->chunk, false, true, &held);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    if (held.chunk->generation < message->generation)
        err = put_state(v, held.chunk, message->generation, (held.chunk->flags & ~CHUNK_SEALED) | CHUNK_PARTIAL, true);
    store_release(&held);
    return err;
}

static int task_seal(struct store *s, struct volume *v, const Tarn__ChunkTask *message, Tarn__ChunkTaskDone *result)
{
    struct held held;
    bool keep = message->kind == TARN__CHUNK_TASK__KIND__SEAL_KEEP;
    int err = store_hold_all(v, message->chunk, message->length == 0, true, &held);
    if (err != 0)
        return err;
    if (held.chunk->late) { /* not one to compare the others with: the service lets it leave */
        store_release(&held);
        return -E_BUSY;
    }
    uint64_t length = keep ? held.chunk->length : message->length; /* kept: all that was written */
    /* The file may be longer than what was ever written to this chunk: the rest is zeros. A member that
     * has lost bytes gets another digest than the others by it, and goes. */
    if ((held.chunk->flags & CHUNK_SEALED) == 0 && held.chunk->length < length)
        err = put_truncate(v, held.chunk, message->generation, length);
    if (err == 0)
        err = put_seal(v, held.chunk, message->generation, length);
    result->length = held.chunk->length;
    result->digest = err == 0 ? chunk_digest(held.chunk) : 0;
    store_release(&held);
    if (err == 0)
        verify_note(s->verify, v, message->chunk);
    return err;
}

static int task_pack(struct task *task, struct volume *v)
{
    int err = pack_make(&task->background, task->message, &task->pack);
    task->result.length = task->pack.length;
    task->result.digest = task->pack.digest;
    task->result.pieces = task->pack.pointers;
    task->result.n_pieces = task->pack.n;
    if (err == 0 && task->pack.length > 0)
        verify_note(task->tasks->store->verify, v, task->message->chunk);
    return err;
}

static int task_carry_out(struct task *task)
{
    struct store *s = task->tasks->store;
    const Tarn__ChunkTask *message = task->message;
    struct volume *v;
    int err = store_volume(s, message->disk, message->chunk, &v);
    if (err != 0)
        return err;
    task->background.volume = v;
    switch (message->kind) {
    case TARN__CHUNK_TASK__KIND__DELETE:
        return task_delete(task->tasks, v, message);
    case TARN__CHUNK_TASK__KIND__ASIDE:
        return task_aside(v, message);
    case TARN__CHUNK_TASK__KIND__SEAL:
    case TARN__CHUNK_TASK__KIND__SEAL_KEEP:
        return task_seal(s, v, message, &task->result);
    case TARN__CHUNK_TASK__KIND__COPY:
        return rebuild_copy(&task->background, message, &task->result.length, &task->result.digest);
    case TARN__CHUNK_TASK__KIND__BUILD:
        return build_shard(&task->background, message, &task->result.length, &task->result.digest);
    case TARN__CHUNK_TASK__KIND__VERIFY:
        return verify_task(&task->background, message, &task->result.length, &task->result.digest);
    case TARN__CHUNK_TASK__KIND__REPAIR:
        return repair_chunk(&task->background, message, &task->result.length);
    case TARN__CHUNK_TASK__KIND__PACK:
        return task_pack(task, v);
    default:
        return -E_NOTSUP;
    }
}

/* ------------------------------------------------------------------ whose turn it is */
static void begin_next(struct tasks *t);

static void task_run(void *arg)
{
    struct task *task = arg;
    struct tasks *t = task->tasks;
    const Tarn__ChunkTask *message = task->message;
    int err = task->background.cancelled ? -E_CANCELED : task_carry_out(task);
    if (err != 0 && err != -E_CANCELED)
        log_warn("task %llu (kind %d) on chunk %llx: %s", (unsigned long long)message->id, (int)message->kind,
                 (unsigned long long)message->chunk, err_sentence(err));
    task->result.status = err_to_wire(err);
    task->done = true;
    if (is_heavy(task)) {
        t->n_heavy--;
        begin_next(t);
    }
    if (t->store->beat != NULL)
        beat_tell(t->store->beat);
    fiber_group_done(&t->fibers);
}

static bool begin(struct task *task)
{
    struct tasks *t = task->tasks;
    fiber_group_add(&t->fibers);
    if (fiber_spawn(t->store->io, "task", task_run, task) != 0) {
        fiber_group_done(&t->fibers);
        return false;
    }
    task->begun = true;
    t->n_heavy += is_heavy(task);
    return true;
}

static unsigned heavy_on_disk(const struct tasks *t, uint32_t disk)
{
    unsigned n = 0;
    list_foreach(&t->all, it) {
        const struct task *task = list_entry(it, struct task, link);
        n += task->begun && !task->done && is_heavy(task) && task->message->disk == disk;
    }
    return n;
}

static struct task *next_of(const struct tasks *t, bool urgent)
{
    struct task *best = NULL;
    unsigned least = TASKS_DISK_HEAVY_MAX;
    list_foreach(&t->all, it) {
        struct task *task = list_entry(it, struct task, link);
        if (task->begun || !is_heavy(task) || task->background.urgent != urgent)
            continue;
        unsigned n = heavy_on_disk(t, task->message->disk);
        if (n < least) {
            least = n;
            best = task;
        }
    }
    return best;
}

static void begin_next(struct tasks *t)
{
    while (t->n_heavy < TASKS_HEAVY_MAX && !t->closing) {
        struct task *task = next_of(t, true);
        if (task == NULL)
            task = next_of(t, false);
        if (task == NULL || !begin(task)) /* out of memory: when another one ends, or comes */
            return;
    }
}

/* ------------------------------------------------------------------ taking and telling */
static unsigned *room_of(struct tasks *t, const struct task *task)
{
    return task->background.urgent ? &t->n_urgent : &t->n_other;
}

static bool is_known(const struct tasks *t, uint64_t id)
{
    list_foreach(&t->all, it)
        if (list_entry(it, struct task, link)->result.id == id)
            return true;
    return false;
}

static void task_free(struct task *task)
{
    list_remove(&task->link);
    --*room_of(task->tasks, task);
    protobuf_c_message_free_unpacked(&task->owner->base, NULL);
    pack_result_fini(&task->pack);
    free(task);
}

/* A copy of the message of its own: the reply goes away before the task ends. */
static Tarn__NodeBeatReply *message_copy(const Tarn__ChunkTask *message)
{
    Tarn__NodeBeatReply one = TARN__NODE_BEAT_REPLY__INIT;
    Tarn__ChunkTask *pointer = (Tarn__ChunkTask *)message;
    one.n_tasks = 1;
    one.tasks = &pointer;
    size_t size = tarn__node_beat_reply__get_packed_size(&one);
    _cleanup_free_ uint8_t *packed = malloc(size);
    if (packed == NULL)
        return NULL;
    tarn__node_beat_reply__pack(&one, packed);
    return tarn__node_beat_reply__unpack(NULL, size, packed);
}

static struct task *task_make(struct tasks *t, const Tarn__ChunkTask *message)
{
    struct task *task = calloc(1, sizeof *task);
    if (task == NULL)
        return NULL;
    task->owner = message_copy(message);
    if (task->owner == NULL) {
        free(task);
        return NULL;
    }
    task->tasks = t;
    task->message = task->owner->tasks[0];
    task->background = (struct background){.store = t->store, .urgent = !message->background};
    tarn__chunk_task_done__init(&task->result);
    task->result.id = message->id;
    task->result.chunk = message->chunk;
    task->result.generation = message->generation;
    task->result.kind = message->kind;
    return task;
}

void tasks_take(struct tasks *t, const Tarn__ChunkTask *message)
{
    if ((message->background ? t->n_other : t->n_urgent) >= TASKS_KEPT_MAX || t->closing || is_known(t, message->id))
        return;
    struct task *task = task_make(t, message);
    if (task == NULL)
        return;
    list_append(&t->all, &task->link);
    ++*room_of(t, task);
    if (is_heavy(task))
        begin_next(t);
    else if (!begin(task))
        task_free(task); /* it comes again */
}

size_t tasks_results(struct tasks *t, Tarn__ChunkTaskDone **ret, size_t max)
{
    size_t n = 0;
    list_foreach(&t->all, it) {
        struct task *task = list_entry(it, struct task, link);
        if (task->done && n < max)
            ret[n++] = &task->result;
    }
    return n;
}

void tasks_told(struct tasks *t, Tarn__ChunkTaskDone *const *results, size_t n)
{
    for (size_t i = 0; i < n; i++)
        task_free(container_of(results[i], struct task, result));
    begin_next(t);
}

/* ------------------------------------------------------------------ life */
int tasks_create(struct store *s, struct tasks **ret)
{
    struct tasks *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -E_NOMEM;
    t->store = s;
    list_init(&t->all);
    *ret = t;
    return 0;
}

void tasks_destroy(struct tasks *t)
{
    if (t == NULL)
        return;
    t->closing = true;
    list_foreach(&t->all, it)
        list_entry(it, struct task, link)->background.cancelled = true;
    fiber_group_wait(&t->fibers);
    list_foreach_safe(&t->all, it, next)
        task_free(list_entry(it, struct task, link));
    free(t);
}
