#include "put_code.h"

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "ops.h"

#include <stdatomic.h>

#define ALIGNMENT 4096
#define WINDOW MIB(1) /* what a put sends at once: no shard is shorter */

/* Loops of several threads put at once (libtarn). */
static _Atomic uint64_t memory_used;

uint64_t put_code_memory_used(void)
{
    return atomic_load(&memory_used);
}

static bool reserve(uint64_t bytes, uint64_t max)
{
    uint64_t used = atomic_load(&memory_used);
    do {
        if (bytes > max || used > max - bytes)
            return false;
    } while (!atomic_compare_exchange_weak(&memory_used, &used, used + bytes));
    return true;
}

int put_code_init(struct put_code *code, unsigned k, unsigned m, uint64_t length, uint64_t memory_max)
{
    *code = (struct put_code){.length = length};
    int r = length > 0 ? ec_codec_init(k, m, &code->codec) : -E_INVAL;
    if (r < 0)
        return r;
    uint64_t each = round_up_u64(length, ALIGNMENT);
    if (!reserve(each * m, memory_max))
        return -E_BUSY;
    code->reserved = each * m;
    for (unsigned i = 0; i < m; i++) {
        code->parity[i] = aligned_alloc(ALIGNMENT, each);
        if (code->parity[i])
            continue;
        put_code_fini(code);
        return -E_NOMEM;
    }
    return 0;
}

void put_code_fini(struct put_code *code)
{
    for (unsigned i = 0; i < EC_PARITY_MAX; i++)
        free(code->parity[i]);
    atomic_fetch_sub(&memory_used, code->reserved);
    *code = (struct put_code){0};
}

/* Memory is zeroed where data reaches for the first time: it is in the cache when it is folded into. */
static void reach(struct put_code *code, uint64_t end)
{
    if (end <= code->longest)
        return;
    for (unsigned i = 0; i < code->codec.m; i++)
        memset(code->parity[i] + code->longest, 0, end - code->longest);
    code->longest = end;
}

void put_code_fold(struct put_code *code, unsigned shard, uint64_t offset, const uint8_t *data, size_t n)
{
    CHECK(shard < code->codec.k && offset <= code->length && n <= code->length - offset);
    uint8_t *to[EC_PARITY_MAX];
    reach(code, offset + n);
    for (unsigned i = 0; i < code->codec.m; i++)
        to[i] = code->parity[i] + offset;
    ec_encode_update(&code->codec, shard, n, data, to);
}

/* ------------------------------------------------------------------ a group of an upload */

static int ask(const struct put_group_where *where, Tarn__UploadGroupReply **ret)
{
    Tarn__UploadGroup request = TARN__UPLOAD_GROUP__INIT;
    request.upload = where->upload;
    request.index = where->index;
    request.writer_node = stores_node(where->stores);
    request.near = where->near;
    request.path = where->path;
    request.remaining = where->remaining;
    request.before = where->before;
    return meta_call(where->meta, OP_UPLOAD_GROUP, &request.base, &request.ctx, where->cred,
                     &tarn__upload_group_reply__descriptor, ret, NULL);
}

static bool extents_are_there(Tarn__Extent *const *extents, size_t n, uint64_t length)
{
    for (size_t i = 0; i < n; i++)
        if (extents[i]->length != length || extents[i]->n_replicas == 0)
            return false;
    return true;
}

static int reply_check(const Tarn__UploadGroupReply *reply)
{
    uint64_t length = reply->n_data > 0 ? reply->data[0]->length : 0;
    bool good = reply->upload != 0 && reply->n_data == reply->k && reply->n_parity == reply->m && length >= WINDOW &&
                length <= MIB(64) && extents_are_there(reply->data, reply->n_data, length) &&
                extents_are_there(reply->parity, reply->n_parity, length);
    return good ? 0 : -E_PROTO;
}

int put_group_begin(const struct put_group_where *where, uint64_t *ret_upload, struct put_group **ret)
{
    Tarn__UploadGroupReply *reply = NULL;
    int r = ask(where, &reply);
    if (r < 0)
        return r == -E_NOSPC ? -E_NOTSUP : r;
    r = reply_check(reply);
    if (r == 0)
        *ret_upload = reply->upload;
    struct put_group *group = r == 0 ? calloc(1, sizeof *group) : NULL;
    if (r == 0 && !group)
        r = -E_NOMEM;
    if (r == 0)
        r = put_code_init(&group->code, reply->k, reply->m, reply->data[0]->length, stores_code_memory(where->stores));
    if (r < 0) {
        free(group);
        tarn__upload_group_reply__free_unpacked(reply, NULL);
        return r == -E_BUSY || r == -E_NOMEM ? -E_NOTSUP : r;
    }
    group->stores = where->stores;
    group->reply = reply;
    group->first = where->index;
    *ret = group;
    return 0;
}

void put_group_free(struct put_group *group)
{
    if (!group)
        return;
    put_code_fini(&group->code);
    tarn__upload_group_reply__free_unpacked(group->reply, NULL);
    free(group);
}

/* ------------------------------------------------------------------ parity */

#define PARITY_STREAMS 2 /* windows of one shard under way: the m shards go to different stores */

/* Of the streams of one shard the last to end brings the shard to disk. */
static void parity_end(struct put_parity *parity)
{
    struct put_group *group = parity->group;
    unsigned index = (unsigned)(parity - group->parity);
    if (parity->err == 0)
        parity->err = stores_sync(group->stores, group->session, group->reply->parity[index], &parity->lives);
    group->ended(group->arg, group, group->reply->parity[index]->chunk, parity->err);
}

static void parity_run(void *arg)
{
    struct put_parity *parity = arg;
    struct put_group *group = parity->group;
    unsigned index = (unsigned)(parity - group->parity);
    struct fiber_group *running = group->running;
    Tarn__Extent *extent = group->reply->parity[index];
    while (parity->err == 0 && parity->sent < group->code.longest) {
        uint64_t offset = parity->sent;
        size_t n = MIN((uint64_t)WINDOW, group->code.longest - offset);
        parity->sent += n;
        int r = stores_write(group->stores, group->session, extent, offset, group->code.parity[index] + offset, n, false,
                             &parity->lives);
        if (r < 0 && parity->err == 0)
            parity->err = r;
    }
    if (--parity->streams == 0)
        parity_end(parity);
    fiber_group_done(running);
}

static int parity_spawn(struct put_parity *parity)
{
    struct put_group *group = parity->group;
    fiber_group_add(group->running);
    int r = fiber_spawn(fiber_io(), "put-parity", parity_run, parity);
    if (r < 0)
        fiber_group_done(group->running);
    else
        parity->streams++;
    return r;
}

int put_group_send_parity(struct put_group *group, uint64_t session, struct fiber_group *running, put_group_ended ended, void *arg)
{
    group->session = session;
    group->running = running;
    group->ended = ended;
    group->arg = arg;
    for (unsigned i = 0; i < group->code.codec.m; i++) {
        struct put_parity *parity = &group->parity[i];
        parity->group = group;
        int r = parity_spawn(parity);
        if (r < 0)
            return r;
        group->users++;
        if (group->code.longest > WINDOW)
            (void)parity_spawn(parity); /* one stream does it, too */
    }
    return 0;
}

/* What is wrong with a member, and not with the session, the memory or the object. */
static bool is_of_member(int err)
{
    return err == -E_IO || err == -E_NOSPC || err == -E_CORRUPT || err == -E_NOENT || err == -E_TIMEOUT ||
           err == -E_CONN || err == -E_UNAVAIL || err == -E_STALE || err == -E_BUSY;
}

int put_group_lose(struct put_group *group, uint64_t chunk, int err)
{
    if (!is_of_member(err))
        return err;
    group->lost++;
    /* What is acknowledged can bear the loss of one more disk. */
    if (group->lost >= group->code.codec.m)
        return err;
    log_warn("chunk %llx of group %llx is not stored (%s): the group goes on without it and is made whole later",
             (unsigned long long)chunk, (unsigned long long)group->reply->group, err_sentence(err));
    return 0;
}
