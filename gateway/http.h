/* HTTP/1.1 server: a fiber per connection reads request heads and calls the handler, which pulls the body
 * and writes the response; nothing is buffered beyond what the handler asks for, so a slow store slows its
 * client down and nobody else. Keep-alive, pipelining in order, Expect: 100-continue (answered when the
 * handler first reads the body: after it has checked who asks), chunked bodies both ways.
 * Threads: the io's; everything from fibers. What is refused: http_parse.h and docs/protocols/s3.md. */
#ifndef TARN_GATEWAY_HTTP_H
#define TARN_GATEWAY_HTTP_H

#include "common/io.h"
#include "http_parse.h"

struct http_server;
struct http_conn;

/* One request, alive while the handler runs. */
struct http_request {
    struct http_head head;
    struct http_conn *conn;
    uint64_t id;           /* unique in this process */
    int status;            /* of the response, 0 before it was started */
    uint64_t bytes_in, bytes_out; /* of bodies */
    struct http_exchange *exchange; /* internal */
};
/* Sends exactly one response. A return without one becomes a 500; an unfinished one closes the connection. */
typedef void (*http_handler)(void *ctx, struct http_request *request);

struct http_options {
    unsigned conns_max;       /* 0 = 1024; past it: 503 and close */
    uint64_t idle_ms;         /* between requests, 0 = 60,000 */
    uint64_t head_ms;         /* first to last byte of a head, 0 = 30,000 */
    uint64_t body_ms;         /* silence within a body, 0 = 60,000 */
    uint64_t send_ms;         /* a client that takes nothing, 0 = 120,000 */
};
struct http_counters {
    uint64_t conns, conns_refused, heads_refused;
    unsigned conns_open;
};

/* Takes the listener over. `ctx` is borrowed until http_server_stop() has returned. */
int http_server_start(struct io *io, struct io_listener *listener, const struct http_options *options,
                      http_handler handler, void *ctx, struct http_server **ret_server);
/* Accepts no more, ends idle connections, lets requests under way finish for grace_ms, then cuts them off;
 * waits and frees. */
void http_server_stop(struct http_server *server, uint64_t grace_ms);
const struct http_counters *http_server_counters(const struct http_server *server);

/* ---- the body: up to n bytes, fewer only at its end, 0 when it is over.
 * Errors: -E_CONN the client went away, -E_TIMEOUT, -E_PROTO bad chunk framing, -E_CANCELED. After an error the
 * connection ends with this response. */
int64_t http_body_read(struct http_request *request, void *buf, size_t n);

/* ---- the response ---- */
/* Before http_reply_start(). Errors: -E_INVAL when the value has control characters (they would make new
 * header lines), -E_NOMEM; -E_RANGE past 64 KiB of headers. */
int http_reply_header(struct http_request *request, const char *name, const char *fmt, ...) _printf_(3, 4);
/* Forgets the headers given so far (an error response follows). */
void http_reply_reset(struct http_request *request);
#define HTTP_LENGTH_UNKNOWN UINT64_MAX /* chunked; until close for HTTP/1.0 */
/* length: of the body a GET would have; for HEAD it is announced and the body dropped. */
int http_reply_start(struct http_request *request, int status, uint64_t length);
/* Sends before it returns (the first piece together with the head). Errors: -E_CONN, -E_CANCELED. */
int http_reply_write(struct http_request *request, const void *data, size_t n);
int http_reply_end(struct http_request *request); /* -E_PROTO when fewer bytes than announced were written */
/* All of it at once; type NULL when there is no body. */
int http_reply(struct http_request *request, int status, const char *type, const void *data, size_t n);
const char *http_peer(const struct http_request *request);

#endif
