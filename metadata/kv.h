/* Ordered tables of the metadata service: byte-string keys in memcmp order. Two implementations:
 * LMDB (kv_lmdb.c) in production and an in-memory map (kv_mem.c) in simulation and tests.
 * A read transaction is a snapshot. One write transaction at a time.
 * Threads: any thread may hold its own read transaction; the write transaction has one thread. */
#ifndef TARN_METADATA_KV_H
#define TARN_METADATA_KV_H

#include "common/base.h"

#define KV_KEY_MAX 500     /* LMDB's 511 less room for a prefix */
#define KV_VALUE_MAX MIB(1)

struct kv;
struct kv_txn;
struct kv_val {
    const uint8_t *data;
    size_t len;
};
/* dir is made when absent. map_bytes bounds the tables' size (sparse). -E_IO, -E_NOSPC.
 * The tables are a cache of the log and are never synced while open: after a crash of the operating
 * system (another boot id, not closed cleanly), or when LMDB finds them damaged, they come up empty. */
int kv_lmdb_open(const char *dir, uint64_t map_bytes, struct kv **ret);
int kv_mem_open(struct kv **ret);
void kv_close(struct kv *kv); /* LMDB: synced first; NULL allowed */

int kv_begin(struct kv *kv, bool write, struct kv_txn **ret);
/* A read transaction of the last commit that is shared by all who ask between two commits, and served
 * from rows in memory where it can be: cheap. Only on the write transaction's thread; kv_abort() it soon. */
int kv_read(struct kv *kv, struct kv_txn **ret);
int kv_commit(struct kv_txn *txn); /* frees txn in any case; for readers the same as abort */
void kv_abort(struct kv_txn *txn); /* NULL allowed */

/* Values are borrowed until the next change in, or the end of, the transaction. */
int kv_get(struct kv_txn *txn, const void *key, size_t key_len, struct kv_val *ret); /* -E_NOENT */
int kv_put(struct kv_txn *txn, const void *key, size_t key_len, const void *value, size_t len);
int kv_del(struct kv_txn *txn, const void *key, size_t key_len); /* 0 also when absent */

int kv_clear(struct kv_txn *txn); /* drops every key */

/* Takes pages of the tables out of the process's resident memory, the slice-th of `slices` parts of them; what
 * is used again comes back by itself. Any thread. Nothing for tables in memory. */
void kv_give_back(struct kv *kv, unsigned slice, unsigned slices);

/* Visits keys >= start in order while they have the given prefix. fn returns 0 to go on, 1 to stop
 * (kv_scan then returns 0), or a negative code that is returned. fn must not change the table. */
typedef int (*kv_visit)(void *arg, struct kv_val key, struct kv_val value);
int kv_scan(struct kv_txn *txn, const void *start, size_t start_len, const void *prefix,
            size_t prefix_len, kv_visit fn, void *arg);
/* The last key with the prefix that is <= at; -E_NOENT. */
int kv_last(struct kv_txn *txn, const void *at, size_t at_len, const void *prefix, size_t prefix_len,
            struct kv_val *ret_key, struct kv_val *ret_value);

/* Everything as one stream, for snapshots: header, records, checksum (docs/formats/snapshot.md).
 * `write` is called with pieces of at most 1 MiB; from a worker thread is fine (own read txn). */
typedef int (*kv_sink)(void *arg, const void *data, size_t n);
int kv_dump(struct kv_txn *read_txn, kv_sink write, void *arg);
/* The same stream in steps, so that the caller may write each piece from a fiber and make the next
 * one on a worker thread. step gives the next piece (borrowed until the next step); length 0 = end. */
struct kv_dump;
int kv_dump_open(struct kv_txn *read_txn, struct kv_dump **ret); /* borrows the transaction */
int kv_dump_step(struct kv_dump *dump, const uint8_t **ret_data, size_t *ret_len);
void kv_dump_close(struct kv_dump *dump); /* NULL allowed */
/* Replaces all content by a dump in one transaction: on failure nothing changed. `read` returns bytes
 * given, 0 at the end, or an error. -E_CORRUPT when a checksum fails or the stream ends early. */
typedef int64_t (*kv_source)(void *arg, void *buf, size_t n);
int kv_load(struct kv *kv, kv_source read, void *arg);

#endif
