#include "http.h"
#include "text.h"
#include "common/bytes.h"
#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>

#define CONNS_DEFAULT 1024
/* A head and some of the body or of the next requests; grows only while a head needs it. */
#define INPUT_FIRST KIB(16)
#define INPUT_MAX (HTTP_HEAD_MAX + KIB(16))
#define WATCH_MS 5000
/* What is read and dropped after a response so that the client gets to see it. */
#define DRAIN_MAX KIB(64)
#define LINGER_BYTES_MAX MIB(4)
#define LINGER_MS 1000

struct http_server {
    struct io *io;
    struct io_listener *listener;
    struct http_options options;
    http_handler handler;
    void *ctx;
    struct list conns;
    struct fiber_group group;
    struct fiber_queue ended, watch;
    bool stopping;
    uint64_t next_id;
    struct http_counters counters;
};

struct http_conn {
    struct http_server *server;
    struct io_sock *sock;
    struct list node;
    char *input; /* bytes [input_at, input_len) are not consumed */
    size_t input_at, input_len, input_cap;
    uint64_t sending_since_ms; /* 0 = not sending */
    bool in_request;
};

/* What a request needs inside the server. */
struct http_exchange {
    struct writer headers;
    uint64_t body_left; /* with a length */
    struct http_chunked chunked;
    bool body_done, continued, body_broken;
    bool started, ended, chunked_out, broken, close;
    uint64_t out_left; /* of the announced length; HTTP_LENGTH_UNKNOWN */
    bool head_pending; /* headers hold the response head, not sent yet */
};

static bool alive(const struct http_conn *conn)
{
    return !conn->server->stopping && !io_stopping(conn->server->io);
}

/* ---- sending ---- */

static int conn_send(struct http_conn *conn, struct iovec *iov, unsigned n)
{
    conn->sending_since_ms = io_mono_ms(conn->server->io) | 1;
    int r = io_sendv(conn->sock, iov, n);
    conn->sending_since_ms = 0;
    return r;
}

static int conn_send_text(struct http_conn *conn, const char *text)
{
    struct iovec iov = {.iov_base = (char *)text, .iov_len = strlen(text)};
    return conn_send(conn, &iov, 1);
}

/* ---- receiving ---- */

static size_t input_left(const struct http_conn *conn)
{
    return conn->input_len - conn->input_at;
}

/* Makes room at the end of the input; what is consumed goes first. */
static int input_room(struct http_conn *conn, size_t want)
{
    if (conn->input_at > 0) {
        memmove(conn->input, conn->input + conn->input_at, input_left(conn));
        conn->input_len -= conn->input_at;
        conn->input_at = 0;
    }
    if (conn->input_cap - conn->input_len >= want)
        return 0;
    size_t cap = MAX((size_t)INPUT_FIRST, conn->input_cap * 2);
    if (cap > 2 * INPUT_MAX)
        return -E_RANGE;
    char *input = realloc(conn->input, cap);
    if (input == NULL)
        return -E_NOMEM;
    conn->input = input;
    conn->input_cap = cap;
    return 0;
}

static int64_t input_fill(struct http_conn *conn, uint64_t timeout_ms)
{
    int64_t n = input_room(conn, 1);
    if (n == 0)
        n = io_recv(conn->sock, conn->input + conn->input_len, conn->input_cap - conn->input_len, timeout_ms);
    if (n > 0)
        conn->input_len += (size_t)n;
    return n;
}

/* Waits for a whole head at input_at. Returns its length, 0 when the client closed between requests. */
static int64_t read_head(struct http_conn *conn)
{
    struct http_server *server = conn->server;
    uint64_t began_ms = 0;
    size_t seen = 0;

    for (;;) {
        /* Empty lines before a request are skipped (RFC 9112 2.2). */
        while (input_left(conn) >= 2 && memcmp(conn->input + conn->input_at, "\r\n", 2) == 0) {
            conn->input_at += 2;
            seen = 0;
        }
        size_t len = http_head_length(conn->input + conn->input_at, input_left(conn), seen);
        if (len > HTTP_HEAD_MAX || (len == 0 && input_left(conn) > HTTP_HEAD_MAX))
            return -E_RANGE;
        if (len > 0)
            return (int64_t)len;
        seen = input_left(conn);
        uint64_t wait_ms = server->options.idle_ms;
        if (seen > 0) {
            uint64_t now = io_mono_ms(server->io);
            if (began_ms == 0)
                began_ms = now;
            if (now - began_ms >= server->options.head_ms)
                return -E_TIMEOUT;
            wait_ms = server->options.head_ms - (now - began_ms);
        }
        int64_t n = input_fill(conn, wait_ms);
        if (n <= 0)
            return n == 0 && seen > 0 ? -E_CONN : n == -E_TIMEOUT && seen == 0 ? 0 : n;
    }
}

/* ---- the body ---- */

static int send_continue(struct http_request *request)
{
    struct http_exchange *exchange = request->exchange;

    if (!request->head.expect_continue || exchange->continued || exchange->started)
        return 0;
    exchange->continued = true;
    return conn_send_text(request->conn, "HTTP/1.1 100 Continue\r\n\r\n");
}

static int64_t body_recv(struct http_conn *conn, void *buf, size_t n)
{
    int64_t got = io_recv(conn->sock, buf, n, conn->server->options.body_ms);
    return got == 0 ? -E_CONN : got;
}

static int64_t read_with_length(struct http_request *request, char *buf, size_t n)
{
    struct http_conn *conn = request->conn;
    struct http_exchange *exchange = request->exchange;
    size_t want = MIN((uint64_t)n, exchange->body_left), have = MIN(want, input_left(conn));

    memcpy(buf, conn->input + conn->input_at, have);
    conn->input_at += have;
    while (have < want) {
        int64_t got = body_recv(conn, buf + have, want - have);
        if (got < 0)
            return got;
        have += (size_t)got;
    }
    exchange->body_left -= want;
    exchange->body_done = exchange->body_left == 0;
    return (int64_t)want;
}

static int64_t read_chunked(struct http_request *request, char *buf, size_t n)
{
    struct http_conn *conn = request->conn;
    struct http_exchange *exchange = request->exchange;
    size_t have = 0;

    while (have < n && !exchange->body_done) {
        if (input_left(conn) == 0) {
            int64_t got = input_fill(conn, conn->server->options.body_ms);
            if (got <= 0)
                return got == 0 ? -E_CONN : got;
        }
        const char *data;
        size_t used, len;
        /* Data never outgrows the input it came in: n - have input bytes fit. */
        int r = http_chunked_feed(&exchange->chunked, conn->input + conn->input_at, MIN(input_left(conn), n - have),
                                  &used, &data, &len);
        if (r < 0)
            return r;
        if (len > 0)
            memcpy(buf + have, data, len);
        have += len;
        conn->input_at += used;
        exchange->body_done = exchange->chunked.done;
    }
    return (int64_t)have;
}

int64_t http_body_read(struct http_request *request, void *buf, size_t n)
{
    struct http_exchange *exchange = request->exchange;

    if (exchange->body_broken)
        return -E_CONN;
    if (exchange->body_done || n == 0)
        return 0;
    int64_t r = send_continue(request);
    if (r == 0)
        r = request->head.chunked ? read_chunked(request, buf, n) : read_with_length(request, buf, n);
    if (r < 0)
        exchange->body_broken = true;
    else
        request->bytes_in += (uint64_t)r;
    return r;
}

/* ---- the response ---- */

int http_reply_header(struct http_request *request, const char *name, const char *fmt, ...)
{
    struct writer *headers = &request->exchange->headers;
    _cleanup_free_ char *value = NULL;
    va_list args;

    CHECK(!request->exchange->started);
    va_start(args, fmt);
    int n = vasprintf(&value, fmt, args);
    va_end(args);
    if (n < 0) {
        value = NULL;
        return -E_NOMEM;
    }
    for (const char *c = value; *c != 0; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return -E_INVAL;
    if (headers->len + strlen(name) + (size_t)n > HTTP_FIELDS_BYTES_MAX)
        return -E_RANGE;
    text_format(headers, "%s: %s\r\n", name, value);
    return headers->failed ? -E_NOMEM : 0;
}

void http_reply_reset(struct http_request *request)
{
    CHECK(!request->exchange->started);
    writer_fini(&request->exchange->headers);
    memset(&request->exchange->headers, 0, sizeof request->exchange->headers);
}

/* A body that nobody read: a little is drained for keep-alive, more costs the connection. So does one the
 * client was not told to send: whether it comes is its choice. */
static bool body_ends_connection(const struct http_request *request)
{
    const struct http_exchange *exchange = request->exchange;

    if (exchange->body_broken)
        return true;
    if (exchange->body_done)
        return false;
    if (request->head.expect_continue && !exchange->continued)
        return true;
    return request->head.chunked || exchange->body_left > DRAIN_MAX;
}

int http_reply_start(struct http_request *request, int status, uint64_t length)
{
    struct http_exchange *exchange = request->exchange;
    bool bodyless = status == 204 || status == 304;
    struct writer head = {0};
    char date[TEXT_DATE_SIZE];

    CHECK(!exchange->started && status >= 200);
    exchange->started = true;
    request->status = status;
    if (!request->head.keep_alive || !alive(request->conn) || body_ends_connection(request))
        exchange->close = true;
    if (length == HTTP_LENGTH_UNKNOWN && request->head.minor == 0)
        exchange->close = true;
    exchange->chunked_out = length == HTTP_LENGTH_UNKNOWN && request->head.minor == 1 && !bodyless;
    exchange->out_left = bodyless || request->head.verb == HTTP_VERB_HEAD ? 0 : length;

    text_http_date(io_real_ns(request->conn->server->io) / 1000000000, date);
    text_format(&head, "HTTP/1.1 %d %s\r\nDate: %s\r\nServer: tarn\r\n", status, http_status_text(status), date);
    if (exchange->chunked_out)
        text_add(&head, "Transfer-Encoding: chunked\r\n");
    else if (!bodyless && length != HTTP_LENGTH_UNKNOWN)
        text_format(&head, "Content-Length: %llu\r\n", (unsigned long long)length);
    if (exchange->close)
        text_add(&head, "Connection: close\r\n");
    else if (request->head.minor == 0)
        text_add(&head, "Connection: keep-alive\r\n");
    writer_bytes(&head, exchange->headers.data, exchange->headers.len);
    text_add(&head, "\r\n");
    writer_fini(&exchange->headers);
    exchange->headers = head;
    exchange->head_pending = true;
    exchange->broken = head.failed;
    return head.failed ? -E_NOMEM : 0;
}

/* Sends the pending head, if any, and up to three pieces of body with it. */
static int reply_send(struct http_request *request, struct iovec *pieces, unsigned n)
{
    struct http_exchange *exchange = request->exchange;
    struct iovec iov[4];
    unsigned count = 0;

    CHECK(n <= 3);
    if (exchange->head_pending)
        iov[count++] = (struct iovec){exchange->headers.data, exchange->headers.len};
    for (unsigned i = 0; i < n; i++)
        if (pieces[i].iov_len > 0)
            iov[count++] = pieces[i];
    exchange->head_pending = false;
    int r = exchange->broken ? -E_CONN : count == 0 ? 0 : conn_send(request->conn, iov, count);
    if (r < 0)
        exchange->broken = true;
    return r == -E_CANCELED ? r : r < 0 ? -E_CONN : 0;
}

static int write_piece(struct http_request *request, const char *data, size_t n)
{
    struct http_exchange *exchange = request->exchange;
    char size[24] = "";
    struct iovec pieces[3];

    if (exchange->chunked_out)
        snprintf(size, sizeof size, "%zx\r\n", n);
    pieces[0] = (struct iovec){size, strlen(size)};
    pieces[1] = (struct iovec){(char *)data, n};
    pieces[2] = (struct iovec){"\r\n", exchange->chunked_out ? 2 : 0};
    int r = reply_send(request, pieces, 3);
    if (r == 0)
        request->bytes_out += n;
    return r;
}

int http_reply_write(struct http_request *request, const void *data, size_t n)
{
    struct http_exchange *exchange = request->exchange;
    const char *at = data;

    CHECK(exchange->started && !exchange->ended);
    if (request->head.verb == HTTP_VERB_HEAD || n == 0)
        return 0;
    if (exchange->out_left != HTTP_LENGTH_UNKNOWN) {
        CHECK(n <= exchange->out_left);
        exchange->out_left -= n;
    }
    /* In windows, so that the watcher sees a slow client move on. */
    for (size_t done = 0; done < n;) {
        size_t piece = MIN(n - done, (size_t)MIB(1));
        int r = write_piece(request, at + done, piece);
        if (r < 0)
            return r;
        done += piece;
    }
    return 0;
}

int http_reply_end(struct http_request *request)
{
    struct http_exchange *exchange = request->exchange;
    struct iovec last = {"0\r\n\r\n", 0};

    CHECK(exchange->started && !exchange->ended);
    exchange->ended = true;
    if (exchange->out_left != 0 && exchange->out_left != HTTP_LENGTH_UNKNOWN) {
        exchange->broken = true;
        return -E_PROTO;
    }
    if (exchange->chunked_out && request->head.verb != HTTP_VERB_HEAD)
        last.iov_len = 5;
    return reply_send(request, &last, 1);
}

int http_reply(struct http_request *request, int status, const char *type, const void *data, size_t n)
{
    int r = type == NULL ? 0 : http_reply_header(request, "Content-Type", "%s", type);
    if (r == 0)
        r = http_reply_start(request, status, n);
    if (r == 0)
        r = http_reply_write(request, data, n);
    if (r == 0)
        r = http_reply_end(request);
    return r;
}

const char *http_peer(const struct http_request *request)
{
    return io_sock_peer(request->conn->sock);
}

/* ---- connections ---- */

/* Reads and drops what is left of the body. False when the connection cannot go on. */
static bool drain_body(struct http_request *request)
{
    char waste[4096];
    struct http_exchange *exchange = request->exchange;

    while (!exchange->body_done && !exchange->close)
        if (http_body_read(request, waste, sizeof waste) < 0)
            return false;
    return !exchange->close;
}

/* Closing a socket with unread input resets it, and the client may lose the response it has not read
 * yet: what comes in is dropped for a moment first. */
static void linger(struct http_conn *conn)
{
    _cleanup_free_ char *waste = malloc(KIB(64));
    uint64_t until = io_mono_ms(conn->server->io) + LINGER_MS;

    for (uint64_t total = 0; waste != NULL && total < LINGER_BYTES_MAX;) {
        uint64_t now = io_mono_ms(conn->server->io);
        int64_t n = now >= until ? 0 : io_recv(conn->sock, waste, KIB(64), until - now);
        if (n <= 0)
            return;
        total += (uint64_t)n;
    }
}

static void refuse_head(struct http_conn *conn, const struct http_refusal *refusal)
{
    char text[512];

    conn->server->counters.heads_refused++;
    snprintf(text, sizeof text,
             "HTTP/1.1 %d %s\r\nServer: tarn\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: "
             "%zu\r\n\r\n%s\n",
             refusal->status, http_status_text(refusal->status), strlen(refusal->why) + 1, refusal->why);
    if (conn_send_text(conn, text) == 0)
        linger(conn);
}

/* Runs one parsed request. Returns whether the connection may carry another. */
static bool run_request(struct http_conn *conn, struct http_request *request)
{
    struct http_exchange exchange = {0};

    request->exchange = &exchange;
    request->conn = conn;
    request->id = ++conn->server->next_id;
    exchange.body_left = request->head.length;
    exchange.body_done = !request->head.chunked && request->head.length == 0;
    conn->in_request = true;
    conn->server->handler(conn->server->ctx, request);
    if (!exchange.started) {
        http_reply_reset(request);
        http_reply(request, 500, "text/plain", "no response was made\n", 21);
    }
    bool go_on = exchange.ended && !exchange.broken && drain_body(request);
    if (!go_on && exchange.ended && !exchange.broken && !exchange.body_done)
        linger(conn);
    conn->in_request = false;
    writer_fini(&exchange.headers);
    return go_on;
}

/* One request after the other. The head is parsed in a copy of its own: the input moves while a body is read. */
static bool serve_one(struct http_conn *conn, struct http_request *request)
{
    struct http_refusal refusal = {408, "the request head did not come in time"};
    int64_t len = read_head(conn);

    if (len == -E_RANGE)
        refusal = (struct http_refusal){431, "the request head is longer than 80 KiB"};
    if (len == -E_RANGE || len == -E_TIMEOUT)
        refuse_head(conn, &refusal);
    if (len <= 0)
        return false;
    _cleanup_free_ char *text = malloc((size_t)len);
    if (text == NULL)
        return false;
    memcpy(text, conn->input + conn->input_at, (size_t)len);
    conn->input_at += (size_t)len;
    memset(request, 0, sizeof *request);
    if (http_head_parse(text, (size_t)len, &request->head, &refusal) < 0) {
        refuse_head(conn, &refusal);
        return false;
    }
    return run_request(conn, request);
}

static void conn_run(void *arg)
{
    struct http_conn *conn = arg;
    struct http_server *server = conn->server;
    struct http_request *request = malloc(sizeof *request);

    while (request != NULL && alive(conn) && serve_one(conn, request))
        ;
    free(request);
    list_remove(&conn->node);
    io_sock_close(conn->sock);
    free(conn->input);
    free(conn);
    server->counters.conns_open--;
    fiber_queue_wake_all(&server->ended);
    fiber_group_done(&server->group);
}

static void accept_one(struct http_server *server, struct io_sock *sock)
{
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\nServer: tarn\r\nConnection: close\r\n"
                               "Retry-After: 1\r\nContent-Length: 0\r\n\r\n";
    struct http_conn *conn = NULL;

    server->counters.conns++;
    if (server->counters.conns_open < server->options.conns_max)
        conn = calloc(1, sizeof *conn);
    if (conn == NULL) {
        server->counters.conns_refused++;
        io_send(sock, full, sizeof full - 1); /* fits into the socket's empty buffer */
        io_sock_close(sock);
        return;
    }
    conn->server = server;
    conn->sock = sock;
    list_append(&server->conns, &conn->node);
    server->counters.conns_open++;
    fiber_group_add(&server->group);
    if (fiber_spawn(server->io, "http connection", conn_run, conn) < 0) {
        list_remove(&conn->node);
        server->counters.conns_open--;
        server->counters.conns_refused++;
        fiber_group_done(&server->group);
        io_sock_close(sock);
        free(conn);
    }
}

static void accept_run(void *arg)
{
    struct http_server *server = arg;

    while (!server->stopping) {
        struct io_sock *sock;
        int r = io_accept(server->listener, &sock);
        if (r == 0) {
            accept_one(server, sock);
        } else if (r == -E_CANCELED) {
            break;
        } else {
            log_warn("http: accepting a connection failed (%s), trying again in 100 ms", err_sentence(r));
            if (io_sleep_ms(server->io, 100) < 0)
                break;
        }
    }
    fiber_group_done(&server->group);
}

/* Cuts off clients that take nothing of their responses. */
static void watch_run(void *arg)
{
    struct http_server *server = arg;

    while (!server->stopping && fiber_queue_wait(&server->watch, WATCH_MS) != -E_CANCELED) {
        uint64_t now = io_mono_ms(server->io);
        list_foreach(&server->conns, it) {
            struct http_conn *conn = list_entry(it, struct http_conn, node);
            if (conn->sending_since_ms != 0 && now > conn->sending_since_ms + server->options.send_ms)
                io_sock_shutdown(conn->sock);
        }
    }
    fiber_group_done(&server->group);
}

static void set_defaults(struct http_options *options)
{
    if (options->conns_max == 0)
        options->conns_max = CONNS_DEFAULT;
    if (options->idle_ms == 0)
        options->idle_ms = 60000;
    if (options->head_ms == 0)
        options->head_ms = 30000;
    if (options->body_ms == 0)
        options->body_ms = 60000;
    if (options->send_ms == 0)
        options->send_ms = 120000;
}

int http_server_start(struct io *io, struct io_listener *listener, const struct http_options *options,
                      http_handler handler, void *ctx, struct http_server **ret_server)
{
    struct http_server *server = calloc(1, sizeof *server);
    if (server == NULL)
        return -E_NOMEM;
    server->io = io;
    server->listener = listener;
    if (options != NULL)
        server->options = *options;
    set_defaults(&server->options);
    server->handler = handler;
    server->ctx = ctx;
    list_init(&server->conns);

    int r = fiber_spawn(io, "http accept", accept_run, server);
    if (r < 0) {
        free(server);
        return r;
    }
    fiber_group_add(&server->group);
    if (fiber_spawn(io, "http watch", watch_run, server) == 0)
        fiber_group_add(&server->group);
    *ret_server = server;
    return 0;
}

static void shut_conns(struct http_server *server, bool idle_only)
{
    list_foreach(&server->conns, it) {
        struct http_conn *conn = list_entry(it, struct http_conn, node);
        if (!idle_only || !conn->in_request)
            io_sock_shutdown(conn->sock);
    }
}

void http_server_stop(struct http_server *server, uint64_t grace_ms)
{
    uint64_t until = io_mono_ms(server->io) + grace_ms;

    server->stopping = true;
    io_listener_close(server->listener);
    fiber_queue_wake_all(&server->watch);
    shut_conns(server, true);
    while (server->counters.conns_open > 0) {
        uint64_t now = io_mono_ms(server->io);
        if (now >= until || fiber_queue_wait(&server->ended, until - now) < 0)
            break;
    }
    shut_conns(server, false);
    fiber_group_wait(&server->group);
    free(server);
}

const struct http_counters *http_server_counters(const struct http_server *server)
{
    return &server->counters;
}
