/* libtarn's public functions, from plain threads, against a cluster on a thread of its own. */
#include "cluster.h"
#include "client/include/tarn.h"

#include "common/log.h"
#include "tests/unit/cmocka.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

struct fixture {
    char dir[64], config[128];
    struct io *io;
    struct cluster cluster;
    pthread_t thread;
    sem_t up;
    struct fiber_queue stop;
    bool stopping;
    struct tarn *tarn;
};
static struct fixture fixture;

static void cluster_fiber(void *arg)
{
    cluster_start(&fixture.cluster, fixture.io, "127.0.0.1", fixture.dir);
    sem_post(&fixture.up);
    while (!fixture.stopping)
        fiber_queue_wait(&fixture.stop, 0);
    cluster_stop(&fixture.cluster);
    io_stop(fixture.io);
}

static void *cluster_thread(void *arg)
{
    expect_equal(fiber_spawn(fixture.io, "cluster", cluster_fiber, NULL), 0);
    expect_equal(io_run(fixture.io), 0);
    return NULL;
}

static void write_config(const char *path, bool right_key)
{
    FILE *file = fopen(path, "w");
    expect(file != NULL);
    fprintf(file, "cluster_id = 11\nmeta = %s\nkey = ", fixture.cluster.config.meta[0]);
    for (unsigned i = 0; i < 32; i++)
        fprintf(file, "%02x", right_key ? fixture.cluster.config.auth.key[i] : 1);
    fprintf(file, "\n");
    expect_equal(fclose(file), 0);
}

static int up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(fixture.dir, sizeof fixture.dir, "%.40s/tarn-lib-XXXXXX", tmp ? tmp : "/tmp");
    expect(mkdtemp(fixture.dir) != NULL);
    expect_equal(io_uring_create(NULL, &fixture.io), 0);
    sem_init(&fixture.up, 0, 0);
    expect_equal(pthread_create(&fixture.thread, NULL, cluster_thread, NULL), 0);
    sem_wait(&fixture.up);
    snprintf(fixture.config, sizeof fixture.config, "%s/tarn.conf", fixture.dir);
    write_config(fixture.config, true);
    expect_equal(tarn_open(fixture.config, &fixture.tarn), 0);
    return 0;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void stop_posted(void *arg)
{
    fixture.stopping = true;
    fiber_queue_wake_all(&fixture.stop);
}

static int down(void **state)
{
    tarn_close(fixture.tarn);
    expect_equal(io_post(fixture.io, stop_posted, NULL), 0);
    pthread_join(fixture.thread, NULL);
    io_destroy(fixture.io);
    return nftw(fixture.dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static void put(const char *path, const void *data, size_t n)
{
    struct tarn_put *put = NULL;
    assert_int_equal(tarn_put_begin(fixture.tarn, path, 0640, 0, &put), 0);
    assert_int_equal(tarn_put_write(put, data, n), 0);
    assert_int_equal(tarn_put_commit(put), 0);
}

static int count_entry(void *arg, const char *name, const struct stat *st)
{
    ++*(int *)arg;
    return 0;
}

static void expect_entries(const char *path, int expected)
{
    int count = 0;
    assert_int_equal(tarn_list(fixture.tarn, path, count_entry, &count), 0);
    assert_int_equal(count, expected);
}

static void the_tree_can_be_changed_and_listed(void **state)
{
    struct tarn *tarn = fixture.tarn;
    struct stat st;
    assert_int_equal(tarn_mkdir(tarn, "/tree/a/b", 0755, true), 0);
    assert_int_equal(tarn_mkdir(tarn, "/tree/a/b", 0755, true), 0);
    assert_int_equal(tarn_mkdir(tarn, "/tree/a/b", 0755, false), -EEXIST);
    put("/tree/a/object", "hello", 5);
    assert_int_equal(tarn_stat(tarn, "/tree/a/object", &st), 0);
    assert_true(S_ISREG(st.st_mode));
    assert_int_equal(st.st_size, 5);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(tarn_symlink(tarn, "object", "/tree/a/link"), 0);
    expect_entries("/tree/a", 3);
    assert_int_equal(tarn_rename(tarn, "/tree/a/object", "/tree/moved"), 0);
    expect_entries("/tree/a/", 2);
    assert_int_equal(tarn_rmdir(tarn, "/tree/a"), -ENOTEMPTY);
    assert_int_equal(tarn_unlink(tarn, "/tree/a/link"), 0);
    assert_int_equal(tarn_rmdir(tarn, "/tree/a/b"), 0);
    assert_int_equal(tarn_stat(tarn, "/tree/a/object", &st), -ENOENT);
    assert_string_equal(tarn_error(), "cannot stat /tree/a/object: no such file or directory");
}

static void a_file_is_written_and_read(void **state)
{
    struct tarn_file *file = NULL;
    char back[64] = "";
    assert_int_equal(tarn_file_open(fixture.tarn, "/file", O_RDWR | O_CREAT | O_EXCL, 0644, &file), 0);
    assert_int_equal(tarn_pwrite(file, "0123456789", 10, 0), 10);
    assert_int_equal(tarn_pwrite(file, "abc", 3, 4), 3);
    assert_int_equal(tarn_pread(file, back, sizeof back, 2), 8);
    assert_memory_equal(back, "23abc789", 8);
    assert_int_equal(tarn_fsync(file), 0);
    assert_int_equal(tarn_ftruncate(file, 5), 0);
    assert_int_equal(tarn_pread(file, back, sizeof back, 0), 5);
    assert_int_equal(tarn_pread(file, back, sizeof back, 5), 0);
    assert_int_equal(tarn_file_close(file), 0);
    assert_int_equal(tarn_file_open(fixture.tarn, "/file", O_RDWR | O_CREAT | O_EXCL, 0644, &file), -EEXIST);
    assert_int_equal(tarn_file_open(fixture.tarn, "/file", O_WRONLY | O_APPEND, 0, &file), 0);
    assert_int_equal(tarn_pwrite(file, "tail", 4, 0), 4);
    assert_int_equal(tarn_pread(file, back, 1, 0), -EBADF);
    assert_int_equal(tarn_file_close(file), 0);
    assert_int_equal(tarn_file_open(fixture.tarn, "/file", O_RDONLY, 0, &file), 0);
    assert_int_equal(tarn_pread(file, back, sizeof back, 0), 9);
    assert_memory_equal(back, "0123atail", 9);
    assert_int_equal(tarn_pwrite(file, "x", 1, 0), -EBADF);
    assert_int_equal(tarn_file_close(file), 0);
}

#define BIG (MIB(3) + 17)

static void a_sealed_object_reads_the_same_by_all_ways_and_offsets(void **state)
{
    uint8_t *data = malloc(BIG), *back = malloc(BIG);
    assert_true(data && back);
    for (size_t i = 0; i < BIG; i++)
        data[i] = (uint8_t)(i * 11 + i / 70000);
    put("/big", data, BIG);
    struct tarn_file *file = NULL;
    assert_int_equal(tarn_file_open(fixture.tarn, "/big", O_RDONLY, 0, &file), 0);
    for (unsigned round = 0; round < 200; round++) { /* at first from the stores, later by descriptor */
        size_t at = round * 15731 % BIG, n = MIN((size_t)(1 + round * 997 % 300000), BIG - at);
        assert_int_equal(tarn_pread(file, back, n, (off_t)at), n);
        assert_memory_equal(back, data + at, n);
    }
    assert_int_equal(tarn_pread(file, back, BIG, 10), BIG - 10);
    assert_memory_equal(back, data + 10, BIG - 10);
    struct tarn_file *writer = NULL;
    assert_int_equal(tarn_file_open(fixture.tarn, "/big", O_WRONLY, 0, &writer), 0);
    assert_int_equal(tarn_pwrite(writer, "changed", 7, 100), 7);
    assert_int_equal(tarn_pread(file, back, 7, 100), 7); /* not the old descriptor's bytes */
    assert_memory_equal(back, "changed", 7);
    assert_int_equal(tarn_file_close(writer), 0);
    assert_int_equal(tarn_file_close(file), 0);
    free(data);
    free(back);
}

struct reader_thread {
    pthread_t thread;
    struct tarn_file *file;
};

static void *reader_main(void *arg)
{
    struct reader_thread *reader = arg;
    uint8_t back[5000];
    for (unsigned i = 0; i < 300; i++) {
        size_t at = i * 4999 % (MIB(1) - sizeof back);
        expect_equal(tarn_pread(reader->file, back, sizeof back, (off_t)at), sizeof back);
        for (size_t j = 0; j < sizeof back; j++)
            expect_equal(back[j], (uint8_t)((at + j) / 256));
    }
    return NULL;
}

static void threads_share_a_file(void **state)
{
    uint8_t *data = malloc(MIB(1));
    assert_non_null(data);
    for (size_t i = 0; i < MIB(1); i++)
        data[i] = (uint8_t)(i / 256);
    put("/shared", data, MIB(1));
    struct reader_thread readers[4];
    struct tarn_file *file = NULL;
    assert_int_equal(tarn_file_open(fixture.tarn, "/shared", O_RDONLY, 0, &file), 0);
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++) {
        readers[i].file = file;
        assert_int_equal(pthread_create(&readers[i].thread, NULL, reader_main, &readers[i]), 0);
    }
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++)
        pthread_join(readers[i].thread, NULL);
    assert_int_equal(tarn_file_close(file), 0);
    free(data);
}

/* Versions are written one after the other; each block holds one byte repeated. */
struct versions {
    struct tarn_file *file;
    atomic_uint begun, written;
    atomic_bool end;
};

static void *version_reader(void *arg)
{
    struct versions *versions = arg;
    uint8_t back[4096];
    while (!versions->end) {
        unsigned least = versions->written;
        expect_equal(tarn_pread(versions->file, back, sizeof back, 65536), sizeof back);
        unsigned most = versions->begun;
        for (size_t i = 0; i < sizeof back; i++)
            expect(back[i] >= least && back[i] <= most);
    }
    return NULL;
}

static void readers_see_what_was_written_before_they_read(void **state)
{
    enum { VERSIONS = 40 };
    static uint8_t data[MIB(1)];
    struct versions versions = {.end = false};
    pthread_t readers[2];
    put("/versions", data, sizeof data);
    assert_int_equal(tarn_file_open(fixture.tarn, "/versions", O_RDONLY, 0, &versions.file), 0);
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++)
        assert_int_equal(pthread_create(&readers[i], NULL, version_reader, &versions), 0);
    for (unsigned version = 1; version <= VERSIONS; version++) {
        struct tarn_file *writer = NULL;
        memset(data, (int)version, 4096);
        assert_int_equal(tarn_file_open(fixture.tarn, "/versions", O_WRONLY, 0, &writer), 0);
        versions.begun = version;
        assert_int_equal(tarn_pwrite(writer, data, 4096, 65536), 4096);
        versions.written = version;
        assert_int_equal(tarn_file_close(writer), 0);
    }
    versions.end = true;
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(tarn_file_close(versions.file), 0);
}

struct located {
    unsigned files, locations, nodes;
};

static int count_location(void *arg, const char *path, const struct stat *st, const struct tarn_location *location)
{
    struct located *located = arg;
    located->files++;
    if (location) {
        located->locations++;
        located->nodes += location->n_nodes;
    }
    return 0;
}

static void locations_name_the_nodes(void **state)
{
    uint8_t data[10000] = {0};
    put("/where/large", data, sizeof data);
    put("/where/deep/small", data, 10);
    struct located located = {0};
    assert_int_equal(tarn_locate(fixture.tarn, "/where/large", false, count_location, &located), 0);
    assert_int_equal(located.locations, 1);
    assert_int_equal(located.nodes, NODES);
    located = (struct located){0};
    assert_int_equal(tarn_locate(fixture.tarn, "/where", true, count_location, &located), 0);
    assert_int_equal(located.files, 2);
    assert_int_equal(located.locations, 1);
    assert_int_equal(tarn_locate(fixture.tarn, "/nowhere", false, count_location, &located), -ENOENT);
}

static void an_aborted_put_leaves_nothing(void **state)
{
    struct tarn_put *put = NULL;
    static uint8_t data[3 << 20];
    struct stat st;
    assert_int_equal(tarn_put_begin(fixture.tarn, "/aborted", 0, 0, &put), 0);
    assert_int_equal(tarn_put_write(put, data, sizeof data), 0);
    tarn_put_abort(put);
    assert_int_equal(tarn_stat(fixture.tarn, "/aborted", &st), -ENOENT);
}

static void a_wrong_key_and_a_missing_configuration_are_told(void **state)
{
    char path[160];
    struct tarn *tarn = NULL;
    snprintf(path, sizeof path, "%s/wrong.conf", fixture.dir);
    write_config(path, false);
    assert_int_equal(tarn_open(path, &tarn), -EACCES);
    assert_non_null(strstr(tarn_error(), "reach the cluster at tcp:"));
    snprintf(path, sizeof path, "%s/none.conf", fixture.dir);
    assert_int_equal(tarn_open(path, &tarn), -ENOENT);
    assert_non_null(strstr(tarn_error(), "none.conf"));
    assert_null(tarn);
}

int main(int argc, char **argv)
{
    log_init("tarn_test");
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tree_can_be_changed_and_listed),
        cmocka_unit_test(a_file_is_written_and_read),
        cmocka_unit_test(a_sealed_object_reads_the_same_by_all_ways_and_offsets),
        cmocka_unit_test(threads_share_a_file),
        cmocka_unit_test(readers_see_what_was_written_before_they_read),
        cmocka_unit_test(locations_name_the_nodes),
        cmocka_unit_test(an_aborted_put_leaves_nothing),
        cmocka_unit_test(a_wrong_key_and_a_missing_configuration_are_told),
    };
    if (argc > 1) /* one test, by name */
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("tarn", tests, up, down);
}
