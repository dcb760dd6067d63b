/* Descriptors of sealed chunks that a store on this machine passed to us. A sealed chunk never
 * changes, so its descriptor stays right as long as it is kept; its bytes were verified by the store
 * before it passed it, not at each read. It is closed when the store asks it back (OP_FD_DROPPED: the chunk goes, and its
 * space comes back with the last descriptor), or when the connection it came over is lost. */
#include "store_internal.h"

#include "common/check.h"
#include "common/err.h"

#include <unistd.h>

#define PASS_TIMEOUT_MS 5000 /* the store may verify 64 MiB first */
#define NO_FD_MS 5000        /* pause after a store that does not pass descriptors at all */
#define REFUSED_MS 500       /* pause after one was refused: the chunk is not sealed there yet */

struct store_fd {
    struct list lru;
    uint64_t chunk, generation;
    const struct store_peer *peer; /* who passed or refused it */
    int fd;                    /* -1: refused */
    uint64_t refused_until_ms; /* asked again after this */
    unsigned pins;             /* reads under way: not closed meanwhile */
    bool dropped;              /* not in the cache any more: closed with the last pin */
};

static void fd_free(struct store_fd *entry)
{
    if (entry->fd >= 0)
        close(entry->fd);
    free(entry);
}

static void fd_drop(struct stores *stores, struct store_fd *entry)
{
    map_remove(&stores->fds, entry->chunk);
    list_remove(&entry->lru);
    entry->dropped = true;
    if (entry->pins == 0)
        fd_free(entry);
}

static void fd_unpin(struct store_fd *entry)
{
    CHECK(entry->pins > 0);
    if (--entry->pins == 0 && entry->dropped)
        fd_free(entry);
}

void store_fds_fini(struct stores *stores)
{
    while (!list_empty(&stores->fd_lru))
        fd_drop(stores, list_entry(stores->fd_lru.next, struct store_fd, lru));
    map_fini(&stores->fds);
}

/* Room for one more; when all are in use by reads the bound is passed by as many as read. */
static void fds_trim(struct stores *stores)
{
    struct list *at = stores->fd_lru.prev;
    while (stores->fds.count >= STORE_FDS_MAX && at != &stores->fd_lru) {
        struct store_fd *entry = list_entry(at, struct store_fd, lru);
        at = at->prev;
        if (entry->pins == 0)
            fd_drop(stores, entry);
    }
}

/* Kept: the descriptor, or that it was refused a moment ago. */
static struct store_fd *fd_kept(struct stores *stores, const Tarn__Extent *extent)
{
    struct store_fd *entry = map_get(&stores->fds, extent->chunk);
    if (!entry || entry->generation < extent->generation)
        return NULL;
    if (entry->fd < 0 && io_mono_ms(stores->io) >= entry->refused_until_ms)
        return NULL;
    list_remove(&entry->lru);
    list_prepend(&stores->fd_lru, &entry->lru);
    return entry;
}

static void fd_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

/* Takes the descriptor (-1: refused) over, also on failure. */
static int fd_keep(struct stores *stores, const struct store_peer *peer, uint64_t chunk, uint64_t generation, int fd,
                   struct store_fd **ret)
{
    struct store_fd *entry = map_get(&stores->fds, chunk);
    if (entry)
        fd_drop(stores, entry);
    fds_trim(stores);
    entry = calloc(1, sizeof *entry);
    if (!entry || map_put(&stores->fds, chunk, entry) < 0) {
        free(entry);
        fd_close(fd);
        return -E_NOMEM;
    }
    entry->peer = peer;
    entry->chunk = chunk;
    entry->generation = generation;
    entry->fd = fd;
    entry->refused_until_ms = fd < 0 ? io_mono_ms(stores->io) + REFUSED_MS : 0;
    list_prepend(&stores->fd_lru, &entry->lru);
    *ret = entry;
    return 0;
}

/* ------------------------------------------------------------------ asked back */

void stores_on_fd_dropped(struct stores *stores, stores_fd_dropped_fn fn, void *arg)
{
    stores->fd_dropped = fn;
    stores->fd_dropped_arg = arg;
}

static void tell_dropped(struct stores *stores, uint64_t chunk)
{
    if (stores->fd_dropped)
        stores->fd_dropped(stores->fd_dropped_arg, chunk);
}

static void passer_push(void *arg, unsigned op, const uint8_t *control, size_t len)
{
    struct store_peer *peer = arg;
    struct stores *stores = peer->stores;
    if (op != OP_FD_DROPPED)
        return;
    Tarn__FdDropped *push = tarn__fd_dropped__unpack(NULL, len, control);
    if (!push)
        return;
    struct store_fd *entry = map_get(&stores->fds, push->chunk);
    if (entry && entry->peer == peer)
        fd_drop(stores, entry);
    peer->asked_back |= peer->asked == push->chunk;
    tell_dropped(stores, push->chunk);
    tarn__fd_dropped__free_unpacked(push, NULL);
}

/* It cannot ask anything back any more, and does not know afterwards what we hold. */
static void passer_lost(void *arg)
{
    struct store_peer *peer = arg;
    struct stores *stores = peer->stores;
    list_foreach_safe(&stores->fd_lru, it, next) {
        struct store_fd *entry = list_entry(it, struct store_fd, lru);
        if (entry->peer == peer)
            fd_drop(stores, entry);
    }
    peer->asked_back = true;
    tell_dropped(stores, 0);
}

void store_passer_close(struct store_peer *peer)
{
    if (!peer->passer)
        return;
    rpc_client_on_push(peer->passer, NULL, NULL, NULL);
    rpc_client_destroy(peer->passer);
}

/* ------------------------------------------------------------------ asked for */

/* Where a descriptor is asked for: a store of this machine, and whose of its disks. */
struct near {
    struct store_peer *peer;
    uint32_t disk;
};

static int pass(struct stores *stores, const struct near *near, uint64_t chunk, uint64_t generation,
                int *ret_fd)
{
    struct store_peer *peer = near->peer;
    if (!peer->passer)
        peer->passer = rpc_client_create(stores->io, peer->address, &stores->config->auth);
    if (!peer->passer)
        return -E_NOMEM;
    rpc_client_on_push(peer->passer, passer_push, passer_lost, peer);
    Tarn__ChunkFd request = TARN__CHUNK_FD__INIT;
    request.chunk = chunk;
    request.generation = generation;
    request.disk = near->disk;
    request.session = meta_session(stores->meta);
    struct rpc_call call = {
        .op = OP_CHUNK_FD,
        .request = &request.base,
        .epoch = request.session,
        .timeout_ms = PASS_TIMEOUT_MS,
        .reply_type = &tarn__chunk_fd_reply__descriptor,
    };
    int fd = -1;
    int r = rpc_call_fd(peer->passer, &call, &fd);
    bool sealed = r == 0 && ((const Tarn__ChunkFdReply *)call.reply)->sealed;
    rpc_call_fini(&call);
    if (r < 0)
        return r;
    if (!sealed) {
        close(fd);
        return -E_STALE;
    }
    *ret_fd = fd;
    return 0;
}

static bool passes_now(const struct stores *stores, const struct store_peer *peer)
{
    uint64_t now = io_mono_ms(stores->io);
    return now >= peer->no_fd_until_ms && now >= peer->suspect_until_ms;
}

static bool near_socket(struct stores *stores, const Tarn__Extent *extent, struct near *ret)
{
    for (size_t i = 0; i < extent->n_replicas; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        if (!replica->ready || !store_replica_has_socket(stores, replica))
            continue;
        struct store_peer *peer = store_peer_get(stores, replica->local);
        if (!peer || !passes_now(stores, peer))
            continue;
        *ret = (struct near){.peer = peer, .disk = replica->disk};
        return true;
    }
    return false;
}

/* The store passes none to us, whatever the chunk. */
static bool passes_nothing(int err)
{
    return err == -E_NOTSUP || err == -E_CONN || err == -E_TIMEOUT || err == -E_AUTH ||
           err == -E_CLUSTER || err == -E_PROTO || err == -E_VERSION;
}

/* The mutex of the peer is held: one is asked for at a time. */
static int fd_ask(struct stores *stores, const struct near *near, uint64_t chunk,
                  uint64_t generation, struct store_fd **ret)
{
    int fd = -1;
    struct store_peer *peer = near->peer;
    peer->asked = chunk;
    peer->asked_back = false;
    int r = pass(stores, near, chunk, generation, &fd);
    peer->asked = 0;
    if (r == 0 && peer->asked_back) { /* between its arrival and our turn */
        fd_close(fd);
        fd = -1;
    }
    if (r == -E_CANCELED)
        return r;
    if (passes_nothing(r)) {
        peer->no_fd_until_ms = io_mono_ms(stores->io) + NO_FD_MS;
        if (r == -E_TIMEOUT)
            peer->suspect_until_ms = peer->no_fd_until_ms; /* reads need not wait for it, too */
        return -E_NOTSUP;
    }
    return fd_keep(stores, peer, chunk, generation, fd, ret);
}

/* The entry from the cache or the store; not the refused ones. */
static int fd_get(struct stores *stores, const Tarn__Extent *extent, struct store_fd **ret)
{
    if (extent->state != TARN__CHUNK_STATE__CHUNK_SEALED || stores->config->verify_always)
        return -E_NOTSUP;
    struct store_fd *entry = fd_kept(stores, extent);
    int r = 0;
    if (!entry) {
        struct near near;
        if (!near_socket(stores, extent, &near))
            return -E_NOTSUP;
        uint64_t chunk = extent->chunk, generation = extent->generation;
        r = fiber_mutex_lock(&near.peer->passing);
        if (r < 0)
            return r;
        entry = fd_kept(stores, extent); /* whoever held the mutex may have asked for the same, or in vain */
        if (!entry)
            r = !passes_now(stores, near.peer) ? -E_NOTSUP : fd_ask(stores, &near, chunk, generation, &entry);
        fiber_mutex_unlock(&near.peer->passing);
    }
    if (r < 0)
        return r;
    if (entry->fd < 0)
        return -E_NOTSUP;
    *ret = entry;
    return 0;
}

int store_fd_read(struct stores *stores, const Tarn__Extent *extent, uint64_t offset, void *buf,
                  size_t n)
{
    struct store_fd *entry = NULL;
    int r = fd_get(stores, extent, &entry);
    if (r < 0)
        return r == -E_CANCELED ? r : -E_NOTSUP;
    entry->pins++;
    uint8_t *at = buf;
    size_t left = n;
    int64_t got = 1;
    while (left > 0) {
        got = io_read_fd(stores->io, entry->fd, at, left, (int64_t)(offset + (n - left)));
        if (got <= 0)
            break;
        at += got;
        left -= (size_t)got;
    }
    fd_unpin(entry);
    if (got < 0)
        return got == -E_CANCELED ? -E_CANCELED : -E_NOTSUP; /* the store reads or another copy */
    memset(at, 0, left);
    return 0;
}

int stores_fd(struct stores *stores, const Tarn__Extent *extent, int *ret_fd)
{
    struct store_fd *entry = NULL;
    if (extent->form != TARN__CHUNK_FORM__FORM_RAW)
        return -E_NOTSUP;
    int r = fd_get(stores, extent, &entry);
    if (r < 0)
        return r;
    *ret_fd = entry->fd;
    return 0;
}
