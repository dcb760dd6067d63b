/* Files and objects over a real metadata replica and real stores. */
#include "cluster.h"
#include "harness.h"

#include "common/log.h"
#include "common/prng.h"
#include "ops.h"
#include "tests/unit/cmocka.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

struct test_case {
    const char *name;
    void (*body)(struct cluster *cluster);
    bool descriptors; /* which the simulator does not have */
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
    const struct test_case *test_case = *state;
    if (test_case->descriptors)
        harness_ring(run_body, test_case);
    else
        harness_sim(1, run_body, test_case);
}

static uint8_t *pattern(size_t n, unsigned seed)
{
    uint8_t *data = malloc(n ? n : 1);
    expect(data != NULL);
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)(i * 7 + i / 4096 * 13 + seed);
    return data;
}

static void expect_same(const uint8_t *got, const uint8_t *expected, size_t n, uint64_t offset)
{
    for (size_t i = 0; i < n; i++)
        if (got[i] != expected[i]) {
            fprintf(stderr, "byte %zu of %zu at %llu: %02x, not %02x\n", i, n, (unsigned long long)offset,
                    got[i], expected[i]);
            abort();
        }
}

static void expect_content(struct file *file, uint64_t offset, const uint8_t *data, size_t n)
{
    uint8_t *back = malloc(n + 1);
    expect(back != NULL);
    expect_equal(file_read(file, back, n, offset), n);
    expect_same(back, data, n, offset);
    free(back);
}

static void objects_of_all_sizes_come_back(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 0);
    static const size_t sizes[] = {0, 1, 4096, 4097, 65536, 1000000, 1048576, 5000001};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        uint8_t *data = pattern(sizes[i], (unsigned)i);
        user_put(&user, "bucket/object", data, sizes[i]);
        struct file *file = user_open(&user, "bucket/object", O_RDONLY);
        expect_content(file, 0, data, sizes[i]);
        uint8_t byte;
        expect_equal(file_read(file, &byte, 1, sizes[i]), 0);
        expect_equal(file_close(file), 0);
        free(data);
    }
    user_stop(&user);
}

static void an_object_of_two_chunks_comes_back(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 2);
    size_t n = MIB(65) + 77;
    uint8_t *data = pattern(n, 3);
    user_put(&user, "big", data, n);
    struct file *file = user_open(&user, "big", O_RDONLY);
    expect_content(file, 0, data, n);
    expect_content(file, MIB(64) - 5, data + MIB(64) - 5, 10);
    expect_equal(file_close(file), 0);
    expect_equal(stores_counters(user.stores)->read_remote, 0);
    free(data);
    user_stop(&user);
}

static void a_sealed_object_is_read_by_descriptor(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 0);
    size_t n = MIB(2) + 5;
    uint8_t *data = pattern(n, 9);
    user_put(&user, "object", data, n);
    struct file *file = user_open(&user, "object", O_RDONLY);
    int fd = -1, r;
    uint64_t chunk = 0;
    while ((r = file_raw_fd(file, &fd, &chunk)) == -E_NOTSUP) /* until the stores have sealed it */
        expect_equal(io_sleep_ms(cluster->io, 20), 0);
    expect_equal(r, 0);
    uint8_t *back = malloc(n);
    expect(back != NULL);
    expect_equal(pread(fd, back, n, 0), n);
    expect(memcmp(back, data, n) == 0);
    struct stat st;
    expect_equal(fstat(fd, &st), 0);
    expect_equal(st.st_size, n);
    expect(write(fd, "x", 1) < 0);
    close(fd);
    uint64_t before = stores_counters(user.stores)->read_fd;
    expect_content(file, 10, data + 10, n - 10);
    expect_equal(stores_counters(user.stores)->read_fd - before, n - 10);
    expect_equal(file_close(file), 0);
    free(back);
    free(data);
    user_stop(&user);
}

/* ------------------------------------------------------------------ files */

static void a_file_is_written_read_and_written_again(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 1);
    uint8_t *data = pattern(MIB(3), 1);
    struct file *file = user_open(&user, "file", O_RDWR | O_CREAT);
    expect_equal(file_write(file, data, MIB(3), 0, false), 0);
    expect_content(file, 0, data, MIB(3));
    expect_equal(file_sync(file), 0);
    expect_equal(file_close(file), 0);
    for (unsigned round = 0; round < 3; round++) { /* each time the chunk was sealed before */
        file = user_open(&user, "file", O_RDWR);
        memset(data + 1000 * round, 0xee, 500);
        expect_equal(file_write(file, data + 1000 * round, 500, 1000 * round, false), 0);
        expect_content(file, 0, data, MIB(3));
        expect_equal(file_close(file), 0);
    }
    free(data);
    user_stop(&user);
}

static void holes_read_as_zeros(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 0);
    static uint8_t zeros[100000];
    struct file *file = user_open(&user, "sparse", O_RDWR | O_CREAT);
    expect_equal(file_write(file, "end", 3, MIB(200), false), 0);
    expect_content(file, 0, zeros, sizeof zeros);
    expect_content(file, MIB(200) - sizeof zeros, zeros, sizeof zeros);
    expect_content(file, MIB(200), (const uint8_t *)"end", 3);
    expect_equal(file_close(file), 0);
    file = user_open(&user, "sparse", O_RDONLY);
    expect_content(file, MIB(200) - 10, zeros, 10);
    expect_content(file, MIB(200), (const uint8_t *)"end", 3);
    expect_equal(file_close(file), 0);
    user_stop(&user);
}

static void inline_bytes_move_to_a_chunk_when_written(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 0);
    uint8_t *data = pattern(3000, 4);
    user_put(&user, "small", data, 3000);
    struct file *file = user_open(&user, "small", O_RDWR);
    memcpy(data + 100, "changed", 7);
    expect_equal(file_write(file, "changed", 7, 100, false), 0);
    expect_content(file, 0, data, 3000);
    expect_equal(file_close(file), 0);
    file = user_open(&user, "small", O_RDONLY);
    expect_content(file, 0, data, 3000);
    expect_equal(file_close(file), 0);
    free(data);
    user_stop(&user);
}

static void two_clients_see_each_others_writes(struct cluster *cluster)
{
    struct user a, b;
    user_start(&a, cluster, 1);
    user_start(&b, cluster, 2);
    struct file *fa = user_open(&a, "shared", O_RDWR | O_CREAT);
    struct file *fb = user_open(&b, "shared", O_RDWR);
    for (unsigned i = 0; i < 20; i++) {
        uint8_t *data = pattern(5000, i);
        uint64_t offset = i * 3000;
        expect_equal(file_write(i % 2 ? fa : fb, data, 5000, offset, false), 0);
        expect_content(fa, offset, data, 5000);
        expect_content(fb, offset, data, 5000);
        free(data);
    }
    expect_equal(file_truncate(fa, 10), 0);
    Tarn__Attr *attr = NULL;
    expect_equal(file_attr(fb, &attr), 0);
    expect_equal(attr->size, 10);
    tarn__attr__free_unpacked(attr, NULL);
    expect_equal(file_close(fa), 0);
    expect_equal(file_close(fb), 0);
    user_stop(&a);
    user_stop(&b);
}

struct appender {
    struct file *file;
    uint8_t mark;
    struct fiber_group *group;
};
#define APPENDS 20
#define APPEND_BYTES 100

static void appender_run(void *arg)
{
    struct appender *appender = arg;
    uint8_t line[APPEND_BYTES];
    memset(line, appender->mark, sizeof line);
    for (unsigned i = 0; i < APPENDS; i++)
        expect_equal(file_write(appender->file, line, sizeof line, 0, true), 0);
    fiber_group_done(appender->group);
}

static void appends_of_many_clients_do_not_overlap(struct cluster *cluster)
{
    struct user users[4];
    struct appender appenders[4];
    struct fiber_group group = {0};
    for (unsigned i = 0; i < 4; i++) {
        user_start(&users[i], cluster, 0);
        struct file *file = user_open(&users[i], "log", O_RDWR | O_CREAT | O_APPEND);
        appenders[i] = (struct appender){file, (uint8_t)('a' + i), &group};
        fiber_group_add(&group);
        expect_equal(fiber_spawn(cluster->io, "appender", appender_run, &appenders[i]), 0);
    }
    fiber_group_wait(&group);
    static uint8_t all[4 * APPENDS * APPEND_BYTES + 1];
    expect_equal(file_read(appenders[0].file, all, sizeof all, 0), sizeof all - 1);
    unsigned count[4] = {0};
    for (unsigned i = 0; i < 4 * APPENDS; i++) {
        const uint8_t *line = all + i * APPEND_BYTES;
        expect(line[0] >= 'a' && line[0] < 'e');
        count[line[0] - 'a']++;
        for (unsigned j = 1; j < APPEND_BYTES; j++)
            expect_equal(line[j], line[0]);
    }
    for (unsigned i = 0; i < 4; i++) {
        expect_equal(count[i], APPENDS);
        expect_equal(file_close(appenders[i].file), 0);
        user_stop(&users[i]);
    }
}

static size_t copies_of(struct user *user, struct file *file)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = file_ino(file);
    Tarn__FileMap request = TARN__FILE_MAP__INIT;
    request.where = &where;
    Tarn__FileMapReply *reply = NULL;
    expect_equal(meta_call(user->meta, OP_FILE_MAP, &request.base, &request.ctx, &meta_root,
                           &tarn__file_map_reply__descriptor, &reply, NULL), 0);
    expect_equal(reply->n_extents, 1);
    size_t n = reply->extents[0]->n_replicas;
    tarn__file_map_reply__free_unpacked(reply, NULL);
    return n;
}

/* ------------------------------------------------------------------ against a model */

#define MODEL_BYTES 300000

struct model {
    uint8_t data[MODEL_BYTES];
    size_t size;
};

static void model_write(struct model *model, struct file *file, struct prng *prng, bool append)
{
    static uint8_t data[50000];
    size_t n = 1 + prng_below(prng, sizeof data - 1);
    size_t at = append ? model->size : prng_below(prng, MODEL_BYTES - n);
    if (at + n > MODEL_BYTES)
        return;
    for (size_t i = 0; i < n; i++)
        data[i] = (uint8_t)prng_u64(prng);
    if (getenv("DBG")) fprintf(stderr, "write %zu +%zu %d\n", at, n, append);
    expect_equal(file_write(file, data, n, at, append), 0);
    memcpy(model->data + at, data, n);
    model->size = MAX(model->size, at + n);
}

static void model_truncate(struct model *model, struct file *file, struct prng *prng)
{
    size_t size = prng_below(prng, MODEL_BYTES);
    if (getenv("DBG")) fprintf(stderr, "truncate %zu\n", size);
    expect_equal(file_truncate(file, size), 0);
    if (size < model->size)
        memset(model->data + size, 0, MODEL_BYTES - size);
    model->size = size;
}

static void model_compare(const struct model *model, struct file *file, struct prng *prng)
{
    size_t at = prng_below(prng, MODEL_BYTES);
    size_t n = 1 + prng_below(prng, MODEL_BYTES);
    static uint8_t back[MODEL_BYTES + 1];
    size_t expected = at < model->size ? MIN(n, model->size - at) : 0;
    expect_equal(file_read(file, back, n, at), expected);
    expect_same(back, model->data + at, expected, at);
}

static void random_changes_give_what_a_model_gives(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 0);
    static struct model model;
    model = (struct model){0};
    struct prng prng = prng_init(42);
    struct file *file = user_open(&user, "random", O_RDWR | O_CREAT);
    for (unsigned step = 0; step < 300; step++) {
        if (getenv("DBG")) fprintf(stderr, "step %u size %zu\n", step, model.size);
        switch (prng_below(&prng, 8)) {
        case 0:
        case 1:
        case 2:
            model_write(&model, file, &prng, false);
            break;
        case 3:
            model_write(&model, file, &prng, true);
            break;
        case 4:
            model_truncate(&model, file, &prng);
            break;
        case 5:
            expect_equal(file_sync(file), 0);
            break;
        case 6:
            expect_equal(file_close(file), 0);
            file = user_open(&user, "random", O_RDWR);
            break;
        default:
            break;
        }
        model_compare(&model, file, &prng);
    }
    expect_equal(file_close(file), 0);
    user_stop(&user);
}

/* Zeros that nobody wrote, in front of and behind what was: sealing must not cost a copy. */
/* Two clients take turns; sides close now and then and open again for reading or for both, so that chunks are
 * sealed under the other, and read leases come and go. */
struct pair {
    struct user users[2];
    struct file *files[2];
    bool writes[2];
    uint8_t *model;
    uint64_t size;
};
#define PAIR_BYTES KIB(200)

static void pair_open(struct pair *pair, unsigned side, bool writes)
{
    if (pair->files[side])
        expect_equal(file_close(pair->files[side]), 0);
    pair->files[side] = user_open(&pair->users[side], "b/pair", writes ? O_RDWR : O_RDONLY);
    pair->writes[side] = writes;
    file_keep_fresh(pair->files[side]);
}

static void pair_change(struct pair *pair, struct prng *prng, unsigned side)
{
    uint64_t offset = prng_below(prng, PAIR_BYTES), n = 1 + prng_below(prng, PAIR_BYTES - offset);
    if (prng_below(prng, 4) == 0) {
        expect_equal(file_truncate(pair->files[side], offset), 0);
        if (offset < pair->size)
            memset(pair->model + offset, 0, pair->size - offset);
        pair->size = offset;
        return;
    }
    if (prng_below(prng, 2))
        n = 1 + n % 5000;
    for (uint64_t i = 0; i < n; i++)
        pair->model[offset + i] = (uint8_t)prng_below(prng, 256);
    expect_equal(file_write(pair->files[side], pair->model + offset, n, offset, false), 0);
    pair->size = MAX(pair->size, offset + n);
}

static void a_file_kept_fresh_shows_every_finished_write(struct cluster *cluster)
{
    struct pair pair = {.model = calloc(1, PAIR_BYTES), .size = 3000};
    struct prng prng = prng_init(42);
    memset(pair.model, 'i', 3000);
    user_start(&pair.users[0], cluster, 1);
    user_start(&pair.users[1], cluster, 2);
    user_put(&pair.users[0], "b/pair", pair.model, 3000);
    for (unsigned round = 0; round < 400; round++) {
        unsigned side = (unsigned)prng_below(&prng, 2);
        for (unsigned i = 0; i < 2; i++)
            if (!pair.files[i] || prng_below(&prng, 5) == 0)
                pair_open(&pair, i, false);
        if (!pair.writes[side])
            pair_open(&pair, side, true);
        pair_change(&pair, &prng, side);
        for (unsigned i = 0; i < 2; i++)
            if (prng_below(&prng, 2))
                pair_open(&pair, i, false);
        uint8_t byte;
        expect_equal(file_read(pair.files[!side], &byte, 1, pair.size), 0);
        expect_content(pair.files[!side], 0, pair.model, pair.size);
        expect_content(pair.files[side], 0, pair.model, pair.size);
    }
    for (unsigned i = 0; i < 2; i++) {
        expect_equal(file_close(pair.files[i]), 0);
        user_stop(&pair.users[i]);
    }
    free(pair.model);
}

static void a_sparse_chunk_keeps_its_copies_when_sealed(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 0);
    uint8_t *data = calloc(1, MIB(1));
    expect(data != NULL);
    memcpy(data + 500000, "middle", 6);
    struct file *file = user_open(&user, "file", O_RDWR | O_CREAT);
    expect_equal(file_write(file, "middle", 6, 500000, false), 0);
    expect_equal(file_truncate(file, MIB(1)), 0);
    expect_equal(file_close(file), 0);
    file = user_open(&user, "file", O_RDONLY);
    int fd = -1, r;
    uint64_t chunk = 0;
    while ((r = file_raw_fd(file, &fd, &chunk)) == -E_NOTSUP)
        expect_equal(io_sleep_ms(cluster->io, 20), 0);
    expect_equal(r, 0);
    struct stat st;
    expect_equal(fstat(fd, &st), 0);
    expect_equal(st.st_size, MIB(1));
    close(fd);
    expect_content(file, 0, data, MIB(1));
    expect_equal(copies_of(&user, file), NODES);
    expect_equal(file_close(file), 0);
    free(data);
    user_stop(&user);
}

static void writes_go_on_when_a_store_stops(struct cluster *cluster)
{
    struct user user;
    user_start(&user, cluster, 0);
    uint8_t *data = pattern(MIB(4), 6);
    struct file *file = user_open(&user, "file", O_RDWR | O_CREAT);
    expect_equal(file_write(file, data, MIB(2), 0, false), 0);
    cluster_store_stop(cluster, 1);
    expect_equal(file_write(file, data + MIB(2), MIB(2), MIB(2), false), 0);
    expect_equal(file_sync(file), 0);
    expect_content(file, 0, data, MIB(4));
    cluster_store_stop(cluster, 0);
    expect_content(file, 0, data, MIB(4));
    expect_equal(file_close(file), 0);
    free(data);
    user_stop(&user);
}

#define CASE(fn) {#fn, fn, false}
static const struct test_case cases[] = {
    CASE(objects_of_all_sizes_come_back),
    CASE(an_object_of_two_chunks_comes_back),
    {"a_sealed_object_is_read_by_descriptor", a_sealed_object_is_read_by_descriptor, true},
    CASE(a_file_is_written_read_and_written_again),
    CASE(holes_read_as_zeros),
    CASE(inline_bytes_move_to_a_chunk_when_written),
    CASE(two_clients_see_each_others_writes),
    CASE(appends_of_many_clients_do_not_overlap),
    CASE(a_file_kept_fresh_shows_every_finished_write),
    CASE(random_changes_give_what_a_model_gives),
    {"a_sparse_chunk_keeps_its_copies_when_sealed", a_sparse_chunk_keeps_its_copies_when_sealed, true},
    CASE(writes_go_on_when_a_store_stops),
};

int main(int argc, char **argv)
{
    log_init("file_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[64];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return _cmocka_run_group_tests("file", tests, ARRAY_SIZE(cases), NULL, NULL);
}
