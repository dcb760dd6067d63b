/* Carrying a change on to the other members of a chunk while it is made here. As a star every other
 * member is sent to at once; as a chain the next one is sent to and passes on to the rest.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_FORWARD_H
#define TARN_OBJSTORE_FORWARD_H

#include "store.h"
#include "object.pb-c.h"

#define FORWARD_MEMBERS_MAX 8 /* policy allows six copies */
/* What one more member in a chain may take; the client waits 15 s for all of it. */
#define FORWARD_TIMEOUT_MS 3000
#define FORWARD_STEP_MS 1500

union forward_message {
    ProtobufCMessage base;
    Tarn__ChunkPut put;
    Tarn__ChunkSync sync;
    Tarn__ChunkTruncate truncate;
    Tarn__ChunkClone clone;
};
struct forward_item {
    struct forward *forward;
    union forward_message message;
    Tarn__Member *const *members; /* the receiver and those behind it */
    size_t n_members;
    int err;
    uint32_t failed_disk;
    bool full; /* why it failed */
    char why[160];
};
struct forward {
    struct store *store;
    unsigned op;
    const struct iovec *payload;
    uint64_t epoch;
    unsigned n_items;
    struct forward_item items[FORWARD_MEMBERS_MAX];
    uint32_t disks[FORWARD_MEMBERS_MAX]; /* that have answered, this store's first, */
    uint64_t lives[FORWARD_MEMBERS_MAX]; /* and the lives of their volumes */
    size_t n_lives;
    struct fiber_group group;
};
/* Starts sending `message` (of the op's type) to members[1..]; members[0] is this store, with `volume`. -E_INVAL:
 * too many members; then nothing was sent. The forward lives until forward_wait() has returned. */
int forward_start(struct forward *forward, struct store *store, const struct volume *volume, unsigned op, const void *message,
                  Tarn__Member *const *members, size_t n_members, bool chain, uint64_t epoch,
                  const struct iovec *payload);
/* Waits for all. *reply tells the members' lives and borrows from *forward. 0 with reply->failed_disk 0: everybody has it. 0 with failed_disk: that member did not
 * take it. -E_STALE, -E_BUSY …: a member refused the request itself. */
int forward_wait(struct forward *forward, Tarn__ChunkPutReply *reply);

#endif
