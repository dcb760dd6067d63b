/* Keys, counters, the tree's rows and the rows of sessions. The chunks' rows: record_chunk.c. */
#include "record.h"

#include "common/check.h"
#include "common/err.h"

#include <endian.h>

static void key_bytes(struct key *key, const void *data, size_t n)
{
    if (n > sizeof key->data - key->len) {
        key->overflow = true;
        return;
    }
    memcpy(key->data + key->len, data, n);
    key->len = (uint16_t)(key->len + n);
}

static void key_be64(struct key *key, uint64_t v)
{
    uint64_t be = htobe64(v);
    memcpy(key->data + key->len, &be, sizeof be); /* at most three of them: they always have room */
    key->len = (uint16_t)(key->len + sizeof be);
}

struct key key_table(enum table table)
{
    struct key key;
    key.len = 1;
    key.overflow = false;
    key.data[0] = (uint8_t)table;
    return key;
}

struct key key_1(enum table table, uint64_t a)
{
    struct key key = key_table(table);
    key_be64(&key, a);
    return key;
}

struct key key_2(enum table table, uint64_t a, uint64_t b)
{
    struct key key = key_1(table, a);
    key_be64(&key, b);
    return key;
}

struct key key_3(enum table table, uint64_t a, uint64_t b, uint64_t c)
{
    struct key key = key_2(table, a, b);
    key_be64(&key, c);
    return key;
}

struct key key_named(enum table table, uint64_t id, const char *name, size_t len)
{
    struct key key = key_1(table, id);
    key_bytes(&key, name, len);
    return key;
}

struct key key_append(struct key head, const void *data, size_t n)
{
    key_bytes(&head, data, n);
    return head;
}

struct key key_state(void)
{
    return key_table(TABLE_STATE);
}

uint64_t key_number(const struct key *key, unsigned n)
{
    size_t at = 1 + 8 * (size_t)n;
    if (at + 8 > key->len)
        return 0;
    uint64_t v = 0;
    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | key->data[at + i];
    return v;
}

const char *key_name(const struct key *key, size_t *ret_len)
{
    if (key->len < 9)
        return NULL;
    *ret_len = key->len - 9u;
    return (const char *)key->data + 9;
}

/* Begins a value; false when the version is another. */
static bool version_ok(struct reader *r)
{
    return reader_u8(r) == RECORD_VERSION;
}

static int done(const struct reader *r)
{
    return r->failed || reader_left(r) != 0 ? -E_CORRUPT : 0;
}

#define STATE_EXTRAS_MAX 64

/* The numbers that came after version 1, in order of their coming; returns how many. */
static size_t state_extras(struct state *s, uint64_t *ret[STATE_EXTRAS_MAX])
{
    uint64_t *const extras[] = {&s->tree_upgrade,      &s->last_fence,     &s->quotas,
                                &s->quota_dirs,        &s->quota_counting, &s->snapshots,
                                &s->clones,            &s->snapshot_epoch,
                                &s->snapshot_next_ino, &s->snapshot_id,    &s->clone_id,
                                &s->last_group};
    memcpy(ret, extras, sizeof extras);
    return ARRAY_SIZE(extras);
}

void state_encode(const struct state *s, struct writer *w)
{
    writer_u8(w, RECORD_VERSION_STATE);
    const uint64_t numbers[] = {s->next_ino,     s->next_chunk,   s->next_session, s->next_upload,
                                s->next_task,    s->next_handle,  s->next_job,     s->next_node,
                                s->epoch,        s->files,        s->chunks,       s->sessions,
                                s->tasks,        s->below_target, s->heal_level,   s->heal_cursor,
                                s->heal_next_ns, s->role_epoch};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        writer_u64(w, numbers[i]);
    for (size_t i = 0; i < ARRAY_SIZE(s->by_copies); i++)
        writer_u64(w, s->by_copies[i]);
    struct state copy = *s;
    uint64_t *extras[STATE_EXTRAS_MAX];
    size_t n = state_extras(&copy, extras);
    writer_u8(w, (uint8_t)n);
    for (size_t i = 0; i < n; i++)
        writer_u64(w, *extras[i]);
}

/* More numbers than are known here come from a later version. */
static int state_decode_extras(struct reader *r, struct state *s)
{
    uint64_t *extras[STATE_EXTRAS_MAX];
    size_t known = state_extras(s, extras), n = reader_u8(r);
    if (!r->failed && n > known)
        return -E_VERSION;
    for (size_t i = 0; i < n; i++)
        *extras[i] = reader_u64(r);
    return 0;
}

int state_decode(const void *data, size_t n, struct state *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (r.failed || version < 1 || version > RECORD_VERSION_STATE)
        return r.failed ? -E_CORRUPT : -E_VERSION;
    struct state s = {0};
    uint64_t next_node = 0;
    uint64_t *const numbers[] = {&s.next_ino,     &s.next_chunk,   &s.next_session, &s.next_upload,
                                 &s.next_task,    &s.next_handle,  &s.next_job,     &next_node,
                                 &s.epoch,        &s.files,        &s.chunks,       &s.sessions,
                                 &s.tasks,        &s.below_target, &s.heal_level,   &s.heal_cursor,
                                 &s.heal_next_ns, &s.role_epoch};
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        *numbers[i] = reader_u64(&r);
    for (size_t i = 0; i < ARRAY_SIZE(s.by_copies); i++)
        s.by_copies[i] = reader_u64(&r);
    s.next_node = (uint32_t)next_node;
    s.tree_upgrade = version == 1;
    int err = version == 1 ? 0 : state_decode_extras(&r, &s);
    if (err != 0)
        return err;
    if (done(&r) != 0 || next_node > UINT32_MAX)
        return -E_CORRUPT;
    *ret = s;
    return 0;
}

void inode_fini(struct inode *inode)
{
    free(inode->data);
    inode->data = NULL;
    inode->data_len = 0;
}

int inode_set_data(struct inode *inode, const void *data, size_t n)
{
    CHECK(n <= MD_INLINE_MAX);
    uint8_t *copy = NULL;
    if (n > 0) {
        copy = malloc(n + 1);
        if (copy == NULL)
            return -E_NOMEM;
        memcpy(copy, data, n);
        copy[n] = 0;
    }
    free(inode->data);
    inode->data = copy;
    inode->data_len = (uint16_t)n;
    return 0;
}

/* FileType numbers of meta.proto; repeated here so that the format does not move with the protocol.
 */
enum { T_FILE = 1, T_DIR = 2, T_SYMLINK = 3, T_FIFO = 4, T_CHR = 5, T_BLK = 6, T_SOCK = 7 };

void inode_encode(const struct inode *inode, struct writer *w)
{
    writer_u8(w, RECORD_VERSION_INODE);
    writer_u8(w, inode->type);
    writer_u16(w, inode->flags);
    writer_u8(w, inode->copies);
    writer_u16(w, inode->mode);
    writer_u32(w, inode->nlink);
    writer_u32(w, inode->uid);
    writer_u32(w, inode->gid);
    writer_u64(w, inode->size);
    writer_u64(w, inode->mtime);
    writer_u64(w, inode->ctime);
    writer_u64(w, inode->atime);
    writer_u64(w, inode->btime);
    writer_u64(w, inode->version);
    writer_u8(w, inode->etag_len);
    writer_bytes(w, inode->etag, inode->etag_len);
    if (inode->type == T_FILE)
        writer_u64(w, inode->allocated);
    writer_u64(w, inode->parent);
    if (inode->type == T_DIR)
        writer_u64(w, inode->entries);
    if (inode->type == T_CHR || inode->type == T_BLK)
        writer_u64(w, inode->rdev);
    if (inode->type == T_FILE || inode->type == T_DIR || inode->type == T_SYMLINK) {
        writer_u16(w, inode->data_len);
        writer_bytes(w, inode->data, inode->data_len);
    }
}

static int inode_decode_tail(struct reader *r, uint8_t version, struct inode *inode)
{
    inode->etag_len = reader_u8(r);
    if (inode->etag_len > MD_ETAG_MAX)
        return -E_CORRUPT;
    const uint8_t *etag = reader_bytes(r, inode->etag_len);
    if (etag != NULL)
        memcpy(inode->etag, etag, inode->etag_len);
    if (inode->type == T_FILE)
        inode->allocated = reader_u64(r);
    if (inode->type == T_DIR || version >= 2)
        inode->parent = reader_u64(r);
    if (inode->type == T_DIR)
        inode->entries = reader_u64(r);
    if (inode->type == T_CHR || inode->type == T_BLK)
        inode->rdev = reader_u64(r);
    size_t len = 0;
    const uint8_t *data = NULL;
    if (inode->type == T_FILE || inode->type == T_DIR || inode->type == T_SYMLINK) {
        len = reader_u16(r);
        data = reader_bytes(r, len);
    }
    if (done(r) != 0 || len > MD_INLINE_MAX)
        return -E_CORRUPT;
    return inode_set_data(inode, data, len);
}

int inode_decode(uint64_t ino, const void *data, size_t n, struct inode *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version < 1 || version > RECORD_VERSION_INODE)
        return -E_CORRUPT;
    struct inode inode = {.ino = ino};
    inode.type = reader_u8(&r);
    inode.flags = version == 1 ? reader_u8(&r) : reader_u16(&r);
    inode.copies = reader_u8(&r);
    inode.mode = reader_u16(&r);
    inode.nlink = reader_u32(&r);
    inode.uid = reader_u32(&r);
    inode.gid = reader_u32(&r);
    inode.size = reader_u64(&r);
    inode.mtime = reader_u64(&r);
    inode.ctime = reader_u64(&r);
    inode.atime = reader_u64(&r);
    inode.btime = reader_u64(&r);
    inode.version = reader_u64(&r);
    if (inode.type < T_FILE || inode.type > T_SOCK ||
        (inode.flags & ~(version == 1 ? INODE_IMPLICIT : INODE_FLAGS)) != 0)
        return -E_CORRUPT;
    int err = inode_decode_tail(&r, version, &inode);
    if (err == 0)
        *ret = inode;
    return err;
}

void entry_encode(const struct entry *entry, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u8(w, entry->type);
    writer_u64(w, entry->ino);
}

int entry_decode(const void *data, size_t n, struct entry *ret)
{
    struct reader r = reader_init(data, n);
    if (!version_ok(&r))
        return -E_CORRUPT;
    struct entry entry = {.type = reader_u8(&r)};
    entry.ino = reader_u64(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = entry;
    return 0;
}

void extent_encode(const struct extent *extent, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u64(w, extent->length);
    writer_u64(w, extent->chunk);
    writer_u64(w, extent->chunk_offset);
}

int extent_decode(uint64_t offset, const void *data, size_t n, struct extent *ret)
{
    struct reader r = reader_init(data, n);
    if (!version_ok(&r))
        return -E_CORRUPT;
    struct extent extent = {.offset = offset};
    extent.length = reader_u64(&r);
    extent.chunk = reader_u64(&r);
    extent.chunk_offset = reader_u64(&r);
    uint64_t end;
    if (done(&r) != 0 || add_overflows(offset, extent.length, &end))
        return -E_CORRUPT;
    *ret = extent;
    return 0;
}

void session_encode(const struct session *session, struct writer *w)
{
    writer_u8(w, RECORD_VERSION_SESSION);
    writer_u64(w, session->fence);
    writer_u32(w, session->timeout_ms);
    writer_u32(w, session->node);
    writer_u64(w, session->acked);
    writer_u32(w, session->kept);
    writer_u8(w, session->uuid_len);
    writer_bytes(w, session->uuid, session->uuid_len);
    writer_u8(w, session->name_len);
    writer_bytes(w, session->name, session->name_len);
}

int session_decode(uint64_t id, const void *data, size_t n, struct session *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version < RECORD_VERSION || version > RECORD_VERSION_SESSION)
        return -E_CORRUPT;
    struct session s = {.id = id};
    s.fence = version == RECORD_VERSION ? 0 : reader_u64(&r);
    s.timeout_ms = reader_u32(&r);
    s.node = reader_u32(&r);
    s.acked = reader_u64(&r);
    s.kept = reader_u32(&r);
    s.uuid_len = reader_u8(&r);
    const uint8_t *uuid = reader_bytes(&r, s.uuid_len);
    if (uuid == NULL || s.uuid_len > SESSION_UUID_MAX)
        return -E_CORRUPT;
    memcpy(s.uuid, uuid, s.uuid_len);
    s.name_len = reader_u8(&r);
    const uint8_t *name = reader_bytes(&r, s.name_len);
    if (name == NULL || s.name_len > SESSION_NAME_MAX || done(&r) != 0)
        return -E_CORRUPT;
    memcpy(s.name, name, s.name_len);
    *ret = s;
    return 0;
}

void handle_encode(const struct handle *handle, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u64(w, handle->ino);
    writer_u32(w, handle->flags);
}

int handle_decode(uint64_t id, const void *data, size_t n, struct handle *ret)
{
    struct reader r = reader_init(data, n);
    if (!version_ok(&r))
        return -E_CORRUPT;
    struct handle handle = {.id = id};
    handle.ino = reader_u64(&r);
    handle.flags = reader_u32(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = handle;
    return 0;
}

void opens_encode(const struct opens *opens, struct writer *w)
{
    writer_u8(w, RECORD_VERSION_OPENS);
    writer_u32(w, opens->handles);
    writer_u32(w, opens->writers);
    writer_u64(w, opens->sole);
}

int opens_decode(const void *data, size_t n, struct opens *ret)
{
    struct reader r = reader_init(data, n);
    uint8_t version = reader_u8(&r);
    if (version < 1 || version > RECORD_VERSION_OPENS)
        return -E_CORRUPT;
    struct opens opens = {.handles = reader_u32(&r)};
    opens.writers = reader_u32(&r);
    opens.sole = version == 1 ? 0 : reader_u64(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = opens;
    return 0;
}

void exclusive_encode(const struct exclusive *exclusive, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u64(w, exclusive->session);
    writer_u64(w, exclusive->number);
    writer_u8(w, exclusive->recalled);
}

int exclusive_decode(uint64_t ino, const void *data, size_t n, struct exclusive *ret)
{
    struct reader r = reader_init(data, n);
    if (!version_ok(&r))
        return -E_CORRUPT;
    struct exclusive exclusive = {.ino = ino, .session = reader_u64(&r)};
    exclusive.number = reader_u64(&r);
    uint8_t recalled = reader_u8(&r);
    if (recalled > 1 || done(&r) != 0)
        return -E_CORRUPT;
    exclusive.recalled = recalled == 1;
    *ret = exclusive;
    return 0;
}

void recalled_encode(const struct recalled *recalled, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u8(w, recalled->kind);
    writer_u64(w, recalled->ino);
}

int recalled_decode(const void *data, size_t n, struct recalled *ret)
{
    struct reader r = reader_init(data, n);
    if (!version_ok(&r))
        return -E_CORRUPT;
    struct recalled recalled = {.kind = reader_u8(&r)};
    recalled.ino = reader_u64(&r);
    if (recalled.kind < 1 || recalled.kind > 3 || done(&r) != 0)
        return -E_CORRUPT;
    *ret = recalled;
    return 0;
}

void role_encode(const struct role *role, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u64(w, role->session);
    writer_u64(w, role->epoch);
    writer_u8(w, role->address_len);
    writer_bytes(w, role->address, role->address_len);
}

int role_decode(const void *data, size_t n, struct role *ret)
{
    struct reader r = reader_init(data, n);
    if (!version_ok(&r))
        return -E_CORRUPT;
    struct role role = {.session = reader_u64(&r)};
    role.epoch = reader_u64(&r);
    role.address_len = reader_u8(&r);
    const uint8_t *address = reader_bytes(&r, role.address_len);
    if (address == NULL || role.address_len >= sizeof role.address || done(&r) != 0)
        return -E_CORRUPT;
    memcpy(role.address, address, role.address_len);
    *ret = role;
    return 0;
}

void number_encode(uint64_t v, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u64(w, v);
}

int number_decode(const void *data, size_t n, uint64_t *ret)
{
    struct reader r = reader_init(data, n);
    if (!version_ok(&r))
        return -E_CORRUPT;
    uint64_t v = reader_u64(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = v;
    return 0;
}
