/* A store under a metadata service that the test speaks for: fences, silence, what is under way when they come. X1-X5. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "common/rpc.h"
#include "meta.pb-c.h"
#include "object.pb-c.h"
#include "objstore/store.h"
#include "proto/ops.h"

#include <stdio.h>

#define SERVICE "tcp:m1:7000"
#define STORE "tcp:s1:7000"
#define OURS 5 /* the session that falls silent */
#define OTHER 6
#define LENGTH 8192
#define CHUNK 1

struct service {
    bool silent; /* answers no beats */
    uint64_t fence_last, settled;
    uint64_t applied, ordered, closed; /* as the store said last */
    unsigned suspects;
    struct fiber_queue news;
};
struct world {
    struct sim *sim;
    struct sim_host *m1, *s1, *client;
    struct service service;
    struct store *store;
    struct rpc_client *rpc;
    struct rpc_server *server;
    void (*script)(struct world *w);
    bool serves, done;
};
static const struct rpc_auth auth = {.cluster_id = 7, .key = "0123456789abcdef0123456789abcde", .name = "test"};

/* ---- the service */
static void sessions_fill(Tarn__SessionSet *set, uint64_t steps[2])
{
    tarn__session_set__init(set);
    steps[0] = OURS;
    steps[1] = OTHER - OURS;
    set->next_session = OTHER + 1;
    set->steps = steps;
    set->n_steps = 2;
}

static int handle_join(void *ctx, struct rpc_request *request, const void *message)
{
    Tarn__NodeJoinReply reply = TARN__NODE_JOIN_REPLY__INIT;
    Tarn__SessionSet set;
    uint64_t steps[2];
    sessions_fill(&set, steps);
    reply.id = reply.disk = 1;
    reply.epoch = 1;
    reply.first_chunk = 1;
    reply.sessions = &set;
    return rpc_reply(request, &reply.base);
}

static int handle_inventory(void *ctx, struct rpc_request *request, const void *message)
{
    struct world *w = ctx;
    const Tarn__NodeInventory *m = message;
    Tarn__NodeInventoryReply reply = TARN__NODE_INVENTORY_REPLY__INIT;
    for (size_t i = 0; i < m->n_chunks; i++)
        w->service.suspects += m->chunks[i]->suspect;
    return rpc_reply(request, &reply.base);
}

static int handle_beat(void *ctx, struct rpc_request *request, const void *message)
{
    struct service *service = &((struct world *)ctx)->service;
    const Tarn__NodeBeat *m = message;
    service->applied = m->fence_applied;
    service->ordered = m->fence_ordered;
    service->closed = m->fence_closed;
    fiber_queue_wake_all(&service->news);
    bool known = m->fence_applied == service->fence_last && m->fence_settled == service->settled;
    if (!m->no_wait && known)
        fiber_queue_wait(&service->news, 1000);
    if (service->silent)
        return -E_UNAVAIL;
    Tarn__NodeBeatReply reply = TARN__NODE_BEAT_REPLY__INIT;
    Tarn__Fence fence = TARN__FENCE__INIT, *fences[1] = {&fence};
    fence.number = 1;
    fence.session = OURS;
    reply.fences = fences;
    reply.n_fences = service->fence_last;
    reply.fence_last = service->fence_last;
    reply.fence_settled = service->settled;
    reply.oldest_session = OURS;
    return rpc_reply(request, &reply.base);
}

static const struct rpc_op service_ops[] = {
    {OP_NODE_JOIN, "join", &tarn__node_join__descriptor, handle_join},
    {OP_NODE_INVENTORY, "inventory", &tarn__node_inventory__descriptor, handle_inventory},
    {OP_NODE_BEAT, "beat", &tarn__node_beat__descriptor, handle_beat},
};

static void service_run(void *arg)
{
    struct world *w = arg;
    static struct rpc_service service = {.ops = service_ops, .n_ops = ARRAY_SIZE(service_ops)};
    struct io_listener *listener;
    struct fiber_queue never = {0};
    service.ctx = w;
    assert_int_equal(io_listen(fiber_io(), SERVICE, &listener), 0);
    assert_int_equal(rpc_server_start(fiber_io(), listener, &auth, &service, &w->server), 0);
    (void)fiber_queue_wait(&never, 0);
    fiber_queue_wake_all(&w->service.news);
    rpc_server_stop(w->server);
}

static void fence(struct world *w)
{
    w->service.fence_last = 1;
    fiber_queue_wake_all(&w->service.news);
}

static void settle(struct world *w)
{
    w->service.settled = 1;
    fiber_queue_wake_all(&w->service.news);
}

/* ---- the store and who asks it */
static void store_run(void *arg)
{
    struct world *w = arg;
    static const char meta[1][64] = {SERVICE};
    struct store_options options = {.dir = "/vol", .auth = &auth, .listen = STORE, .n_meta = 1, .meta = meta,
                                    .journal_bytes = MIB(5), .reserve_bytes = MIB(1)};
    struct fiber_queue never = {0};
    const char *why;
    assert_int_equal(store_open(fiber_io(), &options, &w->store, &why), 0);
    assert_int_equal(store_serve(w->store), 0);
    w->serves = true;
    (void)fiber_queue_wait(&never, 0);
    store_stop(w->store);
}

static bool serves(void *arg)
{
    struct world *w = arg;
    return w->serves && w->store->contact_ms != 0;
}

static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}

static void client_run(void *arg)
{
    struct world *w = arg;
    w->rpc = rpc_client_create(fiber_io(), STORE, &auth);
    w->script(w);
    rpc_client_destroy(w->rpc);
    w->done = true;
}

static void run(void (*script)(struct world *w))
{
    struct world *w = calloc(1, sizeof *w);
    w->sim = sim_create(3, NULL);
    w->script = script;
    w->m1 = sim_host_create(w->sim, "m1");
    w->s1 = sim_host_create(w->sim, "s1");
    w->client = sim_host_create(w->sim, "client");
    assert_int_equal(fiber_spawn(sim_host_io(w->m1), "service", service_run, w), 0);
    assert_int_equal(fiber_spawn(sim_host_io(w->s1), "store", store_run, w), 0);
    assert_int_equal(sim_run(w->sim, 60000, serves, w), SIM_DONE);
    assert_int_equal(fiber_spawn(sim_host_io(w->client), "client", client_run, w), 0);
    assert_int_equal(sim_run(w->sim, 600000, is_done, w), SIM_DONE);
    sim_destroy(w->sim);
    free(w);
}

static int put(struct world *w, uint64_t session, bool forwarded, uint8_t byte)
{
    static uint8_t data[256][LENGTH] __attribute__((aligned(4096)));
    memset(data[byte], byte, LENGTH);
    uint32_t crc = crc32c(0, data[byte], LENGTH);
    Tarn__ChunkPut m = TARN__CHUNK_PUT__INIT;
    m.chunk = CHUNK;
    m.generation = 1;
    m.length = LENGTH;
    m.n_crcs = 1;
    m.crcs = &crc;
    m.session = session;
    m.forwarded = forwarded;
    struct iovec payload = {data[byte], LENGTH};
    struct rpc_call call = {.op = OP_CHUNK_PUT, .request = &m.base, .payload = &payload, .n_payload = 1, .payload_cells = true,
                            .reply_type = &tarn__chunk_put_reply__descriptor, .timeout_ms = 60000};
    int err = rpc_call(w->rpc, &call);
    rpc_call_fini(&call);
    return err;
}

/* The first byte, or an error. */
static int get(struct world *w)
{
    uint8_t buf[LENGTH];
    Tarn__ChunkGet m = TARN__CHUNK_GET__INIT;
    m.chunk = CHUNK;
    m.length = LENGTH;
    struct rpc_call call = {.op = OP_CHUNK_GET, .request = &m.base, .reply_type = &tarn__chunk_get_reply__descriptor,
                            .timeout_ms = 60000, .into = buf, .into_size = sizeof buf};
    int err = rpc_call(w->rpc, &call);
    rpc_call_fini(&call);
    return err == 0 ? buf[0] : err;
}

struct putter {
    struct world *w;
    uint64_t session;
    uint8_t byte;
    int err;
    bool ended;
};
static void putter_run(void *arg)
{
    struct putter *p = arg;
    p->err = put(p->w, p->session, false, p->byte);
    p->ended = true;
}

static void begin(struct putter *p)
{
    assert_int_equal(fiber_spawn(fiber_io(), "putter", putter_run, p), 0);
}

static void until(const bool *flag)
{
    while (!*flag)
        io_sleep_ms(fiber_io(), 1);
}

static void told(const uint64_t *number)
{
    while (*number < 1)
        io_sleep_ms(fiber_io(), 1);
}

/* ---- what is tested */
static void fenced_first_for_orders_then_for_all(struct world *w)
{
    assert_int_equal(put(w, OURS, false, 1), 0);
    assert_int_equal(put(w, 4, false, 9), -E_NO_SESSION); /* ended before the store came */
    assert_int_equal(put(w, 0, false, 9), -E_NO_SESSION);
    fence(w);
    told(&w->service.ordered);
    assert_int_equal(put(w, OURS, false, 9), -E_NO_SESSION);
    assert_int_equal(put(w, OURS, true, 2), 0);
    assert_int_equal(w->service.closed, 0);
    settle(w);
    told(&w->service.closed);
    assert_int_equal(put(w, OURS, true, 9), -E_NO_SESSION);
    assert_int_equal(get(w), 2);
    assert_int_equal(put(w, OTHER, false, 3), 0);
    assert_int_equal(get(w), 3);
}

static void a_fence_is_told_in_milliseconds(struct world *w)
{
    uint64_t before = sim_now_ns(w->sim);
    fence(w);
    told(&w->service.ordered);
    settle(w);
    told(&w->service.closed);
    assert_true(sim_now_ns(w->sim) - before < 100 * 1000000); /* virtual time: exact */
}

static void what_waited_when_the_fence_came_is_refused(struct world *w)
{
    struct putter first = {.w = w, .session = OTHER, .byte = 1}, second = {.w = w, .session = OURS, .byte = 2};
    assert_int_equal(put(w, OTHER, false, 7), 0);
    sim_disk_slow(w->s1, 2000);
    begin(&first);
    io_sleep_ms(fiber_io(), 2);
    begin(&second); /* waits for the cell */
    io_sleep_ms(fiber_io(), 2);
    assert_false(first.ended);
    fence(w);
    told(&w->service.applied);
    until(&first.ended);
    until(&second.ended);
    sim_disk_slow(w->s1, 1);
    assert_int_equal(first.err, 0);
    assert_int_equal(second.err, -E_NO_SESSION);
    told(&w->service.ordered);
    assert_int_equal(get(w), 1);
    assert_int_equal(w->service.suspects, 0);
}

static void a_fence_waits_for_the_write_under_way(struct world *w)
{
    struct putter ours = {.w = w, .session = OURS, .byte = 1};
    assert_int_equal(put(w, OTHER, false, 7), 0);
    sim_disk_slow(w->s1, 2000);
    begin(&ours);
    io_sleep_ms(fiber_io(), 2);
    fence(w);
    while (w->service.applied < 1) {
        assert_true(!ours.ended || w->service.ordered == 0);
        io_sleep_ms(fiber_io(), 1);
    }
    while (!ours.ended) {
        assert_int_equal(w->service.ordered, 0);
        io_sleep_ms(fiber_io(), 1);
    }
    told(&w->service.ordered);
    assert_int_equal(ours.err, 0); /* it is older than the fence */
    assert_int_equal(w->service.suspects, 0);
    sim_disk_slow(w->s1, 1);
    assert_int_equal(get(w), 1);
}

static void without_contact_nothing_is_changed_or_told_of_what_changes(struct world *w)
{
    assert_int_equal(put(w, OTHER, false, 1), 0);
    w->service.silent = true;
    io_sleep_ms(fiber_io(), STORE_DOUBT_MS + 1100);
    assert_int_equal(put(w, OTHER, false, 2), -E_BUSY);
    assert_int_equal(get(w), -E_BUSY);
    io_sleep_ms(fiber_io(), STORE_DEATH_MS - STORE_DOUBT_MS);
    assert_int_equal(put(w, OTHER, true, 2), -E_UNAVAIL);
    w->service.silent = false;
    while (put(w, OTHER, false, 3) != 0)
        io_sleep_ms(fiber_io(), 10);
    assert_int_equal(get(w), 3);
}

static void a_stopped_store_knows_at_once_how_late_it_is(struct world *w)
{
    struct putter ours = {.w = w, .session = OURS, .byte = 2};
    assert_int_equal(put(w, OTHER, false, 1), 0);
    sim_host_pause(w->s1, true);
    begin(&ours); /* arrives while it is stopped */
    io_sleep_ms(fiber_io(), STORE_DEATH_MS);
    w->service.fence_last = w->service.settled = 1; /* the service went on without it */
    sim_host_pause(w->s1, false);
    until(&ours.ended);
    assert_true(ours.err == -E_BUSY || ours.err == -E_NO_SESSION);
    told(&w->service.closed);
    assert_int_equal(get(w), 1);
}

static void bytes_that_came_too_late_make_the_copy_suspect(struct world *w)
{
    struct putter ours = {.w = w, .session = OURS, .byte = 2};
    assert_int_equal(put(w, OTHER, false, 1), 0);
    sim_disk_slow(w->s1, 4000); /* the write takes seconds, and the contact is lost meanwhile */
    begin(&ours);
    io_sleep_ms(fiber_io(), 1);
    assert_false(ours.ended);
    sim_partition(w->s1, w->m1, true);
    sim_disk_slow(w->s1, 1);
    io_sleep_ms(fiber_io(), STORE_DEATH_MS + 1000);
    assert_false(ours.ended); /* what is on the disk waits for the verdict */
    w->service.fence_last = w->service.settled = 1;
    sim_partition(w->s1, w->m1, false);
    until(&ours.ended);
    assert_int_equal(ours.err, -E_NO_SESSION);
    while (w->service.suspects == 0)
        io_sleep_ms(fiber_io(), 1);
    assert_int_equal(w->service.suspects, 1);
    while (get(w) == -E_BUSY) /* until the service has decided: here that it is the only copy */
        io_sleep_ms(fiber_io(), 10);
    assert_int_equal(get(w), 2);
}

#define TEST(name) static void test_##name(void **state) { run(name); }
TEST(fenced_first_for_orders_then_for_all)
TEST(a_fence_is_told_in_milliseconds)
TEST(what_waited_when_the_fence_came_is_refused)
TEST(a_fence_waits_for_the_write_under_way)
TEST(without_contact_nothing_is_changed_or_told_of_what_changes)
TEST(a_stopped_store_knows_at_once_how_late_it_is)
TEST(bytes_that_came_too_late_make_the_copy_suspect)

int main(void)
{
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fenced_first_for_orders_then_for_all),
        cmocka_unit_test(test_a_fence_is_told_in_milliseconds),
        cmocka_unit_test(test_what_waited_when_the_fence_came_is_refused),
        cmocka_unit_test(test_a_fence_waits_for_the_write_under_way),
        cmocka_unit_test(test_without_contact_nothing_is_changed_or_told_of_what_changes),
        cmocka_unit_test(test_a_stopped_store_knows_at_once_how_late_it_is),
        cmocka_unit_test(test_bytes_that_came_too_late_make_the_copy_suspect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
