/* A client that holds a lock and writes is stopped, or cut off, for longer than its session lasts; another one takes the lock and
 * writes the same bytes; the first goes on. Nothing of it may be seen after the other has the lock (X1-X5).
 *
 * fence_sim [--seed N] [--seeds COUNT] [--trials T]: each seed is a cluster of its own with T trials, one after the other. What happens in
 * a trial is drawn: how the client is stopped and for how long, and what happens to a store or to the leader beside it. A
 * failing seed is printed with the command that replays it. */
#include "world.h"

#include "common/check.h"
#include "common/cli.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"
#include "common/prng.h"
#include "metadata/server.h"
#include "object.pb-c.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define SESSION_MS 3000
#define OTHER_SESSION_MS 60000 /* outlives every fault */
#define BYTES 200000        /* four cells and a chain of stores */
#define PIECE_MAX 100000
#define STOP_MS_MAX 12000
#define WATCH_MS 2000       /* the bytes are looked at for so long after both have written */
#define TRIAL_MS_MAX 180000
#define TRIALS 6

enum stop { PAUSED, NO_SERVICE, BYTES_ON_THE_WAY, ISOLATED, STOPS };
enum beside { NOTHING, STORE_CUT, STORE_PAUSED, STORE_KILLED, LEADER_KILLED, BESIDES };
static const char *const stop_names[STOPS] = {"paused", "no-service", "bytes-on-the-way", "isolated"};
static const char *const beside_names[BESIDES] = {"nothing", "store-cut", "store-paused", "store-killed", "leader-killed"};

struct side {
    struct meta *meta;
    struct stores *stores;
    struct file *file;
};
struct trial {
    struct run *run;
    struct side a, b;
    struct prng prng;
    enum stop stop;
    enum beside beside;
    char name[32];
    bool ready, a_holds, a_let_go, a_stop, granted, b_wrote, b_stop, a_done, b_done;
    uint64_t ino, a_session;
    size_t a_from, a_to; /* what the first client's unanswered write covers: the copies may differ there until they are compared */
    int a_end; /* what ended the first client's writes */
    uint8_t *buf, *before;
};
struct run {
    struct world world;
    struct trial *trial;
    uint64_t seed;
    unsigned trials, fenced, by_stop[STOPS], by_beside[BESIDES], writes, refused, busy;
};
static uint64_t trials = TRIALS;

static _Noreturn void broken(const struct trial *t, const char *fmt, ...) _printf_(2, 3);
static void broken(const struct trial *t, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "seed %" PRIu64 " trial %u (%s, %s) at %" PRIu64 " ms: ", t->run->seed, t->run->trials, stop_names[t->stop],
            beside_names[t->beside], sim_now_ns(t->run->world.sim) / 1000000);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\nreplay: fence_sim --seed %" PRIu64 " --seeds 1 --trials %" PRIu64 "\n", t->run->seed, trials);
    va_end(args);
    exit(1);
}

/* ---- both clients */

static void must(const struct trial *t, int err, const char *what)
{
    if (err != 0)
        broken(t, "%s: %s", what, err_name(err));
}

static void side_connect(struct trial *t, struct side *side, const char *name, uint32_t timeout_ms)
{
    struct meta_options options = {.name = name, .timeout_ms = timeout_ms, .give_up_ms = 60000};
    must(t, meta_connect(fiber_io(), &t->run->world.config, &options, &side->meta), "connecting");
    must(t, stores_create(fiber_io(), &t->run->world.config, side->meta, &side->stores), "connecting to stores");
}

/* Opens again when the session was lost meanwhile: faults beside may take longer than it lasts. */
static int side_open(struct trial *t, struct side *side)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = t->ino;
    int err = file_open(side->meta, side->stores, &where, O_RDWR, &meta_root, &side->file);
    if (err == 0)
        file_keep_fresh(side->file);
    return err;
}

static int side_lock(struct trial *t, struct side *side, Tarn__LockType type)
{
    Tarn__Lock lock = TARN__LOCK__INIT;
    uint64_t session;
    int err = file_session(side->file, &session);
    lock.ino = t->ino;
    lock.type = type;
    lock.end = UINT64_MAX;
    lock.owner = 1;
    lock.wait = type != TARN__LOCK_TYPE__LOCK_UN;
    lock.waiter = lock.wait ? meta_lock_waiter(side->meta) : 0;
    return err != 0 ? err : meta_lock_in(side->meta, session, &lock, &meta_root);
}

static void side_close(struct side *side)
{
    if (side->file != NULL)
        file_close(side->file);
    stores_destroy(side->stores);
    meta_disconnect(side->meta);
}

static int wait_for(const bool *flag)
{
    int err = 0;
    while (err == 0 && !*flag)
        err = io_sleep_ms(fiber_io(), 5);
    return err;
}

/* ---- the first one */

/* A client that does not know its own clock: asks each store by hand, under the generation of now and the session of then. */
static void ask_by_hand(struct trial *t, const Tarn__Extent *extent, const char *address, bool forwarded)
{
    static const uint8_t late[4096] __attribute__((aligned(4096))) = {0xee, 0xee, 0xee};
    uint32_t crc = crc32c(0, late, sizeof late);
    struct rpc_client *client = rpc_client_create(fiber_io(), address, &t->run->world.config.auth);
    CHECK(client != NULL);
    Tarn__Member self = TARN__MEMBER__INIT, *members[1] = {&self};
    self.address = (char *)(uintptr_t)address;
    Tarn__ChunkPut put = TARN__CHUNK_PUT__INIT;
    put.chunk = extent->chunk;
    put.generation = extent->generation;
    put.length = sizeof late;
    put.n_crcs = 1;
    put.crcs = &crc;
    put.n_members = 1;
    put.members = members;
    put.session = t->a_session;
    put.forwarded = forwarded;
    struct iovec payload = {(void *)(uintptr_t)late, sizeof late};
    struct rpc_call call = {.op = OP_CHUNK_PUT, .request = &put.base, .payload = &payload, .n_payload = 1, .payload_cells = true,
                            .reply_type = &tarn__chunk_put_reply__descriptor, .timeout_ms = 5000};
    int err = rpc_call(client, &call);
    if (err == 0)
        broken(t, "the store at %s took a write of session %" PRIu64 ", which had lost its lock%s", address, t->a_session,
               forwarded ? " (forwarded)" : "");
    t->run->refused += err == -E_NO_SESSION;
    t->run->busy += err == -E_BUSY || err == -E_UNAVAIL;
    rpc_call_fini(&call);
    rpc_client_destroy(client);
}

static void all_stores_by_hand(struct trial *t)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = t->ino;
    Tarn__FileMap request = TARN__FILE_MAP__INIT;
    Tarn__FileMapReply *map = NULL;
    request.where = &where;
    request.max = 1;
    if (meta_call(t->a.meta, OP_FILE_MAP, &request.base, &request.ctx, &meta_root, &tarn__file_map_reply__descriptor, &map, NULL) != 0)
        return;
    for (size_t i = 0; map->n_extents > 0 && i < map->extents[0]->n_replicas; i++)
        for (int forwarded = 0; forwarded < 2; forwarded++)
            ask_by_hand(t, map->extents[0], map->extents[0]->replicas[i]->address, forwarded != 0);
    tarn__file_map_reply__free_unpacked(map, NULL);
}

/* Writes under the lock until it is told to stop or refused. */
static int write_under_lock(struct trial *t)
{
    _cleanup_free_ uint8_t *buf = malloc(PIECE_MAX);
    CHECK(buf != NULL);
    int err = 0;
    while (err == 0 && !t->a_stop) {
        size_t at = (size_t)prng_below(&t->prng, BYTES - 1), n = 1 + (size_t)prng_below(&t->prng, PIECE_MAX);
        bool held = !t->granted;
        memset(buf, 0xa0 + (int)prng_below(&t->prng, 16), PIECE_MAX);
        n = MIN(n, BYTES - at);
        t->a_from = at;
        t->a_to = at + n;
        err = file_write(t->a.file, buf, n, at, false);
        if (err == 0)
            t->a_from = t->a_to = 0;
        if (err == 0 && !held)
            broken(t, "a write that began when the other one had the lock was answered with success");
        t->run->writes++;
    }
    return err;
}

static void first(void *arg)
{
    struct trial *t = arg;
    if (wait_for(&t->ready) != 0)
        return;
    side_connect(t, &t->a, "first", SESSION_MS);
    must(t, side_open(t, &t->a), "opening");
    must(t, side_lock(t, &t->a, TARN__LOCK_TYPE__LOCK_EX), "the first lock");
    t->a_session = meta_session(t->a.meta);
    t->a_holds = true;
    t->a_end = write_under_lock(t);
    t->a_let_go = true; /* from here on the other one may have it */
    if (t->a_end == 0)
        t->a_end = side_lock(t, &t->a, TARN__LOCK_TYPE__LOCK_UN);
    for (int err = 0; err == 0 && t->a_end != 0 && t->granted && !t->b_stop; err = io_sleep_ms(fiber_io(), 200))
        all_stores_by_hand(t);
    char byte = 0;
    if (t->a_end != 0 && meta_session(t->a.meta) != t->a_session && file_write(t->a.file, &byte, 1, 0, false) == 0)
        broken(t, "a file whose session has ended was written");
    file_close(t->a.file);
    t->a.file = NULL;
    int err = side_open(t, &t->a);
    if (err != 0 && err != -E_UNAVAIL)
        broken(t, "after a loss of the session the file cannot be opened again: %s", err_name(err));
    side_close(&t->a);
    t->a_done = true;
}

/* ---- the other one */

static void read_all(struct trial *t, uint8_t *buf)
{
    int64_t n = file_read(t->b.file, buf, BYTES, 0);
    if (n != BYTES)
        broken(t, "reading under the lock: %s, %" PRId64 " bytes", n < 0 ? err_name((int)n) : "short", n);
}

/* The bytes stand still while we hold the lock; all but those of the write that the first one was in (known limit, X6). */
static void stands_still(struct trial *t)
{
    read_all(t, t->before);
    io_sleep_ms(fiber_io(), prng_below(&t->prng, 400));
    read_all(t, t->buf);
    for (size_t i = 0; i < BYTES; i++)
        if (t->buf[i] != t->before[i] && (i < t->a_from || i >= t->a_to))
            broken(t, "byte %zu changed from %02x to %02x under the lock of the other one", i, t->before[i], t->buf[i]);
}

static void write_ours(struct trial *t, uint8_t ours)
{
    memset(t->buf, ours, BYTES);
    for (size_t at = 0, n; at < BYTES; at += n) {
        n = MIN(1 + (size_t)prng_below(&t->prng, PIECE_MAX), BYTES - at);
        must(t, file_write(t->b.file, t->buf + at, n, at, false), "writing under the lock");
    }
}

static void only_ours(struct trial *t, uint8_t ours)
{
    read_all(t, t->buf);
    for (size_t i = 0; i < BYTES; i++)
        if (t->buf[i] != ours)
            broken(t, "byte %zu is %02x, the holder of the lock wrote %02x", i, t->buf[i], ours);
}

static void make_file(struct trial *t)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    request.parent = &root;
    request.name = t->name;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = 0644;
    must(t, meta_call(t->b.meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL), "making");
    t->ino = entry->attr->ino;
    tarn__entry__free_unpacked(entry, NULL);
    must(t, side_open(t, &t->b), "opening");
    write_ours(t, 1);
}

static void other(void *arg)
{
    struct trial *t = arg;
    side_connect(t, &t->b, "other", OTHER_SESSION_MS);
    make_file(t);
    t->ready = true;
    if (wait_for(&t->a_holds) != 0)
        return;
    must(t, side_lock(t, &t->b, TARN__LOCK_TYPE__LOCK_EX), "the other lock");
    t->granted = true;
    if (!t->a_let_go && t->a.meta != NULL && meta_session(t->a.meta) == t->a_session)
        broken(t, "the lock went on while the first client had every right to hold it");
    t->run->fenced += !t->a_let_go || t->a_end != 0;
    stands_still(t);
    write_ours(t, 2);
    t->b_wrote = true;
    while (!t->b_stop) {
        only_ours(t, 2);
        if (io_sleep_ms(fiber_io(), 50) != 0)
            return;
    }
    only_ours(t, 2);
    must(t, side_lock(t, &t->b, TARN__LOCK_TYPE__LOCK_UN), "unlocking");
    side_close(&t->b);
    t->b_done = true;
}

/* ---- what happens to them */

static uint64_t draw(struct trial *t, uint64_t bound)
{
    return sim_random_u64(t->run->world.sim) % bound;
}

static void cut_from_service(struct world *world, struct sim_host *host, bool on)
{
    for (unsigned i = 0; i < WORLD_META; i++)
        sim_partition(world->metas[i].host, host, on);
}

static void first_stopped(struct trial *t, bool on)
{
    struct world *world = &t->run->world;
    struct sim_host *host = world->clients[0].host;
    if (t->stop == NO_SERVICE)
        cut_from_service(world, host, on);
    if (t->stop == ISOLATED)
        sim_isolate(host, on);
    if (t->stop == BYTES_ON_THE_WAY) { /* what it sent last arrives when it goes on, or at some stores before */
        for (unsigned i = 0; i < world->n_stores; i++)
            sim_cut(host, world->stores[i].host, on && draw(t, 3) != 0);
        if (on)
            sim_run(world->sim, draw(t, 20), NULL, NULL);
    }
    if (t->stop == PAUSED || t->stop == BYTES_ON_THE_WAY)
        sim_host_pause(host, on);
}

static struct world_host *leader(struct world *world)
{
    for (unsigned i = 0; i < WORLD_META; i++)
        if (world->metas[i].service != NULL && replica_leads(server_replica(world->metas[i].service)))
            return &world->metas[i];
    return &world->metas[0];
}

static struct world_host *victim_of(struct trial *t)
{
    struct world *world = &t->run->world;
    return t->beside == LEADER_KILLED ? leader(world) : &world->stores[draw(t, world->n_stores)];
}

static void beside_happens(struct trial *t, struct world_host *victim, bool on)
{
    switch (t->beside) {
    case STORE_CUT: /* not from the clients */
        cut_from_service(&t->run->world, victim->host, on);
        break;
    case STORE_PAUSED:
        sim_host_pause(victim->host, on);
        break;
    case STORE_KILLED:
    case LEADER_KILLED:
        if (on)
            world_kill(&t->run->world, victim);
        else
            world_mend(&t->run->world, true);
        break;
    default:
        break;
    }
}

static bool holds(void *arg)
{
    struct trial *t = arg;
    return t->a_holds;
}

static bool both_done(void *arg)
{
    struct trial *t = arg;
    return t->a_done && t->b_done;
}

/* The times at which things end, in milliseconds from the stop on. */
static void play(struct trial *t)
{
    struct world *world = &t->run->world;
    uint64_t stop_end = draw(t, STOP_MS_MAX), beside_begin = draw(t, 4000), beside_end = beside_begin + 1 + draw(t, 12000), quiet_ms = 0;
    struct world_host *victim = NULL;
    bool stopped = true, beside = false;
    first_stopped(t, true);
    for (uint64_t ms = 0; quiet_ms < WATCH_MS || ms < beside_end; ms += 10) {
        if (ms > TRIAL_MS_MAX)
            broken(t, "the trial does not come to an end: granted %d, written %d", t->granted, t->b_wrote);
        sim_run(world->sim, 10, NULL, NULL);
        if (stopped && ms >= stop_end) {
            stopped = false;
            first_stopped(t, false);
        }
        if (victim == NULL && ms >= beside_begin) {
            beside_happens(t, victim = victim_of(t), true);
            beside = true;
        }
        if (beside && ms >= beside_end) {
            beside = false;
            beside_happens(t, victim, false);
        }
        t->a_stop |= !stopped && ms > stop_end + 2000;
        quiet_ms += !stopped && !beside && t->b_wrote ? 10 : 0;
    }
    t->b_stop = true;
    if (sim_run(world->sim, TRIAL_MS_MAX, both_done, t) != SIM_DONE)
        broken(t, "the clients do not come to an end");
}

static void one_trial(struct run *run)
{
    struct trial t = {.run = run, .buf = malloc(BYTES), .before = malloc(BYTES)};
    CHECK(t.buf != NULL && t.before != NULL);
    run->trials++;
    run->trial = &t;
    t.prng = prng_init(run->seed * 1000 + run->trials);
    t.stop = (enum stop)draw(&t, STOPS);
    t.beside = (enum beside)draw(&t, BESIDES);
    run->by_stop[t.stop]++;
    run->by_beside[t.beside]++;
    snprintf(t.name, sizeof t.name, "trial-%u", run->trials);
    CHECK(fiber_spawn(sim_host_io(run->world.clients[0].host), "first", first, &t) == 0);
    CHECK(fiber_spawn(sim_host_io(run->world.clients[1].host), "other", other, &t) == 0);
    if (sim_run(run->world.sim, TRIAL_MS_MAX, holds, &t) != SIM_DONE)
        broken(&t, "the first client does not get its lock");
    sim_run(run->world.sim, draw(&t, 200), NULL, NULL);
    play(&t);
    sim_run(run->world.sim, 8000, NULL, NULL); /* nodes that counted as down come back */
    free(t.buf);
    free(t.before);
}

static void no_program(struct world_host *host)
{
}

static void no_excuse(void *arg, uint64_t ino)
{
}

static void run_seed(uint64_t seed)
{
    struct run *run = calloc(1, sizeof *run);
    CHECK(run != NULL);
    run->seed = seed;
    struct world_hooks hooks = {.client = no_program, .client_crashed = no_program, .excuse = no_excuse};
    world_create(&run->world, seed, false, WORLD_STORES, &hooks);
    sim_run(run->world.sim, 3000, NULL, NULL);
    for (uint64_t i = 0; i < trials; i++)
        one_trial(run);
    printf("seed %" PRIu64 ": %u trials, %u with a session fenced, %u writes of the first client, asked by hand %u refused, %u busy;", seed,
           run->trials, run->fenced, run->writes, run->refused, run->busy);
    for (unsigned i = 0; i < STOPS; i++)
        printf(" %s %u", stop_names[i], run->by_stop[i]);
    for (unsigned i = 1; i < BESIDES; i++)
        printf(" %s %u", beside_names[i], run->by_beside[i]);
    printf("; %" PRIu64 " s, trace %016" PRIx64 "\n", sim_now_ns(run->world.sim) / 1000000000, sim_trace_hash(run->world.sim));
    fflush(stdout);
    world_destroy(&run->world);
    free(run);
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, seeds = 1;
    const struct cli_option options[] = {
        {"seed", CLI_UINT, &seed, "N", "the first seed", 0, 0},
        {"seeds", CLI_UINT, &seeds, "COUNT", "how many", 1, 1000000},
        {"trials", CLI_UINT, &trials, "T", "in each", 1, 100000},
    };
    int n_args = 0;
    log_init("sim");
    if (getenv("TARN_LOG") == NULL)
        log_set_level(LOG_ERROR);
    cli_parse(argc, argv, "fence_sim [--seed N] [--seeds COUNT]", "Stopped clients, simulated.", options, ARRAY_SIZE(options), &n_args);
    for (uint64_t i = 0; i < seeds; i++)
        run_seed(seed + i);
    return 0;
}
