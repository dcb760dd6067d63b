/* Connections to stores and reads. A read ranks the replicas by distance, asks one after the other
 * and takes the first answer whose checksums hold. The caller refreshes its map and comes again
 * when none does. */
#include "store_internal.h"

#include "common/check.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"

#include <stdio.h>

#define GET_TIMEOUT_MS 5000  /* 1 MiB; another replica is the better wait */
#define SUSPECT_MS 5000      /* how long a silent store is asked last */
#define RACK_ASK_MS 10000    /* pause between tries to learn our rack */

/* ------------------------------------------------------------------ life */

int stores_create(struct io *io, const struct config *config, struct meta *meta, struct stores **ret)
{
    struct stores *stores = calloc(1, sizeof *stores);
    if (!stores)
        return -E_NOMEM;
    stores->io = io;
    stores->config = config;
    stores->meta = meta;
    machine_id(stores->machine);
    list_init(&stores->fd_lru);
    *ret = stores;
    return 0;
}

static void peers_free(struct store_peer *peer)
{
    while (peer) {
        struct store_peer *next = peer->next;
        rpc_client_destroy(peer->rpc);
        if (peer->passer)
            rpc_client_destroy(peer->passer);
        free(peer);
        peer = next;
    }
}

void stores_destroy(struct stores *stores)
{
    if (!stores)
        return;
    CHECK(stores->inodes.count == 0); /* a file is still open */
    store_fds_fini(stores);
    size_t at = 0;
    uint64_t hash;
    void *chain;
    while (map_next(&stores->peers, &at, &hash, &chain))
        peers_free(chain);
    map_fini(&stores->peers);
    map_fini(&stores->inodes);
    free(stores);
}

const struct stores_counters *stores_counters(const struct stores *stores)
{
    return &stores->counters;
}

uint32_t stores_node(const struct stores *stores)
{
    return stores->config->node;
}

struct map *stores_inodes(struct stores *stores)
{
    return &stores->inodes;
}

/* ------------------------------------------------------------------ connections */

static uint64_t address_hash(const char *address)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *address; address++)
        hash = (hash ^ (uint8_t)*address) * 0x100000001b3u;
    return hash;
}

struct store_peer *store_peer_get(struct stores *stores, const char *address)
{
    uint64_t hash = address_hash(address);
    struct store_peer *chain = map_get(&stores->peers, hash);
    for (struct store_peer *peer = chain; peer; peer = peer->next)
        if (strcmp(peer->address, address) == 0)
            return peer;
    size_t len = strlen(address) + 1;
    struct store_peer *peer = calloc(1, sizeof *peer + len);
    if (!peer)
        return NULL;
    memcpy(peer->address, address, len);
    peer->next = chain;
    peer->rpc = rpc_client_create(stores->io, address, &stores->config->auth);
    if (!peer->rpc || map_put(&stores->peers, hash, peer) < 0) {
        if (peer->rpc)
            rpc_client_destroy(peer->rpc);
        free(peer);
        return NULL;
    }
    return peer;
}

static bool same_machine(const struct stores *stores, const Tarn__Replica *replica)
{
    return stores->machine[0] && strcmp(replica->machine, stores->machine) == 0;
}

bool store_replica_is_near(const struct stores *stores, const Tarn__Replica *replica)
{
    if (stores->config->node != 0)
        return replica->node == stores->config->node;
    return same_machine(stores, replica);
}

bool store_replica_has_socket(const struct stores *stores, const Tarn__Replica *replica)
{
    return replica->local[0] && store_replica_is_near(stores, replica) &&
           same_machine(stores, replica);
}

/* ------------------------------------------------------------------ our place */

static void rack_from_nodes(struct stores *stores, const Tarn__NodeListReply *reply)
{
    for (size_t i = 0; i < reply->n_nodes; i++)
        if (reply->nodes[i]->id == stores->config->node)
            snprintf(stores->rack, sizeof stores->rack, "%s", reply->nodes[i]->rack);
}

/* Our rack, from a replica on our node or else the node list. Without it only the choice suffers. */
static void rack_learn(struct stores *stores, const Tarn__Extent *extent)
{
    if (stores->config->node == 0 || stores->rack[0])
        return;
    for (size_t i = 0; i < extent->n_replicas; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        if (replica->node == stores->config->node) {
            snprintf(stores->rack, sizeof stores->rack, "%s", replica->rack);
            return;
        }
    }
    uint64_t now = io_mono_ms(stores->io) + 1;
    if (stores->rack_asked_ms && now < stores->rack_asked_ms + RACK_ASK_MS)
        return;
    stores->rack_asked_ms = now;
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    Tarn__NodeListReply *reply = NULL;
    int r = meta_call(stores->meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root,
                      &tarn__node_list_reply__descriptor, &reply, NULL);
    if (r < 0)
        return;
    rack_from_nodes(stores, reply);
    tarn__node_list_reply__free_unpacked(reply, NULL);
}

/* ------------------------------------------------------------------ choice of the replica */

enum distance { NEAR, SAME_RACK, FAR };

/* One place to ask; a near replica gives two: its unix socket, then its address. */
struct candidate {
    uint32_t disk;
    char address[STORE_ADDRESS_MAX];
    uint32_t rank;
    enum distance distance;
    bool up; /* as the service sees it */
};
struct candidates {
    unsigned n;
    struct candidate items[2 * STORE_MEMBERS_MAX];
};

/* Lower is asked first: down and suspect ones last, then distance, then chance to spread the load. */
static uint32_t candidate_rank(struct stores *stores, const Tarn__Replica *replica,
                               enum distance distance, const char *address)
{
    const struct store_peer *peer = store_peer_get(stores, address);
    bool suspect = peer && io_mono_ms(stores->io) < peer->suspect_until_ms;
    uint32_t rank = (uint32_t)distance << 16;
    if (suspect || !replica->up)
        rank |= 1u << 30;
    if (distance != NEAR)
        rank |= (uint32_t)(io_random_u64(stores->io) & 0xffff);
    return rank;
}

static void candidate_add(struct stores *stores, struct candidates *list,
                          const Tarn__Replica *replica, enum distance distance, const char *address,
                          uint32_t later)
{
    if (list->n == ARRAY_SIZE(list->items) || strlen(address) >= STORE_ADDRESS_MAX || !address[0])
        return;
    struct candidate new = {.disk = replica->disk, .distance = distance, .up = replica->up};
    new.rank = candidate_rank(stores, replica, distance, address) + later;
    snprintf(new.address, sizeof new.address, "%s", address);
    unsigned at = list->n++;
    for (; at > 0 && list->items[at - 1].rank > new.rank; at--)
        list->items[at] = list->items[at - 1];
    list->items[at] = new;
}

static void candidates_from(struct stores *stores, const Tarn__Extent *extent,
                            struct candidates *list)
{
    list->n = 0;
    for (size_t i = 0; i < extent->n_replicas; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        if (!replica->ready)
            continue; /* being copied: it would answer with holes */
        enum distance distance = FAR;
        if (store_replica_is_near(stores, replica))
            distance = NEAR;
        else if (stores->rack[0] && strcmp(replica->rack, stores->rack) == 0)
            distance = SAME_RACK;
        if (store_replica_has_socket(stores, replica))
            candidate_add(stores, list, replica, distance, replica->local, 0);
        candidate_add(stores, list, replica, distance, replica->address, 1);
    }
}

/* ------------------------------------------------------------------ reads */

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

static int get_verify(const Tarn__ChunkGetReply *reply, uint64_t offset, const void *buf, size_t len)
{
    uint32_t crcs[STORE_CRCS_MAX];
    size_t n = store_crcs(offset, buf, len, crcs);
    if (n != reply->n_crcs)
        return -E_PROTO;
    return n == 0 || memcmp(crcs, reply->crcs, n * sizeof crcs[0]) == 0 ? 0 : -E_CORRUPT;
}

struct chunk_range {
    uint64_t chunk, generation, offset;
    uint8_t *buf;
    size_t n;
    bool open; /* the chunk's state */
    struct stores_counters *also; /* counted there besides; NULL = nowhere */
};

static int get_from(struct stores *stores, const char *address, uint32_t disk, const struct chunk_range *range)
{
    struct store_peer *peer = store_peer_get(stores, address);
    if (!peer)
        return -E_NOMEM;
    Tarn__ChunkGet get = TARN__CHUNK_GET__INIT;
    get.chunk = range->chunk;
    get.generation = range->generation;
    get.offset = range->offset;
    get.length = range->n;
    get.disk = disk;
    struct rpc_call call = {
        .op = OP_CHUNK_GET,
        .request = &get.base,
        .epoch = meta_session(stores->meta),
        .timeout_ms = GET_TIMEOUT_MS,
        .reply_type = &tarn__chunk_get_reply__descriptor,
        .into = range->buf,
        .into_size = range->n,
    };
    int r = rpc_call(peer->rpc, &call);
    size_t len = call.reply_payload_len;
    if (r == 0)
        r = get_verify((const Tarn__ChunkGetReply *)call.reply, range->offset, range->buf, len);
    rpc_call_fini(&call);
    if (r == -E_CONN || r == -E_TIMEOUT)
        peer->suspect_until_ms = io_mono_ms(stores->io) + SUSPECT_MS;
    if (r == 0)
        memset(range->buf + len, 0, range->n - len);
    return r;
}

static void count_read(struct stores_counters *c, enum distance distance, size_t n)
{
    if (distance == NEAR)
        c->read_local += n;
    else if (distance == SAME_RACK)
        c->read_rack += n;
    else
        c->read_remote += n;
}

/* An open chunk that no member has was never written to: a member makes it at the first write. Only
 * members that are up count: a new store at the address of a lost one has nothing either. */
static int read_window(struct stores *stores, const struct candidates *list,
                       const struct chunk_range *range)
{
    int result = -E_UNAVAIL;
    bool unwritten = range->open && list->n > 0;
    for (unsigned i = 0; i < list->n; i++) {
        const struct candidate *from = &list->items[i];
        int r = get_from(stores, from->address, from->disk, range);
        if (r == 0) {
            count_read(&stores->counters, from->distance, range->n);
            if (range->also)
                count_read(range->also, from->distance, range->n);
            return 0;
        }
        if (r == -E_STALE || r == -E_CANCELED || r == -E_NO_SESSION)
            return r;
        unwritten &= r == -E_NOENT && from->up;
        if (r == -E_CORRUPT) {
            log_warn("chunk %llx at %s does not match its checksums, reading another copy",
                     (unsigned long long)range->chunk, from->address);
            result = r;
        }
    }
    if (unwritten) {
        memset(range->buf, 0, range->n);
        return 0;
    }
    return result;
}

int stores_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf,
                size_t n)
{
    return stores_read_counted(stores, extent, offset, buf, n, NULL);
}

int stores_read_counted(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf,
                        size_t n, struct stores_counters *also)
{
    if (extent->state == TARN__CHUNK_STATE__CHUNK_SEALED && offset >= extent->chunk_length) {
        memset(buf, 0, n); /* behind the end of what will never grow */
        return 0;
    }
    int r = store_fd_read(stores, extent, offset, buf, n);
    if (r == 0 && also)
        also->read_fd += n;
    if (r != -E_NOTSUP)
        return r;
    rack_learn(stores, extent); /* may wait: the extent is looked at afterwards only */
    struct chunk_range range = {
        .chunk = extent->chunk,
        .generation = extent->generation,
        .offset = offset,
        .buf = buf,
        .open = extent->state == TARN__CHUNK_STATE__CHUNK_OPEN,
        .also = also,
    };
    struct candidates *list = malloc(sizeof *list); /* 3 KiB: not for a fiber's stack */
    if (!list)
        return -E_NOMEM;
    candidates_from(stores, extent, list);
    while (n > 0) {
        range.n = MIN(n, (size_t)(STORE_WINDOW - range.offset % STORE_WINDOW));
        r = read_window(stores, list, &range);
        if (r < 0)
            break;
        range.offset += range.n;
        range.buf += range.n;
        n -= range.n;
    }
    free(list);
    return n == 0 ? 0 : r;
}
