/* Commands and queries about the storage nodes: they join, come and go, are emptied, are put into a
 * rack. */
#include "chunkmap.h"
#include "clustermap.h"
#include "common/err.h"
#include "quota.h"
#include "fence.h"
#include "heal.h"
#include "heal_state.h"

static int text_set(char out[NODE_TEXT_MAX + 1], const char *text)
{
    size_t len = strlen(text);
    if (len > NODE_TEXT_MAX)
        return -E_INVAL;
    memcpy(out, text, len + 1);
    return 0;
}

/* Something about where copies live has changed: each of its disks' chunks are counted again. */
static int node_changed(struct tables *t, struct node *node)
{
    t->result->nodes_changed = true;
    int err = clustermap_put(t, node);
    for (unsigned i = 0; i < node->n_disks && err == 0; i++) {
        struct disk disk;
        err = disk_get(t, node->disks[i], &disk);
        disk.recount = 1;
        if (err == 0)
            err = disk_put(t, &disk);
        if (err == 0)
            err = heal_recount_step(t, disk.id);
    }
    return err;
}

/* ------------------------------------------------------------------ joining */
/* The id a joining node gets: its old one by uuid, the one it asks for (also that of a node which is down), or the next. */
static int join_id(struct tables *t, const Tarn__NodeJoin *m, struct node *ret)
{
    struct key key = key_named(TABLE_NODE_UUID, 0, (const char *)m->uuid.data, m->uuid.len);
    struct kv_val value;
    uint64_t id;
    int err = tables_get(t, &key, &value);
    if (err == 0)
        err = number_decode(value.data, value.len, &id);
    if (err == 0)
        return clustermap_get(t, (uint32_t)id, ret);
    if (err != -E_NOENT)
        return err;
    struct state *state = tables_state(t);
    id = m->node->id != 0 ? m->node->id : state->next_node;
    if (id > NODES_MAX)
        return tables_fail(t, -E_INVAL, "node ids go up to %d", NODES_MAX);
    struct node other;
    err = clustermap_get(t, (uint32_t)id, &other);
    if (err == 0 && other.up)
        return tables_fail(t, -E_EXIST, "node %u exists with another uuid", (unsigned)id);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (err == 0) { /* all its disks were replaced: the old ones, should they come back, are found by their own uuids */
        struct key old = key_named(TABLE_NODE_UUID, 0, (const char *)other.uuid, other.uuid_len);
        err = tables_del(t, &old);
        if (err != 0)
            return err;
        *ret = other;
    } else {
        state->next_node = (uint32_t)MAX((uint64_t)state->next_node, id + 1);
        *ret = (struct node){.id = (uint32_t)id};
    }
    ret->uuid_len = (uint8_t)m->uuid.len;
    memcpy(ret->uuid, m->uuid.data, m->uuid.len);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(id, &w);
    return tables_put(t, &key, &w);
}

/* Where it is: an operator's word first, then its own, then what is found out later. */
static int join_rack(struct node *node, const char *rack)
{
    if (node->flags & NODE_RACK_PINNED)
        return 0;
    if (rack[0] != '\0') {
        node->flags &= (uint8_t)~NODE_RACK_WANTED;
        return text_set(node->rack, rack);
    }
    if (node->rack[0] == '\0') {
        node->flags |= NODE_RACK_WANTED;
        return text_set(node->rack, NODE_DEFAULT_RACK);
    }
    return 0;
}

static int node_describe(struct node *node, const Tarn__Node *given)
{
    node->slots = given->slots;
    int err = text_set(node->host, given->host);
    if (err == 0)
        err = join_rack(node, given->rack);
    if (err == 0)
        err = text_set(node->address, given->address);
    if (err == 0)
        err = text_set(node->local, given->local);
    return err == 0 ? text_set(node->machine, given->machine) : err;
}

static int disk_new_id(struct tables *t, const struct node *node, uint32_t *ret)
{
    struct key first = key_1(TABLE_DISK, node->id), last = key_1(TABLE_DISK, UINT32_MAX);
    struct key prefix = key_table(TABLE_DISK);
    struct kv_val key, value;
    *ret = node->id;
    if (node->n_disks == 0 && !tables_has(t, &first))
        return 0;
    int err = tables_last(t, &last, &prefix, &key, &value);
    if (err != 0 && err != -E_NOENT)
        return err;
    struct reader r = err == 0 ? reader_init(key.data + 1, key.len - 1) : reader_init(NULL, 0);
    uint64_t highest = err == 0 ? reader_be64(&r) : 0;
    *ret = (uint32_t)MAX(highest + 1, (uint64_t)DISK_FIRST_EXTRA);
    return 0;
}

/* The row of a disk by its uuid. One of version 1 has none: then the node's first disk without uuid is
 * it, because the node was its disk. */
static int disk_known(struct tables *t, const struct node *node, const struct key *uuid, struct disk *ret)
{
    struct kv_val value;
    uint64_t id;
    int err = tables_get(t, uuid, &value);
    if (err == 0 && number_decode(value.data, value.len, &id) != 0)
        err = tables_corrupt(t, uuid, "disk uuid");
    if (err == 0)
        return disk_get(t, (uint32_t)id, ret);
    for (unsigned i = 0; i < node->n_disks && err == -E_NOENT; i++) {
        int got = disk_get(t, node->disks[i], ret);
        if (got != 0 && got != -E_NOENT)
            return got;
        if (got == 0 && ret->uuid_len == 0)
            return 0;
    }
    return err;
}

/* A disk that was put into another node leaves the list of the old one. */
static int disk_moved(struct tables *t, const struct disk *disk)
{
    struct node old;
    int err = clustermap_get(t, disk->node, &old);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    unsigned n = 0;
    for (unsigned i = 0; i < old.n_disks; i++)
        if (old.disks[i] != disk->id)
            old.disks[n++] = old.disks[i];
    old.n_disks = (uint8_t)n;
    return clustermap_put(t, &old);
}

static void disk_said(struct disk *disk, const Tarn__Disk *given)
{
    disk->total = given->total;
    disk->free = MIN(given->free, given->total);
    disk->chunks = given->chunks;
    disk->queue = given->queue;
    disk->bytes_at = disk->bytes;
}

static int join_disk(struct tables *t, struct node *node, const Tarn__Disk *given, uint32_t *ret_id)
{
    if (given->uuid.len == 0 || given->uuid.len > DISK_UUID_MAX)
        return tables_fail(t, -E_INVAL, "a disk has a uuid of 1 to %d bytes", DISK_UUID_MAX);
    struct key uuid = key_named(TABLE_NODE_UUID, 1, (const char *)given->uuid.data, given->uuid.len);
    struct disk disk = {0};
    int err = disk_known(t, node, &uuid, &disk);
    if (err != 0 && err != -E_NOENT)
        return err;
    if (err == -E_NOENT) {
        disk = (struct disk){.flags = node->flags & NODE_DRAINING ? DISK_DRAINING : 0,
                             .drain_since_ns = t->now};
        err = disk_new_id(t, node, &disk.id);
    } else {
        err = disk.node == node->id ? 0 : disk_moved(t, &disk);
    }
    bool listed = false;
    for (unsigned i = 0; i < node->n_disks; i++)
        listed |= node->disks[i] == disk.id;
    if (err == 0 && !listed && node->n_disks == NODE_DISKS_MAX)
        err = tables_fail(t, -E_INVAL, "a node has at most %d disks", NODE_DISKS_MAX);
    if (err != 0)
        return err;
    if (!listed)
        node->disks[node->n_disks++] = disk.id;
    *ret_id = disk.id;
    disk.node = node->id;
    disk.up = true;
    disk.down_since_ns = 0;
    disk.uuid_len = (uint8_t)given->uuid.len;
    memcpy(disk.uuid, given->uuid.data, given->uuid.len);
    disk_said(&disk, given);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(disk.id, &w);
    err = tables_put(t, &uuid, &w);
    return err == 0 ? disk_put(t, &disk) : err;
}

/* Disks the node had and does not have now. */
static int disks_missed(struct tables *t, const struct node *node, const uint32_t *ids, size_t n)
{
    int err = 0;
    for (unsigned i = 0; i < node->n_disks && err == 0; i++) {
        struct disk disk;
        bool here = false;
        for (size_t j = 0; j < n; j++)
            here |= ids[j] == node->disks[i];
        if (here)
            continue;
        err = disk_get(t, node->disks[i], &disk);
        if (err != 0 || !disk.up)
            continue;
        disk.up = false;
        disk.down_since_ns = t->now;
        err = disk_put(t, &disk);
    }
    return err;
}

static int join_disks(struct tables *t, const Tarn__NodeJoin *m, struct node *node, uint32_t *ids, size_t *ret_n)
{
    /* A store with one disk describes it by the node alone. */
    Tarn__Disk only = TARN__DISK__INIT;
    Tarn__Disk *one[] = {&only};
    only.uuid = m->uuid;
    only.total = m->node->total;
    only.free = m->node->free;
    only.chunks = m->node->chunks;
    Tarn__Disk **given = m->node->n_disks > 0 ? m->node->disks : one;
    size_t n = m->node->n_disks > 0 ? m->node->n_disks : 1;
    if (n > NODE_DISKS_MAX)
        return tables_fail(t, -E_INVAL, "a node has at most %d disks", NODE_DISKS_MAX);
    node->total = node->free = node->chunks = 0;
    int err = 0;
    for (size_t i = 0; i < n && err == 0; i++) {
        err = join_disk(t, node, given[i], &ids[i]);
        node->total += given[i]->total;
        node->free += given[i]->free;
        node->chunks += given[i]->chunks;
    }
    *ret_n = n;
    return err == 0 ? disks_missed(t, node, ids, n) : err;
}

/* With more places than before, chunks that had to do with fewer copies can have them all. */
static int places_changed(struct tables *t, unsigned before)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0 || before == cluster_places(&cluster) ||
        MIN(before, cluster_places(&cluster)) >= MD_COPIES_MAX)
        return err;
    return heal_walk_ask(t);
}

int clustermap_cmd_join(struct tables *t, const void *message)
{
    const Tarn__NodeJoin *m = message;
    if (m->node == NULL || m->uuid.len == 0 || m->uuid.len > NODE_UUID_MAX)
        return tables_fail(t, -E_INVAL,
                           "a node joins with a description and a uuid of 1 to %d bytes",
                           NODE_UUID_MAX);
    struct node node;
    uint32_t ids[NODE_DISKS_MAX];
    size_t n = 0;
    unsigned before = 0;
    int err = clustermap_places(t, &before);
    if (err == 0)
        err = join_id(t, m, &node);
    if (err == 0)
        err = node_describe(&node, m->node);
    if (err == 0)
        err = join_disks(t, m, &node, ids, &n);
    if (err != 0)
        return err;
    node.up = true;
    node.down_since_ns = 0;
    node.epoch = ++tables_state(t)->epoch;
    node.join_chunk = t->state.next_chunk;
    err = node_changed(t, &node);
    if (err == 0)
        err = places_changed(t, before);
    if (err != 0)
        return err;
    Tarn__NodeJoinReply reply = TARN__NODE_JOIN_REPLY__INIT;
    reply.id = node.id;
    reply.disk = ids[0];
    reply.epoch = node.epoch;
    reply.first_chunk = node.join_chunk;
    reply.disks = ids;
    reply.n_disks = n;
    _cleanup_(fence_news_fini) struct fence_news news = {0};
    err = fence_read(t, 0, true, &news);
    if (err != 0)
        return err;
    reply.fence_last = news.last;
    reply.fences = news.pointers;
    reply.n_fences = news.n;
    reply.sessions = &news.set;
    return tables_reply(t, &reply.base);
}

/* ------------------------------------------------------------------ up, down, fill */
static const Tarn__Disk *said_of(const Tarn__NodeSet *m, const struct disk *disk)
{
    for (size_t i = 0; i < m->n_disks; i++)
        if (m->disks[i]->uuid.len == disk->uuid_len &&
            memcmp(m->disks[i]->uuid.data, disk->uuid, disk->uuid_len) == 0)
            return m->disks[i];
    return NULL;
}

/* A disk is up when its node is and says so of it; one that the node does not name stays as it is, or goes down with it. */
static bool disk_is_up(const Tarn__NodeSet *m, const struct node *node, const struct disk *disk, const Tarn__Disk *said)
{
    bool node_up = m->fill_only ? node->up : m->up;
    if (!node_up)
        return false;
    if (said == NULL)
        return disk->up;
    return m->n_disks > 0 ? said->up : !m->fill_only || disk->up;
}

/* What the node says of its disks, or of itself when it is one disk. *ret_turned: one has come or gone. */
static int set_disks(struct tables *t, const Tarn__NodeSet *m, const struct node *node, bool *ret_turned)
{
    int err = 0;
    Tarn__Disk only = TARN__DISK__INIT;
    only.total = m->total;
    only.free = m->free;
    only.chunks = m->chunks;
    only.queue = m->queue;
    *ret_turned = false;
    for (unsigned i = 0; i < node->n_disks && err == 0; i++) {
        struct disk disk;
        err = disk_get(t, node->disks[i], &disk);
        if (err != 0)
            break;
        const Tarn__Disk *said = m->n_disks > 0 ? said_of(m, &disk) : node->n_disks == 1 ? &only : NULL;
        if (said != NULL && said->total != 0)
            disk_said(&disk, said);
        bool up = disk_is_up(m, node, &disk, said);
        if (up != disk.up) {
            disk.up = up;
            disk.down_since_ns = up ? 0 : t->now;
            disk.recount = 1; /* its chunks' live copies are others now */
            *ret_turned = true;
        }
        err = disk_put(t, &disk);
    }
    return err;
}

/* Disks of a node that goes on as it was have come or gone. */
static int disks_turned(struct tables *t, struct node *node)
{
    tables_state(t)->epoch++;
    t->result->nodes_changed = true;
    int err = clustermap_put(t, node);
    for (unsigned i = 0; i < node->n_disks && err == 0; i++) {
        struct disk disk;
        err = disk_get(t, node->disks[i], &disk);
        if (err == 0 && disk.recount == 1)
            err = heal_recount_step(t, disk.id);
    }
    return err;
}

static bool rack_is_right(const char *rack)
{
    size_t len = strlen(rack);
    if (len == 0 || len > NODE_TEXT_MAX)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)rack[i] <= ' ' || rack[i] == 0x7f)
            return false;
    return strstr(rack, "//") == NULL && rack[len - 1] != '/';
}

static int rack_set(struct tables *t, struct node *node, const char *rack)
{
    bool same = strcmp(node->rack, rack) == 0;
    node->flags &= (uint8_t)~NODE_RACK_WANTED;
    int err = text_set(node->rack, rack);
    if (err != 0 || same)
        return err != 0 ? err : clustermap_put(t, node);
    tables_state(t)->epoch++;
    return node_changed(t, node);
}

/* The leader's script or table has found a place; somebody who knows better may have been faster. */
static int rack_found(struct tables *t, struct node *node, const char *rack)
{
    if (!(node->flags & NODE_RACK_WANTED))
        return 0;
    return rack_set(t, node, rack_is_right(rack) ? rack : NODE_DEFAULT_RACK);
}

int clustermap_cmd_set(struct tables *t, const void *message)
{
    const Tarn__NodeSet *m = message;
    struct node node;
    int err = clustermap_get(t, m->node, &node);
    if (err == 0 && m->rack[0] != '\0')
        return rack_found(t, &node, m->rack);
    bool turned = false;
    if (err == 0)
        err = set_disks(t, m, &node, &turned);
    if (err != 0)
        return err;
    if (m->total != 0) {
        node.total = m->total;
        node.free = m->free;
        node.chunks = m->chunks;
    }
    if (m->fill_only || m->up == node.up)
        return turned ? disks_turned(t, &node) : clustermap_put(t, &node);
    node.up = m->up;
    node.down_since_ns = m->up ? 0 : t->now;
    tables_state(t)->epoch++;
    return node_changed(t, &node);
}

/* ------------------------------------------------------------------ drain, rack */
static int may_administer(struct tables *t, const char *what)
{
    return t->cred.uid == 0 ? 0 : tables_fail(t, -E_PERM, "only root may %s", what);
}

/* Before all rows of the version before are counted, nobody knows what is safe to remove (D4). */
static void unless_counting(const struct heal_state *heal, Tarn__Node *node)
{
    node->safe_to_remove &= !heal->counting;
    for (size_t i = 0; i < node->n_disks; i++)
        node->disks[i]->safe_to_remove &= !heal->counting;
}

static int reply_node(struct tables *t, uint32_t id)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    Tarn__Node out;
    Tarn__Node *pointer = &out;
    struct node_message_disks disks;
    node_message(&cluster, cluster_node(&cluster, id), &out, &disks);
    struct heal_state heal;
    err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    unless_counting(&heal, &out);
    Tarn__NodeListReply reply = TARN__NODE_LIST_REPLY__INIT;
    reply.n_nodes = 1;
    reply.nodes = &pointer;
    return tables_reply(t, &reply.base);
}

static int drain_disks(struct tables *t, const Tarn__NodeDrain *m, struct node *node)
{
    bool any = false, all = true;
    int err = 0;
    for (unsigned i = 0; i < node->n_disks && err == 0; i++) {
        struct disk disk;
        err = disk_get(t, node->disks[i], &disk);
        if (err != 0)
            break;
        if (m->disk == 0 || m->disk == disk.id) {
            any = true;
            if (!m->undo && !(disk.flags & DISK_DRAINING))
                disk.drain_since_ns = t->now;
            disk.flags = m->undo ? disk.flags & (uint8_t)~DISK_DRAINING : disk.flags | DISK_DRAINING;
            err = disk_put(t, &disk);
        }
        all &= (disk.flags & DISK_DRAINING) != 0;
    }
    if (err == 0 && !any)
        err = tables_fail(t, -E_NOENT, "node %u has no disk %u", m->node, m->disk);
    /* Of a node that is emptied as a whole, a disk that comes meanwhile is emptied too. */
    node->flags = all && (m->disk == 0 || (node->flags & NODE_DRAINING)) ? node->flags | NODE_DRAINING
                                                                         : node->flags & (uint8_t)~NODE_DRAINING;
    return err;
}

int clustermap_cmd_drain(struct tables *t, const void *message)
{
    const Tarn__NodeDrain *m = message;
    struct node node;
    unsigned before = 0, after = 0;
    int err = may_administer(t, "drain a node");
    if (err == 0)
        err = clustermap_get(t, m->node, &node);
    if (err == -E_NOENT)
        return tables_fail(t, err, "there is no node %u", m->node);
    if (err == 0)
        err = clustermap_places(t, &before);
    if (err == 0)
        err = drain_disks(t, m, &node);
    if (err == 0)
        err = clustermap_places(t, &after);
    if (err == 0 && after == 0)
        err = tables_fail(t, -E_INVAL, "node %u is the last one that is not being drained: add another first",
                          m->node);
    if (err != 0)
        return err;
    tables_state(t)->epoch++;
    err = node_changed(t, &node);
    if (err == 0)
        err = places_changed(t, before);
    return err == 0 ? reply_node(t, node.id) : err;
}

int clustermap_cmd_topology(struct tables *t, const void *message)
{
    const Tarn__TopologySet *m = message;
    struct node node;
    int err = may_administer(t, "say where a node is");
    if (err == 0 && !rack_is_right(m->rack))
        err = tables_fail(t, -E_INVAL, "a place is a rack or a path like /site/rack, without spaces, up to %d bytes",
                          NODE_TEXT_MAX);
    if (err == 0)
        err = clustermap_get(t, m->node, &node);
    if (err == -E_NOENT)
        return tables_fail(t, err, "there is no node %u", m->node);
    if (err == 0) {
        node.flags |= NODE_RACK_PINNED;
        err = rack_set(t, &node, m->rack);
    }
    return err == 0 ? reply_node(t, node.id) : err;
}

/* ------------------------------------------------------------------ messages, queries */
static void disk_message(const struct disk *disk, Tarn__Disk *out)
{
    tarn__disk__init(out);
    out->id = disk->id;
    out->node = disk->node;
    out->up = disk->up;
    out->draining = (disk->flags & DISK_DRAINING) != 0;
    out->total = disk->total;
    out->free = disk->free;
    out->chunks = disk->chunks;
    out->queue = disk->queue;
    out->ready = disk->ready;
    out->copying = disk->copying;
    out->leaving = disk->leaving;
    out->bytes = disk->bytes;
    struct placement_disk fill = {.total = disk->total, .used = disk_used(disk)};
    out->fill_ppm = placement_fill(&fill);
    out->safe_to_remove = out->draining && disk->ready + disk->copying == 0;
}

void node_message(const struct cluster *cluster, const struct node *node, Tarn__Node *out,
                  struct node_message_disks *disks)
{
    tarn__node__init(out);
    out->id = node->id;
    out->disk = node->n_disks > 0 ? node->disks[0] : 0;
    out->host = (char *)node->host;
    out->rack = (char *)node->rack;
    out->address = (char *)node->address;
    out->local = (char *)node->local;
    out->machine = (char *)node->machine;
    out->up = node->up;
    out->total = node->total;
    out->free = node->free;
    out->chunks = node->chunks;
    out->epoch = node->epoch;
    out->slots = node->slots;
    out->draining = (node->flags & NODE_DRAINING) != 0;
    out->rack_known = !(node->flags & NODE_RACK_WANTED);
    out->safe_to_remove = cluster_node_empty(cluster, node, &out->dependents) && out->draining;
    if (disks == NULL)
        return;
    for (unsigned i = 0; i < node->n_disks; i++) {
        const struct disk *disk = cluster_disk(cluster, node->disks[i]);
        if (disk == NULL)
            continue;
        disk_message(disk, &disks->disks[out->n_disks]);
        disks->pointers[out->n_disks] = &disks->disks[out->n_disks];
        out->n_disks++;
    }
    out->disks = disks->pointers;
}

int clustermap_query_list(struct tables *t, const void *message)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    struct heal_state heal;
    err = heal_state_get(t, &heal);
    _cleanup_free_ Tarn__Node *nodes = calloc(cluster.count + 1, sizeof *nodes);
    _cleanup_free_ Tarn__Node **pointers = calloc(cluster.count + 1, sizeof *pointers);
    _cleanup_free_ struct node_message_disks *disks = calloc(cluster.count + 1, sizeof *disks);
    if (err == 0 && (nodes == NULL || pointers == NULL || disks == NULL))
        err = -E_NOMEM;
    if (err != 0)
        return err;
    for (size_t i = 0; i < cluster.count; i++) {
        node_message(&cluster, &cluster.nodes[i], &nodes[i], &disks[i]);
        unless_counting(&heal, &nodes[i]);
        pointers[i] = &nodes[i];
    }
    Tarn__NodeListReply reply = TARN__NODE_LIST_REPLY__INIT;
    reply.n_nodes = cluster.count;
    reply.nodes = pointers;
    return tables_reply(t, &reply.base);
}

int clustermap_query_statfs(struct tables *t, const void *message)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    Tarn__StatFsReply reply = TARN__STAT_FS_REPLY__INIT;
    unsigned up = cluster_up(&cluster);
    for (size_t i = 0; i < cluster.n_disks; i++) {
        const struct disk *disk = &cluster.disks[i];
        reply.total += disk->total;
        reply.free += disk->up && !(disk->flags & DISK_DRAINING) ? disk->free : 0;
    }
    reply.files = t->state.files;
    up = MIN(up, (unsigned)MD_COPIES_DEFAULT);
    reply.usable = reply.free / MAX(up, 1u);
    const Tarn__StatFs *m = message;
    err = m->where != NULL ? quota_statfs(t, m->where, &reply) : 0;
    return err != 0 ? err : tables_reply(t, &reply.base);
}
