/* A volume on a simulated disk: mixed changes of several chunks, crashes of the process and losses of
 * power at drawn instants, every disk operation failing in turn. A model says which values each byte
 * may have afterwards; every cell must verify. `volume_sim_test SEED` runs one seed and prints it. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "objstore/get.h"
#include "objstore/put.h"

#include <stdio.h>

#define CHUNKS 3
#define SPAN (5 * CELL_BYTES) /* of a chunk that the test touches */
#define VALUES_WORDS 4

/* What a byte may be after a crash: a set of values. */
struct byte_model {
    uint64_t allowed[VALUES_WORDS];
};
struct chunk_model {
    uint8_t now[SPAN];           /* acknowledged */
    struct byte_model *bytes;    /* SPAN of them */
    uint64_t length, length_min, length_max;
    bool sealed, maybe_sealed;
    uint64_t generation;
};
struct world {
    struct sim *sim;
    struct sim_host *host;
    struct volume *volume;
    struct chunk_model chunks[CHUNKS];
    unsigned op, acked;
    bool power;                  /* the coming crash is a loss of power: only what was synced is sure */
    bool open;
    int open_error;
    unsigned drivers;
    unsigned ops_left;
    struct fiber_group users;    /* of the volume */
    struct fiber_queue leave;
};

static void allow(struct byte_model *b, uint8_t v)
{
    b->allowed[v / 64] |= 1ull << (v % 64);
}
static void allow_only(struct byte_model *b, uint8_t v)
{
    memset(b, 0, sizeof *b);
    allow(b, v);
}
static bool allowed(const struct byte_model *b, uint8_t v)
{
    return (b->allowed[v / 64] >> (v % 64) & 1) != 0;
}

static uint64_t draw(struct world *w, uint64_t n)
{
    return sim_random_u64(w->sim) % n;
}

static struct volume_options options_of(void)
{
    return (struct volume_options){.dir = "/vol", .cluster_id = 7, .journal_bytes = MIB(5), .reserve_bytes = MIB(1),
                                   .files_max = 2};
}

/* ------------------------------------------------------------------ the model */
static void model_begin(struct chunk_model *m, uint64_t from, uint64_t to, const uint8_t *new_bytes, uint64_t length)
{
    for (uint64_t i = from; i < to; i++)
        allow(&m->bytes[i], new_bytes == NULL ? 0 : new_bytes[i - from]);
    m->length_min = MIN(m->length_min, length);
    m->length_max = MAX(m->length_max, length);
}

static void model_acked(struct world *w, struct chunk_model *m, uint64_t from, uint64_t to, const uint8_t *new_bytes,
                        uint64_t length, bool synced)
{
    for (uint64_t i = from; i < to; i++)
        m->now[i] = new_bytes == NULL ? 0 : new_bytes[i - from];
    m->length = length;
    w->acked++;
    if (!synced && w->power)
        return;
    for (uint64_t i = 0; i < SPAN; i++)
        if (synced || (i >= from && i < to))
            allow_only(&m->bytes[i], m->now[i]);
    m->length_min = m->length_max = length;
}

/* ------------------------------------------------------------------ operations */
static struct chunk *hold(struct world *w, uint64_t id, struct range *range)
{
    for (;;) {
        struct chunk *c;
        if (index_get_or_make(&w->volume->index, id, &c) != 0)
            return NULL;
        if (chunk_lock(c, range, RANGE_ALL_FIRST, RANGE_ALL_LAST, true) != 0) {
            chunk_unref(&w->volume->index, c);
            return NULL;
        }
        if (!c->dead)
            return c;
        chunk_unlock(c, range);
        chunk_unref(&w->volume->index, c);
    }
}

static void release(struct world *w, struct chunk *c, struct range *range)
{
    chunk_unlock(c, range);
    chunk_unref(&w->volume->index, c);
}

static size_t crcs_of(uint64_t offset, const uint8_t *data, size_t n, uint32_t *crcs)
{
    size_t count = 0;
    for (size_t at = 0; at < n; count++) {
        size_t piece = MIN(n - at, CELL_BYTES - (offset + at) % CELL_BYTES);
        crcs[count] = crc32c(0, data + at, piece);
        at += piece;
    }
    return count;
}

static int do_put(struct world *w, struct chunk *c, struct chunk_model *m)
{
    uint64_t offset, length;
    if (draw(w, 3) == 0) { /* whole cells */
        offset = draw(w, 4) * CELL_BYTES;
        length = (1 + draw(w, 4)) * CELL_BYTES - (draw(w, 2) ? draw(w, 9000) : 0);
    } else {
        offset = draw(w, 2) ? draw(w, SPAN - 1) : MIN(m->length, SPAN - 1);
        length = 1 + draw(w, draw(w, 2) ? 3000 : SPAN);
    }
    length = MIN(length, SPAN - offset);
    bool sync = draw(w, 3) == 0;
    uint32_t crcs[8];
    uint8_t *data;
    if (posix_memalign((void **)&data, 4096, round_up_u64(length, 4096)) != 0)
        return -E_NOMEM;
    w->op++;
    for (uint64_t i = 0; i < length; i++)
        data[i] = (uint8_t)(1 + (w->op * 7 + (offset + i) / 512 * 13) % 255);
    uint64_t end = MAX(m->length, offset + length);
    model_begin(m, offset, offset + length, data, end);
    struct put put = {.generation = m->generation, .offset = offset, .length = length, .data = data, .crcs = crcs,
                      .n_crcs = crcs_of(offset, data, length, crcs), .sync = sync};
    int err = put_check(&put);
    if (err == 0)
        err = put_bytes(w->volume, c, &put);
    if (err == 0) {
        if (m->length < offset)
            model_acked(w, m, m->length, offset, NULL, end, false);
        model_acked(w, m, offset, offset + length, data, end, sync);
    }
    free(data);
    return err;
}

static int do_truncate(struct world *w, struct chunk *c, struct chunk_model *m)
{
    uint64_t length = draw(w, SPAN);
    model_begin(m, MIN(length, m->length), SPAN, NULL, length);
    int err = put_truncate(w->volume, c, m->generation, length);
    if (err == 0)
        model_acked(w, m, MIN(length, m->length), SPAN, NULL, length, false);
    return err;
}

static int do_sync(struct world *w, struct chunk_model *m)
{
    int err = journal_sync(w->volume->journal);
    if (err == 0)
        model_acked(w, m, 0, 0, NULL, m->length, true);
    return err;
}

static int do_delete(struct world *w, struct chunk *c, struct chunk_model *m)
{
    if (!chunk_is_real(c))
        return 0;
    model_begin(m, 0, SPAN, NULL, 0);
    m->maybe_sealed = true;
    int err = volume_delete(w->volume, c);
    if (err == 0) {
        model_acked(w, m, 0, SPAN, NULL, 0, true);
        m->sealed = m->maybe_sealed = false;
        m->generation++;
    }
    return err;
}

static int do_seal(struct world *w, struct chunk *c, struct chunk_model *m)
{
    if (!chunk_is_real(c))
        return 0;
    uint64_t length = m->length - MIN(m->length, draw(w, 2) * draw(w, 5000));
    model_begin(m, length, SPAN, NULL, length);
    m->maybe_sealed = true;
    int err = put_seal(w->volume, c, m->generation, length);
    if (err == 0) {
        model_acked(w, m, length, SPAN, NULL, length, true);
        m->sealed = true;
    }
    return err;
}

/* Compares with the model while nothing is under way. */
static int compare_live(struct world *w, struct chunk *c, struct chunk_model *m)
{
    struct get get;
    int err = get_read(w->volume, c, 0, SPAN, &get);
    if (err != 0)
        return err;
    assert_int_equal(get.length, m->length);
    if (get.length > 0)
        assert_memory_equal(get.buffer + get.skip, m->now, get.length);
    get_fini(w->volume, &get);
    return 0;
}

static int step(struct world *w, unsigned i)
{
    struct chunk_model *m = &w->chunks[i];
    struct range range;
    struct chunk *c = hold(w, i + 1, &range);
    if (c == NULL)
        return -E_CANCELED;
    uint64_t what = draw(w, 100);
    int err;
    if (m->sealed)
        err = what < 30 ? do_delete(w, c, m) : compare_live(w, c, m);
    else if (what < 60)
        err = do_put(w, c, m);
    else if (what < 70)
        err = do_truncate(w, c, m);
    else if (what < 80)
        err = do_sync(w, m);
    else if (what < 84)
        err = do_delete(w, c, m);
    else if (what < 88)
        err = do_seal(w, c, m);
    else if (what < 92 && i == 0)
        w->volume->want_checkpoint = true, fiber_queue_wake_one(&w->volume->checkpoint_work), err = 0;
    else
        err = chunk_is_real(c) ? compare_live(w, c, m) : 0;
    release(w, c, &range);
    return err;
}

static void driver(void *arg)
{
    struct world *w = arg;
    unsigned i = w->drivers++ % CHUNKS;
    int err = 0;
    while (err == 0 && w->ops_left > 0) {
        w->ops_left--;
        err = step(w, i);
    }
    w->drivers--;
    fiber_group_done(&w->users);
}

/* ------------------------------------------------------------------ a life */
static void check_chunk(struct world *w, unsigned i)
{
    struct chunk_model *m = &w->chunks[i];
    static uint8_t content[SPAN];
    memset(content, 0, sizeof content);
    struct chunk *c = index_get(&w->volume->index, i + 1);
    uint64_t length = 0;
    bool sealed = false;
    if (c != NULL) {
        struct get get;
        assert_int_equal(get_read(w->volume, c, 0, SPAN, &get), 0);
        length = get.length;
        if (length > 0)
            memcpy(content, get.buffer + get.skip, length);
        get_fini(w->volume, &get);
        sealed = (c->flags & CHUNK_SEALED) != 0;
        m->generation = MAX(c->generation, m->generation);
        chunk_unref(&w->volume->index, c);
    }
    assert_in_range(length, m->length_min, m->length_max);
    for (uint64_t k = 0; k < SPAN; k++)
        if (!allowed(&m->bytes[k], content[k]))
            fail_msg("chunk %u byte %llu is %u, acknowledged was %u", i + 1, (unsigned long long)k, content[k], m->now[k]);
    assert_true(sealed == m->sealed || m->maybe_sealed);
    m->sealed = m->maybe_sealed = sealed;
    memcpy(m->now, content, SPAN);
    m->length = m->length_min = m->length_max = length;
    for (uint64_t k = 0; k < SPAN; k++)
        allow_only(&m->bytes[k], content[k]);
}

/* The process: opens, and when the host dies or the test asks for it, closes after the last user. */
static void process_run(void *arg)
{
    struct world *w = arg;
    struct volume_options options = options_of();
    const char *why;
    w->open_error = volume_open(sim_host_io(w->host), &options, &w->volume, &why);
    if (w->open_error == 0)
        for (unsigned i = 0; i < CHUNKS; i++)
            check_chunk(w, i);
    w->open = true;
    if (w->open_error != 0)
        return;
    (void)fiber_queue_wait(&w->leave, 0);
    fiber_group_wait(&w->users);
    volume_close(w->volume);
    w->open = false;
}

static bool is_open(void *arg)
{
    return ((struct world *)arg)->open;
}
static bool all_idle(void *arg)
{
    return ((struct world *)arg)->drivers == 0;
}

static bool is_closed(void *arg)
{
    return !((struct world *)arg)->open;
}

static struct world *world_make(uint64_t seed)
{
    struct world *w = calloc(1, sizeof *w);
    w->sim = sim_create(seed, &(struct sim_options){.disk_delay_max_ns = 200000});
    w->host = sim_host_create(w->sim, "disk");
    for (unsigned i = 0; i < CHUNKS; i++) {
        w->chunks[i].bytes = calloc(SPAN, sizeof *w->chunks[i].bytes);
        w->chunks[i].generation = 1;
        for (unsigned k = 0; k < SPAN; k++)
            allow_only(&w->chunks[i].bytes[k], 0);
    }
    return w;
}

static void world_free(struct world *w)
{
    sim_destroy(w->sim);
    for (unsigned i = 0; i < CHUNKS; i++)
        free(w->chunks[i].bytes);
    free(w);
}

static void open_volume(struct world *w)
{
    w->open = false;
    w->leave = (struct fiber_queue){0};
    assert_int_equal(fiber_spawn(sim_host_io(w->host), "process", process_run, w), 0);
    assert_int_equal(sim_run(w->sim, 600000, is_open, w), SIM_DONE);
    assert_int_equal(w->open_error, 0);
}

static void start_drivers(struct world *w, unsigned ops)
{
    w->ops_left = ops;
    w->drivers = 0;
    for (unsigned i = 0; i < CHUNKS; i++) {
        fiber_group_add(&w->users);
        assert_int_equal(fiber_spawn(sim_host_io(w->host), "driver", driver, w), 0);
    }
    sim_run(w->sim, 1, NULL, NULL);
}

static void crash(struct world *w, bool power)
{
    sim_host_crash(w->host, power);
    assert_false(w->open);
    sim_host_restart(w->host);
    open_volume(w);
}

/* At the end the volume can also be left in good order. */
static void leave(struct world *w)
{
    fiber_queue_wake_all(&w->leave);
    assert_int_equal(sim_run(w->sim, 60000, is_closed, w), SIM_DONE);
    open_volume(w);
}

static void run_seed(uint64_t seed, unsigned lives)
{
    struct world *w = world_make(seed);
    open_volume(w);
    for (unsigned life = 0; life < lives; life++) {
        w->power = draw(w, 2) == 0;
        start_drivers(w, 400);
        sim_run(w->sim, 1 + draw(w, 60), all_idle, w);
        crash(w, w->power);
    }
    leave(w);
    world_free(w);
}

static void test_crashes_lose_nothing_acknowledged(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++)
        run_seed(seed, 8);
}

/* The nth disk operation fails; then the machine loses power. */
static bool sweep_one(uint64_t nth, int err)
{
    struct world *w = world_make(99);
    open_volume(w);
    w->power = true;
    uint64_t before = sim_disk_ops(w->host);
    sim_disk_fail(w->host, nth, 1, err);
    start_drivers(w, 24);
    sim_run(w->sim, 60000, all_idle, w);
    assert_int_equal(w->drivers, 0);
    bool hit = sim_disk_ops(w->host) - before >= nth;
    sim_disk_fail(w->host, 0, 0, 0);
    crash(w, true);
    world_free(w);
    return hit;
}

static void test_each_failing_operation(void **state)
{
    for (uint64_t nth = 1; sweep_one(nth, -E_IO); nth++)
        ;
    for (uint64_t nth = 1; sweep_one(nth, -E_NOSPC); nth += 3)
        ;
}

static const char *seed_text;
static void test_one_seed(void **state)
{
    run_seed(strtoull(seed_text, NULL, 0), 40);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_crashes_lose_nothing_acknowledged),
        cmocka_unit_test(test_each_failing_operation),
    };
    const struct CMUnitTest one[] = {cmocka_unit_test(test_one_seed)};
    log_set_level(LOG_ERROR);
    if (argc > 1) {
        seed_text = argv[1];
        return cmocka_run_group_tests(one, NULL, NULL);
    }
    return cmocka_run_group_tests(all, NULL, NULL);
}
