/* Writing. Before a row of the tree changes:
 *
 *   1. what the newest covering snapshot needs is put into history (K2), unless it is there already
 *      or the inode came later;
 *   2. in a clone, the first change of a row takes over what the base's row stands for: a reference
 *      to its chunk, a file that is counted, the link rows;
 *   3. an entry that goes leaves its directory's coverage with what it named (K3);
 *   4. entries that name an inode of a clone from outside are counted (K7). */
#include "chunkmap.h"
#include "common/check.h"
#include "common/err.h"
#include "snapshot_tree.h"
#include "view_impl.h"

struct change {
    struct tables *t;
    const struct key *key;
    uint64_t ino;
    struct stored_row old;
    bool base;               /* the base shows a row here */
    struct kv_val base_value; /* … when the old row is absent */
};

static int entry_of(struct tables *t, const struct key *key, const struct kv_val *value,
                    struct entry *ret)
{
    return entry_decode(value->data, value->len, ret) != 0
               ? tables_corrupt(t, key, "directory entry")
               : 0;
}

/* An entry names (step 1), or names no more (-1), an inode of another clone number than its
 * directory's. */
static int count_name(struct tables *t, const struct key *key, const struct entry *entry, int step)
{
    uint32_t clone = ino_clone(entry->ino);
    return clone == 0 || clone == ino_clone(key_number(key, 0)) ? 0
                                                                : clone_named(t, clone, step);
}

/* ---- 1: history */

int history_refer(struct tables *t, const struct key *key, uint64_t epoch,
                  const struct history *history, int step)
{
    struct kv_val value = {.data = history->data, .len = history->len};
    if (history->kind != ROW_VALUE)
        return 0;
    if (key->data[0] == TABLE_ENTRY) {
        struct entry entry;
        int err = entry_of(t, key, &value, &entry);
        uint32_t clone = err == 0 ? ino_clone(entry.ino) : 0;
        return clone == 0 || clone == ino_clone(key_number(key, 0))
                   ? err
                   : clone_named_in(t, clone, epoch, step);
    }
    if (key->data[0] != TABLE_EXTENT)
        return 0;
    struct extent extent;
    if (extent_decode(key_number(key, 1), value.data, value.len, &extent) != 0)
        return tables_corrupt(t, key, "extent");
    return step > 0 ? chunk_share(t, extent.chunk) : chunk_unshare(t, extent.chunk);
}

int history_put(struct tables *t, const struct key *key, uint64_t epoch,
                const struct history *history)
{
    struct key row = key_history(key, epoch), index = key_history_of(epoch, key);
    _cleanup_(writer_fini) struct writer w = {0};
    history_encode(history, &w);
    int err = tables_put(t, &row, &w);
    return err == 0 ? tables_put_empty(t, &index) : err;
}

int history_remove(struct tables *t, const struct key *key, uint64_t epoch)
{
    struct key row = key_history(key, epoch), index = key_history_of(epoch, key);
    int err = tables_del(t, &row);
    return err == 0 ? tables_del(t, &index) : err;
}

/* An extent of an open chunk was made after every snapshot that can see its file (K5: taking one
 * seals). One that nevertheless covers it does so by excess, and keeps nothing. */
static int is_open(struct tables *t, const struct change *c, bool *ret)
{
    struct extent extent;
    struct chunk chunk;
    *ret = false;
    if (c->key->data[0] != TABLE_EXTENT || c->old.kind != ROW_VALUE)
        return 0;
    if (extent_decode(0, c->old.value.data, c->old.value.len, &extent) != 0)
        return tables_corrupt(t, c->key, "extent");
    int err = chunk_get(t, extent.chunk, &chunk);
    *ret = err == 0 && chunk.state == TARN__CHUNK_STATE__CHUNK_OPEN;
    return err;
}

static int keep_history(struct change *c)
{
    struct tables *t = c->t;
    if (t->state.snapshots == 0 || ino_number(c->ino) >= t->state.snapshot_next_ino)
        return 0;
    struct coverage coverage;
    bool there, open;
    int err = view_coverage(t, c->ino, &coverage);
    if (err != 0 || coverage.epoch == 0 || ino_number(c->ino) >= coverage.next_ino)
        return err;
    err = view_history_any(t, c->key, coverage.epoch, &there);
    if (err == 0 && !there)
        err = is_open(t, c, &open);
    if (err != 0 || there || open)
        return err;
    struct history history = {.kind = c->old.kind,
                              .set = coverage.set,
                              .data = c->old.value.data,
                              .len = c->old.value.len};
    err = history_put(t, c->key, coverage.epoch, &history);
    return err == 0 ? history_refer(t, c->key, coverage.epoch, &history, 1) : err;
}

int view_history_absent(struct tables *t, const struct key *key)
{
    struct change c = {.t = t, .key = key, .ino = key_number(key, 0)};
    return keep_history(&c);
}

/* ---- 2: what a clone takes over */

static int take_over(struct change *c)
{
    struct tables *t = c->t;
    if (c->old.kind != ROW_ABSENT || !c->base)
        return 0;
    if (c->key->data[0] == TABLE_EXTENT) {
        struct extent extent;
        if (extent_decode(0, c->base_value.data, c->base_value.len, &extent) != 0)
            return tables_corrupt(t, c->key, "extent");
        return chunk_share(t, extent.chunk);
    }
    if (c->key->data[0] != TABLE_INODE)
        return 0;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = tables_decoded(t, c->key, "inode", inode_decode(c->ino, c->base_value.data, c->base_value.len, &inode));
    if (err != 0)
        return err;
    bool file = inode.type == TARN__FILE_TYPE__FT_FILE;
    if (file)
        tables_state(t)->files++;
    return inode.type != TARN__FILE_TYPE__FT_DIR && inode.nlink > 1
               ? view_links_take_over(t, c->ino)
               : 0;
}

/* ---- 3 and 4: entries */

static int entry_changes(struct change *c, const struct writer *value)
{
    struct tables *t = c->t;
    struct entry old = {0}, new = {0};
    const struct kv_val *shown = c->old.kind == ROW_VALUE ? &c->old.value : &c->base_value;
    bool any = c->old.kind == ROW_VALUE || (c->old.kind == ROW_ABSENT && c->base);
    int err = any ? entry_of(t, c->key, shown, &old) : 0;
    if (err == 0 && value != NULL)
        err = entry_decode(value->data, value->len, &new);
    if (err != 0)
        return err;
    if (ino_snapshot(new.ino) != 0)
        return tables_fail(t, -E_ROFS, "a snapshot's file cannot be named outside of it");
    if (any && old.ino != new.ino && t->state.snapshots > 0)
        err = view_left(t, c->ino, old.ino);
    if (err == 0 && c->old.kind == ROW_VALUE)
        err = count_name(t, c->key, &old, -1);
    return err == 0 && value != NULL ? count_name(t, c->key, &new, 1) : err;
}

static int look(struct change *c)
{
    int err = view_stored(c->t, c->key, VIEW_NOW, &c->old);
    if (err == 0 && c->old.kind == ROW_VALUE) /* tables change below: what is borrowed would go */
        err = view_keep(c->t, c->old.value.data, c->old.value.len, &c->old.value);
    if (err != 0 || ino_clone(c->ino) == 0 || c->key->data[0] == TABLE_LINK)
        return err;
    err = view_base_get(c->t, c->key, &c->base_value);
    c->base = err == 0;
    if (err == 0)
        err = view_keep(c->t, c->base_value.data, c->base_value.len, &c->base_value);
    return err == -E_NOENT ? 0 : err;
}

int view_change(struct tables *t, const struct key *key, const struct writer *value,
                bool *ret_whiteout)
{
    struct change c = {.t = t, .key = key, .ino = key_number(key, 0)};
    *ret_whiteout = false;
    if (ino_snapshot(c.ino) != 0)
        return tables_fail(t, -E_ROFS, "a snapshot cannot be changed");
    if (view_is_list_name(key))
        return tables_fail(t, -E_EXIST, "the name " SNAPSHOT_DIR " is that of the snapshots");
    int err = 0;
    if (key->data[0] == TABLE_LINK && ino_clone(c.ino) != 0)
        err = view_links_take_over(t, c.ino);
    if (err == 0)
        err = look(&c);
    if (err == 0)
        err = keep_history(&c);
    if (err == 0)
        err = take_over(&c);
    if (err == 0 && key->data[0] == TABLE_ENTRY)
        err = entry_changes(&c, value);
    if (err == 0 && key->data[0] == TABLE_INODE && value == NULL)
        err = view_cover_drop(t, c.ino);
    *ret_whiteout = value == NULL && c.base;
    return err;
}
