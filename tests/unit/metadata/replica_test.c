/* Replicas in the simulator: nothing acknowledged is lost, all apply the same commands in the same
 * order, reads are linearizable, and after the weather clears everybody catches up. */
#include "tests/unit/cmocka.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/io_sim.h"
#include "common/log.h"
#include "common/rpc.h"
#include "meta.pb-c.h"
#include "metadata/replica.h"
#include "ops.h"
#include "test_fsm.h"
#include <stdio.h>

#define REPLICAS_MAX 5
#define CLIENTS 4 /* per replica */
#define ACKED_MAX 200000

struct cluster;
struct member {
    struct cluster *cluster;
    struct sim_host *host;
    uint32_t id;
    struct replica *replica; /* NULL while it is down */
    bool working;
    int start_err;
    const char *dir;
    struct fiber_queue until_stopped;
    struct fiber_group clients;
    unsigned next_client;
};
struct cluster {
    struct sim *sim;
    struct rpc_auth auth;
    unsigned n;
    struct member members[REPLICAS_MAX];
    const char *addresses[REPLICAS_MAX];
    char address_text[REPLICAS_MAX][32];
    bool quiet; /* clients pause */
    bool no_writes;
    uint64_t next_client_id;
    struct test_body acked[ACKED_MAX];
    size_t n_acked;
    uint64_t seen_count; /* what somebody has been told: no later read may tell less */
    uint64_t stale_reads, reads;
    uint64_t snapshot_entries;
};

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
                                      .n_servers = cluster->n,
                                      .addresses = cluster->addresses,
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

static void member_start(struct member *member, struct io *io)
{
    member->start_err = 0;
    member->clients = (struct fiber_group){0};
    member->until_stopped = (struct fiber_queue){0};
    assert_int_equal(fiber_spawn(io, "member", member_fiber, member), 0);
}

/* ------------------------------------------------------------------ the cluster */
static struct cluster *cluster_create(uint64_t seed, unsigned n, const struct sim_options *options)
{
    struct cluster *cluster = calloc(1, sizeof *cluster);
    test_history_reset();
    cluster->sim = sim_create(seed, options);
    cluster->n = n;
    cluster->auth = (struct rpc_auth){.cluster_id = 1, .name = "metad"};
    cluster->snapshot_entries = 300;
    for (unsigned i = 0; i < n; i++) {
        struct member *member = &cluster->members[i];
        char name[8];
        snprintf(name, sizeof name, "m%u", i + 1);
        snprintf(cluster->address_text[i], sizeof cluster->address_text[i], "tcp:m%u:7000", i + 1);
        cluster->addresses[i] = cluster->address_text[i];
        *member = (struct member){.cluster = cluster, .id = i + 1, .dir = "/meta"};
        member->host = sim_host_create(cluster->sim, name);
    }
    for (unsigned i = 0; i < n; i++)
        member_start(&cluster->members[i], sim_host_io(cluster->members[i].host));
    return cluster;
}

static void cluster_destroy(struct cluster *cluster)
{
    sim_destroy(cluster->sim);
    free(cluster);
}

static void run_ms(struct cluster *cluster, uint64_t ms)
{
    (void)sim_run(cluster->sim, ms, NULL, NULL);
}

static bool has_leader(void *arg)
{
    struct cluster *cluster = arg;
    for (unsigned i = 0; i < cluster->n; i++)
        if (cluster->members[i].working && replica_leads(cluster->members[i].replica))
            return true;
    return false;
}

static bool has_progress(void *arg)
{
    struct cluster *cluster = arg;
    return cluster->n_acked >= 200;
}

/* Everybody is up and has applied what anybody has. */
static bool all_equal(void *arg)
{
    struct cluster *cluster = arg;
    for (unsigned i = 0; i < cluster->n; i++) {
        struct member *member = &cluster->members[i];
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

static struct member *leader_of(struct cluster *cluster)
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

static void assert_nothing_lost(struct cluster *cluster)
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

static void assert_end(enum sim_end end, uint64_t seed, struct cluster *cluster)
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

static void settle(struct cluster *cluster, uint64_t seed)
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

/* ------------------------------------------------------------------ sentences */
static void one_replica_leads_itself_and_remembers(void **state)
{
    struct cluster *cluster = cluster_create(1, 1, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 1, cluster);
    for (unsigned round = 0; round < 6; round++) {
        struct member *member = &cluster->members[0];
        sim_host_crash(member->host, round % 2 == 0);
        member_start(member, sim_host_restart(member->host));
        run_ms(cluster, 1000);
    }
    settle(cluster, 1);
    assert_true(cluster->reads > 100);
    cluster_destroy(cluster);
}

static void three_replicas_agree_in_calm_weather(void **state)
{
    struct cluster *cluster = cluster_create(2, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 2, cluster);
    settle(cluster, 2);
    cluster_destroy(cluster);
}

static void the_leader_dies_and_another_goes_on(void **state)
{
    struct cluster *cluster = cluster_create(3, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 3, cluster);
    size_t before = cluster->n_acked;
    struct member *old = leader_of(cluster);
    sim_host_crash(old->host, true);
    run_ms(cluster, 20000);
    assert_true(cluster->n_acked > before);
    settle(cluster, 3);
    cluster_destroy(cluster);
}

static void a_replica_that_lags_pulls_a_snapshot(void **state)
{
    struct cluster *cluster = cluster_create(4, 3, NULL);
    cluster->snapshot_entries = 100;
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 4, cluster);
    struct member *lagging = leader_of(cluster) == &cluster->members[0] ? &cluster->members[1]
                                                                          : &cluster->members[0];
    sim_host_crash(lagging->host, true);
    uint64_t before = test_history_last();
    while (test_history_last() < before + 2000)
        run_ms(cluster, 1000);
    settle(cluster, 4);
    cluster_destroy(cluster);
}

static void an_isolated_leader_answers_nobody(void **state)
{
    struct cluster *cluster = cluster_create(5, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 5, cluster);
    struct member *old = leader_of(cluster);
    sim_isolate(old->host, true);
    run_ms(cluster, 10000);
    assert_false(replica_leads(old->replica));
    assert_non_null(leader_of(cluster));
    settle(cluster, 5);
    cluster_destroy(cluster);
}

/* The leader's lease rests on a follower that forgets everything in memory, then meets a candidate the
 * leader cannot see: the follower must not vote before the lease is over. */
static void a_restarted_follower_keeps_its_promise(void **state)
{
    const char *only = getenv("TARN_SIM_SEED");
    uint64_t first = only != NULL ? strtoull(only, NULL, 10) : 20;
    for (uint64_t seed = first; seed < (only != NULL ? first + 1 : 60); seed++) {
        struct cluster *cluster = cluster_create(seed, 3, NULL);
        assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), seed, cluster);
        struct member *leader = leader_of(cluster);
        struct member *voter = &cluster->members[leader->id % 3];
        struct member *candidate = &cluster->members[voter->id % 3];
        cluster->no_writes = true; /* or the candidate's log would be too old to be voted for */
        run_ms(cluster, 500);
        sim_partition(leader->host, candidate->host, true);
        run_ms(cluster, 5000);
        if (leader_of(cluster) == leader) {
            sim_host_crash(voter->host, false);
            sim_partition(leader->host, voter->host, true);
            member_start(voter, sim_host_restart(voter->host));
            cluster->no_writes = false;
            run_ms(cluster, 4000);
        }
        cluster->no_writes = false;
        settle(cluster, seed);
        cluster_destroy(cluster);
    }
}

/* R9. One replica is behind; another, which made the majority of what was committed meanwhile, loses its directory. The
 * two must not elect a leader without the third, who alone has it. */
static void a_replica_that_lost_its_directory_does_not_vote(void **state)
{
    for (uint64_t seed = 70; seed < 80; seed++) {
        struct cluster *cluster = cluster_create(seed, 3, NULL);
        assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), seed, cluster);
        struct member *leader = leader_of(cluster);
        struct member *loser = &cluster->members[leader->id % 3], *behind = &cluster->members[loser->id % 3];
        sim_isolate(behind->host, true);
        run_ms(cluster, 3000);
        sim_isolate(leader->host, true);
        sim_host_crash(loser->host, true);
        loser->dir = "/empty";
        sim_isolate(behind->host, false);
        sim_cut(behind->host, leader->host, true);
        sim_cut(leader->host, behind->host, true);
        member_start(loser, sim_host_restart(loser->host));
        run_ms(cluster, 15000);
        assert_null(leader_of(cluster));
        settle(cluster, seed);
        cluster_destroy(cluster);
    }
}

/* Where the leader has seen its longer log, too: libraft alone would never send it again (seed 104 of cluster_sim). */
static void a_replica_that_lost_its_directory_gets_the_log_again(void **state)
{
    for (uint64_t seed = 80; seed < 90; seed++) {
        struct cluster *cluster = cluster_create(seed, 3, NULL);
        assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), seed, cluster);
        struct member *loser = &cluster->members[leader_of(cluster)->id % 3];
        sim_host_crash(loser->host, false);
        loser->dir = "/empty";
        member_start(loser, sim_host_restart(loser->host));
        settle(cluster, seed);
        cluster_destroy(cluster);
    }
}

static void a_full_log_disk_stops_one_and_not_the_others(void **state)
{
    struct cluster *cluster = cluster_create(6, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 6, cluster);
    struct member *full = leader_of(cluster);
    sim_disk_limit(full->host, sim_disk_used(full->host));
    size_t before = cluster->n_acked;
    run_ms(cluster, 60000);
    assert_true(cluster->n_acked > before + 200);
    sim_disk_limit(full->host, GIB(1));
    settle(cluster, 6);
    cluster_destroy(cluster);
}

/* ------------------------------------------------------------------ storms */
static void disturb(struct cluster *cluster)
{
    struct sim *sim = cluster->sim;
    struct member *member = &cluster->members[sim_random_u64(sim) % cluster->n];
    switch (sim_random_u64(sim) % 6) {
    case 0:
    case 1:
        if (sim_host_up(member->host))
            sim_host_crash(member->host, sim_random_u64(sim) % 2 == 0);
        break;
    case 2:
    case 3:
        if (!sim_host_up(member->host))
            member_start(member, sim_host_restart(member->host));
        break;
    case 4:
        sim_isolate(member->host, sim_random_u64(sim) % 2 == 0);
        break;
    case 5:
        sim_partition(member->host, cluster->members[sim_random_u64(sim) % cluster->n].host,
                      sim_random_u64(sim) % 2 == 0);
        break;
    }
}

static void storm(uint64_t seed, unsigned n)
{
    struct sim_options weather = {.loss_ppm = seed % 3 == 0 ? 2000 : 0,
                                  .reset_ppm = seed % 3 == 1 ? 2000 : 0,
                                  .net_slow_ppm = seed % 2 == 0 ? 20000 : 0,
                                  .reset_after_ms = 3000,
                                  .clock_skew_ms = 5000};
    struct cluster *cluster = cluster_create(seed, n, &weather);
    cluster->snapshot_entries = 50 + seed % 5 * 100;
    for (unsigned round = 0; round < 40; round++) {
        run_ms(cluster, 100 + sim_random_u64(cluster->sim) % 2500);
        disturb(cluster);
    }
    for (unsigned i = 0; i < n; i++)
        for (unsigned j = 0; j < i; j++)
            sim_partition(cluster->members[i].host, cluster->members[j].host, false);
    settle(cluster, seed);
    cluster_destroy(cluster);
}

static unsigned seeds(unsigned standard)
{
    const char *text = getenv("TARN_SIM_SEEDS");
    return text != NULL ? (unsigned)atoi(text) : standard;
}

static void three_replicas_survive_storms(void **state)
{
    const char *only = getenv("TARN_SIM_SEED");
    for (uint64_t seed = 100; seed < 100 + seeds(15) && only == NULL; seed++)
        storm(seed, 3);
    if (only != NULL)
        storm(strtoull(only, NULL, 10), 3);
}

static void five_replicas_survive_storms(void **state)
{
    for (uint64_t seed = 1000; seed < 1000 + seeds(15) / 3; seed++)
        storm(seed, 5);
}

int main(void)
{
    log_set_level(getenv("TARN_LOG") != NULL ? LOG_INFO : LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_replica_leads_itself_and_remembers),
        cmocka_unit_test(three_replicas_agree_in_calm_weather),
        cmocka_unit_test(the_leader_dies_and_another_goes_on),
        cmocka_unit_test(a_replica_that_lags_pulls_a_snapshot),
        cmocka_unit_test(an_isolated_leader_answers_nobody),
        cmocka_unit_test(a_restarted_follower_keeps_its_promise),
        cmocka_unit_test(a_replica_that_lost_its_directory_does_not_vote),
        cmocka_unit_test(a_replica_that_lost_its_directory_gets_the_log_again),
        cmocka_unit_test(a_full_log_disk_stops_one_and_not_the_others),
        cmocka_unit_test(three_replicas_survive_storms),
        cmocka_unit_test(five_replicas_survive_storms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
