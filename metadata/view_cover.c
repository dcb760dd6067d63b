/* Which snapshots need what an inode's rows are now. Telling too many costs space until they go,
 * telling too few would change a snapshot: in doubt, more (K3). */
#include "common/err.h"
#include "namespace.h"
#include "view_impl.h"

#define COVER_DEPTH_MAX 4096 /* directories above an inode that are looked at; deeper: any snapshot */
#define COVER_NAMES_MAX 64   /* names of one inode that are followed; more: any snapshot */

static int newest_at(struct tables *t, const struct key *prefix, uint64_t below, uint64_t until,
                     uint64_t *newest)
{
    if (below == 0)
        return 0;
    uint8_t number[8];
    uint64_t at = MIN(below - 1, until);
    for (unsigned i = 0; i < 8; i++)
        number[i] = (uint8_t)(at >> (56 - 8 * i));
    struct key from = key_append(*prefix, number, sizeof number);
    struct kv_val key, value;
    int err = tables_last(t, &from, prefix, &key, &value);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    struct reader r = reader_init(key.data + key.len - 8, 8);
    *newest = MAX(*newest, reader_be64(&r));
    return 0;
}

int view_newest(struct tables *t, const struct cover_set *set, uint64_t below, uint64_t until,
                uint64_t *ret_epoch)
{
    int err = 0;
    *ret_epoch = 0;
    if (set->any) {
        struct key all = key_1(TABLE_SNAPSHOT, SNAPSHOT_BY_EPOCH);
        return newest_at(t, &all, below, until, ret_epoch);
    }
    for (unsigned i = 0; i < set->n && err == 0; i++) {
        struct key rooted = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_ROOT, set->roots[i]);
        err = newest_at(t, &rooted, below, until, ret_epoch);
    }
    return err;
}

static int cover_get(struct tables *t, uint64_t ino, struct cover *ret)
{
    struct key key = key_1(TABLE_COVER, ino);
    struct kv_val value;
    *ret = (struct cover){0};
    int err = tables_get(t, &key, &value);
    if (err == 0 && cover_decode(value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "cover");
    return err == -E_NOENT ? 0 : err;
}

/* The row and its place in the index. */
static int cover_put(struct tables *t, uint64_t ino, uint64_t old_epoch, const struct cover *cover)
{
    struct key key = key_1(TABLE_COVER, ino);
    struct key old = key_history_of(old_epoch, &key), new = key_history_of(cover->epoch, &key);
    int err = old_epoch != 0 && old_epoch != cover->epoch ? tables_del(t, &old) : 0;
    if (err == 0 && cover->epoch == 0)
        return tables_del(t, &key);
    _cleanup_(writer_fini) struct writer w = {0};
    cover_encode(cover, &w);
    if (err == 0)
        err = tables_put(t, &key, &w);
    return err == 0 && old_epoch != cover->epoch ? tables_put_empty(t, &new) : err;
}

/* ---- walking up */

struct climb {
    struct tables *t;
    struct coverage *coverage;
    unsigned steps;
};

static int climb(struct climb *c, uint64_t ino);

static int climb_parent(void *arg, uint64_t dir, uint32_t names)
{
    int err = climb(arg, dir);
    return MIN(err, 0);
}

/* What covers the inode itself. */
static int add_own(struct climb *c, uint64_t ino)
{
    struct tables *t = c->t;
    struct cover cover;
    uint64_t epoch = 0;
    struct cover_set rooted = {.n = 1, .roots = {ino}};
    int err = view_newest(t, &rooted, UINT64_MAX, UINT64_MAX, &epoch);
    if (err == 0 && epoch != 0)
        cover_set_merge(&c->coverage->set, &rooted);
    c->coverage->epoch = MAX(c->coverage->epoch, epoch);
    if (err == 0)
        err = cover_get(t, ino, &cover);
    if (err == 0 && cover.epoch != 0)
        err = view_newest(t, &cover.set, UINT64_MAX, cover.until, &epoch);
    if (err == 0 && cover.epoch != 0) {
        cover_set_merge(&c->coverage->set, &cover.set);
        c->coverage->epoch = MAX(c->coverage->epoch, epoch);
    }
    return err;
}

static int climb_any(struct climb *c)
{
    uint64_t epoch;
    c->coverage->set.any = true;
    int err = view_newest(c->t, &c->coverage->set, UINT64_MAX, UINT64_MAX, &epoch);
    c->coverage->epoch = MAX(c->coverage->epoch, epoch);
    return err;
}

static int climb(struct climb *c, uint64_t ino)
{
    for (;;) {
        if (++c->steps > COVER_DEPTH_MAX)
            return climb_any(c);
        _cleanup_(inode_fini) struct inode inode = {0};
        int err = add_own(c, ino);
        if (err == 0)
            err = ns_inode_get(c->t, ino, &inode);
        /* Being made, or gone: what covered it is in its cover row. Or a directory outside of what a
         * clone was made of, that names a file in it: nobody sees it there. */
        if (err != 0)
            return err == -E_NOENT || err == -E_STALE ? 0 : err;
        if (ino == MD_ROOT || inode.nlink == 0)
            return 0;
        bool names = inode.type != TARN__FILE_TYPE__FT_DIR && inode.nlink > 1;
        if (inode.parent == 0 || (names && inode.nlink > COVER_NAMES_MAX))
            return climb_any(c);
        if (names)
            return ns_parents(c->t, &inode, climb_parent, c);
        if (inode.parent == ino) /* the root in a clone's base: a name outside of what was cloned */
            return 0;
        ino = inode.parent;
    }
}

static int next_ino_of(struct tables *t, uint64_t epoch, uint64_t *ret)
{
    struct key key = key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_EPOCH, epoch);
    struct kv_val value;
    uint64_t id;
    int err = tables_get(t, &key, &value);
    if (err == 0 && number_decode(value.data, value.len, &id) != 0)
        return tables_corrupt(t, &key, "epoch of a snapshot");
    const struct tree_snapshot *snapshot;
    if (err == 0)
        err = view_snapshot(t, (uint32_t)id, &snapshot);
    if (err == 0)
        *ret = snapshot->next_ino;
    return err;
}

int view_coverage(struct tables *t, uint64_t ino, struct coverage *ret)
{
    struct view_memory *m = view_memory(t);
    if (m == NULL)
        return -E_NOMEM;
    for (unsigned i = 0; i < MIN(m->n_covers, VIEW_COVERS_REMEMBERED); i++)
        if (m->covers[i].ino == ino) {
            *ret = m->covers[i].coverage;
            return 0;
        }
    *ret = (struct coverage){0};
    struct climb c = {.t = t, .coverage = ret};
    int err = climb(&c, ino);
    if (err == 0 && ret->epoch != 0)
        err = next_ino_of(t, ret->epoch, &ret->next_ino);
    if (err == 0)
        m->covers[m->n_covers++ % VIEW_COVERS_REMEMBERED] =
            (struct known_cover){.ino = ino, .coverage = *ret};
    return err;
}

/* ---- inodes that leave */

int view_left(struct tables *t, uint64_t dir, uint64_t child)
{
    struct coverage coverage;
    struct cover cover;
    int err = view_coverage(t, dir, &coverage);
    view_forget(t); /* names and parents are about to change */
    if (err != 0 || coverage.epoch == 0 || ino_number(child) >= coverage.next_ino)
        return err;
    err = cover_get(t, child, &cover);
    if (err != 0)
        return err;
    uint64_t old = cover.epoch;
    cover_set_merge(&cover.set, &coverage.set);
    cover.until = t->state.snapshot_epoch;
    err = view_newest(t, &cover.set, UINT64_MAX, cover.until, &cover.epoch);
    return err == 0 ? cover_put(t, child, old, &cover) : err;
}

int view_cover_drop(struct tables *t, uint64_t ino)
{
    struct cover cover;
    int err = cover_get(t, ino, &cover);
    uint64_t old = cover.epoch;
    cover.epoch = 0;
    return err == 0 && old != 0 ? cover_put(t, ino, old, &cover) : err;
}

int view_cover_settle(struct tables *t, uint64_t ino, uint64_t epoch)
{
    struct cover cover;
    int err = cover_get(t, ino, &cover);
    uint64_t old = cover.epoch;
    if (err != 0 || old != epoch)
        return err;
    err = view_newest(t, &cover.set, epoch, cover.until, &cover.epoch);
    return err == 0 ? cover_put(t, ino, old, &cover) : err;
}
