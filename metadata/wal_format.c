/* See wal_format.h. Fields are placed by offset: the tables of the page, line by line. */
#include "wal_format.h"
#include "common/crc.h"
#include "common/err.h"
#include <endian.h>

#define VOTE_MAGIC 0x544f5654u
#define SEGMENT_MAGIC 0x47535754u
#define GROUP_MAGIC 0x52475754u
#define VERSION 1

static void put16(uint8_t *at, uint16_t v)
{
    v = htole16(v);
    memcpy(at, &v, sizeof v);
}

static void put32(uint8_t *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof v);
}

static void put64(uint8_t *at, uint64_t v)
{
    v = htole64(v);
    memcpy(at, &v, sizeof v);
}

static bool all_zero(const uint8_t *at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (at[i] != 0)
            return false;
    return true;
}

void wal_vote_encode(const struct wal_vote *vote, uint8_t out[WAL_BLOCK])
{
    memset(out, 0, WAL_BLOCK);
    put32(out, VOTE_MAGIC);
    put32(out + 4, VERSION);
    put64(out + 8, vote->sequence);
    put64(out + 16, vote->term);
    put64(out + 24, vote->voted_for);
    put32(out + 32, crc32c(0, out, 32));
}

int wal_vote_decode(const uint8_t in[WAL_BLOCK], struct wal_vote *ret)
{
    struct reader r = reader_init(in, WAL_BLOCK);
    uint32_t magic = reader_u32(&r), version = reader_u32(&r);
    struct wal_vote vote = {.sequence = reader_u64(&r)};
    vote.term = reader_u64(&r);
    vote.voted_for = reader_u64(&r);
    if (magic != VOTE_MAGIC || version != VERSION || reader_u32(&r) != crc32c(0, in, 32) ||
        !all_zero(in + 36, WAL_BLOCK - 36))
        return -E_CORRUPT;
    *ret = vote;
    return 0;
}

void wal_segment_encode(const struct wal_segment_header *header, uint8_t out[WAL_BLOCK])
{
    memset(out, 0, WAL_BLOCK);
    put32(out, SEGMENT_MAGIC);
    put32(out + 4, VERSION);
    put64(out + 8, header->number);
    put64(out + 16, header->salt);
    put64(out + 24, header->first_sequence);
    put64(out + 32, header->bytes);
    put32(out + 40, crc32c(0, out, 40));
}

int wal_segment_decode(const uint8_t in[WAL_BLOCK], struct wal_segment_header *ret)
{
    struct reader r = reader_init(in, WAL_BLOCK);
    uint32_t magic = reader_u32(&r), version = reader_u32(&r);
    struct wal_segment_header header = {.number = reader_u64(&r)};
    header.salt = reader_u64(&r);
    header.first_sequence = reader_u64(&r);
    header.bytes = reader_u64(&r);
    if (magic != SEGMENT_MAGIC || version != VERSION || reader_u32(&r) != crc32c(0, in, 40) ||
        !all_zero(in + 44, WAL_BLOCK - 44))
        return -E_CORRUPT;
    *ret = header;
    return 0;
}

void wal_group_encode(const struct wal_group *group, uint8_t out[WAL_GROUP_HEADER])
{
    memset(out, 0, WAL_GROUP_HEADER);
    put32(out, GROUP_MAGIC);
    put16(out + 4, VERSION);
    put16(out + 6, (uint16_t)group->flags);
    put32(out + 12, group->body_crc);
    put64(out + 16, group->salt);
    put64(out + 24, group->sequence);
    put64(out + 32, group->first_index);
    put32(out + 40, group->n_entries);
    put32(out + 44, group->body_len);
    put32(out + 8, crc32c(0, out, WAL_GROUP_HEADER));
}

int wal_group_decode(const uint8_t in[WAL_GROUP_HEADER], struct wal_group *ret)
{
    struct reader r = reader_init(in, WAL_GROUP_HEADER);
    uint32_t magic = reader_u32(&r);
    uint16_t version = reader_u16(&r);
    struct wal_group group = {.flags = reader_u16(&r)};
    uint32_t crc = reader_u32(&r);
    group.body_crc = reader_u32(&r);
    group.salt = reader_u64(&r);
    group.sequence = reader_u64(&r);
    group.first_index = reader_u64(&r);
    group.n_entries = reader_u32(&r);
    group.body_len = reader_u32(&r);
    uint8_t copy[WAL_GROUP_HEADER];
    memcpy(copy, in, sizeof copy);
    put32(copy + 8, 0);
    if (magic != GROUP_MAGIC || version != VERSION || crc != crc32c(0, copy, sizeof copy) ||
        (group.flags & ~WAL_GROUP_RESET) != 0 || !all_zero(in + 48, 16) || group.first_index == 0 ||
        group.body_len > WAL_GROUP_MAX - WAL_GROUP_HEADER)
        return -E_CORRUPT;
    *ret = group;
    return 0;
}

size_t wal_entry_bytes(size_t data_len)
{
    return WAL_ENTRY_HEADER + (data_len + 7) / 8 * 8;
}

void wal_entry_encode(const struct wal_entry *entry, uint8_t *out)
{
    memset(out, 0, WAL_ENTRY_HEADER);
    put64(out, entry->index);
    put64(out + 8, entry->term);
    put32(out + 16, entry->type);
    put32(out + 20, entry->len);
    put32(out + 24, crc32c(crc32c(0, out, 24), entry->data, entry->len));
    if (entry->len > 0)
        memcpy(out + WAL_ENTRY_HEADER, entry->data, entry->len);
    size_t end = WAL_ENTRY_HEADER + entry->len;
    memset(out + end, 0, wal_entry_bytes(entry->len) - end);
}

int wal_entry_decode(struct reader *r, struct wal_entry *ret)
{
    const uint8_t *head = r->at;
    struct wal_entry entry = {.index = reader_u64(r)};
    entry.term = reader_u64(r);
    entry.type = reader_u32(r);
    entry.len = reader_u32(r);
    uint32_t crc = reader_u32(r), zero = reader_u32(r);
    entry.data = reader_bytes(r, entry.len);
    const uint8_t *pad = reader_bytes(r, wal_entry_bytes(entry.len) - WAL_ENTRY_HEADER - entry.len);
    if (r->failed || zero != 0 || entry.index == 0 || entry.term == 0 ||
        crc != crc32c(crc32c(0, head, 24), entry.data, entry.len) ||
        !all_zero(pad, wal_entry_bytes(entry.len) - WAL_ENTRY_HEADER - entry.len))
        return -E_CORRUPT;
    *ret = entry;
    return 0;
}
