#include "rpc_suite.h"

#include "common/crc.h"
#include "common/rpc_wire.h"

#define TEXT(t)                                                                                    \
    (&(Tarn__ErrorDetail){PROTOBUF_C_MESSAGE_INIT(&tarn__error_detail__descriptor),                \
                          .text = (char *)(t), .leader = (char *)""}                               \
          .base)

static const char *text_of(const struct rpc_call *call)
{
    return ((const Tarn__ErrorDetail *)call->reply)->text;
}

/* ---- the service ---- */

static int op_echo(void *ctx, struct rpc_request *request, const void *message)
{
    struct bench *bench = ctx;
    if (bench->started < ARRAY_SIZE(bench->order))
        bench->order[bench->started] = request->epoch;
    bench->started++;
    for (size_t i = request->payload_len; i % 4096 != 0; i++)
        expect_equal(request->payload[i], 0);
    bench->aligned = bench->aligned && (uintptr_t)request->payload % 4096 == 0;
    struct iovec parts[2] = {{request->payload, request->payload_len / 3},
                             {request->payload + request->payload_len / 3,
                              request->payload_len - request->payload_len / 3}};
    return rpc_reply_payload(request, message, parts, request->payload_len > 0 ? 2 : 0,
                             request->payload_cells);
}

static int op_fail(void *ctx, struct rpc_request *request, const void *message)
{
    return rpc_reply_error(request, -E_NOT_LEADER, "tcp:leader:1",
                           ((const Tarn__ErrorDetail *)message)->text);
}

static int op_return(void *ctx, struct rpc_request *request, const void *message)
{
    return -E_NOENT;
}

static int op_hold(void *ctx, struct rpc_request *request, const void *message)
{
    struct bench *bench = ctx;
    bench->holding++;
    bench->held_max = MAX(bench->held_max, bench->holding);
    fiber_queue_wake_all(&bench->changed);
    int err = 0;
    while (err == 0 && !bench->gate_open)
        err = fiber_queue_wait(&bench->gate, 0);
    bench->holding--;
    return err != 0 ? err : rpc_reply(request, message);
}

static int op_tell(void *ctx, struct rpc_request *request, const void *message)
{
    expect_equal(rpc_push(request->conn, 77, message), 0);
    return rpc_reply(request, NULL);
}

static int op_fd(void *ctx, struct rpc_request *request, const void *message)
{
    struct bench *bench = ctx;
    int err = bench->fd < 0 ? -E_NOENT : rpc_reply_fd(request, message, bench->fd);
    return err;
}

static int op_large(void *ctx, struct rpc_request *request, const void *message)
{
    size_t n = strtoul(((const Tarn__ErrorDetail *)message)->text, NULL, 10);
    uint8_t *data = malloc(n);
    expect(data != NULL);
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)(i * 7);
    int err = rpc_reply_payload(request, NULL, &(struct iovec){data, n}, 1, false);
    free(data);
    return err;
}

static int op_cut(void *ctx, struct rpc_request *request, const void *message)
{
    rpc_conn_close(request->conn);
    return rpc_reply(request, NULL);
}

static int op_mute(void *ctx, struct rpc_request *request, const void *message)
{
    return 0;
}

static void opened(void *ctx, struct rpc_conn *conn)
{
    struct bench *bench = ctx;
    bench->opened++;
    bench->last = conn;
    rpc_conn_set_data(conn, bench);
}

static void closed(void *ctx, struct rpc_conn *conn)
{
    struct bench *bench = ctx;
    expect(rpc_conn_data(conn) == bench);
    bench->closed++;
    bench->last = NULL;
    fiber_queue_wake_all(&bench->changed);
}

#define OP(number, fn)                                                                             \
    {                                                                                              \
        number, #fn, &tarn__error_detail__descriptor, fn                                           \
    }
static const struct rpc_op ops[] = {
    OP(OP_ECHO, op_echo), OP(OP_FAIL, op_fail),   OP(OP_RETURN, op_return),
    OP(OP_HOLD, op_hold), OP(OP_TELL, op_tell),   OP(OP_FD, op_fd),
    OP(OP_CUT, op_cut),   OP(OP_LARGE, op_large), OP(OP_MUTE, op_mute)};

void bench_start(struct bench *bench, struct io *io, const char *address)
{
    static struct rpc_service service = {
        .ops = ops, .n_ops = ARRAY_SIZE(ops), .opened = opened, .closed = closed};
    service.ctx = bench;
    *bench = (struct bench){.io = io,
                            .auth = {.cluster_id = 7, .key = {1, 2, 3}, .name = "test"},
                            .aligned = true,
                            .fd = -1};
    struct io_listener *listener = NULL;
    expect_equal(io_listen(io, address, &listener), 0);
    snprintf(bench->address, sizeof bench->address, "%s", io_listener_address(listener));
    expect_equal(rpc_server_start(io, listener, &bench->auth, &service, &bench->server), 0);
}

void bench_stop(struct bench *bench)
{
    rpc_server_stop(bench->server);
    bench->server = NULL;
    expect_equal(bench->opened, bench->closed);
    expect_equal(bench->holding, 0);
}

void open_gate(struct bench *bench)
{
    bench->gate_open = true;
    fiber_queue_wake_all(&bench->gate);
}

static void on_push(void *arg, unsigned op, const uint8_t *control, size_t n)
{
    struct bench *bench = arg;
    expect_equal(op, 77);
    Tarn__ErrorDetail *message = tarn__error_detail__unpack(NULL, n, control);
    expect(message != NULL);
    snprintf(bench->pushed, sizeof bench->pushed, "%s", message->text);
    tarn__error_detail__free_unpacked(message, NULL);
    bench->pushes++;
    fiber_queue_wake_all(&bench->changed);
}

static void on_lost(void *arg)
{
    struct bench *bench = arg;
    bench->lost++;
    fiber_queue_wake_all(&bench->changed);
}

struct rpc_client *bench_client(struct bench *bench)
{
    struct rpc_client *client = rpc_client_create(bench->io, bench->address, &bench->auth);
    expect(client != NULL);
    rpc_client_on_push(client, on_push, on_lost, bench);
    return client;
}

#define ANY_ADDRESS "tcp:127.0.0.1:0"

static int call_text(struct rpc_client *client, unsigned op, const char *text,
                     struct rpc_call *call)
{
    *call = (struct rpc_call){
        .op = op, .request = TEXT(text), .reply_type = &tarn__error_detail__descriptor};
    return rpc_call(client, call);
}

static void expect_echo(struct rpc_client *client, const char *text)
{
    struct rpc_call call;
    expect_equal(call_text(client, OP_ECHO, text, &call), 0);
    expect(strcmp(text_of(&call), text) == 0);
    rpc_call_fini(&call);
}

/* ---- calls ---- */

static void a_call_is_answered(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    expect(strcmp(rpc_client_address(client), bench.address) == 0);
    for (int i = 0; i < 10; i++)
        expect_echo(client, "hello");
    expect_equal(bench.opened, 1);
    expect(strncmp(rpc_conn_peer(bench.last), "test (", 6) == 0);
    expect(!rpc_conn_is_local(bench.last));
    rpc_client_destroy(client);
    bench_stop(&bench);
    expect_equal(bench.lost, 0);
}

static void errors_come_with_words(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    struct rpc_call call;
    expect_equal(call_text(client, OP_FAIL, "ask the other", &call), -E_NOT_LEADER);
    expect(strcmp(call.detail, "ask the other") == 0);
    expect(strcmp(call.leader, "tcp:leader:1") == 0);
    expect(call.reply == NULL);
    expect_equal(call_text(client, OP_RETURN, "", &call), -E_NOENT);
    expect(call.leader[0] == 0);
    expect_equal(call_text(client, OP_MUTE, "", &call), -E_IO);
    expect_equal(call_text(client, 4711, "", &call), -E_NOTSUP);
    expect(call.detail[0] != 0);
    /* A request that cannot be unpacked: field 1 with a length past the end. */
    struct rpc_call odd = {
        .op = OP_ECHO,
        .request =
            &(Tarn__Ctx){PROTOBUF_C_MESSAGE_INIT(&tarn__ctx__descriptor), .session = 5}.base};
    expect_equal(rpc_call(client, &odd), -E_PROTO);
    expect_echo(client, "still here");
    expect_equal(bench.opened, 1);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void check_payload(struct rpc_client *client, size_t n, bool cells, void *into,
                          size_t into_size)
{
    uint8_t *data = malloc(n + 1);
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)(i * 31 + n);
    struct iovec parts[3] = {{data, n / 2}, {data + n / 2, 0}, {data + n / 2, n - n / 2}};
    struct rpc_call call = {.op = OP_ECHO,
                            .request = TEXT("p"),
                            .payload = parts,
                            .n_payload = 3,
                            .payload_cells = cells,
                            .reply_type = &tarn__error_detail__descriptor,
                            .into = into,
                            .into_size = into_size};
    expect_equal(rpc_call(client, &call), 0);
    expect_equal(call.reply_payload_len, n);
    expect(n == 0 || memcmp(call.reply_payload, data, n) == 0);
    expect(n == 0 || into == NULL || call.reply_payload == into);
    expect_equal(call.reply_payload_cells, n > 0 && cells);
    rpc_call_fini(&call);
    free(data);
}

static void payloads_go_both_ways(struct io *io, const char *dir)
{
    static const size_t sizes[] = {0,
                                   1,
                                   100,
                                   4095,
                                   4096,
                                   4097,
                                   16384,
                                   65536,
                                   65537,
                                   MIB(1) - 1,
                                   MIB(1),
                                   MIB(1) + 1,
                                   FRAME_PAYLOAD_MAX};
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    uint8_t *into = malloc(FRAME_PAYLOAD_MAX);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        check_payload(client, sizes[i], false, NULL, 0);
        check_payload(client, sizes[i], true, NULL, 0);
        check_payload(client, sizes[i], i % 2, into, FRAME_PAYLOAD_MAX);
    }
    free(into);
    expect(bench.aligned);
    expect_equal(bench.opened, 1);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void large_control_messages_arrive(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    static const size_t sizes[] = {15000, 16380, 17000, 200000, FRAME_CONTROL_MAX - 16};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        char *text = malloc(sizes[i] + 1);
        memset(text, 'a' + (int)i, sizes[i]);
        text[sizes[i]] = 0;
        expect_echo(client, text);
        free(text);
    }
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void what_is_too_large_is_not_sent(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    size_t n = FRAME_PAYLOAD_MAX + 1;
    char *data = malloc(n + 1);
    memset(data, 'x', n);
    data[n] = 0;
    struct rpc_call call = {.op = OP_ECHO, .payload = &(struct iovec){data, n}, .n_payload = 1};
    expect_equal(rpc_call(client, &call), -E_INVAL);
    expect_equal(call_text(client, OP_ECHO, data, &call), -E_INVAL);
    free(data);
    char small[10];
    call = (struct rpc_call){
        .op = OP_LARGE, .request = TEXT("100000"), .into = small, .into_size = sizeof small};
    expect_equal(rpc_call(client, &call), -E_PROTO);
    expect_echo(client, "still here");
    expect_equal(bench.opened, 1);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

struct caller {
    struct bench *bench;
    struct rpc_client *client;
    unsigned op, number, rounds;
    uint64_t timeout_ms;
    int result;
    struct fiber_group *group;
};

static void call_echo_often(void *arg)
{
    struct caller *caller = arg;
    for (unsigned i = 0; i < caller->rounds; i++) {
        size_t n = (caller->number * 7919 + i * 104729) % 20000;
        if (i % 3 == 0) {
            check_payload(caller->client, n, i % 2, NULL, 0);
        } else {
            char text[64];
            snprintf(text, sizeof text, "%u/%u", caller->number, i);
            expect_echo(caller->client, text);
        }
    }
    fiber_group_done(caller->group);
}

static void many_calls_share_a_connection(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    static struct caller callers[100];
    struct fiber_group group = {0};
    for (unsigned i = 0; i < ARRAY_SIZE(callers); i++) {
        callers[i] = (struct caller){.client = client, .number = i, .rounds = 20, .group = &group};
        expect_equal(fiber_spawn(io, "caller", call_echo_often, &callers[i]), 0);
        fiber_group_add(&group);
    }
    fiber_group_wait(&group);
    expect_equal(bench.opened, 1);
    expect_equal(bench.started, 2000);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void call_once(void *arg)
{
    struct caller *caller = arg;
    struct rpc_call call = {.op = caller->op,
                            .request = TEXT("x"),
                            .epoch = caller->number,
                            .timeout_ms = caller->timeout_ms,
                            .reply_type = &tarn__error_detail__descriptor};
    caller->result = rpc_call(caller->client, &call);
    rpc_call_fini(&call);
    fiber_group_done(caller->group);
}

static void spawn_calls(struct bench *bench, struct rpc_client *client, struct caller *callers,
                        unsigned n, unsigned op, struct fiber_group *group)
{
    for (unsigned i = 0; i < n; i++) {
        callers[i] = (struct caller){
            .bench = bench, .client = client, .op = op, .number = i, .group = group, .result = 1};
        fiber_group_add(group);
        expect_equal(fiber_spawn(bench->io, "caller", call_once, &callers[i]), 0);
    }
}

static void requests_start_in_order(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    expect_echo(client, "connect");
    static struct caller callers[200];
    struct fiber_group group = {0};
    spawn_calls(&bench, client, callers, 200, OP_ECHO, &group);
    fiber_group_wait(&group);
    for (unsigned i = 0; i < 200; i++)
        expect_equal(bench.order[i + 1], i);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void past_the_limit_the_answer_is_busy(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    static struct caller callers[RPC_CONN_REQUESTS_MAX + 50];
    struct fiber_group group = {0};
    spawn_calls(&bench, client, callers, ARRAY_SIZE(callers), OP_HOLD, &group);
    while (group.running > RPC_CONN_REQUESTS_MAX)
        fiber_yield();
    expect_equal(bench.holding, RPC_CONN_REQUESTS_MAX);
    open_gate(&bench);
    fiber_group_wait(&group);
    unsigned busy = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(callers); i++) {
        busy += callers[i].result == -E_BUSY;
        expect(callers[i].result == 0 || callers[i].result == -E_BUSY);
    }
    expect_equal(busy, 50);
    expect_equal(bench.held_max, RPC_CONN_REQUESTS_MAX);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void pushes_arrive(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    struct rpc_call call = {.op = OP_TELL, .request = TEXT("news")};
    expect_equal(rpc_call(client, &call), 0);
    while (bench.pushes == 0)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    expect(strcmp(bench.pushed, "news") == 0);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void destroy_in_push(void *arg, unsigned op, const uint8_t *control, size_t n)
{
    struct rpc_client **client = arg;
    rpc_client_destroy(*client);
    *client = NULL;
}

static void a_client_may_go_while_told(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    rpc_client_on_push(client, destroy_in_push, NULL, &client);
    struct rpc_call call = {.op = OP_TELL, .request = TEXT("news")};
    expect_equal(rpc_call(client, &call), -E_CONN);
    expect(client == NULL);
    bench_stop(&bench);
}

/* ---- hello ---- */

static void another_key_is_refused(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_auth other = bench.auth;
    other.key[31] ^= 1;
    struct rpc_client *client = rpc_client_create(io, bench.address, &other);
    struct rpc_call call;
    for (int i = 0; i < 2; i++) {
        expect_equal(call_text(client, OP_ECHO, "x", &call), -E_AUTH);
        expect(strstr(call.detail, "key") != NULL);
        expect(strstr(call.detail, bench.address) != NULL);
    }
    rpc_client_destroy(client);
    bench_stop(&bench);
    expect_equal(bench.opened, 0);
}

static void another_cluster_is_refused(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_auth other = bench.auth;
    other.cluster_id++;
    struct rpc_client *client = rpc_client_create(io, bench.address, &other);
    struct rpc_call call;
    expect_equal(call_text(client, OP_ECHO, "x", &call), -E_CLUSTER);
    expect(strstr(call.detail, "another cluster") != NULL);
    rpc_client_destroy(client);
    bench_stop(&bench);
    expect_equal(bench.opened, 0);
}

static void nobody_there_is_a_failed_connection(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    bench_stop(&bench);
    struct rpc_client *client = bench_client(&bench);
    struct rpc_call call;
    for (int i = 0; i < 4; i++) {
        expect_equal(call_text(client, OP_ECHO, "x", &call), -E_CONN);
        expect(strstr(call.detail, bench.address) != NULL);
    }
    rpc_client_destroy(client);
    expect_equal(bench.lost, 0);
}

/* ---- loss ---- */

static void a_stopped_server_fails_calls_under_way(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    static struct caller callers[5];
    struct fiber_group group = {0};
    spawn_calls(&bench, client, callers, 5, OP_HOLD, &group);
    while (bench.holding < 5)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    struct caller sixth = {.client = client, .op = OP_CUT, .group = &group};
    fiber_group_add(&group);
    call_once(&sixth);
    expect_equal(sixth.result, -E_CONN);
    fiber_group_wait(&group);
    for (int i = 0; i < 5; i++)
        expect_equal(callers[i].result, -E_CONN);
    while (bench.lost == 0)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    expect_equal(bench.lost, 1);
    expect_equal(bench.closed, 0); /* handlers are still inside */
    open_gate(&bench);
    expect_echo(client, "again"); /* connects anew */
    expect_equal(bench.opened, 2);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void stop_server(void *arg)
{
    struct caller *caller = arg;
    rpc_server_stop(caller->bench->server);
    fiber_group_done(caller->group);
}

static void a_server_comes_back(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    char address[128];
    snprintf(address, sizeof address, "%s", bench.address);
    struct rpc_client *client = bench_client(&bench);
    static struct caller callers[3];
    struct fiber_group group = {0}, stopping = {0};
    spawn_calls(&bench, client, callers, 3, OP_HOLD, &group);
    while (bench.holding < 3)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    struct caller stop = {.bench = &bench, .group = &stopping};
    fiber_group_add(&stopping);
    expect_equal(fiber_spawn(io, "stop", stop_server, &stop), 0);
    fiber_group_wait(&group);
    for (int i = 0; i < 3; i++)
        expect_equal(callers[i].result, -E_CONN);
    open_gate(&bench); /* the server waits for its handlers */
    fiber_group_wait(&stopping);
    struct rpc_call call;
    expect_equal(call_text(client, OP_ECHO, "x", &call), -E_CONN);
    bench_start(&bench, io, address);
    expect_echo(client, "back");
    rpc_client_destroy(client);
    bench_stop(&bench);
}

struct interrupt {
    struct bench *bench;
    struct rpc_call *call;
    struct fiber_group group;
};

static void interrupt_when_held(void *arg)
{
    struct interrupt *interrupt = arg;
    while (interrupt->bench->holding == 0)
        expect_equal(fiber_queue_wait(&interrupt->bench->changed, 0), 0);
    rpc_call_interrupt(interrupt->call);
    fiber_group_done(&interrupt->group);
}

static void a_late_answer_is_a_timeout(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    struct rpc_call call = {.op = OP_HOLD, .request = TEXT("x"), .timeout_ms = 5};
    expect_equal(rpc_call(client, &call), -E_TIMEOUT);
    expect_equal(bench.holding, 1);
    open_gate(&bench); /* the answer nobody waits for comes now */
    expect_echo(client, "next");
    expect_equal(bench.opened, 1);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

/* Leaves, and the connection goes on for the others. */
static void an_interrupted_call_ends_at_once(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    struct rpc_call call = {.op = OP_HOLD, .request = TEXT("x"), .timeout_ms = UINT64_MAX};
    struct interrupt interrupt = {.bench = &bench, .call = &call};
    fiber_group_add(&interrupt.group);
    expect_equal(fiber_spawn(io, "interrupt", interrupt_when_held, &interrupt), 0);
    expect_equal(rpc_call(client, &call), -E_INTR);
    fiber_group_wait(&interrupt.group);
    open_gate(&bench); /* the answer nobody waits for comes now */
    expect_echo(client, "next");
    expect_equal(bench.opened, 1);
    rpc_call_interrupt(&call); /* it is over */
    expect_equal(rpc_call(client, &call), -E_INTR);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void silence_ends_a_connection(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    struct rpc_call call = {.op = OP_HOLD, .request = TEXT("x"), .timeout_ms = 5100};
    expect_equal(rpc_call(client, &call), -E_TIMEOUT);
    while (bench.lost == 0)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    open_gate(&bench);
    expect_echo(client, "next");
    expect_equal(bench.opened, 2);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void a_client_may_go_with_calls_under_way(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    static struct caller callers[5];
    struct fiber_group group = {0};
    spawn_calls(&bench, client, callers, 5, OP_HOLD, &group);
    while (bench.holding < 5)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    rpc_client_destroy(client);
    fiber_group_wait(&group);
    for (int i = 0; i < 5; i++)
        expect_equal(callers[i].result, -E_CONN);
    open_gate(&bench);
    bench_stop(&bench);
    expect_equal(bench.lost, 0);
}

static void a_client_may_go_while_it_connects(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    for (int turns = 1; turns < 12; turns++) { /* the call has begun */
        struct rpc_client *client = bench_client(&bench);
        struct fiber_group group = {0};
        struct caller caller = {0};
        spawn_calls(&bench, client, &caller, 1, OP_ECHO, &group);
        for (int i = 0; i < turns; i++)
            fiber_yield();
        rpc_client_destroy(client);
        fiber_group_wait(&group);
        expect(caller.result == 0 || caller.result == -E_CONN);
    }
    bench_stop(&bench);
}

static void stopping_ends_everything(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    static struct caller callers[5];
    struct fiber_group group = {0};
    spawn_calls(&bench, client, callers, 5, OP_HOLD, &group);
    while (bench.holding < 5)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    io_stop(io);
    fiber_group_wait(&group);
    for (int i = 0; i < 5; i++)
        expect_equal(callers[i].result, -E_CANCELED);
    struct rpc_call call;
    expect_equal(call_text(client, OP_ECHO, "x", &call), -E_CANCELED);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

/* ---- peers that do not play by the rules, made of bare sockets ---- */

static void send_frame(struct io_sock *sock, struct frame frame, const void *control, size_t n,
                       const void *payload, size_t payload_len)
{
    uint8_t header[FRAME_HEADER_BYTES];
    frame.cluster_id = 7;
    frame.control_len = (uint32_t)n;
    frame.control_crc ^= crc32c(0, control, n); /* a caller's bit spoils it */
    frame.payload_len = (uint32_t)payload_len;
    if ((frame.flags & FRAME_PAYLOAD_CELLS) == 0)
        frame.payload_crc ^= payload == NULL ? 0 : crc32c(0, payload, payload_len);
    frame_encode(&frame, header);
    expect_equal(io_send(sock, header, sizeof header), 0);
    if (n > 0)
        expect_equal(io_send(sock, control, n), 0);
    if (payload != NULL)
        expect_equal(io_send(sock, payload, payload_len), 0);
}

static struct frame recv_frame(struct io_sock *sock, uint8_t *control, size_t size)
{
    uint8_t header[FRAME_HEADER_BYTES];
    struct frame frame;
    expect_equal(io_recv_all(sock, header, sizeof header, 0), 0);
    expect_equal(frame_decode(header, &frame), 0);
    expect(frame.control_len <= size);
    if (frame.control_len > 0)
        expect_equal(io_recv_all(sock, control, frame.control_len, 0), 0);
    return frame;
}

/* The client's side of the hello; `spoil` is added to the proof. */
static struct io_sock *raw_client(struct bench *bench, uint8_t spoil)
{
    struct io_sock *sock = NULL;
    expect_equal(io_connect(bench->io, bench->address, 0, &sock), 0);
    struct hello_client hello = {.cluster_id = 7, .nonce = {9}, .name = "raw"};
    uint8_t control[HELLO_CLIENT_BYTES];
    hello_client_encode(&hello, control);
    send_frame(sock, (struct frame){.kind = FRAME_HELLO}, control, HELLO_CLIENT_BYTES, NULL, 0);
    struct frame frame = recv_frame(sock, control, sizeof control);
    struct hello_server answer;
    expect_equal(hello_server_decode(control, frame.control_len, &answer), 0);
    struct hello_prove prove;
    hello_proof(bench->auth.key, HELLO_CLIENT, &hello, answer.nonce, prove.proof);
    prove.proof[0] = (uint8_t)(prove.proof[0] + spoil);
    hello_prove_encode(&prove, control);
    send_frame(sock, (struct frame){.kind = FRAME_HELLO}, control, HELLO_PROVE_BYTES, NULL, 0);
    return sock;
}

static void expect_closed(struct io_sock *sock)
{
    uint8_t rest[256];
    int64_t n;
    while ((n = io_recv(sock, rest, sizeof rest, 0)) > 0)
        ;
    expect(n == 0 || n == -E_CONN);
    io_sock_close(sock);
}

static void a_server_survives_bad_clients(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct frame request = {.kind = FRAME_REQUEST, .op = OP_ECHO, .request_id = 1}, bad;
    char junk[200];
    memset(junk, 'j', sizeof junk);

    struct io_sock *sock = NULL; /* no frame at all */
    expect_equal(io_connect(io, bench.address, 0, &sock), 0);
    expect_equal(io_send(sock, junk, sizeof junk), 0);
    expect_closed(sock);

    expect_equal(io_connect(io, bench.address, 0, &sock), 0); /* a request before the hello */
    send_frame(sock, request, NULL, 0, NULL, 0);
    expect_closed(sock);

    expect_equal(io_connect(io, bench.address, 0, &sock), 0); /* a hello that is not one */
    send_frame(sock, (struct frame){.kind = FRAME_HELLO}, junk, 100, NULL, 0);
    uint8_t control[256];
    struct frame answer = recv_frame(sock, control, sizeof control);
    expect_equal(answer.kind, FRAME_HELLO);
    expect(answer.status == E_VERSION || answer.status == E_PROTO);
    expect_closed(sock);

    sock = raw_client(&bench, 1); /* a wrong proof */
    answer = recv_frame(sock, control, sizeof control);
    expect_equal(answer.status, E_AUTH);
    expect_closed(sock);
    expect_equal(bench.opened, 0);

    sock = raw_client(&bench, 0); /* a wrong checksum of the control message */
    bad = request;
    bad.control_crc = 1;
    send_frame(sock, bad, "\12\1x", 3, NULL, 0);
    expect_closed(sock);

    sock = raw_client(&bench, 0); /* ... of the payload */
    bad = request;
    bad.payload_crc = 1;
    send_frame(sock, bad, NULL, 0, junk, sizeof junk);
    expect_closed(sock);

    sock = raw_client(&bench, 0); /* a length past the limit */
    send_frame(sock, request, NULL, 0, NULL, FRAME_PAYLOAD_MAX + 1);
    expect_closed(sock);

    sock = raw_client(&bench, 0); /* a reply where requests belong */
    send_frame(sock, (struct frame){.kind = FRAME_REPLY, .request_id = 1}, NULL, 0, NULL, 0);
    expect_closed(sock);

    sock = raw_client(&bench, 0); /* half a payload, then nothing */
    bad = request;
    send_frame(sock, bad, NULL, 0, NULL, 1000);
    io_sock_close(sock);

    expect_equal(bench.started, 0);
    struct rpc_client *client = bench_client(&bench);
    expect_echo(client, "fine");
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void pushes_are_bounded(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct io_sock *sock = raw_client(&bench, 0); /* never reads */
    while (bench.last == NULL)
        fiber_yield();
    char *text = malloc(KIB(900));
    memset(text, 'p', KIB(900) - 1);
    text[KIB(900) - 1] = 0;
    int err;
    unsigned n = 0;
    while ((err = rpc_push(bench.last, 77, TEXT(text))) == 0 && n < 1000) {
        n++;
        fiber_yield();
    }
    expect_equal(err, -E_BUSY);
    free(text);
    io_sock_close(sock);
    bench_stop(&bench);
}

/* A server made of a bare socket: answers one connection as `script` says. */
struct script {
    struct bench bench;
    struct io_listener *listener;
    void (*run)(struct script *script, struct io_sock *sock, struct frame request);
    struct fiber_group group;
};

static void run_script(void *arg)
{
    struct script *script = arg;
    struct io_sock *sock = NULL;
    expect_equal(io_accept(script->listener, &sock), 0);
    uint8_t control[256];
    recv_frame(sock, control, sizeof control);
    struct hello_client hello;
    expect_equal(hello_client_decode(control, HELLO_CLIENT_BYTES, &hello), 0);
    struct hello_server answer = {.nonce = {3}};
    hello_proof(script->bench.auth.key, HELLO_SERVER, &hello, answer.nonce, answer.proof);
    hello_server_encode(&answer, control);
    send_frame(sock, (struct frame){.kind = FRAME_HELLO}, control, HELLO_SERVER_BYTES, NULL, 0);
    recv_frame(sock, control, sizeof control);
    struct frame request = recv_frame(sock, control, sizeof control);
    script->run(script, sock, request);
    expect_closed(sock);
    io_listener_close(script->listener);
    fiber_group_done(&script->group);
}

static int call_script(struct io *io, void (*run)(struct script *, struct io_sock *, struct frame),
                       struct rpc_call *call)
{
    struct script script = {.bench = {.io = io, .auth = {.cluster_id = 7, .key = {5}, .name = "s"}},
                            .run = run};
    expect_equal(io_listen(io, ANY_ADDRESS, &script.listener), 0);
    snprintf(script.bench.address, sizeof script.bench.address, "%s",
             io_listener_address(script.listener));
    fiber_group_add(&script.group);
    expect_equal(fiber_spawn(io, "script", run_script, &script), 0);
    struct rpc_client *client = bench_client(&script.bench);
    call->op = OP_ECHO;
    call->request = TEXT("x");
    call->reply_type = &tarn__error_detail__descriptor;
    int result = rpc_call(client, call);
    rpc_client_destroy(client);
    fiber_group_wait(&script.group);
    return result;
}

static struct frame reply_to(struct frame request)
{
    return (struct frame){.kind = FRAME_REPLY, .op = request.op, .request_id = request.request_id};
}

static void script_garbage(struct script *script, struct io_sock *sock, struct frame request)
{
    char junk[300];
    memset(junk, 'j', sizeof junk);
    expect_equal(io_send(sock, junk, sizeof junk), 0);
}

static void script_bad_control(struct script *script, struct io_sock *sock, struct frame request)
{
    struct frame reply = reply_to(request);
    reply.control_crc = 1;
    send_frame(sock, reply, "\12\1x", 3, NULL, 0);
}

static void script_bad_payload(struct script *script, struct io_sock *sock, struct frame request)
{
    struct frame reply = reply_to(request);
    reply.payload_crc = 1;
    send_frame(sock, reply, NULL, 0, "abc", 3);
}

static void script_unreadable(struct script *script, struct io_sock *sock, struct frame request)
{
    send_frame(sock, reply_to(request), "\12\5x", 3, NULL, 0);
}

static void script_other_cluster(struct script *script, struct io_sock *sock, struct frame request)
{
    uint8_t header[FRAME_HEADER_BYTES];
    struct frame reply = reply_to(request);
    reply.cluster_id = 8;
    frame_encode(&reply, header);
    expect_equal(io_send(sock, header, sizeof header), 0);
}

static void script_half(struct script *script, struct io_sock *sock, struct frame request)
{
    send_frame(sock, reply_to(request), "\12\1x", 3, NULL, 1000);
    expect_equal(io_send(sock, "abc", 3), 0);
    io_sock_shutdown(sock);
}

static void a_client_survives_bad_servers(struct io *io, const char *dir)
{
    struct rpc_call call = {0};
    expect_equal(call_script(io, script_garbage, &call), -E_CONN);
    expect_equal(call_script(io, script_bad_control, &call), -E_PROTO);
    expect_equal(call_script(io, script_bad_payload, &call), -E_PROTO);
    expect_equal(call_script(io, script_unreadable, &call), -E_PROTO);
    expect_equal(call_script(io, script_other_cluster, &call), -E_CONN);
    expect_equal(call_script(io, script_half, &call), -E_CONN);
    char into[1000];
    call.into = into;
    call.into_size = sizeof into;
    expect_equal(call_script(io, script_half, &call), -E_CONN);
    expect(call.reply == NULL && call.reply_payload == NULL);
}

/* The payload stops half-way: the caller leaves, its buffer is its own again. */
static void script_stall(struct script *script, struct io_sock *sock, struct frame request)
{
    static char piece[KIB(300)];
    send_frame(sock, reply_to(request), "\12\1x", 3, NULL, MIB(1));
    expect_equal(io_send(sock, piece, sizeof piece), 0);
}

static void a_stalled_payload_times_out(struct io *io, const char *dir)
{
    char *into = malloc(MIB(1));
    struct rpc_call call = {.into = into, .into_size = MIB(1), .timeout_ms = 30};
    expect_equal(call_script(io, script_stall, &call), -E_TIMEOUT);
    free(into);
    call = (struct rpc_call){.timeout_ms = 30};
    expect_equal(call_script(io, script_stall, &call), -E_TIMEOUT);
}

static void interrupt_stalled(void *arg)
{
    struct rpc_call *call = arg;
    while (!call->reply) /* the head of the answer is there: its payload is being received */
        expect_equal(io_sleep_ms(fiber_io(), 1), 0);
    rpc_call_interrupt(call);
}

static void an_interrupted_call_leaves_a_stalled_payload(struct io *io, const char *dir)
{
    char *into = malloc(MIB(1));
    struct rpc_call call = {.into = into, .into_size = MIB(1), .timeout_ms = UINT64_MAX};
    expect_equal(fiber_spawn(io, "interrupt", interrupt_stalled, &call), 0);
    expect_equal(call_script(io, script_stall, &call), -E_INTR);
    free(into);
}

/* ... and when the rest comes later it is thrown away and the connection goes on. */
static void script_resume(struct script *script, struct io_sock *sock, struct frame request)
{
    static char piece[MIB(1)];
    send_frame(sock, reply_to(request), "\12\1x", 3, NULL, MIB(1));
    expect_equal(io_send(sock, piece, KIB(300)), 0);
    expect_equal(io_sleep_ms(script->bench.io, 60), 0);
    expect_equal(io_send(sock, piece + KIB(300), MIB(1) - KIB(300)), 0);
    uint8_t control[256];
    struct frame second = recv_frame(sock, control, sizeof control);
    send_frame(sock, reply_to(second), "\12\1y", 3, NULL, 0);
}

static void a_late_payload_is_drained(struct io *io, const char *dir)
{
    struct script script = {.bench = {.io = io, .auth = {.cluster_id = 7, .key = {5}, .name = "s"}},
                            .run = script_resume};
    expect_equal(io_listen(io, ANY_ADDRESS, &script.listener), 0);
    snprintf(script.bench.address, sizeof script.bench.address, "%s",
             io_listener_address(script.listener));
    fiber_group_add(&script.group);
    expect_equal(fiber_spawn(io, "script", run_script, &script), 0);
    struct rpc_client *client = bench_client(&script.bench);
    char *into = malloc(MIB(1));
    struct rpc_call call = {
        .op = OP_ECHO, .request = TEXT("x"), .into = into, .into_size = MIB(1), .timeout_ms = 30};
    expect_equal(rpc_call(client, &call), -E_TIMEOUT);
    free(into);
    expect_equal(call_text(client, OP_ECHO, "x", &call), 0);
    expect(strcmp(text_of(&call), "y") == 0);
    rpc_call_fini(&call);
    rpc_client_destroy(client);
    fiber_group_wait(&script.group);
}

/* A peer that does not read: the request's own payload is stuck in the socket. */
static void script_deaf(struct script *script, struct io_sock *sock, struct frame request)
{
    expect_equal(io_sleep_ms(script->bench.io, 100), 0);
}

static void a_stuck_request_times_out(struct io *io, const char *dir)
{
    char *data = malloc(FRAME_PAYLOAD_MAX);
    memset(data, 'd', FRAME_PAYLOAD_MAX);
    struct rpc_call call = {
        .payload = &(struct iovec){data, FRAME_PAYLOAD_MAX}, .n_payload = 1, .timeout_ms = 20};
    expect_equal(call_script(io, script_deaf, &call), -E_TIMEOUT);
    free(data);
}

static void descriptors_need_a_unix_socket(struct io *io, const char *dir)
{
    struct bench bench;
    bench_start(&bench, io, ANY_ADDRESS);
    struct rpc_client *client = bench_client(&bench);
    struct rpc_call call = {.op = OP_FD, .request = TEXT("x")};
    int fd = -1;
    expect_equal(rpc_call_fd(client, &call, &fd), -E_NOTSUP);
    bench.fd = 0;
    expect_equal(rpc_call(client, &call), -E_NOTSUP);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

#define CASE(fn)                                                                                   \
    {                                                                                              \
#fn, fn                                                                                    \
    }
const struct suite_case rpc_suite[] = {
    CASE(a_call_is_answered),
    CASE(errors_come_with_words),
    CASE(payloads_go_both_ways),
    CASE(large_control_messages_arrive),
    CASE(what_is_too_large_is_not_sent),
    CASE(many_calls_share_a_connection),
    CASE(requests_start_in_order),
    CASE(past_the_limit_the_answer_is_busy),
    CASE(pushes_arrive),
    CASE(a_client_may_go_while_told),
    CASE(another_key_is_refused),
    CASE(another_cluster_is_refused),
    CASE(nobody_there_is_a_failed_connection),
    CASE(a_stopped_server_fails_calls_under_way),
    CASE(a_server_comes_back),
    CASE(a_late_answer_is_a_timeout),
    CASE(an_interrupted_call_ends_at_once),
    CASE(a_client_may_go_with_calls_under_way),
    CASE(a_client_may_go_while_it_connects),
    CASE(stopping_ends_everything),
    CASE(a_server_survives_bad_clients),
    CASE(pushes_are_bounded),
    CASE(a_client_survives_bad_servers),
    CASE(a_late_payload_is_drained),
    CASE(a_stuck_request_times_out),
    CASE(descriptors_need_a_unix_socket),
};
const size_t n_rpc_suite = ARRAY_SIZE(rpc_suite);

const struct suite_case rpc_slow_suite[] = {
    CASE(silence_ends_a_connection),
    CASE(a_stalled_payload_times_out),
    CASE(an_interrupted_call_leaves_a_stalled_payload),
};
const size_t n_rpc_slow_suite = ARRAY_SIZE(rpc_slow_suite);
