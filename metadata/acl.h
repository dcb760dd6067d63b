/* POSIX access control lists: decoding, validity, the access check, creation with inheritance. Pure.
 * Source: POSIX.1e draft 17 (withdrawn), sections 23.1 and 23.5; acl(5); bytes: the kernel's
 * posix_acl_xattr.h, version 2, little-endian. Invariants A1-A4 in docs/invariants.md.
 * Of a stored access ACL the owner's, the mask's and the others' permissions are those of the mode:
 * chmod changes the mode only, and acl_set_mode() puts them in when the ACL is read (A2). */
#ifndef TARN_METADATA_ACL_H
#define TARN_METADATA_ACL_H

#include "common/base.h"
#include "common/bytes.h"

#define ACL_XATTR_ACCESS "system.posix_acl_access"
#define ACL_XATTR_DEFAULT "system.posix_acl_default"
#define ACL_ENTRIES_MAX 1024 /* 8 KiB; a check looks at each of them */

enum acl_tag {
    ACL_USER_OBJ = 1,
    ACL_USER = 2,
    ACL_GROUP_OBJ = 4,
    ACL_GROUP = 8,
    ACL_MASK = 16,
    ACL_OTHER = 32
};
struct acl_entry {
    uint16_t tag;
    uint8_t perm; /* rwx as 4 2 1 */
    uint32_t id;  /* ACL_USER, ACL_GROUP; else UINT32_MAX */
};
struct acl {
    size_t count;
    struct acl_entry *entries; /* owned; in the order of the bytes */
};
void acl_fini(struct acl *acl);

/* Who asks. */
struct acl_who {
    uint32_t uid, gid;
    const uint32_t *groups;
    size_t n_groups;
};

/* Count 0 (a header alone) is an ACL that takes the stored one away.
 * Errors: -E_INVAL not valid by acl_valid(3): tags out of order, one missing or twice, names without
 * a mask, a permission bit that is none; -E_NOTSUP another version; -E_NOSPC too many entries;
 * -E_NOMEM. */
int acl_decode(const void *data, size_t n, struct acl *ret);
void acl_encode(const struct acl *acl, struct writer *w);

/* Owner's, mask's (without a mask: the group's) and others' permissions become those of the mode. */
void acl_set_mode(struct acl *acl, uint16_t mode);
/* The mode's permission bits as the ACL has them; the rest of `mode` stays. *ret_minimal: it says
 * nothing that the mode does not say. */
uint16_t acl_mode(const struct acl *acl, uint16_t mode, bool *ret_minimal);
/* 0, -E_ACCES. `owner`, `group`: of the inode; mask: rwx bits asked for. Not for the superuser. */
int acl_check(const struct acl *acl, uint32_t owner, uint32_t group, const struct acl_who *who,
              unsigned mask);
/* What a new inode gets from its directory's default ACL when it is asked for with `mode`: *acl
 * becomes the access ACL, and the mode is returned. */
uint16_t acl_inherit(struct acl *acl, uint16_t mode, bool *ret_minimal);

#endif
