#include "common/check.h"
#include "common/err.h"
#include "heal_state.h"
#include "namespace.h"
#include "pack.h"
#include "pack_plan.h"
#include "piece.h"

#define CLASS_PROBES 8 /* classes whose numbers meet stand one behind the other */

/* ------------------------------------------------------------------ classes */
int pack_class_get(struct tables *t, uint64_t id, struct pack_class *ret)
{
    struct key key = key_2(TABLE_PACK, PACK_CLASS, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    return pack_class_decode(id, value.data, value.len, ret) != 0 ? tables_corrupt(t, &key, "class of containers") : 0;
}

int pack_class_put(struct tables *t, const struct pack_class *c)
{
    struct pack_class old;
    struct key key = key_2(TABLE_PACK, PACK_CLASS, c->id);
    bool gone = c->candidates == 0 && c->containers == 0;
    int err = pack_class_get(t, c->id, &old);
    if (err != 0 && err != -E_NOENT)
        return err;
    uint64_t before = err == 0 ? old.due_ns : PACK_NEVER, after = gone ? PACK_NEVER : c->due_ns;
    bool had = err == 0;
    err = 0;
    struct key was = key_3(TABLE_PACK, PACK_CLASS_DUE, before, c->id), is = key_3(TABLE_PACK, PACK_CLASS_DUE, after, c->id);
    if (before != PACK_NEVER && before != after)
        err = tables_del(t, &was);
    if (err == 0 && after != PACK_NEVER && before != after)
        err = tables_put_empty(t, &is);
    if (err != 0 || (gone && !had))
        return err;
    if (gone)
        return tables_del(t, &key);
    _cleanup_(writer_fini) struct writer w = {0};
    pack_class_encode(c, &w);
    return tables_put(t, &key, &w);
}

int pack_class_of(struct tables *t, const struct policy *policy, bool make, struct pack_class *ret)
{
    struct pack_class wanted, found;
    pack_class_from(policy, &wanted);
    for (unsigned i = 0; i < CLASS_PROBES; i++, wanted.id = pack_class_next(wanted.id)) {
        int err = pack_class_get(t, wanted.id, &found);
        if (err == -E_NOENT && make)
            *ret = wanted;
        if (err == -E_NOENT && make)
            return 0;
        if (err != 0)
            return err;
        if (pack_class_same(&found, &wanted)) {
            *ret = found;
            return 0;
        }
    }
    return -E_NOENT; /* eight collisions of 23-bit hashes: such chunks are simply not packed */
}

int pack_policy(struct tables *t, const struct chunk *container, struct policy *ret)
{
    struct pack_class class;
    struct key key = key_1(TABLE_CHUNK, container->id);
    int err = pack_class_get(t, container->owner, &class);
    if (err == 0)
        pack_class_policy(&class, ret);
    return err == -E_NOENT ? tables_corrupt(t, &key, "container without its class, that is the") : err;
}

/* ------------------------------------------------------------------ what is a candidate */
static bool small(const struct chunk *chunk, const struct policy *policy)
{
    return chunk->length <= MIN(PACK_SMALL_BYTES, (1ull << policy->shift) / 4);
}

static bool compressible(const struct chunk *chunk, const struct policy *policy)
{
    bool tried = chunk->form == TARN__CHUNK_FORM__FORM_ZSTD && chunk->stored >= policy->compress;
    return chunk->body == 0 && policy->compress != 0 && !tried;
}

bool pack_compresses(const struct chunk *chunk, const struct policy *policy)
{
    return chunk->kind == CHUNK_DATA && compressible(chunk, policy);
}

/* With a code a file of less than half a chunk cannot be in a group by itself. */
static int alone_in_its_file(struct tables *t, const struct chunk *chunk, const struct policy *policy, bool *ret)
{
    *ret = false;
    if (policy->code_k == 0 || chunk->length >= (1ull << policy->shift) / 2)
        return 0;
    struct key prefix = key_1(TABLE_EXTENT, chunk->owner);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, 2, &rows);
    *ret = rows.count == 1;
    return err;
}

/* Of a piece: its container is of another class, or half dead. */
static int piece_moves(struct tables *t, const struct chunk *chunk, const struct pack_class *class, bool *ret)
{
    struct chunk body;
    int err = piece_body(t, chunk, &body);
    *ret = err == 0 && (body.owner != class->id || piece_half_dead(&body));
    return err;
}

static bool at_rest(const struct chunk *chunk)
{
    return chunk->kind == CHUNK_DATA && chunk->state == TARN__CHUNK_STATE__CHUNK_SEALED && chunk->flags == 0 && chunk->group == 0 &&
           chunk->length > 0;
}

/* All copies are there and compared. */
static bool verified(const struct chunk *chunk)
{
    for (unsigned i = 0; i < chunk->n_replicas; i++)
        if ((chunk->replicas[i].flags & (REPLICA_READY | REPLICA_SEALED)) == REPLICA_READY)
            return false;
    return chunk->live >= chunk->want;
}

/* The class of containers the chunk should be in, and is not. -E_NOENT: it stays as it is. */
static int wanted_class(struct tables *t, const struct chunk *chunk, const struct policy *policy, bool make,
                        struct pack_class *ret)
{
    bool wanted = compressible(chunk, policy) || (policy->code_k == 0 && small(chunk, policy));
    int err = chunk->body == 0 && !wanted ? alone_in_its_file(t, chunk, policy, &wanted) : 0;
    if (err != 0 || (chunk->body == 0 && (!wanted || !verified(chunk))))
        return err != 0 ? err : -E_NOENT;
    err = pack_class_of(t, policy, make, ret);
    if (err == 0 && chunk->body != 0)
        err = piece_moves(t, chunk, ret, &wanted);
    return err == 0 && !wanted && chunk->body != 0 ? -E_NOENT : err;
}

int pack_consider_under(struct tables *t, const struct chunk *chunk, const struct policy *policy)
{
    struct pack_class class;
    int err = at_rest(chunk) ? wanted_class(t, chunk, policy, true, &class) : -E_NOENT;
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    return pack_candidate_add(t, &class, chunk->id, chunk->length, chunk->body != 0 ? 0 : t->now);
}

static int file_policy(struct tables *t, const struct chunk *chunk, struct policy *ret)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(t, chunk->owner, &inode);
    return err == 0 ? policy_of(t, &inode, ret) : err;
}

int pack_consider(struct tables *t, const struct chunk *chunk)
{
    struct heal_state heal;
    struct policy policy;
    if (!at_rest(chunk))
        return 0;
    int err = heal_state_get(t, &heal);
    if (err != 0 || (heal.policies == 0 && chunk->length > PACK_SMALL_BYTES && chunk->body == 0))
        return err; /* nothing asks for it: spares the climb */
    err = file_policy(t, chunk, &policy);
    if (err != 0)
        return err == -E_NOENT ? 0 : err; /* only a snapshot holds it: it stays as it is */
    return pack_consider_under(t, chunk, &policy);
}

int pack_class_now(struct tables *t, const struct chunk *chunk, struct pack_class *ret)
{
    struct policy policy;
    int err = at_rest(chunk) ? file_policy(t, chunk, &policy) : -E_NOENT;
    return err == 0 ? wanted_class(t, chunk, &policy, false, ret) : err;
}

/* ------------------------------------------------------------------ candidates */
/* When to look at the class for one more candidate. */
static uint64_t due_with(const struct pack_class *c, uint64_t bytes, uint64_t since_ns)
{
    bool alone = bytes > MIN(PACK_SMALL_BYTES, (1ull << c->shift) / 4);
    bool many = c->candidates >= PACK_ENOUGH_PIECES || c->bytes >= MIN(PACK_ENOUGH_BYTES, (1ull << c->shift) / 2);
    if (since_ns == 0)
        return 0;
    return since_ns + (alone || many ? PACK_COLD_NS : PACK_AGE_NS);
}

int pack_candidate_add(struct tables *t, struct pack_class *class, uint64_t chunk, uint64_t bytes, uint64_t since_ns)
{
    struct key key = key_3(TABLE_PACK, PACK_CANDIDATE, class->id, chunk);
    struct pack_candidate candidate = {.since_ns = since_ns, .bytes = bytes};
    if (tables_has(t, &key))
        return t->failed;
    _cleanup_(writer_fini) struct writer w = {0};
    pack_candidate_encode(&candidate, &w);
    int err = tables_put(t, &key, &w);
    if (err != 0)
        return err;
    class->candidates++;
    class->bytes += bytes;
    class->due_ns = MIN(class->due_ns, due_with(class, bytes, since_ns));
    return pack_class_put(t, class);
}

int pack_candidate_remove(struct tables *t, struct pack_class *class, uint64_t chunk)
{
    struct key key = key_3(TABLE_PACK, PACK_CANDIDATE, class->id, chunk);
    struct pack_candidate candidate;
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    if (pack_candidate_decode(value.data, value.len, &candidate) != 0)
        return tables_corrupt(t, &key, "candidate for packing");
    CHECK(class->candidates > 0 && class->bytes >= candidate.bytes);
    class->candidates--;
    class->bytes -= candidate.bytes;
    return tables_del(t, &key);
}
