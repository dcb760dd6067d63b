/* The fiber that owns the log's writes: submits what was proposed, writes what raft gave, reports it.
 * One group is on its way to the disk at a time; what comes meanwhile is the next group. */
#include "replica_impl.h"
#include "common/err.h"
#include "common/log.h"

static void submit_refused(struct proposal **list, unsigned n, int err)
{
    for (unsigned i = 0; i < n; i++) {
        list[i]->err = err;
        list[i]->done = true;
        fiber_wake(list[i]->fiber);
    }
}

static void refuse_pending(struct replica *replica, int err)
{
    struct proposal *proposal;
    while ((proposal = proposals_pop(&replica->pending)) != NULL)
        submit_refused(&proposal, 1, err);
}

/* Everything that waits becomes one submission: commands that came while the last group was being
 * written share the next one. */
static int submit_pending(struct replica *replica)
{
    _cleanup_free_ struct proposal **list = calloc(PROPOSALS_PER_SUBMIT, sizeof *list);
    if (list == NULL) {
        refuse_pending(replica, -E_NOMEM);
        return 0;
    }
    int err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    unsigned n = 0;
    size_t bytes = 0;
    while (replica->core_leads && replica->pending.head != NULL && n < PROPOSALS_PER_SUBMIT &&
           bytes < PROPOSAL_BYTES_MAX) {
        bool alone = replica->pending.head->type == RAFT_ENTRY_CHANGE; /* R12 */
        if (alone && n > 0)
            break;
        list[n] = proposals_pop(&replica->pending);
        bytes += list[n++]->len;
        if (alone)
            break;
    }
    if (n > 0) {
        err = core_submit(replica, list, n);
        if (err != 0)
            submit_refused(list, n, err);
    }
    fiber_mutex_unlock(&replica->step_lock);
    return 0;
}

static int report_persisted(struct replica *replica, uint64_t durable)
{
    int err = fiber_mutex_lock(&replica->step_lock);
    if (err != 0)
        return err;
    (void)core_persisted(replica, durable); /* a failure is recorded in `failed` */
    fiber_queue_wake_all(&replica->apply_wake);
    fiber_mutex_unlock(&replica->step_lock);
    return 0;
}

static int flush_failed(struct replica *replica, int err)
{
    if (err == -E_CANCELED)
        return err;
    if (err != -E_NOSPC || wal_broken(replica->wal)) {
        replica_fail(replica, err, "write the log");
        return err;
    }
    if (!replica->muted)
        log_error("replica %u: no space for the log in %s; it acknowledges nothing until there is",
                  replica->options.id, replica->log_dir);
    replica->muted = true;
    refuse_pending(replica, -E_NOSPC);
    return io_sleep_ms(replica->io, RETRY_MS);
}

static int write_once(struct replica *replica)
{
    uint64_t durable = 0;
    replica->flushing = true;
    replica->flush_began_ns = io_mono_ns(replica->io);
    int err = wal_flush(replica->wal, &durable);
    replica->flushing = false;
    fiber_queue_wake_all(&replica->flush_done);
    if (err != 0)
        return flush_failed(replica, err);
    if (replica->muted)
        log_info("replica %u: the log has space again", replica->options.id);
    replica->muted = false;
    return durable > 0 ? report_persisted(replica, durable) : 0;
}

void writer_fiber(void *arg)
{
    struct replica *replica = arg;
    int err = 0;
    while (err == 0 && !replica->stopping && replica->failed == 0) {
        bool submit = replica->core_leads && replica->pending.head != NULL && !replica->muted && !replica->transferring;
        bool write = wal_dirty(replica->wal) && !replica->installing;
        if (!submit && !write) {
            err = fiber_queue_wait(&replica->write_wake, 0);
            continue;
        }
        if (submit) {
            fiber_yield(); /* whoever is about to propose joins this group */
            err = submit_pending(replica);
        }
        if (err == 0 && wal_dirty(replica->wal) && !replica->installing)
            err = write_once(replica);
    }
    if (err != 0 && err != -E_CANCELED)
        replica_fail(replica, err, "write the log"); /* nobody does it any more: not to be a leader that answers nothing */
    fiber_group_done(&replica->fibers);
}
