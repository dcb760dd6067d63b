/* The volume's journal: two preallocated segments used in turn. A record is acknowledged when its
 * bytes are in the kernel (survives the process) or, on demand, on the disk (survives power loss);
 * many records share one write and one sync. Page: docs/formats/volume.md.
 *
 *      put ──> batch ──writer fiber──> segment file ──syncer fiber──> disk
 *
 * A failed write or sync leaves the journal `failed` for good: what the file then holds is not known,
 * so nothing more is acknowledged until the volume is opened again.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_JOURNAL_H
#define TARN_OBJSTORE_JOURNAL_H

#include "layout.h"
#include "common/fiber.h"
#include "common/io.h"

struct journal_hooks {
    /* Puts the file data that records written so far speak of on disk. May wait. *ret_any: there was any. */
    int (*before_sync)(void *arg, bool *ret_any);
    /* The active segment is running full: journal_roll() is wanted. Must not wait. */
    void (*want_roll)(void *arg);
    void *arg;
};

struct journal {
    struct io *io;
    struct journal_hooks hooks;
    uint8_t uuid[16];
    uint64_t bytes;               /* of one segment */
    struct io_file *files[2];
    uint64_t seq;                 /* active segment; its file is files[seq & 1] */
    uint64_t at;                  /* where in it the next record lands */
    uint64_t next_lsn;            /* from 1 */
    uint64_t written_lsn, synced_lsn, sync_wanted;
    uint64_t mark_due;            /* a MARK record for this lsn goes in front of the next record; 0 none */
    struct writer batch, flying;  /* collected; being written */
    uint64_t batch_at;            /* where the batch begins */
    unsigned applying[2];         /* records of the segment whose data is not yet in its chunk's file */
    bool rolling, closing;
    int failed;
    struct fiber_queue write_work, sync_work, done, room, applied;
    struct fiber_group fibers;
};

/* Makes the two files under dir, written full once so that later writes allocate nothing. */
int journal_format(struct io *io, const char *dir, const uint8_t uuid[16], uint64_t bytes);

/* Calls `each` for every valid record of segments behind `covered`, in order; `durable` says that the
 * record's file data is known to be on disk. Records borrow from *ret_memory[0..1], which the caller
 * frees later. *ret_seq and *ret_lsn: the last ones seen. Errors: those of reading, of `each`, and
 * -E_CORRUPT when a segment is missing in between. */
int journal_replay(struct io *io, const char *dir, const uint8_t uuid[16], uint64_t bytes, uint64_t covered,
                   int (*each)(void *arg, const struct record *record, bool durable), void *arg,
                   uint8_t *ret_memory[2], uint64_t *ret_seq, uint64_t *ret_lsn);

/* Opens for writing with a new segment `seq`; everything older must be in the index by now. */
int journal_open(struct io *io, const char *dir, const uint8_t uuid[16], uint64_t bytes, uint64_t seq,
                 uint64_t next_lsn, const struct journal_hooks *hooks, struct journal **ret);
/* Ends the fibers (waits for them) and frees; what was not written is lost. */
void journal_close(struct journal *journal);

/* Waits until a record of `size` bytes fits; it still fits until the fiber next waits. */
int journal_reserve(struct journal *journal, size_t size);
/* Adds the record (after journal_reserve() with its size, no wait between): sets lsn and seq in it.
 * -E_NOMEM leaves the journal failed. */
int journal_put(struct journal *journal, struct record *record);
/* A record with data counts as being applied from journal_put() to this call. */
void journal_applied(struct journal *journal, const struct record *record);
/* Waits until the record is written, or also on disk. */
int journal_commit(struct journal *journal, uint64_t lsn, bool sync);
/* Everything that was put so far, on disk. */
int journal_sync(struct journal *journal);

/* begin: no record is put any more, all are on disk, the next segment is active. Between begin and
 * end nobody else runs unless the caller waits. */
int journal_roll_begin(struct journal *journal);
void journal_roll_end(struct journal *journal);
/* From now on nothing is accepted (the files around the journal failed). */
void journal_fail(struct journal *journal, int err);
/* Waits until no record of the segment before the active one is being applied. */
int journal_wait_applied(struct journal *journal);

#endif
