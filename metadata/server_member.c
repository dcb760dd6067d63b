/* Operations on the replicas themselves: status, members, leadership, snapshots. Status is answered by whoever is
 * asked, also without a leader; the others are the leader's and root's. */
#include "server_impl.h"
#include "common/err.h"
#include "common/log.h"

int server_handle_meta_status(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    struct replica *replica = server->replica;
    Tarn__MetaStatusReply reply = TARN__META_STATUS_REPLY__INIT;
    Tarn__MetaMember members[REPLICA_SERVERS_MAX], *list[REPLICA_SERVERS_MAX];
    uint64_t total = 0, spare = 0;
    int err = io_statfs(server->io, replica_dir(replica), &total, &spare); /* waits: what follows does not */
    if (err != 0)
        return err;
    struct replica_status status;
    replica_status(replica, &status);
    const char *leader = replica_leader_address(replica);
    reply.id = replica_id(replica);
    reply.address = (char *)(uintptr_t)replica_own_address(replica);
    reply.state = (char *)(uintptr_t)status.state;
    reply.leader = replica_leader_id(replica);
    reply.leader_address = (char *)(uintptr_t)(leader != NULL ? leader : "");
    reply.term = status.term;
    reply.led_ms = status.led_ms;
    reply.applied = status.applied;
    reply.commit = status.commit;
    reply.first = status.first;
    reply.last = status.last;
    reply.log_bytes = status.log_bytes;
    reply.snapshot_index = status.snapshot_index;
    reply.snapshot_bytes = status.snapshot_bytes;
    reply.snapshot_ns = status.snapshot_ns;
    reply.disk_total = total;
    reply.disk_free = spare;
    reply.conf_index = status.conf_index;
    reply.change = (char *)(uintptr_t)status.change;
    reply.trouble = (char *)(uintptr_t)status.trouble;
    uint32_t ids[REPLICA_SERVERS_MAX];
    uint64_t match[REPLICA_SERVERS_MAX];
    bool reachable[REPLICA_SERVERS_MAX];
    (void)replica_describe(replica, ids, match, reachable, REPLICA_SERVERS_MAX); /* in the order of servers */
    for (unsigned i = 0; i < status.n_servers; i++) {
        tarn__meta_member__init(&members[i]);
        members[i].id = status.servers[i].id;
        members[i].address = status.servers[i].address;
        members[i].voter = status.servers[i].voter;
        members[i].reachable = reachable[i];
        members[i].match = match[i];
        list[i] = &members[i];
    }
    reply.members = list;
    reply.n_members = status.n_servers;
    return rpc_reply(request, &reply.base);
}

static int root_only(const Tarn__Ctx *who)
{
    return who != NULL && who->uid == 0 ? 0 : -E_PERM;
}

static int settle(struct server *server, struct rpc_request *request, int err, const char *detail)
{
    Tarn__Empty empty = TARN__EMPTY__INIT;
    return err != 0 ? server_refuse(server, request, err, detail) : rpc_reply(request, &empty.base);
}

int server_handle_meta_member(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    const Tarn__MetaMemberChange *m = message;
    char detail[REPLICA_DETAIL] = "";
    struct replica_server who = {.id = m->id};
    int err = root_only(m->ctx);
    if (err == 0 && strlen(m->address) >= sizeof who.address)
        err = -E_NAMETOOLONG;
    if (err != 0)
        return server_refuse(server, request, err, "");
    strcpy(who.address, m->address);
    switch (m->kind) {
    case TARN__META_MEMBER_CHANGE__KIND__ADD:
        err = replica_member_add(server->replica, &who, detail);
        break;
    case TARN__META_MEMBER_CHANGE__KIND__REMOVE:
        err = replica_member_remove(server->replica, who.id, detail);
        break;
    case TARN__META_MEMBER_CHANGE__KIND__ADDRESS:
        err = replica_member_move(server->replica, who.id, who.address, detail);
        break;
    default:
        err = -E_INVAL;
    }
    return settle(server, request, err, detail);
}

int server_handle_meta_transfer(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    const Tarn__MetaTransfer *m = message;
    char detail[REPLICA_DETAIL] = "";
    int err = root_only(m->ctx);
    if (err == 0)
        err = replica_transfer(server->replica, m->to, detail);
    return settle(server, request, err, detail);
}

/* Of the replica that is asked: each takes its own. */
int server_handle_meta_snapshot(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    const Tarn__MetaSnapshot *m = message;
    Tarn__MetaSnapshotReply reply = TARN__META_SNAPSHOT_REPLY__INIT;
    reply.reach = m->reach;
    int err = root_only(m->ctx);
    if (err == 0)
        err = replica_snapshot_now(server->replica, &reply.reach, &reply.index, &reply.bytes);
    return err != 0 ? server_refuse(server, request, err, "") : rpc_reply(request, &reply.base);
}

/* Before a planned end: whoever follows needs no election timeout to notice. */
void server_drain(struct server *server)
{
    char detail[REPLICA_DETAIL] = "";
    if (!replica_leads(server->replica))
        return;
    int err = replica_transfer(server->replica, 0, detail);
    log_info("leadership %s before the end%s%s", err == 0 ? "handed over" : "not handed over", detail[0] != '\0' ? ": " : "", detail);
}
