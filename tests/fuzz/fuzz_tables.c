/* Long runs of commands against one set of tables. The input is a row of choices: which operation, which fields, which
 * values; the messages are made from their descriptors, so every operation of metadata/command.c, also one that is added tomorrow, is
 * tried with well-formed messages whose numbers mostly name something that exists; some are damaged after packing. Whatever comes:
 * each command is answered, the consistency checker finds nothing, and a second set of tables that is given the same
 * commands becomes equal byte for byte. */
#include "fuzz.h"

#include "common/check.h"
#include "common/crc.h"
#include "common/prng.h"
#include "meta.pb-c.h"
#include "metadata/check.h"
#include "metadata/command.h"
#include "metadata/fsm.h"
#include "ops.h"

#include <fcntl.h>
#include <stdio.h>

#define COMMANDS_MAX 250
#define OPS 128
#define DEPTH_MAX 4
#define REPEATED_MAX 3
#define CHECK_EVERY 32
#define NODES 4
#define SESSIONS 3

/* The choices: the input's bytes, and after its end what is drawn from all of them, so that each mutation goes its own way. */
struct choices {
    const uint8_t *at, *end;
    struct prng more;
};
struct world {
    struct choices choices;
    struct kv *kv[2];
    uint64_t index, now, seq;
};

static unsigned byte(struct choices *c)
{
    return c->at < c->end ? *c->at++ : (unsigned)prng_below(&c->more, 256);
}

static unsigned draw(struct choices *c, unsigned bound)
{
    return bound <= 256 ? byte(c) % bound : (byte(c) << 8 | byte(c)) % bound;
}

/* ---- messages */

static uint64_t number(struct choices *c)
{
    unsigned how = byte(c);
    if (how < 230)
        return how % 12;
    if (how < 240)
        return UINT64_C(1) << draw(c, 64);
    if (how < 248)
        return UINT64_MAX - draw(c, 4);
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | byte(c);
    return v;
}

/* Fields of which a small number is seldom right. */
static uint64_t number_named(struct world *w, const char *name)
{
    static const uint32_t open_flags[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC, O_DIRECTORY, O_RDWR | O_DIRECTORY};
    struct choices *c = &w->choices;
    if (strcmp(name, "seq") == 0 && draw(c, 16) != 0)
        return ++w->seq;
    if (strcmp(name, "session") == 0 && draw(c, 16) != 0)
        return 1 + draw(c, SESSIONS);
    if ((strcmp(name, "uid") == 0 || strcmp(name, "acked") == 0 || strcmp(name, "rdev") == 0) && draw(c, 8) != 0)
        return 0;
    if ((strcmp(name, "node") == 0 || strcmp(name, "disk") == 0) && draw(c, 8) != 0)
        return 1 + draw(c, NODES);
    if (strcmp(name, "mode") == 0)
        return draw(c, 010000);
    if (strcmp(name, "mask") == 0)
        return draw(c, 4096);
    if (strcmp(name, "role_epoch") == 0 && draw(c, 8) != 0)
        return 1;
    if (strcmp(name, "flags") == 0 && draw(c, 2) == 0)
        return draw(c, 4);
    if (strcmp(name, "flags") == 0 || strcmp(name, "open_flags") == 0)
        return draw(c, 8) != 0 ? open_flags[draw(c, ARRAY_SIZE(open_flags))] : draw(c, 65536);
    if (strcmp(name, "total") == 0 || strcmp(name, "free") == 0)
        return GIB(1) * draw(c, 256);
    if ((strcmp(name, "size") == 0 || strcmp(name, "length") == 0 || strcmp(name, "lengths") == 0 || strcmp(name, "offset") == 0) && draw(c, 4) != 0)
        return (uint64_t)draw(c, 4) * MIB(32) + draw(c, 3);
    return number(c);
}

static const char *const names[] = {"a", "b", "c", "d", "", ".", "..", "%self", "user.x", "trusted.y", "security.capability",
                                    "system.posix_acl_access", "system.posix_acl_default", "allocator", "/", "a/b", "/a", "/a/b", "a/./../b//c", "/b/c/d"};

static char *text(struct choices *c, const char *field)
{
    unsigned how = byte(c);
    char *long_one;
    if (strcmp(field, "name") == 0 && how < 160)
        return strdup(names[how % 4]);
    if (how < 240)
        return strdup(names[how % ARRAY_SIZE(names)]);
    size_t n = draw(c, 600);
    long_one = malloc(n + 1);
    CHECK(long_one != NULL);
    memset(long_one, 'x', n);
    long_one[n] = '\0';
    return long_one;
}

static void bytes(struct choices *c, ProtobufCBinaryData *out)
{
    static const uint16_t lengths[] = {0, 1, 4, 16, 28, 32, 64, 4096, 4097};
    out->len = draw(c, 4) == 0 ? draw(c, 5000) : lengths[draw(c, ARRAY_SIZE(lengths))];
    out->data = malloc(out->len + 1);
    CHECK(out->data != NULL);
    memset(out->data, (int)byte(c), out->len + 1);
    for (size_t i = 0; i < MIN(out->len, (size_t)32); i++)
        out->data[i] = (uint8_t)byte(c);
}

static ProtobufCMessage *message(struct world *w, const ProtobufCMessageDescriptor *type, unsigned depth);

static void value(struct world *w, const ProtobufCFieldDescriptor *field, void *at, unsigned depth)
{
    struct choices *c = &w->choices;
    switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at = draw(c, 4) == 0;
        break;
    case PROTOBUF_C_TYPE_STRING:
        *(char **)at = text(c, field->name);
        break;
    case PROTOBUF_C_TYPE_BYTES:
        bytes(c, at);
        break;
    case PROTOBUF_C_TYPE_MESSAGE:
        *(ProtobufCMessage **)at = message(w, field->descriptor, depth + 1);
        break;
    case PROTOBUF_C_TYPE_ENUM:
        *(int *)at = (int)draw(c, 16) == 0 ? (int)number(c) : (int)draw(c, ((const ProtobufCEnumDescriptor *)field->descriptor)->n_values);
        break;
    case PROTOBUF_C_TYPE_UINT64:
        *(uint64_t *)at = number_named(w, field->name);
        break;
    default:
        *(uint32_t *)at = (uint32_t)number_named(w, field->name);
    }
}

static size_t size_of_value(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE:
    case PROTOBUF_C_TYPE_UINT64:
        return sizeof(uint64_t);
    default:
        return sizeof(uint32_t);
    }
}

static void repeated(struct world *w, const ProtobufCFieldDescriptor *field, char *base, unsigned depth)
{
    size_t n = draw(&w->choices, REPEATED_MAX + 1), size = size_of_value(field);
    char *array = calloc(n + 1, size);
    CHECK(array != NULL);
    for (size_t i = 0; i < n; i++)
        value(w, field, array + i * size, depth);
    if (n == 0) {
        free(array);
        array = NULL;
    }
    memcpy(base + field->offset, &array, sizeof(void *));
    memcpy(base + field->quantifier_offset, &n, sizeof n);
}

/* Something that is there, mostly. */
static ProtobufCMessage *where(struct world *w)
{
    static const char *const paths[] = {"", "", "a", "b", "c", "a/b", "a/c", "/b/a", "d", "a/b/c"};
    struct choices *c = &w->choices;
    Tarn__Where *m = malloc(sizeof *m);
    CHECK(m != NULL);
    tarn__where__init(m);
    m->ino = draw(c, 2) == 0 ? 0 : draw(c, 16);
    m->path = m->ino > 1 && draw(c, 4) != 0 ? strdup("") : strdup(paths[draw(c, ARRAY_SIZE(paths))]);
    m->nofollow = draw(c, 4) == 0;
    return &m->base;
}

static ProtobufCMessage *message(struct world *w, const ProtobufCMessageDescriptor *type, unsigned depth)
{
    if (type == &tarn__where__descriptor && draw(&w->choices, 8) != 0)
        return where(w);
    char *base = malloc(type->sizeof_message);
    CHECK(base != NULL);
    protobuf_c_message_init(type, base);
    for (unsigned i = 0; i < type->n_fields && depth < DEPTH_MAX; i++) {
        const ProtobufCFieldDescriptor *field = &type->fields[i];
        bool needed = strcmp(field->name, "ctx") == 0 || strcmp(field->name, "seq") == 0 || strcmp(field->name, "session") == 0 ||
                      strcmp(field->name, "name") == 0 || strcmp(field->name, "where") == 0;
        bool wanted = needed || draw(&w->choices, 3) != 0;
        if (field->label == PROTOBUF_C_LABEL_REPEATED && wanted)
            repeated(w, field, base, depth);
        else if (wanted)
            value(w, field, base + field->offset, depth);
    }
    return (ProtobufCMessage *)base;
}

/* ---- commands */

static void apply(struct world *w, unsigned op, const uint8_t *body, size_t len)
{
    uint32_t crc[2];
    w->now += 1 + number(&w->choices) % 100000000000;
    w->index++;
    for (unsigned i = 0; i < 2; i++) {
        struct fsm_command command = {.index = w->index, .op = op, .real_ns = w->now, .seed = w->index, .body = body, .body_len = len};
        struct fsm_result result = {0};
        struct kv_txn *txn;
        CHECK(kv_begin(w->kv[i], true, &txn) == 0);
        CHECK(fsm_apply(txn, &command, &result) == 0);
        CHECK((result.err == 0) == (result.reply != NULL));
        crc[i] = result.err == 0 ? crc32c(0, result.reply, result.reply_len) : (uint32_t)result.err;
        fsm_result_fini(&result);
        CHECK(kv_commit(txn) == 0);
    }
    CHECK(crc[0] == crc[1]);
}

static void apply_message(struct world *w, unsigned op, const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *body = malloc(len + 1);
    CHECK(body != NULL);
    protobuf_c_message_pack(m, body);
    if (len > 0 && draw(&w->choices, 8) == 1)
        body[draw(&w->choices, (unsigned)MIN(len, (size_t)65536))] ^= (uint8_t)byte(&w->choices);
    apply(w, op, body, len);
    free(body);
}

static void ask(struct world *w, unsigned op, const ProtobufCMessage *m)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    uint8_t *body = malloc(len + 1);
    struct fsm_result result = {0};
    struct kv_txn *txn;
    CHECK(body != NULL);
    protobuf_c_message_pack(m, body);
    CHECK(kv_begin(w->kv[0], false, &txn) == 0);
    CHECK(fsm_query(txn, op, body, len, &result) == 0);
    fsm_result_fini(&result);
    kv_abort(txn);
    free(body);
}

static void one_command(struct world *w)
{
    const struct command *command = command_find(byte(&w->choices) % OPS);
    if (command == NULL || (command->op == OP_SESSION_END && draw(&w->choices, 24) != 0))
        return;
    ProtobufCMessage *m = message(w, command->type, 0);
    if (command->flags & COMMAND_QUERY)
        ask(w, command->op, m);
    else
        apply_message(w, command->op, m);
    protobuf_c_message_free_unpacked(m, NULL);
}

/* /a and /b are directories, /a/a, /c and /d files, opened by session 1 for writing. */
static void furnish_tree(struct world *w)
{
    static const struct {
        const char *dir, *name;
        Tarn__FileType type;
    } made[] = {{"", "a", TARN__FILE_TYPE__FT_DIR},
                {"", "b", TARN__FILE_TYPE__FT_DIR},
                {"a", "a", TARN__FILE_TYPE__FT_FILE},
                {"", "c", TARN__FILE_TYPE__FT_FILE},
                {"", "d", TARN__FILE_TYPE__FT_FILE}};
    for (size_t i = 0; i < ARRAY_SIZE(made); i++) {
        Tarn__Ctx ctx = TARN__CTX__INIT;
        Tarn__Where parent = TARN__WHERE__INIT;
        Tarn__Create create = TARN__CREATE__INIT;
        ctx.session = 1;
        ctx.seq = ++w->seq;
        parent.path = (char *)(uintptr_t)made[i].dir;
        create.ctx = &ctx;
        create.parent = &parent;
        create.name = (char *)(uintptr_t)made[i].name;
        create.type = made[i].type;
        create.mode = 0777;
        create.open = made[i].type == TARN__FILE_TYPE__FT_FILE;
        create.open_flags = O_RDWR;
        apply_message(w, OP_CREATE, &create.base);
    }
}

/* Sessions, and nodes with room, so that chunks have places. */
static void furnish(struct world *w)
{
    for (unsigned i = 1; i <= SESSIONS; i++) {
        uint8_t uuid[16] = {(uint8_t)i};
        Tarn__SessionOpen open = TARN__SESSION_OPEN__INIT;
        open.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
        apply_message(w, OP_SESSION_OPEN, &open.base);
    }
    for (unsigned i = 1; i <= NODES; i++) {
        uint8_t uuid[16] = {(uint8_t)i};
        Tarn__Node node = TARN__NODE__INIT;
        Tarn__NodeJoin join = TARN__NODE_JOIN__INIT;
        node.id = i;
        node.rack = i % 2 == 0 ? "even" : "odd";
        node.host = node.machine = "h";
        node.address = "tcp:h:1";
        node.total = node.free = GIB(100);
        join.node = &node;
        join.uuid = (ProtobufCBinaryData){.data = uuid, .len = sizeof uuid};
        apply_message(w, OP_NODE_JOIN, &join.base);
    }
    furnish_tree(w);
}

/* ---- what must hold */

static void complain(void *arg, const char *rule, const char *sentence)
{
    fprintf(stderr, "%s: %s\n", rule, sentence);
}

static int digest_piece(void *arg, const void *data, size_t n)
{
    uint32_t *crc = arg;
    *crc = crc32c(*crc, data, n);
    return 0;
}

static void check_world(struct world *w)
{
    uint32_t digest[2] = {0};
    for (unsigned i = 0; i < 2; i++) {
        struct kv_txn *txn;
        struct check_summary summary;
        CHECK(kv_begin(w->kv[i], false, &txn) == 0);
        CHECK(kv_dump(txn, digest_piece, &digest[i]) == 0);
        CHECK(i == 1 || check_tables(txn, complain, NULL, &summary) == 0);
        CHECK(i == 1 || summary.violations == 0);
        kv_abort(txn);
    }
    CHECK(digest[0] == digest[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.choices = {data, data, prng_init(crc32c(0, data, size))}, .now = UINT64_C(1700000000000000000)};
    unsigned n_commands = 20 + draw(&w.choices, COMMANDS_MAX);
    for (unsigned i = 0; i < 2; i++) {
        struct kv_txn *txn;
        CHECK(kv_mem_open(&w.kv[i]) == 0 && kv_begin(w.kv[i], true, &txn) == 0);
        CHECK(fsm_init(txn) == 0 && kv_commit(txn) == 0);
    }
    furnish(&w);
    w.choices.end = data + size;
    for (unsigned i = 1; i <= n_commands; i++) {
        one_command(&w);
        if (i % CHECK_EVERY == 0)
            check_world(&w);
    }
    check_world(&w);
    for (unsigned i = 0; i < 2; i++)
        kv_close(w.kv[i]);
    return 0;
}
