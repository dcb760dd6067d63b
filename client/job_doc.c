#include "job_doc.h"

#include "common/base.h"
#include "common/cli.h"
#include "common/err.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>

struct parser {
    char *why;
    size_t phase; /* being read */
};

static int refuse(char *why, const char *fmt, ...) _printf_(2, 3);
static int refuse(char *why, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(why, JOB_DOC_WHY, fmt, args);
    va_end(args);
    return -E_INVAL;
}

/* ---- values. Strings of a message are malloc'd unless they are protobuf's shared empty one. */

static int take_string(const json_t *value, char **ret)
{
    char *copy = strndup(json_string_value(value), json_string_length(value));
    if (copy == NULL)
        return -E_NOMEM;
    if (*ret != protobuf_c_empty_string)
        free(*ret);
    *ret = copy;
    return 0;
}

static int take_text(struct parser *parser, const char *name, const json_t *value, char **ret)
{
    if (!json_is_string(value))
        return refuse(parser->why, "phase %zu: '%s' must be a string", parser->phase, name);
    if (strlen(json_string_value(value)) != json_string_length(value))
        return refuse(parser->why, "phase %zu: '%s' contains a NUL character", parser->phase, name);
    return take_string(value, ret);
}

/* A number of `unit` bytes, or a string with a suffix. */
static int take_size(struct parser *parser, const char *name, const json_t *value, uint64_t unit, uint64_t *ret)
{
    if (json_is_integer(value) && json_integer_value(value) > 0 &&
        !mul_overflows((uint64_t)json_integer_value(value), unit, ret))
        return 0;
    if (json_is_string(value) && cli_parse_size(json_string_value(value), ret) == 0 && *ret > 0)
        return 0;
    return refuse(parser->why, "phase %zu: '%s' must be a number of %s or a string like \"512M\"", parser->phase, name,
                  unit == MIB(1) ? "MiB" : "GiB");
}

static int take_count(struct parser *parser, const char *name, const json_t *value, uint64_t min, uint64_t max,
                      uint64_t *ret)
{
    if (!json_is_integer(value) || json_integer_value(value) < (json_int_t)min ||
        json_integer_value(value) > (json_int_t)max)
        return refuse(parser->why, "phase %zu: '%s' must be a whole number from %llu to %llu", parser->phase, name,
                      (unsigned long long)min, (unsigned long long)max);
    *ret = (uint64_t)json_integer_value(value);
    return 0;
}

static int take_thousandths(struct parser *parser, const char *name, const json_t *value, const char *unit, double max,
                            uint64_t *ret)
{
    double number = json_is_number(value) ? json_number_value(value) : 0;
    if (!(number > 0) || number > max)
        return refuse(parser->why, "phase %zu: '%s' must be a number of %s above 0 and up to %.0f", parser->phase, name,
                      unit, max);
    *ret = (uint64_t)(number * 1000);
    *ret = MAX(*ret, 1ul);
    return 0;
}

/* ---- phases */

static int take_limit(struct parser *parser, const char *name, const json_t *value, Tarn__JobPhase *phase)
{
    uint64_t number = 0;
    int err;
    if (strcmp(name, "count") == 0) {
        err = take_count(parser, name, value, 1, JOB_DOC_REDUCERS_MAX, &number);
        phase->count = (uint32_t)number;
    } else if (strcmp(name, "retries") == 0) {
        err = take_count(parser, name, value, 0, 100, &number);
        phase->retries = (uint32_t)number;
    } else if (strcmp(name, "memory") == 0) {
        err = take_size(parser, name, value, MIB(1), &phase->memory);
    } else if (strcmp(name, "disk") == 0) {
        err = take_size(parser, name, value, GIB(1), &phase->disk);
    } else if (strcmp(name, "cpu") == 0) {
        err = take_thousandths(parser, name, value, "processors", 1024, &number);
        phase->cpu_milli = (uint32_t)number;
    } else if (strcmp(name, "timeout") == 0) {
        err = take_thousandths(parser, name, value, "seconds", 31536000, &phase->timeout_ms);
    } else {
        return refuse(parser->why, "phase %zu: there is no field '%s'", parser->phase, name);
    }
    return err;
}

static int take_field(struct parser *parser, const char *name, const json_t *value, Tarn__JobPhase *phase)
{
    if (strcmp(name, "type") == 0)
        return take_text(parser, name, value, &phase->type);
    if (strcmp(name, "exec") == 0)
        return take_text(parser, name, value, &phase->exec);
    if (strcmp(name, "init") == 0)
        return take_text(parser, name, value, &phase->init);
    if (strcmp(name, "strict") == 0) {
        if (!json_is_boolean(value))
            return refuse(parser->why, "phase %zu: 'strict' must be true or false", parser->phase);
        phase->strict = json_is_true(value);
        return 0;
    }
    if (strcmp(name, "assets") == 0 || strcmp(name, "image") == 0)
        return refuse(parser->why, "phase %zu: '%s' is not available in this version of Tarn", parser->phase, name);
    return take_limit(parser, name, value, phase);
}

int job_doc_check(const Tarn__JobPhase *phase, size_t index, char *why)
{
    bool reduce = strcmp(phase->type, "reduce") == 0;
    if (!reduce && strcmp(phase->type, "map") != 0)
        return refuse(why, "phase %zu: 'type' must be \"map\" or \"reduce\"", index);
    if (phase->exec[0] == '\0')
        return refuse(why, "phase %zu: 'exec' is missing: the command to run", index);
    if (strlen(phase->exec) > JOB_DOC_EXEC_MAX || strlen(phase->init) > JOB_DOC_EXEC_MAX / 2)
        return refuse(why, "phase %zu: the command is longer than %d bytes; put it into a file", index,
                      JOB_DOC_EXEC_MAX);
    if (phase->count != 0 && !reduce)
        return refuse(why, "phase %zu: 'count' is for reduce phases; a map phase has one task per object", index);
    if (phase->count > JOB_DOC_REDUCERS_MAX)
        return refuse(why, "phase %zu: 'count' must be at most %d", index, JOB_DOC_REDUCERS_MAX);
    if (phase->memory != 0 && (phase->memory < JOB_DOC_MEMORY_MIN || phase->memory > JOB_DOC_MEMORY_MAX))
        return refuse(why, "phase %zu: 'memory' must be from 16 MiB to 1 TiB", index);
    return 0;
}

static int read_phase(struct parser *parser, json_t *object, Tarn__JobPhase *phase)
{
    const char *name;
    json_t *value;
    if (!json_is_object(object))
        return refuse(parser->why, "phase %zu must be an object", parser->phase);
    json_object_foreach(object, name, value)
    {
        int err = take_field(parser, name, value, phase);
        if (err != 0)
            return err;
    }
    if (phase->type[0] == '\0' && (phase->type = strdup("map")) == NULL) {
        phase->type = (char *)protobuf_c_empty_string;
        return -E_NOMEM;
    }
    return job_doc_check(phase, parser->phase, parser->why);
}

static int read_phases(struct parser *parser, json_t *array, Tarn__Job *job)
{
    if (!json_is_array(array) || json_array_size(array) == 0)
        return refuse(parser->why, "'phases' must be an array with at least one phase");
    if (json_array_size(array) > JOB_DOC_PHASES_MAX)
        return refuse(parser->why, "a job has at most %d phases", JOB_DOC_PHASES_MAX);
    job->phases = calloc(json_array_size(array), sizeof *job->phases);
    if (job->phases == NULL)
        return -E_NOMEM;
    for (parser->phase = 0; parser->phase < json_array_size(array); parser->phase++) {
        Tarn__JobPhase *phase = malloc(sizeof *phase);
        if (phase == NULL)
            return -E_NOMEM;
        tarn__job_phase__init(phase);
        job->phases[job->n_phases++] = phase;
        int err = read_phase(parser, json_array_get(array, parser->phase), phase);
        if (err != 0)
            return err;
    }
    return 0;
}

/* ---- the document */

static int read_inputs(struct parser *parser, json_t *array, struct job_doc *doc)
{
    size_t i;
    json_t *value;
    if (!json_is_array(array))
        return refuse(parser->why, "'inputs' must be an array of paths");
    doc->inputs = calloc(json_array_size(array) + 1, sizeof *doc->inputs);
    if (doc->inputs == NULL)
        return -E_NOMEM;
    json_array_foreach(array, i, value)
    {
        const char *path = json_string_value(value);
        if (path == NULL || path[0] != '/' || strlen(path) != json_string_length(value))
            return refuse(parser->why, "input %zu must be a path like \"/bucket/key\"", i);
        if ((doc->inputs[doc->n_inputs] = strdup(path)) == NULL)
            return -E_NOMEM;
        doc->n_inputs++;
    }
    return 0;
}

static int read_document(struct parser *parser, json_t *root, struct job_doc *doc)
{
    const char *name;
    json_t *value;
    if (!json_is_object(root))
        return refuse(parser->why, "a job is a JSON object");
    if (json_object_get(root, "phases") == NULL)
        return refuse(parser->why, "'phases' is missing");
    json_object_foreach(root, name, value)
    {
        int err;
        if (strcmp(name, "name") == 0)
            err = json_is_string(value) ? take_string(value, &doc->job.name)
                                        : refuse(parser->why, "'name' must be a string");
        else if (strcmp(name, "phases") == 0)
            err = read_phases(parser, value, &doc->job);
        else if (strcmp(name, "inputs") == 0)
            err = read_inputs(parser, value, doc);
        else
            err = refuse(parser->why, "there is no field '%s' in a job", name);
        if (err != 0)
            return err;
    }
    return 0;
}

int job_doc_parse(const char *text, size_t len, struct job_doc **ret, char *why)
{
    json_error_t error;
    struct parser parser = {.why = why};
    if (len > JOB_DOC_BYTES_MAX)
        return refuse(why, "the document is larger than %u MiB", JOB_DOC_BYTES_MAX >> 20);
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &error);
    if (root == NULL)
        return refuse(why, "not valid JSON: line %d, column %d: %.120s", error.line, error.column, error.text);
    struct job_doc *doc = calloc(1, sizeof *doc);
    int err = -E_NOMEM;
    if (doc != NULL) {
        tarn__job__init(&doc->job);
        err = read_document(&parser, root, doc);
    }
    json_decref(root);
    if (err != 0) {
        job_doc_free(doc);
        return err;
    }
    *ret = doc;
    return 0;
}

void job_doc_free(struct job_doc *doc)
{
    if (doc == NULL)
        return;
    for (size_t i = 0; i < doc->job.n_phases; i++)
        tarn__job_phase__free_unpacked(doc->job.phases[i], NULL);
    free(doc->job.phases);
    if (doc->job.name != protobuf_c_empty_string)
        free(doc->job.name);
    for (size_t i = 0; i < doc->n_inputs; i++)
        free(doc->inputs[i]);
    free(doc->inputs);
    free(doc);
}
