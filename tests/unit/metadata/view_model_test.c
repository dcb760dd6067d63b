/* Random changes, snapshots, clones and removals of both. Each area /aN of the tree has a shadow /sN
 * that was never cloned: every change is made to both and must give the same answer, and the two must
 * look the same. Each snapshot must always look as its directory looked when it was taken. At the end
 * everything is removed, and nothing may be left in the tables. */
#include <stdio.h>

#include "common/prng.h"
#include "view_world.h"

#define AREAS 5
#define FROZEN 6
#define STEPS 1500
#define NODES 2

struct frozen {
    bool live;
    int area;
    char name[16], *text, copy[16]; /* copy: its shadow, below /f */
};

struct run {
    struct world w;
    struct prng prng;
    uint32_t nodes[NODES];
    bool area[AREAS];
    struct frozen frozen[FROZEN];
    int snapshots, areas_made;
    struct {
        uint64_t handle, shadow_handle, ino, shadow_ino;
    } open[4];
};

static uint64_t below(struct run *r, uint64_t n)
{
    return prng_below(&r->prng, n);
}

static int any_area(struct run *r)
{
    for (;;) {
        int i = (int)below(r, AREAS);
        if (r->area[i])
            return i;
    }
}

struct place {
    char dir[2][64], name[4], path[2][80]; /* of the area and of its shadow */
};

static struct place any_place(struct run *r)
{
    struct place p;
    char inside[16] = "";
    int area = any_area(r), depth = (int)below(r, 3);
    for (int i = 0; i < depth; i++) {
        inside[2 * i] = '/';
        inside[2 * i + 1] = (char)('a' + below(r, 3));
        inside[2 * i + 2] = 0;
    }
    snprintf(p.name, sizeof p.name, "%c", (char)('a' + below(r, 3)));
    for (int i = 0; i < 2; i++) {
        snprintf(p.dir[i], sizeof p.dir[i], "/%c%d%s", i == 0 ? 'a' : 's', area, inside);
        snprintf(p.path[i], sizeof p.path[i], "%s/%s", p.dir[i], p.name);
    }
    return p;
}

static uint64_t seed_first = 1, seed_last = 12;

#define BOTH(call_area, call_shadow)                                                               \
    do {                                                                                           \
        int got = (call_area), expected = (call_shadow);                                           \
        assert_int_equal(got, expected);                                                           \
    } while (0)

static void write_slot(struct run *r, int i)
{
    uint64_t chunk, slot = below(r, 3), bytes = 1 + below(r, 100);
    int err = tree_write(&r->w, r->open[i].ino, slot, bytes, &chunk);
    if (err == 0) { /* K5: what a snapshot shows is never written to */
        char at[32];
        snprintf(at, sizeof at, "@%llu ", (unsigned long long)chunk);
        for (int f = 0; f < FROZEN; f++)
            if (r->frozen[f].live)
                assert_null(strstr(r->frozen[f].text, at));
    }
    assert_int_equal(err, tree_write(&r->w, r->open[i].shadow_ino, slot, bytes, &chunk));
}

static void close_one(struct run *r, int i)
{
    if (r->open[i].handle == 0)
        return;
    assert_int_equal(world_close(&r->w, r->open[i].handle), 0);
    assert_int_equal(world_close(&r->w, r->open[i].shadow_handle), 0);
    r->open[i].handle = 0;
}

static void open_and_write(struct run *r, const struct place *p)
{
    int i = (int)below(r, ARRAY_SIZE(r->open));
    if (r->open[i].handle == 0) {
        uint64_t handle = 0, other = 0, ino = 0, other_ino = 0;
        BOTH(tree_open(&r->w, p->path[0], &handle, &ino),
             tree_open(&r->w, p->path[1], &other, &other_ino));
        r->open[i].handle = handle;
        r->open[i].shadow_handle = other;
        r->open[i].ino = ino;
        r->open[i].shadow_ino = other_ino;
    }
    if (r->open[i].handle != 0)
        write_slot(r, i);
    if (below(r, 2) == 0)
        close_one(r, i);
}

static void change(struct run *r)
{
    struct world *w = &r->w;
    struct place p = any_place(r), q = any_place(r);
    char data[16];
    uint32_t flags = (uint32_t)below(r, 3);
    snprintf(data, sizeof data, "%u", (unsigned)below(r, 100000));
    switch (below(r, 12)) {
    case 0:
    case 1:
        BOTH(world_make(w, TARN__FILE_TYPE__FT_DIR, p.dir[0], p.name, 0700 + flags),
             world_make(w, TARN__FILE_TYPE__FT_DIR, p.dir[1], p.name, 0700 + flags));
        return;
    case 2:
    case 3:
        BOTH(tree_put(w, p.dir[0], p.name, data), tree_put(w, p.dir[1], p.name, data));
        return;
    case 4:
        BOTH(world_unlink(w, p.dir[0], p.name, flags == 0),
             world_unlink(w, p.dir[1], p.name, flags == 0));
        return;
    case 5:
    case 6:
        BOTH(world_rename(w, p.dir[0], p.name, q.dir[0], q.name, flags),
             world_rename(w, p.dir[1], p.name, q.dir[1], q.name, flags));
        return;
    case 7:
        BOTH(world_link(w, p.path[0], q.dir[0], q.name), world_link(w, p.path[1], q.dir[1], q.name));
        return;
    case 8:
        BOTH(tree_xattr(w, p.path[0], flags == 0 ? NULL : data),
             tree_xattr(w, p.path[1], flags == 0 ? NULL : data));
        return;
    case 9:
        BOTH(tree_truncate(w, p.path[0], flags * SLOT / 2), tree_truncate(w, p.path[1], flags * SLOT / 2));
        return;
    default:
        open_and_write(r, &p);
    }
}

static void take(struct run *r)
{
    int f = (int)below(r, FROZEN), area = any_area(r);
    struct frozen *frozen = &r->frozen[f];
    char dir[16], shadow[16];
    if (frozen->live)
        return;
    *frozen = (struct frozen){.live = true, .area = area};
    snprintf(frozen->name, sizeof frozen->name, "n%d", r->snapshots);
    snprintf(frozen->copy, sizeof frozen->copy, "c%d", r->snapshots++);
    snprintf(dir, sizeof dir, "/a%d", area);
    snprintf(shadow, sizeof shadow, "/s%d", area);
    frozen->text = tree_text(&r->w, dir, true);
    tree_copy(&r->w, shadow, "/f", frozen->copy);
    assert_int_equal(tree_take(&r->w, dir, frozen->name), 0);
}

static void drop(struct run *r)
{
    struct frozen *frozen = &r->frozen[below(r, FROZEN)];
    char dir[32];
    if (!frozen->live)
        return;
    snprintf(dir, sizeof dir, "/a%d", frozen->area);
    assert_int_equal(tree_drop(&r->w, dir, frozen->name), 0);
    snprintf(dir, sizeof dir, "/f/%s", frozen->copy);
    tree_remove_below(&r->w, dir);
    assert_int_equal(world_unlink(&r->w, "/f", frozen->copy, true), 0);
    free(frozen->text);
    frozen->live = false;
}

static void make_clone(struct run *r)
{
    const struct frozen *frozen = &r->frozen[below(r, FROZEN)];
    int area = (int)below(r, AREAS);
    char dir[32], name[16], shadow[16];
    if (!frozen->live || r->area[area])
        return;
    snprintf(dir, sizeof dir, "/a%d", frozen->area);
    snprintf(name, sizeof name, "a%d", area);
    snprintf(shadow, sizeof shadow, "s%d", area);
    assert_int_equal(tree_clone(&r->w, dir, frozen->name, "/", name), 0);
    snprintf(dir, sizeof dir, "/f/%s", frozen->copy);
    tree_copy(&r->w, dir, "/", shadow);
    r->area[area] = true;
}

static void remove_area(struct run *r, int area)
{
    char dir[16];
    if (!r->area[area])
        return;
    for (int i = 0; i < FROZEN; i++)
        if (r->frozen[i].live && r->frozen[i].area == area)
            return;
    for (int i = 0; i < 2; i++) {
        snprintf(dir, sizeof dir, "/%c%d", i == 0 ? 'a' : 's', area);
        tree_remove_below(&r->w, dir);
        assert_int_equal(world_unlink(&r->w, "/", dir + 1, true), 0);
    }
    r->area[area] = false;
}

static void expect_same(char *a, char *b)
{
    assert_string_equal(a, b);
    free(a);
    free(b);
}

static void compare(struct run *r)
{
    char dir[64], shadow[64];
    for (int i = 0; i < AREAS; i++) {
        snprintf(dir, sizeof dir, "/a%d", i);
        snprintf(shadow, sizeof shadow, "/s%d", i);
        if (r->area[i])
            expect_same(tree_text(&r->w, dir, false), tree_text(&r->w, shadow, false));
    }
    for (int i = 0; i < FROZEN; i++) {
        const struct frozen *frozen = &r->frozen[i];
        snprintf(dir, sizeof dir, "/a%d/.snapshot/%s", frozen->area, frozen->name);
        if (frozen->live)
            expect_same(tree_text(&r->w, dir, true), strdup(frozen->text));
    }
    world_check(&r->w);
}

static void finish(struct run *r)
{
    for (size_t i = 0; i < ARRAY_SIZE(r->open); i++)
        close_one(r, (int)i);
    for (int i = 0; i < 1000; i++)
        drop(r);
    for (int i = 0; i < AREAS; i++)
        if (r->area[i])
            remove_area(r, i);
    tree_settle(&r->w, r->nodes, NODES);
    static const enum table tables[] = {TABLE_HISTORY, TABLE_HISTORY_OF, TABLE_COVER,
                                        TABLE_SNAPSHOT, TABLE_CHUNK,     TABLE_EXTENT,
                                        TABLE_XATTR,    TABLE_LINK};
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
        if (tree_rows(&r->w, tables[i]) != 0)
            fail_msg("%llu rows are left in table %c",
                     (unsigned long long)tree_rows(&r->w, tables[i]), tables[i]);
    assert_int_equal(tree_rows(&r->w, TABLE_INODE), 3); /* root, /jobs, /f */
    assert_int_equal(tree_rows(&r->w, TABLE_ENTRY), 2);
}

static void one_run(uint64_t seed)
{
    print_message("seed %llu\n", (unsigned long long)seed);
    struct run r = {.prng = prng_init(seed)};
    world_init(&r.w);
    for (int i = 0; i < NODES; i++)
        r.nodes[i] = world_node(&r.w, i == 0 ? "one" : "two", "rack");
    assert_int_equal(world_make(&r.w, TARN__FILE_TYPE__FT_DIR, "/", "a0", 0755), 0);
    assert_int_equal(world_make(&r.w, TARN__FILE_TYPE__FT_DIR, "/", "s0", 0755), 0);
    assert_int_equal(world_make(&r.w, TARN__FILE_TYPE__FT_DIR, "/", "f", 0755), 0);
    r.area[0] = true;
    for (int i = 0; i < STEPS; i++) {
        uint64_t what = below(&r, 100);
        if (what < 3)
            take(&r);
        else if (what < 5)
            drop(&r);
        else if (what < 8)
            make_clone(&r);
        else if (what < 9 && i > 100)
            remove_area(&r, 1 + (int)below(&r, AREAS - 1));
        else if (what < 15)
            (void)world_work(&r.w);
        else
            change(&r);
        if (i % 25 == 0)
            compare(&r);
    }
    compare(&r);
    finish(&r);
    world_fini(&r.w);
}

static void a_snapshot_stays_and_a_clone_is_a_tree_like_any_other(void **state)
{
    for (uint64_t seed = seed_first; seed <= seed_last; seed++)
        one_run(seed);
}

int main(int argc, char **argv)
{
    if (argc == 3) { /* first and last seed, for longer runs */
        seed_first = strtoull(argv[1], NULL, 10);
        seed_last = strtoull(argv[2], NULL, 10);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_snapshot_stays_and_a_clone_is_a_tree_like_any_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
