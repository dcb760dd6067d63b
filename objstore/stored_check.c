/* tarn-stored check DIR...: the command line around check.c. */
#include "check.h"

#include "common/cli.h"
#include "common/err.h"
#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

struct command {
    struct io *io;
    char **dirs;
    int n;
    bool json, fast, damaged, failed;
    const char *dir; /* the one that is looked at */
};

static void print_json_text(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\' || c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void finding(void *arg, bool damage, const char *sentence)
{
    const struct command *command = arg;
    if (!command->json) {
        printf("%s: %s%s\n", command->dir, damage ? "DAMAGED: " : "", sentence);
        return;
    }
    printf("{\"dir\":");
    print_json_text(command->dir);
    printf(",\"damage\":%s,\"finding\":", damage ? "true" : "false");
    print_json_text(sentence);
    puts("}");
}

static void print_summary(const struct command *command, const struct volume_check_summary *sum)
{
    char size[16];
    if (command->json) {
        printf("{\"dir\":");
        print_json_text(command->dir);
        printf(",\"clean\":%s,\"chunks\":%llu,\"sealed\":%llu,\"bytes\":%llu,\"damaged_chunks\":%llu,\"damaged_cells\":%llu,"
               "\"lost_files\":%llu,\"strays\":%llu,\"damage\":%llu}\n",
               sum->damage == 0 ? "true" : "false", (unsigned long long)sum->chunks, (unsigned long long)sum->sealed,
               (unsigned long long)sum->bytes, (unsigned long long)sum->damaged_chunks, (unsigned long long)sum->damaged_cells,
               (unsigned long long)sum->lost_files, (unsigned long long)sum->strays, (unsigned long long)sum->damage);
        return;
    }
    cli_format_size(sum->bytes, size);
    printf("%s: %s: %llu chunks (%llu sealed), %s of content %s, %llu damaged cells in %llu chunks\n", command->dir,
           sum->damage == 0 ? "clean" : "DAMAGED", (unsigned long long)sum->chunks, (unsigned long long)sum->sealed, size,
           command->fast ? "(not read)" : "read", (unsigned long long)sum->damaged_cells, (unsigned long long)sum->damaged_chunks);
}

/* The lock that a running store holds. A volume without the file was never in use, or is a copy. */
static int lock_dir(const char *dir, int *ret_fd)
{
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/lock", dir);
    *ret_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*ret_fd < 0)
        return errno == ENOENT ? 0 : err_from_errno(errno);
    return flock(*ret_fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno == EWOULDBLOCK ? -E_BUSY : err_from_errno(errno);
}

static void check_one(struct command *command, const char *dir)
{
    struct volume_check_summary sum;
    const char *why;
    int fd;
    command->dir = dir;
    int err = lock_dir(dir, &fd);
    why = err == -E_BUSY ? "a tarn-stored runs on it: stop it first, or use tarn scrub" : err_sentence(err);
    if (err == 0)
        err = volume_check(command->io, dir, command->fast, finding, command, &sum, &why);
    if (fd >= 0)
        close(fd);
    if (err != 0) {
        command->failed = true;
        cli_complain("cannot check %s: %s", dir, why);
        return;
    }
    command->damaged |= sum.damage > 0;
    print_summary(command, &sum);
}

static void check_fiber(void *arg)
{
    struct command *command = arg;
    for (int i = 0; i < command->n; i++)
        check_one(command, command->dirs[i]);
    io_stop(command->io);
}

int stored_check(int argc, char **argv)
{
    struct command command = {0};
    const struct cli_option options[] = {
        {"fast", CLI_FLAG, &command.fast, NULL, "does not read the content of chunks", 0, 0},
        {"json", CLI_FLAG, &command.json, NULL, "one JSON object for each finding and each directory", 0, 0},
    };
    cli_parse(argc, argv, "tarn-stored check DIR...",
              "Looks through the volumes of stores that do not run, and changes nothing. Exit code 0: all clean, 10: damage was "
              "found, 1: one could not be checked.",
              options, ARRAY_SIZE(options), &command.n);
    if (command.n == 0) {
        cli_complain("check takes the directories of one or more volumes; see tarn-stored check --help");
        return CLI_USAGE;
    }
    if (getenv("TARN_LOG") == NULL)
        log_set_level(LOG_ERROR);
    command.dirs = argv + 1;
    int err = io_uring_create(NULL, &command.io);
    if (err == 0)
        err = fiber_spawn(command.io, "check", check_fiber, &command);
    if (err == 0)
        err = io_run(command.io);
    if (err != 0) {
        cli_complain("cannot run: %s", err_sentence(err));
        return cli_exit_for(err);
    }
    io_destroy(command.io);
    return command.failed ? CLI_FAILED : command.damaged ? CLI_DAMAGED : CLI_OK;
}
