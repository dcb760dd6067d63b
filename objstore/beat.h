/* The store as a node of the cluster: joins with its persistent uuid, tells what it holds, beats, and
 * carries out the tasks that come with the answers (delete, seal, copy). Every task may come again.
 * Finds the metadata service's leader by itself, following redirects.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_BEAT_H
#define TARN_OBJSTORE_BEAT_H

#include "store.h"

#define BEAT_INTERVAL_MS 1000    /* until the service says otherwise: five beats in the death time */
#define BEAT_CALL_TIMEOUT_MS 1500
#define BEAT_RETRY_MS 200
#define BEAT_TASKS_MAX 64        /* under way; more come again with a later beat */
#define BEAT_COPIES_MAX 4        /* of them copies: each moves up to 64 MiB */
#define BEAT_DONE_MAX 256        /* told in one beat */
#define BEAT_INVENTORY_PIECE 4096 /* chunks in one message: about 100 KiB */

int beat_start(struct store *store, struct beat **ret); /* -E_NOMEM, -E_BUSY */
void beat_stop(struct beat *beat); /* waits for the tasks under way, frees */

#endif
