/* Objects below directories with a code: they become parity groups, lose members, are read while stores are away, and
 * change between codes and copies. And small ones that are packed and compressed. At rest the checker and the oracles
 * count every shard and piece, each cell of it, against what the tables say. */
#include "run.h"

#include "common/check.h"
#include "common/err.h"

#include <inttypes.h>
#include <stdio.h>

/* A kind of objects: sizes, and the directories they are put below. */
struct kind {
    size_t min, max;
    const char *dirs[2];
};
static const struct kind coded = {KIB(900), MIB(4), {"/coded", "/coded"}}, wide = {KIB(900), MIB(5), {"/coded", "/wide"}},
                         packed = {KIB(5), KIB(200), {"/packed", "/packed"}};

static size_t size_of(const struct kind *kind, uint64_t content)
{
    struct prng prng = prng_init(content);
    return kind->min + (size_t)prng_below(&prng, kind->max - kind->min);
}

static void path_of(const struct kind *kind, const struct worker *worker, unsigned k, char out[64])
{
    snprintf(out, 64, "%s/w%u-%u-%u", kind->dirs[k % 2], worker->client, worker->index, k);
}

static bool content_is(const struct kind *kind, uint64_t content, const uint8_t *buf, int64_t n)
{
    if (content == 0 || n < 0 || size_of(kind, content) != (size_t)n)
        return false;
    uint8_t *want = malloc((size_t)n + 8);
    CHECK(want != NULL);
    content_fill(content, want, (size_t)n);
    bool equal = memcmp(want, buf, (size_t)n) == 0;
    free(want);
    return equal;
}

static bool is_allowed(const struct kind *kind, const struct object_model *model, const uint8_t *buf, int64_t n)
{
    if (n == -E_NOENT)
        return model->acked == 0;
    bool allowed = content_is(kind, model->acked, buf, n);
    for (unsigned i = 0; i < model->n_maybe && !allowed; i++)
        allowed = content_is(kind, model->maybe[i], buf, n);
    return allowed;
}

static void put_one(struct client *client, struct worker *worker, const struct kind *kind, struct object_model *models, unsigned k)
{
    uint64_t content = prng_u64(&worker->prng) | 1;
    char path[64];
    path_of(kind, worker, k, path);
    struct object_model *model = &models[k];
    size_t n = size_of(kind, content);
    _cleanup_free_ uint8_t *buf = malloc(n + 8);
    CHECK(buf != NULL);
    content_fill(content, buf, n);
    int err = put_whole(client, worker, path, buf, n, false);
    if (err == 0) {
        *model = (struct object_model){.acked = content, .never_again = model->never_again};
        worker->acked++;
        return;
    }
    worker->doubtful++;
    if (model->n_maybe == ARRAY_SIZE(model->maybe))
        model->never_again = true;
    else
        model->maybe[model->n_maybe++] = content;
}

static void get_one(struct client *client, struct worker *worker, const struct kind *kind, const struct object_model *models, unsigned k,
                    bool final)
{
    char path[64];
    path_of(kind, worker, k, path);
    const struct object_model *model = &models[k];
    if (model->never_again)
        return;
    _cleanup_free_ uint8_t *buf = malloc(kind->max + 1);
    CHECK(buf != NULL);
    int64_t n = read_path(client, path, buf, kind->max + 1);
    if (n < 0 && n != -E_NOENT && !final)
        return;
    if (n < 0 && n != -E_NOENT)
        broken(worker, "%s cannot be read after all faults have ended: %s", path, err_name((int)n));
    if (!is_allowed(kind, model, buf, n))
        broken(worker, "%s is not what was put: %" PRId64 " bytes, acknowledged %s", path, n, model->acked != 0 ? "before" : "never");
    worker->checked++;
}

/* ---- policies */

enum { COPIES = 1, DOMAIN = 2, CHUNK = 4, CODE = 16, COMPRESS = 32 };
static int policy_set(struct client *client, const char *dir, const Tarn__Policy *policy, uint32_t mask)
{
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__PolicySet request = TARN__POLICY_SET__INIT;
    where.path = (char *)(uintptr_t)dir;
    request.where = &where;
    request.policy = (Tarn__Policy *)(uintptr_t)policy;
    request.mask = mask;
    return meta_call(client->meta, OP_POLICY_SET, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

static int policy_code(struct client *client, const char *dir, uint32_t copies, uint32_t k, uint32_t m)
{
    Tarn__Policy policy = TARN__POLICY__INIT;
    policy.copies = copies;
    policy.code_k = k;
    policy.code_m = m;
    policy.domain = 2;
    policy.chunk_bytes = 1 << 20;
    return policy_set(client, dir, &policy, (copies != 0 ? COPIES : CODE) + DOMAIN + CHUNK);
}

static int policy_compress(struct client *client, const char *dir, uint32_t compress)
{
    Tarn__Policy policy = TARN__POLICY__INIT;
    policy.compress = compress;
    policy.chunk_bytes = 1 << 20;
    return policy_set(client, dir, &policy, COMPRESS + CHUNK);
}

void work_policy(struct client *client, struct worker *worker)
{
    static const struct {
        uint32_t copies, k, m;
    } narrow[] = {{0, 2, 1}, {0, 2, 1}, {0, 3, 1}, {0, 3, 2}, {2, 0, 0}}, far[] = {{0, 4, 2}, {0, 4, 2}, {0, 2, 1}, {3, 0, 0}};
    static const uint32_t levels[] = {1, 2, 4, 10}; /* 1: off; else zstd's level + 1 */
    size_t i;
    switch (worker->run->codes ? prng_below(&worker->prng, 4) : 0) {
    case 0:
    case 1:
        i = (size_t)prng_below(&worker->prng, ARRAY_SIZE(narrow)); /* the directory may come with its first object: refused until then */
        (void)policy_code(client, "/coded", narrow[i].copies, narrow[i].k, narrow[i].m);
        break;
    case 2:
        i = (size_t)prng_below(&worker->prng, ARRAY_SIZE(far));
        (void)policy_code(client, "/wide", far[i].copies, far[i].k, far[i].m);
        break;
    default:
        if (prng_below(&worker->prng, 3) == 0) /* containers of whole copies, or in parity groups */
            (void)policy_code(client, "/packed", prng_below(&worker->prng, 2) == 0 ? 2 : 0, 2, 1);
        else
            (void)policy_compress(client, prng_below(&worker->prng, 4) == 0 ? "/coded" : "/packed",
                                  levels[prng_below(&worker->prng, ARRAY_SIZE(levels))]);
    }
}

static int dir_make(struct client *client, const char *name)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Create request = TARN__CREATE__INIT;
    Tarn__Entry *entry = NULL;
    request.parent = &root;
    request.name = (char *)(uintptr_t)name;
    request.type = TARN__FILE_TYPE__FT_DIR;
    request.mode = 0755;
    request.parents = true; /* made before by somebody whose answer was lost: as good */
    int err = meta_call(client->meta, OP_CREATE, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL);
    if (err == 0)
        tarn__entry__free_unpacked(entry, NULL);
    return err;
}

int make_coded_dirs(struct client *client)
{
    int err = dir_make(client, "coded");
    if (err == 0)
        err = policy_code(client, "/coded", 0, 2, 1);
    if (err == 0)
        err = dir_make(client, "wide");
    if (err == 0)
        err = policy_code(client, "/wide", 0, 4, 2);
    if (err == 0)
        err = dir_make(client, "packed");
    return err != 0 ? err : policy_compress(client, "/packed", 4);
}

/* ---- the work */

static const struct kind *coded_kind(const struct worker *worker)
{
    return worker->run->codes ? &wide : &coded;
}

void work_coded_get(struct client *client, struct worker *worker, unsigned k, bool final)
{
    get_one(client, worker, coded_kind(worker), worker->coded, k, final);
}

void work_packed_get(struct client *client, struct worker *worker, unsigned k, bool final)
{
    get_one(client, worker, &packed, worker->packed, k, final);
}

void work_packed(struct client *client, struct worker *worker)
{
    unsigned k = (unsigned)prng_below(&worker->prng, PACKED_OBJECTS);
    if (prng_below(&worker->prng, 2) == 0 || worker->packed[k].acked == 0)
        put_one(client, worker, &packed, worker->packed, k);
    else
        work_packed_get(client, worker, k, false);
}

/* ---- snapshots: what was acknowledged before shows the same for ever, wherever its chunks go */

static const char *const snapshot_dirs[] = {"/coded", "/wide", "/packed"};

static void snapshot_where(Tarn__Where *where, const char *dir)
{
    tarn__where__init(where);
    where->path = (char *)(uintptr_t)dir;
}

static int snapshot_drop(struct client *client, const struct worker *worker, const char *dir, unsigned number)
{
    Tarn__SnapshotDrop request = TARN__SNAPSHOT_DROP__INIT;
    Tarn__Where where;
    char name[32];
    snapshot_where(&where, dir);
    snprintf(name, sizeof name, "s%u-%u-%u", worker->client, worker->index, number);
    request.where = &where;
    request.name = name;
    return meta_call(client->meta, OP_SNAPSHOT_DROP, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

static const struct kind *snapshot_kind(const char *dir)
{
    return strcmp(dir, packed.dirs[0]) == 0 ? &packed : &wide;
}

static void snapshot_take(struct client *client, struct worker *worker, struct snapshot_model *model)
{
    Tarn__SnapshotTake request = TARN__SNAPSHOT_TAKE__INIT;
    Tarn__Where where;
    char name[32];
    struct snapshot_model taken = {.number = ++worker->last_snapshot, .dir = snapshot_dirs[prng_below(&worker->prng, 3)]};
    const struct kind *kind = snapshot_kind(taken.dir);
    const struct object_model *objects = kind == &packed ? worker->packed : worker->coded;
    for (unsigned k = 0; k < (kind == &packed ? PACKED_OBJECTS : CODED_OBJECTS); k++)
        if (strcmp(kind->dirs[k % 2], taken.dir) == 0 && objects[k].n_maybe == 0 && !objects[k].never_again)
            taken.contents[k] = objects[k].acked;
    snapshot_where(&where, taken.dir);
    snprintf(name, sizeof name, "s%u-%u-%u", worker->client, worker->index, taken.number);
    request.where = &where;
    request.name = name;
    if (meta_call(client->meta, OP_SNAPSHOT_TAKE, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL) == 0)
        *model = taken;
}

static void snapshot_check(struct client *client, struct worker *worker, const struct snapshot_model *model, unsigned k, bool final)
{
    const struct kind *kind = snapshot_kind(model->dir);
    char path[128];
    snprintf(path, sizeof path, "%s/.snapshot/s%u-%u-%u/w%u-%u-%u", model->dir, worker->client, worker->index, model->number,
             worker->client, worker->index, k);
    _cleanup_free_ uint8_t *buf = malloc(kind->max + 1);
    CHECK(buf != NULL);
    int64_t n = read_path(client, path, buf, kind->max + 1);
    if (n < 0 && n != -E_NOENT && !final)
        return;
    if (!content_is(kind, model->contents[k], buf, n))
        broken(worker, "%s is not what it was when the snapshot was taken: %" PRId64 " bytes, or %s", path, n, n < 0 ? err_name((int)n) : "others");
    worker->run->snapshot_reads++;
}

void check_snapshots(struct client *client, struct worker *worker, bool final)
{
    for (unsigned i = 0; i < SNAPSHOTS; i++)
        for (unsigned k = 0; k < PACKED_OBJECTS; k++)
            if (worker->snapshots[i].number != 0 && worker->snapshots[i].contents[k] != 0)
                snapshot_check(client, worker, &worker->snapshots[i], k, final);
}

void work_snapshot(struct client *client, struct worker *worker)
{
    struct snapshot_model *model = &worker->snapshots[prng_below(&worker->prng, SNAPSHOTS)];
    if (prng_below(&worker->prng, 2) == 0) {
        check_snapshots(client, worker, false);
    } else if (model->number == 0) {
        snapshot_take(client, worker, model);
    } else {
        (void)snapshot_drop(client, worker, model->dir, model->number); /* lost: dropped again in the end */
        model->number = 0;
    }
}

void drop_snapshots(struct client *client, struct worker *worker)
{
    for (unsigned number = 1; number <= worker->last_snapshot; number++)
        for (unsigned d = 0; d < ARRAY_SIZE(snapshot_dirs); d++) {
            int err = snapshot_drop(client, worker, snapshot_dirs[d], number);
            if (err != 0 && err != -E_NOENT)
                broken(worker, "a snapshot of %s cannot be dropped after all faults have ended: %s", snapshot_dirs[d], err_name(err));
        }
}

/* ---- */

void work_coded(struct client *client, struct worker *worker)
{
    switch (prng_below(&worker->prng, 8)) {
    case 0:
        work_policy(client, worker);
        break;
    case 1:
    case 2:
    case 3:
        put_one(client, worker, coded_kind(worker), worker->coded, (unsigned)prng_below(&worker->prng, CODED_OBJECTS));
        break;
    default:
        work_coded_get(client, worker, (unsigned)prng_below(&worker->prng, CODED_OBJECTS), false);
    }
}
