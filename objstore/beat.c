/*    joining ──joined──> inventory ──told──> beating ──┐
 *       ^                                      │  ^────┘ always one that waits at the service for news: tasks, fences
 *       └────────── the service does not know us ┘
 * A call that fails is repeated, at the next replica; the state stays. What this store has to tell meanwhile (a task ended,
 * nothing of a fenced session is under way any more, a copy became suspect) goes with beats of a second fiber. */
#include "beat.h"

#include "disks.h"
#include "meta.pb-c.h"
#include "tasks.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "proto/ops.h"

#include <stdio.h>

#define KNOWN_MAX 8 /* replicas of the service that it has named */

struct beat {
    struct store *store;
    char leader[64];      /* whom to ask first; empty = the next one */
    unsigned next_meta;   /* of those the configuration names, then those the service named last */
    char known[KNOWN_MAX][64];
    unsigned n_known;
    uint64_t epoch;
    bool closing, told_silence;
    bool joined;
    bool beating; /* joined, and the inventory is told */
    bool news;    /* for the service */
    struct map late; /* chunks whose copy here is suspect and not yet told */
    struct fiber_queue wake, tell_wake;
    struct fiber_group fibers;
    struct tasks *tasks;
};

/* ------------------------------------------------------------------ calling the leader */
static void follow(struct beat *b, int err, const struct rpc_call *call)
{
    if (err == -E_NOT_LEADER && call->leader[0] != '\0') {
        snprintf(b->leader, sizeof b->leader, "%s", call->leader);
        return;
    }
    b->leader[0] = '\0';
    b->next_meta = (b->next_meta + 1) % (b->store->n_meta + b->n_known);
}

static const char *whom(const struct beat *b)
{
    if (b->leader[0] != '\0')
        return b->leader;
    return b->next_meta < b->store->n_meta ? b->store->meta[b->next_meta] : b->known[b->next_meta - b->store->n_meta];
}

/* All of its configuration's may have been replaced since. */
static void learn(struct beat *b, const Tarn__NodeBeatReply *reply)
{
    if (reply->n_meta == 0 || reply->n_meta > KNOWN_MAX)
        return; /* of the version before */
    for (size_t i = 0; i < reply->n_meta; i++)
        snprintf(b->known[i], sizeof b->known[i], "%s", reply->meta[i]);
    b->n_known = (unsigned)reply->n_meta;
    if (b->next_meta >= b->store->n_meta + b->n_known)
        b->next_meta = 0;
}

static bool elsewhere(int err)
{
    return err == -E_NOT_LEADER || err == -E_CONN || err == -E_TIMEOUT || err == -E_UNAVAIL || err == -E_NOMEM;
}

/* One request to the leader, looking for it at each replica once and once by redirect. */
static int ask(struct beat *b, unsigned op, const ProtobufCMessage *request, const ProtobufCMessageDescriptor *type,
               ProtobufCMessage **ret)
{
    struct store *s = b->store;
    int err = -E_CONN;
    for (unsigned i = 0; i < 2 * (s->n_meta + b->n_known) && !b->closing; i++) {
        const char *address = whom(b);
        struct rpc_client *client = store_peer(s, address);
        struct rpc_call call = {.op = op, .request = request, .reply_type = type, .timeout_ms = BEAT_CALL_TIMEOUT_MS};
        uint64_t sent_ms = io_mono_ms(s->io) + 1; /* never 0; a millisecond of 2,500 */
        err = client == NULL ? -E_NOMEM : rpc_call(client, &call);
        if (err == 0) {
            s->contact_ms = sent_ms > s->contact_ms ? sent_ms : s->contact_ms;
            *ret = call.reply;
            call.reply = NULL;
            rpc_call_fini(&call);
            return 0;
        }
        if (elsewhere(err))
            follow(b, err, &call);
        rpc_call_fini(&call);
        if (!elsewhere(err))
            return err;
    }
    return err;
}

static void pause_for(struct beat *b, uint64_t ms)
{
    if (!b->closing)
        (void)fiber_queue_wait(&b->wake, ms);
}

/* ------------------------------------------------------------------ fences */
static int sessions_apply(struct store *s, uint64_t last, const Tarn__SessionSet *set)
{
    _cleanup_free_ uint64_t *ids = malloc(MAX(set->n_steps, (size_t)1) * sizeof *ids);
    if (ids == NULL)
        return -E_NOMEM;
    uint64_t id = 0;
    for (size_t i = 0; i < set->n_steps; i++)
        ids[i] = id += set->steps[i];
    return fences_reset(&s->fences, last, set->next_session, ids, set->n_steps);
}

static int fences_apply(struct store *s, uint64_t last, Tarn__Fence *const *fences, size_t n, const Tarn__SessionSet *set)
{
    int err = set != NULL ? sessions_apply(s, last, set) : 0;
    for (size_t i = 0; i < n && err == 0; i++)
        err = fences_add(&s->fences, fences[i]->number, fences[i]->session);
    if (err == 0)
        fences_told(&s->fences, last);
    return err;
}

/* Before this store takes any change. A service of the version before tells no sessions: then none has ended. */
static int fences_joined(struct store *s, const Tarn__NodeJoinReply *reply)
{
    static const Tarn__SessionSet nothing = TARN__SESSION_SET__INIT;
    const Tarn__SessionSet *set = reply->sessions != NULL ? reply->sessions : &nothing;
    return fences_apply(s, reply->fence_last, reply->fences, reply->n_fences, set);
}

static int fences_news(struct store *s, const Tarn__NodeBeatReply *reply)
{
    int err = fences_apply(s, reply->fence_last, reply->fences, reply->n_fences, reply->sessions);
    if (err == 0)
        err = fences_settle(&s->fences, reply->fence_settled);
    return err == 0 ? fences_forget_below(&s->fences, reply->oldest_session) : err;
}

/* ------------------------------------------------------------------ disks */
/* What is said of the disks, each and together. */
struct told {
    Tarn__Disk items[STORE_DISKS_MAX];
    Tarn__Disk *pointers[STORE_DISKS_MAX];
    struct volume *volumes[STORE_DISKS_MAX];
    size_t n;
    uint64_t total, free, chunks;
};

static void tell_disk(struct told *told, struct volume *v, bool up)
{
    Tarn__Disk *disk = &told->items[told->n];
    tarn__disk__init(disk);
    disk->uuid = (ProtobufCBinaryData){16, v->super.uuid};
    disk->id = v->super.disk;
    disk->chunks = volume_chunks(v);
    disk->up = up && volume_space(v, &disk->total, &disk->free) == 0;
    if (disk->up) {
        told->total += disk->total;
        told->free += disk->free;
    }
    told->chunks += disk->chunks;
    told->volumes[told->n] = v;
    told->pointers[told->n++] = disk;
}

static void tell_disks(struct beat *b, bool failed_too, struct told *told)
{
    struct store *s = b->store;
    *told = (struct told){0};
    for (unsigned i = 0; i < s->n_volumes; i++) {
        bool up = !volume_failed(s->volumes[i]);
        if (up || failed_too)
            tell_disk(told, s->volumes[i], up);
    }
    for (size_t i = 0; i < told->n; i++)
        told->items[i].queue = b->store->requests;
}

/* ------------------------------------------------------------------ join, inventory */
static int joined(struct beat *b, const Tarn__NodeJoinReply *reply, const struct told *told, const uint8_t uuid[16])
{
    struct store *s = b->store;
    int err = fences_joined(s, reply);
    if (err != 0) {
        s->contact_ms = 0;
        return err;
    }
    b->epoch = reply->epoch;
    s->node = reply->id;
    for (size_t i = 0; i < told->n && err == 0; i++) {
        struct volume *v = told->volumes[i];
        if (v->first_chunk == 0)
            v->first_chunk = reply->first_chunk;
        err = volume_set_node(v, uuid, reply->id, i < reply->n_disks ? reply->disks[i] : reply->disk);
        if (err == 0)
            log_info("node %u disk %u at %s joined", reply->id, v->super.disk, s->address);
    }
    return err;
}

static int join(struct beat *b)
{
    struct store *s = b->store;
    Tarn__Node node = TARN__NODE__INIT;
    Tarn__NodeJoin request = TARN__NODE_JOIN__INIT;
    ProtobufCMessage *answer;
    uint8_t uuid[16];
    _cleanup_free_ struct told *told = malloc(sizeof *told);
    if (told == NULL)
        return -E_NOMEM;
    tell_disks(b, false, told);
    if (told->n == 0)
        return -E_IO; /* nothing works here: silence says it */
    uint32_t id = disks_node(s, uuid);
    node.id = id != 0 ? id : s->node_wanted;
    node.host = s->host;
    node.rack = s->rack;
    node.address = s->address;
    node.local = s->local;
    node.machine = s->machine;
    node.total = told->total;
    node.free = told->free;
    node.chunks = told->chunks;
    node.disks = told->pointers;
    node.n_disks = told->n;
    request.node = &node;
    request.uuid = (ProtobufCBinaryData){16, uuid};
    int err = ask(b, OP_NODE_JOIN, &request.base, &tarn__node_join_reply__descriptor, &answer);
    if (err != 0)
        return err;
    err = joined(b, (const Tarn__NodeJoinReply *)answer, told, uuid);
    protobuf_c_message_free_unpacked(answer, NULL);
    return err;
}

struct inventory {
    Tarn__ChunkHeld *items, **pointers;
    size_t n;
};

/* One piece: what this disk holds of the ids [first, last]. */
static int inventory_send(struct beat *b, struct volume *v, struct inventory *inventory, uint64_t first, uint64_t last)
{
    Tarn__NodeInventory request = TARN__NODE_INVENTORY__INIT;
    ProtobufCMessage *answer;
    request.node = b->store->node;
    request.disk = v->super.disk;
    request.epoch = b->epoch;
    request.n_chunks = inventory->n;
    request.chunks = inventory->pointers;
    request.first = first;
    request.last = last;
    int err = ask(b, OP_NODE_INVENTORY, &request.base, &tarn__node_inventory_reply__descriptor, &answer);
    if (err != 0)
        return err;
    const Tarn__NodeInventoryReply *reply = (const Tarn__NodeInventoryReply *)answer;
    for (size_t i = 0; i < reply->n_unknown && err == 0; i++)
        err = tasks_delete_chunk(v, reply->unknown[i], UINT64_MAX);
    if (reply->n_unknown > 0)
        log_info("%zu chunks that the cluster does not count on here are deleted", reply->n_unknown);
    protobuf_c_message_free_unpacked(answer, NULL);
    inventory->n = 0;
    return err;
}

static void inventory_add(struct inventory *inventory, const struct volume *v, const struct chunk *c)
{
    Tarn__ChunkHeld *item = &inventory->items[inventory->n];
    tarn__chunk_held__init(item);
    item->chunk = c->id;
    item->generation = c->generation;
    item->length = c->length;
    item->sealed = (c->flags & CHUNK_SEALED) != 0;
    item->suspect = volume_suspects(v, c);
    inventory->pointers[inventory->n++] = item;
}

static int id_compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The ids first, ascending: the table changes while pieces are sent. */
static int ids_snapshot(struct volume *v, uint64_t **ret, size_t *ret_n)
{
    struct map *chunks = &v->index.chunks;
    uint64_t *ids = malloc(MAX(chunks->count, (size_t)1) * sizeof *ids), id;
    size_t at = 0, n = 0;
    void *value;
    if (ids == NULL)
        return -E_NOMEM;
    while (map_next(chunks, &at, &id, &value))
        if (chunk_is_real(value) && (((struct chunk *)value)->flags & CHUNK_PARTIAL) == 0)
            ids[n++] = id;
    qsort(ids, n, sizeof *ids, id_compare);
    *ret = ids;
    *ret_n = n;
    return 0;
}

/* Pieces cover all ids from 1 on without a gap, so that what is missing here is noticed too. */
static int inventory_of(struct beat *b, struct volume *v)
{
    _cleanup_free_ uint64_t *ids = NULL;
    _cleanup_free_ Tarn__ChunkHeld *items = calloc(BEAT_INVENTORY_PIECE, sizeof *items);
    _cleanup_free_ Tarn__ChunkHeld **pointers = calloc(BEAT_INVENTORY_PIECE, sizeof *pointers);
    struct inventory piece = {.items = items, .pointers = pointers};
    size_t n;
    uint64_t first = 1;
    int err = items == NULL || pointers == NULL ? -E_NOMEM : ids_snapshot(v, &ids, &n);
    for (size_t i = 0; err == 0 && i < n; i++) {
        struct chunk *c = map_get(&v->index.chunks, ids[i]);
        if (c != NULL)
            inventory_add(&piece, v, c);
        if (piece.n == BEAT_INVENTORY_PIECE) {
            err = inventory_send(b, v, &piece, first, ids[i]);
            first = ids[i] + 1;
        }
    }
    if (err == 0)
        err = inventory_send(b, v, &piece, first, UINT64_MAX);
    return err == 0 ? volume_boot_settled(v) : err;
}

static int inventory(struct beat *b)
{
    struct store *s = b->store;
    int err = 0;
    for (unsigned i = 0; i < s->n_volumes && err == 0; i++)
        if (!volume_failed(s->volumes[i]) && s->volumes[i]->super.disk != 0) /* one that came just now joins first */
            err = inventory_of(b, s->volumes[i]);
    return err;
}

/* ------------------------------------------------------------------ beats */
/* Damage to be told, as messages. */
struct damage_news {
    size_t n;
    struct volume *volumes[DAMAGE_TELL_MAX];
    struct damage damages[DAMAGE_TELL_MAX];
    Tarn__Damage messages[DAMAGE_TELL_MAX];
    Tarn__Damage *pointers[DAMAGE_TELL_MAX];
};

static void damage_collect(const struct store *s, struct damage_news *news, Tarn__NodeBeat *request)
{
    news->n = 0;
    for (unsigned i = 0; i < s->n_volumes; i++) {
        struct volume *v = s->volumes[i];
        if (v->super.disk == 0)
            continue; /* has not joined */
        size_t end = news->n + damages_untold(&v->damages, news->damages + news->n, DAMAGE_TELL_MAX - news->n);
        for (; news->n < end; news->n++) {
            const struct damage *damage = &news->damages[news->n];
            Tarn__Damage *m = news->pointers[news->n] = &news->messages[news->n];
            tarn__damage__init(m);
            m->disk = v->super.disk;
            m->chunk = damage->chunk;
            m->generation = damage->generation;
            m->offset = damage->offset;
            news->volumes[news->n] = v;
        }
    }
    request->damaged = news->pointers;
    request->n_damaged = news->n;
}

static void damage_forget_told(struct beat *b, const struct damage_news *news)
{
    for (size_t i = 0; i < news->n; i++)
        damages_told(&news->volumes[i]->damages, &news->damages[i], 1);
    b->news |= news->n == DAMAGE_TELL_MAX; /* there may be more */
}

static void fences_tell(struct fences *f, Tarn__NodeBeat *request)
{
    request->fence_applied = f->applied;
    request->fence_settled = f->settled;
    request->fence_ordered = fences_ordered(f);
    request->fence_closed = fences_closed(f);
    request->want_sessions = fences_crowded(f);
}

/* wait: at the service, for news. Else it is a beat that tells: only one fiber tells tasks, each once. */
static int beat_once(struct beat *b, bool wait)
{
    struct store *s = b->store;
    Tarn__ChunkTaskDone *done[BEAT_DONE_MAX];
    Tarn__NodeBeat request = TARN__NODE_BEAT__INIT;
    ProtobufCMessage *answer;
    _cleanup_free_ struct told *told = malloc(sizeof *told);
    if (told == NULL)
        return -E_NOMEM;
    _cleanup_free_ struct damage_news *damage = wait ? NULL : malloc(sizeof *damage); /* 30 KiB: not for a fiber's stack */
    if (!wait && damage == NULL)
        return -E_NOMEM;
    tell_disks(b, true, told);
    request.node = s->node;
    request.epoch = b->epoch;
    request.total = told->total;
    request.free = told->free;
    request.chunks = told->chunks;
    request.queue = s->requests;
    request.disks = told->pointers;
    request.n_disks = told->n;
    request.done = done;
    request.no_wait = !wait;
    if (!wait) {
        request.n_done = tasks_results(b->tasks, done, BEAT_DONE_MAX);
        damage_collect(s, damage, &request);
    }
    fences_tell(&s->fences, &request);
    int err = ask(b, OP_NODE_BEAT, &request.base, &tarn__node_beat_reply__descriptor, &answer);
    if (err != 0)
        return err;
    tasks_told(b->tasks, done, request.n_done);
    if (!wait)
        damage_forget_told(b, damage);
    /* Nobody else runs between the answer, which renews the contact, and the fences that came with it. */
    Tarn__NodeBeatReply *reply = (Tarn__NodeBeatReply *)answer;
    learn(b, reply);
    err = fences_news(s, reply);
    if (err != 0)
        s->contact_ms = 0; /* out of memory: what we were told is not in force here */
    for (size_t i = 0; i < reply->n_tasks; i++)
        tasks_take(b->tasks, reply->tasks[i]);
    protobuf_c_message_free_unpacked(answer, NULL);
    fiber_queue_wake_all(&s->contact_wake);
    return err;
}

static bool does_not_know_us(int err)
{
    return err == -E_NOENT || err == -E_STALE || err == -E_INVAL;
}

static void tell_silence(struct beat *b, int err)
{
    if (err != 0 && !b->told_silence && err != -E_CANCELED)
        log_warn("no contact with the metadata service: %s; trying again", err_sentence(err));
    if (err == 0 && b->told_silence)
        log_info("contact with the metadata service is back");
    b->told_silence = err != 0;
}

/* A beat waits at the service; one that is answered at once again and again must not become a circle. */
static int beat_and_wait(struct beat *b)
{
    uint64_t before_ms = io_mono_ms(b->store->io);
    int err = beat_once(b, true);
    if (err == 0 && io_mono_ms(b->store->io) - before_ms < BEAT_PACE_MS)
        pause_for(b, BEAT_PACE_MS);
    return err;
}

static void beat_run(void *arg)
{
    struct beat *b = arg;
    bool told = false;
    uint64_t told_ms = 0;
    while (!b->closing && !io_stopping(b->store->io)) {
        int err;
        /* C17: what a lost message left here goes with this. */
        if (told && io_mono_ms(b->store->io) - told_ms > b->store->inventory_ms)
            told = false;
        if (!b->joined) {
            b->joined = true; /* unless a disk more is found meanwhile */
            err = join(b);
            b->joined &= err == 0;
            told = false;
        } else if (!told) {
            err = inventory(b);
            told = err == 0;
            told_ms = io_mono_ms(b->store->io);
        } else {
            err = beat_and_wait(b);
        }
        tell_silence(b, err);
        if (does_not_know_us(err))
            b->joined = false;
        b->beating = b->joined && told;
        if (b->beating)
            fiber_queue_wake_all(&b->tell_wake);
        if (err != 0)
            pause_for(b, BEAT_RETRY_MS);
    }
    fiber_group_done(&b->fibers);
}

/* ------------------------------------------------------------------ what cannot wait for the next beat */
static int tell_late_copy(struct beat *b, struct volume *v, uint64_t id)
{
    struct chunk *c = index_get(&v->index, id);
    Tarn__ChunkHeld item, *pointer = &item;
    struct inventory one = {.items = &item, .pointers = &pointer};
    int err = 0;
    if (c != NULL && c->late) {
        inventory_add(&one, v, c);
        item.suspect = true;
        err = inventory_send(b, v, &one, 0, 0);
        c->late = err != 0 && c->late;
    }
    if (c != NULL)
        chunk_unref(&v->index, c);
    return err;
}

/* Suspect copies, as an inventory of just these (C18). What the service still counts on is served again: it is the only copy. */
static int tell_late(struct beat *b)
{
    struct store *s = b->store;
    uint64_t id;
    void *value;
    size_t at = 0;
    int err = 0;
    while (err == 0 && map_next(&b->late, &at, &id, &value)) {
        for (unsigned i = 0; i < s->n_volumes && err == 0; i++)
            err = tell_late_copy(b, s->volumes[i], id);
        if (err == 0)
            map_remove(&b->late, id);
        at = 0; /* the map may have changed while we waited */
    }
    return err;
}

static void tell_run(void *arg)
{
    struct beat *b = arg;
    while (!b->closing && !io_stopping(b->store->io)) {
        int err = 0;
        if (!b->beating || !b->news) {
            err = fiber_queue_wait(&b->tell_wake, 0);
        } else {
            b->news = false;
            err = tell_late(b);
            if (err == 0)
                err = beat_once(b, false);
            b->news |= err != 0;
            if (err != 0)
                pause_for(b, BEAT_RETRY_MS);
        }
    }
    fiber_group_done(&b->fibers);
}

void beat_rejoin(struct beat *b)
{
    b->joined = false; /* the next beat, within a second, is a join */
}

void beat_tell(struct beat *b)
{
    b->news = true;
    fiber_queue_wake_all(&b->tell_wake);
}

void beat_tell_late(struct beat *b, uint64_t chunk)
{
    if (map_put(&b->late, chunk, b) != 0)
        log_warn("out of memory: chunk %llx is not served before the next inventory", (unsigned long long)chunk);
    beat_tell(b);
}

/* ------------------------------------------------------------------ life */
static int spawn(struct beat *b, const char *name, fiber_fn fn)
{
    fiber_group_add(&b->fibers);
    int err = fiber_spawn(b->store->io, name, fn, b);
    if (err != 0)
        fiber_group_done(&b->fibers);
    return err;
}

int beat_start(struct store *s, struct beat **ret)
{
    struct beat *b = calloc(1, sizeof *b);
    if (b == NULL)
        return -E_NOMEM;
    *b = (struct beat){.store = s, .news = true}; /* damage that was found before there was anybody to tell */
    int err = tasks_create(s, &b->tasks);
    if (err == 0)
        err = spawn(b, "beat", beat_run);
    if (err == 0)
        err = spawn(b, "beat-tell", tell_run);
    if (err != 0) {
        beat_stop(b);
        return err;
    }
    *ret = b;
    return 0;
}

void beat_stop(struct beat *b)
{
    b->closing = true;
    fiber_queue_wake_all(&b->wake);
    fiber_queue_wake_all(&b->tell_wake);
    fiber_group_wait(&b->fibers);
    tasks_destroy(b->tasks);
    map_fini(&b->late);
    free(b);
}
