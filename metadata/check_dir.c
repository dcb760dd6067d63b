#include "check_dir.h"
#include "common/err.h"
#include "common/log.h"
#include "snapshot.h"
#include "wal.h"

#include <stdio.h>

#define PATH_BYTES 512

static int read_log(struct io *io, const char *path, struct check_dir *ret)
{
    struct wal_options options = {.dir = path};
    struct wal *wal;
    int err = wal_open(io, &options, &wal);
    if (err != 0)
        return err;
    ret->log_first = wal_first(wal);
    ret->log_last = wal_last(wal);
    wal_close(wal);
    return 0;
}

static int check_kv(struct kv *kv, check_report report, void *arg, struct check_summary *ret)
{
    struct kv_txn *txn;
    int err = kv_begin(kv, false, &txn);
    if (err != 0)
        return err;
    err = check_tables(txn, report, arg, ret);
    kv_abort(txn);
    return err;
}

struct temporary {
    struct io *io;
    const char *dir;
};

static int remove_file(void *arg, const char *name)
{
    const struct temporary *temporary = arg;
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", temporary->dir, name);
    return io_unlink(temporary->io, path);
}

/* LMDB's files lie flat in their directory, which stays, empty. */
static void remove_tables(struct io *io, const char *dir)
{
    struct temporary temporary = {io, dir};
    if (io_list(io, dir, remove_file, &temporary) != 0)
        log_warn("cannot empty %s; it is not needed any more", dir);
}

static int check_snapshot(struct io *io, const char *dir, const char *snapshots, uint64_t map_bytes, check_report report,
                          void *arg, struct check_dir *ret)
{
    char temp[PATH_BYTES];
    struct snapshot_meta meta;
    uint64_t bytes;
    struct kv *kv;
    int err = snapshot_newest(io, snapshots, &meta, &bytes);
    if (err != 0)
        return err;
    ret->snapshot = meta.index;
    ret->from_snapshot = true;
    if (snprintf(temp, sizeof temp, "%s/check.tmp", dir) >= (int)sizeof temp)
        return -E_NAMETOOLONG;
    err = kv_lmdb_open(temp, map_bytes, &kv);
    if (err != 0)
        return err;
    err = snapshot_load(io, snapshots, &meta, kv);
    if (err == 0)
        err = check_kv(kv, report, arg, &ret->summary);
    kv_close(kv);
    remove_tables(io, temp);
    return err;
}

static int any_row(void *arg, struct kv_val key, struct kv_val value)
{
    *(bool *)arg = true;
    return 1;
}

int check_directory(struct io *io, const char *dir, uint64_t map_bytes, check_report report, void *arg, struct check_dir *ret)
{
    char log[PATH_BYTES], tables[PATH_BYTES], snapshots[PATH_BYTES];
    if (snprintf(snapshots, sizeof snapshots, "%s/snapshots", dir) >= (int)sizeof snapshots)
        return -E_NAMETOOLONG;
    snprintf(log, sizeof log, "%s/log", dir);
    snprintf(tables, sizeof tables, "%s/tables", dir);
    *ret = (struct check_dir){0};
    struct snapshot_meta meta;
    uint64_t bytes;
    struct kv *kv;
    int err = read_log(io, log, ret);
    if (err != 0)
        return err;
    err = snapshot_newest(io, snapshots, &meta, &bytes);
    if (err != 0 && err != -E_NOENT)
        return err;
    ret->snapshot = err == 0 ? meta.index : 0;
    err = kv_lmdb_open(tables, map_bytes, &kv);
    if (err != 0)
        return err;
    bool usable = false;
    struct kv_txn *txn;
    err = kv_begin(kv, false, &txn);
    if (err == 0) {
        err = kv_scan(txn, NULL, 0, NULL, 0, any_row, &usable);
        kv_abort(txn);
    }
    if (err == 0 && usable)
        err = check_kv(kv, report, arg, &ret->summary);
    kv_close(kv);
    return err != 0 || usable ? err : check_snapshot(io, dir, snapshots, map_bytes, report, arg, ret);
}
