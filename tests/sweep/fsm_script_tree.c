/* The sweep's script, first part: names, locks, leases, quotas, snapshots and clones. */
#include "fsm_sweep.h"

#include "common/err.h"
#include "ops.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define FILE_ TARN__FILE_TYPE__FT_FILE
#define DIR_ TARN__FILE_TYPE__FT_DIR

static Tarn__Where at(const char *path)
{
    Tarn__Where where = TARN__WHERE__INIT;
    where.path = (char *)(uintptr_t)path;
    return where;
}

/* ---- names */

/* The inode, and *ret_handle (may be NULL) when it is opened. */
static uint64_t create(struct sweep *s, const char *dir, char *name, Tarn__FileType type, int expected, uint64_t *ret_handle)
{
    Tarn__Where parent = at(dir);
    Tarn__Create m = TARN__CREATE__INIT;
    m.ctx = sweep_ctx(s);
    m.parent = &parent;
    m.name = name;
    m.type = type;
    m.mode = 0755;
    m.target = type == TARN__FILE_TYPE__FT_SYMLINK ? "/d/f" : "";
    m.exclusive = true;
    m.open = m.want_exclusive = ret_handle != NULL;
    m.open_flags = O_RDWR;
    sweep_apply(s, OP_CREATE, &m.base, expected);
    if (expected != 0)
        return 0;
    Tarn__Entry *entry = sweep_reply(s, &tarn__entry__descriptor);
    if (ret_handle != NULL)
        *ret_handle = entry->handle;
    return entry->attr->ino;
}

static uint64_t open_file(struct sweep *s, const char *path, bool want_exclusive, int expected)
{
    Tarn__Where where = at(path);
    Tarn__Open m = TARN__OPEN__INIT;
    m.ctx = sweep_ctx(s);
    m.where = &where;
    m.flags = O_RDWR;
    m.want_exclusive = want_exclusive;
    sweep_apply(s, OP_OPEN, &m.base, expected);
    return expected == 0 ? ((Tarn__Entry *)sweep_reply(s, &tarn__entry__descriptor))->handle : 0;
}

static void close_handle(struct sweep *s, uint64_t handle)
{
    Tarn__Close m = TARN__CLOSE__INIT;
    m.ctx = sweep_ctx(s);
    m.handle = handle;
    sweep_apply(s, OP_CLOSE, &m.base, 0);
}

static void unlink_name(struct sweep *s, const char *dir, char *name, bool directory)
{
    Tarn__Where parent = at(dir);
    Tarn__Unlink m = TARN__UNLINK__INIT;
    m.ctx = sweep_ctx(s);
    m.parent = &parent;
    m.name = name;
    m.directory = directory;
    sweep_apply(s, OP_UNLINK, &m.base, 0);
}

static void chmod_name(struct sweep *s, const char *path, uint32_t mode)
{
    Tarn__Where where = at(path);
    Tarn__SetAttr m = TARN__SET_ATTR__INIT;
    m.ctx = sweep_ctx(s);
    m.where = &where;
    m.mask = TARN__SET_ATTR_BITS__SA_MODE;
    m.mode = mode;
    sweep_apply(s, OP_SETATTR, &m.base, 0);
}

static void links(struct sweep *s)
{
    Tarn__Where dir = at("/d"), file = at("/d/f"), root = at("");
    Tarn__Link link = TARN__LINK__INIT;
    link.ctx = sweep_ctx(s);
    link.target = &file;
    link.parent = &root;
    link.name = "second";
    sweep_apply(s, OP_LINK, &link.base, 0);
    Tarn__Rename rename = TARN__RENAME__INIT;
    rename.ctx = sweep_ctx(s);
    rename.from = &root;
    rename.from_name = "second";
    rename.to = &dir;
    rename.to_name = "third";
    sweep_apply(s, OP_RENAME, &rename.base, 0);
    unlink_name(s, "/d", "third", false);
}

static void attributes(struct sweep *s)
{
    Tarn__Where file = at("/d/f");
    Tarn__SetXattr xattr = TARN__SET_XATTR__INIT;
    xattr.ctx = sweep_ctx(s);
    xattr.where = &file;
    xattr.name = "user.colour";
    xattr.value = (ProtobufCBinaryData){.data = (uint8_t *)"blue", .len = 4};
    sweep_apply(s, OP_SETXATTR, &xattr.base, 0);
    Tarn__SetAttr set = TARN__SET_ATTR__INIT;
    set.ctx = sweep_ctx(s);
    set.where = &file;
    set.mask = TARN__SET_ATTR_BITS__SA_SIZE | TARN__SET_ATTR_BITS__SA_MODE;
    set.mode = 0600;
    set.size = 1000;
    sweep_apply(s, OP_SETATTR, &set.base, 0);
    Tarn__GetXattr get = TARN__GET_XATTR__INIT;
    get.where = &file;
    sweep_query(s, OP_GETXATTR, &get.base, 0);
    Tarn__Access access = TARN__ACCESS__INIT;
    access.where = &file;
    access.mask = R_OK;
    sweep_query(s, OP_ACCESS, &access.base, 0);
}

/* Somebody who is not root looks through a directory whose list of rights lets him. */
static void access_list(struct sweep *s)
{
    static const uint8_t rights[] = {2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 7, 0, 0, 0, 4, 0, 0, 0, 255, 255,
                                     255, 255, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255};
    Tarn__Where dir = at("/d"), file = at("/d/f"), *wheres[] = {&file, &dir};
    Tarn__SetXattr xattr = TARN__SET_XATTR__INIT;
    xattr.ctx = sweep_ctx(s);
    xattr.where = &dir;
    xattr.name = "system.posix_acl_access";
    xattr.value = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)rights, .len = sizeof rights};
    sweep_apply(s, OP_SETXATTR, &xattr.base, 0);
    Tarn__Ctx user = TARN__CTX__INIT;
    user.uid = user.gid = 7;
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    lookup.ctx = &user;
    lookup.where = &file;
    sweep_query(s, OP_LOOKUP, &lookup.base, 0);
    Tarn__Lookups lookups = TARN__LOOKUPS__INIT;
    lookups.ctx = &user;
    lookups.wheres = wheres;
    lookups.n_wheres = ARRAY_SIZE(wheres);
    sweep_query(s, OP_LOOKUPS, &lookups.base, 0);
    char *path = "/d";
    Tarn__Locations locations = TARN__LOCATIONS__INIT;
    locations.ctx = &user;
    locations.paths = &path;
    locations.n_paths = 1;
    locations.recursive = true;
    locations.max = 100;
    sweep_query(s, OP_LOCATIONS, &locations.base, 0);
}

static void names(struct sweep *s)
{
    uint64_t handle;
    create(s, "/", "d", DIR_, 0, NULL);
    create(s, "/d", "f", FILE_, 0, &handle);
    create(s, "/d", "f", FILE_, -E_EXIST, NULL);
    create(s, "/d", "l", TARN__FILE_TYPE__FT_SYMLINK, 0, NULL);
    create(s, "/nowhere", "f", FILE_, -E_NOENT, NULL);
    links(s);
    attributes(s);
    unlink_name(s, "/d", "f", false); /* an orphan, until it is closed */
    close_handle(s, handle);
    create(s, "/d", "f", FILE_, 0, NULL);
    access_list(s);
    create(s, "/d", "e", DIR_, 0, NULL);
    unlink_name(s, "/d", "e", true);
}

static void batches(struct sweep *s)
{
    Tarn__Where root = at(""), file = at("/d/f"), made = at("/batched");
    Tarn__Create one = TARN__CREATE__INIT;
    Tarn__SetAttr set = TARN__SET_ATTR__INIT;
    Tarn__Link link = TARN__LINK__INIT;
    Tarn__Unlink unlink = TARN__UNLINK__INIT;
    Tarn__BatchItem items[5], *pointers[5];
    for (unsigned i = 0; i < ARRAY_SIZE(items); i++) {
        tarn__batch_item__init(&items[i]);
        pointers[i] = &items[i];
    }
    one.parent = link.parent = unlink.parent = &root;
    one.name = unlink.name = "batched";
    one.type = FILE_;
    one.exclusive = true;
    set.where = &made;
    set.mask = TARN__SET_ATTR_BITS__SA_MODE;
    link.target = &file;
    link.name = "linked";
    items[0].create = items[1].create = &one; /* the second fails by itself */
    items[2].set_attr = &set;
    items[3].link = &link;
    items[4].unlink = &unlink;
    Tarn__Batch batch = TARN__BATCH__INIT;
    batch.ctx = sweep_ctx(s);
    batch.items = pointers;
    batch.n_items = ARRAY_SIZE(pointers);
    sweep_apply(s, OP_BATCH, &batch.base, 0);
}

static void queries(struct sweep *s)
{
    Tarn__Where dir = at("/d"), file = at("/d/f"), *wheres[] = {&dir, &file, &dir};
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    lookup.where = &dir;
    sweep_query(s, OP_LOOKUP, &lookup.base, 0);
    Tarn__Lookups lookups = TARN__LOOKUPS__INIT;
    lookups.wheres = wheres;
    lookups.n_wheres = ARRAY_SIZE(wheres);
    sweep_query(s, OP_LOOKUPS, &lookups.base, 0);
    Tarn__ReadDir list = TARN__READ_DIR__INIT;
    list.where = &dir;
    list.max = 100;
    list.attrs = true;
    sweep_query(s, OP_READDIR, &list.base, 0);
    Tarn__ListObjects objects = TARN__LIST_OBJECTS__INIT;
    objects.bucket = &dir;
    objects.max = 100;
    sweep_query(s, OP_LIST_OBJECTS, &objects.base, 0);
    char *path = "/d";
    Tarn__Locations locations = TARN__LOCATIONS__INIT;
    locations.paths = &path;
    locations.n_paths = 1;
    locations.recursive = true;
    locations.max = 100;
    sweep_query(s, OP_LOCATIONS, &locations.base, 0);
}

/* ---- locks and leases */

static void lock(struct sweep *s, uint64_t ino, Tarn__LockType type, uint64_t owner, bool wait, int expected)
{
    Tarn__Lock m = TARN__LOCK__INIT;
    m.ctx = sweep_ctx(s);
    m.ino = ino;
    m.type = type;
    m.end = UINT64_MAX;
    m.owner = owner;
    m.wait = wait;
    m.waiter = wait ? owner : 0;
    sweep_apply(s, OP_LOCK, &m.base, expected);
}

static void locks(struct sweep *s)
{
    uint64_t ino = create(s, "/", "locked", FILE_, 0, NULL);
    lock(s, ino, TARN__LOCK_TYPE__LOCK_EX, 0, false, 0);
    lock(s, ino, TARN__LOCK_TYPE__LOCK_EX, 1, true, 0);
    lock(s, ino, TARN__LOCK_TYPE__LOCK_EX, 2, true, 0);
    lock(s, ino, TARN__LOCK_TYPE__LOCK_EX, 3, false, -E_WOULDBLOCK);
    Tarn__GetLock get = TARN__GET_LOCK__INIT;
    get.ino = ino;
    get.type = TARN__LOCK_TYPE__LOCK_EX;
    get.end = UINT64_MAX;
    get.owner = 9;
    sweep_query(s, OP_GETLK, &get.base, 0);
    Tarn__LockCancel cancel = TARN__LOCK_CANCEL__INIT;
    cancel.ctx = sweep_ctx(s);
    cancel.ino = ino;
    cancel.waiter = 2;
    sweep_apply(s, OP_LOCK_CANCEL, &cancel.base, 0);
    lock(s, ino, TARN__LOCK_TYPE__LOCK_UN, 0, false, 0); /* the one who waits gets it */
    Tarn__LockDrop drop = TARN__LOCK_DROP__INIT;
    drop.ctx = sweep_ctx(s);
    drop.ino = ino;
    drop.owner = 1;
    sweep_apply(s, OP_LOCK_DROP, &drop.base, 0);
}

static void recall(struct sweep *s, Tarn__LeaseItem *item)
{
    Tarn__LeaseRecall m = TARN__LEASE_RECALL__INIT;
    m.items = &item;
    m.n_items = 1;
    sweep_apply(s, OP_LEASE_RECALL, &m.base, 0);
    sweep_look(s);
}

/* Session 1 may write behind, session 2 wants to open. */
static void exclusive_lease(struct sweep *s)
{
    uint64_t handle = 0, ino = create(s, "/", "mine", FILE_, 0, &handle);
    s->session = 2;
    open_file(s, "/mine", false, -E_BUSY);
    s->session = 1;
    Tarn__LeaseItem item = TARN__LEASE_ITEM__INIT;
    item.kind = TARN__LEASE_KIND__LEASE_EXCLUSIVE;
    item.ino = ino;
    item.number = handle;
    item.session = 1;
    recall(s, &item);
    Tarn__LeaseReturn back = TARN__LEASE_RETURN__INIT;
    back.ctx = sweep_ctx(s);
    back.item = &item;
    back.size = 77;
    back.mtime = SWEEP_NOW;
    sweep_apply(s, OP_LEASE_RETURN, &back.base, 0);
    s->session = 2;
    close_handle(s, open_file(s, "/mine", true, 0));
    s->session = 1;
    close_handle(s, handle);
}

/* Session 1 decides about the locks of a file, session 2 wants one. */
static void delegated_locks(struct sweep *s)
{
    uint64_t ino = create(s, "/", "shared", FILE_, 0, NULL);
    Tarn__Lock first = TARN__LOCK__INIT;
    first.ctx = sweep_ctx(s);
    first.ino = ino;
    first.type = TARN__LOCK_TYPE__LOCK_EX;
    first.end = 9;
    first.owner = 5;
    first.want_delegation = true;
    sweep_apply(s, OP_LOCK, &first.base, 0);
    Tarn__LeaseItem item = TARN__LEASE_ITEM__INIT;
    item.kind = TARN__LEASE_KIND__LEASE_LOCKS_FCNTL;
    item.ino = ino;
    item.number = ((Tarn__LockReply *)sweep_reply(s, &tarn__lock_reply__descriptor))->delegation;
    item.session = 1;
    s->session = 2;
    lock(s, ino, TARN__LOCK_TYPE__LOCK_EX, 6, false, -E_BUSY);
    s->session = 1;
    recall(s, &item);
    Tarn__LockRange held = TARN__LOCK_RANGE__INIT, *ranges[] = {&held};
    held.type = TARN__LOCK_TYPE__LOCK_EX;
    held.end = 9;
    held.owner = 5;
    Tarn__LeaseReturn back = TARN__LEASE_RETURN__INIT;
    back.ctx = sweep_ctx(s);
    back.item = &item;
    back.locks = ranges;
    back.n_locks = 1;
    sweep_apply(s, OP_LEASE_RETURN, &back.base, 0);
    s->session = 2;
    lock(s, ino, TARN__LOCK_TYPE__LOCK_EX, 6, false, -E_WOULDBLOCK);
    s->session = 1;
}

/* ---- quotas */

static void quota_set(struct sweep *s, Tarn__QuotaKind kind, Tarn__Where *where, uint64_t subject, uint64_t files, bool remove)
{
    Tarn__QuotaSet m = TARN__QUOTA_SET__INIT;
    m.ctx = sweep_ctx(s);
    m.kind = kind;
    m.where = where;
    m.subject = subject;
    m.set_files = true;
    m.files = files;
    m.remove = remove;
    sweep_apply(s, OP_QUOTA_SET, &m.base, 0);
}

/* One step of the background's: counting, orphans, healing, rows that nobody sees any more. */
static void work(struct sweep *s)
{
    sweep_look(s);
    Tarn__ChunkTasksDone m = TARN__CHUNK_TASKS_DONE__INIT;
    sweep_apply(s, OP_CHUNK_TASKS_DONE, &m.base, 0);
}

static void quotas(struct sweep *s)
{
    Tarn__Where dir = at("/q");
    create(s, "/", "q", DIR_, 0, NULL);
    create(s, "/q", "in", DIR_, 0, NULL);
    create(s, "/q/in", "one", FILE_, 0, NULL);
    quota_set(s, TARN__QUOTA_KIND__QUOTA_DIR, &dir, 0, 4, false);
    quota_set(s, TARN__QUOTA_KIND__QUOTA_USER, NULL, 0, 1000, false);
    quota_set(s, TARN__QUOTA_KIND__QUOTA_GROUP, NULL, 7, 1000, false);
    work(s); /* counts what is there */
    create(s, "/q", "two", FILE_, 0, NULL);
    create(s, "/q/in", "three", FILE_, 0, NULL);
    create(s, "/q/in", "four", FILE_, -E_DQUOT, NULL);
    unlink_name(s, "/q", "two", false);
    Tarn__QuotaGet get = TARN__QUOTA_GET__INIT;
    get.kind = TARN__QUOTA_KIND__QUOTA_DIR;
    get.where = &dir;
    sweep_query(s, OP_QUOTA_GET, &get.base, 0);
    get.kind = TARN__QUOTA_KIND__QUOTA_NONE;
    get.list = true;
    sweep_query(s, OP_QUOTA_GET, &get.base, 0);
    Tarn__StatFs statfs = TARN__STAT_FS__INIT;
    statfs.where = &dir;
    sweep_query(s, OP_STATFS, &statfs.base, 0);
    quota_set(s, TARN__QUOTA_KIND__QUOTA_DIR, &dir, 0, 0, true);
}

/* ---- snapshots and clones */

static void take(struct sweep *s, const char *dir, char *name)
{
    Tarn__Where where = at(dir);
    Tarn__SnapshotTake m = TARN__SNAPSHOT_TAKE__INIT;
    m.ctx = sweep_ctx(s);
    m.where = &where;
    m.name = name;
    sweep_apply(s, OP_SNAPSHOT_TAKE, &m.base, 0);
}

static void drop(struct sweep *s, const char *dir, char *name)
{
    Tarn__Where where = at(dir);
    Tarn__SnapshotDrop m = TARN__SNAPSHOT_DROP__INIT;
    m.ctx = sweep_ctx(s);
    m.where = &where;
    m.name = name;
    sweep_apply(s, OP_SNAPSHOT_DROP, &m.base, 0);
}

static void clone_tree(struct sweep *s, const char *dir, char *name, const char *parent, char *new_name)
{
    Tarn__Where where = at(dir), to = at(parent);
    Tarn__Clone m = TARN__CLONE__INIT;
    m.ctx = sweep_ctx(s);
    m.where = &where;
    m.name = name;
    m.parent = &to;
    m.new_name = new_name;
    sweep_apply(s, OP_CLONE, &m.base, 0);
}

/* Lists a directory of which nobody has seen the clone inside yet. */
static void list_new(struct sweep *s, const char *dir)
{
    Tarn__Where where = at(dir);
    Tarn__ReadDir list = TARN__READ_DIR__INIT;
    list.where = &where;
    list.max = 100;
    list.attrs = true;
    sweep_query(s, OP_READDIR, &list.base, -E_BUSY); /* and says which number it needs */
    Tarn__CloneSlot slot = TARN__CLONE_SLOT__INIT;
    slot.family = s->last.slot_family;
    slot.of_base = s->last.slot_base;
    sweep_apply(s, OP_CLONE_SLOT, &slot.base, 0);
    sweep_query(s, OP_READDIR, &list.base, 0);
}

static void changes_below(struct sweep *s, const char *dir)
{
    char inner[64];
    create(s, dir, "new", FILE_, 0, NULL);
    snprintf(inner, sizeof inner, "%s/in", dir);
    unlink_name(s, inner, "one", false);
    snprintf(inner, sizeof inner, "%s/in/three", dir);
    chmod_name(s, inner, 0700);
    Tarn__Where from = at(dir), to = at("/d");
    Tarn__Rename rename = TARN__RENAME__INIT;
    rename.ctx = sweep_ctx(s);
    rename.from = &from;
    rename.from_name = "new";
    rename.to = &to;
    rename.to_name = "moved";
    sweep_apply(s, OP_RENAME, &rename.base, 0);
}

static void snapshots(struct sweep *s)
{
    take(s, "/q/in", "inner");
    clone_tree(s, "/q/in", "inner", "/q", "copy");
    take(s, "/q", "first");
    changes_below(s, "/q");
    take(s, "/q", "second");
    clone_tree(s, "/q", "first", "/", "c1");
    clone_tree(s, "/q", "first", "/", "c2");
    list_new(s, "/c1");
    chmod_name(s, "/c2/copy", 0711); /* a number for it, within the command */
    changes_below(s, "/c1");
    Tarn__Where dir = at("/q"), old = at("/q/.snapshot/first/in");
    Tarn__SnapshotList list = TARN__SNAPSHOT_LIST__INIT;
    list.where = &dir;
    sweep_query(s, OP_SNAPSHOT_LIST, &list.base, 0);
    Tarn__Lookup lookup = TARN__LOOKUP__INIT;
    lookup.where = &old;
    sweep_query(s, OP_LOOKUP, &lookup.base, 0);
    drop(s, "/q", "first"); /* and goes when no clone rests on it any more */
    drop(s, "/q", "second");
    work(s);
}

/* A clone is emptied and removed: its rows go in the background. */
static void remove_clone(struct sweep *s)
{
    unlink_name(s, "/c2/in", "one", false);
    unlink_name(s, "/c2/in", "three", false);
    unlink_name(s, "/c2", "in", true);
    unlink_name(s, "/c2/copy", "one", false);
    unlink_name(s, "/c2/copy", "three", false);
    unlink_name(s, "/c2", "copy", true);
    unlink_name(s, "/", "c2", true);
    for (unsigned i = 0; i < 3; i++)
        work(s);
}

void sweep_script_tree(struct sweep *s)
{
    names(s);
    batches(s);
    queries(s);
    locks(s);
    exclusive_lease(s);
    delegated_locks(s);
    quotas(s);
    snapshots(s);
    remove_clone(s);
}
