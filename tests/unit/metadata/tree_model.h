/* What POSIX and Linux say a tree does, in arrays: who may do what, which errors are right, what the attributes are
 * afterwards. Written from the manual pages (path_resolution(7), rename(2), unlink(2), link(2), chmod(2), chown(2),
 * truncate(2), utimensat(2), xattr(7), open(2)), not from the service. Each operation adds all errors that would be
 * right to a list, as POSIX leaves their order open, and is carried out when there are none. */
#ifndef TARN_TEST_METADATA_TREE_MODEL_H
#define TARN_TEST_METADATA_TREE_MODEL_H

#include "common/base.h"

#define MODEL_NAMES 4 /* a … d */
#define MODEL_NODES 400
#define MODEL_DIRS_MAX 40
#define MODEL_HANDLES 24
#define MODEL_ROOT 0

enum model_type { MODEL_FILE = 1, MODEL_DIR = 2, MODEL_LINK = 3 };
enum { MODEL_USER_X, MODEL_TRUSTED_X, MODEL_XATTRS };

struct model_who {
    uint32_t uid, gid, groups[2];
    size_t n_groups;
};
struct model_node {
    bool live; /* has a name, or is open */
    enum model_type type;
    uint64_t ino; /* the service's, told by its answers */
    uint32_t mode, uid, gid, nlink;
    uint64_t size, atime, mtime, ctime;
    int parent, child[MODEL_NAMES]; /* directories; -1 = none */
    char target[32];                /* links */
    int xattr[MODEL_XATTRS];        /* -1 = none */
    unsigned handles;
};
struct model_handle {
    uint64_t id; /* 0 = free */
    int node;
    bool writes;
};
struct tree_model {
    struct model_node node[MODEL_NODES];
    struct model_handle handle[MODEL_HANDLES];
    const struct model_who *who; /* asks */
    uint64_t now;                /* when it is carried out */
    int dirs;
};
struct model_errors {
    int list[12];
    unsigned n; /* 0: it is carried out */
};
/* A path from a directory. */
struct model_place {
    int start;
    char path[32];
};

void tree_model_init(struct tree_model *m, uint64_t root_ino, uint32_t root_mode, uint32_t root_nlink);
/* The node at the path, or -1 and the error that ended the walk. */
int tree_model_find(const struct tree_model *m, const struct model_place *at, bool follow, struct model_errors *e);

/* The new node (its ino is 0), or -1. */
int tree_model_make(struct tree_model *m, const struct model_place *dir, int name, enum model_type type, uint32_t mode,
                    const char *target, struct model_errors *e);
void tree_model_unlink(struct tree_model *m, const struct model_place *dir, int name, bool rmdir, struct model_errors *e);
void tree_model_rename(struct tree_model *m, const struct model_place *from, int a, const struct model_place *to, int b,
                       unsigned flags, struct model_errors *e);
void tree_model_link(struct tree_model *m, const struct model_place *target, const struct model_place *dir, int name,
                     struct model_errors *e);
void tree_model_chmod(struct tree_model *m, const struct model_place *at, uint32_t mode, struct model_errors *e);
void tree_model_chown(struct tree_model *m, const struct model_place *at, bool follow, const uint32_t *uid,
                      const uint32_t *gid, struct model_errors *e);
void tree_model_truncate(struct tree_model *m, const struct model_place *at, uint64_t size, struct model_errors *e);
/* By an open file, which may have no name any more. */
void tree_model_ftruncate(struct tree_model *m, const struct model_handle *handle, uint64_t size, struct model_errors *e);
/* times NULL: now. */
void tree_model_utimes(struct tree_model *m, const struct model_place *at, const uint64_t times[2], struct model_errors *e);
/* value -1 removes; flags: 1 must be new, 2 must be there. */
void tree_model_setxattr(struct tree_model *m, const struct model_place *at, bool follow, int which, int value,
                         unsigned flags, struct model_errors *e);
/* The value, or -1. */
int tree_model_getxattr(const struct tree_model *m, const struct model_place *at, bool follow, int which,
                        struct model_errors *e);
/* The node opened, or -1; the caller puts the handle. */
int tree_model_open(struct tree_model *m, const struct model_place *at, bool reads, bool writes, bool truncates,
                    struct model_errors *e);
void tree_model_close(struct tree_model *m, struct model_handle *handle);

#endif
