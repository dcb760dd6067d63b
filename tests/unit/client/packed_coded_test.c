/* Small objects in containers, large ones compressed, and both coded: read with any one node away, overwritten, compacted, and taken
 * through changes of policy. Real service, real stores; the minutes that packing waits are simulated. */
#include "cluster.h"
#include "harness.h"

#include "common/log.h"
#include "common/prng.h"
#include "ops.h"
#include "tests/unit/cmocka.h"

#include <fcntl.h>
#include <stdio.h>

#define SMALL 160       /* objects; two containers at least */
#define SMALL_MAX 30000
#define LARGE (MIB(3) + 600001) /* four chunks, none of them small */
#define WAIT_SECONDS 900 /* simulated */

#define COPIES 1u /* bits of PolicySet.mask */
#define CHUNK 4u
#define CODE 16u
#define COMPRESS 32u

static uint8_t data[LARGE], back[LARGE + 1];

struct objects {
    struct user *user;
    bool there[SMALL];
    bool written; /* the middle of "large" */
};

/* ------------------------------------------------------------------ contents */
/* Every third cannot be compressed. */
static size_t small_fill(unsigned i)
{
    struct prng prng = prng_init(i + 1);
    size_t n = 4200 + (size_t)prng_below(&prng, SMALL_MAX - 4200);
    for (size_t at = 0; at < n; at++)
        data[at] = i % 3 == 0 ? (uint8_t)prng_u64(&prng) : (uint8_t)(i + at / 100);
    return n;
}

static void large_fill(bool written)
{
    for (size_t i = 0; i < LARGE; i++)
        data[i] = (uint8_t)(i / 300 * 7);
    if (written)
        memset(data + LARGE / 2, 0xa5, 5000);
}

static void name_of(unsigned i, char out[16])
{
    snprintf(out, 16, "o%u", i);
}

static void policy_set(struct user *user, uint32_t mask, Tarn__Policy policy)
{
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__PolicySet request = TARN__POLICY_SET__INIT;
    request.where = &where;
    request.policy = &policy;
    request.mask = mask;
    expect_equal(meta_call(user->meta, OP_POLICY_SET, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
}

static void put_all(struct objects *o)
{
    char name[16];
    for (unsigned i = 0; i < SMALL; i++) {
        name_of(i, name);
        user_put(o->user, name, data, small_fill(i));
        o->there[i] = true;
    }
    large_fill(false);
    user_put(o->user, "large", data, LARGE);
}

static void expect_content(struct user *user, const char *path, size_t n)
{
    struct file *file = user_open(user, path, O_RDONLY);
    expect_equal(file_read(file, back, sizeof back, 0), (int64_t)n);
    expect(memcmp(back, data, n) == 0);
    if (n > 5000) { /* and from the middle, which a compressed piece answers from some of its frames */
        expect_equal(file_read(file, back, 777, n / 2), 777);
        expect(memcmp(back, data + n / 2, 777) == 0);
    }
    expect_equal(file_close(file), 0);
}

static void read_all(struct objects *o)
{
    char name[16];
    for (unsigned i = 0; i < SMALL; i++) {
        if (!o->there[i])
            continue;
        name_of(i, name);
        expect_content(o->user, name, small_fill(i));
    }
    large_fill(o->written);
    expect_content(o->user, "large", LARGE);
}

/* One node after the other is away; those that read know nothing of it beforehand. */
static void read_all_without_any_one(struct objects *o)
{
    struct cluster *cluster = o->user->cluster;
    for (unsigned i = 0; i < NODES; i++) {
        cluster_store_stop(cluster, i);
        read_all(o);
        cluster_store_start(cluster, i);
        cluster_wait(cluster);
    }
}

/* ------------------------------------------------------------------ how they are kept */
struct kept {
    unsigned extents, pieces, zstd, coded;
    uint64_t copied;      /* the first chunk that is kept in copies */
    bool several_copied;  /* … is not the only one */
};

static void kept_add(struct user *user, const char *path, struct kept *kept)
{
    Tarn__FileMap request = TARN__FILE_MAP__INIT;
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__FileMapReply *map = NULL;
    where.path = (char *)path;
    request.where = &where;
    expect_equal(meta_call(user->meta, OP_FILE_MAP, &request.base, &request.ctx, &meta_root, &tarn__file_map_reply__descriptor,
                           &map, NULL), 0);
    for (size_t i = 0; i < map->n_extents; i++) {
        const Tarn__Extent *e = map->extents[i];
        kept->extents++;
        kept->pieces += e->stored != 0;
        kept->zstd += e->form == TARN__CHUNK_FORM__FORM_ZSTD;
        kept->coded += e->group != 0;
        expect(e->group == 0 || e->n_replicas == 1);
        if (e->group != 0)
            continue;
        kept->several_copied |= kept->copied != 0 && kept->copied != e->chunk;
        kept->copied = e->chunk;
    }
    tarn__file_map_reply__free_unpacked(map, NULL);
}

static struct kept kept_all(struct objects *o)
{
    struct kept kept = {0};
    char name[16];
    for (unsigned i = 0; i < SMALL; i++) {
        name_of(i, name);
        if (o->there[i])
            kept_add(o->user, name, &kept);
    }
    kept_add(o->user, "large", &kept);
    return kept;
}

static bool nothing_to_do(struct objects *o)
{
    Tarn__Status request = TARN__STATUS__INIT;
    Tarn__StatusReply *status = NULL;
    expect_equal(meta_call(o->user->meta, OP_STATUS, &request.base, &request.ctx, &meta_root, &tarn__status_reply__descriptor,
                           &status, NULL), 0);
    bool nothing = status->below_target == 0 && status->lost == 0 && status->pending_tasks == 0 && status->coding == 0 &&
                   status->ghosts == 0;
    tarn__status_reply__free_unpacked(status, NULL);
    return nothing;
}

/* The last container of an odd number has nobody to be coded with. */
static bool all_packed_compressed_and_coded(struct objects *o)
{
    struct kept kept = kept_all(o);
    unsigned stays_raw = SMALL / 3 + 1;
    return !kept.several_copied && kept.coded > kept.extents / 2 && kept.pieces == kept.extents &&
           kept.zstd + stays_raw >= kept.extents && nothing_to_do(o);
}

static bool all_coded_and_raw(struct objects *o)
{
    struct kept kept = kept_all(o);
    return !kept.several_copied && kept.coded > kept.extents / 2 && kept.zstd == 0 && nothing_to_do(o);
}

static bool all_in_copies_and_raw(struct objects *o)
{
    struct kept kept = kept_all(o);
    return kept.coded == 0 && kept.zstd == 0 && kept.several_copied && nothing_to_do(o);
}

static void wait_for(struct objects *o, bool (*condition)(struct objects *o), const char *what)
{
    for (unsigned s = 0; s < WAIT_SECONDS; s += 2) {
        if (condition(o))
            return;
        expect_equal(io_sleep_ms(o->user->cluster->io, 2000), 0); /* simulated; an event without a push */
    }
    struct kept kept = kept_all(o);
    fprintf(stderr, "not %s: of %u extents %u in containers, %u compressed, %u coded\n", what, kept.extents, kept.pieces, kept.zstd,
            kept.coded);
    expect(false);
}

/* ------------------------------------------------------------------ changes */
static void unlink_most(struct objects *o)
{
    for (unsigned i = 0; i < SMALL; i++) {
        char name[16];
        Tarn__Where where = TARN__WHERE__INIT; /* the root */
        Tarn__Unlink request = TARN__UNLINK__INIT;
        if (i % 4 == 0)
            continue;
        name_of(i, name);
        request.parent = &where;
        request.name = name;
        expect_equal(meta_call(o->user->meta, OP_UNLINK, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL), 0);
        o->there[i] = false;
    }
}

/* The chunk is a compressed piece in a coded container: its content is copied first. */
static void write_into_large(struct objects *o)
{
    struct file *file = user_open(o->user, "large", O_RDWR);
    large_fill(true);
    expect_equal(file_write(file, data + LARGE / 2, 5000, LARGE / 2, false), 0);
    expect_equal(file_close(file), 0);
    o->written = true;
}

/* ------------------------------------------------------------------ tests */
static void begin_coded(struct objects *o, uint32_t compress)
{
    Tarn__Policy policy = TARN__POLICY__INIT;
    policy.code_k = 2;
    policy.code_m = 1;
    policy.chunk_bytes = MIB(1);
    policy.compress = compress;
    policy_set(o->user, CODE | CHUNK | COMPRESS, policy);
    put_all(o);
}

static void pieces_in_coded_containers_are_read_without_any_one_node(struct objects *o)
{
    begin_coded(o, 4);
    wait_for(o, all_packed_compressed_and_coded, "packed, compressed and coded");
    read_all_without_any_one(o);
}

static void coded_containers_are_compacted(struct objects *o)
{
    begin_coded(o, 4);
    wait_for(o, all_packed_compressed_and_coded, "packed, compressed and coded");
    unlink_most(o);
    write_into_large(o);
    read_all(o);
    wait_for(o, all_packed_compressed_and_coded, "compacted and coded again");
    read_all_without_any_one(o);
}

/* Half of what it asks is done when each next policy comes, the last ones are carried out. */
static void policies_change_in_the_middle(struct objects *o)
{
    Tarn__Policy policy = TARN__POLICY__INIT;
    begin_coded(o, 1);
    wait_for(o, all_coded_and_raw, "coded");
    policy.compress = 4;
    policy_set(o->user, COMPRESS, policy);
    expect_equal(io_sleep_ms(o->user->cluster->io, 25000), 0); /* simulated: packing has begun */
    read_all(o);
    policy.compress = 1;
    policy_set(o->user, COMPRESS, policy);
    expect_equal(io_sleep_ms(o->user->cluster->io, 5000), 0);
    policy.compress = 4;
    policy_set(o->user, COMPRESS, policy);
    wait_for(o, all_packed_compressed_and_coded, "compressed and coded");
    read_all_without_any_one(o);
    policy = (Tarn__Policy)TARN__POLICY__INIT;
    policy.copies = 2;
    policy.compress = 1;
    policy_set(o->user, COPIES | COMPRESS, policy);
    read_all(o);
    wait_for(o, all_in_copies_and_raw, "in copies and raw");
    read_all_without_any_one(o);
}

static void run_body(struct io *io, const char *host, const char *dir, const void *arg)
{
    void (*const *body)(struct objects *o) = arg;
    struct cluster cluster;
    struct user user;
    struct objects objects = {.user = &user};
    cluster_start(&cluster, io, host, dir);
    user_start(&user, &cluster, 0);
    (*body)(&objects);
    user_stop(&user);
    cluster_stop(&cluster);
}

static void run_case(void **state)
{
    harness_sim(1, run_body, *state);
}

#define CASE(fn) {#fn, fn}
static const struct {
    const char *name;
    void (*body)(struct objects *o);
} cases[] = {
    CASE(pieces_in_coded_containers_are_read_without_any_one_node),
    CASE(coded_containers_are_compacted),
    CASE(policies_change_in_the_middle),
};

int main(void)
{
    log_init("packed_coded_test");
    log_set_level(LOG_ERROR);
    struct CMUnitTest tests[ARRAY_SIZE(cases)];
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        tests[i] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i].body};
    return _cmocka_run_group_tests("packed and coded", tests, ARRAY_SIZE(cases), NULL, NULL);
}
