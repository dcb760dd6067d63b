/* Who takes part in the service, and handing leadership over.
 *
 *   add      welcome ──▶ CHANGE: standby ──▶ fed (log or snapshot) ──▶ caught up ──▶ CHANGE: voter
 *   remove   (leader: hand over) ──▶ CHANGE without it ──▶ told so at its next message
 *
 * What is under way is in the configuration itself, which is in the log and in snapshots: a standby is a server that is
 * being added, and whoever leads promotes it. So a leader that dies in between loses nothing, and asking again for
 * what is done, or under way, succeeds.
 *
 * The welcome tells an empty server that it was never a voter under its id: the leader knows, for the id is not in its
 * configuration. Without it a server with an empty directory does not vote before all voters have answered it (R9), and
 * the one it replaces may be dead. */
#include "replica_core.h"
#include "replica_message.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "ops.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

#define POLL_MS 2            /* while a transfer waits, at most for an election timeout */
#define WELCOME_MS 3000      /* one try to reach a new server */
#define SLOW_WRITE_TIMEOUTS 2 /* a log write that takes so many election timeouts: somebody else should lead */
#define ASK_TIMEOUTS 5       /* silence of so many: am I still one of them? */

_Static_assert(REPLICA_SERVERS_MAX == SNAPSHOT_SERVERS_MAX && REPLICA_SERVERS_MAX == TRANSPORT_SERVERS_MAX,
               "one limit for configurations");

/* ------------------------------------------------------------------ who takes part */
struct member *member_find(struct replica *replica, uint64_t id)
{
    for (unsigned i = 0; i < replica->n_members; i++)
        if (replica->members[i].server.id == id)
            return &replica->members[i];
    return NULL;
}

unsigned member_voters(const struct replica *replica)
{
    unsigned voters = 0;
    for (unsigned i = 0; i < replica->n_members; i++)
        voters += replica->members[i].server.voter;
    return voters;
}

static bool same_servers(const struct replica *replica, const struct raft_configuration *conf)
{
    if (replica->n_members != MIN(conf->n, (unsigned)REPLICA_SERVERS_MAX))
        return false;
    for (unsigned i = 0; i < replica->n_members; i++) {
        const struct replica_server *server = &replica->members[i].server;
        if (server->id != conf->servers[i].id || server->voter != (conf->servers[i].role == RAFT_VOTER) ||
            strcmp(server->address, conf->servers[i].address) != 0)
            return false;
    }
    return true;
}

void member_set_peers(struct replica *replica)
{
    struct transport_server servers[REPLICA_SERVERS_MAX];
    for (unsigned i = 0; i < replica->n_members; i++) {
        servers[i].id = replica->members[i].server.id;
        memcpy(servers[i].address, replica->members[i].server.address, sizeof servers[i].address);
    }
    if (transport_set(replica->transport, servers, replica->n_members) != 0)
        log_warn("replica %u: no memory for all connections to the others", replica->options.id);
}

void core_members(struct replica *replica)
{
    const struct raft_configuration *conf = &replica->core->raft.configuration;
    if (conf->n == 0 || same_servers(replica, conf))
        return; /* empty: those of the command line stay, to be asked */
    struct member members[REPLICA_SERVERS_MAX] = {0};
    unsigned n = MIN(conf->n, (unsigned)REPLICA_SERVERS_MAX);
    for (unsigned i = 0; i < n; i++) {
        const struct raft_server *from = &conf->servers[i];
        const struct member *before = member_find(replica, from->id);
        members[i] = (struct member){.server = {.id = (uint32_t)from->id, .voter = from->role == RAFT_VOTER},
                                     .stamp = before != NULL ? before->stamp : 0,
                                     .offered = before != NULL ? before->offered : 0};
        snprintf(members[i].server.address, sizeof members[i].server.address, "%s", from->address);
        if (from->id == replica->options.id)
            memcpy(replica->address, members[i].server.address, sizeof replica->address);
    }
    memcpy(replica->members, members, sizeof members);
    replica->n_members = n;
    member_set_peers(replica);
    fiber_queue_wake_all(&replica->newcomer_wake);
}

const char *replica_address(const struct replica *replica, uint32_t id)
{
    for (unsigned i = 0; i < replica->n_members; i++)
        if (replica->members[i].server.id == id)
            return replica->members[i].server.address;
    return "";
}

uint32_t replica_id(const struct replica *replica)
{
    return replica->options.id;
}

const char *replica_dir(const struct replica *replica)
{
    return replica->dir;
}

const char *replica_own_address(const struct replica *replica)
{
    return replica->address;
}

unsigned replica_describe(const struct replica *replica, uint32_t *ids, uint64_t *match, bool *reachable, unsigned max)
{
    unsigned n = MIN(replica->n_members, max);
    for (unsigned i = 0; i < n; i++) {
        ids[i] = replica->members[i].server.id;
        match[i] = ids[i] == replica->options.id ? wal_last(replica->wal) : core_match(replica, ids[i]);
        reachable[i] = transport_reachable(replica->transport, ids[i]);
    }
    return n;
}

/* ------------------------------------------------------------------ for a newcomer */
void core_tell_configuration(const struct replica *replica, struct transport_message *out)
{
    const struct raft *raft = &replica->core->raft;
    out->head.conf_index = raft->configuration_committed_index;
    for (unsigned i = 0; i < raft->configuration_committed.n && out->head.conf_index > 0; i++) {
        const struct raft_server *server = &raft->configuration_committed.servers[i];
        replica_message_server(out, server->id, (unsigned)server->role, server->address);
    }
}

/* Among fewer than two voters there is nobody to vote for but ourselves, and that is not ours to do. */
void core_hint(struct replica *replica, const Tarn__RaftMessage *in)
{
    struct raft *raft = &replica->core->raft;
    struct raft_configuration conf;
    if (core_has_configuration(replica) || in->conf_index <= replica->hint_index || raft_state(raft) != RAFT_FOLLOWER ||
        replica_configuration_decode(in, &conf) != 0)
        return;
    unsigned voters = 0;
    for (unsigned i = 0; i < conf.n; i++)
        voters += conf.servers[i].role == RAFT_VOTER;
    if (voters < 2) {
        raft_configuration_close(&conf);
        return;
    }
    raft_configuration_close(&raft->configuration);
    raft->configuration = conf;
    replica->hint_index = in->conf_index;
    core_members(replica);
}

/* ------------------------------------------------------------------ removed */
static void marker_path(const struct replica *replica, char out[REPLICA_PATH_MAX + 16])
{
    snprintf(out, REPLICA_PATH_MAX + 16, "%s/removed", replica->dir);
}

int member_marker_check(struct replica *replica)
{
    char path[REPLICA_PATH_MAX + 16];
    _cleanup_(io_closep) struct io_file *file = NULL;
    marker_path(replica, path);
    int err = io_open(replica->io, path, O_RDONLY, 0, &file);
    if (err == -E_NOENT)
        return 0;
    if (err == 0)
        log_error("replica %u: the directory %s is of a replica that was removed from the service; begin with an empty one",
                  replica->options.id, replica->dir);
    return err == 0 ? -E_PERM : err;
}

/* The mark is what a restart finds. Without it (a full disk) the next start asks, and is told again. */
static void put_marker(struct replica *replica)
{
    char path[REPLICA_PATH_MAX + 16];
    _cleanup_(io_closep) struct io_file *file = NULL;
    marker_path(replica, path);
    int err = io_open(replica->io, path, O_RDWR | O_CREAT, 0600, &file);
    if (err == 0)
        err = io_sync(file);
    if (err == 0)
        err = io_sync_dir(replica->io, replica->dir);
    if (err != 0)
        log_warn("replica %u: cannot note in %s that it was removed: %s", replica->options.id, replica->dir, err_sentence(err));
}

static void ask(struct replica *replica, uint32_t to)
{
    struct transport_message *out = transport_message_new();
    if (out == NULL)
        return; /* asked again later */
    out->head.type = RAFT_TYPE_END_ASK;
    out->head.from = replica->options.id;
    out->head.address = replica->address;
    out->head.term = core_term(replica);
    out->head.last_index = wal_last(replica->wal);
    transport_send(replica->transport, to, out);
}

/* One that does not lead and does not know us sends us to the leader, whom we may not know. */
static void ask_leader(struct replica *replica, const Tarn__RaftReply *reply)
{
    struct transport_server server = {.id = (uint32_t)reply->leader};
    if (reply->leader == replica->options.id || reply->leader > REPLICA_ID_MAX ||
        config_address_wrong(reply->leader_address) != NULL || strlen(reply->leader_address) >= sizeof server.address)
        return;
    strcpy(server.address, reply->leader_address);
    if (transport_guest(replica->transport, &server) == 0)
        ask(replica, server.id);
}

/* Who says so leads in a term that is not older than ours: its configuration is the newest there is. */
void member_answered(void *arg, uint32_t from, const Tarn__RaftReply *reply)
{
    struct replica *replica = arg;
    if (replica->removed || replica->waiting || replica->core_leads || replica->stopping)
        return;
    if (!reply->removed && reply->leader != 0)
        ask_leader(replica, reply);
    if (!reply->removed || reply->term < core_term(replica))
        return;
    log_warn("replica %u: replica %u leads and says that we are not one of them any more", replica->options.id, from);
    replica->removed = true;
    fiber_queue_wake_all(&replica->member_wake);
}

/* ------------------------------------------------------------------ welcome */
int member_welcomed(struct replica *replica, const Tarn__RaftMessage *in)
{
    if (in->candidate != replica->options.id)
        return -E_INVAL;
    if (wal_last(replica->wal) > 0 || replica->snapshot.index > 0 || core_has_configuration(replica))
        return -E_EXIST;
    if (!replica->newcomer)
        return 0; /* welcomed before */
    int err = newcomer_leave(replica);
    if (err != 0)
        return err;
    replica->waiting = false;
    log_info("replica %u: replica %u is about to add it to the service", replica->options.id, (unsigned)in->from);
    return 0;
}

static int welcome(struct replica *replica, const struct replica_server *server, char detail[REPLICA_DETAIL])
{
    struct rpc_client *client = rpc_client_create(replica->io, server->address, replica->options.auth);
    if (client == NULL)
        return -E_NOMEM;
    Tarn__RaftMessage head = TARN__RAFT_MESSAGE__INIT;
    head.type = RAFT_TYPE_WELCOME;
    head.from = replica->options.id;
    head.address = replica->address;
    head.term = core_term(replica);
    head.candidate = server->id;
    head.sequence = UINT64_MAX;
    struct rpc_call call = {.op = OP_RAFT, .request = &head.base, .timeout_ms = WELCOME_MS};
    int err = rpc_call(client, &call);
    rpc_call_fini(&call);
    rpc_client_destroy(client);
    if (err == -E_INVAL)
        snprintf(detail, REPLICA_DETAIL, "the server at %s has another id than %u", server->address, server->id);
    else if (err == -E_EXIST)
        snprintf(detail, REPLICA_DETAIL, "the server at %s has a log already: begin with an empty directory and --join",
                 server->address);
    else if (err == -E_CONN || err == -E_TIMEOUT || err == -E_UNAVAIL) {
        snprintf(detail, REPLICA_DETAIL, "no tarn-metad answers at %s; start it there with --join first", server->address);
        err = -E_UNAVAIL;
    }
    return err;
}

/* ------------------------------------------------------------------ one change */
static int begin(struct replica *replica, char detail[REPLICA_DETAIL], const char *fmt, ...) _printf_(3, 4);
static int begin(struct replica *replica, char detail[REPLICA_DETAIL], const char *fmt, ...)
{
    if (!replica_leads(replica))
        return -E_NOT_LEADER;
    if (replica->changing) {
        snprintf(detail, REPLICA_DETAIL, "another change is under way: %s", replica->change);
        return -E_BUSY;
    }
    replica->changing = true;
    va_list args;
    va_start(args, fmt);
    vsnprintf(replica->change, sizeof replica->change, fmt, args);
    va_end(args);
    return 0;
}

static void end(struct replica *replica)
{
    replica->changing = false;
    replica->change[0] = '\0';
}

static int propose(struct replica *replica, unsigned type, uint8_t *data, size_t len)
{
    struct fsm_result result = {0};
    int err = replica_propose_entry(replica, type, data, len, &result);
    fsm_result_fini(&result);
    return err;
}

/* Would a majority of the voters answer? */
static bool majority_answers(const struct replica *replica, const struct replica_server *servers, unsigned n)
{
    unsigned voters = 0, answer = 0;
    for (unsigned i = 0; i < n; i++) {
        voters += servers[i].voter;
        answer += servers[i].voter && transport_reachable(replica->transport, servers[i].id);
    }
    return answer > voters / 2;
}

static int encode(const struct replica_server *servers, unsigned n, struct raft_buffer *ret)
{
    struct raft_configuration conf;
    raft_configuration_init(&conf);
    int rv = 0;
    for (unsigned i = 0; rv == 0 && i < n; i++)
        rv = raft_configuration_add(&conf, servers[i].id, servers[i].address, servers[i].voter ? RAFT_VOTER : RAFT_STANDBY);
    if (rv == 0)
        rv = raft_configuration_encode(&conf, ret);
    raft_configuration_close(&conf);
    return core_error(rv);
}

/* The next configuration, through the log. With `changing` held. */
static int change_to(struct replica *replica, const struct replica_server *servers, unsigned n, char detail[REPLICA_DETAIL])
{
    if (!majority_answers(replica, servers, n)) {
        snprintf(detail, REPLICA_DETAIL, "of the voters that would remain no majority answers now");
        return -E_UNAVAIL;
    }
    uint8_t nothing[8] = {0};
    int err = propose(replica, RAFT_ENTRY_BARRIER, nothing, sizeof nothing); /* R11 */
    struct raft_buffer buf = {0};
    if (err == 0)
        err = encode(servers, n, &buf);
    if (err == 0)
        err = propose(replica, RAFT_ENTRY_CHANGE, buf.base, buf.len);
    raft_free(buf.base);
    if (err == 0)
        log_info("replica %u: the configuration has %u servers now", replica->options.id, n);
    return err;
}

static unsigned copy_servers(const struct replica *replica, struct replica_server out[REPLICA_SERVERS_MAX])
{
    for (unsigned i = 0; i < replica->n_members; i++)
        out[i] = replica->members[i].server;
    return replica->n_members;
}

/* Somebody is being added: one change at a time. */
static int nobody_joins(const struct replica *replica, uint32_t but, char detail[REPLICA_DETAIL])
{
    for (unsigned i = 0; i < replica->n_members; i++)
        if (!replica->members[i].server.voter && replica->members[i].server.id != but) {
            snprintf(detail, REPLICA_DETAIL, "replica %u is being added; wait, or remove it", replica->members[i].server.id);
            return -E_BUSY;
        }
    return 0;
}

static int may_add(struct replica *replica, const struct replica_server *server, char detail[REPLICA_DETAIL])
{
    if (server->id < 1 || server->id > REPLICA_ID_MAX || config_address_wrong(server->address) != NULL) {
        snprintf(detail, REPLICA_DETAIL, "a replica has an id from 1 to %u and an address tcp:HOST:PORT", REPLICA_ID_MAX);
        return -E_INVAL;
    }
    for (unsigned i = 0; i < replica->n_members; i++) {
        const struct replica_server *other = &replica->members[i].server;
        if (other->id == server->id || strcmp(other->address, server->address) == 0) {
            snprintf(detail, REPLICA_DETAIL, "replica %u at %s is one of them already", other->id, other->address);
            return -E_EXIST;
        }
    }
    if (replica->n_members == REPLICA_SERVERS_MAX - 1) {
        snprintf(detail, REPLICA_DETAIL, "%u replicas are the most there can be", REPLICA_SERVERS_MAX - 1);
        return -E_RANGE;
    }
    return nobody_joins(replica, 0, detail);
}

static int add(struct replica *replica, const struct replica_server *server, char detail[REPLICA_DETAIL])
{
    int err = may_add(replica, server, detail);
    if (err == 0)
        err = welcome(replica, server, detail);
    if (err != 0)
        return err;
    struct replica_server servers[REPLICA_SERVERS_MAX];
    unsigned n = copy_servers(replica, servers);
    servers[n] = *server;
    servers[n].voter = false;
    return change_to(replica, servers, n + 1, detail);
}

int replica_member_add(struct replica *replica, const struct replica_server *server, char detail[REPLICA_DETAIL])
{
    const struct member *there = member_find(replica, server->id);
    if (replica_leads(replica) && there != NULL && strcmp(there->server.address, server->address) == 0)
        return 0;
    int err = begin(replica, detail, "replica %u at %s is being added", server->id, server->address);
    if (err != 0)
        return err;
    err = add(replica, server, detail);
    end(replica);
    return err;
}

static int without(struct replica *replica, uint32_t id, char detail[REPLICA_DETAIL])
{
    struct replica_server servers[REPLICA_SERVERS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < replica->n_members; i++)
        if (replica->members[i].server.id != id)
            servers[n++] = replica->members[i].server;
    int err = nobody_joins(replica, id, detail);
    return err != 0 ? err : change_to(replica, servers, n, detail);
}

int replica_member_remove(struct replica *replica, uint32_t id, char detail[REPLICA_DETAIL])
{
    const struct member *member = member_find(replica, id);
    if (replica_leads(replica) && member == NULL)
        return 0;
    if (replica_leads(replica) && member->server.voter && member_voters(replica) == 1) {
        snprintf(detail, REPLICA_DETAIL, "replica %u is the last one", id);
        return -E_INVAL;
    }
    if (id == replica->options.id) {
        int err = replica_transfer(replica, 0, detail);
        return err == 0 ? -E_NOT_LEADER : err;
    }
    int err = begin(replica, detail, "replica %u is being removed", id);
    if (err != 0)
        return err;
    err = without(replica, id, detail);
    end(replica);
    return err;
}

static int move(struct replica *replica, uint32_t id, const char *address, char detail[REPLICA_DETAIL])
{
    struct replica_server servers[REPLICA_SERVERS_MAX];
    unsigned n = copy_servers(replica, servers), at = n;
    for (unsigned i = 0; i < n; i++) {
        if (servers[i].id == id)
            at = i;
        else if (strcmp(servers[i].address, address) == 0) {
            snprintf(detail, REPLICA_DETAIL, "%s is the address of replica %u", address, servers[i].id);
            return -E_EXIST;
        }
    }
    if (at == n) {
        snprintf(detail, REPLICA_DETAIL, "there is no replica %u", id);
        return -E_NOENT;
    }
    if (strcmp(servers[at].address, address) == 0)
        return 0;
    snprintf(servers[at].address, sizeof servers[at].address, "%s", address);
    return change_to(replica, servers, n, detail);
}

int replica_member_move(struct replica *replica, uint32_t id, const char *address, char detail[REPLICA_DETAIL])
{
    if (config_address_wrong(address) != NULL || strlen(address) >= sizeof replica->address)
        return -E_INVAL;
    int err = begin(replica, detail, "replica %u is being moved to %s", id, address);
    if (err != 0)
        return err;
    err = move(replica, id, address, detail);
    end(replica);
    return err;
}

/* ------------------------------------------------------------------ handing leadership over */
static uint32_t furthest(struct replica *replica)
{
    uint32_t best = 0;
    uint64_t best_match = 0;
    for (unsigned i = 0; i < replica->n_members; i++) {
        const struct replica_server *server = &replica->members[i].server;
        if (!server->voter || server->id == replica->options.id || !transport_reachable(replica->transport, server->id))
            continue;
        uint64_t match = core_match(replica, server->id);
        if (best == 0 || match > best_match) {
            best = server->id;
            best_match = match;
        }
    }
    return best;
}

static int give_word(struct replica *replica, uint32_t to)
{
    int err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    struct raft_event event = {.type = RAFT_TRANSFER, .transfer.server_id = to};
    struct raft_update update;
    err = replica->core_leads && core_match(replica, to) == wal_last(replica->wal) ? 0 : -E_TIMEOUT;
    if (err == 0) {
        replica->lease_void = true; /* R13 */
        err = core_step(replica, &event, &update);
    }
    fiber_mutex_unlock(&replica->step_lock);
    return err;
}

/* Waits until `done`, at most for an election timeout from `began_ms`. */
static int wait_until(struct replica *replica, uint64_t began_ms, bool (*done)(struct replica *replica, uint32_t to), uint32_t to)
{
    while (replica->core_leads && !replica->stopping && !done(replica, to)) {
        if (io_mono_ms(replica->io) - began_ms >= replica->options.election_ms)
            return -E_TIMEOUT;
        int err = io_sleep_ms(replica->io, POLL_MS);
        if (err != 0)
            return err;
    }
    return 0;
}

static bool has_everything(struct replica *replica, uint32_t to)
{
    return core_match(replica, to) == wal_last(replica->wal);
}

static bool never(struct replica *replica, uint32_t to)
{
    return false;
}

static int transfer(struct replica *replica, uint32_t to)
{
    uint64_t began_ms = io_mono_ms(replica->io);
    int err = wait_until(replica, began_ms, has_everything, to);
    if (err == 0 && replica->core_leads)
        err = give_word(replica, to);
    if (err == 0)
        err = wait_until(replica, io_mono_ms(replica->io), never, to);
    return replica->core_leads ? err : 0;
}

int replica_transfer(struct replica *replica, uint32_t to, char detail[REPLICA_DETAIL])
{
    if (to == replica->options.id && replica_leads(replica))
        return 0;
    to = to == 0 ? furthest(replica) : to;
    const struct member *member = member_find(replica, to);
    if (replica_leads(replica) && (member == NULL || !member->server.voter)) {
        snprintf(detail, REPLICA_DETAIL, to == 0 ? "no other voter answers" : "replica %u is no voter", to);
        return -E_NOENT;
    }
    int err = begin(replica, detail, "leadership is being handed to replica %u", to);
    if (err != 0)
        return err;
    replica->transferring = true;
    err = transfer(replica, to);
    replica->transferring = false;
    fiber_queue_wake_all(&replica->write_wake);
    end(replica);
    if (err == -E_TIMEOUT)
        snprintf(detail, REPLICA_DETAIL, "replica %u did not take over in %u ms; replica %u goes on", to,
                 replica->options.election_ms, replica->options.id);
    return err;
}

/* ------------------------------------------------------------------ what the leader does by itself */
/* Rounds as in Raft's thesis, 4.2.1: a server has caught up when it takes less than an election timeout to get what was
 * in the log when the round began. libraft's own count never ends for one that has everything already. */
struct round {
    uint32_t id;
    uint64_t target, began_ms;
};

static bool caught_up(struct replica *replica, struct round *round, uint32_t id)
{
    uint64_t now = io_mono_ms(replica->io), match = core_match(replica, id), last = wal_last(replica->wal);
    if (round->id != id) {
        *round = (struct round){.id = id, .target = last, .began_ms = now};
        return false;
    }
    if (match < round->target)
        return false;
    bool quick = now - round->began_ms < replica->options.election_ms;
    *round = (struct round){.id = id, .target = last, .began_ms = now};
    return quick && match > 0;
}

static void promote(struct replica *replica, uint32_t id)
{
    char detail[REPLICA_DETAIL] = "";
    if (begin(replica, detail, "replica %u has caught up and becomes a voter", id) != 0)
        return;
    struct replica_server servers[REPLICA_SERVERS_MAX];
    unsigned n = copy_servers(replica, servers);
    for (unsigned i = 0; i < n; i++)
        servers[i].voter |= servers[i].id == id;
    int err = change_to(replica, servers, n, detail);
    end(replica);
    if (err != 0 && err != -E_CANCELED)
        log_warn("replica %u: cannot make replica %u a voter: %s; tried again", replica->options.id, id,
                 detail[0] != '\0' ? detail : err_sentence(err));
}

static void look_after_joining(struct replica *replica, struct round *round)
{
    for (unsigned i = 0; i < replica->n_members; i++) {
        const struct replica_server *server = &replica->members[i].server;
        if (server->voter)
            continue;
        if (!replica->changing && transport_reachable(replica->transport, server->id) && caught_up(replica, round, server->id))
            promote(replica, server->id);
        return; /* there is one at most */
    }
    round->id = 0;
}

/* A disk that is slow, full or fails in the tables must not be everybody's. */
static void look_after_disk(struct replica *replica)
{
    uint64_t now = io_mono_ns(replica->io);
    bool slow = replica->flushing &&
                now - replica->flush_began_ns > SLOW_WRITE_TIMEOUTS * replica->options.election_ms * UINT64_C(1000000);
    if ((!slow && !replica->muted && !replica->unfit) || replica->changing)
        return;
    uint32_t to = furthest(replica);
    if (to == 0 || core_match(replica, to) != wal_last(replica->wal))
        return;
    char detail[REPLICA_DETAIL] = "";
    log_warn("replica %u: its disk is %s; it hands leadership to replica %u", replica->options.id,
             slow ? "slow" : "full or fails", to);
    int err = replica_transfer(replica, to, detail);
    if (err != 0 && err != -E_CANCELED)
        log_warn("replica %u: leadership is not handed over: %s", replica->options.id,
                 detail[0] != '\0' ? detail : err_sentence(err));
}

/* Nobody has led for long: those who were removed without noticing are told when they ask. */
static void ask_all(struct replica *replica)
{
    for (unsigned i = 0; i < replica->n_members; i++)
        if (replica->members[i].server.id != replica->options.id)
            ask(replica, replica->members[i].server.id);
}

void member_fiber(void *arg)
{
    struct replica *replica = arg;
    struct round round = {0};
    uint64_t heard_ms = io_mono_ms(replica->io), wait_ms = replica->options.heartbeat_ms;
    while (!replica->stopping && replica->failed == 0) {
        uint64_t now = io_mono_ms(replica->io);
        if (replica->removed) {
            put_marker(replica);
            replica_fail(replica, -E_PERM, "go on");
            break;
        }
        if (replica->leads) {
            look_after_joining(replica, &round);
            look_after_disk(replica);
        } else {
            round.id = 0;
        }
        if (replica->core_leads || replica->waiting || replica_leader_id(replica) != 0)
            heard_ms = now;
        if (now - heard_ms >= ASK_TIMEOUTS * replica->options.election_ms) {
            ask_all(replica);
            heard_ms = now;
        }
        if (fiber_queue_wait(&replica->member_wake, wait_ms) == -E_CANCELED)
            break;
    }
    fiber_group_done(&replica->fibers);
}

/* ------------------------------------------------------------------ status */
static const char *state_name(const struct replica *replica)
{
    const struct replica_server *own = NULL;
    for (unsigned i = 0; i < replica->n_members; i++)
        if (replica->members[i].server.id == replica->options.id)
            own = &replica->members[i].server;
    if (replica->removed)
        return "removed";
    if (replica->failed != 0)
        return "failed";
    if (replica->waiting)
        return "waiting";
    if (replica->leads)
        return "leader";
    if (replica->newcomer)
        return "newcomer";
    if (replica->installing || own == NULL || !own->voter)
        return "catching-up";
    return raft_state(&replica->core->raft) == RAFT_FOLLOWER ? "follower" : "candidate";
}

static const char *trouble_of(const struct replica *replica)
{
    if (replica->failed != 0)
        return err_sentence(replica->failed);
    if (replica->muted)
        return "no space for the log";
    if (replica->unfit)
        return "the tables cannot be written";
    if (replica->newcomer && !replica->waiting)
        return "its directory was empty: it votes when all voters have answered it";
    return "";
}

void replica_status(const struct replica *replica, struct replica_status *ret)
{
    *ret = (struct replica_status){.state = state_name(replica),
                                   .term = core_term(replica),
                                   .applied = replica->applied,
                                   .commit = core_commit(replica),
                                   .first = wal_first(replica->wal),
                                   .last = wal_last(replica->wal),
                                   .log_bytes = wal_bytes(replica->wal),
                                   .conf_index = core_conf_index(replica),
                                   .snapshot_index = replica->snapshot.index,
                                   .snapshot_bytes = replica->snapshot_bytes,
                                   .snapshot_ns = replica->snapshot.real_ns,
                                   .n_servers = replica->n_members,
                                   .change = replica->change,
                                   .trouble = trouble_of(replica)};
    if (replica->leads)
        ret->led_ms = (io_mono_ns(replica->io) - replica->led_since_ns) / 1000000;
    for (unsigned i = 0; i < replica->n_members; i++)
        ret->servers[i] = replica->members[i].server;
}
