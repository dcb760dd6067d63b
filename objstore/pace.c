#include "pace.h"

#include "common/check.h"

#define PACE_LOOK_MIN_NS 1000000u /* timers are no finer */
#define BUCKET_FIRST_NS 8192u /* 2^13; everything faster is as good */

/* ------------------------------------------------------------------ histograms */
static unsigned bucket_of(uint64_t ns)
{
    if (ns < BUCKET_FIRST_NS)
        return 0;
    unsigned log = 63 - (unsigned)__builtin_clzll(ns);
    unsigned quarter = (unsigned)(ns >> (log - 2)) & 3;
    return MIN((log - 13) * 4 + quarter, PACE_BUCKETS - 1u);
}

static uint64_t bucket_end(unsigned bucket)
{
    return ((uint64_t)BUCKET_FIRST_NS << (bucket / 4)) / 4 * (5 + bucket % 4);
}

void pace_sample(struct pace_histogram *h, uint64_t took_ns)
{
    h->n++;
    h->count[bucket_of(took_ns)]++;
}

uint64_t pace_p99(const struct pace_histogram *h)
{
    uint32_t above = h->n / 100; /* of 100 requests one may be slower */
    for (unsigned i = PACE_BUCKETS; i > 0; i--) {
        if (h->count[i - 1] > above)
            return bucket_end(i - 1);
        above -= h->count[i - 1];
    }
    return 0;
}

/* Half of what it was, and what is new: after seven looks what was felt before them is less than one in a hundred. */
static void histogram_follow(struct pace_histogram *calm, const struct pace_histogram *now)
{
    uint32_t n = 0;
    for (unsigned i = 0; i < PACE_BUCKETS; i++) {
        calm->count[i] = calm->count[i] / 2 + now->count[i];
        n += calm->count[i];
    }
    calm->n = n;
}

/* ------------------------------------------------------------------ deciding */
void pace_init(struct pace *p, uint64_t now_ns)
{
    *p = (struct pace){.rate = PACE_FULL, .decided_ns = now_ns, .tokens_at_ns = now_ns, .probed_ns = now_ns};
}

static bool clients_are_there(const struct pace *p, uint64_t now)
{
    return p->client_at_ns != 0 && now < p->client_at_ns + PACE_IDLE_NS;
}

static void begin_interval(struct pace *p, uint64_t now)
{
    memset(p->now, 0, sizeof p->now);
    p->decided_ns = now;
    p->moved = 0;
}

/* The worst kind's p99 in thousandths of its baseline; 0 = no kind has both. */
static uint64_t worst_ratio(struct pace *p)
{
    uint64_t worst = 0;
    for (unsigned kind = 0; kind < PACE_KINDS; kind++) {
        uint64_t felt = pace_p99(&p->now[kind]), calm = pace_p99(&p->calm[kind]);
        uint64_t ratio = calm == 0 ? 0 : felt * 1000 / calm;
        if (ratio <= worst)
            continue;
        worst = ratio;
        p->felt_ns = felt;
        p->baseline_ns = calm;
    }
    return worst;
}

static void set_rate(struct pace *p, uint64_t now, uint64_t rate)
{
    if (p->rate == PACE_FULL) {
        p->tokens = 0;
        p->tokens_at_ns = now;
    }
    p->rate = MAX(rate, PACE_FLOOR);
}

/* An interval with background work in it. */
static void decide_busy(struct pace *p, uint64_t now, uint64_t moved_rate)
{
    uint64_t ratio = worst_ratio(p);
    /* Slow although next to nothing is moved: it is perhaps the clients' own doing. */
    bool doubt = ratio > 2000 && p->rate <= PACE_FLOOR && now - p->probed_ns > PACE_DOUBT_NS;
    if (ratio == 0 || doubt || now - p->probed_ns > PACE_PROBE_NS) {
        p->probing = true;
        if (p->rate == PACE_FULL)
            set_rate(p, now, moved_rate / 2);
    } else if (ratio > 2000) {
        set_rate(p, now, MIN(p->rate, moved_rate) / 2);
    } else if (ratio < 1500 && p->rate != PACE_FULL && moved_rate > p->rate / 2) {
        p->rate += PACE_STEP; /* not when less was moved than allowed: that would grow without being tried */
    }
}

static void decide(struct pace *p, uint64_t now)
{
    uint64_t took = now - p->decided_ns;
    unsigned samples = 0;
    if (!clients_are_there(p, now)) {
        p->rate = PACE_FULL;
        p->probing = false;
        if (took >= PACE_DECIDE_NS)
            begin_interval(p, now);
        return;
    }
    for (unsigned kind = 0; kind < PACE_KINDS; kind++)
        samples += p->now[kind].n;
    unsigned enough = p->probing ? PACE_PROBE_SAMPLES : PACE_SAMPLES;
    if (samples == 0 || took < PACE_DECIDE_NS || (samples < enough && took < PACE_DECIDE_MAX_NS))
        return;
    uint64_t moved_rate = p->moved * 1000 / (took / 1000000);
    if (moved_rate <= PACE_CALM_RATE) {
        for (unsigned kind = 0; kind < PACE_KINDS; kind++)
            if (p->now[kind].n > 0)
                histogram_follow(&p->calm[kind], &p->now[kind]);
        p->probing = false;
        p->probed_ns = now;
    } else {
        decide_busy(p, now, moved_rate);
    }
    begin_interval(p, now);
}

void pace_served(struct pace *p, uint64_t now, enum pace_kind kind, uint64_t took_ns)
{
    /* The first one after a rest: what was moved until now was moved beside nobody. */
    if (!clients_are_there(p, now))
        begin_interval(p, now);
    p->client_at_ns = MAX(now, (uint64_t)1);
    if (!p->probing || now >= p->decided_ns + PACE_SETTLE_NS)
        pace_sample(&p->now[kind], took_ns);
    decide(p, now);
}

/* ------------------------------------------------------------------ tokens */
static uint64_t rate_for(const struct pace *p, bool urgent)
{
    return urgent ? MAX(p->rate, PACE_FLOOR_URGENT) : p->rate;
}

/* A twentieth of a second may be saved up: a window is larger than that at low rates and goes into debt. */
static void refill(struct pace *p, uint64_t now, uint64_t rate)
{
    uint64_t passed = now > p->tokens_at_ns ? now - p->tokens_at_ns : 0;
    passed = MIN(passed, PACE_SECOND_NS);
    int64_t burst = (int64_t)MIN(rate / 20, GIB(1)); /* never 0: the floor is far above */
    int64_t more = (int64_t)(MIN(rate, GIB(64)) / 1000 * (passed / 1000) / 1000);
    if (more == 0)
        return; /* what is less than a byte is not lost */
    p->tokens_at_ns = now;
    p->tokens = p->tokens + more < burst ? p->tokens + more : burst;
}

uint64_t pace_take(struct pace *p, uint64_t now, uint64_t bytes, bool urgent)
{
    decide(p, now);
    if (p->probing || (!urgent && p->urgent_waiting > 0))
        return PACE_LOOK_NS;
    if (p->rate != PACE_FULL) {
        uint64_t rate = rate_for(p, urgent);
        refill(p, now, rate);
        if (p->tokens <= 0) {
            uint64_t ns = (uint64_t)(1 - p->tokens) * 1000 / (rate / 1000000);
            return ns < PACE_LOOK_MIN_NS ? PACE_LOOK_MIN_NS : MIN(ns, PACE_WAIT_MAX_NS);
        }
        p->tokens -= (int64_t)bytes;
    }
    p->moved += bytes;
    return 0;
}

void pace_force(struct pace *p, uint64_t bytes)
{
    if (p->rate != PACE_FULL)
        p->tokens -= (int64_t)MIN(bytes, MIB(64));
    p->moved += bytes;
}

void pace_wait_urgent(struct pace *p, bool begin)
{
    CHECK(begin || p->urgent_waiting > 0);
    p->urgent_waiting += begin ? 1 : -1u;
}
