/* The common suite on the ring, and what only production has: descriptors, threads, signals. */
#include "io_suite.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <ftw.h>

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

static void run(suite_body body)
{
    struct harness harness = {.body = body};
    const char *tmp = getenv("TMPDIR");
    snprintf(harness.dir, sizeof harness.dir, "%s/tarn-io-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(harness.dir));
    assert_int_equal(io_uring_create(NULL, &harness.io), 0);
    assert_int_equal(fiber_spawn(harness.io, "body", run_body, &harness), 0);
    assert_int_equal(io_run(harness.io), 0);
    io_destroy(harness.io);
    assert_int_equal(nftw(harness.dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static void run_case(void **state)
{
    const struct suite_case *suite_case = *state;
    run(suite_case->body);
}

/* ---- production only ---- */

static void poll_and_pipe_body(struct io *io, const char *dir)
{
    int fds[2];
    expect_equal(pipe2(fds, O_CLOEXEC), 0);
    char buf[4] = {0};
    expect_equal(io_poll(io, fds[0], POLLIN, 1), -E_TIMEOUT);
    expect_equal(io_write_fd(io, fds[1], "abc", 3, -1), 3);
    expect_equal(io_poll(io, fds[0], POLLIN, 0), POLLIN);
    expect_equal(io_read_fd(io, fds[0], buf, 4, -1), 3);
    expect_equal(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
    expect_equal(write(fds[1], "d", 1), 1);
    expect_equal(io_read_fd(io, fds[0], buf, 4, -1), 1);
    close(fds[1]);
    expect_equal(io_read_fd(io, fds[0], buf, 4, -1), 0);
    expect_equal(io_read_fd(io, -1, buf, 4, -1), -E_BADF);
    close(fds[0]);
}
static void poll_and_pipe(void **state) { run(poll_and_pipe_body); }

struct reader {
    struct io *io;
    int fd;
    int64_t result;
    struct fiber_group group;
};
static void read_pipe(void *arg)
{
    struct reader *reader = arg;
    char byte;
    reader->result = io_read_fd(reader->io, reader->fd, &byte, 1, -1);
    fiber_group_done(&reader->group);
}
static void stop_ends_pipe_reads_body(struct io *io, const char *dir)
{
    int fds[2];
    expect_equal(pipe2(fds, O_CLOEXEC), 0);
    struct reader blocking = {.io = io, .fd = fds[0]}, other = blocking;
    other.fd = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);
    fiber_group_add(&blocking.group);
    fiber_group_add(&other.group);
    expect_equal(fiber_spawn(io, "read", read_pipe, &blocking), 0);
    expect_equal(fiber_spawn(io, "read", read_pipe, &other), 0);
    expect_equal(io_sleep_ms(io, 1), 0);
    io_stop(io);
    fiber_group_wait(&blocking.group);
    fiber_group_wait(&other.group);
    expect_equal(blocking.result, -E_CANCELED);
    expect_equal(other.result, -E_CANCELED);
    close(other.fd);
    close(fds[0]);
    close(fds[1]);
}
static void stop_ends_pipe_reads(void **state) { run(stop_ends_pipe_reads_body); }

struct fd_peer {
    struct io_listener *listener;
    int fd, result;
    struct fiber_group group;
};
static void receive_fd(void *arg)
{
    struct fd_peer *peer = arg;
    struct io_sock *sock = NULL;
    expect_equal(io_accept(peer->listener, &sock), 0);
    expect_equal(io_recv_fd(sock, &peer->fd, 1), -E_TIMEOUT);
    expect_equal(io_send(sock, "k", 1), 0);
    peer->result = io_recv_fd(sock, &peer->fd, 1000);
    int none;
    expect_equal(io_recv_fd(sock, &none, 1000), -E_PROTO); /* a byte without a descriptor */
    expect_equal(io_recv_fd(sock, &none, 1000), -E_CONN);
    io_sock_close(sock);
    fiber_group_done(&peer->group);
}
static void passes_descriptors_body(struct io *io, const char *dir)
{
    char address[128];
    snprintf(address, sizeof address, "unix:%s/s", dir);
    struct fd_peer peer = {.result = -1};
    expect_equal(io_listen(io, address, &peer.listener), 0);
    fiber_group_add(&peer.group);
    expect_equal(fiber_spawn(io, "receive fd", receive_fd, &peer), 0);
    struct io_sock *sock = NULL;
    expect_equal(io_connect(io, address, 0, &sock), 0);
    char byte;
    expect_equal(io_recv_all(sock, &byte, 1, 0), 0);
    int fds[2];
    expect_equal(pipe2(fds, O_CLOEXEC), 0);
    expect_equal(io_send_fd(sock, fds[1]), 0);
    expect_equal(io_send(sock, "x", 1), 0);
    io_sock_close(sock);
    fiber_group_wait(&peer.group);
    expect_equal(peer.result, 0);
    expect(fcntl(peer.fd, F_GETFD) & FD_CLOEXEC);
    expect_equal(write(peer.fd, "y", 1), 1);
    expect_equal(read(fds[0], &byte, 1), 1);
    close(peer.fd);
    close(fds[0]);
    close(fds[1]);
    io_listener_close(peer.listener);
}
static void passes_descriptors(void **state) { run(passes_descriptors_body); }

struct poster {
    struct io *io;
    struct fiber *fiber;
    int count;
};
enum { POSTS = 20000 };
static void posted(void *arg)
{
    struct poster *poster = arg;
    poster->count++;
    fiber_wake(poster->fiber);
}
static void *post_thread(void *arg)
{
    struct poster *poster = arg;
    for (int i = 0; i < POSTS; i++)
        expect_equal(io_post(poster->io, posted, poster), 0);
    return NULL;
}
static void posts_from_threads_body(struct io *io, const char *dir)
{
    struct poster poster = {.io = io, .fiber = fiber_self()};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        expect_equal(pthread_create(&threads[i], NULL, post_thread, &poster), 0);
    while (poster.count < 2 * POSTS)
        expect_equal(fiber_suspend(), 0);
    for (int i = 0; i < 2; i++)
        expect_equal(pthread_join(threads[i], NULL), 0);
}
static void posts_from_threads(void **state) { run(posts_from_threads_body); }

static void signals_body(struct io *io, const char *dir)
{
    int signals[] = {SIGUSR1, 0};
    expect_equal(io_stop_on_signals(io, signals), 0);
    expect_equal(io_sleep_ms(io, 0), 0);
    expect_equal(kill(getpid(), SIGUSR1), 0);
    expect_equal(fiber_suspend(), -E_CANCELED);
}
static void signals_stop(void **state) { run(signals_body); }

static int *slow_gate;
static void slow_work(void *arg)
{
    char byte;
    expect_equal(read(slow_gate[0], &byte, 1), 1);
    ++*(int *)arg;
}
static void stopper(void *arg)
{
    io_stop(arg);
    expect_equal(write(slow_gate[1], "g", 1), 1);
}
static void work_ends_before_the_stop_body(struct io *io, const char *dir)
{
    int fds[2], count = 0;
    expect_equal(pipe2(fds, O_CLOEXEC), 0);
    slow_gate = fds;
    expect_equal(fiber_spawn(io, "stopper", stopper, io), 0);
    expect_equal(io_work(io, slow_work, &count), 0);
    expect_equal(count, 1);
    expect_equal(io_work(io, slow_work, &count), -E_CANCELED);
    close(fds[0]);
    close(fds[1]);
}
static void work_ends_before_the_stop(void **state) { run(work_ends_before_the_stop_body); }

static void limit_of_fibers(void **state)
{
    struct io *io;
    assert_int_equal(io_uring_create(&(struct io_options){.fibers = 1}, &io), 0);
    assert_int_equal(fiber_spawn(io, "one", (fiber_fn)io_stop, io), 0);
    assert_int_equal(fiber_spawn(io, "two", (fiber_fn)io_stop, io), -E_BUSY);
    assert_int_equal(io_run(io), 0);
    assert_int_equal(io_post(io, posted, NULL), -E_CANCELED);
    io_destroy(io);
}

int main(void)
{
    static struct CMUnitTest tests[64] = {
        cmocka_unit_test(poll_and_pipe),      cmocka_unit_test(stop_ends_pipe_reads),
        cmocka_unit_test(passes_descriptors), cmocka_unit_test(posts_from_threads),
        cmocka_unit_test(signals_stop),       cmocka_unit_test(work_ends_before_the_stop),
        cmocka_unit_test(limit_of_fibers),
    };
    size_t n = 0;
    while (tests[n].name != NULL)
        n++;
    for (size_t i = 0; i < n_io_suite; i++)
        tests[n++] = (struct CMUnitTest){
            .name = io_suite[i].name, .test_func = run_case, .initial_state = (void *)&io_suite[i]};
    return _cmocka_run_group_tests("io_uring", tests, n, NULL, NULL);
}
