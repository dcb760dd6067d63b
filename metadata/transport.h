/* Raft messages to the other replicas: one ordered connection and one bounded queue for each. What
 * does not fit or cannot be sent is dropped: Raft sends again. Entries are fetched only when their
 * message is sent, and cut so that a message stays below the frame's limit. A slow peer slows only its own queue.
 * Threads: the io's thread; nothing here waits except the fibers it starts and transport_stop(). */
#ifndef TARN_METADATA_TRANSPORT_H
#define TARN_METADATA_TRANSPORT_H

#include "common/base.h"
#include "common/bytes.h"
#include "common/io.h"
#include "common/rpc.h"
#include "meta.pb-c.h"

#define TRANSPORT_QUEUE_MAX 256            /* messages per peer */
#define TRANSPORT_ENTRIES_MAX 8192         /* per message: 20 bytes of control each, 160 KiB < 1 MiB */
#define TRANSPORT_BYTES_MAX MIB(3)         /* of entries per message, the last may pass it: a frame holds 4 MiB */
#define TRANSPORT_SERVERS_MAX 8
#define TRANSPORT_GUESTS_MAX 8

struct transport;

/* One message on its way. `head` has every field but entries, lease_stamp of a leader, incarnation
 * and sequence; pointers in head point into this struct. */
struct transport_message {
    struct transport_message *next;
    Tarn__RaftMessage head;
    uint32_t n_entries; /* to fetch, from head.prev_index + 1 */
    Tarn__RaftServer servers[TRANSPORT_SERVERS_MAX];
    Tarn__RaftServer *server_list[TRANSPORT_SERVERS_MAX];
    char addresses[TRANSPORT_SERVERS_MAX][64];
    char snapshot[64];
};
struct transport_message *transport_message_new(void); /* NULL without memory */

/* Entries fetched for one message. */
struct transport_batch {
    Tarn__RaftEntry *entries;
    uint32_t count;
    struct writer data;
};

/* One that is sent to. The address is where its metad serves rpc. */
struct transport_server {
    uint32_t id;
    char address[64];
};

struct transport_options {
    const struct rpc_auth *auth;
    uint32_t self;
    uint64_t timeout_ms; /* of one message */
    /* Appends entries from `first`, at most `max`, to the batch while this replica leads in `term`; at
     * least one or an error (then the message is dropped). May wait. */
    int (*fetch)(void *arg, uint64_t term, uint64_t first, uint32_t max, struct transport_batch *batch);
    /* What the receiver answered. Must not wait. */
    void (*answered)(void *arg, uint32_t from, const Tarn__RaftReply *reply);
    void *arg;
};

int transport_start(struct io *io, const struct transport_options *options, struct transport **ret);
void transport_stop(struct transport *transport); /* NULL allowed; waits for its fibers; frees */
/* Who is sent to from now on, ourselves left out. Connections to those that stay under the same address stay;
 * guests that are not among them go. At most TRANSPORT_SERVERS_MAX. -E_NOMEM: somebody is not sent to yet. */
int transport_set(struct transport *transport, const struct transport_server *servers, unsigned n);
/* A server that is not, or not yet, known here but may be answered: a leader of a newer configuration. Kept until the next
 * transport_set(); at most TRANSPORT_GUESTS_MAX (then -E_BUSY). 0 when it is a peer already. */
int transport_guest(struct transport *transport, const struct transport_server *server);
/* Takes the message; dropped when there is no such peer. */
void transport_send(struct transport *transport, uint32_t to, struct transport_message *message);
/* For a message received from a peer: false when a newer one of the same process came before it. */
bool transport_in_order(struct transport *transport, const Tarn__RaftMessage *message);
/* True when the last message to that replica arrived. */
bool transport_reachable(const struct transport *transport, uint32_t id);

#endif
