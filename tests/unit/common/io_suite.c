#include "io_suite.h"
#include <fcntl.h>

static const char *path_in(const char *dir, const char *name)
{
    static __thread char path[4][256];
    static __thread unsigned next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

/* ---- fibers ---- */

struct trace {
    char text[64];
    size_t n;
    struct fiber_mutex mutex;
    struct fiber_group group;
    struct fiber_queue queue;
    struct fiber *fiber;
    struct io *io;
    int result;
};
struct letter {
    struct trace *trace;
    char c;
};

static void mark(struct trace *trace, char c)
{
    trace->text[trace->n++] = c;
    trace->text[trace->n] = 0;
}

static void letter_twice(void *arg)
{
    struct letter *letter = arg;
    mark(letter->trace, letter->c);
    fiber_yield();
    mark(letter->trace, letter->c);
    fiber_group_done(&letter->trace->group);
}

static void spawn_is_fifo_and_never_runs_inside(struct io *io, const char *dir)
{
    struct trace trace = {0};
    struct letter letters[] = {{&trace, 'a'}, {&trace, 'b'}, {&trace, 'c'}};
    for (int i = 0; i < 3; i++) {
        fiber_group_add(&trace.group);
        expect_equal(fiber_spawn(io, "letter", letter_twice, &letters[i]), 0);
    }
    expect_equal(trace.n, 0);
    fiber_group_wait(&trace.group);
    expect(strcmp(trace.text, "abcabc") == 0);
}

static void letter_locked(void *arg)
{
    struct letter *letter = arg;
    expect_equal(fiber_mutex_lock(&letter->trace->mutex), 0);
    mark(letter->trace, letter->c);
    fiber_yield();
    mark(letter->trace, letter->c);
    fiber_mutex_unlock(&letter->trace->mutex);
    fiber_group_done(&letter->trace->group);
}

static void mutex_is_first_come_first_served(struct io *io, const char *dir)
{
    struct trace trace = {0};
    struct letter letters[] = {{&trace, 'a'}, {&trace, 'b'}, {&trace, 'c'}};
    for (int i = 0; i < 3; i++) {
        fiber_group_add(&trace.group);
        expect_equal(fiber_spawn(io, "locked", letter_locked, &letters[i]), 0);
    }
    fiber_group_wait(&trace.group);
    expect(strcmp(trace.text, "aabbcc") == 0);
    expect(!trace.mutex.held);
}

static void waker(void *arg)
{
    struct trace *trace = arg;
    fiber_wake(trace->fiber);
}

static void wake_before_suspend_is_remembered(struct io *io, const char *dir)
{
    fiber_wake(fiber_self());
    fiber_wake(fiber_self());
    expect_equal(fiber_suspend(), 0); /* one is kept, not two */
    struct trace trace = {.fiber = fiber_self()};
    expect_equal(fiber_spawn(io, "waker", waker, &trace), 0);
    expect_equal(fiber_suspend(), 0);
}

static void wake_during_io_is_kept_for_suspend(struct io *io, const char *dir)
{
    struct trace trace = {.fiber = fiber_self()};
    expect_equal(fiber_spawn(io, "waker", waker, &trace), 0);
    expect_equal(io_sleep_ms(io, 2), 0);
    expect_equal(fiber_suspend(), 0);
}

static void queue_times_out_and_wakes(struct io *io, const char *dir)
{
    struct fiber_queue queue = {0};
    uint64_t before = io_mono_ns(io);
    expect_equal(fiber_queue_wait(&queue, 3), -E_TIMEOUT);
    expect(io_mono_ns(io) - before >= 3000000);
    expect(queue.head == NULL && queue.tail == NULL);
}

static void queue_waiter(void *arg)
{
    struct letter *letter = arg;
    int r = fiber_queue_wait(&letter->trace->queue, letter->c == 'b' ? 1 : 0);
    mark(letter->trace, r == 0 ? letter->c : r == -E_TIMEOUT ? 't' : 'x');
    fiber_group_done(&letter->trace->group);
}

static void queue_wakes_in_order_and_leaves_out_timed_out(struct io *io, const char *dir)
{
    struct trace trace = {0};
    struct letter letters[] = {{&trace, 'a'}, {&trace, 'b'}, {&trace, 'c'}};
    for (int i = 0; i < 3; i++) {
        fiber_group_add(&trace.group);
        expect_equal(fiber_spawn(io, "waiter", queue_waiter, &letters[i]), 0);
    }
    expect_equal(io_sleep_ms(io, 5), 0);
    expect(strcmp(trace.text, "t") == 0);
    fiber_queue_wake_one(&trace.queue);
    fiber_queue_wake_all(&trace.queue);
    fiber_group_wait(&trace.group);
    expect(strcmp(trace.text, "tac") == 0);
}

static void sleep_one(void *arg)
{
    struct trace *trace = arg;
    expect_equal(io_sleep_ms(trace->io, 1 + trace->n++ % 7), 0);
    fiber_group_done(&trace->group);
}

static void many_fibers(struct io *io, const char *dir)
{
    struct trace trace = {.io = io};
    for (int i = 0; i < 5000; i++) {
        fiber_group_add(&trace.group);
        expect_equal(fiber_spawn(io, "sleeper", sleep_one, &trace), 0);
    }
    fiber_group_wait(&trace.group);
    expect_equal(trace.n, 5000);
}

static void deep_stack(void *arg)
{
    volatile char use[160 * 1024];
    for (size_t i = 0; i < sizeof use; i += 1024)
        use[i] = (char)i;
    fiber_yield();
    for (size_t i = 0; i < sizeof use; i += 1024)
        expect(use[i] == (char)i);
    fiber_group_done(arg);
}

static void stacks_are_separate_and_deep(struct io *io, const char *dir)
{
    struct fiber_group group = {0};
    for (int i = 0; i < 8; i++) {
        fiber_group_add(&group);
        expect_equal(fiber_spawn(io, "deep", deep_stack, &group), 0);
    }
    fiber_group_wait(&group);
}

/* ---- time and chance ---- */

static void clocks_and_chance(struct io *io, const char *dir)
{
    uint64_t before = io_mono_ns(io);
    expect_equal(io_sleep_ms(io, 2), 0);
    expect(io_mono_ns(io) - before >= 2000000);
    expect(io_real_ns(io) > 1600000000ull * 1000000000ull);
    uint64_t a = io_random_u64(io), b = io_random_u64(io);
    expect(a != b);
    uint8_t large[1000] = {0}, zero[1000] = {0};
    io_random(io, large, sizeof large);
    expect(memcmp(large, zero, sizeof large) != 0);
}

static void set_flag(void *arg)
{
    struct trace *trace = arg;
    expect(fiber_self() == NULL);
    fiber_wake(trace->fiber);
    trace->result = 1;
}

static void post_runs_on_the_loop(struct io *io, const char *dir)
{
    struct trace trace = {.fiber = fiber_self()};
    expect_equal(io_post(io, set_flag, &trace), 0);
    expect_equal(trace.result, 0);
    while (!trace.result)
        expect_equal(fiber_suspend(), 0);
}

static void add_one(void *arg)
{
    ++*(int *)arg;
}

static void work_returns_after_the_function(struct io *io, const char *dir)
{
    int count = 0;
    for (int i = 0; i < 100; i++)
        expect_equal(io_work(io, add_one, &count), 0);
    expect_equal(count, 100);
}

/* ---- files ---- */

static void files_write_read_sync(struct io *io, const char *dir)
{
    struct io_file *file = NULL;
    expect_equal(io_open(io, path_in(dir, "none"), O_RDONLY, 0, &file), -E_NOENT);
    expect_equal(io_open(io, path_in(dir, "f"), O_RDWR | O_CREAT | O_EXCL, 0600, &file), 0);
    expect_equal(io_pwrite(file, "hello world", 11, 0), 0);
    struct iovec iov[] = {{"there", 5}, {"", 0}, {"!", 1}};
    expect_equal(io_pwritev(file, iov, 3, 6), 0);
    expect_equal(io_sync(file), 0);
    char buf[64] = {0};
    expect_equal(io_pread(file, buf, sizeof buf, 0), 12);
    expect(memcmp(buf, "hello there!", 12) == 0);
    expect_equal(io_pread(file, buf, sizeof buf, 12), 0);
    expect_equal(io_pread(file, buf, 3, 10000), 0);
    io_closep(&file);
    expect(file == NULL);
    expect_equal(io_open(io, path_in(dir, "f"), O_RDWR | O_CREAT | O_EXCL, 0600, &file), -E_EXIST);
    expect_equal(io_open(io, path_in(dir, "f"), O_RDWR | O_TRUNC, 0600, &file), 0);
    uint64_t size = 1;
    expect_equal(io_size(file, &size), 0);
    expect_equal(size, 0);
    io_close(file);
    expect_equal(io_sync_dir(io, dir), 0);
}

static void files_large(struct io *io, const char *dir)
{
    enum { N = 3 * 1024 * 1024 + 77 };
    _cleanup_free_ uint8_t *out = malloc(N);
    _cleanup_free_ uint8_t *in = calloc(1, N);
    for (size_t i = 0; i < N; i++)
        out[i] = (uint8_t)(i * 31 + i / 4096);
    _cleanup_(io_closep) struct io_file *file = NULL;
    expect_equal(io_open(io, path_in(dir, "large"), O_RDWR | O_CREAT, 0600, &file), 0);
    struct iovec iov[100];
    size_t at = 0;
    for (int i = 0; i < 100; i++) {
        iov[i].iov_base = out + at;
        iov[i].iov_len = i < 99 ? N / 100 : N - at;
        at += iov[i].iov_len;
    }
    expect_equal(io_pwritev(file, iov, 100, 5000), 0);
    expect_equal(io_pread(file, in, N, 5000), N);
    expect(memcmp(in, out, N) == 0);
    expect_equal(io_pread(file, in, 5000, 0), 5000);
    for (int i = 0; i < 5000; i++)
        expect(in[i] == 0);
}

static void files_direct(struct io *io, const char *dir)
{
    _cleanup_free_ uint8_t *buf = aligned_alloc(4096, 16384);
    memset(buf, 7, 16384);
    _cleanup_(io_closep) struct io_file *file = NULL;
    expect_equal(io_open(io, path_in(dir, "direct"), O_RDWR | O_CREAT | O_DIRECT | O_DSYNC, 0600, &file), 0);
    expect_equal(io_allocate(file, 0, 65536), 0);
    expect_equal(io_pwrite(file, buf, 16384, 4096), 0);
    memset(buf, 1, 16384);
    expect_equal(io_pread(file, buf, 8192, 0), 8192);
    expect(buf[0] == 0 && buf[4095] == 0 && buf[4096] == 7);
    expect_equal(io_truncate(file, 5000), 0);
    expect_equal(io_pread(file, buf, 16384, 0), 5000);
}

static void files_truncate_allocate(struct io *io, const char *dir)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    expect_equal(io_open(io, path_in(dir, "t"), O_RDWR | O_CREAT, 0600, &file), 0);
    expect_equal(io_pwrite(file, "abcdef", 6, 0), 0);
    expect_equal(io_truncate(file, 3), 0);
    expect_equal(io_truncate(file, 5), 0);
    char buf[8] = {0};
    expect_equal(io_pread(file, buf, 8, 0), 5);
    expect(memcmp(buf, "abc\0\0", 5) == 0);
    expect_equal(io_allocate(file, 0, 100000), 0);
    uint64_t size = 0;
    expect_equal(io_size(file, &size), 0);
    expect_equal(size, 100000);
    expect_equal(io_pread(file, buf, 8, 99998), 2);
}

static int collect(void *arg, const char *name)
{
    char *text = arg;
    strcat(strcat(text, name), " ");
    return strcmp(name, "stop") == 0 ? 42 : 0;
}

static void touch(struct io *io, const char *path)
{
    struct io_file *file = NULL;
    expect_equal(io_open(io, path, O_WRONLY | O_CREAT, 0600, &file), 0);
    io_close(file);
}

static void names(struct io *io, const char *dir)
{
    char text[128] = "";
    expect_equal(io_mkdir(io, path_in(dir, "sub"), 0700), 0);
    expect_equal(io_mkdir(io, path_in(dir, "sub"), 0700), -E_EXIST);
    expect_equal(io_mkdir(io, path_in(dir, "no/sub"), 0700), -E_NOENT);
    touch(io, path_in(dir, "sub/b"));
    touch(io, path_in(dir, "sub/a"));
    touch(io, path_in(dir, "sub/B"));
    expect_equal(io_list(io, path_in(dir, "sub"), collect, text), 0);
    expect(strcmp(text, "B a b ") == 0);
    expect_equal(io_rename(io, path_in(dir, "sub/a"), path_in(dir, "sub/b")), 0);
    expect_equal(io_rename(io, path_in(dir, "sub/a"), path_in(dir, "sub/b")), -E_NOENT);
    expect_equal(io_unlink(io, path_in(dir, "sub/B")), 0);
    expect_equal(io_unlink(io, path_in(dir, "sub/B")), -E_NOENT);
    touch(io, path_in(dir, "sub/stop"));
    touch(io, path_in(dir, "sub/z"));
    text[0] = 0;
    expect_equal(io_list(io, path_in(dir, "sub"), collect, text), 42);
    expect(strcmp(text, "b stop ") == 0);
    expect_equal(io_list(io, path_in(dir, "none"), collect, text), -E_NOENT);
    expect_equal(io_sync_dir(io, path_in(dir, "sub")), 0);
    struct io_file *file = NULL;
    expect_equal(io_open(io, path_in(dir, "sub/b/x"), O_RDONLY, 0, &file), -E_NOTDIR);
    expect_equal(io_open(io, path_in(dir, "sub"), O_RDWR, 0, &file), -E_ISDIR);
    uint64_t total = 0, available = 0;
    expect_equal(io_statfs(io, dir, &total, &available), 0);
    expect(total > 0 && available <= total);
}

static void unlinked_file_lives_until_closed(struct io *io, const char *dir)
{
    _cleanup_(io_closep) struct io_file *file = NULL;
    expect_equal(io_open(io, path_in(dir, "u"), O_RDWR | O_CREAT, 0600, &file), 0);
    expect_equal(io_unlink(io, path_in(dir, "u")), 0);
    expect_equal(io_pwrite(file, "still", 5, 0), 0);
    char buf[8];
    expect_equal(io_pread(file, buf, 8, 0), 5);
}

/* ---- sockets ---- */

struct peer {
    struct io *io;
    struct io_listener *listener;
    struct io_sock *sock; /* the server's end */
    struct io_sock *client;
    struct fiber_group group;
    int64_t result;
    char address[256];
};

static void accept_one(void *arg)
{
    struct peer *peer = arg;
    expect_equal(io_accept(peer->listener, &peer->sock), 0);
    fiber_group_done(&peer->group);
}

static void peer_open(struct peer *peer, struct io *io, const char *address)
{
    *peer = (struct peer){.io = io};
    expect_equal(io_listen(io, address, &peer->listener), 0);
    snprintf(peer->address, sizeof peer->address, "%s", io_listener_address(peer->listener));
    fiber_group_add(&peer->group);
    expect_equal(fiber_spawn(io, "accept", accept_one, peer), 0);
    expect_equal(io_connect(io, peer->address, 1000, &peer->client), 0);
    fiber_group_wait(&peer->group);
    expect(peer->sock != NULL && io_sock_peer(peer->sock)[0] != 0);
    expect(strcmp(io_sock_peer(peer->client), peer->address) == 0);
}

static void peer_close(struct peer *peer)
{
    io_sock_close(peer->client);
    io_sock_close(peer->sock);
    io_listener_close(peer->listener);
}

static void echo_both_ways(struct io *io, const char *address, bool local)
{
    struct peer peer;
    char buf[16] = {0};
    peer_open(&peer, io, address);
    expect(io_sock_is_local(peer.client) == local && io_sock_is_local(peer.sock) == local);
    expect_equal(io_send(peer.client, "ping", 4), 0);
    expect_equal(io_recv_all(peer.sock, buf, 4, 1000), 0);
    expect(memcmp(buf, "ping", 4) == 0);
    struct iovec iov[] = {{"", 0}, {"po", 2}, {"ng!", 3}};
    expect_equal(io_sendv(peer.sock, iov, 3), 0);
    expect_equal(io_recv_all(peer.client, buf, 5, 0), 0);
    expect(memcmp(buf, "pong!", 5) == 0);
    io_sock_close(peer.client);
    peer.client = NULL;
    expect_equal(io_recv(peer.sock, buf, 1, 0), 0);
    expect_equal(io_recv_all(peer.sock, buf, 1, 0), -E_CONN);
    peer_close(&peer);
}

static void sockets_tcp(struct io *io, const char *dir)
{
    echo_both_ways(io, "tcp:127.0.0.1:0", false);
}

static void sockets_unix(struct io *io, const char *dir)
{
    char address[256];
    snprintf(address, sizeof address, "unix:%s/sock", dir);
    echo_both_ways(io, address, true);
    echo_both_ways(io, address, true); /* the path is free again */
}

static void sockets_addresses(struct io *io, const char *dir)
{
    struct io_listener *listener = NULL, *second = NULL;
    struct io_sock *sock = NULL;
    static const char *const bad[] = {"", "tcp:", "tcp:x", "tcp::1", "tcp:127.0.0.1:", "tcp:127.0.0.1:99999", "udp:1:1", "unix:"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        expect_equal(io_listen(io, bad[i], &listener), -E_INVAL);
        expect_equal(io_connect(io, bad[i], 10, &sock), -E_INVAL);
    }
    expect_equal(io_listen(io, "tcp:127.0.0.1:0", &listener), 0);
    expect_equal(io_listen(io, io_listener_address(listener), &second), -E_ADDRINUSE);
    char address[256];
    snprintf(address, sizeof address, "%s", io_listener_address(listener));
    io_listener_close(listener);
    expect_equal(io_connect(io, address, 1000, &sock), -E_CONN);
    snprintf(address, sizeof address, "unix:%s/nobody", dir);
    expect_equal(io_connect(io, address, 1000, &sock), -E_CONN);
}

static void receive_times_out_and_works_again(struct io *io, const char *dir)
{
    struct peer peer;
    char buf[4];
    peer_open(&peer, io, "tcp:127.0.0.1:0");
    for (int i = 0; i < 20; i++)
        expect_equal(io_recv(peer.sock, buf, 4, 1), -E_TIMEOUT);
    expect_equal(io_send(peer.client, "x", 1), 0);
    expect_equal(io_recv(peer.sock, buf, 4, 1000), 1);
    expect_equal(io_send(peer.client, "y", 1), 0);
    expect_equal(io_recv_all(peer.sock, buf, 2, 20), -E_TIMEOUT);
    peer_close(&peer);
}

enum { BULK = 8 * 1024 * 1024 };

static void send_bulk(void *arg)
{
    struct peer *peer = arg;
    _cleanup_free_ uint8_t *buf = malloc(BULK);
    for (size_t i = 0; i < BULK; i++)
        buf[i] = (uint8_t)(i * 7 + i / 65536);
    expect_equal(io_send(peer->client, buf, BULK), 0);
    fiber_group_done(&peer->group);
}

static void bulk_arrives_in_order(struct io *io, const char *dir)
{
    struct peer peer;
    peer_open(&peer, io, "tcp:127.0.0.1:0");
    _cleanup_free_ uint8_t *buf = malloc(BULK);
    fiber_group_add(&peer.group);
    expect_equal(fiber_spawn(io, "bulk", send_bulk, &peer), 0);
    expect_equal(io_sleep_ms(io, 5), 0); /* let it fill the buffers and wait */
    expect_equal(io_recv_all(peer.sock, buf, BULK, 60000), 0);
    for (size_t i = 0; i < BULK; i++)
        expect(buf[i] == (uint8_t)(i * 7 + i / 65536));
    fiber_group_wait(&peer.group);
    peer_close(&peer);
}

static void receive_one(void *arg)
{
    struct peer *peer = arg;
    char buf[4];
    peer->result = io_recv(peer->sock, buf, 4, 0);
    fiber_group_done(&peer->group);
}

static void send_until_refused(void *arg)
{
    struct peer *peer = arg;
    _cleanup_free_ uint8_t *buf = calloc(1, BULK);
    int r;
    while ((r = io_send(peer->client, buf, BULK)) == 0)
        ;
    expect_equal(r, -E_CONN);
    fiber_group_done(&peer->group);
}

static void shutdown_wakes_receiver_and_sender(struct io *io, const char *dir)
{
    struct peer peer;
    peer_open(&peer, io, "tcp:127.0.0.1:0");
    fiber_group_add(&peer.group);
    fiber_group_add(&peer.group);
    peer.result = -1;
    expect_equal(fiber_spawn(io, "receiver", receive_one, &peer), 0);
    expect_equal(fiber_spawn(io, "sender", send_until_refused, &peer), 0);
    for (int i = 0; i < 3; i++)
        expect_equal(io_sleep_ms(io, 1), 0);
    peer.result = -1;
    io_sock_shutdown(peer.sock);
    io_sock_shutdown(peer.client);
    fiber_group_wait(&peer.group);
    char byte;
    expect_equal(io_recv(peer.sock, &byte, 1, 0), 0);
    expect_equal(io_send(peer.client, "x", 1), -E_CONN);
    peer_close(&peer);
}

static void close_while_another_fiber_receives(struct io *io, const char *dir)
{
    struct peer peer;
    peer_open(&peer, io, "tcp:127.0.0.1:0");
    fiber_group_add(&peer.group);
    peer.result = -1;
    expect_equal(fiber_spawn(io, "receiver", receive_one, &peer), 0);
    expect_equal(io_sleep_ms(io, 1), 0);
    io_sock_close(peer.sock);
    fiber_group_wait(&peer.group);
    expect_equal(peer.result, 0);
    peer.sock = NULL;
    peer_close(&peer);
}

static void accept_expect_canceled(void *arg)
{
    struct peer *peer = arg;
    peer->result = io_accept(peer->listener, &peer->sock);
    fiber_group_done(&peer->group);
}

static void listener_close_wakes_accept(struct io *io, const char *dir)
{
    struct peer peer = {.io = io};
    expect_equal(io_listen(io, "tcp:127.0.0.1:0", &peer.listener), 0);
    for (int i = 0; i < 2; i++) {
        fiber_group_add(&peer.group);
        expect_equal(fiber_spawn(io, "accept", accept_expect_canceled, &peer), 0);
    }
    expect_equal(io_sleep_ms(io, 1), 0);
    io_listener_close(peer.listener);
    fiber_group_wait(&peer.group);
    expect_equal(peer.result, -E_CANCELED);
}

static void serve_echo(void *arg)
{
    struct io_sock *sock = arg;
    char buf[64];
    int64_t n;
    while ((n = io_recv(sock, buf, sizeof buf, 0)) > 0)
        expect_equal(io_send(sock, buf, (size_t)n), 0);
    io_sock_close(sock);
}

static void accept_all(void *arg)
{
    struct peer *peer = arg;
    struct io_sock *sock;
    while (io_accept(peer->listener, &sock) == 0)
        expect_equal(fiber_spawn(peer->io, "echo", serve_echo, sock), 0);
    fiber_group_done(&peer->group);
}

static void call_echo(void *arg)
{
    struct peer *peer = arg;
    struct io_sock *sock = NULL;
    expect_equal(io_connect(peer->io, peer->address, 10000, &sock), 0);
    for (int i = 0; i < 5; i++) {
        uint64_t sent = io_random_u64(peer->io), got = 0;
        expect_equal(io_send(sock, &sent, sizeof sent), 0);
        expect_equal(io_recv_all(sock, &got, sizeof got, 10000), 0);
        expect(sent == got);
    }
    io_sock_close(sock);
    fiber_group_done(&peer->group);
}

static void many_connections(struct io *io, const char *dir)
{
    struct peer peer = {.io = io};
    expect_equal(io_listen(io, "tcp:127.0.0.1:0", &peer.listener), 0);
    snprintf(peer.address, sizeof peer.address, "%s", io_listener_address(peer.listener));
    struct fiber_group acceptor = {0};
    for (int i = 0; i < 200; i++) {
        fiber_group_add(&peer.group);
        expect_equal(fiber_spawn(io, "caller", call_echo, &peer), 0);
    }
    struct peer server = peer;
    server.group = acceptor;
    fiber_group_add(&server.group);
    expect_equal(fiber_spawn(io, "accept all", accept_all, &server), 0);
    fiber_group_wait(&peer.group);
    io_listener_close(peer.listener);
    fiber_group_wait(&server.group);
}

/* ---- the stop ---- */

struct waiting {
    struct peer peer;
    struct fiber_mutex mutex;
    struct fiber_queue queue;
    struct fiber_group group, members;
};

static void stop_suspend(void *arg)
{
    struct waiting *w = arg;
    expect_equal(fiber_suspend(), -E_CANCELED);
    expect_equal(fiber_suspend(), -E_CANCELED);
    fiber_group_done(&w->group);
}
static void stop_sleep(void *arg)
{
    struct waiting *w = arg;
    expect_equal(io_sleep_ms(w->peer.io, 3600000), -E_CANCELED);
    fiber_group_done(&w->group);
}
static void stop_mutex(void *arg)
{
    struct waiting *w = arg;
    expect_equal(fiber_mutex_lock(&w->mutex), -E_CANCELED);
    fiber_group_done(&w->group);
}
static void stop_queue(void *arg)
{
    struct waiting *w = arg;
    expect_equal(fiber_queue_wait(&w->queue, 3600000), -E_CANCELED);
    fiber_group_done(&w->group);
}
static void stop_recv(void *arg)
{
    struct waiting *w = arg;
    char byte;
    expect_equal(io_recv(w->peer.sock, &byte, 1, 0), -E_CANCELED);
    fiber_group_done(&w->group);
}
static void stop_recv_timeout(void *arg)
{
    struct waiting *w = arg;
    char byte;
    expect_equal(io_recv(w->peer.client, &byte, 1, 3600000), -E_CANCELED);
    fiber_group_done(&w->group);
}
static void stop_accept(void *arg)
{
    struct waiting *w = arg;
    struct io_sock *sock;
    expect_equal(io_accept(w->peer.listener, &sock), -E_CANCELED);
    fiber_group_done(&w->group);
}
static void member(void *arg)
{
    struct waiting *w = arg;
    while (fiber_suspend() != -E_CANCELED)
        ;
    fiber_yield();
    fiber_yield();
    fiber_group_done(&w->members);
}
static void stop_group(void *arg)
{
    struct waiting *w = arg;
    fiber_group_wait(&w->members); /* not given up by the stop: members do end */
    fiber_group_done(&w->group);
}

static void stop_ends_every_wait(struct io *io, const char *dir)
{
    struct waiting w = {0};
    static const fiber_fn fns[] = {stop_suspend, stop_sleep,        stop_mutex,  stop_queue,
                                   stop_recv,    stop_recv_timeout, stop_accept, stop_group};
    peer_open(&w.peer, io, "tcp:127.0.0.1:0");
    expect_equal(fiber_mutex_lock(&w.mutex), 0);
    fiber_group_add(&w.members);
    expect_equal(fiber_spawn(io, "member", member, &w), 0);
    for (size_t i = 0; i < ARRAY_SIZE(fns); i++) {
        fiber_group_add(&w.group);
        expect_equal(fiber_spawn(io, "stop", fns[i], &w), 0);
    }
    expect_equal(io_sleep_ms(io, 3), 0);
    io_stop(io);
    expect(io_stopping(io));
    fiber_group_wait(&w.group);
    fiber_mutex_unlock(&w.mutex);
    char byte;
    struct io_file *file;
    struct io_sock *sock;
    expect_equal(io_recv(w.peer.sock, &byte, 1, 0), -E_CANCELED);
    expect_equal(io_send(w.peer.sock, &byte, 1), -E_CANCELED);
    expect_equal(io_open(io, path_in(dir, "late"), O_RDWR | O_CREAT, 0600, &file), -E_CANCELED);
    expect_equal(io_connect(io, w.peer.address, 0, &sock), -E_CANCELED);
    expect_equal(io_sleep_ms(io, 0), -E_CANCELED);
    expect_equal(fiber_spawn(io, "late", member, &w), -E_CANCELED);
    peer_close(&w.peer);
}

#define CASE(fn) {#fn, fn}
const struct suite_case io_suite[] = {
    CASE(spawn_is_fifo_and_never_runs_inside),
    CASE(mutex_is_first_come_first_served),
    CASE(wake_before_suspend_is_remembered),
    CASE(wake_during_io_is_kept_for_suspend),
    CASE(queue_times_out_and_wakes),
    CASE(queue_wakes_in_order_and_leaves_out_timed_out),
    CASE(many_fibers),
    CASE(stacks_are_separate_and_deep),
    CASE(clocks_and_chance),
    CASE(post_runs_on_the_loop),
    CASE(work_returns_after_the_function),
    CASE(files_write_read_sync),
    CASE(files_large),
    CASE(files_direct),
    CASE(files_truncate_allocate),
    CASE(names),
    CASE(unlinked_file_lives_until_closed),
    CASE(sockets_tcp),
    CASE(sockets_unix),
    CASE(sockets_addresses),
    CASE(receive_times_out_and_works_again),
    CASE(bulk_arrives_in_order),
    CASE(shutdown_wakes_receiver_and_sender),
    CASE(close_while_another_fiber_receives),
    CASE(listener_close_wakes_accept),
    CASE(many_connections),
    CASE(stop_ends_every_wait),
};
const size_t n_io_suite = ARRAY_SIZE(io_suite);
