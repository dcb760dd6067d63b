/* Rows of the tables: golden bytes, round trip, every prefix refused. Page:
 * docs/formats/metadata.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "common/err.h"
#include "golden.h"
#include "metadata/clustermap.h"
#include "metadata/damage.h"
#include "metadata/group.h"
#include "metadata/heal_state.h"
#include "metadata/lock.h"
#include "metadata/pack_rows.h"
#include "metadata/policy.h"
#include "metadata/quota.h"
#include "metadata/record_view.h"
#include "metadata/record.h"
#include "metadata/record_view.h"

static const char *golden_path;

/* One kind of row: encodes its example, and decodes and encodes again. */
struct kind {
    const char *name;
    void (*example)(struct writer *w);
    int (*again)(const void *data, size_t n, struct writer *w);
};

static const struct inode file = {.ino = 7,
                                  .type = 1,
                                  .copies = 3,
                                  .mode = 0644,
                                  .nlink = 1,
                                  .uid = 1000,
                                  .gid = 100,
                                  .size = 5,
                                  .mtime = 11,
                                  .ctime = 12,
                                  .atime = 13,
                                  .btime = 14,
                                  .version = 15,
                                  .parent = 9,
                                  .etag_len = 2,
                                  .etag = {0xe1, 0xe2},
                                  .data_len = 5,
                                  .data = (uint8_t *)"hello"};
static const struct inode dir = {.ino = 8,
                                 .type = 2,
                                 .flags = INODE_IMPLICIT,
                                 .mode = 0755,
                                 .nlink = 2,
                                 .version = 1,
                                 .parent = 1,
                                 .entries = 3,
                                 .data_len = 1,
                                 .data = (uint8_t *)"d"};

static void inode_file_example(struct writer *w)
{
    inode_encode(&file, w);
}

static void inode_dir_example(struct writer *w)
{
    inode_encode(&dir, w);
}

static void inode_device_example(struct writer *w)
{
    inode_encode(
        &(struct inode){.type = 5, .mode = 0600, .nlink = 1, .parent = 8, .rdev = 0x501}, w);
}

static void inode_flagged_example(struct writer *w)
{
    struct inode flagged = dir;
    flagged.flags = INODE_FLAGS & ~INODE_IMPLICIT;
    flagged.data_len = 0;
    inode_encode(&flagged, w);
}

static int inode_again(const void *data, size_t n, struct writer *w)
{
    struct inode inode = {0};
    int err = inode_decode(7, data, n, &inode);
    if (err == 0)
        inode_encode(&inode, w);
    inode_fini(&inode);
    return err;
}

#define KIND(name, ...)                                                                            \
    static void name##_example(struct writer *w)                                                   \
    {                                                                                              \
        struct name value = __VA_ARGS__;                                                           \
        name##_encode(&value, w);                                                                  \
    }
#define AGAIN(name, ...)                                                                           \
    static int name##_again(const void *data, size_t n, struct writer *w)                          \
    {                                                                                              \
        struct name value = {0};                                                                   \
        int err = name##_decode(__VA_ARGS__ data, n, &value);                                      \
        if (err == 0)                                                                              \
            name##_encode(&value, w);                                                              \
        return err;                                                                                \
    }

KIND(state,
     {.next_ino = 2, .next_chunk = 3, .next_node = 4, .by_copies = {0, 1, 2, 3}, .below_target = 5,
      .tree_upgrade = 1, .last_fence = 6, .snapshots = 7, .clones = 8, .snapshot_epoch = 9,
      .snapshot_next_ino = 10, .snapshot_id = 11, .clone_id = 12})
AGAIN(state)
KIND(entry, {.ino = 0x0102030405060708, .type = 1})
AGAIN(entry)
KIND(extent, {.length = 64 << 20, .chunk = 9, .chunk_offset = 4096})
AGAIN(extent, 0, )
KIND(chunk,
     {.state = 2,
      .want = 3,
      .live = 2,
      .owner = 7,
      .owner_offset = 64 << 20,
      .generation = 2,
      .length = 100,
      .counted = true,
      .domain = 3,
      .spread = 2,
      .wish = 4,
      .shift = 24,
      .since_ns = 5,
      .n_replicas = 3,
      .replicas = {
          {.disk = 1, .flags = REPLICA_READY | REPLICA_SEALED, .length = 100, .digest = 0xabcd},
          {.disk = 2, .flags = REPLICA_READY},
          {.disk = 3, .flags = REPLICA_COPYING, .source = 1}}})
AGAIN(chunk, 1, )
static void chunk_shared_example(struct writer *w)
{
    chunk_encode(&(struct chunk){.state = 2, .want = 1, .owner = 7, .generation = 3, .wish = 1, .shares = 2}, w);
}
KIND(tree_snapshot, {.state = SNAPSHOT_HIDDEN,
                     .root = 7,
                     .epoch = 9,
                     .created = 99,
                     .next_ino = 70,
                     .uid = 1000,
                     .clones = 2,
                     .name_len = 3,
                     .name = "mon"})
AGAIN(tree_snapshot, 1, )
KIND(clone, {.family = 2, .snapshot = 3, .base = 1, .names = 4})
AGAIN(clone, 1, )
KIND(cover, {.set = {.n = 2, .roots = {7, 8}}, .until = 9, .epoch = 5})
AGAIN(cover)
KIND(history,
     {.kind = ROW_VALUE, .set = {.any = true, .n = 1, .roots = {7}}, .data = (uint8_t[]){1, 2}, .len = 2})
AGAIN(history)
static void chunk_grouped_example(struct writer *w)
{
    chunk_encode(&(struct chunk){.state = 2, .want = 1, .live = 1, .owner = 7, .generation = 4, .length = 100, .domain = 2,
                                 .spread = 1, .wish = 1, .kind = CHUNK_PARITY, .coded = true, .shard = 5, .group = 9,
                                 .n_replicas = 1,
                                 .replicas = {{.disk = 3, .flags = 3, .length = 100, .digest = 0xabcd}}},
                 w);
}

static void chunk_piece_example(struct writer *w)
{
    chunk_encode(&(struct chunk){.state = 2, .want = 3, .owner = 7, .generation = 4, .length = 100, .domain = 2, .wish = 3,
                                 .body = 11, .body_offset = 65536, .stored = 80, .form = 1},
                 w);
}
KIND(group, {.k = 2, .m = 1, .state = GROUP_CODED, .domain = 2, .leaving = true, .generation = 1, .generation_last = 2,
             .length = 100, .owner = 7, .after_ns = 5, .lost = 1, .ghosts = 2, .known = 6,
             .shards = {{.chunk = 20}, {.chunk = 21, .length = 100, .digest = 0xabcd}, {.chunk = 22, .length = 100, .digest = 0xabce}},
             .next_generation = 2, .next_length = 100, .next_task = 50, .next_ns = 6, .done = 1,
             .next = {{.chunk = 20, .keeper = 3}, {0}, {.chunk = 23, .keeper = 4}}})
AGAIN(group, 1, )
static void chunk_container_example(struct writer *w)
{
    chunk_encode(&(struct chunk){.state = 2, .want = 3, .flags = CHUNK_MAKING, .owner = 0x1122334455667788, .owner_offset = 12, .generation = 1,
                                 .length = 5000, .wish = 3, .domain = 2, .shift = 26, .kind = CHUNK_CONTAINER, .stored = 4000,
                                 .n_replicas = 1, .replicas = {{.disk = 4, .flags = REPLICA_COPYING}}}, w);
}
static void chunk_tried_example(struct writer *w)
{
    chunk_encode(&(struct chunk){.state = 2, .want = 1, .owner = 7, .generation = 2, .length = 5 << 20, .wish = 1, .domain = 2, .shift = 26,
                                 .stored = 3, .form = 1}, w);
}
KIND(pack_candidate, {.since_ns = 11, .bytes = 5000})
AGAIN(pack_candidate)
static const struct pack_class a_class = {.copies = 3, .domain = 2, .shift = 26, .code_k = 4, .code_m = 2, .compress = 3, .affinity = 9,
                                          .candidates = 5, .bytes = 50000, .containers = 2, .due_ns = 77, .next = 8};
static void pack_class_example(struct writer *w)
{
    pack_class_encode(&a_class, w);
}
static int pack_class_again(const void *data, size_t n, struct writer *w)
{
    struct pack_class class;
    int err = pack_class_decode(1, data, n, &class);
    if (err == 0)
        pack_class_encode(&class, w);
    return err;
}
static void pack_job_example(struct writer *w)
{
    pack_job_encode(&(struct pack_job){.state = PACK_COPYING, .disk = 4, .class = 99, .due_ns = 77}, w);
}
static int pack_job_again(const void *data, size_t n, struct writer *w)
{
    struct pack_job job;
    int err = pack_job_decode(1, data, n, &job);
    if (err == 0)
        pack_job_encode(&job, w);
    return err;
}
static struct pack_list pack_pieces = {.n = 2,
                                       .pieces = {{.chunk = 9, .generation = 2, .stored = 10000, .content = 10000, .level = 3,
                                                   .size = 4000, .made = 1},
                                                  {.chunk = 10, .generation = 2, .body = 8, .body_offset = 500, .stored = 700,
                                                   .content = 900, .form = 1, .offset = 4000, .size = 700, .made = 1}}};
static void pack_list_example(struct writer *w)
{
    pack_list_encode(&pack_pieces, w);
}
static int pack_list_again(const void *data, size_t n, struct writer *w)
{
    static struct pack_list list;
    int err = pack_list_decode(data, n, &list);
    if (err == 0)
        pack_list_encode(&list, w);
    return err;
}

KIND(store_task, {.kind = 3, .chunk = 9, .generation = 2, .length = 100, .disk = 65536})
AGAIN(store_task, 1, )
KIND(upload, {.session = 4, .uid = 1000, .copies = 2, .created = 99, .own_copies = true, .domain = 2, .shift = 26,
              .group = 7, .code_k = 4, .code_m = 2, .compress = 3})
AGAIN(upload, 1, )
KIND(session, {.fence = 9,
               .timeout_ms = 30000,
               .node = 2,
               .acked = 5,
               .kept = 1,
               .uuid_len = 3,
               .uuid = {1, 2, 3},
               .name_len = 4,
               .name = "test"})
AGAIN(session, 1, )
KIND(handle, {.ino = 7, .flags = 2})
AGAIN(handle, 1, )
KIND(opens, {.handles = 3, .writers = 1, .sole = 9})
AGAIN(opens)
KIND(exclusive, {.session = 9, .number = 12, .recalled = true})
AGAIN(exclusive, 7, )
KIND(recalled, {.kind = 2, .ino = 7})
AGAIN(recalled)
KIND(role, {.session = 4, .epoch = 2, .address_len = 5, .address = "tcp:1"})
AGAIN(role)
KIND(node, {.up = true,
            .total = 1000,
            .free = 500,
            .chunks = 3,
            .epoch = 2,
            .slots = 4,
            .flags = NODE_DRAINING | NODE_RACK_PINNED,
            .n_disks = 2,
            .disks = {2, 65536},
            .uuid_len = 2,
            .uuid = {1, 2},
            .host = "h",
            .rack = "r",
            .address = "tcp:a",
            .local = "unix:b",
            .machine = "m"})
AGAIN(node, 1, )

KIND(quota, {.limit_bytes = 1000, .limit_files = 10, .bytes = 500, .files = 3, .cursor = 77, .path_len = 2, .path = "/d"})
AGAIN(quota, 1, 9, )

static void lock_table_example(struct writer *w)
{
    struct lock_range
        held = {.owner = {1, 2}, .start = 0, .end = 9, .type = 2, .pid = 77, .handle = 5},
        waiter = {.owner = {1, 3}, .start = 5, .end = UINT64_MAX, .type = 1, .waiter = 42};
    struct lock_table table = {.held = &held, .n_held = 1, .waiters = &waiter, .n_waiters = 1};
    lock_table_encode(&table, w);
}

static int lock_table_again(const void *data, size_t n, struct writer *w)
{
    struct lock_table table = {0};
    int err = lock_table_decode(data, n, &table);
    if (err == 0)
        lock_table_encode(&table, w);
    lock_table_fini(&table);
    return err;
}

static void number_example(struct writer *w)
{
    number_encode(0x1122334455667788, w);
}

static int number_again(const void *data, size_t n, struct writer *w)
{
    uint64_t v;
    int err = number_decode(data, n, &v);
    if (err == 0)
        number_encode(v, w);
    return err;
}

KIND(disk,
     {.node = 2, .up = true, .flags = DISK_DRAINING, .total = 1000, .free = 500, .chunks = 3, .queue = 4,
      .down_since_ns = 5, .recount = 6, .ready = 7, .copying = 8, .leaving = 9, .sources = 10, .bytes = 11,
      .bytes_at = 12, .busy_ns = 13, .drain_since_ns = 14, .balance_after_ns = 15, .promised = 16, .uuid_len = 2, .uuid = {1, 2}})
AGAIN(disk, 1, )
KIND(policy, {.copies = 2, .domain = 3, .shift = 24, .affinity_len = 5, .affinity = "study"})
AGAIN(policy)
static void policy_code_example(struct writer *w)
{
    policy_encode(&(struct policy){.domain = 2, .code_k = 4, .code_m = 2, .compress = 4}, w);
}
KIND(heal_state, {.weak = 1, .reduced = 2, .missing_bytes = 3, .copied_bytes = 4, .rate = 5, .walk_next = 6,
                  .walk_end = 7, .counting = true, .policies = 8, .drain_disk = 9, .balancing = true, .groups = 10, .coding = 11, .ghosts = 12})
AGAIN(heal_state)
KIND(damage_row, {.since_ns = 1, .offset = 65536, .due_ns = 3, .task = 4, .bytes = 5, .tries = 6, .nobody = true})
AGAIN(damage_row, 5, 2, )

static const struct kind kinds[] = {{"state", state_example, state_again},
                                    {"inode_file", inode_file_example, inode_again},
                                    {"inode_dir", inode_dir_example, inode_again},
                                    {"inode_device", inode_device_example, inode_again},
                                    {"inode_flagged", inode_flagged_example, inode_again},
                                    {"entry", entry_example, entry_again},
                                    {"extent", extent_example, extent_again},
                                    {"chunk", chunk_example, chunk_again},
                                    {"chunk_shared", chunk_shared_example, chunk_again},
                                    {"chunk_grouped", chunk_grouped_example, chunk_again},
                                    {"chunk_piece", chunk_piece_example, chunk_again},
                                    {"group", group_example, group_again},
                                    {"chunk_container", chunk_container_example, chunk_again},
                                    {"chunk_tried", chunk_tried_example, chunk_again},
                                    {"pack_class", pack_class_example, pack_class_again},
                                    {"pack_candidate", pack_candidate_example, pack_candidate_again},
                                    {"pack_job", pack_job_example, pack_job_again},
                                    {"pack_list", pack_list_example, pack_list_again},
                                    {"tree_snapshot", tree_snapshot_example, tree_snapshot_again},
                                    {"clone", clone_example, clone_again},
                                    {"cover", cover_example, cover_again},
                                    {"history", history_example, history_again},
                                    {"store_task", store_task_example, store_task_again},
                                    {"upload", upload_example, upload_again},
                                    {"session", session_example, session_again},
                                    {"handle", handle_example, handle_again},
                                    {"opens", opens_example, opens_again},
                                    {"exclusive", exclusive_example, exclusive_again},
                                    {"recalled", recalled_example, recalled_again},
                                    {"role", role_example, role_again},
                                    {"node", node_example, node_again},
                                    {"disk", disk_example, disk_again},
                                    {"policy", policy_example, policy_again},
                                    {"policy_code", policy_code_example, policy_again},
                                    {"heal_state", heal_state_example, heal_state_again},
                                    {"damage_row", damage_row_example, damage_row_again},
                                    {"lock_table", lock_table_example, lock_table_again},
                                    {"quota", quota_example, quota_again},
                                    {"number", number_example, number_again}};

static void rows_have_their_golden_bytes(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        uint8_t expected[1024];
        _cleanup_(writer_fini) struct writer w = {0};
        kinds[i].example(&w);
        size_t n = golden_read(golden_path, kinds[i].name, expected, sizeof expected);
        assert_int_equal(w.len, n);
        assert_memory_equal(w.data, expected, n);
    }
}

static void rows_round_trip_and_prefixes_are_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        _cleanup_(writer_fini) struct writer w = {0}, again = {0}, none = {0};
        kinds[i].example(&w);
        assert_int_equal(kinds[i].again(w.data, w.len, &again), 0);
        assert_int_equal(w.len, again.len);
        assert_memory_equal(w.data, again.data, w.len);
        for (size_t n = 0; n < w.len; n++) {
            uint8_t *exact = malloc(n + 1); /* so that a read past the end is seen */
            memcpy(exact, w.data, n);
            assert_int_equal(kinds[i].again(exact, n, &none), -E_CORRUPT);
            free(exact);
        }
        writer_u8(&w, 0); /* left over */
        assert_int_equal(kinds[i].again(w.data, w.len, &none), -E_CORRUPT);
        w.data[0] += 100; /* another version */
        assert_true(kinds[i].again(w.data, w.len - 1, &none) != 0);
    }
}

/* Rows that earlier versions wrote: read, completed, refused in every prefix. */
static void rows_of_version_1_are_read(void **state)
{
    static const struct {
        const char *name;
        int (*again)(const void *data, size_t n, struct writer *w);
        uint8_t version; /* that they are completed to */
    } old[] = {{"state_v1", state_again, 2},
               {"inode_file_v1", inode_again, 2},
               {"inode_dir_v1", inode_again, 2},
               {"inode_device_v1", inode_again, 2},
               {"session_v1", session_again, 2},
               {"opens_v1", opens_again, 2},
               {"chunk_v1", chunk_again, 2},
               {"store_task_v1", store_task_again, 2},
               {"upload_v1", upload_again, 3},
               {"upload_v2", upload_again, 3},
               {"policy_v1", policy_again, 2},
               {"heal_state_v1", heal_state_again, 2},
               {"node_v1", node_again, 2}};
    for (size_t i = 0; i < ARRAY_SIZE(old); i++) {
        uint8_t bytes[1024];
        _cleanup_(writer_fini) struct writer w = {0}, none = {0};
        size_t n = golden_read(golden_path, old[i].name, bytes, sizeof bytes);
        assert_int_equal(old[i].again(bytes, n, &w), 0);
        assert_int_equal(w.data[0], old[i].version);
        for (size_t at = 0; at < n; at++)
            assert_int_equal(old[i].again(bytes, at, &none), -E_CORRUPT);
    }
    uint8_t bytes[1024];
    size_t n = golden_read(golden_path, "inode_file_v1", bytes, sizeof bytes);
    struct inode inode = {0};
    assert_int_equal(inode_decode(7, bytes, n, &inode), 0);
    assert_int_equal(inode.parent, 0);
    assert_int_equal(inode.version, 15);
    assert_int_equal(inode.data_len, 5);
    inode_fini(&inode);
    n = golden_read(golden_path, "inode_dir_v1", bytes, sizeof bytes);
    assert_int_equal(inode_decode(8, bytes, n, &inode), 0);
    assert_int_equal(inode.parent, 1);
    assert_int_equal(inode.entries, 3);
    assert_int_equal(inode.flags, INODE_IMPLICIT);
    inode_fini(&inode);
    struct state s;
    n = golden_read(golden_path, "state_v1", bytes, sizeof bytes);
    assert_int_equal(state_decode(bytes, n, &s), 0);
    assert_int_equal(s.below_target, 5);
    assert_int_equal(s.tree_upgrade, 1); /* parents are to be found */
    struct chunk chunk;
    n = golden_read(golden_path, "chunk_v1", bytes, sizeof bytes);
    assert_int_equal(chunk_decode(1, bytes, n, &chunk), 0);
    assert_false(chunk.counted);
    assert_int_equal(chunk.wish, 3);
    struct node node;
    n = golden_read(golden_path, "node_v1", bytes, sizeof bytes);
    assert_int_equal(node_decode(9, bytes, n, &node), 0);
    assert_int_equal(node.n_disks, 1); /* it was its one disk */
    assert_int_equal(node.disks[0], 9);
}

/* What a flag would add to the row is not known, so a row with one is not read. */
static void unknown_flags_of_an_inode_are_refused(void **state)
{
    for (unsigned bit = 0; bit < 16; bit++) {
        _cleanup_(writer_fini) struct writer w = {0};
        struct inode inode = dir, back = {0};
        inode.flags = (uint16_t)(1u << bit);
        inode_encode(&inode, &w);
        int expected = (INODE_FLAGS & 1u << bit) != 0 ? 0 : -E_CORRUPT;
        assert_int_equal(inode_decode(inode.ino, w.data, w.len, &back), expected);
        inode_fini(&back);
    }
}

/* A row of a version that counts fewer numbers has zeros; one that counts more is not ours. */
static void numbers_of_the_state_are_appended(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct state s = {.next_ino = 9, .tree_upgrade = 1}, back;
    state_encode(&s, &w);
    size_t at = 1 + 8 * (18 + MD_COPIES_MAX + 1);
    uint8_t known = w.data[at];
    assert_true(known >= 1);
    w.data[at] = 0;
    assert_int_equal(state_decode(w.data, at + 1, &back), 0);
    assert_int_equal(back.next_ino, 9);
    assert_int_equal(back.tree_upgrade, 0);
    w.data[at] = (uint8_t)(known + 1);
    writer_u64(&w, 1);
    assert_int_equal(state_decode(w.data, w.len, &back), -E_VERSION);
}

static void an_ordinary_file_stays_small(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct inode inode = file;
    inode.etag_len = 16;
    inode.data_len = 0;
    inode_encode(&inode, &w);
    entry_encode(&(struct entry){.ino = 7, .type = 1}, &w);
    assert_true(w.len + 9 + 9 + 20 <= 200); /* both rows with their keys, a name of 20 bytes */
}

static void keys_sort_by_number_and_name(void **state)
{
    struct key a = key_2(TABLE_EXTENT, 1, 255), b = key_2(TABLE_EXTENT, 1, 256),
               c = key_named(TABLE_ENTRY, 3, "ab", 2);
    assert_true(memcmp(a.data, b.data, a.len) < 0);
    assert_int_equal(key_number(&b, 1), 256);
    assert_int_equal(key_number(&b, 2), 0);
    size_t len = 0;
    assert_memory_equal(key_name(&c, &len), "ab", 2);
    assert_int_equal(len, 2);
}

int main(int argc, char **argv)
{
    golden_path = argc > 1 ? argv[1] : "tests/golden/metadata_records.hex";
    if (argc > 2) { /* prints the golden file, for a new kind of row */
        for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
            _cleanup_(writer_fini) struct writer w = {0};
            kinds[i].example(&w);
            printf("%s =", kinds[i].name);
            for (size_t j = 0; j < w.len; j++)
                printf("%s%02x", j % 48 != 0 ? "" : j == 0 ? " " : "\n  ", w.data[j]);
            printf("\n");
        }
        return 0;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_have_their_golden_bytes),
                                       cmocka_unit_test(rows_of_version_1_are_read),
                                       cmocka_unit_test(unknown_flags_of_an_inode_are_refused),
                                       cmocka_unit_test(numbers_of_the_state_are_appended),
                                       cmocka_unit_test(rows_round_trip_and_prefixes_are_refused),
                                       cmocka_unit_test(an_ordinary_file_stays_small),
                                       cmocka_unit_test(keys_sort_by_number_and_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
