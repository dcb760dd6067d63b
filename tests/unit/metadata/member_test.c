/* Who takes part changes while the service serves: nothing acknowledged is lost, whoever crashes in between. */
#include "replica_cluster.h"
#include "metadata/raft_types.h"

enum verb { ADD, REMOVE, MOVE, TRANSFER, SNAPSHOT };

/* An operator: asks whoever leads until the answer is final. Lives outside the hosts. */
struct order {
    struct cluster *cluster;
    struct member *asked;
    enum verb verb;
    uint32_t id;
    const char *address;
    unsigned tries;
    bool done;
    int err;
    char detail[REPLICA_DETAIL];
    uint64_t number;
};

static void ask_fiber(void *arg)
{
    struct order *order = arg;
    struct replica *replica = order->asked->replica;
    struct replica_server server = {.id = order->id};
    uint64_t bytes, reach = 0;
    if (order->address != NULL)
        snprintf(server.address, sizeof server.address, "%s", order->address);
    int err;
    switch (order->verb) {
    case ADD:
        err = replica_member_add(replica, &server, order->detail);
        break;
    case REMOVE:
        err = replica_member_remove(replica, order->id, order->detail);
        break;
    case MOVE:
        err = replica_member_move(replica, order->id, order->address, order->detail);
        break;
    case TRANSFER:
        err = replica_transfer(replica, order->id, order->detail);
        break;
    default:
        err = replica_snapshot_now(replica, &reach, &order->number, &bytes);
    }
    order->err = err;
    order->done = true;
}

static bool ordered(void *arg)
{
    return ((struct order *)arg)->done;
}

/* One try at whoever leads now; false when there is nobody. */
static bool order_once(struct order *order)
{
    order->asked = leader_of(order->cluster);
    if (order->asked == NULL)
        return false;
    order->done = false;
    order->detail[0] = '\0';
    assert_int_equal(fiber_spawn(sim_host_io(order->asked->host), "order", ask_fiber, order), 0);
    return sim_run(order->cluster->sim, 30000, ordered, order) == SIM_DONE;
}

static void explain(const struct order *order)
{
    fprintf(stderr, "order %d of %u: done %d, error %d, %s\n", order->verb, order->id, order->done, order->err, order->detail);
    for (unsigned i = 0; i < order->cluster->n; i++) {
        const struct member *member = &order->cluster->members[i];
        struct replica_status status = {.state = "down"};
        if (member->working)
            replica_status(member->replica, &status);
        fprintf(stderr, "  m%u %s term %llu log %llu-%llu commit %llu applied %llu snapshot %llu conf %llu of %u; %s %s\n", member->id,
                status.state, (unsigned long long)status.term, (unsigned long long)status.first, (unsigned long long)status.last,
                (unsigned long long)status.commit, (unsigned long long)status.applied, (unsigned long long)status.snapshot_index,
                (unsigned long long)status.conf_index, status.n_servers, status.change, status.trouble);
    }
}

static int order_until(struct cluster *cluster, enum verb verb, uint32_t id, const char *address)
{
    struct order order = {.cluster = cluster, .verb = verb, .id = id, .address = address};
    for (unsigned tries = 0; tries < 60; tries++) {
        if (!order_once(&order))
            run_ms(cluster, 500);
        else if (order.err == -E_NOT_LEADER || order.err == -E_CONN || order.err == -E_BUSY || order.err == -E_TIMEOUT ||
                 order.err == -E_CANCELED || order.err == -E_UNAVAIL)
            run_ms(cluster, 500);
        else
            break;
    }
    if (!order.done || order.err != 0)
        explain(&order);
    return order.done ? order.err : -E_TIMEOUT;
}

/* All who are to be voters are, as everybody of them sees it. */
struct expected {
    struct cluster *cluster;
    uint32_t ids[REPLICAS_MAX];
    unsigned n;
};

static bool sees(const struct member *member, const struct expected *expected)
{
    struct replica_status status;
    if (!member->working)
        return false;
    replica_status(member->replica, &status);
    if (status.n_servers != expected->n)
        return false;
    for (unsigned i = 0; i < expected->n; i++) {
        bool found = false;
        for (unsigned j = 0; j < status.n_servers; j++)
            found |= status.servers[j].id == expected->ids[i] && status.servers[j].voter;
        if (!found)
            return false;
    }
    return true;
}

static bool all_see(void *arg)
{
    const struct expected *expected = arg;
    for (unsigned i = 0; i < expected->n; i++)
        if (!sees(&expected->cluster->members[expected->ids[i] - 1], expected))
            return false;
    return true;
}

static void expect_voters(struct cluster *cluster, unsigned n, const uint32_t *ids)
{
    struct expected expected = {.cluster = cluster, .n = n};
    memcpy(expected.ids, ids, n * sizeof *ids);
    if (sim_run(cluster->sim, 60000, all_see, &expected) == SIM_DONE)
        return;
    assert_end(SIM_TIME, 0, cluster);
}
#define EXPECT_VOTERS(cluster, ...)                                                                                       \
    expect_voters(cluster, sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t), (uint32_t[]){__VA_ARGS__})

static struct member *join(struct cluster *cluster)
{
    struct member *member = cluster_host(cluster);
    member->join = true;
    member_start(member, sim_host_io(member->host));
    run_ms(cluster, 200);
    return member;
}

static int add(struct cluster *cluster, const struct member *member)
{
    return order_until(cluster, ADD, member->id, cluster->addresses[member->id - 1]);
}

/* ------------------------------------------------------------------ sentences */
/* libraft decodes configurations without an end: what comes from a peer is looked at first. */
static void no_part_and_no_damage_of_a_configuration_passes(void **state)
{
    uint8_t whole[64] = {1, 2};
    const uint8_t first[] = {1, 0, 0, 0, 0, 0, 0, 0, 't', 'c', 'p', ':', 'a', ':', '1', 0, 1};
    const uint8_t second[] = {7, 0, 0, 0, 0, 0, 0, 0, 't', 'c', 'p', ':', 'b', ':', '1', 0, 0};
    memcpy(whole + 9, first, sizeof first);
    memcpy(whole + 9 + sizeof first, second, sizeof second);
    size_t end = 9 + sizeof first + sizeof second, padded = (end + 7) / 8 * 8;
    assert_true(raft_configuration_valid(whole, padded));
    for (size_t n = 0; n < end; n++)
        assert_false(raft_configuration_valid(whole, n));
    assert_false(raft_configuration_valid(whole, padded + 8));
    const size_t at[] = {0, 1, 2, 9 + sizeof first - 1, end - 1};
    for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
        uint8_t damaged[sizeof whole];
        memcpy(damaged, whole, sizeof whole);
        damaged[at[i]] = 0xee;
        assert_false(raft_configuration_valid(damaged, padded));
    }
}

static void one_becomes_three_becomes_five_and_back(void **state)
{
    struct cluster *cluster = cluster_create(1, 1, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 1, cluster);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(add(cluster, join(cluster)), 0), run_ms(cluster, 3000);
    EXPECT_VOTERS(cluster, 1, 2, 3, 4, 5);
    size_t before = cluster->n_acked;
    run_ms(cluster, 2000);
    assert_true(cluster->n_acked > before);
    for (uint32_t id = 1; id <= 4; id++) /* the leader among them */
        assert_int_equal(order_until(cluster, REMOVE, id, NULL), 0);
    EXPECT_VOTERS(cluster, 5);
    before = cluster->n_acked;
    run_ms(cluster, 5000);
    assert_true(cluster->n_acked > before);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(cluster->members[i].end_err, -E_PERM); /* they know it */
    settle(cluster, 1);
    cluster_destroy(cluster);
}

static void a_removed_replica_does_not_start_again(void **state)
{
    struct cluster *cluster = cluster_create(2, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 2, cluster);
    struct member *gone = &cluster->members[leader_of(cluster)->id % 3];
    assert_int_equal(order_until(cluster, REMOVE, gone->id, NULL), 0);
    run_ms(cluster, 10000);
    assert_int_equal(gone->end_err, -E_PERM);
    sim_host_crash(gone->host, true);
    member_start(gone, sim_host_restart(gone->host));
    run_ms(cluster, 1000);
    assert_int_equal(gone->start_err, -E_PERM);
    settle(cluster, 2);
    cluster_destroy(cluster);
}

/* Removed while it was away: it is told when it comes back and asks. */
static void one_removed_in_its_absence_is_told_later(void **state)
{
    struct cluster *cluster = cluster_create(3, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 3, cluster);
    struct member *gone = &cluster->members[leader_of(cluster)->id % 3];
    sim_host_crash(gone->host, true);
    assert_int_equal(order_until(cluster, REMOVE, gone->id, NULL), 0);
    member_start(gone, sim_host_restart(gone->host));
    run_ms(cluster, 20000);
    assert_int_equal(gone->end_err, -E_PERM);
    settle(cluster, 3);
    cluster_destroy(cluster);
}

static void a_dead_replica_is_replaced(void **state)
{
    for (uint64_t seed = 10; seed < 20; seed++) {
        struct cluster *cluster = cluster_create(seed, 3, NULL);
        assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), seed, cluster);
        struct member *dead = &cluster->members[seed % 3];
        sim_host_crash(dead->host, true);
        struct member *new = join(cluster);
        assert_int_equal(add(cluster, new), 0);
        run_ms(cluster, 5000);
        assert_int_equal(order_until(cluster, REMOVE, dead->id, NULL), 0);
        uint32_t stay[3], n = 0;
        for (uint32_t id = 1; id <= 4; id++)
            if (id != dead->id)
                stay[n++] = id;
        expect_voters(cluster, 3, stay);
        /* The new one counts: without another of the old ones the service goes on. */
        struct member *second = &cluster->members[(seed + 1) % 3];
        sim_host_crash(second->host, true);
        size_t before = cluster->n_acked;
        run_ms(cluster, 20000);
        assert_true(cluster->n_acked > before);
        settle(cluster, seed);
        cluster_destroy(cluster);
    }
}

static void one_that_waits_never_votes_nor_leads(void **state)
{
    struct cluster *cluster = cluster_create(4, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 4, cluster);
    struct member *new = join(cluster);
    struct member *leader = leader_of(cluster);
    sim_host_crash(leader->host, true);
    sim_host_crash(cluster->members[leader->id % 3].host, true);
    run_ms(cluster, 20000);
    struct replica_status status;
    replica_status(new->replica, &status);
    assert_string_equal(status.state, "waiting");
    assert_null(leader_of(cluster));
    for (unsigned i = 0; i < 3; i++)
        if (!sim_host_up(cluster->members[i].host))
            member_start(&cluster->members[i], sim_host_restart(cluster->members[i].host));
    assert_int_equal(add(cluster, new), 0);
    EXPECT_VOTERS(cluster, 1, 2, 3, 4);
    settle(cluster, 4);
    cluster_destroy(cluster);
}

/* R9 with a change in between: the directory that is lost is that of one that joined. */
static void one_that_joined_and_lost_its_directory_does_not_vote_at_once(void **state)
{
    for (uint64_t seed = 30; seed < 40; seed++) {
        struct cluster *cluster = cluster_create(seed, 1, NULL);
        assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), seed, cluster);
        assert_int_equal(add(cluster, join(cluster)), 0);
        run_ms(cluster, 3000);
        assert_int_equal(add(cluster, join(cluster)), 0);
        EXPECT_VOTERS(cluster, 1, 2, 3);
        struct member *leader = leader_of(cluster), *loser = &cluster->members[leader->id % 3],
                      *behind = &cluster->members[loser->id % 3];
        sim_isolate(behind->host, true);
        run_ms(cluster, 3000);
        sim_host_crash(leader->host, true);
        sim_host_crash(loser->host, true);
        loser->dir = "/empty";
        loser->join = true;
        sim_isolate(behind->host, false);
        member_start(loser, sim_host_restart(loser->host));
        run_ms(cluster, 15000);
        assert_null(leader_of(cluster));
        member_start(leader, sim_host_restart(leader->host));
        settle(cluster, seed);
        cluster_destroy(cluster);
    }
}

static void refusals_say_why(void **state)
{
    struct cluster *cluster = cluster_create(5, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 5, cluster);
    struct member *leader = leader_of(cluster), *other = &cluster->members[leader->id % 3];
    struct order order = {.cluster = cluster, .verb = ADD, .id = 2, .address = "tcp:m9:7000"};
    assert_true(order_once(&order));
    assert_int_equal(order.err, -E_EXIST);
    order = (struct order){.cluster = cluster, .verb = ADD, .id = 9, .address = cluster->addresses[other->id - 1]};
    assert_true(order_once(&order));
    assert_int_equal(order.err, -E_EXIST);
    struct member *nobody = cluster_host(cluster); /* its host is there, no replica on it */
    order = (struct order){.cluster = cluster, .verb = ADD, .id = nobody->id, .address = cluster->addresses[nobody->id - 1]};
    assert_true(order_once(&order));
    assert_int_equal(order.err, -E_UNAVAIL);
    assert_string_not_equal(order.detail, "");
    order = (struct order){.cluster = cluster, .verb = TRANSFER, .id = 77};
    assert_true(order_once(&order));
    assert_int_equal(order.err, -E_NOENT);
    /* With one of three away, the removal of a second would leave one of two. */
    sim_host_crash(other->host, true);
    run_ms(cluster, 3000);
    leader = leader_of(cluster);
    struct member *third = &cluster->members[6 - leader->id - other->id - 1];
    order = (struct order){.cluster = cluster, .verb = REMOVE, .id = third->id};
    assert_true(order_once(&order));
    assert_int_equal(order.err, -E_UNAVAIL);
    order = (struct order){.cluster = cluster, .verb = REMOVE, .id = 55};
    assert_true(order_once(&order));
    assert_int_equal(order.err, 0);
    nobody->join = true;
    member_start(nobody, sim_host_io(nobody->host));
    assert_int_equal(add(cluster, nobody), 0);
    settle(cluster, 5);
    cluster_destroy(cluster);
}

static void the_last_replica_stays(void **state)
{
    struct cluster *cluster = cluster_create(6, 1, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 6, cluster);
    struct order order = {.cluster = cluster, .verb = REMOVE, .id = 1};
    assert_true(order_once(&order));
    assert_int_equal(order.err, -E_INVAL);
    settle(cluster, 6);
    cluster_destroy(cluster);
}

static void a_second_change_is_told_what_goes_on(void **state)
{
    struct cluster *cluster = cluster_create(7, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 7, cluster);
    struct member *first = join(cluster), *second = join(cluster);
    assert_int_equal(add(cluster, first), 0);
    sim_isolate(first->host, true); /* it cannot catch up */
    struct order order = {.cluster = cluster, .verb = ADD, .id = second->id, .address = cluster->addresses[second->id - 1]};
    assert_true(order_once(&order));
    assert_int_equal(order.err, -E_BUSY);
    assert_string_not_equal(order.detail, "");
    assert_int_equal(order_until(cluster, REMOVE, first->id, NULL), 0); /* given up */
    assert_int_equal(add(cluster, second), 0);
    EXPECT_VOTERS(cluster, 1, 2, 3, second->id);
    sim_isolate(first->host, false);
    run_ms(cluster, 30000);
    assert_int_equal(first->end_err, -E_PERM);
    settle(cluster, 7);
    cluster_destroy(cluster);
}

static void leadership_goes_where_it_is_sent(void **state)
{
    for (uint64_t seed = 40; seed < 50; seed++) {
        struct cluster *cluster = cluster_create(seed, 3, NULL);
        assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), seed, cluster);
        for (unsigned round = 0; round < 6; round++) {
            uint32_t to = leader_of(cluster)->id % 3 + 1;
            size_t before = cluster->n_acked;
            struct order order = {.cluster = cluster, .verb = TRANSFER, .id = to};
            assert_true(order_once(&order));
            assert_int_equal(order.err, 0);
            assert_end(sim_run(cluster->sim, 500, has_leader, cluster), seed, cluster); /* below an election timeout */
            assert_int_equal(leader_of(cluster)->id, to);
            run_ms(cluster, 1000);
            assert_true(cluster->n_acked > before);
        }
        settle(cluster, seed);
        cluster_destroy(cluster);
    }
}

static void a_server_moves_to_another_address(void **state)
{
    struct cluster *cluster = cluster_create(8, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 8, cluster);
    struct member *moved = &cluster->members[leader_of(cluster)->id % 3];
    char new_address[32];
    snprintf(new_address, sizeof new_address, "tcp:m%u:7999", moved->id);
    sim_host_crash(moved->host, true);
    assert_int_equal(order_until(cluster, MOVE, moved->id, new_address), 0);
    cluster->addresses[moved->id - 1] = new_address;
    member_start(moved, sim_host_restart(moved->host));
    EXPECT_VOTERS(cluster, 1, 2, 3);
    settle(cluster, 8);
    cluster_destroy(cluster);
}

static void a_snapshot_is_taken_when_asked_for(void **state)
{
    struct cluster *cluster = cluster_create(9, 3, NULL);
    cluster->snapshot_entries = 1000000;
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 9, cluster);
    uint64_t applied = replica_applied(leader_of(cluster)->replica);
    struct order order = {.cluster = cluster, .verb = SNAPSHOT};
    assert_true(order_once(&order));
    assert_int_equal(order.err, 0);
    assert_true(order.number >= applied);
    settle(cluster, 9);
    cluster_destroy(cluster);
}

/* One replica alone with a full disk: changes are refused in words, and go on by themselves. */
static void a_full_disk_of_the_only_replica_refuses_and_recovers(void **state)
{
    struct cluster *cluster = cluster_create(60, 1, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 60, cluster);
    struct member *only = &cluster->members[0];
    sim_disk_limit(only->host, sim_disk_used(only->host));
    for (unsigned i = 0; i < 200 && cluster->refused_full == 0; i++)
        run_ms(cluster, 1000);
    assert_true(cluster->refused_full > 0);
    uint64_t reads = cluster->reads;
    run_ms(cluster, 2000);
    assert_true(cluster->reads > reads); /* it serves what it can */
    sim_disk_limit(only->host, GIB(1));
    size_t before = cluster->n_acked;
    run_ms(cluster, 5000);
    assert_true(cluster->n_acked > before);
    settle(cluster, 60);
    cluster_destroy(cluster);
}

static void a_leader_with_a_full_disk_hands_over(void **state)
{
    struct cluster *cluster = cluster_create(61, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 61, cluster);
    struct member *full = leader_of(cluster);
    sim_disk_limit(full->host, sim_disk_used(full->host));
    for (unsigned i = 0; i < 200 && leader_of(cluster) == full; i++)
        run_ms(cluster, 1000);
    size_t before = cluster->n_acked;
    run_ms(cluster, 20000);
    assert_ptr_not_equal(leader_of(cluster), full);
    assert_true(cluster->n_acked > before + 100);
    sim_disk_limit(full->host, GIB(1));
    settle(cluster, 61);
    cluster_destroy(cluster);
}

static void a_leader_with_a_slow_disk_hands_over(void **state)
{
    struct cluster *cluster = cluster_create(62, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 62, cluster);
    struct member *slow = leader_of(cluster);
    sim_disk_slow(slow->host, 4000);
    run_ms(cluster, 15000);
    assert_ptr_not_equal(leader_of(cluster), slow);
    size_t before = cluster->n_acked;
    run_ms(cluster, 10000);
    assert_true(cluster->n_acked > before + 100);
    sim_disk_slow(slow->host, 1);
    settle(cluster, 62);
    cluster_destroy(cluster);
}

static void a_follower_with_a_slow_disk_delays_nobody(void **state)
{
    struct cluster *cluster = cluster_create(63, 3, NULL);
    assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), 63, cluster);
    struct member *leader = leader_of(cluster), *slow = &cluster->members[leader->id % 3];
    size_t before = cluster->n_acked;
    run_ms(cluster, 10000);
    size_t quick = cluster->n_acked - before;
    sim_disk_slow(slow->host, 4000);
    before = cluster->n_acked;
    run_ms(cluster, 10000);
    assert_true(cluster->n_acked - before > quick / 2);
    assert_ptr_equal(leader_of(cluster), leader);
    sim_disk_slow(slow->host, 1);
    settle(cluster, 63);
    cluster_destroy(cluster);
}

/* What is on the disk then is not known: only a new process, which reads it, may go on. */
static void a_failed_write_of_the_log_ends_the_replica(void **state)
{
    for (uint64_t seed = 64; seed < 74; seed++) {
        struct cluster *cluster = cluster_create(seed, 3, NULL);
        assert_end(sim_run(cluster->sim, 60000, has_progress, cluster), seed, cluster);
        struct member *victim = seed % 2 == 0 ? leader_of(cluster) : &cluster->members[leader_of(cluster)->id % 3];
        sim_disk_fail(victim->host, 1, 1000, -E_IO);
        run_ms(cluster, 5000);
        assert_int_equal(victim->end_err, -E_IO);
        size_t before = cluster->n_acked;
        run_ms(cluster, 10000);
        assert_true(cluster->n_acked > before + 100);
        sim_disk_fail(victim->host, 0, 0, 0);
        sim_host_crash(victim->host, false);
        member_start(victim, sim_host_restart(victim->host));
        settle(cluster, seed);
        cluster_destroy(cluster);
    }
}

/* ------------------------------------------------------------------ storms */
static void disturb(struct cluster *cluster)
{
    struct sim *sim = cluster->sim;
    struct member *member = &cluster->members[sim_random_u64(sim) % cluster->n];
    switch (sim_random_u64(sim) % 5) {
    case 0:
    case 1:
        if (sim_host_up(member->host) && member->end_err != -E_PERM)
            sim_host_crash(member->host, sim_random_u64(sim) % 2 == 0);
        break;
    case 2:
    case 3:
        if (!sim_host_up(member->host))
            member_start(member, sim_host_restart(member->host));
        break;
    default:
        sim_partition(member->host, cluster->members[sim_random_u64(sim) % cluster->n].host,
                      sim_random_u64(sim) % 2 == 0);
    }
}

/* Orders come in the storm and are asked again until they are answered; the last ones in calm weather. */
static void storm(uint64_t seed)
{
    struct sim_options weather = {.loss_ppm = seed % 3 == 0 ? 2000 : 0,
                                  .reset_ppm = seed % 3 == 1 ? 2000 : 0,
                                  .net_slow_ppm = seed % 2 == 0 ? 20000 : 0,
                                  .reset_after_ms = 3000,
                                  .clock_skew_ms = 5000};
    struct cluster *cluster = cluster_create(seed, 3, &weather);
    cluster->snapshot_entries = 50 + seed % 5 * 100;
    assert_end(sim_run(cluster->sim, 120000, has_leader, cluster), seed, cluster);
    struct member *fourth = join(cluster), *fifth = join(cluster);
    struct order orders[] = {
        {.cluster = cluster, .verb = ADD, .id = fourth->id, .address = cluster->addresses[fourth->id - 1]},
        {.cluster = cluster, .verb = TRANSFER, .id = 0},
        {.cluster = cluster, .verb = REMOVE, .id = (uint32_t)(seed % 3 + 1)},
        {.cluster = cluster, .verb = ADD, .id = fifth->id, .address = cluster->addresses[fifth->id - 1]},
        {.cluster = cluster, .verb = REMOVE, .id = (uint32_t)((seed + 1) % 3 + 1)},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(orders); i++) {
        for (unsigned round = 0; round < 8; round++) {
            run_ms(cluster, 100 + sim_random_u64(cluster->sim) % 2000);
            disturb(cluster);
            orders[i].asked = leader_of(cluster);
            if (orders[i].asked == NULL || (orders[i].done && orders[i].err == 0 && orders[i].tries > 0))
                continue;
            orders[i].tries++;
            (void)order_once(&orders[i]);
        }
    }
    static const struct sim_options calm = {0};
    sim_set_options(cluster->sim, &calm);
    for (unsigned i = 0; i < cluster->n; i++) {
        for (unsigned j = 0; j < i; j++)
            sim_partition(cluster->members[i].host, cluster->members[j].host, false);
        if (!sim_host_up(cluster->members[i].host))
            member_start(&cluster->members[i], sim_host_restart(cluster->members[i].host));
    }
    for (unsigned i = 0; i < ARRAY_SIZE(orders); i++)
        if (orders[i].verb != TRANSFER)
            assert_int_equal(order_until(cluster, orders[i].verb, orders[i].id, orders[i].address), 0);
    EXPECT_VOTERS(cluster, fourth->id, fifth->id, (uint32_t)((seed + 2) % 3 + 1));
    settle(cluster, seed);
    cluster_destroy(cluster);
}

static void members_change_in_storms(void **state)
{
    const char *only = getenv("TARN_SIM_SEED"), *many = getenv("TARN_SIM_SEEDS");
    uint64_t first = only != NULL ? strtoull(only, NULL, 10) : 2000;
    uint64_t n = only != NULL ? 1 : many != NULL ? strtoull(many, NULL, 10) : 15;
    for (uint64_t seed = first; seed < first + n; seed++) {
        print_message("seed %llu\n", (unsigned long long)seed);
        storm(seed);
    }
}

int main(void)
{
    log_set_level(getenv("TARN_LOG") != NULL ? LOG_INFO : LOG_ERROR + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_part_and_no_damage_of_a_configuration_passes),
        cmocka_unit_test(one_becomes_three_becomes_five_and_back),
        cmocka_unit_test(a_removed_replica_does_not_start_again),
        cmocka_unit_test(one_removed_in_its_absence_is_told_later),
        cmocka_unit_test(a_dead_replica_is_replaced),
        cmocka_unit_test(one_that_waits_never_votes_nor_leads),
        cmocka_unit_test(one_that_joined_and_lost_its_directory_does_not_vote_at_once),
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(the_last_replica_stays),
        cmocka_unit_test(a_second_change_is_told_what_goes_on),
        cmocka_unit_test(leadership_goes_where_it_is_sent),
        cmocka_unit_test(a_server_moves_to_another_address),
        cmocka_unit_test(a_snapshot_is_taken_when_asked_for),
        cmocka_unit_test(a_full_disk_of_the_only_replica_refuses_and_recovers),
        cmocka_unit_test(a_leader_with_a_full_disk_hands_over),
        cmocka_unit_test(a_leader_with_a_slow_disk_hands_over),
        cmocka_unit_test(a_follower_with_a_slow_disk_delays_nobody),
        cmocka_unit_test(a_failed_write_of_the_log_ends_the_replica),
        cmocka_unit_test(members_change_in_storms),
    };
    cmocka_set_test_filter(getenv("TARN_TEST"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
