/* See transport.h. */
#include "transport.h"
#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"
#include "ops.h"
#include "raft_types.h"

#define UNANSWERED_MAX 64  /* messages between two replies: fewer than the other side takes at a time */
#define ANSWER_EVERY_MS 50

struct peer {
    struct list node; /* in transport.peers, or in none when it is gone */
    struct transport *transport;
    struct transport_server server;
    bool guest, gone; /* gone: its fiber ends and frees it */
    struct rpc_client *client;
    struct transport_message *head, **tail;
    unsigned count;
    struct fiber_queue wake;
    bool reachable;
    /* Replies are not needed for each message: Raft answers by messages of its own, and what is lost is sent again. One
     * now and then tells that the other side is there, and bounds how much is under way. */
    bool takes_unanswered;
    unsigned unanswered;     /* since the last reply */
    uint64_t answered_ms;
    uint64_t seen_incarnation, seen_sequence; /* of the last message received */
};

struct transport {
    struct io *io;
    struct transport_options options;
    uint64_t incarnation, sequence; /* of the last message sent, whoever it went to */
    bool stopping;
    struct fiber_group fibers;
    struct list peers;
};

static struct peer *peer_find(const struct transport *transport, uint64_t id)
{
    list_foreach(&transport->peers, it)
    {
        struct peer *peer = list_entry(it, struct peer, node);
        if (peer->server.id == id)
            return peer;
    }
    return NULL;
}

struct transport_message *transport_message_new(void)
{
    struct transport_message *message = calloc(1, sizeof *message);
    if (message != NULL)
        tarn__raft_message__init(&message->head);
    return message;
}

static struct transport_message *queue_pop(struct peer *peer)
{
    struct transport_message *message = peer->head;
    if (message == NULL)
        return NULL;
    peer->head = message->next;
    if (peer->head == NULL)
        peer->tail = &peer->head;
    peer->count--;
    return message;
}

static void queue_clear(struct peer *peer)
{
    struct transport_message *message;
    while ((message = queue_pop(peer)) != NULL)
        free(message);
}

void transport_send(struct transport *transport, uint32_t to, struct transport_message *message)
{
    struct peer *peer = peer_find(transport, to);
    if (transport->stopping || peer == NULL || peer->count >= TRANSPORT_QUEUE_MAX) {
        free(message);
        return;
    }
    message->next = NULL;
    *peer->tail = message;
    peer->tail = &message->next;
    peer->count++;
    fiber_queue_wake_one(&peer->wake);
}

static bool needs_answer(const struct peer *peer, const Tarn__RaftMessage *head)
{
    bool plain = head->type == RAFT_TYPE_APPEND || (head->type == RAFT_TYPE_APPEND_RESULT && !head->rejected);
    return !plain || !peer->takes_unanswered || !peer->reachable || peer->unanswered >= UNANSWERED_MAX ||
           io_mono_ms(peer->transport->io) - peer->answered_ms >= ANSWER_EVERY_MS;
}

static void note_answer(struct peer *peer, const Tarn__RaftReply *reply)
{
    peer->takes_unanswered = reply->unanswered;
    peer->unanswered = 0;
    peer->answered_ms = io_mono_ms(peer->transport->io);
    peer->transport->options.answered(peer->transport->options.arg, peer->server.id, reply);
}

static int call(struct peer *peer, Tarn__RaftMessage *head, const struct transport_batch *batch)
{
    struct transport *transport = peer->transport;
    if (transport->stopping || peer->gone)
        return -E_CANCELED;
    head->incarnation = transport->incarnation;
    head->sequence = ++transport->sequence;
    struct iovec payload = {0};
    struct rpc_call call = {
        .op = OP_RAFT, .request = &head->base, .timeout_ms = transport->options.timeout_ms,
        .reply_type = &tarn__raft_reply__descriptor, .unanswered = !needs_answer(peer, head)};
    if (batch != NULL && batch->data.len > 0) {
        payload = (struct iovec){.iov_base = batch->data.data, .iov_len = batch->data.len};
        call.payload = &payload;
        call.n_payload = 1;
    }
    /* The stamp is taken before the message leaves: the receiver's election timer starts later. */
    if (head->type == RAFT_TYPE_APPEND)
        head->lease_stamp = io_mono_ns(transport->io);
    int err = rpc_call(peer->client, &call);
    if (err == 0 && call.unanswered)
        peer->unanswered++;
    else if (err == 0 && !peer->gone && !transport->stopping)
        note_answer(peer, (const Tarn__RaftReply *)call.reply);
    rpc_call_fini(&call);
    return err;
}

static void batch_fini(struct transport_batch *batch)
{
    free(batch->entries);
    writer_fini(&batch->data);
}

static void batch_attach(struct transport_batch *batch, Tarn__RaftEntry **list,
                         Tarn__RaftMessage *head)
{
    for (uint32_t i = 0; i < batch->count; i++)
        list[i] = &batch->entries[i];
    head->entries = list;
    head->n_entries = batch->count;
}

/* One message of Raft becomes as many on the wire as its entries need. */
static int send_entries(struct peer *peer, struct transport_message *message)
{
    const struct transport_options *options = &peer->transport->options;
    uint32_t max = MIN(message->n_entries, (uint32_t)TRANSPORT_ENTRIES_MAX);
    _cleanup_free_ Tarn__RaftEntry **list = calloc(max, sizeof *list);
    if (list == NULL)
        return -E_NOMEM;
    for (uint32_t left = message->n_entries; left > 0;) {
        _cleanup_(batch_fini) struct transport_batch batch = {0};
        int err = options->fetch(options->arg, message->head.term, message->head.prev_index + 1,
                                 MIN(left, max), &batch);
        if (err != 0)
            return err;
        batch_attach(&batch, list, &message->head);
        err = call(peer, &message->head, &batch);
        if (err != 0)
            return err;
        left -= batch.count;
        message->head.prev_index += batch.count;
        message->head.prev_term = batch.entries[batch.count - 1].term;
    }
    return 0;
}

static void note_reachable(struct peer *peer, int err)
{
    bool reachable = err == 0 || err == -E_NOENT; /* not there any more: only our own log */
    if (reachable && !peer->reachable)
        log_info("replica %u reaches replica %u", peer->transport->options.self, peer->server.id);
    else if (!reachable && peer->reachable)
        log_info("replica %u cannot reach replica %u: %s", peer->transport->options.self, peer->server.id,
                 err_sentence(err));
    peer->reachable = reachable;
}

static void peer_fiber(void *arg)
{
    struct peer *peer = arg;
    struct transport *transport = peer->transport;
    while (!transport->stopping && !peer->gone) {
        struct transport_message *message = queue_pop(peer);
        if (message == NULL) {
            if (fiber_queue_wait(&peer->wake, 0) == -E_CANCELED)
                break;
            continue;
        }
        int err = message->n_entries > 0 ? send_entries(peer, message)
                                         : call(peer, &message->head, NULL);
        free(message);
        if (err == -E_CANCELED)
            break;
        note_reachable(peer, err);
        /* What waits behind a lost message would only be refused or be out of date. */
        if (err != 0)
            queue_clear(peer);
    }
    queue_clear(peer);
    list_remove(&peer->node);
    if (!peer->gone)
        rpc_client_destroy(peer->client);
    free(peer);
    fiber_group_done(&transport->fibers);
}

/* Its calls return; its fiber frees it. */
static void peer_stop(struct peer *peer)
{
    list_remove(&peer->node);
    peer->gone = true;
    rpc_client_destroy(peer->client);
    fiber_queue_wake_all(&peer->wake);
}

static int peer_start(struct transport *transport, const struct transport_server *server, bool guest)
{
    struct peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL)
        return -E_NOMEM;
    *peer = (struct peer){.transport = transport, .server = *server, .guest = guest};
    list_init(&peer->node);
    peer->tail = &peer->head;
    peer->client = rpc_client_create(transport->io, server->address, transport->options.auth);
    if (peer->client == NULL) {
        free(peer);
        return -E_NOMEM;
    }
    fiber_group_add(&transport->fibers);
    int err = fiber_spawn(transport->io, "raft-peer", peer_fiber, peer);
    if (err != 0) {
        fiber_group_done(&transport->fibers);
        rpc_client_destroy(peer->client);
        free(peer);
        return err;
    }
    list_append(&transport->peers, &peer->node);
    return 0;
}

int transport_start(struct io *io, const struct transport_options *options, struct transport **ret)
{
    struct transport *transport = calloc(1, sizeof *transport);
    if (transport == NULL)
        return -E_NOMEM;
    transport->io = io;
    transport->options = *options;
    transport->incarnation = io_random_u64(io);
    list_init(&transport->peers);
    *ret = transport;
    return 0;
}

static const struct transport_server *among(const struct transport_server *servers, unsigned n, const struct peer *peer)
{
    for (unsigned i = 0; i < n; i++)
        if (servers[i].id == peer->server.id && strcmp(servers[i].address, peer->server.address) == 0)
            return &servers[i];
    return NULL;
}

int transport_set(struct transport *transport, const struct transport_server *servers, unsigned n)
{
    CHECK(n <= TRANSPORT_SERVERS_MAX);
    list_foreach_safe(&transport->peers, it, next)
    {
        struct peer *peer = list_entry(it, struct peer, node);
        if (among(servers, n, peer) == NULL)
            peer_stop(peer);
        else
            peer->guest = false;
    }
    int err = 0;
    for (unsigned i = 0; i < n && err == 0; i++)
        if (servers[i].id != transport->options.self && peer_find(transport, servers[i].id) == NULL)
            err = peer_start(transport, &servers[i], false);
    return err;
}

int transport_guest(struct transport *transport, const struct transport_server *server)
{
    struct peer *known = peer_find(transport, server->id);
    if (known != NULL && (!known->guest || strcmp(known->server.address, server->address) == 0))
        return 0;
    if (known != NULL)
        peer_stop(known);
    unsigned guests = 0;
    list_foreach(&transport->peers, it) guests += list_entry(it, struct peer, node)->guest;
    return guests >= TRANSPORT_GUESTS_MAX ? -E_BUSY : peer_start(transport, server, true);
}

void transport_stop(struct transport *transport)
{
    if (transport == NULL)
        return;
    transport->stopping = true;
    list_foreach_safe(&transport->peers, it, next)
    {
        peer_stop(list_entry(it, struct peer, node)); /* a call under way returns */
    }
    if (transport->fibers.running > 0)
        fiber_group_wait(&transport->fibers);
    free(transport);
}

bool transport_in_order(struct transport *transport, const Tarn__RaftMessage *message)
{
    struct peer *peer = peer_find(transport, message->from);
    if (peer == NULL)
        return true; /* from one that cannot be answered: raft's own rules are enough */
    if (peer->seen_incarnation == message->incarnation && message->sequence <= peer->seen_sequence)
        return false;
    peer->seen_incarnation = message->incarnation;
    peer->seen_sequence = message->sequence;
    return true;
}

bool transport_reachable(const struct transport *transport, uint32_t id)
{
    const struct peer *peer = peer_find(transport, id);
    return id == transport->options.self || (peer != NULL && peer->reachable);
}
