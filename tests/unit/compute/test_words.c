/* Which commands are executed without a shell. */
#include "tests/unit/cmocka.h"
#include "compute/words.h"

static void plain_words_are_split_at_blanks(void **state)
{
    struct words words;
    assert_true(words_plain("  grep -c\tERROR  ", &words));
    assert_string_equal(words.items[0], "grep");
    assert_string_equal(words.items[1], "-c");
    assert_string_equal(words.items[2], "ERROR");
    assert_null(words.items[3]);
}

static void everything_that_means_something_to_bash_goes_to_bash(void **state)
{
    static const char *const commands[] = {
        "",          "   ",      "a|b",      "a;b",     "a&",       "a>b",       "a<b",   "$x",     "a $x",       "`a`",   "a 'b'",
        "a \"b\"",   "a\\ b",    "a*",       "a?b",     "[ a ]",    "a {b,c}",   "~/a",   "a ~",    "(a)",        "! a",   "a\nb",
        "# comment", "X=1 a",    "X=1",      "a #b",    "a \xc3\xa4", "echo a",  "cd /",  "true",   ". script",   ":",     "time wc",
        "test -e x", "exec wc",  "exit 3",   "printf a", "kill 1",
    };
    struct words words;
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (words_plain(commands[i], &words))
            fail_msg("'%s' was taken for plain words", commands[i]);
}

static void arguments_may_look_like_assignments_and_paths(void **state)
{
    struct words words;
    assert_true(words_plain("/usr/bin/dd if=/tarn/input/x bs=1M", &words));
    assert_string_equal(words.items[1], "if=/tarn/input/x");
}

static void there_is_a_limit_of_words_and_of_bytes(void **state)
{
    struct words words;
    char command[WORDS_BYTES_MAX + 16];
    for (size_t i = 0; i < 2 * WORDS_MAX; i += 2)
        memcpy(command + i, "a ", 3);
    assert_true(words_plain(command, &words));
    strcat(command, "a");
    assert_false(words_plain(command, &words));
    memset(command, 'a', WORDS_BYTES_MAX);
    command[WORDS_BYTES_MAX] = '\0';
    assert_false(words_plain(command, &words));
    command[WORDS_BYTES_MAX - 1] = '\0';
    assert_true(words_plain(command, &words));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_words_are_split_at_blanks),
        cmocka_unit_test(everything_that_means_something_to_bash_goes_to_bash),
        cmocka_unit_test(arguments_may_look_like_assignments_and_paths),
        cmocka_unit_test(there_is_a_limit_of_words_and_of_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
