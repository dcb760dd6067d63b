/* Every decoder of a row of the metadata tables, and of raft's messages. The first byte says which; whatever a row's decoder
 * accepts is encoded again and accepted again. */
#include "fuzz.h"

#include "common/check.h"
#include "meta.pb-c.h"
#include "metadata/acl.h"
#include "metadata/clustermap.h"
#include "metadata/damage.h"
#include "metadata/disk.h"
#include "metadata/group.h"
#include "metadata/heal_state.h"
#include "metadata/lock.h"
#include "metadata/pack_rows.h"
#include "metadata/policy.h"
#include "metadata/quota.h"
#include "metadata/record.h"
#include "metadata/replica_message.h"

union any_row {
    struct state state;
    struct inode inode;
    struct entry entry;
    struct extent extent;
    struct chunk chunk;
    struct store_task task;
    struct upload upload;
    struct session session;
    struct handle handle;
    struct opens opens;
    struct exclusive exclusive;
    struct recalled recalled;
    struct role role;
    struct node node;
    struct disk disk;
    struct heal_state heal;
    struct policy policy;
    struct group group;
    struct quota quota;
    struct damage_row damage;
    struct pack_class class;
    struct pack_candidate candidate;
    struct pack_job job;
    struct pack_list list;
    struct lock_table locks;
    struct acl acl;
    uint64_t number;
};

/* One row kind: decode `data` into `row`; when it is accepted, write it into `again`. */
#define ROW(NAME, DECODE, ENCODE, FINI)                                                                                                    \
    static bool try_##NAME(const uint8_t *data, size_t n, union any_row *row, struct writer *again)                                            \
    {                                                                                                                                      \
        bool good = DECODE == 0;                                                                                                           \
        if (good)                                                                                                                          \
            ENCODE;                                                                                                                        \
        FINI;                                                                                                                              \
        return good;                                                                                                                       \
    }
ROW(state, state_decode(data, n, &row->state), state_encode(&row->state, again), )
ROW(inode, inode_decode(1, data, n, &row->inode), inode_encode(&row->inode, again), inode_fini(&row->inode))
ROW(entry, entry_decode(data, n, &row->entry), entry_encode(&row->entry, again), )
ROW(extent, extent_decode(1, data, n, &row->extent), extent_encode(&row->extent, again), )
ROW(chunk, chunk_decode(1, data, n, &row->chunk), chunk_encode(&row->chunk, again), )
ROW(task, store_task_decode(1, data, n, &row->task), store_task_encode(&row->task, again), )
ROW(upload, upload_decode(1, data, n, &row->upload), upload_encode(&row->upload, again), )
ROW(session, session_decode(1, data, n, &row->session), session_encode(&row->session, again), )
ROW(handle, handle_decode(1, data, n, &row->handle), handle_encode(&row->handle, again), )
ROW(opens, opens_decode(data, n, &row->opens), opens_encode(&row->opens, again), )
ROW(exclusive, exclusive_decode(1, data, n, &row->exclusive), exclusive_encode(&row->exclusive, again), )
ROW(recalled, recalled_decode(data, n, &row->recalled), recalled_encode(&row->recalled, again), )
ROW(role, role_decode(data, n, &row->role), role_encode(&row->role, again), )
ROW(node, node_decode(1, data, n, &row->node), node_encode(&row->node, again), )
ROW(disk, disk_decode(1, data, n, &row->disk), disk_encode(&row->disk, again), )
ROW(heal, heal_state_decode(data, n, &row->heal), heal_state_encode(&row->heal, again), )
ROW(policy, policy_decode(data, n, &row->policy), policy_encode(&row->policy, again), )
ROW(group, group_decode(1, data, n, &row->group), group_encode(&row->group, again), )
ROW(quota, quota_decode(1, 1, data, n, &row->quota), quota_encode(&row->quota, again), )
ROW(damage, damage_row_decode(1, 2, data, n, &row->damage), damage_row_encode(&row->damage, again), )
ROW(locks, lock_table_decode(data, n, &row->locks), lock_table_encode(&row->locks, again), lock_table_fini(&row->locks))
ROW(acl, acl_decode(data, n, &row->acl), acl_encode(&row->acl, again), acl_fini(&row->acl))
ROW(class, pack_class_decode(1, data, n, &row->class), pack_class_encode(&row->class, again), )
ROW(candidate, pack_candidate_decode(data, n, &row->candidate), pack_candidate_encode(&row->candidate, again), )
ROW(job, pack_job_decode(1, data, n, &row->job), pack_job_encode(&row->job, again), )
ROW(list, pack_list_decode(data, n, &row->list), pack_list_encode(&row->list, again), )
ROW(number, number_decode(data, n, &row->number), number_encode(row->number, again), )

#define RAFT 255 /* the first byte of messages of raft; those of rows are numbers of the table below */
typedef bool (*try_fn)(const uint8_t *data, size_t n, union any_row *row, struct writer *again);
static const try_fn tries[] = {try_state,  try_inode,   try_entry, try_extent,    try_chunk,    try_task, try_upload,
                               try_session, try_handle, try_opens, try_exclusive, try_recalled, try_role, try_node,
                               try_disk,   try_heal,    try_policy, try_quota,    try_locks,    try_acl,  try_number,
                               try_group,  try_damage, try_class, try_candidate, try_job, try_list};

/* A message as it comes: 2 bytes of length, the control message, the payload. */
static void try_raft(const uint8_t *data, size_t size)
{
    if (size < 2)
        return;
    size_t n = MIN((size_t)(data[0] | data[1] << 8), size - 2);
    Tarn__RaftMessage *in = tarn__raft_message__unpack(NULL, n, data + 2);
    if (in == NULL)
        return;
    struct raft_entry *entries = NULL;
    const uint8_t *payload = data + 2 + n, *end = data + size;
    if (replica_entries_decode(in, payload, (size_t)(end - payload), &entries) == 0)
        for (size_t i = 0; i < in->n_entries; i++)
            CHECK((const uint8_t *)entries[i].buf.base >= payload && (const uint8_t *)entries[i].buf.base + entries[i].buf.len <= end);
    free(entries);
    struct raft_configuration conf;
    if (replica_configuration_decode(in, &conf) == 0)
        raft_configuration_close(&conf);
    tarn__raft_message__free_unpacked(in, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    unsigned which = data[0] % ARRAY_SIZE(tries);
    if (data[0] == RAFT) {
        try_raft(data + 1, size - 1);
        return 0;
    }
    union any_row row = {0}, second = {0};
    struct writer again = {0}, third = {0};
    if (tries[which](data + 1, size - 1, &row, &again)) {
        CHECK(!again.failed && tries[which](again.data, again.len, &second, &third));
        CHECK(third.len == again.len && memcmp(third.data, again.data, again.len) == 0);
    }
    writer_fini(&again);
    writer_fini(&third);
    return 0;
}
