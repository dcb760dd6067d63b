/* SETXATTR, GETXATTR and the access control lists among them. Source: xattr(7), acl(5).
 *
 *   user.      files and directories only; by permission of the file; in a sticky directory's own
 *              attributes only its owner writes
 *   trusted.   the superuser only; to others they are not there
 *   security.  the superuser writes; a write to the file takes security.capability away
 *   system.    posix_acl_access and posix_acl_default only, kept in the kernel's bytes */
#include <stdio.h>
#include <sys/stat.h>

#include "acl.h"
#include "common/err.h"
#include "namespace.h"
#include "query.h"

#define XATTR_VALUE_MAX KIB(64) /* XATTR_SIZE_MAX of Linux */
#define XATTR_LIST_MAX_ KIB(64) /* XATTR_LIST_MAX: what listxattr(2) can return */
#define XATTR_BYTES_MAX KIB(512) /* of a list with values; names beyond it come without */
#define XATTR_CAPABILITY "security.capability"
enum { XATTR_FLAG_CREATE = 1, XATTR_FLAG_REPLACE = 2 };

static bool has_prefix(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool is_acl(const char *name)
{
    return strcmp(name, ACL_XATTR_ACCESS) == 0 || strcmp(name, ACL_XATTR_DEFAULT) == 0;
}

/* -E_NOTSUP for a name of no namespace, as the kernel answers. */
static int name_check(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > MD_NAME_MAX)
        return -E_RANGE;
    static const char *const prefixes[] = {"user.", "trusted.", "security."};
    for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
        if (has_prefix(name, prefixes[i]))
            return name[strlen(prefixes[i])] != 0 ? 0 : -E_INVAL;
    return is_acl(name) ? 0 : -E_NOTSUP;
}

static bool owner_or_root(const struct tables *t, const struct inode *inode)
{
    return t->cred.uid == 0 || t->cred.uid == inode->uid;
}

static bool is_dir(const struct inode *inode)
{
    return inode->type == TARN__FILE_TYPE__FT_DIR;
}

static int may_set(struct tables *t, const char *name, const struct inode *inode)
{
    if (has_prefix(name, "user.")) {
        if (inode->type != TARN__FILE_TYPE__FT_FILE && !is_dir(inode))
            return -E_PERM;
        if (is_dir(inode) && (inode->mode & S_ISVTX) && !owner_or_root(t, inode))
            return -E_PERM;
        return ns_may(t, inode, NS_WRITE);
    }
    if (is_acl(name))
        return owner_or_root(t, inode) ? 0 : -E_PERM;
    return t->cred.uid == 0 ? 0 : -E_PERM;
}

static int may_get(struct tables *t, const char *name, const struct inode *inode)
{
    if (has_prefix(name, "trusted.") && t->cred.uid != 0)
        return -E_NODATA;
    if (!has_prefix(name, "user."))
        return 0;
    if (inode->type != TARN__FILE_TYPE__FT_FILE && !is_dir(inode))
        return -E_NODATA;
    return ns_may(t, inode, NS_READ);
}

/* ---- rows */

struct names_scan {
    const struct key *but; /* not counted: it is replaced */
    size_t bytes;
};

static int add_name(void *arg, struct kv_val key, struct kv_val value)
{
    struct names_scan *scan = arg;
    if (key.len != scan->but->len || memcmp(key.data, scan->but->data, key.len) != 0)
        scan->bytes += key.len - 9 + 1;
    return 0;
}

static int value_put(struct tables *t, const struct key *key, uint64_t ino, const void *data,
                     size_t n)
{
    struct key prefix = key_1(TABLE_XATTR, ino);
    struct names_scan scan = {.but = key, .bytes = key->len - 9u + 1};
    int err = tables_scan(t, &prefix, &prefix, add_name, &scan);
    if (err != 0)
        return err;
    if (scan.bytes > XATTR_LIST_MAX_)
        return -E_NOSPC;
    _cleanup_(writer_fini) struct writer w = {0};
    writer_u8(&w, RECORD_VERSION);
    writer_bytes(&w, data, n);
    return tables_put(t, key, &w);
}

/* The row's bytes without the version; borrowed. -E_NODATA. */
static int value_get(struct tables *t, uint64_t ino, const char *name, struct kv_val *ret)
{
    struct key key = key_named(TABLE_XATTR, ino, name, strlen(name));
    struct kv_val value;
    int err = tables_get(t, &key, &value);
    if (err != 0)
        return err == -E_NOENT ? -E_NODATA : err;
    if (value.len < 1 || value.data[0] != RECORD_VERSION)
        return tables_corrupt(t, &key, "extended attribute");
    *ret = (struct kv_val){.data = value.data + 1, .len = value.len - 1};
    return 0;
}

int ns_xattr_set(struct tables *t, struct inode *inode, const Tarn__XattrPair *pair)
{
    int err = name_check(pair->name);
    if (err == 0 && is_acl(pair->name))
        err = -E_NOTSUP;
    if (err == 0 && !has_prefix(pair->name, "user.") && t->cred.uid != 0)
        err = -E_PERM;
    if (err == 0 && pair->value.len > XATTR_VALUE_MAX)
        err = -E_TOOBIG;
    if (err != 0)
        return tables_fail(t, err, "the attribute %.100s cannot be set", pair->name);
    struct key key = key_named(TABLE_XATTR, inode->ino, pair->name, strlen(pair->name));
    if (strcmp(pair->name, XATTR_CAPABILITY) == 0)
        inode->flags |= INODE_CAPABILITY;
    return value_put(t, &key, inode->ino, pair->value.data, pair->value.len);
}

int ns_drop_capability(struct tables *t, struct inode *inode)
{
    if (!(inode->flags & INODE_CAPABILITY))
        return 0;
    inode->flags &= (uint16_t)~INODE_CAPABILITY;
    struct key key =
        key_named(TABLE_XATTR, inode->ino, XATTR_CAPABILITY, strlen(XATTR_CAPABILITY));
    return tables_del(t, &key);
}

/* ---- access control lists */

static int acl_load(struct tables *t, const struct inode *inode, const char *name, struct acl *ret)
{
    struct kv_val value;
    int err = value_get(t, inode->ino, name, &value);
    if (err != 0)
        return err;
    err = acl_decode(value.data, value.len, ret);
    if (err == -E_NOMEM)
        return tables_note(t, err);
    struct key key = key_1(TABLE_XATTR, inode->ino);
    if (err != 0 || ret->count == 0)
        return tables_corrupt(t, &key, "access control list");
    if (strcmp(name, ACL_XATTR_ACCESS) == 0)
        acl_set_mode(ret, inode->mode);
    return 0;
}

static int acl_put(struct tables *t, uint64_t ino, const char *name, const struct acl *acl)
{
    _cleanup_(writer_fini) struct writer w = {0};
    acl_encode(acl, &w);
    struct key key = key_named(TABLE_XATTR, ino, name, strlen(name));
    return w.failed ? -E_NOMEM : value_put(t, &key, ino, w.data, w.len);
}

int ns_acl_check(struct tables *t, const struct inode *inode, unsigned mask)
{
    _cleanup_(acl_fini) struct acl acl = {0};
    struct acl_who who = {.uid = t->cred.uid,
                          .gid = t->cred.gid,
                          .groups = t->cred.groups,
                          .n_groups = t->cred.n_groups};
    int err = acl_load(t, inode, ACL_XATTR_ACCESS, &acl);
    return err == 0 ? acl_check(&acl, inode->uid, inode->gid, &who, mask) : err;
}

int ns_acl_inherit(struct tables *t, const struct inode *dir, uint16_t umask, struct inode *inode)
{
    if (!(dir->flags & INODE_ACL_DEFAULT)) {
        inode->mode &= (uint16_t)~(umask & 0777u);
        return 0;
    }
    _cleanup_(acl_fini) struct acl acl = {0};
    bool minimal;
    int err = acl_load(t, dir, ACL_XATTR_DEFAULT, &acl);
    if (err == 0 && is_dir(inode)) {
        err = acl_put(t, inode->ino, ACL_XATTR_DEFAULT, &acl);
        inode->flags |= INODE_ACL_DEFAULT;
    }
    if (err != 0)
        return err;
    inode->mode = acl_inherit(&acl, inode->mode, &minimal);
    if (minimal)
        return 0;
    inode->flags |= INODE_ACL;
    return acl_put(t, inode->ino, ACL_XATTR_ACCESS, &acl);
}

static int acl_remove(struct tables *t, struct inode *inode, const char *name, uint16_t flag)
{
    struct key key = key_named(TABLE_XATTR, inode->ino, name, strlen(name));
    if (!(inode->flags & flag))
        return 0;
    inode->flags &= (uint16_t)~flag;
    return tables_del(t, &key);
}

/* An access ACL sets the mode; one that says no more than a mode does is not kept (A1). */
static int acl_set_access(struct tables *t, struct inode *inode, const struct acl *acl)
{
    bool minimal;
    inode->mode = acl_mode(acl, inode->mode, &minimal);
    if (t->cred.uid != 0 && !ns_in_group(&t->cred, inode->gid))
        inode->mode &= (uint16_t)~S_ISGID;
    if (minimal)
        return acl_remove(t, inode, ACL_XATTR_ACCESS, INODE_ACL);
    inode->flags |= INODE_ACL;
    return acl_put(t, inode->ino, ACL_XATTR_ACCESS, acl);
}

static int acl_set(struct tables *t, struct inode *inode, const Tarn__SetXattr *m)
{
    bool access = strcmp(m->name, ACL_XATTR_ACCESS) == 0;
    if (inode->type == TARN__FILE_TYPE__FT_SYMLINK)
        return -E_NOTSUP;
    _cleanup_(acl_fini) struct acl acl = {0};
    int err = m->remove || m->value.len == 0 ? 0 : acl_decode(m->value.data, m->value.len, &acl);
    if (err != 0)
        return err;
    if (!access && !is_dir(inode))
        return acl.count > 0 ? -E_ACCES : 0;
    if (acl.count == 0)
        return acl_remove(t, inode, m->name, access ? INODE_ACL : INODE_ACL_DEFAULT);
    if (access)
        return acl_set_access(t, inode, &acl);
    inode->flags |= INODE_ACL_DEFAULT;
    return acl_put(t, inode->ino, m->name, &acl);
}

/* ---- commands */

static int set_plain(struct tables *t, struct inode *inode, const Tarn__SetXattr *m)
{
    struct key key = key_named(TABLE_XATTR, inode->ino, m->name, strlen(m->name));
    bool there = tables_has(t, &key);
    if (!there && (m->remove || (m->flags & XATTR_FLAG_REPLACE)))
        return -E_NODATA;
    if (there && (m->flags & XATTR_FLAG_CREATE) && !m->remove)
        return -E_EXIST;
    bool capability = strcmp(m->name, XATTR_CAPABILITY) == 0;
    if (capability)
        inode->flags &= (uint16_t)~INODE_CAPABILITY;
    if (m->remove)
        return tables_del(t, &key);
    if (capability)
        inode->flags |= INODE_CAPABILITY;
    return value_put(t, &key, inode->ino, m->value.data, m->value.len);
}

int ns_cmd_setxattr(struct tables *t, const void *message)
{
    const Tarn__SetXattr *m = message;
    if (m->flags & ~(uint32_t)(XATTR_FLAG_CREATE | XATTR_FLAG_REPLACE))
        return -E_INVAL;
    int err = name_check(m->name);
    if (err == 0 && m->value.len > XATTR_VALUE_MAX)
        err = -E_TOOBIG;
    _cleanup_(inode_fini) struct inode inode = {0};
    if (err == 0)
        err = ns_where(t, m->where, 0, &inode);
    if (err == 0)
        err = may_set(t, m->name, &inode);
    if (err == 0)
        err = is_acl(m->name) ? acl_set(t, &inode, m) : set_plain(t, &inode, m);
    if (err != 0)
        return err;
    ns_touch(t, &inode, false);
    return ns_inode_put(t, &inode);
}

static int reply_one(struct tables *t, const char *name, const void *data, size_t n)
{
    Tarn__XattrPair pair = TARN__XATTR_PAIR__INIT, *pairs[] = {&pair};
    pair.name = (char *)name;
    pair.value.data = (uint8_t *)data;
    pair.value.len = n;
    Tarn__GetXattrReply reply = TARN__GET_XATTR_REPLY__INIT;
    reply.n_pairs = 1;
    reply.pairs = pairs;
    return tables_reply(t, &reply.base);
}

static int get_acl(struct tables *t, const struct inode *inode, const char *name)
{
    uint16_t flag = strcmp(name, ACL_XATTR_ACCESS) == 0 ? INODE_ACL : INODE_ACL_DEFAULT;
    if (inode->type == TARN__FILE_TYPE__FT_SYMLINK)
        return -E_NOTSUP;
    if (!(inode->flags & flag))
        return -E_NODATA;
    _cleanup_(acl_fini) struct acl acl = {0};
    _cleanup_(writer_fini) struct writer w = {0};
    int err = acl_load(t, inode, name, &acl);
    if (err != 0)
        return err;
    acl_encode(&acl, &w);
    return w.failed ? -E_NOMEM : reply_one(t, name, w.data, w.len);
}

static int get_one(struct tables *t, const struct inode *inode, const char *name)
{
    int err = name_check(name);
    if (err == 0)
        err = may_get(t, name, inode);
    if (err != 0)
        return err;
    if (is_acl(name))
        return get_acl(t, inode, name);
    struct kv_val value;
    err = value_get(t, inode->ino, name, &value);
    return err == 0 ? reply_one(t, name, value.data, value.len) : err;
}

/* Names of all, values of the user's where they may be read and fit. */
static int get_list(struct tables *t, const struct inode *inode)
{
    struct key prefix = key_1(TABLE_XATTR, inode->ino);
    _cleanup_(rows_fini) struct rows rows = {0};
    int err = tables_rows(t, &prefix, &prefix, SIZE_MAX, &rows);
    _cleanup_free_ Tarn__XattrPair *pairs = calloc(rows.count + 1, sizeof *pairs);
    _cleanup_free_ Tarn__XattrPair **pointers = calloc(rows.count + 1, sizeof *pointers);
    if (err == 0 && (pairs == NULL || pointers == NULL))
        err = -E_NOMEM;
    bool readable = ns_may(t, inode, NS_READ) == 0;
    size_t bytes = 0;
    Tarn__GetXattrReply reply = TARN__GET_XATTR_REPLY__INIT;
    reply.pairs = pointers;
    for (size_t i = 0; i < rows.count && err == 0; i++) {
        struct row *row = &rows.rows[i];
        row->key.data[MIN((size_t)row->key.len, sizeof row->key.data - 1)] = 0;
        const char *name = (const char *)row->key.data + 9;
        if (has_prefix(name, "trusted.") && t->cred.uid != 0)
            continue;
        Tarn__XattrPair *pair = &pairs[reply.n_pairs];
        tarn__xattr_pair__init(pair);
        pair->name = (char *)name;
        bytes += row->len;
        if (readable && has_prefix(name, "user.") && row->len > 1 && bytes <= XATTR_BYTES_MAX)
            pair->value = (ProtobufCBinaryData){.data = row->value + 1, .len = row->len - 1};
        pointers[reply.n_pairs++] = pair;
    }
    return err == 0 ? tables_reply(t, &reply.base) : err;
}

int query_getxattr(struct tables *t, const void *message)
{
    const Tarn__GetXattr *m = message;
    _cleanup_(inode_fini) struct inode inode = {0};
    int err = ns_where(t, m->where, 0, &inode);
    if (err != 0)
        return err;
    return m->name[0] == 0 ? get_list(t, &inode) : get_one(t, &inode, m->name);
}
