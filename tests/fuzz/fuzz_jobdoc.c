/* Job documents. What is accepted obeys the rules of each phase; what is refused has a sentence. */
#include "fuzz.h"

#include "client/job_doc.h"
#include "common/check.h"
#include "common/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct job_doc *doc = NULL;
    char why[JOB_DOC_WHY] = "";
    int err = job_doc_parse((const char *)data, size, &doc, why);
    if (err != 0) {
        CHECK(doc == NULL && (err == -E_NOMEM || (err == -E_INVAL && why[0] != '\0')));
        return 0;
    }
    CHECK(doc->job.n_phases >= 1 && doc->job.n_phases <= JOB_DOC_PHASES_MAX);
    for (size_t i = 0; i < doc->job.n_phases; i++)
        CHECK(job_doc_check(doc->job.phases[i], i, why) == 0);
    job_doc_free(doc);
    return 0;
}
