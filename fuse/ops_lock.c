/* Locks: fcntl ranges (classic and OFD arrive alike) and flock, kept by the metadata service so that
 * every mount sees them. A blocking wait suspends this request's fiber only; a signal ends it by EINTR.
 * Sources: POSIX.1-2017 fcntl(); Linux fcntl(2), flock(2). */
#include "mount.h"

#include "client/lease.h"
#include "client/lease_lock.h"

#include <fcntl.h>
#include <sys/file.h>

static Tarn__LockType type_of(short type)
{
    return type == F_RDLCK   ? TARN__LOCK_TYPE__LOCK_SH
           : type == F_WRLCK ? TARN__LOCK_TYPE__LOCK_EX
                             : TARN__LOCK_TYPE__LOCK_UN;
}

/* l_len 0 is "to infinity"; the kernel has made start and length absolute already. */
static uint64_t last_byte(const struct flock *lock)
{
    return lock->l_len == 0 ? UINT64_MAX : (uint64_t)lock->l_start + (uint64_t)lock->l_len - 1;
}

/* ---- which inodes need a release at close */

bool lock_any(const struct mount *mount, uint64_t ino)
{
    return map_get(&mount->lock_handles, ino) != NULL;
}

/* The count is kept in the map's pointer itself; zero is absence. */
static int remember_handle(struct mount *mount, struct mount_file *open)
{
    if (open->locked)
        return 0;
    uintptr_t count = (uintptr_t)map_get(&mount->lock_handles, open->ino);
    int err = map_put(&mount->lock_handles, open->ino, (void *)(count + 1));
    open->locked = err == 0;
    return err;
}

void lock_forget_handle(struct mount *mount, struct mount_file *open)
{
    if (!open->locked)
        return;
    open->locked = false;
    uintptr_t count = (uintptr_t)map_remove(&mount->lock_handles, open->ino);
    if (count > 1)
        map_put(&mount->lock_handles, open->ino, (void *)(count - 1)); /* room was just made: cannot fail */
    else
        lease_lock_closed(meta_leases(mount->meta), open->ino);
}

/* ---- taking and asking */

struct waiting {
    struct meta *meta;
    uint64_t waiter;
};

static void interrupted(fuse_req_t req, void *arg)
{
    struct waiting *waiting = arg;
    lease_lock_interrupt(meta_leases(waiting->meta), waiting->waiter);
}

/* ENOLCK tells that locks were lost with the session of the open file: it must be opened again. */
static int lost(int err)
{
    return err == -E_NO_SESSION ? -E_NOLCK : err;
}

static int take(fuse_req_t req, struct mount_file *open, Tarn__Lock *lock)
{
    struct mount *mount = mount_of(req);
    struct mount_cred cred;
    mount_cred(req, &cred);
    uint64_t session;
    int err = file_session(open->file, &session);
    if (err != 0)
        return lost(err);
    lock->waiter = meta_lock_waiter(mount->meta);
    struct waiting waiting = {.meta = mount->meta, .waiter = lock->waiter};
    if (lock->wait)
        fuse_req_interrupt_func(req, interrupted, &waiting);
    if (lock->wait && fuse_req_interrupted(req)) {
        fuse_req_interrupt_func(req, NULL, NULL);
        return -E_INTR;
    }
    err = lease_lock(meta_leases(mount->meta), session, lock, &cred.cred);
    if (lock->wait)
        fuse_req_interrupt_func(req, NULL, NULL);
    return lost(err);
}

void op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *flock, int sleep)
{
    struct mount_file *open = mount_file_of(fi);
    Tarn__Lock lock = TARN__LOCK__INIT;
    lock.ino = ino;
    lock.kind = TARN__LOCK_KIND__LOCK_FCNTL;
    lock.type = type_of(flock->l_type);
    lock.start = (uint64_t)flock->l_start;
    lock.end = last_byte(flock);
    lock.owner = fi->lock_owner;
    lock.pid = (uint32_t)flock->l_pid;
    lock.wait = sleep != 0 && lock.type != TARN__LOCK_TYPE__LOCK_UN;
    lock.handle = file_handle(open->file);
    open->locked_fcntl = true;
    int err = remember_handle(mount_of(req), open);
    mount_reply_err(req, err != 0 ? err : take(req, open, &lock));
}

void op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op)
{
    struct mount_file *open = mount_file_of(fi);
    Tarn__Lock lock = TARN__LOCK__INIT;
    lock.ino = ino;
    lock.kind = TARN__LOCK_KIND__LOCK_FLOCK;
    int what = op & ~LOCK_NB;
    lock.type = what == LOCK_SH ? TARN__LOCK_TYPE__LOCK_SH : what == LOCK_EX ? TARN__LOCK_TYPE__LOCK_EX : TARN__LOCK_TYPE__LOCK_UN;
    lock.end = UINT64_MAX;
    lock.owner = fi->lock_owner;
    lock.wait = (op & LOCK_NB) == 0 && lock.type != TARN__LOCK_TYPE__LOCK_UN;
    lock.handle = file_handle(open->file);
    open->locked_flock = true;
    int err = remember_handle(mount_of(req), open);
    mount_reply_err(req, err != 0 ? err : take(req, open, &lock));
}

void op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *flock)
{
    Tarn__GetLock request = TARN__GET_LOCK__INIT;
    request.ino = ino;
    request.kind = TARN__LOCK_KIND__LOCK_FCNTL;
    request.type = type_of(flock->l_type);
    request.start = (uint64_t)flock->l_start;
    request.end = last_byte(flock);
    request.owner = fi->lock_owner;
    struct mount *mount = mount_of(req);
    struct mount_cred cred;
    mount_cred(req, &cred);
    Tarn__GetLockReply reply;
    int err = lease_getlk(meta_leases(mount->meta), &request, &cred.cred, &reply);
    if (err != 0) {
        mount_reply_err(req, err);
        return;
    }
    flock->l_type = F_UNLCK;
    if (reply.conflict) {
        flock->l_type = reply.type == TARN__LOCK_TYPE__LOCK_SH ? F_RDLCK : F_WRLCK;
        flock->l_whence = SEEK_SET;
        flock->l_start = (off_t)reply.start;
        flock->l_len = reply.end == UINT64_MAX ? 0 : (off_t)(reply.end - reply.start + 1);
        /* A pid means something on its own node only; as NFS does, others are shown as they are there. */
        flock->l_pid = (pid_t)reply.pid;
    }
    fuse_reply_lock(req, flock);
}

/* Without a session there are no locks. */
static int drop(fuse_req_t req, const Tarn__LockDrop *request)
{
    struct mount *mount = mount_of(req);
    struct mount_cred cred;
    mount_cred(req, &cred);
    uint64_t session = meta_session(mount->meta);
    return session == 0 ? 0 : lease_lock_drop(meta_leases(mount->meta), session, request, &cred.cred);
}

int lock_drop_owner(fuse_req_t req, uint64_t ino, uint64_t owner, Tarn__LockKind kind)
{
    Tarn__LockDrop request = TARN__LOCK_DROP__INIT;
    request.ino = ino;
    request.owner = owner;
    request.kind = kind;
    return drop(req, &request);
}

int lock_drop_handle(fuse_req_t req, uint64_t ino, uint64_t handle)
{
    Tarn__LockDrop request = TARN__LOCK_DROP__INIT;
    request.ino = ino;
    request.by_handle = true;
    request.handle = handle;
    request.kind = TARN__LOCK_KIND__LOCK_FCNTL;
    return drop(req, &request);
}
