/* The door of the tables: checks limits, then calls the implementation of the handle. */
#include "kv_impl.h"
#include "common/check.h"
#include "common/err.h"

static struct kv_val val(const void *data, size_t len)
{
    return (struct kv_val){.data = data != NULL ? data : (const uint8_t *)"", .len = len};
}

void kv_close(struct kv *kv)
{
    if (kv != NULL)
        kv->ops->close(kv);
}

int kv_begin(struct kv *kv, bool write, struct kv_txn **ret)
{
    CHECK(kv != NULL);
    return kv->ops->begin(kv, write, ret);
}

int kv_commit(struct kv_txn *txn)
{
    CHECK(txn != NULL);
    return txn->ops->commit(txn);
}

void kv_abort(struct kv_txn *txn)
{
    if (txn != NULL)
        txn->ops->abort(txn);
}

int kv_get(struct kv_txn *txn, const void *key, size_t key_len, struct kv_val *ret)
{
    if (key_len == 0 || key_len > KV_KEY_MAX)
        return -E_INVAL;
    return txn->ops->get(txn, val(key, key_len), ret);
}

int kv_put(struct kv_txn *txn, const void *key, size_t key_len, const void *value, size_t len)
{
    if (key_len == 0 || key_len > KV_KEY_MAX || len > KV_VALUE_MAX)
        return -E_INVAL;
    return txn->ops->put(txn, val(key, key_len), val(value, len));
}

int kv_del(struct kv_txn *txn, const void *key, size_t key_len)
{
    if (key_len == 0 || key_len > KV_KEY_MAX)
        return -E_INVAL;
    return txn->ops->del(txn, val(key, key_len));
}

int kv_clear(struct kv_txn *txn)
{
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
    int err = txn->ops->scan(txn, from, within, fn, arg);
    return err == 1 ? 0 : err;
}

int kv_last(struct kv_txn *txn, const void *at, size_t at_len, const void *prefix, size_t prefix_len,
            struct kv_val *ret_key, struct kv_val *ret_value)
{
    if (at_len > KV_KEY_MAX || prefix_len > KV_KEY_MAX)
        return -E_INVAL;
    return txn->ops->last(txn, val(at, at_len), val(prefix, prefix_len), ret_key, ret_value);
}
