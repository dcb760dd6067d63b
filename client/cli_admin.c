/* tarn status. */
#include "commands.h"
#include "out.h"

#include "common/err.h"

#include <stdio.h>

static int complain(const char *what, int err, const char *detail)
{
    if (err != -E_UNAVAIL)
        cli_complain("cannot %s: %s", what, detail[0] != '\0' ? detail : err_sentence(err));
    return err;
}

/* ---- status */

struct status {
    bool json;
    bool safe;
};

/* Time and next step come from the account of healing. */
static void print_outlook(const Tarn__StatusReply *reply, const Tarn__HealStatusReply *heal)
{
    bool waiting = reply->below_target != 0 || (reply->damages != NULL && reply->damages->chunks != 0);
    if (reply->below_target != 0 && heal->eta_s != UINT64_MAX)
        printf("  full safety in about %llu s\n", (unsigned long long)heal->eta_s);
    else if (waiting)
        puts("  how long to full safety cannot be told now");
    printf("  next: %s\n", heal->next);
}

static void print_status(const Tarn__StatusReply *reply, const Tarn__HealStatusReply *heal, bool safe)
{
    printf("%s\n", safe && reply->weak != 0 ? "Your data is safe: every chunk has all its copies, but some share a failure domain."
                   : safe             ? "Your data is safe: every chunk has all its copies."
                        : reply->lost != 0 ? "Data is LOST: some chunks have no readable copy."
                                           : "Your data is readable, but not every chunk has all its copies.");
    printf("  files %llu, chunks %llu, below target %llu, lost %llu\n", (unsigned long long)reply->files,
           (unsigned long long)reply->chunks, (unsigned long long)reply->below_target, (unsigned long long)reply->lost);
    for (size_t i = 0; i < reply->n_by_copies; i++)
        if (reply->by_copies[i] != 0)
            printf("  with %zu %s: %llu\n", i, i == 1 ? "copy" : "copies", (unsigned long long)reply->by_copies[i]);
    print_damages(reply->damages);
    if (reply->groups + reply->coding != 0)
        printf("  parity groups: %llu coded, %llu being made\n", (unsigned long long)reply->groups,
               (unsigned long long)reply->coding);
    if (reply->weak != 0)
        printf("  in too few failure domains: %llu\n", (unsigned long long)reply->weak);
    if (reply->reduced != 0)
        printf("  with fewer copies than asked for, because there are too few disks: %llu\n",
               (unsigned long long)reply->reduced);
    if (reply->draining != 0)
        printf("  being drained: %u %s (tarn node ls)\n", reply->draining, reply->draining == 1 ? "node" : "nodes");
    printf("  storage nodes %u of %u up, tasks pending %llu\n", reply->nodes_up, reply->nodes,
           (unsigned long long)reply->pending_tasks);
    printf("  metadata leader %u, term %llu, applied %llu, replicas", reply->leader, (unsigned long long)reply->term,
           (unsigned long long)reply->applied);
    for (size_t i = 0; i < reply->n_replicas; i++)
        printf(" %u:%s", reply->replicas[i]->id,
               reply->replicas[i]->leader ? "leader" : reply->replicas[i]->reachable ? "ok" : "silent");
    putchar('\n');
    print_outlook(reply, heal);
}

static int outlook(struct meta *meta, Tarn__HealStatusReply **ret, char detail[160])
{
    Tarn__HealStatus request = TARN__HEAL_STATUS__INIT;
    return meta_call(meta, OP_HEAL_STATUS, &request.base, &request.ctx, &meta_root, &tarn__heal_status_reply__descriptor, ret, detail);
}

static int status_fiber(struct meta *meta, void *arg)
{
    struct status *status = arg;
    Tarn__Status request = TARN__STATUS__INIT;
    Tarn__StatusReply *reply = NULL;
    char detail[160] = "";
    int err = meta_call(meta, OP_STATUS, &request.base, &request.ctx, &meta_root,
                        &tarn__status_reply__descriptor, &reply, detail);
    Tarn__HealStatusReply *heal = NULL;
    if (err == 0)
        err = outlook(meta, &heal, detail);
    if (err != 0) {
        if (reply != NULL)
            tarn__status_reply__free_unpacked(reply, NULL);
        return complain("ask for the status", err, detail);
    }
    static char files[DAMAGED_FILES_TEXT];
    damaged_files(reply->damages, files);
    status->safe = reply->below_target == 0 && reply->lost == 0 && (reply->damages == NULL || reply->damages->lost == 0);
    if (status->json)
        out_json("{s:b,s:I,s:I,s:s,s:I,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:i,s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:i,s:a}", "safe", status->safe,
                 "damaged", (long long)(reply->damages != NULL ? reply->damages->chunks : 0), "damaged_lost",
                 (long long)(reply->damages != NULL ? reply->damages->lost : 0), "damaged_files", files, "eta_s",
                 heal->eta_s == UINT64_MAX ? -1ll : (long long)heal->eta_s, "next", heal->next, "groups",
                 (long long)reply->groups, "coding", (long long)reply->coding, "ghosts", (long long)reply->ghosts, "files",
                 (long long)reply->files, "chunks", (long long)reply->chunks, "below_target",
                 (long long)reply->below_target, "lost", (long long)reply->lost, "nodes", (int)reply->nodes,
                 "nodes_up", (int)reply->nodes_up, "leader", (int)reply->leader, "term", (long long)reply->term,
                 "applied", (long long)reply->applied, "sessions", (long long)reply->sessions,
                 "pending_tasks", (long long)reply->pending_tasks, "weak", (long long)reply->weak, "reduced",
                 (long long)reply->reduced, "draining", (int)reply->draining, "levels", reply->by_copies, reply->n_by_copies);
    else
        print_status(reply, heal, status->safe);
    tarn__heal_status_reply__free_unpacked(heal, NULL);
    tarn__status_reply__free_unpacked(reply, NULL);
    return 0;
}

int command_status(int argc, char **argv)
{
    struct status status = {0};
    const char *config = NULL;
    const struct cli_option options[] = {
        {"json", CLI_FLAG, &status.json, NULL, "one JSON object", 0, 0},
        {"config", CLI_STRING, &config, "FILE", "where the cluster is", 0, 0},
    };
    int n_args = 0;
    cli_parse(argc, argv, "tarn status", "Tells whether the data is safe. Exit code 1 when it is not.", options,
              ARRAY_SIZE(options), &n_args);
    if (n_args != 0) {
        cli_complain("status takes no arguments");
        return CLI_USAGE;
    }
    int err = admin_run(config, false, 0, status_fiber, &status);
    return err != 0 ? cli_exit_for(err) : status.safe ? CLI_OK : CLI_FAILED;
}
