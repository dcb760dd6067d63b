#include "handover.h"

#include "get.h"
#include "put.h"
#include "common/err.h"

#include <fcntl.h>

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
