/* The common suite of rpc in the simulator, and what only it can do: lost messages, partitions,
 * hosts that die. Every failure prints its seed. */
#include "rpc_suite.h"

#include "common/io_sim.h"
#include "common/log.h"
#include "tests/unit/cmocka.h"

#define SEEDS 5
#define RUN_MS_MAX (30 * 60 * 1000)

/* ---- the suite, within one host ---- */

struct harness {
    struct io *io;
    suite_body body;
    bool done;
};

static void run_body(void *arg)
{
    struct harness *harness = arg;
    harness->body(harness->io, "/");
    harness->done = true;
}

static bool harness_done(void *arg)
{
    return ((struct harness *)arg)->done;
}

static void run_case(void **state)
{
    const struct suite_case *suite_case = *state;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct sim *sim = sim_create(seed, NULL);
        struct harness harness = {.body = suite_case->body};
        harness.io = sim_host_io(sim_host_create(sim, "a"));
        assert_int_equal(fiber_spawn(harness.io, "body", run_body, &harness), 0);
        enum sim_end end = sim_run(sim, RUN_MS_MAX, harness_done, &harness);
        if (end != SIM_DONE)
            fprintf(stderr, "seed %llu: %s did not end\n", (unsigned long long)seed,
                    suite_case->name);
        assert_int_equal(end, SIM_DONE);
        sim_destroy(sim);
    }
}

/* ---- two hosts in bad weather ---- */

#define CALLERS 12
#define CALLS 25

struct storm {
    struct sim *sim;
    struct sim_host *server_host, *client_host;
    struct bench bench;
    struct rpc_client *client;
    bool serving;
    unsigned callers, tries, failures;
};

static void serve(void *arg)
{
    struct storm *storm = arg;
    bench_start(&storm->bench, sim_host_io(storm->server_host), "tcp:server:7000");
    storm->serving = true;
}

static bool is_serving(void *arg)
{
    return ((struct storm *)arg)->serving;
}

static bool expected_failure(int err)
{
    return err == -E_CONN || err == -E_TIMEOUT || err == -E_BUSY || err == -E_CANCELED;
}

/* One echo with a payload that only this call has; the answer is right or the call has failed. */
static int one_call(struct storm *storm, struct io *io)
{
    size_t n = io_random_u64(io) % 100000;
    uint8_t *data = malloc(n + 1), *into = malloc(n + 1);
    io_random(io, data, n);
    bool aside = io_random_u64(io) % 2;
    Tarn__ErrorDetail text = TARN__ERROR_DETAIL__INIT;
    struct rpc_call call = {.op = OP_ECHO,
                            .request = &text.base,
                            .payload = &(struct iovec){data, n},
                            .n_payload = 1,
                            .timeout_ms = 1 + io_random_u64(io) % 3000,
                            .into = aside ? into : NULL,
                            .into_size = n};
    int err = rpc_call(storm->client, &call);
    if (err == 0) {
        expect_equal(call.reply_payload_len, n);
        expect(n == 0 || memcmp(call.reply_payload, data, n) == 0);
    } else {
        expect(expected_failure(err));
    }
    rpc_call_fini(&call);
    free(data);
    free(into);
    return err;
}

static void storm_caller(void *arg)
{
    struct storm *storm = arg;
    struct io *io = fiber_io();
    for (unsigned done = 0; done < CALLS;) {
        storm->tries++;
        if (one_call(storm, io) == 0) {
            done++;
            continue;
        }
        storm->failures++;
        expect_equal(io_sleep_ms(io, 1 + io_random_u64(io) % 50), 0);
    }
    storm->callers--;
}

static bool callers_done(void *arg)
{
    return ((struct storm *)arg)->callers == 0;
}

static bool never(void *arg)
{
    return false;
}

static void start_storm(struct storm *storm, uint64_t seed)
{
    *storm = (struct storm){.sim = sim_create(seed, NULL)};
    storm->server_host = sim_host_create(storm->sim, "server");
    storm->client_host = sim_host_create(storm->sim, "client");
    assert_int_equal(fiber_spawn(sim_host_io(storm->server_host), "serve", serve, storm), 0);
    assert_int_equal(sim_run(storm->sim, 1000, is_serving, storm), SIM_DONE);
    struct bench *bench = &storm->bench;
    storm->client =
        rpc_client_create(sim_host_io(storm->client_host), bench->address, &bench->auth);
    assert_non_null(storm->client);
}

static void start_callers(struct storm *storm)
{
    for (; storm->callers < CALLERS; storm->callers++)
        assert_int_equal(
            fiber_spawn(sim_host_io(storm->client_host), "caller", storm_caller, storm), 0);
}

struct ending {
    struct storm *storm;
    bool done;
};

static void stop_storm_server(void *arg)
{
    struct ending *ending = arg;
    bench_stop(&ending->storm->bench);
    ending->done = true;
}

static bool ended(void *arg)
{
    return ((struct ending *)arg)->done;
}

static void end_storm(struct storm *storm, uint64_t seed)
{
    enum sim_end end = sim_run(storm->sim, RUN_MS_MAX, callers_done, storm);
    if (end != SIM_DONE)
        fprintf(stderr, "seed %llu: %u callers did not end\n", (unsigned long long)seed,
                storm->callers);
    assert_int_equal(end, SIM_DONE);
    rpc_client_destroy(storm->client);
    struct ending ending = {.storm = storm};
    assert_int_equal(
        fiber_spawn(sim_host_io(storm->server_host), "stop", stop_storm_server, &ending), 0);
    assert_int_equal(sim_run(storm->sim, RUN_MS_MAX, ended, &ending), SIM_DONE);
    sim_destroy(storm->sim);
}

static void lost_and_reset_connections_are_survived(void **state)
{
    unsigned failures = 0;
    for (uint64_t seed = 1; seed <= 2 * SEEDS; seed++) {
        struct storm storm;
        start_storm(&storm, seed);
        sim_set_options(storm.sim, &(struct sim_options){
                                       .loss_ppm = 2000, .reset_ppm = 5000, .net_slow_ppm = 10000});
        start_callers(&storm);
        sim_run(storm.sim, 20000, callers_done, &storm);
        sim_set_options(storm.sim, NULL);
        end_storm(&storm, seed);
        failures += storm.failures;
    }
    assert_true(failures > 0);
}

static void partitions_are_survived(void **state)
{
    unsigned failures = 0;
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct storm storm;
        start_storm(&storm, seed);
        start_callers(&storm);
        for (int i = 0; i < 6; i++) {
            sim_run(storm.sim, 1 + sim_random_u64(storm.sim) % 5, never, NULL);
            sim_partition(storm.server_host, storm.client_host, true);
            sim_run(storm.sim, sim_random_u64(storm.sim) % 12000, never, NULL);
            sim_partition(storm.server_host, storm.client_host, false);
        }
        end_storm(&storm, seed);
        failures += storm.failures;
    }
    assert_true(failures > 0);
}

static void a_server_that_dies_is_found_again(void **state)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct storm storm;
        start_storm(&storm, seed);
        start_callers(&storm);
        for (int i = 0; i < 4; i++) {
            sim_run(storm.sim, 1 + sim_random_u64(storm.sim) % 5, never, NULL);
            struct rpc_server *old = storm.bench.server;
            sim_host_crash(storm.server_host, i % 2);
            rpc_server_stop(old); /* the fibers have unwound */
            storm.serving = false;
            struct io *io = sim_host_restart(storm.server_host);
            assert_int_equal(fiber_spawn(io, "serve", serve, &storm), 0);
            assert_int_equal(sim_run(storm.sim, 1000, is_serving, &storm), SIM_DONE);
        }
        end_storm(&storm, seed);
    }
}

static void lonely_caller(void *arg)
{
    struct storm *storm = arg;
    int err;
    while ((err = one_call(storm, fiber_io())) != -E_CANCELED) {
        if (err != 0 && io_sleep_ms(fiber_io(), 10) != 0)
            break;
    }
}

static bool no_connection(void *arg)
{
    struct storm *storm = arg;
    return storm->bench.opened > 0 && storm->bench.opened == storm->bench.closed;
}

static void a_client_that_dies_is_forgotten(void **state)
{
    for (uint64_t seed = 1; seed <= 2 * SEEDS; seed++) {
        struct storm storm;
        start_storm(&storm, seed);
        struct io *io = sim_host_io(storm.client_host);
        struct rpc_client *client = storm.client;
        for (int i = 0; i < 5; i++)
            assert_int_equal(fiber_spawn(io, "lonely", lonely_caller, &storm), 0);
        sim_run(storm.sim, 1 + sim_random_u64(storm.sim) % 20, never, NULL);
        bool opened = storm.bench.opened > 0;
        sim_host_crash(storm.client_host, false);
        rpc_client_destroy(client);
        if (opened)
            assert_int_equal(sim_run(storm.sim, 60000, no_connection, &storm), SIM_DONE);
        storm.client = rpc_client_create(sim_host_restart(storm.client_host), storm.bench.address,
                                         &storm.bench.auth);
        end_storm(&storm, seed);
    }
}

int main(void)
{
    log_init("rpc_sim_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[64] = {
        cmocka_unit_test(lost_and_reset_connections_are_survived),
        cmocka_unit_test(partitions_are_survived),
        cmocka_unit_test(a_server_that_dies_is_found_again),
        cmocka_unit_test(a_client_that_dies_is_forgotten),
    };
    size_t n = 4;
    for (size_t i = 0; i < n_rpc_suite; i++)
        tests[n++] =
            (struct CMUnitTest){rpc_suite[i].name, run_case, NULL, NULL, (void *)&rpc_suite[i]};
    for (size_t i = 0; i < n_rpc_slow_suite; i++)
        tests[n++] = (struct CMUnitTest){rpc_slow_suite[i].name, run_case, NULL, NULL,
                                         (void *)&rpc_slow_suite[i]};
    for (size_t i = 0; i < n_rpc_stream_suite; i++)
        tests[n++] = (struct CMUnitTest){rpc_stream_suite[i].name, run_case, NULL, NULL,
                                         (void *)&rpc_stream_suite[i]};
    for (size_t i = 0; i < n_rpc_unanswered_suite; i++)
        tests[n++] = (struct CMUnitTest){rpc_unanswered_suite[i].name, run_case, NULL, NULL,
                                         (void *)&rpc_unanswered_suite[i]};
    return _cmocka_run_group_tests("rpc in the simulator", tests, n, NULL, NULL);
}
