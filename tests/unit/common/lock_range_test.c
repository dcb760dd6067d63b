/* The table of range locks against a map of cells, and its bounds. L1-L4, L6 of docs/invariants.md. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/err.h"
#include "common/lock_range.h"
#include "common/prng.h"

#define CELLS 14
#define SESSIONS 2
#define OWNERS 5 /* 0 and 1 in the first session, the others in the second */
#define WAITERS 12
#define STEPS 60000

/* A cell is a stretch that no range of the test cuts: bytes one by one where sums could wrap. */
static const uint64_t cell_start[CELLS + 1] = {0,
                                               1,
                                               2,
                                               10,
                                               11,
                                               4096,
                                               (uint64_t)INT64_MAX - 1,
                                               INT64_MAX,
                                               (uint64_t)INT64_MAX + 1,
                                               (uint64_t)INT64_MAX + 2,
                                               UINT64_MAX - 3,
                                               UINT64_MAX - 2,
                                               UINT64_MAX - 1,
                                               UINT64_MAX,
                                               0};

struct request {
    unsigned owner, first, last; /* cells, both included */
    uint8_t type;
    uint64_t number;
};
struct model {
    uint8_t held[OWNERS][CELLS];
    struct request waiters[WAITERS]; /* in order of arrival */
    unsigned n;
};

static struct lock_owner owner_of(unsigned owner)
{
    return (struct lock_owner){.session = owner < 2 ? 1 : 2, .owner = owner};
}

static struct lock_range range_of(const struct request *r)
{
    return (struct lock_range){.owner = owner_of(r->owner),
                               .start = cell_start[r->first],
                               .end = cell_start[r->last + 1] - 1,
                               .type = r->type,
                               .waiter = r->number};
}

/* ---- the model */

static bool model_conflict(const struct model *m, const struct request *r)
{
    for (unsigned o = 0; o < OWNERS; o++)
        for (unsigned c = r->first; c <= r->last; c++)
            if (o != r->owner && m->held[o][c] + r->type > 2 && m->held[o][c] != LOCK_RANGE_UN)
                return true;
    return false;
}

static bool model_queued(const struct model *m, const struct request *r, unsigned before)
{
    for (unsigned c = r->first; c <= r->last; c++)
        if (m->held[r->owner][c] != LOCK_RANGE_UN)
            return false;
    for (unsigned i = 0; i < before; i++) {
        const struct request *w = &m->waiters[i];
        bool apart = w->last < r->first || r->last < w->first, both_read = w->type + r->type == 2;
        if (w->owner != r->owner && !apart && !both_read)
            return true;
    }
    return false;
}

static void model_set(struct model *m, const struct request *r)
{
    for (unsigned c = r->first; c <= r->last; c++)
        m->held[r->owner][c] = r->type;
}

static void model_unwait(struct model *m, unsigned at)
{
    m->n--;
    for (; at < m->n; at++)
        m->waiters[at] = m->waiters[at + 1];
}

/* The number of the next that can go; 0 = nobody. */
static uint64_t model_grant(struct model *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        struct request r = m->waiters[i];
        if (model_conflict(m, &r) || model_queued(m, &r, i))
            continue;
        model_set(m, &r);
        model_unwait(m, i);
        return r.number;
    }
    return 0;
}

static unsigned model_ranges(const struct model *m)
{
    unsigned runs = 0;
    for (unsigned o = 0; o < OWNERS; o++)
        for (unsigned c = 0; c < CELLS; c++)
            runs += m->held[o][c] != LOCK_RANGE_UN && (c == 0 || m->held[o][c - 1] != m->held[o][c]);
    return runs;
}

/* ---- comparing */

static void compare(const struct lock_table *table, const struct model *m)
{
    uint8_t seen[OWNERS][CELLS] = {{0}};
    for (size_t i = 0; i < table->n_held; i++) {
        const struct lock_range *r = &table->held[i];
        assert_true(i == 0 || table->held[i - 1].start <= r->start);
        for (unsigned c = 0; c < CELLS; c++) {
            if (cell_start[c] < r->start || cell_start[c] > r->end)
                continue;
            assert_int_equal(seen[r->owner.owner][c], 0); /* L2 */
            seen[r->owner.owner][c] = r->type;
        }
    }
    assert_memory_equal(seen, m->held, sizeof seen);
    assert_int_equal(table->n_held, model_ranges(m)); /* neighbours are one */
    assert_int_equal(table->n_waiters, m->n);
    for (unsigned i = 0; i < m->n; i++)
        assert_int_equal(table->waiters[i].waiter, m->waiters[i].number);
}

static void grant_all(struct lock_table *table, struct model *m)
{
    for (bool more = true; more;) {
        struct lock_range granted = {0};
        assert_int_equal(lock_table_grant(table, &granted, &more), 0);
        assert_int_equal(model_grant(m), more ? granted.waiter : 0);
    }
}

/* ---- steps */

static struct request any_request(struct prng *prng, uint64_t number)
{
    unsigned a = (unsigned)prng_below(prng, CELLS), b = (unsigned)prng_below(prng, CELLS);
    return (struct request){.owner = (unsigned)prng_below(prng, OWNERS),
                            .first = MIN(a, b),
                            .last = MAX(a, b),
                            .type = (uint8_t)prng_below(prng, 3),
                            .number = number};
}

static void ask(struct lock_table *table, struct model *m, const struct request *r, bool wait)
{
    struct lock_range range = range_of(r);
    if (r->type != LOCK_RANGE_UN) {
        bool conflict = model_conflict(m, r), queued = model_queued(m, r, m->n);
        assert_int_equal(lock_table_conflict(table, &range) != NULL, conflict);
        assert_int_equal(lock_table_queued(table, &range, table->n_waiters), queued);
        if (conflict || (wait && queued)) {
            if (wait && m->n < WAITERS) {
                assert_int_equal(lock_table_wait(table, &range), 0);
                m->waiters[m->n++] = *r;
            }
            return;
        }
    }
    assert_int_equal(lock_table_set(table, &range), 0);
    model_set(m, r);
    assert_true(r->type == LOCK_RANGE_UN || lock_table_holds(table, &range));
    assert_int_equal(lock_table_has_part(table, &range), r->type != LOCK_RANGE_UN);
}

static void cancel(struct lock_table *table, struct model *m, struct prng *prng)
{
    if (m->n == 0)
        return;
    unsigned at = (unsigned)prng_below(prng, m->n);
    struct request r = m->waiters[at];
    uint64_t session = owner_of(r.owner).session;
    assert_false(lock_table_unwait(table, 3 - session, r.number)); /* of the other session */
    assert_true(lock_table_unwait(table, session, r.number));
    assert_false(lock_table_unwait(table, session, r.number));
    model_unwait(m, at);
}

static bool of_owner(const void *arg, const struct lock_range *range)
{
    return lock_owner_same(&range->owner, arg);
}

static void remove_owner(struct lock_table *table, struct model *m, unsigned owner)
{
    struct lock_owner who = owner_of(owner);
    size_t removed, before = table->n_held + table->n_waiters;
    lock_table_remove(table, of_owner, &who, &removed);
    memset(m->held[owner], 0, CELLS);
    for (unsigned i = m->n; i-- > 0;)
        if (m->waiters[i].owner == owner)
            model_unwait(m, i);
    assert_int_equal(before - removed, table->n_held + table->n_waiters);
}

static void the_table_does_what_a_map_of_cells_does(void **state)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct prng prng = prng_init(seed);
        struct lock_table table = {0};
        struct model m = {0};
        unsigned waited = 0;
        for (unsigned i = 0; i < STEPS / 4; i++) {
            uint64_t what = prng_below(&prng, 32);
            struct request r = any_request(&prng, i + 1);
            if (what == 0)
                remove_owner(&table, &m, r.owner);
            else if (what == 1)
                cancel(&table, &m, &prng);
            else
                ask(&table, &m, &r, what % 2 == 0);
            grant_all(&table, &m);
            compare(&table, &m);
            waited += m.n > 1;
        }
        assert_true(waited > STEPS / 16); /* queues were there to be compared */
        lock_table_fini(&table);
    }
}

/* ---- bounds */

static struct lock_range one(uint64_t owner, uint8_t type, uint64_t start, uint64_t end)
{
    return (struct lock_range){.owner = {1, owner}, .type = type, .start = start, .end = end, .waiter = owner};
}

static void a_full_table_takes_nothing_more_but_gives_back(void **state)
{
    struct lock_table table = {0};
    struct lock_range wide = one(1, LOCK_RANGE_SH, 0, 99);
    assert_int_equal(lock_table_set(&table, &wide), 0);
    int err = 0;
    for (uint64_t at = 200; err == 0; at += 2) {
        struct lock_range range = one(1, LOCK_RANGE_SH, at, at);
        err = lock_table_set(&table, &range);
    }
    assert_int_equal(err, -E_NOLCK);
    assert_true(table.n_held <= LOCK_RANGES_MAX && table.n_held + 2 > LOCK_RANGES_MAX);
    struct lock_range last = one(2, LOCK_RANGE_SH, 1, 1), cut = one(1, LOCK_RANGE_UN, 50, 50);
    size_t full = LOCK_RANGES_MAX, others = 0;
    for (; table.n_held < full; others++) {
        last.start = last.end += 2;
        assert_int_equal(lock_table_insert(&table, &last), 0);
    }
    assert_int_equal(lock_table_insert(&table, &last), -E_NOLCK);
    assert_int_equal(lock_table_wait(&table, &last), -E_NOLCK);
    assert_int_equal(lock_table_set(&table, &cut), -E_NOLCK); /* it would be one more */
    assert_int_equal(table.n_held, full);
    cut.start = 0;
    assert_int_equal(lock_table_set(&table, &cut), 0);
    cut.end = UINT64_MAX;
    assert_int_equal(lock_table_set(&table, &cut), 0);
    assert_int_equal(table.n_held, others);
    lock_table_fini(&table);
}

/* Each waits in the middle of what it holds: its grant makes three ranges of one. */
static void whoever_was_let_wait_can_be_granted(void **state)
{
    struct lock_table table = {0};
    struct lock_range other = one(9, LOCK_RANGE_SH, 0, UINT64_MAX), waiter = {0};
    assert_int_equal(lock_table_set(&table, &other), 0);
    uint64_t waiting = 0;
    for (int err = 0; err == 0; waiting += err == 0) {
        struct lock_range held = one(10 + waiting, LOCK_RANGE_SH, 10 * waiting, 10 * waiting + 8);
        waiter = one(10 + waiting, LOCK_RANGE_EX, 10 * waiting + 4, 10 * waiting + 4);
        err = lock_table_set(&table, &held);
        if (err == 0)
            err = lock_table_wait(&table, &waiter);
        if (err != 0)
            assert_int_equal(err, -E_NOLCK);
    }
    assert_true(waiting > 1000);
    other.type = LOCK_RANGE_UN;
    assert_int_equal(lock_table_set(&table, &other), 0);
    for (uint64_t i = 0; i <= waiting; i++) {
        bool granted;
        struct lock_range who;
        assert_int_equal(lock_table_grant(&table, &who, &granted), 0);
        assert_int_equal(granted, i < waiting);
        assert_true(!granted || who.waiter == 10 + i);
    }
    assert_true(table.n_held <= LOCK_RANGES_MAX);
    lock_table_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_table_does_what_a_map_of_cells_does),
                                       cmocka_unit_test(a_full_table_takes_nothing_more_but_gives_back),
                                       cmocka_unit_test(whoever_was_let_wait_can_be_granted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
