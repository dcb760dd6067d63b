/* What lock_cmd.c and lock_delegate.c share. */
#ifndef TARN_METADATA_LOCK_IMPL_H
#define TARN_METADATA_LOCK_IMPL_H

#include "lock.h"

struct file_locks {
    uint64_t ino;
    uint8_t kind;
    struct lock_table table;
};
void file_locks_fini(struct file_locks *f);
int file_locks_load(struct tables *t, uint64_t ino, uint8_t kind, struct file_locks *ret);
int file_locks_store(struct tables *t, const struct file_locks *f);
/* After a change of the session's ranges: whoever can go, goes; stores the rows. */
int file_locks_finish(struct tables *t, struct file_locks *f, uint64_t session);
/* Ranges that nobody had seen have become rows: waits that now close a cycle end with DEADLOCK. Stores the table. */
int file_locks_deadlocks(struct tables *t, struct file_locks *f);

#endif
