/* Rights that the metadata service gives a client, so that it need not ask: read leases (what is cached of an
 * inode is true), exclusive leases (this client alone has the file open: it may keep changes back) and
 * delegated locks (lease_lock.h). One struct leases lives in each struct meta. Rules E1-E11 in
 * docs/invariants.md; reasons in docs/decisions/leases.md.
 *
 * Read leases: ask, then use what came with the answer as long as lease_valid() says so.
 *
 *     struct lease_asking asking;
 *     lease_ask_begin(leases, &asking);
 *     … FILE_MAP, LOOKUP or READDIR with want_lease …
 *     stamp = lease_ask_end(leases, &asking, reply->lease, reply->attr->version);
 *     … later: if (lease_valid(leases, ino, stamp)) what was learned is true now …
 *
 * A directory's lease covers its entries: a name looked up after the lease was got, and absent, is absent as
 * long as the lease is valid. A change of one's own ends the lease, too, before it is answered.
 * Threads: the io's. Only functions that say so wait. */
#ifndef TARN_CLIENT_LEASE_H
#define TARN_CLIENT_LEASE_H

#include "meta.h"

struct leases;
struct leases *meta_leases(struct meta *meta);

/* ---- read leases */
struct lease_asking {
    uint64_t sent_ms, session;
};
void lease_ask_begin(struct leases *leases, struct lease_asking *asking);
/* Every begin needs its end. grant: as answered, NULL when there was no answer. version: of the inode as
 * answered. A stamp for lease_valid(), or 0: no lease. */
uint64_t lease_ask_end(struct leases *leases, const struct lease_asking *asking, const Tarn__LeaseGrant *grant,
                       uint64_t version);
bool lease_valid(struct leases *leases, uint64_t ino, uint64_t stamp);
/* Leases of up to LEASE_ASK_MAX inodes in one request; waits. ret_stamps[i] is 0 where none was given. What is
 * asked for under the lease is asked for afterwards. Errors: those of meta_call(). */
#define LEASE_ASK_MAX 256
int lease_ask(struct leases *leases, const uint64_t *inos, size_t n, uint64_t *ret_stamps);
/* Told when a lease ends before its time, or could not be kept over a change of leader. Must not wait. */
typedef void (*lease_recalled_fn)(void *arg, uint64_t ino);
void lease_on_recall(struct leases *leases, lease_recalled_fn fn, void *arg);
/* ---- exclusive leases: OPEN and CREATE with want_exclusive, Entry.exclusive */
/* Makes what was kept back known to the stores; *ret_size: the file's end, *ret_mtime: 0 = unchanged. May wait; runs
 * once, in a fiber of its own. An error is the caller's to report; the lease goes back all the same. */
typedef int (*lease_flush_fn)(void *arg, uint64_t ino, uint64_t *ret_size, uint64_t *ret_mtime);
/* The lease came with a handle, just now. Errors: -E_NOMEM, -E_STALE it was asked back too long ago, or a later one of
 * ours on this inode has gone back; then it is returned. `flush` and `arg` of the first handle serve for all of the inode. */
int lease_exclusive_begin(struct leases *leases, uint64_t ino, uint64_t number, lease_flush_fn flush, void *arg);
/* May a change be kept back now? Not once it was asked back or the session may be lost: then write through. */
bool lease_exclusive_valid(struct leases *leases, uint64_t ino);
/* Flushes and gives it back, or waits until that is done; before the last close. Waits. 0 when there is none. */
int lease_exclusive_end(struct leases *leases, uint64_t ino);

size_t lease_count(const struct leases *leases); /* read leases held */

#endif
