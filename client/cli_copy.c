/* tarn put, get, cat, cp: bytes in and out, streamed in windows. Targets are what cp(1) makes of
 * them: an existing directory takes the sources under their own names; several sources need one. */
#include "copy.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum direction { TO_TREE, FROM_TREE, INSIDE_TREE, BY_PREFIX };

/* Where FROM lands. The last name of FROM, without trailing slashes, goes into a directory. */
static char *target_path(const char *to, const char *from, bool inside)
{
    if (!inside) {
        char *path = strdup(to);
        return path != NULL ? path : (abort(), NULL);
    }
    size_t end = strlen(from);
    while (end > 0 && from[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && from[start - 1] != '/')
        start--;
    _cleanup_free_ char *name = strndup(from + start, end - start);
    if (name == NULL)
        abort();
    return copy_join(to, name);
}

static bool ends_with_slash(const char *path)
{
    size_t n = strlen(path);
    return n != 0 && path[n - 1] == '/';
}

/* The bucket of a target must be there: a name mistyped is no new bucket. */
static int check_bucket(struct copy *copy, const char *to)
{
    struct stat st;
    const char *name = to + strspn(to, "/");
    size_t n = strcspn(name, "/");
    if (to[0] != '/' || name[n] == '\0')
        return CLI_OK;
    _cleanup_free_ char *bucket = NULL;
    if (asprintf(&bucket, "/%.*s", (int)n, name) < 0)
        abort();
    int err = tarn_stat(copy->tarn, bucket, &st);
    if (err == -ENOENT) {
        cli_complain("cannot put %s: there is no bucket %s; 'tarn mkdir %s' makes it", to, bucket,
                     bucket);
        return CLI_NOT_FOUND;
    }
    return err < 0 && err != -EACCES ? command_failed("put", to) : CLI_OK;
}

/* Is `to` a directory for the sources? A tree's path with a slash at its end is one even when it is
 * missing. */
static int target_kind(struct copy *copy, bool in_tree, const char *to, int n_from,
                       bool *ret_inside)
{
    struct stat st;
    bool missing;
    *ret_inside = false;
    if (!in_tree && strcmp(to, "-") == 0)
        return CLI_OK;
    if (in_tree) {
        int err = tarn_stat(copy->tarn, to, &st);
        if (err < 0 && err != -ENOENT)
            return command_failed("put", to);
        missing = err < 0;
    } else {
        missing = stat(to, &st) < 0;
    }
    *ret_inside = missing ? in_tree && ends_with_slash(to) : S_ISDIR(st.st_mode);
    if (*ret_inside || (n_from == 1 && !(ends_with_slash(to) && !missing)))
        return CLI_OK;
    cli_complain("%s is not a directory, and %s; make one with %s", to,
                 n_from > 1 ? "several sources need one as their target"
                            : "its name ends with a slash",
                 in_tree ? "'tarn mkdir'" : "'mkdir'");
    return missing ? CLI_NOT_FOUND : CLI_FAILED;
}

static int copy_all(struct copy *copy, enum direction direction, int n_from, char **from,
                    const char *to)
{
    bool inside, in_tree = direction != FROM_TREE;
    int code = in_tree ? check_bucket(copy, to) : CLI_OK;
    if (code == CLI_OK)
        code = target_kind(copy, in_tree, to, n_from, &inside);
    if (code != CLI_OK)
        return code;
    for (int i = 0; i < n_from; i++) {
        if (inside && strcmp(from[i], "-") == 0) {
            cli_complain("%s is a directory; standard input needs the name of a file", to);
            return CLI_USAGE;
        }
        _cleanup_free_ char *target = target_path(to, from[i], inside);
        int one = direction == TO_TREE     ? copy_put(copy, from[i], target)
                  : direction == FROM_TREE ? copy_get(copy, from[i], target)
                                           : copy_inside(copy, from[i], target);
        code = code != CLI_OK ? code : one;
    }
    return code;
}

/* cp: "tarn:" marks paths of the tree; it is taken away. */
static int direction_by_prefix(int n_args, char **args, enum direction *ret)
{
    bool to_tree = strncmp(args[n_args - 1], "tarn:", 5) == 0,
         from_tree = strncmp(args[0], "tarn:", 5) == 0;
    for (int i = 0; i < n_args - 1; i++)
        if ((strncmp(args[i], "tarn:", 5) == 0) != from_tree) {
            cli_complain("cp takes its sources from one side: all of them tarn:/..., or none");
            return CLI_USAGE;
        }
    if (!from_tree && !to_tree) {
        cli_complain("cp needs a path of the cluster on one side, written tarn:/bucket/key; cp(1) "
                     "copies local files");
        return CLI_USAGE;
    }
    for (int i = 0; i < n_args; i++)
        args[i] += strncmp(args[i], "tarn:", 5) == 0 ? 5 : 0;
    *ret = from_tree && to_tree ? INSIDE_TREE : from_tree ? FROM_TREE : TO_TREE;
    return CLI_OK;
}

static int copy_begin(struct copy *copy, const char *config, const char *label)
{
    int code = CLI_OK;
    copy->tarn = command_open(config, &code);
    if (copy->tarn == NULL)
        return code;
    copy->window = malloc(COPY_WINDOW_BYTES);
    if (copy->window == NULL)
        abort();
    progress_begin(&copy->progress, label, 0);
    return CLI_OK;
}

static void copy_end(struct copy *copy)
{
    progress_end(&copy->progress);
    free(copy->window);
    tarn_close(copy->tarn);
}

static int run_copy(int argc, char **argv, const char *usage, const char *about,
                    enum direction direction)
{
    struct copy copy = {0};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &copy.json, NULL, "print JSON, one object for each file", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
        {"recursive", CLI_FLAG, &copy.recursive, NULL, "directories and all below them", 0, 0},
        {"copies", CLI_UINT, &copy.copies, "N",
         "copies of new objects, instead of the directory's policy", 1, 6},
    };
    int n_args = 0;
    cli_parse(argc, argv, usage, about, options, ARRAY_SIZE(options) - (direction == FROM_TREE),
              &n_args);
    if (n_args < 2) {
        cli_complain("%s needs a source and a target; see tarn %s --help", argv[0], argv[0]);
        return CLI_USAGE;
    }
    int code = direction == BY_PREFIX ? direction_by_prefix(n_args, argv + 1, &direction) : CLI_OK;
    if (code == CLI_OK)
        code = copy_begin(&copy, config, argv[0]);
    if (code != CLI_OK)
        return code;
    code = copy_all(&copy, direction, n_args - 1, argv + 1, argv[n_args]);
    copy_end(&copy);
    return code;
}

int command_put(int argc, char **argv)
{
    return run_copy(
        argc, argv, "tarn put [--recursive] [--copies N] FILE... PATH",
        "Stores files ('-' is standard input) at PATH, or in it when it is a directory. An object "
        "appears whole,\n"
        "on disk at every copy, or not at all. Directories on the way are made, a bucket is not.",
        TO_TREE);
}

int command_get(int argc, char **argv)
{
    return run_copy(argc, argv, "tarn get [--recursive] PATH... FILE",
                    "Fetches objects to FILE ('-' is standard output), or into it when it is a "
                    "directory. A file appears\n"
                    "under its name when it is complete.",
                    FROM_TREE);
}

int command_cp(int argc, char **argv)
{
    return run_copy(
        argc, argv, "tarn cp [--recursive] FROM... TO",
        "Copies. Paths of the cluster are written tarn:/bucket/key, others are local files.",
        BY_PREFIX);
}

int command_cat(int argc, char **argv)
{
    struct copy copy = {0};
    bool json;
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &json, NULL, "accepted for uniformity; the output is the bytes", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn cat PATH...", "Writes objects to standard output.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args == 0) {
        cli_complain("cat needs a path; see tarn cat --help");
        return CLI_USAGE;
    }
    int code = copy_begin(&copy, config, "cat");
    if (code != CLI_OK)
        return code;
    copy.progress.terminal = false; /* the bytes may go to the same terminal */
    for (int i = 1; i <= n_args; i++) {
        int one = copy_get_fd(&copy, argv[i], STDOUT_FILENO, "-");
        code = code != CLI_OK ? code : one;
    }
    copy_end(&copy);
    return code;
}
