/* metadata/upload_group.h: groups that are made while an object is put, in the tables. */
#include <stdio.h>

#include "common/ec.h"
#include "common/prng.h"
#include "metadata/group.h"
#include "metadata/kv.h"
#include "metadata/upload_group.h"
#include "world.h"

/* ------------------------------------------------------------------ shapes */

/* What all groups of an object cost on the disks, when its writer asks for one after the other. */
struct cost {
    uint64_t coded, whole, data; /* bytes: of shards, of data in copies, of the object */
    unsigned groups;
};

static void group_cost(unsigned k, unsigned m, uint64_t length, uint64_t bytes, struct cost *cost)
{
    cost->coded += bytes + m * MIN(bytes, length);
    cost->groups++;
}

static struct cost cost_of(unsigned k, unsigned m, unsigned shift, uint64_t size, bool known)
{
    struct cost cost = {.data = size};
    for (uint64_t at = 0, part; at < size; at += part) {
        uint64_t length = upload_group_shape(k, shift, known ? size - at : 0, at);
        part = length == 0 ? size - at : MIN(size - at, k * length);
        if (length == 0)
            cost.whole += part;
        else
            group_cost(k, m, length, part, &cost);
    }
    return cost;
}

static void shards_are_whole_cells_and_full_but_the_last(void **state)
{
    struct prng prng = prng_init(1);
    for (unsigned round = 0; round < 200000; round++) {
        unsigned k = EC_DATA_MIN + (unsigned)(prng_u64(&prng) % 15), shift = 20 + (unsigned)(prng_u64(&prng) % 7);
        uint64_t size = 1 + prng_u64(&prng) % (1ull << (10 + prng_u64(&prng) % 30));
        uint64_t length = upload_group_shape(k, shift, size, 0), most = 1ull << shift;
        if (size < k * UPLOAD_SHARD_MIN) {
            assert_int_equal(length, 0);
            continue;
        }
        assert_true(length >= UPLOAD_SHARD_MIN && length <= most && length % UPLOAD_SHARD_STEP == 0);
        if (size < k * most) /* all k shards have bytes */
            assert_true(length * (k - 1) < size && length * k >= size);
        else
            assert_int_equal(length, most);
    }
}

static void a_known_size_costs_what_the_code_costs(void **state)
{
    struct prng prng = prng_init(2);
    for (unsigned round = 0; round < 20000; round++) {
        unsigned k = EC_DATA_MIN + (unsigned)(prng_u64(&prng) % 15), m = 1 + (unsigned)(prng_u64(&prng) % 4);
        unsigned shift = 20 + (unsigned)(prng_u64(&prng) % 7);
        uint64_t size = MIB(1) + prng_u64(&prng) % GIB(4);
        struct cost cost = cost_of(k, m, shift, size, true);
        assert_true(cost.whole < k * UPLOAD_SHARD_MIN);
        /* each group's shards are longer than the k-th part of its bytes by less than a cell */
        uint64_t coded = size - cost.whole;
        assert_true(cost.coded <= coded + m * (coded / k + cost.groups * UPLOAD_SHARD_STEP));
    }
    struct cost gib = cost_of(4, 2, 26, GIB(1), true);
    assert_int_equal(gib.coded, GIB(1) + GIB(1) / 2);
    assert_int_equal(gib.groups, 4);
}

/* Whatever it comes to: what a last group has too much of parity is no more than m/k of what came before it. */
static void an_unknown_size_costs_little_more(void **state)
{
    struct prng prng = prng_init(3);
    for (unsigned round = 0; round < 20000; round++) {
        unsigned k = EC_DATA_MIN + (unsigned)(prng_u64(&prng) % 15), m = 1 + (unsigned)(prng_u64(&prng) % 4);
        uint64_t size = MIB(1) + prng_u64(&prng) % GIB(2);
        struct cost cost = cost_of(k, m, 26, size, false);
        assert_int_equal(cost.whole, 0);
        assert_true(cost.coded <= size + 2 * m * (size / k) + m * UPLOAD_SHARD_UNKNOWN);
        assert_true(cost.groups < 64 + size / (k * MIB(64)));
    }
    struct cost gib = cost_of(4, 2, 26, GIB(1), false);
    assert_true(gib.coded * 10 <= GIB(1) * 16);
}

/* ------------------------------------------------------------------ in the tables */
#define NODES 7
#define SHARD MIB(64)

static int begin(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__Policy policy = TARN__POLICY__INIT;
    Tarn__PolicySet set = TARN__POLICY_SET__INIT;
    world_init(w);
    for (unsigned i = 0; i < NODES; i++) {
        char name[8];
        snprintf(name, sizeof name, "n%u", i + 1);
        assert_int_equal(world_node(w, name, i % 2 ? "/r2" : "/r1"), i + 1);
    }
    policy.code_k = 4;
    policy.code_m = 2;
    set.where = &where;
    set.policy = &policy;
    set.mask = 16;
    assert_int_equal(world_apply(w, OP_POLICY_SET, &set.base, &set.ctx), 0);
    *state = w;
    return 0;
}

static int end(void **state)
{
    world_fini(*state); /* the checker finds nothing wrong */
    free(*state);
    return 0;
}

/* What a writer knows of a group. */
struct asked {
    uint64_t upload, group, chunks[6];
};

static int ask(struct world *w, uint64_t upload, uint64_t index, uint64_t remaining, struct asked *ret)
{
    Tarn__UploadGroup m = TARN__UPLOAD_GROUP__INIT;
    Tarn__Where root = TARN__WHERE__INIT;
    m.near = &root;
    m.path = "o";
    m.upload = upload;
    m.index = index;
    m.remaining = remaining;
    int err = world_apply(w, OP_UPLOAD_GROUP, &m.base, &m.ctx);
    if (err != 0)
        return err;
    Tarn__UploadGroupReply *reply = world_reply(w, &tarn__upload_group_reply__descriptor);
    *ret = (struct asked){.upload = reply->upload, .group = reply->group};
    assert_int_equal(reply->k, 4);
    assert_int_equal(reply->n_data, 4);
    assert_int_equal(reply->n_parity, 2);
    uint32_t nodes = 0;
    for (unsigned i = 0; i < 6; i++) {
        Tarn__Extent *extent = i < 4 ? reply->data[i] : reply->parity[i - 4];
        ret->chunks[i] = extent->chunk;
        assert_int_equal(extent->n_replicas, 1);
        assert_int_equal(extent->length, upload_group_shape(4, 26, remaining, 0));
        assert_false(nodes & 1u << extent->replicas[0]->node);
        nodes |= 1u << extent->replicas[0]->node;
    }
    return 0;
}

static int commit(struct world *w, uint64_t upload, uint64_t *lengths, size_t n, uint64_t *lost, size_t n_lost)
{
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts[] = {&part};
    part.upload = upload;
    part.lengths = lengths;
    part.n_lengths = n;
    part.lost = lost;
    part.n_lost = n_lost;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.path = "o";
    object.n_parts = 1;
    object.parts = parts;
    Tarn__ObjectCommit m = TARN__OBJECT_COMMIT__INIT;
    m.object = &object;
    return world_apply(w, OP_OBJECT_COMMIT, &m.base, &m.ctx);
}

static bool row(struct world *w, const struct key *key, struct kv_val *ret, struct kv_txn *txn)
{
    return kv_get(txn, key->data, key->len, ret) == 0;
}

static bool group_of(struct world *w, uint64_t id, struct group *ret)
{
    struct key key = key_1(TABLE_GROUP, id);
    struct kv_txn *txn;
    struct kv_val value;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    bool found = row(w, &key, &value, txn);
    if (found)
        assert_int_equal(group_decode(id, value.data, value.len, ret), 0);
    kv_abort(txn);
    return found;
}

static bool chunk_of(struct world *w, uint64_t id, struct chunk *ret)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_txn *txn;
    struct kv_val value;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    bool found = row(w, &key, &value, txn);
    if (found)
        assert_int_equal(chunk_decode(id, value.data, value.len, ret), 0);
    kv_abort(txn);
    return found;
}

static void work(struct world *w)
{
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < 20 && world_work(w); i++)
            ;
        for (uint32_t node = 1; node <= NODES; node++)
            (void)world_do_tasks(w, node, 7, SHARD);
        w->now += 1000000000;
    }
}

static void expect_nothing_left(struct world *w, const struct asked *asked)
{
    struct group group;
    struct chunk chunk;
    work(w);
    assert_false(group_of(w, asked->group, &group));
    for (unsigned i = 0; i < 6; i++)
        assert_false(chunk_of(w, asked->chunks[i], &chunk));
    assert_int_equal(world_status(w)->pending_tasks, 0);
    world_check(w);
}

static void a_commit_makes_its_groups_coded(void **state)
{
    struct world *w = *state;
    struct asked one, two;
    struct group group;
    uint64_t lengths[] = {SHARD, SHARD, SHARD, SHARD, SHARD, 1000};
    assert_int_equal(ask(w, 0, 0, 8 * SHARD, &one), 0);
    assert_int_equal(ask(w, one.upload, 4, 4 * SHARD, &two), 0);
    assert_int_equal(two.upload, one.upload);
    world_check(w);
    assert_int_equal(world_status(w)->chunks, 0); /* nothing depends on them */
    assert_int_equal(commit(w, one.upload, lengths, 6, NULL, 0), 0);
    world_check(w);
    assert_true(group_of(w, one.group, &group));
    assert_int_equal(group.state, GROUP_CODED);
    assert_int_equal(group_zeros(&group), 0);
    assert_true(group_of(w, two.group, &group)); /* two chunks were put */
    assert_int_equal(group_zeros(&group), 0xc);
    assert_int_equal(group.length, SHARD);
    assert_int_equal(group_level(&group), 3);
    assert_int_equal(world_status(w)->by_copies[3], 6 + 4);
    assert_int_equal(world_status(w)->below_target, 0);
    struct chunk chunk;
    assert_true(chunk_of(w, two.chunks[5], &chunk));
    assert_int_equal(chunk.state, TARN__CHUNK_STATE__CHUNK_SEALED);
    assert_int_equal(chunk.length, SHARD);
}

static void what_is_given_up_goes(void **state)
{
    struct world *w = *state;
    struct asked asked;
    assert_int_equal(ask(w, 0, 0, 4 * SHARD, &asked), 0);
    Tarn__UploadAbort m = TARN__UPLOAD_ABORT__INIT;
    m.upload = asked.upload;
    assert_int_equal(world_apply(w, OP_UPLOAD_ABORT, &m.base, &m.ctx), 0);
    expect_nothing_left(w, &asked);
}

static void it_goes_with_its_session(void **state)
{
    struct world *w = *state;
    struct asked asked;
    w->session = world_session(w, "another");
    w->seq = 0;
    assert_int_equal(ask(w, 0, 0, 4 * SHARD, &asked), 0);
    Tarn__SessionEnd m = TARN__SESSION_END__INIT;
    m.session = w->session;
    assert_int_equal(world_apply(w, OP_SESSION_END, &m.base, NULL), 0);
    expect_nothing_left(w, &asked);
}

static void nothing_that_was_put_is_left_in_a_group_of_nothing(void **state)
{
    struct world *w = *state;
    struct asked one, two;
    uint64_t lengths[] = {SHARD, SHARD, SHARD, SHARD};
    assert_int_equal(ask(w, 0, 0, 8 * SHARD, &one), 0);
    assert_int_equal(ask(w, one.upload, 4, 4 * SHARD, &two), 0);
    assert_int_equal(commit(w, one.upload, lengths, 4, NULL, 0), 0);
    expect_nothing_left(w, &two);
}

/* A writer that begins again at an index begins the group again. */
static void an_index_asked_for_again_gets_a_new_group(void **state)
{
    struct world *w = *state;
    struct asked one, two;
    assert_int_equal(ask(w, 0, 0, 4 * SHARD, &one), 0);
    assert_int_equal(ask(w, one.upload, 0, 4 * SHARD, &two), 0);
    assert_int_not_equal(one.group, two.group);
    expect_nothing_left(w, &one);
    Tarn__UploadChunk m = TARN__UPLOAD_CHUNK__INIT; /* … or is put in copies */
    m.upload = one.upload;
    assert_int_equal(world_apply(w, OP_UPLOAD_CHUNK, &m.base, &m.ctx), 0);
    expect_nothing_left(w, &two);
    uint64_t length = SHARD;
    assert_int_equal(commit(w, one.upload, &length, 1, NULL, 0), 0);
}

static void lost_members_are_computed_anew(void **state)
{
    struct world *w = *state;
    for (unsigned i = 0; i < 6; i++) { /* each data shard, each parity */
        struct asked asked;
        struct group group;
        struct chunk chunk;
        uint64_t lengths[] = {SHARD, SHARD, SHARD, SHARD};
        assert_int_equal(ask(w, 0, 0, 4 * SHARD, &asked), 0);
        assert_int_equal(commit(w, asked.upload, lengths, 4, &asked.chunks[i], 1), 0);
        assert_true(group_of(w, asked.group, &group));
        assert_int_equal(group.lost, 1u << i);
        assert_int_equal(group_level(&group), 2);
        world_check(w);
        work(w);
        assert_true(group_of(w, asked.group, &group));
        assert_int_equal(group.lost, 0);
        assert_true(chunk_of(w, asked.chunks[i], &chunk));
        assert_int_equal(chunk.live, 1);
        world_check(w);
    }
}

static void a_commit_without_a_spare_shard_is_refused(void **state)
{
    struct world *w = *state;
    struct asked asked;
    struct group group;
    uint64_t lengths[] = {SHARD, SHARD, SHARD, SHARD}, strange = 999999;
    assert_int_equal(ask(w, 0, 0, 4 * SHARD, &asked), 0);
    assert_int_equal(commit(w, asked.upload, lengths, 4, asked.chunks, 2), -E_INVAL);
    assert_int_equal(commit(w, asked.upload, lengths, 4, &strange, 1), -E_INVAL);
    assert_true(group_of(w, asked.group, &group));
    assert_int_equal(group.state, GROUP_UPLOAD);
    assert_int_equal(commit(w, asked.upload, lengths, 4, NULL, 0), 0);
}

static void a_repeated_request_has_the_same_answer(void **state)
{
    struct world *w = *state;
    struct asked asked, again;
    assert_int_equal(ask(w, 0, 0, 4 * SHARD, &asked), 0);
    w->seq--; /* the answer was lost */
    assert_int_equal(ask(w, 0, 0, 4 * SHARD, &again), 0);
    assert_memory_equal(&asked, &again, sizeof asked);
    assert_int_equal(ask(w, 0, 0, 4 * SHARD, &again), 0);
    assert_int_equal(again.group, asked.group + 1);
}

static void copies_are_better_without_nodes_or_bytes(void **state)
{
    struct world *w = *state;
    struct asked asked;
    assert_int_equal(ask(w, 0, 0, MIB(4) - 1, &asked), -E_NOTSUP);
    world_node_set(w, 1, false);
    assert_int_equal(ask(w, 0, 0, MIB(4), &asked), 0);
    world_node_set(w, 2, false);
    assert_int_equal(ask(w, 0, 0, MIB(4), &asked), -E_NOSPC);
    world_node_set(w, 1, true);
    world_node_set(w, 2, true);
    work(w);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shards_are_whole_cells_and_full_but_the_last),
        cmocka_unit_test(a_known_size_costs_what_the_code_costs),
        cmocka_unit_test(an_unknown_size_costs_little_more),
        CASE(a_commit_makes_its_groups_coded),
        CASE(what_is_given_up_goes),
        CASE(it_goes_with_its_session),
        CASE(nothing_that_was_put_is_left_in_a_group_of_nothing),
        CASE(an_index_asked_for_again_gets_a_new_group),
        CASE(lost_members_are_computed_anew),
        CASE(a_commit_without_a_spare_shard_is_refused),
        CASE(a_repeated_request_has_the_same_answer),
        CASE(copies_are_better_without_nodes_or_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
