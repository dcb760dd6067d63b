/* Redundancy as the tables count it, and as the copies that are there give it. */
#include "oracle.h"

#include "common/check.h"
#include "common/ec.h"
#include "metadata/group.h"
#include "metadata/kv.h"
#include "metadata/record.h"
#include "meta.pb-c.h"

#include <inttypes.h>
#include <stdio.h>

static bool row(struct kv_txn *txn, enum table table, uint64_t id, struct kv_val *ret)
{
    struct key key = key_1(table, id);
    return kv_get(txn, key.data, key.len, ret) == 0;
}

static bool chunk_row(struct kv_txn *txn, uint64_t id, struct chunk *ret)
{
    struct kv_val value;
    return row(txn, TABLE_CHUNK, id, &value) && chunk_decode(id, value.data, value.len, ret) == 0;
}

static bool group_row(struct kv_txn *txn, uint64_t id, struct group *ret)
{
    struct kv_val value;
    return row(txn, TABLE_GROUP, id, &value) && group_decode(id, value.data, value.len, ret) == 0;
}

static void state_row(struct kv_txn *txn, struct state *ret)
{
    struct key key = key_state();
    struct kv_val value;
    CHECK(kv_get(txn, key.data, key.len, &value) == 0 && state_decode(value.data, value.len, ret) == 0);
}

static struct kv_txn *look(struct kv *kv)
{
    struct kv_txn *txn;
    CHECK(kv_begin(kv, false, &txn) == 0);
    return txn;
}

static void each(struct kv_txn *txn, enum table table, kv_visit visit, void *arg)
{
    struct key prefix = key_table(table);
    CHECK(kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, visit, arg) == 0);
}

static uint64_t id_of(struct kv_val key)
{
    struct reader r = reader_init(key.data + 1, key.len - 1);
    return reader_be64(&r);
}

/* ---- levels, from the copies on the disks */

struct levels {
    struct kv_txn *txn;
    const struct oracle_copies *copies;
    uint64_t by_copies[MD_COPIES_MAX + 1];
};

static unsigned copies_of(const struct levels *levels, uint64_t chunk)
{
    unsigned n = 0;
    for (size_t i = 0; i < levels->copies->n; i++)
        n += levels->copies->items[i].chunk == chunk;
    return n;
}

static void level_add(struct levels *levels, unsigned level, uint64_t chunks)
{
    levels->by_copies[MIN(level, (unsigned)MD_COPIES_MAX)] += chunks;
}

/* Those of groups count with their group. */
static int level_of_chunk(void *arg, struct kv_val key, struct kv_val value)
{
    struct levels *levels = arg;
    struct chunk chunk;
    CHECK(chunk_decode(id_of(key), value.data, value.len, &chunk) == 0);
    if (!chunk.coded && chunk.body == 0)
        level_add(levels, copies_of(levels, chunk.id), 1);
    return 0;
}

static int level_of_group(void *arg, struct kv_val key, struct kv_val value)
{
    struct levels *levels = arg;
    struct group group;
    unsigned live = 0, real = 0;
    CHECK(group_decode(id_of(key), value.data, value.len, &group) == 0);
    for (unsigned i = 0; i < group.k + group.m; i++) {
        real += group.shards[i].chunk != 0;
        live += group.shards[i].chunk == 0 || copies_of(levels, group.shards[i].chunk) > 0;
    }
    level_add(levels, live >= group.k ? live - group.k + 1 : 0, real);
    return 0;
}

bool oracle_levels(struct kv *kv, const struct oracle_copies *copies, const char **ret_why)
{
    static char why[128];
    struct levels levels = {.txn = look(kv), .copies = copies};
    struct state state;
    why[0] = '\0';
    each(levels.txn, TABLE_CHUNK, level_of_chunk, &levels);
    each(levels.txn, TABLE_GROUP, level_of_group, &levels);
    state_row(levels.txn, &state);
    kv_abort(levels.txn);
    for (unsigned i = 0; i <= MD_COPIES_MAX; i++)
        if (levels.by_copies[i] != state.by_copies[i])
            snprintf(why, sizeof why, "%" PRIu64 " chunks are reported at level %u, on the disks are %" PRIu64, state.by_copies[i], i,
                     levels.by_copies[i]);
    *ret_why = why;
    return why[0] == '\0';
}

/* ---- parity */

struct parity {
    struct world *world;
    const struct oracle_copies *copies;
    char why[128];
};

static bool shard_bytes(const struct parity *parity, uint64_t chunk, uint8_t *buf, size_t n)
{
    for (size_t i = 0; i < parity->copies->n && chunk != 0; i++)
        if (parity->copies->items[i].chunk == chunk)
            return oracle_bytes(parity->world, parity->copies->items[i].disk, chunk, buf, n);
    memset(buf, 0, n);
    return chunk == 0;
}

static int parity_of_group(void *arg, struct kv_val key, struct kv_val value)
{
    struct parity *parity = arg;
    struct group group;
    struct ec_codec codec;
    uint8_t *data[EC_DATA_MAX], *computed[EC_PARITY_MAX];
    CHECK(group_decode(id_of(key), value.data, value.len, &group) == 0);
    if (group.state != GROUP_CODED)
        return 0;
    size_t n = (size_t)group.length;
    uint8_t *buf = calloc(group.k + group.m + 1u, n + 1);
    CHECK(buf != NULL && ec_codec_init(group.k, group.m, &codec) == 0);
    bool good = true;
    for (unsigned i = 0; i < group.k; i++) {
        data[i] = buf + i * n;
        good &= shard_bytes(parity, group.shards[i].chunk, data[i], n);
    }
    for (unsigned i = 0; i < group.m; i++)
        computed[i] = buf + (group.k + i) * n;
    ec_encode(&codec, n, (const uint8_t *const *)data, computed);
    uint8_t *there = buf + (size_t)(group.k + group.m) * n;
    for (unsigned i = 0; i < group.m; i++)
        good &= shard_bytes(parity, group.shards[group.k + i].chunk, there, n) && memcmp(there, computed[i], n) == 0;
    free(buf);
    if (!good)
        snprintf(parity->why, sizeof parity->why, "the parity of group %" PRIu64 " (%u+%u) is not that of its data", group.id, group.k,
                 group.m);
    return 0;
}

bool oracle_parity(struct world *world, struct kv *kv, const struct oracle_copies *copies, const char **ret_why)
{
    static struct parity parity;
    parity = (struct parity){.world = world, .copies = copies};
    struct kv_txn *txn = look(kv);
    each(txn, TABLE_GROUP, parity_of_group, &parity);
    kv_abort(txn);
    *ret_why = parity.why;
    return parity.why[0] == '\0';
}

static int census_chunk(void *arg, struct kv_val key, struct kv_val value)
{
    struct oracle_census *census = arg;
    struct chunk chunk;
    CHECK(chunk_decode(id_of(key), value.data, value.len, &chunk) == 0);
    census->containers += chunk.kind == CHUNK_CONTAINER;
    census->compressed += chunk.body != 0 && chunk.form == TARN__CHUNK_FORM__FORM_ZSTD;
    return 0;
}

static int census_group(void *arg, struct kv_val key, struct kv_val value)
{
    struct oracle_census *census = arg;
    struct group group;
    CHECK(group_decode(id_of(key), value.data, value.len, &group) == 0);
    census->coded += group.state == GROUP_CODED;
    return 0;
}

struct oracle_census oracle_census(struct kv *kv)
{
    struct oracle_census census = {0};
    struct kv_txn *txn = look(kv);
    each(txn, TABLE_CHUNK, census_chunk, &census);
    each(txn, TABLE_GROUP, census_group, &census);
    kv_abort(txn);
    return census;
}

/* ---- what may be harmed */

/* Whole copies, and that on `disk` is one of them; 0 when the chunk is open, or one is damaged, comes or goes. */
static unsigned whole_copies(const struct chunk *chunk, uint32_t disk)
{
    bool here = disk == 0;
    if (chunk->state != TARN__CHUNK_STATE__CHUNK_SEALED || chunk->body != 0)
        return 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        if (chunk->replicas[i].flags != (REPLICA_READY | REPLICA_SEALED))
            return 0;
        here |= chunk->replicas[i].disk == disk;
    }
    return here ? chunk->n_replicas : 0;
}

static bool stripe_add(struct kv_txn *txn, const struct group_shard *shards, unsigned n, bool need, struct oracle_stripe *stripe)
{
    for (unsigned i = 0; i < n; i++) {
        struct chunk chunk;
        if (shards[i].chunk == 0)
            continue;
        if (need && (!chunk_row(txn, shards[i].chunk, &chunk) || whole_copies(&chunk, 0) == 0))
            return false;
        CHECK(stripe->n < ORACLE_STRIPE_MAX);
        stripe->chunks[stripe->n++] = shards[i].chunk;
    }
    return true;
}

/* While a group is made its data has copies besides; but those that go when it is coded may be the whole ones. */
static void stripe_of_group(struct kv_txn *txn, const struct group *group, struct oracle_stripe *stripe)
{
    bool coded = group->state == GROUP_CODED, whole = group->lost == 0;
    if (group->state == GROUP_UPLOAD)
        return;
    if (coded)
        whole = whole && stripe_add(txn, group->shards, group->k + group->m, true, stripe);
    if (group->next_generation != 0)
        whole = whole && stripe_add(txn, group->next, group->k + group->m, false, stripe);
    stripe->tolerance = whole ? group->m : 0;
}

void oracle_stripe(struct kv *kv, uint64_t id, uint32_t disk, struct oracle_stripe *ret)
{
    struct kv_txn *txn = look(kv);
    struct chunk chunk;
    struct group group;
    *ret = (struct oracle_stripe){0};
    unsigned copies = chunk_row(txn, id, &chunk) ? whole_copies(&chunk, disk) : 0;
    if (copies > 0 && chunk.group != 0 && group_row(txn, chunk.group, &group)) {
        stripe_of_group(txn, &group, ret);
    } else if (copies > 1 && chunk.group == 0 && !(chunk.flags & CHUNK_MAKING)) {
        ret->chunks[ret->n++] = id;
        ret->tolerance = 1;
    }
    kv_abort(txn);
}
