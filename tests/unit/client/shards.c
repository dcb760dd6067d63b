#include "shards.h"

#include "common/crc.h"
#include "common/fiber.h"
#include "common/prng.h"
#include "object.pb-c.h"

#include <stdio.h>

#define OP(number, type, fn) {number, #fn, &tarn__##type##__descriptor, fn}

/* ------------------------------------------------------------------ the service */

static int session_open(void *ctx, struct rpc_request *request, const void *message)
{
    Tarn__SessionOpenReply reply = TARN__SESSION_OPEN_REPLY__INIT;
    reply.session = 1;
    reply.timeout_ms = 30000;
    return rpc_reply(request, &reply.base);
}

static int nothing(void *ctx, struct rpc_request *request, const void *message)
{
    return rpc_reply(request, NULL);
}

static int node_list(void *ctx, struct rpc_request *request, const void *message)
{
    Tarn__NodeListReply reply = TARN__NODE_LIST_REPLY__INIT;
    return rpc_reply(request, &reply.base);
}

static char *copy(const char *text)
{
    char *own = strdup(text);
    expect(own != NULL);
    return own;
}

static Tarn__Replica *replica_make(const struct shards *s, unsigned holder)
{
    Tarn__Replica *replica = malloc(sizeof *replica);
    expect(replica != NULL);
    tarn__replica__init(replica);
    replica->node = replica->disk = holder + 1;
    replica->address = copy(s->holders[holder].address);
    replica->rack = copy("r");
    replica->up = replica->ready = true;
    return replica;
}

static Tarn__Replica **replicas_make(const struct shards *s, unsigned mask, size_t *ret_n)
{
    Tarn__Replica **replicas = calloc(HOLDERS, sizeof *replicas);
    expect(replicas != NULL);
    *ret_n = 0;
    for (unsigned i = 0; i < HOLDERS; i++)
        if (mask >> i & 1)
            replicas[(*ret_n)++] = replica_make(s, i);
    return replicas;
}

static uint64_t chunk_of(unsigned shard)
{
    return 100 + shard;
}

static Tarn__Shard *shard_make(const struct shards *s, unsigned i)
{
    Tarn__Shard *shard = malloc(sizeof *shard);
    expect(shard != NULL);
    tarn__shard__init(shard);
    shard->index = i;
    shard->chunk = s->lengths[i] ? chunk_of(i) : 0;
    shard->generation = s->generation;
    shard->length = s->lengths[i];
    if (shard->chunk)
        shard->replicas = replicas_make(s, 1u << i, &shard->n_replicas);
    return shard;
}

static int group_get(void *ctx, struct rpc_request *request, const void *message)
{
    struct shards *s = ctx;
    s->asked++;
    expect_equal(((const Tarn__GroupGet *)message)->group, 1);
    if (s->dissolved)
        return -E_NOENT;
    Tarn__GroupReply *reply = malloc(sizeof *reply);
    expect(reply != NULL);
    tarn__group_reply__init(reply);
    reply->group = 1;
    reply->k = s->k;
    reply->m = s->m;
    reply->generation = s->generation;
    reply->length = s->lengths[s->k];
    reply->shards = calloc(EC_SHARDS_MAX, sizeof *reply->shards);
    expect(reply->shards != NULL);
    while (reply->n_shards < s->k + s->m) { /* in an order that nobody promised */
        unsigned at = (unsigned)(reply->n_shards++);
        reply->shards[at] = shard_make(s, (at + 1) % (s->k + s->m));
    }
    int r = rpc_reply(request, &reply->base);
    tarn__group_reply__free_unpacked(reply, NULL);
    return r;
}

static const struct rpc_op meta_ops[] = {
    OP(OP_SESSION_OPEN, session_open, session_open), OP(OP_SESSION_PING, session_ping, nothing),
    OP(OP_SESSION_END, session_end, nothing),        OP(OP_NODE_LIST, node_list, node_list),
    OP(OP_GROUP_GET, group_get, group_get),          OP(OP_SETATTR, set_attr, nothing),
};

/* ------------------------------------------------------------------ the holders */

struct held_chunk *shards_held(struct shards *s, unsigned holder, uint64_t chunk)
{
    struct holder *h = &s->holders[holder];
    for (unsigned i = 0; i < h->n_chunks; i++)
        if (h->chunks[i].id == chunk)
            return &h->chunks[i];
    return NULL;
}

static int send_range(struct holder *h, struct rpc_request *request, const Tarn__ChunkGet *get, const struct held_chunk *chunk)
{
    uint64_t length = h->ailment == SHORT ? chunk->length / 2 : chunk->length;
    uint64_t end = MIN(get->offset + get->length, length);
    size_t n = get->offset < end ? (size_t)(end - get->offset) : 0;
    uint8_t *data = malloc(n + 1);
    expect(data != NULL);
    memcpy(data, chunk->data + get->offset, n);
    uint32_t crcs[32];
    Tarn__ChunkGetReply reply = TARN__CHUNK_GET_REPLY__INIT;
    reply.crcs = crcs;
    reply.length = n;
    reply.generation = chunk->generation;
    for (uint64_t at = get->offset; at < end;) {
        size_t piece = MIN((size_t)(CELL_BYTES - at % CELL_BYTES), (size_t)(end - at));
        crcs[reply.n_crcs++] = crc32c(0, data + (at - get->offset), piece);
        at += piece;
    }
    if (h->ailment == ROTTEN && n > 0)
        data[n / 2] ^= 16;
    if (h->ailment == SPOTTED && h->spot >= get->offset && h->spot < get->offset + n)
        data[h->spot - get->offset] ^= 16;
    struct iovec payload = {data, n};
    int r = rpc_reply_payload(request, &reply.base, &payload, n > 0 ? 1 : 0, true);
    free(data);
    return r;
}

static int chunk_get(void *ctx, struct rpc_request *request, const void *message)
{
    struct holder *h = ctx;
    const Tarn__ChunkGet *get = message;
    const struct held_chunk *chunk = shards_held(h->shards, (unsigned)(h - h->shards->holders), get->chunk);
    h->reads++;
    h->bytes_read += get->length;
    if (h->ailment == SLOW)
        expect_equal(io_sleep_ms(h->shards->io, h->slow_ms), 0);
    while (h->ailment == SILENT)
        expect_equal(fiber_queue_wait(&h->gate, 0), 0);
    if (h->ailment == CLOSED) {
        rpc_conn_close(request->conn);
        return -E_CONN;
    }
    if (h->ailment == EMPTY || !chunk)
        return -E_NOENT;
    if (h->ailment == NEWER || get->generation < chunk->generation)
        return -E_STALE;
    return send_range(h, request, get, chunk);
}

void shards_ail(struct shards *s, unsigned holder, enum ailment ailment)
{
    s->holders[holder].ailment = ailment;
    fiber_queue_wake_all(&s->holders[holder].gate);
}

static void hold(struct shards *s, unsigned holder, uint64_t id, const uint8_t *data, uint64_t length)
{
    struct holder *h = &s->holders[holder];
    struct held_chunk *chunk = shards_held(s, holder, id);
    if (!chunk) {
        expect(h->n_chunks < ARRAY_SIZE(h->chunks));
        chunk = &h->chunks[h->n_chunks++];
    }
    free(chunk->data);
    *chunk = (struct held_chunk){.id = id, .generation = s->generation, .length = length, .data = malloc(length + 1)};
    expect(chunk->data != NULL);
    memcpy(chunk->data, data, length);
}

/* The primary's part: all members take it. */
static int chunk_put(void *ctx, struct rpc_request *request, const void *message)
{
    struct shards *s = ((struct holder *)ctx)->shards;
    const Tarn__ChunkPut *put = message;
    expect_equal(put->length, request->payload_len);
    for (size_t i = 0; i < put->n_members; i++) {
        unsigned member = put->members[i]->disk - 1;
        struct held_chunk *chunk = shards_held(s, member, put->chunk);
        uint64_t length = MAX(chunk ? chunk->length : 0, put->offset + put->length);
        uint8_t *data = calloc(1, length);
        expect(data != NULL);
        if (chunk)
            memcpy(data, chunk->data, chunk->length);
        memcpy(data + put->offset, request->payload, put->length);
        hold(s, member, put->chunk, data, length);
        free(data);
    }
    Tarn__ChunkPutReply reply = TARN__CHUNK_PUT_REPLY__INIT;
    return rpc_reply(request, &reply.base);
}

static int chunk_sync(void *ctx, struct rpc_request *request, const void *message)
{
    struct shards *s = ((struct holder *)ctx)->shards;
    const Tarn__ChunkSync *sync = message;
    for (size_t i = 0; i < sync->n_members; i++)
        shards_held(s, sync->members[i]->disk - 1, sync->chunk)->synced = true;
    Tarn__ChunkPutReply reply = TARN__CHUNK_PUT_REPLY__INIT;
    return rpc_reply(request, &reply.base);
}

static const struct rpc_op holder_ops[] = {
    OP(OP_CHUNK_GET, chunk_get, chunk_get),
    OP(OP_CHUNK_PUT, chunk_put, chunk_put),
    OP(OP_CHUNK_SYNC, chunk_sync, chunk_sync),
};

void shards_group(struct shards *s, unsigned k, unsigned m, const uint64_t *lengths, uint64_t seed)
{
    struct prng prng = prng_init(seed);
    struct ec_codec codec;
    uint8_t *shards[EC_SHARDS_MAX];
    uint64_t longest = 0;
    expect_equal(ec_codec_init(k, m, &codec), 0);
    for (unsigned i = 0; i < k; i++)
        longest = MAX(longest, lengths[i]);
    s->k = k;
    s->m = m;
    for (unsigned i = 0; i < k + m; i++) {
        s->lengths[i] = i < k ? lengths[i] : longest;
        shards[i] = calloc(1, longest);
        expect(shards[i] != NULL);
        for (uint64_t at = 0; i < k && at < lengths[i]; at++)
            shards[i][at] = (uint8_t)prng_u64(&prng);
    }
    ec_encode(&codec, longest, (const uint8_t *const *)shards, shards + k);
    for (unsigned i = 0; i < k + m; i++) {
        if (s->lengths[i])
            hold(s, i, chunk_of(i), shards[i], s->lengths[i]);
        free(shards[i]);
    }
}

static Tarn__Extent *extent_make(const struct shards *s, uint64_t id, uint64_t length, unsigned mask)
{
    Tarn__Extent *extent = malloc(sizeof *extent);
    expect(extent != NULL);
    tarn__extent__init(extent);
    extent->chunk = id;
    extent->length = extent->chunk_length = length;
    extent->generation = s->generation;
    extent->state = TARN__CHUNK_STATE__CHUNK_SEALED;
    extent->replicas = replicas_make(s, mask, &extent->n_replicas);
    return extent;
}

Tarn__Extent *shards_extent(const struct shards *s, unsigned index)
{
    Tarn__Extent *extent = extent_make(s, chunk_of(index), s->lengths[index], 1u << index);
    extent->group = 1;
    return extent;
}

Tarn__Extent *shards_chunk(struct shards *s, uint64_t id, uint8_t *data, uint64_t length, unsigned mask)
{
    for (unsigned i = 0; i < HOLDERS; i++)
        if (mask >> i & 1)
            hold(s, i, id, data, length);
    free(data);
    return extent_make(s, id, length, mask);
}

Tarn__Extent *shards_open(const struct shards *s, uint64_t id, unsigned mask)
{
    Tarn__Extent *extent = extent_make(s, id, 0, mask);
    extent->state = TARN__CHUNK_STATE__CHUNK_OPEN;
    extent->length = MIB(64);
    return extent;
}

/* ------------------------------------------------------------------ life */

static struct rpc_server *serve(struct shards *s, const char *host, struct rpc_service *service, char address[64])
{
    char any[80];
    struct io_listener *listener = NULL;
    struct rpc_server *server = NULL;
    snprintf(any, sizeof any, "tcp:%s:0", host);
    expect_equal(io_listen(s->io, any, &listener), 0);
    snprintf(address, 64, "%s", io_listener_address(listener));
    expect_equal(rpc_server_start(s->io, listener, &s->config.auth, service, &server), 0);
    return server;
}

void shards_start(struct shards *s, struct io *io, const char *host)
{
    *s = (struct shards){.io = io, .generation = 3};
    s->config.auth = (struct rpc_auth){.cluster_id = 5, .key = {9, 8, 7}, .name = "test"};
    s->config.n_meta = 1;
    s->meta_service = (struct rpc_service){.ops = meta_ops, .n_ops = ARRAY_SIZE(meta_ops), .ctx = s};
    s->meta_server = serve(s, host, &s->meta_service, s->config.meta[0]);
    for (unsigned i = 0; i < HOLDERS; i++) {
        struct holder *h = &s->holders[i];
        h->shards = s;
        h->service = (struct rpc_service){.ops = holder_ops, .n_ops = ARRAY_SIZE(holder_ops), .ctx = h};
        h->server = serve(s, host, &h->service, h->address);
    }
    expect_equal(meta_connect(io, &s->config, NULL, &s->meta), 0);
    expect_equal(stores_create(io, &s->config, s->meta, &s->stores), 0);
}

void shards_stop(struct shards *s)
{
    stores_destroy(s->stores);
    meta_disconnect(s->meta);
    for (unsigned i = 0; i < HOLDERS; i++) {
        shards_ail(s, i, WELL);
        rpc_server_stop(s->holders[i].server);
        for (unsigned c = 0; c < s->holders[i].n_chunks; c++)
            free(s->holders[i].chunks[c].data);
    }
    rpc_server_stop(s->meta_server);
}
