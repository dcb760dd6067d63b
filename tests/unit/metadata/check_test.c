/* The consistency checker: sound tables pass, and each kind of damage is named. */
#include <fcntl.h>
#include <stdio.h>

#include "metadata/check.h"
#include "metadata/record.h"
#include "world.h"

struct told {
    char rules[2000];
};

static void note(void *arg, const char *rule, const char *sentence)
{
    struct told *told = arg;
    size_t used = strlen(told->rules);
    snprintf(told->rules + used, sizeof told->rules - used, "%s ", rule);
}

/* Runs the checker inside the open transaction. */
static void examine(struct kv_txn *txn, struct told *told)
{
    struct check_summary summary;
    told->rules[0] = '\0';
    assert_int_equal(check_tables(txn, note, told, &summary), 0);
    assert_int_equal(summary.violations == 0, told->rules[0] == '\0');
}

/* A cluster with a bit of everything. */
static void furnish(struct world *w)
{
    world_init(w);
    (void)world_node(w, "n1", "r1");
    (void)world_node(w, "n2", "r2");
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, "/", "d", 0755), 0);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, "/d", "e", 0755), 0);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_FILE, "/d", "f", 0644), 0);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_FILE, "/d", "g", 0644), 0);
    assert_int_equal(world_link(w, "/d/f", "/d/e", "f2"), 0);
    assert_int_equal(world_object(w, "/d", "a/b/c", "data"), 0);
    uint64_t handle;
    assert_int_equal(world_open(w, "/d/g", O_RDWR, &handle), 0);
    Tarn__ChunkWrite write = TARN__CHUNK_WRITE__INIT;
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(w, "/d/g", &attr), 0);
    write.ino = attr->ino;
    assert_int_equal(world_apply(w, OP_CHUNK_WRITE, &write.base, &write.ctx), 0);
    Tarn__Lock lock = TARN__LOCK__INIT;
    lock.ino = write.ino;
    lock.type = TARN__LOCK_TYPE__LOCK_EX;
    lock.end = 99;
    assert_int_equal(world_apply(w, OP_LOCK, &lock.base, &lock.ctx), 0);
}

static void sound_tables_pass(void **state)
{
    struct world w;
    furnish(&w);
    world_check(&w);
    assert_int_equal(world_unlink(&w, "/d", "g", false), 0); /* open without a name */
    world_check(&w);
    world_fini(&w);
}

struct keys {
    struct key list[200];
    size_t n;
};

static int collect(void *arg, struct kv_val key, struct kv_val value)
{
    struct keys *keys = arg;
    assert_true(keys->n < 200);
    memcpy(keys->list[keys->n].data, key.data, key.len);
    keys->list[keys->n++].len = (uint16_t)key.len;
    return 0;
}

/* Rows nothing refers to and no counter counts: a user, a role, what only says when. */
static bool may_go(const struct key *key)
{
    return strchr("aYAS", key->data[0]) != NULL;
}

static void each_missing_row_is_noticed(void **state)
{
    struct world w;
    static struct keys keys;
    struct told told;
    struct kv_txn *txn;
    furnish(&w);
    keys.n = 0;
    assert_int_equal(kv_begin(w.kv, false, &txn), 0);
    assert_int_equal(kv_scan(txn, NULL, 0, NULL, 0, collect, &keys), 0);
    kv_abort(txn);
    assert_true(keys.n > 20);
    for (size_t i = 0; i < keys.n; i++) {
        assert_int_equal(kv_begin(w.kv, true, &txn), 0);
        assert_int_equal(kv_del(txn, keys.list[i].data, keys.list[i].len), 0);
        examine(txn, &told);
        kv_abort(txn);
        if (!may_go(&keys.list[i]) && told.rules[0] == '\0')
            fail_msg("a missing row of table '%c' is not noticed", keys.list[i].data[0]);
    }
    world_fini(&w);
}

static void each_undecodable_row_is_noticed(void **state)
{
    struct world w;
    static struct keys keys;
    struct told told;
    struct kv_txn *txn;
    furnish(&w);
    keys.n = 0;
    assert_int_equal(kv_begin(w.kv, false, &txn), 0);
    assert_int_equal(kv_scan(txn, NULL, 0, NULL, 0, collect, &keys), 0);
    kv_abort(txn);
    for (size_t i = 0; i < keys.n; i++) {
        struct kv_val value;
        assert_int_equal(kv_begin(w.kv, true, &txn), 0);
        assert_int_equal(kv_get(txn, keys.list[i].data, keys.list[i].len, &value), 0);
        bool has_content = value.len > 0 && strchr("aXK", keys.list[i].data[0]) == NULL;
        if (has_content) {
            assert_int_equal(kv_put(txn, keys.list[i].data, keys.list[i].len, "\xee", 1), 0);
            examine(txn, &told);
            if (told.rules[0] == '\0')
                fail_msg("an unreadable row of table '%c' is not noticed", keys.list[i].data[0]);
        }
        kv_abort(txn);
    }
    world_fini(&w);
}

static void put_row(struct kv_txn *txn, const struct key *key, const void *value, size_t len)
{
    assert_int_equal(kv_put(txn, key->data, key->len, value, len), 0);
}

static void expect_rule(struct kv_txn *txn, const char *rule)
{
    struct told told;
    examine(txn, &told);
    if (strstr(told.rules, rule) == NULL)
        fail_msg("rule %s is not told, only: %s", rule, told.rules);
    kv_abort(txn);
}

static uint64_t ino_of(struct world *w, const char *path)
{
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(w, path, &attr), 0);
    return attr->ino;
}

static void put_inode(struct kv_txn *txn, uint64_t ino, void (*change)(struct inode *inode))
{
    struct key key = key_1(TABLE_INODE, ino);
    struct kv_val value;
    _cleanup_(inode_fini) struct inode inode = {0};
    _cleanup_(writer_fini) struct writer w = {0};
    assert_int_equal(kv_get(txn, key.data, key.len, &value), 0);
    assert_int_equal(inode_decode(ino, value.data, value.len, &inode), 0);
    change(&inode);
    inode_encode(&inode, &w);
    put_row(txn, &key, w.data, w.len);
}

static void one_link_more(struct inode *inode)
{
    inode->nlink++;
}

static void own_parent(struct inode *inode)
{
    inode->parent = inode->ino;
}

static void more_bytes(struct inode *inode)
{
    inode->allocated += 7;
}

static void damage_has_its_rule(void **state)
{
    struct world w;
    struct kv_txn *txn;
    furnish(&w);
    uint64_t dir = ino_of(&w, "/d"), file = ino_of(&w, "/d/f"), other = ino_of(&w, "/d/g"), below = ino_of(&w, "/d/e");
    assert_int_equal(kv_begin(w.kv, true, &txn), 0);
    put_inode(txn, file, one_link_more);
    expect_rule(txn, "N2");
    assert_int_equal(kv_begin(w.kv, true, &txn), 0);
    put_inode(txn, dir, one_link_more);
    expect_rule(txn, "N2");
    assert_int_equal(kv_begin(w.kv, true, &txn), 0);
    put_inode(txn, below, own_parent);
    expect_rule(txn, "N3");
    assert_int_equal(kv_begin(w.kv, true, &txn), 0);
    put_inode(txn, other, more_bytes);
    expect_rule(txn, "C11");
    struct key wrong = key_2(TABLE_ON_DISK, 7, 1), strange = key_1((enum table)'~', 1);
    assert_int_equal(kv_begin(w.kv, true, &txn), 0);
    put_row(txn, &wrong, "", 0);
    expect_rule(txn, "C9");
    assert_int_equal(kv_begin(w.kv, true, &txn), 0);
    put_row(txn, &strange, "", 0);
    expect_rule(txn, "F3");
    world_fini(&w);
}

static void names_swapped_between_files_of_one_link_are_found(void **state)
{
    struct world w;
    struct kv_txn *txn;
    furnish(&w);
    assert_int_equal(world_make(&w, TARN__FILE_TYPE__FT_FILE, "/d", "h", 0644), 0);
    uint64_t dir = ino_of(&w, "/d"), h = ino_of(&w, "/d/h");
    struct key key = key_named(TABLE_ENTRY, dir, "g", 1);
    _cleanup_(writer_fini) struct writer row = {0};
    entry_encode(&(struct entry){.ino = h, .type = TARN__FILE_TYPE__FT_FILE}, &row);
    assert_int_equal(kv_begin(w.kv, true, &txn), 0);
    put_row(txn, &key, row.data, row.len);
    expect_rule(txn, "N2");
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_tables_pass),
        cmocka_unit_test(each_missing_row_is_noticed),
        cmocka_unit_test(each_undecodable_row_is_noticed),
        cmocka_unit_test(damage_has_its_rule),
        cmocka_unit_test(names_swapped_between_files_of_one_link_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
