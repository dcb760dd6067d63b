/* Placement: P1-P9 of docs/invariants.md over 10,000 random clusters, and one by one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "metadata/placement.h"

#define DISKS 40

struct drawn {
    struct placement_disk disks[DISKS];
    size_t n;
    unsigned candidates, copies;
    enum domain domain;
    uint32_t writer;
};

static struct drawn draw(struct prng *prng)
{
    struct drawn d = {.n = prng_below(prng, DISKS),
                      .copies = 1 + (unsigned)prng_below(prng, 6),
                      .domain = (enum domain)(1 + prng_below(prng, 4)),
                      .writer = (uint32_t)prng_below(prng, DISKS)};
    unsigned racks = 1 + (unsigned)prng_below(prng, 8), per_node = 1 + (unsigned)prng_below(prng, 3);
    for (size_t i = 0; i < d.n; i++) {
        uint32_t node = (uint32_t)i / per_node + 1;
        uint64_t rack = node % racks;
        d.disks[i] = (struct placement_disk){.id = (uint32_t)i + 1,
                                             .node = node,
                                             .rack = rack,
                                             .site = rack % 2,
                                             .total = GIB(10),
                                             .up = prng_below(prng, 4) != 0,
                                             .draining = prng_below(prng, 8) == 0,
                                             .busy = prng_below(prng, 8) == 0,
                                             .free = prng_below(prng, 8) * GIB(1)};
        d.disks[i].used = GIB(10) - d.disks[i].free;
        d.candidates += placement_usable(&d.disks[i]);
    }
    return d;
}

/* How many of the chosen share the domain with disk `i`. */
static unsigned near(const struct drawn *d, const size_t *chosen, unsigned n, size_t i, enum domain domain)
{
    unsigned count = 0;
    for (unsigned j = 0; j < n; j++)
        count += placement_same_domain(&d->disks[chosen[j]], &d->disks[i], domain);
    return count;
}

/* No place was taken while another of the kind had fewer copies and a usable disk. */
static void check_level(const struct drawn *d, const size_t *chosen, unsigned n, enum domain domain)
{
    for (unsigned j = 0; j < n; j++)
        for (size_t i = 0; i < d->n; i++) {
            bool taken = false;
            for (unsigned k = 0; k < n; k++)
                taken |= chosen[k] == i;
            if (!taken && placement_usable(&d->disks[i]))
                assert_true(near(d, chosen, n, chosen[j], domain) <= near(d, chosen, n, i, domain) + 1);
        }
}

static void check(const struct drawn *d, const struct placement_map *map, const size_t *chosen, unsigned n)
{
    assert_int_equal(n, MIN(d->copies, d->candidates)); /* P5 */
    for (unsigned i = 0; i < n; i++) {
        assert_true(placement_usable(&d->disks[chosen[i]])); /* P2 */
        for (unsigned j = 0; j < i; j++)
            assert_true(chosen[i] != chosen[j]); /* P1 */
    }
    check_level(d, chosen, n, d->domain == DOMAIN_SITE ? DOMAIN_SITE : DOMAIN_RACK); /* P3 */
    bool may_own = false;
    for (size_t i = 0; i < d->n; i++)
        may_own |= d->disks[i].node == d->writer && placement_usable(&d->disks[i]) &&
                   placement_fill(&d->disks[i]) <= placement_average(map) + PLACEMENT_LEAN;
    if (may_own)
        assert_int_equal(d->disks[chosen[0]].node, d->writer); /* P4 */
}

static void random_clusters_obey_the_rules(void **state)
{
    struct prng prng = prng_init(1);
    for (unsigned i = 0; i < 10000; i++) {
        struct drawn d = draw(&prng);
        struct placement_map map;
        size_t chosen[PLACEMENT_COPIES_MAX];
        assert_int_equal(placement_map_init(&map, d.disks, d.n), 0);
        struct placement_request request = {.copies = d.copies, .domain = d.domain, .writer = d.writer};
        check(&d, &map, chosen, placement_choose(&map, &request, &prng, chosen));
        placement_map_fini(&map);
    }
}

/* Half full when nothing else is said. */
#define DISK(number, ...)                                                                                             \
    {                                                                                                                 \
        .id = number, .node = number, .up = true, .free = GIB(50), __VA_ARGS__                                        \
    }
static void complete(struct placement_disk *disks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        disks[i].total = disks[i].total != 0 ? disks[i].total : GIB(100);
        disks[i].used = disks[i].used != 0 ? disks[i].used : GIB(50);
    }
}

/* Chooses `times` and counts how often each disk was the first. */
static void tally(struct placement_disk *disks, size_t n, const struct placement_request *request, unsigned times,
                  unsigned *counts)
{
    struct prng prng = prng_init(2);
    struct placement_map map;
    complete(disks, n);
    assert_int_equal(placement_map_init(&map, disks, n), 0);
    for (unsigned i = 0; i < times; i++) {
        size_t chosen[PLACEMENT_COPIES_MAX];
        assert_true(placement_choose(&map, request, &prng, chosen) > 0);
        counts[chosen[0]]++;
    }
    placement_map_fini(&map);
}


static void a_disk_twice_as_large_gets_twice_as_much(void **state)
{
    struct placement_disk disks[] = {DISK(1), DISK(2, .total = GIB(200), .used = GIB(100))};
    unsigned counts[2] = {0};
    tally(disks, 2, &(struct placement_request){.copies = 1}, 3000, counts);
    /* The better of two draws: equal fill lets the first one drawn win, so 2 of 3. */
    assert_in_range(counts[1], 1850, 2150);
}

static void the_emptier_of_two_is_chosen_three_times_of_four(void **state)
{
    struct placement_disk disks[] = {DISK(1), DISK(2, .used = GIB(10))};
    unsigned counts[2] = {0};
    tally(disks, 2, &(struct placement_request){.copies = 1}, 1000, counts);
    assert_in_range(counts[1], 700, 800);
}

static void a_long_queue_counts_like_fill(void **state)
{
    struct placement_disk disks[] = {DISK(1, .queue = 60), DISK(2, .used = GIB(51))};
    unsigned counts[2] = {0};
    tally(disks, 2, &(struct placement_request){.copies = 1}, 1000, counts);
    assert_in_range(counts[1], 700, 800);
}

static void copies_that_exist_count_for_their_rack(void **state)
{
    struct placement_disk disks[] = {DISK(1), DISK(2), DISK(3, .rack = 1, .used = GIB(99))};
    unsigned counts[3] = {0};
    tally(disks, 3, &(struct placement_request){.copies = 1, .n_held = 1, .held = {1}}, 100, counts);
    assert_int_equal(counts[2], 100);
}

static void a_writer_that_fills_its_own_disk_is_not_preferred_any_more(void **state)
{
    struct placement_disk disks[] = {DISK(1, .used = GIB(60)), DISK(2), DISK(3)};
    unsigned counts[3] = {0};
    tally(disks, 3, &(struct placement_request){.copies = 1, .writer = 1}, 100, counts);
    assert_true(counts[0] < 50);
    disks[0].used = GIB(52);
    memset(counts, 0, sizeof counts);
    tally(disks, 3, &(struct placement_request){.copies = 1, .writer = 1}, 100, counts);
    assert_int_equal(counts[0], 100);
}

static void chunks_of_one_group_have_the_same_holders(void **state)
{
    struct placement_disk disks[DISKS];
    unsigned counts[DISKS] = {0}, used = 0;
    for (uint32_t i = 0; i < DISKS; i++)
        disks[i] = (struct placement_disk)DISK(i + 1, .rack = i % 4);
    tally(disks, DISKS, &(struct placement_request){.copies = 3, .affinity = 77}, 200, counts);
    for (unsigned i = 0; i < DISKS; i++)
        used += counts[i] > 0;
    assert_int_equal(used, 1);
}

static void the_members_of_a_group_of_six_and_three_are_on_nine_racks(void **state)
{
    struct placement_disk disks[DISKS];
    struct placement_map map;
    struct prng prng = prng_init(5);
    for (uint32_t i = 0; i < DISKS; i++)
        disks[i] = (struct placement_disk)DISK(i + 1, .rack = i / 4);
    complete(disks, DISKS);
    assert_int_equal(placement_map_init(&map, disks, DISKS), 0);
    for (unsigned i = 0; i < 500; i++) {
        size_t chosen[PLACEMENT_COPIES_MAX];
        struct placement_request request = {.copies = 9, .domain = DOMAIN_RACK};
        assert_int_equal(placement_choose(&map, &request, &prng, chosen), 9);
        assert_int_equal(placement_spread(&map, DOMAIN_RACK, chosen, 9), 9);
    }
    placement_map_fini(&map);
}

static void with_too_few_racks_copies_share_them_evenly(void **state)
{
    struct placement_disk disks[] = {DISK(1), DISK(2), DISK(3), DISK(4, .rack = 1), DISK(5, .rack = 1)};
    struct placement_map map;
    struct prng prng = prng_init(6);
    complete(disks, 5);
    assert_int_equal(placement_map_init(&map, disks, 5), 0);
    for (unsigned i = 0; i < 100; i++) {
        size_t chosen[PLACEMENT_COPIES_MAX];
        struct placement_request request = {.copies = 4, .domain = DOMAIN_RACK};
        assert_int_equal(placement_choose(&map, &request, &prng, chosen), 4);
        unsigned in_first = 0;
        for (unsigned j = 0; j < 4; j++)
            in_first += disks[chosen[j]].rack == 0;
        assert_int_equal(in_first, 2);
        assert_int_equal(placement_spread(&map, DOMAIN_RACK, chosen, 4), 2); /* what makes the chunk "weak" */
    }
    placement_map_fini(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_clusters_obey_the_rules),
        cmocka_unit_test(a_disk_twice_as_large_gets_twice_as_much),
        cmocka_unit_test(the_emptier_of_two_is_chosen_three_times_of_four),
        cmocka_unit_test(a_long_queue_counts_like_fill),
        cmocka_unit_test(copies_that_exist_count_for_their_rack),
        cmocka_unit_test(a_writer_that_fills_its_own_disk_is_not_preferred_any_more),
        cmocka_unit_test(chunks_of_one_group_have_the_same_holders),
        cmocka_unit_test(the_members_of_a_group_of_six_and_three_are_on_nine_racks),
        cmocka_unit_test(with_too_few_racks_copies_share_them_evenly)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
