/* common/ec.h: every loss pattern of every profile, against data kept aside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "common/ec.h"
#include "common/err.h"
#include "common/prng.h"

#define SHARD_MAX 300

struct group {
    uint8_t bytes[EC_SHARDS_MAX][SHARD_MAX];
};

static void group_make(const struct ec_codec *codec, struct prng *prng, size_t n, struct group *ret)
{
    const uint8_t *data[EC_DATA_MAX];
    uint8_t *parity[EC_PARITY_MAX];
    for (unsigned i = 0; i < codec->k; i++) {
        for (size_t at = 0; at < n; at++)
            ret->bytes[i][at] = (uint8_t)prng_u64(prng);
        data[i] = ret->bytes[i];
    }
    for (unsigned i = 0; i < codec->m; i++)
        parity[i] = ret->bytes[codec->k + i];
    ec_encode(codec, n, data, parity);
}

/* The shards of `lost` are computed from the others and compared with what was there. */
static void assert_recovers(const struct ec_codec *codec, const struct group *group, size_t n, uint32_t lost)
{
    uint32_t all = (1u << (codec->k + codec->m)) - 1;
    struct ec_plan plan;
    assert_int_equal(ec_plan_init(codec, all & ~lost, lost, &plan), 0);
    const uint8_t *in[EC_DATA_MAX];
    uint8_t made[EC_SHARDS_MAX][SHARD_MAX], *out[EC_SHARDS_MAX];
    for (unsigned i = 0; i < codec->k; i++) {
        assert_false(lost >> plan.sources[i] & 1);
        in[i] = group->bytes[plan.sources[i]];
    }
    for (unsigned i = 0; i < plan.n_wanted; i++)
        out[i] = made[i];
    ec_plan_run(&plan, n, in, out);
    assert_int_equal(plan.n_wanted, __builtin_popcount(lost));
    for (unsigned i = 0; i < plan.n_wanted; i++)
        assert_memory_equal(made[i], group->bytes[plan.wanted[i]], n);
}

static void every_loss_up_to_m_of_every_profile_is_made_good(void **state)
{
    struct prng prng = prng_init(1);
    struct group group;
    unsigned patterns = 0;
    for (unsigned k = EC_DATA_MIN; k <= EC_DATA_MAX; k++)
        for (unsigned m = 1; m <= EC_PARITY_MAX; m++) {
            struct ec_codec codec;
            assert_int_equal(ec_codec_init(k, m, &codec), 0);
            group_make(&codec, &prng, 67, &group); /* vector code and its tail */
            for (uint32_t lost = 1; lost < 1u << (k + m); lost++)
                if ((unsigned)__builtin_popcount(lost) <= m) {
                    assert_recovers(&codec, &group, 67, lost);
                    patterns++;
                }
        }
    print_message("%u patterns\n", patterns);
    assert_int_equal(patterns, 35248);
}

static void lengths_from_one_byte_on_are_computed_whole(void **state)
{
    struct prng prng = prng_init(2);
    struct ec_codec codec;
    struct group group;
    assert_int_equal(ec_codec_init(4, 2, &codec), 0);
    for (size_t n = 1; n <= SHARD_MAX; n++) {
        group_make(&codec, &prng, n, &group);
        assert_recovers(&codec, &group, n, 1u << 0 | 1u << 5);
    }
}

/* Pieces of all data shards in a random order, each folded in once, against the whole at once. */
static void assert_updates_make(const struct ec_codec *codec, const struct group *group, struct prng *prng, size_t n)
{
    uint8_t made[EC_PARITY_MAX][SHARD_MAX] = {0}, *parity[EC_PARITY_MAX];
    unsigned order[EC_DATA_MAX];
    for (unsigned i = 0; i < codec->k; i++) {
        unsigned j = (unsigned)(prng_u64(prng) % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (unsigned i = 0; i < codec->k; i++)
        for (size_t at = 0, step; at < n; at += step) {
            step = MIN(n - at, (size_t)(1 + prng_u64(prng) % n));
            for (unsigned j = 0; j < codec->m; j++)
                parity[j] = made[j] + at;
            ec_encode_update(codec, order[i], step, group->bytes[order[i]] + at, parity);
        }
    for (unsigned j = 0; j < codec->m; j++)
        assert_memory_equal(made[j], group->bytes[codec->k + j], n);
}

static void parity_grows_with_the_data_in_any_order(void **state)
{
    struct prng prng = prng_init(4);
    struct group group;
    for (unsigned k = EC_DATA_MIN; k <= EC_DATA_MAX; k++)
        for (unsigned m = 1; m <= EC_PARITY_MAX; m++) {
            struct ec_codec codec;
            assert_int_equal(ec_codec_init(k, m, &codec), 0);
            for (size_t n = 1; n <= SHARD_MAX; n = n * 3 + 1) {
                group_make(&codec, &prng, n, &group);
                assert_updates_make(&codec, &group, &prng, n);
            }
        }
}

static void a_range_of_a_shard_comes_from_the_same_range_of_others(void **state)
{
    struct prng prng = prng_init(3);
    struct ec_codec codec;
    struct group group;
    struct ec_plan plan;
    assert_int_equal(ec_codec_init(8, 3, &codec), 0);
    group_make(&codec, &prng, SHARD_MAX, &group);
    assert_int_equal(ec_plan_init(&codec, 0x7ff & ~(1u << 2), 1u << 2, &plan), 0);
    const uint8_t *in[EC_DATA_MAX];
    uint8_t made[100], *out[1] = {made};
    for (unsigned i = 0; i < plan.k; i++)
        in[i] = group.bytes[plan.sources[i]] + 111;
    ec_plan_run(&plan, sizeof made, in, out);
    assert_memory_equal(made, group.bytes[2] + 111, sizeof made);
}

static void a_profile_out_of_bounds_is_refused(void **state)
{
    struct ec_codec codec;
    assert_int_equal(ec_codec_init(1, 1, &codec), -E_INVAL);
    assert_int_equal(ec_codec_init(17, 1, &codec), -E_INVAL);
    assert_int_equal(ec_codec_init(4, 0, &codec), -E_INVAL);
    assert_int_equal(ec_codec_init(4, 5, &codec), -E_INVAL);
}

static void too_few_shards_are_refused_and_a_wanted_one_is_never_a_source(void **state)
{
    struct ec_codec codec;
    struct ec_plan plan;
    assert_int_equal(ec_codec_init(4, 2, &codec), 0);
    assert_int_equal(ec_plan_init(&codec, 0x07, 1u << 5, &plan), -E_UNAVAIL);
    assert_int_equal(ec_plan_init(&codec, 0x1f, 0x03, &plan), -E_UNAVAIL); /* 3 are left to read */
    assert_int_equal(ec_plan_init(&codec, 0x3f, 0, &plan), -E_INVAL);
    assert_int_equal(ec_plan_init(&codec, 0x7f, 1, &plan), -E_INVAL);
    assert_int_equal(ec_plan_init(&codec, 0x3f, 1, &plan), 0);
    for (unsigned i = 0; i < plan.k; i++)
        assert_int_not_equal(plan.sources[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_loss_up_to_m_of_every_profile_is_made_good),
        cmocka_unit_test(lengths_from_one_byte_on_are_computed_whole),
        cmocka_unit_test(a_range_of_a_shard_comes_from_the_same_range_of_others),
        cmocka_unit_test(a_profile_out_of_bounds_is_refused),
        cmocka_unit_test(parity_grows_with_the_data_in_any_order),
        cmocka_unit_test(too_few_shards_are_refused_and_a_wanted_one_is_never_a_source),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
