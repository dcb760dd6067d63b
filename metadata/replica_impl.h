/* What the files of the replica share (replica*.c only).
 *   replica.c           libraft: events in, updates out; the election timer
 *   replica_receive.c   messages of the others
 *   replica_message.c   libraft's messages to and from the wire
 *   replica_writer.c    proposals to raft, entries to disk
 *   replica_start.c     opening, recovery, start and stop
 *   replica_apply.c     proposals, the state machine, linearizable reads
 *   replica_newcomer.c  beginning with an empty directory
 *   replica_member.c    who takes part: adding, removing, moving, handing leadership over
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
 *      (replica_newcomer.c);
 *   R10 libraft remembers one configuration as committed and one as not: a follower that gets two in one go would,
 *      when the second is taken back, fall back behind the first. A leader appends a configuration only when the one
 *      before is committed, so the first is reported as committed before the second is handed over;
 *   R11 a leader changes the configuration only after an entry of its own term is committed (the flaw of
 *      single-server changes that Ongaro found in 2015): a barrier goes before;
 *   R12 a configuration entry is submitted alone, or its refusal would refuse what came with it; the order of the
 *      servers that stay does not change, for libraft keeps their progress by position;
 *   R13 leadership is handed over only to one whose log is complete: libraft would send its word once, too early. From
 *      then on in that term reads need a round of answers: followers may vote while the lease runs.
 *   R14 libraft waits for the answer to a snapshot it sent, and overhears a refusal at any other index than that
 *      snapshot's: when the answer is lost and the leader has taken a newer one meanwhile it would wait for the
 *      timeout of minutes. Followers tell what they have and whether one is on its way in.
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
#define PROPOSALS_BYTES_MAX MIB(128)
#define PROPOSALS_PER_SUBMIT 4096
#define PROPOSAL_BYTES_MAX MIB(1)
#define RETRY_MS 1000

struct core; /* libraft's state, replica_core.h */

/* Somebody who takes part, as raft's newest configuration here says (committed or not). */
struct member {
    struct replica_server server;
    uint64_t stamp;   /* of our AppendEntries that it answered last */
    uint64_t offered; /* the snapshot it was sent last in this term, 0 = none */
};

/* A change on its way; lives in the stack of its replica_propose(). */
struct proposal {
    struct proposal *next;
    unsigned type; /* RAFT_ENTRY_…; only commands have a result */
    uint8_t *data; /* a command: packed tarn.LogCommand */
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
/* Puts an entry into the log and waits as replica_propose() does. `data` is borrowed. */
int replica_propose_entry(struct replica *replica, unsigned type, uint8_t *data, size_t len, struct fsm_result *ret);

struct replica {
    struct io *io;
    struct replica_options options;
    char dir[REPLICA_PATH_MAX], log_dir[REPLICA_PATH_MAX + 16], snapshot_dir[REPLICA_PATH_MAX + 16],
        tables_dir[REPLICA_PATH_MAX + 16];
    char addresses[CONFIG_META_MAX][64]; /* of the first configuration */
    const char *address_list[CONFIG_META_MAX];

    /* who takes part */
    struct member members[REPLICA_SERVERS_MAX];
    unsigned n_members;   /* 0 = not known yet */
    char address[64];     /* our own, as the others are told */
    bool waiting;         /* to be added: nobody has welcomed it yet */
    bool removed;
    bool changing;        /* one change of members, or a transfer, at a time */
    char change[128];     /* what is going on, in words */
    bool transferring;    /* proposals are held back */
    bool lease_void;      /* R13: in this term */
    struct fiber_queue member_wake;

    struct core *core;
    struct wal *wal;
    struct kv *kv;
    struct transport *transport;
    struct fiber_mutex step_lock; /* one raft_step() and its update at a time */
    struct fiber_group fibers;
    bool stopping;
    int failed; /* the log cannot be trusted any more: takes no part until a restart */
    bool muted; /* the log's disk is full: refuses changes and does not stand for election until it is not */
    bool unfit; /* the tables cannot be written: must not lead */

    /* writer */
    struct fiber_queue write_wake, flush_done;
    bool flushing;
    uint64_t flush_began_ns;
    struct proposals pending;  /* not in the log yet */
    struct proposals inflight; /* in the log, by index */
    size_t proposed_bytes;     /* of both */

    /* apply */
    struct fiber_queue apply_wake;
    uint64_t applied;
    uint64_t last_real_ns; /* the largest leader's clock proposed or applied */

    /* leadership */
    struct fiber_queue timer_wake, read_wake;
    bool core_leads; /* raft's view */
    bool leads;      /* and the first entry of the term is applied: what the outside sees */
    uint64_t ready_index;
    uint64_t led_since_ns;
    uint64_t lease_ns;                       /* a stamp is good for so long */
    uint64_t heard_term, heard_from, heard_stamp; /* as follower: the leader's last stamp */
    uint64_t silent_until_ns; /* after a restart no vote: a lease we granted before may still run */

    /* newcomer: began with an empty directory; what the others have told of their terms and logs */
    bool newcomer;
    uint32_t told[REPLICA_SERVERS_MAX]; /* who has */
    unsigned n_told;
    uint64_t hint_index; /* of the configuration that was taken over from one of them */
    uint64_t told_term, told_last_term, told_last_index;
    struct fiber_queue newcomer_wake;
    uint64_t quiet_until_ns; /* says and hears nothing, so that it leads no more */

    /* snapshots */
    struct fiber_queue snapshot_wake;
    struct snapshot_meta snapshot; /* the newest; index 0 = none */
    uint64_t snapshot_bytes;
    bool snapshot_wanted; /* somebody asks for one now */
    bool installing;
    char offer[SNAPSHOT_NAME_MAX]; /* being installed, from this server */
    uint32_t offer_from;
    char offer_address[64];
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
/* Begins anew from what is on disk. */
int core_restart(struct replica *replica);
uint64_t core_commit(const struct replica *replica);
uint64_t core_conf_index(const struct replica *replica); /* of the newest configuration, committed or not */
bool core_has_configuration(const struct replica *replica);
/* Puts the committed configuration into a message. */
void core_tell_configuration(const struct replica *replica, struct transport_message *out);
/* Takes over the configuration of another while there is none: who votes, and whom to ask. */
void core_hint(struct replica *replica, const Tarn__RaftMessage *in);
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

/* ---- replica_start.c ---- */
/* The first entry and the first term, from the addresses: the same on every replica. */
int replica_bootstrap(struct replica *replica);

/* ---- replica_newcomer.c ---- */
int newcomer_init(struct replica *replica, bool empty); /* before anything is written to the log */
/* For a candidate of that term with a log of that end. */
bool newcomer_may_vote(const struct replica *replica, uint64_t term, uint64_t last_term, uint64_t last_index);
bool newcomer_may_stand(const struct replica *replica); /* for election itself */
void newcomer_asked(struct replica *replica, const Tarn__RaftMessage *in); /* with step_lock held */
void newcomer_told(struct replica *replica, const Tarn__RaftMessage *in);
void newcomer_fiber(void *arg);
int newcomer_leave(struct replica *replica);

/* ---- replica_member.c ---- */
struct member *member_find(struct replica *replica, uint64_t id);
unsigned member_voters(const struct replica *replica);
void member_set_peers(struct replica *replica); /* the connections are those to the members */
void member_fiber(void *arg);
void member_answered(void *arg, uint32_t from, const Tarn__RaftReply *reply);
int member_welcomed(struct replica *replica, const Tarn__RaftMessage *in); /* with step_lock held */
int member_marker_check(struct replica *replica); /* at start: -E_PERM when it was removed */

/* ---- replica_snapshot.c ---- */
void snapshot_fiber(void *arg);
void install_start(struct replica *replica); /* with step_lock held, installing is set */

#endif
