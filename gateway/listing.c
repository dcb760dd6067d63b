#include "listing.h"
#include "text.h"
#include "common/err.h"

#include <stdio.h>

struct run {
    const struct listing_query *query;
    struct listing *out;
    char prefix[KEY_PATH_MAX];
    bool flat;    /* group here, by keys, instead of letting the service group by paths */
    bool escaped; /* some key is not its path: the page may be out of order */
    bool seek;
    bool restart; /* a group cannot be told from its path: start this page again, flat */
};

int listing_start_after(struct listing_query *query, const char *key)
{
    size_t n = strlen(key), d = strlen(query->delimiter), prefix = strlen(query->prefix);
    char path[KEY_PATH_MAX];
    /* A group ends with the first delimiter behind the prefix. */
    bool group = d > 0 && n >= prefix + d && strncmp(key, query->prefix, prefix) == 0 &&
                 strstr(key + prefix, query->delimiter) == key + n - d;

    query->after[0] = query->group[0] = 0;
    query->seek = false;
    if (n == 0)
        return 0;
    if (n > KEY_MAX)
        return -E_NAMETOOLONG;
    if (group)
        strcpy(query->group, key);
    /* The service takes a group's path (with its slash) as "behind the whole group". A group that ends in what may or may
     * not be spelled with an escape has no path of its own. */
    const char *last = strrchr(key, '/') == NULL ? key : strrchr(key, '/') + 1;
    query->seek = group && (*last == '%' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0);
    int r = group ? key_prefix_to_path(key, path) : key_to_path(key, path);
    if (r == 0)
        strcpy(query->after, path);
    return r;
}

static int add_item(struct run *run, const char *key, bool common_prefix, const Tarn__Attr *attr)
{
    struct listing *out = run->out;
    struct listing_item *item = &out->items[out->count];

    memset(item, 0, sizeof *item);
    item->key = strdup(key);
    if (item->key == NULL)
        return -E_NOMEM;
    item->common_prefix = common_prefix;
    if (!common_prefix && attr != NULL) {
        item->size = attr->size;
        item->mtime = attr->mtime;
        item->uid = attr->uid;
        s3_etag(attr, item->etag);
    }
    out->count++;
    if (common_prefix && strlen(key) < sizeof out->group)
        strcpy(out->group, key);
    return 0;
}

/* Whether the path of a group ends in a name that may go on in the next component ("%c…"). */
static bool ends_in_full_name(const char *path)
{
    size_t n = strlen(path) - 1; /* without the slash */
    const char *slash = memrchr(path, '/', n);
    return (slash == NULL ? n : n - (size_t)(slash - path) - 1) == KEY_NAME_MAX;
}

/* The key of a path, or of a group's path with its slash. */
static void read_key(struct run *run, const Tarn__ListedObject *object, char *path, char *key)
{
    size_t n = strlen(object->key);
    bool slash = object->common_prefix && n > 0 && object->key[n - 1] == '/';

    memcpy(path, object->key, n + 1);
    if (slash)
        path[n - 1] = 0;
    key_from_path(path, key);
    if (strcmp(path, key) != 0)
        run->escaped = true;
    if (slash)
        strcat(key, "/");
}

static int take_object(struct run *run, const Tarn__ListedObject *object)
{
    const struct listing_query *query = run->query;
    char path[KEY_PATH_MAX], key[KEY_PATH_MAX + 1];
    size_t prefix = strlen(query->prefix);

    if (strlen(object->key) >= sizeof path)
        return 0; /* deeper than any key: only a mount makes such paths */
    if (object->common_prefix && ends_in_full_name(object->key)) {
        run->restart = true;
        return 0;
    }
    read_key(run, object, path, key);
    if (key[0] == 0 || strlen(key) > KEY_MAX + 1 || strncmp(key, query->prefix, prefix) != 0)
        return 0;
    if (run->seek && strncmp(key, query->group, strlen(query->group)) != 0)
        return 0;
    run->seek = false;
    if (!object->common_prefix && query->delimiter[0] != 0) {
        char *end = strstr(key + prefix, query->delimiter);
        if (end != NULL) {
            end[strlen(query->delimiter)] = 0;
            return strcmp(key, run->out->group) == 0 ? 0 : add_item(run, key, true, NULL);
        }
    }
    if (object->common_prefix && strcmp(key, run->out->group) == 0)
        return 0;
    return add_item(run, key, object->common_prefix, object->attr);
}

static int advance(struct run *run, const Tarn__ListObjectsReply *reply)
{
    const char *next = reply->next;

    if (next == NULL || next[0] == 0)
        next = reply->n_objects > 0 ? reply->objects[reply->n_objects - 1]->key : "";
    if (strlen(next) >= LISTING_POSITION_MAX || strcmp(next, run->out->after) == 0)
        return -E_PROTO;
    strcpy(run->out->after, next);
    return 0;
}

static void reset(struct run *run)
{
    for (size_t i = 0; i < run->out->count; i++)
        free(run->out->items[i].key);
    run->out->count = 0;
    strcpy(run->out->after, run->query->after);
    strcpy(run->out->group, run->query->group);
    run->restart = run->escaped = false;
    run->seek = run->query->seek;
}

/* Pages are asked for with exactly the room that is left, so that none is cut in the middle. */
static int fill(struct run *run, listing_fetch_fn fetch, void *arg)
{
    struct listing *out = run->out;
    bool more = true;

    while (more && out->count < run->query->max) {
        Tarn__ListObjectsReply *reply;
        int r = fetch(arg, run->prefix, run->flat ? "" : run->query->delimiter, out->after,
                      run->query->max - (unsigned)out->count, &reply);
        if (r < 0)
            return r;
        size_t room = run->query->max - out->count;
        if (reply->n_objects > room)
            r = -E_PROTO;
        for (size_t i = 0; i < reply->n_objects && r == 0 && !run->restart; i++)
            r = take_object(run, reply->objects[i]);
        more = reply->truncated;
        if (r == 0 && more && !run->restart)
            r = advance(run, reply);
        tarn__list_objects_reply__free_unpacked(reply, NULL);
        if (r < 0)
            return r;
        if (run->restart) {
            reset(run);
            run->flat = true;
            more = true;
        } else if (run->seek && !more) {
            /* The group has gone meanwhile: rather tell keys twice than none. */
            reset(run);
            run->seek = false;
            more = true;
        }
    }
    out->truncated = more && run->query->max > 0;
    return 0;
}

static int compare_items(const void *a, const void *b)
{
    return strcmp(((const struct listing_item *)a)->key, ((const struct listing_item *)b)->key);
}

int listing_run(const struct listing_query *query, listing_fetch_fn fetch, void *arg, struct listing *ret)
{
    struct run run = {.query = query, .out = ret};

    memset(ret, 0, sizeof *ret);
    int r = key_prefix_to_path(query->prefix, run.prefix);
    if (r < 0)
        return r;
    ret->items = calloc(query->max + 1, sizeof ret->items[0]);
    if (ret->items == NULL)
        return -E_NOMEM;
    run.flat = query->delimiter[0] != 0 && strcmp(query->delimiter, "/") != 0;
    reset(&run);
    r = fill(&run, fetch, arg);
    if (r < 0) {
        listing_fini(ret);
        return r;
    }
    if (query->sorted && run.escaped)
        qsort(ret->items, ret->count, sizeof ret->items[0], compare_items);
    return 0;
}

void listing_fini(struct listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        free(listing->items[i].key);
    free(listing->items);
    memset(listing, 0, sizeof *listing);
}

/* "1" position NUL group */
void listing_token_write(const struct listing *listing, char *out)
{
    uint8_t raw[LISTING_POSITION_MAX + KEY_MAX + 8];
    int n = snprintf((char *)raw, sizeof raw, "1%s%c%s", listing->after, 0, listing->group);

    text_base64(raw, (size_t)n, out);
}

int listing_token_read(const char *token, struct listing_query *ret)
{
    uint8_t raw[LISTING_POSITION_MAX + KEY_MAX + 8];
    int64_t n = text_unbase64(token, raw, sizeof raw - 1);

    if (n < 2 || raw[0] != '1')
        return -E_INVAL;
    raw[n] = 0;
    const char *position = (const char *)raw + 1, *group = position + strlen(position) + 1;
    if (group > (const char *)raw + n || strlen(position) >= sizeof ret->after || strlen(group) >= sizeof ret->group ||
        group + strlen(group) != (const char *)raw + n)
        return -E_INVAL;
    strcpy(ret->after, position);
    strcpy(ret->group, group);
    return 0;
}
