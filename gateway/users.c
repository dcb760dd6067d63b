#include "users.h"
#include "common/coll.h"
#include "common/err.h"

#include <stdio.h>

struct kept {
    struct list node; /* oldest first */
    struct user user;
    uint64_t until_ms;
    bool unknown;
};
struct users {
    struct io *io;
    struct meta *meta;
    struct list kept;
    struct map by_key; /* hash of the access key → kept; a collision replaces */
    size_t count;
};

static uint64_t key_hash(const char *text)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325); /* FNV-1a */
    for (; *text != 0; text++)
        h = (h ^ (uint8_t)*text) * UINT64_C(0x100000001b3);
    return h;
}

int users_create(struct io *io, struct meta *meta, struct users **ret)
{
    struct users *users = calloc(1, sizeof *users);
    if (users == NULL)
        return -E_NOMEM;
    users->io = io;
    users->meta = meta;
    list_init(&users->kept);
    *ret = users;
    return 0;
}

static void forget(struct users *users, struct kept *kept)
{
    map_remove(&users->by_key, key_hash(kept->user.access_key));
    list_remove(&kept->node);
    users->count--;
    explicit_bzero(kept, sizeof *kept);
    free(kept);
}

void users_destroy(struct users *users)
{
    if (users == NULL)
        return;
    while (!list_empty(&users->kept))
        forget(users, list_entry(users->kept.next, struct kept, node));
    map_fini(&users->by_key);
    free(users);
}

/* 0 with *ret_unknown, or why it could not be asked. */
static int ask(struct users *users, const char *access_key, struct user *ret, bool *ret_unknown)
{
    Tarn__UserGet request = TARN__USER_GET__INIT;
    Tarn__User *user = NULL;

    request.access_key = (char *)access_key;
    int r = meta_call(users->meta, OP_USER_GET, &request.base, &request.ctx, &meta_root, &tarn__user__descriptor, &user,
                      NULL);
    memset(ret, 0, sizeof *ret);
    snprintf(ret->access_key, sizeof ret->access_key, "%s", access_key);
    *ret_unknown = r == -E_NOENT || r == -E_AUTH;
    if (r < 0)
        return *ret_unknown ? 0 : r;
    if (strcmp(user->access_key, access_key) != 0 || strlen(user->secret) >= sizeof ret->secret) {
        tarn__user__free_unpacked(user, NULL);
        return -E_PROTO;
    }
    strcpy(ret->secret, user->secret);
    snprintf(ret->name, sizeof ret->name, "%s", user->name);
    ret->uid = user->uid;
    ret->gid = user->gid;
    ret->admin = user->admin;
    tarn__user__free_unpacked(user, NULL);
    return 0;
}

/* Not keeping it costs only another question. */
static void keep(struct users *users, const struct user *user, bool unknown)
{
    struct kept *old = map_get(&users->by_key, key_hash(user->access_key));
    struct kept *kept = malloc(sizeof *kept);

    if (old != NULL)
        forget(users, old);
    else if (users->count == USERS_MAX)
        forget(users, list_entry(users->kept.next, struct kept, node));
    if (kept == NULL)
        return;
    kept->user = *user;
    kept->unknown = unknown;
    kept->until_ms = io_mono_ms(users->io) + USERS_KEEP_MS;
    if (map_put(&users->by_key, key_hash(user->access_key), kept) < 0) {
        free(kept);
        return;
    }
    list_append(&users->kept, &kept->node);
    users->count++;
}

int users_get(struct users *users, const char *access_key, struct user *ret)
{
    struct kept *kept = map_get(&users->by_key, key_hash(access_key));
    bool unknown;

    if (kept != NULL && strcmp(kept->user.access_key, access_key) == 0 && io_mono_ms(users->io) < kept->until_ms) {
        *ret = kept->user;
        return kept->unknown ? -E_AUTH : 0;
    }
    int r = ask(users, access_key, ret, &unknown);
    if (r < 0)
        return r;
    keep(users, ret, unknown);
    return unknown ? -E_AUTH : 0;
}
