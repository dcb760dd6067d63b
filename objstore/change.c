#include "change.h"

#include "beat.h"
#include "common/err.h"
#include "common/log.h"

/* Alone, without a metadata service, there is nobody who ends sessions. */
static uint64_t session_of(const struct store *s, uint64_t session)
{
    return s->n_meta == 0 ? UINT64_MAX : session;
}

static const char *words(int err)
{
    return err == -E_NO_SESSION ? "the session has ended: what it held may be in other hands"
                                : "this store has no contact with the metadata service";
}

int change_begin(struct change *change, struct store *s, struct rpc_request *request, uint64_t session, bool forwarded)
{
    change->store = s;
    int err = store_may_order(s, forwarded);
    if (err == 0)
        err = fences_enter(&s->fences, &change->op, session_of(s, session), forwarded);
    return err == 0 ? 0 : rpc_reply_error(request, err, NULL, words(err));
}

int change_may_go(const struct change *change, const struct chunk *chunk)
{
    int err = store_may_order(change->store, change->op.forwarded);
    if (err == 0)
        err = fences_check(&change->store->fences, &change->op);
    return err == 0 && chunk->late ? -E_BUSY : err;
}

int change_verdict(struct change *change, struct chunk *chunk, bool done)
{
    struct store *s = change->store;
    int err = 0;
    while (err == 0 && store_in_doubt(s))
        err = s->stopping ? -E_CANCELED : fiber_queue_wait(&s->contact_wake, 0);
    if (err != 0 || !fences_late(&s->fences, &change->op))
        return err;
    if (!done || chunk->late)
        return -E_NO_SESSION;
    log_warn("chunk %llx: a write of session %llu was carried out here when the session had ended; this copy is not served before the "
             "metadata service has decided about it",
             (unsigned long long)chunk->id, (unsigned long long)change->op.session);
    chunk->late = true;
    if (s->beat != NULL)
        beat_tell_late(s->beat, chunk->id);
    return -E_NO_SESSION;
}

void change_end(struct change *change)
{
    struct store *s = change->store;
    if (fences_leave(&s->fences, &change->op) && s->beat != NULL)
        beat_tell(s->beat);
}
