/* The operator of meta_world.h: adds, removes and replaces replicas and hands leadership over, by the calls of tarn meta, while
 * clients work and faults come. Two machines are spare at first; a machine is wiped before it gets a new replica, whose number was
 * never used. Between three and five replicas take part. */
#include "meta_world.h"

#include "client/meta.h"
#include "common/check.h"
#include "common/err.h"
#include "metadata/replica_impl.h"
#include "metadata/server.h"

#include <stdio.h>

#define PAUSE_MS_MAX 1500
#define TRIES 8 /* of one order; then nobody knows, and that machine is left as it is */
#define GIVE_UP_MS 3000
#define MEMBERS_MIN 3

struct operator {
    struct meta_world *world;
    struct meta *meta;
    uint32_t last_id;
};

static uint64_t draw(const struct operator *operator, uint64_t bound)
{
    return sim_random_u64(operator->world->sim) % bound;
}

static bool final(int err)
{
    return err == 0 || err == -E_INVAL || err == -E_EXIST || err == -E_NOENT || err == -E_RANGE || err == -E_CANCELED;
}

/* Asks until the answer is final: the same order again is answered with success when it was carried out. */
static int order(struct operator *operator, Tarn__MetaMemberChange__Kind kind, const struct meta_host *host)
{
    Tarn__MetaMemberChange request = TARN__META_MEMBER_CHANGE__INIT;
    char *address = operator->world->config.meta[host->index - 1];
    int err = -E_UNAVAIL;
    request.kind = kind;
    request.id = host->id;
    request.address = kind == TARN__META_MEMBER_CHANGE__KIND__ADD ? address : request.address;
    for (unsigned i = 0; i < TRIES && !final(err) && !operator->world->resting; i++) {
        err = meta_call(operator->meta, OP_META_MEMBER, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
        if (!final(err) && io_sleep_ms(fiber_io(), 1 + draw(operator, PAUSE_MS_MAX)) != 0)
            err = -E_CANCELED;
    }
    return err;
}

static struct meta_host *pick(struct operator *operator, enum meta_part part)
{
    struct meta_world *world = operator->world;
    unsigned from = (unsigned)draw(operator, world->n_replicas);
    for (unsigned i = 0; i < world->n_replicas; i++) {
        struct meta_host *host = &world->replicas[(from + i) % world->n_replicas];
        if (host->part == part)
            return host;
    }
    return NULL;
}

static unsigned count(const struct meta_world *world, enum meta_part part)
{
    unsigned n = 0;
    for (unsigned i = 0; i < world->n_replicas; i++)
        n += world->replicas[i].part == part;
    return n;
}

/* A failed one may have been carried out, or still be: the machine keeps what it has. */
static void add(struct operator *operator)
{
    struct meta_host *host = pick(operator, META_OUT);
    if (host == NULL)
        return;
    host->part = META_UNSURE;
    host->id = ++operator->last_id;
    meta_world_renew(host);
    int err = order(operator, TARN__META_MEMBER_CHANGE__KIND__ADD, host);
    if (err != 0)
        return;
    host->part = META_IN;
    operator->world->faults.added++;
}

/* It is told, or finds out, or goes on as if nothing was, until the machine is needed. */
static void remove_one(struct operator *operator)
{
    struct meta_host *host = pick(operator, META_IN);
    if (host == NULL || count(operator->world, META_IN) <= MEMBERS_MIN)
        return;
    host->part = META_UNSURE;
    int err = order(operator, TARN__META_MEMBER_CHANGE__KIND__REMOVE, host);
    if (err != 0)
        return;
    host->part = META_OUT;
    operator->world->faults.removed++;
}

static void transfer(struct operator *operator)
{
    const struct meta_host *to = pick(operator, META_IN);
    Tarn__MetaTransfer request = TARN__META_TRANSFER__INIT;
    request.to = to == NULL || draw(operator, 2) == 0 ? 0 : to->id;
    int err = meta_call(operator->meta, OP_META_TRANSFER, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
    operator->world->faults.transfers += err == 0;
}

static void act(struct operator *operator)
{
    switch (draw(operator, 5)) {
    case 0:
        transfer(operator);
        break;
    case 1:
        add(operator);
        break;
    case 2:
        remove_one(operator);
        break;
    default: /* replace: the new one first */
        add(operator);
        remove_one(operator);
    }
}

static void operator_fiber(void *arg)
{
    struct meta_world *world = arg;
    struct operator operator = {.world = world, .last_id = world->n_first};
    struct meta_options options = {.name = "operator", .give_up_ms = GIVE_UP_MS};
    int err = meta_connect(fiber_io(), &world->config, &options, &operator.meta);
    CHECK(err == 0);
    while (!world->resting && io_sleep_ms(fiber_io(), 1 + draw(&operator, PAUSE_MS_MAX)) == 0)
        act(&operator);
    meta_disconnect(operator.meta);
    world->operating = false;
}

void meta_world_operate(struct meta_world *world)
{
    world->operating = true;
    CHECK(fiber_spawn(sim_host_io(world->desk), "operator", operator_fiber, world) == 0);
}

/* ---- who takes part, by the leader's word */

static const struct replica_server *server_at(const struct replica_status *status, const char *address, uint32_t id)
{
    for (unsigned i = 0; i < status->n_servers; i++)
        if (status->servers[i].id == id && strcmp(status->servers[i].address, address) == 0)
            return &status->servers[i];
    return NULL;
}

bool meta_world_members(struct meta_world *world, const char **ret_why)
{
    struct replica_status status;
    const struct meta_host *leads = meta_world_leader(world);
    *ret_why = "there is no leader";
    if (leads == NULL)
        return false;
    replica_status(server_replica(leads->server), &status);
    unsigned n = 0;
    for (unsigned i = 0; i < world->n_replicas; i++) {
        struct meta_host *host = &world->replicas[i];
        const struct replica_server *server = server_at(&status, world->config.meta[i], host->id);
        *ret_why = server == NULL ? "a replica that was added is none" : "a replica that was removed is one";
        if (host->part != META_UNSURE && (host->part == META_IN) != (server != NULL))
            return false;
        *ret_why = "a replica that was added does not vote";
        if (server != NULL && !server->voter)
            return false;
        host->member = server != NULL;
        n += host->member;
    }
    *ret_why = "a replica takes part that nobody knows";
    return n == status.n_servers;
}
