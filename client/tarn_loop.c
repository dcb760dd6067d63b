/* The thread behind the public library: it runs the loop; calls of any thread are posted to it, each
 * becomes a fiber, and the calling thread sleeps until that has ended. */
#include "tarn_internal.h"

#include "common/err.h"
#include "common/fiber.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

struct waiting {
    struct loop_call *call;
    sem_t done;
    int64_t result;
};

static void waiting_run(void *arg)
{
    struct waiting *waiting = arg;
    waiting->result = waiting->call->run(waiting->call);
    sem_post(&waiting->done);
}

static void waiting_begin(void *arg)
{
    struct waiting *waiting = arg;
    int r = fiber_spawn(waiting->call->tarn->io, "tarn-call", waiting_run, waiting);
    if (r < 0) {
        waiting->result = r;
        sem_post(&waiting->done);
    }
}

int64_t loop_call(struct tarn *tarn, struct loop_call *call, int64_t (*run)(struct loop_call *call))
{
    struct waiting waiting = {.call = call};
    call->tarn = tarn;
    call->run = run;
    sem_init(&waiting.done, 0, 0);
    int r = io_post(tarn->io, waiting_begin, &waiting);
    if (r == 0)
        while (sem_wait(&waiting.done) < 0 && errno == EINTR)
            ;
    sem_destroy(&waiting.done);
    return r < 0 ? r : waiting.result;
}

static void *loop_main(void *arg)
{
    struct tarn *tarn = arg;
    io_run(tarn->io);
    return NULL;
}

int loop_start(struct tarn *tarn)
{
    int r = io_uring_create(NULL, &tarn->io);
    if (r < 0)
        return r;
    sigset_t all, before; /* signals are the program's own business */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int e = pthread_create(&tarn->thread, NULL, loop_main, tarn);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (e == 0)
        return 0;
    io_destroy(tarn->io);
    return err_from_errno(e);
}

static void stop_posted(void *arg)
{
    io_stop(arg);
}

void loop_stop(struct tarn *tarn)
{
    while (io_post(tarn->io, stop_posted, tarn->io) < 0)
        ; /* only memory can be missing, and only for a moment */
    pthread_join(tarn->thread, NULL);
    io_destroy(tarn->io);
}

/* ------------------------------------------------------------------ errors */

static _Thread_local char error_text[768];
static _Thread_local int error_code;

const char *tarn_error(void)
{
    return error_text;
}

int tarn_last_err(void)
{
    return error_code;
}

int public_error_why(int err, const char *what, const char *why)
{
    error_code = err;
    snprintf(error_text, sizeof error_text, "cannot %s: %s", what, why);
    return -err_to_errno(err);
}

int public_error_relative(const char *what, const char *path)
{
    char text[512];
    snprintf(text, sizeof text, "%s %s", what, path);
    return public_error_why(-E_USAGE, text, "paths of the cluster begin with '/'");
}

int public_error(int err, const char *detail, const char *fmt, ...)
{
    char what[512], why[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    bool more = detail && detail[0] && strcmp(detail, err_sentence(err)) != 0;
    snprintf(why, sizeof why, more ? "%s (%.160s)" : "%s", err_sentence(err), detail);
    return public_error_why(err, what, why);
}
