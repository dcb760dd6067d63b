/* Rows of chunks, of the work queued for chunk stores, and of uploads. */
#include "common/err.h"
#include "meta.pb-c.h"
#include "record.h"

/* Version 2 of chunks and tasks says of which disk, and how far apart copies are to be. */
#define CHUNK_VERSION 2
#define TASK_VERSION 2
#define UPLOAD_VERSION_CODELESS 2 /* … and the rest of the policy there was */
#define UPLOAD_VERSION 3          /* … with code and compression */
#define STORED_SINCE 0x80  /* in the stored flags: the row has since_ns */
#define STORED_SHARES 0x40 /* … shares */
#define STORED_GROUP 0x20  /* … kind, shard and group */
#define STORED_BODY 0x10   /* … where its bytes are in another chunk */
#define FLAGS_KNOWN (CHUNK_OF_UPLOAD | CHUNK_PENDING | CHUNK_KEEP_TAIL | CHUNK_MAKING)
#define STORED_CODED 0x80 /* in the stored kind: coded */

static int done(const struct reader *r)
{
    return r->failed || reader_left(r) != 0 ? -E_CORRUPT : 0;
}

bool chunk_counts(const struct chunk *chunk)
{
    return chunk->state != TARN__CHUNK_STATE__CHUNK_DELETING && chunk->body == 0 && !(chunk->flags & CHUNK_MAKING);
}

void chunk_encode(const struct chunk *chunk, struct writer *w)
{
    writer_u8(w, CHUNK_VERSION);
    writer_u8(w, chunk->state);
    writer_u8(w, chunk->want);
    bool grouped = chunk->group != 0 || chunk->kind != CHUNK_DATA, placed = chunk->body != 0 || chunk->stored != 0;
    writer_u8(w, chunk->flags | (chunk->since_ns != 0 ? STORED_SINCE : 0) | (chunk->shares != 0 ? STORED_SHARES : 0) |
                     (grouped ? STORED_GROUP : 0) | (placed ? STORED_BODY : 0));
    writer_u8(w, chunk->live);
    writer_u64(w, chunk->owner);
    writer_u64(w, chunk->owner_offset);
    writer_u64(w, chunk->generation);
    writer_u64(w, chunk->length);
    if (chunk->flags & CHUNK_PENDING)
        writer_u64(w, chunk->session);
    writer_u64(w, chunk->heal_after_ns);
    writer_u8(w, chunk->domain);
    writer_u8(w, chunk->spread);
    writer_u8(w, chunk->wish);
    writer_u8(w, chunk->shift);
    if (chunk->since_ns != 0)
        writer_u64(w, chunk->since_ns);
    if (chunk->shares != 0)
        writer_u32(w, chunk->shares);
    if (grouped) {
        writer_u8(w, chunk->kind | (chunk->coded ? STORED_CODED : 0));
        writer_u8(w, chunk->shard);
        writer_u64(w, chunk->group);
    }
    if (placed) {
        writer_u64(w, chunk->body);
        writer_u64(w, chunk->body_offset);
        writer_u64(w, chunk->stored);
        writer_u8(w, chunk->form);
    }
    writer_u8(w, chunk->n_replicas);
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *rep = &chunk->replicas[i];
        writer_u32(w, rep->disk);
        writer_u8(w, rep->flags);
        if (rep->flags & REPLICA_SEALED) {
            writer_u64(w, rep->length);
            writer_u32(w, rep->digest);
        }
        if (rep->flags & REPLICA_COPYING)
            writer_u32(w, rep->source);
    }
}

static void chunk_decode_placement(struct reader *r, uint8_t version, struct chunk *c)
{
    uint8_t stored = c->flags;
    c->flags &= FLAGS_KNOWN;
    if ((stored & ~(FLAGS_KNOWN | STORED_SINCE | STORED_SHARES | STORED_GROUP | STORED_BODY)) != 0)
        r->failed = true;
    c->wish = c->want;
    if (version == RECORD_VERSION)
        return;
    c->counted = true;
    c->domain = reader_u8(r);
    c->spread = reader_u8(r);
    c->wish = reader_u8(r);
    c->shift = reader_u8(r);
    if (stored & STORED_SINCE)
        c->since_ns = reader_u64(r);
    if (stored & STORED_SHARES)
        c->shares = reader_u32(r);
    if (stored & STORED_GROUP) {
        c->kind = reader_u8(r);
        c->coded = (c->kind & STORED_CODED) != 0;
        c->kind &= (uint8_t)~STORED_CODED;
        c->shard = reader_u8(r);
        c->group = reader_u64(r);
    }
    if (stored & STORED_BODY) {
        c->body = reader_u64(r);
        c->body_offset = reader_u64(r);
        c->stored = reader_u64(r);
        c->form = reader_u8(r);
        r->failed |= c->stored == 0; /* nothing is said by it */
    }
}

int chunk_decode(uint64_t id, const void *data, size_t n, struct chunk *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version != RECORD_VERSION && version != CHUNK_VERSION)
        return -E_CORRUPT;
    struct chunk c = {.id = id};
    c.state = reader_u8(&r);
    c.want = reader_u8(&r);
    c.flags = reader_u8(&r);
    c.live = reader_u8(&r);
    c.owner = reader_u64(&r);
    c.owner_offset = reader_u64(&r);
    c.generation = reader_u64(&r);
    c.length = reader_u64(&r);
    if (c.flags & CHUNK_PENDING)
        c.session = reader_u64(&r);
    c.heal_after_ns = reader_u64(&r);
    chunk_decode_placement(&r, version, &c);
    c.n_replicas = reader_u8(&r);
    if (c.n_replicas > MD_REPLICAS_MAX || c.shift > 26 || c.kind > CHUNK_GHOST || c.form > TARN__CHUNK_FORM__FORM_ZSTD)
        return -E_CORRUPT;
    for (unsigned i = 0; i < c.n_replicas; i++) {
        struct chunk_replica *rep = &c.replicas[i];
        rep->disk = reader_u32(&r);
        rep->flags = reader_u8(&r);
        if (rep->flags & REPLICA_SEALED) {
            rep->length = reader_u64(&r);
            rep->digest = reader_u32(&r);
        }
        if (version != RECORD_VERSION && (rep->flags & REPLICA_COPYING))
            rep->source = reader_u32(&r);
    }
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = c;
    return 0;
}

void store_task_encode(const struct store_task *task, struct writer *w)
{
    writer_u8(w, TASK_VERSION);
    writer_u8(w, task->kind);
    writer_u64(w, task->chunk);
    writer_u64(w, task->generation);
    writer_u64(w, task->length);
    writer_u32(w, task->disk);
}

int store_task_decode(uint64_t id, const void *data, size_t n, struct store_task *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version != RECORD_VERSION && version != TASK_VERSION)
        return -E_CORRUPT;
    struct store_task task = {.id = id};
    task.kind = reader_u8(&r);
    task.chunk = reader_u64(&r);
    task.generation = reader_u64(&r);
    task.length = reader_u64(&r);
    if (version == TASK_VERSION)
        task.disk = reader_u32(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = task;
    return 0;
}

void upload_encode(const struct upload *upload, struct writer *w)
{
    writer_u8(w, UPLOAD_VERSION);
    writer_u64(w, upload->session);
    writer_u32(w, upload->uid);
    writer_u8(w, upload->copies);
    writer_u64(w, upload->created);
    writer_u8(w, upload->own_copies);
    writer_u8(w, upload->domain);
    writer_u8(w, upload->shift);
    writer_u64(w, upload->group);
    writer_u8(w, upload->code_k);
    writer_u8(w, upload->code_m);
    writer_u8(w, upload->compress);
}

int upload_decode(uint64_t id, const void *data, size_t n, struct upload *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version < RECORD_VERSION || version > UPLOAD_VERSION)
        return -E_CORRUPT;
    struct upload upload = {.id = id, .shift = 26};
    upload.session = reader_u64(&r);
    upload.uid = reader_u32(&r);
    upload.copies = reader_u8(&r);
    upload.created = reader_u64(&r);
    if (version >= UPLOAD_VERSION_CODELESS) {
        upload.own_copies = reader_u8(&r) != 0;
        upload.domain = reader_u8(&r);
        upload.shift = reader_u8(&r);
        upload.group = reader_u64(&r);
    }
    if (version == UPLOAD_VERSION) {
        upload.code_k = reader_u8(&r);
        upload.code_m = reader_u8(&r);
        upload.compress = reader_u8(&r);
    }
    if (done(&r) != 0 || upload.shift < 20 || upload.shift > 26)
        return -E_CORRUPT;
    *ret = upload;
    return 0;
}
