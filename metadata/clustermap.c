#include "clustermap.h"

#include "common/err.h"
#include "heal.h"

/* Version 2: disks, flags; the recount went to the disks. */
#define NODE_VERSION 2

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
    writer_u8(w, NODE_VERSION);
    writer_u8(w, node->up);
    writer_u8(w, node->flags);
    writer_u64(w, node->total);
    writer_u64(w, node->free);
    writer_u64(w, node->chunks);
    writer_u64(w, node->epoch);
    writer_u64(w, node->down_since_ns);
    writer_u64(w, node->join_chunk);
    writer_u32(w, node->slots);
    writer_u8(w, node->uuid_len);
    writer_bytes(w, node->uuid, node->uuid_len);
    text_encode(node->host, w);
    text_encode(node->rack, w);
    text_encode(node->address, w);
    text_encode(node->local, w);
    text_encode(node->machine, w);
    writer_u8(w, node->n_disks);
    for (unsigned i = 0; i < node->n_disks; i++)
        writer_u32(w, node->disks[i]);
}

static int disks_decode(struct reader *r, struct node *node)
{
    node->n_disks = reader_u8(r);
    if (node->n_disks > NODE_DISKS_MAX)
        return -E_CORRUPT;
    for (unsigned i = 0; i < node->n_disks; i++)
        node->disks[i] = reader_u32(r);
    return 0;
}

int node_decode(uint32_t id, const void *data, size_t n, struct node *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version != RECORD_VERSION && version != NODE_VERSION)
        return -E_CORRUPT;
    struct node node = {.id = id, .n_disks = 1, .disks = {id}};
    node.up = reader_u8(&r) != 0;
    node.flags = version == RECORD_VERSION ? 0 : reader_u8(&r);
    node.total = reader_u64(&r);
    node.free = reader_u64(&r);
    node.chunks = reader_u64(&r);
    node.epoch = reader_u64(&r);
    node.down_since_ns = reader_u64(&r);
    node.join_chunk = reader_u64(&r);
    node.recount = version == RECORD_VERSION ? reader_u64(&r) : 0;
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
    if (version != RECORD_VERSION && disks_decode(&r, &node) != 0)
        return -E_CORRUPT;
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

struct disk disk_of_node(const struct node *node)
{
    return (struct disk){.id = node->id,
                         .node = node->id,
                         .up = node->up,
                         .total = node->total,
                         .free = node->free,
                         .chunks = node->chunks,
                         .down_since_ns = node->down_since_ns,
                         .recount = node->recount};
}

size_t node_site_len(const char *rack)
{
    const char *second = rack[0] == '/' ? strchr(rack + 1, '/') : NULL;
    return second == NULL ? 0 : (size_t)(second - rack);
}

/* ------------------------------------------------------------------ all of them */
void cluster_fini(struct cluster *cluster)
{
    free(cluster->nodes);
    free(cluster->disks);
    *cluster = (struct cluster){0};
}

/* Room for one more in a growing array. */
static int grow(void **items, size_t *cap, size_t count, size_t size)
{
    if (count < *cap)
        return 0;
    size_t wider = *cap == 0 ? 16 : *cap * 2;
    void *grown = realloc(*items, wider * size);
    if (grown == NULL)
        return -E_NOMEM;
    *items = grown;
    *cap = wider;
    return 0;
}

static uint32_t id_of(struct kv_val key)
{
    struct reader r = reader_init(key.data + 1, key.len - 1);
    return (uint32_t)reader_be64(&r);
}

static int cluster_add(void *arg, struct kv_val key, struct kv_val value)
{
    struct cluster *cluster = arg;
    int err = grow((void **)&cluster->nodes, &cluster->cap, cluster->count, sizeof *cluster->nodes);
    if (err == 0)
        err = node_decode(id_of(key), value.data, value.len, &cluster->nodes[cluster->count]);
    cluster->count += err == 0;
    return err;
}

static int disk_add(struct cluster *cluster, const struct disk *disk)
{
    int err = grow((void **)&cluster->disks, &cluster->cap_disks, cluster->n_disks, sizeof *disk);
    if (err == 0)
        cluster->disks[cluster->n_disks++] = *disk;
    return err;
}

static int cluster_add_disk(void *arg, struct kv_val key, struct kv_val value)
{
    struct disk disk;
    int err = disk_decode(id_of(key), value.data, value.len, &disk);
    return err == 0 ? disk_add(arg, &disk) : err;
}

static int disk_compare(const void *a, const void *b)
{
    const struct disk *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Nodes of version 1 that nothing has changed yet have no row for their disk. */
static int add_implied(struct cluster *cluster)
{
    size_t rows = cluster->n_disks, at = 0;
    int err = 0;
    for (size_t i = 0; i < cluster->count && err == 0; i++) {
        const struct node *node = &cluster->nodes[i];
        while (at < rows && cluster->disks[at].id < node->id)
            at++;
        if ((at == rows || cluster->disks[at].id != node->id) && node->n_disks == 1 && node->disks[0] == node->id) {
            struct disk disk = disk_of_node(node);
            err = disk_add(cluster, &disk);
        }
    }
    if (cluster->n_disks > rows)
        qsort(cluster->disks, cluster->n_disks, sizeof *cluster->disks, disk_compare);
    return err;
}

int clustermap_load(struct tables *t, struct cluster *ret)
{
    *ret = (struct cluster){0};
    struct key nodes = key_table(TABLE_NODE), disks = key_table(TABLE_DISK);
    int err = tables_scan(t, &nodes, &nodes, cluster_add, ret);
    if (err == 0)
        err = tables_scan(t, &disks, &disks, cluster_add_disk, ret);
    return err == 0 ? add_implied(ret) : err;
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

const struct disk *cluster_disk(const struct cluster *cluster, uint32_t id)
{
    const struct disk wanted = {.id = id};
    if (cluster->n_disks == 0)
        return NULL;
    return bsearch(&wanted, cluster->disks, cluster->n_disks, sizeof wanted, disk_compare);
}

const struct node *cluster_disk_node(const struct cluster *cluster, uint32_t id)
{
    const struct disk *disk = cluster_disk(cluster, id);
    return disk == NULL ? NULL : cluster_node(cluster, disk->node);
}

unsigned cluster_up(const struct cluster *cluster)
{
    unsigned up = 0;
    for (size_t i = 0; i < cluster->count; i++)
        up += cluster->nodes[i].up;
    return up;
}

unsigned cluster_places(const struct cluster *cluster)
{
    unsigned places = 0;
    for (size_t i = 0; i < cluster->n_disks; i++)
        places += !(cluster->disks[i].flags & DISK_DRAINING);
    return places;
}

int clustermap_places(struct tables *t, unsigned *ret)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    *ret = err == 0 ? cluster_places(&cluster) : 0;
    return err;
}

static uint64_t text_number(const char *text, size_t len)
{
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a: racks need a number, not a secret */
    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (uint8_t)text[i]) * 0x100000001b3ull;
    return hash;
}

int cluster_placement(const struct cluster *cluster, uint64_t now, struct placement_disk **ret_disks,
                      struct placement_map *ret_map)
{
    struct placement_disk *out = calloc(cluster->n_disks + 1, sizeof *out);
    if (out == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < cluster->n_disks; i++) {
        const struct disk *disk = &cluster->disks[i];
        const struct node *node = cluster_node(cluster, disk->node);
        out[i] = (struct placement_disk){.id = disk->id,
                                         .node = disk->node,
                                         .total = disk->total,
                                         .used = disk_used(disk),
                                         .free = disk->free,
                                         .queue = disk->queue,
                                         .up = disk->up,
                                         .draining = disk->flags & DISK_DRAINING};
        out[i].away = !disk->up && (now >= disk->down_since_ns + HEAL_DELAY_NS || now < disk->down_since_ns);
        if (node != NULL) {
            out[i].rack = text_number(node->rack, strlen(node->rack));
            out[i].site = text_number(node->rack, node_site_len(node->rack));
        }
    }
    int err = placement_map_init(ret_map, out, cluster->n_disks);
    if (err != 0)
        free(out);
    else
        *ret_disks = out;
    return err;
}

bool cluster_node_empty(const struct cluster *cluster, const struct node *node, uint64_t *ret_dependents)
{
    *ret_dependents = 0;
    for (unsigned i = 0; i < node->n_disks; i++) {
        const struct disk *disk = cluster_disk(cluster, node->disks[i]);
        if (disk != NULL)
            *ret_dependents += disk->ready + disk->copying;
    }
    return *ret_dependents == 0;
}
