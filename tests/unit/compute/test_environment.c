/* The environment that scripts written for Tarn and for Manta find. */
#include "compute/environment.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>

static const char *value_of(const struct environment *env, const char *name)
{
    size_t n = strlen(name);
    for (unsigned i = 0; i < env->n; i++)
        if (strncmp(env->vars[i], name, n) == 0 && env->vars[i][n] == '=')
            return env->vars[i] + n + 1;
    return NULL;
}

static void a_map_task_finds_its_object_under_both_names(void **state)
{
    Tarn__TaskAssign assign = TARN__TASK_ASSIGN__INIT;
    Tarn__TaskKey key = TARN__TASK_KEY__INIT;
    Tarn__TaskInput input = TARN__TASK_INPUT__INIT, *inputs = &input;
    struct environment env;
    key.job = 12;
    key.phase = 1;
    key.index = 34;
    key.attempt = 2;
    input.path = "/logs/2026/a b.gz";
    assign.key = &key;
    assign.inputs = &inputs;
    assign.n_inputs = 1;
    assign.uid = 4000000001u; /* nobody has this number: it stands for itself */
    assert_int_equal(environment_init(&env, &assign, "/jobs/12/out/1.34"), 0);
    assert_string_equal(value_of(&env, "TARN_JOB_ID"), "12");
    assert_string_equal(value_of(&env, "MANTA_JOB_ID"), "12");
    assert_string_equal(value_of(&env, "TARN_TASK_ID"), "12.1.34");
    assert_string_equal(value_of(&env, "TARN_ATTEMPT"), "2");
    assert_string_equal(value_of(&env, "TARN_USER"), "4000000001");
    assert_string_equal(value_of(&env, "MANTA_INPUT_OBJECT"), "/logs/2026/a b.gz");
    assert_string_equal(value_of(&env, "TARN_INPUT_FILE"), "/tarn/input/a b.gz");
    assert_string_equal(value_of(&env, "MANTA_OUTPUT_BASE"), "/jobs/12/out/1.34");
    assert_string_equal(value_of(&env, "HOME"), "/tmp");
    assert_string_equal(env.input_name, "a b.gz");
    environment_fini(&env);
}

static void a_reduce_task_has_no_input_file(void **state)
{
    Tarn__TaskAssign assign = TARN__TASK_ASSIGN__INIT;
    Tarn__TaskKey key = TARN__TASK_KEY__INIT;
    struct environment env;
    assign.key = &key;
    assert_int_equal(environment_init(&env, &assign, "/jobs/0/out/0.0"), 0);
    assert_null(value_of(&env, "TARN_INPUT_FILE"));
    assert_null(env.input_name);
    environment_fini(&env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_map_task_finds_its_object_under_both_names),
        cmocka_unit_test(a_reduce_task_has_no_input_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
