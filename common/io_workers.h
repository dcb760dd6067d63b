/* A few threads for calls that block. Jobs are taken in order; a finished one is kept until the
 * owner's thread takes it, and the owner is told to come by `notify`. Threads start with the first
 * job and block all signals. */
#ifndef TARN_COMMON_IO_WORKERS_H
#define TARN_COMMON_IO_WORKERS_H

#include "base.h"

struct io_workers;
struct io_job { /* embedded or on the stack of a waiting fiber; untouched once taken */
    void (*fn)(void *arg);
    void *arg;
    struct io_job *next;
};

/* `notify` is called on a worker's thread after a job was finished. NULL when out of memory. */
struct io_workers *io_workers_create(unsigned threads, void (*notify)(void *arg), void *arg);
/* 0, or -E_NOMEM when not one thread could be started; then the job stays the caller's. */
int io_workers_submit(struct io_workers *workers, struct io_job *job);
/* All finished jobs, oldest first, chained by `next`. */
struct io_job *io_workers_take(struct io_workers *workers);
void io_workers_destroy(struct io_workers *workers); /* no job may be left */

#endif
