#include "disk.h"

#include "clustermap.h"
#include "common/err.h"
#include "meta.pb-c.h"

#define DISK_VERSION 1

void disk_encode(const struct disk *disk, struct writer *w)
{
    writer_u8(w, DISK_VERSION);
    writer_u32(w, disk->node);
    writer_u8(w, disk->up);
    writer_u8(w, disk->flags);
    writer_u32(w, disk->queue);
    const uint64_t numbers[] = {disk->total,   disk->free,    disk->chunks,  disk->down_since_ns,
                                disk->recount, disk->ready,   disk->copying, disk->leaving,
                                disk->sources, disk->bytes,   disk->bytes_at, disk->busy_ns,
                                disk->balance_after_ns, disk->drain_since_ns, disk->promised};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        writer_u64(w, numbers[i]);
    writer_u8(w, disk->uuid_len);
    writer_bytes(w, disk->uuid, disk->uuid_len);
}

int disk_decode(uint32_t id, const void *data, size_t n, struct disk *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != DISK_VERSION)
        return -E_CORRUPT;
    struct disk disk = {.id = id};
    disk.node = reader_u32(&r);
    disk.up = reader_u8(&r) != 0;
    disk.flags = reader_u8(&r);
    disk.queue = reader_u32(&r);
    uint64_t *const numbers[] = {&disk.total,   &disk.free,    &disk.chunks,  &disk.down_since_ns,
                                 &disk.recount, &disk.ready,   &disk.copying, &disk.leaving,
                                 &disk.sources, &disk.bytes,   &disk.bytes_at, &disk.busy_ns,
                                 &disk.balance_after_ns, &disk.drain_since_ns, &disk.promised};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        *numbers[i] = reader_u64(&r);
    disk.uuid_len = reader_u8(&r);
    const uint8_t *uuid = reader_bytes(&r, disk.uuid_len);
    if (uuid == NULL || disk.uuid_len > DISK_UUID_MAX || r.failed || reader_left(&r) != 0)
        return -E_CORRUPT;
    memcpy(disk.uuid, uuid, disk.uuid_len);
    *ret = disk;
    return 0;
}

/* Version 1: the node's row says what there is to say of its disk. */
static int of_node(struct tables *t, uint32_t id, struct disk *ret)
{
    struct node node;
    int err = clustermap_get(t, id, &node);
    if (err == 0)
        *ret = disk_of_node(&node);
    return err;
}

int disk_get(struct tables *t, uint32_t id, struct disk *ret)
{
    struct key key = key_1(TABLE_DISK, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT)
        return of_node(t, id, ret);
    if (err != 0)
        return err;
    return disk_decode(id, value.data, value.len, ret) != 0 ? tables_corrupt(t, &key, "disk") : 0;
}

int disk_put(struct tables *t, const struct disk *disk)
{
    _cleanup_(writer_fini) struct writer w = {0};
    disk_encode(disk, &w);
    struct key key = key_1(TABLE_DISK, disk->id);
    return tables_put(t, &key, &w);
}

uint64_t disk_used(const struct disk *disk)
{
    uint64_t said = disk->total - MIN(disk->free, disk->total);
    if (disk->bytes >= disk->bytes_at)
        return said + (disk->bytes - disk->bytes_at) + disk->promised;
    return said - MIN(said, disk->bytes_at - disk->bytes) + disk->promised;
}

/* ---- chunks on disks */
struct share {
    uint32_t disk;
    int64_t ready, copying, leaving, sources, bytes, promised;
};
struct shares {
    struct share items[4 * MD_REPLICAS_MAX]; /* of two rows: disks and sources */
    unsigned n;
};

static struct share *share_of(struct shares *shares, uint32_t disk)
{
    for (unsigned i = 0; i < shares->n; i++)
        if (shares->items[i].disk == disk)
            return &shares->items[i];
    shares->items[shares->n] = (struct share){.disk = disk};
    return &shares->items[shares->n++];
}

static void add(struct shares *shares, const struct chunk *chunk, int sign)
{
    if (!chunk->counted)
        return;
    uint64_t full = 1ull << (chunk->shift != 0 ? chunk->shift : 26);
    bool open = chunk->state == TARN__CHUNK_STATE__CHUNK_OPEN;
    int64_t bytes = (int64_t)(open ? full : chunk->length);
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        const struct chunk_replica *r = &chunk->replicas[i];
        struct share *share = share_of(shares, r->disk);
        bool copying = r->flags & REPLICA_COPYING, ready = r->flags & REPLICA_READY;
        share->ready += ready ? sign : 0;
        share->copying += copying ? sign : 0;
        share->leaving += r->flags & REPLICA_LEAVING ? sign : 0;
        share->bytes += ready && !open ? sign * bytes : 0;
        share->promised += copying || (ready && open) ? sign * bytes : 0;
        if (copying && r->source != 0)
            share_of(shares, r->source)->sources += sign;
    }
}

static int apply(struct tables *t, const struct share *share)
{
    struct disk disk;
    int err = disk_get(t, share->disk, &disk);
    if (err != 0) /* a disk that was forgotten counts nothing */
        return err == -E_NOENT ? 0 : err;
    disk.ready += (uint64_t)share->ready;
    disk.copying += (uint64_t)share->copying;
    disk.leaving += (uint64_t)share->leaving;
    disk.sources += (uint64_t)share->sources;
    disk.bytes += (uint64_t)share->bytes;
    disk.promised += (uint64_t)share->promised;
    return disk_put(t, &disk);
}

int disk_count_chunk(struct tables *t, const struct chunk *before, const struct chunk *after)
{
    struct shares shares = {0};
    add(&shares, before, -1);
    add(&shares, after, 1);
    int err = 0;
    for (unsigned i = 0; i < shares.n && err == 0; i++) {
        const struct share *s = &shares.items[i];
        if (s->ready != 0 || s->copying != 0 || s->leaving != 0 || s->sources != 0 || s->bytes != 0 ||
            s->promised != 0)
            err = apply(t, s);
    }
    return err;
}
