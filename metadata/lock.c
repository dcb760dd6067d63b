/* How the locks of one file and kind are stored. */
#include "lock.h"

#include "common/err.h"

_Static_assert((int)LOCK_RANGE_SH == (int)TARN__LOCK_TYPE__LOCK_SH && (int)LOCK_RANGE_EX == (int)TARN__LOCK_TYPE__LOCK_EX,
               "stored and sent as the same number");

static void range_encode(const struct lock_range *range, struct writer *w)
{
    writer_u64(w, range->owner.session);
    writer_u64(w, range->owner.owner);
    writer_u64(w, range->start);
    writer_u64(w, range->end);
    writer_u8(w, range->type);
    writer_u32(w, range->pid);
    writer_u64(w, range->handle);
    writer_u64(w, range->waiter);
}

static void range_decode(struct reader *r, struct lock_range *ret)
{
    ret->owner.session = reader_u64(r);
    ret->owner.owner = reader_u64(r);
    ret->start = reader_u64(r);
    ret->end = reader_u64(r);
    ret->type = reader_u8(r);
    ret->pid = reader_u32(r);
    ret->handle = reader_u64(r);
    ret->waiter = reader_u64(r);
    if (ret->end < ret->start || ret->type < TARN__LOCK_TYPE__LOCK_SH ||
        ret->type > TARN__LOCK_TYPE__LOCK_EX)
        r->failed = true;
}

void lock_table_encode(const struct lock_table *table, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u32(w, (uint32_t)table->n_held);
    writer_u32(w, (uint32_t)table->n_waiters);
    for (size_t i = 0; i < table->n_held; i++)
        range_encode(&table->held[i], w);
    for (size_t i = 0; i < table->n_waiters; i++)
        range_encode(&table->waiters[i], w);
}

int lock_table_decode(const void *data, size_t n, struct lock_table *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    uint32_t n_held = reader_u32(&r), n_waiters = reader_u32(&r);
    if (r.failed || (uint64_t)n_held + n_waiters > LOCK_ROW_MAX)
        return -E_CORRUPT;
    _cleanup_(lock_table_fini) struct lock_table table = {0};
    table.held = calloc(n_held + 1, sizeof *table.held);
    table.waiters = calloc(n_waiters + 1, sizeof *table.waiters);
    if (table.held == NULL || table.waiters == NULL)
        return -E_NOMEM;
    table.n_held = n_held;
    table.cap_held = n_held + 1;
    table.n_waiters = n_waiters;
    table.cap_waiters = n_waiters + 1;
    for (size_t i = 0; i < n_held; i++)
        range_decode(&r, &table.held[i]);
    for (size_t i = 0; i < n_waiters; i++)
        range_decode(&r, &table.waiters[i]);
    if (r.failed || reader_left(&r) != 0)
        return -E_CORRUPT;
    *ret = table;
    table = (struct lock_table){0};
    return 0;
}
