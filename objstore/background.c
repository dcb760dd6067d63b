#include "background.h"

#include "common/err.h"

/* One wait of pace_take(); urgent work is known to wait, so that other work does not go before it. */
static int wait_ns(struct store *s, uint64_t ns, bool urgent)
{
    if (urgent)
        pace_wait_urgent(&s->pace, true);
    int err = io_sleep_ms(s->io, (ns + 999999) / 1000000);
    if (urgent)
        pace_wait_urgent(&s->pace, false);
    return err;
}

int background_take(struct background *b, uint64_t bytes)
{
    struct store *s = b->store;
    for (;;) {
        if (b->cancelled || s->stopping)
            return -E_CANCELED;
        uint64_t ns = pace_take(&s->pace, io_mono_ns(s->io), bytes, b->urgent);
        if (ns == 0)
            return 0;
        int err = wait_ns(s, ns, b->urgent);
        if (err != 0)
            return err;
    }
}

int background_yield(struct store *s, uint64_t bytes, bool urgent, uint64_t wait_ms)
{
    uint64_t until_ms = io_mono_ms(s->io) + wait_ms;
    while (io_mono_ms(s->io) < until_ms && !s->stopping) {
        uint64_t ns = pace_take(&s->pace, io_mono_ns(s->io), bytes, urgent);
        if (ns == 0)
            return 0;
        int err = wait_ns(s, ns, urgent);
        if (err != 0)
            return err;
    }
    pace_force(&s->pace, bytes);
    return s->stopping ? -E_CANCELED : 0;
}
