/* The tree: inodes, directory entries, permissions, path walk, and the commands that change it.
 * Source of the rules: POSIX.1-2017 (rename, unlink, link, mkdir, chmod, chown), renameat2(2),
 * path_resolution(7). Invariants N1-N6 in docs/invariants.md. Threads: the transaction's. Cost:
 * O(log table) per component. */
#ifndef TARN_METADATA_NAMESPACE_H
#define TARN_METADATA_NAMESPACE_H

#include "tables.h"

#define NS_SYMLINKS_MAX 40 /* as Linux: path_resolution(7) */
#define NS_LINKS_MAX 65000 /* entries that name one file */
#define NS_PATH_MAX 65536  /* bytes of a path with its symbolic links put in */
/* The object `a` beside the keys `a/b`: its entry inside the directory `a`. No client makes that
 * name: key escaping writes a leading '%' of a component as "%25". */
#define NS_SELF "%self"

enum ns_may { NS_READ = 4, NS_WRITE = 2, NS_EXEC = 1 };

int ns_inode_get(struct tables *t, uint64_t ino, struct inode *ret); /* -E_NOENT */
int ns_inode_put(struct tables *t, const struct inode *inode);
int ns_entry_get(struct tables *t, uint64_t dir, const char *name,
                 struct entry *ret); /* -E_NOENT */

/* 0, -E_ACCES. Owner, group, other, or the access ACL; root passes, but executes only what somebody
 * may execute. */
int ns_may(struct tables *t, const struct inode *inode, unsigned mask);
bool ns_in_group(const struct cred *cred, uint32_t gid);
/* Sets *out; borrows the inode's etag. */
void ns_attr(const struct inode *inode, Tarn__Attr *out);
uint64_t ns_stored(const struct inode *inode); /* bytes of a file as st_blocks and quotas count them */
/* A change of owner takes the set-id bits and security.capability away, a write, too, but the
 * superuser's leaves the set-id bits. The caller puts the inode. */
int ns_drop_privileges(struct tables *t, struct inode *inode);
int ns_written(struct tables *t, struct inode *inode);
/* Marks a change: ctime (and mtime), version. */
void ns_touch(const struct tables *t, struct inode *inode, bool content);

enum ns_walk_flags {
    NS_NOFOLLOW = 1, /* a symbolic link in the last component is the answer */
    NS_MAY_MISS = 2, /* the last component may be missing: found = false */
    NS_MKDIRS = 4,   /* missing directories on the way are made */
    NS_IMPLICIT = 8, /* … for an object's key: flagged, and a file in the way moves to NS_SELF */
    NS_FILES_STAY = 16 /* … but not a file in the way: -E_NOTDIR */
};
struct ns_walk {
    bool found;
    struct inode inode; /* when found */
    struct inode
        dir; /* directory of the last component; dir.ino 0 when it is the start, "/" or ".." */
    char name[MD_NAME_MAX + 1]; /* of the last component */
};
void ns_walk_fini(struct ns_walk *walk);
/* Resolves path from the inode `start` (0 = root). Errors: -E_NOENT -E_NOTDIR -E_ACCES -E_LOOP
 * -E_NAMETOOLONG. */
int ns_walk(struct tables *t, uint64_t start, const char *path, unsigned flags,
            struct ns_walk *ret);
/* The inode a Where names; NULL = the root. `flags` adds to its nofollow. */
int ns_where(struct tables *t, const Tarn__Where *where, unsigned flags, struct inode *ret);
/* The directory a Where names. -E_NOTDIR. */
int ns_where_dir(struct tables *t, const Tarn__Where *where, unsigned flags, struct inode *ret);
/* 0, -E_INVAL empty or with '/', "." or "..": -E_EXIST is the caller's; -E_NAMETOOLONG. */
int ns_name_check(const char *name);

/* The directory of (one of) the inode's names: its parent in the tree, the one whose quotas and
 * policy count. The root is its own. -E_NOENT: not known yet (the row is of version 1). */
int ns_parent_of(const struct inode *inode, uint64_t *ret_dir);
/* Visits all directories that name the inode, in order of their numbers, with how many names it has
 * there; visit returns 0 go on, 1 stop, or a negative code. -E_NOENT as above. Cost: O(links). */
int ns_parents(struct tables *t, const struct inode *inode,
               int (*visit)(void *arg, uint64_t dir, uint32_t names), void *arg);

/* Building blocks; `dir` is changed in memory and must be put by the caller. */
struct ns_new {
    uint8_t type, copies;
    uint16_t mode, flags;
    uint16_t umask; /* taken from the mode unless the directory has a default ACL */
    uint32_t uid, gid;
    uint64_t rdev;
    const char *target;
};
/* A new inode, not yet put and without an entry. */
int ns_inode_make(struct tables *t, const struct inode *dir, const struct ns_new *spec,
                  struct inode *ret);
/* Both keep the child's parent and link rows (N7, N8), so the child must be put by the caller, too.
 * Of a new name of an old file nlink is raised first, of a removed one lowered afterwards
 * (ns_unref). */
int ns_entry_add(struct tables *t, struct inode *dir, const char *name, struct inode *child);
int ns_entry_remove(struct tables *t, struct inode *dir, const char *name, struct inode *child);
/* Both with puts of dir and child: makes a directory. */
int ns_mkdir(struct tables *t, struct inode *dir, const char *name, const struct ns_new *spec,
             struct inode *ret);
/* -E_PERM -E_ACCES: may the caller take `child` out of `dir`? Write permission and the sticky rule.
 */
int ns_may_remove(struct tables *t, const struct inode *dir, const struct inode *child);
/* One name less: puts the inode, orphans or collects it when that was the last. */
int ns_unref(struct tables *t, struct inode *inode);
/* Removes inode and contents now, or queues it when it has many chunks. nlink is 0, nobody has it
 * open. */
int ns_collect(struct tables *t, struct inode *inode);
/* Up to `steps` pieces of queued collecting; *ret_done counts. */
int ns_garbage_step(struct tables *t, unsigned steps, unsigned *ret_done);
/* Creates or replaces an object's entry (OBJECT_COMMIT, TASK_COMMIT); *ret is the new inode. */
int ns_object_commit(struct tables *t, const Tarn__NewObject *object, struct inode *ret);
/* After an entry of `dir` went: removes implicit empty directories upwards, moves a lonely NS_SELF
 * back up. */
int ns_prune(struct tables *t, uint64_t dir);

/* ---- namespace_xattr.c; those that change the inode leave putting it to the caller */
/* An attribute of an object that the caller is making: user.*, and for root trusted.*, security.*.
 * -E_RANGE -E_TOOBIG -E_NOSPC -E_NOTSUP -E_PERM. */
int ns_xattr_set(struct tables *t, struct inode *inode, const Tarn__XattrPair *pair);
int ns_drop_capability(struct tables *t, struct inode *inode);
int ns_acl_check(struct tables *t, const struct inode *inode, unsigned mask); /* with INODE_ACL */
/* What a new inode gets of its directory's default ACL; without one the umask counts. */
int ns_acl_inherit(struct tables *t, const struct inode *dir, uint16_t umask, struct inode *inode);

int ns_init(struct tables *t);

/* namespace_links.c: the parts of ns_entry_add(), ns_entry_remove(), ns_cmd_link() and ns_unref()
 * that keep parent and link rows. */
int ns_link_added(struct tables *t, const struct key *entry, uint64_t dir, struct inode *child);
int ns_link_removed(struct tables *t, const struct key *entry, uint64_t dir, struct inode *child);
int ns_links_begin(struct tables *t, const struct inode *child); /* nlink is about to become 2 */
int ns_links_end(struct tables *t, struct inode *child);         /* nlink has become 1 */
/* Fills in parents and link rows of version 1, a bounded number of names a step. */
bool ns_upgrade_due(const struct tables *t);
int ns_upgrade_step(struct tables *t);

/* Commands. */
int ns_cmd_create(struct tables *t, const void *message);
int ns_cmd_unlink(struct tables *t, const void *message);
int ns_cmd_rename(struct tables *t, const void *message);
int ns_cmd_link(struct tables *t, const void *message);
int ns_cmd_setattr(struct tables *t, const void *message);
int ns_cmd_setxattr(struct tables *t, const void *message);
int ns_cmd_object_commit(struct tables *t, const void *message);

#endif
