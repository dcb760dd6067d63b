/* Control groups of one sandbox slot, on whatever this machine has: version 1 hierarchies, version
 * 2, or both (hybrid). A slot's zygote lives in its group, so tasks are born inside it and nothing
 * is joined while a task waits. Threads: any, one at a time per group. No call waits for long. */
#ifndef TARN_COMPUTE_CGROUP_H
#define TARN_COMPUTE_CGROUP_H

#include "common/base.h"

enum cgroup_control { CGROUP_MEMORY, CGROUP_CPU, CGROUP_PIDS, CGROUP_CONTROLS };

struct cgroup_limits {
    uint64_t memory;    /* bytes; 0 = none */
    uint32_t cpu_milli; /* weight against other tasks: thousandths of a processor; 0 = 1000 */
    uint32_t processes; /* 0 = none */
};

struct cgroup;
/* Makes the group `name` below our own group in every hierarchy that has a control we use.
 * -E_NOTSUP: no control is available; *ret_why (static) says why. */
int cgroup_create(const char *name, struct cgroup **ret, const char **ret_why);
bool cgroup_controls(const struct cgroup *group, enum cgroup_control control);
int cgroup_join(struct cgroup *group, pid_t pid);
int cgroup_limit(struct cgroup *group, const struct cgroup_limits *limits);
/* Processes the kernel has killed in it so far for want of memory. */
uint64_t cgroup_oom_kills(const struct cgroup *group);
/* Kills what is left inside, removes the group, frees. NULL allowed. */
void cgroup_destroy(struct cgroup *group);
/* Removes groups whose name begins with `prefix`: an earlier agent was killed. */
void cgroup_sweep(const char *prefix);

#endif
