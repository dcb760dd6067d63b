/* Job documents: JSON as docs/ops/jobs.md describes it, to messages. The only place that knows their
 * JSON. Nothing is ignored: a field that is not known or not available is refused by name. Pure. */
#ifndef TARN_CLIENT_JOB_DOC_H
#define TARN_CLIENT_JOB_DOC_H

#include "meta.pb-c.h"

#include <stddef.h>
#include <stdint.h>

#define JOB_DOC_WHY 200
#define JOB_DOC_BYTES_MAX (16u << 20)
#define JOB_DOC_PHASES_MAX 64
#define JOB_DOC_REDUCERS_MAX 1024
#define JOB_DOC_EXEC_MAX 100000 /* what one argument of a program may hold, with room to spare */
#define JOB_DOC_MEMORY_MIN (16ull << 20)
#define JOB_DOC_MEMORY_MAX (1ull << 40)

struct job_doc {
    Tarn__Job job; /* name and phases */
    char **inputs;
    size_t n_inputs;
    /* owns everything above */
};
/* 0, or -E_INVAL and one sentence in `why` (JOB_DOC_WHY bytes), or -E_NOMEM. */
int job_doc_parse(const char *text, size_t len, struct job_doc **ret, char *why);
void job_doc_free(struct job_doc *doc); /* NULL allowed */

/* The rules of one phase, for those made from options too: 0 or -E_INVAL and a sentence. */
int job_doc_check(const Tarn__JobPhase *phase, size_t index, char *why);

#endif
