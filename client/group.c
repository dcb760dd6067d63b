/* What groups are made of (kept, asked for in a fiber of its own that several readers wait for), and computations:
 *
 *   while fewer than k shards are here:
 *     begin shards until k are here or under way, and one more each time that nothing came for as long as a late answer takes
 *     one comes: counted     one fails: the next begins     none left: -E_UNAVAIL,
 *                                                                        or -E_CORRUPT: smaller ranges may be there
 *   leave those still under way, compute */
#include "group.h"

#include "common/check.h"
#include "common/ec.h"
#include "common/err.h"
#include "common/log.h"

#define PLANS_MAX 8        /* patterns of losses of late; 11 KiB each */
#define TELL_MS 5000       /* a group that cannot be read is told about this often */

/* One group as the service told it. Counted: a computation keeps it while the cache moves on. */
struct group {
    struct list lru;
    uint64_t id, fetched_ms, told_ms;
    unsigned refs;
    bool kept; /* in the cache */
    Tarn__GroupReply *reply; /* shards[i]->index is i */
};

/* A question to the service under way; it outlives the stores when they go first. */
struct group_fetch {
    struct list node;
    struct groups *groups; /* NULL: gone */
    struct meta *meta;
    uint64_t id;
    int err;
    bool over;
    unsigned refs; /* its fiber, and who waits for it */
};

struct plan {
    unsigned k, m;
    uint32_t have, want;
    struct ec_plan ec;
};

struct groups {
    struct stores *stores;
    struct map kept; /* id → struct group */
    struct list lru; /* the most recently used first */
    struct list fetches;
    struct fiber_queue fetched;
    unsigned reading;
    struct fiber_queue room;
    struct plan *plans[PLANS_MAX];
    unsigned next_plan;
};

/* ------------------------------------------------------------------ life */

static int groups_make(struct stores *stores)
{
    if (stores->groups)
        return 0;
    struct groups *groups = calloc(1, sizeof *groups);
    if (!groups)
        return -E_NOMEM;
    groups->stores = stores;
    list_init(&groups->lru);
    list_init(&groups->fetches);
    stores->groups = groups;
    return 0;
}

static void group_unref(struct group *group)
{
    CHECK(group->refs > 0);
    if (--group->refs > 0)
        return;
    tarn__group_reply__free_unpacked(group->reply, NULL);
    free(group);
}

static void group_unrefp(struct group **group)
{
    if (*group)
        group_unref(*group);
}

static void group_forget(struct groups *groups, struct group *group)
{
    if (!group->kept)
        return;
    group->kept = false;
    map_remove(&groups->kept, group->id);
    list_remove(&group->lru);
    group_unref(group);
}

static void fetch_unref(struct group_fetch *fetch)
{
    if (--fetch->refs == 0)
        free(fetch);
}

void groups_destroy(struct groups *groups)
{
    if (!groups)
        return;
    CHECK(groups->reading == 0);
    list_foreach_safe(&groups->fetches, it, next) {
        list_entry(it, struct group_fetch, node)->groups = NULL;
        list_remove(it);
    }
    while (!list_empty(&groups->lru))
        group_forget(groups, list_entry(groups->lru.next, struct group, lru));
    map_fini(&groups->kept);
    for (unsigned i = 0; i < PLANS_MAX; i++)
        free(groups->plans[i]);
    free(groups);
}

/* ------------------------------------------------------------------ asking */

/* Shards in order of their index, each index once, k and m that a code can have. */
static int reply_check(Tarn__GroupReply *reply)
{
    struct ec_codec codec;
    if (ec_codec_init(reply->k, reply->m, &codec) < 0 || reply->n_shards != reply->k + reply->m)
        return -E_PROTO;
    for (size_t i = 0; i < reply->n_shards; i++)
        while (reply->shards[i]->index != i) {
            Tarn__Shard *shard = reply->shards[i];
            if (shard->index >= reply->n_shards || reply->shards[shard->index]->index == shard->index)
                return -E_PROTO;
            reply->shards[i] = reply->shards[shard->index];
            reply->shards[shard->index] = shard;
        }
    return 0;
}

/* Takes the reply. */
static int group_keep(struct groups *groups, uint64_t id, Tarn__GroupReply *reply)
{
    struct group *old = map_get(&groups->kept, id);
    if (old)
        group_forget(groups, old);
    while (groups->kept.count >= GROUPS_MAX)
        group_forget(groups, list_entry(groups->lru.prev, struct group, lru));
    struct group *group = calloc(1, sizeof *group);
    if (!group || map_put(&groups->kept, id, group) < 0) {
        free(group);
        tarn__group_reply__free_unpacked(reply, NULL);
        return -E_NOMEM;
    }
    *group = (struct group){.id = id, .refs = 1, .kept = true, .reply = reply};
    group->fetched_ms = io_mono_ms(groups->stores->io);
    list_prepend(&groups->lru, &group->lru);
    return 0;
}

static void fetch_run(void *arg)
{
    struct group_fetch *fetch = arg;
    Tarn__GroupGet request = TARN__GROUP_GET__INIT;
    Tarn__GroupReply *reply = NULL;
    request.group = fetch->id;
    fetch->err = meta_call(fetch->meta, OP_GROUP_GET, &request.base, &request.ctx, &meta_root,
                           &tarn__group_reply__descriptor, &reply, NULL);
    if (fetch->err == 0)
        fetch->err = reply_check(reply);
    if (fetch->err < 0 && fetch->err != -E_NOENT && fetch->err != -E_CANCELED)
        log_warn("what parity group %llx is made of cannot be learned: %s", (unsigned long long)fetch->id, err_sentence(fetch->err));
    struct groups *groups = fetch->groups;
    if (fetch->err == 0 && groups)
        fetch->err = group_keep(groups, fetch->id, take_ptr(reply));
    if (reply)
        tarn__group_reply__free_unpacked(reply, NULL);
    fetch->over = true;
    if (groups) {
        list_remove(&fetch->node);
        fiber_queue_wake_all(&groups->fetched);
    }
    fetch_unref(fetch);
}

/* The question under way about the group, or a new one; counted. */
static int fetch_begin(struct groups *groups, uint64_t id, struct group_fetch **ret)
{
    list_foreach(&groups->fetches, it) {
        struct group_fetch *fetch = list_entry(it, struct group_fetch, node);
        if (fetch->id == id) {
            fetch->refs++;
            *ret = fetch;
            return 0;
        }
    }
    struct group_fetch *fetch = calloc(1, sizeof *fetch);
    if (!fetch)
        return -E_NOMEM;
    *fetch = (struct group_fetch){.groups = groups, .meta = groups->stores->meta, .id = id, .refs = 2};
    int r = fiber_spawn(groups->stores->io, "group-get", fetch_run, fetch);
    if (r < 0) {
        free(fetch);
        return r;
    }
    list_append(&groups->fetches, &fetch->node);
    *ret = fetch;
    return 0;
}

struct queue_wait {
    struct store_stop_item item;
    struct fiber_queue *queue;
};

static void queue_wake(struct store_stop_item *item)
{
    fiber_queue_wake_all(container_of(item, struct queue_wait, item)->queue);
}

/* Until woken, by the stop too: -E_INTR then. */
static int queue_wait(struct fiber_queue *queue, struct store_stop *stop)
{
    struct queue_wait wait = {.item.fire = queue_wake, .queue = queue};
    if (!store_stop_add(stop, &wait.item))
        return -E_INTR;
    int r = fiber_queue_wait(queue, 0);
    store_stop_remove(stop, &wait.item);
    return r == 0 && stop && stop->fired ? -E_INTR : r;
}

static int fetch_wait(struct groups *groups, uint64_t id, struct store_stop *stop)
{
    struct group_fetch *fetch = NULL;
    int r = fetch_begin(groups, id, &fetch);
    while (r == 0 && !fetch->over)
        r = queue_wait(&groups->fetched, stop);
    if (r == 0)
        r = fetch->err;
    if (fetch)
        fetch_unref(fetch);
    return r;
}

/* fresh: asked for from now on. The group is counted. *ret_known: it was known before. */
static int group_get(struct groups *groups, uint64_t id, bool fresh, struct store_stop *stop, struct group **ret, bool *ret_known)
{
    struct group *group = map_get(&groups->kept, id);
    bool good = group && !fresh && io_mono_ms(groups->stores->io) < group->fetched_ms + GROUP_FRESH_MS;
    *ret_known = good;
    int r = good ? 0 : fetch_wait(groups, id, stop);
    if (r < 0)
        return r == -E_NOENT ? -E_STALE : r;
    group = map_get(&groups->kept, id);
    if (!group)
        return -E_BUSY; /* so many groups at a time that it is gone again */
    list_remove(&group->lru);
    list_prepend(&groups->lru, &group->lru);
    group->refs++;
    *ret = group;
    return 0;
}

/* ------------------------------------------------------------------ plans */

static int plan_get(struct groups *groups, unsigned k, unsigned m, uint32_t have, uint32_t want, const struct ec_plan **ret)
{
    for (unsigned i = 0; i < PLANS_MAX; i++) {
        const struct plan *plan = groups->plans[i];
        if (plan && plan->k == k && plan->m == m && plan->have == have && plan->want == want) {
            *ret = &plan->ec;
            return 0;
        }
    }
    struct plan *plan = groups->plans[groups->next_plan];
    if (!plan)
        plan = groups->plans[groups->next_plan] = malloc(sizeof *plan);
    if (!plan)
        return -E_NOMEM;
    struct ec_codec codec;
    plan->k = 0; /* until it is made */
    int r = ec_codec_init(k, m, &codec);
    if (r == 0)
        r = ec_plan_init(&codec, have, want, &plan->ec);
    if (r < 0)
        return r;
    plan->k = k;
    plan->m = m;
    plan->have = have;
    plan->want = want;
    groups->next_plan = (groups->next_plan + 1) % PLANS_MAX;
    *ret = &plan->ec;
    return 0;
}

/* ------------------------------------------------------------------ one computation */

enum shard_state { SHARD_IDLE, SHARD_UNDER_WAY, SHARD_HERE, SHARD_FAILED };

struct shard_work {
    struct rebuild *rebuild;
    unsigned index;
    uint32_t rank; /* smaller is read first */
    enum shard_state state;
    bool late; /* in a step before: taken last */
    uint8_t *buf; /* NULL: not read yet, or all zeros here */
    size_t size;
    uint64_t late_ns;
};

/* On the heap: shards run in fibers of their own. */
struct rebuild {
    struct groups *groups;
    const struct group *group;
    unsigned k, m, wanted;
    uint64_t offset;
    size_t n;
    unsigned here, under_way, extra; /* extra: begun because others were late */
    bool doubt; /* a store does not have what the group says */
    bool corrupt; /* a shard is damaged in this range */
    bool ended; /* by whoever asked */
    enum store_from from;
    struct store_stop stop;
    struct store_stop_item outer;
    struct fiber_queue changed;
    struct fiber_group fibers;
    uint8_t *zeros;
    unsigned order[EC_SHARDS_MAX];
    struct shard_work shards[EC_SHARDS_MAX];
};

static const Tarn__Shard *shard_of(const struct rebuild *b, unsigned i)
{
    return b->group->reply->shards[i];
}

static bool is_zeros(const struct rebuild *b, unsigned i)
{
    return shard_of(b, i)->chunk == 0 || b->offset >= shard_of(b, i)->length;
}

static void shard_read(struct shard_work *work)
{
    struct rebuild *b = work->rebuild;
    const Tarn__Shard *shard = shard_of(b, work->index);
    Tarn__Extent extent = TARN__EXTENT__INIT;
    extent.chunk = shard->chunk;
    extent.generation = shard->generation;
    extent.state = TARN__CHUNK_STATE__CHUNK_SEALED;
    extent.chunk_length = shard->length;
    extent.n_replicas = shard->n_replicas;
    extent.replicas = shard->replicas;
    struct store_ask ask = {.verified = true, .exact = true, .alone = true, .stop = &b->stop};
    ask.same_generation = work->index >= b->k;
    int r = store_chunk_read(b->groups->stores, &extent, b->offset, work->buf, b->n, &ask);
    b->under_way--;
    b->doubt |= r == -E_STALE || ask.absent;
    b->corrupt |= r == -E_CORRUPT;
    work->state = r == 0 ? SHARD_HERE : r == -E_INTR ? SHARD_IDLE : SHARD_FAILED;
    if (r == 0) {
        b->here++;
        b->from = MAX(b->from, ask.from);
    } else if (r == -E_INTR && !b->ended) { /* others were faster */
        work->late = true;
        for (size_t i = 0; i < shard->n_replicas; i++)
            store_note_late(b->groups->stores, shard->replicas[i]->address);
    }
}

static void shard_run(void *arg)
{
    struct shard_work *work = arg;
    struct rebuild *b = work->rebuild;
    shard_read(work);
    fiber_queue_wake_all(&b->changed);
    fiber_group_done(&b->fibers);
}

static void shard_begin(struct shard_work *work)
{
    struct rebuild *b = work->rebuild;
    if (is_zeros(b, work->index)) {
        work->state = SHARD_HERE;
        b->here++;
        return;
    }
    if (!work->buf)
        work->buf = malloc(work->size);
    if (!work->buf || fiber_spawn(b->groups->stores->io, "shard-read", shard_run, work) < 0) {
        work->state = SHARD_FAILED;
        return;
    }
    work->state = SHARD_UNDER_WAY;
    fiber_group_add(&b->fibers);
    b->under_way++;
}

/* False: all have been begun. */
static bool begin_next(struct rebuild *b)
{
    struct shard_work *next = NULL;
    for (unsigned i = 0; i < b->k + b->m; i++) {
        struct shard_work *work = &b->shards[b->order[i]];
        if (work->index == b->wanted || work->state != SHARD_IDLE || (next && (work->late || !next->late)))
            continue;
        next = work;
    }
    if (next)
        shard_begin(next);
    return next != NULL;
}

/* How long the slowest of those under way may take. */
static uint64_t late_ms(const struct rebuild *b)
{
    uint64_t ns = 0;
    for (unsigned i = 0; i < b->k + b->m; i++)
        if (b->shards[i].state == SHARD_UNDER_WAY)
            ns = MAX(ns, b->shards[i].late_ns);
    return ns / 1000000 + 1;
}

/* k shards are here when it returns 0. */
static int shards_collect(struct rebuild *b)
{
    while (b->here < b->k) {
        while (b->here + b->under_way < b->k + b->extra && begin_next(b))
            ;
        if (b->here >= b->k)
            break;
        if (b->under_way == 0)
            return b->corrupt ? -E_CORRUPT : -E_UNAVAIL;
        int r = fiber_queue_wait(&b->changed, b->extra < b->m ? late_ms(b) : 0);
        if (r == -E_TIMEOUT && store_hedge_pay(b->groups->stores, 1))
            b->extra++;
        else if (r < 0 && r != -E_TIMEOUT)
            return r;
        if (b->ended)
            return -E_INTR;
    }
    return 0;
}

/* `buf`: the wanted range. */
static int shards_compute(struct rebuild *b, uint8_t *buf)
{
    uint32_t have = 0;
    for (unsigned i = 0; i < b->k + b->m; i++)
        have |= b->shards[i].state == SHARD_HERE ? 1u << i : 0;
    const struct ec_plan *plan;
    int r = plan_get(b->groups, b->k, b->m, have, 1u << b->wanted, &plan);
    if (r < 0)
        return r;
    const uint8_t *in[EC_DATA_MAX];
    for (unsigned i = 0; i < plan->k; i++)
        in[i] = is_zeros(b, plan->sources[i]) ? b->zeros : b->shards[plan->sources[i]].buf;
    ec_plan_run(plan, b->n, in, (uint8_t *[]){buf});
    return 0;
}

/* One step: at most GROUP_STEP bytes at b->offset. Shards that failed in the step before are not asked again. */
static int rebuild_step(struct rebuild *b, uint8_t *buf)
{
    b->here = 0;
    store_stop_init(&b->stop);
    for (unsigned i = 0; i < b->k + b->m; i++)
        if (b->shards[i].state != SHARD_FAILED)
            b->shards[i].state = SHARD_IDLE;
    int r = shards_collect(b);
    if (b->under_way > 0)
        store_stop_fire(&b->stop); /* a buffer is free again when its fiber has ended */
    fiber_group_wait(&b->fibers);
    return r < 0 ? r : shards_compute(b, buf);
}

/* ------------------------------------------------------------------ a range */

/* Zeros cost nothing; then what is near, then data before parity; what is down or silent last. */
static uint32_t shard_rank(const struct stores *stores, const Tarn__Shard *shard, unsigned k, uint64_t *ret_late_ns)
{
    *ret_late_ns = 0;
    if (shard->chunk == 0)
        return 0;
    uint32_t best = UINT32_MAX;
    for (size_t i = 0; i < shard->n_replicas; i++) {
        const Tarn__Replica *replica = shard->replicas[i];
        const struct store_peer *peer = store_peer_get((struct stores *)stores, replica->address);
        bool suspect = peer && io_mono_ms(stores->io) < peer->suspect_until_ms;
        uint32_t rank = store_replica_is_near(stores, replica) ? 1 : stores->rack[0] && strcmp(replica->rack, stores->rack) == 0 ? 2 : 3;
        rank = rank * 2 + (shard->index >= k);
        rank += !replica->ready ? 4000 : suspect || !replica->up ? 1000 : 0;
        if (rank < best && peer)
            *ret_late_ns = store_pace_late_ns(peer, GROUP_STEP);
        best = MIN(best, rank);
    }
    return best;
}

static void order_shards(struct rebuild *b)
{
    for (unsigned i = 0; i < b->k + b->m; i++) {
        struct shard_work *work = &b->shards[i];
        work->rebuild = b;
        work->index = i;
        work->size = (size_t)MIN((uint64_t)b->n, GROUP_STEP);
        work->rank = shard_rank(b->groups->stores, shard_of(b, i), b->k, &work->late_ns);
        unsigned at = i;
        for (; at > 0 && b->shards[b->order[at - 1]].rank > work->rank; at--)
            b->order[at] = b->order[at - 1];
        b->order[at] = i;
    }
}

static void outer_fire(struct store_stop_item *item)
{
    struct rebuild *b = container_of(item, struct rebuild, outer);
    b->ended = true;
    store_stop_fire(&b->stop);
    fiber_queue_wake_all(&b->changed);
}

static int rebuild_run(struct rebuild *b, uint8_t *buf, size_t n, struct store_stop *stop)
{
    b->outer.fire = outer_fire;
    if (!store_stop_add(stop, &b->outer))
        return -E_INTR;
    int r = 0;
    while (n > 0 && r == 0 && !b->ended) {
        b->n = MIN(n, (size_t)(GROUP_STEP - b->offset % GROUP_STEP));
        r = rebuild_step(b, buf);
        b->offset += b->n;
        buf += b->n;
        n -= b->n;
    }
    store_stop_remove(stop, &b->outer);
    return r == 0 && b->ended ? -E_INTR : r;
}

static int wanted_find(const struct group *group, uint64_t chunk, unsigned *ret)
{
    for (*ret = 0; *ret < group->reply->n_shards; ++*ret)
        if (group->reply->shards[*ret]->chunk == chunk)
            return 0;
    return -E_STALE;
}

static void rebuild_destroy(struct rebuild *b)
{
    for (unsigned i = 0; i < EC_SHARDS_MAX; i++)
        free(b->shards[i].buf);
    free(b->zeros);
    free(b);
}

static void tell(struct group *group, struct io *io, uint64_t chunk, unsigned failed)
{
    uint64_t now = io_mono_ms(io) + 1;
    if (group->told_ms && now < group->told_ms + TELL_MS)
        return;
    group->told_ms = now;
    log_warn("chunk %llx: no copy answers, and of the other %u shards of its group %llx %u do not, %u are needed",
             (unsigned long long)chunk, group->reply->k + group->reply->m - 1, (unsigned long long)group->id, failed, group->reply->k);
}

static unsigned count_failed(const struct rebuild *b)
{
    unsigned failed = 0;
    for (unsigned i = 0; i < b->k + b->m; i++)
        failed += b->shards[i].state == SHARD_FAILED;
    return failed;
}

static int group_rebuild(struct groups *groups, struct group *group, uint64_t chunk, uint64_t offset, uint8_t *buf, size_t n,
                         struct store_stop *stop, enum store_from *ret_from)
{
    unsigned wanted;
    int r = wanted_find(group, chunk, &wanted);
    if (r < 0)
        return r;
    if (stop && !store_hedge_pay(groups->stores, group->reply->k - 1))
        return -E_BUSY;
    struct rebuild *b = calloc(1, sizeof *b);
    if (!b)
        return -E_NOMEM;
    *b = (struct rebuild){.groups = groups, .group = group, .k = group->reply->k, .m = group->reply->m, .wanted = wanted,
                          .offset = offset, .n = n};
    b->zeros = calloc(1, MIN((uint64_t)n, GROUP_STEP));
    order_shards(b);
    r = b->zeros ? rebuild_run(b, buf, n, stop) : -E_NOMEM;
    if (r == 0)
        *ret_from = b->from;
    if (b->doubt)
        group_forget(groups, group); /* the next reader asks again */
    if (r == -E_UNAVAIL || r == -E_CORRUPT)
        tell(group, groups->stores->io, chunk, count_failed(b));
    rebuild_destroy(b);
    return r;
}

static int group_room(struct groups *groups, struct store_stop *stop)
{
    while (groups->reading >= GROUP_READS_MAX) {
        int r = queue_wait(&groups->room, stop);
        if (r < 0)
            return r;
    }
    groups->reading++;
    return 0;
}

int group_read(struct stores *stores, uint64_t id, uint64_t chunk, uint64_t offset, uint8_t *buf, size_t n,
               struct store_stop *stop, enum store_from *ret_from)
{
    int r = groups_make(stores);
    if (r < 0)
        return r;
    struct groups *groups = stores->groups;
    r = group_room(groups, stop);
    if (r < 0)
        return r;
    bool known = true; /* and may be out of date: then a second time */
    for (unsigned tries = 0; tries < 2 && known; tries++) {
        _cleanup_(group_unrefp) struct group *group = NULL;
        r = group_get(groups, id, tries > 0, stop, &group, &known);
        if (r == 0)
            r = group_rebuild(groups, group, chunk, offset, buf, n, stop, ret_from);
        known &= r == -E_UNAVAIL || r == -E_CORRUPT || (r == -E_STALE && group);
    }
    groups->reading--;
    fiber_queue_wake_one(&groups->room);
    return r;
}
