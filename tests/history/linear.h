/* Is a history linearizable: can every operation be given one instant between its invocation and its return, such that
 * the object, changed at these instants, gives the results that were seen?
 * Wing and Gong's search with Lowe's memory of configurations (the operations placed so far, and the state), object by
 * object, as porcupine does it. An operation whose result nobody knows may be placed at any later instant, or not at all. Pure.
 *
 * What the objects do (model.c): names as POSIX has them; a size; a lock whose guarded number is written only by its
 * exclusive holder, so that a write of somebody whose session has ended cannot be placed. */
#ifndef TARN_TESTS_LINEAR_H
#define TARN_TESTS_LINEAR_H

#include "history.h"

#define LINEAR_WORDS 4
/* Names: what each stands for, 0 = free. Size: [0]. Lock: [0] exclusive holder + 1, [1] shared holders, [2] owners whose
 * session is over (both by number, bit sets), [3] the guarded number. */
struct linear_state {
    uint64_t word[LINEAR_WORDS];
};
/* Carries the operation out on *state; false when it cannot give the result it gave in this state. One without a known
 * result always can. `owners` numbers the owners of a lock's history. */
struct linear_owners {
    uint64_t ids[64];
    unsigned n;
};
bool linear_step(const struct linear_owners *owners, const struct history_op *op, bool known, struct linear_state *state);

enum linear_verdict { LINEAR_YES, LINEAR_NO, LINEAR_UNDECIDED };
struct linear_report {
    size_t objects, ops, unknown, configurations;
    struct history_op *bad; /* the operations of the object that failed, by invocation; owned, free() */
    size_t n_bad, placed;   /* placed: the most of them that could be */
    struct history_op blocked; /* and then this one could not */
};
/* states_max bounds the configurations of one object; past it (or past 64 owners) the verdict is UNDECIDED: an error. */
enum linear_verdict linear_check(const struct history *history, size_t states_max, struct linear_report *ret);

#endif
