/* Locks of files: the commands. They load and store a file's table (common/lock_range.h) as one row, keep
 * the graph of waits for deadlock detection, and tell those who are granted. Threads: the transaction's. */
#ifndef TARN_METADATA_LOCK_H
#define TARN_METADATA_LOCK_H

#include "common/lock_range.h"
#include "tables.h"

#define LOCK_WAIT_GRAPH_MAX 1000 /* owners looked at for one deadlock check; past it -E_NOLCK */

void lock_table_encode(const struct lock_table *table, struct writer *w);
int lock_table_decode(const void *data, size_t n, struct lock_table *ret); /* -E_CORRUPT -E_NOMEM */

int lock_session_end(struct tables *t, uint64_t session);
/* The session is fenced: it keeps what it holds, but is granted nothing more. */
int lock_session_fence(struct tables *t, uint64_t session);
/* The inode goes: who locked it without having it open. Waiters are told NOENT. */
int lock_inode_end(struct tables *t, uint64_t ino);
int lock_cmd_lock(struct tables *t, const void *message);
int lock_cmd_cancel(struct tables *t, const void *message);
int lock_cmd_drop(struct tables *t, const void *message);
int lock_query_get(struct tables *t, const void *message);

#endif
