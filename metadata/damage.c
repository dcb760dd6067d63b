#include "damage.h"

#include "chunkmap.h"
#include "common/err.h"
#include "group.h"
#include "heal.h"

#define DAMAGE_VERSION 1
#define SECOND_NS 1000000000ull
/* A repair moves some cells; while it is asked nobody begins to copy the whole chunk. */
#define REPAIR_PATIENCE_NS (30 * SECOND_NS)
#define RETRY_NS (10 * SECOND_NS)         /* a source was away; doubled with each try */
#define RETRY_MAX_NS (600 * SECOND_NS)
#define HOPELESS_NS (3600 * SECOND_NS)    /* nobody had the bytes: somebody may come back with them */

/* ------------------------------------------------------------------ rows */
struct key damage_key(uint64_t chunk, uint32_t disk)
{
    struct key key = key_3(TABLE_DAMAGED, DAMAGE_OF, chunk, disk);
    return key;
}

struct key damage_due_key(const struct damage_row *row)
{
    uint8_t disk[8] = {[4] = (uint8_t)(row->disk >> 24), [5] = (uint8_t)(row->disk >> 16), [6] = (uint8_t)(row->disk >> 8),
                       [7] = (uint8_t)row->disk};
    return key_append(key_3(TABLE_DAMAGED, DAMAGE_DUE, row->due_ns, row->chunk), disk, sizeof disk);
}

void damage_row_encode(const struct damage_row *row, struct writer *w)
{
    writer_u8(w, DAMAGE_VERSION);
    writer_u64(w, row->since_ns);
    writer_u64(w, row->offset);
    writer_u64(w, row->due_ns);
    writer_u64(w, row->task);
    writer_u64(w, row->bytes);
    writer_u32(w, row->tries);
    writer_u8(w, row->nobody);
}

int damage_row_decode(uint64_t chunk, uint32_t disk, const void *data, size_t n, struct damage_row *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != DAMAGE_VERSION)
        return -E_CORRUPT;
    struct damage_row row = {.chunk = chunk, .disk = disk};
    row.since_ns = reader_u64(&r);
    row.offset = reader_u64(&r);
    row.due_ns = reader_u64(&r);
    row.task = reader_u64(&r);
    row.bytes = reader_u64(&r);
    row.tries = reader_u32(&r);
    uint8_t nobody = reader_u8(&r);
    if (r.failed || reader_left(&r) != 0 || nobody > 1)
        return -E_CORRUPT;
    row.nobody = nobody != 0;
    *ret = row;
    return 0;
}

static int row_get(struct tables *t, uint64_t chunk, uint32_t disk, struct damage_row *ret)
{
    struct key key = damage_key(chunk, disk);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0 && damage_row_decode(chunk, disk, value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "damaged copy");
    return err;
}

static int row_del(struct tables *t, uint64_t chunk, uint32_t disk)
{
    struct damage_row row;
    int err = row_get(t, chunk, disk, &row);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    struct key key = damage_key(chunk, disk), due = damage_due_key(&row);
    err = tables_del(t, &key);
    return err == 0 ? tables_del(t, &due) : err;
}

/* With its place among what is due. */
static int row_put(struct tables *t, const struct damage_row *row)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct key key = damage_key(row->chunk, row->disk), due = damage_due_key(row);
    int err = row_del(t, row->chunk, row->disk);
    damage_row_encode(row, &w);
    if (err == 0)
        err = tables_put(t, &key, &w);
    return err == 0 ? tables_put_empty(t, &due) : err;
}

static bool is_damaged(const struct chunk *chunk, uint32_t disk)
{
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if (chunk->replicas[i].disk == disk)
            return (chunk->replicas[i].flags & REPLICA_DAMAGED) != 0;
    return false;
}

int damage_rows(struct tables *t, const struct chunk *old, const struct chunk *chunk)
{
    int err = 0;
    for (unsigned i = 0; i < old->n_replicas && err == 0; i++) {
        const struct chunk_replica *r = &old->replicas[i];
        if ((r->flags & REPLICA_DAMAGED) && !is_damaged(chunk, r->disk))
            err = row_del(t, old->id, r->disk);
    }
    return err;
}

bool damage_may_lose(const struct chunk *chunk, unsigned index)
{
    unsigned ready = 0, whole = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        uint8_t flags = chunk->replicas[i].flags;
        ready += i != index && (flags & REPLICA_READY);
        whole += i != index && (flags & REPLICA_READY) && !(flags & REPLICA_DAMAGED);
    }
    return (chunk->replicas[index].flags & REPLICA_DAMAGED) ? ready > 0 : whole > 0;
}

/* ------------------------------------------------------------------ repairs */
static int ask(struct tables *t, struct chunk *chunk, struct damage_row *row)
{
    row->task = t->state.next_task;
    row->tries++;
    row->due_ns = t->now + HOPELESS_NS; /* if no answer ever comes */
    chunk->heal_after_ns = t->now + REPAIR_PATIENCE_NS;
    int err = chunk_task_add(t, row->disk, TARN__CHUNK_TASK__KIND__REPAIR, chunk);
    return err == 0 ? row_put(t, row) : err;
}

static bool disk_is_of(struct tables *t, uint32_t disk, uint32_t node)
{
    struct disk row;
    return disk_get(t, disk, &row) == 0 && row.node == node;
}

/* W1: a node speaks of its own disks only. */
int damage_report(struct tables *t, uint32_t node, const Tarn__Damage *damage)
{
    struct chunk chunk;
    int err = chunk_get(t, damage->chunk, &chunk);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    uint32_t disk = damage->disk != 0 ? damage->disk : node;
    if (chunk.state == TARN__CHUNK_STATE__CHUNK_DELETING || !disk_is_of(t, disk, node))
        return 0;
    for (unsigned i = 0; i < chunk.n_replicas; i++) {
        struct chunk_replica *r = &chunk.replicas[i];
        if (r->disk != disk || !(r->flags & REPLICA_READY) || (r->flags & REPLICA_DAMAGED))
            continue;
        struct damage_row row = {.chunk = chunk.id, .disk = disk, .since_ns = t->now, .offset = damage->offset};
        r->flags |= REPLICA_DAMAGED;
        err = ask(t, &chunk, &row);
        return err == 0 ? chunk_save(t, &chunk) : err;
    }
    return 0;
}

/* The disk does not take the bytes, or does not have the chunk at all: if another copy is whole, or its group has enough to
 * compute it, this one leaves (W3), and from an open chunk as a member that failed (C2). */
static int give_up(struct tables *t, struct chunk *chunk, unsigned index, bool *ret_left)
{
    bool whole = false;
    int err = group_can_rebuild(t, chunk, &whole);
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        struct disk disk;
        whole |= i != index && (r->flags & REPLICA_READY) && !(r->flags & REPLICA_DAMAGED) &&
                 disk_get(t, r->disk, &disk) == 0 && disk.up;
    }
    *ret_left = whole && err == 0;
    if (!*ret_left)
        return err != 0 ? err : t->failed;
    err = chunk_replica_drop(t, chunk, index);
    if (chunk->state == TARN__CHUNK_STATE__CHUNK_OPEN)
        chunk->generation++;
    return err;
}

int damage_done(struct tables *t, struct chunk *chunk, unsigned index, const Tarn__ChunkTaskDone *done)
{
    struct chunk_replica *r = &chunk->replicas[index];
    struct damage_row row;
    int err = r->flags & REPLICA_DAMAGED ? row_get(t, chunk->id, r->disk, &row) : -E_NOENT;
    if (err != 0 || row.task != done->id)
        return err == -E_NOENT ? 0 : err;
    int status = err_from_wire(done->status);
    chunk->heal_after_ns = 0;
    if (status == 0) {
        r->flags &= (uint8_t)~REPLICA_DAMAGED; /* its rows go when the chunk is saved */
        return 0;
    }
    bool left = false;
    if (status != -E_CORRUPT && status != -E_UNAVAIL && status != -E_BUSY && status != -E_CANCELED)
        err = give_up(t, chunk, index, &left);
    if (err != 0 || left)
        return err;
    row.task = 0;
    row.bytes = done->length;
    row.nobody = status == -E_CORRUPT;
    uint64_t pause = RETRY_NS << MIN(row.tries, 10u);
    row.due_ns = t->now + (row.nobody ? HOPELESS_NS : MIN(pause, RETRY_MAX_NS));
    return row_put(t, &row);
}

/* ------------------------------------------------------------------ what is due */
struct due {
    uint64_t now;
    bool found;
};

static int first_due(void *arg, struct kv_val key, struct kv_val value)
{
    struct due *due = arg;
    struct reader r = reader_init(key.data + 9, key.len - 9);
    due->found = reader_be64(&r) <= due->now;
    return 1;
}

bool damage_due(struct tables *t, uint64_t now)
{
    struct due due = {.now = now};
    struct key prefix = key_1(TABLE_DAMAGED, DAMAGE_DUE);
    return tables_scan(t, &prefix, &prefix, first_due, &due) == 0 && due.found;
}

static int ask_again(struct tables *t, uint64_t id, uint32_t disk)
{
    struct chunk chunk;
    struct damage_row row;
    int err = row_get(t, id, disk, &row);
    if (err == 0)
        err = chunk_get(t, id, &chunk);
    if (err == 0)
        err = ask(t, &chunk, &row);
    return err == 0 ? chunk_save(t, &chunk) : err;
}

int damage_step(struct tables *t)
{
    struct key prefix = key_1(TABLE_DAMAGED, DAMAGE_DUE);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, DAMAGE_STEP, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        const struct key *key = &rows.rows[i].key;
        if (key_number(key, 1) > t->now)
            break;
        err = ask_again(t, key_number(key, 2), (uint32_t)key_number(key, 3));
    }
    return err;
}
