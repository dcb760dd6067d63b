/* Keeps the resident memory of the process below a setting. Most of it are pages of the tables' map, which
 * the kernel has in its cache in any case: giving them back costs a minor fault at the next use. The rest is
 * bounded by itself; the sum of all bounds, each written where it belongs:
 *     rows in front of the tables (KV_CACHE_BYTES_MAX)              4 MiB, and one group of commands
 *     tail of the log in memory (wal_options.cache_bytes)          64 MiB, and 64 bytes an entry between two snapshots
 *     changes on their way (PROPOSALS_BYTES_MAX)                  128 MiB
 *     requests being handled (RPC_SERVER_BYTES_MAX)               256 MiB
 *     stacks of fibers kept (CORE_STACKS_KEPT)                      8 MiB
 *     answers in parts (RPC_PARTS_AHEAD of 1 MiB)                   4 MiB for each caller that reads slowly
 *     sessions, nodes, leases: below 1 KiB each
 * Threads: the io's. */
#ifndef TARN_METADATA_METAD_MEMORY_H
#define TARN_METADATA_METAD_MEMORY_H

#include "replica.h"

#define METAD_MEMORY_DEFAULT GIB(1)
#define METAD_MEMORY_MIN MIB(64)

/* Looks ten times a second until the io stops: a fiber's body. What can be read from the tables in a tenth of a
 * second comes on top of the limit. */
struct metad_memory {
    struct io *io;
    struct replica *replica; /* NULL: it is being stopped, the fiber ends */
    uint64_t limit_bytes;
};
void metad_memory_fiber(void *arg);
/* Bytes of memory this process has resident; 0 when the kernel does not tell. */
uint64_t metad_memory_resident(void);

#endif
