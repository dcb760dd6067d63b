/* Random commands: the tree against a simple model, and one replica's tables against another's. */
#include <stdio.h>

#include "common/prng.h"
#include "tree_check.h"

#define NAMES 5
#define NODES 4000
#define STEPS 20000

/* Index 0 is the root; index 1 its entry /jobs is left out: names are a … e. */
struct model {
    struct {
        bool dir, live;
        int parent;       /* directories */
        int nlink;        /* files */
        int child[NAMES]; /* -1 = none */
    } node[NODES];
    int count;
    uint64_t other_files; /* outside the model's names */
};

static int model_new(struct model *m, bool dir, int parent)
{
    int i = m->count++;
    m->node[i].dir = dir;
    m->node[i].live = true;
    m->node[i].parent = parent;
    m->node[i].nlink = 1;
    for (int n = 0; n < NAMES; n++)
        m->node[i].child[n] = -1;
    return i;
}

static bool model_empty(const struct model *m, int dir)
{
    for (int n = 0; n < NAMES; n++)
        if (m->node[dir].child[n] >= 0)
            return false;
    return true;
}

static void model_unref(struct model *m, int i)
{
    if (m->node[i].dir || --m->node[i].nlink == 0)
        m->node[i].live = false;
}

static int model_make(struct model *m, int dir, int name, bool is_dir)
{
    if (m->node[dir].child[name] >= 0)
        return -E_EXIST;
    m->node[dir].child[name] = model_new(m, is_dir, dir);
    return 0;
}

static int model_unlink(struct model *m, int dir, int name, bool is_dir)
{
    int i = m->node[dir].child[name];
    if (i < 0)
        return -E_NOENT;
    if (m->node[i].dir != is_dir)
        return is_dir ? -E_NOTDIR : -E_ISDIR;
    if (is_dir && !model_empty(m, i))
        return -E_NOTEMPTY;
    m->node[dir].child[name] = -1;
    model_unref(m, i);
    return 0;
}

static bool model_below(const struct model *m, int dir, int above)
{
    for (; dir != 0; dir = m->node[dir].parent)
        if (dir == above)
            return true;
    return above == 0;
}

static int model_rename(struct model *m, int from, int a, int to, int b, uint32_t flags)
{
    int source = m->node[from].child[a], target = m->node[to].child[b];
    if (source < 0)
        return -E_NOENT;
    if (flags == 2 && target < 0)
        return -E_NOENT;
    if (flags == 1 && target >= 0)
        return -E_EXIST;
    if (m->node[source].dir && model_below(m, to, source))
        return -E_INVAL;
    if (flags == 2 && m->node[target].dir && model_below(m, from, target))
        return -E_INVAL;
    if (source == target)
        return 0;
    if (flags != 2 && target >= 0) {
        if (m->node[source].dir && !m->node[target].dir)
            return -E_NOTDIR;
        if (!m->node[source].dir && m->node[target].dir)
            return -E_ISDIR;
        if (m->node[target].dir && !model_empty(m, target))
            return -E_NOTEMPTY;
        model_unref(m, target);
    }
    m->node[from].child[a] = flags == 2 ? target : -1;
    m->node[to].child[b] = source;
    if (m->node[source].dir)
        m->node[source].parent = to;
    if (flags == 2 && m->node[target].dir)
        m->node[target].parent = from;
    return 0;
}

static int model_link(struct model *m, int source_dir, int a, int to, int b)
{
    int source = m->node[source_dir].child[a];
    if (source < 0)
        return -E_NOENT;
    if (m->node[to].child[b] >= 0)
        return -E_EXIST;
    if (m->node[source].dir)
        return -E_PERM;
    m->node[source].nlink++;
    m->node[to].child[b] = source;
    return 0;
}

static void path_of(const struct model *m, int dir, char *out, size_t size)
{
    char tail[4096] = "";
    for (; dir != 0; dir = m->node[dir].parent) {
        int up = m->node[dir].parent, name = 0;
        while (m->node[up].child[name] != dir)
            name++;
        char longer[4096];
        assert_in_range(snprintf(longer, sizeof longer, "/%c%s", 'a' + name, tail), 1,
                        sizeof longer - 1);
        memcpy(tail, longer, sizeof tail);
    }
    assert_in_range(snprintf(out, size, "%s/", tail), 1, size - 1);
}

static int any_dir(const struct model *m, struct prng *prng)
{
    for (;;) {
        int i = (int)prng_below(prng, (uint64_t)m->count);
        if (m->node[i].live && m->node[i].dir)
            return i;
    }
}

static void step(struct world *w, struct model *m, struct prng *prng)
{
    char from[4096], to[4096], target[4100];
    int x = any_dir(m, prng), y = any_dir(m, prng), a = (int)prng_below(prng, NAMES),
        b = (int)prng_below(prng, NAMES);
    char an[] = {(char)('a' + a), 0}, bn[] = {(char)('a' + b), 0};
    uint32_t flags = (uint32_t)prng_below(prng, 3);
    bool dir = prng_below(prng, 2) == 0;
    path_of(m, x, from, sizeof from);
    path_of(m, y, to, sizeof to);
    switch (prng_below(prng, 5)) {
    case 0:
    case 1:
        if (m->count == NODES)
            return;
        assert_int_equal(
            world_make(w, dir ? TARN__FILE_TYPE__FT_DIR : TARN__FILE_TYPE__FT_FILE, from, an, 0755),
            model_make(m, x, a, dir));
        return;
    case 2:
        assert_int_equal(world_unlink(w, from, an, dir), model_unlink(m, x, a, dir));
        return;
    case 3:
        assert_int_equal(world_rename(w, from, an, to, bn, flags),
                         model_rename(m, x, a, y, b, flags));
        return;
    default:
        assert_in_range(snprintf(target, sizeof target, "%s%s", from, an), 1, sizeof target - 1);
        assert_int_equal(world_link(w, target, to, bn), model_link(m, x, a, y, b));
    }
}

static void compare(struct world *w, const struct model *m)
{
    char path[4100];
    uint64_t files = m->other_files;
    for (int i = 0; i < m->count; i++) {
        if (!m->node[i].live)
            continue;
        files += !m->node[i].dir;
        if (!m->node[i].dir)
            continue;
        path_of(m, i, path, sizeof path - 2);
        size_t n = strlen(path);
        int dirs = i == 0 ? 3 : 2; /* the root has /jobs, too */
        for (int name = 0; name < NAMES; name++) {
            Tarn__Attr *attr;
            int child = m->node[i].child[name];
            path[n] = (char)('a' + name);
            path[n + 1] = 0;
            assert_int_equal(world_lookup(w, path, &attr), child < 0 ? -E_NOENT : 0);
            if (child >= 0 && !m->node[child].dir)
                assert_int_equal(attr->nlink, m->node[child].nlink);
            dirs += child >= 0 && m->node[child].dir;
        }
        path[n] = 0;
        Tarn__Attr *attr;
        assert_int_equal(world_lookup(w, path, &attr), 0);
        assert_int_equal(attr->nlink, dirs);
    }
    assert_int_equal(world_status(w)->files, files);
}

static void model_init(struct model *m)
{
    m->count = 0;
    m->other_files = 0;
    (void)model_new(m, true, 0);
}

static uint32_t run(uint64_t seed, unsigned steps)
{
    static struct model m;
    struct world w;
    struct prng prng = prng_init(seed);
    model_init(&m);
    world_init(&w);
    for (unsigned i = 0; i < steps; i++) {
        step(&w, &m, &prng);
        if (i % 512 == 0)
            tree_check(&w, false);
    }
    compare(&w, &m);
    tree_check(&w, false);
    uint32_t dump = world_dump(&w);
    world_fini(&w);
    return dump;
}

static void the_tree_does_what_the_model_does(void **state)
{
    for (uint64_t seed = 1; seed <= 3; seed++)
        (void)run(seed, STEPS / 3);
}

static void the_same_commands_give_the_same_tables(void **state)
{
    assert_int_equal(run(9, 2000), run(9, 2000));
    assert_int_not_equal(run(9, 2000), run(10, 2000));
}

/* Names that make the walk over old tables take some steps. */
static void many_names(struct world *w, struct model *m, const char *dir)
{
    char path[32], name[16];
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, "/jobs", dir, 0755), 0);
    assert_in_range(snprintf(path, sizeof path, "/jobs/%s", dir), 1, sizeof path - 1);
    for (unsigned i = 0; i < 1000; i++) {
        assert_in_range(snprintf(name, sizeof name, "%u", i), 1, sizeof name - 1);
        assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_FILE, path, name, 0644), 0);
    }
    m->other_files += 1000;
}

static void tables_of_version_1_are_completed_while_the_tree_changes(void **state)
{
    static struct model m;
    for (uint64_t seed = 20; seed < 24; seed++) {
        struct world w;
        struct prng prng = prng_init(seed);
        model_init(&m);
        world_init(&w);
        for (unsigned i = 0; i < 1200; i++) {
            step(&w, &m, &prng);
            if (i % 300 == 0)
                many_names(&w, &m, (char[]){(char)('p' + i / 300), 0});
        }
        tree_downgrade(&w);
        tree_check(&w, true);
        bool more = true;
        unsigned rounds = 0;
        for (; more; rounds++) {
            more = world_work(&w);
            for (unsigned i = 0; i < 100; i++)
                step(&w, &m, &prng);
            tree_check(&w, more);
        }
        assert_true(rounds > 6);
        compare(&w, &m);
        world_fini(&w);
    }
}

/* Any bytes under any number: an answer, and after a refusal the tables are as before. */
static void nonsense_changes_nothing(void **state)
{
    struct world w;
    struct prng prng = prng_init(4);
    world_init(&w);
    for (unsigned i = 0; i < 20000; i++) {
        uint8_t body[64];
        struct fsm_command command = {.index = ++w.index,
                                      .op = (unsigned)prng_below(&prng, 90),
                                      .real_ns = i,
                                      .seed = i,
                                      .body = body,
                                      .body_len = prng_below(&prng, sizeof body)};
        for (size_t j = 0; j < command.body_len; j++)
            body[j] = (uint8_t)prng_below(&prng, prng_below(&prng, 2) ? 256 : 20);
        struct kv_txn *txn;
        struct fsm_result result = {0};
        assert_int_equal(kv_begin(w.kv, true, &txn), 0);
        assert_int_equal(fsm_apply(txn, &command, &result), 0);
        fsm_result_fini(&result);
        assert_int_equal(fsm_query(txn, command.op, command.body, command.body_len, &result), 0);
        fsm_result_fini(&result);
        assert_int_equal(kv_commit(txn), 0);
    }
    world_fini(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_tree_does_what_the_model_does),
                                       cmocka_unit_test(the_same_commands_give_the_same_tables),
                                       cmocka_unit_test(
                                           tables_of_version_1_are_completed_while_the_tree_changes),
                                       cmocka_unit_test(nonsense_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
