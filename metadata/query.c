#include "query.h"

#include "chunkmap.h"
#include "common/err.h"
#include "damage.h"
#include "heal_state.h"
#include "lease_rows.h"
#include "namespace.h"
#include "piece.h"
#include "session.h"

int query_lookup(struct tables *t, const void *message)
{
    const Tarn__Lookup *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    if (err == 0 && m->want_parent && inode.type == TARN__FILE_TYPE__FT_DIR) {
        uint64_t parent = inode.parent;
        inode_fini(&inode);
        err = ns_inode_get(t, parent, &inode);
    }
    if (err == 0)
        err = exclusive_look(t, inode.ino);
    if (err != 0)
        return err;
    Tarn__Attr attr;
    ns_attr(&inode, &attr);
    Tarn__LookupReply reply = TARN__LOOKUP_REPLY__INIT;
    reply.attr = &attr;
    if (inode.type == TARN__FILE_TYPE__FT_SYMLINK)
        reply.target = (char *)inode.data;
    return tables_reply(t, &reply.base);
}

int query_access(struct tables *t, const void *message)
{
    const Tarn__Access *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    return err == 0 ? ns_may(t, &inode, m->mask & 7) : err;
}

/* One answer of READDIR; the attributes are pointed at by the entries. */
struct listing {
    Tarn__DirEntry entries[QUERY_LIST_MAX], *pointers[QUERY_LIST_MAX];
    Tarn__Attr attrs[QUERY_LIST_MAX];
    struct inode inodes[QUERY_LIST_MAX];
    char names[QUERY_LIST_MAX][MD_NAME_MAX + 1];
    size_t count;
};

static void listing_free(struct listing **listing)
{
    for (size_t i = 0; *listing != NULL && i < (*listing)->count; i++)
        inode_fini(&(*listing)->inodes[i]);
    free(*listing);
}

static int listing_add(struct tables *t, struct listing *l, const struct row *row, bool attrs)
{
    struct entry entry;
    size_t len = 0;
    const char *name = key_name(&row->key, &len);
    if (name == NULL || len > MD_NAME_MAX || entry_decode(row->value, row->len, &entry) != 0)
        return tables_corrupt(t, &row->key, "directory entry");
    size_t i = l->count++;
    memcpy(l->names[i], name, len);
    tarn__dir_entry__init(&l->entries[i]);
    tarn__attr__init(&l->attrs[i]);
    l->pointers[i] = &l->entries[i];
    l->entries[i].name = l->names[i];
    l->entries[i].attr = &l->attrs[i];
    l->attrs[i].ino = entry.ino;
    l->attrs[i].type = (Tarn__FileType)entry.type;
    if (!attrs)
        return 0;
    int err = ns_inode_get(t, entry.ino, &l->inodes[i]);
    if (err == 0)
        err = exclusive_look(t, entry.ino);
    if (err == 0)
        ns_attr(&l->inodes[i], &l->attrs[i]);
    return err;
}

int query_readdir(struct tables *t, const void *message)
{
    const Tarn__ReadDir *m = message;
    _cleanup_(inode_fini) struct inode dir = {0};
    _cleanup_(rows_fini) struct rows rows = {0};
    size_t max = m->max == 0 ? QUERY_LIST_MAX : MIN((size_t)m->max, (size_t)QUERY_LIST_MAX);
    size_t after = strlen(m->after);
    if (after > MD_NAME_MAX)
        return -E_NAMETOOLONG;
    int err = ns_where_dir(t, m->where, 0, &dir);
    if (err == 0)
        err = ns_may(t, &dir, NS_READ);
    if (err != 0)
        return err;
    struct key prefix = key_1(TABLE_ENTRY, dir.ino);
    struct key start = key_named(TABLE_ENTRY, dir.ino, m->after,
                                 after == 0 ? 0 : after + 1); /* with the NUL: behind it */
    err = tables_rows(t, &start, &prefix, max + 1, &rows);
    _cleanup_(listing_free) struct listing *l = calloc(1, sizeof *l);
    if (err == 0 && l == NULL)
        err = -E_NOMEM;
    for (size_t i = 0; i < rows.count && i < max && err == 0; i++)
        err = listing_add(t, l, &rows.rows[i], m->attrs);
    if (err != 0)
        return err;
    Tarn__Attr attr;
    ns_attr(&dir, &attr);
    Tarn__ReadDirReply reply = TARN__READ_DIR_REPLY__INIT;
    reply.n_entries = l->count;
    reply.entries = l->pointers;
    reply.end = rows.count <= max;
    reply.dir = &attr;
    reply.parent = dir.parent;
    if (!reply.end) {
        t->result->told = l->count;
        t->result->next = strdup(l->names[l->count - 1]);
        if (t->result->next == NULL)
            return -E_NOMEM;
    }
    return tables_reply(t, &reply.base);
}

/* ---- extents */
void file_map_fini(struct file_map *map)
{
    free(map->messages);
    free(map->pointers);
    *map = (struct file_map){0};
}

/* Where a scan that is to see `offset` begins: the extent that covers it. */
static int map_start(struct tables *t, uint64_t ino, uint64_t offset, struct key *ret)
{
    struct extent extent;
    bool covers = false;
    int err = extent_find(t, ino, offset, &extent, &covers);
    if (err != 0 && err != -E_NOENT)
        return err;
    *ret = key_2(TABLE_EXTENT, ino, err == 0 && covers ? extent.offset : offset);
    return 0;
}

static int map_add(struct tables *t, const struct row *row, const struct cluster *cluster,
                   struct file_map *map)
{
    struct extent extent;
    struct chunk chunk;
    if (extent_decode(key_number(&row->key, 1), row->value, row->len, &extent) != 0)
        return tables_corrupt(t, &row->key, "extent");
    int err = chunk_get(t, extent.chunk, &chunk);
    if (err != 0)
        return err == -E_NOENT
                   ? tables_corrupt(t, &row->key, "extent without its chunk, that is the")
                   : err;
    err = piece_extent(t, &extent, &chunk, cluster, &map->messages[map->count]);
    if (err != 0)
        return err;
    map->pointers[map->count] = &map->messages[map->count].extent;
    map->count++;
    return 0;
}

int file_map_load(struct tables *t, const struct inode *inode, const struct cluster *cluster,
                  uint64_t offset, uint64_t length, size_t max, struct file_map *ret)
{
    *ret = (struct file_map){0};
    uint64_t end;
    if (length == 0 || add_overflows(offset, length, &end))
        end = UINT64_MAX;
    struct key prefix = key_1(TABLE_EXTENT, inode->ino), start;
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = map_start(t, inode->ino, offset, &start);
    if (err == 0)
        err = tables_rows(t, &start, &prefix, max + 1, &rows);
    if (err != 0)
        return err;
    ret->messages = calloc(MIN(rows.count, max) + 1, sizeof *ret->messages);
    ret->pointers = calloc(MIN(rows.count, max) + 1, sizeof *ret->pointers);
    if (ret->messages == NULL || ret->pointers == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        uint64_t at = key_number(&rows.rows[i].key, 1);
        if (at >= end)
            break;
        if (i == max) {
            ret->next = at;
            break;
        }
        err = map_add(t, &rows.rows[i], cluster, ret);
    }
    return err;
}

static int reply_same(struct tables *t)
{
    Tarn__FileMapReply reply = TARN__FILE_MAP_REPLY__INIT;
    reply.same = true;
    return tables_reply(t, &reply.base);
}

int query_file_map(struct tables *t, const void *message)
{
    const Tarn__FileMap *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    _cleanup_(file_map_fini) struct file_map map = {0};
    size_t max = m->max == 0 ? QUERY_EXTENTS_MAX : MIN((size_t)m->max, (size_t)QUERY_EXTENTS_MAX);
    int err = ns_where(t, m->where, 0, &inode);
    if (err == 0 && inode.type != TARN__FILE_TYPE__FT_FILE)
        err = inode.type == TARN__FILE_TYPE__FT_DIR ? -E_ISDIR : -E_INVAL;
    if (err == 0)
        err = ns_may(t, &inode, NS_READ);
    if (err == 0)
        err = exclusive_look(t, inode.ino);
    if (err == 0 && m->have_version != 0 && m->have_version == inode.version)
        return reply_same(t);
    if (err == 0)
        err = clustermap_load(t, &cluster);
    if (err == 0)
        err = file_map_load(t, &inode, &cluster, m->offset, m->length, max, &map);
    if (err != 0)
        return err;
    Tarn__Attr attr;
    ns_attr(&inode, &attr);
    Tarn__FileMapReply reply = TARN__FILE_MAP_REPLY__INIT;
    reply.attr = &attr;
    reply.extents = map.pointers;
    reply.n_extents = map.count;
    reply.next = map.next;
    reply.inline_data = inode.data_len > 0;
    reply.data.data = inode.data;
    reply.data.len = inode.data_len;
    return tables_reply(t, &reply.base);
}

int query_status(struct tables *t, const void *message)
{
    _cleanup_(cluster_fini) struct cluster cluster;
    int err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    Tarn__StatusReply reply = TARN__STATUS_REPLY__INIT;
    reply.files = t->state.files;
    reply.chunks = t->state.chunks;
    reply.by_copies = t->state.by_copies;
    reply.n_by_copies = ARRAY_SIZE(t->state.by_copies);
    reply.below_target = t->state.below_target;
    reply.lost = t->state.by_copies[0];
    reply.nodes = (uint32_t)cluster.count;
    reply.nodes_up = cluster_up(&cluster);
    err = fsm_applied_index(t->txn, &reply.applied);
    if (err != 0)
        return err;
    reply.sessions = t->state.sessions;
    reply.pending_tasks = t->state.tasks;
    struct heal_state heal;
    err = heal_state_get(t, &heal);
    if (err != 0)
        return err;
    reply.weak = heal.weak;
    reply.reduced = heal.reduced + heal.uncoded;
    reply.groups = heal.groups;
    reply.coding = heal.coding;
    reply.ghosts = heal.ghosts;
    for (size_t i = 0; i < cluster.count; i++)
        reply.draining += (cluster.nodes[i].flags & NODE_DRAINING) != 0;
    _cleanup_(damage_summary_fini) struct damage_summary damage = {0};
    err = damage_summarize(t, &damage);
    if (err != 0)
        return err;
    ProtobufCBinaryData files[DAMAGE_FILES_MAX];
    Tarn__Damages damages;
    damage_message(&damage, files, &damages);
    reply.damages = &damages;
    reply.lost -= MIN(damage.repairing, reply.lost);
    return tables_reply(t, &reply.base);
}
