/* What a member of an open chunk holds when it leaves lacks only what was written since: it is kept, set aside at its store
 * (nobody reads it), and when the chunk is sealed a COPY to that disk brings it up to date instead of filling it anew (C26).
 * Threads: the transaction's. */
#ifndef TARN_METADATA_HEAL_KEPT_H
#define TARN_METADATA_HEAL_KEPT_H

#include "heal_impl.h"

/* The member leaves the chunk: chunk_replica_drop(), but what it holds stays as long as the chunk lacks copies without it.
 * The chunk's generation has grown already (C2). Not yet saved. */
int heal_leave(struct tables *t, struct chunk *chunk, unsigned index);
bool heal_keeps(const struct chunk *chunk); /* something is kept for it */
/* Of a sealed chunk: gives out COPY to disks that hold an older version while it lacks copies, and DELETE when it lacks none.
 * *ret_wait: it lacks copies that such a disk, which is busy or away for a moment, will give. Not yet saved. */
int heal_kept(struct healer *h, struct chunk *chunk, bool may_add, bool *ret_changed, bool *ret_wait);

#endif
