#include "tables.h"

#include <stdarg.h>
#include <stdio.h>

#include "common/check.h"
#include "common/err.h"
#include "common/log.h"
#include "view.h"

/* A command that touches more rows than this is a mistake: every handler works in bounded steps. */
#define UNDO_ENTRIES_MAX 1000000

static int sticky(struct tables *t, int err)
{
    if (err != 0 && err != -E_NOENT && t->failed == 0)
        t->failed = err;
    return err;
}

int tables_init(struct tables *t, struct kv_txn *txn, bool write, struct fsm_result *result)
{
    *t = (struct tables){.txn = txn, .write = write, .result = result};
    arena_init(&t->arena, NULL, 0);
    struct key key = key_state();
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0)
        err = state_decode(value.data, value.len, &t->state);
    return sticky(t, err); /* -E_NOENT: the tables are empty */
}

/* Takes the latest changes back, down to `n_left` of them. */
static int undo_to(struct tables *t, size_t n_left)
{
    int err = 0;
    while (t->n_undo > n_left && err == 0) {
        const struct undo_entry *u = t->undo;
        err = u->existed ? kv_put(t->txn, u->bytes, u->key_len, u->bytes + u->key_len, u->len)
                         : kv_del(t->txn, u->bytes, u->key_len);
        t->undo = u->before;
        t->n_undo--;
    }
    return err;
}

struct tables_mark tables_mark(const struct tables *t)
{
    return (struct tables_mark){.n_undo = t->n_undo,
                                .n_pushes = t->result->n_pushes,
                                .state = t->state,
                                .state_dirty = t->state_dirty};
}

int tables_rollback(struct tables *t, const struct tables_mark *mark)
{
    struct fsm_result *r = t->result;
    while (r->n_pushes > mark->n_pushes)
        free(r->pushes[--r->n_pushes].control);
    t->state = mark->state;
    t->state_dirty = mark->state_dirty;
    t->n_quotas = 0;
    view_forget(t);
    if (t->failed == 0)
        sticky(t, undo_to(t, mark->n_undo));
    return t->failed;
}

int tables_finish(struct tables *t, int err)
{
    bool keep = err == 0 || t->keep_on_error;
    if (keep && t->failed == 0 && t->state_dirty) {
        _cleanup_(writer_fini) struct writer w = {0};
        state_encode(&t->state, &w);
        struct key key = key_state();
        (void)tables_put(t, &key, &w);
    }
    if (!keep && t->failed == 0)
        sticky(t, undo_to(t, 0));
    tables_fini(t);
    return t->failed != 0 ? t->failed : err;
}

void tables_fini(struct tables *t)
{
    t->undo = NULL;
    t->n_undo = 0;
    arena_fini(&t->arena);
    free(t->quotas);
    t->quotas = NULL;
    t->n_quotas = 0;
    free(t->view);
    t->view = NULL;
}

int tables_get(struct tables *t, const struct key *key, struct kv_val *ret)
{
    return view_is_virtual(key) ? tables_note(t, view_get(t, key, ret)) : tables_stored_get(t, key, ret);
}

int tables_stored_get(struct tables *t, const struct key *key, struct kv_val *ret)
{
    CHECK(!key->overflow);
    return sticky(t, kv_get(t->txn, key->data, key->len, ret));
}

bool tables_has(struct tables *t, const struct key *key)
{
    struct kv_val value;
    return tables_get(t, key, &value) == 0;
}

/* Remembers what the row was before the change. */
static int undo_note(struct tables *t, const struct key *key)
{
    CHECK(t->write);
    if (t->n_undo == UNDO_ENTRIES_MAX)
        return sticky(t, -E_BUSY);
    struct kv_val old = {0};
    int err = tables_stored_get(t, key, &old);
    if (err != 0 && err != -E_NOENT)
        return err;
    bool existed = err == 0;
    size_t len = existed ? old.len : 0;
    struct undo_entry *u = arena_alloc(&t->arena, sizeof *u + key->len + len);
    if (u == NULL)
        return sticky(t, -E_NOMEM);
    *u = (struct undo_entry){
        .before = t->undo, .existed = existed, .key_len = key->len, .len = (uint32_t)len};
    memcpy(u->bytes, key->data, key->len);
    if (len > 0)
        memcpy(u->bytes + key->len, old.data, len);
    t->undo = u;
    t->n_undo++;
    return 0;
}

int tables_stored_put(struct tables *t, const struct key *key, const void *data, size_t len)
{
    CHECK(!key->overflow && key->len <= KV_KEY_MAX);
    if (len > KV_VALUE_MAX)
        return -E_BUSY; /* a record at its limit: the request is refused, the tables are fine */
    int err = undo_note(t, key);
    if (err != 0)
        return err;
    return sticky(t, kv_put(t->txn, key->data, key->len, data, len));
}

/* Must snapshots or clones hear of a change of this row? */
static bool changes_views(const struct tables *t, const struct key *key)
{
    return view_has_history(key) &&
           (t->state.snapshots != 0 || t->state.clones != 0 || view_is_virtual(key));
}

int tables_put(struct tables *t, const struct key *key, const struct writer *value)
{
    bool whiteout;
    if (value->failed)
        return sticky(t, -E_NOMEM);
    int err = changes_views(t, key) ? view_change(t, key, value, &whiteout) : 0;
    return err != 0 ? err : tables_stored_put(t, key, value->data, value->len);
}

int tables_put_empty(struct tables *t, const struct key *key)
{
    return tables_stored_put(t, key, "", 0);
}

int tables_del(struct tables *t, const struct key *key)
{
    bool whiteout = false;
    int err = changes_views(t, key) ? view_change(t, key, NULL, &whiteout) : 0;
    if (err != 0)
        return err;
    const uint8_t gone = ROW_WHITEOUT_BYTE;
    return whiteout ? tables_stored_put(t, key, &gone, 1) : tables_stored_del(t, key);
}

int tables_stored_del(struct tables *t, const struct key *key)
{
    CHECK(!key->overflow);
    int err = undo_note(t, key);
    if (err != 0)
        return err;
    return sticky(t, kv_del(t->txn, key->data, key->len));
}

int tables_corrupt(struct tables *t, const struct key *key, const char *what)
{
    log_error("metadata tables: the %s record with key prefix '%c' cannot be read; this replica "
              "stops using them",
              what, key->len > 0 ? key->data[0] : '?');
    return sticky(t, -E_CORRUPT);
}

int tables_decoded(struct tables *t, const struct key *key, const char *what, int err)
{
    return err == 0 || err == -E_NOMEM ? tables_note(t, err) : tables_corrupt(t, key, what);
}

/* protobuf-c answers NULL to bad bytes and to no memory alike. */
static void *message_alloc(void *short_of_memory, size_t n)
{
    void *mem = malloc(n);
    *(bool *)short_of_memory |= mem == NULL;
    return mem;
}

static void message_free(void *short_of_memory, void *mem)
{
    free(mem);
}

int tables_message(struct tables *t, const struct key *key, struct kv_val value, const ProtobufCMessageDescriptor *type,
                   ProtobufCMessage **ret)
{
    bool short_of_memory = false;
    ProtobufCAllocator allocator = {.alloc = message_alloc, .free = message_free, .allocator_data = &short_of_memory};
    if (value.len < 1 || value.data[0] != RECORD_VERSION)
        return tables_corrupt(t, key, type->short_name);
    ProtobufCMessage *message = protobuf_c_message_unpack(type, &allocator, value.len - 1, value.data + 1);
    if (message == NULL)
        return tables_decoded(t, key, type->short_name, short_of_memory ? -E_NOMEM : -E_CORRUPT);
    *ret = message;
    return 0;
}

int tables_note(struct tables *t, int err)
{
    return err == -E_NOMEM ? sticky(t, err) : err;
}

void rows_fini(struct rows *rows)
{
    for (size_t i = 0; i < rows->count; i++)
        free(rows->rows[i].value);
    free(rows->rows);
    *rows = (struct rows){0};
}

struct rows_scan {
    struct rows *rows;
    size_t max;
};

static int rows_add(void *arg, struct kv_val key, struct kv_val value)
{
    struct rows_scan *scan = arg;
    struct rows *rows = scan->rows;
    if (rows->count == scan->max)
        return 1;
    if (rows->count == rows->cap) {
        size_t cap = rows->cap == 0 ? 16 : rows->cap * 2;
        struct row *grown = realloc(rows->rows, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        rows->rows = grown;
        rows->cap = cap;
    }
    if (key.len > sizeof rows->rows->key.data)
        return -E_CORRUPT;
    struct row *row = &rows->rows[rows->count];
    row->key = (struct key){.len = (uint16_t)key.len};
    memcpy(row->key.data, key.data, key.len);
    row->len = value.len;
    row->value = malloc(value.len + 1);
    if (row->value == NULL)
        return -E_NOMEM;
    memcpy(row->value, value.data, value.len);
    rows->count++;
    return rows->count == scan->max ? 1 : 0;
}

int tables_rows(struct tables *t, const struct key *start, const struct key *prefix, size_t max,
                struct rows *ret)
{
    *ret = (struct rows){0};
    struct rows_scan scan = {.rows = ret, .max = max};
    return max == 0 ? 0 : tables_scan(t, start, prefix, rows_add, &scan);
}

int tables_stored_rows(struct tables *t, const struct key *start, const struct key *prefix,
                       size_t max, struct rows *ret)
{
    *ret = (struct rows){0};
    struct rows_scan scan = {.rows = ret, .max = max};
    return max == 0 ? 0 : tables_stored_scan(t, start, prefix, rows_add, &scan);
}

struct whole_scan {
    kv_visit fn;
    void *arg;
};

static int whole_visit(void *arg, struct kv_val key, struct kv_val value)
{
    const struct whole_scan *scan = arg;
    return row_is_whiteout(value.data, value.len) ? 0 : scan->fn(scan->arg, key, value);
}

int tables_scan(struct tables *t, const struct key *start, const struct key *prefix, kv_visit fn,
                void *arg)
{
    if (view_is_virtual(prefix))
        return view_scan(t, start, prefix, fn, arg);
    bool tree = prefix->len > 0 && prefix->len < 9 && t->state.clones != 0;
    struct whole_scan scan = {.fn = fn, .arg = arg};
    return tree ? tables_stored_scan(t, start, prefix, whole_visit, &scan)
                : tables_stored_scan(t, start, prefix, fn, arg);
}

int tables_stored_scan(struct tables *t, const struct key *start, const struct key *prefix,
                       kv_visit fn, void *arg)
{
    CHECK(!start->overflow && !prefix->overflow);
    return sticky(t, kv_scan(t->txn, start->data, start->len, prefix->data, prefix->len, fn, arg));
}

static int any_found(void *arg, struct kv_val key, struct kv_val value)
{
    *(bool *)arg = true;
    return 1;
}

bool tables_any(struct tables *t, const struct key *prefix)
{
    bool found = false;
    (void)tables_scan(t, prefix, prefix, any_found, &found);
    return found;
}

int tables_last(struct tables *t, const struct key *at, const struct key *prefix,
                struct kv_val *ret_key, struct kv_val *ret_value)
{
    return view_is_virtual(prefix) ? view_last(t, at, prefix, ret_key, ret_value)
                                   : tables_stored_last(t, at, prefix, ret_key, ret_value);
}

int tables_stored_last(struct tables *t, const struct key *at, const struct key *prefix,
                       struct kv_val *ret_key, struct kv_val *ret_value)
{
    CHECK(!at->overflow && !prefix->overflow);
    return sticky(
        t, kv_last(t->txn, at->data, at->len, prefix->data, prefix->len, ret_key, ret_value));
}

int tables_reply(struct tables *t, const ProtobufCMessage *message)
{
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(len + 1);
    if (packed == NULL)
        return sticky(t, -E_NOMEM);
    protobuf_c_message_pack(message, packed);
    free(t->result->reply);
    t->result->reply = packed;
    t->result->reply_len = len;
    return 0;
}

int tables_push(struct tables *t, uint64_t session, unsigned op, const ProtobufCMessage *message)
{
    struct fsm_result *r = t->result;
    struct fsm_push *grown = realloc(r->pushes, (r->n_pushes + 1) * sizeof *grown);
    if (grown == NULL)
        return sticky(t, -E_NOMEM);
    r->pushes = grown;
    size_t len = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(len + 1);
    if (packed == NULL)
        return sticky(t, -E_NOMEM);
    protobuf_c_message_pack(message, packed);
    r->pushes[r->n_pushes++] =
        (struct fsm_push){.session = session, .op = op, .control = packed, .control_len = len};
    return 0;
}

static bool touched_room(struct fsm_result *r)
{
    if (r->n_touched == FSM_TOUCHED_MAX)
        return false;
    if (r->n_touched % 8 != 0)
        return true;
    uint64_t *grown = realloc(r->touched, (r->n_touched + 8) * sizeof *grown);
    if (grown != NULL)
        r->touched = grown;
    return grown != NULL;
}

void tables_touched(const struct tables *t, uint64_t ino)
{
    struct fsm_result *r = t->result;
    for (size_t i = r->n_touched; i-- > 0 && r->n_touched - i <= 8;) /* mostly the same few */
        if (r->touched[i] == ino)
            return;
    if (touched_room(r))
        r->touched[r->n_touched++] = ino;
    else
        r->touched_more = true;
}

int tables_recall(struct tables *t, const struct fsm_recall *recall)
{
    struct fsm_result *r = t->result;
    struct fsm_recall *grown = realloc(r->recalls, (r->n_recalls + 1) * sizeof *grown);
    if (grown == NULL)
        return sticky(t, -E_NOMEM);
    r->recalls = grown;
    r->recalls[r->n_recalls++] = *recall;
    return 0;
}

int tables_fail(struct tables *t, int err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(t->result->detail, sizeof t->result->detail, fmt, args);
    va_end(args);
    return err;
}
