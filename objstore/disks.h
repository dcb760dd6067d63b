/* The disks of a store: one directory each, with a volume in it. They fail alone:
 *
 *   left out ──opened──> in use ──a write, a sync or a look at it fails──> failed
 *      ^ └─tried again every DISKS_LOOK_MS                                    │
 *      └────────────────────────── the process is started again <─────────────┘
 *
 * A directory that cannot be opened, of several, is left out: the others serve. One that is in use is looked at now and
 * then (is it still there, with the same superblock?). A failed one takes nothing any more and is told to the metadata
 * service as down; what can still be read from it is. At least one must open for the store to start.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_DISKS_H
#define TARN_OBJSTORE_DISKS_H

#include "store.h"

#define DISKS_LOOK_MS 2000

/* Fills store->volumes. *ret_why: one sentence about the first that cannot be opened. Errors: those of volume_open()
 * and of options->claim, when none can; -E_INVAL: no directory, too many. */
int disks_open(struct store *store, const struct store_options *options, const char **ret_why);
/* Closes and frees all volumes; nobody uses them any more. After disks_unwatch(). */
void disks_close(struct store *store);
/* Looks at them from now on, and tries those that are left out. */
int disks_watch(struct store *store);
void disks_unwatch(struct store *store);

/* Who this node is, as its superblocks say: the id that the service gave (0: none yet) and the uuid it knows it by. */
uint32_t disks_node(const struct store *store, uint8_t ret_uuid[16]);
/* How many can be told as up. */
unsigned disks_working(const struct store *store);

#endif
