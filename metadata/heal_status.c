/* How safe the data is: counts from the tables, never from tasks that were said to be done. */
#include "chunkmap.h"
#include "common/err.h"
#include "damage.h"
#include "heal.h"
#include "heal_state.h"

#include <stdio.h>

struct answer {
    Tarn__HealStatusReply reply;
    struct cluster cluster;
    struct heal_state heal;
    Tarn__Node *draining;
    Tarn__Node **pointers;
    struct damage_summary damage;
    Tarn__Damages damages;
    ProtobufCBinaryData files[DAMAGE_FILES_MAX];
    char next[200];
};

static void answer_fini(struct answer *a)
{
    cluster_fini(&a->cluster);
    free(a->draining);
    free(a->pointers);
    damage_summary_fini(&a->damage);
}

static int first_since(void *arg, struct kv_val key, struct kv_val value)
{
    struct reader r = reader_init(key.data + 1, key.len - 1);
    *(uint64_t *)arg = reader_be64(&r);
    return 1;
}

static int count_row(void *arg, struct kv_val key, struct kv_val value)
{
    return ++*(uint64_t *)arg >= 100000 ? 1 : 0;
}

static int fill_nodes(struct answer *a)
{
    a->draining = calloc(a->cluster.count + 1, sizeof *a->draining);
    a->pointers = calloc(a->cluster.count + 1, sizeof *a->pointers);
    if (a->draining == NULL || a->pointers == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < a->cluster.count; i++) {
        const struct node *node = &a->cluster.nodes[i];
        if (!(node->flags & NODE_DRAINING))
            continue;
        Tarn__Node *out = &a->draining[a->reply.n_draining];
        node_message(&a->cluster, node, out, NULL);
        out->safe_to_remove &= !a->heal.counting;
        a->pointers[a->reply.n_draining++] = out;
    }
    a->reply.draining = a->pointers;
    return 0;
}

static uint64_t eta_s(const Tarn__HealStatusReply *reply)
{
    if (reply->below_target == 0)
        return 0;
    return reply->rate == 0 || reply->copies == 0 ? UINT64_MAX : reply->missing_bytes / reply->rate + 1;
}

static const char *next_of_drain(const Tarn__HealStatusReply *r)
{
    for (size_t i = 0; i < r->n_draining; i++)
        if (!r->draining[i]->safe_to_remove)
            return r->copies + r->tasks + r->open > 0 || r->groups == 0
                       ? "wait: nodes are being drained"
                       : "add nodes, or undrain: nothing moves, the other nodes are too few or too full for the shards";
    return "remove the drained nodes: no chunk depends on them";
}

/* The one thing an operator would do next. */
static void next_action(struct answer *a)
{
    const Tarn__HealStatusReply *r = &a->reply;
    const char *text = "nothing to do";
    if (a->damage.lost > 0 && r->nodes_up == r->nodes)
        text = "restore the damaged files from elsewhere: no copy has all of their bytes";
    else if (r->lost > 0 && r->nodes_up < r->nodes)
        text = "bring back the nodes that are down: some chunks have no copy elsewhere (tarn node ls)";
    else if (r->lost > 0)
        text = "restore the files with lost chunks from elsewhere: no node has a copy";
    else if (r->counting)
        text = "wait: the chunks are counted once after the upgrade";
    else if (a->damage.chunks > a->damage.lost)
        text = "wait: damaged copies are being repaired";
    else if (r->below_target > 0 && r->copies > 0)
        text = "wait: copies are being made";
    else if (r->below_target > 0 && r->nodes_up < r->nodes)
        text = "bring back the nodes that are down, or wait: what they held is copied after 30 s";
    else if (r->below_target > 0 && r->open > 0)
        text = "wait until the files being written are closed; copies are made then";
    else if (r->below_target > 0)
        text = "add room or nodes: there is no place for the copies that are missing (tarn node ls)";
    else if (r->weak > 0)
        text = "add nodes in other racks or sites: some chunks have all copies but share a failure domain";
    else if (r->reduced > 0)
        text = "add nodes: there are fewer than the copies or the codes that policies ask for";
    if (strcmp(text, "nothing to do") == 0 && r->n_draining > 0)
        text = next_of_drain(r);
    snprintf(a->next, sizeof a->next, "%s", text);
    a->reply.next = a->next;
}

static int fill(struct tables *t, struct answer *a)
{
    struct key since = key_table(TABLE_SINCE), open = key_table(TABLE_OPEN_CHUNK);
    Tarn__HealStatusReply *r = &a->reply;
    int err = clustermap_load(t, &a->cluster);
    if (err == 0)
        err = heal_state_get(t, &a->heal);
    if (err == 0)
        err = tables_scan(t, &since, &since, first_since, &r->oldest_ns);
    if (err == 0)
        err = tables_scan(t, &open, &open, count_row, &r->open);
    if (err == 0)
        err = damage_summarize(t, &a->damage);
    if (err != 0)
        return err;
    for (size_t i = 0; i < a->cluster.n_disks; i++)
        r->copies += a->cluster.disks[i].copying;
    r->chunks = t->state.chunks;
    r->by_copies = t->state.by_copies;
    r->n_by_copies = ARRAY_SIZE(t->state.by_copies);
    r->below_target = t->state.below_target;
    damage_message(&a->damage, a->files, &a->damages);
    r->damages = &a->damages;
    r->lost = t->state.by_copies[0] - MIN(a->damage.repairing, t->state.by_copies[0]); /* damaged, not given up */
    r->tasks = t->state.tasks;
    r->weak = a->heal.weak;
    r->reduced = a->heal.reduced + a->heal.uncoded;
    r->groups = a->heal.groups;
    r->coding = a->heal.coding;
    r->ghosts = a->heal.ghosts;
    r->missing_bytes = a->heal.missing_bytes;
    r->copied_bytes = a->heal.copied_bytes;
    r->rate = a->heal.rate;
    r->balancing = a->heal.balancing;
    r->counting = a->heal.counting;
    r->nodes = (uint32_t)a->cluster.count;
    r->nodes_up = cluster_up(&a->cluster);
    heal_walk_progress(&a->heal, &r->walked, &r->walk_end);
    r->eta_s = eta_s(r);
    return fill_nodes(a);
}

int heal_query_status(struct tables *t, const void *message)
{
    _cleanup_(answer_fini) struct answer a = {.reply = TARN__HEAL_STATUS_REPLY__INIT};
    int err = fill(t, &a);
    if (err != 0)
        return err;
    next_action(&a);
    return tables_reply(t, &a.reply.base);
}
