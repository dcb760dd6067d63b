/* The leader's side of leases: the table of read leases, what a change waits for before it goes into the log,
 * and rights of the tables that are asked back (E1-E9 in docs/invariants.md).
 *
 *   change ── touches? ── block, recall, wait ── propose ── applied: touched as forecast? ── answer
 *                                                   │ rights in the way            │ no: nobody is answered
 *                                                   └─ ask back, wait, again       └─ until the leases are over */
#include "server_impl.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "lease_rows.h"
#include "lease_touch.h"

#define TRACK_MS 10000      /* after the last question for a lease changes are looked at so long */
#define ASK_MAX 256         /* inodes in one LEASE_ASK */
#define OWED_MAX 64         /* recalls told in one answer to a ping */
#define RECALL_AGAIN_MS 1000
#define RECALL_WAIT_MS 4000 /* below a client's patience for one try (client/meta.c): then it asks again */

/* ------------------------------------------------------------------ telling */

static void push_item(struct server *server, Tarn__LeaseKind kind, uint64_t session, uint64_t ino, uint64_t number)
{
    struct live_session *live = map_get(&server->sessions, session);
    if (live == NULL || live->conn == NULL)
        return; /* told with the next answer to a ping */
    Tarn__LeaseItem item = TARN__LEASE_ITEM__INIT, *items[] = {&item};
    item.kind = kind;
    item.ino = ino;
    item.number = number;
    Tarn__LeaseRecalled message = TARN__LEASE_RECALLED__INIT;
    message.epoch = server->lease_epoch;
    message.items = items;
    message.n_items = 1;
    (void)rpc_push(live->conn, OP_LEASE_RECALLED, &message.base);
}

static void push_read(void *arg, uint64_t session, uint64_t ino, uint64_t number)
{
    push_item(arg, TARN__LEASE_KIND__LEASE_READ, session, ino, number);
}

/* Nobody can have a lease of the leader before when there is no session. */
static bool sessions_there(struct server *server)
{
    struct kv_txn *txn;
    uint64_t id;
    uint32_t timeout_ms;
    size_t n = 0;
    if (replica_look(server->replica, &txn) != 0)
        return true;
    int err = fsm_sessions(txn, 0, &id, &timeout_ms, 1, &n);
    kv_abort(txn);
    return err != 0 || n > 0;
}

void server_lease_leader(struct server *server, bool leads)
{
    server->lease_epoch = io_random_u64(server->io) | 1; /* a replica alone leads under the same term again */
    server->untracked = 0;
    server->n_unsettled = 0;
    server->unsettled_until_ms = 0;
    lease_table_restart(&server->leases, leads && sessions_there(server), io_mono_ms(server->io));
    fiber_queue_wake_all(&server->lease_wake);
    fiber_queue_wake_all(&server->recall_wake);
}

/* ------------------------------------------------------------------ before a change */

static bool tracking(const struct server *server, uint64_t now_ms)
{
    return server->leases.count > 0 || now_ms < server->leases.grace_until_ms ||
           (server->lease_asked_ms != 0 && now_ms < server->lease_asked_ms + TRACK_MS);
}

static void unblock(struct server *server, struct lease_hold *hold)
{
    if (hold->epoch == server->lease_epoch)
        for (unsigned i = 0; i < hold->touch.n; i++)
            lease_unblock(&server->leases, hold->touch.inos[i]);
    hold->touch.n = 0;
}

/* Looks again: names may have changed while we waited. No lease comes into being on what is found. */
static int block(struct server *server, unsigned op, const void *message, struct lease_hold *hold)
{
    struct lease_touch touch = {0};
    struct kv_txn *txn;
    int err = replica_look(server->replica, &txn);
    if (err != 0)
        return err;
    err = lease_touch_find(txn, op, message, &touch);
    kv_abort(txn);
    unblock(server, hold);
    hold->epoch = server->lease_epoch;
    for (unsigned i = 0; i < touch.n && err == 0; i++) {
        err = lease_block(&server->leases, touch.inos[i]);
        if (err == 0)
            hold->touch.inos[hold->touch.n++] = touch.inos[i];
    }
    return err;
}

static uint64_t recall_all(struct server *server, const struct lease_hold *hold, uint64_t session)
{
    uint64_t now = io_mono_ms(server->io), end = server->leases.grace_until_ms;
    for (unsigned i = 0; i < hold->touch.n; i++)
        end = MAX(end, lease_recall(&server->leases, hold->touch.inos[i], session, now, push_read, server));
    return end;
}

int server_lease_clear(struct server *server, unsigned op, const void *message, uint64_t session, struct lease_hold *hold)
{
    *hold = (struct lease_hold){.epoch = server->lease_epoch};
    uint64_t began = io_mono_ms(server->io);
    if (!lease_touches(op, message))
        return 0;
    if (!tracking(server, began)) {
        hold->untracked = true;
        server->untracked++;
        return 0;
    }
    for (;;) {
        int err = block(server, op, message, hold);
        if (err != 0)
            return err;
        uint64_t now = io_mono_ms(server->io), end = recall_all(server, hold, session);
        if (end <= now || now >= began + LEASE_HOLD_MS)
            return 0;
        err = fiber_queue_wait(&server->lease_wake, end - now);
        if (err == -E_CANCELED || server->stopping)
            return -E_CANCELED;
        if (!replica_leads(server->replica))
            return -E_NOT_LEADER;
    }
}

void server_lease_done(struct server *server, struct lease_hold *hold)
{
    unblock(server, hold);
    if (hold->untracked && hold->epoch == server->lease_epoch && server->untracked > 0)
        server->untracked--;
    hold->untracked = false;
}

/* ------------------------------------------------------------------ after a change */

static void unsettled_add(struct server *server, uint64_t ino, uint64_t session)
{
    uint64_t now = io_mono_ms(server->io), end = lease_end(&server->leases, ino, session, now);
    if (end <= now)
        return;
    if (server->n_unsettled < UNSETTLED_MAX)
        server->unsettled[server->n_unsettled++] = (struct unsettled){ino, session};
    else
        server->unsettled_until_ms = MAX(server->unsettled_until_ms, end);
}

/* Runs as the change is applied, before anybody can look at the tables. Leases of others that the forecast has
 * missed: until they are over nobody is answered, so nobody knows the new state while somebody uses the old. */
void server_lease_applied(struct server *server, const struct fsm_result *result)
{
    uint64_t now = io_mono_ms(server->io), end = 0;
    for (size_t i = 0; i < result->n_touched; i++) {
        uint64_t ino = result->touched[i];
        end = MAX(end, lease_recall(&server->leases, ino, result->session, now, push_read, server));
        lease_recall_own(&server->leases, ino, result->session, now, push_read, server);
    }
    if (result->touched_more)
        end = MAX(end, lease_recall_everything(&server->leases, now, push_read, server));
    if (end > now)
        for (size_t i = 0; i < result->n_touched; i++)
            unsettled_add(server, result->touched[i], result->session);
    if (result->touched_more && end > now)
        server->unsettled_until_ms = MAX(server->unsettled_until_ms, end);
    if (result->rights_returned) {
        server->rights_round++;
        fiber_queue_wake_all(&server->recall_wake);
    }
    if (result->rights_returned && result->session != 0)
        lease_rows_returned(&server->leases, result->session);
}

/* When the last of what is unsettled is over. */
static uint64_t settle(struct server *server, uint64_t now_ms)
{
    uint64_t end = server->unsettled_until_ms;
    unsigned kept = 0;
    for (unsigned i = 0; i < server->n_unsettled; i++) {
        struct unsettled u = server->unsettled[i];
        uint64_t own = lease_end(&server->leases, u.ino, u.session, now_ms);
        if (own <= now_ms)
            continue;
        server->unsettled[kept++] = u;
        end = MAX(end, own);
    }
    server->n_unsettled = kept;
    return end;
}

int server_lease_settle(struct server *server)
{
    while (server->n_unsettled > 0 || server->unsettled_until_ms > 0) {
        uint64_t now = io_mono_ms(server->io), end = settle(server, now);
        if (end <= now) {
            server->unsettled_until_ms = 0;
            return 0;
        }
        int err = fiber_queue_wait(&server->lease_wake, end - now);
        if (err == -E_CANCELED || server->stopping)
            return -E_CANCELED;
    }
    return 0;
}

/* ------------------------------------------------------------------ giving */

/* In the same stretch as the look at the tables: nothing else runs between. */
static int grant(struct server *server, struct kv_txn *txn, uint64_t session, uint64_t ino, uint64_t *ret_number,
                 uint64_t *ret_version)
{
    uint64_t now = io_mono_ms(server->io);
    bool may;
    *ret_number = 0;
    int err = lease_look(txn, session, ino, ret_version, &may);
    server->lease_asked_ms = now;
    if (err == 0 && may && server->untracked == 0)
        *ret_number = lease_grant(&server->leases, session, ino, now, push_read, server);
    return err;
}

/* Which inode the query asked a lease for, and the field of the reply that it goes into; 0 = none. */
static uint64_t asked_for(unsigned op, const void *message)
{
    const Tarn__FileMap *map = message;
    const Tarn__Lookup *lookup = message;
    const Tarn__ReadDir *dir = message;
    const Tarn__Where *where = NULL;
    if (op == OP_FILE_MAP && map->want_lease)
        where = map->where;
    else if (op == OP_LOOKUP && lookup->want_lease && !lookup->want_parent)
        where = lookup->where;
    else if (op == OP_READDIR && dir->want_lease)
        where = dir->where;
    return where == NULL || where->path[0] != 0 ? 0 : where->ino;
}

static uint64_t session_of(unsigned op, const void *message)
{
    const Tarn__Ctx *ctx = op == OP_FILE_MAP ? ((const Tarn__FileMap *)message)->ctx
                           : op == OP_LOOKUP ? ((const Tarn__Lookup *)message)->ctx
                                             : ((const Tarn__ReadDir *)message)->ctx;
    return ctx == NULL ? 0 : ctx->session;
}

/* Packed messages that follow one another are merged by who unpacks them: the lease goes behind the reply. All
 * three replies have it in field 30. */
#define LEASE_TAG_1 0xf2 /* 30 << 3 | 2 (bytes), as a varint */
#define LEASE_TAG_2 0x01

int server_lease_append(struct server *server, struct kv_txn *txn, unsigned op, const void *message,
                        struct fsm_result *result)
{
    uint64_t version, ino = asked_for(op, message), session = ino == 0 ? 0 : session_of(op, message);
    if (session == 0)
        return 0;
    Tarn__LeaseGrant lease = TARN__LEASE_GRANT__INIT;
    lease.epoch = server->lease_epoch;
    lease.ino = ino;
    int err = grant(server, txn, session, ino, &lease.number, &version);
    if (err != 0)
        return err;
    lease.term_ms = lease.number != 0 ? LEASE_TERM_MS : 0;
    size_t n = tarn__lease_grant__get_packed_size(&lease); /* four numbers: below 128, one byte of length */
    CHECK(n < 128);
    uint8_t *grown = realloc(result->reply, result->reply_len + 3 + n);
    if (grown == NULL)
        return -E_NOMEM;
    uint8_t *at = grown + result->reply_len;
    at[0] = LEASE_TAG_1;
    at[1] = LEASE_TAG_2;
    at[2] = (uint8_t)n;
    tarn__lease_grant__pack(&lease, at + 3);
    result->reply = grown;
    result->reply_len += 3 + n;
    return 0;
}

int server_handle_lease_ask(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    const Tarn__LeaseAsk *m = message;
    uint64_t session = m->ctx != NULL ? m->ctx->session : 0;
    if (session == 0 || m->n_inos > ASK_MAX)
        return -E_INVAL;
    struct kv_txn *txn;
    int err = server_session_look(server, session, &txn);
    if (err == -E_NOT_LEADER)
        return rpc_reply_error(request, err, replica_leader_address(server->replica), "");
    if (err != 0)
        return err;
    server_session_heard(server, session, request->conn);
    Tarn__LeaseAnswer answers[ASK_MAX], *list[ASK_MAX];
    Tarn__LeaseAskReply reply = TARN__LEASE_ASK_REPLY__INIT;
    for (size_t i = 0; i < m->n_inos && err == 0; i++) {
        tarn__lease_answer__init(&answers[i]);
        list[i] = &answers[i];
        answers[i].ino = m->inos[i];
        err = grant(server, txn, session, m->inos[i], &answers[i].number, &answers[i].version);
    }
    kv_abort(txn);
    reply.epoch = server->lease_epoch;
    reply.term_ms = lease_renew(&server->leases, session, io_mono_ms(server->io)) ? LEASE_TERM_MS : 0;
    reply.answers = list;
    reply.n_answers = m->n_inos;
    if (err == 0)
        err = server_lease_settle(server);
    return err == 0 ? rpc_reply(request, &reply.base) : err;
}

int server_handle_lease_give_back(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    const Tarn__LeaseGiveBack *m = message;
    if (!replica_leads(server->replica))
        return rpc_reply_error(request, -E_NOT_LEADER, replica_leader_address(server->replica), "");
    uint64_t session = m->ctx != NULL ? m->ctx->session : 0, now = io_mono_ms(server->io);
    server_session_heard(server, session, request->conn);
    if (m->epoch == server->lease_epoch) {
        if (m->all)
            lease_give_back_all(&server->leases, session, now);
        for (size_t i = 0; i < m->n_items; i++)
            lease_give_back(&server->leases, session, m->items[i]->ino, m->items[i]->number, now);
        fiber_queue_wake_all(&server->lease_wake);
    }
    Tarn__Empty empty = TARN__EMPTY__INIT;
    return rpc_reply(request, &empty.base);
}

/* ------------------------------------------------------------------ pings */

int server_lease_ping(struct server *server, struct rpc_request *request, struct kv_txn *txn, uint64_t session)
{
    struct lease_item owed[OWED_MAX];
    Tarn__LeaseItem items[OWED_MAX], *list[OWED_MAX];
    size_t n = lease_owed(&server->leases, session, owed, OWED_MAX);
    for (size_t i = 0; i < n; i++) {
        tarn__lease_item__init(&items[i]);
        items[i].kind = TARN__LEASE_KIND__LEASE_READ;
        items[i].ino = owed[i].ino;
        items[i].number = owed[i].number;
    }
    size_t rows = 0;
    int err = recalled_list(txn, session, items + n, OWED_MAX - n, &rows);
    if (err != 0)
        return err;
    n += rows;
    for (size_t i = 0; i < n; i++)
        list[i] = &items[i];
    Tarn__SessionPingReply reply = TARN__SESSION_PING_REPLY__INIT;
    reply.epoch = server->lease_epoch;
    reply.term_ms = lease_renew(&server->leases, session, io_mono_ms(server->io)) ? LEASE_TERM_MS : 0;
    reply.recalls = list;
    reply.n_recalls = n;
    return rpc_reply(request, &reply.base);
}

/* ------------------------------------------------------------------ rights of the tables */

static int propose_recalls(struct server *server, const struct fsm_result *result)
{
    _cleanup_free_ Tarn__LeaseItem *items = calloc(result->n_recalls, sizeof *items);
    _cleanup_free_ Tarn__LeaseItem **list = calloc(result->n_recalls, sizeof *list);
    if (items == NULL || list == NULL)
        return -E_NOMEM;
    Tarn__LeaseRecall message = TARN__LEASE_RECALL__INIT;
    message.items = list;
    for (size_t i = 0; i < result->n_recalls; i++) {
        const struct fsm_recall *recall = &result->recalls[i];
        if (recall->marked)
            continue;
        Tarn__LeaseItem *item = list[message.n_items] = &items[message.n_items];
        message.n_items++;
        tarn__lease_item__init(item);
        item->kind = (Tarn__LeaseKind)recall->kind;
        item->session = recall->session;
        item->ino = recall->ino;
        item->number = recall->number;
    }
    return message.n_items == 0 ? 0 : server_propose(server, OP_LEASE_RECALL, &message.base);
}

int server_lease_ask_back(struct server *server, const struct fsm_result *result, struct lease_wait *wait)
{
    uint64_t now = io_mono_ms(server->io);
    if (wait->until_ms == 0)
        wait->until_ms = now + RECALL_WAIT_MS;
    if (now >= wait->until_ms)
        return -E_BUSY;
    for (size_t i = 0; i < result->n_recalls; i++) {
        const struct fsm_recall *recall = &result->recalls[i];
        lease_rows_asked(&server->leases, recall->session, now);
        if (recall->marked)
            push_item(server, (Tarn__LeaseKind)recall->kind, recall->session, recall->ino, recall->number);
    }
    int err = propose_recalls(server, result);
    if (err != 0 || server->rights_round != wait->round)
        return err; /* something came back meanwhile: perhaps this */
    err = fiber_queue_wait(&server->recall_wake, MIN(wait->until_ms - now, (uint64_t)RECALL_AGAIN_MS));
    return err == -E_CANCELED || server->stopping ? -E_CANCELED : 0;
}
