/* Damage of one disk: what is remembered of it, what the scrubber finds and when, where it goes on after a restart, and how
 * cells are made whole from another store. No metadata service: its task is given by the test. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "objstore/beat.h"
#include "objstore/cells.h"
#include "objstore/check.h"
#include "objstore/damage.h"
#include "objstore/get.h"
#include "objstore/put.h"
#include "objstore/repair.h"
#include "objstore/scrub.h"

#include <fcntl.h>
#include <stdio.h>

#define CELLS 5
#define LENGTH (4 * CELL_BYTES + 1000)
#define DAY_MS (86400 * 1000ull)

struct node {
    struct sim_host *host;
    struct store *store;
    struct fiber_queue leave;
    bool open;
};
struct checking;
struct world {
    struct sim *sim;
    struct node nodes[2];
    uint8_t *data;
    void (*script)(struct world *w);
    struct checking *checking;
    bool done;
};
static const struct rpc_auth auth = {.cluster_id = 7, .key = "0123456789abcdef0123456789abcde", .name = "test"};

static void node_run(void *arg)
{
    struct node *node = arg;
    char listen[64];
    const char *why;
    snprintf(listen, sizeof listen, "tcp:%s:7000", sim_host_name(node->host));
    struct store_options options = {.dir = "/vol", .auth = &auth, .listen = listen, .journal_bytes = MIB(5),
                                    .reserve_bytes = MIB(1), .scrub_days = 2};
    node->leave = (struct fiber_queue){0};
    assert_int_equal(store_open(sim_host_io(node->host), &options, &node->store, &why), 0);
    assert_int_equal(store_serve(node->store), 0);
    node->open = true;
    (void)fiber_queue_wait(&node->leave, 0);
    store_stop(node->store);
    node->open = false;
}

static void node_start(struct node *node)
{
    assert_int_equal(fiber_spawn(sim_host_io(node->host), "store", node_run, node), 0);
}

static bool both_open(void *arg)
{
    const struct world *w = arg;
    return w->nodes[0].open && w->nodes[1].open;
}
static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}

/* Scripts run in a process of the first store: they use its functions. */
static void script_run(void *arg)
{
    struct world *w = arg;
    w->script(w);
    w->done = true;
}

static void world_begin(struct world *w)
{
    *w = (struct world){.sim = sim_create(11, NULL)};
    assert_int_equal(posix_memalign((void **)&w->data, 4096, round_up_u64(LENGTH, 4096)), 0);
    for (unsigned i = 0; i < LENGTH; i++)
        w->data[i] = (uint8_t)(i * 31 + i / 4096);
    for (unsigned i = 0; i < 2; i++) {
        w->nodes[i].host = sim_host_create(w->sim, i == 0 ? "s1" : "s2");
        node_start(&w->nodes[i]);
    }
    assert_int_equal(sim_run(w->sim, 60000, both_open, w), SIM_DONE);
}

static void step(struct world *w, void (*script)(struct world *w))
{
    w->script = script;
    w->done = false;
    assert_int_equal(fiber_spawn(sim_host_io(w->nodes[0].host), "script", script_run, w), 0);
    assert_int_equal(sim_run(w->sim, 100 * DAY_MS, is_done, w), SIM_DONE);
}

static void world_end(struct world *w)
{
    sim_destroy(w->sim);
    free(w->data);
}

static void run(void (*script)(struct world *w))
{
    struct world w;
    world_begin(&w);
    step(&w, script);
    world_end(&w);
}

/* ------------------------------------------------------------------ what is there */
struct writing {
    struct world *w;
    unsigned node;
    uint64_t id;
    bool seal, done;
};

/* Called in the store's own process. */
static int write_here(struct world *w, unsigned node, uint64_t id, bool seal)
{
    struct volume *v = w->nodes[node].store->volumes[0];
    uint32_t crcs[CELLS];
    struct held held;
    for (unsigned i = 0; i < CELLS; i++)
        crcs[i] = crc32c(0, w->data + i * CELL_BYTES, MIN(CELL_BYTES, LENGTH - i * CELL_BYTES));
    struct put put = {.generation = 1, .length = LENGTH, .data = w->data, .crcs = crcs, .n_crcs = CELLS, .sync = true};
    int err = store_hold_all(v, id, true, true, &held);
    if (err != 0)
        return err;
    err = put_bytes(v, held.chunk, &put);
    if (err == 0 && seal)
        err = put_seal(v, held.chunk, 2, LENGTH);
    store_release(&held);
    return err;
}

static void write_run(void *arg)
{
    struct writing *writing = arg;
    assert_int_equal(write_here(writing->w, writing->node, writing->id, writing->seal), 0);
    writing->done = true;
}

/* In the store's own process. */
static void write_chunk(struct world *w, unsigned node, uint64_t id, bool seal)
{
    struct writing writing = {.w = w, .node = node, .id = id, .seal = seal};
    assert_int_equal(fiber_spawn(sim_host_io(w->nodes[node].host), "write", write_run, &writing), 0);
    while (!writing.done)
        io_sleep_ms(sim_host_io(w->nodes[0].host), 1);
}

static void flip(struct world *w, unsigned node, uint64_t id, uint64_t offset)
{
    char path[512];
    volume_chunk_path(w->nodes[node].store->volumes[0], id, path);
    assert_int_equal(sim_disk_corrupt(w->nodes[node].host, path, offset), 0);
}

static int read_all(struct world *w, uint64_t id)
{
    struct store *s = w->nodes[0].store;
    struct held held;
    struct get get;
    assert_int_equal(store_hold_all(s->volumes[0], id, false, false, &held), 0);
    int err = get_read(s->volumes[0], held.chunk, 0, LENGTH, &get);
    if (err == 0) {
        assert_int_equal(get.length, LENGTH);
        assert_memory_equal(get.buffer + get.skip, w->data, LENGTH);
        get_fini(s->volumes[0], &get);
    }
    store_release(&held);
    return err;
}

static int repair(struct world *w, uint64_t id, uint64_t *ret_bytes)
{
    Tarn__ChunkTask task = TARN__CHUNK_TASK__INIT;
    Tarn__Replica from = TARN__REPLICA__INIT, *pointer = &from;
    from.address = (char *)"tcp:s2:7000";
    task.chunk = id;
    task.from = &pointer;
    task.n_from = 1;
    struct background background = {.store = w->nodes[0].store, .volume = w->nodes[0].store->volumes[0], .urgent = true};
    return repair_chunk(&background, &task, ret_bytes);
}

static Tarn__ScrubDisk scrubbed(const struct world *w)
{
    Tarn__ScrubDisk disk;
    scrub_tell(w->nodes[0].store->volumes[0]->scrub, &disk);
    return disk;
}

/* Until the pass that was asked for is over. */
static Tarn__ScrubDisk scrub(struct world *w)
{
    scrub_begin(w->nodes[0].store->volumes[0]->scrub);
    while (scrubbed(w).asked)
        io_sleep_ms(sim_host_io(w->nodes[0].host), 10);
    return scrubbed(w);
}

/* ------------------------------------------------------------------ the list */
static void count_news(void *arg)
{
    ++*(unsigned *)arg;
}

static void the_list_tells_each_chunk_until_it_is_answered(struct world *w)
{
    struct io *io = sim_host_io(w->nodes[0].host);
    struct damages d;
    struct damage out[4];
    unsigned news = 0;
    struct chunk c = {.id = 5, .generation = 3}, copy = {.id = 6, .flags = CHUNK_PARTIAL};
    damages_init(&d, io);
    d.news = count_news;
    d.arg = &news;
    damage_note(&d, &copy, 0); /* a copy under way counts for nothing */
    assert_int_equal(damages_untold(&d, out, 4), 0);
    damage_note(&d, &c, 2);
    damage_note(&d, &c, 4);
    assert_int_equal(news, 1);
    assert_int_equal(damages_untold(&d, out, 4), 1);
    assert_int_equal(out[0].chunk, 5);
    assert_int_equal(out[0].generation, 3);
    assert_int_equal(out[0].offset, 2 * CELL_BYTES);
    assert_int_equal(damages_untold(&d, out, 4), 1); /* not answered */
    damages_told(&d, out, 1);
    damage_note(&d, &c, 4); /* a reader that comes again and again does not make a message each time */
    assert_int_equal(damages_untold(&d, out, 4), 0);
    io_sleep_ms(io, DAMAGE_AGAIN_MS);
    damage_note(&d, &c, 4);
    assert_int_equal(damages_untold(&d, out, 4), 1);
    damage_forget(&d, 5);
    assert_int_equal(damages_untold(&d, out, 4), 0);
    assert_int_equal(news, 2);
    damages_fini(&d);
}

static void the_list_is_bounded(struct world *w)
{
    struct damages d;
    struct damage out;
    damages_init(&d, sim_host_io(w->nodes[0].host));
    for (uint64_t i = 1; i <= DAMAGE_MAX + 10; i++) {
        struct chunk c = {.id = i, .generation = 1};
        damage_note(&d, &c, 0);
    }
    assert_int_equal(d.known.count, DAMAGE_MAX);
    assert_int_equal(damages_untold(&d, &out, 1), 1);
    damages_told(&d, &out, 1);
    struct chunk more = {.id = DAMAGE_MAX + 20, .generation = 1};
    damage_note(&d, &more, 0); /* in the place of one that was told */
    assert_int_equal(d.known.count, DAMAGE_MAX);
    assert_null(map_get(&d.known, out.chunk));
    assert_non_null(map_get(&d.known, more.id));
    damages_fini(&d);
}

/* ------------------------------------------------------------------ the scrubber */
static void a_pass_by_command_finds_every_damaged_cell(struct world *w)
{
    struct damages *d = &w->nodes[0].store->volumes[0]->damages;
    struct damage out[4];
    for (uint64_t id = 1; id <= 3; id++)
        write_chunk(w, 0, id, id != 3);
    Tarn__ScrubDisk clean = scrub(w);
    assert_int_equal(clean.found, 0);
    assert_int_equal(clean.done_chunks, 0); /* of the pass that has begun since */
    assert_true(clean.last_end > 0);
    flip(w, 0, 1, 10);
    flip(w, 0, 1, 4 * CELL_BYTES + 999);
    flip(w, 0, 3, CELL_BYTES); /* the open one */
    Tarn__ScrubDisk found = scrub(w);
    assert_int_equal(found.found, 2);
    assert_int_equal(found.found_cells, 3);
    assert_int_equal(damages_untold(d, out, 4), 2);
    assert_int_equal(out[0].chunk, 1);
    assert_int_equal(out[0].offset, 0);
    assert_int_equal(out[1].chunk, 3);
    assert_int_equal(read_all(w, 1), -E_CORRUPT);
    assert_int_equal(read_all(w, 2), 0);
}

static void a_lost_file_and_a_wrong_length_are_damage(struct world *w)
{
    struct io *io = sim_host_io(w->nodes[0].host);
    struct volume *v = w->nodes[0].store->volumes[0];
    char path[512];
    struct io_file *file;
    for (uint64_t id = 1; id <= 2; id++)
        write_chunk(w, 0, id, true);
    volume_chunk_path(v, 1, path);
    assert_int_equal(io_unlink(io, path), 0);
    volume_chunk_path(v, 2, path);
    assert_int_equal(io_open(io, path, O_RDWR, 0, &file), 0);
    assert_int_equal(io_truncate(file, LENGTH + 1), 0);
    io_close(file);
    Tarn__ScrubDisk found = scrub(w);
    assert_int_equal(found.found, 2);
    assert_int_equal(found.found_cells, CELLS + 1);
}

static void without_a_command_a_pass_rests_and_takes_its_days_at_most(struct world *w)
{
    struct io *io = sim_host_io(w->nodes[0].host);
    struct store *s = w->nodes[0].store;
    struct damage out;
    for (uint64_t id = 1; id <= 20; id++)
        write_chunk(w, 0, id, true);
    (void)scrub(w); /* from here a pass begins that has all of them */
    uint64_t began = io_mono_ms(io);
    flip(w, 0, 20, 5);
    while (damages_untold(&s->volumes[0]->damages, &out, 1) == 0)
        io_sleep_ms(io, 60000);
    uint64_t passed = io_mono_ms(io) - began;
    assert_int_equal(out.chunk, 20);
    assert_true(passed >= 19 * SCRUB_REST_MS && passed <= 2 * DAY_MS);
}

static void rests_are_shared_out(void **state)
{
    assert_int_equal(scrub_rest_ms(MIB(1), MIB(100), 0, 100 * 1000000000ull), 1000);
    assert_int_equal(scrub_rest_ms(MIB(1), MIB(100), 5, 5), 0);         /* late: none */
    assert_int_equal(scrub_rest_ms(MIB(1), 0, 0, 1000000000ull), 0);    /* through */
    assert_int_equal(scrub_rest_ms(MIB(1), 1, 0, 1000000000ull), 1000); /* less left than was just read */
    assert_int_equal(scrub_rest_ms(MIB(1), MIB(1), 0, UINT64_MAX), SCRUB_REST_MS);
}

static void prepare_restart(struct world *w)
{
    for (uint64_t id = 1; id <= 8; id++)
        write_chunk(w, 0, id, true);
    flip(w, 0, 1, 0);
    scrub_begin(w->nodes[0].store->volumes[0]->scrub);
    while (scrubbed(w).done_chunks < 3 || scrubbed(w).done_chunks == 8)
        io_sleep_ms(sim_host_io(w->nodes[0].host), 1);
    assert_true(scrubbed(w).asked);
    fiber_queue_wake_all(&w->nodes[0].leave);
}

static void after_restart(struct world *w)
{
    assert_true(scrubbed(w).asked); /* a command's pass goes on */
    assert_true(scrubbed(w).done_chunks >= 3);
    while (scrubbed(w).asked)
        io_sleep_ms(sim_host_io(w->nodes[0].host), 1);
    assert_int_equal(scrubbed(w).found, 1); /* found before the restart, and not counted again */
}

static bool first_closed(void *arg)
{
    return !((struct world *)arg)->nodes[0].open;
}

static void test_the_place_is_kept_over_a_restart(void **state)
{
    struct world w;
    world_begin(&w);
    sim_disk_slow(w.nodes[0].host, 20);
    step(&w, prepare_restart);
    assert_int_equal(sim_run(w.sim, 60000, first_closed, &w), SIM_DONE);
    sim_host_crash(w.nodes[0].host, false);
    (void)sim_host_restart(w.nodes[0].host);
    node_start(&w.nodes[0]);
    assert_int_equal(sim_run(w.sim, 60000, both_open, &w), SIM_DONE);
    step(&w, after_restart);
    world_end(&w);
}

/* ------------------------------------------------------------------ repair */
static void two_copies_damaged_in_different_cells_repair_each_other(struct world *w)
{
    uint64_t bytes = 99;
    for (unsigned i = 0; i < 2; i++)
        write_chunk(w, i, 1, true);
    flip(w, 0, 1, 7);
    flip(w, 0, 1, 4 * CELL_BYTES + 1); /* the last one, which is short */
    flip(w, 1, 1, 2 * CELL_BYTES);
    assert_int_equal(read_all(w, 1), -E_CORRUPT);
    assert_int_equal(repair(w, 1, &bytes), 0);
    assert_int_equal(bytes, 0);
    assert_int_equal(read_all(w, 1), 0);
    assert_int_equal(scrub(w).found, 0);
    assert_int_equal(w->nodes[0].store->volumes[0]->damages.known.count, 0);
    assert_int_equal(repair(w, 1, &bytes), 0); /* the same task again */
}

static void what_nobody_has_stays_and_is_never_served(struct world *w)
{
    uint64_t bytes;
    for (unsigned i = 0; i < 2; i++) {
        write_chunk(w, i, 1, true);
        flip(w, i, 1, CELL_BYTES + 3);
    }
    flip(w, 0, 1, 3 * CELL_BYTES);
    assert_int_equal(repair(w, 1, &bytes), -E_CORRUPT);
    assert_int_equal(bytes, CELL_BYTES); /* the other one was repaired */
    assert_int_equal(read_all(w, 1), -E_CORRUPT);
    write_chunk(w, 0, 2, true); /* only here */
    flip(w, 0, 2, 0);
    assert_int_equal(repair(w, 2, &bytes), -E_CORRUPT);
}

static void a_source_with_other_bytes_does_no_harm(struct world *w)
{
    uint64_t bytes;
    write_chunk(w, 0, 1, true);
    flip(w, 0, 1, 0);
    w->data[5] ^= 1;
    write_chunk(w, 1, 1, true); /* its checksums are right for what it has */
    w->data[5] ^= 1;
    assert_int_equal(repair(w, 1, &bytes), -E_CORRUPT);
    assert_int_equal(read_all(w, 1), -E_CORRUPT);
}

static void a_source_that_is_away_is_not_a_verdict(struct world *w)
{
    uint64_t bytes;
    for (unsigned i = 0; i < 2; i++)
        write_chunk(w, i, 1, true);
    flip(w, 0, 1, 0);
    sim_host_crash(w->nodes[1].host, false);
    assert_int_equal(repair(w, 1, &bytes), -E_UNAVAIL);
    assert_int_equal(read_all(w, 1), -E_CORRUPT);
}

static void a_lost_file_comes_back_and_a_length_is_cut(struct world *w)
{
    struct io *io = sim_host_io(w->nodes[0].host);
    uint64_t bytes, size;
    char path[512];
    struct io_file *file;
    for (unsigned i = 0; i < 2; i++)
        write_chunk(w, i, 1, true);
    volume_chunk_path(w->nodes[0].store->volumes[0], 1, path);
    assert_int_equal(io_unlink(io, path), 0);
    assert_int_equal(repair(w, 1, &bytes), 0);
    assert_int_equal(read_all(w, 1), 0);
    assert_int_equal(io_open(io, path, O_RDWR, 0, &file), 0);
    assert_int_equal(io_size(file, &size), 0);
    assert_int_equal(size, LENGTH);
    assert_int_equal(io_truncate(file, LENGTH + 7), 0);
    assert_int_equal(repair(w, 1, &bytes), 0);
    assert_int_equal(io_size(file, &size), 0);
    assert_int_equal(size, LENGTH);
    io_close(file);
    assert_int_equal(scrub(w).found, 0);
}

/* Each operation of the disk fails once: the task says so, and another one makes the chunk whole. */
static void a_disk_that_fails_meanwhile(struct world *w)
{
    struct sim_host *host = w->nodes[0].host;
    unsigned failed = 0;
    for (unsigned i = 0; i < 2; i++)
        write_chunk(w, i, 1, true);
    for (uint64_t nth = 1; nth < 40; nth++) {
        uint64_t bytes;
        flip(w, 0, 1, 0);
        sim_disk_fail(host, nth, 1, -E_IO);
        int err = repair(w, 1, &bytes);
        sim_disk_fail(host, 0, 0, 0);
        failed += err != 0;
        assert_int_equal(repair(w, 1, &bytes), 0);
        assert_int_equal(read_all(w, 1), 0);
    }
    assert_true(failed > 0);
}

/* ------------------------------------------------------------------ the offline check */
struct checking {
    struct volume_check_summary sum;
    unsigned damage, notes;
    int err;
    char last[256];
};

static void checked(void *arg, bool damage, const char *sentence)
{
    struct checking *checking = arg;
    *(damage ? &checking->damage : &checking->notes) += 1;
    snprintf(checking->last, sizeof checking->last, "%s", sentence);
}

static struct checking check_now(struct world *w, bool fast)
{
    struct checking c = {0};
    const char *why;
    c.err = volume_check(sim_host_io(w->nodes[0].host), "/vol", fast, checked, &c, &c.sum, &why);
    return c;
}

static void write_some(struct world *w)
{
    for (uint64_t id = 1; id <= 4; id++)
        write_chunk(w, 0, id, id != 4); /* the last one is open, and small writes are in the journal */
    fiber_queue_wake_all(&w->nodes[0].leave);
}

static void check_clean(struct world *w)
{
    struct checking c = check_now(w, false);
    assert_int_equal(c.err, 0);
    assert_int_equal(c.damage, 0);
    assert_int_equal(c.sum.chunks, 4);
    assert_int_equal(c.sum.sealed, 3);
    assert_int_equal(c.sum.bytes, 4 * LENGTH);
}

static void chunk_path(uint64_t id, char out[512])
{
    struct volume v = {.dir = "/vol"};
    volume_chunk_path(&v, id, out);
}

static void check_finds(struct world *w)
{
    struct io *io = sim_host_io(w->nodes[0].host);
    char path[512];
    chunk_path(2, path);
    assert_int_equal(sim_disk_corrupt(w->nodes[0].host, path, CELL_BYTES + 5), 0);
    struct checking c = check_now(w, false);
    assert_int_equal(c.damage, 1);
    assert_int_equal(c.sum.damaged_cells, 1);
    assert_non_null(strstr(c.last, "0000000000000002"));
    assert_non_null(strstr(c.last, "cell 1 "));
    assert_int_equal(check_now(w, true).damage, 0); /* no content is read */
    chunk_path(1, path);
    assert_int_equal(io_unlink(io, path), 0);
    struct io_file *file;
    chunk_path(3, path);
    assert_int_equal(io_open(io, path, O_RDWR, 0, &file), 0);
    assert_int_equal(io_truncate(file, LENGTH + 4096), 0);
    io_close(file);
    chunk_path(99, path);
    assert_int_equal(io_open(io, path, O_RDWR | O_CREAT, 0600, &file), 0);
    io_close(file);
    c = check_now(w, true);
    assert_int_equal(c.damage, 2); /* a lost file, a wrong length */
    assert_int_equal(c.sum.lost_files, 1);
    assert_int_equal(c.sum.strays, 1);
    assert_int_equal(sim_disk_corrupt(w->nodes[0].host, "/vol/superblock", 20), 0);
    assert_int_equal(check_now(w, false).err, -E_CORRUPT);
}

static void test_a_volume_that_was_closed_is_checked(void **state)
{
    struct world w;
    world_begin(&w);
    step(&w, write_some);
    assert_int_equal(sim_run(w.sim, 60000, first_closed, &w), SIM_DONE);
    step(&w, check_clean);
    step(&w, check_finds);
    world_end(&w);
}

static void write_until_killed(struct world *w)
{
    for (uint64_t id = 1; id <= 4 && write_here(w, 0, id, id != 4) == 0; id++)
        ;
}

static void check_after_kill(struct world *w)
{
    *w->checking = check_now(w, false);
}

/* At any operation of the disk: what the journal has counts as in the files, as the next start finds it. */
static void test_a_volume_whose_process_was_killed_is_checked(void **state)
{
    for (uint64_t nth = 5; nth < 60; nth += 6) {
        struct world w;
        world_begin(&w);
        sim_disk_crash_at(w.nodes[0].host, nth, false);
        w.script = write_until_killed;
        (void)fiber_spawn(sim_host_io(w.nodes[0].host), "script", script_run, &w);
        (void)sim_run(w.sim, 60000, is_done, &w);
        if (sim_host_up(w.nodes[0].host)) /* it was through before */
            sim_host_crash(w.nodes[0].host, false);
        sim_disk_crash_at(w.nodes[0].host, 0, false);
        (void)sim_host_restart(w.nodes[0].host);
        w.nodes[0].open = false;
        struct checking c = {0};
        w.checking = &c;
        step(&w, check_after_kill);
        assert_int_equal(c.err, 0);
        assert_int_equal(c.damage, 0);
        world_end(&w);
    }
}

#define IN_WORLD(name)                \
    static void test_##name(void **state) { run(name); }
IN_WORLD(the_list_tells_each_chunk_until_it_is_answered)
IN_WORLD(the_list_is_bounded)
IN_WORLD(a_pass_by_command_finds_every_damaged_cell)
IN_WORLD(a_lost_file_and_a_wrong_length_are_damage)
IN_WORLD(without_a_command_a_pass_rests_and_takes_its_days_at_most)
IN_WORLD(two_copies_damaged_in_different_cells_repair_each_other)
IN_WORLD(what_nobody_has_stays_and_is_never_served)
IN_WORLD(a_source_with_other_bytes_does_no_harm)
IN_WORLD(a_source_that_is_away_is_not_a_verdict)
IN_WORLD(a_lost_file_comes_back_and_a_length_is_cut)
IN_WORLD(a_disk_that_fails_meanwhile)

int main(void)
{
    log_init("scrub_test");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_list_tells_each_chunk_until_it_is_answered),
        cmocka_unit_test(test_the_list_is_bounded),
        cmocka_unit_test(test_a_pass_by_command_finds_every_damaged_cell),
        cmocka_unit_test(test_a_lost_file_and_a_wrong_length_are_damage),
        cmocka_unit_test(test_without_a_command_a_pass_rests_and_takes_its_days_at_most),
        cmocka_unit_test(rests_are_shared_out),
        cmocka_unit_test(test_the_place_is_kept_over_a_restart),
        cmocka_unit_test(test_two_copies_damaged_in_different_cells_repair_each_other),
        cmocka_unit_test(test_what_nobody_has_stays_and_is_never_served),
        cmocka_unit_test(test_a_source_with_other_bytes_does_no_harm),
        cmocka_unit_test(test_a_source_that_is_away_is_not_a_verdict),
        cmocka_unit_test(test_a_lost_file_comes_back_and_a_length_is_cut),
        cmocka_unit_test(test_a_disk_that_fails_meanwhile),
        cmocka_unit_test(test_a_volume_that_was_closed_is_checked),
        cmocka_unit_test(test_a_volume_whose_process_was_killed_is_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
