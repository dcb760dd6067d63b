/* See kv_cache.h. A hash table of rows in an arena; changed rows are also in a list. */
#include "kv_cache.h"

#include "common/check.h"
#include "common/err.h"

#define BUCKETS_MIN 1024
#define BLOCK_BYTES KIB(64)
#define SEEN 4096 /* a power of two */

struct row {
    struct row *next;       /* in its bucket */
    struct row *next_dirty;
    uint64_t hash;
    uint8_t *value;         /* in the arena */
    uint32_t len, room;
    uint16_t key_len;
    bool dirty, absent;
    uint8_t key[];
};

struct block {
    struct block *next;
    size_t used, size;
    uint8_t data[];
};

struct kv_cache {
    struct row **buckets;
    size_t n_buckets, count; /* n_buckets: a power of two */
    struct block *blocks;    /* the first is being filled */
    size_t bytes;            /* of all blocks */
    size_t n_dirty;
    struct {
        struct row *rows;
        size_t n;
    } dirty[256];            /* changed rows by their table, the key's first byte */
    uint64_t seen[SEEN];     /* hashes of rows that readers asked for once: the second time they are kept */
};

/* ---- arena */
static void *arena_alloc(struct kv_cache *cache, size_t n)
{
    n = round_up_u64(n, 8);
    struct block *block = cache->blocks;
    if (block == NULL || block->size - block->used < n) {
        size_t size = MAX((size_t)BLOCK_BYTES, n);
        block = malloc(sizeof *block + size);
        if (block == NULL)
            return NULL;
        *block = (struct block){.next = cache->blocks, .size = size};
        cache->blocks = block;
        cache->bytes += size;
    }
    void *p = block->data + block->used;
    block->used += n;
    return p;
}

static void arena_reset(struct kv_cache *cache)
{
    struct block *keep = NULL;
    while (cache->blocks != NULL) {
        struct block *block = cache->blocks;
        cache->blocks = block->next;
        if (keep == NULL && block->size == BLOCK_BYTES)
            keep = block;
        else
            free(block);
    }
    cache->bytes = 0;
    if (keep == NULL)
        return;
    *keep = (struct block){.size = BLOCK_BYTES};
    cache->blocks = keep;
    cache->bytes = keep->size;
}

/* ---- hash: the seed is fixed, so that the same commands take the same path everywhere */
static uint64_t hash_of(struct kv_val key)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ key.len;
    size_t i = 0;
    for (; i + 8 <= key.len; i += 8) {
        uint64_t word;
        memcpy(&word, key.data + i, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    uint64_t rest = 0;
    if (i < key.len)
        memcpy(&rest, key.data + i, key.len - i);
    h = (h ^ rest) * 0xc4ceb9fe1a85ec53u;
    return h ^ h >> 29;
}

static struct row *find(const struct kv_cache *cache, struct kv_val key, uint64_t hash)
{
    struct row *row = cache->buckets[hash & (cache->n_buckets - 1)];
    while (row != NULL && (row->hash != hash || row->key_len != key.len ||
                           memcmp(row->key, key.data, key.len) != 0))
        row = row->next;
    return row;
}

/* Twice as many buckets; without memory it goes on with longer chains. */
static void grow(struct kv_cache *cache)
{
    size_t n = cache->n_buckets * 2;
    struct row **buckets = calloc(n, sizeof *buckets);
    if (buckets == NULL)
        return;
    for (size_t i = 0; i < cache->n_buckets; i++) {
        for (struct row *row = cache->buckets[i], *next; row != NULL; row = next) {
            next = row->next;
            row->next = buckets[row->hash & (n - 1)];
            buckets[row->hash & (n - 1)] = row;
        }
    }
    free(cache->buckets);
    cache->buckets = buckets;
    cache->n_buckets = n;
}

/* A committed row; NULL data: one that is not there. NULL without memory. */
static struct row *add(struct kv_cache *cache, struct kv_val key, uint64_t hash, struct kv_val value)
{
    if (cache->count >= cache->n_buckets)
        grow(cache);
    struct row *row = arena_alloc(cache, sizeof *row + key.len + value.len);
    if (row == NULL)
        return NULL;
    struct row **bucket = &cache->buckets[hash & (cache->n_buckets - 1)];
    *row = (struct row){.next = *bucket,
                        .hash = hash,
                        .value = row->key + key.len,
                        .len = (uint32_t)value.len,
                        .room = (uint32_t)value.len,
                        .key_len = (uint16_t)key.len,
                        .absent = value.data == NULL};
    memcpy(row->key, key.data, key.len);
    if (value.len > 0)
        memcpy(row->value, value.data, value.len);
    *bucket = row;
    cache->count++;
    return row;
}

/* ---- life */
struct kv_cache *kv_cache_create(void)
{
    struct kv_cache *cache = calloc(1, sizeof *cache);
    if (cache == NULL)
        return NULL;
    cache->n_buckets = BUCKETS_MIN;
    cache->buckets = calloc(cache->n_buckets, sizeof *cache->buckets);
    if (cache->buckets == NULL) {
        free(cache);
        return NULL;
    }
    return cache;
}

void kv_cache_clear(struct kv_cache *cache)
{
    memset(cache->buckets, 0, cache->n_buckets * sizeof *cache->buckets);
    memset(cache->dirty, 0, sizeof cache->dirty);
    cache->count = cache->n_dirty = 0;
    arena_reset(cache);
}

void kv_cache_trim(struct kv_cache *cache)
{
    CHECK(cache->n_dirty == 0);
    if (cache->bytes > KV_CACHE_BYTES_MAX)
        kv_cache_clear(cache);
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (cache == NULL)
        return;
    kv_cache_clear(cache);
    free(cache->blocks);
    free(cache->buckets);
    free(cache);
}

/* ---- writing down */
static int compare_rows(const void *a, const void *b)
{
    const struct row *x = *(struct row *const *)a, *y = *(struct row *const *)b;
    return kv_compare((struct kv_val){x->key, x->key_len}, (struct kv_val){y->key, y->key_len});
}

static int flush_table(struct kv_cache *cache, struct kv_txn *txn, uint8_t table)
{
    size_t n = cache->dirty[table].n, i = 0;
    _cleanup_free_ struct row **rows = malloc(n * sizeof *rows);
    if (rows == NULL)
        return -E_NOMEM;
    for (struct row *row = cache->dirty[table].rows; row != NULL; row = row->next_dirty) {
        row->dirty = false;
        rows[i++] = row;
    }
    cache->dirty[table].rows = NULL;
    cache->dirty[table].n = 0;
    cache->n_dirty -= n;
    qsort(rows, n, sizeof *rows, compare_rows); /* neighbours lie on the same page of the tables */
    int err = 0;
    for (i = 0; i < n && err == 0; i++) {
        struct kv_val key = {rows[i]->key, rows[i]->key_len};
        err = rows[i]->absent ? txn->ops->del(txn, key)
                              : txn->ops->put(txn, key, (struct kv_val){rows[i]->value, rows[i]->len});
    }
    return err;
}

int kv_cache_flush(struct kv_cache *cache, struct kv_txn *txn, struct kv_val prefix)
{
    unsigned first = prefix.len > 0 ? prefix.data[0] : 0, last = prefix.len > 0 ? first : 255;
    int err = 0;
    for (unsigned i = first; i <= last && err == 0 && cache->n_dirty > 0; i++)
        if (cache->dirty[i].n > 0)
            err = flush_table(cache, txn, (uint8_t)i);
    return err;
}

/* ---- rows */
/* A reader's row is kept when it is asked for again: directories are, most files are not. */
static bool worth_keeping(struct kv_cache *cache, uint64_t hash)
{
    uint64_t *seen = &cache->seen[hash & (SEEN - 1)];
    bool again = *seen == hash;
    *seen = hash;
    return again;
}

int kv_cache_get(struct kv_cache *cache, struct kv_txn *txn, struct kv_val key, struct kv_val *ret)
{
    uint64_t hash = hash_of(key);
    struct row *row = find(cache, key, hash);
    if (row != NULL) {
        *ret = (struct kv_val){row->value, row->len};
        return row->absent ? -E_NOENT : 0;
    }
    struct kv_val value = {0};
    int err = txn->ops->get(txn, key, &value);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (txn->write || worth_keeping(cache, hash))
        row = add(cache, key, hash, value);
    *ret = row != NULL ? (struct kv_val){row->value, row->len} : value;
    return err;
}

/* The row of the key, ready to be changed. */
static int change(struct kv_cache *cache, struct kv_txn *txn, struct kv_val key, struct row **ret)
{
    int err = 0;
    if (cache->bytes > KV_CACHE_BYTES_MAX) {
        err = kv_cache_flush(cache, txn, (struct kv_val){0});
        if (err == 0)
            kv_cache_clear(cache);
    }
    if (err != 0)
        return err;
    uint64_t hash = hash_of(key);
    struct row *row = find(cache, key, hash);
    if (row == NULL)
        row = add(cache, key, hash, (struct kv_val){0});
    *ret = row;
    return row == NULL ? -E_NOMEM : 0;
}

static void mark(struct kv_cache *cache, struct row *row)
{
    if (row->dirty)
        return;
    row->dirty = true;
    uint8_t table = row->key[0];
    row->next_dirty = cache->dirty[table].rows;
    cache->dirty[table].rows = row;
    cache->dirty[table].n++;
    cache->n_dirty++;
}

int kv_cache_put(struct kv_cache *cache, struct kv_txn *txn, struct kv_val key, struct kv_val value)
{
    struct row *row;
    int err = change(cache, txn, key, &row);
    if (err != 0)
        return err;
    if (row->room < value.len) {
        uint8_t *data = arena_alloc(cache, value.len);
        if (data == NULL)
            return -E_NOMEM; /* and the caller aborts, which clears everything here */
        row->value = data;
        row->room = (uint32_t)value.len;
    }
    memmove(row->value, value.data, value.len);
    row->len = (uint32_t)value.len;
    row->absent = false;
    mark(cache, row);
    return 0;
}

int kv_cache_del(struct kv_cache *cache, struct kv_txn *txn, struct kv_val key)
{
    struct row *row;
    int err = change(cache, txn, key, &row);
    if (err != 0)
        return err;
    row->absent = true;
    mark(cache, row);
    return 0;
}
