/* What the files of the server share (server*.c only). */
#ifndef TARN_METADATA_SERVER_IMPL_H
#define TARN_METADATA_SERVER_IMPL_H

#include "server.h"
#include "common/coll.h"
#include "common/fiber.h"
#include "fence.h"
#include "meta.pb-c.h"
#include "ops.h"
#include "lease.h"
#include "lease_touch.h"

#define NODE_SILENT_MS 5000      /* without a beat for so long a node is down */
#define NODE_BEAT_MS 1000        /* how often nodes beat, and how long a beat waits for tasks */
#define NODE_FILL_PAUSE_MS 3000  /* between two records of how full a node is */
#define NODE_TASKS_MAX 64        /* per beat */
#define SESSION_CHECK_MS 500
#define FENCE_CHECK_MS 500 /* beats and changes wake it before */
#define WORK_CHECK_MS 500
#define WATCHERS_MAX 1024
#define UNSETTLED_MAX 1024

/* A session as the leader hears it. */
struct live_session {
    uint64_t heard_ms;
    uint64_t round; /* of the scan that last found it in the tables */
    struct rpc_conn *conn; /* where its pushes go; NULL = none now */
    bool lives; /* the tables have it, not fenced, since this replica leads */
};

/* A node as the leader hears it. */
struct live_node {
    uint32_t id;
    bool known, up; /* as the tables have it */
    uint64_t epoch, total, free, chunks; /* as the tables have them */
    uint64_t last_total, last_free, last_chunks; /* as the last beat said */
    uint64_t heard_ms, filled_ms;
    uint32_t queue; /* as the tables have it */
    uint64_t disks_up;   /* a number made of the ids of those that the tables have as up */
    uint64_t disks_fill; /* and one of how full they were when it was last recorded, in steps */
    uint32_t given_crc; /* of the tasks it was last given */
    uint64_t fence_ordered, fence_closed; /* as its beats said to this leader */
};

struct server {
    struct io *io;
    struct replica *replica;
    struct rpc_server *rpc;
    struct rpc_service service;
    char address[128];
    bool stopping;
    void (*on_end)(void *arg, int err);
    void *end_arg;
    struct fiber_group fibers;
    struct fiber_queue stop_wake;

    struct lease_table leases;
    uint64_t lease_epoch;        /* of the leadership that gives them: another each time, never 0 */
    uint64_t lease_asked_ms;     /* when a lease was last asked for; 0 = never */
    unsigned untracked;          /* changes under way that nobody looked at: no lease meanwhile */
    struct fiber_queue lease_wake, recall_wake; /* read leases came back; rights of the tables came back */
    struct unsettled {
        uint64_t ino, session;
    } unsettled[UNSETTLED_MAX];  /* changed, while others may still use what was before */
    unsigned n_unsettled;
    uint64_t rights_round; /* grows when rights of the tables come back */
    uint64_t unsettled_until_ms; /* for what has no place in the list */
    struct map sessions; /* id → struct live_session */
    uint64_t session_round;
    struct map nodes; /* id → struct live_node */
    struct topology topology;
    bool racks_wanted; /* some node has none */
    bool nodes_stale; /* the tables changed since they were read */
    struct fiber_queue tasks_wake;
    struct fiber_queue leader_wake;
    struct fiber_queue fence_wake;
    size_t fences_open;     /* not released, as last seen */
    uint64_t fence_settled; /* no node that is up orders writes of sessions fenced up to here */
    struct rpc_conn *watchers[WATCHERS_MAX];
    unsigned n_watchers;
};

/* ---- server.c ---- */
/* Proposes a message of the leader's own. */
int server_propose(struct server *server, unsigned op, const ProtobufCMessage *message);
/* Waits, but not while stopping; -E_CANCELED then. */
int server_pause(struct server *server, uint64_t ms);
/* Every request of a client is a sign of life of its session. */
void server_heard(struct server *server, struct rpc_request *request, const void *message);
/* The same of a query, which the state machine does not check: -E_NO_SESSION when its session is fenced or gone (X1). */
int server_heard_query(struct server *server, struct rpc_request *request, const void *message);
/* Answers; both return what a handler returns. */
int server_refuse(struct server *server, struct rpc_request *request, int err, const char *detail);
int server_reply_result(struct server *server, struct rpc_request *request, const struct fsm_result *result);
/* Proposes a client's change and waits for its result; leases that stand in the way are waited for first. */
int server_change(struct server *server, struct rpc_request *request, const void *message, struct fsm_result *result);
/* ---- server_snapshot.c ---- */
/* Makes the number of a clone that the query asked for; frees the result. */
int server_clone_slot(struct server *server, struct fsm_result *result);
/* SNAPSHOT_TAKE: answered when no write can get into the snapshot any more. */
int server_handle_snapshot_take(void *ctx, struct rpc_request *request, const void *message);
/* ---- server_stream.c ---- */
int server_handle_stream(void *ctx, struct rpc_request *request, const void *message); /* READDIR, LOCATIONS */
/* A query of the state machine, with the read lease that was asked for along with it. */
int server_query(struct server *server, unsigned op, const uint8_t *body, size_t len, const void *message,
                 struct fsm_result *result);
/* ---- server_lease.c ---- */
/* What a change keeps while it is under way: no lease comes into being on these inodes. */
struct lease_hold {
    uint64_t epoch;
    bool untracked;
    struct lease_touch touch;
};
void server_lease_leader(struct server *server, bool leads); /* gained or lost */
/* Waits until no other session has a read lease on what the change will touch; at most a term. */
int server_lease_clear(struct server *server, unsigned op, const void *message, uint64_t session,
                       struct lease_hold *hold);
void server_lease_done(struct server *server, struct lease_hold *hold);
/* From the apply of each command. Does not wait. */
void server_lease_applied(struct server *server, const struct fsm_result *result);
/* Before any answer that shows the tables or says that a change is done. */
int server_lease_settle(struct server *server);
/* Asks for the rights that stood in the way and waits. 0: try again. -E_BUSY: it lasts, the requester shall come
 * again. `round` is taken before each try, until_ms is 0 at first. */
struct lease_wait {
    uint64_t until_ms, round;
};
int server_lease_ask_back(struct server *server, const struct fsm_result *result, struct lease_wait *wait);
/* Adds the lease the query asked for to its reply. */
int server_lease_append(struct server *server, struct kv_txn *txn, unsigned op, const void *message,
                        struct fsm_result *result);
int server_lease_ping(struct server *server, struct rpc_request *request, struct kv_txn *txn, uint64_t session);
int server_handle_lease_ask(void *ctx, struct rpc_request *request, const void *message);
int server_handle_lease_give_back(void *ctx, struct rpc_request *request, const void *message);
/* ---- server_session.c ---- */
/* -E_NO_SESSION, or a read transaction. */
int server_session_look(struct server *server, uint64_t session, struct kv_txn **ret_txn);
void server_session_heard(struct server *server, uint64_t session, struct rpc_conn *conn);
int server_handle_ping(void *ctx, struct rpc_request *request, const void *message);
int server_handle_watch(void *ctx, struct rpc_request *request, const void *message);
void server_push(struct server *server, const struct fsm_push *push);
void server_conn_closed(struct server *server, struct rpc_conn *conn);
void server_sessions_forget(struct server *server); /* a new leader gives everybody a full timeout */
/* May the session ask: -E_NO_SESSION when it is fenced or gone. */
int server_session_lives(struct server *server, uint64_t session);
void server_session_ended(struct server *server, uint64_t session);
void session_fiber(void *arg);
/* ---- server_fence.c ---- */
/* Ends a session that did not ask for it: returns when it is fenced, the release follows by itself. `why` is said in the
 * log: "has fallen silent". -E_BUSY: FENCES_MAX are under way. Not known any more is success. */
int server_session_evict(struct server *server, uint64_t session, const char *why);
void server_fence_heard(struct server *server, struct live_node *node, const Tarn__NodeBeat *beat);
/* Is there something that the store must be told now? */
bool server_fence_news(const struct server *server, const Tarn__NodeBeat *beat, const struct fence_news *news);
int server_fence_answer(const struct server *server, const struct fence_news *news, Tarn__NodeBeatReply *reply);
void fence_fiber(void *arg);
/* ---- server_node.c ---- */
int server_handle_beat(void *ctx, struct rpc_request *request, const void *message);
void server_nodes_forget(struct server *server);
int server_nodes_refresh(struct server *server); /* what the tables say about nodes, when it changed */
void node_fiber(void *arg);
void work_fiber(void *arg);
/* ---- server_topology.c ---- */
void topology_fiber(void *arg);

/* ---- server_member.c ---- */
int server_handle_meta_status(void *ctx, struct rpc_request *request, const void *message);
int server_handle_meta_member(void *ctx, struct rpc_request *request, const void *message);
int server_handle_meta_transfer(void *ctx, struct rpc_request *request, const void *message);
int server_handle_meta_snapshot(void *ctx, struct rpc_request *request, const void *message);

#endif
