/* What lease*.c and meta.c share. Nobody else includes it. */
#ifndef TARN_CLIENT_LEASE_INTERNAL_H
#define TARN_CLIENT_LEASE_INTERNAL_H

#include "lease.h"

#include "common/coll.h"
#include "common/fiber.h"

/* ---- meta.c, for lease*.c */
struct io *meta_io(struct meta *meta);
/* Like meta_call() as root, but without waiting for room among the calls: others wait for what these bring. */
int meta_call_urgent(struct meta *meta, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx_field,
                     const ProtobufCMessageDescriptor *reply_type, void *ret_reply);
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
