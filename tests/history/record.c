/* record --client N --out FILE [--workers W] [--readers R] [--seed S] [--leases] [--snapshots] [--look]: works against the live
 * replicas of $TARN_CONFIG until SIGTERM and writes down what it did and was told, for `history-check`; what it did without asking is
 * counted on standard output. --look: looks at every object once, when all of them answer. The clock is the machine's
 * monotonic one, which all processes of a test share. */
#include "load.h"

#include "common/cli.h"
#include "common/err.h"
#include "common/io.h"
#include "common/log.h"

#include <inttypes.h>
#include <signal.h>
#include <time.h>

#define SESSION_MS 4000
#define GIVE_UP_MS 6000
#define LOOK_TRIES 20
#define PAUSE_MS 60
#define REPEAT_PERCENT 15

struct recorder {
    struct io *io;
    struct config config;
    struct history history;
    struct load_options options;
    struct load *load;
    bool look;
    int err;
};

static uint64_t now_ns(void *arg)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void counters_print(const struct load *load)
{
    struct load_counters counters = load_counters(load);
    printf("cached_reads=%" PRIu64 " kept_raises=%" PRIu64 " locks_here=%" PRIu64 " snapshots=%" PRIu64 " clones=%" PRIu64 "\n",
           counters.cached_reads, counters.kept_raises, counters.locks_here, counters.snapshots, counters.clones);
}

static void run(void *arg)
{
    struct recorder *recorder = arg;
    recorder->err = -E_UNAVAIL;
    for (unsigned i = 0; i < LOOK_TRIES && recorder->err != 0 && recorder->err != -E_CANCELED; i++)
        recorder->err = load_create(&recorder->options, &recorder->load);
    if (recorder->err == 0) {
        printf("ready\n");
        fflush(stdout);
        if (!recorder->look)
            load_run(recorder->load); /* until the signal */
        for (unsigned i = 0; recorder->look && (recorder->err = load_look(recorder->load)) != 0 && i < LOOK_TRIES;)
            i++;
        counters_print(recorder->load);
        load_destroy(recorder->load);
    }
    io_stop(recorder->io);
}

static int write_out(const struct recorder *recorder, const char *path)
{
    FILE *out = fopen(path, "we");
    if (out == NULL)
        return -E_IO;
    for (size_t i = 0; i < recorder->history.n; i++)
        history_print(out, &recorder->history.ops[i]);
    return fclose(out) == 0 ? 0 : -E_IO;
}

static void options_fill(struct recorder *recorder, uint64_t client, uint64_t seed, unsigned workers, unsigned readers)
{
    bool leases = recorder->options.leases, snapshots = recorder->options.snapshots;
    /* The connection of a second sender would get the pushes that end what the client knows: no repeats with leases. */
    recorder->options = (struct load_options){.io = recorder->io,
                                              .config = &recorder->config,
                                              .history = &recorder->history,
                                              .client = (uint32_t)client,
                                              .seed = seed * 10000 + client,
                                              .workers = workers,
                                              .readers = MIN(workers, readers),
                                              .pause_ms = PAUSE_MS,
                                              .session_ms = SESSION_MS,
                                              .give_up_ms = GIVE_UP_MS,
                                              .repeat_percent = leases ? 0 : REPEAT_PERCENT,
                                              .leases = leases,
                                              .snapshots = snapshots,
                                              .now_ns = now_ns};
}

int main(int argc, char **argv)
{
    struct recorder recorder = {0};
    uint64_t client = 1, workers = 3, readers = 1, seed = 1;
    const char *out = NULL, *why = "";
    const struct cli_option options[] = {
        {"client", CLI_UINT, &client, "N", "its number, unlike every other's", 1, 4000},
        {"workers", CLI_UINT, &workers, "W", "operations at a time", 0, LOAD_WORKERS_MAX},
        {"readers", CLI_UINT, &readers, "R", "so many of the workers only look", 0, LOAD_WORKERS_MAX},
        {"seed", CLI_UINT, &seed, "S", "decides the operations", 0, 0},
        {"out", CLI_STRING, &out, "FILE", "where the history goes", 0, 0},
        {"leases", CLI_FLAG, &recorder.options.leases, NULL, "read from a cache, keep sizes back, decide about locks; no change is sent twice", 0, 0},
        {"snapshots", CLI_FLAG, &recorder.options.snapshots, NULL, "take snapshots and clones, too", 0, 0},
        {"look", CLI_FLAG, &recorder.look, NULL, "look at every object once", 0, 0},
    };
    int n_args = 0;
    log_init("record");
    cli_parse(argc, argv, "record --client N --out FILE", "Records a history of the metadata service.", options, ARRAY_SIZE(options), &n_args);
    int err = out == NULL ? -E_INVAL : config_load(NULL, &recorder.config, &why);
    if (err != 0) {
        cli_complain("cannot begin: %s", out == NULL ? "--out is missing" : why);
        return CLI_USAGE;
    }
    err = io_uring_create(NULL, &recorder.io);
    if (err != 0)
        return cli_exit_for(err);
    options_fill(&recorder, client, seed, recorder.look ? 0 : (unsigned)workers, (unsigned)readers);
    static const int signals[] = {SIGTERM, SIGINT, 0};
    err = io_stop_on_signals(recorder.io, signals);
    if (err == 0)
        err = fiber_spawn(recorder.io, "record", run, &recorder);
    if (err == 0)
        err = io_run(recorder.io);
    int written = write_out(&recorder, out);
    io_destroy(recorder.io);
    history_fini(&recorder.history);
    if (err == 0 && recorder.err != -E_CANCELED)
        err = recorder.err;
    return cli_exit_for(err != 0 ? err : written);
}
