/* Reading: a stored row as it was at an epoch is the history row with the smallest epoch from there
 * on, else the row itself (K2). A clone has its own row, or a whiteout, or shows its base's; numbers
 * in the base's rows are translated on the way. Scans go from key to key over the three sources
 * (rows, history, base) and look each up; views are read seldom enough for that. */
#include "view_impl.h"

#include "common/check.h"
#include "common/err.h"
#include "snapshot_tree.h"

/* ---- memory of a command */

struct view_memory *view_memory(struct tables *t)
{
    if (t->view == NULL)
        t->view = calloc(1, sizeof *t->view);
    return t->view;
}

void view_forget(struct tables *t)
{
    if (t->view == NULL)
        return;
    t->view->n_snapshots = t->view->n_clones = t->view->n_covers = 0;
}

int view_keep(struct tables *t, const void *data, size_t n, struct kv_val *ret)
{
    uint8_t *copy = arena_alloc(&t->arena, n + 1);
    if (copy == NULL)
        return -E_NOMEM;
    memcpy(copy, data, n);
    *ret = (struct kv_val){.data = copy, .len = n};
    return 0;
}

int view_snapshot(struct tables *t, uint32_t id, const struct tree_snapshot **ret)
{
    struct view_memory *m = view_memory(t);
    if (m == NULL)
        return -E_NOMEM;
    for (unsigned i = 0; i < MIN(m->n_snapshots, VIEW_REMEMBERED); i++)
        if (m->snapshots[i].id == id) {
            *ret = &m->snapshots[i];
            return 0;
        }
    struct key key = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_ID, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err == -E_NOENT ? -E_STALE : err;
    struct tree_snapshot *slot = &m->snapshots[m->n_snapshots++ % VIEW_REMEMBERED];
    err = tree_snapshot_decode(id, value.data, value.len, slot);
    *ret = slot;
    return err != 0 ? tables_corrupt(t, &key, "snapshot") : 0;
}

int view_clone(struct tables *t, uint32_t id, const struct clone **ret)
{
    struct view_memory *m = view_memory(t);
    if (m == NULL)
        return -E_NOMEM;
    for (unsigned i = 0; i < MIN(m->n_clones, VIEW_REMEMBERED); i++)
        if (m->clones[i].id == id) {
            *ret = &m->clones[i];
            return 0;
        }
    struct key key = key_2(TABLE_SNAPSHOT, CLONE_BY_ID, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    struct clone *slot = &m->clones[m->n_clones++ % VIEW_REMEMBERED];
    err = clone_decode(id, value.data, value.len, slot);
    *ret = slot;
    return err != 0 ? tables_corrupt(t, &key, "clone") : 0;
}

int view_clone_member(struct tables *t, const struct clone *clone, uint32_t base, uint32_t *ret)
{
    if (base == clone->base) {
        *ret = clone->id;
        return 0;
    }
    struct key key = key_3(TABLE_SNAPSHOT, CLONE_BY_BASE, clone->family, base);
    struct kv_val value;
    uint64_t id;
    int err = tables_get(t, &key, &value);
    if (err == 0 && number_decode(value.data, value.len, &id) != 0)
        return tables_corrupt(t, &key, "clone of a base");
    if (err == 0)
        *ret = (uint32_t)id;
    if (err != -E_NOENT)
        return err;
    if (t->write)
        return clone_member_make(t, clone, base, ret);
    t->result->slot_family = clone->family;
    t->result->slot_base = base;
    return -E_BUSY;
}

/* ---- stored rows */

struct key view_key_with(const struct key *key, uint64_t ino)
{
    struct key with = *key;
    for (unsigned i = 0; i < 8; i++)
        with.data[1 + i] = (uint8_t)(ino >> (56 - 8 * i));
    return with;
}

static struct key without_snapshot(const struct key *key)
{
    return view_key_with(key, ino_with_snapshot(key_number(key, 0), 0));
}

static int first_value(void *arg, struct kv_val key, struct kv_val value)
{
    *(struct kv_val *)arg = value;
    return 1;
}

static int history_first(struct tables *t, const struct key *key, uint64_t epoch,
                         struct kv_val *ret)
{
    struct key start = key_history(key, epoch), prefix = key_history_prefix(key);
    *ret = (struct kv_val){0};
    return tables_scan(t, &start, &prefix, first_value, ret);
}

int view_history_any(struct tables *t, const struct key *key, uint64_t epoch, bool *ret)
{
    struct kv_val value;
    int err = history_first(t, key, epoch, &value);
    *ret = value.data != NULL;
    return err;
}

int view_stored(struct tables *t, const struct key *key, uint64_t epoch, struct stored_row *ret)
{
    struct history history;
    struct kv_val value = {0};
    *ret = (struct stored_row){0};
    int err = epoch == VIEW_NOW ? 0 : history_first(t, key, epoch, &value);
    if (err == 0 && value.data != NULL) {
        if (history_decode(value.data, value.len, &history) != 0)
            return tables_corrupt(t, key, "history");
        ret->kind = history.kind;
        ret->value = (struct kv_val){.data = history.data, .len = history.len};
        return 0;
    }
    if (err == 0)
        err = tables_stored_get(t, key, &ret->value);
    if (err == 0)
        ret->kind =
            row_is_whiteout(ret->value.data, ret->value.len) ? ROW_WHITEOUT : ROW_VALUE;
    return err == -E_NOENT ? 0 : err;
}

/* ---- numbers inside rows */

/* How the numbers in a row become those of who reads it. */
struct translation {
    const struct clone *clone; /* from its base; NULL: not through a clone */
    uint32_t snapshot;         /* the view; 0 none */
    uint64_t root;             /* of that snapshot: its parent is the directory of snapshots */
};

static int translate_ino(struct tables *t, const struct translation *how, uint64_t *ino)
{
    if (how->clone != NULL) {
        uint32_t member;
        int err = view_clone_member(t, how->clone, ino_clone(*ino), &member);
        if (err != 0)
            return err;
        *ino = ino_with_clone(*ino, member);
    }
    *ino = ino_with_snapshot(*ino, how->snapshot);
    return 0;
}

static int translate_entry(struct tables *t, const struct translation *how,
                           const struct key *key, struct kv_val *value)
{
    struct entry entry;
    if (entry_decode(value->data, value->len, &entry) != 0)
        return tables_corrupt(t, key, "directory entry");
    int err = translate_ino(t, how, &entry.ino);
    if (err != 0)
        return err;
    _cleanup_(writer_fini) struct writer w = {0};
    entry_encode(&entry, &w);
    return w.failed ? -E_NOMEM : view_keep(t, w.data, w.len, value);
}

static int translate_inode(struct tables *t, const struct translation *how,
                           const struct key *key, struct kv_val *value)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    uint64_t ino = ino_with_snapshot(key_number(key, 0), 0);
    int err = tables_decoded(t, key, "inode", inode_decode(ino, value->data, value->len, &inode));
    if (err != 0)
        return err;
    inode.flags &= (uint16_t)~(INODE_QUOTA | INODE_POLICY); /* their rows are the live directory's */
    if (how->snapshot != 0 && ino == how->root)
        inode.parent = ino_with_snapshot(ino, SNAPSHOT_LIST_ID);
    else if (inode.parent != 0)
        err = translate_ino(t, how, &inode.parent);
    if (err != 0)
        return err;
    _cleanup_(writer_fini) struct writer w = {0};
    inode_encode(&inode, &w);
    return w.failed ? -E_NOMEM : view_keep(t, w.data, w.len, value);
}

static int translate(struct tables *t, const struct translation *how, const struct key *key,
                     struct kv_val *value)
{
    if (how->clone == NULL && how->snapshot == 0)
        return 0;
    if (key->data[0] == TABLE_ENTRY)
        return translate_entry(t, how, key, value);
    return key->data[0] == TABLE_INODE ? translate_inode(t, how, key, value) : 0;
}

/* ---- the directory of a directory's snapshots */

static int list_inode(struct tables *t, uint64_t dir, struct kv_val *ret)
{
    struct key key = key_1(TABLE_INODE, dir), names = key_snapshot_name(dir, "", 0);
    _cleanup_(inode_fini) struct inode inode = {0};
    _cleanup_(rows_fini) struct rows rows = {0};
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0)
        err = tables_decoded(t, &key, "inode", inode_decode(dir, value.data, value.len, &inode));
    if (err == 0 && inode.nlink == 0)
        err = -E_NOENT;
    if (err == 0)
        err = tables_rows(t, &names, &names, SNAPSHOT_ID_MAX, &rows);
    if (err != 0)
        return err;
    struct inode list = {.type = inode.type,
                         .mode = inode.mode & 0555,
                         .nlink = 2 + (uint32_t)rows.count,
                         .uid = inode.uid,
                         .gid = inode.gid,
                         .mtime = inode.btime,
                         .ctime = inode.btime,
                         .atime = inode.btime,
                         .btime = inode.btime,
                         .version = t->state.snapshot_epoch + rows.count + 1,
                         .parent = dir,
                         .entries = rows.count};
    _cleanup_(writer_fini) struct writer w = {0};
    inode_encode(&list, &w);
    return w.failed ? -E_NOMEM : view_keep(t, w.data, w.len, ret);
}

static int entry_keep(struct tables *t, uint64_t ino, struct kv_val *ret)
{
    _cleanup_(writer_fini) struct writer w = {0};
    entry_encode(&(struct entry){.ino = ino, .type = TARN__FILE_TYPE__FT_DIR}, &w);
    return w.failed ? -E_NOMEM : view_keep(t, w.data, w.len, ret);
}

static int list_entry_get(struct tables *t, uint64_t dir, const char *name, size_t len,
                          struct kv_val *ret)
{
    struct key key = key_snapshot_name(dir, name, len);
    struct kv_val value;
    uint64_t id;
    int err = tables_get(t, &key, &value);
    if (err == 0 && number_decode(value.data, value.len, &id) != 0)
        err = tables_corrupt(t, &key, "name of a snapshot");
    return err == 0 ? entry_keep(t, ino_with_snapshot(dir, (uint32_t)id), ret) : err;
}

static int list_get(struct tables *t, const struct key *key, struct kv_val *ret)
{
    uint64_t dir = ino_with_snapshot(key_number(key, 0), 0);
    size_t len = 0;
    const char *name = key_name(key, &len);
    if (key->data[0] == TABLE_INODE)
        return list_inode(t, dir, ret);
    return key->data[0] == TABLE_ENTRY ? list_entry_get(t, dir, name, len, ret) : -E_NOENT;
}

/* ---- one row */

static int row_get(struct tables *t, const struct key *key, bool inside, struct kv_val *ret);

int view_base_get(struct tables *t, const struct key *key, struct kv_val *ret)
{
    uint64_t ino = key_number(key, 0);
    const struct clone *clone;
    int err = view_clone(t, ino_clone(ino), &clone);
    if (err != 0)
        return err;
    struct clone copy = *clone; /* reading may make the memory forget it */
    ino = ino_with_snapshot(ino_with_clone(ino, copy.base), copy.snapshot);
    struct key base = view_key_with(key, ino);
    err = row_get(t, &base, true, ret);
    struct translation how = {.clone = &copy};
    return err == 0 ? translate(t, &how, key, ret) : err;
}

/* What a view of a snapshot needs of it. `inside`: on the way to a clone's base. */
static int view_enter(struct tables *t, uint32_t id, bool inside, struct tree_snapshot *ret)
{
    const struct tree_snapshot *snapshot;
    int err = view_snapshot(t, id, &snapshot);
    if (err != 0)
        return err;
    if (snapshot->state == SNAPSHOT_GOING || (snapshot->state != SNAPSHOT_LIVE && !inside))
        return -E_STALE;
    *ret = *snapshot;
    return 0;
}

/* An extent in a snapshot ends with its file: of one that was being written the live row may reach
 * further, over what was not part of the file then (C6). */
static int clip_extent(struct tables *t, const struct key *key, bool inside, struct kv_val *value)
{
    struct extent extent;
    _cleanup_(inode_fini) struct inode inode = {0};
    uint64_t ino = key_number(key, 0), offset = key_number(key, 1);
    struct key of_inode = key_1(TABLE_INODE, ino);
    struct kv_val row;
    if (extent_decode(offset, value->data, value->len, &extent) != 0)
        return tables_corrupt(t, key, "extent");
    int err = row_get(t, &of_inode, inside, &row);
    if (err == 0)
        err = tables_decoded(t, &of_inode, "inode", inode_decode(ino, row.data, row.len, &inode));
    if (err != 0)
        return err;
    if (inode.size <= offset)
        return -E_NOENT;
    if (extent.length <= inode.size - offset)
        return 0;
    extent.length = inode.size - offset;
    _cleanup_(writer_fini) struct writer w = {0};
    extent_encode(&extent, &w);
    return w.failed ? -E_NOMEM : view_keep(t, w.data, w.len, value);
}

static int row_get(struct tables *t, const struct key *key, bool inside, struct kv_val *ret)
{
    uint64_t ino = key_number(key, 0);
    uint32_t id = ino_snapshot(ino);
    if (id == SNAPSHOT_LIST_ID)
        return list_get(t, key, ret);
    struct tree_snapshot snapshot = {.epoch = VIEW_NOW};
    int err = id == 0 ? 0 : view_enter(t, id, inside, &snapshot);
    if (err != 0)
        return err;
    struct key stored = without_snapshot(key);
    struct stored_row row;
    err = view_stored(t, &stored, snapshot.epoch, &row);
    if (err != 0)
        return err;
    bool based = ino_clone(ino) != 0 && key->data[0] != TABLE_LINK;
    if (row.kind == ROW_WHITEOUT || (row.kind == ROW_ABSENT && !based))
        return -E_NOENT;
    if (row.kind == ROW_ABSENT)
        err = view_base_get(t, &stored, &row.value);
    struct translation how = {.snapshot = id, .root = snapshot.root};
    if (err == 0)
        err = translate(t, &how, key, &row.value);
    if (err == 0 && id != 0 && key->data[0] == TABLE_EXTENT)
        err = clip_extent(t, key, inside, &row.value);
    if (err == 0)
        *ret = row.value;
    return err;
}

int view_get(struct tables *t, const struct key *key, struct kv_val *ret)
{
    uint64_t ino = key_number(key, 0);
    if (view_is_list_name(key))
        return ino_snapshot(ino) == 0
                   ? entry_keep(t, ino_with_snapshot(ino, SNAPSHOT_LIST_ID), ret)
                   : -E_NOENT;
    if (key->data[0] == TABLE_LINK && ino_snapshot(ino) == 0)
        return view_links_get(t, key, ret);
    return row_get(t, key, false, ret);
}

/* ---- going from key to key */

struct next_key {
    const struct key *from;
    bool after; /* from itself is not meant */
    bool history;
    bool found;
    struct key key;
};

static int key_compare(const struct key *a, const struct key *b)
{
    int order = memcmp(a->data, b->data, MIN(a->len, b->len));
    return order != 0 ? order : (int)a->len - (int)b->len;
}

static int next_visit(void *arg, struct kv_val key, struct kv_val value)
{
    struct next_key *next = arg;
    uint64_t epoch;
    int err = 0;
    if (next->history)
        err = key_of_history(key.data, key.len, &next->key, &epoch);
    else
        next->key = key_append((struct key){0}, key.data, key.len);
    if (err != 0)
        return err;
    int order = key_compare(&next->key, next->from);
    if (order < 0 || (order == 0 && next->after))
        return 0;
    next->found = true;
    return 1;
}

/* The first key of rows or of history from next->from on. History of `from` itself is passed over by
 * the visitor: at most one row for each snapshot. */
static int next_stored(struct tables *t, const struct key *prefix, struct next_key *next)
{
    struct key start = *next->from, within = *prefix;
    if (next->history) {
        start = key_append(key_table(TABLE_HISTORY), start.data, start.len);
        within = key_append(key_table(TABLE_HISTORY), within.data, within.len);
    }
    int err = tables_stored_scan(t, &start, &within, next_visit, next);
    return err == -E_CORRUPT ? tables_corrupt(t, next->from, "history") : err;
}

static void take_lower(struct next_key *best, const struct next_key *other)
{
    if (other->found && (!best->found || key_compare(&other->key, &best->key) < 0)) {
        best->key = other->key;
        best->found = true;
    }
}

static int list_next(struct tables *t, const struct key *from, bool after,
                     const struct key *prefix, struct next_key *best)
{
    uint64_t ino = key_number(prefix, 0), dir = ino_with_snapshot(ino, 0);
    if (prefix->data[0] != TABLE_ENTRY)
        return 0;
    size_t n = prefix->len - 9u, m = from->len - 9u;
    struct key within = key_snapshot_name(dir, (const char *)prefix->data + 9, n);
    struct key start = key_snapshot_name(dir, (const char *)from->data + 9, m);
    struct next_key next = {.from = &start, .after = after};
    int err = tables_stored_scan(t, &start, &within, next_visit, &next);
    if (err == 0 && next.found) {
        best->found = true;
        best->key = key_named(TABLE_ENTRY, ino, (const char *)next.key.data + 17,
                              next.key.len - 17u);
    }
    return err;
}

/* The first key from `from` on that may have a row. */
static int key_next(struct tables *t, const struct key *from, bool after,
                    const struct key *prefix, bool inside, struct next_key *best)
{
    uint64_t ino = key_number(prefix, 0);
    uint32_t id = ino_snapshot(ino);
    *best = (struct next_key){0};
    if (id == SNAPSHOT_LIST_ID)
        return list_next(t, from, after, prefix, best);
    struct tree_snapshot snapshot = {0};
    int err = id == 0 ? 0 : view_enter(t, id, inside, &snapshot);
    struct key start = without_snapshot(from), within = without_snapshot(prefix);
    struct next_key next = {.from = &start, .after = after};
    if (err == 0)
        err = next_stored(t, &within, &next);
    take_lower(best, &next);
    next = (struct next_key){.from = &start, .after = after, .history = true};
    if (err == 0 && id != 0)
        err = next_stored(t, &within, &next);
    take_lower(best, &next);
    if (err == 0 && ino_clone(ino) != 0 && prefix->data[0] != TABLE_LINK) {
        const struct clone *clone;
        err = view_clone(t, ino_clone(ino), &clone);
        if (err != 0)
            return err;
        uint64_t base =
            ino_with_snapshot(ino_with_clone(ino, clone->base), clone->snapshot);
        struct key base_from = view_key_with(from, base), base_prefix = view_key_with(prefix, base);
        err = key_next(t, &base_from, after, &base_prefix, true, &next);
        if (next.found)
            next.key = view_key_with(&next.key, ino_with_snapshot(ino, 0));
        take_lower(best, &next);
    }
    if (best->found)
        best->key = view_key_with(&best->key, ino);
    return err;
}

static int scan(struct tables *t, const struct key *start, const struct key *prefix, bool inside,
                kv_visit fn, void *arg)
{
    struct key from = key_compare(start, prefix) < 0 ? *prefix : *start;
    struct next_key next;
    bool after = false;
    int err = 0;
    if (memcmp(from.data, prefix->data, MIN(from.len, prefix->len)) != 0)
        return 0; /* behind everything with the prefix */
    while (err == 0) {
        err = key_next(t, &from, after, prefix, inside, &next);
        if (err != 0 || !next.found)
            return err;
        from = next.key;
        after = true;
        struct kv_val value;
        err = row_get(t, &from, inside, &value);
        if (err == 0)
            err = fn(arg, (struct kv_val){.data = from.data, .len = from.len}, value);
        else if (err == -E_NOENT)
            err = 0;
    }
    return err == 1 ? 0 : err;
}

int view_scan(struct tables *t, const struct key *start, const struct key *prefix, kv_visit fn,
              void *arg)
{
    if (prefix->data[0] == TABLE_LINK && ino_snapshot(key_number(prefix, 0)) == 0)
        return view_links_scan(t, prefix, fn, arg);
    return scan(t, start, prefix, false, fn, arg);
}

int view_inside_scan(struct tables *t, const struct key *prefix, kv_visit fn, void *arg)
{
    return scan(t, prefix, prefix, true, fn, arg);
}

int view_inside_stored(struct tables *t, const struct key *key, struct stored_row *ret)
{
    uint32_t id = ino_snapshot(key_number(key, 0));
    struct tree_snapshot snapshot = {.epoch = VIEW_NOW};
    int err = id == 0 ? 0 : view_enter(t, id, true, &snapshot);
    struct key stored = without_snapshot(key);
    return err == 0 ? view_stored(t, &stored, snapshot.epoch, ret) : err;
}

/* ---- the last extent up to an offset */

/* The last key up to `at` that may have a row. */
static int key_last(struct tables *t, const struct key *at, const struct key *prefix, bool inside,
                    struct next_key *best)
{
    uint64_t ino = key_number(prefix, 0), epoch;
    uint32_t id = ino_snapshot(ino);
    *best = (struct next_key){0};
    struct tree_snapshot snapshot = {0};
    int err = id == 0 ? 0 : view_enter(t, id, inside, &snapshot);
    struct key stored = without_snapshot(at), within = without_snapshot(prefix);
    struct kv_val found, value;
    if (err == 0)
        err = tables_stored_last(t, &stored, &within, &found, &value);
    if (err == 0) {
        best->found = true;
        best->key = key_append((struct key){0}, found.data, found.len);
    }
    struct key history_at = key_history(&stored, UINT64_MAX);
    struct key history = key_append(key_table(TABLE_HISTORY), within.data, within.len);
    struct key other;
    err = err == -E_NOENT ? 0 : err;
    if (err == 0 && id != 0)
        err = tables_stored_last(t, &history_at, &history, &found, &value);
    if (err == 0 && id != 0 && key_of_history(found.data, found.len, &other, &epoch) != 0)
        err = tables_corrupt(t, at, "history");
    if (err == 0 && id != 0 && (!best->found || key_compare(&other, &best->key) > 0)) {
        best->found = true;
        best->key = other;
    }
    err = err == -E_NOENT ? 0 : err;
    if (err == 0 && ino_clone(ino) != 0) {
        const struct clone *clone;
        err = view_clone(t, ino_clone(ino), &clone);
        if (err != 0)
            return err;
        uint64_t base = ino_with_snapshot(ino_with_clone(ino, clone->base), clone->snapshot);
        struct key base_at = view_key_with(at, base), base_prefix = view_key_with(prefix, base);
        struct next_key next;
        err = key_last(t, &base_at, &base_prefix, true, &next);
        if (next.found)
            next.key = view_key_with(&next.key, ino_with_snapshot(ino, 0));
        if (err == 0 && next.found && (!best->found || key_compare(&next.key, &best->key) > 0)) {
            best->found = true;
            best->key = next.key;
        }
    }
    if (best->found)
        best->key = view_key_with(&best->key, ino);
    return err;
}

int view_last(struct tables *t, const struct key *at, const struct key *prefix,
              struct kv_val *ret_key, struct kv_val *ret_value)
{
    uint64_t ino = key_number(prefix, 0);
    CHECK(prefix->data[0] == TABLE_EXTENT && at->len == 17);
    if (ino_snapshot(ino) == SNAPSHOT_LIST_ID)
        return -E_NOENT;
    struct key from = *at;
    for (;;) {
        struct next_key last;
        int err = key_last(t, &from, prefix, false, &last);
        if (err != 0 || !last.found)
            return err != 0 ? err : -E_NOENT;
        err = row_get(t, &last.key, false, ret_value);
        if (err == 0)
            return view_keep(t, last.key.data, last.key.len, ret_key);
        uint64_t offset = key_number(&last.key, 1);
        if (err != -E_NOENT || offset == 0)
            return err;
        from = key_2(TABLE_EXTENT, ino, offset - 1);
    }
}
