/* Rows of snapshots and clones: keys and values. */
#include "record_view.h"

#include "common/err.h"

static int done(const struct reader *r)
{
    return r->failed || reader_left(r) != 0 ? -E_CORRUPT : 0;
}

static void be64(uint8_t out[8], uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        out[i] = (uint8_t)(v >> (56 - 8 * i));
}

/* The row's key, a zero byte and the epoch: names have no zero bytes and other keys a fixed length,
 * so rows stay in the order of their keys, and one row's in the order of epochs. */
struct key key_history_prefix(const struct key *row)
{
    struct key key = key_append(key_table(TABLE_HISTORY), row->data, row->len);
    return key_append(key, "", 1);
}

struct key key_history(const struct key *row, uint64_t epoch)
{
    uint8_t number[8];
    be64(number, epoch);
    return key_append(key_history_prefix(row), number, sizeof number);
}

struct key key_history_of(uint64_t epoch, const struct key *row)
{
    return key_append(key_1(TABLE_HISTORY_OF, epoch), row->data, row->len);
}

int key_of_history(const uint8_t *data, size_t n, struct key *ret, uint64_t *ret_epoch)
{
    if (n < 1 + 9 + 9 || n - 10 > sizeof ret->data)
        return -E_CORRUPT;
    struct reader r = reader_init(data + n - 8, 8);
    *ret_epoch = reader_be64(&r);
    *ret = key_append((struct key){0}, data + 1, n - 10);
    return 0;
}

int key_of_history_of(const struct key *index, struct key *ret)
{
    if (index->len < 9 + 9)
        return -E_CORRUPT;
    *ret = key_append((struct key){0}, index->data + 9, index->len - 9u);
    return 0;
}

struct key key_snapshot_name(uint64_t root, const char *name, size_t len)
{
    return key_append(key_2(TABLE_SNAPSHOT, SNAPSHOT_BY_NAME, root), name, len);
}

void tree_snapshot_encode(const struct tree_snapshot *s, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u8(w, s->state);
    writer_u64(w, s->root);
    writer_u64(w, s->epoch);
    writer_u64(w, s->created);
    writer_u64(w, s->next_ino);
    writer_u32(w, s->uid);
    writer_u32(w, s->clones);
    writer_u8(w, s->name_len);
    writer_bytes(w, s->name, s->name_len);
}

int tree_snapshot_decode(uint32_t id, const void *data, size_t n, struct tree_snapshot *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    struct tree_snapshot s = {.id = id};
    s.state = reader_u8(&r);
    s.root = reader_u64(&r);
    s.epoch = reader_u64(&r);
    s.created = reader_u64(&r);
    s.next_ino = reader_u64(&r);
    s.uid = reader_u32(&r);
    s.clones = reader_u32(&r);
    s.name_len = reader_u8(&r);
    const uint8_t *name = reader_bytes(&r, s.name_len);
    if (done(&r) != 0 || s.state < SNAPSHOT_LIVE || s.state > SNAPSHOT_GOING)
        return -E_CORRUPT;
    memcpy(s.name, name, s.name_len);
    *ret = s;
    return 0;
}

void clone_encode(const struct clone *clone, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u32(w, clone->family);
    writer_u32(w, clone->snapshot);
    writer_u32(w, clone->base);
    writer_u64(w, clone->names);
}

int clone_decode(uint32_t id, const void *data, size_t n, struct clone *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    struct clone clone = {.id = id};
    clone.family = reader_u32(&r);
    clone.snapshot = reader_u32(&r);
    clone.base = reader_u32(&r);
    clone.names = reader_u64(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = clone;
    return 0;
}

void cover_set_add(struct cover_set *set, uint64_t root)
{
    for (unsigned i = 0; i < set->n; i++)
        if (set->roots[i] == root)
            return;
    if (set->n == COVER_ROOTS_MAX)
        set->any = true; /* too much is kept then, never too little */
    else
        set->roots[set->n++] = root;
}

void cover_set_merge(struct cover_set *set, const struct cover_set *more)
{
    set->any |= more->any;
    for (unsigned i = 0; i < more->n; i++)
        cover_set_add(set, more->roots[i]);
}

static void set_encode(const struct cover_set *set, struct writer *w)
{
    writer_u8(w, set->any);
    writer_u8(w, set->n);
    for (unsigned i = 0; i < set->n; i++)
        writer_u64(w, set->roots[i]);
}

static void set_decode(struct reader *r, struct cover_set *ret)
{
    ret->any = reader_u8(r) != 0;
    ret->n = reader_u8(r);
    if (ret->n > COVER_ROOTS_MAX) {
        ret->n = 0;
        r->failed = true;
    }
    for (unsigned i = 0; i < ret->n; i++)
        ret->roots[i] = reader_u64(r);
}

void cover_encode(const struct cover *cover, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    set_encode(&cover->set, w);
    writer_u64(w, cover->until);
    writer_u64(w, cover->epoch);
}

int cover_decode(const void *data, size_t n, struct cover *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    struct cover cover = {0};
    set_decode(&r, &cover.set);
    cover.until = reader_u64(&r);
    cover.epoch = reader_u64(&r);
    if (done(&r) != 0)
        return -E_CORRUPT;
    *ret = cover;
    return 0;
}

void history_encode(const struct history *history, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u8(w, (uint8_t)history->kind);
    set_encode(&history->set, w);
    if (history->kind == ROW_VALUE) {
        writer_u32(w, (uint32_t)history->len);
        writer_bytes(w, history->data, history->len);
    }
}

int history_decode(const void *data, size_t n, struct history *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    struct history history = {0};
    uint8_t kind = reader_u8(&r);
    set_decode(&r, &history.set);
    history.kind = (enum row_kind)kind;
    history.len = kind == ROW_VALUE ? reader_u32(&r) : 0;
    history.data = reader_bytes(&r, history.len);
    if (done(&r) != 0 || kind > ROW_WHITEOUT)
        return -E_CORRUPT;
    *ret = history;
    return 0;
}
