#include "tree.h"
#include "common/check.h"
#include "common/err.h"

#define CALL(tree, op, request, type, ret)                                                                             \
    meta_call((tree)->meta, (op), &(request).base, &(request).ctx, (tree)->cred, (type), (ret), NULL)

static Tarn__Where at(const char *path)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = 1;
    where.path = (char *)path + (*path == '/');
    return where;
}

const char *tree_split(const char *path, char *dir)
{
    const char *slash = strrchr(path, '/');

    CHECK(slash != NULL);
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    memcpy(dir, path, n);
    dir[n] = 0;
    return slash + 1;
}

int tree_lookup(const struct tree *tree, const char *path, Tarn__LookupReply **ret)
{
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    Tarn__Where where = at(path);

    request.where = &where;
    int r = CALL(tree, OP_LOOKUP, request, &tarn__lookup_reply__descriptor, ret);
    if (r == 0 && (*ret)->attr == NULL) {
        tarn__lookup_reply__free_unpacked(*ret, NULL);
        return -E_PROTO;
    }
    return r;
}

int tree_access(const struct tree *tree, const char *path, uint32_t mask)
{
    Tarn__Access request = TARN__ACCESS__INIT;
    Tarn__Where where = at(path);

    request.where = &where;
    request.mask = mask;
    return CALL(tree, OP_ACCESS, request, NULL, NULL);
}

int tree_mkdir(const struct tree *tree, const char *path, uint32_t mode, bool parents)
{
    Tarn__Create request = TARN__CREATE__INIT;
    _cleanup_free_ char *dir = malloc(strlen(path) + 1);

    if (dir == NULL)
        return -E_NOMEM;
    request.name = (char *)tree_split(path, dir);
    Tarn__Where where = at(dir);
    request.parent = &where;
    request.type = TARN__FILE_TYPE__FT_DIR;
    request.mode = mode;
    request.parents = parents;
    request.exclusive = !parents;
    return CALL(tree, OP_CREATE, request, NULL, NULL);
}

static int unlink_any(const struct tree *tree, const char *path, bool directory, bool prune)
{
    Tarn__Unlink request = TARN__UNLINK__INIT;
    _cleanup_free_ char *dir = malloc(strlen(path) + 1);

    if (dir == NULL)
        return -E_NOMEM;
    request.name = (char *)tree_split(path, dir);
    Tarn__Where where = at(dir);
    request.parent = &where;
    request.directory = directory;
    request.prune = prune;
    return CALL(tree, OP_UNLINK, request, NULL, NULL);
}

int tree_unlink(const struct tree *tree, const char *path, bool prune)
{
    return unlink_any(tree, path, false, prune);
}

int tree_rmdir(const struct tree *tree, const char *path)
{
    return unlink_any(tree, path, true, false);
}

int tree_xattrs(const struct tree *tree, const char *path, Tarn__GetXattrReply **ret)
{
    Tarn__GetXattr request = TARN__GET_XATTR__INIT;
    Tarn__Where where = at(path);

    request.where = &where;
    return CALL(tree, OP_GETXATTR, request, &tarn__get_xattr_reply__descriptor, ret);
}

int tree_readdir(const struct tree *tree, const char *path, const char *after, unsigned max, Tarn__ReadDirReply **ret)
{
    Tarn__ReadDir request = TARN__READ_DIR__INIT;
    Tarn__Where where = at(path);

    request.where = &where;
    request.after = (char *)after;
    request.max = max;
    request.attrs = true;
    return CALL(tree, OP_READDIR, request, &tarn__read_dir_reply__descriptor, ret);
}

int tree_map(const struct tree *tree, const char *path, Tarn__FileMapReply **ret)
{
    Tarn__FileMap request = TARN__FILE_MAP__INIT;
    Tarn__Where where = at(path);

    request.where = &where;
    request.max = 1;
    int r = CALL(tree, OP_FILE_MAP, request, &tarn__file_map_reply__descriptor, ret);
    if (r == 0 && (*ret)->attr == NULL) {
        tarn__file_map_reply__free_unpacked(*ret, NULL);
        return -E_PROTO;
    }
    return r;
}

int tree_list(const struct tree *tree, const char *dir, const char *prefix, const char *delimiter, const char *after,
              unsigned max, Tarn__ListObjectsReply **ret)
{
    Tarn__ListObjects request = TARN__LIST_OBJECTS__INIT;
    Tarn__Where where = at(dir);

    request.bucket = &where;
    request.prefix = (char *)prefix;
    request.delimiter = (char *)delimiter;
    request.after = (char *)after;
    request.max = max;
    return CALL(tree, OP_LIST_OBJECTS, request, &tarn__list_objects_reply__descriptor, ret);
}

int tree_locations(const struct tree *tree, char **paths, size_t n_paths, bool recursive, const char *after, unsigned max,
                   Tarn__LocationsReply **ret)
{
    Tarn__Locations request = TARN__LOCATIONS__INIT;

    request.paths = paths;
    request.n_paths = n_paths;
    request.recursive = recursive;
    request.after = (char *)after;
    request.max = max;
    return CALL(tree, OP_LOCATIONS, request, &tarn__locations_reply__descriptor, ret);
}

int tree_commit(const struct tree *tree, Tarn__NewObject *object, Tarn__Entry **ret)
{
    Tarn__ObjectCommit request = TARN__OBJECT_COMMIT__INIT;

    request.object = object;
    return CALL(tree, OP_OBJECT_COMMIT, request, ret == NULL ? NULL : &tarn__entry__descriptor, ret);
}

int tree_status(const struct tree *tree, Tarn__StatusReply **ret)
{
    Tarn__Status request = TARN__STATUS__INIT;
    return CALL(tree, OP_STATUS, request, &tarn__status_reply__descriptor, ret);
}
