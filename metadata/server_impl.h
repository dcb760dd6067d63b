/* What the files of the server share (server*.c only). */
#ifndef TARN_METADATA_SERVER_IMPL_H
#define TARN_METADATA_SERVER_IMPL_H

#include "server.h"
#include "common/coll.h"
#include "common/fiber.h"
#include "meta.pb-c.h"
#include "ops.h"
#include "read_lease.h"

#define NODE_SILENT_MS 5000      /* without a beat for so long a node is down */
#define NODE_BEAT_MS 1000        /* how often nodes beat, and how long a beat waits for tasks */
#define NODE_FILL_PAUSE_MS 3000  /* between two records of how full a node is */
#define NODE_TASKS_MAX 64        /* per beat */
#define SESSION_CHECK_MS 500
#define WORK_CHECK_MS 500
#define WATCHERS_MAX 1024

/* A session as the leader hears it. */
struct live_session {
    uint64_t heard_ms;
    uint64_t round; /* of the scan that last found it in the tables */
    struct rpc_conn *conn; /* where its pushes go; NULL = none now */
};

/* A node as the leader hears it. */
struct live_node {
    uint32_t id;
    bool known, up; /* as the tables have it */
    uint64_t epoch, total, free, chunks; /* as the tables have them */
    uint64_t last_total, last_free, last_chunks; /* as the last beat said */
    uint64_t heard_ms, filled_ms;
    uint32_t given_crc; /* of the tasks it was last given */
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
void session_fiber(void *arg);
/* ---- server_node.c ---- */
int server_handle_beat(void *ctx, struct rpc_request *request, const void *message);
void server_nodes_forget(struct server *server);
void node_fiber(void *arg);
void work_fiber(void *arg);

#endif
