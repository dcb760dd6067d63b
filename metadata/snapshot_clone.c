/* Clones. CLONE gives a new clone number C that rests on a snapshot; an inode number with C in it is
 * the base's inode as long as it has no row of its own. What the base has with another clone number
 * than its root's (clones inside of what is cloned) gets a number of the family at first sight: in a
 * command at once, in a query by CLONE_SLOT. The numbers of a family go together, when nobody can see
 * an inode of any of them any more (K7, snapshot_reach.c). */
#include "chunkmap.h"
#include "common/check.h"
#include "common/err.h"
#include "namespace.h"
#include "snapshot_tree.h"
#include "view.h"

static int clone_get(struct tables *t, uint32_t id, struct clone *ret)
{
    struct key key = key_2(TABLE_SNAPSHOT, CLONE_BY_ID, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0 && clone_decode(id, value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "clone");
    return err;
}

static int clone_put(struct tables *t, const struct clone *clone)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct key key = key_2(TABLE_SNAPSHOT, CLONE_BY_ID, clone->id);
    clone_encode(clone, &w);
    return tables_put(t, &key, &w);
}

int clone_named(struct tables *t, uint32_t id, int step)
{
    struct clone clone;
    if (id == 0)
        return 0;
    int err = clone_get(t, id, &clone);
    if (err != 0)
        return err;
    CHECK(step > 0 || clone.names > 0);
    clone.names += (uint64_t)step;
    err = clone_put(t, &clone);
    struct key unnamed = key_2(TABLE_SNAPSHOT, CLONE_UNNAMED, clone.family);
    return err == 0 && clone.names == 0 ? tables_put_empty(t, &unnamed) : err;
}

int clone_named_in(struct tables *t, uint32_t id, uint64_t epoch, int step)
{
    struct key key = key_3(TABLE_SNAPSHOT, CLONE_IN_HISTORY, id, epoch);
    struct kv_val value;
    uint64_t names = 0;
    int err = tables_get(t, &key, &value);
    if (err == 0 && number_decode(value.data, value.len, &names) != 0)
        err = tables_corrupt(t, &key, "history of a clone");
    if (err != 0 && err != -E_NOENT)
        return err;
    CHECK(step > 0 || names > 0);
    names += (uint64_t)step;
    if (names == 0)
        return tables_del(t, &key);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(names, &w);
    return tables_put(t, &key, &w);
}

/* ---- making */

static int clone_add(struct tables *t, uint32_t family, uint32_t snapshot, uint32_t base,
                     uint32_t *ret)
{
    struct state *s = tables_state(t);
    uint32_t id;
    int err = snapshot_free_id(t, CLONE_BY_ID, CLONE_ID_MAX, &s->clone_id, &id);
    if (err != 0)
        return err;
    struct clone clone = {
        .id = id, .family = family == 0 ? id : family, .snapshot = snapshot, .base = base};
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(id, &w);
    struct key by_base = key_3(TABLE_SNAPSHOT, CLONE_BY_BASE, clone.family, base);
    s->clones++;
    err = clone_put(t, &clone);
    if (err == 0)
        err = tables_put(t, &by_base, &w);
    if (err == 0)
        err = snapshot_rests(t, snapshot, 1);
    *ret = id;
    return err;
}

int clone_member_make(struct tables *t, const struct clone *clone, uint32_t base, uint32_t *ret)
{
    return clone_add(t, clone->family, clone->snapshot, base, ret);
}

int clone_cmd_slot(struct tables *t, const void *message)
{
    const Tarn__CloneSlot *m = message;
    struct clone family;
    if (m->family == 0 || m->family > CLONE_ID_MAX || m->of_base > CLONE_ID_MAX)
        return -E_INVAL;
    int err = clone_get(t, m->family, &family);
    struct key by_base = key_3(TABLE_SNAPSHOT, CLONE_BY_BASE, m->family, m->of_base);
    uint32_t id;
    if (err != 0 || tables_has(t, &by_base) || family.family != family.id)
        return err; /* made by somebody else meanwhile */
    return clone_member_make(t, &family, m->of_base, &id);
}

/* The new directory: the snapshot's root under its new number. */
static int clone_root(struct tables *t, const struct tree_snapshot *snapshot, const char *name,
                      struct inode *parent, struct inode *ret)
{
    uint32_t id;
    int err = clone_add(t, 0, snapshot->id, ino_clone(snapshot->root), &id);
    if (err == 0)
        err = ns_inode_get(t, ino_with_clone(snapshot->root, id), ret);
    if (err != 0)
        return err;
    ret->flags &= (uint16_t)~INODE_IMPLICIT;
    inode_fini(ret);
    ns_touch(t, ret, false);
    err = ns_entry_add(t, parent, name, ret);
    if (err == 0)
        err = ns_inode_put(t, parent);
    return err == 0 ? ns_inode_put(t, ret) : err;
}

int clone_cmd_make(struct tables *t, const void *message)
{
    const Tarn__Clone *m = message;
    _cleanup_(inode_fini) struct inode dir = {0};
    _cleanup_(inode_fini) struct inode parent = {0};
    _cleanup_(inode_fini) struct inode root = {0};
    struct tree_snapshot snapshot;
    struct entry entry;
    int err = snapshot_of(t, m->where, m->name, &dir, &snapshot);
    if (err == 0)
        err = ns_name_check(m->new_name);
    if (err == 0)
        err = ns_where_dir(t, m->parent, 0, &parent);
    if (err == 0)
        err = ns_may(t, &parent, NS_WRITE | NS_EXEC);
    if (err == 0) {
        err = ns_entry_get(t, parent.ino, m->new_name, &entry);
        err = err == 0 ? -E_EXIST : err == -E_NOENT ? 0 : err;
    }
    if (err == 0)
        err = clone_root(t, &snapshot, m->new_name, &parent, &root);
    if (err != 0)
        return err;
    Tarn__Attr attr;
    ns_attr(&root, &attr);
    Tarn__Entry reply = TARN__ENTRY__INIT;
    reply.attr = &attr;
    reply.created = true;
    return tables_reply(t, &reply.base);
}

/* ---- giving numbers back */

/* A row that is more than a whiteout: of a file that had another name in the base, outside of what was
 * cloned. Its link count never came to 0. */
static int row_drop(struct tables *t, const struct row *row)
{
    int err = tables_stored_del(t, &row->key);
    if (err != 0 || row_is_whiteout(row->value, row->len))
        return err;
    if (row->key.data[0] == TABLE_EXTENT) {
        struct extent extent;
        if (extent_decode(0, row->value, row->len, &extent) != 0)
            return tables_corrupt(t, &row->key, "extent");
        return chunk_unshare(t, extent.chunk);
    }
    if (row->key.data[0] != TABLE_INODE)
        return 0;
    _cleanup_(inode_fini) struct inode inode = {0};
    err = tables_decoded(t, &row->key, "inode", inode_decode(0, row->value, row->len, &inode));
    if (err != 0)
        return err;
    if (inode.type == TARN__FILE_TYPE__FT_FILE)
        tables_state(t)->files--;
    return 0;
}

/* What is left of an unnamed clone: whiteouts mostly, and cover rows. *budget counts down. */
static int rows_drop(struct tables *t, uint32_t id, unsigned *budget)
{
    static const enum table tables[] = {TABLE_INODE, TABLE_ENTRY, TABLE_XATTR, TABLE_EXTENT,
                                        TABLE_LINK,  TABLE_COVER};
    int err = 0;
    for (size_t i = 0; i < ARRAY_SIZE(tables) && err == 0; i++) {
        struct key prefix = clone_rows(tables[i], id);
        _cleanup_(rows_fini) struct rows rows = {0};
        err = tables_stored_rows(t, &prefix, &prefix, *budget, &rows);
        for (size_t j = 0; j < rows.count && err == 0; j++) {
            const struct row *row = &rows.rows[j];
            err = tables[i] == TABLE_COVER ? view_cover_drop(t, key_number(&row->key, 0))
                                           : row_drop(t, row);
        }
        *budget -= (unsigned)rows.count;
    }
    return err;
}

static int member_remove(struct tables *t, uint32_t family, uint32_t id, uint32_t base)
{
    struct clone clone;
    struct key row = key_2(TABLE_SNAPSHOT, CLONE_BY_ID, id);
    struct key by_base = key_3(TABLE_SNAPSHOT, CLONE_BY_BASE, family, base);
    int err = clone_get(t, id, &clone);
    if (err == 0)
        err = tables_del(t, &row);
    if (err == 0)
        err = tables_del(t, &by_base);
    if (err != 0)
        return err;
    tables_state(t)->clones--;
    view_forget(t);
    return snapshot_rests(t, clone.snapshot, -1);
}

static int family_remove(struct tables *t, const struct reach *reach, uint32_t family,
                         unsigned *budget)
{
    int err = 0;
    uint32_t base;
    for (uint32_t at = 0; err == 0 && reach_member(reach, family, &at, &base);)
        err = rows_drop(t, at, budget);
    if (err != 0 || *budget == 0)
        return err;
    for (uint32_t at = 0; err == 0 && reach_member(reach, family, &at, &base);)
        err = member_remove(t, family, at, base);
    struct key row = key_2(TABLE_SNAPSHOT, CLONE_UNNAMED, family);
    return err == 0 ? tables_del(t, &row) : err;
}

bool clone_work_due(struct tables *t)
{
    struct key prefix = key_1(TABLE_SNAPSHOT, CLONE_UNNAMED);
    _cleanup_(rows_fini) struct rows rows = {0};
    _cleanup_(reach_free) struct reach *reach = NULL;
    if (tables_rows(t, &prefix, &prefix, CLONE_ID_MAX, &rows) != 0 || rows.count == 0 ||
        reach_find(t, &reach) != 0)
        return false;
    for (size_t i = 0; i < rows.count; i++) {
        uint32_t family = (uint32_t)key_number(&rows.rows[i].key, 1);
        if (reach_named(reach, family) || !reach_sees(reach, family))
            return true;
    }
    return false;
}

int clone_step(struct tables *t, unsigned rows_max)
{
    struct key prefix = key_1(TABLE_SNAPSHOT, CLONE_UNNAMED);
    _cleanup_(rows_fini) struct rows rows = {0};
    _cleanup_(reach_free) struct reach *reach = NULL;
    int err = tables_rows(t, &prefix, &prefix, CLONE_ID_MAX, &rows);
    if (err == 0 && rows.count > 0)
        err = reach_find(t, &reach);
    for (size_t i = 0; i < rows.count && err == 0 && rows_max > 0; i++) {
        uint32_t family = (uint32_t)key_number(&rows.rows[i].key, 1);
        if (reach_named(reach, family)) /* it got one again, or another number of it has */
            err = tables_del(t, &rows.rows[i].key);
        else if (!reach_sees(reach, family))
            err = family_remove(t, reach, family, &rows_max);
    }
    return err;
}
