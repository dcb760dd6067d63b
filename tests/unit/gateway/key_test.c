#include "gateway_suite.h"
#include "gateway/key.h"

/* splitmix64: the same keys every time. */
static uint64_t next_random(uint64_t *seed)
{
    uint64_t v = *seed += UINT64_C(0x9e3779b97f4a7c15);
    v = (v ^ v >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ v >> 27) * UINT64_C(0x94d049bb133111eb);
    return v ^ v >> 31;
}

static void check_components(const char *path)
{
    for (const char *at = path;; at++) {
        size_t n = strcspn(at, "/");
        assert_true(n > 0 && n <= KEY_NAME_MAX);
        assert_false(n <= 2 && memcmp(at, "..", n) == 0);
        assert_false(n == 5 && memcmp(at, "%self", 5) == 0);
        at += n;
        if (*at == 0)
            return;
    }
}

static void check_round_trip(const char *key)
{
    char path[KEY_PATH_MAX], back[KEY_PATH_MAX];

    assert_int_equal(key_to_path(key, path), 0);
    check_components(path);
    key_from_path(path, back);
    if (strcmp(back, key) != 0)
        print_message("key %s path %s back %s\n", key, path, back);
    assert_string_equal(back, key);
}

static void spellings_are_as_documented(void **state)
{
    static const struct {
        const char *key, *path;
    } rows[] = {
        {"a/b", "a/b"}, {"a b/c%20d", "a b/c%20d"}, {"a/", "a/%e"}, {"/a", "%e/a"}, {"a//b", "a/%e/b"}, {"/", "%e/%e"},
        {".", "%d"}, {"..", "%dd"}, {"a/./b", "a/%d/b"}, {"../x", "%dd/x"}, {"...", "..."}, {".a", ".a"},
        {"%", "%"}, {"%x", "%x"}, {"%20", "%20"}, {"%25", "%25"}, {"%c", "%c"}, {"%cx", "%cx"},
        {"%e", "%25e"}, {"%d", "%25d"}, {"%dd", "%25dd"}, {"%self", "%25self"}, {"a/%self/b", "a/%25self/b"},
        {"%25e", "%2525e"}, {"%25self", "%2525self"}, {"%25x", "%25x"}, {"%2525e", "%252525e"}, {"%ex", "%ex"},
    };
    char path[KEY_PATH_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(key_to_path(rows[i].key, path), 0);
        assert_string_equal(path, rows[i].path);
        check_round_trip(rows[i].key);
    }
}

static void long_components_are_continued(void **state)
{
    char key[KEY_MAX + 2], path[KEY_PATH_MAX];

    for (size_t n = 250; n <= KEY_MAX; n++) {
        memset(key, 'k', n);
        key[n] = 0;
        check_round_trip(key);
    }
    memset(key, 'k', 300);
    strcpy(key + 300, "/z");
    assert_int_equal(key_to_path(key, path), 0);
    assert_memory_equal(path + 255, "/%ckkk", 6);
    assert_int_equal(strlen(path), 300 + 3 + 2);
    /* Behind a full name "%c…" must not look like its continuation. */
    memset(key, 'k', 255);
    strcpy(key + 255, "/%cx");
    assert_int_equal(key_to_path(key, path), 0);
    assert_string_equal(path + 255, "/%25cx");
    check_round_trip(key);
    strcpy(key + 255, "/%25cx");
    check_round_trip(key);
    strcpy(key + 255, "/%c");
    check_round_trip(key);
    memset(key, 'k', KEY_MAX + 1);
    key[KEY_MAX + 1] = 0;
    assert_int_equal(key_to_path(key, path), -E_NAMETOOLONG);
    assert_int_equal(key_to_path("", path), -E_INVAL);
}

/* Random keys from few bytes, so that the special names come up all the time; and from all bytes. */
static void make_key(uint64_t *seed, char *key)
{
    static const char few[] = "%%%//..25decslfkkkkk";
    size_t n = 1 + next_random(seed) % (next_random(seed) % 4 == 0 ? KEY_MAX : 24);
    bool all = next_random(seed) % 4 == 0;
    unsigned run = 0;
    char c = 'k';

    for (size_t i = 0; i < n; i++) {
        if (run == 0) {
            c = all ? (char)(1 + next_random(seed) % 255) : few[next_random(seed) % (sizeof few - 1)];
            run = next_random(seed) % 40 == 0 ? 200 + (unsigned)(next_random(seed) % 120) : 1;
        }
        key[i] = c;
        run--;
    }
    key[n] = 0;
}

static void any_key_round_trips(void **state)
{
    char key[KEY_MAX + 1];
    uint64_t seed = 1;

    for (unsigned i = 0; i < 200000; i++) {
        make_key(&seed, key);
        check_round_trip(key);
    }
}

/* A path nobody spelled by us: what a mount made. It has a key, and that key leads back to it. */
static void any_path_has_a_key(void **state)
{
    char text[KEY_MAX + 1], key[KEY_PATH_MAX], path[KEY_PATH_MAX];
    uint64_t seed = 2;
    unsigned tried = 0;

    for (unsigned i = 0; i < 200000; i++) {
        make_key(&seed, text);
        bool valid = true;
        for (const char *at = text; valid; at++) {
            size_t n = strcspn(at, "/");
            valid = n > 0 && n <= KEY_NAME_MAX && !(n <= 2 && memcmp(at, "..", n) == 0) &&
                    !(n == 5 && memcmp(at, "%self", 5) == 0);
            at += n;
            if (*at == 0)
                break;
        }
        /* "%e" alone would be the empty key, which S3 does not have. */
        if (!valid || strcmp(text, "%e") == 0)
            continue;
        tried++;
        key_from_path(text, key);
        assert_int_equal(key_to_path(key, path), 0);
        assert_string_equal(path, text);
    }
    assert_true(tried > 1000);
}

static void the_prefix_of_a_key_gives_a_prefix_of_its_path(void **state)
{
    char key[KEY_MAX + 1], prefix[KEY_MAX + 1], path[KEY_PATH_MAX], start[KEY_PATH_MAX];
    uint64_t seed = 3;

    for (unsigned i = 0; i < 100000; i++) {
        make_key(&seed, key);
        size_t n = next_random(&seed) % (strlen(key) + 1);
        memcpy(prefix, key, n);
        prefix[n] = 0;
        assert_int_equal(key_to_path(key, path), 0);
        assert_int_equal(key_prefix_to_path(prefix, start), 0);
        if (strncmp(path, start, strlen(start)) != 0)
            print_message("key %s prefix %s path %s start %s\n", key, prefix, path, start);
        assert_int_equal(strncmp(path, start, strlen(start)), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spellings_are_as_documented),
        cmocka_unit_test(long_components_are_continued),
        cmocka_unit_test(any_key_round_trips),
        cmocka_unit_test(any_path_has_a_key),
        cmocka_unit_test(the_prefix_of_a_key_gives_a_prefix_of_its_path),
    };
    return cmocka_run_group_tests_name("key", tests, NULL, NULL);
}
