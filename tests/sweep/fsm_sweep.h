/* What the scripts of the sweep over commands are written with. Each step is carried out with every allocation failing in
 * turn, then with none failing, and that stays. Anything else than what is expected ends the process with status 1. Threads: one. */
#ifndef TARN_TESTS_SWEEP_FSM_SWEEP_H
#define TARN_TESTS_SWEEP_FSM_SWEEP_H

#include "meta.pb-c.h"
#include "metadata/fsm.h"

#define SWEEP_OPS 128 /* numbers of commands and queries are below */
#define SWEEP_NOW UINT64_C(1700000000000000000) /* ns since 1970; each command is 1 ns later */

struct sweep {
    struct kv *kv;
    uint64_t index, seq, session; /* who asks */
    unsigned commands, failures;
    bool done[SWEEP_OPS]; /* carried out with success */
    struct fsm_result last;
};

/* A change that comes to the answer `expected` (0 or a negative code). */
void sweep_apply(struct sweep *s, unsigned op, const ProtobufCMessage *message, int expected);
/* A query, as above. */
void sweep_query(struct sweep *s, unsigned op, const ProtobufCMessage *message, int expected);
/* What the leader's own fibers read of the tables as they are: tasks, work due, sessions, recalls, fences. */
void sweep_look(struct sweep *s);
Tarn__Ctx *sweep_ctx(struct sweep *s); /* of the next change; valid until the next call */
/* The last answer; valid until the next call. NULL: frees what is kept. */
void *sweep_reply(struct sweep *s, const ProtobufCMessageDescriptor *type);

/* Sessions and nodes; names, locks, leases, quotas, snapshots; chunks, nodes, users, jobs; the end of the sessions. */
void sweep_script_begin(struct sweep *s);
void sweep_script_tree(struct sweep *s);
void sweep_script_cluster(struct sweep *s);
void sweep_script_end(struct sweep *s);

#endif
