/* Damaged copies in the tables: reported, asked to be repaired, whole again, given up, named. Every test ends with the checker. */
#include <fcntl.h>
#include <stdio.h>

#include "metadata/damage.h"
#include "metadata/kv.h"
#include "world.h"

#define SECOND 1000000000ull
#define LENGTH 1000000

static void begin(struct world *w, unsigned nodes)
{
    world_init(w);
    for (unsigned i = 1; i <= nodes; i++) {
        char name[8];
        snprintf(name, sizeof name, "n%u", i);
        assert_int_equal(world_node(w, name, "/r"), i);
    }
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, "/", "d", 0755), 0);
}

static void work(struct world *w)
{
    for (unsigned i = 0; i < 50 && world_work(w); i++)
        ;
}

/* Sealed, and its stores have answered. */
static uint64_t put(struct world *w, const char *name, uint32_t copies)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)"/d";
    Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
    m.near = &at;
    m.copies = copies;
    assert_int_equal(world_apply(w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
    const Tarn__UploadChunkReply *reply = world_reply(w, &tarn__upload_chunk_reply__descriptor);
    uint64_t chunk = reply->extent->chunk, length = LENGTH;
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    part.upload = reply->upload;
    part.lengths = &length;
    part.n_lengths = 1;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &at;
    object.path = (char *)name;
    object.parts = parts;
    object.n_parts = 1;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    commit.object = &object;
    assert_int_equal(world_apply(w, OP_OBJECT_COMMIT, &commit.base, &commit.ctx), 0);
    for (uint32_t node = 1; node <= 4; node++)
        (void)world_do_tasks(w, node, 77, LENGTH);
    return chunk;
}

static struct chunk chunk_of(struct world *w, uint64_t id)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_txn *txn;
    struct kv_val value;
    struct chunk chunk;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(kv_get(txn, key.data, key.len, &value), 0);
    assert_int_equal(chunk_decode(id, value.data, value.len, &chunk), 0);
    kv_abort(txn);
    return chunk;
}

static uint8_t flags_on(struct world *w, uint64_t id, uint32_t disk)
{
    struct chunk chunk = chunk_of(w, id);
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        if (chunk.replicas[i].disk == disk)
            return chunk.replicas[i].flags;
    return 0;
}

static uint32_t holder(struct world *w, uint64_t id, unsigned n)
{
    return chunk_of(w, id).replicas[n].disk;
}

/* As a store tells it with a beat. */
static void report(struct world *w, uint32_t node, uint32_t disk, uint64_t id)
{
    Tarn__Damage damage = TARN__DAMAGE__INIT, *one[] = {&damage};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    damage.disk = disk;
    damage.chunk = id;
    damage.offset = 65536;
    m.node = node;
    m.damaged = one;
    m.n_damaged = 1;
    assert_int_equal(world_apply(w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
}

/* The node's REPAIR of the chunk. 0: there is none. */
static uint64_t repair_task(struct world *w, uint32_t node, uint64_t id, size_t *ret_sources)
{
    struct kv_txn *txn;
    uint8_t *packed;
    size_t len;
    uint64_t found = 0;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(fsm_node_tasks(txn, node, 1000, &packed, &len), 0);
    kv_abort(txn);
    Tarn__NodeBeatReply *beat = tarn__node_beat_reply__unpack(NULL, len, packed);
    free(packed);
    for (size_t i = 0; i < beat->n_tasks; i++) {
        const Tarn__ChunkTask *task = beat->tasks[i];
        if (task->kind != TARN__CHUNK_TASK__KIND__REPAIR || task->chunk != id)
            continue;
        assert_int_equal(found, 0); /* asked once */
        found = task->id;
        *ret_sources = task->n_from;
        for (size_t j = 0; j < task->n_from; j++)
            assert_int_not_equal(task->from[j]->disk, task->disk);
    }
    tarn__node_beat_reply__free_unpacked(beat, NULL);
    return found;
}

static void answer(struct world *w, uint32_t node, uint64_t id, int status)
{
    size_t sources;
    Tarn__ChunkTaskDone done = TARN__CHUNK_TASK_DONE__INIT, *one[] = {&done};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    done.id = repair_task(w, node, id, &sources);
    assert_int_not_equal(done.id, 0);
    done.chunk = id;
    done.kind = TARN__CHUNK_TASK__KIND__REPAIR;
    done.status = err_to_wire(status);
    done.length = status != 0 ? 65536 : 0;
    m.node = node;
    m.done = one;
    m.n_done = 1;
    assert_int_equal(world_apply(w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
    assert_int_equal(world_apply(w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0); /* the report may come twice */
}

static void end(struct world *w)
{
    world_check(w);
    world_fini(w);
}

/* ------------------------------------------------------------------ */
static void test_a_damaged_copy_does_not_count_until_it_is_repaired(void **state)
{
    struct world w;
    size_t sources;
    begin(&w, 3);
    uint64_t id = put(&w, "f", 3);
    uint32_t bad = holder(&w, id, 1);
    assert_int_equal(world_status(&w)->by_copies[3], 1);
    report(&w, bad, bad, id);
    const Tarn__StatusReply *now = world_status(&w);
    assert_int_equal(now->by_copies[2], 1);
    assert_int_equal(now->below_target, 1);
    assert_int_equal(now->lost, 0);
    assert_int_equal(now->damages->chunks, 1);
    assert_int_equal(now->damages->lost, 0);
    assert_int_not_equal(repair_task(&w, bad, id, &sources), 0);
    assert_int_equal(sources, 2);
    world_check(&w);
    report(&w, bad, bad, id); /* told again: asked once */
    assert_int_not_equal(repair_task(&w, bad, id, &sources), 0);
    assert_int_equal(world_status(&w)->by_copies[2], 1);
    answer(&w, bad, id, 0);
    now = world_status(&w);
    assert_int_equal(now->by_copies[3], 1);
    assert_int_equal(now->below_target, 0);
    assert_int_equal(now->damages->chunks, 0);
    assert_int_equal(flags_on(&w, id, bad), REPLICA_READY | REPLICA_SEALED);
    end(&w);
}

static void test_nobody_speaks_of_others_disks_or_of_what_is_not_there(void **state)
{
    struct world w;
    begin(&w, 3);
    uint64_t id = put(&w, "f", 2);
    uint32_t a = holder(&w, id, 0), b = holder(&w, id, 1), other = 6 - a - b;
    report(&w, a, b, id);
    report(&w, other, other, id);
    report(&w, a, a, id + 100);
    report(&w, a, 99, id);
    assert_int_equal(world_status(&w)->damages->chunks, 0);
    assert_int_equal(world_status(&w)->by_copies[2], 1);
    end(&w);
}

static void test_the_last_copy_stays_and_its_file_is_named(void **state)
{
    struct world w;
    begin(&w, 3);
    uint64_t id = put(&w, "sub/file", 1);
    uint32_t bad = holder(&w, id, 0);
    report(&w, bad, bad, id);
    assert_int_equal(world_status(&w)->lost, 0); /* not before it was tried */
    assert_int_equal(world_status(&w)->damages->repairing, 1);
    answer(&w, bad, id, -E_CORRUPT);
    work(&w);
    const Tarn__StatusReply *now = world_status(&w);
    assert_int_equal(now->damages->lost, 1);
    assert_int_equal(now->damages->lost_bytes, 65536);
    assert_int_equal(now->lost, 1);
    assert_int_equal(now->damages->n_files, 1);
    assert_int_equal(now->damages->files[0].len, strlen("/d/sub/file"));
    assert_memory_equal(now->damages->files[0].data, "/d/sub/file", strlen("/d/sub/file"));
    assert_true(flags_on(&w, id, bad) & REPLICA_READY); /* its good cells are all there is */
    size_t sources;
    assert_int_equal(repair_task(&w, bad, id, &sources), 0);
    w.now += 2 * 3600 * SECOND; /* somebody may have come back with the bytes */
    work(&w);
    assert_int_not_equal(repair_task(&w, bad, id, &sources), 0);
    world_check(&w);
    assert_int_equal(world_unlink(&w, "/d/sub", "file", false), 0);
    for (unsigned i = 0; i < 5; i++) {
        work(&w);
        (void)world_do_tasks(&w, bad, 77, LENGTH);
    }
    assert_int_equal(world_status(&w)->damages->chunks, 0);
    end(&w);
}

static void test_copies_damaged_in_different_cells_both_stay(void **state)
{
    struct world w;
    begin(&w, 2);
    uint64_t id = put(&w, "f", 2);
    report(&w, 1, 1, id);
    report(&w, 2, 2, id);
    const Tarn__StatusReply *now = world_status(&w);
    assert_int_equal(now->by_copies[0], 1);
    assert_int_equal(now->lost, 0); /* each may have what the other lacks */
    assert_int_equal(now->damages->repairing, 1);
    size_t sources;
    assert_int_not_equal(repair_task(&w, 1, id, &sources), 0);
    assert_int_equal(sources, 1); /* damaged, too */
    answer(&w, 1, id, 0);
    answer(&w, 2, id, 0);
    assert_int_equal(world_status(&w)->by_copies[2], 1);
    end(&w);
}

static void test_a_disk_that_cannot_be_written_gives_its_copy_up(void **state)
{
    struct world w;
    begin(&w, 4);
    uint64_t id = put(&w, "f", 2);
    uint32_t bad = holder(&w, id, 0);
    report(&w, bad, bad, id);
    answer(&w, bad, id, -E_IO);
    assert_int_equal(flags_on(&w, id, bad), REPLICA_LEAVING);
    for (unsigned i = 0; i < 5; i++) {
        w.now += 40 * SECOND;
        work(&w);
        for (uint32_t node = 1; node <= 4; node++)
            (void)world_do_tasks(&w, node, 77, LENGTH);
    }
    assert_int_equal(world_status(&w)->by_copies[2], 1);
    assert_int_equal(world_status(&w)->damages->chunks, 0);
    end(&w);
}

static void test_the_last_ready_copy_is_not_given_up_whatever_is_said(void **state)
{
    struct world w;
    begin(&w, 3);
    uint64_t id = put(&w, "f", 2);
    uint32_t a = holder(&w, id, 0), b = holder(&w, id, 1);
    world_node_set(&w, b, false); /* whole, but away: not a reason to let the other one go */
    report(&w, a, a, id);
    answer(&w, a, id, -E_IO);
    assert_true(flags_on(&w, id, a) & REPLICA_READY);
    world_node_set(&w, b, true);
    work(&w);
    report(&w, b, b, id); /* now both say that they are damaged, and cannot repair themselves */
    answer(&w, b, id, -E_IO);
    assert_true(flags_on(&w, id, a) & REPLICA_READY);
    assert_true(flags_on(&w, id, b) & REPLICA_READY);
    end(&w);
}

static void test_a_copy_is_made_elsewhere_when_the_repair_does_not_come_about(void **state)
{
    struct world w;
    begin(&w, 3);
    uint64_t id = put(&w, "f", 2);
    uint32_t bad = holder(&w, id, 0), third = 6 - bad - holder(&w, id, 1);
    size_t sources;
    report(&w, bad, bad, id);
    work(&w);
    assert_int_equal(flags_on(&w, id, third), 0); /* a repair of some cells comes first */
    answer(&w, bad, id, -E_UNAVAIL);
    w.now += SECOND;
    work(&w);
    assert_int_equal(flags_on(&w, id, third), REPLICA_COPYING);
    (void)world_do_tasks(&w, third, 77, LENGTH);
    work(&w);
    assert_int_equal(flags_on(&w, id, third), REPLICA_READY | REPLICA_SEALED);
    assert_int_equal(flags_on(&w, id, bad), REPLICA_LEAVING); /* two whole ones: it may go */
    assert_int_equal(repair_task(&w, bad, id, &sources), 0);
    assert_int_equal(world_status(&w)->by_copies[2], 1);
    end(&w);
}

static void test_a_repair_that_failed_is_tried_again(void **state)
{
    struct world w;
    begin(&w, 2); /* no third place: the copy can only be repaired */
    uint64_t id = put(&w, "f", 2);
    size_t sources;
    report(&w, 1, 1, id);
    answer(&w, 1, id, -E_UNAVAIL);
    assert_int_equal(repair_task(&w, 1, id, &sources), 0);
    w.now += 60 * SECOND;
    work(&w);
    assert_int_not_equal(repair_task(&w, 1, id, &sources), 0);
    answer(&w, 1, id, 0);
    assert_int_equal(world_status(&w)->by_copies[2], 1);
    end(&w);
}

static void test_a_member_of_an_open_chunk_leaves_as_one_that_failed(void **state)
{
    struct world w;
    uint64_t handle;
    begin(&w, 3);
    assert_int_equal(world_make(&w, TARN__FILE_TYPE__FT_FILE, "/d", "f", 0644), 0);
    assert_int_equal(world_open(&w, "/d/f", O_RDWR, &handle), 0);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(&w, "/d/f", &attr), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = attr->ino;
    assert_int_equal(world_apply(&w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    const Tarn__ChunkReply *reply = world_reply(&w, &tarn__chunk_reply__descriptor);
    uint64_t id = reply->extent->chunk, generation = reply->extent->generation;
    uint32_t bad = holder(&w, id, 0);
    report(&w, bad, bad, id);
    assert_int_equal(chunk_of(&w, id).generation, generation); /* repaired in place nobody notices */
    answer(&w, bad, id, -E_IO);
    assert_int_equal(flags_on(&w, id, bad), REPLICA_LEAVING);
    assert_int_equal(chunk_of(&w, id).generation, generation + 1);
    end(&w);
}

static void test_a_failed_member_does_not_leave_a_damaged_one_alone(void **state)
{
    struct world w;
    begin(&w, 2);
    uint64_t id = put(&w, "f", 2);
    report(&w, 1, 1, id);
    Tarn__ChunkFailed m = TARN__CHUNK_FAILED__INIT;
    m.chunk = id;
    m.generation = chunk_of(&w, id).generation;
    m.disk = 2; /* the whole one */
    assert_int_equal(world_apply(&w, OP_CHUNK_FAILED, &m.base, &m.ctx), -E_UNAVAIL);
    m.disk = 1;
    assert_int_equal(world_apply(&w, OP_CHUNK_FAILED, &m.base, &m.ctx), 0);
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_damaged_copy_does_not_count_until_it_is_repaired),
        cmocka_unit_test(test_nobody_speaks_of_others_disks_or_of_what_is_not_there),
        cmocka_unit_test(test_the_last_copy_stays_and_its_file_is_named),
        cmocka_unit_test(test_copies_damaged_in_different_cells_both_stay),
        cmocka_unit_test(test_a_disk_that_cannot_be_written_gives_its_copy_up),
        cmocka_unit_test(test_the_last_ready_copy_is_not_given_up_whatever_is_said),
        cmocka_unit_test(test_a_copy_is_made_elsewhere_when_the_repair_does_not_come_about),
        cmocka_unit_test(test_a_repair_that_failed_is_tried_again),
        cmocka_unit_test(test_a_member_of_an_open_chunk_leaves_as_one_that_failed),
        cmocka_unit_test(test_a_failed_member_does_not_leave_a_damaged_one_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
