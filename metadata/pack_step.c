/* One step: jobs that are due, containers that are half dead, one class that is due. All bounded. */
#include "common/err.h"
#include "heal_impl.h"
#include "pack.h"
#include "pack_plan.h"
#include "piece.h"
#include "session.h"

#define STEP_JOBS 4
#define STEP_COMPACT 2            /* containers, PACK_PIECES_MAX pieces each */
#define LOOK_MAX 1024             /* candidates of one class in one step: some milliseconds */
#define BUSY_NS 1000000000ull     /* enough is being packed */
#define CROWDED_NS (30 * 1000000000ull) /* no disk has room */

/* ------------------------------------------------------------------ what is due */
/* The number behind the time in the first row of a room that is due. */
static bool due_first(struct tables *t, enum pack_room room, uint64_t now, uint64_t *ret)
{
    struct key prefix = key_1(TABLE_PACK, room);
    _cleanup_(rows_fini) struct rows rows = {0};
    if (tables_rows(t, &prefix, &prefix, 1, &rows) != 0 || rows.count == 0 || key_number(&rows.rows[0].key, 1) > now)
        return false;
    *ret = key_number(&rows.rows[0].key, 2);
    return true;
}

bool pack_due(struct tables *t, uint64_t now)
{
    uint64_t id;
    struct key compact = key_1(TABLE_PACK, PACK_COMPACT);
    return due_first(t, PACK_JOB_DUE, now, &id) || due_first(t, PACK_CLASS_DUE, now, &id) || tables_any(t, &compact);
}

/* ------------------------------------------------------------------ compaction */
/* The live pieces become candidates: with others of the class, or alone, they make a new container. */
static int compact(struct tables *t, uint64_t id)
{
    struct chunk container, piece;
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = key_1(TABLE_PIECE, id);
    int err = chunk_get(t, id, &container);
    if (err == 0 && container.state == TARN__CHUNK_STATE__CHUNK_DELETING)
        err = -E_NOENT;
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    err = tables_rows(t, &prefix, &prefix, PACK_PIECES_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        uint64_t number;
        if (number_decode(rows.rows[i].value, rows.rows[i].len, &number) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "piece of a container");
        err = chunk_get(t, number, &piece);
        if (err == 0)
            err = pack_consider(t, &piece);
    }
    return err;
}

static int compact_step(struct tables *t)
{
    struct key prefix = key_1(TABLE_PACK, PACK_COMPACT);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, STEP_COMPACT, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        err = compact(t, key_number(&rows.rows[i].key, 1));
        if (err == 0)
            err = tables_del(t, &rows.rows[i].key);
    }
    return err;
}

/* ------------------------------------------------------------------ one class */
struct look {
    struct tables *t;
    struct healer h;
    struct pack_class class;
    struct pack_item *items;
    struct pack_piece *pieces; /* of the items */
    size_t n, waiting;
    bool full;                 /* enough is being packed in the cluster */
};

static void look_fini(struct look *l)
{
    healer_fini(&l->h);
    free(l->items);
    free(l->pieces);
}

/* Disks at work on as many containers as they may are busy for us. */
static int look_jobs(struct look *l)
{
    struct key prefix = key_1(TABLE_PACK, PACK_JOB);
    _cleanup_(rows_fini) struct rows rows = {0};
    unsigned char made[PACK_JOBS_MAX] = {0};
    int err = tables_rows(l->t, &prefix, &prefix, PACK_JOBS_MAX, &rows);
    uint32_t disks[PACK_JOBS_MAX];
    l->full = rows.count >= PACK_JOBS_MAX;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct pack_job job;
        if (pack_job_decode(key_number(&rows.rows[i].key, 1), rows.rows[i].value, rows.rows[i].len, &job) != 0)
            return tables_corrupt(l->t, &rows.rows[i].key, "job of packing");
        disks[i] = job.disk;
        for (size_t k = 0; k <= i; k++)
            made[i] = (unsigned char)(made[i] + (disks[k] == job.disk));
        size_t at = placement_find(&l->h.map, job.disk);
        if (at != SIZE_MAX && made[i] >= PACK_DISK_JOBS_MAX)
            l->h.disks[at].busy = true;
    }
    return err;
}

static void item_fill(const struct look *l, const struct chunk *chunk, const struct chunk *body, uint64_t since_ns,
                      struct pack_item *item, struct pack_piece *piece)
{
    bool zstd = chunk->form == TARN__CHUNK_FORM__FORM_ZSTD && chunk->body != 0;
    bool tried = chunk->body == 0 && chunk->form == TARN__CHUNK_FORM__FORM_ZSTD && chunk->stored >= l->class.compress;
    uint8_t level = zstd ? (l->class.compress == 0 ? PACK_LEVEL_RAW : 0) : tried ? 0 : l->class.compress;
    *piece = (struct pack_piece){.chunk = chunk->id,
                                 .generation = chunk->generation,
                                 .body = chunk->body,
                                 .body_offset = chunk->body_offset,
                                 .stored = chunk->body != 0 ? chunk->stored : chunk->length,
                                 .content = chunk->length,
                                 .form = zstd ? TARN__CHUNK_FORM__FORM_ZSTD : TARN__CHUNK_FORM__FORM_RAW,
                                 .level = level};
    uint64_t half = l->class.code_k != 0 ? (1ull << l->class.shift) / 2 - 1 : 0;
    *item = (struct pack_item){.since_ns = since_ns,
                               .bytes = zstd && level == 0 ? chunk->stored : chunk->length,
                               .alone = chunk->length > MAX(MIN(PACK_SMALL_BYTES, (1ull << l->class.shift) / 4), half)};
    for (unsigned i = 0; i < body->n_replicas && item->n < PACK_ITEM_DISKS; i++) {
        const struct disk *disk = cluster_disk(&l->h.cluster, body->replicas[i].disk);
        if (chunk_replica_whole(&body->replicas[i]) && disk != NULL && disk->up)
            item->disks[item->n++] = disk->id;
    }
}

/* Fit for packing now: 1, not now: 0, not at all any more: -E_NOENT. */
static int look_at(struct look *l, const struct row *row)
{
    struct chunk chunk, body;
    struct pack_candidate candidate;
    struct opens opens;
    struct pack_class of;
    uint64_t id = key_number(&row->key, 2);
    if (pack_candidate_decode(row->value, row->len, &candidate) != 0)
        return tables_corrupt(l->t, &row->key, "candidate for packing");
    int err = chunk_get(l->t, id, &chunk);
    if (err == 0)
        err = pack_class_now(l->t, &chunk, &of);
    if (err == 0 && of.id != l->class.id)
        err = -E_NOENT;
    if (err == 0)
        err = piece_body(l->t, &chunk, &body);
    if (err == 0)
        err = session_opens(l->t, chunk.owner, &opens);
    if (err != 0)
        return err;
    item_fill(l, &chunk, &body, candidate.since_ns, &l->items[l->n], &l->pieces[l->n]);
    if (opens.writers > 0 || l->items[l->n].n == 0)
        return 0;
    l->n++;
    return 1;
}

static int look_over(struct look *l)
{
    struct key prefix = key_2(TABLE_PACK, PACK_CANDIDATE, l->class.id);
    struct key start = key_3(TABLE_PACK, PACK_CANDIDATE, l->class.id, l->class.next);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(l->t, &start, &prefix, LOOK_MAX, &rows);
    l->items = calloc(rows.count + 1, sizeof *l->items);
    l->pieces = calloc(rows.count + 1, sizeof *l->pieces);
    if (err == 0 && (l->items == NULL || l->pieces == NULL))
        return tables_note(l->t, -E_NOMEM);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        err = look_at(l, &rows.rows[i]);
        l->waiting += err == 0;
        if (err == -E_NOENT)
            err = pack_candidate_remove(l->t, &l->class, key_number(&rows.rows[i].key, 2));
        err = err == 1 ? 0 : err;
    }
    l->class.next = rows.count < LOOK_MAX ? 0 : key_number(&rows.rows[rows.count - 1].key, 2) + 1;
    return err;
}

static int begin(struct look *l, const struct pack_plan *plan)
{
    _cleanup_free_ struct pack_list *list = calloc(1, sizeof *list);
    if (list == NULL)
        return tables_note(l->t, -E_NOMEM);
    int err = 0;
    for (unsigned i = 0; i < plan->n && err == 0; i++) {
        list->pieces[list->n++] = l->pieces[plan->items[i]];
        err = pack_candidate_remove(l->t, &l->class, l->pieces[plan->items[i]].chunk);
    }
    return err == 0 ? pack_job_begin(l->t, &l->class, plan->disk, list) : err;
}

/* Disks have enough to do, which does not take long: one that is full would be waited for longer. */
static bool any_busy(const struct look *l)
{
    for (size_t i = 0; i < l->h.map.n; i++)
        if (l->h.disks[i].up && !l->h.disks[i].draining && l->h.disks[i].busy)
            return true;
    return false;
}

/* When the class is looked at again. */
static uint64_t due_after(const struct look *l, const struct pack_plan *plan)
{
    uint64_t now = l->t->now;
    if (l->full || (plan->crowded && any_busy(l)))
        return now + BUSY_NS;
    if (plan->n > 0 || l->class.next != 0)
        return now; /* there may be more */
    if (plan->crowded)
        return now + CROWDED_NS;
    uint64_t again = l->waiting > 0 ? now + PACK_AGE_NS : PACK_NEVER;
    return MIN(again, plan->again_ns);
}

static int class_step(struct tables *t, uint64_t id)
{
    _cleanup_(look_fini) struct look l = {.t = t};
    _cleanup_free_ struct pack_plan *plan = calloc(1, sizeof *plan);
    if (plan == NULL)
        return tables_note(t, -E_NOMEM);
    int err = pack_class_get(t, id, &l.class);
    if (err == 0)
        err = healer_init(&l.h, t, HEAL_MOVE);
    if (err == 0)
        err = look_jobs(&l);
    if (err == 0 && !l.full)
        err = look_over(&l);
    if (err == 0 && !l.full)
        err = tables_note(t, pack_plan(l.items, l.n, 1ull << l.class.shift, &l.h.map, t->now, plan));
    if (err == 0 && plan->n > 0)
        err = begin(&l, plan);
    if (err != 0)
        return err;
    l.class.due_ns = due_after(&l, plan);
    return pack_class_put(t, &l.class);
}

int pack_step(struct tables *t)
{
    uint64_t id;
    int err = 0;
    for (unsigned i = 0; i < STEP_JOBS && err == 0 && due_first(t, PACK_JOB_DUE, t->now, &id); i++)
        err = pack_job_step(t, id);
    if (err == 0)
        err = compact_step(t);
    if (err == 0 && due_first(t, PACK_CLASS_DUE, t->now, &id))
        err = class_step(t, id);
    return err;
}
