/* The file `verified` of a volume: its bytes, and what a start believes of it (docs/formats/volume.md). */
#include "objstore/verified.h"

#include "common/err.h"
#include "golden.h"
#include "tests/unit/cmocka.h"

static const char *golden_path;

static const struct verified_header header = {.uuid = {'0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'},
                                              .boot = "boot-7"};
static const struct verified_record record = {VERIFIED_RIGHT, 0xaabbccdd, 0x1234, 2, 65541};

static void the_bytes_are_frozen(void **state)
{
    uint8_t bytes[VERIFIED_HEADER_BYTES], expected[VERIFIED_HEADER_BYTES];
    struct verified_header back;
    verified_header_encode(&header, bytes);
    assert_int_equal(golden_read(golden_path, "verified_header", expected, sizeof expected), sizeof bytes);
    assert_memory_equal(bytes, expected, sizeof bytes);
    assert_int_equal(verified_header_decode(expected, sizeof expected, &back), 0);
    assert_memory_equal(back.uuid, header.uuid, sizeof back.uuid);
    assert_string_equal(back.boot, "boot-7");

    struct verified_record again;
    verified_record_encode(&record, bytes);
    assert_int_equal(golden_read(golden_path, "verified_record", expected, sizeof expected), VERIFIED_RECORD_BYTES);
    assert_memory_equal(bytes, expected, VERIFIED_RECORD_BYTES);
    assert_int_equal(verified_record_decode(expected, VERIFIED_RECORD_BYTES, &again), 0);
    assert_int_equal(again.kind, VERIFIED_RIGHT);
    assert_int_equal(again.chunk, 0x1234);
    assert_int_equal(again.generation, 2);
    assert_int_equal(again.length, 65541);
    assert_int_equal(again.digest, 0xaabbccdd);
}

static void every_prefix_and_every_flipped_byte_is_refused(void **state)
{
    uint8_t bytes[VERIFIED_HEADER_BYTES];
    struct verified_header back;
    struct verified_record again;
    verified_header_encode(&header, bytes);
    for (size_t n = 0; n < sizeof bytes; n++) {
        assert_int_equal(verified_header_decode(bytes, n, &back), -E_CORRUPT);
        bytes[n] ^= 0x10;
        assert_int_equal(verified_header_decode(bytes, sizeof bytes, &back), -E_CORRUPT);
        bytes[n] ^= 0x10;
    }
    verified_record_encode(&record, bytes);
    for (size_t n = 0; n < VERIFIED_RECORD_BYTES; n++) {
        assert_int_equal(verified_record_decode(bytes, n, &again), -E_CORRUPT);
        bytes[n] ^= 0x10;
        assert_int_equal(verified_record_decode(bytes, VERIFIED_RECORD_BYTES, &again), -E_CORRUPT);
        bytes[n] ^= 0x10;
    }
    memset(bytes, 0, sizeof bytes); /* a record that a kill kept from being written */
    assert_int_equal(verified_record_decode(bytes, VERIFIED_RECORD_BYTES, &again), -E_CORRUPT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bytes_are_frozen),
        cmocka_unit_test(every_prefix_and_every_flipped_byte_is_refused),
    };
    golden_path = argc > 1 ? argv[1] : "volume.hex";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
