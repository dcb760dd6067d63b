/* NewObject.from: existing files whose bytes become a new object's, in order, without copying; the
 * same change removes the files. First everything is taken out of them, then the object is placed:
 * it may take the name of one of them. */
#include "namespace_from.h"

#include "chunkmap.h"
#include "common/err.h"
#include "session.h"

#define SEAL_ROUNDS_MAX 64 /* of 256 chunks: a file of 1 TiB that was closed a moment ago */

void ns_taken_fini(struct ns_taken *taken)
{
    free(taken->extents);
    *taken = (struct ns_taken){0};
}

static int extent_append(struct ns_taken *taken, struct extent extent)
{
    if (taken->count == CHUNK_COMMIT_EXTENTS_MAX)
        return -E_FBIG;
    if (taken->count == taken->cap) {
        size_t cap = taken->cap * 2 + 16;
        struct extent *grown = realloc(taken->extents, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        taken->extents = grown;
        taken->cap = cap;
    }
    taken->extents[taken->count++] = extent;
    return 0;
}

static int take_check(struct tables *t, const struct ns_walk *walk)
{
    struct opens opens;
    int err = session_opens(t, walk->inode.ino, &opens);
    if (err == 0)
        err = ns_may(t, &walk->inode, NS_READ);
    if (err == 0)
        err = ns_may_remove(t, &walk->dir, &walk->inode);
    if (err != 0)
        return err;
    if (walk->inode.type != TARN__FILE_TYPE__FT_FILE || walk->dir.ino == 0)
        return tables_fail(t, -E_INVAL, "only files with a name give their bytes");
    if (opens.handles > 0 || walk->inode.nlink != 1)
        return tables_fail(t, -E_INVAL, "%.100s is open or has another name", walk->name);
    return 0;
}

static int seal_all(struct tables *t, uint64_t ino)
{
    struct key open = key_1(TABLE_OPEN_CHUNK, ino), due = key_1(TABLE_TO_SEAL, ino);
    int err = 0;
    for (unsigned i = 0; i < SEAL_ROUNDS_MAX && err == 0 && tables_any(t, &open); i++)
        err = chunk_file_seal(t, ino);
    return err == 0 ? tables_del(t, &due) : err;
}

static int take_bytes(struct tables *t, const struct inode *inode, struct ns_taken *taken)
{
    struct key prefix = key_1(TABLE_EXTENT, inode->ino);
    _cleanup_(rows_fini) struct rows rows = {0};
    if (inode->data_len > 0 && (taken->count > 0 || taken->size + inode->size > MD_INLINE_MAX))
        return tables_fail(t, -E_INVAL,
                           "bytes kept in an inode cannot be taken over into a big object");
    memcpy(taken->data + taken->size % sizeof taken->data,
           inode->data_len > 0 ? inode->data : (uint8_t *)"", inode->data_len);
    taken->any_inline |= inode->data_len > 0;
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    if (err == 0 && rows.count > 0 && taken->any_inline)
        return tables_fail(t, -E_INVAL,
                           "bytes kept in an inode cannot be taken over into a big object");
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct extent extent;
        if (extent_decode(key_number(&rows.rows[i].key, 1), rows.rows[i].value, rows.rows[i].len,
                          &extent) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "extent");
        extent.offset += taken->size;
        err = extent_append(taken, extent);
        if (err == 0)
            err = tables_del(t, &rows.rows[i].key);
    }
    if (err == 0 &&
        (add_overflows(taken->size, inode->size, &taken->size) || taken->size > INT64_MAX))
        err = -E_FBIG;
    return err;
}

static int take_one(struct tables *t, const Tarn__Where *where, struct ns_taken *taken)
{
    _cleanup_(ns_walk_fini) struct ns_walk walk;
    int err = ns_walk(t, where->ino, where->path, NS_NOFOLLOW, &walk);
    if (err != 0)
        return tables_fail(t, err, "%.100s: %s", where->path, err_sentence(err));
    uint64_t ino = walk.inode.ino;
    err = take_check(t, &walk);
    if (err == 0)
        err = seal_all(t, ino);
    inode_fini(&walk.inode);
    if (err == 0) /* sealing changed it */
        err = ns_inode_get(t, ino, &walk.inode);
    if (err == 0)
        err = take_bytes(t, &walk.inode, taken);
    if (err == 0)
        err = ns_entry_remove(t, &walk.dir, walk.name, &walk.inode);
    if (err == 0)
        err = ns_inode_put(t, &walk.dir);
    return err == 0 ? ns_unref(t, &walk.inode) : err;
}

int ns_take(struct tables *t, const Tarn__NewObject *object, struct ns_taken *taken)
{
    int err = 0;
    for (size_t i = 0; i < object->n_from && err == 0; i++) {
        for (size_t j = 0; j < i; j++)
            if (object->from[i]->ino == object->from[j]->ino &&
                strcmp(object->from[i]->path, object->from[j]->path) == 0)
                return tables_fail(t, -E_INVAL, "%.100s is listed twice", object->from[i]->path);
        err = take_one(t, object->from[i], taken);
    }
    return err;
}

int ns_taken_attach(struct tables *t, const struct ns_taken *taken, struct inode *inode)
{
    struct policy policy;
    unsigned places = 0;
    int err = policy_of(t, inode, &policy);
    if (err == 0)
        err = clustermap_places(t, &places);
    for (size_t i = 0; i < taken->count && err == 0; i++) {
        const struct extent *extent = &taken->extents[i];
        struct chunk chunk;
        err = chunk_get(t, extent->chunk, &chunk);
        chunk.owner = inode->ino;
        chunk.owner_offset = extent->offset;
        if (err == 0)
            err = chunk_follow(t, &policy, places, &chunk);
        if (err == 0)
            err = extent_put(t, inode->ino, extent);
        inode->allocated += extent->length;
    }
    inode->size = taken->size;
    if (err == 0 && taken->any_inline)
        err = inode_set_data(inode, taken->data, taken->size);
    return err;
}
