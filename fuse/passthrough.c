#include "passthrough.h"

#include "common/check.h"
#include "common/log.h"
#include "proto/ino.h"

#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* How the handles of an inode are open in the kernel; there while it has any. */
struct open_mode {
    unsigned plain, through;
    int backing; /* the kernel's number of the backing file while through > 0 */
    uint64_t chunk; /* whose file that is */
};

/* ------------------------------------------------------------------ the kernel's side */
#if FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17)
static int backing_open(fuse_req_t req, int fd)
{
    int backing = fuse_passthrough_open(req, fd);
    return backing > 0 ? backing : -EIO; /* libfuse has logged why */
}

static void backing_close(fuse_req_t req, int backing)
{
    (void)fuse_passthrough_close(req, backing);
}

static int reply_open_through(fuse_req_t req, struct fuse_file_info *fi, int backing)
{
    fi->backing_id = backing;
    return fuse_reply_open(req, fi);
}
#else
/* include/uapi/linux/fuse.h of Linux 6.9; newer than our headers and than libfuse 3.14. */
#define OPEN_PASSTHROUGH (1 << 7)
struct backing_map {
    int32_t fd;
    uint32_t flags;
    uint64_t padding;
};
#define DEV_IOC_BACKING_OPEN _IOW(229, 1, struct backing_map)
#define DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)
struct open_out {
    uint64_t fh;
    uint32_t open_flags;
    int32_t backing_id;
};
_Static_assert(sizeof(struct open_out) == sizeof(struct fuse_open_out), "the last field was padding");

static int backing_open(fuse_req_t req, int fd)
{
    struct backing_map map = {.fd = fd};
    int backing = ioctl(fuse_session_fd(mount_of(req)->session), DEV_IOC_BACKING_OPEN, &map);
    return backing > 0 ? backing : backing < 0 ? -errno : -EIO;
}

static void backing_close(fuse_req_t req, int backing)
{
    uint32_t id = (uint32_t)backing;
    if (ioctl(fuse_session_fd(mount_of(req)->session), DEV_IOC_BACKING_CLOSE, &id) < 0)
        log_warn("the kernel does not close a backing file: %s", strerror(errno));
}

static int reply_open_through(fuse_req_t req, struct fuse_file_info *fi, int backing)
{
    struct open_out out = {.fh = fi->fh, .open_flags = OPEN_PASSTHROUGH | (fi->direct_io ? FOPEN_DIRECT_IO : 0), .backing_id = backing};
    return fuse_reply_buf(req, (const char *)&out, sizeof out);
}
#endif

/* ------------------------------------------------------------------ modes */
static struct open_mode *mode_of(struct mount *mount, uint64_t ino)
{
    struct open_mode *mode = map_get(&mount->open_modes, ino);
    if (mode != NULL)
        return mode;
    mode = calloc(1, sizeof *mode);
    if (mode != NULL && map_put(&mount->open_modes, ino, mode) == 0)
        return mode;
    free(mode);
    return NULL;
}

static void mode_drop_idle(struct mount *mount, uint64_t ino, struct open_mode *mode)
{
    if (mode->plain != 0 || mode->through != 0)
        return;
    map_remove(&mount->open_modes, ino);
    free(mode);
}

static bool is_for_reading(const struct fuse_file_info *fi)
{
    return (fi->flags & (O_ACCMODE | O_TRUNC | O_APPEND)) == O_RDONLY;
}

/* May a first handle of the inode pass through? Then its descriptor, the caller's. */
static bool may_pass(struct mount *mount, struct mount_file *open, const struct fuse_file_info *fi, int *ret_fd, uint64_t *ret_chunk)
{
    if (!mount->kernel_passes || mount->passthrough == MOUNT_PASSTHROUGH_OFF || !is_for_reading(fi))
        return false;
    if (mount->passthrough == MOUNT_PASSTHROUGH_AUTO && ino_snapshot(open->ino) == 0)
        return false;
    return file_raw_fd(open->file, ret_fd, ret_chunk) == 0;
}

/* The kernel does not take this file, or none: then it need not be asked again. */
static void not_taken(struct mount *mount, int err)
{
    mount->kernel_passes = false;
    log_warn("%s: the kernel does not pass through to chunk files (%s): reads come to the mount", mount->point, strerror(-err));
}

/* Nothing waits between the look at the modes and the reply: they are the kernel's in the order of the replies. True: the
 * handle passes through, at least in name. */
static bool decide(fuse_req_t req, struct mount_file *open, struct fuse_file_info *fi, struct open_mode *mode, int fd, uint64_t chunk)
{
    struct mount *mount = mount_of(req);
    bool first = mode->through == 0;
    if (first && (fd < 0 || mode->plain > 0))
        return false;
    if (first) {
        int backing = backing_open(req, fd);
        if (backing < 0) {
            not_taken(mount, backing);
            return false;
        }
        mode->backing = backing;
        mode->chunk = chunk;
    }
    bool same = fd >= 0 && chunk == mode->chunk;
    fi->direct_io = !same;
    if (same) {
        mount->opens_through++;
        mount->opens_through_bytes += file_size_known(open->file);
        if (mount->passthrough == MOUNT_PASSTHROUGH_ON && mount->atime != MOUNT_NOATIME && !(fi->flags & O_NOATIME))
            open->read_ns = io_real_ns(mount->io); /* nobody tells us of the reads */
    }
    return true;
}

int passthrough_reply_open(fuse_req_t req, struct mount_file *open, struct fuse_file_info *fi, bool *ret_refused)
{
    struct mount *mount = mount_of(req);
    int fd = -1;
    uint64_t chunk = 0;
    *ret_refused = false;
    if (!may_pass(mount, open, fi, &fd, &chunk))
        fd = -1;
    struct open_mode *mode = mode_of(mount, open->ino);
    if (mode == NULL || (mode->through > 0 && !is_for_reading(fi))) {
        if (fd >= 0)
            close(fd);
        *ret_refused = true; /* through > 0 or no mode: nothing to drop */
        return fuse_reply_err(req, mode == NULL ? ENOMEM : ETXTBSY);
    }
    open->through = decide(req, open, fi, mode, fd, chunk);
    if (fd >= 0)
        close(fd); /* the kernel has its own by now */
    open->mode = mode;
    if (open->through)
        mode->through++;
    else
        mode->plain++;
    return open->through ? reply_open_through(req, fi, mode->backing) : fuse_reply_open(req, fi);
}

int passthrough_note_plain(struct mount *mount, struct mount_file *open)
{
    open->mode = mode_of(mount, open->ino);
    if (open->mode == NULL)
        return -E_NOMEM;
    open->mode->plain++;
    return 0;
}

void passthrough_release(fuse_req_t req, struct mount_file *open)
{
    struct open_mode *mode = open->mode;
    if (mode == NULL)
        return;
    if (!open->through)
        mode->plain--;
    else if (--mode->through == 0)
        backing_close(req, mode->backing);
    mode_drop_idle(mount_of(req), open->ino, mode);
    open->mode = NULL;
}

void passthrough_fini(struct mount *mount)
{
    size_t at = 0;
    uint64_t ino;
    void *mode;
    while (map_next(&mount->open_modes, &at, &ino, &mode))
        free(mode);
    map_fini(&mount->open_modes);
}
