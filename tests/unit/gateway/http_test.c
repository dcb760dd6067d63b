/* The server on a real loop, with a client that sends bytes as it likes. A test is a conversation: what is sent, and
 * what must come back before the server closes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "tests/unit/common/io_suite.h"
#include "gateway/http.h"

#define ANSWER_MAX KIB(512)
#define BIG MIB(3)
#define DRAIN_TEST_BYTES 200000u /* more than the server drains */

struct talk {
    struct io *io;
    struct http_server *server;
    char address[64];
    char answer[ANSWER_MAX];
    size_t len;
    int64_t last_read;  /* what http_body_read() gave the handler last */
    int last_write;
    unsigned requests;
    void (*body)(struct talk *talk);
};

/* ---- the handler: what it does is in the path ---- */

static void echo(struct talk *talk, struct http_request *request)
{
    char body[4096];
    size_t n = 0;

    while ((talk->last_read = http_body_read(request, body + n, sizeof body - n)) > 0)
        n += (size_t)talk->last_read;
    if (talk->last_read < 0)
        http_reply(request, 400, NULL, NULL, 0);
    else
        http_reply(request, 200, "text/plain", body, n);
}

static void stream_big(struct talk *talk, struct http_request *request)
{
    static char window[KIB(256)];

    memset(window, 'b', sizeof window);
    talk->last_write = http_reply_start(request, 200, BIG);
    for (size_t i = 0; i < BIG / sizeof window && talk->last_write == 0; i++)
        talk->last_write = http_reply_write(request, window, sizeof window);
    if (talk->last_write == 0)
        talk->last_write = http_reply_end(request);
}

static void handle(void *ctx, struct http_request *request)
{
    struct talk *talk = ctx;
    const char *path = request->head.path;

    talk->requests++;
    if (strcmp(path, "/echo") == 0) {
        echo(talk, request);
    } else if (strcmp(path, "/pieces") == 0) {
        http_reply_start(request, 200, HTTP_LENGTH_UNKNOWN);
        http_reply_write(request, "hello ", 6);
        http_reply_write(request, "world", 5);
        http_reply_end(request);
    } else if (strcmp(path, "/short") == 0) {
        http_reply_start(request, 200, 10);
        http_reply_write(request, "abc", 3);
        http_reply_end(request);
    } else if (strcmp(path, "/inject") == 0) {
        expect_equal(http_reply_header(request, "X", "%s", "a\r\nY: b"), -E_INVAL);
        http_reply(request, 204, NULL, NULL, 0);
    } else if (strcmp(path, "/big") == 0) {
        stream_big(talk, request);
    } else if (strcmp(path, "/deny") == 0) {
        http_reply(request, 403, NULL, NULL, 0);
    }
}

/* ---- the client ---- */

static void read_all(struct talk *talk, struct io_sock *sock)
{
    talk->len = 0;
    for (;;) {
        int64_t n = io_recv(sock, talk->answer + talk->len, ANSWER_MAX - 1 - talk->len, 20000);
        if (n <= 0)
            break;
        talk->len += (size_t)n;
        if (talk->len == ANSWER_MAX - 1)
            talk->len = 0; /* big answers are only counted by the handler */
    }
    talk->answer[talk->len] = 0;
}

/* Sends in pieces of `step` bytes and reads until the server closes. */
static void say(struct talk *talk, const char *text, size_t step)
{
    struct io_sock *sock;
    size_t n = strlen(text);

    expect_equal(io_connect(talk->io, talk->address, 5000, &sock), 0);
    for (size_t at = 0; at < n; at += step) {
        if (io_send(sock, text + at, MIN(step, n - at)) != 0)
            break;
        fiber_yield();
    }
    read_all(talk, sock);
    io_sock_close(sock);
}

static unsigned count(const struct talk *talk, const char *what)
{
    unsigned n = 0;
    for (const char *at = talk->answer; (at = strstr(at, what)) != NULL; at++)
        n++;
    return n;
}

static void run_talk(void *arg)
{
    struct talk *talk = arg;
    struct io_listener *listener;
    const struct http_options options = {.conns_max = 2, .idle_ms = 20000, .body_ms = 20000};

    expect_equal(io_listen(talk->io, "tcp:127.0.0.1:0", &listener), 0);
    snprintf(talk->address, sizeof talk->address, "%s", io_listener_address(listener));
    expect_equal(http_server_start(talk->io, listener, &options, handle, talk, &talk->server), 0);
    talk->body(talk);
    if (talk->server != NULL)
        http_server_stop(talk->server, 0);
    io_stop(talk->io);
}

static void converse(void (*body)(struct talk *talk))
{
    struct talk *talk = calloc(1, sizeof *talk);

    assert_non_null(talk);
    talk->body = body;
    assert_int_equal(io_uring_create(NULL, &talk->io), 0);
    assert_int_equal(fiber_spawn(talk->io, "talk", run_talk, talk), 0);
    assert_int_equal(io_run(talk->io), 0);
    io_destroy(talk->io);
    free(talk);
}

/* ---- conversations ---- */

#define GET(path, more) "GET " path " HTTP/1.1\r\nHost: h\r\n" more "\r\n"
#define CLOSE "Connection: close\r\n"

static void pipelined(struct talk *talk)
{
    static const char text[] = "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nfirst"
                               "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n3\r\nond\r\n0\r\n\r\n"
                               "\r\n" GET("/pieces", "") GET("/echo", CLOSE);
    static const size_t steps[] = {1, 3, 50, 1000};

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
        talk->requests = 0;
        say(talk, text, steps[i]);
        expect_equal(talk->requests, 4);
        expect_equal(count(talk, "HTTP/1.1 200 OK"), 4);
        const char *first = strstr(talk->answer, "\r\n\r\nfirst"), *second = strstr(talk->answer, "\r\n\r\nsecond");
        const char *third = strstr(talk->answer, "6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n");
        expect(first != NULL && second > first && third > second);
        expect_equal(count(talk, "Connection: close"), 1);
    }
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    converse(pipelined);
}

static void expecting(struct talk *talk)
{
    say(talk, "PUT /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n" CLOSE "Content-Length: 2\r\n\r\nok", 1000);
    expect(strncmp(talk->answer, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK", 40) == 0);
    say(talk, "PUT /deny HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", 1000);
    expect_equal(count(talk, "100 Continue"), 0);
    expect_equal(count(talk, "403 Forbidden"), 1);
    expect_equal(count(talk, "Connection: close"), 1);
}

static void continue_is_said_when_the_body_is_wanted(void **state)
{
    converse(expecting);
}

static void draining(struct talk *talk)
{
    _cleanup_free_ char *text = malloc(DRAIN_TEST_BYTES + 256);

    talk->requests = 0;
    say(talk, "PUT /deny HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\nunread!" GET("/echo", CLOSE), 1000);
    expect_equal(talk->requests, 2);
    /* Too much to read and drop: the response says that this was the last one. */
    int n = sprintf(text, "PUT /deny HTTP/1.1\r\nHost: h\r\nContent-Length: %u\r\n\r\n", DRAIN_TEST_BYTES);
    memset(text + n, 'x', DRAIN_TEST_BYTES);
    text[n + DRAIN_TEST_BYTES] = 0;
    say(talk, text, 65536);
    expect_equal(count(talk, "403 Forbidden"), 1);
    expect_equal(count(talk, "Connection: close"), 1);
}

static void unread_bodies_are_drained_or_end_the_connection(void **state)
{
    converse(draining);
}

static void odd(struct talk *talk)
{
    say(talk, "HEAD /big HTTP/1.1\r\nHost: h\r\n" CLOSE "\r\n", 1000);
    expect_equal(count(talk, "Content-Length: 3145728"), 1);
    expect(strcmp(talk->answer + talk->len - 4, "\r\n\r\n") == 0);
    say(talk, GET("/nothing", CLOSE), 1000);
    expect_equal(count(talk, "500 Internal Server Error"), 1);
    say(talk, GET("/short", ""), 1000);
    expect(strcmp(talk->answer + talk->len - 3, "abc") == 0);
    say(talk, GET("/inject", CLOSE), 1000);
    expect_equal(count(talk, "204 No Content"), 1);
    expect_equal(count(talk, "Y: b") + count(talk, "Content-Length"), 0);
    say(talk, "GET /pieces HTTP/1.0\r\n\r\n", 1000);
    expect_equal(count(talk, "Transfer-Encoding"), 0);
    expect(strcmp(talk->answer + talk->len - 11, "hello world") == 0);
}

static void odd_responses_are_framed_right(void **state)
{
    converse(odd);
}

static void refusals(struct talk *talk)
{
    say(talk, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" GET("/echo", ""), 1000);
    expect_equal(count(talk, "HTTP/1.1"), 1);
    expect_equal(count(talk, "400 Bad Request"), 1);
    say(talk, "nonsense\r\n\r\n", 1);
    expect_equal(count(talk, "400 Bad Request"), 1);
    say(talk, "PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello", 1000);
    expect_equal(talk->last_read, -E_PROTO);
    expect_equal(http_server_counters(talk->server)->heads_refused, 2);
    _cleanup_free_ char *text = malloc(HTTP_HEAD_MAX + 4096);
    strcpy(text, "GET / HTTP/1.1\r\nX: ");
    memset(text + 19, 'x', HTTP_HEAD_MAX + 1000);
    text[19 + HTTP_HEAD_MAX + 1000] = 0;
    say(talk, text, 65536);
    expect_equal(count(talk, "431 "), 1);
}

static void malformed_requests_end_the_connection(void **state)
{
    converse(refusals);
}

static void leaving(struct talk *talk)
{
    struct io_sock *sock;
    static const char request[] = "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf";

    talk->last_read = 1;
    expect_equal(io_connect(talk->io, talk->address, 5000, &sock), 0);
    expect_equal(io_send(sock, request, strlen(request)), 0);
    while (talk->requests == 0)
        fiber_yield();
    io_sock_close(sock);
    while (talk->last_read > 0)
        fiber_yield();
    expect_equal(talk->last_read, -E_CONN);

    expect_equal(io_connect(talk->io, talk->address, 5000, &sock), 0);
    talk->last_write = 1;
    expect_equal(io_send(sock, GET("/big", ""), strlen(GET("/big", ""))), 0);
    while (talk->requests == 1)
        fiber_yield();
    io_sock_close(sock);
    while (talk->last_write == 1 || (talk->last_write == 0 && http_server_counters(talk->server)->conns_open > 0))
        fiber_yield();
}

static void clients_may_leave_at_any_time(void **state)
{
    converse(leaving);
}

static void crowd(struct talk *talk)
{
    struct io_sock *first, *second;

    expect_equal(io_connect(talk->io, talk->address, 5000, &first), 0);
    expect_equal(io_connect(talk->io, talk->address, 5000, &second), 0);
    while (http_server_counters(talk->server)->conns_open < 2)
        fiber_yield();
    say(talk, "", 1);
    expect_equal(count(talk, "503 Service Unavailable"), 1);
    expect_equal(http_server_counters(talk->server)->conns_refused, 1);
    io_sock_close(first);
    io_sock_close(second);
}

static void connections_have_a_limit(void **state)
{
    converse(crowd);
}

static void ending(struct talk *talk)
{
    struct io_sock *idle, *busy;
    static const char request[] = "PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nha";

    expect_equal(io_connect(talk->io, talk->address, 5000, &idle), 0);
    expect_equal(io_connect(talk->io, talk->address, 5000, &busy), 0);
    expect_equal(io_send(busy, request, strlen(request)), 0);
    while (talk->requests == 0)
        fiber_yield();
    /* With no grace left the one under way is cut off as well, and stop returns. */
    http_server_stop(talk->server, 0);
    talk->server = NULL;
    read_all(talk, idle);
    expect_equal(talk->len, 0);
    expect_equal(talk->last_read, -E_CONN);
    io_sock_close(idle);
    io_sock_close(busy);
}

static void stopping_ends_every_connection(void **state)
{
    converse(ending);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pipelined_requests_are_answered_in_order),
        cmocka_unit_test(continue_is_said_when_the_body_is_wanted),
        cmocka_unit_test(unread_bodies_are_drained_or_end_the_connection),
        cmocka_unit_test(odd_responses_are_framed_right),
        cmocka_unit_test(malformed_requests_end_the_connection),
        cmocka_unit_test(clients_may_leave_at_any_time),
        cmocka_unit_test(connections_have_a_limit),
        cmocka_unit_test(stopping_ends_every_connection),
    };
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
