/* The metadata service's formats on disk: vote, segment, group and entry of the log, header and tables
 * of a snapshot. The first byte says which. What is accepted is encoded again to the same bytes. */
#include "fuzz.h"

#include "common/check.h"
#include "common/crc.h"
#include "metadata/kv.h"
#include "metadata/snapshot.h"
#include "metadata/wal_format.h"

_Static_assert(SNAPSHOT_HEADER == WAL_BLOCK, "one buffer for all headers");

static void repair(uint8_t *block, size_t crc_at)
{
    uint32_t crc = crc32c(0, block, crc_at);
    for (unsigned i = 0; i < 4; i++)
        block[crc_at + i] = (uint8_t)(crc >> 8 * i);
}

static void try_header(unsigned kind, const uint8_t block[WAL_BLOCK])
{
    uint8_t again[WAL_BLOCK];
    struct wal_vote vote;
    struct wal_segment_header segment;
    struct wal_group group;
    struct snapshot_meta meta;
    if (kind == 0 && wal_vote_decode(block, &vote) == 0) {
        wal_vote_encode(&vote, again);
        CHECK(memcmp(block, again, sizeof again) == 0);
    } else if (kind == 1 && wal_segment_decode(block, &segment) == 0) {
        wal_segment_encode(&segment, again);
        CHECK(memcmp(block, again, sizeof again) == 0);
    } else if (kind == 2 && wal_group_decode(block, &group) == 0) {
        wal_group_encode(&group, again);
        CHECK(memcmp(block, again, WAL_GROUP_HEADER) == 0);
    } else if (kind == 4 && snapshot_decode(block, &meta) == 0) {
        CHECK(meta.n_servers >= 1 && meta.n_servers <= SNAPSHOT_SERVERS_MAX);
    }
}

static void try_entries(const uint8_t *data, size_t size)
{
    struct reader r = reader_init(data, size);
    struct wal_entry entry;
    while (reader_left(&r) > 0 && wal_entry_decode(&r, &entry) == 0)
        CHECK(entry.data == NULL || (entry.data >= data && entry.data + entry.len <= data + size));
}

struct source {
    const uint8_t *data;
    size_t left;
};

static int64_t source_read(void *arg, void *buf, size_t n)
{
    struct source *source = arg;
    n = MIN(n, source->left);
    memcpy(buf, source->data, n);
    source->data += n;
    source->left -= n;
    return (int64_t)n;
}

static void try_tables(const uint8_t *data, size_t size)
{
    struct kv *kv;
    CHECK(kv_mem_open(&kv) == 0);
    struct source source = {.data = data, .left = size};
    (void)kv_load(kv, source_read, &source); /* any answer but a crash */
    kv_close(kv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t crc_at[] = {32, 40, 0, 0, 48 + SNAPSHOT_SERVERS_MAX * 96};
    if (size < 1)
        return 0;
    unsigned kind = data[0] % 6;
    if (kind == 3)
        try_entries(data + 1, size - 1);
    else if (kind == 5)
        try_tables(data + 1, size - 1);
    if (kind == 3 || kind == 5)
        return 0;
    uint8_t block[WAL_BLOCK] = {0};
    memcpy(block, data + 1, MIN(size - 1, sizeof block));
    try_header(kind, block);
    if (crc_at[kind] != 0)
        repair(block, crc_at[kind]); /* otherwise hardly an input gets past the checksum */
    try_header(kind, block);
    return 0;
}
