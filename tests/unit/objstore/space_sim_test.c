/* A file system that has not one free block, from any moment on: what was acknowledged stays, deletions, cuts, checkpoints and
 * starts work, and writes go on when there is room. And a store of two disks: which one a request is for. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "objstore/get.h"
#include "objstore/put.h"
#include "objstore/store.h"

#include <fcntl.h>

#define CHUNKS 24
#define SIZE KIB(200)
#define ROUNDS 20

struct world {
    struct sim_host *host;
    unsigned full_after; /* puts */
    bool done;
    bool written[CHUNKS];
    unsigned refused, checkpoints;
};

static uint8_t *content(unsigned i)
{
    static uint8_t bytes[SIZE] __attribute__((aligned(4096)));
    for (size_t k = 0; k < SIZE; k++)
        bytes[k] = (uint8_t)(k * 7 + i * 31 + k / 4096);
    return bytes;
}

static int put_at(struct volume *v, unsigned i, uint64_t offset, size_t length)
{
    struct chunk *c;
    struct range range;
    uint32_t crcs[8];
    struct put put = {.generation = 1, .offset = offset, .length = length, .data = content(i) + offset, .crcs = crcs, .sync = true};
    put.n_crcs = put_pieces(offset, length);
    for (size_t k = 0, at = 0; k < put.n_crcs; k++) {
        size_t n = MIN(length - at, (size_t)(CELL_BYTES - (offset + at) % CELL_BYTES));
        crcs[k] = crc32c(0, put.data + at, n);
        at += n;
    }
    assert_int_equal(index_get_or_make(&v->index, i + 1, &c), 0);
    assert_int_equal(chunk_lock(c, &range, RANGE_ALL_FIRST, RANGE_ALL_LAST, true), 0);
    int err = put_bytes(v, c, &put);
    chunk_unlock(c, &range);
    chunk_unref(&v->index, c);
    return err;
}

/* Small ones go through the journal, the others straight into their files. */
static int put_chunk(struct volume *v, unsigned i)
{
    return put_at(v, i, 0, i % 2 == 0 ? KIB(20) : SIZE);
}

static void remove_chunk(struct volume *v, unsigned i)
{
    struct chunk *c = index_get(&v->index, i + 1);
    struct range range;
    assert_non_null(c);
    assert_int_equal(chunk_lock(c, &range, RANGE_ALL_FIRST, RANGE_ALL_LAST, true), 0);
    assert_int_equal(volume_delete(v, c), 0);
    chunk_unlock(c, &range);
    chunk_unref(&v->index, c);
}

static void cut_chunk(struct volume *v, unsigned i)
{
    struct chunk *c = index_get(&v->index, i + 1);
    struct range range;
    assert_int_equal(chunk_lock(c, &range, RANGE_ALL_FIRST, RANGE_ALL_LAST, true), 0);
    assert_int_equal(put_truncate(v, c, 1, KIB(1)), 0);
    chunk_unlock(c, &range);
    chunk_unref(&v->index, c);
}

static void compare(struct volume *v, unsigned i)
{
    struct chunk *c = index_get(&v->index, i + 1);
    struct get get;
    assert_non_null(c);
    assert_int_equal(get_read(v, c, 0, SIZE, &get), 0);
    assert_true(get.length == KIB(1) || get.length == (i % 2 == 0 ? KIB(20) : SIZE));
    assert_memory_equal(get.buffer + get.skip, content(i), get.length);
    get_fini(v, &get);
    chunk_unref(&v->index, c);
}

static struct volume *open_volume(void)
{
    struct volume_options options = {.dir = "/disk", .cluster_id = 1, .journal_bytes = MIB(8), .reserve_bytes = KIB(64), .boot = "boot"};
    struct volume *v;
    const char *why;
    assert_int_equal(volume_open(fiber_io(), &options, &v, &why), 0);
    return v;
}

static void fill(struct world *w, struct volume *v)
{
    for (unsigned i = 0; i < CHUNKS; i++) {
        if (i == w->full_after)
            sim_disk_limit(w->host, sim_disk_used(w->host));
        int err = put_chunk(v, i);
        w->written[i] = err == 0;
        w->refused += err == -E_NOSPC;
        assert_true(err == 0 || (err == -E_NOSPC && i >= w->full_after));
    }
}

static void full_program(void *arg)
{
    struct world *w = arg;
    struct volume *v = open_volume();
    fill(w, v);
    assert_false(volume_failed(v));
    for (unsigned i = 0; i < CHUNKS; i++)
        if (w->written[i]) /* bytes that are there can be written over */
            assert_int_equal(put_at(v, i, 100, 1000), 0);
    for (unsigned i = 0; i < 4; i++) { /* more than one: each finds the reserve of the one before replaced */
        w->checkpoints += volume_checkpoint(v) == 0;
        assert_false(volume_failed(v));
    }
    for (unsigned i = 0; i < CHUNKS; i += 5)
        if (w->written[i]) {
            remove_chunk(v, i);
            w->written[i] = false;
        }
    for (unsigned i = 1; i < CHUNKS; i += 5)
        if (w->written[i])
            cut_chunk(v, i);
    volume_close(v);
    v = open_volume(); /* on the full file system */
    for (unsigned i = 0; i < CHUNKS; i++)
        if (w->written[i])
            compare(v, i);
    sim_disk_limit(w->host, UINT64_MAX);
    assert_int_equal(io_sleep_ms(fiber_io(), 1000), 0); /* as old as a look at the space may be */
    for (unsigned i = 0; i < CHUNKS; i++)
        assert_int_equal(put_chunk(v, i), 0);
    for (unsigned i = 0; i < CHUNKS; i++)
        compare(v, i);
    volume_close(v);
    w->done = true;
}

static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}

static void test_a_full_file_system(void **state)
{
    unsigned refused = 0;
    for (unsigned n = 0; n < ROUNDS; n++) {
        struct world w = {.full_after = n};
        struct sim *sim = sim_create(n + 1, NULL);
        w.host = sim_host_create(sim, "host");
        assert_int_equal(fiber_spawn(sim_host_io(w.host), "full", full_program, &w), 0);
        assert_int_equal(sim_run(sim, 600000, is_done, &w), SIM_DONE);
        assert_int_equal(w.checkpoints, 4);
        refused += w.refused;
        sim_destroy(sim);
    }
    assert_true(refused > ROUNDS);
}

/* ------------------------------------------------------------------ two disks */
static void disks_program(void *arg)
{
    struct world *w = arg;
    static const struct rpc_auth auth = {.cluster_id = 1, .name = "test"};
    static const char *const dirs[] = {"/a", "/b"};
    static const char meta[1][64] = {"tcp:nobody:1"};
    struct store_options options = {.dirs = dirs, .n_dirs = 2, .auth = &auth, .listen = "tcp:host:1", .n_meta = 1, .meta = meta,
                                    .journal_bytes = MIB(8), .boot = "boot"};
    struct store *s;
    struct volume *v;
    const char *why;
    uint8_t node[16] = "the node's uuid";
    assert_int_equal(store_open(fiber_io(), &options, &s, &why), 0);
    assert_int_equal(s->n_volumes, 2);
    assert_int_equal(volume_set_node(s->volumes[0], node, 7, 7), 0);
    assert_int_equal(volume_set_node(s->volumes[1], node, 7, 70000), 0);
    assert_int_equal(store_volume(s, 70000, 1, &v), 0);
    assert_ptr_equal(v, s->volumes[1]);
    assert_int_equal(store_volume(s, 8, 1, &v), -E_UNAVAIL); /* another node's, or one that could not be opened */
    assert_int_equal(put_chunk(s->volumes[1], 0), 0);
    assert_int_equal(store_volume(s, 0, 1, &v), 0); /* who does not say which finds the copy */
    assert_ptr_equal(v, s->volumes[1]);
    /* What one disk was told to delete, the other may keep. */
    volume_note_deleted(s->volumes[0], 1);
    s->volumes[0]->first_chunk = s->volumes[1]->first_chunk = 1;
    assert_int_equal(volume_refuses(s->volumes[0], 1), -E_STALE);
    assert_int_equal(volume_refuses(s->volumes[1], 1), 0);
    /* One fails: the other takes writes. */
    sim_disk_fail(w->host, 1, 1, -E_IO);
    (void)put_chunk(s->volumes[0], 4); /* through the journal: its write fails */
    assert_true(volume_failed(s->volumes[0]));
    assert_int_equal(put_chunk(s->volumes[1], 2), 0);
    store_stop(s);
    /* Its superblock cannot be read at the start: the other serves alone, as the same node. */
    struct io_file *file;
    assert_int_equal(io_open(fiber_io(), "/a/superblock", O_RDWR, 0, &file), 0);
    assert_int_equal(io_truncate(file, 100), 0);
    io_close(file);
    assert_int_equal(store_open(fiber_io(), &options, &s, &why), 0);
    assert_int_equal(s->n_volumes, 1);
    assert_int_equal(s->volumes[0]->super.disk, 70000);
    assert_memory_equal(s->volumes[0]->super.node_uuid, node, 16);
    store_stop(s);
    w->done = true;
}

static void test_two_disks_of_a_store(void **state)
{
    struct world w = {0};
    struct sim *sim = sim_create(1, NULL);
    w.host = sim_host_create(sim, "host");
    assert_int_equal(fiber_spawn(sim_host_io(w.host), "disks", disks_program, &w), 0);
    assert_int_equal(sim_run(sim, 600000, is_done, &w), SIM_DONE);
    sim_destroy(sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_file_system),
        cmocka_unit_test(test_two_disks_of_a_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
