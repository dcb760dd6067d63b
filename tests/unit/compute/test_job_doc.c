/* Job documents: what is accepted, and every sentence a mistake is answered with. */
#include "client/job_doc.h"

#include "common/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct job_doc *parse(const char *text)
{
    struct job_doc *doc = NULL;
    char why[JOB_DOC_WHY] = "";
    if (job_doc_parse(text, strlen(text), &doc, why) != 0)
        fail_msg("%s: %s", text, why);
    return doc;
}

static void mantas_example_is_read(void **state)
{
    struct job_doc *doc = parse("{\"name\":\"word count\",\"phases\":[{\"exec\":\"wc\"},"
                                "{\"type\":\"reduce\",\"count\":2,\"exec\":\"awk\",\"memory\":256,\"disk\":2}]}");
    assert_string_equal(doc->job.name, "word count");
    assert_int_equal(doc->job.n_phases, 2);
    assert_string_equal(doc->job.phases[0]->type, "map");
    assert_string_equal(doc->job.phases[0]->exec, "wc");
    assert_string_equal(doc->job.phases[1]->type, "reduce");
    assert_int_equal(doc->job.phases[1]->count, 2);
    assert_true(doc->job.phases[1]->memory == 256ull << 20);
    assert_true(doc->job.phases[1]->disk == 2ull << 30);
    job_doc_free(doc);
}

static void every_field_of_a_phase_is_read(void **state)
{
    struct job_doc *doc = parse("{\"phases\":[{\"type\":\"map\",\"exec\":\"a\",\"init\":\"b\",\"strict\":true,"
                                "\"memory\":\"64M\",\"disk\":\"1G\",\"cpu\":1.5,\"retries\":3,\"timeout\":0.5}],"
                                "\"inputs\":[\"/x/1\",\"/x/2\"]}");
    const Tarn__JobPhase *phase = doc->job.phases[0];
    assert_string_equal(phase->init, "b");
    assert_true(phase->strict);
    assert_true(phase->memory == 64ull << 20);
    assert_int_equal(phase->cpu_milli, 1500);
    assert_int_equal(phase->retries, 3);
    assert_int_equal(phase->timeout_ms, 500);
    assert_int_equal(doc->n_inputs, 2);
    assert_string_equal(doc->inputs[1], "/x/2");
    job_doc_free(doc);
}

static void every_mistake_has_its_sentence(void **state)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"[]", "a job is a JSON object"},
        {"{}", "'phases' is missing"},
        {"{\"phases\":[]}", "'phases' must be an array with at least one phase"},
        {"{\"phases\":7}", "'phases' must be an array with at least one phase"},
        {"{\"phases\":[7]}", "phase 0 must be an object"},
        {"{\"phases\":[{}]}", "phase 0: 'exec' is missing: the command to run"},
        {"{\"phases\":[{\"exec\":\"\"}]}", "phase 0: 'exec' is missing: the command to run"},
        {"{\"phases\":[{\"exec\":7}]}", "phase 0: 'exec' must be a string"},
        {"{\"phases\":[{\"exec\":\"a\"},{\"exec\":\"b\",\"type\":\"sort\"}]}",
         "phase 1: 'type' must be \"map\" or \"reduce\""},
        {"{\"phases\":[{\"exec\":\"a\",\"colour\":1}]}", "phase 0: there is no field 'colour'"},
        {"{\"phases\":[{\"exec\":\"a\"}],\"colour\":1}", "there is no field 'colour' in a job"},
        {"{\"phases\":[{\"exec\":\"a\",\"image\":\"*\"}]}",
         "phase 0: 'image' is not available in this version of Tarn"},
        {"{\"phases\":[{\"exec\":\"a\",\"assets\":[]}]}",
         "phase 0: 'assets' is not available in this version of Tarn"},
        {"{\"phases\":[{\"exec\":\"a\",\"count\":2}]}",
         "phase 0: 'count' is for reduce phases; a map phase has one task per object"},
        {"{\"phases\":[{\"type\":\"reduce\",\"exec\":\"a\",\"count\":0}]}",
         "phase 0: 'count' must be a whole number from 1 to 1024"},
        {"{\"phases\":[{\"exec\":\"a\",\"retries\":101}]}", "phase 0: 'retries' must be a whole number from 0 to 100"},
        {"{\"phases\":[{\"exec\":\"a\",\"memory\":-1}]}",
         "phase 0: 'memory' must be a number of MiB or a string like \"512M\""},
        {"{\"phases\":[{\"exec\":\"a\",\"disk\":\"lots\"}]}",
         "phase 0: 'disk' must be a number of GiB or a string like \"512M\""},
        {"{\"phases\":[{\"exec\":\"a\",\"memory\":1}]}", "phase 0: 'memory' must be from 16 MiB to 1 TiB"},
        {"{\"phases\":[{\"exec\":\"a\",\"cpu\":0}]}",
         "phase 0: 'cpu' must be a number of processors above 0 and up to 1024"},
        {"{\"phases\":[{\"exec\":\"a\",\"timeout\":\"1h\"}]}",
         "phase 0: 'timeout' must be a number of seconds above 0 and up to 31536000"},
        {"{\"phases\":[{\"exec\":\"a\",\"strict\":1}]}", "phase 0: 'strict' must be true or false"},
        {"{\"phases\":[{\"exec\":\"a\"}],\"name\":1}", "'name' must be a string"},
        {"{\"phases\":[{\"exec\":\"a\"}],\"inputs\":\"/x\"}", "'inputs' must be an array of paths"},
        {"{\"phases\":[{\"exec\":\"a\"}],\"inputs\":[\"x\"]}", "input 0 must be a path like \"/bucket/key\""},
        {"{\"phases\":", "not valid JSON: line 1, column 10: unexpected token near end of file"},
        {"{\"name\":\"a\",\"name\":\"b\"}", "not valid JSON: line 1, column 18: duplicate object key near '\"name\"'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_doc *doc = NULL;
        char why[JOB_DOC_WHY] = "";
        assert_int_equal(job_doc_parse(cases[i].text, strlen(cases[i].text), &doc, why), -E_INVAL);
        assert_null(doc);
        assert_string_equal(why, cases[i].why);
    }
}

static void too_much_is_refused(void **state)
{
    struct job_doc *doc = NULL;
    char why[JOB_DOC_WHY] = "", text[JOB_DOC_PHASES_MAX * 20 + 100];
    int n = snprintf(text, sizeof text, "{\"phases\":[{\"exec\":\"a\"}");
    for (unsigned i = 0; i < JOB_DOC_PHASES_MAX; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, ",{\"exec\":\"a\"}");
    snprintf(text + n, sizeof text - (size_t)n, "]}");
    assert_int_equal(job_doc_parse(text, strlen(text), &doc, why), -E_INVAL);
    assert_string_equal(why, "a job has at most 64 phases");
    assert_int_equal(job_doc_parse(text, (size_t)JOB_DOC_BYTES_MAX + 1, &doc, why), -E_INVAL);
    assert_string_equal(why, "the document is larger than 16 MiB");
    char *exec = calloc(1, JOB_DOC_EXEC_MAX + 2);
    Tarn__JobPhase phase = TARN__JOB_PHASE__INIT;
    assert_non_null(exec);
    memset(exec, 'x', JOB_DOC_EXEC_MAX + 1);
    phase.type = "map";
    phase.exec = exec;
    assert_int_equal(job_doc_check(&phase, 0, why), -E_INVAL);
    assert_string_equal(why, "phase 0: the command is longer than 100000 bytes; put it into a file");
    free(exec);
}

static void every_prefix_of_a_document_is_refused_or_read(void **state)
{
    static const char text[] = "{\"name\":\"n\",\"phases\":[{\"exec\":\"wc\",\"memory\":\"1G\"}],\"inputs\":[\"/a\"]}";
    for (size_t len = 0; len < sizeof text - 1; len++) {
        struct job_doc *doc = NULL;
        char why[JOB_DOC_WHY] = "";
        assert_int_equal(job_doc_parse(text, len, &doc, why), -E_INVAL);
        assert_true(why[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mantas_example_is_read),
        cmocka_unit_test(every_field_of_a_phase_is_read),
        cmocka_unit_test(every_mistake_has_its_sentence),
        cmocka_unit_test(too_much_is_refused),
        cmocka_unit_test(every_prefix_of_a_document_is_refused_or_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
