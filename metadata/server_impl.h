/* What the files of the server share (server*.c only). */
#ifndef TARN_METADATA_SERVER_IMPL_H
#define TARN_METADATA_SERVER_IMPL_H

#include "server.h"
#include "common/coll.h"
#include "common/fiber.h"
#include "fence.h"
#include "meta.pb-c.h"
#include "ops.h"
#include "read_lease.h"

#define NODE_SILENT_MS 5000      /* without a beat for so long a node is down */
#define NODE_BEAT_MS 1000        /* how often nodes beat, and how long a beat waits for tasks */
#define NODE_FILL_PAUSE_MS 3000  /* between two records of how full a node is */
#define NODE_TASKS_MAX 64        /* per beat */
#define SESSION_CHECK_MS 500
#define FENCE_CHECK_MS 500 /* beats and changes wake it before */
#define WORK_CHECK_MS 500
#define WATCHERS_MAX 1024

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
    struct fiber_group fibers;
    struct fiber_queue stop_wake;

    struct read_leases leases;
    struct map sessions; /* id → struct live_session */
    uint64_t session_round;
    struct map nodes; /* id → struct live_node */
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
/* The same of a query, which the state machine does not check: -E_NO_SESSION when its session is fenced or gone (F1). */
int server_heard_query(struct server *server, struct rpc_request *request, const void *message);
/* Answers; both return what a handler returns. */
int server_refuse(struct server *server, struct rpc_request *request, int err, const char *detail);
int server_reply_result(struct server *server, struct rpc_request *request, const struct fsm_result *result);
/* ---- server_stream.c ---- */
int server_handle_stream(void *ctx, struct rpc_request *request, const void *message); /* READDIR, LOCATIONS */
/* ---- server_session.c ---- */
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

#endif
