#include "piece.h"

#include "common/check.h"
#include "common/err.h"
#include "pack.h"

int piece_body(struct tables *t, const struct chunk *chunk, struct chunk *ret)
{
    if (chunk->body == 0) {
        *ret = *chunk;
        return 0;
    }
    struct key key = key_1(TABLE_CHUNK, chunk->id);
    int err = chunk_get(t, chunk->body, ret);
    return err == -E_NOENT ? tables_corrupt(t, &key, "piece without its container, that is the") : err;
}

/* Neither its copies nor its members change: nothing is counted again. */
static int container_put(struct tables *t, const struct chunk *container)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct key key = key_1(TABLE_CHUNK, container->id);
    chunk_encode(container, &w);
    return tables_put(t, &key, &w);
}

bool piece_half_dead(const struct chunk *container)
{
    return container->stored * 100 < container->length * PIECE_ALIVE_PERCENT;
}

int piece_leave(struct tables *t, struct chunk *chunk)
{
    struct chunk container;
    struct key key = key_2(TABLE_PIECE, chunk->body, chunk->body_offset);
    int err = tables_del(t, &key);
    if (err == 0)
        err = piece_body(t, chunk, &container);
    if (err != 0)
        return err;
    CHECK(container.stored >= chunk->stored);
    container.stored -= chunk->stored;
    chunk->body = chunk->body_offset = chunk->stored = 0;
    chunk->form = TARN__CHUNK_FORM__FORM_RAW;
    if (container.stored == 0)
        return pack_container_gone(t, &container);
    err = container_put(t, &container);
    struct key compact = key_2(TABLE_PACK, PACK_COMPACT, container.id);
    return err == 0 && piece_half_dead(&container) ? tables_put_empty(t, &compact) : err;
}

int piece_enter(struct tables *t, struct chunk *chunk, struct chunk *body, const struct piece_place *place)
{
    int err = chunk->body != 0 ? piece_leave(t, chunk) : 0;
    struct key key = key_2(TABLE_PIECE, body->id, place->offset);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(chunk->id, &w);
    if (err == 0)
        err = tables_put(t, &key, &w);
    chunk->body = body->id;
    chunk->body_offset = place->offset;
    chunk->stored = place->stored;
    chunk->form = place->form;
    body->stored += place->stored;
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++)
        err = chunk_replica_drop(t, chunk, i);
    if (err == 0)
        err = chunk_save(t, chunk);
    return err == 0 ? container_put(t, body) : err;
}

int piece_extent(struct tables *t, const struct extent *extent, const struct chunk *chunk, const struct cluster *cluster,
                 struct extent_message *out)
{
    struct chunk body;
    struct extent at = *extent;
    int err = piece_body(t, chunk, &body);
    if (err != 0)
        return err;
    bool raw = chunk->form == TARN__CHUNK_FORM__FORM_RAW;
    at.chunk = body.id;
    at.chunk_offset += chunk->body != 0 && raw ? chunk->body_offset : 0;
    extent_message_fill(&at, &body, cluster, out);
    if (chunk->body == 0)
        return 0;
    out->extent.stored = chunk->stored;
    out->extent.piece_offset = chunk->body_offset;
    out->extent.form = chunk->form;
    out->extent.content = chunk->length;
    return 0;
}
