/* Replicas in the simulator with clients that write and read through whoever leads: what was acknowledged, and
 * what somebody was told, is kept outside of them. */
#ifndef TARN_TEST_METADATA_REPLICA_CLUSTER_H
#define TARN_TEST_METADATA_REPLICA_CLUSTER_H

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

#define REPLICAS_MAX 8
#define CLIENTS 4 /* per replica */
#define ACKED_MAX 200000

struct cluster;
struct member {
    struct cluster *cluster;
    struct sim_host *host;
    uint32_t id;
    struct replica *replica; /* NULL while it is down */
    bool working;
    bool join; /* does not begin the service: waits to be added */
    int start_err, end_err; /* what replica_start() gave; what on_end() told */
    const char *dir;
    struct fiber_queue until_stopped;
    struct fiber_group clients;
    unsigned next_client;
};
struct cluster {
    struct sim *sim;
    struct rpc_auth auth;
    unsigned n;       /* hosts that there are */
    unsigned n_first; /* of these are in the first configuration */
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
    uint64_t refused_full; /* writes that were answered "no space" */
    uint64_t snapshot_entries;
};

struct cluster *cluster_create(uint64_t seed, unsigned n, const struct sim_options *options);
void cluster_destroy(struct cluster *cluster);
/* One more host, not started; the id is the next one. */
struct member *cluster_host(struct cluster *cluster);
void member_start(struct member *member, struct io *io);
void run_ms(struct cluster *cluster, uint64_t ms);
struct member *leader_of(struct cluster *cluster);
bool has_leader(void *arg);
bool has_progress(void *arg); /* 200 writes are acknowledged */
bool all_equal(void *arg);    /* everybody is up and has applied what anybody has */
void assert_end(enum sim_end end, uint64_t seed, struct cluster *cluster);
void assert_nothing_lost(struct cluster *cluster);
/* Calm weather, everybody up; all catch up and nothing is lost. */
void settle(struct cluster *cluster, uint64_t seed);

#endif
