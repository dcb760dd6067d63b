#include "world.h"

#include "common/crc.h"
#include "metadata/check.h"
#include "metadata/kv.h"

#include <stdio.h>

static ProtobufCMessage *last_reply;

void world_init(struct world *w)
{
    *w = (struct world){.now = 1700000000000000000ull, .seed = 1};
    struct kv_txn *txn;
    assert_int_equal(kv_mem_open(&w->kv), 0);
    assert_int_equal(kv_begin(w->kv, true, &txn), 0);
    assert_int_equal(fsm_init(txn), 0);
    assert_int_equal(kv_commit(txn), 0);
    w->session = world_session(w, "first");
}

static void tell(void *arg, const char *rule, const char *sentence)
{
    fprintf(stderr, "%s: %s\n", rule, sentence);
}

void world_check(struct world *w)
{
    struct kv_txn *txn;
    struct check_summary summary;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(check_tables(txn, tell, NULL, &summary), 0);
    kv_abort(txn);
    assert_int_equal(summary.violations, 0);
}

void world_fini(struct world *w)
{
    world_check(w);
    if (last_reply != NULL)
        protobuf_c_message_free_unpacked(last_reply, NULL);
    last_reply = NULL;
    fsm_result_fini(&w->result);
    map_fini(&w->packed);
    kv_close(w->kv);
}

static uint8_t *pack(const ProtobufCMessage *message, size_t *ret_len)
{
    *ret_len = protobuf_c_message_get_packed_size(message);
    uint8_t *body = malloc(*ret_len + 1);
    assert_non_null(body);
    protobuf_c_message_pack(message, body);
    return body;
}

int world_apply(struct world *w, unsigned op, ProtobufCMessage *message, Tarn__Ctx **ctx)
{
    Tarn__Ctx filled = TARN__CTX__INIT;
    if (ctx != NULL && *ctx == NULL) {
        filled.session = w->session;
        filled.seq = ++w->seq;
        filled.acked = w->seq > 8 ? w->seq - 8 : 0;
        filled.uid = w->uid;
        filled.gid = w->gid;
        filled.groups = w->groups;
        filled.n_groups = w->n_groups;
        *ctx = &filled;
    }
    struct fsm_command command = {
        .index = ++w->index, .op = op, .real_ns = w->now += 1000, .seed = w->seed++};
    command.body = pack(message, &command.body_len);
    struct kv_txn *txn;
    fsm_result_fini(&w->result);
    assert_int_equal(kv_begin(w->kv, true, &txn), 0);
    int err = fsm_apply(txn, &command, &w->result);
    assert_int_equal(err, 0);
    assert_int_equal(kv_commit(txn), 0);
    free((void *)command.body);
    if (ctx != NULL && *ctx == &filled)
        *ctx = NULL;
    return w->result.err;
}

int world_query(struct world *w, unsigned op, ProtobufCMessage *message, Tarn__Ctx **ctx)
{
    Tarn__Ctx filled = TARN__CTX__INIT;
    filled.session = w->session;
    filled.uid = w->uid;
    filled.gid = w->gid;
    filled.groups = w->groups;
    filled.n_groups = w->n_groups;
    *ctx = &filled;
    size_t len;
    uint8_t *body = pack(message, &len);
    struct kv_txn *txn;
    fsm_result_fini(&w->result);
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(fsm_query(txn, op, body, len, &w->result), 0);
    kv_abort(txn);
    free(body);
    *ctx = NULL;
    return w->result.err;
}

void *world_reply(struct world *w, const ProtobufCMessageDescriptor *type)
{
    if (last_reply != NULL)
        protobuf_c_message_free_unpacked(last_reply, NULL);
    assert_non_null(w->result.reply);
    last_reply = protobuf_c_message_unpack(type, NULL, w->result.reply_len, w->result.reply);
    assert_non_null(last_reply);
    return last_reply;
}

uint64_t world_session(struct world *w, const char *uuid)
{
    Tarn__SessionOpen m = TARN__SESSION_OPEN__INIT;
    m.uuid = (ProtobufCBinaryData){.data = (uint8_t *)uuid, .len = strlen(uuid)};
    m.name = "test";
    assert_int_equal(world_apply(w, OP_SESSION_OPEN, &m.base, NULL), 0);
    Tarn__SessionOpenReply *reply = world_reply(w, &tarn__session_open_reply__descriptor);
    return reply->session;
}

static Tarn__Where where(const char *path)
{
    Tarn__Where at = TARN__WHERE__INIT;
    at.path = (char *)path;
    return at;
}

Tarn__Where world_where(const char *path)
{
    Tarn__Where at = where(path);
    at.nofollow = true;
    return at;
}

int world_make(struct world *w, Tarn__FileType type, const char *dir, const char *name,
               uint32_t mode)
{
    Tarn__Where parent = where(dir);
    Tarn__Create m = TARN__CREATE__INIT;
    m.parent = &parent;
    m.name = (char *)name;
    m.type = type;
    m.mode = mode;
    m.exclusive = true;
    return world_apply(w, OP_CREATE, &m.base, &m.ctx);
}

int world_symlink(struct world *w, const char *dir, const char *name, const char *target)
{
    Tarn__Where parent = where(dir);
    Tarn__Create m = TARN__CREATE__INIT;
    m.parent = &parent;
    m.name = (char *)name;
    m.type = TARN__FILE_TYPE__FT_SYMLINK;
    m.target = (char *)target;
    return world_apply(w, OP_CREATE, &m.base, &m.ctx);
}

int world_unlink(struct world *w, const char *dir, const char *name, bool directory)
{
    Tarn__Where parent = where(dir);
    Tarn__Unlink m = TARN__UNLINK__INIT;
    m.parent = &parent;
    m.name = (char *)name;
    m.directory = directory;
    return world_apply(w, OP_UNLINK, &m.base, &m.ctx);
}

int world_delete_object(struct world *w, const char *dir, const char *name)
{
    Tarn__Where parent = where(dir);
    Tarn__Unlink m = TARN__UNLINK__INIT;
    m.parent = &parent;
    m.name = (char *)name;
    m.prune = true;
    return world_apply(w, OP_UNLINK, &m.base, &m.ctx);
}

int world_rename(struct world *w, const char *from, const char *from_name, const char *to,
                 const char *to_name, uint32_t flags)
{
    Tarn__Where a = where(from), b = where(to);
    Tarn__Rename m = TARN__RENAME__INIT;
    m.from = &a;
    m.from_name = (char *)from_name;
    m.to = &b;
    m.to_name = (char *)to_name;
    m.flags = flags;
    return world_apply(w, OP_RENAME, &m.base, &m.ctx);
}

int world_link(struct world *w, const char *target, const char *dir, const char *name)
{
    Tarn__Where a = where(target), b = where(dir);
    a.nofollow = true;
    Tarn__Link m = TARN__LINK__INIT;
    m.target = &a;
    m.parent = &b;
    m.name = (char *)name;
    return world_apply(w, OP_LINK, &m.base, &m.ctx);
}

int world_lookup(struct world *w, const char *path, Tarn__Attr **ret)
{
    Tarn__Where at = where(path);
    at.nofollow = true;
    Tarn__Lookup m = TARN__LOOKUP__INIT;
    m.where = &at;
    int err = world_query(w, OP_LOOKUP, &m.base, &m.ctx);
    if (err == 0 && ret != NULL)
        *ret = ((Tarn__LookupReply *)world_reply(w, &tarn__lookup_reply__descriptor))->attr;
    return err;
}

int world_open(struct world *w, const char *path, uint32_t flags, uint64_t *ret_handle)
{
    Tarn__Where at = where(path);
    Tarn__Open m = TARN__OPEN__INIT;
    m.where = &at;
    m.flags = flags;
    int err = world_apply(w, OP_OPEN, &m.base, &m.ctx);
    if (err == 0)
        *ret_handle = ((Tarn__Entry *)world_reply(w, &tarn__entry__descriptor))->handle;
    return err;
}

int world_close(struct world *w, uint64_t handle)
{
    Tarn__Close m = TARN__CLOSE__INIT;
    m.handle = handle;
    return world_apply(w, OP_CLOSE, &m.base, &m.ctx);
}

int world_object(struct world *w, const char *dir, const char *path, const char *data)
{
    Tarn__Where parent = where(dir);
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    object.parent = &parent;
    object.path = (char *)path;
    object.data = (ProtobufCBinaryData){.data = (uint8_t *)data, .len = strlen(data)};
    Tarn__ObjectCommit m = TARN__OBJECT_COMMIT__INIT;
    m.object = &object;
    return world_apply(w, OP_OBJECT_COMMIT, &m.base, &m.ctx);
}

uint32_t world_node(struct world *w, const char *name, const char *rack)
{
    Tarn__Node node = TARN__NODE__INIT;
    node.host = (char *)name;
    node.rack = (char *)rack;
    node.address = "tcp:127.0.0.1:1";
    node.total = node.free = 1ull << 40;
    Tarn__NodeJoin m = TARN__NODE_JOIN__INIT;
    m.node = &node;
    m.uuid = (ProtobufCBinaryData){.data = (uint8_t *)name, .len = strlen(name)};
    assert_int_equal(world_apply(w, OP_NODE_JOIN, &m.base, NULL), 0);
    return ((Tarn__NodeJoinReply *)world_reply(w, &tarn__node_join_reply__descriptor))->id;
}

void world_node_set(struct world *w, uint32_t node, bool up)
{
    Tarn__NodeSet m = TARN__NODE_SET__INIT;
    m.node = node;
    m.up = up;
    assert_int_equal(world_apply(w, OP_NODE_SET, &m.base, NULL), 0);
}

/* The container as a store makes it: one piece behind the other, half as long where it is compressed. */
static void pack_container(struct world *w, const Tarn__ChunkTask *task, Tarn__ChunkTaskDone *done)
{
    done->length = 0;
    for (size_t i = 0; i < task->n_pieces; i++) {
        Tarn__Piece *piece = task->pieces[i];
        bool zstd = piece->form == TARN__CHUNK_FORM__FORM_ZSTD, whole = piece->chunk == piece->piece;
        bool compress = !zstd && piece->level != 0 && piece->level != 255;
        if (compress && w->incompressible && whole && task->n_pieces == 1)
            return; /* no gain */
        if (piece->n_from == 0)
            continue;
        if (compress && !w->incompressible) {
            piece->form = TARN__CHUNK_FORM__FORM_ZSTD;
            piece->stored = (piece->content + 1) / 2;
        } else if (zstd && piece->level == 255) {
            piece->form = TARN__CHUNK_FORM__FORM_RAW;
            piece->stored = piece->content;
        }
        piece->offset = done->length;
        done->length += piece->stored;
        done->pieces[done->n_pieces++] = piece;
    }
    done->status = done->n_pieces == 0 ? E_UNAVAIL : 0;
    assert_int_equal(map_put(&w->packed, task->chunk, (void *)(done->length + 1)), 0);
}

unsigned world_do_tasks(struct world *w, uint32_t node, uint32_t digest, uint64_t length)
{
    struct kv_txn *txn;
    uint8_t *packed;
    size_t len;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(fsm_node_tasks(txn, node, 1000, &packed, &len), 0);
    kv_abort(txn);
    Tarn__NodeBeatReply *beat = tarn__node_beat_reply__unpack(NULL, len, packed);
    free(packed);
    assert_non_null(beat);
    unsigned count = (unsigned)beat->n_tasks;
    for (size_t i = 0; i < beat->n_tasks; i++) {
        const Tarn__ChunkTask *task = beat->tasks[i];
        Tarn__ChunkTaskDone done = TARN__CHUNK_TASK_DONE__INIT, *one[] = {&done};
        done.id = task->id;
        done.chunk = task->chunk;
        done.generation = task->generation;
        done.kind = task->kind;
        bool no_source = task->kind == TARN__CHUNK_TASK__KIND__COPY && task->n_from == 0;
        done.status = no_source ? E_UNAVAIL : 0;
        done.length = length == UINT64_MAX ? task->length : length;
        done.digest = digest;
        uintptr_t made = (uintptr_t)map_get(&w->packed, task->chunk);
        if (made != 0)
            done.length = made - 1;
        Tarn__Piece *pieces[512];
        done.pieces = pieces;
        if (task->kind == TARN__CHUNK_TASK__KIND__PACK)
            pack_container(w, task, &done);
        Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
        m.node = node;
        m.n_done = 1;
        m.done = one;
        assert_int_equal(world_apply(w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
    }
    tarn__node_beat_reply__free_unpacked(beat, NULL);
    return count;
}

Tarn__StatusReply *world_status(struct world *w)
{
    Tarn__Status m = TARN__STATUS__INIT;
    assert_int_equal(world_query(w, OP_STATUS, &m.base, &m.ctx), 0);
    return world_reply(w, &tarn__status_reply__descriptor);
}

bool world_work(struct world *w)
{
    struct kv_txn *txn;
    bool due = false;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(fsm_work_due(txn, w->now, &due), 0);
    kv_abort(txn);
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    if (due)
        assert_int_equal(world_apply(w, OP_CHUNK_TASKS_DONE, &m.base, NULL), 0);
    return due;
}

static int dump_sink(void *arg, const void *data, size_t n)
{
    uint32_t *crc = arg;
    *crc = crc32c(*crc, data, n);
    return 0;
}

uint32_t world_dump(struct world *w)
{
    struct kv_txn *txn;
    uint32_t crc = 0;
    assert_int_equal(kv_begin(w->kv, false, &txn), 0);
    assert_int_equal(kv_dump(txn, dump_sink, &crc), 0);
    kv_abort(txn);
    return crc;
}
