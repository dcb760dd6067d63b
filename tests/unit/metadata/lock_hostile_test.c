/* Clients that do not keep the rules: what they send about locks is refused or without effect, the rows stay as
 * they were and the checker finds nothing (at the end of each test). E8-E11, L9 of docs/invariants.md. */
#include "common/prng.h"
#include "lock_world.h"
#include "metadata/lock_delegate.h"

/* Of session `a`: exactly [0, 9] of /f, because `b` has something beyond. Asked back already. */
struct delegated {
    uint64_t a, b, number;
};

static struct delegated delegated(struct world *w)
{
    struct delegated d = {.a = world_session(w, "a"), .b = world_session(w, "b")};
    assert_int_equal(lock_as(w, d.b, F, 5, EX, 100, 200, 0), GRANTED);
    d.number = lock_delegated(w, d.a, F, 1, 0, 9);
    assert_true(d.number != 0);
    assert_int_equal(lock_as(w, d.b, F, 5, EX, 9, 9, 77), QUEUED);
    return d;
}

static void returned_locks_that_break_the_rules_are_refused(void **state)
{
    static const struct lock_range bad[][2] = {
        {{.owner = {.owner = 1}, .type = EX, .start = 0, .end = 10}},                    /* beyond the range */
        {{.owner = {.owner = 1}, .type = EX, .start = 100, .end = 100}},                 /* another's */
        {{.owner = {.owner = 1}, .type = EX, .start = 0, .end = ALL}},
        {{.owner = {.owner = 1}, .type = EX, .start = 5, .end = 4}},
        {{.owner = {.owner = 1}, .type = UN, .start = 0, .end = 0}},
        {{.owner = {.owner = 1}, .type = 7, .start = 0, .end = 0}},
        {{.owner = {.owner = LOCK_DELEGATE}, .type = EX, .start = 0, .end = 9}},         /* a delegation of its own */
        {{.owner = {.owner = 1}, .type = EX, .start = 0, .end = 5},
         {.owner = {.owner = 2}, .type = SH, .start = 5, .end = 9}},                     /* exclude each other */
        {{.owner = {.owner = 1}, .type = SH, .start = 0, .end = 5},
         {.owner = {.owner = 2}, .type = EX, .start = 0, .end = 0}}};
    struct world *w = *state;
    struct delegated d = delegated(w);
    uint32_t before = lock_rows(w);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        size_t n = bad[i][1].owner.owner != 0 ? 2 : 1;
        assert_int_equal(lock_return(w, d.a, DELEGATED, F, d.number, bad[i], n), -E_INVAL);
        assert_true(w->result.detail[0] != 0);
        assert_int_equal(w->result.n_pushes, 0);
        assert_int_equal(lock_rows(w), before);
    }
    assert_int_equal(lock_return(w, d.a, DELEGATED, F, d.number, NULL, 0), 0);
    assert_int_equal(lock_told_one(w), 77);
}

static void more_locks_than_a_file_may_have_are_refused(void **state)
{
    struct world *w = *state;
    uint64_t a = world_session(w, "a"), number = lock_delegated(w, a, F, 1, 0, 9);
    size_t n = LOCK_RANGES_MAX + 1;
    struct lock_range *many = calloc(n, sizeof *many);
    assert_non_null(many);
    for (size_t i = 0; i < n; i++)
        many[i] = (struct lock_range){.owner = {.owner = 1}, .type = SH, .start = 2 * i, .end = 2 * i};
    uint32_t before = lock_rows(w);
    assert_int_equal(lock_return(w, a, DELEGATED, F, number, many, n), -E_NOLCK);
    assert_int_equal(lock_rows(w), before);
    assert_int_equal(lock_return(w, a, DELEGATED, F, number, many, LOCK_RANGES_MAX / 2), 0);
    free(many);
}

static void what_is_not_held_comes_back_without_effect(void **state)
{
    struct world *w = *state;
    struct delegated d = delegated(w);
    const struct lock_range one = {.owner = {.owner = 1}, .type = EX, .start = 0, .end = 9};
    uint32_t before = lock_rows(w);
    assert_int_equal(lock_return(w, d.a, DELEGATED, G, d.number, &one, 1), 0);     /* another inode */
    assert_int_equal(lock_return(w, d.a, DELEGATED, 999, d.number, &one, 1), 0);   /* none */
    assert_int_equal(lock_return(w, d.a, DELEGATED, F, d.number + 1, &one, 1), 0); /* another number */
    assert_int_equal(lock_return(w, d.a, DELEGATED, F, 0, &one, 1), 0);
    assert_int_equal(lock_return(w, d.b, DELEGATED, F, d.number, &one, 1), 0); /* of another session */
    assert_int_equal(lock_return(w, d.a, TARN__LEASE_KIND__LEASE_LOCKS_FLOCK, F, d.number, &one, 1), 0);
    assert_int_equal(lock_return(w, d.a, TARN__LEASE_KIND__LEASE_EXCLUSIVE, F, d.number, &one, 1), 0);
    assert_int_equal(lock_return(w, d.a, TARN__LEASE_KIND__LEASE_READ, F, d.number, &one, 1), -E_INVAL);
    assert_int_equal(lock_return(w, d.a, 77, F, d.number, &one, 1), -E_INVAL);
    Tarn__LeaseReturn m = TARN__LEASE_RETURN__INIT;
    assert_int_equal(world_apply(w, OP_LEASE_RETURN, &m.base, &m.ctx), -E_INVAL);
    assert_int_equal(lock_rows(w), before);
    assert_int_equal(lock_return(w, d.a, DELEGATED, F, d.number, &one, 1), 0);
    before = lock_rows(w);
    assert_int_equal(lock_return(w, d.a, DELEGATED, F, d.number, &one, 1), 0); /* again */
    assert_int_equal(lock_rows(w), before);
}

static void of_overlapping_locks_of_one_owner_the_later_counts(void **state)
{
    struct world *w = *state;
    struct delegated d = delegated(w);
    const struct lock_range two[] = {{.owner = {.owner = 1}, .type = EX, .start = 0, .end = 9},
                                     {.owner = {.owner = 1}, .type = SH, .start = 3, .end = 9}};
    assert_int_equal(lock_return(w, d.a, DELEGATED, F, d.number, two, 2), 0);
    assert_int_equal(lock(w, F, 1, SH, 3, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, SH, 2, 2, 0), -E_WOULDBLOCK);
}

static void no_drop_takes_a_delegation(void **state)
{
    struct world *w = *state;
    struct delegated d = delegated(w);
    uint32_t before = lock_rows(w);
    w->session = d.a;
    assert_int_equal(lock_drop(w, F, FCNTL, LOCK_DELEGATE, 0), 0);
    assert_int_equal(lock_drop(w, F, FCNTL, 0, d.number), 0);
    assert_int_equal(lock_drop(w, F, 9, 1, 0), -E_INVAL);
    assert_int_equal(lock(w, F, LOCK_DELEGATE, UN, 0, ALL, 0), -E_INVAL);
    assert_int_equal(lock(w, F, LOCK_DELEGATE, EX, 0, 9, 0), -E_INVAL);
    assert_int_equal(lock(w, F, 1, UN, 0, ALL, 0), GRANTED);
    assert_false(lock_cancel(w, F, 0));
    assert_int_equal(lock_rows(w), before);
}

static void locks_without_sense_are_refused(void **state)
{
    static const struct {
        uint64_t ino, start, end, waiter;
        int kind, type, err;
    } bad[] = {{F, 5, 4, 0, FCNTL, EX, -E_INVAL}, {F, 0, 9, 0, 9, EX, -E_INVAL},      {F, 0, 9, 0, FCNTL, 9, -E_INVAL},
               {F, 0, 9, 0, -1, EX, -E_INVAL},    {F, 0, 9, 0, FCNTL, -1, -E_INVAL},  {F, 0, 9, 0, FCNTL, EX, -E_INVAL},
               {99, 0, 9, 1, FCNTL, EX, -E_NOENT}, {0, 0, 9, 1, FLOCK, UN, -E_NOENT}, {99, 0, 9, 1, FLOCK, SH, -E_NOENT}};
    struct world *w = *state;
    uint32_t before = lock_rows(w);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        Tarn__Lock m = TARN__LOCK__INIT;
        m.ino = bad[i].ino;
        m.kind = (Tarn__LockKind)bad[i].kind;
        m.type = (Tarn__LockType)bad[i].type;
        m.start = bad[i].start;
        m.end = bad[i].end;
        m.waiter = bad[i].waiter;
        m.wait = true;
        m.want_delegation = true;
        assert_int_equal(world_apply(w, OP_LOCK, &m.base, &m.ctx), bad[i].err);
        assert_int_equal(lock_rows(w), before);
    }
}

static void one_number_waits_in_one_file(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, G, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 12), QUEUED);
    uint32_t before = lock_rows(w);
    assert_int_equal(lock(w, G, 2, EX, 0, 9, 12), -E_INVAL);
    assert_true(w->result.detail[0] != 0);
    assert_int_equal(lock_rows(w), before);
    assert_int_equal(lock(w, G, 2, EX, 0, 9, 13), QUEUED); /* another thread, another number */
}

/* ---- whatever is sent */

/* The last delegation that was given, to anybody. */
struct given {
    uint64_t session, ino, number;
    unsigned kind;
};

static void return_any(struct world *w, struct prng *prng, const struct given *last)
{
    struct lock_range locks[3];
    uint64_t session = prng_below(prng, 4) == 0 ? w->session : last->session, ino = F + prng_below(prng, 2);
    for (size_t i = 0; i < ARRAY_SIZE(locks); i++) {
        uint64_t start = prng_below(prng, 10);
        locks[i] = (struct lock_range){.owner = {.owner = 1 + i},
                                       .type = (uint8_t)(1 + prng_below(prng, 2)),
                                       .start = start,
                                       .end = prng_below(prng, 8) == 0 ? prng_below(prng, 12) : start};
    }
    (void)lock_return(w, session, (int)(DELEGATED + last->kind), prng_below(prng, 4) == 0 ? ino : last->ino, last->number,
                      locks, prng_below(prng, 4));
}

static void lock_any(struct world *w, struct prng *prng, uint64_t owner, uint64_t number, struct given *last)
{
    uint64_t a = prng_below(prng, 12), b = prng_below(prng, 8) == 0 ? ALL : prng_below(prng, 12);
    Tarn__Lock m = TARN__LOCK__INIT;
    m.ino = F + prng_below(prng, 2);
    m.kind = (Tarn__LockKind)prng_below(prng, 2);
    m.type = (Tarn__LockType)prng_below(prng, 3);
    m.start = MIN(a, b);
    m.end = MAX(a, b);
    m.owner = owner;
    m.handle = number;
    m.waiter = number;
    m.wait = prng_below(prng, 2) == 0;
    m.want_delegation = prng_below(prng, 2) == 0;
    if (world_apply(w, OP_LOCK, &m.base, &m.ctx) != 0)
        return;
    const Tarn__LockReply *reply = world_reply(w, &tarn__lock_reply__descriptor);
    if (reply->delegation != 0)
        *last = (struct given){.session = w->session, .ino = m.ino, .number = reply->delegation, .kind = m.kind};
}

/* Numbers of owners, waits and handles are few, so that they meet. */
static void send_any(struct world *w, struct prng *prng, struct given *last)
{
    uint64_t ino = F + prng_below(prng, 2), owner = prng_below(prng, 4);
    uint64_t number = prng_below(prng, 3) != 0 ? prng_below(prng, 20) : last->number;
    if (owner == 3)
        owner = LOCK_DELEGATE;
    switch (prng_below(prng, 10)) {
    case 0:
        (void)lock_cancel(w, ino, number);
        return;
    case 1:
    case 2:
        (void)lock_drop(w, ino, (int)prng_below(prng, 2), owner, prng_below(prng, 2) ? number : 0);
        return;
    case 3:
    case 4:
        return_any(w, prng, last);
        return;
    default:
        lock_any(w, prng, owner, number, last);
    }
}

static void whatever_is_sent_the_rows_agree(void **state)
{
    struct world *w = *state;
    struct prng prng = prng_init(11);
    uint64_t sessions[3] = {w->session, world_session(w, "a"), world_session(w, "b")};
    struct given last = {0};
    unsigned refused = 0, returned = 0;
    for (unsigned i = 0; i < 12000; i++) {
        w->session = sessions[prng_below(&prng, 3)];
        send_any(w, &prng, &last);
        refused += w->result.err != 0;
        returned += w->result.rights_returned;
        if (i % 16 == 0)
            world_check(w);
        if (i % 500 == 499) { /* one of them dies */
            unsigned which = (unsigned)prng_below(&prng, 3);
            Tarn__SessionEnd m = TARN__SESSION_END__INIT;
            m.session = sessions[which];
            assert_int_equal(world_apply(w, OP_SESSION_END, &m.base, NULL), 0);
            world_check(w);
            sessions[which] = world_session(w, (char[]){'n', (char)('0' + i / 500), 0});
        }
    }
    assert_true(refused > 1000 && returned > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {LOCK_TEST(returned_locks_that_break_the_rules_are_refused),
                                       LOCK_TEST(more_locks_than_a_file_may_have_are_refused),
                                       LOCK_TEST(what_is_not_held_comes_back_without_effect),
                                       LOCK_TEST(of_overlapping_locks_of_one_owner_the_later_counts),
                                       LOCK_TEST(no_drop_takes_a_delegation),
                                       LOCK_TEST(locks_without_sense_are_refused),
                                       LOCK_TEST(one_number_waits_in_one_file),
                                       LOCK_TEST(whatever_is_sent_the_rows_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
