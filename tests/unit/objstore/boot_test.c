/* The volume's file `boot`: what it says, and when a volume suspects its chunks (V5). */
#include "tests/unit/cmocka.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "objstore/volume.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define CLOSED "tarn-boot 1 closed first\n"
#define IN_USE "tarn-boot 1 in-use first\n"
#define FAILED "tarn-boot 1 failed first\n"
#define BYTES 128

struct world {
    struct sim *sim;
    struct sim_host *host;
    struct io *io;
    bool done;
    const char *boot;    /* of the machine now */
    const char *content; /* of the file before; NULL = none */
    bool chunks;         /* the volume holds a chunk already */
    int err;
    bool suspect, suspects_open, suspects_sealed;
    uint64_t life, life_settled;
    char opened[BYTES + 1], settled[BYTES + 1], closed[BYTES + 1];
};

static void put_file(const char *content)
{
    char text[BYTES] = "";
    struct io_file *file;
    if (content == NULL) {
        io_unlink(fiber_io(), "/disk/boot");
        return;
    }
    snprintf(text, sizeof text, "%s", content);
    assert_int_equal(io_open(fiber_io(), "/disk/boot", O_RDWR | O_CREAT | O_TRUNC, 0600, &file), 0);
    assert_int_equal(io_pwrite(file, text, sizeof text, 0), 0);
    io_close(file);
}

static void get_file(char out[BYTES + 1])
{
    struct io_file *file;
    memset(out, 0, BYTES + 1);
    assert_int_equal(io_open(fiber_io(), "/disk/boot", O_RDONLY, 0, &file), 0);
    assert_int_equal(io_pread(file, out, BYTES + 1, 0), BYTES);
    io_close(file);
}

static struct volume *open_volume(struct world *w, const char *boot)
{
    struct volume_options options = {.dir = "/disk", .cluster_id = 1, .journal_bytes = MIB(8), .boot = boot};
    struct volume *volume = NULL;
    const char *why;
    w->err = volume_open(fiber_io(), &options, &volume, &why);
    return w->err == 0 ? volume : NULL;
}

static void make_chunk(struct volume *volume)
{
    struct chunk *chunk;
    struct record record = {.type = RECORD_STATE, .generation = 1};
    assert_int_equal(index_get_or_make(&volume->index, 5, &chunk), 0);
    assert_int_equal(volume_record(volume, chunk, &record, NULL), 0);
    assert_int_equal(journal_commit(volume->journal, record.lsn, true), 0);
    chunk_unref(&volume->index, chunk);
}

static void program(void *arg)
{
    struct world *w = arg;
    struct volume *volume = open_volume(w, "first");
    assert_non_null(volume);
    if (w->chunks)
        make_chunk(volume);
    volume_close(volume);
    put_file(w->content);
    volume = open_volume(w, w->boot);
    assert_non_null(volume);
    struct chunk open = {.flags = 0}, sealed = {.flags = CHUNK_SEALED};
    w->suspect = volume->suspect;
    w->life = volume->life;
    w->suspects_open = volume_suspects(volume, &open);
    w->suspects_sealed = volume_suspects(volume, &sealed);
    if (w->content != NULL || !w->suspect)
        get_file(w->opened);
    assert_int_equal(volume_boot_settled(volume), 0);
    assert_false(volume->suspect);
    w->life_settled = volume->life;
    get_file(w->settled);
    volume_close(volume);
    get_file(w->closed);
    w->done = true;
}

static bool is_done(void *arg)
{
    return ((struct world *)arg)->done;
}

static struct world run(const char *content, const char *boot, bool chunks)
{
    struct world w = {.boot = boot, .content = content, .chunks = chunks};
    w.sim = sim_create(1, NULL);
    w.host = sim_host_create(w.sim, "a");
    assert_int_equal(fiber_spawn(sim_host_io(w.host), "test", program, &w), 0);
    assert_int_equal(sim_run(w.sim, 60000, is_done, &w), SIM_DONE);
    sim_destroy(w.sim);
    return w;
}

static void trusted(const struct world *w)
{
    assert_false(w->suspect);
    assert_false(w->suspects_open);
    assert_string_equal(w->settled, w->opened);
    assert_int_equal(w->life_settled, w->life);
}

/* The file stays as it is until the metadata service has decided: a second crash before must not be trusted. */
static void suspected(const struct world *w, const char *content)
{
    assert_true(w->suspect);
    assert_true(w->suspects_open);
    assert_false(w->suspects_sealed);
    assert_string_equal(w->opened, content);
    assert_true(w->life != 0);
    assert_int_equal(w->life_settled, w->life);
}

static void says(const char *text, const char *state, uint64_t life)
{
    char expected[BYTES];
    snprintf(expected, sizeof expected, "tarn-boot 1 %s %" PRIx64 "\n", state, life);
    assert_string_equal(text, expected);
}

static void a_new_volume_is_in_use_then_closed(void **state)
{
    struct world w = run(NULL, "first", false);
    trusted(&w);
    assert_string_equal(w.opened, IN_USE);
    assert_string_equal(w.closed, CLOSED);
}

static void a_killed_process_on_the_same_boot_is_trusted(void **state)
{
    struct world w = run(IN_USE, "first", true);
    trusted(&w);
}

static void another_boot_without_a_close_is_suspect_until_settled(void **state)
{
    struct world w = run(IN_USE, "second", true);
    suspected(&w, IN_USE);
    says(w.settled, "in-use second", w.life);
    says(w.closed, "closed second", w.life);
}

static void a_life_ends_with_a_loss_of_power_only(void **state)
{
    struct world w = run("tarn-boot 1 in-use first 5f\n", "first", true);
    trusted(&w);
    assert_int_equal(w.life, 0x5f);
    says(w.closed, "closed first", 0x5f);
    w = run("tarn-boot 1 closed first 5f\n", "second", true);
    trusted(&w);
    assert_int_equal(w.life, 0x5f);
    w = run("tarn-boot 1 in-use first 5f\n", "second", true);
    suspected(&w, "tarn-boot 1 in-use first 5f\n");
    assert_true(w.life != 0x5f);
}

static void another_boot_after_a_close_is_trusted(void **state)
{
    struct world w = run(CLOSED, "second", true);
    trusted(&w);
    assert_string_equal(w.opened, "tarn-boot 1 in-use second\n");
}

static void a_failed_disk_is_suspect_on_any_boot(void **state)
{
    struct world w = run(FAILED, "first", true);
    suspected(&w, FAILED);
}

static void garbage_is_suspect(void **state)
{
    static const char *const texts[] = {"", "tarn-boot", "tarn-boot 2 closed first\n", "tarn-boot 1 closed", "\xff\xfe\n"};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct world w = run(texts[i], "first", true);
        suspected(&w, texts[i]);
    }
}

static void chunks_without_the_file_are_suspect(void **state)
{
    struct world w = run(NULL, "first", true);
    assert_true(w.suspect);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_new_volume_is_in_use_then_closed),
        cmocka_unit_test(a_killed_process_on_the_same_boot_is_trusted),
        cmocka_unit_test(another_boot_without_a_close_is_suspect_until_settled),
        cmocka_unit_test(a_life_ends_with_a_loss_of_power_only),
        cmocka_unit_test(another_boot_after_a_close_is_trusted),
        cmocka_unit_test(a_failed_disk_is_suspect_on_any_boot),
        cmocka_unit_test(garbage_is_suspect),
        cmocka_unit_test(chunks_without_the_file_are_suspect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
