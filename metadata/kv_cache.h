/* Rows of the tables as they were last read or changed, in front of the implementation: most commands
 * and queries touch the same few rows (a directory, a session, the counters) again and again. A change
 * stays here until the commit writes each row once, in order of the keys.
 * Between two write transactions it holds committed rows only, and serves them to readers of the last
 * commit. Pure. Threads: those of the write transaction. */
#ifndef TARN_METADATA_KV_CACHE_H
#define TARN_METADATA_KV_CACHE_H

#include "kv_impl.h"

/* Past it the cache starts anew; one row may come on top. A transaction may change more than this: what
 * it changed so far is then written to the implementation's transaction first. */
#define KV_CACHE_BYTES_MAX MIB(4)

struct kv_cache *kv_cache_create(void); /* NULL: no memory */
void kv_cache_destroy(struct kv_cache *cache);
void kv_cache_clear(struct kv_cache *cache); /* forgets everything, changes too */
/* Makes room at a moment when nobody borrows a row: committed rows go when there are too many. */
void kv_cache_trim(struct kv_cache *cache);

/* As kv_get(); what is not here is asked of `txn`. */
int kv_cache_get(struct kv_cache *cache, struct kv_txn *txn, struct kv_val key, struct kv_val *ret);
int kv_cache_put(struct kv_cache *cache, struct kv_txn *txn, struct kv_val key, struct kv_val value);
int kv_cache_del(struct kv_cache *cache, struct kv_txn *txn, struct kv_val key);
/* Writes the changed rows of the table `prefix` begins with (all of them when it is empty) to `txn`. */
int kv_cache_flush(struct kv_cache *cache, struct kv_txn *txn, struct kv_val prefix);

#endif
