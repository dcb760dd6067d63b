/* tarn node ls|drain|undrain|rack, tarn disk ls|drain|undrain. */
#include "commands.h"
#include "out.h"

#include "common/err.h"
#include "common/fiber.h"

#include <stdio.h>
#include <unistd.h>

#define WAIT_MS 500 /* between two looks of --wait */
#define BAR_CELLS 16

struct node_call {
    bool json, wait, undo;
    uint64_t node, disk;
    const char *rack;
    int (*show)(const Tarn__NodeListReply *reply, bool json);
};

static int complain(const char *what, int err, const char *detail)
{
    if (err != -E_UNAVAIL)
        cli_complain("cannot %s: %s", what, detail[0] != '\0' ? detail : err_sentence(err));
    return err;
}

/* ---- lists */
static const char *state_of(const Tarn__Node *node)
{
    if (node->draining)
        return node->safe_to_remove ? "drained" : "drain";
    return node->up ? "up" : "down";
}

static void print_node(const Tarn__Node *node, bool json)
{
    if (json) {
        out_json("{s:I,s:s,s:s,s:s,s:b,s:I,s:I,s:I,s:I,s:b,s:b,s:I,s:i,s:s}", "id", (long long)node->id, "host", node->host,
                 "rack", node->rack, "address", node->address, "up", node->up, "total", (long long)node->total, "free",
                 (long long)node->free, "chunks", (long long)node->chunks, "seen_ms", (long long)node->seen_ms, "draining",
                 node->draining, "safe_to_remove", node->safe_to_remove, "dependents", (long long)node->dependents, "disks",
                 (int)node->n_disks, "state", state_of(node));
        return;
    }
    char total[16], spare[16];
    cli_format_size(node->total, total);
    cli_format_size(node->free, spare);
    printf("%4u  %-12s %-14s %-7s %8llu %10s %10s  %s\n", node->id, node->host, node->rack, state_of(node),
           (unsigned long long)node->chunks, spare, total, node->address);
    if (node->draining && node->safe_to_remove)
        printf("      safe to remove: no chunk depends on node %u\n", node->id);
    else if (node->draining)
        printf("      being emptied: %llu chunks still depend on node %u\n", (unsigned long long)node->dependents, node->id);
}

static int show_nodes(const Tarn__NodeListReply *reply, bool json)
{
    if (!json)
        puts("  ID  HOST         RACK           STATE     CHUNKS       FREE      TOTAL  ADDRESS");
    for (size_t i = 0; i < reply->n_nodes; i++)
        print_node(reply->nodes[i], json);
    return 0;
}

/* "[#######---------]", on a terminal only. */
static void fill_bar(uint32_t fill_ppm, char out[BAR_CELLS + 3])
{
    unsigned full = (unsigned)((uint64_t)MIN(fill_ppm, 1000000u) * BAR_CELLS / 1000000);
    out[0] = '[';
    for (unsigned i = 0; i < BAR_CELLS; i++)
        out[1 + i] = i < full ? '#' : '-';
    out[1 + BAR_CELLS] = ']';
    out[2 + BAR_CELLS] = '\0';
}

static void print_disk(const Tarn__Node *node, const Tarn__Disk *disk, bool json)
{
    const char *state = disk->safe_to_remove ? "drained" : !disk->up ? "down" : disk->draining ? "drain" : "up";
    if (json) {
        out_json("{s:I,s:I,s:s,s:s,s:s,s:b,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "id", (long long)disk->id, "node",
                 (long long)disk->node, "host", node->host, "rack", node->rack, "state", state, "up", disk->up,
                 "safe_to_remove", disk->safe_to_remove, "total",
                 (long long)disk->total, "free", (long long)disk->free, "fill_ppm", (long long)disk->fill_ppm, "ready",
                 (long long)disk->ready, "copying", (long long)disk->copying, "leaving", (long long)disk->leaving, "bytes",
                 (long long)disk->bytes, "queue", (long long)disk->queue);
        return;
    }
    char total[16], spare[16], bar[BAR_CELLS + 3] = "";
    cli_format_size(disk->total, total);
    cli_format_size(disk->free, spare);
    if (isatty(STDOUT_FILENO))
        fill_bar(disk->fill_ppm, bar);
    printf("%6u %5u  %-12s %-14s %-7s %s%6.1f%% %10s %10s %8llu %7llu %7llu %6u\n", disk->id, disk->node, node->host, node->rack, state,
           bar, disk->fill_ppm / 10000.0, spare, total, (unsigned long long)disk->ready, (unsigned long long)disk->copying,
           (unsigned long long)disk->leaving, disk->queue);
    if (disk->safe_to_remove)
        printf("       safe to remove: no chunk depends on disk %u\n", disk->id);
    else if (disk->draining)
        printf("       being emptied: %llu chunks still depend on disk %u\n", (unsigned long long)(disk->ready + disk->copying), disk->id);
}

static int show_disks(const Tarn__NodeListReply *reply, bool json)
{
    if (!json)
        printf("    ID  NODE  HOST         RACK           STATE   %*s  FILL       FREE      TOTAL   CHUNKS  COMING LEAVING  QUEUE\n",
               isatty(STDOUT_FILENO) ? BAR_CELLS + 2 : 0, "");
    for (size_t i = 0; i < reply->n_nodes; i++)
        for (size_t j = 0; j < reply->nodes[i]->n_disks; j++)
            print_disk(reply->nodes[i], reply->nodes[i]->disks[j], json);
    return 0;
}

static int list(struct meta *meta, Tarn__NodeListReply **ret)
{
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    char detail[160] = "";
    int err = meta_call(meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root,
                        &tarn__node_list_reply__descriptor, ret, detail);
    return err != 0 ? complain("list the nodes", err, detail) : 0;
}

static int list_fiber(struct meta *meta, void *arg)
{
    const struct node_call *call = arg;
    Tarn__NodeListReply *reply = NULL;
    int err = list(meta, &reply);
    if (err != 0)
        return err;
    err = call->show(reply, call->json);
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return err;
}

/* ---- drain, undrain */
static bool drained(const Tarn__NodeListReply *reply, const struct node_call *call)
{
    for (size_t i = 0; i < reply->n_nodes; i++) {
        const Tarn__Node *node = reply->nodes[i];
        if (node->id != call->node)
            continue;
        if (call->disk == 0)
            return node->safe_to_remove;
        for (size_t j = 0; j < node->n_disks; j++)
            if (node->disks[j]->id == call->disk)
                return node->disks[j]->safe_to_remove;
    }
    return false;
}

/* Chunks that still depend on what is drained. */
static uint64_t left_there(const Tarn__NodeListReply *reply, const struct node_call *call)
{
    uint64_t left = 0;
    for (size_t i = 0; i < reply->n_nodes; i++)
        for (size_t j = 0; j < reply->nodes[i]->n_disks && reply->nodes[i]->id == call->node; j++) {
            const Tarn__Disk *disk = reply->nodes[i]->disks[j];
            left += call->disk == 0 || disk->id == call->disk ? disk->ready + disk->copying : 0;
        }
    return left;
}

static int drain_wait(struct meta *meta, const struct node_call *call)
{
    struct fiber_queue nobody = {0}; /* only to let time pass */
    struct progress progress;
    progress_begin(&progress, "chunks moved to other nodes", 0);
    progress.count = true;
    for (;;) {
        Tarn__NodeListReply *reply = NULL;
        int err = list(meta, &reply);
        bool done = err == 0 && drained(reply, call);
        if (err == 0)
            progress_left(&progress, left_there(reply, call));
        if (reply != NULL)
            tarn__node_list_reply__free_unpacked(reply, NULL);
        if (err != 0 || done) {
            progress_end(&progress);
            return err;
        }
        (void)fiber_queue_wait(&nobody, WAIT_MS);
    }
}

/* A disk's node, for who names the disk alone. */
static int node_of_disk(struct meta *meta, struct node_call *call)
{
    Tarn__NodeListReply *reply = NULL;
    int err = list(meta, &reply);
    if (err != 0)
        return err;
    for (size_t i = 0; i < reply->n_nodes; i++)
        for (size_t j = 0; j < reply->nodes[i]->n_disks; j++)
            if (reply->nodes[i]->disks[j]->id == call->disk)
                call->node = reply->nodes[i]->id;
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return call->node != 0 ? 0 : complain("find the disk", -E_NOENT, "there is no disk with this number: tarn disk ls shows them");
}

static int drain_fiber(struct meta *meta, void *arg)
{
    struct node_call *call = arg;
    Tarn__NodeDrain request = TARN__NODE_DRAIN__INIT;
    Tarn__NodeListReply *reply = NULL;
    char detail[160] = "";
    int found = call->node == 0 ? node_of_disk(meta, call) : 0;
    if (found != 0)
        return found;
    request.node = (uint32_t)call->node;
    request.disk = (uint32_t)call->disk;
    request.undo = call->undo;
    int err = meta_call(meta, OP_NODE_DRAIN, &request.base, &request.ctx, &meta_root,
                        &tarn__node_list_reply__descriptor, &reply, detail);
    if (err != 0)
        return complain(call->undo ? "take the drain back" : "drain it", err, detail);
    tarn__node_list_reply__free_unpacked(reply, NULL);
    err = call->wait && !call->undo ? drain_wait(meta, call) : 0;
    return err == 0 ? list_fiber(meta, arg) : err;
}

static int rack_fiber(struct meta *meta, void *arg)
{
    const struct node_call *call = arg;
    Tarn__TopologySet request = TARN__TOPOLOGY_SET__INIT;
    Tarn__NodeListReply *reply = NULL;
    char detail[160] = "";
    request.node = (uint32_t)call->node;
    request.rack = (char *)call->rack;
    int err = meta_call(meta, OP_TOPOLOGY_SET, &request.base, &request.ctx, &meta_root,
                        &tarn__node_list_reply__descriptor, &reply, detail);
    if (err != 0)
        return complain("say where the node is", err, detail);
    err = show_nodes(reply, call->json);
    tarn__node_list_reply__free_unpacked(reply, NULL);
    return err;
}

/* ---- words */
static int number(const char *text, const char *what, uint64_t *ret)
{
    char *end;
    *ret = strtoull(text, &end, 10);
    if (end != text && *end == '\0' && *ret > 0 && *ret <= UINT32_MAX)
        return 0;
    cli_complain("'%s' is no %s: tarn %s ls shows their numbers", text, what, what);
    return -E_INVAL;
}

int command_node(int argc, char **argv)
{
    struct node_call call = {.show = show_nodes};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &call.json, NULL, "one JSON object a line", 0, 0},
        {"wait", CLI_FLAG, &call.wait, NULL, "drain: until it is safe to remove the node", 0, 0},
        {"disk", CLI_UINT, &call.disk, "ID", "drain, undrain: one disk of the node (tarn disk ls)", 1, UINT32_MAX},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n = 0;
    cli_parse(argc, argv, "tarn node ls | drain N | undrain N | rack N /SITE/RACK",
              "Storage nodes: lists them, empties one so that it can be removed, says where one is.", options,
              ARRAY_SIZE(options), &n);
    const char *word = n > 0 ? argv[1] : "";
    bool drain = strcmp(word, "drain") == 0;
    call.undo = strcmp(word, "undrain") == 0;
    if (n == 1 && strcmp(word, "ls") == 0)
        return cli_exit_for(admin_run(config, false, 0, list_fiber, &call));
    if (n >= 2 && number(argv[2], "node", &call.node) != 0)
        return CLI_USAGE;
    if (n == 2 && (drain || call.undo))
        return cli_exit_for(admin_run(config, false, 0, drain_fiber, &call));
    if (n == 3 && strcmp(word, "rack") == 0) {
        call.rack = argv[3];
        return cli_exit_for(admin_run(config, false, 0, rack_fiber, &call));
    }
    cli_complain("node takes ls, drain N, undrain N or rack N /SITE/RACK; see tarn node --help");
    return CLI_USAGE;
}

int command_disk(int argc, char **argv)
{
    struct node_call call = {.show = show_disks};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &call.json, NULL, "one JSON object a line", 0, 0},
        {"wait", CLI_FLAG, &call.wait, NULL, "drain: until it is safe to remove the disk", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n = 0;
    cli_parse(argc, argv, "tarn disk ls | drain ID | undrain ID",
              "Disks of the storage nodes: lists them and how full they are, empties one so that it can be removed.", options,
              ARRAY_SIZE(options), &n);
    const char *word = n > 0 ? argv[1] : "";
    call.undo = strcmp(word, "undrain") == 0;
    if (n == 1 && strcmp(word, "ls") == 0)
        return cli_exit_for(admin_run(config, false, 0, list_fiber, &call));
    if (n == 2 && (call.undo || strcmp(word, "drain") == 0)) {
        if (number(argv[2], "disk", &call.disk) != 0)
            return CLI_USAGE;
        return cli_exit_for(admin_run(config, false, 0, drain_fiber, &call));
    }
    cli_complain("disk takes ls, drain ID or undrain ID; see tarn disk --help");
    return CLI_USAGE;
}
