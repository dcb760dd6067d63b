/* What common/ec and common/crc make of the instruction set, beside ISA-L called directly. code_rate K M RUNS: prints a line a
 * run, GB/s: encoding (bytes of data) by common/ec, by ISA-L; checksums of 64 KiB cells by common/crc, by ISA-L; computing
 * one lost data shard (bytes read) by common/ec. In the processor's cache of the second level, as windows are when they have
 * just come from the network. */
#include "common/crc.h"
#include "common/ec.h"

#include <isa-l/crc.h>
#include <isa-l/erasure_code.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SHARD_BYTES KIB(64)
#define ROUNDS 4000

struct bench {
    unsigned k, m;
    struct ec_codec codec;
    struct ec_plan plan;
    uint8_t *shards[EC_SHARDS_MAX], *out;
    uint8_t matrix[EC_SHARDS_MAX * EC_DATA_MAX], tables[EC_PARITY_MAX * EC_DATA_MAX * EC_TABLE_BYTES];
};

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static double encode(struct bench *b)
{
    double start = now();
    for (unsigned i = 0; i < ROUNDS; i++)
        ec_encode(&b->codec, SHARD_BYTES, (const uint8_t *const *)b->shards, b->shards + b->k);
    return now() - start;
}

static double encode_isal(struct bench *b)
{
    double start = now();
    for (unsigned i = 0; i < ROUNDS; i++)
        ec_encode_data((int)SHARD_BYTES, (int)b->k, (int)b->m, b->tables, b->shards, b->shards + b->k);
    return now() - start;
}

static double decode(struct bench *b)
{
    const uint8_t *in[EC_DATA_MAX];
    for (unsigned i = 0; i < b->k; i++)
        in[i] = b->shards[b->plan.sources[i]];
    double start = now();
    for (unsigned i = 0; i < ROUNDS; i++)
        ec_plan_run(&b->plan, SHARD_BYTES, in, &b->out);
    return now() - start;
}

static double sums(struct bench *b, bool isal, uint32_t *sum)
{
    double start = now();
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t *cell = b->shards[i % b->k];
        *sum ^= isal ? ~crc32_iscsi(cell, (int)SHARD_BYTES, 0xffffffffu) : crc32c(0, cell, SHARD_BYTES);
    }
    return now() - start;
}

int main(int argc, char **argv)
{
    static struct bench b;
    int runs = argc == 4 ? atoi(argv[3]) : 0;
    b.k = argc == 4 ? (unsigned)atoi(argv[1]) : 0;
    b.m = argc == 4 ? (unsigned)atoi(argv[2]) : 0;
    if (runs <= 0 || ec_codec_init(b.k, b.m, &b.codec) != 0 ||
        ec_plan_init(&b.codec, ((1u << (b.k + b.m)) - 1) & ~1u, 1, &b.plan) != 0) {
        fprintf(stderr, "usage: code_rate K M RUNS\n");
        return 2;
    }
    gf_gen_cauchy1_matrix(b.matrix, (int)(b.k + b.m), (int)b.k);
    ec_init_tables((int)b.k, (int)b.m, b.matrix + b.k * b.k, b.tables);
    for (unsigned i = 0; i < b.k + b.m; i++) {
        b.shards[i] = aligned_alloc(64, SHARD_BYTES);
        if (b.shards[i] == NULL)
            return 1;
        memset(b.shards[i], (int)i + 1, SHARD_BYTES);
    }
    b.out = aligned_alloc(64, SHARD_BYTES);
    if (b.out == NULL)
        return 1;
    double data = (double)ROUNDS * (double)SHARD_BYTES * b.k / 1e9, cells = (double)ROUNDS * (double)SHARD_BYTES / 1e9;
    for (int i = 0; i < runs; i++) {
        uint32_t ours = 0, theirs = 0;
        double a = data / encode(&b), c = data / encode_isal(&b), d = cells / sums(&b, false, &ours), e = cells / sums(&b, true, &theirs);
        printf("%.2f %.2f %.2f %.2f %.2f\n", a, c, d, e, data / decode(&b));
        if (ours != theirs || memcmp(b.out, b.shards[0], SHARD_BYTES) != 0) {
            fprintf(stderr, "code_rate: the results differ\n");
            return 1;
        }
    }
    return 0;
}
