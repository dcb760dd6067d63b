/* The volume's on-disk structures: encode and decode of the superblock, journal segments and
 * records, index segments. Mirror of docs/formats/volume.md; everything is little-endian. Pure.
 *
 * A decoder never trusts what it reads: it stays inside [data, data + n), refuses what is out of
 * bounds or fails its checksum with -E_CORRUPT (-E_VERSION for another format), and leaves *ret
 * untouched then. */
#ifndef TARN_OBJSTORE_LAYOUT_H
#define TARN_OBJSTORE_LAYOUT_H

#include "common/base.h"
#include "common/bytes.h"
#include "common/crc.h"
#include "common/frame.h"

#define VOLUME_VERSION 1
#define BLOCK_BYTES 4096u
#define CHUNK_BYTES_MAX MIB(64)
#define CHUNK_CELLS_MAX (CHUNK_BYTES_MAX / CELL_BYTES) /* 1024 */

/* One cell: its first `valid` bytes are in the chunk's file and have the checksum `crc`; the bytes
 * between `valid` and the chunk's length (or the cell's end) read as zeros, whatever the file holds. */
struct cell {
    uint32_t crc, valid;
};

/* ---- superblock: the file "superblock", one block ---- */
struct superblock {
    uint64_t cluster_id;
    uint8_t uuid[16];       /* made by chance when the volume is made */
    uint32_t node, disk;    /* 0 until the metadata service has given them */
    uint64_t created_ns;
    uint64_t journal_bytes; /* of one of the two segments */
    uint8_t node_uuid[16];  /* by which the service knows the node; zeros: the volume's, it was the node's only one */
};
void superblock_encode(const struct superblock *sb, uint8_t out[BLOCK_BYTES]);
int superblock_decode(const uint8_t *data, size_t n, struct superblock *ret);

/* ---- where the scrubber is: the file "scrub", one block ---- */
struct scrub_state {
    uint8_t uuid[16];
    uint64_t next;       /* chunks with smaller ids have had their turn in this pass */
    uint64_t began_ns, last_end_ns; /* wall clock: this pass; the end of the last complete one, 0 = none yet */
    uint64_t done_chunks, done_bytes;
    uint64_t found_chunks, found_cells; /* damaged, in this pass */
    uint64_t last_chunks, last_cells;   /* … in the last complete one */
    bool asked;          /* by an operator: the pass is not paced by days */
};
void scrub_state_encode(const struct scrub_state *state, uint8_t out[BLOCK_BYTES]);
int scrub_state_decode(const uint8_t *data, size_t n, struct scrub_state *ret);

/* ---- journal: the files "journal-0" and "journal-1", a header block and records ---- */
struct segment_header {
    uint8_t uuid[16];
    uint64_t seq;       /* file number is seq & 1; grows by one with each reuse */
    uint64_t first_lsn; /* everything before it was on disk when this segment was begun */
};
void segment_encode(const struct segment_header *header, uint8_t out[BLOCK_BYTES]);
int segment_decode(const uint8_t *data, size_t n, struct segment_header *ret);

enum record_type {
    RECORD_WRITE = 1,    /* cells replace; length grows to `length` when it was smaller */
    RECORD_TRUNCATE = 2, /* length is `length`; cells behind it are dropped, then cells replace */
    RECORD_SEAL = 3,     /* like TRUNCATE with every cell given: the final content */
    RECORD_STATE = 4,    /* generation and flags only */
    RECORD_DELETE = 5,   /* the chunk is gone */
    RECORD_MARK = 6      /* no chunk: records up to LSN `length` and their file data are on disk */
};
enum chunk_flags {
    CHUNK_SEALED = 1u << 0,  /* immutable, the file has exactly the chunk's bytes */
    CHUNK_PARTIAL = 1u << 1, /* a copy under way: not readable, dropped at the next open */
    CHUNK_EXPOSED = 1u << 2, /* a descriptor or the path was given away: the file is never reused */
    CHUNK_FLAGS_ALL = 7u
};

/* A record to write or as read. */
struct record {
    enum record_type type;
    uint32_t flags;            /* enum chunk_flags after this record */
    uint64_t lsn, seq;
    uint64_t chunk, generation, length;
    uint32_t first_cell, n_cells;
    const struct cell *cells;  /* to write */
    const uint8_t *cells_raw;  /* as read: use record_cell() */
    uint64_t data_offset;      /* chunk offset of the data that travels in the record */
    uint32_t data_zeros;       /* to write: zeros in front of data, counted in data_len */
    uint32_t data_len;
    const uint8_t *data;
};
#define RECORD_HEADER_BYTES 80u
/* The largest write (a frame's payload) and the zeros of one cell in front of it. */
#define RECORD_DATA_MAX (FRAME_PAYLOAD_MAX + CELL_BYTES)
#define RECORD_BYTES_MAX (RECORD_HEADER_BYTES + 8 * CHUNK_CELLS_MAX + RECORD_DATA_MAX + 8)
size_t record_size(const struct record *record); /* on disk, a multiple of 8 */
void record_encode(struct writer *w, const struct record *record);
/* The record at the start of data. *ret borrows from data. */
int record_decode(const uint8_t *data, size_t n, struct record *ret, size_t *ret_size);
struct cell record_cell(const struct record *record, uint32_t i);

/* ---- index segments: files "index-%016x", a header, one entry per chunk, a footer ---- */
struct index_header {
    uint8_t uuid[16];
    uint64_t number;  /* of the file; later ones override earlier ones */
    uint64_t covered; /* journal segments up to this seq are contained */
    bool full;        /* holds every chunk: earlier files do not matter */
};
#define INDEX_HEADER_BYTES 64u
#define INDEX_ENTRY_BYTES 40u
#define INDEX_ENTRY_BYTES_MAX (INDEX_ENTRY_BYTES + 8 * CHUNK_CELLS_MAX)
#define INDEX_FOOTER_BYTES 24u
struct index_entry {
    uint64_t chunk, generation, length;
    uint32_t flags;
    bool dead; /* the chunk was deleted */
    uint32_t n_cells;
    const struct cell *cells;
    const uint8_t *cells_raw;
};
void index_header_encode(const struct index_header *header, struct writer *w);
int index_header_decode(const uint8_t *data, size_t n, struct index_header *ret);
void index_entry_encode(struct writer *w, const struct index_entry *entry);
/* *ret_size is how much was used. At the footer: *ret_size is INDEX_FOOTER_BYTES, *ret_end is true
 * and *ret_count says how many entries there must have been. */
int index_entry_decode(const uint8_t *data, size_t n, struct index_entry *ret, size_t *ret_size,
                       bool *ret_end, uint64_t *ret_count);
struct cell index_entry_cell(const struct index_entry *entry, uint32_t i);
void index_footer_encode(struct writer *w, uint64_t number, uint64_t count);

#endif
