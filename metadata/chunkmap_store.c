/* What chunk stores report: finished tasks, and what a disk holds. */
#include "chunkmap.h"
#include "common/err.h"
#include "damage.h"
#include "group.h"
#include "group_make.h"
#include "heal.h"
#include "heal_kept.h"
#include "heal_state.h"
#include "pack.h"

#define INVENTORY_MAX 10000 /* chunks in one message */
/* After a failed COPY the chunk waits before the next try: another source or target may be better
 * then. */
#define COPY_RETRY_NS (5 * 1000000000ull)

static int find_replica(const struct chunk *chunk, uint32_t disk)
{
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if (chunk->replicas[i].disk == disk)
            return (int)i;
    return -1;
}

static void remove_replica(struct chunk *chunk, unsigned index)
{
    for (unsigned i = index; i + 1 < chunk->n_replicas; i++)
        chunk->replicas[i] = chunk->replicas[i + 1];
    chunk->n_replicas--;
}

static bool on_up_disk(struct tables *t, const struct chunk_replica *replica)
{
    struct disk disk;
    return disk_get(t, replica->disk, &disk) == 0 && disk.up;
}

/* C15: every member has answered, and none has ever seen a write: the bytes are zeros. They make an
 * empty chunk, so that there is something to read and to copy. */
static int seal_unwritten(struct tables *t, struct chunk *chunk)
{
    int err = 0;
    chunk->generation++; /* answers to the seal before do not count */
    chunk->length = 0;
    chunk->flags &= (uint8_t)~CHUNK_KEEP_TAIL;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        if (chunk->replicas[i].flags & REPLICA_READY) {
            chunk->replicas[i].flags = REPLICA_READY;
            err = chunk_task_add(t, chunk->replicas[i].disk, TARN__CHUNK_TASK__KIND__SEAL, chunk);
        }
    return err;
}

static bool unwritten(const struct chunk *chunk)
{
    if (chunk->state != TARN__CHUNK_STATE__CHUNK_SEALED || chunk_ready(chunk) == 0)
        return false;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        if ((r->flags & REPLICA_READY) && (!(r->flags & REPLICA_SEALED) || r->length > 0))
            return false;
    }
    return chunk->length > 0;
}

int chunk_seal_again(struct tables *t, struct chunk *chunk, bool *ret_changed)
{
    int err = 0;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++) {
        struct chunk_replica *r = &chunk->replicas[i];
        if (!(r->flags & REPLICA_SEAL_AGAIN) || !on_up_disk(t, r))
            continue;
        r->flags &= (uint8_t)~REPLICA_SEAL_AGAIN;
        *ret_changed = true;
        err = chunk_task_add(t, r->disk, chunk_seal_kind(chunk), chunk);
    }
    if (err == 0 && unwritten(chunk)) { /* the last member that had not answered has left since */
        *ret_changed = true;
        err = seal_unwritten(t, chunk);
    }
    return err;
}

/* The copy the others are compared with: the longest (one that lost its file answers with nothing),
 * the first of those, which is the primary unless it is gone. NULL while an answer is still to
 * come. */
static const struct chunk_replica *sealed_reference(struct tables *t, const struct chunk *chunk)
{
    const struct chunk_replica *best = NULL;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        if (!(r->flags & REPLICA_READY))
            continue;
        if (!(r->flags & REPLICA_SEALED)) {
            if (on_up_disk(t, r))
                return NULL;
            continue; /* it is compared when it comes back and answers */
        }
        if (best == NULL || r->length > best->length)
            best = r;
    }
    return best;
}

/* C5: every acknowledged byte is on every member, so any intact copy is right; they must be the
 * same. */
static int compare_sealed(struct tables *t, struct chunk *chunk)
{
    if (!chunk->coded && unwritten(chunk)) /* a shard was acknowledged with its length: it is lost, not zeros */
        return seal_unwritten(t, chunk);
    const struct chunk_replica *best = sealed_reference(t, chunk);
    int err = 0;
    if (best != NULL && best->length == 0 && (chunk->flags & CHUNK_KEEP_TAIL))
        return seal_unwritten(t, chunk); /* others are away: what was acknowledged would be here, too (C5) */
    if (best != NULL && (chunk->flags & CHUNK_KEEP_TAIL)) {
        chunk->flags &= (uint8_t)~CHUNK_KEEP_TAIL;
        chunk->length = best->length;
    }
    for (unsigned i = 0; best != NULL && i < chunk->n_replicas && err == 0; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        if (r == best || !(r->flags & REPLICA_READY) || !(r->flags & REPLICA_SEALED))
            continue;
        if (r->length != best->length || r->digest != best->digest)
            err = chunk_replica_drop(t, chunk, i);
    }
    return err;
}

static int done_seal(struct tables *t, struct chunk *chunk, unsigned index,
                     const Tarn__ChunkTaskDone *done)
{
    struct chunk_replica *r = &chunk->replicas[index];
    int status = err_from_wire(done->status);
    if (!(r->flags & REPLICA_READY) || done->generation != chunk->generation)
        return 0;
    bool others = false; /* a shard whose bytes are not all there is computed again */
    int err = group_bears_loss(t, chunk, &others);
    bool short_shard = chunk->coded && (status == -E_NOENT ? 0 : done->length) != chunk->length;
    if (err != 0)
        return err;
    if ((status != 0 && status != -E_NOENT) || short_shard) { /* its disk does not answer for it */
        if (damage_may_lose(chunk, index) || others)
            return chunk_replica_drop(t, chunk, index);
        r->flags |= REPLICA_SEAL_AGAIN; /* C4 keeps it, and without its seal it cannot be copied */
        chunk->heal_after_ns = t->now + COPY_RETRY_NS;
        return 0;
    }
    r->flags |= REPLICA_SEALED; /* a store that never saw a write holds an empty chunk */
    r->length = status == 0 ? done->length : 0;
    r->digest = status == 0 ? done->digest : 0;
    return compare_sealed(t, chunk);
}

static int done_copy(struct tables *t, struct chunk *chunk, unsigned index,
                     const Tarn__ChunkTaskDone *done)
{
    struct chunk_replica *r = &chunk->replicas[index];
    if (!(r->flags & REPLICA_COPYING))
        return 0;
    const struct chunk_replica *source = sealed_reference(t, chunk); /* what it must be equal to */
    bool good = done->status == 0 && source != NULL && done->length == source->length &&
                done->digest == source->digest && done->generation == chunk->generation;
    if (good) {
        *r = (struct chunk_replica){.disk = r->disk,
                                    .flags = REPLICA_READY | REPLICA_SEALED,
                                    .length = done->length,
                                    .digest = done->digest};
        return 0;
    }
    chunk->heal_after_ns = t->now + COPY_RETRY_NS;
    return chunk_replica_drop(t, chunk, index); /* whatever it left there must go first */
}

/* A report about a chunk that is gone, or does not count this disk among its own. */
static int done_stray(struct tables *t, uint32_t disk, const Tarn__ChunkTaskDone *done)
{
    bool wrote = done->kind == TARN__CHUNK_TASK__KIND__COPY || done->kind == TARN__CHUNK_TASK__KIND__BUILD ||
                 done->kind == TARN__CHUNK_TASK__KIND__PACK;
    if (!wrote || done->status != 0)
        return 0;
    struct chunk gone = {.id = done->chunk, .generation = done->generation};
    return chunk_task_add(t, disk, TARN__CHUNK_TASK__KIND__DELETE, &gone);
}

static int done_apply(struct tables *t, uint32_t disk, const Tarn__ChunkTaskDone *done)
{
    struct chunk chunk;
    int err = chunk_get(t, done->chunk, &chunk);
    if (err != 0 && err != -E_NOENT)
        return err;
    int index = err == -E_NOENT ? -1 : find_replica(&chunk, disk);
    if (index < 0)
        return done_stray(t, disk, done);
    if (done->kind == TARN__CHUNK_TASK__KIND__BUILD)
        return group_done_build(t, &chunk, (unsigned)index, done);
    if (done->kind == TARN__CHUNK_TASK__KIND__VERIFY)
        return group_done_verify(t, &chunk, (unsigned)index, done);
    switch (done->kind) {
    case TARN__CHUNK_TASK__KIND__SEAL:
    case TARN__CHUNK_TASK__KIND__SEAL_KEEP:
        err = done_seal(t, &chunk, (unsigned)index, done);
        break;
    case TARN__CHUNK_TASK__KIND__COPY:
        err = done_copy(t, &chunk, (unsigned)index, done);
        break;
    case TARN__CHUNK_TASK__KIND__REPAIR:
        err = damage_done(t, &chunk, (unsigned)index, done);
        break;
    case TARN__CHUNK_TASK__KIND__PACK:
        err = pack_job_done(t, &chunk, (unsigned)index, done);
        break;
    case TARN__CHUNK_TASK__KIND__DELETE:
        /* Also when it failed: what is left there is unknown to us and goes with the next
         * inventory. */
        if ((chunk.replicas[index].flags & (REPLICA_LEAVING | REPLICA_KEPT)) == REPLICA_LEAVING)
            remove_replica(&chunk, (unsigned)index);
        break;
    default:
        return 0;
    }
    bool copied = done->kind == TARN__CHUNK_TASK__KIND__COPY && index < chunk.n_replicas &&
                  (chunk.replicas[index].flags & REPLICA_READY);
    if (err == 0 && copied)
        err = heal_rate_add(t, done->length);
    if (err == 0)
        err = chunk_save(t, &chunk);
    if (err == 0 && copied && chunk.group != 0 && !chunk.coded)
        return group_done_copy(t, &chunk, disk);
    /* A copy that has come, or a seal that has been answered, may make another one superfluous. */
    unsigned ready = chunk_ready(&chunk);
    bool surplus = chunk.state == TARN__CHUNK_STATE__CHUNK_SEALED &&
                   (ready > chunk.want || (ready == chunk.want && heal_keeps(&chunk)));
    if (err == 0 && surplus && done->kind != TARN__CHUNK_TASK__KIND__DELETE)
        err = heal_trim(t, &chunk);
    if (err != 0 || done->kind == TARN__CHUNK_TASK__KIND__DELETE)
        return err;
    return chunk.flags & CHUNK_MAKING ? pack_job_wake(t, &chunk) : pack_consider(t, &chunk);
}

/* Only what was asked counts, and only once: the queued task is the ticket. */
static int task_done(struct tables *t, uint32_t node, const Tarn__ChunkTaskDone *done)
{
    struct key key = key_2(TABLE_TASK, node, done->id);
    struct kv_val value;
    struct store_task task;
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT)
        return 0;
    if (err == 0 && store_task_decode(done->id, value.data, value.len, &task) != 0)
        err = tables_corrupt(t, &key, "store task");
    if (err != 0 || task.chunk != done->chunk || task.kind != done->kind)
        return err;
    err = tables_del(t, &key);
    tables_state(t)->tasks--;
    Tarn__ChunkTaskDone asked = *done;
    asked.generation = task.generation;
    return err == 0 ? done_apply(t, task.disk != 0 ? task.disk : node, &asked) : err;
}

int chunk_cmd_tasks_done(struct tables *t, const void *message)
{
    const Tarn__ChunkTasksDone *m = message;
    if (m->node == 0)
        return heal_step(t);
    int err = 0;
    for (size_t i = 0; i < m->n_done && err == 0; i++)
        err = task_done(t, m->node, m->done[i]);
    for (size_t i = 0; i < m->n_damaged && err == 0; i++)
        err = damage_report(t, m->node, m->damaged[i]);
    return err;
}

static bool other_copy_is_up(struct tables *t, const struct chunk *chunk, unsigned except)
{
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        if (i != except && (chunk->replicas[i].flags & REPLICA_READY) && on_up_disk(t, &chunk->replicas[i]))
            return true;
    }
    return false;
}

/* True when what the disk holds is what it should hold. */
static bool held_is_good(struct tables *t, const struct chunk *chunk, unsigned index, const Tarn__ChunkHeld *held)
{
    const struct chunk_replica *r = &chunk->replicas[index];
    bool open = chunk->state == TARN__CHUNK_STATE__CHUNK_OPEN, sealed = (r->flags & REPLICA_SEALED) != 0;
    /* A chunk sealed meanwhile is one generation ahead until the SEAL gets there (C3). */
    uint64_t needed = open || sealed ? chunk->generation : chunk->generation - 1;
    if (held == NULL)
        return sealed && r->length == 0; /* nothing was ever written: no file is made for it */
    if (held->suspect && other_copy_is_up(t, chunk, index))
        return false; /* C18: a power failure took what was not synced; the others have it */
    return (open || held->generation >= needed) && (!sealed || held->length >= r->length);
}

struct inventory_of {
    uint32_t disk;
    uint64_t join_chunk;
};

/* A disk holds (held != NULL) or lacks a chunk that it should hold. *ret_drop: it is to delete it. */
static int inventory_expect(struct tables *t, const struct inventory_of *of, uint64_t id,
                            const Tarn__ChunkHeld *held, bool *ret_drop)
{
    struct chunk chunk;
    *ret_drop = false;
    int err = chunk_get(t, id, &chunk);
    if (err != 0)
        return err;
    int index = find_replica(&chunk, of->disk);
    if (index < 0 || !(chunk.replicas[index].flags & REPLICA_READY) || id >= of->join_chunk)
        return 0;
    bool open = chunk.state == TARN__CHUNK_STATE__CHUNK_OPEN, again = false, others = false;
    err = group_bears_loss(t, &chunk, &others);
    if (err != 0)
        return err;
    if (held_is_good(t, &chunk, (unsigned)index, held) || (!damage_may_lose(&chunk, (unsigned)index) && !others)) {
        err = chunk_seal_again(t, &chunk, &again); /* C4: the last complete copy is never given up */
        return err == 0 && again ? chunk_save(t, &chunk) : err;
    }
    err = chunk_replica_drop(t, &chunk, (unsigned)index);
    if (open)
        chunk.generation++;
    if (err == 0)
        err = chunk_seal_again(t, &chunk, &again);
    *ret_drop = held != NULL;
    return err == 0 ? chunk_save(t, &chunk) : err;
}

struct held_index {
    Tarn__ChunkHeld **held;
    size_t n;
};

static int held_compare(const void *a, const void *b)
{
    const Tarn__ChunkHeld *x = *(Tarn__ChunkHeld *const *)a, *y = *(Tarn__ChunkHeld *const *)b;
    return x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

static const Tarn__ChunkHeld *held_find(const struct held_index *index, uint64_t id)
{
    Tarn__ChunkHeld wanted = {.chunk = id};
    Tarn__ChunkHeld *key = &wanted;
    Tarn__ChunkHeld **found =
        bsearch(&key, index->held, index->n, sizeof *index->held, held_compare);
    return found == NULL ? NULL : *found;
}

/* Every chunk of [first, last] that the tables have on the disk, beside what it says it holds. */
static int inventory_check_disk(struct tables *t, const struct inventory_of *of, uint64_t first, uint64_t last,
                                const struct held_index *index, Tarn__NodeInventoryReply *reply)
{
    struct key prefix = key_1(TABLE_ON_DISK, of->disk);
    struct key start = key_2(TABLE_ON_DISK, of->disk, first);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &start, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        uint64_t id = key_number(&rows.rows[i].key, 1);
        if (id > last)
            break;
        bool drop;
        err = inventory_expect(t, of, id, held_find(index, id), &drop);
        if (drop)
            reply->unknown[reply->n_unknown++] = id;
    }
    return err;
}

int chunk_cmd_inventory(struct tables *t, const void *message)
{
    const Tarn__NodeInventory *m = message;
    struct node node;
    int err = clustermap_get(t, m->node, &node);
    if (err != 0)
        return err;
    if (m->epoch != node.epoch)
        return tables_fail(t, -E_STALE, "node %u has joined again since this inventory", m->node);
    struct inventory_of of = {.disk = m->disk != 0 ? m->disk : node.disks[0], .join_chunk = node.join_chunk};
    struct disk disk;
    err = disk_get(t, of.disk, &disk);
    if (err != 0 || disk.node != m->node)
        return err != 0 ? err : tables_fail(t, -E_INVAL, "disk %u is not in node %u", of.disk, m->node);
    if (m->n_chunks > INVENTORY_MAX)
        return tables_fail(t, -E_INVAL, "at most %d chunks in one inventory message",
                           INVENTORY_MAX);
    _cleanup_free_ Tarn__ChunkHeld **held = calloc(m->n_chunks + 1, sizeof *held);
    _cleanup_free_ uint64_t *unknown = calloc(m->n_chunks + 1, sizeof *unknown);
    if (held == NULL || unknown == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < m->n_chunks; i++)
        held[i] = m->chunks[i];
    struct held_index index = {.held = held, .n = m->n_chunks};
    qsort(held, index.n, sizeof *held, held_compare);
    Tarn__NodeInventoryReply reply = TARN__NODE_INVENTORY_REPLY__INIT;
    reply.unknown = unknown;
    for (size_t i = 0; i < index.n && err == 0; i++) {
        struct chunk chunk;
        err = chunk_get(t, held[i]->chunk, &chunk);
        bool stranger = err == -E_NOENT ? held[i]->chunk < t->state.next_chunk
                                        : err == 0 && find_replica(&chunk, of.disk) < 0;
        if (stranger) /* an id we have not given out yet is from another life: better kept */
            unknown[reply.n_unknown++] = held[i]->chunk;
        bool drop = false;
        err = err == -E_NOENT ? 0 : err;
        if (err == 0 && !stranger && m->last == 0)
            err = inventory_expect(t, &of, held[i]->chunk, held[i], &drop);
        if (drop)
            unknown[reply.n_unknown++] = held[i]->chunk;
        err = err == -E_NOENT ? 0 : err;
    }
    if (err == 0 && m->last != 0)
        err = inventory_check_disk(t, &of, m->first, m->last, &index, &reply);
    return err == 0 ? tables_reply(t, &reply.base) : err;
}
