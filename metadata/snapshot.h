/* Snapshot files of the tables: write, find, load. The page is docs/formats/snapshot.md.
 * Calls that take an io or a path wait and are made from fibers. */
#ifndef TARN_METADATA_SNAPSHOT_H
#define TARN_METADATA_SNAPSHOT_H

#include "common/base.h"
#include "common/io.h"
#include "kv.h"

#define SNAPSHOT_SERVERS_MAX 8
#define SNAPSHOT_NAME_MAX 48
#define SNAPSHOT_HEADER 4096
#define SNAPSHOT_PIECE MIB(1) /* of one pull */

struct snapshot_server {
    uint64_t id;
    uint32_t role;
    char address[64];
};
struct snapshot_meta {
    uint64_t index, term, conf_index, real_ns;
    unsigned n_servers;
    struct snapshot_server servers[SNAPSHOT_SERVERS_MAX];
};

void snapshot_name(char out[SNAPSHOT_NAME_MAX], uint64_t index, uint64_t term);
bool snapshot_name_valid(const char *name); /* of a complete one: for names that peers send */
int snapshot_encode(const struct snapshot_meta *meta, uint8_t out[SNAPSHOT_HEADER]); /* -E_NOMEM */
int snapshot_decode(const uint8_t in[SNAPSHOT_HEADER], struct snapshot_meta *ret); /* -E_CORRUPT */

/* Writes the tables of `txn` (borrowed) durably under the name of `meta`; *ret_bytes is its size. The
 * tables are read on a worker thread piece by piece, so the loop goes on. */
int snapshot_write(struct io *io, const char *dir, const struct snapshot_meta *meta,
                   struct kv_txn *txn, uint64_t *ret_bytes);
/* At start: makes the names durable, removes our own unfinished ones. */
int snapshot_clean(struct io *io, const char *dir);
/* The newest complete one with a valid header; -E_NOENT. */
int snapshot_newest(struct io *io, const char *dir, struct snapshot_meta *ret, uint64_t *ret_bytes);
/* Renames it to *.bad: nobody loads or offers it any more. */
int snapshot_set_aside(struct io *io, const char *dir, const struct snapshot_meta *meta);
/* Replaces the tables' content; checks every block. -E_CORRUPT: nothing changed. */
int snapshot_load(struct io *io, const char *dir, const struct snapshot_meta *meta, struct kv *kv);
/* Removes all but the newest two, and parts of others' (none may be under way). */
int snapshot_prune(struct io *io, const char *dir);

#endif
