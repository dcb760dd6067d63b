/* QUOTA_SET, QUOTA_GET. */
#include "common/err.h"
#include "namespace.h"
#include "quota.h"

#define LIST_MAX 200 /* of at most 1 KiB: well below what one answer holds */

/* The directory a request is about; gets the flag and loses the mark of one that goes when it is
 * empty: somebody wants it. */
static int dir_mark(struct tables *t, uint64_t ino, bool has)
{
    _cleanup_(inode_fini) struct inode dir = {0};
    int err = ns_inode_get(t, ino, &dir);
    if (err != 0)
        return err;
    dir.flags &= (uint16_t) ~(INODE_QUOTA | INODE_IMPLICIT);
    dir.flags |= has ? INODE_QUOTA : 0;
    inode_fini(&dir);
    ns_touch(t, &dir, false);
    return ns_inode_put(t, &dir);
}

static int subject_of(struct tables *t, Tarn__QuotaKind kind, const Tarn__Where *where,
                      uint64_t subject, uint64_t *ret)
{
    if (kind == TARN__QUOTA_KIND__QUOTA_USER || kind == TARN__QUOTA_KIND__QUOTA_GROUP) {
        *ret = subject;
        return subject < UINT32_MAX ? 0 : tables_fail(t, -E_INVAL, "ids have 32 bits");
    }
    if (kind != TARN__QUOTA_KIND__QUOTA_DIR || where == NULL)
        return tables_fail(t, -E_INVAL, "a quota is of a directory, a user or a group");
    _cleanup_(inode_fini) struct inode dir = {0};
    int err = ns_where_dir(t, where, 0, &dir);
    *ret = dir.ino;
    return err;
}

static int quota_new(struct tables *t, const Tarn__QuotaSet *m, struct quota *quota)
{
    struct state *s = tables_state(t);
    s->quotas++;
    s->quota_dirs += quota->kind == QUOTA_DIR;
    s->quota_counting++;
    if (quota->kind != QUOTA_DIR)
        return 0;
    size_t n = strlen(m->where->path);
    if (m->where->path[0] == '/' && n <= QUOTA_PATH_MAX) {
        memcpy(quota->path, m->where->path, n + 1);
        quota->path_len = (uint16_t)n;
    }
    return dir_mark(t, quota->subject, true);
}

static int quota_remove(struct tables *t, const struct quota *quota)
{
    struct state *s = tables_state(t);
    s->quotas--;
    s->quota_dirs -= quota->kind == QUOTA_DIR;
    s->quota_counting -= quota->cursor != QUOTA_COUNTED;
    struct key key = key_2(TABLE_QUOTA, quota->kind, quota->subject);
    int err = tables_del(t, &key);
    return err == 0 && quota->kind == QUOTA_DIR ? dir_mark(t, quota->subject, false) : err;
}

static void message_of(const struct quota *quota, Tarn__Quota *out)
{
    tarn__quota__init(out);
    out->kind = (Tarn__QuotaKind)quota->kind;
    out->subject = quota->subject;
    out->path = (char *)quota->path;
    out->limit_bytes = quota->limit_bytes;
    out->limit_files = quota->limit_files;
    out->bytes = quota->bytes;
    out->files = quota->files;
    out->counting = quota->cursor != QUOTA_COUNTED;
    out->cursor = out->counting ? quota->cursor : 0;
}

int quota_cmd_set(struct tables *t, const void *message)
{
    const Tarn__QuotaSet *m = message;
    struct quota quota = {0};
    uint64_t subject = 0;
    if (t->cred.uid != 0)
        return tables_fail(t, -E_PERM, "only root sets quotas");
    int err = subject_of(t, m->kind, m->where, m->subject, &subject);
    if (err != 0)
        return err;
    err = quota_get(t, (enum quota_kind)m->kind, subject, &quota);
    bool there = err == 0;
    if (err != 0 && err != -E_NOENT)
        return err;
    if (m->remove)
        return there ? quota_remove(t, &quota) : tables_fail(t, -E_NOENT, "there is no such quota");
    quota.kind = m->kind;
    quota.subject = subject;
    quota.limit_bytes = m->set_bytes ? m->bytes : quota.limit_bytes;
    quota.limit_files = m->set_files ? m->files : quota.limit_files;
    if (quota.limit_bytes == 0 && quota.limit_files == 0)
        return tables_fail(t, -E_INVAL, "a quota without any limit: remove it instead");
    err = there ? 0 : quota_new(t, m, &quota);
    if (err == 0)
        err = quota_put(t, &quota);
    if (err != 0)
        return err;
    Tarn__Quota one, *pointer = &one;
    message_of(&quota, &one);
    Tarn__QuotaReply reply = TARN__QUOTA_REPLY__INIT;
    reply.n_quotas = 1;
    reply.quotas = &pointer;
    reply.end = true;
    return tables_reply(t, &reply.base);
}

/* ---- QUOTA_GET */

struct answer {
    struct quota quotas[LIST_MAX];
    Tarn__Quota messages[LIST_MAX], *pointers[LIST_MAX];
    size_t count;
};

static int answer_add(void *arg, const struct quota *quota)
{
    struct answer *a = arg;
    if (a->count == LIST_MAX)
        return 1;
    a->quotas[a->count] = *quota;
    message_of(&a->quotas[a->count], &a->messages[a->count]);
    a->pointers[a->count] = &a->messages[a->count];
    a->count++;
    return 0;
}

static int answer_row(void *arg, struct kv_val key, struct kv_val value)
{
    struct quota quota;
    struct reader r = reader_init(key.data + 1, key.len - 1);
    uint64_t kind = reader_be64(&r), subject = reader_be64(&r);
    if (quota_decode(kind, subject, value.data, value.len, &quota) != 0)
        return -E_CORRUPT;
    return answer_add(arg, &quota);
}

/* A path that leads elsewhere now is shown as none; the inode's number is told in any case. */
static int path_verify(struct tables *t, Tarn__Quota *m)
{
    _cleanup_(ns_walk_fini) struct ns_walk walk = {0};
    int err = m->path[0] == 0 ? -E_NOENT : ns_walk(t, MD_ROOT, m->path, NS_NOFOLLOW, &walk);
    if (err == -E_NOMEM)
        return err;
    if (err != 0 || walk.inode.ino != m->subject)
        m->path = (char *)"";
    return 0;
}

/* Root sees all; others what rules them: directories they may read, their uid, their groups. */
static int may_get(struct tables *t, const Tarn__QuotaGet *m, const struct inode *dir)
{
    if (t->cred.uid == 0)
        return 0;
    if (m->list)
        return tables_fail(t, -E_PERM, "only root lists all quotas");
    if (m->kind == TARN__QUOTA_KIND__QUOTA_DIR)
        return ns_may(t, dir, NS_READ);
    bool own = m->kind == TARN__QUOTA_KIND__QUOTA_USER
                   ? m->subject == t->cred.uid
                   : ns_in_group(&t->cred, (uint32_t)m->subject);
    return own ? 0 : -E_PERM;
}

static int collect(struct tables *t, const Tarn__QuotaGet *m, uint64_t subject, struct answer *a)
{
    if (m->list) {
        struct key prefix = key_table(TABLE_QUOTA);
        struct key start = m->kind == 0 ? prefix : key_2(TABLE_QUOTA, m->kind, m->subject + 1);
        return tables_scan(t, &start, &prefix, answer_row, a);
    }
    if (m->kind == TARN__QUOTA_KIND__QUOTA_DIR)
        return quota_above(t, subject, answer_add, a);
    struct quota quota;
    int err = quota_get(t, (enum quota_kind)m->kind, subject, &quota);
    return err == 0 ? answer_add(a, &quota) : err == -E_NOENT ? 0 : err;
}

int quota_query_get(struct tables *t, const void *message)
{
    const Tarn__QuotaGet *m = message;
    _cleanup_(inode_fini) struct inode dir = {0};
    uint64_t subject = 0;
    int err = m->list ? 0 : subject_of(t, m->kind, m->where, m->subject, &subject);
    if (err == 0 && !m->list && m->kind == TARN__QUOTA_KIND__QUOTA_DIR)
        err = ns_inode_get(t, subject, &dir);
    if (err == 0)
        err = may_get(t, m, &dir);
    _cleanup_free_ struct answer *a = err == 0 ? malloc(sizeof *a) : NULL;
    if (err != 0 || a == NULL)
        return err != 0 ? err : -E_NOMEM;
    a->count = 0;
    err = collect(t, m, subject, a);
    if (err != 0)
        return err;
    for (size_t i = 0; i < a->count && err == 0; i++)
        if (a->quotas[i].kind == QUOTA_DIR)
            err = path_verify(t, &a->messages[i]);
    if (err != 0)
        return err;
    Tarn__QuotaReply reply = TARN__QUOTA_REPLY__INIT;
    reply.n_quotas = a->count;
    reply.quotas = a->pointers;
    reply.end = a->count < LIST_MAX;
    return tables_reply(t, &reply.base);
}

/* ---- statfs */

struct narrow {
    Tarn__StatFsReply *reply;
    uint64_t room; /* bytes */
};

static int narrow_visit(void *arg, const struct quota *quota)
{
    struct narrow *n = arg;
    Tarn__StatFsReply *r = n->reply;
    if (quota->limit_bytes != 0) {
        uint64_t room = quota->limit_bytes - MIN(quota->limit_bytes, quota->bytes);
        if (room < n->room) {
            n->room = room;
            r->total = quota->limit_bytes;
            r->free = room;
            r->usable = MIN(r->usable, room);
        }
    }
    if (quota->limit_files != 0 &&
        (r->files_max == 0 || quota->limit_files - MIN(quota->limit_files, quota->files) <
                                  r->files_max - MIN(r->files_max, r->files))) {
        r->files_max = quota->limit_files;
        r->files = quota->files;
    }
    return 0;
}

int quota_statfs(struct tables *t, const Tarn__Where *where, Tarn__StatFsReply *reply)
{
    if (t->state.quota_dirs == 0)
        return 0;
    _cleanup_(inode_fini) struct inode inode = {0};
    struct narrow narrow = {.reply = reply, .room = UINT64_MAX};
    int err = ns_where(t, where, 0, &inode);
    if (err != 0)
        return err;
    bool dir = inode.type == TARN__FILE_TYPE__FT_DIR;
    return quota_above(t, dir ? inode.ino : inode.parent, narrow_visit, &narrow);
}
