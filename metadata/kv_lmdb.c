/* Tables in LMDB; the only file that knows it.
 * NOSYNC: the Raft log is what is durable, these tables are its cache. After a crash of the process
 *   the page cache holds every committed page; after a crash of the machine nothing is known about
 *   the order in which pages reached the disk, so the tables are thrown away and made again.
 * NOTLS: fibers hold several read transactions on one thread.
 * No WRITEMAP, though it is twice as fast: on a full disk it ends the process with SIGBUS, here a full
 *   disk is an error code. */
#include "kv_impl.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LMDB_MAGIC 0x6c6d6462u
#define BOOT_BYTES 64
#define READERS_MAX 1024

struct lmdb {
    struct kv base;
    unsigned magic;
    MDB_env *env;
    MDB_dbi dbi;
    char boot_path[512];
    char *map; /* of the data file, as long as the environment is open */
};

struct lmdb_txn {
    struct kv_txn base;
    struct lmdb *lmdb;
    MDB_txn *txn;
    MDB_cursor *cursor; /* for reads, made at first use */
};

static int lmdb_error(int rc)
{
    switch (rc) {
    case 0:
        return 0;
    case MDB_NOTFOUND:
        return -E_NOENT;
    case MDB_MAP_FULL:
        return -E_NOSPC;
    case MDB_READERS_FULL:
        return -E_BUSY;
    case MDB_CORRUPTED:
    case MDB_INVALID:
    case MDB_PAGE_NOTFOUND:
    case MDB_VERSION_MISMATCH:
        return -E_CORRUPT;
    case MDB_BAD_VALSIZE:
        return -E_INVAL;
    default:
        return rc > 0 ? err_from_errno(rc) : -E_IO;
    }
}

static struct lmdb_txn *txn_of(struct kv_txn *txn)
{
    return container_of(txn, struct lmdb_txn, base);
}

static MDB_val to_mdb(struct kv_val v)
{
    return (MDB_val){.mv_size = v.len, .mv_data = (void *)(uintptr_t)v.data};
}

static struct kv_val from_mdb(MDB_val v)
{
    return (struct kv_val){.data = v.mv_data, .len = v.mv_size};
}

/* ---- the mark beside the tables: the boot they were written in, or that they were closed cleanly ---- */
static void boot_id(char out[BOOT_BYTES])
{
    memset(out, 0, BOOT_BYTES);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, out, BOOT_BYTES - 1);
    if (n < 0)
        out[0] = '\0';
    close(fd);
}

static int mark_write(const char *path, const char text[BOOT_BYTES])
{
    char temp[600];
    snprintf(temp, sizeof temp, "%s.tmp", path);
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_from_errno(errno);
    int err = 0;
    errno = 0;
    if (write(fd, text, BOOT_BYTES) != BOOT_BYTES || fsync(fd) != 0)
        err = errno != 0 ? err_from_errno(errno) : -E_NOSPC;
    if (close(fd) != 0 && err == 0)
        err = err_from_errno(errno);
    if (err == 0 && rename(temp, path) != 0)
        err = err_from_errno(errno);
    return err;
}

static bool mark_read(const char *path, char out[BOOT_BYTES])
{
    memset(out, 0, BOOT_BYTES);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool whole = read(fd, out, BOOT_BYTES) == BOOT_BYTES;
    close(fd);
    out[BOOT_BYTES - 1] = '\0';
    return whole;
}

static int dir_sync(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_from_errno(errno);
    int err = fsync(fd) != 0 ? err_from_errno(errno) : 0;
    close(fd);
    return err;
}

static int tables_discard(const char *dir)
{
    static const char *const names[] = {"data.mdb", "lock.mdb"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (unlink(path) != 0 && errno != ENOENT)
            return err_from_errno(errno);
    }
    return dir_sync(dir);
}

static const char mark_clean[BOOT_BYTES] = "clean";

/* Throws the tables away unless this boot wrote them or they were closed cleanly; then marks them as
 * being written in this boot, on disk before the first change. */
static int boot_check(const char *dir, const char *mark_path)
{
    char now[BOOT_BYTES], then[BOOT_BYTES];
    boot_id(now);
    bool known = mark_read(mark_path, then);
    bool usable = known && (strcmp(then, mark_clean) == 0 || (now[0] && strcmp(then, now) == 0));
    int err = 0;
    if (!usable) {
        if (known)
            log_warn("the tables in %s were open when the machine went down: made again from the "
                     "last snapshot and the log",
                     dir);
        err = tables_discard(dir);
    }
    if (err == 0)
        err = mark_write(mark_path, now);
    return err != 0 ? err : dir_sync(dir);
}

/* ---- life ---- */
static int env_open(struct lmdb *lmdb, const char *dir, uint64_t map_bytes)
{
    int rc = mdb_env_create(&lmdb->env);
    if (rc == 0)
        rc = mdb_env_set_mapsize(lmdb->env, map_bytes);
    if (rc == 0)
        rc = mdb_env_set_maxreaders(lmdb->env, READERS_MAX);
    if (rc == 0)
        rc = mdb_env_open(lmdb->env, dir, MDB_NOSYNC | MDB_NOTLS | MDB_NORDAHEAD, 0600);
    MDB_txn *txn = NULL;
    if (rc == 0)
        rc = mdb_txn_begin(lmdb->env, NULL, 0, &txn);
    if (rc == 0) {
        rc = mdb_dbi_open(txn, NULL, 0, &lmdb->dbi);
        if (rc == 0)
            rc = mdb_txn_commit(txn);
        else
            mdb_txn_abort(txn);
    }
    if (rc != 0 && lmdb->env != NULL) {
        mdb_env_close(lmdb->env);
        lmdb->env = NULL;
    }
    return lmdb_error(rc);
}

/* Where the data file is mapped: LMDB does not tell. NULL when the kernel does not either; then no memory
 * is given back. */
static char *map_find(MDB_env *env)
{
    int fd;
    struct stat st;
    char line[768], *found = NULL;
    FILE *maps = fopen("/proc/self/maps", "re");
    if (maps == NULL)
        return NULL;
    if (mdb_env_get_fd(env, &fd) != 0 || fstat(fd, &st) != 0)
        st.st_ino = 0;
    while (found == NULL && st.st_ino != 0 && fgets(line, sizeof line, maps) != NULL) {
        unsigned long start, offset, inode;
        unsigned major_of, minor_of;
        if (sscanf(line, "%lx-%*x %*s %lx %x:%x %lu", &start, &offset, &major_of, &minor_of, &inode) == 5 &&
            inode == st.st_ino && major_of == major(st.st_dev) && minor_of == minor(st.st_dev) && offset == 0)
            found = (char *)start;
    }
    fclose(maps);
    return found;
}

static const struct kv_ops lmdb_ops;

int kv_lmdb_open(const char *dir, uint64_t map_bytes, struct kv **ret)
{
    struct lmdb *lmdb = calloc(1, sizeof *lmdb);
    if (lmdb == NULL)
        return -E_NOMEM;
    lmdb->base.ops = &lmdb_ops;
    lmdb->magic = LMDB_MAGIC;
    int err = -E_NAMETOOLONG;
    if (snprintf(lmdb->boot_path, sizeof lmdb->boot_path, "%s/boot", dir) >=
        (int)sizeof lmdb->boot_path)
        goto fail;
    err = mkdir(dir, 0700) != 0 && errno != EEXIST ? err_from_errno(errno) : 0;
    if (err == 0)
        err = boot_check(dir, lmdb->boot_path);
    if (err == 0)
        err = env_open(lmdb, dir, map_bytes);
    if (err == -E_CORRUPT) {
        log_warn("the tables in %s are damaged: made again from the last snapshot and the log", dir);
        err = tables_discard(dir);
        if (err == 0)
            err = env_open(lmdb, dir, map_bytes);
    }
    if (err != 0)
        goto fail;
    lmdb->map = map_find(lmdb->env);
    *ret = &lmdb->base;
    return 0;
fail:
    free(lmdb);
    return err;
}

static void lmdb_close(struct kv *kv)
{
    struct lmdb *lmdb = container_of(kv, struct lmdb, base);
    CHECK_MAGIC(lmdb, LMDB_MAGIC);
    bool synced = mdb_env_sync(lmdb->env, 1) == 0;
    mdb_env_close(lmdb->env);
    if (!synced || mark_write(lmdb->boot_path, mark_clean) != 0)
        log_warn("could not close the tables cleanly: after a crash of the machine they are made again");
    lmdb->magic = 0;
    free(lmdb);
}

/* The map is of a file and never written through: its pages stay in the kernel's cache. */
static void lmdb_give_back(struct kv *kv, unsigned slice, unsigned slices)
{
    struct lmdb *lmdb = container_of(kv, struct lmdb, base);
    CHECK_MAGIC(lmdb, LMDB_MAGIC);
    MDB_envinfo info;
    MDB_stat stat;
    if (lmdb->map == NULL || mdb_env_info(lmdb->env, &info) != 0 || mdb_env_stat(lmdb->env, &stat) != 0)
        return;
    uint64_t pages = (uint64_t)info.me_last_pgno + 1, first = pages * slice / slices;
    uint64_t count = pages * (slice + 1) / slices - first;
    /* A failure costs memory only, and the caller sees that. */
    (void)madvise(lmdb->map + first * stat.ms_psize, count * stat.ms_psize, MADV_DONTNEED);
}

/* ---- transactions ---- */
static int lmdb_begin(struct kv *kv, bool write, struct kv_txn **ret)
{
    struct lmdb *lmdb = container_of(kv, struct lmdb, base);
    CHECK_MAGIC(lmdb, LMDB_MAGIC);
    struct lmdb_txn *txn = calloc(1, sizeof *txn);
    if (txn == NULL)
        return -E_NOMEM;
    txn->base.ops = &lmdb_ops;
    txn->lmdb = lmdb;
    int rc = mdb_txn_begin(lmdb->env, NULL, write ? 0 : MDB_RDONLY, &txn->txn);
    if (rc != 0) {
        free(txn);
        return lmdb_error(rc);
    }
    *ret = &txn->base;
    return 0;
}

static int lmdb_finish(struct kv_txn *base, bool commit)
{
    struct lmdb_txn *txn = txn_of(base);
    int rc = 0;
    if (txn->cursor != NULL)
        mdb_cursor_close(txn->cursor);
    if (commit)
        rc = mdb_txn_commit(txn->txn);
    else
        mdb_txn_abort(txn->txn);
    free(txn);
    return lmdb_error(rc);
}

static int lmdb_commit(struct kv_txn *txn)
{
    return lmdb_finish(txn, true);
}

static void lmdb_abort(struct kv_txn *txn)
{
    (void)lmdb_finish(txn, false);
}

/* One cursor for all rows of a transaction: the next row is often on the page of the last one. */
static int cursor_of(struct lmdb_txn *txn)
{
    return txn->cursor == NULL ? mdb_cursor_open(txn->txn, txn->lmdb->dbi, &txn->cursor) : 0;
}

static int lmdb_get(struct kv_txn *base, struct kv_val key, struct kv_val *ret)
{
    struct lmdb_txn *txn = txn_of(base);
    MDB_val k = to_mdb(key), v;
    int rc = cursor_of(txn);
    if (rc == 0)
        rc = mdb_cursor_get(txn->cursor, &k, &v, MDB_SET);
    if (rc == 0)
        *ret = from_mdb(v);
    return lmdb_error(rc);
}

static int lmdb_put(struct kv_txn *base, struct kv_val key, struct kv_val value)
{
    struct lmdb_txn *txn = txn_of(base);
    MDB_val k = to_mdb(key), v = to_mdb(value);
    int rc = cursor_of(txn);
    return lmdb_error(rc == 0 ? mdb_cursor_put(txn->cursor, &k, &v, 0) : rc);
}

static int lmdb_del(struct kv_txn *base, struct kv_val key)
{
    struct lmdb_txn *txn = txn_of(base);
    MDB_val k = to_mdb(key), v;
    int rc = cursor_of(txn);
    if (rc == 0)
        rc = mdb_cursor_get(txn->cursor, &k, &v, MDB_SET);
    if (rc == 0)
        rc = mdb_cursor_del(txn->cursor, 0);
    return rc == MDB_NOTFOUND ? 0 : lmdb_error(rc);
}

static int lmdb_clear(struct kv_txn *base)
{
    struct lmdb_txn *txn = txn_of(base);
    if (txn->cursor != NULL) /* it stands on a page that goes */
        mdb_cursor_close(txn->cursor);
    txn->cursor = NULL;
    return lmdb_error(mdb_drop(txn->txn, txn->lmdb->dbi, 0));
}

static int lmdb_scan(struct kv_txn *base, struct kv_val start, struct kv_val prefix, kv_visit fn,
                     void *arg)
{
    struct lmdb_txn *txn = txn_of(base);
    MDB_cursor *cursor; /* its own: a visitor may scan again */
    int rc = mdb_cursor_open(txn->txn, txn->lmdb->dbi, &cursor);
    if (rc != 0)
        return lmdb_error(rc);
    MDB_val k = to_mdb(start), v;
    rc = mdb_cursor_get(cursor, &k, &v, start.len == 0 ? MDB_FIRST : MDB_SET_RANGE);
    int err = 0;
    while (rc == 0 && err == 0 && kv_has_prefix(from_mdb(k), prefix)) {
        err = fn(arg, from_mdb(k), from_mdb(v));
        if (err == 0)
            rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return err != 0 || rc == MDB_NOTFOUND ? err : lmdb_error(rc);
}

static int lmdb_last(struct kv_txn *base, struct kv_val at, struct kv_val prefix,
                     struct kv_val *ret_key, struct kv_val *ret_value)
{
    struct lmdb_txn *txn = txn_of(base);
    int rc = cursor_of(txn);
    if (rc != 0)
        return lmdb_error(rc);
    MDB_val k = to_mdb(at), v;
    rc = at.len == 0 ? MDB_NOTFOUND : mdb_cursor_get(txn->cursor, &k, &v, MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND && at.len > 0)
        rc = mdb_cursor_get(txn->cursor, &k, &v, MDB_LAST);
    else if (rc == 0 && kv_compare(from_mdb(k), at) > 0)
        rc = mdb_cursor_get(txn->cursor, &k, &v, MDB_PREV);
    if (rc == 0 && !kv_has_prefix(from_mdb(k), prefix))
        rc = MDB_NOTFOUND;
    if (rc != 0)
        return lmdb_error(rc);
    *ret_key = from_mdb(k);
    *ret_value = from_mdb(v);
    return 0;
}

static const struct kv_ops lmdb_ops = {.close = lmdb_close,
                                       .give_back = lmdb_give_back,
                                       .begin = lmdb_begin,
                                       .commit = lmdb_commit,
                                       .abort = lmdb_abort,
                                       .get = lmdb_get,
                                       .put = lmdb_put,
                                       .del = lmdb_del,
                                       .clear = lmdb_clear,
                                       .scan = lmdb_scan,
                                       .last = lmdb_last};
