/* Sessions as the leader hears them: signs of life, expiry, pushes to their connections. */
#include "server_impl.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#define SCAN_PAGE 256
#define SESSIONS_LIVE_MAX 1000000

static struct live_session *session_get(struct server *server, uint64_t id)
{
    struct live_session *live = map_get(&server->sessions, id);
    if (live != NULL || server->sessions.count >= SESSIONS_LIVE_MAX)
        return live;
    live = calloc(1, sizeof *live);
    if (live == NULL)
        return NULL;
    live->heard_ms = io_mono_ms(server->io);
    live->round = server->session_round;
    if (map_put(&server->sessions, id, live) == 0)
        return live;
    free(live);
    return NULL;
}

/* An id nobody opened lives here only until the next scan of the tables. */
void server_session_heard(struct server *server, uint64_t session, struct rpc_conn *conn)
{
    if (session == 0 || !replica_leads(server->replica))
        return;
    struct live_session *live = session_get(server, session);
    if (live == NULL)
        return;
    live->heard_ms = io_mono_ms(server->io);
    if (conn != NULL)
        live->conn = conn;
}

void server_sessions_forget(struct server *server)
{
    size_t at = 0;
    uint64_t id;
    void *live;
    while (map_next(&server->sessions, &at, &id, &live)) {
        map_remove(&server->sessions, id);
        free(live);
    }
}

void server_conn_closed(struct server *server, struct rpc_conn *conn)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    while (map_next(&server->sessions, &at, &id, &value)) {
        struct live_session *live = value;
        if (live->conn == conn)
            live->conn = NULL;
    }
    unsigned kept = 0;
    for (unsigned i = 0; i < server->n_watchers; i++)
        if (server->watchers[i] != conn)
            server->watchers[kept++] = server->watchers[i];
    server->n_watchers = kept;
}

/* ------------------------------------------------------------------ requests */
int server_session_look(struct server *server, uint64_t session, struct kv_txn **ret_txn)
{
    int err = replica_read(server->replica, ret_txn);
    if (err != 0)
        return err;
    uint64_t id = 0;
    uint32_t timeout_ms = 0;
    size_t n = 0;
    err = fsm_sessions(*ret_txn, session - 1, &id, &timeout_ms, 1, &n);
    if (err == 0 && (n == 0 || id != session))
        err = -E_NO_SESSION;
    if (err != 0)
        kv_abort(*ret_txn);
    return err;
}

static int session_exists(struct server *server, uint64_t session)
{
    struct kv_txn *txn;
    int err = server_session_look(server, session, &txn);
    if (err == 0)
        kv_abort(txn);
    return err;
}

int server_session_lives(struct server *server, uint64_t session)
{
    const struct live_session *known = map_get(&server->sessions, session);
    if (known != NULL && known->lives)
        return 0;
    int err = session_exists(server, session);
    struct live_session *live = err == 0 ? session_get(server, session) : NULL;
    if (live != NULL)
        live->lives = true;
    return err;
}

/* Forgotten, so that the next request of it asks the tables. */
void server_session_ended(struct server *server, uint64_t session)
{
    free(map_remove(&server->sessions, session));
}

int server_handle_ping(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    const Tarn__SessionPing *ping = message;
    uint64_t session = ping->ctx != NULL ? ping->ctx->session : 0;
    if (session == 0)
        return -E_INVAL;
    struct kv_txn *txn;
    int err = server_session_look(server, session, &txn);
    if (err == -E_NOT_LEADER)
        return rpc_reply_error(request, err, replica_leader_address(server->replica), "");
    if (err != 0)
        return err;
    server_session_heard(server, session, request->conn);
    err = server_lease_ping(server, request, txn, session);
    kv_abort(txn);
    return err;
}

int server_handle_watch(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    const Tarn__Watch *watch = message;
    if (!replica_leads(server->replica))
        return rpc_reply_error(request, -E_NOT_LEADER, replica_leader_address(server->replica), "");
    unsigned at = 0;
    while (at < server->n_watchers && server->watchers[at] != request->conn)
        at++;
    if (at < server->n_watchers && !watch->jobs)
        server->watchers[at] = server->watchers[--server->n_watchers];
    else if (at == server->n_watchers && watch->jobs) {
        if (at == WATCHERS_MAX)
            return -E_BUSY;
        server->watchers[server->n_watchers++] = request->conn;
    }
    Tarn__Empty empty = TARN__EMPTY__INIT;
    return rpc_reply(request, &empty.base);
}

/* ------------------------------------------------------------------ pushes */
static const ProtobufCMessageDescriptor *push_type(unsigned op)
{
    return op == OP_LOCK_GRANTED  ? &tarn__lock_granted__descriptor
           : op == OP_JOB_CHANGED ? &tarn__job_changed__descriptor
           : op == OP_LEASE_RECALLED ? &tarn__lease_recalled__descriptor
                                  : NULL;
}

/* A push that cannot be delivered is lost: clients ask again after they reconnect. */
void server_push(struct server *server, const struct fsm_push *push)
{
    const ProtobufCMessageDescriptor *type = push_type(push->op);
    CHECK(type != NULL);
    ProtobufCMessage *message =
        protobuf_c_message_unpack(type, NULL, push->control_len, push->control);
    if (message == NULL)
        return;
    if (push->session == 0) {
        for (unsigned i = 0; i < server->n_watchers; i++)
            (void)rpc_push(server->watchers[i], push->op, message);
    } else {
        struct live_session *live = map_get(&server->sessions, push->session);
        if (live != NULL && live->conn != NULL)
            (void)rpc_push(live->conn, push->op, message);
    }
    protobuf_c_message_free_unpacked(message, NULL);
}

/* ------------------------------------------------------------------ expiry */
struct page {
    uint64_t ids[SCAN_PAGE];
    uint32_t timeouts_ms[SCAN_PAGE];
    size_t n;
};

static int page_read(struct server *server, uint64_t after, struct page *page)
{
    struct kv_txn *txn;
    int err = replica_read(server->replica, &txn);
    if (err != 0)
        return err;
    err = fsm_sessions(txn, after, page->ids, page->timeouts_ms, SCAN_PAGE, &page->n);
    kv_abort(txn);
    return err;
}

static int page_check(struct server *server, const struct page *page)
{
    for (size_t i = 0; i < page->n; i++) {
        struct live_session *live = session_get(server, page->ids[i]);
        if (live == NULL)
            return -E_NOMEM;
        live->round = server->session_round;
        uint64_t now = io_mono_ms(server->io), deaf = lease_deaf_since(&server->leases, page->ids[i]);
        bool silent = now - live->heard_ms > page->timeouts_ms[i];
        bool stubborn = deaf != 0 && now > deaf + page->timeouts_ms[i];
        if (!silent && !stubborn)
            continue;
        int err = server_session_evict(server, page->ids[i],
                                       silent ? "has fallen silent"
                                              : "answers pings, but gives nothing back that it was asked for");
        if (err != 0)
            return err;
    }
    return 0;
}

/* Only after a whole scan: what it did not find is in no table. */
static void drop_unknown(struct server *server)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    while (map_next(&server->sessions, &at, &id, &value)) {
        struct live_session *live = value;
        if (live->round == server->session_round)
            continue;
        map_remove(&server->sessions, id);
        free(live);
    }
}

static int scan(struct server *server)
{
    _cleanup_free_ struct page *page = calloc(1, sizeof *page);
    if (page == NULL)
        return -E_NOMEM;
    server->session_round++;
    uint64_t after = 0;
    do {
        int err = page_read(server, after, page);
        if (err == 0)
            err = page_check(server, page);
        if (err != 0)
            return err;
        after = page->n > 0 ? page->ids[page->n - 1] : 0;
    } while (page->n == SCAN_PAGE);
    drop_unknown(server);
    lease_sweep(&server->leases, io_mono_ms(server->io));
    return 0;
}

void session_fiber(void *arg)
{
    struct server *server = arg;
    while (server_pause(server, SESSION_CHECK_MS) != -E_CANCELED) {
        int err = replica_leads(server->replica) ? scan(server) : 0;
        if (err != 0 && err != -E_NOT_LEADER && err != -E_CONN && err != -E_CANCELED &&
            err != -E_UNAVAIL)
            log_warn("cannot look for silent sessions: %s", err_sentence(err));
    }
    fiber_group_done(&server->fibers);
}
