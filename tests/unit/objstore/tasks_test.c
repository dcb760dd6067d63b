/* Which task begins when: urgent ones first, so many on a disk and in all, each once, and a DELETE ends what is made. */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "objstore/put.h"
#include "objstore/store.h"
#include "objstore/tasks.h"

#include <stdio.h>

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct held held[32];
    struct store *store;
    struct tasks *tasks;
    void (*script)(struct world *w);
    bool done;
};
static const struct rpc_auth auth = {.cluster_id = 7, .key = "0123456789abcdef0123456789abcde", .name = "test"};

static void world_run(void *arg)
{
    struct world *w = arg;
    const char *why;
    struct store_options options = {.dir = "/vol", .auth = &auth, .listen = "tcp:s1:7000", .journal_bytes = MIB(5),
                                    .reserve_bytes = MIB(1)};
    assert_int_equal(store_open(sim_host_io(w->host), &options, &w->store, &why), 0);
    assert_int_equal(tasks_create(w->store, &w->tasks), 0);
    w->script(w);
    tasks_destroy(w->tasks);
    store_stop(w->store);
    w->done = true;
}
static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}
static void run(void (*script)(struct world *w))
{
    struct world w = {.sim = sim_create(3, NULL), .script = script};
    w.host = sim_host_create(w.sim, "s1");
    assert_int_equal(fiber_spawn(sim_host_io(w.host), "world", world_run, &w), 0);
    assert_int_equal(sim_run(w.sim, 600000, is_done, &w), SIM_DONE);
    sim_destroy(w.sim);
}

static void take(struct world *w, uint64_t id, Tarn__ChunkTask__Kind kind, uint64_t chunk, uint32_t disk, bool background)
{
    Tarn__ChunkTask task = TARN__CHUNK_TASK__INIT;
    task.id = id;
    task.kind = kind;
    task.chunk = chunk;
    task.generation = 1;
    task.disk = disk;
    task.background = background;
    tasks_take(w->tasks, &task);
}

/* The ids of all that end within a moment, which are told then; none is left under way that could end. */
static size_t ended(struct world *w, uint64_t *ids)
{
    Tarn__ChunkTaskDone *results[256];
    io_sleep_ms(fiber_io(), 500);
    size_t n = tasks_results(w->tasks, results, 256);
    for (size_t i = 0; i < n; i++)
        ids[i] = results[i]->id;
    tasks_told(w->tasks, results, n);
    return n;
}

/* Chunk 100 + id is there and held, so that a task on it that has begun does not end before it is let go. */
static void hold(struct world *w, uint64_t id)
{
    assert_int_equal(store_hold_all(w->store->volumes[0], 100 + id, true, true, &w->held[id]), 0);
    assert_int_equal(put_truncate(w->store->volumes[0], w->held[id].chunk, 1, 10), 0);
}
/* True when its task had begun and nothing else ends by this. */
static bool let_go(struct world *w, uint64_t id)
{
    uint64_t ids[256];
    store_release(&w->held[id]);
    w->held[id].chunk = NULL;
    size_t n = ended(w, ids);
    assert_true(n == 0 || (n == 1 && ids[0] == id));
    return n == 1;
}
static void let_all_go(struct world *w)
{
    for (unsigned i = 0; i < ARRAY_SIZE(w->held); i++)
        if (w->held[i].chunk != NULL)
            store_release(&w->held[i]);
}

#define VERIFY TARN__CHUNK_TASK__KIND__VERIFY
#define DELETE TARN__CHUNK_TASK__KIND__DELETE

static void urgent_ones_first(struct world *w)
{
    for (uint64_t id = 1; id <= 26; id++)
        hold(w, id);
    for (uint64_t id = 1; id <= 20; id++)
        take(w, id, VERIFY, 100 + id, 1, true);
    for (uint64_t id = 21; id <= 26; id++)
        take(w, id, VERIFY, 100 + id, 1, false);
    for (uint64_t id = 1; id <= TASKS_DISK_HEAVY_MAX; id++)
        assert_true(let_go(w, id)); /* these were begun when nothing else was there; four urgent ones have their places now */
    assert_false(let_go(w, 5));
    assert_true(let_go(w, 21));
    assert_true(let_go(w, 22));
    let_all_go(w);
}

static void disks_share(struct world *w)
{
    for (uint64_t id = 1; id <= 20; id++)
        hold(w, id);
    for (uint64_t id = 1; id <= 10; id++)
        take(w, id, VERIFY, 100 + id, 1, true);
    for (uint64_t id = 11; id <= 20; id++)
        take(w, id, VERIFY, 100 + id, 2, true);
    assert_false(let_go(w, 10)); /* four of each disk */
    assert_false(let_go(w, 20));
    for (uint64_t id = 1; id <= 4; id++) {
        assert_true(let_go(w, id));
        assert_true(let_go(w, 10 + id));
    }
    assert_false(let_go(w, 9));
    assert_false(let_go(w, 19));
    let_all_go(w);
}

static void so_many_in_all(struct world *w)
{
    for (uint64_t id = 1; id <= 12; id++)
        hold(w, id);
    for (uint64_t id = 1; id <= 12; id++)
        take(w, id, VERIFY, 100 + id, (uint32_t)id, true); /* a disk each */
    assert_false(let_go(w, 12));
    assert_true(let_go(w, 1));
    assert_true(let_go(w, TASKS_HEAVY_MAX + 1)); /* took its place */
    let_all_go(w);
}

static void each_once_and_not_without_bound(struct world *w)
{
    uint64_t ids[256];
    for (unsigned again = 0; again < 2; again++)
        for (uint64_t id = 1; id <= 2 * TASKS_KEPT_MAX; id++)
            take(w, id, DELETE, 500 + id, 1, true);
    take(w, 1000, DELETE, 900, 1, false); /* urgent ones have a room of their own */
    assert_int_equal(ended(w, ids), TASKS_KEPT_MAX + 1);
    assert_int_equal(ended(w, ids), 0);
    take(w, 1, DELETE, 101, 1, true); /* was told: it is a new one now, and there is room */
    assert_int_equal(ended(w, ids), 1);
}

/* The one that waits is not begun any more; the deletion itself waits for nobody's turn. */
static void a_deletion_ends_what_is_made(struct world *w)
{
    uint64_t ids[256];
    Tarn__ChunkTaskDone *result;
    for (uint64_t id = 1; id <= 5; id++)
        hold(w, id);
    for (uint64_t id = 1; id <= 5; id++)
        take(w, id, VERIFY, 100 + id, 1, false);
    take(w, 6, DELETE, 105, 1, true);
    assert_int_equal(ended(w, ids), 0); /* 105 is held */
    store_release(&w->held[5]);
    w->held[5].chunk = NULL;
    assert_int_equal(ended(w, ids), 1);
    assert_int_equal(ids[0], 6);
    assert_null(map_get(&w->store->volumes[0]->index.chunks, 105));
    store_release(&w->held[1]);
    w->held[1].chunk = NULL;
    io_sleep_ms(fiber_io(), 100);
    assert_int_equal(tasks_results(w->tasks, &result, 1), 1);
    assert_int_equal(ended(w, ids), 2);
    assert_int_equal(ids[1], 5); /* cancelled */
    let_all_go(w);
}

/* What a member left: partial from now on, and a late one does not hit what came after. */
static void set_aside(struct world *w)
{
    struct volume *v = w->store->volumes[0];
    struct held held;
    uint64_t ids[256];
    for (unsigned generation = 0; generation < 2; generation++) {
        assert_int_equal(store_hold_all(v, 50 + generation, true, true, &held), 0);
        assert_int_equal(put_truncate(v, held.chunk, generation, 1000), 0);
        assert_int_equal(put_seal(v, held.chunk, 1 + generation, 1000), 0);
        store_release(&held);
    }
    Tarn__ChunkTask task = TARN__CHUNK_TASK__INIT;
    task.kind = TARN__CHUNK_TASK__KIND__ASIDE;
    task.generation = 2;
    for (task.id = 1, task.chunk = 50; task.chunk < 53; task.id++, task.chunk++)
        tasks_take(w->tasks, &task);
    for (size_t n = 0; n < 3;)
        n += ended(w, ids);
    struct chunk *older = index_get(&v->index, 50), *newer = index_get(&v->index, 51);
    assert_int_equal(older->flags, CHUNK_PARTIAL);
    assert_int_equal(older->generation, 2);
    assert_int_equal(newer->flags, CHUNK_SEALED);
    assert_null(index_get(&v->index, 52)); /* it has never been here */
    chunk_unref(&v->index, older);
    chunk_unref(&v->index, newer);
}

static void test_urgent_ones_first(void **state) { run(urgent_ones_first); }
static void test_disks_share(void **state) { run(disks_share); }
static void test_so_many_in_all(void **state) { run(so_many_in_all); }
static void test_each_once_and_not_without_bound(void **state) { run(each_once_and_not_without_bound); }
static void test_a_deletion_ends_what_is_made(void **state) { run(a_deletion_ends_what_is_made); }
static void test_set_aside(void **state) { run(set_aside); }

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urgent_ones_first),
        cmocka_unit_test(test_disks_share),
        cmocka_unit_test(test_so_many_in_all),
        cmocka_unit_test(test_each_once_and_not_without_bound),
        cmocka_unit_test(test_a_deletion_ends_what_is_made),
        cmocka_unit_test(test_set_aside),
    };
    log_set_level(LOG_OFF);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
