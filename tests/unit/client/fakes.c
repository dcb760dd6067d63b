#include "fakes.h"

#include "common/crc.h"
#include "ops.h"

/* ------------------------------------------------------------------ metadata */

static enum mishap take_mishap(struct fake_meta *meta, unsigned op)
{
    for (size_t i = 0; i < ARRAY_SIZE(meta->next); i++)
        if (meta->next[i].times > 0 && meta->next[i].op == op) {
            meta->next[i].times--;
            return meta->next[i].what;
        }
    return FINE;
}

void world_mishap(struct world *world, unsigned at, unsigned op, enum mishap what, unsigned times)
{
    struct fake_meta *meta = &world->metas[at];
    for (size_t i = 0; i < ARRAY_SIZE(meta->next); i++)
        if (meta->next[i].times == 0) {
            meta->next[i].op = op;
            meta->next[i].what = what;
            meta->next[i].times = times;
            return;
        }
    expect(!"room for another mishap");
}

/* The checks every op begins with. 1: go on; else the handler's result. */
static int admit(struct fake_meta *meta, struct rpc_request *request, const Tarn__Ctx *ctx, bool *lose)
{
    struct world *world = meta->world;
    if (request->op != OP_SESSION_PING)
        meta->asked++;
    enum mishap what = take_mishap(meta, request->op);
    *lose = what == LOSE_REPLY;
    if (what == SAY_BUSY)
        return rpc_reply_error(request, -E_BUSY, NULL, "later");
    if (what == NO_LEADER)
        return rpc_reply_error(request, -E_NOT_LEADER, NULL, "");
    if (what == FORGET_SESSION)
        world->session = 0;
    if (&world->metas[world->leader] != meta || what == REDIRECT)
        return rpc_reply_error(request, -E_NOT_LEADER, world->metas[world->leader].address, "");
    if (ctx && ctx->session && ctx->session != world->session)
        return rpc_reply_error(request, -E_NO_SESSION, NULL, "");
    return 1;
}

static int answer(struct rpc_request *request, const ProtobufCMessage *message, bool lose)
{
    if (!lose)
        return rpc_reply(request, message);
    rpc_conn_close(request->conn);
    return -E_CONN;
}

static int session_open(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    bool lose;
    int r = admit(meta, request, NULL, &lose);
    if (r != 1)
        return r;
    struct world *world = meta->world;
    expect_equal(((const Tarn__SessionOpen *)message)->uuid.len, 16);
    world->session = ++world->last_session;
    world->sessions++;
    world->last_seq = 0;
    map_fini(&world->seqs);
    world->seqs = (struct map){0};
    Tarn__SessionOpenReply reply = TARN__SESSION_OPEN_REPLY__INIT;
    reply.session = world->session;
    reply.timeout_ms = 3000;
    return answer(request, &reply.base, lose);
}

static int session_ping(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    bool lose;
    int r = admit(meta, request, ((const Tarn__SessionPing *)message)->ctx, &lose);
    if (r != 1)
        return r;
    meta->world->pings++;
    return answer(request, NULL, lose);
}

static int session_end(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    bool lose;
    int r = admit(meta, request, ((const Tarn__SessionEnd *)message)->ctx, &lose);
    if (r != 1)
        return r;
    meta->world->ended++;
    return answer(request, NULL, lose);
}

static int create(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    const Tarn__Create *create = message;
    bool lose;
    int r = admit(meta, request, create->ctx, &lose);
    if (r != 1)
        return r;
    struct world *world = meta->world;
    uint64_t seq = create->ctx->seq;
    expect(seq > 0 && create->ctx->session != 0);
    expect(create->ctx->acked < seq);
    world->last_acked = MAX(world->last_acked, create->ctx->acked);
    world->last_seq = MAX(world->last_seq, seq);
    if (!map_get(&world->seqs, seq)) {
        expect_equal(map_put(&world->seqs, seq, world), 0);
        world->applied++;
    }
    Tarn__Attr attr = TARN__ATTR__INIT;
    attr.ino = seq;
    Tarn__Entry entry = TARN__ENTRY__INIT;
    entry.attr = &attr;
    return answer(request, &entry.base, lose);
}

static int lookup(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    bool lose;
    int r = admit(meta, request, ((const Tarn__Lookup *)message)->ctx, &lose);
    if (r != 1)
        return r;
    Tarn__Attr attr = TARN__ATTR__INIT;
    attr.ino = 1;
    Tarn__LookupReply reply = TARN__LOOKUP_REPLY__INIT;
    reply.attr = &attr;
    return answer(request, &reply.base, lose);
}

static int lock(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    const Tarn__Lock *lock = message;
    bool lose;
    int r = admit(meta, request, lock->ctx, &lose);
    if (r != 1)
        return r;
    struct world *world = meta->world;
    world->lock_asks++;
    Tarn__LockReply reply = TARN__LOCK_REPLY__INIT;
    reply.granted = world->lock_free;
    if (!reply.granted && lock->wait) {
        expect(world->waiter == 0 || world->waiter == lock->waiter);
        world->waiter = lock->waiter;
        world->lock_conn = request->conn;
        reply.queued = true;
    }
    r = answer(request, &reply.base, lose);
    fiber_queue_wake_all(&world->lock_asked);
    return r;
}

static int lock_cancel(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    bool lose;
    int r = admit(meta, request, ((const Tarn__LockCancel *)message)->ctx, &lose);
    if (r != 1)
        return r;
    meta->world->lock_cancels++;
    Tarn__LockReply reply = TARN__LOCK_REPLY__INIT;
    reply.granted = meta->world->grant_on_cancel;
    return answer(request, &reply.base, lose);
}

void world_grant(struct world *world)
{
    expect(world->waiter != 0);
    Tarn__LockGranted grant = TARN__LOCK_GRANTED__INIT;
    grant.waiter = world->waiter;
    expect_equal(rpc_push(world->lock_conn, OP_LOCK_GRANTED, &grant.base), 0);
}

static int chunk_failed(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    const Tarn__ChunkFailed *failed = message;
    bool lose;
    int r = admit(meta, request, failed->ctx, &lose);
    if (r != 1)
        return r;
    struct world *world = meta->world;
    expect_equal(failed->chunk, CHUNK);
    if (failed->generation == world->generation && failed->disk != 0) {
        world->failed_disks[world->failed_reports++] = failed->disk;
        world->gone[failed->disk - 1] = true;
        world->generation++;
    }
    Tarn__ChunkReply reply = TARN__CHUNK_REPLY__INIT;
    reply.extent = world_extent(world);
    r = answer(request, &reply.base, lose);
    tarn__extent__free_unpacked(reply.extent, NULL);
    return r;
}

static char *copy(const char *text)
{
    char *own = strdup(text);
    expect(own != NULL);
    return own;
}

static Tarn__Replica *replica_make(const struct fake_store *store)
{
    Tarn__Replica *replica = malloc(sizeof *replica);
    expect(replica != NULL);
    tarn__replica__init(replica);
    replica->node = replica->disk = store->disk;
    replica->address = copy(store->address);
    replica->rack = copy(store->disk == 1 ? "far" : "near");
    replica->up = replica->ready = true;
    return replica;
}

Tarn__Extent *world_extent(const struct world *world)
{
    Tarn__Extent *extent = malloc(sizeof *extent);
    expect(extent != NULL);
    tarn__extent__init(extent);
    extent->length = CHUNK_SIZE;
    extent->chunk = CHUNK;
    extent->generation = world->generation;
    extent->state = TARN__CHUNK_STATE__CHUNK_OPEN;
    extent->replicas = calloc(STORES, sizeof(Tarn__Replica *));
    expect(extent->replicas != NULL);
    for (unsigned i = 0; i < STORES; i++)
        if (!world->gone[i])
            extent->replicas[extent->n_replicas++] = replica_make(&world->stores[i]);
    return extent;
}

#define OP(number, type, fn) {number, #fn, &tarn__##type##__descriptor, fn}
#define FILES_A_PART 5

/* The files behind `after`; the packed reply is the caller's. */
static size_t locations_part(const struct world *world, unsigned first, uint8_t **ret)
{
    char paths[FILES_A_PART][32];
    Tarn__LocatedFile files[FILES_A_PART], *pointers[FILES_A_PART];
    Tarn__LocationsReply reply = TARN__LOCATIONS_REPLY__INIT;
    reply.files = pointers;
    for (unsigned i = first; i < world->files && reply.n_files < FILES_A_PART; i++) {
        Tarn__LocatedFile *file = pointers[reply.n_files] = &files[reply.n_files];
        tarn__located_file__init(file);
        snprintf(paths[reply.n_files], sizeof paths[0], "/f/%06u", i);
        file->path = paths[reply.n_files++];
    }
    if (first + reply.n_files < world->files)
        reply.next = paths[reply.n_files - 1];
    size_t n = tarn__locations_reply__get_packed_size(&reply);
    *ret = malloc(n + 1);
    expect(*ret != NULL);
    return tarn__locations_reply__pack(&reply, *ret);
}

/* With `stream` in parts, without it one page, as older servers do always. */
static int locations(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_meta *meta = ctx;
    struct world *world = meta->world;
    const Tarn__Locations *ask = message;
    bool lose;
    int r = admit(meta, request, ask->ctx, &lose);
    if (r != 1)
        return r;
    unsigned first = ask->after[0] ? (unsigned)atoi(ask->after + 3) + 1 : 0;
    for (;; first += FILES_A_PART) {
        uint8_t *packed;
        size_t n = locations_part(world, first, &packed);
        bool last = !ask->stream || first + FILES_A_PART >= world->files;
        r = last ? rpc_reply_packed(request, packed, n) : rpc_reply_part(request, packed, n);
        free(packed);
        world->parts++;
        if (last || r < 0)
            return r;
        if (world->parts_until_death > 0 && --world->parts_until_death == 0) {
            world->leader = (world->leader + 1) % METAS;
            rpc_conn_close(request->conn);
        }
    }
}

static const struct rpc_op meta_ops[] = {
    OP(OP_SESSION_OPEN, session_open, session_open), OP(OP_SESSION_PING, session_ping, session_ping),
    OP(OP_SESSION_END, session_end, session_end),    OP(OP_CREATE, create, create),
    OP(OP_LOOKUP, lookup, lookup),                   OP(OP_LOCK, lock, lock),
    OP(OP_LOCATIONS, locations, locations),
    OP(OP_LOCK_CANCEL, lock_cancel, lock_cancel),    OP(OP_CHUNK_FAILED, chunk_failed, chunk_failed),
};

/* ------------------------------------------------------------------ stores */

static int store_admit(struct fake_store *store, struct rpc_request *request, uint64_t generation)
{
    if (store->mute) {
        rpc_conn_close(request->conn);
        return -E_CONN;
    }
    if (store->full)
        return -E_NOSPC;
    if (generation < store->generation)
        return -E_STALE;
    store->generation = generation;
    return 1;
}

static int chunk_put(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_store *store = ctx;
    const Tarn__ChunkPut *put = message;
    struct world *world = store->world;
    int r = store_admit(store, request, put->generation);
    if (r != 1)
        return r;
    expect_equal(put->length, request->payload_len);
    expect(put->offset + put->length <= CHUNK_SIZE);
    expect_equal(put->members[0]->disk, store->disk);
    uint32_t crcs[32];
    size_t n = 0;
    for (uint64_t at = 0; at < put->length; n++) {
        size_t piece = MIN((size_t)(CELL_BYTES - (put->offset + at) % CELL_BYTES), (size_t)(put->length - at));
        crcs[n] = crc32c(0, request->payload + at, piece);
        at += piece;
    }
    expect_equal(put->n_crcs, n);
    expect(memcmp(crcs, put->crcs, n * sizeof crcs[0]) == 0);
    Tarn__ChunkPutReply reply = TARN__CHUNK_PUT_REPLY__INIT;
    for (size_t i = 0; i < put->n_members; i++) {
        struct fake_store *member = &world->stores[put->members[i]->disk - 1];
        if (member->disk == store->fails_for) {
            reply.failed_disk = member->disk;
            reply.why = (char *)"no answer";
            continue;
        }
        memcpy(member->data + put->offset, request->payload, put->length);
        member->length = MAX(member->length, put->offset + put->length);
        member->generation = put->generation;
        member->writes++;
    }
    return rpc_reply(request, &reply.base);
}

static int chunk_get(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_store *store = ctx;
    const Tarn__ChunkGet *get = message;
    int r = store_admit(store, request, get->generation);
    if (r != 1)
        return r;
    store->reads++;
    uint64_t end = MIN(get->offset + get->length, store->length);
    size_t n = get->offset < end ? (size_t)(end - get->offset) : 0;
    uint32_t crcs[32];
    Tarn__ChunkGetReply reply = TARN__CHUNK_GET_REPLY__INIT;
    reply.crcs = crcs;
    for (uint64_t at = get->offset; at < end;) {
        size_t piece = MIN((size_t)(CELL_BYTES - at % CELL_BYTES), (size_t)(end - at));
        crcs[reply.n_crcs++] = crc32c(0, store->data + at, piece);
        at += piece;
    }
    if (store->spoiled && n > 0)
        store->data[get->offset + n / 2] ^= 4;
    struct iovec payload = {store->data + get->offset, n};
    r = rpc_reply_payload(request, &reply.base, &payload, n > 0 ? 1 : 0, true);
    if (store->spoiled && n > 0)
        store->data[get->offset + n / 2] ^= 4;
    return r;
}

static int chunk_sync(void *ctx, struct rpc_request *request, const void *message)
{
    struct fake_store *store = ctx;
    int r = store_admit(store, request, ((const Tarn__ChunkSync *)message)->generation);
    if (r != 1)
        return r;
    store->syncs++;
    return rpc_reply(request, NULL);
}

static const struct rpc_op store_ops[] = {
    OP(OP_CHUNK_PUT, chunk_put, chunk_put),
    OP(OP_CHUNK_GET, chunk_get, chunk_get),
    OP(OP_CHUNK_SYNC, chunk_sync, chunk_sync),
};

/* ------------------------------------------------------------------ life */

static struct rpc_server *serve(struct world *world, const char *host, struct rpc_service *service, char address[64])
{
    char any[80];
    snprintf(any, sizeof any, "tcp:%s:0", host);
    struct io_listener *listener = NULL;
    expect_equal(io_listen(world->io, any, &listener), 0);
    snprintf(address, 64, "%s", io_listener_address(listener));
    struct rpc_server *server = NULL;
    expect_equal(rpc_server_start(world->io, listener, &world->config.auth, service, &server), 0);
    return server;
}

static struct rpc_service meta_services[METAS], store_services[STORES];

void world_start(struct world *world, struct io *io, const char *host)
{
    *world = (struct world){.io = io, .generation = 1};
    world->config.auth = (struct rpc_auth){.cluster_id = 5, .key = {9, 8, 7}, .name = "test"};
    world->config.n_meta = METAS;
    for (unsigned i = 0; i < METAS; i++) {
        struct fake_meta *meta = &world->metas[i];
        meta->world = world;
        meta_services[i] = (struct rpc_service){.ops = meta_ops, .n_ops = ARRAY_SIZE(meta_ops), .ctx = meta};
        meta->server = serve(world, host, &meta_services[i], meta->address);
        snprintf(world->config.meta[i], sizeof world->config.meta[i], "%s", meta->address);
    }
    for (unsigned i = 0; i < STORES; i++) {
        struct fake_store *store = &world->stores[i];
        store->world = world;
        store->disk = i + 1;
        store->data = calloc(1, CHUNK_SIZE);
        expect(store->data != NULL);
        store_services[i] = (struct rpc_service){.ops = store_ops, .n_ops = ARRAY_SIZE(store_ops), .ctx = store};
        store->server = serve(world, host, &store_services[i], store->address);
    }
}

void world_stop(struct world *world)
{
    for (unsigned i = 0; i < METAS; i++)
        rpc_server_stop(world->metas[i].server);
    for (unsigned i = 0; i < STORES; i++) {
        rpc_server_stop(world->stores[i].server);
        free(world->stores[i].data);
    }
    map_fini(&world->seqs);
}
