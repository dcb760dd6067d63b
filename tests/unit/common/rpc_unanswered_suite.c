/* Requests that get no reply. */
#include "rpc_suite.h"

#include "common/rpc_wire.h"

static int send_one(struct rpc_client *client, unsigned op, uint64_t epoch, const struct iovec *payload)
{
    Tarn__ErrorDetail text = TARN__ERROR_DETAIL__INIT;
    text.text = "unheard";
    struct rpc_call call = {.op = op, .epoch = epoch, .request = &text.base, .payload = payload,
                            .n_payload = payload != NULL ? 1 : 0, .unanswered = true};
    int err = rpc_call(client, &call);
    expect(call.reply == NULL);
    return err;
}

/* A request of the ordinary kind: when it is answered those before it have begun. */
static void settle(struct rpc_client *client)
{
    Tarn__ErrorDetail text = TARN__ERROR_DETAIL__INIT;
    text.text = "heard";
    struct rpc_call call = {.op = OP_ECHO, .epoch = 999, .request = &text.base, .reply_type = &tarn__error_detail__descriptor};
    expect_equal(rpc_call(client, &call), 0);
    expect(strcmp(((const Tarn__ErrorDetail *)call.reply)->text, "heard") == 0);
    rpc_call_fini(&call);
}

static void they_arrive_in_order_beside_others(struct io *io, const char *dir)
{
    (void)dir;
    struct bench bench;
    bench_start(&bench, io, "tcp:127.0.0.1:0");
    struct rpc_client *client = bench_client(&bench);
    char bytes[10000] = {1};
    for (unsigned i = 0; i < 100; i++)
        expect_equal(send_one(client, OP_ECHO, i, i % 3 == 0 ? &(struct iovec){bytes, sizeof bytes} : NULL), 0);
    settle(client);
    expect_equal(bench.started, 101);
    for (unsigned i = 0; i < 100; i++)
        expect_equal(bench.order[i], i);
    expect_equal(bench.opened, 1);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void refusals_are_not_told(struct io *io, const char *dir)
{
    (void)dir;
    struct bench bench;
    bench_start(&bench, io, "tcp:127.0.0.1:0");
    struct rpc_client *client = bench_client(&bench);
    expect_equal(send_one(client, OP_FAIL, 0, NULL), 0);
    expect_equal(send_one(client, OP_RETURN, 0, NULL), 0);
    expect_equal(send_one(client, 200, 0, NULL), 0); /* not there */
    settle(client);
    expect_equal(bench.lost, 0);
    rpc_client_destroy(client);
    bench_stop(&bench);
}

static void without_a_connection_the_call_fails(struct io *io, const char *dir)
{
    (void)dir;
    struct bench bench;
    bench_start(&bench, io, "tcp:127.0.0.1:0");
    struct rpc_client *client = bench_client(&bench);
    settle(client);
    bench_stop(&bench);
    while (bench.lost == 0)
        expect_equal(fiber_queue_wait(&bench.changed, 0), 0);
    expect_equal(send_one(client, OP_ECHO, 0, NULL), -E_CONN);
    rpc_client_destroy(client);
}

#define CASE(fn) {#fn, fn}
const struct suite_case rpc_unanswered_suite[] = {
    CASE(they_arrive_in_order_beside_others), CASE(refusals_are_not_told), CASE(without_a_connection_the_call_fails)};
const size_t n_rpc_unanswered_suite = ARRAY_SIZE(rpc_unanswered_suite);
