/* Placement: P1-P5 of docs/invariants.md over 10,000 random clusters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "metadata/placement.h"

struct drawn {
    struct placement_node nodes[20];
    size_t n;
    unsigned candidates, racks, copies;
    uint32_t writer;
};

static bool fits(const struct placement_node *node)
{
    return node->up && node->free >= PLACEMENT_ROOM_BYTES;
}

static struct drawn draw(struct prng *prng)
{
    struct drawn d = {.n = prng_below(prng, 20), .copies = 1 + (unsigned)prng_below(prng, 6)};
    bool racks[6] = {0};
    unsigned n_racks = 1 + (unsigned)prng_below(prng, 6);
    for (size_t i = 0; i < d.n; i++) {
        struct placement_node *node = &d.nodes[i];
        *node = (struct placement_node){.id = (uint32_t)i + 1,
                                        .rack = (uint32_t)prng_below(prng, n_racks),
                                        .up = prng_below(prng, 4) != 0,
                                        .free = prng_below(prng, 8) * GIB(1)};
        d.candidates += fits(node);
        d.racks += fits(node) && !racks[node->rack];
        racks[node->rack] |= fits(node);
    }
    d.writer = (uint32_t)prng_below(prng, 21);
    return d;
}

static void check(const struct drawn *d, const uint32_t *ids, unsigned n)
{
    unsigned per_rack[6] = {0}, left[6] = {0},
             cap = d->racks == 0 ? 1 : (d->copies + d->racks - 1) / d->racks;
    uint32_t seen = 0;
    assert_int_equal(n, MIN(d->copies, d->candidates)); /* P5: as many as there are */
    for (unsigned i = 0; i < n; i++) {
        assert_true(fits(&d->nodes[ids[i] - 1])); /* P2 */
        assert_false(seen & 1u << ids[i]);        /* P1 */
        seen |= 1u << ids[i];
        per_rack[d->nodes[ids[i] - 1].rack]++;
    }
    for (size_t i = 0; i < d->n; i++)
        left[d->nodes[i].rack] += fits(&d->nodes[i]) && !(seen & 1u << (i + 1));
    for (unsigned r = 0; r < 6;
         r++) /* P3: above the cap only when no rack below it has a node left */
        for (unsigned other = 0; other < 6; other++)
            assert_false(per_rack[r] > cap && per_rack[other] < cap && left[other] > 0);
    if (d->racks >= 2 && n >= 2)
        for (unsigned r = 0; r < 6; r++)
            assert_true(per_rack[r] < n);
    if (d->writer >= 1 && d->writer <= d->n && fits(&d->nodes[d->writer - 1]))
        assert_int_equal(ids[0], d->writer); /* P4 */
}

static void random_clusters_obey_the_rules(void **state)
{
    struct prng prng = prng_init(1);
    for (unsigned i = 0; i < 10000; i++) {
        struct drawn d = draw(&prng);
        uint32_t ids[PLACEMENT_COPIES_MAX];
        check(&d, ids, placement_choose(d.nodes, d.n, d.copies, d.writer, &prng, ids));
    }
}

static void emptier_nodes_are_chosen_more_often(void **state)
{
    struct prng prng = prng_init(2);
    struct placement_node nodes[] = {{.id = 1, .up = true, .free = GIB(1)},
                                     {.id = 2, .up = true, .free = GIB(100)}};
    unsigned emptier = 0;
    for (unsigned i = 0; i < 1000; i++) {
        uint32_t id;
        assert_int_equal(placement_choose(nodes, 2, 1, 0, &prng, &id), 1);
        emptier += id == 2;
    }
    assert_in_range(emptier, 700, 800);
}

static void copies_that_exist_count_for_their_rack(void **state)
{
    struct prng prng = prng_init(3);
    struct placement_node nodes[] = {
        {.id = 1, .rack = 0, .up = true, .holds = true, .free = GIB(9)},
        {.id = 2, .rack = 0, .up = true, .free = GIB(9)},
        {.id = 3, .rack = 1, .up = true, .free = GIB(1)}};
    uint32_t id;
    assert_int_equal(placement_choose(nodes, 3, 1, 0, &prng, &id), 1);
    assert_int_equal(id, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_clusters_obey_the_rules),
                                       cmocka_unit_test(emptier_nodes_are_chosen_more_often),
                                       cmocka_unit_test(copies_that_exist_count_for_their_rack)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
