/* A job's life. Its rows: what it is (PACK_JOB), when it is due (PACK_JOB_DUE), its pieces (PACK_JOB_PIECES).
 *
 *   begin ──> MAKING ──the store's answer is right──> COPYING ──as many verified copies as wanted──> flip, end
 *                │                                       │
 *                └──failed, or its disk is gone──────────┴──> end: the container goes, the chunks are candidates again
 *
 * In both states the container is CHUNK_MAKING: it counts for nothing, and the chunks are all still where they were. */
#include "common/check.h"
#include "common/err.h"
#include "group_make.h"
#include "heal_impl.h"
#include "pack.h"
#include "pack_plan.h"
#include "piece.h"

#define JOB_LOOK_NS 1000000000ull /* between two looks at a job that waits for a store */

/* ------------------------------------------------------------------ rows */
int pack_job_get(struct tables *t, uint64_t container, struct pack_job *ret)
{
    struct key key = key_2(TABLE_PACK, PACK_JOB, container);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    return pack_job_decode(container, value.data, value.len, ret) != 0 ? tables_corrupt(t, &key, "job of packing") : 0;
}

/* `before_ns`: when it was due; 0 = it is new. */
static int job_put(struct tables *t, const struct pack_job *job, uint64_t before_ns)
{
    struct key key = key_2(TABLE_PACK, PACK_JOB, job->container);
    struct key was = key_3(TABLE_PACK, PACK_JOB_DUE, before_ns, job->container);
    struct key is = key_3(TABLE_PACK, PACK_JOB_DUE, job->due_ns, job->container);
    _cleanup_(writer_fini) struct writer w = {0};
    pack_job_encode(job, &w);
    int err = before_ns != 0 ? tables_del(t, &was) : 0;
    if (err == 0)
        err = tables_put_empty(t, &is);
    return err == 0 ? tables_put(t, &key, &w) : err;
}

static int job_del(struct tables *t, const struct pack_job *job)
{
    struct key key = key_2(TABLE_PACK, PACK_JOB, job->container);
    struct key due = key_3(TABLE_PACK, PACK_JOB_DUE, job->due_ns, job->container);
    struct key pieces = key_2(TABLE_PACK, PACK_JOB_PIECES, job->container);
    int err = tables_del(t, &key);
    if (err == 0)
        err = tables_del(t, &due);
    return err == 0 ? tables_del(t, &pieces) : err;
}

int pack_list_get(struct tables *t, uint64_t container, struct pack_list **ret)
{
    struct key key = key_2(TABLE_PACK, PACK_JOB_PIECES, container);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    struct pack_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return tables_note(t, -E_NOMEM);
    if (pack_list_decode(value.data, value.len, list) != 0) {
        free(list);
        return tables_corrupt(t, &key, "pieces of a job of packing");
    }
    *ret = list;
    return 0;
}

static int list_put(struct tables *t, uint64_t container, const struct pack_list *list)
{
    struct key key = key_2(TABLE_PACK, PACK_JOB_PIECES, container);
    _cleanup_(writer_fini) struct writer w = {0};
    pack_list_encode(list, &w);
    return tables_put(t, &key, &w);
}

/* ------------------------------------------------------------------ begin */
int pack_job_begin(struct tables *t, struct pack_class *class, uint32_t disk, const struct pack_list *list)
{
    unsigned places;
    int err = clustermap_places(t, &places);
    if (err != 0)
        return err;
    struct chunk container = {.id = tables_state(t)->next_chunk++,
                              .state = TARN__CHUNK_STATE__CHUNK_SEALED,
                              .flags = CHUNK_MAKING,
                              .kind = CHUNK_CONTAINER,
                              .owner = class->id,
                              .want = chunk_target(class->copies, places),
                              .wish = class->copies,
                              .domain = class->domain,
                              .shift = class->shift,
                              .generation = 1,
                              .n_replicas = 1};
    container.owner_offset = container.id;
    container.replicas[0] = (struct chunk_replica){.disk = disk, .flags = REPLICA_COPYING};
    for (unsigned i = 0; i < list->n; i++)
        container.length += list->pieces[i].level == PACK_LEVEL_RAW ? list->pieces[i].content : list->pieces[i].stored;
    struct pack_job job = {.container = container.id, .state = PACK_MAKING, .disk = disk, .class = class->id,
                           .due_ns = t->now + JOB_LOOK_NS};
    class->containers++;
    err = chunk_save(t, &container);
    if (err == 0)
        err = chunk_task_add(t, disk, TARN__CHUNK_TASK__KIND__PACK, &container);
    if (err == 0)
        err = list_put(t, container.id, list);
    return err == 0 ? job_put(t, &job, 0) : err;
}

/* ------------------------------------------------------------------ end */
int pack_container_gone(struct tables *t, struct chunk *container)
{
    struct pack_class class;
    int err = pack_class_get(t, container->owner, &class);
    if (err != 0)
        return err;
    CHECK(class.containers > 0);
    class.containers--;
    class.due_ns = MIN(class.due_ns, t->now);
    err = pack_class_put(t, &class);
    container->stored = 0;
    return err == 0 ? chunk_delete(t, container) : err;
}

/* Those that were not packed are candidates again, if they still are some. */
static int candidates_again(struct tables *t, const struct pack_list *list)
{
    int err = 0;
    for (unsigned i = 0; i < list->n && err == 0; i++) {
        struct chunk chunk;
        if (list->pieces[i].size != 0)
            continue;
        err = chunk_get(t, list->pieces[i].chunk, &chunk);
        if (err == 0)
            err = pack_consider(t, &chunk);
        err = err == -E_NOENT ? 0 : err;
    }
    return err;
}

/* What failed just now would fail again. */
static int class_rests(struct tables *t, uint64_t id)
{
    struct pack_class class;
    int err = pack_class_get(t, id, &class);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    class.due_ns = class.candidates > 0 ? t->now + PACK_COLD_NS : PACK_NEVER;
    return pack_class_put(t, &class);
}

/* The container goes; nothing depended on it. `failed`: not because it would not pay, others may. */
static int abort_job(struct tables *t, const struct pack_job *job, struct chunk *container, bool failed)
{
    struct pack_list *list = NULL;
    int err = pack_list_get(t, job->container, &list);
    _cleanup_free_ struct pack_list *owned = list;
    for (unsigned i = 0; err == 0 && i < owned->n; i++)
        owned->pieces[i].size = 0;
    if (err == 0)
        err = job_del(t, job);
    if (err == 0)
        err = pack_container_gone(t, container);
    if (err == 0)
        err = candidates_again(t, owned);
    return err == 0 && failed ? class_rests(t, job->class) : err;
}

/* ------------------------------------------------------------------ the store's answer */
static int piece_compare(const void *a, const void *b)
{
    const struct pack_piece *x = *(struct pack_piece *const *)a, *y = *(struct pack_piece *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* What a store says is never trusted: every piece within the container, none over another. */
static bool places_are_right(struct pack_list *list, uint64_t length)
{
    struct pack_piece *order[PACK_PIECES_MAX];
    uint64_t end = 0;
    unsigned n = 0;
    for (unsigned i = 0; i < list->n; i++)
        if (list->pieces[i].size != 0)
            order[n++] = &list->pieces[i];
    qsort(order, n, sizeof *order, piece_compare);
    for (unsigned i = 0; i < n; i++) {
        bool raw = order[i]->made == TARN__CHUNK_FORM__FORM_RAW;
        if (order[i]->offset < end || order[i]->size > length || order[i]->offset > length - order[i]->size ||
            (raw && order[i]->size != order[i]->content))
            return false;
        end = order[i]->offset + order[i]->size;
    }
    return n > 0 && length <= MD_CHUNK_BYTES;
}

/* Takes over where the pieces are; they come in the order of the list, some may be left out. */
static bool places_take(struct pack_list *list, const Tarn__ChunkTaskDone *done)
{
    unsigned at = 0;
    for (size_t i = 0; i < done->n_pieces; i++) {
        const Tarn__Piece *piece = done->pieces[i];
        while (at < list->n && list->pieces[at].chunk != piece->piece)
            at++;
        if (at == list->n || piece->form > TARN__CHUNK_FORM__FORM_ZSTD)
            return false;
        list->pieces[at].offset = piece->offset;
        list->pieces[at].size = piece->stored;
        list->pieces[at++].made = (uint8_t)piece->form;
    }
    return places_are_right(list, done->length);
}

/* One large chunk that compression does not make smaller: remembered, so that it is not tried again. */
static int does_not_pay(struct tables *t, const struct pack_list *list)
{
    const struct pack_piece *piece = &list->pieces[0];
    struct chunk chunk;
    int err = chunk_get(t, piece->chunk, &chunk);
    if (err != 0 || chunk.body != 0 || chunk.state != TARN__CHUNK_STATE__CHUNK_SEALED || piece->level == 0)
        return err == -E_NOENT ? 0 : err;
    chunk.stored = piece->level;
    chunk.form = TARN__CHUNK_FORM__FORM_ZSTD;
    err = chunk_save(t, &chunk);
    return err == 0 ? group_candidate(t, &(struct chunk){.id = chunk.id}, &chunk) : err; /* now it may be coded as it is */
}

int pack_job_done(struct tables *t, struct chunk *container, unsigned index, const Tarn__ChunkTaskDone *done)
{
    struct pack_job job;
    struct pack_list *list = NULL;
    if (!(container->flags & CHUNK_MAKING) || !(container->replicas[index].flags & REPLICA_COPYING))
        return 0;
    int err = pack_job_get(t, container->id, &job);
    if (err == 0 && job.state == PACK_MAKING)
        err = pack_list_get(t, container->id, &list);
    _cleanup_free_ struct pack_list *owned = list;
    if (err != 0 || owned == NULL)
        return err;
    bool no_gain = done->status == 0 && done->length == 0 && owned->n == 1;
    if (no_gain)
        err = does_not_pay(t, owned);
    if (err == 0 && (no_gain || done->status != 0 || !places_take(owned, done)))
        return abort_job(t, &job, container, !no_gain);
    if (err == 0)
        err = list_put(t, container->id, owned);
    container->length = done->length;
    container->replicas[index] = (struct chunk_replica){.disk = container->replicas[index].disk,
                                                        .flags = REPLICA_READY | REPLICA_SEALED,
                                                        .length = done->length,
                                                        .digest = done->digest};
    uint64_t before = job.due_ns;
    job.state = PACK_COPYING;
    job.due_ns = t->now;
    return err == 0 ? job_put(t, &job, before) : err;
}

int pack_job_wake(struct tables *t, const struct chunk *container)
{
    struct pack_job job;
    int err = pack_job_get(t, container->id, &job);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    uint64_t before = job.due_ns;
    job.due_ns = MIN(before, t->now);
    return job_put(t, &job, before);
}

/* ------------------------------------------------------------------ flip */
static bool as_it_was(const struct chunk *chunk, const struct pack_piece *piece)
{
    return chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED && chunk->flags == 0 && chunk->group == 0 &&
           chunk->generation == piece->generation && chunk->body == piece->body &&
           (chunk->body == 0 || chunk->body_offset == piece->body_offset) && chunk->length == piece->content;
}

static int flip_piece(struct tables *t, struct chunk *container, const struct pack_piece *piece)
{
    struct chunk chunk;
    int err = chunk_get(t, piece->chunk, &chunk);
    if (err != 0 || !as_it_was(&chunk, piece))
        return err == -E_NOENT ? 0 : err; /* its bytes in the container are dead */
    struct piece_place place = {.offset = piece->offset, .stored = piece->size, .form = piece->made};
    return piece_enter(t, &chunk, container, &place);
}

static int flip(struct tables *t, const struct pack_job *job, struct chunk *container)
{
    struct pack_list *list = NULL;
    int err = pack_list_get(t, job->container, &list);
    _cleanup_free_ struct pack_list *owned = list;
    container->flags &= (uint8_t)~CHUNK_MAKING;
    if (err == 0)
        err = chunk_save(t, container);
    for (unsigned i = 0; err == 0 && i < owned->n; i++)
        if (owned->pieces[i].size != 0)
            err = flip_piece(t, container, &owned->pieces[i]);
    if (err == 0)
        err = job_del(t, job);
    if (err == 0)
        err = candidates_again(t, owned);
    if (err == 0 && container->stored == 0)
        return pack_container_gone(t, container);
    struct key compact = key_2(TABLE_PACK, PACK_COMPACT, container->id);
    if (err == 0 && piece_half_dead(container))
        err = tables_put_empty(t, &compact);
    struct pack_class class;
    if (err == 0)
        err = pack_class_get(t, container->owner, &class);
    if (err != 0 || class.candidates == 0)
        return err;
    class.due_ns = MIN(class.due_ns, t->now); /* a disk is free for the next container */
    return pack_class_put(t, &class);
}

/* ------------------------------------------------------------------ steps */
/* No copy is left that others could be made from. */
static bool lost(const struct healer *h, const struct chunk *container)
{
    for (unsigned i = 0; i < container->n_replicas; i++) {
        size_t at = placement_find(&h->map, container->replicas[i].disk);
        if (!(container->replicas[i].flags & (REPLICA_LEAVING | REPLICA_DAMAGED)) && at != SIZE_MAX && !h->disks[at].away)
            return false;
    }
    return true;
}

static unsigned verified_copies(const struct healer *h, const struct chunk *container)
{
    unsigned n = 0;
    for (unsigned i = 0; i < container->n_replicas; i++) {
        const struct disk *disk = cluster_disk(&h->cluster, container->replicas[i].disk);
        n += chunk_replica_whole(&container->replicas[i]) && disk != NULL && disk->up;
    }
    return n;
}

/* The other copies: a place for each that is missing, as for any chunk. */
static int copy_step(struct healer *h, const struct pack_job *job, struct chunk *container)
{
    struct policy policy;
    struct heal_decision decision;
    if (verified_copies(h, container) >= container->want)
        return flip(h->t, job, container);
    int err = pack_policy(h->t, container, &policy);
    return err == 0 ? healer_place(h, container, &policy, true, false, &decision) : err;
}

int pack_job_step(struct tables *t, uint64_t id)
{
    struct pack_job job, now;
    struct chunk container;
    _cleanup_(healer_fini) struct healer h = {0};
    int err = pack_job_get(t, id, &job);
    if (err == 0)
        err = chunk_get(t, id, &container);
    if (err == 0)
        err = healer_init(&h, t, HEAL_MOVE);
    if (err != 0)
        return err;
    if (lost(&h, &container))
        return abort_job(t, &job, &container, true);
    if (job.state == PACK_COPYING)
        err = copy_step(&h, &job, &container);
    if (err == 0)
        err = pack_job_get(t, id, &now); /* flipped: it is not there any more */
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    now.due_ns = t->now + JOB_LOOK_NS;
    return job_put(t, &now, job.due_ns);
}
