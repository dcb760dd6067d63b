/* What was put behind a file's end and is not of the file: it goes before anybody can see it, and nobody's
 * acknowledged bytes go with it. C23-C25 of docs/invariants.md. */
#include <fcntl.h>

#include "world.h"

#define F 3 /* inode of /f */
#define MIB64 (64ull << 20)
#define GROW TARN__SET_ATTR_BITS__SA_GROW
#define SIZE TARN__SET_ATTR_BITS__SA_SIZE
#define CUT TARN__SET_ATTR_BITS__SA_CUT_TAIL

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(world_node(&w, (char[]){(char)('a' + i), 0}, "r1"), i + 1);
    return world_make(&w, TARN__FILE_TYPE__FT_FILE, "/", "f", 0644);
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

/* Everything that follows is asked by this session. */
static void become(struct world *w, uint64_t session)
{
    w->session = session;
    w->seq += 100;
}

static uint64_t open_as(struct world *w, uint64_t session)
{
    uint64_t handle = 0;
    become(w, session);
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    return handle;
}

static uint64_t chunk_at(struct world *w, uint64_t offset)
{
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = F;
    m.offset = offset;
    m.writer_node = 1;
    assert_int_equal(world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    return ((Tarn__ChunkReply *)world_reply(w, &tarn__chunk_reply__descriptor))->extent->chunk;
}

/* chunk 0: none is named. */
static int set(struct world *w, uint32_t mask, uint64_t size, uint64_t chunk, uint64_t end)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = F;
    Tarn__WrittenTo to = TARN__WRITTEN_TO__INIT, *written[] = {&to};
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &at;
    m.mask = mask;
    m.size = size;
    to.chunk = chunk;
    to.end = end;
    m.written = written;
    m.n_written = chunk != 0;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

static Tarn__FileMapReply *map(struct world *w)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = F;
    Tarn__FileMap m = TARN__FILE_MAP__INIT;
    m.where = &at;
    assert_int_equal(world_query(w, OP_FILE_MAP, &m.base, &m.ctx), 0);
    return world_reply(w, &tarn__file_map_reply__descriptor);
}

static void expect_extent(struct world *w, uint64_t chunk, uint64_t length, Tarn__ChunkState state)
{
    Tarn__FileMapReply *reply = map(w);
    assert_true(reply->n_extents > 0);
    assert_int_equal(reply->extents[0]->chunk, chunk);
    assert_int_equal(reply->extents[0]->length, length);
    assert_int_equal(reply->extents[0]->state, state);
}

#define OPEN TARN__CHUNK_STATE__CHUNK_OPEN
#define SEALED TARN__CHUNK_STATE__CHUNK_SEALED

static int end(struct world *w, uint64_t session, Tarn__EndStage stage, bool seal)
{
    Tarn__SessionEnd m = TARN__SESSION_END__INIT;
    m.session = session;
    m.stage = stage;
    m.seal = seal;
    return world_apply(w, OP_SESSION_END, &m.base, NULL);
}

static void growing_names_the_chunk_that_was_written(void **state)
{
    struct world *w = *state;
    open_as(w, w->session);
    uint64_t chunk = chunk_at(w, 0);
    assert_int_equal(set(w, GROW, 100, chunk + 1, 100), -E_STALE);
    assert_int_equal(set(w, GROW, 100, chunk, 0), -E_INVAL);
    assert_int_equal(set(w, GROW, MIB64 + 1, chunk, MIB64 + 1), -E_STALE);
    assert_int_equal(map(w)->attr->size, 0);
    assert_int_equal(set(w, GROW, 100, chunk, 100), 0);
    assert_int_equal(map(w)->attr->size, 100);
    expect_extent(w, chunk, MIB64, OPEN);
}

static void a_change_of_the_size_names_a_bounded_number(void **state)
{
    struct world *w = *state;
    open_as(w, w->session);
    uint64_t chunk = chunk_at(w, 0);
    Tarn__WrittenTo to = TARN__WRITTEN_TO__INIT, *written[257];
    to.chunk = chunk;
    to.end = 10;
    for (unsigned i = 0; i < 257; i++)
        written[i] = &to;
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = F;
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &at;
    m.mask = GROW;
    m.size = 10;
    m.written = written;
    m.n_written = 257;
    assert_int_equal(world_apply(w, OP_SETATTR, &m.base, &m.ctx), -E_INVAL);
    m.n_written = 256;
    assert_int_equal(world_apply(w, OP_SETATTR, &m.base, &m.ctx), 0);
}

/* Two writers; the first session's end cuts what the second has put behind the end and not told yet. */
static void ending_cuts(struct world *w, bool fenced)
{
    uint64_t first = w->session, second = world_session(w, "second");
    open_as(w, first);
    uint64_t chunk = chunk_at(w, 0);
    assert_int_equal(set(w, GROW, 100, chunk, 100), 0);
    open_as(w, second);
    assert_int_equal(chunk_at(w, 200), chunk);
    if (fenced) {
        assert_int_equal(end(w, first, TARN__END_STAGE__END_FENCE, false), 0);
        expect_extent(w, chunk, MIB64, OPEN);
        assert_int_equal(end(w, first, TARN__END_STAGE__END_RELEASE, false), 0);
    } else {
        assert_int_equal(end(w, first, TARN__END_STAGE__END_WHOLE, true), 0);
    }
    expect_extent(w, chunk, 100, SEALED);
    assert_int_equal(set(w, GROW, 300, chunk, 300), -E_STALE);
    assert_int_equal(set(w, GROW, 300, chunk, 100), 0); /* what the seal kept is there */
    assert_int_equal(set(w, GROW, 400, chunk, 101), -E_STALE);
}

static void a_released_writer_leaves_nothing_behind_the_end(void **state)
{
    ending_cuts(*state, true);
}

static void a_writer_that_ends_itself_leaves_nothing_behind_the_end(void **state)
{
    ending_cuts(*state, false);
}

static void a_failed_write_is_cut_at_the_end(void **state)
{
    struct world *w = *state;
    open_as(w, w->session);
    uint64_t first = chunk_at(w, 0), behind = chunk_at(w, 3 * MIB64);
    assert_int_equal(set(w, GROW, 100, first, 100), 0);
    uint64_t version = map(w)->attr->version;
    assert_int_equal(set(w, CUT, 7, 0, 0), 0); /* the size does not count */
    assert_int_equal(map(w)->attr->size, 100);
    assert_true(map(w)->attr->version > version);
    assert_int_equal(map(w)->n_extents, 1);
    expect_extent(w, first, 100, SEALED);
    assert_int_equal(set(w, GROW, 4 * MIB64, behind, 3 * MIB64 + 1), -E_STALE);
    assert_int_equal(set(w, CUT, 0, 0, 0), 0); /* again: nothing is there */
    expect_extent(w, first, 100, SEALED);
}

static void only_who_may_write_cuts(void **state)
{
    struct world *w = *state;
    uint64_t handle = open_as(w, w->session);
    chunk_at(w, 0);
    w->uid = 77;
    assert_int_equal(set(w, CUT, 0, 0, 0), -E_ACCES);
    w->uid = 0;
    assert_int_equal(world_close(w, handle), 0);
}

static void a_shorter_file_ends_its_open_chunk_there(void **state)
{
    struct world *w = *state;
    open_as(w, w->session);
    uint64_t chunk = chunk_at(w, 0);
    assert_int_equal(set(w, GROW, 1000, chunk, 1000), 0);
    assert_int_equal(set(w, SIZE | CUT, 1000, 0, 0), 0);
    expect_extent(w, chunk, MIB64, OPEN);
    assert_int_equal(set(w, SIZE | CUT, 400, 0, 0), 0);
    expect_extent(w, chunk, 400, SEALED);
    assert_int_equal(set(w, SIZE | CUT, 900, 0, 0), 0);
    expect_extent(w, chunk, 400, SEALED);
}

static void a_longer_file_ends_its_open_chunk_at_the_old_end_beside_others(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, second = world_session(w, "second");
    open_as(w, first);
    uint64_t chunk = chunk_at(w, 0);
    assert_int_equal(set(w, GROW, 100, chunk, 100), 0);
    assert_int_equal(set(w, SIZE | CUT, 200, 0, 0), 0); /* nobody else could have left anything */
    assert_int_equal(set(w, GROW | CUT, 300, 0, 0), 0);
    expect_extent(w, chunk, MIB64, OPEN);
    open_as(w, second);
    assert_int_equal(set(w, GROW | CUT, 250, 0, 0), 0); /* it is that long */
    expect_extent(w, chunk, MIB64, OPEN);
    assert_int_equal(set(w, SIZE | CUT, 500, 0, 0), 0);
    expect_extent(w, chunk, 300, SEALED);
    become(w, first);
    assert_int_equal(set(w, GROW, 400, chunk, 400), -E_STALE);
    uint64_t next = chunk_at(w, 1000);
    assert_int_equal(set(w, GROW, 1001, next, 1001), -E_STALE); /* a clone that is not in its place */
}

static void fallocate_beside_others_cuts_too(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, second = world_session(w, "second");
    open_as(w, first);
    uint64_t chunk = chunk_at(w, 0);
    open_as(w, second);
    assert_int_equal(set(w, GROW, 100, chunk, 100), 0);
    assert_int_equal(set(w, GROW | CUT, 5000, 0, 0), 0);
    expect_extent(w, chunk, 100, SEALED);
    assert_int_equal(map(w)->attr->size, 5000);
}

/* A snapshot seals what the writers have put; it counts until the last writer's close, or a cut. */
static void a_snapshot_keeps_what_is_behind_the_end_until_a_cut(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, second = world_session(w, "second");
    open_as(w, second);
    open_as(w, first);
    uint64_t chunk = chunk_at(w, 0);
    assert_int_equal(set(w, GROW, 100, chunk, 100), 0);
    Tarn__Where root = TARN__WHERE__INIT;
    root.ino = 1;
    Tarn__SnapshotTake take = TARN__SNAPSHOT_TAKE__INIT;
    take.where = &root;
    take.name = "s";
    assert_int_equal(world_apply(w, OP_SNAPSHOT_TAKE, &take.base, &take.ctx), 0);
    expect_extent(w, chunk, MIB64, SEALED);
    assert_int_equal(set(w, GROW, 200, chunk, 200), 0);
    assert_int_equal(end(w, second, TARN__END_STAGE__END_FENCE, false), 0);
    assert_int_equal(end(w, second, TARN__END_STAGE__END_RELEASE, false), 0);
    expect_extent(w, chunk, 200, SEALED);
    assert_int_equal(set(w, GROW, 300, chunk, 300), -E_STALE);
}

static void a_batch_cuts_nothing(void **state)
{
    struct world *w = *state;
    open_as(w, w->session);
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = F;
    Tarn__SetAttr change = TARN__SET_ATTR__INIT;
    change.where = &at;
    change.mask = CUT;
    Tarn__BatchItem item = TARN__BATCH_ITEM__INIT, *items[] = {&item};
    item.set_attr = &change;
    Tarn__Batch m = TARN__BATCH__INIT;
    m.items = items;
    m.n_items = 1;
    assert_int_equal(world_apply(w, OP_BATCH, &m.base, &m.ctx), -E_INVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(growing_names_the_chunk_that_was_written, setup, teardown),
        cmocka_unit_test_setup_teardown(a_change_of_the_size_names_a_bounded_number, setup, teardown),
        cmocka_unit_test_setup_teardown(a_released_writer_leaves_nothing_behind_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(a_writer_that_ends_itself_leaves_nothing_behind_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failed_write_is_cut_at_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(only_who_may_write_cuts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_shorter_file_ends_its_open_chunk_there, setup, teardown),
        cmocka_unit_test_setup_teardown(a_longer_file_ends_its_open_chunk_at_the_old_end_beside_others, setup, teardown),
        cmocka_unit_test_setup_teardown(fallocate_beside_others_cuts_too, setup, teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_keeps_what_is_behind_the_end_until_a_cut, setup, teardown),
        cmocka_unit_test_setup_teardown(a_batch_cuts_nothing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
