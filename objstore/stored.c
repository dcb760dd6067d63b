/* tarn-stored: the process around a chunk store. Arguments, configuration, the directories' locks, one
 * line when it serves, a clean end on SIGTERM. */
#include "check.h"
#include "store.h"
#include "common/check.h"
#include "common/cli.h"
#include "common/config.h"
#include "common/err.h"
#include "common/log.h"
#include "common/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

struct arguments {
    struct cli_strings dirs;
    bool mounts;
    const char *config, *listen, *local, *host, *rack;
    uint64_t node, journal, capacity;
};

/* A directory, and the lock that says it is ours while it is open. */
struct claimed {
    char dir[PATH_MAX];
    int lock_fd;
};

struct process {
    struct io *io;
    struct config config;
    struct store_options options;
    struct claimed claimed[STORE_DISKS_MAX];
    const char *dirs[STORE_DISKS_MAX]; /* absolute */
    unsigned n_dirs;
    bool mounts;
    char host[HOST_NAME_MAX + 1], machine[MACHINE_ID_SIZE];
    int signal_fd;
    int exit_code;
};

/* ------------------------------------------------------------------ before anything serves */
static void parse(int argc, char **argv, struct arguments *a)
{
    const struct cli_option options[] = {
        {"config", CLI_STRING, &a->config, "FILE", "the cluster's configuration (default: TARN_CONFIG)", 0, 0},
        {"dir", CLI_STRINGS, &a->dirs, "DIR", "a disk: where chunks are kept, made when it is not there; once for each disk", 0, 0},
        {"mounts", CLI_FLAG, &a->mounts, NULL, "every DIR is a mount point: left alone while nothing is mounted there", 0, 0},
        {"listen", CLI_ADDRESS, &a->listen, "ADDR", "tcp:HOST:PORT, port 0 for any (default tcp:127.0.0.1:0)", 0, 0},
        {"local", CLI_STRING, &a->local, "ADDR", "unix:/PATH for clients on this machine", 0, 0},
        {"host", CLI_STRING, &a->host, "NAME", "the name schedulers know this node by (default: the host name)", 0, 0},
        {"rack", CLI_STRING, &a->rack, "NAME", "rack or /site/rack: copies are spread over them (default: asked for)", 0, 0},
        {"node", CLI_UINT, &a->node, "N", "the id to ask for, 0 for any (default: the configuration's)", 0, UINT32_MAX},
        {"capacity", CLI_SIZE, &a->capacity, "SIZE", "of each disk for chunks, where the file system is shared (default: all of it)", MIB(256), UINT64_MAX},
        {"journal", CLI_SIZE, &a->journal, "SIZE", "of each of the two journal files, when the volume is made", MIB(8), GIB(1)},
    };
    int n_args;
    cli_parse(argc, argv, "tarn-stored --dir DIR [--dir DIR]... [OPTION]...", "Keeps chunks and serves them.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args > 0 || a->dirs.count == 0) {
        if (n_args > 0)
            cli_complain("cannot start: unexpected argument \"%s\"", argv[1]);
        else
            cli_complain("cannot start: --dir is missing: name the directory of each disk");
        exit(CLI_USAGE);
    }
}

/* "unix:PATH" or a bare path. */
static const char *local_address(const char *text)
{
    static char out[PATH_MAX];
    if (text == NULL || strncmp(text, "unix:", 5) == 0)
        return text;
    snprintf(out, sizeof out, "unix:%s", text);
    return out;
}

/* What is not there yet is made when it is claimed; its path is made absolute now all the same. */
static int dir_note(struct process *p, const char *dir)
{
    struct claimed *claimed = &p->claimed[p->n_dirs];
    char cwd[PATH_MAX] = "";
    claimed->lock_fd = -1;
    if (realpath(dir, claimed->dir) == NULL) {
        bool whole = dir[0] == '/' || getcwd(cwd, sizeof cwd) != NULL;
        size_t n = (size_t)snprintf(claimed->dir, sizeof claimed->dir, "%s%s%s", dir[0] == '/' ? "" : cwd, dir[0] == '/' ? "" : "/", dir);
        if (!whole || n >= sizeof claimed->dir)
            return -E_NAMETOOLONG;
    }
    for (unsigned i = 0; i < p->n_dirs; i++)
        if (strcmp(p->dirs[i], claimed->dir) == 0)
            return -E_EXIST;
    p->dirs[p->n_dirs++] = claimed->dir;
    return 0;
}

/* Nothing is mounted on it: its file system is that of the directory above. */
static bool is_bare(const char *dir)
{
    char above[PATH_MAX + 4];
    struct stat here, there;
    snprintf(above, sizeof above, "%s/..", dir);
    return stat(dir, &here) != 0 || stat(above, &there) != 0 || here.st_dev == there.st_dev;
}

static int lock_directory(struct claimed *claimed)
{
    char path[PATH_MAX + 8];
    snprintf(path, sizeof path, "%s/lock", claimed->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_from_errno(errno);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
        claimed->lock_fd = fd;
        return 0;
    }
    int err = errno == EWOULDBLOCK ? -E_BUSY : err_from_errno(errno);
    close(fd);
    return err;
}

/* Two processes on one directory would destroy it. A try that came to nothing later lets go of the lock, because
 * another file system may be mounted there for the next one. */
static int claim(void *arg, const char *dir)
{
    struct process *p = arg;
    struct claimed *claimed = NULL;
    for (unsigned i = 0; i < p->n_dirs; i++)
        if (strcmp(p->dirs[i], dir) == 0)
            claimed = &p->claimed[i];
    CHECK(claimed != NULL);
    if (claimed->lock_fd >= 0)
        close(claimed->lock_fd);
    claimed->lock_fd = -1;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_from_errno(errno);
    return p->mounts && is_bare(dir) ? -E_NOTDIR : lock_directory(claimed);
}

static void prepare(struct process *p, struct arguments *a)
{
    const char *why;
    int err = config_load(a->config, &p->config, &why);
    if (err != 0) {
        cli_complain("cannot start tarn-stored: %s", why);
        exit(cli_exit_for(err));
    }
    p->mounts = a->mounts;
    for (unsigned i = 0; i < a->dirs.count; i++) {
        err = dir_note(p, a->dirs.items[i]);
        if (err != 0) {
            cli_complain("cannot use the directory %s: %s", a->dirs.items[i], err == -E_EXIST ? "it is named twice" : err_sentence(err));
            exit(CLI_USAGE);
        }
    }
    if (a->host == NULL && gethostname(p->host, sizeof p->host - 1) == 0)
        a->host = p->host;
    machine_id(p->machine);
    uint32_t node = a->node != 0 ? (uint32_t)a->node : p->config.node;
    snprintf(p->config.auth.name, sizeof p->config.auth.name, "stored %u", node);
    p->options = (struct store_options){
        .dirs = p->dirs, .n_dirs = p->n_dirs, .claim = claim, .claim_arg = p, .auth = &p->config.auth, .listen = a->listen != NULL ? a->listen : "tcp:127.0.0.1:0",
        .local = local_address(a->local), .host = a->host, .rack = a->rack != NULL ? a->rack : "",
        .machine = p->machine, .boot = p->machine, .node = node, .n_meta = p->config.n_meta,
        .meta = (const char (*)[64])p->config.meta, .journal_bytes = round_up_u64(a->journal, BLOCK_BYTES), .capacity = a->capacity,
        .scrub_days = p->config.scrub_days};
}

static int block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* ------------------------------------------------------------------ running */
static void wait_for_signal(struct process *p)
{
    struct signalfd_siginfo info;
    if (io_poll(p->io, p->signal_fd, POLLIN, 0) > 0 && read(p->signal_fd, &info, sizeof info) == sizeof info)
        log_info("signal %u: stopping", info.ssi_signo);
}

/* A second signal does not wait for what is under way: the journal has it. */
static void watch_second(void *arg)
{
    struct process *p = arg;
    if (io_poll(p->io, p->signal_fd, POLLIN, 0) > 0)
        _exit(CLI_FAILED);
}

static void complain_open(struct process *p, int err, const char *why)
{
    if (err == -E_ADDRINUSE)
        cli_complain("cannot listen on %s%s%s: %s", p->options.listen, p->options.local != NULL ? " and " : "",
                     p->options.local != NULL ? p->options.local : "", why);
    else
        cli_complain("cannot open the store in %s%s: %s", p->dirs[0], p->n_dirs > 1 ? " or any other of its directories" : "", why);
}

static void main_fiber(void *arg)
{
    struct process *p = arg;
    struct store *store;
    const char *why;
    int err = store_open(p->io, &p->options, &store, &why);
    if (err != 0) {
        complain_open(p, err, why);
        p->exit_code = cli_exit_for(err);
        io_stop(p->io);
        return;
    }
    err = store_serve(store);
    if (err == 0) {
        printf("ready %s%s%s\n", store_address(store), store->local[0] != '\0' ? " " : "", store->local);
        fflush(stdout);
        wait_for_signal(p);
        (void)fiber_spawn(p->io, "second-signal", watch_second, p);
    } else {
        cli_complain("cannot serve: %s", err_sentence(err));
        p->exit_code = cli_exit_for(err);
    }
    store_stop(store);
    io_stop(p->io);
}

int main(int argc, char **argv)
{
    struct arguments arguments = {0};
    static struct process process;
    log_init("tarn-stored");
    if (argc > 1 && strcmp(argv[1], "check") == 0)
        return stored_check(argc - 1, argv + 1);
    parse(argc, argv, &arguments);
    prepare(&process, &arguments);
    process.signal_fd = block_signals();
    int err = process.signal_fd < 0 ? err_from_errno(errno) : io_uring_create(&(struct io_options){0}, &process.io);
    if (err == 0)
        err = fiber_spawn(process.io, "main", main_fiber, &process);
    if (err == 0)
        err = io_run(process.io);
    if (err != 0) {
        cli_complain("cannot run: %s", err_sentence(err));
        return cli_exit_for(err);
    }
    io_destroy(process.io);
    return process.exit_code;
}
