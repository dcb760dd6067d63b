/* What a request will change, before it does: the inodes of which clients may know something under a read
 * lease. A forecast: between the look and the change others may change names. What it missed is found when the
 * change has been applied (struct fsm_result, touched; E4). Threads: the transaction's. */
#ifndef TARN_METADATA_LEASE_TOUCH_H
#define TARN_METADATA_LEASE_TOUCH_H

#include "tables.h"

#define LEASE_TOUCH_MAX 256 /* inodes of one request; what it touches beyond is found afterwards */

struct lease_touch {
    uint64_t inos[LEASE_TOUCH_MAX];
    unsigned n;
};
/* False: the operation changes nothing that a lease covers. */
bool lease_touches(unsigned op, const void *message);
/* Adds to *ret what the request will touch by the tables as they are. Errors: of the tables only. */
int lease_touch_find(struct kv_txn *txn, unsigned op, const void *message, struct lease_touch *ret);
/* May the session have a lease on the inode: it is there, and no other session has it open for writing.
 * *ret_version is 0 when there is no such inode. */
int lease_look(struct kv_txn *txn, uint64_t session, uint64_t ino, uint64_t *ret_version, bool *ret_may);

#endif
