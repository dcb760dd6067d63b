/* Taking snapshots of our own tables, and replacing them by the leader's when we are too far behind. */
#include "replica_impl.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "meta.pb-c.h"
#include "ops.h"
#include <fcntl.h>
#include <stdio.h>

#define LOG_BYTES_MAX GIB(1)   /* a snapshot is due earlier when the log is larger */
#define ENTRIES_MAX 1000000    /* raft and the log keep about 100 bytes of each in memory */
#define LOG_ENTRIES_MIN 1000   /* but not after fewer entries than these */
#define NOW_MS 5000            /* one answer waits so long for a snapshot: below the time-out of a call */
#define NOW_POLL_MS 20
#define PULL_ATTEMPTS 5        /* without a byte of progress */

/* ------------------------------------------------------------------ take */
/* A snapshot is written when the log since the last one has grown to half of that one's size, so that large
 * tables are not written again and again for small changes; and after ENTRIES_MAX in any case. */
static bool worth_it(const struct replica *replica, uint64_t n)
{
    uint64_t in_log = wal_last(replica->wal) + 1 - wal_first(replica->wal);
    uint64_t bytes = in_log == 0 ? 0 : wal_bytes(replica->wal) / in_log * n;
    return n >= ENTRIES_MAX ||
           (n >= replica->options.snapshot_entries && bytes >= replica->snapshot_bytes / 2);
}

static bool due(const struct replica *replica)
{
    uint64_t n = replica->applied - MIN(replica->snapshot.index, replica->applied);
    return !replica->installing &&
           ((replica->snapshot_wanted && n > 0) || worth_it(replica, n) ||
            (n >= LOG_ENTRIES_MIN && wal_bytes(replica->wal) > LOG_BYTES_MAX));
}

/* The log reaches back to the snapshot before, unless it is too large: when this one turns out to be damaged, that one
 * and the log are as good. */
static uint64_t log_needed_from(const struct replica *replica, const struct snapshot_meta *meta)
{
    bool large = wal_bytes(replica->wal) > LOG_BYTES_MAX;
    uint64_t keep = large ? LOG_ENTRIES_MIN : replica->options.trailing_entries;
    uint64_t from = meta->index - MIN(keep, meta->index) + 1;
    return large ? from : MIN(from, replica->snapshot.index + 1);
}

/* After it is on disk: tells raft and lets the old part of the log go, both in one go. */
static int taken(struct replica *replica, const struct snapshot_meta *meta, uint64_t bytes)
{
    int err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    bool current = !replica->installing && replica->failed == 0 &&
                   meta->index > replica->snapshot.index &&
                   wal_term_of(replica->wal, meta->index) == meta->term;
    uint64_t from = log_needed_from(replica, meta);
    struct snapshot_meta before = replica->snapshot;
    if (current) {
        replica->snapshot = *meta;
        err = core_snapshot_taken(replica, meta, (unsigned)(meta->index + 1 - from)); /* raft's first entry is the log's (R8) */
    }
    if (err != 0)
        replica->snapshot = before; /* raft does not know it */
    else if (current)
        replica->snapshot_bytes = bytes;
    fiber_mutex_unlock(&replica->step_lock);
    if (err != 0 || !current)
        return err;
    if (from > wal_first(replica->wal))
        err = wal_trim(replica->wal, from);
    return err != 0 ? err : snapshot_prune(replica->io, replica->snapshot_dir);
}

static int take(struct replica *replica)
{
    struct snapshot_meta meta;
    struct kv_txn *txn;
    uint64_t bytes = 0;
    int err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    bool allowed = core_describe(replica, &meta);
    if (allowed)
        err = kv_begin(replica->kv, false, &txn);
    fiber_mutex_unlock(&replica->step_lock);
    if (err != 0)
        return err;
    if (!allowed)
        return -E_BUSY;
    err = snapshot_write(replica->io, replica->snapshot_dir, &meta, txn, &bytes);
    kv_abort(txn);
    return err != 0 ? err : taken(replica, &meta, bytes);
}

void snapshot_fiber(void *arg)
{
    struct replica *replica = arg;
    int err = 0;
    while (err != -E_CANCELED && !replica->stopping && replica->failed == 0) {
        if (!due(replica)) {
            err = fiber_queue_wait(&replica->snapshot_wake, 0);
            continue;
        }
        err = take(replica);
        if (err == 0)
            replica->snapshot_wanted = false;
        if (err == 0 || err == -E_CANCELED)
            continue;
        if (err != -E_BUSY)
            log_error("replica %u: cannot take a snapshot in %s: %s; tried again later",
                      replica->options.id, replica->snapshot_dir, err_sentence(err));
        err = io_sleep_ms(replica->io, RETRY_MS);
    }
    fiber_group_done(&replica->fibers);
}

int replica_snapshot_now(struct replica *replica, uint64_t *reach, uint64_t *ret_index, uint64_t *ret_bytes)
{
    uint64_t until_ms = io_mono_ms(replica->io) + NOW_MS;
    if (*reach == 0 || *reach > replica->applied)
        *reach = replica->applied;
    while (replica->snapshot.index < *reach && io_mono_ms(replica->io) < until_ms) {
        if (replica->failed != 0 || replica->stopping)
            return replica->failed != 0 ? replica->failed : -E_CANCELED;
        replica->snapshot_wanted = true;
        fiber_queue_wake_all(&replica->snapshot_wake);
        int err = io_sleep_ms(replica->io, NOW_POLL_MS);
        if (err != 0)
            return err;
    }
    *ret_index = replica->snapshot.index;
    *ret_bytes = replica->snapshot_bytes;
    return 0;
}

/* ------------------------------------------------------------------ give pieces to others */
int replica_handle_snapshot_pull(struct replica *replica, struct rpc_request *request,
                                 const void *message)
{
    const Tarn__SnapshotPull *pull = message;
    if (!snapshot_name_valid(pull->name) || pull->length == 0 || pull->length > SNAPSHOT_PIECE)
        return -E_INVAL;
    char path[REPLICA_PATH_MAX + 96];
    snprintf(path, sizeof path, "%s/%s", replica->snapshot_dir, pull->name);
    _cleanup_(io_closep) struct io_file *file = NULL;
    _cleanup_free_ uint8_t *piece = malloc(pull->length);
    if (piece == NULL)
        return -E_NOMEM;
    int err = io_open(replica->io, path, O_RDONLY, 0, &file);
    if (err != 0)
        return err;
    int64_t got = io_pread(file, piece, pull->length, pull->offset);
    if (got < 0)
        return (int)got;
    struct iovec payload = {.iov_base = piece, .iov_len = (size_t)got};
    Tarn__Empty empty = TARN__EMPTY__INIT;
    return rpc_reply_payload(request, &empty.base, &payload, got > 0 ? 1 : 0, false);
}

/* ------------------------------------------------------------------ install the leader's */
static int pull_piece(struct replica *replica, struct rpc_client *client, struct io_file *file,
                      uint8_t *piece, uint64_t *offset)
{
    Tarn__SnapshotPull pull = TARN__SNAPSHOT_PULL__INIT;
    pull.name = replica->offer;
    pull.offset = *offset;
    pull.length = (uint32_t)MIN(SNAPSHOT_PIECE, replica->offer_bytes - *offset);
    struct rpc_call call = {.op = OP_SNAPSHOT_PULL,
                            .request = &pull.base,
                            .into = piece,
                            .into_size = SNAPSHOT_PIECE};
    int err = rpc_call(client, &call);
    size_t got = call.reply_payload_len;
    rpc_call_fini(&call);
    if (err != 0)
        return err;
    if (got == 0 || got > pull.length)
        return -E_PROTO;
    err = io_pwrite(file, piece, got, *offset);
    if (err == 0)
        *offset += got;
    return err;
}

static int pull_rest(struct replica *replica, struct rpc_client *client, struct io_file *file)
{
    _cleanup_free_ uint8_t *piece = malloc(SNAPSHOT_PIECE);
    if (piece == NULL)
        return -E_NOMEM;
    uint64_t offset = 0;
    int err = io_size(file, &offset);
    unsigned attempts = 0;
    offset = MIN(offset, replica->offer_bytes);
    while (err == 0 && offset < replica->offer_bytes) {
        if (replica->stopping)
            return -E_CANCELED;
        uint64_t before = offset;
        int failure = pull_piece(replica, client, file, piece, &offset);
        attempts = offset > before ? 0 : attempts + 1;
        if (failure == -E_CANCELED || (failure != 0 && attempts >= PULL_ATTEMPTS))
            err = failure;
        else if (failure != 0)
            err = io_sleep_ms(replica->io, RETRY_MS);
    }
    return err != 0 ? err : io_sync(file);
}

/* A part that is there already is continued: its name says what it is a part of. */
static int pull(struct replica *replica, const char *path)
{
    char part[REPLICA_PATH_MAX + 104];
    snprintf(part, sizeof part, "%s.part", path);
    _cleanup_(io_closep) struct io_file *file = NULL;
    int err = io_open(replica->io, part, O_RDWR | O_CREAT, 0600, &file);
    if (err != 0)
        return err;
    struct rpc_client *client = rpc_client_create(
        replica->io, replica->offer_address, replica->options.auth);
    if (client == NULL)
        return -E_NOMEM;
    err = pull_rest(replica, client, file);
    rpc_client_destroy(client);
    if (err == 0)
        err = io_rename(replica->io, part, path);
    return err != 0 ? err : io_sync_dir(replica->io, replica->snapshot_dir);
}

static int wait_for_flush(struct replica *replica)
{
    int err = 0;
    while (replica->flushing && err == 0)
        err = fiber_queue_wait(&replica->flush_done, 0);
    return err;
}

/* On a full disk it waits: nothing was changed yet that would have to be undone. */
static int begin_log(struct replica *replica, uint64_t next)
{
    int err = wal_reset(replica->wal, next);
    while (err == -E_NOSPC && !wal_broken(replica->wal) && !replica->stopping) {
        err = io_sleep_ms(replica->io, RETRY_MS);
        if (err == 0)
            err = wal_reset(replica->wal, next);
    }
    if (err == 0)
        replica->muted = false; /* there is space, and no flush is due that would tell */
    return err;
}

/* The order matters after a crash in between: a snapshot newer than the tables or the log makes the
 * next start load it and begin the log behind it. */
static int install(struct replica *replica, const char *path)
{
    int err = pull(replica, path);
    struct snapshot_meta meta = {0};
    uint64_t bytes = 0;
    if (err == 0)
        err = snapshot_newest(replica->io, replica->snapshot_dir, &meta, &bytes);
    char name[SNAPSHOT_NAME_MAX];
    snapshot_name(name, meta.index, meta.term);
    if (err == 0 && strcmp(name, replica->offer) != 0)
        err = -E_CORRUPT;
    if (err == 0)
        err = snapshot_load(replica->io, replica->snapshot_dir, &meta, replica->kv);
    if (err == -E_CORRUPT)
        (void)io_unlink(replica->io, path); /* pulled again when it is offered again */
    if (err != 0)
        return err;
    err = wait_for_flush(replica);
    if (err == 0)
        err = begin_log(replica, meta.index + 1);
    if (err != 0) {
        replica_fail(replica, err, "begin the log anew");
        return err;
    }
    err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    replica->snapshot = meta;
    replica->snapshot_bytes = bytes;
    replica->applied = meta.index;
    replica->last_real_ns = MAX(replica->last_real_ns, meta.real_ns);
    err = core_snapshot_installed(replica);
    fiber_mutex_unlock(&replica->step_lock);
    return err;
}

static void abandon(struct replica *replica)
{
    if (wait_for_flush(replica) != 0 || fiber_mutex_lock(&replica->step_lock) != 0)
        return;
    uint64_t durable;
    int err = wal_flush(replica->wal, &durable);
    if (err != 0)
        replica_fail(replica, err, "write the log");
    else
        core_abandon_install(replica);
    fiber_mutex_unlock(&replica->step_lock);
}

static void install_fiber(void *arg)
{
    struct replica *replica = arg;
    char path[REPLICA_PATH_MAX + 96], name[SNAPSHOT_NAME_MAX];
    snprintf(path, sizeof path, "%s/%s", replica->snapshot_dir, replica->offer);
    strcpy(name, replica->offer); /* once this one is installed, the next may be offered */
    log_info("replica %u: is too far behind, pulls %s (%llu bytes) from replica %u",
             replica->options.id, replica->offer, (unsigned long long)replica->offer_bytes,
             replica->offer_from);
    int err = install(replica, path);
    if (err == 0)
        log_info("replica %u: installed %s", replica->options.id, name);
    else if (err != -E_CANCELED)
        log_warn("replica %u: cannot install %s: %s", replica->options.id, name,
                 err_sentence(err));
    if (err != 0 && err != -E_CANCELED && replica->installing && replica->failed == 0)
        abandon(replica);
    if (err == 0 && snapshot_prune(replica->io, replica->snapshot_dir) != 0)
        log_warn("replica %u: old snapshots stay in %s until the next one is taken", replica->options.id, replica->snapshot_dir);
    replica_wake_all(replica);
    fiber_group_done(&replica->fibers);
}

void install_start(struct replica *replica)
{
    fiber_group_add(&replica->fibers);
    int err = fiber_spawn(replica->io, "install", install_fiber, replica);
    if (err == 0)
        return;
    fiber_group_done(&replica->fibers);
    replica_fail(replica, err, "start to install a snapshot");
}
