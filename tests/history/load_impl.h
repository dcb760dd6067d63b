/* What the files of the load share: load.c (sessions, recording, requests that arrive twice), load_work.c (the operations). */
#ifndef TARN_TESTS_HISTORY_LOAD_IMPL_H
#define TARN_TESTS_HISTORY_LOAD_IMPL_H

#include "load.h"

#include "meta.pb-c.h"
#include "ops.h"

struct load_worker {
    struct load *load;
    unsigned number;
    uint64_t waiter; /* of the lock it waits for; 0 = none */
    bool stuck;      /* a lock it may hold could not be given back: it takes none any more in this session */
    uint64_t stuck_session;
};
struct load {
    struct load_options options;
    struct prng prng;
    struct meta *meta;
    struct rpc_client *repeaters[CONFIG_META_MAX];
    struct load_worker workers[LOAD_WORKERS_MAX];
    struct fiber_group workers_running, fibers; /* fibers: second senders */
    uint64_t directories[LOAD_DIRECTORIES], sizes[LOAD_SIZES], locks[LOAD_LOCKS], guarded[LOAD_LOCKS]; /* inodes */
    uint64_t session, session_seen_ns; /* seen: when the last change was asked that it carried out */
    uint64_t answered, doubtful, numbers; /* numbers: given to names so far */
    bool stopping;
};

uint64_t load_now(struct load *load);
uint64_t load_session(struct load *load);
/* Notes an operation as asked; the result when it is certain. */
size_t load_begin(struct load *load, const struct history_op *op);
void load_end(struct load *load, size_t at, int err);
bool load_certain(int err); /* an answer about this request, not about the way to it */
/* meta_call(), and perhaps once more. */
int load_call(struct load *load, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx, const struct meta_cred *cred,
              const ProtobufCMessageDescriptor *type, void *ret_reply);
/* One operation, drawn. */
void load_work(struct load *load, struct load_worker *worker);

#endif
