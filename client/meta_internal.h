/* What the rooms of the metadata client share: meta.c (replicas, one call until it is answered, life), meta_session.c (the session
 * and its keeper), meta_call.c (calls of the user), meta_lock.c (locks that wait). Nobody else includes it. */
#ifndef TARN_CLIENT_META_INTERNAL_H
#define TARN_CLIENT_META_INTERNAL_H

#include "meta.h"

#include "lease_internal.h"

#include "common/check.h"
#include "common/coll.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"

#define META_MAGIC 0x4d657461u
/* The configured replicas and as many more as redirects have ever named. */
#define PEERS_MAX (CONFIG_META_MAX + 3)
#define PAUSE_MS_MAX 500

struct peer {
    struct meta *meta;
    struct rpc_client *rpc;
};

struct meta {
    uint32_t magic;
    struct io *io;
    const struct config *config;
    char name[96];
    struct meta_options options;
    struct peer peers[PEERS_MAX];
    unsigned n_peers, leader;
    uint64_t epoch; /* grows with each lost connection and change of leader */

    uint64_t session;
    uint8_t uuid[16]; /* of the session being opened: the same in each try */
    bool uuid_set;
    uint32_t granted_ms;
    uint64_t proved_ms;    /* when the last request of the session that was answered was sent */
    unsigned files, locked; /* open in it */
    uint64_t last_seq;
    struct list changes; /* struct change, by seq within a session */
    struct fiber_mutex opening;

    bool keeper_runs, closing;
    struct fiber_queue keeper;
    struct fiber_group fibers; /* keeper, calls and waits */
    unsigned calls;
    struct fiber_queue room;

    bool watches;           /* OP_WATCH is in force, asked for in this epoch */
    uint64_t watched_epoch;
    uint64_t learned_epoch, learn_again_ms; /* who takes part was asked for in this epoch, and is again then */

    struct leases *leases;

    struct map waits; /* waiter → struct lock_wait */
    uint64_t last_waiter;
};

/* One change under way: keeps `acked` below its number. */
struct change {
    struct list node;
    uint64_t session, seq;
};

struct lock_wait {
    uint64_t waiter, session;
    bool granted, interrupted;
    int status;
    struct fiber_queue queue;
};

/* One call to whoever leads. session: the call is only right in this one (0 = any). */
struct leader_call {
    unsigned op;
    const ProtobufCMessage *request;
    const ProtobufCMessageDescriptor *reply_type;
    uint64_t session, give_up_ms;
    uint64_t sent_ms; /* the last try */
    bool last_words; /* also goes out while closing */
    ProtobufCMessage *reply;
    char *detail;
    rpc_part_fn part; /* NULL: one reply */
    uint64_t heard_ms; /* of the last part: looking for a leader begins anew there */
    unsigned tries, hops, hinted_by; /* hinted_by: who gave the first of the redirects followed last */
    uint64_t pause_ms;
};

/* ---- meta.c */
/* Asks whoever leads until there is an answer, or it has taken c->give_up_ms. */
int meta_leader_call(struct meta *meta, struct leader_call *c);
bool meta_worth_another_try(int err);
/* A place for another address: a new one, or that of a replica nobody names any more. */
void meta_peer_learn(struct meta *meta, const Tarn__MetaStatusReply *status, const char *address);

/* ---- meta_session.c */
/* Ends here when its time is over by our clock (X7). */
void meta_session_check(struct meta *meta);
void meta_session_lost(struct meta *meta, uint64_t session, const char *why);
/* An answer shows that the service heard the session not before the request was sent. */
void meta_session_proved(struct meta *meta, uint64_t session, const struct leader_call *c);
uint64_t meta_acked(const struct meta *meta); /* changes up to this number are answered */
void meta_keeper_start(struct meta *meta);
void meta_session_last_words(struct meta *meta);

/* ---- meta_lock.c */
void meta_waits_wake(struct meta *meta);
void meta_lock_granted(struct meta *meta, const uint8_t *control, size_t control_len);

#endif
