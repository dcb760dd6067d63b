/* The store as a node of the cluster: joins with its persistent uuid, tells what it holds, beats, and
 * hands on the tasks that come with the answers and tells their results (tasks.h).
 * Finds the metadata service's leader by itself, following redirects.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_BEAT_H
#define TARN_OBJSTORE_BEAT_H

#include "store.h"

#define BEAT_CALL_TIMEOUT_MS 1500 /* the service keeps a beat for a second */
#define BEAT_PACE_MS 5           /* between two beats that were answered at once */
#define BEAT_RETRY_MS 200
#define BEAT_DONE_MAX 256        /* told in one beat */
#define BEAT_INVENTORY_PIECE 4096 /* chunks in one message: about 100 KiB */

/* There is a disk more than when it joined: it joins again. */
void beat_rejoin(struct beat *beat);
/* Something is to be told soon: a change of a fenced session has ended. */
void beat_tell(struct beat *beat);
/* The copy of this chunk is suspect; chunk->late goes when the service has decided about it. */
void beat_tell_late(struct beat *beat, uint64_t chunk);
int beat_start(struct store *store, struct beat **ret); /* -E_NOMEM, -E_BUSY */
void beat_stop(struct beat *beat); /* waits for the tasks under way, frees */

#endif
