#include "rot.h"

#include "oracle.h"

#include "common/check.h"
#include "common/err.h"
#include "objstore/store.h"

#include <stdio.h>

#define TRIES 8

static const struct volume *volume_of(const struct world *world, unsigned store)
{
    const struct world_host *host = &world->stores[store];
    return host->service != NULL && host->back_at_ns == 0 ? ((const struct store *)host->service)->volumes[0] : NULL;
}

void rot_look(struct world *world, struct rot *rot)
{
    unsigned n = 0;
    for (unsigned i = 0; i < rot->n; i++) {
        const struct rot_flip *flip = &rot->flips[i];
        uint8_t now;
        int err = sim_disk_peek(world->stores[flip->store].host, flip->path, flip->offset, &now, 1);
        if (err != 0)
            rot->gone++;
        else if (now == flip->was)
            rot->repaired++;
        else
            rot->flips[n++] = *flip;
    }
    rot->n = n;
}

/* Any sealed chunk of the volume that has bytes. */
static const struct chunk *draw_chunk(struct world *world, const struct volume *volume)
{
    const struct chunk *drawn = NULL;
    uint64_t id, n = 0;
    size_t at = 0;
    void *value;
    while (map_next(&volume->index.chunks, &at, &id, &value)) {
        const struct chunk *chunk = value;
        if (chunk_is_real(chunk) && chunk->flags == CHUNK_SEALED && chunk->length > 0 && chunk->n_cells > 0 &&
            sim_random_u64(world->sim) % ++n == 0)
            drawn = chunk;
    }
    return drawn;
}

static bool bears(struct world *world, const struct rot *rot, uint64_t chunk, unsigned store)
{
    struct oracle_stripe stripe;
    struct kv *kv = world_tables(world);
    unsigned harmed = 0;
    if (kv == NULL)
        return false;
    oracle_stripe(kv, chunk, store + 1, &stripe); /* a store's disk has its number (world.c) */
    for (unsigned i = 0; i < rot->n; i++)
        for (unsigned k = 0; k < stripe.n; k++)
            harmed += stripe.chunks[k] == rot->flips[i].chunk;
    return harmed < stripe.tolerance;
}

static bool flip_one(struct world *world, struct rot *rot, unsigned store)
{
    const struct volume *volume = volume_of(world, store);
    const struct chunk *chunk = volume != NULL ? draw_chunk(world, volume) : NULL;
    if (chunk == NULL || !bears(world, rot, chunk->id, store))
        return false;
    uint64_t cell = sim_random_u64(world->sim) % chunk->n_cells;
    uint32_t valid = chunk_cell(chunk, cell).valid;
    if (valid == 0)
        return false;
    char path[512];
    struct rot_flip flip = {.store = store, .chunk = chunk->id, .offset = cell * CELL_BYTES + sim_random_u64(world->sim) % valid};
    volume_chunk_path(volume, chunk->id, path);
    CHECK(snprintf(flip.path, sizeof flip.path, "%s", path) < (int)sizeof flip.path);
    /* What was sealed may still be on its way from the journal to the file. */
    if (sim_disk_peek(world->stores[store].host, path, flip.offset, &flip.was, 1) != 0)
        return false;
    CHECK(sim_disk_corrupt(world->stores[store].host, path, flip.offset) == 0);
    rot->flips[rot->n++] = flip;
    rot->flips_made++;
    return true;
}

void rot_flip(struct world *world, struct rot *rot)
{
    rot_look(world, rot);
    for (unsigned i = 0; i < TRIES && rot->n < ROT_MAX; i++)
        if (flip_one(world, rot, (unsigned)(sim_random_u64(world->sim) % world->n_stores)))
            return;
}
