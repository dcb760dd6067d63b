/* Which sessions a store still takes changes from (X1-X5 in docs/invariants.md). Pure: no clock, no I/O.
 *
 * A session that fell silent is fenced before anything it held goes on to others. The service numbers the fences; a store is
 * told them with the answers to its beats and tells back how far nothing of them is under way any more:
 *
 *   alive ──fences_add──> fenced: the store orders nothing of it; what others order and forward is taken
 *         ──fences_settle──> ended: nothing of it is taken. All stores that are up have reached the state before,
 *                            so nobody orders, and what was ordered before is everywhere or failed.
 *
 * Two steps, because one would cut a write that is under way between two members of a chunk: here taken, there refused.
 * Memory: ended sessions are kept as ranges; fences_crowded() asks for the set of those there are instead.
 * Threads: the store's. */
#ifndef TARN_OBJSTORE_FENCE_H
#define TARN_OBJSTORE_FENCE_H

#include "common/base.h"
#include "common/coll.h"

/* Ranges of 16 bytes before the whole set is asked for: a mount that lives for a year beside many that fall silent. */
#define FENCE_RANGES_MAX 16384

/* One change under way. The caller embeds it; it lives from fences_enter() to fences_leave(). */
struct fence_op {
    struct list link;
    uint64_t session;
    uint64_t fence; /* that came while it was under way; 0 = none */
    bool forwarded; /* another store orders it */
};
struct fence_range {
    uint64_t first, last; /* both included */
};
struct fence_pending {
    uint64_t number, session;
};
struct fences {
    bool known;       /* the set of sessions has been told since the start */
    uint64_t applied; /* the last fence told */
    uint64_t settled;
    struct list ops;
    struct fence_range *ended; /* ascending, apart by at least one */
    size_t n_ended, cap_ended, enough_ended; /* enough: more is crowded */
    struct fence_pending *pending; /* not settled */
    size_t n_pending, cap_pending;
};
void fences_init(struct fences *fences);
void fences_fini(struct fences *fences); /* no change is under way */

/* Errors: -E_BUSY the set is not known yet; -E_NO_SESSION the session is fenced, has ended or is 0. Then nothing was entered. */
int fences_enter(struct fences *fences, struct fence_op *op, uint64_t session, bool forwarded);
/* Again, just before the change is made: it may have waited for others. -E_NO_SESSION: it must not be made. */
int fences_check(const struct fences *fences, const struct fence_op *op);
/* After it was made: true when the session had ended meanwhile, not only been fenced, without waiting for us. */
bool fences_late(const struct fences *fences, const struct fence_op *op);
/* True when a fence waited for this change: fences_ordered() or fences_closed() may have grown. */
bool fences_leave(struct fences *fences, struct fence_op *op);

/* What the service tells; on -E_NOMEM nothing changed and it must be told again. */
int fences_add(struct fences *fences, uint64_t number, uint64_t session);
int fences_settle(struct fences *fences, uint64_t number);
int fences_forget_below(struct fences *fences, uint64_t oldest); /* all sessions below have ended */
/* All sessions there are, ascending; those below `next` that are not among them have ended, those from `next` on are new.
 * Fences up to `applied` are contained; the ones that are not settled are told besides, by fences_add(). */
int fences_reset(struct fences *fences, uint64_t applied, uint64_t next, const uint64_t *sessions, size_t n);
void fences_told(struct fences *fences, uint64_t applied); /* everything up to this number was told */

/* No change that this store orders, of a session fenced up to this number, is under way or will be. */
uint64_t fences_ordered(const struct fences *fences);
/* Nor any forwarded one; never above what is settled. */
uint64_t fences_closed(const struct fences *fences);
bool fences_crowded(const struct fences *fences);

#endif
