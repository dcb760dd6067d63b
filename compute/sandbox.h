/* One slot in which tasks run, one at a time, each in a fresh sandbox. A slot is a small process, the
 * zygote, started before the first task: it sits in the slot's control group, in its own network
 * namespace (loopback only), on a read-only root made of the machine's userland, and clones every task
 * from itself into new mount, pid and ipc namespaces. docs/ops/jobs.md says what a task sees.
 *
 * The zygote dies with the process that started it, and its task with it: nothing is left behind.
 * Threads: sandbox_start() and everything else on one and the same thread, which must live as long
 * as the slot (the kernel ties the zygote to it). Nothing here waits except sandbox_start() (ms) and
 * sandbox_stop() (until the task's processes are gone). Needs root. */
#ifndef TARN_COMPUTE_SANDBOX_H
#define TARN_COMPUTE_SANDBOX_H

#include "common/base.h"

/* One argument of exec is at most 128 KiB (MAX_ARG_STRLEN); the rest of a request must fit beside it. */
#define SANDBOX_EXEC_MAX 100000
#define SANDBOX_REQUEST_MAX KIB(192)
#define SANDBOX_ENV_MAX 32
#define SANDBOX_SCRATCH_DEFAULT GIB(1)
#define SANDBOX_PROCESSES_DEFAULT 512

struct sandbox_options {
    const char *dir;    /* an existing directory that the zygote may mount over, privately */
    const char *cgroup; /* name for the slot's control group; NULL = none */
};

struct sandbox_task {
    const char *exec;        /* bash -c EXEC */
    const char *init;        /* bash -c INIT before it; NULL or empty = none */
    bool strict;             /* bash -e -o pipefail */
    uint32_t uid, gid;       /* 0 becomes 65534, nobody */
    uint64_t memory;         /* bytes, 0 = no limit */
    uint64_t scratch;        /* bytes of /tmp, 0 = the default */
    uint32_t cpu_milli;      /* weight, 0 = 1000 */
    uint32_t processes;      /* 0 = the default */
    const char *const *env;  /* NAME=value */
    unsigned n_env;
    const char *input_name;  /* file name below /tarn/input; NULL = no input file */
    int input_tree;          /* from sandbox_input_tree(); -1 = none */
    int stdin_fd, stdout_fd, stderr_fd;
};

enum sandbox_event_kind { SANDBOX_STARTED, SANDBOX_ENDED };
struct sandbox_event {
    enum sandbox_event_kind kind;
    uint64_t exec_ns;    /* STARTED: CLOCK_MONOTONIC when bash was executed */
    /* ENDED: every process of the task is gone. */
    int setup_errno;     /* the sandbox could not be made: `step` failed; 0 = it was */
    char step[32];
    bool init_failed;    /* status is that of `init` */
    int status;          /* as from waitpid(2) */
    bool core;           /* some process of the task dumped core */
    bool out_of_memory;  /* the kernel killed one of its processes for its memory limit */
    uint64_t cpu_us;
};

struct sandbox;
/* Errors: -E_PERM not root; -E_IO with *ret_why (static) naming the step and the system's words. */
int sandbox_start(const struct sandbox_options *options, struct sandbox **ret, const char **ret_why);
/* Kills the task if there is one, waits for the zygote, removes the control group. NULL allowed. */
void sandbox_stop(struct sandbox *sandbox);

/* Starts a task; the slot must be free. The descriptors and strings are borrowed for the call.
 * -E_INVAL too large; -E_CONN the zygote is gone: stop the slot and start a new one. */
int sandbox_run(struct sandbox *sandbox, const struct sandbox_task *task);
int sandbox_kill(struct sandbox *sandbox); /* no effect when it has ended */
/* The next event: 1; 0 when there is none yet (wait for POLLIN on sandbox_fd()); -E_CONN as above. */
int sandbox_event(struct sandbox *sandbox, struct sandbox_event *ret);
int sandbox_fd(const struct sandbox *sandbox);
bool sandbox_limits_memory(const struct sandbox *sandbox); /* by control group, else by address space */

/* A detached read-only mount of the open file itself, to be bound into a sandbox: same inode, no copy.
 * -E_NOTSUP when the file is of another mount namespace. The caller closes *ret_tree. */
int sandbox_input_tree(int fd, int *ret_tree);

#endif
