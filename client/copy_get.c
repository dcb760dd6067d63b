#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

/* ---- the file that is being written: a signal takes it away */

static char *volatile part_path;
static const int ending[] = {SIGINT, SIGTERM, SIGHUP};

static void remove_part(int signal_number)
{
    if (part_path != NULL)
        unlink(part_path);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void part_begin(char *path)
{
    part_path = path;
    for (size_t i = 0; i < ARRAY_SIZE(ending); i++)
        signal(ending[i], remove_part);
}

static void part_end(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(ending); i++)
        signal(ending[i], SIG_DFL);
    part_path = NULL;
}

/* ---- files */

static int write_all(int fd, const uint8_t *data, size_t n)
{
    while (n != 0) {
        ssize_t done = write(fd, data, n);
        if (done < 0 && errno != EINTR)
            return -1;
        if (done > 0) {
            data += done;
            n -= (size_t)done;
        }
    }
    return 0;
}

int copy_get_fd(struct copy *copy, const char *from, int fd, const char *to)
{
    struct tarn_file *file = NULL;
    if (tarn_file_open(copy->tarn, from, O_RDONLY, 0, &file) < 0)
        return command_failed("get", from);
    int code = CLI_OK;
    uint64_t offset = 0;
    for (;;) {
        ssize_t n = tarn_pread(file, copy->window, COPY_WINDOW_BYTES, (off_t)offset);
        if (n < 0)
            code = command_failed("read", from);
        else if (n > 0 && write_all(fd, copy->window, (size_t)n) < 0)
            code = copy_complain_local("write", strcmp(to, "-") == 0 ? "standard output" : to);
        if (n <= 0 || code != CLI_OK)
            break;
        offset += (uint64_t)n;
        progress_add(&copy->progress, (uint64_t)n);
    }
    if (tarn_file_close(file) < 0 && code == CLI_OK)
        code = command_failed("close", from);
    return code;
}

static int get_into(struct copy *copy, const char *from, const char *to, int fd)
{
    if (fd < 0)
        return copy_complain_local("create", to);
    int code = copy_get_fd(copy, from, fd, to);
    if (close(fd) < 0 && code == CLI_OK)
        code = copy_complain_local("write", to);
    return code;
}

/* Beside its target, so that the rename stays in one file system. */
static int get_whole(struct copy *copy, const char *from, const char *to, mode_t mode)
{
    _cleanup_free_ char *part = NULL;
    const char *slash = strrchr(to, '/');
    if (asprintf(&part, "%.*s.tarn-part-%d", slash != NULL ? (int)(slash + 1 - to) : 0, to,
                 (int)getpid()) < 0)
        abort();
    part_begin(part);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode & 0777);
    int code = fd < 0 ? copy_complain_local("create", to) : get_into(copy, from, to, fd);
    if (code == CLI_OK && rename(part, to) < 0)
        code = copy_complain_local("create", to);
    if (code != CLI_OK && fd >= 0)
        unlink(part);
    part_end();
    return code;
}

static int get_file(struct copy *copy, const char *from, const char *to, const struct stat *st)
{
    struct stat there;
    if (strcmp(to, "-") == 0)
        return copy_get_fd(copy, from, STDOUT_FILENO, to);
    bool whole = lstat(to, &there) < 0 || S_ISREG(there.st_mode);
    int code = whole ? get_whole(copy, from, to, st->st_mode)
                     : get_into(copy, from, to, open(to, O_WRONLY | O_TRUNC | O_CLOEXEC));
    if (code == CLI_OK)
        copy_done(copy, from, to, (uint64_t)st->st_size);
    return code;
}

/* ---- links and directories */

static int get_link(struct copy *copy, const char *from, const char *to)
{
    _cleanup_free_ char *target = NULL;
    if (tarn_readlink(copy->tarn, from, &target) < 0)
        return command_failed("get", from);
    struct stat st;
    if (lstat(to, &st) == 0 && S_ISLNK(st.st_mode))
        unlink(to);
    return symlink(target, to) < 0 ? copy_complain_local("make the symbolic link", to) : CLI_OK;
}

struct get_dir {
    struct copy *copy;
    const char *from, *to;
    int code;
};

static int get_dir(struct copy *copy, const char *from, const char *to, const struct stat *st);

static int get_entry(void *arg, const char *name, const struct stat *st)
{
    struct get_dir *dir = arg;
    _cleanup_free_ char *from = copy_join(dir->from, name), *to = copy_join(dir->to, name);
    int code = CLI_FAILED;
    if (S_ISDIR(st->st_mode))
        code = get_dir(dir->copy, from, to, st);
    else if (S_ISLNK(st->st_mode))
        code = get_link(dir->copy, from, to);
    else if (S_ISREG(st->st_mode))
        code = get_file(dir->copy, from, to, st);
    else
        cli_complain("%s is not fetched: it is neither a file, a directory nor a symbolic link",
                     from);
    dir->code = dir->code != CLI_OK ? dir->code : code;
    return 0;
}

static int get_dir(struct copy *copy, const char *from, const char *to, const struct stat *st)
{
    struct stat there;
    /* Its owner must be able to fill it. */
    if (mkdir(to, (st->st_mode & 0777) | 0700) < 0 &&
        (errno != EEXIST || stat(to, &there) < 0 || !S_ISDIR(there.st_mode)))
        return copy_complain_local("make the directory", to);
    struct get_dir dir = {.copy = copy, .from = from, .to = to};
    if (tarn_list(copy->tarn, from, get_entry, &dir) < 0)
        return command_failed("list", from);
    return dir.code;
}

int copy_get(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    if (tarn_stat(copy->tarn, from, &st) < 0)
        return command_failed("get", from);
    if (!S_ISDIR(st.st_mode))
        return get_file(copy, from, to, &st);
    return copy->recursive ? get_dir(copy, from, to, &st) : copy_needs_recursive(from);
}
