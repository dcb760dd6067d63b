/* Reads of chunks. A window goes to the replicas by distance, one after the other, until an answer's checksums hold:
 *
 *   replicas that answer (a second place is asked when the first is late: store_hedge.c)
 *   → the other shards of its group (group.c)
 *   → replicas that are down or were silent a moment ago
 *
 * The caller refreshes its map and comes again when nothing helps. */
#include "store_internal.h"

#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"
#include "group.h"
#include "piece.h"

#include <stdio.h>

#define GET_TIMEOUT_MS 5000 /* 1 MiB; another replica is the better wait */
#define CANDIDATES_MAX (2 * STORE_MEMBERS_MAX) /* a near replica is two: its unix socket, then its address */

/* ------------------------------------------------------------------ work that may be ended early */

void store_stop_init(struct store_stop *stop)
{
    stop->fired = false;
    list_init(&stop->items);
}

void store_stop_fire(struct store_stop *stop)
{
    stop->fired = true;
    list_foreach(&stop->items, it) {
        struct store_stop_item *item = list_entry(it, struct store_stop_item, node);
        item->fire(item);
    }
}

bool store_stop_add(struct store_stop *stop, struct store_stop_item *item)
{
    if (stop && stop->fired)
        return false;
    if (stop)
        list_append(&stop->items, &item->node);
    return true;
}

void store_stop_remove(struct store_stop *stop, struct store_stop_item *item)
{
    if (stop)
        list_remove(&item->node);
}

/* ------------------------------------------------------------------ choice of the replica */

/* Lower is asked first: down and suspect ones last, then distance, then chance to spread the load. */
static uint32_t candidate_rank(struct stores *stores, struct candidate *candidate)
{
    const struct store_peer *peer = store_peer_get(stores, candidate->address);
    bool suspect = peer && io_mono_ms(stores->io) < peer->suspect_until_ms;
    candidate->poor = suspect || !candidate->up;
    uint32_t rank = (uint32_t)candidate->distance << 16;
    if (candidate->poor)
        rank |= 1u << 30;
    if (candidate->distance != STORE_FROM_NEAR)
        rank |= (uint32_t)(io_random_u64(stores->io) & 0xffff);
    return rank;
}

static void candidate_add(struct chunk_read *rd, const Tarn__Replica *replica, enum store_from distance, const char *address,
                          uint32_t later)
{
    if (rd->n == CANDIDATES_MAX || strlen(address) >= STORE_ADDRESS_MAX || !address[0])
        return;
    struct candidate new = {.distance = distance, .up = replica->up, .node = replica->node, .disk = replica->disk};
    snprintf(new.address, sizeof new.address, "%s", address);
    new.rank = candidate_rank(rd->stores, &new) + later;
    unsigned at = rd->n++;
    for (; at > 0 && rd->items[at - 1].rank > new.rank; at--)
        rd->items[at] = rd->items[at - 1];
    rd->items[at] = new;
}

static void candidates_from(struct chunk_read *rd, const Tarn__Extent *extent, uint32_t avoid)
{
    struct stores *stores = rd->stores;
    for (size_t i = 0; i < extent->n_replicas; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        if (!replica->ready || (i < 32 && (avoid >> i & 1)))
            continue; /* not ready: being copied, it would answer with holes */
        enum store_from distance = STORE_FROM_FAR;
        if (store_replica_is_near(stores, replica))
            distance = STORE_FROM_NEAR;
        else if (stores->rack[0] && strcmp(replica->rack, stores->rack) == 0)
            distance = STORE_FROM_RACK;
        if (store_replica_has_socket(stores, replica))
            candidate_add(rd, replica, distance, replica->local, 0);
        candidate_add(rd, replica, distance, replica->address, 1);
    }
}

/* ------------------------------------------------------------------ one place */

size_t store_crcs(uint64_t offset, const void *data, size_t n, uint32_t crcs[STORE_CRCS_MAX])
{
    const uint8_t *at = data;
    size_t count = 0;
    while (n > 0) {
        size_t piece = MIN((size_t)(CELL_BYTES - offset % CELL_BYTES), n);
        CHECK(count < STORE_CRCS_MAX);
        crcs[count++] = crc32c(0, at, piece);
        at += piece;
        offset += piece;
        n -= piece;
    }
    return count;
}

static int get_verify(const struct chunk_read *rd, const Tarn__ChunkGetReply *reply, uint64_t offset, const void *buf, size_t len)
{
    if (rd->same_generation && reply->generation < rd->generation)
        return -E_STALE;
    uint32_t crcs[STORE_CRCS_MAX];
    size_t n = store_crcs(offset, buf, len, crcs);
    if (n != reply->n_crcs)
        return -E_PROTO;
    return n == 0 || memcmp(crcs, reply->crcs, n * sizeof crcs[0]) == 0 ? 0 : -E_CORRUPT;
}

struct get {
    struct store_stop_item item;
    struct rpc_call call;
};

static void get_interrupt(struct store_stop_item *item)
{
    rpc_call_interrupt(&container_of(item, struct get, item)->call);
}

/* The bytes that whoever holds the chunk has of [offset, offset + n). */
static size_t exact_bytes(const struct chunk_read *rd, uint64_t offset, size_t n)
{
    return rd->exact && offset < rd->length ? (size_t)MIN((uint64_t)n, rd->length - offset) : 0;
}

int store_get(struct chunk_read *rd, const struct candidate *from, uint64_t offset, uint8_t *buf, size_t n, struct store_stop *stop)
{
    struct stores *stores = rd->stores;
    struct store_peer *peer = store_peer_get(stores, from->address);
    if (!peer)
        return -E_NOMEM;
    Tarn__ChunkGet request = TARN__CHUNK_GET__INIT;
    request.chunk = rd->chunk;
    request.generation = rd->generation;
    request.offset = offset;
    request.length = n;
    request.disk = from->disk;
    struct get get = {.item.fire = get_interrupt,
                      .call = {
                          .op = OP_CHUNK_GET,
                          .request = &request.base,
                          .epoch = meta_session(stores->meta),
                          .timeout_ms = GET_TIMEOUT_MS,
                          .reply_type = &tarn__chunk_get_reply__descriptor,
                          .into = buf,
                          .into_size = n,
                      }};
    if (!store_stop_add(stop, &get.item))
        return -E_INTR;
    store_hedge_earn(stores);
    uint64_t begun = io_mono_ns(stores->io);
    int r = rpc_call(peer->rpc, &get.call);
    store_stop_remove(stop, &get.item);
    size_t len = get.call.reply_payload_len;
    if (r == 0) {
        store_pace_add(peer, n, io_mono_ns(stores->io) - begun);
        r = get_verify(rd, (const Tarn__ChunkGetReply *)get.call.reply, offset, buf, len);
    }
    rpc_call_fini(&get.call);
    if (r == -E_CONN || r == -E_TIMEOUT)
        peer->suspect_until_ms = io_mono_ms(stores->io) + SUSPECT_MS;
    if (r == 0 && len < exact_bytes(rd, offset, n))
        r = -E_CORRUPT;
    if (r == 0)
        memset(buf + len, 0, n - len);
    return r;
}

/* ------------------------------------------------------------------ one window */

static int window_group(struct chunk_read *rd, uint64_t offset, uint8_t *buf, size_t n)
{
    enum store_from from = STORE_FROM_NOWHERE;
    int r = group_read(rd->stores, rd->group, rd->chunk, offset, buf, n, rd->stop, &from);
    if (r == 0) {
        rd->from = MAX(rd->from, from);
        rd->computed += n;
    }
    rd->spotted |= r == -E_CORRUPT;
    return r == -E_CORRUPT ? -E_UNAVAIL : r; /* those that do not answer may have the bytes: it is not known to be lost */
}

/* Nobody else will know better. */
static bool is_final(int err)
{
    return err == 0 || err == -E_STALE || err == -E_CANCELED || err == -E_NO_SESSION || err == -E_INTR;
}

/* The outcome of a window so far. An open chunk that no member has was never written to: a member makes it at the first write. Only
 * members that are up count: a new store at the address of a lost one has nothing either. */
struct window {
    int result;
    bool unwritten;
    uint32_t silent_node; /* its other address is silent, too */
};

static bool window_over(struct chunk_read *rd, struct window *w, const struct candidate *from, int err)
{
    if (is_final(err)) {
        w->result = err;
        return true;
    }
    w->unwritten &= err == -E_NOENT && from && from->up;
    rd->absent |= err == -E_NOENT;
    if (err == -E_TIMEOUT && from)
        w->silent_node = from->node;
    if (err == -E_CORRUPT) {
        log_warn("chunk %llx at %s does not match its checksums, reading another copy", (unsigned long long)rd->chunk,
                 from ? from->address : "its group");
        w->result = err;
    }
    return false;
}

static int window_read(struct chunk_read *rd, uint64_t offset, uint8_t *buf, size_t n)
{
    struct window w = {.result = -E_UNAVAIL, .unwritten = rd->open && rd->n > 0};
    bool group = rd->group != 0;
    for (unsigned i = 0; i < rd->n || group; i++) {
        const struct candidate *from = i < rd->n ? &rd->items[i] : NULL;
        if (group && (!from || from->poor)) {
            group = false;
            if (window_over(rd, &w, NULL, window_group(rd, offset, buf, n)))
                return w.result;
        }
        if (!from)
            break;
        if (w.silent_node && from->node == w.silent_node)
            continue;
        bool first = i == 0 && !from->poor;
        enum store_from distance = from->distance;
        int r = first ? store_get_hedged(rd, i, offset, buf, n, &distance) : store_get(rd, from, offset, buf, n, rd->stop);
        if (r == 0)
            rd->from = MAX(rd->from, distance);
        if (window_over(rd, &w, from, r))
            return w.result;
    }
    if (w.unwritten && rd->old)
        return -E_STALE; /* or it was sealed since, and all its copies went elsewhere: into a container, say */
    if (w.unwritten) {
        memset(buf, 0, n);
        return 0;
    }
    return w.result;
}

/* Copies or shards that are damaged in different cells have all of the window between them. */
static int window_or_cells(struct chunk_read *rd, uint64_t offset, uint8_t *buf, size_t n)
{
    int r = window_read(rd, offset, buf, n);
    size_t part = MIN(n, (size_t)(CELL_BYTES - offset % CELL_BYTES));
    if ((r != -E_CORRUPT && !(r == -E_UNAVAIL && rd->spotted)) || part == n)
        return r;
    for (r = 0; n > 0 && r == 0; part = MIN(n, (size_t)CELL_BYTES)) {
        r = window_read(rd, offset, buf, part);
        offset += part;
        buf += part;
        n -= part;
    }
    return r;
}

/* ------------------------------------------------------------------ a chunk */

static struct chunk_read *chunk_read_create(struct stores *stores, const Tarn__Extent *extent, const struct store_ask *ask)
{
    struct chunk_read *rd = calloc(1, sizeof *rd + CANDIDATES_MAX * sizeof(struct candidate)); /* 3 KiB: not for a fiber's stack */
    if (!rd)
        return NULL;
    *rd = (struct chunk_read){
        .stores = stores,
        .chunk = extent->chunk,
        .generation = extent->generation,
        .group = ask->alone ? 0 : extent->group,
        .length = extent->chunk_length,
        .open = extent->state == TARN__CHUNK_STATE__CHUNK_OPEN,
        /* Others have just been sealed, perhaps, and not every member has heard of it: it may have less than it will. */
        .exact = (ask->exact || extent->group != 0) && extent->state == TARN__CHUNK_STATE__CHUNK_SEALED,
        .same_generation = ask->same_generation,
        .old = ask->old,
        .alone = ask->alone,
        .stop = ask->stop,
        .items = (struct candidate *)(rd + 1),
    };
    candidates_from(rd, extent, ask->avoid);
    return rd;
}

int store_chunk_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n, struct store_ask *ask)
{
    if (extent->state == TARN__CHUNK_STATE__CHUNK_SEALED && offset >= extent->chunk_length) {
        memset(buf, 0, n); /* behind the end of what will never grow */
        return 0;
    }
    int r = ask->verified ? -E_NOTSUP : store_fd_read(stores, extent, offset, buf, n);
    if (r == 0)
        ask->from = MAX(ask->from, (enum store_from)STORE_FROM_FD);
    if (r != -E_NOTSUP)
        return r;
    store_rack_learn(stores, extent); /* may wait: the extent is looked at afterwards only */
    struct chunk_read *rd = chunk_read_create(stores, extent, ask);
    if (!rd)
        return -E_NOMEM;
    uint8_t *at = buf;
    for (r = 0; n > 0 && r == 0;) {
        size_t part = MIN(n, (size_t)(STORE_WINDOW - offset % STORE_WINDOW));
        r = window_or_cells(rd, offset, at, part);
        offset += part;
        at += part;
        n -= part;
    }
    ask->from = MAX(ask->from, rd->from);
    ask->computed += rd->computed;
    ask->absent |= rd->absent;
    free(rd);
    return r;
}

/* ------------------------------------------------------------------ what callers read */

static void count_read(struct stores_counters *c, const struct store_ask *ask, size_t n, bool compressed)
{
    switch (ask->from) {
    case STORE_FROM_NOWHERE:
        return;
    case STORE_FROM_FD:
        c->read_fd += n;
        break;
    case STORE_FROM_NEAR:
        c->read_local += n;
        break;
    case STORE_FROM_RACK:
        c->read_rack += n;
        break;
    case STORE_FROM_FAR:
        c->read_remote += n;
        break;
    }
    c->read_degraded += ask->computed;
    c->read_compressed += compressed ? n : 0;
}

/* A piece that lies in the chunk as it is: what is behind it belongs to others. */
static int raw_piece_clamp(const Tarn__Extent *extent, uint64_t offset, uint8_t *buf, size_t *n)
{
    uint64_t end;
    if (offset < extent->piece_offset || add_overflows(extent->piece_offset, extent->stored, &end))
        return -E_PROTO;
    size_t inside = offset < end ? (size_t)MIN((uint64_t)*n, end - offset) : 0;
    memset(buf + inside, 0, *n - inside);
    *n = inside;
    return 0;
}

static int read_asked(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n, struct store_ask ask,
                      struct stores_counters *also)
{
    bool compressed = extent->form != TARN__CHUNK_FORM__FORM_RAW;
    int r = 0;
    if (compressed)
        r = piece_read(stores, extent, offset, buf, n, &ask);
    else if (extent->stored != 0)
        r = raw_piece_clamp(extent, offset, buf, &n);
    if (r == 0 && !compressed && n > 0)
        r = store_chunk_read(stores, extent, offset, buf, n, &ask);
    if (r < 0)
        return r;
    count_read(&stores->counters, &ask, n, compressed);
    if (also)
        count_read(also, &ask, n, compressed);
    return 0;
}

int stores_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n)
{
    return read_asked(stores, extent, offset, buf, n, (struct store_ask){0}, NULL);
}

int stores_read_known(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n)
{
    return read_asked(stores, extent, offset, buf, n, (struct store_ask){.old = true}, NULL);
}

int stores_read_counted(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n,
                        struct stores_counters *also)
{
    return read_asked(stores, extent, offset, buf, n, (struct store_ask){0}, also);
}
