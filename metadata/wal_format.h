/* Bytes of the log: headers of segments, groups and entries, and the vote. Mirror of
 * docs/formats/wal.md. Pure. */
#ifndef TARN_METADATA_WAL_FORMAT_H
#define TARN_METADATA_WAL_FORMAT_H

#include "common/base.h"
#include "common/bytes.h"

#define WAL_BLOCK 4096
#define WAL_VOTE_BYTES (2 * WAL_BLOCK)
#define WAL_GROUP_HEADER 64
#define WAL_ENTRY_HEADER 32
#define WAL_GROUP_MAX MIB(4) /* header, body and padding of one write */
#define WAL_GROUP_RESET 1u

struct wal_vote {
    uint64_t sequence, term, voted_for;
};
struct wal_segment_header {
    uint64_t number, salt, first_sequence, bytes;
};
struct wal_group {
    unsigned flags;
    uint64_t salt, sequence, first_index;
    uint32_t n_entries, body_len;
    uint32_t body_crc;
};
struct wal_entry {
    uint64_t index, term;
    uint32_t type, len;
    const uint8_t *data; /* borrowed */
};

/* Encoders fill exactly one block, one header, or append. Decoders: 0 or -E_CORRUPT. */
void wal_vote_encode(const struct wal_vote *vote, uint8_t out[WAL_BLOCK]);
int wal_vote_decode(const uint8_t in[WAL_BLOCK], struct wal_vote *ret);
void wal_segment_encode(const struct wal_segment_header *header, uint8_t out[WAL_BLOCK]);
int wal_segment_decode(const uint8_t in[WAL_BLOCK], struct wal_segment_header *ret);
void wal_group_encode(const struct wal_group *group, uint8_t out[WAL_GROUP_HEADER]);
int wal_group_decode(const uint8_t in[WAL_GROUP_HEADER], struct wal_group *ret);
size_t wal_entry_bytes(size_t data_len); /* on disk: header, data, padding */
void wal_entry_encode(const struct wal_entry *entry, uint8_t *out); /* wal_entry_bytes(len) bytes */
int wal_entry_decode(struct reader *r, struct wal_entry *ret);

#endif
