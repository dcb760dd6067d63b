/* From codes and attributes to what the kernel reads. */
#include "mount.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

void mount_cred(fuse_req_t req, struct mount_cred *ret)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    ret->cred = (struct meta_cred){.uid = ctx->uid, .gid = ctx->gid};
    if (ctx->uid == 0)
        return;
    gid_t groups[MOUNT_GROUPS_MAX];
    int n = fuse_req_getgroups(req, MOUNT_GROUPS_MAX, groups);
    for (int i = 0; i < MIN(n, MOUNT_GROUPS_MAX); i++)
        ret->groups[ret->cred.n_groups++] = groups[i];
    ret->cred.groups = ret->groups;
}

void mount_reply_err(fuse_req_t req, int err)
{
    fuse_reply_err(req, err_to_errno(err));
}

static mode_t type_mode(Tarn__FileType type)
{
    switch (type) {
    case TARN__FILE_TYPE__FT_DIR:
        return S_IFDIR;
    case TARN__FILE_TYPE__FT_SYMLINK:
        return S_IFLNK;
    case TARN__FILE_TYPE__FT_FIFO:
        return S_IFIFO;
    case TARN__FILE_TYPE__FT_CHR:
        return S_IFCHR;
    case TARN__FILE_TYPE__FT_BLK:
        return S_IFBLK;
    case TARN__FILE_TYPE__FT_SOCK:
        return S_IFSOCK;
    default:
        return S_IFREG;
    }
}

#define NS_PER_SECOND 1000000000

struct timespec mount_timespec(uint64_t ns)
{
    int64_t second = (int64_t)ns / NS_PER_SECOND, rest = (int64_t)ns % NS_PER_SECOND;
    if (rest < 0) {
        second--;
        rest += NS_PER_SECOND;
    }
    return (struct timespec){.tv_sec = second, .tv_nsec = rest};
}

uint64_t mount_ns(const struct timespec *ts)
{
    const int64_t last = INT64_MAX / NS_PER_SECOND - 1;
    int64_t second = MIN(MAX((int64_t)ts->tv_sec, -last), last);
    return (uint64_t)(second * NS_PER_SECOND + ts->tv_nsec);
}

void mount_stat(const Tarn__Attr *attr, struct stat *ret)
{
    *ret = (struct stat){
        .st_ino = attr->ino,
        .st_mode = type_mode(attr->type) | (attr->mode & 07777),
        .st_nlink = attr->nlink,
        .st_uid = attr->uid,
        .st_gid = attr->gid,
        .st_rdev = attr->rdev,
        .st_size = (off_t)attr->size,
        .st_blksize = MOUNT_IO_MAX,
        .st_blocks = (blkcnt_t)attr->blocks,
        .st_atim = mount_timespec(attr->atime),
        .st_mtim = mount_timespec(attr->mtime),
        .st_ctim = mount_timespec(attr->ctime),
    };
}

/* Nothing is cached in the kernel: what another mount changed is seen at the next look. */
#define CACHE_SECONDS 0.0

void mount_reply_entry(fuse_req_t req, const Tarn__Attr *attr)
{
    struct fuse_entry_param entry = {.ino = attr->ino, .attr_timeout = CACHE_SECONDS, .entry_timeout = CACHE_SECONDS};
    mount_stat(attr, &entry.attr);
    fuse_reply_entry(req, &entry);
}

void mount_reply_attr(fuse_req_t req, const Tarn__Attr *attr)
{
    struct stat st;
    mount_stat(attr, &st);
    fuse_reply_attr(req, &st, CACHE_SECONDS);
}

int mount_call(fuse_req_t req, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx,
               const ProtobufCMessageDescriptor *reply_type, void *ret_reply)
{
    struct mount_cred cred;
    mount_cred(req, &cred);
    return meta_call(mount_of(req)->meta, op, request, ctx, &cred.cred, reply_type, ret_reply, NULL);
}
