/* See tarn_stream.h. */
#include "tarn_stream.h"

#include "common/err.h"

static struct tarn_stream *stream_of(struct loop_call *call)
{
    return container_of(call, struct tarn_stream, call);
}

/* Hands a part over and waits until it was read. */
static int on_part(void *arg, const ProtobufCMessage *part)
{
    struct tarn_stream *s = arg;
    int end = s->advance(s->arg, part);
    if (end < 0)
        return end;
    s->part = part;
    fiber_queue_wake_all(&s->changed);
    int r = 0;
    while (r == 0 && s->part != NULL && !s->stopped)
        r = fiber_queue_wait(&s->changed, 0);
    s->part = NULL;
    return r < 0 ? r : s->stopped ? META_END : end;
}

static void stream_fiber(void *arg)
{
    struct tarn_stream *s = arg;
    s->err = meta_stream(s->tarn->meta, s->op, s->request, s->ctx, &s->tarn->cred, s->type, on_part, s,
                         s->call.detail);
    s->done = true;
    fiber_queue_wake_all(&s->changed);
}

static int64_t next_run(struct loop_call *call)
{
    struct tarn_stream *s = stream_of(call);
    int r = 0;
    if (!s->started) {
        r = fiber_spawn(s->tarn->io, "tarn-stream", stream_fiber, s);
        if (r < 0)
            return r;
        s->started = true;
    } else {
        s->part = NULL;
        fiber_queue_wake_all(&s->changed);
    }
    while (r == 0 && s->part == NULL && !s->done)
        r = fiber_queue_wait(&s->changed, 0);
    return r < 0 ? r : s->part != NULL ? 1 : s->err;
}

int tarn_stream_next(struct tarn_stream *stream, const ProtobufCMessage **ret_part)
{
    int r = (int)loop_call(stream->tarn, &stream->call, next_run);
    if (r > 0)
        *ret_part = stream->part;
    return r;
}

/* The fiber ends on every way: its own waits return when the loop stops, too. */
static int64_t close_run(struct loop_call *call)
{
    struct tarn_stream *s = stream_of(call);
    s->stopped = true;
    fiber_queue_wake_all(&s->changed);
    while (s->started && !s->done)
        if (fiber_queue_wait(&s->changed, 0) < 0)
            fiber_yield();
    return 0;
}

void tarn_stream_close(struct tarn_stream *stream)
{
    (void)loop_call(stream->tarn, &stream->call, close_run);
}
