/* Inodes, entries and permissions: what the commands of the tree are built from. */
#include "namespace.h"

#include <sys/stat.h>

#include "chunkmap.h"
#include "common/check.h"
#include "common/err.h"
#include "lock.h"
#include "policy.h"
#include "quota.h"
#include "session.h"
#include "view.h"

/* Chunks of a file that are given back within the command that removed it; the rest goes in steps.
 */
#define COLLECT_EXTENTS_MAX 64

int ns_inode_get(struct tables *t, uint64_t ino, struct inode *ret)
{
    struct key key = key_1(TABLE_INODE, ino);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    return tables_decoded(t, &key, "inode", inode_decode(ino, value.data, value.len, ret));
}

/* Q1: what the change of this row costs or frees. */
static int account(struct tables *t, uint64_t ino, const struct inode *new)
{
    if (t->state.quotas == 0)
        return 0;
    _cleanup_(inode_fini) struct inode old = {0};
    struct key key = key_1(TABLE_INODE, ino);
    struct stored_row row;
    int err = view_stored(t, &key, VIEW_NOW, &row); /* an inode of a clone costs from its own row on */
    if (err != 0 || (row.kind != ROW_VALUE && new == NULL))
        return err;
    if (row.kind != ROW_VALUE)
        err = -E_NOENT;
    else if ((err = tables_decoded(t, &key, "inode", inode_decode(ino, row.value.data, row.value.len, &old))) != 0)
        return err;
    return quota_inode_changed(t, err == 0 ? &old : NULL, new);
}

int ns_inode_put(struct tables *t, const struct inode *inode)
{
    int err = account(t, inode->ino, inode);
    if (err != 0)
        return err;
    _cleanup_(writer_fini) struct writer w = {0};
    inode_encode(inode, &w);
    struct key key = key_1(TABLE_INODE, inode->ino);
    return tables_put(t, &key, &w);
}

int ns_entry_get(struct tables *t, uint64_t dir, const char *name, struct entry *ret)
{
    struct key key = key_named(TABLE_ENTRY, dir, name, strlen(name));
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    err = entry_decode(value.data, value.len, ret);
    return err != 0 ? tables_corrupt(t, &key, "directory entry") : 0;
}

bool ns_in_group(const struct cred *cred, uint32_t gid)
{
    bool found = cred->gid == gid;
    for (size_t i = 0; i < cred->n_groups && !found; i++)
        found = cred->groups[i] == gid;
    return found;
}

int ns_may(struct tables *t, const struct inode *inode, unsigned mask)
{
    const struct cred *cred = &t->cred;
    if (cred->uid == 0) {
        bool exec = inode->type == TARN__FILE_TYPE__FT_DIR || (inode->mode & 0111) != 0;
        return (mask & NS_EXEC) && !exec ? -E_ACCES : 0;
    }
    if (inode->flags & INODE_ACL)
        return ns_acl_check(t, inode, mask);
    unsigned shift = cred->uid == inode->uid ? 6 : ns_in_group(cred, inode->gid) ? 3 : 0;
    return (inode->mode >> shift & mask) == mask ? 0 : -E_ACCES;
}

uint64_t ns_stored(const struct inode *inode)
{
    return inode->type == TARN__FILE_TYPE__FT_FILE
               ? MIN(inode->size, inode->allocated + inode->data_len)
               : 0;
}

void ns_attr(const struct inode *inode, Tarn__Attr *out)
{
    tarn__attr__init(out);
    out->ino = inode->ino;
    out->type = (Tarn__FileType)inode->type;
    out->mode = inode->mode;
    out->nlink = inode->nlink;
    out->uid = inode->uid;
    out->gid = inode->gid;
    out->size = inode->size;
    out->blocks = (ns_stored(inode) + 511) / 512;
    out->rdev = inode->rdev;
    out->atime = inode->atime;
    out->mtime = inode->mtime;
    out->ctime = inode->ctime;
    out->btime = inode->btime;
    out->version = inode->version;
    out->chunk_size = (uint32_t)MD_CHUNK_BYTES;
    out->capability = (inode->flags & INODE_CAPABILITY) != 0;
    out->etag.len = inode->etag_len;
    out->etag.data = (uint8_t *)inode->etag;
}

void ns_touch(const struct tables *t, struct inode *inode, bool content)
{
    inode->ctime = t->now;
    if (content)
        inode->mtime = t->now;
    inode->version++;
    tables_touched(t, inode->ino);
}

int ns_name_check(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || strchr(name, '/') != NULL)
        return -E_INVAL;
    if (len > MD_NAME_MAX)
        return -E_NAMETOOLONG;
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ? -E_INVAL : 0;
}

/* POSIX mkdir(), open(): the group is the directory's. Linux: directories pass the bit on, and
 * somebody outside the group makes no program that runs with it (mode_strip_sgid()). */
static void of_setgid_dir(struct tables *t, const struct inode *dir, struct inode *inode)
{
    const unsigned runs = S_ISGID | S_IXGRP;
    inode->gid = dir->gid;
    if (inode->type == TARN__FILE_TYPE__FT_DIR)
        inode->mode |= S_ISGID;
    else if ((inode->mode & runs) == runs && t->cred.uid != 0 && !ns_in_group(&t->cred, dir->gid))
        inode->mode &= (uint16_t)~S_ISGID;
}

int ns_inode_make(struct tables *t, const struct inode *dir, const struct ns_new *spec,
                  struct inode *ret)
{
    struct inode inode = {.ino = ino_with_clone(tables_state(t)->next_ino++, ino_clone(dir->ino)),
                          .type = spec->type,
                          .flags = spec->flags,
                          .copies = spec->copies, /* 0: inherited when chunks are made (policy.h) */
                          .mode = spec->mode & 07777,
                          .nlink = 1,
                          .uid = spec->uid,
                          .gid = spec->gid,
                          .rdev = spec->rdev,
                          .parent = dir->ino,
                          .version = 1};
    inode.mtime = inode.ctime = inode.atime = inode.btime = t->now;
    if (dir->mode & S_ISGID)
        of_setgid_dir(t, dir, &inode);
    if (inode.type == TARN__FILE_TYPE__FT_DIR)
        inode.nlink = 2;
    int err = 0;
    if (inode.type == TARN__FILE_TYPE__FT_SYMLINK) {
        inode.mode = 0777;
        inode.size = strlen(spec->target);
        err = inode_set_data(&inode, spec->target, inode.size);
    } else {
        err = ns_acl_inherit(t, dir, spec->umask, &inode);
    }
    if (err != 0)
        return err;
    if (inode.type == TARN__FILE_TYPE__FT_FILE)
        tables_state(t)->files++;
    *ret = inode;
    return 0;
}

int ns_entry_add(struct tables *t, struct inode *dir, const char *name, struct inode *child)
{
    if (dir->nlink == 0)
        return -E_NOENT; /* removed, but still somebody's working directory */
    _cleanup_(writer_fini) struct writer w = {0};
    entry_encode(&(struct entry){.ino = child->ino, .type = child->type}, &w);
    struct key key = key_named(TABLE_ENTRY, dir->ino, name, strlen(name));
    int err = tables_put(t, &key, &w);
    if (err == 0)
        err = ns_link_added(t, &key, dir->ino, child);
    if (err != 0)
        return err;
    dir->entries++;
    if (child->type == TARN__FILE_TYPE__FT_DIR)
        dir->nlink++;
    ns_touch(t, dir, true);
    return 0;
}

int ns_entry_remove(struct tables *t, struct inode *dir, const char *name, struct inode *child)
{
    struct key key = key_named(TABLE_ENTRY, dir->ino, name, strlen(name));
    int err = tables_del(t, &key);
    if (err == 0)
        err = ns_link_removed(t, &key, dir->ino, child);
    if (err != 0)
        return err;
    CHECK(dir->entries > 0);
    dir->entries--;
    if (child->type == TARN__FILE_TYPE__FT_DIR)
        dir->nlink--;
    ns_touch(t, dir, true);
    return 0;
}

int ns_mkdir(struct tables *t, struct inode *dir, const char *name, const struct ns_new *spec,
             struct inode *ret)
{
    struct inode child = {0};
    int err = ns_inode_make(t, dir, spec, &child);
    if (err == 0 && (child.flags & INODE_IMPLICIT))
        err = inode_set_data(&child, name, strlen(name));
    if (err == 0)
        err = ns_entry_add(t, dir, name, &child);
    if (err == 0)
        err = ns_inode_put(t, dir);
    if (err == 0)
        err = ns_inode_put(t, &child);
    if (err == 0)
        *ret = child;
    else
        inode_fini(&child);
    return err;
}

int ns_may_remove(struct tables *t, const struct inode *dir, const struct inode *child)
{
    int err = ns_may(t, dir, NS_WRITE | NS_EXEC);
    if (err != 0)
        return err;
    uint32_t uid = t->cred.uid;
    if ((dir->mode & S_ISVTX) && uid != 0 && uid != child->uid && uid != dir->uid)
        return -E_PERM;
    return 0;
}

static int xattrs_drop(struct tables *t, uint64_t ino)
{
    struct key prefix = key_1(TABLE_XATTR, ino);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = tables_del(t, &rows.rows[i].key);
    return err;
}

/* The last step: nothing refers to the inode and it has no extents. */
static int inode_remove(struct tables *t, const struct inode *inode)
{
    struct key key = key_1(TABLE_INODE, inode->ino);
    int err = account(t, inode->ino, NULL);
    if (err == 0)
        err = quota_dir_removed(t, inode);
    if (err == 0)
        err = policy_dir_removed(t, inode);
    if (err == 0)
        err = tables_del(t, &key);
    if (err == 0)
        err = xattrs_drop(t, inode->ino);
    if (err == 0)
        err = lock_inode_end(t, inode->ino);
    struct key garbage = key_1(TABLE_GARBAGE, inode->ino);
    if (err == 0 && tables_has(t, &garbage))
        err = tables_del(t, &garbage);
    if (err == 0 && inode->type == TARN__FILE_TYPE__FT_FILE)
        tables_state(t)->files--;
    return err;
}

int ns_collect(struct tables *t, struct inode *inode)
{
    CHECK(inode->nlink == 0);
    bool done = true;
    int err = 0;
    if (inode->type == TARN__FILE_TYPE__FT_FILE)
        err = chunk_file_drop(t, inode->ino, COLLECT_EXTENTS_MAX, &done);
    if (err != 0)
        return err;
    if (done)
        return inode_remove(t, inode);
    struct key key = key_1(TABLE_GARBAGE, inode->ino);
    err = ns_inode_put(t, inode);
    return err != 0 ? err : tables_put_empty(t, &key);
}

int ns_unref(struct tables *t, struct inode *inode)
{
    CHECK(inode->nlink > 0);
    inode->nlink = inode->type == TARN__FILE_TYPE__FT_DIR ? 0 : inode->nlink - 1;
    ns_touch(t, inode, false);
    int err = inode->nlink == 1 ? ns_links_end(t, inode) : 0;
    if (inode->nlink > 0 || err != 0)
        return err != 0 ? err : ns_inode_put(t, inode);
    struct opens opens;
    err = session_opens(t, inode->ino, &opens);
    if (err != 0)
        return err;
    if (opens.handles == 0)
        return ns_collect(t, inode);
    struct key key = key_1(TABLE_ORPHAN, inode->ino);
    err = ns_inode_put(t, inode);
    return err != 0 ? err : tables_put_empty(t, &key);
}

int ns_garbage_step(struct tables *t, unsigned steps, unsigned *ret_done)
{
    struct key prefix = key_table(TABLE_GARBAGE);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, steps, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        _cleanup_(inode_fini) struct inode inode = {0};
        err = ns_inode_get(t, key_number(&rows.rows[i].key, 0), &inode);
        if (err == 0)
            err = ns_collect(t, &inode);
        (*ret_done)++;
    }
    return err;
}

int ns_init(struct tables *t)
{
    struct inode root = {.ino = MD_ROOT,
                         .type = TARN__FILE_TYPE__FT_DIR,
                         .mode = 0755,
                         .nlink = 2,
                         .parent = MD_ROOT,
                         .version = 1};
    int err = ns_inode_put(t, &root);
    if (err != 0)
        return err;
    struct inode jobs = {0};
    /* Users make nothing there themselves: JOB_CREATE makes /jobs/ID in the caller's name. */
    return ns_mkdir(t, &root, "jobs",
                    &(struct ns_new){.type = TARN__FILE_TYPE__FT_DIR, .mode = 0755}, &jobs);
}
