/* Accounting. The chain of an inode are the directories above it that have a quota; its own, if it
 * is a directory with one, is not among them. A quota under count has a cursor: inodes with smaller
 * numbers are in its sums, so changes of these count and changes of others are met by the scan. */
#include "quota.h"

#include <inttypes.h>

#include "common/err.h"
#include "common/log.h"
#include "namespace.h"

#define STEP_INODES 512 /* looked at in one step of a count */

/* ---- rows */

void quota_encode(const struct quota *quota, struct writer *w)
{
    writer_u8(w, RECORD_VERSION);
    writer_u64(w, quota->limit_bytes);
    writer_u64(w, quota->limit_files);
    writer_u64(w, quota->bytes);
    writer_u64(w, quota->files);
    writer_u64(w, quota->cursor);
    writer_u16(w, quota->path_len);
    writer_bytes(w, quota->path, quota->path_len);
}

int quota_decode(uint64_t kind, uint64_t subject, const void *data, size_t n, struct quota *ret)
{
    struct reader r = reader_init(data, n);
    if (reader_u8(&r) != RECORD_VERSION)
        return -E_CORRUPT;
    struct quota quota = {.kind = kind, .subject = subject};
    quota.limit_bytes = reader_u64(&r);
    quota.limit_files = reader_u64(&r);
    quota.bytes = reader_u64(&r);
    quota.files = reader_u64(&r);
    quota.cursor = reader_u64(&r);
    quota.path_len = reader_u16(&r);
    const uint8_t *path = reader_bytes(&r, quota.path_len);
    if (path == NULL || quota.path_len > QUOTA_PATH_MAX || reader_left(&r) != 0)
        return -E_CORRUPT;
    memcpy(quota.path, path, quota.path_len);
    *ret = quota;
    return 0;
}

int quota_get(struct tables *t, enum quota_kind kind, uint64_t subject, struct quota *ret)
{
    struct key key = key_2(TABLE_QUOTA, kind, subject);
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err == 0 && quota_decode(kind, subject, value.data, value.len, ret) != 0)
        err = tables_corrupt(t, &key, "quota");
    return err;
}

int quota_put(struct tables *t, const struct quota *quota)
{
    _cleanup_(writer_fini) struct writer w = {0};
    quota_encode(quota, &w);
    struct key key = key_2(TABLE_QUOTA, quota->kind, quota->subject);
    return tables_put(t, &key, &w);
}

/* ---- what a command touches */

/* The entry of this quota; it stays where it is until the next call. */
static int touch(struct tables *t, enum quota_kind kind, uint64_t subject, struct quota_touched **ret)
{
    for (size_t i = 0; i < t->n_quotas; i++) {
        *ret = &t->quotas[i];
        if ((*ret)->quota.kind == kind && (*ret)->quota.subject == subject)
            return 0;
    }
    struct quota_touched *grown = realloc(t->quotas, (t->n_quotas + 1) * sizeof *grown);
    if (grown == NULL)
        return -E_NOMEM;
    t->quotas = grown;
    *ret = &t->quotas[t->n_quotas];
    **ret = (struct quota_touched){.quota = {.kind = kind, .subject = subject}};
    int err = quota_get(t, kind, subject, &(*ret)->quota);
    if (err != 0 && err != -E_NOENT)
        return err;
    (*ret)->gone = err == -E_NOENT;
    t->n_quotas++;
    return 0;
}

struct charge {
    int64_t bytes, files;
};

/* Q1: what an inode costs. */
static struct charge charge_of(const struct inode *inode)
{
    if (inode == NULL)
        return (struct charge){0};
    return (struct charge){.bytes = (int64_t)ns_stored(inode), .files = 1};
}

static int charge(struct tables *t, enum quota_kind kind, uint64_t subject, uint64_t ino,
                  struct charge sum)
{
    if (sum.bytes == 0 && sum.files == 0)
        return 0;
    struct quota_touched *q;
    int err = touch(t, kind, subject, &q);
    if (err != 0 || q->gone || ino >= q->quota.cursor)
        return err;
    q->bytes += sum.bytes;
    q->files += sum.files;
    return 0;
}

/* The directory `at` and those above it; *ret_up is 0 above the root. */
static int step_up(struct tables *t, uint64_t at, uint64_t *ret_up, bool *ret_quota)
{
    _cleanup_(inode_fini) struct inode dir = {0};
    int err = ns_inode_get(t, at, &dir);
    if (err != 0)
        return err;
    *ret_quota = (dir.flags & INODE_QUOTA) != 0;
    *ret_up = at == MD_ROOT || dir.parent == at ? 0 : dir.parent;
    return 0;
}

static int charge_chain(struct tables *t, uint64_t dir, uint64_t ino, struct charge sum)
{
    if (t->state.quota_dirs == 0 || (sum.bytes == 0 && sum.files == 0))
        return 0;
    int err = 0;
    for (uint64_t up; dir != 0 && err == 0; dir = up) {
        bool quota = false;
        err = step_up(t, dir, &up, &quota);
        if (err == 0 && quota)
            err = charge(t, QUOTA_DIR, dir, ino, sum);
    }
    return err;
}

static struct charge minus(struct charge a, struct charge b)
{
    return (struct charge){.bytes = a.bytes - b.bytes, .files = a.files - b.files};
}

/* Q2: what is without a name, but still there, costs its owner, and no directory. */
static uint64_t charged_dir(const struct inode *inode)
{
    return inode == NULL || inode->nlink == 0 || inode->ino == MD_ROOT ? 0 : inode->parent;
}

/* The cost moves from subject `a` to subject `b`. */
static int charge_owner(struct tables *t, enum quota_kind kind, uint64_t ino, uint32_t a, uint32_t b,
                        struct charge was, struct charge is)
{
    if (a == b)
        return charge(t, kind, a, ino, minus(is, was));
    int err = charge(t, kind, a, ino, minus((struct charge){0}, was));
    return err == 0 ? charge(t, kind, b, ino, is) : err;
}

int quota_inode_changed(struct tables *t, const struct inode *old, const struct inode *new)
{
    if (t->state.quotas == 0)
        return 0;
    const struct inode *any = new != NULL ? new : old;
    struct charge was = charge_of(old), is = charge_of(new);
    const struct inode *before = old != NULL ? old : any, *after = new != NULL ? new : any;
    int err = charge_owner(t, QUOTA_USER, any->ino, before->uid, after->uid, was, is);
    if (err == 0)
        err = charge_owner(t, QUOTA_GROUP, any->ino, before->gid, after->gid, was, is);
    uint64_t from = charged_dir(old), to = charged_dir(new);
    if (err == 0 && from == to)
        return charge_chain(t, to, any->ino, minus(is, was));
    if (err == 0)
        err = charge_chain(t, from, any->ino, minus((struct charge){0}, was));
    return err == 0 ? charge_chain(t, to, any->ino, is) : err;
}

/* A sum below zero is a mistake of ours; the count that the checker asks for puts it right. */
static uint64_t add_up(const struct quota *quota, uint64_t have, int64_t more)
{
    if (more < 0 && have < (uint64_t)-more) {
        log_error("the quota of kind %" PRIu64 " of %" PRIu64 " would go below zero", quota->kind,
                  quota->subject);
        return 0;
    }
    return have + (uint64_t)more;
}

static int refuse(struct tables *t, const struct quota *quota)
{
    static const char *const of[] = {[QUOTA_DIR] = "directory", [QUOTA_USER] = "user",
                                     [QUOTA_GROUP] = "group"};
    if (quota->kind == QUOTA_DIR)
        return tables_fail(t, -E_DQUOT, "the quota of the directory %.100s is used up", quota->path);
    return tables_fail(t, -E_DQUOT, "the quota of %s %" PRIu64 " is used up", of[quota->kind],
                       quota->subject);
}

static bool over(uint64_t have, uint64_t limit)
{
    return limit != 0 && have > limit;
}

int quota_settle(struct tables *t, bool enforce)
{
    int err = 0;
    for (size_t i = 0; i < t->n_quotas && err == 0; i++) {
        struct quota_touched *q = &t->quotas[i];
        if (q->gone || (!q->dirty && q->bytes == 0 && q->files == 0))
            continue;
        q->quota.bytes = add_up(&q->quota, q->quota.bytes, q->bytes);
        q->quota.files = add_up(&q->quota, q->quota.files, q->files);
        if (enforce && ((q->bytes > 0 && over(q->quota.bytes, q->quota.limit_bytes)) ||
                        (q->files > 0 && over(q->quota.files, q->quota.limit_files))))
            err = refuse(t, &q->quota);
        else
            err = quota_put(t, &q->quota);
    }
    t->n_quotas = 0;
    return err;
}

/* ---- room before it is taken */

static bool used_up(const struct quota *quota)
{
    return quota->limit_bytes != 0 && quota->bytes >= quota->limit_bytes;
}

static int room_visit(void *arg, const struct quota *quota)
{
    return used_up(quota) ? refuse(arg, quota) : 0;
}

int quota_above(struct tables *t, uint64_t dir, int (*visit)(void *arg, const struct quota *quota),
                void *arg)
{
    int err = 0;
    if (t->state.quota_dirs == 0)
        return 0;
    for (uint64_t up; dir != 0 && err == 0; dir = up) {
        bool has = false;
        struct quota quota;
        err = step_up(t, dir, &up, &has);
        if (err == 0 && has)
            err = quota_get(t, QUOTA_DIR, dir, &quota);
        if (err == 0 && has)
            err = visit(arg, &quota);
    }
    return MIN(err, 0);
}

static int room_owner(struct tables *t, enum quota_kind kind, uint32_t subject)
{
    struct quota quota;
    int err = quota_get(t, kind, subject, &quota);
    if (err != 0)
        return err == -E_NOENT ? 0 : err;
    return room_visit(t, &quota);
}

int quota_room_for(struct tables *t, uint32_t uid, uint32_t gid, uint64_t dir)
{
    if (t->state.quotas == 0)
        return 0;
    int err = room_owner(t, QUOTA_USER, uid);
    if (err == 0)
        err = room_owner(t, QUOTA_GROUP, gid);
    return err == 0 ? quota_above(t, dir, room_visit, t) : err;
}

int quota_room(struct tables *t, const struct inode *inode)
{
    return quota_room_for(t, inode->uid, inode->gid, charged_dir(inode));
}

/* ---- a directory moves with all that is below it */

struct chain {
    uint64_t *dirs; /* owned */
    size_t count;
};

static void chain_fini(struct chain *chain)
{
    free(chain->dirs);
}

static int chain_add(void *arg, const struct quota *quota)
{
    struct chain *chain = arg;
    uint64_t *grown = realloc(chain->dirs, (chain->count + 1) * sizeof *grown);
    if (grown == NULL)
        return -E_NOMEM;
    chain->dirs = grown;
    grown[chain->count++] = quota->subject;
    return 0;
}

static bool chain_has(const struct chain *chain, uint64_t dir)
{
    bool found = false;
    for (size_t i = 0; i < chain->count; i++)
        found |= chain->dirs[i] == dir;
    return found;
}

/* The count begins anew: the scan finds the tree as it will be. */
static void recount(struct tables *t, struct quota_touched *q)
{
    if (q->quota.cursor == QUOTA_COUNTED)
        tables_state(t)->quota_counting++;
    q->quota.bytes = q->quota.files = q->quota.cursor = 0;
    q->bytes = q->files = 0;
    q->dirty = true;
}

/* The quotas of `chain` that are not in `other` lose (sign -1) or gain what is below the moved
 * directory; `own` is its quota, NULL when that is not known exactly. */
static int chain_move(struct tables *t, const struct chain *chain, const struct chain *other,
                      const struct quota *own, int sign)
{
    for (size_t i = 0; i < chain->count; i++) {
        struct quota_touched *q;
        if (chain_has(other, chain->dirs[i]))
            continue;
        int err = touch(t, QUOTA_DIR, chain->dirs[i], &q);
        if (err != 0)
            return err;
        if (own != NULL && q->quota.cursor == QUOTA_COUNTED) {
            q->bytes += sign * (int64_t)own->bytes;
            q->files += sign * (int64_t)own->files;
            continue;
        }
        bool full = used_up(&q->quota) ||
                    (q->quota.limit_files != 0 && q->quota.files >= q->quota.limit_files);
        if (sign > 0 && full)
            return refuse(t, &q->quota);
        recount(t, q);
    }
    return 0;
}

int quota_dir_moved(struct tables *t, const struct inode *moved, uint64_t from, uint64_t to)
{
    if (t->state.quota_dirs == 0 || moved->entries == 0 || from == to)
        return 0;
    _cleanup_(chain_fini) struct chain left = {0}, entered = {0};
    struct quota own;
    int err = quota_above(t, from, chain_add, &left);
    if (err == 0)
        err = quota_above(t, to, chain_add, &entered);
    if (err != 0)
        return err;
    bool exact = (moved->flags & INODE_QUOTA) && quota_get(t, QUOTA_DIR, moved->ino, &own) == 0 &&
                 own.cursor == QUOTA_COUNTED;
    err = chain_move(t, &left, &entered, exact ? &own : NULL, -1);
    return err == 0 ? chain_move(t, &entered, &left, exact ? &own : NULL, 1) : err;
}

int quota_dir_removed(struct tables *t, const struct inode *dir)
{
    if (!(dir->flags & INODE_QUOTA))
        return 0;
    struct quota_touched *q;
    int err = touch(t, QUOTA_DIR, dir->ino, &q);
    if (err != 0 || q->gone)
        return err;
    struct state *s = tables_state(t);
    s->quotas--;
    s->quota_dirs--;
    s->quota_counting -= q->quota.cursor != QUOTA_COUNTED;
    q->gone = true;
    struct key key = key_2(TABLE_QUOTA, QUOTA_DIR, dir->ino);
    return tables_del(t, &key);
}

/* ---- counting */

bool quota_due(const struct tables *t)
{
    return t->state.quota_counting > 0;
}

/* Is `top` the directory `dir` or above it? Neighbours in the scan often share a directory. */
static int is_below(struct tables *t, uint64_t dir, uint64_t top, bool *ret)
{
    int err = 0;
    bool quota;
    *ret = false;
    for (uint64_t up; dir != 0 && err == 0 && !*ret; dir = up) {
        up = 0;
        *ret = dir == top;
        if (!*ret)
            err = step_up(t, dir, &up, &quota);
    }
    return err;
}

struct last_dir {
    uint64_t dir;
    bool below;
};

static int counts(struct tables *t, const struct quota *quota, const struct inode *inode,
                  struct last_dir *last, bool *ret)
{
    *ret = quota->kind == QUOTA_USER ? inode->uid == quota->subject : inode->gid == quota->subject;
    if (quota->kind != QUOTA_DIR)
        return 0;
    uint64_t dir = charged_dir(inode);
    int err = dir == last->dir ? 0 : is_below(t, dir, quota->subject, &last->below);
    last->dir = dir;
    *ret = err == 0 && last->below;
    return err;
}

static int first_counting(void *arg, struct kv_val key, struct kv_val value)
{
    struct quota *quota = arg;
    struct reader r = reader_init(key.data + 1, key.len - 1);
    uint64_t kind = reader_be64(&r), subject = reader_be64(&r);
    if (quota_decode(kind, subject, value.data, value.len, quota) != 0)
        return -E_CORRUPT;
    return quota->cursor != QUOTA_COUNTED ? 1 : 0;
}

static int count_inodes(struct tables *t, struct quota *quota)
{
    struct key prefix = key_table(TABLE_INODE), start = key_1(TABLE_INODE, quota->cursor);
    _cleanup_(rows_fini) struct rows rows = {0};
    struct last_dir last = {0};
    int err = tables_rows(t, &start, &prefix, STEP_INODES, &rows);
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        _cleanup_(inode_fini) struct inode inode = {0};
        const struct row *row = &rows.rows[i];
        bool mine = false;
        err = tables_decoded(t, &row->key, "inode", inode_decode(key_number(&row->key, 0), row->value, row->len, &inode));
        if (err == 0)
            err = counts(t, quota, &inode, &last, &mine);
        if (err != 0)
            return err;
        quota->bytes += mine ? ns_stored(&inode) : 0;
        quota->files += mine;
        quota->cursor = inode.ino + 1;
    }
    if (err == 0 && rows.count < STEP_INODES) {
        quota->cursor = QUOTA_COUNTED;
        tables_state(t)->quota_counting--;
    }
    return err;
}

int quota_step(struct tables *t)
{
    if (!quota_due(t))
        return 0;
    struct key prefix = key_table(TABLE_QUOTA);
    struct quota quota = {.cursor = QUOTA_COUNTED};
    /* What this very command has already changed goes to the rows first. */
    int err = quota_settle(t, false);
    if (err == 0)
        err = tables_scan(t, &prefix, &prefix, first_counting, &quota);
    if (err == 0 && quota.cursor != QUOTA_COUNTED)
        err = count_inodes(t, &quota);
    return err == 0 && quota.kind != 0 ? quota_put(t, &quota) : err;
}
