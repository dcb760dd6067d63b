#include "common/cli.h"

#include "common/config.h"
#include "common/err.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int cli_exit_for(int err)
{
    switch (err) {
    case 0:
        return CLI_OK;
    case -E_USAGE:
        return CLI_USAGE;
    case -E_NOENT:
    case -E_NODATA:
        return CLI_NOT_FOUND;
    case -E_ACCES:
    case -E_PERM:
    case -E_AUTH:
    case -E_SIGNATURE:
    case -E_CLUSTER:
        return CLI_DENIED;
    case -E_CONN:
    case -E_TIMEOUT:
    case -E_UNAVAIL:
    case -E_NOT_LEADER:
        return CLI_UNREACHABLE;
    case -E_NOSPC:
    case -E_DQUOT:
        return CLI_NO_SPACE;
    case -E_ADDRINUSE:
        return CLI_IN_USE;
    default:
        return CLI_FAILED;
    }
}

void cli_complain(const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, text);
}

/* ---- sizes ---- */

int cli_parse_size(const char *text, uint64_t *ret)
{
    if (*text < '0' || *text > '9')
        return -E_INVAL;
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno != 0)
        return -E_INVAL;
    static const char suffixes[] = "KMGT";
    unsigned shift = 0;
    if (*end != '\0') {
        const char *suffix = strchr(suffixes, *end & ~0x20);
        if (suffix == NULL)
            return -E_INVAL;
        shift = 10 * ((unsigned)(suffix - suffixes) + 1);
        end++;
        if (strcmp(end, "iB") == 0 || strcmp(end, "B") == 0)
            end += strlen(end);
    }
    uint64_t value;
    if (*end != '\0' || mul_overflows((uint64_t)n, 1ull << shift, &value))
        return -E_INVAL;
    *ret = value;
    return 0;
}

void cli_format_size(uint64_t bytes, char out[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = (double)bytes;
    while (value >= 1023.95 && unit + 1 < ARRAY_SIZE(units)) {
        value /= 1024;
        unit++;
    }
    snprintf(out, 16, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
}

/* ---- options ---- */

struct parse {
    const char *usage;
    const char *about;
    const struct cli_option *options;
    size_t n_options;
    cli_seen_fn seen;
    void *arg;
};

_Noreturn static void print_help(const struct parse *parse)
{
    printf("Usage: %s\n\n%s\n\nOptions:\n", parse->usage, parse->about);
    for (size_t i = 0; i < parse->n_options; i++) {
        const struct cli_option *option = &parse->options[i];
        char left[64];
        snprintf(left, sizeof left, option->kind == CLI_FLAG ? "--%s" : "--%s %s", option->name,
                 option->value_name != NULL ? option->value_name : "VALUE");
        printf("  %-24s %s\n", left, option->help);
    }
    printf("  %-24s %s\n", "--help", "print this and exit");
    exit(CLI_OK);
}

_printf_(2, 3) _Noreturn static void mistake(const struct parse *parse, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    cli_complain("%s (usage: %s)", text, parse->usage);
    exit(CLI_USAGE);
}

static void range_text(const struct cli_option *option, char out[64])
{
    bool bounded = option->min != 0 || option->max != 0;
    if (option->kind == CLI_SIZE && bounded) {
        char min[16], max[16];
        cli_format_size(option->min, min);
        cli_format_size(option->max, max);
        snprintf(out, 64, "a size from %s to %s", min, max);
    } else if (option->kind == CLI_SIZE) {
        snprintf(out, 64, "a size such as 512K, 64M or 1G");
    } else if (bounded) {
        snprintf(out, 64, "a whole number from %llu to %llu", (unsigned long long)option->min,
                 (unsigned long long)option->max);
    } else {
        snprintf(out, 64, "a whole number");
    }
}

static void store_number(const struct parse *parse, const struct cli_option *option,
                         const char *value)
{
    uint64_t n = 0;
    bool good;
    if (option->kind == CLI_SIZE) {
        good = cli_parse_size(value, &n) == 0;
    } else {
        char *end;
        errno = 0;
        n = strtoull(value, &end, 10);
        good = errno == 0 && *value >= '0' && *value <= '9' && *end == '\0';
    }
    bool bounded = option->min != 0 || option->max != 0;
    if (!good || (bounded && (n < option->min || n > option->max))) {
        char range[64];
        range_text(option, range);
        mistake(parse, "the option --%s takes %s, not '%.100s'", option->name, range, value);
    }
    *(uint64_t *)option->target = n;
}

static void store(const struct parse *parse, const struct cli_option *option, const char *value)
{
    switch (option->kind) {
    case CLI_FLAG:
        *(bool *)option->target = true;
        break;
    case CLI_STRING:
        *(const char **)option->target = value;
        break;
    case CLI_ADDRESS: {
        const char *wrong = config_address_wrong(value);
        if (wrong != NULL)
            mistake(parse, "the option --%s: %s, not '%.100s'", option->name, wrong, value);
        *(const char **)option->target = value;
        break;
    }
    case CLI_STRINGS: {
        struct cli_strings *strings = option->target;
        if (strings->count == ARRAY_SIZE(strings->items))
            mistake(parse, "the option --%s may be given at most %zu times", option->name,
                    ARRAY_SIZE(strings->items));
        strings->items[strings->count++] = value;
        break;
    }
    case CLI_UINT:
    case CLI_SIZE:
        store_number(parse, option, value);
        break;
    }
    if (parse->seen != NULL)
        parse->seen(parse->arg, option, value);
}

static const struct cli_option *find_option(const struct parse *parse, const char *name, size_t len)
{
    for (size_t i = 0; i < parse->n_options; i++) {
        const char *candidate = parse->options[i].name;
        if (strlen(candidate) == len && memcmp(candidate, name, len) == 0)
            return &parse->options[i];
    }
    return NULL;
}

/* Handles the option at argv[at]; returns how many words it took. */
static int parse_option(const struct parse *parse, int argc, char **argv, int at)
{
    const char *word = argv[at];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        print_help(parse);
    if (word[1] != '-')
        mistake(parse, "there is no option '%.100s', options start with two dashes", word);
    const char *name = word + 2;
    size_t len = strcspn(name, "=");
    const struct cli_option *option = find_option(parse, name, len);
    if (option == NULL)
        mistake(parse, "there is no option '--%.*s'", (int)MIN(len, (size_t)100), name);
    const char *value = name[len] == '=' ? name + len + 1 : NULL;
    if (option->kind == CLI_FLAG) {
        if (value != NULL)
            mistake(parse, "the option --%s takes no value", option->name);
        store(parse, option, NULL);
        return 1;
    }
    if (value != NULL) {
        store(parse, option, value);
        return 1;
    }
    if (at + 1 >= argc)
        mistake(parse, "the option --%s needs a value: %s", option->name,
                option->value_name != NULL ? option->value_name : "VALUE");
    store(parse, option, argv[at + 1]);
    return 2;
}

void cli_parse_seen(int argc, char **argv, const char *usage, const char *about,
                    const struct cli_option *options, size_t n_options, int *ret_n_args,
                    cli_seen_fn seen, void *arg)
{
    struct parse parse = {usage, about, options, n_options, seen, arg};
    int n_args = 0;
    bool ended = false;
    for (int at = 1; at < argc;) {
        char *word = argv[at];
        /* A single dash is an operand: standard input or output. */
        if (ended || word[0] != '-' || word[1] == '\0') {
            argv[++n_args] = word;
            at++;
        } else if (strcmp(word, "--") == 0) {
            ended = true;
            at++;
        } else {
            at += parse_option(&parse, argc, argv, at);
        }
    }
    *ret_n_args = n_args;
}

void cli_parse(int argc, char **argv, const char *usage, const char *about,
               const struct cli_option *options, size_t n_options, int *ret_n_args)
{
    cli_parse_seen(argc, argv, usage, about, options, n_options, ret_n_args, NULL, NULL);
}
