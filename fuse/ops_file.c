/* Regular files: open, create, read, write, and what close does. */
#include "mount.h"
#include "passthrough.h"

#define FREE_BUFFERS_MAX 32

/* ---- read buffers: page-aligned, kept for the next request */

static void *buffer_get(struct mount *mount)
{
    if (!list_empty(&mount->free_buffers)) {
        struct list *first = mount->free_buffers.next;
        list_remove(first);
        mount->n_free_buffers--;
        return first;
    }
    return aligned_alloc(KIB(4), MOUNT_IO_MAX);
}

static void buffer_put(struct mount *mount, void *buffer)
{
    if (mount->n_free_buffers >= FREE_BUFFERS_MAX) {
        free(buffer);
        return;
    }
    list_append(&mount->free_buffers, buffer);
    mount->n_free_buffers++;
}

/* ---- open and create */

static struct mount_file *mount_file_create(struct file *file, uint64_t ino, struct fuse_file_info *fi)
{
    struct mount_file *open = calloc(1, sizeof *open);
    if (open == NULL)
        return NULL;
    open->file = file;
    open->ino = ino;
    file_keep_fresh(file);
    fi->fh = (uint64_t)(uintptr_t)open;
    /* Every read and write comes here and asks whether what we know of the file is true, so a mount sees
     * what another one has written. */
    fi->direct_io = 1;
    return open;
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct mount *mount = mount_of(req);
    struct mount_cred cred;
    mount_cred(req, &cred);
    Tarn__Where where = mount_where(ino);
    struct file *file = NULL;
    int err = file_open(mount->meta, mount->stores, &where, (uint32_t)fi->flags, &cred.cred, &file);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    struct mount_file *open = mount_file_create(file, ino, fi);
    if (open == NULL) {
        file_close(file);
        mount_reply_err(req, -E_NOMEM);
    } else {
        bool refused;
        int replied = passthrough_reply_open(req, open, fi, &refused);
        if (!refused && replied == -ENOENT) /* the open(2) was interrupted: nobody will release it */
            passthrough_release(req, open);
        if (refused || replied == -ENOENT) {
            file_close(file);
            free(open);
        }
    }
}

void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
    struct mount *mount = mount_of(req);
    struct mount_cred cred;
    mount_cred(req, &cred);
    Tarn__Where where = mount_where(parent);
    Tarn__Create request = TARN__CREATE__INIT;
    request.parent = &where;
    request.name = (char *)(uintptr_t)name;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = mode & 07777;
    request.umask = fuse_req_ctx(req)->umask;
    request.exclusive = (fi->flags & O_EXCL) != 0;
    request.open = true;
    request.open_flags = (uint32_t)fi->flags;
    Tarn__Entry *reply = NULL;
    int err = meta_call(mount->meta, OP_CREATE, &request.base, &request.ctx, &cred.cred, &tarn__entry__descriptor, &reply, NULL);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    struct file *file = NULL;
    err = file_adopt(mount->meta, mount->stores, reply->attr, reply->handle, (uint32_t)fi->flags, &cred.cred, &file);
    /* Somebody else may just have made a fifo or a directory of that name: the kernel looks again. */
    if (err == 0 && reply->attr->type != TARN__FILE_TYPE__FT_FILE)
        err = -E_STALE;
    struct mount_file *open = err == 0 ? mount_file_create(file, reply->attr->ino, fi) : NULL;
    if (open != NULL && passthrough_note_plain(mount, open) != 0) {
        free(open);
        open = NULL;
    }
    if (open == NULL) {
        if (file != NULL)
            file_close(file);
        mount_reply_err(req, err != 0 ? err : -E_NOMEM);
    } else {
        struct fuse_entry_param entry = {.ino = reply->attr->ino};
        attr_to_stat(reply->attr, &entry.attr);
        if (fuse_reply_create(req, &entry, fi) == -ENOENT) {
            passthrough_release(req, open);
            file_close(file);
            free(open);
        }
    }
    tarn__entry__free_unpacked(reply, NULL);
}

/* ---- data */

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct mount *mount = mount_of(req);
    void *buffer = buffer_get(mount);
    if (buffer == NULL) {
        mount_reply_err(req, -E_NOMEM);
        return;
    }
    int64_t n = file_read(mount_file_of(fi)->file, buffer, MIN(size, (size_t)MOUNT_IO_MAX), (uint64_t)offset);
    if (n > 0 && mount->atime != MOUNT_NOATIME && !(fi->flags & O_NOATIME))
        mount_file_of(fi)->read_ns = io_real_ns(mount->io);
    if (n < 0)
        mount_reply_err(req, (int)n);
    else
        fuse_reply_buf(req, buffer, (size_t)n);
    buffer_put(mount, buffer);
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct file *file = mount_file_of(fi)->file;
    struct meta_cred cred = {.uid = fuse_req_ctx(req)->uid, .gid = fuse_req_ctx(req)->gid};
    int err = file_drop_setid(file, &cred);
    if (err == 0)
        err = file_write(file, data, size, (uint64_t)offset, (fi->flags & O_APPEND) != 0);
    if (err == 0 && (fi->flags & (O_SYNC | O_DSYNC)) != 0)
        err = file_sync(file);
    if (err != 0)
        mount_reply_err(req, err);
    else
        fuse_reply_write(req, size);
}

/* Mode 0 only. The size grows at once; room is found when data comes, as for every hole. */
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *fi)
{
    mount_reply_err(req, mode != 0 ? -E_NOTSUP : file_extend(mount_file_of(fi)->file, (uint64_t)offset + (uint64_t)length));
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    mount_reply_err(req, file_sync(mount_file_of(fi)->file));
}

/* Comes at every close(2) of a descriptor, also of a dup: classic fcntl locks of that process go. */
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    int flushed = file_flush(mount_file_of(fi)->file);
    int err = lock_any(mount_of(req), ino) ? lock_drop_owner(req, ino, fi->lock_owner, TARN__LOCK_KIND__LOCK_FCNTL) : 0;
    mount_reply_err(req, err != 0 ? err : flushed);
}

/* The last close. flock locks go by owner; OFD locks, for which the kernel sends no unlock, by handle. */
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct mount_file *open = mount_file_of(fi);
    if (open->locked_flock)
        lock_drop_owner(req, ino, fi->lock_owner, TARN__LOCK_KIND__LOCK_FLOCK);
    if (open->locked_fcntl)
        lock_drop_handle(req, ino, file_handle(open->file));
    lock_forget_handle(mount_of(req), open);
    passthrough_release(req, open);
    /* One mark for all reads of the handle; that it failed is nobody's concern. */
    if (open->read_ns != 0)
        (void)file_mark_read(open->file, open->read_ns, mount_of(req)->atime == MOUNT_STRICTATIME);
    int err = file_close(open->file);
    free(open);
    mount_reply_err(req, err);
}
