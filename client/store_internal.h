/* What the parts of the store client share: store.c (connections), store_read.c (reads of chunks), store_hedge.c (late answers),
 * group.c (chunks computed from others), piece.c (compressed pieces), store_write.c (changes of chunks), store_fd.c (passed
 * descriptors). Nobody else includes it. */
#ifndef TARN_CLIENT_STORE_INTERNAL_H
#define TARN_CLIENT_STORE_INTERNAL_H

#include "store.h"

#include "common/coll.h"
#include "common/crc.h"
#include "common/fiber.h"
#include "common/machine.h"
#include "object.pb-c.h"

#define STORE_WINDOW MIB(1)     /* one request's data: FRAME_PAYLOAD_MAX has room for four */
#define STORE_MEMBERS_MAX 16    /* copies of a chunk; policy allows 6, healing adds a few */
#define STORE_ADDRESS_MAX 64
#define STORE_FDS_MAX 256       /* passed descriptors kept open */
/* Pieces of a window: one per cell and one more when it begins inside a cell. */
#define STORE_CRCS_MAX (STORE_WINDOW / CELL_BYTES + 1)

/* How long an address took for its last answers to reads of one size. */
#define STORE_PACE_SAMPLES 64
struct store_pace {
    uint32_t us[STORE_PACE_SAMPLES];
    unsigned n, next;  /* samples there are, place of the next */
    uint32_t p95_us;   /* computed anew every few samples; 0 = too few */
};

/* One address. Made at first use, kept until stores_destroy(). */
struct store_peer {
    struct store_peer *next; /* same hash */
    struct rpc_client *rpc;
    struct stores *stores;
    struct rpc_client *passer; /* a connection of its own for descriptors; made at first use */
    struct fiber_mutex passing;
    uint64_t asked;            /* the chunk whose descriptor is being asked for, 0 = none; */
    bool asked_back;           /* it was asked back before the one who asked could keep it */
    uint64_t suspect_until_ms; /* did not answer: asked last until then */
    uint64_t no_fd_until_ms;   /* does not pass descriptors */
    struct store_pace pace[2]; /* of reads up to a cell, and of larger ones */
    unsigned late;             /* answers in a row that came after those of another place */
    char address[];
};

struct stores {
    struct io *io;
    const struct config *config;
    struct meta *meta;
    char machine[MACHINE_ID_SIZE];
    char rack[64];
    uint64_t rack_asked_ms; /* 0 = never */
    struct map peers;       /* hash of the address → chain of struct store_peer */
    struct map fds;         /* chunk → struct store_fd */
    struct list fd_lru;     /* the most recently used first */
    stores_fd_dropped_fn fd_dropped; /* NULL: nobody has duplicates */
    void *fd_dropped_arg;
    struct map inodes;      /* ino → struct inode of file_map.c */
    struct fiber_mutex failing;
    struct list hedges;       /* struct store_hedge: reads that may become late */
    struct hedge_watch *watch; /* looks at them; NULL = not running */
    unsigned hedge_credit;    /* HEDGE_COST of it for a second request */
    struct groups *groups;    /* of group.c; NULL until the first is needed */
    struct pieces *pieces;    /* of piece.c; the same */
    struct stores_counters counters;
};

/* ---- work that another fiber may end early */
struct store_stop {
    bool fired;
    struct list items;
};
struct store_stop_item {
    struct list node;
    void (*fire)(struct store_stop_item *item); /* must not wait */
};
void store_stop_init(struct store_stop *stop);
void store_stop_fire(struct store_stop *stop);
/* False when it has been fired already: the item was not added. stop NULL: nobody ends it. */
bool store_stop_add(struct store_stop *stop, struct store_stop_item *item);
void store_stop_remove(struct store_stop *stop, struct store_stop_item *item);

/* ---- reads of chunks as they are on the disks */
enum store_from { STORE_FROM_NOWHERE, STORE_FROM_FD, STORE_FROM_NEAR, STORE_FROM_RACK, STORE_FROM_FAR };
/* How a range of a chunk is to be read; zeroed: as a caller of stores_read() wants it. */
struct store_ask {
    bool verified;           /* not by a passed descriptor: its bytes are not compared with checksums at each read */
    bool exact;              /* a store that has less than chunk_length does not have this chunk: -E_CORRUPT */
    bool same_generation;    /* a store that has an older one refuses, too: -E_STALE (parity, which is made anew) */
    bool old;                /* the extent was not fetched for this read: that nobody has the chunk means -E_STALE */
    bool alone;              /* no second place, no group: who asks looks after that himself */
    uint32_t avoid;          /* bit i: not from extent->replicas[i] */
    struct store_stop *stop; /* NULL: nobody ends it early; with one it is not hedged either */
    /* results */
    enum store_from from; /* the farthest place of any byte */
    uint64_t computed;    /* bytes that no replica had */
    bool absent;          /* a store that is up does not have the chunk */
};
/* Fully, or an error as of stores_read(); -E_INTR when it was stopped. Behind the end of a sealed chunk are zeros. The extent is not
 * looked at after the first wait but for the passed descriptor; it must live until the return. */
int store_chunk_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n, struct store_ask *ask);

struct candidate;
/* What a window of a chunk is read from; made by store_chunk_read(), on the heap. */
struct chunk_read {
    struct stores *stores;
    uint64_t chunk, generation, group, length; /* length: of a sealed chunk when `exact` */
    bool open, old, exact, same_generation, alone, absent;
    bool spotted; /* shards of its group are damaged somewhere, and too few were left for a window */
    struct store_stop *stop;
    enum store_from from;
    uint64_t computed;
    unsigned n;
    struct candidate *items; /* in the order in which they are asked */
};
struct candidate {
    char address[STORE_ADDRESS_MAX];
    uint32_t rank, node, disk;
    enum store_from distance;
    bool up;   /* as the service sees it */
    bool poor; /* down, or did not answer a moment ago: asked after the group */
};
/* One place. */
int store_get(struct chunk_read *rd, const struct candidate *from, uint64_t offset, uint8_t *buf, size_t n, struct store_stop *stop);
/* From items[first], and from the others or the group, too, when that is late. On success *ret_from is whose answer it is. */
#define HEDGE_COST 20 /* 1 of 20 requests: 5 % */
#define HEDGE_CREDIT_MAX (HEDGE_COST * 16)
int store_get_hedged(struct chunk_read *rd, unsigned first, uint64_t offset, uint8_t *buf, size_t n, enum store_from *ret_from);
void store_hedges_fini(struct stores *stores);
void store_hedge_earn(struct stores *stores);                     /* a request was sent */
bool store_hedge_pay(struct stores *stores, unsigned requests);   /* false: too many second requests lately */
void store_note_late(struct stores *stores, const char *address); /* another place was faster by more than is usual */
void store_pace_add(struct store_peer *peer, size_t n, uint64_t ns); /* an answer to a read of n bytes came */
uint64_t store_pace_late_ns(const struct store_peer *peer, size_t n); /* one that takes longer is late */
#define SUSPECT_MS 5000 /* how long a silent store is asked last */

/* ---- places */
struct store_peer *store_peer_get(struct stores *stores, const char *address); /* NULL: no memory */
/* Our rack, from a replica on our node or else the node list; may wait. Without it only the choice suffers. */
void store_rack_learn(struct stores *stores, const Tarn__Extent *extent);
/* True when the replica's bytes count as local: on our node, or with no node on our machine. */
bool store_replica_is_near(const struct stores *stores, const Tarn__Replica *replica);
/* True when its unix socket can be used as well. */
bool store_replica_has_socket(const struct stores *stores, const Tarn__Replica *replica);
/* Checksums of [data, data+n) cut at the cell borders of chunk offset `offset`. Returns the count. */
size_t store_crcs(uint64_t offset, const void *data, size_t n, uint32_t crcs[STORE_CRCS_MAX]);

/* Adds members, each with the life in which it took bytes; one that is known with another life has lost some. */
void store_lives_note(struct store_lives *lives, size_t n, const uint32_t *disks, const uint64_t *numbers);
void store_lives_add(struct store_lives *lives, const struct store_lives *more);
/* True when the members that have now synced are sure to have had all bytes: each that took some is in the same
 * life as then, and one of these is among them (others are copies of it). */
bool store_lives_same(const struct store_lives *before, const struct store_lives *synced);

/* Reads by a kept descriptor: 0, or -E_NOTSUP: use the network. */
int store_fd_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf,
                  size_t n);
void store_fds_fini(struct stores *stores);
void store_passer_close(struct store_peer *peer); /* before its peer is freed */

#endif
