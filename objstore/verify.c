#include "verify.h"

#include "get.h"
#include "readback.h"
#include "verified.h"
#include "common/err.h"
#include "common/log.h"

#define PAUSE_MS 5         /* between looks whether the store is idle */
#define PAUSES_MAX 200     /* for one window: a store that is never idle is verified all the same, slowly */
#define WINDOW_BYTES MIB(1)

/* A chunk that was sealed. */
struct waiting {
    struct volume *volume;
    uint64_t chunk;
};

struct verify {
    struct store *store;
    struct waiting waiting[VERIFY_WAITING_MAX]; /* a ring */
    unsigned first, n;
    bool stopping;
    struct fiber_queue work;
    struct fiber_group fibers;
};

/* ------------------------------------------------------------------ by order */
static int order_window(struct volume *v, const Tarn__ChunkTask *task, uint64_t at, uint64_t *ret_length, uint32_t *ret_digest,
                        uint64_t *ret_bad)
{
    struct held held;
    int err = store_hold_all(v, task->chunk, false, false, &held);
    if (err != 0)
        return err;
    struct chunk *c = held.chunk;
    if ((c->flags & CHUNK_PARTIAL) != 0)
        err = -E_NOENT;
    else if ((c->flags & CHUNK_SEALED) == 0 || c->generation != task->generation || (task->length != 0 && c->length != task->length))
        err = -E_STALE;
    else if (at < c->length)
        err = readback_window(v, c, at, MIN(WINDOW_BYTES, c->length - at), ret_bad);
    if (err == -E_CORRUPT) {
        verified_gone(v, c);
        damage_note(&v->damages, c, *ret_bad / CELL_BYTES);
    }
    *ret_length = c->length;
    *ret_digest = chunk_digest(c);
    store_release(&held);
    return err;
}

int verify_task(struct background *b, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest)
{
    uint64_t length = WINDOW_BYTES, bad = 0; /* the first window is looked at in any case: it tells the length */
    uint32_t digest = 0;
    int err = 0;
    for (uint64_t at = 0; at < MAX(length, (uint64_t)1) && err == 0; at += WINDOW_BYTES) {
        err = background_take(b, WINDOW_BYTES);
        if (err == 0)
            err = order_window(b->volume, task, at, &length, &digest, &bad);
    }
    b->store->counters.verified += err == 0;
    b->store->counters.corrupt += err == -E_CORRUPT;
    if (err != 0 && err != -E_CORRUPT)
        return err;
    *ret_length = err == 0 ? length : bad;
    *ret_digest = err == 0 ? digest : 0;
    return err;
}

/* ------------------------------------------------------------------ ahead of readers */
static int wait_until_idle(const struct verify *v)
{
    int err = 0;
    for (unsigned i = 0; i < PAUSES_MAX && v->store->requests > 0 && !v->stopping && err == 0; i++)
        err = io_sleep_ms(v->store->io, PAUSE_MS);
    return v->stopping ? -E_CANCELED : err;
}

/* The chunk is held for a window at a time: a delete or a handover does not wait for the rest. */
static int verify_window(struct verify *v, const struct waiting *of, uint64_t at, uint64_t generation, uint64_t *ret_generation, bool *ret_more)
{
    struct store *s = v->store;
    struct held held;
    int err = store_hold_all(of->volume, of->chunk, false, false, &held);
    if (err != 0)
        return err;
    struct chunk *c = held.chunk;
    *ret_generation = c->generation;
    *ret_more = false;
    if (!c->verified && (c->flags & CHUNK_SEALED) != 0 && (at == 0 || c->generation == generation)) {
        struct get get = {0};
        err = get_read(held.volume, c, at, WINDOW_BYTES, &get);
        if (err == 0) {
            get_fini(held.volume, &get);
            *ret_more = at + WINDOW_BYTES < c->length;
            if (!*ret_more)
                verified_note(of->volume, c);
        }
        s->counters.corrupt += err == -E_CORRUPT;
    }
    store_release(&held);
    return err;
}

static int verify_chunk(struct verify *v, const struct waiting *of)
{
    uint64_t generation = 0;
    bool more = true;
    int err = 0;
    for (uint64_t at = 0; more && err == 0; at += WINDOW_BYTES) {
        err = wait_until_idle(v);
        if (err == 0)
            err = verify_window(v, of, at, generation, &generation, &more);
    }
    return err;
}

static void run(void *arg)
{
    struct verify *v = arg;
    int err = 0;
    while (!v->stopping && err != -E_CANCELED) {
        if (v->n == 0) {
            err = fiber_queue_wait(&v->work, 0);
            continue;
        }
        struct waiting of = v->waiting[v->first];
        v->first = (v->first + 1) % VERIFY_WAITING_MAX;
        v->n--;
        err = verify_chunk(v, &of);
        /* Gone or busy: its next reader sees to it. A cell that does not match was logged by get_read(). */
        if (err != 0 && err != -E_CANCELED && err != -E_NOENT && err != -E_CORRUPT)
            log_debug("chunk %llx is not verified ahead: %s", (unsigned long long)of.chunk, err_sentence(err));
    }
    fiber_group_done(&v->fibers);
}

int verify_start(struct store *store, struct verify **ret)
{
    struct verify *v = calloc(1, sizeof *v);
    if (v == NULL)
        return -E_NOMEM;
    v->store = store;
    fiber_group_add(&v->fibers);
    int err = fiber_spawn(store->io, "verify", run, v);
    if (err != 0) {
        free(v);
        return err;
    }
    *ret = v;
    return 0;
}

void verify_note(struct verify *v, struct volume *volume, uint64_t chunk)
{
    if (v == NULL || v->n == VERIFY_WAITING_MAX)
        return;
    v->waiting[(v->first + v->n++) % VERIFY_WAITING_MAX] = (struct waiting){volume, chunk};
    fiber_queue_wake_one(&v->work);
}

void verify_stop(struct verify *v)
{
    if (v == NULL)
        return;
    v->stopping = true;
    fiber_queue_wake_all(&v->work);
    fiber_group_wait(&v->fibers);
    free(v);
}
