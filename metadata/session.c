#include "session.h"

#include <fcntl.h>

#include "chunkmap.h"
#include "common/check.h"
#include "common/err.h"
#include "fence.h"
#include "lease_rows.h"
#include "lock.h"
#include "namespace.h"
#include "record_view.h"

int session_get(struct tables *t, uint64_t id, struct session *ret)
{
    struct key key = key_1(TABLE_SESSION, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == -E_NOENT)
        return -E_NO_SESSION;
    if (err == 0 && session_decode(id, value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "session");
    return err;
}

int session_lives(struct tables *t, uint64_t id, struct session *ret)
{
    int err = session_get(t, id, ret);
    return err == 0 && ret->fence != 0 ? -E_NO_SESSION : err;
}

static int session_put(struct tables *t, const struct session *session)
{
    _cleanup_(writer_fini) struct writer w = {0};
    session_encode(session, &w);
    struct key key = key_1(TABLE_SESSION, session->id);
    return tables_put(t, &key, &w);
}

/* Everything up to `acked` has arrived at the client. One change adds one reply and drops up to 8,
 * so what is left over goes with the next ones. */
#define DROP_AT_ONCE 8
static int drop_acked(struct tables *t, struct session *session, uint64_t acked)
{
    if (acked <= session->acked)
        return 0;
    struct key prefix = key_1(TABLE_KEPT, session->id);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = session->kept == 0 ? 0 : tables_rows(t, &prefix, &prefix, DROP_AT_ONCE, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        if (key_number(&rows.rows[i].key, 1) > acked)
            break;
        err = tables_del(t, &rows.rows[i].key);
        session->kept--;
    }
    session->acked = acked;
    return err;
}

#define KEPT_ERROR 2 /* first byte of a kept refusal; a kept reply begins with RECORD_VERSION */

static int kept_error(struct tables *t, const struct key *key, struct kv_val value)
{
    struct reader r = reader_init(value.data + 1, value.len - 1);
    int err = err_from_wire(reader_u16(&r));
    size_t len = reader_left(&r);
    if (r.failed || err == 0)
        return tables_corrupt(t, key, "kept refusal");
    return tables_fail(t, err, "%.*s", (int)len, (const char *)reader_bytes(&r, len));
}

/* *ret_again: there is one; with an error the change was refused, and is refused again. */
static int kept_reply(struct tables *t, const Tarn__Ctx *ctx, bool *ret_again)
{
    struct key key = key_2(TABLE_KEPT, ctx->session, ctx->seq);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    *ret_again = true;
    if (value.len >= 1 && value.data[0] == KEPT_ERROR)
        return kept_error(t, &key, value);
    if (value.len < 1 || value.data[0] != RECORD_VERSION)
        return tables_corrupt(t, &key, "kept reply");
    t->result->reply = malloc(value.len);
    if (t->result->reply == NULL)
        return -E_NOMEM;
    t->result->reply_len = value.len - 1;
    memcpy(t->result->reply, value.data + 1, value.len - 1);
    return 0;
}

int session_begin(struct tables *t, const Tarn__Ctx *ctx, bool *ret_again)
{
    *ret_again = false;
    struct session session;
    int err = session_lives(t, ctx->session, &session);
    if (err != 0)
        return err;
    err = kept_reply(t, ctx, ret_again);
    if (err != 0 || *ret_again)
        return err;
    if (ctx->seq <= session.acked)
        return tables_fail(t, -E_STALE, "change %llu of this session was acknowledged before",
                           (unsigned long long)ctx->seq);
    return 0;
}

/* Room for one more, after what was acknowledged has gone. */
static int keep_begin(struct tables *t, const Tarn__Ctx *ctx, struct session *ret)
{
    int err = session_get(t, ctx->session, ret);
    if (err == 0)
        err = drop_acked(t, ret, MIN(ctx->acked, ctx->seq - 1));
    if (err == 0 && ret->kept >= SESSION_KEPT_MAX)
        err = tables_fail(t, -E_BUSY, "%d changes of this session wait for their acknowledgement",
                          SESSION_KEPT_MAX);
    return err;
}

static int keep(struct tables *t, struct session *session, uint64_t seq, const struct writer *w)
{
    struct key key = key_2(TABLE_KEPT, session->id, seq);
    int err = tables_put(t, &key, w);
    session->kept++;
    return err == 0 ? session_put(t, session) : err;
}

int session_keep(struct tables *t, const Tarn__Ctx *ctx)
{
    struct session session;
    int err = keep_begin(t, ctx, &session);
    if (err == -E_NO_SESSION) /* it ended itself */
        return 0;
    if (err == 0 && t->result->reply_len > SESSION_KEPT_REPLY_MAX)
        err = tables_fail(t, -E_FBIG, "the answer of this change would be too large to be kept");
    if (err != 0)
        return err;
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u8(&w, RECORD_VERSION);
    writer_bytes(&w, t->result->reply, t->result->reply_len);
    return keep(t, &session, ctx->seq, &w);
}

int session_keep_error(struct tables *t, const Tarn__Ctx *ctx, int refusal)
{
    struct session session;
    int err = session_get(t, ctx->session, &session);
    if (err == 0 && session.kept >= SESSION_KEPT_MAX)
        err = -E_BUSY;
    if (err == 0)
        err = drop_acked(t, &session, MIN(ctx->acked, ctx->seq - 1));
    if (err != 0)
        return err;
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u8(&w, KEPT_ERROR);
    writer_u16(&w, (uint16_t)err_to_wire(refusal));
    writer_bytes(&w, t->result->detail, strlen(t->result->detail));
    return keep(t, &session, ctx->seq, &w);
}

/* ---- open and end */

static int session_find(struct tables *t, const struct key *uuid, uint64_t *ret_id)
{
    struct kv_val value;
    int err = tables_get(t, uuid, &value);
    if (err == 0 && number_decode(value.data, value.len, ret_id) != 0)
        err = tables_corrupt(t, uuid, "session uuid");
    return err;
}

static int session_make(struct tables *t, const Tarn__SessionOpen *m, const struct key *uuid,
                        struct session *ret)
{
    if (t->state.sessions >= SESSIONS_MAX)
        return tables_fail(t, -E_BUSY, "%d sessions are open", SESSIONS_MAX);
    uint32_t timeout = m->timeout_ms == 0 ? SESSION_TIMEOUT_MS : m->timeout_ms;
    size_t name_len = MIN(strlen(m->name), (size_t)SESSION_NAME_MAX);
    *ret = (struct session){.id = tables_state(t)->next_session++,
                            .node = m->node,
                            .uuid_len = (uint8_t)m->uuid.len,
                            .name_len = (uint8_t)name_len};
    timeout = MIN(timeout, SESSION_TIMEOUT_MS_MAX);
    ret->timeout_ms = MAX(timeout, SESSION_TIMEOUT_MS_MIN);
    memcpy(ret->uuid, m->uuid.data, m->uuid.len);
    memcpy(ret->name, m->name, name_len);
    t->state.sessions++;
    _cleanup_(writer_fini) struct writer w = {0};
    number_encode(ret->id, &w);
    int err = tables_put(t, uuid, &w);
    return err == 0 ? session_put(t, ret) : err;
}

int session_cmd_open(struct tables *t, const void *message)
{
    const Tarn__SessionOpen *m = message;
    if (m->uuid.len == 0 || m->uuid.len > SESSION_UUID_MAX)
        return tables_fail(t, -E_INVAL, "a session's uuid has 1 to %d bytes", SESSION_UUID_MAX);
    struct key uuid = key_named(TABLE_SESSION_UUID, 0, (const char *)m->uuid.data, m->uuid.len);
    struct session session;
    uint64_t id;
    int err = session_find(t, &uuid, &id);
    if (err == 0)
        err = session_lives(t, id, &session); /* fenced: the client takes another uuid */
    else if (err == -E_NOENT)
        err = session_make(t, m, &uuid, &session);
    if (err != 0)
        return err;
    Tarn__SessionOpenReply reply = TARN__SESSION_OPEN_REPLY__INIT;
    reply.session = session.id;
    reply.timeout_ms = session.timeout_ms;
    return tables_reply(t, &reply.base);
}

static int handle_close(struct tables *t, uint64_t session, const struct handle *handle, bool seal);

/* seal: also beside other writers. */
static int close_all(struct tables *t, const struct session *session, bool seal)
{
    struct key prefix = key_1(TABLE_HANDLE, session->id);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct handle handle;
        if (handle_decode(key_number(&rows.rows[i].key, 1), rows.rows[i].value, rows.rows[i].len,
                          &handle) != 0)
            return tables_corrupt(t, &rows.rows[i].key, "handle");
        err = handle_close(t, session->id, &handle, seal);
    }
    return err;
}

static int forget(struct tables *t, const struct session *session)
{
    struct key prefix = key_1(TABLE_KEPT, session->id);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = tables_del(t, &rows.rows[i].key);
    struct key uuid =
        key_named(TABLE_SESSION_UUID, 0, (const char *)session->uuid, session->uuid_len);
    struct key key = key_1(TABLE_SESSION, session->id);
    if (err == 0)
        err = tables_del(t, &uuid);
    if (err == 0)
        err = tables_del(t, &key);
    if (err == 0)
        tables_state(t)->sessions--;
    return err;
}

static int release(struct tables *t, const struct session *session, bool seal)
{
    int err = lock_session_end(t, session->id);
    if (err == 0)
        err = lease_rows_session_end(t, session->id);
    if (err == 0)
        err = close_all(t, session, seal);
    if (err == 0)
        err = chunk_session_end(t, session->id);
    if (err == 0)
        err = fence_drop(t, session);
    return err == 0 ? forget(t, session) : err;
}

/* X1: from now on the session is refused, but holds what it held. */
static int fence(struct tables *t, struct session *session)
{
    if (session->fence != 0)
        return 0;
    int err = lock_session_fence(t, session->id);
    if (err == 0)
        err = fence_give(t, session);
    t->result->fences_changed = true;
    return err == 0 ? session_put(t, session) : err;
}

int session_cmd_end(struct tables *t, const void *message)
{
    const Tarn__SessionEnd *m = message;
    struct session session;
    int err = session_get(t, m->session != 0 ? m->session : t->session, &session);
    if (err == -E_NO_SESSION)
        return 0; /* ended before: what was asked for */
    if (err != 0)
        return err;
    t->result->ended_session = session.id;
    switch (m->stage) {
    case TARN__END_STAGE__END_FENCE:
        return fence(t, &session);
    case TARN__END_STAGE__END_RELEASE:
        return session.fence != 0 ? release(t, &session, true) : -E_INVAL;
    case TARN__END_STAGE__END_WHOLE:
        return session.fence == 0 ? release(t, &session, m->seal) : -E_NO_SESSION; /* too late for its own wish */
    default:
        return -E_INVAL;
    }
}

/* ---- open files */

int session_opens(struct tables *t, uint64_t ino, struct opens *ret)
{
    struct key key = key_1(TABLE_OPENS, ino);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    *ret = (struct opens){0};
    if (err == 0 && opens_decode(value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "opens");
    return err == -E_NOENT ? 0 : err;
}

static int opens_put(struct tables *t, uint64_t ino, const struct opens *opens)
{
    struct key key = key_1(TABLE_OPENS, ino);
    if (opens->handles == 0)
        return tables_del(t, &key);
    _cleanup_(writer_fini) struct writer w = {0};
    opens_encode(opens, &w);
    return tables_put(t, &key, &w);
}

static bool writes(uint32_t flags)
{
    return (flags & O_ACCMODE) != O_RDONLY;
}

/* The kernel's __FMODE_EXEC: execve() opens what may be executed, readable or not. */
#define OPEN_FOR_EXEC 0x20

static int open_check(struct tables *t, const struct inode *inode, uint32_t flags, bool fresh)
{
    bool dir = inode->type == TARN__FILE_TYPE__FT_DIR;
    if (ino_snapshot(inode->ino) != 0 && !dir && (writes(flags) || (flags & O_TRUNC)))
        return -E_ROFS;
    if (inode->type == TARN__FILE_TYPE__FT_SYMLINK)
        return -E_LOOP; /* open() with O_NOFOLLOW */
    if ((flags & O_DIRECTORY) && !dir)
        return -E_NOTDIR;
    if (dir && (writes(flags) || (flags & O_TRUNC)))
        return -E_ISDIR;
    if (fresh)
        return 0;
    unsigned mask = (flags & O_ACCMODE) == O_WRONLY ? 0 : flags & OPEN_FOR_EXEC ? NS_EXEC : NS_READ;
    if (writes(flags) || (flags & O_TRUNC))
        mask |= NS_WRITE;
    return ns_may(t, inode, mask);
}

static int open_truncate(struct tables *t, struct inode *inode)
{
    int err = chunk_file_resize(t, inode, 0);
    if (err != 0)
        return err;
    err = ns_written(t, inode);
    if (err != 0)
        return err;
    ns_touch(t, inode, true);
    return ns_inode_put(t, inode);
}

int session_open_inode(struct tables *t, struct inode *inode, uint32_t flags, bool fresh,
                       uint64_t *ret_handle)
{
    int err = open_check(t, inode, flags, fresh);
    if (err == 0)
        err = exclusive_conflict(t, inode->ino);
    if (err == 0 && (flags & O_TRUNC) && inode->type == TARN__FILE_TYPE__FT_FILE)
        err = open_truncate(t, inode);
    struct opens opens;
    if (err == 0)
        err = session_opens(t, inode->ino, &opens);
    if (err != 0)
        return err;
    opens.sole = opens.handles == 0 || opens.sole == t->session ? t->session : 0;
    opens.handles++;
    opens.writers += writes(flags);
    if (writes(flags) && !fresh)
        tables_touched(t, inode->ino); /* E2: no read lease beside another session's writer */
    struct handle handle = {
        .id = tables_state(t)->next_handle++, .ino = inode->ino, .flags = flags & O_ACCMODE};
    _cleanup_(writer_fini) struct writer w = {0};
    handle_encode(&handle, &w);
    struct key key = key_2(TABLE_HANDLE, t->session, handle.id);
    err = tables_put(t, &key, &w);
    if (err == 0)
        err = opens_put(t, inode->ino, &opens);
    if (err == 0)
        *ret_handle = handle.id;
    return err;
}

static int handle_get(struct tables *t, uint64_t session, uint64_t id, struct handle *ret)
{
    struct key key = key_2(TABLE_HANDLE, session, id);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0 && handle_decode(id, value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "handle");
    return err;
}

bool session_handle_writes(struct tables *t, uint64_t id, uint64_t ino)
{
    struct handle handle;
    return handle_get(t, t->session, id, &handle) == 0 && handle.ino == ino && writes(handle.flags);
}

bool session_handle_on(struct tables *t, uint64_t id, uint64_t ino)
{
    struct handle handle;
    return handle_get(t, t->session, id, &handle) == 0 && handle.ino == ino;
}

/* The last handle of a file without a name takes the file with it; the last writer's close seals. So does the end of a
 * writer's session (X6, C25): its last write may have reached some members of a chunk and not the others, and lie behind the file's end. */
static int closed(struct tables *t, const struct handle *handle, const struct opens *left, bool seal)
{
    struct key orphan = key_1(TABLE_ORPHAN, handle->ino);
    if (left->handles == 0 && tables_has(t, &orphan)) {
        _cleanup_(inode_fini) struct inode inode = {0};
        int err = tables_del(t, &orphan);
        if (err == 0)
            err = ns_inode_get(t, handle->ino, &inode);
        return err == 0 ? ns_collect(t, &inode) : err;
    }
    return (left->writers == 0 || seal) && writes(handle->flags) ? chunk_file_seal(t, handle->ino) : 0;
}

static int handle_close(struct tables *t, uint64_t session, const struct handle *handle, bool seal)
{
    struct opens opens;
    struct key key = key_2(TABLE_HANDLE, session, handle->id);
    int err = tables_del(t, &key);
    if (err == 0)
        err = session_opens(t, handle->ino, &opens);
    if (err != 0)
        return err;
    CHECK(opens.handles > 0);
    opens.handles--;
    opens.writers -= writes(handle->flags);
    err = opens_put(t, handle->ino, &opens);
    if (err == 0 && opens.handles == 0)
        err = exclusive_drop(t, handle->ino);
    return err == 0 ? closed(t, handle, &opens, seal) : err;
}

int session_cmd_open_file(struct tables *t, const void *message)
{
    const Tarn__Open *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    uint64_t handle = 0;
    int err = ns_where(t, m->where, m->flags & O_NOFOLLOW ? NS_NOFOLLOW : 0, &inode);
    if (err == 0)
        err = session_open_inode(t, &inode, m->flags, false, &handle);
    Tarn__Entry entry = TARN__ENTRY__INIT;
    if (err == 0 && m->want_exclusive && writes(m->flags))
        err = exclusive_give(t, inode.ino, handle, &entry.exclusive);
    if (err != 0)
        return err;
    Tarn__Attr attr;
    ns_attr(&inode, &attr);
    entry.attr = &attr;
    entry.handle = handle;
    return tables_reply(t, &entry.base);
}

int session_cmd_close(struct tables *t, const void *message)
{
    const Tarn__Close *m = message;
    struct handle handle;
    int err = handle_get(t, t->session, m->handle, &handle);
    if (err == -E_NOENT)
        return 0;
    return err == 0 ? handle_close(t, t->session, &handle, false) : err;
}

/* ---- roles */

static struct key role_key(const char *role)
{
    return key_named(TABLE_ROLE, 0, role, strlen(role));
}

static int role_get(struct tables *t, const char *name, struct role *ret)
{
    struct key key = role_key(name);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0 && role_decode(value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "role");
    return err;
}

static int role_reply(struct tables *t, const struct role *role, bool held)
{
    Tarn__RoleReply reply = TARN__ROLE_REPLY__INIT;
    reply.held = held;
    reply.epoch = role->epoch;
    reply.address = (char *)role->address;
    reply.session = role->session;
    return tables_reply(t, &reply.base);
}

int session_role_check(struct tables *t, const char *name, uint64_t epoch)
{
    struct role role = {0};
    int err = role_get(t, name, &role);
    if (err != 0 && err != -E_NOENT)
        return err;
    return err == 0 && role.epoch == epoch
               ? 0
               : tables_fail(t, -E_STALE, "the role '%s' is held under epoch %llu", name,
                             (unsigned long long)role.epoch);
}

int session_cmd_role_claim(struct tables *t, const void *message)
{
    const Tarn__RoleClaim *m = message;
    struct role role = {0};
    struct session holder;
    if (m->role[0] == 0 || strlen(m->role) > MD_NAME_MAX ||
        strlen(m->address) >= sizeof role.address)
        return -E_INVAL;
    int err = role_get(t, m->role, &role);
    if (err != 0 && err != -E_NOENT)
        return err;
    bool free = err == -E_NOENT || session_get(t, role.session, &holder) == -E_NO_SESSION;
    if (!free && role.session != t->session)
        return role_reply(t, &role, false);
    if (free) { /* the same session keeps its epoch: claiming again is asking again */
        role.session = t->session;
        role.epoch = ++tables_state(t)->role_epoch;
    }
    role.address_len = (uint8_t)strlen(m->address);
    memset(role.address, 0, sizeof role.address);
    memcpy(role.address, m->address, role.address_len);
    _cleanup_(writer_fini) struct writer w = {0};
    role_encode(&role, &w);
    struct key key = role_key(m->role);
    err = tables_put(t, &key, &w);
    return err == 0 ? role_reply(t, &role, true) : err;
}

int session_query_role(struct tables *t, const void *message)
{
    const Tarn__RoleGet *m = message;
    struct role role = {0};
    struct session holder;
    if (strlen(m->role) > MD_NAME_MAX)
        return -E_INVAL;
    int err = role_get(t, m->role, &role);
    if (err == -E_NOENT)
        return role_reply(t, &role, false);
    if (err != 0)
        return err;
    return role_reply(t, &role, session_get(t, role.session, &holder) == 0);
}
