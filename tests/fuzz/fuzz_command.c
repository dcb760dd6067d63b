/* Commands and queries of the metadata state machine: the first byte is the operation, the rest its
 * message. They are applied to fresh tables in memory with one session. Then the rows' decoders. */
#include "fuzz.h"

#include "common/check.h"
#include "meta.pb-c.h"
#include "metadata/clustermap.h"
#include "metadata/heal_state.h"
#include "metadata/policy.h"
#include "metadata/fsm.h"
#include "metadata/lock.h"
#include "metadata/record.h"
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

static void try_rows(const uint8_t *data, size_t n)
{
    struct inode inode = {0};
    struct lock_table locks = {0};
    union {
        struct state state;
        struct chunk chunk;
        struct session session;
        struct node node;
        struct role role;
        struct extent extent;
        struct disk disk;
        struct policy policy;
        struct heal_state heal;
        struct upload upload;
        struct store_task task;
        struct opens opens;
        struct exclusive exclusive;
        struct recalled recalled;
    } row;
    (void)inode_decode(1, data, n, &inode);
    inode_fini(&inode);
    (void)lock_table_decode(data, n, &locks);
    lock_table_fini(&locks);
    (void)state_decode(data, n, &row.state);
    (void)chunk_decode(1, data, n, &row.chunk);
    (void)session_decode(1, data, n, &row.session);
    (void)node_decode(1, data, n, &row.node);
    (void)role_decode(data, n, &row.role);
    (void)extent_decode(1, data, n, &row.extent);
    (void)disk_decode(1, data, n, &row.disk);
    (void)policy_decode(data, n, &row.policy);
    (void)heal_state_decode(data, n, &row.heal);
    (void)upload_decode(1, data, n, &row.upload);
    (void)store_task_decode(1, data, n, &row.task);
    (void)opens_decode(data, n, &row.opens);
    (void)exclusive_decode(1, data, n, &row.exclusive);
    (void)recalled_decode(data, n, &row.recalled);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    try_rows(data, size);
    try_command(data[0], data + 1, size - 1);
    return 0;
}
