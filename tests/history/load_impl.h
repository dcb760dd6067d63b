/* What the files of the load share: load.c (sessions, recording, requests that arrive twice), load_work.c (the
 * operations), load_lease.c (what a client does without asking), load_snapshot.c. */
#ifndef TARN_TESTS_HISTORY_LOAD_IMPL_H
#define TARN_TESTS_HISTORY_LOAD_IMPL_H

#include "load.h"

#include "client/lease.h"
#include "client/lease_lock.h"
#include "meta.pb-c.h"
#include "ops.h"

struct load_worker {
    struct load *load;
    unsigned number;
    uint64_t waiter; /* of the lock it waits for; 0 = none */
    bool stuck;      /* a lock it may hold could not be given back: it takes none any more in this session */
    uint64_t stuck_session;
};
/* What is true of a directory or a file as long as the stamp's lease is valid. A lease says nothing about changes of one's own
 * before they are answered (E1): while one is under way, or was not answered in this session, the cache is not used. */
struct load_cache {
    unsigned changing;
    uint64_t doubt_session;
    uint64_t stamp;
    unsigned known; /* names, by bit */
    uint64_t value[HISTORY_NAMES];
};
/* The file whose size is kept back. One worker at a time is busy with it: the service tells the holder's own
 * session what it knows, not what is kept back. */
#define LOAD_KEPT_OPS 16
struct load_kept {
    bool busy;
    uint64_t size, doubt_session; /* doubt_session: a change of it may still be on its way: it is not kept back again */
    size_t ops[LOAD_KEPT_OPS];    /* done here, not known to last before the lease went back */
    unsigned n_ops;
};
struct load {
    struct load_options options;
    struct prng prng;
    struct meta *meta;
    struct rpc_client *repeaters[CONFIG_META_MAX];
    struct load_worker workers[LOAD_WORKERS_MAX];
    struct fiber_group workers_running, fibers; /* fibers: second senders */
    uint64_t directories[LOAD_DIRECTORIES], sizes[LOAD_SIZES], locks[LOAD_LOCKS], guarded[LOAD_LOCKS]; /* inodes */
    uint64_t kept_ino;
    struct load_cache directory_caches[LOAD_DIRECTORIES], size_caches[LOAD_SIZES], guarded_caches[LOAD_LOCKS];
    struct load_kept kept;
    unsigned lock_users[LOAD_LOCKS]; /* workers that hold or want one */
    struct load_counters counters;
    uint64_t session, session_seen_ns; /* seen: when the last change was asked that it carried out */
    uint64_t doubtful, numbers; /* numbers: given to names so far */
    bool stopping;
};

uint64_t load_now(struct load *load);
uint64_t load_session(struct load *load);
/* Notes an operation as asked; the result when it is certain. */
size_t load_begin(struct load *load, const struct history_op *op);
void load_end(struct load *load, size_t at, int err);
void load_end_here(struct load *load, size_t at, int err); /* decided by the client: says nothing about the session */
struct history_op *load_noted(struct load *load, size_t at);
bool load_certain(int err); /* an answer about this request, not about the way to it */
/* meta_call(), and perhaps once more. */
int load_call(struct load *load, unsigned op, ProtobufCMessage *request, Tarn__Ctx **ctx, const struct meta_cred *cred,
              const ProtobufCMessageDescriptor *type, void *ret_reply);
/* One operation, drawn. */
void load_work(struct load *load, struct load_worker *worker);
void load_interrupt(struct load *load, const struct load_worker *worker); /* its wait for a lock, if any, ends early */
uint64_t load_draw(struct load *load, uint64_t bound);
void load_where(uint64_t ino, Tarn__Where *where);
int load_size_of(struct load *load, uint64_t ino, struct load_cache *cache, uint64_t *ret); /* cache NULL: not through it */
int load_size_set(struct load *load, uint64_t ino, uint32_t mask, uint64_t size, uint64_t append_bytes, uint64_t *ret);

/* Of the directory `path` below dir, "" = dir itself; cache NULL: nothing is kept. */
int load_list(struct load *load, uint64_t dir, const char *path, struct load_cache *cache, uint64_t result[HISTORY_NAMES]);
int load_directory_ask(struct load *load, uint64_t dir, const struct history_op *op, uint64_t result[HISTORY_NAMES]);

/* ---- load_snapshot.c */
void load_snapshot_work(struct load *load);

/* ---- load_lease.c */
bool load_is_cached(struct load *load, uint64_t ino, const struct load_cache *cache, const struct history_op *op);
/* False: not known. *ret_err as the service would answer. */
bool load_cached(struct load *load, uint64_t ino, const struct load_cache *cache, const struct history_op *op, uint64_t *result,
                 int *ret_err);
void load_cache_set(struct load_cache *cache, uint64_t stamp, unsigned known, const uint64_t *values);
void load_change_begin(struct load_cache *cache); /* around each change of one's own */
void load_change_end(struct load *load, struct load_cache *cache, int err);
/* Sometimes gets a lease of the directory, so that names looked up afterwards are known. Waits. */
void load_cache_prepare(struct load *load, uint64_t ino, struct load_cache *cache);
/* A name as looked up since `stamp` was the cache's. */
void load_cache_name(struct load *load, uint64_t ino, struct load_cache *cache, uint64_t stamp, uint64_t name, uint64_t value);
void load_kept_work(struct load *load);
int load_kept_look(struct load *load);

#endif
