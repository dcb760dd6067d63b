/* Names: lookup, create of everything but regular files, link, unlink, rename. */
#include "mount.h"

#include <sys/stat.h>

void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    Tarn__Where where = mount_where(parent);
    where.path = (char *)(uintptr_t)name;
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    /* "." and ".." come from NFS re-export only; as a path they mean what they should. */
    Tarn__LookupReply *reply = NULL;
    int err = mount_call(req, OP_LOOKUP, &request.base, &request.ctx, &tarn__lookup_reply__descriptor, &reply);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    mount_reply_entry(req, reply->attr);
    tarn__lookup_reply__free_unpacked(reply, NULL);
}

/* Inode numbers are never reused, so nothing has to be kept for what the kernel remembers. */
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
    fuse_reply_none(req);
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    Tarn__Where where = mount_where(ino);
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    Tarn__LookupReply *reply = NULL;
    int err = mount_call(req, OP_LOOKUP, &request.base, &request.ctx, &tarn__lookup_reply__descriptor, &reply);
    if (err == 0 && reply->attr->type != TARN__FILE_TYPE__FT_SYMLINK)
        err = -E_INVAL;
    if (err != 0)
        mount_reply_err(req, err);
    else
        fuse_reply_readlink(req, reply->target);
    if (reply != NULL)
        tarn__lookup_reply__free_unpacked(reply, NULL);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, Tarn__FileType type, mode_t mode, dev_t rdev,
                 const char *target)
{
    Tarn__Where where = mount_where(parent);
    Tarn__Create request = TARN__CREATE__INIT;
    request.parent = &where;
    request.name = (char *)(uintptr_t)name;
    request.type = type;
    request.mode = mode & 07777;
    request.umask = fuse_req_ctx(req)->umask;
    request.rdev = rdev;
    request.exclusive = true;
    if (target != NULL)
        request.target = (char *)(uintptr_t)target;
    Tarn__Entry *reply = NULL;
    int err = mount_call(req, OP_CREATE, &request.base, &request.ctx, &tarn__entry__descriptor, &reply);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    mount_reply_entry(req, reply->attr);
    tarn__entry__free_unpacked(reply, NULL);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    Tarn__FileType type = S_ISFIFO(mode)   ? TARN__FILE_TYPE__FT_FIFO
                          : S_ISCHR(mode)  ? TARN__FILE_TYPE__FT_CHR
                          : S_ISBLK(mode)  ? TARN__FILE_TYPE__FT_BLK
                          : S_ISSOCK(mode) ? TARN__FILE_TYPE__FT_SOCK
                                           : TARN__FILE_TYPE__FT_FILE;
    make(req, parent, name, type, mode, rdev, NULL);
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make(req, parent, name, TARN__FILE_TYPE__FT_DIR, mode, 0, NULL);
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    make(req, parent, name, TARN__FILE_TYPE__FT_SYMLINK, 0777, 0, target);
}

void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    Tarn__Where target = mount_where(ino), dir = mount_where(parent);
    Tarn__Link request = TARN__LINK__INIT;
    request.target = &target;
    request.parent = &dir;
    request.name = (char *)(uintptr_t)name;
    Tarn__Entry *reply = NULL;
    int err = mount_call(req, OP_LINK, &request.base, &request.ctx, &tarn__entry__descriptor, &reply);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    mount_reply_entry(req, reply->attr);
    tarn__entry__free_unpacked(reply, NULL);
}

static void unlink_entry(fuse_req_t req, fuse_ino_t parent, const char *name, bool directory)
{
    Tarn__Where where = mount_where(parent);
    Tarn__Unlink request = TARN__UNLINK__INIT;
    request.parent = &where;
    request.name = (char *)(uintptr_t)name;
    request.directory = directory;
    mount_reply_err(req, mount_call(req, OP_UNLINK, &request.base, &request.ctx, NULL, NULL));
}

void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    unlink_entry(req, parent, name, false);
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    unlink_entry(req, parent, name, true);
}

void op_rename(fuse_req_t req, fuse_ino_t from, const char *from_name, fuse_ino_t to, const char *to_name,
               unsigned flags)
{
    Tarn__Where from_where = mount_where(from), to_where = mount_where(to);
    Tarn__Rename request = TARN__RENAME__INIT;
    request.from = &from_where;
    request.from_name = (char *)(uintptr_t)from_name;
    request.to = &to_where;
    request.to_name = (char *)(uintptr_t)to_name;
    request.flags = flags;
    mount_reply_err(req, mount_call(req, OP_RENAME, &request.base, &request.ctx, NULL, NULL));
}
