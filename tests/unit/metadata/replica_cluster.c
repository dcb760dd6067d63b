/* See replica_cluster.h. */
#include "replica_cluster.h"

/* ------------------------------------------------------------------ a member */
static int handle_raft(void *ctx, struct rpc_request *request, const void *message)
{
    struct member *member = ctx;
    return replica_handle_raft(member->replica, request, message);
}

static int handle_pull(void *ctx, struct rpc_request *request, const void *message)
{
    struct member *member = ctx;
    return replica_handle_snapshot_pull(member->replica, request, message);
}

static const struct rpc_op ops[] = {
    {OP_RAFT, "raft", &tarn__raft_message__descriptor, handle_raft},
    {OP_SNAPSHOT_PULL, "pull", &tarn__snapshot_pull__descriptor, handle_pull},
};

static bool told(struct cluster *cluster, uint64_t floor, uint64_t count)
{
    cluster->seen_count = MAX(cluster->seen_count, count);
    return count >= floor;
}

static void client_write(struct member *member, struct test_body *body)
{
    struct cluster *cluster = member->cluster;
    struct fsm_result result = {0};
    uint64_t floor = cluster->seen_count;
    body->seq++;
    int err = replica_propose(member->replica, TEST_OP, (const uint8_t *)body, sizeof *body, &result);
    if (err == 0) {
        uint64_t count;
        assert_int_equal(result.reply_len, sizeof count);
        memcpy(&count, result.reply, sizeof count);
        cluster->stale_reads += !told(cluster, floor + 1, count);
        assert_true(cluster->n_acked < ACKED_MAX);
        cluster->acked[cluster->n_acked++] = *body;
    }
    cluster->refused_full += err == -E_NOSPC;
    fsm_result_fini(&result);
}

static void client_read(struct member *member)
{
    struct cluster *cluster = member->cluster;
    struct kv_txn *txn;
    uint64_t floor = cluster->seen_count;
    if (replica_read(member->replica, &txn) != 0)
        return;
    cluster->stale_reads += !told(cluster, floor, test_count(txn));
    cluster->reads++;
    kv_abort(txn);
}

static void client_fiber(void *arg)
{
    struct member *member = arg;
    struct cluster *cluster = member->cluster;
    struct io *io = fiber_io();
    struct test_body body = {.client = ++cluster->next_client_id};
    while (!io_stopping(io) && member->working) {
        /* Some only read: a writer waits for ever where there is no majority. */
        if (!cluster->quiet && replica_leads(member->replica)) {
            if (body.client % 2 == 0 && !cluster->no_writes)
                client_write(member, &body);
            client_read(member);
        }
        if (io_sleep_ms(io, 1 + io_random_u64(io) % 20) != 0)
            break;
    }
    fiber_group_done(&member->clients);
}

static void member_ended(void *arg, int err)
{
    struct member *member = arg;
    member->end_err = err;
}

static int member_serve(struct member *member, struct io *io, struct rpc_service *service,
                        struct rpc_server **ret)
{
    struct cluster *cluster = member->cluster;
    struct io_listener *listener;
    int err = io_listen(io, cluster->addresses[member->id - 1], &listener);
    if (err != 0)
        return err;
    struct replica_options options = {.dir = member->dir,
                                      .id = member->id,
                                      .n_servers = member->join ? 0 : cluster->n_first,
                                      .addresses = cluster->addresses,
                                      .join = member->join,
                                      .address = cluster->addresses[member->id - 1],
                                      .on_end = member_ended,
                                      .arg = member,
                                      .auth = &cluster->auth,
                                      .memory_tables = true,
                                      .snapshot_entries = cluster->snapshot_entries,
                                      .trailing_entries = cluster->snapshot_entries / 3,
                                      .segment_bytes = KIB(64)};
    err = replica_start(io, &options, &member->replica);
    if (err == 0)
        err = rpc_server_start(io, listener, &cluster->auth, service, ret);
    else
        io_listener_close(listener);
    return err;
}

static void member_fiber(void *arg)
{
    struct member *member = arg;
    struct io *io = fiber_io();
    struct rpc_service service = {.ops = ops, .n_ops = ARRAY_SIZE(ops), .ctx = member};
    struct rpc_server *server = NULL;
    int err = member_serve(member, io, &service, &server);
    member->start_err = err;
    member->working = err == 0;
    for (unsigned i = 0; err == 0 && i < CLIENTS; i++) {
        fiber_group_add(&member->clients);
        if (fiber_spawn(io, "client", client_fiber, member) != 0)
            fiber_group_done(&member->clients);
    }
    while (err == 0)
        err = fiber_queue_wait(&member->until_stopped, 0);
    member->working = false;
    if (member->replica != NULL)
        replica_quiesce(member->replica);
    fiber_group_wait(&member->clients);
    if (server != NULL)
        rpc_server_stop(server);
    replica_stop(member->replica);
    member->replica = NULL;
}

void member_start(struct member *member, struct io *io)
{
    member->start_err = member->end_err = 0;
    member->clients = (struct fiber_group){0};
    member->until_stopped = (struct fiber_queue){0};
    assert_int_equal(fiber_spawn(io, "member", member_fiber, member), 0);
}

/* ------------------------------------------------------------------ the cluster */
struct member *cluster_host(struct cluster *cluster)
{
    unsigned i = cluster->n++;
    assert_true(i < REPLICAS_MAX);
    struct member *member = &cluster->members[i];
    char name[8];
    snprintf(name, sizeof name, "m%u", i + 1);
    snprintf(cluster->address_text[i], sizeof cluster->address_text[i], "tcp:m%u:7000", i + 1);
    cluster->addresses[i] = cluster->address_text[i];
    *member = (struct member){.cluster = cluster, .id = i + 1, .dir = "/meta"};
    member->host = sim_host_create(cluster->sim, name);
    return member;
}

struct cluster *cluster_create(uint64_t seed, unsigned n, const struct sim_options *options)
{
    struct cluster *cluster = calloc(1, sizeof *cluster);
    test_history_reset();
    cluster->sim = sim_create(seed, options);
    cluster->n_first = n;
    cluster->auth = (struct rpc_auth){.cluster_id = 1, .name = "metad"};
    cluster->snapshot_entries = 300;
    for (unsigned i = 0; i < n; i++)
        (void)cluster_host(cluster);
    for (unsigned i = 0; i < n; i++)
        member_start(&cluster->members[i], sim_host_io(cluster->members[i].host));
    return cluster;
}

void cluster_destroy(struct cluster *cluster)
{
    sim_destroy(cluster->sim);
    free(cluster);
}

void run_ms(struct cluster *cluster, uint64_t ms)
{
    (void)sim_run(cluster->sim, ms, NULL, NULL);
}

bool has_leader(void *arg)
{
    struct cluster *cluster = arg;
    for (unsigned i = 0; i < cluster->n; i++)
        if (cluster->members[i].working && replica_leads(cluster->members[i].replica))
            return true;
    return false;
}

bool has_progress(void *arg)
{
    struct cluster *cluster = arg;
    return cluster->n_acked >= 200;
}

/* Everybody is up and has applied what anybody has. */
bool all_equal(void *arg)
{
    struct cluster *cluster = arg;
    for (unsigned i = 0; i < cluster->n; i++) {
        struct member *member = &cluster->members[i];
        if (member->start_err == -E_PERM || member->end_err == -E_PERM)
            continue; /* removed */
        if (!member->working || replica_applied(member->replica) < test_history_last())
            return false;
    }
    return has_leader(cluster);
}

struct look {
    struct member *member;
    size_t missing;
    uint64_t count;
    bool done;
};

struct member *leader_of(struct cluster *cluster)
{
    for (unsigned i = 0; i < cluster->n; i++)
        if (cluster->members[i].working && replica_leads(cluster->members[i].replica))
            return &cluster->members[i];
    return NULL;
}

static void look_fiber(void *arg)
{
    struct look *look = arg;
    struct cluster *cluster = look->member->cluster;
    struct kv_txn *txn;
    int err = replica_read(look->member->replica, &txn);
    for (size_t i = 0; err == 0 && i < cluster->n_acked; i++)
        look->missing += !test_has(txn, cluster->acked[i].client, cluster->acked[i].seq);
    if (err == 0) {
        look->count = test_count(txn);
        kv_abort(txn);
        look->done = true;
    }
}

static bool looked(void *arg)
{
    return ((struct look *)arg)->done;
}

void assert_nothing_lost(struct cluster *cluster)
{
    assert_int_equal(test_history_conflicts(), 0);
    assert_int_equal(cluster->stale_reads, 0);
    struct look look = {.member = leader_of(cluster)};
    assert_non_null(look.member);
    assert_int_equal(fiber_spawn(sim_host_io(look.member->host), "look", look_fiber, &look), 0);
    assert_int_equal(sim_run(cluster->sim, 10000, looked, &look), SIM_DONE);
    assert_int_equal(look.missing, 0);
    assert_true(look.count >= cluster->n_acked);
}

void assert_end(enum sim_end end, uint64_t seed, struct cluster *cluster)
{
    if (end == SIM_DONE)
        return;
    fprintf(stderr, "seed %llu: no progress; last %llu\n", (unsigned long long)seed,
            (unsigned long long)test_history_last());
    for (unsigned i = 0; i < cluster->n; i++) {
        struct member *m = &cluster->members[i];
        fprintf(stderr, "  m%u working %d start %d applied %llu leads %d term %llu\n", i + 1,
                m->working, m->start_err,
                m->working ? (unsigned long long)replica_applied(m->replica) : 0,
                m->working && replica_leads(m->replica),
                m->working ? (unsigned long long)replica_term(m->replica) : 0);
    }
    fail();
}

void settle(struct cluster *cluster, uint64_t seed)
{
    static const struct sim_options calm = {0};
    sim_set_options(cluster->sim, &calm);
    for (unsigned i = 0; i < cluster->n; i++) {
        struct member *member = &cluster->members[i];
        sim_isolate(member->host, false);
        sim_disk_fail(member->host, 0, 0, 0);
        if (!sim_host_up(member->host))
            member_start(member, sim_host_restart(member->host));
    }
    assert_end(sim_run(cluster->sim, 60000, has_leader, cluster), seed, cluster);
    cluster->quiet = true;
    assert_end(sim_run(cluster->sim, 120000, all_equal, cluster), seed, cluster);
    assert_nothing_lost(cluster);
}

