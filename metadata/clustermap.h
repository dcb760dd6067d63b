/* The storage nodes: who they are, where, up or down, how full. Every change of membership, place
 * or state raises the cluster epoch. One disk per node for now: disk id == node id. Threads: the
 * transaction's. */
#ifndef TARN_METADATA_CLUSTERMAP_H
#define TARN_METADATA_CLUSTERMAP_H

#include "placement.h"
#include "tables.h"

#define NODE_TEXT_MAX 107 /* host, rack, address, …: sockaddr_un's path is the longest */
#define NODES_MAX 4096
#define NODE_UUID_MAX 32

struct node {
    uint32_t id; /* from the key */
    bool up;
    uint64_t total, free, chunks;
    uint64_t epoch;         /* of its last join */
    uint64_t down_since_ns; /* when not up */
    uint64_t join_chunk;    /* chunks from here on were made after its last join */
    uint64_t recount; /* next chunk of its disk whose live copies must be counted again; 0 = none */
    uint32_t slots;
    uint8_t uuid_len, uuid[NODE_UUID_MAX];
    char host[NODE_TEXT_MAX + 1], rack[NODE_TEXT_MAX + 1], address[NODE_TEXT_MAX + 1],
        local[NODE_TEXT_MAX + 1], machine[NODE_TEXT_MAX + 1];
};
void node_encode(const struct node *node, struct writer *w);
int node_decode(uint32_t id, const void *data, size_t n, struct node *ret);

int clustermap_get(struct tables *t, uint32_t id, struct node *ret); /* -E_NOENT */
int clustermap_put(struct tables *t, const struct node *node);
/* All nodes, by id. */
struct cluster {
    struct node *nodes;
    size_t count, cap;
};
void cluster_fini(struct cluster *cluster);
int clustermap_load(struct tables *t, struct cluster *ret);
const struct node *cluster_node(const struct cluster *cluster, uint32_t id); /* NULL */
unsigned cluster_up(const struct cluster *cluster);
/* The nodes as placement wants them, same order; free(). NULL when there is no memory. */
struct placement_node *cluster_for_placement(const struct cluster *cluster);
void node_message(const struct node *node, Tarn__Node *out); /* borrows the strings */

int clustermap_cmd_join(struct tables *t, const void *message);
int clustermap_cmd_set(struct tables *t, const void *message);
int clustermap_query_list(struct tables *t, const void *message);
int clustermap_query_statfs(struct tables *t, const void *message);

#endif
