/* LOCATIONS: where the bytes of many files are, in one call. */
#include <stdio.h>

#include "chunkmap.h"
#include "common/err.h"
#include "lease_rows.h"
#include "namespace.h"
#include "query.h"

#define LOCATIONS_STEPS_MAX 20000

struct located {
    Tarn__LocatedFile message;
    Tarn__Attr attr;
    struct inode inode;
    struct file_map map;
    char *path; /* owned */
};

struct locating {
    struct tables *t;
    struct cluster cluster;
    struct located *files;
    Tarn__LocatedFile **pointers;
    size_t count, max, bytes;
    const char *root,
        *after; /* recursive: what comes before the keys, and the key to go on behind */
    bool full;
};

static void locating_fini(struct locating *l)
{
    for (size_t i = 0; i < l->count; i++) {
        file_map_fini(&l->files[i].map);
        inode_fini(&l->files[i].inode);
        free(l->files[i].path);
    }
    free(l->files);
    free(l->pointers);
    cluster_fini(&l->cluster);
}

static int locating_init(struct locating *l, uint32_t max)
{
    l->max = max == 0 ? QUERY_LIST_MAX : MIN((size_t)max, (size_t)QUERY_LIST_MAX);
    l->files = calloc(l->max, sizeof *l->files);
    l->pointers = calloc(l->max, sizeof *l->pointers);
    if (l->files == NULL || l->pointers == NULL)
        return -E_NOMEM;
    return clustermap_load(l->t, &l->cluster);
}

static int fill(struct locating *l, struct located *f)
{
    ns_attr(&f->inode, &f->attr);
    f->message.attr = &f->attr;
    if (f->inode.type != TARN__FILE_TYPE__FT_FILE)
        return 0;
    int err = exclusive_look(l->t, f->inode.ino);
    if (err != 0)
        return err;
    err = file_map_load(l->t, &f->inode, &l->cluster, 0, 0, QUERY_EXTENTS_MAX, &f->map);
    f->message.extents = f->map.pointers;
    f->message.n_extents = f->map.count;
    return err;
}

/* Adds a file; its inode is taken over (zeroed). status: why it cannot be located. */
static int add(struct locating *l, char *path, struct inode *inode, int status)
{
    struct located *f = &l->files[l->count];
    *f = (struct located){.path = path};
    tarn__located_file__init(&f->message);
    l->pointers[l->count++] = &f->message;
    if (path == NULL)
        return -E_NOMEM;
    f->message.path = path;
    f->message.status = err_to_wire(status);
    int err = 0;
    if (status == 0) {
        f->inode = *inode;
        *inode = (struct inode){0};
        err = fill(l, f);
    }
    l->bytes += tarn__located_file__get_packed_size(&f->message);
    l->full = l->count == l->max || l->bytes >= QUERY_BYTES_MAX;
    return err;
}

static int locate_path(struct locating *l, const char *path)
{
    _cleanup_(ns_walk_fini) struct ns_walk walk;
    int status = ns_walk(l->t, MD_ROOT, path, 0, &walk);
    if (status == 0) /* locations are only told to those who may read the data */
        status = ns_may(l->t, &walk.inode, NS_READ);
    if (l->t->failed != 0)
        return l->t->failed;
    return add(l, strdup(path), &walk.inode, status);
}

static int visit(void *arg, const char *key, const struct inode *inode)
{
    struct locating *l = arg;
    if (strcmp(key, l->after) <= 0 || ns_may(l->t, inode, NS_READ) != 0)
        return l->t->failed;
    if (l->full)
        return 1;
    char *path = NULL;
    if (asprintf(&path, "%s/%s", l->root, key) < 0)
        return -E_NOMEM;
    struct inode copy = *inode;
    copy.data = NULL;
    copy.data_len = 0;
    return add(l, path, &copy, 0);
}

/* Everything below one directory. */
static int locate_tree(struct locating *l, const Tarn__Locations *m, char **ret_next)
{
    _cleanup_(ns_walk_fini) struct ns_walk dir;
    int err = ns_walk(l->t, MD_ROOT, m->paths[0], 0, &dir);
    if (err != 0)
        return err;
    if (dir.inode.type != TARN__FILE_TYPE__FT_DIR)
        return m->after[0] != 0 ? 0 : locate_path(l, m->paths[0]);
    err = ns_may(l->t, &dir.inode, NS_READ | NS_EXEC);
    if (err != 0)
        return err;
    _cleanup_free_ char *root = strdup(m->paths[0]);
    if (root == NULL)
        return -E_NOMEM;
    size_t n = strlen(root);
    while (n > 0 && root[n - 1] == '/')
        root[--n] = 0;
    l->root = root;
    bool below = strncmp(m->after, root, n) == 0 && m->after[n] == '/';
    l->after = below ? m->after + n + 1 : "";
    struct key_walk walk = {.dir = dir.inode.ino,
                            .prefix = "",
                            .from = l->after,
                            .steps_max = LOCATIONS_STEPS_MAX,
                            .visit = visit,
                            .arg = l};
    err = key_walk(l->t, &walk);
    _cleanup_free_ char *stopped = walk.ret_stopped;
    if (err == 0 && l->full)
        *ret_next = strdup(l->files[l->count - 1].path);
    else if (err == 0 && stopped != NULL && asprintf(ret_next, "%s/%s", root, stopped) < 0)
        err = -E_NOMEM;
    return err;
}

int query_locations(struct tables *t, const void *message)
{
    const Tarn__Locations *m = message;
    _cleanup_(locating_fini) struct locating l = {.t = t, .after = ""};
    _cleanup_free_ char *next = NULL;
    if (m->recursive && m->n_paths != 1)
        return -E_INVAL;
    int err = locating_init(&l, m->max);
    if (err == 0 && m->recursive)
        err = locate_tree(&l, m, &next);
    for (size_t i = 0; !m->recursive && i < m->n_paths && err == 0; i++) {
        if (l.full) { /* go on behind the last one told */
            next = strdup(m->paths[i - 1]);
            break;
        }
        err = locate_path(&l, m->paths[i]);
    }
    if (err != 0)
        return err;
    Tarn__LocationsReply reply = TARN__LOCATIONS_REPLY__INIT;
    reply.files = l.pointers;
    reply.n_files = l.count;
    if (next != NULL)
        reply.next = next;
    reply.epoch = t->state.epoch;
    t->result->told = l.count;
    t->result->next = take_ptr(next);
    return tables_reply(t, &reply.base);
}
