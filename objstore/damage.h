/* Damage found on one disk: which chunks have a cell that does not match its checksum, cannot be read, or lost its file. Found
 * by whoever reads (a client's GET, a copy, the look before a descriptor is handed over, the scrubber), told to the metadata
 * service with beats until one is answered (beat.c), which then sends a REPAIR task (repair.c). Kept in memory only: what is
 * damaged is found again. One entry a chunk: the repair looks at all of its cells anyway.
 * Threads: the io's; nothing here waits. */
#ifndef TARN_OBJSTORE_DAMAGE_H
#define TARN_OBJSTORE_DAMAGE_H

#include "index.h"

struct io;

#define DAMAGE_MAX 4096         /* chunks remembered: 300 KiB; what is past it is found again */
#define DAMAGE_AGAIN_MS 60000   /* what was told and is met again by a reader is told again after so long */
#define DAMAGE_TELL_MAX 256     /* told in one beat */

struct damage {
    struct list link; /* in damages.untold or .told */
    uint64_t chunk, generation, offset; /* offset: of the cell that was found first */
    uint64_t told_ms; /* 0 = not yet */
};
struct damages {
    struct io *io;
    struct map known;          /* chunk → struct damage */
    struct list untold, told;  /* oldest first */
    uint64_t cells;            /* met since the process started, repetitions counted */
    void (*news)(void *arg);   /* something is to be told; must not wait. NULL: nobody listens */
    void *arg;
};
void damages_init(struct damages *damages, struct io *io);
void damages_fini(struct damages *damages);
/* The cell does not match or cannot be read. A copy under way (CHUNK_PARTIAL) is not
 * counted on by anybody and not noted. The caller holds a reference. */
void damage_note(struct damages *damages, struct chunk *chunk, uint64_t cell);
/* Gone, or whole again. Unknown: nothing. */
void damage_forget(struct damages *damages, uint64_t chunk);
/* Up to `max` chunks that are to be told, oldest first; returns how many. They stay to be told until damages_told() with
 * the ids that were answered. */
size_t damages_untold(const struct damages *damages, struct damage *out, size_t max);
void damages_told(struct damages *damages, const struct damage *told, size_t n);

#endif
