/* Keys in byte order. Entries are stored by name, but the key of what is inside the directory `a`
 * begins with "a/", and '-' and '.' sort before '/': so "a-b" comes before "a/x" although the entry
 * `a` comes before `a-b`. Each level of the walk therefore sets a directory aside when it meets its
 * entry, and enters it when the next entry's name is past "a/". The ones set aside are each a
 * proper prefix of the next (a, a-, a-b: their names continue with a byte below '/'), so they are a
 * stack, and at most 255 deep.
 *
 * A walk that begins at a key must find the directories that would have been set aside by then:
 * they are named by proper prefixes of the key's first component, followed there by a byte below
 * '/'. */
#include "query.h"

#include "chunkmap.h"
#include "common/check.h"
#include "common/err.h"
#include "lease_rows.h"
#include "namespace.h"

#define WALK_KEY_MAX 4096 /* longer paths are no keys (S3: 1024) */
#define WALK_BATCH 128
#define LIST_STEPS_MAX 20000 /* entries looked at for one answer */

struct aside {
    char *name; /* owned */
    char *from; /* where to begin in it; owned, NULL = all of it */
    uint64_t ino;
};

struct level {
    struct level *up;
    uint64_t ino;
    size_t key_len;  /* of the keys of this level: what comes before the name */
    size_t base_len; /* first level: names begin with these bytes */
    struct aside *asides;
    size_t n_asides, cap_asides;
    struct rows rows;
    size_t row;
    bool end;
    struct key next; /* where the next batch begins */
    char base[MD_NAME_MAX + 1];
};

struct walking {
    struct tables *t;
    struct key_walk *walk;
    struct level *top;
    size_t steps;
    char key[WALK_KEY_MAX + MD_NAME_MAX + 2];
};

static void level_pop(struct walking *w)
{
    struct level *level = w->top;
    w->top = level->up;
    for (size_t i = 0; i < level->n_asides; i++) {
        free(level->asides[i].name);
        free(level->asides[i].from);
    }
    free(level->asides);
    rows_fini(&level->rows);
    free(level);
}

static void walking_free(struct walking **w)
{
    while (*w != NULL && (*w)->top != NULL)
        level_pop(*w);
    free(*w);
}

static int aside_push(struct level *level, const char *name, size_t len, const char *from,
                      uint64_t ino)
{
    if (level->n_asides == level->cap_asides) {
        size_t cap = level->cap_asides * 2 + 4;
        struct aside *grown = realloc(level->asides, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        level->asides = grown;
        level->cap_asides = cap;
    }
    struct aside aside = {
        .name = strndup(name, len), .from = from == NULL ? NULL : strdup(from), .ino = ino};
    if (aside.name == NULL || (from != NULL && aside.from == NULL)) {
        free(aside.name);
        free(aside.from);
        return -E_NOMEM;
    }
    level->asides[level->n_asides++] = aside;
    return 0;
}

/* Sets `name` aside when it is a directory here. */
static int aside_named(struct walking *w, struct level *level, const char *name, size_t len,
                       const char *from)
{
    char copy[MD_NAME_MAX + 1];
    struct entry entry;
    memcpy(copy, name, len);
    copy[len] = 0;
    int err = ns_entry_get(w->t, level->ino, copy, &entry);
    if (err == -E_NOENT || (err == 0 && entry.type != TARN__FILE_TYPE__FT_DIR))
        return 0;
    return err == 0 ? aside_push(level, name, len, from, entry.ino) : err;
}

/* Prepares a level to begin at `from` (inclusive), relative to it. */
static int level_seek(struct walking *w, struct level *level, const char *from)
{
    size_t len = strcspn(from, "/");
    if (len > MD_NAME_MAX) { /* longer than any name: its first 255 bytes sort just before it */
        level->next = key_named(TABLE_ENTRY, level->ino, from, MD_NAME_MAX);
        return 0;
    }
    int err = 0;
    for (size_t p = MAX(level->base_len, (size_t)1); p < len && err == 0; p++)
        if ((uint8_t)from[p] < '/')
            err = aside_named(w, level, from, p, NULL);
    bool inside = from[len] == '/';
    if (err == 0 && inside)
        err = aside_named(w, level, from, len, from + len + 1);
    char name[MD_NAME_MAX + 2] = {0};
    memcpy(name, from, len);
    if (inside) /* what sorts before "name/" is behind us */
        name[len] = '/';
    level->next = key_named(TABLE_ENTRY, level->ino, name, len + inside);
    return err;
}

static int level_push(struct walking *w, uint64_t ino, size_t key_len, const char *base,
                      const char *from)
{
    struct level *level = calloc(1, sizeof *level);
    if (level == NULL)
        return -E_NOMEM;
    level->up = w->top;
    level->ino = ino;
    level->key_len = key_len;
    level->base_len = strlen(base);
    memcpy(level->base, base, level->base_len + 1);
    w->top = level;
    int order = strncmp(from, base, level->base_len);
    if (order > 0)
        level->end = true; /* everything here is before `from` */
    if (order != 0) {
        level->next = key_named(TABLE_ENTRY, ino, base, level->base_len);
        return 0;
    }
    return level_seek(w, level, from);
}

static int batch(struct walking *w, struct level *level)
{
    if (level->row < level->rows.count || level->end)
        return 0;
    struct key prefix = key_named(TABLE_ENTRY, level->ino, level->base, level->base_len);
    rows_fini(&level->rows);
    level->row = 0;
    int err = tables_rows(w->t, &level->next, &prefix, WALK_BATCH, &level->rows);
    if (err != 0)
        return err;
    level->end = level->rows.count < WALK_BATCH;
    if (level->rows.count > 0) {
        const struct key *last = &level->rows.rows[level->rows.count - 1].key;
        size_t len = 0;
        const char *name = key_name(last, &len);
        char next[MD_NAME_MAX + 2] = {0};
        memcpy(next, name, MIN(len, (size_t)MD_NAME_MAX));
        level->next = key_named(TABLE_ENTRY, level->ino, next, len + 1);
    }
    return 0;
}

/* "aside/" against the next name; they are never equal. */
static bool is_due(const struct level *level, const struct aside *aside)
{
    if (level->row >= level->rows.count)
        return true;
    size_t len = 0, n = strlen(aside->name);
    const char *name = key_name(&level->rows.rows[level->row].key, &len);
    int order = memcmp(name, aside->name, MIN(len, n));
    if (order != 0)
        return order > 0;
    return len > n && (uint8_t)name[n] > '/';
}

static int visit_file(struct walking *w, size_t len, uint64_t ino)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(w->t, ino, &inode);
    w->key[len] = 0;
    return err == 0 ? w->walk->visit(w->walk->arg, w->key, &inode) : err;
}

/* Enters, or with one_level visits, the directory set aside last. */
static int enter(struct walking *w, struct level *level)
{
    struct aside aside = level->asides[--level->n_asides];
    _cleanup_free_ char *name = aside.name;
    _cleanup_free_ char *from = aside.from;
    size_t n = strlen(name), key_len = level->key_len + n + 1;
    _cleanup_(inode_fini) struct inode dir = {0};
    struct entry self;
    if (key_len > WALK_KEY_MAX)
        return 0;
    int err = ns_inode_get(w->t, aside.ino, &dir);
    if (err != 0)
        return err;
    memcpy(w->key + level->key_len, name, n);
    w->key[key_len - 1] = '/';
    w->key[key_len] = 0;
    if (w->walk->one_level) {
        bool only_self = dir.entries == 1 && ns_entry_get(w->t, dir.ino, NS_SELF, &self) == 0;
        return only_self ? 0 : w->walk->visit(w->walk->arg, w->key, NULL);
    }
    if (ns_may(w->t, &dir, NS_READ | NS_EXEC) != 0)
        return 0; /* what the caller may not see is not there */
    return level_push(w, dir.ino, key_len, "", from == NULL ? "" : from);
}

static int entry_step(struct walking *w, struct level *level)
{
    const struct row *row = &level->rows.rows[level->row++];
    struct entry entry, self;
    size_t len = 0;
    const char *name = key_name(&row->key, &len);
    if (name == NULL || len > MD_NAME_MAX || entry_decode(row->value, row->len, &entry) != 0)
        return tables_corrupt(w->t, &row->key, "directory entry");
    if (len == strlen(NS_SELF) && memcmp(name, NS_SELF, len) == 0)
        return 0; /* was visited under the directory's own name */
    memcpy(w->key + level->key_len, name, len);
    w->key[level->key_len + len] = 0;
    if (entry.type == TARN__FILE_TYPE__FT_FILE)
        return visit_file(w, level->key_len + len, entry.ino);
    if (entry.type != TARN__FILE_TYPE__FT_DIR)
        return 0;
    int err = ns_entry_get(w->t, entry.ino, NS_SELF, &self);
    if (err == 0)
        err = visit_file(w, level->key_len + len, self.ino);
    if (err != 0 && err != -E_NOENT)
        return err;
    return aside_push(level, name, len, NULL, entry.ino);
}

static int walk_step(struct walking *w)
{
    struct level *level = w->top;
    int err = batch(w, level);
    if (err != 0)
        return err;
    if (level->n_asides > 0 && is_due(level, &level->asides[level->n_asides - 1]))
        return enter(w, level);
    if (level->row < level->rows.count)
        return entry_step(w, level);
    level_pop(w);
    return 0;
}

/* The directory part of the prefix; *ret_ino 0 when there is none such: no key has the prefix. */
static int prefix_dir(struct tables *t, uint64_t dir, const char *prefix, size_t len,
                      uint64_t *ret_ino)
{
    *ret_ino = 0;
    struct entry entry = {.ino = dir, .type = TARN__FILE_TYPE__FT_DIR};
    for (size_t at = 0; at < len;) {
        size_t n = strcspn(prefix + at, "/");
        char name[MD_NAME_MAX + 1];
        if (n == 0 || n > MD_NAME_MAX)
            return 0;
        memcpy(name, prefix + at, n);
        name[n] = 0;
        int err = ns_entry_get(t, entry.ino, name, &entry);
        if (err == -E_NOENT || (err == 0 && entry.type != TARN__FILE_TYPE__FT_DIR))
            return 0;
        if (err != 0)
            return err;
        at += n + 1;
    }
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(t, entry.ino, &inode);
    if (err == 0 && ns_may(t, &inode, NS_READ | NS_EXEC) == 0)
        *ret_ino = inode.ino;
    return err;
}

int key_walk(struct tables *t, struct key_walk *walk)
{
    const char *slash = strrchr(walk->prefix, '/');
    size_t dir_len = slash == NULL ? 0 : (size_t)(slash - walk->prefix) + 1;
    const char *base = walk->prefix + dir_len, *from = walk->from;
    walk->ret_stopped = NULL;
    if (dir_len > WALK_KEY_MAX || strlen(base) > MD_NAME_MAX)
        return 0;
    int order = strncmp(from, walk->prefix, dir_len);
    if (order > 0)
        return 0;
    from = order < 0 ? "" : from + dir_len;
    if (strcmp(from, base) < 0)
        from = base;
    uint64_t ino;
    int err = prefix_dir(t, walk->dir, walk->prefix, dir_len, &ino);
    if (err != 0 || ino == 0)
        return err;
    _cleanup_(walking_free) struct walking *w = calloc(1, sizeof *w);
    if (w == NULL)
        return -E_NOMEM;
    w->t = t;
    w->walk = walk;
    memcpy(w->key, walk->prefix, dir_len);
    err = level_push(w, ino, dir_len, base, from);
    while (err == 0 && w->top != NULL && w->steps++ < walk->steps_max)
        err = walk_step(w);
    if (err == 0 && w->top != NULL) {
        walk->ret_stopped = strdup(w->key);
        err = walk->ret_stopped == NULL ? -E_NOMEM : 0;
    }
    return err == 1 ? 0 : err;
}

/* ---- LIST_OBJECTS */
struct object_item {
    Tarn__ListedObject message;
    Tarn__Attr attr;
    struct inode inode;
    char *key;
};

struct object_list {
    struct tables *t;
    const char *prefix, *delimiter, *after;
    char *last_common; /* the common prefix given last, or the one to go on behind; owned */
    struct object_item *items;
    Tarn__ListedObject **pointers;
    size_t count, max;
    bool truncated;
};

static void object_list_fini(struct object_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        free(l->items[i].key);
        inode_fini(&l->items[i].inode);
    }
    free(l->items);
    free(l->pointers);
    free(l->last_common);
}

static int object_add(struct object_list *l, const char *key, size_t len, const struct inode *inode)
{
    if (l->count == l->max) {
        l->truncated = true;
        return 1;
    }
    struct object_item *item = &l->items[l->count];
    item->key = strndup(key, len);
    if (item->key == NULL)
        return -E_NOMEM;
    l->pointers[l->count++] = &item->message;
    tarn__listed_object__init(&item->message);
    item->message.key = item->key;
    item->message.common_prefix = inode == NULL;
    if (inode == NULL)
        return 0;
    item->inode = *inode;
    item->inode.data = NULL; /* the listing tells attributes only */
    ns_attr(&item->inode, &item->attr);
    item->message.attr = &item->attr;
    return exclusive_look(l->t, item->inode.ino);
}

static int object_common(struct object_list *l, const char *key, size_t len)
{
    if (l->last_common != NULL && strlen(l->last_common) == len &&
        memcmp(l->last_common, key, len) == 0)
        return 0;
    int err = object_add(l, key, len, NULL);
    if (err != 0)
        return err;
    free(l->last_common);
    l->last_common = strndup(key, len);
    return l->last_common == NULL ? -E_NOMEM : 0;
}

static int object_visit(void *arg, const char *key, const struct inode *inode)
{
    struct object_list *l = arg;
    size_t delimiter = strlen(l->delimiter), prefix = strlen(l->prefix);
    if (strncmp(key, l->prefix, prefix) != 0)
        return 0; /* one_level: "a/" for the prefix "a/" itself */
    const char *found = delimiter == 0 ? NULL : strstr(key + prefix, l->delimiter);
    if (found != NULL)
        return object_common(l, key, (size_t)(found - key) + delimiter);
    return inode == NULL || strcmp(key, l->after) <= 0 ? 0 : object_add(l, key, strlen(key), inode);
}

/* When `after` is a common prefix itself, everything it stands for has been told. */
static int object_list_init(struct object_list *l, const Tarn__ListObjects *m)
{
    l->prefix = m->prefix;
    l->delimiter = m->delimiter;
    l->after = m->after;
    l->max = m->max == 0 ? QUERY_LIST_MAX : MIN((size_t)m->max, (size_t)QUERY_LIST_MAX);
    l->items = calloc(l->max, sizeof *l->items);
    l->pointers = calloc(l->max, sizeof *l->pointers);
    if (l->items == NULL || l->pointers == NULL)
        return -E_NOMEM;
    size_t n = strlen(m->after), d = strlen(m->delimiter), p = strlen(m->prefix);
    if (d > 0 && n >= p + d && strncmp(m->after, m->prefix, p) == 0 &&
        strstr(m->after + p, m->delimiter) == m->after + n - d) {
        l->last_common = strdup(m->after);
        return l->last_common == NULL ? -E_NOMEM : 0;
    }
    return 0;
}

static int object_list_reply(struct tables *t, struct object_list *l, const char *stopped)
{
    Tarn__ListObjectsReply reply = TARN__LIST_OBJECTS_REPLY__INIT;
    reply.n_objects = l->count;
    reply.objects = l->pointers;
    reply.truncated = l->truncated || stopped != NULL;
    if (l->truncated)
        reply.next = l->count > 0 ? l->items[l->count - 1].key : (char *)l->after;
    else if (stopped != NULL)
        reply.next = (char *)stopped;
    return tables_reply(t, &reply.base);
}

int query_list_objects(struct tables *t, const void *message)
{
    const Tarn__ListObjects *m = message;
    _cleanup_(inode_fini) struct inode bucket = {0};
    _cleanup_(object_list_fini) struct object_list l = {0};
    int err = ns_where_dir(t, m->bucket, 0, &bucket);
    if (err == 0)
        err = ns_may(t, &bucket, NS_READ | NS_EXEC);
    if (err == 0)
        err = object_list_init(&l, m);
    l.t = t;
    if (err != 0)
        return err;
    struct key_walk walk = {.dir = bucket.ino,
                            .prefix = m->prefix,
                            .from = m->after,
                            .one_level = strcmp(m->delimiter, "/") == 0,
                            .steps_max = LIST_STEPS_MAX,
                            .visit = object_visit,
                            .arg = &l};
    err = key_walk(t, &walk);
    _cleanup_free_ char *stopped = walk.ret_stopped;
    return err == 0 ? object_list_reply(t, &l, stopped) : err;
}
