#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

int copy_complain_local(const char *what, const char *path)
{
    int saved = errno;
    cli_complain("cannot %s %s: %s", what, path, strerror(saved));
    return saved == ENOENT                      ? CLI_NOT_FOUND
           : saved == EACCES || saved == EPERM  ? CLI_DENIED
           : saved == ENOSPC || saved == EDQUOT ? CLI_NO_SPACE
                                                : CLI_FAILED;
}

int copy_needs_recursive(const char *from)
{
    cli_complain("%s is a directory; give --recursive to copy it and all below it", from);
    return CLI_USAGE;
}

void copy_done(const struct copy *copy, const char *from, const char *to, uint64_t bytes)
{
    if (copy->json)
        out_json("{s:s,s:s,s:I}", "from", from, "to", to, "bytes", (long long)bytes);
}

char *copy_join(const char *dir, const char *name)
{
    char *path = NULL;
    size_t n = strlen(dir);
    while (n > 0 && dir[n - 1] == '/')
        n--;
    if (asprintf(&path, "%.*s/%s", (int)n, dir, name) < 0)
        abort();
    return path;
}

static int inside_bytes(struct copy *copy, struct tarn_file *file, const char *from,
                        struct tarn_put *put, uint64_t *ret_bytes)
{
    for (uint64_t offset = 0;;) {
        ssize_t n = tarn_pread(file, copy->window, COPY_WINDOW_BYTES, (off_t)offset);
        *ret_bytes = offset;
        if (n == 0)
            return CLI_OK;
        if (n < 0 || tarn_put_write(put, copy->window, (size_t)n) < 0)
            return command_failed("copy", from);
        offset += (uint64_t)n;
        progress_add(&copy->progress, (uint64_t)n);
    }
}

static int inside_file(struct copy *copy, const char *from, const char *to, const struct stat *st)
{
    struct tarn_file *file = NULL;
    struct tarn_put *put = NULL;
    uint64_t bytes = 0;
    if (tarn_file_open(copy->tarn, from, O_RDONLY, 0, &file) < 0)
        return command_failed("copy", from);
    int code = tarn_put_begin(copy->tarn, to, st->st_mode & 0777, (unsigned)copy->copies, &put) < 0
                   ? command_failed("copy to", to)
                   : CLI_OK;
    if (code == CLI_OK && st->st_size > 0)
        tarn_put_expect(put, (uint64_t)st->st_size);
    if (code == CLI_OK)
        code = inside_bytes(copy, file, from, put, &bytes);
    if (put != NULL && code != CLI_OK)
        tarn_put_abort(put);
    else if (put != NULL && tarn_put_commit(put) < 0)
        code = command_failed("copy to", to);
    if (tarn_file_close(file) < 0 && code == CLI_OK)
        code = command_failed("close", from);
    if (code == CLI_OK)
        copy_done(copy, from, to, bytes);
    return code;
}

struct inside_dir {
    struct copy *copy;
    const char *from, *to;
    int code;
};

static int inside_tree(struct copy *copy, const char *from, const char *to, const struct stat *st);

static int inside_entry(void *arg, const char *name, const struct stat *st)
{
    struct inside_dir *dir = arg;
    _cleanup_free_ char *from = copy_join(dir->from, name), *to = copy_join(dir->to, name);
    int code = inside_tree(dir->copy, from, to, st);
    dir->code = dir->code != CLI_OK ? dir->code : code;
    return 0;
}

static int inside_tree(struct copy *copy, const char *from, const char *to, const struct stat *st)
{
    if (S_ISLNK(st->st_mode)) {
        _cleanup_free_ char *target = NULL;
        bool done = tarn_readlink(copy->tarn, from, &target) == 0 &&
                    tarn_symlink(copy->tarn, target, to) == 0;
        return done ? CLI_OK : command_failed("copy", from);
    }
    if (!S_ISDIR(st->st_mode))
        return inside_file(copy, from, to, st);
    if (!copy->recursive)
        return copy_needs_recursive(from);
    if (tarn_mkdir(copy->tarn, to, st->st_mode & 0777, true) < 0)
        return command_failed("make directory", to);
    struct inside_dir dir = {.copy = copy, .from = from, .to = to};
    if (tarn_list(copy->tarn, from, inside_entry, &dir) < 0)
        return command_failed("list", from);
    return dir.code;
}

int copy_inside(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    if (tarn_stat(copy->tarn, from, &st) < 0)
        return command_failed("copy", from);
    size_t n = strlen(from);
    while (n > 1 && from[n - 1] == '/')
        n--;
    if (S_ISDIR(st.st_mode) && strncmp(to, from, n) == 0 && (to[n] == '/' || to[n] == '\0')) {
        cli_complain("cannot copy %s into itself, %s; choose a target outside of it", from, to);
        return CLI_USAGE;
    }
    return inside_tree(copy, from, to, &st);
}
