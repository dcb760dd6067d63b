/* Link rows (inode, directory) of inodes in clones. Their keys have a number of the base in them, so
 * they cannot be looked up in the base one by one: they are read all together, at most as many as the
 * inode has names. An inode that has a row of its own, or a link row, has its own link rows only. */
#include "common/err.h"
#include "view_impl.h"

/* Link rows as they are seen under an inode number, which may have a snapshot in it. */
struct links {
    struct tables *t;
    struct rows rows;
};

static int links_add(void *arg, struct kv_val key, struct kv_val value)
{
    struct rows *rows = &((struct links *)arg)->rows;
    if (rows->count == rows->cap) {
        size_t cap = rows->cap * 2 + 4;
        struct row *grown = realloc(rows->rows, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        rows->rows = grown;
        rows->cap = cap;
    }
    uint8_t *copy = malloc(value.len + 1);
    if (copy == NULL)
        return -E_NOMEM;
    memcpy(copy, value.data, value.len);
    rows->rows[rows->count++] = (struct row){
        .key = key_append((struct key){0}, key.data, key.len), .value = copy, .len = value.len};
    return 0;
}

static void links_fini(struct links *links)
{
    rows_fini(&links->rows);
}

static int links_load(struct links *links, uint64_t ino, bool *ret_own);

/* The base's, with the directories' numbers as the clone has them. */
static int links_of_base(struct links *links, uint64_t ino)
{
    struct tables *t = links->t;
    const struct clone *found;
    bool own;
    int err = view_clone(t, ino_clone(ino), &found);
    if (err != 0)
        return err;
    struct clone clone = *found;
    err = links_load(links, ino_with_snapshot(ino_with_clone(ino, clone.base), clone.snapshot), &own);
    for (size_t i = 0; i < links->rows.count && err == 0; i++) {
        uint64_t dir = key_number(&links->rows.rows[i].key, 1);
        uint32_t member;
        err = view_clone_member(t, &clone, ino_clone(dir), &member);
        links->rows.rows[i].key = key_2(TABLE_LINK, ino, ino_with_clone(dir, member));
    }
    return err;
}

/* *ret_own: they are stored under this number, none or more. */
static int links_load(struct links *links, uint64_t ino, bool *ret_own)
{
    struct tables *t = links->t;
    struct key prefix = key_1(TABLE_LINK, ino), inode = key_1(TABLE_INODE, ino);
    struct stored_row row;
    int err = view_inside_scan(t, &prefix, links_add, links);
    if (err == 0)
        err = view_inside_stored(t, &inode, &row);
    if (err != 0)
        return err;
    *ret_own = links->rows.count > 0 || row.kind != ROW_ABSENT || ino_clone(ino) == 0;
    return *ret_own ? 0 : links_of_base(links, ino);
}

int view_links_get(struct tables *t, const struct key *key, struct kv_val *ret)
{
    _cleanup_(links_fini) struct links links = {.t = t};
    bool own;
    int err = links_load(&links, key_number(key, 0), &own);
    for (size_t i = 0; i < links.rows.count && err == 0; i++) {
        const struct row *row = &links.rows.rows[i];
        if (row->key.len == key->len && memcmp(row->key.data, key->data, key->len) == 0)
            return view_keep(t, row->value, row->len, ret);
    }
    return err == 0 ? -E_NOENT : err;
}

int view_links_scan(struct tables *t, const struct key *prefix, kv_visit fn, void *arg)
{
    _cleanup_(links_fini) struct links links = {.t = t};
    bool own;
    int err = links_load(&links, key_number(prefix, 0), &own);
    for (size_t i = 0; i < links.rows.count && err == 0; i++) {
        const struct row *row = &links.rows.rows[i];
        err = fn(arg, (struct kv_val){.data = row->key.data, .len = row->key.len},
                 (struct kv_val){.data = row->value, .len = row->len});
    }
    return err == 1 ? 0 : err;
}

int view_links_take_over(struct tables *t, uint64_t ino)
{
    _cleanup_(links_fini) struct links links = {.t = t};
    bool own;
    int err = links_load(&links, ino, &own);
    for (size_t i = 0; i < links.rows.count && err == 0 && !own; i++)
        err = view_history_absent(t, &links.rows.rows[i].key);
    for (size_t i = 0; i < links.rows.count && err == 0 && !own; i++)
        err = tables_stored_put(t, &links.rows.rows[i].key, links.rows.rows[i].value,
                                links.rows.rows[i].len);
    return err;
}
