/* D1-D4: what the rows of disks and of background work count, counted again from the chunks. */
#include "check_impl.h"
#include "clustermap.h"
#include "chunkmap.h"
#include "heal_state.h"
#include "meta.pb-c.h"

struct disks {
    struct disk *stored; /* ascending by id, as the table is */
    struct disk *counted; /* the same, with sums of our own */
    size_t n, cap;
    uint64_t weak, reduced, missing_bytes, uncounted, policies;
};

static int add(struct disks *disks, const struct disk *disk)
{
    if (disks->n == disks->cap) {
        size_t cap = disks->cap * 2 + 16;
        struct disk *stored = realloc(disks->stored, cap * sizeof *stored);
        if (stored != NULL)
            disks->stored = stored;
        struct disk *counted = stored == NULL ? NULL : realloc(disks->counted, cap * sizeof *counted);
        if (counted == NULL)
            return -E_NOMEM;
        disks->counted = counted;
        disks->cap = cap;
    }
    disks->stored[disks->n] = *disk;
    disks->counted[disks->n++] = (struct disk){.id = disk->id};
    return 0;
}

static struct disk *counted(struct disks *disks, uint32_t id)
{
    for (size_t low = 0, high = disks->n; low < high;) {
        size_t middle = low + (high - low) / 2;
        if (disks->stored[middle].id == id)
            return &disks->counted[middle];
        if (disks->stored[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static int see_disk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct disk disk;
    struct node node;
    if (disk_decode((uint32_t)key_number(key, 0), value.data, value.len, &disk) != 0) {
        check_undecodable(check, key, "disk");
        return 0;
    }
    struct key of = key_1(TABLE_NODE, disk.node);
    struct kv_val row;
    bool listed = false;
    if (check_get(check, &of, &row) && node_decode(disk.node, row.data, row.len, &node) == 0)
        for (unsigned i = 0; i < node.n_disks; i++)
            listed |= node.disks[i] == disk.id;
    if (listed && disk.up && !node.up)
        check_violation(check, "D5", "disk %u is up, and its node %u is down", disk.id, disk.node);
    if (!listed)
        check_violation(check, "D1", "disk %u says that it is in node %u, which does not have it", disk.id, disk.node);
    struct key uuid = key_named(TABLE_NODE_UUID, 1, (const char *)disk.uuid, disk.uuid_len);
    uint64_t id = 0;
    if (disk.uuid_len > 0 &&
        (!check_get(check, &uuid, &row) || number_decode(row.data, row.len, &id) != 0 || id != disk.id))
        check_violation(check, "D1", "disk %u is not found by its uuid", disk.id);
    return add(arg, &disk);
}

static void count_replica(struct disks *disks, const struct chunk *chunk, const struct chunk_replica *r)
{
    struct disk *disk = counted(disks, r->disk);
    bool ready = r->flags & REPLICA_READY, copying = r->flags & REPLICA_COPYING;
    uint64_t full = 1ull << (chunk->shift != 0 ? chunk->shift : POLICY_SHIFT_MAX);
    if (disk != NULL) {
        disk->ready += ready;
        disk->copying += copying;
        disk->leaving += (r->flags & REPLICA_LEAVING) != 0;
        bool open = chunk->state == TARN__CHUNK_STATE__CHUNK_OPEN;
        disk->bytes += ready && !open ? chunk->length : 0;
        disk->promised += open && ready ? full : copying ? chunk->length : 0;
    }
    struct disk *source = copying && r->source != 0 ? counted(disks, r->source) : NULL;
    if (source != NULL)
        source->sources++;
}

static void see_need(struct check *check, const struct chunk *chunk, struct disks *disks)
{
    bool below = chunk->live < chunk->want, weak = !below && chunk->spread < chunk->want;
    struct key since = key_2(TABLE_SINCE, chunk->since_ns, chunk->id);
    struct key index = key_2(TABLE_ENDANGERED, ENDANGERED_WEAK, chunk->id);
    disks->weak += weak;
    disks->reduced += chunk->want < chunk->wish;
    if (below && chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED)
        disks->missing_bytes += chunk->length * (uint64_t)(chunk->want - chunk->live);
    if ((below || weak) != (chunk->since_ns != 0) || (chunk->since_ns != 0 && !check_has(check, &since)))
        check_violation(check, "D3", "chunk %llu is %s need, and since when is not noted so",
                        (unsigned long long)chunk->id, below || weak ? "in" : "not in");
    if (weak != check_has(check, &index))
        check_violation(check, "D3", "chunk %llu is %s the chunks in too few domains", (unsigned long long)chunk->id,
                        weak ? "not among" : "wrongly among");
}

static int see_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct disks *disks = arg;
    struct chunk chunk;
    if (chunk_decode(key_number(key, 0), value.data, value.len, &chunk) != 0)
        return 0; /* check_chunk.c says so */
    if (!chunk.counted) {
        disks->uncounted++;
        return 0;
    }
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        count_replica(disks, &chunk, &chunk.replicas[i]);
    if (chunk_counts(&chunk))
        see_need(check, &chunk, disks);
    else if (chunk.since_ns != 0)
        check_violation(check, "D3", "chunk %llu counts for nothing and is noted as in need", (unsigned long long)chunk.id);
    return 0;
}

static int see_since(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct key row = key_1(TABLE_CHUNK, key_number(key, 1));
    struct kv_val found;
    struct chunk chunk;
    if (!check_get(check, &row, &found) || chunk_decode(key_number(key, 1), found.data, found.len, &chunk) != 0 ||
        chunk.since_ns != key_number(key, 0))
        check_violation(check, "D3", "chunk %llu is noted as in need since a time that it does not know",
                        (unsigned long long)key_number(key, 1));
    return 0;
}

static int see_policy(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct disks *disks = arg;
    struct policy policy;
    struct key row = key_1(TABLE_INODE, key_number(key, 0));
    struct kv_val found;
    _cleanup_(inode_fini) struct inode inode = {0};
    disks->policies++;
    if (policy_decode(value.data, value.len, &policy) != 0)
        check_undecodable(check, key, "policy");
    if (!check_get(check, &row, &found) || inode_decode(key_number(key, 0), found.data, found.len, &inode) != 0 ||
        !(inode.flags & INODE_POLICY))
        check_violation(check, "PO1", "directory %llu has a policy and does not say so",
                        (unsigned long long)key_number(key, 0));
    return 0;
}

static void compare(struct check *check, const struct disks *disks)
{
    for (size_t i = 0; i < disks->n; i++) {
        const struct disk *a = &disks->stored[i], *b = &disks->counted[i];
        if (a->ready != b->ready || a->copying != b->copying || a->leaving != b->leaving || a->sources != b->sources ||
            a->bytes != b->bytes || a->promised != b->promised)
            check_violation(check, "D2",
                            "disk %u counts %llu ready, %llu coming, %llu leaving, %llu read, %llu and %llu bytes; there are "
                            "%llu, %llu, %llu, %llu, %llu, %llu",
                            a->id, (unsigned long long)a->ready, (unsigned long long)a->copying,
                            (unsigned long long)a->leaving, (unsigned long long)a->sources, (unsigned long long)a->bytes,
                            (unsigned long long)a->promised,
                            (unsigned long long)b->ready, (unsigned long long)b->copying, (unsigned long long)b->leaving,
                            (unsigned long long)b->sources, (unsigned long long)b->bytes,
                            (unsigned long long)b->promised);
    }
}

static void compare_state(struct check *check, const struct disks *disks)
{
    struct key key = key_table(TABLE_HEAL);
    struct kv_val value;
    struct heal_state heal = {0};
    bool there = check_get(check, &key, &value);
    if (there && heal_state_decode(value.data, value.len, &heal) != 0)
        check_undecodable(check, &key, "heal state");
    if (disks->uncounted > 0 && there && !heal.counting)
        check_violation(check, "D4", "%llu chunks are not counted on their disks, and nothing is under way to do it",
                        (unsigned long long)disks->uncounted);
    check_counter(check, "D3", "chunks in too few domains", heal.weak, disks->weak);
    check_counter(check, "D3", "chunks with fewer copies than asked for", heal.reduced, disks->reduced);
    check_counter(check, "D3", "bytes to be copied", heal.missing_bytes, disks->missing_bytes);
    check_counter(check, "PO1", "policies", heal.policies, disks->policies);
}

int check_room_disks(struct check *check)
{
    struct disks disks = {0};
    int err = check_each(check, TABLE_DISK, see_disk, &disks);
    if (err == 0)
        err = check_each(check, TABLE_CHUNK, see_chunk, &disks);
    if (err == 0)
        err = check_each(check, TABLE_SINCE, see_since, NULL);
    if (err == 0)
        err = check_each(check, TABLE_POLICY, see_policy, &disks);
    if (err == 0) {
        compare(check, &disks);
        compare_state(check, &disks);
    }
    free(disks.stored);
    free(disks.counted);
    return err;
}
