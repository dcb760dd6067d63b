#include "route.h"
#include "api.h"
#include "s3.h"
#include "s3_target.h"

void route_request(void *ctx, struct http_request *request)
{
    struct gate *gate = ctx;
    uint64_t began_ns = io_mono_ns(gate->io);
    /* At a bucket's own host every path is a key. */
    bool bucket_host = s3_host_has_bucket(http_head_get(&request->head, "host"), gate->domain);
    bool api = !bucket_host && api_owns(request->head.path);

    const char *op = api ? api_handle(gate, request) : s3_handle(gate, request);
    metrics_request(&gate->metrics, op, request, (io_mono_ns(gate->io) - began_ns) / 1000);
}
