#include "lock_range.h"

#include "err.h"

void lock_table_fini(struct lock_table *table)
{
    free(table->held);
    free(table->waiters);
    *table = (struct lock_table){0};
}

static int held_room(struct lock_table *table, size_t more)
{
    size_t need = table->n_held + more;
    if (need <= table->cap_held)
        return 0;
    size_t cap = MAX(need, table->cap_held * 2 + 4);
    struct lock_range *grown = realloc(table->held, cap * sizeof *grown);
    if (grown == NULL)
        return -E_NOMEM;
    table->held = grown;
    table->cap_held = cap;
    return 0;
}

static int waiters_room(struct lock_table *table)
{
    if (table->n_waiters < table->cap_waiters)
        return 0;
    size_t cap = table->cap_waiters * 2 + 4;
    struct lock_range *grown = realloc(table->waiters, cap * sizeof *grown);
    if (grown == NULL)
        return -E_NOMEM;
    table->waiters = grown;
    table->cap_waiters = cap;
    return 0;
}

bool lock_range_blocks(const struct lock_range *a, const struct lock_range *b)
{
    return !lock_owner_same(&a->owner, &b->owner) && a->start <= b->end && b->start <= a->end &&
           (a->type == LOCK_RANGE_EX || b->type == LOCK_RANGE_EX);
}

const struct lock_range *lock_table_conflict(const struct lock_table *table,
                                             const struct lock_range *range)
{
    for (size_t i = 0; i < table->n_held && table->held[i].start <= range->end; i++)
        if (lock_range_blocks(&table->held[i], range))
            return &table->held[i];
    return NULL;
}

bool lock_table_has_part(const struct lock_table *table, const struct lock_range *range)
{
    for (size_t i = 0; i < table->n_held && table->held[i].start <= range->end; i++)
        if (lock_owner_same(&table->held[i].owner, &range->owner) && table->held[i].end >= range->start)
            return true;
    return false;
}

bool lock_table_queued(const struct lock_table *table, const struct lock_range *range,
                       size_t before)
{
    if (lock_table_has_part(table, range))
        return false;
    for (size_t i = 0; i < before && i < table->n_waiters; i++)
        if (lock_range_blocks(&table->waiters[i], range))
            return true;
    return false;
}

static void held_remove(struct lock_table *table, size_t index)
{
    table->n_held--;
    memmove(&table->held[index], &table->held[index + 1],
            (table->n_held - index) * sizeof *table->held);
}

static void held_insert(struct lock_table *table, const struct lock_range *range)
{
    size_t at = table->n_held;
    while (at > 0 && (table->held[at - 1].start > range->start ||
                      (table->held[at - 1].start == range->start &&
                       (table->held[at - 1].owner.session > range->owner.session ||
                        (table->held[at - 1].owner.session == range->owner.session &&
                         table->held[at - 1].owner.owner > range->owner.owner)))))
        at--;
    memmove(&table->held[at + 1], &table->held[at], (table->n_held - at) * sizeof *table->held);
    table->held[at] = *range;
    table->n_held++;
}

static bool touches(const struct lock_range *a, const struct lock_range *b)
{
    return (a->end == UINT64_MAX || b->start <= a->end + 1) &&
           (b->end == UINT64_MAX || a->start <= b->end + 1);
}

/* What is left of `old` outside of `range` goes back: at most two pieces. */
static void put_rest(struct lock_table *table, const struct lock_range *old,
                     const struct lock_range *range)
{
    if (old->start < range->start) {
        struct lock_range left = *old;
        left.end = range->start - 1;
        held_insert(table, &left);
    }
    if (old->end > range->end) {
        struct lock_range right = *old;
        right.start = range->end + 1;
        held_insert(table, &right);
    }
}

static bool full(const struct lock_table *table, size_t more)
{
    return table->n_held + 2 * table->n_waiters + more > LOCK_RANGES_MAX;
}

static bool cuts_in_two(const struct lock_table *table, const struct lock_range *range)
{
    for (size_t i = 0; i < table->n_held && table->held[i].start < range->start; i++)
        if (lock_owner_same(&table->held[i].owner, &range->owner) && table->held[i].end > range->end)
            return true;
    return false;
}

static int set(struct lock_table *table, const struct lock_range *range)
{
    /* Room for the range and two pieces of a split first, so that nothing fails half way. */
    int err = held_room(table, 3);
    if (err != 0)
        return err;
    struct lock_range merged = *range;
    for (size_t i = 0; i < table->n_held;) {
        struct lock_range old = table->held[i];
        if (!lock_owner_same(&old.owner, &range->owner) || !touches(&old, &merged)) {
            i++;
            continue;
        }
        bool overlaps = old.start <= range->end && range->start <= old.end;
        bool joins = old.type == range->type;
        if (!overlaps && !joins) {
            i++;
            continue;
        }
        held_remove(table, i);
        if (joins) {
            merged.start = MIN(merged.start, old.start);
            merged.end = MAX(merged.end, old.end);
        } else {
            put_rest(table, &old, range);
        }
        if (!joins)
            i = 0; /* pieces went back somewhere; they no longer overlap, so this ends */
    }
    if (range->type != LOCK_RANGE_UN)
        held_insert(table, &merged);
    return 0;
}

int lock_table_set(struct lock_table *table, const struct lock_range *range)
{
    bool unlocks = range->type == LOCK_RANGE_UN;
    if (unlocks ? cuts_in_two(table, range) && full(table, 1) : full(table, 2))
        return -E_NOLCK;
    return set(table, range);
}

int lock_table_insert(struct lock_table *table, const struct lock_range *range)
{
    int err = full(table, 1) ? -E_NOLCK : held_room(table, 1);
    if (err == 0)
        held_insert(table, range);
    return err;
}

int lock_table_wait(struct lock_table *table, const struct lock_range *waiter)
{
    if (full(table, 2))
        return -E_NOLCK;
    int err = waiters_room(table);
    if (err == 0)
        table->waiters[table->n_waiters++] = *waiter;
    return err;
}

static void waiter_remove(struct lock_table *table, size_t index)
{
    table->n_waiters--;
    memmove(&table->waiters[index], &table->waiters[index + 1],
            (table->n_waiters - index) * sizeof *table->waiters);
}

bool lock_table_unwait(struct lock_table *table, uint64_t session, uint64_t waiter)
{
    for (size_t i = 0; i < table->n_waiters; i++)
        if (table->waiters[i].owner.session == session && table->waiters[i].waiter == waiter) {
            waiter_remove(table, i);
            return true;
        }
    return false;
}

int lock_table_grant(struct lock_table *table, struct lock_range *ret, bool *ret_granted)
{
    *ret_granted = false;
    for (size_t i = 0; i < table->n_waiters; i++) {
        struct lock_range waiter = table->waiters[i];
        if (lock_table_conflict(table, &waiter) != NULL || lock_table_queued(table, &waiter, i))
            continue;
        int err = set(table, &waiter);
        if (err != 0)
            return err;
        waiter_remove(table, i);
        *ret = waiter;
        *ret_granted = true;
        return 0;
    }
    return 0;
}

void lock_table_remove(struct lock_table *table, lock_match match, const void *arg,
                       size_t *ret_removed)
{
    size_t held = 0, waiters = 0;
    for (size_t i = 0; i < table->n_held; i++)
        if (!match(arg, &table->held[i]))
            table->held[held++] = table->held[i];
    for (size_t i = 0; i < table->n_waiters; i++)
        if (!match(arg, &table->waiters[i]))
            table->waiters[waiters++] = table->waiters[i];
    *ret_removed = table->n_held - held + table->n_waiters - waiters;
    table->n_held = held;
    table->n_waiters = waiters;
}

bool lock_table_holds(const struct lock_table *table, const struct lock_range *range)
{
    for (size_t i = 0; i < table->n_held; i++) {
        const struct lock_range *h = &table->held[i];
        if (lock_owner_same(&h->owner, &range->owner) && h->type == range->type &&
            h->start <= range->start && h->end >= range->end)
            return true;
    }
    return false;
}
