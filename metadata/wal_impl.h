/* What the files of the log share (wal*.c only). */
#ifndef TARN_METADATA_WAL_IMPL_H
#define TARN_METADATA_WAL_IMPL_H

#include "wal.h"
#include "wal_format.h"
#include "common/coll.h"
#include "common/fiber.h"

#define WAL_PATH_MAX 512

struct wal_segment {
    struct list link; /* in wal.segments, oldest first */
    struct wal_segment_header header;
    struct io_file *file;
    uint64_t max_index; /* of any entry ever written into it */
    unsigned readers;   /* fibers reading from it: it may not be recycled */
};

struct wal_slot {
    uint64_t term;
    uint64_t put; /* number of the wal_put() that made it: tells an entry from its replacement */
    struct wal_segment *segment; /* NULL until on disk */
    uint8_t *data;               /* NULL when only on disk */
    uint32_t offset;             /* of the entry header in the segment */
    uint32_t len;
    uint32_t type;
};

struct wal {
    struct io *io;
    char dir[WAL_PATH_MAX - 64];
    uint64_t segment_bytes, cache_bytes_max;

    /* vote */
    struct io_file *vote_file;
    struct wal_vote vote;

    /* entries: slot of index i is slots[(head + i - first) % cap] */
    struct wal_slot *slots;
    size_t head, cap;
    uint64_t first, last;
    uint64_t next_put;
    uint64_t dirty_from;  /* entries from here on are not on disk */
    uint64_t cache_first; /* entries below have no data in memory */
    uint64_t cached_bytes;

    /* segments */
    struct list segments;
    uint64_t offset;   /* where the next group goes in the newest segment */
    uint64_t sequence; /* of the next group */
    uint8_t *buffer;   /* one group, aligned */
    int broken;        /* a group write failed: what is on disk there is not known until a restart */
    struct fiber_mutex files; /* names and the list of segments change under it */

    /* the spare */
    bool spare_ready, spare_making;
    struct fiber_group making;
};

struct wal_slot *wal_slot(const struct wal *wal, uint64_t index); /* NULL when not in the log */
/* Appends at last + 1; data is copied. */
int wal_slot_append(struct wal *wal, uint64_t term, unsigned type, const void *data, size_t len);
void wal_slots_drop_from(struct wal *wal, uint64_t index); /* that one and all after it */
void wal_slots_drop_below(struct wal *wal, uint64_t index);
void wal_slots_reset(struct wal *wal, uint64_t next);
void wal_cache_trim(struct wal *wal);

void wal_path(const struct wal *wal, char out[WAL_PATH_MAX], const char *name);
void wal_segment_path(const struct wal *wal, char out[WAL_PATH_MAX], uint64_t number);
/* Opens for durable aligned writes; without O_DIRECT where the file system has none. */
int wal_file_open(struct io *io, const char *path, int flags, struct io_file **ret);
void *wal_aligned(size_t bytes); /* zeroed, 4096-aligned; free() */
void wal_segment_free(struct wal_segment *segment);

/* wal_segment.c */
int wal_segment_switch(struct wal *wal);
int wal_segments_trim(struct wal *wal);
/* wal_recover.c */
int wal_recover(struct wal *wal);

#endif
