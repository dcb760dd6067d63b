/* See load.h. Each operation is noted as unknown before it is sent, and gets its result when it is certain. */
#include "load_impl.h"

#include "common/check.h"
#include "common/err.h"

#include <stdio.h>

#define SETUP_TRIES 40
#define DOUBT_MS 800 /* after an answer was lost: many at once make a history that nobody can decide */

/* ---- recording */

uint64_t load_now(struct load *load)
{
    return load->options.now_ns(load->options.arg);
}

size_t load_begin(struct load *load, const struct history_op *op)
{
    struct history_op noted = *op;
    noted.client = load->options.client;
    noted.invoke_ns = load_now(load);
    noted.return_ns = HISTORY_UNKNOWN;
    return history_add(load->options.history, &noted);
}

bool load_certain(int err)
{
    return err != -E_UNAVAIL && err != -E_NO_SESSION && err != -E_CANCELED && err != -E_BUSY && err != -E_NOMEM && err != -E_TIMEOUT &&
           err != -E_CONN && err != -E_NOT_LEADER && err != -E_NOSPC && err != -E_IO;
}

struct history_op *load_noted(struct load *load, size_t at)
{
    return &load->options.history->ops[at];
}

void load_end_here(struct load *load, size_t at, int err)
{
    if (!load_certain(err)) {
        load->doubtful++;
        return;
    }
    struct history_op *op = load_noted(load, at);
    op->return_ns = load_now(load);
    op->status = err;
    load->counters.answered++;
}

void load_end(struct load *load, size_t at, int err)
{
    load_end_here(load, at, err);
    const struct history_op *op = load_noted(load, at);
    bool changes = op->verb != VERB_LOOKUP && op->verb != VERB_LIST && op->verb != VERB_STAT && op->verb != VERB_READ;
    if (err == 0 && changes)
        load->session_seen_ns = MAX(load->session_seen_ns, op->invoke_ns);
}

/* The session's locks are gone at some time since it was last seen alive. */
static void expire(struct load *load)
{
    for (uint32_t key = 0; key < LOAD_LOCKS + LOAD_KEPT && load->session != 0; key++) {
        struct history_op op = {.kind = HISTORY_LOCK, .verb = VERB_EXPIRE, .key = key, .owner = load->session << 16};
        size_t at = load_begin(load, &op);
        load_noted(load, at)->invoke_ns = load->session_seen_ns;
    }
    load->session = 0;
}

static void session_lost(void *arg)
{
    struct load *load = arg;
    expire(load); /* a client counts its session as lost by its own clock, before the service does */
    load->session = meta_session(load->meta);
    load->session_seen_ns = load_now(load);
}

/* The open session, 0 when there is none now. What is asked next, without a wait in between, is asked in it. */
uint64_t load_session(struct load *load)
{
    uint64_t session = meta_session(load->meta);
    if (session != 0 && load->session == 0) {
        load->session = session;
        load->session_seen_ns = load_now(load);
    }
    return session == load->session ? session : 0;
}

/* ---- requests that arrive twice */

/* What is about to be asked; the second sender packs it while the first call is under way. */
struct repeat {
    struct load *load;
    unsigned op;
    const ProtobufCMessage *request; /* NULL: the call is over */
    Tarn__Ctx **ctx;
    unsigned refs;
};

static void repeat_unref(struct repeat *repeat)
{
    if (--repeat->refs == 0)
        free(repeat);
}

static void repeat_send(struct load *load, unsigned op, const ProtobufCMessageDescriptor *type, const uint8_t *packed, size_t len)
{
    ProtobufCMessage *request = protobuf_c_message_unpack(type, NULL, len, packed);
    CHECK(request != NULL);
    uint64_t to = prng_below(&load->prng, load->options.config->n_meta);
    struct rpc_call call = {.op = op, .request = request, .timeout_ms = 2000};
    (void)rpc_call(load->repeaters[to], &call); /* whatever it says, the first one counts */
    rpc_call_fini(&call);
    protobuf_c_message_free_unpacked(request, NULL);
}

static void repeat_fiber(void *arg)
{
    struct repeat *repeat = arg;
    struct load *load = repeat->load;
    if (repeat->request != NULL && *repeat->ctx != NULL && (*repeat->ctx)->seq != 0) {
        const ProtobufCMessageDescriptor *type = repeat->request->descriptor;
        size_t len = protobuf_c_message_get_packed_size(repeat->request);
        uint8_t *packed = malloc(len + 1);
        CHECK(packed != NULL);
        protobuf_c_message_pack(repeat->request, packed);
        uint64_t wait_ms = prng_below(&load->prng, 2) == 0 ? prng_below(&load->prng, 10) : prng_below(&load->prng, 3000);
        if (io_sleep_ms(fiber_io(), wait_ms) == 0)
            repeat_send(load, repeat->op, type, packed, len);
        free(packed);
    }
    repeat_unref(repeat);
    fiber_group_done(&load->fibers);
}

static struct repeat *repeat_start(struct load *load, unsigned op, const ProtobufCMessage *request, Tarn__Ctx **ctx)
{
    if (op > OP_META_CHANGE_LAST || prng_below(&load->prng, 100) >= load->options.repeat_percent)
        return NULL;
    struct repeat *repeat = calloc(1, sizeof *repeat);
    CHECK(repeat != NULL);
    *repeat = (struct repeat){.load = load, .op = op, .request = request, .ctx = ctx, .refs = 2};
    fiber_group_add(&load->fibers);
    if (fiber_spawn(load->options.io, "repeat", repeat_fiber, repeat) == 0)
        return repeat;
    fiber_group_done(&load->fibers);
    free(repeat);
    return NULL;
}

int load_call(struct load *load, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx, const struct meta_cred *cred,
              const ProtobufCMessageDescriptor *type, void *ret_reply)
{
    struct repeat *repeat = repeat_start(load, op, request, ctx);
    int err = meta_call(load->meta, op, request, ctx, cred, type, ret_reply, NULL);
    if (repeat != NULL) {
        repeat->request = NULL;
        repeat_unref(repeat);
    }
    return err;
}

/* ---- life */

static int make(struct load *load, const char *name, Tarn__FileType type, uint64_t *ret_ino)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    request.parent = &root;
    request.name = (char *)(uintptr_t)name;
    request.type = type;
    request.mode = 0777;
    request.parents = type == TARN__FILE_TYPE__FT_DIR;
    int err = meta_call(load->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL);
    if (err != 0)
        return err;
    *ret_ino = entry->attr->ino;
    tarn__entry__free_unpacked(entry, NULL);
    return 0;
}

static int make_all(struct load *load)
{
    static const struct {
        char letter;
        unsigned n;
        Tarn__FileType type;
    } sorts[] = {{'d', LOAD_DIRECTORIES, TARN__FILE_TYPE__FT_DIR},
                 {'s', LOAD_SIZES, TARN__FILE_TYPE__FT_FILE},
                 {'l', LOAD_LOCKS, TARN__FILE_TYPE__FT_FILE},
                 {'g', LOAD_LOCKS, TARN__FILE_TYPE__FT_FILE},
                 {'k', LOAD_KEPT, TARN__FILE_TYPE__FT_FILE}};
    uint64_t *inos[] = {load->directories, load->sizes, load->locks, load->guarded, &load->kept_ino};
    int err = 0;
    for (unsigned s = 0; s < ARRAY_SIZE(sorts); s++)
        for (unsigned i = 0; i < sorts[s].n && err == 0; i++) {
            char name[16];
            snprintf(name, sizeof name, "%c%u", sorts[s].letter, i);
            err = make(load, name, sorts[s].type, &inos[s][i]);
        }
    return err;
}

int load_create(const struct load_options *options, struct load **ret)
{
    CHECK(options->workers <= LOAD_WORKERS_MAX);
    struct load *load = calloc(1, sizeof *load);
    if (load == NULL)
        return -E_NOMEM;
    load->options = *options;
    load->prng = prng_init(options->seed);
    struct meta_options meta = {
        .name = "history", .timeout_ms = options->session_ms, .give_up_ms = options->give_up_ms, .lost = session_lost, .arg = load};
    int err = meta_connect(options->io, options->config, &meta, &load->meta);
    for (unsigned i = 0; i < options->config->n_meta && err == 0; i++) {
        load->repeaters[i] = rpc_client_create(options->io, options->config->meta[i], &options->config->auth);
        err = load->repeaters[i] != NULL ? 0 : -E_NOMEM;
    }
    if (err == 0)
        err = make_all(load);
    for (unsigned i = 0; i < SETUP_TRIES && err != 0 && !load_certain(err) && err != -E_CANCELED && err != -E_NOMEM; i++)
        err = make_all(load);
    if (err != 0) {
        load_destroy(load);
        return err;
    }
    *ret = load;
    return 0;
}

static void worker_fiber(void *arg)
{
    struct load_worker *worker = arg;
    struct load *load = worker->load;
    int err = 0;
    while (!load->stopping && err == 0) {
        uint64_t doubtful = load->doubtful;
        load_work(load, worker);
        uint64_t pause_ms = load->options.pause_ms + (load->doubtful > doubtful ? DOUBT_MS : 0);
        err = io_sleep_ms(fiber_io(), 1 + prng_below(&load->prng, pause_ms));
    }
    fiber_group_done(&load->workers_running);
}

void load_run(struct load *load)
{
    for (unsigned i = 0; i < load->options.workers; i++) {
        load->workers[i] = (struct load_worker){.load = load, .number = i + 1};
        fiber_group_add(&load->workers_running);
        if (fiber_spawn(load->options.io, "worker", worker_fiber, &load->workers[i]) != 0)
            fiber_group_done(&load->workers_running);
    }
    fiber_group_wait(&load->workers_running);
}

void load_stop(struct load *load)
{
    load->stopping = true;
    for (unsigned i = 0; i < load->options.workers; i++)
        load_interrupt(load, &load->workers[i]);
}

void load_destroy(struct load *load)
{
    if (load == NULL)
        return;
    load->stopping = true;
    expire(load);
    meta_disconnect(load->meta);
    if (load->fibers.running > 0)
        fiber_group_wait(&load->fibers);
    for (unsigned i = 0; i < CONFIG_META_MAX; i++)
        if (load->repeaters[i] != NULL)
            rpc_client_destroy(load->repeaters[i]);
    free(load);
}

struct load_counters load_counters(const struct load *load)
{
    struct load_counters counters = load->counters;
    counters.locks_here = lease_counters(meta_leases(load->meta))->locks_here;
    return counters;
}
