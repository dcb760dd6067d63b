/* What the two implementations of kv.h share: the table of operations at the head of each handle.
 * Only kv*.c include it. */
#ifndef TARN_METADATA_KV_IMPL_H
#define TARN_METADATA_KV_IMPL_H

#include "kv.h"

struct kv_ops {
    void (*close)(struct kv *kv);
    void (*give_back)(struct kv *kv, unsigned slice, unsigned slices); /* NULL: there is nothing to give */
    int (*begin)(struct kv *kv, bool write, struct kv_txn **ret);
    int (*commit)(struct kv_txn *txn);
    void (*abort)(struct kv_txn *txn);
    int (*get)(struct kv_txn *txn, struct kv_val key, struct kv_val *ret);
    int (*put)(struct kv_txn *txn, struct kv_val key, struct kv_val value);
    int (*del)(struct kv_txn *txn, struct kv_val key);
    int (*clear)(struct kv_txn *txn); /* drops every key */
    int (*scan)(struct kv_txn *txn, struct kv_val start, struct kv_val prefix, kv_visit fn,
                void *arg);
    int (*last)(struct kv_txn *txn, struct kv_val at, struct kv_val prefix, struct kv_val *ret_key,
                struct kv_val *ret_value);
};

/* The implementation sets `ops`, the rest is kv.c's. */
struct kv {
    const struct kv_ops *ops;
    struct kv_cache *cache; /* made by the first transaction that wants it */
    struct kv_txn *reader;  /* of the last commit, shared by kv_read(); NULL = none open */
    bool writing;
};
struct kv_txn {
    const struct kv_ops *ops;
    struct kv *kv;
    struct kv_cache *cache; /* NULL: past the cache */
    bool write;
    bool shared;            /* from kv_read(), by `readers` */
    unsigned readers;
};

static inline int kv_compare(struct kv_val a, struct kv_val b)
{
    int order = memcmp(a.data, b.data, MIN(a.len, b.len));
    if (order != 0)
        return order;
    return a.len < b.len ? -1 : a.len > b.len;
}

static inline bool kv_has_prefix(struct kv_val key, struct kv_val prefix)
{
    return key.len >= prefix.len && memcmp(key.data, prefix.data, prefix.len) == 0;
}

#endif
