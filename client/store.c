/* The store client's life, its connections, and where it is itself. */
#include "store_internal.h"

#include "common/check.h"
#include "common/err.h"
#include "group.h"
#include "piece.h"

#include <stdio.h>

#define RACK_ASK_MS 10000    /* pause between tries to learn our rack */

/* ------------------------------------------------------------------ life */

int stores_create(struct io *io, const struct config *config, struct meta *meta, struct stores **ret)
{
    struct stores *stores = calloc(1, sizeof *stores);
    if (!stores)
        return -E_NOMEM;
    stores->io = io;
    stores->config = config;
    stores->meta = meta;
    machine_id(stores->machine);
    list_init(&stores->fd_lru);
    list_init(&stores->hedges);
    stores->hedge_credit = HEDGE_CREDIT_MAX;
    *ret = stores;
    return 0;
}

static void peers_free(struct store_peer *peer)
{
    while (peer) {
        struct store_peer *next = peer->next;
        rpc_client_destroy(peer->rpc);
        store_passer_close(peer);
        free(peer);
        peer = next;
    }
}

void stores_destroy(struct stores *stores)
{
    if (!stores)
        return;
    CHECK(stores->inodes.count == 0); /* a file is still open */
    store_hedges_fini(stores);
    groups_destroy(stores->groups);
    pieces_destroy(stores->pieces);
    store_fds_fini(stores);
    size_t at = 0;
    uint64_t hash;
    void *chain;
    while (map_next(&stores->peers, &at, &hash, &chain))
        peers_free(chain);
    map_fini(&stores->peers);
    map_fini(&stores->inodes);
    free(stores);
}

const struct stores_counters *stores_counters(const struct stores *stores)
{
    return &stores->counters;
}

uint32_t stores_node(const struct stores *stores)
{
    return stores->config->node;
}

#define CODE_MIB_DEFAULT 512 /* four puts at once with two parity shards of 64 MiB */

uint64_t stores_code_memory(const struct stores *stores)
{
    return MIB(stores->config->put_code_mib ? stores->config->put_code_mib : CODE_MIB_DEFAULT);
}

struct map *stores_inodes(struct stores *stores)
{
    return &stores->inodes;
}

/* ------------------------------------------------------------------ connections */

static uint64_t address_hash(const char *address)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *address; address++)
        hash = (hash ^ (uint8_t)*address) * 0x100000001b3u;
    return hash;
}

struct store_peer *store_peer_get(struct stores *stores, const char *address)
{
    uint64_t hash = address_hash(address);
    struct store_peer *chain = map_get(&stores->peers, hash);
    for (struct store_peer *peer = chain; peer; peer = peer->next)
        if (strcmp(peer->address, address) == 0)
            return peer;
    size_t len = strlen(address) + 1;
    struct store_peer *peer = calloc(1, sizeof *peer + len);
    if (!peer)
        return NULL;
    memcpy(peer->address, address, len);
    peer->next = chain;
    peer->stores = stores;
    peer->rpc = rpc_client_create(stores->io, address, &stores->config->auth);
    if (!peer->rpc || map_put(&stores->peers, hash, peer) < 0) {
        if (peer->rpc)
            rpc_client_destroy(peer->rpc);
        free(peer);
        return NULL;
    }
    return peer;
}

static bool same_machine(const struct stores *stores, const Tarn__Replica *replica)
{
    return stores->machine[0] && strcmp(replica->machine, stores->machine) == 0;
}

bool store_replica_is_near(const struct stores *stores, const Tarn__Replica *replica)
{
    if (stores->config->node != 0)
        return replica->node == stores->config->node;
    return same_machine(stores, replica);
}

bool store_replica_has_socket(const struct stores *stores, const Tarn__Replica *replica)
{
    return replica->local[0] && store_replica_is_near(stores, replica) &&
           same_machine(stores, replica);
}

/* ------------------------------------------------------------------ our place */

static void rack_from_nodes(struct stores *stores, const Tarn__NodeListReply *reply)
{
    for (size_t i = 0; i < reply->n_nodes; i++)
        if (reply->nodes[i]->id == stores->config->node)
            snprintf(stores->rack, sizeof stores->rack, "%s", reply->nodes[i]->rack);
}

void store_rack_learn(struct stores *stores, const Tarn__Extent *extent)
{
    if (stores->config->node == 0 || stores->rack[0])
        return;
    for (size_t i = 0; i < extent->n_replicas; i++) {
        const Tarn__Replica *replica = extent->replicas[i];
        if (replica->node == stores->config->node) {
            snprintf(stores->rack, sizeof stores->rack, "%s", replica->rack);
            return;
        }
    }
    uint64_t now = io_mono_ms(stores->io) + 1;
    if (stores->rack_asked_ms && now < stores->rack_asked_ms + RACK_ASK_MS)
        return;
    stores->rack_asked_ms = now;
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    Tarn__NodeListReply *reply = NULL;
    int r = meta_call(stores->meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root,
                      &tarn__node_list_reply__descriptor, &reply, NULL);
    if (r < 0)
        return;
    rack_from_nodes(stores, reply);
    tarn__node_list_reply__free_unpacked(reply, NULL);
}
