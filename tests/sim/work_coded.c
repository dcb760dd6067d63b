/* Objects of several chunks below a directory with a code: they become parity groups, lose members, are read while
 * stores are away, and change between codes and copies. At rest the checker and the oracle of the stores count every
 * shard, its length and digest, against what the tables say. */
#include "run.h"

#include "common/check.h"
#include "common/err.h"

#include <inttypes.h>
#include <stdio.h>

#define CODED_MIN KIB(900)
#define CODED_MAX MIB(4)

static size_t coded_size(uint64_t content)
{
    struct prng prng = prng_init(content);
    return CODED_MIN + (size_t)prng_below(&prng, CODED_MAX - CODED_MIN);
}

static void coded_path(const struct worker *worker, unsigned k, char out[64])
{
    snprintf(out, 64, "/coded/w%u-%u-%u", worker->client, worker->index, k);
}

static bool coded_is(uint64_t content, const uint8_t *buf, int64_t n)
{
    if (content == 0 || n < 0 || coded_size(content) != (size_t)n)
        return false;
    uint8_t *want = malloc((size_t)n + 8);
    CHECK(want != NULL);
    content_fill(content, want, (size_t)n);
    bool equal = memcmp(want, buf, (size_t)n) == 0;
    free(want);
    return equal;
}

/* The directory comes with its first object; until then this is refused. */
static void coded_policy(struct client *client, struct worker *worker)
{
    static const struct {
        uint32_t copies, k, m;
    } words[] = {{0, 2, 1}, {0, 2, 1}, {0, 3, 1}, {0, 3, 2}, {2, 0, 0}};
    size_t i = (size_t)prng_below(&worker->prng, ARRAY_SIZE(words));
    Tarn__Where where = TARN__WHERE__INIT;
    Tarn__Policy policy = TARN__POLICY__INIT;
    Tarn__PolicySet request = TARN__POLICY_SET__INIT;
    where.path = "/coded";
    policy.copies = words[i].copies;
    policy.code_k = words[i].k;
    policy.code_m = words[i].m;
    policy.domain = 2;
    policy.chunk_bytes = 1 << 20;
    request.where = &where;
    request.policy = &policy;
    request.mask = (words[i].copies != 0 ? 1 : 16) + 2 + 4;
    (void)meta_call(client->meta, OP_POLICY_SET, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

static void coded_put(struct client *client, struct worker *worker)
{
    unsigned k = (unsigned)prng_below(&worker->prng, CODED_OBJECTS);
    uint64_t content = prng_u64(&worker->prng) | 1;
    char path[64];
    coded_path(worker, k, path);
    struct object_model *model = &worker->coded[k];
    size_t n = coded_size(content);
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

static bool coded_allowed(const struct object_model *model, const uint8_t *buf, int64_t n)
{
    if (n == -E_NOENT)
        return model->acked == 0;
    bool allowed = coded_is(model->acked, buf, n);
    for (unsigned i = 0; i < model->n_maybe && !allowed; i++)
        allowed = coded_is(model->maybe[i], buf, n);
    return allowed;
}

void work_coded_get(struct client *client, struct worker *worker, unsigned k, bool final)
{
    char path[64];
    coded_path(worker, k, path);
    struct object_model *model = &worker->coded[k];
    if (model->never_again)
        return;
    _cleanup_free_ uint8_t *buf = malloc(CODED_MAX + 1);
    CHECK(buf != NULL);
    int64_t n = read_path(client, path, buf, CODED_MAX + 1);
    if (n < 0 && n != -E_NOENT && !final)
        return;
    if (n < 0 && n != -E_NOENT)
        broken(worker, "%s cannot be read after all faults have ended: %s", path, err_name((int)n));
    if (!coded_allowed(model, buf, n))
        broken(worker, "%s is not what was put: %" PRId64 " bytes, acknowledged %s", path, n, model->acked != 0 ? "before" : "never");
    worker->checked++;
}

void work_coded(struct client *client, struct worker *worker)
{
    switch (prng_below(&worker->prng, 8)) {
    case 0:
        coded_policy(client, worker);
        break;
    case 1:
    case 2:
    case 3:
        coded_put(client, worker);
        break;
    default:
        work_coded_get(client, worker, (unsigned)prng_below(&worker->prng, CODED_OBJECTS), false);
    }
}
