/* Directories. A listing's cookies are positions in what this handle has read so far, so they stay
 * valid while others change the directory; each page continues behind the last name of the one before. */
#include "mount.h"

#include <sys/stat.h>
#include <unistd.h>

#define PAGE_ENTRIES 1024

struct dir_entry {
    uint64_t ino;
    mode_t type;
    char *name;
};
struct dir {
    uint64_t ino, parent;
    struct dir_entry *entries;
    size_t n, cap;
    bool complete;
    struct fiber_mutex reading;
};

static void dir_clear(struct dir *dir)
{
    for (size_t i = 0; i < dir->n; i++)
        free(dir->entries[i].name);
    dir->n = 0;
    dir->complete = false;
}

static int dir_add(struct dir *dir, const char *name, uint64_t ino, mode_t type)
{
    if (dir->n == dir->cap) {
        size_t cap = MAX(dir->cap * 2, (size_t)64);
        struct dir_entry *entries = realloc(dir->entries, cap * sizeof *entries);
        if (entries == NULL)
            return -E_NOMEM;
        dir->entries = entries;
        dir->cap = cap;
    }
    char *copy = strdup(name);
    if (copy == NULL)
        return -E_NOMEM;
    dir->entries[dir->n++] = (struct dir_entry){.ino = ino, .type = type, .name = copy};
    return 0;
}

static int add_page(struct dir *dir, const Tarn__ReadDirReply *reply)
{
    int err = 0;
    if (dir->n == 0) {
        err = dir_add(dir, ".", dir->ino, S_IFDIR);
        if (err == 0)
            err = dir_add(dir, "..", reply->parent != 0 ? reply->parent : dir->ino, S_IFDIR);
    }
    for (size_t i = 0; i < reply->n_entries && err == 0; i++) {
        struct stat st;
        attr_to_stat(reply->entries[i]->attr, &st);
        err = dir_add(dir, reply->entries[i]->name, st.st_ino, st.st_mode & S_IFMT);
    }
    dir->complete = reply->end;
    return err;
}

static int read_page(fuse_req_t req, struct dir *dir)
{
    Tarn__Where where = mount_where(dir->ino);
    Tarn__ReadDir request = TARN__READ_DIR__INIT;
    request.where = &where;
    request.max = PAGE_ENTRIES;
    if (dir->n > 2)
        request.after = dir->entries[dir->n - 1].name;
    Tarn__ReadDirReply *reply = NULL;
    int err = mount_call(req, OP_READDIR, &request.base, &request.ctx, &tarn__read_dir_reply__descriptor, &reply);
    if (err != 0)
        return err;
    err = add_page(dir, reply);
    tarn__read_dir_reply__free_unpacked(reply, NULL);
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

/* As many entries from `offset` on as fit, reading pages as needed. */
static int fill(fuse_req_t req, struct dir *dir, size_t offset, char *out, size_t size, size_t *ret_used)
{
    size_t used = 0;
    for (size_t at = offset;; at++) {
        while (at >= dir->n && !dir->complete) {
            int err = read_page(req, dir);
            if (err != 0)
                return err;
        }
        if (at >= dir->n)
            break;
        struct stat st = {.st_ino = dir->entries[at].ino, .st_mode = dir->entries[at].type};
        size_t need = fuse_add_direntry(req, out + used, size - used, dir->entries[at].name, &st, (off_t)at + 1);
        if (need > size - used)
            break;
        used += need;
    }
    *ret_used = used;
    return 0;
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct dir *dir = (struct dir *)(uintptr_t)fi->fh;
    _cleanup_free_ char *out = malloc(size);
    size_t used = 0;
    int err = out == NULL ? -E_NOMEM : fiber_mutex_lock(&dir->reading);
    if (err == 0) {
        if (offset == 0)
            dir_clear(dir); /* rewinddir(3) must show the directory as it is now */
        err = fill(req, dir, (size_t)offset, out, size, &used);
        fiber_mutex_unlock(&dir->reading);
    }
    if (err != 0)
        mount_reply_err(req, err);
    else
        fuse_reply_buf(req, out, used);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct dir *dir = (struct dir *)(uintptr_t)fi->fh;
    dir_clear(dir);
    free(dir->entries);
    free(dir);
    mount_reply_err(req, 0);
}

/* A change of the tree is on disk at a majority before it is answered: there is nothing to do. */
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    mount_reply_err(req, 0);
}
