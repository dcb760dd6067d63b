/* E7, E8: exclusive leases, and what is asked back. */
#include "check_impl.h"
#include "lock.h"
#include "lock_delegate.h"
#include "meta.pb-c.h"

static int see_exclusive(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct exclusive row;
    struct opens opens = {0};
    struct kv_val found;
    uint64_t ino = key_number(key, 0);
    if (exclusive_decode(ino, value.data, value.len, &row) != 0) {
        check_undecodable(check, key, "exclusive lease");
        return 0;
    }
    struct key session = key_1(TABLE_SESSION, row.session), index = key_2(TABLE_SESSION_EXCLUSIVE, row.session, ino);
    struct key of_inode = key_1(TABLE_OPENS, ino), recalled = key_2(TABLE_RECALLED, row.session, row.number);
    if (!check_has(check, &session) || !check_has(check, &index))
        check_violation(check, "S2", "the exclusive lease of inode %llu does not end with session %llu",
                        (unsigned long long)ino, (unsigned long long)row.session);
    if (!check_get(check, &of_inode, &found) || opens_decode(found.data, found.len, &opens) != 0 || opens.sole != row.session)
        check_violation(check, "E7", "session %llu has the exclusive lease of inode %llu, but not alone",
                        (unsigned long long)row.session, (unsigned long long)ino);
    if (row.recalled != check_has(check, &recalled))
        check_violation(check, "E8", "the exclusive lease of inode %llu and what is asked back disagree", (unsigned long long)ino);
    return 0;
}

static int see_of_session(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct key row = key_1(TABLE_EXCLUSIVE, key_number(key, 1));
    struct exclusive exclusive;
    struct kv_val found;
    if (!check_get(check, &row, &found) || exclusive_decode(0, found.data, found.len, &exclusive) != 0 ||
        exclusive.session != key_number(key, 0))
        check_violation(check, "S2", "session %llu is said to have the exclusive lease of inode %llu",
                        (unsigned long long)key_number(key, 0), (unsigned long long)key_number(key, 1));
    return 0;
}

static bool is_delegated(struct check *check, uint64_t session, const struct recalled *recalled, uint64_t number)
{
    uint64_t kind = recalled->kind == TARN__LEASE_KIND__LEASE_LOCKS_FCNTL ? TARN__LOCK_KIND__LOCK_FCNTL : TARN__LOCK_KIND__LOCK_FLOCK;
    struct key key = key_2(TABLE_LOCKS, recalled->ino, kind);
    struct kv_val value;
    _cleanup_(lock_table_fini) struct lock_table table = {0};
    bool found = false;
    if (!check_get(check, &key, &value) || lock_table_decode(value.data, value.len, &table) != 0)
        return false;
    for (size_t i = 0; i < table.n_held && !found; i++)
        found = lock_is_delegate(&table.held[i]) && table.held[i].owner.session == session && table.held[i].handle == number;
    return found;
}

static int see_recalled(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct recalled recalled;
    uint64_t session = key_number(key, 0), number = key_number(key, 1);
    if (recalled_decode(value.data, value.len, &recalled) != 0) {
        check_undecodable(check, key, "recall");
        return 0;
    }
    struct key row = key_1(TABLE_EXCLUSIVE, recalled.ino);
    bool there = recalled.kind == TARN__LEASE_KIND__LEASE_EXCLUSIVE ? check_has(check, &row)
                                                                    : is_delegated(check, session, &recalled, number);
    if (!there)
        check_violation(check, "E8", "session %llu is asked for right %llu of inode %llu, which is not there",
                        (unsigned long long)session, (unsigned long long)number, (unsigned long long)recalled.ino);
    return 0;
}

int check_room_leases(struct check *check)
{
    int err = check_each(check, TABLE_EXCLUSIVE, see_exclusive, NULL);
    if (err == 0)
        err = check_each(check, TABLE_SESSION_EXCLUSIVE, see_of_session, NULL);
    return err == 0 ? check_each(check, TABLE_RECALLED, see_recalled, NULL) : err;
}
