#include "heal_state.h"

#include "common/err.h"

#define HEAL_STATE_VERSION 2 /* 1, without the numbers that came later, is read, too */
#define EXTRAS_MAX 32
#define RATE_WINDOW_NS (5 * 1000000000ull)

static void fields(struct heal_state *s, uint64_t *out[20])
{
    uint64_t *all[20] = {&s->weak,         &s->reduced,       &s->missing_bytes, &s->copied_bytes,
                         &s->window_start_ns, &s->window_bytes, &s->rate,        &s->walk_next,
                         &s->walk_end,     &s->walk_again,    &s->policies,      &s->weak_next,
                         &s->weak_epoch,   &s->drain_disk,    &s->drain_next,    &s->drain_after_ns,
                         &s->balance_disk, &s->balance_next,  &s->balance_after_ns, &s->balance_moved};
    memcpy(out, all, sizeof all);
}

static size_t extras(struct heal_state *s, uint64_t *ret[EXTRAS_MAX])
{
    uint64_t *const all[] = {&s->groups,        &s->coding,     &s->ghosts,   &s->uncoded,
                             &s->code_after_ns, &s->code_epoch, &s->code_room, &s->code_next};
    memcpy(ret, all, sizeof all);
    return ARRAY_SIZE(all);
}

void heal_state_encode(const struct heal_state *s, struct writer *w)
{
    struct heal_state copy = *s;
    uint64_t *numbers[20];
    fields(&copy, numbers);
    writer_u8(w, HEAL_STATE_VERSION);
    writer_u8(w, s->counting);
    writer_u8(w, s->balancing);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        writer_u64(w, *numbers[i]);
    uint64_t *more[EXTRAS_MAX];
    size_t n = extras(&copy, more);
    writer_u8(w, (uint8_t)n);
    for (size_t i = 0; i < n; i++)
        writer_u64(w, *more[i]);
}

/* More numbers than are known here come from a later version. */
static int decode_extras(struct reader *r, struct heal_state *s)
{
    uint64_t *more[EXTRAS_MAX];
    size_t known = extras(s, more), n = reader_u8(r);
    if (!r->failed && n > known)
        return -E_VERSION;
    for (size_t i = 0; i < n; i++)
        *more[i] = reader_u64(r);
    return 0;
}

int heal_state_decode(const void *data, size_t n, struct heal_state *ret)
{
    struct reader r = reader_init(data, n);
    struct heal_state s = {0};
    uint64_t *numbers[20];
    uint8_t version = reader_u8(&r);
    if (version != HEAL_STATE_VERSION && version != RECORD_VERSION)
        return -E_CORRUPT;
    s.counting = reader_u8(&r) != 0;
    s.balancing = reader_u8(&r) != 0;
    fields(&s, numbers);
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        *numbers[i] = reader_u64(&r);
    int err = version == HEAL_STATE_VERSION ? decode_extras(&r, &s) : 0;
    if (err != 0)
        return err;
    if (r.failed || reader_left(&r) != 0)
        return -E_CORRUPT;
    *ret = s;
    return 0;
}

int heal_state_get(struct tables *t, struct heal_state *ret)
{
    struct key key = key_table(TABLE_HEAL);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT) {
        bool any = t->state.next_chunk > 1;
        *ret = (struct heal_state){.counting = any, .walk_next = any, .walk_end = any ? t->state.next_chunk : 0};
        return 0;
    }
    if (err == 0 && heal_state_decode(value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "heal state");
    return err;
}

int heal_state_put(struct tables *t, const struct heal_state *s)
{
    _cleanup_(writer_fini) struct writer w = {0};
    heal_state_encode(s, &w);
    struct key key = key_table(TABLE_HEAL);
    return tables_put(t, &key, &w);
}

int heal_walk_ask(struct tables *t)
{
    struct heal_state s;
    int err = heal_state_get(t, &s);
    if (err != 0)
        return err;
    if (s.walk_next != 0) { /* all once more: what is before it, and what a walk that was asked again left out */
        s.walk_again = s.counting ? t->state.next_chunk : s.walk_next; /* while it counts it does not look at policies */
        s.walk_end = t->state.next_chunk;
    } else if (t->state.chunks > 0) {
        s.walk_next = 1;
        s.walk_end = t->state.next_chunk;
    }
    return heal_state_put(t, &s);
}

void heal_walk_progress(const struct heal_state *s, uint64_t *ret_walked, uint64_t *ret_end)
{
    *ret_walked = s->walk_next == 0 ? 0 : s->walk_next - 1;
    *ret_end = s->walk_next == 0 ? 0 : s->walk_end + s->walk_again;
}

int heal_rate_add(struct tables *t, uint64_t bytes)
{
    struct heal_state s;
    int err = heal_state_get(t, &s);
    if (err != 0)
        return err;
    uint64_t passed = t->now - MIN(t->now, s.window_start_ns);
    if (passed > 4 * RATE_WINDOW_NS) { /* an idle time tells nothing about the rate */
        s.window_start_ns = t->now;
        s.window_bytes = 0;
    } else if (passed >= RATE_WINDOW_NS) {
        s.rate = s.window_bytes / (passed / 1000000) * 1000;
        s.window_start_ns = t->now;
        s.window_bytes = 0;
    }
    s.window_bytes += bytes;
    s.copied_bytes += bytes;
    return heal_state_put(t, &s);
}
