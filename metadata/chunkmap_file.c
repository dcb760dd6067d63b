/* A file's extents: found, cut, sealed, dropped, taken over from uploads. */
#include "chunkmap.h"
#include "common/err.h"
#include "group_make.h"
#include "heal.h"
#include "namespace.h"
#include "pack.h"
#include "quota.h"
#include "session.h"
#include "upload_group.h"

#define SEAL_BATCH 256 /* chunks sealed by the CLOSE itself; the rest in steps of the same size */

int extent_put(struct tables *t, uint64_t ino, const struct extent *extent)
{
    _cleanup_(writer_fini) struct writer w = {0};
    extent_encode(extent, &w);
    struct key key = key_2(TABLE_EXTENT, ino, extent->offset);
    return tables_put(t, &key, &w);
}

int extent_find(struct tables *t, uint64_t ino, uint64_t offset, struct extent *ret,
                bool *ret_covers)
{
    struct key at = key_2(TABLE_EXTENT, ino, offset);
    struct key prefix = key_1(TABLE_EXTENT, ino);
    struct kv_val key, value;
    int err = tables_last(t, &at, &prefix, &key, &value);
    if (err != 0)
        return err;
    struct reader r = reader_init(key.data + 9, key.len - 9);
    if (extent_decode(reader_be64(&r), value.data, value.len, ret) != 0)
        return tables_corrupt(t, &at, "extent");
    *ret_covers = offset - ret->offset < ret->length;
    return 0;
}

static int first_offset(void *arg, struct kv_val key, struct kv_val value)
{
    struct reader r = reader_init(key.data + 9, key.len - 9);
    *(uint64_t *)arg = reader_be64(&r);
    return 1;
}

int extent_room(struct tables *t, uint64_t ino, uint64_t offset, uint64_t length, unsigned shift,
                uint64_t *ret_end)
{
    uint64_t slot = 1ull << (shift != 0 ? shift : POLICY_SHIFT_MAX);
    uint64_t end = (offset / slot + 1) * slot;
    uint64_t next = UINT64_MAX;
    struct key start = key_2(TABLE_EXTENT, ino, offset + 1);
    struct key prefix = key_1(TABLE_EXTENT, ino);
    int err = tables_scan(t, &start, &prefix, first_offset, &next);
    if (err == 0)
        *ret_end = MAX(MIN(end, next), offset + length);
    return err;
}

static int extent_of_row(struct tables *t, const struct row *row, struct extent *ret)
{
    int err = extent_decode(key_number(&row->key, 1), row->value, row->len, ret);
    return err != 0 ? tables_corrupt(t, &row->key, "extent") : 0;
}

static int extent_remove(struct tables *t, uint64_t ino, const struct extent *extent)
{
    struct key key = key_2(TABLE_EXTENT, ino, extent->offset);
    int err = tables_del(t, &key);
    return err == 0 ? chunk_unshare(t, extent->chunk) : err;
}

int chunk_file_drop(struct tables *t, uint64_t ino, unsigned max, bool *ret_done)
{
    struct key prefix = key_1(TABLE_EXTENT, ino);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, max, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct extent extent;
        err = extent_of_row(t, &rows.rows[i], &extent);
        if (err == 0)
            err = extent_remove(t, ino, &extent);
    }
    *ret_done = rows.count < max || !tables_any(t, &prefix);
    return err;
}

/* Of an open chunk: without `seal` it stays as it is: clients that do not know SA_CUT_TAIL have cut the chunk at its
 * members before they come, and writers go on in it. */
static int extent_cut(struct tables *t, struct inode *inode, struct extent *extent, uint64_t length, bool seal)
{
    struct chunk chunk;
    int err = chunk_get(t, extent->chunk, &chunk);
    bool open = chunk.state == TARN__CHUNK_STATE__CHUNK_OPEN;
    if (err != 0 || (open && !seal))
        return err;
    inode->allocated -= extent->length - length;
    extent->length = length;
    err = extent_put(t, inode->ino, extent);
    return err == 0 && open ? chunk_seal(t, &chunk, length) : err;
}

static int shrink(struct tables *t, struct inode *inode, uint64_t size, bool seal)
{
    struct extent extent;
    bool covers;
    int err = size == 0 ? -E_NOENT : extent_find(t, inode->ino, size - 1, &extent, &covers);
    if (err == 0 && covers && size - extent.offset < extent.length)
        err = extent_cut(t, inode, &extent, size - extent.offset, seal);
    if (err != 0 && err != -E_NOENT)
        return err;
    struct key prefix = key_1(TABLE_EXTENT, inode->ino);
    struct key start = key_2(TABLE_EXTENT, inode->ino, size);
    _cleanup_(rows_fini) struct rows rows = {0};
    err = tables_rows(t, &start, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        err = extent_of_row(t, &rows.rows[i], &extent);
        if (err == 0)
            err = extent_remove(t, inode->ino, &extent);
        if (err == 0)
            inode->allocated -= extent.length;
    }
    if (err == 0 && inode->data_len > size)
        err = inode_set_data(inode, inode->data, size);
    return err;
}

int chunk_file_cut(struct tables *t, struct inode *inode, uint64_t size)
{
    return shrink(t, inode, size, true);
}

int chunk_file_written(struct tables *t, uint64_t ino, Tarn__WrittenTo *const *written, size_t n)
{
    if (n > CHUNK_WRITTEN_MAX)
        return tables_fail(t, -E_INVAL, "a change of the size names at most %d chunks", CHUNK_WRITTEN_MAX);
    for (size_t i = 0; i < n; i++) {
        struct extent extent;
        bool covers = false;
        int err = written[i]->end == 0 ? -E_INVAL : extent_find(t, ino, written[i]->end - 1, &extent, &covers);
        if (err != 0 && err != -E_NOENT)
            return err;
        if (!covers || extent.chunk != written[i]->chunk)
            return tables_fail(t, -E_STALE, "chunk %llu is not in the file up to %llu any more",
                               (unsigned long long)written[i]->chunk, (unsigned long long)written[i]->end);
    }
    return 0;
}

int chunk_file_resize(struct tables *t, struct inode *inode, uint64_t size)
{
    int err = size < inode->size ? shrink(t, inode, size, false) : 0;
    /* Another size, another content: what the object's writer said of it is no longer true. */
    if (size != inode->size)
        inode->etag_len = 0;
    inode->size = size;
    return err;
}

/* Cuts the extent of one open chunk to the file's size and seals it; beyond the size it goes. */
static int seal_one(struct tables *t, struct inode *inode, struct chunk *chunk)
{
    struct extent extent;
    bool covers;
    int err = extent_find(t, inode->ino, chunk->owner_offset, &extent, &covers);
    if (err != 0)
        return err;
    if (inode->size <= extent.offset) {
        inode->allocated -= extent.length;
        return extent_remove(t, inode->ino, &extent);
    }
    uint64_t length = MIN(extent.length, inode->size - extent.offset);
    inode->allocated -= extent.length - length;
    extent.length = length;
    err = extent_put(t, inode->ino, &extent);
    return err == 0 ? chunk_seal(t, chunk, length) : err;
}

static int seal_batch(struct tables *t, uint64_t ino, bool *ret_more)
{
    struct key prefix = key_1(TABLE_OPEN_CHUNK, ino);
    _cleanup_(rows_fini) struct rows rows = {0};
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = tables_rows(t, &prefix, &prefix, SEAL_BATCH, &rows);
    *ret_more = rows.count == SEAL_BATCH;
    if (err != 0 || rows.count == 0)
        return err;
    err = ns_inode_get(t, ino, &inode);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct chunk chunk;
        err = chunk_get(t, key_number(&rows.rows[i].key, 1), &chunk);
        if (err == 0)
            err = seal_one(t, &inode, &chunk);
    }
    return err == 0 ? ns_inode_put(t, &inode) : err;
}

/* What a snapshot sealed while the file was written to may reach beyond its end. */
static int trim_tail(struct tables *t, uint64_t ino)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(t, ino, &inode);
    uint64_t allocated = inode.allocated;
    if (err == 0)
        err = shrink(t, &inode, inode.size, false);
    return err == 0 && inode.allocated != allocated ? ns_inode_put(t, &inode) : err;
}

int chunk_file_seal(struct tables *t, uint64_t ino)
{
    bool more;
    int err = t->state.snapshot_epoch == 0 ? 0 : trim_tail(t, ino);
    if (err == 0)
        err = seal_batch(t, ino, &more);
    struct key key = key_1(TABLE_TO_SEAL, ino);
    return err == 0 && more ? tables_put_empty(t, &key) : err;
}

int chunk_file_freeze(struct tables *t, uint64_t ino)
{
    struct key prefix = key_1(TABLE_OPEN_CHUNK, ino);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct chunk chunk;
        struct extent extent;
        bool covers;
        err = chunk_get(t, key_number(&rows.rows[i].key, 1), &chunk);
        if (err == 0)
            err = extent_find(t, ino, chunk.owner_offset, &extent, &covers);
        if (err == 0)
            err = chunk_seal_keep(t, &chunk, extent.length);
    }
    return err;
}

int chunk_seal_due_step(struct tables *t, unsigned steps, unsigned *ret_done)
{
    struct key prefix = key_table(TABLE_TO_SEAL);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, steps, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        uint64_t ino = key_number(&rows.rows[i].key, 0);
        struct opens opens;
        bool more = false;
        err = session_opens(t, ino, &opens);
        if (err == 0 && opens.writers == 0) /* else its next last writer seals it */
            err = seal_batch(t, ino, &more);
        if (err == 0 && !more)
            err = tables_del(t, &rows.rows[i].key);
        (*ret_done)++;
    }
    return err;
}

static int adopt_chunk(struct tables *t, const struct row *row, uint64_t length,
                       struct inode *inode)
{
    uint64_t id;
    struct chunk chunk;
    if (number_decode(row->value, row->len, &id) != 0)
        return tables_corrupt(t, &row->key, "upload chunk");
    int err = chunk_get(t, id, &chunk);
    if (err != 0)
        return err;
    if (length == 0)
        return chunk_delete(t, &chunk);
    struct extent extent = {.offset = inode->size, .length = length, .chunk = id};
    if (add_overflows(inode->size, length, &inode->size) || inode->size > INT64_MAX)
        return -E_FBIG;
    inode->allocated += length;
    chunk.owner = inode->ino;
    chunk.owner_offset = extent.offset;
    chunk.flags &= (uint8_t)~CHUNK_OF_UPLOAD;
    err = chunk_seal(t, &chunk, length);
    return err == 0 ? extent_put(t, inode->ino, &extent) : err;
}

static int upload_get(struct tables *t, uint64_t id, struct upload *ret)
{
    struct key key = key_1(TABLE_UPLOAD, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT)
        return tables_fail(t, -E_NOENT, "upload %llu is not known", (unsigned long long)id);
    if (err == 0 && upload_decode(id, value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "upload");
    return err;
}

static int upload_remove(struct tables *t, const struct upload *upload)
{
    struct key key = key_1(TABLE_UPLOAD, upload->id);
    struct key of_session = key_2(TABLE_SESSION_UPLOAD, upload->session, upload->id);
    int err = tables_del(t, &key);
    return err == 0 ? tables_del(t, &of_session) : err;
}

static int slot_group(struct tables *t, const struct row *row, uint64_t *ret)
{
    uint64_t id;
    struct chunk chunk = {0};
    if (number_decode(row->value, row->len, &id) != 0)
        return tables_corrupt(t, &row->key, "upload chunk");
    int err = chunk_get(t, id, &chunk);
    *ret = chunk.group;
    return err == -E_NOENT ? 0 : err;
}

/* The groups of the upload's chunks, whose rows follow each other, get what was put into them. */
static int upload_groups_settle(struct tables *t, const struct rows *rows, const Tarn__UploadPart *part)
{
    size_t lost = 0, n = part->n_lengths;
    uint64_t last = 0, group = 0;
    int err = 0;
    for (size_t i = 0; i < rows->count && err == 0; i++) {
        err = slot_group(t, &rows->rows[i], &group);
        if (err != 0 || group == 0 || group == last)
            continue;
        struct upload_group_end end = {.n = n > i ? n - i : 0, .lost = part->lost, .n_lost = part->n_lost};
        end.lengths = end.n > 0 ? part->lengths + i : NULL;
        err = upload_group_settle(t, group, &end, &lost);
        last = group;
    }
    if (err == 0 && lost != part->n_lost)
        err = tables_fail(t, -E_INVAL, "a chunk that is said to be lost is not in a group of upload %llu",
                          (unsigned long long)part->upload);
    return err;
}

int chunk_follow(struct tables *t, const struct policy *policy, unsigned places, struct chunk *chunk)
{
    chunk->wish = policy->copies;
    chunk->domain = policy->domain;
    int err = group_follow(t, chunk, policy);
    chunk->want = chunk_target(chunk->wish, places);
    if (err == 0)
        err = chunk_save(t, chunk);
    if (err == 0 && chunk_ready(chunk) > chunk->want)
        err = heal_trim(t, chunk);
    return err == 0 ? pack_consider_under(t, chunk, policy) : err;
}

/* The policy has changed since the upload began, and no walk comes to chunks of uploads: they follow it now. */
static int upload_follow(struct tables *t, const struct upload *upload, const struct rows *rows, const struct inode *inode)
{
    struct policy policy;
    unsigned places = 0;
    int err = policy_of(t, inode, &policy);
    bool same = policy.copies == upload->copies && policy.domain == upload->domain && policy.code_k == upload->code_k &&
                policy.code_m == upload->code_m && policy.compress == upload->compress;
    if (err != 0 || same)
        return err;
    err = clustermap_places(t, &places);
    for (size_t i = 0; i < rows->count && err == 0; i++) {
        uint64_t id;
        struct chunk chunk;
        if (number_decode(rows->rows[i].value, rows->rows[i].len, &id) != 0)
            return tables_corrupt(t, &rows->rows[i].key, "upload chunk");
        err = chunk_get(t, id, &chunk);
        if (err == 0 && chunk.owner == inode->ino && chunk.state == TARN__CHUNK_STATE__CHUNK_SEALED)
            err = chunk_follow(t, &policy, places, &chunk);
        err = err == -E_NOENT ? 0 : err; /* without a length it was deleted */
    }
    return err;
}

static int upload_groups_adopt(struct tables *t, const struct rows *rows, uint64_t ino)
{
    uint64_t last = 0, group = 0;
    int err = 0;
    for (size_t i = 0; i < rows->count && err == 0; i++) {
        err = slot_group(t, &rows->rows[i], &group);
        if (err == 0 && group != 0 && group != last)
            err = upload_group_adopt(t, group, ino);
        last = group;
    }
    return err;
}

/* Goes through the upload's chunks in order of index; those without a length are deleted. */
static int upload_finish(struct tables *t, const struct upload *upload, const Tarn__UploadPart *part, struct inode *inode)
{
    struct key prefix = key_1(TABLE_UPLOAD_CHUNK, upload->id);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    if (err == 0 && part->n_lengths > rows.count)
        err = tables_fail(t, -E_INVAL, "upload %llu has %zu chunks, not %zu",
                          (unsigned long long)upload->id, rows.count, part->n_lengths);
    if (err == 0)
        err = upload_groups_settle(t, &rows, part);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        err = adopt_chunk(t, &rows.rows[i], i < part->n_lengths ? part->lengths[i] : 0, inode);
        if (err == 0)
            err = tables_del(t, &rows.rows[i].key);
    }
    if (err == 0)
        err = upload_groups_adopt(t, &rows, inode->ino);
    if (err == 0 && inode->ino != 0) /* it becomes a file */
        err = upload_follow(t, upload, &rows, inode);
    return err == 0 ? upload_remove(t, upload) : err;
}

int chunk_upload_adopt(struct tables *t, const Tarn__UploadPart *part, struct inode *inode)
{
    struct upload upload;
    int err = upload_get(t, part->upload, &upload);
    if (err != 0)
        return err;
    if (t->cred.uid != 0 && t->cred.uid != upload.uid)
        return -E_PERM;
    if (part->n_lengths > CHUNK_COMMIT_EXTENTS_MAX)
        return tables_fail(t, -E_FBIG, "an object has at most %d chunks", CHUNK_COMMIT_EXTENTS_MAX);
    for (size_t i = 0; i < part->n_lengths; i++)
        if (part->lengths[i] > MD_CHUNK_BYTES)
            return tables_fail(t, -E_INVAL, "a chunk has at most 64 MiB");
    if (upload.own_copies) /* said for this object alone: a policy does not change it */
        inode->copies = upload.copies;
    return upload_finish(t, &upload, part, inode);
}

static int upload_abort(struct tables *t, uint64_t id)
{
    struct upload upload;
    struct inode none = {0};
    Tarn__UploadPart nothing = TARN__UPLOAD_PART__INIT;
    int err = upload_get(t, id, &upload);
    return err == 0 ? upload_finish(t, &upload, &nothing, &none) : err;
}

int chunk_cmd_upload_abort(struct tables *t, const void *message)
{
    const Tarn__UploadAbort *m = message;
    int err = upload_abort(t, m->upload);
    return err == -E_NOENT ? 0 : err; /* gone is what was asked for */
}

/* Goes down from `dir` along the path as long as there are directories; the last component is the object. */
static int descend(struct tables *t, const char *path, struct inode *dir)
{
    for (const char *slash; (slash = strchr(path, '/')) != NULL; path = slash + 1) {
        char name[MD_NAME_MAX + 1];
        struct entry entry;
        size_t len = (size_t)(slash - path);
        if (len == 0)
            continue;
        if (len > MD_NAME_MAX)
            return 0;
        memcpy(name, path, len);
        name[len] = '\0';
        int err = ns_entry_get(t, dir->ino, name, &entry);
        if (err != 0 || entry.type != TARN__FILE_TYPE__FT_DIR)
            return err == -E_NOENT ? 0 : err;
        inode_fini(dir);
        err = ns_inode_get(t, entry.ino, dir);
        if (err != 0)
            return err;
    }
    return 0;
}

/* The policy of the directory the object will be in, as far as that exists. */
static int policy_near(struct tables *t, const struct upload_ask *m, struct policy *ret)
{
    _cleanup_(inode_fini) struct inode near = {0};
    int err = m->near == NULL ? -E_NOENT : ns_where(t, m->near, 0, &near);
    if (err == 0 && near.type == TARN__FILE_TYPE__FT_DIR)
        err = descend(t, m->path, &near);
    if (err == 0)
        return policy_of(t, &near, ret);
    policy_default(ret);
    return t->failed;
}

/* The upload a chunk is for: a new one when `id` is 0. */
static int upload_for(struct tables *t, const struct upload_ask *m, struct upload *ret)
{
    if (m->upload != 0)
        return upload_get(t, m->upload, ret);
    struct policy policy;
    int err = policy_near(t, m, &policy);
    if (err != 0)
        return err;
    *ret = (struct upload){.id = tables_state(t)->next_upload++,
                           .session = t->session,
                           .uid = t->cred.uid,
                           .copies = m->copies != 0 ? (uint8_t)m->copies : policy.copies,
                           .own_copies = m->copies != 0,
                           .domain = policy.domain,
                           .shift = policy.shift,
                           .group = policy.group,
                           .code_k = m->copies != 0 ? 0 : policy.code_k,
                           .code_m = m->copies != 0 ? 0 : policy.code_m,
                           .compress = policy.compress,
                           .created = t->now};
    _cleanup_(writer_fini) struct writer w = {0};
    upload_encode(ret, &w);
    struct key key = key_1(TABLE_UPLOAD, ret->id);
    struct key of_session = key_2(TABLE_SESSION_UPLOAD, t->session, ret->id);
    err = tables_put(t, &key, &w);
    return err == 0 ? tables_put_empty(t, &of_session) : err;
}

/* An index asked for again (its first chunk failed as a whole) gets a new chunk. */
int upload_slot_clear(struct tables *t, uint64_t upload, uint64_t index)
{
    struct kv_val value;
    uint64_t id;
    struct chunk old;
    struct key key = key_2(TABLE_UPLOAD_CHUNK, upload, index);
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT)
        return 0;
    if (err == 0 && number_decode(value.data, value.len, &id) != 0)
        err = tables_corrupt(t, &key, "upload chunk");
    if (err == 0)
        err = chunk_get(t, id, &old);
    if (err != 0)
        return err;
    if (old.group != 0)
        return upload_group_drop(t, old.group);
    err = tables_del(t, &key);
    return err == 0 ? chunk_delete(t, &old) : err;
}

int upload_slot_fill(struct tables *t, uint64_t upload, uint64_t index, struct chunk *chunk)
{
    _cleanup_(writer_fini) struct writer w = {0};
    struct key key = key_2(TABLE_UPLOAD_CHUNK, upload, index);
    chunk->flags |= CHUNK_OF_UPLOAD;
    chunk->owner = upload;
    chunk->owner_offset = index;
    number_encode(chunk->id, &w);
    int err = tables_put(t, &key, &w);
    return err == 0 ? chunk_save(t, chunk) : err;
}

/* What is being uploaded counts when it is committed; who has no room left begins nothing. */
static int upload_room(struct tables *t, const struct upload_ask *m)
{
    if (t->state.quotas == 0)
        return 0;
    _cleanup_(inode_fini) struct inode near = {0};
    int err = m->near == NULL ? -E_NOENT : ns_where(t, m->near, 0, &near);
    if (err != 0 && t->failed != 0)
        return err;
    bool dir = err == 0 && near.type == TARN__FILE_TYPE__FT_DIR;
    return quota_room_for(t, t->cred.uid, t->cred.gid, err != 0 ? 0 : dir ? near.ino : near.parent);
}

int upload_begin(struct tables *t, const struct upload_ask *ask, struct upload *ret)
{
    int err = upload_room(t, ask);
    if (err == 0)
        err = upload_for(t, ask, ret);
    return err == 0 && t->cred.uid != 0 && t->cred.uid != ret->uid ? -E_PERM : err;
}

int chunk_cmd_upload_chunk(struct tables *t, const void *message)
{
    const Tarn__UploadChunk *m = message;
    if (m->copies > MD_COPIES_MAX || m->index >= CHUNK_COMMIT_EXTENTS_MAX)
        return tables_fail(t, -E_INVAL, "copies go up to %d, chunks of an upload up to %d",
                           MD_COPIES_MAX, CHUNK_COMMIT_EXTENTS_MAX);
    struct upload upload = {0};
    int err = upload_begin(t, &(struct upload_ask){m->upload, m->near, m->path, m->copies}, &upload);
    if (err == 0)
        err = upload_slot_clear(t, upload.id, m->index);
    struct chunk chunk;
    struct policy policy = {.copies = upload.copies, .domain = upload.domain, .shift = upload.shift, .group = upload.group,
                            .code_k = upload.code_k, .code_m = upload.code_m, .compress = upload.compress};
    if (err == 0)
        err = chunk_make(t, &policy, &(struct chunk_place){m->writer_node, upload.id, m->index}, &chunk);
    if (err == 0)
        err = upload_slot_fill(t, upload.id, m->index, &chunk);
    _cleanup_(cluster_fini) struct cluster cluster = {0};
    if (err == 0)
        err = clustermap_load(t, &cluster);
    if (err != 0)
        return err;
    struct extent_message e;
    extent_message_fill(&(struct extent){.length = 1ull << chunk.shift, .chunk = chunk.id}, &chunk,
                        &cluster, &e);
    Tarn__UploadChunkReply reply = TARN__UPLOAD_CHUNK_REPLY__INIT;
    reply.upload = upload.id;
    reply.extent = &e.extent;
    return tables_reply(t, &reply.base);
}

static int pending_drop(struct tables *t, uint64_t session)
{
    struct key prefix = key_1(TABLE_SESSION_CHUNK, session);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct chunk chunk;
        err = chunk_get(t, key_number(&rows.rows[i].key, 1), &chunk);
        if (err == 0)
            err = chunk_delete(t, &chunk);
    }
    return err;
}

int chunk_session_end(struct tables *t, uint64_t session)
{
    int err = pending_drop(t, session);
    struct key prefix = key_1(TABLE_SESSION_UPLOAD, session);
    _cleanup_(rows_fini) struct rows rows = {0};
    if (err == 0)
        err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = upload_abort(t, key_number(&rows.rows[i].key, 1));
    return err;
}
