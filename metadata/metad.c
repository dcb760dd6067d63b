/* tarn-metad: one replica of the metadata service as a process. */
#include "metad_memory.h"
#include "server.h"
#include "check_dir.h"
#include "common/cli.h"
#include "common/config.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/lockfile.h"
#include "common/log.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK_MAP_BYTES GIB(256) /* as the replica's own default */

struct metad {
    struct io *io;
    struct config config;
    const char *dir, *listen;
    uint64_t id, memory_mib;
    struct metad_memory memory;
    bool join, rejoin, check;
    int err;
    int signal_fd;
    uint64_t violations;
    struct fiber_queue stop;
    bool ended; /* the replica takes part no more */
};

static int dir_lock(const char *dir, bool make)
{
    int fd; /* held until the process ends */
    if (make && mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_from_errno(errno);
    return lockfile_take(dir, make ? LOCKFILE_WAIT_MS : 0, &fd);
}

static void on_end(void *arg, int err)
{
    struct metad *metad = arg;
    metad->ended = true;
    metad->err = err;
    fiber_queue_wake_all(&metad->stop);
}

/* The first of these signals asks for an orderly end, another one for an end at once. */
static void signal_fiber(void *arg)
{
    struct metad *metad = arg;
    struct signalfd_siginfo info;
    for (unsigned n = 0; io_poll(metad->io, metad->signal_fd, POLLIN, 0) > 0; n++) {
        if (read(metad->signal_fd, &info, sizeof info) != sizeof info)
            continue;
        if (n > 0)
            io_stop(metad->io);
        fiber_queue_wake_all(&metad->stop);
    }
}

static int signals_open(struct metad *metad)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (pthread_sigmask(SIG_BLOCK, &set, NULL) != 0)
        return -E_INVAL;
    metad->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return metad->signal_fd < 0 ? err_from_errno(errno) : 0;
}

static void run(void *arg)
{
    struct metad *metad = arg;
    const char *addresses[CONFIG_META_MAX];
    for (unsigned i = 0; i < metad->config.n_meta; i++)
        addresses[i] = metad->config.meta[i];
    struct server_options options = {.listen = metad->listen,
                                     .on_end = on_end,
                                     .end_arg = metad,
                                     .replica = {.dir = metad->dir,
                                                 .id = (uint32_t)metad->id,
                                                 .n_servers = metad->join ? 0 : metad->config.n_meta,
                                                 .addresses = addresses,
                                                 .join = metad->join,
                                                 .address = metad->listen,
                                                 .auth = &metad->config.auth}};
    memcpy(options.topology.script, metad->config.topology_script, sizeof options.topology.script);
    memcpy(options.topology.table, metad->config.topology_table, sizeof options.topology.table);
    struct server *server = NULL;
    metad->err = metad->rejoin ? replica_set_aside(metad->io, metad->dir) : 0;
    if (metad->err == 0)
        metad->err = server_start(metad->io, &options, &server);
    if (metad->err == 0) {
        metad->memory = (struct metad_memory){.io = metad->io,
                                              .replica = server_replica(server),
                                              .limit_bytes = metad->memory_mib << 20};
        metad->err = fiber_spawn(metad->io, "memory", metad_memory_fiber, &metad->memory);
    }
    if (metad->err == 0) {
        printf("ready %s\n", server_address(server));
        fflush(stdout);
        log_info("replica %u serves on %s", options.replica.id, server_address(server));
        (void)fiber_queue_wait(&metad->stop, 0);
        if (!metad->ended)
            server_drain(server);
    }
    metad->memory.replica = NULL;
    server_stop(server);
    io_stop(metad->io);
}

static void print_violation(void *arg, const char *rule, const char *sentence)
{
    printf("%s: %s\n", rule, sentence);
}

/* Instead of serving. */
static void check(void *arg)
{
    struct metad *metad = arg;
    struct check_dir found;
    metad->err = check_directory(metad->io, metad->dir, CHECK_MAP_BYTES, print_violation, NULL, &found);
    if (metad->err == 0) {
        const struct check_summary *summary = &found.summary;
        printf("%s: %s at log entry %llu, %llu rows; log entries %llu to %llu, newest snapshot %llu: ", metad->dir,
               found.from_snapshot ? "the newest snapshot" : "the tables", (unsigned long long)summary->applied,
               (unsigned long long)summary->rows, (unsigned long long)found.log_first, (unsigned long long)found.log_last,
               (unsigned long long)found.snapshot);
        if (summary->violations == 0)
            puts("sound");
        else
            printf("%llu violations\n", (unsigned long long)summary->violations);
        metad->violations = summary->violations;
    }
    io_stop(metad->io);
}

static int complain(const struct metad *metad, int err)
{
    switch (err) {
    case -E_ADDRINUSE:
        cli_complain("cannot serve on %s: the address is in use; is another tarn-metad running?",
                     metad->listen);
        break;
    case -E_BUSY:
        cli_complain("cannot use the directory %s: another tarn-metad works in it%s", metad->dir,
                     metad->check ? "; stop it, or check a copy" : "");
        break;
    case -E_PERM:
        cli_complain("replica %llu was removed from the service; to use the machine for another, empty %s and start it with --join",
                     (unsigned long long)metad->id, metad->dir);
        return CLI_REMOVED;
    case -E_CORRUPT:
        cli_complain("cannot serve with the directory %s: it is damaged (the lines above say where); when other replicas are well, "
                     "start it with --rejoin",
                     metad->dir);
        return CLI_FAILED;
    default:
        cli_complain("cannot serve on %s with the directory %s: %s", metad->listen, metad->dir,
                     err_sentence(err));
    }
    return err == -E_ADDRINUSE ? CLI_IN_USE : err == -E_NOSPC ? CLI_NO_SPACE : CLI_FAILED;
}

static int options_check(struct metad *metad, const char *config_path)
{
    if (metad->check && metad->dir != NULL)
        return 0; /* needs no cluster */
    const char *why = "";
    int err = config_load(config_path, &metad->config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    if (metad->listen == NULL && metad->id > metad->config.n_meta) {
        cli_complain("--id %llu: the configuration %s names %u metadata replicas; one beyond them needs --listen",
                     (unsigned long long)metad->id, metad->config.path, metad->config.n_meta);
        return CLI_USAGE;
    }
    if (metad->dir == NULL) {
        cli_complain("--dir is missing: the directory of this replica's log and tables");
        return CLI_USAGE;
    }
    if (metad->listen == NULL)
        metad->listen = metad->config.meta[metad->id - 1];
    snprintf(metad->config.auth.name, sizeof metad->config.auth.name, "metad %llu",
             (unsigned long long)metad->id);
    return 0;
}

int main(int argc, char **argv)
{
    struct metad metad = {.id = 1, .memory_mib = METAD_MEMORY_DEFAULT >> 20};
    const char *config_path = NULL;
    const struct cli_option options[] = {
        {"config", CLI_STRING, &config_path, "FILE", "the cluster's configuration (default $TARN_CONFIG)",
         0, 0},
        {"id", CLI_UINT, &metad.id, "N", "which replica this is: position in the list `meta`, or a new number", 1,
         REPLICA_ID_MAX},
        {"dir", CLI_STRING, &metad.dir, "DIR", "its log, snapshots and tables", 0, 0},
        {"memory", CLI_UINT, &metad.memory_mib, "MIB",
         "memory it may have resident, pages of the tables included (default 1024)", METAD_MEMORY_MIN >> 20,
         UINT32_MAX},
        {"listen", CLI_ADDRESS, &metad.listen, "ADDRESS",
         "where to serve (default: its address in the configuration)", 0, 0},
        {"check", CLI_FLAG, &metad.check, NULL, "do not serve: check the log and the tables in --dir", 0, 0},
        {"join", CLI_FLAG, &metad.join, NULL, "with an empty directory: wait to be added (tarn meta add)", 0, 0},
        {"rejoin", CLI_FLAG, &metad.rejoin, NULL, "set a damaged directory aside and get everything from the others", 0, 0},
    };
    int n_args;
    log_init("tarn-metad");
    cli_parse(argc, argv, "tarn-metad --dir DIR [--id N] [--config FILE] [--listen ADDRESS]",
              "One replica of Tarn's metadata service.", options, ARRAY_SIZE(options), &n_args);
    int exit_code = options_check(&metad, config_path);
    if (exit_code != 0)
        return exit_code;
    int err = dir_lock(metad.dir, !metad.check);
    if (err != 0)
        return complain(&metad, err);
    err = signals_open(&metad); /* before there are other threads */
    if (err == 0)
        err = io_uring_create(NULL, &metad.io);
    if (err != 0)
        return cli_exit_for(err);
    err = fiber_spawn(metad.io, "signals", signal_fiber, &metad);
    if (err == 0)
        err = fiber_spawn(metad.io, "metad", metad.check ? check : run, &metad);
    if (err == 0)
        err = io_run(metad.io);
    io_destroy(metad.io);
    if (metad.check && metad.err == 0)
        return metad.violations == 0 ? CLI_OK : CLI_FAILED;
    if (metad.check) {
        cli_complain("cannot check %s: %s", metad.dir, err_sentence(metad.err));
        return cli_exit_for(metad.err);
    }
    if (metad.err != 0 && metad.err != -E_CANCELED)
        return complain(&metad, metad.err);
    if (err != 0) {
        cli_complain("cannot go on: %s", err_sentence(err));
        return cli_exit_for(err);
    }
    return CLI_OK;
}
