#include "pack_world.h"

#include "metadata/kv.h"

#include <stdio.h>

void pack_begin(struct pack_world *p, unsigned nodes)
{
    *p = (struct pack_world){0};
    world_init(&p->w);
    for (unsigned i = 0; i < nodes; i++) {
        char name[16], rack[16];
        snprintf(name, sizeof name, "n%u", i + 1);
        snprintf(rack, sizeof rack, "/r%u", i);
        assert_int_equal(world_node(&p->w, name, rack), ++p->nodes);
    }
    assert_int_equal(world_make(&p->w, TARN__FILE_TYPE__FT_DIR, "/", "d", 0755), 0);
}

void pack_end(struct pack_world *p)
{
    world_fini(&p->w);
}

void pack_put_chunks(struct pack_world *p, const char *dir, const char *name, uint64_t length, unsigned n)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)dir;
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    uint64_t lengths[16];
    assert_true(n <= ARRAY_SIZE(lengths));
    for (unsigned i = 0; i < n; i++) {
        Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
        m.near = &at;
        m.upload = part.upload;
        m.index = i;
        assert_int_equal(world_apply(&p->w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
        const Tarn__UploadChunkReply *reply = world_reply(&p->w, &tarn__upload_chunk_reply__descriptor);
        part.upload = reply->upload;
        lengths[i] = length;
    }
    part.lengths = lengths;
    part.n_lengths = n;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &at;
    object.path = (char *)name;
    object.parts = parts;
    object.n_parts = 1;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    commit.object = &object;
    assert_int_equal(world_apply(&p->w, OP_OBJECT_COMMIT, &commit.base, &commit.ctx), 0);
}

void pack_put(struct pack_world *p, const char *dir, const char *name, uint64_t length)
{
    pack_put_chunks(p, dir, name, length, 1);
}

void pack_run(struct pack_world *p, unsigned seconds)
{
    for (unsigned s = 0; s < seconds; s++) {
        for (unsigned i = 0; i < 100 && world_work(&p->w); i++)
            ;
        for (uint32_t node = 1; node <= p->nodes; node++)
            if (!p->down[node])
                (void)world_do_tasks(&p->w, node, 77, UINT64_MAX);
        if (s % 16 == 0)
            world_check(&p->w);
        p->w.now += SECOND;
    }
    world_check(&p->w);
}

void pack_set_policy(struct pack_world *p, const char *dir, uint32_t mask, Tarn__Policy to)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)dir;
    Tarn__PolicySet m = TARN__POLICY_SET__INIT;
    m.where = &at;
    m.mask = mask;
    m.policy = &to;
    assert_int_equal(world_apply(&p->w, OP_POLICY_SET, &m.base, &m.ctx), 0);
}

const Tarn__FileMapReply *pack_map(struct pack_world *p, const char *path)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)path;
    Tarn__FileMap m = TARN__FILE_MAP__INIT;
    m.where = &at;
    assert_int_equal(world_query(&p->w, OP_FILE_MAP, &m.base, &m.ctx), 0);
    return world_reply(&p->w, &tarn__file_map_reply__descriptor);
}

Tarn__Extent *pack_extent(struct pack_world *p, const char *path)
{
    const Tarn__FileMapReply *map = pack_map(p, path);
    assert_int_equal(map->n_extents, 1);
    return map->extents[0];
}

static int count_row(void *arg, struct kv_val key, struct kv_val value)
{
    (*(uint64_t *)arg)++;
    return 0;
}

uint64_t pack_rows(struct pack_world *p, enum table table)
{
    struct key prefix = key_table(table);
    struct kv_txn *txn;
    uint64_t n = 0;
    assert_int_equal(kv_begin(p->w.kv, false, &txn), 0);
    assert_int_equal(kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, count_row, &n), 0);
    kv_abort(txn);
    return n;
}

static bool chunk_load(struct pack_world *p, uint64_t id, struct chunk *ret)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_txn *txn;
    struct kv_val value;
    assert_int_equal(kv_begin(p->w.kv, false, &txn), 0);
    bool there = kv_get(txn, key.data, key.len, &value) == 0;
    if (there)
        assert_int_equal(chunk_decode(id, value.data, value.len, ret), 0);
    kv_abort(txn);
    return there;
}

struct chunk pack_chunk(struct pack_world *p, uint64_t id)
{
    struct chunk chunk;
    assert_true(chunk_load(p, id, &chunk));
    return chunk;
}

bool pack_has_chunk(struct pack_world *p, uint64_t id)
{
    struct chunk chunk;
    return chunk_load(p, id, &chunk);
}

void pack_assert_packed(struct pack_world *p, const char *path, uint64_t length, unsigned copies)
{
    const Tarn__Extent *extent = pack_extent(p, path);
    struct chunk container = pack_chunk(p, extent->chunk);
    assert_int_equal(container.kind, CHUNK_CONTAINER);
    assert_int_equal(extent->length, length);
    assert_int_equal(extent->content, length);
    assert_int_equal(extent->generation, container.generation);
    assert_int_equal(extent->chunk_length, container.length);
    assert_true(extent->piece_offset + extent->stored <= container.length);
    if (extent->form == TARN__CHUNK_FORM__FORM_RAW) {
        assert_int_equal(extent->stored, length);
        assert_int_equal(extent->chunk_offset, extent->piece_offset);
    } else {
        assert_int_equal(extent->stored, (length + 1) / 2);
        assert_int_equal(extent->chunk_offset, 0);
    }
    unsigned up = 0;
    for (size_t i = 0; i < extent->n_replicas; i++)
        up += extent->replicas[i]->ready && extent->replicas[i]->up;
    assert_int_equal(up, copies);
}
