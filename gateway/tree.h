/* What the doors ask of the tree, one call each: thin over meta_call(). Paths begin with '/'. Replies are freed with
 * their tarn__…__free_unpacked(). Errors: the metadata service's. Threads: the io's; fibers. */
#ifndef TARN_GATEWAY_TREE_H
#define TARN_GATEWAY_TREE_H

#include "client/meta.h"

struct tree {
    struct meta *meta;
    const struct meta_cred *cred;
};
int tree_lookup(const struct tree *tree, const char *path, Tarn__LookupReply **ret);
int tree_access(const struct tree *tree, const char *path, uint32_t mask);
/* parents: make them too, and an existing directory is success. */
int tree_mkdir(const struct tree *tree, const char *path, uint32_t mode, bool parents);
/* prune: empty directories that only keys had made go too. -E_NOENT when it is not there. */
int tree_unlink(const struct tree *tree, const char *path, bool prune);
int tree_rmdir(const struct tree *tree, const char *path);
int tree_xattrs(const struct tree *tree, const char *path, Tarn__GetXattrReply **ret);
int tree_readdir(const struct tree *tree, const char *path, const char *after, unsigned max, Tarn__ReadDirReply **ret);
/* Attributes, the bytes if they are inline, and at most one extent. */
int tree_map(const struct tree *tree, const char *path, Tarn__FileMapReply **ret);
int tree_list(const struct tree *tree, const char *dir, const char *prefix, const char *delimiter, const char *after,
              unsigned max, Tarn__ListObjectsReply **ret);
int tree_locations(const struct tree *tree, char **paths, size_t n_paths, bool recursive, const char *after, unsigned max,
                   Tarn__LocationsReply **ret);
int tree_commit(const struct tree *tree, Tarn__NewObject *object, Tarn__Entry **ret);
int tree_status(const struct tree *tree, Tarn__StatusReply **ret);
/* "/a/b" → "/a" and "b"; the directory of "/a" is "/". `dir` has room for the whole path. */
const char *tree_split(const char *path, char *dir);

#endif
