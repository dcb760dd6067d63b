/* SETATTR. Source: POSIX.1-2017 chmod(), chown(), truncate(), utimensat(); their Linux manual pages;
 * relatime: mount(8). */
#include <fcntl.h>
#include <sys/stat.h>

#include "chunkmap.h"
#include "common/err.h"
#include "namespace.h"
#include "session.h"

#define FILE_BYTES_MAX INT64_MAX
#define RELATIME_NS (24 * 3600 * 1000000000ull)

/* Linux keeps S_ISGID without S_IXGRP (it once meant mandatory locks) unless the caller is not in
 * the group: setattr_should_drop_sgid(). */
int ns_drop_privileges(struct tables *t, struct inode *inode)
{
    if (inode->type == TARN__FILE_TYPE__FT_DIR)
        return 0;
    inode->mode &= (uint16_t)~S_ISUID;
    bool stranger = t->cred.uid != 0 && !ns_in_group(&t->cred, inode->gid);
    if ((inode->mode & S_IXGRP) || stranger)
        inode->mode &= (uint16_t)~S_ISGID;
    return ns_drop_capability(t, inode);
}

int ns_written(struct tables *t, struct inode *inode)
{
    return t->cred.uid != 0 ? ns_drop_privileges(t, inode) : ns_drop_capability(t, inode);
}

static int set_owner(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    bool root = t->cred.uid == 0, owner = t->cred.uid == inode->uid;
    uint32_t uid = m->mask & TARN__SET_ATTR_BITS__SA_UID ? m->uid : inode->uid;
    uint32_t gid = m->mask & TARN__SET_ATTR_BITS__SA_GID ? m->gid : inode->gid;
    if (!root && (!owner || uid != inode->uid))
        return -E_PERM;
    if (!root && gid != inode->gid && !ns_in_group(&t->cred, gid))
        return -E_PERM;
    int err = ns_drop_privileges(t, inode);
    inode->uid = uid;
    inode->gid = gid;
    return err;
}

static int set_mode(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    bool root = t->cred.uid == 0;
    if (!root && t->cred.uid != inode->uid)
        return -E_PERM;
    inode->mode = m->mode & 07777;
    if (!root && !ns_in_group(&t->cred, inode->gid))
        inode->mode &= (uint16_t)~S_ISGID;
    return 0;
}

static int may_write(struct tables *t, uint64_t handle, const struct inode *inode)
{
    if (handle != 0 && session_handle_writes(t, handle, inode->ino))
        return 0;
    return ns_may(t, inode, NS_WRITE);
}

/* What is behind the end when the size changes, or may be there after a write that failed (C24, C25). A session that
 * has the file for itself has cut the tails of its failed writes, and ended sessions' went with their release. */
static int cut_tail(struct tables *t, struct inode *inode, uint64_t size)
{
    struct opens opens;
    int err = session_opens(t, inode->ino, &opens);
    if (err != 0 || (size > inode->size && t->session != 0 && opens.sole == t->session))
        return err;
    return chunk_file_cut(t, inode, MIN(inode->size, size));
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
    err = ns_written(t, inode);
    if (err != 0)
        return err;
    bool sets = (m->mask & TARN__SET_ATTR_BITS__SA_SIZE) != 0, grows = (m->mask & TARN__SET_ATTR_BITS__SA_GROW) != 0;
    uint64_t size = sets ? m->size : grows ? MAX(inode->size, m->size) : inode->size;
    if (m->mask & TARN__SET_ATTR_BITS__SA_CUT_TAIL)
        err = size == inode->size && (sets || grows) ? 0 : cut_tail(t, inode, size);
    if (err != 0 || !(sets || grows))
        return err;
    inode->mtime = t->now;
    if (sets)
        return chunk_file_resize(t, inode, size);
    if (m->append_bytes > FILE_BYTES_MAX - inode->size)
        return -E_FBIG;
    err = chunk_file_written(t, inode->ino, m->written, m->n_written);
    inode->size = m->append_bytes != 0 ? inode->size + m->append_bytes : size;
    inode->etag_len = 0; /* it was of the content before this write */
    return err;
}

/* utimensat(2): who only may write sets both times to the present, and nothing else. */
static int set_times(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    uint32_t given = TARN__SET_ATTR_BITS__SA_ATIME | TARN__SET_ATTR_BITS__SA_MTIME;
    uint32_t now = TARN__SET_ATTR_BITS__SA_ATIME_NOW | TARN__SET_ATTR_BITS__SA_MTIME_NOW;
    bool owner = t->cred.uid == 0 || t->cred.uid == inode->uid;
    if (!owner && ((m->mask & given) || (m->mask & now) != now))
        return -E_PERM;
    int err = owner ? 0 : may_write(t, m->handle, inode);
    if (err != 0)
        return err;
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

/* A file or directory was read at m->atime. By relatime its atime follows when it is not after the
 * last change or a day old; it never goes back. Not a change that anybody's copy of the inode
 * depends on: neither ctime nor version move. */
static bool atime_follows(const Tarn__SetAttr *m, const struct inode *inode)
{
    if ((int64_t)m->atime <= (int64_t)inode->atime)
        return false;
    if (m->mask & TARN__SET_ATTR_BITS__SA_ATIME_STRICT)
        return true;
    return inode->atime <= inode->mtime || inode->atime <= inode->ctime ||
           m->atime - inode->atime >= RELATIME_NS;
}

static int set_read(struct tables *t, const Tarn__SetAttr *m, struct inode *inode)
{
    if (m->atime > t->now + RELATIME_NS)
        return -E_INVAL; /* a clock that far ahead would stop the atime for all others */
    int err = m->handle != 0 && session_handle_on(t, m->handle, inode->ino)
                  ? 0
                  : ns_may(t, inode, NS_READ);
    if (err != 0 || !atime_follows(m, inode))
        return err;
    inode->atime = m->atime;
    return ns_inode_put(t, inode);
}

static int reply_attr(struct tables *t, const struct inode *inode)
{
    Tarn__Attr attr;
    ns_attr(inode, &attr);
    Tarn__Entry entry = TARN__ENTRY__INIT;
    entry.attr = &attr;
    return tables_reply(t, &entry.base);
}

int ns_cmd_setattr(struct tables *t, const void *message)
{
    const Tarn__SetAttr *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    if (err == 0 &&
        (m->mask & (TARN__SET_ATTR_BITS__SA_ATIME_READ | TARN__SET_ATTR_BITS__SA_ATIME_STRICT))) {
        err = set_read(t, m, &inode);
        return err == 0 ? reply_attr(t, &inode) : err;
    }
    if (err == 0 && (m->mask & (TARN__SET_ATTR_BITS__SA_UID | TARN__SET_ATTR_BITS__SA_GID)))
        err = set_owner(t, m, &inode);
    if (err == 0 && (m->mask & TARN__SET_ATTR_BITS__SA_MODE))
        err = set_mode(t, m, &inode);
    if (err == 0 && (m->mask & (TARN__SET_ATTR_BITS__SA_SIZE | TARN__SET_ATTR_BITS__SA_GROW | TARN__SET_ATTR_BITS__SA_CUT_TAIL)))
        err = set_size(t, m, &inode);
    if (err == 0 &&
        (m->mask & (TARN__SET_ATTR_BITS__SA_ATIME | TARN__SET_ATTR_BITS__SA_MTIME |
                    TARN__SET_ATTR_BITS__SA_ATIME_NOW | TARN__SET_ATTR_BITS__SA_MTIME_NOW)))
        err = set_times(t, m, &inode);
    if (err != 0)
        return err;
    ns_touch(t, &inode, false);
    err = ns_inode_put(t, &inode);
    return err == 0 ? reply_attr(t, &inode) : err;
}
