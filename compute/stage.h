/* Inputs of a task: the chunk's own file where it is here, a copy in the scratch directory where it is
 * not, or a stream of many objects into a pipe. What was read is counted by its distance.
 * Threads: the io's, from fibers. At most one window of 1 MiB per task is in memory. */
#ifndef TARN_COMPUTE_STAGE_H
#define TARN_COMPUTE_STAGE_H

#include "client/store.h"
#include "job.pb-c.h"

struct stage {
    struct io *io;
    struct meta *meta;
    struct stores *stores;
    uint32_t node;
    const char *dir; /* staged files live here */
};

struct stage_count {
    struct stores_counters read;
    uint64_t mapped; /* bytes of the file that was bound into the sandbox instead of read */
};

/* The input of a map task. Zero-initialise; stage_input_fini() in any case. */
struct stage_input {
    int stdin_fd; /* an open file description of its own, at offset 0; -1 = none */
    int tree;     /* to be bound into the sandbox; -1 = none */
    char *path;   /* of a staged copy, removed by stage_release(); NULL = the chunk's own file */
};

/* Errors: -E_NOENT the object is gone, -E_ACCES the job's user may not read it, others as of the stores. */
int stage_open(const struct stage *stage, const Tarn__TaskAssign *task, struct stage_input *ret, struct stage_count *count);
/* The sandbox has what it needs: closes and removes what is left here. May be called twice. */
void stage_release(struct stage_input *input);

/* Writes everything a reduce task gets into `fd`, in order. 0 also when the reader went away early. */
int stage_feed(const struct stage *stage, const Tarn__TaskAssign *task, int fd, struct stage_count *count);

/* Removes copies that an earlier agent left behind. */
void stage_sweep(const char *dir);

#endif
