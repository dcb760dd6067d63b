#include "heal_kept.h"

#include "common/err.h"

static bool is_kept(const struct chunk_replica *r)
{
    return (r->flags & REPLICA_KEPT) != 0;
}

int heal_leave(struct tables *t, struct chunk *chunk, unsigned index)
{
    struct chunk_replica *r = &chunk->replicas[index];
    bool lacks = chunk_ready(chunk) <= chunk->want;
    if (chunk->state != TARN__CHUNK_STATE__CHUNK_OPEN || !(r->flags & REPLICA_READY) || !lacks)
        return chunk_replica_drop(t, chunk, index);
    *r = (struct chunk_replica){.disk = r->disk, .flags = REPLICA_LEAVING | REPLICA_KEPT};
    return chunk_task_add(t, r->disk, TARN__CHUNK_TASK__KIND__ASIDE, chunk);
}

bool heal_keeps(const struct chunk *chunk)
{
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if (is_kept(&chunk->replicas[i]))
            return true;
    return false;
}

/* Copies on disks that are up and stay. */
static unsigned staying(const struct healer *h, const struct chunk *chunk, uint8_t flags)
{
    unsigned n = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        size_t at = placement_find(&h->map, chunk->replicas[i].disk);
        bool stays = at != SIZE_MAX && h->disks[at].up && !h->disks[at].draining;
        n += stays && (chunk->replicas[i].flags & flags) == flags;
    }
    return n;
}

/* Index of the disk that may give most now, also one that is being emptied; SIZE_MAX = none. */
static size_t source_for(const struct healer *h, const struct chunk *chunk)
{
    size_t best = SIZE_MAX;
    unsigned most = 0;
    for (unsigned i = 0; i < chunk->n_replicas; i++) {
        size_t at = placement_find(&h->map, chunk->replicas[i].disk);
        uint8_t good = REPLICA_READY | REPLICA_SEALED;
        if (at == SIZE_MAX || !h->disks[at].up || (chunk->replicas[i].flags & good) != good || h->disks[at].source_room <= most)
            continue;
        most = h->disks[at].source_room;
        best = at;
    }
    return best;
}

/* One that is kept: 1 a COPY to it was given out, 0 it is of no use, -E_BUSY soon perhaps. */
static int use(struct healer *h, struct chunk *chunk, unsigned index, bool may_add, int *ret_err)
{
    size_t at = placement_find(&h->map, chunk->replicas[index].disk);
    if (at == SIZE_MAX || h->disks[at].draining || h->disks[at].away)
        return 0;
    size_t source = source_for(h, chunk);
    if (!may_add || !h->disks[at].up || h->disks[at].busy || source == SIZE_MAX)
        return -E_BUSY;
    *ret_err = healer_copy_to(h, chunk, index, at, source);
    return 1;
}

int heal_kept(struct healer *h, struct chunk *chunk, bool may_add, bool *ret_changed, bool *ret_wait)
{
    int err = 0;
    if (!heal_keeps(chunk))
        return 0;
    bool enough = staying(h, chunk, REPLICA_READY | REPLICA_SEALED) >= chunk->want;
    unsigned have = staying(h, chunk, REPLICA_READY) + staying(h, chunk, REPLICA_COPYING);
    for (unsigned i = 0; i < chunk->n_replicas && err == 0; i++) {
        if (!is_kept(&chunk->replicas[i]))
            continue;
        if (enough) {
            err = chunk_replica_drop(h->t, chunk, i);
            *ret_changed = true;
        } else if (have < chunk->want) {
            int used = use(h, chunk, i, may_add, &err);
            *ret_changed |= used > 0;
            *ret_wait |= used < 0;
            have += used != 0; /* also when it is only waited for */
        }
    }
    return err;
}
