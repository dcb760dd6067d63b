/* Disks, draining, policies, domains, balance in the tables; every test ends with the checker, which counts
 * everything again (D1-D4). H and PO rules of docs/invariants.md. */
#include <stdio.h>

#include "common/prng.h"
#include "metadata/clustermap.h"
#include "metadata/heal_state.h"
#include "metadata/kv.h"
#include "metadata/heal.h"
#include "world.h"

#define SECOND 1000000000ull
#define NODES_MAX_HERE 12

struct cluster_world {
    struct world w;
    uint32_t nodes;
    bool down[NODES_MAX_HERE + 1];
};

static void begin(struct cluster_world *c, unsigned nodes, unsigned racks)
{
    *c = (struct cluster_world){0};
    world_init(&c->w);
    for (unsigned i = 0; i < nodes; i++) {
        char name[8], rack[24];
        snprintf(name, sizeof name, "n%u", i + 1);
        snprintf(rack, sizeof rack, "/s%u/r%u", i % racks % 2, i % racks);
        assert_int_equal(world_node(&c->w, name, rack), ++c->nodes);
    }
    assert_int_equal(world_make(&c->w, TARN__FILE_TYPE__FT_DIR, "/", "d", 0755), 0);
}

static void end(struct cluster_world *c)
{
    world_check(&c->w);
    world_fini(&c->w);
}

/* An object of one chunk; copies 0 = what the policy says. Its chunk's id. */
static uint64_t put(struct cluster_world *c, const char *name, uint64_t length, uint32_t copies)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/d";
    Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT;
    m.near = &at;
    m.copies = copies;
    assert_int_equal(world_apply(&c->w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
    const Tarn__UploadChunkReply *reply = world_reply(&c->w, &tarn__upload_chunk_reply__descriptor);
    uint64_t chunk = reply->extent->chunk;
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    part.upload = reply->upload;
    part.lengths = &length;
    part.n_lengths = 1;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &at;
    object.path = (char *)name;
    object.parts = parts;
    object.n_parts = 1;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    commit.object = &object;
    assert_int_equal(world_apply(&c->w, OP_OBJECT_COMMIT, &commit.base, &commit.ctx), 0);
    return chunk;
}

static struct chunk chunk_of(struct cluster_world *c, uint64_t id)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_txn *txn;
    struct kv_val value;
    struct chunk chunk;
    assert_int_equal(kv_begin(c->w.kv, false, &txn), 0);
    assert_int_equal(kv_get(txn, key.data, key.len, &value), 0);
    assert_int_equal(chunk_decode(id, value.data, value.len, &chunk), 0);
    kv_abort(txn);
    return chunk;
}

static unsigned ready(struct cluster_world *c, uint64_t id)
{
    struct chunk chunk = chunk_of(c, id);
    unsigned n = 0;
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        n += (chunk.replicas[i].flags & REPLICA_READY) != 0;
    return n;
}

/* Whether the chunk has a copy on the node, as the tables have it. */
static bool is_on(struct cluster_world *c, uint64_t id, uint32_t node)
{
    struct chunk chunk = chunk_of(c, id);
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        if (chunk.replicas[i].disk == node && (chunk.replicas[i].flags & REPLICA_READY))
            return true;
    return false;
}

/* Stores that are up do what they are told; the work goes on until `seconds` have passed. */
static void run(struct cluster_world *c, unsigned seconds, uint64_t length)
{
    for (unsigned s = 0; s < seconds; s++) {
        for (unsigned i = 0; i < 50 && world_work(&c->w); i++)
            ;
        for (uint32_t node = 1; node <= c->nodes; node++)
            if (!c->down[node])
                (void)world_do_tasks(&c->w, node, 77, length);
        c->w.now += SECOND;
    }
}

static Tarn__Node *node_of(struct cluster_world *c, uint32_t id)
{
    Tarn__NodeList m = TARN__NODE_LIST__INIT;
    assert_int_equal(world_query(&c->w, OP_NODE_LIST, &m.base, &m.ctx), 0);
    const Tarn__NodeListReply *reply = world_reply(&c->w, &tarn__node_list_reply__descriptor);
    for (size_t i = 0; i < reply->n_nodes; i++)
        if (reply->nodes[i]->id == id)
            return reply->nodes[i];
    fail();
    return NULL;
}

static int drain(struct cluster_world *c, uint32_t node, bool undo)
{
    Tarn__NodeDrain m = TARN__NODE_DRAIN__INIT;
    m.node = node;
    m.undo = undo;
    return world_apply(&c->w, OP_NODE_DRAIN, &m.base, &m.ctx);
}

static int policy(struct cluster_world *c, const char *path, uint32_t mask, const Tarn__Policy *to)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)path;
    Tarn__PolicySet m = TARN__POLICY_SET__INIT;
    m.where = &at;
    m.mask = mask;
    m.policy = (Tarn__Policy *)to;
    return world_apply(&c->w, OP_POLICY_SET, &m.base, &m.ctx);
}

static int policy_copies(struct cluster_world *c, const char *path, uint32_t copies)
{
    Tarn__Policy to = TARN__POLICY__INIT;
    to.copies = copies;
    return policy(c, path, 1, &to);
}

static Tarn__HealStatusReply *status(struct cluster_world *c)
{
    Tarn__HealStatus m = TARN__HEAL_STATUS__INIT;
    assert_int_equal(world_query(&c->w, OP_HEAL_STATUS, &m.base, &m.ctx), 0);
    return world_reply(&c->w, &tarn__heal_status_reply__descriptor);
}

static void set_up(struct cluster_world *c, uint32_t node, bool up)
{
    c->down[node] = !up;
    world_node_set(&c->w, node, up);
}

/* ------------------------------------------------------------------ draining */
static void a_drained_node_is_safe_to_remove_when_nothing_depends_on_it(void **state)
{
    struct cluster_world c;
    char name[16];
    begin(&c, 4, 4);
    for (unsigned i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "o%u", i);
        (void)put(&c, name, 100, 0);
    }
    run(&c, 3, 100);
    uint64_t before = node_of(&c, 2)->dependents;
    assert_true(before > 0);
    assert_false(node_of(&c, 2)->safe_to_remove);
    assert_int_equal(drain(&c, 2, false), 0);
    assert_false(node_of(&c, 2)->safe_to_remove);
    uint64_t now = put(&c, "later", 100, 0);
    run(&c, 10, 100);
    assert_true(node_of(&c, 2)->draining);
    assert_true(node_of(&c, 2)->safe_to_remove);
    assert_int_equal(node_of(&c, 2)->dependents, 0);
    assert_false(is_on(&c, now, 2));
    assert_int_equal(status(&c)->below_target, 0);
    set_up(&c, 2, false);
    assert_int_equal(status(&c)->below_target, 0);
    assert_int_equal(world_status(&c.w)->by_copies[3], 21);
    end(&c);
}

static void an_undrained_node_takes_chunks_again(void **state)
{
    struct cluster_world c;
    begin(&c, 4, 4);
    assert_int_equal(drain(&c, 1, false), 0);
    assert_int_equal(drain(&c, 1, true), 0);
    unsigned on = 0;
    for (unsigned i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "o%u", i);
        on += is_on(&c, put(&c, name, 100, 0), 1);
    }
    assert_true(on > 0);
    assert_false(node_of(&c, 1)->draining);
    end(&c);
}

static void the_last_node_is_not_drained(void **state)
{
    struct cluster_world c;
    begin(&c, 2, 2);
    assert_int_equal(drain(&c, 1, false), 0);
    assert_int_equal(drain(&c, 2, false), -E_INVAL);
    assert_int_equal(drain(&c, 9, false), -E_NOENT);
    c.w.uid = 1000;
    assert_int_equal(drain(&c, 1, true), -E_PERM);
    end(&c);
}

/* With the node three copies have only two places: the target goes down with a word of it, not silently. */
static void draining_one_of_three_leaves_two_copies_and_says_so(void **state)
{
    struct cluster_world c;
    begin(&c, 3, 3);
    uint64_t chunk = put(&c, "o", 100, 0);
    run(&c, 3, 100);
    assert_int_equal(ready(&c, chunk), 3);
    assert_int_equal(drain(&c, 3, false), 0);
    run(&c, 5, 100);
    assert_true(node_of(&c, 3)->safe_to_remove);
    assert_int_equal(ready(&c, chunk), 2);
    assert_int_equal(status(&c)->reduced, 1);
    assert_non_null(strstr(status(&c)->next, "add nodes"));
    assert_int_equal(drain(&c, 3, true), 0);
    run(&c, 5, 100);
    assert_int_equal(ready(&c, chunk), 3);
    assert_int_equal(status(&c)->reduced, 0);
    end(&c);
}

static uint64_t open_chunk(struct cluster_world *c, const char *name, uint64_t *ret_handle)
{
    char path[32];
    snprintf(path, sizeof path, "/d/%s", name);
    assert_int_equal(world_make(&c->w, TARN__FILE_TYPE__FT_FILE, "/d", name, 0644), 0);
    assert_int_equal(world_open(&c->w, path, 2, ret_handle), 0);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(&c->w, path, &attr), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = attr->ino;
    m.writer_node = 1;
    assert_int_equal(world_apply(&c->w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    uint64_t chunk = ((Tarn__ChunkReply *)world_reply(&c->w, &tarn__chunk_reply__descriptor))->extent->chunk;
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = m.ino;
    Tarn__SetAttr grow = TARN__SET_ATTR__INIT;
    grow.where = &at;
    grow.mask = TARN__SET_ATTR_BITS__SA_GROW;
    grow.size = 100;
    assert_int_equal(world_apply(&c->w, OP_SETATTR, &grow.base, &grow.ctx), 0);
    return chunk;
}

static void an_open_chunk_gives_up_its_draining_member_after_a_minute(void **state)
{
    struct cluster_world c;
    uint64_t handle;
    begin(&c, 4, 4);
    uint64_t chunk = open_chunk(&c, "f", &handle), generation = chunk_of(&c, chunk).generation;
    assert_true(is_on(&c, chunk, 1));
    assert_int_equal(drain(&c, 1, false), 0);
    run(&c, 30, 100);
    assert_true(is_on(&c, chunk, 1)); /* it may be closed soon */
    assert_false(node_of(&c, 1)->safe_to_remove);
    run(&c, 40, 100);
    assert_false(is_on(&c, chunk, 1));
    assert_int_equal(chunk_of(&c, chunk).generation, generation + 1); /* C2 */
    assert_true(node_of(&c, 1)->safe_to_remove);
    assert_int_equal(world_close(&c.w, handle), 0);
    run(&c, 10, 100);
    assert_int_equal(ready(&c, chunk), 3);
    end(&c);
}

static void an_open_chunk_never_goes_below_two_members_for_a_drain(void **state)
{
    struct cluster_world c;
    uint64_t handle;
    begin(&c, 4, 4);
    assert_int_equal(policy_copies(&c, "/d", 2), 0);
    uint64_t chunk = open_chunk(&c, "f", &handle);
    assert_int_equal(drain(&c, 1, false), 0);
    run(&c, 100, 100);
    assert_true(is_on(&c, chunk, 1));
    assert_false(node_of(&c, 1)->safe_to_remove);
    assert_int_equal(world_close(&c.w, handle), 0);
    run(&c, 10, 100);
    assert_true(node_of(&c, 1)->safe_to_remove);
    assert_int_equal(ready(&c, chunk), 2);
    end(&c);
}

/* ------------------------------------------------------------------ absence */
static void thirty_seconds_of_absence_move_nothing(void **state)
{
    struct cluster_world c;
    begin(&c, 4, 4);
    uint64_t chunk = put(&c, "o", 100, 0);
    run(&c, 3, 100);
    uint32_t node = chunk_of(&c, chunk).replicas[1].disk;
    set_up(&c, node, false);
    run(&c, 25, 100);
    assert_int_equal(chunk_of(&c, chunk).n_replicas, 3);
    assert_int_equal(status(&c)->missing_bytes, 100);
    assert_true(status(&c)->oldest_ns > 0);
    set_up(&c, node, true);
    run(&c, 3, 100);
    assert_int_equal(chunk_of(&c, chunk).n_replicas, 3);
    assert_int_equal(status(&c)->oldest_ns, 0);
    end(&c);
}

static void after_that_it_is_copied_and_the_surplus_goes_when_the_node_is_back(void **state)
{
    struct cluster_world c;
    begin(&c, 4, 4);
    uint64_t chunk = put(&c, "o", 100, 0);
    run(&c, 3, 100);
    uint32_t node = chunk_of(&c, chunk).replicas[1].disk;
    set_up(&c, node, false);
    run(&c, 40, 100);
    assert_int_equal(world_status(&c.w)->below_target, 0);
    assert_true(status(&c)->copied_bytes >= 100);
    set_up(&c, node, true);
    run(&c, 5, 100);
    assert_int_equal(ready(&c, chunk), 3);
    assert_int_equal(chunk_of(&c, chunk).n_replicas, 3);
    end(&c);
}

/* H1: the chunk with one copy left is copied before those with two, however many they are. */
static void the_most_endangered_chunk_goes_first(void **state)
{
    struct cluster_world c;
    uint64_t last = 0;
    begin(&c, 8, 8);
    for (unsigned i = 0; i < 400; i++) {
        char name[16];
        snprintf(name, sizeof name, "o%u", i);
        last = put(&c, name, 64 << 20, 0);
    }
    run(&c, 3, 64 << 20);
    struct chunk chunk = chunk_of(&c, last);
    set_up(&c, chunk.replicas[0].disk, false);
    set_up(&c, chunk.replicas[1].disk, false);
    c.w.now += 31 * SECOND;
    while (status(&c)->copies == 0)
        assert_true(world_work(&c.w));
    unsigned coming[4] = {0};
    for (uint64_t id = 1; id <= last; id++) {
        chunk = chunk_of(&c, id);
        for (unsigned i = 0; i < chunk.n_replicas; i++)
            coming[chunk.live] += (chunk.replicas[i].flags & REPLICA_COPYING) != 0;
    }
    assert_true(coming[1] > 0);
    assert_int_equal(coming[2], 0);
    end(&c);
}

/* H6: the rate of a second is not passed however much there is to do. */
static void copies_are_given_out_no_faster_than_allowed(void **state)
{
    struct cluster_world c;
    begin(&c, 4, 4);
    for (unsigned i = 0; i < 900; i++) {
        char name[16];
        snprintf(name, sizeof name, "o%u", i);
        (void)put(&c, name, 64 << 20, 0);
    }
    run(&c, 2, 64 << 20);
    set_up(&c, 1, false);
    c.w.now += 31 * SECOND;
    uint64_t before = status(&c)->copied_bytes;
    for (unsigned i = 0; i < 20; i++, c.w.now -= SECOND * 9 / 10) /* stores that copy in no time, for two seconds */
        run(&c, 1, 64 << 20);
    uint64_t copied = status(&c)->copied_bytes - before;
    /* Three disks give and take 2 GiB/s each, two seconds and a burst of three. */
    assert_in_range(copied, 1, 3ull * 5 * (2ull << 30) + 3 * (64 << 20));
    assert_true(status(&c)->below_target > 0);
    run(&c, 200, 64 << 20);
    assert_int_equal(status(&c)->below_target, 0);
    end(&c);
}

/* ------------------------------------------------------------------ policies */
static void a_change_of_copies_reaches_what_exists(void **state)
{
    struct cluster_world c;
    uint64_t chunks[10];
    begin(&c, 5, 5);
    assert_int_equal(policy_copies(&c, "/d", 2), 0);
    for (unsigned i = 0; i < 10; i++)
        chunks[i] = put(&c, (char[]){(char)('a' + i), 0}, 100, 0);
    run(&c, 3, 100);
    for (uint32_t round = 0; round < 2; round++) {
        uint32_t copies = round == 0 ? 3 : 1;
        assert_int_equal(policy_copies(&c, "/d", copies), 0);
        const Tarn__PolicyReply *reply = world_reply(&c.w, &tarn__policy_reply__descriptor);
        assert_true(reply->walk_end > reply->walked);
        run(&c, 5, 100);
        for (unsigned i = 0; i < 10; i++) {
            assert_int_equal(ready(&c, chunks[i]), copies);
            assert_int_equal(chunk_of(&c, chunks[i]).n_replicas, copies);
        }
        assert_int_equal(status(&c)->walk_end, 0);
    }
    end(&c);
}

static void the_nearest_policy_counts_and_a_files_own_copies_stay(void **state)
{
    struct cluster_world c;
    begin(&c, 5, 5);
    assert_int_equal(world_make(&c.w, TARN__FILE_TYPE__FT_DIR, "/d", "e", 0755), 0);
    assert_int_equal(policy_copies(&c, "/", 1), 0);
    assert_int_equal(policy_copies(&c, "/d", 2), 0);
    assert_int_equal(policy_copies(&c, "/d/e", 4), 0);
    uint64_t outer = put(&c, "o", 100, 0), inner = put(&c, "e/i", 100, 0), own = put(&c, "own", 100, 5);
    run(&c, 5, 100);
    assert_int_equal(ready(&c, outer), 2);
    assert_int_equal(ready(&c, own), 5);
    assert_int_equal(policy_copies(&c, "/d/e", 3), 0);
    run(&c, 5, 100);
    assert_int_equal(ready(&c, inner), 3);
    assert_int_equal(ready(&c, outer), 2);
    assert_int_equal(ready(&c, own), 5);
    assert_int_equal(policy_copies(&c, "/d/e", 0), 0); /* inherits again */
    run(&c, 5, 100);
    assert_int_equal(ready(&c, inner), 2);
    end(&c);
}

static const Tarn__Policy *policy_at(struct cluster_world *c, const char *path)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    Tarn__PolicyGet m = TARN__POLICY_GET__INIT;
    m.where = &where;
    assert_int_equal(world_query(&c->w, OP_POLICY_GET, &m.base, &m.ctx), 0);
    const Tarn__PolicyReply *reply = world_reply(&c->w, &tarn__policy_reply__descriptor);
    return reply->effective;
}

static int policy_code(struct cluster_world *c, const char *path, uint32_t k, uint32_t m)
{
    Tarn__Policy to = TARN__POLICY__INIT;
    to.code_k = k;
    to.code_m = m;
    return policy(c, path, 16, &to);
}

static void of_copies_and_code_the_nearest_word_counts(void **state)
{
    struct cluster_world c;
    begin(&c, 3, 3);
    assert_int_equal(world_make(&c.w, TARN__FILE_TYPE__FT_DIR, "/d", "e", 0755), 0);
    assert_int_equal(policy_at(&c, "/d/e")->code_k, 1); /* whole copies */
    assert_int_equal(policy_copies(&c, "/", 5), 0);
    assert_int_equal(policy_code(&c, "/d", 4, 2), 0);
    assert_int_equal(policy_at(&c, "/d/e")->code_k, 4);
    assert_int_equal(policy_at(&c, "/d/e")->code_m, 2);
    assert_int_equal(policy_at(&c, "/d/e")->copies, 3); /* until it is coded: as many losses as the code bears */
    assert_int_equal(policy_copies(&c, "/d/e", 2), 0);
    assert_int_equal(policy_at(&c, "/d/e")->code_k, 1);
    assert_int_equal(policy_at(&c, "/d/e")->copies, 2);
    assert_int_equal(policy_code(&c, "/d/e", 1, 0), 0); /* whole copies; how many is said above the code */
    assert_int_equal(policy_at(&c, "/d/e")->code_k, 1);
    assert_int_equal(policy_at(&c, "/d/e")->copies, 5);
    assert_int_equal(policy_code(&c, "/d/e", 8, 3), 0);
    assert_int_equal(policy_at(&c, "/d/e")->code_k, 8);
    assert_int_equal(policy_copies(&c, "/d", 3), 0); /* takes the code's place */
    assert_int_equal(policy_at(&c, "/d")->code_k, 1);
    assert_int_equal(policy_code(&c, "/d/e", 0, 0), 0);
    assert_int_equal(policy_at(&c, "/d/e")->copies, 3);
    end(&c);
}

static void a_policy_goes_with_its_directory(void **state)
{
    struct cluster_world c;
    begin(&c, 3, 3);
    assert_int_equal(world_make(&c.w, TARN__FILE_TYPE__FT_DIR, "/d", "e", 0755), 0);
    assert_int_equal(policy_code(&c, "/d/e", 4, 2), 0);
    assert_int_equal(world_unlink(&c.w, "/d", "e", true), 0);
    world_check(&c.w); /* counts the rows, and looks for their directories */
    end(&c);
}

static void compression_is_inherited_and_can_be_off(void **state)
{
    struct cluster_world c;
    begin(&c, 3, 3);
    Tarn__Policy to = TARN__POLICY__INIT;
    assert_int_equal(world_make(&c.w, TARN__FILE_TYPE__FT_DIR, "/d", "e", 0755), 0);
    assert_int_equal(policy_at(&c, "/d/e")->compress, 1); /* off: as wire and rows have it */
    to.compress = 4; /* level 3 */
    assert_int_equal(policy(&c, "/d", 32, &to), 0);
    assert_int_equal(policy_at(&c, "/d/e")->compress, 4);
    to.compress = 1;
    assert_int_equal(policy(&c, "/d/e", 32, &to), 0);
    assert_int_equal(policy_at(&c, "/d/e")->compress, 1);
    to.compress = 0;
    assert_int_equal(policy(&c, "/d/e", 32, &to), 0);
    assert_int_equal(policy_at(&c, "/d/e")->compress, 4);
    end(&c);
}

static void a_later_change_overtakes_the_one_under_way(void **state)
{
    struct cluster_world c;
    uint64_t first = 0, last = 0;
    begin(&c, 4, 4);
    for (unsigned i = 0; i < 700; i++) { /* more than two steps */
        char name[16];
        snprintf(name, sizeof name, "o%u", i);
        last = put(&c, name, MIB(2), 0); /* too large to be packed */
        first = first == 0 ? last : first;
    }
    run(&c, 2, MIB(2));
    assert_int_equal(policy_copies(&c, "/d", 1), 0);
    assert_true(world_work(&c.w)); /* one step */
    assert_int_equal(policy_copies(&c, "/d", 2), 0);
    run(&c, 30, MIB(2));
    assert_int_equal(ready(&c, first), 2);
    assert_int_equal(ready(&c, last), 2);
    assert_int_equal(status(&c)->walk_end, 0);
    end(&c);
}

static void nonsense_is_refused(void **state)
{
    struct cluster_world c;
    begin(&c, 2, 2);
    Tarn__Policy to = TARN__POLICY__INIT;
    to.copies = 7;
    assert_int_equal(policy(&c, "/d", 1, &to), -E_INVAL);
    to.copies = 0;
    to.chunk_bytes = 3 << 20;
    assert_int_equal(policy(&c, "/d", 4, &to), -E_INVAL);
    to.chunk_bytes = 0;
    to.domain = 5;
    assert_int_equal(policy(&c, "/d", 2, &to), -E_INVAL);
    to.domain = 0;
    to.affinity = "two words";
    assert_int_equal(policy(&c, "/d", 8, &to), -E_INVAL);
    assert_int_equal(policy(&c, "/d", 64, &to), -E_INVAL);
    to.affinity = "";
    static const struct {
        uint32_t k, m;
    } codes[] = {{17, 1}, {2, 0}, {0, 1}, {1, 2}, {4, 5}};
    for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
        to.code_k = codes[i].k;
        to.code_m = codes[i].m;
        assert_int_equal(policy(&c, "/d", 16, &to), -E_INVAL);
    }
    to.code_k = 4;
    to.code_m = 2;
    to.copies = 2;
    assert_int_equal(policy(&c, "/d", 1 | 16, &to), -E_INVAL);
    to.compress = 21;
    assert_int_equal(policy(&c, "/d", 32, &to), -E_INVAL);
    c.w.uid = 1000;
    assert_int_equal(policy_copies(&c, "/d", 2), -E_PERM);
    end(&c);
}

static void the_chunk_size_of_a_directory_makes_smaller_slots(void **state)
{
    struct cluster_world c;
    begin(&c, 3, 3);
    Tarn__Policy to = TARN__POLICY__INIT;
    to.chunk_bytes = 1 << 20;
    assert_int_equal(policy(&c, "/d", 4, &to), 0);
    uint64_t handle;
    assert_int_equal(world_make(&c.w, TARN__FILE_TYPE__FT_FILE, "/d", "f", 0644), 0);
    assert_int_equal(world_open(&c.w, "/d/f", 2, &handle), 0);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(&c.w, "/d/f", &attr), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = attr->ino;
    m.offset = (5 << 20) + 17;
    assert_int_equal(world_apply(&c.w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    const Tarn__ChunkReply *reply = world_reply(&c.w, &tarn__chunk_reply__descriptor);
    assert_int_equal(reply->extent->offset, 5 << 20);
    assert_int_equal(reply->extent->length, 1 << 20);
    end(&c);
}

/* An upload's part that lies across the border of two slots keeps all its bytes when it is written into. */
static void a_clone_is_never_shorter_than_what_it_replaces(void **state)
{
    struct cluster_world c;
    begin(&c, 3, 3);
    (void)put(&c, "o", 40 << 20, 0);
    run(&c, 3, 40 << 20);
    Tarn__Policy to = TARN__POLICY__INIT;
    to.chunk_bytes = 16 << 20;
    assert_int_equal(policy(&c, "/d", 4, &to), 0);
    uint64_t handle;
    assert_int_equal(world_open(&c.w, "/d/o", 2, &handle), 0);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(&c.w, "/d/o", &attr), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = attr->ino;
    assert_int_equal(world_apply(&c.w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    const Tarn__ChunkReply *reply = world_reply(&c.w, &tarn__chunk_reply__descriptor);
    Tarn__ChunkSwap swap = TARN__CHUNK_SWAP__INIT;
    swap.ino = m.ino;
    swap.old_chunk = reply->extent->clone_of;
    swap.new_chunk = reply->extent->chunk;
    assert_true(reply->extent->length >= 40 << 20);
    assert_int_equal(world_apply(&c.w, OP_CHUNK_SWAP, &swap.base, &swap.ctx), 0);
    reply = world_reply(&c.w, &tarn__chunk_reply__descriptor);
    assert_true(reply->extent->length >= 40 << 20);
    end(&c);
}

/* ------------------------------------------------------------------ domains, racks, disks */
static void chunks_that_share_a_rack_are_counted_and_drawn_apart(void **state)
{
    struct cluster_world c;
    begin(&c, 4, 2);
    Tarn__Policy to = TARN__POLICY__INIT;
    to.domain = DOMAIN_RACK;
    assert_int_equal(policy(&c, "/d", 2, &to), 0);
    uint64_t chunk = put(&c, "o", 100, 0);
    run(&c, 3, 100);
    assert_int_equal(chunk_of(&c, chunk).spread, 2);
    assert_int_equal(status(&c)->weak, 1);
    assert_int_equal(status(&c)->below_target, 0);
    assert_int_equal(world_node(&c.w, "n5", "/s0/r9"), ++c.nodes);
    run(&c, 5, 100);
    assert_int_equal(status(&c)->weak, 0);
    assert_true(is_on(&c, chunk, 5));
    assert_int_equal(ready(&c, chunk), 3);
    end(&c);
}

static int rack(struct cluster_world *c, uint32_t node, const char *where)
{
    Tarn__TopologySet m = TARN__TOPOLOGY_SET__INIT;
    m.node = node;
    m.rack = (char *)where;
    return world_apply(&c->w, OP_TOPOLOGY_SET, &m.base, &m.ctx);
}

static void an_operators_rack_stays_when_the_node_joins_again(void **state)
{
    struct cluster_world c;
    begin(&c, 2, 2);
    assert_int_equal(rack(&c, 1, "/here/r7"), 0);
    assert_int_equal(world_node(&c.w, "n1", "/s0/r0"), 1);
    assert_string_equal(node_of(&c, 1)->rack, "/here/r7");
    assert_int_equal(rack(&c, 1, "not a rack"), -E_INVAL);
    assert_int_equal(rack(&c, 1, ""), -E_INVAL);
    assert_int_equal(rack(&c, 9, "/r"), -E_NOENT);
    end(&c);
}

static void a_node_without_a_rack_waits_for_one_in_the_default_rack(void **state)
{
    struct cluster_world c;
    begin(&c, 1, 1);
    assert_int_equal(world_node(&c.w, "n2", ""), 2);
    assert_string_equal(node_of(&c, 2)->rack, "/default-rack");
    assert_false(node_of(&c, 2)->rack_known);
    Tarn__NodeSet m = TARN__NODE_SET__INIT;
    m.node = 2;
    m.rack = "/found/it";
    assert_int_equal(world_apply(&c.w, OP_NODE_SET, &m.base, NULL), 0);
    assert_string_equal(node_of(&c, 2)->rack, "/found/it");
    m.rack = "/too/late";
    assert_int_equal(world_apply(&c.w, OP_NODE_SET, &m.base, NULL), 0);
    assert_string_equal(node_of(&c, 2)->rack, "/found/it");
    end(&c);
}

static void join_with_disks(struct cluster_world *c, const char *name, const char *const *uuids, size_t n,
                            uint32_t *ret_ids)
{
    Tarn__Node node = TARN__NODE__INIT;
    Tarn__Disk disks[4], *pointers[4];
    for (size_t i = 0; i < n; i++) {
        tarn__disk__init(&disks[i]);
        disks[i].uuid = (ProtobufCBinaryData){.data = (uint8_t *)uuids[i], .len = strlen(uuids[i])};
        disks[i].total = disks[i].free = 1ull << 40;
        pointers[i] = &disks[i];
    }
    node.host = (char *)name;
    node.rack = "/r";
    node.disks = pointers;
    node.n_disks = n;
    Tarn__NodeJoin m = TARN__NODE_JOIN__INIT;
    m.node = &node;
    m.uuid = (ProtobufCBinaryData){.data = (uint8_t *)name, .len = strlen(name)};
    assert_int_equal(world_apply(&c->w, OP_NODE_JOIN, &m.base, NULL), 0);
    const Tarn__NodeJoinReply *reply = world_reply(&c->w, &tarn__node_join_reply__descriptor);
    assert_int_equal(reply->n_disks, n);
    memcpy(ret_ids, reply->disks, n * sizeof *ret_ids);
}

static void a_disk_keeps_its_id_wherever_it_is_put(void **state)
{
    struct cluster_world c;
    uint32_t ids[4], other[4];
    begin(&c, 0, 1);
    join_with_disks(&c, "n1", (const char *const[]){"A", "B"}, 2, ids);
    assert_int_equal(ids[0], 1); /* the first is the node's number */
    assert_true(ids[1] >= 65536);
    c.nodes = 2;
    join_with_disks(&c, "n2", (const char *const[]){"C"}, 1, other);
    assert_int_equal(other[0], 2);
    join_with_disks(&c, "n2", (const char *const[]){"C", "B"}, 2, other); /* B moved */
    assert_int_equal(other[1], ids[1]);
    assert_int_equal(node_of(&c, 1)->n_disks, 1);
    assert_int_equal(node_of(&c, 2)->n_disks, 2);
    join_with_disks(&c, "n2", (const char *const[]){"C"}, 1, other); /* B broke */
    assert_false(node_of(&c, 2)->disks[1]->up);
    end(&c);
}

/* As a beat of the node says it: every disk by its uuid, one of them perhaps as failed. */
static void disks_say(struct cluster_world *c, uint32_t node, const char *const *uuids, const bool *up, size_t n)
{
    Tarn__NodeSet m = TARN__NODE_SET__INIT;
    Tarn__Disk disks[4], *pointers[4];
    for (size_t i = 0; i < n; i++) {
        tarn__disk__init(&disks[i]);
        disks[i].uuid = (ProtobufCBinaryData){.data = (uint8_t *)uuids[i], .len = strlen(uuids[i])};
        disks[i].total = disks[i].free = up[i] ? 1ull << 40 : 0;
        disks[i].up = up[i];
        pointers[i] = &disks[i];
    }
    m.node = node;
    m.up = m.fill_only = true;
    m.disks = pointers;
    m.n_disks = n;
    assert_int_equal(world_apply(&c->w, OP_NODE_SET, &m.base, NULL), 0);
}

static void a_disk_goes_down_alone_and_its_chunks_are_copied_after_the_delay(void **state)
{
    struct cluster_world c;
    uint32_t one[4], two[4];
    begin(&c, 0, 1);
    c.nodes = 2;
    join_with_disks(&c, "n1", (const char *const[]){"A", "B"}, 2, one);
    join_with_disks(&c, "n2", (const char *const[]){"C"}, 1, two);
    uint64_t chunk = put(&c, "o", 100, 0);
    run(&c, 3, 100);
    assert_int_equal(status(&c)->by_copies[3], 1);
    uint64_t epoch = node_of(&c, 1)->epoch;
    disks_say(&c, 1, (const char *const[]){"A", "B"}, (const bool[]){true, false}, 2);
    assert_true(node_of(&c, 1)->up);
    assert_true(node_of(&c, 1)->disks[0]->up);
    assert_false(node_of(&c, 1)->disks[1]->up);
    assert_int_equal(node_of(&c, 1)->epoch, epoch); /* nothing joined */
    run(&c, 3, 100);
    assert_int_equal(status(&c)->by_copies[2], 1);
    assert_int_equal(status(&c)->below_target, 1);
    c.nodes = 3;
    join_with_disks(&c, "n3", (const char *const[]){"D"}, 1, two);
    c.w.now += HEAL_DELAY_NS + 1;
    run(&c, 3, 100);
    assert_int_equal(ready(&c, chunk), 4); /* the failed one stays known: it may come back */
    assert_int_equal(status(&c)->by_copies[3], 1);
    disks_say(&c, 1, (const char *const[]){"A", "B"}, (const bool[]){true, true}, 2);
    assert_true(node_of(&c, 1)->disks[1]->up);
    run(&c, 3, 100);
    assert_int_equal(ready(&c, chunk), 3); /* it did, and one copy more than asked for went */
    assert_int_equal(status(&c)->by_copies[3], 1);
    end(&c);
}

static void a_node_whose_disks_were_all_replaced_gets_its_number_back_when_it_is_down(void **state)
{
    struct cluster_world c;
    uint32_t ids[4];
    begin(&c, 0, 1);
    join_with_disks(&c, "n1", (const char *const[]){"A"}, 1, ids);
    Tarn__Node node = TARN__NODE__INIT;
    Tarn__NodeJoin m = TARN__NODE_JOIN__INIT;
    node.id = 1;
    node.host = "n1";
    node.rack = "/r";
    node.total = node.free = 1ull << 40;
    m.node = &node;
    m.uuid = (ProtobufCBinaryData){.data = (uint8_t *)"new", .len = 3};
    assert_int_equal(world_apply(&c.w, OP_NODE_JOIN, &m.base, NULL), -E_EXIST); /* it is still there */
    Tarn__NodeSet set = TARN__NODE_SET__INIT;
    set.node = 1;
    assert_int_equal(world_apply(&c.w, OP_NODE_SET, &set.base, NULL), 0);
    assert_int_equal(world_apply(&c.w, OP_NODE_JOIN, &m.base, NULL), 0);
    const Tarn__NodeJoinReply *reply = world_reply(&c.w, &tarn__node_join_reply__descriptor);
    assert_int_equal(reply->id, 1);
    assert_int_not_equal(reply->disk, ids[0]); /* another disk: nobody thinks that the old chunks are on it */
    c.nodes = 1;
    assert_int_equal(node_of(&c, 1)->n_disks, 2);
    assert_false(node_of(&c, 1)->disks[0]->up);
    end(&c);
}

static void copies_on_two_disks_of_a_node_share_its_domain(void **state)
{
    struct cluster_world c;
    uint32_t ids[4];
    begin(&c, 0, 1);
    c.nodes = 1;
    join_with_disks(&c, "n1", (const char *const[]){"A", "B", "C"}, 3, ids);
    uint64_t chunk = put(&c, "o", 100, 0);
    run(&c, 3, 100);
    assert_int_equal(ready(&c, chunk), 3);
    assert_int_equal(status(&c)->weak, 1); /* never silently */
    Tarn__Policy to = TARN__POLICY__INIT;
    to.domain = DOMAIN_DISK;
    assert_int_equal(policy(&c, "/d", 2, &to), 0);
    run(&c, 3, 100);
    assert_int_equal(status(&c)->weak, 0); /* it was asked for */
    end(&c);
}

/* ------------------------------------------------------------------ balance, upgrade, everything */
static void fill(struct cluster_world *c, uint32_t node, uint64_t total, uint64_t free)
{
    Tarn__NodeSet m = TARN__NODE_SET__INIT;
    m.node = node;
    m.fill_only = true;
    m.total = total;
    m.free = free;
    assert_int_equal(world_apply(&c->w, OP_NODE_SET, &m.base, NULL), 0);
}

static void a_node_that_joined_empty_gets_its_share(void **state)
{
    struct cluster_world c;
    begin(&c, 3, 3);
    for (unsigned i = 0; i < 60; i++) {
        char name[16];
        snprintf(name, sizeof name, "o%u", i);
        (void)put(&c, name, 64 << 20, 2);
    }
    run(&c, 3, 64 << 20);
    const uint64_t total = 8ull << 30;
    for (uint32_t node = 1; node <= 3; node++)
        fill(&c, node, total, total - (node_of(&c, node)->dependents << 26));
    run(&c, 30, 64 << 20);
    assert_false(status(&c)->balancing);
    assert_int_equal(world_node(&c.w, "n4", "/s0/r8"), ++c.nodes);
    fill(&c, 4, total, total);
    run(&c, 200, 64 << 20);
    uint64_t got = node_of(&c, 4)->dependents;
    print_message("the new node has %llu of 120 copies\n", (unsigned long long)got);
    assert_in_range(got, 25, 35);
    assert_false(status(&c)->balancing);
    assert_int_equal(status(&c)->below_target, 0);
    uint64_t copied = status(&c)->copied_bytes;
    run(&c, 60, 64 << 20); /* and it stays there */
    assert_int_equal(status(&c)->copied_bytes, copied);
    end(&c);
}

/* ---- tables that version 1 wrote */
struct rows_v1 {
    struct key keys[200];
    uint8_t values[200][600];
    size_t lens[200], n;
};

static int take_row(void *arg, struct kv_val key, struct kv_val value)
{
    struct rows_v1 *rows = arg;
    assert_true(rows->n < 200 && value.len <= sizeof rows->values[0] - 8);
    memcpy(rows->keys[rows->n].data, key.data, key.len);
    rows->keys[rows->n].len = (uint16_t)key.len;
    memcpy(rows->values[rows->n], value.data, value.len);
    rows->lens[rows->n++] = value.len;
    return 0;
}

static void take_table(struct kv_txn *txn, enum table table, struct rows_v1 *rows)
{
    struct key prefix = key_table(table);
    rows->n = 0;
    assert_int_equal(kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, take_row, rows), 0);
}

/* A sealed chunk as version 1 wrote it (the page docs/formats/metadata.md has the fields). */
static void chunk_encode_v1(const struct chunk *chunk, struct writer *w)
{
    writer_u8(w, 1);
    writer_u8(w, chunk->state);
    writer_u8(w, chunk->want);
    writer_u8(w, chunk->flags);
    writer_u8(w, chunk->live);
    writer_u64(w, chunk->owner);
    writer_u64(w, chunk->owner_offset);
    writer_u64(w, chunk->generation);
    writer_u64(w, chunk->length);
    writer_u64(w, chunk->heal_after_ns);
    writer_u8(w, chunk->n_replicas);
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        writer_u32(w, chunk->replicas[i].disk);
        writer_u8(w, chunk->replicas[i].flags);
        writer_u64(w, chunk->replicas[i].length);
        writer_u32(w, chunk->replicas[i].digest);
    }
}

static void text_v1(const char *text, struct writer *w)
{
    writer_u8(w, (uint8_t)strlen(text));
    writer_bytes(w, text, strlen(text));
}

static void node_encode_v1(const struct node *node, struct writer *w)
{
    writer_u8(w, 1);
    writer_u8(w, node->up);
    const uint64_t numbers[] = {node->total, node->free,       node->chunks, node->epoch,
                                node->down_since_ns, node->join_chunk, 0};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        writer_u64(w, numbers[i]);
    writer_u32(w, node->slots);
    writer_u8(w, node->uuid_len);
    writer_bytes(w, node->uuid, node->uuid_len);
    text_v1(node->host, w);
    text_v1(node->rack, w);
    text_v1(node->address, w);
    text_v1(node->local, w);
    text_v1(node->machine, w);
}

static void downgrade(struct cluster_world *c)
{
    static struct rows_v1 rows;
    struct kv_txn *txn;
    assert_int_equal(kv_begin(c->w.kv, true, &txn), 0);
    take_table(txn, TABLE_CHUNK, &rows);
    for (size_t i = 0; i < rows.n; i++) {
        struct chunk chunk;
        _cleanup_(writer_fini) struct writer w = {0};
        assert_int_equal(chunk_decode(key_number(&rows.keys[i], 0), rows.values[i], rows.lens[i], &chunk), 0);
        chunk_encode_v1(&chunk, &w);
        assert_int_equal(kv_put(txn, rows.keys[i].data, rows.keys[i].len, w.data, w.len), 0);
    }
    take_table(txn, TABLE_NODE, &rows);
    for (size_t i = 0; i < rows.n; i++) {
        struct node node;
        _cleanup_(writer_fini) struct writer w = {0};
        assert_int_equal(node_decode((uint32_t)key_number(&rows.keys[i], 0), rows.values[i], rows.lens[i], &node), 0);
        node_encode_v1(&node, &w);
        assert_int_equal(kv_put(txn, rows.keys[i].data, rows.keys[i].len, w.data, w.len), 0);
    }
    const enum table new[] = {TABLE_DISK, TABLE_HEAL, TABLE_SINCE};
    for (size_t t = 0; t < ARRAY_SIZE(new); t++) {
        take_table(txn, new[t], &rows);
        for (size_t i = 0; i < rows.n; i++)
            assert_int_equal(kv_del(txn, rows.keys[i].data, rows.keys[i].len), 0);
    }
    for (uint32_t i = 1; i <= c->nodes; i++) { /* the disks' uuids */
        char name[8];
        snprintf(name, sizeof name, "n%u", i);
        struct key key = key_named(TABLE_NODE_UUID, 1, name, strlen(name));
        assert_int_equal(kv_del(txn, key.data, key.len), 0);
    }
    assert_int_equal(kv_commit(txn), 0);
}

static void tables_of_version_1_are_counted_and_then_as_any_other(void **state)
{
    struct cluster_world c;
    begin(&c, 4, 4);
    for (unsigned i = 0; i < 30; i++) {
        char name[16];
        snprintf(name, sizeof name, "o%u", i);
        (void)put(&c, name, 1000, 0);
    }
    run(&c, 3, 1000);
    uint64_t before = node_of(&c, 1)->dependents;
    downgrade(&c);
    world_check(&c.w);
    assert_true(status(&c)->counting);
    assert_int_equal(drain(&c, 1, false), 0);
    assert_false(node_of(&c, 1)->safe_to_remove); /* 0 dependents, but only because nobody has counted yet */
    assert_int_equal(drain(&c, 1, true), 0);
    run(&c, 3, 1000);
    assert_false(status(&c)->counting);
    assert_int_equal(node_of(&c, 1)->dependents, before);
    (void)world_node(&c.w, "n1", "/s0/r0"); /* joins again: the same disk */
    assert_int_equal(node_of(&c, 1)->n_disks, 1);
    assert_int_equal(node_of(&c, 1)->disks[0]->id, 1);
    assert_int_equal(drain(&c, 1, false), 0);
    run(&c, 10, 1000);
    assert_true(node_of(&c, 1)->safe_to_remove);
    end(&c);
}

/* Joins, losses, drains, policies and writes at random; at the end all is well. */
static void trouble(struct cluster_world *c, struct prng *prng, unsigned step)
{
    uint32_t node = 1 + (uint32_t)prng_below(prng, c->nodes);
    char name[16];
    switch (prng_below(prng, 7)) {
    case 0:
        for (uint32_t i = 1; i <= c->nodes; i++)
            if (c->down[i])
                return;
        set_up(c, node, false);
        return;
    case 1:
        for (uint32_t i = 1; i <= c->nodes; i++)
            if (c->down[i])
                set_up(c, i, true);
        return;
    case 2:
        (void)drain(c, node, prng_below(prng, 2) == 0);
        return;
    case 3:
        assert_int_equal(policy_copies(c, "/d", 1 + (uint32_t)prng_below(prng, 4)), 0);
        return;
    case 4:
        if (c->nodes < NODES_MAX_HERE) {
            snprintf(name, sizeof name, "n%u", c->nodes + 1);
            (void)world_node(&c->w, name, step % 2 == 0 ? "/s0/r20" : "/s1/r21");
            c->nodes++;
        }
        return;
    default:
        snprintf(name, sizeof name, "x%u", step);
        (void)put(c, name, 1000, 0);
    }
}

static void whatever_happens_the_counters_are_right_and_it_ends_well(void **state)
{
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct cluster_world c;
        struct prng prng = prng_init(seed);
        begin(&c, 5, 3);
        for (unsigned step = 0; step < 150; step++) {
            trouble(&c, &prng, step);
            run(&c, (unsigned)prng_below(&prng, 12), 1000);
            if (step % 10 == 0)
                world_check(&c.w);
        }
        for (uint32_t i = 1; i <= c.nodes; i++) {
            if (c.down[i])
                set_up(&c, i, true);
            (void)drain(&c, i, true);
        }
        run(&c, 100, 1000);
        assert_int_equal(status(&c)->below_target, 0);
        assert_int_equal(status(&c)->lost, 0);
        assert_int_equal(status(&c)->copies, 0);
        assert_int_equal(status(&c)->weak, 0);
        end(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_drained_node_is_safe_to_remove_when_nothing_depends_on_it),
        cmocka_unit_test(an_undrained_node_takes_chunks_again),
        cmocka_unit_test(the_last_node_is_not_drained),
        cmocka_unit_test(draining_one_of_three_leaves_two_copies_and_says_so),
        cmocka_unit_test(an_open_chunk_gives_up_its_draining_member_after_a_minute),
        cmocka_unit_test(an_open_chunk_never_goes_below_two_members_for_a_drain),
        cmocka_unit_test(thirty_seconds_of_absence_move_nothing),
        cmocka_unit_test(after_that_it_is_copied_and_the_surplus_goes_when_the_node_is_back),
        cmocka_unit_test(the_most_endangered_chunk_goes_first),
        cmocka_unit_test(copies_are_given_out_no_faster_than_allowed),
        cmocka_unit_test(a_change_of_copies_reaches_what_exists),
        cmocka_unit_test(the_nearest_policy_counts_and_a_files_own_copies_stay),
        cmocka_unit_test(of_copies_and_code_the_nearest_word_counts),
        cmocka_unit_test(a_policy_goes_with_its_directory),
        cmocka_unit_test(compression_is_inherited_and_can_be_off),
        cmocka_unit_test(a_later_change_overtakes_the_one_under_way),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(the_chunk_size_of_a_directory_makes_smaller_slots),
        cmocka_unit_test(a_clone_is_never_shorter_than_what_it_replaces),
        cmocka_unit_test(chunks_that_share_a_rack_are_counted_and_drawn_apart),
        cmocka_unit_test(an_operators_rack_stays_when_the_node_joins_again),
        cmocka_unit_test(a_node_without_a_rack_waits_for_one_in_the_default_rack),
        cmocka_unit_test(a_disk_keeps_its_id_wherever_it_is_put),
        cmocka_unit_test(a_disk_goes_down_alone_and_its_chunks_are_copied_after_the_delay),
        cmocka_unit_test(a_node_whose_disks_were_all_replaced_gets_its_number_back_when_it_is_down),
        cmocka_unit_test(copies_on_two_disks_of_a_node_share_its_domain),
        cmocka_unit_test(a_node_that_joined_empty_gets_its_share),
        cmocka_unit_test(tables_of_version_1_are_counted_and_then_as_any_other),
        cmocka_unit_test(whatever_happens_the_counters_are_right_and_it_ends_well)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
