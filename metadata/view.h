/* What a row of the tree is in a snapshot or a clone. tables_get() and its kind come here with keys
 * whose inode number has a snapshot or a clone in it (record_view.h), tables_put() and tables_del()
 * with every change that a snapshot or clone may have to know of; the rest of the state machine uses
 * such numbers like any other. Only rows of inodes, entries, extended attributes, extents and links
 * have history ("rows of the tree"). Invariants K1-K8 in docs/invariants.md, reasons in
 * docs/decisions/snapshots.md. Threads: the transaction's. */
#ifndef TARN_METADATA_VIEW_H
#define TARN_METADATA_VIEW_H

#include "record_view.h"
#include "tables.h"

#define VIEW_NOW UINT64_MAX /* in place of an epoch: the tables as they are */

/* What a command remembers of snapshots, clones and coverage: made at first use, a flat block that is
 * freed with the tables. Rows put together for views are in the tables' arena. */
struct view_memory;
/* Snapshots, clones or parents have changed: nothing remembered is used any more. */
void view_forget(struct tables *t);

static inline bool view_has_history(const struct key *key)
{
    uint8_t table = key->data[0];
    return key->len >= 9 && (table == TABLE_INODE || table == TABLE_ENTRY || table == TABLE_XATTR ||
                             table == TABLE_EXTENT || table == TABLE_LINK);
}
/* The entry of the directory of snapshots. */
static inline bool view_is_list_name(const struct key *key)
{
    return key->data[0] == TABLE_ENTRY && key->len == 9 + sizeof SNAPSHOT_DIR - 1 &&
           memcmp(key->data + 9, SNAPSHOT_DIR, sizeof SNAPSHOT_DIR - 1) == 0;
}
/* True when the row is not, or not only, what is stored under the key. */
static inline bool view_is_virtual(const struct key *key)
{
    return view_has_history(key) &&
           ((key->data[1] | key->data[2] | key->data[3]) != 0 || view_is_list_name(key));
}

/* As tables_get(), tables_scan(), tables_last() for virtual keys; the prefix has an inode number.
 * -E_STALE: the snapshot is gone. -E_BUSY in a query: a clone number must be made first
 * (fsm_result.slot_family). Values live as long as the transaction or until the next change. */
int view_get(struct tables *t, const struct key *key, struct kv_val *ret);
int view_scan(struct tables *t, const struct key *start, const struct key *prefix, kv_visit fn,
              void *arg);
int view_last(struct tables *t, const struct key *at, const struct key *prefix,
              struct kv_val *ret_key, struct kv_val *ret_value); /* extents only */

/* Before a row of the tree is put (value) or removed (NULL): keeps what snapshots need, carries what
 * a clone takes over from its base, counts names of clones. *ret_whiteout: a removal must leave a
 * whiteout. -E_ROFS in a snapshot, -E_EXIST for the name of the directory of snapshots. */
int view_change(struct tables *t, const struct key *key, const struct writer *value,
                bool *ret_whiteout);

/* ---- for the parts of this room */
/* A stored row as it was at an epoch. */
struct stored_row {
    enum row_kind kind;
    struct kv_val value;
};
int view_stored(struct tables *t, const struct key *key, uint64_t epoch, struct stored_row *ret);
/* A history row of `key` with epoch >= `epoch` is there. */
int view_history_any(struct tables *t, const struct key *key, uint64_t epoch, bool *ret);
/* What the base has under a key with a clone in it, as the clone shows it. -E_NOENT. */
int view_base_get(struct tables *t, const struct key *key, struct kv_val *ret);
/* On the way to a clone's base: hidden snapshots can be read. Of links the stored rows only. */
int view_inside_scan(struct tables *t, const struct key *prefix, kv_visit fn, void *arg);
int view_inside_stored(struct tables *t, const struct key *key, struct stored_row *ret);
/* Copied to memory of the command. -E_NOMEM. */
int view_keep(struct tables *t, const void *data, size_t n, struct kv_val *ret);
/* -E_STALE / -E_NOENT when there is none. Remembered; borrowed until view_forget(). */
int view_snapshot(struct tables *t, uint32_t id, const struct tree_snapshot **ret);
int view_clone(struct tables *t, uint32_t id, const struct clone **ret);
/* The number under which inodes with clone number `base` in the base appear in the clone. Makes it in
 * a command. */
int view_clone_member(struct tables *t, const struct clone *clone, uint32_t base, uint32_t *ret);
struct key view_key_with(const struct key *key, uint64_t ino);

/* A row that is not there is going to be put past tables_put(): history is told. */
int view_history_absent(struct tables *t, const struct key *key);

/* view_links.c: rows of links in clones. */
int view_links_get(struct tables *t, const struct key *key, struct kv_val *ret);
int view_links_scan(struct tables *t, const struct key *prefix, kv_visit fn, void *arg);
/* Before the first change: the base's link rows become the clone's own. */
int view_links_take_over(struct tables *t, uint64_t ino);

/* view_cover.c. */
/* The newest snapshot that covers the inode, epoch 0 when none does: its own or a directory's above
 * it, over all its names, or one that covered a directory it has left. May tell too much. */
struct coverage {
    uint64_t epoch, next_ino; /* next_ino: inodes from this number on came later */
    struct cover_set set;
};
int view_coverage(struct tables *t, uint64_t ino, struct coverage *ret);
/* An entry of `dir` that names `child` goes: what covers dir goes on covering the child. */
int view_left(struct tables *t, uint64_t dir, uint64_t child);
int view_cover_drop(struct tables *t, uint64_t ino); /* the inode is gone */
/* A cover row whose snapshot goes: falls back to the next older one, or goes. */
int view_cover_settle(struct tables *t, uint64_t ino, uint64_t epoch);
/* The newest snapshot in the set with an epoch below `below` and up to `until`; 0 when none. */
int view_newest(struct tables *t, const struct cover_set *set, uint64_t below, uint64_t until,
                uint64_t *ret_epoch);

#endif
