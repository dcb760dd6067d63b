/* See replica_message.h. */
#include "replica_message.h"
#include "common/err.h"
#include "meta.pb-c.h"
#include <stdio.h>

_Static_assert((int)RAFT_TYPE_APPEND == RAFT_APPEND_ENTRIES &&
                   (int)RAFT_TYPE_APPEND_RESULT == RAFT_APPEND_ENTRIES_RESULT &&
                   (int)RAFT_TYPE_VOTE == RAFT_REQUEST_VOTE &&
                   (int)RAFT_TYPE_VOTE_RESULT == RAFT_REQUEST_VOTE_RESULT &&
                   (int)RAFT_TYPE_INSTALL == RAFT_INSTALL_SNAPSHOT &&
                   (int)RAFT_TYPE_TIMEOUT_NOW == RAFT_TIMEOUT_NOW,
               "numbers of messages on the wire");
_Static_assert((int)RAFT_ENTRY_COMMAND == RAFT_COMMAND && (int)RAFT_ENTRY_BARRIER == RAFT_BARRIER &&
                   (int)RAFT_ENTRY_CHANGE == RAFT_CHANGE,
               "numbers of entries in the log");
_Static_assert((int)RAFT_ROLE_STANDBY == RAFT_STANDBY && (int)RAFT_ROLE_VOTER == RAFT_VOTER &&
                   (int)RAFT_ROLE_SPARE == RAFT_SPARE,
               "numbers of roles in snapshots and on the wire");

/* ------------------------------------------------------------------ out */
static void fill_append(const struct raft_append_entries *in, struct transport_message *out)
{
    out->head.term = in->term;
    out->head.prev_index = in->prev_log_index;
    out->head.prev_term = in->prev_log_term;
    out->head.commit = in->leader_commit;
    out->head.version = in->version;
    out->n_entries = in->n_entries;
}

static void fill_append_result(const struct replica *replica, uint64_t to,
                               const struct raft_append_entries_result *in, Tarn__RaftMessage *out)
{
    out->term = in->term;
    out->rejected = in->rejected;
    out->last_index = in->last_log_index;
    out->version = in->version;
    out->features = in->features;
    out->capacity = in->capacity;
    out->installing = replica->installing;
    out->snapshot_index = replica->snapshot.index;
    if (replica->heard_term == in->term && replica->heard_from == to)
        out->lease_stamp = replica->heard_stamp;
}

static void fill_vote(const struct raft_request_vote *in, Tarn__RaftMessage *out)
{
    out->term = in->term;
    out->candidate = in->candidate_id;
    out->last_index = in->last_log_index;
    out->last_term = in->last_log_term;
    out->disrupt_leader = in->disrupt_leader;
    out->pre_vote = in->pre_vote;
    out->version = in->version;
}

static void fill_vote_result(const struct raft_request_vote_result *in, Tarn__RaftMessage *out)
{
    out->term = in->term;
    out->vote_granted = in->vote_granted;
    out->pre_vote = in->pre_vote;
    out->version = in->version;
    out->features = in->features;
    out->capacity = in->capacity;
}

void replica_message_server(struct transport_message *out, uint64_t id, unsigned role, const char *address)
{
    size_t i = out->head.n_conf;
    if (i == TRANSPORT_SERVERS_MAX)
        return;
    Tarn__RaftServer *server = &out->servers[i];
    tarn__raft_server__init(server);
    snprintf(out->addresses[i], sizeof out->addresses[i], "%s", address);
    server->id = id;
    server->role = role;
    server->address = out->addresses[i];
    out->server_list[i] = server;
    out->head.conf = out->server_list;
    out->head.n_conf++;
}

/* The snapshot itself is pulled by the receiver; the message says which. */
static bool fill_install(const struct replica *replica, const struct raft_install_snapshot *in,
                         struct transport_message *out)
{
    const struct snapshot_meta *meta = &replica->snapshot;
    if (meta->index != in->last_index || meta->term != in->last_term)
        return false;
    Tarn__RaftMessage *head = &out->head;
    head->term = in->term;
    head->last_index = in->last_index;
    head->last_term = in->last_term;
    head->version = in->version;
    head->conf_index = meta->conf_index;
    for (unsigned i = 0; i < meta->n_servers; i++)
        replica_message_server(out, meta->servers[i].id, meta->servers[i].role, meta->servers[i].address);
    snapshot_name(out->snapshot, meta->index, meta->term);
    head->snapshot = out->snapshot;
    head->snapshot_bytes = replica->snapshot_bytes;
    return true;
}

bool replica_message_encode(const struct replica *replica, const struct raft_message *in,
                            struct transport_message *out)
{
    out->head.type = in->type;
    out->head.from = replica->options.id;
    out->head.address = (char *)(uintptr_t)replica->address;
    switch (in->type) {
    case RAFT_APPEND_ENTRIES:
        fill_append(&in->append_entries, out);
        return true;
    case RAFT_APPEND_ENTRIES_RESULT:
        fill_append_result(replica, in->server_id, &in->append_entries_result, &out->head);
        return true;
    case RAFT_REQUEST_VOTE:
        fill_vote(&in->request_vote, &out->head);
        return true;
    case RAFT_REQUEST_VOTE_RESULT:
        fill_vote_result(&in->request_vote_result, &out->head);
        return true;
    case RAFT_INSTALL_SNAPSHOT:
        return fill_install(replica, &in->install_snapshot, out);
    case RAFT_TIMEOUT_NOW:
        out->head.term = in->timeout_now.term;
        out->head.last_index = in->timeout_now.last_log_index;
        out->head.last_term = in->timeout_now.last_log_term;
        out->head.version = in->timeout_now.version;
        return true;
    default:
        return false;
    }
}

/* ------------------------------------------------------------------ in */
/* As libraft encodes it: version 1, number of servers, for each its id, its address with a zero, its role; zeros up to a
 * multiple of 8. */
bool raft_configuration_valid(const uint8_t *data, size_t len)
{
    struct reader r = reader_init(data, len);
    if (reader_u8(&r) != 1)
        return false;
    uint64_t n = reader_u64(&r);
    if (r.failed || n < 1 || n > REPLICA_SERVERS_MAX)
        return false;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t id = reader_u64(&r);
        size_t left = r.failed ? 0 : reader_left(&r);
        const uint8_t *end = left == 0 ? NULL : memchr(data + (len - left), 0, left);
        if (end == NULL || id == 0 || id > REPLICA_ID_MAX)
            return false;
        size_t text = (size_t)(end - (data + (len - left)));
        if (text == 0 || text >= sizeof((struct replica_server *)NULL)->address)
            return false;
        (void)reader_bytes(&r, text + 1);
        if (reader_u8(&r) > RAFT_SPARE)
            return false;
    }
    return !r.failed && reader_left(&r) < 8;
}

int replica_entries_decode(const Tarn__RaftMessage *in, const uint8_t *payload, size_t payload_len,
                           struct raft_entry **ret)
{
    if (in->n_entries > TRANSPORT_ENTRIES_MAX)
        return -E_PROTO;
    struct raft_entry *entries = calloc(in->n_entries + 1, sizeof *entries);
    if (entries == NULL)
        return -E_NOMEM;
    struct reader r = reader_init(payload, payload_len);
    for (size_t i = 0; i < in->n_entries; i++) {
        const Tarn__RaftEntry *entry = in->entries[i];
        const uint8_t *data = reader_bytes(&r, entry->length);
        /* libraft reads a configuration without looking where it ends. */
        bool wrong = !r.failed && entry->type == RAFT_CHANGE && !raft_configuration_valid(data, entry->length);
        if (wrong || r.failed || entry->term == 0 || entry->type < RAFT_COMMAND || entry->type > RAFT_CHANGE) {
            free(entries);
            return -E_PROTO;
        }
        entries[i] = (struct raft_entry){
            .term = entry->term,
            .type = (enum raft_entry_type)entry->type,
            .buf = {.base = (void *)(uintptr_t)data, .len = entry->length}};
    }
    *ret = entries;
    return 0;
}

int replica_configuration_decode(const Tarn__RaftMessage *in, struct raft_configuration *ret)
{
    raft_configuration_init(ret);
    if (in->n_conf == 0 || in->n_conf > TRANSPORT_SERVERS_MAX)
        return -E_PROTO;
    int rv = 0;
    for (size_t i = 0; i < in->n_conf && rv == 0; i++)
        rv = raft_configuration_add(ret, in->conf[i]->id, in->conf[i]->address, (int)in->conf[i]->role);
    if (rv != 0)
        raft_configuration_close(ret);
    return rv == 0 ? 0 : rv == RAFT_NOMEM ? -E_NOMEM : -E_PROTO;
}
