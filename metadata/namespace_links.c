/* Which directories name an inode (N7, N8). An inode with one name keeps its directory in `parent`.
 * With two or more there is a row for each directory with the number of names in it, so that when
 * the last name in `parent` goes another directory takes its place.
 *
 * Rows of version 1 say nothing of this. A walk over all entries, in bounded steps, fills it in:
 * while an inode's parent is 0, its link rows count the names that the walk has passed (those whose
 * keys are below the cursor), and the names beyond are met later. So a name that comes or goes is
 * counted exactly once, whenever it does. When the entries are through, the walk goes on over the
 * link rows and chooses the parents of those that are left: they have two names or more. */
#include "common/check.h"
#include "common/err.h"
#include "namespace.h"

#define UPGRADE_NAMES_MAX 512 /* in one step: some milliseconds */

int ns_parent_of(const struct inode *inode, uint64_t *ret_dir)
{
    if (inode->parent == 0)
        return -E_NOENT;
    *ret_dir = inode->parent;
    return 0;
}

struct parents_visit {
    int (*visit)(void *arg, uint64_t dir, uint32_t names);
    void *arg;
};

static int link_visit(void *arg, struct kv_val key, struct kv_val value)
{
    const struct parents_visit *v = arg;
    uint64_t names;
    struct reader r = reader_init(key.data + 9, key.len - 9);
    if (number_decode(value.data, value.len, &names) != 0)
        return -E_CORRUPT;
    return v->visit(v->arg, reader_be64(&r), (uint32_t)names);
}

int ns_parents(struct tables *t, const struct inode *inode,
               int (*visit)(void *arg, uint64_t dir, uint32_t names), void *arg)
{
    if (inode->parent == 0)
        return -E_NOENT;
    if (inode->type == TARN__FILE_TYPE__FT_DIR || inode->nlink < 2) {
        int err = visit(arg, inode->parent, 1);
        return MIN(err, 0);
    }
    struct key prefix = key_1(TABLE_LINK, inode->ino);
    struct parents_visit v = {.visit = visit, .arg = arg};
    return tables_scan(t, &prefix, &prefix, link_visit, &v);
}

static int link_get(struct tables *t, const struct key *key, uint64_t *ret_names)
{
    struct kv_val value;
    *ret_names = 0;
    int err = tables_get(t, key, &value);
    if (err == 0 && number_decode(value.data, value.len, ret_names) != 0)
        return tables_corrupt(t, key, "link");
    return err == -E_NOENT ? 0 : err;
}

static int link_put(struct tables *t, const struct key *key, uint64_t names)
{
    if (names == 0)
        return tables_del(t, key);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(names, &w);
    return tables_put(t, key, &w);
}

/* The number of names in `dir` changes by one; *ret_names is the new one. */
static int link_count(struct tables *t, uint64_t ino, uint64_t dir, int step, uint64_t *ret_names)
{
    struct key key = key_2(TABLE_LINK, ino, dir);
    int err = link_get(t, &key, ret_names);
    if (err != 0)
        return err;
    CHECK(step > 0 || *ret_names > 0);
    *ret_names += (uint64_t)step;
    return link_put(t, &key, *ret_names);
}

static int first_dir(void *arg, struct kv_val key, struct kv_val value)
{
    struct reader r = reader_init(key.data + 9, key.len - 9);
    *(uint64_t *)arg = reader_be64(&r);
    return 1;
}

/* The first directory in the link rows; 0 when there is no row. */
static int link_first(struct tables *t, uint64_t ino, uint64_t *ret_dir)
{
    struct key prefix = key_1(TABLE_LINK, ino);
    *ret_dir = 0;
    return tables_scan(t, &prefix, &prefix, first_dir, ret_dir);
}

/* ---- the walk's cursor: the key, of an entry or of a link row, that it looks at next */

static int cursor_get(struct tables *t, struct key *ret)
{
    struct key row = key_table(TABLE_UPGRADE);
    struct kv_val value;
    int err = tables_get(t, &row, &value);
    *ret = key_table(TABLE_ENTRY);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    if (value.len < 2 || value.len - 1 > sizeof ret->data || value.data[0] != RECORD_VERSION)
        return tables_corrupt(t, &row, "upgrade cursor");
    ret->len = (uint16_t)(value.len - 1);
    memcpy(ret->data, value.data + 1, ret->len);
    return 0;
}

static int cursor_put(struct tables *t, const struct key *cursor)
{
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u8(&w, RECORD_VERSION);
    writer_bytes(&w, cursor->data, cursor->len);
    struct key row = key_table(TABLE_UPGRADE);
    return tables_put(t, &row, &w);
}

static int key_order(const struct key *a, const struct key *b)
{
    int order = memcmp(a->data, b->data, MIN(a->len, b->len));
    return order != 0 ? order : (int)a->len - (int)b->len;
}

/* Do the link rows of a file with two names or more count this entry? Always once it has a parent.
 */
static int counted(struct tables *t, const struct key *entry, const struct inode *child, bool *ret)
{
    *ret = child->parent != 0;
    if (*ret)
        return 0;
    struct key cursor;
    int err = cursor_get(t, &cursor);
    *ret = err == 0 && key_order(entry, &cursor) < 0;
    return err;
}

/* ---- names that come and go */

int ns_link_added(struct tables *t, const struct key *entry, uint64_t dir, struct inode *child)
{
    if (child->type == TARN__FILE_TYPE__FT_DIR || child->nlink < 2) {
        child->parent = dir;
        return 0;
    }
    bool counts;
    uint64_t names;
    int err = counted(t, entry, child, &counts);
    return err != 0 || !counts ? err : link_count(t, child->ino, dir, 1, &names);
}

int ns_link_removed(struct tables *t, const struct key *entry, uint64_t dir, struct inode *child)
{
    if (child->type == TARN__FILE_TYPE__FT_DIR || child->nlink < 2)
        return 0;
    bool counts;
    uint64_t names;
    int err = counted(t, entry, child, &counts);
    if (err != 0 || !counts)
        return err;
    err = link_count(t, child->ino, dir, -1, &names);
    if (err == 0 && names == 0 && child->parent == dir)
        err = link_first(t, child->ino, &child->parent);
    CHECK(err != 0 || names > 0 || child->parent != dir);
    return err;
}

int ns_links_begin(struct tables *t, const struct inode *child)
{
    uint64_t names;
    return child->parent == 0 ? 0 : link_count(t, child->ino, child->parent, 1, &names);
}

/* One name is left. Without a row (only before the walk has met it) its directory is not known. */
int ns_links_end(struct tables *t, struct inode *child)
{
    uint64_t dir;
    int err = link_first(t, child->ino, &dir);
    if (err != 0 || dir == 0)
        return err;
    child->parent = dir;
    struct key key = key_2(TABLE_LINK, child->ino, dir);
    return tables_del(t, &key);
}

/* ---- the walk over what version 1 left */

bool ns_upgrade_due(const struct tables *t)
{
    return t->state.tree_upgrade != 0;
}

static int upgrade_entry(struct tables *t, const struct row *row)
{
    struct entry entry;
    _cleanup_(inode_fini) struct inode inode = {0};
    uint64_t dir = key_number(&row->key, 0), names;
    if (entry_decode(row->value, row->len, &entry) != 0)
        return tables_corrupt(t, &row->key, "directory entry");
    if (entry.type == TARN__FILE_TYPE__FT_DIR)
        return 0;
    int err = ns_inode_get(t, entry.ino, &inode);
    if (err != 0 || inode.parent != 0)
        return err;
    if (inode.nlink > 1)
        return link_count(t, inode.ino, dir, 1, &names);
    inode.parent = dir;
    return ns_inode_put(t, &inode);
}

static int upgrade_link(struct tables *t, const struct row *row)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(t, key_number(&row->key, 0), &inode);
    if (err != 0 || inode.parent != 0)
        return err;
    inode.parent = key_number(&row->key, 1);
    return ns_inode_put(t, &inode);
}

int ns_upgrade_step(struct tables *t)
{
    if (!ns_upgrade_due(t))
        return 0;
    struct key cursor, done = key_table(TABLE_UPGRADE);
    int err = cursor_get(t, &cursor);
    if (err != 0)
        return err;
    enum table table = (enum table)cursor.data[0];
    struct key prefix = key_table(table);
    _cleanup_(rows_fini) struct rows rows = {0};
    err = tables_rows(t, &cursor, &prefix, UPGRADE_NAMES_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = table == TABLE_ENTRY ? upgrade_entry(t, &rows.rows[i])
                                   : upgrade_link(t, &rows.rows[i]);
    if (err != 0)
        return err;
    if (rows.count == UPGRADE_NAMES_MAX) { /* behind the last one: its key and a zero byte */
        cursor = rows.rows[rows.count - 1].key;
        cursor.data[cursor.len++] = 0;
        return cursor_put(t, &cursor);
    }
    if (table == TABLE_ENTRY) {
        cursor = key_table(TABLE_LINK);
        return cursor_put(t, &cursor);
    }
    tables_state(t)->tree_upgrade = 0;
    return tables_del(t, &done);
}
