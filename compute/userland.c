#include "userland.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#define ETC_FILE_MAX MIB(1)

/* Host paths seen in the sandbox, when they exist: directories are bound, symbolic links repeated. */
static const char *const system_paths[] = {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
                                           "/etc/alternatives"};
/* Copied: the host may replace them at any time by rename. */
static const char *const etc_files[] = {"/etc/passwd",     "/etc/group",    "/etc/ld.so.cache", "/etc/ld.so.conf",
                                        "/etc/nsswitch.conf", "/etc/localtime", "/etc/protocols",   "/etc/services"};
static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
static const struct {
    const char *target, *name;
} links[] = {
    {"/proc/self/fd", "dev/fd"},        {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
    {"/proc/self/fd/2", "dev/stderr"},  {"/tmp", "dev/shm"},              {"/tmp", "var/tmp"},
};
static const char *const directories[] = {"dev", "etc", "proc", "tmp", "var", "run", "root", "home", "tarn", "tarn/input"};

static int fail(const char **ret_step, const char *step)
{
    *ret_step = step;
    return -1;
}

/* Paths below the new root, which is the working directory while it is built. */
static const char *relative(const char *path)
{
    return path + 1;
}

static int set_attributes(int tree, uint64_t attributes)
{
    struct mount_attr attr = {.attr_set = attributes};
    return (int)syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof attr);
}

/* Binds `from` with everything mounted below it, read-only, without set-user-id or (unless asked) devices. */
static int bind_read_only(const char *from, const char *to, uint64_t attributes)
{
    int tree = (int)syscall(SYS_open_tree, AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (tree < 0)
        return -1;
    int err = set_attributes(tree, attributes);
    if (err == 0)
        err = (int)syscall(SYS_move_mount, tree, "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH);
    int saved = errno;
    close(tree);
    errno = saved;
    return err;
}

static int add_system_path(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? 0 : -1;
    if (S_ISLNK(st.st_mode)) {
        char target[256];
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n < 0)
            return -1;
        target[n] = '\0';
        return symlink(target, relative(path));
    }
    if (mkdir(relative(path), 0755) != 0)
        return -1;
    return bind_read_only(path, relative(path), MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

static int make_file(const char *path, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (fd < 0)
        return -1;
    return close(fd);
}

static int copy_file(const char *from)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    if (in < 0)
        return errno == ENOENT ? 0 : -1;
    int out = open(relative(from), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    char buf[8192];
    ssize_t n = 0;
    size_t total = 0;
    int err = out < 0 ? -1 : 0;
    while (err == 0 && total < ETC_FILE_MAX && (n = read(in, buf, sizeof buf)) > 0) {
        err = write(out, buf, (size_t)n) == n ? 0 : -1;
        total += (size_t)n;
    }
    if (n < 0)
        err = -1;
    if (out >= 0)
        close(out);
    close(in);
    return err;
}

static int add_device(const char *path)
{
    if (make_file(relative(path), 0644) != 0)
        return -1;
    return bind_read_only(path, relative(path), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
}

static int build(const char **ret_step)
{
    for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
        if (mkdir(directories[i], 0755) != 0)
            return fail(ret_step, "directories of the sandbox");
    for (size_t i = 0; i < ARRAY_SIZE(system_paths); i++)
        if (add_system_path(system_paths[i]) != 0)
            return fail(ret_step, system_paths[i]);
    for (size_t i = 0; i < ARRAY_SIZE(etc_files); i++)
        if (copy_file(etc_files[i]) != 0)
            return fail(ret_step, etc_files[i]);
    for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
        if (add_device(devices[i]) != 0)
            return fail(ret_step, devices[i]);
    for (size_t i = 0; i < ARRAY_SIZE(links); i++)
        if (symlink(links[i].target, links[i].name) != 0)
            return fail(ret_step, "links of the sandbox");
    return 0;
}

int userland_enter(const char *dir, const char **ret_step)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        return fail(ret_step, "private mounts");
    if (mount("tarn-root", dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=4m,mode=755") != 0)
        return fail(ret_step, "root of the sandbox");
    if (chdir(dir) != 0 || mkdir(".host", 0700) != 0)
        return fail(ret_step, "root of the sandbox");
    if (build(ret_step) != 0)
        return -1;
    if (syscall(SYS_pivot_root, ".", ".host") != 0 || chdir("/") != 0)
        return fail(ret_step, "pivot_root");
    if (umount2("/.host", MNT_DETACH) != 0 || rmdir("/.host") != 0)
        return fail(ret_step, "leave the host's root");
    if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) != 0)
        return fail(ret_step, "read-only root");
    return 0;
}

static int bind_input(const char *name, int tree)
{
    if (mount("tarn-input", "/tarn/input", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=755") != 0)
        return -1;
    char path[300];
    if ((size_t)snprintf(path, sizeof path, "/tarn/input/%s", name) >= sizeof path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (make_file(path, 0444) != 0)
        return -1;
    if (syscall(SYS_move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) != 0)
        return -1;
    return mount(NULL, "/tarn/input", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

int userland_furnish(uint64_t scratch, const char *input_name, int input_tree, const char **ret_step)
{
    char options[64];
    snprintf(options, sizeof options, "size=%llu,mode=1777", (unsigned long long)scratch);
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0)
        return fail(ret_step, "/proc");
    if (mount("tarn-scratch", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, options) != 0)
        return fail(ret_step, "/tmp");
    if (input_tree >= 0 && bind_input(input_name, input_tree) != 0)
        return fail(ret_step, "/tarn/input");
    return 0;
}
