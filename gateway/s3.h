/* The S3 door: turns a request into a bucket, a key and an operation, checks who asks, runs the handler
 * (s3_call.h), makes XML of failures. The page is docs/protocols/s3.md. Threads: the io's; fibers. */
#ifndef TARN_GATEWAY_S3_H
#define TARN_GATEWAY_S3_H

#include "gate.h"

/* Sends the response. Returns the operation's name for the counters (a literal). */
const char *s3_handle(struct gate *gate, struct http_request *request);

#endif
