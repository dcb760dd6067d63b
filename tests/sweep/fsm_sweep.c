/* Every allocation of every command fails once: the 1st, the 2nd, … until none was reached. While memory is short a command is
 * not carried out at all (fsm_apply() fails, the tables are as before, the replica tries again): no replica may give
 * another answer than the others because it had less memory. Queries say NOMEM. Nothing leaks. */
#include "fail_alloc.h"

#include "common/crc.h"
#include "common/err.h"
#include "common/log.h"
#include "meta.pb-c.h"
#include "metadata/check.h"
#include "metadata/command.h"
#include "metadata/fsm.h"
#include "ops.h"

#include <fcntl.h>
#include <stdio.h>

#define SWEEP_MAX 100000
#define FILE_INO 4 /* of /d/f: the root, /jobs and /d come before */

struct sweep {
    struct kv *kv;
    uint64_t index, seq;
    unsigned commands, failures;
};

static _Noreturn void broken(const char *what, unsigned op, uint64_t n)
{
    fprintf(stderr, "operation %u (%s), allocation %llu: %s\n", op, command_find(op)->name, (unsigned long long)n, what);
    exit(1);
}

static void need(bool good)
{
    if (!good)
        abort();
}

static int digest_piece(void *arg, const void *data, size_t n)
{
    uint32_t *crc = arg;
    *crc = crc32c(*crc, data, n);
    return 0;
}

static uint32_t digest(struct sweep *s)
{
    struct kv_txn *txn;
    uint32_t crc = 0;
    need(kv_begin(s->kv, false, &txn) == 0 && kv_dump(txn, digest_piece, &crc) == 0);
    kv_abort(txn);
    return crc;
}

static void check(struct sweep *s)
{
    struct kv_txn *txn;
    struct check_summary summary;
    need(kv_begin(s->kv, false, &txn) == 0 && check_tables(txn, NULL, NULL, &summary) == 0);
    kv_abort(txn);
    need(summary.violations == 0);
}

/* ---- one command, again and again */

/* True when the allocation was reached. */
static bool apply_once(struct sweep *s, const struct fsm_command *command, uint64_t n, int expected)
{
    struct fsm_result result = {0};
    struct kv_txn *txn;
    uint32_t before = digest(s);
    uint64_t live = fail_alloc_live();
    need(kv_begin(s->kv, true, &txn) == 0);
    fail_alloc_arm(n);
    int err = fsm_apply(txn, command, &result);
    bool reached = fail_alloc_disarm();
    if (err != 0) {
        if (!reached || err != -E_NOMEM)
            broken("an unexpected failure", command->op, n);
        kv_abort(txn);
        if (digest(s) != before)
            broken("the tables have changed", command->op, n);
        if (fail_alloc_live() != live)
            broken("memory is leaked", command->op, n);
        s->failures++;
        return true;
    }
    if (result.err != expected)
        broken(result.detail[0] != 0 ? result.detail : err_name(result.err), command->op, n);
    if (reached) { /* it did without */
        kv_abort(txn);
        fsm_result_fini(&result);
        s->failures++;
        return true;
    }
    need(kv_commit(txn) == 0);
    fsm_result_fini(&result);
    return false;
}

static void apply_expect(struct sweep *s, unsigned op, const ProtobufCMessage *message, int expected)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *body = malloc(len + 1);
    need(body != NULL);
    protobuf_c_message_pack(message, body);
    struct fsm_command command = {
        .index = ++s->index, .op = op, .real_ns = 1700000000000000000 + s->index, .seed = s->index, .body = body, .body_len = len};
    uint64_t n = 1;
    while (apply_once(s, &command, n, expected) && n < SWEEP_MAX)
        n++;
    need(n < SWEEP_MAX);
    free(body);
    s->commands++;
    check(s);
}

static Tarn__Ctx *ctx(struct sweep *s)
{
    static Tarn__Ctx one;
    tarn__ctx__init(&one);
    one.session = 1;
    one.seq = ++s->seq;
    one.acked = s->seq - 1;
    return &one;
}

static void query(struct sweep *s, unsigned op, const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *body = malloc(len + 1);
    need(body != NULL);
    protobuf_c_message_pack(message, body);
    bool reached = true;
    for (uint64_t n = 1; reached && n < SWEEP_MAX; n++) {
        struct fsm_result result = {0};
        struct kv_txn *txn;
        uint64_t live = fail_alloc_live();
        need(kv_begin(s->kv, false, &txn) == 0);
        fail_alloc_arm(n);
        int err = fsm_query(txn, op, body, len, &result);
        reached = fail_alloc_disarm();
        kv_abort(txn);
        int said = err != 0 ? err : result.err;
        if (said != 0 && (!reached || said != -E_NOMEM))
            broken(err_name(said), op, n);
        fsm_result_fini(&result);
        if (fail_alloc_live() != live)
            broken("memory is leaked", op, n);
        s->failures += reached;
    }
    free(body);
    s->commands++;
}

/* ---- the script: a bit of everything */

static void sessions_and_nodes(struct sweep *s)
{
    uint8_t uuid[16] = {1};
    for (unsigned i = 1; i <= 3; i++) {
        Tarn__Node node = TARN__NODE__INIT;
        Tarn__NodeJoin join = TARN__NODE_JOIN__INIT;
        uuid[0] = (uint8_t)i;
        node.host = node.machine = "h";
        node.rack = i == 1 ? "r1" : "r2";
        node.address = "tcp:h:1";
        node.total = node.free = GIB(100);
        join.node = &node;
        join.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
        apply_expect(s, OP_NODE_JOIN, &join.base, 0);
    }
    Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
    open.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
    open.name = "sweep";
    apply_expect(s, OP_SESSION_OPEN, &open.base, 0);
}

static void create(struct sweep *s, char *dir, char *name, Tarn__FileType type, bool open, int expected)
{
    Tarn__Where parent = TARN__WHERE__INIT;
    Tarn__Create m = TARN__CREATE__INIT;
    parent.path = dir;
    m.ctx = ctx(s);
    m.parent = &parent;
    m.name = name;
    m.type = type;
    m.mode = 0755;
    m.target = type == TARN__FILE_TYPE__FT_SYMLINK ? "/d/f" : "";
    m.exclusive = true;
    m.open = open;
    m.open_flags = O_RDWR;
    apply_expect(s, OP_CREATE, &m.base, expected);
}

static void names(struct sweep *s)
{
    Tarn__Where dir = TARN__WHERE__INIT, file = TARN__WHERE__INIT, root = TARN__WHERE__INIT;
    dir.path = "/d";
    file.path = "/d/f";
    create(s, "/", "d", TARN__FILE_TYPE__FT_DIR, false, 0);
    create(s, "/d", "f", TARN__FILE_TYPE__FT_FILE, true, 0);
    create(s, "/d", "f", TARN__FILE_TYPE__FT_FILE, false, -E_EXIST);
    create(s, "/d", "l", TARN__FILE_TYPE__FT_SYMLINK, false, 0);
    create(s, "/nowhere", "f", TARN__FILE_TYPE__FT_FILE, false, -E_NOENT);
    Tarn__Link link = TARN__LINK__INIT;
    link.ctx = ctx(s);
    link.target = &file;
    link.parent = &root;
    link.name = "second";
    apply_expect(s, OP_LINK, &link.base, 0);
    Tarn__Rename rename = TARN__RENAME__INIT;
    rename.ctx = ctx(s);
    rename.from = &root;
    rename.from_name = "second";
    rename.to = &dir;
    rename.to_name = "third";
    apply_expect(s, OP_RENAME, &rename.base, 0);
    Tarn__SetXattr xattr = TARN__SET_XATTR__INIT;
    xattr.ctx = ctx(s);
    xattr.where = &file;
    xattr.name = "user.colour";
    xattr.value = (ProtobufCBinaryData){.data = (uint8_t *)"blue", .len = 4};
    apply_expect(s, OP_SETXATTR, &xattr.base, 0);
    Tarn__SetAttr set = TARN__SET_ATTR__INIT;
    set.ctx = ctx(s);
    set.where = &file;
    set.mask = TARN__SET_ATTR_BITS__SA_SIZE | TARN__SET_ATTR_BITS__SA_MODE;
    set.mode = 0600;
    set.size = 1000;
    apply_expect(s, OP_SETATTR, &set.base, 0);
    Tarn__Unlink unlink = TARN__UNLINK__INIT;
    unlink.ctx = ctx(s);
    unlink.parent = &dir;
    unlink.name = "third";
    apply_expect(s, OP_UNLINK, &unlink.base, 0);
}

static void locks(struct sweep *s)
{
    for (unsigned i = 0; i < 4; i++) { /* a holder, two that wait, the holder goes */
        Tarn__Lock lock = TARN__LOCK__INIT;
        lock.ctx = ctx(s);
        lock.ino = FILE_INO;
        lock.type = i == 3 ? TARN__LOCK_TYPE__LOCK_UN : TARN__LOCK_TYPE__LOCK_EX;
        lock.end = UINT64_MAX;
        lock.owner = i % 3;
        lock.wait = i == 1 || i == 2;
        lock.waiter = lock.wait ? i : 0;
        apply_expect(s, OP_LOCK, &lock.base, 0);
    }
}

static void chunks_and_objects(struct sweep *s)
{
    Tarn__ChunkWrite write = TARN__CHUNK_WRITE__INIT;
    write.ctx = ctx(s);
    write.ino = FILE_INO;
    apply_expect(s, OP_CHUNK_WRITE, &write.base, 0);
    Tarn__UploadChunk upload = TARN__UPLOAD_CHUNK__INIT;
    upload.ctx = ctx(s);
    upload.copies = 3;
    apply_expect(s, OP_UPLOAD_CHUNK, &upload.base, 0);
    uint64_t length = 1000;
    Tarn__UploadPart part = TARN__UPLOAD_PART__INIT, *parts = &part;
    Tarn__NewObject object = TARN__NEW_OBJECT__INIT;
    Tarn__ObjectCommit commit = TARN__OBJECT_COMMIT__INIT;
    part.upload = 1;
    part.lengths = &length;
    part.n_lengths = 1;
    object.path = "d/deep/er/object";
    object.parts = &parts;
    object.n_parts = 1;
    commit.ctx = ctx(s);
    commit.object = &object;
    apply_expect(s, OP_OBJECT_COMMIT, &commit.base, 0);
}

static void batches(struct sweep *s)
{
    Tarn__Where root = TARN__WHERE__INIT;
    Tarn__Create one = TARN__CREATE__INIT;
    Tarn__BatchItem first = TARN__BATCH_ITEM__INIT, again = TARN__BATCH_ITEM__INIT, *items[] = {&first, &again};
    Tarn__Batch batch = TARN__BATCH__INIT;
    one.parent = &root;
    one.name = "batched";
    one.type = TARN__FILE_TYPE__FT_FILE;
    one.exclusive = true;
    first.create = again.create = &one;
    batch.ctx = ctx(s);
    batch.items = items;
    batch.n_items = ARRAY_SIZE(items);
    apply_expect(s, OP_BATCH, &batch.base, 0);
}

static void queries(struct sweep *s)
{
    Tarn__Where dir = TARN__WHERE__INIT;
    dir.path = "/d";
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    lookup.where = &dir;
    query(s, OP_LOOKUP, &lookup.base);
    Tarn__ReadDir list = TARN__READ_DIR__INIT;
    list.where = &dir;
    list.max = 100;
    list.attrs = true;
    query(s, OP_READDIR, &list.base);
    Tarn__ListObjects objects = TARN__LIST_OBJECTS__INIT;
    objects.bucket = &dir;
    objects.max = 100;
    query(s, OP_LIST_OBJECTS, &objects.base);
    dir.path = "/d/deep/er/object";
    Tarn__FileMap map = TARN__FILE_MAP__INIT;
    map.where = &dir;
    query(s, OP_FILE_MAP, &map.base);
    char *path = "/d";
    Tarn__Locations locations = TARN__LOCATIONS__INIT;
    locations.paths = &path;
    locations.n_paths = 1;
    locations.recursive = true;
    locations.max = 100;
    query(s, OP_LOCATIONS, &locations.base);
    Tarn__Status status = TARN__STATUS__INIT;
    query(s, OP_STATUS, &status.base);
}

static void the_end(struct sweep *s)
{
    Tarn__SessionEnd end = TARN__SESSION_END__INIT;
    end.session = 1;
    end.ctx = ctx(s);
    apply_expect(s, OP_SESSION_END, &end.base, 0);
}

int main(void)
{
    struct sweep s = {0};
    struct kv_txn *txn;
    log_init("sweep");
    log_set_level(LOG_OFF);
    need(kv_mem_open(&s.kv) == 0 && kv_begin(s.kv, true, &txn) == 0 && fsm_init(txn) == 0 && kv_commit(txn) == 0);
    sessions_and_nodes(&s);
    names(&s);
    locks(&s);
    chunks_and_objects(&s);
    batches(&s);
    queries(&s);
    the_end(&s);
    kv_close(s.kv);
    printf("%u commands and queries, %u allocations failed\n", s.commands, s.failures);
    return s.failures > 300 ? 0 : 1;
}
