#include "handover.h"

#include "get.h"
#include "put.h"
#include "common/check.h"
#include "common/err.h"
#include "proto/ops.h"

#include <fcntl.h>

/* ------------------------------------------------------------------ who holds what */
/* One descriptor that a connection was given, in the list of its chunk and in that of its connection. */
struct grant {
    struct list of_chunk, of_holder;
    struct holding *holding;
    struct holder *holder;
    const struct volume *volume; /* whose copy it is of */
};
struct holding { /* of one chunk; there while it has grants */
    uint64_t chunk;
    struct list grants;
};
struct holder { /* of one connection, as its data */
    struct rpc_conn *conn;
    struct list grants; /* the oldest first */
    unsigned n;
};

struct handover {
    struct map chunks; /* chunk → struct holding */
    uint64_t held;
};

struct handover *handover_create(void)
{
    return calloc(1, sizeof(struct handover));
}

void handover_destroy(struct handover *h)
{
    if (h == NULL)
        return;
    CHECK(h->held == 0 && h->chunks.count == 0);
    map_fini(&h->chunks);
    free(h);
}

uint64_t handover_held(const struct handover *h)
{
    return h->held;
}

static void grant_free(struct handover *h, struct grant *grant)
{
    struct holding *holding = grant->holding;
    list_remove(&grant->of_chunk);
    list_remove(&grant->of_holder);
    grant->holder->n--;
    h->held--;
    free(grant);
    if (!list_empty(&holding->grants))
        return;
    map_remove(&h->chunks, holding->chunk);
    free(holding);
}

/* Tells the holder. One that cannot be told loses its connection, which tells it more. */
static void ask_back(struct store *s, struct grant *grant)
{
    struct rpc_conn *conn = grant->holder->conn;
    Tarn__FdDropped push = TARN__FD_DROPPED__INIT;
    push.chunk = grant->holding->chunk;
    grant_free(s->handover, grant);
    s->counters.fds_dropped++;
    if (rpc_push(conn, OP_FD_DROPPED, &push.base) != 0)
        rpc_conn_close(conn);
}

void handover_drop(void *store, const struct volume *v, uint64_t chunk)
{
    struct store *s = store;
    struct holding *holding = map_get(&s->handover->chunks, chunk);
    if (holding == NULL)
        return;
    struct list *it = holding->grants.next;
    bool more = it != &holding->grants;
    while (more) { /* the last grant takes the holding along */
        struct grant *grant = list_entry(it, struct grant, of_chunk);
        it = it->next;
        more = it != &holding->grants;
        if (grant->volume == v)
            ask_back(s, grant);
    }
}

void handover_closed(void *store, struct rpc_conn *conn)
{
    struct store *s = store;
    struct holder *holder = rpc_conn_data(conn);
    if (holder == NULL)
        return;
    list_foreach_safe (&holder->grants, it, next)
        grant_free(s->handover, list_entry(it, struct grant, of_holder));
    rpc_conn_set_data(conn, NULL);
    free(holder);
}

static struct holder *holder_of(struct rpc_conn *conn)
{
    struct holder *holder = rpc_conn_data(conn);
    if (holder != NULL)
        return holder;
    holder = calloc(1, sizeof *holder);
    if (holder == NULL)
        return NULL;
    holder->conn = conn;
    list_init(&holder->grants);
    rpc_conn_set_data(conn, holder);
    return holder;
}

static struct holding *holding_of(struct handover *h, uint64_t chunk)
{
    struct holding *holding = map_get(&h->chunks, chunk);
    if (holding != NULL)
        return holding;
    holding = calloc(1, sizeof *holding);
    if (holding == NULL || map_put(&h->chunks, chunk, holding) < 0) {
        free(holding);
        return NULL;
    }
    holding->chunk = chunk;
    list_init(&holding->grants);
    return holding;
}

static struct grant *grant_find(const struct handover *h, const struct holder *holder, uint64_t chunk)
{
    const struct holding *holding = map_get(&h->chunks, chunk);
    if (holding == NULL)
        return NULL;
    list_foreach (&holding->grants, it) {
        struct grant *grant = list_entry(it, struct grant, of_chunk);
        if (grant->holder == holder)
            return grant;
    }
    return NULL;
}

static struct grant *grant_make(struct handover *h, struct holder *holder, uint64_t chunk)
{
    struct grant *grant = calloc(1, sizeof *grant);
    struct holding *holding = grant != NULL ? holding_of(h, chunk) : NULL;
    if (holding == NULL) {
        free(grant);
        return NULL;
    }
    *grant = (struct grant){.holding = holding, .holder = holder};
    list_append(&holding->grants, &grant->of_chunk);
    list_append(&holder->grants, &grant->of_holder);
    holder->n++;
    h->held++;
    return grant;
}

/* Before the descriptor is sent: none is out that we do not know of. */
static int grant_note(struct store *s, struct rpc_conn *conn, const struct volume *v, uint64_t chunk)
{
    struct holder *holder = holder_of(conn);
    if (holder == NULL)
        return -E_NOMEM;
    struct grant *grant = grant_find(s->handover, holder, chunk);
    if (grant == NULL)
        grant = grant_make(s->handover, holder, chunk);
    if (grant == NULL)
        return -E_NOMEM;
    grant->volume = v; /* the client keeps one of a chunk */
    list_remove(&grant->of_holder); /* the youngest, also when it is asked for again */
    list_append(&holder->grants, &grant->of_holder);
    if (holder->n > HANDOVER_HELD_MAX)
        ask_back(s, list_entry(holder->grants.next, struct grant, of_holder));
    return 0;
}

/* ------------------------------------------------------------------ handing out */
static int prepare(struct store *s, const Tarn__ChunkFd *m, const struct held *held)
{
    struct chunk *c = held->chunk;
    if ((c->flags & CHUNK_SEALED) == 0 || (m->generation != 0 && m->generation < c->generation))
        return -E_STALE;
    int err = get_verify(held->volume, c);
    if (err == -E_CORRUPT)
        s->counters.corrupt++;
    /* Known before the file is given away: a restart must not reuse it either. */
    if (err == 0 && (c->flags & CHUNK_EXPOSED) == 0)
        err = put_state(held->volume, c, c->generation, c->flags | CHUNK_EXPOSED, false);
    return err;
}

static int pass(struct store *s, struct rpc_request *request, const Tarn__ChunkFd *m, const struct held *held)
{
    const struct chunk *c = held->chunk;
    char path[512];
    Tarn__ChunkFdReply reply = TARN__CHUNK_FD_REPLY__INIT;
    reply.length = c->length;
    reply.sealed = true;
    volume_chunk_path(held->volume, c->id, path);
    if (m->want_path) {
        reply.path = path;
        s->counters.fds_passed++;
        return rpc_reply(request, &reply.base);
    }
    _cleanup_(io_closep) struct io_file *file = NULL;
    int err = io_open(s->io, path, O_RDONLY, 0, &file);
    if (err != 0)
        return err;
    if (io_file_fd(file) < 0)
        return -E_NOTSUP;
    err = grant_note(s, request->conn, held->volume, c->id);
    if (err != 0)
        return err;
    s->counters.fds_passed++;
    return rpc_reply_fd(request, &reply.base, io_file_fd(file));
}

int handover_fd(struct store *s, struct rpc_request *request, const Tarn__ChunkFd *m)
{
    struct held held;
    if (!rpc_conn_is_local(request->conn))
        return -E_NOTSUP;
    /* For writing: two that ask at once verify once, and the flag changes under nobody. */
    struct volume *v;
    int err = store_volume(s, m->disk, m->chunk, &v);
    if (err == 0)
        err = store_hold_all(v, m->chunk, false, true, &held);
    if (err != 0)
        return err;
    err = prepare(s, m, &held);
    if (err == 0)
        err = pass(s, request, m, &held);
    store_release(&held);
    return err;
}
