/* Read leases and the exclusive lease under faults.
 *
 * Register: the mtime of a file, set to a number that grows with each try. A client reads it through a cache that it
 * uses, without asking, as long as lease_valid() says so. Every read, cached or not, must give the last acknowledged
 * number, a later one, or one whose write was never answered: nobody uses what is no longer true.
 *
 * Size kept back: whoever has the exclusive lease of a file raises its size in his own memory only. Whoever looks must
 * see what was the size when he began to look; no two clients have the lease. */
#include "run.h"

#include "client/lease.h"
#include "common/check.h"
#include "common/err.h"

#include <fcntl.h>
#include <inttypes.h>

/* ---- the register */

static bool register_allowed(const struct lease_model *model, uint64_t value, uint64_t acked)
{
    bool maybe = value >= acked || model->forgot;
    for (unsigned i = 0; i < model->n_maybe && !maybe; i++)
        maybe = model->maybe[i] == value;
    return maybe;
}

static void register_write(struct client *client, struct worker *worker)
{
    struct lease_model *model = &client->run->lease;
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = client->run->lease_ino;
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    request.where = &where;
    request.mask = TARN__SET_ATTR_BITS__SA_MTIME;
    request.mtime = ++model->tried;
    if (model->writing) /* two at once have no order */
        return;
    model->writing = true;
    model->forgot |= model->n_maybe == LEASE_MAYBE_MAX;
    if (!model->forgot)
        model->maybe[model->n_maybe++] = request.mtime;
    int err = meta_call(client->meta, OP_SETATTR, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    if (err == 0) {
        model->n_maybe -= !model->forgot; /* it was the last: nobody else wrote meanwhile */
        model->acked = MAX(model->acked, request.mtime);
        worker->acked++;
    }
    model->writing = false;
}

static int register_look(struct client *client, uint64_t *ret)
{
    struct leases *leases = meta_leases(client->meta);
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = client->run->lease_ino;
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    request.want_lease = true;
    Tarn__LookupReply *reply = NULL;
    struct lease_asking asking;
    lease_ask_begin(leases, &asking);
    int err = meta_call(client->meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root, &tarn__lookup_reply__descriptor, &reply, NULL);
    uint64_t stamp = lease_ask_end(leases, &asking, err == 0 ? reply->lease : NULL, err == 0 ? reply->attr->version : 0);
    if (err != 0)
        return err;
    *ret = reply->attr->mtime;
    if (stamp != 0)
        client->cached = (struct lease_cache){.stamp = stamp, .value = *ret};
    tarn__lookup_reply__free_unpacked(reply, NULL);
    return 0;
}

static void register_read(struct client *client, struct worker *worker)
{
    struct run *run = client->run;
    uint64_t acked = run->lease.acked, value = client->cached.value;
    bool cached = lease_valid(meta_leases(client->meta), run->lease_ino, client->cached.stamp);
    if (!cached && register_look(client, &value) != 0)
        return;
    if (value >= REGISTER_FIRST) /* as it was made */
        value = 0;
    if (!register_allowed(&run->lease, value, acked))
        broken(worker, "%s read gives %" PRIu64 ", acknowledged was %" PRIu64, cached ? "a cached" : "a", value, acked);
    run->cached_reads += cached;
    worker->checked++;
}

/* ---- what is kept back */

static int flush(void *arg, uint64_t ino, uint64_t *ret_size, uint64_t *ret_mtime)
{
    struct run *run = arg;
    *ret_size = run->kept_size;
    return 0;
}

static void kept_look(struct client *client, struct worker *worker)
{
    struct run *run = client->run;
    uint64_t expected = run->kept_size, losses = run->kept_losses;
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = run->kept_ino;
    Tarn__Lookup request = TARN__LOOKUP__INIT;
    request.where = &where;
    Tarn__LookupReply *reply = NULL;
    if (client->keeping > 0)
        return; /* what the service tells this client is not what it knows */
    if (meta_call(client->meta, OP_LOOKUP, &request.base, &request.ctx, &meta_root, &tarn__lookup_reply__descriptor, &reply, NULL) != 0)
        return;
    uint64_t size = reply->attr->size;
    tarn__lookup_reply__free_unpacked(reply, NULL);
    if (size < expected && losses == run->kept_losses && client->keeping == 0)
        broken(worker, "the size is %" PRIu64 ", kept back and acknowledged was %" PRIu64, size, expected);
    worker->checked++;
}

static void kept_raise(struct client *client, struct worker *worker, uint64_t handle)
{
    struct run *run = client->run;
    struct leases *leases = meta_leases(client->meta);
    for (unsigned i = 0; i < 4; i++) {
        if (!lease_exclusive_valid(leases, run->kept_ino))
            break;
        for (unsigned c = 0; c < WORLD_CLIENTS; c++)
            if (&run->clients[c] != client && run->clients[c].meta != NULL &&
                lease_exclusive_valid(meta_leases(run->clients[c].meta), run->kept_ino))
                broken(worker, "clients %u and %u have the exclusive lease", client->index, c + 1);
        run->kept_size++;
        run->kept_writes++;
        if (io_sleep_ms(fiber_io(), prng_below(&worker->prng, 40)) != 0)
            return;
    }
    (void)lease_exclusive_end(leases, run->kept_ino);
    Tarn__Close request = TARN__CLOSE__INIT;
    request.handle = handle;
    meta_call(client->meta, OP_CLOSE, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL); /* lost: with the session */
}

static void kept_write(struct client *client, struct worker *worker)
{
    struct run *run = client->run;
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = run->kept_ino;
    Tarn__Open request = TARN__OPEN__INIT;
    request.where = &where;
    request.flags = O_WRONLY;
    request.want_exclusive = true;
    Tarn__Entry *entry = NULL;
    if (meta_call(client->meta, OP_OPEN, &request.base, &request.ctx, &meta_root, &tarn__entry__descriptor, &entry, NULL) != 0)
        return;
    uint64_t handle = entry->handle, number = entry->exclusive;
    tarn__entry__free_unpacked(entry, NULL);
    client->keeping++;
    if (number != 0)
        (void)lease_exclusive_begin(meta_leases(client->meta), run->kept_ino, number, flush, run);
    kept_raise(client, worker, handle);
    client->keeping--;
}

void lease_client_lost(struct client *client)
{
    client->cached = (struct lease_cache){0};
    client->run->kept_losses++; /* it may have been the holder: what was kept back is gone with it */
    client->run->kept_size = 0;
}

void work_lease(struct client *client, struct worker *worker)
{
    struct run *run = client->run;
    if (run->lease_ino == 0 || run->kept_ino == 0)
        return;
    for (unsigned i = 0; i < 16; i++) { /* longer than a term, often into a partition and out of it */
        uint64_t what = prng_below(&worker->prng, 12);
        if (what == 0 || (worker->index == 1 && what > 5)) /* one of a host writes a lot, so that others have what is old */
            register_write(client, worker);
        else if (what == 1)
            kept_write(client, worker);
        else if (what == 2)
            kept_look(client, worker);
        else
            register_read(client, worker);
        if (io_sleep_ms(fiber_io(), prng_below(&worker->prng, 150)) != 0)
            return;
    }
}
