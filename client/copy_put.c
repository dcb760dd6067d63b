#include "copy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static int put_bytes(struct copy *copy, int fd, const char *from, struct tarn_put *put,
                     const char *to, uint64_t *ret_bytes)
{
    for (*ret_bytes = 0;;) {
        ssize_t n = read(fd, copy->window, COPY_WINDOW_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return copy_complain_local("read", from);
        if (n == 0)
            return CLI_OK;
        if (tarn_put_write(put, copy->window, (size_t)n) < 0)
            return command_failed("put", to);
        *ret_bytes += (uint64_t)n;
        progress_add(&copy->progress, (uint64_t)n);
    }
}

static int put_fd(struct copy *copy, int fd, const char *from, const char *to)
{
    struct stat st;
    bool regular = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    mode_t mode = regular ? st.st_mode & 0777 : 0644;
    struct tarn_put *put = NULL;
    uint64_t bytes;
    if (tarn_put_begin(copy->tarn, to, mode, (unsigned)copy->copies, &put) < 0)
        return command_failed("put", to);
    if (regular)
        tarn_put_expect(put, (uint64_t)st.st_size);
    int code = put_bytes(copy, fd, from, put, to, &bytes);
    if (code != CLI_OK)
        tarn_put_abort(put);
    else if (tarn_put_commit(put) < 0)
        code = command_failed("put", to);
    else
        copy_done(copy, from, to, bytes);
    return code;
}

static int put_file(struct copy *copy, const char *from, const char *to)
{
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return copy_complain_local("open", from);
    int code = put_fd(copy, fd, from, to);
    close(fd);
    return code;
}

static int put_link(struct copy *copy, const char *from, const char *to)
{
    char target[PATH_MAX];
    ssize_t n = readlink(from, target, sizeof target - 1);
    if (n < 0)
        return copy_complain_local("read the symbolic link", from);
    target[n] = '\0';
    int err = tarn_symlink(copy->tarn, target, to);
    if (err == -EEXIST && tarn_unlink(copy->tarn, to) == 0)
        err = tarn_symlink(copy->tarn, target, to);
    if (err == -ENOENT) { /* no directory yet: puts make them on the way, links do not */
        _cleanup_free_ char *parent = strndup(to, (size_t)(strrchr(to, '/') - to));
        if (parent != NULL && tarn_mkdir(copy->tarn, parent, 0755, true) == 0)
            err = tarn_symlink(copy->tarn, target, to);
    }
    return err < 0 ? command_failed("put", to) : CLI_OK;
}

static int put_dir(struct copy *copy, const char *from, const char *to);

static int put_entry(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    if (lstat(from, &st) < 0)
        return copy_complain_local("open", from);
    if (S_ISDIR(st.st_mode))
        return put_dir(copy, from, to);
    if (S_ISLNK(st.st_mode))
        return put_link(copy, from, to);
    if (S_ISREG(st.st_mode))
        return put_file(copy, from, to);
    cli_complain("%s is not put: it is neither a file, a directory nor a symbolic link", from);
    return CLI_FAILED;
}

static int put_dir(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    DIR *dir = opendir(from);
    if (dir == NULL)
        return copy_complain_local("open", from);
    int code = CLI_OK;
    bool empty = true;
    for (struct dirent *entry; (errno = 0, entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        empty = false;
        _cleanup_free_ char *child_from = copy_join(from, entry->d_name),
                            *child_to = copy_join(to, entry->d_name);
        int child = put_entry(copy, child_from, child_to);
        code = code != CLI_OK ? code : child;
    }
    if (errno != 0)
        code = copy_complain_local("read", from);
    else if (empty && tarn_mkdir(copy->tarn, to,
                                 fstat(dirfd(dir), &st) == 0 ? st.st_mode & 0777 : 0755, true) < 0)
        code = command_failed("make directory", to);
    closedir(dir);
    return code;
}

int copy_put(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    if (strcmp(from, "-") == 0)
        return put_fd(copy, STDIN_FILENO, from, to);
    if (stat(from, &st) < 0)
        return copy_complain_local("open", from);
    if (!S_ISDIR(st.st_mode))
        return put_file(copy, from, to);
    return copy->recursive ? put_dir(copy, from, to) : copy_needs_recursive(from);
}
