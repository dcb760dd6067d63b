/* Packing, compaction and compression in the tables; the checker looks all the time (PI and PK rules). */
#include "pack_world.h"

#include <fcntl.h>
#include <stdio.h>

#include "metadata/kv.h"
#include "metadata/pack_plan.h"
#include "metadata/pack_rows.h"

static const char *name_of(unsigned i)
{
    static char name[16];
    snprintf(name, sizeof name, "o%u", i);
    return name;
}

static const char *path_of(unsigned i)
{
    static char path[32];
    snprintf(path, sizeof path, "/d/o%u", i);
    return path;
}

static void put_many(struct pack_world *p, unsigned n, uint64_t length)
{
    for (unsigned i = 0; i < n; i++)
        pack_put(p, "/d", name_of(i), length);
}

static void nothing_is_left(struct pack_world *p)
{
    pack_run(p, 5);
    assert_int_equal(pack_rows(p, TABLE_CHUNK), 0);
    assert_int_equal(pack_rows(p, TABLE_PIECE), 0);
    assert_int_equal(world_status(&p->w)->chunks, 0);
}

/* ------------------------------------------------------------------ packing */
static void small_objects_share_a_container_when_they_are_cold(void **state)
{
    struct pack_world p;
    pack_begin(&p, 5);
    put_many(&p, 100, 10000);
    pack_run(&p, 10);
    assert_int_equal(world_status(&p.w)->chunks, 100);
    assert_int_equal(pack_extent(&p, "/d/o7")->stored, 0);
    pack_run(&p, 25);
    unsigned packed = 0;
    for (unsigned i = 0; i < 100; i++)
        packed += pack_extent(&p, path_of(i))->stored != 0;
    assert_true(packed >= PACK_ENOUGH_PIECES);
    const Tarn__StatusReply *status = world_status(&p.w);
    assert_int_equal(status->below_target, 0);
    assert_int_equal(status->pending_tasks, 0);
    assert_true(status->chunks <= 100 - packed + 2);
    pack_run(&p, 700); /* what did not find enough company waits longer, then goes with those that are there */
    for (unsigned i = 0; i < 100; i++)
        pack_assert_packed(&p, path_of(i), 10000, 3);
    assert_true(world_status(&p.w)->chunks <= 3);
    assert_int_equal(world_status(&p.w)->by_copies[3], world_status(&p.w)->chunks);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(world_unlink(&p.w, "/d", name_of(i), false), 0);
    nothing_is_left(&p);
    pack_end(&p);
}

static void one_small_object_alone_stays_as_it_is_and_costs_no_more_looks(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    put_many(&p, 1, 10000);
    pack_run(&p, 1300);
    assert_int_equal(pack_extent(&p, "/d/o0")->stored, 0);
    p.w.now += 100000 * SECOND;
    assert_false(world_work(&p.w));
    pack_end(&p);
}

static void a_file_that_is_being_written_is_not_packed(void **state)
{
    struct pack_world p;
    uint64_t handle;
    pack_begin(&p, 3);
    put_many(&p, 64, 10000);
    assert_int_equal(world_open(&p.w, "/d/o9", O_RDWR, &handle), 0);
    pack_run(&p, 660);
    assert_int_equal(pack_extent(&p, "/d/o9")->stored, 0);
    pack_assert_packed(&p, "/d/o8", 10000, 3);
    assert_int_equal(world_close(&p.w, handle), 0);
    put_many(&p, 1, 10000);
    pack_run(&p, 1300);
    pack_assert_packed(&p, "/d/o9", 10000, 3);
    pack_end(&p);
}

static void a_large_object_is_not_packed(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    put_many(&p, 70, MIB(1) + 1);
    pack_run(&p, 700);
    for (unsigned i = 0; i < 70; i++)
        assert_int_equal(pack_extent(&p, path_of(i))->stored, 0);
    pack_end(&p);
}

/* ------------------------------------------------------------------ compaction */
static void a_container_that_is_half_dead_is_made_anew(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3); /* all hold all: one container */
    put_many(&p, 80, 10000);
    pack_run(&p, 30);
    uint64_t container = pack_extent(&p, "/d/o0")->chunk;
    assert_int_equal(pack_chunk(&p, container).stored, 800000);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(world_unlink(&p.w, "/d", name_of(i), false), 0);
    pack_run(&p, 10);
    assert_int_equal(pack_extent(&p, "/d/o40")->chunk, container); /* half is not less than half */
    assert_int_equal(world_unlink(&p.w, "/d", "o40", false), 0);
    pack_run(&p, 10);
    assert_false(pack_has_chunk(&p, container));
    for (unsigned i = 41; i < 80; i++)
        pack_assert_packed(&p, path_of(i), 10000, 3);
    assert_int_equal(pack_chunk(&p, pack_extent(&p, "/d/o41")->chunk).length, 390000);
    for (unsigned i = 41; i < 79; i++)
        assert_int_equal(world_unlink(&p.w, "/d", name_of(i), false), 0);
    pack_run(&p, 10); /* one is left: alone, but its container was nearly empty */
    pack_assert_packed(&p, "/d/o79", 10000, 3);
    assert_int_equal(pack_chunk(&p, pack_extent(&p, "/d/o79")->chunk).length, 10000);
    assert_int_equal(world_unlink(&p.w, "/d", "o79", false), 0);
    nothing_is_left(&p);
    pack_end(&p);
}

/* The container that is being made, as soon as it has so many copies. */
static struct chunk container_with(struct pack_world *p, unsigned copies)
{
    for (unsigned seconds = 0; seconds < 60; seconds++) {
        for (uint64_t id = 1; id < 400; id++) {
            struct chunk chunk = {0};
            if (pack_has_chunk(p, id))
                chunk = pack_chunk(p, id);
            unsigned n = 0;
            for (unsigned i = 0; i < chunk.n_replicas; i++)
                n += chunk_replica_whole(&chunk.replicas[i]);
            if (chunk.kind == CHUNK_CONTAINER && (chunk.flags & CHUNK_MAKING) && n == copies)
                return chunk;
        }
        pack_run(p, 1);
    }
    fail_msg("no container was made");
    return (struct chunk){0};
}

static void found_damaged(struct pack_world *p, const struct chunk *chunk)
{
    Tarn__Damage damage = TARN__DAMAGE__INIT, *one[] = {&damage};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    damage.disk = m.node = chunk->replicas[0].disk; /* nodes and disks have the same numbers here */
    damage.chunk = chunk->id;
    m.damaged = one;
    m.n_damaged = 1;
    assert_int_equal(world_apply(&p->w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
}

static void nothing_enters_a_container_with_a_damaged_copy(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    put_many(&p, 80, 10000);
    struct chunk container = container_with(&p, 1); /* nobody has a whole copy then: it is given up */
    found_damaged(&p, &container);
    for (unsigned i = 0; i < 10 && world_work(&p.w); i++)
        p.w.now += SECOND;
    assert_int_equal(pack_chunk(&p, container.id).state, TARN__CHUNK_STATE__CHUNK_DELETING);
    world_check(&p.w);
    container = container_with(&p, 3);
    found_damaged(&p, &container);
    for (unsigned i = 0; i < 10 && world_work(&p.w); i++)
        p.w.now += SECOND / 8;
    assert_int_equal(pack_extent(&p, "/d/o0")->stored, 0);
    world_check(&p.w);
    pack_run(&p, 60); /* repaired */
    for (unsigned i = 0; i < 80; i++)
        pack_assert_packed(&p, path_of(i), 10000, 3);
    pack_end(&p);
}

static void pieces_that_die_while_they_are_packed_are_dead_bytes(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    put_many(&p, 80, 10000);
    pack_run(&p, 19);
    while (pack_rows(&p, TABLE_TASK) == 0) { /* until the job is given out */
        p.w.now += SECOND;
        for (unsigned i = 0; i < 10 && world_work(&p.w); i++)
            ;
    }
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(world_unlink(&p.w, "/d", name_of(i), false), 0);
    pack_put(&p, "/d", "o10", 5000); /* replaced */
    pack_run(&p, 10);
    pack_assert_packed(&p, "/d/o11", 10000, 3);
    struct chunk container = pack_chunk(&p, pack_extent(&p, "/d/o11")->chunk);
    assert_int_equal(container.stored, 69 * 10000);
    assert_int_equal(pack_extent(&p, "/d/o10")->stored, 0);
    pack_end(&p);
}

/* ------------------------------------------------------------------ at any doubt */
static void refuse(struct pack_world *p, Tarn__ChunkTaskDone *done, uint32_t node)
{
    Tarn__ChunkTaskDone *one[] = {done};
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    m.node = node;
    m.n_done = 1;
    m.done = one;
    assert_int_equal(world_apply(&p->w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
}

/* The PACK task that is given out: its node. */
static uint32_t the_task(struct pack_world *p, Tarn__NodeBeatReply **ret)
{
    for (unsigned s = 0; s < 30; s++) {
        for (unsigned i = 0; i < 10 && world_work(&p->w); i++)
            ;
        for (uint32_t node = 1; node <= p->nodes; node++) {
            struct kv_txn *txn;
            uint8_t *packed;
            size_t len;
            assert_int_equal(kv_begin(p->w.kv, false, &txn), 0);
            assert_int_equal(fsm_node_tasks(txn, node, 1000, &packed, &len), 0);
            kv_abort(txn);
            *ret = tarn__node_beat_reply__unpack(NULL, len, packed);
            free(packed);
            if ((*ret)->n_tasks > 0 && (*ret)->tasks[0]->kind == TARN__CHUNK_TASK__KIND__PACK)
                return node;
            tarn__node_beat_reply__free_unpacked(*ret, NULL);
        }
        p->w.now += SECOND;
    }
    fail();
    return 0;
}

static void what_a_store_says_is_not_believed_when_it_cannot_be(void **state)
{
    enum { OVERLAP, BEHIND, STRANGER, ORDER, RAW_SHORT, TOO_LONG, FAILED, LIES };
    struct pack_world p;
    pack_begin(&p, 3);
    put_many(&p, 80, 10000);
    pack_run(&p, 5);
    for (unsigned lie = 0; lie < LIES; lie++) {
        Tarn__NodeBeatReply *beat;
        uint32_t node = the_task(&p, &beat);
        Tarn__ChunkTask *task = beat->tasks[0];
        assert_int_equal(task->n_pieces, 80);
        Tarn__ChunkTaskDone done = TARN__CHUNK_TASK_DONE__INIT;
        done.id = task->id;
        done.chunk = task->chunk;
        done.generation = task->generation;
        done.kind = task->kind;
        done.length = 800000;
        done.pieces = task->pieces;
        done.n_pieces = task->n_pieces;
        for (unsigned i = 0; i < 80; i++)
            task->pieces[i]->offset = i * 10000;
        Tarn__Piece *third = task->pieces[3];
        third->offset -= lie == OVERLAP;
        task->pieces[79]->offset += lie == BEHIND;
        third->piece += lie == STRANGER ? 1000 : 0;
        if (lie == ORDER)
            task->pieces[3] = task->pieces[2];
        third->stored -= lie == RAW_SHORT;
        done.length = lie == TOO_LONG ? MIB(64) + 1 : done.length;
        done.status = lie == FAILED ? E_IO : 0;
        refuse(&p, &done, node);
        if (lie == ORDER)
            task->pieces[3] = third;
        tarn__node_beat_reply__free_unpacked(beat, NULL);
        world_check(&p.w);
        for (unsigned i = 0; i < 80; i++)
            assert_int_equal(pack_extent(&p, path_of(i))->stored, 0);
        pack_run(&p, 1); /* what it made there is deleted */
    }
    pack_run(&p, 60);
    pack_assert_packed(&p, "/d/o3", 10000, 3);
    assert_int_equal(world_status(&p.w)->chunks, 1);
    pack_end(&p);
}

static void a_node_that_packs_and_dies_delays_it_only(void **state)
{
    struct pack_world p;
    pack_begin(&p, 4);
    put_many(&p, 80, 10000);
    pack_run(&p, 5);
    Tarn__NodeBeatReply *beat;
    uint32_t node = the_task(&p, &beat);
    tarn__node_beat_reply__free_unpacked(beat, NULL);
    p.down[node] = true;
    world_node_set(&p.w, node, false);
    pack_run(&p, 700);
    for (unsigned i = 0; i < 80; i++)
        pack_assert_packed(&p, path_of(i), 10000, 3);
    p.down[node] = false;
    world_node_set(&p.w, node, true);
    pack_run(&p, 10);
    assert_int_equal(pack_rows(&p, TABLE_TASK), 0);
    pack_end(&p);
}

/* ------------------------------------------------------------------ writers, snapshots */
static void who_writes_into_a_piece_is_told_where_its_bytes_are(void **state)
{
    struct pack_world p;
    uint64_t handle;
    pack_begin(&p, 3);
    put_many(&p, 80, 10000);
    pack_run(&p, 30);
    uint64_t container = pack_extent(&p, "/d/o5")->chunk, at = pack_extent(&p, "/d/o5")->piece_offset;
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(&p.w, "/d/o5", &attr), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = attr->ino;
    m.offset = 100;
    assert_int_equal(world_open(&p.w, "/d/o5", O_RDWR, &handle), 0);
    assert_int_equal(world_apply(&p.w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    const Tarn__ChunkReply *reply = world_reply(&p.w, &tarn__chunk_reply__descriptor);
    assert_int_equal(reply->extent->state, TARN__CHUNK_STATE__CHUNK_OPEN);
    assert_int_equal(reply->extent->n_replicas, 3);
    assert_int_equal(reply->extent->clone_length, 10000);
    assert_non_null(reply->source);
    assert_int_equal(reply->source->chunk, container);
    assert_int_equal(reply->source->piece_offset, at);
    assert_int_equal(reply->source->chunk_offset, at);
    assert_int_equal(reply->source->stored, 10000);
    assert_int_equal(reply->source->n_replicas, 3);
    Tarn__ChunkSwap swap = TARN__CHUNK_SWAP__INIT;
    swap.ino = m.ino;
    swap.old_chunk = reply->extent->clone_of;
    swap.new_chunk = reply->extent->chunk;
    assert_int_equal(world_apply(&p.w, OP_CHUNK_SWAP, &swap.base, &swap.ctx), 0);
    assert_int_equal(pack_chunk(&p, container).stored, 79 * 10000);
    assert_int_equal(world_close(&p.w, handle), 0);
    pack_end(&p);
}

static void a_snapshot_keeps_the_piece(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    put_many(&p, 80, 10000);
    pack_run(&p, 30);
    uint64_t container = pack_extent(&p, "/d/o5")->chunk;
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/d";
    Tarn__SnapshotTake take = TARN__SNAPSHOT_TAKE__INIT;
    take.where = &at;
    take.name = "s";
    assert_int_equal(world_apply(&p.w, OP_SNAPSHOT_TAKE, &take.base, &take.ctx), 0);
    for (unsigned i = 0; i < 80; i++)
        assert_int_equal(world_unlink(&p.w, "/d", name_of(i), false), 0);
    pack_run(&p, 30);
    assert_int_equal(pack_chunk(&p, container).stored, 800000);
    Tarn__SnapshotDrop drop = TARN__SNAPSHOT_DROP__INIT;
    drop.where = &at;
    drop.name = "s";
    assert_int_equal(world_apply(&p.w, OP_SNAPSHOT_DROP, &drop.base, &drop.ctx), 0);
    nothing_is_left(&p);
    pack_end(&p);
}

/* ------------------------------------------------------------------ policies */
static Tarn__Policy compress(uint32_t word)
{
    Tarn__Policy to = TARN__POLICY__INIT;
    to.compress = word;
    return to;
}

static void a_large_chunk_is_compressed_where_its_policy_says_so_and_back(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    pack_put(&p, "/d", "big", MIB(8));
    pack_run(&p, 30);
    assert_int_equal(pack_extent(&p, "/d/big")->stored, 0);
    pack_set_policy(&p, "/d", 32, compress(4));
    pack_run(&p, 60);
    pack_assert_packed(&p, "/d/big", MIB(8), 3);
    assert_int_equal(pack_extent(&p, "/d/big")->form, TARN__CHUNK_FORM__FORM_ZSTD);
    assert_int_equal(pack_chunk(&p, pack_extent(&p, "/d/big")->chunk).length, MIB(4));
    pack_set_policy(&p, "/d", 32, compress(1));
    pack_run(&p, 60);
    pack_assert_packed(&p, "/d/big", MIB(8), 3);
    assert_int_equal(pack_extent(&p, "/d/big")->form, TARN__CHUNK_FORM__FORM_RAW);
    assert_int_equal(world_unlink(&p.w, "/d", "big", false), 0);
    nothing_is_left(&p);
    pack_end(&p);
}

static void what_does_not_get_smaller_is_tried_once(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    p.w.incompressible = true;
    pack_set_policy(&p, "/d", 32, compress(4));
    pack_put(&p, "/d", "big", MIB(8));
    uint64_t chunk = pack_extent(&p, "/d/big")->chunk;
    pack_run(&p, 60);
    assert_int_equal(pack_extent(&p, "/d/big")->chunk, chunk);
    assert_int_equal(pack_chunk(&p, chunk).stored, 3);
    p.w.now += 100000 * SECOND;
    pack_run(&p, 3);
    assert_int_equal(pack_rows(&p, TABLE_PACK), 0);
    p.w.incompressible = false;
    pack_set_policy(&p, "/d", 32, compress(4)); /* the same level: nothing new */
    pack_run(&p, 60);
    assert_int_equal(pack_extent(&p, "/d/big")->chunk, chunk);
    pack_set_policy(&p, "/d", 32, compress(10));
    pack_run(&p, 60);
    pack_assert_packed(&p, "/d/big", MIB(8), 3);
    pack_end(&p);
}

/* Six are looked at at a time, two for each disk: nothing else makes them wait for one another. */
static void many_that_do_not_get_smaller_do_not_delay_each_other(void **state)
{
    struct pack_world p;
    pack_begin(&p, 3);
    p.w.incompressible = true;
    pack_set_policy(&p, "/d", 32, compress(4));
    put_many(&p, 30, MIB(8));
    pack_run(&p, 35); /* cold after 20 s, then five rounds */
    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(pack_chunk(&p, pack_extent(&p, path_of(i))->chunk).stored, 3);
    pack_end(&p);
}

/* ------------------------------------------------------------------ compression and code */
#define CHUNK MIB(64)

static void pack_code(struct pack_world *p, const char *dir, uint32_t k, uint32_t m)
{
    Tarn__Policy to = TARN__POLICY__INIT;
    to.code_k = k;
    to.code_m = m;
    pack_set_policy(p, dir, 16, to);
}

/* Each of the file's chunks is coded, and in `form`; compressed ones are alone in their containers. */
static void assert_coded_as(struct pack_world *p, const char *path, size_t n, uint32_t form)
{
    const Tarn__FileMapReply *map = pack_map(p, path);
    assert_int_equal(map->n_extents, n);
    for (size_t i = 0; i < n; i++) {
        const Tarn__Extent *e = map->extents[i];
        assert_int_equal(e->form, form);
        assert_int_equal(e->n_replicas, 1);
        assert_int_not_equal(e->group, 0);
        if (form == TARN__CHUNK_FORM__FORM_ZSTD)
            assert_int_equal(e->stored, CHUNK / 2);
    }
}

static void all_is_safe(struct pack_world *p)
{
    const Tarn__StatusReply *status = world_status(&p->w);
    assert_int_equal(status->below_target, 0);
    assert_int_equal(status->lost, 0);
    assert_int_equal(status->pending_tasks, 0);
    assert_int_equal(status->coding, 0);
}

static void what_is_compressed_is_coded_afterwards(void **state)
{
    struct pack_world p;
    pack_begin(&p, 6);
    pack_code(&p, "/d", 2, 1);
    pack_set_policy(&p, "/d", 32, compress(4));
    pack_put_chunks(&p, "/d", "big", CHUNK, 4);
    pack_run(&p, 10);
    assert_int_equal(pack_rows(&p, TABLE_GROUP), 0); /* not before */
    pack_run(&p, 200);
    assert_coded_as(&p, "/d/big", 4, TARN__CHUNK_FORM__FORM_ZSTD);
    assert_int_equal(pack_rows(&p, TABLE_GROUP), 2);
    all_is_safe(&p);
    assert_int_equal(world_unlink(&p.w, "/d", "big", false), 0);
    nothing_is_left(&p);
    assert_int_equal(pack_rows(&p, TABLE_GROUP), 0);
    pack_end(&p);
}

static void a_coded_file_is_compressed_when_its_policy_says_so_and_back(void **state)
{
    struct pack_world p;
    pack_begin(&p, 6);
    pack_code(&p, "/d", 2, 1);
    pack_put_chunks(&p, "/d", "big", CHUNK, 4);
    pack_run(&p, 60);
    assert_coded_as(&p, "/d/big", 4, TARN__CHUNK_FORM__FORM_RAW);
    pack_set_policy(&p, "/d", 32, compress(4));
    pack_run(&p, 300);
    assert_coded_as(&p, "/d/big", 4, TARN__CHUNK_FORM__FORM_ZSTD);
    all_is_safe(&p);
    pack_set_policy(&p, "/d", 32, compress(1));
    pack_run(&p, 300);
    assert_coded_as(&p, "/d/big", 4, TARN__CHUNK_FORM__FORM_RAW);
    all_is_safe(&p);
    pack_end(&p);
}

static void a_coded_file_that_does_not_get_smaller_is_coded_again_and_left_alone(void **state)
{
    struct pack_world p;
    pack_begin(&p, 6);
    p.w.incompressible = true;
    pack_code(&p, "/d", 2, 1);
    pack_put_chunks(&p, "/d", "big", CHUNK, 4);
    pack_run(&p, 60);
    pack_set_policy(&p, "/d", 32, compress(4));
    pack_run(&p, 300);
    assert_coded_as(&p, "/d/big", 4, TARN__CHUNK_FORM__FORM_RAW);
    const uint64_t group = pack_map(&p, "/d/big")->extents[0]->group;
    assert_true(group > 2); /* a new one */
    pack_set_policy(&p, "/d", 32, compress(4));
    pack_run(&p, 300);
    assert_int_equal(pack_map(&p, "/d/big")->extents[0]->group, group);
    assert_int_equal(pack_rows(&p, TABLE_PACK), 0);
    all_is_safe(&p);
    pack_end(&p);
}

/* The policy changes while the group is being made: before the stores have answered. */
static void a_group_in_the_making_gives_way_to_compression(void **state)
{
    struct pack_world p;
    pack_begin(&p, 6);
    pack_put_chunks(&p, "/d", "big", CHUNK, 2);
    pack_run(&p, 10);
    pack_code(&p, "/d", 2, 1);
    for (unsigned i = 0; i < 20 && pack_rows(&p, TABLE_GROUP) == 0; i++) {
        for (unsigned k = 0; k < 100 && world_work(&p.w); k++)
            ;
        p.w.now += SECOND;
    }
    assert_int_equal(pack_rows(&p, TABLE_GROUP), 1);
    assert_int_equal(pack_map(&p, "/d/big")->extents[0]->group, 0);
    pack_set_policy(&p, "/d", 32, compress(4));
    pack_run(&p, 300);
    assert_coded_as(&p, "/d/big", 2, TARN__CHUNK_FORM__FORM_ZSTD);
    all_is_safe(&p);
    pack_end(&p);
}

static void a_coded_container_that_is_half_dead_leaves_its_group(void **state)
{
    struct pack_world p;
    pack_begin(&p, 6);
    pack_code(&p, "/d", 2, 1);
    put_many(&p, 64, 60000);
    pack_run(&p, 60);
    for (unsigned i = 64; i < 128; i++)
        pack_put(&p, "/d", name_of(i), 60000);
    pack_run(&p, 60);
    uint64_t before[128], body = pack_extent(&p, "/d/o0")->chunk, group = pack_extent(&p, "/d/o0")->group;
    assert_int_not_equal(group, 0);
    unsigned killed = 0, left = 0;
    for (unsigned i = 0; i < 128; i++)
        before[i] = pack_extent(&p, path_of(i))->chunk;
    for (unsigned i = 0; i < 128; i++) { /* three of four of one container */
        if (before[i] == body && i % 4 != 0) {
            assert_int_equal(world_unlink(&p.w, "/d", name_of(i), false), 0);
            killed++;
        }
        left += before[i] == body && i % 4 == 0;
    }
    assert_true(killed > 2 * left && left > 1);
    pack_run(&p, 300);
    assert_false(pack_has_chunk(&p, body));
    for (unsigned i = 0; i < 128; i += 4)
        assert_int_equal(pack_extent(&p, path_of(i))->length, 60000);
    all_is_safe(&p);
    assert_int_equal(world_status(&p.w)->ghosts, 0); /* the group was made anew without it, or is gone */
    pack_end(&p);
}

static void another_number_of_copies_moves_the_pieces_only(void **state)
{
    struct pack_world p;
    Tarn__Policy two = TARN__POLICY__INIT;
    two.copies = 2;
    pack_begin(&p, 4);
    assert_int_equal(world_make(&p.w, TARN__FILE_TYPE__FT_DIR, "/d", "e", 0755), 0);
    put_many(&p, 80, 10000);
    for (unsigned i = 0; i < 20; i++)
        pack_put(&p, "/d/e", name_of(i), 10000);
    pack_run(&p, 700);
    pack_assert_packed(&p, "/d/e/o3", 10000, 3);
    pack_set_policy(&p, "/d/e", 1, two);
    pack_run(&p, 60);
    pack_assert_packed(&p, "/d/o3", 10000, 3);
    pack_assert_packed(&p, "/d/e/o3", 10000, 2);
    for (unsigned i = 0; i < 20; i++)
        assert_true(pack_extent(&p, "/d/e/o3")->chunk != pack_extent(&p, path_of(i))->chunk);
    pack_end(&p);
}

/* ------------------------------------------------------------------ the choice */
static void map_of(struct placement_disk *disks, size_t n, struct placement_map *ret)
{
    for (size_t i = 0; i < n; i++)
        disks[i] = (struct placement_disk){.id = (uint32_t)i + 1, .node = (uint32_t)i + 1, .rack = i, .total = 1ull << 40,
                                           .free = 1ull << 39, .used = 1ull << 39, .up = true};
    assert_int_equal(placement_map_init(ret, disks, n), 0);
}

static void pieces_are_packed_where_most_of_them_are(void **state)
{
    struct placement_disk disks[4];
    struct placement_map map;
    struct pack_item items[200];
    static struct pack_plan plan;
    uint64_t now = 1000 * SECOND;
    map_of(disks, 4, &map);
    for (unsigned i = 0; i < 200; i++)
        items[i] = (struct pack_item){.since_ns = now - 30 * SECOND, .bytes = 1000, .n = 1, .disks = {i % 3 == 0 ? 2 : 3}};
    assert_int_equal(pack_plan(items, 200, MIB(64), &map, now, &plan), 0);
    assert_int_equal(plan.disk, 3);
    assert_int_equal(plan.n, 133); /* nothing is moved that need not be */
    disks[2].busy = true;
    assert_int_equal(pack_plan(items, 200, MIB(64), &map, now, &plan), 0);
    assert_int_equal(plan.disk, 2);
    assert_int_equal(plan.n, 67);
    disks[1].busy = true;
    assert_int_equal(pack_plan(items, 200, MIB(64), &map, now, &plan), 0);
    assert_int_equal(plan.n, 0);
    assert_true(plan.crowded);
    disks[1].busy = disks[2].busy = false;
    assert_int_equal(pack_plan(items, 200, 50000, &map, now, &plan), 0);
    assert_int_equal(plan.n, 50); /* a container has an end */
    for (unsigned i = 0; i < 200; i++)
        items[i].since_ns = now - 10 * SECOND;
    assert_int_equal(pack_plan(items, 200, MIB(64), &map, now, &plan), 0);
    assert_int_equal(plan.n, 0);
    assert_int_equal(plan.again_ns, now + 10 * SECOND);
    placement_map_fini(&map);
}

static void a_full_disk_gets_no_container(void **state)
{
    struct placement_disk disks[2];
    struct placement_map map;
    struct pack_item item = {.since_ns = 0, .bytes = MIB(8), .alone = true, .n = 2, .disks = {1, 2}};
    static struct pack_plan plan;
    map_of(disks, 2, &map);
    disks[0].free = MIB(100);
    assert_int_equal(pack_plan(&item, 1, MIB(64), &map, SECOND, &plan), 0);
    assert_int_equal(plan.n, 1);
    assert_int_equal(plan.disk, 2);
    disks[1].free = MIB(100);
    assert_int_equal(pack_plan(&item, 1, MIB(64), &map, SECOND, &plan), 0);
    assert_int_equal(plan.n, 0);
    assert_true(plan.crowded);
    placement_map_fini(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(small_objects_share_a_container_when_they_are_cold),
        cmocka_unit_test(one_small_object_alone_stays_as_it_is_and_costs_no_more_looks),
        cmocka_unit_test(a_file_that_is_being_written_is_not_packed),
        cmocka_unit_test(a_large_object_is_not_packed),
        cmocka_unit_test(a_container_that_is_half_dead_is_made_anew),
        cmocka_unit_test(nothing_enters_a_container_with_a_damaged_copy),
        cmocka_unit_test(pieces_that_die_while_they_are_packed_are_dead_bytes),
        cmocka_unit_test(what_a_store_says_is_not_believed_when_it_cannot_be),
        cmocka_unit_test(a_node_that_packs_and_dies_delays_it_only),
        cmocka_unit_test(who_writes_into_a_piece_is_told_where_its_bytes_are),
        cmocka_unit_test(a_snapshot_keeps_the_piece),
        cmocka_unit_test(a_large_chunk_is_compressed_where_its_policy_says_so_and_back),
        cmocka_unit_test(what_does_not_get_smaller_is_tried_once),
        cmocka_unit_test(many_that_do_not_get_smaller_do_not_delay_each_other),
        cmocka_unit_test(what_is_compressed_is_coded_afterwards),
        cmocka_unit_test(a_coded_file_is_compressed_when_its_policy_says_so_and_back),
        cmocka_unit_test(a_coded_file_that_does_not_get_smaller_is_coded_again_and_left_alone),
        cmocka_unit_test(a_group_in_the_making_gives_way_to_compression),
        cmocka_unit_test(a_coded_container_that_is_half_dead_leaves_its_group),
        cmocka_unit_test(another_number_of_copies_moves_the_pieces_only),
        cmocka_unit_test(pieces_are_packed_where_most_of_them_are),
        cmocka_unit_test(a_full_disk_gets_no_container),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
