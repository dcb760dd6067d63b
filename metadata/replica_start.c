/* Opening a replica: log, snapshot and tables are brought to agree before raft sees them. */
#include "replica_impl.h"
#include "common/arena.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "meta.pb-c.h"
#include <stdio.h>

#define ELECTION_MS 1000
#define HEARTBEAT_MS 100
#define SNAPSHOT_ENTRIES 100000
#define TRAILING_ENTRIES 50000
#define MAP_BYTES GIB(256)

static uint64_t or_default(uint64_t value, uint64_t standard)
{
    return value != 0 ? value : standard;
}

static int options_copy(struct replica *replica, const struct replica_options *options)
{
    bool listed = options->id >= 1 && options->id <= options->n_servers;
    if (options->n_servers > CONFIG_META_MAX || options->id < 1 || options->id > REPLICA_ID_MAX ||
        (!listed && options->address == NULL))
        return -E_INVAL;
    replica->options = *options;
    struct replica_options *own = &replica->options;
    own->election_ms = (unsigned)or_default(own->election_ms, ELECTION_MS);
    own->heartbeat_ms = (unsigned)or_default(own->heartbeat_ms, HEARTBEAT_MS);
    own->snapshot_entries = or_default(own->snapshot_entries, SNAPSHOT_ENTRIES);
    own->trailing_entries = or_default(own->trailing_entries, TRAILING_ENTRIES);
    own->map_bytes = or_default(own->map_bytes, MAP_BYTES);
    /* 60 % of the time in which followers refuse to vote: clocks may differ by a third. */
    replica->lease_ns = own->election_ms * UINT64_C(600000);
    for (unsigned i = 0; i < own->n_servers; i++) {
        if (snprintf(replica->addresses[i], sizeof replica->addresses[i], "%s",
                     options->addresses[i]) >= (int)sizeof replica->addresses[i])
            return -E_NAMETOOLONG;
        replica->address_list[i] = replica->addresses[i];
    }
    own->addresses = replica->address_list;
    const char *address = options->address != NULL ? options->address : replica->addresses[options->id - 1];
    if (snprintf(replica->address, sizeof replica->address, "%s", address) >= (int)sizeof replica->address)
        return -E_NAMETOOLONG;
    own->address = replica->address;
    if (snprintf(replica->dir, sizeof replica->dir, "%s", options->dir) >= (int)sizeof replica->dir)
        return -E_NAMETOOLONG;
    own->dir = replica->dir;
    snprintf(replica->log_dir, sizeof replica->log_dir, "%s/log", replica->dir);
    snprintf(replica->snapshot_dir, sizeof replica->snapshot_dir, "%s/snapshots", replica->dir);
    snprintf(replica->tables_dir, sizeof replica->tables_dir, "%s/tables", replica->dir);
    return 0;
}

static int make_dirs(struct replica *replica)
{
    const char *const dirs[] = {replica->dir, replica->log_dir, replica->snapshot_dir};
    int err = 0;
    for (size_t i = 0; err == 0 && i < ARRAY_SIZE(dirs); i++)
        err = wal_make_dir(replica->io, dirs[i]);
    return err;
}

/* ------------------------------------------------------------------ the log against the snapshot */
static int complain(const struct replica *replica, const char *what)
{
    log_error("replica %u: %s in %s; restore or replace this replica", replica->options.id, what,
              replica->dir);
    return -E_CORRUPT;
}

static int open_log(struct replica *replica)
{
    struct wal_options options = {.dir = replica->log_dir,
                                  .segment_bytes = replica->options.segment_bytes};
    int err = wal_open(replica->io, &options, &replica->wal);
    if (err != 0)
        return err;
    err = snapshot_clean(replica->io, replica->snapshot_dir);
    if (err != 0)
        return err;
    err = snapshot_newest(replica->io, replica->snapshot_dir, &replica->snapshot,
                          &replica->snapshot_bytes);
    if (err != 0 && err != -E_NOENT)
        return err;
    const struct snapshot_meta *snapshot = &replica->snapshot;
    if (snapshot->index == 0)
        return wal_first(replica->wal) > 1 ? complain(replica, "the log's beginning is missing") : 0;
    if (wal_first(replica->wal) > snapshot->index + 1)
        return complain(replica, "entries between the snapshot and the log are missing");
    /* A snapshot installed from the leader whose log was not yet begun anew before a crash. */
    uint64_t term = wal_term_of(replica->wal, snapshot->index);
    if (wal_last(replica->wal) < snapshot->index || (term != 0 && term != snapshot->term))
        return wal_reset(replica->wal, snapshot->index + 1);
    return 0;
}

int replica_bootstrap(struct replica *replica)
{
    struct wal *wal = replica->wal;
    _cleanup_free_ uint8_t *data = NULL;
    size_t len;
    uint64_t durable;
    int err = core_bootstrap_entry(replica, &data, &len);
    if (err == 0)
        err = wal_put(wal, 1, 1, RAFT_ENTRY_CHANGE, data, len);
    if (err == 0)
        err = wal_flush(wal, &durable);
    if (err == 0 && wal_current_term(wal) == 0)
        err = wal_set_vote(wal, 1, 0);
    return err;
}

/* Whether the directory has been used, and what a first start does: one alone begins a service, one of several or
 * one that joins is a newcomer. */
static int first_start(struct replica *replica)
{
    struct wal *wal = replica->wal;
    const struct replica_options *options = &replica->options;
    bool empty = wal_current_term(wal) == 0 && wal_last(wal) == 0 && replica->snapshot.index == 0;
    bool alone = options->n_servers == 1 && options->id == 1 && !options->join;
    if (empty && alone)
        return replica_bootstrap(replica);
    if (wal_current_term(wal) == 0 && wal_last(wal) == 1 && alone) /* a crash between the first entry and the term */
        return wal_set_vote(wal, 1, 0);
    if (wal_current_term(wal) == 0 && (replica->snapshot.index > 0 || wal_last(wal) > 1))
        return complain(replica, "a log without a term");
    if (wal_current_term(wal) == 0 && wal_last(wal) == 1) {
        int err = wal_set_vote(wal, 1, 0);
        if (err != 0)
            return err;
    }
    if (empty && options->id > options->n_servers && !options->join)
        return complain(replica, "no log of a replica that the configuration does not name; --join adds one");
    int err = newcomer_init(replica, empty);
    replica->waiting = err == 0 && empty && options->join && replica->newcomer;
    return err;
}

/* Until a configuration is known the others are those of the command line. */
static void first_members(struct replica *replica)
{
    const struct replica_options *options = &replica->options;
    for (unsigned i = 0; i < options->n_servers && !options->join; i++) {
        struct replica_server *server = &replica->members[i].server;
        *server = (struct replica_server){.id = i + 1, .voter = true};
        memcpy(server->address, replica->addresses[i], sizeof server->address);
        replica->n_members = i + 1;
    }
}

/* ------------------------------------------------------------------ the tables */
static int tables_applied(struct replica *replica, uint64_t *ret)
{
    struct kv_txn *txn;
    int err = kv_begin(replica->kv, true, &txn);
    if (err != 0)
        return err;
    err = fsm_init(txn);
    if (err == 0)
        err = fsm_applied_index(txn, ret);
    if (err == 0)
        return kv_commit(txn);
    kv_abort(txn);
    return err;
}

/* Rows that a snapshot of an older version lacks. */
static int tables_settle(struct replica *replica)
{
    uint64_t applied;
    return tables_applied(replica, &applied);
}

static int any_key(void *arg, struct kv_val key, struct kv_val value)
{
    *(bool *)arg = false;
    return 1;
}

static int tables_empty(struct replica *replica, bool *ret)
{
    struct kv_txn *txn;
    int err = kv_begin(replica->kv, false, &txn);
    if (err != 0)
        return err;
    *ret = true;
    err = kv_scan(txn, NULL, 0, NULL, 0, any_key, ret);
    kv_abort(txn);
    return err;
}

/* The newest snapshot is damaged: the one before and the log are as good, when the log reaches back so far. */
static int older_snapshot(struct replica *replica)
{
    int err = snapshot_set_aside(replica->io, replica->snapshot_dir, &replica->snapshot);
    if (err != 0)
        return err;
    replica->snapshot = (struct snapshot_meta){0};
    err = snapshot_newest(replica->io, replica->snapshot_dir, &replica->snapshot, &replica->snapshot_bytes);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (wal_first(replica->wal) > replica->snapshot.index + 1 || wal_last(replica->wal) < replica->snapshot.index)
        return complain(replica, "the newest snapshot is damaged and the log does not reach back to the one before");
    log_warn("replica %u: goes on from the snapshot at %llu and the log", replica->options.id,
             (unsigned long long)replica->snapshot.index);
    return 0;
}

/* When the tables are behind the log's beginning, or gone. */
static int load_snapshot(struct replica *replica, bool empty, uint64_t *applied)
{
    for (;;) {
        const struct snapshot_meta *snapshot = &replica->snapshot;
        if (snapshot->index <= *applied || (!empty && *applied + 1 >= wal_first(replica->wal)))
            break;
        int err = snapshot_load(replica->io, replica->snapshot_dir, snapshot, replica->kv);
        if (err == 0) {
            *applied = snapshot->index;
            return tables_settle(replica);
        }
        if (err == -E_CORRUPT)
            err = older_snapshot(replica);
        if (err != 0)
            return err;
    }
    return tables_applied(replica, applied);
}

/* Barriers and configurations leave no trace in the tables, so they may lag behind the log's truth by
 * such entries; what they miss is applied again from the log, or all comes from the snapshot. */
static int open_tables(struct replica *replica)
{
    int err = replica->options.memory_tables
                  ? kv_mem_open(&replica->kv)
                  : kv_lmdb_open(replica->tables_dir, replica->options.map_bytes, &replica->kv);
    bool empty = true;
    uint64_t applied = 0;
    if (err == 0)
        err = tables_empty(replica, &empty);
    if (err == 0 && !empty)
        err = tables_applied(replica, &applied);
    if (err != 0)
        return err;
    if (applied > MAX(wal_last(replica->wal), replica->snapshot.index))
        return complain(replica, "the tables know more than the log");
    err = load_snapshot(replica, empty, &applied);
    if (err != 0)
        return err;
    replica->applied = applied;
    replica->last_real_ns = replica->snapshot.real_ns;
    if (replica->applied + 1 < wal_first(replica->wal))
        return complain(replica, "entries between the tables and the log are missing");
    return 0;
}

/* The clock never goes back below what is in the log, whoever wrote it. */
static int last_clock(struct replica *replica)
{
    struct wal *wal = replica->wal;
    uint64_t index = wal_last(wal);
    while (index >= wal_first(wal) && index > 0 && wal_type_of(wal, index) != RAFT_ENTRY_COMMAND)
        index--;
    if (index < wal_first(wal) || index == 0)
        return 0;
    _cleanup_(writer_fini) struct writer data = {0};
    int err = wal_read(wal, index, &data);
    if (err != 0)
        return err;
    _cleanup_(arena_fini) struct arena arena;
    arena_init(&arena, NULL, 0);
    ProtobufCAllocator allocator = arena_allocator(&arena);
    const Tarn__LogCommand *command = tarn__log_command__unpack(&allocator, data.len, data.data);
    if (command == NULL)
        return arena.failed ? -E_NOMEM : complain(replica, "the last log entry is not a command");
    replica->last_real_ns = MAX(replica->last_real_ns, command->real_ns);
    return 0;
}

/* ------------------------------------------------------------------ a damaged directory */
int replica_set_aside(struct io *io, const char *dir)
{
    static const char *const parts[] = {"log", "snapshots", "tables", "newcomer"};
    char aside[REPLICA_PATH_MAX + 32], from[REPLICA_PATH_MAX + 32], to[REPLICA_PATH_MAX + 64];
    int err = -E_EXIST;
    for (unsigned n = 1; err == -E_EXIST && n < 1000; n++) {
        if (snprintf(aside, sizeof aside, "%s/aside-%u", dir, n) >= (int)sizeof aside)
            return -E_NAMETOOLONG;
        err = io_mkdir(io, aside, 0700);
    }
    for (size_t i = 0; err == 0 && i < ARRAY_SIZE(parts); i++) {
        snprintf(from, sizeof from, "%.*s/%s", REPLICA_PATH_MAX, dir, parts[i]);
        snprintf(to, sizeof to, "%s/%s", aside, parts[i]);
        err = io_rename(io, from, to);
        err = err == -E_NOENT ? 0 : err;
    }
    if (err == 0)
        err = io_sync_dir(io, aside);
    if (err == 0)
        err = io_sync_dir(io, dir);
    if (err == 0)
        log_warn("what was in %s is now in %s; it begins as a replica that lost its directory", dir, aside);
    return err;
}

/* ------------------------------------------------------------------ life */
static int spawn(struct replica *replica, const char *name, fiber_fn fn)
{
    fiber_group_add(&replica->fibers);
    int err = fiber_spawn(replica->io, name, fn, replica);
    if (err != 0)
        fiber_group_done(&replica->fibers);
    return err;
}

static int take_part(struct replica *replica)
{
    struct transport_options transport = {.auth = replica->options.auth,
                                          .self = replica->options.id,
                                          .timeout_ms = 2 * replica->options.election_ms,
                                          .fetch = replica_fetch,
                                          .answered = member_answered,
                                          .arg = replica};
    int err = transport_start(replica->io, &transport, &replica->transport);
    /* Before a restart this replica may have promised a leader not to vote for a while. */
    if (wal_current_term(replica->wal) > 1)
        replica->silent_until_ns =
            io_mono_ns(replica->io) + replica->options.election_ms * UINT64_C(1000000);
    if (err == 0)
        err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    first_members(replica);
    member_set_peers(replica);
    err = core_start(replica);
    fiber_mutex_unlock(&replica->step_lock);
    if (err == 0)
        err = spawn(replica, "raft-writer", writer_fiber);
    if (err == 0)
        err = spawn(replica, "raft-apply", apply_fiber);
    if (err == 0)
        err = spawn(replica, "raft-timer", timer_fiber);
    if (err == 0)
        err = spawn(replica, "raft-snapshot", snapshot_fiber);
    if (err == 0)
        err = spawn(replica, "raft-member", member_fiber);
    if (err == 0 && replica->newcomer)
        err = spawn(replica, "raft-newcomer", newcomer_fiber);
    return err;
}

int replica_start(struct io *io, const struct replica_options *options, struct replica **ret)
{
    struct replica *replica = calloc(1, sizeof *replica);
    if (replica == NULL)
        return -E_NOMEM;
    replica->io = io;
    proposals_init(&replica->pending);
    proposals_init(&replica->inflight);
    int err = options_copy(replica, options);
    if (err == 0)
        err = make_dirs(replica);
    if (err == 0)
        err = member_marker_check(replica);
    if (err == 0)
        err = open_log(replica);
    if (err == 0)
        err = first_start(replica);
    if (err == 0)
        err = open_tables(replica);
    if (err == 0)
        err = last_clock(replica);
    if (err == 0)
        err = take_part(replica);
    if (err != 0) {
        replica_stop(replica);
        return err;
    }
    *ret = replica;
    return 0;
}

void replica_quiesce(struct replica *replica)
{
    replica->stopping = true;
    replica->options.on_leader = NULL;
    replica->options.on_result = NULL;
    replica->options.on_end = NULL;
    replica_leadership_lost(replica);
    replica_wake_all(replica);
}

void replica_stop(struct replica *replica)
{
    if (replica == NULL)
        return;
    replica_quiesce(replica);
    if (replica->fibers.running > 0)
        fiber_group_wait(&replica->fibers);
    transport_stop(replica->transport);
    replica_core_stop(replica);
    kv_close(replica->kv);
    wal_close(replica->wal);
    free(replica);
}
