/* Pages of a bucket's keys: S3's prefix, delimiter and paging on top of the metadata service's listing of paths. Pure
 * but for the fetch function, which a test replaces. What order holds: docs/protocols/s3.md. */
#ifndef TARN_GATEWAY_LISTING_H
#define TARN_GATEWAY_LISTING_H

#include "key.h"
#include "meta.pb-c.h"
#include "s3_meta.h"

#define LISTING_MAX 1000
/* A position is a path, or a group's path with its slash, as LIST_OBJECTS takes it in `after`. */
#define LISTING_POSITION_MAX (KEY_PATH_MAX + 8)

struct listing_query {
    const char *prefix, *delimiter; /* of keys; "" = none */
    unsigned max;                   /* 0 … LISTING_MAX */
    bool sorted;                    /* order the page by key (positions are opaque to the client then) */
    char after[LISTING_POSITION_MAX];
    char group[KEY_MAX + 2];        /* the common prefix given out last: not again */
    bool seek;                      /* `after` is before the group: pass over everything up to its first key */
};
struct listing_item {
    char *key;
    bool common_prefix;
    uint64_t size, mtime;
    uint32_t uid;
    char etag[S3_ETAG_SIZE];
};
struct listing {
    struct listing_item *items;
    size_t count;
    bool truncated;
    char after[LISTING_POSITION_MAX]; /* where the next page begins, when truncated */
    char group[KEY_MAX + 2];
};
typedef int (*listing_fetch_fn)(void *arg, const char *prefix, const char *delimiter, const char *after, unsigned max,
                                Tarn__ListObjectsReply **ret);

/* Sets after and group so that the page begins behind `key` (a key or a common prefix given out before).
 * -E_NAMETOOLONG. */
int listing_start_after(struct listing_query *query, const char *key);
/* Errors: fetch's; -E_NAMETOOLONG prefix over KEY_MAX; -E_NOMEM; -E_PROTO a reply that does not advance. */
int listing_run(const struct listing_query *query, listing_fetch_fn fetch, void *arg, struct listing *ret);
void listing_fini(struct listing *listing);
/* Opaque continuation tokens. out: LISTING_TOKEN_SIZE bytes. Reading: -E_INVAL. */
#define LISTING_TOKEN_SIZE ((LISTING_POSITION_MAX + KEY_MAX + 8) / 3 * 4 + 8)
void listing_token_write(const struct listing *listing, char *out);
int listing_token_read(const char *token, struct listing_query *ret);

#endif
