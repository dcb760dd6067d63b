/* Changes and lookups at the metadata service beside the disk and the table library below it, in
 * one run. meta_rate DIR RUNS REPLICAS: DIR, an empty directory on the disk that the replicas use, takes the
 * comparisons' files. Prints a line a run, operations per second: create with 1 and with MANY under
 * way, lookup with 1 and with MANY under way, then O_DSYNC writes, LMDB puts each in a synced
 * transaction, LMDB puts MANY a synced transaction, LMDB gets, then changes of meta_floor.h with REPLICAS. */
#include "client/meta.h"
#include "meta_floor.h"
#include "common/err.h"
#include "common/fiber.h"

#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define MANY 64     /* fibers */
#define ONE_OPS 400 /* of a run, with one under way */
#define SLICES                                                                                     \
    8 /* of those: in turn with the disk and the table library, whatever else the machine does */
#define MANY_OPS 10000 /* with MANY */
#define RECORD 512     /* bytes of one raw write: about a create in the log */
#define VALUE 128      /* bytes of an LMDB value: about an inode */

struct bench {
    struct io *io;
    struct meta *meta;
    const char *dir;
    int runs;
    unsigned replicas;
    unsigned run;
    bool lookup;
    unsigned next, end; /* of the operations now under way */
    struct fiber_group group;
};

_Noreturn static void fail(const char *what, const char *why)
{
    fprintf(stderr, "meta_rate: %s: %s\n", what, why);
    exit(1);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* ---- the metadata service */

static int create(struct bench *bench, const char *parent_path, const char *name,
                  Tarn__FileType type)
{
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Where parent = TARN__WHERE__INIT;
    parent.path = (char *)parent_path;
    request.parent = &parent;
    request.name = (char *)name;
    request.type = type;
    request.mode = 0755;
    request.exclusive = true;
    return meta_call(bench->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, NULL, NULL,
                     NULL);
}

static int lookup(struct bench *bench, const char *path)
{
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    Tarn__LookupReply *reply = NULL;
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    request.where = &where;
    int err = meta_call(bench->meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root,
                        &tarn__lookup_reply__descriptor, &reply, NULL);
    if (err == 0)
        tarn__lookup_reply__free_unpacked(reply, NULL);
    return err;
}

static void worker(void *arg)
{
    struct bench *bench = arg;
    char parent[32], name[32], path[80];
    snprintf(parent, sizeof parent, "/meta-%d-%u", (int)getpid(), bench->run);
    while (bench->next < bench->end) {
        snprintf(name, sizeof name, "file-%06u", bench->next++);
        snprintf(path, sizeof path, "%s/%s", parent, name);
        int err = bench->lookup ? lookup(bench, path)
                                : create(bench, parent, name, TARN__FILE_TYPE__FT_FILE);
        if (err != 0)
            fail(path, err_sentence(err));
    }
    fiber_group_done(&bench->group);
}

/* Seconds for the files [first, end) with `depth` under way. */
static double work(struct bench *bench, bool lookup, unsigned first, unsigned end, unsigned depth)
{
    double start = now();
    bench->lookup = lookup;
    bench->next = first;
    bench->end = end;
    for (unsigned i = 0; i < depth; i++) {
        fiber_group_add(&bench->group);
        int err = fiber_spawn(bench->io, "worker", worker, bench);
        if (err != 0)
            fail("fiber", err_sentence(err));
    }
    fiber_group_wait(&bench->group);
    return now() - start;
}

/* ---- what it stands on */

struct base {
    char raw_path[512], lmdb_path[512], lock_path[520];
    int raw;
    MDB_env *env;
    MDB_dbi dbi;
};

static void lmdb_check(int r)
{
    if (r != 0)
        fail("LMDB", mdb_strerror(r));
}

static void base_open(struct base *base, const char *dir)
{
    static char
        zeros[ONE_OPS * RECORD]; /* the log's files are written full before they are used, too */
    MDB_txn *txn;
    snprintf(base->raw_path, sizeof base->raw_path, "%s/raw", dir);
    base->raw = open(base->raw_path, O_CREAT | O_WRONLY | O_DSYNC, 0600);
    if (base->raw < 0 || write(base->raw, zeros, sizeof zeros) != sizeof zeros)
        fail(base->raw_path, "cannot write");
    snprintf(base->lmdb_path, sizeof base->lmdb_path, "%s/lmdb", dir);
    snprintf(base->lock_path, sizeof base->lock_path, "%s-lock", base->lmdb_path);
    lmdb_check(mdb_env_create(&base->env));
    lmdb_check(mdb_env_set_mapsize(base->env, (size_t)1 << 28));
    lmdb_check(mdb_env_open(base->env, base->lmdb_path, MDB_NOSUBDIR, 0600));
    lmdb_check(mdb_txn_begin(base->env, NULL, 0, &txn));
    lmdb_check(mdb_dbi_open(txn, NULL, 0, &base->dbi));
    lmdb_check(mdb_txn_commit(txn));
}

static void base_close(struct base *base)
{
    close(base->raw);
    mdb_env_close(base->env);
    unlink(base->raw_path);
    unlink(base->lmdb_path);
    unlink(base->lock_path);
}

static double raw_writes(const struct base *base, unsigned first, unsigned end)
{
    char record[RECORD] = {1};
    double start = now();
    for (unsigned i = first; i < end; i++)
        if (pwrite(base->raw, record, sizeof record, (off_t)i * RECORD) != sizeof record)
            fail(base->raw_path, "cannot write");
    return now() - start;
}

static MDB_val lmdb_key(char buf[32], unsigned i)
{
    return (MDB_val){.mv_data = buf, .mv_size = (size_t)snprintf(buf, 32, "00000001/file-%06u", i)};
}

/* Each `group` of them in a transaction that is on disk when it returns. */
static double lmdb_puts(const struct base *base, unsigned first, unsigned end, unsigned group)
{
    char buf[32], value[VALUE] = {1};
    double start = now();
    for (unsigned i = first; i < end;) {
        MDB_txn *txn;
        lmdb_check(mdb_txn_begin(base->env, NULL, 0, &txn));
        for (unsigned j = 0; j < group && i < end; j++, i++) {
            MDB_val k = lmdb_key(buf, i), v = {.mv_data = value, .mv_size = sizeof value};
            lmdb_check(mdb_put(txn, base->dbi, &k, &v, 0));
        }
        lmdb_check(mdb_txn_commit(txn));
    }
    return now() - start;
}

static double lmdb_gets(const struct base *base, unsigned n)
{
    char buf[32];
    double start = now();
    for (unsigned i = 0; i < n; i++) {
        MDB_txn *txn;
        MDB_val v, k = lmdb_key(buf, i);
        lmdb_check(mdb_txn_begin(base->env, NULL, MDB_RDONLY, &txn));
        lmdb_check(mdb_get(txn, base->dbi, &k, &v));
        mdb_txn_abort(txn);
    }
    return now() - start;
}

/* ---- */

static void measure(struct bench *bench)
{
    const unsigned all = ONE_OPS + MANY_OPS, step = ONE_OPS / SLICES;
    double create_one = 0, raw = 0, put_one = 0, least = 0;
    struct base base;
    char name[32];
    snprintf(name, sizeof name, "meta-%d-%u", (int)getpid(), bench->run);
    int err = create(bench, "/", name, TARN__FILE_TYPE__FT_DIR);
    if (err != 0)
        fail(name, err_sentence(err));
    base_open(&base, bench->dir);
    struct floor *floor = floor_start(bench->dir, bench->replicas);
    for (unsigned i = 0; i < ONE_OPS; i += step) {
        create_one += work(bench, false, i, i + step, 1);
        raw += raw_writes(&base, i, i + step);
        put_one += lmdb_puts(&base, i, i + step, 1);
        least += floor_changes(floor, step);
    }
    floor_stop(floor);
    double create_many = work(bench, false, ONE_OPS, all, MANY);
    double put_many = lmdb_puts(&base, ONE_OPS, all, MANY);
    double lookup_one = work(bench, true, 0, ONE_OPS, 1);
    double lookup_many = work(bench, true, 0, all, MANY);
    double get = lmdb_gets(&base, all);
    base_close(&base);
    printf("%.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f %.1f\n", ONE_OPS / create_one,
           MANY_OPS / create_many, ONE_OPS / lookup_one, all / lookup_many, ONE_OPS / raw,
           ONE_OPS / put_one, MANY_OPS / put_many, all / get, ONE_OPS / least);
    fflush(stdout);
}

static void bench_fiber(void *arg)
{
    struct bench *bench = arg;
    for (bench->run = 0; bench->run < (unsigned)bench->runs; bench->run++)
        measure(bench);
    meta_disconnect(bench->meta);
    io_stop(bench->io);
}

int main(int argc, char **argv)
{
    struct bench bench = {.runs = argc == 4 ? atoi(argv[2]) : 0, .replicas = argc == 4 ? (unsigned)atoi(argv[3]) : 0};
    struct config config;
    const char *why = "";
    if (bench.runs <= 0 || bench.replicas == 0 || bench.replicas > FLOOR_REPLICAS_MAX) {
        fprintf(stderr, "usage: meta_rate DIR RUNS REPLICAS\n");
        return 2;
    }
    bench.dir = argv[1];
    int err = config_load(NULL, &config, &why);
    if (err != 0)
        fail("configuration", why);
    err = io_uring_create(NULL, &bench.io);
    if (err == 0)
        err = meta_connect(bench.io, &config, NULL, &bench.meta);
    if (err == 0)
        err = fiber_spawn(bench.io, "bench", bench_fiber, &bench);
    if (err == 0)
        err = io_run(bench.io);
    if (err != 0)
        fail("start", err_sentence(err));
    io_destroy(bench.io);
    return 0;
}
