/* tarn node ls|drain|undrain|rack, tarn disk ls. */
#include "commands.h"
#include "out.h"

#include "common/err.h"
#include "common/fiber.h"

#include <stdio.h>

#define WAIT_MS 500 /* between two looks of --wait */

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

static void print_disk(const Tarn__Node *node, const Tarn__Disk *disk, bool json)
{
    const char *state = !disk->up ? "down" : disk->draining ? disk->ready + disk->copying == 0 ? "drained" : "drain" : "up";
    if (json) {
        out_json("{s:I,s:I,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "id", (long long)disk->id, "node",
                 (long long)disk->node, "host", node->host, "rack", node->rack, "state", state, "total",
                 (long long)disk->total, "free", (long long)disk->free, "fill_ppm", (long long)disk->fill_ppm, "ready",
                 (long long)disk->ready, "copying", (long long)disk->copying, "leaving", (long long)disk->leaving, "bytes",
                 (long long)disk->bytes, "queue", (long long)disk->queue);
        return;
    }
    char total[16];
    cli_format_size(disk->total, total);
    printf("%6u %5u  %-12s %-14s %-7s %6.1f%% %10s %8llu %7llu %7llu\n", disk->id, disk->node, node->host, node->rack, state,
           disk->fill_ppm / 10000.0, total, (unsigned long long)disk->ready, (unsigned long long)disk->copying,
           (unsigned long long)disk->leaving);
}

static int show_disks(const Tarn__NodeListReply *reply, bool json)
{
    if (!json)
        puts("    ID  NODE  HOST         RACK           STATE     FILL      TOTAL   CHUNKS  COMING LEAVING");
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
                return node->disks[j]->draining && node->disks[j]->ready + node->disks[j]->copying == 0;
    }
    return false;
}

static int drain_wait(struct meta *meta, const struct node_call *call)
{
    struct fiber_queue nobody = {0}; /* only to let time pass */
    for (;;) {
        Tarn__NodeListReply *reply = NULL;
        int err = list(meta, &reply);
        bool done = err == 0 && drained(reply, call);
        if (reply != NULL)
            tarn__node_list_reply__free_unpacked(reply, NULL);
        if (err != 0 || done)
            return err;
        (void)fiber_queue_wait(&nobody, WAIT_MS);
    }
}

static int drain_fiber(struct meta *meta, void *arg)
{
    const struct node_call *call = arg;
    Tarn__NodeDrain request = TARN__NODE_DRAIN__INIT;
    Tarn__NodeListReply *reply = NULL;
    char detail[160] = "";
    request.node = (uint32_t)call->node;
    request.disk = (uint32_t)call->disk;
    request.undo = call->undo;
    int err = meta_call(meta, OP_NODE_DRAIN, &request.base, &request.ctx, &meta_root,
                        &tarn__node_list_reply__descriptor, &reply, detail);
    if (err != 0)
        return complain(call->undo ? "undrain the node" : "drain the node", err, detail);
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
static int number(const char *text, uint64_t *ret)
{
    char *end;
    *ret = strtoull(text, &end, 10);
    if (end != text && *end == '\0' && *ret > 0 && *ret <= UINT32_MAX)
        return 0;
    cli_complain("'%s' is no node: tarn node ls shows their numbers", text);
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
    if (n >= 2 && number(argv[2], &call.node) != 0)
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
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n = 0;
    cli_parse(argc, argv, "tarn disk ls", "Lists the disks of the storage nodes and how full they are.", options,
              ARRAY_SIZE(options), &n);
    if (n != 1 || strcmp(argv[1], "ls") != 0) {
        cli_complain("disk takes the word 'ls'; see tarn disk --help");
        return CLI_USAGE;
    }
    return cli_exit_for(admin_run(config, false, 0, list_fiber, &call));
}
