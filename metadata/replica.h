/* One replica of the metadata service: Raft (libraft's raft_step(), this is the only module that
 * knows it), the log (wal.h), snapshots, the state machine's tables. Runs on any io: ring or simulated.
 * Threads: the io's thread; waiting calls from fibers. */
#ifndef TARN_METADATA_REPLICA_H
#define TARN_METADATA_REPLICA_H

#include "common/base.h"
#include "common/io.h"
#include "common/rpc.h"
#include "fsm.h"

#define REPLICA_SERVERS_MAX 8 /* in a configuration; in rest it has 1, 3 or 5 */
#define REPLICA_ID_MAX 65535

struct replica;
struct replica_options {
    const char *dir;              /* log, snapshots, tables; made when absent */
    uint32_t id;                  /* 1 … n_servers; with `join` any up to REPLICA_ID_MAX, never used before */
    /* The first configuration: used once, when the service begins. Later it is in the log. */
    unsigned n_servers;
    const char *const *addresses; /* of all servers, by id - 1: where metad serves rpc */
    bool join;                    /* an empty directory waits to be added to a service that runs */
    const char *address;          /* our own; NULL = addresses[id - 1] */
    const struct rpc_auth *auth;
    bool memory_tables;           /* kv_mem instead of LMDB (simulation) */
    unsigned election_ms, heartbeat_ms; /* 0 = defaults: 1000, 100 */
    uint64_t snapshot_entries;    /* log entries between snapshots at least, 0 = 100,000 */
    uint64_t trailing_entries;    /* kept behind a snapshot for replicas that lag, 0 = 50,000 */
    uint64_t segment_bytes;       /* of the log, 0 = 16 MiB (wal.h) */
    uint64_t map_bytes;           /* bound of the tables on disk, 0 = 256 GiB (sparse) */
    /* From apply on the leader: pushes to deliver (borrowed for the call). Must not wait. */
    void (*on_result)(void *arg, const struct fsm_result *result);
    /* Leadership gained (after its first entry is applied) or lost. Must not wait. */
    void (*on_leader)(void *arg, bool leads);
    /* It takes part no more: -E_PERM it was removed from the service, else why (a write or a sync of the log
     * failed). Only a new process can go on. Must not wait. */
    void (*on_end)(void *arg, int err);
    void *arg;
};
/* Opens or recovers and takes part (waits). `options` are copied except auth and arg. With an empty directory:
 * a single server begins a service; one of several asks the others first: when all are as empty, the first
 * configuration is made from the addresses, else it has lost its directory and gets everything from them, and
 * does not vote until all voters have answered it (R9); with `join` it waits until the leader adds it.
 * Errors: -E_CORRUPT with a log line naming the file, -E_PERM it was removed from the service, -E_IO, -E_NOSPC,
 * -E_ACCES. */
int replica_start(struct io *io, const struct replica_options *options, struct replica **ret);
/* Before a start: renames log, snapshots and tables of a damaged replica to DIR/aside-N, so that it begins as one that
 * lost its directory. Nothing is deleted. */
int replica_set_aside(struct io *io, const char *dir);
/* Takes no more part: proposals and reads fail, waiting ones at once. The first half of a stop, for
 * fibers and handlers that wait here to end. */
void replica_quiesce(struct replica *replica);
/* Waits for its fibers, then frees; proposals under way fail. The rpc server that calls the handlers
 * below is stopped before. NULL allowed. */
void replica_stop(struct replica *replica);

bool replica_leads(const struct replica *replica);
const char *replica_address(const struct replica *replica, uint32_t id); /* of a server; "" when not known */
const char *replica_leader_address(const struct replica *replica); /* NULL when unknown */
uint32_t replica_leader_id(const struct replica *replica);
uint64_t replica_term(const struct replica *replica);
uint64_t replica_applied(const struct replica *replica);
void replica_give_back(struct replica *replica, unsigned slice, unsigned slices); /* kv_give_back() of its tables */

/* Puts a change into the log and waits until it is durable on a majority and applied here. The
 * result is the caller's. Errors: -E_NOT_LEADER nothing happened; -E_CONN leadership was lost
 * meanwhile: it may or may not have happened; -E_BUSY queue full (65,536, 128 MiB), -E_CANCELED. */
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

/* ---- who takes part (replica_member.c). All wait; all are the leader's: -E_NOT_LEADER, -E_CONN leadership was lost
 * meanwhile (ask again: what is done already succeeds), -E_BUSY another change is under way. `detail` gets words
 * for the failure. One change at a time, each of one server, in the log like any entry. */
struct replica_server {
    uint32_t id;
    bool voter; /* else it is being added */
    char address[64];
};
#define REPLICA_DETAIL 160
/* The server joins as a non-voter; whoever leads promotes it when it has caught up. Success when it is in the
 * configuration. -E_EXIST id or address is another's, or the server there has a log; -E_INVAL; -E_UNAVAIL it does not
 * answer; -E_RANGE too many. */
int replica_member_add(struct replica *replica, const struct replica_server *server, char detail[REPLICA_DETAIL]);
/* Also the leader (it hands over first and answers -E_NOT_LEADER), also a dead one. -E_INVAL the last voter;
 * -E_UNAVAIL those that stay would not be a majority that answers. */
int replica_member_remove(struct replica *replica, uint32_t id, char detail[REPLICA_DETAIL]);
int replica_member_move(struct replica *replica, uint32_t id, const char *address, char detail[REPLICA_DETAIL]);
/* Leadership goes to that voter, 0 = the one that is furthest. Changes are held back meanwhile, at most for an election
 * timeout. -E_NOENT no such voter, -E_TIMEOUT it did not take over. */
int replica_transfer(struct replica *replica, uint32_t to, char detail[REPLICA_DETAIL]);
/* Takes a snapshot now, unless the newest reaches to *reach already (0 becomes what is applied at the call). Waits 5 s at
 * most: *ret_index below *reach then, and the snapshot is still under way. */
int replica_snapshot_now(struct replica *replica, uint64_t *reach, uint64_t *ret_index, uint64_t *ret_bytes);

struct replica_status {
    const char *state; /* as MetaStatusReply.state */
    uint64_t term, led_ms, applied, commit, first, last, log_bytes, conf_index;
    uint64_t snapshot_index, snapshot_bytes, snapshot_ns;
    unsigned n_servers;
    struct replica_server servers[REPLICA_SERVERS_MAX];
    const char *change, *trouble; /* borrowed until the next call that waits; "" = none */
};
void replica_status(const struct replica *replica, struct replica_status *ret);
uint32_t replica_id(const struct replica *replica);
const char *replica_dir(const struct replica *replica);
const char *replica_own_address(const struct replica *replica);

#endif
