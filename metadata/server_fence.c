/* Ending sessions that did not ask for it (X1-X5 in docs/invariants.md). Only the leader; what stores have answered is in its
 * memory, a new leader learns it from their beats.
 *
 *   lives ──server_session_evict──> fenced: beats are answered at once with the number
 *         ──every node that is up has answered "ordered"──> settled: beats are answered at once again
 *         ──every node that is up has answered "closed"──> released: locks, handles, uploads go on to others
 *
 * A node that is down has stopped making changes by itself before it was declared so (X4). */
#include "server_impl.h"
#include "common/err.h"
#include "common/log.h"

#include <inttypes.h>

static int end(struct server *server, uint64_t session, Tarn__EndStage stage)
{
    Tarn__SessionEnd message = TARN__SESSION_END__INIT;
    message.session = session;
    message.expired = true;
    message.stage = stage;
    return server_propose(server, OP_SESSION_END, &message.base);
}

int server_session_evict(struct server *server, uint64_t session, const char *why)
{
    if (server->fences_open >= FENCES_MAX)
        return -E_BUSY;
    log_info("session %" PRIu64 " %s: fenced", session, why);
    return end(server, session, TARN__END_STAGE__END_FENCE);
}

void server_fence_heard(struct server *server, struct live_node *node, const Tarn__NodeBeat *beat)
{
    node->fence_ordered = MAX(node->fence_ordered, beat->fence_ordered);
    node->fence_closed = MAX(node->fence_closed, beat->fence_closed);
    if (server->fences_open > 0)
        fiber_queue_wake_all(&server->fence_wake);
}

bool server_fence_news(const struct server *server, const Tarn__NodeBeat *beat, const struct fence_news *news)
{
    return news->whole || news->last > beat->fence_applied ||
           (server->fences_open > 0 && server->fence_settled > beat->fence_settled);
}

/* The reply owns copies: it is freed as a whole. */
int server_fence_answer(const struct server *server, const struct fence_news *news, Tarn__NodeBeatReply *reply)
{
    reply->fence_last = news->last;
    reply->fence_settled = server->fence_settled;
    reply->oldest_session = news->oldest;
    reply->fences = calloc(news->n + 1, sizeof *reply->fences);
    if (reply->fences == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < news->n; i++) {
        Tarn__Fence *fence = reply->fences[i] = malloc(sizeof *fence);
        if (fence == NULL)
            return -E_NOMEM;
        *fence = news->fences[i];
        reply->n_fences++;
    }
    if (!news->whole)
        return 0;
    reply->sessions = malloc(sizeof *reply->sessions);
    if (reply->sessions == NULL)
        return -E_NOMEM;
    *reply->sessions = news->set;
    reply->sessions->steps = calloc(news->set.n_steps + 1, sizeof(uint64_t));
    if (reply->sessions->steps == NULL) {
        reply->sessions->n_steps = 0;
        return -E_NOMEM;
    }
    memcpy(reply->sessions->steps, news->steps, news->set.n_steps * sizeof(uint64_t));
    return 0;
}

static int pending_read(struct server *server, struct fence_news *ret)
{
    struct kv_txn *txn;
    int err = replica_read(server->replica, &txn);
    if (err != 0)
        return err;
    err = fence_list_txn(txn, ret);
    kv_abort(txn);
    return err;
}

/* How far all nodes that are up have come. */
static void nodes_reached(struct server *server, uint64_t *ret_ordered, uint64_t *ret_closed)
{
    size_t at = 0;
    uint64_t id;
    void *value;
    *ret_ordered = *ret_closed = UINT64_MAX;
    while (map_next(&server->nodes, &at, &id, &value)) {
        const struct live_node *node = value;
        if (!node->known || !node->up)
            continue;
        *ret_ordered = MIN(*ret_ordered, node->fence_ordered);
        *ret_closed = MIN(*ret_closed, node->fence_closed);
    }
}

static int step(struct server *server)
{
    _cleanup_(fence_news_fini) struct fence_news pending = {0};
    uint64_t ordered, closed;
    int err = pending_read(server, &pending);
    if (err == 0)
        err = server_nodes_refresh(server); /* after it: who joined in between was told the fences */
    if (err != 0)
        return err;
    server->fences_open = pending.n;
    nodes_reached(server, &ordered, &closed);
    ordered = MIN(ordered, pending.last);
    if (ordered > server->fence_settled) {
        server->fence_settled = ordered;
        fiber_queue_wake_all(&server->tasks_wake);
    }
    for (size_t i = 0; i < pending.n && err == 0; i++)
        if (pending.fences[i].number <= closed) {
            log_info("session %" PRIu64 " is released: no store takes its writes any more", pending.fences[i].session);
            err = end(server, pending.fences[i].session, TARN__END_STAGE__END_RELEASE);
        }
    return err;
}

void fence_fiber(void *arg)
{
    struct server *server = arg;
    while (!server->stopping) {
        int err = replica_leads(server->replica) ? step(server) : 0;
        if (err != 0 && err != -E_NOT_LEADER && err != -E_CONN && err != -E_CANCELED && err != -E_UNAVAIL)
            log_warn("cannot release fenced sessions: %s", err_sentence(err));
        if (!server->stopping && fiber_queue_wait(&server->fence_wake, FENCE_CHECK_MS) == -E_CANCELED)
            break;
    }
    fiber_group_done(&server->fibers);
}
