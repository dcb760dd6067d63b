#include "acl.h"

#include "common/err.h"

#define ACL_VERSION 2
#define NO_ID UINT32_MAX

void acl_fini(struct acl *acl)
{
    free(acl->entries);
    *acl = (struct acl){0};
}

static bool named(uint16_t tag)
{
    return tag == ACL_USER || tag == ACL_GROUP;
}

static bool twice(const struct acl *acl, size_t i)
{
    for (size_t j = i; j-- > 0 && acl->entries[j].tag == acl->entries[i].tag;)
        if (acl->entries[j].id == acl->entries[i].id)
            return true;
    return false;
}

/* acl_valid(3). Tags grow from entry to entry; only the named ones may come more than once. */
static bool valid(const struct acl *acl)
{
    unsigned seen = 0;
    for (size_t i = 0; i < acl->count; i++) {
        const struct acl_entry *e = &acl->entries[i];
        if (e->perm > 7 || (seen >> 1) >= e->tag || (!named(e->tag) && (seen & e->tag)))
            return false;
        if (named(e->tag) && (e->id == NO_ID || twice(acl, i)))
            return false;
        seen |= e->tag;
    }
    unsigned need = ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_OTHER;
    if (seen & (ACL_USER | ACL_GROUP))
        need |= ACL_MASK;
    return (seen & need) == need;
}

static bool tag_known(uint16_t tag)
{
    return tag != 0 && tag <= ACL_OTHER && (tag & (tag - 1)) == 0;
}

int acl_decode(const void *data, size_t n, struct acl *ret)
{
    struct reader r = reader_init(data, n);
    uint32_t version = reader_u32(&r);
    if (r.failed || reader_left(&r) % 8 != 0)
        return -E_INVAL;
    if (version != ACL_VERSION)
        return -E_NOTSUP;
    size_t count = reader_left(&r) / 8;
    if (count > ACL_ENTRIES_MAX)
        return -E_NOSPC;
    struct acl acl = {.count = count, .entries = calloc(count + 1, sizeof *acl.entries)};
    if (acl.entries == NULL)
        return -E_NOMEM;
    bool ok = true;
    for (size_t i = 0; i < count; i++) {
        struct acl_entry *e = &acl.entries[i];
        e->tag = reader_u16(&r);
        uint16_t perm = reader_u16(&r);
        e->perm = (uint8_t)MIN(perm, (uint16_t)8); /* 8 is refused below */
        uint32_t id = reader_u32(&r);
        e->id = named(e->tag) ? id : NO_ID;
        ok &= tag_known(e->tag);
    }
    if (count == 0 || (ok && valid(&acl))) {
        *ret = acl;
        return 0;
    }
    acl_fini(&acl);
    return -E_INVAL;
}

void acl_encode(const struct acl *acl, struct writer *w)
{
    writer_u32(w, ACL_VERSION);
    for (size_t i = 0; i < acl->count; i++) {
        writer_u16(w, acl->entries[i].tag);
        writer_u16(w, acl->entries[i].perm);
        writer_u32(w, acl->entries[i].id);
    }
}

static struct acl_entry *find(const struct acl *acl, uint16_t tag)
{
    for (size_t i = 0; i < acl->count; i++)
        if (acl->entries[i].tag == tag)
            return &acl->entries[i];
    return NULL;
}

/* The entry whose permissions are the group bits of the mode: acl(5), "correspondence". */
static struct acl_entry *group_class(const struct acl *acl)
{
    struct acl_entry *mask = find(acl, ACL_MASK);
    return mask != NULL ? mask : find(acl, ACL_GROUP_OBJ);
}

void acl_set_mode(struct acl *acl, uint16_t mode)
{
    if (acl->count == 0)
        return;
    find(acl, ACL_USER_OBJ)->perm = mode >> 6 & 7;
    group_class(acl)->perm = mode >> 3 & 7;
    find(acl, ACL_OTHER)->perm = mode & 7;
}

uint16_t acl_mode(const struct acl *acl, uint16_t mode, bool *ret_minimal)
{
    *ret_minimal = acl->count <= 3;
    if (acl->count == 0)
        return mode;
    unsigned bits = (unsigned)find(acl, ACL_USER_OBJ)->perm << 6 |
                    (unsigned)group_class(acl)->perm << 3 | find(acl, ACL_OTHER)->perm;
    return (uint16_t)((mode & ~0777u) | bits);
}

static bool in_group(const struct acl_who *who, uint32_t gid)
{
    bool found = who->gid == gid;
    for (size_t i = 0; i < who->n_groups && !found; i++)
        found = who->groups[i] == gid;
    return found;
}

static int granted(unsigned perm, unsigned mask)
{
    return (perm & mask) == mask ? 0 : -E_ACCES;
}

/* The algorithm of acl(5), "access check": the first of owner, named user, any group, others. Among
 * the groups one entry must give all that is asked for. */
int acl_check(const struct acl *acl, uint32_t owner, uint32_t group, const struct acl_who *who,
              unsigned mask)
{
    const struct acl_entry *limit = find(acl, ACL_MASK);
    unsigned most = limit == NULL ? 7 : limit->perm;
    if (who->uid == owner)
        return granted(find(acl, ACL_USER_OBJ)->perm, mask);
    bool member = false;
    for (size_t i = 0; i < acl->count; i++) {
        const struct acl_entry *e = &acl->entries[i];
        if (e->tag == ACL_USER && e->id == who->uid)
            return granted(e->perm & most, mask);
        if ((e->tag == ACL_GROUP_OBJ && in_group(who, group)) ||
            (e->tag == ACL_GROUP && in_group(who, e->id))) {
            member = true;
            if (granted(e->perm & most, mask) == 0)
                return 0;
        }
    }
    return member ? -E_ACCES : granted(find(acl, ACL_OTHER)->perm, mask);
}

uint16_t acl_inherit(struct acl *acl, uint16_t mode, bool *ret_minimal)
{
    struct acl_entry *owner = find(acl, ACL_USER_OBJ), *class = group_class(acl),
                     *other = find(acl, ACL_OTHER);
    owner->perm &= mode >> 6 & 7;
    class->perm &= mode >> 3 & 7;
    other->perm &= mode & 7;
    return acl_mode(acl, mode, ret_minimal);
}
