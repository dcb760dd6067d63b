/* A client of the metadata service that changes a few objects it shares with others and records what it asks and is
 * told. The same code runs in the simulation (tests/sim/meta_sim.c) and against live replicas (record.c). Some changes are sent a
 * second time, later and to any replica, as a network that repeats whole requests would.
 * Threads: the io's; calls from fibers. */
#ifndef TARN_TESTS_HISTORY_LOAD_H
#define TARN_TESTS_HISTORY_LOAD_H

#include "client/meta.h"
#include "common/fiber.h"
#include "common/prng.h"
#include "history.h"

#define LOAD_DIRECTORIES 2
#define LOAD_SIZES 2
#define LOAD_LOCKS 3
#define LOAD_KEPT 1 /* a file whose size is kept back under the exclusive lease: a size and a lock of the history behind the others */
#define LOAD_WORKERS_MAX 8

struct load_options {
    struct io *io;
    const struct config *config;
    struct history *history; /* what is recorded; outlives the load */
    uint32_t client;         /* its number, unlike every other's */
    uint64_t seed;
    unsigned workers, readers; /* readers: of the workers, so many only look, and never hang in a change at a leader that is none */
    unsigned pause_ms;   /* a worker rests up to so long between two operations */
    uint32_t session_ms; /* silence after which its session ends */
    uint64_t give_up_ms;
    unsigned repeat_percent; /* of changes that are sent twice */
    bool leases; /* it uses what client/lease.h gives it: reads from a cache, keeps sizes back, decides about locks itself */
    bool snapshots; /* it takes snapshots and clones of the directories; what breaks their rules ends the process */
    uint64_t (*now_ns)(void *arg);
    void *arg;
};
struct load;
/* Connects and makes the objects that are not there yet. Errors: -E_UNAVAIL, -E_CANCELED, -E_NOMEM. */
int load_create(const struct load_options *options, struct load **ret);
/* Works until load_stop(), or until the io stops. */
void load_run(struct load *load);
void load_stop(struct load *load); /* workers end after what they are at */
/* Looks at every object once. 0 only when all of them answered. */
int load_look(struct load *load);
/* Ends the session and frees. After a crash of the host too: what was under way stays unknown. */
void load_destroy(struct load *load);
/* So far. */
struct load_counters {
    uint64_t answered;     /* operations with a known result */
    uint64_t cached_reads; /* of these, answered by a cache under a read lease */
    uint64_t kept_raises;  /* sizes raised under an exclusive lease, without asking */
    uint64_t locks_here;   /* locks and unlocks decided under a delegation, without asking */
    uint64_t snapshots, clones; /* taken and looked at; made, changed, looked at and removed */
};
struct load_counters load_counters(const struct load *load);

#endif
