/* C4, C10-C12 and what the rows of chunks, extents and tasks say of each other. */
#include "check_impl.h"
#include "chunkmap.h"
#include "clustermap.h"
#include "group.h"
#include "meta.pb-c.h"
#include "record_view.h"

struct chunks {
    uint64_t counted, below_target, by_copies[MD_COPIES_MAX + 1], tasks;
    bool recount; /* a node came or went: stored numbers of live copies are not right yet (C12) */
    /* the file whose extents are being added up */
    uint64_t ino, end, bytes;
    bool open;
};

static bool chunk_at(struct check *check, uint64_t id, struct chunk *ret)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_val value;
    return check_get(check, &key, &value) && chunk_decode(id, value.data, value.len, ret) == 0;
}

static bool node_at(struct check *check, uint32_t id, struct node *ret)
{
    struct key key = key_1(TABLE_NODE, id);
    struct kv_val value;
    return check_get(check, &key, &value) && node_decode(id, value.data, value.len, ret) == 0;
}

static bool disk_up(struct check *check, uint32_t id)
{
    struct key key = key_1(TABLE_DISK, id);
    struct kv_val value;
    struct disk disk;
    struct node node;
    if (check_get(check, &key, &value))
        return disk_decode(id, value.data, value.len, &disk) == 0 && disk.up;
    return node_at(check, id, &node) && node.up; /* version 1 */
}

static int see_recount(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct node node;
    if (node_decode((uint32_t)key_number(key, 0), value.data, value.len, &node) == 0)
        ((struct chunks *)arg)->recount |= node.recount != 0;
    return 0;
}

static int see_disk_recount(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct disk disk;
    if (disk_decode((uint32_t)key_number(key, 0), value.data, value.len, &disk) == 0)
        ((struct chunks *)arg)->recount |= disk.recount != 0;
    return 0;
}

static bool group_of(struct check *check, const struct chunk *chunk, struct group *ret)
{
    struct key key = key_1(TABLE_GROUP, chunk->group);
    struct kv_val value;
    return check_get(check, &key, &value) && group_decode(chunk->group, value.data, value.len, ret) == 0;
}

/* Coded chunks are counted by what their group bears. */
static int see_group(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct group g;
    if (group_decode(key_number(key, 0), value.data, value.len, &g) == 0)
        group_count(&g, 1, ((struct chunks *)arg)->by_copies);
    return 0;
}

/* ------------------------------------------------------------------ extents */
static void file_end(struct check *check, struct chunks *chunks)
{
    if (!chunks->open)
        return;
    chunks->open = false;
    if (ino_clone(chunks->ino) != 0)
        return;
    struct key key = key_1(TABLE_INODE, chunks->ino);
    struct kv_val value;
    _cleanup_(inode_fini) struct inode inode = {0};
    if (!check_get(check, &key, &value) || inode_decode(chunks->ino, value.data, value.len, &inode) != 0 ||
        inode.type != TARN__FILE_TYPE__FT_FILE)
        check_violation(check, "C11", "extents are of inode %llu, which is no file", (unsigned long long)chunks->ino);
    /* One that is being given back is not kept up to date. */
    else if (inode.nlink > 0 && inode.allocated != chunks->bytes)
        check_violation(check, "C11", "file %llu says that its extents have %llu bytes, they have %llu",
                        (unsigned long long)chunks->ino, (unsigned long long)inode.allocated,
                        (unsigned long long)chunks->bytes);
}

static void see_extent_chunk(struct check *check, uint64_t ino, const struct extent *extent)
{
    struct chunk chunk;
    /* With snapshots a chunk outlives its owner: who refers to it is counted in the views' room. */
    bool owned = check->state.snapshot_epoch == 0;
    if (!chunk_at(check, extent->chunk, &chunk))
        check_violation(check, "C11", "file %llu has chunk %llu at %llu, which does not exist", (unsigned long long)ino,
                        (unsigned long long)extent->chunk, (unsigned long long)extent->offset);
    else if ((owned && (chunk.owner != ino || chunk.owner_offset != extent->offset)) || (chunk.flags & (CHUNK_OF_UPLOAD | CHUNK_PENDING)) ||
             chunk.state == TARN__CHUNK_STATE__CHUNK_DELETING)
        check_violation(check, "C11", "file %llu has chunk %llu at %llu, which does not belong there",
                        (unsigned long long)ino, (unsigned long long)extent->chunk, (unsigned long long)extent->offset);
}

static int see_extent(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct chunks *chunks = arg;
    uint64_t ino = key_number(key, 0);
    struct extent extent;
    if (extent_decode(key_number(key, 1), value.data, value.len, &extent) != 0) {
        check_undecodable(check, key, "extent");
        return 0;
    }
    if (chunks->open && chunks->ino != ino)
        file_end(check, chunks);
    if (!chunks->open) {
        chunks->open = true;
        chunks->ino = ino;
        chunks->end = chunks->bytes = 0;
    }
    if (extent.length == 0 || extent.offset < chunks->end)
        check_violation(check, "C11", "file %llu has an extent at %llu that is empty or overlaps the one before",
                        (unsigned long long)ino, (unsigned long long)extent.offset);
    chunks->end = extent.offset + extent.length;
    chunks->bytes += extent.length;
    see_extent_chunk(check, ino, &extent);
    return 0;
}

/* ------------------------------------------------------------------ chunks */
static bool owned(struct check *check, const struct chunk *chunk)
{
    struct kv_val value;
    if (chunk->kind == CHUNK_CONTAINER)
        return true; /* of a policy: the pieces' room knows them */
    if (chunk->kind != CHUNK_DATA) {
        struct key key = key_1(TABLE_GROUP, chunk->owner);
        return chunk->owner == chunk->group && check_has(check, &key);
    }
    if (chunk->flags & CHUNK_PENDING) {
        struct key key = key_2(TABLE_SESSION_CHUNK, chunk->session, chunk->id);
        return check_has(check, &key);
    }
    if (chunk->flags & CHUNK_OF_UPLOAD) {
        struct key key = key_2(TABLE_UPLOAD_CHUNK, chunk->owner, chunk->owner_offset);
        uint64_t id;
        return check_get(check, &key, &value) && number_decode(value.data, value.len, &id) == 0 && id == chunk->id;
    }
    if (check->state.snapshot_epoch != 0 && chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED)
        return true;
    struct key key = key_2(TABLE_EXTENT, chunk->owner, chunk->owner_offset);
    struct extent extent;
    return check_get(check, &key, &value) && extent_decode(chunk->owner_offset, value.data, value.len, &extent) == 0 &&
           extent.chunk == chunk->id;
}

static void see_replicas(struct check *check, const struct chunks *chunks, const struct chunk *chunk)
{
    unsigned ready = 0, live = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *replica = &chunk->replicas[i];
        struct key row = key_2(TABLE_ON_DISK, replica->disk, chunk->id);
        if (!check_has(check, &row))
            check_violation(check, "C9", "chunk %llu is on disk %u, whose list does not have it",
                            (unsigned long long)chunk->id, replica->disk);
        for (unsigned j = 0; j < i; j++)
            if (chunk->replicas[j].disk == replica->disk)
                check_violation(check, "P1", "chunk %llu is on disk %u twice", (unsigned long long)chunk->id, replica->disk);
        bool kept = (replica->flags & REPLICA_KEPT) != 0;
        if (kept && ((replica->flags & ~REPLICA_KEPT) != REPLICA_LEAVING || chunk->state == TARN__CHUNK_STATE__CHUNK_DELETING))
            check_violation(check, "C26", "chunk %llu keeps what disk %u has of it, with flags %u", (unsigned long long)chunk->id,
                            replica->disk, replica->flags);
        ready += (replica->flags & REPLICA_READY) != 0;
        live += (replica->flags & (REPLICA_READY | REPLICA_DAMAGED)) == REPLICA_READY && disk_up(check, replica->disk);
    }
    struct group g;
    bool computed = chunk->coded && group_of(check, chunk, &g) && group_level(&g) > 0;
    if (!chunk_counts(chunk))
        return;
    if (ready == 0 && !computed)
        check_violation(check, "C4", "chunk %llu has no ready replica", (unsigned long long)chunk->id);
    if (!chunks->recount && live != chunk->live)
        check_violation(check, "C12", "chunk %llu says that it has %u live copies, it has %u", (unsigned long long)chunk->id,
                        chunk->live, live);
}

static int see_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct chunks *chunks = arg;
    struct chunk chunk;
    if (chunk_decode(key_number(key, 0), value.data, value.len, &chunk) != 0) {
        check_undecodable(check, key, "chunk");
        return 0;
    }
    if (chunk.id >= check->state.next_chunk)
        check_violation(check, "C10", "chunk %llu was never given out: the next one is %llu", (unsigned long long)chunk.id,
                        (unsigned long long)check->state.next_chunk);
    see_replicas(check, chunks, &chunk);
    if (chunk.state == TARN__CHUNK_STATE__CHUNK_DELETING) {
        if (chunk.n_replicas == 0)
            check_violation(check, "C10", "chunk %llu is deleted everywhere and still listed", (unsigned long long)chunk.id);
        return 0;
    }
    bool below = chunk_counts(&chunk) && chunk.live < chunk.want;
    struct group g;
    uint64_t level = chunk.live;
    if (chunk.coded && group_of(check, &chunk, &g))
        level = chunk.live == 0 ? group_level(&g) : g.m + 1u;
    chunks->counted += chunk_counts(&chunk);
    if (chunk_counts(&chunk) && !chunk.coded)
        chunks->by_copies[MIN(chunk.live, (uint8_t)MD_COPIES_MAX)]++;
    chunks->below_target += below;
    struct key endangered = key_2(TABLE_ENDANGERED, level, chunk.id), open = key_2(TABLE_OPEN_CHUNK, chunk.owner, chunk.id);
    if (check_has(check, &endangered) != below)
        check_violation(check, "C12", "chunk %llu has %u live copies of %u wanted and is %s the endangered ones",
                        (unsigned long long)chunk.id, chunk.live, chunk.want, below ? "not among" : "among");
    if (!owned(check, &chunk))
        check_violation(check, "C11", "chunk %llu belongs to %llu at %llu, which does not have it", (unsigned long long)chunk.id,
                        (unsigned long long)chunk.owner, (unsigned long long)chunk.owner_offset);
    bool writable = chunk.state == TARN__CHUNK_STATE__CHUNK_OPEN && chunk.kind == CHUNK_DATA &&
                    !(chunk.flags & (CHUNK_OF_UPLOAD | CHUNK_PENDING));
    if (writable != check_has(check, &open))
        check_violation(check, "C3", "chunk %llu is %s and is %s the open ones of file %llu", (unsigned long long)chunk.id,
                        writable ? "open" : "not open", writable ? "not among" : "among", (unsigned long long)chunk.owner);
    return 0;
}

/* ------------------------------------------------------------------ indexes and what is due */
static int see_on_disk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t disk = key_number(key, 0), id = key_number(key, 1);
    struct chunk chunk;
    bool there = false;
    if (chunk_at(check, id, &chunk))
        for (unsigned i = 0; i < chunk.n_replicas; i++)
            there |= chunk.replicas[i].disk == disk;
    if (!there)
        check_violation(check, "C9", "the list of disk %llu has chunk %llu, which is not there", (unsigned long long)disk,
                        (unsigned long long)id);
    return 0;
}

static int see_endangered(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t live = key_number(key, 0), id = key_number(key, 1);
    struct chunk chunk;
    bool known = chunk_at(check, id, &chunk);
    if (!known || (live != ENDANGERED_WEAK && chunk.live != live && !chunk.coded) || /* its level: see_chunk() */
        chunk.state == TARN__CHUNK_STATE__CHUNK_DELETING)
        check_violation(check, "C12", "chunk %llu is listed as endangered with %llu live copies and is not",
                        (unsigned long long)id, (unsigned long long)live);
    return 0;
}

static int see_open_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t ino = key_number(key, 0), id = key_number(key, 1);
    struct chunk chunk;
    if (!chunk_at(check, id, &chunk) || chunk.state != TARN__CHUNK_STATE__CHUNK_OPEN || chunk.owner != ino)
        check_violation(check, "C3", "chunk %llu is listed as an open one of file %llu and is not", (unsigned long long)id,
                        (unsigned long long)ino);
    return 0;
}

static int see_to_seal(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct key open = key_1(TABLE_OPEN_CHUNK, key_number(key, 0));
    struct key inode = key_1(TABLE_INODE, key_number(key, 0));
    if (!check_has(check, &inode) && check_any(check, &open))
        check_violation(check, "C3", "file %llu has chunks to seal and does not exist", (unsigned long long)key_number(key, 0));
    return 0;
}

static int see_task(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct chunks *chunks = arg;
    struct store_task task;
    struct node node;
    chunks->tasks++;
    if (store_task_decode(key_number(key, 1), value.data, value.len, &task) != 0)
        check_undecodable(check, key, "task of a store");
    else if (!node_at(check, (uint32_t)key_number(key, 0), &node))
        check_violation(check, "C17", "a task for chunk %llu waits for node %llu, which does not exist",
                        (unsigned long long)task.chunk, (unsigned long long)key_number(key, 0));
    if (key_number(key, 1) >= check->state.next_task)
        check_violation(check, "C17", "task %llu was never given out", (unsigned long long)key_number(key, 1));
    return 0;
}

static void compare_counters(struct check *check, const struct chunks *chunks)
{
    check_counter(check, "C12", "chunks", check->state.chunks, chunks->counted);
    check_counter(check, "C12", "chunks below their target", check->state.below_target, chunks->below_target);
    for (unsigned i = 0; i <= MD_COPIES_MAX; i++)
        if (check->state.by_copies[i] != chunks->by_copies[i])
            check_violation(check, "C12", "the counter says that %llu chunks have %u live copies, it is true of %llu",
                            (unsigned long long)check->state.by_copies[i], i, (unsigned long long)chunks->by_copies[i]);
    check_counter(check, "C17", "tasks for stores", check->state.tasks, chunks->tasks);
}

int check_room_chunks(struct check *check)
{
    struct chunks chunks = {0};
    int err = check_each(check, TABLE_NODE, see_recount, &chunks);
    if (err == 0)
        err = check_each(check, TABLE_DISK, see_disk_recount, &chunks);
    if (err == 0)
        err = check_each(check, TABLE_EXTENT, see_extent, &chunks);
    if (err == 0)
        file_end(check, &chunks);
    if (err == 0)
        err = check_each(check, TABLE_GROUP, see_group, &chunks);
    if (err == 0)
        err = check_each(check, TABLE_CHUNK, see_chunk, &chunks);
    if (err == 0)
        err = check_each(check, TABLE_ON_DISK, see_on_disk, NULL);
    if (err == 0)
        err = check_each(check, TABLE_ENDANGERED, see_endangered, NULL);
    if (err == 0)
        err = check_each(check, TABLE_OPEN_CHUNK, see_open_chunk, NULL);
    if (err == 0)
        err = check_each(check, TABLE_TO_SEAL, see_to_seal, NULL);
    if (err == 0)
        err = check_each(check, TABLE_TASK, see_task, &chunks);
    if (err == 0)
        compare_counters(check, &chunks);
    return err;
}
