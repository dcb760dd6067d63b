/* Chunks: allocation, swaps, seals, copies, deletes, healing; C1-C12 of docs/invariants.md. */
#include <fcntl.h>

#include "metadata/tables.h"
#include "world.h"

#define FILE_ TARN__FILE_TYPE__FT_FILE
#define MIB64 (64ull << 20)

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(world_node(&w, (char[]){(char)('a' + i), 0}, i % 2 == 0 ? "r1" : "r2"),
                         i + 1);
    assert_int_equal(world_make(&w, FILE_, "/", "f", 0644), 0);
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static uint64_t ino_of(struct world *w, const char *path)
{
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(w, path, &attr), 0);
    return attr->ino;
}

static int chunk_write(struct world *w, uint64_t ino, uint64_t offset, Tarn__ChunkReply **ret)
{
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = ino;
    m.offset = offset;
    m.writer_node = 2;
    int err = world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx);
    if (err == 0)
        *ret = world_reply(w, &tarn__chunk_reply__descriptor);
    return err;
}

static int chunk_swap(struct world *w, uint64_t ino, uint64_t offset, uint64_t old, uint64_t new)
{
    Tarn__ChunkSwap m = TARN__CHUNK_SWAP__INIT;
    m.ino = ino;
    m.offset = offset;
    m.old_chunk = old;
    m.new_chunk = new;
    return world_apply(w, OP_CHUNK_SWAP, &m.base, &m.ctx);
}

static int set_size(struct world *w, uint64_t ino, uint32_t mask, uint64_t size)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = ino;
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &at;
    m.mask = mask;
    m.size = size;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

static int grow(struct world *w, uint64_t ino, uint64_t size)
{
    return set_size(w, ino, TARN__SET_ATTR_BITS__SA_GROW, size);
}

static Tarn__FileMapReply *map(struct world *w, uint64_t ino)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = ino;
    Tarn__FileMap m = TARN__FILE_MAP__INIT;
    m.where = &at;
    assert_int_equal(world_query(w, OP_FILE_MAP, &m.base, &m.ctx), 0);
    return world_reply(w, &tarn__file_map_reply__descriptor);
}

static void do_all_tasks(struct world *w)
{
    unsigned done = 1;
    for (unsigned round = 0; round < 10 && done > 0; round++) {
        done = 0;
        for (uint32_t node = 1; node <= 5; node++)
            done += world_do_tasks(w, node, 77, 100);
    }
}

/* A sealed file of 100 bytes with one chunk on three nodes; its id. */
static uint64_t sealed_file(struct world *w, uint64_t ino)
{
    uint64_t handle = 0, chunk;
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 0, &reply), 0);
    chunk = reply->extent->chunk;
    assert_int_equal(grow(w, ino, 100), 0);
    assert_int_equal(world_close(w, handle), 0);
    do_all_tasks(w);
    return chunk;
}

static void writing_needs_an_open_file(void **state)
{
    struct world *w = *state;
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(chunk_write(w, ino_of(w, "/f"), 0, &reply), -E_BADF);
}

static void writers_of_a_slot_share_its_chunk(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, MIB64 + 5, &reply), 0);
    uint64_t chunk = reply->extent->chunk;
    assert_int_equal(reply->extent->offset, MIB64);
    assert_int_equal(reply->extent->length, MIB64);
    assert_int_equal(reply->extent->n_replicas, 3);
    assert_int_equal(reply->extent->replicas[0]->node, 2);
    assert_int_equal(chunk_write(w, ino, 2 * MIB64 - 1, &reply), 0);
    assert_int_equal(reply->extent->chunk, chunk);
}

static void the_last_writers_close_seals(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    uint64_t chunk = sealed_file(w, ino);
    Tarn__FileMapReply *reply = map(w, ino);
    assert_int_equal(reply->n_extents, 1);
    assert_int_equal(reply->extents[0]->chunk, chunk);
    assert_int_equal(reply->extents[0]->state, TARN__CHUNK_STATE__CHUNK_SEALED);
    assert_int_equal(reply->extents[0]->length, 100);
    assert_int_equal(reply->extents[0]->generation, 2);
}

static void a_sealed_chunk_is_written_through_a_clone(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    uint64_t old = sealed_file(w, ino);
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 10, &reply), 0);
    assert_int_equal(reply->extent->clone_of, old);
    assert_int_equal(reply->extent->clone_length, 100);
    uint64_t first = reply->extent->chunk;
    assert_int_equal(chunk_write(w, ino, 200, &reply),
                     0); /* behind a short end: the same clone grows */
    uint64_t second = reply->extent->chunk;
    assert_true(first != second);
    assert_int_equal(reply->extent->clone_of, old);
    assert_int_equal(chunk_swap(w, ino, 0, old, first), 0);
    assert_int_equal(chunk_swap(w, ino, 0, old, second), -E_CONFLICT);
    assert_int_equal(chunk_swap(w, ino, 0, old, second), -E_CONFLICT);
    assert_int_equal(map(w, ino)->extents[0]->chunk, first);
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, 1);
}

static void inline_bytes_move_into_a_chunk(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0;
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_object(w, "/", "o", "hello"), 0);
    uint64_t ino = ino_of(w, "/o");
    assert_int_equal(world_open(w, "/o", O_WRONLY, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 3, &reply), 0);
    assert_int_equal(reply->inline_data.len, 5);
    uint64_t chunk = reply->extent->chunk;
    assert_true(map(w, ino)->inline_data);
    assert_int_equal(chunk_swap(w, ino, 0, 0, chunk), 0);
    assert_false(map(w, ino)->inline_data);
    assert_int_equal(map(w, ino)->extents[0]->chunk, chunk);
}

/* C13 */
static void a_new_chunk_in_the_map_is_a_new_version(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    uint64_t old = sealed_file(w, ino);
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    uint64_t version = map(w, ino)->attr->version;
    assert_int_equal(chunk_write(w, ino, 10, &reply), 0);
    assert_int_equal(reply->version, 0); /* a clone in the making is not in the map */
    uint64_t clone = reply->extent->chunk;
    assert_int_equal(map(w, ino)->attr->version, version);
    assert_int_equal(chunk_swap(w, ino, 0, old, clone), 0);
    assert_int_equal(map(w, ino)->attr->version, version + 1);
    assert_int_equal(chunk_write(w, ino, MIB64, &reply), 0);
    assert_int_equal(reply->version, version + 2);
    assert_int_equal(chunk_write(w, ino, MIB64, &reply), 0);
    assert_int_equal(reply->version, 0); /* it was there before */
}

static void a_map_that_is_known_is_not_told_again(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    sealed_file(w, ino);
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = ino;
    Tarn__FileMap m = TARN__FILE_MAP__INIT;
    m.where = &at;
    m.have_version = map(w, ino)->attr->version;
    assert_int_equal(world_query(w, OP_FILE_MAP, &m.base, &m.ctx), 0);
    Tarn__FileMapReply *reply = world_reply(w, &tarn__file_map_reply__descriptor);
    assert_true(reply->same && reply->attr == NULL && reply->n_extents == 0);
    assert_int_equal(grow(w, ino, 1000), 0);
    assert_int_equal(world_query(w, OP_FILE_MAP, &m.base, &m.ctx), 0);
    reply = world_reply(w, &tarn__file_map_reply__descriptor);
    assert_true(!reply->same && reply->n_extents == 1);
}

/* C14 */
static int failed(struct world *w, uint64_t chunk, uint64_t generation, uint32_t disk)
{
    Tarn__ChunkFailed m = TARN__CHUNK_FAILED__INIT;
    m.chunk = chunk;
    m.generation = generation;
    m.disk = disk;
    return world_apply(w, OP_CHUNK_FAILED, &m.base, &m.ctx);
}

static void a_failed_member_leaves_under_a_new_generation(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 0, &reply), 0);
    uint64_t chunk = reply->extent->chunk;
    uint32_t disks[3];
    for (unsigned i = 0; i < 3; i++)
        disks[i] = reply->extent->replicas[i]->disk;
    assert_int_equal(failed(w, chunk, 1, disks[0]), 0);
    reply = world_reply(w, &tarn__chunk_reply__descriptor);
    assert_int_equal(reply->extent->generation, 2);
    assert_int_equal(reply->extent->n_replicas, 2);
    assert_int_equal(failed(w, chunk, 1, disks[1]), 0); /* an old map: nothing happens */
    reply = world_reply(w, &tarn__chunk_reply__descriptor);
    assert_int_equal(reply->extent->generation, 2);
    assert_int_equal(failed(w, chunk, 2, disks[1]), 0);
    assert_int_equal(failed(w, chunk, 3, disks[2]), -E_UNAVAIL);
}

/* ------------------------------------------------------------------ what a member leaves (C26) */
/* A file with an open chunk that `*ret_left` has left; its node is not up any more when `down`. The file is closed, and the
 * others have answered the seal. Returns the chunk. */
static uint64_t left_by_a_member(struct world *w, uint64_t ino, bool down, uint32_t *ret_left)
{
    uint64_t handle = 0;
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 0, &reply), 0);
    uint64_t chunk = reply->extent->chunk;
    *ret_left = reply->extent->replicas[0]->disk;
    if (down)
        world_node_set(w, *ret_left, false);
    assert_int_equal(failed(w, chunk, 1, *ret_left), 0);
    if (!down)
        assert_int_equal(world_do_tasks(w, *ret_left, 77, 100), 1); /* ASIDE */
    while (world_work(w))
        ;
    assert_int_equal(world_status(w)->pending_tasks, down ? 1 : 0); /* while it is open nothing is deleted */
    assert_int_equal(grow(w, ino, 100), 0);
    assert_int_equal(world_close(w, handle), 0);
    for (uint32_t node = 1; node <= 5; node++)
        if (node != *ret_left || !down)
            (void)world_do_tasks(w, node, 77, 100);
    assert_int_equal(world_status(w)->below_target, 1);
    return chunk;
}

static bool is_replica(struct world *w, uint64_t ino, uint32_t disk)
{
    const Tarn__Extent *extent = map(w, ino)->extents[0];
    for (size_t i = 0; i < extent->n_replicas; i++)
        if (extent->replicas[i]->disk == disk)
            return true;
    return false;
}

static void a_member_that_left_is_brought_up_to_date(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    uint32_t left;
    (void)left_by_a_member(w, ino, false, &left);
    assert_false(is_replica(w, ino, left));
    for (unsigned i = 0; i < 5 && world_status(w)->pending_tasks == 0; i++, w->now += 1000000000ull)
        (void)world_work(w);
    assert_int_equal(world_do_tasks(w, left, 77, 100), 1); /* COPY, to it and no other */
    assert_int_equal(world_status(w)->pending_tasks, 0);
    assert_true(is_replica(w, ino, left));
    assert_int_equal(world_status(w)->by_copies[3], 1);
}

static void a_member_that_left_is_waited_for(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    uint32_t left;
    (void)left_by_a_member(w, ino, true, &left);
    for (unsigned i = 0; i < 10; i++, w->now += 1000000000ull)
        (void)world_work(w);
    assert_int_equal(world_status(w)->pending_tasks, 1); /* its ASIDE */
    world_node_set(w, left, true);
    do_all_tasks(w);
    for (unsigned i = 0; i < 10 && world_work(w); i++)
        w->now += 1000000000ull;
    do_all_tasks(w);
    assert_true(is_replica(w, ino, left));
    assert_int_equal(world_status(w)->by_copies[3], 1);
}

static void a_member_that_left_and_stays_away_is_replaced(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    uint32_t left;
    (void)left_by_a_member(w, ino, true, &left);
    w->now += 31000000000ull;
    for (unsigned i = 0; i < 20; i++, w->now += 1000000000ull) {
        (void)world_work(w);
        for (uint32_t node = 1; node <= 5; node++)
            if (node != left)
                (void)world_do_tasks(w, node, 77, 100);
    }
    assert_int_equal(world_status(w)->by_copies[3], 1);
    assert_false(is_replica(w, ino, left));
    assert_int_equal(world_status(w)->pending_tasks, 2); /* ASIDE and DELETE wait for it */
    world_node_set(w, left, true);
    do_all_tasks(w);
    assert_int_equal(world_status(w)->pending_tasks, 0);
    assert_int_equal(world_status(w)->by_copies[3], 1);
}

static void what_a_member_left_goes_with_its_chunk(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    uint32_t left;
    uint64_t chunk = left_by_a_member(w, ino, false, &left), before = world_status(w)->chunks;
    struct key key = key_1(TABLE_CHUNK, chunk);
    struct kv_txn *txn;
    struct kv_val value;
    assert_int_equal(set_size(w, ino, TARN__SET_ATTR_BITS__SA_SIZE, 0), 0);
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, before - 1);
    assert_int_equal(world_status(w)->pending_tasks, 0);
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(kv_get(txn, key.data, key.len, &value), -E_NOENT); /* the row, too: all four have answered */
    kv_abort(txn);
}

static void truncation_gives_chunks_back(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(chunk_write(w, ino, i * MIB64, &reply), 0);
    assert_int_equal(grow(w, ino, 3 * MIB64), 0);
    assert_int_equal(set_size(w, ino, TARN__SET_ATTR_BITS__SA_SIZE, MIB64 + 1), 0);
    assert_int_equal(map(w, ino)->n_extents, 2);
    assert_int_equal(world_close(w, handle), 0);
    assert_int_equal(map(w, ino)->extents[1]->length, 1);
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, 2);
    assert_int_equal(world_open(w, "/f", O_RDWR | O_TRUNC, &handle), 0);
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, 0);
    assert_int_equal(world_status(w)->pending_tasks, 0);
}

/* An upload of two chunks; its id. */
static uint64_t upload(struct world *w)
{
    Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
    for (m.index = 0; m.index < 2; m.index++) {
        assert_int_equal(world_apply(w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
        m.upload = ((Tarn__UploadChunkReply *)world_reply(w, &tarn__upload_chunk_reply__descriptor))
                       ->upload;
    }
    return m.upload;
}

static int commit(struct world *w, uint64_t id, const char *path, uint64_t *lengths, size_t n)
{
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    part.upload = id;
    part.lengths = lengths;
    part.n_lengths = n;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.path = (char *)path;
    object.n_parts = 1;
    object.parts = parts;
    Tarn__ObjectCommit m = TARN__OBJECT_COMMIT__INIT;
    m.object = &object;
    return world_apply(w, OP_OBJECT_COMMIT, &m.base, &m.ctx);
}

static void an_upload_appears_as_a_whole(void **state)
{
    struct world *w = *state;
    uint64_t lengths[] = {MIB64, 10};
    uint64_t id = upload(w);
    assert_int_equal(world_status(w)->chunks, 2);
    assert_int_equal(commit(w, id, "b/o", lengths, 2), 0);
    assert_int_equal(commit(w, id, "b/p", lengths, 2), -E_NOENT);
    Tarn__FileMapReply *reply = map(w, ino_of(w, "/b/o"));
    assert_int_equal(reply->attr->size, MIB64 + 10);
    assert_int_equal(reply->n_extents, 2);
    assert_int_equal(reply->extents[1]->offset, MIB64);
    id = upload(w);
    assert_int_equal(commit(w, id, "b/o", lengths, 1), 0); /* replaces; the chunk not named goes */
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, 1);
}

static void an_object_takes_over_the_bytes_of_files(void **state)
{
    struct world *w = *state;
    uint64_t one[] = {10}, two[] = {MIB64, 5};
    assert_int_equal(commit(w, upload(w), "p/1", one, 1), 0);
    assert_int_equal(commit(w, upload(w), "p/2", two, 2), 0);
    Tarn__Where a = TARN__WHERE__INIT, b = TARN__WHERE__INIT, *from[] = {&a, &b};
    a.path = "p/1";
    b.path = "p/1";
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.path = "p/1"; /* takes the name of one of them */
    object.from = from;
    object.n_from = 2;
    Tarn__ObjectCommit m = TARN__OBJECT_COMMIT__INIT;
    m.object = &object;
    assert_int_equal(world_apply(w, OP_OBJECT_COMMIT, &m.base, &m.ctx), -E_INVAL);
    b.path = "p/2";
    assert_int_equal(world_apply(w, OP_OBJECT_COMMIT, &m.base, &m.ctx), 0);
    assert_int_equal(world_lookup(w, "/p/2", NULL), -E_NOENT);
    Tarn__FileMapReply *reply = map(w, ino_of(w, "/p/1"));
    assert_int_equal(reply->attr->size, MIB64 + 15);
    assert_int_equal(reply->n_extents, 3);
    assert_int_equal(reply->extents[2]->offset, MIB64 + 10);
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, 3);
}

static void the_end_of_a_session_cleans_up(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f"), mine = w->session;
    Tarn__ChunkReply *reply = NULL;
    (void)upload(w);
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 0, &reply), 0);
    assert_int_equal(grow(w, ino, 100), 0);
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    Tarn__SessionEnd m = TARN__SESSION_END__INIT;
    m.session = mine;
    m.expired = true;
    assert_int_equal(world_apply(w, OP_SESSION_END, &m.base, NULL), 0);
    assert_int_equal(world_apply(w, OP_SESSION_END, &m.base, NULL), 0);
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, 0);
    assert_int_equal(world_status(w)->files, 0);
    assert_int_equal(world_status(w)->sessions, 0);
    assert_int_equal(grow(w, ino, 200), -E_NO_SESSION);
}

static void a_member_that_differs_is_copied_again(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 0, &reply), 0);
    uint32_t odd = reply->extent->replicas[1]->disk;
    assert_int_equal(grow(w, ino, 100), 0);
    assert_int_equal(world_close(w, handle), 0);
    (void)world_do_tasks(w, odd, 66, 100);
    for (uint32_t node = 1; node <= 5; node++)
        if (node != odd)
            (void)world_do_tasks(w, node, 77, 100);
    assert_int_equal(world_status(w)->by_copies[2], 1);
    do_all_tasks(w);
    assert_true(world_work(w));
    do_all_tasks(w);
    assert_int_equal(world_status(w)->by_copies[3], 1);
    assert_int_equal(world_status(w)->below_target, 0);
}

/* C15. Length 0 stands for "there is no such chunk here" in the answers below. */
static void a_chunk_that_was_never_written_becomes_empty(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 0, &reply), 0);
    uint32_t members[3];
    for (unsigned i = 0; i < 3; i++)
        members[i] = reply->extent->replicas[i]->disk;
    assert_int_equal(grow(w, ino, 100), 0);
    assert_int_equal(world_close(w, handle), 0);
    (void)world_do_tasks(w, members[0], 0, 0);
    (void)world_do_tasks(w, members[1], 0, 0);
    assert_int_equal(map(w, ino)->extents[0]->chunk_length, 100); /* the third may have it */
    (void)world_do_tasks(w, members[2], 0, 0);
    assert_int_equal(map(w, ino)->extents[0]->chunk_length, 0);
    assert_int_equal(map(w, ino)->extents[0]->generation, 3);
    assert_int_equal(world_status(w)->pending_tasks, 3);
    for (unsigned i = 0; i < 3; i++)
        (void)world_do_tasks(w, members[i], 0, 0);
    assert_int_equal(world_status(w)->pending_tasks, 0);
    assert_int_equal(world_status(w)->by_copies[3], 1);
}

static void a_dead_nodes_chunks_are_copied_after_half_a_minute(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    (void)sealed_file(w, ino);
    uint32_t dead = map(w, ino)->extents[0]->replicas[0]->node;
    world_node_set(w, dead, false);
    assert_int_equal(world_status(w)->below_target, 1);
    (void)world_work(w);
    assert_int_equal(world_status(w)->pending_tasks, 0);
    w->now += 31000000000ull;
    while (world_work(w) && world_status(w)->pending_tasks == 0)
        ;
    assert_int_equal(world_status(w)->pending_tasks, 1);
    for (uint32_t node = 1; node <= 5; node++)
        if (node != dead)
            (void)world_do_tasks(w, node, 77, 100);
    assert_int_equal(world_status(w)->by_copies[3], 1);
    world_node_set(w, dead, true); /* comes back: one copy too many goes */
    do_all_tasks(w);
    assert_int_equal(world_status(w)->by_copies[3], 1);
    assert_int_equal(map(w, ino)->extents[0]->n_replicas, 3);
    assert_int_equal(world_status(w)->pending_tasks, 0);
}

static Tarn__NodeInventoryReply *inventory(struct world *w, uint32_t node, Tarn__ChunkHeld **held,
                                           size_t n)
{
    Tarn__NodeJoin join = TARN__NODE_JOIN__INIT;
    Tarn__Node description = TARN__NODE__INIT;
    description.total = description.free = 1ull << 40;
    description.rack = node % 2 == 1 ? "r1" : "r2";
    join.node = &description;
    char uuid[] = {(char)('a' + node - 1), 0};
    join.uuid = (ProtobufCBinaryData){.data = (uint8_t *)uuid, .len = 1};
    assert_int_equal(world_apply(w, OP_NODE_JOIN, &join.base, NULL), 0);
    Tarn__NodeInventory m = TARN__NODE_INVENTORY__INIT;
    m.node = node;
    m.epoch = ((Tarn__NodeJoinReply *)world_reply(w, &tarn__node_join_reply__descriptor))->epoch;
    m.chunks = held;
    m.n_chunks = n;
    m.last = UINT64_MAX;
    assert_int_equal(world_apply(w, OP_NODE_INVENTORY, &m.base, NULL), 0);
    return world_reply(w, &tarn__node_inventory_reply__descriptor);
}

/* C15: the last answer that was awaited may be a member's leaving. */
static void a_chunk_that_was_never_written_becomes_empty_when_a_member_left(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(chunk_write(w, ino, 0, &reply), 0);
    uint32_t members[3];
    for (unsigned i = 0; i < 3; i++)
        members[i] = reply->extent->replicas[i]->disk;
    assert_int_equal(grow(w, ino, 100), 0);
    assert_int_equal(world_close(w, handle), 0);
    (void)world_do_tasks(w, members[0], 0, 0);
    (void)world_do_tasks(w, members[1], 0, 0);
    assert_int_equal(map(w, ino)->extents[0]->generation, 2);
    (void)inventory(w, members[2], NULL, 0); /* comes back, and does not have it */
    assert_int_equal(map(w, ino)->extents[0]->n_replicas, 2);
    assert_int_equal(map(w, ino)->extents[0]->chunk_length, 0);
    assert_int_equal(map(w, ino)->extents[0]->generation, 3); /* both are asked to make an empty one */
    do_all_tasks(w);
}

static void an_inventory_finds_what_is_missing_and_what_is_too_much(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    uint64_t chunk = sealed_file(w, ino);
    uint32_t node = map(w, ino)->extents[0]->replicas[0]->node;
    Tarn__ChunkHeld own = TARN__CHUNK_HELD__INIT, from_elsewhere = TARN__CHUNK_HELD__INIT,
                    *held[] = {&own, &from_elsewhere};
    own.chunk = chunk;
    own.generation = 2;
    own.length = 100;
    from_elsewhere.chunk = 1000; /* not given out yet: kept */
    assert_int_equal(inventory(w, node, held, 2)->n_unknown, 0);
    assert_int_equal(world_status(w)->by_copies[3], 1);
    assert_int_equal(inventory(w, node, NULL, 0)->n_unknown, 0);
    assert_int_equal(world_status(w)->by_copies[2], 1);
    do_all_tasks(w);
    assert_true(world_work(w));
    do_all_tasks(w);
    assert_int_equal(world_status(w)->by_copies[3], 1);
}

static void the_last_copy_is_never_given_up(void **state)
{
    struct world *w = *state;
    uint64_t ino = ino_of(w, "/f");
    (void)sealed_file(w, ino);
    for (uint32_t node = 1; node <= 5; node++)
        (void)inventory(w, node, NULL, 0);
    assert_int_equal(world_status(w)->by_copies[1], 1);
    assert_int_equal(world_status(w)->lost, 0);
}

static void big_files_go_in_steps(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0, ino = ino_of(w, "/f");
    Tarn__ChunkReply *reply = NULL;
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(chunk_write(w, ino, i * MIB64, &reply), 0);
    assert_int_equal(grow(w, ino, 300 * MIB64), 0);
    assert_int_equal(world_close(w, handle), 0);
    assert_true(world_work(w));
    assert_int_equal(map(w, ino)->extents[255]->state, TARN__CHUNK_STATE__CHUNK_SEALED);
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    while (world_work(w))
        ;
    do_all_tasks(w);
    assert_int_equal(world_status(w)->chunks, 0);
    assert_int_equal(world_status(w)->files, 0);
    assert_int_equal(world_status(w)->pending_tasks, 0);
}

static void appends_take_their_range_alone(void **state)
{
    struct world *w = *state;
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/f";
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &at;
    m.mask = TARN__SET_ATTR_BITS__SA_GROW;
    m.append_bytes = 7;
    assert_int_equal(world_apply(w, OP_SETATTR, &m.base, &m.ctx), 0);
    assert_int_equal(world_apply(w, OP_SETATTR, &m.base, &m.ctx), 0);
    assert_int_equal(((Tarn__Entry *)world_reply(w, &tarn__entry__descriptor))->attr->size, 14);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(writing_needs_an_open_file),
                                       T(writers_of_a_slot_share_its_chunk),
                                       T(the_last_writers_close_seals),
                                       T(a_sealed_chunk_is_written_through_a_clone),
                                       T(inline_bytes_move_into_a_chunk),
                                       T(a_new_chunk_in_the_map_is_a_new_version),
                                       T(a_map_that_is_known_is_not_told_again),
                                       T(a_failed_member_leaves_under_a_new_generation),
                                       T(a_member_that_left_is_brought_up_to_date),
                                       T(a_member_that_left_is_waited_for),
                                       T(a_member_that_left_and_stays_away_is_replaced),
                                       T(what_a_member_left_goes_with_its_chunk),
                                       T(truncation_gives_chunks_back),
                                       T(an_upload_appears_as_a_whole),
                                       T(an_object_takes_over_the_bytes_of_files),
                                       T(the_end_of_a_session_cleans_up),
                                       T(a_member_that_differs_is_copied_again),
                                       T(a_chunk_that_was_never_written_becomes_empty),
                                       T(a_dead_nodes_chunks_are_copied_after_half_a_minute),
                                       T(an_inventory_finds_what_is_missing_and_what_is_too_much),
                                       T(a_chunk_that_was_never_written_becomes_empty_when_a_member_left),
                                       T(the_last_copy_is_never_given_up),
                                       T(big_files_go_in_steps),
                                       T(appends_take_their_range_alone)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
