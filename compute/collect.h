/* What a task writes: standard output becomes an object while it runs, of standard error the beginning
 * and the end are kept. Threads: the io's, from fibers; memory is bounded whatever the task writes. */
#ifndef TARN_COMPUTE_COLLECT_H
#define TARN_COMPUTE_COLLECT_H

#include "client/object.h"

#define COLLECT_ERR_HEAD KIB(32)
#define COLLECT_ERR_TAIL KIB(32)

/* Reads `fd` to its end into a new object `path` (from the root). Nothing is visible yet: *ret is for the
 * commit of the task. On failure the rest is read and dropped, so that the writer is not held up. */
int collect_output(struct meta *meta, struct stores *stores, int fd, const char *path, uint32_t uid, uint32_t gid,
                   Tarn__NewObject **ret);

struct collect_err {
    uint8_t *head, *tail; /* tail: a ring */
    size_t head_len;
    uint64_t tail_total;  /* bytes that went through the ring */
};
/* Reads `fd` to its end. Zero-initialise; collect_err_fini() in any case. */
int collect_err_read(struct io *io, int fd, struct collect_err *err);
/* What was kept as an object, with a line that tells what is missing. */
int collect_err_store(struct meta *meta, struct stores *stores, const struct collect_err *err, const char *path,
                      uint32_t uid, uint32_t gid, Tarn__NewObject **ret);
bool collect_err_empty(const struct collect_err *err);
void collect_err_fini(struct collect_err *err);

#endif
