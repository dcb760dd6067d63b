/* The log of a replica: entries in memory at once, on disk after wal_flush(); term and vote. The page is
 * docs/formats/wal.md. Knows nothing of Raft's rules beyond "a new entry at an old index drops what
 * stood there and after".
 * Threads: the io's thread. Calls marked (waits) are made from fibers; only one fiber flushes. */
#ifndef TARN_METADATA_WAL_H
#define TARN_METADATA_WAL_H

#include "common/base.h"
#include "common/bytes.h"
#include "common/io.h"

/* Makes a directory, its name durable too; success when it is there already. (waits) */
int wal_make_dir(struct io *io, const char *path);

struct wal;
struct wal_options {
    const char *dir;        /* made when absent; copied */
    uint64_t segment_bytes; /* 0 = 16 MiB; a multiple of 4096 */
    uint64_t cache_bytes;   /* entries kept in memory, 0 = 64 MiB */
};
/* Opens and recovers, or makes an empty log. (waits)
 * Errors: -E_CORRUPT after a log line naming file and offset; -E_IO, -E_NOSPC, -E_ACCES … */
int wal_open(struct io *io, const struct wal_options *options, struct wal **ret);
void wal_close(struct wal *wal); /* NULL allowed; waits for the fiber that makes the spare segment */

/* ---- term and vote ---- */
uint64_t wal_current_term(const struct wal *wal);
uint64_t wal_voted_for(const struct wal *wal);
int wal_set_vote(struct wal *wal, uint64_t term, uint64_t voted_for); /* durable on return (waits) */

/* ---- entries. Indexes are 1, 2, …; an empty log has last == first - 1 ---- */
uint64_t wal_first(const struct wal *wal);
uint64_t wal_last(const struct wal *wal);
uint64_t wal_bytes(const struct wal *wal); /* disk space of the live segments */
/* 0 when the entry is not in the log. */
uint64_t wal_term_of(const struct wal *wal, uint64_t index);
unsigned wal_type_of(const struct wal *wal, uint64_t index);
size_t wal_length_of(const struct wal *wal, uint64_t index);

/* Appends in memory at once; an index at or below the last drops that entry and all after it.
 * The data is copied. Errors: -E_INVAL a gap; -E_FBIG larger than a segment holds; -E_NOMEM. */
int wal_put(struct wal *wal, uint64_t index, uint64_t term, unsigned type, const void *data,
            size_t len);
bool wal_broken(const struct wal *wal);
bool wal_dirty(const struct wal *wal); /* something is not on disk yet */
/* Writes everything that is not on disk yet (waits). On success *ret_durable is the highest index up to
 * which what was written is still what the log holds; 0 when none of it is. Entries put meanwhile stay
 * dirty. On failure nothing counts as written. It may be tried again (a full disk
 * where the next segment should go) unless wal_broken(): a write itself failed, only a restart helps. */
int wal_flush(struct wal *wal, uint64_t *ret_durable);
/* Appends the entry's data to `out`, from memory or disk (may wait). -E_NOENT when it is not, or no
 * longer, in the log; -E_CORRUPT after a log line. */
int wal_read(struct wal *wal, uint64_t index, struct writer *out);

/* Forgets entries below `first` and lets go of segments that hold only such (waits). */
int wal_trim(struct wal *wal, uint64_t first);
/* Drops everything: the next entry is `next`. Durable on return (waits). No flush may be under way. */
int wal_reset(struct wal *wal, uint64_t next);

#endif
