/* The calling side of rpc.h.
 *
 * A client has at most one connection fiber. It makes one attempt (back-off, connect, hello), then
 * receives until the connection is lost, fails the calls under way and ends; the next call starts
 * another. A call puts a `struct pending` from its own stack into the map of request ids; whoever
 * takes it out of the map decides its result, so a call is answered once. */
#include "common/rpc.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/link.h"
#include "common/log.h"
#include "common/rpc_wire.h"
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#define CLIENT_MAGIC 0x52504343u
#define TIMEOUT_MS_DEFAULT 10000
#define CONNECT_TIMEOUT_MS 5000
#define HELLO_TIMEOUT_MS 5000
/* The first retry comes at once, then 50, 100, ... 1000 ms after the last failure. */
#define BACKOFF_MS_MIN 50
#define BACKOFF_MS_MAX 1000
/* A call that ends without an answer closes a connection on which nothing came for so long. */
#define SILENCE_MS_MAX 5000
#define RELEASE_MS 1000 /* how long a piece of a payload may take to arrive after the timeout */
#define INTR_RELEASE_MS 100 /* the same for a call that is interrupted */
#define PIECE_BYTES KIB(256)

struct rpc_client {
    uint32_t magic;
    unsigned refs; /* owner, connection fiber, calls */
    struct io *io;
    char *address;
    struct rpc_auth auth;
    rpc_push_fn push;
    rpc_lost_fn lost;
    void *arg;
    bool destroyed;
    bool running;          /* the connection fiber lives */
    struct link *greeting; /* before the hello is over */
    struct link *link;     /* after it */
    struct map pending;
    uint64_t next_id;
    struct fiber_queue changed;
    /* the last attempt */
    uint64_t attempts;
    int attempt_err;
    char attempt_detail[160];
    unsigned failures; /* in a row */
    uint64_t retry_at_ms;
};

/* A part that was received and not yet given to the caller. */
struct part {
    struct part *next;
    ProtobufCMessage *message;
};

struct pending {
    struct rpc_call *call;
    struct part *parts, **parts_tail;
    unsigned n_parts;
    bool streams; /* the server has answered with a part */
    struct fiber_queue queue;
    bool done;
    int err;
    bool receiving; /* the connection fiber writes to call->into or the call's own buffer */
    bool abandoned; /* the caller wants to leave as soon as it may */
    struct fiber_group busy;
    bool wants_fd;
    int fd;
};

static struct rpc_client *client_ref(struct rpc_client *client)
{
    CHECK_MAGIC(client, CLIENT_MAGIC);
    client->refs++;
    return client;
}

static void client_unref(struct rpc_client *client)
{
    CHECK_MAGIC(client, CLIENT_MAGIC);
    CHECK(client->refs > 0);
    if (--client->refs > 0)
        return;
    CHECK(client->pending.count == 0 && client->link == NULL);
    map_fini(&client->pending);
    free(client->address);
    client->magic = 0;
    free(client);
}

static void client_unrefp(struct rpc_client **client)
{
    client_unref(*client);
}

static void link_unrefp(struct link **link)
{
    link_unref(*link);
}

struct rpc_client *rpc_client_create(struct io *io, const char *address,
                                     const struct rpc_auth *auth)
{
    struct rpc_client *client = calloc(1, sizeof *client);
    if (client == NULL)
        return NULL;
    client->address = strdup(address);
    if (client->address == NULL) {
        free(client);
        return NULL;
    }
    client->magic = CLIENT_MAGIC;
    client->refs = 1;
    client->io = io;
    client->auth = *auth;
    client->next_id = 1;
    return client;
}

void rpc_client_on_push(struct rpc_client *client, rpc_push_fn push, rpc_lost_fn lost, void *arg)
{
    CHECK_MAGIC(client, CLIENT_MAGIC);
    client->push = push;
    client->lost = lost;
    client->arg = arg;
}

void rpc_client_destroy(struct rpc_client *client)
{
    if (client == NULL)
        return;
    CHECK_MAGIC(client, CLIENT_MAGIC);
    CHECK(!client->destroyed);
    client->destroyed = true;
    if (client->greeting != NULL)
        link_fail(client->greeting, -E_CONN);
    if (client->link != NULL)
        link_fail(client->link, -E_CONN);
    fiber_queue_wake_all(&client->changed);
    client_unref(client);
}

const char *rpc_client_address(const struct rpc_client *client)
{
    CHECK_MAGIC(client, CLIENT_MAGIC);
    return client->address;
}

/* ---- hello ---- */

_printf_(2, 3) static void explain(struct rpc_client *client, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(client->attempt_detail, sizeof client->attempt_detail, fmt, args);
    va_end(args);
}

static int send_hello(struct rpc_client *client, struct link *link, const void *control, size_t n)
{
    struct frame frame = {.kind = FRAME_HELLO, .cluster_id = client->auth.cluster_id};
    return link_send_direct(link, &frame, control, n);
}

/* The server's answer: its nonce and proof, or why it refuses. */
static int recv_hello(struct rpc_client *client, struct link *link, struct hello_server *ret)
{
    struct frame frame;
    const uint8_t *control;
    int err = link_recv_frame(link, HELLO_TIMEOUT_MS, &frame, &control);
    if (err != 0)
        return err;
    if (frame.kind != FRAME_HELLO)
        return -E_PROTO;
    if (frame.status != 0) {
        struct error_detail detail;
        error_detail_decode(control, frame.control_len, &detail);
        err = err_from_wire(frame.status);
        explain(client, "%s refuses the connection: %s", client->address,
                detail.text[0] != '\0' ? detail.text : err_sentence(err));
        return err;
    }
    if (frame.cluster_id != client->auth.cluster_id)
        return -E_CLUSTER;
    return hello_server_decode(control, frame.control_len, ret);
}

static int greet(struct rpc_client *client, struct link *link)
{
    struct hello_client hello = {.cluster_id = client->auth.cluster_id};
    memcpy(hello.name, client->auth.name, strnlen(client->auth.name, sizeof hello.name - 1));
    io_random(client->io, hello.nonce, sizeof hello.nonce);
    uint8_t first[HELLO_CLIENT_BYTES];
    hello_client_encode(&hello, first);
    int err = send_hello(client, link, first, sizeof first);
    if (err != 0)
        return err;
    struct hello_server answer;
    err = recv_hello(client, link, &answer);
    if (err != 0)
        return err;
    uint8_t expected[HELLO_PROOF_BYTES];
    hello_proof(client->auth.key, HELLO_SERVER, &hello, answer.nonce, expected);
    if (!hello_proof_equal(expected, answer.proof)) {
        explain(client, "the server at %s has another cluster key than this program",
                client->address);
        return -E_AUTH;
    }
    struct hello_prove prove;
    hello_proof(client->auth.key, HELLO_CLIENT, &hello, answer.nonce, prove.proof);
    uint8_t last[HELLO_PROVE_BYTES];
    hello_prove_encode(&prove, last);
    return send_hello(client, link, last, sizeof last);
}

/* Whatever the socket said, to a caller it is a failed connection; the rest is in the words. */
static int attempt_error(int err)
{
    switch (err) {
    case -E_CANCELED:
    case -E_NOMEM:
    case -E_AUTH:
    case -E_CLUSTER:
    case -E_VERSION:
    case -E_PROTO:
    case -E_BUSY:
        return err;
    default:
        return -E_CONN;
    }
}

static int back_off(struct rpc_client *client)
{
    uint64_t now = io_mono_ms(client->io);
    return now >= client->retry_at_ms ? 0 : io_sleep_ms(client->io, client->retry_at_ms - now);
}

static int attempt(struct rpc_client *client, struct link **ret_link)
{
    int err = back_off(client);
    if (err != 0 || client->destroyed)
        return err != 0 ? err : -E_CONN;
    struct io_sock *sock;
    err = io_connect(client->io, client->address, CONNECT_TIMEOUT_MS, &sock);
    if (err != 0)
        return err;
    _cleanup_(link_unrefp) struct link *link = NULL;
    /* On a unix socket a descriptor may follow a reply; it must not be read as data. */
    err = link_create(client->io, sock, io_sock_is_local(sock), &link);
    if (err != 0 || client->destroyed)
        return err != 0 ? err : -E_CONN;
    client->greeting = link;
    err = greet(client, link);
    client->greeting = NULL;
    if (err == 0)
        err = link_error(link);
    if (err == 0)
        err = link_start(link, client->auth.cluster_id);
    if (err != 0)
        return err;
    *ret_link = take_ptr(link);
    return 0;
}

static void note_attempt(struct rpc_client *client, int err)
{
    client->attempts++;
    client->attempt_err = err == 0 ? 0 : attempt_error(err);
    if (err == 0) {
        client->failures = 0;
        client->retry_at_ms = 0;
        return;
    }
    if (client->attempt_detail[0] == '\0')
        explain(client, "cannot connect to %s: %s", client->address, err_sentence(err));
    unsigned shift = MIN(client->failures, 6u);
    client->failures++;
    if (shift > 0) {
        uint64_t delay_ms = MIN((uint64_t)BACKOFF_MS_MIN << (shift - 1), (uint64_t)BACKOFF_MS_MAX);
        client->retry_at_ms = io_mono_ms(client->io) + delay_ms;
    }
}

/* ---- the connection fiber: receiving ---- */

static void complete(struct pending *pending, int err)
{
    pending->done = true;
    pending->err = err;
    fiber_queue_wake_all(&pending->queue);
}

/* Where the payload goes; NULL when it does not fit or there is no memory, then *ret_err is set. */
static uint8_t *payload_room(const struct rpc_call *call, size_t n, int *ret_err)
{
    *ret_err = 0;
    if (call->into != NULL) {
        *ret_err = n > call->into_size ? -E_PROTO : 0;
        return n > call->into_size ? NULL : call->into;
    }
    /* Aligned and padded like a request's, so that it can go to a disk as it is. */
    size_t padded = round_up_u64(n, 4096);
    uint8_t *buf = aligned_alloc(4096, padded);
    if (buf == NULL)
        *ret_err = -E_NOMEM;
    else
        memset(buf + n, 0, padded - n);
    return buf;
}

/* Receives into `buf` until done or until the caller wants to leave. Returns the link's error. */
static int recv_pieces(struct link *link, struct pending *pending, const struct frame *frame,
                       uint8_t *buf, size_t *ret_got, bool *ret_bad)
{
    uint32_t crc = 0;
    bool checked = (frame->flags & FRAME_PAYLOAD_CELLS) == 0;
    size_t got = 0;
    int err = 0;
    while (err == 0 && got < frame->payload_len && !pending->abandoned) {
        size_t n = MIN(frame->payload_len - got, (size_t)PIECE_BYTES);
        err = link_recv_bytes(link, buf + got, n);
        if (err == 0 && checked)
            crc = crc32c(crc, buf + got, n);
        got += n;
    }
    *ret_got = got;
    *ret_bad = checked && crc != frame->payload_crc;
    return err;
}

/* While held, the caller's memory is in use: it cannot leave rpc_call(). */
static void hold(struct pending *pending)
{
    pending->receiving = true;
    fiber_group_add(&pending->busy);
}

/* Returns false when the caller has left: the pending is gone then. */
static bool release(struct pending *pending)
{
    bool stays = !pending->abandoned;
    pending->receiving = false;
    fiber_queue_wake_all(&pending->queue);
    fiber_group_done(&pending->busy);
    return stays;
}

/* Receives the payload. Returns the link's error; *ret_pending becomes NULL when the caller has
 * left meanwhile, otherwise *ret_err is the call's result so far. */
static int recv_reply_payload(struct link *link, struct pending **ret_pending,
                              const struct frame *frame, int *ret_err)
{
    struct pending *pending = *ret_pending;
    struct rpc_call *call = pending->call;
    uint8_t *buf = payload_room(call, frame->payload_len, ret_err);
    if (buf == NULL) {
        complete(pending, *ret_err);
        *ret_pending = NULL;
        return link_drain(link, frame->payload_len);
    }
    void *own = call->into == NULL ? buf : NULL;
    size_t got = 0;
    bool bad = false;
    hold(pending);
    int err = recv_pieces(link, pending, frame, buf, &got, &bad);
    if (!release(pending)) {
        *ret_pending = NULL;
        free(own);
        return err != 0 ? err : link_drain(link, frame->payload_len - got);
    }
    if (err != 0 || bad) {
        free(own);
        *ret_err = err != 0 ? -E_CONN : -E_PROTO;
        return err != 0 ? err : -E_PROTO;
    }
    call->reply_payload = buf;
    call->reply_payload_len = frame->payload_len;
    call->reply_payload_cells = (frame->flags & FRAME_PAYLOAD_CELLS) != 0;
    return 0;
}

static int recv_reply_fd(struct link *link, struct pending **ret_pending, int *ret_err)
{
    struct pending *pending = *ret_pending;
    int fd = -1;
    hold(pending);
    int err = link_recv_fd(link, &fd);
    if (!release(pending)) {
        *ret_pending = NULL;
        if (err == 0)
            close(fd);
        return err;
    }
    if (err == 0)
        pending->fd = fd;
    else
        *ret_err = -E_CONN;
    return err;
}

static void take_error(struct pending *pending, const struct frame *frame, const uint8_t *control)
{
    struct error_detail detail;
    error_detail_decode(control, frame->control_len, &detail);
    memcpy(pending->call->detail, detail.text, sizeof detail.text);
    memcpy(pending->call->leader, detail.leader, sizeof detail.leader);
    complete(pending, err_from_wire(frame->status));
}

static int unpack_reply(struct rpc_call *call, const struct frame *frame, const uint8_t *control)
{
    if (call->reply_type == NULL)
        return 0;
    call->reply = protobuf_c_message_unpack(call->reply_type, NULL, frame->control_len, control);
    return call->reply == NULL ? -E_PROTO : 0;
}

/* One of several replies to the same request. Returns the link's error: a server that sends parts to
 * whom did not ask, or more than may lie unread, has lost its way. */
static int take_part(struct rpc_client *client, const struct frame *frame, const uint8_t *control)
{
    struct pending *pending = map_get(&client->pending, frame->request_id);
    if (pending == NULL)
        return 0; /* it left, and has said so */
    struct rpc_call *call = pending->call;
    if (call->part == NULL || pending->n_parts >= RPC_PARTS_AHEAD)
        return -E_PROTO;
    pending->streams = true;
    struct part *part = calloc(1, sizeof *part);
    if (part != NULL)
        part->message =
            protobuf_c_message_unpack(call->reply_type, NULL, frame->control_len, control);
    if (part == NULL || part->message == NULL) {
        map_remove(&client->pending, frame->request_id);
        complete(pending, part == NULL ? -E_NOMEM : -E_PROTO);
        free(part);
        return 0;
    }
    *pending->parts_tail = part;
    pending->parts_tail = &part->next;
    pending->n_parts++;
    fiber_queue_wake_all(&pending->queue);
    return 0;
}

/* Returns the link's error. */
static int take_reply(struct rpc_client *client, struct link *link, const struct frame *frame,
                      const uint8_t *control)
{
    struct pending *pending = map_remove(&client->pending, frame->request_id);
    if (pending == NULL)
        return link_drain(link, frame->payload_len);
    if (frame->status != 0) {
        take_error(pending, frame, control);
        return link_drain(link, frame->payload_len);
    }
    int call_err = unpack_reply(pending->call, frame, control);
    int err = 0;
    if (frame->payload_len > 0)
        err = recv_reply_payload(link, &pending, frame, &call_err);
    if (pending != NULL && err == 0 && pending->wants_fd)
        err = recv_reply_fd(link, &pending, &call_err);
    if (pending != NULL)
        complete(pending, call_err);
    return err;
}

static int take_frame(struct rpc_client *client, struct link *link, const struct frame *frame,
                      const uint8_t *control)
{
    switch (frame->kind) {
    case FRAME_REPLY:
        if ((frame->flags & FRAME_MORE) != 0)
            return take_part(client, frame, control);
        return take_reply(client, link, frame, control);
    case FRAME_PUSH:
        if (client->push != NULL)
            client->push(client->arg, frame->op, control, frame->control_len);
        return 0;
    default:
        return -E_PROTO;
    }
}

static int receive(struct rpc_client *client, struct link *link)
{
    for (;;) {
        struct frame frame = {0};
        const uint8_t *control;
        int err = link_recv_frame(link, 0, &frame, &control);
        if (err == -E_PROTO && frame.kind == FRAME_REPLY) {
            struct pending *pending = map_remove(&client->pending, frame.request_id);
            if (pending != NULL)
                complete(pending, -E_PROTO);
        }
        if (err == 0)
            err = take_frame(client, link, &frame, control);
        if (err != 0)
            return err;
    }
}

/* Ends the connection: every call under way learns it. */
static void lose_connection(struct rpc_client *client, int err)
{
    struct link *link = client->link;
    link_fail(link, err);
    client->link = NULL;
    int call_err = io_stopping(client->io) ? -E_CANCELED : -E_CONN;
    size_t at = 0;
    uint64_t id;
    void *pending;
    while (map_next(&client->pending, &at, &id, &pending)) {
        map_remove(&client->pending, id);
        complete(pending, call_err);
    }
    link_join(link);
    link_unref(link);
    if (client->destroyed || io_stopping(client->io))
        return;
    if (err == -E_PROTO || err == -E_VERSION)
        log_warn("rpc: closed the connection to %s: %s", client->address, err_sentence(err));
    if (client->lost != NULL)
        client->lost(client->arg);
}

static void connection_run(void *arg)
{
    struct rpc_client *client = arg;
    client->attempt_detail[0] = '\0';
    struct link *link = NULL;
    int err = attempt(client, &link);
    note_attempt(client, err);
    if (err == 0) {
        client->link = link;
        if (client->destroyed)
            link_fail(link, -E_CONN);
        fiber_queue_wake_all(&client->changed);
        lose_connection(client, receive(client, link));
    }
    client->running = false;
    fiber_queue_wake_all(&client->changed);
    client_unref(client);
}

/* ---- calls ---- */

static uint64_t deadline_ms(struct io *io, uint64_t timeout_ms)
{
    uint64_t deadline;
    if (timeout_ms == 0)
        timeout_ms = TIMEOUT_MS_DEFAULT;
    return add_overflows(io_mono_ms(io), timeout_ms, &deadline) ? UINT64_MAX : deadline;
}

/* Like fiber_queue_wait(), until the deadline. */
static int wait_until(struct io *io, struct fiber_queue *queue, uint64_t deadline)
{
    if (deadline == UINT64_MAX)
        return fiber_queue_wait(queue, 0);
    uint64_t now = io_mono_ms(io);
    return now >= deadline ? -E_TIMEOUT : fiber_queue_wait(queue, deadline - now);
}

/* The same for a call, which may be interrupted. */
static int call_wait(struct io *io, struct rpc_call *call, struct fiber_queue *queue, uint64_t deadline)
{
    if (call->interrupted)
        return -E_INTR;
    call->waits = queue;
    int err = wait_until(io, queue, deadline);
    call->waits = NULL;
    return err == 0 && call->interrupted ? -E_INTR : err;
}

void rpc_call_interrupt(struct rpc_call *call)
{
    call->interrupted = true;
    if (call->waits != NULL)
        fiber_queue_wake_all(call->waits);
}

static int start_connection(struct rpc_client *client)
{
    int err = fiber_spawn(client->io, "rpc connection", connection_run, client);
    if (err != 0)
        return err;
    client_ref(client);
    client->running = true;
    return 0;
}

/* Gives a reference to a working connection, made if need be. */
static int take_link(struct rpc_client *client, uint64_t deadline, struct rpc_call *call,
                     struct link **ret_link)
{
    for (;;) {
        if (client->destroyed)
            return -E_CONN;
        if (client->link != NULL && link_error(client->link) == 0) {
            *ret_link = link_ref(client->link);
            return 0;
        }
        int err = client->running ? 0 : start_connection(client);
        if (err != 0)
            return err;
        uint64_t attempts = client->attempts;
        err = call_wait(client->io, call, &client->changed, deadline);
        if (err == -E_TIMEOUT)
            snprintf(call->detail, sizeof call->detail, "no connection to %.100s in time",
                     client->address);
        if (err != 0)
            return err;
        if (client->attempts != attempts && client->attempt_err != 0) {
            memcpy(call->detail, client->attempt_detail, sizeof call->detail);
            return client->attempt_err;
        }
    }
}

/* Tells the server that a part was read (0), or that no more are wanted (CANCELED). */
static void send_go(struct link *link, const struct rpc_call *call, uint64_t id, int err)
{
    struct link_message message = {.frame = {.kind = FRAME_GO,
                                             .op = (uint16_t)call->op,
                                             .status = err_to_wire(err),
                                             .request_id = id},
                                   .fd = -1};
    (void)link_try_send(link, &message); /* a link that cannot take 64 bytes is failing */
}

static struct part *part_pop(struct pending *pending)
{
    struct part *part = pending->parts;
    if (part == NULL)
        return NULL;
    pending->parts = part->next;
    if (pending->parts == NULL)
        pending->parts_tail = &pending->parts;
    pending->n_parts--;
    return part;
}

static void part_free(struct part *part)
{
    protobuf_c_message_free_unpacked(part->message, NULL);
    free(part);
}

/* The caller leaves before the reply is there. */
static void abandon(struct rpc_client *client, struct link *link, uint64_t id,
                    struct pending *pending, int err)
{
    map_remove(&client->pending, id);
    if (pending->receiving) {
        pending->abandoned = true;
        if (err == -E_TIMEOUT || err == -E_INTR)
            fiber_queue_wait(&pending->queue, err == -E_INTR ? INTR_RELEASE_MS : RELEASE_MS);
        if (pending->receiving)
            link_fail(link, err == -E_CANCELED ? err : -E_CONN);
        fiber_group_wait(&pending->busy);
    }
    if (pending->streams && link_error(link) == 0)
        send_go(link, pending->call, id, -E_CANCELED);
    /* A descriptor would come without anybody to take it. */
    if (pending->wants_fd)
        link_fail(link, -E_CONN);
    if (link_silence_ms(link) >= SILENCE_MS_MAX) {
        log_warn("rpc: %s has not answered for %u ms, closing the connection", client->address,
                 SILENCE_MS_MAX);
        link_fail(link, -E_CONN);
    }
}

/* The caller's turn. What he leaves behind unread is freed with the call. */
static int give_part(struct link *link, uint64_t id, struct pending *pending)
{
    struct rpc_call *call = pending->call;
    struct part *part = part_pop(pending);
    int err = call->part(call->part_arg, part->message);
    part_free(part);
    if (err == 0 && !pending->done)
        send_go(link, call, id, 0);
    return err;
}

static int await(struct rpc_client *client, struct link *link, uint64_t id, struct pending *pending,
                 uint64_t deadline)
{
    while (!pending->done || pending->parts != NULL) {
        bool part = pending->parts != NULL;
        int err = part ? give_part(link, id, pending)
                       : call_wait(client->io, pending->call, &pending->queue, deadline);
        if (part) /* it goes on as long as parts come */
            deadline = deadline_ms(client->io, pending->call->timeout_ms);
        if (err != 0 && !pending->done)
            abandon(client, link, id, pending, err);
        if (err != 0 && (part || !pending->done))
            return err;
    }
    return pending->err;
}

static int send_request(struct rpc_client *client, struct link *link, const struct rpc_call *call,
                        uint64_t id, struct link_sent *sent, uint64_t deadline)
{
    struct link_message message = {
        .frame = {.kind = FRAME_REQUEST,
                  .op = (uint16_t)call->op,
                  .flags = (call->payload_cells ? FRAME_PAYLOAD_CELLS : 0) | (call->unanswered ? FRAME_UNANSWERED : 0),
                  .request_id = id,
                  .epoch = call->epoch},
        .message = call->request,
        .payload = call->payload,
        .n_payload = call->n_payload,
        .fd = -1,
    };
    uint64_t now = io_mono_ms(client->io);
    uint64_t timeout_ms = deadline == UINT64_MAX ? 0 : deadline > now ? deadline - now : 1;
    int err = link_send(link, &message, call->n_payload > 0 ? sent : NULL, timeout_ms);
    if (err != 0 && link_error(link) != 0)
        return io_stopping(client->io) ? -E_CANCELED : -E_CONN;
    return err;
}

static void reset_results(struct rpc_call *call)
{
    call->reply = NULL;
    call->reply_payload = NULL;
    call->reply_payload_len = 0;
    call->reply_payload_cells = false;
    call->detail[0] = '\0';
    call->leader[0] = '\0';
}

void rpc_call_fini(struct rpc_call *call)
{
    if (call->reply != NULL)
        protobuf_c_message_free_unpacked(call->reply, NULL);
    if (call->reply_payload != call->into)
        free(call->reply_payload);
    call->reply = NULL;
    call->reply_payload = NULL;
    call->reply_payload_len = 0;
}

static int run_call(struct rpc_client *client, struct rpc_call *call, int *ret_fd)
{
    CHECK_MAGIC(client, CLIENT_MAGIC);
    reset_results(call);
    _cleanup_(client_unrefp) struct rpc_client *held _unused_ = client_ref(client);
    _cleanup_(link_unrefp) struct link *link = NULL;
    uint64_t deadline = deadline_ms(client->io, call->timeout_ms);
    int err = take_link(client, deadline, call, &link);
    if (err != 0)
        return err;
    CHECK(ret_fd == NULL || !call->unanswered);
    if (ret_fd != NULL && !io_sock_is_local(link_sock(link)))
        return -E_NOTSUP;
    struct link_sent sent = {0};
    uint64_t id = client->next_id++;
    if (call->unanswered) {
        err = send_request(client, link, call, id, &sent, deadline);
        err = err == 0 && call->n_payload > 0 ? link_sent_wait(&sent) : err;
        link_withdraw(link, &sent);
        return err;
    }
    struct pending pending = {.call = call, .wants_fd = ret_fd != NULL, .fd = -1};
    pending.parts_tail = &pending.parts;
    err = map_put(&client->pending, id, &pending);
    if (err != 0)
        return err;
    err = send_request(client, link, call, id, &sent, deadline);
    if (err == 0)
        err = await(client, link, id, &pending, deadline);
    else
        map_remove(&client->pending, id);
    link_withdraw(link, &sent);
    for (struct part *part; (part = part_pop(&pending)) != NULL;)
        part_free(part);
    if (err != 0) {
        rpc_call_fini(call);
        if (pending.fd >= 0)
            close(pending.fd);
        return err;
    }
    if (ret_fd != NULL)
        *ret_fd = pending.fd;
    return 0;
}

int rpc_call(struct rpc_client *client, struct rpc_call *call)
{
    return run_call(client, call, NULL);
}

int rpc_call_fd(struct rpc_client *client, struct rpc_call *call, int *ret_fd)
{
    return run_call(client, call, ret_fd);
}
