/* A chunk store: the volumes of a node's disks served over rpc, and a member of the cluster. Runs on any io,
 * so several of them live in one simulation. Rooms: disks (which volumes there are), ops (the requests),
 * forward (to the other members), handover (descriptors), beat (join, heartbeat), tasks (what the service
 * asks for), rebuild and build (a chunk is copied here, a shard computed), pace (how fast).
 * Threads: the io's; all calls are made from fibers. */
#ifndef TARN_OBJSTORE_STORE_H
#define TARN_OBJSTORE_STORE_H

#include "fence.h"
#include "pace.h"
#include "volume.h"
#include "common/config.h"
#include "common/rpc.h"

#define STORE_REQUESTS_MAX 1024 /* under way at a time; past it the answer is -E_BUSY */
#define STORE_PEERS_MAX 256     /* other stores and metadata replicas, one connection each */
/* A node without a beat for 5 s counts as dead, and sessions are ended without asking it. So from half of it on a store that
 * hears nothing makes no changes and serves nothing that changes (X4): -E_BUSY, a new leader is being elected, perhaps. After
 * two of it (a forwarded change: after one, the primary then reports this member) it says that it is cut off, -E_UNAVAIL, and
 * the client turns to the others. Counted from when the last answered beat was sent, by a clock that also runs in suspend. */
#define STORE_DEATH_MS 5000
#define STORE_DOUBT_MS (STORE_DEATH_MS / 2)
#define STORE_CUT_OFF_MS (STORE_DEATH_MS * 2)
#define STORE_INVENTORY_MS (3600 * 1000) /* 25 bytes a chunk through the log, per node and hour */

#define STORE_DISKS_MAX 64 /* as many as a node may have (metadata/clustermap.h) */

struct store_options {
    const char *dir;             /* of the only disk; NULL with `dirs` */
    const char *const *dirs;     /* one a disk; borrowed for the life of the store */
    unsigned n_dirs;
    /* Asked before each opening of a directory, NULL = no questions: 0, or why it is left alone: -E_BUSY another process has
     * it, -E_NOTDIR nothing is mounted there. */
    int (*claim)(void *arg, const char *dir);
    void *claim_arg;
    const struct rpc_auth *auth; /* borrowed for the life of the store */
    const char *listen;          /* "tcp:HOST:PORT", port 0 = any */
    const char *local;           /* "unix:/path" or NULL */
    const char *host, *rack, *machine; /* NULL = empty */
    uint32_t node;               /* the id to ask for, 0 = any */
    unsigned n_meta;             /* 0: alone, joins nothing */
    const char (*meta)[64];      /* addresses, borrowed */
    uint64_t journal_bytes, reserve_bytes; /* 0 = default */
    uint64_t capacity;                     /* for chunks; 0 = the whole file system */
    unsigned files_max;
    const char *boot;            /* as in volume.h */
    uint64_t inventory_ms;       /* what is held is told again after so long; 0 = an hour */
    unsigned scrub_days;         /* every chunk is read once in so many; 0 = the default of scrub.h */
};

struct store_counters {
    uint64_t bytes_read, bytes_written, fds_passed, fds_dropped, corrupt;
    uint64_t bytes_fetched, bytes_saved; /* from other stores for copies and shards; not, because an older version had them */
    uint64_t built, verified;            /* BUILD and VERIFY that ended well */
};

struct peer {
    struct list link;
    struct rpc_client *client;
};

struct beat;
struct disks;
struct handover;
struct verify;
struct store {
    struct io *io;
    const struct rpc_auth *auth;
    struct volume *volumes[STORE_DISKS_MAX]; /* opened; none leaves before the end, also when it fails */
    unsigned n_volumes;
    struct disks *disks;
    struct store_counters counters;
    struct pace pace;
    unsigned requests;
    struct rpc_server *server, *local_server;
    struct rpc_service service;
    char address[64], local[128], host[64], rack[64], machine[64];
    struct list peers;
    unsigned n_peers;
    unsigned n_meta;
    const char (*meta)[64];
    uint32_t node_wanted;
    uint32_t node; /* as the service calls it, since the join */
    uint64_t inventory_ms;
    unsigned scrub_days;
    uint64_t contact_ms;  /* when the last request that the metadata service answered was sent, 0 = never */
    struct fiber_queue contact_wake; /* contact_ms has grown and what came with it was applied */
    struct fences fences;
    bool stopping;
    struct beat *beat;
    struct handover *handover; /* who holds descriptors of chunk files */
    struct verify *verify; /* NULL without a local socket */
};

/* Opens (or makes) the volumes and listens. One of several that cannot be opened is left out (disks.h).
 * *ret_why is one sentence (static or of the thread).
 * Errors: those of volume_open() and io_listen(), -E_ADDRINUSE among them. */
int store_open(struct io *io, const struct store_options *options, struct store **ret, const char **ret_why);
/* Begins to serve and to beat; returns at once. */
int store_serve(struct store *store);
const char *store_address(const struct store *store); /* with the real port */
/* Answers what is under way, takes a checkpoint, frees. */
void store_stop(struct store *store);

/* The connection to an address, made at its first use, kept. NULL: out of memory or past the bound. */
struct rpc_client *store_peer(struct store *store, const char *address);
/* True when the service may have given up this store: see STORE_DOUBT_MS. */
bool store_in_doubt(const struct store *store);
/* May a change be made: 0, -E_BUSY or -E_UNAVAIL. */
int store_may_order(const struct store *store, bool forwarded);
/* May what the chunk holds be told: -E_BUSY when it can change without us, or is suspect. The caller holds cells of it. */
int store_may_serve(const struct store *store, const struct chunk *chunk);

/* The volume that a request is about. `disk` is its id; 0 (an older client, a task of version 1), or any of a store
 * that is alone: the one with the newest copy of the chunk, the first when none has it. -E_UNAVAIL: that disk is not
 * here, or could not be opened. */
int store_volume(const struct store *store, uint32_t disk, uint64_t chunk, struct volume **ret);

/* A chunk of a volume and a range of its cells, held. */
struct held {
    struct volume *volume;
    struct chunk *chunk;
    struct range range;
};
/* Looks the chunk up (make: creates it) and waits for the range. -E_NOENT when it is not there. */
int store_hold(struct volume *volume, uint64_t chunk, bool make, uint32_t first, uint32_t last, bool write,
               struct held *ret);
int store_hold_all(struct volume *volume, uint64_t chunk, bool make, bool write, struct held *ret);
/* The range that bytes [offset, offset + length) lie in; length 0 counts as one. */
int store_hold_bytes(struct volume *volume, uint64_t chunk, bool make, uint64_t offset, uint64_t length, bool write,
                     struct held *ret);
void store_release(struct held *held);

#endif
