#include "gateway_suite.h"
#include "gateway/condition.h"

static void ranges_select_bytes(void **state)
{
    static const struct {
        const char *value;
        uint64_t size;
        int err;
        struct range range;
    } rows[] = {
        {NULL, 10, 0, {0, 10, false}},
        {"bytes=0-9", 10, 0, {0, 10, true}},
        {"bytes=0-0", 10, 0, {0, 1, true}},
        {"bytes=3-5", 10, 0, {3, 3, true}},
        {"bytes=3-", 10, 0, {3, 7, true}},
        {"bytes=3-999", 10, 0, {3, 7, true}},
        {"bytes=-4", 10, 0, {6, 4, true}},
        {"bytes=-99", 10, 0, {0, 10, true}},
        {"Bytes= 1-2", 10, 0, {1, 2, true}},
        {"bytes=10-", 10, -E_RANGE, {0}},
        {"bytes=10-20", 10, -E_RANGE, {0}},
        {"bytes=-0", 10, -E_RANGE, {0}},
        {"bytes=0-", 0, -E_RANGE, {0}},
        {"bytes=-1", 0, -E_RANGE, {0}},
        {"bytes=5-4", 10, 0, {0, 10, false}},
        {"bytes=a-b", 10, 0, {0, 10, false}},
        {"bytes=1-2,4-5", 10, 0, {0, 10, false}},
        {"bytes=", 10, 0, {0, 10, false}},
        {"lines=1-2", 10, 0, {0, 10, false}},
        {"bytes=0-18446744073709551615", 10, 0, {0, 10, true}},
        {"bytes=99999999999999999999-", 10, 0, {0, 10, false}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct range range;
        assert_int_equal(range_parse(rows[i].value, rows[i].size, &range), rows[i].err);
        if (rows[i].err != 0)
            continue;
        assert_int_equal(range.offset, rows[i].range.offset);
        assert_int_equal(range.length, rows[i].range.length);
        assert_int_equal(range.partial, rows[i].range.partial);
    }
}

#define DATE "Sun, 06 Nov 1994 08:49:37 GMT"
#define T 784111777

static void conditions_have_their_precedence(void **state)
{
    static const struct {
        struct conditions conditions;
        uint64_t mtime;
        int reading, writing;
    } rows[] = {
        {{NULL, NULL, NULL, NULL}, T, 0, 0},
        {{"\"abc\"", NULL, NULL, NULL}, T, 0, 0},
        {{"abc", NULL, NULL, NULL}, T, 0, 0},
        {{"*", NULL, NULL, NULL}, T, 0, 0},
        {{"\"x\", \"abc\"", NULL, NULL, NULL}, T, 0, 0},
        {{"\"x\"", NULL, NULL, NULL}, T, 412, 412},
        {{NULL, "\"abc\"", NULL, NULL}, T, 304, 412},
        {{NULL, "W/\"abc\"", NULL, NULL}, T, 304, 412},
        {{NULL, "*", NULL, NULL}, T, 304, 412},
        {{NULL, "\"x\"", NULL, NULL}, T, 0, 0},
        {{NULL, NULL, DATE, NULL}, T, 304, 412},
        {{NULL, NULL, DATE, NULL}, T + 1, 0, 0},
        {{NULL, NULL, NULL, DATE}, T, 0, 0},
        {{NULL, NULL, NULL, DATE}, T + 1, 412, 412},
        {{"\"abc\"", NULL, NULL, DATE}, T + 1, 0, 0},
        {{NULL, "\"x\"", DATE, NULL}, T, 0, 0},
        {{NULL, NULL, "never", "ever"}, T, 0, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(conditions_check(&rows[i].conditions, "abc", rows[i].mtime, true), rows[i].reading);
        assert_int_equal(conditions_check(&rows[i].conditions, "abc", rows[i].mtime, false), rows[i].writing);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_select_bytes),
        cmocka_unit_test(conditions_have_their_precedence),
    };
    return cmocka_run_group_tests_name("condition", tests, NULL, NULL);
}
