/* tarn-metad: one replica of the metadata service as a process. */
#include "metad_memory.h"
#include "server.h"
#include "common/cli.h"
#include "common/config.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct metad {
    struct io *io;
    struct config config;
    const char *dir, *listen;
    uint64_t id, memory_mib;
    struct metad_memory memory;
    int err;
    struct fiber_queue stop;
};

/* Two processes on one directory would each believe in their own log. */
static int dir_lock(const char *dir)
{
    char path[512];
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_from_errno(errno);
    if (snprintf(path, sizeof path, "%s/lock", dir) >= (int)sizeof path)
        return -E_NAMETOOLONG;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_from_errno(errno);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0; /* held until the process ends */
    int err = errno == EWOULDBLOCK ? -E_BUSY : err_from_errno(errno);
    close(fd);
    return err;
}

static void run(void *arg)
{
    struct metad *metad = arg;
    const char *addresses[CONFIG_META_MAX];
    for (unsigned i = 0; i < metad->config.n_meta; i++)
        addresses[i] = metad->config.meta[i];
    struct server_options options = {.listen = metad->listen,
                                     .replica = {.dir = metad->dir,
                                                 .id = (uint32_t)metad->id,
                                                 .n_servers = metad->config.n_meta,
                                                 .addresses = addresses,
                                                 .auth = &metad->config.auth}};
    memcpy(options.topology.script, metad->config.topology_script, sizeof options.topology.script);
    memcpy(options.topology.table, metad->config.topology_table, sizeof options.topology.table);
    struct server *server = NULL;
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
        log_info("replica %u of %u serves on %s", options.replica.id, options.replica.n_servers,
                 server_address(server));
        while (fiber_queue_wait(&metad->stop, 0) == 0)
            continue;
    }
    metad->memory.replica = NULL;
    server_stop(server);
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
        cli_complain("cannot use the directory %s: another tarn-metad works in it", metad->dir);
        break;
    default:
        cli_complain("cannot serve on %s with the directory %s: %s", metad->listen, metad->dir,
                     err_sentence(err));
    }
    return err == -E_ADDRINUSE ? CLI_IN_USE : err == -E_NOSPC ? CLI_NO_SPACE : CLI_FAILED;
}

static int options_check(struct metad *metad, const char *config_path)
{
    const char *why = "";
    int err = config_load(config_path, &metad->config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    if (metad->id < 1 || metad->id > metad->config.n_meta) {
        cli_complain("--id %llu: the configuration %s names %u metadata replicas, so it is 1 to %u",
                     (unsigned long long)metad->id, metad->config.path, metad->config.n_meta,
                     metad->config.n_meta);
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
        {"id", CLI_UINT, &metad.id, "N", "which replica this is: position in the list `meta`", 1,
         CONFIG_META_MAX},
        {"dir", CLI_STRING, &metad.dir, "DIR", "its log, snapshots and tables", 0, 0},
        {"memory", CLI_UINT, &metad.memory_mib, "MIB",
         "memory it may have resident, pages of the tables included (default 1024)", METAD_MEMORY_MIN >> 20,
         UINT32_MAX},
        {"listen", CLI_ADDRESS, &metad.listen, "ADDRESS",
         "where to serve (default: its address in the configuration)", 0, 0},
    };
    int n_args;
    log_init("tarn-metad");
    cli_parse(argc, argv, "tarn-metad --dir DIR [--id N] [--config FILE] [--listen ADDRESS]",
              "One replica of Tarn's metadata service.", options, ARRAY_SIZE(options), &n_args);
    int exit_code = options_check(&metad, config_path);
    if (exit_code != 0)
        return exit_code;
    int err = dir_lock(metad.dir);
    if (err != 0)
        return complain(&metad, err);
    err = io_uring_create(NULL, &metad.io);
    if (err != 0)
        return cli_exit_for(err);
    static const int signals[] = {SIGTERM, SIGINT, 0};
    err = io_stop_on_signals(metad.io, signals);
    if (err == 0)
        err = fiber_spawn(metad.io, "metad", run, &metad);
    if (err == 0)
        err = io_run(metad.io);
    io_destroy(metad.io);
    if (metad.err != 0 && metad.err != -E_CANCELED)
        return complain(&metad, metad.err);
    if (err != 0) {
        cli_complain("cannot go on: %s", err_sentence(err));
        return cli_exit_for(err);
    }
    return CLI_OK;
}
