#include "common/bytes.h"

#include "tests/unit/cmocka.h"

static void test_what_is_written_is_read(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u8(&w, 1);
    writer_u16(&w, 0x0203);
    writer_u32(&w, 0x04050607);
    writer_u64(&w, 0x08090a0b0c0d0e0f);
    writer_be64(&w, 0x1011121314151617);
    writer_bytes(&w, "xyz", 3);
    writer_zero(&w, 5);
    assert_false(w.failed);
    struct reader r = reader_init(w.data, w.len);
    assert_int_equal(reader_u8(&r), 1);
    assert_int_equal(reader_u16(&r), 0x0203);
    assert_int_equal(reader_u32(&r), 0x04050607);
    assert_true(reader_u64(&r) == 0x08090a0b0c0d0e0f);
    assert_true(reader_be64(&r) == 0x1011121314151617);
    assert_memory_equal(reader_bytes(&r, 3), "xyz", 3);
    assert_memory_equal(reader_bytes(&r, 5), "\0\0\0\0\0", 5);
    assert_int_equal(reader_left(&r), 0);
    assert_false(r.failed);
}

static void test_integers_are_little_endian(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u32(&w, 0x01020304);
    writer_be64(&w, 0x05);
    assert_memory_equal(w.data, "\4\3\2\1\0\0\0\0\0\0\0\5", 12);
}

static void test_no_prefix_is_read_past_its_end(void **state)
{
    static const uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (size_t n = 0; n < sizeof data; n++) {
        uint8_t *copy = malloc(n + 1); /* the sanitizer sees the end */
        memcpy(copy + 1, data, n);
        struct reader r = reader_init(copy + 1, n);
        assert_true(reader_u64(&r) == 0);
        assert_true(r.failed);
        free(copy);
    }
}

static void test_failure_is_kept(void **state)
{
    struct reader r = reader_init("abc", 3);
    assert_int_equal(reader_u32(&r), 0);
    assert_int_equal(reader_u8(&r), 0);
    assert_null(reader_bytes(&r, 0));
    assert_int_equal(reader_left(&r), 0);
    assert_true(r.failed);
}

static void test_nothing_can_be_read_of_nothing(void **state)
{
    struct reader r = reader_init(NULL, 0);
    assert_int_equal(reader_left(&r), 0);
    assert_false(r.failed);
    assert_null(reader_bytes(&r, 1));
    assert_true(r.failed);
}

static void test_a_writer_grows(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    for (unsigned i = 0; i < 10000; i++)
        writer_u16(&w, (uint16_t)i);
    assert_int_equal(w.len, 20000);
    struct reader r = reader_init(w.data, w.len);
    for (unsigned i = 0; i < 10000; i++)
        assert_int_equal(reader_u16(&r), i);
}

static void test_an_impossible_length_fails(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u8(&w, 1);
    writer_zero(&w, SIZE_MAX);
    assert_true(w.failed);
    writer_u8(&w, 2);
    assert_int_equal(w.len, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_integers_are_little_endian),
        cmocka_unit_test(test_no_prefix_is_read_past_its_end),
        cmocka_unit_test(test_failure_is_kept),
        cmocka_unit_test(test_nothing_can_be_read_of_nothing),
        cmocka_unit_test(test_a_writer_grows),
        cmocka_unit_test(test_an_impossible_length_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
