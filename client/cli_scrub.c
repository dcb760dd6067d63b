/* tarn scrub: every store reads all its chunks now and compares them with their checksums; what is damaged is repaired by the
 * cluster itself. The stores are asked directly, and asked again until they are through. */
#include "commands.h"
#include "out.h"

#include "common/config.h"
#include "common/err.h"
#include "common/fiber.h"
#include "object.pb-c.h"

#include <stdio.h>

#define ASK_MS 5000     /* one store that does not answer */
#define LOOK_MS 300     /* between two looks */
#define SILENT_MS 60000 /* a store that answered once and then does not for so long is left out */
#define NODES_MAX 1024
#define DETAIL 160

struct scrubbed {
    uint32_t node;
    struct rpc_client *client;
    bool running, failed;
    uint64_t heard_ms;
    uint64_t disks, chunks, done_bytes, bytes, found, cells;
};
struct scrub {
    const struct config *config;
    uint64_t node, disk;
    bool json, wait;
    struct scrubbed *stores;
    unsigned n;
    struct progress progress;
    bool bad; /* not everything was read, or not everything is whole */
};

static int complain(const char *what, int err, const char *detail)
{
    if (err != -E_UNAVAIL)
        cli_complain("cannot %s: %s", what, detail[0] != '\0' ? detail : err_sentence(err));
    return err;
}

/* ---- one store */
static void take(struct scrubbed *s, const Tarn__StoreScrubReply *reply)
{
    s->running = false;
    s->disks = reply->n_disks;
    s->chunks = s->done_bytes = s->bytes = s->found = s->cells = 0;
    for (size_t i = 0; i < reply->n_disks; i++) {
        const Tarn__ScrubDisk *disk = reply->disks[i];
        s->running |= disk->asked;
        s->chunks += disk->chunks;
        s->bytes += disk->bytes;
        s->done_bytes += disk->asked ? disk->done_bytes : disk->bytes;
        s->found += disk->found;
        s->cells += disk->found_cells;
    }
}

static int ask(const struct scrub *scrub, struct scrubbed *s, bool begin)
{
    Tarn__StoreScrub request = TARN__STORE_SCRUB__INIT;
    request.begin = begin;
    request.disk = (uint32_t)scrub->disk;
    struct rpc_call call = {.op = OP_STORE_SCRUB, .request = &request.base, .timeout_ms = ASK_MS,
                            .reply_type = &tarn__store_scrub_reply__descriptor};
    int err = rpc_call(s->client, &call);
    if (err == 0) {
        take(s, (const Tarn__StoreScrubReply *)call.reply);
        s->heard_ms = io_mono_ms(fiber_io());
    }
    rpc_call_fini(&call);
    return err;
}

/* ---- all */
static bool disk_is_there(const struct scrub *scrub, const Tarn__Node *node)
{
    for (size_t i = 0; i < node->n_disks; i++)
        if (node->disks[i]->id == scrub->disk)
            return true;
    return scrub->disk == 0;
}

static int begin_at(struct scrub *scrub, const Tarn__Node *node)
{
    struct scrubbed *s = &scrub->stores[scrub->n];
    *s = (struct scrubbed){.node = node->id, .client = rpc_client_create(fiber_io(), node->address, &scrub->config->auth)};
    if (s->client == NULL)
        return -E_NOMEM;
    scrub->n++;
    int err = ask(scrub, s, true);
    if (err == -E_CANCELED)
        return err;
    s->failed = err != 0;
    scrub->bad |= s->failed;
    if (err != 0)
        cli_complain("cannot scrub node %u: %s; its disks are not read now", node->id, err_sentence(err));
    return 0;
}

static int begin(struct scrub *scrub, struct meta *meta)
{
    Tarn__NodeList request = TARN__NODE_LIST__INIT;
    Tarn__NodeListReply *list = NULL;
    char detail[DETAIL] = "";
    int err = meta_call(meta, OP_NODE_LIST, &request.base, &request.ctx, &meta_root, &tarn__node_list_reply__descriptor, &list,
                        detail);
    if (err != 0)
        return complain("list the nodes", err, detail);
    for (size_t i = 0; i < list->n_nodes && err == 0 && scrub->n < NODES_MAX; i++) {
        const Tarn__Node *node = list->nodes[i];
        if ((scrub->node != 0 && node->id != scrub->node) || !disk_is_there(scrub, node))
            continue;
        if (!node->up) {
            cli_complain("cannot scrub node %u: it is down; its disks are not read now", node->id);
            scrub->bad = true;
        } else {
            err = begin_at(scrub, node);
        }
    }
    tarn__node_list_reply__free_unpacked(list, NULL);
    if (err == 0 && scrub->n == 0 && !scrub->bad) {
        cli_complain("cannot scrub: there is no such node or disk; tarn disk ls shows them");
        err = -E_NOENT;
    }
    return err;
}

static void look(struct scrub *scrub, struct scrubbed *s)
{
    if (!s->running || s->failed || ask(scrub, s, false) == 0)
        return;
    if (io_mono_ms(fiber_io()) - s->heard_ms < SILENT_MS)
        return; /* its process is started again, perhaps: the pass goes on then */
    cli_complain("node %u does not answer any more: its disks are not read to the end now", s->node);
    s->failed = scrub->bad = true;
}

static bool show(struct scrub *scrub)
{
    uint64_t done = 0, total = 0;
    bool running = false;
    for (unsigned i = 0; i < scrub->n; i++) {
        const struct scrubbed *s = &scrub->stores[i];
        running |= s->running && !s->failed;
        done += s->done_bytes;
        total += s->bytes;
    }
    scrub->progress.total = total;
    if (done > scrub->progress.done)
        progress_add(&scrub->progress, done - scrub->progress.done);
    return running;
}

static int read_all(struct scrub *scrub)
{
    int err = 0;
    progress_begin(&scrub->progress, "reading all chunks", 0);
    while (show(scrub) && err == 0) {
        err = io_sleep_ms(fiber_io(), LOOK_MS);
        for (unsigned i = 0; i < scrub->n && err == 0; i++)
            look(scrub, &scrub->stores[i]);
    }
    progress_end(&scrub->progress);
    return err;
}

/* ---- is everything whole? */
static int status_get(struct meta *meta, Tarn__StatusReply **ret)
{
    Tarn__Status request = TARN__STATUS__INIT;
    char detail[DETAIL] = "";
    int err = meta_call(meta, OP_STATUS, &request.base, &request.ctx, &meta_root, &tarn__status_reply__descriptor, ret, detail);
    return err == 0 ? 0 : complain("ask for the status", err, detail);
}

/* What was found is told with a store's next beat: two looks at it that agree, with time for one in between. */
static int wait_for_repair(struct meta *meta, struct scrub *scrub, Tarn__StatusReply **ret)
{
    struct progress progress;
    unsigned quiet = 0;
    int err = status_get(meta, ret);
    progress_begin(&progress, "damaged chunks repaired", 0);
    progress.count = true;
    while (err == 0 && scrub->wait && quiet < 4) {
        const Tarn__Damages *d = (*ret)->damages;
        uint64_t left = d != NULL ? d->chunks - MIN(d->chunks, d->lost) : 0;
        bool rest = left == 0 && ((*ret)->below_target <= (*ret)->lost || (*ret)->nodes_up < (*ret)->nodes);
        quiet = rest ? quiet + 1 : 0;
        progress_left(&progress, left);
        tarn__status_reply__free_unpacked(*ret, NULL);
        *ret = NULL;
        err = io_sleep_ms(fiber_io(), LOOK_MS);
        if (err == 0)
            err = status_get(meta, ret);
    }
    progress_end(&progress);
    return err;
}

static void print(struct scrub *scrub, const Tarn__StatusReply *status)
{
    static const Tarn__Damages none = TARN__DAMAGES__INIT;
    const Tarn__Damages *d = status->damages != NULL ? status->damages : &none;
    uint64_t disks = 0, chunks = 0, bytes = 0, found = 0, cells = 0;
    char size[16];
    for (unsigned i = 0; i < scrub->n; i++) {
        const struct scrubbed *s = &scrub->stores[i];
        disks += s->disks;
        bytes += s->done_bytes;
        found += s->found;
        cells += s->cells;
        chunks += s->chunks;
    }
    bool whole = d->chunks == 0;
    if (scrub->json) {
        out_json("{s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:b}", "disks", (long long)disks, "bytes", (long long)bytes, "found_chunks",
                 (long long)found, "found_cells", (long long)cells, "damaged", (long long)d->chunks, "lost", (long long)d->lost,
                 "lost_bytes", (long long)d->lost_bytes, "whole", whole, "complete", !scrub->bad);
    } else {
        cli_format_size(bytes, size);
        printf("%llu %s read, %s: %llu damaged cells in %llu copies of chunks were found.\n", (unsigned long long)disks,
               disks == 1 ? "disk was" : "disks were", size, (unsigned long long)cells, (unsigned long long)found);
        if (whole)
            puts("No copy is known as damaged now: everything that was found is repaired.");
        else if (d->chunks > d->lost)
            printf("%llu chunks with damaged copies are being repaired (tarn heal status; --wait waits for it).\n",
                   (unsigned long long)(d->chunks - d->lost));
        print_damages(d);
    }
    scrub->bad |= d->lost > 0 || (scrub->wait && !whole);
}

static int scrub_fiber(struct meta *meta, void *arg)
{
    struct scrub *scrub = arg;
    Tarn__StatusReply *status = NULL;
    int err = begin(scrub, meta);
    if (err == 0)
        err = read_all(scrub);
    if (err == 0)
        err = wait_for_repair(meta, scrub, &status);
    if (err == 0)
        print(scrub, status);
    if (status != NULL)
        tarn__status_reply__free_unpacked(status, NULL);
    for (unsigned i = 0; i < scrub->n; i++)
        rpc_client_destroy(scrub->stores[i].client);
    return err;
}

int command_scrub(int argc, char **argv)
{
    struct scrub scrub = {0};
    struct config config;
    const char *path = NULL, *why;
    const struct cli_option options[] = {
        {"node", CLI_UINT, &scrub.node, "N", "the disks of this storage node only", 1, UINT32_MAX},
        {"disk", CLI_UINT, &scrub.disk, "ID", "this disk only (tarn disk ls)", 1, UINT32_MAX},
        {"wait", CLI_FLAG, &scrub.wait, NULL, "also until what was found is repaired and every chunk has its copies", 0, 0},
        {"json", CLI_FLAG, &scrub.json, NULL, "one JSON object", 0, 0},
        {"config", CLI_STRING, &path, "FILE", "where the cluster is", 0, 0},
    };
    int n = 0;
    cli_parse(argc, argv, "tarn scrub",
              "Reads every chunk on every disk now and compares it with its checksums; the cluster repairs what is damaged. Exit code 1 "
              "when a disk could not be read or bytes are lost.",
              options, ARRAY_SIZE(options), &n);
    if (n != 0) {
        cli_complain("scrub takes no arguments; see tarn scrub --help");
        return CLI_USAGE;
    }
    int err = config_load(path, &config, &why);
    if (err != 0) {
        cli_complain("%s", why);
        return cli_exit_for(err);
    }
    scrub.config = &config;
    scrub.stores = calloc(NODES_MAX, sizeof *scrub.stores);
    err = scrub.stores == NULL ? -E_NOMEM : admin_run(path, false, 0, scrub_fiber, &scrub);
    free(scrub.stores);
    return err != 0 ? cli_exit_for(err) : scrub.bad ? CLI_FAILED : CLI_OK;
}
