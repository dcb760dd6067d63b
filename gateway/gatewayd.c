/* tarn-gatewayd: the process around the HTTP doors. Arguments, configuration, one line when it serves, a clean
 * end on SIGTERM: requests under way are finished, then the session ends. */
#include "route.h"
#include "tree.h"
#include "common/check.h"
#include "common/cli.h"
#include "common/config.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define LISTEN_DEFAULT "tcp:127.0.0.1:0"
#define GRACE_MS 10000

struct arguments {
    const char *config, *listen, *domain;
    uint64_t connections;
};

struct process {
    struct config config;
    struct arguments arguments;
    struct gate gate;
    struct io_listener *listener;
    int signal_fd;
    bool ready;
    int exit_code;
};

static void parse(int argc, char **argv, struct arguments *a)
{
    const struct cli_option options[] = {
        {"config", CLI_STRING, &a->config, "FILE", "the cluster's configuration (default: TARN_CONFIG)", 0, 0},
        {"listen", CLI_ADDRESS, &a->listen, "ADDR", "tcp:HOST:PORT, port 0 for any (default " LISTEN_DEFAULT ")", 0, 0},
        {"domain", CLI_STRING, &a->domain, "NAME", "buckets are also hosts of this domain: BUCKET.NAME", 0, 0},
        {"connections", CLI_UINT, &a->connections, "N", "served at a time; past it the answer is 503 (default 1024)", 1, 100000},
    };
    int n_args;

    cli_parse(argc, argv, "tarn-gatewayd [OPTION]...", "Serves S3 and the native API over HTTP.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args > 0) {
        cli_complain("cannot start: unexpected argument \"%s\"", argv[1]);
        exit(CLI_USAGE);
    }
}

static void load_config(struct process *p)
{
    const char *why;
    int err = config_load(p->arguments.config, &p->config, &why);

    if (err != 0) {
        cli_complain("cannot start tarn-gatewayd: %s", why);
        exit(cli_exit_for(err));
    }
    snprintf(p->config.auth.name, sizeof p->config.auth.name, "gatewayd");
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

static void wait_for_signal(struct process *p)
{
    struct signalfd_siginfo info;

    if (io_poll(p->gate.io, p->signal_fd, POLLIN, 0) > 0 && read(p->signal_fd, &info, sizeof info) == sizeof info)
        log_info("signal %u: finishing what is under way", info.ssi_signo);
}

/* A signal before anything is served ends the start: nobody waits for us. */
static void watch_start(void *arg)
{
    struct process *p = arg;
    if (io_poll(p->gate.io, p->signal_fd, POLLIN, 0) > 0 && !p->ready)
        io_stop(p->gate.io);
}

/* A second signal does not wait: clients ask again. */
static void watch_second(void *arg)
{
    struct process *p = arg;
    if (io_poll(p->gate.io, p->signal_fd, POLLIN, 0) > 0)
        _exit(CLI_FAILED);
}

/* One question, so that a wrong key or cluster is told now and not with every request. */
static int ask_once(struct process *p)
{
    const struct tree root = {p->gate.meta, &meta_root};
    Tarn__StatusReply *status;

    int r = tree_status(&root, &status);
    if (r == 0)
        tarn__status_reply__free_unpacked(status, NULL);
    else if (r == -E_AUTH)
        cli_complain("cannot join the cluster: the key in %s is not the cluster's key", p->config.path);
    else if (r != -E_CANCELED) /* a signal: see watch_start() */
        cli_complain("cannot reach the metadata service named in %s: %s", p->config.path, err_sentence(r));
    return r;
}

static int open_gate(struct process *p)
{
    struct gate *gate = &p->gate;
    const struct meta_options options = {.name = "tarn-gatewayd"};
    struct http_options http = {.conns_max = (unsigned)p->arguments.connections};

    int r = meta_connect(gate->io, &p->config, &options, &gate->meta);
    if (r == 0)
        r = ask_once(p);
    if (r < 0)
        return r;
    r = stores_create(gate->io, &p->config, gate->meta, &gate->stores);
    if (r == 0)
        r = users_create(gate->io, gate->meta, &gate->users);
    if (r == 0)
        r = http_server_start(gate->io, p->listener, &http, route_request, gate, &gate->http);
    if (r < 0)
        cli_complain("cannot start tarn-gatewayd: %s", err_sentence(r));
    return r;
}

static void close_gate(struct gate *gate)
{
    if (gate->http != NULL)
        http_server_stop(gate->http, GRACE_MS);
    users_destroy(gate->users);
    if (gate->stores != NULL)
        stores_destroy(gate->stores);
    if (gate->meta != NULL)
        meta_disconnect(gate->meta);
}

static void main_fiber(void *arg)
{
    struct process *p = arg;
    const char *address = p->arguments.listen != NULL ? p->arguments.listen : LISTEN_DEFAULT;

    int r = io_listen(p->gate.io, address, &p->listener);
    if (r < 0)
        cli_complain("cannot listen on %s: %s", address, err_sentence(r));
    else
        r = fiber_spawn(p->gate.io, "start-signal", watch_start, p);
    if (r == 0)
        r = open_gate(p);
    if (r == 0) {
        p->ready = true;
        printf("ready %s\n", io_listener_address(p->listener));
        fflush(stdout);
        wait_for_signal(p);
        (void)fiber_spawn(p->gate.io, "second-signal", watch_second, p);
    } else if (p->gate.http == NULL) {
        io_listener_close(p->listener);
    }
    p->exit_code = r < 0 ? cli_exit_for(r) : CLI_OK;
    close_gate(&p->gate);
    io_stop(p->gate.io);
}

int main(int argc, char **argv)
{
    static struct process process;

    log_init("tarn-gatewayd");
    parse(argc, argv, &process.arguments);
    load_config(&process);
    process.gate.domain = process.arguments.domain;
    process.signal_fd = block_signals();
    int r = process.signal_fd < 0 ? err_from_errno(errno) : io_uring_create(&(struct io_options){0}, &process.gate.io);
    if (r == 0) {
        process.gate.metrics.started_s = io_real_ns(process.gate.io) / 1000000000;
        r = fiber_spawn(process.gate.io, "main", main_fiber, &process);
    }
    if (r == 0)
        r = io_run(process.gate.io);
    if (r != 0) {
        cli_complain("cannot run: %s", err_sentence(r));
        return cli_exit_for(r);
    }
    io_destroy(process.gate.io);
    return process.exit_code;
}
