/* Pages against a model: the service lists a sorted set of paths, the expected answer is computed from the keys. */
#include "gateway_suite.h"
#include "gateway/listing.h"

#define KEYS_MAX 64

struct service {
    char *paths[KEYS_MAX];
    size_t count;
    unsigned calls;
};

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_keys(struct service *service, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        service->paths[service->count] = malloc(KEY_PATH_MAX);
        assert_int_equal(key_to_path(keys[i], service->paths[service->count++]), 0);
    }
    qsort(service->paths, service->count, sizeof service->paths[0], compare);
}

static void service_fini(struct service *service)
{
    for (size_t i = 0; i < service->count; i++)
        free(service->paths[i]);
}

static void reply_add(Tarn__ListObjectsReply *reply, const char *key, size_t len, bool common)
{
    Tarn__ListedObject *object = malloc(sizeof *object);

    tarn__listed_object__init(object);
    object->key = strndup(key, len);
    object->common_prefix = common;
    if (!common) {
        object->attr = malloc(sizeof *object->attr);
        tarn__attr__init(object->attr);
        object->attr->size = len;
    }
    reply->objects[reply->n_objects++] = object;
}

/* LIST_OBJECTS as meta.proto describes it, on a sorted array. */
static int fetch(void *arg, const char *prefix, const char *delimiter, const char *after, unsigned max,
                 Tarn__ListObjectsReply **ret)
{
    struct service *service = arg;
    Tarn__ListObjectsReply *reply = malloc(sizeof *reply);
    size_t d = strlen(delimiter), p = strlen(prefix), n = strlen(after);
    bool behind_group = d > 0 && n >= p + d && strstr(after + p, delimiter) == after + n - d;
    char last[KEY_PATH_MAX + 8] = "";

    assert_true(strlen(after) < KEY_PATH_MAX + 8);
    if (behind_group)
        strcpy(last, after);
    service->calls++;
    tarn__list_objects_reply__init(reply);
    reply->objects = calloc(max + 1, sizeof reply->objects[0]);
    for (size_t i = 0; i < service->count; i++) {
        const char *path = service->paths[i];
        const char *found = d > 0 && strlen(path) >= p ? strstr(path + p, delimiter) : NULL;
        size_t len = found == NULL ? strlen(path) : (size_t)(found - path) + d;
        if (strncmp(path, prefix, p) != 0 || strcmp(path, after) <= 0 || (last[0] != 0 && strncmp(path, last, strlen(last)) == 0))
            continue;
        if (reply->n_objects == max) {
            reply->truncated = true;
            reply->next = strdup(reply->objects[max - 1]->key);
            break;
        }
        reply_add(reply, path, len, found != NULL);
        if (found != NULL)
            snprintf(last, sizeof last, "%.*s", (int)len, path);
    }
    *ret = reply;
    return 0;
}

struct answer {
    char *items[KEYS_MAX]; /* keys and groups, groups marked by a leading 'P', keys by 'K' */
    size_t count;
};

static void answer_add(struct answer *answer, char mark, const char *text, size_t len)
{
    char *item;
    assert_true(asprintf(&item, "%c%.*s", mark, (int)len, text) > 0);
    for (size_t i = 0; i < answer->count; i++)
        if (strcmp(answer->items[i], item) == 0) {
            if (mark != 'P') print_message("twice: %s\n", item);
            assert_int_equal(mark, 'P');
            free(item);
            return;
        }
    answer->items[answer->count++] = item;
}

static void answer_fini(struct answer *answer)
{
    for (size_t i = 0; i < answer->count; i++)
        free(answer->items[i]);
}

static void expected(const char *const *keys, size_t n, const char *prefix, const char *delimiter, struct answer *ret)
{
    memset(ret, 0, sizeof *ret);
    for (size_t i = 0; i < n; i++) {
        if (strncmp(keys[i], prefix, strlen(prefix)) != 0)
            continue;
        const char *found = *delimiter != 0 ? strstr(keys[i] + strlen(prefix), delimiter) : NULL;
        if (found != NULL)
            answer_add(ret, 'P', keys[i], (size_t)(found - keys[i]) + strlen(delimiter));
        else
            answer_add(ret, 'K', keys[i], strlen(keys[i]));
    }
    qsort(ret->items, ret->count, sizeof ret->items[0], compare);
}

/* Goes through all pages, by tokens or by the last key. */
static void collected(struct service *service, const char *prefix, const char *delimiter, unsigned max, bool tokens,
                      struct answer *ret)
{
    struct listing_query query = {.prefix = prefix, .delimiter = delimiter, .max = max, .sorted = tokens};

    memset(ret, 0, sizeof *ret);
    for (bool more = true; more;) {
        struct listing page;
        char token[LISTING_TOKEN_SIZE];
        assert_int_equal(listing_run(&query, fetch, service, &page), 0);
        assert_true(page.count <= max);
        for (size_t i = 0; i < page.count; i++) {
            size_t before = ret->count;
            answer_add(ret, page.items[i].common_prefix ? 'P' : 'K', page.items[i].key, strlen(page.items[i].key));
            assert_int_equal(ret->count, before + 1); /* nothing comes twice */
        }
        more = page.truncated;
        if (more && tokens) {
            listing_token_write(&page, token);
            assert_int_equal(listing_token_read(token, &query), 0);
        } else if (more) {
            assert_true(page.count > 0);
            assert_int_equal(listing_start_after(&query, page.items[page.count - 1].key), 0);
        }
        listing_fini(&page);
    }
    qsort(ret->items, ret->count, sizeof ret->items[0], compare);
}

static void check(struct service *service, const char *const *keys, size_t n, const char *prefix, const char *delimiter,
                  unsigned max, bool tokens)
{
    struct answer want, have;

    expected(keys, n, prefix, delimiter, &want);
    collected(service, prefix, delimiter, max, tokens, &have);
    if (want.count != have.count)
        print_message("prefix \"%s\" delimiter \"%s\" max %u tokens %d\n", prefix, delimiter, max, tokens);
    assert_int_equal(have.count, want.count);
    for (size_t i = 0; i < want.count; i++)
        assert_string_equal(have.items[i], want.items[i]);
    answer_fini(&want);
    answer_fini(&have);
}

#define LONG "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk" /* 64 */
#define LONG256 LONG LONG LONG LONG

static void pages_hold_what_the_keys_say(void **state)
{
    static const char *const keys[] = {
        "a", "a-b", "a/", "a/b", "a/c/d", "a//b", "b/./x", "b/../y", "b/.z", ".hidden", "%", "%e", "%x", "%self",
        "dir/", "dir/x", LONG256 "1", LONG256 "1/in", LONG256 "/in", LONG LONG LONG "z", "x y", "\xc3\xbc/\xc3\xb1",
    };
    static const char *const prefixes[] = {"", "a", "a/", "a//", "b/", "b/.", "b/./", "b/..", ".", "..", "%", "%e", "dir/",
                                           "k", LONG LONG, LONG256, LONG256 "1/", "nothing", "\xc3"};
    static const char *const delimiters[] = {"", "/", "-", ".", "a", "//", "%"};
    static const unsigned sizes[] = {1, 2, 3, 5, 1000};
    struct service service = {0};

    add_keys(&service, keys, ARRAY_SIZE(keys));
    for (size_t p = 0; p < ARRAY_SIZE(prefixes); p++)
        for (size_t d = 0; d < ARRAY_SIZE(delimiters); d++)
            for (size_t s = 0; s < ARRAY_SIZE(sizes); s++)
                for (unsigned tokens = 0; tokens < 2; tokens++)
                    check(&service, keys, ARRAY_SIZE(keys), prefixes[p], delimiters[d], sizes[s], tokens);
    service_fini(&service);
}

static void a_group_that_vanished_hides_no_key(void **state)
{
    static const char *const keys[] = {"a", "b"};
    struct listing_query query = {.prefix = "", .delimiter = ".", .max = 1000};
    struct service service = {0};
    struct listing page;

    add_keys(&service, keys, ARRAY_SIZE(keys));
    assert_int_equal(listing_start_after(&query, "."), 0);
    assert_int_equal(listing_run(&query, fetch, &service, &page), 0);
    assert_int_equal(page.count, 2);
    listing_fini(&page);
    service_fini(&service);
}

static void plain_keys_come_in_byte_order(void **state)
{
    static const char *const keys[] = {"a", "a!", "a-b", "a/b", "a0", "b", "\xc3\xbc"};
    struct listing_query query = {.prefix = "", .delimiter = "", .max = 1000};
    struct service service = {0};
    struct listing page;

    add_keys(&service, keys, ARRAY_SIZE(keys));
    assert_int_equal(listing_run(&query, fetch, &service, &page), 0);
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        assert_string_equal(page.items[i].key, keys[i]);
    assert_false(page.truncated);
    assert_int_equal(service.calls, 1);
    listing_fini(&page);
    service_fini(&service);
}

static void a_page_of_no_keys_asks_nobody(void **state)
{
    struct listing_query query = {.prefix = "", .delimiter = "", .max = 0};
    struct service service = {0};
    struct listing page;

    assert_int_equal(listing_run(&query, fetch, &service, &page), 0);
    assert_false(page.truncated);
    assert_int_equal(page.count + service.calls, 0);
    listing_fini(&page);
}

static void tokens_of_strangers_are_refused(void **state)
{
    static const char *const bad[] = {"", "x", "AAAA", "MQ==", "MWE=", "MWEAYgBj", "????"};
    struct listing_query query = {0};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(listing_token_read(bad[i], &query), -E_INVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_hold_what_the_keys_say),
        cmocka_unit_test(a_group_that_vanished_hides_no_key),
        cmocka_unit_test(plain_keys_come_in_byte_order),
        cmocka_unit_test(a_page_of_no_keys_asks_nobody),
        cmocka_unit_test(tokens_of_strangers_are_refused),
    };
    return cmocka_run_group_tests_name("listing", tests, NULL, NULL);
}
