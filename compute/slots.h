/* The slots of an agent: sandboxes that tasks take in turn. A slot whose zygote died is started again.
 * Threads: slots_start() before the loop, the rest on the same thread, from fibers. */
#ifndef TARN_COMPUTE_SLOTS_H
#define TARN_COMPUTE_SLOTS_H

#include "common/fiber.h"
#include "sandbox.h"

#define SLOTS_MAX 256

struct slot {
    struct sandbox *sandbox; /* NULL: could not be started again */
    bool busy;
};
struct slots {
    unsigned n;
    struct slot *items;
    struct fiber_queue waiters;
    char dir[256], prefix[64];
};

/* *ret_why (static) tells what failed. Control groups of an earlier agent of this node are removed first. */
int slots_start(struct slots *slots, unsigned n, const char *dir, uint32_t node, const char **ret_why);
void slots_stop(struct slots *slots);

/* Waits for a free slot; ends early with -E_INTR when *give_up becomes true and slots_wake() is called. */
int slots_take(struct slots *slots, const bool *give_up, struct slot **ret);
void slots_give(struct slots *slots, struct slot *slot);
void slots_wake(struct slots *slots);
/* The zygote is gone: a new one. The slot stays the caller's. */
int slots_renew(struct slots *slots, struct slot *slot);

#endif
