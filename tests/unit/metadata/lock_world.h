/* Lock requests in short, on a world with two files. */
#ifndef TARN_TEST_METADATA_LOCK_WORLD_H
#define TARN_TEST_METADATA_LOCK_WORLD_H

#include "metadata/lock.h"
#include "world.h"

enum {
    UN = TARN__LOCK_TYPE__LOCK_UN,
    SH = TARN__LOCK_TYPE__LOCK_SH,
    EX = TARN__LOCK_TYPE__LOCK_EX
};
#define FCNTL TARN__LOCK_KIND__LOCK_FCNTL
#define FLOCK TARN__LOCK_KIND__LOCK_FLOCK
#define DELEGATED TARN__LEASE_KIND__LEASE_LOCKS_FCNTL
#define ALL UINT64_MAX
#define F 3 /* inode of /f: after the root (1) and /jobs (2) */
#define G 4
#define H 5
#define I 6
#define GRANTED 1
#define QUEUED 2

int lock_setup(void **state); /* *state: struct world with /f, /g, /h and /i */
int lock_teardown(void **state);
#define LOCK_TEST(name) cmocka_unit_test_setup_teardown(name, lock_setup, lock_teardown)

/* By the world's session. waiter 0: does not wait. The handle is the owner's number. Returns GRANTED, QUEUED or a
 * negative code. */
int lock(struct world *w, uint64_t ino, uint64_t owner, int type, uint64_t start, uint64_t end, uint64_t waiter);
int lock_flock(struct world *w, uint64_t ino, uint64_t owner, int type, uint64_t waiter);
int lock_as(struct world *w, uint64_t session, uint64_t ino, uint64_t owner, int type, uint64_t start, uint64_t end,
            uint64_t waiter);
/* Asks for an exclusive fcntl lock with a delegation: its number, or 0 when the lock came without. */
uint64_t lock_delegated(struct world *w, uint64_t session, uint64_t ino, uint64_t owner, uint64_t start, uint64_t end);
/* Ends a delegation (kind: of the lease); the locks become rows. */
int lock_return(struct world *w, uint64_t session, int kind, uint64_t ino, uint64_t number, const struct lock_range *locks,
                size_t n);
bool lock_cancel(struct world *w, uint64_t ino, uint64_t waiter); /* true: it came too late */
int lock_drop(struct world *w, uint64_t ino, int kind, uint64_t owner, uint64_t handle); /* by the one that is not 0 */
/* The owner who is in the way of an exclusive lock of the range; 0 = nobody. */
uint64_t lock_holder(struct world *w, uint64_t ino, int kind, uint64_t start, uint64_t end);
/* The waiters the last command told about, lowest first; the code each was told is the same. */
size_t lock_told(struct world *w, int err, uint64_t *ret, size_t max);
uint64_t lock_told_one(struct world *w); /* the one it granted; 0 = none */
uint32_t lock_rows(struct world *w);     /* digest of all rows of locks and of rights asked back */

#endif
