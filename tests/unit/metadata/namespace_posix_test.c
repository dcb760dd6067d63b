/* POSIX.1-2017 and Linux, rule by rule, where namespace_test.c does not have it: rename, sticky and
 * set-id bits, times, limits, special files, files that are removed while open. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "common/prng.h"
#include "metadata/namespace.h"
#include "tree_check.h"

#define FILE_ TARN__FILE_TYPE__FT_FILE
#define DIR_ TARN__FILE_TYPE__FT_DIR
#define BIT(name) TARN__SET_ATTR_BITS__SA_##name
enum { NOREPLACE = 1, EXCHANGE = 2, WHITEOUT = 4 };

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    tree_check(*state, false);
    world_fini(*state);
    return 0;
}

static void become(struct world *w, uint32_t uid)
{
    w->uid = w->gid = uid;
}

static Tarn__Attr stat_of(struct world *w, const char *path)
{
    Tarn__Attr *attr;
    uint32_t uid = w->uid;
    w->uid = 0;
    assert_int_equal(world_lookup(w, path, &attr), 0);
    w->uid = uid;
    return *attr;
}

static uint64_t ino_of(struct world *w, const char *path)
{
    Tarn__Attr *attr;
    return world_lookup(w, path, &attr) == 0 ? attr->ino : 0;
}

static Tarn__SetAttr set_request(Tarn__Where *at, uint32_t mask)
{
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = at;
    m.mask = mask;
    return m;
}

static int chown_(struct world *w, const char *path, uint32_t mask, uint32_t uid, uint32_t gid)
{
    Tarn__Where at = world_where(path);
    Tarn__SetAttr m = set_request(&at, mask);
    m.uid = uid;
    m.gid = gid;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

static int chmod_(struct world *w, const char *path, uint32_t mode)
{
    Tarn__Where at = world_where(path);
    Tarn__SetAttr m = set_request(&at, BIT(MODE));
    m.mode = mode;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

static int truncate_(struct world *w, const char *path, uint64_t size)
{
    Tarn__Where at = world_where(path);
    Tarn__SetAttr m = set_request(&at, BIT(SIZE));
    m.size = size;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

static int times(struct world *w, const char *path, uint32_t mask, uint64_t atime, uint64_t mtime)
{
    Tarn__Where at = world_where(path);
    Tarn__SetAttr m = set_request(&at, mask);
    m.atime = atime;
    m.mtime = mtime;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

/* ---- rename */

static void rename_refuses_what_rename_2_refuses(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    assert_int_equal(world_make(w, DIR_, "/d", "full", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/d/full", "x", 0644), 0);
    assert_int_equal(world_make(w, DIR_, "/d", "empty", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), 0);
    assert_int_equal(world_rename(w, "/d", "none", "/d", "n", 0), -E_NOENT);
    assert_int_equal(world_rename(w, "/none", "f", "/d", "n", 0), -E_NOENT);
    assert_int_equal(world_rename(w, "/d/f", "f", "/d", "n", 0), -E_NOTDIR);
    assert_int_equal(world_rename(w, "/d", "empty", "/d", "full", 0), -E_NOTEMPTY);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "empty", 0), -E_ISDIR);
    assert_int_equal(world_rename(w, "/d", "empty", "/d", "f", 0), -E_NOTDIR);
    assert_int_equal(world_rename(w, "/d", "full", "/d/full", "in", 0), -E_INVAL);
    assert_int_equal(world_rename(w, "/", "d", "/d/full", "in", 0), -E_INVAL);
    assert_int_equal(world_rename(w, "/d", ".", "/d", "n", 0), -E_INVAL);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "..", 0), -E_INVAL);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "n", WHITEOUT), -E_INVAL);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "n", NOREPLACE | EXCHANGE), -E_INVAL);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "empty", NOREPLACE), -E_EXIST);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "none", EXCHANGE), -E_NOENT);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "n", NOREPLACE), 0);
    assert_int_equal(world_rename(w, "/d", "full", "/d", "empty", 0), 0); /* over an empty one */
    assert_true(ino_of(w, "/d/empty/x") != 0);
    assert_int_equal(stat_of(w, "/d").nlink, 3);
    assert_int_equal(world_rename(w, "/d", "n", "/d", "n", 0), 0); /* itself: nothing */
}

static void exchange_swaps_anything(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    assert_int_equal(world_make(w, DIR_, "/d", "full", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/d/full", "x", 0644), 0);
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    uint64_t f = ino_of(w, "/f");
    assert_int_equal(world_rename(w, "/", "f", "/d", "full", EXCHANGE), 0);
    assert_true(ino_of(w, "/d/full") == f && ino_of(w, "/f/x") != 0);
    assert_int_equal(stat_of(w, "/d").nlink, 2);
    assert_int_equal(world_rename(w, "/", "d", "/d", "full", EXCHANGE), -E_INVAL);
}

static void rename_needs_both_directories_and_dotdot(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "a", 0777), 0);
    assert_int_equal(world_make(w, DIR_, "/", "b", 0555), 0);
    assert_int_equal(world_make(w, DIR_, "/", "c", 0777), 0);
    assert_int_equal(world_make(w, FILE_, "/a", "f", 0644), 0);
    assert_int_equal(world_make(w, FILE_, "/b", "g", 0644), 0);
    assert_int_equal(world_make(w, DIR_, "/a", "of_root", 0755), 0);
    become(w, 5);
    assert_int_equal(world_rename(w, "/a", "f", "/b", "h", 0), -E_ACCES);
    assert_int_equal(world_rename(w, "/b", "g", "/a", "h", 0), -E_ACCES);
    assert_int_equal(world_rename(w, "/a", "f", "/c", "h", 0), 0); /* no right to the file needed */
    assert_int_equal(world_rename(w, "/a", "of_root", "/a", "here", 0), 0);
    assert_int_equal(world_rename(w, "/a", "here", "/c", "there", 0), -E_ACCES); /* its ".." */
}

static void sticky_directories_protect_both_names(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "s", 01777), 0);
    assert_int_equal(world_make(w, DIR_, "/", "open", 0777), 0);
    become(w, 5);
    assert_int_equal(world_make(w, FILE_, "/s", "five", 0644), 0);
    assert_int_equal(world_make(w, FILE_, "/open", "mine", 0644), 0);
    become(w, 6);
    assert_int_equal(world_make(w, FILE_, "/open", "six", 0644), 0);
    assert_int_equal(world_make(w, FILE_, "/s", "own", 0644), 0);
    assert_int_equal(world_rename(w, "/s", "five", "/open", "x", 0), -E_PERM);
    assert_int_equal(world_rename(w, "/open", "six", "/s", "five", 0), -E_PERM);
    assert_int_equal(world_rename(w, "/s", "own", "/s", "five", EXCHANGE), -E_PERM);
    assert_int_equal(world_rename(w, "/open", "six", "/s", "own", 0), 0);
    assert_int_equal(chown_(w, "/s", BIT(UID), 6, 0), -E_PERM);
    become(w, 0);
    assert_int_equal(chown_(w, "/s", BIT(UID), 6, 0), 0);
    become(w, 6); /* the directory's owner may */
    assert_int_equal(world_unlink(w, "/s", "five", false), 0);
}

/* ---- set-id bits */

static void chmod_outside_the_group_takes_setgid(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    assert_int_equal(chown_(w, "/f", BIT(UID) | BIT(GID), 5, 50), 0);
    assert_int_equal(chown_(w, "/d", BIT(UID) | BIT(GID), 5, 50), 0);
    become(w, 5);
    assert_int_equal(chmod_(w, "/f", 06755), 0);
    assert_int_equal(stat_of(w, "/f").mode, 04755);
    assert_int_equal(chmod_(w, "/d", 02755), 0);
    assert_int_equal(stat_of(w, "/d").mode, 0755);
    w->groups[0] = 50;
    w->n_groups = 1;
    assert_int_equal(chmod_(w, "/f", 06755), 0);
    assert_int_equal(stat_of(w, "/f").mode, 06755);
    w->n_groups = 0;
    become(w, 6);
    assert_int_equal(chmod_(w, "/f", 0755), -E_PERM);
}

static void chown_is_for_root_and_groups_of_the_owner(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 06755), 0);
    assert_int_equal(chown_(w, "/f", BIT(UID), 5, 0), 0);
    assert_int_equal(stat_of(w, "/f").mode, 0755); /* by root, too */
    assert_int_equal(chmod_(w, "/f", 06744), 0);
    assert_int_equal(chown_(w, "/f", BIT(GID), 0, 5), 0);
    assert_int_equal(stat_of(w, "/f").mode, 02744); /* without x for the group it is no set-id */
    become(w, 5);
    assert_int_equal(chown_(w, "/f", BIT(UID), 5, 0), 0); /* to itself */
    assert_int_equal(chown_(w, "/f", BIT(UID), 6, 0), -E_PERM);
    assert_int_equal(chown_(w, "/f", BIT(GID), 0, 60), -E_PERM);
    w->groups[0] = 60;
    w->n_groups = 1;
    assert_int_equal(chown_(w, "/f", BIT(GID), 0, 60), 0);
    w->n_groups = 0;
    become(w, 6);
    assert_int_equal(chown_(w, "/f", BIT(GID), 0, 60), -E_PERM);
    become(w, 0);
    assert_int_equal(world_make(w, DIR_, "/", "d", 06777), 0);
    assert_int_equal(chown_(w, "/d", BIT(UID), 5, 0), 0);
    assert_int_equal(stat_of(w, "/d").mode, 06777); /* directories keep them */
}

static void a_write_by_others_takes_set_ids(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 06777), 0);
    assert_int_equal(truncate_(w, "/f", 5), 0);
    assert_int_equal(stat_of(w, "/f").mode, 06777);
    become(w, 5);
    assert_int_equal(truncate_(w, "/f", 6), 0);
    assert_int_equal(stat_of(w, "/f").mode, 0777);
}

static void nobody_makes_set_group_programs_of_other_groups(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "g", 02777), 0);
    become(w, 5);
    assert_int_equal(world_make(w, FILE_, "/g", "program", 02755), 0);
    assert_int_equal(stat_of(w, "/g/program").mode, 0755);
    assert_int_equal(world_make(w, FILE_, "/g", "locks", 02744), 0);
    assert_int_equal(stat_of(w, "/g/locks").mode, 02744);
    assert_int_equal(stat_of(w, "/g/locks").gid, 0);
}

/* ---- times */

static void times_are_kept_to_the_nanosecond(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0666), 0);
    assert_int_equal(times(w, "/f", BIT(ATIME) | BIT(MTIME), 1234567890123456789u, 7), 0);
    Tarn__Attr a = stat_of(w, "/f");
    assert_int_equal(a.atime, 1234567890123456789u);
    assert_int_equal(a.mtime, 7);
    assert_int_equal(a.ctime, w->now);
    assert_int_equal(times(w, "/f", BIT(MTIME), 0, (uint64_t)-5), 0); /* before 1970; OMIT the other */
    a = stat_of(w, "/f");
    assert_int_equal(a.atime, 1234567890123456789u);
    assert_int_equal(a.mtime, (uint64_t)-5);
}

static void who_may_write_may_set_both_times_to_now_only(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, FILE_, "/", "w", 0666), 0);
    assert_int_equal(world_make(w, FILE_, "/", "r", 0644), 0);
    become(w, 5);
    assert_int_equal(times(w, "/w", BIT(ATIME_NOW) | BIT(MTIME_NOW), 0, 0), 0);
    assert_int_equal(times(w, "/w", BIT(ATIME_NOW), 0, 0), -E_PERM); /* the other UTIME_OMIT */
    assert_int_equal(times(w, "/w", BIT(ATIME) | BIT(MTIME), 1, 1), -E_PERM);
    assert_int_equal(times(w, "/w", BIT(ATIME_NOW) | BIT(MTIME), 0, 1), -E_PERM);
    assert_int_equal(times(w, "/r", BIT(ATIME_NOW) | BIT(MTIME_NOW), 0, 0), -E_ACCES);
}

static void changes_set_the_times_posix_says(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), 0);
    Tarn__Attr d = stat_of(w, "/d"), f = stat_of(w, "/d/f");
    assert_int_equal(d.mtime, w->now);
    assert_int_equal(d.ctime, w->now);
    assert_int_equal(f.btime, w->now);
    assert_int_equal(world_link(w, "/d/f", "/", "g"), 0);
    assert_int_equal(stat_of(w, "/g").ctime, w->now);
    assert_true(stat_of(w, "/g").mtime == f.mtime && stat_of(w, "/d").mtime == d.mtime);
    assert_int_equal(world_rename(w, "/d", "f", "/d", "h", 0), 0);
    assert_true(stat_of(w, "/d").mtime == w->now && stat_of(w, "/d/h").ctime == w->now);
    assert_int_equal(world_unlink(w, "/d", "h", false), 0);
    assert_true(stat_of(w, "/d").mtime == w->now && stat_of(w, "/g").ctime == w->now);
    uint64_t before = stat_of(w, "/g").mtime;
    assert_int_equal(chmod_(w, "/g", 0600), 0);
    assert_true(stat_of(w, "/g").ctime == w->now && stat_of(w, "/g").mtime == before);
    assert_int_equal(truncate_(w, "/g", 10), 0);
    assert_int_equal(stat_of(w, "/g").mtime, w->now);
}

static void atime_follows_reads_by_relatime(void **state)
{
    struct world *w = *state;
    const uint64_t day = 24 * 3600 * 1000000000ull;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    Tarn__Attr made = stat_of(w, "/f");
    uint64_t read = made.atime + 100;
    assert_int_equal(times(w, "/f", BIT(ATIME_READ), read, 0), 0); /* atime <= mtime: follows */
    Tarn__Attr a = stat_of(w, "/f");
    assert_int_equal(a.atime, read);
    assert_true(a.ctime == made.ctime && a.version == made.version); /* no change otherwise */
    assert_int_equal(times(w, "/f", BIT(ATIME_READ), read + 100, 0), 0);
    assert_int_equal(stat_of(w, "/f").atime, read); /* read again: not before a day */
    assert_int_equal(times(w, "/f", BIT(ATIME_STRICT), read + 100, 0), 0);
    assert_int_equal(stat_of(w, "/f").atime, read + 100);
    assert_int_equal(times(w, "/f", BIT(ATIME_STRICT), read, 0), 0);
    assert_int_equal(stat_of(w, "/f").atime, read + 100); /* never back */
    w->now += 2 * day;
    assert_int_equal(times(w, "/f", BIT(ATIME_READ), read + 100 + day, 0), 0);
    assert_int_equal(stat_of(w, "/f").atime, read + 100 + day);
    assert_int_equal(times(w, "/f", BIT(ATIME_READ), w->now + 2 * day, 0), -E_INVAL);
    assert_int_equal(chmod_(w, "/f", 0600), 0); /* ctime is after atime: the next read counts */
    assert_int_equal(times(w, "/f", BIT(ATIME_READ), w->now + 5, 0), 0);
    assert_int_equal(stat_of(w, "/f").atime, w->now - 1000 + 5);
    become(w, 5);
    assert_int_equal(times(w, "/f", BIT(ATIME_READ), w->now, 0), -E_ACCES); /* did not read it */
}

/* ---- limits, types, names */

static void symbolic_links_have_a_length(void **state)
{
    struct world *w = *state;
    char target[4100];
    memset(target, 't', sizeof target);
    target[4095] = 0;
    assert_int_equal(world_symlink(w, "/", "long", target), 0);
    assert_int_equal(stat_of(w, "/long").size, 4095);
    assert_int_equal(stat_of(w, "/long").mode, 0777);
    target[4095] = 't';
    target[4096] = 0;
    assert_int_equal(world_symlink(w, "/", "longer", target), -E_NAMETOOLONG);
    assert_int_equal(world_symlink(w, "/", "empty", ""), -E_NOENT);
}

static void special_files(void **state)
{
    struct world *w = *state;
    uint64_t handle;
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_CHR, "/", "dev", 0666), 0);
    assert_int_equal(world_make(w, DIR_, "/", "d", 0777), 0);
    become(w, 5);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_CHR, "/d", "dev", 0666), -E_PERM);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_BLK, "/d", "dev", 0666), -E_PERM);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_FIFO, "/d", "pipe", 0666), 0);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_SOCK, "/d", "sock", 0666), 0);
    assert_int_equal(truncate_(w, "/d/pipe", 0), -E_INVAL);
    assert_int_equal(truncate_(w, "/d", 0), -E_ISDIR);
    assert_int_equal(world_link(w, "/d/pipe", "/d", "same"), 0);
    assert_int_equal(stat_of(w, "/d/same").nlink, 2);
    assert_int_equal(world_open(w, "/d", O_WRONLY, &handle), -E_ISDIR);
    assert_int_equal(world_open(w, "/d/pipe", O_RDONLY | O_DIRECTORY, &handle), -E_NOTDIR);
}

static void links_are_counted_up_to_a_limit(void **state)
{
    struct world *w = *state;
    char name[16];
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    for (unsigned i = 1; i < NS_LINKS_MAX; i++) {
        assert_in_range(snprintf(name, sizeof name, "%u", i), 1, sizeof name - 1);
        assert_int_equal(world_link(w, "/f", "/d", name), 0);
    }
    assert_int_equal(world_link(w, "/f", "/d", "more"), -E_MLINK);
    assert_int_equal(stat_of(w, "/f").nlink, NS_LINKS_MAX);
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    assert_int_equal(world_link(w, "/d/1", "/", "f"), 0);
}

static void exclusive_means_new(void **state)
{
    struct world *w = *state;
    assert_int_equal(world_symlink(w, "/", "dangling", "nowhere"), 0);
    assert_int_equal(world_make(w, FILE_, "/", "dangling", 0644), -E_EXIST); /* O_EXCL: not followed */
    assert_int_equal(world_lookup(w, "/nowhere", NULL), -E_NOENT);
    Tarn__Create m = TARN__CREATE__INIT;
    m.name = "dangling";
    m.type = FILE_;
    m.mode = 0644;
    m.open = true;
    m.open_flags = O_RDWR;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &m.ctx), 0); /* O_CREAT alone: followed */
    assert_true(ino_of(w, "/nowhere") != 0);
}

/* The service keeps handles of all nodes: a name removed by one session leaves the file to others,
 * and the file goes with the last session that has it open, however that ends. */
static void a_removed_file_lives_as_long_as_any_session_has_it(void **state)
{
    struct world *w = *state;
    uint64_t first = w->session, handle, seq = w->seq;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0666), 0);
    uint64_t ino = ino_of(w, "/f");
    w->session = world_session(w, "second");
    assert_int_equal(world_open(w, "/f", O_RDWR, &handle), 0);
    uint64_t second = w->session, second_seq = w->seq;
    w->session = first;
    w->seq = seq + 100;
    assert_int_equal(world_unlink(w, "/", "f", false), 0);
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = ino;
    Tarn__Lookup look = TARN__LOOKUP__INIT;
    look.where = &at;
    w->session = second;
    w->seq = second_seq;
    assert_int_equal(world_query(w, OP_LOOKUP, &look.base, &look.ctx), 0);
    assert_int_equal(
        ((Tarn__LookupReply *)world_reply(w, &tarn__lookup_reply__descriptor))->attr->nlink, 0);
    Tarn__Where root = world_where("/");
    Tarn__Link link = TARN__LINK__INIT;
    link.target = &at;
    link.parent = &root;
    link.name = "back";
    assert_int_equal(world_apply(w, OP_LINK, &link.base, &link.ctx), -E_NOENT);
    Tarn__SessionEnd end = TARN__SESSION_END__INIT;
    end.session = second; /* it crashed: the leader ends it */
    end.expired = true;
    assert_int_equal(world_apply(w, OP_SESSION_END, &end.base, &end.ctx), 0);
    w->session = first;
    assert_int_equal(world_query(w, OP_LOOKUP, &look.base, &look.ctx), -E_NOENT);
    assert_int_equal(world_status(w)->files, 0);
}

static void the_working_directory_may_be_removed(void **state)
{
    struct world *w = *state;
    uint64_t handle;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    uint64_t ino = ino_of(w, "/d");
    assert_int_equal(world_open(w, "/d", O_RDONLY | O_DIRECTORY, &handle), 0);
    assert_int_equal(world_unlink(w, "/", "d", true), 0);
    Tarn__Where at = TARN__WHERE__INIT;
    at.ino = ino;
    Tarn__Create m = TARN__CREATE__INIT;
    m.parent = &at;
    m.name = "f";
    m.type = FILE_;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &m.ctx), -E_NOENT);
    assert_int_equal(world_close(w, handle), 0);
    m.ctx = NULL;
    assert_int_equal(world_apply(w, OP_CREATE, &m.base, &m.ctx), -E_NOENT);
}

static void access_tells_for_the_ids_it_is_given(void **state)
{
    struct world *w = *state;
    Tarn__Where at = world_where("/f");
    Tarn__Access m = TARN__ACCESS__INIT;
    m.where = &at;
    assert_int_equal(world_make(w, FILE_, "/", "f", 0640), 0);
    assert_int_equal(chown_(w, "/f", BIT(UID) | BIT(GID), 5, 50), 0);
    m.mask = 1;
    assert_int_equal(world_query(w, OP_ACCESS, &m.base, &m.ctx), -E_ACCES); /* root, too */
    m.mask = 6;
    assert_int_equal(world_query(w, OP_ACCESS, &m.base, &m.ctx), 0);
    become(w, 5);
    assert_int_equal(world_query(w, OP_ACCESS, &m.base, &m.ctx), 0);
    become(w, 6);
    assert_int_equal(world_query(w, OP_ACCESS, &m.base, &m.ctx), -E_ACCES);
    w->gid = 50;
    assert_int_equal(world_query(w, OP_ACCESS, &m.base, &m.ctx), -E_ACCES);
    m.mask = 4;
    assert_int_equal(world_query(w, OP_ACCESS, &m.base, &m.ctx), 0);
}

/* READDIR goes on behind a name, whether that is still there or not. What is in the directory the
 * whole time is told once, in order, while others come and go between the pages. */
static void a_listing_beside_changes_tells_what_stays_once(void **state)
{
    enum { NAMES = 300 };
    struct world *w = *state;
    struct prng prng = prng_init(11);
    bool there[NAMES];
    char name[16];
    assert_int_equal(world_make(w, DIR_, "/", "d", 0755), 0);
    for (unsigned i = 0; i < NAMES; i++) { /* every third stays */
        there[i] = i % 3 == 0 || prng_below(&prng, 2);
        assert_in_range(snprintf(name, sizeof name, "%03u", i), 1, sizeof name - 1);
        if (there[i])
            assert_int_equal(world_make(w, FILE_, "/d", name, 0644), 0);
    }
    for (unsigned round = 0; round < 20; round++) {
        unsigned told[NAMES] = {0};
        char after[256] = "";
        for (bool end = false; !end;) {
            Tarn__Where at = world_where("/d");
            Tarn__ReadDir m = TARN__READ_DIR__INIT;
            m.where = &at;
            m.after = after;
            m.max = (uint32_t)(1 + prng_below(&prng, 40));
            assert_int_equal(world_query(w, OP_READDIR, &m.base, &m.ctx), 0);
            Tarn__ReadDirReply *reply = world_reply(w, &tarn__read_dir_reply__descriptor);
            end = reply->end;
            for (size_t i = 0; i < reply->n_entries; i++) {
                assert_true(strcmp(reply->entries[i]->name, after) > 0);
                strcpy(after, reply->entries[i]->name);
                told[atoi(after)]++;
            }
            for (unsigned i = 0; i < 20; i++) { /* the last one told among them */
                unsigned which = i == 0 && after[0] != 0 ? (unsigned)atoi(after)
                                                         : (unsigned)prng_below(&prng, NAMES);
                if (which % 3 == 0)
                    continue;
                assert_in_range(snprintf(name, sizeof name, "%03u", which), 1, sizeof name - 1);
                assert_int_equal(there[which] ? world_unlink(w, "/d", name, false)
                                              : world_make(w, FILE_, "/d", name, 0644),
                                 0);
                there[which] = !there[which];
            }
        }
        for (unsigned i = 0; i < NAMES; i += 3)
            assert_int_equal(told[i], 1);
    }
}

/* path_resolution(7): the 41st link on the way is one too many. */
static void forty_links_are_followed_and_no_more(void **state)
{
    struct world *w = *state;
    char name[] = "l00", target[] = "l00";
    assert_int_equal(world_make(w, FILE_, "/", "l00", 0644), 0);
    for (unsigned i = 1; i <= NS_SYMLINKS_MAX + 1; i++) {
        memcpy(target, name, sizeof name);
        assert_in_range(snprintf(name, sizeof name, "l%02u", i % 100), 1, sizeof name - 1);
        assert_int_equal(world_symlink(w, "/", name, target), 0);
    }
    uint64_t handle;
    assert_int_equal(world_open(w, "/l40", O_RDONLY, &handle), 0);
    assert_int_equal(world_open(w, "/l41", O_RDONLY, &handle), -E_LOOP);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(forty_links_are_followed_and_no_more),
                                       T(rename_refuses_what_rename_2_refuses),
                                       T(exchange_swaps_anything),
                                       T(rename_needs_both_directories_and_dotdot),
                                       T(sticky_directories_protect_both_names),
                                       T(chmod_outside_the_group_takes_setgid),
                                       T(chown_is_for_root_and_groups_of_the_owner),
                                       T(a_write_by_others_takes_set_ids),
                                       T(nobody_makes_set_group_programs_of_other_groups),
                                       T(times_are_kept_to_the_nanosecond),
                                       T(who_may_write_may_set_both_times_to_now_only),
                                       T(changes_set_the_times_posix_says),
                                       T(atime_follows_reads_by_relatime),
                                       T(symbolic_links_have_a_length),
                                       T(special_files),
                                       T(links_are_counted_up_to_a_limit),
                                       T(exclusive_means_new),
                                       T(a_removed_file_lives_as_long_as_any_session_has_it),
                                       T(the_working_directory_may_be_removed),
                                       T(access_tells_for_the_ids_it_is_given),
                                       T(a_listing_beside_changes_tells_what_stays_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
