#include "cluster.h"

#include "common/machine.h"
#include "ops.h"

#include <fcntl.h>

static void path_in(const struct cluster *cluster, char out[256], const char *kind, unsigned i)
{
    snprintf(out, 256, "%s/%s%u", cluster->dir, kind, i);
}

void cluster_store_start(struct cluster *cluster, unsigned i)
{
    char dir[256], local[300], listen[80], host[16], rack[16], machine[MACHINE_ID_SIZE];
    path_in(cluster, dir, "store", i);
    snprintf(local, sizeof local, "unix:%s.sock", dir);
    if (cluster->addresses[i][0])
        snprintf(listen, sizeof listen, "%s", cluster->addresses[i]);
    else
        snprintf(listen, sizeof listen, "tcp:%s:0", cluster->host);
    snprintf(host, sizeof host, "host%u", i + 1);
    snprintf(rack, sizeof rack, "rack%u", i % 2 + 1);
    machine_id(machine);
    struct store_options options = {
        .dir = dir,
        .auth = &cluster->config.auth,
        .listen = listen,
        .local = local,
        .host = host,
        .rack = rack,
        .machine = machine,
        .node = i + 1,
        .n_meta = 1,
        .meta = (const char(*)[64])cluster->config.meta,
        .journal_bytes = MIB(16),
    };
    const char *why = "";
    int r = store_open(cluster->io, &options, &cluster->stores[i], &why);
    if (r < 0)
        fprintf(stderr, "store %u: %s\n", i, why);
    expect_equal(r, 0);
    snprintf(cluster->addresses[i], sizeof cluster->addresses[i], "%s", store_address(cluster->stores[i]));
    expect_equal(store_serve(cluster->stores[i]), 0);
}

void cluster_store_stop(struct cluster *cluster, unsigned i)
{
    store_stop(cluster->stores[i]);
    cluster->stores[i] = NULL;
}

/* Bytes are all there, but nobody can know: the file `boot` says that they may not be. */
static void store_lose(struct cluster *cluster, unsigned i)
{
    static const char text[128] = "tarn-boot 1 failed gone\n";
    char dir[256], path[300];
    struct io_file *file;
    path_in(cluster, dir, "store", i);
    snprintf(path, sizeof path, "%s/boot", dir);
    expect_equal(io_open(cluster->io, path, O_RDWR, 0, &file), 0);
    expect_equal(io_pwrite(file, text, sizeof text, 0), 0);
    io_close(file);
}

void cluster_stores_restart(struct cluster *cluster, unsigned mask, bool lost)
{
    for (unsigned i = 0; i < NODES; i++)
        if (mask & 1u << i)
            cluster_store_stop(cluster, i);
    for (unsigned i = 0; i < NODES; i++)
        if (mask & 1u << i) {
            if (lost)
                store_lose(cluster, i);
            cluster_store_start(cluster, i);
        }
}

static unsigned nodes_up(struct meta *meta)
{
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    Tarn__NodeListReply *reply = NULL;
    expect_equal(meta_call(meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root,
                           &tarn__node_list_reply__descriptor, &reply, NULL), 0);
    unsigned up = 0;
    for (size_t i = 0; i < reply->n_nodes; i++)
        up += reply->nodes[i]->up;
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return up;
}

void cluster_wait(struct cluster *cluster)
{
    struct meta *meta = NULL;
    unsigned running = 0;
    for (unsigned i = 0; i < NODES; i++)
        running += cluster->stores[i] != NULL;
    expect_equal(meta_connect(cluster->io, &cluster->config, NULL, &meta), 0);
    while (nodes_up(meta) != running)
        expect_equal(io_sleep_ms(cluster->io, 5), 0); /* an event without a push */
    meta_disconnect(meta);
}

static void server_up(struct cluster *cluster, const char *listen)
{
    char meta_dir[256];
    path_in(cluster, meta_dir, "meta", 1);
    const char *addresses[1] = {listen};
    struct server_options options = {
        .listen = listen,
        .replica = {.dir = meta_dir, .id = 1, .n_servers = 1, .addresses = addresses,
                    .auth = &cluster->config.auth, .memory_tables = true, .election_ms = 50},
    };
    expect_equal(server_start(cluster->io, &options, &cluster->server), 0);
}

void cluster_start(struct cluster *cluster, struct io *io, const char *host, const char *dir)
{
    *cluster = (struct cluster){.io = io, .host = host, .dir = dir};
    cluster->config.auth = (struct rpc_auth){.cluster_id = 11, .key = {4, 5, 6}, .name = "test"};
    char listen[80];
    snprintf(listen, sizeof listen, "tcp:%s:0", host);
    server_up(cluster, listen);
    cluster->config.n_meta = 1;
    snprintf(cluster->config.meta[0], 64, "%s", server_address(cluster->server));
    for (unsigned i = 0; i < NODES; i++)
        cluster_store_start(cluster, i);
    cluster_wait(cluster);
}

void cluster_server_restart(struct cluster *cluster)
{
    server_stop(cluster->server);
    server_up(cluster, cluster->config.meta[0]);
}

void cluster_stop(struct cluster *cluster)
{
    for (unsigned i = 0; i < NODES; i++)
        if (cluster->stores[i])
            store_stop(cluster->stores[i]);
    server_stop(cluster->server);
}

void user_start(struct user *user, struct cluster *cluster, uint32_t node)
{
    *user = (struct user){.cluster = cluster, .config = cluster->config};
    user->config.node = node;
    expect_equal(meta_connect(cluster->io, &user->config, NULL, &user->meta), 0);
    expect_equal(stores_create(cluster->io, &user->config, user->meta, &user->stores), 0);
}

void user_stop(struct user *user)
{
    stores_destroy(user->stores);
    meta_disconnect(user->meta);
}

struct file *user_open(struct user *user, const char *path, uint32_t flags)
{
    Tarn__Where where = TARN__WHERE__INIT;
    struct file *file = NULL;
    if (!(flags & O_CREAT)) {
        where.path = (char *)path;
        expect_equal(file_open(user->meta, user->stores, &where, flags, &meta_root, &file), 0);
        return file;
    }
    Tarn__Create request = TARN__CREATE__INIT;
    request.parent = &where;
    request.name = (char *)path;
    request.type = TARN__FILE_TYPE__FT_FILE;
    request.mode = 0644;
    request.open = true;
    request.open_flags = flags;
    Tarn__Entry *entry = NULL;
    expect_equal(meta_call(user->meta, OP_CREATE, &request.base, &request.ctx, &meta_root,
                           &tarn__entry__descriptor, &entry, NULL), 0);
    expect_equal(file_adopt(user->meta, user->stores, entry->attr, entry->handle, flags, &meta_root, &file), 0);
    tarn__entry__free_unpacked(entry, NULL);
    return file;
}

void user_put(struct user *user, const char *path, const void *data, size_t n)
{
    struct put_options options = {.cred = &meta_root, .path = path};
    tarn__where__init(&options.parent);
    struct put *put = NULL;
    expect_equal(put_begin(user->meta, user->stores, &options, &put), 0);
    const uint8_t *at = data;
    for (size_t done = 0, part; done < n; done += part) { /* pieces of an odd size */
        part = MIN(n - done, (size_t)300001);
        expect_equal(put_write(put, at + done, part), 0);
    }
    Tarn__Attr *attr = NULL;
    expect_equal(put_commit(put, NULL, 0, NULL, 0, &attr), 0);
    expect_equal(attr->size, n);
    tarn__attr__free_unpacked(attr, NULL);
}
