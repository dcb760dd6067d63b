/* Erasure codes: Reed-Solomon over GF(2^8), systematic: k data shards stay as they are and m parity
 * shards are computed from them; any k of the k + m give all others back. The matrix is Cauchy's, whose
 * square submatrices are all invertible for every k + m <= 255 (a Vandermonde-derived one is not:
 * ISA-L, erasure_code.h, gf_gen_rs_matrix). Byte n of a parity shard depends on byte n of the data
 * shards only, so any range of a shard is computed from the same range of others.
 * The only file that knows ISA-L's erasure_code.h. Pure; a codec or plan may be used by any number of
 * threads at once. Source: Plank, "A tutorial on Reed-Solomon coding" (1997) with its 2003 correction. */
#ifndef TARN_COMMON_EC_H
#define TARN_COMMON_EC_H

#include "base.h"

#define EC_DATA_MIN 2
#define EC_DATA_MAX 16
#define EC_PARITY_MAX 4
#define EC_SHARDS_MAX (EC_DATA_MAX + EC_PARITY_MAX)
#define EC_TABLE_BYTES 32 /* ISA-L's multiplication table of one coefficient */

struct ec_codec {
    unsigned k, m;
    uint8_t matrix[EC_SHARDS_MAX * EC_DATA_MAX];                       /* k + m rows of k */
    uint8_t tables[EC_PARITY_MAX * EC_DATA_MAX * EC_TABLE_BYTES];      /* of the parity rows */
};
/* -E_INVAL when k is not 2 … 16 or m not 1 … 4. */
int ec_codec_init(unsigned k, unsigned m, struct ec_codec *ret);
/* parity[0 … m-1] from data[0 … k-1], `n` bytes of each. Buffers do not overlap; any alignment (64
 * bytes is fastest). */
void ec_encode(const struct ec_codec *codec, size_t n, const uint8_t *const *data, uint8_t *const *parity);
/* Adds what data shard `shard` contributes to each parity shard: parity ^= coefficient * data, `n` bytes of each. After
 * all data shards, in any order and each byte once, parity that began as zeros is what ec_encode() makes. */
void ec_encode_update(const struct ec_codec *codec, unsigned shard, size_t n, const uint8_t *data, uint8_t *const *parity);

/* How missing shards are computed from others: made once for a pattern of losses, then run on any
 * number of ranges. */
struct ec_plan {
    unsigned k, n_wanted;
    uint8_t sources[EC_DATA_MAX]; /* the k shards that are read, ascending */
    uint8_t wanted[EC_SHARDS_MAX];
    uint8_t tables[EC_SHARDS_MAX * EC_DATA_MAX * EC_TABLE_BYTES];
};
/* `have` and `want` are sets of shard indices, bit i = shard i (data first). Of `have` the first k that
 * are not wanted are chosen, data shards before parity. Errors: -E_INVAL a bit past k + m, or nothing
 * wanted; -E_UNAVAIL fewer than k shards to read. */
int ec_plan_init(const struct ec_codec *codec, uint32_t have, uint32_t want, struct ec_plan *ret);
/* out[i] = shard wanted[i], from in[j] = shard sources[j]; `n` bytes of each. */
void ec_plan_run(const struct ec_plan *plan, size_t n, const uint8_t *const *in, uint8_t *const *out);

#endif
