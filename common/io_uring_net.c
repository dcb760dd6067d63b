/* Stream sockets on the ring. Each receive and send is tried in place first, without blocking: most
 * complete at once, and only what has to wait costs a turn of the loop. */
#include "io_ring.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 4096
#define PART_MAX MIB(1) /* bytes tried in place at a time */
#define COST_UNIT KIB(16)
/* A peer that vanished without a word is given up after 20 s, sending or idle (see io.h). */
#define USER_TIMEOUT_MS 20000
#define KEEP_IDLE_S 10
#define KEEP_INTERVAL_S 5
#define KEEP_COUNT 2

struct sock {
    struct io_sock base; /* first */
    int fd;
    unsigned refs; /* one for the owner, one for each call under way */
    bool shut;     /* io_sock_shutdown() was called */
};

struct listener {
    struct io_listener base; /* first */
    int fd;
    unsigned refs;
    bool closed;
    char *unlink_path;   /* of a unix socket */
    struct list accepts; /* requests under way */
};

static int net_err(int64_t negative_errno)
{
    switch (-negative_errno) {
    case ECONNRESET:
    case ECONNREFUSED:
    case ECONNABORTED:
    case EPIPE:
    case ENOTCONN:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
        return -E_CONN;
    default:
        return ring_err(negative_errno);
    }
}

static struct sock *sock_of(struct io_sock *base)
{
    return container_of(base, struct sock, base);
}

static struct sock *sock_ref(struct io_sock *base)
{
    struct sock *sock = sock_of(base);
    CHECK(sock->refs > 0);
    sock->refs++;
    return sock;
}

static void sock_unref(struct sock **ref)
{
    struct sock *sock = *ref;
    if (--sock->refs > 0)
        return;
    close(sock->fd);
    free(sock);
}
#define _cleanup_sock_ _cleanup_(sock_unref)

static void set_option(int fd, int level, int name, int value)
{
    /* Each is an improvement, none is needed for correctness. */
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

/* Takes `fd` over, also when it fails. */
static int sock_create(struct io *io, int fd, bool local, struct sock **ret_sock)
{
    struct sock *sock = calloc(1, sizeof *sock);
    if (sock == NULL) {
        close(fd);
        return -E_NOMEM;
    }
    sock->base.io = io;
    sock->base.local = local;
    sock->fd = fd;
    sock->refs = 1;
    if (!local) {
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
        set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
        set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
        set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S);
        set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT);
    }
    *ret_sock = sock;
    return 0;
}

/* ---- addresses ---- */

struct address {
    struct sockaddr_storage sockaddr;
    socklen_t len;
    bool local;
    char host[IO_ADDRESS_MAX]; /* of tcp */
    char port[8];
};

static int parse_unix(const char *path, struct address *address)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&address->sockaddr;
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof un->sun_path)
        return -E_INVAL;
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, n + 1);
    address->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    address->local = true;
    return 0;
}

/* Splits "tcp:HOST:PORT" ("tcp:[HOST]:PORT" for IPv6); a unix address is complete afterwards. */
static int parse_address(const char *text, struct address *address)
{
    memset(address, 0, sizeof *address);
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text + 5, address);
    if (strncmp(text, "tcp:", 4) != 0)
        return -E_INVAL;
    const char *host = text + 4, *colon = strrchr(host, ':');
    if (colon == NULL)
        return -E_INVAL;
    size_t n_host = (size_t)(colon - host), n_port = strlen(colon + 1);
    if (n_host >= 2 && host[0] == '[' && host[n_host - 1] == ']') {
        host++;
        n_host -= 2;
    }
    if (n_host == 0 || n_host >= sizeof address->host || n_port == 0 || n_port >= sizeof address->port ||
        strspn(colon + 1, "0123456789") != n_port || strtoul(colon + 1, NULL, 10) > UINT16_MAX)
        return -E_INVAL;
    memcpy(address->host, host, n_host);
    memcpy(address->port, colon + 1, n_port);
    return 0;
}

static int resolve(struct address *address, int flags)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *list = NULL;
    int r = getaddrinfo(address->host, address->port, &hints, &list);
    if (r == EAI_MEMORY)
        return -E_NOMEM;
    if (r != 0)
        return -E_CONN;
    memcpy(&address->sockaddr, list->ai_addr, list->ai_addrlen);
    address->len = list->ai_addrlen;
    freeaddrinfo(list);
    return 0;
}

struct resolve_work {
    struct address *address;
    int r;
};

static void work_resolve(void *arg)
{
    struct resolve_work *work = arg;
    work->r = resolve(work->address, AI_NUMERICSERV);
}

/* A numeric host needs no worker. */
static int resolve_peer(struct io *io, struct address *address)
{
    if (address->local || resolve(address, AI_NUMERICHOST | AI_NUMERICSERV) == 0)
        return 0;
    struct resolve_work work = {.address = address};
    int r = ring_work(io, work_resolve, &work);
    return r < 0 ? r : work.r;
}

static void format_address(const struct sockaddr_storage *sockaddr, socklen_t len, char text[IO_ADDRESS_MAX])
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo((const struct sockaddr *)sockaddr, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(text, IO_ADDRESS_MAX, "tcp:?");
    else
        snprintf(text, IO_ADDRESS_MAX, sockaddr->ss_family == AF_INET6 ? "tcp:[%.200s]:%.8s" : "tcp:%.200s:%.8s", host,
                 port);
}

/* ---- listening ---- */

/* A path left behind by a process that died refuses connections and may be replaced. */
static bool is_dead_path(const struct address *address)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    bool dead = connect(fd, (const struct sockaddr *)&address->sockaddr, address->len) < 0 && errno == ECONNREFUSED;
    close(fd);
    return dead;
}

/* The listening socket of a process that was killed lives on in its ring until the kernel has taken the ring apart,
 * which it does later, on a worker: a port in use may be free in a moment. Blocks the thread: listening is for starts. */
#define BIND_TRIES 60
#define BIND_PAUSE_NS 50000000 /* 3 s in all */

static int bind_patiently(int fd, const struct sockaddr *sockaddr, socklen_t len, bool local)
{
    int r = bind(fd, sockaddr, len);
    for (unsigned i = 0; r < 0 && errno == EADDRINUSE && !local && i < BIND_TRIES; i++) {
        nanosleep(&(struct timespec){.tv_nsec = BIND_PAUSE_NS}, NULL);
        r = bind(fd, sockaddr, len);
    }
    return r;
}

static int bind_address(int fd, const struct address *address)
{
    const struct sockaddr *sockaddr = (const struct sockaddr *)&address->sockaddr;
    if (bind_patiently(fd, sockaddr, address->len, address->local) == 0)
        return 0;
    int error = errno;
    if (error == EADDRINUSE && address->local && is_dead_path(address)) {
        unlink(((const struct sockaddr_un *)sockaddr)->sun_path);
        if (bind(fd, sockaddr, address->len) == 0)
            return 0;
        error = errno;
    }
    return err_from_errno(error);
}

static int listener_start(struct listener *listener, const char *text, const struct address *address)
{
    listener->fd = socket(address->sockaddr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener->fd < 0)
        return err_from_errno(errno);
    if (!address->local)
        set_option(listener->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    int r = bind_address(listener->fd, address);
    if (r < 0)
        return r;
    if (address->local) {
        listener->unlink_path = strdup(text + strlen("unix:"));
        if (listener->unlink_path == NULL) {
            unlink(text + strlen("unix:"));
            return -E_NOMEM;
        }
    }
    if (listen(listener->fd, BACKLOG) < 0)
        return err_from_errno(errno);
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    if (address->local)
        snprintf(listener->base.address, IO_ADDRESS_MAX, "%s", text);
    else if (getsockname(listener->fd, (struct sockaddr *)&bound, &len) < 0)
        return err_from_errno(errno);
    else
        format_address(&bound, len, listener->base.address);
    return 0;
}

static void listener_unref(struct listener **ref)
{
    struct listener *listener = *ref;
    if (--listener->refs > 0)
        return;
    if (listener->fd >= 0)
        close(listener->fd);
    if (listener->unlink_path != NULL)
        unlink(listener->unlink_path);
    free(listener->unlink_path);
    free(listener);
}
#define _cleanup_listener_ _cleanup_(listener_unref)

int uring_listen(struct io *io, const char *text, struct io_listener **ret_listener)
{
    struct address address;
    int r = parse_address(text, &address);
    if (r < 0)
        return r;
    if (!address.local && resolve(&address, AI_NUMERICSERV | AI_PASSIVE) < 0)
        return -E_INVAL;
    struct listener *listener = calloc(1, sizeof *listener);
    if (listener == NULL)
        return -E_NOMEM;
    listener->base.io = io;
    listener->refs = 1;
    list_init(&listener->accepts);
    r = listener_start(listener, text, &address);
    if (r < 0) {
        listener_unref(&listener);
        return r;
    }
    *ret_listener = &listener->base;
    return 0;
}

void uring_listener_close(struct io_listener *base)
{
    struct listener *listener = container_of(base, struct listener, base);
    CHECK(!listener->closed);
    listener->closed = true;
    ring_cancel_all(&listener->accepts);
    listener_unref(&listener);
}

static void name_local_peer(struct sock *sock)
{
    struct ucred cred;
    socklen_t len = sizeof cred;
    if (getsockopt(sock->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0)
        snprintf(sock->base.peer, IO_ADDRESS_MAX, "unix:pid %d uid %u", (int)cred.pid, (unsigned)cred.uid);
    else
        snprintf(sock->base.peer, IO_ADDRESS_MAX, "unix:?");
}

int uring_accept(struct io_listener *base, struct io_sock **ret_sock)
{
    struct listener *owner = container_of(base, struct listener, base);
    CHECK(owner->refs > 0);
    owner->refs++;
    _cleanup_listener_ struct listener *listener = owner;
    struct sockaddr_storage peer;
    socklen_t len;
    int fd;
    do {
        if (listener->closed)
            return -E_CANCELED;
        len = sizeof peer;
        struct ring_op op = {.code = RING_ACCEPT, .fd = listener->fd, .addr = &peer, .addr2 = &len,
                             .cancelable = true, .owner = &listener->accepts};
        fd = ring_call(ring_of(base->io), &op, 0);
        /* The peer was gone before we came, or its network was: look for the next one. */
    } while (fd == -ECONNABORTED || fd == -EINTR || fd == -EPROTO || fd == -ENETDOWN || fd == -EHOSTUNREACH);
    if (fd < 0)
        return ring_err(fd);
    bool local = listener->unlink_path != NULL;
    struct sock *sock;
    int r = sock_create(base->io, fd, local, &sock);
    if (r < 0)
        return r;
    if (local)
        name_local_peer(sock);
    else
        format_address(&peer, len, sock->base.peer);
    *ret_sock = &sock->base;
    return 0;
}

int uring_connect(struct io *io, const char *text, uint64_t timeout_ms, struct io_sock **ret_sock)
{
    struct address address;
    int r = parse_address(text, &address);
    if (r < 0)
        return r;
    r = resolve_peer(io, &address);
    if (r < 0)
        return r;
    int fd = socket(address.sockaddr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_from_errno(errno);
    struct sock *sock;
    r = sock_create(io, fd, address.local, &sock);
    if (r < 0)
        return r;
    struct ring_op op = {.code = RING_CONNECT, .fd = fd, .addr = &address.sockaddr, .len = address.len,
                         .cancelable = true};
    r = ring_call(ring_of(io), &op, timeout_ms);
    if (r < 0) {
        sock_unref(&sock);
        return r == -ENOENT || r == -EAGAIN ? -E_CONN : net_err(r);
    }
    snprintf(sock->base.peer, IO_ADDRESS_MAX, "%s", text);
    *ret_sock = &sock->base;
    return 0;
}

/* ---- bytes ---- */

int64_t uring_recv(struct io_sock *base, void *buf, size_t n, uint64_t timeout_ms)
{
    _cleanup_sock_ struct sock *sock = sock_ref(base);
    n = MIN(n, (size_t)PART_MAX);
    if (n == 0)
        return -E_INVAL; /* its 0 would read as the peer's close */
    int64_t r;
    do {
        if (sock->shut)
            return 0;
        r = recv(sock->fd, buf, n, MSG_DONTWAIT);
        if (r >= 0) {
            core_spend(base->io, 1 + (unsigned)((size_t)r / COST_UNIT));
            return r;
        }
        r = -errno;
        if (r == -EAGAIN) {
            struct ring_op op = {.code = RING_RECV, .fd = sock->fd, .addr = buf, .len = (unsigned)n, .cancelable = true};
            r = ring_call(ring_of(base->io), &op, timeout_ms);
        }
    } while (r == -EINTR || r == -EAGAIN);
    if (r < 0)
        return sock->shut ? 0 : net_err(r);
    return r;
}

static void iov_advance(struct iovec **iov, unsigned *n_iov, size_t n)
{
    while (*n_iov > 0 && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        (*iov)++;
        (*n_iov)--;
    }
    if (n > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
}

int uring_sendv(struct io_sock *base, struct iovec *iov, unsigned n_iov)
{
    _cleanup_sock_ struct sock *sock = sock_ref(base);
    iov_advance(&iov, &n_iov, 0); /* drops empty vectors at the front */
    while (n_iov > 0) {
        if (sock->shut)
            return -E_CONN;
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = MIN(n_iov, 1024u)};
        int64_t r = sendmsg(sock->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r >= 0) {
            core_spend(base->io, 1 + (unsigned)((size_t)r / COST_UNIT));
        } else if (errno == EAGAIN) {
            struct ring_op op = {.code = RING_SENDMSG, .fd = sock->fd, .addr = &msg, .cancelable = true};
            r = ring_call(ring_of(base->io), &op, 0);
        } else {
            r = -errno;
        }
        if (r == -EINTR || r == -EAGAIN)
            continue;
        if (r < 0)
            return net_err(r);
        iov_advance(&iov, &n_iov, (size_t)r);
        if (n_iov > 0 && base->io->stopping)
            return -E_CANCELED;
    }
    return 0;
}

void uring_sock_shutdown(struct io_sock *base)
{
    struct sock *sock = sock_of(base);
    sock->shut = true;
    (void)shutdown(sock->fd, SHUT_RDWR); /* ENOTCONN: the peer was faster */
}

/* The descriptor lives until the last call under way has returned; the shutdown makes them return. */
void uring_sock_close(struct io_sock *base)
{
    struct sock *sock = sock_of(base);
    if (sock->refs > 1)
        uring_sock_shutdown(base);
    sock_unref(&sock);
}

int uring_sock_fd(struct io_sock *base)
{
    return sock_of(base)->fd;
}

/* ---- descriptors ---- */

union fd_control {
    struct cmsghdr align;
    char buf[CMSG_SPACE(sizeof(int))];
};

static int wait_for(struct sock *sock, short events, uint64_t timeout_ms)
{
    struct ring_op op = {.code = RING_POLL, .fd = sock->fd, .flags = events, .cancelable = true};
    return ring_call(ring_of(sock->base.io), &op, timeout_ms);
}

int uring_send_fd(struct io_sock *base, int fd)
{
    _cleanup_sock_ struct sock *sock = sock_ref(base);
    union fd_control control = {0};
    char byte = 0;
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(cmsg), &fd, sizeof fd);
    while (sendmsg(sock->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return net_err(-errno);
        int r = wait_for(sock, POLLOUT, 0);
        if (r < 0)
            return net_err(r);
    }
    return 0;
}

/* The one descriptor in `msg`, or -E_PROTO; any others are closed. */
static int take_fd(struct msghdr *msg, int *ret_fd)
{
    int fd = -1;
    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(msg); cmsg != NULL; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= cmsg->cmsg_len; at += sizeof(int)) {
            int got;
            memcpy(&got, CMSG_DATA(cmsg) + at, sizeof got);
            if (fd < 0)
                fd = got;
            else
                close(got);
        }
    }
    if (fd < 0)
        return -E_PROTO;
    *ret_fd = fd;
    return 0;
}

int uring_recv_fd(struct io_sock *base, int *ret_fd, uint64_t timeout_ms)
{
    _cleanup_sock_ struct sock *sock = sock_ref(base);
    for (;;) {
        union fd_control control = {0};
        char byte;
        struct iovec iov = {.iov_base = &byte, .iov_len = 1};
        struct msghdr msg = {
            .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof control.buf};
        ssize_t n = recvmsg(sock->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        if (n > 0)
            return take_fd(&msg, ret_fd);
        if (n == 0)
            return -E_CONN;
        if (errno != EAGAIN && errno != EINTR)
            return net_err(-errno);
        int r = wait_for(sock, POLLIN, timeout_ms);
        if (r < 0)
            return net_err(r);
    }
}
