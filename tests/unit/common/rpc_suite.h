/* What rpc.h promises, as tests that run unchanged on both implementations of io. */
#ifndef TARN_TESTS_RPC_SUITE_H
#define TARN_TESTS_RPC_SUITE_H

#include "common/rpc.h"
#include "io_suite.h"
#include "meta.pb-c.h"

extern const struct suite_case rpc_suite[];
extern const size_t n_rpc_suite;
extern const struct suite_case rpc_slow_suite[]; /* they wait seconds: only where time is virtual */
extern const size_t n_rpc_slow_suite;
extern const struct suite_case rpc_stream_suite[]; /* replies in parts */
extern const size_t n_rpc_stream_suite;
extern const struct suite_case rpc_unanswered_suite[];
extern const size_t n_rpc_unanswered_suite;

/* ---- the service under test; its message is ErrorDetail, because it holds a string ---- */
enum { OP_ECHO = 1, OP_FAIL, OP_RETURN, OP_HOLD, OP_TELL, OP_FD, OP_LARGE, OP_CUT, OP_MUTE, OP_NOTE };

struct bench {
    struct io *io;
    struct rpc_auth auth;
    struct rpc_server *server;
    char address[128];
    /* what the service saw */
    unsigned opened, closed, holding, held_max, started;
    uint64_t order[512]; /* epochs of OP_ECHO requests as they started */
    bool aligned;
    struct fiber_queue gate;
    bool gate_open;
    int fd; /* what OP_FD passes */
    struct rpc_conn *last;
    /* what the client's callbacks saw */
    unsigned pushes, lost;
    char pushed[64];
    struct fiber_queue changed;
};

void bench_start(struct bench *bench, struct io *io, const char *address);
void bench_stop(struct bench *bench);
struct rpc_client *bench_client(struct bench *bench);
void open_gate(struct bench *bench);

#endif
