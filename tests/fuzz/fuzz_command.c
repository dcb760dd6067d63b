/* Commands and queries of the metadata state machine: the first byte is the operation, the rest its
 * message. They are applied to fresh tables in memory with one session. */
#include "fuzz.h"

#include "common/check.h"
#include "meta.pb-c.h"
#include "metadata/heal_state.h"
#include "metadata/policy.h"
#include "metadata/fsm.h"
#include "ops.h"

static void apply(struct kv_txn *txn, uint64_t index, unsigned op, const uint8_t *body, size_t len)
{
    struct fsm_command command = {
        .index = index, .op = op, .real_ns = 1, .seed = 1, .body = body, .body_len = len};
    struct fsm_result result = {0};
    CHECK(fsm_apply(txn, &command, &result) == 0);
    CHECK((result.err == 0) == (result.reply != NULL));
    fsm_result_fini(&result);
}

static void try_command(unsigned op, const uint8_t *body, size_t len)
{
    struct kv *kv;
    struct kv_txn *txn;
    struct fsm_result result = {0};
    uint8_t packed[64];
    Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
    open.uuid = (ProtobufCBinaryData){.data = (uint8_t *)"u", .len = 1};
    CHECK(kv_mem_open(&kv) == 0 && kv_begin(kv, true, &txn) == 0 && fsm_init(txn) == 0);
    apply(txn, 1, OP_SESSION_OPEN, packed, tarn__session_open__pack(&open, packed));
    apply(txn, 2, op, body, len);
    apply(txn, 3, op, body, len); /* again: kept or carried out, never a fault */
    CHECK(fsm_query(txn, op, body, len, &result) == 0);
    fsm_result_fini(&result);
    CHECK(kv_commit(txn) == 0);
    kv_close(kv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    try_command(data[0], data + 1, size - 1);
    return 0;
}
