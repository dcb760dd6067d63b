/* The answering side of rpc.h.
 *
 * Fibers: one accepts; each connection has one that greets and receives, and its link's sender;
 * each request has its own. The connection fiber outlives its requests, the server outlives its
 * connections: rpc_server_stop() waits for all of them. */
#include "common/rpc.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/link.h"
#include "common/log.h"
#include "common/rpc_wire.h"
#include <stdio.h>

#define SERVER_MAGIC 0x52504353u
#define CONN_MAGIC 0x52504343u
#define HELLO_TIMEOUT_MS 5000
#define ACCEPT_PAUSE_MS 100 /* after a failure that is not ours, such as too many descriptors */
/* Payloads of requests under way on one connection; past it the connection is not read. */
#define CONN_PAYLOAD_BYTES_MAX MIB(64)
/* Buffers of one window of data are kept: 32 x 1 MiB at most lie idle. */
#define POOL_BUFFER_BYTES MIB(1)
#define POOL_BUFFER_BYTES_MIN KIB(64)
#define POOL_BUFFERS_MAX 32
#define PART_WAIT_MS 60000 /* a caller that reads no part for so long has given up */
#define ARENA_BYTES 1536 /* an unpacked request of the data path; larger ones use malloc */

struct rpc_server {
    uint32_t magic;
    struct io *io;
    struct io_listener *listener;
    struct rpc_auth auth;
    const struct rpc_service *service;
    const struct rpc_op **ops; /* by number, NULL = unknown */
    uint64_t *taken; /* requests by op */
    uint64_t request_bytes; /* control messages of those being handled */
    size_t n_ops;
    bool stopping;
    struct list conns;
    unsigned n_conns;
    struct fiber_group fibers; /* accept and connections */
    void *pool[POOL_BUFFERS_MAX];
    unsigned n_pool;
};

struct rpc_conn {
    uint32_t magic;
    struct list node;
    struct rpc_server *server;
    struct link *link;
    void *data;
    unsigned n_requests;
    uint64_t payload_bytes;
    struct fiber_group handlers;
    struct fiber_queue room; /* the connection fiber waits for payload_bytes to fall */
    struct list streams;     /* struct incoming: those that reply in parts */
    char peer[160];
};

struct incoming {
    struct rpc_request request;
    const struct rpc_op *op;
    size_t payload_size; /* as counted in conn->payload_bytes */
    struct list stream;  /* in conn->streams once a part was sent */
    bool streams, unwanted;
    unsigned parts_ahead; /* sent and not read yet, as far as is known here */
    struct fiber_queue go;
    size_t arena_used;
    _Alignas(16) uint8_t arena[ARENA_BYTES];
    uint8_t control[];
};

/* ---- payload buffers ---- */

static size_t buffer_bytes(size_t payload_len)
{
    if (payload_len > POOL_BUFFER_BYTES_MIN && payload_len <= POOL_BUFFER_BYTES)
        return POOL_BUFFER_BYTES;
    return round_up_u64(payload_len, 4096);
}

static uint8_t *buffer_get(struct rpc_server *server, size_t payload_len)
{
    size_t bytes = buffer_bytes(payload_len);
    uint8_t *buf = bytes == POOL_BUFFER_BYTES && server->n_pool > 0 ? server->pool[--server->n_pool]
                                                                    : aligned_alloc(4096, bytes);
    if (buf != NULL)
        memset(buf + payload_len, 0, round_up_u64(payload_len, 4096) - payload_len);
    return buf;
}

static void buffer_put(struct rpc_server *server, uint8_t *buf, size_t bytes)
{
    if (buf != NULL && bytes == POOL_BUFFER_BYTES && server->n_pool < POOL_BUFFERS_MAX)
        server->pool[server->n_pool++] = buf;
    else
        free(buf);
}

/* ---- replies ---- */

static int reply(struct rpc_request *request, struct link_message *message)
{
    CHECK(!request->replied);
    struct rpc_conn *conn = request->conn;
    CHECK_MAGIC(conn, CONN_MAGIC);
    if (request->unanswered) {
        request->replied = true;
        return 0;
    }
    struct link_sent sent = {0};
    bool borrows = message->n_payload > 0 || message->fd >= 0;
    message->frame.kind = FRAME_REPLY;
    message->frame.op = (uint16_t)request->op;
    message->frame.request_id = request->id;
    int err = link_send(conn->link, message, borrows ? &sent : NULL, 0);
    if (err != 0)
        return err;
    request->replied = true;
    return borrows ? link_sent_wait(&sent) : 0;
}

int rpc_reply(struct rpc_request *request, const ProtobufCMessage *message)
{
    struct link_message out = {.message = message, .fd = -1};
    return reply(request, &out);
}

int rpc_reply_payload(struct rpc_request *request, const ProtobufCMessage *message,
                      const struct iovec *payload, unsigned n_payload, bool cells)
{
    struct link_message out = {.frame = {.flags = cells ? FRAME_PAYLOAD_CELLS : 0},
                               .message = message,
                               .payload = payload,
                               .n_payload = n_payload,
                               .fd = -1};
    return reply(request, &out);
}

int rpc_reply_packed(struct rpc_request *request, const uint8_t *control, size_t control_len)
{
    struct link_message out = {.packed = control, .packed_len = control_len, .fd = -1};
    return reply(request, &out);
}

int rpc_reply_error(struct rpc_request *request, int err, const char *leader, const char *detail)
{
    CHECK(err < 0);
    uint8_t control[ERROR_DETAIL_BYTES_MAX];
    struct link_message out = {.frame = {.status = err_to_wire(err)},
                               .packed = control,
                               .packed_len = error_detail_encode(detail, leader, control),
                               .fd = -1};
    /* When it cannot be sent the connection is gone, and with it who asked. */
    (void)reply(request, &out);
    return err;
}

int rpc_reply_fd(struct rpc_request *request, const ProtobufCMessage *message, int fd)
{
    if (!rpc_conn_is_local(request->conn))
        return -E_NOTSUP;
    struct link_message out = {.message = message, .fd = fd};
    return reply(request, &out);
}

int rpc_reply_part(struct rpc_request *request, const uint8_t *control, size_t control_len)
{
    CHECK(!request->replied);
    if (request->unanswered)
        return -E_CANCELED;
    struct incoming *in = container_of(request, struct incoming, request);
    struct rpc_conn *conn = request->conn;
    if (!in->streams)
        list_append(&conn->streams, &in->stream);
    in->streams = true;
    int err = 0;
    while (err == 0 && in->parts_ahead >= RPC_PARTS_AHEAD && !in->unwanted)
        err = (err = link_error(conn->link)) != 0 ? err : fiber_queue_wait(&in->go, PART_WAIT_MS);
    if (err != 0 || in->unwanted)
        return err != 0 ? err : -E_CANCELED;
    in->parts_ahead++;
    struct link_message out = {.frame = {.kind = FRAME_REPLY,
                                         .op = (uint16_t)request->op,
                                         .flags = FRAME_MORE,
                                         .request_id = request->id},
                               .packed = control,
                               .packed_len = control_len,
                               .fd = -1};
    return link_send(conn->link, &out, NULL, 0);
}

int rpc_push(struct rpc_conn *conn, unsigned op, const ProtobufCMessage *message)
{
    CHECK_MAGIC(conn, CONN_MAGIC);
    struct link_message out = {
        .frame = {.kind = FRAME_PUSH, .op = (uint16_t)op}, .message = message, .fd = -1};
    return link_try_send(conn->link, &out);
}

/* ---- one request ---- */

/* Bump allocation out of the request itself; what does not fit comes from malloc. */
static void *arena_alloc(void *arg, size_t n)
{
    struct incoming *in = arg;
    size_t bytes = round_up_u64(n, 16);
    if (bytes < n || bytes > ARENA_BYTES - in->arena_used)
        return malloc(n);
    void *p = in->arena + in->arena_used;
    in->arena_used += bytes;
    return p;
}

static void arena_free(void *arg, void *p)
{
    struct incoming *in = arg;
    if ((uint8_t *)p < in->arena || (uint8_t *)p >= in->arena + ARENA_BYTES)
        free(p);
}

static void incoming_free(struct incoming *in)
{
    struct rpc_conn *conn = in->request.conn;
    if (in->streams)
        list_remove(&in->stream);
    buffer_put(conn->server, in->request.payload, buffer_bytes(in->request.payload_len));
    conn->payload_bytes -= in->payload_size;
    conn->n_requests--;
    conn->server->request_bytes -= in->request.control_len;
    fiber_queue_wake_one(&conn->room);
    free(in);
}

static int handle(struct incoming *in)
{
    struct rpc_request *request = &in->request;
    ProtobufCAllocator arena = {arena_alloc, arena_free, in};
    ProtobufCMessage *message = NULL;
    if (in->op->request_type != NULL) {
        message = protobuf_c_message_unpack(in->op->request_type, &arena, request->control_len,
                                            request->control);
        if (message == NULL)
            return rpc_reply_error(request, -E_PROTO, NULL, "the message cannot be read");
    }
    request->conn_data = request->conn->data;
    int err = in->op->handle(request->conn->server->service->ctx, request, message);
    if (message != NULL)
        protobuf_c_message_free_unpacked(message, &arena);
    if (err == 0 && !request->replied) {
        log_error("rpc: the handler of %s gave no answer", in->op->name);
        err = -E_IO;
    }
    return err;
}

static void request_run(void *arg)
{
    struct incoming *in = arg;
    struct rpc_conn *conn = in->request.conn;
    int err = handle(in);
    if (err != 0 && !in->request.replied)
        rpc_reply_error(&in->request, err, NULL, NULL);
    incoming_free(in);
    fiber_group_done(&conn->handlers);
}

/* ---- receiving requests ---- */

/* Answers without a handler. Returns the link's error. */
static int refuse(struct rpc_conn *conn, const struct frame *frame, int err, const char *why)
{
    struct rpc_request request = {.conn = conn, .op = frame->op, .id = frame->request_id,
                                  .unanswered = (frame->flags & FRAME_UNANSWERED) != 0};
    int drained = link_drain(conn->link, frame->payload_len);
    if (drained != 0)
        return drained;
    rpc_reply_error(&request, err, NULL, why);
    return link_error(conn->link);
}

static int make_incoming(struct rpc_conn *conn, const struct frame *frame, const uint8_t *control,
                         const struct rpc_op *op, struct incoming **ret)
{
    struct incoming *in = malloc(sizeof *in + frame->control_len);
    if (in == NULL)
        return -E_NOMEM;
    memset(in, 0, offsetof(struct incoming, arena));
    memcpy(in->control, control, frame->control_len);
    in->op = op;
    in->request = (struct rpc_request){.conn = conn,
                                       .op = frame->op,
                                       .epoch = frame->epoch,
                                       .control = in->control,
                                       .control_len = frame->control_len,
                                       .payload_len = frame->payload_len,
                                       .payload_cells = (frame->flags & FRAME_PAYLOAD_CELLS) != 0,
                                       .unanswered = (frame->flags & FRAME_UNANSWERED) != 0,
                                       .id = frame->request_id};
    if (frame->payload_len > 0) {
        in->request.payload = buffer_get(conn->server, frame->payload_len);
        if (in->request.payload == NULL) {
            free(in);
            return -E_NOMEM;
        }
        in->payload_size = buffer_bytes(frame->payload_len);
    }
    conn->payload_bytes += in->payload_size;
    conn->n_requests++;
    conn->server->request_bytes += frame->control_len;
    conn->server->taken[frame->op]++;
    *ret = in;
    return 0;
}

static int wait_for_room(struct rpc_conn *conn, size_t payload_len)
{
    int err = 0;
    while (err == 0 && conn->payload_bytes > 0 &&
           conn->payload_bytes + buffer_bytes(payload_len) > CONN_PAYLOAD_BYTES_MAX)
        err = fiber_queue_wait(&conn->room, 0);
    return err != 0 ? err : link_error(conn->link);
}

static int take_request(struct rpc_conn *conn, const struct frame *frame, const uint8_t *control)
{
    struct rpc_server *server = conn->server;
    if (frame->kind != FRAME_REQUEST)
        return -E_PROTO;
    const struct rpc_op *op = frame->op < server->n_ops ? server->ops[frame->op] : NULL;
    if (op == NULL)
        return refuse(conn, frame, -E_NOTSUP, "this server does not know the operation");
    if (conn->n_requests >= RPC_CONN_REQUESTS_MAX)
        return refuse(conn, frame, -E_BUSY, "too many requests are under way on the connection");
    if (conn->server->request_bytes + frame->control_len > RPC_SERVER_BYTES_MAX)
        return refuse(conn, frame, -E_BUSY, "too many large requests are under way at the server");
    int err = frame->payload_len == 0 ? 0 : wait_for_room(conn, frame->payload_len);
    if (err != 0)
        return err;
    struct incoming *in;
    err = make_incoming(conn, frame, control, op, &in);
    if (err != 0)
        return refuse(conn, frame, err, "the server is out of memory");
    err = link_recv_payload(conn->link, frame, in->request.payload);
    if (err != 0) {
        incoming_free(in);
        return err;
    }
    in->request.received_ns = io_mono_ns(server->io);
    err = fiber_spawn(server->io, op->name, request_run, in);
    if (err != 0) {
        rpc_reply_error(&in->request, err, NULL, "the server cannot start the request");
        incoming_free(in);
        return link_error(conn->link);
    }
    fiber_group_add(&conn->handlers);
    return 0;
}

/* The caller has read a part, or wants no more. One that was answered meanwhile is not found. */
static int take_go(struct rpc_conn *conn, const struct frame *frame)
{
    list_foreach (&conn->streams, it) {
        struct incoming *in = list_entry(it, struct incoming, stream);
        if (in->request.id != frame->request_id)
            continue;
        in->parts_ahead -= in->parts_ahead > 0;
        in->unwanted = in->unwanted || frame->status != 0;
        fiber_queue_wake_all(&in->go);
    }
    return 0;
}

static int receive(struct rpc_conn *conn)
{
    for (;;) {
        struct frame frame;
        const uint8_t *control;
        int err = link_recv_frame(conn->link, 0, &frame, &control);
        if (err == 0)
            err = frame.kind == FRAME_GO ? take_go(conn, &frame)
                                         : take_request(conn, &frame, control);
        if (err != 0)
            return err;
    }
}

/* ---- hello ---- */

static int send_hello(struct rpc_conn *conn, int status, const void *control, size_t n)
{
    struct frame frame = {.kind = FRAME_HELLO,
                          .cluster_id = conn->server->auth.cluster_id,
                          .status = err_to_wire(status)};
    return link_send_direct(conn->link, &frame, control, n);
}

static int refuse_hello(struct rpc_conn *conn, int err, const char *why)
{
    uint8_t control[ERROR_DETAIL_BYTES_MAX];
    size_t n = error_detail_encode(why, NULL, control);
    (void)send_hello(conn, err, control, n);
    return err;
}

static int recv_client_hello(struct rpc_conn *conn, struct hello_client *ret)
{
    struct frame frame;
    const uint8_t *control;
    int err = link_recv_frame(conn->link, HELLO_TIMEOUT_MS, &frame, &control);
    if (err == -E_VERSION)
        return refuse_hello(conn, err, "the server speaks another version of the frame");
    if (err != 0)
        return err;
    if (frame.kind != FRAME_HELLO)
        return -E_PROTO;
    struct hello_client hello;
    err = hello_client_decode(control, frame.control_len, &hello);
    if (err != 0)
        return refuse_hello(conn, err, "the hello cannot be read");
    if (hello.cluster_id != conn->server->auth.cluster_id || frame.cluster_id != hello.cluster_id)
        return refuse_hello(conn, -E_CLUSTER, "the server belongs to another cluster");
    *ret = hello;
    return 0;
}

static int greet(struct rpc_conn *conn)
{
    const uint8_t *key = conn->server->auth.key;
    struct hello_client hello;
    int err = recv_client_hello(conn, &hello);
    if (err != 0)
        return err;
    struct hello_server answer;
    io_random(conn->server->io, answer.nonce, sizeof answer.nonce);
    hello_proof(key, HELLO_SERVER, &hello, answer.nonce, answer.proof);
    uint8_t control[HELLO_SERVER_BYTES];
    hello_server_encode(&answer, control);
    err = send_hello(conn, 0, control, sizeof control);
    if (err != 0)
        return err;
    struct frame frame;
    const uint8_t *last;
    err = link_recv_frame(conn->link, HELLO_TIMEOUT_MS, &frame, &last);
    if (err != 0)
        return err;
    struct hello_prove prove;
    err =
        frame.kind != FRAME_HELLO ? -E_PROTO : hello_prove_decode(last, frame.control_len, &prove);
    if (err != 0)
        return err;
    uint8_t expected[HELLO_PROOF_BYTES];
    hello_proof(key, HELLO_CLIENT, &hello, answer.nonce, expected);
    if (!hello_proof_equal(expected, prove.proof))
        return refuse_hello(conn, -E_AUTH, "the key does not match the cluster's");
    snprintf(conn->peer, sizeof conn->peer, "%s (%s)", hello.name,
             io_sock_peer(link_sock(conn->link)));
    return link_start(conn->link, conn->server->auth.cluster_id);
}

/* ---- connections ---- */

static void serve(struct rpc_conn *conn)
{
    const struct rpc_service *service = conn->server->service;
    if (service->opened != NULL)
        service->opened(service->ctx, conn);
    int err = receive(conn);
    if (err == -E_PROTO || err == -E_VERSION)
        log_warn("rpc: closed the connection of %s: %s", conn->peer, err_sentence(err));
    link_fail(conn->link, err);
    list_foreach (&conn->streams, it) {
        fiber_queue_wake_all(&list_entry(it, struct incoming, stream)->go);
    }
    fiber_group_wait(&conn->handlers);
    link_join(conn->link);
    if (service->closed != NULL)
        service->closed(service->ctx, conn);
}

static void conn_run(void *arg)
{
    struct rpc_conn *conn = arg;
    struct rpc_server *server = conn->server;
    int err = greet(conn);
    if (err == 0)
        serve(conn);
    else if (err != -E_CONN && err != -E_CANCELED)
        log_warn("rpc: refused a connection from %s: %s", io_sock_peer(link_sock(conn->link)),
                 err_sentence(err));
    list_remove(&conn->node);
    server->n_conns--;
    link_unref(conn->link);
    conn->magic = 0;
    free(conn);
    fiber_group_done(&server->fibers);
}

static int start_conn(struct rpc_server *server, struct io_sock *sock)
{
    struct link *link;
    int err = link_create(server->io, sock, false, &link);
    if (err != 0)
        return err;
    struct rpc_conn *conn = calloc(1, sizeof *conn);
    err = conn == NULL ? -E_NOMEM : fiber_spawn(server->io, "rpc server", conn_run, conn);
    if (err != 0) {
        free(conn);
        link_unref(link);
        return err;
    }
    conn->magic = CONN_MAGIC;
    list_init(&conn->streams);
    conn->server = server;
    conn->link = link;
    list_append(&server->conns, &conn->node);
    server->n_conns++;
    fiber_group_add(&server->fibers);
    return 0;
}

static void accept_run(void *arg)
{
    struct rpc_server *server = arg;
    while (!server->stopping) {
        struct io_sock *sock = NULL;
        int err = io_accept(server->listener, &sock);
        if (err == 0 && (server->stopping || server->n_conns >= RPC_CONNS_MAX))
            io_sock_close(sock);
        else if (err == 0)
            err = start_conn(server, sock);
        if (err == -E_CANCELED || server->stopping)
            break;
        if (err != 0) {
            log_warn("rpc: cannot accept a connection: %s", err_sentence(err));
            if (io_sleep_ms(server->io, ACCEPT_PAUSE_MS) != 0)
                break;
        }
    }
    fiber_group_done(&server->fibers);
}

static int index_ops(struct rpc_server *server)
{
    const struct rpc_service *service = server->service;
    for (size_t i = 0; i < service->n_ops; i++)
        server->n_ops = MAX(server->n_ops, (size_t)service->ops[i].op + 1);
    server->ops = calloc(server->n_ops + 1, sizeof *server->ops);
    server->taken = calloc(server->n_ops + 1, sizeof *server->taken);
    if (server->ops == NULL || server->taken == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < service->n_ops; i++) {
        CHECK(service->ops[i].op <= UINT16_MAX && server->ops[service->ops[i].op] == NULL);
        server->ops[service->ops[i].op] = &service->ops[i];
    }
    return 0;
}

int rpc_server_start(struct io *io, struct io_listener *listener, const struct rpc_auth *auth,
                     const struct rpc_service *service, struct rpc_server **ret_server)
{
    struct rpc_server *server = calloc(1, sizeof *server);
    int err = -E_NOMEM;
    if (server == NULL)
        goto fail_listener;
    server->magic = SERVER_MAGIC;
    server->io = io;
    server->listener = listener;
    server->auth = *auth;
    server->service = service;
    list_init(&server->conns);
    err = index_ops(server);
    if (err != 0)
        goto fail_server;
    err = fiber_spawn(io, "rpc accept", accept_run, server);
    if (err != 0)
        goto fail_server;
    fiber_group_add(&server->fibers);
    *ret_server = server;
    return 0;

fail_server:
    free(server->ops);
    free(server->taken);
    free(server);
fail_listener:
    CHECK(err != 0);
    io_listener_close(listener);
    return err;
}

void rpc_server_stop(struct rpc_server *server)
{
    if (server == NULL)
        return;
    CHECK_MAGIC(server, SERVER_MAGIC);
    CHECK(!server->stopping);
    server->stopping = true;
    io_listener_close(server->listener);
    list_foreach (&server->conns, it) {
        link_fail(list_entry(it, struct rpc_conn, node)->link, -E_CONN);
    }
    /* After io_run() no fiber is left, and none runs that could wait. */
    if (server->fibers.running > 0)
        fiber_group_wait(&server->fibers);
    for (unsigned i = 0; i < server->n_pool; i++)
        free(server->pool[i]);
    free(server->ops);
    free(server->taken);
    server->magic = 0;
    free(server);
}

uint64_t rpc_server_requests(const struct rpc_server *server, unsigned op)
{
    CHECK_MAGIC(server, SERVER_MAGIC);
    return op < server->n_ops ? server->taken[op] : 0;
}

void rpc_conn_set_data(struct rpc_conn *conn, void *data)
{
    CHECK_MAGIC(conn, CONN_MAGIC);
    conn->data = data;
}

void *rpc_conn_data(struct rpc_conn *conn)
{
    CHECK_MAGIC(conn, CONN_MAGIC);
    return conn->data;
}

const char *rpc_conn_peer(const struct rpc_conn *conn)
{
    CHECK_MAGIC(conn, CONN_MAGIC);
    return conn->peer;
}

bool rpc_conn_is_local(const struct rpc_conn *conn)
{
    CHECK_MAGIC(conn, CONN_MAGIC);
    return io_sock_is_local(link_sock(conn->link));
}

void rpc_conn_close(struct rpc_conn *conn)
{
    CHECK_MAGIC(conn, CONN_MAGIC);
    link_fail(conn->link, -E_CONN);
}
