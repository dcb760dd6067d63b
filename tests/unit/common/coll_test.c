#include "common/coll.h"

#include "common/err.h"
#include "tests/unit/cmocka.h"

struct item {
    int value;
    struct list node;
};

static void test_a_list_keeps_its_order(void **state)
{
    struct list head;
    list_init(&head);
    assert_true(list_empty(&head));
    struct item items[4] = {{.value = 0}, {.value = 1}, {.value = 2}, {.value = 3}};
    list_append(&head, &items[1].node);
    list_append(&head, &items[3].node);
    list_prepend(&head, &items[0].node);
    list_insert_before(&items[3].node, &items[2].node);
    int expected = 0;
    list_foreach (&head, it) {
        assert_int_equal(list_entry(it, struct item, node)->value, expected++);
    }
    assert_int_equal(expected, 4);
    list_foreach_safe (&head, it, next) {
        list_remove(it);
    }
    assert_true(list_empty(&head));
}

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

/* Against the plainest thing that can be right: an array of 256 places. */
static void test_a_map_agrees_with_an_array(void **state)
{
    struct map map = {0};
    void *model[256] = {0};
    static char values[256];
    uint64_t seed = 1;
    size_t count = 0;
    for (unsigned step = 0; step < 50000; step++) {
        uint64_t key = next_random(&seed) % 256;
        void *value = &values[next_random(&seed) % 256];
        if (next_random(&seed) % 3 != 0) {
            assert_int_equal(map_put(&map, key, value), 0);
            count += model[key] == NULL;
            model[key] = value;
        } else {
            assert_ptr_equal(map_remove(&map, key), model[key]);
            count -= model[key] != NULL;
            model[key] = NULL;
        }
        uint64_t other = next_random(&seed) % 256;
        assert_ptr_equal(map_get(&map, other), model[other]);
        assert_int_equal(map.count, count);
        assert_true(map.used <= map.cap * 3 / 4);
    }
    map_fini(&map);
}

static void test_a_map_may_lose_entries_while_it_is_walked(void **state)
{
    struct map map = {0};
    static char value;
    for (uint64_t key = 0; key < 1000; key++)
        assert_int_equal(map_put(&map, key * 4096, &value), 0);
    unsigned seen = 0;
    size_t at = 0;
    uint64_t key;
    void *got;
    while (map_next(&map, &at, &key, &got)) {
        assert_ptr_equal(got, &value);
        assert_ptr_equal(map_remove(&map, key), &value);
        seen++;
    }
    assert_int_equal(seen, 1000);
    assert_int_equal(map.count, 0);
    map_fini(&map);
}

static void test_a_map_does_not_grow_by_turnover(void **state)
{
    struct map map = {0};
    static char value;
    for (uint64_t key = 0; key < 100000; key++) {
        assert_int_equal(map_put(&map, key, &value), 0);
        if (key >= 8)
            assert_non_null(map_remove(&map, key - 8));
    }
    assert_true(map.cap <= 64);
    map_fini(&map);
}

static void test_the_same_operations_give_the_same_order(void **state)
{
    struct map a = {0}, b = {0};
    static char value;
    for (uint64_t key = 0; key < 100; key++) {
        map_put(&a, key * 977, &value);
        map_put(&b, key * 977, &value);
    }
    size_t at_a = 0, at_b = 0;
    uint64_t key_a, key_b;
    while (map_next(&a, &at_a, &key_a, NULL)) {
        assert_true(map_next(&b, &at_b, &key_b, NULL));
        assert_true(key_a == key_b);
    }
    map_fini(&a);
    map_fini(&b);
}

static void test_a_heap_gives_the_smallest_first(void **state)
{
    struct heap heap = {0};
    static struct heap_node nodes[1000];
    uint64_t seed = 7;
    for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++) {
        nodes[i].key = next_random(&seed) % 100;
        assert_int_equal(heap_push(&heap, &nodes[i]), 0);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(nodes); i += 3) {
        heap_remove(&heap, &nodes[i]);
        assert_true(nodes[i].index == SIZE_MAX);
    }
    uint64_t key = 0, order = 0;
    while (heap_peek(&heap) != NULL) {
        struct heap_node *node = heap_peek(&heap);
        assert_true(node->key > key || (node->key == key && node->order >= order));
        key = node->key;
        order = node->order;
        heap_remove(&heap, node);
    }
    heap_fini(&heap);
}

static void test_equal_keys_leave_a_heap_in_the_order_they_came(void **state)
{
    struct heap heap = {0};
    struct heap_node nodes[20];
    for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++) {
        nodes[i].key = 5;
        heap_push(&heap, &nodes[i]);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(nodes); i++) {
        assert_ptr_equal(heap_peek(&heap), &nodes[i]);
        heap_remove(&heap, &nodes[i]);
    }
    assert_null(heap_peek(&heap));
    heap_fini(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_list_keeps_its_order),
        cmocka_unit_test(test_a_map_agrees_with_an_array),
        cmocka_unit_test(test_a_map_may_lose_entries_while_it_is_walked),
        cmocka_unit_test(test_a_map_does_not_grow_by_turnover),
        cmocka_unit_test(test_the_same_operations_give_the_same_order),
        cmocka_unit_test(test_a_heap_gives_the_smallest_first),
        cmocka_unit_test(test_equal_keys_leave_a_heap_in_the_order_they_came),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
