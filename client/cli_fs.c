/* tarn ls, rm, stat, mkdir, mv, locate: the tree by path. */
#include "commands.h"
#include "out.h"

#include "common/err.h"

#include <errno.h>
#include <stdio.h>

/* The options every command has; placed first in each table. */
#define COMMON_OPTIONS(json_, config_)                                                             \
    {"json", CLI_FLAG, &(json_), NULL, "print JSON, one value a line", 0, 0},                      \
    {                                                                                              \
        "config", CLI_STRING, &(config_), "FILE", "where the cluster is", 0, 0                     \
    }

struct tarn *command_open(const char *config, int *ret_exit)
{
    struct tarn *tarn = NULL;
    if (tarn_open(config, &tarn) < 0) {
        cli_complain("%s", tarn_error());
        *ret_exit = cli_exit_for(tarn_last_err());
        return NULL;
    }
    return tarn;
}

int command_failed(const char *what, const char *path)
{
    (void)what;
    (void)path;
    cli_complain("%s", tarn_error());
    return cli_exit_for(tarn_last_err());
}

static int usage_error(const char *command, const char *needs)
{
    cli_complain("%s needs %s; see tarn %s --help", command, needs, command);
    return CLI_USAGE;
}

static const char *type_name(mode_t mode)
{
    return S_ISDIR(mode)    ? "directory"
           : S_ISLNK(mode)  ? "symlink"
           : S_ISREG(mode)  ? "file"
           : S_ISFIFO(mode) ? "fifo"
           : S_ISCHR(mode)  ? "char"
           : S_ISBLK(mode)  ? "block"
                            : "socket";
}

static void print_stat_json(const char *path, const struct stat *st)
{
    char mode[8];
    snprintf(mode, sizeof mode, "%04o", (unsigned)(st->st_mode & 07777));
    out_json("{s:s,s:s,s:I,s:s,s:i,s:i,s:i,s:I,s:I}", "path", path, "type", type_name(st->st_mode), "size",
             (long long)st->st_size, "mode", mode, "uid", (int)st->st_uid, "gid", (int)st->st_gid, "nlink",
             (int)st->st_nlink, "mtime", (long long)st->st_mtim.tv_sec, "ino", (long long)st->st_ino);
}

/* ---- ls */

struct ls {
    struct tarn *tarn;
    const char *path;
    bool json, longer, recursive;
    int exit;
};

static int ls_path(struct ls *ls, const char *path);

static int join(const char *dir, const char *name, char **ret)
{
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/')
        n--;
    return asprintf(ret, "%.*s%s%s", (int)n, dir, n == 1 && dir[0] == '/' ? "" : "/", name) < 0 ? -E_NOMEM : 0;
}

static void ls_print(const struct ls *ls, const char *path, const char *name, const struct stat *st)
{
    if (ls->json) {
        print_stat_json(path, st);
    } else if (ls->longer) {
        char when[24];
        out_time((uint64_t)st->st_mtim.tv_sec * 1000000000, when);
        printf("%c%04o %3u %6u %6u %12lld %s %s\n", type_name(st->st_mode)[0], (unsigned)(st->st_mode & 07777),
               (unsigned)st->st_nlink, st->st_uid, st->st_gid, (long long)st->st_size, when,
               ls->recursive ? path : name);
    } else {
        printf("%s%s\n", ls->recursive ? path : name, S_ISDIR(st->st_mode) ? "/" : "");
    }
}

static int ls_entry(void *arg, const char *name, const struct stat *st)
{
    struct ls *ls = arg;
    _cleanup_free_ char *path = NULL;
    if (join(ls->path, name, &path) != 0)
        return -ENOMEM;
    ls_print(ls, path, name, st);
    if (ls->recursive && S_ISDIR(st->st_mode)) {
        const char *saved = ls->path;
        int err = ls_path(ls, path);
        ls->path = saved;
        return err;
    }
    return 0;
}

/* Directories may be large: entries are printed as they come. */
static int ls_path(struct ls *ls, const char *path)
{
    ls->path = path;
    int err = tarn_list(ls->tarn, path, ls_entry, ls);
    if (err != -ENOTDIR)
        return err;
    struct stat st;
    err = tarn_stat(ls->tarn, path, &st);
    if (err == 0)
        ls_print(ls, path, path, &st);
    return err;
}

int command_ls(int argc, char **argv)
{
    struct ls ls = {0};
    const char *config = NULL;
    const struct cli_option options[] = {
        COMMON_OPTIONS(ls.json, config),
        {"long", CLI_FLAG, &ls.longer, NULL, "type, mode, links, owner, size, time", 0, 0},
        {"recursive", CLI_FLAG, &ls.recursive, NULL, "everything below", 0, 0},
    };
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, "tarn ls [PATH...]", "Lists directories; without a path the buckets.", options,
              ARRAY_SIZE(options), &n_args);
    ls.tarn = command_open(config, &code);
    if (ls.tarn == NULL)
        return code;
    static char *const root[] = {(char *)"ls", (char *)"/"};
    char *const *paths = n_args == 0 ? root : argv;
    for (int i = 1; i <= MAX(n_args, 1); i++)
        if (ls_path(&ls, paths[i]) < 0)
            code = command_failed("list", paths[i]);
    tarn_close(ls.tarn);
    return code;
}

/* ---- rm */

struct names {
    char **items;
    bool *is_dir;
    size_t n, cap;
};

static int names_add(void *arg, const char *name, const struct stat *st)
{
    struct names *names = arg;
    if (names->n == names->cap) {
        size_t cap = MAX(names->cap * 2, (size_t)64);
        char **items = realloc(names->items, cap * sizeof *items);
        if (items == NULL)
            return -ENOMEM;
        names->items = items;
        bool *is_dir = realloc(names->is_dir, cap * sizeof *is_dir);
        if (is_dir == NULL)
            return -ENOMEM;
        names->is_dir = is_dir;
        names->cap = cap;
    }
    names->items[names->n] = strdup(name);
    if (names->items[names->n] == NULL)
        return -ENOMEM;
    names->is_dir[names->n++] = S_ISDIR(st->st_mode);
    return 0;
}

static void names_fini(struct names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->items[i]);
    free(names->items);
    free(names->is_dir);
}

static int remove_tree(struct tarn *tarn, const char *path)
{
    _cleanup_(names_fini) struct names names = {0};
    int err = tarn_list(tarn, path, names_add, &names);
    for (size_t i = 0; i < names.n && err == 0; i++) {
        _cleanup_free_ char *child = NULL;
        if (join(path, names.items[i], &child) != 0)
            return -ENOMEM;
        err = names.is_dir[i] ? remove_tree(tarn, child) : tarn_unlink(tarn, child);
    }
    return err == 0 ? tarn_rmdir(tarn, path) : err;
}

/* What rm does not do, whatever the options: a mistyped variable before a slash must not empty the cluster. */
static bool is_root(const char *path)
{
    return path[0] == '/' && path[strspn(path, "/.")] == '\0';
}

static int remove_one(struct tarn *tarn, const char *path, bool recursive, bool force)
{
    if (is_root(path)) {
        cli_complain("cannot remove %s: it is the root of the tree; name what is to go", path);
        return CLI_USAGE;
    }
    int err = tarn_unlink(tarn, path);
    if (err == -EISDIR || err == -EPERM)
        err = recursive ? remove_tree(tarn, path) : tarn_rmdir(tarn, path);
    return err < 0 && !(force && err == -ENOENT) ? command_failed("remove", path) : CLI_OK;
}

int command_rm(int argc, char **argv)
{
    bool json = false, recursive = false, force = false;
    const char *config = NULL;
    const struct cli_option options[] = {
        COMMON_OPTIONS(json, config),
        {"recursive", CLI_FLAG, &recursive, NULL, "directories and all below them", 0, 0},
        {"force", CLI_FLAG, &force, NULL, "a missing path is no failure", 0, 0},
    };
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, "tarn rm [--recursive] PATH...", "Removes files, empty directories, or trees.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args == 0)
        return usage_error("rm", "a path");
    struct tarn *tarn = command_open(config, &code);
    if (tarn == NULL)
        return code;
    for (int i = 1; i <= n_args; i++) {
        int one = remove_one(tarn, argv[i], recursive, force);
        if (one == CLI_OK && json)
            out_json("{s:s}", "removed", argv[i]);
        code = code != CLI_OK ? code : one;
    }
    tarn_close(tarn);
    return code;
}

/* ---- stat, mkdir, mv */

static void print_stat(const char *path, const struct stat *st)
{
    char size[16], when[24];
    cli_format_size((uint64_t)st->st_size, size);
    out_time((uint64_t)st->st_mtim.tv_sec * 1000000000, when);
    printf("%s: %s, %lld bytes (%s), mode %04o, owner %u:%u, links %u, inode %llu, modified %s\n", path,
           type_name(st->st_mode), (long long)st->st_size, size, (unsigned)(st->st_mode & 07777), st->st_uid,
           st->st_gid, (unsigned)st->st_nlink, (unsigned long long)st->st_ino, when);
}

int command_stat(int argc, char **argv)
{
    bool json = false;
    const char *config = NULL;
    const struct cli_option options[] = {COMMON_OPTIONS(json, config)};
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, "tarn stat PATH...", "Shows type, size, owner and times.", options, ARRAY_SIZE(options),
              &n_args);
    if (n_args == 0)
        return usage_error("stat", "a path");
    struct tarn *tarn = command_open(config, &code);
    if (tarn == NULL)
        return code;
    for (int i = 1; i <= n_args; i++) {
        struct stat st;
        if (tarn_stat(tarn, argv[i], &st) < 0)
            code = command_failed("look up", argv[i]);
        else if (json)
            print_stat_json(argv[i], &st);
        else
            print_stat(argv[i], &st);
    }
    tarn_close(tarn);
    return code;
}

int command_mkdir(int argc, char **argv)
{
    bool json = false, parents = false;
    const char *config = NULL;
    const struct cli_option options[] = {
        COMMON_OPTIONS(json, config),
        {"parents", CLI_FLAG, &parents, NULL, "make missing parents; an existing directory is success", 0, 0},
    };
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, "tarn mkdir [--parents] PATH...",
              "Makes directories. One right under / is a bucket.", options, ARRAY_SIZE(options), &n_args);
    if (n_args == 0)
        return usage_error("mkdir", "a path");
    struct tarn *tarn = command_open(config, &code);
    if (tarn == NULL)
        return code;
    for (int i = 1; i <= n_args; i++) {
        if (tarn_mkdir(tarn, argv[i], 0755, parents) < 0)
            code = command_failed("make directory", argv[i]);
        else if (json)
            out_json("{s:s}", "made", argv[i]);
    }
    tarn_close(tarn);
    return code;
}

int command_mv(int argc, char **argv)
{
    bool json = false;
    const char *config = NULL;
    const struct cli_option options[] = {COMMON_OPTIONS(json, config)};
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, "tarn mv FROM TO", "Renames a file or directory; into TO when that is a directory.",
              options, ARRAY_SIZE(options), &n_args);
    if (n_args != 2)
        return usage_error("mv", "two paths");
    struct tarn *tarn = command_open(config, &code);
    if (tarn == NULL)
        return code;
    _cleanup_free_ char *inside = NULL;
    const char *to = argv[2];
    struct stat st;
    if (tarn_stat(tarn, to, &st) == 0 && S_ISDIR(st.st_mode)) {
        const char *base = strrchr(argv[1], '/');
        if (join(to, base != NULL ? base + 1 : argv[1], &inside) == 0)
            to = inside;
    }
    if (tarn_rename(tarn, argv[1], to) < 0)
        code = command_failed("rename", argv[1]);
    else if (json)
        out_json("{s:s,s:s}", "from", argv[1], "to", to);
    tarn_close(tarn);
    return code;
}

/* ---- locate */

struct locate {
    bool json, hosts;
};

static void locate_json(const char *path, const struct stat *st, const struct tarn_location *location)
{
    if (location == NULL) {
        out_json("{s:s,s:I,s:b}", "path", path, "size", (long long)st->st_size, "inline", true);
        return;
    }
    for (unsigned i = 0; i < location->n_nodes; i++)
        out_json("{s:s,s:I,s:I,s:I,s:I,s:I,s:i,s:s,s:s,s:b,s:s,s:b}", "path", path, "size", (long long)st->st_size, "offset",
                 (long long)location->offset, "length", (long long)location->length, "chunk",
                 (long long)location->chunk, "generation", (long long)location->generation, "node",
                 (int)location->nodes[i].node, "host", location->nodes[i].host, "rack", location->nodes[i].rack, "up",
                 location->nodes[i].up, "form", location->form, "coded", location->coded);
}

static void locate_table(const char *path, const struct stat *st, const struct tarn_location *location)
{
    if (location == NULL) {
        printf("%s  %lld bytes inside the metadata, no chunk\n", path, (long long)st->st_size);
        return;
    }
    printf("%s  [%llu, +%llu)  %s%s chunk %llu.%llu ", path, (unsigned long long)location->offset,
           (unsigned long long)location->length, location->form,
           location->coded && strcmp(location->form, "coded") != 0 ? " coded" : "",
           (unsigned long long)location->chunk, (unsigned long long)location->generation);
    for (unsigned i = 0; i < location->n_nodes; i++)
        printf(" %s/%s%s", location->nodes[i].rack, location->nodes[i].host, location->nodes[i].up ? "" : "(down)");
    putchar('\n');
}

static int locate_line(void *arg, const char *path, const struct stat *st, const struct tarn_location *location)
{
    const struct locate *locate = arg;
    if (locate->json)
        locate_json(path, st, location);
    else if (!locate->hosts)
        locate_table(path, st, location);
    else
        for (unsigned i = 0; location != NULL && i < location->n_nodes; i++)
            puts(location->nodes[i].host);
    return 0;
}

int command_locate(int argc, char **argv)
{
    struct locate locate = {0};
    bool recursive = false;
    const char *config = NULL, *format = NULL;
    const struct cli_option options[] = {
        COMMON_OPTIONS(locate.json, config),
        {"recursive", CLI_FLAG, &recursive, NULL, "every file below the path", 0, 0},
        {"format", CLI_STRING, &format, "NAME", "table, json or hosts (one host a line)", 0, 0},
    };
    int n_args = 0, code = CLI_OK;
    cli_parse(argc, argv, "tarn locate [--recursive] [--format NAME] PATH...",
              "Shows for every chunk which nodes hold it, the primary first.", options, ARRAY_SIZE(options), &n_args);
    if (n_args == 0)
        return usage_error("locate", "a path");
    if (format != NULL && strcmp(format, "json") != 0 && strcmp(format, "hosts") != 0 && strcmp(format, "table") != 0) {
        cli_complain("--format takes table, json or hosts, not '%s'", format);
        return CLI_USAGE;
    }
    locate.hosts = format != NULL && strcmp(format, "hosts") == 0;
    locate.json |= format != NULL && strcmp(format, "json") == 0;
    struct tarn *tarn = command_open(config, &code);
    if (tarn == NULL)
        return code;
    for (int i = 1; i <= n_args; i++)
        if (tarn_locate(tarn, argv[i], recursive, locate_line, &locate) < 0)
            code = command_failed("locate", argv[i]);
    tarn_close(tarn);
    return code;
}
