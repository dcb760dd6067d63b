/* Extended attributes in their four namespaces, and access control lists in the tree: xattr(7),
 * acl(5). */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "metadata/acl.h"
#include "world.h"

#define FILE_ TARN__FILE_TYPE__FT_FILE
#define DIR_ TARN__FILE_TYPE__FT_DIR
enum { CREATE = 1, REPLACE = 2 };

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static void become(struct world *w, uint32_t uid)
{
    w->uid = w->gid = uid;
}

static int set(struct world *w, const char *path, const char *name, const void *data, size_t n,
               uint32_t flags)
{
    Tarn__Where at = world_where(path);
    Tarn__SetXattr m = TARN__SET_XATTR__INIT;
    m.where = &at;
    m.name = (char *)name;
    m.value = (ProtobufCBinaryData){.data = (uint8_t *)data, .len = n};
    m.flags = flags;
    return world_apply(w, OP_SETXATTR, &m.base, &m.ctx);
}

static int put(struct world *w, const char *path, const char *name)
{
    return set(w, path, name, "v", 1, 0);
}

static int drop(struct world *w, const char *path, const char *name)
{
    Tarn__Where at = world_where(path);
    Tarn__SetXattr m = TARN__SET_XATTR__INIT;
    m.where = &at;
    m.name = (char *)name;
    m.remove = true;
    return world_apply(w, OP_SETXATTR, &m.base, &m.ctx);
}

static int get(struct world *w, const char *path, const char *name, ProtobufCBinaryData *ret)
{
    Tarn__Where at = world_where(path);
    Tarn__GetXattr m = TARN__GET_XATTR__INIT;
    m.where = &at;
    m.name = (char *)name;
    int err = world_query(w, OP_GETXATTR, &m.base, &m.ctx);
    if (err == 0 && ret != NULL)
        *ret = ((Tarn__GetXattrReply *)world_reply(w, &tarn__get_xattr_reply__descriptor))
                   ->pairs[0]
                   ->value;
    return err;
}

static void list(struct world *w, const char *path, char *out)
{
    Tarn__Where at = world_where(path);
    Tarn__GetXattr m = TARN__GET_XATTR__INIT;
    m.where = &at;
    assert_int_equal(world_query(w, OP_GETXATTR, &m.base, &m.ctx), 0);
    Tarn__GetXattrReply *reply = world_reply(w, &tarn__get_xattr_reply__descriptor);
    out[0] = 0;
    for (size_t i = 0; i < reply->n_pairs; i++)
        strcat(strcat(out, reply->pairs[i]->name), " ");
}

static uint32_t mode_of(struct world *w, const char *path)
{
    Tarn__Attr *attr;
    uint32_t uid = w->uid;
    w->uid = 0;
    assert_int_equal(world_lookup(w, path, &attr), 0);
    w->uid = uid;
    return attr->mode;
}

static void create_and_replace(void **state)
{
    struct world *w = *state;
    ProtobufCBinaryData value;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(set(w, "/f", "user.k", "v", 1, REPLACE), -E_NODATA);
    assert_int_equal(set(w, "/f", "user.k", "v", 1, CREATE), 0);
    assert_int_equal(set(w, "/f", "user.k", "w", 1, CREATE), -E_EXIST);
    assert_int_equal(set(w, "/f", "user.k", "xyz", 3, REPLACE), 0);
    assert_int_equal(set(w, "/f", "user.k", "v", 1, 4), -E_INVAL);
    assert_int_equal(get(w, "/f", "user.k", &value), 0);
    assert_int_equal(value.len, 3);
    assert_int_equal(set(w, "/f", "user.empty", "", 0, 0), 0);
    assert_int_equal(get(w, "/f", "user.empty", &value), 0);
    assert_int_equal(value.len, 0);
    assert_int_equal(drop(w, "/f", "user.k"), 0);
    assert_int_equal(drop(w, "/f", "user.k"), -E_NODATA);
    assert_int_equal(get(w, "/f", "user.k", NULL), -E_NODATA);
}

static void names_have_a_namespace_and_bounds(void **state)
{
    struct world *w = *state;
    char name[300];
    static char big[65537];
    memset(name, 'n', sizeof name);
    memcpy(name, "user.", 5);
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    name[255] = 0;
    assert_int_equal(put(w, "/f", name), 0);
    name[255] = 'n';
    name[256] = 0;
    assert_int_equal(put(w, "/f", name), -E_RANGE);
    assert_int_equal(get(w, "/f", name, NULL), -E_RANGE);
    assert_int_equal(put(w, "/f", "nonsense"), -E_NOTSUP);
    assert_int_equal(put(w, "/f", "system.other"), -E_NOTSUP);
    assert_int_equal(get(w, "/f", "nonsense", NULL), -E_NOTSUP);
    assert_int_equal(put(w, "/f", "user."), -E_INVAL);
    assert_int_equal(set(w, "/f", "user.big", big, 65536, 0), 0);
    assert_int_equal(set(w, "/f", "user.big", big, 65537, 0), -E_TOOBIG);
}

/* All names of an inode fit one listxattr(2). */
static void the_list_is_bounded(void **state)
{
    struct world *w = *state;
    char name[256];
    int err = 0;
    unsigned n = 0;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    for (; err == 0; n++) {
        assert_int_equal(snprintf(name, sizeof name, "user.%0250u", n), 255);
        err = put(w, "/f", name);
    }
    assert_int_equal(err, -E_NOSPC);
    assert_int_equal(n - 1, 65536 / 256);
    assert_int_equal(snprintf(name, sizeof name, "user.%0250u", 0), 255);
    assert_int_equal(set(w, "/f", name, "other", 5, 0), 0); /* to replace needs no room */
}

static void user_attributes_follow_the_files_permissions(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0777), 0);
    assert_int_equal(world_make(w, DIR_, "/", "s", 01777), 0);
    assert_int_equal(world_make(w, FILE_, "/", "r", 0444), 0);
    assert_int_equal(world_make(w, FILE_, "/", "x", 0222), 0);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_FIFO, "/", "p", 0666), 0);
    assert_int_equal(world_symlink(w, "/", "l", "r"), 0);
    assert_int_equal(put(w, "/p", "user.k"), -E_PERM); /* root, too: nobody's permissions fit */
    assert_int_equal(put(w, "/l", "user.k"), -E_PERM);
    assert_int_equal(get(w, "/l", "user.k", NULL), -E_NODATA);
    assert_int_equal(put(w, "/r", "user.k"), 0);
    become(w, 5);
    assert_int_equal(put(w, "/d", "user.k"), 0);
    assert_int_equal(put(w, "/s", "user.k"), -E_PERM); /* sticky: its owner only */
    assert_int_equal(put(w, "/r", "user.k"), -E_ACCES);
    assert_int_equal(get(w, "/r", "user.k", NULL), 0);
    assert_int_equal(put(w, "/x", "user.k"), 0);
    assert_int_equal(get(w, "/x", "user.k", NULL), -E_ACCES);
}

static void trusted_ones_are_roots(void **state)
{
    struct world *w = *state;
    char names[200];
    assert_int_equal(world_make(w, FILE_, "/", "f", 0666), 0);
    assert_int_equal(put(w, "/f", "trusted.t"), 0);
    assert_int_equal(put(w, "/f", "user.u"), 0);
    list(w, "/f", names);
    assert_string_equal(names, "trusted.t user.u ");
    become(w, 5);
    list(w, "/f", names);
    assert_string_equal(names, "user.u ");
    assert_int_equal(get(w, "/f", "trusted.t", NULL), -E_NODATA);
    assert_int_equal(put(w, "/f", "trusted.x"), -E_PERM);
    assert_int_equal(drop(w, "/f", "trusted.t"), -E_PERM);
}

static void security_ones_are_read_by_all_and_written_by_root(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0600), 0);
    assert_int_equal(put(w, "/f", "security.selinux"), 0);
    become(w, 5);
    assert_int_equal(get(w, "/f", "security.selinux", NULL), 0);
    assert_int_equal(put(w, "/f", "security.selinux"), -E_PERM);
}

static int setattr(struct world *w, const char *path, uint32_t mask, uint32_t value)
{
    Tarn__Where at = world_where(path);
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &at;
    m.mask = mask;
    m.mode = m.uid = m.gid = value;
    m.size = value;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

static void a_write_or_a_new_owner_takes_capabilities_away(void **state)
{
    struct world *w = *state;
    Tarn__Attr *attr;
    uint64_t handle;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0755), 0);
    for (int how = 0; how < 3; how++) {
        assert_int_equal(put(w, "/f", "security.capability"), 0);
        assert_int_equal(world_lookup(w, "/f", &attr), 0);
        assert_true(attr->capability);
        if (how == 0)
            assert_int_equal(setattr(w, "/f", TARN__SET_ATTR_BITS__SA_SIZE, 5), 0);
        if (how == 1)
            assert_int_equal(setattr(w, "/f", TARN__SET_ATTR_BITS__SA_UID, 5), 0);
        if (how == 2)
            assert_int_equal(world_open(w, "/f", O_WRONLY | O_TRUNC, &handle), 0);
        assert_int_equal(get(w, "/f", "security.capability", NULL), -E_NODATA);
        assert_int_equal(world_lookup(w, "/f", &attr), 0);
        assert_false(attr->capability);
    }
    assert_int_equal(put(w, "/f", "security.capability"), 0);
    assert_int_equal(setattr(w, "/f", TARN__SET_ATTR_BITS__SA_MODE, 0700), 0);
    assert_int_equal(get(w, "/f", "security.capability", NULL), 0);
}

static void attributes_go_with_the_file(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0755), 0);
    assert_int_equal(put(w, "/f", "user.k"), 0);
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    assert_int_equal(world_make(w, FILE_, "/", "f", 0755), 0);
    assert_int_equal(get(w, "/f", "user.k", NULL), -E_NODATA);
}

/* ---- access control lists */

#define NONE UINT32_MAX
#define ACL(...)                                                                                   \
    (const struct acl_entry[])                                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define SET_ACL(w, path, name, ...)                                                                \
    set_acl(w, path, name, ACL(__VA_ARGS__), sizeof ACL(__VA_ARGS__) / sizeof(struct acl_entry))

static int set_acl(struct world *w, const char *path, const char *name,
                   const struct acl_entry *entries, size_t n)
{
    _cleanup_(writer_fini) struct writer bytes = {0};
    struct acl acl = {.count = n, .entries = (struct acl_entry *)entries};
    acl_encode(&acl, &bytes);
    return set(w, path, name, bytes.data, bytes.len, 0);
}

static int access_to(struct world *w, const char *path, uint32_t mask)
{
    Tarn__Where at = world_where(path);
    Tarn__Access m = TARN__ACCESS__INIT;
    m.where = &at;
    m.mask = mask;
    return world_query(w, OP_ACCESS, &m.base, &m.ctx);
}

static uint8_t perm_of(struct world *w, const char *path, const char *name, uint16_t tag)
{
    ProtobufCBinaryData value;
    struct acl acl = {0};
    assert_int_equal(get(w, path, name, &value), 0);
    assert_int_equal(acl_decode(value.data, value.len, &acl), 0);
    uint8_t perm = 99;
    for (size_t i = 0; i < acl.count; i++)
        if (acl.entries[i].tag == tag)
            perm = acl.entries[i].perm;
    acl_fini(&acl);
    return perm;
}

static void a_list_is_obeyed_and_follows_chmod(void **state)
{
    struct world *w = *state;
    uint64_t handle;
    char names[100];
    assert_int_equal(world_make(w, FILE_, "/", "f", 0640), 0);
    become(w, 7);
    assert_int_equal(access_to(w, "/f", 4), -E_ACCES);
    become(w, 0);
    assert_int_equal(SET_ACL(w, "/f", ACL_XATTR_ACCESS, {ACL_USER_OBJ, 6, NONE}, {ACL_USER, 6, 7},
                             {ACL_GROUP_OBJ, 4, NONE}, {ACL_MASK, 6, NONE}, {ACL_OTHER, 0, NONE}),
                     0);
    assert_int_equal(mode_of(w, "/f"), 0660); /* the group bits are the mask's */
    list(w, "/f", names);
    assert_string_equal(names, "system.posix_acl_access ");
    become(w, 7);
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    become(w, 8);
    assert_int_equal(world_open(w, "/f", O_RDONLY, &handle), -E_ACCES);
    become(w, 0);
    assert_int_equal(setattr(w, "/f", TARN__SET_ATTR_BITS__SA_MODE, 0704), 0);
    assert_int_equal(perm_of(w, "/f", ACL_XATTR_ACCESS, ACL_MASK), 0);
    assert_int_equal(perm_of(w, "/f", ACL_XATTR_ACCESS, ACL_USER), 6);
    assert_int_equal(perm_of(w, "/f", ACL_XATTR_ACCESS, ACL_GROUP_OBJ), 4);
    become(w, 7);
    assert_int_equal(access_to(w, "/f", 4), -E_ACCES); /* named, so the others' bits do not count */
    become(w, 8);
    assert_int_equal(access_to(w, "/f", 4), 0);
}

static void a_list_that_says_no_more_than_the_mode_is_not_kept(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0640), 0);
    assert_int_equal(SET_ACL(w, "/f", ACL_XATTR_ACCESS, {ACL_USER_OBJ, 6, NONE}, {ACL_USER, 6, 7},
                             {ACL_GROUP_OBJ, 4, NONE}, {ACL_MASK, 6, NONE}, {ACL_OTHER, 0, NONE}),
                     0);
    assert_int_equal(SET_ACL(w, "/f", ACL_XATTR_ACCESS, {ACL_USER_OBJ, 7, NONE},
                             {ACL_GROUP_OBJ, 5, NONE}, {ACL_OTHER, 1, NONE}),
                     0);
    assert_int_equal(mode_of(w, "/f"), 0751);
    assert_int_equal(get(w, "/f", ACL_XATTR_ACCESS, NULL), -E_NODATA);
    assert_int_equal(drop(w, "/f", ACL_XATTR_ACCESS), 0); /* removing what is not there is fine */
}

static void lists_are_set_by_owners_and_checked(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0666), 0);
    assert_int_equal(world_make(w, DIR_, "/", "d", 0777), 0);
    assert_int_equal(world_symlink(w, "/", "l", "f"), 0);
    assert_int_equal(set(w, "/f", ACL_XATTR_ACCESS, "nonsense", 8, 0), -E_INVAL);
    assert_int_equal(SET_ACL(w, "/f", ACL_XATTR_ACCESS, {ACL_USER_OBJ, 7, NONE}), -E_INVAL);
    assert_int_equal(SET_ACL(w, "/f", ACL_XATTR_DEFAULT, {ACL_USER_OBJ, 7, NONE},
                             {ACL_GROUP_OBJ, 5, NONE}, {ACL_OTHER, 1, NONE}),
                     -E_ACCES); /* default lists are of directories */
    assert_int_equal(SET_ACL(w, "/l", ACL_XATTR_ACCESS, {ACL_USER_OBJ, 7, NONE},
                             {ACL_GROUP_OBJ, 5, NONE}, {ACL_OTHER, 1, NONE}),
                     -E_NOTSUP);
    become(w, 5);
    assert_int_equal(SET_ACL(w, "/f", ACL_XATTR_ACCESS, {ACL_USER_OBJ, 7, NONE},
                             {ACL_GROUP_OBJ, 5, NONE}, {ACL_OTHER, 1, NONE}),
                     -E_PERM);
    assert_int_equal(drop(w, "/d", ACL_XATTR_DEFAULT), -E_PERM);
}

static int make_with_umask(struct world *w, Tarn__FileType type, const char *dir, const char *name,
                           uint32_t mode, uint32_t umask)
{
    Tarn__Where parent = world_where(dir);
    Tarn__Create m = TARN__CREATE__INIT;
    m.parent = &parent;
    m.name = (char *)name;
    m.type = type;
    m.mode = mode;
    m.umask = umask;
    m.exclusive = true;
    if (type == TARN__FILE_TYPE__FT_SYMLINK)
        m.target = "somewhere";
    return world_apply(w, OP_CREATE, &m.base, &m.ctx);
}

static void a_default_list_replaces_the_umask(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0777), 0);
    assert_int_equal(make_with_umask(w, FILE_, "/d", "plain", 0666, 027), 0);
    assert_int_equal(mode_of(w, "/d/plain"), 0640);
    assert_int_equal(SET_ACL(w, "/d", ACL_XATTR_DEFAULT, {ACL_USER_OBJ, 7, NONE}, {ACL_USER, 7, 7},
                             {ACL_GROUP_OBJ, 5, NONE}, {ACL_MASK, 7, NONE}, {ACL_OTHER, 5, NONE}),
                     0);
    assert_int_equal(mode_of(w, "/d"), 0777); /* says nothing of the directory itself */
    assert_int_equal(make_with_umask(w, FILE_, "/d", "f", 0666, 077), 0);
    assert_int_equal(mode_of(w, "/d/f"), 0664);
    assert_int_equal(perm_of(w, "/d/f", ACL_XATTR_ACCESS, ACL_GROUP_OBJ), 5);
    assert_int_equal(get(w, "/d/f", ACL_XATTR_DEFAULT, NULL), -E_NODATA);
    become(w, 7);
    assert_int_equal(access_to(w, "/d/f", 6), 0);
    become(w, 0);
    assert_int_equal(make_with_umask(w, DIR_, "/d", "sub", 0777, 077), 0);
    assert_int_equal(perm_of(w, "/d/sub", ACL_XATTR_DEFAULT, ACL_USER), 7);
    assert_int_equal(make_with_umask(w, TARN__FILE_TYPE__FT_SYMLINK, "/d", "l", 0777, 077), 0);
    assert_int_equal(mode_of(w, "/d/l"), 0777);
    assert_int_equal(world_object(w, "/d", "by/key", "data"), 0); /* objects and their directories */
    assert_int_equal(perm_of(w, "/d/by/key", ACL_XATTR_ACCESS, ACL_USER), 7);
    assert_int_equal(mode_of(w, "/d/by/key"), 0644);
}

static void a_list_on_a_directory_rules_names_in_it(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0700), 0);
    assert_int_equal(SET_ACL(w, "/d", ACL_XATTR_ACCESS, {ACL_USER_OBJ, 7, NONE},
                             {ACL_GROUP_OBJ, 0, NONE}, {ACL_GROUP, 7, 50}, {ACL_MASK, 7, NONE},
                             {ACL_OTHER, 0, NONE}),
                     0);
    become(w, 7);
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), -E_ACCES);
    w->groups[0] = 50; /* a further group */
    w->n_groups = 1;
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), 0);
    assert_int_equal(world_unlink(w, "/d", "f", false), 0);
    w->n_groups = 0;
}

static void objects_bring_user_attributes_only(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "b", 0777), 0);
    become(w, 7);
    static const struct {
        const char *name;
        int err;
    } cases[] = {{"user.k", 0}, {"trusted.k", -E_PERM}, {"security.k", -E_PERM},
                 {ACL_XATTR_ACCESS, -E_NOTSUP}, {"none", -E_NOTSUP}};
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        Tarn__Where parent = world_where("/b");
        Tarn__XattrPair pair = TARN__XATTR_PAIR__INIT, *pairs[] = {&pair};
        pair.name = (char *)cases[i].name;
        Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
        object.parent = &parent;
        object.path = "o";
        object.xattrs = pairs;
        object.n_xattrs = 1;
        Tarn__ObjectCommit m = TARN__OBJECT_COMMIT__INIT;
        m.object = &object;
        assert_int_equal(world_apply(w, OP_OBJECT_COMMIT, &m.base, &m.ctx), cases[i].err);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(create_and_replace),
                                       T(names_have_a_namespace_and_bounds),
                                       T(the_list_is_bounded),
                                       T(user_attributes_follow_the_files_permissions),
                                       T(trusted_ones_are_roots),
                                       T(security_ones_are_read_by_all_and_written_by_root),
                                       T(a_write_or_a_new_owner_takes_capabilities_away),
                                       T(attributes_go_with_the_file),
                                       T(a_list_is_obeyed_and_follows_chmod),
                                       T(a_list_that_says_no_more_than_the_mode_is_not_kept),
                                       T(lists_are_set_by_owners_and_checked),
                                       T(a_default_list_replaces_the_umask),
                                       T(a_list_on_a_directory_rules_names_in_it),
                                       T(objects_bring_user_attributes_only)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
