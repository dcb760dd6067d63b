/* tarn cluster up, down, status: a whole cluster as processes of this machine. */
#include "cluster.h"
#include "commands.h"
#include "mounts.h"
#include "out.h"

#include "common/err.h"
#include "common/fiber.h"
#include "common/io.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_DIR "tarn-cluster"
#define READY_TIMEOUT_MS 30000
#define HEALTHY_TIMEOUT_MS 60000
#define STOP_GRACE_MS 15000

struct cluster_args {
    const char *dir, *config;
    uint64_t nodes, meta, racks, disks;
    bool json;
};

/* ---- health: all nodes up, an allocator, our S3 user */

struct health {
    const struct cluster *cluster;
};

static int count_up(struct meta *meta, unsigned *ret_up)
{
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    Tarn__NodeListReply *reply = NULL;
    int err = meta_call(meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root, &tarn__node_list_reply__descriptor,
                        &reply, NULL);
    if (err != 0)
        return err;
    *ret_up = 0;
    for (size_t i = 0; i < reply->n_nodes; i++)
        *ret_up += reply->nodes[i]->up;
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return 0;
}

static int allocator_held(struct meta *meta, bool *ret_held)
{
    Tarn__RoleGet request = TARN__ROLE_GET__INIT;
    request.role = (char *)"allocator";
    Tarn__RoleReply *reply = NULL;
    int err = meta_call(meta, OP_ROLE_GET, &request.base, &request.ctx, &meta_root, &tarn__role_reply__descriptor, &reply, NULL);
    if (err != 0)
        return err;
    *ret_held = reply->session != 0;
    tarn__role_reply__free_unpacked(reply, NULL);
    return 0;
}

static int put_user(struct meta *meta, const struct cluster *cluster)
{
    Tarn__User user = TARN__USER__INIT;
    user.name = (char *)"root";
    user.access_key = (char *)(uintptr_t)cluster->access_key;
    user.secret = (char *)(uintptr_t)cluster->secret;
    user.admin = true;
    Tarn__UserPut request = TARN__USER_PUT__INIT;
    request.user = &user;
    return meta_call(meta, OP_USER_PUT, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

static int health_fiber(struct meta *meta, void *arg)
{
    struct health *health = arg;
    uint64_t deadline_ms = io_mono_ms(fiber_io()) + HEALTHY_TIMEOUT_MS;
    int err = put_user(meta, health->cluster);
    unsigned up = 0;
    bool held = false;
    while (err == 0) {
        err = count_up(meta, &up);
        if (err == 0)
            err = allocator_held(meta, &held);
        if (err != 0 || (up >= health->cluster->nodes && held))
            break;
        if (io_mono_ms(fiber_io()) > deadline_ms) {
            cli_complain("the cluster is not healthy after %u s: %u of %u nodes up, allocator %s; see %s/log",
                         HEALTHY_TIMEOUT_MS / 1000, up, health->cluster->nodes, held ? "up" : "missing", health->cluster->dir);
            return -E_TIMEOUT;
        }
        err = io_sleep_ms(fiber_io(), 20);
    }
    return err;
}

/* ---- up */

static int start_all(const struct cluster *cluster, const struct cluster_plan *plan)
{
    pid_t pids[CLUSTER_PROGRAMS_MAX] = {0};
    uint64_t offsets[CLUSTER_PROGRAMS_MAX];
    for (unsigned i = 0; i < plan->n; i++) {
        const struct program *program = &plan->programs[i];
        pid_t running;
        if (program_state(plan->run_dir, program->name, &running) == PROGRAM_RUNNING)
            continue;
        int err = program_start(program, &pids[i], &offsets[i]);
        if (err != 0) {
            cli_complain("cannot start %s: %s", program->binary,
                         err == -E_NOENT ? "the program is not beside tarn nor in $TARN_BINDIR" : err_sentence(err));
            return cli_exit_for(err);
        }
    }
    for (unsigned i = 0; i < plan->n; i++) {
        const struct program *program = &plan->programs[i];
        char why[256];
        int exit_code = 0, err = pids[i] != 0 ? program_wait_ready(program, pids[i], offsets[i], READY_TIMEOUT_MS, &exit_code, why) : 0;
        if (err == 0)
            continue;
        if (err == -E_IO && exit_code == CLI_NO_SPACE)
            cli_complain("cannot start %s: no space is left in %s", program->name, cluster->dir);
        else if (err == -E_IO)
            cli_complain("cannot start %s, it ended with exit code %d: %s", program->name, exit_code,
                         why[0] != '\0' ? why : "its log is empty");
        else
            cli_complain("%s is not ready after %u s; see %s/%s.log", program->name, READY_TIMEOUT_MS / 1000, plan->log_dir, program->name);
        return err == -E_IO && exit_code != 0 ? exit_code : CLI_FAILED;
    }
    return CLI_OK;
}

static void print_up(const struct cluster *cluster, bool json)
{
    if (json) {
        char gateway[64], config[256], env[256];
        snprintf(gateway, sizeof gateway, "http://127.0.0.1:%u", cluster->gateway_port);
        snprintf(config, sizeof config, "%s/tarn.conf", cluster->dir);
        snprintf(env, sizeof env, "%s/tarn.env", cluster->dir);
        out_json("{s:s,s:i,s:i,s:i,s:i,s:s,s:s,s:s}", "dir", cluster->dir, "nodes", (int)cluster->nodes, "disks", (int)cluster->disks, "meta",
                 (int)cluster->meta, "racks", (int)cluster->racks, "s3", gateway, "config", config, "env", env);
        return;
    }
    printf("The cluster is up: %u metadata %s, %u storage %s in %u %s.\n", cluster->meta,
           cluster->meta == 1 ? "replica" : "replicas", cluster->nodes, cluster->nodes == 1 ? "node" : "nodes",
           cluster->racks, cluster->racks == 1 ? "rack" : "racks");
    for (unsigned i = 0; i < cluster->meta; i++)
        printf("  metadata %u  tcp:127.0.0.1:%u\n", i + 1, cluster->meta_port[i]);
    for (unsigned i = 0; i < cluster->nodes; i++)
        printf("  node-%u      tcp:127.0.0.1:%u  rack-%u\n", i + 1, cluster->store_port[i], i % cluster->racks + 1);
    printf("  allocator   tcp:127.0.0.1:%u\n", cluster->alloc_port);
    printf("  S3 and API  http://127.0.0.1:%u\n", cluster->gateway_port);
    printf("Use it:       . %s/tarn.env\n", cluster->dir);
}

static int load_or_create(const struct cluster_args *args, struct cluster *cluster, bool *ret_created)
{
    char why[256];
    *ret_created = false;
    int err = cluster_load(args->dir, cluster);
    if (err == 0) {
        if ((args->nodes != 0 && args->nodes != cluster->nodes) || (args->meta != 0 && args->meta != cluster->meta) ||
            (args->racks != 0 && args->racks != cluster->racks) || (args->disks != 0 && args->disks != cluster->disks)) {
            cli_complain("%s already holds a cluster of %u nodes with %u disks each, %u metadata replicas and %u racks; leave the numbers out or choose another --dir",
                         args->dir, cluster->nodes, cluster->disks, cluster->meta, cluster->racks);
            return CLI_USAGE;
        }
        return CLI_OK;
    }
    if (err != -E_NOENT) {
        cli_complain("cannot read %s/cluster.state: %s", args->dir, err_sentence(err));
        return cli_exit_for(err);
    }
    if (args->meta == 2 || args->meta == 4) {
        cli_complain("--meta takes 1, 3 or 5, not %u", (unsigned)args->meta);
        return CLI_USAGE;
    }
    unsigned nodes = args->nodes != 0 ? (unsigned)args->nodes : 3, racks = args->racks != 0 ? (unsigned)args->racks : 1;
    unsigned disks = args->disks != 0 ? (unsigned)args->disks : 1;
    err = cluster_create(args->dir, nodes, args->meta != 0 ? (unsigned)args->meta : 1, racks, disks, cluster, why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    *ret_created = true;
    return CLI_OK;
}

static void stop_all(const struct cluster_plan *plan)
{
    for (unsigned i = plan->n; i-- > 0;)
        if (program_stop(plan->run_dir, plan->programs[i].name, STOP_GRACE_MS))
            cli_complain("%s did not stop within %u s and was killed", plan->programs[i].name, STOP_GRACE_MS / 1000);
}

static int up(const struct cluster_args *args)
{
    struct cluster cluster;
    bool created;
    int code = load_or_create(args, &cluster, &created);
    if (code != CLI_OK)
        return code;
    struct cluster_plan plan;
    cluster_plan(&cluster, &plan);
    code = start_all(&cluster, &plan);
    if (code == CLI_OK) {
        char config[256];
        snprintf(config, sizeof config, "%s/tarn.conf", cluster.dir);
        struct health health = {.cluster = &cluster};
        int err = admin_run(config, false, HEALTHY_TIMEOUT_MS, health_fiber, &health);
        if (err == 0)
            err = cluster_write_env(&cluster);
        code = cli_exit_for(err);
        if (err != 0 && err != -E_TIMEOUT && err != -E_UNAVAIL)
            cli_complain("the cluster started but is not usable: %s; see %s/log", err_sentence(err), cluster.dir);
    }
    if (code == CLI_OK)
        print_up(&cluster, args->json);
    else if (created)
        stop_all(&plan); /* half a cluster helps nobody; the logs stay */
    cluster_plan_fini(&plan);
    return code;
}

/* ---- down */

/* Mounts of this cluster have the source tarn:CLUSTERID. */
static int unmount_one(void *arg, const char *point, const char *source)
{
    const uint64_t *cluster_id = arg;
    char want[64];
    snprintf(want, sizeof want, "tarn:%016llx", (unsigned long long)*cluster_id);
    if (strcmp(source, want) == 0 && umount2(point, UMOUNT_NOFOLLOW) < 0) {
        cli_complain("%s is in use; it is detached and ends when its last file is closed", point);
        umount2(point, UMOUNT_NOFOLLOW | MNT_DETACH);
    }
    return 0;
}

static int no_cluster(const char *dir, int err)
{
    if (err == -E_NOENT)
        cli_complain("there is no cluster in %s; --dir names its directory", dir);
    else
        cli_complain("cannot read %s/cluster.state: %s", dir, err_sentence(err));
    return cli_exit_for(err);
}

static int down(const struct cluster_args *args)
{
    struct cluster cluster;
    int err = cluster_load(args->dir, &cluster);
    if (err != 0)
        return no_cluster(args->dir, err);
    struct cluster_plan plan;
    cluster_plan(&cluster, &plan);
    mounts_each(unmount_one, &cluster.cluster_id);
    stop_all(&plan);
    cluster_plan_fini(&plan);
    if (args->json)
        out_json("{s:s}", "down", cluster.dir);
    else
        printf("The cluster in %s is down; its data stays there.\n", cluster.dir);
    return CLI_OK;
}

/* ---- status */

static int status(const struct cluster_args *args)
{
    struct cluster cluster;
    int err = cluster_load(args->dir, &cluster);
    if (err != 0)
        return no_cluster(args->dir, err);
    struct cluster_plan plan;
    cluster_plan(&cluster, &plan);
    unsigned running = 0;
    for (unsigned i = 0; i < plan.n; i++) {
        pid_t pid = 0;
        bool up_now = program_state(plan.run_dir, plan.programs[i].name, &pid) == PROGRAM_RUNNING;
        running += up_now;
        if (args->json)
            out_json("{s:s,s:b,s:i}", "process", plan.programs[i].name, "running", up_now, "pid", (int)pid);
        else if (up_now)
            printf("%-12s running  pid %d\n", plan.programs[i].name, (int)pid);
        else
            printf("%-12s stopped\n", plan.programs[i].name);
    }
    bool all = running == plan.n;
    if (!all && !args->json)
        printf("%u of %u processes run; 'tarn cluster up --dir %s' starts the rest.\n", running, plan.n, args->dir);
    cluster_plan_fini(&plan);
    return all ? CLI_OK : CLI_FAILED;
}

int command_cluster(int argc, char **argv)
{
    struct cluster_args args = {.dir = DEFAULT_DIR};
    const struct cli_option options[] = {
        {"dir", CLI_STRING, &args.dir, "DIR", "where the cluster lives (default ./" DEFAULT_DIR ")", 0, 0},
        {"nodes", CLI_UINT, &args.nodes, "N", "storage nodes of a new cluster (default 3)", 1, CLUSTER_NODES_MAX},
        {"meta", CLI_UINT, &args.meta, "N", "metadata replicas of a new cluster: 1, 3 or 5 (default 1)", 1, CONFIG_META_MAX},
        {"racks", CLI_UINT, &args.racks, "R", "racks the nodes are spread over (default 1)", 1, CLUSTER_NODES_MAX},
        {"disks", CLI_UINT, &args.disks, "D", "disks of each storage node (default 1)", 1, CLUSTER_DISKS_MAX},
        {"json", CLI_FLAG, &args.json, NULL, "print JSON, one object a line", 0, 0},
        {"config", CLI_STRING, &args.config, "FILE", "accepted for uniformity; --dir names the cluster", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn cluster up|down|status [--dir DIR] [--nodes N] [--disks D] [--meta 1|3|5] [--racks R]",
              "Runs a whole cluster as processes of this machine. 'up' starts what does not run yet, waits until the\n"
              "cluster is healthy and writes DIR/tarn.env, to be sourced.",
              options, ARRAY_SIZE(options), &n_args);
    if (n_args == 1 && strcmp(argv[1], "up") == 0)
        return up(&args);
    if (n_args == 1 && strcmp(argv[1], "down") == 0)
        return down(&args);
    if (n_args == 1 && strcmp(argv[1], "status") == 0)
        return status(&args);
    cli_complain("cluster takes one of the words up, down, status");
    return CLI_USAGE;
}
