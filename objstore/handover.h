/* Handing a sealed chunk's file to a process on the same machine: a read-only descriptor, or the path
 * for a bind mount. The chunk was read through and verified before its first handover since the store
 * was started; the file is never written or reused afterwards (it is unlinked when the chunk goes, so
 * whoever holds it reads a consistent old version). */
#ifndef TARN_OBJSTORE_HANDOVER_H
#define TARN_OBJSTORE_HANDOVER_H

#include "store.h"
#include "object.pb-c.h"

/* Handler of OP_CHUNK_FD. -E_NOTSUP not on a unix socket (or in the simulator), -E_STALE not sealed or
 * another generation, -E_CORRUPT a cell does not match. With want_path the reply has the path and no
 * descriptor follows. */
int handover_fd(struct store *store, struct rpc_request *request, const Tarn__ChunkFd *message);

#endif
