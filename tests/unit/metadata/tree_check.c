#include "tree_check.h"

#include "metadata/record.h"

struct name {
    uint64_t ino, dir;
};
struct names {
    struct name *items;
    size_t n, cap;
};

struct check {
    struct kv_txn *txn;
    struct names names;
    bool upgrading;
    uint64_t links; /* link rows that inodes account for */
};

static uint64_t number_at(struct kv_val key, size_t at)
{
    struct reader r = reader_init(key.data + at, key.len - at);
    return reader_be64(&r);
}

static int see_entry(void *arg, struct kv_val key, struct kv_val value)
{
    struct names *names = &((struct check *)arg)->names;
    struct entry entry;
    assert_int_equal(entry_decode(value.data, value.len, &entry), 0);
    if (names->n == names->cap) {
        names->cap = names->cap * 2 + 64;
        names->items = realloc(names->items, names->cap * sizeof *names->items);
        assert_non_null(names->items);
    }
    names->items[names->n++] = (struct name){.ino = entry.ino, .dir = number_at(key, 1)};
    return 0;
}

static int by_ino(const void *a, const void *b)
{
    const struct name *x = a, *y = b;
    if (x->ino != y->ino)
        return x->ino < y->ino ? -1 : 1;
    return x->dir < y->dir ? -1 : x->dir > y->dir;
}

static void check_links(struct check *c, const struct inode *inode, const struct name *names,
                        size_t n)
{
    bool parent_named = inode->parent == 0;
    for (size_t i = 0; i < n;) {
        size_t same = 1;
        while (i + same < n && names[i + same].dir == names[i].dir)
            same++;
        struct key key = key_2(TABLE_LINK, inode->ino, names[i].dir);
        struct kv_val value;
        uint64_t count = 0;
        int err = kv_get(c->txn, key.data, key.len, &value);
        if (err == 0)
            assert_int_equal(number_decode(value.data, value.len, &count), 0);
        c->links += err == 0;
        if (inode->parent != 0)
            assert_int_equal(count, n >= 2 ? same : 0);
        parent_named |= inode->parent == names[i].dir;
        i += same;
    }
    assert_true(parent_named);
}

static int see_inode(void *arg, struct kv_val key, struct kv_val value)
{
    struct check *c = arg;
    struct inode inode = {0};
    assert_int_equal(inode_decode(number_at(key, 1), value.data, value.len, &inode), 0);
    struct name first = {.ino = inode.ino};
    size_t low = 0, high = c->names.n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (by_ino(&c->names.items[middle], &first) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    size_t n = 0;
    while (low + n < c->names.n && c->names.items[low + n].ino == inode.ino)
        n++;
    const struct name *names = c->names.items + low;
    if (inode.ino == MD_ROOT) {
        assert_int_equal(n, 0);
    } else if (inode.type == TARN__FILE_TYPE__FT_DIR) {
        assert_int_equal(n, inode.nlink > 0);
        assert_true(n == 0 || inode.parent == names[0].dir);
    } else {
        assert_int_equal(inode.nlink, n);
        assert_true(c->upgrading || inode.parent != 0);
        if (n > 0)
            check_links(c, &inode, names, n);
    }
    inode_fini(&inode);
    return 0;
}

static int see_link(void *arg, struct kv_val key, struct kv_val value)
{
    (*(uint64_t *)arg)++;
    return 0;
}

static void each(struct kv_txn *txn, enum table table, kv_visit visit, void *arg)
{
    struct key prefix = key_table(table);
    assert_int_equal(
        kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, visit, arg), 0);
}

void tree_check(struct world *w, bool upgrading)
{
    struct check c = {.upgrading = upgrading};
    uint64_t links = 0;
    assert_int_equal(kv_begin(w->kv, false, &c.txn), 0);
    each(c.txn, TABLE_ENTRY, see_entry, &c);
    if (c.names.n > 0)
        qsort(c.names.items, c.names.n, sizeof *c.names.items, by_ino);
    each(c.txn, TABLE_INODE, see_inode, &c);
    each(c.txn, TABLE_LINK, see_link, &links);
    assert_int_equal(links, c.links); /* no row for a name that is not there */
    kv_abort(c.txn);
    free(c.names.items);
}

/* ---- as version 1 wrote it: docs/formats/metadata.md, "Versions" */

static void encode_v1(const struct inode *inode, struct writer *w)
{
    bool dir = inode->type == TARN__FILE_TYPE__FT_DIR, file = inode->type == TARN__FILE_TYPE__FT_FILE;
    writer_u8(w, 1);
    writer_u8(w, inode->type);
    writer_u8(w, (uint8_t)inode->flags);
    writer_u8(w, inode->copies);
    writer_u16(w, inode->mode);
    writer_u32(w, inode->nlink);
    writer_u32(w, inode->uid);
    writer_u32(w, inode->gid);
    const uint64_t numbers[] = {inode->size,  inode->mtime, inode->ctime,
                                inode->atime, inode->btime, inode->version};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        writer_u64(w, numbers[i]);
    writer_u8(w, inode->etag_len);
    writer_bytes(w, inode->etag, inode->etag_len);
    if (file)
        writer_u64(w, inode->allocated);
    if (dir) {
        writer_u64(w, inode->parent);
        writer_u64(w, inode->entries);
    }
    if (file || dir || inode->type == TARN__FILE_TYPE__FT_SYMLINK) {
        writer_u16(w, inode->data_len);
        writer_bytes(w, inode->data, inode->data_len);
    }
}

struct rewrite {
    struct kv_val keys[20000], values[20000];
    size_t n;
};

static int collect(void *arg, struct kv_val key, struct kv_val value)
{
    struct rewrite *r = arg;
    assert_true(r->n < ARRAY_SIZE(r->keys));
    uint8_t *copy = malloc(key.len), *old = malloc(value.len + 1);
    assert_true(copy != NULL && old != NULL);
    memcpy(copy, key.data, key.len);
    memcpy(old, value.data, value.len);
    r->keys[r->n] = (struct kv_val){.data = copy, .len = key.len};
    r->values[r->n++] = (struct kv_val){.data = old, .len = value.len};
    return 0;
}

static void rewrite_row(struct kv_txn *txn, struct kv_val key, struct kv_val value)
{
    _cleanup_(writer_fini) struct writer w = {0};
    if (key.data[0] == TABLE_LINK) {
        assert_int_equal(kv_del(txn, key.data, key.len), 0);
        return;
    }
    if (key.data[0] == TABLE_STATE) {
        writer_bytes(&w, value.data, 1 + 8 * (18 + MD_COPIES_MAX + 1));
        w.data[0] = 1;
    } else {
        struct inode inode = {0};
        assert_int_equal(inode_decode(number_at(key, 1), value.data, value.len, &inode), 0);
        encode_v1(&inode, &w);
        inode_fini(&inode);
    }
    assert_int_equal(kv_put(txn, key.data, key.len, w.data, w.len), 0);
}

void tree_downgrade(struct world *w)
{
    struct rewrite *r = calloc(1, sizeof *r);
    struct kv_txn *txn;
    assert_non_null(r);
    assert_int_equal(kv_begin(w->kv, true, &txn), 0);
    each(txn, TABLE_INODE, collect, r);
    each(txn, TABLE_LINK, collect, r);
    each(txn, TABLE_STATE, collect, r);
    for (size_t i = 0; i < r->n; i++) {
        rewrite_row(txn, r->keys[i], r->values[i]);
        free((void *)r->keys[i].data);
        free((void *)r->values[i].data);
    }
    assert_int_equal(kv_commit(txn), 0);
    free(r);
}
