/* The metadata service as rpc clients see it: changes go through the log, queries read the leader's
 * tables, and what lives only in the leader's memory: when sessions and nodes were last heard, who
 * watches, which connection a session's pushes go to.
 * Threads: the io's thread; start and stop are called from a fiber. */
#ifndef TARN_METADATA_SERVER_H
#define TARN_METADATA_SERVER_H

#include "common/io.h"
#include "common/rpc.h"
#include "replica.h"
#include "topology.h"

struct server;
struct server_options {
    const char *listen;             /* address to serve on */
    size_t leases_max, leases_session_max; /* read leases out at a time, of all and of one session; 0 = lease.h's */
    struct topology topology;       /* where nodes' racks are asked for; zero = nowhere */
    struct replica_options replica; /* the callbacks and arg are the server's */
    void (*on_end)(void *arg, int err); /* replica.h's; may be NULL */
    void *end_arg;
};
/* Opens the replica and serves. Errors: those of io_listen() and replica_start(). */
int server_start(struct io *io, const struct server_options *options, struct server **ret);
const char *server_address(const struct server *server); /* with the real port */
struct replica *server_replica(struct server *server);
uint64_t server_requests(const struct server *server, unsigned op); /* taken since the start */
/* Hands leadership to another replica, when it leads and one is there; waits a second or two at most. */
void server_drain(struct server *server);
void server_stop(struct server *server); /* NULL allowed; waits, frees */

#endif
