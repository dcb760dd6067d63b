/* The door of the tables: checks limits, then asks the cache of rows or the implementation of the handle. */
#include "kv_cache.h"
#include "common/check.h"
#include "common/err.h"

static struct kv_val val(const void *data, size_t len)
{
    return (struct kv_val){.data = data != NULL ? data : (const uint8_t *)"", .len = len};
}

static int cache_of(struct kv *kv, struct kv_cache **ret)
{
    if (kv->cache == NULL)
        kv->cache = kv_cache_create();
    *ret = kv->cache;
    return kv->cache == NULL ? -E_NOMEM : 0;
}

/* From now on the cache may hold what is newer than the reader's snapshot. */
static void reader_detach(struct kv *kv)
{
    struct kv_txn *reader = kv->reader;
    kv->reader = NULL;
    if (reader == NULL)
        return;
    reader->cache = NULL;
    if (reader->readers == 0)
        reader->ops->abort(reader);
}

void kv_close(struct kv *kv)
{
    if (kv == NULL)
        return;
    reader_detach(kv);
    kv_cache_destroy(kv->cache);
    kv->cache = NULL;
    kv->ops->close(kv);
}

static int begin(struct kv *kv, bool write, struct kv_cache *cache, struct kv_txn **ret)
{
    struct kv_txn *txn;
    int err = kv->ops->begin(kv, write, &txn);
    if (err != 0)
        return err;
    txn->kv = kv;
    txn->write = write;
    txn->cache = cache;
    *ret = txn;
    return 0;
}

int kv_begin(struct kv *kv, bool write, struct kv_txn **ret)
{
    CHECK(kv != NULL);
    if (!write)
        return begin(kv, false, NULL, ret);
    struct kv_cache *cache;
    int err = cache_of(kv, &cache);
    if (err != 0)
        return err;
    reader_detach(kv);
    err = begin(kv, true, cache, ret);
    kv->writing = kv->writing || err == 0;
    return err;
}

int kv_read(struct kv *kv, struct kv_txn **ret)
{
    CHECK(kv != NULL);
    struct kv_cache *cache;
    if (kv->writing)
        return begin(kv, false, NULL, ret);
    int err = cache_of(kv, &cache);
    if (err == 0 && kv->reader == NULL)
        err = begin(kv, false, cache, &kv->reader);
    if (err != 0)
        return err;
    if (kv->reader->readers++ == 0)
        kv_cache_trim(cache);
    kv->reader->shared = true;
    *ret = kv->reader;
    return 0;
}

static void shared_done(struct kv_txn *txn)
{
    CHECK(txn->readers > 0);
    if (--txn->readers == 0 && txn->kv->reader != txn)
        txn->ops->abort(txn);
}

int kv_commit(struct kv_txn *txn)
{
    CHECK(txn != NULL);
    if (txn->shared) {
        shared_done(txn);
        return 0;
    }
    struct kv *kv = txn->kv;
    if (!txn->write)
        return txn->ops->commit(txn);
    int err = kv_cache_flush(kv->cache, txn, val(NULL, 0));
    if (err == 0)
        err = txn->ops->commit(txn);
    else
        txn->ops->abort(txn);
    kv->writing = false;
    if (err == 0)
        kv_cache_trim(kv->cache);
    else
        kv_cache_clear(kv->cache);
    return err;
}

void kv_abort(struct kv_txn *txn)
{
    if (txn == NULL)
        return;
    if (txn->shared) {
        shared_done(txn);
        return;
    }
    if (txn->write) {
        kv_cache_clear(txn->kv->cache);
        txn->kv->writing = false;
    }
    txn->ops->abort(txn);
}

void kv_give_back(struct kv *kv, unsigned slice, unsigned slices)
{
    CHECK(slice < slices);
    if (kv->ops->give_back != NULL)
        kv->ops->give_back(kv, slice, slices);
}

int kv_get(struct kv_txn *txn, const void *key, size_t key_len, struct kv_val *ret)
{
    if (key_len == 0 || key_len > KV_KEY_MAX)
        return -E_INVAL;
    return txn->cache != NULL ? kv_cache_get(txn->cache, txn, val(key, key_len), ret)
                              : txn->ops->get(txn, val(key, key_len), ret);
}

int kv_put(struct kv_txn *txn, const void *key, size_t key_len, const void *value, size_t len)
{
    if (key_len == 0 || key_len > KV_KEY_MAX || len > KV_VALUE_MAX)
        return -E_INVAL;
    CHECK(txn->write);
    return kv_cache_put(txn->cache, txn, val(key, key_len), val(value, len));
}

int kv_del(struct kv_txn *txn, const void *key, size_t key_len)
{
    if (key_len == 0 || key_len > KV_KEY_MAX)
        return -E_INVAL;
    CHECK(txn->write);
    return kv_cache_del(txn->cache, txn, val(key, key_len));
}

int kv_clear(struct kv_txn *txn)
{
    CHECK(txn->write);
    kv_cache_clear(txn->cache);
    return txn->ops->clear(txn);
}

int kv_scan(struct kv_txn *txn, const void *start, size_t start_len, const void *prefix,
            size_t prefix_len, kv_visit fn, void *arg)
{
    if (start_len > KV_KEY_MAX || prefix_len > KV_KEY_MAX)
        return -E_INVAL;
    struct kv_val from = val(start, start_len), within = val(prefix, prefix_len);
    if (kv_compare(from, within) < 0)
        from = within;
    int err = txn->write ? kv_cache_flush(txn->cache, txn, within) : 0;
    if (err == 0)
        err = txn->ops->scan(txn, from, within, fn, arg);
    return err == 1 ? 0 : err;
}

int kv_last(struct kv_txn *txn, const void *at, size_t at_len, const void *prefix, size_t prefix_len,
            struct kv_val *ret_key, struct kv_val *ret_value)
{
    if (at_len > KV_KEY_MAX || prefix_len > KV_KEY_MAX)
        return -E_INVAL;
    int err = txn->write ? kv_cache_flush(txn->cache, txn, val(prefix, prefix_len)) : 0;
    if (err != 0)
        return err;
    return txn->ops->last(txn, val(at, at_len), val(prefix, prefix_len), ret_key, ret_value);
}
