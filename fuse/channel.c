/* The kernel's side of the mount: requests are read from /dev/fuse by the loop and each runs in its own
 * fiber. libfuse 3.14 cannot ask for everything today's kernels offer; the reply to INIT passes
 * through here and is completed (Linux include/uapi/linux/fuse.h, struct fuse_init_out). */
#include "mount.h"

#include "common/log.h"

#include <linux/fuse.h>
#include <poll.h>
#include <unistd.h>

/* Shared writable mappings of files opened with direct I/O (Linux 6.6); newer than our headers. */
#define INIT_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
/* Reads of a handle from another file (Linux 6.9): fuse_init_out.max_stack_depth is the first of our headers' unused words. */
#define INIT_PASSTHROUGH (1ULL << 37)

/* Requests in flight are bounded by the kernel's max_background and the callers themselves; this bounds our
 * memory: a request's buffer is its own size, kept until the reply. */
#define SMALL_REQUEST_BYTES KIB(16)

struct request {
    struct mount *mount;
    struct fuse_buf buf;
};

static ssize_t channel_read(int fd, void *buf, size_t n, void *userdata)
{
    struct mount *mount = userdata;
    ssize_t got = read(fd, buf, n);
    const struct fuse_in_header *header = buf;
    if (got >= (ssize_t)sizeof *header && header->opcode == FUSE_INIT) {
        const struct fuse_init_in *init = (const void *)(header + 1);
        size_t have = (size_t)got - sizeof *header;
        mount->init_unique = header->unique;
        mount->init_offer = have < offsetof(struct fuse_init_in, flags2) + sizeof init->flags2
                                ? 0
                                : init->flags | (uint64_t)init->flags2 << 32;
    }
    return got;
}

/* Adds to the INIT reply what the kernel offered and libfuse does not know how to ask for. */
static void complete_init(struct mount *mount, struct fuse_init_out *init)
{
    init->flags |= FUSE_INIT_EXT | FUSE_PARALLEL_DIROPS;
    init->flags2 |= (uint32_t)(INIT_DIRECT_IO_ALLOW_MMAP >> 32);
#if FUSE_VERSION < FUSE_MAKE_VERSION(3, 17) /* later ones ask themselves: op_init() */
    if (mount->passthrough != MOUNT_PASSTHROUGH_OFF && (mount->init_offer & INIT_PASSTHROUGH) != 0) {
        init->flags2 |= (uint32_t)(INIT_PASSTHROUGH >> 32);
        init->unused[0] = 1; /* max_stack_depth: chunk files are not on an overlay, an overlay may be on us */
        mount->kernel_passes = true;
    }
#endif
}

static ssize_t channel_writev(int fd, struct iovec *iov, int n, void *userdata)
{
    struct mount *mount = userdata;
    const struct fuse_out_header *header = iov[0].iov_base;
    if (mount->init_unique != 0 && header->unique == mount->init_unique && header->error == 0 && n >= 2 &&
        iov[1].iov_len >= offsetof(struct fuse_init_out, flags2) + sizeof(uint32_t)) {
        struct fuse_init_out init = {0};
        memcpy(&init, iov[1].iov_base, MIN(iov[1].iov_len, sizeof init));
        complete_init(mount, &init);
        struct iovec copy[2] = {iov[0], {.iov_base = &init, .iov_len = iov[1].iov_len}};
        mount->init_unique = 0;
        return writev(fd, copy, 2);
    }
    return writev(fd, iov, n);
}

int channel_init(struct mount *mount)
{
    static const struct fuse_custom_io io = {.read = channel_read, .writev = channel_writev};
    int fd = fuse_session_fd(mount->session);
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return err_from_errno(errno);
    return err_from_errno(-fuse_session_custom_io(mount->session, &io, fd));
}

static void request_fiber(void *arg)
{
    struct request *request = arg;
    fuse_session_process_buf(request->mount->session, &request->buf);
    fiber_group_done(&request->mount->requests);
    free(request->buf.mem);
    free(request);
}

/* Gives the bytes just received to a fiber. Small requests (nearly all) leave the big buffer here for
 * the next read; a write takes it along. */
static int dispatch(struct mount *mount, struct fuse_buf *received)
{
    struct request *request = malloc(sizeof *request);
    if (request == NULL)
        return -E_NOMEM;
    *request = (struct request){.mount = mount, .buf = *received};
    if (received->size <= SMALL_REQUEST_BYTES) {
        request->buf.mem = malloc(received->size);
        if (request->buf.mem != NULL)
            memcpy(request->buf.mem, received->mem, received->size);
    } else {
        received->mem = NULL;
    }
    int err = request->buf.mem == NULL ? -E_NOMEM : fiber_spawn(mount->io, "fuse request", request_fiber, request);
    if (err != 0) {
        free(request->buf.mem);
        free(request);
    } else {
        fiber_group_add(&mount->requests);
    }
    return err;
}

/* One pass over what the kernel has for us: 0 to wait for more, or why the mount is over. */
static int receive(struct mount *mount, struct fuse_buf *buf)
{
    for (unsigned n = 0; n < 64; n++) {
        int got = fuse_session_receive_buf(mount->session, buf);
        if (got == -EINTR)
            continue;
        if (got == -EAGAIN)
            return 0;
        if (got <= 0)
            return got == 0 || got == -ENODEV ? -E_CANCELED : err_from_errno(-got);
        int err = dispatch(mount, buf);
        while (err == -E_NOMEM || err == -E_BUSY) { /* the request must get its reply: wait for room */
            fiber_yield();
            err = dispatch(mount, buf);
        }
        if (err != 0)
            return err;
    }
    fiber_yield();
    return 0;
}

void channel_run(struct mount *mount)
{
    struct fuse_buf buf = {0};
    int fd = fuse_session_fd(mount->session), err = 0;
    while (err == 0 && !fuse_session_exited(mount->session)) {
        err = receive(mount, &buf);
        if (err == 0) {
            int events = io_poll(mount->io, fd, POLLIN, 0);
            err = events < 0 ? events : 0;
        }
    }
    free(buf.mem);
    if (err != 0 && err != -E_CANCELED)
        log_error("the mount at %s ends: reading from /dev/fuse failed: %s", mount->point, err_sentence(err));
}
