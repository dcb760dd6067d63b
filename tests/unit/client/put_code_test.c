/* client/put_code.h: parity that grows while an object is put, against ec_encode() over the whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "client/put_code.h"
#include "common/err.h"
#include "common/prng.h"

#define LENGTH_MAX 3000
#define PLENTY MIB(64)

struct shards {
    unsigned k, m;
    size_t lengths[EC_DATA_MAX];
    uint8_t data[EC_DATA_MAX][LENGTH_MAX]; /* zeros behind its length */
};

static void shards_make(struct prng *prng, unsigned k, unsigned m, struct shards *ret)
{
    *ret = (struct shards){.k = k, .m = m};
    for (unsigned i = 0; i < k; i++) {
        ret->lengths[i] = prng_u64(prng) % (LENGTH_MAX + 1);
        for (size_t at = 0; at < ret->lengths[i]; at++)
            ret->data[i][at] = (uint8_t)prng_u64(prng);
    }
}

static void assert_is_the_code_of(const struct put_code *code, const struct shards *s)
{
    uint8_t made[EC_PARITY_MAX][LENGTH_MAX], *parity[EC_PARITY_MAX];
    const uint8_t *data[EC_DATA_MAX];
    size_t longest = 0;
    for (unsigned i = 0; i < s->k; i++) {
        data[i] = s->data[i];
        longest = MAX(longest, s->lengths[i]);
    }
    for (unsigned i = 0; i < s->m; i++)
        parity[i] = made[i];
    ec_encode(&code->codec, LENGTH_MAX, data, parity);
    assert_int_equal(code->longest, longest);
    for (unsigned i = 0; i < s->m; i++)
        assert_memory_equal(code->parity[i], made[i], longest);
}

/* Shards side by side, each in order and in pieces of any size. */
static void fold_all(struct prng *prng, const struct shards *s, struct put_code *code)
{
    size_t done[EC_DATA_MAX] = {0}, left = 0;
    for (unsigned i = 0; i < s->k; i++)
        left += s->lengths[i];
    while (left > 0) {
        unsigned i = (unsigned)(prng_u64(prng) % s->k);
        if (done[i] == s->lengths[i])
            continue;
        size_t n = 1 + prng_u64(prng) % (s->lengths[i] - done[i]);
        put_code_fold(code, i, done[i], s->data[i] + done[i], n);
        done[i] += n;
        left -= n;
    }
}

static void parity_is_that_of_the_whole_group(void **state)
{
    struct prng prng = prng_init(1);
    struct shards s;
    for (unsigned round = 0; round < 400; round++) {
        struct put_code code;
        unsigned k = EC_DATA_MIN + (unsigned)(prng_u64(&prng) % (EC_DATA_MAX - EC_DATA_MIN + 1));
        unsigned m = 1 + (unsigned)(prng_u64(&prng) % EC_PARITY_MAX);
        shards_make(&prng, k, m, &s);
        assert_int_equal(put_code_init(&code, k, m, LENGTH_MAX, PLENTY), 0);
        fold_all(&prng, &s, &code);
        assert_is_the_code_of(&code, &s);
        put_code_fini(&code);
    }
    assert_int_equal(put_code_memory_used(), 0);
}

static void a_group_of_nothing_has_no_parity(void **state)
{
    struct put_code code;
    assert_int_equal(put_code_init(&code, 4, 2, LENGTH_MAX, PLENTY), 0);
    assert_int_equal(code.longest, 0);
    put_code_fini(&code);
}

static void memory_has_a_limit_and_comes_back(void **state)
{
    struct put_code one, two;
    assert_int_equal(put_code_init(&one, 4, 2, MIB(1), MIB(3)), 0);
    assert_int_equal(put_code_memory_used(), MIB(2));
    assert_int_equal(put_code_init(&two, 4, 2, MIB(1), MIB(3)), -E_BUSY);
    assert_int_equal(put_code_init(&two, 4, 1, MIB(1), MIB(3)), 0);
    put_code_fini(&one);
    put_code_fini(&two);
    assert_int_equal(put_code_memory_used(), 0);
    assert_int_equal(put_code_init(&one, 4, 4, MIB(64), MIB(255)), -E_BUSY);
    assert_int_equal(put_code_init(&one, 17, 4, MIB(1), PLENTY), -E_INVAL);
    assert_int_equal(put_code_init(&one, 4, 2, 0, PLENTY), -E_INVAL);
    assert_int_equal(put_code_memory_used(), 0);
}

/* One spare shard has to be left; what is not the member's fault is never borne. */
static void a_group_bears_all_losses_but_the_last(void **state)
{
    Tarn__UploadGroupReply reply = TARN__UPLOAD_GROUP_REPLY__INIT;
    for (unsigned m = 1; m <= EC_PARITY_MAX; m++) {
        struct put_group group = {.reply = &reply};
        assert_int_equal(put_code_init(&group.code, 4, m, MIB(1), PLENTY), 0);
        assert_int_equal(put_group_lose(&group, 1, -E_NO_SESSION), -E_NO_SESSION);
        assert_int_equal(put_group_lose(&group, 1, -E_CANCELED), -E_CANCELED);
        for (unsigned lost = 1; lost < m; lost++)
            assert_int_equal(put_group_lose(&group, lost, lost % 2 ? -E_UNAVAIL : -E_IO), 0);
        assert_int_equal(put_group_lose(&group, m, -E_NOSPC), -E_NOSPC);
        put_code_fini(&group.code);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parity_is_that_of_the_whole_group),
        cmocka_unit_test(a_group_of_nothing_has_no_parity),
        cmocka_unit_test(memory_has_a_limit_and_comes_back),
        cmocka_unit_test(a_group_bears_all_losses_but_the_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
