/* The common suite in the simulation, and what the simulation promises: io_sim.h. */
#include "common/io_sim.h"
#include "io_suite.h"
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

struct harness {
    struct io *io;
    suite_body body;
};

static void run_body(void *arg)
{
    struct harness *harness = arg;
    expect_equal(io_mkdir(harness->io, "/t", 0700), 0);
    harness->body(harness->io, "/t");
    io_stop(harness->io);
}

static uint64_t run_suite(suite_body body, uint64_t seed)
{
    struct sim *sim = sim_create(seed, NULL);
    struct harness harness = {.io = sim_host_io(sim_host_create(sim, "one")), .body = body};
    assert_int_equal(fiber_spawn(harness.io, "body", run_body, &harness), 0);
    assert_int_equal(sim_run(sim, 600000, NULL, NULL), SIM_IDLE);
    uint64_t hash = sim_trace_hash(sim);
    sim_destroy(sim);
    return hash;
}

static void run_case(void **state)
{
    const struct suite_case *suite_case = *state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        uint64_t hash = run_suite(suite_case->body, seed);
        assert_true(run_suite(suite_case->body, seed) == hash);
        assert_true(run_suite(suite_case->body, seed + 100) != hash);
    }
}

/* ---- disk: who survives what ---- */

struct disk {
    struct sim *sim;
    struct sim_host *host;
    struct io *io;
    uint8_t seen[4];
    int64_t found;
    bool ready;
    int result;
};

static void disk_open(struct disk *disk, uint64_t seed)
{
    *disk = (struct disk){.sim = sim_create(seed, NULL)};
    disk->host = sim_host_create(disk->sim, "h");
    disk->io = sim_host_io(disk->host);
}

static bool is_ready(void *arg)
{
    return ((struct disk *)arg)->ready;
}

static void disk_run(struct disk *disk, fiber_fn fn)
{
    disk->ready = false;
    assert_int_equal(fiber_spawn(disk->io, "disk", fn, disk), 0);
    assert_int_equal(sim_run(disk->sim, 60000, is_ready, disk), SIM_DONE);
}

static void disk_crash(struct disk *disk, bool power_loss)
{
    sim_host_crash(disk->host, power_loss);
    assert_false(sim_host_up(disk->host));
    disk->io = sim_host_restart(disk->host);
}

/* A synced file of one page of 'a' with its name; then three pages of 'b' that are not synced. */
static void write_synced_then_not(void *arg)
{
    struct disk *disk = arg;
    uint8_t page[3 * 4096];
    _cleanup_(io_closep) struct io_file *file = NULL;
    expect_equal(io_open(disk->io, "/f", O_RDWR | O_CREAT, 0600, &file), 0);
    memset(page, 'a', sizeof page);
    expect_equal(io_pwrite(file, page, 4096, 0), 0);
    expect_equal(io_sync(file), 0);
    expect_equal(io_sync_dir(disk->io, "/"), 0);
    memset(page, 'b', sizeof page);
    expect_equal(io_pwrite(file, page, sizeof page, 0), 0);
    disk->ready = true;
}

static void write_until_crashed(void *arg)
{
    struct disk *disk = arg;
    _cleanup_(io_closep) struct io_file *file = NULL;
    int r = io_open(disk->io, "/f", O_RDWR | O_CREAT, 0600, &file);
    for (unsigned i = 0; i < 3 && r == 0; i++)
        r = io_pwrite(file, "x", 1, i);
    if (r == 0)
        r = io_sync(file);
    disk->ready = r == 0;
}

static void look(void *arg)
{
    struct disk *disk = arg;
    _cleanup_(io_closep) struct io_file *file = NULL;
    uint8_t buf[4 * 4096];
    disk->found = io_open(disk->io, "/f", O_RDONLY, 0, &file);
    if (disk->found == 0) {
        disk->found = io_pread(file, buf, sizeof buf, 0);
        for (int64_t i = 0; i * 4096 < disk->found; i++)
            disk->seen[i] = buf[i * 4096];
    }
    disk->ready = true;
}

static void crash_keeps_what_was_written(void **state)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct disk disk;
        disk_open(&disk, seed);
        disk_run(&disk, write_synced_then_not);
        disk_crash(&disk, false);
        disk_run(&disk, look);
        assert_int_equal(disk.found, 3 * 4096);
        assert_memory_equal(disk.seen, "bbb", 3);
        sim_destroy(disk.sim);
    }
}

static void power_loss_keeps_drops_and_tears(void **state)
{
    unsigned kept = 0, dropped = 0, torn = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct disk disk;
        disk_open(&disk, seed);
        disk_run(&disk, write_synced_then_not);
        disk_crash(&disk, true);
        disk_run(&disk, look);
        assert_true(disk.found == 4096 || disk.found == 3 * 4096);
        assert_true(disk.seen[0] == 'a' || disk.seen[0] == 'b');
        for (int i = 1; i < 3; i++)
            assert_true(disk.seen[i] == 0 || disk.seen[i] == 'b');
        if (disk.found == 4096 && disk.seen[0] == 'a')
            dropped++;
        else if (memcmp(disk.seen, "bbb", 3) == 0)
            kept++;
        else
            torn++;
        sim_destroy(disk.sim);
    }
    assert_true(kept > 0 && dropped > 0 && torn > 0);
}

static void create_without_sync_dir(void *arg)
{
    struct disk *disk = arg;
    _cleanup_(io_closep) struct io_file *file = NULL;
    expect_equal(io_open(disk->io, "/f", O_RDWR | O_CREAT | O_DSYNC, 0600, &file), 0);
    expect_equal(io_pwrite(file, "x", 1, 0), 0);
    disk->ready = true;
}

static void sync_root(void *arg)
{
    struct disk *disk = arg;
    expect_equal(io_sync_dir(disk->io, "/"), 0);
    disk->ready = true;
}

static void names_need_sync_dir(void **state)
{
    unsigned there = 0, gone = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct disk disk;
        disk_open(&disk, seed);
        disk_run(&disk, create_without_sync_dir);
        disk_crash(&disk, true);
        disk_run(&disk, look);
        assert_true(disk.found == 1 || disk.found == -E_NOENT);
        there += disk.found == 1;
        gone += disk.found == -E_NOENT;
        sim_destroy(disk.sim);
        disk_open(&disk, seed);
        disk_run(&disk, create_without_sync_dir);
        disk_run(&disk, sync_root);
        disk_crash(&disk, true);
        disk_run(&disk, look);
        assert_int_equal(disk.found, 1); /* name by sync_dir, byte and length by O_DSYNC */
        sim_destroy(disk.sim);
    }
    assert_true(there > 0 && gone > 0);
}

/* "a" is replaced by renaming a synced "b" over it, in another directory; not yet durable. */
static void replace_by_rename(void *arg)
{
    struct disk *disk = arg;
    static const char *const names[] = {"/d/f", "/e/g"};
    expect_equal(io_mkdir(disk->io, "/d", 0700), 0);
    expect_equal(io_mkdir(disk->io, "/e", 0700), 0);
    for (int i = 0; i < 2; i++) {
        _cleanup_(io_closep) struct io_file *file = NULL;
        expect_equal(io_open(disk->io, names[i], O_RDWR | O_CREAT | O_EXCL, 0600, &file), 0);
        expect_equal(io_pwrite(file, i == 0 ? "old" : "new", 3, 0), 0);
        expect_equal(io_sync(file), 0);
    }
    expect_equal(io_sync_dir(disk->io, "/d"), 0);
    expect_equal(io_sync_dir(disk->io, "/e"), 0);
    expect_equal(io_sync_dir(disk->io, "/"), 0);
    expect_equal(io_rename(disk->io, "/e/g", "/d/f"), 0);
    if (disk->result)
        expect_equal(io_sync_dir(disk->io, "/d"), 0);
    disk->ready = true;
}

static void look_renamed(void *arg)
{
    struct disk *disk = arg;
    struct io_file *file = NULL;
    char buf[4] = "";
    expect_equal(io_open(disk->io, "/d/f", O_RDONLY, 0, &file), 0);
    expect_equal(io_pread(file, buf, 4, 0), 3);
    io_closep(&file);
    disk->found = strcmp(buf, "new") == 0;
    int r = io_open(disk->io, "/e/g", O_RDONLY, 0, &file);
    expect_equal(r, disk->found ? -E_NOENT : 0);
    io_closep(&file);
    disk->ready = true;
}

static void rename_is_atomic(void **state)
{
    unsigned count[2] = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct disk disk;
        disk_open(&disk, seed);
        disk.result = seed % 3 == 0;
        disk_run(&disk, replace_by_rename);
        disk_crash(&disk, true);
        disk_run(&disk, look_renamed);
        assert_true(seed % 3 != 0 || disk.found == 1);
        count[disk.found]++;
        sim_destroy(disk.sim);
    }
    assert_true(count[0] > 0 && count[1] > 0);
}

static void write_while_crashing(void *arg)
{
    struct disk *disk = arg;
    uint8_t page[4096];
    _cleanup_(io_closep) struct io_file *file = NULL;
    memset(page, 'x', sizeof page);
    int r = io_open(disk->io, "/f", O_RDWR | O_CREAT, 0600, &file);
    while (r == 0) {
        disk->ready = true;
        r = io_pwrite(file, page, sizeof page, 0);
    }
    expect_equal(r, -E_CANCELED);
    disk->result++;
}

static void nothing_is_written_after_a_crash(void **state)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct disk disk;
        disk_open(&disk, seed);
        disk_run(&disk, write_while_crashing);
        sim_host_crash(disk.host, false);
        assert_int_equal(disk.result, 1); /* it has unwound */
        uint64_t ops = sim_disk_ops(disk.host);
        sim_run(disk.sim, 100, NULL, NULL);
        assert_true(sim_disk_ops(disk.host) == ops);
        sim_destroy(disk.sim);
    }
}

static void fail_each_operation(void *arg)
{
    struct disk *disk = arg;
    struct io_file *file = NULL;
    int r = io_open(disk->io, "/f", O_RDWR | O_CREAT, 0600, &file);
    if (r == 0)
        r = io_pwrite(file, "x", 1, 0);
    if (r == 0)
        r = io_sync(file);
    io_close(file);
    if (r == 0)
        r = io_sync_dir(disk->io, "/");
    disk->result = r;
    disk->ready = true;
}

static void the_nth_operation_fails(void **state)
{
    struct disk disk;
    for (uint64_t nth = 1; nth <= 5; nth++) {
        disk_open(&disk, nth);
        sim_disk_fail(disk.host, nth, 1, -E_IO);
        disk_run(&disk, fail_each_operation);
        assert_int_equal(disk.result, nth <= 4 ? -E_IO : 0);
        assert_int_equal(sim_disk_ops(disk.host), nth <= 4 ? nth : 4);
        sim_destroy(disk.sim);
    }
}

static void fill(void *arg)
{
    struct disk *disk = arg;
    uint8_t page[4096] = {1};
    _cleanup_(io_closep) struct io_file *file = NULL;
    expect_equal(io_open(disk->io, "/f", O_RDWR | O_CREAT, 0600, &file), 0);
    for (int i = 0; i < 10; i++)
        expect_equal(io_pwrite(file, page, sizeof page, (uint64_t)i * 4096), 0);
    expect_equal(io_pwrite(file, page, sizeof page, 40960), -E_NOSPC);
    expect_equal(io_allocate(file, 0, 44000), -E_NOSPC);
    expect_equal(io_pwrite(file, page, sizeof page, 0), 0); /* what is there can be overwritten */
    uint64_t total, available;
    expect_equal(io_statfs(disk->io, "/", &total, &available), 0);
    expect_equal(available, 0);
    expect_equal(io_unlink(disk->io, "/f"), 0);
    io_closep(&file);
    expect_equal(io_sync_dir(disk->io, "/"), 0);
    expect_equal(sim_disk_used(disk->host), 0);
    disk->ready = true;
}

static void a_full_disk_refuses_and_frees(void **state)
{
    struct disk disk;
    disk_open(&disk, 1);
    sim_disk_limit(disk.host, 40960);
    disk_run(&disk, fill);
    sim_destroy(disk.sim);
}

static void rot_flips_one_bit(void **state)
{
    struct disk disk;
    disk_open(&disk, 1);
    disk_run(&disk, create_without_sync_dir);
    assert_int_equal(sim_disk_corrupt(disk.host, "/f", 1), -E_RANGE);
    assert_int_equal(sim_disk_corrupt(disk.host, "/g", 0), -E_NOENT);
    assert_int_equal(sim_disk_corrupt(disk.host, "/f", 0), 0);
    disk_run(&disk, look);
    assert_int_equal(__builtin_popcount(disk.seen[0] ^ 'x'), 1);
    sim_destroy(disk.sim);
}

/* ---- network: a caller on one host, an echo on another ---- */

struct net {
    struct sim *sim;
    struct sim_host *client, *server;
    struct io *client_io, *server_io;
    uint64_t timeout_ms;
    unsigned answers, errors, timeouts;
    int last, connected;
    bool send_first, ended;
};

static void echo(void *arg)
{
    struct io_sock *sock = arg;
    char buf[100];
    int64_t n;
    while ((n = io_recv(sock, buf, sizeof buf, 0)) > 0 && io_send(sock, buf, (size_t)n) == 0)
        ;
    io_sock_close(sock);
}

static void serve(void *arg)
{
    struct net *net = arg;
    struct io *io = net->server_io;
    struct io_listener *listener = NULL;
    struct io_sock *sock = NULL;
    expect_equal(io_listen(io, "tcp:server:7000", &listener), 0);
    while (io_accept(listener, &sock) == 0)
        if (fiber_spawn(io, "echo", echo, sock) < 0)
            io_sock_close(sock);
    io_listener_close(listener);
}

static void call(void *arg)
{
    struct net *net = arg;
    struct io *io = net->client_io;
    struct io_sock *sock = NULL;
    int r = io_sleep_ms(io, 1); /* the server listens */
    if (r == 0)
        r = io_connect(io, "tcp:server:7000", 1000, &sock);
    net->connected = r;
    while (r == 0) {
        uint64_t sent = io_random_u64(io), got = 0;
        r = io_send(sock, &sent, sizeof sent);
        if (r == 0)
            r = io_recv_all(sock, &got, sizeof got, net->timeout_ms);
        expect(r != 0 || got == sent);
        net->answers += r == 0;
        if (r == 0)
            r = io_sleep_ms(io, 10);
    }
    net->last = r;
    net->ended = true;
    io_sock_close(sock);
}

static void net_open(struct net *net, uint64_t seed, const struct sim_options *options)
{
    *net = (struct net){.sim = sim_create(seed, options)};
    net->client = sim_host_create(net->sim, "client");
    net->server = sim_host_create(net->sim, "server");
    net->client_io = sim_host_io(net->client);
    net->server_io = sim_host_io(net->server);
    assert_int_equal(fiber_spawn(net->server_io, "serve", serve, net), 0);
    assert_int_equal(fiber_spawn(net->client_io, "call", call, net), 0);
}

static bool net_ended(void *arg)
{
    return ((struct net *)arg)->ended;
}

static void a_short_partition_is_survived(void **state)
{
    for (uint64_t seed = 0; seed < 10; seed++) {
        struct net net;
        net_open(&net, seed, NULL);
        sim_run(net.sim, 100, NULL, NULL);
        assert_int_equal(net.connected, 0);
        sim_partition(net.client, net.server, true);
        sim_run(net.sim, 100, NULL, NULL);
        unsigned answers = net.answers;
        sim_run(net.sim, 3000, NULL, NULL);
        assert_int_equal(net.answers, answers);
        sim_partition(net.client, net.server, false);
        sim_run(net.sim, 3000, NULL, NULL);
        assert_true(net.answers > answers + 10 && !net.ended);
        sim_destroy(net.sim);
    }
}

static void a_long_partition_resets(void **state)
{
    for (int direction = 0; direction < 2; direction++) {
        struct net net;
        net_open(&net, 7, NULL);
        sim_run(net.sim, 100, NULL, NULL);
        sim_cut(direction ? net.server : net.client, direction ? net.client : net.server, true);
        assert_int_equal(sim_run(net.sim, 25000, net_ended, &net), SIM_DONE);
        assert_int_equal(net.last, -E_CONN);
        sim_destroy(net.sim);
    }
}

static void connecting_into_a_partition_times_out(void **state)
{
    struct net net;
    net_open(&net, 7, NULL);
    sim_isolate(net.server, true);
    assert_int_equal(sim_run(net.sim, 25000, net_ended, &net), SIM_DONE);
    assert_int_equal(net.connected, -E_TIMEOUT);
    sim_isolate(net.server, false);
    assert_int_equal(sim_run(net.sim, 25000, NULL, NULL), SIM_IDLE); /* it left nothing behind */
    sim_destroy(net.sim);
}

static void a_crash_resets_the_peer(void **state)
{
    for (int power_loss = 0; power_loss < 2; power_loss++) {
        for (uint64_t seed = 0; seed < 10; seed++) {
            struct net net;
            net_open(&net, seed, NULL);
            sim_run(net.sim, 100 + seed, NULL, NULL);
            sim_host_crash(net.server, power_loss);
            assert_int_equal(sim_run(net.sim, power_loss ? 20000 : 20, net_ended, &net), SIM_DONE);
            assert_int_equal(net.last, -E_CONN);
            sim_destroy(net.sim);
        }
    }
}

static void a_restarted_host_resets_old_connections_and_serves_new_ones(void **state)
{
    struct net net;
    net_open(&net, 3, NULL);
    net.timeout_ms = 5000;
    sim_run(net.sim, 100, NULL, NULL);
    sim_host_crash(net.server, true);
    sim_run(net.sim, 1000, NULL, NULL);
    assert_false(net.ended);
    net.server_io = sim_host_restart(net.server);
    assert_int_equal(fiber_spawn(net.server_io, "serve", serve, &net), 0);
    assert_int_equal(sim_run(net.sim, 20000, net_ended, &net), SIM_DONE);
    unsigned answers = net.answers;
    assert_int_equal(fiber_spawn(net.client_io, "call", call, &net), 0);
    sim_run(net.sim, 1000, NULL, NULL);
    assert_true(net.answers > answers);
    sim_destroy(net.sim);
}

static void a_stop_says_goodbye(void **state)
{
    struct net net;
    net_open(&net, 3, NULL);
    sim_run(net.sim, 100, NULL, NULL);
    io_stop(net.server_io);
    assert_int_equal(sim_run(net.sim, 100, net_ended, &net), SIM_DONE);
    assert_int_equal(net.last, -E_CONN); /* an early end of the answer */
    sim_destroy(net.sim);
}

static uint64_t stormy_run(uint64_t seed, unsigned *answers)
{
    static const struct sim_options storm = {
        .net_slow_ppm = 20000, .loss_ppm = 3000, .reset_ppm = 3000, .reset_after_ms = 500, .clock_skew_ms = 100};
    struct net net;
    net_open(&net, seed, &storm);
    for (int i = 0; i < 300; i++) {
        sim_run(net.sim, 20, NULL, NULL);
        if (sim_random_u64(net.sim) % 50 == 0)
            sim_partition(net.client, net.server, sim_random_u64(net.sim) % 2);
        if (sim_random_u64(net.sim) % 40 == 0 && sim_host_up(net.server))
            sim_host_crash(net.server, sim_random_u64(net.sim) % 2);
        else if (!sim_host_up(net.server)) {
            net.server_io = sim_host_restart(net.server);
            assert_int_equal(fiber_spawn(net.server_io, "serve", serve, &net), 0);
        }
        if (net.ended) {
            net.ended = false;
            assert_int_equal(fiber_spawn(net.client_io, "call", call, &net), 0);
        }
    }
    /* Calm weather: it works again. */
    sim_partition(net.client, net.server, false);
    sim_set_options(net.sim, NULL);
    if (!sim_host_up(net.server)) {
        net.server_io = sim_host_restart(net.server);
        assert_int_equal(fiber_spawn(net.server_io, "serve", serve, &net), 0);
    }
    assert_true(sim_run(net.sim, 25000, net_ended, &net) != SIM_IDLE);
    if (net.ended)
        assert_int_equal(fiber_spawn(net.client_io, "call", call, &net), 0);
    *answers = net.answers;
    sim_run(net.sim, 1000, NULL, NULL);
    assert_true(net.answers > *answers + 50);
    uint64_t hash = sim_trace_hash(net.sim);
    sim_destroy(net.sim);
    return hash;
}

static void storms_are_deterministic_and_pass(void **state)
{
    for (uint64_t seed = 0; seed < 30; seed++) {
        unsigned answers, again;
        uint64_t hash = stormy_run(seed, &answers);
        assert_true(stormy_run(seed, &again) == hash);
        assert_int_equal(answers, again);
    }
}

/* ---- the simulation itself ---- */

static void only_production(void *arg)
{
    struct disk *disk = arg;
    char byte = 0;
    expect_equal(io_poll(disk->io, 0, 1, 1), -E_NOTSUP);
    expect_equal(io_read_fd(disk->io, 0, &byte, 1, -1), -E_NOTSUP);
    expect_equal(io_write_fd(disk->io, 1, &byte, 1, -1), -E_NOTSUP);
    disk->ready = true;
}

static void production_only_calls_are_refused(void **state)
{
    struct disk disk;
    disk_open(&disk, 1);
    disk_run(&disk, only_production);
    sim_destroy(disk.sim);
}

static void busy_fiber(void *arg)
{
    struct disk *disk = arg;
    while (io_mono_ms(disk->io) < 2000000000 && !io_stopping(disk->io))
        fiber_yield();
}

static void time_passes_for_busy_loops(void **state)
{
    struct disk disk;
    disk_open(&disk, 1);
    assert_int_equal(fiber_spawn(disk.io, "busy", busy_fiber, &disk), 0);
    assert_int_equal(sim_run(disk.sim, 10, NULL, NULL), SIM_TIME);
    assert_true(sim_now_ns(disk.sim) >= 10000000 && sim_now_ns(disk.sim) < 11000000);
    sim_destroy(disk.sim);
}

static void crasher(void *arg)
{
    struct disk *disk = arg;
    struct io_file *file = NULL;
    expect_equal(io_open(disk->io, "/f", O_RDWR | O_CREAT, 0600, &file), 0);
    sim_host_crash(disk->host, true);
    expect_equal(io_pwrite(file, "x", 1, 0), -E_CANCELED);
    io_close(file);
}

static void a_fiber_may_crash_its_own_host(void **state)
{
    struct disk disk;
    disk_open(&disk, 1);
    assert_int_equal(fiber_spawn(disk.io, "crasher", crasher, &disk), 0);
    assert_int_equal(sim_run(disk.sim, 1000, NULL, NULL), SIM_IDLE);
    sim_destroy(disk.sim);
}

/* ---- a host that stands still, clocks that are wrong, a disk that is slow, a crash at a write ---- */

static void wait_a_second(void *arg)
{
    struct disk *disk = arg;
    disk->result = io_sleep_ms(disk->io, 1000);
    disk->ready = true;
}

static void a_paused_host_stands_still_and_goes_on(void **state)
{
    struct disk disk;
    disk_open(&disk, 1);
    assert_int_equal(fiber_spawn(disk.io, "waits", wait_a_second, &disk), 0);
    assert_int_equal(sim_run(disk.sim, 500, is_ready, &disk), SIM_TIME);
    sim_host_pause(disk.host, true);
    uint64_t clock = io_mono_ms(disk.io);
    assert_int_equal(sim_run(disk.sim, 5000, is_ready, &disk), SIM_IDLE);
    sim_host_pause(disk.host, false);
    assert_int_equal(sim_run(disk.sim, 5000, is_ready, &disk), SIM_DONE);
    assert_true(disk.result == 0 && io_mono_ms(disk.io) >= clock + 400);
    sim_host_pause(disk.host, true);
    disk_crash(&disk, false); /* ends the pause */
    disk_run(&disk, wait_a_second);
    sim_destroy(disk.sim);
}

static void clocks_jump_and_drift(void **state)
{
    struct disk disk;
    disk_open(&disk, 1);
    uint64_t real = io_real_ns(disk.io), mono = io_mono_ns(disk.io);
    sim_clock_jump(disk.host, -5000);
    assert_true(io_real_ns(disk.io) == real - 5000000000 && io_mono_ns(disk.io) == mono);
    sim_clock_drift(disk.host, 250000);
    uint64_t began = sim_now_ns(disk.sim);
    disk_run(&disk, wait_a_second);
    uint64_t passed = sim_now_ns(disk.sim) - began, shown = io_mono_ns(disk.io) - mono;
    assert_true(shown >= 1000000000 && shown < 1001000000 && passed >= 800000000 && passed < 801000000);
    sim_clock_drift(disk.host, -250000);
    began = sim_now_ns(disk.sim);
    disk_run(&disk, wait_a_second);
    passed = sim_now_ns(disk.sim) - began;
    assert_true(passed >= 1333000000 && passed < 1335000000);
    sim_destroy(disk.sim);
}

static void a_slow_disk_takes_its_time(void **state)
{
    uint64_t took[2];
    for (unsigned slow = 0; slow < 2; slow++) {
        struct disk disk;
        disk_open(&disk, 1);
        sim_disk_slow(disk.host, slow == 0 ? 1 : 100);
        disk_run(&disk, write_synced_then_not);
        took[slow] = sim_now_ns(disk.sim);
        sim_destroy(disk.sim);
    }
    assert_true(took[1] > 90 * took[0]);
}

static void the_host_crashes_at_its_nth_operation(void **state)
{
    for (uint64_t nth = 1; nth <= 6; nth++) {
        struct disk disk;
        disk_open(&disk, nth);
        sim_disk_crash_at(disk.host, nth, false);
        disk.ready = false;
        assert_int_equal(fiber_spawn(disk.io, "disk", write_until_crashed, &disk), 0);
        enum sim_end end = sim_run(disk.sim, 60000, is_ready, &disk);
        assert_int_equal(end, nth <= 5 ? SIM_IDLE : SIM_DONE); /* it has five operations */
        assert_true(sim_host_up(disk.host) == (nth > 5));
        assert_int_equal(sim_disk_ops(disk.host), MIN(nth, (uint64_t)5));
        sim_destroy(disk.sim);
    }
}

int main(void)
{
    static struct CMUnitTest tests[64] = {
        cmocka_unit_test(crash_keeps_what_was_written),
        cmocka_unit_test(power_loss_keeps_drops_and_tears),
        cmocka_unit_test(names_need_sync_dir),
        cmocka_unit_test(rename_is_atomic),
        cmocka_unit_test(nothing_is_written_after_a_crash),
        cmocka_unit_test(the_nth_operation_fails),
        cmocka_unit_test(a_full_disk_refuses_and_frees),
        cmocka_unit_test(rot_flips_one_bit),
        cmocka_unit_test(a_short_partition_is_survived),
        cmocka_unit_test(a_long_partition_resets),
        cmocka_unit_test(connecting_into_a_partition_times_out),
        cmocka_unit_test(a_crash_resets_the_peer),
        cmocka_unit_test(a_restarted_host_resets_old_connections_and_serves_new_ones),
        cmocka_unit_test(a_stop_says_goodbye),
        cmocka_unit_test(storms_are_deterministic_and_pass),
        cmocka_unit_test(production_only_calls_are_refused),
        cmocka_unit_test(time_passes_for_busy_loops),
        cmocka_unit_test(a_fiber_may_crash_its_own_host),
        cmocka_unit_test(a_paused_host_stands_still_and_goes_on),
        cmocka_unit_test(clocks_jump_and_drift),
        cmocka_unit_test(a_slow_disk_takes_its_time),
        cmocka_unit_test(the_host_crashes_at_its_nth_operation),
    };
    size_t n = 0;
    while (tests[n].name != NULL)
        n++;
    for (size_t i = 0; i < n_io_suite; i++)
        tests[n++] = (struct CMUnitTest){
            .name = io_suite[i].name, .test_func = run_case, .initial_state = (void *)&io_suite[i]};
    return _cmocka_run_group_tests("io_sim", tests, n, NULL, NULL);
}
