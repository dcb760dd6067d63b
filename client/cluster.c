#include "cluster.h"

#include "common/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- small things */

static void hex_random(char *out, size_t n_bytes)
{
    uint8_t bytes[64];
    if (getrandom(bytes, n_bytes, 0) != (ssize_t)n_bytes)
        abort();
    for (size_t i = 0; i < n_bytes; i++)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static int make_dir(const char *fmt, const char *dir, unsigned n)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, fmt, dir, n);
    return mkdir(path, 0755) == 0 || errno == EEXIST ? 0 : err_from_errno(errno);
}

/* Writes the whole file or nothing: beside it first, synced, then renamed. */
static int write_file(const char *dir, const char *name, mode_t mode, const char *text)
{
    char path[PATH_MAX], part[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(part, sizeof part, "%s/%s.part", dir, name);
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (fd < 0)
        return err_from_errno(errno);
    size_t n = strlen(text);
    int err = write(fd, text, n) != (ssize_t)n || fsync(fd) < 0 ? err_from_errno(errno != 0 ? errno : ENOSPC) : 0;
    close(fd);
    if (err == 0 && rename(part, path) < 0)
        err = err_from_errno(errno);
    if (err != 0)
        unlink(part);
    return err;
}

struct text {
    char *data;
    size_t len;
    FILE *file;
};

static int text_open(struct text *text)
{
    *text = (struct text){0};
    text->file = open_memstream(&text->data, &text->len);
    return text->file != NULL ? 0 : -E_NOMEM;
}

static int text_write(struct text *text, const char *dir, const char *name, mode_t mode)
{
    fclose(text->file);
    int err = write_file(dir, name, mode, text->data);
    free(text->data);
    return err;
}

/* ---- ports: all are held open until every one is chosen, so no two are the same */

#define PORT_MIN 15000
#define PORT_TRIES 1000

/* First port the kernel gives to outgoing connections. Ours lie below: while a daemon is being restarted, nobody
 * else's connection may happen to take its port. */
static unsigned port_end(void)
{
    unsigned low = 0;
    FILE *file = fopen("/proc/sys/net/ipv4/ip_local_port_range", "re");
    if (file != NULL) {
        if (fscanf(file, "%u", &low) != 1)
            low = 0;
        fclose(file);
    }
    return low > PORT_MIN + 1000 ? low : 32768;
}

static int bind_port(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    int err = err_from_errno(errno);
    if (fd >= 0)
        close(fd);
    return err;
}

static int free_port(int *ret_fd, uint16_t *ret_port)
{
    unsigned end = port_end();
    int fd = -E_ADDRINUSE;
    for (unsigned i = 0; i < PORT_TRIES && fd == -E_ADDRINUSE; i++) {
        uint32_t chance;
        if (getrandom(&chance, sizeof chance, 0) != sizeof chance)
            return -E_IO;
        *ret_port = (uint16_t)(PORT_MIN + chance % (end - PORT_MIN));
        fd = bind_port(*ret_port);
    }
    *ret_fd = fd;
    return fd < 0 ? fd : 0;
}

static int choose_ports(struct cluster *cluster)
{
    uint16_t *ports[CONFIG_META_MAX + CLUSTER_NODES_MAX + 2];
    int fds[ARRAY_SIZE(ports)];
    unsigned n = 0, open_fds = 0;
    int err = 0;
    for (unsigned i = 0; i < cluster->meta; i++)
        ports[n++] = &cluster->meta_port[i];
    for (unsigned i = 0; i < cluster->nodes; i++)
        ports[n++] = &cluster->store_port[i];
    ports[n++] = &cluster->gateway_port;
    ports[n++] = &cluster->alloc_port;
    for (; open_fds < n && err == 0; open_fds += err == 0)
        err = free_port(&fds[open_fds], ports[open_fds]);
    for (unsigned i = 0; i < open_fds; i++)
        close(fds[i]);
    return err;
}

/* ---- files */

static int write_config(const struct cluster *cluster, unsigned node)
{
    struct text text;
    if (text_open(&text) != 0)
        return -E_NOMEM;
    fprintf(text.file, "# Written by tarn cluster up.\ncluster_id = 0x%016llx\nkey = %s\nmeta =",
            (unsigned long long)cluster->cluster_id, cluster->key);
    for (unsigned i = 0; i < cluster->meta; i++)
        fprintf(text.file, " tcp:127.0.0.1:%u", cluster->meta_port[i]);
    fprintf(text.file, "\ngateway = tcp:127.0.0.1:%u\n", cluster->gateway_port);
    char name[32] = "tarn.conf";
    if (node != 0) {
        fprintf(text.file, "node = %u\n", node);
        snprintf(name, sizeof name, "node-%u/tarn.conf", node);
    }
    return text_write(&text, cluster->dir, name, 0600);
}

static int write_state(const struct cluster *cluster)
{
    struct text text;
    if (text_open(&text) != 0)
        return -E_NOMEM;
    fprintf(text.file, "tarn-cluster 1\nnodes %u\nmeta %u\nracks %u\nslots %u\ncluster_id %016llx\nkey %s\naccess_key %s\nsecret %s\n",
            cluster->nodes, cluster->meta, cluster->racks, cluster->slots, (unsigned long long)cluster->cluster_id,
            cluster->key, cluster->access_key, cluster->secret);
    fprintf(text.file, "ports %u %u", cluster->gateway_port, cluster->alloc_port);
    for (unsigned i = 0; i < cluster->meta; i++)
        fprintf(text.file, " %u", cluster->meta_port[i]);
    for (unsigned i = 0; i < cluster->nodes; i++)
        fprintf(text.file, " %u", cluster->store_port[i]);
    fprintf(text.file, "\ndisks %u\n", cluster->disks);
    return text_write(&text, cluster->dir, "cluster.state", 0600);
}

static bool read_ports(FILE *file, struct cluster *cluster)
{
    if (fscanf(file, " ports %hu %hu", &cluster->gateway_port, &cluster->alloc_port) != 2)
        return false;
    for (unsigned i = 0; i < cluster->meta; i++)
        if (fscanf(file, " %hu", &cluster->meta_port[i]) != 1)
            return false;
    for (unsigned i = 0; i < cluster->nodes; i++)
        if (fscanf(file, " %hu", &cluster->store_port[i]) != 1)
            return false;
    return true;
}

int cluster_load(const char *dir, struct cluster *ret)
{
    char path[PATH_MAX], real[PATH_MAX];
    if (realpath(dir, real) == NULL || strlen(real) >= sizeof ret->dir)
        return -E_NOENT;
    snprintf(path, sizeof path, "%s/cluster.state", real);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return err_from_errno(errno);
    struct cluster cluster = {0};
    snprintf(cluster.dir, sizeof cluster.dir, "%s", real);
    unsigned version = 0;
    unsigned long long id = 0;
    int n = fscanf(file, "tarn-cluster %u nodes %u meta %u racks %u slots %u cluster_id %llx key %64s access_key %23s secret %47s",
                   &version, &cluster.nodes, &cluster.meta, &cluster.racks, &cluster.slots, &id, cluster.key,
                   cluster.access_key, cluster.secret);
    cluster.cluster_id = id;
    bool good = n == 9 && version == 1 && cluster.nodes >= 1 && cluster.nodes <= CLUSTER_NODES_MAX && cluster.meta >= 1 &&
                cluster.meta <= CONFIG_META_MAX && cluster.racks >= 1 && read_ports(file, &cluster);
    if (good && fscanf(file, " disks %u", &cluster.disks) != 1)
        cluster.disks = 1; /* of the version before */
    good = good && cluster.disks >= 1 && cluster.disks <= CLUSTER_DISKS_MAX;
    fclose(file);
    if (!good)
        return -E_INVAL;
    *ret = cluster;
    return 0;
}

/* node-N/disk, node-N/disk-2, … */
static void disk_path(const struct cluster *cluster, unsigned node, unsigned disk, char out[PATH_MAX])
{
    char number[16] = "";
    if (disk > 1)
        snprintf(number, sizeof number, "-%u", disk);
    snprintf(out, PATH_MAX, "%s/node-%u/disk%s", cluster->dir, node, number);
}

static int make_disks(const struct cluster *cluster, unsigned node)
{
    char path[PATH_MAX];
    int err = 0;
    for (unsigned i = 1; i <= cluster->disks && err == 0; i++) {
        disk_path(cluster, node, i, path);
        err = make_dir("%s", path, 0);
    }
    return err;
}

static int make_dirs(const struct cluster *cluster)
{
    int err = make_dir("%s/run", cluster->dir, 0);
    if (err == 0)
        err = make_dir("%s/log", cluster->dir, 0);
    for (unsigned i = 1; i <= cluster->meta && err == 0; i++)
        err = make_dir("%s/meta-%u", cluster->dir, i);
    for (unsigned i = 1; i <= cluster->nodes && err == 0; i++) {
        err = make_dir("%s/node-%u", cluster->dir, i);
        if (err == 0)
            err = make_disks(cluster, i);
        if (err == 0)
            err = make_dir("%s/node-%u/scratch", cluster->dir, i);
        if (err == 0)
            err = write_config(cluster, i);
    }
    return err;
}

int cluster_create(const char *dir, unsigned nodes, unsigned meta, unsigned racks, unsigned disks, struct cluster *ret, char *why)
{
    struct cluster cluster = {.nodes = nodes, .meta = meta, .racks = racks, .slots = 1, .disks = disks};
    char real[PATH_MAX];
    if (strlen(dir) > 200) {
        snprintf(why, 256, "the path %.110s... is too long for sockets in it: choose a --dir of at most 90 characters", dir);
        return -E_USAGE;
    }
    if ((mkdir(dir, 0755) < 0 && errno != EEXIST) || realpath(dir, real) == NULL) {
        snprintf(why, 256, "cannot make the directory %.150s: %s", dir, strerror(errno));
        return err_from_errno(errno);
    }
    /* A unix socket's path has at most 107 bytes; ours is DIR/run/stored-NN. */
    if (strlen(real) + sizeof "/run/stored-64" > sizeof((struct sockaddr_un *)0)->sun_path) {
        snprintf(why, 256, "the path %.110s... is too long for sockets in it: choose a --dir of at most 90 characters", real);
        return -E_USAGE;
    }
    snprintf(cluster.dir, sizeof cluster.dir, "%.199s", real);
    hex_random(cluster.key, 32);
    char id[17];
    hex_random(id, 8);
    cluster.cluster_id = strtoull(id, NULL, 16) | 1;
    hex_random(cluster.access_key, 10);
    hex_random(cluster.secret, 20);
    int err = choose_ports(&cluster);
    if (err == 0)
        err = make_dirs(&cluster);
    if (err == 0)
        err = write_config(&cluster, 0);
    if (err == 0)
        err = write_state(&cluster);
    if (err != 0) {
        snprintf(why, 256, "cannot prepare the cluster directory %.120s: %s", real, err_sentence(err));
        return err;
    }
    *ret = cluster;
    return 0;
}

int cluster_write_env(const struct cluster *cluster)
{
    struct text text;
    if (text_open(&text) != 0)
        return -E_NOMEM;
    fprintf(text.file,
            "# Source this: . %s/tarn.env\n"
            "export TARN_CONFIG='%s/tarn.conf'\n"
            "export AWS_ENDPOINT_URL='http://127.0.0.1:%u'\n"
            "export AWS_ACCESS_KEY_ID='%s'\n"
            "export AWS_SECRET_ACCESS_KEY='%s'\n"
            "export AWS_DEFAULT_REGION='us-east-1'\n"
            "export TARN_WEBHDFS_URL='http://127.0.0.1:%u/webhdfs/v1'\n"
            "export TARN_API_URL='http://127.0.0.1:%u/v1'\n",
            cluster->dir, cluster->dir, cluster->gateway_port, cluster->access_key, cluster->secret,
            cluster->gateway_port, cluster->gateway_port);
    return text_write(&text, cluster->dir, "tarn.env", 0600);
}

/* ---- the processes */

static char *keep(struct cluster_plan *plan, const char *fmt, ...) _printf_(2, 3);
static char *keep(struct cluster_plan *plan, const char *fmt, ...)
{
    char *string = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&string, fmt, args);
    va_end(args);
    char **strings = realloc(plan->strings, (plan->n_strings + 1) * sizeof *strings);
    if (n < 0 || strings == NULL)
        abort();
    plan->strings = strings;
    return plan->strings[plan->n_strings++] = string;
}

#define PROGRAM_ARGS_MAX (20 + 2 * CLUSTER_DISKS_MAX)

static void add(struct cluster_plan *plan, const char *binary, const char *name, const char *first, ...)
{
    char **argv = calloc(PROGRAM_ARGS_MAX, sizeof *argv);
    if (argv == NULL)
        abort();
    va_list args;
    va_start(args, first);
    unsigned n = 0;
    argv[n++] = (char *)(uintptr_t)binary;
    for (const char *arg = first; arg != NULL && n < PROGRAM_ARGS_MAX - 1; arg = va_arg(args, const char *))
        argv[n++] = (char *)(uintptr_t)arg;
    va_end(args);
    plan->programs[plan->n++] =
        (struct program){.name = name, .binary = binary, .argv = argv, .run_dir = plan->run_dir, .log_dir = plan->log_dir};
}

/* One more option of the program that was added last. */
static void extend(struct cluster_plan *plan, const char *option, const char *value)
{
    char **argv = plan->programs[plan->n - 1].argv;
    unsigned n = 0;
    while (argv[n] != NULL)
        n++;
    argv[n] = (char *)(uintptr_t)option;
    argv[n + 1] = (char *)(uintptr_t)value;
}

static void plan_nodes(const struct cluster *cluster, struct cluster_plan *plan)
{
    const char *dir = cluster->dir;
    char path[PATH_MAX];
    for (unsigned i = 1; i <= cluster->nodes; i++) {
        add(plan, "tarn-stored", keep(plan, "stored-%u", i), "--config", keep(plan, "%s/node-%u/tarn.conf", dir, i), "--listen", keep(plan, "tcp:127.0.0.1:%u", cluster->store_port[i - 1]),
            "--local", keep(plan, "unix:%s/run/stored-%u", dir, i), "--host", keep(plan, "node-%u", i), "--rack",
            keep(plan, "rack-%u", (i - 1) % cluster->racks + 1), "--node", keep(plan, "%u", i), NULL);
        for (unsigned disk = 1; disk <= cluster->disks; disk++) {
            disk_path(cluster, i, disk, path);
            extend(plan, "--dir", keep(plan, "%s", path));
        }
    }
}

int cluster_plan(const struct cluster *cluster, struct cluster_plan *ret)
{
    *ret = (struct cluster_plan){0};
    const char *dir = cluster->dir;
    snprintf(ret->run_dir, sizeof ret->run_dir, "%s/run", dir);
    snprintf(ret->log_dir, sizeof ret->log_dir, "%s/log", dir);
    char *config = keep(ret, "%s/tarn.conf", dir);
    for (unsigned i = 1; i <= cluster->meta; i++)
        add(ret, "tarn-metad", keep(ret, "metad-%u", i), "--config", config, "--id", keep(ret, "%u", i), "--dir",
            keep(ret, "%s/meta-%u", dir, i), "--listen", keep(ret, "tcp:127.0.0.1:%u", cluster->meta_port[i - 1]), NULL);
    plan_nodes(cluster, ret);
    add(ret, "tarn-gatewayd", keep(ret, "gatewayd"), "--config", config, "--listen",
        keep(ret, "tcp:127.0.0.1:%u", cluster->gateway_port), NULL);
    add(ret, "tarn-allocd", keep(ret, "allocd"), "--config", config, "--listen",
        keep(ret, "tcp:127.0.0.1:%u", cluster->alloc_port), NULL);
    for (unsigned i = 1; i <= cluster->nodes; i++)
        add(ret, "tarn-agentd", keep(ret, "agentd-%u", i), "--config", keep(ret, "%s/node-%u/tarn.conf", dir, i), "--node",
            keep(ret, "%u", i), "--dir", keep(ret, "%s/node-%u/scratch", dir, i), "--slots", keep(ret, "%u", cluster->slots), NULL);
    return 0;
}

void cluster_plan_fini(struct cluster_plan *plan)
{
    for (unsigned i = 0; i < plan->n; i++)
        free(plan->programs[i].argv);
    for (size_t i = 0; i < plan->n_strings; i++)
        free(plan->strings[i]);
    free(plan->strings);
}
