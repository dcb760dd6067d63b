/* PI1-PI5: pieces and their containers, what waits to be packed and what is being packed. */
#include "check_impl.h"
#include "chunkmap.h"
#include "common/coll.h"
#include "meta.pb-c.h"
#include "pack_rows.h"

struct pieces {
    uint64_t container, end; /* the index is in this order */
    uint64_t alive;          /* bytes of its pieces */
    uint64_t listed, named;  /* sums over the index, and over the rows of pieces */
    uint64_t class, candidates, bytes; /* of the class whose candidates are being counted */
    struct map containers;   /* class → containers + 1 */
    uint64_t due, due_listed;
    uint64_t jobs, making;
};

static bool chunk_at(struct check *check, uint64_t id, struct chunk *ret)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_val value;
    return check_get(check, &key, &value) && chunk_decode(id, value.data, value.len, ret) == 0;
}

static uint64_t mix_piece(uint64_t container, uint64_t offset, uint64_t id)
{
    return check_mix(check_mix(check_mix(container) ^ offset) ^ id);
}

/* ------------------------------------------------------------------ the index */
static void container_end(struct check *check, const struct pieces *p)
{
    struct chunk container;
    if (p->container == 0)
        return;
    if (!chunk_at(check, p->container, &container) || container.kind != CHUNK_CONTAINER ||
        container.state != TARN__CHUNK_STATE__CHUNK_SEALED || (container.flags & CHUNK_MAKING))
        check_violation(check, "PI1", "there are pieces in chunk %llu, which is no container in use", (unsigned long long)p->container);
    else if (container.stored != p->alive)
        check_violation(check, "PI2", "container %llu says that %llu bytes of it are alive, there are %llu",
                        (unsigned long long)p->container, (unsigned long long)container.stored, (unsigned long long)p->alive);
    else if (p->end > container.length)
        check_violation(check, "PI1", "container %llu has %llu bytes, its pieces reach to %llu", (unsigned long long)p->container,
                        (unsigned long long)container.length, (unsigned long long)p->end);
}

static int see_index(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct pieces *p = arg;
    uint64_t container = key_number(key, 0), offset = key_number(key, 1), id;
    struct chunk piece;
    if (container != p->container) {
        container_end(check, p);
        p->container = container;
        p->end = p->alive = 0;
    }
    if (number_decode(value.data, value.len, &id) != 0) {
        check_undecodable(check, key, "piece of a container");
        return 0;
    }
    p->listed += mix_piece(container, offset, id);
    if (!chunk_at(check, id, &piece))
        return 0; /* the sums tell */
    if (offset < p->end)
        check_violation(check, "PI1", "two pieces of container %llu overlap at %llu", (unsigned long long)container,
                        (unsigned long long)offset);
    p->end = offset + piece.stored;
    p->alive += piece.stored;
    return 0;
}

static int see_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct pieces *p = arg;
    struct chunk chunk;
    if (chunk_decode(key_number(key, 0), value.data, value.len, &chunk) != 0)
        return 0; /* told by the chunks' room */
    if (chunk.body != 0) {
        p->named += mix_piece(chunk.body, chunk.body_offset, chunk.id);
        bool raw = chunk.form == TARN__CHUNK_FORM__FORM_RAW, bare = true;
        for (unsigned i = 0; i < chunk.n_replicas; i++)
            bare &= (chunk.replicas[i].flags & REPLICA_LEAVING) != 0;
        if (chunk.kind != CHUNK_DATA || chunk.state != TARN__CHUNK_STATE__CHUNK_SEALED || !bare ||
            (raw && chunk.stored != chunk.length))
            check_violation(check, "PI3", "piece %llu is not what a piece is", (unsigned long long)chunk.id);
    }
    if (chunk.kind != CHUNK_CONTAINER || chunk.state == TARN__CHUNK_STATE__CHUNK_DELETING)
        return 0;
    struct key job = key_2(TABLE_PACK, PACK_JOB, chunk.id), index = key_1(TABLE_PIECE, chunk.id);
    bool making = (chunk.flags & CHUNK_MAKING) != 0;
    p->making += making;
    if (making != check_has(check, &job) || making == check_any(check, &index))
        check_violation(check, "PI4", "container %llu is neither in use nor being made", (unsigned long long)chunk.id);
    uintptr_t n = (uintptr_t)map_get(&p->containers, chunk.owner);
    return map_put(&p->containers, chunk.owner, (void *)(MAX(n, (uintptr_t)1) + 1));
}

/* ------------------------------------------------------------------ packing */
static int see_candidate(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct pieces *p = arg;
    struct pack_candidate candidate;
    if (pack_candidate_decode(value.data, value.len, &candidate) != 0)
        check_undecodable(check, key, "candidate for packing");
    p->candidates++;
    p->bytes += candidate.bytes;
    return 0;
}

static int see_class(struct check *check, const struct key *key, struct kv_val value, struct pieces *p)
{
    struct pack_class class;
    uint64_t id = key_number(key, 1);
    if (pack_class_decode(id, value.data, value.len, &class) != 0) {
        check_undecodable(check, key, "class of containers");
        return 0;
    }
    struct key below = key_2(TABLE_PACK, PACK_CANDIDATE, id);
    p->candidates = p->bytes = 0;
    int err = check_below(check, &below, see_candidate, p);
    uintptr_t n = (uintptr_t)map_get(&p->containers, id);
    uint64_t containers = n == 0 ? 0 : n - 1;
    if (n != 0)
        map_remove(&p->containers, id);
    if (class.candidates != p->candidates || class.bytes != p->bytes || class.containers != containers)
        check_violation(check, "PI5", "class %llu counts %llu candidates with %llu bytes and %llu containers; there are %llu, %llu, %llu",
                        (unsigned long long)id, (unsigned long long)class.candidates, (unsigned long long)class.bytes,
                        (unsigned long long)class.containers, (unsigned long long)p->candidates, (unsigned long long)p->bytes,
                        (unsigned long long)containers);
    struct key due = key_3(TABLE_PACK, PACK_CLASS_DUE, class.due_ns, id);
    p->due += class.due_ns != PACK_NEVER;
    if (class.due_ns != PACK_NEVER && !check_has(check, &due))
        check_violation(check, "PI5", "class %llu is not listed when it is due", (unsigned long long)id);
    return err;
}

static void see_job(struct check *check, const struct key *key, struct kv_val value, struct pieces *p)
{
    struct pack_job job;
    struct chunk container;
    uint64_t id = key_number(key, 1);
    if (pack_job_decode(id, value.data, value.len, &job) != 0) {
        check_undecodable(check, key, "job of packing");
        return;
    }
    struct key due = key_3(TABLE_PACK, PACK_JOB_DUE, job.due_ns, id), list = key_2(TABLE_PACK, PACK_JOB_PIECES, id);
    p->jobs++;
    p->due++;
    if (!chunk_at(check, id, &container) || container.kind != CHUNK_CONTAINER || container.owner != job.class)
        check_violation(check, "PI4", "container %llu is being made and does not exist", (unsigned long long)id);
    if (!check_has(check, &due) || !check_has(check, &list))
        check_violation(check, "PI4", "the job of container %llu is not due, or has no pieces", (unsigned long long)id);
}

static int see_pack(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct pieces *p = arg;
    struct chunk container;
    switch (key_number(key, 0)) {
    case PACK_CLASS:
        return see_class(check, key, value, p);
    case PACK_JOB:
        see_job(check, key, value, p);
        return 0;
    case PACK_CLASS_DUE:
    case PACK_JOB_DUE:
        p->due_listed++;
        return 0;
    case PACK_CANDIDATE: {
        struct key class = key_2(TABLE_PACK, PACK_CLASS, key_number(key, 1));
        if (!check_has(check, &class))
            check_violation(check, "PI5", "chunk %llu waits in a class that does not exist", (unsigned long long)key_number(key, 2));
        return 0;
    }
    case PACK_COMPACT:
        if (chunk_at(check, key_number(key, 1), &container) && container.kind != CHUNK_CONTAINER)
            check_violation(check, "PI2", "chunk %llu is to be compacted and is no container", (unsigned long long)container.id);
        return 0;
    default:
        return 0;
    }
}

int check_room_pieces(struct check *check)
{
    struct pieces p = {0};
    int err = check_each(check, TABLE_PIECE, see_index, &p);
    container_end(check, &p);
    if (err == 0)
        err = check_each(check, TABLE_CHUNK, see_chunk, &p);
    if (err == 0)
        err = check_each(check, TABLE_PACK, see_pack, &p);
    if (err == 0 && p.listed != p.named)
        check_violation(check, "PI1", "the pieces and the lists of their containers do not agree");
    if (err == 0 && p.containers.count > 0)
        check_violation(check, "PI5", "there are containers of classes that do not exist");
    if (err == 0) {
        check_counter(check, "PI5", "times when something is due for packing", p.due_listed, p.due);
        check_counter(check, "PI4", "containers being made", p.jobs, p.making);
    }
    map_fini(&p.containers);
    return err;
}
