#include "common/crc.h"

#include "tests/unit/cmocka.h"

/* RFC 3720 B.4 and the check value of the CRC catalogue. */
static void test_published_values(void **state)
{
    uint8_t buf[32];
    assert_int_equal(crc32c(0, "123456789", 9), 0xE3069283);
    memset(buf, 0, sizeof buf);
    assert_int_equal(crc32c(0, buf, sizeof buf), 0x8A9136AA);
    memset(buf, 0xff, sizeof buf);
    assert_int_equal(crc32c(0, buf, sizeof buf), 0x62A8AB43);
    for (unsigned i = 0; i < sizeof buf; i++)
        buf[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, buf, sizeof buf), 0x46DD794E);
}

static void test_nothing_is_zero(void **state)
{
    assert_int_equal(crc32c(0, NULL, 0), 0);
    assert_int_equal(crc32c(0x1234, "", 0), 0x1234);
}

static uint32_t bitwise(const uint8_t *data, size_t n)
{
    uint32_t reg = ~0u;
    for (size_t i = 0; i < n; i++) {
        reg ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            reg = reg >> 1 ^ (reg & 1 ? 0x82F63B78u : 0);
    }
    return ~reg;
}

static void test_every_length_and_every_cut_agree_with_the_definition(void **state)
{
    uint8_t buf[300];
    for (unsigned i = 0; i < sizeof buf; i++)
        buf[i] = (uint8_t)(i * 131 + 7);
    for (size_t n = 0; n <= sizeof buf; n++) {
        uint32_t expected = bitwise(buf, n);
        assert_int_equal(crc32c(0, buf, n), expected);
        size_t cut = n / 3;
        assert_int_equal(crc32c(crc32c(0, buf, cut), buf + cut, n - cut), expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_values),
        cmocka_unit_test(test_nothing_is_zero),
        cmocka_unit_test(test_every_length_and_every_cut_agree_with_the_definition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
