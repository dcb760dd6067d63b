/* check [--states N] FILE...: are the histories, taken together, linearizable? Exit 0 yes, 1 no (the object's operations are
 * printed), 2 a file is none or the search was given up. */
#include "linear.h"

#include "common/cli.h"
#include "common/err.h"

int main(int argc, char **argv)
{
    uint64_t states = 20000000;
    const struct cli_option options[] = {
        {"states", CLI_UINT, &states, "N", "configurations looked at for one object before the search is given up", 1000, 1000000000},
    };
    int n = 0;
    cli_parse(argc, argv, "check [--states N] FILE...", "Checks recorded histories.", options, ARRAY_SIZE(options), &n);
    struct history history = {0};
    for (int i = 1; i <= n; i++) {
        unsigned line;
        int err = history_load(&history, argv[i], &line);
        if (err != 0) {
            cli_complain("cannot use %s, line %u: %s", argv[i], line, err_sentence(err));
            return 2;
        }
    }
    struct linear_report report;
    enum linear_verdict verdict = linear_check(&history, states, &report);
    printf("%zu operations on %zu objects, %zu without a known result, %zu configurations: %s\n", report.ops, report.objects, report.unknown,
           report.configurations, verdict == LINEAR_YES ? "linearizable" : verdict == LINEAR_NO ? "NOT linearizable" : "undecided");
    for (size_t i = 0; i < report.n_bad; i++)
        history_print(stdout, &report.bad[i]);
    if (report.n_bad > 0) {
        printf("after %zu of these there is no place for: ", report.placed);
        history_print(stdout, &report.blocked);
    }
    free(report.bad);
    history_fini(&history);
    if (report.ops == 0) {
        cli_complain("there is nothing to check");
        return 2;
    }
    return verdict == LINEAR_YES ? 0 : verdict == LINEAR_NO ? 1 : 2;
}
