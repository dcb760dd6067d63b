/* The metadata service alone under load and faults, many seeds a second. Checked for each: the recorded history is linearizable
 * (tests/history), after the faults the service answers within CALM_MS, every acknowledged change is there, the
 * replicas come to equal tables, and nothing of the sessions is left.
 *
 * meta_sim [--seed N] [--seeds COUNT] [--seconds S] [--jobs J]: COUNT seeds from N on, in J processes. A failing seed is printed with the
 * command that replays it; the same seed gives the same trace hash. */
#include "meta_world.h"

#include "common/check.h"
#include "common/cli.h"
#include "common/err.h"
#include "common/log.h"
#include "metadata/check.h"
#include "metadata/record.h"
#include "metadata/replica_impl.h"
#include "metadata/server.h"
#include "tests/history/linear.h"
#include "tests/history/load.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS 3
#define READERS 1
#define PAUSE_MS 60
#define QUIET_PAUSE_MS 1200 /* every fourth seed: what is asked then is asked in the middle of a fault, not before it */
#define SESSION_MS 3000
#define GIVE_UP_MS 5000
#define PEACE_MS 1500
#define CALM_MS 40000 /* a newcomer may have to wait for a snapshot, a client for its time to give up, a lock for a session to end */
#define REST_STEP_MS 200
#define STATES_MAX 3000000
#define JOBS_MAX 64
#define MANY 100 /* so many seeds do everything at least once */

struct client {
    struct load *load;
    unsigned lives;
};
struct run {
    struct meta_world world;
    struct client clients[META_WORLD_CLIENTS];
    struct history history;
    uint64_t seed, seconds;
    unsigned running;
    bool stop, looked;
    struct load_counters counted;
};
/* What the processes have in common: each writes its own row. */
struct job {
    uint64_t seed, done, ops, unknown, virtual_ms, faults, configurations, hash, added, removed, transfers;
    struct load_counters counted;
};
static struct job *jobs;
static struct job *own_job;

_Noreturn static void broken(const struct run *run, const char *fmt, ...) _printf_(2, 3);
static void broken(const struct run *run, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "seed %" PRIu64 " at %" PRIu64 " ms: ", run->seed, sim_now_ns(run->world.sim) / 1000000);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\nreplay: meta_sim --seed %" PRIu64 " --seconds %" PRIu64 "\n", run->seed, run->seconds);
    va_end(args);
    _exit(1);
}

/* ---- raft's messages: sent twice, or lost alone. Their order is the transport's promise (R7). */

static struct meta_world *current_world;
struct transport_message;
void __real_transport_send(struct transport *transport, uint32_t to, struct transport_message *message);
void __wrap_transport_send(struct transport *transport, uint32_t to, struct transport_message *message);

static struct transport_message *message_copy(const struct transport_message *from)
{
    struct transport_message *copy = transport_message_new();
    if (copy == NULL)
        return NULL;
    *copy = *from;
    for (unsigned i = 0; i < TRANSPORT_SERVERS_MAX; i++) {
        copy->server_list[i] = &copy->servers[i];
        copy->servers[i].address = copy->addresses[i];
    }
    if (from->head.conf == from->server_list)
        copy->head.conf = copy->server_list;
    if (from->head.snapshot == from->snapshot)
        copy->head.snapshot = copy->snapshot;
    return copy;
}

void __wrap_transport_send(struct transport *transport, uint32_t to, struct transport_message *message)
{
    uint64_t luck = sim_random_u64(current_world->sim) % 1000;
    if (luck < current_world->raft_repeat_percent * 10) {
        struct transport_message *again = message_copy(message);
        if (again != NULL)
            __real_transport_send(transport, to, again);
    }
    if (luck >= 1000 - current_world->raft_repeat_percent)
        free(message);
    else
        __real_transport_send(transport, to, message);
}

/* ---- clients */

static void counters_add(struct load_counters *sum, const struct load_counters *more)
{
    sum->answered += more->answered;
    sum->cached_reads += more->cached_reads;
    sum->kept_raises += more->kept_raises;
    sum->locks_here += more->locks_here;
    sum->snapshots += more->snapshots;
    sum->clones += more->clones;
}

static uint64_t now_ns(void *arg)
{
    return sim_now_ns(((struct run *)arg)->world.sim);
}

static int connect(struct run *run, unsigned number, unsigned workers, struct load **ret)
{
    /* One of three asks for everything. Only its changes come twice: the second one's connection would get the pushes that end
     * what the others know. */
    bool leases = (run->seed + number) % 3 != 0;
    struct load_options options = {.io = fiber_io(),
                                   .config = &run->world.config,
                                   .history = &run->history,
                                   .client = number,
                                   .seed = run->seed * 1000 + number,
                                   .workers = workers,
                                   .readers = MIN(workers, (unsigned)READERS),
                                   .pause_ms = run->seed % 4 == 1 ? QUIET_PAUSE_MS : PAUSE_MS,
                                   .session_ms = SESSION_MS,
                                   .give_up_ms = GIVE_UP_MS,
                                   .repeat_percent = leases ? 0 : 20,
                                   .leases = leases,
                                   .snapshots = run->seed % 3 == 0,
                                   .now_ns = now_ns,
                                   .arg = run};
    return load_create(&options, ret);
}

static void client_fiber(void *arg)
{
    struct meta_host *host = arg;
    struct run *run = container_of(host->world, struct run, world);
    struct client *client = &run->clients[host->index - 1];
    unsigned life = ++client->lives;
    struct load *load = NULL;
    int err = -E_UNAVAIL;
    while (err != 0 && err != -E_CANCELED && !run->stop)
        err = connect(run, life * 10 + host->index, WORKERS, &load);
    if (err == 0) {
        client->load = load;
        if (!run->stop)
            load_run(load);
        struct load_counters counted = load_counters(load);
        counters_add(&run->counted, &counted);
        if (client->lives == life)
            client->load = NULL;
        load_destroy(load);
    }
    run->running--;
}

static void client_start(struct meta_host *host)
{
    struct run *run = container_of(host->world, struct run, world);
    run->running++;
    CHECK(fiber_spawn(sim_host_io(host->host), "client", client_fiber, host) == 0);
}

/* After the faults, with a session of its own. */
static void look_fiber(void *arg)
{
    struct run *run = arg;
    struct load *load = NULL;
    int err = -E_UNAVAIL;
    while (err != 0)
        err = connect(run, 9, 0, &load);
    while (load_look(load) != 0)
        continue;
    load_destroy(load);
    run->looked = true;
}

/* ---- one seed */

static bool all_ended(void *arg)
{
    const struct run *run = arg;
    return run->running == 0 && !run->world.operating;
}

static bool has_looked(void *arg)
{
    return ((struct run *)arg)->looked;
}

static void faults(struct run *run)
{
    struct meta_world *world = &run->world;
    uint64_t end = sim_now_ns(world->sim) + run->seconds * 1000000000;
    while (sim_now_ns(world->sim) < end) {
        if (sim_run(world->sim, 20 + sim_random_u64(world->sim) % 600, NULL, NULL) == SIM_IDLE)
            meta_world_mend(world, true);
        meta_world_mend(world, false);
        meta_world_fault(world);
    }
}

static void until(struct run *run, bool (*done)(void *arg), const char *what)
{
    if (sim_run(run->world.sim, CALM_MS, done, run) != SIM_DONE)
        broken(run, "%s within %d s after the faults", what, CALM_MS / 1000);
}

static int see_any(void *arg, struct kv_val key, struct kv_val value)
{
    *(bool *)arg = true;
    return 1;
}

/* Everybody has ended the session or fallen silent: nothing of sessions may be left. */
static bool sessions_gone(struct run *run, const char **ret_why)
{
    static const enum table tables[] = {TABLE_SESSION, TABLE_HANDLE, TABLE_OPENS, TABLE_LOCKS, TABLE_LOCK_WAIT, TABLE_SESSION_LOCK,
                                        TABLE_KEPT,    TABLE_ORPHAN};
    struct kv_txn *txn;
    bool any = false;
    CHECK(kv_begin(server_replica(meta_world_leader(&run->world)->server)->kv, false, &txn) == 0);
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        struct key prefix = key_table(tables[i]);
        CHECK(kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, see_any, &any) == 0);
    }
    kv_abort(txn);
    *ret_why = "rows of ended sessions are left";
    return !any;
}

static void complain(void *arg, const char *rule, const char *sentence)
{
    fprintf(stderr, "%s: %s\n", rule, sentence);
}

static void check_replica(struct run *run)
{
    struct check_summary summary;
    struct kv_txn *txn;
    CHECK(kv_begin(server_replica(meta_world_leader(&run->world)->server)->kv, false, &txn) == 0);
    CHECK(check_tables(txn, complain, NULL, &summary) == 0);
    kv_abort(txn);
    if (summary.violations > 0)
        broken(run, "the tables break %" PRIu64 " rules", summary.violations);
}

static void rest(struct run *run)
{
    const char *why = "";
    bool rests = false;
    for (unsigned ms = 0; !rests && ms < CALM_MS; ms += REST_STEP_MS) {
        sim_run(run->world.sim, REST_STEP_MS, NULL, NULL);
        rests = meta_world_equal(&run->world, &why) && sessions_gone(run, &why);
    }
    if (!rests)
        broken(run, "the replicas do not come to rest: %s", why);
}

static void check_history(struct run *run)
{
    struct linear_report report;
    enum linear_verdict verdict = linear_check(&run->history, STATES_MAX, &report);
    for (size_t i = 0; i < report.n_bad; i++)
        history_print(stderr, &report.bad[i]);
    if (report.n_bad > 0) {
        fprintf(stderr, "after %zu of these there is no place for: ", report.placed);
        history_print(stderr, &report.blocked);
    }
    if (verdict != LINEAR_YES)
        broken(run, "the history of this object is %s", verdict == LINEAR_NO ? "not linearizable" : "too tangled to be decided");
    free(report.bad);
    own_job->ops += report.ops;
    own_job->unknown += report.unknown;
    own_job->configurations += report.configurations;
}

static unsigned faults_sum(const struct meta_faults *f)
{
    return f->crashes + f->partitions + f->swizzles + f->pauses + f->clocks + f->disk_errors + f->disk_full + f->disk_slow + f->wipes;
}

static uint64_t run_seed(uint64_t seed, uint64_t seconds, bool tell)
{
    struct run *run = calloc(1, sizeof *run);
    CHECK(run != NULL);
    run->seed = seed;
    run->seconds = seconds;
    current_world = &run->world;
    bool operated = seed % 4 == 3;
    meta_world_create(&run->world, seed, operated, client_start);
    if (operated)
        meta_world_operate(&run->world);
    sim_run(run->world.sim, PEACE_MS, NULL, NULL);
    faults(run);
    meta_world_calm(&run->world);
    run->stop = run->world.resting = true;
    for (unsigned i = 0; i < META_WORLD_CLIENTS; i++)
        if (run->clients[i].load != NULL)
            load_stop(run->clients[i].load);
    until(run, all_ended, "the clients do not come to an end");
    CHECK(fiber_spawn(sim_host_io(run->world.clients[0].host), "look", look_fiber, run) == 0);
    until(run, has_looked, "not every object can be looked at");
    rest(run);
    check_replica(run);
    check_history(run);
    uint64_t hash = sim_trace_hash(run->world.sim);
    const struct meta_faults *f = &run->world.faults;
    if (tell)
        printf("seed %" PRIu64 ": %u replicas, %zu operations, %" PRIu64 " answered, cached reads %" PRIu64 ", sizes kept back %" PRIu64 ", locks not asked for %" PRIu64 ", crashes %u (power %u, at a write %u), partitions %u, "
               "swizzles %u, pauses %u, clocks %u, disks: errors %u, full %u, slow %u, wipes %u, replicas added %u, removed %u, transfers %u, %" PRIu64 " ms, trace %016" PRIx64 "\n",
               seed, run->world.n_replicas, run->history.n, run->counted.answered, run->counted.cached_reads,
               run->counted.kept_raises, run->counted.locks_here, f->crashes, f->power_losses, f->disk_crashes, f->partitions,
               f->swizzles, f->pauses, f->clocks, f->disk_errors, f->disk_full, f->disk_slow, f->wipes, f->added, f->removed, f->transfers,
               sim_now_ns(run->world.sim) / 1000000, hash);
    counters_add(&own_job->counted, &run->counted);
    own_job->virtual_ms += sim_now_ns(run->world.sim) / 1000000;
    own_job->faults += faults_sum(f);
    own_job->hash ^= hash;
    own_job->added += f->added;
    own_job->removed += f->removed;
    own_job->transfers += f->transfers;
    meta_world_destroy(&run->world);
    history_fini(&run->history);
    free(run);
    return hash;
}

/* ---- many seeds, in processes of their own: a seed that ends its process is known all the same */

static void job_run(uint64_t first, uint64_t count, uint64_t seconds, unsigned number, unsigned n_jobs, bool tell)
{
    own_job = &jobs[number];
    for (uint64_t i = number; i < count; i += n_jobs) {
        own_job->seed = first + i;
        run_seed(first + i, seconds, tell);
        fflush(stdout);
        own_job->done++;
    }
}

static unsigned jobs_run(uint64_t first, uint64_t count, uint64_t seconds, unsigned n_jobs, bool tell)
{
    pid_t pids[JOBS_MAX];
    unsigned failed = 0;
    fflush(stdout);
    for (unsigned i = 0; i < n_jobs; i++) {
        pids[i] = fork();
        CHECK(pids[i] >= 0);
        if (pids[i] == 0) {
            job_run(first, count, seconds, i, n_jobs, tell);
            _exit(0);
        }
    }
    for (unsigned i = 0; i < n_jobs; i++) {
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i]);
        if (status == 0)
            continue;
        failed++;
        fprintf(stderr, "seed %" PRIu64 " failed (status %x); replay: meta_sim --seed %" PRIu64 " --seconds %" PRIu64 "\n", jobs[i].seed,
                (unsigned)status, jobs[i].seed, seconds);
    }
    return failed;
}

static void sums_print(unsigned n_jobs)
{
    struct job sum = {0};
    for (unsigned i = 0; i < n_jobs; i++) {
        sum.done += jobs[i].done;
        sum.ops += jobs[i].ops;
        sum.unknown += jobs[i].unknown;
        counters_add(&sum.counted, &jobs[i].counted);
        sum.virtual_ms += jobs[i].virtual_ms;
        sum.faults += jobs[i].faults;
        sum.configurations += jobs[i].configurations;
        sum.hash ^= jobs[i].hash;
        sum.added += jobs[i].added;
        sum.removed += jobs[i].removed;
        sum.transfers += jobs[i].transfers;
    }
    printf("%" PRIu64 " seeds: %" PRIu64 " operations (%" PRIu64 " without a known result), %" PRIu64 " faults, %.1f virtual hours, %" PRIu64
           " configurations, traces %016" PRIx64 "\n",
           sum.done, sum.ops, sum.unknown, sum.faults, (double)sum.virtual_ms / 3600e3, sum.configurations, sum.hash);
    printf("%" PRIu64 " cached reads, %" PRIu64 " sizes kept back, %" PRIu64 " locks and unlocks not asked for, %" PRIu64 " snapshots, %" PRIu64 " clones; %" PRIu64
           " replicas added, %" PRIu64 " removed, %" PRIu64 " transfers\n",
           sum.counted.cached_reads, sum.counted.kept_raises, sum.counted.locks_here, sum.counted.snapshots, sum.counted.clones,
           sum.added, sum.removed, sum.transfers);
    CHECK(sum.done == 0 || sum.counted.answered > 0);
    CHECK(sum.done < MANY || (sum.counted.cached_reads > 0 && sum.counted.kept_raises > 0 && sum.counted.locks_here > 0 &&
                              sum.counted.snapshots > 0 && sum.counted.clones > 0 && sum.added > 0 && sum.removed > 0 &&
                              sum.transfers > 0));
}

static int run_twice(uint64_t seed, uint64_t seconds)
{
    own_job = &jobs[0];
    uint64_t first = run_seed(seed, seconds, true), second = run_seed(seed, seconds, true);
    if (first == second)
        return 0;
    fprintf(stderr, "seed %" PRIu64 ": the same seed gave another trace\n", seed);
    return 1;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 1, seconds = 10, n_jobs = 0;
    bool twice = false, verbose = false;
    const struct cli_option options[] = {
        {"seed", CLI_UINT, &seed, "N", "the first seed", 0, 0},
        {"seeds", CLI_UINT, &seeds, "COUNT", "how many", 1, 100000000},
        {"seconds", CLI_UINT, &seconds, "S", "virtual seconds of faults a seed", 1, 100000},
        {"jobs", CLI_UINT, &n_jobs, "J", "processes that share the seeds (default: one for each processor)", 1, JOBS_MAX},
        {"twice", CLI_FLAG, &twice, NULL, "run the first seed twice and compare the traces", 0, 0},
        {"verbose", CLI_FLAG, &verbose, NULL, "a line for each seed", 0, 0},
    };
    int n_args = 0;
    log_init("sim");
    if (getenv("TARN_LOG") == NULL)
        log_set_level(LOG_OFF);
    cli_parse(argc, argv, "meta_sim [--seed N] [--seeds COUNT]", "The metadata service, simulated.", options, ARRAY_SIZE(options), &n_args);
    if (n_jobs == 0)
        n_jobs = MIN((uint64_t)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1L), (uint64_t)JOBS_MAX);
    n_jobs = MIN(n_jobs, seeds);
    jobs = mmap(NULL, JOBS_MAX * sizeof *jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(jobs != MAP_FAILED);
    if (twice)
        return run_twice(seed, seconds);
    unsigned failed = jobs_run(seed, seeds, seconds, (unsigned)n_jobs, verbose || seeds == 1);
    sums_print((unsigned)n_jobs);
    return failed > 0;
}
