/* BUILD, VERIFY, REPAIR of shards and COPY of older versions on simulated stores: every pattern of losses, sources that are damaged or lie, crashes
 * at every operation of the disk. One store makes; the shards of a group lie on three others. */
#include "tests/unit/cmocka.h"

#include "common/ec.h"
#include "common/err.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "objstore/build.h"
#include "objstore/put.h"
#include "objstore/rebuild.h"
#include "objstore/repair.h"
#include "objstore/store.h"
#include "objstore/verify.h"

#include <stdio.h>

#define STORES 4 /* the first one makes */
#define MAKER 0
#define SHARD_CHUNK(i) (100u + (i))
#define MADE 999u
#define GENERATION 5u

struct node {
    struct sim_host *host;
    struct store *store;
    struct fiber_queue leave;
    char address[64];
    bool open;
};
struct world {
    struct sim *sim;
    struct node nodes[STORES];
    void (*script)(struct world *w);
    bool done;
    /* the group */
    unsigned k, m;
    uint8_t *shards[EC_SHARDS_MAX];
    uint64_t lengths[EC_SHARDS_MAX], length; /* length: of the parity */
    Tarn__Shard told[EC_SHARDS_MAX], *pointers[EC_SHARDS_MAX];
    Tarn__Replica replicas[EC_SHARDS_MAX], *replica_pointers[EC_SHARDS_MAX];
};
static const struct rpc_auth auth = {.cluster_id = 7, .key = "0123456789abcdef0123456789abcde", .name = "test"};

/* ------------------------------------------------------------------ stores */
static void node_run(void *arg)
{
    struct node *node = arg;
    char listen[64];
    const char *why;
    snprintf(listen, sizeof listen, "tcp:%s:7000", sim_host_name(node->host));
    struct store_options options = {.dir = "/vol", .auth = &auth, .listen = listen, .journal_bytes = MIB(5), .reserve_bytes = MIB(1)};
    node->leave = (struct fiber_queue){0};
    if (store_open(sim_host_io(node->host), &options, &node->store, &why) != 0)
        return;
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
static void script_run(void *arg)
{
    struct world *w = arg;
    w->script(w);
    w->done = true;
}

static void run(void (*script)(struct world *w))
{
    static const char *const names[STORES] = {"s1", "s2", "s3", "s4"};
    struct world *w = calloc(1, sizeof *w);
    w->sim = sim_create(11, NULL);
    w->script = script;
    for (unsigned i = 0; i < STORES; i++) {
        w->nodes[i].host = sim_host_create(w->sim, names[i]);
        assert_int_equal(fiber_spawn(sim_host_io(w->nodes[i].host), "store", node_run, &w->nodes[i]), 0);
    }
    struct sim_host *driver = sim_host_create(w->sim, "driver");
    assert_int_equal(sim_run(w->sim, 60000, all_open, w), SIM_DONE);
    assert_int_equal(fiber_spawn(sim_host_io(driver), "script", script_run, w), 0);
    assert_int_equal(sim_run(w->sim, 36000000, is_done, w), SIM_DONE);
    sim_destroy(w->sim);
    for (unsigned i = 0; i < EC_SHARDS_MAX; i++)
        free(w->shards[i]);
    free(w);
}

static void restart(struct node *node)
{
    if (node->open)
        sim_host_crash(node->host, true);
    while (node->open)
        io_sleep_ms(fiber_io(), 10);
    assert_int_equal(fiber_spawn(sim_host_restart(node->host), "store", node_run, node), 0);
    while (!node->open)
        io_sleep_ms(fiber_io(), 10);
}

/* ------------------------------------------------------------------ work inside a store's process */
struct job {
    struct node *node;
    void (*fn)(struct job *job);
    bool done;
    int err;
    /* what it is about */
    const Tarn__ChunkTask *task;
    uint64_t chunk, generation, offset, length;
    const uint8_t *data;
    bool seal;
    uint32_t digest;
};
static void job_run(void *arg)
{
    struct job *job = arg;
    job->fn(job);
    job->done = true;
}
static int do_in(struct node *node, struct job *job, void (*fn)(struct job *job))
{
    job->node = node;
    job->fn = fn;
    job->done = false;
    job->err = -E_CANCELED;
    if (fiber_spawn(sim_host_io(node->host), "job", job_run, job) != 0)
        return -E_CANCELED;
    while (!job->done)
        io_sleep_ms(fiber_io(), 1);
    return job->err;
}

static void write_fn(struct job *job)
{
    struct volume *v = job->node->store->volumes[0];
    uint32_t crcs[PUT_PIECES_MAX];
    struct held held;
    uint8_t *window = NULL;
    assert_int_equal(posix_memalign((void **)&window, 4096, MIB(1)), 0);
    job->err = store_hold_all(v, job->chunk, true, true, &held);
    assert_int_equal(job->err, 0);
    for (uint64_t at = 0; at < job->length && job->err == 0;) {
        struct put put = {.generation = job->generation, .offset = job->offset + at, .length = MIN(MIB(1), job->length - at),
                          .data = window, .crcs = crcs};
        memcpy(window, job->data + at, put.length);
        put.n_crcs = put_pieces(put.offset, put.length);
        for (size_t i = 0, done = 0; i < put.n_crcs; i++) {
            size_t n = MIN(CELL_BYTES - (put.offset + done) % CELL_BYTES, put.length - done);
            crcs[i] = crc32c(0, window + done, n);
            done += n;
        }
        job->err = put_bytes(v, held.chunk, &put);
        at += put.length;
    }
    if (job->err == 0 && job->seal)
        job->err = put_seal(v, held.chunk, job->generation, job->offset + job->length);
    job->digest = chunk_digest(held.chunk);
    store_release(&held);
    free(window);
}
static void write_chunk(struct node *node, uint64_t chunk, uint64_t generation, uint64_t offset, const uint8_t *data, uint64_t length,
                        bool seal, uint32_t *ret_digest)
{
    struct job job = {.chunk = chunk, .generation = generation, .offset = offset, .data = data, .length = length, .seal = seal};
    assert_int_equal(do_in(node, &job, write_fn), 0);
    if (ret_digest != NULL)
        *ret_digest = job.digest;
}

static void delete_fn(struct job *job)
{
    struct volume *v = job->node->store->volumes[0];
    struct held held;
    job->err = store_hold_all(v, job->chunk, false, true, &held);
    if (job->err != 0)
        return;
    job->err = volume_delete(v, held.chunk);
    store_release(&held);
}
static void delete_chunk(struct node *node, uint64_t chunk)
{
    struct job job = {.chunk = chunk};
    int err = do_in(node, &job, delete_fn);
    assert_true(err == 0 || err == -E_NOENT);
}

/* Whole and equal to `data`, as far as it is there at all. */
static void compare_fn(struct job *job)
{
    struct volume *v = job->node->store->volumes[0];
    struct held held;
    job->err = store_hold_all(v, job->chunk, false, false, &held);
    if (job->err != 0)
        return;
    const struct chunk *c = held.chunk;
    assert_int_equal(c->flags & CHUNK_PARTIAL, 0);
    assert_true((c->flags & CHUNK_SEALED) != 0);
    assert_int_equal(c->length, job->length);
    for (uint64_t at = 0; at < job->length; at += CELL_BYTES) {
        uint64_t n = MIN(CELL_BYTES, job->length - at);
        assert_int_equal(chunk_cell(c, at / CELL_BYTES).crc, crc32c(0, job->data + at, n));
        assert_int_equal(chunk_cell(c, at / CELL_BYTES).valid, n);
    }
    job->digest = chunk_digest(c);
    store_release(&held);
}
static int compare_chunk(struct node *node, uint64_t chunk, const uint8_t *data, uint64_t length, uint32_t *ret_digest)
{
    struct job job = {.chunk = chunk, .data = data, .length = length};
    int err = do_in(node, &job, compare_fn);
    if (ret_digest != NULL)
        *ret_digest = job.digest;
    return err;
}

static void task_fn(struct job *job)
{
    struct background b = {.store = job->node->store, .volume = job->node->store->volumes[0]};
    switch (job->task->kind) {
    case TARN__CHUNK_TASK__KIND__BUILD:
        job->err = build_shard(&b, job->task, &job->length, &job->digest);
        break;
    case TARN__CHUNK_TASK__KIND__VERIFY:
        job->err = verify_task(&b, job->task, &job->length, &job->digest);
        break;
    case TARN__CHUNK_TASK__KIND__REPAIR:
        job->err = repair_chunk(&b, job->task, &job->length);
        break;
    default:
        job->err = rebuild_copy(&b, job->task, &job->length, &job->digest);
    }
}
static int carry_out(struct node *node, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest)
{
    struct job job = {.task = task};
    int err = do_in(node, &job, task_fn);
    if (ret_length != NULL)
        *ret_length = job.length;
    if (ret_digest != NULL)
        *ret_digest = job.digest;
    return err;
}

/* ------------------------------------------------------------------ groups */
/* Data shards of several lengths, the parity, each a sealed chunk; shard i on store 1 + i % 3, or some on the maker itself. */
static void group_make(struct world *w, unsigned k, unsigned m, uint64_t length, bool some_here)
{
    struct ec_codec codec;
    w->k = k;
    w->m = m;
    w->length = length;
    assert_int_equal(ec_codec_init(k, m, &codec), 0);
    for (unsigned i = 0; i < k + m; i++) {
        free(w->shards[i]);
        w->shards[i] = calloc(1, length);
        w->lengths[i] = i >= k || i == 0 ? length : length - i * (length / (4 * k)); /* padded with zeros */
        for (uint64_t n = 0; i < k && n < w->lengths[i]; n++)
            w->shards[i][n] = (uint8_t)((n + 1) * 2654435761u >> 13) ^ (uint8_t)(i * 37);
    }
    ec_encode(&codec, length, (const uint8_t *const *)w->shards, w->shards + k);
    for (unsigned i = 0; i < k + m; i++) {
        struct node *node = &w->nodes[some_here && i % 3 == 0 ? MAKER : 1 + i % 3];
        write_chunk(node, SHARD_CHUNK(i), GENERATION, 0, w->shards[i], w->lengths[i], true, NULL);
        tarn__shard__init(&w->told[i]);
        tarn__replica__init(&w->replicas[i]);
        w->replicas[i].address = node->address;
        w->replica_pointers[i] = &w->replicas[i];
        w->told[i].index = i;
        w->told[i].chunk = SHARD_CHUNK(i);
        w->told[i].generation = GENERATION;
        w->told[i].length = w->lengths[i];
        w->told[i].replicas = &w->replica_pointers[i];
        w->told[i].n_replicas = 1;
    }
}
static void group_drop(struct world *w)
{
    for (unsigned n = 0; n < STORES; n++)
        for (unsigned i = 0; i < w->k + w->m; i++)
            delete_chunk(&w->nodes[n], SHARD_CHUNK(i));
}

/* The task that makes `shard` of what is not in `lost`. */
static Tarn__ChunkTask build_task(struct world *w, unsigned shard, uint32_t lost)
{
    Tarn__ChunkTask task = TARN__CHUNK_TASK__INIT;
    task.kind = TARN__CHUNK_TASK__KIND__BUILD;
    task.chunk = MADE;
    task.generation = GENERATION;
    task.length = w->lengths[shard];
    task.k = w->k;
    task.m = w->m;
    task.shard = shard;
    task.sources = w->pointers;
    for (unsigned i = 0; i < w->k + w->m; i++)
        if (!(lost & 1u << i))
            w->pointers[task.n_sources++] = &w->told[i];
    return task;
}

static void expect_made(struct world *w, unsigned shard, uint32_t lost)
{
    Tarn__ChunkTask task = build_task(w, shard, lost);
    uint64_t length;
    uint32_t digest, real;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, &length, &digest), 0);
    assert_int_equal(length, w->lengths[shard]);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], MADE, w->shards[shard], w->lengths[shard], &real), 0);
    assert_int_equal(digest, real);
    delete_chunk(&w->nodes[MAKER], MADE);
}

/* Every set of up to m lost shards, and from it every lost shard. */
static void every_pattern(struct world *w, unsigned k, unsigned m, uint64_t length, bool some_here)
{
    group_make(w, k, m, length, some_here);
    for (uint32_t lost = 1; lost < 1u << (k + m); lost++)
        for (unsigned shard = 0; shard < k + m && (unsigned)__builtin_popcount(lost) <= m; shard++)
            if (lost & 1u << shard)
                expect_made(w, shard, lost);
    group_drop(w);
}

static void small_groups(struct world *w)
{
    for (unsigned k = 2; k <= 5; k++)
        for (unsigned m = 1; m <= 3; m++)
            every_pattern(w, k, m, 3000, (k + m) % 2 == 0);
}
static void profile_4_2(struct world *w)
{
    every_pattern(w, 4, 2, CELL_BYTES * 2 + 777, true);
}
static void profile_8_3(struct world *w)
{
    every_pattern(w, 8, 3, 5000, true);
}
static void profile_10_4(struct world *w)
{
    every_pattern(w, 10, 4, 300, true);
}

/* ------------------------------------------------------------------ sources that are not what they should be */
static void corrupt(struct node *node, uint64_t chunk, uint64_t offset)
{
    char path[512];
    volume_chunk_path(node->store->volumes[0], chunk, path);
    assert_int_equal(sim_disk_corrupt(node->host, path, offset), 0);
}
static struct node *holder(struct world *w, unsigned shard)
{
    return &w->nodes[1 + shard % 3];
}

/* Windows are of 1 MiB: the damage is met in the second one, after the first came from the same source. */
static void a_flipped_bit_in_a_source(struct world *w)
{
    group_make(w, 3, 2, MIB(1) + 3 * CELL_BYTES, false);
    corrupt(holder(w, 1), SHARD_CHUNK(1), MIB(1) + 70);
    expect_made(w, 0, 1u << 0);
    corrupt(holder(w, 2), SHARD_CHUNK(2), 5);
    Tarn__ChunkTask task = build_task(w, 0, 1u << 0); /* two left of three that are needed: not a byte is made up */
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_CORRUPT);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], MADE, NULL, 0, NULL), -E_NOENT);
}

static void a_source_of_another_length_or_generation(struct world *w)
{
    group_make(w, 3, 2, 10000, false);
    delete_chunk(holder(w, 1), SHARD_CHUNK(1));
    write_chunk(holder(w, 1), SHARD_CHUNK(1), GENERATION, 0, w->shards[2], 500, true, NULL); /* shorter than told */
    expect_made(w, 0, 1u << 0);
    delete_chunk(holder(w, 2), SHARD_CHUNK(2));
    write_chunk(holder(w, 2), SHARD_CHUNK(2), GENERATION + 1, 0, w->shards[1], w->lengths[2], true, NULL); /* newer than told */
    Tarn__ChunkTask task = build_task(w, 0, 1u << 0);
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_STALE);
    delete_chunk(holder(w, 2), SHARD_CHUNK(2));
    write_chunk(holder(w, 2), SHARD_CHUNK(2), GENERATION - 1, 0, w->shards[1], w->lengths[2], true, NULL); /* older */
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_STALE);
    delete_chunk(holder(w, 2), SHARD_CHUNK(2));
    write_chunk(holder(w, 2), SHARD_CHUNK(2), GENERATION, 0, w->shards[2], w->lengths[2], false, NULL); /* not sealed */
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_BUSY);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], MADE, NULL, 0, NULL), -E_NOENT);
}

static void a_source_has_several_copies(struct world *w)
{
    group_make(w, 2, 1, 200000, false);
    Tarn__Replica copy = TARN__REPLICA__INIT, *both[2] = {&w->replicas[1], &copy};
    copy.address = w->nodes[MAKER].address;
    write_chunk(&w->nodes[MAKER], SHARD_CHUNK(1), GENERATION, 0, w->shards[1], w->lengths[1], true, NULL);
    w->told[1].replicas = both;
    w->told[1].n_replicas = 2;
    corrupt(holder(w, 1), SHARD_CHUNK(1), 10);
    expect_made(w, 0, 1u << 0);
}

static void a_store_that_does_not_answer(struct world *w)
{
    group_make(w, 3, 3, 100000, false);
    sim_isolate(w->nodes[2].host, true); /* shards 1 and 4 */
    expect_made(w, 0, 1u << 0);
    Tarn__ChunkTask task = build_task(w, 0, 1u << 0 | 1u << 2);
    assert_true(carry_out(&w->nodes[MAKER], &task, NULL, NULL) < 0);
    sim_isolate(w->nodes[2].host, false);
}

/* A shard without a chunk (given back by its file) is zeros; so is what a short one lacks. */
static void shards_of_zeros(struct world *w)
{
    struct ec_codec codec;
    group_make(w, 3, 2, 70000, false);
    assert_int_equal(ec_codec_init(3, 2, &codec), 0);
    memset(w->shards[1], 0, 70000);
    ec_encode(&codec, 70000, (const uint8_t *const *)w->shards, w->shards + 3);
    w->told[1].chunk = 0;
    w->told[1].n_replicas = 0;
    expect_made(w, 3, 1u << 3 | 1u << 4);
    expect_made(w, 4, 1u << 3 | 1u << 4);
}

static void tasks_that_make_no_sense(struct world *w)
{
    group_make(w, 3, 2, 1000, false);
    Tarn__ChunkTask task = build_task(w, 0, 1);
    task.shard = 5;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_INVAL);
    task = build_task(w, 0, 1);
    task.k = 17;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_INVAL);
    task = build_task(w, 0, 1);
    task.m = 0;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_INVAL);
    task = build_task(w, 0, 1);
    task.length = CHUNK_BYTES_MAX + 1;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_INVAL);
    task = build_task(w, 3, 1u << 3);
    task.length = 999; /* parity shorter than its data */
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_INVAL);
    task = build_task(w, 0, 1);
    w->told[2].index = 1; /* twice the same */
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_INVAL);
    w->told[2].index = 9;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_INVAL);
    w->told[2].index = 2;
    task = build_task(w, 0, 7); /* fewer than k */
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_UNAVAIL);
    assert_int_equal(carry_out(&w->nodes[MAKER], &(Tarn__ChunkTask){.kind = TARN__CHUNK_TASK__KIND__BUILD}, NULL, NULL), -E_INVAL);
}

/* ------------------------------------------------------------------ damaged shards */
static int verify(struct node *node, uint64_t chunk, uint64_t generation, uint64_t *ret_length);

#define REPAIR_LENGTH (12 * CELL_BYTES + 777) /* of parity; the shortest of four data shards has nine cells and a part */

static int repair_shard(struct world *w, unsigned shard, uint32_t untold, uint64_t *ret_bytes)
{
    Tarn__ChunkTask task = build_task(w, shard, untold | 1u << shard);
    task.kind = TARN__CHUNK_TASK__KIND__REPAIR;
    task.chunk = SHARD_CHUNK(shard);
    return carry_out(holder(w, shard), &task, ret_bytes, NULL);
}
static void expect_whole(struct world *w, unsigned shard)
{
    assert_int_equal(verify(holder(w, shard), SHARD_CHUNK(shard), GENERATION, NULL), 0);
    assert_int_equal(compare_chunk(holder(w, shard), SHARD_CHUNK(shard), w->shards[shard], w->lengths[shard], NULL), 0);
}

/* No shard is whole, and of each cell there are enough. */
static void damaged_shards_repair_each_other(struct world *w)
{
    uint64_t bytes;
    group_make(w, 4, 2, REPAIR_LENGTH, false);
    for (unsigned i = 0; i < 6; i++) {
        corrupt(holder(w, i), SHARD_CHUNK(i), i * CELL_BYTES + 100 + i);
        if (i < 5) /* the last cell, which is not full; three shards are as long as the parity */
            corrupt(holder(w, i), SHARD_CHUNK(i), w->lengths[i] - 1);
    }
    corrupt(holder(w, 1), SHARD_CHUNK(1), 8 * CELL_BYTES); /* as many of one cell as there is parity */
    corrupt(holder(w, 4), SHARD_CHUNK(4), 8 * CELL_BYTES + 1);
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(verify(holder(w, i), SHARD_CHUNK(i), GENERATION, NULL), -E_CORRUPT);
        assert_int_equal(repair_shard(w, i, 0, &bytes), 0);
        assert_int_equal(bytes, 0);
        expect_whole(w, i);
    }
    assert_int_equal(repair_shard(w, 0, 0, &bytes), 0); /* the task comes again */
}

static void more_damage_than_parity_stays_and_the_rest_is_repaired(struct world *w)
{
    uint64_t bytes;
    group_make(w, 4, 2, REPAIR_LENGTH, false);
    for (unsigned i = 0; i < 3; i++)
        corrupt(holder(w, i), SHARD_CHUNK(i), 5 * CELL_BYTES + 9);
    corrupt(holder(w, 0), SHARD_CHUNK(0), 3);
    assert_int_equal(repair_shard(w, 0, 0, &bytes), -E_CORRUPT);
    assert_int_equal(bytes, CELL_BYTES);
    assert_int_equal(verify(holder(w, 0), SHARD_CHUNK(0), GENERATION, &bytes), -E_CORRUPT);
    assert_int_equal(bytes, 5 * CELL_BYTES);
    assert_int_equal(repair_shard(w, 0, 1u << 5, &bytes), -E_UNAVAIL); /* one of the group is down: it may have the bytes */
}

static void a_shard_is_not_repaired_from_those_that_are_away(struct world *w)
{
    uint64_t bytes;
    group_make(w, 3, 2, 100000, false);
    corrupt(holder(w, 0), SHARD_CHUNK(0), 70000);
    sim_isolate(w->nodes[2].host, true); /* shards 1 and 4 */
    corrupt(holder(w, 2), SHARD_CHUNK(2), 70000);
    assert_int_equal(repair_shard(w, 0, 0, &bytes), -E_UNAVAIL);
    assert_int_equal(bytes, CELL_BYTES);
    sim_isolate(w->nodes[2].host, false);
    assert_int_equal(repair_shard(w, 0, 0, &bytes), 0);
    expect_whole(w, 0);
}

/* Same generation, same length, right checksums of its own: what is computed from it has not the checksum of the cell. */
static void a_shard_with_other_bytes_does_no_harm(struct world *w)
{
    uint64_t bytes;
    group_make(w, 2, 1, 100000, false);
    delete_chunk(holder(w, 2), SHARD_CHUNK(2));
    write_chunk(holder(w, 2), SHARD_CHUNK(2), GENERATION, 0, w->shards[0], w->lengths[2], true, NULL);
    corrupt(holder(w, 0), SHARD_CHUNK(0), 10);
    assert_int_equal(repair_shard(w, 0, 0, &bytes), -E_CORRUPT);
    assert_int_equal(verify(holder(w, 0), SHARD_CHUNK(0), GENERATION, &bytes), -E_CORRUPT);
    assert_int_equal(bytes, 0);
}

/* Its answer was lost: it comes again. What is there and right stays; what is damaged, or another version, is made anew. */
static void the_same_task_twice(struct world *w)
{
    group_make(w, 3, 2, 200000, false);
    Tarn__ChunkTask task = build_task(w, 3, 1u << 3);
    uint64_t ops;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0);
    ops = w->nodes[MAKER].store->counters.bytes_fetched;
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0);
    assert_int_equal(w->nodes[MAKER].store->counters.bytes_fetched, ops); /* nothing was read for it */
    corrupt(&w->nodes[MAKER], MADE, 150000);
    expect_made(w, 3, 1u << 3);
    assert_true(w->nodes[MAKER].store->counters.bytes_fetched > ops);
    write_chunk(&w->nodes[MAKER], MADE, GENERATION - 1, 0, w->shards[1], 1000, true, NULL);
    expect_made(w, 3, 1u << 3);
    write_chunk(&w->nodes[MAKER], MADE, GENERATION + 1, 0, w->shards[1], 1000, true, NULL);
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_STALE); /* a late one does no harm */
    assert_int_equal(compare_chunk(&w->nodes[MAKER], MADE, w->shards[1], 1000, NULL), 0);
}

/* ------------------------------------------------------------------ reading back */
/* Carries the task out on a disk that loses a bit of the last cell as soon as it was written. Slow, so that this is
 * before the sync has ended. */
static int on_a_disk_that_lies(struct world *w, const Tarn__ChunkTask *task, uint64_t length)
{
    struct node *maker = &w->nodes[MAKER];
    struct job job = {.task = task, .node = maker, .fn = task_fn};
    bool lied = false;
    sim_disk_slow(maker->host, 200);
    assert_int_equal(fiber_spawn(sim_host_io(maker->host), "job", job_run, &job), 0);
    while (!job.done) {
        struct chunk *c = index_get(&maker->store->volumes[0]->index, task->chunk);
        if (c != NULL && !lied && c->length == length && (c->flags & CHUNK_PARTIAL) != 0) {
            char path[512];
            volume_chunk_path(maker->store->volumes[0], task->chunk, path);
            lied = sim_disk_corrupt(maker->host, path, length - 1) == 0; /* -E_RANGE: it is in the journal only */
        }
        if (c != NULL)
            chunk_unref(&maker->store->volumes[0]->index, c);
        io_sleep_ms(fiber_io(), 1);
    }
    sim_disk_slow(maker->host, 1);
    assert_true(lied);
    return job.err;
}
static Tarn__ChunkTask copy_task(struct world *w, uint64_t chunk, uint64_t generation);
static void what_was_written_is_read_back(struct world *w)
{
    uint64_t length = 3 * CELL_BYTES + 5;
    group_make(w, 2, 1, length, false);
    Tarn__ChunkTask task = build_task(w, 0, 1u << 0);
    assert_int_equal(on_a_disk_that_lies(w, &task, length), -E_CORRUPT);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], MADE, NULL, 0, NULL), -E_NOENT);
    expect_made(w, 0, 1u << 0);
    write_chunk(&w->nodes[1], 60, 5, 0, w->shards[0], length, true, NULL);
    task = copy_task(w, 60, 5);
    assert_int_equal(on_a_disk_that_lies(w, &task, length), -E_CORRUPT);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], 60, NULL, 0, NULL), -E_NOENT);
    write_chunk(&w->nodes[MAKER], 60, 3, 0, w->shards[0], length - 1, true, NULL); /* of which only the last cell is old */
    assert_int_equal(on_a_disk_that_lies(w, &task, length), -E_CORRUPT);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], 60, NULL, 0, NULL), -E_NOENT);
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0);
}

/* ------------------------------------------------------------------ verifying */
static int verify(struct node *node, uint64_t chunk, uint64_t generation, uint64_t *ret_length)
{
    Tarn__ChunkTask task = TARN__CHUNK_TASK__INIT;
    task.kind = TARN__CHUNK_TASK__KIND__VERIFY;
    task.chunk = chunk;
    task.generation = generation;
    return carry_out(node, &task, ret_length, NULL);
}
static void verifying(struct world *w)
{
    uint64_t length;
    group_make(w, 2, 1, MIB(2) + 100, false);
    assert_int_equal(verify(holder(w, 0), SHARD_CHUNK(0), GENERATION, &length), 0);
    assert_int_equal(length, MIB(2) + 100);
    assert_int_equal(verify(holder(w, 0), SHARD_CHUNK(0), GENERATION - 1, NULL), -E_STALE);
    assert_int_equal(verify(holder(w, 0), 12345, GENERATION, NULL), -E_NOENT);
    corrupt(holder(w, 0), SHARD_CHUNK(0), MIB(1) + CELL_BYTES + 3);
    assert_int_equal(verify(holder(w, 0), SHARD_CHUNK(0), GENERATION, &length), -E_CORRUPT);
    assert_int_equal(length, MIB(1) + CELL_BYTES); /* where the cell begins */
    corrupt(holder(w, 0), SHARD_CHUNK(0), MIB(2) + 99);
    corrupt(holder(w, 0), SHARD_CHUNK(0), 0);
    assert_int_equal(verify(holder(w, 0), SHARD_CHUNK(0), GENERATION, &length), -E_CORRUPT);
    assert_int_equal(length, 0);
    write_chunk(&w->nodes[MAKER], 50, GENERATION, 0, w->shards[0], 0, true, NULL); /* empty */
    assert_int_equal(verify(&w->nodes[MAKER], 50, GENERATION, &length), 0);
    assert_int_equal(length, 0);
}

/* ------------------------------------------------------------------ copies of older versions */
#define OLD_LENGTH (8 * CELL_BYTES + 500)

static Tarn__ChunkTask copy_task(struct world *w, uint64_t chunk, uint64_t generation)
{
    static Tarn__Replica from, *pointer = &from;
    Tarn__ChunkTask task = TARN__CHUNK_TASK__INIT;
    tarn__replica__init(&from);
    from.address = w->nodes[1].address;
    task.kind = TARN__CHUNK_TASK__KIND__COPY;
    task.chunk = chunk;
    task.generation = generation;
    task.from = &pointer;
    task.n_from = 1;
    return task;
}

/* The source has `now` of now_length; the maker still has `old`, which is open or sealed. */
struct version {
    const uint8_t *data;
    uint64_t length;
    bool sealed;
};
static void have(struct world *w, uint64_t chunk, const struct version *old, const struct version *now)
{
    delete_chunk(&w->nodes[MAKER], chunk);
    delete_chunk(&w->nodes[1], chunk);
    write_chunk(&w->nodes[MAKER], chunk, 3, 0, old->data, old->length, old->sealed, NULL);
    write_chunk(&w->nodes[1], chunk, 5, 0, now->data, now->length, true, NULL);
}

static uint64_t fetched(struct world *w)
{
    return w->nodes[MAKER].store->counters.bytes_fetched;
}

static void only_what_differs_is_fetched(struct world *w)
{
    _cleanup_free_ uint8_t *old = malloc(OLD_LENGTH + CELL_BYTES), *now = malloc(OLD_LENGTH + CELL_BYTES);
    for (unsigned i = 0; i < OLD_LENGTH + CELL_BYTES; i++)
        old[i] = now[i] = (uint8_t)(i / 300 + i);
    now[2 * CELL_BYTES + 9] ^= 1; /* cell 2 differs */
    struct version before = {old, OLD_LENGTH, false}, after = {now, OLD_LENGTH, true};
    Tarn__ChunkTask task = copy_task(w, 70, 5);
    uint64_t count, saved;
    for (unsigned sealed = 0; sealed < 2; sealed++) {
        before.sealed = sealed;
        have(w, 70, &before, &after);
        count = fetched(w);
        saved = w->nodes[MAKER].store->counters.bytes_saved;
        assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0);
        assert_int_equal(compare_chunk(&w->nodes[MAKER], 70, now, OLD_LENGTH, NULL), 0);
        assert_int_equal(fetched(w) - count, CELL_BYTES);
        assert_int_equal(w->nodes[MAKER].store->counters.bytes_saved - saved, OLD_LENGTH - CELL_BYTES);
        assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0); /* again */
        assert_int_equal(fetched(w) - count, CELL_BYTES);
    }
    /* It was appended to, and it was cut. */
    before = (struct version){old, OLD_LENGTH, false};
    after = (struct version){now, OLD_LENGTH + CELL_BYTES, true};
    have(w, 70, &before, &after);
    count = fetched(w);
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], 70, now, OLD_LENGTH + CELL_BYTES, NULL), 0);
    assert_int_equal(fetched(w) - count, 2 * CELL_BYTES + 500);
    after.length = 5 * CELL_BYTES + 17;
    have(w, 70, &before, &after);
    count = fetched(w);
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], 70, now, 5 * CELL_BYTES + 17, NULL), 0);
    assert_int_equal(fetched(w) - count, CELL_BYTES + 17); /* with what is left of the cell that is cut */
}

/* The old version's file is damaged in a cell that is equal by its checksum: it is fetched, too. */
static void damage_in_the_old_version(struct world *w)
{
    _cleanup_free_ uint8_t *data = malloc(OLD_LENGTH);
    for (unsigned i = 0; i < OLD_LENGTH; i++)
        data[i] = (uint8_t)(i / 77 + i);
    struct version before = {data, OLD_LENGTH, true}, after = {data, OLD_LENGTH, true};
    Tarn__ChunkTask task = copy_task(w, 71, 5);
    have(w, 71, &before, &after);
    corrupt(&w->nodes[MAKER], 71, 3 * CELL_BYTES);
    uint64_t count = fetched(w);
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), 0);
    assert_int_equal(fetched(w) - count, CELL_BYTES);
    assert_int_equal(verify(&w->nodes[MAKER], 71, 5, NULL), 0);
}

/* A damaged source: nothing of the mixture stays. */
static void damage_in_the_source(struct world *w)
{
    _cleanup_free_ uint8_t *old = calloc(1, OLD_LENGTH), *now = calloc(1, OLD_LENGTH);
    now[CELL_BYTES] = now[4 * CELL_BYTES] = 1;
    struct version before = {old, OLD_LENGTH, false}, after = {now, OLD_LENGTH, true};
    Tarn__ChunkTask task = copy_task(w, 72, 5);
    have(w, 72, &before, &after);
    corrupt(&w->nodes[1], 72, 4 * CELL_BYTES + 100);
    assert_int_equal(carry_out(&w->nodes[MAKER], &task, NULL, NULL), -E_CORRUPT);
    assert_int_equal(compare_chunk(&w->nodes[MAKER], 72, NULL, 0, NULL), -E_NOENT);
}

/* ------------------------------------------------------------------ crashes */
/* Power is lost at the n-th operation of the maker's disk, n = 1, 2, … until the task ends before it. What is there
 * afterwards is the whole, or nothing, or (`old`) what was there before; and the repeated task ends well. */
static void sweep(struct world *w, const Tarn__ChunkTask *task, const uint8_t *data, uint64_t length, void (*before)(struct world *w))
{
    struct node *maker = &w->nodes[MAKER];
    unsigned cut = 0;
    for (uint64_t n = 1;; n++) {
        before(w);
        sim_disk_crash_at(maker->host, n, true);
        int err = carry_out(maker, task, NULL, NULL);
        sim_disk_crash_at(maker->host, 0, true);
        bool crashed = !sim_host_up(maker->host);
        cut += crashed;
        restart(maker);
        struct chunk *c = index_get(&maker->store->volumes[0]->index, task->chunk);
        if (c != NULL) {
            bool made = c->generation == task->generation;
            assert_int_equal(c->flags & CHUNK_PARTIAL, 0);
            chunk_unref(&maker->store->volumes[0]->index, c);
            if (made)
                assert_int_equal(compare_chunk(maker, task->chunk, data, length, NULL), 0);
            if (made)
                assert_int_equal(verify(maker, task->chunk, task->generation, NULL), 0);
        }
        if (err == 0) /* what was reported is on the disk */
            assert_true(c != NULL);
        while ((err = carry_out(maker, task, NULL, NULL)) == -E_CONN)
            io_sleep_ms(fiber_io(), 10);
        assert_int_equal(err, 0);
        assert_int_equal(compare_chunk(maker, task->chunk, data, length, NULL), 0);
        assert_int_equal(verify(maker, task->chunk, task->generation, NULL), 0);
        if (!crashed)
            break;
    }
    assert_true(cut > 10);
}

static void no_shard(struct world *w)
{
    delete_chunk(&w->nodes[MAKER], MADE);
}
static void crashes_while_a_shard_is_built(struct world *w)
{
    group_make(w, 3, 2, MIB(1) + 3 * CELL_BYTES + 20, false);
    Tarn__ChunkTask task = build_task(w, 1, 1u << 1);
    sweep(w, &task, w->shards[1], w->lengths[1], no_shard);
}

static uint8_t crash_old[OLD_LENGTH], crash_now[OLD_LENGTH];
static bool crash_sealed;
static void an_old_version(struct world *w)
{
    struct version before = {crash_old, OLD_LENGTH, crash_sealed}, after = {crash_now, OLD_LENGTH - 300, true};
    have(w, 73, &before, &after);
}
static void crashes_while_a_copy_is_brought_up_to_date(struct world *w)
{
    for (unsigned i = 0; i < OLD_LENGTH; i++)
        crash_old[i] = crash_now[i] = (uint8_t)(i / 901 + i);
    crash_now[3] ^= 4;
    for (unsigned i = 0; i < 3 * CELL_BYTES; i++)
        crash_now[4 * CELL_BYTES + i] ^= (uint8_t)i;
    Tarn__ChunkTask task = copy_task(w, 73, 5);
    for (unsigned sealed = 0; sealed < 2; sealed++) {
        crash_sealed = sealed;
        sweep(w, &task, crash_now, OLD_LENGTH - 300, an_old_version);
    }
}

/* Every operation fails once: -E_IO, -E_NOSPC. The answer is an error or right, and nothing half-made stays. */
static void errors_of_the_disk_while_a_shard_is_built(struct world *w)
{
    static const int errors[] = {-E_IO, -E_NOSPC};
    group_make(w, 2, 1, 3 * CELL_BYTES, false);
    Tarn__ChunkTask task = build_task(w, 0, 1u << 0);
    for (unsigned e = 0; e < ARRAY_SIZE(errors); e++) {
        bool hit = true;
        for (uint64_t n = 1; hit; n++) {
            no_shard(w);
            uint64_t from = sim_disk_ops(w->nodes[MAKER].host);
            sim_disk_fail(w->nodes[MAKER].host, n, 1, errors[e]);
            int err = carry_out(&w->nodes[MAKER], &task, NULL, NULL);
            hit = sim_disk_ops(w->nodes[MAKER].host) - from >= n;
            sim_disk_fail(w->nodes[MAKER].host, 0, 0, 0);
            restart(&w->nodes[MAKER]);
            if (err == 0)
                assert_int_equal(verify(&w->nodes[MAKER], MADE, GENERATION, NULL), 0);
            while ((err = carry_out(&w->nodes[MAKER], &task, NULL, NULL)) == -E_CONN)
                io_sleep_ms(fiber_io(), 10);
            assert_int_equal(err, 0);
            assert_int_equal(compare_chunk(&w->nodes[MAKER], MADE, w->shards[0], w->lengths[0], NULL), 0);
        }
    }
}

#define SIM_TEST(script)                                                                                               \
    static void test_##script(void **state)                                                                            \
    {                                                                                                                  \
        run(script);                                                                                                   \
    }
SIM_TEST(small_groups)
SIM_TEST(profile_4_2)
SIM_TEST(profile_8_3)
SIM_TEST(profile_10_4)
SIM_TEST(a_flipped_bit_in_a_source)
SIM_TEST(a_source_of_another_length_or_generation)
SIM_TEST(a_source_has_several_copies)
SIM_TEST(a_store_that_does_not_answer)
SIM_TEST(shards_of_zeros)
SIM_TEST(tasks_that_make_no_sense)
SIM_TEST(damaged_shards_repair_each_other)
SIM_TEST(more_damage_than_parity_stays_and_the_rest_is_repaired)
SIM_TEST(a_shard_is_not_repaired_from_those_that_are_away)
SIM_TEST(a_shard_with_other_bytes_does_no_harm)
SIM_TEST(the_same_task_twice)
SIM_TEST(what_was_written_is_read_back)
SIM_TEST(verifying)
SIM_TEST(only_what_differs_is_fetched)
SIM_TEST(damage_in_the_old_version)
SIM_TEST(damage_in_the_source)
SIM_TEST(crashes_while_a_shard_is_built)
SIM_TEST(crashes_while_a_copy_is_brought_up_to_date)
SIM_TEST(errors_of_the_disk_while_a_shard_is_built)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_small_groups),
        cmocka_unit_test(test_profile_4_2),
        cmocka_unit_test(test_profile_8_3),
        cmocka_unit_test(test_profile_10_4),
        cmocka_unit_test(test_a_flipped_bit_in_a_source),
        cmocka_unit_test(test_a_source_of_another_length_or_generation),
        cmocka_unit_test(test_a_source_has_several_copies),
        cmocka_unit_test(test_a_store_that_does_not_answer),
        cmocka_unit_test(test_shards_of_zeros),
        cmocka_unit_test(test_tasks_that_make_no_sense),
        cmocka_unit_test(test_damaged_shards_repair_each_other),
        cmocka_unit_test(test_more_damage_than_parity_stays_and_the_rest_is_repaired),
        cmocka_unit_test(test_a_shard_is_not_repaired_from_those_that_are_away),
        cmocka_unit_test(test_a_shard_with_other_bytes_does_no_harm),
        cmocka_unit_test(test_the_same_task_twice),
        cmocka_unit_test(test_what_was_written_is_read_back),
        cmocka_unit_test(test_verifying),
        cmocka_unit_test(test_only_what_differs_is_fetched),
        cmocka_unit_test(test_damage_in_the_old_version),
        cmocka_unit_test(test_damage_in_the_source),
        cmocka_unit_test(test_crashes_while_a_shard_is_built),
        cmocka_unit_test(test_crashes_while_a_copy_is_brought_up_to_date),
        cmocka_unit_test(test_errors_of_the_disk_while_a_shard_is_built),
    };
    log_set_level(LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
