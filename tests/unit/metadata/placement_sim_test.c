/* Placement at size: thousands of disks of unequal size, a million chunks, disks that come and go. What is
 * asserted are counts; the numbers are printed. Chunks are small beside the disks, as they are in truth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "metadata/heal_plan.h"

#define CHUNK MIB(64)
#define NODES 500
#define DISKS_PER_NODE 4
#define DISKS (NODES * DISKS_PER_NODE)
#define CHUNKS 1000000
#define COPIES 3

struct site {
    struct placement_disk disks[DISKS];
    struct placement_map map;
    struct prng prng;
};

/* Racks of 20 nodes, two sites; disks of 40, 80, 120 or 160 GiB, so that the fill ends at about 95 %. */
static void site_init(struct site *s, uint64_t seed, unsigned nodes)
{
    s->prng = prng_init(seed);
    for (uint32_t i = 0; i < DISKS; i++) {
        uint32_t node = i / DISKS_PER_NODE + 1, rack = (node - 1) / 20;
        uint64_t total = GIB(40) * (1 + prng_below(&s->prng, 4));
        s->disks[i] = (struct placement_disk){.id = i + 1,
                                              .node = node,
                                              .rack = rack,
                                              .site = rack % 2,
                                              .total = total,
                                              .free = total,
                                              .up = node <= nodes};
    }
    assert_int_equal(placement_map_init(&s->map, s->disks, DISKS), 0);
}

static void site_fini(struct site *s)
{
    placement_map_fini(&s->map);
}

static void put(struct site *s, size_t at)
{
    placement_use(&s->map, at, CHUNK);
    s->disks[at].free -= MIN(s->disks[at].free, CHUNK);
}

/* Nodes come or go: what is computed of all disks is computed again. */
static void again(struct site *s)
{
    placement_map_fini(&s->map);
    assert_int_equal(placement_map_init(&s->map, s->disks, DISKS), 0);
}

struct fill {
    uint32_t least, most, average;
};
static struct fill measure(const struct site *s, unsigned first, unsigned last)
{
    struct fill f = {UINT32_MAX, 0, placement_average(&s->map)};
    for (size_t i = 0; i < DISKS; i++) {
        if (!s->disks[i].up || s->disks[i].node < first || s->disks[i].node > last)
            continue;
        uint32_t fill = placement_fill(&s->disks[i]);
        f.least = MIN(f.least, fill);
        f.most = MAX(f.most, fill);
    }
    return f;
}

static void print(const char *what, const struct fill *f)
{
    print_message("%s: fill %.2f %% … %.2f %%, average %.2f %%\n", what, f->least / 1e4, f->most / 1e4, f->average / 1e4);
}

static void within_five_points(const struct fill *f)
{
    assert_true(f->most <= f->average + 50000);
    assert_true(f->least + 50000 >= f->average);
}

static unsigned place(struct site *s, unsigned chunks, enum domain domain, bool own)
{
    unsigned shared = 0;
    for (unsigned i = 0; i < chunks; i++) {
        size_t chosen[PLACEMENT_COPIES_MAX];
        struct placement_request request = {
            .copies = COPIES, .domain = domain, .writer = own ? 1 + (uint32_t)prng_below(&s->prng, NODES) : 0};
        assert_int_equal(placement_choose(&s->map, &request, &s->prng, chosen), COPIES);
        shared += placement_spread(&s->map, domain, chosen, COPIES) < (domain == DOMAIN_SITE ? 2 : COPIES);
        for (unsigned j = 0; j < COPIES; j++)
            put(s, chosen[j]);
    }
    return shared;
}

static void a_million_chunks_fill_all_disks_alike_and_share_no_rack(void **state)
{
    static struct site s;
    site_init(&s, 1, NODES);
    unsigned shared = place(&s, CHUNKS, DOMAIN_RACK, true);
    struct fill f = measure(&s, 1, NODES);
    print("1,000,000 chunks on 2000 disks in 25 racks", &f);
    assert_int_equal(shared, 0);
    within_five_points(&f);
    assert_true(f.most - f.least < 10000); /* it is much better than asked: one point */
    site_fini(&s);
}

static void two_sites_both_have_every_chunk(void **state)
{
    static struct site s;
    site_init(&s, 2, NODES);
    unsigned missing = place(&s, 100000, DOMAIN_SITE, true);
    struct fill f = measure(&s, 1, NODES);
    print("100,000 chunks, domain site, two sites", &f);
    assert_int_equal(missing, 0);
    within_five_points(&f);
    site_fini(&s);
}

static void disks_that_joined_empty_catch_up_without_being_overrun(void **state)
{
    static struct site s;
    site_init(&s, 3, NODES - 100);
    (void)place(&s, 400000, DOMAIN_RACK, false);
    for (size_t i = 0; i < DISKS; i++)
        s.disks[i].up = true;
    again(&s);
    uint64_t before = s.map.used_mib, new_before = 0, new_after = 0;
    for (size_t i = 0; i < DISKS; i++)
        new_before += s.disks[i].node > NODES - 100 ? s.disks[i].used / MIB(1) : 0;
    assert_int_equal(place(&s, 200000, DOMAIN_RACK, false), 0);
    uint64_t size = 0, all = 0;
    for (size_t i = 0; i < DISKS; i++) {
        new_after += s.disks[i].node > NODES - 100 ? s.disks[i].used / MIB(1) : 0;
        size += s.disks[i].node > NODES - 100 ? s.disks[i].total / MIB(1) : 0;
        all += s.disks[i].total / MIB(1);
    }
    double share = (double)(new_after - new_before) / (double)(s.map.used_mib - before), fair = (double)size / (double)all;
    struct fill f = measure(&s, 1, NODES);
    print("100 of 500 nodes joined empty, 200,000 chunks later", &f);
    print_message("the new ones took %.1f %% of the writes with %.1f %% of the space\n", share * 100, fair * 100);
    assert_true(share > 1.3 * fair && share < 2.2 * fair);
    site_fini(&s);
}

/* Removals: every tenth node goes, its copies are made again on the others. */
static void what_removed_nodes_held_spreads_over_all_others(void **state)
{
    static struct site s;
    site_init(&s, 4, NODES);
    (void)place(&s, 300000, DOMAIN_RACK, false);
    uint64_t lost = 0;
    for (size_t i = 0; i < DISKS; i++)
        if (s.disks[i].node % 10 == 0) {
            lost += s.disks[i].used / CHUNK;
            s.disks[i].up = false;
        }
    again(&s);
    static uint32_t got[DISKS];
    for (uint64_t i = 0; i < lost; i++) {
        size_t chosen[1];
        struct placement_request request = {.copies = 1, .domain = DOMAIN_RACK, .n_held = 2};
        for (unsigned j = 0; j < 2; j++)
            request.held[j] = 1 + (uint32_t)prng_below(&s.prng, DISKS);
        assert_int_equal(placement_choose(&s.map, &request, &s.prng, chosen), 1);
        got[chosen[0]]++;
        put(&s, chosen[0]);
    }
    unsigned without = 0;
    for (size_t i = 0; i < DISKS; i++)
        without += s.disks[i].up && got[i] == 0;
    struct fill f = measure(&s, 1, NODES);
    print("50 of 500 nodes removed and made again", &f);
    print_message("%llu copies, %u disks got none\n", (unsigned long long)lost, without);
    within_five_points(&f);
    assert_int_equal(without, 0);
    site_fini(&s);
}

/* Groups of 50 inputs: how many of a group's chunks have a copy on the node that has most of them. */
static void groups_are_held_together_and_the_disks_stay_even(void **state)
{
    static struct site s;
    site_init(&s, 5, NODES);
    uint64_t together = 0, all = 0;
    for (uint64_t group = 1; group <= 800; group++) {
        static unsigned on[NODES + 1];
        unsigned most = 0;
        memset(on, 0, sizeof on);
        for (unsigned i = 0; i < 50; i++) {
            size_t chosen[PLACEMENT_COPIES_MAX];
            struct placement_request request = {.copies = COPIES, .domain = DOMAIN_RACK, .affinity = group * 7919};
            assert_int_equal(placement_choose(&s.map, &request, &s.prng, chosen), COPIES);
            assert_int_equal(placement_spread(&s.map, DOMAIN_RACK, chosen, COPIES), COPIES);
            for (unsigned j = 0; j < COPIES; j++) {
                put(&s, chosen[j]);
                most = MAX(most, ++on[s.disks[chosen[j]].node]);
            }
        }
        together += most;
        all += 50;
    }
    struct fill f = measure(&s, 1, NODES);
    double ratio = (double)together / (double)all;
    print("800 groups of 50 chunks", &f);
    print_message("%.1f %% of a group's chunks on one node\n", ratio * 100);
    assert_true(ratio > 0.9);
    assert_true(f.most <= f.average + PLACEMENT_LEAN + 50000); /* a group's last chunk may pass the bound */
    site_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_million_chunks_fill_all_disks_alike_and_share_no_rack),
        cmocka_unit_test(two_sites_both_have_every_chunk),
        cmocka_unit_test(disks_that_joined_empty_catch_up_without_being_overrun),
        cmocka_unit_test(what_removed_nodes_held_spreads_over_all_others),
        cmocka_unit_test(groups_are_held_together_and_the_disks_stay_even)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
