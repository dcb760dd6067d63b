/* The storage nodes: who they are, where, up or down, how full, being emptied or not. Every change of
 * membership, place or state raises the cluster epoch. A node has one disk or more (disk.h); chunks are
 * on disks, sessions and tasks on nodes. A place is a rack, or a path like Hadoop's: "/site/rack".
 * Threads: the transaction's. */
#ifndef TARN_METADATA_CLUSTERMAP_H
#define TARN_METADATA_CLUSTERMAP_H

#include "disk.h"
#include "placement.h"
#include "tables.h"

#define NODE_TEXT_MAX 107 /* host, rack, address, …: sockaddr_un's path is the longest */
#define NODES_MAX 4096
#define NODE_UUID_MAX 32
#define NODE_DISKS_MAX 64
#define NODE_DEFAULT_RACK "/default-rack" /* as Hadoop calls it */

enum node_flags {
    NODE_DRAINING = 1,    /* is being emptied; disks that it gets meanwhile too */
    NODE_RACK_PINNED = 2, /* an operator said where it is: a join does not change that */
    NODE_RACK_WANTED = 4  /* it joined without a rack and none was found yet */
};
struct node {
    uint32_t id; /* from the key */
    bool up;
    uint64_t total, free, chunks; /* of its disks together */
    uint64_t epoch;               /* of its last join */
    uint64_t down_since_ns;       /* when not up */
    uint64_t join_chunk;          /* chunks from here on were made after its last join */
    uint64_t recount;             /* version 1 only: of its one disk */
    uint32_t slots;
    uint8_t flags;
    uint8_t n_disks;
    uint32_t disks[NODE_DISKS_MAX]; /* ids */
    uint8_t uuid_len, uuid[NODE_UUID_MAX];
    char host[NODE_TEXT_MAX + 1], rack[NODE_TEXT_MAX + 1], address[NODE_TEXT_MAX + 1],
        local[NODE_TEXT_MAX + 1], machine[NODE_TEXT_MAX + 1];
};
void node_encode(const struct node *node, struct writer *w);
int node_decode(uint32_t id, const void *data, size_t n, struct node *ret);
struct disk disk_of_node(const struct node *node); /* version 1: the one disk a node was */
/* "/site/rack": the part before the second slash; a rack without a site is in the site "". */
size_t node_site_len(const char *rack);

int clustermap_get(struct tables *t, uint32_t id, struct node *ret); /* -E_NOENT */
int clustermap_put(struct tables *t, const struct node *node);
/* All nodes and all disks, by id. */
struct cluster {
    struct node *nodes;
    size_t count, cap;
    struct disk *disks;
    size_t n_disks, cap_disks;
};
void cluster_fini(struct cluster *cluster);
int clustermap_load(struct tables *t, struct cluster *ret);
const struct node *cluster_node(const struct cluster *cluster, uint32_t id);      /* NULL */
const struct disk *cluster_disk(const struct cluster *cluster, uint32_t id);      /* NULL */
const struct node *cluster_disk_node(const struct cluster *cluster, uint32_t id); /* NULL */
unsigned cluster_up(const struct cluster *cluster);
/* How many copies there can be: disks that are known and not being emptied. */
unsigned cluster_places(const struct cluster *cluster);
int clustermap_places(struct tables *t, unsigned *ret);
/* The disks as placement wants them at the time `now`, same order; free() them after the map. -E_NOMEM. */
int cluster_placement(const struct cluster *cluster, uint64_t now, struct placement_disk **ret_disks,
                      struct placement_map *ret_map);
/* No chunk depends on it any more: every row of its disks is of copies that leave or are gone. */
bool cluster_node_empty(const struct cluster *cluster, const struct node *node, uint64_t *ret_dependents);
/* Borrows the strings; `disks` (NODE_DISKS_MAX of them, with pointers) may be NULL. */
struct node_message_disks {
    Tarn__Disk disks[NODE_DISKS_MAX];
    Tarn__Disk *pointers[NODE_DISKS_MAX];
};
void node_message(const struct cluster *cluster, const struct node *node, Tarn__Node *out,
                  struct node_message_disks *disks);

int clustermap_cmd_join(struct tables *t, const void *message);
int clustermap_cmd_set(struct tables *t, const void *message);
int clustermap_cmd_drain(struct tables *t, const void *message);
int clustermap_cmd_topology(struct tables *t, const void *message);
int clustermap_query_list(struct tables *t, const void *message);
int clustermap_query_statfs(struct tables *t, const void *message);

#endif
