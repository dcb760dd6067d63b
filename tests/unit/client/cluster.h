/* A cluster in one loop for tests: one metadata replica and some chunk stores, all real, on
 * directories below `dir`. */
#ifndef TARN_TESTS_CLIENT_CLUSTER_H
#define TARN_TESTS_CLIENT_CLUSTER_H

#include "client/file.h"
#include "client/object.h"
#include "metadata/server.h"
#include "objstore/store.h"
#include "tests/unit/common/io_suite.h"

#ifndef NODES
#define NODES 3
#endif

struct cluster {
    struct io *io;
    const char *host, *dir;
    struct config config;
    struct server *server;
    struct store *stores[NODES];
    char addresses[NODES][64]; /* of the stores, also when they are started again */
};
/* Returns when all nodes are up. */
void cluster_start(struct cluster *cluster, struct io *io, const char *host, const char *dir);
void cluster_stop(struct cluster *cluster);
/* The metadata service stops and starts again at its address, from what is on its disk. */
void cluster_server_restart(struct cluster *cluster);
void cluster_store_start(struct cluster *cluster, unsigned i);
/* Returns when the service counts exactly those nodes as up whose stores run. */
void cluster_wait(struct cluster *cluster);
void cluster_store_stop(struct cluster *cluster, unsigned i);
/* Stops the stores of the mask and starts them again; with `lost` they find their disks as after a loss of power. */
void cluster_stores_restart(struct cluster *cluster, unsigned mask, bool lost);

/* One client of it. */
struct user {
    struct cluster *cluster;
    struct config config;
    struct meta *meta;
    struct stores *stores;
};
void user_start(struct user *user, struct cluster *cluster, uint32_t node);
void user_stop(struct user *user);
/* Opens the file at the path below the root, made when O_CREAT is in flags. */
struct file *user_open(struct user *user, const char *path, uint32_t flags);
void user_put(struct user *user, const char *path, const void *data, size_t n);

#endif
