/* Delegated locks: a client that alone uses the locks of a file decides about them itself. A delegation is a range
 * in the file's lock table whose owner is (session, LOCK_DELEGATE): exclusive, so a request of anybody else
 * conflicts with it. Inside it the table has no other range of anybody (E10). Its `handle` is its number, its
 * `pid` is 1 when it was asked back. Threads: the transaction's. */
#ifndef TARN_METADATA_LOCK_DELEGATE_H
#define TARN_METADATA_LOCK_DELEGATE_H

#include "common/lock_range.h"
#include "tables.h"

#define LOCK_DELEGATE UINT64_MAX /* an owner that no kernel has */

static inline bool lock_is_delegate(const struct lock_range *range)
{
    return range->owner.owner == LOCK_DELEGATE;
}
/* May the request, which conflicts with nothing, be delegated together with the range it is in? *ret is then the
 * delegation: of the whole file when it has no locks, else of exactly the range asked for. */
bool delegation_fits(const struct lock_table *table, const struct lock_range *request, struct lock_range *ret);
/* Those that conflict with the range: asked back in this command (`now`: the request stands behind them as a
 * waiter; the caller stores the table), or noted for the leader. *ret_any: there is one. */
struct file_locks;
int delegation_ask_back(struct tables *t, struct file_locks *f, const struct lock_range *range, bool now, bool *ret_any);
/* The range goes with its inode: so does what asks for it. */
int delegation_forget(struct tables *t, const struct lock_range *range);

int delegation_return(struct tables *t, const Tarn__LeaseReturn *m);
int delegation_recall(struct tables *t, const Tarn__LeaseItem *item);

#endif
