#include "metrics.h"
#include "text.h"

void metrics_request(struct metrics *metrics, const char *op, const struct http_request *request, uint64_t busy_us)
{
    size_t i = 0;

    while (i < metrics->n_ops && strcmp(metrics->ops[i].name, op) != 0)
        i++;
    if (i == METRICS_OPS_MAX)
        return;
    if (i == metrics->n_ops)
        metrics->ops[metrics->n_ops++].name = op;
    struct metrics_op *row = &metrics->ops[i];
    row->by_class[request->status / 100 % 6]++;
    row->bytes_in += request->bytes_in;
    row->bytes_out += request->bytes_out;
    row->busy_us += busy_us;
}

static void head(struct writer *out, const char *name, const char *kind, const char *help)
{
    text_format(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static void single(struct writer *out, const char *name, const char *kind, const char *help, uint64_t value)
{
    head(out, name, kind, help);
    text_format(out, "%s %llu\n", name, (unsigned long long)value);
}

static void write_ops(const struct metrics *metrics, struct writer *out)
{
    head(out, "tarn_gateway_requests_total", "counter", "Answered requests by operation and class of status.");
    for (size_t i = 0; i < metrics->n_ops; i++)
        for (unsigned c = 1; c < 6; c++)
            if (metrics->ops[i].by_class[c] > 0)
                text_format(out, "tarn_gateway_requests_total{op=\"%s\",status=\"%uxx\"} %llu\n", metrics->ops[i].name, c,
                            (unsigned long long)metrics->ops[i].by_class[c]);
    head(out, "tarn_gateway_received_bytes_total", "counter", "Bytes of request bodies.");
    for (size_t i = 0; i < metrics->n_ops; i++)
        text_format(out, "tarn_gateway_received_bytes_total{op=\"%s\"} %llu\n", metrics->ops[i].name,
                    (unsigned long long)metrics->ops[i].bytes_in);
    head(out, "tarn_gateway_sent_bytes_total", "counter", "Bytes of response bodies.");
    for (size_t i = 0; i < metrics->n_ops; i++)
        text_format(out, "tarn_gateway_sent_bytes_total{op=\"%s\"} %llu\n", metrics->ops[i].name,
                    (unsigned long long)metrics->ops[i].bytes_out);
    head(out, "tarn_gateway_busy_seconds_total", "counter", "Time from the head of a request to the end of its response.");
    for (size_t i = 0; i < metrics->n_ops; i++)
        text_format(out, "tarn_gateway_busy_seconds_total{op=\"%s\"} %.6f\n", metrics->ops[i].name,
                    (double)metrics->ops[i].busy_us / 1e6);
}

void metrics_write(const struct metrics *metrics, const struct http_counters *http, const struct stores_counters *stores,
                   struct writer *out)
{
    const struct {
        const char *where;
        uint64_t bytes;
    } reads[] = {{"descriptor", stores->read_fd}, {"local", stores->read_local}, {"rack", stores->read_rack}, {"remote", stores->read_remote}};

    write_ops(metrics, out);
    single(out, "tarn_gateway_connections_total", "counter", "Accepted connections.", http->conns);
    single(out, "tarn_gateway_connections_refused_total", "counter", "Connections past the limit.", http->conns_refused);
    single(out, "tarn_gateway_heads_refused_total", "counter", "Malformed or too large request heads.", http->heads_refused);
    single(out, "tarn_gateway_connections", "gauge", "Open connections.", http->conns_open);
    head(out, "tarn_gateway_store_read_bytes_total", "counter", "Bytes read from chunk stores by distance.");
    for (size_t i = 0; i < ARRAY_SIZE(reads); i++)
        text_format(out, "tarn_gateway_store_read_bytes_total{from=\"%s\"} %llu\n", reads[i].where,
                    (unsigned long long)reads[i].bytes);
    single(out, "tarn_gateway_store_computed_bytes_total", "counter", "Of the bytes read, those computed from other shards of a parity group.",
           stores->read_degraded);
    single(out, "tarn_gateway_store_decompressed_bytes_total", "counter", "Of the bytes read, those that were decompressed.",
           stores->read_compressed);
    single(out, "tarn_gateway_store_hedges_total", "counter", "Reads for which a second place was asked because the first was late.",
           stores->read_hedged);
    single(out, "tarn_gateway_store_hedges_won_total", "counter", "Reads that the second place answered first.", stores->hedges_won);
    single(out, "tarn_gateway_store_written_bytes_total", "counter", "Bytes written to chunk stores.", stores->written);
    single(out, "tarn_gateway_start_time_seconds", "gauge", "When the process started, since 1970.", metrics->started_s);
}
