/* The directory of a cluster on one machine (`tarn cluster up`): what is in it, which processes
 * belong to it, on which addresses. The page is docs/ops/cluster.md. Thread: the command's own. */
#ifndef TARN_CLIENT_CLUSTER_H
#define TARN_CLIENT_CLUSTER_H

#include "program.h"

#include "common/config.h"

#define CLUSTER_NODES_MAX 64
#define CLUSTER_DISKS_MAX 8 /* of each node */
#define CLUSTER_PROGRAMS_MAX (CONFIG_META_MAX + 2 * CLUSTER_NODES_MAX + 2)

struct cluster {
    char dir[200];        /* absolute */
    unsigned nodes, meta, racks, slots, disks;
    uint64_t cluster_id;
    char key[65];
    uint16_t meta_port[CONFIG_META_MAX], store_port[CLUSTER_NODES_MAX], gateway_port, alloc_port;
    char access_key[24], secret[48];
};

/* Reads DIR/cluster.state. -E_NOENT when there is no cluster in dir; -E_INVAL when it is damaged. */
int cluster_load(const char *dir, struct cluster *ret);
/* Chooses free ports and fresh keys, makes the directories and writes the configuration files. Fails
 * with one sentence in why (256 bytes). */
int cluster_create(const char *dir, unsigned nodes, unsigned meta, unsigned racks, unsigned disks, struct cluster *ret, char *why);
/* Writes DIR/tarn.env, to be sourced. */
int cluster_write_env(const struct cluster *cluster);

/* The processes in the order in which they start. argv arrays live in `store` until cluster_plan_fini. */
struct cluster_plan {
    struct program programs[CLUSTER_PROGRAMS_MAX];
    unsigned n;
    char run_dir[256], log_dir[256];
    char **strings;
    size_t n_strings;
};
int cluster_plan(const struct cluster *cluster, struct cluster_plan *ret);
void cluster_plan_fini(struct cluster_plan *plan);

#endif
