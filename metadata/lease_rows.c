#include "lease_rows.h"

#include "common/err.h"
#include "lock_delegate.h"
#include "namespace.h"
#include "ops.h"
#include "session.h"

static int row_get(struct tables *t, uint64_t ino, struct exclusive *ret)
{
    struct key key = key_1(TABLE_EXCLUSIVE, ino);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0 && exclusive_decode(ino, value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "exclusive lease");
    return err;
}

static int row_put(struct tables *t, const struct exclusive *row)
{
    _cleanup_(writer_fini) struct writer w = {0};
    exclusive_encode(row, &w);
    struct key key = key_1(TABLE_EXCLUSIVE, row->ino), of_session = key_2(TABLE_SESSION_EXCLUSIVE, row->session, row->ino);
    int err = tables_put(t, &key, &w);
    return err == 0 ? tables_put_empty(t, &of_session) : err;
}

static int row_del(struct tables *t, const struct exclusive *row)
{
    struct key key = key_1(TABLE_EXCLUSIVE, row->ino), of_session = key_2(TABLE_SESSION_EXCLUSIVE, row->session, row->ino);
    int err = tables_del(t, &key);
    if (err == 0)
        err = tables_del(t, &of_session);
    if (err == 0 && row->recalled)
        err = recalled_del(t, row->session, row->number);
    t->result->rights_returned = true;
    return err;
}

/* ------------------------------------------------------------------ in the way */

static int conflict(struct tables *t, uint64_t ino, bool *ret_found)
{
    struct exclusive row;
    *ret_found = false;
    int err = row_get(t, ino, &row);
    if (err != 0 || row.session == t->session)
        return err == -E_NOENT ? 0 : err;
    *ret_found = true;
    struct fsm_recall recall = {.kind = TARN__LEASE_KIND__LEASE_EXCLUSIVE,
                                .session = row.session,
                                .ino = ino,
                                .number = row.number,
                                .marked = row.recalled};
    return tables_recall(t, &recall);
}

int exclusive_look(struct tables *t, uint64_t ino)
{
    bool found;
    return conflict(t, ino, &found);
}

int exclusive_conflict(struct tables *t, uint64_t ino)
{
    bool found;
    int err = conflict(t, ino, &found);
    return err == 0 && found ? -E_BUSY : err;
}

int exclusive_conflicts_touched(struct tables *t)
{
    int err = 0;
    for (size_t i = 0; i < t->result->n_touched && err == 0; i++)
        err = exclusive_look(t, t->result->touched[i]);
    return err == 0 && t->result->n_recalls > 0 ? -E_BUSY : err;
}

/* ------------------------------------------------------------------ giving and ending */

int exclusive_give(struct tables *t, uint64_t ino, uint64_t handle, uint64_t *ret_number)
{
    struct exclusive row;
    struct opens opens;
    *ret_number = 0;
    int err = row_get(t, ino, &row);
    if (err == 0) { /* ours: another session's would have been in the way */
        if (row.recalled)
            return 0;
        row.number = *ret_number = handle; /* a return that is on its way is of the one before */
        return row_put(t, &row);
    }
    if (err == -E_NOENT)
        err = session_opens(t, ino, &opens);
    if (err != 0 || opens.sole != t->session)
        return err;
    row = (struct exclusive){.ino = ino, .session = t->session, .number = handle};
    *ret_number = handle;
    return row_put(t, &row);
}

int exclusive_drop(struct tables *t, uint64_t ino)
{
    struct exclusive row;
    int err = row_get(t, ino, &row);
    return err == 0 ? row_del(t, &row) : err == -E_NOENT ? 0 : err;
}

int lease_rows_session_end(struct tables *t, uint64_t session)
{
    struct key prefix = key_1(TABLE_SESSION_EXCLUSIVE, session);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = exclusive_drop(t, key_number(&rows.rows[i].key, 1));
    struct key recalled = key_1(TABLE_RECALLED, session);
    rows_fini(&rows);
    if (err == 0)
        err = tables_rows(t, &recalled, &recalled, SIZE_MAX, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++)
        err = tables_del(t, &rows.rows[i].key);
    t->result->rights_returned = true;
    return err;
}

/* What the holder had kept back becomes true for all. */
static int flushed(struct tables *t, const Tarn__LeaseReturn *m)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_inode_get(t, m->item->ino, &inode);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    bool grows = m->size > inode.size, later = m->mtime != 0;
    if (inode.type != TARN__FILE_TYPE__FT_FILE || (!grows && !later))
        return 0;
    if (m->size > INT64_MAX)
        return -E_FBIG;
    if (grows)
        inode.etag_len = 0; /* it was of the content before */
    inode.size = MAX(inode.size, m->size);
    inode.mtime = later ? m->mtime : inode.mtime;
    ns_touch(t, &inode, !later);
    return ns_inode_put(t, &inode);
}

static int exclusive_return(struct tables *t, const Tarn__LeaseReturn *m)
{
    struct exclusive row;
    int err = row_get(t, m->item->ino, &row);
    if (err == -E_NOENT)
        return 0;
    if (err != 0 || row.session != t->session)
        return err;
    err = flushed(t, m);
    if (err != 0 || row.number != m->item->number)
        return err; /* of an older one: what it kept back counts, this one stays */
    return row_del(t, &row);
}

int lease_cmd_return(struct tables *t, const void *message)
{
    const Tarn__LeaseReturn *m = message;
    if (m->item == NULL)
        return -E_INVAL;
    switch (m->item->kind) {
    case TARN__LEASE_KIND__LEASE_EXCLUSIVE:
        return exclusive_return(t, m);
    case TARN__LEASE_KIND__LEASE_LOCKS_FCNTL:
    case TARN__LEASE_KIND__LEASE_LOCKS_FLOCK:
        return delegation_return(t, m);
    default:
        return -E_INVAL;
    }
}

/* ------------------------------------------------------------------ asking back */

/* Numbers of all kinds come from one counter, that of handles. */
int recalled_put(struct tables *t, uint64_t session, uint64_t ino, Tarn__LeaseKind kind, uint64_t number)
{
    _cleanup_(writer_fini) struct writer w = {0};
    recalled_encode(&(struct recalled){.kind = (uint8_t)kind, .ino = ino}, &w);
    struct key key = key_2(TABLE_RECALLED, session, number);
    return tables_put(t, &key, &w);
}

int recalled_del(struct tables *t, uint64_t session, uint64_t number)
{
    struct key key = key_2(TABLE_RECALLED, session, number);
    return tables_has(t, &key) ? tables_del(t, &key) : t->failed;
}

int recalled_push(struct tables *t, uint64_t session, uint64_t ino, Tarn__LeaseKind kind, uint64_t number)
{
    Tarn__LeaseItem item = TARN__LEASE_ITEM__INIT, *items[] = {&item};
    item.kind = kind;
    item.ino = ino;
    item.number = number;
    Tarn__LeaseRecalled push = TARN__LEASE_RECALLED__INIT;
    push.items = items;
    push.n_items = 1;
    return tables_push(t, session, OP_LEASE_RECALLED, &push.base);
}

static int exclusive_recall(struct tables *t, const Tarn__LeaseItem *item)
{
    struct exclusive row;
    int err = row_get(t, item->ino, &row);
    if (err != 0 || row.session != item->session || row.number != item->number)
        return err == -E_NOENT ? 0 : err;
    if (!row.recalled) {
        row.recalled = true;
        err = row_put(t, &row);
        if (err == 0)
            err = recalled_put(t, row.session, row.ino, TARN__LEASE_KIND__LEASE_EXCLUSIVE, row.number);
    }
    return err == 0 ? recalled_push(t, row.session, row.ino, TARN__LEASE_KIND__LEASE_EXCLUSIVE, row.number) : err;
}

int lease_cmd_recall(struct tables *t, const void *message)
{
    const Tarn__LeaseRecall *m = message;
    int err = 0;
    for (size_t i = 0; i < m->n_items && err == 0; i++)
        err = m->items[i]->kind == TARN__LEASE_KIND__LEASE_EXCLUSIVE ? exclusive_recall(t, m->items[i])
                                                                     : delegation_recall(t, m->items[i]);
    return err;
}

int recalled_list(struct kv_txn *txn, uint64_t session, Tarn__LeaseItem *ret, size_t max, size_t *ret_n)
{
    struct fsm_result result = {0};
    struct tables t;
    _cleanup_(rows_fini) struct rows rows = {0};
    struct key prefix = key_1(TABLE_RECALLED, session);
    int err = tables_init(&t, txn, false, &result);
    if (err == 0)
        err = tables_rows(&t, &prefix, &prefix, max, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        tarn__lease_item__init(&ret[i]);
        struct recalled recalled = {0};
        if (recalled_decode(rows.rows[i].value, rows.rows[i].len, &recalled) != 0)
            err = tables_corrupt(&t, &rows.rows[i].key, "recall");
        ret[i].number = key_number(&rows.rows[i].key, 1);
        ret[i].ino = recalled.ino;
        ret[i].kind = (Tarn__LeaseKind)recalled.kind;
    }
    *ret_n = err == 0 ? rows.count : 0;
    fsm_result_fini(&result);
    return err;
}
