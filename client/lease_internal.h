/* What lease*.c and meta.c share. Nobody else includes it. */
#ifndef TARN_CLIENT_LEASE_INTERNAL_H
#define TARN_CLIENT_LEASE_INTERNAL_H

#include "lease.h"
#include "lease_lock.h"

#include "common/coll.h"
#include "common/fiber.h"

struct leases {
    struct meta *meta;
    struct io *io;
    uint64_t session;
    uint64_t epoch, until_ms, route;
    bool suspended, doubts;
    struct map held;      /* ino → struct held */
    struct list order;    /* of struct held, by grant or last look */
    uint64_t last_stamp;
    unsigned asking;
    struct map voided;    /* while somebody asks: ino → number of its latest recall */
    bool all_voided;      /* one could not be remembered */
    struct list owed;     /* answers to recalls, not sent yet */
    uint64_t owed_epoch;
    bool all_back, answering;
    lease_recalled_fn recalled;
    void *recalled_arg;
    struct map exclusives; /* ino → struct held_exclusive (lease_exclusive.c) */
    struct map early;      /* ino → an exclusive lease asked back before its grant came */
    struct map over;       /* ino → highest number of an exclusive lease of ours that is back or on its way */
    uint64_t over_floor;   /* of those that `over` had no room for */
    struct map lock_files; /* ino * 2 + kind → struct lock_file (lease_lock.c) */
    struct list lock_waits;
    bool locks_untracked;  /* there were once too many files to remember all */
    struct lease_counters counters;
};

/* ---- lease_exclusive.c */
void lease_exclusive_recall(struct leases *leases, uint64_t ino, uint64_t number);
void exclusives_lost(struct leases *leases);   /* with the session */
void exclusives_forget(struct leases *leases);

/* ---- lease_lock.c */
void lease_locks_recall(struct leases *leases, const Tarn__LeaseItem *item);
void lock_files_lost(struct leases *leases);
void lock_files_forget(struct leases *leases);
/* Around each LOCK that asks for a delegation; reply NULL: it failed. -E_NOMEM: what was granted goes back. */
void lease_lock_asking(struct leases *leases, const Tarn__Lock *ask);
int lease_lock_asked(struct leases *leases, uint64_t session, const Tarn__Lock *ask, const Tarn__LockReply *reply);

/* After LEASE_RETURN: whether it is to be sent again, as nobody knows what became of it. Until that is known nothing may be
 * decided under what is returned. Waits a little. */
bool lease_return_again(struct leases *leases, int r);

/* ---- meta.c, for lease*.c */
struct io *meta_io(struct meta *meta);
/* Like meta_call() as root, but without waiting for room among the calls: others wait for what these bring. */
int meta_call_urgent(struct meta *meta, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                     const ProtobufCMessageDescriptor *reply_type, void *ret_reply);
/* The same in this session only; -E_NO_SESSION when it is lost. */
int meta_call_urgent_in(struct meta *meta, uint64_t session, unsigned op, ProtobufCMessage *request,
                        Tarn__Ctx **ctx_field);
int meta_session_ensure(struct meta *meta); /* waits until there is one */
void meta_keeper_wake(struct meta *meta);
/* A fiber that meta_disconnect() waits for. */
int meta_spawn(struct meta *meta, const char *name, fiber_fn fn, void *arg);
void meta_fiber_done(struct meta *meta);
bool meta_closing(const struct meta *meta);

/* ---- lease.c, for meta.c */
struct leases *leases_create(struct meta *meta); /* NULL: no memory */
void leases_destroy(struct leases *leases);      /* no fiber of theirs runs any more */
void leases_route_changed(struct leases *leases); /* pushes may be lost: nothing counts before the next ping */
void leases_session_lost(struct leases *leases);
void leases_push(struct leases *leases, uint64_t session, const uint8_t *control, size_t len);
uint64_t leases_ping_ms(const struct leases *leases); /* how often pings are needed; 0 = as ever */
struct lease_ping {
    uint64_t sent_ms, route;
};
void leases_ping_begin(const struct leases *leases, struct lease_ping *ping);
void leases_ping_end(struct leases *leases, const struct lease_ping *ping, const Tarn__SessionPingReply *reply);
/* After a ping: tells a new leader what we have. Waits. */
void leases_reclaim(struct leases *leases);

#endif
