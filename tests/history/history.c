#include "history.h"

#include "common/check.h"
#include "common/err.h"

#include <inttypes.h>

static const char *const kinds[] = {"directory", "size", "lock"};
static const char *const verbs[VERB_COUNT] = {"create", "unlink", "rename", "exchange", "lookup", "list",  "append", "grow",
                                              "cut",    "stat",   "lock",   "unlock",   "write",  "read", "expire"};

void history_fini(struct history *history)
{
    free(history->ops);
    *history = (struct history){0};
}

size_t history_add(struct history *history, const struct history_op *op)
{
    if (history->n == history->cap) {
        history->cap = history->cap * 2 + 256;
        history->ops = realloc(history->ops, history->cap * sizeof *history->ops);
        CHECK(history->ops != NULL);
    }
    history->ops[history->n] = *op;
    return history->n++;
}

const char *history_verb_name(unsigned verb)
{
    return verb < VERB_COUNT ? verbs[verb] : "?";
}

void history_print(FILE *out, const struct history_op *op)
{
    fprintf(out, "%s %u %u %s %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " ", kinds[op->kind], op->key, op->client, verbs[op->verb], op->a,
            op->b, op->owner, op->invoke_ns);
    if (op->return_ns == HISTORY_UNKNOWN)
        fprintf(out, "-");
    else
        fprintf(out, "%" PRIu64, op->return_ns);
    fprintf(out, " %u", err_to_wire(op->status));
    for (unsigned i = 0; i < HISTORY_NAMES; i++)
        fprintf(out, " %" PRIu64, op->result[i]);
    fputc('\n', out);
}

static bool word_find(const char *word, const char *const *words, unsigned n, uint8_t *ret)
{
    for (unsigned i = 0; i < n; i++)
        if (strcmp(word, words[i]) == 0) {
            *ret = (uint8_t)i;
            return true;
        }
    return false;
}

static bool line_parse(const char *line, struct history_op *op)
{
    char kind[16], verb[16], end[24];
    unsigned status;
    *op = (struct history_op){.return_ns = HISTORY_UNKNOWN};
    int n = sscanf(line,
                   "%15s %" SCNu32 " %" SCNu32 " %15s %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %23s %u %" SCNu64 " %" SCNu64
                   " %" SCNu64 " %" SCNu64,
                   kind, &op->key, &op->client, verb, &op->a, &op->b, &op->owner, &op->invoke_ns, end, &status, &op->result[0], &op->result[1],
                   &op->result[2], &op->result[3]);
    if (n != 14 || !word_find(kind, kinds, ARRAY_SIZE(kinds), &op->kind) || !word_find(verb, verbs, VERB_COUNT, &op->verb))
        return false;
    op->status = err_from_wire(status);
    return strcmp(end, "-") == 0 || (sscanf(end, "%" SCNu64, &op->return_ns) == 1 && op->return_ns >= op->invoke_ns);
}

int history_load(struct history *history, const char *path, unsigned *ret_line)
{
    char line[512];
    FILE *in = fopen(path, "re");
    int err = 0;
    *ret_line = 0;
    if (in == NULL)
        return -E_NOENT;
    while (err == 0 && fgets(line, sizeof line, in) != NULL) {
        struct history_op op;
        ++*ret_line;
        if (line_parse(line, &op))
            history_add(history, &op);
        else
            err = -E_INVAL;
    }
    fclose(in);
    return err;
}
