/* See server.h. Requests and the table of operations; sessions are server_session.c, nodes
 * server_node.c. */
#include "server_impl.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include <stdio.h>

/* ------------------------------------------------------------------ own proposals, pauses */
int server_propose(struct server *server, unsigned op, const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    _cleanup_free_ uint8_t *body = malloc(len > 0 ? len : 1);
    if (body == NULL)
        return -E_NOMEM;
    protobuf_c_message_pack(message, body);
    struct fsm_result result = {0};
    int err = replica_propose(server->replica, op, body, len, &result);
    if (err == 0)
        err = result.err;
    fsm_result_fini(&result);
    return err;
}

int server_pause(struct server *server, uint64_t ms)
{
    if (server->stopping)
        return -E_CANCELED;
    int err = fiber_queue_wait(&server->stop_wake, ms);
    return server->stopping ? -E_CANCELED : err;
}

/* ------------------------------------------------------------------ requests */
/* The session in a packed message that begins with its context; 0 = none. What is only passed on to the
 * state machine is unpacked there and not here as well: a batch is a thousand messages. */
static uint64_t packed_session(const uint8_t *control, size_t n)
{
    const uint8_t tag = 1 << 3 | 2; /* field 1, bytes */
    size_t at = 1, len = 0;
    for (unsigned shift = 0; at < n && shift < 28; shift += 7) {
        len |= (size_t)(control[at] & 0x7f) << shift;
        if (control[at++] < 0x80)
            break;
    }
    if (n == 0 || control[0] != tag || len > n - at)
        return 0;
    Tarn__Ctx *ctx = tarn__ctx__unpack(NULL, len, control + at);
    uint64_t session = ctx == NULL ? 0 : ctx->session;
    if (ctx != NULL)
        tarn__ctx__free_unpacked(ctx, NULL);
    return session;
}

/* Every message of a client carries its context in a field of this name. */
static const Tarn__Ctx *ctx_of(const ProtobufCMessage *message)
{
    if (message == NULL)
        return NULL;
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(message->descriptor, "ctx");
    if (field == NULL || field->type != PROTOBUF_C_TYPE_MESSAGE)
        return NULL;
    const Tarn__Ctx *ctx;
    memcpy(&ctx, (const char *)message + field->offset, sizeof ctx);
    return ctx;
}

void server_heard(struct server *server, struct rpc_request *request, const void *message)
{
    const Tarn__Ctx *ctx = ctx_of(message);
    uint64_t session = ctx != NULL      ? ctx->session
                       : message == NULL ? packed_session(request->control, request->control_len)
                                         : 0;
    if (session != 0)
        server_session_heard(server, session, request->conn);
}

int server_heard_query(struct server *server, struct rpc_request *request, const void *message)
{
    const Tarn__Ctx *ctx = ctx_of(message);
    if (ctx == NULL || ctx->session == 0)
        return 0;
    server_session_heard(server, ctx->session, request->conn);
    return server_session_lives(server, ctx->session);
}

int server_refuse(struct server *server, struct rpc_request *request, int err, const char *detail)
{
    const char *leader = err == -E_NOT_LEADER ? replica_leader_address(server->replica) : NULL;
    return rpc_reply_error(request, err, leader, detail);
}

int server_reply_result(struct server *server, struct rpc_request *request,
                        const struct fsm_result *result)
{
    if (result->err != 0)
        return server_refuse(server, request, result->err, result->detail);
    return rpc_reply_packed(request, result->reply, result->reply_len);
}

/* A right in the way (E7): it is asked back, then the change is tried again. */
int server_change(struct server *server, struct rpc_request *request, const void *message,
                  struct fsm_result *result)
{
    const Tarn__Ctx *ctx = ctx_of(message);
    server_heard(server, request, message);
    struct lease_wait wait = {0};
    for (;;) {
        struct lease_hold hold;
        wait.round = server->rights_round;
        int err = server_lease_clear(server, request->op, message, ctx == NULL ? 0 : ctx->session, &hold);
        if (err == 0)
            err = replica_propose(server->replica, request->op, request->control, request->control_len,
                                  result);
        server_lease_done(server, &hold);
        if (err != 0 || result->n_recalls == 0)
            return err == 0 ? server_lease_settle(server) : err;
        err = server_lease_ask_back(server, result, &wait);
        if (err != 0)
            return err;
        fsm_result_fini(result);
    }
}

static int handle_change(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    struct fsm_result result = {0};
    int err = server_change(server, request, message, &result);
    err = err != 0 ? server_refuse(server, request, err, "") : server_reply_result(server, request, &result);
    fsm_result_fini(&result);
    return err;
}

/* The new session's pushes go to the connection that opened it. */
static int handle_session_open(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    struct fsm_result result = {0};
    int err = server_change(server, request, message, &result);
    if (err == 0 && result.err == 0) {
        Tarn__SessionOpenReply *reply =
            tarn__session_open_reply__unpack(NULL, result.reply_len, result.reply);
        if (reply != NULL) {
            server_session_heard(server, reply->session, request->conn);
            tarn__session_open_reply__free_unpacked(reply, NULL);
        }
    }
    err = err != 0 ? server_refuse(server, request, err, "") : server_reply_result(server, request, &result);
    fsm_result_fini(&result);
    return err;
}

static int handle_session_end(void *ctx, struct rpc_request *request, const void *message)
{
    const Tarn__SessionEnd *end = message;
    if (end->expired)
        return server_refuse(ctx, request, -E_PERM, "only the service itself expires sessions");
    if (end->stage != TARN__END_STAGE__END_WHOLE)
        return server_refuse(ctx, request, -E_PERM, "only the service itself ends sessions in stages");
    if (end->ctx != NULL && end->session != 0 && end->session != end->ctx->session)
        return server_refuse(ctx, request, -E_PERM, "a session ends only itself");
    return handle_change(ctx, request, message);
}

static int handle_internal(void *ctx, struct rpc_request *request, const void *message)
{
    return server_refuse(ctx, request, -E_PERM, "only the service itself asks for this");
}

int server_query(struct server *server, unsigned op, const uint8_t *body, size_t len, const void *message,
                 struct fsm_result *result)
{
    struct lease_wait wait = {0};
    for (;;) {
        struct kv_txn *txn;
        wait.round = server->rights_round;
        int err = replica_read(server->replica, &txn);
        if (err != 0)
            return err;
        err = fsm_query(txn, op, body, len, result);
        if (err == 0 && result->err == 0 && result->n_recalls == 0)
            err = server_lease_append(server, txn, op, message, result);
        kv_abort(txn);
        if (result->slot_family != 0) { /* the clone's number is made, then the query has it */
            err = server_clone_slot(server, result);
            if (err != 0)
                return err;
            continue;
        }
        if (err != 0 || result->n_recalls == 0)
            return err == 0 ? server_lease_settle(server) : err;
        err = server_lease_ask_back(server, result, &wait);
        if (err != 0)
            return err;
        fsm_result_fini(result);
    }
}

static int query(struct server *server, struct rpc_request *request, const void *message,
                 struct fsm_result *result)
{
    int err = server_heard_query(server, request, message);
    if (err != 0)
        return err;
    return server_query(server, request->op, request->control, request->control_len, message, result);
}

static int handle_query(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    struct fsm_result result = {0};
    int err = query(server, request, message, &result);
    err = err != 0 ? server_refuse(server, request, err, "") : server_reply_result(server, request, &result);
    fsm_result_fini(&result);
    return err;
}

#define REPLICAS_MAX 8

static int reply_status(struct server *server, struct rpc_request *request,
                        const struct fsm_result *result)
{
    Tarn__StatusReply *from = tarn__status_reply__unpack(NULL, result->reply_len, result->reply);
    if (from == NULL)
        return -E_CORRUPT;
    Tarn__StatusReply reply = *from;
    uint32_t ids[REPLICAS_MAX];
    uint64_t match[REPLICAS_MAX];
    bool reachable[REPLICAS_MAX];
    Tarn__MetaReplica replicas[REPLICAS_MAX], *list[REPLICAS_MAX];
    unsigned n = replica_describe(server->replica, ids, match, reachable, REPLICAS_MAX);
    reply.leader = replica_leader_id(server->replica);
    for (unsigned i = 0; i < n; i++) {
        tarn__meta_replica__init(&replicas[i]);
        replicas[i].id = ids[i];
        replicas[i].address = (char *)(uintptr_t)replica_address(server->replica, ids[i]);
        replicas[i].leader = ids[i] == reply.leader;
        replicas[i].reachable = reachable[i];
        replicas[i].match = match[i];
        list[i] = &replicas[i];
    }
    reply.replicas = list;
    reply.n_replicas = n;
    reply.term = replica_term(server->replica);
    reply.applied = replica_applied(server->replica);
    int err = rpc_reply(request, &reply.base);
    tarn__status_reply__free_unpacked(from, NULL);
    return err;
}

/* The tables learn of a node's fill when it changes noticeably; the last beat knows better. */
static int reply_nodes(struct server *server, struct rpc_request *request, const struct fsm_result *result)
{
    Tarn__NodeListReply *reply = tarn__node_list_reply__unpack(NULL, result->reply_len, result->reply);
    if (reply == NULL)
        return -E_CORRUPT;
    for (size_t i = 0; i < reply->n_nodes; i++) {
        Tarn__Node *node = reply->nodes[i];
        const struct live_node *live = map_get(&server->nodes, node->id);
        if (live == NULL || live->heard_ms == 0 || live->last_total == 0)
            continue;
        node->total = live->last_total;
        node->free = live->last_free;
        node->chunks = live->last_chunks;
        node->seen_ms = io_mono_ms(server->io) - live->heard_ms;
    }
    int err = rpc_reply(request, &reply->base);
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return err;
}

static int handle_node_list(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    struct fsm_result result = {0};
    int err = query(server, request, message, &result);
    err = err != 0 ? server_refuse(server, request, err, "") : reply_nodes(server, request, &result);
    fsm_result_fini(&result);
    return err;
}

static int handle_status(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    struct fsm_result result = {0};
    int err = query(server, request, message, &result);
    if (err == 0)
        err = result.err;
    err = err != 0 ? server_refuse(server, request, err, result.detail)
                   : reply_status(server, request, &result);
    fsm_result_fini(&result);
    return err;
}

static int handle_raft(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    return replica_handle_raft(server->replica, request, message);
}

static int handle_pull(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    return replica_handle_snapshot_pull(server->replica, request, message);
}

#define CHANGE(OP, type) {OP_##OP, #OP, &tarn__##type##__descriptor, handle_change}
#define QUERY(OP, type) {OP_##OP, #OP, &tarn__##type##__descriptor, handle_query}
#define OTHER(OP, type, fn) {OP_##OP, #OP, &tarn__##type##__descriptor, fn}

static const struct rpc_op ops[] = {
    OTHER(SESSION_OPEN, session_open, handle_session_open),
    OTHER(SESSION_END, session_end, handle_session_end),
    CHANGE(CREATE, create),
    CHANGE(UNLINK, unlink),
    CHANGE(RENAME, rename),
    CHANGE(LINK, link),
    {OP_BATCH, "OP_BATCH", NULL, handle_change},
    CHANGE(SETATTR, set_attr),
    CHANGE(SETXATTR, set_xattr),
    CHANGE(OPEN, open),
    CHANGE(CLOSE, close),
    CHANGE(CHUNK_WRITE, chunk_write),
    CHANGE(CHUNK_SWAP, chunk_swap),
    CHANGE(UPLOAD_CHUNK, upload_chunk),
    CHANGE(UPLOAD_GROUP, upload_group),
    CHANGE(UPLOAD_ABORT, upload_abort),
    CHANGE(OBJECT_COMMIT, object_commit),
    CHANGE(CHUNK_FAILED, chunk_failed),
    CHANGE(LEASE_RETURN, lease_return),
    OTHER(LEASE_RECALL, lease_recall, handle_internal),
    OTHER(LEASE_ASK, lease_ask, server_handle_lease_ask),
    OTHER(LEASE_GIVE_BACK, lease_give_back, server_handle_lease_give_back),
    CHANGE(LOCK, lock),
    CHANGE(LOCK_CANCEL, lock_cancel),
    CHANGE(LOCK_DROP, lock_drop),
    CHANGE(ROLE_CLAIM, role_claim),
    CHANGE(NODE_JOIN, node_join),
    OTHER(NODE_SET, node_set, handle_internal),
    OTHER(CHUNK_TASKS_DONE, chunk_tasks_done, handle_internal),
    CHANGE(NODE_INVENTORY, node_inventory),
    CHANGE(POLICY_SET, policy_set),
    CHANGE(NODE_DRAIN, node_drain),
    CHANGE(TOPOLOGY_SET, topology_set),
    CHANGE(USER_PUT, user_put),
    CHANGE(QUOTA_SET, quota_set),
    CHANGE(JOB_CREATE, job_create),
    CHANGE(JOB_INPUTS, job_inputs),
    CHANGE(JOB_CANCEL, job_cancel),
    CHANGE(JOB_FINISH, job_finish),
    CHANGE(JOB_PLAN, job_plan),
    CHANGE(TASK_START, task_start),
    CHANGE(TASK_COMMIT, task_commit),
    OTHER(SNAPSHOT_TAKE, snapshot_take, server_handle_snapshot_take),
    CHANGE(SNAPSHOT_DROP, snapshot_drop),
    CHANGE(CLONE, clone),
    OTHER(CLONE_SLOT, clone_slot, handle_internal),
    QUERY(SNAPSHOT_LIST, snapshot_list),
    QUERY(LOOKUP, lookup),
    QUERY(LOOKUPS, lookups),
    QUERY(ACCESS, access),
    OTHER(READDIR, read_dir, server_handle_stream),
    QUERY(GETXATTR, get_xattr),
    QUERY(STATFS, stat_fs),
    QUERY(QUOTA_GET, quota_get),
    QUERY(LIST_OBJECTS, list_objects),
    QUERY(FILE_MAP, file_map),
    OTHER(LOCATIONS, locations, server_handle_stream),
    QUERY(GETLK, get_lock),
    QUERY(ROLE_GET, role_get),
    OTHER(NODE_LIST, node_list, handle_node_list),
    OTHER(STATUS, status, handle_status),
    QUERY(POLICY_GET, policy_get),
    QUERY(HEAL_STATUS, heal_status),
    QUERY(GROUP_GET, group_get),
    QUERY(USER_GET, user_get),
    QUERY(JOB_GET, job_get),
    QUERY(JOB_LIST, job_list),
    QUERY(JOB_INPUT_LIST, job_input_list),
    QUERY(TASK_LIST, task_list),
    OTHER(SESSION_PING, session_ping, server_handle_ping),
    OTHER(NODE_BEAT, node_beat, server_handle_beat),
    OTHER(WATCH, watch, server_handle_watch),
    OTHER(RAFT, raft_message, handle_raft),
    OTHER(SNAPSHOT_PULL, snapshot_pull, handle_pull),
    OTHER(META_STATUS, meta_status, server_handle_meta_status),
    OTHER(META_MEMBER, meta_member_change, server_handle_meta_member),
    OTHER(META_TRANSFER, meta_transfer, server_handle_meta_transfer),
    OTHER(META_SNAPSHOT, meta_snapshot, server_handle_meta_snapshot),
};

/* ------------------------------------------------------------------ the replica's news */
static void on_result(void *arg, const struct fsm_result *result)
{
    struct server *server = arg;
    for (size_t i = 0; i < result->n_pushes; i++)
        server_push(server, &result->pushes[i]);
    server_lease_applied(server, result);
    server->nodes_stale = server->nodes_stale || result->nodes_changed;
    if (result->ended_session != 0)
        server_session_ended(server, result->ended_session);
    if (result->tasks_changed || result->nodes_changed || result->fences_changed)
        fiber_queue_wake_all(&server->tasks_wake);
    if (result->nodes_changed || result->fences_changed)
        fiber_queue_wake_all(&server->fence_wake);
}

static void on_leader(void *arg, bool leads)
{
    struct server *server = arg;
    server_lease_leader(server, leads);
    server_sessions_forget(server);
    server_nodes_forget(server);
    server->fence_settled = 0;
    fiber_queue_wake_all(&server->tasks_wake);
    fiber_queue_wake_all(&server->fence_wake);
}

/* ------------------------------------------------------------------ life */
static void conn_closed(void *ctx, struct rpc_conn *conn)
{
    server_conn_closed(ctx, conn);
}

static int spawn(struct server *server, const char *name, fiber_fn fn)
{
    fiber_group_add(&server->fibers);
    int err = fiber_spawn(server->io, name, fn, server);
    if (err != 0)
        fiber_group_done(&server->fibers);
    return err;
}

static void on_end(void *arg, int err)
{
    struct server *server = arg;
    if (server->on_end != NULL)
        server->on_end(server->end_arg, err);
}

static int serve(struct server *server, struct io_listener **listener,
                 const struct server_options *options)
{
    struct replica_options replica = options->replica;
    replica.on_result = on_result;
    replica.on_leader = on_leader;
    replica.on_end = on_end;
    server->on_end = options->on_end;
    server->end_arg = options->end_arg;
    replica.arg = server;
    int err = replica_start(server->io, &replica, &server->replica);
    if (err != 0)
        return err;
    server->service = (struct rpc_service){
        .ops = ops, .n_ops = ARRAY_SIZE(ops), .ctx = server, .closed = conn_closed};
    err = rpc_server_start(server->io, *listener, options->replica.auth, &server->service,
                           &server->rpc);
    if (err != 0)
        return err;
    *listener = NULL;
    err = spawn(server, "sessions", session_fiber);
    if (err == 0)
        err = spawn(server, "nodes", node_fiber);
    if (err == 0)
        err = spawn(server, "fences", fence_fiber);
    if (err == 0)
        err = spawn(server, "racks", topology_fiber);
    return err == 0 ? spawn(server, "work", work_fiber) : err;
}

int server_start(struct io *io, const struct server_options *options, struct server **ret)
{
    struct server *server = calloc(1, sizeof *server);
    if (server == NULL)
        return -E_NOMEM;
    server->io = io;
    server->nodes_stale = true;
    server->topology = options->topology;
    lease_table_init(&server->leases);
    if (options->leases_max != 0)
        server->leases.total_max = options->leases_max;
    if (options->leases_session_max != 0)
        server->leases.session_max = options->leases_session_max;
    struct io_listener *listener = NULL;
    int err = io_listen(io, options->listen, &listener);
    if (err == 0) {
        snprintf(server->address, sizeof server->address, "%s", io_listener_address(listener));
        err = serve(server, &listener, options);
    }
    io_listener_close(listener);
    if (err != 0) {
        server_stop(server);
        return err;
    }
    *ret = server;
    return 0;
}

const char *server_address(const struct server *server)
{
    return server->address;
}

struct replica *server_replica(struct server *server)
{
    return server->replica;
}

uint64_t server_requests(const struct server *server, unsigned op)
{
    return rpc_server_requests(server->rpc, op);
}

void server_stop(struct server *server)
{
    if (server == NULL)
        return;
    server->stopping = true;
    fiber_queue_wake_all(&server->stop_wake);
    fiber_queue_wake_all(&server->tasks_wake);
    fiber_queue_wake_all(&server->fence_wake);
    fiber_queue_wake_all(&server->lease_wake);
    fiber_queue_wake_all(&server->recall_wake);
    if (server->replica != NULL)
        replica_quiesce(server->replica);
    if (server->fibers.running > 0)
        fiber_group_wait(&server->fibers);
    if (server->rpc != NULL)
        rpc_server_stop(server->rpc);
    replica_stop(server->replica);
    server_sessions_forget(server);
    server_nodes_forget(server);
    lease_table_fini(&server->leases);
    map_fini(&server->sessions);
    map_fini(&server->nodes);
    free(server);
}
