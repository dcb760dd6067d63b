#include "lease_touch.h"

#include <fcntl.h>

#include "common/err.h"
#include "namespace.h"
#include "ops.h"
#include "session.h"

#define ANCESTORS_MAX 48 /* looked at for UNLINK with prune */

struct look {
    struct tables *t;
    struct lease_touch *touch;
};
typedef void (*look_fn)(struct look *look, const void *message);

static void add(struct look *look, uint64_t ino)
{
    struct lease_touch *touch = look->touch;
    for (unsigned i = touch->n; i-- > 0;)
        if (touch->inos[i] == ino)
            return;
    if (ino != 0 && touch->n < LEASE_TOUCH_MAX)
        touch->inos[touch->n++] = ino;
}

static uint64_t start_of(const Tarn__Where *where)
{
    return where == NULL || where->ino == 0 ? MD_ROOT : where->ino;
}

/* The inode a Where names, or 0. */
static uint64_t where_ino(struct look *look, const Tarn__Where *where)
{
    if (where == NULL || where->path[0] == 0)
        return start_of(where);
    _cleanup_(ns_walk_fini) struct ns_walk at = {0};
    unsigned flags = NS_MAY_MISS | (where->nofollow ? NS_NOFOLLOW : 0);
    return ns_walk(look->t, start_of(where), where->path, flags, &at) == 0 && at.found ? at.inode.ino : 0;
}

static void add_where(struct look *look, const Tarn__Where *where)
{
    add(look, where_ino(look, where));
}

/* The directory that will get or lose an entry for the path: the deepest that is there. *ret_ino: what the whole
 * path names, or 0. */
static uint64_t deepest(struct look *look, uint64_t start, const char *path, bool nofollow, uint64_t *ret_ino)
{
    _cleanup_free_ char *rest = strdup(path);
    *ret_ino = 0;
    if (rest == NULL)
        tables_note(look->t, -E_NOMEM);
    for (bool whole = true; rest != NULL && rest[0] != 0; whole = false) {
        _cleanup_(ns_walk_fini) struct ns_walk at = {0};
        if (ns_walk(look->t, start, rest, NS_MAY_MISS | (nofollow ? NS_NOFOLLOW : 0), &at) == 0) {
            if (whole && at.found)
                *ret_ino = at.inode.ino;
            return !whole && at.found ? at.inode.ino : at.dir.ino;
        }
        char *slash = strrchr(rest, '/');
        if (slash == NULL)
            break;
        *slash = 0;
    }
    return start;
}

static uint64_t child_of(struct look *look, uint64_t dir, const char *name)
{
    struct entry entry;
    if (dir == 0 || strlen(name) > MD_NAME_MAX || ns_entry_get(look->t, dir, name, &entry) != 0)
        return 0;
    return entry.ino;
}

/* ------------------------------------------------------------------ one function an operation */

static bool open_touches(uint32_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC) != 0;
}

static void create(struct look *look, const void *message)
{
    const Tarn__Create *m = message;
    uint64_t ignored, dir = where_ino(look, m->parent);
    if (dir == 0 && m->parent != NULL)
        dir = deepest(look, start_of(m->parent), m->parent->path, false, &ignored);
    uint64_t child = child_of(look, dir, m->name);
    if (child == 0)
        add(look, dir);
    else if (m->open && open_touches(m->open_flags))
        add(look, child);
}

static void unlink_(struct look *look, const void *message)
{
    const Tarn__Unlink *m = message;
    uint64_t dir = where_ino(look, m->parent), child = child_of(look, dir, m->name);
    if (child == 0)
        return;
    add(look, dir);
    add(look, child);
    if (!m->prune)
        return;
    add(look, child_of(look, child, NS_SELF));
    for (unsigned i = 0; i < ANCESTORS_MAX && dir != MD_ROOT; i++) {
        _cleanup_(inode_fini) struct inode inode = {0};
        if (ns_inode_get(look->t, dir, &inode) != 0)
            return;
        add(look, child_of(look, dir, NS_SELF));
        dir = inode.parent;
        add(look, dir);
    }
}

static void rename_(struct look *look, const void *message)
{
    const Tarn__Rename *m = message;
    uint64_t from = where_ino(look, m->from), to = where_ino(look, m->to), source = child_of(look, from, m->from_name);
    if (source == 0)
        return;
    add(look, from);
    add(look, to);
    add(look, source);
    add(look, child_of(look, to, m->to_name));
}

static void link_(struct look *look, const void *message)
{
    const Tarn__Link *m = message;
    add_where(look, m->target);
    add_where(look, m->parent);
}

static void set_attr(struct look *look, const void *message)
{
    const Tarn__SetAttr *m = message;
    /* That it was read changes nothing that anybody keeps. */
    if (!(m->mask & (TARN__SET_ATTR_BITS__SA_ATIME_READ | TARN__SET_ATTR_BITS__SA_ATIME_STRICT)))
        add_where(look, m->where);
}

static void set_xattr(struct look *look, const void *message)
{
    add_where(look, ((const Tarn__SetXattr *)message)->where);
}

static void policy_set(struct look *look, const void *message)
{
    add_where(look, ((const Tarn__PolicySet *)message)->where);
}

static void open_(struct look *look, const void *message)
{
    add_where(look, ((const Tarn__Open *)message)->where);
}

static void chunk_write(struct look *look, const void *message)
{
    add(look, ((const Tarn__ChunkWrite *)message)->ino);
}

static void chunk_swap(struct look *look, const void *message)
{
    add(look, ((const Tarn__ChunkSwap *)message)->ino);
}

static void lease_return(struct look *look, const void *message)
{
    const Tarn__LeaseReturn *m = message;
    if (m->item != NULL)
        add(look, m->item->ino);
}

static void object_commit(struct look *look, const void *message)
{
    const Tarn__NewObject *o = ((const Tarn__ObjectCommit *)message)->object;
    uint64_t old, ino, parent = o == NULL ? 0 : where_ino(look, o->parent);
    if (parent == 0)
        return;
    add(look, deepest(look, parent, o->path, true, &old));
    add(look, old);
    add(look, child_of(look, old, NS_SELF));
    for (size_t i = 0; i < o->n_from; i++) {
        add(look, deepest(look, start_of(o->from[i]), o->from[i]->path, true, &ino));
        add(look, ino);
    }
}

static void clone_(struct look *look, const void *message)
{
    add_where(look, ((const Tarn__Clone *)message)->parent);
}

static void batch(struct look *look, const void *message)
{
    const Tarn__Batch *m = message;
    for (size_t i = 0; i < m->n_items; i++) {
        const Tarn__BatchItem *item = m->items[i];
        if (item->create != NULL)
            create(look, item->create);
        if (item->unlink != NULL)
            unlink_(look, item->unlink);
        if (item->set_attr != NULL)
            set_attr(look, item->set_attr);
        if (item->link != NULL)
            link_(look, item->link);
        if (item->set_xattr != NULL)
            set_xattr(look, item->set_xattr);
    }
}

static const struct {
    unsigned op;
    look_fn look;
} table[] = {
    {OP_CREATE, create},           {OP_UNLINK, unlink_},         {OP_RENAME, rename_},
    {OP_LINK, link_},              {OP_SETATTR, set_attr},       {OP_SETXATTR, set_xattr},
    {OP_OPEN, open_},              {OP_CHUNK_WRITE, chunk_write}, {OP_CHUNK_SWAP, chunk_swap},
    {OP_OBJECT_COMMIT, object_commit}, {OP_LEASE_RETURN, lease_return}, {OP_BATCH, batch},
    {OP_CLONE, clone_},
    {OP_POLICY_SET, policy_set},
};

static look_fn look_for(unsigned op)
{
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i].op == op)
            return table[i].look;
    return NULL;
}

bool lease_touches(unsigned op, const void *message)
{
    if (op == OP_OPEN && !open_touches(((const Tarn__Open *)message)->flags))
        return false;
    return look_for(op) != NULL;
}

int lease_touch_find(struct kv_txn *txn, unsigned op, const void *message, struct lease_touch *ret)
{
    struct fsm_result result = {0};
    struct tables t;
    int err = tables_init(&t, txn, false, &result);
    look_fn fn = look_for(op);
    if (err == 0 && fn != NULL) { /* as root: who may not do it is told so by the change */
        struct look look = {.t = &t, .touch = ret};
        fn(&look, message);
        err = t.failed;
    }
    tables_fini(&t);
    fsm_result_fini(&result);
    return err;
}

int lease_look(struct kv_txn *txn, uint64_t session, uint64_t ino, uint64_t *ret_version, bool *ret_may)
{
    struct fsm_result result = {0};
    struct tables t;
    _cleanup_(inode_fini) struct inode inode = {0};
    struct opens opens = {0};
    *ret_version = 0;
    *ret_may = false;
    int err = tables_init(&t, txn, false, &result);
    if (err == 0)
        err = ns_inode_get(&t, ino, &inode);
    if (err == 0)
        err = session_opens(&t, ino, &opens);
    if (err == 0) {
        *ret_version = inode.version;
        *ret_may = opens.writers == 0 || opens.sole == session; /* so nobody else has the exclusive lease either */
    }
    tables_fini(&t);
    fsm_result_fini(&result);
    return err == -E_NOENT ? 0 : err;
}
