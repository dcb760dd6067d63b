/* The state machine alone, in one process on tables in LMDB, beside bare LMDB with rows of the same
 * sizes. meta_fsm DIR FILES BATCH: makes FILES files, 1,000 in a directory, in requests of BATCH items
 * (1: a CREATE each), 256 requests a transaction; then looks up as many by their whole path, and lists
 * them. DIR is an empty directory. Prints, each on a line: creates, lookups, entries listed and bare LMDB's
 * creates a second of processor time, bytes of tables a file, bare LMDB's. */
#include "common/base.h"
#include "common/err.h"
#include "meta.pb-c.h"
#include "metadata/fsm.h"
#include "ops.h"

#include <endian.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILES_A_DIR 1000
#define GROUP 256 /* requests in a transaction */
#define BATCH_MAX 1000
#define ACKED_BEHIND 64 /* requests whose replies are not acknowledged yet */

_Noreturn static void fail(const char *what, int err)
{
    fprintf(stderr, "meta_fsm: %s: %s\n", what, err_sentence(err));
    exit(1);
}

static double cpu_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

struct machine {
    struct kv *kv;
    struct kv_txn *txn;
    uint64_t index, session, seq;
    unsigned in_group;
};

static void group_end(struct machine *m)
{
    int err = m->txn != NULL ? kv_commit(m->txn) : 0;
    m->txn = NULL;
    m->in_group = 0;
    if (err != 0)
        fail("commit", err);
}

/* Applies one command; ret: the reply, to be freed with fsm_result_fini(). */
static void apply(struct machine *m, unsigned op, const ProtobufCMessage *message, struct fsm_result *ret)
{
    static uint8_t body[MIB(1)];
    size_t len = protobuf_c_message_get_packed_size(message);
    if (len > sizeof body)
        fail("pack", -E_FBIG);
    protobuf_c_message_pack(message, body);
    struct fsm_command command = {.index = ++m->index,
                                  .op = op,
                                  .real_ns = UINT64_C(1700000000000000000) + m->index * 1000,
                                  .seed = m->index,
                                  .body = body,
                                  .body_len = len};
    int err = m->txn == NULL ? kv_begin(m->kv, true, &m->txn) : 0;
    if (err == 0)
        err = fsm_apply(m->txn, &command, ret);
    if (err == 0)
        err = ret->err;
    if (err != 0)
        fail("apply", err);
    if (++m->in_group == GROUP)
        group_end(m);
}

static Tarn__Ctx next_ctx(struct machine *m)
{
    Tarn__Ctx ctx = TARN__CTX__INIT;
    ctx.session = m->session;
    ctx.seq = ++m->seq;
    ctx.acked = m->seq > ACKED_BEHIND ? m->seq - ACKED_BEHIND : 0;
    return ctx;
}

static void machine_open(struct machine *m, const char *dir)
{
    *m = (struct machine){0};
    int err = kv_lmdb_open(dir, GIB(64), &m->kv);
    if (err == 0)
        err = kv_begin(m->kv, true, &m->txn);
    if (err == 0)
        err = fsm_init(m->txn);
    if (err != 0)
        fail("open the tables", err);
    Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
    open.uuid = (ProtobufCBinaryData){.data = (uint8_t *)"bench", .len = 5};
    open.name = (char *)"bench";
    struct fsm_result result;
    apply(m, OP_SESSION_OPEN, &open.base, &result);
    Tarn__SessionOpenReply *reply = tarn__session_open_reply__unpack(NULL, result.reply_len, result.reply);
    if (reply == NULL)
        fail("open a session", -E_PROTO);
    m->session = reply->session;
    tarn__session_open_reply__free_unpacked(reply, NULL);
    fsm_result_fini(&result);
}

/* ---- what is made */
static void create_init(Tarn__Create *create, Tarn__Where *parent, const char *name, Tarn__FileType type)
{
    tarn__create__init(create);
    create->parent = parent;
    create->name = (char *)name;
    create->type = type;
    create->mode = type == TARN__FILE_TYPE__FT_DIR ? 0755 : 0644;
    create->exclusive = true;
}

static void file_name(char out[32], unsigned long i)
{
    snprintf(out, 32, "some-file-%08u.d", (unsigned)i); /* 20 bytes */
}

static void make_dir(struct machine *m, unsigned long dir)
{
    char name[32];
    Tarn__Create create;
    Tarn__Where root = TARN__WHERE__INIT;
    struct fsm_result result;
    snprintf(name, sizeof name, "dir-%06lu", dir);
    create_init(&create, &root, name, TARN__FILE_TYPE__FT_DIR);
    Tarn__Ctx ctx = next_ctx(m);
    create.ctx = &ctx;
    apply(m, OP_CREATE, &create.base, &result);
    fsm_result_fini(&result);
}

static void make_batch(struct machine *m, const char *dir, unsigned long first, unsigned n)
{
    static char names[BATCH_MAX][32];
    static Tarn__Create creates[BATCH_MAX];
    static Tarn__BatchItem items[BATCH_MAX], *pointers[BATCH_MAX];
    Tarn__Where parent = TARN__WHERE__INIT;
    Tarn__Ctx ctx = next_ctx(m);
    Tarn__Batch batch = TARN__BATCH__INIT;
    struct fsm_result result;
    parent.path = (char *)dir;
    for (unsigned i = 0; i < n; i++) {
        file_name(names[i], first + i);
        create_init(&creates[i], &parent, names[i], TARN__FILE_TYPE__FT_FILE);
        tarn__batch_item__init(&items[i]);
        items[i].create = &creates[i];
        pointers[i] = &items[i];
    }
    batch.items = pointers;
    batch.n_items = n;
    batch.ctx = creates[0].ctx = &ctx;
    if (n == 1)
        apply(m, OP_CREATE, &creates[0].base, &result);
    else
        creates[0].ctx = NULL, apply(m, OP_BATCH, &batch.base, &result);
    fsm_result_fini(&result);
}

static double make_files(struct machine *m, unsigned long files, unsigned batch)
{
    char dir[32] = "";
    double start = cpu_seconds();
    for (unsigned long i = 0; i < files; i += batch) {
        if (i % FILES_A_DIR == 0) {
            make_dir(m, i / FILES_A_DIR);
            snprintf(dir, sizeof dir, "/dir-%06lu", i / FILES_A_DIR);
        }
        make_batch(m, dir, i, (unsigned)MIN((unsigned long)batch, files - i));
    }
    group_end(m);
    return cpu_seconds() - start;
}

/* ---- what is asked */
static void query(struct machine *m, unsigned op, const ProtobufCMessage *message, struct fsm_result *ret)
{
    uint8_t body[1024];
    struct kv_txn *txn;
    protobuf_c_message_pack(message, body);
    int err = kv_read(m->kv, &txn);
    if (err == 0)
        err = fsm_query(txn, op, body, protobuf_c_message_get_packed_size(message), ret);
    if (err == 0)
        err = ret->err;
    if (err != 0)
        fail("query", err);
    kv_abort(txn);
}

static double look_up(struct machine *m, unsigned long files, unsigned long lookups)
{
    double start = cpu_seconds();
    unsigned long at = 1;
    for (unsigned long i = 0; i < lookups; i++) {
        char path[64], name[32];
        Tarn__Lookup lookup = TARN__LOOKUP__INIT;
        Tarn__Where where = TARN__WHERE__INIT;
        struct fsm_result result;
        at = (at * 6364136223846793005ul + 1442695040888963407ul);
        unsigned long file = (at >> 20) % files;
        file_name(name, file);
        snprintf(path, sizeof path, "/dir-%06lu/%s", file / FILES_A_DIR, name);
        where.path = path;
        lookup.where = &where;
        query(m, OP_LOOKUP, &lookup.base, &result);
        fsm_result_fini(&result);
    }
    return cpu_seconds() - start;
}

static double list_all(struct machine *m, unsigned long files)
{
    double start = cpu_seconds();
    unsigned long seen = 0;
    for (unsigned long dir = 0; dir * FILES_A_DIR < files; dir++) {
        char path[32];
        Tarn__ReadDir list = TARN__READ_DIR__INIT;
        Tarn__Where where = TARN__WHERE__INIT;
        struct fsm_result result;
        snprintf(path, sizeof path, "/dir-%06lu", dir);
        where.path = path;
        list.where = &where;
        list.attrs = true;
        query(m, OP_READDIR, &list.base, &result);
        if (result.next != NULL || result.reply_len < 1000)
            fail("a listing", -E_RANGE);
        seen += MIN((unsigned long)FILES_A_DIR, files - seen);
        fsm_result_fini(&result);
    }
    return cpu_seconds() - start;
}

static double file_bytes(const char *dir, const char *name)
{
    char path[600];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return stat(path, &st) == 0 ? (double)st.st_blocks * 512 : 0;
}

/* ---- bare LMDB: an inode's and an entry's row for each file, nothing else */
static void lmdb_check(int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "meta_fsm: LMDB: %s\n", mdb_strerror(rc));
    exit(1);
}

static double bare(const char *dir, unsigned long files, double *ret_bytes)
{
    char path[512];
    uint8_t inode[103] = {1}, entry[10] = {1};
    MDB_env *env;
    MDB_dbi dbi = 0;
    MDB_txn *txn = NULL;
    snprintf(path, sizeof path, "%s/bare", dir);
    lmdb_check(mdb_env_create(&env));
    lmdb_check(mdb_env_set_mapsize(env, GIB(64)));
    lmdb_check(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOSYNC | MDB_NOLOCK, 0600));
    double start = cpu_seconds();
    for (unsigned long i = 0; i < files; i++) {
        uint8_t key[64] = "I";
        char name[32];
        file_name(name, i);
        if (txn == NULL) {
            lmdb_check(mdb_txn_begin(env, NULL, 0, &txn));
            lmdb_check(mdb_dbi_open(txn, NULL, 0, &dbi));
        }
        uint64_t be = htobe64(i);
        memcpy(key + 1, &be, 8);
        lmdb_check(mdb_put(txn, dbi, &(MDB_val){9, key}, &(MDB_val){sizeof inode, inode}, 0));
        key[0] = 'D';
        be = htobe64(i / FILES_A_DIR);
        memcpy(key + 1, &be, 8);
        memcpy(key + 9, name, 20);
        lmdb_check(mdb_put(txn, dbi, &(MDB_val){29, key}, &(MDB_val){sizeof entry, entry}, 0));
        if (i % GROUP == GROUP - 1 || i == files - 1) {
            lmdb_check(mdb_txn_commit(txn));
            txn = NULL;
        }
    }
    double seconds = cpu_seconds() - start;
    mdb_env_close(env);
    *ret_bytes = file_bytes(dir, "bare");
    unlink(path);
    return seconds;
}

int main(int argc, char **argv)
{
    unsigned long files = argc == 4 ? strtoul(argv[2], NULL, 10) : 0;
    unsigned batch = argc == 4 ? (unsigned)atoi(argv[3]) : 0;
    if (files == 0 || batch == 0 || batch > BATCH_MAX || FILES_A_DIR % batch != 0) {
        fprintf(stderr, "usage: meta_fsm DIR FILES BATCH (a divisor of %d)\n", FILES_A_DIR);
        return 2;
    }
    struct machine m;
    unsigned long lookups = MIN(files, 1000000ul);
    double bare_bytes;
    machine_open(&m, argv[1]);
    double made = make_files(&m, files, batch);
    double looked = look_up(&m, files, lookups);
    double listed = list_all(&m, files);
    double tables = file_bytes(argv[1], "data.mdb");
    kv_close(m.kv);
    double put = bare(argv[1], files, &bare_bytes);
    printf("%.0f\n%.0f\n%.0f\n%.0f\n%.1f\n%.1f\n", (double)files / made, (double)lookups / looked,
           (double)files / listed, (double)files / put, tables / (double)files, bare_bytes / (double)files);
    return 0;
}
