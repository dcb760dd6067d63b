/* Who keeps what of a parity group: over thousands of clusters drawn at random, and some by hand. G2 of
 * docs/invariants.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/err.h"
#include "metadata/group_plan.h"

#define DISKS 64

struct cluster {
    struct placement_disk disks[DISKS];
    struct placement_map map;
};

static void cluster_make(struct cluster *c, size_t nodes, size_t per_node, size_t racks)
{
    *c = (struct cluster){0};
    for (size_t i = 0; i < nodes * per_node; i++)
        c->disks[i] = (struct placement_disk){.id = (uint32_t)i + 1,
                                              .node = (uint32_t)(i / per_node) + 1,
                                              .rack = i / per_node % racks,
                                              .total = GIB(100),
                                              .used = GIB(10),
                                              .free = GIB(90),
                                              .up = true,
                                              .source_room = 4};
    assert_int_equal(placement_map_init(&c->map, c->disks, nodes * per_node), 0);
}

static bool has(const struct group_plan_chunk *chunk, size_t disk)
{
    for (unsigned i = 0; i < chunk->n; i++)
        if (chunk->disks[i] == disk)
            return true;
    return false;
}

/* What every plan must be. */
static void check(const struct cluster *c, const struct group_plan_request *r, const struct group_plan *plan)
{
    size_t all[PLACEMENT_MEMBERS_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < r->k; i++) {
        assert_int_equal(has(&r->chunks[i], plan->keepers[i]), !(plan->copy & 1u << i));
        all[n++] = plan->keepers[i];
    }
    for (unsigned i = 0; i < r->m; i++)
        all[n++] = plan->parity[i];
    for (unsigned i = 0; i < n; i++) {
        assert_true(c->disks[all[i]].up && !c->disks[all[i]].draining);
        for (unsigned j = 0; j < i; j++)
            assert_false(placement_same_domain(&c->disks[all[i]], &c->disks[all[j]],
                                               r->domain == DOMAIN_DISK ? DOMAIN_DISK : DOMAIN_NODE));
    }
}

/* Is there any way to keep the chunks on different nodes? By trying all, for the small ones. */
static bool possible(const struct cluster *c, const struct group_plan_request *r, unsigned chunk, uint64_t nodes)
{
    if (chunk == r->k)
        return true;
    for (unsigned i = 0; i < r->chunks[chunk].n; i++) {
        uint64_t bit = 1ull << c->disks[r->chunks[chunk].disks[i]].node;
        if (!(nodes & bit) && possible(c, r, chunk + 1, nodes | bit))
            return true;
    }
    return false;
}

static void copies_at_random(struct cluster *c, struct prng *prng, unsigned copies, struct group_plan_request *r)
{
    for (unsigned i = 0; i < r->k; i++) {
        size_t chosen[PLACEMENT_COPIES_MAX];
        struct placement_request wish = {.copies = copies, .domain = r->domain};
        r->chunks[i].n = placement_choose(&c->map, &wish, prng, chosen);
        memcpy(r->chunks[i].disks, chosen, sizeof chosen);
    }
}

static void every_plan_over_random_clusters_is_right(void **state)
{
    unsigned planned = 0;
    for (uint64_t seed = 1; seed <= 4000; seed++) {
        struct prng prng = prng_init(seed);
        struct cluster c;
        size_t nodes = 3 + prng_below(&prng, 18), racks = 1 + prng_below(&prng, 6);
        cluster_make(&c, nodes, 1 + prng_below(&prng, 3), racks);
        struct group_plan_request r = {.k = 2 + (unsigned)prng_below(&prng, 9),
                                       .m = 1 + (unsigned)prng_below(&prng, 4),
                                       .domain = (enum domain)(DOMAIN_DISK + prng_below(&prng, 3))};
        copies_at_random(&c, &prng, 1 + (unsigned)prng_below(&prng, 4), &r);
        struct group_plan plan;
        int err = group_plan(&r, &c.map, &prng, &plan);
        assert_int_equal(err == 0, group_plan_places(&c.map, r.domain) >= r.k + r.m);
        if (err == 0) {
            check(&c, &r, &plan);
            if (r.domain != DOMAIN_DISK) /* data moves only when it must */
                assert_int_equal(plan.copy == 0, possible(&c, &r, 0, 0));
            planned++;
        } else {
            assert_int_equal(err, -E_NOSPC);
        }
        placement_map_fini(&c.map);
    }
    assert_true(planned > 1000);
}

static void chunks_placed_for_their_group_are_kept_where_they_are(void **state)
{
    for (uint64_t window = 1; window <= 500; window++) {
        struct prng prng = prng_init(window);
        struct cluster c;
        cluster_make(&c, 6 + window % 7, 1 + window % 2, 3);
        struct group_plan_request r = {.k = 4, .m = 2, .domain = DOMAIN_NODE};
        for (unsigned i = 0; i < 4; i++) {
            struct group_plan_slot slot = {.window = window, .slot = i, .k = 4, .m = 2, .writer = (uint32_t)(window % 4)};
            assert_int_equal(group_plan_new(&c.map, &slot, r.chunks[i].disks, &r.chunks[i].n), 0);
            assert_int_equal(r.chunks[i].n, 3);
        }
        struct group_plan plan;
        assert_int_equal(group_plan(&r, &c.map, &prng, &plan), 0);
        check(&c, &r, &plan);
        assert_int_equal(plan.copy, 0);
        for (unsigned p = 0; p < 2; p++) /* parity is made where all the data is */
            for (unsigned i = 0; i < 4; i++)
                assert_true(has(&r.chunks[i], plan.parity[p]));
        placement_map_fini(&c.map);
    }
}

static void the_writers_node_keeps_one_chunk_of_each_window(void **state)
{
    struct cluster c;
    cluster_make(&c, 12, 1, 3);
    unsigned kept = 0;
    for (uint64_t window = 1; window <= 100; window++)
        for (unsigned i = 0; i < 4; i++) {
            struct group_plan_slot slot = {.window = window, .slot = i, .k = 4, .m = 2, .writer = 5};
            size_t disks[PLACEMENT_COPIES_MAX];
            unsigned n;
            assert_int_equal(group_plan_new(&c.map, &slot, disks, &n), 0);
            kept += c.disks[disks[0]].node == 5;
        }
    assert_true(kept > 15 && kept <= 100);
    placement_map_fini(&c.map);
}

static void few_nodes_or_full_ones_get_no_plan(void **state)
{
    struct cluster c;
    struct prng prng = prng_init(1);
    struct group_plan plan;
    size_t disks[PLACEMENT_COPIES_MAX];
    unsigned n;
    cluster_make(&c, 5, 2, 5);
    struct group_plan_request r = {.k = 4, .m = 2, .domain = DOMAIN_NODE};
    copies_at_random(&c, &prng, 3, &r);
    assert_int_equal(group_plan(&r, &c.map, &prng, &plan), -E_NOSPC);
    struct group_plan_slot slot = {.window = 1, .k = 4, .m = 2};
    assert_int_equal(group_plan_new(&c.map, &slot, disks, &n), 0);
    assert_int_equal(n, 0);
    r.domain = DOMAIN_DISK; /* ten disks are enough then */
    copies_at_random(&c, &prng, 3, &r);
    assert_int_equal(group_plan(&r, &c.map, &prng, &plan), 0);
    placement_map_fini(&c.map);
    cluster_make(&c, 6, 1, 6);
    r.domain = DOMAIN_NODE;
    copies_at_random(&c, &prng, 3, &r);
    for (size_t i = 0; i < 6; i++)
        c.disks[i].busy = true;
    assert_int_equal(group_plan(&r, &c.map, &prng, &plan), -E_BUSY);
    for (size_t i = 0; i < 6; i++) {
        c.disks[i].busy = false;
        c.disks[i].free = 0;
    }
    assert_int_equal(group_plan(&r, &c.map, &prng, &plan), -E_NOSPC);
    placement_map_fini(&c.map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_plan_over_random_clusters_is_right),
        cmocka_unit_test(chunks_placed_for_their_group_are_kept_where_they_are),
        cmocka_unit_test(the_writers_node_keeps_one_chunk_of_each_window),
        cmocka_unit_test(few_nodes_or_full_ones_get_no_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
