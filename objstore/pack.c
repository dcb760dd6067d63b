#include "pack.h"

#include "get.h"
#include "partial.h"
#include "put.h"
#include "object.pb-c.h"
#include "common/check.h"
#include "common/codec.h"
#include "common/err.h"
#include "common/log.h"
#include "proto/ops.h"

#define WINDOW_BYTES BACKGROUND_WINDOW_BYTES
#define PULL_TIMEOUT_MS 5000
#define LEVEL_RAW 255 /* tarn.Piece.level: the content as it is */
#define SAMPLES 4     /* frames of a large piece that are tried before all of it is compressed */
_Static_assert(WINDOW_BYTES >= CODEC_FRAME_BYTES, "a window holds a frame's content");

struct packer {
    struct background *background;
    struct store *store;
    struct volume *volume;
    struct chunk *chunk; /* the container; all of it is held */
    uint64_t generation;
    uint8_t *window;     /* what is not yet written … */
    uint64_t at;         /* … from here on: a multiple of WINDOW_BYTES */
    size_t fill;
    uint8_t *content, *packed; /* a frame's */
    struct codec *codec;       /* of `level` */
    unsigned level;
    bool source_failed;        /* the error is one piece's, not the container's */
};

/* ------------------------------------------------------------------ the container */
static int flush(struct packer *p)
{
    uint32_t crcs[WINDOW_BYTES / CELL_BYTES];
    size_t n = 0;
    for (size_t i = 0; i < p->fill; i += CELL_BYTES)
        crcs[n++] = crc32c(0, p->window + i, MIN(CELL_BYTES, p->fill - i));
    int err = background_take(p->background, p->fill);
    if (err == 0 && p->fill > 0)
        err = partial_append(p->volume, p->chunk, p->generation, p->at, p->window, p->fill, crcs, n);
    p->at += p->fill;
    p->fill = 0;
    return err;
}

static uint64_t end_of(const struct packer *p)
{
    return p->at + p->fill;
}

static int emit(struct packer *p, const uint8_t *data, size_t n)
{
    if (n > CHUNK_BYTES_MAX - end_of(p))
        return -E_RANGE;
    int err = 0;
    while (n > 0 && err == 0) {
        size_t part = MIN(n, WINDOW_BYTES - p->fill);
        memcpy(p->window + p->fill, data, part);
        p->fill += part;
        data += part;
        n -= part;
        err = p->fill == WINDOW_BYTES ? flush(p) : 0;
    }
    return err;
}

/* ------------------------------------------------------------------ sources */
static int read_local(struct volume *v, const Tarn__Piece *piece, uint64_t offset, size_t n, uint8_t *to)
{
    struct held held;
    struct get get = {0};
    int err = store_hold_bytes(v, piece->chunk, false, offset, n, false, &held);
    if (err != 0)
        return err;
    bool good = (held.chunk->flags & (CHUNK_SEALED | CHUNK_PARTIAL)) == CHUNK_SEALED;
    err = good ? get_read(v, held.chunk, offset, n, &get) : -E_NOENT;
    if (err == 0 && get.length == n)
        memcpy(to, get.buffer + get.skip, n);
    else if (err == 0)
        err = -E_CORRUPT;
    get_fini(v, &get);
    store_release(&held);
    return err;
}

static int read_remote(struct packer *p, const Tarn__Piece *piece, const Tarn__Replica *from, uint64_t offset, size_t n, uint8_t *to)
{
    struct rpc_client *client = store_peer(p->store, from->address);
    if (client == NULL)
        return -E_NOMEM;
    Tarn__ChunkGet request = TARN__CHUNK_GET__INIT;
    request.chunk = piece->chunk;
    request.disk = from->disk;
    request.work = background_work(p->background);
    request.generation = piece->generation;
    request.offset = offset;
    request.length = n;
    struct rpc_call call = {.op = OP_CHUNK_GET, .request = &request.base, .timeout_ms = PULL_TIMEOUT_MS,
                            .reply_type = &tarn__chunk_get_reply__descriptor, .into = to, .into_size = WINDOW_BYTES};
    int err = rpc_call(client, &call);
    if (err == 0) {
        const Tarn__ChunkGetReply *reply = (const Tarn__ChunkGetReply *)call.reply;
        struct put check = {.offset = offset, .length = n, .data = to, .crcs = reply->crcs, .n_crcs = reply->n_crcs};
        err = call.reply_payload_len != n ? -E_PROTO : put_check(&check);
    }
    rpc_call_fini(&call);
    return err;
}

/* n <= WINDOW_BYTES bytes of the chunk that the piece is in, from here or from the first that has them right. */
static int read_source(struct packer *p, const Tarn__Piece *piece, uint64_t offset, size_t n, uint8_t *to)
{
    int err = background_take(p->background, n);
    if (err != 0)
        return err;
    err = read_local(p->volume, piece, offset, n, to);
    for (size_t i = 0; i < piece->n_from && err != 0 && err != -E_CANCELED; i++) {
        const Tarn__Replica *from = piece->from[i];
        struct volume *v;
        if (strcmp(from->address, p->store->address) != 0)
            err = read_remote(p, piece, from, offset, n, to);
        else if (store_volume(p->store, from->disk, piece->chunk, &v) == 0 && v != p->volume)
            err = read_local(v, piece, offset, n, to);
    }
    p->source_failed = err != 0 && err != -E_CANCELED;
    return err;
}

/* ------------------------------------------------------------------ compression */
struct work {
    struct codec *codec;
    const uint8_t *from;
    uint8_t *to;
    size_t n, cap, len;
    bool decompress;
    int err;
};

static void work_run(void *arg)
{
    struct work *w = arg;
    w->err = w->decompress ? codec_decompress(w->codec, w->from, w->n, w->to, w->cap)
                           : codec_compress(w->codec, w->from, w->n, w->to, w->cap, &w->len);
}

/* On a worker thread: a frame at a high level takes a quarter of a second. */
static int work_do(struct packer *p, struct work *work)
{
    work->codec = p->codec;
    int err = io_work(p->store->io, work_run, work);
    return err != 0 ? err : work->err;
}

static int codec_for(struct packer *p, unsigned level)
{
    if (p->codec != NULL && p->level == level)
        return 0;
    codec_destroy(p->codec);
    p->codec = codec_create((int)level);
    p->level = level;
    return p->codec == NULL ? -E_NOMEM : 0;
}

/* The content's bytes from `at` on as one frame in p->packed. */
static int frame_make(struct packer *p, const Tarn__Piece *piece, uint64_t at, size_t n, size_t *ret_len)
{
    struct work work = {.from = p->content, .to = p->packed, .n = n, .cap = codec_bound(CODEC_FRAME_BYTES)};
    int err = read_source(p, piece, piece->offset + at, n, p->content);
    if (err == 0)
        err = work_do(p, &work);
    *ret_len = work.len;
    return err;
}

static bool pays(uint64_t len, uint64_t content)
{
    return len * 100 <= content * CODEC_PAYS_PERCENT;
}

/* A few frames, spread over the piece, tell whether the rest is worth the time. */
static int samples_pay(struct packer *p, const Tarn__Piece *piece, bool *ret)
{
    uint64_t frames = (piece->content + CODEC_FRAME_BYTES - 1) / CODEC_FRAME_BYTES, len = 0, content = 0;
    unsigned samples = (unsigned)MIN((uint64_t)SAMPLES, frames);
    for (unsigned i = 0; i < samples; i++) {
        uint64_t at = frames * i / samples * CODEC_FRAME_BYTES;
        size_t n = MIN(CODEC_FRAME_BYTES, piece->content - at), made;
        int err = frame_make(p, piece, at, n, &made);
        if (err != 0)
            return err;
        len += made;
        content += n;
    }
    *ret = pays(len, content);
    return 0;
}

static int emit_table(struct packer *p, const struct codec_table *table)
{
    _cleanup_(writer_fini) struct writer w = {0};
    codec_table_encode(table, &w);
    return w.failed ? -E_NOMEM : emit(p, w.data, w.len);
}

static int write_frames(struct packer *p, const Tarn__Piece *piece)
{
    _cleanup_(codec_table_fini) struct codec_table table = {0};
    int err = 0;
    for (uint64_t at = 0; at < piece->content && err == 0; at += CODEC_FRAME_BYTES) {
        size_t n = MIN(CODEC_FRAME_BYTES, piece->content - at), len;
        err = frame_make(p, piece, at, n, &len);
        if (err == 0)
            err = codec_table_add(&table, len, n);
        if (err == 0)
            err = emit(p, p->packed, len);
    }
    return err == 0 ? emit_table(p, &table) : err;
}

/* ------------------------------------------------------------------ pieces */
static int write_as_it_is(struct packer *p, const Tarn__Piece *piece)
{
    int err = 0;
    for (uint64_t at = 0; at < piece->stored && err == 0; at += WINDOW_BYTES) {
        size_t n = MIN(WINDOW_BYTES, piece->stored - at);
        err = read_source(p, piece, piece->offset + at, n, p->content);
        if (err == 0)
            err = emit(p, p->content, n);
    }
    return err;
}

/* Raw bytes that are to be compressed; *ret_form tells whether they were. */
static int write_compressed(struct packer *p, const Tarn__Piece *piece, uint32_t *ret_form)
{
    bool worth = false;
    size_t len;
    int err = codec_for(p, piece->level);
    *ret_form = TARN__CHUNK_FORM__FORM_RAW;
    if (err == 0 && piece->content <= CODEC_FRAME_BYTES) {
        err = frame_make(p, piece, 0, piece->content, &len);
        if (err != 0 || !pays(len + 25, piece->content)) /* with its table */
            return err != 0 ? err : emit(p, p->content, piece->content);
        *ret_form = TARN__CHUNK_FORM__FORM_ZSTD;
        _cleanup_(codec_table_fini) struct codec_table table = {0};
        err = codec_table_add(&table, len, piece->content);
        if (err == 0)
            err = emit(p, p->packed, len);
        return err == 0 ? emit_table(p, &table) : err;
    }
    if (err == 0)
        err = samples_pay(p, piece, &worth);
    if (err != 0 || !worth)
        return err != 0 ? err : write_as_it_is(p, piece);
    *ret_form = TARN__CHUNK_FORM__FORM_ZSTD;
    return write_frames(p, piece);
}

/* The seek table at the piece's end. */
static int table_read(struct packer *p, const Tarn__Piece *piece, struct codec_table *ret)
{
    size_t bytes;
    uint64_t end = piece->offset + piece->stored;
    if (piece->stored < CODEC_FOOTER_BYTES)
        return -E_CORRUPT;
    int err = read_source(p, piece, end - CODEC_FOOTER_BYTES, CODEC_FOOTER_BYTES, p->content);
    if (err == 0)
        err = codec_table_measure(p->content, &bytes);
    if (err == 0 && (bytes > piece->stored || bytes > WINDOW_BYTES))
        err = -E_CORRUPT;
    if (err == 0)
        err = read_source(p, piece, end - bytes, bytes, p->content);
    if (err == 0)
        err = codec_table_decode(p->content, bytes, piece->stored, ret);
    return err == 0 && ret->content_len != piece->content ? -E_CORRUPT : err;
}

static int write_decompressed(struct packer *p, const Tarn__Piece *piece)
{
    _cleanup_(codec_table_fini) struct codec_table table = {0};
    int err = codec_for(p, CODEC_LEVEL_MIN);
    if (err == 0)
        err = table_read(p, piece, &table);
    for (size_t i = 0; i < table.n && err == 0; i++) {
        const struct codec_frame *frame = &table.frames[i];
        struct work work = {.from = p->packed, .to = p->content, .n = frame->len, .cap = frame->content_len, .decompress = true};
        if (frame->len > WINDOW_BYTES || frame->content_len > CODEC_FRAME_BYTES)
            err = -E_CORRUPT;
        if (err == 0)
            err = read_source(p, piece, piece->offset + frame->offset, frame->len, p->packed);
        if (err == 0)
            err = work_do(p, &work);
        if (err == 0)
            err = emit(p, p->content, frame->content_len);
    }
    p->source_failed |= err == -E_CORRUPT;
    return err;
}

static int write_piece(struct packer *p, const Tarn__Piece *piece, uint32_t *ret_form)
{
    bool raw = piece->form == TARN__CHUNK_FORM__FORM_RAW;
    *ret_form = piece->form;
    if (piece->stored == 0 || piece->stored > CHUNK_BYTES_MAX || piece->content > CHUNK_BYTES_MAX ||
        (raw && piece->stored != piece->content) || (piece->level != LEVEL_RAW && piece->level > CODEC_LEVEL_MAX))
        return -E_INVAL;
    if (raw && piece->level != 0 && piece->level != LEVEL_RAW)
        return write_compressed(p, piece, ret_form);
    if (!raw && piece->level == LEVEL_RAW) {
        *ret_form = TARN__CHUNK_FORM__FORM_RAW;
        return write_decompressed(p, piece);
    }
    return write_as_it_is(p, piece);
}

/* ------------------------------------------------------------------ all of it */
void pack_result_fini(struct pack_result *result)
{
    free(result->pieces);
    free(result->pointers);
    *result = (struct pack_result){0};
}

static int result_init(struct pack_result *result, size_t n)
{
    result->pieces = calloc(n + 1, sizeof *result->pieces);
    result->pointers = calloc(n + 1, sizeof *result->pointers);
    return result->pieces == NULL || result->pointers == NULL ? -E_NOMEM : 0;
}

static void result_add(struct pack_result *result, const Tarn__Piece *from, uint64_t offset, uint64_t stored, uint32_t form)
{
    Tarn__Piece *piece = &result->pieces[result->n];
    tarn__piece__init(piece);
    piece->piece = from->piece;
    piece->offset = offset;
    piece->stored = stored;
    piece->form = form;
    result->pointers[result->n++] = piece;
}

/* A piece that cannot be read leaves dead bytes at most; the others do not suffer from it. */
static int write_pieces(struct packer *p, const Tarn__ChunkTask *task, struct pack_result *ret)
{
    for (size_t i = 0; i < task->n_pieces; i++) {
        const Tarn__Piece *piece = task->pieces[i];
        uint64_t begin = end_of(p);
        uint32_t form;
        p->source_failed = false;
        int err = write_piece(p, piece, &form);
        if (err == 0)
            result_add(ret, piece, begin, end_of(p) - begin, form);
        else if (!p->source_failed)
            return err;
        else
            log_warn("chunk %llx: chunk %llx cannot be packed: %s", (unsigned long long)task->chunk,
                     (unsigned long long)piece->piece, err_sentence(err));
    }
    return ret->n == 0 ? -E_UNAVAIL : flush(p);
}

/* A whole chunk was to be compressed, and is not smaller by enough: better as it is. */
static bool no_gain(const Tarn__ChunkTask *task, const struct pack_result *result)
{
    const Tarn__Piece *piece = task->pieces[0];
    bool asked = piece->form == TARN__CHUNK_FORM__FORM_RAW && piece->level != 0 && piece->level != LEVEL_RAW;
    return task->n_pieces == 1 && asked && piece->chunk == piece->piece && !pays(result->pieces[0].stored, piece->content);
}

static int fill(struct packer *p, const Tarn__ChunkTask *task, struct pack_result *ret)
{
    int err = partial_begin(p->volume, p->chunk, p->generation);
    if (err == 0)
        err = write_pieces(p, task, ret);
    if (err != 0 || no_gain(task, ret))
        return err;
    err = partial_finish(p->background, p->chunk, p->generation, p->chunk->length);
    ret->length = p->chunk->length;
    ret->digest = chunk_digest(p->chunk);
    return err;
}

static int make_held(struct background *b, struct chunk *chunk, const Tarn__ChunkTask *task, struct pack_result *ret)
{
    struct volume *v = b->volume;
    struct packer p = {.background = b, .store = b->store, .volume = v, .chunk = chunk, .generation = task->generation};
    struct buffers *buffers = &v->buffers;
    if ((chunk->flags & CHUNK_SEALED) != 0)
        return -E_CONFLICT; /* made before: perhaps others depend on it by now */
    int err = buffers_get(buffers, BUFFER_LARGE_BYTES, &p.window);
    if (err == 0)
        err = buffers_get(buffers, BUFFER_LARGE_BYTES, &p.content);
    if (err == 0)
        err = buffers_get(buffers, BUFFER_LARGE_BYTES, &p.packed);
    CHECK(codec_bound(CODEC_FRAME_BYTES) <= BUFFER_LARGE_BYTES);
    if (err == 0)
        err = fill(&p, task, ret);
    buffers_put(buffers, BUFFER_LARGE_BYTES, p.window);
    buffers_put(buffers, BUFFER_LARGE_BYTES, p.content);
    buffers_put(buffers, BUFFER_LARGE_BYTES, p.packed);
    codec_destroy(p.codec);
    if (err != 0 || ret->length == 0)
        (void)volume_delete(v, chunk); /* if not: the next start drops it */
    return err;
}

int pack_make(struct background *b, const Tarn__ChunkTask *task, struct pack_result *ret)
{
    struct volume *v = b->volume;
    struct held held;
    *ret = (struct pack_result){0};
    if (task->n_pieces == 0)
        return -E_UNAVAIL; /* given up meanwhile */
    int err = volume_has_room(v, task->length, true); /* compaction frees more than it takes */
    if (err == 0)
        err = result_init(ret, task->n_pieces);
    if (err == 0)
        err = store_hold_all(v, task->chunk, true, true, &held);
    if (err != 0)
        return err;
    err = map_get(&v->deleted, task->chunk) != NULL ? -E_STALE : make_held(b, held.chunk, task, ret);
    store_release(&held);
    return err;
}
