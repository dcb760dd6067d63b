/* A put: bytes are gathered in windows; a full window is sent by a fiber of its own while the next one
 * fills. A chunk that is full, or the last, is synced by whichever of its windows ends last.
 *
 *   put_write ─ window ─ window ─ … ─┐         chunk 0: ████████ synced
 *                                    ├─ fibers chunk 1: ████▒▒▒▒ windows under way
 *   put_commit waits for all ────────┘         chunk 2: not begun before chunk 0 is synced
 *
 * Where the policy has a code, chunks are the data of a group (put_code.h): a window is folded into the parity before it is
 * sent, and the parity of a group goes out beside the next group's data. A coded chunk has one member; when that fails the
 * chunk is lost and the put goes on.
 *
 * Nothing is visible before OBJECT_COMMIT. Up to INLINE_MAX bytes need no chunk at all. */
#include "object.h"
#include "put_code.h"

#include "common/check.h"
#include "common/err.h"
#include "common/fiber.h"
#include "common/log.h"

#define PUT_MAGIC 0x70757421u
#define WINDOW MIB(1)
#define WINDOWS_MAX 8        /* 8 MiB of memory for a put */
#define CHUNKS_AT_ONCE 2
#define INLINE_MAX 4096
#define CHUNK_BYTES_DEFAULT MIB(64)
#define CHUNKS_MAX 65536     /* of one put: 4 TiB of full chunks */

struct put_chunk {
    struct put *put;
    Tarn__Extent *extent;
    uint64_t taken;       /* bytes given to windows so far */
    unsigned under_way;   /* windows of it */
    bool full, syncing;
    struct put_group *group; /* NULL: kept in copies */
    unsigned shard;          /* of the group */
    bool lost;               /* its only member failed: nothing is sent any more */
    struct store_lives lives; /* of its members, since its first window */
};

struct window {
    struct put *put;
    struct put_chunk *chunk;
    uint64_t offset;
    size_t len;
    uint8_t *data;
};

struct put {
    uint32_t magic;
    struct io *io;
    struct meta *meta;
    struct stores *stores;
    struct meta_cred cred;
    uint32_t *groups;
    uint64_t parent_ino;
    char *parent_path, *path;
    char *policy_dir, *policy_path; /* NULL = those */
    bool parent_nofollow;
    uint32_t mode, copies;
    bool exclusive, file, no_inline;

    uint64_t upload; /* 0 = no chunk yet */
    uint64_t session; /* in which the upload was begun */
    struct put_chunk *chunks[CHUNKS_AT_ONCE]; /* those not synced yet, by index modulo */
    uint64_t *lengths; /* of all chunks */
    size_t n_chunks;
    uint64_t sent;     /* bytes in them */
    uint64_t expected; /* bytes of the object; 0 = not known */

    bool whole; /* chunks in copies only from here on */
    struct put_group *coding, *finishing; /* being filled; all its data is folded, not all is on disk */
    uint64_t *lost; /* chunks that are not stored */
    size_t n_lost;

    uint8_t *filling; /* the window being filled */
    size_t filled;
    uint8_t *spare[WINDOWS_MAX];
    unsigned n_spare, n_buffers;
    struct fiber_queue progress;
    struct fiber_group group;
    int err;
};

/* ------------------------------------------------------------------ life */

static void put_free(struct put *put)
{
    fiber_group_wait(&put->group);
    for (unsigned i = 0; i < CHUNKS_AT_ONCE; i++) {
        if (!put->chunks[i])
            continue;
        tarn__extent__free_unpacked(put->chunks[i]->extent, NULL);
        free(put->chunks[i]);
    }
    for (unsigned i = 0; i < put->n_spare; i++)
        free(put->spare[i]);
    free(put->filling);
    put_group_free(put->coding);
    put_group_free(put->finishing);
    free(put->lengths);
    free(put->lost);
    free(put->groups);
    free(put->parent_path);
    free(put->path);
    free(put->policy_dir);
    free(put->policy_path);
    put->magic = 0;
    free(put);
}

static int cred_copy(struct put *put, const struct meta_cred *cred)
{
    if (!cred)
        return 0;
    put->cred = *cred;
    put->cred.groups = NULL;
    if (cred->n_groups == 0)
        return 0;
    put->groups = malloc(cred->n_groups * sizeof put->groups[0]);
    if (!put->groups)
        return -E_NOMEM;
    memcpy(put->groups, cred->groups, cred->n_groups * sizeof put->groups[0]);
    put->cred.groups = put->groups;
    return 0;
}

int put_begin(struct meta *meta, struct stores *stores, const struct put_options *options, struct put **ret)
{
    struct put *put = calloc(1, sizeof *put);
    if (!put)
        return -E_NOMEM;
    put->magic = PUT_MAGIC;
    put->io = fiber_io();
    put->meta = meta;
    put->stores = stores;
    put->parent_ino = options->parent.ino;
    put->parent_nofollow = options->parent.nofollow;
    put->parent_path = strdup(options->parent.path ? options->parent.path : "");
    put->path = strdup(options->path);
    put->mode = options->mode ? options->mode : 0644;
    put->copies = options->copies;
    put->exclusive = options->exclusive;
    put->file = options->file;
    put->no_inline = options->no_inline;
    put->expected = options->expected_size;
    put->whole = options->copies != 0; /* said for this object: a policy's code does not count */
    bool all = put->parent_path && put->path;
    if (options->policy_dir) {
        put->policy_dir = strdup(options->policy_dir);
        put->policy_path = strdup(options->policy_path);
        all &= put->policy_dir && put->policy_path;
    }
    int r = all ? cred_copy(put, options->cred) : -E_NOMEM;
    if (r < 0) {
        put_free(put);
        return r;
    }
    *ret = put;
    return 0;
}

void put_expect(struct put *put, uint64_t size)
{
    CHECK_MAGIC(put, PUT_MAGIC);
    CHECK(put->n_chunks == 0);
    put->expected = size;
}

static void where_fill(const struct put *put, Tarn__Where *where)
{
    tarn__where__init(where);
    where->ino = put->parent_ino;
    where->path = put->parent_path;
    where->nofollow = put->parent_nofollow;
}

/* Where the policy is looked for. */
static char *near_fill(const struct put *put, Tarn__Where *where)
{
    where_fill(put, where);
    if (!put->policy_dir)
        return put->path;
    tarn__where__init(where);
    where->path = put->policy_dir;
    return put->policy_path;
}

/* ------------------------------------------------------------------ chunks */

static int lengths_grow(struct put *put)
{
    if (put->n_chunks == CHUNKS_MAX)
        return -E_FBIG;
    if (put->n_chunks & (put->n_chunks - 1)) /* room doubles at powers of two */
        return 0;
    size_t room = put->n_chunks ? put->n_chunks * 2 : 1;
    uint64_t *lengths = realloc(put->lengths, room * sizeof lengths[0]);
    if (!lengths)
        return -E_NOMEM;
    put->lengths = lengths;
    return 0;
}

static int chunk_ask(struct put *put, struct put_chunk *chunk)
{
    Tarn__Where near;
    char *path = near_fill(put, &near);
    Tarn__UploadChunk request = TARN__UPLOAD_CHUNK__INIT;
    request.upload = put->upload;
    request.index = put->n_chunks;
    request.writer_node = stores_node(put->stores);
    request.near = &near;
    request.copies = put->copies;
    request.path = put->upload == 0 ? path : request.path;
    Tarn__UploadChunkReply *reply = NULL;
    int r = meta_call(put->meta, OP_UPLOAD_CHUNK, &request.base, &request.ctx, &put->cred,
                      &tarn__upload_chunk_reply__descriptor, &reply, NULL);
    if (r < 0)
        return r;
    if (put->upload == 0)
        put->session = meta_session(put->meta);
    put->upload = reply->upload;
    chunk->extent = take_ptr(reply->extent);
    tarn__upload_chunk_reply__free_unpacked(reply, NULL);
    return chunk->extent ? 0 : -E_PROTO;
}

static void chunk_free(struct put_chunk *chunk)
{
    if (chunk->extent)
        tarn__extent__free_unpacked(chunk->extent, NULL);
    free(chunk);
}

static struct put_chunk **chunk_slot(struct put *put, size_t index)
{
    return &put->chunks[index % CHUNKS_AT_ONCE];
}

static void fail(struct put *put, int err)
{
    if (err < 0 && put->err == 0)
        put->err = err;
    if (err < 0)
        fiber_queue_wake_all(&put->progress);
}

/* ------------------------------------------------------------------ groups */

/* Each user of the group has ended when its bytes are on disk or lost. */
static void group_unuse(struct put *put, struct put_group *group)
{
    if (--group->users > 0 || put->finishing != group)
        return;
    put->finishing = NULL;
    put_group_free(group);
    fiber_queue_wake_all(&put->progress);
}

static int lost_note(struct put *put, uint64_t chunk)
{
    uint64_t *lost = realloc(put->lost, (put->n_lost + 1) * sizeof lost[0]);
    if (!lost)
        return -E_NOMEM;
    put->lost = lost;
    put->lost[put->n_lost++] = chunk;
    return 0;
}

static void member_lost(struct put *put, struct put_group *group, uint64_t chunk, int err)
{
    int r = put_group_lose(group, chunk, err);
    fail(put, r == 0 ? lost_note(put, chunk) : r);
}

static void parity_ended(void *arg, struct put_group *group, uint64_t chunk, int err)
{
    struct put *put = arg;
    if (err < 0 && put->err == 0)
        member_lost(put, group, chunk, err);
    group_unuse(put, group);
}

/* The group being filled gets no more data: its parity goes out. At most one is that far, so two hold memory. */
static int group_close(struct put *put)
{
    while (put->finishing && put->err == 0) {
        int r = fiber_queue_wait(&put->progress, 0);
        if (r < 0)
            return r;
    }
    if (put->err)
        return put->err;
    put->finishing = take_ptr(put->coding);
    return put_group_send_parity(put->finishing, put->session, &put->group, parity_ended, put);
}

/* Fewer bytes are never coded: the smallest code has two data shards of 1 MiB. */
#define CODED_BYTES_MIN MIB(2)

static int group_begin(struct put *put)
{
    uint64_t remaining = put->expected > put->sent ? put->expected - put->sent : 0;
    if (put->whole || (remaining > 0 && remaining < CODED_BYTES_MIN))
        return 0;
    while (put->finishing && put->err == 0 &&
           put_code_memory_used() + put->finishing->code.reserved > stores_code_memory(put->stores)) {
        int r = fiber_queue_wait(&put->progress, 0); /* its own memory is enough for the next */
        if (r < 0)
            return r;
    }
    if (put->err)
        return put->err;
    Tarn__Where near;
    char *path = near_fill(put, &near);
    struct put_group_where where = {
        .stores = put->stores,
        .meta = put->meta,
        .cred = &put->cred,
        .near = &near,
        .path = path,
        .upload = put->upload,
        .index = put->n_chunks,
        .remaining = remaining,
        .before = put->sent,
    };
    uint64_t upload = put->upload;
    int r = put_group_begin(&where, &upload, &put->coding);
    if (put->upload == 0 && upload != 0)
        put->session = meta_session(put->meta);
    put->upload = upload;
    put->whole = r == -E_NOTSUP;
    return r == -E_NOTSUP ? 0 : r;
}

/* The chunk's place in a group, or in copies of its own. */
static int chunk_place(struct put *put, struct put_chunk *chunk)
{
    int r = 0;
    if (put->coding && put->n_chunks - put->coding->first == put->coding->code.codec.k)
        r = group_close(put);
    if (r == 0 && !put->coding)
        r = group_begin(put);
    if (r < 0 || !put->coding)
        return r < 0 ? r : chunk_ask(put, chunk);
    chunk->group = put->coding;
    chunk->shard = (unsigned)(put->n_chunks - put->coding->first);
    chunk->extent = take_ptr(put->coding->reply->data[chunk->shard]);
    chunk->group->users++;
    return 0;
}

/* ------------------------------------------------------------------ the life of a chunk */

/* Waits until the chunk two before is synced, then asks for a new one. */
static int chunk_begin(struct put *put)
{
    struct put_chunk **slot = chunk_slot(put, put->n_chunks);
    while (*slot && put->err == 0) {
        int r = fiber_queue_wait(&put->progress, 0);
        if (r < 0)
            return r;
    }
    int r = put->err ? put->err : lengths_grow(put);
    if (r < 0)
        return r;
    struct put_chunk *chunk = calloc(1, sizeof *chunk);
    if (!chunk)
        return -E_NOMEM;
    chunk->put = put;
    r = chunk_place(put, chunk);
    if (r < 0) {
        chunk_free(chunk);
        return r;
    }
    *slot = chunk;
    put->lengths[put->n_chunks++] = 0;
    return 0;
}

/* What one try to store the chunk's bytes came to. */
static void chunk_tried(struct put_chunk *chunk, int err)
{
    struct put *put = chunk->put;
    if (err == 0 || chunk->lost || put->err)
        return;
    if (!chunk->group) {
        fail(put, err);
        return;
    }
    chunk->lost = true;
    member_lost(put, chunk->group, chunk->extent->chunk, err);
}

/* The last window of a full chunk has ended: all of it goes to disk. Called by that window's fiber. */
static void chunk_finish(struct put_chunk *chunk)
{
    struct put *put = chunk->put;
    if (!chunk->full || chunk->under_way > 0 || chunk->syncing || put->err)
        return;
    chunk->syncing = true;
    if (!chunk->lost)
        chunk_tried(chunk, stores_sync(put->stores, put->session, chunk->extent, &chunk->lives));
    if (put->err)
        return; /* put_free() frees it */
    for (unsigned i = 0; i < CHUNKS_AT_ONCE; i++)
        if (put->chunks[i] == chunk)
            put->chunks[i] = NULL;
    if (chunk->group)
        group_unuse(put, chunk->group);
    chunk_free(chunk);
    fiber_queue_wake_all(&put->progress);
}

/* ------------------------------------------------------------------ windows */

static void window_run(void *arg)
{
    struct window *window = arg;
    struct put *put = window->put;
    struct put_chunk *chunk = window->chunk;
    if (put->err == 0 && !chunk->lost)
        chunk_tried(chunk, stores_write(put->stores, put->session, chunk->extent, chunk->extent->chunk_offset + window->offset,
                                        window->data, window->len, false, &chunk->lives));
    put->spare[put->n_spare++] = window->data;
    free(window);
    chunk->under_way--;
    fiber_queue_wake_all(&put->progress);
    chunk_finish(chunk);
    fiber_group_done(&put->group);
}

static int window_spawn(struct put *put, struct put_chunk *chunk)
{
    struct window *window = malloc(sizeof *window);
    if (!window)
        return -E_NOMEM;
    *window = (struct window){.put = put, .chunk = chunk, .offset = chunk->taken};
    window->len = put->filled;
    window->data = put->filling;
    fiber_group_add(&put->group);
    int r = fiber_spawn(put->io, "put-window", window_run, window);
    if (r < 0) {
        fiber_group_done(&put->group);
        free(window);
        return r;
    }
    chunk->under_way++;
    put->filling = NULL;
    return 0;
}

static int window_send(struct put *put, struct put_chunk *chunk)
{
    if (chunk->group)
        put_code_fold(&chunk->group->code, chunk->shard, chunk->taken, put->filling, put->filled);
    int r = chunk->lost ? 0 : window_spawn(put, chunk); /* of a lost one the parity keeps the bytes */
    if (r < 0)
        return r;
    chunk->taken += put->filled;
    put->sent += put->filled;
    put->lengths[put->n_chunks - 1] = chunk->taken;
    put->filled = 0;
    return 0;
}

static uint64_t chunk_room(const struct put_chunk *chunk)
{
    uint64_t size = chunk->extent->length ? chunk->extent->length : CHUNK_BYTES_DEFAULT;
    return size - MIN(size, chunk->taken);
}

/* The chunk being filled, or NULL before the first. */
static struct put_chunk *chunk_current(struct put *put)
{
    return put->n_chunks ? *chunk_slot(put, put->n_chunks - 1) : NULL;
}

static int window_flush(struct put *put)
{
    struct put_chunk *chunk = chunk_current(put);
    if (!chunk || chunk->full) {
        int r = chunk_begin(put);
        if (r < 0)
            return r;
        chunk = chunk_current(put);
    }
    int r = window_send(put, chunk);
    if (r < 0 || chunk_room(chunk) > 0)
        return r;
    chunk->full = true;
    chunk_finish(chunk); /* a lost one may have no window under way */
    return put->err;
}

static int window_need(struct put *put)
{
    while (!put->filling) {
        if (put->err)
            return put->err;
        if (put->n_spare > 0) {
            put->filling = put->spare[--put->n_spare];
        } else if (put->n_buffers < WINDOWS_MAX) {
            put->filling = aligned_alloc(4096, WINDOW);
            if (!put->filling)
                return -E_NOMEM;
            put->n_buffers++;
        } else {
            int r = fiber_queue_wait(&put->progress, 0);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* How much the window being filled may hold: never more than the chunk still takes. */
static size_t window_room(struct put *put)
{
    const struct put_chunk *chunk = chunk_current(put);
    uint64_t room = WINDOW;
    if (chunk && !chunk->full)
        room = MIN(room, chunk_room(chunk));
    return (size_t)room - put->filled;
}

int put_write(struct put *put, const void *buf, size_t n)
{
    CHECK_MAGIC(put, PUT_MAGIC);
    const uint8_t *at = buf;
    while (n > 0) {
        int r = window_need(put);
        if (r < 0)
            return r;
        size_t part = MIN(n, window_room(put));
        memcpy(put->filling + put->filled, at, part);
        put->filled += part;
        at += part;
        n -= part;
        if (window_room(put) > 0)
            continue;
        r = window_flush(put);
        if (r < 0) {
            fail(put, r);
            return r;
        }
    }
    return put->err;
}

/* ------------------------------------------------------------------ the end */

/* Sends what is left and waits until every chunk is on disk everywhere. */
static int put_drain(struct put *put)
{
    int r = put->err;
    bool is_inline = put->n_chunks == 0 && put->filled <= (put->no_inline ? 0 : INLINE_MAX);
    put->expected = put->sent + put->filled; /* now it is known */
    if (r == 0 && put->filled > 0 && !is_inline)
        r = window_flush(put);
    struct put_chunk *last = chunk_current(put);
    if (r == 0 && last && !last->full) {
        last->full = true;
        chunk_finish(last);
    }
    if (r == 0 && put->coding)
        r = group_close(put);
    fail(put, r);
    fiber_group_wait(&put->group);
    CHECK(put->err || !put->finishing);
    return put->err;
}

static void upload_abort(struct put *put)
{
    if (put->upload == 0)
        return;
    Tarn__UploadAbort request = TARN__UPLOAD_ABORT__INIT;
    request.upload = put->upload;
    int r = meta_call(put->meta, OP_UPLOAD_ABORT, &request.base, &request.ctx, &put->cred, NULL,
                      NULL, NULL);
    if (r < 0)
        log_debug("upload not given back (%s): the end of the session does it", err_sentence(r));
}

void put_abort(struct put *put)
{
    if (!put)
        return;
    CHECK_MAGIC(put, PUT_MAGIC);
    fail(put, -E_CANCELED); /* windows that have not begun send nothing */
    fiber_group_wait(&put->group);
    upload_abort(put);
    put_free(put);
}

/* The object as a message that borrows from put and from `parts`. */
struct object_parts {
    Tarn__Where parent;
    Tarn__UploadPart part;
    Tarn__UploadPart *list[1];
};

static void object_fill(struct put *put, struct object_parts *parts, Tarn__NewObject *object)
{
    tarn__new_object__init(object);
    where_fill(put, &parts->parent);
    object->parent = &parts->parent;
    object->path = put->path;
    object->mode = put->mode;
    object->exclusive = put->exclusive;
    object->file = put->file;
    if (put->n_chunks == 0) {
        object->data = (ProtobufCBinaryData){.data = put->filling, .len = put->filled};
        return;
    }
    tarn__upload_part__init(&parts->part);
    parts->part.upload = put->upload;
    parts->part.n_lengths = put->n_chunks;
    parts->part.lengths = put->lengths;
    parts->part.n_lost = put->n_lost;
    parts->part.lost = put->lost;
    parts->list[0] = &parts->part;
    object->n_parts = 1;
    object->parts = parts->list;
}

static int commit_send(struct put *put, Tarn__NewObject *object, Tarn__Attr **ret_attr)
{
    Tarn__ObjectCommit request = TARN__OBJECT_COMMIT__INIT;
    request.object = object;
    Tarn__Entry *entry = NULL;
    int r = meta_call(put->meta, OP_OBJECT_COMMIT, &request.base, &request.ctx, &put->cred,
                      &tarn__entry__descriptor, &entry, NULL);
    if (r < 0)
        return r;
    if (ret_attr)
        *ret_attr = take_ptr(entry->attr);
    tarn__entry__free_unpacked(entry, NULL);
    return 0;
}

int put_commit(struct put *put, const void *etag, size_t etag_len, Tarn__XattrPair **xattrs, size_t n_xattrs,
               Tarn__Attr **ret_attr)
{
    CHECK_MAGIC(put, PUT_MAGIC);
    int r = put_drain(put);
    if (r == 0) {
        struct object_parts parts;
        Tarn__NewObject object;
        object_fill(put, &parts, &object);
        object.etag = (ProtobufCBinaryData){.data = (uint8_t *)etag, .len = etag_len};
        object.xattrs = xattrs;
        object.n_xattrs = n_xattrs;
        r = commit_send(put, &object, ret_attr);
    }
    if (r < 0) {
        put_abort(put);
        return r;
    }
    put_free(put);
    return 0;
}

/* A message of its own, through its packed form. */
static int object_copy(const Tarn__NewObject *object, Tarn__NewObject **ret)
{
    size_t len = tarn__new_object__get_packed_size(object);
    _cleanup_free_ uint8_t *packed = malloc(len ? len : 1);
    if (!packed)
        return -E_NOMEM;
    tarn__new_object__pack(object, packed);
    *ret = tarn__new_object__unpack(NULL, len, packed);
    return *ret ? 0 : -E_NOMEM;
}

int put_detach(struct put *put, Tarn__NewObject **ret)
{
    CHECK_MAGIC(put, PUT_MAGIC);
    int r = put_drain(put);
    if (r == 0) {
        struct object_parts parts;
        Tarn__NewObject object;
        object_fill(put, &parts, &object);
        r = object_copy(&object, ret);
    }
    if (r < 0) {
        put_abort(put);
        return r;
    }
    put_free(put);
    return 0;
}
