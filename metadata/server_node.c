/* Storage nodes as the leader hears them: beats, tasks for them, who is up, background work. */
#include "server_impl.h"
#include "placement.h"
#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"

#define NODES_MAX 65536
#define FILL_STEPS 128
#define NODE_DAMAGED_MAX 1024 /* in one beat */
#define NODE_QUEUE_STEP 8 /* a change of the queue that placement is told of */

static struct live_node *node_get(struct server *server, uint32_t id)
{
    struct live_node *node = map_get(&server->nodes, id);
    if (node != NULL || server->nodes.count >= NODES_MAX)
        return node;
    node = calloc(1, sizeof *node);
    if (node == NULL)
        return NULL;
    node->id = id;
    node->heard_ms = io_mono_ms(server->io);
    if (map_put(&server->nodes, id, node) == 0)
        return node;
    free(node);
    return NULL;
}

void server_nodes_forget(struct server *server)
{
    size_t at = 0;
    uint64_t id;
    void *node;
    while (map_next(&server->nodes, &at, &id, &node)) {
        map_remove(&server->nodes, id);
        free(node);
    }
    server->nodes_stale = true;
}

/* ------------------------------------------------------------------ disks, as one number */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The order does not matter, and a disk that is down counts like one that is not there. */
static uint64_t disks_up(Tarn__Disk *const *disks, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += disks[i]->up ? mix(disks[i]->id) : 0;
    return sum;
}

/* Changes when one of them fills or empties by a hundredth or so, and when placement begins or ends to use it. */
static uint64_t disks_fill(Tarn__Disk *const *disks, size_t n)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        const Tarn__Disk *disk = disks[i];
        struct placement_disk place = {.total = disk->total, .free = disk->free, .up = true};
        uint64_t step = disk->free / (disk->total / FILL_STEPS + 1);
        sum += mix((uint64_t)disk->id << 32 | step << 1 | placement_usable(&place));
    }
    return sum;
}

/* ------------------------------------------------------------------ what the tables say */
static int nodes_take(struct server *server, const Tarn__NodeListReply *list)
{
    for (size_t i = 0; i < list->n_nodes; i++) {
        const Tarn__Node *from = list->nodes[i];
        struct live_node *node = node_get(server, from->id);
        if (node == NULL)
            return -E_NOMEM;
        node->known = true;
        node->up = from->up;
        node->epoch = from->epoch;
        node->total = from->total;
        node->free = from->free;
        node->chunks = from->chunks;
        node->disks_up = disks_up(from->disks, from->n_disks);
        server->racks_wanted |= !from->rack_known;
    }
    return 0;
}

int server_nodes_refresh(struct server *server)
{
    if (!server->nodes_stale)
        return 0;
    struct kv_txn *txn;
    int err = replica_read(server->replica, &txn);
    if (err != 0)
        return err;
    server->nodes_stale = false;
    struct fsm_result result = {0};
    err = fsm_query(txn, OP_NODE_LIST, NULL, 0, &result);
    kv_abort(txn);
    if (err == 0)
        err = result.err;
    Tarn__NodeListReply *list =
        err == 0 ? tarn__node_list_reply__unpack(NULL, result.reply_len, result.reply) : NULL;
    if (err == 0)
        err = list != NULL ? nodes_take(server, list) : -E_CORRUPT;
    if (list != NULL)
        tarn__node_list_reply__free_unpacked(list, NULL);
    fsm_result_fini(&result);
    server->nodes_stale = server->nodes_stale || err != 0;
    return err;
}

/* `beat` NULL: nothing new is known of its disks. */
static int node_set(struct server *server, const struct live_node *node, bool up, bool fill_only,
                    const Tarn__NodeBeat *beat)
{
    Tarn__NodeSet set = TARN__NODE_SET__INIT;
    set.node = node->id;
    set.up = up;
    set.total = node->total;
    set.free = node->free;
    set.chunks = node->chunks;
    set.fill_only = fill_only;
    set.queue = node->queue;
    set.disks = beat != NULL ? beat->disks : NULL;
    set.n_disks = beat != NULL ? beat->n_disks : 0;
    return server_propose(server, OP_NODE_SET, &set.base);
}

/* ------------------------------------------------------------------ beats */
static bool fill_differs(const struct live_node *node, const Tarn__NodeBeat *beat)
{
    uint64_t change = beat->free > node->free ? beat->free - node->free : node->free - beat->free;
    uint32_t queue = beat->queue > node->queue ? beat->queue - node->queue : node->queue - beat->queue;
    if (beat->n_disks > 0 && disks_fill(beat->disks, beat->n_disks) != node->disks_fill)
        return true;
    return beat->total != node->total || change > node->total / 100 || queue >= NODE_QUEUE_STEP;
}

static int beat_record(struct server *server, struct live_node *node, const Tarn__NodeBeat *beat)
{
    uint64_t now = io_mono_ms(server->io);
    node->last_total = beat->total;
    node->last_free = beat->free;
    node->last_chunks = beat->chunks;
    bool rise = !node->up;
    bool fill = fill_differs(node, beat) &&
                (node->filled_ms == 0 || now - node->filled_ms >= NODE_FILL_PAUSE_MS);
    bool turned = beat->n_disks > 0 && disks_up(beat->disks, beat->n_disks) != node->disks_up;
    if (!rise && !fill && !turned)
        return 0;
    if (turned && !rise)
        log_info("node %u: disks have come or gone", node->id);
    node->filled_ms = now;
    node->total = beat->total;
    node->free = beat->free;
    node->chunks = beat->chunks;
    node->queue = beat->queue;
    node->disks_up = beat->n_disks > 0 ? disks_up(beat->disks, beat->n_disks) : node->disks_up;
    node->disks_fill = disks_fill(beat->disks, beat->n_disks);
    if (rise)
        log_info("node %u is up", node->id);
    return node_set(server, node, true, !rise, beat);
}

static int beat_done(struct server *server, const Tarn__NodeBeat *beat)
{
    if (beat->n_done == 0 && beat->n_damaged == 0)
        return 0;
    if (beat->n_damaged > NODE_DAMAGED_MAX)
        return -E_INVAL;
    Tarn__ChunkTasksDone done = TARN__CHUNK_TASKS_DONE__INIT;
    done.node = beat->node;
    done.n_done = beat->n_done;
    done.done = beat->done;
    done.n_damaged = beat->n_damaged;
    done.damaged = beat->damaged;
    return server_propose(server, OP_CHUNK_TASKS_DONE, &done.base);
}

/* What there is to say to a node, at one moment. */
struct news {
    uint8_t *tasks; /* packed NodeBeatReply */
    size_t len;
    uint32_t crc; /* 0 = no tasks */
    struct fence_news fences;
};

static void news_fini(struct news *news)
{
    free(news->tasks);
    fence_news_fini(&news->fences);
}

static int news_read(struct server *server, const Tarn__NodeBeat *beat, struct news *ret)
{
    struct kv_txn *txn;
    int err = replica_read(server->replica, &txn);
    if (err != 0)
        return err;
    err = fsm_node_tasks(txn, beat->node, NODE_TASKS_MAX, &ret->tasks, &ret->len);
    if (err == 0)
        err = fence_read_txn(txn, beat->fence_applied, beat->want_sessions, &ret->fences);
    kv_abort(txn);
    ret->crc = err != 0 || ret->len == 0 ? 0 : crc32c(0, ret->tasks, ret->len);
    return err;
}

/* The store keeps its way to the service when all whom its configuration names have been replaced. */
static void tell_replicas(const struct replica_status *status, Tarn__NodeBeatReply *reply, char **list)
{
    for (unsigned i = 0; i < status->n_servers; i++)
        list[i] = (char *)(uintptr_t)status->servers[i].address;
    reply->meta = list;
    reply->n_meta = status->n_servers;
}

static int news_reply(struct server *server, struct rpc_request *request, const struct news *news)
{
    Tarn__NodeBeatReply *reply = tarn__node_beat_reply__unpack(NULL, news->len, news->tasks);
    if (reply == NULL)
        return -E_CORRUPT;
    reply->interval_ms = NODE_BEAT_MS;
    struct replica_status status;
    char *replicas[REPLICA_SERVERS_MAX];
    replica_status(server->replica, &status);
    tell_replicas(&status, reply, replicas);
    int err = server_fence_answer(server, &news->fences, reply);
    if (err == 0)
        err = rpc_reply(request, &reply->base);
    reply->meta = NULL; /* borrowed */
    reply->n_meta = 0;
    tarn__node_beat_reply__free_unpacked(reply, NULL);
    return err;
}

/* Answers at once when there are fences the node does not know or its tasks are not those it was given last, else when
 * something changes or after one interval: both are prompt, and a node at work does not ask in a circle. */
static int beat_answer(struct server *server, struct rpc_request *request, const Tarn__NodeBeat *beat)
{
    uint64_t until = io_mono_ms(server->io) + NODE_BEAT_MS;
    for (;;) {
        _cleanup_(news_fini) struct news news = {0};
        int err = news_read(server, beat, &news);
        if (err != 0)
            return err;
        struct live_node *node = node_get(server, beat->node);
        if (node == NULL)
            return -E_NOMEM;
        uint64_t now = io_mono_ms(server->io);
        if (beat->no_wait || server_fence_news(server, beat, &news.fences) || (news.len > 0 && news.crc != node->given_crc) ||
            now >= until || server->stopping) {
            node->given_crc = news.crc;
            return news_reply(server, request, &news);
        }
        err = fiber_queue_wait(&server->tasks_wake, until - now);
        if (err == -E_CANCELED)
            return err;
    }
}

static int beat(struct server *server, struct rpc_request *request, const Tarn__NodeBeat *message)
{
    if (!replica_leads(server->replica))
        return -E_NOT_LEADER;
    int err = server_nodes_refresh(server);
    if (err != 0)
        return err;
    struct live_node *node = map_get(&server->nodes, message->node);
    if (node == NULL || !node->known)
        return rpc_reply_error(request, -E_NOENT, NULL, "this node has not joined");
    if (message->epoch < node->epoch)
        return rpc_reply_error(request, -E_STALE, NULL, "this node has joined again since");
    node->heard_ms = io_mono_ms(server->io);
    server_fence_heard(server, node, message);
    err = beat_record(server, node, message);
    if (err == 0)
        err = beat_done(server, message);
    return err != 0 ? err : beat_answer(server, request, message);
}

int server_handle_beat(void *ctx, struct rpc_request *request, const void *message)
{
    struct server *server = ctx;
    int err = beat(server, request, message);
    if (err == -E_NOT_LEADER && !request->replied)
        return rpc_reply_error(request, err, replica_leader_address(server->replica), "");
    return err;
}

/* ------------------------------------------------------------------ background */
static int nodes_check(struct server *server)
{
    int err = server_nodes_refresh(server);
    uint32_t silent[64];
    unsigned n = 0;
    size_t at = 0;
    uint64_t id, now = io_mono_ms(server->io);
    void *value;
    while (err == 0 && n < ARRAY_SIZE(silent) && map_next(&server->nodes, &at, &id, &value)) {
        const struct live_node *node = value;
        if (node->known && node->up && now - node->heard_ms > NODE_SILENT_MS)
            silent[n++] = node->id;
    }
    for (unsigned i = 0; err == 0 && i < n; i++) {
        const struct live_node *node = map_get(&server->nodes, silent[i]);
        if (node == NULL)
            continue;
        log_warn("node %u has fallen silent: it counts as down", node->id);
        err = node_set(server, node, false, false, NULL);
    }
    return err;
}

void node_fiber(void *arg)
{
    struct server *server = arg;
    while (server_pause(server, NODE_BEAT_MS / 2) != -E_CANCELED) {
        int err = replica_leads(server->replica) ? nodes_check(server) : 0;
        if (err != 0 && err != -E_NOT_LEADER && err != -E_CONN && err != -E_CANCELED &&
            err != -E_UNAVAIL)
            log_warn("cannot check the nodes: %s", err_sentence(err));
    }
    fiber_group_done(&server->fibers);
}

static int work_due(struct server *server, bool *ret_due)
{
    struct kv_txn *txn;
    *ret_due = false;
    int err = replica_read(server->replica, &txn);
    if (err != 0)
        return err;
    err = fsm_work_due(txn, io_real_ns(server->io), ret_due);
    kv_abort(txn);
    return err;
}

/* One bounded step at a time, as long as more is due. */
static int work(struct server *server)
{
    bool due = true;
    int err = 0;
    while (err == 0 && due && !server->stopping) {
        err = work_due(server, &due);
        Tarn__ChunkTasksDone done = TARN__CHUNK_TASKS_DONE__INIT;
        if (err == 0 && due)
            err = server_propose(server, OP_CHUNK_TASKS_DONE, &done.base);
    }
    return err;
}

void work_fiber(void *arg)
{
    struct server *server = arg;
    while (server_pause(server, WORK_CHECK_MS) != -E_CANCELED) {
        int err = replica_leads(server->replica) ? work(server) : 0;
        if (err != 0 && err != -E_NOT_LEADER && err != -E_CONN && err != -E_CANCELED &&
            err != -E_UNAVAIL)
            log_warn("cannot do background work: %s", err_sentence(err));
    }
    fiber_group_done(&server->fibers);
}
