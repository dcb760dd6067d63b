/* SNAPSHOT_TAKE and CLONE_SLOT at the leader. */
#include "server_impl.h"

#include "common/err.h"
#include "common/log.h"
#include "snapshot_tree.h"

#define SETTLE_WAIT_MS 10000 /* for stores that are up: they seal with their next beat */
#define SETTLE_LOOK_MS 10

int server_clone_slot(struct server *server, struct fsm_result *result)
{
    Tarn__CloneSlot slot = TARN__CLONE_SLOT__INIT;
    slot.family = result->slot_family;
    slot.of_base = result->slot_base;
    fsm_result_fini(result);
    return server_propose(server, OP_CLONE_SLOT, &slot.base);
}

/* Until then a member could take a write into a chunk of the snapshot. */
static int settle(struct server *server, uint64_t before, bool *ret_settled)
{
    uint64_t end = io_mono_ms(server->io) + SETTLE_WAIT_MS;
    bool due = true;
    for (;;) {
        struct kv_txn *txn;
        int err = replica_read(server->replica, &txn);
        if (err != 0)
            return err;
        err = snapshot_seals_due(txn, before, &due);
        kv_abort(txn);
        *ret_settled = !due;
        if (err != 0 || !due || io_mono_ms(server->io) >= end)
            return err;
        err = server_pause(server, SETTLE_LOOK_MS);
        if (err != 0 && err != -E_TIMEOUT)
            return err;
    }
}

static int reply_taken(struct server *server, struct rpc_request *request,
                       const struct fsm_result *result)
{
    Tarn__SnapshotReply *reply =
        tarn__snapshot_reply__unpack(NULL, result->reply_len, result->reply);
    if (reply == NULL)
        return -E_CORRUPT;
    bool settled = true;
    int err = reply->settled ? 0 : settle(server, reply->sealed_before, &settled);
    reply->settled = settled;
    if (!settled)
        log_warn("snapshot %s: stores have not sealed what was being written; writes of the last "
                 "moments may be in it", reply->snapshot->name);
    err = err != 0 ? server_refuse(server, request, err, "") : rpc_reply(request, &reply->base);
    tarn__snapshot_reply__free_unpacked(reply, NULL);
    return err;
}

int server_handle_snapshot_take(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    struct fsm_result result = {0};
    int err = server_change(server, request, message, &result);
    if (err == 0 && result.err == 0)
        err = reply_taken(server, request, &result);
    else if (err == 0)
        err = server_reply_result(server, request, &result);
    else
        err = server_refuse(server, request, err, "");
    fsm_result_fini(&result);
    return err;
}
