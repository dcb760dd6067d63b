/* Damaged copies: what stores found to differ from its checksums, or cannot read. Such a copy stays in its chunk's row with
 * REPLICA_DAMAGED: its good cells may be the only ones there are. It does not count as live, so the level of redundancy is
 * true from the moment it is known; its store is asked to REPAIR it, cell by cell from the others (of a coded chunk: from its group), in place. What nobody
 * has any more stays known as damaged and is told with the file's name. Rules W1-W5 in docs/invariants.md.
 *
 *   report ─▶ DAMAGED, REPAIR asked ─▶ done: whole again, the flag goes
 *                     ▲                └▶ not possible now: again later; copies elsewhere are made meanwhile (heal.c), and
 *                     └── due ◀──────────    when there are enough of them this one leaves
 *
 * Threads: the transaction's. */
#ifndef TARN_METADATA_DAMAGE_H
#define TARN_METADATA_DAMAGE_H

#include "tables.h"

struct chunk;

/* One copy. Key: TABLE_DAMAGED, DAMAGE_OF, chunk, disk; and in the order of times TABLE_DAMAGED, DAMAGE_DUE, due, chunk, disk. */
enum damage_room { DAMAGE_OF = 1, DAMAGE_DUE = 2 };
struct damage_row {
    uint64_t chunk; /* from the key */
    uint32_t disk;  /* … */
    uint64_t since_ns, offset; /* when it was reported first, and for which byte of the chunk */
    uint64_t due_ns; /* the REPAIR is asked (again) then */
    uint64_t task;   /* asked and not answered; 0 = none */
    uint64_t bytes;  /* still wrong after the last try */
    uint32_t tries;
    bool nobody;     /* in the last try every source answered, and none had the bytes */
};
void damage_row_encode(const struct damage_row *row, struct writer *w);
int damage_row_decode(uint64_t chunk, uint32_t disk, const void *data, size_t n, struct damage_row *ret);
struct key damage_key(uint64_t chunk, uint32_t disk);
struct key damage_due_key(const struct damage_row *row);

/* A store's report. Of a copy that the tables do not have there, or that is known: nothing. */
int damage_report(struct tables *t, uint32_t node, const Tarn__Damage *damage);
/* The answer to a REPAIR of chunk->replicas[index]; changes *chunk, not yet saved. */
int damage_done(struct tables *t, struct chunk *chunk, unsigned index, const Tarn__ChunkTaskDone *done);
/* Keeps the rows in step with the flags: called by chunk_save() with the stored row and the new one. */
int damage_rows(struct tables *t, const struct chunk *old, const struct chunk *chunk);
/* May the replica leave (C4)? Only when another ready one stays, and when this one is whole one that is whole, too. */
bool damage_may_lose(const struct chunk *chunk, unsigned index);

/* What is due of repairs; at most DAMAGE_STEP a step. */
#define DAMAGE_STEP 64
int damage_step(struct tables *t);
bool damage_due(struct tables *t, uint64_t now);

/* What to tell an operator. */
#define DAMAGE_FILES_MAX 10     /* named */
#define DAMAGE_ROWS_LOOK 10000  /* counted; with more damaged copies the numbers are "at least" */
#define DAMAGE_PATH_MAX 1024
struct damage_summary {
    uint64_t chunks;    /* with a damaged copy */
    uint64_t repairing; /* of them without a live copy or group, and nobody has said that the bytes are gone */
    uint64_t lost;      /* of them with bytes that no copy has any more, and no group gives back */
    uint64_t bytes;     /* lost ones, at least */
    size_t n_files;     /* with lost bytes, */
    char *files[DAMAGE_FILES_MAX]; /* by path; owned */
};
void damage_summary_fini(struct damage_summary *summary);
int damage_summarize(struct tables *t, struct damage_summary *ret);
/* As a message that borrows from the summary and from `files` (DAMAGE_FILES_MAX of them). */
void damage_message(const struct damage_summary *summary, ProtobufCBinaryData *files, Tarn__Damages *ret);

#endif
