#include "collect.h"

#include "common/err.h"
#include "common/fiber.h"

#include <stdio.h>

#define PIECE KIB(256)

/* Stored as root: the agent's user need not be able to write there; the object is the job's. */
static int begin(struct meta *meta, struct stores *stores, const char *path, struct put **ret)
{
    struct put_options options = {.cred = &meta_root, .parent = TARN__WHERE__INIT, .path = path};
    return put_begin(meta, stores, &options, ret);
}

static int finish(struct put *put, uint32_t uid, uint32_t gid, Tarn__NewObject **ret)
{
    int err = put_detach(put, ret);
    if (err != 0)
        return err;
    (*ret)->uid = uid;
    (*ret)->gid = gid;
    return 0;
}

int collect_output(struct meta *meta, struct stores *stores, int fd, const char *path, uint32_t uid, uint32_t gid,
                   Tarn__NewObject **ret)
{
    struct io *io = fiber_io();
    struct put *put = NULL;
    _cleanup_free_ uint8_t *buf = malloc(PIECE);
    int err = buf != NULL ? begin(meta, stores, path, &put) : -E_NOMEM;
    int64_t n = 0;
    while (buf != NULL && (n = io_read_fd(io, fd, buf, PIECE, -1)) > 0)
        if (err == 0)
            err = put_write(put, buf, (size_t)n);
    if (n < 0 && err == 0)
        err = (int)n;
    if (err == 0)
        return finish(put, uid, gid, ret);
    if (put != NULL)
        put_abort(put);
    return err;
}

int collect_err_read(struct io *io, int fd, struct collect_err *err)
{
    err->head = malloc(COLLECT_ERR_HEAD);
    if (err->head == NULL)
        return -E_NOMEM;
    int64_t n;
    while (err->head_len < COLLECT_ERR_HEAD &&
           (n = io_read_fd(io, fd, err->head + err->head_len, COLLECT_ERR_HEAD - err->head_len, -1)) != 0) {
        if (n < 0)
            return (int)n;
        err->head_len += (size_t)n;
    }
    if (err->head_len < COLLECT_ERR_HEAD)
        return 0;
    err->tail = malloc(COLLECT_ERR_TAIL);
    if (err->tail == NULL)
        return -E_NOMEM;
    for (;;) {
        size_t at = err->tail_total % COLLECT_ERR_TAIL;
        n = io_read_fd(io, fd, err->tail + at, COLLECT_ERR_TAIL - at, -1);
        if (n <= 0)
            return (int)n;
        err->tail_total += (uint64_t)n;
    }
}

static int write_tail(struct put *put, const struct collect_err *err)
{
    char line[96];
    size_t at = err->tail_total % COLLECT_ERR_TAIL;
    if (err->tail_total <= COLLECT_ERR_TAIL)
        return put_write(put, err->tail, (size_t)err->tail_total);
    int n = snprintf(line, sizeof line, "\n[... %llu bytes are not kept ...]\n",
                     (unsigned long long)(err->tail_total - COLLECT_ERR_TAIL));
    int r = put_write(put, line, (size_t)n);
    if (r == 0)
        r = put_write(put, err->tail + at, COLLECT_ERR_TAIL - at);
    if (r == 0 && at != 0)
        r = put_write(put, err->tail, at);
    return r;
}

int collect_err_store(struct meta *meta, struct stores *stores, const struct collect_err *err, const char *path,
                      uint32_t uid, uint32_t gid, Tarn__NewObject **ret)
{
    struct put *put = NULL;
    int r = begin(meta, stores, path, &put);
    if (r != 0)
        return r;
    r = put_write(put, err->head, err->head_len);
    if (r == 0 && err->tail_total != 0)
        r = write_tail(put, err);
    if (r == 0)
        return finish(put, uid, gid, ret);
    put_abort(put);
    return r;
}

bool collect_err_empty(const struct collect_err *err)
{
    return err->head_len == 0;
}

void collect_err_fini(struct collect_err *err)
{
    free(err->head);
    free(err->tail);
    *err = (struct collect_err){.head = NULL};
}
