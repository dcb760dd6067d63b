/* SETATTR and SETXATTR. Source: POSIX.1-2017 chmod(), chown(), truncate(), utimensat(); xattr(7).
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "chunkmap.h"
#include "common/err.h"
#include "namespace.h"
#include "session.h"

#define FILE_BYTES_MAX INT64_MAX
#define XATTR_VALUE_MAX KIB(64)
#define XATTRS_MAX 1000 /* of one inode: the names fit a 64 KiB listing and a little more */
enum { XATTR_FLAG_CREATE = 1, XATTR_FLAG_REPLACE = 2 };

void ns_drop_setid(struct inode *inode)
{
    if (inode->type == TARN__FILE_TYPE__FT_DIR)
        return;
    inode->mode &= (uint16_t)~S_ISUID;
    if (inode->mode & S_IXGRP)
        inode->mode &= (uint16_t)~S_ISGID;
}

static bool in_group(const struct cred *cred, uint32_t gid)
{
    bool found = cred->gid == gid;
    for (size_t i = 0; i < cred->n_groups && !found; i++)
        found = cred->groups[i] == gid;
    return found;
}

static int set_owner(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    bool root = t->cred.uid == 0, owner = t->cred.uid == inode->uid;
    uint32_t uid = m->mask & TARN__SET_ATTR_BITS__SA_UID ? m->uid : inode->uid;
    uint32_t gid = m->mask & TARN__SET_ATTR_BITS__SA_GID ? m->gid : inode->gid;
    if (!root && (!owner || uid != inode->uid))
        return -E_PERM;
    if (!root && gid != inode->gid && !in_group(&t->cred, gid))
        return -E_PERM;
    inode->uid = uid;
    inode->gid = gid;
    ns_drop_setid(inode);
    return 0;
}

static int set_mode(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    bool root = t->cred.uid == 0;
    if (!root && t->cred.uid != inode->uid)
        return -E_PERM;
    inode->mode = m->mode & 07777;
    if (!root && inode->type != TARN__FILE_TYPE__FT_DIR && !in_group(&t->cred, inode->gid))
        inode->mode &= (uint16_t)~S_ISGID;
    return 0;
}

static int may_write(struct tables *t, uint64_t handle, const struct inode *inode)
{
    if (handle != 0 && session_handle_writes(t, handle, inode->ino))
        return 0;
    return ns_may(t, inode, NS_WRITE);
}

static int set_size(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    if (inode->type == TARN__FILE_TYPE__FT_DIR)
        return -E_ISDIR;
    if (inode->type != TARN__FILE_TYPE__FT_FILE)
        return -E_INVAL;
    int err = may_write(t, m->handle, inode);
    if (err != 0)
        return err;
    if (m->size > FILE_BYTES_MAX)
        return -E_FBIG;
    if (t->cred.uid != 0)
        ns_drop_setid(inode);
    inode->mtime = t->now;
    if (m->mask & TARN__SET_ATTR_BITS__SA_SIZE)
        return chunk_file_resize(t, inode, m->size);
    if (m->append_bytes > FILE_BYTES_MAX - inode->size)
        return -E_FBIG;
    inode->size = m->append_bytes != 0 ? inode->size + m->append_bytes : MAX(inode->size, m->size);
    inode->etag_len = 0; /* it was of the content before this write */
    return 0;
}

static int set_times(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    uint32_t given = TARN__SET_ATTR_BITS__SA_ATIME | TARN__SET_ATTR_BITS__SA_MTIME;
    bool owner = t->cred.uid == 0 || t->cred.uid == inode->uid;
    if (!owner && (m->mask & given))
        return -E_PERM;
    if (!owner && may_write(t, m->handle, inode) != 0)
        return -E_ACCES;
    if (m->mask & TARN__SET_ATTR_BITS__SA_ATIME)
        inode->atime = m->atime;
    if (m->mask & TARN__SET_ATTR_BITS__SA_MTIME)
        inode->mtime = m->mtime;
    if (m->mask & TARN__SET_ATTR_BITS__SA_ATIME_NOW)
        inode->atime = t->now;
    if (m->mask & TARN__SET_ATTR_BITS__SA_MTIME_NOW)
        inode->mtime = t->now;
    return 0;
}

int ns_cmd_setattr(struct tables *t, const void *message)
{
    const Tarn__SetAttr *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    if (err == 0 && (m->mask & (TARN__SET_ATTR_BITS__SA_UID | TARN__SET_ATTR_BITS__SA_GID)))
        err = set_owner(t, m, &inode);
    if (err == 0 && (m->mask & TARN__SET_ATTR_BITS__SA_MODE))
        err = set_mode(t, m, &inode);
    if (err == 0 && (m->mask & (TARN__SET_ATTR_BITS__SA_SIZE | TARN__SET_ATTR_BITS__SA_GROW)))
        err = set_size(t, m, &inode);
    if (err == 0 &&
        (m->mask & (TARN__SET_ATTR_BITS__SA_ATIME | TARN__SET_ATTR_BITS__SA_MTIME |
                    TARN__SET_ATTR_BITS__SA_ATIME_NOW | TARN__SET_ATTR_BITS__SA_MTIME_NOW)))
        err = set_times(t, m, &inode);
    if (err != 0)
        return err;
    ns_touch(t, &inode, false);
    err = ns_inode_put(t, &inode);
    if (err != 0)
        return err;
    Tarn__Attr attr;
    ns_attr(&inode, &attr);
    Tarn__Entry entry = TARN__ENTRY__INIT;
    entry.attr = &attr;
    return tables_reply(t, &entry.base);
}

static bool has_prefix(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0 && name[strlen(prefix)] != 0;
}

static int may_set_xattr(struct tables *t, const char *name, const struct inode *inode)
{
    bool root = t->cred.uid == 0, owner = t->cred.uid == inode->uid;
    if (has_prefix(name, "user.")) {
        bool data =
            inode->type == TARN__FILE_TYPE__FT_FILE || inode->type == TARN__FILE_TYPE__FT_DIR;
        return data ? ns_may(t, inode, NS_WRITE) : -E_PERM;
    }
    if (has_prefix(name, "trusted."))
        return root ? 0 : -E_PERM;
    if (has_prefix(name, "security."))
        return root || owner ? 0 : -E_PERM;
    return -E_NOTSUP; /* "system.": access control lists would be kept, but not obeyed */
}

static int xattr_count(void *arg, struct kv_val key, struct kv_val value)
{
    return ++*(unsigned *)arg >= XATTRS_MAX ? 1 : 0;
}

static int xattr_put(struct tables *t, const struct key *key, uint64_t ino,
                     ProtobufCBinaryData value)
{
    unsigned count = 0;
    struct key prefix = key_1(TABLE_XATTR, ino);
    int err = tables_scan(t, &prefix, &prefix, xattr_count, &count);
    if (err != 0)
        return err;
    if (count >= XATTRS_MAX)
        return -E_NOSPC;
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u8(&w, RECORD_VERSION);
    writer_bytes(&w, value.data, value.len);
    return tables_put(t, key, &w);
}

int ns_xattr_set(struct tables *t, uint64_t ino, const char *name, ProtobufCBinaryData value)
{
    size_t len = strlen(name);
    if (len == 0 || len > MD_NAME_MAX || value.len > XATTR_VALUE_MAX)
        return -E_RANGE;
    struct key key = key_named(TABLE_XATTR, ino, name, len);
    return xattr_put(t, &key, ino, value);
}

int ns_cmd_setxattr(struct tables *t, const void *message)
{
    const Tarn__SetXattr *m = message;
    size_t len = strlen(m->name);
    if (len == 0 || len > MD_NAME_MAX)
        return -E_RANGE;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    if (err == 0)
        err = may_set_xattr(t, m->name, &inode);
    if (err != 0)
        return err;
    struct key key = key_named(TABLE_XATTR, inode.ino, m->name, len);
    bool there = tables_has(t, &key);
    if (!there && (m->remove || (m->flags & XATTR_FLAG_REPLACE)))
        return -E_NODATA;
    if (there && (m->flags & XATTR_FLAG_CREATE) && !m->remove)
        return -E_EXIST;
    err = m->remove ? tables_del(t, &key) : ns_xattr_set(t, inode.ino, m->name, m->value);
    if (err != 0)
        return err;
    ns_touch(t, &inode, false);
    return ns_inode_put(t, &inode);
}
