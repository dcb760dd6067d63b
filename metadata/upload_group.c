#include "upload_group.h"

#include "common/check.h"
#include "common/err.h"
#include "group.h"
#include "group_make.h"

/* ------------------------------------------------------------------ shape */

static uint64_t power_below(uint64_t n)
{
    return n == 0 ? 0 : 1ull << (63 - __builtin_clzll(n));
}

uint64_t upload_group_shape(unsigned k, unsigned shift, uint64_t remaining, uint64_t before)
{
    uint64_t most = 1ull << shift;
    if (remaining == 0)
        return MIN(most, MAX(power_below(before / k), UPLOAD_SHARD_UNKNOWN));
    if (remaining < k * UPLOAD_SHARD_MIN)
        return 0;
    if (remaining >= k * most)
        return most;
    return MIN(most, round_up_u64((remaining + k - 1) / k, UPLOAD_SHARD_STEP));
}

/* ------------------------------------------------------------------ making one */

struct places {
    unsigned n;
    uint32_t disks[EC_SHARDS_MAX];
};

/* Each member in a domain of its own as far as there are some, and always on another node (disk, when that is the domain). */
static int places_choose(struct tables *t, const struct upload *upload, uint32_t writer, unsigned n, struct places *ret)
{
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    _cleanup_free_ struct placement_disk *disks = NULL;
    _cleanup_(placement_map_fini) struct placement_map map = {0};
    int err = clustermap_load(t, &cluster);
    if (err == 0)
        err = cluster_placement(&cluster, t->now, &disks, &map);
    if (err != 0)
        return err;
    struct placement_request request = {
        .copies = n, .domain = upload->domain, .writer = writer, .affinity = upload->group, .apart = upload->domain != DOMAIN_DISK};
    size_t chosen[PLACEMENT_MEMBERS_MAX];
    ret->n = placement_choose(&map, &request, &t->prng, chosen);
    if (ret->n < n)
        return tables_fail(t, -E_NOSPC, "a group of %u needs as many %s with room", n, request.apart ? "nodes" : "disks");
    for (unsigned i = 0; i < n; i++)
        ret->disks[i] = disks[chosen[i]].id;
    return 0;
}

static int shard_make(struct tables *t, const struct upload *upload, const struct group *group, unsigned shard, uint32_t disk,
                      struct chunk *ret)
{
    *ret = (struct chunk){.id = tables_state(t)->next_chunk++,
                          .state = TARN__CHUNK_STATE__CHUNK_OPEN,
                          .flags = CHUNK_MAKING,
                          .want = 1,
                          .wish = 1,
                          .domain = upload->domain,
                          .shift = upload->shift,
                          .generation = 1,
                          .kind = shard < group->k ? CHUNK_DATA : CHUNK_PARITY,
                          .shard = (uint8_t)shard,
                          .group = group->id,
                          .n_replicas = 1,
                          .replicas[0] = {.disk = disk, .flags = REPLICA_READY}};
    return 0;
}

static int shards_make(struct tables *t, const struct upload *upload, const Tarn__UploadGroup *m, const struct places *places,
                       struct group *group, struct chunk *ret)
{
    int err = 0;
    for (unsigned i = 0; i < places->n && err == 0; i++) {
        shard_make(t, upload, group, i, places->disks[i], &ret[i]);
        group->shards[i].chunk = ret[i].id;
        ret[i].owner = group->id;
    }
    if (err == 0)
        err = group_put(t, group);
    for (unsigned i = 0; i < places->n && err == 0; i++)
        err = i < group->k ? upload_slot_fill(t, upload->id, m->index + i, &ret[i]) : chunk_save(t, &ret[i]);
    return err;
}

static int reply(struct tables *t, const struct upload *upload, const struct group *group, const struct chunk *chunks, uint64_t length)
{
    struct extent_message messages[EC_SHARDS_MAX];
    Tarn__Extent *pointers[EC_SHARDS_MAX];
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    for (unsigned i = 0; i < group_shards(group); i++) {
        extent_message_fill(&(struct extent){.length = length, .chunk = chunks[i].id}, &chunks[i], &cluster, &messages[i]);
        pointers[i] = &messages[i].extent;
    }
    Tarn__UploadGroupReply reply = TARN__UPLOAD_GROUP_REPLY__INIT;
    reply.upload = upload->id;
    reply.group = group->id;
    reply.k = group->k;
    reply.m = group->m;
    reply.n_data = group->k;
    reply.data = pointers;
    reply.n_parity = group->m;
    reply.parity = pointers + group->k;
    return tables_reply(t, &reply.base);
}

int chunk_cmd_upload_group(struct tables *t, const void *message)
{
    const Tarn__UploadGroup *m = message;
    struct upload upload = {0};
    struct places places;
    struct chunk chunks[EC_SHARDS_MAX];
    if (m->index > CHUNK_COMMIT_EXTENTS_MAX - EC_DATA_MAX)
        return tables_fail(t, -E_NOTSUP, "an upload has at most %d chunks", CHUNK_COMMIT_EXTENTS_MAX);
    int err = upload_begin(t, &(struct upload_ask){.upload = m->upload, .near = m->near, .path = m->path}, &upload);
    if (err != 0)
        return err;
    /* What is to be compressed is coded afterwards: the parity is of what lies on the disks. */
    if (upload.code_k == 0 || upload.compress != 0)
        return tables_fail(t, -E_NOTSUP, "this upload is kept in copies first");
    uint64_t length = upload_group_shape(upload.code_k, upload.shift, m->remaining, m->before);
    if (length == 0)
        return tables_fail(t, -E_NOTSUP, "%llu bytes are too few for a group", (unsigned long long)m->remaining);
    for (unsigned i = 0; i < upload.code_k && err == 0; i++)
        err = upload_slot_clear(t, upload.id, m->index + i);
    struct group group = {.k = upload.code_k, .m = upload.code_m, .state = GROUP_UPLOAD, .domain = upload.domain,
                          .owner = upload.id, .generation_last = 1};
    if (err == 0)
        err = places_choose(t, &upload, m->writer_node, group_shards(&group), &places);
    if (err != 0)
        return err;
    group.id = group_id_next(t);
    err = shards_make(t, &upload, m, &places, &group, chunks);
    return err == 0 ? reply(t, &upload, &group, chunks, length) : err;
}

/* ------------------------------------------------------------------ the end of one */

static int shard_get(struct tables *t, const struct group *group, unsigned shard, struct chunk *ret)
{
    int err = chunk_get(t, group->shards[shard].chunk, ret);
    if (err != 0 || ret->group != group->id || ret->shard != shard) {
        struct key key = key_1(TABLE_CHUNK, group->shards[shard].chunk);
        return err != 0 && err != -E_NOENT ? err : tables_corrupt(t, &key, "shard of a group");
    }
    return 0;
}

/* The chunk is on its own: nothing is computed from it. Parity, which belongs to nobody else, goes. */
static int shard_release(struct tables *t, struct group *group, unsigned shard)
{
    struct chunk chunk;
    int err = shard_get(t, group, shard, &chunk);
    if (err != 0)
        return err;
    group->shards[shard] = (struct group_shard){0};
    chunk.group = 0;
    return shard >= group->k ? chunk_delete(t, &chunk) : chunk_save(t, &chunk);
}

static int group_release(struct tables *t, struct group *group)
{
    int err = 0;
    for (unsigned i = 0; i < group_shards(group) && err == 0; i++)
        if (group->shards[i].chunk != 0)
            err = shard_release(t, group, i);
    return err == 0 ? group_del(t, group) : err;
}

int upload_group_drop(struct tables *t, uint64_t id)
{
    struct group group;
    int err = group_get(t, id, &group);
    struct group was = group;
    if (err == 0)
        err = group_release(t, &group);
    for (unsigned i = 0; i < was.k && err == 0; i++) {
        struct chunk chunk;
        err = chunk_get(t, was.shards[i].chunk, &chunk);
        struct key key = key_2(TABLE_UPLOAD_CHUNK, chunk.owner, chunk.owner_offset);
        if (err == 0)
            err = tables_del(t, &key);
        if (err == 0)
            err = chunk_delete(t, &chunk);
    }
    return err;
}

static uint64_t end_length(const struct upload_group_end *end, unsigned shard)
{
    return shard < end->n ? end->lengths[shard] : 0;
}

static bool is_lost(const struct upload_group_end *end, uint64_t chunk)
{
    for (size_t i = 0; i < end->n_lost; i++)
        if (end->lost[i] == chunk)
            return true;
    return false;
}

/* The writer says that the member has not got it: what it has goes, and the group is what is left of it. */
static int shard_lose(struct tables *t, struct chunk *chunk)
{
    int err = 0;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        err = chunk_replica_drop(t, chunk, i);
    return err;
}

static int shard_settle(struct tables *t, struct group *group, unsigned shard, const struct upload_group_end *end, size_t *lost)
{
    struct chunk chunk;
    if (shard < group->k && end_length(end, shard) == 0)
        return shard_release(t, group, shard);
    group->shards[shard].length = (uint32_t)(shard < group->k ? end_length(end, shard) : group->length);
    int err = shard_get(t, group, shard, &chunk);
    if (err == 0 && is_lost(end, chunk.id)) {
        err = shard_lose(t, &chunk);
        ++*lost;
    }
    if (err != 0)
        return err;
    return shard < group->k ? chunk_save(t, &chunk) : chunk_seal(t, &chunk, group->length);
}

int upload_group_settle(struct tables *t, uint64_t id, const struct upload_group_end *end, size_t *ret_lost)
{
    struct group group;
    size_t lost = 0;
    int err = group_get(t, id, &group);
    if (err != 0)
        return err;
    CHECK(group.state == GROUP_UPLOAD);
    for (unsigned i = 0; i < group.k; i++)
        group.length = MAX(group.length, end_length(end, i));
    if (group.length == 0)
        return group_release(t, &group);
    for (unsigned i = 0; i < group_shards(&group) && err == 0; i++)
        err = shard_settle(t, &group, i, end, &lost);
    if (err == 0 && lost >= group.m) /* what is acknowledged bears the loss of one more disk */
        return tables_fail(t, -E_INVAL, "%zu shards of a group of %u+%u are lost", lost, group.k, group.m);
    *ret_lost += lost;
    return err == 0 ? group_put(t, &group) : err;
}

int upload_group_adopt(struct tables *t, uint64_t id, uint64_t ino)
{
    struct group group;
    int err = group_get(t, id, &group);
    if (err != 0)
        return err;
    CHECK(group.state == GROUP_UPLOAD);
    group.generation = group.generation_last;
    group.owner = ino;
    return group_become_coded(t, &group);
}
