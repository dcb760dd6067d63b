/* Calls between processes: a frame, a protobuf-c control message, a raw payload. Connections are
 * authenticated both ways with the cluster key at their start (docs/protocols/frame.md) and
 * multiplexed: any number of fibers may call through one client at a time.
 * Threads: the io's thread. All waiting calls are made from fibers. */
#ifndef TARN_COMMON_RPC_H
#define TARN_COMMON_RPC_H

#include "base.h"
#include "frame.h"
#include "io.h"
#include <protobuf-c/protobuf-c.h>

struct rpc_auth {
    uint64_t cluster_id;
    uint8_t key[32];
    char name[64]; /* who calls, for logs: "stored 3", "tarn-mount" */
};

/* ------------------------------------------------------------------ client */
struct rpc_client;
/* Runs in the fiber that receives: must not wait, may destroy the client. */
typedef void (*rpc_push_fn)(void *arg, unsigned op, const uint8_t *control, size_t control_len);
/* Called once when an established connection is lost (not at rpc_client_destroy). Must not wait. */
typedef void (*rpc_lost_fn)(void *arg);

/* Connects lazily at the first call and again after a loss. `address` is copied, `auth` borrowed for
 * the life of the client. Never NULL-returns except -E_NOMEM as NULL. */
struct rpc_client *rpc_client_create(struct io *io, const char *address, const struct rpc_auth *auth);
void rpc_client_on_push(struct rpc_client *client, rpc_push_fn push, rpc_lost_fn lost, void *arg);
/* Ends the connection; calls under way return -E_CONN. Frees when the last of them has returned. */
void rpc_client_destroy(struct rpc_client *client);
const char *rpc_client_address(const struct rpc_client *client);

/* One part of a reply that comes in several (the last one is the call's reply). Runs in the caller's
 * fiber and may wait: at most RPC_PARTS_AHEAD parts lie unread meanwhile. 0 goes on; a negative code
 * ends the call, which returns it. */
typedef int (*rpc_part_fn)(void *arg, const ProtobufCMessage *part);
#define RPC_PARTS_AHEAD 4 /* of one reply, between the handler and who reads: at most 4 MiB */

struct fiber_queue;
struct rpc_call {
    unsigned op;
    const ProtobufCMessage *request;               /* NULL = empty */
    const struct iovec *payload;                   /* borrowed for the call */
    unsigned n_payload;                            /* at most 64, as in replies */
    bool payload_cells;                            /* see FRAME_PAYLOAD_CELLS, for the request */
    uint64_t epoch;
    bool unanswered; /* the server sends no reply and the call waits for none: 0 says that it is on its way, not that it arrives */
    uint64_t timeout_ms;                           /* 0 = 10 s; UINT64_MAX = none; anew after each part */
    rpc_part_fn part;                              /* NULL: a reply in parts is -E_PROTO */
    void *part_arg;
    const ProtobufCMessageDescriptor *reply_type;  /* NULL = reply control is ignored */
    void *into;                                    /* where the reply's payload goes; NULL = allocated */
    size_t into_size;                              /* a larger payload is -E_PROTO */
    /* results */
    ProtobufCMessage *reply;  /* free with protobuf_c_message_free_unpacked(); NULL on failure */
    void *reply_payload;      /* == into, or to be freed by rpc_call_fini() or free(): 4096-aligned and padded
                               * with zeros */
    size_t reply_payload_len;
    bool reply_payload_cells;
    char detail[160];         /* on failure: the server's own words, may be empty */
    char leader[64];          /* on -E_NOT_LEADER: address of the leader, may be empty */
    bool interrupted;          /* internal, as is what follows: rpc_call_interrupt() */
    struct fiber_queue *waits;
};
/* Sends and waits for the reply. Returns 0, the server's error, or -E_CONN -E_TIMEOUT -E_AUTH
 * -E_CLUSTER -E_VERSION -E_PROTO -E_CANCELED, -E_INVAL when it is too large to be sent. After
 * -E_CONN and -E_TIMEOUT the request may or may not have been carried out: only idempotent requests
 * are sent again. */
int rpc_call(struct rpc_client *client, struct rpc_call *call);
/* For another fiber of the same thread: a call that waits returns -E_INTR as soon as its memory is free (a piece of
 * a payload that is on its way may take 0.1 s); also one that only begins later. A call that is over: nothing. */
void rpc_call_interrupt(struct rpc_call *call);
/* Releases what the results own (not `into`). */
void rpc_call_fini(struct rpc_call *call);
/* Passes a descriptor: sends the request, then receives one descriptor after a successful reply.
 * Only on unix sockets and only on a client used for nothing else at that time. */
int rpc_call_fd(struct rpc_client *client, struct rpc_call *call, int *ret_fd);

/* ------------------------------------------------------------------ server */
struct rpc_server;
struct rpc_conn; /* one accepted, authenticated connection */
struct rpc_request {
    struct rpc_conn *conn;
    unsigned op;
    uint64_t epoch;
    const uint8_t *control; /* the packed control message, valid until the handler returns */
    size_t control_len;
    uint8_t *payload;       /* 4096-aligned and padded to 4096 with zeros, owned by the request; NULL when
                             * none. A handler may take it: set NULL here, free() later. */
    size_t payload_len;
    bool payload_cells;
    uint64_t received_ns;   /* io_mono_ns() when the last byte of it was here */
    void *conn_data;        /* what rpc_conn_set_data() stored */
    bool unanswered;        /* whatever the handler replies is not sent */
    bool replied;           /* internal */
    uint64_t id;            /* internal */
};
/* Runs in its own fiber per request; requests of one connection start in the order they came.
 * Either calls rpc_reply*() once and returns 0, or returns an error that becomes the reply.
 * `message` is the unpacked control message of the op's type, freed after the return. */
typedef int (*rpc_handler)(void *ctx, struct rpc_request *request, const void *message);

struct rpc_op {
    unsigned op;
    const char *name; /* for logs and counters */
    const ProtobufCMessageDescriptor *request_type;
    rpc_handler handle;
};
struct rpc_service {
    const struct rpc_op *ops;
    size_t n_ops;
    void *ctx;
    /* Both may be NULL; neither may wait. closed comes after the last handler of it has returned. */
    void (*opened)(void *ctx, struct rpc_conn *conn);
    void (*closed)(void *ctx, struct rpc_conn *conn);
};
#define RPC_CONN_REQUESTS_MAX 256 /* under way on one connection; past it the answer is -E_BUSY */
#define RPC_CONNS_MAX 4096
#define RPC_SERVER_BYTES_MAX MIB(256) /* of the control messages of all requests being handled; past it the answer is -E_BUSY */

/* Serves on `listener` (taken over) until rpc_server_stop(). `service` and `auth` are borrowed. */
int rpc_server_start(struct io *io, struct io_listener *listener, const struct rpc_auth *auth,
                     const struct rpc_service *service, struct rpc_server **ret_server);
/* Closes, waits for handlers, frees. From a fiber that is not a handler, or after io_run(). NULL allowed. */
void rpc_server_stop(struct rpc_server *server);

/* Requests of this op that have been taken since the start. */
uint64_t rpc_server_requests(const struct rpc_server *server, unsigned op);

int rpc_reply(struct rpc_request *request, const ProtobufCMessage *message);
int rpc_reply_payload(struct rpc_request *request, const ProtobufCMessage *message,
                      const struct iovec *payload, unsigned n_payload, bool cells);
/* A reply whose control message is packed already (kept replies of sessions). */
int rpc_reply_packed(struct rpc_request *request, const uint8_t *control, size_t control_len);
/* Sends a part of the reply; rpc_reply*() has to follow with the last one. Waits while RPC_PARTS_AHEAD parts
 * have not been read at the other end. Errors: -E_CANCELED the caller wants no more, -E_TIMEOUT it reads
 * nothing for a minute, the connection's. */
int rpc_reply_part(struct rpc_request *request, const uint8_t *control, size_t control_len);
/* Fails with words (and for -E_NOT_LEADER the leader's address, or NULL). Returns `err`. */
int rpc_reply_error(struct rpc_request *request, int err, const char *leader, const char *detail);
/* Replies and then passes a descriptor (borrowed) on a unix socket. */
int rpc_reply_fd(struct rpc_request *request, const ProtobufCMessage *message, int fd);

/* Sends a message nobody asked for. Queued (bounded: -E_BUSY), does not wait. */
int rpc_push(struct rpc_conn *conn, unsigned op, const ProtobufCMessage *message);
void rpc_conn_set_data(struct rpc_conn *conn, void *data);
void *rpc_conn_data(struct rpc_conn *conn);
const char *rpc_conn_peer(const struct rpc_conn *conn); /* name from the hello and address */
bool rpc_conn_is_local(const struct rpc_conn *conn);
void rpc_conn_close(struct rpc_conn *conn);

#endif
