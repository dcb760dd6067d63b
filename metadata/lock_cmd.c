/* The commands of locks. Rows: the table of a file and kind; who waits where (the graph for
 * deadlock detection, fcntl only); in which files a session has locks (for its end). */
#include "common/err.h"
#include "lock.h"
#include "lock_delegate.h"
#include "lock_impl.h"
#include "namespace.h"
#include "ops.h"
#include "session.h"

void file_locks_fini(struct file_locks *f)
{
    lock_table_fini(&f->table);
}

int file_locks_load(struct tables *t, uint64_t ino, uint8_t kind, struct file_locks *ret)
{
    *ret = (struct file_locks){.ino = ino, .kind = kind};
    struct key key = key_2(TABLE_LOCKS, ino, kind);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT)
        return 0;
    if (err == 0)
        err = lock_table_decode(value.data, value.len, &ret->table);
    return err == -E_CORRUPT ? tables_corrupt(t, &key, "lock table") : err;
}

int file_locks_store(struct tables *t, const struct file_locks *f)
{
    struct key key = key_2(TABLE_LOCKS, f->ino, f->kind);
    if (f->table.n_held == 0 && f->table.n_waiters == 0)
        return tables_del(t, &key);
    _cleanup_(writer_fini) struct writer w = {0};
    lock_table_encode(&f->table, &w);
    return tables_put(t, &key, &w);
}

/* The row says in which file a session has something. */
static int index_session(struct tables *t, const struct file_locks *f, uint64_t session)
{
    bool has = false;
    for (size_t i = 0; i < f->table.n_held && !has; i++)
        has = f->table.held[i].owner.session == session;
    for (size_t i = 0; i < f->table.n_waiters && !has; i++)
        has = f->table.waiters[i].owner.session == session;
    struct key key = key_3(TABLE_SESSION_LOCK, session, f->ino, f->kind);
    if (has == tables_has(t, &key))
        return 0;
    return has ? tables_put_empty(t, &key) : tables_del(t, &key);
}

static struct key wait_key(const struct lock_range *range)
{
    return key_3(TABLE_LOCK_WAIT, range->owner.session, range->owner.owner, range->waiter);
}

static int wait_index(struct tables *t, const struct file_locks *f, const struct lock_range *range)
{
    if (f->kind != TARN__LOCK_KIND__LOCK_FCNTL)
        return 0;
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(f->ino, &w);
    struct key key = wait_key(range);
    return tables_put(t, &key, &w);
}

/* After anything was given back: whoever can go, goes. */
static int grant_all(struct tables *t, struct file_locks *f)
{
    for (;;) {
        struct lock_range granted;
        bool one;
        int err = lock_table_grant(&f->table, &granted, &one);
        if (err != 0 || !one)
            return err;
        struct key key = wait_key(&granted);
        if (f->kind == TARN__LOCK_KIND__LOCK_FCNTL)
            err = tables_del(t, &key);
        Tarn__LockGranted push = TARN__LOCK_GRANTED__INIT;
        push.waiter = granted.waiter;
        push.ino = f->ino;
        if (err == 0)
            err = tables_push(t, granted.owner.session, OP_LOCK_GRANTED, &push.base);
        if (err != 0)
            return err;
    }
}

int file_locks_finish(struct tables *t, struct file_locks *f, uint64_t session)
{
    int err = grant_all(t, f);
    if (err == 0)
        err = file_locks_store(t, f);
    return err == 0 ? index_session(t, f, session) : err;
}

static int reply(struct tables *t, bool granted, bool queued)
{
    Tarn__LockReply message = TARN__LOCK_REPLY__INIT;
    message.granted = granted;
    message.queued = queued;
    return tables_reply(t, &message.base);
}

/* ---- deadlock: is there a way along "waits for" from those who block `range` back to its owner?
 */
struct graph {
    struct tables *t;
    struct lock_owner self;
    struct lock_owner *owners; /* seen; those from `next` on are still to be looked at */
    size_t count, next;
};

static int graph_add(struct graph *g, const struct lock_owner *owner)
{
    if (lock_owner_same(owner, &g->self))
        return -E_DEADLOCK;
    for (size_t i = 0; i < g->count; i++)
        if (lock_owner_same(&g->owners[i], owner))
            return 0;
    if (g->count == LOCK_WAIT_GRAPH_MAX)
        return -E_NOLCK;
    g->owners[g->count++] = *owner;
    return 0;
}

/* Adds everybody who blocks the range; `before`: waiters ahead of it. */
static int graph_blockers(struct graph *g, const struct lock_table *table,
                          const struct lock_range *range, size_t before)
{
    int err = 0;
    for (size_t i = 0; i < table->n_held && err == 0; i++)
        if (lock_range_blocks(&table->held[i], range))
            err = graph_add(g, &table->held[i].owner);
    if (err != 0 || !lock_table_queued(table, range, before))
        return err;
    for (size_t i = 0; i < before && err == 0; i++)
        if (lock_range_blocks(&table->waiters[i], range))
            err = graph_add(g, &table->waiters[i].owner);
    return err;
}

static int graph_expand(struct graph *g, const struct lock_owner *owner)
{
    struct key prefix = key_2(TABLE_LOCK_WAIT, owner->session, owner->owner);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(g->t, &prefix, &prefix, LOCK_WAIT_GRAPH_MAX, &rows);
    for (size_t r = 0; r < rows.count && err == 0; r++) {
        _cleanup_(file_locks_fini) struct file_locks f = {0};
        uint64_t ino, waiter = key_number(&rows.rows[r].key, 2);
        if (number_decode(rows.rows[r].value, rows.rows[r].len, &ino) != 0)
            return tables_corrupt(g->t, &rows.rows[r].key, "lock wait");
        err = file_locks_load(g->t, ino, TARN__LOCK_KIND__LOCK_FCNTL, &f);
        for (size_t i = 0; i < f.table.n_waiters && err == 0; i++)
            if (f.table.waiters[i].waiter == waiter && lock_owner_same(&f.table.waiters[i].owner, owner))
                err = graph_blockers(g, &f.table, &f.table.waiters[i], i);
    }
    return err;
}

/* before: the waiters ahead of the range. */
static int deadlock_check(struct tables *t, const struct lock_table *table,
                          const struct lock_range *range, size_t before)
{
    struct graph g = {.t = t, .self = range->owner};
    _cleanup_free_ struct lock_owner *owners = calloc(LOCK_WAIT_GRAPH_MAX, sizeof *owners);
    if (owners == NULL)
        return -E_NOMEM;
    g.owners = owners;
    int err = graph_blockers(&g, table, range, before);
    while (err == 0 && g.next < g.count) {
        struct lock_owner owner = g.owners[g.next++];
        err = graph_expand(&g, &owner);
    }
    return err;
}

/* Ends a wait of the table with DEADLOCK. */
static int wait_fail(struct tables *t, struct file_locks *f, const struct lock_range *range)
{
    struct key key = wait_key(range);
    Tarn__LockGranted push = TARN__LOCK_GRANTED__INIT;
    push.waiter = range->waiter;
    push.ino = f->ino;
    push.status = err_to_wire(-E_DEADLOCK);
    int err = tables_del(t, &key);
    if (err == 0)
        err = tables_push(t, range->owner.session, OP_LOCK_GRANTED, &push.base);
    (void)lock_table_unwait(&f->table, range->owner.session, range->waiter);
    if (err == 0)
        err = file_locks_store(t, f);
    return err == 0 ? index_session(t, f, range->owner.session) : err;
}

int file_locks_deadlocks(struct tables *t, struct file_locks *f)
{
    int err = file_locks_store(t, f); /* the search reads rows */
    for (size_t i = 0; i < f->table.n_waiters && err == 0 && f->kind == TARN__LOCK_KIND__LOCK_FCNTL;) {
        struct lock_range waiter = f->table.waiters[i];
        err = deadlock_check(t, &f->table, &waiter, i);
        if (err == -E_DEADLOCK)
            err = wait_fail(t, f, &waiter);
        else
            i++;
        err = t->failed != 0 ? t->failed : 0; /* too large a graph to be searched: it goes on waiting */
    }
    return err;
}

/* ---- LOCK */
static bool waits_already(const struct lock_table *table, const struct lock_range *range)
{
    for (size_t i = 0; i < table->n_waiters; i++)
        if (table->waiters[i].owner.session == range->owner.session &&
            table->waiters[i].waiter == range->waiter)
            return true;
    return false;
}

/* The row of a wait that the search for deadlocks needs is one for each number. */
static int wait_may_begin(struct tables *t, const struct file_locks *f, const struct lock_range *range)
{
    struct key key = wait_key(range);
    if (f->kind != TARN__LOCK_KIND__LOCK_FCNTL)
        return 0;
    if (tables_has(t, &key))
        return tables_fail(t, -E_INVAL, "its owner waits under number %llu in another file",
                           (unsigned long long)range->waiter);
    return t->failed != 0 ? t->failed : deadlock_check(t, &f->table, range, f->table.n_waiters);
}

static int lock_queue(struct tables *t, struct file_locks *f, const struct lock_range *range)
{
    int err = wait_may_begin(t, f, range);
    if (err == 0)
        err = lock_table_wait(&f->table, range);
    if (err == 0)
        err = wait_index(t, f, range);
    if (err == 0)
        err = file_locks_store(t, f);
    if (err == 0)
        err = index_session(t, f, range->owner.session);
    return err == 0 ? reply(t, false, true) : err;
}

/* A flock that has to wait gives up what it converts (L8): two that convert would wait for each other. Nothing here
 * lets it go at once: whoever is in its way is another holder. */
static int lock_convert(struct tables *t, struct file_locks *f, const struct lock_range *range)
{
    struct lock_range old = *range;
    old.type = LOCK_RANGE_UN;
    int err = lock_table_set(&f->table, &old);
    if (err == 0)
        err = lock_table_wait(&f->table, range);
    if (err == 0)
        err = file_locks_finish(t, f, range->owner.session);
    return err == 0 ? reply(t, false, true) : err;
}

static int lock_now(struct tables *t, struct file_locks *f, const struct lock_range *range)
{
    int err = lock_table_set(&f->table, range);
    if (err == 0)
        err = file_locks_finish(t, f, range->owner.session); /* a downgrade lets others in */
    return err == 0 ? reply(t, true, false) : err;
}

/* The range goes to the client, together with what may be decided about without asking. */
static int lock_delegated(struct tables *t, struct file_locks *f, struct lock_range *delegation)
{
    delegation->handle = tables_state(t)->next_handle++;
    int err = lock_table_insert(&f->table, delegation);
    if (err == 0)
        err = file_locks_finish(t, f, t->session);
    Tarn__LockReply message = TARN__LOCK_REPLY__INIT;
    message.granted = true;
    message.delegation = delegation->handle;
    message.start = delegation->start;
    message.end = delegation->end;
    return err == 0 ? tables_reply(t, &message.base) : err;
}

/* The first in the way that is not only a delegation; NULL. */
static const struct lock_range *held_by_a_process(const struct lock_table *table, const struct lock_range *range)
{
    for (size_t i = 0; i < table->n_held; i++)
        if (!lock_is_delegate(&table->held[i]) && lock_range_blocks(&table->held[i], range))
            return &table->held[i];
    return NULL;
}

/* It cannot have it now. */
static int lock_later(struct tables *t, struct file_locks *f, const struct lock_range *range, bool wait)
{
    bool delegated = false;
    if (!wait && held_by_a_process(&f->table, range) != NULL)
        return -E_WOULDBLOCK;
    int err = delegation_ask_back(t, f, range, wait, &delegated);
    if (err == 0 && !wait)
        err = delegated ? -E_BUSY : -E_WOULDBLOCK;
    if (err != 0)
        return err;
    return f->kind == TARN__LOCK_KIND__LOCK_FLOCK && lock_table_has_part(&f->table, range) ? lock_convert(t, f, range)
                                                                                          : lock_queue(t, f, range);
}

int lock_cmd_lock(struct tables *t, const void *message)
{
    const Tarn__Lock *m = message;
    if ((unsigned)m->kind > TARN__LOCK_KIND__LOCK_FLOCK ||
        (unsigned)m->type > TARN__LOCK_TYPE__LOCK_EX || m->end < m->start ||
        (m->wait && m->waiter == 0) || m->owner == LOCK_DELEGATE)
        return tables_fail(t, -E_INVAL, "a lock has a kind, a type, an owner and a range, a wait a number");
    struct lock_range delegation, range = {.owner = {t->session, m->owner},
                               .start = m->start,
                               .end = m->end,
                               .type = (uint8_t)m->type,
                               .pid = m->pid,
                               .handle = m->handle,
                               .waiter = m->waiter};
    struct key inode = key_1(TABLE_INODE, m->ino);
    if (!tables_has(t, &inode))
        return t->failed != 0 ? t->failed : -E_NOENT;
    _cleanup_(file_locks_fini) struct file_locks f = {0};
    int err = file_locks_load(t, m->ino, (uint8_t)m->kind, &f);
    if (err != 0)
        return err;
    if (range.type == TARN__LOCK_TYPE__LOCK_UN)
        return lock_now(t, &f, &range);
    if (m->wait && waits_already(&f.table, &range))
        return reply(t, false, true);
    if (lock_table_holds(&f.table, &range))
        return reply(t, true, false);
    if (lock_table_conflict(&f.table, &range) == NULL &&
        (!m->wait || !lock_table_queued(&f.table, &range, f.table.n_waiters)))
        return m->want_delegation && delegation_fits(&f.table, &range, &delegation)
                   ? lock_delegated(t, &f, &delegation)
                   : lock_now(t, &f, &range);
    return lock_later(t, &f, &range, m->wait);
}

/* ---- CANCEL, DROP, the end of a session */
int lock_cmd_cancel(struct tables *t, const void *message)
{
    const Tarn__LockCancel *m = message;
    for (uint8_t kind = TARN__LOCK_KIND__LOCK_FCNTL; kind <= TARN__LOCK_KIND__LOCK_FLOCK; kind++) {
        _cleanup_(file_locks_fini) struct file_locks f = {0};
        int err = file_locks_load(t, m->ino, kind, &f);
        if (err != 0)
            return err;
        for (size_t i = 0; i < f.table.n_held; i++)
            if (m->waiter != 0 && f.table.held[i].owner.session == t->session &&
                f.table.held[i].waiter == m->waiter)
                return reply(t, true, false);
        for (size_t i = 0; i < f.table.n_waiters; i++) {
            struct lock_range range = f.table.waiters[i];
            if (range.owner.session != t->session || range.waiter != m->waiter)
                continue;
            struct key key = wait_key(&range);
            (void)lock_table_unwait(&f.table, t->session, m->waiter);
            err = kind == TARN__LOCK_KIND__LOCK_FCNTL ? tables_del(t, &key) : 0;
            if (err == 0)
                err = file_locks_finish(t, &f, t->session);
            return err == 0 ? reply(t, false, false) : err;
        }
    }
    return reply(t, false, false);
}

/* Takes all that matches out of one file's locks. */
static int drop(struct tables *t, uint64_t ino, uint8_t kind, uint64_t session, lock_match match,
                const void *arg)
{
    _cleanup_(file_locks_fini) struct file_locks f = {0};
    int err = file_locks_load(t, ino, kind, &f);
    for (size_t i = 0; i < f.table.n_waiters && err == 0; i++) {
        struct key key = wait_key(&f.table.waiters[i]);
        if (kind == TARN__LOCK_KIND__LOCK_FCNTL && match(arg, &f.table.waiters[i]))
            err = tables_del(t, &key);
    }
    size_t removed = 0;
    if (err == 0)
        lock_table_remove(&f.table, match, arg, &removed);
    return err == 0 && removed > 0 ? file_locks_finish(t, &f, session) : err;
}

/* A delegation is no lock of a process: it ends by its return (E8) or with the session. */
static bool match_owner(const void *arg, const struct lock_range *range)
{
    return lock_owner_same(&range->owner, arg) && !lock_is_delegate(range);
}

static bool match_handle(const void *arg, const struct lock_range *range)
{
    const struct lock_range *wanted = arg;
    return range->owner.session == wanted->owner.session && range->handle == wanted->handle && !lock_is_delegate(range);
}

static bool match_session(const void *arg, const struct lock_range *range)
{
    return range->owner.session == *(const uint64_t *)arg;
}

int lock_cmd_drop(struct tables *t, const void *message)
{
    const Tarn__LockDrop *m = message;
    if ((unsigned)m->kind > TARN__LOCK_KIND__LOCK_FLOCK)
        return -E_INVAL;
    struct lock_range wanted = {.owner = {t->session, m->owner}, .handle = m->handle};
    if (m->by_handle)
        return drop(t, m->ino, (uint8_t)m->kind, t->session, match_handle, &wanted);
    return drop(t, m->ino, (uint8_t)m->kind, t->session, match_owner, &wanted.owner);
}

int lock_session_end(struct tables *t, uint64_t session)
{
    struct key prefix = key_1(TABLE_SESSION_LOCK, session);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = drop(t, key_number(&rows.rows[i].key, 1), (uint8_t)key_number(&rows.rows[i].key, 2),
                   session, match_session, &session);
    return err;
}

static int stop_waiting(struct tables *t, uint64_t ino, uint8_t kind, uint64_t session)
{
    _cleanup_(file_locks_fini) struct file_locks f = {0};
    int err = file_locks_load(t, ino, kind, &f);
    bool any = false;
    for (size_t i = 0; i < f.table.n_waiters && err == 0;) {
        struct lock_range waiter = f.table.waiters[i];
        if (waiter.owner.session != session) {
            i++;
            continue;
        }
        struct key key = wait_key(&waiter);
        any = lock_table_unwait(&f.table, session, waiter.waiter);
        err = kind == TARN__LOCK_KIND__LOCK_FCNTL ? tables_del(t, &key) : 0;
    }
    return err == 0 && any ? file_locks_finish(t, &f, session) : err;
}

int lock_session_fence(struct tables *t, uint64_t session)
{
    struct key prefix = key_1(TABLE_SESSION_LOCK, session);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = stop_waiting(t, key_number(&rows.rows[i].key, 1), (uint8_t)key_number(&rows.rows[i].key, 2), session);
    return err;
}

/* Its waiters learn that there is nothing to wait for. */
static int end_waits(struct tables *t, const struct file_locks *f)
{
    int err = 0;
    for (size_t i = 0; i < f->table.n_waiters && err == 0; i++) {
        const struct lock_range *range = &f->table.waiters[i];
        struct key key = wait_key(range);
        if (f->kind == TARN__LOCK_KIND__LOCK_FCNTL)
            err = tables_del(t, &key);
        Tarn__LockGranted push = TARN__LOCK_GRANTED__INIT;
        push.waiter = range->waiter;
        push.ino = f->ino;
        push.status = err_to_wire(-E_NOENT);
        if (err == 0)
            err = tables_push(t, range->owner.session, OP_LOCK_GRANTED, &push.base);
    }
    return err;
}

int lock_inode_end(struct tables *t, uint64_t ino)
{
    int err = 0;
    for (uint8_t kind = TARN__LOCK_KIND__LOCK_FCNTL; kind <= TARN__LOCK_KIND__LOCK_FLOCK && err == 0; kind++) {
        _cleanup_(file_locks_fini) struct file_locks f = {0}, none = {.ino = ino, .kind = kind};
        err = file_locks_load(t, ino, kind, &f);
        if (err != 0 || (f.table.n_held == 0 && f.table.n_waiters == 0))
            continue;
        err = end_waits(t, &f);
        if (err == 0)
            err = file_locks_store(t, &none);
        for (size_t i = 0; i < f.table.n_held && err == 0; i++)
            err = delegation_forget(t, &f.table.held[i]);
        for (size_t i = 0; i < f.table.n_held && err == 0; i++)
            err = index_session(t, &none, f.table.held[i].owner.session);
        for (size_t i = 0; i < f.table.n_waiters && err == 0; i++)
            err = index_session(t, &none, f.table.waiters[i].owner.session);
    }
    return err;
}

int lock_query_get(struct tables *t, const void *message)
{
    const Tarn__GetLock *m = message;
    if ((unsigned)m->kind > TARN__LOCK_KIND__LOCK_FLOCK || m->end < m->start ||
        m->type < TARN__LOCK_TYPE__LOCK_SH || (unsigned)m->type > TARN__LOCK_TYPE__LOCK_EX)
        return -E_INVAL;
    struct lock_range range = {.owner = {t->session, m->owner},
                               .start = m->start,
                               .end = m->end,
                               .type = (uint8_t)m->type};
    _cleanup_(file_locks_fini) struct file_locks f = {0};
    int err = file_locks_load(t, m->ino, (uint8_t)m->kind, &f);
    if (err != 0)
        return err;
    bool delegated = false;
    if (held_by_a_process(&f.table, &range) == NULL) /* then its holder is asked who really has locks there */
        err = delegation_ask_back(t, &f, &range, false, &delegated);
    if (err != 0)
        return err;
    Tarn__GetLockReply out = TARN__GET_LOCK_REPLY__INIT;
    const struct lock_range *found = held_by_a_process(&f.table, &range);
    if (found != NULL) {
        out.conflict = true;
        out.type = (Tarn__LockType)found->type;
        out.start = found->start;
        out.end = found->end;
        out.pid = found->pid;
        out.session = found->owner.session;
        out.owner = found->owner.owner;
    }
    return tables_reply(t, &out.base);
}
