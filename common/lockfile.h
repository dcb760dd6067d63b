/* A lock file: two processes on one directory would each believe in their own journal or log. */
#ifndef TARN_COMMON_LOCKFILE_H
#define TARN_COMMON_LOCKFILE_H

#include "base.h"

/* How long a start waits for the process before it: a killed one holds its lock until the kernel has given back
 * its memory, which with gigabytes of mapped tables takes a second or two. */
#define LOCKFILE_WAIT_MS 10000

/* Takes DIR/lock with flock(2), making the file when it is not there. Waits up to `wait_ms` for a holder to end, blocking
 * the thread: for starts only. The lock is the descriptor's, so it ends with the process.
 * Errors: -E_BUSY another process keeps it; -E_NAMETOOLONG; those of open(2) and flock(2). */
int lockfile_take(const char *dir, unsigned wait_ms, int *ret_fd);

#endif
