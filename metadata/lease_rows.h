/* Rights that are rows of the tables, so that they outlive a leader: exclusive leases here, delegated locks in
 * lock_delegate.c. Whoever holds the exclusive lease of a file may keep changes of it back (bytes, size, mtime);
 * it comes with an OPEN or CREATE for writing when no other session has the file open. A request of another
 * session that the holder's changes concern fails with -E_BUSY and names the right (struct fsm_recall): the
 * leader asks for it and tries again when it is gone (E7-E9). Threads: the transaction's. */
#ifndef TARN_METADATA_LEASE_ROWS_H
#define TARN_METADATA_LEASE_ROWS_H

#include "tables.h"

/* Notes the exclusive lease of another session on the inode, if there is one. 0 or -E_BUSY. */
int exclusive_conflict(struct tables *t, uint64_t ino);
/* The same for all inodes the command has touched. */
int exclusive_conflicts_touched(struct tables *t);
/* For a query: notes it; the answer is made anyway and thrown away by the leader. Errors: of the tables. */
int exclusive_look(struct tables *t, uint64_t ino);
/* The asking session has just opened the file for writing: the number of the exclusive lease it has now, or 0. */
int exclusive_give(struct tables *t, uint64_t ino, uint64_t handle, uint64_t *ret_number);
/* Nobody has the file open any more. */
int exclusive_drop(struct tables *t, uint64_t ino);
int lease_rows_session_end(struct tables *t, uint64_t session);

int lease_cmd_return(struct tables *t, const void *message); /* LEASE_RETURN */
int lease_cmd_recall(struct tables *t, const void *message); /* LEASE_RECALL */

/* Rows that say what a session was asked for and has not returned; told again with each answer to a ping. */
int recalled_put(struct tables *t, uint64_t session, uint64_t ino, Tarn__LeaseKind kind, uint64_t number);
int recalled_del(struct tables *t, uint64_t session, uint64_t number);
int recalled_push(struct tables *t, uint64_t session, uint64_t ino, Tarn__LeaseKind kind, uint64_t number);
/* Up to `max` of them into `ret`, which are initialised here. */
int recalled_list(struct kv_txn *txn, uint64_t session, Tarn__LeaseItem *ret, size_t max, size_t *ret_n);

#endif
