/* What the halves of the store client share: store.c (connections, reads), store_write.c (changes
 * of chunks), store_fd.c (passed descriptors). Nobody else includes it. */
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

/* One address. Made at first use, kept until stores_destroy(). */
struct store_peer {
    struct store_peer *next; /* same hash */
    struct rpc_client *rpc;
    struct rpc_client *passer; /* a connection of its own for descriptors; made at first use */
    struct fiber_mutex passing;
    uint64_t suspect_until_ms; /* did not answer: asked last until then */
    uint64_t no_fd_until_ms;   /* does not pass descriptors */
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
    struct map inodes;      /* ino → struct inode of file_map.c */
    struct fiber_mutex failing;
    struct stores_counters counters;
};

struct store_peer *store_peer_get(struct stores *stores, const char *address); /* NULL: no memory */
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

/* Reads by a kept descriptor. Bytes read, or -E_NOTSUP: use the network. */
int store_fd_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf,
                  size_t n);
void store_fds_fini(struct stores *stores);

#endif
