#include "partial.h"

#include "put.h"
#include "readback.h"
#include "common/err.h"

int partial_begin(struct volume *v, struct chunk *c, uint64_t generation)
{
    if (!chunk_is_real(c))
        return put_state(v, c, generation, CHUNK_PARTIAL, false);
    int err = put_truncate(v, c, MAX(generation, c->generation), 0);
    return err != 0 ? err : put_state(v, c, generation, CHUNK_PARTIAL, false);
}

int partial_append(struct volume *v, struct chunk *c, uint64_t generation, uint64_t offset, const uint8_t *data, size_t length,
                   const uint32_t *crcs, size_t n_crcs)
{
    struct put put = {.generation = generation, .offset = offset, .length = length, .data = data, .crcs = crcs,
                      .n_crcs = n_crcs, .flags = CHUNK_PARTIAL};
    int err = put_check(&put);
    return err != 0 ? err : put_bytes(v, c, &put);
}

int partial_finish(struct background *b, struct chunk *c, uint64_t generation, uint64_t length)
{
    struct volume *v = b->volume;
    int err = volume_file_sync(v, c);
    for (uint64_t at = 0; at < c->length && err == 0; at += BACKGROUND_WINDOW_BYTES) {
        uint64_t n = MIN(BACKGROUND_WINDOW_BYTES, c->length - at);
        err = background_take(b, n);
        if (err == 0)
            err = readback_window(v, c, at, n, NULL);
    }
    return err != 0 ? err : put_seal(v, c, generation, length);
}

void partial_drop(struct volume *v, uint64_t chunk)
{
    struct held held;
    if (store_hold_all(v, chunk, false, true, &held) != 0)
        return;
    if ((held.chunk->flags & CHUNK_PARTIAL) != 0)
        (void)volume_delete(v, held.chunk); /* if not: the next start drops it */
    store_release(&held);
}
