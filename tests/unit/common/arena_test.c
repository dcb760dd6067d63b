/* Pieces of an arena do not overlap, are aligned, and a message unpacked into one is whole. */
#include "common/arena.h"
#include "meta.pb-c.h"
#include "tests/unit/cmocka.h"

static void pieces_are_aligned_and_apart(void **state)
{
    uint8_t first[100];
    for (unsigned with = 0; with < 2; with++) {
        uint8_t *pieces[500];
        struct arena arena;
        arena_init(&arena, with ? first + 1 : NULL, with ? sizeof first - 1 : 0);
        for (size_t i = 0; i < ARRAY_SIZE(pieces); i++) {
            pieces[i] = arena_alloc(&arena, i * 7);
            assert_non_null(pieces[i]);
            assert_int_equal((uintptr_t)pieces[i] % 16, 0);
            memset(pieces[i], (int)i, i * 7);
        }
        for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
            for (size_t j = 0; j < i * 7; j++)
                assert_int_equal(pieces[i][j], (uint8_t)i);
        arena_fini(&arena);
    }
}

static void too_much_is_refused(void **state)
{
    struct arena arena;
    arena_init(&arena, NULL, 0);
    assert_null(arena_alloc(&arena, SIZE_MAX));
    assert_null(arena_alloc(&arena, SIZE_MAX / 2));
    assert_non_null(arena_alloc(&arena, MIB(1)));
    arena_fini(&arena);
}

static void a_message_is_unpacked_into_it(void **state)
{
    Tarn__Where wheres[50], *pointers[50];
    Tarn__Lookups lookups = TARN__LOOKUPS__INIT;
    uint8_t packed[4096];
    for (size_t i = 0; i < ARRAY_SIZE(wheres); i++) {
        tarn__where__init(&wheres[i]);
        wheres[i].path = (char *)"/some/path";
        wheres[i].ino = i;
        pointers[i] = &wheres[i];
    }
    lookups.n_wheres = ARRAY_SIZE(wheres);
    lookups.wheres = pointers;
    size_t n = tarn__lookups__pack(&lookups, packed);
    struct arena arena;
    arena_init(&arena, NULL, 0);
    ProtobufCAllocator allocator = arena_allocator(&arena);
    Tarn__Lookups *back = tarn__lookups__unpack(&allocator, n, packed);
    assert_non_null(back);
    assert_int_equal(back->n_wheres, ARRAY_SIZE(wheres));
    for (size_t i = 0; i < back->n_wheres; i++) {
        assert_int_equal(back->wheres[i]->ino, i);
        assert_string_equal(back->wheres[i]->path, "/some/path");
    }
    assert_null(tarn__lookups__unpack(&allocator, n - 1, packed));
    arena_fini(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_aligned_and_apart),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(a_message_is_unpacked_into_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
