#include "linear.h"

#include "common/err.h"

/* ---- names */

static bool step_directory(const struct history_op *op, bool known, uint64_t *names)
{
    unsigned a = op->a % HISTORY_NAMES, b = op->b % HISTORY_NAMES;
    bool there = names[a] != 0;
    int would = 0;
    switch (op->verb) {
    case VERB_CREATE:
        would = there ? -E_EXIST : 0;
        break;
    case VERB_EXCHANGE:
        would = there && names[b] != 0 ? 0 : -E_NOENT;
        break;
    case VERB_LIST:
        break;
    default:
        would = there ? 0 : -E_NOENT;
    }
    if (known && would != op->status)
        return false;
    if (would != 0)
        return true;
    uint64_t number = names[a];
    switch (op->verb) {
    case VERB_CREATE:
        names[a] = op->b;
        return true;
    case VERB_UNLINK:
        names[a] = 0;
        return true;
    case VERB_RENAME:
        names[a] = 0;
        names[b] = number;
        return true;
    case VERB_EXCHANGE:
        names[a] = names[b];
        names[b] = number;
        return true;
    case VERB_LOOKUP:
        return !known || op->result[0] == number;
    case VERB_LIST:
        return !known || memcmp(op->result, names, sizeof op->result) == 0;
    default:
        return false;
    }
}

/* ---- a size */

static bool step_size(const struct history_op *op, bool known, uint64_t *size)
{
    switch (op->verb) {
    case VERB_APPEND:
        *size += op->a;
        break;
    case VERB_GROW:
        *size = MAX(*size, op->a);
        break;
    case VERB_CUT:
        *size = op->a;
        break;
    case VERB_STAT:
        break;
    default:
        return false;
    }
    return !known || (op->status == 0 && op->result[0] == *size);
}

/* ---- a lock */

static unsigned owner_number(const struct linear_owners *owners, uint64_t id)
{
    unsigned i = 0;
    while (i < owners->n && owners->ids[i] != id)
        i++;
    return i;
}

static void drop(uint64_t *lock, uint64_t who)
{
    lock[1] &= ~who;
    if (lock[0] != 0 && who >> (lock[0] - 1) & 1)
        lock[0] = 0;
}

static bool step_expire(const struct linear_owners *owners, const struct history_op *op, uint64_t *lock)
{
    uint64_t gone = 0;
    for (unsigned i = 0; i < owners->n; i++)
        if (owners->ids[i] >> 16 == op->owner >> 16)
            gone |= UINT64_C(1) << i;
    lock[2] |= gone;
    return true;
}

/* What a session held when it ended is let go some time after (its writes are fenced first): until somebody gets it
 * both a grant and a refusal are right. */
static bool step_acquire(const struct history_op *op, bool known, unsigned number, uint64_t *lock)
{
    uint64_t self = UINT64_C(1) << number, exclusive = lock[0] == 0 ? 0 : UINT64_C(1) << (lock[0] - 1);
    uint64_t conflicts = (exclusive | (op->a == 1 ? lock[1] : 0)) & ~self;
    if (known && op->status == -E_WOULDBLOCK)
        return conflicts != 0;
    if (known && op->status != 0)
        return false;
    if (conflicts & ~lock[2])
        return !known;
    drop(lock, self | conflicts);
    if (op->a == 1)
        lock[0] = number + 1;
    else
        lock[1] |= self;
    return true;
}

static bool step_lock(const struct linear_owners *owners, const struct history_op *op, bool known, uint64_t *lock)
{
    if (op->verb == VERB_EXPIRE)
        return step_expire(owners, op, lock);
    if (op->verb == VERB_READ)
        return !known || (op->status == 0 && op->result[0] == lock[3]);
    unsigned number = owner_number(owners, op->owner);
    if ((lock[2] >> number & 1) && (known || op->verb != VERB_LOCK))
        return !known; /* its session is over: nothing of it happens any more, but that it is granted what it waited for */
    switch (op->verb) {
    case VERB_LOCK:
        return step_acquire(op, known, number, lock);
    case VERB_UNLOCK:
        drop(lock, UINT64_C(1) << number);
        return !known || op->status == 0;
    case VERB_WRITE:
        if (lock[0] != number + 1)
            return !known;
        lock[3] = op->a;
        return !known || op->status == 0;
    default:
        return false;
    }
}

bool linear_step(const struct linear_owners *owners, const struct history_op *op, bool known, struct linear_state *state)
{
    switch (op->kind) {
    case HISTORY_DIRECTORY:
        return step_directory(op, known, state->word);
    case HISTORY_SIZE:
        return step_size(op, known, state->word);
    default:
        return step_lock(owners, op, known, state->word);
    }
}
