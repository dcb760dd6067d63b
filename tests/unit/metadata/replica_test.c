/* Replicas in the simulator: nothing acknowledged is lost, all apply the same commands in the same
 * order, reads are linearizable, and after the weather clears everybody catches up. */
#include "replica_cluster.h"

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
