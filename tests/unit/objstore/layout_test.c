/* The on-disk formats of docs/formats/volume.md. */
#include "objstore/layout.h"

#include "common/err.h"
#include "golden.h"
#include "tests/unit/cmocka.h"

static const char *golden_path;

static const struct superblock super = {.cluster_id = 0x1122334455667788, .uuid = "0123456789abcdef", .node = 3,
                                        .disk = 3, .created_ns = 1000, .journal_bytes = MIB(32)};
static const struct cell cells[2] = {{0xaabbccdd, 65536}, {0x01020304, 5}};

static struct record write_record(void)
{
    return (struct record){.type = RECORD_WRITE, .flags = 0, .lsn = 9, .seq = 4, .chunk = 0x1234, .generation = 2,
                           .length = 65541, .first_cell = 0, .n_cells = 2, .cells = cells, .data_offset = 65536,
                           .data_zeros = 2, .data_len = 5, .data = (const uint8_t *)"abc"};
}

static void assert_golden(const char *name, const uint8_t *got, size_t n)
{
    uint8_t expected[512];
    assert_true(n <= sizeof expected);
    assert_int_equal(golden_read(golden_path, name, expected, sizeof expected), n);
    assert_memory_equal(got, expected, n);
}

static void test_superblock_and_segment_header(void **state)
{
    static uint8_t block[BLOCK_BYTES];
    superblock_encode(&super, block);
    assert_golden("superblock", block, 64);
    assert_golden("superblock_crc", block + BLOCK_BYTES - 4, 4);
    struct superblock back;
    assert_int_equal(superblock_decode(block, sizeof block, &back), 0);
    assert_memory_equal(&back, &super, sizeof back);
    struct segment_header header = {.uuid = "0123456789abcdef", .seq = 4, .first_lsn = 8}, again;
    memcpy(header.uuid, super.uuid, 16);
    segment_encode(&header, block);
    assert_golden("segment", block, 48);
    assert_golden("segment_crc", block + BLOCK_BYTES - 4, 4);
    assert_int_equal(segment_decode(block, sizeof block, &again), 0);
    assert_memory_equal(&again, &header, sizeof again);
}

static void test_scrub_place(void **state)
{
    static uint8_t block[BLOCK_BYTES];
    struct scrub_state place = {.next = 0x1234, .began_ns = 1000, .last_end_ns = 900, .done_chunks = 3, .done_bytes = 196608,
                                .found_chunks = 1, .found_cells = 2, .last_chunks = 4, .last_cells = 5, .asked = true}, back;
    memcpy(place.uuid, super.uuid, 16);
    scrub_state_encode(&place, block);
    assert_golden("scrub", block, 128);
    assert_golden("scrub_crc", block + BLOCK_BYTES - 4, 4);
    assert_int_equal(scrub_state_decode(block, sizeof block, &back), 0);
    assert_memory_equal(&back, &place, sizeof back);
    assert_int_equal(scrub_state_decode(block, sizeof block - 1, &back), -E_CORRUPT);
    for (unsigned i = 0; i < 128; i++) { /* torn or old: refused */
        block[i] ^= 1;
        assert_int_not_equal(scrub_state_decode(block, sizeof block, &back), 0);
        block[i] ^= 1;
    }
}

static void test_journal_record(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct record record = write_record(), back;
    size_t size;
    record_encode(&w, &record);
    assert_int_equal(w.len, record_size(&record));
    assert_golden("record_write", w.data, w.len);
    assert_int_equal(record_decode(w.data, w.len, &back, &size), 0);
    assert_int_equal(size, w.len);
    assert_int_equal(back.chunk, 0x1234);
    assert_int_equal(back.length, 65541);
    assert_int_equal(record_cell(&back, 1).crc, 0x01020304);
    assert_int_equal(record_cell(&back, 1).valid, 5);
    assert_int_equal(back.data_len, 5);
    assert_memory_equal(back.data, "\0\0abc", 5);
}

static void test_index_segment(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct index_header header = {.number = 7, .covered = 3, .full = true}, again;
    memcpy(header.uuid, super.uuid, 16);
    struct index_entry entry = {.chunk = 0x1234, .generation = 2, .length = 65541, .flags = CHUNK_SEALED, .n_cells = 2,
                                .cells = cells}, back;
    size_t size;
    bool end;
    uint64_t count;
    index_header_encode(&header, &w);
    index_entry_encode(&w, &entry);
    index_entry_encode(&w, &(struct index_entry){.chunk = 5, .dead = true});
    index_footer_encode(&w, 7, 2);
    assert_golden("index", w.data, w.len);
    assert_int_equal(index_header_decode(w.data, w.len, &again), 0);
    assert_true(again.number == 7 && again.covered == 3 && again.full);
    size_t at = INDEX_HEADER_BYTES;
    assert_int_equal(index_entry_decode(w.data + at, w.len - at, &back, &size, &end, &count), 0);
    assert_false(end);
    assert_int_equal(index_entry_cell(&back, 0).crc, 0xaabbccdd);
    at += size;
    assert_int_equal(index_entry_decode(w.data + at, w.len - at, &back, &size, &end, &count), 0);
    assert_true(back.dead && back.chunk == 5);
    at += size;
    assert_int_equal(index_entry_decode(w.data + at, w.len - at, &back, &size, &end, &count), 0);
    assert_true(end && count == 2 && at + size == w.len);
}

static void test_every_prefix_and_every_flipped_byte_is_refused(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct record record = write_record(), back;
    struct index_entry entry = {.chunk = 1, .generation = 1, .n_cells = 2, .cells = cells}, entry_back;
    size_t size, first;
    bool end;
    uint64_t count;
    record_encode(&w, &record);
    for (size_t n = 0; n < w.len; n++) {
        uint8_t *copy = malloc(n + 1); /* the sanitizer sees the end */
        memcpy(copy + 1, w.data, n);
        assert_int_equal(record_decode(copy + 1, n, &back, &size), -E_CORRUPT);
        free(copy);
        w.data[n] ^= 0x10;
        assert_int_equal(record_decode(w.data, w.len, &back, &size), -E_CORRUPT);
        w.data[n] ^= 0x10;
    }
    w.len = 0;
    index_entry_encode(&w, &entry);
    first = w.len;
    for (size_t n = 0; n < first; n++) {
        uint8_t *copy = malloc(n + 1);
        memcpy(copy + 1, w.data, n);
        assert_int_equal(index_entry_decode(copy + 1, n, &entry_back, &size, &end, &count), -E_CORRUPT);
        free(copy);
        w.data[n] ^= 0x10;
        assert_int_equal(index_entry_decode(w.data, w.len, &entry_back, &size, &end, &count), -E_CORRUPT);
        w.data[n] ^= 0x10;
    }
}

static void test_damaged_blocks_are_refused(void **state)
{
    static uint8_t block[BLOCK_BYTES];
    struct superblock back;
    struct segment_header header;
    superblock_encode(&super, block);
    assert_int_equal(superblock_decode(block, BLOCK_BYTES - 1, &back), -E_CORRUPT);
    assert_int_equal(segment_decode(block, BLOCK_BYTES, &header), -E_CORRUPT);
    block[100] = 1;
    assert_int_equal(superblock_decode(block, BLOCK_BYTES, &back), -E_CORRUPT);
    uint8_t raw[INDEX_HEADER_BYTES] = {0};
    struct index_header index;
    assert_int_equal(index_header_decode(raw, sizeof raw, &index), -E_CORRUPT);
    assert_int_equal(index_header_decode(raw, 10, &index), -E_CORRUPT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scrub_place), cmocka_unit_test(test_superblock_and_segment_header),
        cmocka_unit_test(test_journal_record),
        cmocka_unit_test(test_index_segment),
        cmocka_unit_test(test_every_prefix_and_every_flipped_byte_is_refused),
        cmocka_unit_test(test_damaged_blocks_are_refused),
    };
    golden_path = argc > 1 ? argv[1] : "volume.hex";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
