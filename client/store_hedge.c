/* Reads that are late. When a place has not answered after the time in which it gave 95 of 100 of its last answers, the same window
 * is asked of another place, or computed from the group; the first right answer counts and the other request is left.
 *
 *   reader: begin ── request to the first place ───────────────── end: takes whichever is right
 *   watch:        looks every few ms: late? → alternative ── request(s) ── right: interrupts the reader's request
 *
 * So a read that is not late costs a list entry. Second requests are paid from a credit that requests earn: at most one of
 * HEDGE_COST in the long run, some more at once. Our own node is not hedged: what is near is not slow by accident, and the
 * network is slower. Source: Dean and Barroso, "The Tail at Scale" (2013), hedged requests. */
#include "store_internal.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "group.h"

#define TICK_MS 5            /* how exactly lateness is seen */
#define LATE_NS_MIN 5000000u /* below this a second request is worth nothing */
#define LATE_NS_UNKNOWN 100000000u /* with too few answers to judge by */
#define PACE_ENOUGH 16       /* answers to judge by, and between two judgements */
#define LATE_MAX 3           /* late answers in a row: asked last for a while */

struct hedge_watch {
    struct stores *stores; /* NULL: they are gone */
    bool idle, busy;       /* busy: a read began since the last look */
    struct fiber_queue queue;
};

/* One window that is being read; on the reader's stack. */
struct store_hedge {
    struct list node;
    struct chunk_read *rd;
    unsigned first;
    uint64_t offset, late_at_ns;
    size_t n;
    bool started;
    struct store_stop primary, alternative;
    uint8_t *buf; /* of the alternative; owned */
    int err;      /* its result */
    enum store_from from;
    bool computed;
    struct fiber_group group;
};

/* ------------------------------------------------------------------ pace and credit */

static int compare_u32(const void *a, const void *b)
{
    uint32_t x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

static void pace_judge(struct store_pace *pace)
{
    uint32_t sorted[STORE_PACE_SAMPLES];
    memcpy(sorted, pace->us, pace->n * sizeof sorted[0]);
    qsort(sorted, pace->n, sizeof sorted[0], compare_u32);
    pace->p95_us = sorted[pace->n * 95 / 100];
}

void store_pace_add(struct store_peer *peer, size_t n, uint64_t ns)
{
    struct store_pace *pace = &peer->pace[n > CELL_BYTES];
    pace->us[pace->next] = (uint32_t)MIN(ns / 1000 + 1, (uint64_t)UINT32_MAX);
    pace->next = (pace->next + 1) % STORE_PACE_SAMPLES;
    pace->n = MIN(pace->n + 1, (unsigned)STORE_PACE_SAMPLES);
    peer->late = 0;
    if (pace->next % PACE_ENOUGH == 0)
        pace_judge(pace);
}

uint64_t store_pace_late_ns(const struct store_peer *peer, size_t n)
{
    uint64_t p95_ns = peer->pace[n > CELL_BYTES].p95_us * 1000ull;
    return p95_ns == 0 ? LATE_NS_UNKNOWN : MAX(p95_ns, (uint64_t)LATE_NS_MIN);
}

void store_hedge_earn(struct stores *stores)
{
    stores->hedge_credit = MIN(stores->hedge_credit + 1, (unsigned)HEDGE_CREDIT_MAX);
}

bool store_hedge_pay(struct stores *stores, unsigned requests)
{
    if (stores->hedge_credit < requests * HEDGE_COST)
        return false;
    stores->hedge_credit -= requests * HEDGE_COST;
    return true;
}

/* ------------------------------------------------------------------ the alternative */

static bool is_alternative(const struct store_hedge *h, const struct candidate *other)
{
    const struct candidate *first = &h->rd->items[h->first];
    return !other->poor && (other->node != first->node || other->node == 0);
}

/* Another replica, else the group. */
static void alternative_run(void *arg)
{
    struct store_hedge *h = arg;
    struct chunk_read *rd = h->rd;
    for (unsigned i = 0; i < rd->n && h->err != 0 && !h->alternative.fired; i++) {
        if (i == h->first || !is_alternative(h, &rd->items[i]))
            continue;
        h->err = store_get(rd, &rd->items[i], h->offset, h->buf, h->n, &h->alternative);
        h->from = rd->items[i].distance;
    }
    if (h->err != 0 && rd->group != 0 && !h->alternative.fired) {
        h->err = group_read(rd->stores, rd->group, rd->chunk, h->offset, h->buf, h->n, &h->alternative, &h->from);
        h->computed = h->err == 0;
    }
    if (h->err == 0)
        store_stop_fire(&h->primary);
    fiber_group_done(&h->group);
}

static bool has_alternative(const struct store_hedge *h)
{
    for (unsigned i = 0; i < h->rd->n; i++)
        if (i != h->first && is_alternative(h, &h->rd->items[i]))
            return true;
    return h->rd->group != 0;
}

static void alternative_start(struct store_hedge *h)
{
    struct stores *stores = h->rd->stores;
    h->late_at_ns = UINT64_MAX; /* looked at once */
    if (!store_hedge_pay(stores, 1))
        return;
    h->buf = malloc(h->n);
    if (!h->buf || fiber_spawn(stores->io, "store-hedge", alternative_run, h) < 0)
        return;
    fiber_group_add(&h->group);
    h->started = true;
    stores->counters.read_hedged++;
}

/* ------------------------------------------------------------------ the watch */

static void watch_look(struct stores *stores)
{
    uint64_t now = io_mono_ns(stores->io);
    list_foreach(&stores->hedges, it) {
        struct store_hedge *h = list_entry(it, struct store_hedge, node);
        if (!h->started && now >= h->late_at_ns)
            alternative_start(h);
    }
}

static void watch_run(void *arg)
{
    struct hedge_watch *watch = arg;
    struct io *io = fiber_io();
    int r = 0;
    while (r == 0 && watch->stores) {
        watch->idle = list_empty(&watch->stores->hedges) && !watch->busy;
        watch->busy = false;
        r = watch->idle ? fiber_queue_wait(&watch->queue, 0) : io_sleep_ms(io, TICK_MS);
        if (r == 0 && watch->stores)
            watch_look(watch->stores);
    }
    if (watch->stores)
        watch->stores->watch = NULL;
    free(watch);
}

static void watch_wake(struct stores *stores)
{
    struct hedge_watch *watch = stores->watch;
    if (!watch) {
        watch = calloc(1, sizeof *watch);
        if (!watch)
            return;
        watch->stores = stores;
        if (fiber_spawn(stores->io, "store-hedges", watch_run, watch) < 0) {
            free(watch);
            return;
        }
        stores->watch = watch;
    }
    watch->busy = true;
    if (watch->idle)
        fiber_queue_wake_all(&watch->queue);
}

void store_hedges_fini(struct stores *stores)
{
    CHECK(list_empty(&stores->hedges)); /* a read is under way */
    if (!stores->watch)
        return;
    stores->watch->stores = NULL; /* it frees itself when it runs again */
    fiber_queue_wake_all(&stores->watch->queue);
    stores->watch = NULL;
}

/* ------------------------------------------------------------------ the reader */

void store_note_late(struct stores *stores, const char *address)
{
    struct store_peer *peer = store_peer_get(stores, address);
    if (!peer || ++peer->late < LATE_MAX)
        return;
    peer->late = 0;
    peer->suspect_until_ms = io_mono_ms(stores->io) + SUSPECT_MS;
}

/* A node has several addresses. */
static void note_late_node(struct chunk_read *rd, const struct candidate *late)
{
    for (unsigned i = 0; i < rd->n; i++)
        if (rd->items[i].node == late->node)
            store_note_late(rd->stores, rd->items[i].address);
}

/* Both have come to an end; `r` is what came of the first. */
static int hedge_end(struct store_hedge *h, int r, uint8_t *buf, enum store_from *ret_from)
{
    struct chunk_read *rd = h->rd;
    list_remove(&h->node);
    if (!h->started) {
        free(h->buf);
        return r;
    }
    if (r == 0 || r == -E_STALE)
        store_stop_fire(&h->alternative);
    fiber_group_wait(&h->group); /* after a failure of the first it is the one that may still come */
    if (r != 0 && h->err == 0) {
        note_late_node(rd, &rd->items[h->first]);
        memcpy(buf, h->buf, h->n);
        *ret_from = h->from;
        rd->computed += h->computed ? h->n : 0;
        rd->stores->counters.hedges_won++;
        r = 0;
    }
    free(h->buf);
    return r;
}

int store_get_hedged(struct chunk_read *rd, unsigned first, uint64_t offset, uint8_t *buf, size_t n, enum store_from *ret_from)
{
    struct stores *stores = rd->stores;
    const struct candidate *from = &rd->items[first];
    struct store_peer *peer = store_peer_get(stores, from->address);
    struct store_hedge h = {.rd = rd, .first = first, .offset = offset, .n = n, .err = -E_UNAVAIL};
    *ret_from = from->distance;
    bool own_node = stores->config->node != 0 && from->node == stores->config->node;
    if (!peer || own_node || rd->alone || rd->stop || !has_alternative(&h))
        return store_get(rd, from, offset, buf, n, rd->stop);
    store_stop_init(&h.primary);
    store_stop_init(&h.alternative);
    h.late_at_ns = io_mono_ns(stores->io) + store_pace_late_ns(peer, n);
    list_append(&stores->hedges, &h.node);
    watch_wake(stores);
    int r = store_get(rd, from, offset, buf, n, &h.primary);
    return hedge_end(&h, r, buf, ret_from);
}
