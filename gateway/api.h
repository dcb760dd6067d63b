/* The native API: POST /v1/placement/locations, GET /v1/status, GET /metrics, GET /healthz. The page is
 * docs/protocols/api.md. Threads: the io's; fibers. */
#ifndef TARN_GATEWAY_API_H
#define TARN_GATEWAY_API_H

#include "gate.h"

/* Whether the path belongs to this door. */
bool api_owns(const char *path);
/* Sends the response. Returns the operation's name for the counters (a literal). */
const char *api_handle(struct gate *gate, struct http_request *request);

#endif
