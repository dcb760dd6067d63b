/* Bytes behind a file's end, over a real metadata replica and real stores: those of a write that was never told are not
 * seen by anybody, and the cuts that see to it cost no other writer a byte. C23-C25 of docs/invariants.md. */
#include "cluster.h"
#include "harness.h"

#include "common/coll.h"
#include "common/log.h"
#include "ops.h"
#include "tests/unit/cmocka.h"

#include <fcntl.h>

struct test_case {
    const char *name;
    void (*body)(struct cluster *cluster);
};

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    const struct test_case *test_case = arg;
    struct cluster cluster;
    cluster_start(&cluster, io, host, dir);
    test_case->body(&cluster);
    cluster_stop(&cluster);
}

static void run_case(void **state)
{
    harness_sim(1, run_body, *state);
}

/* Two clients that have the file open for writing. */
struct pair {
    struct user a, b;
    struct file *fa, *fb;
};

static void pair_start(struct pair *pair, struct cluster *cluster)
{
    user_start(&pair->a, cluster, 1);
    user_start(&pair->b, cluster, 2);
    pair->fa = user_open(&pair->a, "f", O_RDWR | O_CREAT);
    pair->fb = user_open(&pair->b, "f", O_RDWR);
}

static void expect_byte(struct user *user, uint64_t from, uint64_t to, uint8_t expected)
{
    struct file *file = user_open(user, "f", O_RDONLY);
    uint8_t *got = malloc(to - from);
    expect(got != NULL);
    expect_equal(file_read(file, got, to - from, from), to - from);
    for (uint64_t i = 0; i < to - from; i++)
        if (got[i] != expected) {
            fprintf(stderr, "byte %llu is %02x, not %02x\n", (unsigned long long)(from + i), got[i], expected);
            abort();
        }
    free(got);
    expect_equal(file_close(file), 0);
}

/* As a write whose client dies between the stores' answer and the service's: all members have it, the size is not told. */
static void put_untold(struct user *user, struct file *file, uint64_t offset, size_t n)
{
    Tarn__ChunkWrite request = TARN__CHUNK_WRITE__INIT;
    Tarn__ChunkReply *reply = NULL;
    request.ino = file_ino(file);
    request.offset = offset;
    expect_equal(meta_call(user->meta, OP_CHUNK_WRITE, &request.base, &request.ctx, &meta_root, &tarn__chunk_reply__descriptor,
                           &reply, NULL), 0);
    uint8_t *stale = malloc(n);
    expect(stale != NULL && reply->extent != NULL);
    memset(stale, 's', n);
    expect_equal(stores_write(user->stores, meta_session(user->meta), reply->extent, offset - reply->extent->offset, stale, n,
                              false, NULL), 0);
    free(stale);
    tarn__chunk_reply__free_unpacked(reply, NULL);
}

static void write_byte(struct file *file, uint64_t offset, size_t n, uint8_t byte)
{
    uint8_t *data = malloc(n);
    expect(data != NULL);
    memset(data, byte, n);
    expect_equal(file_write(file, data, n, offset, false), 0);
    free(data);
}

/* Its session still lives: nobody knows that the write will never be told. */
static void an_extension_shows_nothing_of_another_clients_write(struct cluster *cluster)
{
    struct pair pair;
    pair_start(&pair, cluster);
    write_byte(pair.fa, 0, 107557, 'a');
    put_untold(&pair.a, pair.fa, 115741, 63696);
    expect_equal(file_truncate(pair.fb, 112350), 0);
    write_byte(pair.fb, 167796, 5000, 'b');
    expect_byte(&pair.b, 0, 107557, 'a');
    expect_byte(&pair.b, 107557, 167796, 0);
    expect_byte(&pair.b, 167796, 172796, 'b');
    expect_equal(file_extend(pair.fa, 300000), 0);
    expect_byte(&pair.a, 172796, 300000, 0);
    expect_equal(file_close(pair.fa), 0);
    expect_equal(file_close(pair.fb), 0);
    user_stop(&pair.a);
    user_stop(&pair.b);
}

static void a_shorter_file_shows_nothing_of_what_was_behind(struct cluster *cluster)
{
    struct pair pair;
    pair_start(&pair, cluster);
    write_byte(pair.fa, 0, 200000, 'a');
    put_untold(&pair.b, pair.fb, 250000, 1000);
    expect_equal(file_truncate(pair.fa, 100000), 0);
    write_byte(pair.fa, 400000, 10, 'b');
    expect_byte(&pair.b, 0, 100000, 'a');
    expect_byte(&pair.b, 100000, 400000, 0);
    expect_byte(&pair.b, 400000, 400010, 'b');
    write_byte(pair.fb, 50000, 200000, 'c');
    expect_byte(&pair.a, 50000, 250000, 'c');
    expect_byte(&pair.a, 250000, 400000, 0);
    expect_equal(file_close(pair.fa), 0);
    expect_equal(file_close(pair.fb), 0);
    user_stop(&pair.a);
    user_stop(&pair.b);
}

static void what_a_session_left_behind_the_end_goes_with_it(struct cluster *cluster)
{
    struct pair pair;
    pair_start(&pair, cluster);
    write_byte(pair.fb, 0, 1000, 'b');
    put_untold(&pair.a, pair.fa, 50000, 50000);
    Tarn__SessionEnd end = TARN__SESSION_END__INIT; /* what a client says that leaves with files open */
    end.session = meta_session(pair.a.meta);
    end.seal = true;
    expect_equal(meta_call(pair.a.meta, OP_SESSION_END, &end.base, &end.ctx, &meta_root, NULL, NULL, NULL), 0);
    write_byte(pair.fb, 90000, 1000, 'b');
    expect_byte(&pair.b, 0, 1000, 'b');
    expect_byte(&pair.b, 1000, 90000, 0);
    expect_byte(&pair.b, 90000, 91000, 'b');
    expect_equal(file_close(pair.fb), 0);
    (void)file_close(pair.fa); /* its session is gone */
    user_stop(&pair.a);
    user_stop(&pair.b);
}

/* ---- writers behind the end, and somebody whose writes fail all the time */

#define BLOCK 70000
#define BLOCKS 60

struct block_writer {
    struct file *file;
    unsigned first;
    struct fiber_group *group;
};

static void writer_run(void *arg)
{
    struct block_writer *writer = arg;
    for (unsigned i = writer->first; i < BLOCKS; i += 2) { /* each second block, the last first */
        unsigned block = BLOCKS - 1 - i;
        write_byte(writer->file, (uint64_t)block * BLOCK, BLOCK, (uint8_t)(block + 1));
    }
    fiber_group_done(writer->group);
}

static void cut(struct user *user, struct file *file)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = file_ino(file);
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.where = &where;
    request.mask = TARN__SET_ATTR_BITS__SA_CUT_TAIL;
    request.handle = file_handle(file);
    expect_equal(meta_call(user->meta, OP_SETATTR, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
}

static void cuts_beside(struct cluster *cluster, bool fresh)
{
    struct pair pair;
    struct fiber_group group = {0};
    pair_start(&pair, cluster);
    struct file *other = user_open(&pair.a, "f", O_RDWR); /* shares what the client knows with the first handle */
    struct block_writer writers[] = {{pair.fa, 0, &group}, {other, 1, &group}};
    for (unsigned i = 0; i < 2; i++) {
        if (fresh)
            file_keep_fresh(writers[i].file);
        fiber_group_add(&group);
        expect_equal(fiber_spawn(cluster->io, "writer", writer_run, &writers[i]), 0);
    }
    unsigned cuts = 0;
    while (group.running > 0) {
        cut(&pair.b, pair.fb);
        cuts++;
        expect_equal(io_sleep_ms(cluster->io, 2 + io_random_u64(cluster->io) % 14), 0);
    }
    fiber_group_wait(&group);
    expect(cuts > 5);
    for (unsigned block = 0; block < BLOCKS; block++)
        expect_byte(&pair.b, (uint64_t)block * BLOCK, (uint64_t)(block + 1) * BLOCK, (uint8_t)(block + 1));
    expect_equal(file_close(other), 0);
    expect_equal(file_close(pair.fa), 0);
    expect_equal(file_close(pair.fb), 0);
    expect_byte(&pair.a, 0, BLOCK, 1);
    user_stop(&pair.a);
    user_stop(&pair.b);
}

static void cuts_cost_other_writers_nothing(struct cluster *cluster)
{
    cuts_beside(cluster, false);
}

static void cuts_cost_writers_of_fresh_files_nothing(struct cluster *cluster)
{
    cuts_beside(cluster, true);
}

static void cuts_cost_appenders_nothing(struct cluster *cluster)
{
    struct pair pair;
    pair_start(&pair, cluster);
    for (unsigned i = 0; i < BLOCKS; i++) {
        uint8_t data[777];
        memset(data, (int)i + 1, sizeof data);
        if (i % 3 == 0)
            cut(&pair.b, pair.fb);
        expect_equal(file_write(pair.fa, data, sizeof data, 0, true), 0);
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        expect_byte(&pair.b, i * 777ull, (i + 1) * 777ull, (uint8_t)(i + 1));
    expect_equal(file_close(pair.fa), 0);
    expect_equal(file_close(pair.fb), 0);
    user_stop(&pair.a);
    user_stop(&pair.b);
}

static void quota_set(struct cluster *cluster, struct user *user, uint64_t bytes)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__QuotaSet quota = TARN__QUOTA_SET__INIT;
    quota.kind = TARN__QUOTA_KIND__QUOTA_DIR;
    quota.where = &root;
    quota.set_bytes = true;
    quota.bytes = bytes;
    expect_equal(meta_call(user->meta, OP_QUOTA_SET, &quota.base, &quota.ctx, &meta_root, NULL, NULL, NULL), 0);
    for (bool counting = true; counting;) {
        Tarn__QuotaGet get = TARN__QUOTA_GET__INIT;
        Tarn__QuotaReply *reply = NULL;
        get.kind = TARN__QUOTA_KIND__QUOTA_DIR;
        get.where = &root;
        expect_equal(meta_call(user->meta, OP_QUOTA_GET, &get.base, &get.ctx, &meta_root, &tarn__quota_reply__descriptor,
                               &reply, NULL), 0);
        expect_equal(reply->n_quotas, 1);
        counting = reply->quotas[0]->counting;
        tarn__quota_reply__free_unpacked(reply, NULL);
        expect_equal(io_sleep_ms(cluster->io, 20), 0);
    }
}

/* The quota refuses the size after the stores have taken the bytes. */
static void a_write_that_is_refused_leaves_nothing(struct cluster *cluster)
{
    struct pair pair;
    pair_start(&pair, cluster);
    write_byte(pair.fa, 0, 10000, 'a');
    quota_set(cluster, &pair.a, 50000);
    uint8_t *data = malloc(100000);
    expect(data != NULL);
    memset(data, 's', 100000);
    expect_equal(file_write(pair.fa, data, 100000, 20000, false), -E_DQUOT);
    free(data);
    write_byte(pair.fb, 40000, 1000, 'b');
    expect_byte(&pair.b, 10000, 40000, 0);
    expect_byte(&pair.b, 40000, 41000, 'b');
    write_byte(pair.fa, 42000, 1000, 'a');
    expect_byte(&pair.b, 41000, 42000, 0);
    expect_byte(&pair.b, 42000, 43000, 'a');
    expect_equal(file_close(pair.fa), 0);
    expect_equal(file_close(pair.fb), 0);
    user_stop(&pair.a);
    user_stop(&pair.b);
}

#define CASE(fn) {#fn, fn}
static const struct test_case cases[] = {
    CASE(an_extension_shows_nothing_of_another_clients_write),
    CASE(a_shorter_file_shows_nothing_of_what_was_behind),
    CASE(what_a_session_left_behind_the_end_goes_with_it),
    CASE(cuts_cost_other_writers_nothing),
    CASE(cuts_cost_writers_of_fresh_files_nothing),
    CASE(cuts_cost_appenders_nothing),
    CASE(a_write_that_is_refused_leaves_nothing),
};

int main(int argc, char **argv)
{
    log_init("tail_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[16];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("tail", tests, ARRAY_SIZE(cases), NULL, NULL);
}
