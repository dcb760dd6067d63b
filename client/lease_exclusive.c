/* Exclusive leases at the client: from the open that brought one to its return, by wish or because it was asked
 * back. They are valid while the session is; nothing about them changes with the leader. */
#include "lease_internal.h"

#include "common/err.h"
#include "common/log.h"

#define EARLY_MAX 1024
#define OVER_MAX 4096
#define EARLY_ASKED 3 /* asked back so often, about a second apart: the grant was lost with its reply */

/* Asked back before its grant came. */
struct early {
    uint64_t number;
    unsigned times;
};

struct held_exclusive {
    struct leases *leases;
    uint64_t ino, number, session;
    lease_flush_fn flush;
    void *arg;
    bool ending;
    unsigned users; /* the map, the ending fiber, those who wait for the end */
    bool gone;
    int err; /* of the end */
    struct fiber_queue ended;
};

static void drop(struct held_exclusive *held)
{
    if (--held->users == 0)
        free(held);
}

static void forget(struct held_exclusive *held)
{
    if (map_get(&held->leases->exclusives, held->ino) == held) {
        map_remove(&held->leases->exclusives, held->ino);
        held->users--;
    }
    held->gone = true;
    fiber_queue_wake_all(&held->ended);
}

static int give_back(struct leases *leases, uint64_t session, uint64_t ino, uint64_t number, uint64_t size, uint64_t mtime)
{
    Tarn__LeaseItem item = TARN__LEASE_ITEM__INIT;
    item.kind = TARN__LEASE_KIND__LEASE_EXCLUSIVE;
    item.ino = ino;
    item.number = number;
    Tarn__LeaseReturn request = TARN__LEASE_RETURN__INIT;
    request.item = &item;
    request.size = size;
    request.mtime = mtime;
    return meta_call_urgent_in(leases->meta, session, OP_LEASE_RETURN, &request.base, &request.ctx);
}

/* The answer may be lost; the same number again is answered with success. */
static int end(struct held_exclusive *held)
{
    struct leases *leases = held->leases;
    uint64_t size = 0, mtime = 0;
    int flushed = held->flush(held->arg, held->ino, &size, &mtime);
    if (flushed < 0)
        log_warn("changes of inode %llu that were kept back cannot be stored: %s", (unsigned long long)held->ino,
                 err_sentence(flushed));
    int r;
    do
        r = give_back(leases, held->session, held->ino, held->number, flushed < 0 ? 0 : size, flushed < 0 ? 0 : mtime);
    while (lease_return_again(leases, r));
    return flushed < 0 ? flushed : r;
}

static void end_fiber(void *arg)
{
    struct held_exclusive *held = arg;
    struct meta *meta = held->leases->meta;
    held->err = end(held);
    forget(held);
    drop(held);
    meta_fiber_done(meta);
}

/* Two opens of one client may be answered in any order: after a lease went back, the reply that brings an older
 * number of the same inode brings nothing. Numbers grow over all inodes, so one floor stands for what is forgotten. */
static void over_note(struct leases *leases, uint64_t ino, uint64_t number)
{
    uint64_t before = (uintptr_t)map_get(&leases->over, ino);
    if (leases->over.count < OVER_MAX && map_put(&leases->over, ino, (void *)(uintptr_t)MAX(before, number)) == 0)
        return;
    leases->over_floor = MAX(leases->over_floor, number);
    for (size_t at = 0;;) {
        void *value;
        if (!map_next(&leases->over, &at, &ino, &value))
            break;
        leases->over_floor = MAX(leases->over_floor, (uint64_t)(uintptr_t)value);
    }
    map_fini(&leases->over);
    leases->over = (struct map){0};
}

static bool is_over(const struct leases *leases, uint64_t ino, uint64_t number)
{
    return number <= leases->over_floor || number <= (uintptr_t)map_get(&leases->over, ino);
}

static int end_begin(struct held_exclusive *held)
{
    if (held->ending)
        return 0;
    held->ending = true;
    over_note(held->leases, held->ino, held->number);
    held->users++;
    int r = meta_spawn(held->leases->meta, "lease-return", end_fiber, held);
    if (r < 0) {
        held->ending = false; /* asked back again soon */
        held->users--;
    }
    return r;
}

static void return_fiber(void *arg)
{
    struct held_exclusive *unknown = arg;
    struct meta *meta = unknown->leases->meta;
    (void)give_back(unknown->leases, unknown->session, unknown->ino, unknown->number, 0, 0);
    free(unknown);
    meta_fiber_done(meta);
}

static void return_unknown(struct leases *leases, uint64_t ino, uint64_t number)
{
    struct held_exclusive *unknown = calloc(1, sizeof *unknown);
    if (!unknown)
        return;
    over_note(leases, ino, number);
    *unknown = (struct held_exclusive){
        .leases = leases, .ino = ino, .number = number, .session = meta_session(leases->meta)};
    if (unknown->session == 0 || meta_spawn(leases->meta, "lease-return", return_fiber, unknown) < 0)
        free(unknown);
}

static void early_note(struct leases *leases, uint64_t ino, uint64_t number)
{
    struct early *early = map_get(&leases->early, ino);
    if (!early && leases->early.count < EARLY_MAX) {
        early = calloc(1, sizeof *early);
        if (early && map_put(&leases->early, ino, early) < 0)
            free(take_ptr(early));
    }
    if (!early)
        return; /* asked back again */
    if (early->number != number)
        *early = (struct early){.number = number};
    if (++early->times >= EARLY_ASKED)
        return_unknown(leases, ino, number);
}

void lease_exclusive_recall(struct leases *leases, uint64_t ino, uint64_t number)
{
    struct held_exclusive *held = map_get(&leases->exclusives, ino);
    if (held && held->number == number)
        (void)end_begin(held);
    else
        early_note(leases, ino, number);
}

/* True when the lease was asked back before: *ret_void when it was given back, too. */
static bool early_take(struct leases *leases, uint64_t ino, uint64_t number, bool *ret_void)
{
    struct early *early = map_remove(&leases->early, ino);
    bool found = early && early->number == number;
    *ret_void = found && early->times >= EARLY_ASKED;
    free(early);
    return found;
}

static struct held_exclusive *held_make(struct leases *leases, uint64_t ino)
{
    struct held_exclusive *held = calloc(1, sizeof *held), *before = map_get(&leases->exclusives, ino);
    if (!held || map_put(&leases->exclusives, ino, held) < 0) {
        free(held);
        return NULL;
    }
    if (before)
        drop(before); /* on its way back: its fiber has it */
    return held;
}

int lease_exclusive_begin(struct leases *leases, uint64_t ino, uint64_t number, lease_flush_fn flush, void *arg)
{
    uint64_t session = meta_session(leases->meta);
    bool is_void, early = early_take(leases, ino, number, &is_void);
    struct held_exclusive *held = map_get(&leases->exclusives, ino);
    if (is_void)
        return -E_STALE;
    if (is_over(leases, ino, number)) {
        return_unknown(leases, ino, number); /* if the service still knows it, nobody uses it */
        return -E_STALE;
    }
    if (held && held->session == session && !held->ending) {
        held->number = MAX(held->number, number); /* another handle of ours: the number of the latest counts */
    } else {
        held = held_make(leases, ino);
        if (!held) {
            (void)give_back(leases, session, ino, number, 0, 0);
            return -E_NOMEM;
        }
        *held = (struct held_exclusive){
            .leases = leases, .ino = ino, .number = number, .session = session, .flush = flush, .arg = arg, .users = 1};
        meta_keeper_wake(leases->meta);
    }
    if (early)
        (void)end_begin(held);
    return 0;
}

bool lease_exclusive_valid(struct leases *leases, uint64_t ino)
{
    const struct held_exclusive *held = map_get(&leases->exclusives, ino);
    return held && !held->ending && held->session == meta_session(leases->meta);
}

int lease_exclusive_end(struct leases *leases, uint64_t ino)
{
    struct held_exclusive *held = map_get(&leases->exclusives, ino);
    if (!held)
        return 0;
    int r = end_begin(held);
    held->users++;
    while (r == 0 && !held->gone)
        r = fiber_queue_wait(&held->ended, 0);
    r = r < 0 ? r : held->err;
    drop(held);
    return r;
}

void exclusives_lost(struct leases *leases)
{
    size_t at = 0;
    uint64_t ino;
    void *value;
    while (map_next(&leases->exclusives, &at, &ino, &value)) {
        struct held_exclusive *held = value;
        held->err = -E_NO_SESSION;
        map_remove(&leases->exclusives, ino);
        held->gone = true;
        fiber_queue_wake_all(&held->ended);
        drop(held);
    }
    at = 0;
    while (map_next(&leases->early, &at, &ino, &value))
        free(value);
    map_fini(&leases->early);
    leases->early = (struct map){0};
}

void exclusives_forget(struct leases *leases)
{
    exclusives_lost(leases);
    map_fini(&leases->exclusives);
    map_fini(&leases->over);
}
