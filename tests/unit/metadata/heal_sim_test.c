/* Healing decisions at work in a model: disks with chunks, copies that take time, disks that die, come back,
 * are drained or join. After every decision: no chunk that had its copies has fewer because of us; no disk
 * gives or takes more than it may; what is most endangered goes first; and it comes to an end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "metadata/heal_plan.h"

#define CHUNK MIB(64)
#define DISKS 60
#define CHUNKS 6000
#define PER_DISK 4 /* copies to and from one disk at a time */

struct model {
    struct placement_disk disks[DISKS];
    struct placement_map map;
    struct prng prng;
    struct heal_chunk chunks[CHUNKS];
    unsigned taking[DISKS], giving[DISKS];
    unsigned source_of[CHUNKS][PLACEMENT_COPIES_MAX]; /* disk index, for copying replicas */
    unsigned moved;
};

static void map_again(struct model *m)
{
    placement_map_fini(&m->map);
    assert_int_equal(placement_map_init(&m->map, m->disks, DISKS), 0);
}

static void limits(struct model *m)
{
    for (unsigned i = 0; i < DISKS; i++) {
        m->disks[i].busy = m->taking[i] >= PER_DISK;
        m->disks[i].source_room = PER_DISK - m->giving[i];
    }
}

/* 12 racks of 5; `up` disks are there from the start. */
static void model_init(struct model *m, uint64_t seed, unsigned up, unsigned want, enum domain domain)
{
    *m = (struct model){.prng = prng_init(seed)};
    for (uint32_t i = 0; i < DISKS; i++)
        m->disks[i] = (struct placement_disk){.id = i + 1,
                                              .node = i + 1,
                                              .rack = i % 12,
                                              .total = GIB(30) * (1 + i % 3),
                                              .free = GIB(30),
                                              .up = i < up};
    map_again(m);
    for (unsigned c = 0; c < CHUNKS; c++) {
        size_t chosen[PLACEMENT_COPIES_MAX];
        struct placement_request request = {.copies = want, .domain = domain};
        assert_int_equal(placement_choose(&m->map, &request, &m->prng, chosen), want);
        m->chunks[c] = (struct heal_chunk){.want = want, .domain = domain, .n = want};
        for (unsigned j = 0; j < want; j++) {
            m->chunks[c].replicas[j] =
                (struct heal_replica){.disk = m->disks[chosen[j]].id, .ready = true, .sealed = true};
            placement_use(&m->map, chosen[j], CHUNK);
        }
    }
}

static unsigned live(const struct model *m, const struct heal_chunk *chunk, bool staying)
{
    unsigned n = 0;
    for (unsigned i = 0; i < chunk->n; i++) {
        const struct placement_disk *disk = &m->disks[chunk->replicas[i].disk - 1];
        n += chunk->replicas[i].ready && disk->up && !(staying && disk->draining);
    }
    return n;
}

static void forget(struct model *m, struct heal_chunk *chunk, unsigned i)
{
    size_t disk = chunk->replicas[i].disk - 1;
    unsigned c = (unsigned)(chunk - m->chunks);
    if (chunk->replicas[i].copying) {
        m->taking[disk]--;
        m->giving[m->source_of[c][i]]--;
    }
    placement_use(&m->map, disk, -(int64_t)CHUNK);
    chunk->n--;
    chunk->replicas[i] = chunk->replicas[chunk->n];
    m->source_of[c][i] = m->source_of[c][chunk->n];
}

static void copy(struct model *m, struct heal_chunk *chunk, size_t target, size_t source)
{
    unsigned c = (unsigned)(chunk - m->chunks);
    assert_true(m->taking[target] < PER_DISK && m->giving[source] < PER_DISK);
    assert_true(m->disks[target].up && !m->disks[target].draining && m->disks[source].up);
    for (unsigned i = 0; i < chunk->n; i++)
        assert_true(chunk->replicas[i].disk != target + 1);
    m->source_of[c][chunk->n] = (unsigned)source;
    chunk->replicas[chunk->n++] = (struct heal_replica){.disk = (uint32_t)target + 1, .copying = true};
    m->taking[target]++;
    m->giving[source]++;
    m->moved++;
    placement_use(&m->map, target, CHUNK);
}

static void carry_out(struct model *m, struct heal_chunk *chunk, const struct heal_decision *d)
{
    unsigned before = live(m, chunk, false), staying = live(m, chunk, true);
    for (unsigned i = 0; i < d->n_add; i++)
        copy(m, chunk, d->targets[i], d->sources[i]);
    for (unsigned i = PLACEMENT_COPIES_MAX; i-- > 0;)
        if (d->drop & 1u << i)
            forget(m, chunk, i);
    /* H2: never below the target because of us. */
    if (before >= chunk->want)
        assert_true(live(m, chunk, false) >= chunk->want);
    if (staying >= chunk->want)
        assert_true(live(m, chunk, true) >= chunk->want);
}

static void decide(struct model *m, unsigned c)
{
    struct heal_decision d;
    limits(m);
    heal_decide(&m->chunks[c], &m->map, true, &m->prng, &d);
    carry_out(m, &m->chunks[c], &d);
}

/* One round: every chunk by endangerment, then the copies under way come in. Returns what was moved. */
static unsigned round_of(struct model *m)
{
    m->moved = 0;
    unsigned least_started = 0;
    for (unsigned level = 0; level <= PLACEMENT_COPIES_MAX; level++)
        for (unsigned c = 0; c < CHUNKS; c++)
            if (live(m, &m->chunks[c], false) == level) {
                unsigned moved = m->moved;
                decide(m, c);
                assert_true(m->moved == moved || level >= least_started); /* H1 */
                least_started = m->moved > moved ? level : least_started;
            }
    unsigned moved = m->moved;
    for (unsigned c = 0; c < CHUNKS; c++)
        for (unsigned i = 0; i < m->chunks[c].n; i++) {
            struct heal_replica *r = &m->chunks[c].replicas[i];
            if (!r->copying || !m->disks[r->disk - 1].up)
                continue;
            m->taking[r->disk - 1]--;
            m->giving[m->source_of[c][i]]--;
            *r = (struct heal_replica){.disk = r->disk, .ready = true, .sealed = true};
        }
    return moved;
}

static unsigned settle(struct model *m)
{
    unsigned rounds = 0, moved = 0;
    for (unsigned done = 1; done > 0; rounds++) {
        assert_true(rounds < 2000); /* it comes to an end */
        done = round_of(m);
        moved += done;
    }
    (void)round_of(m); /* surplus that the last copies made */
    return moved;
}

static void whole(const struct model *m, bool staying)
{
    for (unsigned c = 0; c < CHUNKS; c++) {
        const struct heal_chunk *chunk = &m->chunks[c];
        size_t disks[PLACEMENT_COPIES_MAX];
        unsigned n = 0;
        for (unsigned i = 0; i < chunk->n; i++)
            if (m->disks[chunk->replicas[i].disk - 1].up)
                disks[n++] = chunk->replicas[i].disk - 1;
        assert_int_equal(live(m, chunk, staying), chunk->want);
        assert_int_equal(placement_spread(&m->map, chunk->domain, disks, n), chunk->want);
    }
}

static unsigned on_disk(const struct model *m, unsigned disk)
{
    unsigned n = 0;
    for (unsigned c = 0; c < CHUNKS; c++)
        for (unsigned i = 0; i < m->chunks[c].n; i++)
            n += m->chunks[c].replicas[i].disk == disk + 1;
    return n;
}

static void set_down(struct model *m, unsigned disk, bool away)
{
    m->disks[disk].up = false;
    m->disks[disk].away = away;
    map_again(m);
}

static void an_absence_of_seconds_moves_nothing(void **state)
{
    static struct model m;
    model_init(&m, 1, DISKS, 3, DOMAIN_RACK);
    set_down(&m, 7, false);
    assert_int_equal(round_of(&m), 0);
    m.disks[7].up = true;
    map_again(&m);
    assert_int_equal(round_of(&m), 0);
    placement_map_fini(&m.map);
}

static void dead_disks_are_made_up_for_by_all_others(void **state)
{
    static struct model m;
    unsigned before[DISKS], got = 0;
    model_init(&m, 2, DISKS, 3, DOMAIN_RACK);
    for (unsigned i = 0; i < DISKS; i++)
        before[i] = on_disk(&m, i);
    set_down(&m, 3, true);
    set_down(&m, 17, true);
    unsigned moved = settle(&m);
    whole(&m, false);
    for (unsigned i = 0; i < DISKS; i++)
        got += m.disks[i].up && on_disk(&m, i) > before[i];
    print_message("%u copies made, %u of %u disks took part\n", moved, got, DISKS - 2);
    assert_int_equal(got, DISKS - 2);
    placement_map_fini(&m.map);
}

static void one_that_comes_back_is_trimmed_and_domains_stay_apart(void **state)
{
    static struct model m;
    model_init(&m, 3, DISKS, 3, DOMAIN_RACK);
    set_down(&m, 5, true);
    (void)settle(&m);
    m.disks[5].up = true;
    m.disks[5].away = false;
    map_again(&m);
    assert_int_equal(settle(&m), 0); /* nothing is copied, surplus goes */
    whole(&m, false);
    placement_map_fini(&m.map);
}

static void a_drained_disk_ends_up_empty(void **state)
{
    static struct model m;
    model_init(&m, 4, DISKS, 3, DOMAIN_RACK);
    m.disks[9].draining = m.disks[10].draining = true;
    map_again(&m);
    (void)settle(&m);
    assert_int_equal(on_disk(&m, 9), 0);
    assert_int_equal(on_disk(&m, 10), 0);
    whole(&m, true);
    placement_map_fini(&m.map);
}

/* The copy on the draining disk counts as long as it is there, and is the source when no other is left. */
static void a_drained_disk_is_the_source_of_single_copies(void **state)
{
    static struct model m;
    model_init(&m, 5, DISKS, 1, DOMAIN_NODE);
    m.disks[0].draining = true;
    map_again(&m);
    (void)settle(&m);
    assert_int_equal(on_disk(&m, 0), 0);
    whole(&m, true);
    placement_map_fini(&m.map);
}

static void copies_in_one_rack_are_drawn_apart(void **state)
{
    static struct model m;
    model_init(&m, 6, DISKS, 3, DOMAIN_RACK);
    for (unsigned c = 0; c < 100; c++) /* all in rack 0: disks 1, 13, 25 */
        for (unsigned i = 0; i < 3; i++)
            m.chunks[c].replicas[i].disk = 1 + 12 * i;
    unsigned moved = settle(&m);
    assert_int_equal(moved, 200);
    whole(&m, false);
    placement_map_fini(&m.map);
}

/* ---- balance */
/* The furthest any disk is above or below the average. */
static uint32_t off(const struct model *m)
{
    uint32_t average = placement_average(&m->map), most = 0;
    for (unsigned i = 0; i < DISKS; i++) {
        uint32_t fill = placement_fill(&m->disks[i]);
        if (m->disks[i].up)
            most = MAX(most, fill > average ? fill - average : average - fill);
    }
    return most;
}

static unsigned balance_round(struct model *m)
{
    unsigned moved = 0;
    for (unsigned c = 0; c < CHUNKS; c++) {
        limits(m);
        size_t source = heal_balance_source(&m->map);
        if (source == SIZE_MAX)
            break;
        size_t target = heal_balance_target(&m->chunks[c], &m->map, source, &m->prng);
        if (target == SIZE_MAX)
            continue;
        copy(m, &m->chunks[c], target, source);
        moved++;
    }
    (void)round_of(m);
    (void)round_of(m);
    return moved;
}

static void joined_disks_fill_up_and_then_nothing_moves_any_more(void **state)
{
    static struct model m;
    model_init(&m, 7, DISKS - 12, 2, DOMAIN_RACK);
    assert_false(heal_unbalanced(&m.map, BALANCE_START));
    for (unsigned i = DISKS - 12; i < DISKS; i++)
        m.disks[i].up = true;
    map_again(&m);
    assert_true(heal_unbalanced(&m.map, BALANCE_START));
    unsigned moved = 0, rounds = 0, holes = 0;
    for (unsigned i = DISKS - 12; i < DISKS; i++)
        holes += m.disks[i].total / CHUNK * placement_average(&m.map) / 1000000;
    for (; heal_unbalanced(&m.map, BALANCE_STOP); rounds++) {
        assert_true(rounds < 1000);
        moved += balance_round(&m);
    }
    whole(&m, false);
    print_message("%u moves in %u rounds for %u places; at most %.2f points off\n", moved, rounds, holes, off(&m) / 1e4);
    assert_true(moved <= holes + holes / 10); /* no ping-pong: hardly more than what was missing */
    assert_false(heal_unbalanced(&m.map, BALANCE_START));
    placement_map_fini(&m.map);
}

static void a_group_that_belongs_together_is_not_torn_apart_for_balance(void **state)
{
    static struct model m;
    model_init(&m, 8, DISKS - 12, 2, DOMAIN_RACK);
    for (unsigned i = DISKS - 12; i < DISKS; i++)
        m.disks[i].up = true;
    map_again(&m);
    for (unsigned c = 0; c < CHUNKS; c++)
        m.chunks[c].affinity = 5;
    assert_int_equal(balance_round(&m), 0);
    placement_map_fini(&m.map);
}

/* ---- everything at once, at random */
static void random_troubles_end_well(void **state)
{
    static struct model m;
    for (uint64_t seed = 10; seed < 14; seed++) {
        model_init(&m, seed, DISKS, 2 + (unsigned)(seed % 2), DOMAIN_NODE);
        unsigned down[2] = {DISKS, DISKS};
        for (unsigned step = 0; step < 40; step++) {
            unsigned i = (unsigned)prng_below(&m.prng, DISKS);
            /* One at a time dies, and only after the one before was made up for. */
            if (step % 4 == 0 && settle(&m) < UINT32_MAX) {
                if (down[0] < DISKS) {
                    m.disks[down[0]].up = true;
                    m.disks[down[0]].away = false;
                }
                down[0] = i;
                set_down(&m, i, true);
            } else if (step % 4 == 1) {
                m.disks[i].draining = !m.disks[i].draining;
            } else if (down[1] != i) {
                m.disks[i].draining = false;
            }
            map_again(&m);
            (void)round_of(&m);
        }
        for (unsigned i = 0; i < DISKS; i++) {
            m.disks[i].up = true;
            m.disks[i].away = m.disks[i].draining = false;
        }
        map_again(&m);
        (void)settle(&m);
        whole(&m, true);
        placement_map_fini(&m.map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_absence_of_seconds_moves_nothing),
        cmocka_unit_test(dead_disks_are_made_up_for_by_all_others),
        cmocka_unit_test(one_that_comes_back_is_trimmed_and_domains_stay_apart),
        cmocka_unit_test(a_drained_disk_ends_up_empty),
        cmocka_unit_test(a_drained_disk_is_the_source_of_single_copies),
        cmocka_unit_test(copies_in_one_rack_are_drawn_apart),
        cmocka_unit_test(joined_disks_fill_up_and_then_nothing_moves_any_more),
        cmocka_unit_test(a_group_that_belongs_together_is_not_torn_apart_for_balance),
        cmocka_unit_test(random_troubles_end_well)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
