/* The metadata state machine: apply(command) -> result, and queries. Deterministic: the same
 * commands on the same tables give the same tables and replies on every replica; time, chance and
 * the leader's knowledge come in the command (struct fsm_command). Nothing waits, no clock is read.
 * Rooms: namespace (inodes, entries), chunkmap (chunks, tasks of stores), placement (pure), lock,
 * session, clustermap (nodes), jobq, user. All state is in the kv tables: an fsm has none of its own,
 * so a restart or a snapshot needs nothing but the tables. Table layout: docs/formats/metadata.md. */
#ifndef TARN_METADATA_FSM_H
#define TARN_METADATA_FSM_H

#include "common/base.h"
#include "kv.h"

struct fsm_command {
    uint64_t index;    /* of the log entry; apply stores it in the same transaction */
    unsigned op;       /* proto/ops.h, OP_SESSION_OPEN … OP_META_CHANGE_LAST */
    uint64_t real_ns;  /* the leader's clock when it accepted the request */
    uint64_t seed;     /* the only source of chance */
    const uint8_t *body; /* packed request message of the op */
    size_t body_len;
};

/* What a command made happen besides its reply; the leader carries it out, followers drop it. */
struct fsm_push {
    uint64_t session;
    unsigned op;        /* OP_LOCK_GRANTED; OP_JOB_CHANGED goes to all watchers (session 0) */
    uint8_t *control;   /* packed message, malloc'd */
    size_t control_len;
};
/* A right that must come back before the request can be carried out: the leader asks for it, waits, repeats. */
struct fsm_recall {
    uint32_t kind; /* Tarn__LeaseKind */
    uint64_t session, ino, number;
    bool marked;   /* the tables say already that it was asked back */
};
#define FSM_TOUCHED_MAX 4096
struct fsm_result {
    int err;             /* 0 or a negative code: the answer to the requester */
    char detail[160];    /* words for the error, may be empty */
    uint8_t *reply;      /* packed reply message, malloc'd, NULL on error */
    size_t reply_len;
    struct fsm_push *pushes; /* malloc'd */
    size_t n_pushes;
    char *next;          /* a query's answer that goes on: where, malloc'd; NULL = complete */
    size_t told;         /* then: things this part tells of */
    uint32_t slot_family, slot_base; /* a query needs this number of a clone: CLONE_SLOT, then again */
    bool nodes_changed, tasks_changed; /* the leader may wake waiting heartbeats */
    bool fences_changed;    /* as above */
    uint64_t ended_session; /* fenced or gone; 0 = none */
    uint64_t session;          /* whose change it was; 0 = the service's own */
    uint64_t *touched;         /* inodes of which somebody may know something that is not true any more; malloc'd */
    size_t n_touched;
    bool touched_more;         /* more than are listed */
    struct fsm_recall *recalls; /* malloc'd; with them `err` is -E_BUSY, or the reply of a query is too early */
    size_t n_recalls;
    bool rights_returned;      /* those who wait for a recall may try again */
};
void fsm_result_fini(struct fsm_result *result);

/* Makes the first state (root directory, /jobs, counters) when the tables are empty; a change of
 * format is refused with -E_VERSION. */
int fsm_init(struct kv_txn *txn);
/* Applies one command inside an open write transaction and records its index. Commands at or below
 * the recorded index are skipped with result->err = 0 and no reply. A kept reply (same session and
 * seq) is answered again without a change. Returns 0, or a negative code only for failures of the
 * tables themselves (disk full, memory): then the transaction must be aborted and nothing happened. */
int fsm_apply(struct kv_txn *txn, const struct fsm_command *command, struct fsm_result *ret);
int fsm_applied_index(struct kv_txn *txn, uint64_t *ret_index);

/* Answers a query (OP_LOOKUP … OP_TASK_LIST) from a read or write transaction. Work and reply size are bounded. */
int fsm_query(struct kv_txn *txn, unsigned op, const uint8_t *body, size_t body_len,
              struct fsm_result *ret);

/* For the leader's background fibers. */
/* Up to `max` sessions that live (not the fenced ones) into ids/timeouts. */
int fsm_sessions(struct kv_txn *txn, uint64_t after, uint64_t *ids, uint32_t *timeouts_ms, size_t max, size_t *ret_n);
/* Packed tarn.NodeBeatReply with the tasks of a node (at most max). */
int fsm_node_tasks(struct kv_txn *txn, uint32_t node, size_t max, uint8_t **ret_reply, size_t *ret_len);
/* True when background work is due that needs a command: orphans to collect, chunks to re-protect.
 * The leader then proposes an OP_CHUNK_TASKS_DONE with node 0, whose apply does a bounded step. */
int fsm_work_due(struct kv_txn *txn, uint64_t real_ns, bool *ret_due);

#endif
