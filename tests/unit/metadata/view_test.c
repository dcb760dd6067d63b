/* Snapshots and clones: names, rights, cost, what happens at the edges. */
#include <stdio.h>

#include "metadata/kv.h"
#include "view_world.h"

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    world_init(w);
    world_node(w, "one", "rack");
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, "/", "d", 0755), 0);
    assert_int_equal(tree_put(w, "/d", "f", "old"), 0);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    world_fini(w);
    free(w);
    return 0;
}

static void a_snapshot_shows_what_was_and_nothing_changes_it(void **state)
{
    struct world *w = *state;
    assert_int_equal(tree_take(w, "/d", "s"), 0);
    assert_int_equal(tree_put(w, "/d", "f", "new"), 0);
    char *text = tree_text(w, "/d/.snapshot/s", false);
    assert_string_equal(text, "/f 1 644 3 'old'\n");
    free(text);
    assert_int_equal(tree_put(w, "/d/.snapshot/s", "f", "x"), -E_ROFS);
    assert_int_equal(world_unlink(w, "/d/.snapshot/s", "f", false), -E_ROFS);
    assert_int_equal(world_rename(w, "/d/.snapshot/s", "f", "/d", "g", 0), -E_ROFS);
    assert_int_equal(world_link(w, "/d/.snapshot/s/f", "/d", "g"), -E_ROFS);
    assert_int_equal(tree_xattr(w, "/d/.snapshot/s/f", "v"), -E_ROFS);
    uint64_t handle, ino;
    assert_int_equal(tree_open(w, "/d/.snapshot/s/f", &handle, &ino), -E_ROFS);
}

static void the_directory_of_snapshots_is_everywhere_and_in_no_list(void **state)
{
    struct world *w = *state;
    Tarn__Attr *attr;
    assert_int_equal(world_lookup(w, "/d/.snapshot", &attr), 0);
    assert_int_equal(attr->type, TARN__FILE_TYPE__FT_DIR);
    char *text = tree_text(w, "/d", false);
    assert_string_equal(text, "/f 1 644 3 'old'\n");
    free(text);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, "/d", ".snapshot", 0755), -E_EXIST);
    assert_int_equal(tree_take(w, "/d", "s"), 0);
    assert_int_equal(tree_take(w, "/d", "s"), -E_EXIST);
    assert_int_equal(world_lookup(w, "/d/.snapshot/s/..", &attr), 0);
    assert_int_equal(world_lookup(w, "/d/.snapshot/s/../../f", &attr), 0);
    assert_int_equal(world_lookup(w, "/d/.snapshot/s/.snapshot", &attr), -E_NOENT);
    assert_int_equal(tree_take(w, "/d/.snapshot/s", "t"), -E_ROFS);
}

static void only_the_owner_takes_and_removes(void **state)
{
    struct world *w = *state;
    w->uid = 1000;
    assert_int_equal(tree_take(w, "/d", "s"), -E_PERM);
    w->uid = 0;
    assert_int_equal(tree_take(w, "/d", "s"), 0);
    w->uid = 1000;
    assert_int_equal(tree_drop(w, "/d", "s"), -E_PERM);
    assert_int_equal(tree_clone(w, "/d", "s", "/", "c"), -E_PERM);
    w->uid = 0;
    assert_int_equal(tree_drop(w, "/d", "s"), 0);
    assert_int_equal(tree_drop(w, "/d", "s"), -E_NOENT);
}

static void who_knows_the_number_of_a_removed_snapshot_is_told(void **state)
{
    struct world *w = *state;
    Tarn__Attr *attr;
    assert_int_equal(tree_take(w, "/d", "s"), 0);
    assert_int_equal(world_lookup(w, "/d/.snapshot/s/f", &attr), 0);
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = attr->ino;
    Tarn__Lookup m = TARN__LOOKUP__INIT;
    m.where = &where;
    assert_int_equal(world_query(w, OP_LOOKUP, &m.base, &m.ctx), 0);
    assert_int_equal(tree_drop(w, "/d", "s"), 0);
    assert_int_equal(world_query(w, OP_LOOKUP, &m.base, &m.ctx), -E_STALE);
}

static uint64_t all_rows(struct world *w)
{
    uint64_t rows = 0;
    for (unsigned letter = 1; letter < 256; letter++)
        rows += letter == TABLE_KEPT ? 0 : tree_rows(w, (enum table)letter);
    return rows;
}

/* Rows that taking and cloning add, with `files` in the directory. */
static void cost(struct world *w, unsigned files, const char *name, uint64_t *take, uint64_t *clone)
{
    char file[16];
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, "/", name, 0755), 0);
    char dir[16];
    snprintf(dir, sizeof dir, "/%s", name);
    for (unsigned i = 0; i < files; i++) {
        snprintf(file, sizeof file, "%u", i);
        assert_int_equal(tree_put(w, dir, file, "x"), 0);
    }
    uint64_t before = all_rows(w);
    assert_int_equal(tree_take(w, dir, "s"), 0);
    *take = all_rows(w) - before;
    before = all_rows(w);
    snprintf(file, sizeof file, "%s.clone", name);
    assert_int_equal(tree_clone(w, dir, "s", "/", file), 0);
    *clone = all_rows(w) - before;
}

static void taking_and_cloning_cost_the_same_whatever_is_below(void **state)
{
    uint64_t take[2], clone[2];
    cost(*state, 10, "few", &take[0], &clone[0]);
    cost(*state, 10000, "many", &take[1], &clone[1]);
    assert_int_equal(take[0], 4);
    assert_int_equal(take[1], 4);
    assert_int_equal(clone[0], clone[1]);
    assert_true(clone[0] <= 6);
}

static void an_open_file_is_sealed_and_its_tail_is_kept(void **state)
{
    struct world *w = *state;
    uint64_t handle, ino, first, second;
    assert_int_equal(tree_open(w, "/d/f", &handle, &ino), 0);
    assert_int_equal(tree_write(w, ino, 0, 50, &first), 0);
    assert_int_equal(tree_take(w, "/d", "s"), 0);
    Tarn__SnapshotReply *reply = world_reply(w, &tarn__snapshot_reply__descriptor);
    assert_false(reply->settled);
    assert_int_equal(tree_write(w, ino, 0, 60, &second), 0);
    assert_int_not_equal(first, second); /* K5 */
    assert_int_equal(world_close(w, handle), 0);
    char expected[64], *text = tree_text(w, "/d/.snapshot/s", true);
    snprintf(expected, sizeof expected, "/f 1 644 50 n1 '' 0+50@%llu\n", (unsigned long long)first);
    assert_string_equal(text, expected);
    free(text);
}

static void a_clone_of_a_clone_and_a_clone_inside_one(void **state)
{
    struct world *w = *state;
    assert_int_equal(tree_take(w, "/d", "s"), 0);
    assert_int_equal(tree_clone(w, "/d", "s", "/d", "inner"), 0); /* inside of what it shows */
    assert_int_equal(tree_put(w, "/d/inner", "g", "mine"), 0);
    assert_int_equal(tree_take(w, "/d", "t"), 0);
    assert_int_equal(tree_clone(w, "/d", "t", "/", "outer"), 0);
    assert_int_equal(tree_put(w, "/outer/inner", "f", "changed"), 0);
    char *a = tree_text(w, "/outer", false), *b = tree_text(w, "/d", false);
    assert_string_equal(a, "/f 1 644 3 'old'\n/inner 2 755 0 n2\n/inner/f 1 644 7 'changed'\n"
                           "/inner/g 1 644 4 'mine'\n");
    assert_non_null(strstr(b, "/inner/f 1 644 3 'old'"));
    free(a);
    free(b);
    assert_int_equal(tree_drop(w, "/d", "s"), 0);
    assert_int_equal(tree_drop(w, "/d", "t"), 0);
    tree_remove_below(w, "/d");
    assert_int_equal(world_unlink(w, "/", "d", true), 0);
    b = tree_text(w, "/outer/inner", false);
    assert_string_equal(b, "/f 1 644 7 'changed'\n/g 1 644 4 'mine'\n");
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
        TEST(a_snapshot_shows_what_was_and_nothing_changes_it),
        TEST(the_directory_of_snapshots_is_everywhere_and_in_no_list),
        TEST(only_the_owner_takes_and_removes),
        TEST(who_knows_the_number_of_a_removed_snapshot_is_told),
        TEST(taking_and_cloning_cost_the_same_whatever_is_below),
        TEST(an_open_file_is_sealed_and_its_tail_is_kept),
        TEST(a_clone_of_a_clone_and_a_clone_inside_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
