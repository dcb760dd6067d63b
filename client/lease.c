/* Read leases at the client. Time: everything of one epoch (of one leader) is over at until_ms, which answers
 * move on, counted from when the request was sent. Order: a grant and the recall that ends it may arrive in either
 * order; both carry numbers of the leader's, and the higher one is the later.
 *
 *   leader changed, or silent for a term ── known leases are in doubt ── LEASE_ASK: same version? ── valid again
 *   connection lost ── suspended until a ping has been answered: that names the recalls that were lost */
#include "lease_internal.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#define HELD_MAX 16384     /* leases; then the oldest is given back */
#define PING_MS 200        /* a third of the term */
#define ROWS_PING_MS 1000  /* a recall that was lost is heard of this soon */
#define IDLE_MS 30000      /* a lease nobody has used for so long is given back */
#define IDLE_LOOKS 64      /* leases looked at for that after each ping */
#define RETURN_AGAIN_MS 50 /* before LEASE_RETURN is sent again */
#define GIVE_BACK_MAX 64   /* in one message */

struct held {
    struct list node;
    uint64_t ino, number, version, stamp, used_ms;
    bool valid; /* false: in doubt */
};

struct owed {
    struct list node;
    Tarn__LeaseKind kind;
    uint64_t ino, number;
};

struct leases *leases_create(struct meta *meta)
{
    struct leases *leases = calloc(1, sizeof *leases);
    if (!leases)
        return NULL;
    leases->meta = meta;
    leases->io = meta_io(meta);
    list_init(&leases->order);
    list_init(&leases->owed);
    list_init(&leases->lock_waits);
    return leases;
}

static void owed_clear(struct leases *leases)
{
    list_foreach_safe(&leases->owed, it, next) free(list_entry(it, struct owed, node));
    list_init(&leases->owed);
}

void leases_destroy(struct leases *leases)
{
    if (!leases)
        return;
    list_foreach_safe(&leases->order, it, next) free(list_entry(it, struct held, node));
    owed_clear(leases);
    exclusives_forget(leases);
    lock_files_forget(leases);
    map_fini(&leases->held);
    map_fini(&leases->voided);
    free(leases);
}

void lease_on_recall(struct leases *leases, lease_recalled_fn fn, void *arg)
{
    leases->recalled = fn;
    leases->recalled_arg = arg;
}

size_t lease_count(const struct leases *leases)
{
    return leases->held.count;
}

static void drop(struct leases *leases, struct held *held)
{
    uint64_t ino = held->ino;
    map_remove(&leases->held, ino);
    list_remove(&held->node);
    free(held);
    if (leases->recalled)
        leases->recalled(leases->recalled_arg, ino);
}

static void drop_all(struct leases *leases)
{
    list_foreach_safe(&leases->order, it, next) drop(leases, list_entry(it, struct held, node));
}

/* ------------------------------------------------------------------ giving back */

static size_t owed_take(struct leases *leases, Tarn__LeaseItem *items, Tarn__LeaseItem **list)
{
    size_t n = 0;
    list_foreach_safe(&leases->owed, it, next) {
        struct owed *owed = list_entry(it, struct owed, node);
        if (n == GIVE_BACK_MAX)
            break;
        tarn__lease_item__init(&items[n]);
        items[n].ino = owed->ino;
        items[n].number = owed->number;
        list[n] = &items[n];
        n++;
        list_remove(&owed->node);
        free(owed);
    }
    return n;
}

/* An answer that cannot be sent is asked for again by the next ping. */
static void answer_fiber(void *arg)
{
    struct leases *leases = arg;
    while ((leases->all_back || !list_empty(&leases->owed)) && !meta_closing(leases->meta)) {
        Tarn__LeaseItem items[GIVE_BACK_MAX], *list[GIVE_BACK_MAX];
        Tarn__LeaseGiveBack request = TARN__LEASE_GIVE_BACK__INIT;
        request.epoch = leases->owed_epoch;
        request.all = leases->all_back;
        request.items = list;
        request.n_items = owed_take(leases, items, list);
        leases->all_back = false;
        int r = meta_call_urgent(leases->meta, OP_LEASE_GIVE_BACK, &request.base, &request.ctx, NULL, NULL);
        if (r < 0)
            log_debug("leases are not given back: %s", err_sentence(r));
    }
    leases->answering = false;
    meta_fiber_done(leases->meta);
}

static void answer_soon(struct leases *leases)
{
    leases->owed_epoch = leases->epoch;
    if (leases->answering || meta_closing(leases->meta))
        return;
    leases->answering = true;
    if (meta_spawn(leases->meta, "lease-answer", answer_fiber, leases) < 0)
        leases->answering = false; /* the next ping asks again */
}

static void give_back(struct leases *leases, uint64_t ino, uint64_t number)
{
    struct owed *owed = calloc(1, sizeof *owed);
    if (!owed)
        return; /* as if it was lost */
    owed->ino = ino;
    owed->number = number;
    list_append(&leases->owed, &owed->node);
    answer_soon(leases);
}

/* A leader whose disk fails says so without knowing whether the others carry on with the change. */
bool lease_return_again(struct leases *leases, int r)
{
    bool unsure = r == -E_UNAVAIL || r == -E_BUSY || r == -E_NOMEM || r == -E_IO || r == -E_NOSPC;
    return unsure && !meta_closing(leases->meta) && io_sleep_ms(leases->io, RETURN_AGAIN_MS) == 0;
}

/* ------------------------------------------------------------------ what the leader says */

/* False: the answer says nothing about leases. */
static bool leader_answered(struct leases *leases, uint64_t sent_ms, uint64_t epoch, uint32_t term_ms)
{
    if (epoch == 0)
        return false;
    bool continuous = epoch == leases->epoch && io_mono_ms(leases->io) < leases->until_ms;
    if (!continuous) { /* E5 */
        list_foreach(&leases->order, it) list_entry(it, struct held, node)->valid = false;
        leases->doubts = !list_empty(&leases->order);
        if (epoch != leases->epoch)
            owed_clear(leases);
        leases->epoch = epoch;
        leases->until_ms = 0;
    }
    if (term_ms > 0)
        leases->until_ms = MAX(leases->until_ms, sent_ms + term_ms);
    if (leases->doubts)
        meta_keeper_wake(leases->meta);
    return true;
}

static void recall(struct leases *leases, uint64_t ino, uint64_t number)
{
    struct held *held = map_get(&leases->held, ino);
    if (held && (!held->valid || held->number <= number))
        drop(leases, held);
    uint64_t before = (uintptr_t)map_get(&leases->voided, ino);
    if (leases->asking > 0 && number > before && map_put(&leases->voided, ino, (void *)(uintptr_t)number) < 0)
        leases->all_voided = true;
    give_back(leases, ino, number);
}

/* Rights of the tables: their numbers hold under every leader. */
static void recall_row(struct leases *leases, const Tarn__LeaseItem *item)
{
    if (item->kind == TARN__LEASE_KIND__LEASE_EXCLUSIVE)
        lease_exclusive_recall(leases, item->ino, item->number);
    else
        lease_locks_recall(leases, item);
}

void leases_push(struct leases *leases, uint64_t session, const uint8_t *control, size_t len)
{
    Tarn__LeaseRecalled *push = tarn__lease_recalled__unpack(NULL, len, control);
    if (!push)
        return;
    if (push->epoch != leases->epoch && push->epoch != 0) /* of a leader before, or its first grant is still on its way */
        leases->all_voided = leases->asking > 0;
    for (size_t i = 0; i < push->n_items; i++)
        if (push->items[i]->kind != TARN__LEASE_KIND__LEASE_READ)
            recall_row(leases, push->items[i]);
        else if (session == leases->session && push->epoch == leases->epoch)
            recall(leases, push->items[i]->ino, push->items[i]->number);
    tarn__lease_recalled__free_unpacked(push, NULL);
}

void leases_route_changed(struct leases *leases)
{
    leases->route++;
    leases->suspended = true;
}

static void session_set(struct leases *leases, uint64_t session)
{
    if (leases->session == session)
        return;
    drop_all(leases);
    owed_clear(leases);
    leases->session = session;
    leases->until_ms = 0;
    leases->all_back = false;
}

void leases_session_lost(struct leases *leases)
{
    exclusives_lost(leases);
    lock_files_lost(leases);
    session_set(leases, 0);
}

/* ------------------------------------------------------------------ pings */

uint64_t leases_ping_ms(const struct leases *leases)
{
    if (leases->held.count > 0)
        return PING_MS;
    return leases->exclusives.count > 0 || leases->lock_files.count > 0 ? ROWS_PING_MS : 0;
}

void leases_ping_begin(const struct leases *leases, struct lease_ping *ping)
{
    *ping = (struct lease_ping){.sent_ms = io_mono_ms(leases->io), .route = leases->route};
}

static void give_back_idle(struct leases *leases)
{
    uint64_t now = io_mono_ms(leases->io);
    for (unsigned i = 0; i < IDLE_LOOKS && !list_empty(&leases->order); i++) {
        struct held *held = list_entry(leases->order.next, struct held, node);
        if (now < held->used_ms + IDLE_MS) {
            list_remove(&held->node);
            list_append(&leases->order, &held->node);
            continue;
        }
        give_back(leases, held->ino, held->number);
        drop(leases, held);
    }
}

void leases_ping_end(struct leases *leases, const struct lease_ping *ping, const Tarn__SessionPingReply *reply)
{
    session_set(leases, meta_session(leases->meta));
    if (!leader_answered(leases, ping->sent_ms, reply->epoch, reply->term_ms))
        return;
    size_t reads = 0;
    for (size_t i = 0; i < reply->n_recalls; i++)
        if (reply->recalls[i]->kind != TARN__LEASE_KIND__LEASE_READ)
            recall_row(leases, reply->recalls[i]);
        else if (++reads > 0)
            recall(leases, reply->recalls[i]->ino, reply->recalls[i]->number);
    if (reply->term_ms == 0 && reads == 0) { /* it gave us up; what we had is over */
        drop_all(leases);
        leases->until_ms = 0;
        leases->all_back = true;
        answer_soon(leases);
    }
    if (ping->route == leases->route)
        leases->suspended = false;
    give_back_idle(leases);
}

/* ------------------------------------------------------------------ asking */

void lease_ask_begin(struct leases *leases, struct lease_asking *asking)
{
    session_set(leases, meta_session(leases->meta));
    *asking = (struct lease_asking){.sent_ms = io_mono_ms(leases->io), .session = leases->session};
    leases->asking++;
}

static struct held *held_make(struct leases *leases, uint64_t ino)
{
    struct held *held = calloc(1, sizeof *held);
    if (!held || map_put(&leases->held, ino, held) < 0) {
        free(held);
        return NULL;
    }
    held->ino = ino;
    held->stamp = ++leases->last_stamp;
    list_append(&leases->order, &held->node);
    if (leases->held.count == 1)
        meta_keeper_wake(leases->meta); /* from now on pings are due more often */
    if (leases->held.count > HELD_MAX) {
        struct held *oldest = list_entry(leases->order.next, struct held, node);
        give_back(leases, oldest->ino, oldest->number);
        drop(leases, oldest);
    }
    return held;
}

/* A grant whose recall has overtaken it is void; it was given back already. */
static uint64_t note(struct leases *leases, uint64_t ino, uint64_t number, uint64_t version)
{
    if (number == 0 || version == 0 || (uintptr_t)map_get(&leases->voided, ino) >= number)
        return 0;
    if (leases->all_voided) {
        give_back(leases, ino, number);
        return 0;
    }
    struct held *held = map_get(&leases->held, ino);
    if (held && held->version != version)
        held->stamp = ++leases->last_stamp; /* what was known before is not what the lease is for */
    if (!held)
        held = held_make(leases, ino);
    if (!held) {
        give_back(leases, ino, number);
        return 0;
    }
    held->number = held->valid ? MAX(held->number, number) : number;
    held->version = version;
    held->valid = true;
    held->used_ms = io_mono_ms(leases->io);
    return held->stamp;
}

static void asked(struct leases *leases)
{
    CHECK(leases->asking > 0);
    if (--leases->asking > 0)
        return;
    map_fini(&leases->voided);
    leases->voided = (struct map){0};
    leases->all_voided = false;
}

uint64_t lease_ask_end(struct leases *leases, const struct lease_asking *asking, const Tarn__LeaseGrant *grant,
                       uint64_t version)
{
    uint64_t stamp = 0;
    bool ours = grant && asking->session != 0 && asking->session == meta_session(leases->meta);
    if (ours && leader_answered(leases, asking->sent_ms, grant->epoch, grant->term_ms))
        stamp = note(leases, grant->ino, grant->number, version);
    asked(leases);
    return stamp;
}

bool lease_valid(struct leases *leases, uint64_t ino, uint64_t stamp)
{
    struct held *held = stamp == 0 ? NULL : map_get(&leases->held, ino);
    if (!held || held->stamp != stamp || !held->valid || leases->suspended)
        return false;
    uint64_t now = io_mono_ms(leases->io);
    if (now >= leases->until_ms || leases->session != meta_session(leases->meta))
        return false;
    held->used_ms = now;
    return true;
}

static int ask(struct leases *leases, const uint64_t *inos, size_t n, Tarn__LeaseAskReply **ret)
{
    Tarn__LeaseAsk request = TARN__LEASE_ASK__INIT;
    request.inos = (uint64_t *)(uintptr_t)inos;
    request.n_inos = n;
    int r = meta_call_urgent(leases->meta, OP_LEASE_ASK, &request.base, &request.ctx,
                             &tarn__lease_ask_reply__descriptor, ret);
    if (r == 0 && (*ret)->n_answers != n) {
        tarn__lease_ask_reply__free_unpacked(*ret, NULL);
        r = -E_PROTO;
    }
    return r;
}

int lease_ask(struct leases *leases, const uint64_t *inos, size_t n, uint64_t *ret_stamps)
{
    memset(ret_stamps, 0, n * sizeof *ret_stamps);
    if (n > LEASE_ASK_MAX)
        return -E_INVAL;
    int r = meta_session_ensure(leases->meta);
    if (r < 0)
        return r;
    struct lease_asking asking;
    Tarn__LeaseAskReply *reply = NULL;
    lease_ask_begin(leases, &asking);
    r = ask(leases, inos, n, &reply);
    bool ours = r == 0 && asking.session != 0 && asking.session == meta_session(leases->meta);
    if (ours && leader_answered(leases, asking.sent_ms, reply->epoch, reply->term_ms))
        for (size_t i = 0; i < n; i++)
            ret_stamps[i] = note(leases, inos[i], reply->answers[i]->number, reply->answers[i]->version);
    if (r == 0)
        tarn__lease_ask_reply__free_unpacked(reply, NULL);
    asked(leases);
    return r;
}

/* ------------------------------------------------------------------ after a change of leader */

static size_t doubtful(struct leases *leases, uint64_t *inos, uint64_t *versions)
{
    size_t n = 0;
    list_foreach(&leases->order, it) {
        const struct held *held = list_entry(it, struct held, node);
        if (held->valid || n == LEASE_ASK_MAX)
            continue;
        inos[n] = held->ino;
        versions[n++] = held->version;
    }
    return n;
}

/* Kept when the inode still has the version under which it was known; E5. */
static void confirm(struct leases *leases, uint64_t ino, uint64_t version, const Tarn__LeaseAnswer *answer)
{
    struct held *held = map_get(&leases->held, ino);
    if (!held || held->valid || held->version != version)
        return;
    if (answer->version == version && note(leases, ino, answer->number, version) != 0)
        return;
    if (answer->number != 0)
        give_back(leases, ino, answer->number);
    drop(leases, held);
}

void leases_reclaim(struct leases *leases)
{
    uint64_t inos[LEASE_ASK_MAX], versions[LEASE_ASK_MAX];
    while (leases->doubts && !meta_closing(leases->meta)) {
        struct lease_asking asking;
        Tarn__LeaseAskReply *reply = NULL;
        lease_ask_begin(leases, &asking);
        size_t n = doubtful(leases, inos, versions);
        leases->doubts = n > 0;
        int r = n == 0 ? -E_CANCELED : ask(leases, inos, n, &reply);
        uint64_t epoch = leases->epoch;
        bool counts = r == 0 && asking.session == meta_session(leases->meta) &&
                      leader_answered(leases, asking.sent_ms, reply->epoch, reply->term_ms);
        /* In doubt again by this very answer: a new leader once more. It is asked for again. */
        for (size_t i = 0; i < n && counts && epoch == leases->epoch; i++)
            confirm(leases, inos[i], versions[i], reply->answers[i]);
        if (r == 0)
            tarn__lease_ask_reply__free_unpacked(reply, NULL);
        asked(leases);
        if (r < 0 || !counts)
            return; /* after the next ping again */
    }
}
