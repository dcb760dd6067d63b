/* Handing a sealed chunk's file to a process on the same machine: a read-only descriptor, or the path
 * for a bind mount. The chunk was read through and verified before its first handover on this boot and under this
 * generation (verified.h); the file is never written or reused afterwards (it is unlinked when the chunk goes,
 * so whoever holds it reads a consistent old version).
 *
 * Space comes back when the last descriptor is closed, so who holds one is remembered, and told when the chunk goes
 * (OP_FD_DROPPED on the connection that got it). That is cooperative: a process that does not listen keeps its version and
 * the disk its blocks. A connection that cannot be told is closed; its other end takes that as told for all.
 * Threads: the io's. */
#ifndef TARN_OBJSTORE_HANDOVER_H
#define TARN_OBJSTORE_HANDOVER_H

#include "store.h"
#include "object.pb-c.h"

/* Of one connection, 64 bytes each; past it the one given first is asked back. libtarn keeps 256 (STORE_FDS_MAX). */
#define HANDOVER_HELD_MAX 4096

/* Handler of OP_CHUNK_FD. -E_NOTSUP not on a unix socket (or in the simulator), -E_STALE not sealed or
 * another generation, -E_CORRUPT a cell does not match. With want_path the reply has the path and no
 * descriptor follows; the mount made of it is not asked back, it goes with its task. */
int handover_fd(struct store *store, struct rpc_request *request, const Tarn__ChunkFd *message);

/* volume_options.withdraw: the chunk goes from the volume, deleted or moved, or is damaged, and the holders of its file are told.
 * Does not wait. The caller holds cells of it, so no handover is under way. */
void handover_drop(void *store, const struct volume *volume, uint64_t chunk);

/* rpc_service.closed: what the connection was given is not asked back any more. */
void handover_closed(void *store, struct rpc_conn *conn);

struct handover;
struct handover *handover_create(void); /* NULL: no memory */
void handover_destroy(struct handover *handover); /* NULL allowed; after the servers have stopped */
/* Descriptors that were given and neither asked back nor gone with their connection. */
uint64_t handover_held(const struct handover *handover);

#endif
