/* Messages between a slot's owner (sandbox.c) and its zygote (zygote.c), one per datagram of a
 * SOCK_SEQPACKET pair between two processes of the same program: plain structs. */
#ifndef TARN_COMPUTE_SANDBOX_WIRE_H
#define TARN_COMPUTE_SANDBOX_WIRE_H

#include "sandbox.h"

enum sandbox_message_kind { SANDBOX_MSG_RUN = 1, SANDBOX_MSG_KILL, SANDBOX_MSG_READY, SANDBOX_MSG_EVENT };

/* RUN: followed by exec, init, input_name and n_env variables, each ended by a NUL; with the message
 * come stdin, stdout, stderr and, when has_input, the input's mount. */
struct sandbox_request {
    uint32_t kind;
    uint32_t uid, gid;
    uint32_t n_env, processes;
    uint8_t strict, has_init, has_input;
    uint8_t limit_address_space, limit_processes; /* by resource limits: no control group does */
    uint64_t memory, scratch;
};
#define SANDBOX_FDS_MAX 4

/* READY (event.setup_errno and step tell whether) and EVENT. */
struct sandbox_answer {
    uint32_t kind;
    struct sandbox_event event;
};

struct cgroup;
struct zygote_options {
    int sock;
    pid_t parent;
    const char *dir;
    struct cgroup *group; /* NULL = none */
};
/* The zygote's life; does not return. */
_Noreturn void zygote_main(const struct zygote_options *options);

#endif
