/* Racks from a table and from a script like Hadoop's: what is right is taken, nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/err.h"
#include "metadata/topology.h"

static int parse(const char *text, struct topology_place *places, size_t n)
{
    return topology_parse_output(text, strlen(text), places, n);
}

static void one_path_for_each_name_is_taken(void **state)
{
    struct topology_place places[2] = {{.name = "a"}, {.name = "b"}};
    assert_int_equal(parse("/dc1/rack1 /dc1/rack2\n", places, 2), 0);
    assert_string_equal(places[0].rack, "/dc1/rack1");
    assert_string_equal(places[1].rack, "/dc1/rack2");
    assert_int_equal(parse("\n /x\n\t/y", places, 2), 0);
    assert_string_equal(places[1].rack, "/y");
}

static void too_few_too_many_and_nonsense_are_refused(void **state)
{
    struct topology_place places[2] = {{.name = "a"}, {.name = "b"}};
    char longer[200];
    memset(longer, 'x', sizeof longer);
    longer[0] = '/';
    longer[TOPOLOGY_RACK_MAX + 1] = '\0';
    assert_int_equal(parse("", places, 2), -E_INVAL);
    assert_int_equal(parse("/a", places, 2), -E_INVAL);
    assert_int_equal(parse("/a /b /c", places, 2), -E_INVAL);
    assert_int_equal(parse("rack1 rack2", places, 2), -E_INVAL);
    assert_int_equal(parse("/a/ /b", places, 2), -E_INVAL);
    assert_int_equal(parse("/a//c /b", places, 2), -E_INVAL);
    assert_int_equal(parse("/a/\x01 /b", places, 2), -E_INVAL);
    assert_int_equal(parse(longer, places, 1), -E_INVAL);
    assert_int_equal(topology_parse_output("/a\0b", 4, places, 1), -E_INVAL);
}

static void the_table_gives_racks_to_those_it_names(void **state)
{
    static const char table[] = "# machines\nnode-1 /s/r1\n  node-2\t/s/r2 # old\nnode-3\nnode-4 nonsense\nnode-5 /s/r5";
    struct topology_place places[5] = {{.name = "node-1"}, {.name = "node-2"}, {.name = "node-3"}, {.name = "node-4"},
                                       {.name = "node-5"}};
    topology_parse_table(table, sizeof table - 1, places, 5);
    assert_string_equal(places[0].rack, "/s/r1");
    assert_string_equal(places[1].rack, "/s/r2");
    assert_string_equal(places[2].rack, "");
    assert_string_equal(places[3].rack, "");
    assert_string_equal(places[4].rack, "/s/r5");
}

struct place {
    char dir[64];
    struct topology topology;
};

static void place_init(struct place *p, const char *script)
{
    *p = (struct place){.dir = "/tmp/tarn-topology-XXXXXX"};
    assert_non_null(mkdtemp(p->dir));
    snprintf(p->topology.script, sizeof p->topology.script, "%s/script", p->dir);
    snprintf(p->topology.table, sizeof p->topology.table, "%s/table", p->dir);
    FILE *file = fopen(p->topology.script, "w");
    assert_non_null(file);
    fputs(script, file);
    fclose(file);
    assert_int_equal(chmod(p->topology.script, 0755), 0);
    file = fopen(p->topology.table, "w");
    assert_non_null(file);
    fputs("known /from/table\n", file);
    fclose(file);
}

static void place_fini(struct place *p)
{
    unlink(p->topology.script);
    unlink(p->topology.table);
    assert_int_equal(rmdir(p->dir), 0);
}

static void the_script_is_asked_for_what_the_table_does_not_have(void **state)
{
    struct place p;
    place_init(&p, "#!/bin/sh\nfor name; do echo /from/script-$name; done\n");
    struct topology_place places[3] = {{.name = "a"}, {.name = "known"}, {.name = "b"}};
    assert_int_equal(topology_find(&p.topology, places, 3), 0);
    assert_string_equal(places[0].rack, "/from/script-a");
    assert_string_equal(places[1].rack, "/from/table");
    assert_string_equal(places[2].rack, "/from/script-b");
    place_fini(&p);
}

/* Runs the script for one unknown name; it is in the default rack afterwards. */
static int fails(const char *script)
{
    struct place p;
    place_init(&p, script);
    struct topology_place places[2] = {{.name = "a"}, {.name = "known"}};
    int err = topology_find(&p.topology, places, 2);
    assert_string_equal(places[0].rack, TOPOLOGY_DEFAULT);
    assert_string_equal(places[1].rack, "/from/table");
    place_fini(&p);
    return err;
}

static void a_script_that_fails_leaves_the_default_rack(void **state)
{
    assert_int_equal(fails("#!/bin/sh\nexit 3\n"), -E_IO);
    assert_int_equal(fails("#!/bin/sh\necho /a; exit 1\n"), -E_IO);
    assert_int_equal(fails("#!/bin/sh\necho /a /b\n"), -E_INVAL);
    assert_int_equal(fails("#!/bin/sh\nkill -9 $$\n"), -E_IO);
    assert_int_equal(fails("#!/nowhere/interpreter\n"), -E_NOENT);
    assert_int_equal(fails("#!/bin/sh\nwhile :; do echo /endless; done\n"), -E_FBIG);
}

static void without_a_script_the_table_alone_counts(void **state)
{
    struct topology topology = {.table = "/nowhere/table"};
    struct topology_place places[1] = {{.name = "a"}};
    assert_int_equal(topology_find(&topology, places, 1), -E_NOENT);
    assert_string_equal(places[0].rack, TOPOLOGY_DEFAULT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_path_for_each_name_is_taken),
                                       cmocka_unit_test(too_few_too_many_and_nonsense_are_refused),
                                       cmocka_unit_test(the_table_gives_racks_to_those_it_names),
                                       cmocka_unit_test(the_script_is_asked_for_what_the_table_does_not_have),
                                       cmocka_unit_test(a_script_that_fails_leaves_the_default_rack),
                                       cmocka_unit_test(without_a_script_the_table_alone_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
