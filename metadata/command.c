#include "command.h"

#include "bulk.h"
#include "chunkmap.h"
#include "clustermap.h"
#include "common/err.h"
#include "group.h"
#include "heal.h"
#include "jobq.h"
#include "lease_rows.h"
#include "lock.h"
#include "namespace.h"
#include "ops.h"
#include "policy.h"
#include "query.h"
#include "quota.h"
#include "session.h"
#include "snapshot_tree.h"
#include "upload_group.h"
#include "user.h"

#define CTX(type) offsetof(type, ctx)

static const struct command commands[] = {
    {OP_SESSION_OPEN, "SESSION_OPEN", &tarn__session_open__descriptor, session_cmd_open, SIZE_MAX,
     COMMAND_LEADER},
    {OP_SESSION_END, "SESSION_END", &tarn__session_end__descriptor, session_cmd_end,
     CTX(Tarn__SessionEnd), COMMAND_LEADER},
    {OP_CREATE, "CREATE", &tarn__create__descriptor, ns_cmd_create, CTX(Tarn__Create), 0},
    {OP_UNLINK, "UNLINK", &tarn__unlink__descriptor, ns_cmd_unlink, CTX(Tarn__Unlink), 0},
    {OP_RENAME, "RENAME", &tarn__rename__descriptor, ns_cmd_rename, CTX(Tarn__Rename), 0},
    {OP_LINK, "LINK", &tarn__link__descriptor, ns_cmd_link, CTX(Tarn__Link), 0},
    {OP_SETATTR, "SETATTR", &tarn__set_attr__descriptor, ns_cmd_setattr, CTX(Tarn__SetAttr), 0},
    {OP_SETXATTR, "SETXATTR", &tarn__set_xattr__descriptor, ns_cmd_setxattr, CTX(Tarn__SetXattr),
     0},
    {OP_OPEN, "OPEN", &tarn__open__descriptor, session_cmd_open_file, CTX(Tarn__Open), 0},
    {OP_CLOSE, "CLOSE", &tarn__close__descriptor, session_cmd_close, CTX(Tarn__Close), 0},
    {OP_CHUNK_WRITE, "CHUNK_WRITE", &tarn__chunk_write__descriptor, chunk_cmd_write,
     CTX(Tarn__ChunkWrite), 0},
    {OP_CHUNK_SWAP, "CHUNK_SWAP", &tarn__chunk_swap__descriptor, chunk_cmd_swap,
     CTX(Tarn__ChunkSwap), 0},
    {OP_UPLOAD_CHUNK, "UPLOAD_CHUNK", &tarn__upload_chunk__descriptor, chunk_cmd_upload_chunk,
     CTX(Tarn__UploadChunk), 0},
    {OP_UPLOAD_GROUP, "UPLOAD_GROUP", &tarn__upload_group__descriptor, chunk_cmd_upload_group,
     CTX(Tarn__UploadGroup), 0},
    {OP_UPLOAD_ABORT, "UPLOAD_ABORT", &tarn__upload_abort__descriptor, chunk_cmd_upload_abort,
     CTX(Tarn__UploadAbort), 0},
    {OP_OBJECT_COMMIT, "OBJECT_COMMIT", &tarn__object_commit__descriptor, ns_cmd_object_commit,
     CTX(Tarn__ObjectCommit), 0},
    {OP_CHUNK_FAILED, "CHUNK_FAILED", &tarn__chunk_failed__descriptor, chunk_cmd_failed,
     CTX(Tarn__ChunkFailed), 0},
    {OP_LEASE_RETURN, "LEASE_RETURN", &tarn__lease_return__descriptor, lease_cmd_return, CTX(Tarn__LeaseReturn), 0},
    {OP_LEASE_RECALL, "LEASE_RECALL", &tarn__lease_recall__descriptor, lease_cmd_recall, SIZE_MAX, COMMAND_LEADER},
    {OP_LOCK, "LOCK", &tarn__lock__descriptor, lock_cmd_lock, CTX(Tarn__Lock), 0},
    {OP_LOCK_CANCEL, "LOCK_CANCEL", &tarn__lock_cancel__descriptor, lock_cmd_cancel,
     CTX(Tarn__LockCancel), 0},
    {OP_LOCK_DROP, "LOCK_DROP", &tarn__lock_drop__descriptor, lock_cmd_drop, CTX(Tarn__LockDrop),
     0},
    {OP_ROLE_CLAIM, "ROLE_CLAIM", &tarn__role_claim__descriptor, session_cmd_role_claim,
     CTX(Tarn__RoleClaim), 0},
    {OP_NODE_JOIN, "NODE_JOIN", &tarn__node_join__descriptor, clustermap_cmd_join, SIZE_MAX,
     COMMAND_LEADER},
    {OP_NODE_SET, "NODE_SET", &tarn__node_set__descriptor, clustermap_cmd_set, SIZE_MAX,
     COMMAND_LEADER},
    {OP_CHUNK_TASKS_DONE, "CHUNK_TASKS_DONE", &tarn__chunk_tasks_done__descriptor,
     chunk_cmd_tasks_done, SIZE_MAX, COMMAND_LEADER},
    {OP_NODE_INVENTORY, "NODE_INVENTORY", &tarn__node_inventory__descriptor, chunk_cmd_inventory,
     SIZE_MAX, COMMAND_LEADER},
    {OP_USER_PUT, "USER_PUT", &tarn__user_put__descriptor, user_cmd_put, CTX(Tarn__UserPut), 0},
    {OP_JOB_CREATE, "JOB_CREATE", &tarn__job_create__descriptor, jobq_cmd_create,
     CTX(Tarn__JobCreate), 0},
    {OP_JOB_INPUTS, "JOB_INPUTS", &tarn__job_inputs__descriptor, jobq_cmd_inputs,
     CTX(Tarn__JobInputs), 0},
    {OP_JOB_CANCEL, "JOB_CANCEL", &tarn__job_cancel__descriptor, jobq_cmd_cancel,
     CTX(Tarn__JobCancel), 0},
    {OP_JOB_FINISH, "JOB_FINISH", &tarn__job_finish__descriptor, jobq_cmd_finish,
     CTX(Tarn__JobFinish), 0},
    {OP_JOB_PLAN, "JOB_PLAN", &tarn__job_plan__descriptor, jobq_cmd_plan, CTX(Tarn__JobPlan), 0},
    {OP_TASK_START, "TASK_START", &tarn__task_start__descriptor, jobq_cmd_task_start,
     CTX(Tarn__TaskStart), 0},
    {OP_TASK_COMMIT, "TASK_COMMIT", &tarn__task_commit__descriptor, jobq_cmd_task_commit,
     CTX(Tarn__TaskCommit), 0},
    {OP_BATCH, "BATCH", &tarn__batch__descriptor, bulk_cmd_batch, CTX(Tarn__Batch), 0},
    {OP_LOOKUPS, "LOOKUPS", &tarn__lookups__descriptor, bulk_query_lookups, CTX(Tarn__Lookups),
     COMMAND_QUERY},
    {OP_POLICY_SET, "POLICY_SET", &tarn__policy_set__descriptor, policy_cmd_set,
     CTX(Tarn__PolicySet), 0},
    {OP_NODE_DRAIN, "NODE_DRAIN", &tarn__node_drain__descriptor, clustermap_cmd_drain,
     CTX(Tarn__NodeDrain), 0},
    {OP_TOPOLOGY_SET, "TOPOLOGY_SET", &tarn__topology_set__descriptor, clustermap_cmd_topology,
     CTX(Tarn__TopologySet), 0},
    {OP_POLICY_GET, "POLICY_GET", &tarn__policy_get__descriptor, policy_query_get,
     CTX(Tarn__PolicyGet), COMMAND_QUERY},
    {OP_GROUP_GET, "GROUP_GET", &tarn__group_get__descriptor, group_query_get, CTX(Tarn__GroupGet), COMMAND_QUERY},
    {OP_HEAL_STATUS, "HEAL_STATUS", &tarn__heal_status__descriptor, heal_query_status,
     CTX(Tarn__HealStatus), COMMAND_QUERY},
    {OP_QUOTA_SET, "QUOTA_SET", &tarn__quota_set__descriptor, quota_cmd_set, CTX(Tarn__QuotaSet),
     0},
    {OP_QUOTA_GET, "QUOTA_GET", &tarn__quota_get__descriptor, quota_query_get, CTX(Tarn__QuotaGet),
     COMMAND_QUERY},
    {OP_SNAPSHOT_TAKE, "SNAPSHOT_TAKE", &tarn__snapshot_take__descriptor, snapshot_cmd_take,
     CTX(Tarn__SnapshotTake), 0},
    {OP_SNAPSHOT_DROP, "SNAPSHOT_DROP", &tarn__snapshot_drop__descriptor, snapshot_cmd_drop,
     CTX(Tarn__SnapshotDrop), 0},
    {OP_CLONE, "CLONE", &tarn__clone__descriptor, clone_cmd_make, CTX(Tarn__Clone), 0},
    {OP_CLONE_SLOT, "CLONE_SLOT", &tarn__clone_slot__descriptor, clone_cmd_slot, SIZE_MAX,
     COMMAND_LEADER},
    {OP_SNAPSHOT_LIST, "SNAPSHOT_LIST", &tarn__snapshot_list__descriptor, snapshot_query_list,
     CTX(Tarn__SnapshotList), COMMAND_QUERY},
    {OP_LOOKUP, "LOOKUP", &tarn__lookup__descriptor, query_lookup, CTX(Tarn__Lookup),
     COMMAND_QUERY},
    {OP_ACCESS, "ACCESS", &tarn__access__descriptor, query_access, CTX(Tarn__Access),
     COMMAND_QUERY},
    {OP_READDIR, "READDIR", &tarn__read_dir__descriptor, query_readdir, CTX(Tarn__ReadDir),
     COMMAND_QUERY},
    {OP_GETXATTR, "GETXATTR", &tarn__get_xattr__descriptor, query_getxattr, CTX(Tarn__GetXattr),
     COMMAND_QUERY},
    {OP_STATFS, "STATFS", &tarn__stat_fs__descriptor, clustermap_query_statfs, CTX(Tarn__StatFs),
     COMMAND_QUERY},
    {OP_LIST_OBJECTS, "LIST_OBJECTS", &tarn__list_objects__descriptor, query_list_objects,
     CTX(Tarn__ListObjects), COMMAND_QUERY},
    {OP_FILE_MAP, "FILE_MAP", &tarn__file_map__descriptor, query_file_map, CTX(Tarn__FileMap),
     COMMAND_QUERY},
    {OP_LOCATIONS, "LOCATIONS", &tarn__locations__descriptor, query_locations, CTX(Tarn__Locations),
     COMMAND_QUERY},
    {OP_GETLK, "GETLK", &tarn__get_lock__descriptor, lock_query_get, CTX(Tarn__GetLock),
     COMMAND_QUERY},
    {OP_ROLE_GET, "ROLE_GET", &tarn__role_get__descriptor, session_query_role, CTX(Tarn__RoleGet),
     COMMAND_QUERY},
    {OP_NODE_LIST, "NODE_LIST", &tarn__node_list__descriptor, clustermap_query_list,
     CTX(Tarn__NodeList), COMMAND_QUERY},
    {OP_STATUS, "STATUS", &tarn__status__descriptor, query_status, CTX(Tarn__Status),
     COMMAND_QUERY},
    {OP_USER_GET, "USER_GET", &tarn__user_get__descriptor, user_query_get, CTX(Tarn__UserGet),
     COMMAND_QUERY},
    {OP_JOB_GET, "JOB_GET", &tarn__job_get__descriptor, jobq_query_get, CTX(Tarn__JobGet),
     COMMAND_QUERY},
    {OP_JOB_LIST, "JOB_LIST", &tarn__job_list__descriptor, jobq_query_list, CTX(Tarn__JobList),
     COMMAND_QUERY},
    {OP_JOB_INPUT_LIST, "JOB_INPUT_LIST", &tarn__job_input_list__descriptor, jobq_query_inputs,
     CTX(Tarn__JobInputList), COMMAND_QUERY},
    {OP_TASK_LIST, "TASK_LIST", &tarn__task_list__descriptor, jobq_query_tasks, CTX(Tarn__TaskList),
     COMMAND_QUERY},
};

const struct command *command_find(unsigned op)
{
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        if (commands[i].op == op)
            return &commands[i];
    return NULL;
}

int command_decode(const struct command *command, const uint8_t *body, size_t len, struct arena *arena,
                   ProtobufCMessage **ret)
{
    ProtobufCAllocator allocator = arena_allocator(arena);
    ProtobufCMessage *message = protobuf_c_message_unpack(command->type, &allocator, len, body);
    if (message == NULL) /* protobuf-c says so to both bad bytes and no memory */
        return arena->failed ? -E_NOMEM : -E_PROTO;
    *ret = message;
    return 0;
}

const Tarn__Ctx *command_ctx(const struct command *command, const ProtobufCMessage *message)
{
    Tarn__Ctx *ctx = NULL;
    if (command->ctx != SIZE_MAX)
        memcpy(&ctx, (const char *)message + command->ctx, sizeof ctx);
    return ctx;
}
