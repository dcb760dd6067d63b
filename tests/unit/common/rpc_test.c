/* The common suite of rpc on the ring, and what only production has: descriptors. */
#include "rpc_suite.h"

#include "common/log.h"
#include "tests/unit/cmocka.h"
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

struct harness {
    struct io *io;
    suite_body body;
    char dir[64];
};

static void run_body(void *arg)
{
    struct harness *harness = arg;
    harness->body(harness->io, harness->dir);
    io_stop(harness->io);
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void run_case(void **state)
{
    const struct suite_case *suite_case = *state;
    struct harness harness = {.body = suite_case->body};
    const char *tmp = getenv("TMPDIR");
    snprintf(harness.dir, sizeof harness.dir, "%.40s/tarn-rpc-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(harness.dir));
    assert_int_equal(io_uring_create(NULL, &harness.io), 0);
    assert_int_equal(fiber_spawn(harness.io, "body", run_body, &harness), 0);
    assert_int_equal(io_run(harness.io), 0);
    io_destroy(harness.io);
    assert_int_equal(nftw(harness.dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void a_descriptor_is_passed(struct io *io, const char *dir)
{
    struct bench bench;
    char address[128];
    snprintf(address, sizeof address, "unix:%s/sock", dir);
    bench_start(&bench, io, address);
    struct rpc_client *client = bench_client(&bench);
    int ends[2];
    expect_equal(pipe2(ends, O_CLOEXEC), 0);
    Tarn__ErrorDetail text = TARN__ERROR_DETAIL__INIT;
    struct rpc_call call = {.op = OP_FD, .request = &text.base};
    int fd = -1;
    expect_equal(rpc_call_fd(client, &call, &fd), -E_NOENT);
    expect_equal(fd, -1);
    bench.fd = ends[1];
    for (int i = 0; i < 10; i++) {
        expect_equal(rpc_call_fd(client, &call, &fd), 0);
        expect((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
        expect_equal(write(fd, "z", 1), 1);
        char byte = 0;
        expect_equal(read(ends[0], &byte, 1), 1);
        expect_equal(byte, 'z');
        close(fd);
        struct rpc_call echo = {.op = OP_ECHO,
                                .request = &text.base,
                                .payload = &(struct iovec){"abc", 3},
                                .n_payload = 1};
        expect_equal(rpc_call(client, &echo), 0);
        expect(memcmp(echo.reply_payload, "abc", 3) == 0);
        rpc_call_fini(&echo);
    }
    expect_equal(bench.opened, 1);
    expect(rpc_conn_is_local(bench.last));
    close(ends[0]);
    close(ends[1]);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static const struct suite_case more[] = {{"a_descriptor_is_passed", a_descriptor_is_passed}};

int main(void)
{
    log_init("rpc_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[64];
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(more); i++)
        tests[n++] = (struct CMUnitTest){more[i].name, run_case, NULL, NULL, (void *)&more[i]};
    for (size_t i = 0; i < n_rpc_suite; i++)
        tests[n++] =
            (struct CMUnitTest){rpc_suite[i].name, run_case, NULL, NULL, (void *)&rpc_suite[i]};
    for (size_t i = 0; i < n_rpc_stream_suite; i++)
        tests[n++] = (struct CMUnitTest){rpc_stream_suite[i].name, run_case, NULL, NULL,
                                         (void *)&rpc_stream_suite[i]};
    for (size_t i = 0; i < n_rpc_unanswered_suite; i++)
        tests[n++] = (struct CMUnitTest){rpc_unanswered_suite[i].name, run_case, NULL, NULL,
                                         (void *)&rpc_unanswered_suite[i]};
    return _cmocka_run_group_tests("rpc", tests, n, NULL, NULL);
}
