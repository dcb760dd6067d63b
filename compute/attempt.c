#include "attempt.h"

#include "common/check.h"
#include "common/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>

static const char *const names[ATTEMPT_STATES] = {"new",     "staging",  "queued",     "starting", "running",
                                                  "draining", "committing", "reporting", "over"};

#define BIT(state) (1u << (state))
/* Allowed moves: from each state to these. */
static const unsigned moves[ATTEMPT_STATES] = {
    [ATTEMPT_NEW] = BIT(ATTEMPT_STAGING) | BIT(ATTEMPT_REPORTING),
    [ATTEMPT_STAGING] = BIT(ATTEMPT_QUEUED) | BIT(ATTEMPT_COMMITTING) | BIT(ATTEMPT_REPORTING),
    [ATTEMPT_QUEUED] = BIT(ATTEMPT_STARTING) | BIT(ATTEMPT_REPORTING),
    [ATTEMPT_STARTING] = BIT(ATTEMPT_RUNNING) | BIT(ATTEMPT_DRAINING),
    [ATTEMPT_RUNNING] = BIT(ATTEMPT_DRAINING),
    [ATTEMPT_DRAINING] = BIT(ATTEMPT_COMMITTING) | BIT(ATTEMPT_REPORTING),
    [ATTEMPT_COMMITTING] = BIT(ATTEMPT_COMMITTING) | BIT(ATTEMPT_REPORTING), /* itself: without its output */
    [ATTEMPT_REPORTING] = BIT(ATTEMPT_OVER),
};

void attempt_init(struct attempt *attempt, uint64_t timeout_ms, uint32_t retries_left)
{
    *attempt = (struct attempt){.state = ATTEMPT_NEW, .timeout_ms = timeout_ms, .retries_left = retries_left};
}

const char *attempt_state_name(enum attempt_state state)
{
    return names[state];
}

static enum attempt_action enter(struct attempt *attempt, enum attempt_state state)
{
    static const enum attempt_action actions[ATTEMPT_STATES] = {
        [ATTEMPT_STAGING] = ATTEMPT_DO_STAGE,      [ATTEMPT_QUEUED] = ATTEMPT_DO_QUEUE,
        [ATTEMPT_STARTING] = ATTEMPT_DO_START,     [ATTEMPT_RUNNING] = ATTEMPT_DO_NOTHING,
        [ATTEMPT_DRAINING] = ATTEMPT_DO_DRAIN,     [ATTEMPT_COMMITTING] = ATTEMPT_DO_COMMIT,
        [ATTEMPT_REPORTING] = ATTEMPT_DO_REPORT,   [ATTEMPT_OVER] = ATTEMPT_DO_FREE,
    };
    CHECK((moves[attempt->state] & BIT(state)) != 0);
    attempt->state = state;
    return actions[state];
}

/* ---- verdicts */

static void set_why(struct attempt *attempt, const char *code, const char *fmt, ...) _printf_(3, 4);
static void set_why(struct attempt *attempt, const char *code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(attempt->why, sizeof attempt->why, fmt, args);
    va_end(args);
    attempt->code = code;
}

static void blame_user(struct attempt *attempt)
{
    attempt->failed = true;
    attempt->retry = attempt->retries_left > 0;
}

static void blame_system(struct attempt *attempt, const char *what, const char *detail)
{
    attempt->system_error = true;
    attempt->failed = attempt->retry = false;
    set_why(attempt, "InternalError", "%s: %s", what, detail);
}

static void judge_signal(struct attempt *attempt, const struct attempt_exit *exit)
{
    attempt->signal = WTERMSIG(exit->status);
    set_why(attempt, "UserTaskError", "the command was ended by signal %d (%s)%s", attempt->signal,
            strsignal(attempt->signal), exit->core ? " and dumped core" : "");
}

static void judge_exit(struct attempt *attempt, const struct attempt_exit *exit)
{
    if (WIFSIGNALED(exit->status))
        judge_signal(attempt, exit);
    else
        attempt->exit_code = WEXITSTATUS(exit->status);
    if (exit->status == 0 && !exit->core)
        return;
    blame_user(attempt);
    if (attempt->expired)
        set_why(attempt, "TaskTimeoutError", "the task ran longer than its %llu ms",
                (unsigned long long)attempt->timeout_ms);
    else if (exit->out_of_memory)
        set_why(attempt, "TaskMemoryError", "the task needed more memory than its limit");
    else if (exit->init_failed)
        set_why(attempt, "TaskInitError", "init failed with exit code %d", attempt->exit_code);
    else if (attempt->exit_code != 0)
        set_why(attempt, "UserTaskError", "the command ended with exit code %d", attempt->exit_code);
    else if (attempt->signal == 0)
        set_why(attempt, "UserTaskError", "a process of the task dumped core");
}

static void judge_staging(struct attempt *attempt, int err)
{
    if (err == -E_NOENT || err == -E_ACCES || err == -E_PERM || err == -E_ISDIR) {
        blame_user(attempt);
        attempt->retry = false; /* it would be the same again */
        set_why(attempt, err == -E_NOENT ? "ResourceNotFoundError" : "AuthorizationError",
                "the input cannot be read: %s", err_sentence(err));
        return;
    }
    blame_system(attempt, "the input cannot be read", err_sentence(err));
}

/* ---- moves */

static enum attempt_action after_verdict(struct attempt *attempt)
{
    bool settled = !attempt->system_error && !attempt->retry && !attempt->killed;
    return enter(attempt, settled ? ATTEMPT_COMMITTING : ATTEMPT_REPORTING);
}

static enum attempt_action on_ended(struct attempt *attempt, const struct attempt_event *event)
{
    CHECK(attempt->state == ATTEMPT_STARTING || attempt->state == ATTEMPT_RUNNING);
    if (attempt->code != NULL)
        return enter(attempt, ATTEMPT_DRAINING); /* starved: judged already */
    if (event->err != 0)
        blame_system(attempt, "the sandbox was lost", err_sentence(event->err));
    else if (event->exit.setup_errno != 0)
        blame_system(attempt, event->exit.step, strerror(event->exit.setup_errno));
    else
        judge_exit(attempt, &event->exit);
    return enter(attempt, ATTEMPT_DRAINING);
}

/* The user's quota has no room for the result: that is committed, without it; another try would end the same way. */
static void over_quota(struct attempt *attempt)
{
    blame_user(attempt);
    attempt->retry = false;
    attempt->over_quota = true;
    set_why(attempt, "QuotaExceededError", "the output cannot be stored: %s", err_sentence(-E_DQUOT));
}

static enum attempt_action on_drained(struct attempt *attempt, int err)
{
    if (err == -E_DQUOT && !attempt->failed && !attempt->killed)
        over_quota(attempt);
    else if (err != 0 && !attempt->failed && !attempt->killed)
        blame_system(attempt, "the output cannot be stored", err_sentence(err));
    return after_verdict(attempt);
}

static enum attempt_action on_committed(struct attempt *attempt, int err)
{
    attempt->committed = err == 0;
    if (err == -E_DQUOT && !attempt->over_quota) {
        over_quota(attempt);
        return enter(attempt, ATTEMPT_COMMITTING);
    }
    /* Another attempt is the current one, or the job was cancelled or is over: nobody waits for us. */
    if (err == -E_STALE || err == -E_CONFLICT || err == -E_NOENT || err == -E_CANCELED)
        attempt->killed = true;
    else if (err != 0)
        blame_system(attempt, "the result cannot be committed", err_sentence(err));
    return enter(attempt, ATTEMPT_REPORTING);
}

static enum attempt_action on_kill(struct attempt *attempt)
{
    switch (attempt->state) {
    case ATTEMPT_NEW:
    case ATTEMPT_QUEUED:
        attempt->killed = true;
        return enter(attempt, ATTEMPT_REPORTING);
    case ATTEMPT_STAGING: /* noticed when the staging is over */
    case ATTEMPT_DRAINING:
        attempt->killed = true;
        return ATTEMPT_DO_NOTHING;
    case ATTEMPT_STARTING:
    case ATTEMPT_RUNNING:
        attempt->killed = true;
        return ATTEMPT_DO_KILL;
    default: /* the commit decides */
        return ATTEMPT_DO_NOTHING;
    }
}

enum attempt_action attempt_step(struct attempt *attempt, const struct attempt_event *event)
{
    switch (event->kind) {
    case ATTEMPT_ASSIGNED:
        return enter(attempt, ATTEMPT_STAGING);
    case ATTEMPT_STAGED:
        CHECK(attempt->state == ATTEMPT_STAGING);
        if (attempt->killed)
            return enter(attempt, ATTEMPT_REPORTING);
        if (event->err == 0)
            return enter(attempt, ATTEMPT_QUEUED);
        judge_staging(attempt, event->err);
        return after_verdict(attempt);
    case ATTEMPT_SLOT:
        return enter(attempt, ATTEMPT_STARTING);
    case ATTEMPT_STARTED:
        return enter(attempt, ATTEMPT_RUNNING);
    case ATTEMPT_ENDED:
        return on_ended(attempt, event);
    case ATTEMPT_DRAINED:
        CHECK(attempt->state == ATTEMPT_DRAINING);
        return on_drained(attempt, event->err);
    case ATTEMPT_COMMITTED:
        CHECK(attempt->state == ATTEMPT_COMMITTING);
        return on_committed(attempt, event->err);
    case ATTEMPT_REPORTED:
        return enter(attempt, ATTEMPT_OVER);
    case ATTEMPT_KILL:
        return on_kill(attempt);
    case ATTEMPT_STARVED:
        if (attempt->state != ATTEMPT_STARTING && attempt->state != ATTEMPT_RUNNING)
            return ATTEMPT_DO_NOTHING;
        judge_staging(attempt, event->err);
        return ATTEMPT_DO_KILL;
    case ATTEMPT_EXPIRED:
        if (attempt->state != ATTEMPT_STARTING && attempt->state != ATTEMPT_RUNNING)
            return ATTEMPT_DO_NOTHING;
        attempt->expired = true;
        return ATTEMPT_DO_KILL;
    }
    CHECK(!"an attempt event");
    return ATTEMPT_DO_NOTHING;
}
