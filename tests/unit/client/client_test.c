/* The session with the metadata service and the data path to the stores, against fakes that fail. */
#include "fakes.h"
#include "harness.h"

#include "common/log.h"
#include "ops.h"
#include "tests/unit/cmocka.h"

/* ------------------------------------------------------------------ harness */

#define SEEDS 5

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    struct world world;
    world_start(&world, io, host);
    ((void (*)(struct world *))arg)(&world);
    world_stop(&world);
}

static void on_simulator(void **state)
{
    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        harness_sim(seed, run_body, *state);
}

static struct meta *connect_with(struct world *world, struct meta_options *options)
{
    struct meta *meta = NULL;
    options->name = "test";
    if (!options->give_up_ms)
        options->give_up_ms = 5000;
    expect_equal(meta_connect(world->io, &world->config, options, &meta), 0);
    return meta;
}

static struct meta *connect_to(struct world *world)
{
    struct meta_options options = {0};
    return connect_with(world, &options);
}

static int create(struct meta *meta, uint64_t *ret_ino)
{
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    int r = meta_call(meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL);
    expect(request.ctx == NULL);
    if (r == 0) {
        if (ret_ino)
            *ret_ino = entry->attr->ino;
        tarn__entry__free_unpacked(entry, NULL);
    }
    return r;
}

static int look(struct meta *meta)
{
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    return meta_call(meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

/* ------------------------------------------------------------------ session */

static void a_query_needs_no_session(struct world *world)
{
    struct meta *meta = connect_to(world);
    expect_equal(look(meta), 0);
    expect_equal(world->sessions, 0);
    expect_equal(meta_session(meta), 0);
    meta_disconnect(meta);
    expect_equal(world->ended, 0);
}

static void the_first_change_opens_the_session_and_the_end_closes_it(struct world *world)
{
    struct meta *meta = connect_to(world);
    uint64_t first = 0, second = 0;
    expect_equal(create(meta, &first), 0);
    expect_equal(create(meta, &second), 0);
    expect_equal(first, 1);
    expect_equal(second, 2);
    expect_equal(world->last_acked, 1);
    expect_equal(world->sessions, 1);
    meta_disconnect(meta);
    expect_equal(world->ended, 1);
}

static void a_redirect_is_followed_to_the_leader(struct world *world)
{
    for (unsigned leader = 0; leader < METAS; leader++) {
        world->leader = leader;
        struct meta *meta = connect_to(world);
        expect_equal(create(meta, NULL), 0);
        unsigned asked = world->metas[leader].asked;
        expect_equal(create(meta, NULL), 0);
        expect_equal(world->metas[leader].asked, asked + 1); /* remembered */
        meta_disconnect(meta);
    }
}

static void a_lost_reply_is_asked_for_again_under_the_same_number(struct world *world)
{
    struct meta *meta = connect_to(world);
    expect_equal(create(meta, NULL), 0);
    world_mishap(world, 0, OP_CREATE, LOSE_REPLY, 2);
    uint64_t ino = 0;
    expect_equal(create(meta, &ino), 0);
    expect_equal(ino, 2);
    expect_equal(world->applied, 2);
    expect_equal(create(meta, &ino), 0);
    expect_equal(ino, 3);
    meta_disconnect(meta);
}

static void busy_and_elections_are_waited_out(struct world *world)
{
    struct meta *meta = connect_to(world);
    world_mishap(world, 0, OP_CREATE, SAY_BUSY, 3);
    expect_equal(create(meta, NULL), 0);
    for (unsigned i = 0; i < METAS; i++)
        world_mishap(world, i, OP_CREATE, NO_LEADER, 2);
    world->leader = 2;
    expect_equal(create(meta, NULL), 0);
    expect_equal(world->applied, 2);
    meta_disconnect(meta);
}

static void without_a_leader_a_call_gives_up(struct world *world)
{
    struct meta_options options = {.give_up_ms = 200};
    struct meta *meta = connect_with(world, &options);
    for (unsigned i = 0; i < METAS; i++)
        world_mishap(world, i, OP_LOOKUP, NO_LEADER, 100000);
    expect_equal(look(meta), -E_UNAVAIL);
    meta_disconnect(meta);
}

static void note_loss(void *arg)
{
    (*(unsigned *)arg)++;
}

static void an_expired_session_fails_the_change_and_is_replaced(struct world *world)
{
    unsigned lost = 0;
    struct meta_options options = {.lost = note_loss, .arg = &lost};
    struct meta *meta = connect_with(world, &options);
    expect_equal(create(meta, NULL), 0);
    uint64_t first = meta_session(meta);
    world_mishap(world, 0, OP_CREATE, FORGET_SESSION, 1);
    expect_equal(create(meta, NULL), -E_NO_SESSION);
    expect_equal(create(meta, NULL), 0);
    expect_equal(lost, 1);
    expect(meta_session(meta) != first);
    expect_equal(world->applied, 2);
    meta_disconnect(meta);
}

static void an_expired_session_does_not_fail_a_query(struct world *world)
{
    struct meta *meta = connect_to(world);
    expect_equal(create(meta, NULL), 0);
    world_mishap(world, 0, OP_LOOKUP, FORGET_SESSION, 1);
    expect_equal(look(meta), 0);
    meta_disconnect(meta);
}

struct creator {
    struct meta *meta;
    struct fiber_group *group;
    unsigned count;
};

static void creator_run(void *arg)
{
    struct creator *creator = arg;
    for (unsigned i = 0; i < 20; i++)
        creator->count += create(creator->meta, NULL) == 0;
    fiber_group_done(creator->group);
}

static void many_fibers_change_once_each_while_replies_get_lost(struct world *world)
{
    struct meta *meta = connect_to(world);
    struct fiber_group group = {0};
    struct creator creators[16];
    world_mishap(world, 0, OP_CREATE, LOSE_REPLY, 3);
    for (size_t i = 0; i < ARRAY_SIZE(creators); i++) {
        creators[i] = (struct creator){.meta = meta, .group = &group};
        fiber_group_add(&group);
        expect_equal(fiber_spawn(world->io, "creator", creator_run, &creators[i]), 0);
    }
    fiber_group_wait(&group);
    for (size_t i = 0; i < ARRAY_SIZE(creators); i++)
        expect_equal(creators[i].count, 20);
    expect_equal(world->applied, 20 * ARRAY_SIZE(creators));
    expect_equal(world->sessions, 1);
    meta_disconnect(meta);
}

/* ------------------------------------------------------------------ locks */

struct locker {
    struct meta *meta;
    Tarn__Lock lock;
    int result;
    struct fiber_group group;
};

static void locker_run(void *arg)
{
    struct locker *locker = arg;
    locker->result = meta_lock(locker->meta, &locker->lock, &meta_root);
    fiber_group_done(&locker->group);
}

static void locker_start(struct world *world, struct locker *locker, struct meta *meta)
{
    *locker = (struct locker){.meta = meta, .lock = TARN__LOCK__INIT};
    locker->lock.ino = 3;
    locker->lock.type = TARN__LOCK_TYPE__LOCK_EX;
    locker->lock.end = UINT64_MAX;
    locker->lock.wait = true;
    locker->lock.waiter = meta_lock_waiter(meta);
    fiber_group_add(&locker->group);
    expect_equal(fiber_spawn(world->io, "locker", locker_run, locker), 0);
    unsigned asks = world->lock_asks;
    while (world->lock_asks == asks)
        expect_equal(fiber_queue_wait(&world->lock_asked, 0), 0);
}

static void a_lock_that_is_held_is_refused_or_waited_for(struct world *world)
{
    struct meta *meta = connect_to(world);
    Tarn__Lock lock = TARN__LOCK__INIT;
    expect_equal(meta_lock(meta, &lock, &meta_root), -E_WOULDBLOCK);
    world->lock_free = true;
    expect_equal(meta_lock(meta, &lock, &meta_root), 0);
    world->lock_free = false;
    struct locker locker;
    locker_start(world, &locker, meta);
    world_grant(world);
    fiber_group_wait(&locker.group);
    expect_equal(locker.result, 0);
    meta_disconnect(meta);
}

static void a_waiting_lock_follows_the_leader(struct world *world)
{
    struct meta *meta = connect_to(world);
    struct locker locker;
    locker_start(world, &locker, meta);
    unsigned before = world->metas[1].asked;
    world->leader = 1;
    rpc_conn_close(world->lock_conn);
    while (world->lock_asks < 2)
        expect_equal(fiber_queue_wait(&world->lock_asked, 0), 0);
    expect(world->metas[1].asked > before);
    world_grant(world);
    fiber_group_wait(&locker.group);
    expect_equal(locker.result, 0);
    meta_disconnect(meta);
}

static void an_interrupted_wait_is_cancelled_unless_the_grant_came_first(struct world *world)
{
    struct meta *meta = connect_to(world);
    for (int late = 0; late < 2; late++) {
        world->grant_on_cancel = late;
        world->waiter = 0;
        struct locker locker;
        locker_start(world, &locker, meta);
        meta_lock_interrupt(meta, locker.lock.waiter);
        fiber_group_wait(&locker.group);
        expect_equal(locker.result, late ? 0 : -E_INTR);
    }
    expect_equal(world->lock_cancels, 2);
    meta_disconnect(meta);
}

static void the_end_of_the_session_ends_waits(struct world *world)
{
    struct meta *meta = connect_to(world);
    struct locker locker;
    locker_start(world, &locker, meta);
    world_mishap(world, 0, OP_LOOKUP, FORGET_SESSION, 1);
    expect_equal(look(meta), 0);
    fiber_group_wait(&locker.group);
    expect_equal(locker.result, -E_NO_SESSION);
    meta_disconnect(meta);
}

/* ------------------------------------------------------------------ stores */

struct data_path {
    struct meta *meta;
    struct stores *stores;
    Tarn__Extent *extent;
    uint8_t *data, *back;
    struct store_lives lives;
};
#define DATA_BYTES (MIB(2) + 12345)

static struct data_path path_open(struct world *world)
{
    struct data_path path = {.meta = connect_to(world), .extent = world_extent(world)};
    expect_equal(create(path.meta, NULL), 0); /* writes belong to a session */
    expect_equal(stores_create(world->io, &world->config, path.meta, &path.stores), 0);
    path.data = malloc(DATA_BYTES);
    path.back = malloc(DATA_BYTES);
    expect(path.data && path.back);
    for (size_t i = 0; i < DATA_BYTES; i++)
        path.data[i] = (uint8_t)(i * 31 + i / 977);
    return path;
}

static void path_close(struct data_path *path)
{
    stores_destroy(path->stores);
    meta_disconnect(path->meta);
    tarn__extent__free_unpacked(path->extent, NULL);
    free(path->data);
    free(path->back);
}

/* Writes at an odd offset and reads back, also what lies around it. */
static void write_and_read(struct data_path *path)
{
    expect_equal(stores_write(path->stores, meta_session(path->meta), path->extent, 777, path->data, DATA_BYTES, false, &path->lives), 0);
    expect_equal(stores_read(path->stores, path->extent, 777, path->back, DATA_BYTES), 0);
    expect(memcmp(path->data, path->back, DATA_BYTES) == 0);
    expect_equal(stores_read(path->stores, path->extent, 777 + DATA_BYTES - 1, path->back, 100), 0);
    expect_equal(path->back[0], path->data[DATA_BYTES - 1]);
    for (size_t i = 1; i < 100; i++)
        expect_equal(path->back[i], 0);
}

static void what_is_written_is_read(struct world *world)
{
    struct data_path path = path_open(world);
    write_and_read(&path);
    expect_equal(stores_sync(path.stores, meta_session(path.meta), path.extent, &path.lives), 0);
    expect_equal(world->stores[0].syncs, 1);
    expect_equal(stores_counters(path.stores)->written, DATA_BYTES);
    expect_equal(world->failed_reports, 0);
    path_close(&path);
}

static void a_silent_or_spoiled_copy_is_replaced_by_another(struct world *world)
{
    struct data_path path = path_open(world);
    write_and_read(&path);
    for (unsigned good = 0; good < STORES; good++) {
        for (unsigned i = 0; i < STORES; i++) {
            world->stores[i].spoiled = i != good && i % 2 == 0;
            world->stores[i].mute = i != good && i % 2 == 1;
        }
        memset(path.back, 0, DATA_BYTES);
        expect_equal(stores_read(path.stores, path.extent, 777, path.back, DATA_BYTES), 0);
        expect(memcmp(path.data, path.back, DATA_BYTES) == 0);
    }
    for (unsigned i = 0; i < STORES; i++) {
        world->stores[i].spoiled = true;
        world->stores[i].mute = false;
    }
    expect_equal(stores_read(path.stores, path.extent, 777, path.back, 10), -E_CORRUPT);
    path_close(&path);
}

static void the_own_node_and_rack_are_read_first(struct world *world)
{
    world->config.node = 3; /* of rack "near", as 2 is */
    struct data_path path = path_open(world);
    write_and_read(&path);
    const struct stores_counters *counters = stores_counters(path.stores);
    expect_equal(counters->read_local, DATA_BYTES + 100);
    expect_equal(counters->read_rack + counters->read_remote, 0);
    world->stores[2].mute = true;
    expect_equal(stores_read(path.stores, path.extent, 0, path.back, 10), 0);
    expect_equal(counters->read_rack, 10);
    world->stores[1].mute = true;
    expect_equal(stores_read(path.stores, path.extent, 0, path.back, 10), 0);
    expect_equal(counters->read_remote, 10);
    path_close(&path);
}

static void a_failed_member_is_reported_and_the_write_goes_on(struct world *world)
{
    struct data_path path = path_open(world);
    world->stores[0].fails_for = 2;
    write_and_read(&path);
    expect_equal(world->failed_reports, 1);
    expect_equal(world->failed_disks[0], 2);
    expect_equal(path.extent->generation, 2);
    expect_equal(path.extent->n_replicas, 2);
    expect_equal(world->stores[2].writes, world->stores[0].writes);
    path_close(&path);
}

static void a_primary_that_cannot_store_is_replaced(struct world *world)
{
    struct data_path path = path_open(world);
    world->stores[0].full = true;
    write_and_read(&path);
    expect_equal(world->failed_reports, 1);
    expect_equal(world->failed_disks[0], 1);
    expect_equal(world->stores[0].writes, 0);
    path_close(&path);
}

static void a_silent_primary_is_replaced(struct world *world)
{
    struct data_path path = path_open(world);
    world->stores[0].mute = true;
    write_and_read(&path);
    expect_equal(world->failed_reports, 1);
    expect_equal(world->failed_disks[0], 1);
    path_close(&path);
}

static void a_newer_generation_is_learned_from_the_service(struct world *world)
{
    struct data_path path = path_open(world);
    world->generation = 5;
    for (unsigned i = 0; i < STORES; i++)
        world->stores[i].generation = 5;
    expect_equal(stores_read(path.stores, path.extent, 0, path.back, 10), -E_STALE);
    write_and_read(&path);
    expect_equal(path.extent->generation, 5);
    expect_equal(world->failed_reports, 0);
    path_close(&path);
}

/* ------------------------------------------------------------------ answers in parts */

struct locating {
    Tarn__Locations request;
    char after[32];
    unsigned seen, stop_at;
};

/* Each file once and in order, whatever happened between the parts. */
static int locating_part(void *arg, const ProtobufCMessage *part)
{
    struct locating *l = arg;
    const Tarn__LocationsReply *reply = (const Tarn__LocationsReply *)part;
    for (size_t i = 0; i < reply->n_files; i++)
        expect_equal(atoi(reply->files[i]->path + 3), l->seen++);
    snprintf(l->after, sizeof l->after, "%s", reply->next);
    if (l->stop_at > 0 && l->seen >= l->stop_at)
        return -E_INTR;
    return reply->next[0] ? 0 : META_END;
}

static int locate(struct meta *meta, struct locating *l, bool stream)
{
    unsigned stop_at = l->stop_at;
    *l = (struct locating){.request = TARN__LOCATIONS__INIT, .stop_at = stop_at};
    l->request.recursive = true;
    l->request.after = l->after;
    l->request.stream = stream;
    return meta_stream(meta, OP_LOCATIONS, &l->request.base, &l->request.ctx, &meta_root,
                       &tarn__locations_reply__descriptor, locating_part, l, NULL);
}

static void a_long_answer_is_one_request(struct world *world)
{
    struct meta *meta = connect_to(world);
    struct locating l = {0};
    world->files = 1000;
    expect_equal(look(meta), 0); /* knows the leader from now on */
    unsigned asked = world->metas[world->leader].asked;
    expect_equal(locate(meta, &l, true), 0);
    expect_equal(l.seen, 1000);
    expect_equal(world->metas[world->leader].asked, asked + 1);
    meta_disconnect(meta);
}

static void an_older_server_is_asked_page_by_page(struct world *world)
{
    struct meta *meta = connect_to(world);
    struct locating l = {0};
    world->files = 100;
    expect_equal(locate(meta, &l, false), 0);
    expect_equal(l.seen, 100);
    meta_disconnect(meta);
}

static void a_stream_goes_on_at_the_next_leader(struct world *world)
{
    for (unsigned until = 1; until < 40; until += 3) {
        struct meta *meta = connect_to(world);
        struct locating l = {0};
        world->files = 200;
        world->parts_until_death = until;
        expect_equal(locate(meta, &l, true), 0);
        expect_equal(l.seen, 200);
        expect_equal(world->parts_until_death, 0); /* it did happen */
        meta_disconnect(meta);
    }
}

static void a_stream_may_be_ended_by_its_reader(struct world *world)
{
    struct meta *meta = connect_to(world);
    struct locating l = {.stop_at = 50};
    world->files = 100000;
    expect_equal(locate(meta, &l, true), -E_INTR);
    expect_equal(l.seen, 50);
    expect_equal(look(meta), 0);
    expect(world->parts <= 10 + 2 * RPC_PARTS_AHEAD);
    meta_disconnect(meta);
}

/* ------------------------------------------------------------------ */

#define CASE(fn) {#fn, fn}
static const struct {
    const char *name;
    void (*body)(struct world *world);
} cases[] = {
    CASE(a_query_needs_no_session),
    CASE(the_first_change_opens_the_session_and_the_end_closes_it),
    CASE(a_redirect_is_followed_to_the_leader),
    CASE(a_lost_reply_is_asked_for_again_under_the_same_number),
    CASE(busy_and_elections_are_waited_out),
    CASE(without_a_leader_a_call_gives_up),
    CASE(an_expired_session_fails_the_change_and_is_replaced),
    CASE(an_expired_session_does_not_fail_a_query),
    CASE(many_fibers_change_once_each_while_replies_get_lost),
    CASE(a_lock_that_is_held_is_refused_or_waited_for),
    CASE(a_waiting_lock_follows_the_leader),
    CASE(an_interrupted_wait_is_cancelled_unless_the_grant_came_first),
    CASE(the_end_of_the_session_ends_waits),
    CASE(a_long_answer_is_one_request),
    CASE(an_older_server_is_asked_page_by_page),
    CASE(a_stream_goes_on_at_the_next_leader),
    CASE(a_stream_may_be_ended_by_its_reader),
    CASE(what_is_written_is_read),
    CASE(a_silent_or_spoiled_copy_is_replaced_by_another),
    CASE(the_own_node_and_rack_are_read_first),
    CASE(a_failed_member_is_reported_and_the_write_goes_on),
    CASE(a_primary_that_cannot_store_is_replaced),
    CASE(a_silent_primary_is_replaced),
    CASE(a_newer_generation_is_learned_from_the_service),
};

int main(int argc, char **argv)
{
    log_init("client_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[64];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, on_simulator, NULL, NULL, (void *)cases[i].body};
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("client", tests, ARRAY_SIZE(cases), NULL, NULL);
}
