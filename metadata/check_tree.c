/* N1-N5: inodes, entries, extended attributes, files without a name. */
#include "check_impl.h"
#include "meta.pb-c.h"
#include "record_view.h"

#define LINKS_ZERO ((intptr_t)1 << 40) /* a map's value is never NULL: numbers of links are kept above this */

struct tree {
    /* Every name's inode against every inode's name: files with one link and directories as sums, the others
     * with their number of names. */
    uint64_t named, expected;
    struct map linked; /* ino → LINKS_ZERO and names still missing */
    bool naming;       /* second pass: find out who differs */
    uint64_t files, dirs;
    /* the directory whose entries are being counted */
    uint64_t dir, entries, subdirs;
    bool open;
};

static bool inode_at(struct check *check, uint64_t ino, struct inode *ret)
{
    struct key key = key_1(TABLE_INODE, ino);
    struct kv_val value;
    return check_get(check, &key, &value) && inode_decode(ino, value.data, value.len, ret) == 0;
}

static bool is_dir(const struct inode *inode)
{
    return inode->type == TARN__FILE_TYPE__FT_DIR;
}

static int linked_add(struct tree *tree, uint64_t ino, intptr_t more)
{
    intptr_t links = (intptr_t)map_get(&tree->linked, ino);
    return map_put(&tree->linked, ino, (void *)((links == 0 ? LINKS_ZERO : links) + more));
}

/* ---- inodes */
static void see_parent(struct check *check, const struct inode *inode)
{
    struct inode parent = {0};
    if (!inode_at(check, inode->parent, &parent) || !is_dir(&parent))
        check_violation(check, "N1", "the parent %llu of directory %llu is no directory",
                        (unsigned long long)inode->parent, (unsigned long long)inode->ino);
    inode_fini(&parent);
}

static void see_unnamed(struct check *check, const struct inode *inode)
{
    struct key orphan = key_1(TABLE_ORPHAN, inode->ino), garbage = key_1(TABLE_GARBAGE, inode->ino);
    bool kept = check_has(check, &orphan), going = check_has(check, &garbage);
    if (inode->nlink == 0 && !kept && !going)
        check_violation(check, "N4", "inode %llu has no name, is not open and is not being given back",
                        (unsigned long long)inode->ino);
    if (inode->nlink > 0 && (kept || going))
        check_violation(check, "N4", "inode %llu has %u links and is listed as one without a name",
                        (unsigned long long)inode->ino, inode->nlink);
}

static void see_directory(struct check *check, const struct inode *inode)
{
    struct key entries = key_1(TABLE_ENTRY, inode->ino);
    if (inode->nlink > 0 && inode->nlink < 2)
        check_violation(check, "N2", "directory %llu has %u links", (unsigned long long)inode->ino, inode->nlink);
    /* One with entries is compared where these are counted. */
    if ((inode->entries > 0 || inode->nlink > 2) && !check_any(check, &entries))
        check_violation(check, "N2", "directory %llu says it has %llu entries and has none", (unsigned long long)inode->ino,
                        (unsigned long long)inode->entries);
    if (inode->nlink > 0)
        see_parent(check, inode);
}

static int see_inode(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct tree *tree = arg;
    _cleanup_(inode_fini) struct inode inode = {0};
    uint64_t ino = key_number(key, 0);
    if (inode_decode(ino, value.data, value.len, &inode) != 0) {
        check_undecodable(check, key, "inode");
        return 0;
    }
    tree->files += inode.type == TARN__FILE_TYPE__FT_FILE;
    tree->dirs += is_dir(&inode);
    if (ino_number(ino) >= check->state.next_ino)
        check_violation(check, "F4", "inode %llu was never given out: the next one is %llu", (unsigned long long)ino,
                        (unsigned long long)check->state.next_ino);
    if ((inode.flags & INODE_IMPLICIT) && (!is_dir(&inode) || inode.data_len == 0))
        check_violation(check, "N5", "inode %llu is marked as made by a path, but is no directory with its name in it",
                        (unsigned long long)ino);
    see_unnamed(check, &inode);
    if (ino_clone(ino) != 0)
        return 0;
    if (is_dir(&inode))
        see_directory(check, &inode);
    if (inode.nlink == 0 || ino == MD_ROOT)
        return 0;
    if (!is_dir(&inode) && (inode.nlink > 1 || tree->naming))
        return linked_add(tree, ino, (intptr_t)inode.nlink);
    if (is_dir(&inode) && tree->naming)
        return linked_add(tree, ino, 1);
    tree->expected += check_mix(ino);
    return 0;
}

/* ---- entries */
static void directory_end(struct check *check, struct tree *tree)
{
    if (!tree->open)
        return;
    tree->open = false;
    if (ino_clone(tree->dir) != 0)
        return;
    _cleanup_(inode_fini) struct inode dir = {0};
    if (!inode_at(check, tree->dir, &dir) || !is_dir(&dir) || dir.nlink == 0) {
        check_violation(check, "N1", "%llu names are in %llu, which is no directory with a name",
                        (unsigned long long)tree->entries, (unsigned long long)tree->dir);
        return;
    }
    if (dir.entries != tree->entries)
        check_violation(check, "N2", "directory %llu says it has %llu entries and has %llu", (unsigned long long)dir.ino,
                        (unsigned long long)dir.entries, (unsigned long long)tree->entries);
    if (dir.nlink != 2 + tree->subdirs)
        check_violation(check, "N2", "directory %llu has %u links and %llu subdirectories", (unsigned long long)dir.ino,
                        dir.nlink, (unsigned long long)tree->subdirs);
}

static void see_named(struct check *check, struct tree *tree, const struct key *key, const struct inode *inode)
{
    size_t len;
    const char *name = key_name(key, &len);
    if (is_dir(inode)) {
        tree->subdirs++;
        if (inode->parent != tree->dir || inode->ino == MD_ROOT)
            check_violation(check, "N1", "directory %llu is named in %llu and says that its parent is %llu",
                            (unsigned long long)inode->ino, (unsigned long long)tree->dir,
                            (unsigned long long)inode->parent);
    }
    if ((inode->flags & INODE_IMPLICIT) && (inode->data_len != len || memcmp(inode->data, name, len) != 0))
        check_violation(check, "N5", "directory %llu does not know the name it has in %llu", (unsigned long long)inode->ino,
                        (unsigned long long)tree->dir);
    if (inode->nlink == 0)
        check_violation(check, "N2", "inode %llu has no links and a name in %llu", (unsigned long long)inode->ino,
                        (unsigned long long)tree->dir);
}

static int see_entry(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct tree *tree = arg;
    struct entry entry;
    uint64_t dir = key_number(key, 0);
    if (tree->open && tree->dir != dir)
        directory_end(check, tree);
    if (!tree->open) {
        tree->open = true;
        tree->dir = dir;
        tree->entries = tree->subdirs = 0;
    }
    tree->entries++;
    if (entry_decode(value.data, value.len, &entry) != 0) {
        check_undecodable(check, key, "entry");
        return 0;
    }
    _cleanup_(inode_fini) struct inode inode = {0};
    if (!inode_at(check, entry.ino, &inode)) {
        check_violation(check, "N1", "a name in directory %llu is that of inode %llu, which does not exist",
                        (unsigned long long)dir, (unsigned long long)entry.ino);
        return 0;
    }
    if (entry.type != inode.type)
        check_violation(check, "N1", "a name in directory %llu says that inode %llu has type %u, it has %u",
                        (unsigned long long)dir, (unsigned long long)entry.ino, entry.type, inode.type);
    see_named(check, tree, key, &inode);
    if (ino_clone(entry.ino) != 0)
        return 0;
    if (tree->naming || (!is_dir(&inode) && inode.nlink > 1))
        return linked_add(tree, entry.ino, -1);
    tree->named += check_mix(entry.ino);
    return 0;
}

/* ---- rows beside an inode */
static int see_xattr(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct key inode = key_1(TABLE_INODE, key_number(key, 0));
    if (!check_has(check, &inode))
        check_violation(check, "F5", "an extended attribute is left of inode %llu", (unsigned long long)key_number(key, 0));
    return 0;
}

static int see_orphan(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    uint64_t ino = key_number(key, 0);
    struct key inode = key_1(TABLE_INODE, ino), opens = key_1(TABLE_OPENS, ino);
    if (!check_has(check, &inode))
        check_violation(check, "N4", "inode %llu is listed as open without a name and does not exist", (unsigned long long)ino);
    else if (!check_has(check, &opens))
        check_violation(check, "N4", "inode %llu is listed as open without a name and nobody has it open",
                        (unsigned long long)ino);
    return 0;
}

static int see_garbage(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct key inode = key_1(TABLE_INODE, key_number(key, 0));
    if (!check_has(check, &inode))
        check_violation(check, "N4", "inode %llu is listed as being given back and does not exist",
                        (unsigned long long)key_number(key, 0));
    return 0;
}

/* ---- N3 */
static int see_ancestors(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    const struct tree *tree = arg;
    uint64_t ino = key_number(key, 0), steps = 0;
    _cleanup_(inode_fini) struct inode inode = {0};
    if (inode_decode(ino, value.data, value.len, &inode) != 0 || !is_dir(&inode) || inode.nlink == 0)
        return 0;
    while (inode.ino != MD_ROOT && steps++ <= tree->dirs) {
        uint64_t parent = inode.parent;
        inode_fini(&inode);
        inode = (struct inode){0};
        if (!inode_at(check, parent, &inode))
            return 0; /* told with its child */
    }
    if (inode.ino == MD_ROOT)
        return 0;
    check_violation(check, "N3", "directory %llu is not below the root: its ancestors form a ring", (unsigned long long)ino);
    return 1; /* all of the ring would be told */
}

/* The sums differ: which inodes is it? Costs memory for each inode, in a case that does not happen. */
static int name_them(struct check *check)
{
    struct tree tree = {.naming = true};
    struct check_summary silent = *check->summary;
    struct check quiet = *check;
    quiet.report = NULL;
    quiet.summary = &silent;
    int err = check_each(&quiet, TABLE_INODE, see_inode, &tree);
    if (err == 0)
        err = check_each(&quiet, TABLE_ENTRY, see_entry, &tree);
    size_t at = 0;
    uint64_t ino;
    void *value;
    while (err == 0 && map_next(&tree.linked, &at, &ino, &value)) {
        intptr_t missing = (intptr_t)value - LINKS_ZERO;
        if (missing != 0)
            check_violation(check, "N2", "inode %llu has %lld names %s than its link count says", (unsigned long long)ino,
                            (long long)(missing > 0 ? missing : -missing), missing > 0 ? "less" : "more");
    }
    map_fini(&tree.linked);
    return err;
}

static bool links_agree(const struct tree *tree)
{
    size_t at = 0;
    uint64_t ino;
    void *value;
    while (map_next(&tree->linked, &at, &ino, &value))
        if ((intptr_t)value != LINKS_ZERO)
            return false;
    return tree->named == tree->expected;
}

int check_room_tree(struct check *check)
{
    struct tree tree = {0};
    int err = check_each(check, TABLE_INODE, see_inode, &tree);
    if (err == 0)
        err = check_each(check, TABLE_ENTRY, see_entry, &tree);
    if (err == 0)
        directory_end(check, &tree);
    bool agree = links_agree(&tree);
    map_fini(&tree.linked);
    if (err == 0 && !agree)
        err = name_them(check);
    if (err == 0)
        err = check_each(check, TABLE_INODE, see_ancestors, &tree);
    if (err == 0)
        err = check_each(check, TABLE_XATTR, see_xattr, NULL);
    if (err == 0)
        err = check_each(check, TABLE_ORPHAN, see_orphan, NULL);
    if (err == 0)
        err = check_each(check, TABLE_GARBAGE, see_garbage, NULL);
    check_counter(check, "N2", "files", check->state.files, tree.files);
    return err;
}
