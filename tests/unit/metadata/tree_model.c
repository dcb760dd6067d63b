#include "tree_model.h"

#include "common/err.h"

enum { R = 4, W = 2, X = 1 };
enum { SETUID = 04000, SETGID = 02000, STICKY = 01000 };

static void wrong(struct model_errors *e, bool is, int err)
{
    if (is && e->n < ARRAY_SIZE(e->list))
        e->list[e->n++] = err;
}

static bool in_group(const struct model_who *who, uint32_t gid)
{
    return who->gid == gid || (who->n_groups > 0 && who->groups[0] == gid) || (who->n_groups > 1 && who->groups[1] == gid);
}

/* One class of bits counts, the first that fits; the superuser needs none (of a directory). */
static bool may(const struct tree_model *m, int node, uint32_t what)
{
    const struct model_node *n = &m->node[node];
    if (m->who->uid == 0)
        return true;
    if (m->who->uid == n->uid)
        return (n->mode / 0100 & what) == what;
    if (in_group(m->who, n->gid))
        return (n->mode / 010 & what) == what;
    return (n->mode & what) == what;
}

static bool owns(const struct tree_model *m, int node)
{
    return m->who->uid == 0 || m->who->uid == m->node[node].uid;
}

static bool is_dir(const struct tree_model *m, int node)
{
    return m->node[node].type == MODEL_DIR;
}

static bool empty(const struct tree_model *m, int dir)
{
    int names = 0;
    for (int i = 0; i < MODEL_NAMES; i++)
        names += m->node[dir].child[i] >= 0;
    return names == 0;
}

/* In a sticky directory only the owner of the file or of the directory takes a name away. */
static bool stuck(const struct tree_model *m, int dir, int node)
{
    return (m->node[dir].mode & STICKY) && !owns(m, dir) && !owns(m, node);
}

void tree_model_init(struct tree_model *m, uint64_t root_ino, uint32_t root_mode, uint32_t root_nlink)
{
    *m = (struct tree_model){.dirs = 1};
    m->node[MODEL_ROOT] = (struct model_node){.live = true,
                                              .type = MODEL_DIR,
                                              .ino = root_ino,
                                              .mode = root_mode,
                                              .nlink = root_nlink,
                                              .child = {-1, -1, -1, -1},
                                              .xattr = {-1, -1}};
}

/* ---- paths: a link is walked for itself, and the walk goes on where it led to */

static int walk(const struct tree_model *m, int at, const char *path, bool follow, unsigned *links, int *ret_err)
{
    while (*path != 0) {
        size_t len = strcspn(path, "/");
        bool slash = path[len] == '/', last = path[len + strspn(path + len, "/")] == 0;
        if (!is_dir(m, at) || !may(m, at, X)) {
            *ret_err = is_dir(m, at) ? -E_ACCES : -E_NOTDIR;
            return -1;
        }
        int next = len == 2 ? m->node[at].parent : *path == '.' ? at : m->node[at].child[*path - 'a'];
        if (next >= 0 && m->node[next].type == MODEL_LINK && (!last || slash || follow)) {
            const char *target = m->node[next].target;
            if (++*links > 40) {
                *ret_err = -E_LOOP;
                return -1;
            }
            next = walk(m, *target == '/' ? MODEL_ROOT : at, target + (*target == '/'), true, links, ret_err);
            if (next < 0)
                return -1;
        }
        if (next < 0 || (slash && !is_dir(m, next))) {
            *ret_err = next < 0 ? -E_NOENT : -E_NOTDIR;
            return -1;
        }
        at = next;
        path += len + strspn(path + len, "/");
    }
    return at;
}

int tree_model_find(const struct tree_model *m, const struct model_place *at, bool follow, struct model_errors *e)
{
    unsigned links = 0;
    int err = 0, node = walk(m, at->start, at->path, follow, &links, &err);
    wrong(e, node < 0, err);
    return node;
}

static int find_dir(const struct tree_model *m, const struct model_place *at, struct model_errors *e)
{
    int node = tree_model_find(m, at, true, e);
    if (node < 0 || is_dir(m, node))
        return node;
    wrong(e, true, -E_NOTDIR);
    return -1;
}

/* ---- names */

static void changed(struct tree_model *m, int node)
{
    m->node[node].ctime = m->now;
}

static void dir_changed(struct tree_model *m, int dir, int subdirs)
{
    m->node[dir].nlink += (uint32_t)subdirs;
    m->node[dir].mtime = m->node[dir].ctime = m->now;
}

static void gone_if_unused(struct tree_model *m, int node)
{
    struct model_node *n = &m->node[node];
    if (n->nlink > 0 || n->handles > 0)
        return;
    m->dirs -= n->type == MODEL_DIR;
    n->live = false;
}

static void one_name_less(struct tree_model *m, int node)
{
    struct model_node *n = &m->node[node];
    n->nlink = n->type == MODEL_DIR ? 0 : n->nlink - 1;
    changed(m, node);
    gone_if_unused(m, node);
}

static int free_node(const struct tree_model *m)
{
    for (int i = 0; i < MODEL_NODES; i++)
        if (!m->node[i].live)
            return i;
    return -1;
}

int tree_model_make(struct tree_model *m, const struct model_place *place, int name, enum model_type type, uint32_t mode,
                    const char *target, struct model_errors *e)
{
    int dir = find_dir(m, place, e), i = free_node(m);
    if (dir < 0)
        return -1;
    wrong(e, !may(m, dir, X) || (m->node[dir].child[name] < 0 && !may(m, dir, W)), -E_ACCES);
    wrong(e, may(m, dir, X) && m->node[dir].child[name] >= 0, -E_EXIST);
    wrong(e, m->node[dir].nlink == 0, -E_NOENT); /* removed, and only open any more */
    if (e->n > 0 || i < 0)
        return -1;
    const struct model_node *above = &m->node[dir];
    struct model_node n = {.live = true, .type = type, .mode = mode, .uid = m->who->uid, .gid = m->who->gid, .nlink = 1, .parent = dir};
    n.atime = n.mtime = n.ctime = m->now;
    n.xattr[0] = n.xattr[1] = -1;
    if (above->mode & SETGID) {
        bool runs = (mode & SETGID) && (mode & 010);
        n.gid = above->gid;
        if (type == MODEL_DIR)
            n.mode |= SETGID;
        else if (runs && m->who->uid != 0 && !in_group(m->who, n.gid))
            n.mode &= ~(uint32_t)SETGID;
    }
    if (type == MODEL_DIR) {
        n.nlink = 2;
        m->dirs++;
        memset(n.child, -1, sizeof n.child);
    }
    if (type == MODEL_LINK) {
        n.mode = 0777;
        n.size = strlen(target);
        memcpy(n.target, target, n.size + 1);
    }
    m->node[i] = n;
    m->node[dir].child[name] = i;
    dir_changed(m, dir, type == MODEL_DIR);
    return i;
}

void tree_model_unlink(struct tree_model *m, const struct model_place *place, int name, bool rmdir, struct model_errors *e)
{
    int dir = find_dir(m, place, e);
    if (dir < 0)
        return;
    int node = m->node[dir].child[name];
    wrong(e, !may(m, dir, X), -E_ACCES);
    wrong(e, may(m, dir, X) && node < 0, -E_NOENT);
    if (e->n > 0)
        return;
    wrong(e, !may(m, dir, W), -E_ACCES);
    wrong(e, stuck(m, dir, node), -E_PERM);
    wrong(e, rmdir && !is_dir(m, node), -E_NOTDIR);
    wrong(e, !rmdir && is_dir(m, node), -E_ISDIR);
    wrong(e, rmdir && is_dir(m, node) && !empty(m, node), -E_NOTEMPTY);
    if (e->n > 0)
        return;
    m->node[dir].child[name] = -1;
    dir_changed(m, dir, is_dir(m, node) ? -1 : 0);
    one_name_less(m, node);
}

static bool inside(const struct tree_model *m, int dir, int above)
{
    while (dir != above && dir != MODEL_ROOT)
        dir = m->node[dir].parent;
    return dir == above;
}

/* A directory goes under another: its ".." is written, and it must not come to lie in itself. */
static void may_move(const struct tree_model *m, int node, int to, struct model_errors *e)
{
    if (!is_dir(m, node))
        return;
    wrong(e, inside(m, to, node), -E_INVAL);
    wrong(e, m->node[node].parent != to && !may(m, node, W), -E_ACCES);
}

static void put_name(struct tree_model *m, int dir, int name, int node)
{
    m->node[dir].child[name] = node;
    dir_changed(m, dir, is_dir(m, node));
    changed(m, node);
    if (is_dir(m, node))
        m->node[node].parent = dir;
}

void tree_model_rename(struct tree_model *m, const struct model_place *from_place, int a, const struct model_place *to_place,
                       int b, unsigned flags, struct model_errors *e)
{
    bool noreplace = flags == 1, exchange = flags == 2;
    wrong(e, flags > 2, -E_INVAL);
    int from = find_dir(m, from_place, e), to = find_dir(m, to_place, e);
    if (e->n > 0)
        return;
    int node = m->node[from].child[a], old = m->node[to].child[b];
    wrong(e, !may(m, from, X) || !may(m, to, X), -E_ACCES);
    wrong(e, may(m, from, X) && node < 0, -E_NOENT);
    if (e->n > 0)
        return;
    wrong(e, !may(m, from, W) || !may(m, to, W), -E_ACCES);
    wrong(e, stuck(m, from, node) || (old >= 0 && stuck(m, to, old)), -E_PERM);
    wrong(e, exchange && old < 0, -E_NOENT);
    wrong(e, noreplace && old >= 0, -E_EXIST);
    may_move(m, node, to, e);
    if (exchange && old >= 0)
        may_move(m, old, from, e);
    if (!exchange && old >= 0 && old != node) {
        wrong(e, is_dir(m, node) && !is_dir(m, old), -E_NOTDIR);
        wrong(e, !is_dir(m, node) && is_dir(m, old), -E_ISDIR);
        wrong(e, is_dir(m, old) && !empty(m, old), -E_NOTEMPTY);
    }
    if (e->n > 0 || old == node)
        return;
    m->node[from].child[a] = -1;
    dir_changed(m, from, is_dir(m, node) ? -1 : 0);
    if (old >= 0)
        dir_changed(m, to, is_dir(m, old) ? -1 : 0);
    put_name(m, to, b, node);
    if (exchange)
        put_name(m, from, a, old);
    else if (old >= 0)
        one_name_less(m, old);
}

void tree_model_link(struct tree_model *m, const struct model_place *target, const struct model_place *place, int name,
                     struct model_errors *e)
{
    int node = tree_model_find(m, target, false, e), dir = find_dir(m, place, e);
    if (e->n > 0)
        return;
    bool taken = m->node[dir].child[name] >= 0;
    wrong(e, !may(m, dir, X) || (!taken && !may(m, dir, W)), -E_ACCES);
    wrong(e, may(m, dir, X) && taken, -E_EXIST);
    wrong(e, is_dir(m, node), -E_PERM);
    if (e->n > 0)
        return;
    m->node[node].nlink++;
    put_name(m, dir, name, node);
}

/* ---- attributes */

static void drop_set_ids(struct tree_model *m, int node)
{
    struct model_node *n = &m->node[node];
    bool stranger = m->who->uid != 0 && !in_group(m->who, n->gid);
    if (n->type == MODEL_DIR)
        return;
    n->mode &= ~(uint32_t)SETUID;
    if ((n->mode & 010) || stranger)
        n->mode &= ~(uint32_t)SETGID;
}

void tree_model_chmod(struct tree_model *m, const struct model_place *at, uint32_t mode, struct model_errors *e)
{
    int node = tree_model_find(m, at, true, e);
    if (node < 0)
        return;
    wrong(e, !owns(m, node), -E_PERM);
    if (e->n > 0)
        return;
    bool stranger = m->who->uid != 0 && !in_group(m->who, m->node[node].gid);
    m->node[node].mode = stranger ? mode & ~(uint32_t)SETGID : mode;
    changed(m, node);
}

void tree_model_chown(struct tree_model *m, const struct model_place *at, bool follow, const uint32_t *uid,
                      const uint32_t *gid, struct model_errors *e)
{
    int node = tree_model_find(m, at, follow, e);
    if (node < 0)
        return;
    struct model_node *n = &m->node[node];
    bool root = m->who->uid == 0;
    wrong(e, !owns(m, node), -E_PERM);
    wrong(e, uid != NULL && !root && *uid != n->uid, -E_PERM);
    wrong(e, gid != NULL && !root && *gid != n->gid && !in_group(m->who, *gid), -E_PERM);
    if (e->n > 0)
        return;
    drop_set_ids(m, node);
    n->uid = uid != NULL ? *uid : n->uid;
    n->gid = gid != NULL ? *gid : n->gid;
    changed(m, node);
}

static void resized(struct tree_model *m, int node, uint64_t size)
{
    if (m->who->uid != 0)
        drop_set_ids(m, node);
    m->node[node].size = size;
    m->node[node].mtime = m->now;
    changed(m, node);
}

void tree_model_truncate(struct tree_model *m, const struct model_place *at, uint64_t size, struct model_errors *e)
{
    int node = tree_model_find(m, at, true, e);
    if (node < 0)
        return;
    wrong(e, is_dir(m, node), -E_ISDIR);
    wrong(e, !may(m, node, W), -E_ACCES);
    if (e->n == 0)
        resized(m, node, size);
}

void tree_model_ftruncate(struct tree_model *m, const struct model_handle *handle, uint64_t size, struct model_errors *e)
{
    wrong(e, is_dir(m, handle->node), -E_ISDIR);
    wrong(e, !handle->writes && !may(m, handle->node, W), -E_ACCES);
    if (e->n == 0)
        resized(m, handle->node, size);
}

void tree_model_utimes(struct tree_model *m, const struct model_place *at, const uint64_t times[2], struct model_errors *e)
{
    int node = tree_model_find(m, at, true, e);
    if (node < 0)
        return;
    wrong(e, times != NULL && !owns(m, node), -E_PERM);
    wrong(e, times == NULL && !owns(m, node) && !may(m, node, W), -E_ACCES);
    if (e->n > 0)
        return;
    m->node[node].atime = times != NULL ? times[0] : m->now;
    m->node[node].mtime = times != NULL ? times[1] : m->now;
    changed(m, node);
}

void tree_model_setxattr(struct tree_model *m, const struct model_place *at, bool follow, int which, int value,
                         unsigned flags, struct model_errors *e)
{
    int node = tree_model_find(m, at, follow, e);
    if (node < 0)
        return;
    struct model_node *n = &m->node[node];
    bool there = n->xattr[which] >= 0, user = which == MODEL_USER_X, link = n->type == MODEL_LINK;
    wrong(e, user && link, -E_PERM);
    wrong(e, user && is_dir(m, node) && (n->mode & STICKY) && !owns(m, node), -E_PERM);
    wrong(e, user && !link && !may(m, node, W), -E_ACCES);
    wrong(e, !user && m->who->uid != 0, -E_PERM);
    wrong(e, there && value >= 0 && flags == 1, -E_EXIST);
    wrong(e, !there && (value < 0 || flags == 2), -E_NODATA);
    if (e->n > 0)
        return;
    n->xattr[which] = value;
    changed(m, node);
}

int tree_model_getxattr(const struct tree_model *m, const struct model_place *at, bool follow, int which,
                        struct model_errors *e)
{
    int node = tree_model_find(m, at, follow, e);
    if (node < 0)
        return -1;
    const struct model_node *n = &m->node[node];
    bool user = which == MODEL_USER_X;
    wrong(e, user && n->type != MODEL_LINK && !may(m, node, R), -E_ACCES);
    wrong(e, !user && m->who->uid != 0, -E_NODATA);
    wrong(e, n->xattr[which] < 0, -E_NODATA);
    return e->n == 0 ? n->xattr[which] : -1;
}

/* ---- open files */

int tree_model_open(struct tree_model *m, const struct model_place *at, bool reads, bool writes, bool truncates,
                    struct model_errors *e)
{
    int node = tree_model_find(m, at, true, e);
    if (node < 0)
        return -1;
    wrong(e, is_dir(m, node) && (writes || truncates), -E_ISDIR);
    wrong(e, (reads && !may(m, node, R)) || ((writes || truncates) && !may(m, node, W)), -E_ACCES);
    if (e->n > 0)
        return -1;
    if (truncates)
        resized(m, node, 0);
    m->node[node].handles++;
    return node;
}

void tree_model_close(struct tree_model *m, struct model_handle *handle)
{
    m->node[handle->node].handles--;
    gone_if_unused(m, handle->node);
    handle->id = 0;
}
