/* The simulated network. A connection has two ends and a pipe towards each; a pipe carries pieces
 * (data, FIN, RST) in order, one event per pipe delivers the first of them. A connection that cannot
 * go on (lost, cut off, peer without power) is killed by a timer of its own, as TCP's user timeout and
 * keep-alive do it in production. The connection is freed when both ends are closed and nothing is on its way. */
#include "io_sim_core.h"
#include <stdio.h>

#define WINDOW KIB(256) /* sent and not yet read, per direction; then the sender waits */
#define PIECE_MAX KIB(64)
#define BACKLOG_MAX 1024
#define RETRY_MIN_NS 50000000ull /* between attempts to get a piece or a SYN through */
#define RETRY_MAX_NS 400000000ull
#define LOCAL_DELAY_NS 15000ull
#define PORT_FIRST 40000u
#define PORT_MAX 65535u

enum piece_kind { PIECE_DATA = 1, PIECE_FIN, PIECE_RST };
struct piece {
    struct list link;
    enum piece_kind kind;
    uint64_t arrival_ns;
    size_t n, at; /* bytes; those read already */
    uint8_t data[];
};

/* Towards one end. */
struct pipe {
    struct sim_event event; /* delivery of the first of `flying` */
    struct sim_conn *conn;
    struct list flying, arrived;
    size_t bytes; /* in both */
    uint64_t last_arrival_ns;
};

struct end {
    struct sim_life *life; /* who has it */
    struct sim_sock *sock; /* NULL before accept and after close */
    bool closed, shut;     /* closed: nobody will ever read it; shut: locally, io_sock_shutdown() */
    bool reset;            /* -E_CONN once what arrived is read */
    bool finished;         /* the peer's FIN has arrived */
    bool fin_sent;
    struct pipe in;
    struct fiber_queue readers, writers; /* writers: who sends from here */
};

enum conn_state { CONN_SYN, CONN_BACKLOG, CONN_OPEN, CONN_REFUSED };
struct sim_conn {
    struct list link; /* in sim->conns */
    struct sim *sim;
    enum conn_state state;
    struct sim_host *hosts[2]; /* of each end; 0 connects, 1 listens */
    bool local;                /* a unix socket */
    bool established;          /* the client knows */
    bool hole;                 /* carries nothing any more */
    bool stalled;              /* `kill` is due to a partition: off when something gets through */
    struct end ends[2];
    struct sim_event syn, kill;
    char address[IO_ADDRESS_MAX];
    struct sim_listener *listener; /* while in its backlog */
    struct list backlog;
};

struct sim_sock {
    struct io_sock base; /* first */
    struct sim_conn *conn;
    unsigned side, refs;
};

struct sim_listener {
    struct io_listener base; /* first */
    struct sim_life *life;
    struct list link; /* in life->listeners */
    struct list backlog;
    unsigned n_backlog, refs;
    bool closed;
    struct fiber_queue accepters;
};

/* ---- connections ---- */

static void pieces_free(struct list *pieces)
{
    while (!list_empty(pieces)) {
        struct piece *piece = list_entry(pieces->next, struct piece, link);
        list_remove(&piece->link);
        free(piece);
    }
}

static void conn_free(struct sim_conn *conn)
{
    sim_event_cancel(conn->sim, &conn->syn);
    sim_event_cancel(conn->sim, &conn->kill);
    for (int i = 0; i < 2; i++) {
        sim_event_cancel(conn->sim, &conn->ends[i].in.event);
        pieces_free(&conn->ends[i].in.flying);
        pieces_free(&conn->ends[i].in.arrived);
    }
    list_remove(&conn->backlog);
    list_remove(&conn->link);
    free(conn);
}

static bool conn_idle(const struct sim_conn *conn)
{
    return conn->hole || (list_empty(&conn->ends[0].in.flying) && list_empty(&conn->ends[1].in.flying));
}

/* The last thing a function does with a connection that may be over. */
static void conn_check(struct sim_conn *conn)
{
    if (conn->ends[0].closed && conn->ends[1].closed && conn_idle(conn) && !sim_event_pending(&conn->syn))
        conn_free(conn);
}

static void end_wake(struct end *end)
{
    fiber_queue_wake_all(&end->readers);
    fiber_queue_wake_all(&end->writers);
}

static void end_reset(struct end *end)
{
    end->reset = true;
    end_wake(end);
}

/* Both ends find out, each by itself, that nothing gets through. */
static void kill_fired(struct sim_event *event)
{
    struct sim_conn *conn = container_of(event, struct sim_conn, kill);
    sim_trace(conn->sim, TRACE_NET, 'k', conn->hosts[0]->index, conn->hosts[1]->index);
    conn->hole = true;
    end_reset(&conn->ends[0]);
    end_reset(&conn->ends[1]);
    conn_check(conn);
}

static void kill_within(struct sim_conn *conn, uint64_t min_ns, uint64_t max_ns)
{
    conn->stalled = false;
    if (!sim_event_pending(&conn->kill))
        sim_event_at(conn->sim, &conn->kill, conn->sim->now_ns + sim_draw(conn->sim, min_ns, max_ns));
}

static void kill_later(struct sim_conn *conn)
{
    uint64_t ns = conn->sim->options.reset_after_ms * 1000000;
    kill_within(conn, ns / 2, ns);
}

static bool same_host(const struct sim_conn *conn)
{
    return conn->hosts[0] == conn->hosts[1];
}

static uint64_t delay(struct sim_conn *conn)
{
    const struct sim_options *o = &conn->sim->options;
    if (same_host(conn))
        return LOCAL_DELAY_NS;
    uint64_t ns = sim_draw(conn->sim, o->net_delay_min_ns, o->net_delay_max_ns);
    return sim_chance(conn->sim, o->net_slow_ppm) ? ns * sim_draw(conn->sim, 2, 200) : ns;
}

static uint64_t retry_delay(struct sim *sim)
{
    return sim_draw(sim, RETRY_MIN_NS, RETRY_MAX_NS);
}

/* ---- pieces ---- */

static void pipe_schedule(struct pipe *pipe)
{
    struct sim *sim = pipe->conn->sim;
    if (list_empty(&pipe->flying) || sim_event_pending(&pipe->event))
        return;
    const struct piece *first = list_entry(pipe->flying.next, struct piece, link);
    sim_event_at(sim, &pipe->event, MAX(first->arrival_ns, sim->now_ns));
}

static void piece_send(struct sim_conn *conn, unsigned to, enum piece_kind kind, const void *data, size_t n)
{
    struct sim *sim = conn->sim;
    struct pipe *pipe = &conn->ends[to].in;
    if (conn->hole)
        return;
    if (!same_host(conn) && sim_chance(sim, sim->options.loss_ppm)) {
        conn->hole = true;
        kill_later(conn);
        return;
    }
    if (!same_host(conn) && sim_chance(sim, sim->options.reset_ppm))
        kill_within(conn, 1, 2 * sim->options.net_delay_max_ns);
    struct piece *piece = sim_alloc(sizeof *piece + n);
    piece->kind = kind;
    piece->n = n;
    if (n > 0)
        memcpy(piece->data, data, n);
    uint64_t arrival_ns = sim->now_ns + delay(conn);
    piece->arrival_ns = MAX(arrival_ns, pipe->last_arrival_ns);
    pipe->last_arrival_ns = piece->arrival_ns;
    list_append(&pipe->flying, &piece->link);
    pipe_schedule(pipe);
}

/* What the host of a closed end answers. */
static void refuse_piece(struct sim_conn *conn, unsigned to, const struct piece *piece)
{
    if (!conn->hosts[to]->powered)
        kill_later(conn); /* nothing: there is nobody */
    else if (piece->kind == PIECE_DATA && !conn->ends[1 - to].closed)
        piece_send(conn, 1 - to, PIECE_RST, NULL, 0);
}

static void deliver(struct sim_conn *conn, unsigned to, struct piece *piece)
{
    struct end *end = &conn->ends[to];
    list_remove(&piece->link);
    if (end->closed || end->reset) {
        end->in.bytes -= piece->n;
        if (end->closed)
            refuse_piece(conn, to, piece);
        free(piece);
        return;
    }
    if (piece->kind == PIECE_DATA) {
        list_append(&end->in.arrived, &piece->link);
        fiber_queue_wake_all(&end->readers);
        return;
    }
    if (piece->kind == PIECE_FIN) {
        end->finished = true;
        fiber_queue_wake_all(&end->readers);
    } else {
        end_reset(end);
    }
    free(piece);
}

static void pipe_fired(struct sim_event *event)
{
    struct pipe *pipe = container_of(event, struct pipe, event);
    struct sim_conn *conn = pipe->conn;
    struct sim *sim = conn->sim;
    unsigned to = pipe == &conn->ends[1].in;
    if (conn->hole) {
        conn_check(conn);
        return;
    }
    if (sim->cut[conn->hosts[1 - to]->index][conn->hosts[to]->index]) {
        if (!sim_event_pending(&conn->kill)) {
            kill_later(conn);
            conn->stalled = true;
        }
        sim_event_at(sim, &pipe->event, sim->now_ns + retry_delay(sim));
        return;
    }
    struct piece *piece = list_entry(pipe->flying.next, struct piece, link);
    sim_trace(sim, TRACE_NET, piece->kind, (uint64_t)conn->hosts[1 - to]->index << 32 | conn->hosts[to]->index, piece->n);
    if (conn->stalled)
        sim_event_cancel(sim, &conn->kill);
    conn->stalled = false;
    deliver(conn, to, piece);
    pipe_schedule(pipe);
    conn_check(conn);
}

/* Nobody will use this end any more. `tell`: the peer learns of it. */
static void end_close(struct sim_conn *conn, unsigned side, bool tell)
{
    struct end *end = &conn->ends[side];
    if (end->closed)
        return;
    end->closed = true;
    end->sock = NULL;
    bool unread = !list_empty(&end->in.arrived);
    pieces_free(&end->in.arrived);
    if (tell && !end->reset && !conn->ends[1 - side].closed) {
        /* Bytes that nobody will read are answered with a reset, as TCP does it. */
        if (unread)
            piece_send(conn, 1 - side, PIECE_RST, NULL, 0);
        else if (!end->fin_sent)
            piece_send(conn, 1 - side, PIECE_FIN, NULL, 0);
        end->fin_sent = true;
    }
    conn_check(conn);
}

/* ---- sockets: `conn` is NULL after a crash, when the connection may be gone ---- */

static struct sim_sock *sock_of(struct io_sock *base)
{
    return container_of(base, struct sim_sock, base);
}

static struct sim_sock *sock_ref(struct io_sock *base)
{
    struct sim_sock *sock = sock_of(base);
    CHECK(sock->refs > 0);
    sock->refs++;
    return sock;
}

static void sock_unref(struct sim_sock **ref)
{
    struct sim_sock *sock = *ref;
    if (--sock->refs > 0)
        return;
    if (sock->conn != NULL)
        end_close(sock->conn, sock->side, true);
    free(sock);
}
#define _cleanup_sock_ _cleanup_(sock_unref)

static struct sim_sock *sock_create(struct sim_conn *conn, unsigned side, const char *peer)
{
    struct sim_sock *sock = sim_alloc(sizeof *sock);
    sock->base.io = &conn->ends[side].life->io;
    sock->base.local = conn->local;
    snprintf(sock->base.peer, IO_ADDRESS_MAX, "%s", peer);
    sock->conn = conn;
    sock->side = side;
    sock->refs = 1;
    conn->ends[side].sock = sock;
    return sock;
}

/* ---- addresses ---- */

/* Splits "tcp:HOST:PORT". False when it is nothing of the kind. */
static bool parse_tcp(const char *text, char host[SIM_NAME_MAX], unsigned *ret_port)
{
    if (strncmp(text, "tcp:", 4) != 0)
        return false;
    const char *name = text + 4, *colon = strrchr(name, ':');
    if (colon == NULL)
        return false;
    size_t n_host = (size_t)(colon - name), n_port = strlen(colon + 1);
    if (n_host == 0 || n_host >= SIM_NAME_MAX || n_port == 0 || n_port > 5 ||
        strspn(colon + 1, "0123456789") != n_port || strtoul(colon + 1, NULL, 10) > PORT_MAX)
        return false;
    memcpy(host, name, n_host);
    host[n_host] = 0;
    *ret_port = (unsigned)strtoul(colon + 1, NULL, 10);
    return true;
}

static bool is_self(const struct sim_host *self, const char *name)
{
    static const char *const loopback[] = {"127.0.0.1", "localhost", "0.0.0.0", "*"};
    for (size_t i = 0; i < ARRAY_SIZE(loopback); i++)
        if (strcmp(name, loopback[i]) == 0)
            return true;
    return strcmp(name, self->name) == 0;
}

static bool is_unix(const char *text)
{
    return strncmp(text, "unix:", 5) == 0 && text[5] != 0 && strlen(text) < 5 + 108;
}

static struct sim_listener *listener_find(const struct sim_life *life, const char *address)
{
    list_foreach(&life->listeners, it) {
        struct sim_listener *listener = list_entry(it, struct sim_listener, link);
        if (strcmp(listener->base.address, address) == 0)
            return listener;
    }
    return NULL;
}

static void tcp_address(char text[IO_ADDRESS_MAX], const struct sim_host *host, unsigned port)
{
    snprintf(text, IO_ADDRESS_MAX, "tcp:%s:%u", host->name, port);
}

/* The address under which `text` is known in the simulation: "tcp:NAME:PORT" or "unix:/path". */
static int canonical(struct sim_host *self, const char *text, char address[IO_ADDRESS_MAX], struct sim_host **ret_host,
                     unsigned *ret_port)
{
    char name[SIM_NAME_MAX];
    *ret_port = 0;
    *ret_host = self;
    if (is_unix(text)) {
        strcpy(address, text);
        return 0;
    }
    if (!parse_tcp(text, name, ret_port))
        return -E_INVAL;
    if (!is_self(self, name))
        *ret_host = sim_host_find(self->sim, name);
    if (*ret_host == NULL)
        return -E_CONN; /* no such name */
    tcp_address(address, *ret_host, *ret_port);
    return 0;
}

/* ---- listening ---- */

int sim_listen(struct io *io, const char *text, struct io_listener **ret_listener)
{
    struct sim_life *life = sim_life_of(io);
    struct sim_host *host;
    char address[IO_ADDRESS_MAX];
    unsigned port;
    int r = canonical(life->host, text, address, &host, &port);
    if (r < 0 || host != life->host)
        return -E_INVAL;
    while (port == 0 && !is_unix(text)) {
        unsigned next = life->host->next_port++;
        if (life->host->next_port > PORT_MAX)
            life->host->next_port = PORT_FIRST;
        tcp_address(address, host, next);
        if (listener_find(life, address) == NULL)
            port = next;
    }
    if (listener_find(life, address) != NULL)
        return -E_ADDRINUSE;
    struct sim_listener *listener = sim_alloc(sizeof *listener);
    listener->base.io = io;
    strcpy(listener->base.address, address);
    listener->life = life;
    listener->refs = 1;
    list_init(&listener->backlog);
    list_append(&life->listeners, &listener->link);
    *ret_listener = &listener->base;
    return 0;
}

static void listener_unref(struct sim_listener **ref)
{
    if (--(*ref)->refs == 0)
        free(*ref);
}
#define _cleanup_listener_ _cleanup_(listener_unref)

void sim_listener_close(struct io_listener *base)
{
    struct sim_listener *listener = container_of(base, struct sim_listener, base);
    CHECK(!listener->closed);
    listener->closed = true;
    list_remove(&listener->link);
    list_foreach_safe(&listener->backlog, it, next) {
        struct sim_conn *conn = list_entry(it, struct sim_conn, backlog);
        list_remove(&conn->backlog);
        conn->listener = NULL;
        if (!listener->life->crashed)
            piece_send(conn, 0, PIECE_RST, NULL, 0);
        end_close(conn, 1, false);
    }
    fiber_queue_wake_all(&listener->accepters);
    listener_unref(&listener);
}

int sim_accept(struct io_listener *base, struct io_sock **ret_sock)
{
    struct sim_listener *owner = container_of(base, struct sim_listener, base);
    owner->refs++;
    _cleanup_listener_ struct sim_listener *listener = owner;
    while (!listener->closed && list_empty(&listener->backlog)) {
        int r = core_wait(base->io, &listener->accepters, CORE_NEVER, true);
        if (r < 0)
            return r;
    }
    if (listener->closed)
        return -E_CANCELED;
    struct sim_conn *conn = list_entry(listener->backlog.next, struct sim_conn, backlog);
    list_remove(&conn->backlog);
    listener->n_backlog--;
    conn->listener = NULL;
    conn->state = CONN_OPEN;
    char peer[IO_ADDRESS_MAX];
    snprintf(peer, sizeof peer, conn->local ? "unix:%s" : "tcp:%s:0", conn->hosts[0]->name);
    *ret_sock = &sock_create(conn, 1, peer)->base;
    return 0;
}

/* ---- connecting: the SYN event goes to the listener and comes back ---- */

static void syn_back(struct sim_conn *conn)
{
    if (!conn->ends[0].closed && conn->sim->cut[conn->hosts[1]->index][conn->hosts[0]->index]) {
        sim_event_at(conn->sim, &conn->syn, conn->sim->now_ns + retry_delay(conn->sim));
        return;
    }
    conn->established = true;
    fiber_queue_wake_all(&conn->ends[0].readers);
    conn_check(conn);
}

static void syn_fired(struct sim_event *event)
{
    struct sim_conn *conn = container_of(event, struct sim_conn, syn);
    struct sim *sim = conn->sim;
    struct sim_host *host = conn->hosts[1];
    sim_trace(sim, TRACE_NET, 's', (uint64_t)conn->hosts[0]->index << 32 | host->index, conn->state);
    if (conn->state != CONN_SYN) {
        syn_back(conn);
        return;
    }
    if (conn->ends[0].closed) { /* the client gave up */
        conn_check(conn);
        return;
    }
    struct sim_listener *listener = host->life->io.stopping ? NULL : listener_find(host->life, conn->address);
    bool silent = sim->cut[conn->hosts[0]->index][host->index] || !host->powered;
    if (silent || (listener != NULL && listener->n_backlog >= BACKLOG_MAX)) {
        sim_event_at(sim, &conn->syn, sim->now_ns + retry_delay(sim));
        return;
    }
    conn->state = CONN_REFUSED;
    if (listener != NULL) {
        conn->state = CONN_BACKLOG;
        conn->listener = listener;
        conn->ends[1].life = host->life;
        conn->ends[1].closed = false;
        list_append(&listener->backlog, &conn->backlog);
        listener->n_backlog++;
        fiber_queue_wake_one(&listener->accepters);
    }
    sim_event_at(sim, &conn->syn, sim->now_ns + delay(conn));
}

static struct sim_conn *conn_create(struct sim_life *life, struct sim_host *host, const char *address)
{
    struct sim *sim = life->host->sim;
    struct sim_conn *conn = sim_alloc(sizeof *conn);
    conn->sim = sim;
    conn->hosts[0] = life->host;
    conn->hosts[1] = host;
    conn->local = is_unix(address);
    strcpy(conn->address, address);
    sim_event_init(&conn->syn, syn_fired);
    sim_event_init(&conn->kill, kill_fired);
    list_init(&conn->backlog);
    for (int i = 0; i < 2; i++) {
        struct pipe *pipe = &conn->ends[i].in;
        pipe->conn = conn;
        sim_event_init(&pipe->event, pipe_fired);
        list_init(&pipe->flying);
        list_init(&pipe->arrived);
    }
    conn->ends[0].life = life;
    conn->ends[1].closed = true; /* until it is in a backlog */
    list_append(&sim->conns, &conn->link);
    sim_event_at(sim, &conn->syn, sim->now_ns + delay(conn));
    return conn;
}

int sim_connect(struct io *io, const char *text, uint64_t timeout_ms, struct io_sock **ret_sock)
{
    struct sim_life *life = sim_life_of(io);
    struct sim_host *host;
    char address[IO_ADDRESS_MAX];
    unsigned port;
    int r = canonical(life->host, text, address, &host, &port);
    if (r < 0)
        return r;
    uint64_t give_up_ms = life->host->sim->options.reset_after_ms;
    uint64_t deadline_ns = core_deadline_after(io, timeout_ms != 0 ? MIN(timeout_ms, give_up_ms) : give_up_ms);
    struct sim_conn *conn = conn_create(life, host, address);
    struct sim_sock *sock = sock_create(conn, 0, text);
    while (sock->conn != NULL && !conn->established && r == 0)
        r = core_wait(io, &conn->ends[0].readers, deadline_ns, true);
    if (sock->conn == NULL)
        r = -E_CANCELED;
    else if (conn->established)
        r = conn->state == CONN_REFUSED ? -E_CONN : 0;
    if (r < 0) {
        sock_unref(&sock);
        return r;
    }
    *ret_sock = &sock->base;
    return 0;
}

/* ---- bytes ---- */

static size_t take_arrived(struct sim_conn *conn, unsigned side, uint8_t *buf, size_t n)
{
    struct pipe *pipe = &conn->ends[side].in;
    size_t done = 0;
    n = sim_coin(conn->sim) ? n : (size_t)sim_draw(conn->sim, 1, n);
    while (done < n && !list_empty(&pipe->arrived)) {
        struct piece *piece = list_entry(pipe->arrived.next, struct piece, link);
        size_t part = MIN(n - done, piece->n - piece->at);
        memcpy(buf + done, piece->data + piece->at, part);
        piece->at += part;
        done += part;
        if (piece->at < piece->n)
            continue;
        list_remove(&piece->link);
        pipe->bytes -= piece->n;
        free(piece);
    }
    fiber_queue_wake_all(&conn->ends[1 - side].writers);
    return done;
}

int64_t sim_recv(struct io_sock *base, void *buf, size_t n, uint64_t timeout_ms)
{
    _cleanup_sock_ struct sim_sock *sock = sock_ref(base);
    if (n == 0)
        return -E_INVAL;
    uint64_t deadline_ns = core_deadline_after(base->io, timeout_ms);
    while (sock->conn != NULL) {
        struct sim_conn *conn = sock->conn;
        struct end *end = &conn->ends[sock->side];
        if (end->shut)
            return 0;
        if (!list_empty(&end->in.arrived)) {
            n = take_arrived(conn, sock->side, buf, n);
            core_spend(base->io, 1);
            return (int64_t)n;
        }
        if (end->finished)
            return 0;
        if (end->reset)
            return -E_CONN;
        int r = core_wait(base->io, &end->readers, deadline_ns, true);
        if (r < 0)
            return r;
    }
    return -E_CANCELED;
}

static int send_bytes(struct sim_sock *sock, const uint8_t *buf, size_t n)
{
    while (n > 0) {
        struct sim_conn *conn = sock->conn;
        if (conn == NULL)
            return -E_CANCELED;
        struct end *end = &conn->ends[sock->side];
        struct pipe *pipe = &conn->ends[1 - sock->side].in;
        if (end->shut || end->reset)
            return -E_CONN;
        if (pipe->bytes >= WINDOW) {
            int r = core_wait(sock->base.io, &end->writers, CORE_NEVER, true);
            if (r < 0)
                return r;
            continue;
        }
        size_t room = MIN((size_t)(WINDOW - pipe->bytes), (size_t)PIECE_MAX);
        size_t part = MIN(n, room);
        if (sim_draw(conn->sim, 0, 3) == 0)
            part = (size_t)sim_draw(conn->sim, 1, part);
        pipe->bytes += part;
        piece_send(conn, 1 - sock->side, PIECE_DATA, buf, part);
        buf += part;
        n -= part;
    }
    core_spend(sock->base.io, 1);
    return 0;
}

int sim_sendv(struct io_sock *base, struct iovec *iov, unsigned n_iov)
{
    _cleanup_sock_ struct sim_sock *sock = sock_ref(base);
    int r = 0;
    for (unsigned i = 0; i < n_iov && r == 0; i++)
        r = send_bytes(sock, iov[i].iov_base, iov[i].iov_len);
    return r;
}

void sim_sock_shutdown(struct io_sock *base)
{
    struct sim_sock *sock = sock_of(base);
    struct sim_conn *conn = sock->conn;
    if (conn == NULL)
        return;
    struct end *end = &conn->ends[sock->side];
    if (end->shut)
        return;
    end->shut = true;
    end_wake(end);
    if (!end->reset && !end->fin_sent) {
        end->fin_sent = true;
        piece_send(conn, 1 - sock->side, PIECE_FIN, NULL, 0);
    }
}

/* The end lives until the last call under way has returned. */
void sim_sock_close(struct io_sock *base)
{
    struct sim_sock *sock = sock_of(base);
    if (sock->refs > 1)
        sim_sock_shutdown(base);
    sock_unref(&sock);
}

int sim_sock_fd(struct io_sock *base)
{
    return -1;
}

int sim_send_fd(struct io_sock *base, int fd)
{
    return -E_NOTSUP;
}

int sim_recv_fd(struct io_sock *base, int *ret_fd, uint64_t timeout_ms)
{
    return -E_NOTSUP;
}

/* ---- crash and end ---- */

static void end_crash(struct sim_conn *conn, unsigned side, bool power_loss)
{
    struct end *end = &conn->ends[side];
    struct pipe *out = &conn->ends[1 - side].in;
    if (conn->listener != NULL && side == 1) {
        list_remove(&conn->backlog);
        conn->listener = NULL;
    }
    if (end->sock != NULL)
        end->sock->conn = NULL;
    end_wake(end);
    if (!power_loss || same_host(conn)) {
        if (!conn->ends[1 - side].closed)
            piece_send(conn, 1 - side, PIECE_RST, NULL, 0);
    } else {
        if (sim_coin(conn->sim)) {
            sim_event_cancel(conn->sim, &out->event);
            pieces_free(&out->flying);
        }
        kill_later(conn);
    }
    end_close(conn, side, false);
}

void sim_net_crash(struct sim_life *life, bool power_loss)
{
    list_foreach_safe(&life->host->sim->conns, it, next) {
        struct sim_conn *conn = list_entry(it, struct sim_conn, link);
        bool mine[2] = {conn->ends[0].life == life && !conn->ends[0].closed,
                        conn->ends[1].life == life && !conn->ends[1].closed};
        /* The second of two may free the connection, the first cannot: the second is open. */
        if (mine[0])
            end_crash(conn, 0, power_loss);
        if (mine[1])
            end_crash(conn, 1, power_loss);
    }
}

void sim_net_fini(struct sim *sim)
{
    while (!list_empty(&sim->conns))
        conn_free(list_entry(sim->conns.next, struct sim_conn, link));
}
