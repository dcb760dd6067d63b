/* Access control lists: bytes, validity, the access check, inheritance. Rules: acl(5), acl_valid(3). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/err.h"
#include "common/prng.h"
#include "metadata/acl.h"

#define E(...)                                                                                     \
    (const struct acl_entry[])                                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }
#define NONE UINT32_MAX
#define DECODE(ret, ...) decode(ret, E(__VA_ARGS__), sizeof E(__VA_ARGS__) / sizeof(struct acl_entry))

static int decode(struct acl *ret, const struct acl_entry *entries, size_t n)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct acl given = {.count = n, .entries = (struct acl_entry *)entries};
    acl_encode(&given, &w);
    acl_fini(ret);
    return acl_decode(w.data, w.len, ret);
}

static void bytes_are_the_kernels(void **state)
{
    static const uint8_t bytes[] = {
        2, 0, 0, 0,                             /* version */
        1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,     /* user::rw- */
        2, 0, 4, 0, 0xe8, 0x03, 0,    0,        /* user:1000:r-- */
        4, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,     /* group::r-- */
        16, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,    /* mask::r-- */
        32, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};   /* other::--- */
    struct acl acl = {0};
    _cleanup_(writer_fini) struct writer w = {0};
    assert_int_equal(acl_decode(bytes, sizeof bytes, &acl), 0);
    assert_int_equal(acl.count, 5);
    assert_int_equal(acl.entries[1].id, 1000);
    acl_encode(&acl, &w);
    assert_int_equal(w.len, sizeof bytes);
    assert_memory_equal(w.data, bytes, w.len);
    acl_fini(&acl);
    for (size_t n = 0; n < sizeof bytes; n++) { /* only the bare header is whole */
        struct acl part = {0};
        assert_int_equal(acl_decode(bytes, n, &part), n == 4 ? 0 : -E_INVAL);
        acl_fini(&part);
    }
    uint8_t other[4] = {3, 0, 0, 0};
    assert_int_equal(acl_decode(other, sizeof other, &acl), -E_NOTSUP);
}

static void what_acl_valid_refuses_is_refused(void **state)
{
    struct acl a = {0};
    const struct acl_entry u = {ACL_USER_OBJ, 7, NONE}, g = {ACL_GROUP_OBJ, 5, NONE},
                           o = {ACL_OTHER, 0, NONE}, m = {ACL_MASK, 7, NONE}, n = {ACL_USER, 4, 7},
                           n8 = {ACL_USER, 4, 8}, q = {ACL_GROUP, 4, 7};
    assert_int_equal(DECODE(&a, u, g, o), 0);
    assert_int_equal(DECODE(&a, u, g, m, o), 0);
    assert_int_equal(DECODE(&a, u, n, n8, g, q, m, o), 0);
    assert_int_equal(DECODE(&a, u, n8, n, g, m, o), 0); /* the order among names is free */
    acl_fini(&a);
    assert_int_equal(DECODE(&a, u, g), -E_INVAL);
    assert_int_equal(DECODE(&a, g, u, o), -E_INVAL);
    assert_int_equal(DECODE(&a, u, u, g, o), -E_INVAL);
    assert_int_equal(DECODE(&a, u, n, g, o), -E_INVAL); /* names need a mask */
    assert_int_equal(DECODE(&a, u, n, n, g, m, o), -E_INVAL);
    assert_int_equal(DECODE(&a, u, g, q, q, m, o), -E_INVAL);
    assert_int_equal(DECODE(&a, u, g, m, m, o), -E_INVAL);
    assert_int_equal(DECODE(&a, u, g, m, o, {64, 1, NONE}), -E_INVAL);
    assert_int_equal(DECODE(&a, u, g, {ACL_OTHER, 8, NONE}), -E_INVAL);
    assert_int_equal(DECODE(&a, u, {ACL_USER, 4, NONE}, g, m, o), -E_INVAL);
}

static void the_first_class_that_fits_decides(void **state)
{
    struct acl a = {0};
    assert_int_equal(DECODE(&a, {ACL_USER_OBJ, 4, NONE}, {ACL_USER, 7, 7}, {ACL_GROUP_OBJ, 4, NONE},
                            {ACL_GROUP, 2, 70}, {ACL_GROUP, 6, 80}, {ACL_MASK, 6, NONE},
                            {ACL_OTHER, 1, NONE}),
                     0);
    const uint32_t groups[] = {70, 80};
    struct acl_who owner = {.uid = 1, .gid = 9}, named = {.uid = 7, .gid = 9},
                   in_group = {.uid = 2, .gid = 5}, both = {.uid = 2, .gid = 9, .groups = groups,
                                                            .n_groups = 2},
                   one = {.uid = 2, .gid = 70}, stranger = {.uid = 2, .gid = 9};
    assert_int_equal(acl_check(&a, 1, 5, &owner, 4), 0);
    assert_int_equal(acl_check(&a, 1, 5, &owner, 2), -E_ACCES);
    assert_int_equal(acl_check(&a, 1, 5, &named, 6), 0);
    assert_int_equal(acl_check(&a, 1, 5, &named, 1), -E_ACCES); /* the mask takes x */
    assert_int_equal(acl_check(&a, 1, 5, &in_group, 4), 0);
    assert_int_equal(acl_check(&a, 1, 5, &in_group, 1), -E_ACCES); /* not the others' x */
    assert_int_equal(acl_check(&a, 1, 5, &both, 6), 0);
    assert_int_equal(acl_check(&a, 1, 5, &one, 2), 0);
    assert_int_equal(acl_check(&a, 1, 5, &one, 6), -E_ACCES); /* r and w from two entries do not add */
    assert_int_equal(acl_check(&a, 1, 70, &one, 6), -E_ACCES);
    assert_int_equal(acl_check(&a, 1, 5, &stranger, 1), 0);
    assert_int_equal(acl_check(&a, 1, 5, &stranger, 4), -E_ACCES);
    acl_fini(&a);
}

static void mode_and_list_say_the_same(void **state)
{
    struct acl a = {0};
    bool minimal;
    assert_int_equal(DECODE(&a, {ACL_USER_OBJ, 6, NONE}, {ACL_GROUP_OBJ, 4, NONE}, {ACL_OTHER, 1, NONE}),
                     0);
    assert_int_equal(acl_mode(&a, 04000, &minimal), 04641);
    assert_true(minimal);
    assert_int_equal(DECODE(&a, {ACL_USER_OBJ, 6, NONE}, {ACL_GROUP_OBJ, 4, NONE}, {ACL_MASK, 7, NONE},
                            {ACL_OTHER, 1, NONE}),
                     0);
    assert_int_equal(acl_mode(&a, 0, &minimal), 0671); /* with a mask the group bits are the mask's */
    assert_false(minimal);
    acl_set_mode(&a, 0510);
    assert_int_equal(a.entries[0].perm, 5);
    assert_int_equal(a.entries[1].perm, 4); /* the group's own stay */
    assert_int_equal(a.entries[2].perm, 1);
    assert_int_equal(a.entries[3].perm, 0);
    acl_fini(&a);
}

static void a_new_inode_gets_what_list_and_mode_both_allow(void **state)
{
    struct acl a = {0};
    bool minimal;
    assert_int_equal(DECODE(&a, {ACL_USER_OBJ, 7, NONE}, {ACL_USER, 7, 7}, {ACL_GROUP_OBJ, 5, NONE},
                            {ACL_MASK, 7, NONE}, {ACL_OTHER, 5, NONE}),
                     0);
    assert_int_equal(acl_inherit(&a, 0640, &minimal), 0640);
    assert_false(minimal);
    assert_int_equal(a.entries[1].perm, 7); /* named ones are limited by the mask only */
    assert_int_equal(a.entries[2].perm, 5);
    assert_int_equal(a.entries[3].perm, 4);
    assert_int_equal(DECODE(&a, {ACL_USER_OBJ, 7, NONE}, {ACL_GROUP_OBJ, 5, NONE}, {ACL_OTHER, 0, NONE}), 0);
    assert_int_equal(acl_inherit(&a, 01666, &minimal), 01640);
    assert_true(minimal);
    acl_fini(&a);
}

/* Against an independent statement of the rule: every subset of the classes, all modes of asking. */
static unsigned rule(const struct acl *a, uint32_t owner, uint32_t group, const struct acl_who *who)
{
    unsigned mask = 7, given = 0; /* bit i of the answer: asking for rwx value i is granted */
    for (size_t i = 0; i < a->count; i++)
        mask = a->entries[i].tag == ACL_MASK ? a->entries[i].perm : mask;
    int classes[3][16], n[3] = {0, 0, 0}, other = 0; /* owner, named, groups */
    for (size_t i = 0; i < a->count; i++) {
        const struct acl_entry *e = &a->entries[i];
        if (e->tag == ACL_USER_OBJ && who->uid == owner)
            classes[0][n[0]++] = e->perm;
        if (e->tag == ACL_USER && who->uid == e->id)
            classes[1][n[1]++] = (int)(e->perm & mask);
        if ((e->tag == ACL_GROUP_OBJ && who->gid == group) || (e->tag == ACL_GROUP && who->gid == e->id))
            classes[2][n[2]++] = (int)(e->perm & mask);
        if (e->tag == ACL_OTHER)
            other = e->perm;
    }
    int class = n[0] ? 0 : n[1] ? 1 : n[2] ? 2 : 3;
    for (int ask = 0; ask < 8; ask++) {
        bool ok = class == 3 && (ask & other) == ask;
        for (int i = 0; class < 3 && i < n[class]; i++)
            ok |= (ask & classes[class][i]) == ask;
        given |= (unsigned)ok << ask;
    }
    return given;
}

static void random_lists_follow_the_rule(void **state)
{
    struct prng prng = prng_init(5);
    for (int round = 0; round < 20000; round++) {
        struct acl_entry e[16];
        size_t n = 0;
        e[n++] = (struct acl_entry){ACL_USER_OBJ, (uint8_t)prng_below(&prng, 8), NONE};
        for (uint32_t id = 0; id < 3; id++)
            if (prng_below(&prng, 2))
                e[n++] = (struct acl_entry){ACL_USER, (uint8_t)prng_below(&prng, 8), id};
        e[n++] = (struct acl_entry){ACL_GROUP_OBJ, (uint8_t)prng_below(&prng, 8), NONE};
        for (uint32_t id = 0; id < 3; id++)
            if (prng_below(&prng, 2))
                e[n++] = (struct acl_entry){ACL_GROUP, (uint8_t)prng_below(&prng, 8), id};
        e[n++] = (struct acl_entry){ACL_MASK, (uint8_t)prng_below(&prng, 8), NONE};
        e[n++] = (struct acl_entry){ACL_OTHER, (uint8_t)prng_below(&prng, 8), NONE};
        struct acl a = {0};
        assert_int_equal(decode(&a, e, n), 0);
        struct acl_who who = {.uid = (uint32_t)prng_below(&prng, 4), .gid = (uint32_t)prng_below(&prng, 4)};
        uint32_t owner = (uint32_t)prng_below(&prng, 4), group = (uint32_t)prng_below(&prng, 4);
        unsigned given = rule(&a, owner, group, &who);
        for (unsigned ask = 0; ask < 8; ask++)
            assert_int_equal(acl_check(&a, owner, group, &who, ask), given >> ask & 1 ? 0 : -E_ACCES);
        acl_fini(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_the_kernels),
        cmocka_unit_test(what_acl_valid_refuses_is_refused),
        cmocka_unit_test(the_first_class_that_fits_decides),
        cmocka_unit_test(mode_and_list_say_the_same),
        cmocka_unit_test(a_new_inode_gets_what_list_and_mode_both_allow),
        cmocka_unit_test(random_lists_follow_the_rule)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
