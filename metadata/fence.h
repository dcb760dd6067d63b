/* Fences: sessions that ended without their own wish and are not released yet. X1-X5 in docs/invariants.md.
 * A fence has a number, one larger for each; its row lives from SESSION_END(FENCE) to SESSION_END(RELEASE), which the
 * leader proposes when no store takes the session's writes any more (server_fence.c). Stores are told fences by number; one
 * that missed some that are released already is told the set of all sessions instead.
 * Threads: the transaction's. */
#ifndef TARN_METADATA_FENCE_H
#define TARN_METADATA_FENCE_H

#include "tables.h"

/* Sessions there may be: the whole set, two or three bytes each, must fit into one message to a store. */
#define SESSIONS_MAX 200000
/* Not released at a time; the leader ends no more sessions before some are. */
#define FENCES_MAX 4096

/* Gives the session the next number and makes its row; the caller stores the session. */
int fence_give(struct tables *t, struct session *session);
int fence_drop(struct tables *t, const struct session *session);

/* What a store is told. Free with fence_news_fini(). */
struct fence_news {
    uint64_t last;   /* number given out */
    uint64_t oldest; /* session there is, next_session when there is none */
    Tarn__Fence *fences, **pointers;
    size_t n;
    bool whole; /* all fences, and the set of sessions */
    uint64_t *steps;
    Tarn__SessionSet set;
};
void fence_news_fini(struct fence_news *news);
/* For a store that was told up to `after`. whole: it knows nothing. Without it, the fences behind `after`, or everything when
 * some of them are released. Errors: -E_NOMEM, those of the tables. */
int fence_read(struct tables *t, uint64_t after, bool whole, struct fence_news *ret);
/* The fences alone: what is not released. */
int fence_list_txn(struct kv_txn *txn, struct fence_news *ret);
int fence_read_txn(struct kv_txn *txn, uint64_t after, bool whole, struct fence_news *ret);

#endif
