/* A metadata service and chunk stores that do just enough for the client's tests and fail on demand.
 * Whatever they hold and saw is in plain sight. */
#ifndef TARN_TESTS_CLIENT_FAKES_H
#define TARN_TESTS_CLIENT_FAKES_H

#include "client/file.h"
#include "client/object.h"
#include "common/coll.h"
#include "common/rpc.h"
#include "object.pb-c.h"
#include "tests/unit/common/io_suite.h"

#define METAS 3
#define STORES 3
#define CHUNK 7      /* the one chunk of the stores' tests */
#define CHUNK_SIZE MIB(4)

/* What a replica does with the next request of an op. */
enum mishap { FINE, REDIRECT, NO_LEADER, LOSE_REPLY, SAY_BUSY, FORGET_SESSION };

struct world;
struct fake_meta {
    struct world *world;
    struct rpc_server *server;
    char address[64];
    struct { unsigned op; enum mishap what; unsigned times; } next[8];
    unsigned asked; /* requests, pings excepted */
};

struct fake_store {
    struct world *world;
    struct rpc_server *server;
    char address[64];
    uint32_t disk;
    uint8_t *data; /* of CHUNK */
    uint64_t length, generation;
    bool spoiled;     /* answers reads with a flipped bit */
    bool mute;        /* closes the connection instead of answering */
    bool full;        /* -E_NOSPC */
    uint32_t fails_for; /* the primary says this disk did not take the data */
    unsigned reads, writes, syncs;
};

struct world {
    struct io *io;
    struct config config;
    struct fake_meta metas[METAS];
    struct fake_store stores[STORES];
    /* the service's state, common to its replicas */
    unsigned leader;
    uint64_t last_session, session; /* session: the living one, 0 = none */
    uint64_t last_seq, last_acked;
    unsigned applied;       /* creates carried out */
    struct map seqs;        /* of creates of this session */
    unsigned sessions, pings, ended;
    uint64_t waiter;        /* of the lock request that waits, 0 = none */
    unsigned lock_asks, lock_cancels;
    bool lock_free, grant_on_cancel;
    struct rpc_conn *lock_conn;
    struct fiber_queue lock_asked;
    unsigned failed_reports;
    uint32_t failed_disks[8];
    unsigned files;         /* that LOCATIONS tells, "/f/000000" and on, a few a part */
    unsigned parts_until_death; /* the leader's connection breaks after so many parts, once; then the next replica leads */
    unsigned parts;         /* sent */
    uint64_t generation;    /* of CHUNK */
    bool gone[STORES];      /* no longer a member */
};

void world_start(struct world *world, struct io *io, const char *host);
void world_stop(struct world *world);
void world_mishap(struct world *world, unsigned meta, unsigned op, enum mishap what, unsigned times);
void world_grant(struct world *world); /* pushes the grant to whoever waits */
Tarn__Extent *world_extent(const struct world *world); /* of CHUNK, as the service knows it */

#endif
