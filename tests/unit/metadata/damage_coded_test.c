/* Damaged shards of parity groups in the tables: repaired in place from the others, computed anew elsewhere, given up, named when they
 * are lost. Every test ends with the checker, which counts levels again. */
#include <stdio.h>

#include "metadata/damage.h"
#include "metadata/group.h"
#include "metadata/kv.h"
#include "world.h"

#define SECOND 1000000000ull
#define LENGTH MIB(64)
#define DIGEST 77

struct coded {
    struct world w;
    uint32_t nodes;
    uint64_t chunks[EC_SHARDS_MAX]; /* of the group, data first */
};

static struct chunk chunk_of(struct coded *c, uint64_t id)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_txn *txn;
    struct kv_val value;
    struct chunk chunk;
    assert_int_equal(kv_begin(c->w.kv, false, &txn), 0);
    assert_int_equal(kv_get(txn, key.data, key.len, &value), 0);
    assert_int_equal(chunk_decode(id, value.data, value.len, &chunk), 0);
    kv_abort(txn);
    return chunk;
}

/* Stores do what they are told, until `seconds` have passed. */
static void run(struct coded *c, unsigned seconds)
{
    for (unsigned s = 0; s < seconds; s++) {
        for (unsigned i = 0; i < 50 && world_work(&c->w); i++)
            ;
        for (uint32_t node = 1; node <= c->nodes; node++)
            (void)world_do_tasks(&c->w, node, DIGEST, LENGTH);
        c->w.now += SECOND;
    }
}

static void put(struct coded *c, unsigned n)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)"/d";
    uint64_t lengths[EC_DATA_MAX];
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    for (unsigned i = 0; i < n; i++) {
        Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
        m.near = &at;
        m.upload = part.upload;
        m.index = i;
        assert_int_equal(world_apply(&c->w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
        const Tarn__UploadChunkReply *reply = world_reply(&c->w, &tarn__upload_chunk_reply__descriptor);
        c->chunks[i] = reply->extent->chunk;
        part.upload = reply->upload;
        lengths[i] = LENGTH;
    }
    part.lengths = lengths;
    part.n_lengths = n;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &at;
    object.path = (char *)"o";
    object.parts = parts;
    object.n_parts = 1;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    commit.object = &object;
    assert_int_equal(world_apply(&c->w, OP_OBJECT_COMMIT, &commit.base, &commit.ctx), 0);
}

/* The object /d/o is one group of k + m. */
static void begin(struct coded *c, unsigned nodes, uint32_t k, uint32_t m)
{
    *c = (struct coded){.nodes = nodes};
    world_init(&c->w);
    for (unsigned i = 1; i <= nodes; i++) {
        char name[8], rack[16];
        snprintf(name, sizeof name, "n%u", i);
        snprintf(rack, sizeof rack, "/s/r%u", i);
        assert_int_equal(world_node(&c->w, name, rack), i);
    }
    assert_int_equal(world_make(&c->w, TARN__FILE_TYPE__FT_DIR, "/", "d", 0755), 0);
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)"/d";
    Tarn__Policy code = TARN__POLICY__INIT;
    code.code_k = k;
    code.code_m = m;
    Tarn__PolicySet set = TARN__POLICY_SET__INIT;
    set.where = &at;
    set.mask = 16;
    set.policy = &code;
    assert_int_equal(world_apply(&c->w, OP_POLICY_SET, &set.base, &set.ctx), 0);
    put(c, k);
    run(c, 8);
    Tarn__GroupGet get = TARN__GROUP_GET__INIT;
    get.group = chunk_of(c, c->chunks[0]).group;
    assert_int_equal(world_query(&c->w, OP_GROUP_GET, &get.base, &get.ctx), 0);
    const Tarn__GroupReply *group = world_reply(&c->w, &tarn__group_reply__descriptor);
    for (size_t i = 0; i < group->n_shards; i++)
        c->chunks[i] = group->shards[i]->chunk;
    assert_int_equal(world_status(&c->w)->by_copies[m + 1], k + m);
}

static void end(struct coded *c)
{
    world_check(&c->w);
    world_fini(&c->w);
}

static uint32_t disk_of(struct coded *c, unsigned shard)
{
    struct chunk chunk = chunk_of(c, c->chunks[shard]);
    assert_int_equal(chunk.n_replicas, 1);
    return chunk.replicas[0].disk; /* the nodes have one disk each, with their number */
}

static void report(struct coded *c, unsigned shard)
{
    Tarn__Damage damage = TARN__DAMAGE__INIT, *one[] = {&damage};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    m.node = damage.disk = disk_of(c, shard);
    damage.chunk = c->chunks[shard];
    m.damaged = one;
    m.n_damaged = 1;
    assert_int_equal(world_apply(&c->w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
}

/* The node's task of the kind on the shard; *ret is freed by the caller. NULL: there is none. */
static const Tarn__ChunkTask *task_of(struct coded *c, uint32_t node, Tarn__ChunkTask__Kind kind, unsigned shard, Tarn__NodeBeatReply **ret)
{
    struct kv_txn *txn;
    uint8_t *packed;
    size_t len;
    assert_int_equal(kv_begin(c->w.kv, false, &txn), 0);
    assert_int_equal(fsm_node_tasks(txn, node, 1000, &packed, &len), 0);
    kv_abort(txn);
    *ret = tarn__node_beat_reply__unpack(NULL, len, packed);
    free(packed);
    assert_non_null(*ret);
    for (size_t i = 0; i < (*ret)->n_tasks; i++)
        if ((*ret)->tasks[i]->kind == kind && (*ret)->tasks[i]->chunk == c->chunks[shard])
            return (*ret)->tasks[i];
    return NULL;
}

/* What the shard's REPAIR can be computed from: each other shard once, with a place to read it. */
static void expect_sources(struct coded *c, unsigned shard, unsigned k, unsigned m)
{
    Tarn__NodeBeatReply *beat;
    const Tarn__ChunkTask *task = task_of(c, disk_of(c, shard), TARN__CHUNK_TASK__KIND__REPAIR, shard, &beat);
    uint32_t seen = 1u << shard;
    assert_non_null(task);
    assert_int_equal(task->n_from, 0); /* there is no other copy */
    assert_int_equal(task->k, k);
    assert_int_equal(task->m, m);
    assert_int_equal(task->shard, shard);
    for (size_t i = 0; i < task->n_sources; i++) {
        const Tarn__Shard *source = task->sources[i];
        assert_int_equal(seen & 1u << source->index, 0);
        seen |= 1u << source->index;
        assert_int_equal(source->chunk, c->chunks[source->index]);
        assert_int_equal(source->n_replicas, 1);
    }
    assert_int_equal(seen, (1u << (k + m)) - 1);
    tarn__node_beat_reply__free_unpacked(beat, NULL);
}

static void answer(struct coded *c, unsigned shard, int status)
{
    Tarn__NodeBeatReply *beat;
    uint32_t node = disk_of(c, shard);
    const Tarn__ChunkTask *task = task_of(c, node, TARN__CHUNK_TASK__KIND__REPAIR, shard, &beat);
    assert_non_null(task);
    Tarn__ChunkTaskDone done = TARN__CHUNK_TASK_DONE__INIT, *one[] = {&done};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    done.id = task->id;
    done.chunk = task->chunk;
    done.kind = task->kind;
    done.status = err_to_wire(status);
    done.length = status != 0 ? 65536 : 0;
    m.node = node;
    m.done = one;
    m.n_done = 1;
    assert_int_equal(world_apply(&c->w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
    assert_int_equal(world_apply(&c->w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0); /* the report may come twice */
    tarn__node_beat_reply__free_unpacked(beat, NULL);
}

/* ------------------------------------------------------------------ */
static void a_damaged_shard_does_not_count_until_it_is_repaired(void **state)
{
    struct coded c;
    begin(&c, 6, 4, 2);
    for (unsigned shard = 0; shard < 6; shard++) {
        report(&c, shard);
        assert_int_equal(world_status(&c.w)->by_copies[2], 6);
        assert_int_equal(world_status(&c.w)->damages->chunks, 1);
        assert_int_equal(world_status(&c.w)->damages->repairing, 0); /* its group has it */
        expect_sources(&c, shard, 4, 2);
        world_check(&c.w);
        answer(&c, shard, 0);
        assert_int_equal(world_status(&c.w)->by_copies[3], 6);
        assert_int_equal(world_status(&c.w)->damages->chunks, 0);
    }
    end(&c);
}

/* Each may have the cells that are wrong in the others: none is lost before somebody has looked. */
static void shards_that_are_all_damaged_repair_each_other(void **state)
{
    struct coded c;
    begin(&c, 3, 2, 1);
    for (unsigned shard = 0; shard < 3; shard++)
        report(&c, shard);
    assert_int_equal(world_status(&c.w)->by_copies[0], 3);
    assert_int_equal(world_status(&c.w)->lost, 0);
    assert_int_equal(world_status(&c.w)->damages->repairing, 3);
    for (unsigned shard = 0; shard < 3; shard++)
        expect_sources(&c, shard, 2, 1);
    world_check(&c.w);
    run(&c, 2);
    assert_int_equal(world_status(&c.w)->by_copies[2], 3);
    assert_int_equal(world_status(&c.w)->damages->chunks, 0);
    end(&c);
}

static void what_cannot_be_repaired_in_place_is_built_elsewhere(void **state)
{
    struct coded c;
    begin(&c, 7, 4, 2);
    uint32_t bad = disk_of(&c, 1);
    report(&c, 1);
    answer(&c, 1, -E_CORRUPT);
    run(&c, 10);
    assert_int_not_equal(disk_of(&c, 1), bad); /* the damaged one has left */
    assert_int_equal(world_status(&c.w)->by_copies[3], 6);
    assert_int_equal(world_status(&c.w)->damages->chunks, 0);
    end(&c);
}

/* Every node has a shard: there is no other place. */
static void a_disk_that_does_not_take_the_bytes_gets_the_shard_anew(void **state)
{
    static const int errors[] = {-E_IO, -E_NOENT, -E_NOSPC};
    for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
        struct coded c;
        begin(&c, 3, 2, 1);
        uint32_t bad = disk_of(&c, 2);
        report(&c, 2);
        answer(&c, 2, errors[i]);
        run(&c, 40);
        assert_int_equal(disk_of(&c, 2), bad);
        assert_int_equal(world_status(&c.w)->by_copies[2], 3);
        assert_int_equal(world_status(&c.w)->damages->chunks, 0);
        end(&c);
    }
}

static void a_damaged_shard_stays_while_the_others_do_not_give_it_back(void **state)
{
    struct coded c;
    begin(&c, 3, 2, 1);
    uint32_t bad = disk_of(&c, 0);
    world_node_set(&c.w, disk_of(&c, 1), false);
    report(&c, 0);
    answer(&c, 0, -E_IO); /* of its cells some may be the only ones */
    assert_int_equal(disk_of(&c, 0), bad);
    assert_int_equal(world_status(&c.w)->damages->chunks, 1);
    world_node_set(&c.w, disk_of(&c, 1), true);
    c.w.now += 600 * SECOND;
    run(&c, 2); /* asked again */
    assert_int_equal(world_status(&c.w)->by_copies[2], 3);
    end(&c);
}

static void more_than_the_parity_gives_back_is_lost_and_named(void **state)
{
    struct coded c;
    begin(&c, 3, 2, 1);
    report(&c, 0);
    answer(&c, 0, -E_CORRUPT);
    assert_int_equal(world_status(&c.w)->damages->lost, 0); /* it can be computed */
    report(&c, 1);
    answer(&c, 1, -E_CORRUPT);
    const Tarn__StatusReply *now = world_status(&c.w);
    assert_int_equal(now->damages->lost, 2);
    assert_int_equal(now->lost, 2);
    assert_int_equal(now->damages->n_files, 1);
    assert_memory_equal(now->damages->files[0].data, "/d/o", 4);
    end(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_damaged_shard_does_not_count_until_it_is_repaired),
        cmocka_unit_test(shards_that_are_all_damaged_repair_each_other),
        cmocka_unit_test(what_cannot_be_repaired_in_place_is_built_elsewhere),
        cmocka_unit_test(a_disk_that_does_not_take_the_bytes_gets_the_shard_anew),
        cmocka_unit_test(a_damaged_shard_stays_while_the_others_do_not_give_it_back),
        cmocka_unit_test(more_than_the_parity_gives_back_is_lost_and_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
