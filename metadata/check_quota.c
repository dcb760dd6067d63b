/* Q1-Q5: the sums of the quotas against the rows of the inodes; A1, A3: flags against stored lists. Memory grows with
 * the number of quotas, not with that of files. */
#include "acl.h"
#include "check_impl.h"
#include "meta.pb-c.h"
#include "namespace.h"
#include "quota.h"
#include "record_view.h"

struct sum {
    struct quota quota;
    uint64_t bytes, files;
};
struct sums {
    struct sum *items; /* owned; in order of (kind, subject) as the rows come */
    size_t n, cap;
    uint64_t dirs, counting;
};

/* A directory of a clone may have its row in the base. */
static bool clone_inode_at(struct check *check, uint64_t ino, struct inode *ret)
{
    struct fsm_result result = {0};
    struct tables t;
    int err = tables_init(&t, check->txn, false, &result);
    if (err == 0)
        err = ns_inode_get(&t, ino, ret);
    tables_fini(&t);
    fsm_result_fini(&result);
    return err == 0;
}

static bool inode_at(struct check *check, uint64_t ino, struct inode *ret)
{
    if (ino_clone(ino) != 0)
        return clone_inode_at(check, ino, ret);
    struct key key = key_1(TABLE_INODE, ino);
    struct kv_val value;
    return check_get(check, &key, &value) && inode_decode(ino, value.data, value.len, ret) == 0;
}

static int see_quota(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct sums *sums = arg;
    if (sums->n == sums->cap) {
        size_t cap = sums->cap * 2 + 16;
        struct sum *grown = realloc(sums->items, cap * sizeof *grown);
        if (grown == NULL)
            return -E_NOMEM;
        sums->items = grown;
        sums->cap = cap;
    }
    struct sum *sum = &sums->items[sums->n];
    *sum = (struct sum){0};
    if (quota_decode(key_number(key, 0), key_number(key, 1), value.data, value.len, &sum->quota) != 0) {
        check_undecodable(check, key, "quota");
        return 0;
    }
    sums->n++;
    sums->dirs += sum->quota.kind == QUOTA_DIR;
    sums->counting += sum->quota.cursor != QUOTA_COUNTED;
    _cleanup_(inode_fini) struct inode dir = {0};
    if (sum->quota.kind == QUOTA_DIR &&
        (!inode_at(check, sum->quota.subject, &dir) || !(dir.flags & INODE_QUOTA)))
        check_violation(check, "Q5", "there is a quota of directory %llu, which does not know of it",
                        (unsigned long long)sum->quota.subject);
    return 0;
}

static struct sum *find(const struct sums *sums, uint64_t kind, uint64_t subject)
{
    size_t low = 0, high = sums->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct quota *q = &sums->items[middle].quota;
        if (q->kind < kind || (q->kind == kind && q->subject < subject))
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < sums->n && sums->items[low].quota.kind == kind && sums->items[low].quota.subject == subject;
    return found ? &sums->items[low] : NULL;
}

static void add(const struct sums *sums, uint64_t kind, uint64_t subject, const struct inode *inode)
{
    struct sum *sum = find(sums, kind, subject);
    if (sum == NULL || inode->ino >= sum->quota.cursor)
        return;
    uint64_t held = inode->allocated + inode->data_len;
    sum->bytes += inode->type == TARN__FILE_TYPE__FT_FILE ? MIN(inode->size, held) : 0;
    sum->files++;
}

/* The directories above; a chain that does not end at the root is told by the tree's room. */
static void add_above(struct check *check, const struct sums *sums, const struct inode *inode)
{
    uint64_t dir = inode->parent;
    for (uint64_t steps = 0; dir != 0 && steps < check->state.next_ino; steps++) {
        _cleanup_(inode_fini) struct inode at = {0};
        add(sums, QUOTA_DIR, dir, inode);
        if (dir == MD_ROOT || !inode_at(check, dir, &at))
            return;
        dir = at.parent;
    }
}

static bool stored(struct check *check, uint64_t ino, const char *name)
{
    struct key key = key_named(TABLE_XATTR, ino, name, strlen(name));
    return check_has(check, &key);
}

static void see_flags(struct check *check, const struct sums *sums, const struct inode *inode)
{
    unsigned long long ino = inode->ino;
    bool dir = inode->type == TARN__FILE_TYPE__FT_DIR;
    if ((inode->flags & INODE_QUOTA) && find(sums, QUOTA_DIR, inode->ino) == NULL)
        check_violation(check, "Q5", "inode %llu says that it has a quota and has none", ino);
    if ((inode->flags & INODE_ACL) && !stored(check, inode->ino, ACL_XATTR_ACCESS))
        check_violation(check, "A1", "inode %llu says that it has an access list and has none", ino);
    if ((inode->flags & INODE_ACL_DEFAULT) && (!dir || !stored(check, inode->ino, ACL_XATTR_DEFAULT)))
        check_violation(check, "A3", "inode %llu says that it has a default list and has none", ino);
}

static int see_inode(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    const struct sums *sums = arg;
    _cleanup_(inode_fini) struct inode inode = {0};
    uint64_t ino = key_number(key, 0);
    if (inode_decode(ino, value.data, value.len, &inode) != 0)
        return 0;
    see_flags(check, sums, &inode);
    if (sums->n == 0)
        return 0;
    add(sums, QUOTA_USER, inode.uid, &inode);
    add(sums, QUOTA_GROUP, inode.gid, &inode);
    if (sums->dirs > 0 && inode.nlink > 0 && ino != MD_ROOT)
        add_above(check, sums, &inode);
    return 0;
}

int check_room_quotas(struct check *check)
{
    struct sums sums = {0};
    int err = check_each(check, TABLE_QUOTA, see_quota, &sums);
    if (err == 0)
        err = check_each(check, TABLE_INODE, see_inode, &sums);
    for (size_t i = 0; i < sums.n && err == 0; i++) {
        const struct sum *s = &sums.items[i];
        if (s->bytes != s->quota.bytes || s->files != s->quota.files)
            check_violation(check, "Q3", "the quota of kind %llu of %llu says %llu bytes in %llu files, there are %llu in %llu",
                            (unsigned long long)s->quota.kind, (unsigned long long)s->quota.subject,
                            (unsigned long long)s->quota.bytes, (unsigned long long)s->quota.files,
                            (unsigned long long)s->bytes, (unsigned long long)s->files);
    }
    if (err == 0) {
        check_counter(check, "Q6", "quotas", check->state.quotas, sums.n);
        check_counter(check, "Q6", "quotas of directories", check->state.quota_dirs, sums.dirs);
        check_counter(check, "Q6", "quotas under count", check->state.quota_counting, sums.counting);
    }
    free(sums.items);
    return err;
}
