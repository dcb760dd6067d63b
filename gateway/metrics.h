/* Counters of the gateway and their Prometheus text (GET /metrics). Threads: the io's. */
#ifndef TARN_GATEWAY_METRICS_H
#define TARN_GATEWAY_METRICS_H

#include "client/store.h"
#include "common/bytes.h"
#include "http.h"

#define METRICS_OPS_MAX 64
struct metrics_op {
    const char *name;       /* a literal; "PutObject" */
    uint64_t by_class[6];   /* by first digit of the status */
    uint64_t bytes_in, bytes_out, busy_us;
};
struct metrics {
    struct metrics_op ops[METRICS_OPS_MAX];
    size_t n_ops;
    uint64_t started_s;
};
/* Counts one answered request. */
void metrics_request(struct metrics *metrics, const char *op, const struct http_request *request, uint64_t busy_us);
void metrics_write(const struct metrics *metrics, const struct http_counters *http, const struct stores_counters *stores,
                   struct writer *out);

#endif
