/* Three stores and a writer in one simulation: replication, a member that dies, refusals, copies,
 * clones and damaged cells, all through the real protocol. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "object.pb-c.h"
#include "objstore/get.h"
#include "objstore/put.h"
#include "objstore/rebuild.h"
#include "objstore/store.h"
#include "proto/ops.h"

#include <stdio.h>

#define STORES 3
#define LENGTH (3 * CELL_BYTES + 1000)

struct node {
    struct world *world;
    struct sim_host *host;
    struct store *store;
    struct fiber_queue leave;
    char address[64];
    bool open;
};
struct world {
    struct sim *sim;
    struct node nodes[STORES];
    struct sim_host *client;
    struct rpc_client *rpc[STORES];
    Tarn__Member members[STORES], *pointers[STORES];
    uint8_t *data;
    void (*script)(struct world *w);
    bool done;
};
static const struct rpc_auth auth = {.cluster_id = 7, .key = "0123456789abcdef0123456789abcde", .name = "test"};

static void node_run(void *arg)
{
    struct node *node = arg;
    char listen[64];
    const char *why;
    snprintf(listen, sizeof listen, "tcp:%s:7000", sim_host_name(node->host));
    struct store_options options = {.dir = "/vol", .auth = &auth, .listen = listen, .journal_bytes = MIB(5),
                                    .reserve_bytes = MIB(1)};
    node->leave = (struct fiber_queue){0};
    assert_int_equal(store_open(sim_host_io(node->host), &options, &node->store, &why), 0);
    assert_int_equal(store_serve(node->store), 0);
    snprintf(node->address, sizeof node->address, "%s", store_address(node->store));
    node->open = true;
    (void)fiber_queue_wait(&node->leave, 0);
    store_stop(node->store);
    node->open = false;
}

static bool all_open(void *arg)
{
    struct world *w = arg;
    for (unsigned i = 0; i < STORES; i++)
        if (!w->nodes[i].open)
            return false;
    return true;
}
static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}

static void client_run(void *arg)
{
    struct world *w = arg;
    for (unsigned i = 0; i < STORES; i++)
        w->rpc[i] = rpc_client_create(sim_host_io(w->client), w->nodes[i].address, &auth);
    w->script(w);
    for (unsigned i = 0; i < STORES; i++)
        rpc_client_destroy(w->rpc[i]);
    w->done = true;
}

static void run(void (*script)(struct world *w))
{
    static const char *const names[STORES] = {"s1", "s2", "s3"};
    struct world *w = calloc(1, sizeof *w);
    w->sim = sim_create(5, NULL);
    w->script = script;
    assert_int_equal(posix_memalign((void **)&w->data, 4096, round_up_u64(LENGTH, 4096)), 0);
    for (unsigned i = 0; i < LENGTH; i++)
        w->data[i] = (uint8_t)(i * 31 + i / 4096);
    for (unsigned i = 0; i < STORES; i++) {
        struct node *node = &w->nodes[i];
        *node = (struct node){.world = w, .host = sim_host_create(w->sim, names[i])};
        assert_int_equal(fiber_spawn(sim_host_io(node->host), "store", node_run, node), 0);
        tarn__member__init(&w->members[i]);
        w->members[i].disk = i + 1;
        w->members[i].address = node->address;
        w->pointers[i] = &w->members[i];
    }
    w->client = sim_host_create(w->sim, "client");
    assert_int_equal(sim_run(w->sim, 60000, all_open, w), SIM_DONE);
    assert_int_equal(fiber_spawn(sim_host_io(w->client), "client", client_run, w), 0);
    assert_int_equal(sim_run(w->sim, 600000, is_done, w), SIM_DONE);
    sim_destroy(w->sim);
    free(w->data);
    free(w);
}

/* ------------------------------------------------------------------ requests */
static int put(struct world *w, uint64_t chunk, uint64_t generation, uint64_t offset, size_t length, unsigned members,
               uint32_t flags, uint32_t *ret_failed)
{
    uint32_t crcs[8];
    Tarn__ChunkPut m = TARN__CHUNK_PUT__INIT;
    for (size_t at = 0; at < length; m.n_crcs++) {
        size_t piece = MIN(length - at, CELL_BYTES - (offset + at) % CELL_BYTES);
        crcs[m.n_crcs] = crc32c(0, w->data + at, piece);
        at += piece;
    }
    m.chunk = chunk;
    m.generation = generation;
    m.offset = offset;
    m.length = length;
    m.crcs = crcs;
    m.members = w->pointers;
    m.n_members = members;
    m.flags = flags;
    struct iovec payload = {w->data, length};
    struct rpc_call call = {.op = OP_CHUNK_PUT, .request = &m.base, .payload = &payload, .n_payload = 1,
                            .payload_cells = true, .reply_type = &tarn__chunk_put_reply__descriptor, .timeout_ms = 30000};
    int err = rpc_call(w->rpc[0], &call);
    const Tarn__ChunkPutReply *reply = (const Tarn__ChunkPutReply *)call.reply;
    if (err == 0 && ret_failed != NULL)
        *ret_failed = reply->failed_disk;
    if (err == 0 && reply->failed_disk == 0) { /* every member tells the life of its volume */
        assert_int_equal(reply->n_disks, members);
        assert_int_equal(reply->n_lives, members);
    }
    rpc_call_fini(&call);
    return err;
}

/* Reads from one store and compares with `expected` (NULL: only the status). */
static int get(struct world *w, unsigned from, uint64_t chunk, uint64_t offset, size_t length, const uint8_t *expected)
{
    Tarn__ChunkGet m = TARN__CHUNK_GET__INIT;
    m.chunk = chunk;
    m.offset = offset;
    m.length = length;
    struct rpc_call call = {.op = OP_CHUNK_GET, .request = &m.base, .reply_type = &tarn__chunk_get_reply__descriptor};
    int err = rpc_call(w->rpc[from], &call);
    if (err == 0 && expected != NULL) {
        assert_int_equal(call.reply_payload_len, length);
        assert_memory_equal(call.reply_payload, expected, length);
        const Tarn__ChunkGetReply *reply = (const Tarn__ChunkGetReply *)call.reply;
        size_t first = MIN(length, CELL_BYTES - offset % CELL_BYTES);
        assert_int_equal(reply->crcs[0], crc32c(0, expected, first));
    }
    rpc_call_fini(&call);
    return err;
}

static int seal(struct world *w, unsigned at, uint64_t chunk, uint64_t generation, uint64_t length, uint32_t *digest)
{
    Tarn__ChunkSeal m = TARN__CHUNK_SEAL__INIT;
    m.chunk = chunk;
    m.generation = generation;
    m.length = length;
    struct rpc_call call = {.op = OP_CHUNK_SEAL, .request = &m.base, .reply_type = &tarn__chunk_stat_reply__descriptor};
    int err = rpc_call(w->rpc[at], &call);
    if (err == 0)
        *digest = ((Tarn__ChunkStatReply *)call.reply)->digest;
    rpc_call_fini(&call);
    return err;
}

static int truncate_chunk(struct world *w, uint64_t chunk, uint64_t length)
{
    Tarn__ChunkTruncate m = TARN__CHUNK_TRUNCATE__INIT;
    m.chunk = chunk;
    m.generation = 1;
    m.length = length;
    m.members = w->pointers;
    m.n_members = STORES;
    struct rpc_call call = {.op = OP_CHUNK_TRUNCATE, .request = &m.base};
    int err = rpc_call(w->rpc[0], &call);
    rpc_call_fini(&call);
    return err;
}

/* ------------------------------------------------------------------ scripts */
static void star_and_chain(struct world *w)
{
    static const uint8_t zeros[100];
    uint32_t failed = 0, digest[STORES];
    assert_int_equal(put(w, 1, 1, 0, LENGTH, STORES, TARN__WRITE_FLAGS__WF_SYNC, &failed), 0);
    assert_int_equal(failed, 0);
    assert_int_equal(put(w, 2, 1, 0, LENGTH, STORES, TARN__WRITE_FLAGS__WF_CHAIN, &failed), 0);
    assert_int_equal(failed, 0);
    assert_int_equal(put(w, 1, 1, 70000, 50, STORES, 0, &failed), 0); /* into a cell */
    for (unsigned i = 0; i < STORES; i++) {
        assert_int_equal(get(w, i, 1, 0, 70000, w->data), 0);
        assert_int_equal(get(w, i, 1, 70000, 50, w->data), 0);
        assert_int_equal(get(w, i, 1, 70050, 1000, w->data + 70050), 0);
        assert_int_equal(get(w, i, 2, 0, LENGTH, w->data), 0);
    }
    assert_int_equal(truncate_chunk(w, 2, 100), 0);
    assert_int_equal(truncate_chunk(w, 2, 90000), 0);
    for (unsigned i = 0; i < STORES; i++) {
        assert_int_equal(get(w, i, 2, 0, 100, w->data), 0);
        assert_int_equal(get(w, i, 2, 80000, 100, zeros), 0);
        assert_int_equal(seal(w, i, 2, 2, 90000, &digest[i]), 0);
        assert_int_equal(digest[i], digest[0]);
    }
    assert_int_equal(seal(w, 0, 1, 2, LENGTH + 1, digest), -E_RANGE);
}

static void refusals(struct world *w)
{
    uint32_t digest;
    assert_int_equal(put(w, 1, 5, 0, 1000, 1, 0, NULL), 0);
    assert_int_equal(put(w, 1, 4, 0, 1000, 1, 0, NULL), -E_STALE);
    assert_int_equal(seal(w, 0, 1, 6, 1000, &digest), 0);
    assert_int_equal(put(w, 1, 6, 0, 1000, 1, 0, NULL), -E_STALE);
    assert_int_equal(put(w, 1, 9, 0, 1000, 1, 0, NULL), -E_STALE);
    assert_int_equal(get(w, 1, 1, 0, 10, NULL), -E_NOENT);
    assert_int_equal(put(w, 2, 1, CHUNK_BYTES_MAX - 10, 11, 1, 0, NULL), -E_INVAL);
    w->data[5] ^= 1;
    uint32_t crc = crc32c(0, w->data, 1000);
    w->data[5] ^= 1;
    Tarn__ChunkPut m = TARN__CHUNK_PUT__INIT;
    m.chunk = 3;
    m.generation = 1;
    m.length = 1000;
    m.n_crcs = 1;
    m.crcs = &crc;
    struct iovec payload = {w->data, 1000};
    struct rpc_call call = {.op = OP_CHUNK_PUT, .request = &m.base, .payload = &payload, .n_payload = 1, .payload_cells = true};
    assert_int_equal(rpc_call(w->rpc[0], &call), -E_CORRUPT);
    rpc_call_fini(&call);
}

static void a_member_dies(struct world *w)
{
    uint32_t failed = 0;
    assert_int_equal(put(w, 1, 1, 0, LENGTH, STORES, 0, &failed), 0);
    sim_host_crash(w->nodes[2].host, false);
    assert_int_equal(put(w, 1, 1, LENGTH, 5000, STORES, 0, &failed), 0);
    assert_int_equal(failed, 3);
    assert_int_equal(put(w, 1, 2, LENGTH, 5000, 2, 0, &failed), 0);
    assert_int_equal(failed, 0);
    assert_int_equal(get(w, 1, 1, LENGTH, 5000, w->data), 0);
    w->nodes[2].open = false;
    fiber_spawn(sim_host_restart(w->nodes[2].host), "store", node_run, &w->nodes[2]);
    while (!w->nodes[2].open)
        io_sleep_ms(sim_host_io(w->client), 10);
    assert_int_equal(get(w, 2, 1, 0, LENGTH, w->data), 0); /* what it had acknowledged */
}

static void a_bad_cell(struct world *w)
{
    char path[512];
    uint32_t failed;
    assert_int_equal(put(w, 1, 1, 0, LENGTH, STORES, TARN__WRITE_FLAGS__WF_SYNC, &failed), 0);
    volume_chunk_path(w->nodes[1].store->volumes[0], 1, path);
    assert_int_equal(sim_disk_corrupt(w->nodes[1].host, path, CELL_BYTES + 77), 0);
    assert_int_equal(get(w, 1, 1, 0, CELL_BYTES, w->data), 0);
    assert_int_equal(get(w, 1, 1, CELL_BYTES, 10, NULL), -E_CORRUPT);
    assert_int_equal(get(w, 0, 1, CELL_BYTES, 10, w->data + CELL_BYTES), 0);
}

static void clone(struct world *w)
{
    uint32_t failed, digest[2];
    assert_int_equal(put(w, 1, 1, 0, LENGTH, STORES, 0, &failed), 0);
    for (unsigned again = 0; again < 2; again++) {
        Tarn__ChunkClone m = TARN__CHUNK_CLONE__INIT;
        m.chunk = 2;
        m.generation = 1;
        m.from = 1;
        m.from_generation = 1;
        m.length = LENGTH + 500;
        m.members = w->pointers;
        m.n_members = STORES;
        struct rpc_call call = {.op = OP_CHUNK_CLONE, .request = &m.base};
        assert_int_equal(rpc_call(w->rpc[0], &call), 0);
        rpc_call_fini(&call);
    }
    assert_int_equal(put(w, 2, 1, 0, 10, STORES, 0, &failed), 0);
    for (unsigned i = 0; i < STORES; i++)
        assert_int_equal(get(w, i, 2, 10, LENGTH - 10, w->data + 10), 0);
    assert_int_equal(seal(w, 0, 2, 2, LENGTH + 500, &digest[0]), 0);
    assert_int_equal(seal(w, 1, 2, 2, LENGTH + 500, &digest[1]), 0);
    assert_int_equal(digest[0], digest[1]);
}

static int clone_alone(struct world *w, uint64_t chunk)
{
    Tarn__ChunkClone m = TARN__CHUNK_CLONE__INIT;
    m.chunk = chunk;
    m.generation = m.from_generation = 1;
    m.from = 1;
    m.length = LENGTH;
    m.members = w->pointers;
    m.n_members = 1;
    struct rpc_call call = {.op = OP_CHUNK_CLONE, .request = &m.base, .timeout_ms = 1000};
    int err = rpc_call(w->rpc[0], &call);
    rpc_call_fini(&call);
    return err;
}

static void restart(struct world *w, struct node *node)
{
    if (node->open)
        sim_host_crash(node->host, true);
    while (node->open)
        io_sleep_ms(sim_host_io(w->client), 10);
    fiber_spawn(sim_host_restart(node->host), "store", node_run, node);
    while (!node->open)
        io_sleep_ms(sim_host_io(w->client), 10);
}

#define LUCK 8 /* what a loss of power leaves is chance */

/* Power is lost at each disk operation of a clone, and after it. What comes back is no clone, or all of it. */
static void a_clone_meets_a_loss_of_power(struct world *w)
{
    uint32_t failed;
    uint64_t chunk = 2;
    unsigned finished = 0, cut = 0;
    assert_int_equal(put(w, 1, 1, 0, LENGTH, 1, TARN__WRITE_FLAGS__WF_SYNC, &failed), 0);
    for (unsigned i = 0; finished < LUCK; i++, chunk++) {
        sim_disk_crash_at(w->nodes[0].host, 1 + i / LUCK, true);
        int err = clone_alone(w, chunk);
        sim_disk_crash_at(w->nodes[0].host, 0, false);
        finished += err == 0;
        cut += err != 0;
        restart(w, &w->nodes[0]);
        while ((err = clone_alone(w, chunk)) == -E_CONN) /* until the client has a new connection */
            io_sleep_ms(sim_host_io(w->client), 10);
        assert_int_equal(err, 0);
        assert_int_equal(get(w, 0, chunk, 0, LENGTH, w->data), 0);
    }
    assert_true(cut > 0);
}

/* The task runs in the store's own process; the client only asks for the result. */
struct copy {
    struct node *node;
    Tarn__ChunkTask task;
    int err;
    bool done;
};
static void copy_run(void *arg)
{
    struct copy *copy = arg;
    uint64_t length;
    uint32_t digest;
    struct background background = {.store = copy->node->store, .volume = copy->node->store->volumes[0]};
    copy->err = rebuild_copy(&background, &copy->task, &length, &digest);
    copy->done = true;
}
static int copy_to(struct world *w, unsigned node, uint64_t chunk)
{
    struct copy copy = {.node = &w->nodes[node]};
    Tarn__Replica from = TARN__REPLICA__INIT, *pointer = &from;
    tarn__chunk_task__init(&copy.task);
    from.address = w->nodes[0].address;
    copy.task.chunk = chunk;
    copy.task.generation = 3;
    copy.task.from = &pointer;
    copy.task.n_from = 1;
    assert_int_equal(fiber_spawn(sim_host_io(w->nodes[node].host), "copy", copy_run, &copy), 0);
    while (!copy.done)
        io_sleep_ms(sim_host_io(w->client), 10);
    return copy.err;
}

static void a_copy_is_rebuilt(struct world *w)
{
    uint32_t digest;
    assert_int_equal(put(w, 1, 1, 0, LENGTH, 2, 0, NULL), 0);
    assert_int_equal(copy_to(w, 2, 1), -E_BUSY); /* not sealed yet */
    assert_int_equal(seal(w, 0, 1, 2, LENGTH, &digest), 0);
    assert_int_equal(get(w, 2, 1, 0, 10, NULL), -E_NOENT);
    assert_int_equal(copy_to(w, 2, 1), 0);
    assert_int_equal(get(w, 2, 1, 0, LENGTH, w->data), 0);
    assert_int_equal(copy_to(w, 2, 1), 0); /* again */
    assert_int_equal(put(w, 2, 1, 0, 100, 1, 0, NULL), 0);
    assert_int_equal(seal(w, 0, 2, 2, 100, &digest), 0);
    struct rpc_client *first = w->rpc[0];
    w->rpc[0] = w->rpc[1];
    assert_int_equal(put(w, 2, 1, 0, 5000, 1, 0, NULL), 0); /* another version is there */
    w->rpc[0] = first;
    assert_int_equal(copy_to(w, 1, 2), 0);
    assert_int_equal(get(w, 1, 2, 0, 100, w->data), 0);
}

/* Fills a chunk, deletes it, writes another one: it takes over the file and shows nothing of it. */
struct reuse {
    struct node *node;
    uint8_t *window;
    bool done;
};
static void put_window(struct reuse *r, uint64_t chunk, uint64_t offset)
{
    struct store *s = r->node->store;
    uint32_t crcs[16];
    struct held held;
    for (unsigned i = 0; i < 16; i++)
        crcs[i] = crc32c(0, r->window + i * CELL_BYTES, CELL_BYTES);
    struct put put = {.generation = 1, .offset = offset, .length = MIB(1), .data = r->window, .crcs = crcs, .n_crcs = 16};
    assert_int_equal(store_hold_all(s->volumes[0], chunk, true, true, &held), 0);
    assert_int_equal(put_bytes(s->volumes[0], held.chunk, &put), 0);
    store_release(&held);
}
static void reuse_run(void *arg)
{
    static const uint8_t zeros[1000];
    struct reuse *r = arg;
    struct store *s = r->node->store;
    struct held held;
    struct get get;
    for (uint64_t at = 0; at < CHUNK_BYTES_MAX; at += MIB(1))
        put_window(r, 1, at);
    assert_int_equal(store_hold_all(s->volumes[0], 1, false, true, &held), 0);
    assert_int_equal(volume_delete(s->volumes[0], held.chunk), 0);
    store_release(&held);
    assert_int_equal(s->volumes[0]->n_spares, 1);
    put_window(r, 2, MIB(1)); /* the first MiB is a hole over the old bytes */
    assert_int_equal(s->volumes[0]->n_spares, 0);
    assert_int_equal(store_hold_all(s->volumes[0], 2, false, true, &held), 0);
    assert_int_equal(put_seal(s->volumes[0], held.chunk, 2, MIB(2)), 0);
    held.chunk->verified = false;
    assert_int_equal(get_verify(s->volumes[0], held.chunk), 0);
    assert_int_equal(get_read(s->volumes[0], held.chunk, 5000, 1000, &get), 0);
    assert_memory_equal(get.buffer + get.skip, zeros, 1000);
    get_fini(s->volumes[0], &get);
    store_release(&held);
    r->done = true;
}
static void a_full_file_is_reused(struct world *w)
{
    struct reuse r = {.node = &w->nodes[0]};
    assert_int_equal(posix_memalign((void **)&r.window, 4096, MIB(1)), 0);
    memset(r.window, 0x5a, MIB(1));
    assert_int_equal(fiber_spawn(sim_host_io(w->nodes[0].host), "reuse", reuse_run, &r), 0);
    while (!r.done)
        io_sleep_ms(sim_host_io(w->client), 10);
    free(r.window);
}

static void test_a_full_file_is_reused(void **state) { run(a_full_file_is_reused); }
static void test_star_and_chain(void **state) { run(star_and_chain); }
static void test_refusals(void **state) { run(refusals); }
static void test_a_member_dies(void **state) { run(a_member_dies); }
static void test_a_bad_cell(void **state) { run(a_bad_cell); }
static void test_clone(void **state) { run(clone); }
static void test_a_clone_meets_a_loss_of_power(void **state) { run(a_clone_meets_a_loss_of_power); }
static void test_a_copy_is_rebuilt(void **state) { run(a_copy_is_rebuilt); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_star_and_chain), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_a_member_dies),  cmocka_unit_test(test_a_bad_cell),
        cmocka_unit_test(test_clone),          cmocka_unit_test(test_a_clone_meets_a_loss_of_power),
        cmocka_unit_test(test_a_copy_is_rebuilt), cmocka_unit_test(test_a_full_file_is_reused),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
