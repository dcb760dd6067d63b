/* Objects that are coded while they are put, and stores that fail meanwhile. Real service, real stores. */
#include "cluster.h"
#include "harness.h"

#include "common/log.h"
#include "ops.h"
#include "tests/unit/cmocka.h"

#include <fcntl.h>

#define ALL ((1u << NODES) - 1)
#define BYTES_MAX (MIB(11) + 54321)

static uint8_t data[BYTES_MAX], back[BYTES_MAX + 1];

struct test_case {
    const char *name;
    void (*body)(struct user *user);
    uint32_t put_code_mib;
};

static void policy_set(struct user *user, uint32_t k, uint32_t m, uint64_t chunk_bytes)
{
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__Policy policy = TARN__POLICY__INIT;
    policy.code_k = k;
    policy.code_m = m;
    policy.chunk_bytes = chunk_bytes;
    Tarn__PolicySet request = TARN__POLICY_SET__INIT;
    request.where = &where;
    request.policy = &policy;
    request.mask = 4 | 16;
    expect_equal(meta_call(user->meta, OP_POLICY_SET, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
}

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    const struct test_case *test_case = arg;
    struct cluster cluster;
    struct user user;
    cluster_start(&cluster, io, host, dir);
    cluster.config.put_code_mib = test_case->put_code_mib;
    user_start(&user, &cluster, 0);
    policy_set(&user, 4, 2, MIB(1));
    test_case->body(&user);
    user_stop(&user);
    cluster_stop(&cluster);
}

static void run_case(void **state)
{
    harness_sim(1, run_body, *state);
}

/* ------------------------------------------------------------------ what is there */

static Tarn__FileMapReply *map_of(struct user *user, const char *path)
{
    Tarn__FileMap request = TARN__FILE_MAP__INIT;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    request.where = &where;
    Tarn__FileMapReply *reply = NULL;
    expect_equal(meta_call(user->meta, OP_FILE_MAP, &request.base, &request.ctx, &meta_root,
                           &tarn__file_map_reply__descriptor, &reply, NULL), 0);
    return reply;
}

static int look(struct user *user, const char *path)
{
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    request.where = &where;
    return meta_call(user->meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

/* On all disks, as the service's tables have it. */
static uint64_t replicas_there_are(struct user *user)
{
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    Tarn__NodeListReply *reply = NULL;
    expect_equal(meta_call(user->meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root,
                           &tarn__node_list_reply__descriptor, &reply, NULL), 0);
    uint64_t n = 0;
    for (size_t i = 0; i < reply->n_nodes; i++)
        for (size_t j = 0; j < reply->nodes[i]->n_disks; j++)
            n += reply->nodes[i]->disks[j]->ready + reply->nodes[i]->disks[j]->leaving;
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return n;
}

/* In how many chunks of one member each it is, and in how many of more. */
struct kept {
    unsigned coded, copied;
};

static struct kept kept(struct user *user, const char *path)
{
    struct kept kept = {0};
    Tarn__FileMapReply *map = map_of(user, path);
    for (size_t i = 0; i < map->n_extents; i++) {
        kept.coded += map->extents[i]->group != 0;
        kept.copied += map->extents[i]->group == 0;
        expect(map->extents[i]->group != 0 || map->extents[i]->n_replicas > 1);
    }
    tarn__file_map_reply__free_unpacked(map, NULL);
    return kept;
}

static void expect_content(struct user *user, const char *path, size_t n)
{
    struct file *file = user_open(user, path, O_RDONLY);
    size_t got = 0;
    for (int64_t r = 1; r > 0; got += (size_t)r) {
        r = file_read(file, back + got, sizeof back - got, got);
        expect(r >= 0);
    }
    expect_equal(got, n);
    expect(memcmp(back, data, n) == 0);
    expect_equal(file_close(file), 0);
}

/* ------------------------------------------------------------------ puts */

static struct put *begin(struct user *user, const char *path, uint64_t expected)
{
    struct put_options options = {.cred = &meta_root, .path = path, .expected_size = expected};
    struct put *put = NULL;
    tarn__where__init(&options.parent);
    expect_equal(put_begin(user->meta, user->stores, &options, &put), 0);
    return put;
}

static int write_range(struct put *put, size_t from, size_t to)
{
    int r = 0;
    for (size_t part; from < to && r == 0; from += part) { /* pieces of an odd size */
        part = MIN(to - from, (size_t)300001);
        r = put_write(put, data + from, part);
    }
    return r;
}

static int put_bytes(struct user *user, const char *path, size_t n, uint64_t expected)
{
    struct put *put = begin(user, path, expected);
    int r = write_range(put, 0, n);
    if (r < 0)
        put_abort(put);
    return r < 0 ? r : put_commit(put, NULL, 0, NULL, 0, NULL);
}

static void objects_of_many_sizes_come_back(struct user *user)
{
    static const size_t sizes[] = {MIB(4) - 1, MIB(4), MIB(4) + 1, MIB(5), MIB(7) + 777, MIB(8), MIB(8) + 1, BYTES_MAX};
    for (unsigned known = 0; known < 2; known++)
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            expect_equal(put_bytes(user, "object", sizes[i], known ? sizes[i] : 0), 0);
            expect_content(user, "object", sizes[i]);
        }
}

static void what_is_small_is_kept_in_copies(struct user *user)
{
    expect_equal(put_bytes(user, "small", MIB(4) - 1, MIB(4) - 1), 0);
    expect_equal(kept(user, "small").coded, 0);
    expect_equal(put_bytes(user, "large", MIB(4), MIB(4)), 0);
    expect_equal(kept(user, "large").coded, 4);
    expect_equal(put_bytes(user, "rest", MIB(9), MIB(9)), 0); /* two groups, and 1 MiB that is less than k MiB */
    expect_equal(kept(user, "rest").coded, 8);
    expect_equal(kept(user, "rest").copied, 1);
}

/* Fewer bytes than were told, or more. */
static void a_size_that_is_not_kept_to_does_no_harm(struct user *user)
{
    expect_equal(put_bytes(user, "object", MIB(5) + 99, MIB(11)), 0);
    expect_content(user, "object", MIB(5) + 99);
    expect_equal(put_bytes(user, "object", BYTES_MAX, MIB(4)), 0);
    expect_content(user, "object", BYTES_MAX);
    expect_equal(put_bytes(user, "object", 100, MIB(11)), 0); /* in the inode */
    expect_content(user, "object", 100);
}

static void without_memory_it_is_kept_in_copies(struct user *user)
{
    expect_equal(put_bytes(user, "object", MIB(9), MIB(9)), 0);
    expect_equal(kept(user, "object").coded, 0);
    expect_content(user, "object", MIB(9));
}

static void copies_that_the_writer_says_are_copies(struct user *user)
{
    struct put_options options = {.cred = &meta_root, .path = "object", .copies = 2, .expected_size = MIB(9)};
    struct put *put = NULL;
    tarn__where__init(&options.parent);
    expect_equal(put_begin(user->meta, user->stores, &options, &put), 0);
    expect_equal(write_range(put, 0, MIB(9)), 0);
    expect_equal(put_commit(put, NULL, 0, NULL, 0, NULL), 0);
    expect_equal(kept(user, "object").coded, 0);
}

/* The parity would be of bytes that do not stay as they are. */
static void what_is_to_be_compressed_is_kept_in_copies_first(struct user *user)
{
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__Policy policy = TARN__POLICY__INIT;
    Tarn__PolicySet request = TARN__POLICY_SET__INIT;
    request.where = &where;
    request.policy = &policy;
    request.mask = 32;
    policy.compress = 4;
    expect_equal(meta_call(user->meta, OP_POLICY_SET, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
    expect_equal(put_bytes(user, "object", MIB(9), MIB(9)), 0);
    expect_equal(kept(user, "object").coded, 0);
    expect_content(user, "object", MIB(9));
    policy.compress = 1; /* off */
    expect_equal(meta_call(user->meta, OP_POLICY_SET, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
    expect_equal(put_bytes(user, "other", MIB(8), MIB(8)), 0);
    expect_equal(kept(user, "other").coded, 8);
}

static void what_is_given_up_leaves_nothing(struct user *user)
{
    struct put *put = begin(user, "object", BYTES_MAX);
    expect_equal(write_range(put, 0, MIB(6)), 0);
    expect_equal(replicas_there_are(user), 12);
    put_abort(put);
    while (replicas_there_are(user) > 0)
        expect_equal(io_sleep_ms(user->cluster->io, 50), 0); /* an event without a push */
    expect_equal(look(user, "object"), -E_NOENT);
}

/* ------------------------------------------------------------------ stores that fail */

/* Of two groups `before` bytes are written when the stores of `mask` go. */
static int put_while_they_go(struct user *user, size_t before, unsigned mask, bool lost_power)
{
    struct put *put = begin(user, "object", MIB(8));
    expect_equal(write_range(put, 0, before), 0);
    if (lost_power)
        cluster_stores_restart(user->cluster, mask, true);
    else
        for (unsigned i = 0; i < NODES; i++)
            if (mask & 1u << i)
                cluster_store_stop(user->cluster, i);
    int r = write_range(put, before, MIB(8));
    if (r < 0)
        put_abort(put);
    return r < 0 ? r : put_commit(put, NULL, 0, NULL, 0, NULL);
}

static void come_back(struct user *user, unsigned mask)
{
    for (unsigned i = 0; i < NODES; i++)
        if (mask & 1u << i)
            cluster_store_start(user->cluster, i);
    cluster_wait(user->cluster);
}

static void one_member_that_goes_is_borne(struct user *user)
{
    for (unsigned i = 0; i < NODES; i++) {
        expect_equal(put_while_they_go(user, MIB(4 + i % 4) + 100, 1u << i, false), 0);
        expect_equal(look(user, "object"), 0);
        come_back(user, 1u << i);
    }
}

static void as_many_as_there_are_spares_are_not(struct user *user)
{
    for (unsigned i = 0; i + 1 < NODES; i++) {
        expect(put_while_they_go(user, MIB(4) + 100, 3u << i, false) < 0); /* the second group needs all nodes */
        expect_equal(look(user, "object"), -E_NOENT);
        come_back(user, 3u << i);
    }
}

static void a_member_that_lost_power_is_borne(struct user *user)
{
    for (unsigned i = 0; i < NODES; i++)
        expect_equal(put_while_they_go(user, MIB(6) + 100, 1u << i, true), 0);
}

/* The last data shard has a window that is acknowledged and not synced. */
static void a_loss_of_power_before_the_sync_is_borne(struct user *user)
{
    policy_set(user, 4, 2, MIB(2));
    for (unsigned i = 0; i < NODES; i++) {
        uint64_t before = stores_counters(user->stores)->written;
        struct put *put = begin(user, "object", MIB(8));
        expect_equal(write_range(put, 0, MIB(7)), 0);
        while (stores_counters(user->stores)->written < before + MIB(7))
            expect_equal(io_sleep_ms(user->cluster->io, 1), 0);
        cluster_stores_restart(user->cluster, 1u << i, true);
        expect_equal(write_range(put, MIB(7), MIB(7) + 1000), 0);
        expect_equal(put_commit(put, NULL, 0, NULL, 0, NULL), 0);
    }
}

static void bytes_that_all_may_have_lost_are_not_acknowledged(struct user *user)
{
    expect(put_while_they_go(user, MIB(6) + 100, ALL, true) < 0);
    expect_equal(look(user, "object"), -E_NOENT);
}

static void with_one_spare_nothing_is_borne(struct user *user)
{
    policy_set(user, 5, 1, MIB(1));
    expect(put_while_they_go(user, 100, 1, false) < 0);
    expect_equal(look(user, "object"), -E_NOENT);
    come_back(user, 1);
    expect_equal(put_bytes(user, "object", MIB(5), MIB(5)), 0);
    expect_equal(kept(user, "object").coded, 5);
}

static void with_too_few_nodes_it_is_kept_in_copies(struct user *user)
{
    cluster_store_stop(user->cluster, 2);
    cluster_wait(user->cluster);
    expect_equal(put_bytes(user, "object", MIB(5), MIB(5)), 0);
    expect_equal(kept(user, "object").coded, 0);
    expect_content(user, "object", MIB(5));
    come_back(user, 1u << 2);
}

#define CASE(fn) {#fn, fn, 0}
static const struct test_case cases[] = {
    CASE(objects_of_many_sizes_come_back),
    CASE(what_is_small_is_kept_in_copies),
    CASE(a_size_that_is_not_kept_to_does_no_harm),
    {"without_memory_it_is_kept_in_copies", without_memory_it_is_kept_in_copies, 1},
    CASE(copies_that_the_writer_says_are_copies),
    CASE(what_is_to_be_compressed_is_kept_in_copies_first),
    CASE(what_is_given_up_leaves_nothing),
    CASE(one_member_that_goes_is_borne),
    CASE(as_many_as_there_are_spares_are_not),
    CASE(a_member_that_lost_power_is_borne),
    CASE(a_loss_of_power_before_the_sync_is_borne),
    CASE(bytes_that_all_may_have_lost_are_not_acknowledged),
    CASE(with_one_spare_nothing_is_borne),
    CASE(with_too_few_nodes_it_is_kept_in_copies),
};

int main(void)
{
    log_init("coded_put_test");
    log_set_level(LOG_ERROR);
    for (size_t i = 0; i < BYTES_MAX; i++)
        data[i] = (uint8_t)(i * 31 + i / 977);
    struct CMUnitTest tests[ARRAY_SIZE(cases)];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    return _cmocka_run_group_tests("coded put", tests, ARRAY_SIZE(cases), NULL, NULL);
}
