/* Locks: asked for, waited for, given up. */
#include "meta_internal.h"

#define LOCK_ASK_AGAIN_MS 15000 /* a grant whose push was dropped is found this soon */

void meta_waits_wake(struct meta *meta)
{
    size_t at = 0;
    uint64_t waiter;
    void *value;
    while (map_next(&meta->waits, &at, &waiter, &value))
        fiber_queue_wake_all(&((struct lock_wait *)value)->queue);
}

void meta_lock_granted(struct meta *meta, const uint8_t *control, size_t control_len)
{
    Tarn__LockGranted *grant = tarn__lock_granted__unpack(NULL, control_len, control);
    if (!grant)
        return;
    struct lock_wait *wait = map_get(&meta->waits, grant->waiter);
    if (wait) {
        wait->granted = true;
        wait->status = err_from_wire(grant->status);
        fiber_queue_wake_all(&wait->queue);
    }
    tarn__lock_granted__free_unpacked(grant, NULL);
}

uint64_t meta_lock_waiter(struct meta *meta)
{
    return ++meta->last_waiter;
}

static int lock_ask(struct meta *meta, uint64_t session, Tarn__Lock *ask, const struct meta_cred *cred, bool *granted)
{
    Tarn__LockReply *reply = NULL;
    if (ask->want_delegation)
        lease_lock_asking(meta->leases, ask);
    int r = meta_call_in(meta, session, OP_LOCK, &ask->base, &ask->ctx, cred, &tarn__lock_reply__descriptor,
                      &reply, NULL);
    int kept = ask->want_delegation ? lease_lock_asked(meta->leases, session, ask, r < 0 ? NULL : reply) : 0;
    if (r < 0)
        return r;
    *granted = reply->granted;
    bool queued = reply->queued;
    tarn__lock_reply__free_unpacked(reply, NULL);
    if (kept < 0)
        return kept;
    return *granted || queued ? 0 : -E_WOULDBLOCK;
}

/* Takes the request out of the queue. 0: the grant came first and is kept. */
static int lock_give_up(struct meta *meta, uint64_t session, const Tarn__Lock *lock, const struct meta_cred *cred)
{
    Tarn__LockCancel cancel = TARN__LOCK_CANCEL__INIT;
    cancel.ino = lock->ino;
    cancel.waiter = lock->waiter;
    Tarn__LockReply *reply = NULL;
    int r = meta_call_in(meta, session, OP_LOCK_CANCEL, &cancel.base, &cancel.ctx, cred,
                      &tarn__lock_reply__descriptor, &reply, NULL);
    if (r < 0)
        return r;
    bool granted = reply->granted;
    tarn__lock_reply__free_unpacked(reply, NULL);
    return granted ? 0 : -E_INTR;
}

static bool lock_undecided(const struct meta *meta, const struct lock_wait *wait, uint64_t epoch)
{
    return !wait->granted && !wait->interrupted && !meta->closing && meta->epoch == epoch &&
           meta->session == wait->session;
}

static int lock_wait_run(struct meta *meta, struct lock_wait *wait, Tarn__Lock *ask,
                         const struct meta_cred *cred)
{
    for (;;) {
        uint64_t epoch = meta->epoch;
        bool granted = false;
        int r = lock_ask(meta, wait->session, ask, cred, &granted);
        if (r < 0 || granted)
            return r;
        fiber_queue_wake_all(&meta->keeper); /* it now pings more often */
        r = 0;
        while (r == 0 && lock_undecided(meta, wait, epoch))
            r = fiber_queue_wait(&wait->queue, LOCK_ASK_AGAIN_MS);
        meta_session_check(meta);
        if (meta->session != wait->session)
            return -E_NO_SESSION; /* also when it was granted: what was granted is lost */
        if (wait->granted)
            return wait->status;
        if (meta->closing || r == -E_CANCELED)
            return -E_CANCELED;
        if (wait->interrupted)
            return lock_give_up(meta, wait->session, ask, cred);
    }
}

int meta_lock(struct meta *meta, const Tarn__Lock *lock, const struct meta_cred *cred)
{
    return meta_lock_in(meta, 0, lock, cred);
}

int meta_lock_in(struct meta *meta, uint64_t session, const Tarn__Lock *lock, const struct meta_cred *cred)
{
    Tarn__Lock ask = *lock;
    if (!ask.wait) {
        bool granted;
        return lock_ask(meta, session, &ask, cred, &granted);
    }
    struct lock_wait wait = {.waiter = ask.waiter};
    CHECK(wait.waiter != 0 && !map_get(&meta->waits, wait.waiter));
    int r = map_put(&meta->waits, wait.waiter, &wait); /* before any wait: from now on it can be interrupted */
    if (r < 0)
        return r;
    fiber_group_add(&meta->fibers);
    r = meta_session_ensure(meta);
    wait.session = session != 0 ? session : meta->session;
    if (r == 0)
        r = wait.interrupted ? -E_INTR : lock_wait_run(meta, &wait, &ask, cred);
    map_remove(&meta->waits, wait.waiter);
    fiber_group_done(&meta->fibers);
    return r;
}

void meta_lock_interrupt(struct meta *meta, uint64_t waiter)
{
    struct lock_wait *wait = map_get(&meta->waits, waiter);
    if (!wait)
        return;
    wait->interrupted = true;
    fiber_queue_wake_all(&wait->queue);
}
