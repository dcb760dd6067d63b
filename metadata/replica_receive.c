/* Messages of the other replicas: each becomes an event of libraft, after what the rules in replica_impl.h ask for.
 * Whoever is not in our configuration is heard, too: its may be newer. */
#include "replica_core.h"
#include "replica_message.h"
#include "common/err.h"
#include "meta.pb-c.h"
#include "ops.h"
#include <stdio.h>

static void reply_stale(struct replica *replica, const Tarn__RaftMessage *message)
{
    struct raft_message reply = {.type = RAFT_APPEND_ENTRIES_RESULT, .server_id = message->from};
    reply.append_entries_result = (struct raft_append_entries_result){
        .version = 1,
        .term = raft_current_term(&replica->core->raft),
        .rejected = message->type == RAFT_TYPE_APPEND ? message->prev_index : 0};
    core_send(replica, &reply);
}

static int receive(struct replica *replica, const Tarn__RaftMessage *in, struct raft_message *message,
                   struct raft_update *update)
{
    message->type = in->type;
    message->server_id = in->from;
    message->server_address = in->address[0] != '\0' ? in->address : replica_address(replica, (uint32_t)in->from);
    if (message->server_address[0] == '\0')
        message->server_address = "-"; /* of the version before, and not a member: it gets no answer */
    struct raft_event event = {.type = RAFT_RECEIVE, .receive.message = message};
    return core_step(replica, &event, update);
}

/* What is left of an AppendEntries. */
struct append {
    uint64_t prev_index, prev_term;
    struct raft_entry *entries;
    unsigned n;
};

static void append_skip(struct append *append, unsigned n)
{
    if (n == 0)
        return;
    append->prev_index += n;
    append->prev_term = append->entries[n - 1].term;
    append->entries += n;
    append->n -= n;
}

/* R8. What is committed here is the same at every later leader, so its part of the message is skipped. */
static void skip_committed(struct replica *replica, struct append *append)
{
    uint64_t commit = raft_commit_index(&replica->core->raft);
    uint64_t term = commit == replica->snapshot.index ? replica->snapshot.term
                                                      : wal_term_of(replica->wal, commit);
    bool known = append->prev_index >= wal_first(replica->wal) ||
                 append->prev_index == replica->snapshot.index || wal_first(replica->wal) == 1;
    if (known || append->prev_index >= commit || term == 0)
        return;
    append_skip(append, (unsigned)MIN(commit - append->prev_index, (uint64_t)append->n));
    append->prev_index = commit;
    append->prev_term = term;
}

/* One AppendEntries with the first `n` entries of what is left. */
static int receive_entries(struct replica *replica, const Tarn__RaftMessage *in,
                           const struct append *append, unsigned n)
{
    struct raft_message message = {
        .append_entries = {.version = (unsigned char)in->version,
                           .term = in->term,
                           .prev_log_index = append->prev_index,
                           .prev_log_term = append->prev_term,
                           .leader_commit = in->commit,
                           .entries = append->entries,
                           .n_entries = n}};
    void *batch = NULL;
    if (n > 0) {
        batch = raft_malloc(1);
        if (batch == NULL)
            return -E_NOMEM;
        for (unsigned i = 0; i < n; i++)
            append->entries[i].batch = batch;
    }
    struct raft_update update;
    int err = receive(replica, in, &message, &update);
    if ((update.flags & RAFT_UPDATE_ENTRIES) != 0)
        raft_free(batch); /* R6: otherwise raft has freed it */
    return err;
}

/* R10. The message goes on after entries that are here as they are at the leader, one of them a configuration. */
static int settle_configuration(struct replica *replica, const struct append *append)
{
    struct raft *raft = &replica->core->raft;
    uint64_t index = raft->configuration_uncommitted_index;
    if (append->n == 0 || append->entries[0].type != RAFT_CHANGE || index == 0 || index > append->prev_index ||
        wal_term_of(replica->wal, append->prev_index) != append->prev_term)
        return 0;
    struct raft_event event = {.type = RAFT_CONFIGURATION, .configuration.index = index};
    raft_configuration_init(&event.configuration.conf);
    for (unsigned i = 0; i < raft->configuration.n; i++) {
        const struct raft_server *server = &raft->configuration.servers[i];
        int rv = raft_configuration_add(&event.configuration.conf, server->id, server->address, server->role);
        if (rv != 0) {
            raft_configuration_close(&event.configuration.conf);
            return core_error(rv);
        }
    }
    struct raft_update update;
    return core_step(replica, &event, &update); /* raft takes the configuration */
}

static int receive_append(struct replica *replica, const Tarn__RaftMessage *in,
                          const uint8_t *payload, size_t payload_len)
{
    _cleanup_free_ struct raft_entry *entries = NULL;
    int err = replica_entries_decode(in, payload, payload_len, &entries);
    if (err != 0)
        return err;
    if (in->prev_index > 0 && in->prev_term == 0)
        return -E_PROTO;
    if (in->term < raft_current_term(&replica->core->raft)) {
        reply_stale(replica, in);
        return 0;
    }
    if (replica->heard_term != in->term || replica->heard_from != in->from)
        replica->heard_stamp = 0;
    replica->heard_term = in->term;
    replica->heard_from = in->from;
    replica->heard_stamp = MAX(replica->heard_stamp, in->lease_stamp);
    struct append append = {.prev_index = in->prev_index,
                            .prev_term = in->prev_term,
                            .entries = entries,
                            .n = (unsigned)in->n_entries};
    skip_committed(replica, &append);
    do { /* R4 */
        err = settle_configuration(replica, &append);
        if (err != 0)
            return err;
        unsigned n = append.n > 0 ? 1 : 0;
        while (n < append.n && append.entries[n].type != RAFT_CHANGE)
            n++;
        err = receive_entries(replica, in, &append, n);
        append_skip(&append, n);
    } while (err == 0 && append.n > 0);
    return err;
}

static int tell_result(struct replica *replica, const Tarn__RaftMessage *in, uint64_t rejected, uint64_t last_index)
{
    struct raft_message message = {
        .append_entries_result = {.version = (unsigned char)in->version,
                                  .term = in->term,
                                  .rejected = rejected,
                                  .last_log_index = last_index,
                                  .features = (unsigned short)in->features,
                                  .capacity = (unsigned short)in->capacity}};
    struct raft_update update;
    return receive(replica, in, &message, &update);
}

/* R14. What is in a snapshot is committed, so it is in our log as it is there. */
static int settle_snapshot(struct replica *replica, const Tarn__RaftMessage *in)
{
    struct member *member = member_find(replica, in->from);
    if (member == NULL || in->rejected == 0 || in->installing || !replica->core_leads ||
        in->term != raft_current_term(&replica->core->raft))
        return 0;
    if (in->snapshot_index > core_match(replica, member->server.id) && in->snapshot_index <= wal_last(replica->wal)) {
        int err = tell_result(replica, in, 0, in->snapshot_index);
        if (err != 0)
            return err;
    }
    /* It did not arrive. Raft hears this beside the refusal itself: which of the two counts depends on whether it waits for
     * the snapshot or has begun to send entries again, and it passes over the other. */
    if (member->offered > core_match(replica, member->server.id) && in->last_index < member->offered)
        return tell_result(replica, in, member->offered, in->last_index);
    return 0;
}

static int receive_append_result(struct replica *replica, const Tarn__RaftMessage *in)
{
    int err = settle_snapshot(replica, in);
    if (err == 0)
        err = tell_result(replica, in, in->rejected, in->last_index);
    if (err == 0 && replica->core_leads && in->term == raft_current_term(&replica->core->raft)) {
        struct member *member = member_find(replica, in->from);
        if (member != NULL && in->lease_stamp > member->stamp && in->lease_stamp <= io_mono_ns(replica->io)) {
            member->stamp = in->lease_stamp;
            fiber_queue_wake_all(&replica->read_wake);
        }
    }
    return err;
}

static int receive_vote(struct replica *replica, const Tarn__RaftMessage *in)
{
    if (io_mono_ns(replica->io) < replica->silent_until_ns || !newcomer_may_vote(replica, in->term, in->last_term, in->last_index))
        return 0;
    struct raft_message message = {.request_vote = {.version = (unsigned char)in->version,
                                                    .term = in->term,
                                                    .candidate_id = in->candidate,
                                                    .last_log_index = in->last_index,
                                                    .last_log_term = in->last_term,
                                                    .disrupt_leader = in->disrupt_leader,
                                                    .pre_vote = in->pre_vote}};
    struct raft_update update;
    return receive(replica, in, &message, &update);
}

static int receive_vote_result(struct replica *replica, const Tarn__RaftMessage *in)
{
    struct raft_message message = {
        .request_vote_result = {.version = (unsigned char)in->version,
                                .term = in->term,
                                .vote_granted = in->vote_granted,
                                .pre_vote = in->pre_vote,
                                .features = (unsigned short)in->features,
                                .capacity = (unsigned short)in->capacity}};
    struct raft_update update;
    return receive(replica, in, &message, &update);
}

static int receive_install(struct replica *replica, const Tarn__RaftMessage *in)
{
    if (replica->installing || in->last_index == 0 || in->last_term == 0)
        return 0; /* the one under way comes first; Raft offers again */
    if (!snapshot_name_valid(in->snapshot))
        return -E_PROTO;
    if (in->term < raft_current_term(&replica->core->raft)) {
        reply_stale(replica, in);
        return 0;
    }
    struct raft_message message = {.install_snapshot = {.version = (unsigned char)in->version,
                                                        .term = in->term,
                                                        .last_index = in->last_index,
                                                        .last_term = in->last_term,
                                                        .conf_index = in->conf_index}};
    int err = replica_configuration_decode(in, &message.install_snapshot.conf);
    if (err != 0)
        return err;
    message.install_snapshot.data.base = raft_malloc(1); /* its owner becomes raft, or the update */
    if (message.install_snapshot.data.base == NULL) {
        raft_configuration_close(&message.install_snapshot.conf);
        return -E_NOMEM;
    }
    message.install_snapshot.data.len = 1;
    strcpy(replica->offer, in->snapshot);
    snprintf(replica->offer_address, sizeof replica->offer_address, "%s",
             in->address[0] != '\0' ? in->address : replica_address(replica, (uint32_t)in->from));
    replica->offer_from = (uint32_t)in->from;
    replica->offer_bytes = in->snapshot_bytes;
    struct raft_update update;
    return receive(replica, in, &message, &update);
}

/* A newcomer would stand for election with a vote that it must not give. */
static int receive_timeout_now(struct replica *replica, const Tarn__RaftMessage *in)
{
    if (replica->newcomer || replica->unfit || replica->muted)
        return 0;
    struct raft_message message = {.timeout_now = {.version = (unsigned char)in->version,
                                                   .term = in->term,
                                                   .last_log_index = in->last_index,
                                                   .last_log_term = in->last_term}};
    struct raft_update update;
    return receive(replica, in, &message, &update);
}

static int dispatch(struct replica *replica, const Tarn__RaftMessage *in, const uint8_t *payload,
                    size_t payload_len)
{
    switch (in->type) {
    case RAFT_TYPE_APPEND:
        return receive_append(replica, in, payload, payload_len);
    case RAFT_TYPE_APPEND_RESULT:
        return receive_append_result(replica, in);
    case RAFT_TYPE_VOTE:
        return receive_vote(replica, in);
    case RAFT_TYPE_VOTE_RESULT:
        return receive_vote_result(replica, in);
    case RAFT_TYPE_INSTALL:
        return receive_install(replica, in);
    case RAFT_TYPE_TIMEOUT_NOW:
        return receive_timeout_now(replica, in);
    case RAFT_TYPE_WELCOME:
        return member_welcomed(replica, in);
    case RAFT_TYPE_END_ASK:
        newcomer_asked(replica, in);
        return 0;
    case RAFT_TYPE_END:
        newcomer_told(replica, in);
        return 0;
    default:
        return -E_PROTO;
    }
}

/* We lead and the sender does not take part. One that leads in a higher term is new to us and we are behind. */
static bool was_removed(const struct replica *replica, const Tarn__RaftMessage *in)
{
    bool leads = in->type == RAFT_TYPE_APPEND || in->type == RAFT_TYPE_INSTALL;
    return replica->core_leads && !(leads && in->term > raft_current_term(&replica->core->raft));
}

/* Somebody who is not in our configuration: it may be newer than ours. Its messages count, and it is answered. */
static int take_stranger(struct replica *replica, const Tarn__RaftMessage *in)
{
    struct transport_server server = {.id = (uint32_t)in->from};
    if (in->type == RAFT_TYPE_WELCOME || in->address[0] == '\0')
        return 0; /* answered by the call's own reply, or not at all */
    if (config_address_wrong(in->address) != NULL ||
        snprintf(server.address, sizeof server.address, "%s", in->address) >= (int)sizeof server.address)
        return -E_PROTO;
    int err = transport_guest(replica->transport, &server);
    return err == -E_BUSY ? 0 : err;
}

int replica_handle_raft(struct replica *replica, struct rpc_request *request, const void *message)
{
    const Tarn__RaftMessage *in = message;
    if (in->from < 1 || in->from > REPLICA_ID_MAX || in->from == replica->options.id)
        return -E_PROTO;
    int err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    Tarn__RaftReply reply = TARN__RAFT_REPLY__INIT;
    reply.term = raft_current_term(&replica->core->raft);
    reply.conf_index = core_conf_index(replica);
    reply.unanswered = true;
    bool stranger = member_find(replica, in->from) == NULL;
    if (replica->stopping || replica->failed != 0 || core_is_silent(replica))
        err = -E_UNAVAIL;
    else if (stranger && was_removed(replica, in))
        reply.removed = true;
    else if (stranger)
        err = take_stranger(replica, in);
    const char *leader = stranger ? replica_leader_address(replica) : NULL;
    char leader_address[sizeof((struct replica_server *)NULL)->address]; /* libraft's own is gone when it steps */
    if (leader != NULL && strlen(leader) < sizeof leader_address) {
        reply.leader = replica_leader_id(replica);
        reply.leader_address = strcpy(leader_address, leader);
    }
    if (err == 0 && !reply.removed && transport_in_order(replica->transport, in)) /* R7 */
        err = dispatch(replica, in, request->payload, request->payload_len);
    fiber_mutex_unlock(&replica->step_lock);
    return err != 0 ? err : rpc_reply(request, &reply.base);
}
