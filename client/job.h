/* Jobs: submit, follow, read the results. What runs where is the allocator's business; this is what a
 * user of the cluster sees (docs/protocols/job.md). Threads: the io's, from fibers. `detail` is 160 bytes
 * for the server's words and may be NULL. */
#ifndef TARN_CLIENT_JOB_H
#define TARN_CLIENT_JOB_H

#include "store.h"

/* Of `job` only name and phases count. */
int job_create(struct meta *meta, const struct meta_cred *cred, const Tarn__Job *job, uint64_t *ret_id, char *detail);
/* Adds objects; of a directory every file below it, in the byte order of their paths. *ret_failed (may be
 * NULL) is the path an error is about, borrowed from `paths`. */
int job_add_inputs(struct meta *meta, const struct meta_cred *cred, uint64_t id, char *const *paths, size_t n,
                   const char **ret_failed, char *detail);
int job_end_inputs(struct meta *meta, const struct meta_cred *cred, uint64_t id, char *detail);
int job_get(struct meta *meta, const struct meta_cred *cred, uint64_t id, Tarn__Job **ret, char *detail);
int job_cancel(struct meta *meta, const struct meta_cred *cred, uint64_t id, char *detail);
/* Asks for JOB_CHANGED pushes. */
int job_watch(struct meta *meta, const struct meta_cred *cred);
bool job_is_over(const Tarn__Job *job);
const char *job_state_name(Tarn__JobState state);
const char *job_task_state_name(Tarn__TaskState state);

/* Visit every one, in order; a non-zero return ends the listing and is returned. */
typedef int (*job_visit_fn)(void *arg, const Tarn__Job *job);
int job_list(struct meta *meta, const struct meta_cred *cred, job_visit_fn fn, void *arg, char *detail);
typedef int (*job_task_fn)(void *arg, const Tarn__Task *task);
int job_tasks(struct meta *meta, const struct meta_cred *cred, uint64_t id, uint32_t phase, job_task_fn fn, void *arg,
              char *detail);

#endif
