/* Replies in parts, on both implementations of io: all arrive in order, the sender never runs ahead of
 * the reader by more than the bound, and either side may end it. */
#include "rpc_suite.h"

#define OP_COUNT 1 /* "N" or "N-": the numbers below N, one a part; with '-' an error comes at the end */
#define ANY_ADDRESS "tcp:127.0.0.1:0"
#define TEXT_INIT(t) {PROTOBUF_C_MESSAGE_INIT(&tarn__error_detail__descriptor), (char *)(t), (char *)""}

struct stream {
    struct io *io;
    struct rpc_auth auth;
    struct rpc_server *server;
    struct rpc_client *client;
    unsigned sent, read, ahead_max; /* parts */
    int sender_err;                 /* why the sender stopped early */
    bool sender_done;
    struct fiber_queue changed;
    unsigned stop_at;               /* the reader wants no more after so many; 0 = all */
    unsigned cut_at;                /* the connection is cut before this part; 0 = never */
};

static int send_text(struct stream *s, struct rpc_request *request, unsigned i)
{
    char text[32];
    snprintf(text, sizeof text, "%u", i);
    Tarn__ErrorDetail message = TEXT_INIT(text);
    uint8_t packed[64];
    size_t n = tarn__error_detail__pack(&message, packed);
    if (s->cut_at != 0 && i == s->cut_at)
        rpc_conn_close(request->conn);
    return rpc_reply_part(request, packed, n);
}

static int op_count(void *ctx, struct rpc_request *request, const void *message)
{
    struct stream *s = ctx;
    char *end;
    unsigned n = (unsigned)strtoul(((const Tarn__ErrorDetail *)message)->text, &end, 10);
    int err = 0;
    for (unsigned i = 0; i < n && err == 0; i++) {
        err = send_text(s, request, i);
        s->sent += err == 0;
        s->ahead_max = MAX(s->ahead_max, s->sent - s->read);
    }
    s->sender_err = err;
    s->sender_done = true;
    fiber_queue_wake_all(&s->changed);
    if (err != 0)
        return err;
    return *end == '-' ? rpc_reply_error(request, -E_NOSPC, NULL, "no more") : rpc_reply(request, message);
}

static const struct rpc_op ops[] = {{OP_COUNT, "count", &tarn__error_detail__descriptor, op_count}};

static void start(struct stream *s, struct io *io)
{
    static struct rpc_service service = {.ops = ops, .n_ops = ARRAY_SIZE(ops)};
    service.ctx = s;
    *s = (struct stream){.io = io, .auth = {.cluster_id = 7, .key = {1}, .name = "test"}};
    struct io_listener *listener = NULL;
    expect_equal(io_listen(io, ANY_ADDRESS, &listener), 0);
    char address[128];
    snprintf(address, sizeof address, "%s", io_listener_address(listener));
    expect_equal(rpc_server_start(io, listener, &s->auth, &service, &s->server), 0);
    s->client = rpc_client_create(io, address, &s->auth);
    expect(s->client != NULL);
}

static void stop(struct stream *s)
{
    rpc_client_destroy(s->client);
    rpc_server_stop(s->server);
}

static int on_part(void *arg, const ProtobufCMessage *part)
{
    struct stream *s = arg;
    expect_equal(strtoul(((const Tarn__ErrorDetail *)part)->text, NULL, 10), s->read);
    fiber_yield(); /* a slow reader */
    fiber_yield();
    s->read++;
    return s->read == s->stop_at ? -E_INTR : 0;
}

static int count(struct stream *s, const char *text, struct rpc_call *call)
{
    Tarn__ErrorDetail request = TEXT_INIT(text);
    *call = (struct rpc_call){.op = OP_COUNT,
                              .request = &request.base,
                              .reply_type = &tarn__error_detail__descriptor,
                              .part = on_part,
                              .part_arg = s};
    int err = rpc_call(s->client, call);
    call->request = NULL;
    return err;
}

static void wait_for_sender(struct stream *s)
{
    while (!s->sender_done)
        expect_equal(fiber_queue_wait(&s->changed, 0), 0);
}

static void parts_arrive_in_order_and_bounded(struct io *io, const char *dir)
{
    struct stream s;
    struct rpc_call call;
    start(&s, io);
    expect_equal(count(&s, "1000", &call), 0);
    expect_equal(s.read, 1000);
    expect(strcmp(((Tarn__ErrorDetail *)call.reply)->text, "1000") == 0);
    rpc_call_fini(&call);
    /* The reader counts a part after it has had it, the sender before it knows: one more on each side. */
    expect(s.ahead_max >= 2);
    expect(s.ahead_max <= RPC_PARTS_AHEAD + 1);
    stop(&s);
}

static void no_parts_are_an_ordinary_reply(struct io *io, const char *dir)
{
    struct stream s;
    struct rpc_call call;
    start(&s, io);
    expect_equal(count(&s, "0", &call), 0);
    expect_equal(s.read, 0);
    rpc_call_fini(&call);
    stop(&s);
}

static void an_error_ends_the_parts(struct io *io, const char *dir)
{
    struct stream s;
    struct rpc_call call;
    start(&s, io);
    expect_equal(count(&s, "10-", &call), -E_NOSPC);
    expect(strcmp(call.detail, "no more") == 0);
    expect_equal(s.read, 10);
    expect(call.reply == NULL);
    stop(&s);
}

static void the_reader_may_stop(struct io *io, const char *dir)
{
    struct stream s;
    struct rpc_call call;
    start(&s, io);
    s.stop_at = 7;
    expect_equal(count(&s, "1000", &call), -E_INTR);
    wait_for_sender(&s);
    expect_equal(s.sender_err, -E_CANCELED);
    expect(s.sent <= 7 + RPC_PARTS_AHEAD);
    s.stop_at = s.read = s.sent = 0; /* the connection is still good */
    expect_equal(count(&s, "20", &call), 0);
    expect_equal(s.read, 20);
    rpc_call_fini(&call);
    stop(&s);
}

static void a_lost_connection_ends_both(struct io *io, const char *dir)
{
    struct stream s;
    struct rpc_call call;
    start(&s, io);
    s.cut_at = 50;
    expect_equal(count(&s, "1000", &call), -E_CONN);
    wait_for_sender(&s);
    expect(s.sender_err != 0);
    expect(s.read <= 50);
    stop(&s);
}

static void who_did_not_ask_gets_no_parts(struct io *io, const char *dir)
{
    struct stream s;
    start(&s, io);
    Tarn__ErrorDetail request = TEXT_INIT("3");
    struct rpc_call call = {.op = OP_COUNT, .request = &request.base};
    expect_equal(rpc_call(s.client, &call), -E_CONN); /* the connection has lost its way */
    wait_for_sender(&s);
    stop(&s);
}

struct reading {
    struct stream *s;
    unsigned n, seen;
    struct fiber_group *group;
};

static int on_reading(void *arg, const ProtobufCMessage *part)
{
    struct reading *reading = arg;
    expect_equal(strtoul(((const Tarn__ErrorDetail *)part)->text, NULL, 10), reading->seen);
    reading->seen++;
    for (unsigned i = 0; i < reading->n; i++)
        fiber_yield();
    return 0;
}

static void read_all(void *arg)
{
    struct reading *reading = arg;
    Tarn__ErrorDetail request = TEXT_INIT("100");
    struct rpc_call call = {.op = OP_COUNT,
                            .request = &request.base,
                            .reply_type = &tarn__error_detail__descriptor,
                            .part = on_reading,
                            .part_arg = reading};
    expect_equal(rpc_call(reading->s->client, &call), 0);
    rpc_call_fini(&call);
    fiber_group_done(reading->group);
}

static void many_streams_share_a_connection(struct io *io, const char *dir)
{
    struct stream s;
    struct fiber_group group = {0};
    struct reading readings[20];
    start(&s, io);
    for (unsigned i = 0; i < ARRAY_SIZE(readings); i++) {
        readings[i] = (struct reading){.s = &s, .n = i % 5, .group = &group};
        fiber_group_add(&group);
        expect_equal(fiber_spawn(io, "reader", read_all, &readings[i]), 0);
    }
    fiber_group_wait(&group);
    for (unsigned i = 0; i < ARRAY_SIZE(readings); i++)
        expect_equal(readings[i].seen, 100);
    stop(&s);
}

#define CASE(fn) {#fn, fn}
const struct suite_case rpc_stream_suite[] = {
    CASE(parts_arrive_in_order_and_bounded), CASE(no_parts_are_an_ordinary_reply),
    CASE(an_error_ends_the_parts),           CASE(the_reader_may_stop),
    CASE(a_lost_connection_ends_both),       CASE(who_did_not_ask_gets_no_parts),
    CASE(many_streams_share_a_connection),
};
const size_t n_rpc_stream_suite = ARRAY_SIZE(rpc_stream_suite);
