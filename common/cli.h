/* Command lines from tables: sub-commands, long options, --help and exit codes are made from rows.
 * Exit codes (docs/ops/exit-codes.md): 0 done; 1 failed; 2 usage; 3 not found; 4 denied or wrong key;
 * 5 cluster not reachable; 6 no space; 7 address in use; 8 some tasks failed;
 * 9 the replica was removed from the service; 10 a check found damage. */
#ifndef TARN_COMMON_CLI_H
#define TARN_COMMON_CLI_H
#include "base.h"

enum cli_exit {
    CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_NOT_FOUND = 3, CLI_DENIED = 4,
    CLI_UNREACHABLE = 5, CLI_NO_SPACE = 6, CLI_IN_USE = 7, CLI_TASKS_FAILED = 8, CLI_REMOVED = 9, CLI_DAMAGED = 10
};
int cli_exit_for(int err); /* negative err code → exit code */

enum cli_kind { CLI_FLAG, CLI_STRING, CLI_ADDRESS, CLI_UINT, CLI_SIZE, CLI_STRINGS };
/* One option. `target` is bool*, const char**, uint64_t* or struct cli_strings*. CLI_ADDRESS is a string
 * that is a network address. CLI_SIZE takes
 * K M G T suffixes (powers of 1024). min and max bound CLI_UINT and CLI_SIZE (0,0 = any). */
struct cli_strings {
    const char *items[64];
    unsigned count;
};
struct cli_option {
    const char *name; /* without the dashes */
    enum cli_kind kind;
    void *target;
    const char *value_name; /* for help; NULL for flags */
    const char *help;
    uint64_t min, max;
};
/* Parses argv[1..] of a program or sub-command; options may stand anywhere, "--" ends them,
 * "--name=value" and "--name value" both work. Operands are moved to argv[1..*ret_n_args].
 * --help prints usage made from the table and exits 0. A mistake prints one sentence that names the
 * option and the allowed range and exits 2. */
void cli_parse(int argc, char **argv, const char *usage, const char *about,
               const struct cli_option *options, size_t n_options, int *ret_n_args);
/* Order-sensitive variant for `job run`: called for every option in order when not NULL. */
typedef void (*cli_seen_fn)(void *arg, const struct cli_option *option, const char *value);
void cli_parse_seen(int argc, char **argv, const char *usage, const char *about,
                    const struct cli_option *options, size_t n_options, int *ret_n_args,
                    cli_seen_fn seen, void *arg);
/* "tarn: cannot WHAT: WHY" — one sentence on standard error. */
void cli_complain(const char *fmt, ...) _printf_(1, 2);
int cli_parse_size(const char *text, uint64_t *ret); /* 0 or -E_INVAL */
void cli_format_size(uint64_t bytes, char out[16]);  /* "1.5 GiB" */
#endif
