/* Four users at one tree, and a model that says what each may do: random requests have an error that would be right
 * or are carried out, and every attribute is what it should be. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "common/prng.h"
#include "tree_check.h"
#include "tree_model.h"

#define STEPS 30000
#define TICK_NS 1000 /* the world's clock goes on by that with each command */

static const struct model_who whos[] = {{.uid = 0, .gid = 0},
                                        {.uid = 100, .gid = 10, .groups = {30}, .n_groups = 1},
                                        {.uid = 200, .gid = 20},
                                        {.uid = 300, .gid = 30, .groups = {10, 20}, .n_groups = 2}};

struct run {
    struct world w;
    struct tree_model m;
    struct prng prng;
    struct model_errors e;
    unsigned done, refused;
    uint32_t seen; /* bit: an operation that was carried out */
};

static unsigned below(struct run *r, unsigned n)
{
    return (unsigned)prng_below(&r->prng, n);
}

static bool once_in(struct run *r, unsigned n)
{
    return below(r, n) == 0;
}

static void ask_as(struct run *r, const struct model_who *who)
{
    r->m.who = who;
    r->w.uid = who->uid;
    r->w.gid = who->gid;
    r->w.n_groups = who->n_groups;
    memcpy(r->w.groups, who->groups, sizeof who->groups);
}

/* ---- random requests */

static int any_dir(struct run *r)
{
    for (;;) {
        int i = (int)below(r, MODEL_NODES);
        const struct model_node *n = &r->m.node[once_in(r, 4) ? MODEL_ROOT : i];
        if (n->live && n->type == MODEL_DIR && n->nlink > 0)
            return (int)(n - r->m.node);
    }
}

/* "" is the directory itself. */
static void any_path(struct run *r, char *out, unsigned parts_max)
{
    static const char *const parts[] = {"a", "b", "c", "d", "a", "b", "c", "d", ".", ".."};
    unsigned n = below(r, parts_max + 1);
    char *at = out;
    *at = 0;
    for (unsigned i = 0; i < n; i++) {
        at = stpcpy(at, parts[below(r, ARRAY_SIZE(parts))]);
        at = i + 1 < n || once_in(r, 8) ? stpcpy(at, "/") : at;
    }
}

static void any_target(struct run *r, char *out)
{
    bool absolute = once_in(r, 3);
    do {
        any_path(r, out + absolute, 3);
        out[0] = absolute ? '/' : out[0];
    } while (out[0] == 0); /* a link to nothing cannot be made */
}

static struct model_place any_place(struct run *r)
{
    struct model_place at = {.start = any_dir(r)};
    any_path(r, at.path, once_in(r, 2) ? 1 : 3);
    return at;
}

/* Not of the directory itself: of what is in it there are fewer directories. */
static struct model_place any_place_in(struct run *r)
{
    for (;;) {
        struct model_place at = any_place(r);
        if (at.path[0] != 0 && at.path[0] != '.')
            return at;
    }
}

/* Mostly a directory that is there. */
static struct model_place any_parent(struct run *r)
{
    struct model_place at = any_place(r);
    if (!once_in(r, 3))
        at.path[0] = 0;
    return at;
}

static uint32_t any_mode(struct run *r)
{
    static const uint32_t modes[] = {0777, 0777, 0755, 0700, 0770, 0070, 0007, 0550, 01777, 02775, 06755, 04711, 02644, 0311};
    return modes[below(r, ARRAY_SIZE(modes))];
}

static Tarn__Where where(const struct run *r, const struct model_place *at, bool follow)
{
    Tarn__Where to = TARN__WHERE__INIT;
    to.ino = r->m.node[at->start].ino;
    to.path = (char *)at->path;
    to.nofollow = !follow;
    return to;
}

/* The answer is one of the errors that are right, or it was right to do it. */
static void agree(struct run *r, int answer, unsigned operation)
{
    bool right = r->e.n == 0 && answer == 0;
    for (unsigned i = 0; i < r->e.n; i++)
        right |= answer == r->e.list[i];
    if (!right)
        print_message("operation %u of uid %u: answer %d, right are %u errors, the first %d\n", operation, r->m.who->uid,
                      answer, r->e.n, r->e.list[0]);
    assert_true(right);
    r->done += answer == 0;
    r->refused += answer != 0;
    r->seen |= answer == 0 ? 1u << operation : 0;
}

/* ---- the operations */

static void op_make(struct run *r, unsigned op)
{
    struct model_place dir = any_parent(r);
    static const enum model_type types[] = {MODEL_FILE, MODEL_FILE, MODEL_DIR, MODEL_LINK};
    enum model_type type = types[below(r, ARRAY_SIZE(types))];
    char target[32], name[] = {(char)('a' + below(r, MODEL_NAMES)), 0};
    if (type == MODEL_DIR && r->m.dirs >= MODEL_DIRS_MAX)
        type = MODEL_FILE;
    any_target(r, target);
    Tarn__Where parent = where(r, &dir, true);
    Tarn__Create m = TARN__CREATE__INIT;
    m.parent = &parent;
    m.name = name;
    m.mode = any_mode(r);
    m.exclusive = true;
    m.target = target;
    m.type = type == MODEL_FILE  ? TARN__FILE_TYPE__FT_FILE
             : type == MODEL_DIR ? TARN__FILE_TYPE__FT_DIR
                                 : TARN__FILE_TYPE__FT_SYMLINK;
    int node = tree_model_make(&r->m, &dir, name[0] - 'a', type, m.mode, target, &r->e);
    agree(r, world_apply(&r->w, OP_CREATE, &m.base, &m.ctx), op);
    if (node >= 0)
        r->m.node[node].ino = ((Tarn__Entry *)world_reply(&r->w, &tarn__entry__descriptor))->attr->ino;
}

static void op_unlink(struct run *r, unsigned op)
{
    struct model_place dir = any_parent(r);
    char name[] = {(char)('a' + below(r, MODEL_NAMES)), 0};
    Tarn__Where parent = where(r, &dir, true);
    Tarn__Unlink m = TARN__UNLINK__INIT;
    m.parent = &parent;
    m.name = name;
    m.directory = once_in(r, 2);
    tree_model_unlink(&r->m, &dir, name[0] - 'a', m.directory, &r->e);
    agree(r, world_apply(&r->w, OP_UNLINK, &m.base, &m.ctx), op);
}

static void op_rename(struct run *r, unsigned op)
{
    struct model_place from = any_parent(r), to = any_parent(r);
    char a[] = {(char)('a' + below(r, MODEL_NAMES)), 0}, b[] = {(char)('a' + below(r, MODEL_NAMES)), 0};
    Tarn__Where from_where = where(r, &from, true), to_where = where(r, &to, true);
    Tarn__Rename m = TARN__RENAME__INIT;
    m.from = &from_where;
    m.from_name = a;
    m.to = &to_where;
    m.to_name = b;
    m.flags = once_in(r, 16) ? 3 : below(r, 3);
    tree_model_rename(&r->m, &from, a[0] - 'a', &to, b[0] - 'a', m.flags, &r->e);
    agree(r, world_apply(&r->w, OP_RENAME, &m.base, &m.ctx), op);
}

static void op_link(struct run *r, unsigned op)
{
    struct model_place target = any_place_in(r), dir = any_parent(r);
    char name[] = {(char)('a' + below(r, MODEL_NAMES)), 0};
    Tarn__Where a = where(r, &target, false), b = where(r, &dir, true);
    Tarn__Link m = TARN__LINK__INIT;
    m.target = &a;
    m.parent = &b;
    m.name = name;
    tree_model_link(&r->m, &target, &dir, name[0] - 'a', &r->e);
    agree(r, world_apply(&r->w, OP_LINK, &m.base, &m.ctx), op);
}

static void set_attr(struct run *r, unsigned op, const struct model_place *at, bool follow, Tarn__SetAttr *m)
{
    Tarn__Where to = where(r, at, follow);
    m->where = &to;
    agree(r, world_apply(&r->w, OP_SETATTR, &m->base, &m->ctx), op);
}

static void op_chmod(struct run *r, unsigned op)
{
    struct model_place at = any_place(r);
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.mask = TARN__SET_ATTR_BITS__SA_MODE;
    m.mode = any_mode(r);
    tree_model_chmod(&r->m, &at, m.mode, &r->e);
    set_attr(r, op, &at, true, &m);
}

static void op_chown(struct run *r, unsigned op)
{
    struct model_place at = any_place(r);
    bool follow = once_in(r, 2);
    unsigned which = 1 + below(r, 3);
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.uid = whos[below(r, ARRAY_SIZE(whos))].uid;
    m.gid = 10 * below(r, 4);
    m.mask = (which & 1 ? TARN__SET_ATTR_BITS__SA_UID : 0) | (which & 2 ? TARN__SET_ATTR_BITS__SA_GID : 0);
    tree_model_chown(&r->m, &at, follow, which & 1 ? &m.uid : NULL, which & 2 ? &m.gid : NULL, &r->e);
    set_attr(r, op, &at, follow, &m);
}

static void op_truncate(struct run *r, unsigned op)
{
    struct model_place at = any_place_in(r);
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.mask = TARN__SET_ATTR_BITS__SA_SIZE;
    m.size = below(r, 100000);
    tree_model_truncate(&r->m, &at, m.size, &r->e);
    set_attr(r, op, &at, true, &m);
}

static void op_utimes(struct run *r, unsigned op)
{
    struct model_place at = any_place(r);
    bool now = once_in(r, 2);
    uint64_t times[2] = {below(r, 1000), below(r, 1000)};
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.atime = times[0];
    m.mtime = times[1];
    m.mask = now ? TARN__SET_ATTR_BITS__SA_ATIME_NOW | TARN__SET_ATTR_BITS__SA_MTIME_NOW
                 : TARN__SET_ATTR_BITS__SA_ATIME | TARN__SET_ATTR_BITS__SA_MTIME;
    tree_model_utimes(&r->m, &at, now ? NULL : times, &r->e);
    set_attr(r, op, &at, true, &m);
}

static const char *const xattr_names[MODEL_XATTRS] = {"user.x", "trusted.x"};

static void op_set_xattr(struct run *r, unsigned op)
{
    struct model_place at = any_place(r);
    bool follow = !once_in(r, 4);
    unsigned which = below(r, MODEL_XATTRS);
    uint8_t value = (uint8_t)below(r, 100);
    Tarn__Where to = where(r, &at, follow);
    Tarn__SetXattr m = TARN__SET_XATTR__INIT;
    m.where = &to;
    m.name = (char *)xattr_names[which];
    m.value = (ProtobufCBinaryData){.len = 1, .data = &value};
    m.remove = once_in(r, 4);
    m.flags = m.remove ? 0 : below(r, 3);
    tree_model_setxattr(&r->m, &at, follow, (int)which, m.remove ? -1 : value, m.flags, &r->e);
    agree(r, world_apply(&r->w, OP_SETXATTR, &m.base, &m.ctx), op);
}

static void op_get_xattr(struct run *r, unsigned op)
{
    struct model_place at = any_place(r);
    bool follow = !once_in(r, 4);
    unsigned which = below(r, MODEL_XATTRS);
    Tarn__Where to = where(r, &at, follow);
    Tarn__GetXattr m = TARN__GET_XATTR__INIT;
    m.where = &to;
    m.name = (char *)xattr_names[which];
    int value = tree_model_getxattr(&r->m, &at, follow, (int)which, &r->e);
    agree(r, world_query(&r->w, OP_GETXATTR, &m.base, &m.ctx), op);
    if (value < 0)
        return;
    const Tarn__GetXattrReply *reply = world_reply(&r->w, &tarn__get_xattr_reply__descriptor);
    assert_int_equal(reply->n_pairs, 1);
    assert_int_equal(reply->pairs[0]->value.len, 1);
    assert_int_equal(reply->pairs[0]->value.data[0], value);
}

static void op_find(struct run *r, unsigned op)
{
    struct model_place at = any_place(r);
    bool follow = once_in(r, 2);
    Tarn__Where to = where(r, &at, follow);
    Tarn__Lookup m = TARN__LOOKUP__INIT;
    m.where = &to;
    int node = tree_model_find(&r->m, &at, follow, &r->e);
    agree(r, world_query(&r->w, OP_LOOKUP, &m.base, &m.ctx), op);
    if (node < 0)
        return;
    const Tarn__LookupReply *reply = world_reply(&r->w, &tarn__lookup_reply__descriptor);
    assert_int_equal(reply->attr->ino, r->m.node[node].ino);
}

static void op_open(struct run *r, unsigned op)
{
    struct model_handle *handle = &r->m.handle[below(r, MODEL_HANDLES)];
    struct model_place at = any_place_in(r);
    static const uint32_t ways[] = {O_RDONLY, O_WRONLY, O_RDWR};
    unsigned way = below(r, 3);
    Tarn__Where to = where(r, &at, true);
    Tarn__Open m = TARN__OPEN__INIT;
    if (handle->id != 0)
        return;
    m.where = &to;
    m.flags = ways[way] | (once_in(r, 4) ? O_TRUNC : 0);
    int node = tree_model_open(&r->m, &at, way != 1, way != 0, (m.flags & O_TRUNC) != 0, &r->e);
    agree(r, world_apply(&r->w, OP_OPEN, &m.base, &m.ctx), op);
    if (node < 0)
        return;
    uint64_t id = ((Tarn__Entry *)world_reply(&r->w, &tarn__entry__descriptor))->handle;
    *handle = (struct model_handle){.id = id, .node = node, .writes = way != 0};
}

static void op_close(struct run *r, unsigned op)
{
    struct model_handle *handle = &r->m.handle[below(r, MODEL_HANDLES)];
    if (handle->id == 0)
        return;
    agree(r, world_close(&r->w, handle->id), op);
    tree_model_close(&r->m, handle);
}

/* By what is open, named or not. */
static void op_ftruncate(struct run *r, unsigned op)
{
    struct model_handle *handle = &r->m.handle[below(r, MODEL_HANDLES)];
    if (handle->id == 0)
        return;
    struct model_place at = {.start = handle->node};
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.mask = TARN__SET_ATTR_BITS__SA_SIZE;
    m.size = below(r, 100000);
    m.handle = handle->id;
    tree_model_ftruncate(&r->m, handle, m.size, &r->e);
    set_attr(r, op, &at, true, &m);
}

/* A removed directory that is somebody's working directory takes no names. */
static void op_make_in_open(struct run *r, unsigned op)
{
    const struct model_handle *handle = r->m.handle;
    while (handle < r->m.handle + MODEL_HANDLES - 1 &&
           (handle->id == 0 || r->m.node[handle->node].nlink > 0 || r->m.node[handle->node].type != MODEL_DIR))
        handle++;
    if (handle->id == 0 || r->m.node[handle->node].nlink > 0)
        return;
    struct model_place dir = {.start = handle->node};
    Tarn__Where parent = where(r, &dir, true);
    Tarn__Create m = TARN__CREATE__INIT;
    m.parent = &parent;
    m.name = "a";
    m.exclusive = true;
    m.type = TARN__FILE_TYPE__FT_FILE;
    assert_int_equal(tree_model_make(&r->m, &dir, 0, MODEL_FILE, 0, "", &r->e), -1);
    agree(r, world_apply(&r->w, OP_CREATE, &m.base, &m.ctx), op);
}

static const struct {
    void (*ask)(struct run *r, unsigned op);
    unsigned weight;
    bool fails; /* always */
} operations[] = {{op_make, 6, false},      {op_unlink, 5, false},    {op_rename, 6, false},    {op_link, 5, false},
                  {op_chmod, 3, false},     {op_chown, 3, false},     {op_truncate, 3, false},  {op_utimes, 2, false},
                  {op_set_xattr, 3, false}, {op_get_xattr, 3, false}, {op_find, 4, false},      {op_open, 5, false},
                  {op_close, 3, false},     {op_ftruncate, 3, false}, {op_make_in_open, 3, true}};

static void step(struct run *r)
{
    unsigned sum = 0, op = 0;
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
        sum += operations[i].weight;
    unsigned drawn = below(r, sum);
    for (; drawn >= operations[op].weight; op++)
        drawn -= operations[op].weight;
    ask_as(r, &whos[once_in(r, 5) ? 0 : below(r, ARRAY_SIZE(whos))]);
    r->e.n = 0;
    r->m.now = r->w.now + TICK_NS;
    operations[op].ask(r, op);
}

/* ---- comparing */

static Tarn__LookupReply *look(struct run *r, uint64_t ino, const char *path, int *ret_err)
{
    Tarn__Where at = TARN__WHERE__INIT;
    Tarn__Lookup m = TARN__LOOKUP__INIT;
    at.ino = ino;
    at.path = (char *)path;
    at.nofollow = true;
    m.where = &at;
    *ret_err = world_query(&r->w, OP_LOOKUP, &m.base, &m.ctx);
    return *ret_err == 0 ? world_reply(&r->w, &tarn__lookup_reply__descriptor) : NULL;
}

static void compare_node(struct run *r, const struct model_node *n)
{
    int err;
    const Tarn__LookupReply *reply = look(r, n->ino, "", &err);
    if (!n->live) {
        assert_int_equal(err, -E_NOENT);
        return;
    }
    assert_int_equal(err, 0);
    const Tarn__Attr *attr = reply->attr;
    assert_int_equal(attr->mode, n->mode);
    assert_int_equal(attr->uid, n->uid);
    assert_int_equal(attr->gid, n->gid);
    assert_int_equal(attr->nlink, n->nlink);
    assert_true(attr->mtime == n->mtime && attr->ctime == n->ctime && attr->atime == n->atime);
    if (n->type != MODEL_DIR)
        assert_int_equal(attr->size, n->size);
    if (n->type == MODEL_LINK)
        assert_string_equal(reply->target, n->target);
    for (int name = 0; name < MODEL_NAMES && n->type == MODEL_DIR && n->nlink > 0; name++) {
        reply = look(r, n->ino, (char[]){(char)('a' + name), 0}, &err);
        assert_int_equal(err, n->child[name] < 0 ? -E_NOENT : 0);
        if (reply != NULL)
            assert_int_equal(reply->attr->ino, r->m.node[n->child[name]].ino);
    }
}

static void compare(struct run *r)
{
    uint64_t files = 0;
    ask_as(r, &whos[0]);
    for (int i = 0; i < MODEL_NODES; i++) {
        if (r->m.node[i].ino != 0)
            compare_node(r, &r->m.node[i]);
        files += r->m.node[i].live && r->m.node[i].type == MODEL_FILE;
    }
    assert_int_equal(world_status(&r->w)->files, files);
    tree_check(&r->w, false);
}

static void begin(struct run *r, uint64_t seed)
{
    *r = (struct run){.prng = prng_init(seed)};
    world_init(&r->w);
    Tarn__Attr *root;
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.mask = TARN__SET_ATTR_BITS__SA_MODE;
    m.mode = 01777;
    assert_int_equal(world_apply(&r->w, OP_SETATTR, &m.base, &m.ctx), 0);
    assert_int_equal(world_lookup(&r->w, "/", &root), 0);
    tree_model_init(&r->m, root->ino, root->mode, root->nlink);
    struct model_node *n = &r->m.node[MODEL_ROOT];
    n->atime = root->atime;
    n->mtime = root->mtime;
    n->ctime = root->ctime;
}

static void users_find_what_the_manual_promises(void **state)
{
    static struct run r;
    uint32_t all = 0, seen = 0;
    for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
        all |= operations[i].fails ? 0 : 1u << i;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        begin(&r, seed);
        for (unsigned i = 0; i < STEPS; i++) {
            step(&r);
            if (i % 200 == 0)
                compare(&r);
        }
        compare(&r);
        seen |= r.seen;
        assert_true(r.done > STEPS / 10 && r.refused > STEPS / 10);
        world_fini(&r.w);
    }
    assert_int_equal(seen, all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(users_find_what_the_manual_promises)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
