/* Access keys and whom they belong to, asked from the metadata service and kept for a few seconds: a
 * new key is known, and a revoked one refused, everywhere within USERS_KEEP_MS. Threads: the io's; fibers. */
#ifndef TARN_GATEWAY_USERS_H
#define TARN_GATEWAY_USERS_H

#include "client/meta.h"

#define USERS_KEEP_MS 3000
#define USERS_MAX 1024 /* kept at a time; past it the oldest goes */

struct users;
struct user {
    char access_key[129], secret[256], name[64];
    uint32_t uid, gid;
    bool admin;
};
int users_create(struct io *io, struct meta *meta, struct users **ret);
void users_destroy(struct users *users);
/* Errors: -E_AUTH unknown access key; those of meta_call(). */
int users_get(struct users *users, const char *access_key, struct user *ret);

#endif
