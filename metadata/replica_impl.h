/* What the files of the replica share (replica*.c only).
 *   replica.c           libraft: events in, updates out; the election timer
 *   replica_message.c   libraft's messages to and from the wire
 *   replica_writer.c    proposals to raft, entries to disk
 *   replica_start.c     opening, recovery, start and stop
 *   replica_apply.c     proposals, the state machine, linearizable reads
 *   replica_newcomer.c  beginning with an empty directory
 *   replica_snapshot.c  taking snapshots, pulling and installing those of others
 *
 * Rules of raft_step() that this driver keeps (R1-R9, each was a bug in somebody's driver):
 *   R1 report as persisted only what is still in the log as written, and only beyond last_stored;
 *   R2 while a snapshot is being installed report no persisted entries and apply nothing;
 *   R3 take a snapshot only at or below last_stored, with no uncommitted configuration;
 *   R4 a configuration entry begins its own AppendEntries when it is received;
 *   R5 the limit of entries in flight is raised from its default of 32;
 *   R6 entries: raft frees the `batch` of a received message unless the update carries entries;
 *   R7 one ordered connection per peer; a message of an older connection is dropped;
 *   R8 libraft refuses entries that begin before the first one it still has, though they are committed
 *      here: when answers were lost and this replica compacted its log meanwhile, the leader would
 *      send snapshots for ever. (And entries from index 1 on it would append a second time.)
 *   R9 a replica that lost its directory does not vote before it knows what it may have promised
 *      (replica_newcomer.c).
 * And ours: applied <= last_stored <= what is on disk, so the tables never run ahead of the log. */
#ifndef TARN_METADATA_REPLICA_IMPL_H
#define TARN_METADATA_REPLICA_IMPL_H

#include "replica.h"
#include "snapshot.h"
#include "transport.h"
#include "wal.h"
#include "raft_types.h"
#include "common/config.h"
#include "common/fiber.h"

#define REPLICA_PATH_MAX 400
#define PROPOSALS_MAX 65536
#define PROPOSALS_PER_SUBMIT 4096
#define PROPOSAL_BYTES_MAX MIB(1)
#define RETRY_MS 1000

struct core; /* libraft's state, replica.c */

/* A change on its way; lives in the stack of its replica_propose(). */
struct proposal {
    struct proposal *next;
    uint8_t *data; /* packed tarn.LogCommand */
    size_t len;
    uint64_t index, term; /* once in the log */
    bool done;
    int err;
    struct fsm_result *result;
    struct fiber *fiber;
};
struct proposals {
    struct proposal *head, **tail;
    size_t count;
};
void proposals_init(struct proposals *list);
void proposals_push(struct proposals *list, struct proposal *proposal);
struct proposal *proposals_pop(struct proposals *list);
void proposals_remove(struct proposals *list, struct proposal *proposal);

struct replica {
    struct io *io;
    struct replica_options options;
    char dir[REPLICA_PATH_MAX], log_dir[REPLICA_PATH_MAX + 16], snapshot_dir[REPLICA_PATH_MAX + 16],
        tables_dir[REPLICA_PATH_MAX + 16];
    char addresses[CONFIG_META_MAX][64];
    const char *address_list[CONFIG_META_MAX];

    struct core *core;
    struct wal *wal;
    struct kv *kv;
    struct transport *transport;
    struct fiber_mutex step_lock; /* one raft_step() and its update at a time */
    struct fiber_group fibers;
    bool stopping;
    int failed; /* the log cannot be trusted any more: takes no part until a restart */
    bool muted; /* the log's disk is full: silent to the others until it is not */

    /* writer */
    struct fiber_queue write_wake, flush_done;
    bool flushing;
    struct proposals pending;  /* not in the log yet */
    struct proposals inflight; /* in the log, by index */

    /* apply */
    struct fiber_queue apply_wake;
    uint64_t applied;
    uint64_t last_real_ns; /* the largest leader's clock proposed or applied */

    /* leadership */
    struct fiber_queue timer_wake, read_wake;
    bool core_leads; /* raft's view */
    bool leads;      /* and the first entry of the term is applied: what the outside sees */
    uint64_t ready_index;
    uint64_t lease_ns;                       /* a stamp is good for so long */
    uint64_t stamps[CONFIG_META_MAX];        /* of our AppendEntries that peer answered last, by id - 1 */
    uint64_t heard_term, heard_from, heard_stamp; /* as follower: the leader's last stamp */
    uint64_t silent_until_ns; /* after a restart no vote: a lease we granted before may still run */

    /* newcomer: began with an empty directory; what the others have told of their terms and logs */
    bool newcomer, told[CONFIG_META_MAX]; /* told: by id - 1 */
    uint64_t told_term, told_last_term, told_last_index;
    struct fiber_queue newcomer_wake;
    uint64_t quiet_until_ns; /* says and hears nothing, so that it leads no more */

    /* snapshots */
    struct fiber_queue snapshot_wake;
    struct snapshot_meta snapshot; /* the newest; index 0 = none */
    uint64_t snapshot_bytes;
    bool installing;
    char offer[SNAPSHOT_NAME_MAX]; /* being installed, from this server */
    uint32_t offer_from;
    uint64_t offer_bytes;
};

/* ---- replica.c; all but the getters are called with step_lock held ---- */
int core_start(struct replica *replica); /* from the log and the newest snapshot */
void replica_core_stop(struct replica *replica);
int core_snapshot_taken(struct replica *replica, const struct snapshot_meta *meta, unsigned trailing);
int core_snapshot_installed(struct replica *replica);
int core_configuration_applied(struct replica *replica, uint64_t index, const void *data, size_t len);
/* Fills index, term and servers of a snapshot at `applied`; false when none may be taken now (R3). */
bool core_describe(struct replica *replica, struct snapshot_meta *ret);
uint64_t core_apply_limit(const struct replica *replica);
uint64_t core_term(const struct replica *replica);
uint64_t core_match(const struct replica *replica, uint32_t id); /* leader: how far that log agrees with ours */
void core_abandon_install(struct replica *replica);
/* The bytes of the first configuration entry; freed with free(). */
int core_bootstrap_entry(struct replica *replica, uint8_t **ret_data, size_t *ret_len);
unsigned core_configuration_size(struct replica *replica);
int replica_fetch(void *arg, uint64_t term, uint64_t first, uint32_t max,
                  struct transport_batch *batch);
/* Puts the proposals into the log and the inflight list. On a refusal they are the caller's again;
 * when the replica fails they have been answered. */
int core_submit(struct replica *replica, struct proposal **list, unsigned n);
int core_persisted(struct replica *replica, uint64_t durable);
void timer_fiber(void *arg);
void replica_fail(struct replica *replica, int err, const char *what);
void replica_wake_all(struct replica *replica);

/* ---- replica_writer.c ---- */
void writer_fiber(void *arg);

/* ---- replica_apply.c ---- */
void apply_fiber(void *arg);
void replica_check_ready(struct replica *replica);
void replica_leadership_lost(struct replica *replica);
uint64_t replica_quorum_stamp(const struct replica *replica);

/* ---- replica_newcomer.c ---- */
int newcomer_init(struct replica *replica, bool empty); /* before anything is written to the log */
/* For a candidate of that term with a log of that end. */
bool newcomer_may_vote(const struct replica *replica, uint64_t term, uint64_t last_term, uint64_t last_index);
void newcomer_asked(struct replica *replica, const Tarn__RaftMessage *in); /* with step_lock held */
void newcomer_told(struct replica *replica, const Tarn__RaftMessage *in);
void newcomer_fiber(void *arg);

/* ---- replica_snapshot.c ---- */
void snapshot_fiber(void *arg);
void install_start(struct replica *replica); /* with step_lock held, installing is set */

#endif
