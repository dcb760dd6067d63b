#include "coded_world.h"

#include <stdio.h>

#include "metadata/kv.h"

void coded_begin(struct coded_world *c, unsigned nodes, unsigned racks)
{
    *c = (struct coded_world){0};
    world_init(&c->w);
    for (unsigned i = 0; i < nodes; i++) {
        char name[16], rack[24];
        snprintf(name, sizeof name, "n%u", i + 1);
        snprintf(rack, sizeof rack, "/s/r%u", i % racks);
        assert_int_equal(world_node(&c->w, name, rack), ++c->nodes);
    }
    assert_int_equal(world_make(&c->w, TARN__FILE_TYPE__FT_DIR, "/", "d", 0755), 0);
}

void coded_end(struct coded_world *c)
{
    world_check(&c->w);
    world_fini(&c->w);
}

int coded_policy(struct coded_world *c, uint32_t mask, const Tarn__Policy *to)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/d";
    Tarn__PolicySet m = TARN__POLICY_SET__INIT;
    m.where = &at;
    m.mask = mask;
    m.policy = (Tarn__Policy *)to;
    return world_apply(&c->w, OP_POLICY_SET, &m.base, &m.ctx);
}

void coded_code(struct coded_world *c, uint32_t k, uint32_t m)
{
    Tarn__Policy to = TARN__POLICY__INIT;
    to.code_k = k;
    to.code_m = m;
    assert_int_equal(coded_policy(c, 16, &to), 0);
}

void coded_copies(struct coded_world *c, uint32_t n)
{
    Tarn__Policy to = TARN__POLICY__INIT;
    to.copies = n;
    assert_int_equal(coded_policy(c, 1, &to), 0);
}

/* An object of `n` chunks; their ids. */
void coded_put(struct coded_world *c, const char *name, unsigned n, uint64_t *ret_chunks)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/d";
    uint64_t lengths[64];
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    for (unsigned i = 0; i < n; i++) {
        Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
        m.near = &at;
        m.upload = part.upload;
        m.index = i;
        assert_int_equal(world_apply(&c->w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
        const Tarn__UploadChunkReply *reply = world_reply(&c->w, &tarn__upload_chunk_reply__descriptor);
        ret_chunks[i] = reply->extent->chunk;
        part.upload = reply->upload;
        lengths[i] = LENGTH;
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
    assert_int_equal(world_apply(&c->w, OP_OBJECT_COMMIT, &commit.base, &commit.ctx), 0);
}

bool coded_chunk_find(struct coded_world *c, uint64_t id, struct chunk *ret)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_txn *txn;
    struct kv_val value;
    assert_int_equal(kv_begin(c->w.kv, false, &txn), 0);
    bool found = kv_get(txn, key.data, key.len, &value) == 0;
    if (found)
        assert_int_equal(chunk_decode(id, value.data, value.len, ret), 0);
    kv_abort(txn);
    return found;
}

struct chunk coded_chunk(struct coded_world *c, uint64_t id)
{
    struct chunk chunk;
    assert_true(coded_chunk_find(c, id, &chunk));
    return chunk;
}

unsigned coded_live(const struct chunk *chunk)
{
    unsigned n = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        n += (chunk->replicas[i].flags & REPLICA_READY) != 0;
    return n;
}

struct group coded_group(struct coded_world *c, uint64_t id)
{
    struct key key = key_1(TABLE_GROUP, id);
    struct kv_txn *txn;
    struct kv_val value;
    struct group group;
    assert_int_equal(kv_begin(c->w.kv, false, &txn), 0);
    assert_int_equal(kv_get(txn, key.data, key.len, &value), 0);
    assert_int_equal(group_decode(id, value.data, value.len, &group), 0);
    kv_abort(txn);
    return group;
}

void coded_work(struct coded_world *c)
{
    for (unsigned i = 0; i < 50 && world_work(&c->w); i++)
        ;
}

/* Stores that are up do what they are told, until `seconds` have passed. */
void coded_run(struct coded_world *c, unsigned seconds)
{
    for (unsigned s = 0; s < seconds; s++) {
        coded_work(c);
        for (uint32_t node = 1; node <= c->nodes; node++)
            if (!c->down[node])
                (void)world_do_tasks(&c->w, node, DIGEST, LENGTH);
        c->w.now += SECOND;
    }
}

void coded_set_up(struct coded_world *c, uint32_t node, bool up)
{
    c->down[node] = !up;
    world_node_set(&c->w, node, up);
}

const Tarn__HealStatusReply *coded_status(struct coded_world *c)
{
    Tarn__HealStatus m = TARN__HEAL_STATUS__INIT;
    assert_int_equal(world_query(&c->w, OP_HEAL_STATUS, &m.base, &m.ctx), 0);
    return world_reply(&c->w, &tarn__heal_status_reply__descriptor);
}

/* A coded object under /d/o; its chunks. */
void coded_object(struct coded_world *c, unsigned nodes, uint32_t k, uint32_t m, unsigned n, uint64_t *chunks)
{
    coded_begin(c, nodes, nodes);
    coded_code(c, k, m);
    coded_put(c, "o", n, chunks);
    coded_run(c, 8);
    for (unsigned i = 0; i < n; i++)
        assert_true(coded_chunk(c, chunks[i]).coded);
    world_check(&c->w);
}

/* One task's answer, given by hand. */
Tarn__NodeBeatReply *coded_tasks(struct coded_world *c, uint32_t node)
{
    struct kv_txn *txn;
    uint8_t *packed;
    size_t len;
    assert_int_equal(kv_begin(c->w.kv, false, &txn), 0);
    assert_int_equal(fsm_node_tasks(txn, node, 1000, &packed, &len), 0);
    kv_abort(txn);
    Tarn__NodeBeatReply *beat = tarn__node_beat_reply__unpack(NULL, len, packed);
    free(packed);
    assert_non_null(beat);
    return beat;
}

void coded_report(struct coded_world *c, uint32_t node, const Tarn__ChunkTask *task, int status_code, uint32_t digest)
{
    Tarn__ChunkTaskDone done = TARN__CHUNK_TASK_DONE__INIT, *one[] = {&done};
    done.id = task->id;
    done.chunk = task->chunk;
    done.generation = task->generation;
    done.kind = task->kind;
    done.status = (uint32_t)status_code;
    done.length = LENGTH;
    done.digest = digest;
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    m.node = node;
    m.n_done = 1;
    m.done = one;
    assert_int_equal(world_apply(&c->w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
}

/* Seals are answered and the group is begun; its builds and verifications wait. */
void coded_making(struct coded_world *c, unsigned nodes, uint64_t *chunks)
{
    coded_begin(c, nodes, nodes);
    coded_code(c, 4, 2);
    coded_put(c, "o", 4, chunks);
    coded_work(c);
    for (uint32_t node = 1; node <= c->nodes; node++)
        (void)world_do_tasks(&c->w, node, DIGEST, LENGTH);
    coded_work(c);
    assert_int_equal(coded_status(c)->coding, 1);
    for (unsigned i = 0; i < 4; i++) {
        struct chunk chunk = coded_chunk(c, chunks[i]);
        assert_false(chunk.coded);
        assert_int_equal(coded_live(&chunk), 3); /* nothing goes before the flip */
    }
    world_check(&c->w);
}

/* Answers every task of the kind; the first one that is met is answered with `bad` instead. */
unsigned coded_answer(struct coded_world *c, Tarn__ChunkTask__Kind kind, int bad, bool all)
{
    unsigned n = 0;
    for (uint32_t node = 1; node <= c->nodes; node++) {
        Tarn__NodeBeatReply *beat = coded_tasks(c, node);
        for (size_t i = 0; i < beat->n_tasks; i++)
            if (beat->tasks[i]->kind == kind && (all || n == 0))
                coded_report(c, node, beat->tasks[i], n++ == 0 ? bad : 0, DIGEST);
        tarn__node_beat_reply__free_unpacked(beat, NULL);
    }
    return n;
}
