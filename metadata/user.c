#include "user.h"

#include "common/err.h"

#define USER_TEXT_MAX 255

static struct key user_key(const char *access_key)
{
    return key_named(TABLE_USER, 0, access_key, strlen(access_key));
}

static bool text_ok(const char *text)
{
    return text[0] != 0 && strlen(text) <= USER_TEXT_MAX;
}

int user_cmd_put(struct tables *t, const void *message)
{
    const Tarn__UserPut *m = message;
    if (t->cred.uid != 0)
        return -E_PERM;
    if (m->user == NULL || !text_ok(m->user->name) || !text_ok(m->user->access_key) ||
        !text_ok(m->user->secret))
        return tables_fail(t, -E_INVAL,
                           "a user has a name, an access key and a secret of 1 to %d bytes",
                           USER_TEXT_MAX);
    _cleanup_(writer_fini) struct writer w = {0};
    size_t len = tarn__user__get_packed_size(m->user);
    _cleanup_free_ uint8_t *packed = malloc(len + 1);
    if (packed == NULL)
        return -E_NOMEM;
    tarn__user__pack(m->user, packed);
    writer_u8(&w, RECORD_VERSION);
    writer_bytes(&w, packed, len);
    struct key key = user_key(m->user->access_key);
    int err = tables_put(t, &key, &w);
    return err == 0 ? tables_reply(t, &m->user->base) : err;
}

int user_query_get(struct tables *t, const void *message)
{
    const Tarn__UserGet *m = message;
    if (t->cred.uid != 0)
        return -E_PERM;
    if (!text_ok(m->access_key))
        return -E_NOENT;
    struct key key = user_key(m->access_key);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err;
    ProtobufCMessage *user;
    err = tables_message(t, &key, value, &tarn__user__descriptor, &user);
    if (err != 0)
        return err;
    err = tables_reply(t, user);
    protobuf_c_message_free_unpacked(user, NULL);
    return err;
}
