/* The table of chunks and the ranges of cells. */
#include "objstore/index.h"

#include "common/err.h"
#include "common/io_sim.h"
#include "tests/unit/cmocka.h"

static void forget_nothing(void *arg, struct chunk *chunk) {}

static struct record write_of(uint64_t chunk, const struct cell *cells, uint32_t first, uint32_t n, uint64_t length)
{
    return (struct record){.type = RECORD_WRITE, .chunk = chunk, .generation = 1, .length = length,
                           .first_cell = first, .n_cells = n, .cells = cells};
}

static void test_records_change_the_table(void **state)
{
    struct index index;
    const struct cell two[2] = {{1, 65536}, {2, 100}}, tail = {3, 50};
    index_init(&index, forget_nothing, NULL);
    struct record record = write_of(9, two, 0, 2, 65636);
    assert_int_equal(index_apply(&index, &record), 0);
    struct chunk *c = index_get(&index, 9);
    assert_int_equal(c->length, 65636);
    assert_int_equal(chunk_cell(c, 1).valid, 100);
    assert_int_equal(chunk_cell(c, 2).valid, 0);
    record = (struct record){.type = RECORD_TRUNCATE, .chunk = 9, .generation = 2, .length = 65586, .first_cell = 1,
                             .n_cells = 1, .cells = &tail};
    assert_int_equal(index_apply(&index, &record), 0);
    assert_int_equal(index_apply(&index, &record), 0); /* a replay comes twice */
    assert_int_equal(c->length, 65586);
    assert_int_equal(chunk_cell(c, 1).crc, 3);
    assert_int_equal(c->generation, 2);
    record = (struct record){.type = RECORD_DELETE, .chunk = 9};
    assert_int_equal(index_apply(&index, &record), 0);
    assert_true(c->dead);
    assert_null(index_get(&index, 9));
    chunk_unref(&index, c);
    index_fini(&index);
}

static void test_what_is_dumped_is_loaded(void **state)
{
    struct index index, again;
    const struct cell cell = {7, 10};
    _cleanup_(writer_fini) struct writer w = {0};
    uint64_t count;
    index_init(&index, forget_nothing, NULL);
    index_init(&again, forget_nothing, NULL);
    for (uint64_t id = 1; id <= 5; id++) {
        struct record record = write_of(id, &cell, 0, 1, 10);
        assert_int_equal(index_apply(&index, &record), 0);
    }
    struct record record = {.type = RECORD_DELETE, .chunk = 3};
    assert_int_equal(index_apply(&index, &record), 0);
    index_dump(&index, false, &w, &count);
    assert_int_equal(count, 5); /* four live, one deleted */
    assert_false(index_is_dirty(&index));
    for (size_t at = 0; at < w.len;) {
        struct index_entry entry;
        size_t size;
        bool end;
        assert_int_equal(index_entry_decode(w.data + at, w.len - at, &entry, &size, &end, &count), 0);
        assert_int_equal(index_load(&again, &entry), 0);
        at += size;
    }
    assert_int_equal(again.chunks.count, 4);
    assert_int_equal(again.bytes, index.bytes);
    index_fini(&index);
    index_fini(&again);
}

static void test_a_chunk_without_content_leaves_no_trace(void **state)
{
    struct index index;
    struct chunk *c;
    index_init(&index, forget_nothing, NULL);
    assert_int_equal(index_get_or_make(&index, 1, &c), 0);
    assert_false(chunk_is_real(c));
    chunk_unref(&index, c);
    assert_null(index_get(&index, 1));
    assert_false(index_is_dirty(&index));
    index_fini(&index);
}

/* ------------------------------------------------------------------ ranges */
struct holder {
    struct io *io;
    struct chunk *chunk;
    uint32_t first, last;
    bool write;
    char *order; /* gets the letter when the range is held */
    char letter;
};

static void hold(void *arg)
{
    struct holder *h = arg;
    struct range range;
    assert_int_equal(chunk_lock(h->chunk, &range, h->first, h->last, h->write), 0);
    h->order[strlen(h->order)] = h->letter;
    io_sleep_ms(h->io, 10);
    chunk_unlock(h->chunk, &range);
    h->order[strlen(h->order)] = (char)(h->letter + 'a' - 'A');
}

static void test_ranges_come_in_turn(void **state)
{
    struct sim *sim = sim_create(1, NULL);
    struct io *io = sim_host_io(sim_host_create(sim, "a"));
    struct index index;
    struct chunk *c;
    char order[32] = "";
    index_init(&index, forget_nothing, NULL);
    assert_int_equal(index_get_or_make(&index, 1, &c), 0);
    struct holder holders[] = {
        {io, c, 0, 3, true, order, 'A'},  {io, c, 2, 5, true, order, 'B'},   /* waits for A */
        {io, c, 5, 5, false, order, 'C'},                                     /* waits for B, which came first */
        {io, c, 8, 9, true, order, 'D'},                                      /* conflicts with nobody */
    };
    for (size_t i = 0; i < ARRAY_SIZE(holders); i++) {
        assert_int_equal(fiber_spawn(io, "holder", hold, &holders[i]), 0);
        sim_run(sim, 1, NULL, NULL);
    }
    sim_run(sim, 1000, NULL, NULL);
    assert_string_equal(order, "ADaBdbCc");
    chunk_unref(&index, c);
    index_fini(&index);
    sim_destroy(sim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_change_the_table),
        cmocka_unit_test(test_what_is_dumped_is_loaded),
        cmocka_unit_test(test_a_chunk_without_content_leaves_no_trace),
        cmocka_unit_test(test_ranges_come_in_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
