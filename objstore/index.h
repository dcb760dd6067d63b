/* What a volume holds: the table of chunks in memory, and who may touch which cells of a chunk when.
 * index_apply() is the only place where a journal record changes a chunk: the living store and the
 * replay after a crash go through it alike. No I/O; waits only in chunk_lock(). */
#ifndef TARN_OBJSTORE_INDEX_H
#define TARN_OBJSTORE_INDEX_H

#include "layout.h"
#include "common/coll.h"
#include "common/fiber.h"

struct io_file;

struct chunk {
    uint64_t id, generation, length;
    uint32_t flags;           /* enum chunk_flags */
    uint32_t n_cells;         /* cells behind it are {0, 0} */
    uint32_t cap_cells;
    struct cell *cells;
    unsigned refs;            /* the table's and each user's */
    bool dead;                /* no longer in the table: users look it up again */
    bool verified;            /* every cell was read and right on this boot: verified.h */
    int broken;               /* a journaled write could not be carried to the file: reads say this */
    bool late;                /* a session that had ended wrote to it here: not served before the service has decided */
    struct list ranges;       /* struct range, in order of arrival */
    struct fiber_queue range_waiters;
    struct list dirty;        /* in index.dirty when changed since the last checkpoint */
    /* ---- the file; belongs to volume.c ---- */
    struct io_file *buffered, *direct;
    struct fiber_mutex opening;
    unsigned pins;            /* users of the open files */
    struct list lru;          /* in volume.open while a file is open */
    bool has_file;
    bool new_name;            /* the directory entry may not be on disk */
    uint64_t allocated;       /* bytes of the file that were asked from the file system */
    struct list unsynced;     /* in volume.unsynced: direct data since the last sync */
    struct list unflushed;    /* in volume.unflushed: any data since the last checkpoint */
};

struct index {
    struct map chunks;        /* id → struct chunk */
    struct list dirty;
    uint64_t dirty_bytes;     /* what the dirty ones take in a checkpoint, at least */
    struct writer tombstones; /* ids deleted since the last checkpoint */
    uint64_t bytes;           /* what all chunks take in a full checkpoint */
    void (*forget)(void *arg, struct chunk *chunk); /* last reference gone: closes the files */
    void *arg;
};
void index_init(struct index *index, void (*forget)(void *arg, struct chunk *chunk), void *arg);
void index_fini(struct index *index); /* frees all chunks; nobody else may hold one */

/* The chunk with one more reference, or NULL. */
struct chunk *index_get(struct index *index, uint64_t id);
/* The chunk, made when it is not there: an empty one that no checkpoint knows until a record makes
 * it real. Errors: -E_NOMEM. */
int index_get_or_make(struct index *index, uint64_t id, struct chunk **ret);
void chunk_unref(struct index *index, struct chunk *chunk);
/* Room for n cells, so that the following index_apply() cannot fail. */
int chunk_reserve(struct chunk *chunk, uint32_t n);
static inline struct cell chunk_cell(const struct chunk *chunk, uint64_t i)
{
    return i < chunk->n_cells ? chunk->cells[i] : (struct cell){0, 0};
}
/* A chunk that was made but never given content by a record is as good as absent. */
bool chunk_is_real(const struct chunk *chunk);
/* CRC32C over the checksums of the cells, little-endian: what sealed copies are compared by. */
uint32_t chunk_digest(const struct chunk *chunk);
uint32_t cell_digest(uint32_t digest, uint32_t crc); /* the digest with one more cell; begins with 0 */

/* Changes the table as the record says. Never fails when chunk_reserve() was done before.
 * RECORD_MARK changes nothing. Errors: -E_NOMEM (replay only). */
int index_apply(struct index *index, const struct record *record);
/* Appends what changed since the last call (full: everything) to `w` as index entries and forgets
 * the list; one instant. *ret_count: entries written. */
void index_dump(struct index *index, bool full, struct writer *w, uint64_t *ret_count);
/* One entry of an index segment into the table. */
int index_load(struct index *index, const struct index_entry *entry);
bool index_is_dirty(const struct index *index);

/* ---- ranges of cells: any number of readers or one writer per cell, first come first served ---- */
struct range {
    struct list link;
    uint32_t first, last; /* both included */
    bool write;
};
#define RANGE_ALL_FIRST 0
#define RANGE_ALL_LAST (CHUNK_CELLS_MAX - 1)
/* Waits for earlier conflicting ranges. 0 or -E_CANCELED, then nothing is held. The caller holds a
 * reference and looks at chunk->dead afterwards. */
int chunk_lock(struct chunk *chunk, struct range *range, uint32_t first, uint32_t last, bool write);
void chunk_unlock(struct chunk *chunk, struct range *range);

#endif
