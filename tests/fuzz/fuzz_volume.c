/* Superblock, journal segment, journal records, index segment, the file `verified`. */
#include "fuzz.h"

#include "common/check.h"
#include "common/crc.h"
#include "objstore/layout.h"
#include "objstore/verified.h"

#define TRY_BYTES_MAX 20000

static void put_crc(uint8_t *out, const uint8_t *from, size_t n)
{
    uint32_t crc = crc32c(0, from, n);
    for (unsigned i = 0; i < 4; i++)
        out[i] = (uint8_t)(crc >> 8 * i);
}

static void try_record(const uint8_t *data, size_t n)
{
    struct record record;
    size_t size;
    if (record_decode(data, n, &record, &size) != 0)
        return;
    CHECK(size <= n && size == record_size(&record));
    CHECK(record.first_cell + record.n_cells <= CHUNK_CELLS_MAX);
    CHECK(record.data_offset + record.data_len <= CHUNK_BYTES_MAX);
    for (uint32_t i = 0; i < record.n_cells; i++)
        CHECK(record_cell(&record, i).valid <= CELL_BYTES);
}

static void try_entry(const uint8_t *data, size_t n)
{
    struct index_entry entry;
    size_t size;
    bool end;
    uint64_t count;
    if (index_entry_decode(data, n, &entry, &size, &end, &count) != 0)
        return;
    CHECK(size <= n && size > 0);
    for (uint32_t i = 0; !end && i < entry.n_cells; i++)
        CHECK(index_entry_cell(&entry, i).valid <= CELL_BYTES);
}

static void try_block(const uint8_t *data, size_t n)
{
    static uint8_t block[BLOCK_BYTES];
    struct superblock super;
    struct segment_header segment;
    struct index_header index;
    struct scrub_state scrub;
    memset(block, 0, sizeof block);
    memcpy(block, data, MIN(n, sizeof block - 4));
    put_crc(block + BLOCK_BYTES - 4, block, BLOCK_BYTES - 4);
    (void)superblock_decode(block, sizeof block, &super);
    (void)segment_decode(block, sizeof block, &segment);
    (void)scrub_state_decode(block, sizeof block, &scrub);
    put_crc(block + INDEX_HEADER_BYTES - 4, block, INDEX_HEADER_BYTES - 4);
    (void)index_header_decode(block, INDEX_HEADER_BYTES, &index);
}

static void try_verified(const uint8_t *data, size_t n)
{
    uint8_t copy[VERIFIED_HEADER_BYTES] = {0};
    struct verified_header header;
    struct verified_record record;
    (void)verified_header_decode(data, n, &header);
    (void)verified_record_decode(data, n, &record);
    memcpy(copy, data, MIN(n, sizeof copy - 4));
    put_crc(copy + sizeof copy - 4, copy, sizeof copy - 4);
    if (verified_header_decode(copy, sizeof copy, &header) == 0)
        CHECK(strlen(header.boot) < VERIFIED_BOOT_MAX);
    put_crc(copy, copy + 4, VERIFIED_RECORD_BYTES - 4);
    if (verified_record_decode(copy, VERIFIED_RECORD_BYTES, &record) == 0)
        CHECK(record.kind == VERIFIED_RIGHT || record.kind == VERIFIED_GONE);
}

/* Also with the checksums made right: otherwise hardly an input gets past them. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static uint8_t copy[TRY_BYTES_MAX];
    try_record(data, n);
    try_entry(data, n);
    try_block(data, n);
    try_verified(data, n);
    if (n < INDEX_ENTRY_BYTES || n > sizeof copy)
        return 0;
    memcpy(copy, data, n);
    put_crc(copy + 4, copy + 8, n - 8);
    try_record(copy, n);
    uint64_t cells = copy[36] | (uint64_t)copy[37] << 8;
    size_t covered = INDEX_ENTRY_BYTES + 8 * cells;
    put_crc(copy + 4, copy + 8, MIN(n, covered) - 8);
    try_entry(copy, n);
    return 0;
}
