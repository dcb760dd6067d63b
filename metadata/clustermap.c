#include "clustermap.h"

#include "chunkmap.h"
#include "common/err.h"
#include "fence.h"

void node_message(const struct node *node, Tarn__Node *out)
{
    tarn__node__init(out);
    out->id = out->disk = node->id;
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
}

static void text_encode(const char *text, struct writer *w)
{
    size_t len = strlen(text);
    writer_u8(w, (uint8_t)len);
    writer_bytes(w, text, len);
}

static void text_decode(struct reader *r, char out[NODE_TEXT_MAX + 1])
{
    size_t len = reader_u8(r);
    const uint8_t *text = reader_bytes(r, len);
    if (text == NULL || len > NODE_TEXT_MAX) {
        r->failed = true;
        return;
    }
    memcpy(out, text, len);
    out[len] = 0;
}

void node_encode(const struct node *node, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u8(w, node->up);
    writer_u64(w, node->total);
    writer_u64(w, node->free);
    writer_u64(w, node->chunks);
    writer_u64(w, node->epoch);
    writer_u64(w, node->down_since_ns);
    writer_u64(w, node->join_chunk);
    writer_u64(w, node->recount);
    writer_u32(w, node->slots);
    writer_u8(w, node->uuid_len);
    writer_bytes(w, node->uuid, node->uuid_len);
    text_encode(node->host, w);
    text_encode(node->rack, w);
    text_encode(node->address, w);
    text_encode(node->local, w);
    text_encode(node->machine, w);
}

int node_decode(uint32_t id, const void *data, size_t n, struct node *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    struct node node = {.id = id};
    node.up = reader_u8(&r) != 0;
    node.total = reader_u64(&r);
    node.free = reader_u64(&r);
    node.chunks = reader_u64(&r);
    node.epoch = reader_u64(&r);
    node.down_since_ns = reader_u64(&r);
    node.join_chunk = reader_u64(&r);
    node.recount = reader_u64(&r);
    node.slots = reader_u32(&r);
    node.uuid_len = reader_u8(&r);
    const uint8_t *uuid = reader_bytes(&r, node.uuid_len);
    if (uuid == NULL || node.uuid_len > NODE_UUID_MAX)
        return -E_CORRUPT;
    memcpy(node.uuid, uuid, node.uuid_len);
    text_decode(&r, node.host);
    text_decode(&r, node.rack);
    text_decode(&r, node.address);
    text_decode(&r, node.local);
    text_decode(&r, node.machine);
    if (r.failed || reader_left(&r) != 0)
        return -E_CORRUPT;
    *ret = node;
    return 0;
}

int clustermap_get(struct tables *t, uint32_t id, struct node *ret)
{
    struct key key = key_1(TABLE_NODE, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    return node_decode(id, value.data, value.len, ret) != 0 ? tables_corrupt(t, &key, "node") : 0;
}

int clustermap_put(struct tables *t, const struct node *node)
{
    _cleanup_(writer_fini) struct writer w = {0};
    node_encode(node, &w);
    struct key key = key_1(TABLE_NODE, node->id);
    return tables_put(t, &key, &w);
}

void cluster_fini(struct cluster *cluster)
{
    free(cluster->nodes);
    *cluster = (struct cluster){0};
}

static int cluster_add(void *arg, struct kv_val key, struct kv_val value)
{
    struct cluster *cluster = arg;
    if (cluster->count == cluster->cap) {
        size_t cap = cluster->cap == 0 ? 16 : cluster->cap * 2;
        struct node *grown = realloc(cluster->nodes, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        cluster->nodes = grown;
        cluster->cap = cap;
    }
    struct reader r = reader_init(key.data + 1, key.len - 1);
    int err = node_decode((uint32_t)reader_be64(&r), value.data, value.len,
                          &cluster->nodes[cluster->count]);
    if (err == 0)
        cluster->count++;
    return err;
}

int clustermap_load(struct tables *t, struct cluster *ret)
{
    *ret = (struct cluster){0};
    struct key prefix = key_table(TABLE_NODE);
    return tables_scan(t, &prefix, &prefix, cluster_add, ret);
}

const struct node *cluster_node(const struct cluster *cluster, uint32_t id)
{
    size_t low = 0, high = cluster->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (cluster->nodes[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < cluster->count && cluster->nodes[low].id == id ? &cluster->nodes[low] : NULL;
}

unsigned cluster_up(const struct cluster *cluster)
{
    unsigned up = 0;
    for (size_t i = 0; i < cluster->count; i++)
        up += cluster->nodes[i].up;
    return up;
}

struct placement_node *cluster_for_placement(const struct cluster *cluster)
{
    struct placement_node *out = calloc(cluster->count + 1, sizeof *out);
    if (out == NULL)
        return NULL;
    for (size_t i = 0; i < cluster->count; i++) {
        const struct node *node = &cluster->nodes[i];
        out[i] = (struct placement_node){.id = node->id, .free = node->free, .up = node->up};
        size_t first = 0; /* a rack's number is the index of its first node */
        while (strcmp(cluster->nodes[first].rack, node->rack) != 0)
            first++;
        out[i].rack = (uint32_t)first;
    }
    return out;
}

/* The id a joining node gets: its old one by uuid, the one it asks for, or the next. */
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
    if (err == 0)
        return tables_fail(t, -E_EXIST, "node %u exists with another uuid", (unsigned)id);
    if (err != -E_NOENT)
        return err;
    state->next_node = (uint32_t)MAX((uint64_t)state->next_node, id + 1);
    *ret = (struct node){.id = (uint32_t)id, .uuid_len = (uint8_t)m->uuid.len};
    memcpy(ret->uuid, m->uuid.data, m->uuid.len);
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(id, &w);
    return tables_put(t, &key, &w);
}

static int text_set(char out[NODE_TEXT_MAX + 1], const char *text)
{
    size_t len = strlen(text);
    if (len > NODE_TEXT_MAX)
        return -E_INVAL;
    memcpy(out, text, len + 1);
    return 0;
}

static int node_describe(struct node *node, const Tarn__Node *given)
{
    node->total = given->total;
    node->free = given->free;
    node->chunks = given->chunks;
    node->slots = given->slots;
    int err = text_set(node->host, given->host);
    if (err == 0)
        err = text_set(node->rack, given->rack);
    if (err == 0)
        err = text_set(node->address, given->address);
    if (err == 0)
        err = text_set(node->local, given->local);
    return err == 0 ? text_set(node->machine, given->machine) : err;
}

static int node_changed(struct tables *t, struct node *node)
{
    node->recount = 1;
    t->result->nodes_changed = true;
    int err = clustermap_put(t, node);
    return err == 0 ? chunk_recount_step(t, node->id) : err;
}

int clustermap_cmd_join(struct tables *t, const void *message)
{
    const Tarn__NodeJoin *m = message;
    if (m->node == NULL || m->uuid.len == 0 || m->uuid.len > NODE_UUID_MAX)
        return tables_fail(t, -E_INVAL,
                           "a node joins with a description and a uuid of 1 to %d bytes",
                           NODE_UUID_MAX);
    struct node node;
    int err = join_id(t, m, &node);
    if (err == 0)
        err = node_describe(&node, m->node);
    if (err != 0)
        return err;
    node.up = true;
    node.down_since_ns = 0;
    node.epoch = ++tables_state(t)->epoch;
    node.join_chunk = t->state.next_chunk;
    err = node_changed(t, &node);
    if (err != 0)
        return err;
    Tarn__NodeJoinReply reply = TARN__NODE_JOIN_REPLY__INIT;
    reply.id = reply.disk = node.id;
    reply.epoch = node.epoch;
    reply.first_chunk = node.join_chunk;
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

int clustermap_cmd_set(struct tables *t, const void *message)
{
    const Tarn__NodeSet *m = message;
    struct node node;
    int err = clustermap_get(t, m->node, &node);
    if (err != 0)
        return err;
    if (m->total != 0) {
        node.total = m->total;
        node.free = m->free;
        node.chunks = m->chunks;
    }
    if (m->fill_only || m->up == node.up)
        return clustermap_put(t, &node);
    node.up = m->up;
    node.down_since_ns = m->up ? 0 : t->now;
    tables_state(t)->epoch++;
    return node_changed(t, &node);
}

int clustermap_query_list(struct tables *t, const void *message)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    _cleanup_free_ Tarn__Node *nodes = calloc(cluster.count + 1, sizeof *nodes);
    _cleanup_free_ Tarn__Node **pointers = calloc(cluster.count + 1, sizeof *pointers);
    if (nodes == NULL || pointers == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < cluster.count; i++) {
        node_message(&cluster.nodes[i], &nodes[i]);
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
    for (size_t i = 0; i < cluster.count; i++) {
        reply.total += cluster.nodes[i].total;
        reply.free += cluster.nodes[i].up ? cluster.nodes[i].free : 0;
    }
    reply.files = t->state.files;
    up = MIN(up, (unsigned)MD_COPIES_DEFAULT);
    reply.usable = reply.free / MAX(up, 1u);
    return tables_reply(t, &reply.base);
}
