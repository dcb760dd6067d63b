#include "fence.h"

#include "common/check.h"
#include "common/err.h"

void fences_init(struct fences *f)
{
    *f = (struct fences){.enough_ended = FENCE_RANGES_MAX};
    list_init(&f->ops);
}

void fences_fini(struct fences *f)
{
    CHECK(list_empty(&f->ops));
    free(f->ended);
    free(f->pending);
}

/* ------------------------------------------------------------------ who has ended */
/* Index of the first range that does not lie wholly below `session`. */
static size_t ended_at(const struct fences *f, uint64_t session)
{
    size_t low = 0, high = f->n_ended;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (f->ended[middle].last < session)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool has_ended(const struct fences *f, uint64_t session)
{
    size_t at = ended_at(f, session);
    return session == 0 || (at < f->n_ended && f->ended[at].first <= session);
}

static uint64_t pending_number(const struct fences *f, uint64_t session)
{
    for (size_t i = 0; i < f->n_pending; i++)
        if (f->pending[i].session == session)
            return f->pending[i].number;
    return 0;
}

static int ended_room(struct fences *f)
{
    if (f->n_ended < f->cap_ended)
        return 0;
    size_t cap = f->cap_ended * 2 + 16;
    struct fence_range *grown = realloc(f->ended, cap * sizeof *grown);
    if (grown == NULL)
        return -E_NOMEM;
    f->ended = grown;
    f->cap_ended = cap;
    return 0;
}

/* [first, last] and every range that touches it become one. */
static int ended_add(struct fences *f, uint64_t first, uint64_t last)
{
    int err = ended_room(f);
    if (err != 0)
        return err;
    size_t from = ended_at(f, first == 0 ? 0 : first - 1), to = from;
    struct fence_range merged = {first, last};
    while (to < f->n_ended && (last == UINT64_MAX || f->ended[to].first <= last + 1)) {
        merged.first = MIN(merged.first, f->ended[to].first);
        merged.last = MAX(merged.last, f->ended[to].last);
        to++;
    }
    memmove(&f->ended[from + 1], &f->ended[to], (f->n_ended - to) * sizeof *f->ended);
    f->n_ended = f->n_ended + 1 - (to - from);
    f->ended[from] = merged;
    return 0;
}

/* Changes under way whose session has just been fenced hold the fence up. */
static void ops_mark(struct fences *f, uint64_t number)
{
    list_foreach(&f->ops, it) {
        struct fence_op *op = list_entry(it, struct fence_op, link);
        if (op->fence == 0 && (pending_number(f, op->session) != 0 || has_ended(f, op->session)))
            op->fence = number;
    }
}

/* ------------------------------------------------------------------ changes */
int fences_enter(struct fences *f, struct fence_op *op, uint64_t session, bool forwarded)
{
    if (!f->known)
        return -E_BUSY;
    if (has_ended(f, session) || (!forwarded && pending_number(f, session) != 0))
        return -E_NO_SESSION;
    *op = (struct fence_op){.session = session, .fence = pending_number(f, session), .forwarded = forwarded};
    list_init(&op->link);
    list_append(&f->ops, &op->link);
    return 0;
}

int fences_check(const struct fences *f, const struct fence_op *op)
{
    if (op->fence == 0)
        return 0;
    return op->forwarded && !has_ended(f, op->session) ? 0 : -E_NO_SESSION;
}

bool fences_late(const struct fences *f, const struct fence_op *op)
{
    return op->fence != 0 && has_ended(f, op->session);
}

bool fences_leave(struct fences *f, struct fence_op *op)
{
    CHECK(!list_empty(&f->ops));
    list_remove(&op->link);
    return op->fence != 0;
}

/* ------------------------------------------------------------------ what the service tells */
int fences_add(struct fences *f, uint64_t number, uint64_t session)
{
    if (has_ended(f, session) || pending_number(f, session) != 0)
        return 0; /* told twice */
    if (f->n_pending == f->cap_pending) {
        size_t cap = f->cap_pending * 2 + 16;
        struct fence_pending *grown = realloc(f->pending, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        f->pending = grown;
        f->cap_pending = cap;
    }
    f->pending[f->n_pending++] = (struct fence_pending){number, session};
    ops_mark(f, number);
    return 0;
}

int fences_settle(struct fences *f, uint64_t number)
{
    int err = 0;
    for (size_t i = 0; i < f->n_pending && err == 0;) {
        struct fence_pending pending = f->pending[i];
        if (pending.number > number) {
            i++;
            continue;
        }
        err = ended_add(f, pending.session, pending.session);
        if (err == 0)
            f->pending[i] = f->pending[--f->n_pending];
    }
    if (err == 0)
        f->settled = MAX(f->settled, number);
    return err;
}

int fences_forget_below(struct fences *f, uint64_t oldest)
{
    if (oldest <= 1 || (f->n_ended > 0 && f->ended[0].first == 0 && f->ended[0].last >= oldest - 1))
        return 0;
    int err = ended_add(f, 0, oldest - 1);
    if (err == 0)
        ops_mark(f, f->applied); /* of sessions that ended by their own wish: their fence is no number */
    return err;
}

int fences_reset(struct fences *f, uint64_t applied, uint64_t next, const uint64_t *sessions, size_t n)
{
    struct fences fresh = *f;
    fresh.ended = NULL;
    fresh.n_ended = fresh.cap_ended = 0;
    uint64_t from = 0;
    int err = 0;
    for (size_t i = 0; i <= n && err == 0; i++) {
        uint64_t to = i < n ? MIN(sessions[i], next) : next;
        if (to > from)
            err = ended_add(&fresh, from, to - 1);
        from = to + 1;
    }
    if (err != 0) {
        free(fresh.ended);
        return err;
    }
    free(f->ended);
    uint64_t unseen = f->applied + 1; /* the oldest fence that a change under way may not have met */
    *f = fresh;
    f->n_pending = 0;
    f->enough_ended = MAX((size_t)FENCE_RANGES_MAX, 2 * f->n_ended);
    f->known = true;
    ops_mark(f, unseen);
    f->applied = MAX(f->applied, applied);
    return 0;
}

void fences_told(struct fences *f, uint64_t applied)
{
    f->applied = MAX(f->applied, applied);
}

/* ------------------------------------------------------------------ what is told back */
static uint64_t up_to(const struct fences *f, uint64_t most, bool forwarded_too)
{
    list_foreach(&f->ops, it) {
        const struct fence_op *op = list_entry(it, struct fence_op, link);
        if (op->fence != 0 && op->fence <= most && (forwarded_too || !op->forwarded))
            most = op->fence - 1;
    }
    return most;
}

uint64_t fences_ordered(const struct fences *f)
{
    return up_to(f, f->applied, false);
}

uint64_t fences_closed(const struct fences *f)
{
    return up_to(f, MIN(f->applied, f->settled), true);
}

bool fences_crowded(const struct fences *f)
{
    return f->n_ended > f->enough_ended;
}
