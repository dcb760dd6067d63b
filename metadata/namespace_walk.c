/* Path walk: path_resolution(7), with directories made on the way when an object's key asks for it.
 */
#include <stdio.h>

#include "common/check.h"
#include "common/err.h"
#include "namespace.h"

struct walker {
    struct tables *t;
    unsigned flags;
    struct inode at; /* the directory reached; owned */
    char *path;      /* owned; replaced when a symbolic link is put in */
    const char *rest;
    unsigned links;
    bool slash_behind; /* the last component must be a directory */
};

static void walker_fini(struct walker *w)
{
    inode_fini(&w->at);
    free(w->path);
}

void ns_walk_fini(struct ns_walk *walk)
{
    inode_fini(&walk->inode);
    inode_fini(&walk->dir);
}

static void inode_move(struct inode *to, struct inode *from)
{
    inode_fini(to);
    *to = *from;
    from->data = NULL;
    from->data_len = 0;
}

static size_t count_slashes(const char *path)
{
    size_t n = 0;
    while (path[n] == '/')
        n++;
    return n;
}

/* Cuts the next component into name. 0, or -E_NAMETOOLONG. *ret_last: nothing but slashes follows.
 */
static int next_component(struct walker *w, char name[MD_NAME_MAX + 1], bool *ret_last)
{
    size_t len = (size_t)(strchrnul(w->rest, '/') - w->rest);
    if (len > MD_NAME_MAX)
        return -E_NAMETOOLONG;
    memcpy(name, w->rest, len);
    name[len] = 0;
    w->rest += len;
    size_t slashes = count_slashes(w->rest);
    w->rest += slashes;
    *ret_last = *w->rest == 0;
    w->slash_behind = slashes > 0;
    return 0;
}

static int follow(struct walker *w, const struct inode *link)
{
    if (++w->links > NS_SYMLINKS_MAX)
        return -E_LOOP;
    if (link->data_len == 0)
        return -E_NOENT;
    size_t n = link->data_len + strlen(w->rest) + 3;
    if (n > NS_PATH_MAX)
        return -E_NAMETOOLONG;
    char *path = malloc(n);
    if (path == NULL)
        return -E_NOMEM;
    bool more = *w->rest != 0 || w->slash_behind;
    (void)snprintf(path, n, "%s%s%s", (const char *)link->data, more ? "/" : "", w->rest);
    free(w->path);
    w->path = path;
    w->rest = path + count_slashes(path);
    if (link->data[0] != '/')
        return 0;
    struct inode root = {0};
    int err = ns_inode_get(w->t, MD_ROOT, &root);
    if (err == 0)
        inode_move(&w->at, &root);
    return err;
}

/* A missing directory on the way. */
static int make_on_way(struct walker *w, const char *name, struct inode *ret)
{
    if (!(w->flags & NS_MKDIRS))
        return -E_NOENT;
    int err = ns_may(w->t, &w->at, NS_WRITE | NS_EXEC);
    if (err != 0)
        return err;
    struct ns_new spec = {.type = TARN__FILE_TYPE__FT_DIR,
                          .mode = 0755,
                          .uid = w->t->cred.uid,
                          .gid = w->t->cred.gid};
    if (w->flags & NS_IMPLICIT)
        spec.flags = INODE_IMPLICIT;
    return ns_mkdir(w->t, &w->at, name, &spec, ret);
}

/* An object stands where a directory is needed: it becomes the NS_SELF entry of a new directory. */
static int step_aside(struct walker *w, const char *name, struct inode *file)
{
    struct inode dir = {0};
    int err = ns_may_remove(w->t, &w->at, file);
    if (err == 0)
        err = ns_entry_remove(w->t, &w->at, name, file);
    if (err == 0)
        err = make_on_way(w, name, &dir);
    if (err == 0)
        err = ns_entry_add(w->t, &dir, NS_SELF, file);
    if (err == 0)
        err = ns_inode_put(w->t, file);
    if (err == 0)
        err = ns_inode_put(w->t, &dir);
    if (err == 0)
        inode_move(file, &dir);
    return err;
}

static int step_dotdot(struct walker *w)
{
    struct inode parent = {0};
    int err = ns_inode_get(w->t, w->at.parent, &parent);
    if (err == 0)
        inode_move(&w->at, &parent);
    return err;
}

static int lookup(struct walker *w, const char *name, struct inode *ret)
{
    struct entry entry;
    int err = ns_entry_get(w->t, w->at.ino, name, &entry);
    return err != 0 ? err : ns_inode_get(w->t, entry.ino, ret);
}

/* One component; *ret_end when it was the last and *ret is filled. */
static int step(struct walker *w, struct ns_walk *ret, bool *ret_end)
{
    char name[MD_NAME_MAX + 1];
    bool last;
    if (w->at.type != TARN__FILE_TYPE__FT_DIR)
        return -E_NOTDIR;
    int err = ns_may(w->t, &w->at, NS_EXEC);
    if (err == 0)
        err = next_component(w, name, &last);
    if (err != 0)
        return err;
    if (strcmp(name, ".") == 0)
        return 0;
    if (strcmp(name, "..") == 0)
        return step_dotdot(w);
    _cleanup_(inode_fini) struct inode child = {0};
    err = lookup(w, name, &child);
    bool missing = err == -E_NOENT;
    if (missing && !last)
        err = make_on_way(w, name, &child);
    if (err != 0 && !(missing && last && (w->flags & NS_MAY_MISS)))
        return err;
    if (err == 0 && child.type == TARN__FILE_TYPE__FT_SYMLINK &&
        (!last || w->slash_behind || !(w->flags & NS_NOFOLLOW)))
        return follow(w, &child);
    if (err == 0 && !last && (w->flags & (NS_IMPLICIT | NS_FILES_STAY)) == NS_IMPLICIT &&
        child.type == TARN__FILE_TYPE__FT_FILE)
        err = step_aside(w, name, &child);
    if (!last) {
        inode_move(&w->at, &child);
        return err;
    }
    if (err == 0 && w->slash_behind && child.type != TARN__FILE_TYPE__FT_DIR)
        return -E_NOTDIR;
    ret->found = err == 0;
    memcpy(ret->name, name, sizeof name);
    inode_move(&ret->inode, &child);
    inode_move(&ret->dir, &w->at);
    *ret_end = true;
    return 0;
}

int ns_walk(struct tables *t, uint64_t start, const char *path, unsigned flags, struct ns_walk *ret)
{
    *ret = (struct ns_walk){0};
    if (strlen(path) >= NS_PATH_MAX)
        return -E_NAMETOOLONG;
    _cleanup_(walker_fini) struct walker w = {.t = t, .flags = flags};
    w.path = strdup(path);
    if (w.path == NULL)
        return tables_note(t, -E_NOMEM);
    w.rest = w.path + count_slashes(w.path);
    int err = ns_inode_get(t, start == 0 ? MD_ROOT : start, &w.at);
    bool end = false;
    while (err == 0 && !end && *w.rest != 0)
        err = step(&w, ret, &end);
    if (err == 0 && !end) { /* an empty path, or one that ended in "." or ".." */
        ret->found = true;
        inode_move(&ret->inode, &w.at);
    }
    if (err != 0)
        ns_walk_fini(ret);
    return tables_note(t, err);
}

int ns_where(struct tables *t, const Tarn__Where *where, unsigned flags, struct inode *ret)
{
    if (where == NULL)
        return ns_inode_get(t, MD_ROOT, ret);
    if (where->path[0] == 0)
        return ns_inode_get(t, where->ino == 0 ? MD_ROOT : where->ino, ret);
    _cleanup_(ns_walk_fini) struct ns_walk walk;
    int err =
        ns_walk(t, where->ino, where->path, flags | (where->nofollow ? NS_NOFOLLOW : 0), &walk);
    if (err == 0)
        inode_move(ret, &walk.inode);
    return err;
}

int ns_where_dir(struct tables *t, const Tarn__Where *where, unsigned flags, struct inode *ret)
{
    int err = 0;
    if (!(flags & NS_MKDIRS)) {
        err = ns_where(t, where, flags, ret);
    } else { /* a name that cannot be a component's end makes the last one a directory on the way */
        size_t n = (where == NULL ? 0 : strlen(where->path)) + 3;
        _cleanup_free_ char *path = malloc(n);
        if (path == NULL)
            return -E_NOMEM;
        (void)snprintf(path, n, "%s/.", where == NULL ? "" : where->path);
        _cleanup_(ns_walk_fini) struct ns_walk walk;
        err = ns_walk(t, where == NULL ? 0 : where->ino, path, flags, &walk);
        if (err == 0)
            inode_move(ret, &walk.inode);
    }
    if (err == 0 && ret->type != TARN__FILE_TYPE__FT_DIR)
        err = -E_NOTDIR;
    return err;
}
