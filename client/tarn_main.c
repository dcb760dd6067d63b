/* tarn: the command line for users and operators. */
#include "commands.h"

#include "common/log.h"

#include <stdio.h>

static const struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    {"put", command_put, "store files or standard input as objects"},
    {"get", command_get, "fetch objects into files"},
    {"cat", command_cat, "write objects to standard output"},
    {"ls", command_ls, "list a directory or bucket"},
    {"rm", command_rm, "remove files and directories"},
    {"stat", command_stat, "show what is known of a file"},
    {"mkdir", command_mkdir, "make directories and buckets"},
    {"mv", command_mv, "rename or move inside the tree"},
    {"cp", command_cp, "copy between the tree and local files"},
    {"locate", command_locate, "show which nodes hold the bytes"},
    {"mount", command_mount, "mount the tree at a directory"},
    {"umount", command_umount, "unmount it"},
    {"job", command_job, "run work where the data is"},
    {"quota", command_quota, "limits of directories, users and groups: set, get, ls, rm"},
    {"snapshot", command_snapshot, "a directory as it was: take, ls, rm, clone"},
    {"node", command_node, "storage nodes: ls, drain, undrain, rack"},
    {"disk", command_disk, "their disks: ls"},
    {"policy", command_policy, "how a directory's data is kept: get, set"},
    {"heal", command_heal, "copies that are missing, and what is done: status"},
    {"scrub", command_scrub, "read every chunk now, repair what is damaged"},
    {"meta", command_meta, "metadata replicas: status, add, remove, replace, transfer, check"},
    {"status", command_status, "is my data safe"},
    {"cluster", command_cluster, "a whole cluster on this machine: up, down, status"},
};

static void print_help(FILE *out)
{
    fputs("Usage: tarn COMMAND [OPTION...] [ARGUMENT...]\n\n"
          "One store for a cluster: files, objects, and work that goes to the data.\n\nCommands:\n",
          out);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(out, "  %-8s  %s\n", commands[i].name, commands[i].help);
    fputs("\nEvery command takes --help, --json and --config FILE (default $TARN_CONFIG, then\n"
          "/etc/tarn/tarn.conf). Paths are /bucket/key; '-' is standard input or output.\n"
          "Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 denied, 5 cluster not reachable,\n"
          "6 no space, 7 address in use, 8 tasks failed.\n",
          out);
}

int main(int argc, char **argv)
{
    log_init("tarn");
    if (getenv("TARN_LOG") == NULL)
        log_set_level(LOG_ERROR); /* a command tells one sentence about what it could not do, not what it tried again */
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("tarn " TARN_VERSION);
        return CLI_OK;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    cli_complain("there is no command '%s'; 'tarn --help' lists them", argv[1]);
    return CLI_USAGE;
}
