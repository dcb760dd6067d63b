/* A piece of background work: copying, building, verifying, packing, scrubbing. Its windows ask for their turn here, so
 * that clients come first, and learn here that the work is not wanted any more. How fast it may go: pace.h.
 * Threads: the io's; background_take() is called from fibers. */
#ifndef TARN_OBJSTORE_BACKGROUND_H
#define TARN_OBJSTORE_BACKGROUND_H

#include "store.h"
#include "object.pb-c.h"

#define BACKGROUND_WINDOW_BYTES MIB(1) /* read or written at a time; a chunk waits so long for its other users */

struct background {
    struct store *store;
    struct volume *volume; /* the disk it is done on */
    bool urgent;    /* data is in danger: before all other such work */
    bool cancelled; /* set by whoever does not want it any more */
};
/* Waits until `bytes` more may be read or written here. 0 or -E_CANCELED. */
int background_take(struct background *background, uint64_t bytes);
/* What requests to other stores say about themselves. */
static inline Tarn__StoreWork background_work(const struct background *background)
{
    return background->urgent ? TARN__STORE_WORK__WORK_URGENT : TARN__STORE_WORK__WORK_BACKGROUND;
}
/* For a request that another store makes for its own background work: waits likewise, at most `wait_ms`, then goes on. */
int background_yield(struct store *store, uint64_t bytes, bool urgent, uint64_t wait_ms);

#endif
