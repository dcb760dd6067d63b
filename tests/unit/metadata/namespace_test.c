/* The tree's commands, one rule of POSIX or S3 a test. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "world.h"

#define FILE_ TARN__FILE_TYPE__FT_FILE
#define DIR_ TARN__FILE_TYPE__FT_DIR

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

static uint64_t ino_of(struct world *w, const char *path)
{
    Tarn__Attr *attr;
    return world_lookup(w, path, &attr) == 0 ? attr->ino : 0;
}

static void made_once(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "a", 0755), 0);
    assert_int_equal(world_make(w, DIR_, "/", "a", 0755), -E_EXIST);
    assert_int_equal(world_make(w, FILE_, "/a", "f", 0644), 0);
    assert_int_equal(world_make(w, FILE_, "/b", "f", 0644), -E_NOENT);
    assert_int_equal(world_make(w, FILE_, "/a/f", "g", 0644), -E_NOTDIR);
}

static void names_are_bounded(void **state)
{
    struct world *w = *state;
    char name[300];
    memset(name, 'n', sizeof name);
    name[255] = 0;
    assert_int_equal(world_make(w, FILE_, "/", name, 0644), 0);
    name[255] = 'n';
    name[256] = 0;
    assert_int_equal(world_make(w, FILE_, "/", name, 0644), -E_NAMETOOLONG);
    assert_int_equal(world_make(w, FILE_, "/", "", 0644), -E_INVAL);
    assert_int_equal(world_make(w, FILE_, "/", "a/b", 0644), -E_INVAL);
}

static void symlinks_are_followed_forty_times(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), 0);
    assert_int_equal(world_symlink(w, "/", "l", "d"), 0);
    assert_int_equal(world_symlink(w, "/d", "up", "../l/f"), 0);
    assert_true(ino_of(w, "/l/f") == ino_of(w, "/d/f"));
    assert_true(ino_of(w, "/l/up/") == 0);
    assert_int_equal(world_symlink(w, "/", "loop", "loop"), 0);
    assert_int_equal(world_lookup(w, "/loop/x", NULL), -E_LOOP);
}

static void permissions_are_checked_on_the_way(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "p", 0700), 0);
    assert_int_equal(world_make(w, DIR_, "/p", "q", 0777), 0);
    w->uid = w->gid = 1000;
    assert_int_equal(world_lookup(w, "/p/q", NULL), -E_ACCES);
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), -E_ACCES);
    assert_int_equal(world_unlink(w, "/", "p", true), -E_ACCES);
}

static void sticky_protects_others_files(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "tmp", 01777), 0);
    w->uid = 1;
    assert_int_equal(world_make(w, FILE_, "/tmp", "f", 0666), 0);
    w->uid = 2;
    assert_int_equal(world_unlink(w, "/tmp", "f", false), -E_PERM);
    assert_int_equal(world_rename(w, "/tmp", "f", "/tmp", "g", 0), -E_PERM);
    w->uid = 1;
    assert_int_equal(world_unlink(w, "/tmp", "f", false), 0);
}

static void setgid_directories_pass_their_group_on(void **state)
{
    struct world *w = *state;
    Tarn__Attr *attr;
    assert_int_equal(world_make(w, DIR_, "/", "g", 02777), 0);
    w->uid = 1;
    w->gid = 7;
    assert_int_equal(world_make(w, DIR_, "/g", "d", 0755), 0);
    assert_int_equal(world_lookup(w, "/g/d", &attr), 0);
    assert_int_equal(attr->gid, 0);
    assert_int_equal(attr->mode, 02755);
}

static void unlink_knows_directories(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), 0);
    assert_int_equal(world_unlink(w, "/", "d", false), -E_ISDIR);
    assert_int_equal(world_unlink(w, "/", "d", true), -E_NOTEMPTY);
    assert_int_equal(world_unlink(w, "/d", "f", true), -E_NOTDIR);
    assert_int_equal(world_unlink(w, "/d", "f", false), 0);
    assert_int_equal(world_unlink(w, "/", "d", true), 0);
    assert_int_equal(world_unlink(w, "/", "d", true), -E_NOENT);
}

static void rename_replaces_and_refuses_cycles(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "a", 0755), 0);
    assert_int_equal(world_make(w, DIR_, "/a", "b", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(world_make(w, FILE_, "/", "g", 0644), 0);
    uint64_t f = ino_of(w, "/f");
    assert_int_equal(world_rename(w, "/", "a", "/a/b", "c", 0), -E_INVAL);
    assert_int_equal(world_rename(w, "/", "f", "/", "a", 0), -E_ISDIR);
    assert_int_equal(world_rename(w, "/", "a", "/", "f", 0), -E_NOTDIR);
    assert_int_equal(world_rename(w, "/", "f", "/", "g", 1), -E_EXIST);
    assert_int_equal(world_rename(w, "/", "f", "/", "g", 0), 0);
    assert_true(ino_of(w, "/g") == f && ino_of(w, "/f") == 0);
    assert_int_equal(world_rename(w, "/", "g", "/", "a", 2), 0);
    assert_true(ino_of(w, "/a") == f);
    assert_true(ino_of(w, "/g/b") != 0);
}

static void link_counts_follow_names(void **state)
{
    struct world *w = *state;
    Tarn__Attr *attr;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(world_link(w, "/f", "/d", "g"), 0);
    assert_int_equal(world_link(w, "/f", "/d", "g"), -E_EXIST);
    assert_int_equal(world_link(w, "/d", "/d", "h"), -E_PERM);
    assert_int_equal(world_lookup(w, "/d/g", &attr), 0);
    assert_int_equal(attr->nlink, 2);
    assert_int_equal(world_rename(w, "/", "f", "/d", "g", 0), 0); /* same file: nothing happens */
    assert_true(ino_of(w, "/f") != 0);
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    assert_int_equal(world_lookup(w, "/d/g", &attr), 0);
    assert_int_equal(attr->nlink, 1);
}

static void an_open_file_outlives_its_name(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    assert_int_equal(world_status(w)->files, 1);
    assert_int_equal(world_close(w, handle), 0);
    assert_int_equal(world_status(w)->files, 0);
}

static void chown_takes_setuid_away(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 06755), 0);
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = "/f";
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &at;
    m.mask = TARN__SET_ATTR_BITS__SA_UID;
    m.uid = 5;
    assert_int_equal(world_apply(w, OP_SETATTR, &m.base, &m.ctx), 0);
    Tarn__Entry *entry = world_reply(w, &tarn__entry__descriptor);
    assert_int_equal(entry->attr->mode, 0755);
    w->uid = 6;
    assert_int_equal(world_apply(w, OP_SETATTR, &m.base, &m.ctx), -E_PERM);
}

static void truncation_at_open_takes_setuid_away(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0;
    Tarn__Attr *attr = NULL;
    assert_int_equal(world_make(w, FILE_, "/", "f", 06777), 0);
    assert_int_equal(world_open(w, "/f", O_WRONLY | O_TRUNC, &handle), 0);
    assert_int_equal(world_lookup(w, "/f", &attr), 0);
    assert_int_equal(attr->mode, 06777); /* root keeps it */
    w->uid = 5;
    assert_int_equal(world_open(w, "/f", O_WRONLY | O_TRUNC, &handle), 0);
    assert_int_equal(world_lookup(w, "/f", &attr), 0);
    assert_int_equal(attr->mode, 0777);
}

static void what_may_be_executed_need_not_be_readable(void **state)
{
    struct world *w = *state;
    uint64_t handle = 0;
    assert_int_equal(world_make(w, FILE_, "/", "x", 0711), 0);
    assert_int_equal(world_make(w, FILE_, "/", "r", 0744), 0);
    w->uid = 5;
    assert_int_equal(world_open(w, "/x", 0x20, &handle), 0); /* the kernel's __FMODE_EXEC */
    assert_int_equal(world_open(w, "/x", O_RDONLY, &handle), -E_ACCES);
    assert_int_equal(world_open(w, "/r", 0x20, &handle), -E_ACCES);
}

static void a_repeated_change_happens_once(void **state)
{
    struct world *w = *state;
    Tarn__Ctx ctx = TARN__CTX__INIT, *p = &ctx;
    ctx.session = w->session;
    ctx.seq = 100;
    Tarn__Create m = TARN__CREATE__INIT;
    m.ctx = p;
    m.name = "f";
    m.type = FILE_;
    m.exclusive = true;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &p), 0);
    uint64_t ino = ((Tarn__Entry *)world_reply(w, &tarn__entry__descriptor))->attr->ino;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &p), 0);
    assert_int_equal(((Tarn__Entry *)world_reply(w, &tarn__entry__descriptor))->attr->ino, ino);
    ctx.session = 999;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &p), -E_NO_SESSION);
}

/* A request that arrives late: its client was told long ago that it failed. */
static void a_repeated_refusal_stays_one(void **state)
{
    struct world *w = *state;
    Tarn__Ctx ctx = TARN__CTX__INIT, *p = &ctx;
    ctx.session = w->session;
    ctx.seq = 100;
    Tarn__Create m = TARN__CREATE__INIT;
    m.ctx = p;
    m.name = "f";
    m.type = FILE_;
    m.exclusive = true;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &p), -E_EXIST);
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &p), -E_EXIST);
    assert_int_equal(world_lookup(w, "/f", NULL), -E_NOENT);
    ctx.seq = 101;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &p), 0);
}

static void a_failed_command_leaves_nothing(void **state)
{
    struct world *w = *state;
    uint32_t before = world_dump(w);
    Tarn__Where parent = TARN__WHERE__INIT;
    parent.path = "/new/dirs/here";
    Tarn__Create m = TARN__CREATE__INIT;
    m.parent = &parent;
    m.name = "f";
    m.type = FILE_;
    m.parents = true;
    m.open = true;
    m.open_flags = O_DIRECTORY;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &m.ctx), -E_NOTDIR);
    assert_int_equal(world_lookup(w, "/new", NULL), -E_NOENT);
    m.open = false;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &m.ctx), 0);
    assert_true(world_dump(w) != before);
}

static void objects_make_and_prune_their_directories(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "b", 0755), 0);
    assert_int_equal(world_object(w, "/b", "x/y/z", "data"), 0);
    assert_true(ino_of(w, "/b/x/y/z") != 0);
    assert_int_equal(world_delete_object(w, "/b/x/y", "z"), 0);
    assert_true(ino_of(w, "/b/x") == 0 && ino_of(w, "/b") != 0);
}

static void an_object_may_stand_beside_its_directory(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "b", 0755), 0);
    assert_int_equal(world_object(w, "/b", "a", "one"), 0);
    uint64_t a = ino_of(w, "/b/a");
    assert_int_equal(world_object(w, "/b", "a/c", "two"), 0);
    assert_true(ino_of(w, "/b/a/%self") == a);
    assert_int_equal(world_object(w, "/b", "a", "three"), 0);
    assert_true(ino_of(w, "/b/a/%self") != a);
    assert_int_equal(world_delete_object(w, "/b/a", "c"), 0);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(w, "/b/a", &attr), 0);
    assert_int_equal(attr->type, FILE_);
    assert_int_equal(attr->size, 5);
}

static void deleting_the_object_leaves_what_is_below(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "b", 0755), 0);
    assert_int_equal(world_object(w, "/b", "a/c", "two"), 0);
    assert_int_equal(world_object(w, "/b", "a", "one"), 0);
    assert_int_equal(world_delete_object(w, "/b", "a"), 0);
    assert_int_equal(world_delete_object(w, "/b", "a"), -E_NOENT);
    assert_true(ino_of(w, "/b/a/c") != 0);
}

static void list(struct world *w, const char *prefix, const char *delimiter, const char *after,
                 uint32_t max, char *out)
{
    Tarn__Where bucket = TARN__WHERE__INIT;
    bucket.path = "/b";
    Tarn__ListObjects m = TARN__LIST_OBJECTS__INIT;
    m.bucket = &bucket;
    m.prefix = (char *)prefix;
    m.delimiter = (char *)delimiter;
    m.after = (char *)after;
    m.max = max;
    assert_int_equal(world_query(w, OP_LIST_OBJECTS, &m.base, &m.ctx), 0);
    Tarn__ListObjectsReply *reply = world_reply(w, &tarn__list_objects_reply__descriptor);
    out[0] = 0;
    for (size_t i = 0; i < reply->n_objects; i++) {
        strcat(out, reply->objects[i]->key);
        strcat(out, reply->objects[i]->common_prefix ? "* " : " ");
    }
    if (reply->truncated)
        strcat(strcat(out, "..."), reply->next);
}

static void keys_are_listed_in_byte_order(void **state)
{
    struct world *w = *state;
    char out[1000];
    assert_int_equal(world_make(w, DIR_, "/", "b", 0755), 0);
    const char *keys[] = {"a/x", "a-b", "a.b/c", "a", "a-b/d", "b", "a0", "a/x/y"};
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        assert_int_equal(world_object(w, "/b", keys[i], "v"), 0);
    list(w, "", "", "", 0, out);
    assert_string_equal(out, "a a-b a-b/d a.b/c a/x a/x/y a0 b ");
    list(w, "", "/", "", 0, out);
    assert_string_equal(out, "a a-b a-b/* a.b/* a/* a0 b ");
    list(w, "a/", "/", "", 0, out);
    assert_string_equal(out, "a/x a/x/* ");
    list(w, "a", "", "a-b/d", 2, out);
    assert_string_equal(out, "a.b/c a/x ...a/x");
    list(w, "", "/", "a/", 0, out);
    assert_string_equal(out, "a0 b ");
    list(w, "", "-", "", 0, out);
    assert_string_equal(out, "a a-* a.b/c a/x a/x/y a0 b ");
    list(w, "nothing/", "/", "", 0, out);
    assert_string_equal(out, "");
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Random keys: every page size and both forms of listing give the sorted keys. */
static void pages_join_to_the_whole_list(void **state)
{
    struct world *w = *state;
    static char names[120][32];
    char *keys[120], out[9000], whole[9000] = "", paged[9000] = "", after[300] = "";
    size_t n = 0;
    unsigned x = 7;
    assert_int_equal(world_make(w, DIR_, "/", "b", 0755), 0);
    for (unsigned i = 0; i < 120; i++) {
        char *at = names[n];
        unsigned len = 1 + (x = x * 1103515245u + 12345u) / 65536 % 9;
        for (unsigned j = 0; j < len; j++) {
            at[j] = "ab-./0"[(x = x * 1103515245u + 12345u) / 65536 % 6];
            if (at[j] == '.')
                at[j] = '!';
        }
        at[len] = 0;
        if (at[0] == '/' || at[len - 1] == '/' || strstr(at, "//") != NULL)
            continue;
        bool new = true;
        for (size_t j = 0; j < n; j++)
            new &= strcmp(names[j], at) != 0;
        if (!new)
            continue;
        assert_int_equal(world_object(w, "/b", at, "v"), 0);
        keys[n] = at;
        n++;
    }
    qsort(keys, n, sizeof *keys, compare);
    for (size_t i = 0; i < n; i++)
        strcat(strcat(whole, keys[i]), " ");
    list(w, "", "", "", 0, out);
    assert_string_equal(out, whole);
    for (unsigned page = 0; page < 200; page++) {
        list(w, "", "", after, 3, out);
        char *more = strstr(out, "...");
        if (more != NULL)
            *more = 0;
        strcat(paged, out);
        if (more == NULL)
            break;
        strcpy(after, more + 3);
    }
    assert_string_equal(paged, whole);
    for (size_t i = 0; i < n; i++) { /* and all can be deleted again */
        char dir[64], *slash;
        (void)snprintf(dir, sizeof dir, "/b/%s", keys[i]);
        slash = strrchr(dir, '/');
        *slash = 0;
        assert_int_equal(world_delete_object(w, dir, slash + 1), 0);
    }
    Tarn__Where bucket = TARN__WHERE__INIT;
    bucket.path = "/b";
    Tarn__ReadDir m = TARN__READ_DIR__INIT;
    m.where = &bucket;
    assert_int_equal(world_query(w, OP_READDIR, &m.base, &m.ctx), 0);
    assert_int_equal(
        ((Tarn__ReadDirReply *)world_reply(w, &tarn__read_dir_reply__descriptor))->n_entries, 0);
}

static void readdir_goes_on_after_a_name(void **state)
{
    struct world *w = *state;
    for (char c = 'a'; c <= 'e'; c++)
        assert_int_equal(world_make(w, FILE_, "/", (char[]){c, 0}, 0644), 0);
    Tarn__ReadDir m = TARN__READ_DIR__INIT;
    m.after = "b";
    m.max = 2;
    m.attrs = true;
    assert_int_equal(world_query(w, OP_READDIR, &m.base, &m.ctx), 0);
    Tarn__ReadDirReply *reply = world_reply(w, &tarn__read_dir_reply__descriptor);
    assert_int_equal(reply->n_entries, 2);
    assert_string_equal(reply->entries[1]->name, "d");
    assert_int_equal(reply->entries[1]->attr->mode, 0644);
    assert_false(reply->end);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(made_once),
                                       T(names_are_bounded),
                                       T(symlinks_are_followed_forty_times),
                                       T(permissions_are_checked_on_the_way),
                                       T(sticky_protects_others_files),
                                       T(setgid_directories_pass_their_group_on),
                                       T(unlink_knows_directories),
                                       T(rename_replaces_and_refuses_cycles),
                                       T(link_counts_follow_names),
                                       T(an_open_file_outlives_its_name),
                                       T(chown_takes_setuid_away),
                                       T(truncation_at_open_takes_setuid_away),
                                       T(what_may_be_executed_need_not_be_readable),
                                       T(a_repeated_change_happens_once),
                                       T(a_repeated_refusal_stays_one),
                                       T(a_failed_command_leaves_nothing),
                                       T(objects_make_and_prune_their_directories),
                                       T(an_object_may_stand_beside_its_directory),
                                       T(deleting_the_object_leaves_what_is_below),
                                       T(keys_are_listed_in_byte_order),
                                       T(pages_join_to_the_whole_list),
                                       T(readdir_goes_on_after_a_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
