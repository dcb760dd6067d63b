/* A change of a chunk between its arrival and its answer: is there contact with the metadata service, is its session alive,
 * and, when the bytes are on this disk, was that still so? X1-X5 in docs/invariants.md.
 *
 *   change_begin ─ hold the cells ─ change_may_go ─ bytes ─ change_verdict ─ release the cells ─ change_end
 *
 * A process that is stopped between change_may_go() and its bytes wakes up when others may have gone on without it. The
 * verdict notices: it waits, with the cells held, until the service has said what it missed. Bytes that came too late
 * make the copy suspect (it is not served, the service lets it leave when there is another one).
 * Threads: the io's, from fibers. */
#ifndef TARN_OBJSTORE_CHANGE_H
#define TARN_OBJSTORE_CHANGE_H

#include "store.h"

struct change {
    struct store *store;
    struct fence_op op;
};
/* Errors: those of store_may_order() and fences_enter(), answered with words; then there is no change to end. */
int change_begin(struct change *change, struct store *store, struct rpc_request *request, uint64_t session, bool forwarded);
/* With the cells held, before anything is sent on or done. Errors as above, -E_BUSY also for a suspect copy. */
int change_may_go(const struct change *change, const struct chunk *chunk);
/* After the bytes, with the cells still held. `done`: something may have been written. 0: the change counts. -E_NO_SESSION: it came
 * too late; when it was done the copy is suspect from now on. -E_CANCELED: the process stops. */
int change_verdict(struct change *change, struct chunk *chunk, bool done);
void change_end(struct change *change);

#endif
