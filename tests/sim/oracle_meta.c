#include "oracle.h"

#include "common/check.h"
#include "metadata/check.h"
#include "metadata/chunkmap.h"
#include "metadata/clustermap.h"
#include "metadata/group_make.h"
#include "metadata/kv.h"
#include "metadata/pack_rows.h"
#include "metadata/record.h"
#include "meta.pb-c.h"

#include <inttypes.h>
#include <stdio.h>

struct scan {
    struct kv_txn *txn;
    struct oracle_copies *copies;
    char *why;
    size_t why_size;
    bool snapshots; /* there were some: what they show may belong to nothing else */
    const bool *tainted, *good;
    void (*excuse)(void *arg, uint64_t ino);
    void *arg;
};

static uint64_t number_at(struct kv_val key, size_t at)
{
    struct reader r = reader_init(key.data + at, key.len - at);
    return reader_be64(&r);
}

static void each(struct kv_txn *txn, enum table table, kv_visit visit, void *arg)
{
    struct key prefix = key_table(table);
    CHECK(kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, visit, arg) == 0);
}

static int copy_add(struct oracle_copies *copies, const struct oracle_copy *copy)
{
    if (copies->n == copies->cap) {
        copies->cap = copies->cap * 2 + 64;
        copies->items = realloc(copies->items, copies->cap * sizeof *copies->items);
        CHECK(copies->items != NULL);
    }
    copies->items[copies->n++] = *copy;
    return 0;
}

static bool extent_owns(struct kv_txn *txn, const struct chunk *chunk)
{
    struct key key = key_2(TABLE_EXTENT, chunk->owner, chunk->owner_offset);
    struct kv_val value;
    struct extent extent;
    return kv_get(txn, key.data, key.len, &value) == 0 &&
           extent_decode(chunk->owner_offset, value.data, value.len, &extent) == 0 && extent.chunk == chunk->id;
}

static int see_chunk(void *arg, struct kv_val key, struct kv_val value)
{
    struct scan *scan = arg;
    struct chunk chunk;
    CHECK(chunk_decode(number_at(key, 1), value.data, value.len, &chunk) == 0);
    const char *wrong = NULL;
    unsigned ready = 0;
    for (unsigned i = 0; i < chunk.n_replicas; i++) {
        const struct chunk_replica *r = &chunk.replicas[i];
        if (r->flags != (REPLICA_READY | REPLICA_SEALED)) {
            wrong = "has a copy that comes, goes or has not answered its seal";
            continue;
        }
        ready++;
        copy_add(scan->copies, &(struct oracle_copy){chunk.id, r->length, r->disk, r->digest});
    }
    if (chunk.state != TARN__CHUNK_STATE__CHUNK_SEALED)
        wrong = "is not sealed";
    else if (chunk.flags & CHUNK_MAKING)
        wrong = "is being made";
    else if (chunk.body == 0 && ready < chunk.want)
        wrong = "has too few copies";
    else if (chunk.kind == CHUNK_GHOST)
        wrong = "is dead";
    else if (chunk.kind == CHUNK_DATA && !scan->snapshots && !extent_owns(scan->txn, &chunk)) /* of the rest the checker knows the owner */
        wrong = "belongs to no file";
    if (wrong != NULL)
        snprintf(scan->why, scan->why_size, "chunk %" PRIx64 " (state %u, %u copies of %u, length %" PRIu64 ", owner %" PRIu64 ") %s", chunk.id,
                 chunk.state, ready, chunk.want, chunk.length, chunk.owner, wrong);
    return 0;
}

static int see_any(void *arg, struct kv_val key, struct kv_val value)
{
    /* Chunks with all copies in too few domains stay so: the policy asks more than there is. */
    if (key.data[0] == TABLE_ENDANGERED && number_at(key, 1) == ENDANGERED_WEAK)
        return 0;
    /* Those alone in their file, or without enough nodes, wait to be coded for as long as they exist. */
    if (key.data[0] == TABLE_GROUP_DUE && number_at(key, 1) != GROUP_OWNER && number_at(key, 1) != GROUP_WORK)
        return 0;
    /* What may be packed waits for others of its kind. */
    if (key.data[0] == TABLE_PACK && number_at(key, 1) != PACK_JOB && number_at(key, 1) != PACK_JOB_DUE)
        return 0;
    *(bool *)arg = true;
    return 1;
}

/* What must be empty when nobody uses the cluster and nothing is under way. */
static const struct {
    enum table table;
    const char *what;
} transient[] = {
    {TABLE_SESSION, "a session"},          {TABLE_HANDLE, "a handle"},
    {TABLE_OPENS, "an open file"},         {TABLE_LOCKS, "a lock"},
    {TABLE_LOCK_WAIT, "a waiting lock"},   {TABLE_SESSION_LOCK, "a session's lock"},
    {TABLE_KEPT, "a kept reply"},          {TABLE_UPLOAD, "an upload"},
    {TABLE_UPLOAD_CHUNK, "an upload's chunk"}, {TABLE_SESSION_CHUNK, "a chunk before its swap"},
    {TABLE_SESSION_UPLOAD, "a session's upload"}, {TABLE_ORPHAN, "a file without a name"},
    {TABLE_GARBAGE, "a removed file"},     {TABLE_TO_SEAL, "a file to seal"},
    {TABLE_OPEN_CHUNK, "an open chunk"},   {TABLE_ENDANGERED, "a chunk below its target"},
    {TABLE_TASK, "a task for a store"},   {TABLE_GROUP_DUE, "a parity group with something to do"},
    {TABLE_DAMAGED, "a damaged copy"},     {TABLE_PACK, "a container being made"},
};

static struct state state_of(struct kv_txn *txn)
{
    struct key key = key_state();
    struct kv_val value;
    struct state state;
    CHECK(kv_get(txn, key.data, key.len, &value) == 0 && state_decode(value.data, value.len, &state) == 0);
    return state;
}

static void see_violation(void *arg, const char *rule, const char *sentence)
{
    struct scan *scan = arg;
    snprintf(scan->why, scan->why_size, "%s: %s", rule, sentence);
}

bool oracle_tables(struct kv *kv, struct oracle_copies *ret, const char **ret_why)
{
    static char why[256];
    why[0] = '\0';
    struct scan scan = {.copies = ret, .why = why, .why_size = sizeof why};
    ret->n = 0;
    CHECK(kv_begin(kv, false, &scan.txn) == 0);
    scan.snapshots = state_of(scan.txn).snapshot_epoch != 0;
    each(scan.txn, TABLE_CHUNK, see_chunk, &scan);
    for (size_t i = 0; i < ARRAY_SIZE(transient); i++) {
        bool any = false;
        each(scan.txn, transient[i].table, see_any, &any);
        if (any && why[0] == '\0')
            snprintf(why, sizeof why, "%s is left in the tables", transient[i].what);
    }
    struct check_summary summary;
    CHECK(check_tables(scan.txn, see_violation, &scan, &summary) == 0);
    kv_abort(scan.txn);
    *ret_why = why;
    return why[0] == '\0';
}

uint64_t oracle_groups(struct kv *kv)
{
    struct kv_txn *txn;
    CHECK(kv_begin(kv, false, &txn) == 0);
    uint64_t groups = state_of(txn).last_group;
    kv_abort(txn);
    return groups;
}

static bool node_up(struct kv_txn *txn, uint32_t id)
{
    struct key key = key_1(TABLE_NODE, id);
    struct kv_val value;
    struct node node;
    return kv_get(txn, key.data, key.len, &value) == 0 && node_decode(id, value.data, value.len, &node) == 0 && node.up;
}

static int see_endangered(void *arg, struct kv_val key, struct kv_val value)
{
    struct scan *scan = arg;
    struct chunk chunk;
    CHECK(chunk_decode(number_at(key, 1), value.data, value.len, &chunk) == 0);
    bool lost = false;
    for (unsigned i = 0; i < chunk.n_replicas; i++) {
        const struct chunk_replica *r = &chunk.replicas[i];
        if (!(r->flags & REPLICA_READY) || r->disk < 1 || r->disk > WORLD_STORES_MAX)
            continue;
        if ((r->flags & REPLICA_SEALED) || (scan->good[r->disk - 1] && node_up(scan->txn, r->disk)))
            return 0;
        lost |= scan->tainted[r->disk - 1];
    }
    if (lost)
        scan->excuse(scan->arg, chunk.owner);
    return 0;
}

void oracle_excuse(struct kv *kv, const bool tainted[WORLD_STORES_MAX], const bool good[WORLD_STORES_MAX],
                   void (*excuse)(void *arg, uint64_t ino), void *arg)
{
    struct scan scan = {.tainted = tainted, .good = good, .excuse = excuse, .arg = arg};
    CHECK(kv_begin(kv, false, &scan.txn) == 0);
    each(scan.txn, TABLE_CHUNK, see_endangered, &scan);
    kv_abort(scan.txn);
}
