/* One attempt at one task, from its assignment to its report: which step comes next and what is said
 * about it. Pure: the agent carries the actions out and brings back what happened.
 *
 *     NEW -> STAGING -> QUEUED -> STARTING -> RUNNING -> DRAINING -> COMMITTING -> REPORTING -> OVER
 *
 * A kill or a failure on the way leads to REPORTING, through DRAINING while processes are there. What
 * the user did wrong is committed as a failed task; what the system did wrong is only reported, and the
 * allocator starts another attempt. Codes are those of docs/ops/jobs.md. */
#ifndef TARN_COMPUTE_ATTEMPT_H
#define TARN_COMPUTE_ATTEMPT_H

#include "common/base.h"

enum attempt_state {
    ATTEMPT_NEW,        /* assigned */
    ATTEMPT_STAGING,    /* its input is being opened or copied */
    ATTEMPT_QUEUED,     /* waits for a free slot of this node */
    ATTEMPT_STARTING,   /* the sandbox is being made */
    ATTEMPT_RUNNING,    /* the command runs */
    ATTEMPT_DRAINING,   /* its processes are gone; the rest of its output is being stored */
    ATTEMPT_COMMITTING, /* result on its way to the metadata service */
    ATTEMPT_REPORTING,  /* the allocator is being told */
    ATTEMPT_OVER,
    ATTEMPT_STATES
};

enum attempt_action {
    ATTEMPT_DO_NOTHING,
    ATTEMPT_DO_STAGE,
    ATTEMPT_DO_QUEUE,
    ATTEMPT_DO_START,
    ATTEMPT_DO_KILL,
    ATTEMPT_DO_DRAIN,
    ATTEMPT_DO_COMMIT,
    ATTEMPT_DO_REPORT,
    ATTEMPT_DO_FREE
};

enum attempt_event_kind {
    ATTEMPT_ASSIGNED,
    ATTEMPT_STAGED,    /* err: 0 or why not */
    ATTEMPT_SLOT,      /* a slot is ours */
    ATTEMPT_STARTED,
    ATTEMPT_ENDED,     /* exit, below; err != 0: the slot itself was lost */
    ATTEMPT_DRAINED,   /* err: of storing the output */
    ATTEMPT_COMMITTED, /* err: of the commit */
    ATTEMPT_REPORTED,
    ATTEMPT_KILL,      /* cancelled, or void: somebody else has the task now */
    ATTEMPT_STARVED,   /* err: its input failed while it ran */
    ATTEMPT_EXPIRED    /* its time is up */
};

struct attempt_exit {
    int setup_errno; /* the sandbox was not made; `step` says what failed */
    const char *step;
    bool init_failed, core, out_of_memory;
    int status; /* as from waitpid(2) */
};

struct attempt_event {
    enum attempt_event_kind kind;
    int err;
    struct attempt_exit exit;
};

struct attempt {
    enum attempt_state state;
    uint64_t timeout_ms;   /* 0 = none; for the sentence */
    uint32_t retries_left; /* of failures of the user's own */
    bool killed, expired;
    /* The verdict, from DRAINING on. */
    bool failed;        /* by the user's doing: to be committed as failed */
    bool system_error;  /* try again elsewhere */
    bool retry;         /* failed, but the user asked for another try */
    bool over_quota;    /* failed because of that: the commit brings neither output nor standard error */
    bool committed;
    int exit_code, signal;
    const char *code;   /* literal; NULL = success */
    char why[160];
};

void attempt_init(struct attempt *attempt, uint64_t timeout_ms, uint32_t retries_left);
/* Moves on; the action is to be carried out now. An event that does not belong to the state is a mistake
 * of the caller (checked), except KILL, STARVED and EXPIRED, which may come at any time. */
enum attempt_action attempt_step(struct attempt *attempt, const struct attempt_event *event);
const char *attempt_state_name(enum attempt_state state);

#endif
