#include "common/config.h"

#include "common/err.h"
#include "tests/unit/cmocka.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define KEY "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eFF"
#define GOOD "cluster_id = 0x10\nkey = " KEY "\nmeta = tcp:127.0.0.1:7001\n"

static char dir[64], path[128];

static int setup(void **state)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%.40s/tarn-config-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof path, "%s/tarn.conf", dir);
    return 0;
}

static int teardown(void **state)
{
    unlink(path);
    return rmdir(dir);
}

static int load(const char *text, struct config *config, const char **why)
{
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return config_load(path, config, why);
}

static void assert_refused(const char *text, const char *part)
{
    struct config config = {.node = 99};
    const char *why;
    assert_int_equal(load(text, &config, &why), -E_INVAL);
    if (strstr(why, part) == NULL)
        fail_msg("'%s' should say '%s'", why, part);
    assert_int_equal(config.node, 99);
}

static void test_everything_is_read(void **state)
{
    struct config config;
    const char *why;
    assert_int_equal(load("# the cluster\n\n  cluster_id=16 # or 0x10\nkey = " KEY "\n"
                          "meta = tcp:a:1 \t tcp:b:2  tcp:[::1]:3\r\n"
                          "gateway = tcp:h:8080 tcp:i:8080\nverify = always\nput_code_mib = 64\nnode = 7",
                          &config, &why),
                     0);
    assert_string_equal(config.path, path);
    assert_int_equal(config.auth.cluster_id, 16);
    assert_int_equal(config.auth.key[1], 1);
    assert_int_equal(config.auth.key[31], 0xff);
    assert_int_equal(config.n_meta, 3);
    assert_string_equal(config.meta[0], "tcp:a:1");
    assert_string_equal(config.meta[2], "tcp:[::1]:3");
    assert_string_equal(config.gateway, "tcp:h:8080");
    assert_true(config.verify_always);
    assert_int_equal(config.node, 7);
    assert_int_equal(config.put_code_mib, 64);
}

static void test_what_may_be_missing(void **state)
{
    struct config config;
    const char *why;
    assert_int_equal(load(GOOD, &config, &why), 0);
    assert_int_equal(config.node, 0);
    assert_string_equal(config.gateway, "");
    assert_false(config.verify_always);
}

static void test_the_environment_names_the_file(void **state)
{
    struct config config;
    const char *why;
    assert_int_equal(load(GOOD, &config, &why), 0);
    setenv("TARN_CONFIG", path, 1);
    assert_int_equal(config_load(NULL, &config, &why), 0);
    unsetenv("TARN_CONFIG");
}

static void test_a_file_that_is_not_there(void **state)
{
    struct config config;
    const char *why;
    assert_int_equal(config_load("/nowhere/tarn.conf", &config, &why), -E_NOENT);
    assert_non_null(strstr(why, "/nowhere/tarn.conf"));
    assert_non_null(strstr(why, "TARN_CONFIG"));
}

static void test_mistakes_name_line_and_setting(void **state)
{
    assert_refused("cluster_id = 1\nnonsense\n", ":2: expected NAME = VALUE");
    assert_refused("colour = red\n", ":1: there is no setting 'colour'");
    assert_refused("cluster_id = twelve\n", ":1: the setting 'cluster_id'");
    assert_refused("cluster_id = 0\n", "must not be 0");
    assert_refused("cluster_id = -1\n", "whole number");
    assert_refused("cluster_id =\n", "no value");
    assert_refused("node = 4294967296\n", "whole number");
    assert_refused("put_code_mib = 0\n", "at least 1");
    assert_refused("put_code_mib = 1048577\n", "whole number");
    assert_refused("key = 00\n", "64 hexadecimal digits");
    assert_refused("key = zz" KEY "\n", "64 hexadecimal digits");
    assert_refused("meta = 127.0.0.1:7001\n", "tcp:HOST:PORT");
    assert_refused("meta = tcp:a:1 tcp:b:2\n", "1, 3 or 5");
    assert_refused("meta = tcp:a:1 tcp:a:1 tcp:a:1 tcp:a:1 tcp:a:1 tcp:a:1\n", "at most 5");
    assert_refused(GOOD "verify = sometimes\n", ":4: the setting 'verify' is wrong: it is 'once' or 'always'");
    assert_refused(GOOD "node = 1\nnode = 2\n", ":5: the setting 'node' is wrong: it is set twice");
}

static void test_what_must_be_there(void **state)
{
    assert_refused("key = " KEY "\nmeta = tcp:a:1\n", "'cluster_id' is missing");
    assert_refused("cluster_id = 1\nmeta = tcp:a:1\n", "'key' is missing");
    assert_refused("cluster_id = 1\nkey = " KEY "\n", "'meta' is missing");
}

static void test_a_line_without_an_end(void **state)
{
    char text[3000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    assert_refused(text, "too long");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_is_read),
        cmocka_unit_test(test_what_may_be_missing),
        cmocka_unit_test(test_the_environment_names_the_file),
        cmocka_unit_test(test_a_file_that_is_not_there),
        cmocka_unit_test(test_mistakes_name_line_and_setting),
        cmocka_unit_test(test_what_must_be_there),
        cmocka_unit_test(test_a_line_without_an_end),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
