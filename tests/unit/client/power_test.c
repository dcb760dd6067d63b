/* What a writer is told when stores lose power between its writes and its sync (C22). Real service, real stores. */
#include "cluster.h"
#include "harness.h"

#include "common/log.h"
#include "ops.h"
#include "tests/unit/cmocka.h"

#include <fcntl.h>

#define ALL ((1u << NODES) - 1)
#define BYTES MIB(2)

static uint8_t data[BYTES];

struct test_case {
    const char *name;
    void (*body)(struct user *user);
};

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    const struct test_case *test_case = arg;
    struct cluster cluster;
    struct user user;
    cluster_start(&cluster, io, host, dir);
    user_start(&user, &cluster, 0);
    test_case->body(&user);
    user_stop(&user);
    cluster_stop(&cluster);
}

static void run_case(void **state)
{
    harness_sim(1, run_body, *state);
}

static struct put *put_of(struct user *user)
{
    struct put_options options = {.cred = &meta_root, .path = "object"};
    struct put *put = NULL;
    tarn__where__init(&options.parent);
    expect_equal(put_begin(user->meta, user->stores, &options, &put), 0);
    expect_equal(put_write(put, data, BYTES), 0);
    while (stores_counters(user->stores)->written < BYTES) /* all of it is acknowledged, nothing is synced */
        expect_equal(io_sleep_ms(user->cluster->io, 1), 0);
    return put;
}

static int look(struct user *user)
{
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = "object";
    request.where = &where;
    return meta_call(user->meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

static void an_object_that_may_have_lost_bytes_is_not_acknowledged(struct user *user)
{
    struct put *put = put_of(user);
    cluster_stores_restart(user->cluster, ALL, true);
    expect_equal(put_commit(put, NULL, 0, NULL, 0, NULL), -E_IO);
    expect_equal(look(user), -E_NOENT);
    user_put(user, "object", data, BYTES);
    expect_equal(look(user), 0);
}

static void an_object_survives_restarts(struct user *user)
{
    struct put *put = put_of(user);
    cluster_stores_restart(user->cluster, ALL, false);
    expect_equal(put_commit(put, NULL, 0, NULL, 0, NULL), 0);
}

static void an_object_survives_the_loss_of_some(struct user *user)
{
    struct put *put = put_of(user);
    cluster_stores_restart(user->cluster, ALL & ~1u, true);
    expect_equal(put_commit(put, NULL, 0, NULL, 0, NULL), 0);
}

static void a_file_is_told_once(struct user *user)
{
    struct file *file = user_open(user, "file", O_RDWR | O_CREAT);
    expect_equal(file_write(file, data, BYTES, 0, false), 0);
    cluster_stores_restart(user->cluster, ALL, true);
    expect_equal(file_sync(file), -E_IO);
    expect_equal(file_sync(file), 0);
    expect_equal(file_write(file, data, BYTES, 0, false), 0);
    expect_equal(file_sync(file), 0);
    cluster_stores_restart(user->cluster, ALL, true); /* what is synced is no reason for an error */
    expect_equal(file_write(file, data, 10, 0, false), 0);
    expect_equal(file_sync(file), 0);
    expect_equal(file_close(file), 0);
}

static void writing_on_does_not_hide_it(struct user *user)
{
    struct file *file = user_open(user, "file", O_RDWR | O_CREAT);
    expect_equal(file_write(file, data, MIB(1), 0, false), 0);
    cluster_stores_restart(user->cluster, ALL, true);
    expect_equal(file_write(file, data, MIB(1), MIB(1), false), 0);
    expect_equal(file_sync(file), -E_IO);
    expect_equal(file_close(file), 0);
}

/* The cut is the service's: the stores can lose nothing of it. */
static void a_cut_is_not_lost(struct user *user)
{
    uint8_t back[12345 + 1];
    struct file *file = user_open(user, "file", O_RDWR | O_CREAT);
    expect_equal(file_write(file, data, BYTES, 0, false), 0);
    expect_equal(file_sync(file), 0);
    expect_equal(file_truncate(file, 12345), 0);
    cluster_stores_restart(user->cluster, ALL, true);
    expect_equal(file_sync(file), 0);
    expect_equal(file_read(file, back, sizeof back, 0), 12345);
    expect(memcmp(back, data, 12345) == 0);
    expect_equal(file_close(file), 0);
}

static void a_cut_does_not_hide_what_was_not_synced(struct user *user)
{
    struct file *file = user_open(user, "file", O_RDWR | O_CREAT);
    expect_equal(file_write(file, data, BYTES, 0, false), 0);
    cluster_stores_restart(user->cluster, ALL, true);
    expect_equal(file_truncate(file, 12345), 0);
    expect_equal(file_sync(file), -E_IO);
    expect_equal(file_close(file), 0);
}

#define CASE(fn) {#fn, fn}
static const struct test_case cases[] = {
    CASE(an_object_that_may_have_lost_bytes_is_not_acknowledged),
    CASE(an_object_survives_restarts),
    CASE(an_object_survives_the_loss_of_some),
    CASE(a_file_is_told_once),
    CASE(writing_on_does_not_hide_it),
    CASE(a_cut_is_not_lost),
    CASE(a_cut_does_not_hide_what_was_not_synced),
};

int main(void)
{
    log_init("power_test");
    log_set_level(LOG_ERROR);
    for (size_t i = 0; i < BYTES; i++)
        data[i] = (uint8_t)(i * 31 + i / 977);
    struct CMUnitTest tests[ARRAY_SIZE(cases)];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    return _cmocka_run_group_tests("power", tests, ARRAY_SIZE(cases), NULL, NULL);
}
