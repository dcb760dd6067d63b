/* What is damaged, for people: how much, and which files. Reads a bounded number of rows. */
#include "chunkmap.h"
#include "common/err.h"
#include "damage.h"
#include "group.h"
#include "namespace.h"
#include "record_view.h"

#include <stdio.h>

#define NAME_LOOK 100000 /* entries of one directory that are looked through for a name */
#define DEPTH_MAX 64

void damage_summary_fini(struct damage_summary *s)
{
    for (size_t i = 0; i < s->n_files; i++)
        free(s->files[i]);
    s->n_files = 0;
}

/* ------------------------------------------------------------------ names */
struct naming {
    uint64_t ino;
    size_t looked;
    char name[MD_NAME_MAX + 1];
};

static int see_entry(void *arg, struct kv_val key, struct kv_val value)
{
    struct naming *naming = arg;
    struct entry entry;
    size_t len = key.len - 9;
    if (++naming->looked > NAME_LOOK)
        return 1;
    if (len > MD_NAME_MAX || entry_decode(value.data, value.len, &entry) != 0 || entry.ino != naming->ino)
        return 0;
    memcpy(naming->name, key.data + 9, len);
    naming->name[len] = '\0';
    return 1;
}

/* Of a clone only what is its own is looked through: what its base's rows stand for keeps the number instead of a name. */
static int name_in(struct tables *t, uint64_t dir, struct naming *naming)
{
    struct key prefix = key_1(TABLE_ENTRY, dir);
    int err = tables_scan(t, &prefix, &prefix, see_entry, naming);
    if (err == 0 && naming->name[0] == '\0')
        snprintf(naming->name, sizeof naming->name, "(inode %llu)", (unsigned long long)naming->ino);
    return err;
}

/* In front of what is there already. False: it does not fit. */
static bool prepend(char path[DAMAGE_PATH_MAX], const char *name)
{
    size_t have = strlen(path), len = strlen(name);
    if (have + len + 2 > DAMAGE_PATH_MAX)
        return false;
    memmove(path + len + 1, path, have + 1);
    path[0] = '/';
    memcpy(path + 1, name, len);
    return true;
}

static int path_of(struct tables *t, uint64_t ino, char path[DAMAGE_PATH_MAX])
{
    path[0] = '\0';
    for (unsigned depth = 0; ino != MD_ROOT && depth < DEPTH_MAX; depth++) {
        _cleanup_(inode_fini) struct inode inode = {0};
        struct naming naming = {.ino = ino};
        int err = ns_inode_get(t, ino, &inode);
        if (err == 0)
            err = inode.parent != 0 ? name_in(t, inode.parent, &naming) : -E_NOENT;
        if (err == -E_NOENT || err == -E_STALE) { /* no name any more, or not yet known */
            snprintf(naming.name, sizeof naming.name, "(inode %llu)", (unsigned long long)ino);
            inode.parent = MD_ROOT;
            err = 0;
        }
        if (err != 0)
            return err;
        if (!prepend(path, naming.name))
            return 0;
        ino = inode.parent;
    }
    return 0;
}

/* ------------------------------------------------------------------ sums */
struct summing {
    struct damage_summary *sum;
    uint64_t chunk; /* whose rows are being added up */
    uint64_t bytes; /* the least of its copies' */
    bool nobody, first;
    uint64_t owners[DAMAGE_FILES_MAX];
    size_t n_owners;
    bool full;
};

static void note_owner(struct summing *s, const struct chunk *chunk)
{
    if (chunk->kind != CHUNK_DATA || (chunk->flags & CHUNK_OF_UPLOAD) || s->n_owners == DAMAGE_FILES_MAX)
        return;
    for (size_t i = 0; i < s->n_owners; i++)
        if (s->owners[i] == chunk->owner)
            return;
    s->owners[s->n_owners++] = chunk->owner;
}

/* All rows of one chunk were seen. Lost: nobody has the bytes of one copy, no other copy is whole, wherever it is,
 * and its group has not enough to compute them. */
static int chunk_end(struct tables *t, struct summing *s)
{
    struct chunk chunk;
    if (s->chunk == 0)
        return 0;
    int err = chunk_get(t, s->chunk, &chunk);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    bool whole = false;
    err = group_can_rebuild(t, &chunk, &whole);
    if (err != 0)
        return err;
    bool computed = whole;
    for (unsigned i = 0; i < chunk.n_replicas; i++)
        whole |= (chunk.replicas[i].flags & (REPLICA_READY | REPLICA_DAMAGED)) == REPLICA_READY;
    bool lost = s->nobody && !whole;
    s->sum->chunks++;
    s->sum->lost += lost;
    s->sum->bytes += lost ? s->bytes : 0;
    s->sum->repairing += !lost && chunk.live == 0 && !computed;
    if (lost)
        note_owner(s, &chunk);
    return 0;
}

static int sum_row(struct tables *t, struct summing *s, const struct row *row)
{
    struct damage_row damage;
    uint64_t chunk = key_number(&row->key, 1);
    if (damage_row_decode(chunk, (uint32_t)key_number(&row->key, 2), row->value, row->len, &damage) != 0)
        return tables_corrupt(t, &row->key, "damaged copy");
    int err = chunk != s->chunk ? chunk_end(t, s) : 0;
    bool first = chunk != s->chunk;
    s->nobody = (s->nobody && !first) || damage.nobody;
    s->bytes = first ? damage.bytes : MIN(s->bytes, damage.bytes);
    s->chunk = chunk;
    return err;
}

int damage_summarize(struct tables *t, struct damage_summary *ret)
{
    struct summing s = {.sum = ret};
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = key_1(TABLE_DAMAGED, DAMAGE_OF);
    *ret = (struct damage_summary){0};
    int err = tables_rows(t, &prefix, &prefix, DAMAGE_ROWS_LOOK, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = sum_row(t, &s, &rows.rows[i]);
    if (err == 0)
        err = chunk_end(t, &s);
    char path[DAMAGE_PATH_MAX];
    for (size_t i = 0; i < s.n_owners && err == 0; i++) {
        err = path_of(t, s.owners[i], path);
        if (err == 0 && (ret->files[ret->n_files] = strdup(path)) == NULL)
            err = -E_NOMEM;
        ret->n_files += err == 0;
    }
    return err;
}

void damage_message(const struct damage_summary *summary, ProtobufCBinaryData *files, Tarn__Damages *ret)
{
    tarn__damages__init(ret);
    ret->chunks = summary->chunks;
    ret->repairing = summary->repairing;
    ret->lost = summary->lost;
    ret->lost_bytes = summary->bytes;
    for (size_t i = 0; i < summary->n_files; i++)
        files[i] = (ProtobufCBinaryData){.len = strlen(summary->files[i]), .data = (uint8_t *)summary->files[i]};
    ret->files = files;
    ret->n_files = summary->n_files;
}
