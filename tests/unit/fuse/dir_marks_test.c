/* Cookies of directory listings against a directory that changes: whatever is there the whole time is
 * told once, behind any cookie ever given out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "common/err.h"
#include "common/prng.h"
#include "fuse/dir_marks.h"

#define NAMES 3000
#define NAME_BYTES 40

/* All names that may come, in order; `there` now, `stays` for good, `listed` under this cookie. */
struct model {
    struct {
        char name[NAME_BYTES];
        bool there, stays;
        uint64_t cookie;
    } of[NAMES];
    size_t n;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Names with few letters and long common beginnings: the worst for marks. */
static void model_make(struct model *m, struct prng *prng, const char *letters, size_t n_letters)
{
    static char names[NAMES][NAME_BYTES];
    for (size_t i = 0; i < NAMES; i++) {
        size_t len = 1 + prng_below(prng, NAME_BYTES - 2), same = i == 0 ? 0 : prng_below(prng, NAME_BYTES - 2);
        memset(names[i], 0, NAME_BYTES);
        for (size_t j = 0; j < len; j++)
            names[i][j] = j < same && names[i - 1][j] != 0 ? names[i - 1][j] : letters[prng_below(prng, n_letters)];
    }
    qsort(names, NAMES, NAME_BYTES, by_name);
    m->n = 0;
    for (size_t i = 0; i < NAMES; i++) {
        if (i > 0 && strcmp(names[i], names[i - 1]) == 0)
            continue;
        memcpy(m->of[m->n].name, names[i], NAME_BYTES);
        m->of[m->n].there = m->of[m->n].stays = prng_below(prng, 2);
        m->of[m->n++].cookie = 0;
    }
}

static void change(struct model *m, struct prng *prng)
{
    for (size_t i = 0; i < m->n; i++)
        m->of[i].there = m->of[i].stays || prng_below(prng, 3) == 0;
}

/* Reads a page behind `after`; told[] counts, cookies of what stays are noted when they are first told. */
static bool page(struct model *m, struct dir_marks *marks, char after[DIR_NAME_MAX + 1], size_t max, unsigned *told)
{
    const char *names[64] = {0};
    size_t index[64], n = 0;
    uint64_t cookies[64];
    for (size_t i = 0; i < m->n && n < max; i++)
        if (m->of[i].there && strcmp(m->of[i].name, after) > 0) {
            index[n] = i;
            names[n++] = m->of[i].name;
        }
    assert_int_equal(dir_marks_cookies(marks, names, n, cookies), 0);
    for (size_t i = 0; i < n; i++) {
        assert_true(cookies[i] >= DIR_COOKIE_MIN && (int64_t)cookies[i] > 0);
        if (m->of[index[i]].cookie == 0)
            m->of[index[i]].cookie = cookies[i];
        told[index[i]]++;
    }
    if (n > 0)
        memcpy(after, names[n - 1], strlen(names[n - 1]) + 1);
    return n > 0;
}

static void list_on(struct model *m, struct dir_marks *marks, struct prng *prng, char after[DIR_NAME_MAX + 1], size_t from)
{
    static unsigned told[NAMES];
    memset(told, 0, sizeof told);
    do
        change(m, prng);
    while (page(m, marks, after, 1 + prng_below(prng, 64), told));
    for (size_t i = 0; i < m->n; i++)
        if (m->of[i].stays)
            assert_int_equal(told[i], i >= from);
}

static void run(uint64_t seed, const char *letters, size_t n_letters)
{
    static struct model m;
    struct prng prng = prng_init(seed);
    struct dir_marks marks = {0};
    char after[DIR_NAME_MAX + 1] = "";
    model_make(&m, &prng, letters, n_letters);
    list_on(&m, &marks, &prng, after, 0);
    for (unsigned i = 0; i < 60; i++) { /* seekdir() to what telldir() once said */
        size_t at = prng_below(&prng, m.n);
        if (!m.of[at].stays)
            continue;
        assert_int_equal(dir_marks_seek(&marks, m.of[at].cookie, after), 0);
        list_on(&m, &marks, &prng, after, at + 1);
    }
    dir_marks_fini(&marks);
}

static void what_stays_is_told_once_behind_any_cookie(void **state)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        run(seed, "a", 1); /* each name is the beginning of the next */
        run(seed, "ab", 2);
        run(seed, "\x01\x7f\x80\xff", 4);
        run(seed, "0123456789", 10);
    }
}

static void ordinary_names_need_few_marks(void **state)
{
    struct dir_marks marks = {0};
    char name[32];
    for (unsigned i = 0; i < 1000000; i++) {
        const char *names[] = {name};
        uint64_t cookie;
        assert_in_range(snprintf(name, sizeof name, "file-%07u.dat", i), 1, sizeof name - 1);
        assert_int_equal(dir_marks_cookies(&marks, names, 1, &cookie), 0);
    }
    assert_true(marks.n < 1000);
    dir_marks_fini(&marks);
}

static void cookies_that_nobody_gave_out_are_refused(void **state)
{
    struct dir_marks marks = {0};
    char after[DIR_NAME_MAX + 1];
    const char *names[] = {"a"};
    uint64_t cookie;
    assert_int_equal(dir_marks_seek(&marks, 5, after), -E_INVAL);
    assert_int_equal(dir_marks_cookies(&marks, names, 1, &cookie), 0);
    assert_int_equal(dir_marks_seek(&marks, cookie, after), 0);
    assert_string_equal(after, "a");
    assert_int_equal(dir_marks_seek(&marks, cookie + (1ull << 33), after), -E_INVAL);
    dir_marks_fini(&marks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_stays_is_told_once_behind_any_cookie),
                                       cmocka_unit_test(ordinary_names_need_few_marks),
                                       cmocka_unit_test(cookies_that_nobody_gave_out_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
