/* What every door of the gateway stands on: the session with the cluster, users, counters. One per process. */
#ifndef TARN_GATEWAY_GATE_H
#define TARN_GATEWAY_GATE_H

#include "client/file.h"
#include "metrics.h"
#include "users.h"

struct gate {
    struct io *io;
    struct meta *meta;
    struct stores *stores;
    struct users *users;
    struct http_server *http;
    const char *domain; /* "s3.example.org": buckets are its sub-domains too; NULL = none */
    struct metrics metrics;
    bool uploads_ready; /* the directory of multipart uploads is there */
};

#endif
