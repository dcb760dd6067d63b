/* Attributes, access, extended attributes, space. */
#include "mount.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    int settled = file_settle(mount_of(req)->meta, mount_of(req)->stores, ino);
    if (settled != 0) {
        mount_reply_err(req, settled);
        return;
    }
    Tarn__Where where = mount_where(ino);
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    Tarn__LookupReply *reply = NULL;
    int err = mount_call(req, OP_LOOKUP, &request.base, &request.ctx, &tarn__lookup_reply__descriptor, &reply);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    mount_reply_attr(req, reply->attr);
    tarn__lookup_reply__free_unpacked(reply, NULL);
}

static int truncate_open(struct file *file, uint64_t size, const struct meta_cred *cred)
{
    int err = file_drop_setid(file, cred);
    return err != 0 ? err : file_truncate(file, size);
}

/* Cutting or extending needs the data path; the handle's own file when there is one. */
static int truncate_file(fuse_req_t req, uint64_t ino, uint64_t size, struct fuse_file_info *fi)
{
    struct mount *mount = mount_of(req);
    struct mount_cred cred;
    mount_cred(req, &cred);
    if (fi != NULL)
        return truncate_open(mount_file_of(fi)->file, size, &cred.cred);
    Tarn__Where where = mount_where(ino);
    struct file *file = NULL;
    int err = file_open(mount->meta, mount->stores, &where, O_WRONLY, &cred.cred, &file);
    if (err != 0)
        return err;
    file_keep_fresh(file);
    err = truncate_open(file, size, &cred.cred);
    int closed = file_close(file);
    return err != 0 ? err : closed;
}

static void set_times(Tarn__SetAttr *request, const struct stat *st, int to_set)
{
    if (to_set & FUSE_SET_ATTR_ATIME_NOW)
        request->mask |= TARN__SET_ATTR_BITS__SA_ATIME_NOW;
    else if (to_set & FUSE_SET_ATTR_ATIME) {
        request->mask |= TARN__SET_ATTR_BITS__SA_ATIME;
        request->atime = attr_ns(&st->st_atim);
    }
    if (to_set & FUSE_SET_ATTR_MTIME_NOW)
        request->mask |= TARN__SET_ATTR_BITS__SA_MTIME_NOW;
    else if (to_set & FUSE_SET_ATTR_MTIME) {
        request->mask |= TARN__SET_ATTR_BITS__SA_MTIME;
        request->mtime = attr_ns(&st->st_mtim);
    }
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
    /* A time that is owed from writes before this must not come after it. */
    int err = file_settle(mount_of(req)->meta, mount_of(req)->stores, ino);
    if (err == 0 && (to_set & FUSE_SET_ATTR_SIZE)) {
        err = truncate_file(req, ino, (uint64_t)st->st_size, fi);
        to_set &= ~FUSE_SET_ATTR_MODE; /* with a size it only means the set-id bits: done */
    }
    Tarn__Where where = mount_where(ino);
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.where = &where;
    if (to_set & FUSE_SET_ATTR_MODE) {
        request.mask |= TARN__SET_ATTR_BITS__SA_MODE;
        request.mode = st->st_mode & 07777;
    }
    if (to_set & FUSE_SET_ATTR_UID) {
        request.mask |= TARN__SET_ATTR_BITS__SA_UID;
        request.uid = st->st_uid;
    }
    if (to_set & FUSE_SET_ATTR_GID) {
        request.mask |= TARN__SET_ATTR_BITS__SA_GID;
        request.gid = st->st_gid;
    }
    set_times(&request, st, to_set);
    if (err == 0 && request.mask != 0)
        err = mount_call(req, OP_SETATTR, &request.base, &request.ctx, NULL, NULL);
    if (err != 0)
        mount_reply_err(req, err);
    else
        op_getattr(req, ino, fi);
}

void op_access(fuse_req_t req, fuse_ino_t ino, int mask)
{
    Tarn__Where where = mount_where(ino);
    Tarn__Access request = TARN__ACCESS__INIT;
    request.where = &where;
    request.mask = (uint32_t)mask;
    mount_reply_err(req, mount_call(req, OP_ACCESS, &request.base, &request.ctx, NULL, NULL));
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    Tarn__Where where = mount_where(ino);
    Tarn__StatFs request = TARN__STAT_FS__INIT;
    request.where = &where;
    Tarn__StatFsReply *reply = NULL;
    int err = mount_call(req, OP_STATFS, &request.base, &request.ctx, &tarn__stat_fs_reply__descriptor, &reply);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    const uint64_t block = KIB(4);
    /* Without a quota of files there is no end of them: used is total less free. */
    uint64_t files_free = reply->files_max == 0 ? UINT32_MAX : reply->files_max - MIN(reply->files_max, reply->files);
    struct statvfs st = {
        .f_bsize = MOUNT_IO_MAX,
        .f_frsize = block,
        .f_blocks = reply->total / block,
        .f_bfree = reply->free / block,
        .f_bavail = reply->usable / block,
        .f_files = reply->files_max == 0 ? reply->files + UINT32_MAX : reply->files_max,
        .f_ffree = files_free,
        .f_favail = files_free,
        .f_namemax = 255,
    };
    fuse_reply_statfs(req, &st);
    tarn__stat_fs_reply__free_unpacked(reply, NULL);
}

static void set_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, const void *value, size_t size, int flags, bool remove)
{
    Tarn__Where where = mount_where(ino);
    Tarn__SetXattr request = TARN__SET_XATTR__INIT;
    request.where = &where;
    request.name = (char *)(uintptr_t)name;
    request.value.data = (uint8_t *)(uintptr_t)value;
    request.value.len = size;
    request.flags = (uint32_t)flags;
    request.remove = remove;
    mount_reply_err(req, mount_call(req, OP_SETXATTR, &request.base, &request.ctx, NULL, NULL));
}

void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags)
{
    set_xattr(req, ino, name, value, size, flags, false);
}

void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    set_xattr(req, ino, name, NULL, 0, 0, true);
}

/* Replies with n bytes, or their number when the caller asked for that with size 0. */
static void reply_sized(fuse_req_t req, const void *data, size_t n, size_t size)
{
    if (size == 0)
        fuse_reply_xattr(req, n);
    else if (n > size)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, data, n);
}

static int get_xattr(fuse_req_t req, fuse_ino_t ino, const char *name, Tarn__GetXattrReply **ret)
{
    Tarn__Where where = mount_where(ino);
    Tarn__GetXattr request = TARN__GET_XATTR__INIT;
    request.where = &where;
    request.name = (char *)(uintptr_t)name;
    return mount_call(req, OP_GETXATTR, &request.base, &request.ctx, &tarn__get_xattr_reply__descriptor, ret);
}

void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    Tarn__GetXattrReply *reply = NULL;
    if (counters_reply(req, ino, name, size))
        return;
    int err = get_xattr(req, ino, name, &reply);
    if (err == 0 && reply->n_pairs == 0)
        err = -E_NODATA;
    if (err != 0)
        mount_reply_err(req, err);
    else
        reply_sized(req, reply->pairs[0]->value.data, reply->pairs[0]->value.len, size);
    if (reply != NULL)
        tarn__get_xattr_reply__free_unpacked(reply, NULL);
}

void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    Tarn__GetXattrReply *reply = NULL;
    int err = get_xattr(req, ino, "", &reply);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    size_t n = 0, at = 0;
    for (size_t i = 0; i < reply->n_pairs; i++)
        n += strlen(reply->pairs[i]->name) + 1;
    _cleanup_free_ char *names = malloc(n + 1);
    for (size_t i = 0; names != NULL && i < reply->n_pairs; i++)
        at = (size_t)(stpcpy(names + at, reply->pairs[i]->name) - names) + 1;
    if (names == NULL)
        mount_reply_err(req, -E_NOMEM);
    else
        reply_sized(req, names, n, size);
    tarn__get_xattr_reply__free_unpacked(reply, NULL);
}
