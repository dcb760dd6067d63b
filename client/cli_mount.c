/* tarn mount, tarn umount. */
#include "commands.h"
#include "program.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

int command_mount(int argc, char **argv)
{
    bool json = false, foreground = false;
    const char *config = NULL, *mount_options = NULL, *log = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "accepted for uniformity", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
        {"options", CLI_STRING, &mount_options, "A,B", "mount options", 0, 0},
        {"log", CLI_STRING, &log, "FILE", "log file when in the background", 0, 0},
        {"foreground", CLI_FLAG, &foreground, NULL, "stay in the foreground", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn mount DIR", "Mounts the tree at DIR and returns when it is usable.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args != 1) {
        cli_complain("tarn mount needs one directory; see tarn mount --help");
        return CLI_USAGE;
    }
    char binary[PATH_MAX];
    if (program_find("tarn-mount", binary, sizeof binary) != 0) {
        cli_complain("cannot find the program tarn-mount; set TARN_BINDIR to where Tarn's programs are");
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
    execv(binary, (char *const *)args);
    cli_complain("cannot execute %s: %s", binary, strerror(errno));
    return CLI_FAILED;
}

int command_umount(int argc, char **argv)
{
    bool json = false, lazy = false;
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "accepted for uniformity", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "accepted for uniformity", 0, 0},
        {"lazy", CLI_FLAG, &lazy, NULL, "detach now, end when the last file is closed", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn umount DIR", "Unmounts the tree.", options, ARRAY_SIZE(options), &n_args);
    if (n_args != 1) {
        cli_complain("tarn umount needs one directory; see tarn umount --help");
        return CLI_USAGE;
    }
    if (umount2(argv[1], UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0)) == 0)
        return CLI_OK;
    if (errno == EPERM) {
        execlp("fusermount3", "fusermount3", lazy ? "-uz" : "-u", argv[1], NULL);
        cli_complain("cannot execute fusermount3: %s", strerror(errno));
        return CLI_FAILED;
    }
    cli_complain("cannot unmount %s: %s", argv[1],
                 errno == EINVAL ? "nothing is mounted there"
                 : errno == EBUSY ? "it is in use; close what uses it or give --lazy"
                                  : strerror(errno));
    return errno == ENOENT || errno == EINVAL ? CLI_NOT_FOUND : CLI_FAILED;
}
