/* L1-L3: lock tables, and the two indexes beside them. */
#include "check_impl.h"
#include "lock.h"
#include "meta.pb-c.h"

static bool same_owner(const struct lock_range *a, const struct lock_range *b)
{
    return a->owner.session == b->owner.session && a->owner.owner == b->owner.owner;
}

static bool overlap(const struct lock_range *a, const struct lock_range *b)
{
    return a->start <= b->end && b->start <= a->end;
}

static void see_session(struct check *check, uint64_t ino, uint64_t kind, const struct lock_range *range)
{
    struct key index = key_3(TABLE_SESSION_LOCK, range->owner.session, ino, kind);
    struct key session = key_1(TABLE_SESSION, range->owner.session);
    if (!check_has(check, &session))
        check_violation(check, "S2", "a lock of inode %llu is left of session %llu", (unsigned long long)ino,
                        (unsigned long long)range->owner.session);
    else if (!check_has(check, &index))
        check_violation(check, "S2", "session %llu has a lock of inode %llu that would not end with it",
                        (unsigned long long)range->owner.session, (unsigned long long)ino);
}

/* Held ranges are in the order of their starts: only those that begin before this one ends can overlap it. */
static void see_held(struct check *check, uint64_t ino, const struct lock_table *table, size_t i)
{
    const struct lock_range *a = &table->held[i];
    for (size_t j = i + 1; j < table->n_held && table->held[j].start <= a->end; j++) {
        const struct lock_range *b = &table->held[j];
        bool exclusive = a->type == TARN__LOCK_TYPE__LOCK_EX || b->type == TARN__LOCK_TYPE__LOCK_EX;
        if (same_owner(a, b) && overlap(a, b))
            check_violation(check, "L2", "one owner of session %llu holds overlapping ranges of inode %llu",
                            (unsigned long long)a->owner.session, (unsigned long long)ino);
        else if (!same_owner(a, b) && overlap(a, b) && exclusive)
            check_violation(check, "L1", "sessions %llu and %llu hold conflicting locks of inode %llu",
                            (unsigned long long)a->owner.session, (unsigned long long)b->owner.session,
                            (unsigned long long)ino);
    }
}

static void see_waiter(struct check *check, uint64_t ino, uint64_t kind, const struct lock_table *table, size_t i)
{
    const struct lock_range *range = &table->waiters[i];
    struct key row = key_3(TABLE_LOCK_WAIT, range->owner.session, range->owner.owner, range->waiter);
    if (kind == TARN__LOCK_KIND__LOCK_FCNTL && !check_has(check, &row))
        check_violation(check, "L5", "a wait of session %llu for inode %llu is not seen by the search for deadlocks",
                        (unsigned long long)range->owner.session, (unsigned long long)ino);
    if (lock_table_conflict(table, range) == NULL && !lock_table_queued(table, range, i))
        check_violation(check, "L6", "session %llu waits for a lock of inode %llu that it could have",
                        (unsigned long long)range->owner.session, (unsigned long long)ino);
}

static int see_table(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t ino = key_number(key, 0), kind = key_number(key, 1);
    _cleanup_(lock_table_fini) struct lock_table table = {0};
    int err = lock_table_decode(value.data, value.len, &table);
    if (err == -E_CORRUPT)
        check_undecodable(check, key, "lock table");
    if (err != 0)
        return err == -E_CORRUPT ? 0 : err;
    if (!check_has_inode(check, ino))
        check_violation(check, "L1", "locks are held of inode %llu, which does not exist", (unsigned long long)ino);
    if (table.n_held + table.n_waiters == 0)
        check_violation(check, "L1", "inode %llu has a lock table with nothing in it", (unsigned long long)ino);
    for (size_t i = 0; i < table.n_held; i++) {
        if (i > 0 && table.held[i].start < table.held[i - 1].start)
            check_violation(check, "L2", "the locks of inode %llu are not in order", (unsigned long long)ino);
        see_session(check, ino, kind, &table.held[i]);
        see_held(check, ino, &table, i);
    }
    for (size_t i = 0; i < table.n_waiters; i++) {
        see_session(check, ino, kind, &table.waiters[i]);
        see_waiter(check, ino, kind, &table, i);
    }
    return 0;
}

/* Does a table that this version can read have a range for which `matches` holds? */
static bool table_has(struct check *check, uint64_t ino, uint64_t kind, uint64_t session, uint64_t waiter)
{
    struct key key = key_2(TABLE_LOCKS, ino, kind);
    struct kv_val value;
    _cleanup_(lock_table_fini) struct lock_table table = {0};
    bool found = false;
    if (!check_get(check, &key, &value) || lock_table_decode(value.data, value.len, &table) != 0)
        return false;
    for (size_t i = 0; i < table.n_held && waiter == 0; i++)
        found |= table.held[i].owner.session == session;
    for (size_t i = 0; i < table.n_waiters; i++)
        found |= table.waiters[i].owner.session == session && (waiter == 0 || table.waiters[i].waiter == waiter);
    return found;
}

static int see_wait(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t ino;
    if (number_decode(value.data, value.len, &ino) != 0)
        check_undecodable(check, key, "number of an inode");
    else if (!table_has(check, ino, TARN__LOCK_KIND__LOCK_FCNTL, key_number(key, 0), key_number(key, 2)))
        check_violation(check, "L5", "session %llu is said to wait for inode %llu and does not",
                        (unsigned long long)key_number(key, 0), (unsigned long long)ino);
    return 0;
}

static int see_session_lock(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    if (!table_has(check, key_number(key, 1), key_number(key, 2), key_number(key, 0), 0))
        check_violation(check, "S2", "session %llu is said to have locks of inode %llu and has none",
                        (unsigned long long)key_number(key, 0), (unsigned long long)key_number(key, 1));
    return 0;
}

int check_room_locks(struct check *check)
{
    int err = check_each(check, TABLE_LOCKS, see_table, NULL);
    if (err == 0)
        err = check_each(check, TABLE_LOCK_WAIT, see_wait, NULL);
    return err == 0 ? check_each(check, TABLE_SESSION_LOCK, see_session_lock, NULL) : err;
}
