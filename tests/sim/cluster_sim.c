/* The simulated cluster under load and faults. Checked: nothing that was acknowledged is lost or half there, reads
 * during the faults return what was written, locks exclude, and after the faults end the cluster comes to rest with equal replicas.
 *
 * cluster_sim [--seed N] [--seeds COUNT] [--seconds S] [--verbose]: COUNT seeds from N on, each S virtual seconds of faults. A failing
 * seed is printed with the command that replays it; the same seed gives the same trace hash. */
#include "world.h"

#include "common/check.h"
#include "common/cli.h"
#include "common/err.h"
#include "common/log.h"
#include "common/prng.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define OBJECTS 8            /* names a worker puts to, again and again */
#define OBJECT_MAX KIB(300)
#define FILE_BYTES KIB(400)  /* of the file each worker overwrites in place */
#define SETTLE_MS 180000

static bool verbose;

/* ---- what was acknowledged: lives outside the simulated hosts */

struct object_model {
    uint64_t acked;      /* content seed of the last acknowledged put; 0 = none */
    uint64_t maybe[8];   /* puts since then whose answer was lost: each may be there */
    unsigned n_maybe;
    bool never_again;    /* more answers were lost than are remembered: not checked any more */
};
struct worker {
    struct run *run;
    unsigned client, index;
    struct prng prng;
    struct object_model objects[OBJECTS];
    uint8_t file[FILE_BYTES];        /* acknowledged content */
    uint8_t file_doubt[FILE_BYTES];  /* 1: a write here was not acknowledged */
    bool file_made;
    uint64_t acked, doubtful, checked;
    bool done;
};
struct client {
    struct run *run;
    unsigned index;
    struct meta *meta;
    struct stores *stores;
    struct fiber_group workers;
    bool lost_session;
};
struct run {
    struct world world;
    struct client clients[WORLD_CLIENTS];
    struct worker workers[WORLD_CLIENTS][WORLD_WORKERS];
    bool stop;          /* workers end after their present operation */
    unsigned running;
    bool verified;
    /* the lock: who believes to hold it */
    const struct worker *holder;
    uint64_t grants;
    uint64_t lock_ino;
};

_Noreturn static void broken(const struct worker *worker, const char *fmt, ...) _printf_(2, 3);
static uint64_t current_seed, current_seconds;
static void broken(const struct worker *worker, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "seed %" PRIu64 ": client %u worker %u at %" PRIu64 " ms: ", current_seed, worker->client, worker->index,
            sim_now_ns(worker->run->world.sim) / 1000000);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\nreplay: cluster_sim --seed %" PRIu64 " --seeds 1 --seconds %" PRIu64 "\n", current_seed, current_seconds);
    va_end(args);
    exit(1);
}

/* ---- contents */

static size_t object_size(uint64_t content)
{
    struct prng prng = prng_init(content);
    switch (prng_below(&prng, 4)) {
    case 0:
        return (size_t)prng_below(&prng, 200);
    case 1:
        return (size_t)prng_below(&prng, KIB(8));
    default:
        return (size_t)prng_below(&prng, OBJECT_MAX);
    }
}

static void object_fill(uint64_t content, uint8_t *buf, size_t n)
{
    struct prng prng = prng_init(content ^ 0x5bd1e995);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t v = prng_u64(&prng);
        memcpy(buf + i, &v, MIN(n - i, sizeof v));
    }
}

static bool object_is(uint64_t content, const uint8_t *buf, size_t n)
{
    if (content == 0 || object_size(content) != n)
        return false;
    uint8_t *want = malloc(n + 8);
    CHECK(want != NULL);
    object_fill(content, want, n);
    bool equal = memcmp(want, buf, n) == 0;
    free(want);
    return equal;
}

/* ---- puts and gets */

static void object_path(const struct worker *worker, unsigned k, char out[64])
{
    snprintf(out, 64, "/w%u-%u/d%u/o%u", worker->client, worker->index, k % 3, k);
}

static int put_content(struct client *client, const char *path, uint64_t content)
{
    size_t n = object_size(content);
    _cleanup_free_ uint8_t *buf = malloc(n + 8);
    CHECK(buf != NULL);
    object_fill(content, buf, n);
    struct put_options options = {.cred = &meta_root, .parent = TARN__WHERE__INIT, .path = path};
    struct put *put = NULL;
    int err = put_begin(client->meta, client->stores, &options, &put);
    if (err != 0)
        return err;
    err = put_write(put, buf, n);
    if (err != 0) {
        put_abort(put);
        return err;
    }
    return put_commit(put, NULL, 0, NULL, 0, NULL);
}

static void work_put(struct client *client, struct worker *worker)
{
    unsigned k = (unsigned)prng_below(&worker->prng, OBJECTS);
    uint64_t content = prng_u64(&worker->prng) | 1;
    char path[64];
    object_path(worker, k, path);
    struct object_model *model = &worker->objects[k];
    int err = put_content(client, path, content);
    if (err == 0) {
        *model = (struct object_model){.acked = content};
        worker->acked++;
        return;
    }
    worker->doubtful++;
    if (model->n_maybe == ARRAY_SIZE(model->maybe))
        model->never_again = true;
    else
        model->maybe[model->n_maybe++] = content;
    if (verbose)
        fprintf(stderr, "put %s: %s\n", path, err_name(err));
}

/* The whole file; -E_NOENT, other errors, or its length. */
static int64_t read_path(struct client *client, const char *path, uint8_t *buf, size_t size)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)(uintptr_t)path;
    struct file *file = NULL;
    int err = file_open(client->meta, client->stores, &where, O_RDONLY, &meta_root, &file);
    if (err != 0)
        return err;
    int64_t n = file_read(file, buf, size, 0);
    err = file_close(file);
    return n < 0 ? n : err < 0 && err != -E_NO_SESSION && err != -E_UNAVAIL ? err : n;
}

static bool object_allowed(const struct object_model *model, const uint8_t *buf, int64_t n)
{
    if (n == -E_NOENT)
        return model->acked == 0;
    if (object_is(model->acked, buf, (size_t)n))
        return true;
    for (unsigned i = 0; i < model->n_maybe; i++)
        if (object_is(model->maybe[i], buf, (size_t)n))
            return true;
    return false;
}

/* final: every read must succeed. */
static void work_get(struct client *client, struct worker *worker, unsigned k, bool final)
{
    char path[64];
    object_path(worker, k, path);
    struct object_model *model = &worker->objects[k];
    if (model->never_again)
        return;
    _cleanup_free_ uint8_t *buf = malloc(OBJECT_MAX + 1);
    CHECK(buf != NULL);
    int64_t n = read_path(client, path, buf, OBJECT_MAX + 1);
    if (n < 0 && n != -E_NOENT) {
        if (final)
            broken(worker, "%s cannot be read after all faults have ended: %s", path, err_name((int)n));
        return;
    }
    if (!object_allowed(model, buf, n))
        broken(worker, "%s is not what was put: %" PRId64 " bytes, acknowledged %s", path, n, model->acked != 0 ? "before" : "never");
    worker->checked++;
}

/* ---- a file overwritten in place, with fsync */

static struct file *open_own(struct client *client, struct worker *worker, uint32_t flags)
{
    char path[64];
    snprintf(path, sizeof path, "/f%u-%u", worker->client, worker->index);
    Tarn__Where root = TARN__WHERE__INIT, where = TARN__WHERE__INIT;
    if (!worker->file_made) {
        Tarn__Create request = TARN__CREATE__INIT;
        request.parent = &root;
        request.name = path + 1;
        request.type = TARN__FILE_TYPE__FT_FILE;
        request.mode = 0644;
        if (meta_call(client->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL) != 0)
            return NULL;
        worker->file_made = true;
    }
    where.path = path;
    struct file *file = NULL;
    return file_open(client->meta, client->stores, &where, flags, &meta_root, &file) == 0 ? file : NULL;
}

static void work_write(struct client *client, struct worker *worker)
{
    struct file *file = open_own(client, worker, O_RDWR);
    if (file == NULL)
        return;
    for (unsigned i = 0; i < 4; i++) {
        size_t at = (size_t)prng_below(&worker->prng, FILE_BYTES), n = (size_t)prng_below(&worker->prng, KIB(90)) + 1;
        n = MIN(n, FILE_BYTES - at);
        _cleanup_free_ uint8_t *buf = malloc(n + 8);
        CHECK(buf != NULL);
        object_fill(prng_u64(&worker->prng), buf, n);
        memset(worker->file_doubt + at, 1, n);
        int err = file_write(file, buf, n, at, false);
        if (err == 0)
            err = file_sync(file);
        if (err != 0)
            break;
        memcpy(worker->file + at, buf, n);
        memset(worker->file_doubt + at, 0, n);
        worker->acked++;
    }
    file_close(file); /* without a session the handle is gone already */
}

static void work_check_file(struct client *client, struct worker *worker, bool final)
{
    struct file *file = worker->file_made ? open_own(client, worker, O_RDONLY) : NULL;
    if (file == NULL) {
        if (final && worker->file_made)
            broken(worker, "the file cannot be opened after all faults have ended");
        return;
    }
    _cleanup_free_ uint8_t *buf = calloc(1, FILE_BYTES);
    CHECK(buf != NULL);
    int64_t n = file_read(file, buf, FILE_BYTES, 0);
    file_close(file);
    if (n < 0 && final)
        broken(worker, "the file cannot be read after all faults have ended: %s", err_name((int)n));
    for (size_t i = 0; n >= 0 && i < FILE_BYTES; i++)
        if (!worker->file_doubt[i] && buf[i] != worker->file[i])
            broken(worker, "byte %zu of the file is %02x, acknowledged was %02x (size %" PRId64 ")", i, buf[i], worker->file[i], n);
    worker->checked += n >= 0;
}

/* ---- the lock all workers share */

static void work_lock(struct client *client, struct worker *worker)
{
    struct run *run = worker->run;
    if (run->lock_ino == 0)
        return;
    Tarn__Lock lock = TARN__LOCK__INIT;
    lock.ino = run->lock_ino;
    lock.kind = TARN__LOCK_KIND__LOCK_FCNTL;
    lock.type = TARN__LOCK_TYPE__LOCK_EX;
    lock.start = 0;
    lock.end = UINT64_MAX;
    lock.owner = 100 + worker->index;
    lock.wait = true;
    lock.waiter = meta_lock_waiter(client->meta);
    client->lost_session = false;
    if (meta_lock(client->meta, &lock, &meta_root) != 0)
        return;
    if (run->holder != NULL && !client->lost_session && !run->clients[run->holder->client - 1].lost_session)
        broken(worker, "the lock is held by client %u worker %u too", run->holder->client, run->holder->index);
    run->holder = worker;
    run->grants++;
    io_sleep_ms(fiber_io(), prng_below(&worker->prng, 30));
    if (run->holder == worker)
        run->holder = NULL;
    lock.type = TARN__LOCK_TYPE__LOCK_UN;
    lock.wait = false;
    meta_lock(client->meta, &lock, &meta_root); /* lost: the session's end releases it */
}

/* ---- fibers of the clients */

static void session_lost(void *arg)
{
    struct client *client = arg;
    client->lost_session = true;
}

static void worker_fiber(void *arg)
{
    struct worker *worker = arg;
    struct run *run = worker->run;
    struct client *client = &run->clients[worker->client - 1];
    while (!run->stop) {
        switch (prng_below(&worker->prng, 8)) {
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
            work_write(client, worker);
            break;
        case 6:
            work_check_file(client, worker, false);
            break;
        default:
            work_lock(client, worker);
        }
        io_sleep_ms(fiber_io(), prng_below(&worker->prng, 60));
    }
    worker->done = true;
    fiber_group_done(&client->workers);
}

static int client_connect(struct client *client, const char *name)
{
    struct meta_options options = {.name = name, .give_up_ms = 20000, .lost = session_lost, .arg = client};
    int err = meta_connect(fiber_io(), &client->run->world.config, &options, &client->meta);
    return err != 0 ? err : stores_create(fiber_io(), &client->run->world.config, client->meta, &client->stores);
}

static void client_disconnect(struct client *client)
{
    stores_destroy(client->stores);
    meta_disconnect(client->meta);
}

static void make_lock_file(struct client *client)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Create request = TARN__CREATE__INIT;
    request.parent = &root;
    request.name = (char *)"lock";
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = 0644;
    Tarn__Entry *reply = NULL;
    if (meta_call(client->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &reply, NULL) == 0) {
        client->run->lock_ino = reply->attr->ino;
        tarn__entry__free_unpacked(reply, NULL);
    }
}

static void client_fiber(void *arg)
{
    struct client *client = arg;
    int err = client_connect(client, "client");
    CHECK(err == 0 || err == -E_UNAVAIL);
    if (err == 0) {
        if (client->index == 1)
            make_lock_file(client);
        for (unsigned i = 0; i < WORLD_WORKERS; i++) {
            fiber_group_add(&client->workers);
            CHECK(fiber_spawn(fiber_io(), "worker", worker_fiber, &client->run->workers[client->index - 1][i]) == 0);
        }
        fiber_group_wait(&client->workers);
        client_disconnect(client);
    }
    client->run->running--;
}

/* After the faults, with a fresh session from the first client's host. */
static void verify_fiber(void *arg)
{
    struct run *run = arg;
    struct client client = {.run = run, .index = 1};
    CHECK(client_connect(&client, "verifier") == 0);
    for (unsigned c = 0; c < WORLD_CLIENTS; c++)
        for (unsigned w = 0; w < WORLD_WORKERS; w++) {
            for (unsigned k = 0; k < OBJECTS; k++)
                work_get(&client, &run->workers[c][w], k, true);
            work_check_file(&client, &run->workers[c][w], true);
        }
    client_disconnect(&client);
    run->verified = true;
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

static bool at_rest(void *arg)
{
    const char *why;
    return world_replicas_equal(&((struct run *)arg)->world, &why);
}

static void start_clients(struct run *run, uint64_t seed)
{
    for (unsigned c = 0; c < WORLD_CLIENTS; c++) {
        run->clients[c] = (struct client){.run = run, .index = c + 1};
        for (unsigned w = 0; w < WORLD_WORKERS; w++) {
            struct worker *worker = &run->workers[c][w];
            worker->run = run;
            worker->client = c + 1;
            worker->index = w + 1;
            worker->prng = prng_init(seed * 1000 + c * 10 + w);
        }
        run->running++;
        CHECK(fiber_spawn(sim_host_io(run->world.clients[c]), "client", client_fiber, &run->clients[c]) == 0);
    }
}

static void faults(struct run *run, uint64_t seconds)
{
    uint64_t end = sim_now_ns(run->world.sim) + seconds * 1000000000;
    while (sim_now_ns(run->world.sim) < end) {
        sim_run(run->world.sim, 200 + sim_random_u64(run->world.sim) % 1500, NULL, NULL);
        world_fault(&run->world);
        world_mend(&run->world, false);
    }
}

static uint64_t run_seed(uint64_t seed, uint64_t seconds)
{
    struct run *run = calloc(1, sizeof *run);
    CHECK(run != NULL);
    current_seed = seed;
    world_create(&run->world, seed, seed % 3 != 0);
    start_clients(run, seed);
    sim_run(run->world.sim, 3000, NULL, NULL);
    faults(run, seconds);
    run->stop = true;
    world_mend(&run->world, true);
    if (sim_run(run->world.sim, SETTLE_MS, all_ended, run) != SIM_DONE)
        broken(&run->workers[0][0], "%u clients do not come to an end after the faults", run->running);
    CHECK(fiber_spawn(sim_host_io(run->world.clients[0]), "verify", verify_fiber, run) == 0);
    if (sim_run(run->world.sim, SETTLE_MS, all_verified, run) != SIM_DONE)
        broken(&run->workers[0][0], "what was acknowledged cannot be read in %d s after the faults", SETTLE_MS / 1000);
    const char *why = "";
    if (sim_run(run->world.sim, SETTLE_MS, at_rest, run) != SIM_DONE && !world_replicas_equal(&run->world, &why))
        broken(&run->workers[0][0], "the replicas do not become equal: %s", why);
    uint64_t acked = 0, doubtful = 0, checked = 0, hash = sim_trace_hash(run->world.sim);
    for (unsigned c = 0; c < WORLD_CLIENTS; c++)
        for (unsigned w = 0; w < WORLD_WORKERS; w++) {
            acked += run->workers[c][w].acked;
            doubtful += run->workers[c][w].doubtful;
            checked += run->workers[c][w].checked;
        }
    printf("seed %" PRIu64 ": %" PRIu64 " writes acknowledged, %" PRIu64 " in doubt, %" PRIu64 " checks, %" PRIu64
           " locks, %u crashes (%u of power), %u partitions, %" PRIu64 " s, trace %016" PRIx64 "\n",
           seed, acked, doubtful, checked, run->grants, run->world.crashes, run->world.power_losses, run->world.partitions,
           sim_now_ns(run->world.sim) / 1000000000, hash);
    fflush(stdout);
    CHECK(acked > 0 && checked > 0);
    world_destroy(&run->world);
    free(run);
    return hash;
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
    return 0;
}
