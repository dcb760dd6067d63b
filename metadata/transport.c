/* See transport.h. */
#include "transport.h"
#include "common/check.h"
#include "common/config.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"
#include "ops.h"
#include "raft_types.h"

struct peer {
    struct transport *transport;
    uint32_t id;
    struct rpc_client *client;
    struct transport_message *head, **tail;
    unsigned count;
    struct fiber_queue wake;
    uint64_t sequence; /* of the last message sent */
    bool reachable;
    uint64_t seen_incarnation, seen_sequence; /* of the last message received */
};

struct transport {
    struct io *io;
    struct transport_options options;
    uint64_t incarnation;
    bool stopping;
    struct fiber_group fibers;
    struct peer peers[CONFIG_META_MAX]; /* by id - 1; our own stays unused */
};

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
    CHECK(to >= 1 && to <= transport->options.n_servers && to != transport->options.self);
    struct peer *peer = &transport->peers[to - 1];
    if (transport->stopping || peer->count >= TRANSPORT_QUEUE_MAX) {
        free(message);
        return;
    }
    message->next = NULL;
    *peer->tail = message;
    peer->tail = &message->next;
    peer->count++;
    fiber_queue_wake_one(&peer->wake);
}

static int call(struct peer *peer, Tarn__RaftMessage *head, const struct transport_batch *batch)
{
    struct transport *transport = peer->transport;
    if (transport->stopping)
        return -E_CANCELED;
    head->incarnation = transport->incarnation;
    head->sequence = ++peer->sequence;
    struct iovec payload = {0};
    struct rpc_call call = {
        .op = OP_RAFT, .request = &head->base, .timeout_ms = transport->options.timeout_ms};
    if (batch != NULL && batch->data.len > 0) {
        payload = (struct iovec){.iov_base = batch->data.data, .iov_len = batch->data.len};
        call.payload = &payload;
        call.n_payload = 1;
    }
    /* The stamp is taken before the message leaves: the receiver's election timer starts later. */
    if (head->type == RAFT_TYPE_APPEND)
        head->lease_stamp = io_mono_ns(transport->io);
    int err = rpc_call(peer->client, &call);
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

static void peer_fiber(void *arg)
{
    struct peer *peer = arg;
    struct transport *transport = peer->transport;
    while (!transport->stopping) {
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
        bool reachable = err == 0 || err == -E_NOENT; /* not there any more: only our own log */
        if (reachable && !peer->reachable)
            log_info("replica %u reaches replica %u", transport->options.self, peer->id);
        else if (!reachable && peer->reachable)
            log_info("replica %u cannot reach replica %u: %s", transport->options.self, peer->id,
                     err_sentence(err));
        peer->reachable = reachable;
        /* What waits behind a lost message would only be refused or be out of date. */
        if (err != 0)
            queue_clear(peer);
    }
    queue_clear(peer);
    fiber_group_done(&transport->fibers);
}

static int peer_start(struct transport *transport, uint32_t id)
{
    struct peer *peer = &transport->peers[id - 1];
    peer->transport = transport;
    peer->id = id;
    peer->tail = &peer->head;
    peer->client = rpc_client_create(transport->io, transport->options.addresses[id - 1],
                                     transport->options.auth);
    if (peer->client == NULL)
        return -E_NOMEM;
    fiber_group_add(&transport->fibers);
    int err = fiber_spawn(transport->io, "raft-peer", peer_fiber, peer);
    if (err != 0)
        fiber_group_done(&transport->fibers);
    return err;
}

int transport_start(struct io *io, const struct transport_options *options, struct transport **ret)
{
    CHECK(options->n_servers <= CONFIG_META_MAX);
    struct transport *transport = calloc(1, sizeof *transport);
    if (transport == NULL)
        return -E_NOMEM;
    transport->io = io;
    transport->options = *options;
    transport->incarnation = io_random_u64(io);
    for (uint32_t id = 1; id <= options->n_servers; id++) {
        int err = id == options->self ? 0 : peer_start(transport, id);
        if (err != 0) {
            transport_stop(transport);
            return err;
        }
    }
    *ret = transport;
    return 0;
}

void transport_stop(struct transport *transport)
{
    if (transport == NULL)
        return;
    transport->stopping = true;
    for (unsigned i = 0; i < transport->options.n_servers; i++) {
        struct peer *peer = &transport->peers[i];
        fiber_queue_wake_all(&peer->wake);
        if (peer->client != NULL)
            rpc_client_destroy(peer->client); /* a call under way returns */
    }
    if (transport->fibers.running > 0)
        fiber_group_wait(&transport->fibers);
    free(transport);
}

bool transport_in_order(struct transport *transport, const Tarn__RaftMessage *message)
{
    struct peer *peer = &transport->peers[message->from - 1];
    if (peer->seen_incarnation == message->incarnation && message->sequence <= peer->seen_sequence)
        return false;
    peer->seen_incarnation = message->incarnation;
    peer->seen_sequence = message->sequence;
    return true;
}

bool transport_reachable(const struct transport *transport, uint32_t id)
{
    return id == transport->options.self || transport->peers[id - 1].reachable;
}
