/* tarn mount, tarn umount. */
#include "commands.h"
#include "mounts.h"
#include "out.h"
#include "program.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

/* Waits for the program that mounts; it has told its failure itself. */
static int report_mount(pid_t child, const char *point)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return WIFEXITED(status) ? WEXITSTATUS(status) : CLI_FAILED;
    out_json("{s:s}", "mounted", point);
    return CLI_OK;
}

int command_mount(int argc, char **argv)
{
    bool json = false, foreground = false;
    const char *config = NULL, *mount_options = NULL, *log = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "print one JSON object when it is mounted", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
        {"options", CLI_STRING, &mount_options, "A,B", "mount options: relatime (as without), strictatime, noatime, session=SECONDS, passthrough=auto|on|off, verify=always", 0, 0},
        {"log", CLI_STRING, &log, "FILE", "log file when in the background", 0, 0},
        {"foreground", CLI_FLAG, &foreground, NULL, "stay in the foreground", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn mount DIR", "Mounts the tree at DIR and returns when it is usable.",
              options, ARRAY_SIZE(options), &n_args);
    if (n_args != 1) {
        cli_complain("mount needs one directory; see tarn mount --help");
        return CLI_USAGE;
    }
    if (mounts_is_tarn(argv[1])) {
        cli_complain(
            "cannot mount at %s: Tarn is mounted there already; 'tarn umount %s' ends that",
            argv[1], argv[1]);
        return CLI_FAILED;
    }
    char binary[PATH_MAX];
    if (program_find("tarn-mount", binary, sizeof binary) != 0) {
        cli_complain(
            "cannot find the program tarn-mount; set TARN_BINDIR to where Tarn's programs are");
        return CLI_FAILED;
    }
    const char *args[16] = {binary};
    int n = 1;
    if (config != NULL) {
        args[n++] = "--config";
        args[n++] = config;
    }
    if (mount_options != NULL) {
        args[n++] = "--options";
        args[n++] = mount_options;
    }
    if (log != NULL) {
        args[n++] = "--log";
        args[n++] = log;
    }
    if (foreground)
        args[n++] = "--foreground";
    args[n++] = argv[1];
    pid_t child = json ? fork() : 0;
    if (child > 0)
        return report_mount(child, argv[1]);
    if (child == 0)
        execv(binary, (char *const *)args);
    cli_complain("cannot execute %s: %s", binary, strerror(errno));
    return CLI_FAILED;
}

static int unmount(const char *point, bool lazy, bool json)
{
    int err = umount2(point, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0 ? 0 : errno;
    if (err == EPERM) {
        execlp("fusermount3", "fusermount3", lazy ? "-uz" : "-u", point, NULL);
        cli_complain("cannot execute fusermount3: %s", strerror(errno));
        return CLI_FAILED;
    }
    if (err != 0) {
        cli_complain("cannot unmount %s: %s", point,
                     err == EBUSY ? "it is in use; close what uses it or give --lazy"
                                  : strerror(err));
        return CLI_FAILED;
    }
    if (json)
        out_json("{s:s}", "unmounted", point);
    return CLI_OK;
}

int command_umount(int argc, char **argv)
{
    bool json = false, lazy = false;
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "print one JSON object when it is unmounted", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "accepted for uniformity", 0, 0},
        {"lazy", CLI_FLAG, &lazy, NULL, "detach now, end when the last file is closed", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn umount DIR", "Unmounts the tree.", options, ARRAY_SIZE(options),
              &n_args);
    if (n_args != 1) {
        cli_complain("umount needs one directory; see tarn umount --help");
        return CLI_USAGE;
    }
    if (access(argv[1], F_OK) < 0 && errno == ENOENT) {
        cli_complain("cannot unmount %s: %s", argv[1], strerror(errno));
        return CLI_NOT_FOUND;
    }
    if (!mounts_is_tarn(argv[1])) {
        cli_complain("cannot unmount %s: Tarn is not mounted there", argv[1]);
        return CLI_NOT_FOUND;
    }
    return unmount(argv[1], lazy, json);
}
