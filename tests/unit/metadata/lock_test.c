/* Locks: the pure table against a byte map, and the commands. L1-L6 of docs/invariants.md. */
#include "common/prng.h"
#include "metadata/lock.h"
#include "world.h"

enum {
    UN = TARN__LOCK_TYPE__LOCK_UN,
    SH = TARN__LOCK_TYPE__LOCK_SH,
    EX = TARN__LOCK_TYPE__LOCK_EX
};

static int setup(void **state)
{
    static struct world w;
    world_init(&w);
    *state = &w;
    return world_make(&w, TARN__FILE_TYPE__FT_FILE, "/", "f", 0644) != 0 ||
           world_make(&w, TARN__FILE_TYPE__FT_FILE, "/", "g", 0644) != 0;
}

static int teardown(void **state)
{
    world_fini(*state);
    return 0;
}

#define F 3 /* inode of /f: after the root (1) and /jobs (2) */
#define G 4
#define GRANTED 1
#define QUEUED 2

/* GRANTED, QUEUED or a negative code. */
static int lock(struct world *w, uint64_t ino, uint64_t owner, int type, uint64_t start,
                uint64_t end, uint64_t waiter)
{
    Tarn__Lock m = TARN__LOCK__INIT;
    m.ino = ino;
    m.type = (Tarn__LockType)type;
    m.start = start;
    m.end = end;
    m.owner = owner;
    m.waiter = waiter;
    m.wait = waiter != 0;
    m.handle = owner;
    int err = world_apply(w, OP_LOCK, &m.base, &m.ctx);
    if (err != 0)
        return err;
    Tarn__LockReply *reply = world_reply(w, &tarn__lock_reply__descriptor);
    return reply->granted ? GRANTED : QUEUED;
}

static uint64_t pushed(struct world *w)
{
    if (w->result.n_pushes == 0)
        return 0;
    Tarn__LockGranted *m = tarn__lock_granted__unpack(NULL, w->result.pushes[0].control_len,
                                                      w->result.pushes[0].control);
    uint64_t waiter = m->waiter;
    tarn__lock_granted__free_unpacked(m, NULL);
    return waiter;
}

static void readers_share_and_writers_do_not(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, SH, 5, 15, 0), GRANTED);
    assert_int_equal(lock(w, F, 3, EX, 15, 20, 0), -E_WOULDBLOCK);
    assert_int_equal(lock(w, F, 3, EX, 16, 20, 0), GRANTED);
    assert_int_equal(lock(w, G, 3, EX, 0, UINT64_MAX, 0), GRANTED);
}

static void a_waiter_is_granted_by_push_once(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 5, 5, 42), QUEUED);
    assert_int_equal(lock(w, F, 2, EX, 5, 5, 42), QUEUED);
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(w->result.n_pushes, 1);
    assert_int_equal(pushed(w), 42);
    assert_int_equal(lock(w, F, 2, EX, 5, 5, 42),
                     GRANTED); /* the push was lost, the client asks again */
}

static void first_come_first_served(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 7), QUEUED);
    assert_int_equal(lock(w, F, 3, SH, 0, 9, 8), QUEUED); /* behind the writer */
    assert_int_equal(lock(w, F, 1, UN, 0, 9, 0), GRANTED);
    assert_int_equal(pushed(w), 7);
    assert_int_equal(w->result.n_pushes, 1);
}

static void a_cycle_of_waits_is_a_deadlock(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, G, 2, EX, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 3, EX, 1, 1, 0), GRANTED);
    assert_int_equal(lock(w, G, 1, EX, 0, 0, 5), QUEUED);
    assert_int_equal(lock(w, F, 2, EX, 1, 1, 6), QUEUED);
    assert_int_equal(lock(w, F, 3, EX, 0, 0, 7), -E_DEADLOCK); /* 3 → 1 → 2 → 3 */
    assert_int_equal(lock(w, F, 3, UN, 1, 1, 0), GRANTED);
    assert_int_equal(pushed(w), 6);
}

static void two_upgrades_are_a_deadlock(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, SH, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 5), QUEUED);
    assert_int_equal(lock(w, F, 2, EX, 0, 0, 6), -E_DEADLOCK);
}

static void an_upgrade_passes_those_who_wait_for_it(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 0, 5), QUEUED);
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 6), GRANTED);
}

static int cancel(struct world *w, uint64_t waiter)
{
    Tarn__LockCancel m = TARN__LOCK_CANCEL__INIT;
    m.ino = F;
    m.waiter = waiter;
    assert_int_equal(world_apply(w, OP_LOCK_CANCEL, &m.base, &m.ctx), 0);
    return ((Tarn__LockReply *)world_reply(w, &tarn__lock_reply__descriptor))->granted;
}

static void a_canceled_wait_lets_others_pass(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, SH, 0, 9, 0), GRANTED);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 7), QUEUED);
    assert_int_equal(lock(w, F, 3, SH, 0, 9, 8), QUEUED);
    assert_int_equal(cancel(w, 7), 0);
    assert_int_equal(pushed(w), 8);
    assert_int_equal(cancel(w, 8), 1);
    assert_int_equal(cancel(w, 99), 0);
}

static void the_end_of_a_session_grants_others(void **state)
{
    struct world *w = *state;
    uint64_t mine = w->session;
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 0), GRANTED);
    w->session = world_session(w, "second");
    assert_int_equal(lock(w, F, 1, EX, 0, 9, 7), QUEUED);
    Tarn__SessionEnd m = TARN__SESSION_END__INIT;
    m.session = mine;
    assert_int_equal(world_apply(w, OP_SESSION_END, &m.base, NULL), 0);
    assert_int_equal(pushed(w), 7);
    Tarn__GetLock g = TARN__GET_LOCK__INIT;
    g.ino = F;
    g.type = (Tarn__LockType)SH;
    g.owner = 2;
    assert_int_equal(world_query(w, OP_GETLK, &g.base, &g.ctx), 0);
    Tarn__GetLockReply *reply = world_reply(w, &tarn__get_lock_reply__descriptor);
    assert_true(reply->conflict);
    assert_int_equal(reply->session, w->session);
}

static void a_drop_by_handle_or_owner_takes_all(void **state)
{
    struct world *w = *state;
    assert_int_equal(lock(w, F, 1, EX, 0, 0, 0), GRANTED);
    assert_int_equal(lock(w, F, 1, EX, 5, 5, 0), GRANTED);
    Tarn__LockDrop m = TARN__LOCK_DROP__INIT;
    m.ino = F;
    m.by_handle = true;
    m.handle = 1;
    assert_int_equal(world_apply(w, OP_LOCK_DROP, &m.base, &m.ctx), 0);
    assert_int_equal(lock(w, F, 2, EX, 0, 9, 0), GRANTED);
    m.by_handle = false;
    m.owner = 2;
    assert_int_equal(world_apply(w, OP_LOCK_DROP, &m.base, &m.ctx), 0);
    assert_int_equal(lock(w, F, 3, EX, 0, 9, 0), GRANTED);
}

#define BYTES 24
#define OWNERS 4

static void model_check(const struct lock_table *table, uint8_t model[OWNERS][BYTES])
{
    uint8_t seen[OWNERS][BYTES] = {{0}};
    for (size_t i = 0; i < table->n_held; i++) {
        const struct lock_range *r = &table->held[i];
        assert_true(i == 0 || table->held[i - 1].start <= r->start);
        for (uint64_t b = r->start; b <= r->end; b++) {
            assert_int_equal(seen[r->owner.owner][b], 0); /* L2 */
            seen[r->owner.owner][b] = r->type;
        }
    }
    assert_memory_equal(seen, model, sizeof seen);
}

/* 20,000 random requests give what a map of bytes gives; encoded tables round-trip. */
static void the_table_is_a_map_of_bytes(void **state)
{
    struct prng prng = prng_init(5);
    struct lock_table table = {0};
    uint8_t model[OWNERS][BYTES] = {{0}};
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t a = prng_below(&prng, BYTES), b = prng_below(&prng, BYTES),
                 owner = prng_below(&prng, OWNERS);
        struct lock_range r = {.owner = {1, owner},
                               .start = MIN(a, b),
                               .end = MAX(a, b),
                               .type = (uint8_t)prng_below(&prng, 3)};
        bool conflict = false;
        for (uint64_t o = 0; o < OWNERS && r.type != UN; o++)
            for (uint64_t x = r.start; x <= r.end && o != owner; x++)
                conflict |= model[o][x] == EX || (model[o][x] == SH && r.type == EX);
        assert_int_equal(conflict, r.type != UN && lock_table_conflict(&table, &r) != NULL);
        if (conflict)
            continue;
        assert_int_equal(lock_table_set(&table, &r), 0);
        memset(&model[owner][r.start], r.type, r.end - r.start + 1);
        model_check(&table, model);
    }
    _cleanup_(writer_fini) struct writer w = {0}, again = {0};
    struct lock_table copy;
    lock_table_encode(&table, &w);
    assert_int_equal(lock_table_decode(w.data, w.len, &copy), 0);
    lock_table_encode(&copy, &again);
    assert_int_equal(w.len, again.len);
    assert_memory_equal(w.data, again.data, w.len);
    writer_fini(&again);
    lock_table_fini(&copy);
    for (size_t n = 0; n < w.len; n++)
        assert_int_equal(lock_table_decode(w.data, n, &copy), -E_CORRUPT);
    lock_table_fini(&table);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {T(readers_share_and_writers_do_not),
                                       T(a_waiter_is_granted_by_push_once),
                                       T(first_come_first_served),
                                       T(a_cycle_of_waits_is_a_deadlock),
                                       T(two_upgrades_are_a_deadlock),
                                       T(an_upgrade_passes_those_who_wait_for_it),
                                       T(a_canceled_wait_lets_others_pass),
                                       T(the_end_of_a_session_grants_others),
                                       T(a_drop_by_handle_or_owner_takes_all),
                                       cmocka_unit_test(the_table_is_a_map_of_bytes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
