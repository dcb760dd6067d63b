/* Requests of the chunk store: the first byte chooses the operation, the rest is its control message. A message that
 * unpacks has its strings and sub-messages in place; a put's range and counts go through the store's own check. */
#include "fuzz.h"

#include "common/check.h"
#include "common/err.h"
#include "objstore/ops.h"
#include "objstore/put.h"
#include "object.pb-c.h"
#include "proto/ops.h"

static uint8_t payload[MIB(1)] __attribute__((aligned(4096)));

/* What handlers rely on without looking: no NULL string, no NULL member. */
static void check_members(Tarn__Member *const *members, size_t n)
{
    for (size_t i = 0; i < n; i++)
        CHECK(members[i] != NULL && members[i]->address != NULL);
}

static void check_put(const Tarn__ChunkPut *m)
{
    struct put put = {.generation = m->generation, .offset = m->offset, .length = MIN(m->length, (uint64_t)sizeof payload),
                      .data = payload, .crcs = m->crcs, .n_crcs = m->n_crcs};
    int err = put_check(&put);
    CHECK(err == 0 || err == -E_INVAL || err == -E_CORRUPT);
    if (err == 0)
        CHECK(put.length > 0 && put.n_crcs == put_pieces(put.offset, put.length) && put.offset + put.length <= CHUNK_BYTES_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const struct rpc_op *op = &store_ops[data[0] % store_n_ops];
    ProtobufCMessage *message = protobuf_c_message_unpack(op->request_type, NULL, size - 1, data + 1);
    if (message == NULL)
        return 0;
    if (op->op == OP_CHUNK_PUT) {
        const Tarn__ChunkPut *m = (const Tarn__ChunkPut *)message;
        check_members(m->members, m->n_members);
        check_put(m);
    } else if (op->op == OP_CHUNK_CLONE) {
        const Tarn__ChunkClone *m = (const Tarn__ChunkClone *)message;
        check_members(m->members, m->n_members);
    }
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}
