/* Which door a request came to: the native API's few paths, everything else is S3. Counts what was done. */
#ifndef TARN_GATEWAY_ROUTE_H
#define TARN_GATEWAY_ROUTE_H

#include "gate.h"

/* An http_handler; ctx is the gate. */
void route_request(void *ctx, struct http_request *request);

#endif
