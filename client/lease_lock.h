/* Delegated locks: where nobody else in the cluster wants locks of a file, this client decides about them without
 * asking. A lock of a process is either in the service's tables or, inside a delegated range, here. Whoever would
 * have to wait for a lock that is here first gives the whole range back, locks included, and waits at the service: so
 * every wait, and every lock that is waited for, is known where deadlocks are looked for (E11).
 * Threads: the io's; waiting calls from fibers. */
#ifndef TARN_CLIENT_LEASE_LOCK_H
#define TARN_CLIENT_LEASE_LOCK_H

#include "meta.h"

struct leases;
/* As meta_lock_in(): `session` is that of the file's handle. */
int lease_lock(struct leases *leases, uint64_t session, const Tarn__Lock *lock, const struct meta_cred *cred);
/* Ends a wait early (-E_INTR), whatever it waits for. */
void lease_lock_interrupt(struct leases *leases, uint64_t waiter);
/* *ret: as GETLK answers. */
int lease_getlk(struct leases *leases, const Tarn__GetLock *ask, const struct meta_cred *cred, Tarn__GetLockReply *ret);
/* All locks of an owner or a handle (LOCK_DROP), taken through lease_lock(). */
int lease_lock_drop(struct leases *leases, uint64_t session, const Tarn__LockDrop *drop, const struct meta_cred *cred);
/* Nobody here has the inode open any more: what is delegated goes back. */
void lease_lock_closed(struct leases *leases, uint64_t ino);

/* Since the start. Uncontended: `here` grows, `asked` does not. */
struct lease_counters {
    uint64_t locks_here, locks_asked; /* requests of lock and unlock decided here; sent to the service */
    uint64_t returned;                /* delegations */
};
const struct lease_counters *lease_counters(const struct leases *leases);

#endif
