/* The data path to the chunk stores: reads and writes ranges of one extent's chunk, choosing the
 * replica (own node by descriptor or unix socket, then same rack, then any), verifying checksums,
 * falling over to another replica on failure, to the chunk's parity group when none is left (group.h), and asking a second
 * place when the first is late. Extents whose bytes are a compressed part of a chunk are decompressed (piece.h).
 * Counts bytes by distance. Threads: the io's, from fibers. */
#ifndef TARN_CLIENT_STORE_H
#define TARN_CLIENT_STORE_H

#include "meta.h"

struct map;

struct stores;
struct stores_counters {
    uint64_t read_fd, read_local, read_rack, read_remote, written; /* bytes; fd: by passed descriptor */
    /* Each byte given to a caller is counted once above: a computed one as far as the farthest shard it was computed from, a
     * decompressed one as its compressed bytes. Of these bytes: */
    uint64_t read_degraded;   /* computed from other shards */
    uint64_t read_compressed; /* decompressed */
    /* Windows for which a second place was asked because the first was late, and those that it answered first. */
    uint64_t read_hedged, hedges_won;
};
/* node: the storage node this process runs on or 0; its rack is learned from the node list. */
int stores_create(struct io *io, const struct config *config, struct meta *meta, struct stores **ret);
void stores_destroy(struct stores *stores);
const struct stores_counters *stores_counters(const struct stores *stores);
uint32_t stores_node(const struct stores *stores); /* the node we run on, 0 = none */
uint64_t stores_code_memory(const struct stores *stores); /* bytes for coding what is put, of all puts of the process */
/* Where file.c keeps what it knows of inodes that are open here, shared by all handles of a file. */
struct map *stores_inodes(struct stores *stores);

/* Reads [offset, offset+n) of the extent's bytes fully into buf. `offset` counts as the extent's chunk_offset does: in the chunk, or
 * in the content of a compressed piece. Past the end of the chunk, or of the piece, are zeros.
 * Errors: -E_STALE (map out of date: fetch it again), -E_UNAVAIL neither a replica nor enough shards of the group answer,
 * -E_CORRUPT none is intact. */
int stores_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n);
/* The same with an extent that was fetched some time ago: where no member has anything of an open chunk, stores_read() reads zeros
 * (nobody has written there), and this is -E_STALE. */
int stores_read_known(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n);
/* The same as stores_read(), and counts the bytes in *also besides: for the receipt of one task. */
int stores_read_counted(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf, size_t n,
                        struct stores_counters *also);
/* The members that hold bytes which are not synced yet, and in which life of its volume each took them: a member that loses
 * power begins another life, and may have lost them. Zero-initialised; belongs to whoever writes the chunk. */
#define STORE_LIVES_MAX 8 /* policy allows six copies, and an open chunk gains none */
struct store_lives {
    unsigned n;
    bool lost; /* a later write found another life */
    uint32_t disks[STORE_LIVES_MAX];
    uint64_t lives[STORE_LIVES_MAX];
};
/* Writes to all members through the primary, as a change of `session`: the one under which the file is open, or the upload was
 * begun. When it has ended the stores refuse it, -E_NO_SESSION. sync: on disk at every member before the return;
 * else `lives` learns who has the bytes (NULL: nobody will ask).
 * A member that fails is reported to the metadata service (CHUNK_FAILED) and the write goes on with
 * the rest under the new generation: *extent is updated. -E_UNAVAIL when no member is left. */
int stores_write(struct stores *stores, uint64_t session, Tarn__Extent *extent, uint64_t offset, const void *buf, size_t n, bool sync,
                 struct store_lives *lives);
/* What was written with these lives is on disk at every member: `lives` is empty then. -E_IO: a member that counts stopped
 * in between, so bytes may be gone; told once, `lives` is empty. After other errors it is as before. */
int stores_sync(struct stores *stores, uint64_t session, Tarn__Extent *extent, struct store_lives *lives);
/* Carries out extent->clone_of: when it returns, the new chunk's bytes are on disk at every member. source (ChunkReply.source, or NULL):
 * the members do not have the old chunk; this client reads its content from there and writes it to them. -E_STALE: the content
 * has gone elsewhere meanwhile, ask CHUNK_WRITE again. */
int stores_clone(struct stores *stores, uint64_t session, Tarn__Extent *extent, const Tarn__Extent *source);
/* Called when the descriptor of a chunk is to be closed: the chunk is deleted or moved, and its disk's space comes back with
 * the last descriptor. 0: those of all chunks, the store that passed them is not reached any more and could not say so. The
 * own cache is cleared already; this is for who keeps duplicates of stores_fd(). Must not wait. */
typedef void (*stores_fd_dropped_fn)(void *arg, uint64_t chunk);
void stores_on_fd_dropped(struct stores *stores, stores_fd_dropped_fn fn, void *arg);
/* A read-only descriptor of the chunk's file when a replica is on this machine and the chunk is
 * sealed; kept in a bounded cache (borrowed until the next call that waits, dup() to keep: then close it
 * when stores_on_fd_dropped() says so).
 * -E_NOTSUP when not possible, for a compressed piece, and with verify=always (common/config.h). Of a piece that is not
 * compressed the bytes are [piece_offset, piece_offset + stored) of the file; others' bytes lie around them. */
int stores_fd(struct stores *stores, const Tarn__Extent *extent, int *ret_fd);

#endif
