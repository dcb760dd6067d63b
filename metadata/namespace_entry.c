/* CREATE, UNLINK, RENAME, LINK. */
#include <fcntl.h>
#include <stdio.h>

#include "common/err.h"
#include "lease_rows.h"
#include "namespace.h"
#include "quota.h"
#include "session.h"

enum { RENAME_FLAG_NOREPLACE = 1, RENAME_FLAG_EXCHANGE = 2 }; /* renameat2(2) */

static int reply_entry(struct tables *t, const struct inode *inode, uint64_t handle, uint64_t exclusive,
                       bool created)
{
    Tarn__Attr attr;
    ns_attr(inode, &attr);
    Tarn__Entry entry = TARN__ENTRY__INIT;
    entry.attr = &attr;
    entry.handle = handle;
    entry.exclusive = exclusive;
    entry.created = created;
    return tables_reply(t, &entry.base);
}

static int create_open(struct tables *t, const Tarn__Create *m, struct inode *inode, bool fresh,
                       uint64_t *ret_handle, uint64_t *ret_exclusive)
{
    uint32_t flags = fresh ? m->open_flags & ~(uint32_t)O_TRUNC : m->open_flags;
    int err = session_open_inode(t, inode, flags, fresh, ret_handle);
    if (err != 0 || !m->want_exclusive || (flags & O_ACCMODE) == O_RDONLY)
        return err;
    return exclusive_give(t, inode->ino, *ret_handle, ret_exclusive);
}

/* The name is taken: fine for mkdir -p and for an open that may create. */
static int create_existing(struct tables *t, const Tarn__Create *m, struct inode *inode)
{
    if (m->type == TARN__FILE_TYPE__FT_DIR)
        return m->parents && inode->type == TARN__FILE_TYPE__FT_DIR
                   ? reply_entry(t, inode, 0, 0, false)
                   : -E_EXIST;
    if (m->exclusive || m->type != TARN__FILE_TYPE__FT_FILE)
        return -E_EXIST;
    if (inode->type == TARN__FILE_TYPE__FT_DIR)
        return -E_ISDIR;
    uint64_t handle = 0, exclusive = 0;
    int err = m->open ? create_open(t, m, inode, false, &handle, &exclusive) : 0;
    return err != 0 ? err : reply_entry(t, inode, handle, exclusive, false);
}

static int create_new(struct tables *t, const Tarn__Create *m, struct ns_walk *at)
{
    int err = ns_may(t, &at->dir, NS_WRITE | NS_EXEC);
    if (err != 0)
        return err;
    bool device = m->type == TARN__FILE_TYPE__FT_CHR || m->type == TARN__FILE_TYPE__FT_BLK;
    if (device && t->cred.uid != 0)
        return -E_PERM;
    struct ns_new spec = {.type = (uint8_t)m->type,
                          .mode = (uint16_t)(m->mode & 07777),
                          .umask = (uint16_t)(m->umask & 0777),
                          .rdev = m->rdev,
                          .copies = (uint8_t)m->copies,
                          .uid = t->cred.uid,
                          .gid = t->cred.gid,
                          .target = m->target};
    _cleanup_(inode_fini) struct inode inode = {0};
    err = ns_inode_make(t, &at->dir, &spec, &inode);
    if (err == 0)
        err = ns_entry_add(t, &at->dir, at->name, &inode);
    if (err == 0)
        err = ns_inode_put(t, &at->dir);
    if (err == 0)
        err = ns_inode_put(t, &inode);
    uint64_t handle = 0, exclusive = 0;
    if (err == 0 && m->open)
        err = create_open(t, m, &inode, true, &handle, &exclusive);
    return err != 0 ? err : reply_entry(t, &inode, handle, exclusive, true);
}

int ns_cmd_create(struct tables *t, const void *message)
{
    const Tarn__Create *m = message;
    if (m->type < TARN__FILE_TYPE__FT_FILE || m->type > TARN__FILE_TYPE__FT_SOCK ||
        m->copies > MD_COPIES_MAX)
        return -E_INVAL;
    bool link = m->type == TARN__FILE_TYPE__FT_SYMLINK;
    if (link && m->target[0] == 0)
        return -E_NOENT;
    if (link && strlen(m->target) > MD_TARGET_MAX)
        return -E_NAMETOOLONG;
    int err = ns_name_check(m->name);
    if (err != 0)
        return err;
    _cleanup_(inode_fini) struct inode dir = {0};
    err = ns_where_dir(t, m->parent, m->parents ? NS_MKDIRS : 0, &dir);
    if (err != 0)
        return err;
    bool follow = m->type == TARN__FILE_TYPE__FT_FILE && !m->exclusive;
    bool mkdirs = m->type == TARN__FILE_TYPE__FT_DIR && m->parents;
    _cleanup_(ns_walk_fini) struct ns_walk at;
    err = ns_walk(t, dir.ino, m->name, NS_MAY_MISS | (follow || mkdirs ? 0 : NS_NOFOLLOW), &at);
    if (err != 0)
        return err;
    return at.found ? create_existing(t, m, &at.inode) : create_new(t, m, &at);
}

static int lookup(struct tables *t, const struct inode *dir, const char *name, struct inode *ret)
{
    int err = ns_may(t, dir, NS_EXEC);
    if (err != 0)
        return err;
    struct entry entry;
    err = ns_entry_get(t, dir->ino, name, &entry);
    return err != 0 ? err : ns_inode_get(t, entry.ino, ret);
}

static int unlink_check(struct tables *t, const Tarn__Unlink *m, const struct inode *dir,
                        const struct inode *child)
{
    int err = ns_may_remove(t, dir, child);
    if (err != 0)
        return err;
    bool is_dir = child->type == TARN__FILE_TYPE__FT_DIR;
    if (m->directory && !is_dir)
        return -E_NOTDIR;
    if (!m->directory && is_dir)
        return -E_ISDIR;
    if (is_dir && child->entries > 0)
        return -E_NOTEMPTY;
    return m->version_is && m->version != child->version ? -E_CONFLICT : 0;
}

/* Takes up `from` into `to`, frees what was there. */
static void inode_take(struct inode *to, struct inode *from)
{
    inode_fini(to);
    *to = *from;
    from->data = NULL;
    from->data_len = 0;
}

int ns_cmd_unlink(struct tables *t, const void *message)
{
    const Tarn__Unlink *m = message;
    const char *name = m->name;
    _cleanup_(inode_fini) struct inode dir = {0};
    _cleanup_(inode_fini) struct inode child = {0};
    int err = ns_name_check(name);
    if (err == 0)
        err = ns_where_dir(t, m->parent, 0, &dir);
    if (err == 0)
        err = lookup(t, &dir, name, &child);
    if (err == 0 && m->prune && !m->directory && child.type == TARN__FILE_TYPE__FT_DIR) {
        inode_take(&dir, &child); /* the object `a` beside `a/b` */
        name = NS_SELF;
        err = lookup(t, &dir, name, &child);
    }
    if (err == 0)
        err = unlink_check(t, m, &dir, &child);
    if (err == 0)
        err = ns_entry_remove(t, &dir, name, &child);
    if (err == 0)
        err = ns_inode_put(t, &dir);
    if (err == 0)
        err = ns_unref(t, &child);
    return err == 0 && m->prune ? ns_prune(t, dir.ino) : err;
}

/* N3: a directory never becomes its own ancestor. -E_INVAL when `dir` is `above` or below it. */
static int not_below(struct tables *t, uint64_t dir, uint64_t above)
{
    for (uint64_t at = dir;;) {
        if (at == above)
            return -E_INVAL;
        if (at == MD_ROOT)
            return 0;
        _cleanup_(inode_fini) struct inode inode = {0};
        int err = ns_inode_get(t, at, &inode);
        if (err != 0)
            return err;
        if (inode.parent == at)
            return 0;
        at = inode.parent;
    }
}

struct rename {
    struct tables *t;
    const Tarn__Rename *m;
    struct inode from_dir, other_dir; /* other_dir unused when both are the same */
    struct inode *to_dir;
    struct inode source, target; /* target.ino 0 = the name is free */
};

static void rename_fini(struct rename *r)
{
    inode_fini(&r->from_dir);
    inode_fini(&r->other_dir);
    inode_fini(&r->source);
    inode_fini(&r->target);
}

static bool is_dir(const struct inode *inode)
{
    return inode->type == TARN__FILE_TYPE__FT_DIR;
}

static int rename_load(struct rename *r)
{
    const Tarn__Rename *m = r->m;
    int err = ns_name_check(m->from_name);
    if (err == 0)
        err = ns_name_check(m->to_name);
    if (err == 0)
        err = ns_where_dir(r->t, m->from, 0, &r->from_dir);
    if (err == 0)
        err = ns_where_dir(r->t, m->to, 0, &r->other_dir);
    if (err != 0)
        return err;
    r->to_dir = r->other_dir.ino == r->from_dir.ino ? &r->from_dir : &r->other_dir;
    err = lookup(r->t, &r->from_dir, m->from_name, &r->source);
    if (err != 0)
        return err;
    err = lookup(r->t, r->to_dir, m->to_name, &r->target);
    return err == -E_NOENT ? 0 : err;
}

/* A directory that changes its parent gets a new "..": that is a write to it. */
static int rename_may_move(struct rename *r, const struct inode *moved, const struct inode *to)
{
    if (!is_dir(moved))
        return 0;
    int err = not_below(r->t, to->ino, moved->ino);
    if (err == 0 && moved->parent != to->ino)
        err = ns_may(r->t, moved, NS_WRITE);
    return err;
}

static int rename_check(struct rename *r)
{
    bool exchange = r->m->flags & RENAME_FLAG_EXCHANGE;
    bool taken = r->target.ino != 0;
    int err = ns_may_remove(r->t, &r->from_dir, &r->source);
    if (err == 0)
        err = taken ? ns_may_remove(r->t, r->to_dir, &r->target)
                    : ns_may(r->t, r->to_dir, NS_WRITE | NS_EXEC);
    if (err != 0)
        return err;
    if (exchange && !taken)
        return -E_NOENT;
    if ((r->m->flags & RENAME_FLAG_NOREPLACE) && taken)
        return -E_EXIST;
    err = rename_may_move(r, &r->source, r->to_dir);
    if (err == 0 && exchange)
        err = rename_may_move(r, &r->target, &r->from_dir);
    if (err != 0 || exchange || !taken || r->target.ino == r->source.ino)
        return err;
    if (is_dir(&r->source) && !is_dir(&r->target))
        return -E_NOTDIR;
    if (!is_dir(&r->source) && is_dir(&r->target))
        return -E_ISDIR;
    return is_dir(&r->target) && r->target.entries > 0 ? -E_NOTEMPTY : 0;
}

static int rename_place(struct rename *r, struct inode *dir, const char *name, struct inode *inode)
{
    if (is_dir(inode)) {
        inode->flags &= (uint16_t)~INODE_IMPLICIT; /* somebody named it: it is wanted */
        inode_fini(inode);
    }
    ns_touch(r->t, inode, false);
    int err = ns_entry_add(r->t, dir, name, inode);
    return err != 0 ? err : ns_inode_put(r->t, inode);
}

static int rename_move(struct rename *r)
{
    const Tarn__Rename *m = r->m;
    bool taken = r->target.ino != 0;
    bool exchange = m->flags & RENAME_FLAG_EXCHANGE;
    int err = ns_entry_remove(r->t, &r->from_dir, m->from_name, &r->source);
    if (err == 0 && taken)
        err = ns_entry_remove(r->t, r->to_dir, m->to_name, &r->target);
    if (err == 0)
        err = rename_place(r, r->to_dir, m->to_name, &r->source);
    if (err == 0 && taken && exchange)
        err = rename_place(r, &r->from_dir, m->from_name, &r->target);
    if (err == 0)
        err = ns_inode_put(r->t, &r->from_dir);
    if (err == 0 && r->to_dir != &r->from_dir)
        err = ns_inode_put(r->t, r->to_dir);
    return err == 0 && taken && !exchange ? ns_unref(r->t, &r->target) : err;
}

static int rename_quotas(struct rename *r)
{
    int err = 0;
    if (is_dir(&r->source))
        err = quota_dir_moved(r->t, &r->source, r->from_dir.ino, r->to_dir->ino);
    if (err == 0 && (r->m->flags & RENAME_FLAG_EXCHANGE) && is_dir(&r->target))
        err = quota_dir_moved(r->t, &r->target, r->to_dir->ino, r->from_dir.ino);
    return err;
}

int ns_cmd_rename(struct tables *t, const void *message)
{
    _cleanup_(rename_fini) struct rename r = {.t = t, .m = message};
    uint32_t flags = r.m->flags;
    if (flags > RENAME_FLAG_EXCHANGE) /* both at once, or a flag we do not know */
        return -E_INVAL;
    int err = rename_load(&r);
    if (err == 0)
        err = rename_check(&r);
    if (err != 0)
        return err;
    if (r.source.ino == r.target.ino) /* two names of one file: POSIX rename() does nothing */
        return 0;
    err = rename_quotas(&r);
    return err == 0 ? rename_move(&r) : err;
}

int ns_cmd_link(struct tables *t, const void *message)
{
    const Tarn__Link *m = message;
    _cleanup_(inode_fini) struct inode target = {0};
    _cleanup_(inode_fini) struct inode dir = {0};
    _cleanup_(inode_fini) struct inode existing = {0};
    int err = ns_name_check(m->name);
    if (err == 0)
        err = ns_where(t, m->target, 0, &target);
    if (err == 0)
        err = ns_where_dir(t, m->parent, 0, &dir);
    if (err != 0)
        return err;
    err = lookup(t, &dir, m->name, &existing);
    if (err != -E_NOENT)
        return err == 0 ? -E_EXIST : err;
    if (target.type == TARN__FILE_TYPE__FT_DIR)
        return -E_PERM;
    if (target.nlink == 0)
        return -E_NOENT;
    if (target.nlink >= NS_LINKS_MAX)
        return -E_MLINK;
    err = ns_may(t, &dir, NS_WRITE | NS_EXEC);
    if (err == 0 && target.nlink == 1)
        err = ns_links_begin(t, &target);
    target.nlink++;
    if (err == 0)
        err = ns_entry_add(t, &dir, m->name, &target);
    if (err != 0)
        return err;
    ns_touch(t, &target, false);
    err = ns_inode_put(t, &dir);
    if (err == 0)
        err = ns_inode_put(t, &target);
    return err != 0 ? err : reply_entry(t, &target, 0, 0, true);
}
