#include "oracle.h"

#include "common/check.h"
#include "common/crc.h"
#include "objstore/store.h"

#include <inttypes.h>
#include <stdio.h>

static char why[256];

static const struct oracle_copy *find(const struct oracle_copies *copies, uint64_t chunk, uint32_t disk)
{
    for (size_t i = 0; i < copies->n; i++)
        if (copies->items[i].chunk == chunk && copies->items[i].disk == disk)
            return &copies->items[i];
    return NULL;
}

static bool same(const struct chunk *chunk, const struct oracle_copy *copy)
{
    return (chunk->flags & CHUNK_SEALED) != 0 && chunk->length == copy->length && chunk_digest(chunk) == copy->digest;
}

/* The bytes on the disk, by the checksums of the disk's own index. */
static bool whole(struct world_host *host, const struct volume *volume, const struct chunk *chunk)
{
    static uint8_t buf[CELL_BYTES];
    char path[512];
    volume_chunk_path(volume, chunk->id, path);
    for (uint32_t i = 0; i < chunk->n_cells; i++) {
        struct cell cell = chunk->cells[i];
        if (cell.valid > 0 && (sim_disk_peek(host->host, path, (uint64_t)i * CELL_BYTES, buf, cell.valid) != 0 ||
                               crc32c(0, buf, cell.valid) != cell.crc))
            return false;
    }
    return true;
}

bool oracle_bytes(struct world *world, uint32_t disk, uint64_t id, uint8_t *buf, size_t n)
{
    struct world_host *host = &world->stores[disk - 1]; /* a store's disk has its number (world.c) */
    const struct volume *volume = ((const struct store *)host->service)->volumes[0];
    const struct chunk *chunk = map_get(&volume->index.chunks, id);
    char path[512];
    if (chunk == NULL)
        return false;
    memset(buf, 0, n);
    volume_chunk_path(volume, id, path);
    for (uint32_t i = 0; i < chunk->n_cells && (uint64_t)i * CELL_BYTES < n; i++) {
        size_t at = (size_t)i * CELL_BYTES, valid = MIN(chunk->cells[i].valid, n - at);
        if (valid > 0 && sim_disk_peek(host->host, path, at, buf + at, valid) != 0)
            return false;
    }
    return true;
}

/* Counts the chunks of the disk that are as expected; says in `why` which is not. */
static size_t see_volume(struct world_host *host, struct volume *volume, const struct oracle_copies *copies)
{
    size_t at = 0, good = 0;
    uint64_t id;
    void *value;
    uint32_t disk = volume->super.disk;
    while (map_next(&volume->index.chunks, &at, &id, &value)) {
        if (!chunk_is_real(value))
            continue;
        const struct oracle_copy *copy = find(copies, id, disk);
        if (copy == NULL)
            snprintf(why, sizeof why, "disk %u holds chunk %" PRIx64 " (flags %x, length %" PRIu64 "), which nobody counts on there", disk, id,
                     ((const struct chunk *)value)->flags, ((const struct chunk *)value)->length);
        else if (!same(value, copy))
            snprintf(why, sizeof why, "chunk %" PRIx64 " at disk %u is not as sealed", id, disk);
        else if (!whole(host, volume, value))
            snprintf(why, sizeof why, "chunk %" PRIx64 " at disk %u is damaged", id, disk);
        else
            good++;
    }
    return good;
}

static size_t see_store(struct world_host *host, const struct oracle_copies *copies)
{
    size_t good = 0;
    struct store *store = host->service;
    for (unsigned i = 0; i < store->n_volumes; i++)
        good += see_volume(host, store->volumes[i], copies);
    return good;
}

bool oracle_stores(struct world *world, const struct oracle_copies *copies, const char **ret_why)
{
    size_t good = 0;
    why[0] = '\0';
    for (unsigned i = 0; i < world->n_stores; i++) {
        if (world->stores[i].service == NULL)
            snprintf(why, sizeof why, "store %u does not run", i + 1);
        else
            good += see_store(&world->stores[i], copies);
    }
    if (why[0] == '\0' && good != copies->n)
        snprintf(why, sizeof why, "%zu copies that are counted on are on no store", copies->n - good);
    *ret_why = why;
    return why[0] == '\0';
}

