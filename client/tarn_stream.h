/* An answer in parts for a thread of the user: the stream runs as a fiber of the loop thread, the user's
 * thread takes one part at a time and the fiber waits meanwhile. So nothing is copied, at most
 * RPC_PARTS_AHEAD parts lie in memory, and his callbacks run in his own thread. */
#ifndef TARN_CLIENT_TARN_STREAM_H
#define TARN_CLIENT_TARN_STREAM_H

#include "tarn_internal.h"

#include "common/fiber.h"

struct tarn_stream {
    /* set by the user of this header */
    struct tarn *tarn;
    unsigned op;
    ProtobufCMessage *request;
    Tarn__Ctx **ctx;
    const ProtobufCMessageDescriptor *type;
    /* Runs on the loop thread before the part is handed over: makes `request` ask for what comes behind
     * it. META_END after the last part, 0 for more, or a code. */
    meta_part_fn advance;
    void *arg;
    /* internal, the loop thread's */
    struct loop_call call;
    bool started, done, stopped;
    const ProtobufCMessage *part;
    int err;
    struct fiber_queue changed;
};
/* The next part, borrowed until the next call: 1; 0 when there is none; or a code, then
 * stream->call.detail has the server's words. */
int tarn_stream_next(struct tarn_stream *stream, const ProtobufCMessage **ret_part);
/* Ends it, wherever it is; to be called in any case. */
void tarn_stream_close(struct tarn_stream *stream);

#endif
