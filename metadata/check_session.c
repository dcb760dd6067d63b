/* S2 and what belongs to sessions: handles, kept replies, uploads, chunks before their swap, roles. */
#include "check_impl.h"
#include "meta.pb-c.h"

#include <fcntl.h>

struct sessions {
    uint64_t counted;
    struct map opens; /* ino → handles and writers as one number, OPENS_ZERO added: never NULL */
};

#define OPENS_ZERO ((uint64_t)1 << 62)
#define OPENS_WRITER ((uint64_t)1 << 31)

static bool session_is_there(struct check *check, uint64_t id)
{
    struct key key = key_1(TABLE_SESSION, id);
    return check_has(check, &key);
}

static int count_row(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    ++*(uint64_t *)arg;
    return 0;
}

/* X1: a fence and its session know each other. */
static void see_fenced(struct check *check, const struct session *session)
{
    struct key fence = key_1(TABLE_FENCE, session->fence);
    struct kv_val number;
    uint64_t id = 0;
    if (session->fence == 0)
        return;
    if (!check_get(check, &fence, &number) || number_decode(number.data, number.len, &id) != 0 || id != session->id)
        check_violation(check, "X1", "session %llu is fenced by %llu, which is not its", (unsigned long long)session->id,
                        (unsigned long long)session->fence);
}

static int see_session(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct sessions *sessions = arg;
    struct session session;
    uint64_t id = key_number(key, 0), kept = 0, of_uuid = 0;
    if (session_decode(id, value.data, value.len, &session) != 0) {
        check_undecodable(check, key, "session");
        return 0;
    }
    sessions->counted++;
    struct key uuid = key_named(TABLE_SESSION_UUID, 0, (const char *)session.uuid, session.uuid_len);
    struct key replies = key_1(TABLE_KEPT, id);
    struct kv_val number;
    if (!check_get(check, &uuid, &number) || number_decode(number.data, number.len, &of_uuid) != 0 || of_uuid != id)
        check_violation(check, "S1", "session %llu is not found by its uuid", (unsigned long long)id);
    if (id >= check->state.next_session)
        check_violation(check, "S1", "session %llu was never given out", (unsigned long long)id);
    see_fenced(check, &session);
    int err = check_below(check, &replies, count_row, &kept);
    if (kept != session.kept)
        check_violation(check, "S1", "session %llu says that %u replies are kept, there are %llu", (unsigned long long)id,
                        session.kept, (unsigned long long)kept);
    return err;
}

static int see_fence(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t id, number = key_number(key, 0);
    if (number_decode(value.data, value.len, &id) != 0)
        check_undecodable(check, key, "fence");
    else if (number > check->state.last_fence || !session_is_there(check, id))
        check_violation(check, "X1", "fence %llu is of no session", (unsigned long long)number);
    return 0;
}

static int see_uuid(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t id;
    if (number_decode(value.data, value.len, &id) != 0)
        check_undecodable(check, key, "number of a session");
    else if (!session_is_there(check, id))
        check_violation(check, "S2", "a uuid is left of session %llu", (unsigned long long)id);
    return 0;
}

/* Rows whose key begins with a session. */
static int see_belonging(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    if (!session_is_there(check, key_number(key, 0)))
        check_violation(check, "S2", "%s is left of session %llu", (const char *)arg, (unsigned long long)key_number(key, 0));
    return 0;
}

/* ---- handles */
static int see_handle(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct sessions *sessions = arg;
    struct handle handle;
    if (handle_decode(key_number(key, 1), value.data, value.len, &handle) != 0) {
        check_undecodable(check, key, "handle");
        return 0;
    }
    (void)see_belonging(check, key, value, "an open handle");
    if (!check_has_inode(check, handle.ino))
        check_violation(check, "N4", "inode %llu is open and does not exist", (unsigned long long)handle.ino);
    uint64_t opens = (uintptr_t)map_get(&sessions->opens, handle.ino);
    opens = opens == 0 ? OPENS_ZERO : opens;
    opens += 1 + ((handle.flags & O_ACCMODE) != O_RDONLY ? OPENS_WRITER : 0);
    return map_put(&sessions->opens, handle.ino, (void *)(uintptr_t)opens);
}

static int see_opens(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct sessions *sessions = arg;
    struct opens opens;
    uint64_t ino = key_number(key, 0);
    if (opens_decode(value.data, value.len, &opens) != 0) {
        check_undecodable(check, key, "count of handles");
        return 0;
    }
    uint64_t counted = (uintptr_t)map_remove(&sessions->opens, ino);
    if (counted != OPENS_ZERO + opens.handles + opens.writers * OPENS_WRITER || opens.handles == 0)
        check_violation(check, "S2", "inode %llu says that it has %u handles and %u writers, it has others",
                        (unsigned long long)ino, opens.handles, opens.writers);
    return 0;
}

/* ---- uploads and chunks before their swap */
static int see_upload(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct upload upload;
    uint64_t id = key_number(key, 0);
    if (upload_decode(id, value.data, value.len, &upload) != 0) {
        check_undecodable(check, key, "upload");
        return 0;
    }
    struct key of_session = key_2(TABLE_SESSION_UPLOAD, upload.session, id);
    if (!check_has(check, &of_session) || !session_is_there(check, upload.session))
        check_violation(check, "S2", "upload %llu does not go with its session %llu", (unsigned long long)id,
                        (unsigned long long)upload.session);
    return 0;
}

static int see_session_upload(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct key upload = key_1(TABLE_UPLOAD, key_number(key, 1));
    if (!check_has(check, &upload))
        check_violation(check, "S2", "session %llu has upload %llu, which does not exist",
                        (unsigned long long)key_number(key, 0), (unsigned long long)key_number(key, 1));
    return 0;
}

static bool chunk_has(struct check *check, uint64_t id, uint8_t flag, uint64_t owner)
{
    struct key key = key_1(TABLE_CHUNK, id);
    struct kv_val value;
    struct chunk chunk;
    return check_get(check, &key, &value) && chunk_decode(id, value.data, value.len, &chunk) == 0 && (chunk.flags & flag) &&
           (flag == CHUNK_PENDING ? chunk.session : chunk.owner) == owner;
}

static int see_upload_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t id, upload = key_number(key, 0);
    struct key row = key_1(TABLE_UPLOAD, upload);
    if (number_decode(value.data, value.len, &id) != 0)
        check_undecodable(check, key, "number of a chunk");
    else if (!check_has(check, &row))
        check_violation(check, "C11", "chunk %llu is left of upload %llu", (unsigned long long)id, (unsigned long long)upload);
    else if (!chunk_has(check, id, CHUNK_OF_UPLOAD, upload))
        check_violation(check, "C11", "upload %llu has chunk %llu, which is not its", (unsigned long long)upload,
                        (unsigned long long)id);
    return 0;
}

static int see_session_chunk(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    if (!chunk_has(check, key_number(key, 1), CHUNK_PENDING, key_number(key, 0)))
        check_violation(check, "C11", "session %llu waits to swap in chunk %llu, which is not its",
                        (unsigned long long)key_number(key, 0), (unsigned long long)key_number(key, 1));
    return see_belonging(check, key, value, "a chunk before its swap");
}

static int see_role(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct role role;
    if (role_decode(value.data, value.len, &role) != 0)
        check_undecodable(check, key, "role");
    else if (role.epoch > check->state.role_epoch)
        check_violation(check, "J1", "a role is held under epoch %llu, given out were %llu", (unsigned long long)role.epoch,
                        (unsigned long long)check->state.role_epoch);
    return 0;
}

static void see_uncounted(struct check *check, struct sessions *sessions)
{
    size_t at = 0;
    uint64_t ino;
    void *value;
    while (map_next(&sessions->opens, &at, &ino, &value))
        check_violation(check, "S2", "inode %llu is open and its handles are not counted", (unsigned long long)ino);
}

int check_room_sessions(struct check *check)
{
    struct sessions sessions = {0};
    const struct {
        enum table table;
        check_visit visit;
        void *arg;
    } visits[] = {
        {TABLE_SESSION, see_session, &sessions},
        {TABLE_SESSION_UUID, see_uuid, NULL},
        {TABLE_FENCE, see_fence, NULL},
        {TABLE_KEPT, see_belonging, (void *)(uintptr_t)"a kept reply"},
        {TABLE_HANDLE, see_handle, &sessions},
        {TABLE_OPENS, see_opens, &sessions},
        {TABLE_UPLOAD, see_upload, NULL},
        {TABLE_SESSION_UPLOAD, see_session_upload, NULL},
        {TABLE_UPLOAD_CHUNK, see_upload_chunk, NULL},
        {TABLE_SESSION_CHUNK, see_session_chunk, NULL},
        {TABLE_ROLE, see_role, NULL},
    };
    int err = 0;
    for (size_t i = 0; err == 0 && i < ARRAY_SIZE(visits); i++)
        err = check_each(check, visits[i].table, visits[i].visit, visits[i].arg);
    if (err == 0)
        see_uncounted(check, &sessions);
    check_counter(check, "S2", "sessions", check->state.sessions, sessions.counted);
    map_fini(&sessions.opens);
    return err;
}
