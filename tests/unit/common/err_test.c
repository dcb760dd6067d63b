#include "common/err.h"

#include "common/base.h"
#include "tests/unit/cmocka.h"
#include <errno.h>

static const int codes[] = {
#define ERR(name, wire, errno_, http, s3, retry, sentence) -E_##name,
#include "common/err.def"
#undef ERR
};

static void test_every_code_survives_the_wire(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        assert_int_equal(err_from_wire(err_to_wire(codes[i])), codes[i]);
        assert_true(err_to_errno(codes[i]) > 0);
        assert_in_range(err_to_http(codes[i]), 400, 599);
        assert_true(strlen(err_to_s3(codes[i])) > 0);
    }
}

static void test_numbers_names_are_unique(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        for (size_t j = i + 1; j < ARRAY_SIZE(codes); j++) {
            assert_int_not_equal(codes[i], codes[j]);
            assert_string_not_equal(err_name(codes[i]), err_name(codes[j]));
        }
    }
}

static void test_success_is_zero_everywhere(void **state)
{
    assert_int_equal(err_to_errno(0), 0);
    assert_int_equal(err_from_errno(0), 0);
    assert_int_equal(err_from_wire(0), 0);
    assert_int_equal(err_to_wire(0), 0);
    assert_int_equal(err_to_http(0), 200);
    assert_string_equal(err_name(0), "OK");
}

static void test_errno_comes_back_where_the_table_has_it(void **state)
{
    static const int values[] = {EINVAL, ENOENT, EEXIST, ENOTDIR, EISDIR,    ENOTEMPTY, EACCES,
                                 EPERM,  ENOSPC, EDQUOT, EIO,     ETIMEDOUT, ECANCELED, EADDRINUSE};
    for (size_t i = 0; i < ARRAY_SIZE(values); i++)
        assert_int_equal(err_to_errno(err_from_errno(values[i])), values[i]);
}

static void test_a_reset_connection_is_a_lost_connection(void **state)
{
    assert_int_equal(err_from_errno(ECONNRESET), -E_CONN);
    assert_int_equal(err_from_errno(EPIPE), -E_CONN);
}

static void test_an_unknown_number_is_a_malformed_message(void **state)
{
    assert_int_equal(err_from_wire(999999), -E_PROTO);
    assert_int_equal(err_from_errno(9999), -E_IO);
    assert_string_equal(err_name(-9999), "IO");
}

static void test_retry_classes(void **state)
{
    assert_int_equal(err_retry(-E_NOENT), ERR_RETRY_NEVER);
    assert_int_equal(err_retry(-E_CONN), ERR_RETRY_AGAIN);
    assert_int_equal(err_retry(-E_NOT_LEADER), ERR_RETRY_REDIRECT);
    assert_int_equal(err_retry(-E_STALE), ERR_RETRY_REFRESH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_survives_the_wire),
        cmocka_unit_test(test_numbers_names_are_unique),
        cmocka_unit_test(test_success_is_zero_everywhere),
        cmocka_unit_test(test_errno_comes_back_where_the_table_has_it),
        cmocka_unit_test(test_a_reset_connection_is_a_lost_connection),
        cmocka_unit_test(test_an_unknown_number_is_a_malformed_message),
        cmocka_unit_test(test_retry_classes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
