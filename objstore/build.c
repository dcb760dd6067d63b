#include "build.h"

#include "get.h"
#include "partial.h"
#include "readback.h"
#include "common/check.h"
#include "common/ec.h"
#include "common/err.h"
#include "common/log.h"
#include "proto/ops.h"

#define WINDOW_BYTES BACKGROUND_WINDOW_BYTES
#define SOURCE_TIMEOUT_MS 5000
#define PIECES_MAX (WINDOW_BYTES / CELL_BYTES)

/* One shard that others are computed from. Its replicas are tried in turn. */
struct source {
    const Tarn__Shard *told; /* NULL: not told, or of no use */
    unsigned n_failed;       /* replicas that are left out */
    bool checked;            /* the replica whose turn it is has the generation and length that were told */
    int why;                 /* what the last one that was left out said */
};
struct build {
    struct background *background;
    struct store *store;
    struct volume *volume;
    const Tarn__ChunkTask *task;
    struct ec_codec codec;
    struct ec_plan plan;
    bool planned;
    struct source sources[EC_SHARDS_MAX]; /* by index of shard */
    uint8_t *in[EC_DATA_MAX], *out;       /* in the order of plan.sources */
    int why;                              /* what the last source that failed said */
};
/* One source's part of a window. */
struct read {
    struct build *build;
    unsigned shard;
    uint64_t at;
    size_t n;
    uint8_t *into;
    int err;
    struct fiber_group *group;
};

/* ------------------------------------------------------------------ what the task says */
static int take_source(struct build *b, const Tarn__Shard *shard)
{
    if (shard->index >= b->task->k + b->task->m || shard->length > CHUNK_BYTES_MAX || b->sources[shard->index].told != NULL)
        return -E_INVAL;
    /* A parity shard that is shorter than what it is computed from protects only a part of it. */
    if (b->task->shard >= b->task->k && shard->index < b->task->k && shard->length > b->task->length)
        return -E_INVAL;
    if (shard->index != b->task->shard)
        b->sources[shard->index].told = shard;
    return 0;
}

static int take_task(struct build *b)
{
    const Tarn__ChunkTask *task = b->task;
    int err = ec_codec_init(task->k, task->m, &b->codec);
    if (err == 0 && (task->shard >= task->k + task->m || task->length > CHUNK_BYTES_MAX || task->chunk == 0))
        err = -E_INVAL;
    for (size_t i = 0; i < task->n_sources && err == 0; i++)
        err = take_source(b, task->sources[i]);
    return err;
}

/* ------------------------------------------------------------------ which k */
static bool is_zeros(const struct source *source)
{
    return source->told->chunk == 0 || source->told->length == 0;
}

static const Tarn__Replica *replica_of(const struct source *source)
{
    return source->n_failed < source->told->n_replicas ? source->told->replicas[source->n_failed] : NULL;
}

static bool is_here(const struct build *b, const Tarn__Replica *replica)
{
    return strcmp(replica->address, b->store->address) == 0;
}

/* Cheaper is better: nothing to read, our own disk, the net. UINT_MAX = cannot be read. */
static unsigned cost_of(const struct build *b, const struct source *source)
{
    if (source->told == NULL)
        return UINT32_MAX;
    if (is_zeros(source))
        return 0;
    const Tarn__Replica *replica = replica_of(source);
    return replica == NULL ? UINT32_MAX : is_here(b, replica) ? 1 : 2;
}

static int choose(struct build *b)
{
    uint32_t have = 0;
    unsigned n = 0;
    for (unsigned cost = 0; cost <= 2; cost++)
        for (unsigned i = 0; i < EC_SHARDS_MAX && n < b->task->k; i++)
            if (cost_of(b, &b->sources[i]) == cost) {
                have |= 1u << i;
                n++;
            }
    if (n < b->task->k)
        return b->why != 0 ? b->why : -E_UNAVAIL;
    b->planned = true;
    return ec_plan_init(&b->codec, have, 1u << b->task->shard, &b->plan);
}

static void leave_out(struct build *b, unsigned shard, int err)
{
    struct source *source = &b->sources[shard];
    log_warn("chunk %llx: shard %u is not read from %s: %s", (unsigned long long)b->task->chunk, shard,
             replica_of(source)->address, err_sentence(err));
    source->n_failed++;
    source->checked = false;
    b->planned = false;
    source->why = b->why = err;
}

/* ------------------------------------------------------------------ reading */
/* Only what was meant: another version of the chunk is other bytes. */
static int compare(const Tarn__Shard *told, bool sealed, uint64_t generation, uint64_t length)
{
    if (!sealed)
        return -E_BUSY;
    return generation == told->generation && length == told->length ? 0 : -E_STALE;
}

static int check_remote(const Tarn__Shard *told, const Tarn__Replica *replica, struct rpc_client *client)
{
    Tarn__ChunkStat request = TARN__CHUNK_STAT__INIT;
    request.chunk = told->chunk;
    request.disk = replica->disk;
    struct rpc_call call = {.op = OP_CHUNK_STAT, .request = &request.base, .timeout_ms = SOURCE_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_stat_reply__descriptor};
    int err = rpc_call(client, &call);
    const Tarn__ChunkStatReply *reply = (const Tarn__ChunkStatReply *)call.reply;
    if (err == 0)
        err = compare(told, reply->sealed, reply->generation, reply->length);
    rpc_call_fini(&call);
    return err;
}

/* Looked at before it is waited for: a chunk that another task makes here waits perhaps for ours. */
static int check_local(struct volume *v, const Tarn__Shard *told)
{
    struct chunk *c = index_get(&v->index, told->chunk);
    if (c == NULL)
        return -E_NOENT;
    int err = chunk_is_real(c) && (c->flags & CHUNK_PARTIAL) == 0
                  ? compare(told, (c->flags & CHUNK_SEALED) != 0, c->generation, c->length)
                  : -E_NOENT;
    chunk_unref(&v->index, c);
    return err;
}

static int read_local(const struct read *r, const Tarn__Shard *told, const Tarn__Replica *replica)
{
    struct volume *v;
    struct held held;
    struct get get;
    int err = store_volume(r->build->store, replica->disk, told->chunk, &v);
    if (err == 0)
        err = check_local(v, told);
    if (err == 0)
        err = store_hold_bytes(v, told->chunk, false, r->at, r->n, false, &held);
    if (err != 0)
        return err;
    err = get_read(v, held.chunk, r->at, r->n, &get);
    if (err == 0) {
        if (get.length == r->n)
            memcpy(r->into, get.buffer + get.skip, r->n);
        else
            err = -E_STALE;
        get_fini(v, &get);
    }
    store_release(&held);
    return err;
}

static int read_remote(const struct read *r, const Tarn__Shard *told, const Tarn__Replica *replica)
{
    struct source *source = &r->build->sources[r->shard];
    struct rpc_client *client = store_peer(r->build->store, replica->address);
    int err = client == NULL ? -E_NOMEM : source->checked ? 0 : check_remote(told, replica, client);
    if (err != 0)
        return err;
    source->checked = true;
    Tarn__ChunkGet request = TARN__CHUNK_GET__INIT;
    request.chunk = told->chunk;
    request.disk = replica->disk;
    request.generation = told->generation;
    request.offset = r->at;
    request.length = r->n;
    request.work = background_work(r->build->background);
    struct rpc_call call = {.op = OP_CHUNK_GET, .request = &request.base, .timeout_ms = SOURCE_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_get_reply__descriptor, .into = r->into, .into_size = WINDOW_BYTES};
    err = rpc_call(client, &call);
    const Tarn__ChunkGetReply *reply = (const Tarn__ChunkGetReply *)call.reply;
    if (err == 0 && (call.reply_payload_len != r->n || reply->n_crcs != (r->n + CELL_BYTES - 1) / CELL_BYTES))
        err = -E_PROTO;
    for (size_t i = 0; err == 0 && i < reply->n_crcs; i++)
        if (crc32c(0, r->into + i * CELL_BYTES, MIN(CELL_BYTES, r->n - i * CELL_BYTES)) != reply->crcs[i])
            err = -E_CORRUPT;
    r->build->store->counters.bytes_fetched += err == 0 ? r->n : 0;
    rpc_call_fini(&call);
    return err;
}

static void read_run(void *arg)
{
    struct read *r = arg;
    const struct source *source = &r->build->sources[r->shard];
    const Tarn__Replica *replica = replica_of(source);
    r->err = is_here(r->build, replica) ? read_local(r, source->told, replica) : read_remote(r, source->told, replica);
    fiber_group_done(r->group);
}

/* Reads [at, at + n) of the chosen sources into b->in, all at the same time; what a source does not have is zeros.
 * Those that fail are left out. *ret_again: another choice is to be made. */
static int read_chosen(struct build *b, uint64_t at, size_t n, bool *ret_again)
{
    struct read reads[EC_DATA_MAX];
    struct fiber_group group = {0};
    int err = 0;
    for (unsigned i = 0; i < b->plan.k; i++) {
        const struct source *source = &b->sources[b->plan.sources[i]];
        uint64_t length = is_zeros(source) ? 0 : source->told->length;
        size_t part = length > at ? MIN(n, (size_t)(length - at)) : 0;
        reads[i] = (struct read){.build = b, .shard = b->plan.sources[i], .at = at, .n = part, .into = b->in[i], .group = &group};
        memset(b->in[i] + part, 0, n - part);
        if (part == 0 || err != 0)
            continue;
        fiber_group_add(&group);
        err = fiber_spawn(b->store->io, "build-read", read_run, &reads[i]);
        if (err != 0)
            fiber_group_done(&group);
    }
    fiber_group_wait(&group);
    *ret_again = false;
    for (unsigned i = 0; i < b->plan.k && err == 0; i++) {
        if (reads[i].err == -E_CANCELED)
            err = -E_CANCELED;
        else if (reads[i].err != 0) {
            leave_out(b, reads[i].shard, reads[i].err);
            *ret_again = true;
        }
    }
    return err;
}

/* ------------------------------------------------------------------ making */
/* [at, at + n) of the shard, into b->out. */
static int compute(struct build *b, uint64_t at, size_t n)
{
    bool again = true;
    int err = 0;
    while (again && err == 0) { /* ends: each time a replica is left out, and there are bounded many */
        if (!b->planned)
            err = choose(b);
        if (err == 0)
            err = read_chosen(b, at, n, &again);
    }
    if (err == 0)
        ec_plan_run(&b->plan, n, (const uint8_t *const *)b->in, &b->out);
    return err;
}

static int make_window(struct build *b, struct chunk *c, uint64_t at, size_t n)
{
    uint32_t crcs[PIECES_MAX];
    size_t n_crcs = 0;
    int err = compute(b, at, n);
    if (err != 0)
        return err;
    for (size_t done = 0; done < n; done += CELL_BYTES)
        crcs[n_crcs++] = crc32c(0, b->out + done, MIN(CELL_BYTES, n - done));
    return partial_append(b->volume, c, b->task->generation, at, b->out, n, crcs, n_crcs);
}

static int make_held(struct build *b, struct chunk *c)
{
    const Tarn__ChunkTask *task = b->task;
    int err = partial_begin(b->volume, c, task->generation);
    for (uint64_t at = 0; at < task->length && err == 0; at += WINDOW_BYTES) {
        size_t n = (size_t)MIN(WINDOW_BYTES, task->length - at);
        err = background_take(b->background, n);
        if (err == 0)
            err = make_window(b, c, at, n);
    }
    return err != 0 ? err : partial_finish(b->background, c, task->generation, task->length);
}

/* The same task came before, and its answer was lost. */
static bool is_made(struct build *b, struct chunk *c)
{
    const Tarn__ChunkTask *task = b->task;
    bool same = (c->flags & CHUNK_SEALED) != 0 && c->generation == task->generation && c->length == task->length;
    for (uint64_t at = 0; at < c->length && same; at += WINDOW_BYTES)
        same = background_take(b->background, WINDOW_BYTES) == 0 &&
               readback_window(b->volume, c, at, MIN(WINDOW_BYTES, c->length - at), NULL) == 0;
    return same;
}

static int make(struct build *b, uint64_t *ret_length, uint32_t *ret_digest)
{
    for (unsigned again = 0; again < 2; again++) {
        struct held held;
        int err = store_hold_all(b->volume, b->task->chunk, true, true, &held);
        if (err != 0)
            return err;
        struct chunk *c = held.chunk;
        bool there = chunk_is_real(c), stale = c->generation > b->task->generation, right = there && is_made(b, c);
        if (!there)
            err = make_held(b, c);
        else if (stale)
            err = -E_STALE;
        else if (!right)
            err = b->background->cancelled ? -E_CANCELED : volume_delete(b->volume, c); /* another version, or a damaged one */
        *ret_length = c->length;
        *ret_digest = err == 0 && (right || !there) ? chunk_digest(c) : 0;
        store_release(&held);
        if (err != 0 || right || !there)
            return err;
    }
    return -E_BUSY; /* somebody else makes it all the time */
}

static int get_buffers(struct build *b)
{
    int err = buffers_get(&b->volume->buffers, WINDOW_BYTES, &b->out);
    for (unsigned i = 0; i < b->task->k && err == 0; i++)
        err = buffers_get(&b->volume->buffers, WINDOW_BYTES, &b->in[i]);
    return err;
}

void build_ranges_end(struct build *b)
{
    if (b == NULL)
        return;
    for (unsigned i = 0; i < EC_DATA_MAX; i++)
        buffers_put(&b->volume->buffers, WINDOW_BYTES, b->in[i]);
    buffers_put(&b->volume->buffers, WINDOW_BYTES, b->out);
    free(b);
}

int build_ranges_begin(struct background *background, const Tarn__ChunkTask *task, struct build **ret)
{
    struct build *b = calloc(1, sizeof *b);
    if (b == NULL)
        return -E_NOMEM;
    *b = (struct build){.background = background, .store = background->store, .volume = background->volume, .task = task};
    int err = take_task(b);
    if (err == 0)
        err = get_buffers(b);
    if (err != 0) {
        build_ranges_end(b);
        return err;
    }
    *ret = b;
    return 0;
}

int build_shard(struct background *background, const Tarn__ChunkTask *task, uint64_t *ret_length, uint32_t *ret_digest)
{
    struct build *b;
    int err = build_ranges_begin(background, task, &b);
    if (err != 0)
        return err;
    err = make(b, ret_length, ret_digest);
    if (err != 0)
        partial_drop(background->volume, task->chunk);
    background->store->counters.built += err == 0;
    build_ranges_end(b);
    return err;
}

/* ------------------------------------------------------------------ some bytes */
static bool is_damage(int err)
{
    return err == -E_CORRUPT || err == -E_IO;
}

/* Fewer than k have their part. Is that all there is to know? */
static int verdict(const struct build *b)
{
    bool sure = b->task->n_sources + 1 >= b->task->k + b->task->m; /* those that are down are not told of */
    for (unsigned i = 0; i < EC_SHARDS_MAX; i++)
        sure &= b->sources[i].why == 0 || is_damage(b->sources[i].why);
    return sure ? -E_CORRUPT : -E_UNAVAIL;
}

int build_range(struct build *b, uint64_t at, size_t n, uint8_t *buf)
{
    CHECK(n <= WINDOW_BYTES && at % CELL_BYTES == 0);
    for (unsigned i = 0; i < EC_SHARDS_MAX; i++) {
        struct source *source = &b->sources[i];
        if (is_damage(source->why)) { /* elsewhere in it */
            source->n_failed = 0;
            source->why = 0;
        }
    }
    b->why = 0;
    int err = compute(b, at, n);
    if (err == 0)
        memcpy(buf, b->out, n);
    return err == 0 || err == -E_CANCELED ? err : verdict(b);
}
