#include "lock_world.h"

#include "common/crc.h"
#include "metadata/kv.h"
#include "metadata/record.h"

int lock_setup(void **state)
{
    static struct world w;
    int err = 0;
    world_init(&w);
    *state = &w;
    for (const char *name = "fghi"; *name != 0 && err == 0; name++)
        err = world_make(&w, TARN__FILE_TYPE__FT_FILE, "/", (char[]){*name, 0}, 0644);
    return err;
}

int lock_teardown(void **state)
{
    world_fini(*state);
    return 0;
}

static int ask(struct world *w, Tarn__Lock *m, int type, uint64_t waiter)
{
    m->type = (Tarn__LockType)type;
    m->waiter = waiter;
    m->wait = waiter != 0;
    m->handle = m->owner;
    int err = world_apply(w, OP_LOCK, &m->base, &m->ctx);
    if (err != 0)
        return err;
    Tarn__LockReply *reply = world_reply(w, &tarn__lock_reply__descriptor);
    assert_true(reply->granted != reply->queued);
    return reply->granted ? GRANTED : QUEUED;
}

int lock(struct world *w, uint64_t ino, uint64_t owner, int type, uint64_t start, uint64_t end, uint64_t waiter)
{
    Tarn__Lock m = TARN__LOCK__INIT;
    m.ino = ino;
    m.owner = owner;
    m.start = start;
    m.end = end;
    return ask(w, &m, type, waiter);
}

int lock_flock(struct world *w, uint64_t ino, uint64_t owner, int type, uint64_t waiter)
{
    Tarn__Lock m = TARN__LOCK__INIT;
    m.ino = ino;
    m.kind = FLOCK;
    m.owner = owner;
    m.end = ALL;
    return ask(w, &m, type, waiter);
}

int lock_as(struct world *w, uint64_t session, uint64_t ino, uint64_t owner, int type, uint64_t start, uint64_t end,
            uint64_t waiter)
{
    uint64_t own = w->session;
    w->session = session;
    int r = lock(w, ino, owner, type, start, end, waiter);
    w->session = own;
    return r;
}

uint64_t lock_delegated(struct world *w, uint64_t session, uint64_t ino, uint64_t owner, uint64_t start, uint64_t end)
{
    Tarn__Lock m = TARN__LOCK__INIT;
    uint64_t own = w->session;
    m.ino = ino;
    m.owner = owner;
    m.start = start;
    m.end = end;
    m.want_delegation = true;
    w->session = session;
    assert_int_equal(ask(w, &m, EX, 0), GRANTED);
    w->session = own;
    Tarn__LockReply *reply = world_reply(w, &tarn__lock_reply__descriptor);
    return reply->delegation;
}

int lock_return(struct world *w, uint64_t session, int kind, uint64_t ino, uint64_t number, const struct lock_range *locks,
                size_t n)
{
    Tarn__LockRange *sent = calloc(n + 1, sizeof *sent), **list = calloc(n + 1, sizeof *list);
    assert_true(sent != NULL && list != NULL);
    for (size_t i = 0; i < n; i++) {
        tarn__lock_range__init(&sent[i]);
        sent[i].type = (Tarn__LockType)locks[i].type;
        sent[i].start = locks[i].start;
        sent[i].end = locks[i].end;
        sent[i].owner = locks[i].owner.owner;
        list[i] = &sent[i];
    }
    Tarn__LeaseItem item = TARN__LEASE_ITEM__INIT;
    Tarn__LeaseReturn m = TARN__LEASE_RETURN__INIT;
    uint64_t own = w->session;
    item.kind = (Tarn__LeaseKind)kind;
    item.ino = ino;
    item.number = number;
    m.item = &item;
    m.locks = list;
    m.n_locks = n;
    w->session = session;
    int err = world_apply(w, OP_LEASE_RETURN, &m.base, &m.ctx);
    w->session = own;
    free(sent);
    free(list);
    return err;
}

bool lock_cancel(struct world *w, uint64_t ino, uint64_t waiter)
{
    Tarn__LockCancel m = TARN__LOCK_CANCEL__INIT;
    m.ino = ino;
    m.waiter = waiter;
    assert_int_equal(world_apply(w, OP_LOCK_CANCEL, &m.base, &m.ctx), 0);
    return ((Tarn__LockReply *)world_reply(w, &tarn__lock_reply__descriptor))->granted;
}

int lock_drop(struct world *w, uint64_t ino, int kind, uint64_t owner, uint64_t handle)
{
    Tarn__LockDrop m = TARN__LOCK_DROP__INIT;
    m.ino = ino;
    m.kind = (Tarn__LockKind)kind;
    m.owner = owner;
    m.by_handle = handle != 0;
    m.handle = handle;
    return world_apply(w, OP_LOCK_DROP, &m.base, &m.ctx);
}

uint64_t lock_holder(struct world *w, uint64_t ino, int kind, uint64_t start, uint64_t end)
{
    Tarn__GetLock m = TARN__GET_LOCK__INIT;
    m.ino = ino;
    m.kind = (Tarn__LockKind)kind;
    m.type = (Tarn__LockType)EX;
    m.start = start;
    m.end = end;
    m.owner = UINT64_MAX - 1; /* nobody's */
    assert_int_equal(world_query(w, OP_GETLK, &m.base, &m.ctx), 0);
    Tarn__GetLockReply *reply = world_reply(w, &tarn__get_lock_reply__descriptor);
    return reply->conflict ? reply->owner : 0;
}

static int by_number(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

size_t lock_told(struct world *w, int err, uint64_t *ret, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < w->result.n_pushes; i++) {
        const struct fsm_push *push = &w->result.pushes[i];
        if (push->op != OP_LOCK_GRANTED)
            continue;
        Tarn__LockGranted *m = tarn__lock_granted__unpack(NULL, push->control_len, push->control);
        assert_non_null(m);
        assert_true(n < max);
        assert_int_equal(m->status, err == 0 ? 0 : err_to_wire(err));
        ret[n++] = m->waiter;
        tarn__lock_granted__free_unpacked(m, NULL);
    }
    if (n > 1)
        qsort(ret, n, sizeof *ret, by_number);
    return n;
}

uint64_t lock_told_one(struct world *w)
{
    uint64_t one = 0;
    (void)lock_told(w, 0, &one, 1);
    return one;
}

static int sum(void *arg, struct kv_val key, struct kv_val value)
{
    uint32_t *crc = arg;
    *crc = crc32c(*crc, key.data, key.len);
    *crc = crc32c(*crc, value.data, value.len);
    return 0;
}

uint32_t lock_rows(struct world *w)
{
    static const enum table tables[] = {TABLE_LOCKS, TABLE_LOCK_WAIT, TABLE_SESSION_LOCK, TABLE_RECALLED};
    struct kv_txn *txn;
    uint32_t crc = 0;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        struct key prefix = key_table(tables[i]);
        assert_int_equal(kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, sum, &crc), 0);
    }
    kv_abort(txn);
    return crc;
}
