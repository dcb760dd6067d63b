#include "store.h"

#include "beat.h"
#include "disks.h"
#include "handover.h"
#include "ops.h"
#include "scrub.h"
#include "verify.h"
#include "common/check.h"
#include "common/err.h"
#include "common/log.h"

#include <stdio.h>

static void copy_text(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text != NULL ? text : "");
}

/* ------------------------------------------------------------------ life */
static struct store *store_make(struct io *io, const struct store_options *options)
{
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    *s = (struct store){.io = io, .auth = options->auth, .n_meta = options->n_meta, .meta = options->meta,
                        .node_wanted = options->node,
                        .inventory_ms = options->inventory_ms != 0 ? options->inventory_ms : STORE_INVENTORY_MS,
                        .scrub_days = options->scrub_days};
    s->handover = handover_create();
    if (s->handover == NULL) {
        free(s);
        return NULL;
    }
    list_init(&s->peers);
    fences_init(&s->fences);
    pace_init(&s->pace, io_mono_ns(io));
    if (s->n_meta == 0)
        (void)fences_reset(&s->fences, 0, 0, NULL, 0); /* nothing has ended: takes no memory */
    copy_text(s->host, sizeof s->host, options->host);
    copy_text(s->rack, sizeof s->rack, options->rack);
    copy_text(s->machine, sizeof s->machine, options->machine);
    s->service = (struct rpc_service){.ops = store_ops, .n_ops = store_n_ops, .ctx = s, .closed = handover_closed};
    return s;
}

static int listen_on(struct store *s, const char *address, struct rpc_server **server, char *out, size_t size)
{
    struct io_listener *listener;
    int err = io_listen(s->io, address, &listener);
    if (err != 0)
        return err;
    copy_text(out, size, io_listener_address(listener));
    return rpc_server_start(s->io, listener, s->auth, &s->service, server);
}

static void store_free(struct store *s)
{
    list_foreach_safe(&s->peers, it, next) {
        struct peer *peer = list_entry(it, struct peer, link);
        rpc_client_destroy(peer->client);
        free(peer);
    }
    disks_close(s);
    handover_destroy(s->handover);
    fences_fini(&s->fences);
    free(s);
}

int store_open(struct io *io, const struct store_options *options, struct store **ret, const char **ret_why)
{
    struct store *s = store_make(io, options);
    *ret_why = err_sentence(-E_NOMEM);
    if (s == NULL)
        return -E_NOMEM;
    int err = disks_open(s, options, ret_why);
    if (err != 0) {
        store_free(s);
        return err;
    }
    err = listen_on(s, options->listen, &s->server, s->address, sizeof s->address);
    if (err == 0 && options->local != NULL)
        err = listen_on(s, options->local, &s->local_server, s->local, sizeof s->local);
    if (err != 0) {
        *ret_why = err_sentence(err);
        store_stop(s);
        return err;
    }
    *ret = s;
    return 0;
}

int store_serve(struct store *s)
{
    int err = s->local_server != NULL ? verify_start(s, &s->verify) : 0;
    if (err == 0)
        err = scrub_watch(s);
    if (err == 0 && s->n_meta > 0)
        err = disks_watch(s);
    return err != 0 || s->n_meta == 0 ? err : beat_start(s, &s->beat);
}

const char *store_address(const struct store *s)
{
    return s->address;
}

void store_stop(struct store *s)
{
    s->stopping = true;
    fiber_queue_wake_all(&s->contact_wake); /* changes that wait for their verdict */
    if (s->beat != NULL)
        beat_stop(s->beat);
    s->beat = NULL;
    verify_stop(s->verify);
    s->verify = NULL;
    disks_unwatch(s);
    scrub_unwatch(s);
    if (s->local_server != NULL)
        rpc_server_stop(s->local_server);
    if (s->server != NULL)
        rpc_server_stop(s->server);
    CHECK(s->requests == 0);
    store_free(s);
}

/* A copy that can be told, of the newest generation, before one under way. */
static bool better(const struct chunk *a, const struct chunk *b)
{
    bool real = chunk_is_real(a) && (a->flags & CHUNK_PARTIAL) == 0;
    if (b == NULL || !chunk_is_real(b) || (b->flags & CHUNK_PARTIAL) != 0)
        return real || b == NULL;
    return real && a->generation > b->generation;
}

static struct volume *volume_with(const struct store *s, uint64_t id)
{
    const struct chunk *best = NULL;
    struct volume *found = s->volumes[0];
    for (unsigned i = 0; i < s->n_volumes; i++) {
        const struct chunk *c = map_get(&s->volumes[i]->index.chunks, id);
        if (c != NULL && better(c, best)) {
            best = c;
            found = s->volumes[i];
        }
    }
    return found;
}

int store_volume(const struct store *s, uint32_t disk, uint64_t chunk, struct volume **ret)
{
    if (disk == 0 || s->n_meta == 0) {
        *ret = volume_with(s, chunk);
        return 0;
    }
    for (unsigned i = 0; i < s->n_volumes; i++)
        if (s->volumes[i]->super.disk == disk) {
            *ret = s->volumes[i];
            return 0;
        }
    return -E_UNAVAIL;
}

/* ------------------------------------------------------------------ others */
struct rpc_client *store_peer(struct store *s, const char *address)
{
    list_foreach(&s->peers, it) {
        struct peer *peer = list_entry(it, struct peer, link);
        if (strcmp(rpc_client_address(peer->client), address) == 0)
            return peer->client;
    }
    if (s->n_peers >= STORE_PEERS_MAX)
        return NULL;
    struct peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL)
        return NULL;
    peer->client = rpc_client_create(s->io, address, s->auth);
    if (peer->client == NULL) {
        free(peer);
        return NULL;
    }
    list_append(&s->peers, &peer->link);
    s->n_peers++;
    return peer->client;
}

static uint64_t silent_ms(const struct store *s)
{
    uint64_t now = io_mono_ms(s->io) + 1;
    return s->contact_ms == 0 ? STORE_DOUBT_MS : now - MIN(now, s->contact_ms);
}

bool store_in_doubt(const struct store *s)
{
    return s->n_meta > 0 && silent_ms(s) >= STORE_DOUBT_MS;
}

int store_may_order(const struct store *s, bool forwarded)
{
    if (!store_in_doubt(s))
        return 0;
    return silent_ms(s) < (forwarded ? STORE_DEATH_MS : STORE_CUT_OFF_MS) ? -E_BUSY : -E_UNAVAIL;
}

int store_may_serve(const struct store *s, const struct chunk *c)
{
    return c->late || ((c->flags & CHUNK_SEALED) == 0 && store_in_doubt(s)) ? -E_BUSY : 0;
}

/* ------------------------------------------------------------------ holding */
static int get_chunk(struct volume *v, uint64_t id, bool make, struct chunk **ret)
{
    if (make)
        return index_get_or_make(&v->index, id, ret);
    *ret = index_get(&v->index, id);
    return *ret == NULL ? -E_NOENT : 0;
}

int store_hold(struct volume *v, uint64_t id, bool make, uint32_t first, uint32_t last, bool write, struct held *ret)
{
    for (;;) {
        struct chunk *c;
        int err = get_chunk(v, id, make, &c);
        if (err != 0)
            return err;
        ret->volume = v;
        ret->chunk = c;
        err = chunk_lock(c, &ret->range, first, last, write);
        if (err != 0) {
            chunk_unref(&v->index, c);
            return err;
        }
        if (!c->dead && (make || chunk_is_real(c)))
            return 0;
        bool dead = c->dead;
        store_release(ret);
        if (!dead)
            return -E_NOENT;
        err = make ? volume_refuses(v, id) : 0; /* it was deleted while we waited for it */
        if (err != 0)
            return err;
    }
}

int store_hold_all(struct volume *v, uint64_t id, bool make, bool write, struct held *ret)
{
    return store_hold(v, id, make, RANGE_ALL_FIRST, RANGE_ALL_LAST, write, ret);
}

int store_hold_bytes(struct volume *v, uint64_t id, bool make, uint64_t offset, uint64_t length, bool write,
                     struct held *ret)
{
    uint64_t last = offset + MAX(length, (uint64_t)1) - 1;
    if (last >= CHUNK_BYTES_MAX || last < offset)
        return -E_INVAL;
    return store_hold(v, id, make, (uint32_t)(offset / CELL_BYTES), (uint32_t)(last / CELL_BYTES), write, ret);
}

void store_release(struct held *held)
{
    chunk_unlock(held->chunk, &held->range);
    chunk_unref(&held->volume->index, held->chunk);
    held->chunk = NULL;
}
