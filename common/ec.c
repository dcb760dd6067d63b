#include "ec.h"

#include <isa-l/erasure_code.h>

#include "check.h"
#include "err.h"

int ec_codec_init(unsigned k, unsigned m, struct ec_codec *ret)
{
    if (k < EC_DATA_MIN || k > EC_DATA_MAX || m < 1 || m > EC_PARITY_MAX)
        return -E_INVAL;
    *ret = (struct ec_codec){.k = k, .m = m};
    gf_gen_cauchy1_matrix(ret->matrix, (int)(k + m), (int)k);
    ec_init_tables((int)k, (int)m, ret->matrix + (size_t)k * k, ret->tables);
    return 0;
}

/* ISA-L takes the sources as non-const pointers to pointers but does not write to them, counts bytes
 * in an int, and wants at least 64 bytes for its vector code (fewer fall back to its plain one). */
#define RUN_BYTES_MAX MIB(256)

static void run(unsigned k, unsigned rows, const uint8_t *tables, size_t n, const uint8_t *const *in, uint8_t *const *out)
{
    uint8_t *from[EC_DATA_MAX], *to[EC_SHARDS_MAX];
    for (size_t done = 0; done < n;) {
        size_t step = MIN(n - done, (size_t)RUN_BYTES_MAX);
        for (unsigned i = 0; i < k; i++)
            from[i] = (uint8_t *)(uintptr_t)in[i] + done;
        for (unsigned i = 0; i < rows; i++)
            to[i] = out[i] + done;
        ec_encode_data((int)step, (int)k, (int)rows, (uint8_t *)(uintptr_t)tables, from, to);
        done += step;
    }
}

void ec_encode(const struct ec_codec *codec, size_t n, const uint8_t *const *data, uint8_t *const *parity)
{
    run(codec->k, codec->m, codec->tables, n, data, parity);
}

void ec_encode_update(const struct ec_codec *codec, unsigned shard, size_t n, const uint8_t *data, uint8_t *const *parity)
{
    CHECK(shard < codec->k);
    uint8_t *to[EC_PARITY_MAX];
    for (size_t done = 0; done < n;) {
        size_t step = MIN(n - done, (size_t)RUN_BYTES_MAX);
        for (unsigned i = 0; i < codec->m; i++)
            to[i] = parity[i] + done;
        ec_encode_data_update((int)step, (int)codec->k, (int)codec->m, (int)shard, (uint8_t *)(uintptr_t)codec->tables,
                              (uint8_t *)(uintptr_t)data + done, to);
        done += step;
    }
}

/* The k rows of the matrix that the sources are made by, turned over: what gives the data back. */
static void invert_sources(const struct ec_codec *codec, const uint8_t *sources, uint8_t *ret_inverse)
{
    uint8_t rows[EC_DATA_MAX * EC_DATA_MAX];
    for (unsigned i = 0; i < codec->k; i++)
        memcpy(rows + (size_t)i * codec->k, codec->matrix + (size_t)sources[i] * codec->k, codec->k);
    /* Every square submatrix of a Cauchy matrix below an identity can be inverted. */
    CHECK(gf_invert_matrix(rows, ret_inverse, (int)codec->k) == 0);
}

/* The coefficients of shard `shard` over the sources: its row over the data, times the inverse. */
static void shard_row(const struct ec_codec *codec, unsigned shard, const uint8_t *inverse, uint8_t *ret_row)
{
    unsigned k = codec->k;
    const uint8_t *over_data = codec->matrix + (size_t)shard * k;
    for (unsigned column = 0; column < k; column++) {
        ret_row[column] = 0;
        for (unsigned i = 0; i < k; i++)
            ret_row[column] ^= gf_mul(over_data[i], inverse[(size_t)i * k + column]);
    }
}

int ec_plan_init(const struct ec_codec *codec, uint32_t have, uint32_t want, struct ec_plan *ret)
{
    unsigned shards = codec->k + codec->m;
    if ((have | want) >> shards != 0 || want == 0)
        return -E_INVAL;
    struct ec_plan plan = {.k = codec->k};
    unsigned n_sources = 0;
    for (unsigned i = 0; i < shards && n_sources < codec->k; i++)
        if ((have & ~want) >> i & 1)
            plan.sources[n_sources++] = (uint8_t)i;
    if (n_sources < codec->k)
        return -E_UNAVAIL;
    uint8_t inverse[EC_DATA_MAX * EC_DATA_MAX], rows[EC_SHARDS_MAX * EC_DATA_MAX];
    invert_sources(codec, plan.sources, inverse);
    for (unsigned i = 0; i < shards; i++) {
        if (!(want >> i & 1))
            continue;
        shard_row(codec, i, inverse, rows + (size_t)plan.n_wanted * codec->k);
        plan.wanted[plan.n_wanted++] = (uint8_t)i;
    }
    ec_init_tables((int)codec->k, (int)plan.n_wanted, rows, plan.tables);
    *ret = plan;
    return 0;
}

void ec_plan_run(const struct ec_plan *plan, size_t n, const uint8_t *const *in, uint8_t *const *out)
{
    run(plan->k, plan->n_wanted, plan->tables, n, in, out);
}
