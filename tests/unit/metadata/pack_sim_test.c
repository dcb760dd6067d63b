/* Packing over a long life, drawn by a seed: objects come, are replaced, written and removed, policies change, nodes go
 * and come back, while stores pack. After every step the checker counts everything again; at rest every object has
 * its copies, half-dead containers are gone, and after everything was removed nothing is left. */
#include "pack_world.h"

#include <fcntl.h>
#include <stdio.h>

#include "common/prng.h"
#include "metadata/pack_rows.h"

#define OBJECTS 120
#define DIRS 3
#define STEPS 150

struct life {
    struct pack_world p;
    struct prng prng;
    uint64_t length[DIRS][OBJECTS]; /* of each of its chunks; 0: it is not there */
    unsigned chunks[DIRS][OBJECTS];
};

static const char *dirs[DIRS] = {"/d", "/d/e", "/d/f"};

static const char *name_of(unsigned i)
{
    static char name[16];
    snprintf(name, sizeof name, "o%u", i);
    return name;
}

static void put(struct life *l, unsigned d, unsigned i)
{
    static const uint64_t lengths[] = {5000, 10000, 60000, 300000, MIB(1), MIB(3)};
    uint64_t length = lengths[prng_below(&l->prng, ARRAY_SIZE(lengths))] + prng_below(&l->prng, 3);
    unsigned chunks = 1;
    if (prng_below(&l->prng, 10) == 0) { /* a file that can be in groups of its own */
        length = MIB(64);
        chunks = 2 + (unsigned)prng_below(&l->prng, 4);
    }
    pack_put_chunks(&l->p, dirs[d], name_of(i), length, chunks);
    l->length[d][i] = length;
    l->chunks[d][i] = chunks;
}

/* One byte is written into it: the chunk is swapped for an open one, which is sealed by the close. */
static void write_into(struct life *l, unsigned d, unsigned i)
{
    char path[32];
    uint64_t handle;
    Tarn__Attr *attr;
    snprintf(path, sizeof path, "%s/%s", dirs[d], name_of(i));
    assert_int_equal(world_lookup(&l->p.w, path, &attr), 0);
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = attr->ino;
    if (world_open(&l->p.w, path, O_RDWR, &handle) != 0)
        return;
    if (world_apply(&l->p.w, OP_CHUNK_WRITE, &m.base, &m.ctx) == 0) {
        const Tarn__ChunkReply *reply = world_reply(&l->p.w, &tarn__chunk_reply__descriptor);
        Tarn__ChunkSwap swap = TARN__CHUNK_SWAP__INIT;
        swap.ino = m.ino;
        swap.old_chunk = reply->extent->clone_of;
        swap.new_chunk = reply->extent->chunk;
        assert_int_equal(world_apply(&l->p.w, OP_CHUNK_SWAP, &swap.base, &swap.ctx), 0);
    }
    assert_int_equal(world_close(&l->p.w, handle), 0);
}

static void change_policy(struct life *l)
{
    static const uint32_t levels[] = {1, 2, 4, 10};
    Tarn__Policy to = TARN__POLICY__INIT;
    const char *dir = dirs[prng_below(&l->prng, DIRS)];
    uint64_t what = prng_below(&l->prng, 3);
    if (what == 0) {
        to.code_k = 2;
        to.code_m = 1 + (uint32_t)prng_below(&l->prng, 2);
        pack_set_policy(&l->p, dir, 16, to);
    } else if (what == 1) {
        to.copies = 2 + (uint32_t)prng_below(&l->prng, 2);
        pack_set_policy(&l->p, dir, 1, to);
    } else {
        to.compress = levels[prng_below(&l->prng, ARRAY_SIZE(levels))];
        pack_set_policy(&l->p, dir, 32, to);
    }
}

static void turn(struct life *l)
{
    uint32_t node = 1 + (uint32_t)prng_below(&l->prng, l->p.nodes);
    for (uint32_t i = 1; i <= l->p.nodes; i++)
        if (l->p.down[i])
            node = i; /* one at a time */
    l->p.down[node] = !l->p.down[node];
    world_node_set(&l->p.w, node, !l->p.down[node]);
}

static void step(struct life *l)
{
    unsigned d = (unsigned)prng_below(&l->prng, DIRS);
    uint64_t what = prng_below(&l->prng, 100);
    unsigned many = what < 40 ? 40 : what < 75 ? 25 : 1;
    for (unsigned k = 0; k < many; k++) {
        unsigned i = (unsigned)prng_below(&l->prng, OBJECTS);
        if (what < 40) {
            put(l, d, i);
        } else if (what < 75 && l->length[d][i] != 0) {
            assert_int_equal(world_unlink(&l->p.w, dirs[d], name_of(i), false), 0);
            l->length[d][i] = 0;
        } else if (what >= 75 && what < 85 && l->length[d][i] != 0) {
            write_into(l, d, i);
        }
    }
    if (what >= 85 && what < 90)
        change_policy(l);
    if (what >= 95)
        turn(l);
    pack_run(&l->p, 1 + (unsigned)prng_below(&l->prng, 4));
}

static void all_are_there(struct life *l, unsigned *ret_packed, unsigned *ret_coded)
{
    char path[32];
    for (unsigned d = 0; d < DIRS; d++)
        for (unsigned i = 0; i < OBJECTS; i++) {
            if (l->length[d][i] == 0)
                continue;
            snprintf(path, sizeof path, "%s/%s", dirs[d], name_of(i));
            const Tarn__FileMapReply *map = pack_map(&l->p, path);
            assert_int_equal(map->n_extents, l->chunks[d][i]);
            for (size_t k = 0; k < map->n_extents; k++) {
                const Tarn__Extent *extent = map->extents[k];
                assert_int_equal(extent->length, l->length[d][i]);
                assert_true(extent->n_replicas >= (extent->group != 0 ? 1 : 2));
                if (extent->stored != 0)
                    assert_int_equal(extent->content, l->length[d][i]);
                *ret_packed += extent->stored != 0;
                *ret_coded += extent->stored != 0 && extent->group != 0;
            }
        }
}

/* Pieces that are in coded containers at the end. */
static unsigned live(uint64_t seed)
{
    static struct life l;
    unsigned packed = 0, coded = 0;
    l = (struct life){.prng = prng_init(seed)};
    pack_begin(&l.p, 6);
    l.p.w.incompressible = seed % 3 == 0;
    for (unsigned d = 1; d < DIRS; d++)
        assert_int_equal(world_make(&l.p.w, TARN__FILE_TYPE__FT_DIR, "/d", dirs[d] + 3, 0755), 0);
    for (unsigned i = 0; i < STEPS; i++)
        step(&l);
    for (uint32_t node = 1; node <= l.p.nodes; node++)
        if (l.p.down[node])
            turn(&l);
    pack_run(&l.p, 1300);
    all_are_there(&l, &packed, &coded);
    assert_true(packed > 0);
    const Tarn__StatusReply *status = world_status(&l.p.w);
    assert_int_equal(status->below_target, 0);
    assert_int_equal(status->pending_tasks, 0);
    for (unsigned d = 0; d < DIRS; d++)
        for (unsigned i = 0; i < OBJECTS; i++)
            if (l.length[d][i] != 0)
                assert_int_equal(world_unlink(&l.p.w, dirs[d], name_of(i), false), 0);
    pack_run(&l.p, 1300);
    assert_int_equal(pack_rows(&l.p, TABLE_CHUNK), 0);
    assert_int_equal(pack_rows(&l.p, TABLE_PIECE), 0);
    assert_int_equal(pack_rows(&l.p, TABLE_PACK), 0);
    assert_int_equal(pack_rows(&l.p, TABLE_GROUP), 0);
    pack_end(&l.p);
    return coded;
}

static void nothing_is_lost_and_nothing_is_left(void **state)
{
    unsigned coded = 0;
    for (uint64_t seed = 1; seed <= 3; seed++)
        coded += live(seed);
    assert_true(coded > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_lost_and_nothing_is_left)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
