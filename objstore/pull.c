#include "pull.h"

#include "partial.h"
#include "common/err.h"
#include "proto/ops.h"

int pull_stat(struct pull *pull)
{
    Tarn__ChunkStat request = TARN__CHUNK_STAT__INIT;
    request.chunk = pull->chunk;
    request.disk = pull->disk;
    struct rpc_call call = {.op = OP_CHUNK_STAT, .request = &request.base, .timeout_ms = PULL_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_stat_reply__descriptor};
    int err = rpc_call(pull->client, &call);
    if (err == 0) {
        const Tarn__ChunkStatReply *reply = (const Tarn__ChunkStatReply *)call.reply;
        pull->generation = reply->generation;
        pull->length = reply->length;
        pull->digest = reply->digest;
        err = !reply->sealed ? -E_BUSY : reply->length > CHUNK_BYTES_MAX ? -E_PROTO : 0;
    }
    rpc_call_fini(&call);
    return err;
}

/* A sealed chunk's cells are complete, and its digest is of just these. */
static int cells_take(const struct pull *pull, const Tarn__ChunkCellsReply *reply, struct cell *ret)
{
    uint64_t n = (pull->length + CELL_BYTES - 1) / CELL_BYTES;
    uint32_t digest = 0;
    if (reply->generation != pull->generation || reply->length != pull->length || reply->digest != pull->digest)
        return -E_STALE;
    if (reply->n_crcs != n || reply->n_valid != n)
        return -E_PROTO;
    for (uint64_t i = 0; i < n; i++) {
        digest = cell_digest(digest, reply->crcs[i]);
        if (reply->valid[i] != MIN(CELL_BYTES, pull->length - i * CELL_BYTES))
            return -E_PROTO;
        ret[i] = (struct cell){reply->crcs[i], reply->valid[i]};
    }
    return digest == pull->digest ? 0 : -E_PROTO;
}

int pull_cells(const struct pull *pull, struct cell *ret)
{
    Tarn__ChunkCells request = TARN__CHUNK_CELLS__INIT;
    request.chunk = pull->chunk;
    request.disk = pull->disk;
    struct rpc_call call = {.op = OP_CHUNK_CELLS, .request = &request.base, .timeout_ms = PULL_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_cells_reply__descriptor};
    int err = rpc_call(pull->client, &call);
    if (err == 0)
        err = cells_take(pull, (const Tarn__ChunkCellsReply *)call.reply, ret);
    rpc_call_fini(&call);
    return err;
}

int pull_window(struct background *b, const struct pull *pull, struct chunk *c, uint64_t generation, uint64_t at, size_t n,
                uint8_t *buf)
{
    Tarn__ChunkGet request = TARN__CHUNK_GET__INIT;
    request.chunk = pull->chunk;
    request.disk = pull->disk;
    request.offset = at;
    request.length = n;
    request.work = background_work(b);
    struct rpc_call call = {.op = OP_CHUNK_GET, .request = &request.base, .timeout_ms = PULL_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_get_reply__descriptor, .into = buf, .into_size = BACKGROUND_WINDOW_BYTES};
    int err = background_take(b, n);
    if (err == 0)
        err = rpc_call(pull->client, &call);
    if (err == 0) {
        const Tarn__ChunkGetReply *reply = (const Tarn__ChunkGetReply *)call.reply;
        b->store->counters.bytes_fetched += call.reply_payload_len;
        if (call.reply_payload_len != n)
            err = -E_PROTO;
        else
            err = partial_append(b->volume, c, generation, at, buf, n, reply->crcs, reply->n_crcs);
    }
    rpc_call_fini(&call);
    return err;
}
