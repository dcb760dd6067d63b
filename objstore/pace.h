/* How fast background work may go, decided by what clients feel. Pure: events with their time go in, a
 * number of bytes or a time to wait comes out; no clock, no I/O, nothing to set.
 *
 *   no client for a second        no limit
 *   clients, baseline unknown     background work rests for a moment: what clients feel then is the baseline
 *   p99 > 2 x baseline            half of what was moved
 *   p99 < 1.5 x baseline          a step more
 *
 * What clients feel is the p99 of the time from a request's arrival to its answer, in four kinds of requests, each with
 * its own baseline, so that another mix of sizes is not taken for a slow disk; the worst kind counts. The baseline is
 * what the p99 is while background work rests, and is looked at again every PACE_PROBE_NS, because clients change.
 * Threads: none of its own. */
#ifndef TARN_OBJSTORE_PACE_H
#define TARN_OBJSTORE_PACE_H

#include "common/base.h"

#define PACE_SECOND_NS 1000000000ull
#define PACE_IDLE_NS PACE_SECOND_NS          /* without a request for so long there is no client */
#define PACE_DECIDE_NS (200 * 1000000ull)    /* between two decisions, with PACE_SAMPLES requests at least; */
#define PACE_DECIDE_MAX_NS PACE_SECOND_NS    /* with fewer, after so long */
#define PACE_SAMPLES 50
#define PACE_PROBE_SAMPLES 200               /* for a baseline */
#define PACE_PROBE_NS (20 * PACE_SECOND_NS)  /* at most a second in twenty is spent on the baseline, commonly a quarter */
#define PACE_SETTLE_NS (100 * 1000000ull)    /* of which this is for what is still under way */
#define PACE_DOUBT_NS (4 * PACE_SECOND_NS)   /* sooner when the floor is still too much */
#define PACE_CALM_RATE MIB(1)                /* background work of so much a second is felt by nobody */
#define PACE_STEP MIB(16)                    /* more in a second, at each decision */
#define PACE_FLOOR MIB(2)                    /* never less in a second, or healing would never end; */
#define PACE_FLOOR_URGENT MIB(8)             /* copies whose loss would lose data, or that are one loss nearer to it */
#define PACE_FULL UINT64_MAX
#define PACE_LOOK_NS (10 * 1000000ull)       /* ask again after so long, when it is not known when there will be room */
#define PACE_WAIT_MAX_NS (100 * 1000000ull)
#define PACE_BUCKETS 72                      /* four to a doubling: 8 us … 2 s, each 19 % wide */

enum pace_kind { PACE_READ_SMALL, PACE_READ_LARGE, PACE_WRITE_SMALL, PACE_WRITE_LARGE, PACE_KINDS };
#define PACE_SMALL_BYTES KIB(64)
static inline enum pace_kind pace_kind_of(bool write, uint64_t bytes)
{
    return (write ? PACE_WRITE_SMALL : PACE_READ_SMALL) + (bytes > PACE_SMALL_BYTES);
}

struct pace_histogram {
    uint32_t n, count[PACE_BUCKETS];
};
struct pace {
    uint64_t rate;         /* bytes a second; PACE_FULL = no limit */
    int64_t tokens;        /* bytes that may go at once; below 0 after a large one */
    uint64_t tokens_at_ns;
    uint64_t client_at_ns; /* the last request of a client; 0 = none yet */
    uint64_t decided_ns, probed_ns;
    uint64_t moved;        /* bytes since decided_ns */
    bool probing;
    unsigned urgent_waiting;
    struct pace_histogram now[PACE_KINDS], calm[PACE_KINDS];
    uint64_t felt_ns, baseline_ns; /* p99 of the worst kind at the last decision, and its baseline; for the counters */
};
void pace_init(struct pace *pace, uint64_t now_ns);
/* A client's request of `kind` has been answered at `now_ns`, `took_ns` after it came. */
void pace_served(struct pace *pace, uint64_t now_ns, enum pace_kind kind, uint64_t took_ns);
/* May `bytes` of background work be done now: 0, and they count as done; or how many nanoseconds later to ask again (never
 * more than PACE_WAIT_MAX_NS). Urgent work goes first: who waits with it holds pace_wait_urgent() meanwhile. */
uint64_t pace_take(struct pace *pace, uint64_t now_ns, uint64_t bytes, bool urgent);
/* They are done in any case: later ones wait the longer. */
void pace_force(struct pace *pace, uint64_t bytes);
void pace_wait_urgent(struct pace *pace, bool begin);
/* The p99, in nanoseconds (the upper border of its bucket); 0 without samples. */
uint64_t pace_p99(const struct pace_histogram *histogram);
void pace_sample(struct pace_histogram *histogram, uint64_t took_ns);

#endif
