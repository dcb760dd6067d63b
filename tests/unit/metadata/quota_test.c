/* Quotas: what is charged to whom, what is refused, and that counting beside changes comes to the
 * same sums as adding up the rows of all inodes. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "common/prng.h"
#include "metadata/quota.h"
#include "tree_check.h"

#define FILE_ TARN__FILE_TYPE__FT_FILE
#define DIR_ TARN__FILE_TYPE__FT_DIR
#define BIT(name) TARN__SET_ATTR_BITS__SA_##name

/* ---- an independent statement of Q1 and Q2: the sums from all rows */

struct summing {
    struct kv_txn *txn;
    const struct quota *quota;
    uint64_t bytes, files;
};

static uint64_t number_at(struct kv_val key, size_t at)
{
    struct reader r = reader_init(key.data + at, key.len - at);
    return reader_be64(&r);
}

static bool in_tree(struct kv_txn *txn, uint64_t dir, uint64_t top)
{
    while (dir != top) {
        struct key key = key_1(TABLE_INODE, dir);
        struct kv_val value;
        struct inode inode = {0};
        assert_int_equal(kv_get(txn, key.data, key.len, &value), 0);
        assert_int_equal(inode_decode(dir, value.data, value.len, &inode), 0);
        inode_fini(&inode);
        if (dir == MD_ROOT)
            return false;
        dir = inode.parent;
    }
    return true;
}

static int sum_inode(void *arg, struct kv_val key, struct kv_val value)
{
    struct summing *s = arg;
    struct inode inode = {0};
    assert_int_equal(inode_decode(number_at(key, 1), value.data, value.len, &inode), 0);
    bool mine = s->quota->kind == QUOTA_USER    ? inode.uid == s->quota->subject
                : s->quota->kind == QUOTA_GROUP ? inode.gid == s->quota->subject
                                                : inode.nlink > 0 && inode.ino != MD_ROOT &&
                                                      in_tree(s->txn, inode.parent, s->quota->subject);
    uint64_t held = inode.allocated + inode.data_len;
    s->bytes += mine && inode.type == FILE_ ? (held < inode.size ? held : inode.size) : 0;
    s->files += mine;
    inode_fini(&inode);
    return 0;
}

static int check_quota(void *arg, struct kv_val key, struct kv_val value)
{
    struct summing *s = arg;
    struct quota quota;
    assert_int_equal(quota_decode(number_at(key, 1), number_at(key, 9), value.data, value.len, &quota), 0);
    if (quota.cursor != QUOTA_COUNTED)
        return 0;
    s->quota = &quota;
    s->bytes = s->files = 0;
    struct key prefix = key_table(TABLE_INODE);
    assert_int_equal(kv_scan(s->txn, prefix.data, prefix.len, prefix.data, prefix.len, sum_inode, s), 0);
    assert_int_equal(quota.bytes, s->bytes);
    assert_int_equal(quota.files, s->files);
    return 0;
}

static void check_sums(struct world *w)
{
    struct summing s = {0};
    struct key prefix = key_table(TABLE_QUOTA);
    assert_int_equal(kv_begin(w->kv, false, &s.txn), 0);
    assert_int_equal(kv_scan(s.txn, prefix.data, prefix.len, prefix.data, prefix.len, check_quota, &s), 0);
    kv_abort(s.txn);
}

/* ---- short forms */

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    check_sums(*state);
    world_fini(*state);
    return 0;
}

static int set(struct world *w, enum quota_kind kind, const char *path, uint64_t subject, uint64_t bytes,
               uint64_t files)
{
    Tarn__Where at = world_where(path == NULL ? "/" : path);
    Tarn__QuotaSet m = TARN__QUOTA_SET__INIT;
    m.kind = (Tarn__QuotaKind)kind;
    m.where = &at;
    m.subject = subject;
    m.set_bytes = m.set_files = true;
    m.bytes = bytes;
    m.files = files;
    return world_apply(w, OP_QUOTA_SET, &m.base, &m.ctx);
}

static void count_all(struct world *w)
{
    while (world_work(w))
        ;
}

/* A directory of that name with a quota, counted. */
static void dir_with(struct world *w, const char *name, uint64_t bytes, uint64_t files)
{
    char path[32];
    assert_in_range(snprintf(path, sizeof path, "/%s", name), 1, sizeof path - 1);
    assert_int_equal(world_make(w, DIR_, "/", name, 0777), 0);
    assert_int_equal(set(w, QUOTA_DIR, path, 0, bytes, files), 0);
    count_all(w);
}

static int get(struct world *w, enum quota_kind kind, const char *path, uint64_t subject, Tarn__Quota *ret)
{
    Tarn__Where at = world_where(path == NULL ? "/" : path);
    Tarn__QuotaGet m = TARN__QUOTA_GET__INIT;
    m.kind = (Tarn__QuotaKind)kind;
    m.where = &at;
    m.subject = subject;
    int err = world_query(w, OP_QUOTA_GET, &m.base, &m.ctx);
    if (err != 0)
        return err;
    Tarn__QuotaReply *reply = world_reply(w, &tarn__quota_reply__descriptor);
    if (reply->n_quotas == 0)
        return -E_NOENT;
    *ret = *reply->quotas[0];
    return 0;
}

static Tarn__Quota of(struct world *w, const char *path)
{
    Tarn__Quota quota;
    assert_int_equal(get(w, QUOTA_DIR, path, 0, &quota), 0);
    return quota;
}

static int setattr(struct world *w, const char *path, uint32_t mask, uint64_t value)
{
    Tarn__Where at = world_where(path);
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &at;
    m.mask = mask;
    m.uid = m.gid = m.mode = (uint32_t)value;
    m.size = value;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

/* ---- rules */

static void files_and_bytes_are_limited(void **state)
{
    struct world *w = *state;
    dir_with(w, "d", 10, 3);
    assert_int_equal(world_object(w, "/d", "a", "12345"), 0);
    assert_int_equal(world_object(w, "/d", "b", "123456"), -E_DQUOT);
    assert_int_equal(world_lookup(w, "/d/b", NULL), -E_NOENT); /* nothing of it is left */
    assert_int_equal(world_object(w, "/d", "b", "12345"), 0);  /* exactly full is fine */
    assert_int_equal(world_make(w, DIR_, "/d", "c", 0755), 0);
    assert_int_equal(world_make(w, FILE_, "/d/c", "f", 0644), -E_DQUOT);
    assert_int_equal(world_make(w, FILE_, "/", "f", 0644), 0);
    assert_int_equal(of(w, "/d").bytes, 10);
    assert_int_equal(of(w, "/d/c").files, 3); /* the nearest above */
}

static void over_the_limit_one_may_still_tidy_up(void **state)
{
    struct world *w = *state;
    dir_with(w, "d", 100, 10);
    assert_int_equal(world_object(w, "/d", "a", "12345"), 0);
    assert_int_equal(world_object(w, "/d", "b", "12345"), 0);
    assert_int_equal(set(w, QUOTA_DIR, "/d", 0, 1, 1), 0); /* a smaller limit than what is there */
    assert_int_equal(world_object(w, "/d", "a", "123456"), -E_DQUOT);
    assert_int_equal(world_object(w, "/d", "a", "12345"), 0); /* no more than before */
    assert_int_equal(world_object(w, "/d", "a", "1"), 0);
    assert_int_equal(setattr(w, "/d/b", BIT(MODE), 0600), 0);
    assert_int_equal(setattr(w, "/d/b", BIT(SIZE), 2), 0);
    assert_int_equal(world_rename(w, "/d", "b", "/d", "c", 0), 0);
    assert_int_equal(world_rename(w, "/d", "c", "/", "out", 0), 0);
    assert_int_equal(world_rename(w, "/", "out", "/d", "back", 0), -E_DQUOT);
    assert_int_equal(world_unlink(w, "/d", "a", false), 0);
    assert_int_equal(of(w, "/d").files, 0);
}

static void users_and_groups_are_charged_and_chown_moves_the_cost(void **state)
{
    struct world *w = *state;
    Tarn__Quota q;
    assert_int_equal(world_make(w, DIR_, "/", "d", 0777), 0);
    assert_int_equal(set(w, QUOTA_USER, NULL, 5, 20, 2), 0);
    assert_int_equal(set(w, QUOTA_GROUP, NULL, 50, 12, 0), 0);
    count_all(w);
    w->uid = 5;
    w->gid = 50;
    assert_int_equal(world_object(w, "/d", "a", "1234567890"), 0);
    assert_int_equal(world_object(w, "/d", "b", "123"), -E_DQUOT); /* the group's bytes */
    w->gid = 5;
    assert_int_equal(world_object(w, "/d", "b", "123"), 0);
    assert_int_equal(world_make(w, FILE_, "/d", "c", 0644), -E_DQUOT); /* the user's files */
    assert_int_equal(get(w, QUOTA_USER, NULL, 5, &q), 0);              /* one's own may be seen */
    assert_int_equal(q.bytes, 13);
    assert_int_equal(get(w, QUOTA_USER, NULL, 6, &q), -E_PERM);
    assert_int_equal(set(w, QUOTA_USER, NULL, 5, 1000, 0), -E_PERM);
    w->uid = w->gid = 0;
    assert_int_equal(world_object(w, "/d", "r", "123"), 0);
    assert_int_equal(setattr(w, "/d/r", BIT(UID), 5), -E_DQUOT);
    assert_int_equal(setattr(w, "/d/b", BIT(GID), 50), -E_DQUOT);
    assert_int_equal(setattr(w, "/d/a", BIT(UID) | BIT(GID), 7), 0);
    assert_int_equal(setattr(w, "/d/r", BIT(UID), 5), 0);
    assert_int_equal(get(w, QUOTA_GROUP, NULL, 50, &q), 0);
    assert_int_equal(q.files, 0);
}

static void a_removed_file_costs_its_owner_until_it_is_closed(void **state)
{
    struct world *w = *state;
    Tarn__Quota q;
    uint64_t handle;
    assert_int_equal(set(w, QUOTA_USER, NULL, 0, 1000, 0), 0);
    dir_with(w, "d", 100, 100);
    assert_int_equal(get(w, QUOTA_USER, NULL, 0, &q), 0);
    uint64_t before = q.bytes;
    assert_int_equal(world_object(w, "/d", "f", "12345"), 0);
    assert_int_equal(world_open(w, "/d/f", O_RDONLY, &handle), 0);
    assert_int_equal(world_unlink(w, "/d", "f", false), 0);
    assert_int_equal(of(w, "/d").bytes, 0);
    assert_int_equal(get(w, QUOTA_USER, NULL, 0, &q), 0);
    assert_int_equal(q.bytes, before + 5);
    check_sums(w);
    assert_int_equal(world_unlink(w, "/", "d", true), 0); /* the quota goes with its directory */
    assert_int_equal(world_close(w, handle), 0);
    assert_int_equal(get(w, QUOTA_USER, NULL, 0, &q), 0);
    assert_int_equal(q.bytes, before);
    assert_int_equal(get(w, QUOTA_DIR, "/", 0, &q), -E_NOENT);
}

static void a_link_costs_where_the_first_name_is(void **state)
{
    struct world *w = *state;
    dir_with(w, "a", 100, 100);
    dir_with(w, "b", 100, 1);
    assert_int_equal(world_object(w, "/a", "f", "12345"), 0);
    assert_int_equal(world_link(w, "/a/f", "/b", "g"), 0);
    assert_int_equal(of(w, "/a").bytes, 5);
    assert_int_equal(of(w, "/b").bytes, 0);
    assert_int_equal(world_unlink(w, "/a", "f", false), 0); /* now it lives in the other */
    assert_int_equal(of(w, "/a").bytes, 0);
    assert_int_equal(of(w, "/b").bytes, 5);
    assert_int_equal(world_link(w, "/b/g", "/a", "h"), 0);
    assert_int_equal(world_make(w, FILE_, "/b", "more", 0644), -E_DQUOT);
}

static void quotas_inside_quotas_all_count(void **state)
{
    struct world *w = *state;
    dir_with(w, "a", 20, 100);
    assert_int_equal(world_make(w, DIR_, "/a", "b", 0755), 0);
    assert_int_equal(set(w, QUOTA_DIR, "/a/b", 0, 10, 0), 0);
    assert_int_equal(set(w, QUOTA_DIR, "/", 0, 24, 0), 0);
    count_all(w);
    assert_int_equal(world_object(w, "/a/b", "f", "12345678"), 0);
    assert_int_equal(world_object(w, "/a/b", "g", "123"), -E_DQUOT);
    assert_int_equal(world_object(w, "/a", "g", "1234567890123"), -E_DQUOT);
    assert_int_equal(world_object(w, "/a", "g", "123456789012"), 0);
    assert_int_equal(world_object(w, "/", "h", "12345"), -E_DQUOT);
    assert_int_equal(of(w, "/a").bytes, 20);
    assert_int_equal(of(w, "/a/b").bytes, 8);
    assert_int_equal(of(w, "/").bytes, 20);
}

/* A directory with a quota of its own moves with exact sums; another one makes the quotas count anew. */
static void directories_move_with_what_is_in_them(void **state)
{
    struct world *w = *state;
    dir_with(w, "a", 100, 100);
    dir_with(w, "b", 100, 4);
    dir_with(w, "own", 100, 100);
    assert_int_equal(world_object(w, "/own", "x/y", "12345"), 0);
    assert_int_equal(world_rename(w, "/", "own", "/a", "own", 0), 0);
    assert_false(of(w, "/a").counting);
    assert_int_equal(of(w, "/a").bytes, 5);
    assert_int_equal(of(w, "/a").files, 3);
    assert_int_equal(world_rename(w, "/a/own", "x", "/b", "x", 0), 0);
    assert_true(of(w, "/b").counting);
    count_all(w);
    assert_int_equal(of(w, "/b").files, 2);
    assert_int_equal(of(w, "/a").files, 1);
    assert_int_equal(world_object(w, "/a/own", "z", "1"), 0);
    assert_int_equal(world_object(w, "/a/own", "zz", "1"), 0);
    assert_int_equal(world_rename(w, "/a", "own", "/b", "own", 0), -E_DQUOT); /* 2 + 3 files */
    assert_int_equal(world_unlink(w, "/a/own", "zz", false), 0);
    assert_int_equal(world_rename(w, "/a", "own", "/b", "own", 0), 0);
    assert_int_equal(of(w, "/b").files, 4);
}

static void removing_a_quota_ends_it(void **state)
{
    struct world *w = *state;
    Tarn__Quota q;
    dir_with(w, "d", 0, 1);
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), 0);
    assert_int_equal(world_make(w, FILE_, "/d", "g", 0644), -E_DQUOT);
    Tarn__Where at = world_where("/d");
    Tarn__QuotaSet m = TARN__QUOTA_SET__INIT;
    m.kind = TARN__QUOTA_KIND__QUOTA_DIR;
    m.where = &at;
    m.remove = true;
    assert_int_equal(world_apply(w, OP_QUOTA_SET, &m.base, &m.ctx), 0);
    assert_int_equal(world_apply(w, OP_QUOTA_SET, &m.base, &m.ctx), -E_NOENT);
    assert_int_equal(get(w, QUOTA_DIR, "/d", 0, &q), -E_NOENT);
    assert_int_equal(world_make(w, FILE_, "/d", "g", 0644), 0);
    m.remove = false;
    assert_int_equal(world_apply(w, OP_QUOTA_SET, &m.base, &m.ctx), -E_INVAL); /* no limit */
}

static void limits_are_set_one_by_one(void **state)
{
    struct world *w = *state;
    dir_with(w, "d", 10, 0);
    Tarn__Where at = world_where("/d");
    Tarn__QuotaSet m = TARN__QUOTA_SET__INIT;
    m.kind = TARN__QUOTA_KIND__QUOTA_DIR;
    m.where = &at;
    m.set_files = true;
    m.files = 7;
    assert_int_equal(world_apply(w, OP_QUOTA_SET, &m.base, &m.ctx), 0);
    assert_int_equal(of(w, "/d").limit_bytes, 10);
    assert_int_equal(of(w, "/d").limit_files, 7);
    assert_string_equal(of(w, "/d").path, "/d");
    assert_int_equal(world_rename(w, "/", "d", "/", "e", 0), 0);
    assert_string_equal(of(w, "/e").path, ""); /* the old path leads nowhere */
    assert_int_equal(setattr(w, "/e", BIT(MODE), 0700), 0);
    w->uid = 9;
    Tarn__Quota q;
    assert_int_equal(get(w, QUOTA_DIR, "/e", 0, &q), -E_ACCES);
}

static void statfs_shows_the_narrowest(void **state)
{
    struct world *w = *state;
    (void)world_node(w, "n", "r");
    dir_with(w, "d", 1000, 7);
    assert_int_equal(world_object(w, "/d", "f", "12345"), 0);
    Tarn__Where at = world_where("/d/f");
    Tarn__StatFs m = TARN__STAT_FS__INIT;
    m.where = &at;
    assert_int_equal(world_query(w, OP_STATFS, &m.base, &m.ctx), 0);
    Tarn__StatFsReply *reply = world_reply(w, &tarn__stat_fs_reply__descriptor);
    assert_int_equal(reply->total, 1000);
    assert_int_equal(reply->usable, 995);
    assert_int_equal(reply->files_max, 7);
    assert_int_equal(reply->files, 1);
    at = world_where("/");
    assert_int_equal(world_query(w, OP_STATFS, &m.base, &m.ctx), 0);
    reply = world_reply(w, &tarn__stat_fs_reply__descriptor);
    assert_int_equal(reply->total, 1ull << 40);
    assert_int_equal(reply->files_max, 0);
}

static void writers_get_no_room_when_it_is_used_up(void **state)
{
    struct world *w = *state;
    uint64_t handle;
    (void)world_node(w, "n", "r");
    dir_with(w, "d", 1000, 0);
    assert_int_equal(world_make(w, FILE_, "/d", "f", 0644), 0);
    assert_int_equal(world_open(w, "/d/f", O_RDWR, &handle), 0);
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(w, "/d/f", &attr), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = attr->ino;
    assert_int_equal(world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    assert_int_equal(of(w, "/d").bytes, 0); /* nothing of it is in the file yet */
    assert_int_equal(setattr(w, "/d/f", BIT(GROW), 1001), -E_DQUOT);
    assert_int_equal(setattr(w, "/d/f", BIT(GROW), 1000), 0);
    assert_int_equal(of(w, "/d").bytes, 1000);
    m.offset = 64 << 20;
    assert_int_equal(world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx), -E_DQUOT);
    m.offset = 0; /* what is there may be written over */
    assert_int_equal(world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx), 0);
    Tarn__Where near = world_where("/d");
    Tarn__UploadChunk up = TARN__UPLOAD_CHUNK__INIT;
    up.near = &near;
    assert_int_equal(world_apply(w, OP_UPLOAD_CHUNK, &up.base, &up.ctx), -E_DQUOT);
    assert_int_equal(world_close(w, handle), 0);
    check_sums(w);
}

static void items_of_a_batch_are_refused_one_by_one(void **state)
{
    struct world *w = *state;
    dir_with(w, "d", 0, 2);
    Tarn__Where parent = world_where("/d");
    Tarn__Create create[4];
    Tarn__BatchItem item[4], *items[4];
    const char *names[] = {"a", "b", "c", "e"};
    for (int i = 0; i < 4; i++) {
        tarn__create__init(&create[i]);
        tarn__batch_item__init(&item[i]);
        create[i].parent = &parent;
        create[i].name = (char *)names[i];
        create[i].type = FILE_;
        create[i].exclusive = true;
        item[i].create = &create[i];
        items[i] = &item[i];
    }
    Tarn__Batch m = TARN__BATCH__INIT;
    m.items = items;
    m.n_items = 4;
    assert_int_equal(world_apply(w, OP_BATCH, &m.base, &m.ctx), 0);
    Tarn__BatchReply *reply = world_reply(w, &tarn__batch_reply__descriptor);
    for (int i = 0; i < 4; i++)
        assert_int_equal(reply->results[i]->status, i < 2 ? 0 : E_DQUOT);
    assert_int_equal(of(w, "/d").files, 2);
}

/* ---- random changes with quotas that come, go and count beside them */

static const char *const dirs[] = {"/", "/a", "/b", "/a/a", "/a/b", "/b/a", "/a/a/b"};

static void random_change(struct world *w, struct prng *prng)
{
    char name[] = {(char)('a' + (int)prng_below(prng, 4)), 0}, other[] = {(char)('a' + (int)prng_below(prng, 4)), 0};
    char path[64], data[64];
    const char *x = dirs[prng_below(prng, ARRAY_SIZE(dirs))], *y = dirs[prng_below(prng, ARRAY_SIZE(dirs))];
    assert_in_range(snprintf(path, sizeof path, "%s/%s", x, name), 1, sizeof path - 1);
    memset(data, 'x', sizeof data);
    data[prng_below(prng, 60)] = 0;
    data[60] = 0;
    uint32_t id = (uint32_t)prng_below(prng, 3);
    switch (prng_below(prng, 12)) {
    case 0:
    case 1:
        (void)world_make(w, DIR_, x, name, 0777);
        return;
    case 2:
    case 3:
        (void)world_object(w, x, name, data);
        return;
    case 4:
        (void)world_unlink(w, x, name, prng_below(prng, 2));
        return;
    case 5:
    case 6:
        (void)world_rename(w, x, name, y, other, (uint32_t)prng_below(prng, 3));
        return;
    case 7:
        (void)world_link(w, path, y, other);
        return;
    case 8:
        (void)setattr(w, path, prng_below(prng, 2) ? BIT(UID) : BIT(GID), id);
        return;
    case 9:
        (void)setattr(w, path, BIT(SIZE), prng_below(prng, 100));
        return;
    case 10:
        (void)set(w, (enum quota_kind)(1 + prng_below(prng, 3)), x, id, 50 + prng_below(prng, 300),
                  2 + prng_below(prng, 30));
        return;
    default: {
        Tarn__Where at = world_where(x);
        Tarn__QuotaSet m = TARN__QUOTA_SET__INIT;
        m.kind = (Tarn__QuotaKind)(1 + prng_below(prng, 3));
        m.where = &at;
        m.subject = id;
        m.remove = true;
        if (prng_below(prng, 4) == 0)
            (void)world_apply(w, OP_QUOTA_SET, &m.base, &m.ctx);
    }
    }
}

static void counting_beside_changes_is_exact(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct world w;
        struct prng prng = prng_init(seed);
        world_init(&w);
        /* Enough inodes that a count takes several steps. */
        assert_int_equal(world_make(&w, DIR_, "/", "a", 0777), 0);
        for (int i = 0; i < 1500; i++) {
            char name[16];
            assert_in_range(snprintf(name, sizeof name, "many%d", i), 1, sizeof name - 1);
            assert_int_equal(world_object(&w, "/a", name, "1234567"), 0);
        }
        for (unsigned i = 0; i < 6000; i++) {
            random_change(&w, &prng);
            if (i % 3 == 0)
                (void)world_work(&w);
            if (i % 250 == 0)
                check_sums(&w);
        }
        count_all(&w);
        check_sums(&w);
        tree_check(&w, false);
        world_fini(&w);
    }
}

static void rows_round_trip(void **state)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct quota quota = {.limit_bytes = 1, .limit_files = 2, .bytes = 3, .files = 4, .cursor = 5, .path_len = 2,
                          .path = "/d"}, back;
    quota_encode(&quota, &w);
    assert_int_equal(quota_decode(1, 9, w.data, w.len, &back), 0);
    assert_int_equal(back.subject, 9);
    assert_int_equal(back.cursor, 5);
    assert_string_equal(back.path, "/d");
    for (size_t n = 0; n < w.len; n++) {
        uint8_t *exact = malloc(n + 1);
        memcpy(exact, w.data, n);
        assert_int_equal(quota_decode(1, 9, exact, n, &back), -E_CORRUPT);
        free(exact);
    }
    writer_u8(&w, 0);
    assert_int_equal(quota_decode(1, 9, w.data, w.len, &back), -E_CORRUPT);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(files_and_bytes_are_limited),
                                       T(over_the_limit_one_may_still_tidy_up),
                                       T(users_and_groups_are_charged_and_chown_moves_the_cost),
                                       T(a_removed_file_costs_its_owner_until_it_is_closed),
                                       T(a_link_costs_where_the_first_name_is),
                                       T(quotas_inside_quotas_all_count),
                                       T(directories_move_with_what_is_in_them),
                                       T(removing_a_quota_ends_it),
                                       T(limits_are_set_one_by_one),
                                       T(statfs_shows_the_narrowest),
                                       T(writers_get_no_room_when_it_is_used_up),
                                       T(items_of_a_batch_are_refused_one_by_one),
                                       cmocka_unit_test(counting_beside_changes_is_exact),
                                       cmocka_unit_test(rows_round_trip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
