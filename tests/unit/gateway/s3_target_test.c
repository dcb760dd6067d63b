#include "gateway_suite.h"
#include "gateway/s3_target.h"

static void targets_are_found_in_path_and_host(void **state)
{
    static const struct {
        const char *host, *path, *bucket, *key;
    } rows[] = {
        {"h", "/", "", ""},
        {"h", "/b", "b", ""},
        {"h", "/b/", "b", ""},
        {"h", "/b/k", "b", "k"},
        {"h", "/b/a%20b/%2e%2E//c/", "b", "a b/..//c/"},
        {"h", "/b//k", "b", "/k"},
        {"h", "/b/a+b", "b", "a+b"},
        {"s3.test:80", "/b/k", "b", "k"},
        {"b.s3.test", "/k", "b", "k"},
        {"b.c.S3.Test:9000", "/", "b.c", ""},
        {"b.s3.test", "/b/k", "b", "b/k"},
        {"xs3.test", "/b", "b", ""},
        {NULL, "/b", "b", ""},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct s3_target target;
        struct s3_fault fault = {0};
        assert_int_equal(s3_target_parse(rows[i].host, rows[i].path, "s3.test", &target, &fault), 0);
        assert_string_equal(target.bucket, rows[i].bucket);
        assert_string_equal(target.key, rows[i].key);
    }
}

static void targets_no_tree_can_hold_are_refused(void **state)
{
    static const struct {
        const char *path;
        enum s3_code code;
    } rows[] = {
        {"/b/%zz", S3_INVALID_URI},   {"/b/%00", S3_INVALID_URI},        {"/b/%ff", S3_INVALID_URI},
        {"/b/%c0%af", S3_INVALID_URI}, {"//k", S3_INVALID_BUCKET_NAME},   {"/.tarn/x", S3_INVALID_BUCKET_NAME},
        {"/../x", S3_INVALID_BUCKET_NAME},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct s3_target target;
        struct s3_fault fault = {0};
        assert_true(s3_target_parse("h", rows[i].path, NULL, &target, &fault) < 0);
        assert_int_equal(fault.code, rows[i].code);
    }
    char path[KEY_MAX + 8] = "/b/";
    struct s3_target target;
    struct s3_fault fault = {0};
    memset(path + 3, 'k', KEY_MAX + 1);
    path[KEY_MAX + 4] = 0;
    assert_true(s3_target_parse("h", path, NULL, &target, &fault) < 0);
    assert_int_equal(fault.code, S3_KEY_TOO_LONG);
    path[KEY_MAX + 3] = 0;
    assert_int_equal(s3_target_parse("h", path, NULL, &target, &fault), 0);
}

static void new_buckets_follow_the_rules_of_s3(void **state)
{
    static const char *const good[] = {"abc", "a-b.c", "0bc", "a23"};
    static const char *const bad[] = {"ab", "Abc", "a_c", "-ab", "ab-", "a..b", ".ab", "192.168.1.1", "metrics", "webhdfs", "healthz",
                                      "a234567890123456789012345678901234567890123456789012345678901234"};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(s3_bucket_name_ok(good[i]));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(s3_bucket_name_ok(bad[i]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(targets_are_found_in_path_and_host),
        cmocka_unit_test(targets_no_tree_can_hold_are_refused),
        cmocka_unit_test(new_buckets_follow_the_rules_of_s3),
    };
    return cmocka_run_group_tests_name("s3_target", tests, NULL, NULL);
}
