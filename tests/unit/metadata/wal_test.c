/* The log: formats, recovery from every cut and every flipped bit, power loss in the simulator. */
#include "tests/unit/cmocka.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "golden.h"
#include "metadata/snapshot.h"
#include "metadata/wal.h"
#include "metadata/wal_format.h"
#include <fcntl.h>
#include <stdio.h>

#define SEGMENT KIB(64)
#define ENTRIES_MAX 4096

static const char *golden_path;

/* ---- a body in a fiber of one simulated host ---- */
struct run {
    struct sim *sim;
    struct sim_host *host;
    struct io *io;
    void (*body)(struct run *run);
    bool done;
    void *arg;
};

static void run_fiber(void *arg)
{
    struct run *run = arg;
    run->body(run);
    run->done = true;
}

static bool run_done(void *arg)
{
    return ((struct run *)arg)->done;
}

static void run_body(struct run *run, void (*body)(struct run *run))
{
    run->body = body;
    run->done = false;
    run->io = sim_host_io(run->host);
    assert_int_equal(fiber_spawn(run->io, "body", run_fiber, run), 0);
    assert_int_equal(sim_run(run->sim, 60 * 60 * 1000, run_done, run), SIM_DONE);
}

static void run_alone(void (*body)(struct run *run))
{
    struct run run = {.sim = sim_create(1, NULL)};
    run.host = sim_host_create(run.sim, "a");
    run_body(&run, body);
    sim_destroy(run.sim);
}

static struct wal *open_wal(struct io *io)
{
    struct wal_options options = {.dir = "/log", .segment_bytes = SEGMENT, .cache_bytes = KIB(16)};
    struct wal *wal = NULL;
    int err = wal_open(io, &options, &wal);
    return err == 0 ? wal : NULL;
}

/* ---- entries that say who they are ---- */
static size_t entry_make(uint64_t index, uint64_t term, uint8_t *out)
{
    size_t len = index * 37 % 700;
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(index * 31 + term * 7 + i);
    return len;
}

static void put(struct wal *wal, uint64_t index, uint64_t term)
{
    uint8_t data[1024];
    size_t len = entry_make(index, term, data);
    assert_int_equal(wal_put(wal, index, term, 1, data, len), 0);
}

static void flush(struct wal *wal)
{
    uint64_t durable = 0;
    assert_int_equal(wal_flush(wal, &durable), 0);
    assert_false(wal_dirty(wal));
}

static void assert_entry(struct wal *wal, uint64_t index, uint64_t term)
{
    uint8_t data[1024];
    size_t len = entry_make(index, term, data);
    assert_int_equal(wal_term_of(wal, index), term);
    _cleanup_(writer_fini) struct writer out = {0};
    int err = wal_read(wal, index, &out);
    if (err == -E_CANCELED)
        return; /* the host crashed meanwhile */
    assert_int_equal(err, 0);
    assert_int_equal(out.len, len);
    if (len > 0)
        assert_memory_equal(out.data, data, len);
}

static void assert_range(struct wal *wal, uint64_t first, uint64_t last, uint64_t term)
{
    for (uint64_t i = first; i <= last; i++)
        assert_entry(wal, i, term);
}

/* ---- sentences ---- */
static void survive_reopen(struct run *run)
{
    struct wal *wal = open_wal(run->io);
    assert_int_equal(wal_last(wal), 0);
    assert_int_equal(wal_set_vote(wal, 7, 2), 0);
    for (uint64_t i = 1; i <= 1000; i++) {
        put(wal, i, 3);
        if (i % 7 == 0)
            flush(wal);
    }
    flush(wal);
    wal_close(wal);
    wal = open_wal(run->io);
    assert_int_equal(wal_first(wal), 1);
    assert_int_equal(wal_last(wal), 1000);
    assert_int_equal(wal_current_term(wal), 7);
    assert_int_equal(wal_voted_for(wal), 2);
    assert_range(wal, 1, 1000, 3);
    wal_close(wal);
}

static void entries_vote_and_order_survive_a_restart(void **state)
{
    run_alone(survive_reopen);
}

static void replace_suffix(struct run *run)
{
    struct wal *wal = open_wal(run->io);
    for (uint64_t i = 1; i <= 100; i++)
        put(wal, i, 1);
    flush(wal);
    put(wal, 51, 2);
    put(wal, 52, 2);
    assert_int_equal(wal_last(wal), 52);
    flush(wal);
    wal_close(wal);
    wal = open_wal(run->io);
    assert_int_equal(wal_last(wal), 52);
    assert_range(wal, 1, 50, 1);
    assert_range(wal, 51, 52, 2);
    assert_int_equal(wal_put(wal, 54, 2, 1, "", 0), -E_INVAL);
    wal_close(wal);
}

static void a_conflicting_suffix_is_replaced(void **state)
{
    run_alone(replace_suffix);
}

static void trim_and_reset(struct run *run)
{
    struct wal *wal = open_wal(run->io);
    for (uint64_t i = 1; i <= 2000; i++) {
        put(wal, i, 1);
        flush(wal);
    }
    uint64_t before = wal_bytes(wal);
    assert_int_equal(wal_trim(wal, 1900), 0);
    assert_true(wal_bytes(wal) < before / 4);
    assert_int_equal(wal_first(wal), 1900);
    assert_range(wal, 1900, 2000, 1);
    wal_close(wal);
    wal = open_wal(run->io);
    assert_true(wal_first(wal) <= 1900 && wal_first(wal) > 1);
    assert_int_equal(wal_last(wal), 2000);
    assert_int_equal(wal_reset(wal, 5000), 0);
    assert_int_equal(wal_first(wal), 5000);
    assert_int_equal(wal_last(wal), 4999);
    put(wal, 5000, 4);
    flush(wal);
    wal_close(wal);
    wal = open_wal(run->io);
    assert_int_equal(wal_first(wal), 5000);
    assert_range(wal, 5000, 5000, 4);
    wal_close(wal);
}

static void old_segments_go_and_a_reset_begins_anew(void **state)
{
    run_alone(trim_and_reset);
}

static void full_disk(struct run *run)
{
    struct wal *wal = open_wal(run->io);
    put(wal, 1, 1);
    flush(wal);
    sim_disk_limit(run->host, sim_disk_used(run->host));
    uint64_t durable, at = 2;
    int err = 0;
    for (; err == 0 && at < 2000; at++) {
        put(wal, at, 1);
        err = wal_flush(wal, &durable);
    }
    assert_int_equal(err, -E_NOSPC);
    assert_true(wal_dirty(wal) && !wal_broken(wal));
    sim_disk_limit(run->host, GIB(1));
    flush(wal);
    wal_close(wal);
    wal = open_wal(run->io);
    assert_int_equal(wal_last(wal), at - 1);
    assert_range(wal, 1, at - 1, 1);
    wal_close(wal);
}

static void a_full_disk_is_an_error_that_passes(void **state)
{
    run_alone(full_disk);
}

static void failed_write(struct run *run)
{
    struct wal *wal = open_wal(run->io);
    put(wal, 1, 1);
    flush(wal);
    put(wal, 2, 1);
    sim_disk_fail(run->host, 1, 1, -E_IO);
    uint64_t durable;
    assert_int_equal(wal_flush(wal, &durable), -E_IO);
    assert_true(wal_broken(wal));
    assert_int_equal(wal_flush(wal, &durable), -E_IO);
    wal_close(wal);
    wal = open_wal(run->io);
    assert_true(wal_last(wal) == 1 || wal_last(wal) == 2);
    wal_close(wal);
}

static void after_a_failed_write_only_a_restart_helps(void **state)
{
    run_alone(failed_write);
}

/* ---- damage ---- */
#define CUT_ENTRIES 12

static const char last_segment[] = "/log/segment-0000000000000001.log";

static void make_small(struct run *run)
{
    struct wal *wal = open_wal(run->io);
    for (uint64_t i = 1; i <= CUT_ENTRIES; i++) {
        put(wal, i, 1);
        flush(wal);
    }
    wal_close(wal);
}

struct damage {
    uint64_t from; /* zero from here to the end, as if never written */
    uint64_t last; /* recovered */
    bool opened;
};

static void zero_tail(struct run *run)
{
    struct damage *damage = run->arg;
    struct io_file *file;
    assert_int_equal(io_open(run->io, last_segment, O_RDWR, 0, &file), 0);
    uint8_t *zeros = calloc(1, SEGMENT);
    assert_int_equal(io_pwrite(file, zeros, SEGMENT - damage->from, damage->from), 0);
    io_close(file);
    free(zeros);
    struct wal *wal = open_wal(run->io);
    damage->opened = wal != NULL;
    if (wal == NULL)
        return;
    damage->last = wal_last(wal);
    assert_range(wal, 1, damage->last, 1);
    put(wal, damage->last + 1, 2); /* and it goes on */
    flush(wal);
    wal_close(wal);
}

static void every_cut_of_the_last_segment_leaves_a_prefix(void **state)
{
    uint64_t before = CUT_ENTRIES;
    for (uint64_t from = SEGMENT - 512; from >= WAL_BLOCK; from -= 512) {
        struct damage damage = {.from = from};
        struct run run = {.sim = sim_create(from, NULL), .arg = &damage};
        run.host = sim_host_create(run.sim, "a");
        run_body(&run, make_small);
        run_body(&run, zero_tail);
        sim_destroy(run.sim);
        assert_true(damage.opened);
        assert_true(damage.last <= before);
        before = damage.last;
    }
    assert_int_equal(before, 0);
}

static void try_open(struct run *run)
{
    struct damage *damage = run->arg;
    struct wal *wal = open_wal(run->io);
    damage->opened = wal != NULL;
    damage->last = wal != NULL ? wal_last(wal) : 0;
    if (wal != NULL)
        assert_range(wal, 1, damage->last, 1);
    wal_close(wal);
}

static uint64_t last_group_at(void)
{
    return WAL_BLOCK + (CUT_ENTRIES - 1) * WAL_BLOCK;
}

/* One bit in the bytes that mean something. Before the last group it must be noticed; in the last
 * group it may look like a torn write. Never is a wrong entry given. */
static void every_flipped_bit_is_noticed(void **state)
{
    for (unsigned round = 0; round < 400; round++) {
        struct damage damage = {0};
        struct run run = {.sim = sim_create(round + 1, NULL), .arg = &damage};
        run.host = sim_host_create(run.sim, "a");
        run_body(&run, make_small);
        uint64_t block = round % (CUT_ENTRIES + 1), at = block * WAL_BLOCK;
        uint64_t limit = block == 0 ? 44 : WAL_GROUP_HEADER + wal_entry_bytes(block * 37 % 700);
        uint64_t offset = at + sim_random_u64(run.sim) % limit;
        assert_int_equal(sim_disk_corrupt(run.host, last_segment, offset), 0);
        run_body(&run, try_open);
        sim_destroy(run.sim);
        if (offset < last_group_at())
            assert_false(damage.opened);
        else
            assert_true(!damage.opened || damage.last >= CUT_ENTRIES - 1);
    }
}

static void damage_vote(struct run *run)
{
    struct wal *wal = open_wal(run->io);
    assert_int_equal(wal_set_vote(wal, 9, 3), 0);
    wal_close(wal);
    assert_int_equal(sim_disk_corrupt(run->host, "/log/vote", 20), 0);
    wal = open_wal(run->io);
    assert_int_equal(wal_current_term(wal), 9);
    assert_int_equal(wal_voted_for(wal), 3);
    wal_close(wal);
    assert_int_equal(sim_disk_corrupt(run->host, "/log/vote", WAL_BLOCK + 20), 0);
    assert_null(open_wal(run->io));
}

static void one_damaged_vote_is_survived_and_two_are_refused(void **state)
{
    run_alone(damage_vote);
}

/* ---- power loss ---- */
struct model {
    uint64_t first, last;
    uint64_t term[ENTRIES_MAX];
};

struct storm {
    struct model memory, durable, flight;
    bool in_flight, vote_in_flight;
    uint64_t flight_from;
    uint64_t vote_term, vote_for, next_vote_term;
    uint64_t term;
    struct sim *sim;
};

static bool is_prefix(const struct wal *wal, const struct model *model)
{
    for (uint64_t i = wal_first(wal); i <= wal_last(wal); i++)
        if (i > model->last || wal_term_of(wal, i) != model->term[i])
            return false;
    return true;
}

/* What is found after a crash: what was durable, or a part of what was being written at the end. */
static void check_recovered(struct storm *storm, struct wal *wal)
{
    bool was = wal_last(wal) == storm->durable.last && is_prefix(wal, &storm->durable);
    bool part = storm->in_flight && wal_last(wal) >= storm->flight_from &&
                is_prefix(wal, &storm->flight);
    assert_true(was || part);
    assert_true(wal_first(wal) <= storm->memory.first || wal_last(wal) + 1 == wal_first(wal));
    assert_true(wal_current_term(wal) == storm->vote_term ||
                (storm->vote_in_flight && wal_current_term(wal) == storm->next_vote_term));
    storm->vote_term = wal_current_term(wal);
    storm->vote_in_flight = storm->in_flight = false;
    struct model *memory = &storm->memory;
    memory->first = wal_first(wal);
    memory->last = wal_last(wal);
    for (uint64_t i = memory->first; i <= memory->last; i++) {
        memory->term[i] = wal_term_of(wal, i);
        assert_entry(wal, i, memory->term[i]);
    }
    storm->durable = *memory;
}

static int storm_vote(struct storm *storm, struct wal *wal)
{
    storm->next_vote_term = storm->vote_term + 1;
    storm->vote_in_flight = true;
    int err = wal_set_vote(wal, storm->next_vote_term, 1);
    if (err == 0) {
        storm->vote_term = storm->next_vote_term;
        storm->vote_in_flight = false;
    }
    return err;
}

static int storm_write(struct storm *storm, struct wal *wal)
{
    struct model *memory = &storm->memory;
    uint64_t from = memory->last + 1, chance = sim_random_u64(storm->sim);
    if (chance % 8 == 0 && memory->last > memory->first) {
        from = memory->first + chance / 8 % (memory->last - memory->first);
        storm->term++;
    }
    uint64_t n = 1 + chance / 1024 % 40;
    if (from + n >= ENTRIES_MAX)
        return -E_CANCELED;
    storm->flight_from = from;
    for (uint64_t i = from; i < from + n; i++) {
        put(wal, i, storm->term);
        memory->term[i] = storm->term;
    }
    memory->last = from + n - 1;
    storm->flight = *memory;
    storm->in_flight = true;
    uint64_t durable = 0;
    int err = wal_flush(wal, &durable);
    if (err != 0)
        return err;
    assert_int_equal(durable, memory->last);
    storm->durable = *memory;
    storm->in_flight = false;
    return 0;
}

static void storm_body(struct run *run)
{
    struct storm *storm = run->arg;
    struct wal *wal = open_wal(run->io);
    if (wal == NULL) {
        assert_true(io_stopping(run->io));
        return;
    }
    check_recovered(storm, wal);
    int err = 0;
    while (err == 0) {
        uint64_t chance = sim_random_u64(storm->sim) % 20;
        if (chance == 0)
            err = storm_vote(storm, wal);
        else if (chance == 1 && storm->memory.last > 100) {
            storm->memory.first = MAX(storm->memory.first, storm->memory.last - 100);
            err = wal_trim(wal, storm->memory.first);
        } else
            err = storm_write(storm, wal);
    }
    assert_int_equal(err, -E_CANCELED);
    wal_close(wal);
}

static void what_was_flushed_survives_power_loss(void **state)
{
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct storm *storm = calloc(1, sizeof *storm);
        storm->sim = sim_create(seed, NULL);
        storm->term = 1;
        storm->memory.first = storm->durable.first = 1;
        struct run run = {.sim = storm->sim, .arg = storm, .body = storm_body};
        run.host = sim_host_create(run.sim, "a");
        run.io = sim_host_io(run.host);
        for (unsigned life = 0; life < 12; life++) {
            assert_int_equal(fiber_spawn(run.io, "storm", run_fiber, &run), 0);
            sim_run(run.sim, 20 + sim_random_u64(run.sim) % 400, NULL, NULL);
            sim_host_crash(run.host, sim_random_u64(run.sim) % 2 == 0);
            run.io = sim_host_restart(run.host);
        }
        sim_destroy(run.sim);
        free(storm);
    }
}

/* ---- bytes ---- */
static void formats_have_their_golden_bytes(void **state)
{
    uint8_t block[WAL_BLOCK], expected[WAL_BLOCK];
    wal_vote_encode(&(struct wal_vote){.sequence = 3, .term = 9, .voted_for = 2}, block);
    size_t n = golden_read(golden_path, "vote", expected, sizeof expected);
    assert_memory_equal(block, expected, n);
    wal_segment_encode(&(struct wal_segment_header){.number = 5, .salt = 0x1122334455667788,
                                                    .first_sequence = 77, .bytes = 65536}, block);
    n = golden_read(golden_path, "segment", expected, sizeof expected);
    assert_memory_equal(block, expected, n);
    uint8_t entry[64], header[WAL_GROUP_HEADER];
    wal_entry_encode(&(struct wal_entry){.index = 12, .term = 9, .type = 1, .len = 5,
                                         .data = (const uint8_t *)"hello"}, entry);
    n = golden_read(golden_path, "entry", expected, sizeof expected);
    assert_int_equal(n, wal_entry_bytes(5));
    assert_memory_equal(entry, expected, n);
    wal_group_encode(&(struct wal_group){.salt = 0x1122334455667788, .sequence = 78, .first_index = 12,
                                         .n_entries = 1, .body_len = 40,
                                         .body_crc = crc32c(0, entry, 40)}, header);
    n = golden_read(golden_path, "group", expected, sizeof expected);
    assert_int_equal(n, WAL_GROUP_HEADER);
    assert_memory_equal(header, expected, n);
}

static void a_snapshot_header_has_its_golden_bytes_and_no_damage_passes(void **state)
{
    struct snapshot_meta meta = {.index = 500, .term = 7, .conf_index = 1, .real_ns = 1700000000000000000,
                                 .n_servers = 2,
                                 .servers = {{1, 1, "tcp:a:1"}, {2, 1, "tcp:b:1"}}}, again;
    uint8_t block[SNAPSHOT_HEADER], expected[SNAPSHOT_HEADER];
    assert_int_equal(snapshot_encode(&meta, block), 0);
    size_t n = golden_read(golden_path, "snapshot", expected, sizeof expected);
    assert_memory_equal(block, expected, n);
    assert_int_equal(snapshot_decode(block, &again), 0);
    assert_memory_equal(&meta, &again, sizeof meta);
    for (size_t bit = 0; bit < n * 8; bit++) {
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(snapshot_decode(block, &again), -E_CORRUPT);
        block[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

int main(int argc, char **argv)
{
    golden_path = argc > 1 ? argv[1] : "tests/golden/metadata.hex";
    log_set_level(getenv("TARN_LOG") != NULL ? LOG_INFO : LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formats_have_their_golden_bytes),
        cmocka_unit_test(a_snapshot_header_has_its_golden_bytes_and_no_damage_passes),
        cmocka_unit_test(entries_vote_and_order_survive_a_restart),
        cmocka_unit_test(a_conflicting_suffix_is_replaced),
        cmocka_unit_test(old_segments_go_and_a_reset_begins_anew),
        cmocka_unit_test(a_full_disk_is_an_error_that_passes),
        cmocka_unit_test(after_a_failed_write_only_a_restart_helps),
        cmocka_unit_test(every_cut_of_the_last_segment_leaves_a_prefix),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(one_damaged_vote_is_survived_and_two_are_refused),
        cmocka_unit_test(what_was_flushed_survives_power_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
