/* Directories. An open one keeps one page of entries, and marks (dir_marks.h) from which the place of
 * every cookie ever given out can be found again: memory does not grow with the directory. A listing
 * in order goes on in its page, or behind its last name; seekdir(3) reads a page anew. What stays in
 * the directory is told once, whatever comes and goes beside it; rewinddir(3) begins as if opened. */
#include "dir_marks.h"
#include "mount.h"

#include <sys/stat.h>
#include <unistd.h>

#define PAGE_ENTRIES 1024
enum { COOKIE_DOT = 1, COOKIE_DOTDOT = 2 };

struct dir {
    uint64_t ino, parent;
    struct dir_marks marks;
    Tarn__ReadDirReply *page; /* owned; NULL = none */
    uint64_t *cookies;        /* owned: of the page's entries */
    bool first;               /* the page is the directory's beginning */
    size_t next;              /* of the page: where a listing in order goes on */
    char after[DIR_NAME_MAX + 1]; /* where the next page begins */
    uint64_t read_ns;
    struct fiber_mutex reading;
};

static void page_drop(struct dir *dir)
{
    if (dir->page != NULL)
        tarn__read_dir_reply__free_unpacked(dir->page, NULL);
    free(dir->cookies);
    dir->page = NULL;
    dir->cookies = NULL;
    dir->next = 0;
}

static int page_number(struct dir *dir)
{
    size_t n = dir->page->n_entries;
    _cleanup_free_ const char **names = calloc(n + 1, sizeof *names);
    dir->cookies = calloc(n + 1, sizeof *dir->cookies);
    if (names == NULL || dir->cookies == NULL)
        return -E_NOMEM;
    for (size_t i = 0; i < n; i++)
        names[i] = dir->page->entries[i]->name;
    int err = dir_marks_cookies(&dir->marks, names, n, dir->cookies);
    if (err == 0 && n > 0)
        memcpy(dir->after, names[n - 1], strlen(names[n - 1]) + 1);
    return err;
}

/* The page behind dir->after takes the place of the one before. */
static int page_read(fuse_req_t req, struct dir *dir)
{
    Tarn__Where where = mount_where(dir->ino);
    Tarn__ReadDir request = TARN__READ_DIR__INIT;
    request.where = &where;
    request.max = PAGE_ENTRIES;
    request.after = dir->after;
    bool first = dir->after[0] == '\0';
    Tarn__ReadDirReply *reply = NULL;
    int err = mount_call(req, OP_READDIR, &request.base, &request.ctx, &tarn__read_dir_reply__descriptor, &reply);
    if (err != 0)
        return err;
    page_drop(dir);
    dir->page = reply;
    dir->first = first;
    dir->parent = reply->parent != 0 ? reply->parent : dir->ino;
    err = page_number(dir);
    if (err != 0)
        page_drop(dir);
    return err;
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    Tarn__Where where = mount_where(ino);
    Tarn__Access request = TARN__ACCESS__INIT;
    request.where = &where;
    request.mask = R_OK;
    int err = mount_call(req, OP_ACCESS, &request.base, &request.ctx, NULL, NULL);
    struct dir *dir = err == 0 ? calloc(1, sizeof *dir) : NULL;
    if (dir == NULL) {
        mount_reply_err(req, err != 0 ? err : -E_NOMEM);
        return;
    }
    dir->ino = ino;
    fi->fh = (uint64_t)(uintptr_t)dir;
    if (fuse_reply_open(req, fi) == -ENOENT)
        free(dir);
}

/* Brings the page and dir->next to where the listing goes on. */
static int seek(fuse_req_t req, struct dir *dir, uint64_t cookie)
{
    if (cookie == 0) { /* as it is now, not as it was */
        dir_marks_fini(&dir->marks);
        page_drop(dir);
    }
    if (cookie < DIR_COOKIE_MIN) {
        dir->next = 0;
        if (dir->page != NULL && dir->first)
            return 0;
        dir->after[0] = '\0';
        return page_read(req, dir);
    }
    if (dir->page != NULL && dir->next > 0 && dir->cookies[dir->next - 1] == cookie)
        return 0;
    char after[DIR_NAME_MAX + 1];
    int err = dir_marks_seek(&dir->marks, cookie, after);
    if (err != 0)
        return err;
    memcpy(dir->after, after, sizeof after);
    return page_read(req, dir);
}

struct listing {
    fuse_req_t req;
    char *out;
    size_t size, used;
};

/* False when the buffer is full. */
static bool put(struct listing *listing, const char *name, uint64_t ino, mode_t type, uint64_t cookie)
{
    struct stat st = {.st_ino = ino, .st_mode = type};
    size_t room = listing->size - listing->used;
    size_t need = fuse_add_direntry(listing->req, listing->out + listing->used, room, name, &st, (off_t)cookie);
    if (need > room)
        return false;
    listing->used += need;
    return true;
}

static bool put_dots(struct listing *listing, const struct dir *dir, uint64_t cookie)
{
    return (cookie >= COOKIE_DOT || put(listing, ".", dir->ino, S_IFDIR, COOKIE_DOT)) &&
           (cookie >= COOKIE_DOTDOT || put(listing, "..", dir->parent, S_IFDIR, COOKIE_DOTDOT));
}

/* As many entries from `cookie` on as fit, reading pages as needed. */
static int fill(struct listing *listing, struct dir *dir, uint64_t cookie)
{
    int err = seek(listing->req, dir, cookie);
    if (err != 0 || !put_dots(listing, dir, cookie))
        return err;
    for (;;) {
        for (; dir->next < dir->page->n_entries; dir->next++) {
            const Tarn__DirEntry *entry = dir->page->entries[dir->next];
            struct stat st;
            attr_to_stat(entry->attr, &st);
            if (!put(listing, entry->name, st.st_ino, st.st_mode & S_IFMT, dir->cookies[dir->next]))
                return 0;
        }
        /* What is in the buffer is told before the page goes: the listing goes on at its last cookie. */
        if (dir->page->end || listing->used > 0)
            return 0;
        err = page_read(listing->req, dir);
        if (err != 0)
            return err;
    }
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct dir *dir = (struct dir *)(uintptr_t)fi->fh;
    struct listing listing = {.req = req, .size = size, .out = malloc(size)};
    int err = listing.out == NULL ? -E_NOMEM : fiber_mutex_lock(&dir->reading);
    if (err == 0) {
        err = fill(&listing, dir, (uint64_t)offset);
        fiber_mutex_unlock(&dir->reading);
    }
    if (err == 0 && listing.used > 0 && mount_of(req)->atime != MOUNT_NOATIME)
        dir->read_ns = io_real_ns(mount_of(req)->io);
    if (err != 0)
        mount_reply_err(req, err);
    else
        fuse_reply_buf(req, listing.out, listing.used);
    free(listing.out);
}

/* A directory's atime follows as a file's does. */
static void mark_read(fuse_req_t req, const struct dir *dir)
{
    struct mount *mount = mount_of(req);
    Tarn__Where where = mount_where(dir->ino);
    Tarn__SetAttr request = TARN__SET_ATTR__INIT;
    bool strict = mount->atime == MOUNT_STRICTATIME;
    request.where = &where;
    request.mask = strict ? TARN__SET_ATTR_BITS__SA_ATIME_STRICT : TARN__SET_ATTR_BITS__SA_ATIME_READ;
    request.atime = dir->read_ns;
    const Tarn__Attr *attr = dir->page != NULL ? dir->page->dir : NULL;
    if (attr != NULL && !strict && attr->atime > attr->mtime && attr->atime > attr->ctime &&
        dir->read_ns - attr->atime < ATTR_RELATIME_NS)
        return;
    (void)meta_call(mount->meta, OP_SETATTR, &request.base, &request.ctx, &meta_root, NULL, NULL, NULL);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct dir *dir = (struct dir *)(uintptr_t)fi->fh;
    if (dir->read_ns != 0)
        mark_read(req, dir);
    page_drop(dir);
    dir_marks_fini(&dir->marks);
    free(dir);
    mount_reply_err(req, 0);
}

/* A change of the tree is on disk at a majority before it is answered: there is nothing to do. */
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    mount_reply_err(req, 0);
}
