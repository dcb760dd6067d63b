/* tarn put, get, cat, cp: bytes in and out, streamed in windows. */
#include "commands.h"
#include "out.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define WINDOW_BYTES MIB(1)

struct copy {
    struct tarn *tarn;
    bool json, recursive;
    uint64_t copies;
    uint8_t *window;
    struct progress progress;
};

static int complain_local(const char *what, const char *path)
{
    cli_complain("cannot %s %s: %s", what, path, strerror(errno));
    return errno == ENOENT ? CLI_NOT_FOUND : errno == EACCES ? CLI_DENIED : errno == ENOSPC ? CLI_NO_SPACE : CLI_FAILED;
}

static void copied(struct copy *copy, const char *from, const char *to, uint64_t bytes)
{
    if (copy->json)
        out_json("{s:s,s:s,s:I}", "from", from, "to", to, "bytes", (long long)bytes);
}

/* ---- local to tree */

static int put_fd(struct copy *copy, int fd, const char *from, const char *to)
{
    struct stat st;
    mode_t mode = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? st.st_mode & 0777 : 0644;
    struct tarn_put *put = NULL;
    if (tarn_put_begin(copy->tarn, to, mode, (unsigned)copy->copies, &put) < 0)
        return command_failed("put", to);
    uint64_t total = 0;
    for (;;) {
        ssize_t n = read(fd, copy->window, WINDOW_BYTES);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            tarn_put_abort(put);
            return complain_local("read", from);
        }
        if (n == 0)
            break;
        if (tarn_put_write(put, copy->window, (size_t)n) < 0) {
            int code = command_failed("put", to);
            tarn_put_abort(put);
            return code;
        }
        total += (uint64_t)n;
        progress_add(&copy->progress, (uint64_t)n);
    }
    if (tarn_put_commit(put) < 0)
        return command_failed("put", to);
    copied(copy, from, to, total);
    return CLI_OK;
}

static int put_file(struct copy *copy, const char *from, const char *to)
{
    if (strcmp(from, "-") == 0)
        return put_fd(copy, STDIN_FILENO, from, to);
    int fd = open(from, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain_local("open", from);
    int code = put_fd(copy, fd, from, to);
    close(fd);
    return code;
}

static int put_tree(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    if (strcmp(from, "-") == 0 || (stat(from, &st) == 0 && !S_ISDIR(st.st_mode)))
        return put_file(copy, from, to);
    DIR *dir = opendir(from);
    if (dir == NULL)
        return complain_local("open", from);
    if (!copy->recursive) {
        closedir(dir);
        cli_complain("%s is a directory; give --recursive to put all of it", from);
        return CLI_USAGE;
    }
    int code = CLI_OK;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        _cleanup_free_ char *child_from = NULL, *child_to = NULL;
        if (asprintf(&child_from, "%s/%s", from, entry->d_name) < 0 || asprintf(&child_to, "%s/%s", to, entry->d_name) < 0)
            abort();
        int child = put_tree(copy, child_from, child_to);
        code = code != CLI_OK ? code : child;
    }
    closedir(dir);
    return code;
}

/* ---- tree to local */

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

static int get_fd(struct copy *copy, const char *from, int fd, const char *to)
{
    struct tarn_file *file = NULL;
    if (tarn_file_open(copy->tarn, from, O_RDONLY, 0, &file) < 0)
        return command_failed("get", from);
    int code = CLI_OK;
    uint64_t offset = 0;
    for (;;) {
        ssize_t n = tarn_pread(file, copy->window, WINDOW_BYTES, (off_t)offset);
        if (n < 0)
            code = command_failed("read", from);
        else if (n > 0 && write_all(fd, copy->window, (size_t)n) < 0)
            code = complain_local("write", to);
        if (n <= 0 || code != CLI_OK)
            break;
        offset += (uint64_t)n;
        progress_add(&copy->progress, (uint64_t)n);
    }
    if (tarn_file_close(file) < 0 && code == CLI_OK)
        code = command_failed("close", from);
    if (code == CLI_OK)
        copied(copy, from, to, offset);
    return code;
}

/* The file appears under its name only when it is complete. */
static int get_file(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    if (strcmp(to, "-") == 0)
        return get_fd(copy, from, STDOUT_FILENO, to);
    if (tarn_stat(copy->tarn, from, &st) < 0)
        return command_failed("get", from);
    _cleanup_free_ char *part = NULL;
    if (asprintf(&part, "%s.tarn-part", to) < 0)
        abort();
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, st.st_mode & 0777);
    if (fd < 0)
        return complain_local("create", part);
    int code = get_fd(copy, from, fd, to);
    if (close(fd) < 0 && code == CLI_OK)
        code = complain_local("write", to);
    if (code == CLI_OK && rename(part, to) < 0)
        code = complain_local("rename to", to);
    if (code != CLI_OK)
        unlink(part);
    return code;
}

struct get_dir {
    struct copy *copy;
    const char *from, *to;
    int code;
};

static int get_tree(struct copy *copy, const char *from, const char *to);

static int get_entry(void *arg, const char *name, const struct stat *st)
{
    struct get_dir *dir = arg;
    _cleanup_free_ char *from = NULL, *to = NULL;
    if (asprintf(&from, "%s/%s", dir->from, name) < 0 || asprintf(&to, "%s/%s", dir->to, name) < 0)
        abort();
    int code = S_ISDIR(st->st_mode) ? get_tree(dir->copy, from, to)
               : S_ISREG(st->st_mode) ? get_file(dir->copy, from, to)
                                      : CLI_OK;
    dir->code = dir->code != CLI_OK ? dir->code : code;
    return 0;
}

static int get_tree(struct copy *copy, const char *from, const char *to)
{
    if (mkdir(to, 0777) < 0 && errno != EEXIST)
        return complain_local("make directory", to);
    struct get_dir dir = {.copy = copy, .from = from, .to = to};
    if (tarn_list(copy->tarn, from, get_entry, &dir) < 0)
        return command_failed("list", from);
    return dir.code;
}

static int get_any(struct copy *copy, const char *from, const char *to)
{
    struct stat st;
    if (tarn_stat(copy->tarn, from, &st) < 0)
        return command_failed("get", from);
    if (!S_ISDIR(st.st_mode))
        return get_file(copy, from, to);
    if (copy->recursive)
        return get_tree(copy, from, to);
    cli_complain("%s is a directory; give --recursive to get all of it", from);
    return CLI_USAGE;
}

/* ---- the commands */

/* Where FROM lands when the last argument is a directory (or there are several FROM). */
static char *target_path(const char *to, const char *from, bool inside)
{
    char *path = NULL;
    const char *base = strrchr(from, '/');
    base = base != NULL ? base + 1 : from;
    size_t n = strlen(to);
    int done = inside ? asprintf(&path, "%s%s%s", to, n != 0 && to[n - 1] == '/' ? "" : "/", base) : asprintf(&path, "%s", to);
    if (done < 0)
        abort();
    return path;
}

static bool tree_is_dir(struct tarn *tarn, const char *path)
{
    struct stat st;
    size_t n = strlen(path);
    return (n != 0 && path[n - 1] == '/') || (tarn_stat(tarn, path, &st) == 0 && S_ISDIR(st.st_mode));
}

static bool local_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

enum direction { TO_TREE, FROM_TREE, INSIDE_TREE };

static int copy_inside(struct copy *copy, const char *from, const char *to)
{
    struct tarn_file *file = NULL;
    struct tarn_put *put = NULL;
    struct stat st;
    if (tarn_stat(copy->tarn, from, &st) < 0 || tarn_file_open(copy->tarn, from, O_RDONLY, 0, &file) < 0)
        return command_failed("copy", from);
    int code = tarn_put_begin(copy->tarn, to, st.st_mode & 0777, (unsigned)copy->copies, &put) < 0
                   ? command_failed("copy to", to)
                   : CLI_OK;
    uint64_t offset = 0;
    while (code == CLI_OK) {
        ssize_t n = tarn_pread(file, copy->window, WINDOW_BYTES, (off_t)offset);
        if (n == 0)
            break;
        if (n < 0 || tarn_put_write(put, copy->window, (size_t)n) < 0)
            code = command_failed("copy", from);
        offset += n > 0 ? (uint64_t)n : 0;
    }
    if (put != NULL && code != CLI_OK)
        tarn_put_abort(put);
    else if (put != NULL && tarn_put_commit(put) < 0)
        code = command_failed("copy to", to);
    if (tarn_file_close(file) < 0 && code == CLI_OK)
        code = command_failed("close", from);
    if (code == CLI_OK)
        copied(copy, from, to, offset);
    return code;
}

static int copy_all(struct copy *copy, enum direction direction, int argc, char **argv)
{
    const char *to = argv[argc];
    bool inside = argc > 2 || (direction == FROM_TREE ? strcmp(to, "-") != 0 && local_is_dir(to) : tree_is_dir(copy->tarn, to));
    int code = CLI_OK;
    for (int i = 1; i < argc; i++) {
        _cleanup_free_ char *target = target_path(to, argv[i], inside && strcmp(argv[i], "-") != 0);
        int one = direction == TO_TREE     ? put_tree(copy, argv[i], target)
                  : direction == FROM_TREE ? get_any(copy, argv[i], target)
                                           : copy_inside(copy, argv[i], target);
        code = code != CLI_OK ? code : one;
    }
    return code;
}

static int run_copy(int argc, char **argv, const char *usage, const char *about, const char *label, int direction)
{
    struct copy copy = {0};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &copy.json, NULL, "print JSON, one value a line", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
        {"recursive", CLI_FLAG, &copy.recursive, NULL, "directories and all below them", 0, 0},
        {"copies", CLI_UINT, &copy.copies, "N", "copies of new objects, instead of the directory's policy", 1, 6},
    };
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, usage, about, options, ARRAY_SIZE(options), &n_args);
    if (n_args < 2) {
        cli_complain("tarn %s needs a source and a target; see tarn %s --help", argv[0], argv[0]);
        return CLI_USAGE;
    }
    copy.tarn = command_open(config, &code);
    if (copy.tarn == NULL)
        return code;
    copy.window = malloc(WINDOW_BYTES);
    if (copy.window == NULL)
        abort();
    progress_begin(&copy.progress, label, 0);
    if (direction < 0) { /* cp: a path that begins with tarn: is in the tree */
        bool from_tree = strncmp(argv[1], "tarn:", 5) == 0, to_tree = strncmp(argv[n_args], "tarn:", 5) == 0;
        for (int i = 1; i <= n_args; i++)
            argv[i] += strncmp(argv[i], "tarn:", 5) == 0 ? 5 : 0;
        direction = from_tree && to_tree ? INSIDE_TREE : from_tree ? FROM_TREE : TO_TREE;
    }
    code = copy_all(&copy, (enum direction)direction, n_args, argv);
    progress_end(&copy.progress);
    free(copy.window);
    tarn_close(copy.tarn);
    return code;
}

int command_put(int argc, char **argv)
{
    return run_copy(argc, argv, "tarn put [--recursive] FILE... PATH",
                    "Stores files ('-' is standard input). An object appears whole, on disk at every copy, or not at all.",
                    "put", TO_TREE);
}

int command_get(int argc, char **argv)
{
    return run_copy(argc, argv, "tarn get [--recursive] PATH... FILE", "Fetches objects ('-' is standard output).",
                    "get", FROM_TREE);
}

int command_cp(int argc, char **argv)
{
    return run_copy(argc, argv, "tarn cp FROM... TO",
                    "Copies. Paths in the tree are written tarn:/bucket/key, others are local files.", "cp", -1);
}

int command_cat(int argc, char **argv)
{
    struct copy copy = {0};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &copy.json, NULL, "accepted for uniformity; the output is the bytes", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, "tarn cat PATH...", "Writes objects to standard output.", options, ARRAY_SIZE(options), &n_args);
    if (n_args == 0) {
        cli_complain("tarn cat needs a path; see tarn cat --help");
        return CLI_USAGE;
    }
    copy.json = false;
    copy.tarn = command_open(config, &code);
    if (copy.tarn == NULL)
        return code;
    copy.window = malloc(WINDOW_BYTES);
    if (copy.window == NULL)
        abort();
    for (int i = 1; i <= n_args; i++) {
        int one = get_fd(&copy, argv[i], STDOUT_FILENO, "-");
        code = code != CLI_OK ? code : one;
    }
    free(copy.window);
    tarn_close(copy.tarn);
    return code;
}
