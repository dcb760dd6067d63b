/* The scrubber of one disk: a fiber that reads every chunk's cells from the disk (past the page cache), compares them with
 * their checksums and notes what is damaged (damage.h). Rot is found before a second copy rots.
 *
 *   pass: all chunks that are there when it begins, in order of ids; then the next pass. So the one that waited longest is
 *   always next. An open chunk is looked at a few cells at a time, between writes to them.
 *
 * A pass takes at most the days that the configuration says (three quarters of them, so that a stopped process catches up); one
 * that an operator asked for goes as fast as clients allow (background.h). The place is kept in the file `scrub`
 * (docs/formats/volume.md), a command's pass too. Threads: the io's. */
#ifndef TARN_OBJSTORE_SCRUB_H
#define TARN_OBJSTORE_SCRUB_H

#include "store.h"
#include "object.pb-c.h"

#define SCRUB_DAYS 14          /* by default */
#define SCRUB_DAYS_MAX 365
#define SCRUB_SAVE_MS 30000    /* what a crash makes it read again */

struct scrub;
/* `days` 0: the default. From a fiber: reads the place. Errors: -E_NOMEM, -E_BUSY, -E_CANCELED. */
int scrub_start(struct store *store, struct volume *volume, unsigned days, struct scrub **ret);
void scrub_stop(struct scrub *scrub); /* NULL allowed; waits, frees */
/* Everything that is there now is read from the start, soon. */
void scrub_begin(struct scrub *scrub);
void scrub_tell(const struct scrub *scrub, Tarn__ScrubDisk *out);
/* Starts one for each volume that has none, with the store's days; ends them all. */
int scrub_watch(struct store *store);
void scrub_unwatch(struct store *store);
/* OP_STORE_SCRUB: of all disks that serve, or one. */
int scrub_handle(struct store *store, struct rpc_request *request, const Tarn__StoreScrub *message);

/* How long to rest after `bytes`, so that `left` bytes more take until `due_ns`; at most SCRUB_REST_MS. Pure. */
#define SCRUB_REST_MS 600000
uint64_t scrub_rest_ms(uint64_t bytes, uint64_t left, uint64_t now_ns, uint64_t due_ns);

#endif
