/* The pace of background work against a simulated disk: what clients feel grows with its load, as it does with queues. */
#include "tests/unit/cmocka.h"

#include "common/prng.h"
#include "objstore/pace.h"

#define MS 1000000ull

/* A disk of so many bytes a second. A request takes `base_ns`, longer by what else the disk has to do in that millisecond:
 * base / (1 - load), with the chance of a queue. */
struct disk {
    uint64_t bandwidth, base_ns;
    struct prng prng;
};
static uint64_t disk_request(struct disk *d, double load)
{
    double room = load > 0.99 ? 0.01 : 1 - load;
    double luck = 1 + 0.2 * (double)(prng_u64(&d->prng) % 1000) / 1000;
    return (uint64_t)((double)d->base_ns * luck / room);
}

struct run {
    struct pace pace;
    struct disk disk;
    uint64_t now;
    uint64_t moved, asked, felt[4096];
    unsigned n_felt;
};
static void run_init(struct run *r)
{
    *r = (struct run){.now = 5 * PACE_SECOND_NS, .disk = {.bandwidth = MIB(400), .base_ns = 200000}};
    r->disk.prng = prng_init(3);
    pace_init(&r->pace, r->now);
}

/* `ms` of time with so many client requests a millisecond, and as much background work as may be done. */
static void run_for(struct run *r, unsigned ms, unsigned requests, bool background, bool urgent)
{
    double load = 0;
    r->moved = r->n_felt = 0;
    for (unsigned i = 0; i < ms; i++, r->now += MS) {
        uint64_t room = r->disk.bandwidth / 1000 * 2, done = 0;
        while (background && done < room && pace_take(&r->pace, r->now, MIB(1) / 8, urgent) == 0)
            done += MIB(1) / 8;
        done = MIN(done, r->disk.bandwidth / 1000);
        r->moved += done;
        load = load * 0.9 + 0.1 * (double)done * 1000 / (double)r->disk.bandwidth;
        for (unsigned k = 0; k < requests; k++) {
            uint64_t took = disk_request(&r->disk, load);
            pace_served(&r->pace, r->now, PACE_READ_SMALL, took);
            r->felt[r->n_felt++ % ARRAY_SIZE(r->felt)] = took;
        }
    }
}

static uint64_t felt_p99(const struct run *r)
{
    struct pace_histogram h = {0};
    for (unsigned i = 0; i < MIN(r->n_felt, (unsigned)ARRAY_SIZE(r->felt)); i++)
        pace_sample(&h, r->felt[i]);
    return pace_p99(&h);
}

static void without_clients_there_is_no_limit(void **state)
{
    struct run r;
    run_init(&r);
    run_for(&r, 2000, 0, true, false);
    assert_int_equal(r.pace.rate, PACE_FULL);
    assert_true(r.moved >= r.disk.bandwidth * 2 * 99 / 100);
}

static void clients_are_not_slowed_to_more_than_twice(void **state)
{
    struct run r;
    run_init(&r);
    run_for(&r, 2000, 2, false, false);
    uint64_t calm = felt_p99(&r);
    run_for(&r, 5000, 2, true, false); /* it finds its place */
    run_for(&r, 2000, 2, true, false);
    assert_true(felt_p99(&r) <= calm * 24 / 10); /* a bucket is 19 % wide, and a try goes a step too far */
    assert_true(r.moved > r.disk.bandwidth * 2 / 10); /* and a good part of what the disk has over is used */
}

static void clients_that_come_into_full_work_get_their_baseline_measured(void **state)
{
    struct run r;
    run_init(&r);
    run_for(&r, 3000, 0, true, false);
    run_for(&r, 4000, 2, true, false);
    assert_true(r.pace.calm[PACE_READ_SMALL].n > 0);
    run_for(&r, 2000, 2, true, false);
    assert_true(felt_p99(&r) <= (uint64_t)(200000 * 1.2 * 2.4));
    assert_true(r.moved > 0);
}

static void full_speed_is_back_a_second_after_the_last_client(void **state)
{
    struct run r;
    run_init(&r);
    run_for(&r, 1000, 2, false, false);
    run_for(&r, 5000, 2, true, false);
    assert_true(r.pace.rate != PACE_FULL);
    run_for(&r, 1100, 0, true, false);
    assert_int_equal(r.pace.rate, PACE_FULL);
    run_for(&r, 1000, 0, true, false);
    assert_true(r.moved >= r.disk.bandwidth * 99 / 100);
}

/* The disk becomes so slow that anything at all is felt: the floor is what remains, and urgent work has a higher one. */
static void there_is_a_floor(void **state)
{
    for (unsigned urgent = 0; urgent < 2; urgent++) {
        struct run r;
        run_init(&r);
        run_for(&r, 1000, 2, false, false);
        for (unsigned i = 0; i < 20; i++) /* every answer is slow, whatever we do */
            for (unsigned k = 0; k < 200; k++, r.now += MS) {
                (void)pace_take(&r.pace, r.now, MIB(1) / 8, urgent);
                pace_served(&r.pace, r.now, PACE_READ_SMALL, 50 * MS);
                if (r.pace.rate != PACE_FULL)
                    assert_true(r.pace.rate >= PACE_FLOOR);
            }
        uint64_t got = 0, until = r.now + PACE_SECOND_NS;
        r.pace.probing = false;
        r.pace.rate = PACE_FLOOR;
        r.pace.probed_ns = r.now;
        for (; r.now < until; r.now += MS) {
            while (pace_take(&r.pace, r.now, KIB(64), urgent) == 0)
                got += KIB(64);
            pace_served(&r.pace, r.now, PACE_READ_SMALL, 50 * MS);
            r.pace.probing = false;
            r.pace.probed_ns = r.now;
        }
        uint64_t floor = urgent ? PACE_FLOOR_URGENT : PACE_FLOOR;
        assert_in_range(got, floor * 8 / 10, floor * 12 / 10);
    }
}

static void urgent_work_goes_before_other_work(void **state)
{
    struct run r;
    run_init(&r);
    pace_wait_urgent(&r.pace, true);
    assert_int_equal(pace_take(&r.pace, r.now, 1, false), PACE_LOOK_NS);
    assert_int_equal(pace_take(&r.pace, r.now, 1, true), 0);
    pace_wait_urgent(&r.pace, false);
    assert_int_equal(pace_take(&r.pace, r.now, 1, false), 0);
}

/* Large requests take longer: that is no sign of a slow disk. */
static void another_mix_of_sizes_is_not_taken_for_a_slow_disk(void **state)
{
    struct run r;
    run_init(&r);
    for (unsigned i = 0; i < 3000; i++, r.now += MS) {
        pace_served(&r.pace, r.now, PACE_READ_SMALL, 100000);
        if (i % 50 == 0)
            pace_served(&r.pace, r.now, PACE_READ_LARGE, 5000000);
    }
    for (unsigned i = 0; i < 3000; i++, r.now += MS) {
        pace_served(&r.pace, r.now, PACE_READ_LARGE, 5000000);
        (void)pace_take(&r.pace, r.now, MIB(1) / 8, false);
    }
    assert_int_equal(r.pace.rate, PACE_FULL);
}

static void a_histogram_knows_its_p99_to_a_fifth(void **state)
{
    for (uint64_t ns = 10000; ns < 1500 * MS; ns = ns * 5 / 4) {
        struct pace_histogram h = {0};
        for (unsigned i = 0; i < 200; i++)
            pace_sample(&h, i < 197 ? 1000 : ns);
        assert_in_range(pace_p99(&h), ns, ns * 5 / 4);
        for (unsigned i = 0; i < 200; i++)
            pace_sample(&h, 1000); /* now three of 400: the p99 is one of the others */
        assert_true(pace_p99(&h) < 20000);
    }
    struct pace_histogram empty = {0};
    assert_int_equal(pace_p99(&empty), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_clients_there_is_no_limit),
        cmocka_unit_test(clients_are_not_slowed_to_more_than_twice),
        cmocka_unit_test(clients_that_come_into_full_work_get_their_baseline_measured),
        cmocka_unit_test(full_speed_is_back_a_second_after_the_last_client),
        cmocka_unit_test(there_is_a_floor),
        cmocka_unit_test(urgent_work_goes_before_other_work),
        cmocka_unit_test(another_mix_of_sizes_is_not_taken_for_a_slow_disk),
        cmocka_unit_test(a_histogram_knows_its_p99_to_a_fifth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
