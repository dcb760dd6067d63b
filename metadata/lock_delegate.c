#include "lock_delegate.h"

#include "common/err.h"
#include "lease_rows.h"
#include "lock_impl.h"

/* The state of a delegation is in fields that a lock of a process uses otherwise. */
static uint64_t number_of(const struct lock_range *range)
{
    return range->handle;
}

static bool is_recalled(const struct lock_range *range)
{
    return range->pid != 0;
}

static Tarn__LeaseKind kind_of(uint8_t lock_kind)
{
    return lock_kind == TARN__LOCK_KIND__LOCK_FCNTL ? TARN__LEASE_KIND__LEASE_LOCKS_FCNTL
                                                    : TARN__LEASE_KIND__LEASE_LOCKS_FLOCK;
}

static uint8_t lock_kind_of(Tarn__LeaseKind kind)
{
    return kind == TARN__LEASE_KIND__LEASE_LOCKS_FCNTL ? TARN__LOCK_KIND__LOCK_FCNTL : TARN__LOCK_KIND__LOCK_FLOCK;
}

static bool overlaps(const struct lock_range *a, const struct lock_range *b)
{
    return a->start <= b->end && b->start <= a->end;
}

bool delegation_fits(const struct lock_table *table, const struct lock_range *request, struct lock_range *ret)
{
    *ret = (struct lock_range){.owner = {request->owner.session, LOCK_DELEGATE}, .type = LOCK_RANGE_EX};
    if (table->n_held == 0 && table->n_waiters == 0) {
        ret->end = UINT64_MAX;
        return true;
    }
    for (size_t i = 0; i < table->n_held; i++)
        if (overlaps(&table->held[i], request))
            return false;
    for (size_t i = 0; i < table->n_waiters; i++)
        if (overlaps(&table->waiters[i], request))
            return false;
    ret->start = request->start;
    ret->end = request->end;
    return true;
}

/* ------------------------------------------------------------------ asking back */

static int recall_one(struct tables *t, const struct file_locks *f, struct lock_range *range)
{
    uint64_t session = range->owner.session;
    int err = is_recalled(range) ? 0 : recalled_put(t, session, f->ino, kind_of(f->kind), number_of(range));
    range->pid = 1;
    return err == 0 ? recalled_push(t, session, f->ino, kind_of(f->kind), number_of(range)) : err;
}

int delegation_ask_back(struct tables *t, struct file_locks *f, const struct lock_range *range, bool now, bool *ret_any)
{
    int err = 0;
    *ret_any = false;
    for (size_t i = 0; i < f->table.n_held && err == 0; i++) {
        struct lock_range *held = &f->table.held[i];
        if (!lock_is_delegate(held) || !lock_range_blocks(held, range))
            continue;
        *ret_any = true;
        struct fsm_recall recall = {.kind = (uint32_t)kind_of(f->kind),
                                    .session = held->owner.session,
                                    .ino = f->ino,
                                    .number = number_of(held),
                                    .marked = is_recalled(held)};
        err = now ? recall_one(t, f, held) : tables_recall(t, &recall);
    }
    return err;
}

static struct lock_range *find(struct lock_table *table, uint64_t session, uint64_t number)
{
    for (size_t i = 0; i < table->n_held; i++) {
        struct lock_range *held = &table->held[i];
        if (lock_is_delegate(held) && held->owner.session == session && number_of(held) == number)
            return held;
    }
    return NULL;
}

int delegation_recall(struct tables *t, const Tarn__LeaseItem *item)
{
    _cleanup_(file_locks_fini) struct file_locks f = {0};
    int err = file_locks_load(t, item->ino, lock_kind_of(item->kind), &f);
    struct lock_range *range = err == 0 ? find(&f.table, item->session, item->number) : NULL;
    if (range == NULL)
        return err;
    err = recall_one(t, &f, range);
    return err == 0 ? file_locks_store(t, &f) : err;
}

int delegation_forget(struct tables *t, const struct lock_range *range)
{
    if (!lock_is_delegate(range) || !is_recalled(range))
        return 0;
    t->result->rights_returned = true;
    return recalled_del(t, range->owner.session, number_of(range));
}

/* ------------------------------------------------------------------ coming back */

static bool match_delegation(const void *arg, const struct lock_range *range)
{
    const struct lock_range *wanted = arg;
    return lock_is_delegate(range) && range->owner.session == wanted->owner.session &&
           number_of(range) == number_of(wanted);
}

/* The client is not trusted to have kept the rules: what it granted must lie inside and exclude each other. */
static int put_lock(struct tables *t, struct file_locks *f, const struct lock_range *within, const Tarn__LockRange *m)
{
    struct lock_range range = {.owner = {t->session, m->owner},
                               .start = m->start,
                               .end = m->end,
                               .type = (uint8_t)m->type,
                               .pid = m->pid,
                               .handle = m->handle};
    bool typed = m->type == TARN__LOCK_TYPE__LOCK_SH || m->type == TARN__LOCK_TYPE__LOCK_EX;
    if (!typed || m->owner == LOCK_DELEGATE || m->end < m->start)
        return tables_fail(t, -E_INVAL, "a returned lock has no type, owner or range of a lock");
    if (m->start < within->start || m->end > within->end)
        return tables_fail(t, -E_INVAL, "a returned lock goes beyond the range that was delegated");
    if (lock_table_conflict(&f->table, &range) != NULL)
        return tables_fail(t, -E_INVAL, "two of the returned locks exclude each other");
    return lock_table_set(&f->table, &range);
}

int delegation_return(struct tables *t, const Tarn__LeaseReturn *m)
{
    _cleanup_(file_locks_fini) struct file_locks f = {0};
    int err = file_locks_load(t, m->item->ino, lock_kind_of(m->item->kind), &f);
    const struct lock_range *found = err == 0 ? find(&f.table, t->session, m->item->number) : NULL;
    if (found == NULL)
        return err; /* came back before */
    struct lock_range range = *found;
    size_t removed = 0;
    lock_table_remove(&f.table, match_delegation, &range, &removed);
    for (size_t i = 0; i < m->n_locks && err == 0; i++)
        err = put_lock(t, &f, &range, m->locks[i]);
    if (err == 0 && is_recalled(&range))
        err = recalled_del(t, t->session, number_of(&range));
    if (err == 0 && f.table.n_waiters > 0)
        err = file_locks_deadlocks(t, &f);
    t->result->rights_returned = true;
    return err == 0 ? file_locks_finish(t, &f, t->session) : err;
}
