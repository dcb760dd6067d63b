#include "common/cli.h"

#include "common/err.h"
#include "tests/unit/cmocka.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

static bool flag;
static const char *string;
static uint64_t number, size;
static struct cli_strings strings;

static const struct cli_option options[] = {
    {"json", CLI_FLAG, &flag, NULL, "print JSON", 0, 0},
    {"dir", CLI_STRING, &string, "DIR", "where", 0, 0},
    {"nodes", CLI_UINT, &number, "N", "how many", 1, 64},
    {"chunk", CLI_SIZE, &size, "SIZE", "how large", KIB(64), MIB(64)},
    {"map", CLI_STRINGS, &strings, "CMD", "a phase", 0, 0},
};

#define ARGV(...) ((char *[]){"program", __VA_ARGS__, NULL})
#define PARSE(n_args, ...)                                                                         \
    cli_parse((int)ARRAY_SIZE(ARGV(__VA_ARGS__)) - 1, ARGV(__VA_ARGS__), "tarn test PATH...",      \
              "Tests.", options, ARRAY_SIZE(options), n_args)

static int reset(void **state)
{
    flag = false;
    string = NULL;
    number = size = 0;
    strings.count = 0;
    return 0;
}

/* Runs the parser in a child; returns its exit code, `text` gets what it wrote to `fd`. */
static int exit_code_of(int fd, char *text, size_t text_size, int argc, char **argv)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        int n;
        dup2(ends[1], fd);
        close(ends[0]);
        close(ends[1]);
        cli_parse(argc, argv, "tarn test PATH...", "Tests.", options, ARRAY_SIZE(options), &n);
        _exit(99);
    }
    close(ends[1]);
    size_t len = 0;
    ssize_t n;
    while ((n = read(ends[0], text + len, text_size - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void assert_mistake(const char *part, char **argv)
{
    char text[4096];
    int argc = 0;
    while (argv[argc] != NULL)
        argc++;
    assert_int_equal(exit_code_of(STDERR_FILENO, text, sizeof text, argc, argv), CLI_USAGE);
    if (strstr(text, part) == NULL)
        fail_msg("'%s' should say '%s'", text, part);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1); /* one line */
}

static void test_options_may_stand_anywhere(void **state)
{
    char *argv[] = {"p",         "a", "--json",  "b",  "--dir", "/x",
                    "--nodes=3", "c", "--chunk", "1M", NULL};
    int n;
    cli_parse(10, argv, "u", "a", options, ARRAY_SIZE(options), &n);
    assert_int_equal(n, 3);
    assert_string_equal(argv[1], "a");
    assert_string_equal(argv[2], "b");
    assert_string_equal(argv[3], "c");
    assert_true(flag);
    assert_string_equal(string, "/x");
    assert_int_equal(number, 3);
    assert_int_equal(size, MIB(1));
}

static void test_two_dashes_end_options_and_one_is_an_operand(void **state)
{
    char *argv[] = {"p", "-", "--", "--json", "--", NULL};
    int n;
    cli_parse(5, argv, "u", "a", options, ARRAY_SIZE(options), &n);
    assert_int_equal(n, 3);
    assert_string_equal(argv[1], "-");
    assert_string_equal(argv[2], "--json");
    assert_string_equal(argv[3], "--");
    assert_false(flag);
}

static void test_strings_gather(void **state)
{
    int n;
    PARSE(&n, "--map", "grep x", "--map=wc", "--map", "--json");
    assert_int_equal(strings.count, 3);
    assert_string_equal(strings.items[0], "grep x");
    assert_string_equal(strings.items[1], "wc");
    assert_string_equal(strings.items[2], "--json"); /* a value may look like an option */
    assert_int_equal(n, 0);
}

static char order[64];

static void seen(void *arg, const struct cli_option *option, const char *value)
{
    assert_ptr_equal(arg, order);
    strcat(order, option->name);
    strcat(order, value != NULL ? value : "!");
}

static void test_order_is_told(void **state)
{
    char *argv[] = {"p", "--map", "1", "--json", "--map=2", NULL};
    int n;
    order[0] = '\0';
    cli_parse_seen(5, argv, "u", "a", options, ARRAY_SIZE(options), &n, seen, order);
    assert_string_equal(order, "map1json!map2");
}

static void test_mistakes_name_the_option_and_the_range(void **state)
{
    assert_mistake("there is no option '--color'", ARGV("--color"));
    assert_mistake("start with two dashes", ARGV("-x"));
    assert_mistake("--dir needs a value: DIR", ARGV("--dir"));
    assert_mistake("--json takes no value", ARGV("--json=yes"));
    assert_mistake("--nodes takes a whole number from 1 to 64, not '65'", ARGV("--nodes", "65"));
    assert_mistake("--nodes takes a whole number from 1 to 64, not ''", ARGV("--nodes="));
    assert_mistake("not '-1'", ARGV("--nodes", "-1"));
    assert_mistake("--chunk takes a size from 64.0 KiB to 64.0 MiB, not '1K'",
                   ARGV("--chunk", "1K"));
    assert_mistake("not '1X'", ARGV("--chunk=1X"));
}

static void test_help_lists_the_table(void **state)
{
    char text[4096];
    assert_int_equal(exit_code_of(STDOUT_FILENO, text, sizeof text, 2, ARGV("--help")), CLI_OK);
    assert_non_null(strstr(text, "Usage: tarn test PATH..."));
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        assert_non_null(strstr(text, options[i].name));
        assert_non_null(strstr(text, options[i].help));
    }
}

static void test_sizes(void **state)
{
    uint64_t n = 5;
    assert_int_equal(cli_parse_size("0", &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(cli_parse_size("512", &n), 0);
    assert_int_equal(n, 512);
    assert_int_equal(cli_parse_size("64k", &n), 0);
    assert_int_equal(n, KIB(64));
    assert_int_equal(cli_parse_size("3GiB", &n), 0);
    assert_int_equal(n, GIB(3));
    assert_int_equal(cli_parse_size("2T", &n), 0);
    assert_int_equal(n, GIB(2048));
    static const char *const bad[] = {
        "", "K", "-1", " 1", "1KK", "1.5G", "99999999999999999999", "16777216T", "1 K"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(cli_parse_size(bad[i], &n), -E_INVAL);
    assert_int_equal(n, GIB(2048));
}

static void test_sizes_for_people(void **state)
{
    char text[16];
    cli_format_size(0, text);
    assert_string_equal(text, "0 B");
    cli_format_size(1023, text);
    assert_string_equal(text, "1023 B");
    cli_format_size(1536 * MIB(1), text);
    assert_string_equal(text, "1.5 GiB");
    cli_format_size(MIB(1) - 1, text);
    assert_string_equal(text, "1.0 MiB");
    cli_format_size(UINT64_MAX, text);
    assert_string_equal(text, "16.0 EiB");
}

static void test_exit_codes(void **state)
{
    assert_int_equal(cli_exit_for(0), 0);
    assert_int_equal(cli_exit_for(-E_IO), 1);
    assert_int_equal(cli_exit_for(-E_USAGE), 2);
    assert_int_equal(cli_exit_for(-E_NOENT), 3);
    assert_int_equal(cli_exit_for(-E_AUTH), 4);
    assert_int_equal(cli_exit_for(-E_CONN), 5);
    assert_int_equal(cli_exit_for(-E_NOSPC), 6);
    assert_int_equal(cli_exit_for(-E_ADDRINUSE), 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_options_may_stand_anywhere, reset),
        cmocka_unit_test_setup(test_two_dashes_end_options_and_one_is_an_operand, reset),
        cmocka_unit_test_setup(test_strings_gather, reset),
        cmocka_unit_test_setup(test_order_is_told, reset),
        cmocka_unit_test(test_mistakes_name_the_option_and_the_range),
        cmocka_unit_test(test_help_lists_the_table),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_sizes_for_people),
        cmocka_unit_test(test_exit_codes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
