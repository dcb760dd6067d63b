/* Commands of writers: which chunk to write into, a finished clone put in place, a failed member.
 *
 *   CHUNK_WRITE at an offset:
 *     an open chunk covers it ............................ that chunk
 *     a sealed chunk covers it, or a short one ends before it in the slot:
 *                                                           a pending chunk with clone_of;
 * CHUNK_SWAP puts it in place the file's bytes are inline and the slot is the first: a pending
 * chunk with inline_data; CHUNK_SWAP as above nothing covers it ...................................
 * a new open chunk with its extent Every caller gets a pending chunk of its own, so that nobody
 * clones over what another has written; the first CHUNK_SWAP wins, the others' chunks are deleted
 * (C7). */
#include "chunkmap.h"
#include "common/err.h"
#include "damage.h"
#include "heal_kept.h"
#include "namespace.h"
#include "ops.h"
#include "piece.h"
#include "quota.h"
#include "session.h"

/* A shorter extent is cloned and extended by an append; after a longer one a new extent begins. So
 * appending costs at most this many copied bytes, and a slot has at most 16 extents. */
#define APPEND_CLONE_MAX MIB(4)

struct write_plan {
    struct inode inode;
    struct extent extent; /* the answer's */
    struct policy policy;
    bool clone, inline_data, fresh;
    struct extent source; /* of a clone */
};

/* Fills the plan for `offset`. */
static int plan_hole(struct tables *t, uint64_t offset, const struct extent *before,
                     struct write_plan *plan)
{
    uint64_t slot = offset >> plan->policy.shift << plan->policy.shift;
    uint64_t start = slot, end;
    uint64_t before_end = before == NULL ? 0 : before->offset + before->length;
    int err = extent_room(t, plan->inode.ino, offset, 0, plan->policy.shift, &end);
    if (err != 0)
        return err;
    if (before != NULL && before_end > slot) {
        plan->clone = before->length < APPEND_CLONE_MAX && before->offset >= slot;
        start = plan->clone ? before->offset : before_end;
        plan->source = *before;
    }
    plan->inline_data = start == 0 && plan->inode.data_len > 0;
    plan->fresh = !plan->clone && !plan->inline_data;
    plan->extent = (struct extent){.offset = start, .length = end - start};
    return 0;
}

static int plan_make(struct tables *t, const Tarn__ChunkWrite *m, struct write_plan *plan,
                     struct chunk *ret_current)
{
    struct extent found;
    bool covers = false;
    int err = extent_find(t, m->ino, m->offset, &found, &covers);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (!covers)
        return plan_hole(t, m->offset, err == 0 ? &found : NULL, plan);
    err = chunk_get(t, found.chunk, ret_current);
    if (err != 0)
        return err;
    plan->extent = plan->source = found;
    plan->clone = ret_current->state != TARN__CHUNK_STATE__CHUNK_OPEN;
    return 0;
}

static void clone_members(struct tables *t, const struct chunk *source, bool draining, struct chunk *ret)
{
    for (unsigned i = 0; i < source->n_replicas; i++) {
        struct disk disk;
        const struct chunk_replica *r = &source->replicas[i];
        if ((r->flags & REPLICA_READY) && disk_get(t, r->disk, &disk) == 0 && disk.up &&
            (draining || !(disk.flags & DISK_DRAINING)))
            ret->replicas[ret->n_replicas++] =
                (struct chunk_replica){.disk = r->disk, .flags = REPLICA_READY};
    }
}

/* A clone lives where its source is complete and reachable: each member copies from itself. */
static int make_clone(struct tables *t, const struct chunk *source, struct chunk *ret)
{
    *ret = (struct chunk){.id = tables_state(t)->next_chunk++,
                          .state = TARN__CHUNK_STATE__CHUNK_OPEN,
                          .want = source->want,
                          .wish = source->wish,
                          .domain = source->domain,
                          .shift = source->shift,
                          .generation = 1};
    clone_members(t, source, false, ret);
    if (ret->n_replicas == 0) /* better on a disk that is being emptied than nowhere */
        clone_members(t, source, true, ret);
    return ret->n_replicas > 0
               ? 0
               : tables_fail(t, -E_UNAVAIL,
                             "no complete copy of chunk %llu is on a node that is up",
                             (unsigned long long)source->id);
}

static int make_pending(struct tables *t, const struct write_plan *plan, uint64_t length,
                        struct chunk *chunk)
{
    chunk->flags = CHUNK_PENDING;
    chunk->session = t->session;
    chunk->owner = plan->inode.ino;
    chunk->owner_offset = plan->extent.offset;
    chunk->length = length; /* what it begins with: CHUNK_SWAP compares */
    struct key key = key_2(TABLE_SESSION_CHUNK, t->session, chunk->id);
    int err = tables_put_empty(t, &key);
    return err == 0 ? chunk_save(t, chunk) : err;
}

/* The chunk becomes the extent's; the caller puts the inode. */
static int install(struct tables *t, struct inode *inode, struct extent *extent,
                   struct chunk *chunk)
{
    chunk->owner = inode->ino;
    chunk->owner_offset = extent->offset;
    chunk->length = 0;
    chunk->flags = 0;
    extent->chunk = chunk->id;
    extent->chunk_offset = 0;
    inode->allocated += extent->length;
    inode->version++; /* C13: who kept the map sees that it is another */
    tables_touched(t, inode->ino);
    struct key key = key_2(TABLE_OPEN_CHUNK, inode->ino, chunk->id);
    int err = tables_put_empty(t, &key);
    if (err == 0)
        err = extent_put(t, inode->ino, extent);
    return err == 0 ? chunk_save(t, chunk) : err;
}

/* What a clone is made from. When its members do not have the source as a chunk, whoever writes copies it. */
static int source_fill(struct tables *t, const struct write_plan *plan, const struct chunk *chunk, const struct chunk *source,
                       const struct cluster *cluster, Tarn__ChunkReply *reply, struct extent_message *from)
{
    reply->extent->clone_of = source->id;
    reply->extent->clone_generation = source->generation;
    reply->extent->clone_length = MIN(chunk->length, source->length); /* behind that are zeros */
    if (source->body == 0 && source->group == 0)
        return 0;
    reply->source = &from->extent;
    return piece_extent(t, &plan->source, source, cluster, from);
}

/* version: the inode's when this command changed its map, else 0. size: the file's, 0 where nobody needs it. */
static int reply_chunk(struct tables *t, const struct extent *extent, const struct chunk *chunk,
                       uint64_t version, uint64_t size, const struct write_plan *plan, const struct chunk *source)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    struct extent_message e, from;
    Tarn__ChunkReply reply = TARN__CHUNK_REPLY__INIT;
    int err = clustermap_load(t, &cluster);
    if (err == 0)
        err = piece_extent(t, extent, chunk, &cluster, &e);
    reply.extent = &e.extent;
    reply.version = version;
    reply.size = size;
    if (err == 0 && source != NULL)
        err = source_fill(t, plan, chunk, source, &cluster, &reply, &from);
    if (plan != NULL && plan->inline_data) {
        reply.inline_data.data = plan->inode.data;
        reply.inline_data.len = plan->inode.data_len;
    }
    return err == 0 ? tables_reply(t, &reply.base) : err;
}

static void plan_fini(struct write_plan *plan)
{
    inode_fini(&plan->inode);
}

static int write_clone(struct tables *t, struct write_plan *plan, uint32_t writer)
{
    struct chunk source, chunk;
    uint64_t end;
    int err = chunk_get(t, plan->source.chunk, &source);
    struct chunk_place place = {writer, plan->inode.ino, plan->extent.offset >> plan->policy.shift};
    if (err == 0 && source.body == 0 && source.group == 0)
        err = make_clone(t, &source, &chunk);
    else if (err == 0) /* its members do not have the source as a chunk */
        err = chunk_make(t, &plan->policy, &place, &chunk);
    if (err == 0)
        err = make_pending(t, plan, plan->source.length, &chunk);
    if (err == 0)
        err = extent_room(t, plan->inode.ino, plan->extent.offset, plan->source.length, chunk.shift, &end);
    if (err != 0)
        return err;
    plan->extent.chunk = chunk.id;
    plan->extent.length = end - plan->extent.offset;
    return reply_chunk(t, &plan->extent, &chunk, 0, plan->inode.size, plan, &source);
}

static int write_new(struct tables *t, struct write_plan *plan, uint32_t writer)
{
    struct chunk chunk;
    struct chunk_place place = {writer, plan->inode.ino, plan->extent.offset >> plan->policy.shift};
    int err = chunk_make(t, &plan->policy, &place, &chunk);
    if (err != 0)
        return err;
    if (plan->inline_data)
        err = make_pending(t, plan, plan->inode.data_len, &chunk);
    else
        err = install(t, &plan->inode, &plan->extent, &chunk);
    if (err == 0 && !plan->inline_data)
        err = ns_inode_put(t, &plan->inode);
    plan->extent.chunk = chunk.id;
    uint64_t version = plan->inline_data ? 0 : plan->inode.version;
    return err == 0 ? reply_chunk(t, &plan->extent, &chunk, version, plan->inode.size, plan, NULL) : err;
}

int chunk_cmd_write(struct tables *t, const void *message)
{
    const Tarn__ChunkWrite *m = message;
    if (m->offset >= INT64_MAX)
        return -E_FBIG;
    struct opens opens;
    int err = session_opens(t, m->ino, &opens);
    if (err != 0)
        return err;
    if (opens.writers == 0)
        return tables_fail(t, -E_BADF, "inode %llu is not open for writing",
                           (unsigned long long)m->ino);
    _cleanup_(plan_fini) struct write_plan plan = {0};
    struct chunk current = {0};
    err = ns_inode_get(t, m->ino, &plan.inode);
    if (err == 0 && plan.inode.type != TARN__FILE_TYPE__FT_FILE)
        err = -E_INVAL;
    if (err == 0)
        err = policy_of(t, &plan.inode, &plan.policy);
    if (err == 0)
        err = plan_make(t, m, &plan, &current);
    /* Behind the end the cost comes with the size: that room is refused before data is moved. */
    if (err == 0 && m->offset >= plan.inode.size)
        err = quota_room(t, &plan.inode);
    if (err != 0)
        return err;
    if (plan.clone)
        return write_clone(t, &plan, m->writer_node);
    if (plan.fresh || plan.inline_data)
        return write_new(t, &plan, m->writer_node);
    return reply_chunk(t, &plan.extent, &current, 0, plan.inode.size, NULL, NULL);
}

/* The extent that begins at the offset now; chunk 0 when there is none. */
static int current_extent(struct tables *t, uint64_t ino, uint64_t offset, struct extent *ret)
{
    bool covers = false;
    int err = extent_find(t, ino, offset, ret, &covers);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (err == -E_NOENT || ret->offset != offset)
        *ret = (struct extent){.offset = offset};
    return 0;
}

static bool swap_wins(const Tarn__ChunkSwap *m, const struct inode *inode, const struct extent *now,
                      const struct opens *opens, const struct chunk *chunk)
{
    if (opens->writers == 0 || now->chunk != m->old_chunk)
        return false;
    /* A truncation in between made the clone's content wrong. */
    return chunk->length == (m->old_chunk != 0 ? now->length : inode->data_len);
}

static int swap_in(struct tables *t, struct inode *inode, struct extent *now, struct chunk *chunk)
{
    int err = 0;
    struct key key = key_2(TABLE_SESSION_CHUNK, chunk->session, chunk->id);
    uint64_t old_chunk = now->chunk;
    if (old_chunk != 0) {
        inode->allocated -= now->length;
    } else {
        err = inode_set_data(inode, NULL, 0);
    }
    uint64_t end;
    if (err == 0)
        err = extent_room(t, inode->ino, now->offset, now->length, chunk->shift, &end);
    if (err == 0)
        err = tables_del(t, &key);
    if (err != 0)
        return err;
    now->length = end - now->offset;
    err = install(t, inode, now, chunk);
    if (err == 0 && old_chunk != 0) /* now that its row is gone: a snapshot may have taken it over */
        err = chunk_unshare(t, old_chunk);
    return err == 0 ? ns_inode_put(t, inode) : err;
}

int chunk_cmd_swap(struct tables *t, const void *message)
{
    const Tarn__ChunkSwap *m = message;
    struct chunk chunk;
    struct extent now;
    struct opens opens;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = chunk_get(t, m->new_chunk, &chunk);
    if (err == -E_NOENT)
        return -E_CONFLICT; /* it lost before, and the answer was lost */
    if (err == 0 && (!(chunk.flags & CHUNK_PENDING) || chunk.session != t->session ||
                     chunk.owner != m->ino || chunk.owner_offset != m->offset))
        err = tables_fail(t, -E_INVAL, "chunk %llu was not made for this place",
                          (unsigned long long)m->new_chunk);
    if (err == 0)
        err = ns_inode_get(t, m->ino, &inode);
    if (err == 0)
        err = session_opens(t, m->ino, &opens);
    if (err == 0)
        err = current_extent(t, m->ino, m->offset, &now);
    if (err != 0)
        return err;
    if (swap_wins(m, &inode, &now, &opens, &chunk)) {
        err = swap_in(t, &inode, &now, &chunk);
        return err == 0 ? reply_chunk(t, &now, &chunk, inode.version, inode.size, NULL, NULL) : err;
    }
    err = chunk_delete(t, &chunk);
    t->keep_on_error = err == 0;
    return err == 0
               ? tables_fail(t, -E_CONFLICT, "the place of the new chunk was changed meanwhile")
               : err;
}

static int reply_failed(struct tables *t, const struct chunk *chunk)
{
    struct extent extent = {.chunk = chunk->id, .length = chunk->length};
    if (!(chunk->flags & CHUNK_OF_UPLOAD) && chunk->kind == CHUNK_DATA) {
        bool covers;
        struct extent found;
        int err = extent_find(t, chunk->owner, chunk->owner_offset, &found, &covers);
        if (err != 0 && err != -E_NOENT)
            return err;
        if (err == 0 && found.chunk == chunk->id)
            extent = found;
    }
    return reply_chunk(t, &extent, chunk, 0, 0, NULL, NULL);
}

/* Could another disk take the place of one that is full? If not, the chunk keeps the copy it has there. */
static int other_room(struct tables *t, const struct chunk *chunk, bool *ret)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    _cleanup_free_ struct placement_disk *disks = NULL;
    _cleanup_(placement_map_fini) struct placement_map map = {0};
    *ret = false;
    int err = clustermap_load(t, &cluster);
    if (err == 0)
        err = cluster_placement(&cluster, t->now, &disks, &map);
    for (size_t i = 0; err == 0 && i < map.n && !*ret; i++) {
        bool member = false;
        for (unsigned j = 0; j < chunk->n_replicas; j++)
            member |= chunk->replicas[j].disk == disks[i].id;
        *ret = !member && placement_usable(&disks[i]);
    }
    return err;
}

int chunk_cmd_failed(struct tables *t, const void *message)
{
    const Tarn__ChunkFailed *m = message;
    struct chunk chunk;
    int err = chunk_get(t, m->chunk, &chunk);
    if (err != 0)
        return err;
    if (chunk.state == TARN__CHUNK_STATE__CHUNK_DELETING)
        return -E_NOENT;
    int index = -1;
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        if (chunk.replicas[i].disk == m->disk && (chunk.replicas[i].flags & REPLICA_READY))
            index = (int)i;
    /* Somebody was faster, or it never was a member: the answer is how things are. */
    if (index < 0 || m->generation != chunk.generation)
        return reply_failed(t, &chunk);
    if (!damage_may_lose(&chunk, (unsigned)index)) /* C4 */
        return tables_fail(t, -E_UNAVAIL, "disk %u holds the last complete copy of chunk %llu",
                           m->disk, (unsigned long long)m->chunk);
    bool room = true;
    if (m->full)
        err = other_room(t, &chunk, &room);
    if (err == 0 && !room)
        err = tables_fail(t, -E_NOSPC, "disk %u is full, and no other one has room", m->disk);
    if (err != 0)
        return err;
    if (chunk.state == TARN__CHUNK_STATE__CHUNK_OPEN)
        chunk.generation++; /* C2: the member that left cannot take writes any more */
    err = heal_leave(t, &chunk, (unsigned)index);
    if (err == 0)
        err = chunk_save(t, &chunk);
    return err == 0 ? reply_failed(t, &chunk) : err;
}
