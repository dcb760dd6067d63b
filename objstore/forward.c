#include "forward.h"

#include "common/check.h"
#include "common/err.h"
#include "proto/ops.h"
#include "ops.h"

#include <stdio.h>

static void fill(struct forward_item *item, unsigned op, const void *message)
{
    /* The original message outlives the call; only the members differ. Written once per type because
     * the field has another place in each. */
    Tarn__Member **members = (Tarn__Member **)item->members;
    switch (op) {
    case OP_CHUNK_PUT:
        item->message.put = *(const Tarn__ChunkPut *)message;
        item->message.put.members = members;
        item->message.put.n_members = item->n_members;
        item->message.put.forwarded = true;
        return;
    case OP_CHUNK_SYNC:
        item->message.sync = *(const Tarn__ChunkSync *)message;
        item->message.sync.members = members;
        item->message.sync.n_members = item->n_members;
        item->message.sync.forwarded = true;
        return;
    case OP_CHUNK_TRUNCATE:
        item->message.truncate = *(const Tarn__ChunkTruncate *)message;
        item->message.truncate.members = members;
        item->message.truncate.n_members = item->n_members;
        item->message.truncate.forwarded = true;
        return;
    default:
        CHECK(op == OP_CHUNK_CLONE);
        item->message.clone = *(const Tarn__ChunkClone *)message;
        item->message.clone.members = members;
        item->message.clone.n_members = item->n_members;
        item->message.clone.forwarded = true;
    }
}

static void lives_take(struct forward *f, const Tarn__ChunkPutReply *reply)
{
    for (size_t i = 0; i < MIN(reply->n_disks, reply->n_lives) && f->n_lives < FORWARD_MEMBERS_MAX; i++) {
        f->disks[f->n_lives] = reply->disks[i];
        f->lives[f->n_lives++] = reply->lives[i];
    }
}

static void item_send(struct forward_item *item)
{
    struct forward *f = item->forward;
    struct rpc_client *client = store_peer(f->store, item->members[0]->address);
    struct rpc_call call = {.op = f->op, .request = &item->message.base, .payload = f->payload,
                            .n_payload = f->payload != NULL ? 1 : 0, .payload_cells = f->payload != NULL,
                            .epoch = f->epoch, .reply_type = &tarn__chunk_put_reply__descriptor,
                            .timeout_ms = FORWARD_TIMEOUT_MS + FORWARD_STEP_MS * item->n_members};
    item->err = client == NULL ? -E_NOMEM : rpc_call(client, &call);
    const Tarn__ChunkPutReply *reply = (const Tarn__ChunkPutReply *)call.reply;
    if (item->err == 0 && reply != NULL)
        lives_take(f, reply);
    if (item->err == 0 && reply != NULL && reply->failed_disk != 0) {
        item->failed_disk = reply->failed_disk;
        item->full = reply->full;
        snprintf(item->why, sizeof item->why, "%s", reply->why);
    } else if (item->err != 0) {
        item->full = item->err == -E_NOSPC;
        snprintf(item->why, sizeof item->why, "%s",
                 call.detail[0] != '\0' ? call.detail : err_sentence(item->err));
    }
    rpc_call_fini(&call);
}

static void item_run(void *arg)
{
    struct forward_item *item = arg;
    item_send(item);
    fiber_group_done(&item->forward->group);
}

int forward_start(struct forward *f, struct store *s, const struct volume *v, unsigned op, const void *message,
                  Tarn__Member *const *members, size_t n_members, bool chain, uint64_t epoch,
                  const struct iovec *payload)
{
    f->store = s;
    f->op = op;
    f->payload = payload;
    f->epoch = epoch;
    f->group = (struct fiber_group){0};
    f->n_items = 0;
    f->disks[0] = v->super.disk;
    f->lives[0] = v->life;
    f->n_lives = 1;
    if (n_members > FORWARD_MEMBERS_MAX)
        return -E_INVAL;
    unsigned n_items = n_members <= 1 ? 0 : chain ? 1 : (unsigned)n_members - 1;
    for (unsigned i = 0; i < n_items; i++) {
        struct forward_item *item = &f->items[i];
        item->forward = f;
        item->members = members + 1 + i;
        item->n_members = chain ? n_members - 1 : 1;
        item->err = 0;
        item->failed_disk = 0;
        item->full = false;
        item->why[0] = '\0';
        fill(item, op, message);
        f->n_items++;
        fiber_group_add(&f->group);
        if (fiber_spawn(s->io, "forward", item_run, item) != 0)
            item_run(item);
    }
    return 0;
}

/* The member is well, the request is not (or not now): the client decides. */
static bool refuses(int err)
{
    return err == -E_STALE || err == -E_BUSY || err == -E_NOMEM || err == -E_INVAL || err == -E_CANCELED ||
           err == -E_NO_SESSION;
}

int forward_wait(struct forward *f, Tarn__ChunkPutReply *reply)
{
    fiber_group_wait(&f->group);
    reply->n_disks = reply->n_lives = f->n_lives;
    reply->disks = f->disks;
    reply->lives = f->lives;
    for (unsigned i = 0; i < f->n_items; i++)
        if (refuses(f->items[i].err))
            return f->items[i].err;
    for (unsigned i = 0; i < f->n_items; i++) {
        struct forward_item *item = &f->items[i];
        if (item->err == 0 && item->failed_disk == 0)
            continue;
        reply->failed_disk = item->failed_disk != 0 ? item->failed_disk : item->members[0]->disk;
        reply->why = item->why;
        reply->full = item->full;
        return 0;
    }
    return 0;
}
