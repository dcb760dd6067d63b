#include "harness.h"

#include "common/fiber.h"
#include "common/io_sim.h"
#include "tests/unit/common/io_suite.h"

#include <ftw.h>
#include <sys/stat.h>

#define SIM_MS_MAX 3600000 /* of virtual time */

struct run {
    struct io *io;
    const char *host, *dir;
    harness_body body;
    const void *arg;
    bool done;
};

static void run_fiber(void *arg)
{
    struct run *run = arg;
    run->body(run->io, run->host, run->dir, run->arg);
    run->done = true;
}

static void run_and_stop(void *arg)
{
    struct run *run = arg;
    run_fiber(run);
    io_stop(run->io);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void harness_ring(harness_body body, const void *arg)
{
    char dir[64];
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.40s/tarn-client-XXXXXX", tmp ? tmp : "/tmp");
    expect(mkdtemp(dir) != NULL);
    struct run run = {.host = "127.0.0.1", .dir = dir, .body = body, .arg = arg};
    expect_equal(io_uring_create(NULL, &run.io), 0);
    expect_equal(fiber_spawn(run.io, "body", run_and_stop, &run), 0);
    expect_equal(io_run(run.io), 0);
    io_destroy(run.io);
    expect(run.done);
    expect_equal(nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static bool is_done(void *arg)
{
    return ((const struct run *)arg)->done;
}

static void sim_fiber(void *arg)
{
    struct run *run = arg;
    expect_equal(io_mkdir(run->io, run->dir, 0700), 0);
    run_fiber(run);
}

void harness_sim(uint64_t seed, harness_body body, const void *arg)
{
    struct sim *sim = sim_create(seed, NULL);
    struct sim_host *host = sim_host_create(sim, "host");
    struct run run = {.io = sim_host_io(host), .host = "host", .dir = "/test", .body = body, .arg = arg};
    expect_equal(fiber_spawn(run.io, "body", sim_fiber, &run), 0);
    expect_equal(sim_run(sim, SIM_MS_MAX, is_done, &run), SIM_DONE);
    sim_destroy(sim);
}
