/* The simulated cluster under load and faults. Checked: nothing that was acknowledged is lost or half there, reads
 * during the faults return what was written, locks exclude, and after the faults end the cluster comes to rest with equal replicas.
 *
 * cluster_sim [--seed N] [--seeds COUNT] [--seconds S] [--verbose]: COUNT seeds from N on, each S virtual seconds of faults. A failing
 * seed is printed with the command that replays it; the same seed gives the same trace hash. */
#include "run.h"

#include "oracle.h"

#include "common/check.h"
#include "common/cli.h"
#include "common/err.h"
#include "common/log.h"
#include "metadata/replica_impl.h"
#include "metadata/server.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define SETTLE_MS 180000
#define REST_MS 300000 /* longer than a store waits between two inventories */
#define REST_STEP_MS 500
#define SEEDS_TELLING 10 /* with --codes so many must have seen everything */

bool verbose;
static uint64_t current_seed, current_seconds;
static bool codes;

void broken(const struct worker *worker, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "seed %" PRIu64 ": client %u worker %u at %" PRIu64 " ms: ", current_seed, worker->client, worker->index,
            sim_now_ns(worker->run->world.sim) / 1000000);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\nreplay: cluster_sim%s --seed %" PRIu64 " --seeds 1 --seconds %" PRIu64 "\n", codes ? " --codes" : "", current_seed,
            current_seconds);
    va_end(args);
    exit(1);
}

/* ---- fibers of the clients */

static void session_lost(void *arg)
{
    struct client *client = arg;
    client->sessions_lost++;
    lease_client_lost(client);
    if (client->run->holder != NULL && client->run->holder->client == client->index)
        client->run->holder = NULL;
}

static struct worker *any_worker(struct worker *worker)
{
    return &worker->run->workers[prng_below(&worker->prng, WORLD_CLIENTS)][prng_below(&worker->prng, WORLD_WORKERS)];
}

static void work_on_codes(struct client *client, struct worker *worker)
{
    switch (prng_below(&worker->prng, 13)) {
    case 0:
    case 1:
    case 2:
        work_coded(client, worker);
        break;
    case 3:
    case 4:
        work_write(client, worker);
        break;
    case 5:
    case 6:
        work_check_file(client, worker, any_worker(worker), false);
        break;
    case 7:
    case 8:
    case 9:
        work_packed(client, worker);
        break;
    case 10:
        work_scrub(client, worker);
        break;
    case 11:
        work_snapshot(client, worker);
        break;
    default:
        work_coded_get(client, worker, (unsigned)prng_below(&worker->prng, CODED_OBJECTS), false);
    }
}

static void work(struct client *client, struct worker *worker)
{
    struct run *run = worker->run;
    if (run->codes && run->coded_dirs == 0 && make_coded_dirs(client) == 0)
        run->coded_dirs = 1;
    if (run->codes && prng_below(&worker->prng, 4) != 0) {
        work_on_codes(client, worker);
        return;
    }
    switch (prng_below(&worker->prng, 19)) {
    case 0:
    case 1:
    case 2:
        work_put(client, worker);
        break;
    case 3:
    case 4:
        work_get(client, worker, (unsigned)prng_below(&worker->prng, OBJECTS), false);
        break;
    case 5:
    case 6:
        work_write(client, worker);
        break;
    case 7:
        work_check_file(client, worker, worker, false);
        break;
    case 8:
        work_check_file(client, worker, any_worker(worker), false);
        break;
    case 9:
        work_tree(client, worker);
        break;
    case 10:
        work_append(client, worker);
        break;
    case 11:
        work_contest(client, worker);
        break;
    case 12:
    case 13:
        work_lease(client, worker);
        break;
    case 14:
        work_admin(client, worker);
        break;
    case 15:
    case 16:
        work_coded(client, worker);
        break;
    default:
        work_lock(client, worker);
    }
}

static void worker_fiber(void *arg)
{
    struct worker *worker = arg;
    struct run *run = worker->run;
    struct client *client = &run->clients[worker->client - 1];
    int err = 0;
    while (!run->stop && err == 0) {
        work(client, worker);
        err = io_sleep_ms(fiber_io(), prng_below(&worker->prng, run->world.quiet ? 2500 : run->codes ? 600 : 60)); /* -E_CANCELED: the host crashed */
    }
    fiber_group_done(&client->workers);
}

static int client_connect(struct client *client, const char *name)
{
    struct meta_options options = {.name = name, .timeout_ms = SESSION_MS, .give_up_ms = 20000, .lost = session_lost, .arg = client};
    int err = meta_connect(fiber_io(), &client->run->world.config, &options, &client->meta);
    return err != 0 ? err : stores_create(fiber_io(), &client->run->world.config, client->meta, &client->stores);
}

static void client_disconnect(struct client *client)
{
    client->run->read_degraded += stores_counters(client->stores)->read_degraded;
    client->run->read_compressed += stores_counters(client->stores)->read_compressed;
    stores_destroy(client->stores);
    meta_disconnect(client->meta);
}

static void client_fiber(void *arg)
{
    struct client *client = arg;
    int err = client_connect(client, "client");
    CHECK(err == 0 || err == -E_UNAVAIL || err == -E_CANCELED);
    if (err == 0) {
        if (client->index == 1 && client->run->append_ino == 0)
            make_shared_files(client);
        for (unsigned i = 0; i < WORLD_WORKERS; i++) {
            fiber_group_add(&client->workers);
            if (fiber_spawn(fiber_io(), "worker", worker_fiber, &client->run->workers[client->index - 1][i]) != 0)
                fiber_group_done(&client->workers);
        }
        fiber_group_wait(&client->workers);
    }
    if (client->meta != NULL)
        client_disconnect(client);
    client->meta = NULL;
    client->stores = NULL;
    client->run->running--;
}

static void client_start(struct world_host *host)
{
    struct run *run = container_of(host->world, struct run, world);
    run->running++;
    CHECK(fiber_spawn(sim_host_io(host->host), "client", client_fiber, &run->clients[host->index - 1]) == 0);
}

static void client_crashed(struct world_host *host)
{
    struct run *run = container_of(host->world, struct run, world);
    lease_client_lost(&run->clients[host->index - 1]);
    if (run->holder != NULL && run->holder->client == host->index)
        run->holder = NULL; /* the dead hold nothing; the service gives the lock on when the session expires */
    for (unsigned w = 0; w < WORLD_WORKERS; w++) /* a change it was in */
        run->workers[host->index - 1][w].file.changes &= ~1u;
}

/* ino 0: of any file. */
static void excuse(void *arg, uint64_t ino)
{
    struct run *run = arg;
    for (unsigned c = 0; c < WORLD_CLIENTS; c++)
        for (unsigned w = 0; w < WORLD_WORKERS; w++)
            if (ino == 0 || run->workers[c][w].file.ino == ino)
                file_excuse(&run->workers[c][w].file);
}

/* After the faults, with a fresh session from the first client's host. */
static void verify_fiber(void *arg)
{
    struct run *run = arg;
    struct client client = {.run = run, .index = 1};
    CHECK(client_connect(&client, "verifier") == 0);
    for (unsigned c = 0; c < WORLD_CLIENTS; c++)
        for (unsigned w = 0; w < WORLD_WORKERS; w++) {
            struct worker *worker = &run->workers[c][w];
            for (unsigned k = 0; k < OBJECTS; k++)
                work_get(&client, worker, k, true);
            for (unsigned k = 0; k < CODED_OBJECTS; k++)
                work_coded_get(&client, worker, k, true);
            for (unsigned k = 0; k < PACKED_OBJECTS; k++)
                work_packed_get(&client, worker, k, true);
            check_snapshots(&client, worker, true);
            work_check_file(&client, worker, worker, true);
            check_tree(&client, worker);
        }
    if (run->append_ino != 0) {
        check_token(&client, &run->workers[0][0]);
        check_appends(&client, &run->workers[0][0]);
    }
    check_contests(&client, &run->workers[0][0]);
    if (run->codes)
        scrub_all(&client, &run->workers[0][0]);
    client_disconnect(&client);
    run->verified = true;
}

static void empty_fiber(void *arg)
{
    struct run *run = arg;
    struct client client = {.run = run, .index = 1};
    CHECK(client_connect(&client, "remover") == 0);
    for (unsigned c = 0; c < WORLD_CLIENTS; c++)
        for (unsigned w = 0; w < WORLD_WORKERS; w++)
            drop_snapshots(&client, &run->workers[c][w]);
    int err = remove_all(&client);
    if (err != 0)
        broken(&run->workers[0][0], "not everything can be removed: %s", err_name(err));
    client_disconnect(&client);
    run->emptied = true;
}

/* ---- one seed */

static bool all_ended(void *arg)
{
    return ((struct run *)arg)->running == 0;
}

static bool all_verified(void *arg)
{
    return ((struct run *)arg)->verified;
}

static bool all_emptied(void *arg)
{
    return ((struct run *)arg)->emptied;
}

static bool at_rest(struct run *run, struct oracle_copies *copies, const char **ret_why)
{
    if (!world_replicas_equal(&run->world, ret_why))
        return false;
    struct kv *kv = server_replica(run->world.metas[0].service)->kv;
    return oracle_tables(kv, copies, ret_why) && oracle_stores(&run->world, copies, ret_why) && oracle_levels(kv, copies, ret_why) &&
           oracle_parity(&run->world, kv, copies, ret_why);
}

/* Waits until replicas, tables and stores agree and nothing is under way. empty: and no chunk is left. */
static void rest(struct run *run, bool empty)
{
    struct oracle_copies copies = {0};
    const char *why = "";
    bool rests = false;
    for (unsigned ms = 0; !rests && ms < REST_MS; ms += REST_STEP_MS) {
        sim_run(run->world.sim, REST_STEP_MS, NULL, NULL);
        rests = at_rest(run, &copies, &why);
        if (rests && empty && copies.n > 0) {
            why = "chunks of removed files are left";
            rests = false;
        }
    }
    free(copies.items);
    if (!rests)
        broken(&run->workers[0][0], "the cluster does not come to rest%s: %s", empty ? " after everything was removed" : "", why);
}

static void workers_init(struct run *run, uint64_t seed)
{
    for (unsigned c = 0; c < WORLD_CLIENTS; c++) {
        run->clients[c] = (struct client){.run = run, .index = c + 1};
        for (unsigned w = 0; w < WORLD_WORKERS; w++) {
            struct worker *worker = &run->workers[c][w];
            worker->run = run;
            worker->client = c + 1;
            worker->index = w + 1;
            worker->file.limit = run->codes ? FILE_BYTES_MAX : FILE_BYTES;
            worker->prng = prng_init(seed * 1000 + c * 10 + w);
        }
    }
}

static void faults(struct run *run, uint64_t seconds)
{
    uint64_t end = sim_now_ns(run->world.sim) + seconds * 1000000000;
    while (sim_now_ns(run->world.sim) < end) {
        if (sim_run(run->world.sim, 200 + sim_random_u64(run->world.sim) % 1500, NULL, NULL) == SIM_IDLE)
            world_mend(&run->world, true); /* nobody is up: time stands still */
        world_fault(&run->world);
        world_mend(&run->world, false);
        world_excuse(&run->world);
        if (run->codes && sim_random_u64(run->world.sim) % 2 == 0)
            world_store_fault(&run->world);
        if (run->codes)
            rot_flip(&run->world, &run->rot);
    }
}

static void until(struct run *run, bool (*done)(void *arg), const char *what)
{
    if (sim_run(run->world.sim, SETTLE_MS, done, run) != SIM_DONE)
        broken(&run->workers[0][0], "%s in %d s after the faults", what, SETTLE_MS / 1000);
}

static void in_calm(struct run *run, fiber_fn fn, bool (*done)(void *arg), const char *what)
{
    CHECK(fiber_spawn(sim_host_io(run->world.clients[0].host), "calm", fn, run) == 0);
    until(run, done, what);
}

/* What makes a run of many seeds show something: it fails when one of these never happened. */
static struct totals {
    uint64_t groups, coded, containers, compressed, flips, repaired, read_degraded, read_compressed, snapshot_reads, write_crashes, absences;
} totals;

static void count(struct run *run, struct kv *kv, const struct oracle_census *census)
{
    rot_look(&run->world, &run->rot);
    CHECK(run->rot.n == 0); /* every copy was just found whole */
    totals.groups += oracle_groups(kv);
    totals.coded += census->coded;
    totals.containers += census->containers;
    totals.compressed += census->compressed;
    totals.flips += run->rot.flips_made;
    totals.repaired += run->rot.repaired;
    totals.read_degraded += run->read_degraded;
    totals.read_compressed += run->read_compressed;
    totals.snapshot_reads += run->snapshot_reads;
    totals.write_crashes += run->world.write_crashes;
    totals.absences += run->world.absences;
}

static void tell(struct run *run, uint64_t seed, const struct oracle_census *census)
{
    const struct world *world = &run->world;
    uint64_t acked = 0, doubtful = 0, checked = 0;
    for (unsigned c = 0; c < WORLD_CLIENTS; c++)
        for (unsigned w = 0; w < WORLD_WORKERS; w++) {
            acked += run->workers[c][w].acked;
            doubtful += run->workers[c][w].doubtful;
            checked += run->workers[c][w].checked;
        }
    printf("seed %" PRIu64 ": %" PRIu64 " writes acknowledged, %" PRIu64 " in doubt, %" PRIu64 " checks, %" PRIu64 " locks, %" PRIu64
           " reads by lease, %" PRIu64 " kept back, %" PRIu64 " parity groups",
           seed, acked, doubtful, checked, run->grants, run->cached_reads, run->kept_writes,
           oracle_groups(server_replica(world->metas[0].service)->kv));
    if (run->codes)
        printf(" (%" PRIu64 " at rest), %" PRIu64 " containers, %" PRIu64 " compressed, %u bits flipped, %u repaired, %" PRIu64
               " KiB computed, %" PRIu64 " decompressed, %u crashes at a write, %u long absences, %" PRIu64 " reads of snapshots",
               census->coded, census->containers, census->compressed, run->rot.flips_made, run->rot.repaired,
               run->read_degraded / 1024, run->read_compressed / 1024, world->write_crashes, world->absences,
               run->snapshot_reads);
    printf(", %u crashes (%u of power), %u partitions, %u disks, %u wipes, %" PRIu64 " s, trace %016" PRIx64 "\n", world->crashes,
           world->power_losses, world->partitions, world->disk_faults, world->wipes, sim_now_ns(world->sim) / 1000000000,
           sim_trace_hash(world->sim));
    fflush(stdout);
    CHECK(acked > 0 && checked > 0);
}

static uint64_t run_seed(uint64_t seed, uint64_t seconds)
{
    struct run *run = calloc(1, sizeof *run);
    CHECK(run != NULL);
    struct world_hooks hooks = {.client = client_start, .client_crashed = client_crashed, .excuse = excuse, .arg = run};
    current_seed = seed;
    run->codes = codes;
    workers_init(run, seed);
    world_create(&run->world, seed, seed % 3 != 0, codes ? WORLD_STORES_MAX : WORLD_STORES, &hooks);
    run->world.quiet = seed % (codes ? 8 : 4) == 1;
    sim_run(run->world.sim, 3000, NULL, NULL);
    faults(run, seconds);
    run->stop = true;
    world_calm(&run->world);
    until(run, all_ended, "the clients do not come to an end");
    in_calm(run, verify_fiber, all_verified, "what was acknowledged cannot be read");
    rest(run, false);
    struct kv *kv = server_replica(run->world.metas[0].service)->kv;
    struct oracle_census census = oracle_census(kv);
    count(run, kv, &census);
    in_calm(run, empty_fiber, all_emptied, "what is there cannot be removed");
    rest(run, true);
    tell(run, seed, &census);
    uint64_t hash = sim_trace_hash(run->world.sim);
    world_destroy(&run->world);
    free(run);
    return hash;
}

static int totals_seen(uint64_t seeds)
{
    const struct totals *t = &totals;
    printf("%" PRIu64 " seeds: %" PRIu64 " parity groups (%" PRIu64 " at rest), %" PRIu64 " containers, %" PRIu64 " pieces compressed, %" PRIu64
           " bits flipped, %" PRIu64 " repaired, %" PRIu64 " KiB computed, %" PRIu64 " decompressed, %" PRIu64 " reads of snapshots, %" PRIu64
           " crashes at a write, %" PRIu64 " long absences\n",
           seeds, t->groups, t->coded, t->containers, t->compressed, t->flips, t->repaired, t->read_degraded / 1024,
           t->read_compressed / 1024, t->snapshot_reads, t->write_crashes, t->absences);
    if (seeds >= SEEDS_TELLING && (t->coded == 0 || t->containers == 0 || t->compressed == 0 || t->repaired == 0 || t->read_degraded == 0 ||
                                   t->read_compressed == 0 || t->snapshot_reads == 0 || t->write_crashes == 0 || t->absences == 0)) {
        fprintf(stderr, "one of these never happened: the run shows nothing about it\n");
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 1;
    bool twice = false;
    current_seconds = 40;
    const struct cli_option options[] = {
        {"seed", CLI_UINT, &seed, "N", "the first seed", 0, 0},
        {"seeds", CLI_UINT, &seeds, "COUNT", "how many", 1, 1000000},
        {"seconds", CLI_UINT, &current_seconds, "S", "virtual seconds of faults a seed", 1, 100000},
        {"codes", CLI_FLAG, &codes, NULL, "eight stores; most of the work on what is coded, packed, compressed; bits flip", 0, 0},
        {"twice", CLI_FLAG, &twice, NULL, "run the first seed twice and compare the traces", 0, 0},
        {"verbose", CLI_FLAG, &verbose, NULL, "tell what fails on the way", 0, 0},
    };
    int n_args = 0;
    log_init("sim");
    if (getenv("TARN_LOG") == NULL)
        log_set_level(LOG_ERROR);
    cli_parse(argc, argv, "cluster_sim [--seed N] [--seeds COUNT]", "A whole cluster, simulated.", options, ARRAY_SIZE(options), &n_args);
    uint64_t first = 0;
    for (uint64_t i = 0; i < seeds; i++) {
        uint64_t hash = run_seed(seed + i, current_seconds);
        first = i == 0 ? hash : first;
    }
    if (twice && run_seed(seed, current_seconds) != first) {
        fprintf(stderr, "seed %" PRIu64 ": the same seed gave another trace\n", seed);
        return 1;
    }
    return codes ? totals_seen(seeds) : 0;
}
