/* N7, N8: the way from an inode up to the directories that name it. */
#include "check_impl.h"
#include "meta.pb-c.h"
#include "record_view.h"

struct links {
    uint64_t named, counted; /* sums over the names of files with several, and over the link rows */
};

static bool file_at(struct check *check, uint64_t ino, struct inode *ret)
{
    struct key key = key_1(TABLE_INODE, ino);
    struct kv_val value;
    return check_get(check, &key, &value) && inode_decode(ino, value.data, value.len, ret) == 0;
}

static uint64_t pair(uint64_t ino, uint64_t dir)
{
    return check_mix(check_mix(ino) ^ dir);
}

static int see_name(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct links *links = arg;
    uint64_t dir = key_number(key, 0);
    struct entry entry;
    _cleanup_(inode_fini) struct inode inode = {0};
    if (entry_decode(value.data, value.len, &entry) != 0 || !file_at(check, entry.ino, &inode) ||
        inode.type == TARN__FILE_TYPE__FT_DIR || inode.parent == 0 || ino_clone(entry.ino) != 0)
        return 0; /* told by the tree's room, or not upgraded yet */
    if (inode.nlink > 1)
        links->named += pair(inode.ino, dir);
    else if (inode.parent != dir)
        check_violation(check, "N7", "inode %llu is named in %llu and says that its parent is %llu",
                        (unsigned long long)inode.ino, (unsigned long long)dir, (unsigned long long)inode.parent);
    return 0;
}

static int see_inode(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    _cleanup_(inode_fini) struct inode inode = {0};
    uint64_t ino = key_number(key, 0);
    if (inode_decode(ino, value.data, value.len, &inode) != 0 || ino_clone(ino) != 0)
        return 0;
    if (inode.parent == 0 && (check->state.tree_upgrade == 0 || inode.type == TARN__FILE_TYPE__FT_DIR))
        check_violation(check, "N7", "inode %llu has no parent", (unsigned long long)ino);
    struct key row = key_2(TABLE_LINK, ino, inode.parent);
    if (inode.type != TARN__FILE_TYPE__FT_DIR && inode.nlink > 1 && inode.parent != 0 && !check_has(check, &row))
        check_violation(check, "N7", "inode %llu has parent %llu and no link row for it", (unsigned long long)ino,
                        (unsigned long long)inode.parent);
    return 0;
}

static int see_link(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    struct links *links = arg;
    uint64_t ino = key_number(key, 0), dir = key_number(key, 1), names;
    _cleanup_(inode_fini) struct inode inode = {0};
    if (number_decode(value.data, value.len, &names) != 0) {
        check_undecodable(check, key, "link row");
        return 0;
    }
    bool found = file_at(check, ino, &inode);
    if ((found && inode.parent == 0) || ino_clone(ino) != 0)
        return 0;
    if (!found || inode.nlink < 2 || inode.type == TARN__FILE_TYPE__FT_DIR || names == 0)
        check_violation(check, "N8", "there is a link row for inode %llu in %llu, which does not have several names",
                        (unsigned long long)ino, (unsigned long long)dir);
    else
        links->counted += names * pair(ino, dir);
    return 0;
}

static int see_cursor(struct check *check, const struct key *key, struct kv_val value, void *arg)
{
    if (check->state.tree_upgrade == 0)
        check_violation(check, "N8", "the walk over version 1 has ended and its cursor is left");
    return 0;
}

int check_room_links(struct check *check)
{
    struct links links = {0};
    int err = check_each(check, TABLE_INODE, see_inode, NULL);
    if (err == 0)
        err = check_each(check, TABLE_ENTRY, see_name, &links);
    if (err == 0)
        err = check_each(check, TABLE_LINK, see_link, &links);
    if (err == 0)
        err = check_each(check, TABLE_UPGRADE, see_cursor, NULL);
    if (err == 0 && links.named != links.counted)
        check_violation(check, "N8", "the link rows do not count the names of the files with several names");
    return err;
}
