#include "stream.h"
#include "common/err.h"
#include "common/fiber.h"

#include <fcntl.h>
#include <stdio.h>

/* Windows are filled by one fiber in order and emptied by the caller: a ring. */
struct stream {
    struct gate *gate;
    struct meta_cred cred;
    char *path;
    Tarn__FileMapReply *map; /* attributes, inline bytes */
    struct file *file;       /* NULL when inline or not needed yet */
    uint64_t offset, end;    /* of the range: next byte to read, its end */
    void *windows[STREAM_WINDOWS];
    size_t lengths[STREAM_WINDOWS];
    unsigned filled, taken;  /* counts; filled - taken windows are ready */
    bool lent, closing, reading;
    int err;
    struct fiber_queue changed;
    struct fiber_group group;
};

static int find(struct stream *stream, const struct tree *tree, const char *path)
{
    stream->path = strdup(path);
    if (stream->path == NULL)
        return -E_NOMEM;
    int r = tree_map(tree, stream->path, &stream->map);
    if (r != -E_ISDIR)
        return r;
    free(stream->path);
    if (asprintf(&stream->path, "%s/%%self", path) < 0) {
        stream->path = NULL;
        return -E_NOMEM;
    }
    r = tree_map(tree, stream->path, &stream->map);
    return r == -E_NOENT ? -E_ISDIR : r;
}

/* By inode, so that it is the file whose attributes we have. -E_NOENT: replaced meanwhile. */
static int open_file(struct stream *stream)
{
    Tarn__Where where = TARN__WHERE__INIT;

    if (stream->map->inline_data || stream->map->attr->size == 0)
        return 0;
    where.ino = stream->map->attr->ino;
    return file_open(stream->gate->meta, stream->gate->stores, &where, O_RDONLY, &stream->cred, &stream->file);
}

int stream_open(struct gate *gate, const struct tree *tree, const char *path, struct stream **ret, const Tarn__Attr **ret_attr)
{
    for (unsigned tries = 0;; tries++) {
        struct stream *stream = calloc(1, sizeof *stream);
        if (stream == NULL)
            return -E_NOMEM;
        stream->gate = gate;
        stream->cred = *tree->cred;
        int r = find(stream, tree, path);
        bool found = r == 0;
        if (found)
            r = open_file(stream);
        if (r == 0) {
            stream->end = stream->map->attr->size;
            *ret_attr = stream->map->attr;
            *ret = stream;
            return 0;
        }
        stream_close(&stream);
        if (!found || tries == 3 || (r != -E_NOENT && r != -E_STALE))
            return r;
    }
}

const char *stream_path(const struct stream *stream)
{
    return stream->path;
}

int stream_range(struct stream *stream, uint64_t offset, uint64_t length)
{
    uint64_t end;

    if (add_overflows(offset, length, &end) || end > stream->map->attr->size)
        return -E_RANGE;
    stream->offset = offset;
    stream->end = end;
    return 0;
}

/* Reads one window into its place in the ring. */
static int read_window(struct stream *stream)
{
    unsigned slot = stream->filled % STREAM_WINDOWS;
    size_t want = MIN(stream->end - stream->offset, STREAM_WINDOW);

    if (stream->windows[slot] == NULL)
        stream->windows[slot] = malloc(MIN(stream->end - stream->offset, STREAM_WINDOW));
    if (stream->windows[slot] == NULL)
        return -E_NOMEM;
    int64_t n = file_read(stream->file, stream->windows[slot], want, stream->offset);
    if (n < 0)
        return (int)n;
    if ((size_t)n != want)
        return -E_IO; /* somebody cut the file while it was sent */
    stream->lengths[slot] = want;
    stream->offset += want;
    stream->filled++;
    return 0;
}

static void read_ahead(void *arg)
{
    struct stream *stream = arg;

    while (stream->err == 0 && !stream->closing && stream->offset < stream->end) {
        /* The window the caller holds stays untouched: taken counts it only when it comes back. */
        if (stream->filled - stream->taken == STREAM_WINDOWS)
            stream->err = fiber_queue_wait(&stream->changed, 0);
        else
            stream->err = read_window(stream);
        fiber_queue_wake_all(&stream->changed);
    }
    fiber_group_done(&stream->group);
}

static int start_reading(struct stream *stream)
{
    stream->reading = true;
    if (stream->end - stream->offset <= STREAM_WINDOW)
        return read_window(stream); /* a single one: nothing to overlap with */
    fiber_group_add(&stream->group);
    int r = fiber_spawn(stream->gate->io, "read ahead", read_ahead, stream);
    if (r < 0)
        fiber_group_done(&stream->group);
    return r;
}

static int64_t next_inline(struct stream *stream, const void **ret_data)
{
    const ProtobufCBinaryData *data = &stream->map->data;
    uint64_t offset = stream->offset, n = stream->end - offset;

    if (stream->end > data->len)
        return -E_PROTO;
    *ret_data = data->data + offset;
    stream->offset = stream->end;
    return (int64_t)n;
}

int64_t stream_next(struct stream *stream, const void **ret_data)
{
    if (stream->file == NULL)
        return stream->offset == stream->end ? 0 : next_inline(stream, ret_data);
    if (stream->lent) {
        stream->lent = false;
        stream->taken++;
        fiber_queue_wake_all(&stream->changed);
    }
    if (!stream->reading && stream->offset < stream->end) {
        int r = start_reading(stream);
        if (r < 0)
            return r;
    }
    while (stream->filled == stream->taken && stream->err == 0 && stream->offset < stream->end) {
        int r = fiber_queue_wait(&stream->changed, 0);
        if (r < 0)
            return r;
    }
    if (stream->filled == stream->taken)
        return stream->err;
    unsigned slot = stream->taken % STREAM_WINDOWS;
    stream->lent = true;
    *ret_data = stream->windows[slot];
    return (int64_t)stream->lengths[slot];
}

void stream_close(struct stream **stream)
{
    struct stream *s = *stream;

    *stream = NULL;
    if (s == NULL)
        return;
    s->closing = true;
    fiber_queue_wake_all(&s->changed);
    fiber_group_wait(&s->group);
    if (s->file != NULL)
        file_close(s->file);
    if (s->map != NULL)
        tarn__file_map_reply__free_unpacked(s->map, NULL);
    for (unsigned i = 0; i < STREAM_WINDOWS; i++)
        free(s->windows[i]);
    free(s->path);
    free(s);
}
