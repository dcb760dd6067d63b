#include "view_world.h"

#include <fcntl.h>
#include <stdio.h>

#include "metadata/kv.h"

static Tarn__Where at(const char *path)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)path;
    where.nofollow = true;
    return where;
}

int tree_take(struct world *w, const char *dir, const char *name)
{
    Tarn__Where where = at(dir);
    Tarn__SnapshotTake m = TARN__SNAPSHOT_TAKE__INIT;
    m.where = &where;
    m.name = (char *)name;
    return world_apply(w, OP_SNAPSHOT_TAKE, &m.base, &m.ctx);
}

int tree_drop(struct world *w, const char *dir, const char *name)
{
    Tarn__Where where = at(dir);
    Tarn__SnapshotDrop m = TARN__SNAPSHOT_DROP__INIT;
    m.where = &where;
    m.name = (char *)name;
    return world_apply(w, OP_SNAPSHOT_DROP, &m.base, &m.ctx);
}

int tree_clone(struct world *w, const char *dir, const char *name, const char *parent,
               const char *new_name)
{
    Tarn__Where where = at(dir), to = at(parent);
    Tarn__Clone m = TARN__CLONE__INIT;
    m.where = &where;
    m.name = (char *)name;
    m.parent = &to;
    m.new_name = (char *)new_name;
    return world_apply(w, OP_CLONE, &m.base, &m.ctx);
}

int tree_query(struct world *w, unsigned op, ProtobufCMessage *message, Tarn__Ctx **ctx)
{
    Tarn__Ctx filled = TARN__CTX__INIT;
    filled.session = w->session;
    filled.uid = w->uid;
    filled.gid = w->gid;
    for (;;) {
        *ctx = &filled;
        size_t len = protobuf_c_message_get_packed_size(message);
        uint8_t *body = malloc(len + 1);
        assert_non_null(body);
        protobuf_c_message_pack(message, body);
        struct kv_txn *txn;
        fsm_result_fini(&w->result);
        assert_int_equal(kv_begin(w->kv, false, &txn), 0);
        assert_int_equal(fsm_query(txn, op, body, len, &w->result), 0);
        kv_abort(txn);
        free(body);
        *ctx = NULL;
        if (w->result.slot_family == 0)
            return w->result.err;
        Tarn__CloneSlot slot = TARN__CLONE_SLOT__INIT;
        slot.family = w->result.slot_family;
        slot.of_base = w->result.slot_base;
        assert_int_equal(world_apply(w, OP_CLONE_SLOT, &slot.base, NULL), 0);
    }
}

int tree_put(struct world *w, const char *dir, const char *name, const char *data)
{
    Tarn__Where parent = at(dir);
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &parent;
    object.path = (char *)name;
    object.file = true;
    object.data = (ProtobufCBinaryData){.data = (uint8_t *)data, .len = strlen(data)};
    Tarn__ObjectCommit m = TARN__OBJECT_COMMIT__INIT;
    m.object = &object;
    return world_apply(w, OP_OBJECT_COMMIT, &m.base, &m.ctx);
}

int tree_xattr(struct world *w, const char *path, const char *value)
{
    Tarn__Where where = at(path);
    Tarn__SetXattr m = TARN__SET_XATTR__INIT;
    m.where = &where;
    m.name = "user.t";
    m.remove = value == NULL;
    if (value != NULL)
        m.value = (ProtobufCBinaryData){.data = (uint8_t *)value, .len = strlen(value)};
    return world_apply(w, OP_SETXATTR, &m.base, &m.ctx);
}

static int set_size(struct world *w, Tarn__Where *where, uint32_t mask, uint64_t size)
{
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = where;
    m.mask = mask;
    m.size = size;
    return world_apply(w, OP_SETATTR, &m.base, &m.ctx);
}

int tree_truncate(struct world *w, const char *path, uint64_t size)
{
    Tarn__Where where = at(path);
    return set_size(w, &where, TARN__SET_ATTR_BITS__SA_SIZE, size);
}

int tree_open(struct world *w, const char *path, uint64_t *ret_handle, uint64_t *ret_ino)
{
    Tarn__Where where = at(path);
    Tarn__Open m = TARN__OPEN__INIT;
    m.where = &where;
    m.flags = O_RDWR;
    int err = world_apply(w, OP_OPEN, &m.base, &m.ctx);
    if (err != 0)
        return err;
    Tarn__Entry *entry = world_reply(w, &tarn__entry__descriptor);
    *ret_handle = entry->handle;
    *ret_ino = entry->attr->ino;
    return 0;
}

int tree_write(struct world *w, uint64_t ino, uint64_t slot, uint64_t bytes, uint64_t *ret_chunk)
{
    Tarn__ChunkWrite m = TARN__CHUNK_WRITE__INIT;
    m.ino = ino;
    m.offset = slot * SLOT;
    m.writer_node = 1;
    int err = world_apply(w, OP_CHUNK_WRITE, &m.base, &m.ctx);
    if (err != 0)
        return err;
    Tarn__ChunkReply *reply = world_reply(w, &tarn__chunk_reply__descriptor);
    Tarn__ChunkSwap swap = TARN__CHUNK_SWAP__INIT;
    swap.ino = ino;
    swap.offset = reply->extent->offset;
    swap.old_chunk = reply->extent->clone_of;
    swap.new_chunk = *ret_chunk = reply->extent->chunk;
    bool to_swap = swap.old_chunk != 0 || reply->inline_data.len > 0;
    if (to_swap && (err = world_apply(w, OP_CHUNK_SWAP, &swap.base, &swap.ctx)) != 0)
        return err;
    Tarn__Where where = TARN__WHERE__INIT;
    where.ino = ino;
    return set_size(w, &where, TARN__SET_ATTR_BITS__SA_GROW, slot * SLOT + bytes);
}

/* ---- reading */

struct text {
    char *data;
    size_t len;
    FILE *file;
};

static void say_file(struct world *w, struct text *text, const char *path, bool exact)
{
    Tarn__Where where = at(path);
    Tarn__FileMap m = TARN__FILE_MAP__INIT;
    m.where = &where;
    assert_int_equal(tree_query(w, OP_FILE_MAP, &m.base, &m.ctx), 0);
    Tarn__FileMapReply *reply = world_reply(w, &tarn__file_map_reply__descriptor);
    fprintf(text->file, " '%.*s'", (int)reply->data.len, (const char *)reply->data.data);
    for (size_t i = 0; i < reply->n_extents; i++) {
        const Tarn__Extent *e = reply->extents[i];
        if (e->offset >= reply->attr->size)
            continue;
        uint64_t length = MIN(e->length, reply->attr->size - e->offset);
        fprintf(text->file, " %llu", (unsigned long long)e->offset);
        if (exact)
            fprintf(text->file, "+%llu@%llu", (unsigned long long)length,
                    (unsigned long long)e->chunk);
    }
}

static void say_xattr(struct world *w, struct text *text, const char *path)
{
    Tarn__Where where = at(path);
    Tarn__GetXattr m = TARN__GET_XATTR__INIT;
    m.where = &where;
    m.name = "";
    assert_int_equal(tree_query(w, OP_GETXATTR, &m.base, &m.ctx), 0);
    Tarn__GetXattrReply *reply = world_reply(w, &tarn__get_xattr_reply__descriptor);
    for (size_t i = 0; i < reply->n_pairs; i++)
        fprintf(text->file, " %s=%.*s", reply->pairs[i]->name, (int)reply->pairs[i]->value.len,
                (const char *)reply->pairs[i]->value.data);
}

struct listed {
    struct {
        char name[64];
        uint64_t ino, size;
        uint32_t type, mode, nlink;
    } entries[1200];
    size_t n;
};

static struct listed *list(struct world *w, const char *dir)
{
    struct listed *l = calloc(1, sizeof *l);
    Tarn__Where where = at(dir);
    Tarn__ReadDir m = TARN__READ_DIR__INIT;
    assert_non_null(l);
    m.where = &where;
    m.attrs = true;
    m.max = 7; /* in pieces */
    for (bool end = false; !end;) {
        m.after = l->n == 0 ? "" : l->entries[l->n - 1].name;
        int err = tree_query(w, OP_READDIR, &m.base, &m.ctx);
        if (err != 0)
            fail_msg("%s: %s", dir, err_sentence(err));
        Tarn__ReadDirReply *reply = world_reply(w, &tarn__read_dir_reply__descriptor);
        for (size_t i = 0; i < reply->n_entries; i++) {
            const Tarn__Attr *attr = reply->entries[i]->attr;
            assert_true(l->n < ARRAY_SIZE(l->entries));
            snprintf(l->entries[l->n].name, sizeof l->entries[0].name, "%s",
                     reply->entries[i]->name);
            l->entries[l->n].ino = attr->ino;
            l->entries[l->n].type = attr->type;
            l->entries[l->n].mode = attr->mode;
            l->entries[l->n].nlink = attr->nlink;
            l->entries[l->n++].size = attr->size;
        }
        end = reply->end;
    }
    return l;
}

static void say(struct world *w, struct text *text, const char *root, const char *below, bool exact)
{
    char path[512], inner[256];
    snprintf(path, sizeof path, "%s%s", root, below);
    struct listed *l = list(w, path);
    for (size_t i = 0; i < l->n; i++) {
        bool dir = l->entries[i].type == TARN__FILE_TYPE__FT_DIR;
        snprintf(inner, sizeof inner, "%s/%s", below, l->entries[i].name);
        assert_in_range(snprintf(path, sizeof path, "%s%s", root, inner), 1, sizeof path - 1);
        fprintf(text->file, "%s %u %o %llu", inner, l->entries[i].type, l->entries[i].mode,
                (unsigned long long)l->entries[i].size);
        if (exact || dir)
            fprintf(text->file, " n%u", l->entries[i].nlink);
        if (!dir)
            say_file(w, text, path, exact);
        say_xattr(w, text, path);
        fputc('\n', text->file);
        if (dir)
            say(w, text, root, inner, exact);
    }
    free(l);
}

char *tree_text(struct world *w, const char *dir, bool exact)
{
    struct text text = {0};
    text.file = open_memstream(&text.data, &text.len);
    assert_non_null(text.file);
    say(w, &text, dir, "", exact);
    fclose(text.file);
    return text.data;
}

/* ---- copying and removing */

struct copied {
    struct {
        uint64_t ino;
        char path[256];
    } files[4000];
    size_t n;
};

static void copy_bytes(struct world *w, const char *from, const char *dir, const char *name,
                       const char *to)
{
    char data[64] = "";
    uint64_t offsets[8], lengths[8], size, handle, ino, chunk;
    size_t n = 0;
    Tarn__Where where = at(from);
    Tarn__FileMap m = TARN__FILE_MAP__INIT;
    m.where = &where;
    assert_int_equal(tree_query(w, OP_FILE_MAP, &m.base, &m.ctx), 0);
    Tarn__FileMapReply *reply = world_reply(w, &tarn__file_map_reply__descriptor);
    assert_in_range(snprintf(data, sizeof data, "%.*s", (int)reply->data.len,
                             (const char *)reply->data.data),
                    0, sizeof data - 1);
    size = reply->attr->size;
    for (size_t i = 0; i < reply->n_extents && n < ARRAY_SIZE(offsets); i++)
        if (reply->extents[i]->offset < size) {
            lengths[n] = MIN(reply->extents[i]->length, size - reply->extents[i]->offset);
            offsets[n++] = reply->extents[i]->offset;
        }
    assert_int_equal(tree_put(w, dir, name, data), 0);
    for (size_t i = 0; i < n; i++) { /* closed each time: that seals it with its length */
        assert_int_equal(tree_open(w, to, &handle, &ino), 0);
        assert_int_equal(tree_write(w, ino, offsets[i] / SLOT, lengths[i], &chunk), 0);
        assert_int_equal(world_close(w, handle), 0);
    }
    if (n > 0 || size != strlen(data))
        assert_int_equal(tree_truncate(w, to, size), 0);
}

static void copy_xattr(struct world *w, const char *from, const char *to)
{
    Tarn__Where where = at(from);
    Tarn__GetXattr m = TARN__GET_XATTR__INIT;
    m.where = &where;
    m.name = "user.t";
    char value[32];
    if (tree_query(w, OP_GETXATTR, &m.base, &m.ctx) != 0)
        return;
    Tarn__GetXattrReply *reply = world_reply(w, &tarn__get_xattr_reply__descriptor);
    snprintf(value, sizeof value, "%.*s", (int)reply->pairs[0]->value.len,
             (const char *)reply->pairs[0]->value.data);
    assert_int_equal(tree_xattr(w, to, value), 0);
}

static void copy_mode(struct world *w, const char *to, uint32_t mode)
{
    Tarn__Where where = at(to);
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.where = &where;
    m.mask = TARN__SET_ATTR_BITS__SA_MODE;
    m.mode = mode;
    assert_int_equal(world_apply(w, OP_SETATTR, &m.base, &m.ctx), 0);
}

static void copy_below(struct world *w, const char *from, const char *to, struct copied *copied)
{
    struct listed *l = list(w, from);
    for (size_t i = 0; i < l->n; i++) {
        char source[256], target[256];
        const char *name = l->entries[i].name, *first = NULL;
        assert_in_range(snprintf(source, sizeof source, "%s/%s", from, name), 1, 255);
        assert_in_range(snprintf(target, sizeof target, "%s/%s", to, name), 1, 255);
        if (l->entries[i].type == TARN__FILE_TYPE__FT_DIR) {
            assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, to, name, l->entries[i].mode),
                             0);
            copy_xattr(w, source, target);
            copy_below(w, source, target, copied);
            continue;
        }
        for (size_t j = 0; j < copied->n && first == NULL; j++)
            first = copied->files[j].ino == l->entries[i].ino ? copied->files[j].path : NULL;
        if (first != NULL) {
            assert_int_equal(world_link(w, first, to, name), 0);
            continue;
        }
        assert_true(copied->n < ARRAY_SIZE(copied->files));
        copied->files[copied->n].ino = l->entries[i].ino;
        memcpy(copied->files[copied->n++].path, target, sizeof target);
        copy_bytes(w, source, to, name, target);
        copy_xattr(w, source, target);
        copy_mode(w, target, l->entries[i].mode);
    }
    free(l);
}

void tree_copy(struct world *w, const char *from, const char *to_parent, const char *name)
{
    char to[256];
    struct copied *copied = calloc(1, sizeof *copied);
    assert_non_null(copied);
    assert_int_equal(world_make(w, TARN__FILE_TYPE__FT_DIR, to_parent, name, 0755), 0);
    snprintf(to, sizeof to, "%s/%s", strcmp(to_parent, "/") == 0 ? "" : to_parent, name);
    copy_below(w, from, to, copied);
    free(copied);
}

void tree_remove_below(struct world *w, const char *dir)
{
    struct listed *l = list(w, dir);
    for (size_t i = 0; i < l->n; i++) {
        char path[512];
        bool inner = l->entries[i].type == TARN__FILE_TYPE__FT_DIR;
        snprintf(path, sizeof path, "%s/%s", dir, l->entries[i].name);
        if (inner)
            tree_remove_below(w, path);
        assert_int_equal(world_unlink(w, dir, l->entries[i].name, inner), 0);
    }
    free(l);
}

void tree_settle(struct world *w, const uint32_t *nodes, unsigned n)
{
    bool more = true;
    while (more) {
        more = world_work(w);
        for (unsigned i = 0; i < n; i++)
            more |= world_do_tasks(w, nodes[i], 7, 100) > 0;
    }
}

static int count(void *arg, struct kv_val key, struct kv_val value)
{
    ++*(uint64_t *)arg;
    return 0;
}

uint64_t tree_rows(struct world *w, enum table table)
{
    struct kv_txn *txn;
    uint64_t n = 0;
    struct key prefix = key_table(table);
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(kv_scan(txn, prefix.data, prefix.len, prefix.data, prefix.len, count, &n), 0);
    kv_abort(txn);
    return n;
}
