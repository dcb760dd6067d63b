/* What the kernel is told: times and attributes. */
#include "fuse/mount.h"
#include "tests/unit/cmocka.h"

#include <sys/stat.h>

static void times_before_1970_come_back(void **state)
{
    static const struct timespec times[] = {{0, 0}, {0, 999999999}, {-1, 7}, {-86400, 0}, {4000000000, 1}, {-9000000000, 999999999}};
    for (size_t i = 0; i < ARRAY_SIZE(times); i++) {
        struct timespec back = attr_timespec(attr_ns(&times[i]));
        assert_int_equal(back.tv_sec, times[i].tv_sec);
        assert_int_equal(back.tv_nsec, times[i].tv_nsec);
    }
}

static void times_that_cannot_be_kept_are_cut(void **state)
{
    struct timespec late = {.tv_sec = INT64_MAX / 2}, early = {.tv_sec = INT64_MIN / 2};
    assert_int_equal(attr_timespec(attr_ns(&late)).tv_sec, INT64_MAX / 1000000000 - 1);
    assert_int_equal(attr_timespec(attr_ns(&early)).tv_sec, 1 - INT64_MAX / 1000000000);
}

static void each_type_has_its_mode(void **state)
{
    static const struct {
        Tarn__FileType type;
        mode_t mode;
    } types[] = {{TARN__FILE_TYPE__FT_FILE, S_IFREG}, {TARN__FILE_TYPE__FT_DIR, S_IFDIR}, {TARN__FILE_TYPE__FT_SYMLINK, S_IFLNK},
                 {TARN__FILE_TYPE__FT_FIFO, S_IFIFO}, {TARN__FILE_TYPE__FT_CHR, S_IFCHR}, {TARN__FILE_TYPE__FT_BLK, S_IFBLK},
                 {TARN__FILE_TYPE__FT_SOCK, S_IFSOCK}};
    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        Tarn__Attr attr = TARN__ATTR__INIT;
        attr.type = types[i].type;
        attr.mode = 04751;
        attr.size = 5;
        struct stat st;
        attr_to_stat(&attr, &st);
        assert_int_equal(st.st_mode, types[i].mode | 04751);
        assert_int_equal(st.st_size, 5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_before_1970_come_back),
        cmocka_unit_test(times_that_cannot_be_kept_are_cut),
        cmocka_unit_test(each_type_has_its_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
