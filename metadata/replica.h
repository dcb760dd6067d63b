/* One replica of the metadata service: Raft (libraft's raft_step(), this is the only module that
 * knows it), the log (wal.h), snapshots, the state machine's tables. Runs on any io: ring or simulated.
 * Threads: the io's thread; waiting calls from fibers. */
#ifndef TARN_METADATA_REPLICA_H
#define TARN_METADATA_REPLICA_H

#include "common/base.h"
#include "common/io.h"
#include "common/rpc.h"
#include "fsm.h"

struct replica;
struct replica_options {
    const char *dir;              /* log, snapshots, tables; made when absent */
    uint32_t id;                  /* 1 … n_servers */
    unsigned n_servers;
    const char *const *addresses; /* of all servers, by id - 1: where metad serves rpc */
    const struct rpc_auth *auth;
    bool memory_tables;           /* kv_mem instead of LMDB (simulation) */
    unsigned election_ms, heartbeat_ms; /* 0 = defaults: 1000, 100 */
    uint64_t snapshot_entries;    /* log entries between snapshots, 0 = 100,000 */
    uint64_t trailing_entries;    /* kept behind a snapshot for replicas that lag, 0 = 50,000 */
    uint64_t segment_bytes;       /* of the log, 0 = 16 MiB (wal.h) */
    uint64_t map_bytes;           /* bound of the tables on disk, 0 = 256 GiB (sparse) */
    /* From apply on the leader: pushes to deliver (borrowed for the call). Must not wait. */
    void (*on_result)(void *arg, const struct fsm_result *result);
    /* Leadership gained (after its first entry is applied) or lost. Must not wait. */
    void (*on_leader)(void *arg, bool leads);
    void *arg;
};
/* Opens or recovers and takes part (waits). `options` are copied except auth and arg; of an empty
 * directory the initial configuration is made from the addresses: the same on every replica. Of several
 * servers one with an empty directory does not vote until all others have answered it (R9).
 * Errors: -E_CORRUPT with a log line naming the file, -E_INVAL the log was made for another number of
 * replicas, -E_IO, -E_NOSPC, -E_ACCES. */
int replica_start(struct io *io, const struct replica_options *options, struct replica **ret);
/* Takes no more part: proposals and reads fail, waiting ones at once. The first half of a stop, for
 * fibers and handlers that wait here to end. */
void replica_quiesce(struct replica *replica);
/* Waits for its fibers, then frees; proposals under way fail. The rpc server that calls the handlers
 * below is stopped before. NULL allowed. */
void replica_stop(struct replica *replica);

bool replica_leads(const struct replica *replica);
const char *replica_address(const struct replica *replica, uint32_t id); /* of a server, 1 … n_servers */
const char *replica_leader_address(const struct replica *replica); /* NULL when unknown */
uint32_t replica_leader_id(const struct replica *replica);
uint64_t replica_term(const struct replica *replica);
uint64_t replica_applied(const struct replica *replica);

/* Puts a change into the log and waits until it is durable on a majority and applied here. The
 * result is the caller's. Errors: -E_NOT_LEADER nothing happened; -E_CONN leadership was lost
 * meanwhile: it may or may not have happened; -E_BUSY queue full (65,536), -E_CANCELED. */
int replica_propose(struct replica *replica, unsigned op, const uint8_t *body, size_t body_len,
                    struct fsm_result *ret);
/* Waits until reads are linearizable: this replica leads now (lease or a round to a majority) and
 * has applied all that was committed. Then *ret_txn is a read snapshot: kv_abort() it soon. */
int replica_read(struct replica *replica, struct kv_txn **ret_txn);
/* What is applied here, without asking whether it is the newest: for forecasts. Never waits. */
int replica_look(struct replica *replica, struct kv_txn **ret_txn);
/* The rpc handlers OP_RAFT and OP_SNAPSHOT_PULL belong in the service of the process. */
int replica_handle_raft(struct replica *replica, struct rpc_request *request, const void *message);
int replica_handle_snapshot_pull(struct replica *replica, struct rpc_request *request, const void *message);
/* Entries of StatusReply.replicas, leader only. */
unsigned replica_describe(const struct replica *replica, uint32_t *ids, uint64_t *match, bool *reachable, unsigned max);

#endif
