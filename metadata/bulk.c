#include "bulk.h"

#include <fcntl.h>

#include "common/err.h"
#include "lease_rows.h"
#include "namespace.h"
#include "query.h"
#include "quota.h"
#include "session.h"

/* ---- BATCH */
typedef int (*handler)(struct tables *t, const void *message);

/* What an item asks for; NULL when no field, or more than one, is set. */
static handler item_handler(const Tarn__BatchItem *item, const void **ret_message)
{
    const struct {
        const void *message;
        handler handle;
    } all[] = {{item->create, ns_cmd_create},      {item->unlink, ns_cmd_unlink},
               {item->set_attr, ns_cmd_setattr},   {item->close, session_cmd_close},
               {item->link, ns_cmd_link},          {item->set_xattr, ns_cmd_setxattr}};
    handler found = NULL;
    unsigned n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        if (all[i].message == NULL)
            continue;
        *ret_message = all[i].message;
        found = all[i].handle;
        n++;
    }
    return n == 1 ? found : NULL;
}

/* Whatever could make a lease's promise false has to wait for it, and that is for single requests. */
static const char *item_refusal(const Tarn__BatchItem *item)
{
    const Tarn__Create *create = item->create;
    const uint32_t sizes = TARN__SET_ATTR_BITS__SA_SIZE | TARN__SET_ATTR_BITS__SA_GROW | TARN__SET_ATTR_BITS__SA_CUT_TAIL;
    if (create != NULL && create->open && !create->exclusive)
        return "opens a file that may exist";
    if (item->set_attr != NULL && (item->set_attr->mask & sizes) != 0)
        return "changes a size";
    return NULL;
}

static int batch_check(struct tables *t, const Tarn__Batch *m)
{
    if (m->n_items > BULK_ITEMS_MAX)
        return tables_fail(t, -E_INVAL, "a batch of %zu items: at most %d", m->n_items,
                           BULK_ITEMS_MAX);
    for (size_t i = 0; i < m->n_items; i++) {
        const void *message;
        const char *why = item_handler(m->items[i], &message) == NULL
                              ? "is not exactly one change"
                              : item_refusal(m->items[i]);
        if (why != NULL)
            return tables_fail(t, -E_INVAL, "item %zu of the batch %s", i, why);
    }
    return 0;
}

/* The reply is written as protobuf by hand, because the entries come packed from their handlers. */
#define TAG(field, wire) ((uint8_t)((field) << 3 | (wire)))
#define WIRE_VARINT 0
#define WIRE_BYTES 2

static size_t varint(uint8_t out[10], uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

static void put_varint(struct writer *w, uint64_t v)
{
    uint8_t bytes[10];
    writer_bytes(w, bytes, varint(bytes, v));
}

/* One BatchResult. */
static void result_put(struct writer *w, int err, const struct fsm_result *result)
{
    uint8_t scratch[10];
    uint32_t status = err_to_wire(err);
    size_t detail = err == 0 ? 0 : strlen(result->detail), entry = err == 0 ? result->reply_len : 0;
    size_t len = status == 0 ? 0 : 1 + varint(scratch, status);
    len += entry == 0 ? 0 : 1 + varint(scratch, entry) + entry;
    len += detail == 0 ? 0 : 1 + varint(scratch, detail) + detail;
    writer_u8(w, TAG(1, WIRE_BYTES));
    put_varint(w, len);
    if (status != 0) {
        writer_u8(w, TAG(1, WIRE_VARINT));
        put_varint(w, status);
    }
    if (entry != 0) {
        writer_u8(w, TAG(2, WIRE_BYTES));
        put_varint(w, entry);
        writer_bytes(w, result->reply, entry);
    }
    if (detail != 0) {
        writer_u8(w, TAG(3, WIRE_BYTES));
        put_varint(w, detail);
        writer_bytes(w, result->detail, detail);
    }
}

static void reply_drop(struct fsm_result *result)
{
    free(result->reply);
    result->reply = NULL;
    result->reply_len = 0;
    result->detail[0] = 0;
}

static int item_run(struct tables *t, const Tarn__BatchItem *item, struct writer *w)
{
    const void *message = NULL;
    handler handle = item_handler(item, &message);
    struct tables_mark mark = tables_mark(t);
    int err = handle(t, message);
    if (t->result->n_recalls > 0)
        return err; /* a right of somebody is in the way: asked back, then all of it is tried again */
    if (err == 0)
        err = quota_settle(t, true);
    if (err == -E_NOMEM)
        return err; /* of this replica alone: no answer to the item (fsm_apply() tries all of it again) */
    if (err != 0)
        (void)tables_rollback(t, &mark);
    if (t->failed == 0)
        result_put(w, err, t->result);
    reply_drop(t->result);
    return t->failed;
}

int bulk_cmd_batch(struct tables *t, const void *message)
{
    const Tarn__Batch *m = message;
    _cleanup_(writer_fini) struct writer w = {0};
    int err = batch_check(t, m);
    for (size_t i = 0; i < m->n_items && err == 0; i++)
        err = item_run(t, m->items[i], &w);
    if (err != 0)
        return err;
    if (w.failed)
        return -E_NOMEM;
    if (w.len > SESSION_KEPT_REPLY_MAX) /* the sum: 1,000 entries of at most 200 bytes */
        return tables_fail(t, -E_FBIG, "the answer to the batch is too long to be kept");
    t->result->reply = w.data;
    t->result->reply_len = w.len;
    w = (struct writer){0};
    return 0;
}

/* ---- LOOKUPS */
struct lookups {
    struct inode inodes[BULK_ITEMS_MAX];
    Tarn__Attr attrs[BULK_ITEMS_MAX];
    Tarn__LookupsResult results[BULK_ITEMS_MAX], *pointers[BULK_ITEMS_MAX];
    size_t count, bytes;
};

static void lookups_free(struct lookups **l)
{
    for (size_t i = 0; *l != NULL && i < (*l)->count; i++)
        inode_fini(&(*l)->inodes[i]);
    free(*l);
}

static int lookups_add(struct tables *t, const Tarn__Where *where, struct lookups *l)
{
    size_t i = l->count++;
    struct inode *inode = &l->inodes[i];
    Tarn__LookupsResult *result = &l->results[i];
    *inode = (struct inode){0};
    l->pointers[i] = result;
    tarn__lookups_result__init(result);
    int err = ns_where(t, where, 0, inode);
    if (t->failed != 0 || err == -E_NOMEM)
        return t->failed != 0 ? t->failed : err;
    result->status = err_to_wire(err);
    if (err == 0) {
        (void)exclusive_look(t, inode->ino);
        ns_attr(inode, &l->attrs[i]);
        result->attr = &l->attrs[i];
        if (inode->type == TARN__FILE_TYPE__FT_SYMLINK)
            result->target = (char *)inode->data;
    }
    l->bytes += tarn__lookups_result__get_packed_size(result);
    return 0;
}

int bulk_query_lookups(struct tables *t, const void *message)
{
    const Tarn__Lookups *m = message;
    if (m->n_wheres > BULK_ITEMS_MAX)
        return tables_fail(t, -E_INVAL, "%zu lookups in one request: at most %d", m->n_wheres,
                           BULK_ITEMS_MAX);
    _cleanup_(lookups_free) struct lookups *l = malloc(sizeof *l);
    if (l == NULL)
        return -E_NOMEM;
    l->count = l->bytes = 0;
    int err = 0;
    for (size_t i = 0; i < m->n_wheres && l->bytes < QUERY_BYTES_MAX && err == 0; i++)
        err = lookups_add(t, m->wheres[i], l);
    if (err != 0)
        return err;
    Tarn__LookupsReply reply = TARN__LOOKUPS_REPLY__INIT;
    reply.results = l->pointers;
    reply.n_results = l->count;
    return tables_reply(t, &reply.base);
}
