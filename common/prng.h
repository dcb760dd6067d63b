/* Seeded generator (xoshiro256**, seeded by splitmix64): the same seed gives the same numbers on every
 * machine. The only source of chance in deterministic code. Not for secrets. Pure. */
#ifndef TARN_COMMON_PRNG_H
#define TARN_COMMON_PRNG_H
#include "base.h"
struct prng {
    uint64_t s[4];
};
struct prng prng_init(uint64_t seed);
uint64_t prng_u64(struct prng *prng);
/* Evenly in 0 … bound - 1; bound 0 gives 0. */
uint64_t prng_below(struct prng *prng, uint64_t bound);
#endif
