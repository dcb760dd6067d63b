/* What the rooms of tarn-mount share: the mount, an open file, and how requests are answered. Every
 * request runs in its own fiber, from its arrival (channel.c) to exactly one reply.
 * Thread: the loop's, for everything. */
#ifndef TARN_FUSE_MOUNT_H
#define TARN_FUSE_MOUNT_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>

#include "client/attr.h"
#include "client/file.h"
#include "client/meta.h"
#include "client/store.h"
#include "common/coll.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/io.h"

#include <errno.h>
#include <fcntl.h>

/* One request moves at most this much; libfuse 3.14 and the kernel's page limit allow no more. */
#define MOUNT_IO_MAX MIB(1)
#define MOUNT_GROUPS_MAX 64

/* When a read moves the atime: mount(8). */
enum mount_atime { MOUNT_RELATIME, MOUNT_STRICTATIME, MOUNT_NOATIME };

/* Which files the kernel may read from a chunk's file by itself (passthrough.h). */
enum mount_passthrough { MOUNT_PASSTHROUGH_AUTO, MOUNT_PASSTHROUGH_ON, MOUNT_PASSTHROUGH_OFF };

#define MOUNT_SESSION_S_MIN 2
#define MOUNT_SESSION_S_MAX 3600

struct mount {
    uint32_t session_ms; /* how long the cluster waits for a sign of life; 0 = as usual */
    struct io *io;
    enum mount_atime atime;
    const struct config *config;
    struct meta *meta;
    struct stores *stores;
    struct fuse_session *session;
    const char *point;
    struct fiber_group requests; /* fibers between arrival and reply */
    enum mount_passthrough passthrough;
    bool verify_always;      /* by option; the configuration may say so as well */
    bool kernel_passes;      /* the kernel has agreed to pass through, and could so far */
    struct map open_modes;   /* inode → struct open_mode of passthrough.c */
    uint64_t opens_through, opens_through_bytes; /* handles the kernel serves by itself, and the sizes of their files */
    uint64_t init_offer;     /* flags of the kernel's INIT */
    uint64_t init_unique;    /* of the INIT request whose reply is completed in channel.c */
    struct list free_buffers; /* MOUNT_IO_MAX each, for reads */
    unsigned n_free_buffers;
    struct map lock_handles; /* inode → number of open handles through which locks were asked for */
};

struct open_mode;

/* An open file as the kernel's fh points to it. */
struct mount_file {
    struct file *file;
    uint64_t ino;
    uint64_t read_ns; /* when it was last read; 0 = not, or nobody wants to know */
    /* Which kinds of locks were ever asked for through it: only then is anything released at close. */
    bool locked_fcntl, locked_flock;
    bool locked; /* counted in the mount's lock_handles */
    struct open_mode *mode; /* of its inode, in which it is counted (passthrough.c); NULL = not yet */
    bool through;           /* the kernel knows the handle as one that passes through */
};


/* Who asks, for the metadata service's permission check. */
struct mount_cred {
    struct meta_cred cred;
    uint32_t groups[MOUNT_GROUPS_MAX];
};
void mount_cred(fuse_req_t req, struct mount_cred *ret);
static inline struct mount *mount_of(fuse_req_t req)
{
    return fuse_req_userdata(req);
}
static inline struct mount_file *mount_file_of(const struct fuse_file_info *fi)
{
    return (struct mount_file *)(uintptr_t)fi->fh;
}

/* The inode itself: never through a symbolic link. */
static inline Tarn__Where mount_where(uint64_t ino)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = ino;
    where.nofollow = true;
    return where;
}

/* Replies with the errno of a negative code (0 = success). */
void mount_reply_err(fuse_req_t req, int err);
void mount_reply_entry(fuse_req_t req, const Tarn__Attr *attr);
void mount_reply_attr(fuse_req_t req, const Tarn__Attr *attr);

/* A change or query whose reply is an Entry (or, for OP_LOOKUP, a LookupReply). */
int mount_call(fuse_req_t req, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx,
               const ProtobufCMessageDescriptor *reply_type, void *ret_reply);

/* counters.c: true when the attribute is the mount's own; it was replied then. */
#define MOUNT_COUNTERS "tarn.counters"
bool counters_reply(fuse_req_t req, uint64_t ino, const char *name, size_t size);

/* channel.c: the kernel's side. Runs until the file system is unmounted. */
int channel_init(struct mount *mount);
void channel_run(struct mount *mount);

/* ops_*.c */
extern const struct fuse_lowlevel_ops mount_ops;
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t from, const char *from_name, fuse_ino_t to, const char *to_name,
               unsigned flags);
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi);
void op_access(fuse_req_t req, fuse_ino_t ino, int mask);
void op_statfs(fuse_req_t req, fuse_ino_t ino);
void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size, int flags);
void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi);
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset, struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length, struct fuse_file_info *fi);
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);
void op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock, int sleep);
void op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op);

/* ops_lock.c: what close() and the last close release. */
int lock_drop_owner(fuse_req_t req, uint64_t ino, uint64_t owner, Tarn__LockKind kind);
int lock_drop_handle(fuse_req_t req, uint64_t ino, uint64_t handle);
/* True when any handle of the inode here has had locks: close() of whichever handle drops the fcntl ones. */
bool lock_any(const struct mount *mount, uint64_t ino);
/* What is delegated goes back with the last of them; waits. */
void lock_forget_handle(struct mount *mount, struct mount_file *open);

#endif
