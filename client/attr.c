#include "attr.h"

#include "common/base.h"

static mode_t type_bits(Tarn__FileType type)
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

struct timespec attr_timespec(uint64_t ns)
{
    int64_t second = (int64_t)ns / NS_PER_SECOND, rest = (int64_t)ns % NS_PER_SECOND;
    if (rest < 0) {
        second--;
        rest += NS_PER_SECOND;
    }
    return (struct timespec){.tv_sec = second, .tv_nsec = rest};
}

uint64_t attr_ns(const struct timespec *ts)
{
    const int64_t last = INT64_MAX / NS_PER_SECOND - 1;
    int64_t second = MIN(MAX((int64_t)ts->tv_sec, -last), last);
    return (uint64_t)(second * NS_PER_SECOND + ts->tv_nsec);
}

void attr_to_stat(const Tarn__Attr *attr, struct stat *ret)
{
    *ret = (struct stat){
        .st_ino = attr->ino,
        .st_mode = type_bits(attr->type) | (attr->mode & 07777),
        .st_nlink = attr->nlink,
        .st_uid = attr->uid,
        .st_gid = attr->gid,
        .st_rdev = attr->rdev,
        .st_size = (off_t)attr->size,
        .st_blksize = MIB(1),
        .st_blocks = (blkcnt_t)attr->blocks,
        .st_atim = attr_timespec(attr->atime),
        .st_mtim = attr_timespec(attr->mtime),
        .st_ctim = attr_timespec(attr->ctime),
    };
}
