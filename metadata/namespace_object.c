/* Objects: whole files that appear at once at a path whose directories need not exist, and the
 * pruning of directories that only such paths had made. */
#include "chunkmap.h"
#include "common/check.h"
#include "common/err.h"
#include "namespace.h"
#include "namespace_from.h"

/* Directories removed by one UNLINK: a key of 1024 bytes has at most 512 components. */
#define PRUNE_MAX 512

/* Fills the new inode from inline bytes or from the parts of uploads. */
static int fill(struct tables *t, const Tarn__NewObject *o, const struct ns_taken *taken,
                struct inode *inode)
{
    if ((o->data.len > 0) + (o->n_parts > 0) + (o->n_from > 0) > 1)
        return tables_fail(
            t, -E_INVAL,
            "an object has inline bytes, parts or files to take over, only one of these");
    if (o->data.len > MD_INLINE_MAX)
        return tables_fail(t, -E_INVAL, "at most %d bytes fit into an inode", MD_INLINE_MAX);
    if (o->etag.len > MD_ETAG_MAX)
        return tables_fail(t, -E_INVAL, "an etag has at most %d bytes", MD_ETAG_MAX);
    inode->etag_len = (uint8_t)o->etag.len;
    if (o->etag.len > 0)
        memcpy(inode->etag, o->etag.data, o->etag.len);
    if (o->mtime != 0)
        inode->mtime = o->mtime;
    inode->size = o->data.len;
    if (o->data.len > 0)
        return inode_set_data(inode, o->data.data, o->data.len);
    int err = o->n_from > 0 ? ns_taken_attach(t, taken, inode) : 0;
    for (size_t i = 0; i < o->n_parts && err == 0; i++)
        err = chunk_upload_adopt(t, o->parts[i], inode);
    return err;
}

/* Where the object goes: the missing or existing entry; a directory there gets an NS_SELF entry. */
static int place(struct tables *t, const Tarn__NewObject *o, struct ns_walk *ret)
{
    _cleanup_(inode_fini) struct inode parent = {0};
    int err = ns_where_dir(t, o->parent, 0, &parent);
    if (err != 0)
        return err;
    unsigned flags = NS_NOFOLLOW | NS_MAY_MISS | NS_MKDIRS | NS_IMPLICIT;
    err = ns_walk(t, parent.ino, o->path, o->file ? flags | NS_FILES_STAY : flags, ret);
    if (err != 0 || !ret->found || ret->inode.type != TARN__FILE_TYPE__FT_DIR)
        return err;
    if (o->file || ret->dir.ino == 0 || ret->inode.ino == MD_ROOT)
        return -E_ISDIR;
    _cleanup_(inode_fini) struct inode dir = ret->inode;
    ret->inode = (struct inode){0};
    ns_walk_fini(ret);
    return ns_walk(t, dir.ino, NS_SELF, NS_NOFOLLOW | NS_MAY_MISS, ret);
}

static int owner(struct tables *t, const Tarn__NewObject *o, struct ns_new *spec)
{
    spec->uid = t->cred.uid;
    spec->gid = t->cred.gid;
    if (o->uid == 0 && o->gid == 0)
        return 0;
    bool own = o->uid == spec->uid && o->gid == spec->gid;
    if (t->cred.uid != 0 && !own)
        return -E_PERM;
    spec->uid = o->uid;
    spec->gid = o->gid;
    return 0;
}

static int replace(struct tables *t, struct ns_walk *at)
{
    int err = ns_may_remove(t, &at->dir, &at->inode);
    if (err == 0)
        err = ns_entry_remove(t, &at->dir, at->name, &at->inode);
    return err == 0 ? ns_unref(t, &at->inode) : err;
}

static int put_all(struct tables *t, const Tarn__NewObject *o, struct ns_walk *at,
                   struct inode *inode)
{
    int err = ns_entry_add(t, &at->dir, at->name, inode);
    if (err == 0)
        err = ns_inode_put(t, &at->dir);
    for (size_t i = 0; i < o->n_xattrs && err == 0; i++)
        err = ns_xattr_set(t, inode, o->xattrs[i]);
    return err == 0 ? ns_inode_put(t, inode) : err;
}

int ns_object_commit(struct tables *t, const Tarn__NewObject *o, struct inode *ret)
{
    _cleanup_(ns_walk_fini) struct ns_walk at = {0};
    _cleanup_(ns_taken_fini) struct ns_taken taken = {0};
    struct ns_new spec = {.type = TARN__FILE_TYPE__FT_FILE,
                          .mode = o->mode & 07777 ? (uint16_t)(o->mode & 07777) : 0644};
    int err = owner(t, o, &spec);
    if (err == 0)
        err = ns_take(t, o, &taken);
    if (err == 0)
        err = place(t, o, &at);
    if (err != 0)
        return err;
    if (at.dir.ino == 0)
        return -E_INVAL; /* an empty path */
    if (at.found && o->exclusive)
        return -E_EXIST;
    err = at.found ? replace(t, &at) : ns_may(t, &at.dir, NS_WRITE | NS_EXEC);
    _cleanup_(inode_fini) struct inode inode = {0};
    if (err == 0)
        err = ns_inode_make(t, &at.dir, &spec, &inode);
    if (err == 0)
        err = fill(t, o, &taken, &inode);
    if (err == 0)
        err = put_all(t, o, &at, &inode);
    if (err != 0)
        return err;
    *ret = inode;
    inode = (struct inode){0};
    return 0;
}

int ns_cmd_object_commit(struct tables *t, const void *message)
{
    const Tarn__ObjectCommit *m = message;
    if (m->object == NULL)
        return -E_INVAL;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_object_commit(t, m->object, &inode);
    if (err != 0)
        return err;
    Tarn__Attr attr;
    ns_attr(&inode, &attr);
    Tarn__Entry entry = TARN__ENTRY__INIT;
    entry.attr = &attr;
    entry.created = true;
    return tables_reply(t, &entry.base);
}

/* The directory `dir` is removed from `parent`; when it holds a lonely NS_SELF, that takes its
 * name. */
static int prune_one(struct tables *t, struct inode *dir, struct inode *parent)
{
    const char *name = (const char *)dir->data;
    _cleanup_(inode_fini) struct inode self = {0};
    int err = 0;
    if (dir->entries == 1) {
        struct entry entry;
        err = ns_entry_get(t, dir->ino, NS_SELF, &entry);
        if (err == 0)
            err = ns_inode_get(t, entry.ino, &self);
        if (err == 0)
            err = ns_entry_remove(t, dir, NS_SELF, &self);
    }
    if (err == 0)
        err = ns_entry_remove(t, parent, name, dir);
    if (err == 0 && self.ino != 0)
        err = ns_entry_add(t, parent, name, &self);
    if (err == 0 && self.ino != 0)
        err = ns_inode_put(t, &self);
    if (err == 0)
        err = ns_inode_put(t, parent);
    return err == 0 ? ns_unref(t, dir) : err;
}

static bool prunable(struct tables *t, const struct inode *dir)
{
    if (!(dir->flags & INODE_IMPLICIT) || dir->data_len == 0 || dir->parent == MD_ROOT ||
        dir->nlink == 0 || dir->entries > 1)
        return false;
    struct entry entry;
    return dir->entries == 0 || ns_entry_get(t, dir->ino, NS_SELF, &entry) == 0;
}

int ns_prune(struct tables *t, uint64_t ino)
{
    for (unsigned i = 0; i < PRUNE_MAX; i++) {
        _cleanup_(inode_fini) struct inode dir = {0};
        _cleanup_(inode_fini) struct inode parent = {0};
        int err = ns_inode_get(t, ino, &dir);
        if (err != 0)
            return err;
        if (!prunable(t, &dir))
            return 0;
        bool empty = dir.entries == 0;
        err = ns_inode_get(t, dir.parent, &parent);
        if (err == 0)
            err = prune_one(t, &dir, &parent);
        if (err != 0 || !empty) /* something took its place: the parent is as full as before */
            return err;
        ino = parent.ino;
    }
    return 0;
}
