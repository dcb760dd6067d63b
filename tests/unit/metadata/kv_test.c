/* The promises of kv.h on both implementations, a comparison of the two under a random load, the
 * dump's bytes, and what LMDB's keeper does after a crash of the machine. */
#include "tests/unit/cmocka.h"
#include "common/err.h"
#include "common/prng.h"
#include "golden.h"
#include "metadata/kv.h"
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static const char *golden_path;
static char temp_dir[64];

static void tables_remove(void)
{
    static const char *const names[] = {"data.mdb", "lock.mdb", "boot", "boot.tmp"};
    char path[128];
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        snprintf(path, sizeof path, "%s/%s", temp_dir, names[i]);
        unlink(path);
    }
    rmdir(temp_dir);
}

static struct kv *open_mem(void)
{
    struct kv *kv;
    assert_int_equal(kv_mem_open(&kv), 0);
    return kv;
}

static struct kv *reopen_lmdb(void)
{
    struct kv *kv;
    assert_int_equal(kv_lmdb_open(temp_dir, MIB(64), &kv), 0);
    return kv;
}

static struct kv *open_lmdb(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(temp_dir, sizeof temp_dir, "%s/tarn-kv-XXXXXX", base != NULL && strlen(base) < 40 ? base : "/tmp");
    assert_non_null(mkdtemp(temp_dir));
    return reopen_lmdb();
}

static struct kv_txn *begin(struct kv *kv, bool write)
{
    struct kv_txn *txn;
    assert_int_equal(kv_begin(kv, write, &txn), 0);
    return txn;
}

static struct kv_txn *read_last(struct kv *kv)
{
    struct kv_txn *txn;
    assert_int_equal(kv_read(kv, &txn), 0);
    return txn;
}

static void put(struct kv_txn *txn, const char *key, const char *value)
{
    assert_int_equal(kv_put(txn, key, strlen(key), value, strlen(value)), 0);
}

static void put_one(struct kv *kv, const char *key, const char *value)
{
    struct kv_txn *txn = begin(kv, true);
    put(txn, key, value);
    assert_int_equal(kv_commit(txn), 0);
}

static void assert_value(struct kv_txn *txn, const char *key, const char *expected)
{
    struct kv_val value;
    int err = kv_get(txn, key, strlen(key), &value);
    if (expected == NULL) {
        assert_int_equal(err, -E_NOENT);
        return;
    }
    assert_int_equal(err, 0);
    assert_int_equal(value.len, strlen(expected));
    assert_memory_equal(value.data, expected, value.len);
}

/* ---- one sentence each, on both ---- */
static void a_reader_sees_the_tables_as_they_were(struct kv *kv)
{
    put_one(kv, "a", "1");
    struct kv_txn *reader = begin(kv, false);
    struct kv_txn *writer = begin(kv, true);
    put(writer, "a", "2");
    put(writer, "b", "3");
    assert_value(writer, "a", "2");
    assert_value(reader, "a", "1");
    assert_int_equal(kv_commit(writer), 0);
    assert_value(reader, "a", "1");
    assert_value(reader, "b", NULL);
    kv_abort(reader);
    reader = begin(kv, false);
    assert_value(reader, "a", "2");
    kv_abort(reader);
}

static void an_aborted_change_never_happened(struct kv *kv)
{
    put_one(kv, "a", "1");
    struct kv_txn *writer = begin(kv, true);
    assert_int_equal(kv_del(writer, "a", 1), 0);
    assert_int_equal(kv_clear(writer), 0);
    put(writer, "z", "9");
    kv_abort(writer);
    struct kv_txn *reader = begin(kv, false);
    assert_value(reader, "a", "1");
    assert_value(reader, "z", NULL);
    kv_abort(reader);
}

static int join_keys(void *arg, struct kv_val key, struct kv_val value)
{
    char *out = arg;
    strncat(out, (const char *)key.data, key.len);
    return strlen(out) >= 6;
}

static void assert_scan(struct kv *kv, const char *start, const char *prefix, const char *expected)
{
    char keys[64] = "";
    struct kv_txn *txn = begin(kv, false);
    assert_int_equal(kv_scan(txn, start, strlen(start), prefix, strlen(prefix), join_keys, keys), 0);
    kv_abort(txn);
    assert_string_equal(keys, expected);
}

static void a_scan_goes_in_order_within_its_prefix(struct kv *kv)
{
    static const char *const keys[] = {"bb", "a", "ba", "c", "b", "bc", "bd"};
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        put_one(kv, keys[i], "");
    assert_scan(kv, "", "b", "bbabbbc"); /* stopped by the visitor after six letters */
    assert_scan(kv, "bc", "b", "bcbd");
    assert_scan(kv, "bcx", "b", "bd");
    assert_scan(kv, "", "a", "a");
    assert_scan(kv, "c", "b", "");
    assert_scan(kv, "", "x", "");
}

static void assert_last(struct kv_txn *txn, const char *at, const char *prefix, const char *expected)
{
    struct kv_val key, value;
    int err = kv_last(txn, at, strlen(at), prefix, strlen(prefix), &key, &value);
    if (expected == NULL) {
        assert_int_equal(err, -E_NOENT);
        return;
    }
    assert_int_equal(err, 0);
    assert_int_equal(key.len, strlen(expected));
    assert_memory_equal(key.data, expected, key.len);
}

static void the_last_key_at_or_before_is_found(struct kv *kv)
{
    struct kv_txn *txn = begin(kv, true);
    assert_last(txn, "x", "", NULL);
    put(txn, "aa", "1");
    put(txn, "b1", "2");
    put(txn, "b5", "3");
    assert_last(txn, "b5", "b", "b5");
    assert_last(txn, "b4", "b", "b1");
    assert_last(txn, "b0", "b", NULL);
    assert_last(txn, "zz", "b", "b5");
    assert_last(txn, "zz", "a", NULL);
    assert_last(txn, "b0", "a", "aa");
    kv_abort(txn);
}

static void limits_are_refused(struct kv *kv)
{
    uint8_t key[KV_KEY_MAX + 1] = {1};
    uint8_t *value = calloc(1, KV_VALUE_MAX + 1);
    struct kv_txn *txn = begin(kv, true);
    assert_int_equal(kv_put(txn, key, KV_KEY_MAX, value, KV_VALUE_MAX), 0);
    assert_int_equal(kv_put(txn, key, KV_KEY_MAX + 1, value, 1), -E_INVAL);
    assert_int_equal(kv_put(txn, key, 0, value, 1), -E_INVAL);
    assert_int_equal(kv_put(txn, key, 1, value, KV_VALUE_MAX + 1), -E_INVAL);
    assert_int_equal(kv_del(txn, "none", 4), 0);
    kv_abort(txn);
    free(value);
}

/* ---- dumps ---- */
struct bytes {
    uint8_t *data;
    size_t len, at;
};

static int bytes_write(void *arg, const void *data, size_t n)
{
    struct bytes *bytes = arg;
    assert_true(n <= MIB(1));
    bytes->data = realloc(bytes->data, bytes->len + n);
    memcpy(bytes->data + bytes->len, data, n);
    bytes->len += n;
    return 0;
}

static int64_t bytes_read(void *arg, void *buf, size_t n)
{
    struct bytes *bytes = arg;
    n = MIN(n, (size_t)777); /* short reads are normal */
    n = MIN(n, bytes->len - bytes->at);
    memcpy(buf, bytes->data + bytes->at, n);
    bytes->at += n;
    return (int64_t)n;
}

static struct bytes dump(struct kv *kv)
{
    struct bytes bytes = {0};
    struct kv_txn *txn = begin(kv, false);
    assert_int_equal(kv_dump(txn, bytes_write, &bytes), 0);
    kv_abort(txn);
    return bytes;
}

static void a_dump_loads_elsewhere_as_the_same(struct kv *kv)
{
    struct kv_txn *txn = begin(kv, true);
    char *value = calloc(1, 300000);
    for (unsigned i = 0; i < 2000; i++) {
        char key[16];
        snprintf(key, sizeof key, "%08u", i * 7919 % 100003);
        assert_int_equal(kv_put(txn, key, strlen(key), value, i % 100 == 0 ? 300000 : i), 0);
    }
    assert_int_equal(kv_commit(txn), 0);
    free(value);
    struct bytes first = dump(kv);
    struct kv *other = open_mem();
    put_one(other, "replaced", "x");
    assert_int_equal(kv_load(other, bytes_read, &first), 0);
    struct bytes second = dump(other);
    assert_int_equal(first.len, second.len);
    assert_memory_equal(first.data, second.data, first.len);
    kv_close(other);
    free(first.data);
    free(second.data);
}

static void a_damaged_dump_changes_nothing(struct kv *kv)
{
    put_one(kv, "key", "value");
    put_one(kv, "other", "");
    struct bytes bytes = dump(kv);
    for (size_t n = 0; n < bytes.len; n++) {
        struct bytes cut = {.data = bytes.data, .len = n};
        assert_int_equal(kv_load(kv, bytes_read, &cut), -E_CORRUPT);
    }
    for (size_t bit = 0; bit < bytes.len * 8; bit++) {
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        bytes.at = 0;
        assert_int_equal(kv_load(kv, bytes_read, &bytes), -E_CORRUPT);
        bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    free(bytes.data);
    struct kv_txn *txn = begin(kv, false);
    assert_value(txn, "key", "value");
    kv_abort(txn);
}

static void a_dump_has_its_golden_bytes(void **state)
{
    struct kv *kv = open_mem();
    put_one(kv, "b", "second");
    put_one(kv, "a", "first");
    struct bytes bytes = dump(kv);
    uint8_t expected[256];
    size_t n = golden_read(golden_path, "tables", expected, sizeof expected);
    assert_int_equal(bytes.len, n);
    assert_memory_equal(bytes.data, expected, n);
    free(bytes.data);
    kv_close(kv);
}

/* ---- both against each other ---- */
#define KEYS 400
#define ROUNDS 30000

/* What every key should have, as plain as can be: both share the cache, so they could be wrong together. */
struct model {
    char values[KEYS][20]; /* empty = absent */
};

static void assert_model(struct kv_txn *txn, const struct model *model)
{
    for (unsigned i = 0; i < KEYS; i++) {
        char key[16];
        snprintf(key, sizeof key, "%u", i);
        assert_value(txn, key, model->values[i][0] != 0 ? model->values[i] : NULL);
    }
}

static void random_change(struct kv_txn *a, struct kv_txn *b, struct model *model, struct prng *prng)
{
    char key[16], value[20] = "";
    unsigned number = (unsigned)prng_below(prng, KEYS);
    snprintf(key, sizeof key, "%u", number);
    snprintf(value, sizeof value, "%llx", (unsigned long long)prng_u64(prng));
    if (prng_below(prng, 3) == 0) {
        assert_int_equal(kv_del(a, key, strlen(key)), 0);
        assert_int_equal(kv_del(b, key, strlen(key)), 0);
    } else {
        put(a, key, value);
        put(b, key, value);
        memcpy(model->values[number], value, sizeof value);
        return;
    }
    model->values[number][0] = 0;
}

static void both_agree_under_random_changes(void **state)
{
    struct kv *mem = open_mem(), *lmdb = open_lmdb();
    struct prng prng = prng_init(7);
    struct kv_txn *old = NULL;
    struct bytes then = {0};
    struct model model = {0};
    for (unsigned i = 0; i < ROUNDS; i += 100) {
        struct model before = model;
        struct kv_txn *a = begin(mem, true), *b = begin(lmdb, true);
        for (unsigned j = 0; j < 100; j++)
            random_change(a, b, &model, &prng);
        if (prng_below(&prng, 4) == 0) {
            model = before;
            kv_abort(a);
            kv_abort(b);
        } else {
            assert_int_equal(kv_commit(a), 0);
            assert_int_equal(kv_commit(b), 0);
        }
        struct kv_txn *readers[] = {read_last(mem), read_last(lmdb), begin(mem, false), begin(lmdb, false)};
        for (unsigned r = 0; r < ARRAY_SIZE(readers); r++) {
            assert_model(readers[r], &model);
            kv_abort(readers[r]);
        }
        if (i == ROUNDS / 2) {
            old = begin(mem, false);
            then = dump(mem);
        }
    }
    struct bytes x = dump(mem), y = dump(lmdb), z = {0};
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    assert_int_equal(kv_dump(old, bytes_write, &z), 0);
    assert_int_equal(z.len, then.len);
    assert_memory_equal(z.data, then.data, z.len);
    kv_abort(old);
    free(x.data);
    free(y.data);
    free(z.data);
    free(then.data);
    kv_close(mem);
    kv_close(lmdb);
    tables_remove();
}

/* ---- LMDB and the machine ---- */
static void mark(const char *text)
{
    char path[128], block[64] = "";
    snprintf(path, sizeof path, "%s/boot", temp_dir);
    snprintf(block, sizeof block, "%s", text);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, block, sizeof block), sizeof block);
    close(fd);
}

static void assert_first_key(struct kv *kv, const char *expected)
{
    struct kv_txn *txn = begin(kv, false);
    assert_value(txn, "a", expected);
    kv_abort(txn);
}

static void tables_of_another_boot_come_up_empty(void **state)
{
    struct kv *kv = open_lmdb();
    put_one(kv, "a", "1");
    kv_close(kv);
    kv = reopen_lmdb(); /* closed cleanly */
    assert_first_key(kv, "1");
    kv_close(kv);
    mark("another-boot"); /* as if the machine had gone down with the tables open */
    kv = reopen_lmdb();
    assert_first_key(kv, NULL);
    kv_close(kv);
    tables_remove();
}

/* Pages of files that this process has mapped and resident. */
static unsigned long resident_file_pages(void)
{
    unsigned long size = 0, resident = 0, shared = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu %lu %lu", &size, &resident, &shared), 3);
    fclose(file);
    return shared;
}

static void tables_give_memory_back_and_stay_as_they_are(void **state)
{
    enum { ROWS = 8000, BYTES = 1500, PAGES = ROWS / 3, SLICES = 8 }; /* at most two rows lie on a page */
    struct kv *kv = open_lmdb();
    char key[16], value[BYTES];
    struct kv_txn *writer = begin(kv, true);
    for (unsigned i = 0; i < ROWS; i++) {
        snprintf(key, sizeof key, "%08u", i);
        memset(value, (int)i, sizeof value);
        assert_int_equal(kv_put(writer, key, 8, value, sizeof value), 0);
    }
    assert_int_equal(kv_commit(writer), 0);
    unsigned long after_reading = 0;
    for (unsigned round = 0; round < 2; round++) {
        struct kv_txn *reader = begin(kv, false);
        for (unsigned i = 0; i < ROWS; i++) {
            struct kv_val got;
            snprintf(key, sizeof key, "%08u", i);
            assert_int_equal(kv_get(reader, key, 8, &got), 0);
            assert_int_equal(got.len, BYTES);
            assert_int_equal(got.data[BYTES - 1], (uint8_t)i);
        }
        if (round == 0) {
            after_reading = resident_file_pages();
            for (unsigned slice = 0; slice < SLICES; slice++)
                kv_give_back(kv, slice, SLICES);
            assert_true(resident_file_pages() + PAGES < after_reading);
        }
        kv_abort(reader);
    }
    kv_close(kv);
    tables_remove();
    kv = open_mem(); /* which has nothing to give */
    kv_give_back(kv, 0, 1);
    kv_close(kv);
}

static void damaged_tables_come_up_empty(void **state)
{
    struct kv *kv = open_lmdb();
    put_one(kv, "a", "1");
    kv_close(kv);
    char path[128], zeros[8192] = "";
    snprintf(path, sizeof path, "%s/data.mdb", temp_dir);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, zeros, sizeof zeros, 0), sizeof zeros);
    close(fd);
    kv = reopen_lmdb();
    assert_first_key(kv, NULL);
    kv_close(kv);
    tables_remove();
}

/* ---- the cache in front of both */
static void readers_of_the_last_commit_share_and_stay_where_they_are(struct kv *kv)
{
    put_one(kv, "a", "1");
    struct kv_txn *first = read_last(kv), *second = read_last(kv);
    for (int i = 0; i < 3; i++) /* more than once: it then comes from memory */
        assert_value(first, "a", "1");
    struct kv_txn *writer = begin(kv, true);
    put(writer, "a", "2");
    assert_value(first, "a", "1");
    struct kv_txn *during = read_last(kv);
    assert_value(during, "a", "1");
    kv_abort(during);
    assert_int_equal(kv_commit(writer), 0);
    assert_value(first, "a", "1");
    kv_abort(first);
    assert_value(second, "a", "1");
    struct kv_txn *third = read_last(kv);
    assert_value(third, "a", "2");
    assert_value(second, "a", "1");
    kv_abort(second);
    kv_abort(third);
}

static void a_reader_forgets_what_was_aborted(struct kv *kv)
{
    put_one(kv, "a", "1");
    for (int i = 0; i < 3; i++) {
        struct kv_txn *writer = begin(kv, true);
        put(writer, "a", "2");
        assert_int_equal(kv_del(writer, "b", 1), 0);
        kv_abort(writer);
        struct kv_txn *reader = read_last(kv);
        assert_value(reader, "a", "1");
        assert_value(reader, "a", "1");
        kv_abort(reader);
    }
}

/* More than the cache holds, in one transaction; each row is changed three times on the way. */
static void a_large_change_is_seen_by_itself_and_after(struct kv *kv)
{
    enum { ROWS = 12000 };
    char key[16], value[1000];
    struct kv_txn *writer = begin(kv, true);
    memset(value, 'v', sizeof value);
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < ROWS; i++) {
            snprintf(key, sizeof key, "%c%06u", "xyz"[i % 3], i);
            memcpy(value, &round, sizeof round);
            if (round == 1 && i % 5 == 0)
                assert_int_equal(kv_del(writer, key, 7), 0);
            else if (round != 2 || i % 7 == 0)
                assert_int_equal(kv_put(writer, key, 7, value, sizeof value - i % 10 - round), 0);
        }
    for (unsigned again = 0; again < 2; again++) {
        for (unsigned i = 0; i < ROWS; i++) {
            struct kv_val got;
            snprintf(key, sizeof key, "%c%06u", "xyz"[i % 3], i);
            int err = kv_get(writer, key, 7, &got);
            if (i % 5 == 0 && i % 7 != 0) {
                assert_int_equal(err, -E_NOENT);
                continue;
            }
            unsigned round = i % 7 == 0 ? 2 : 1;
            assert_int_equal(err, 0);
            assert_int_equal(got.len, sizeof value - i % 10 - round);
            assert_memory_equal(got.data, &round, sizeof round);
        }
        if (again == 0)
            assert_int_equal(kv_commit(writer), 0);
        writer = again == 0 ? read_last(kv) : writer;
    }
    kv_abort(writer);
}

static void (*const suite[])(struct kv *kv) = {
    readers_of_the_last_commit_share_and_stay_where_they_are,
    a_reader_forgets_what_was_aborted,
    a_large_change_is_seen_by_itself_and_after,
    a_reader_sees_the_tables_as_they_were, an_aborted_change_never_happened,
    a_scan_goes_in_order_within_its_prefix, the_last_key_at_or_before_is_found,
    limits_are_refused,                     a_dump_loads_elsewhere_as_the_same,
    a_damaged_dump_changes_nothing,
};

static void suite_in_memory(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(suite); i++) {
        struct kv *kv = open_mem();
        suite[i](kv);
        kv_close(kv);
    }
}

static void suite_in_lmdb(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(suite); i++) {
        struct kv *kv = open_lmdb();
        suite[i](kv);
        kv_close(kv);
        tables_remove();
    }
}

int main(int argc, char **argv)
{
    golden_path = argc > 1 ? argv[1] : "tests/golden/metadata.hex";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suite_in_memory),
        cmocka_unit_test(suite_in_lmdb),
        cmocka_unit_test(a_dump_has_its_golden_bytes),
        cmocka_unit_test(both_agree_under_random_changes),
        cmocka_unit_test(tables_of_another_boot_come_up_empty),
        cmocka_unit_test(damaged_tables_come_up_empty),
        cmocka_unit_test(tables_give_memory_back_and_stay_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
