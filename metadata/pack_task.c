/* PACK tasks as messages. */
#include "common/err.h"
#include "pack.h"
#include "piece.h"

#define FROM_MAX 3 /* holders told of each piece: more would make the message too long */

void pack_message_fini(struct pack_message *message)
{
    free(message->pointers);
    free(message->pieces);
    free(message->from);
    free(message->replicas);
    *message = (struct pack_message){0};
}

static int message_init(struct pack_message *m, size_t n)
{
    m->pointers = calloc(n + 1, sizeof *m->pointers);
    m->pieces = calloc(n + 1, sizeof *m->pieces);
    m->from = calloc(n * FROM_MAX + 1, sizeof *m->from);
    m->replicas = calloc(n * FROM_MAX + 1, sizeof *m->replicas);
    return m->pointers == NULL || m->pieces == NULL || m->from == NULL || m->replicas == NULL ? -E_NOMEM : 0;
}

/* Only what is needed to reach them. */
static void fill_from(const struct chunk *body, const struct cluster *cluster, struct pack_message *m, Tarn__Piece *piece)
{
    Tarn__Replica *replicas = &m->replicas[m->n * FROM_MAX];
    piece->from = &m->from[m->n * FROM_MAX];
    for (unsigned i = 0; i < body->n_replicas && piece->n_from < FROM_MAX; i++) {
        const struct chunk_replica *r = &body->replicas[i];
        const struct disk *disk = cluster_disk(cluster, r->disk);
        const struct node *node = disk == NULL ? NULL : cluster_node(cluster, disk->node);
        if (!(r->flags & REPLICA_READY) || !(r->flags & REPLICA_SEALED) || node == NULL || !disk->up)
            continue;
        Tarn__Replica *out = &replicas[piece->n_from];
        tarn__replica__init(out);
        out->disk = r->disk;
        out->node = node->id;
        out->address = (char *)node->address;
        piece->from[piece->n_from++] = out;
    }
}

/* The chunk as it is now: one that has changed or gone since is left out. */
static int fill_piece(struct tables *t, const struct pack_piece *p, const struct cluster *cluster, struct pack_message *m)
{
    struct chunk chunk, body;
    int err = chunk_get(t, p->chunk, &chunk);
    if (err != 0 || chunk.state != TARN__CHUNK_STATE__CHUNK_SEALED || chunk.body != p->body ||
        (chunk.body != 0 && chunk.body_offset != p->body_offset))
        return err == -E_NOENT ? 0 : err;
    err = piece_body(t, &chunk, &body);
    if (err != 0)
        return err;
    Tarn__Piece *piece = &m->pieces[m->n];
    tarn__piece__init(piece);
    piece->piece = p->chunk;
    piece->chunk = body.id;
    piece->generation = body.generation;
    piece->offset = p->body_offset;
    piece->stored = p->stored;
    piece->form = p->form;
    piece->content = p->content;
    piece->level = p->level;
    piece->group = body.group;
    fill_from(&body, cluster, m, piece);
    m->pointers[m->n++] = piece;
    return 0;
}

int pack_task_fill(struct tables *t, uint64_t container, const struct cluster *cluster, struct pack_message *out,
                   Tarn__ChunkTask *task)
{
    struct pack_list *list = NULL;
    int err = pack_list_get(t, container, &list);
    if (err != 0) /* gone: without pieces the store reports failure and the task ends */
        return err == -E_NOENT ? 0 : err;
    _cleanup_free_ struct pack_list *owned = list;
    err = message_init(out, owned->n);
    for (unsigned i = 0; i < owned->n && err == 0; i++)
        err = fill_piece(t, &owned->pieces[i], cluster, out);
    task->pieces = out->pointers;
    task->n_pieces = out->n;
    task->background = true;
    return err;
}
