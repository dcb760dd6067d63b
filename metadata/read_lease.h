/* Read leases: for how long readers may use a file's map without asking again. The leader keeps them in
 * memory only. A lease is given while nobody has the file open for writing; whoever then opens it for
 * writing, or changes its size, gets his answer when the leases of all other sessions are over. So a
 * write that has been answered is never missed, and nobody has to be told (invariant C14). Pure: time
 * comes in. */
#ifndef TARN_METADATA_READ_LEASE_H
#define TARN_METADATA_READ_LEASE_H

#include "common/coll.h"

#define READ_LEASE_MS 4      /* told to the reader, who counts from before he asked */
#define READ_LEASE_HOLD_MS 6 /* kept by the leader, from when it was asked: clocks that drift, and rounding */
#define READ_LEASES_MAX 4096  /* inodes; beyond that one common end serves for all others, about 300 KiB in all */

/* Zero-initialised is empty. */
struct read_leases {
    struct map map; /* ino → struct read_lease */
    size_t count;
    uint64_t swept_ms;
    uint64_t all_until_ms; /* end of leases that are not in the map */
};
void read_leases_fini(struct read_leases *leases);
/* Before the tables are asked whether there is a writer: a lease may be given to the session now. */
void read_leases_note(struct read_leases *leases, uint64_t ino, uint64_t session, uint64_t now_ms);
/* A new leader does not know what the one before has given. */
void read_leases_unknown(struct read_leases *leases, uint64_t now_ms);
/* When no other session has a lease any more; at most now_ms when that is so already. */
uint64_t read_leases_end(const struct read_leases *leases, uint64_t ino, uint64_t session);
/* True when no lease can be under way: nothing has to be looked at. */
bool read_leases_none(const struct read_leases *leases, uint64_t now_ms);

#endif
