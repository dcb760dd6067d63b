/* Operations of the simulated disk: each takes a drawn time, may fail on request, and may be cut off
 * by a crash. What they do to the content is io_sim_tree.h's. */
#include "io_sim_tree.h"
#include <fcntl.h>

struct sim_file {
    struct io_file base; /* first */
    struct sim_life *life;
    struct sim_inode *inode;
    int flags;
    unsigned refs;
};

/* ---- operations take time, may fail, and may be cut off by a crash ---- */

enum disk_kind { DISK_OPEN = 1, DISK_READ, DISK_WRITE, DISK_SYNC, DISK_TRUNCATE, DISK_ALLOCATE, DISK_NAME, DISK_LIST };

struct disk_op {
    enum disk_kind kind;
    struct sim_life *life;
    struct sim_file *file; /* of a write */
    const struct iovec *iov;
    unsigned n_iov;
    uint64_t offset;
    /* internal */
    struct fiber *fiber;
    struct core_timer timer;
    struct list link; /* in life->disk_ops */
    bool ended, cut_off;
};

static void op_end(struct disk_op *op)
{
    op->ended = true;
    list_remove(&op->link);
    core_unpark(op->fiber);
}

static void op_timer_fired(struct core_timer *timer)
{
    op_end(container_of(timer, struct disk_op, timer));
}

static int injected(struct sim_host *host)
{
    struct sim_disk *disk = &host->disk;
    disk->ops++;
    if (disk->fail_in > 1) {
        disk->fail_in--;
    } else if (disk->fail_in == 1) {
        if (--disk->fail_count == 0)
            disk->fail_in = 0;
        return disk->fail_err;
    }
    return sim_chance(host->sim, host->sim->options.disk_error_ppm) ? -E_IO : 0;
}

/* What is under way when the host crashes here is cut off like any other. */
static void crash_when_due(struct sim_host *host)
{
    if (host->disk.crash_in > 0 && --host->disk.crash_in == 0)
        sim_host_crash(host, host->disk.crash_power);
}

/* 0: carry it out now. An injected error, or -E_CANCELED after a crash: it is over. */
static int op_wait(struct disk_op *op)
{
    struct sim_host *host = op->life->host;
    struct sim *sim = host->sim;
    struct io *io = &op->life->io;
    int err = injected(host);
    op->fiber = fiber_self();
    CHECK(op->fiber != NULL && fiber_io() == io);
    core_timer_init(&op->timer, op_timer_fired);
    list_append(&op->life->disk_ops, &op->link);
    uint64_t delay_ns = sim_draw(sim, sim->options.disk_delay_min_ns, sim->options.disk_delay_max_ns);
    uint64_t at = io_mono_ns(io) + delay_ns * MAX(host->disk.slow, 1u);
    CHECK(core_timer_start(io, &op->timer, at) == 0 || core_timer_start(io, &op->timer, at) == 0); /* as sim_alloc() */
    if (!op->life->crashed)
        crash_when_due(host);
    while (!op->ended)
        core_park(io);
    core_timer_stop(io, &op->timer);
    sim_trace(sim, TRACE_DISK, (uint64_t)op->kind << 32 | host->index, op->offset, (uint64_t)op->cut_off << 32 | (unsigned)-err);
    return op->cut_off ? -E_CANCELED : err;
}

static int simple_wait(struct io *io, enum disk_kind kind)
{
    struct disk_op op = {.kind = kind, .life = sim_life_of(io)};
    return op_wait(&op);
}

static uint64_t iov_bytes(const struct iovec *iov, unsigned n_iov)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < n_iov; i++)
        n += iov[i].iov_len;
    return n;
}

/* Writes all of it, or (torn) a drawn choice of its pages. */
static void write_apply(struct sim *sim, const struct disk_op *op, bool torn)
{
    struct sim_inode *inode = op->file->inode;
    uint64_t offset = op->offset, kept_page = UINT64_MAX;
    bool keep = true;
    for (unsigned i = 0; i < op->n_iov; i++) {
        const uint8_t *buf = op->iov[i].iov_base;
        for (size_t left = op->iov[i].iov_len; left > 0;) {
            size_t part = MIN(left, (size_t)(SIM_PAGE - offset % SIM_PAGE));
            if (torn && offset / SIM_PAGE != kept_page)
                keep = sim_coin(sim);
            kept_page = offset / SIM_PAGE;
            if (keep) {
                sim_page_write(sim, inode, offset, buf, part);
                inode->size = MAX(inode->size, offset + part);
            }
            buf += part;
            offset += part;
            left -= part;
        }
    }
}

void sim_disk_crash(struct sim_life *life, bool power_loss)
{
    struct sim *sim = life->host->sim;
    list_foreach_safe(&life->disk_ops, it, next) {
        struct disk_op *op = list_entry(it, struct disk_op, link);
        if (op->kind == DISK_WRITE && sim_coin(sim))
            write_apply(sim, op, true);
        op->cut_off = true;
        op_end(op);
    }
    if (power_loss)
        sim_lose_power(sim, &life->host->disk);
}

/* ---- io.h: files ---- */

static struct sim_file *file_of(struct io_file *base)
{
    return container_of(base, struct sim_file, base);
}

static void file_unref(struct sim_file **ref)
{
    struct sim_file *file = *ref;
    if (--file->refs > 0)
        return;
    sim_inode_unref(file->inode);
    free(file);
}
#define _cleanup_file_ _cleanup_(file_unref)

static struct sim_file *file_ref(struct io_file *base)
{
    struct sim_file *file = file_of(base);
    CHECK(file->refs > 0);
    file->refs++;
    return file;
}

static int open_inode(struct sim_disk *disk, const char *path, int flags, struct sim_inode **ret_inode)
{
    char name[SIM_NAME_BYTES_MAX + 1];
    struct sim_inode *dir;
    int r = sim_path_parent(disk, path, &dir, name);
    if (r < 0)
        return r;
    struct sim_inode *inode = name[0] != 0 ? sim_entry_get(dir, name) : dir;
    if (inode == NULL) {
        if (!(flags & O_CREAT))
            return -E_NOENT;
        inode = sim_inode_create(disk, false);
        sim_slot_change(&sim_journal_add(disk)->slots[0], dir, name, inode);
        *ret_inode = inode; /* with the reference of its creation */
        return 0;
    }
    if ((flags & O_CREAT) && (flags & O_EXCL))
        return -E_EXIST;
    if (inode->is_dir && (flags & O_ACCMODE) != O_RDONLY)
        return -E_ISDIR;
    if (!inode->is_dir && (flags & O_DIRECTORY) == O_DIRECTORY)
        return -E_NOTDIR;
    *ret_inode = sim_inode_ref(inode);
    return 0;
}

int sim_open(struct io *io, const char *path, int flags, mode_t mode, struct io_file **ret_file)
{
    struct sim_life *life = sim_life_of(io);
    int r = simple_wait(io, DISK_OPEN);
    if (r < 0)
        return r;
    struct sim_inode *inode;
    r = open_inode(&life->host->disk, path, flags, &inode);
    if (r < 0)
        return r;
    if ((flags & O_TRUNC) && inode->size > 0)
        sim_file_cut(life->host->sim, inode, 0);
    struct sim_file *file = sim_alloc(sizeof *file);
    *file = (struct sim_file){.base.io = io, .life = life, .inode = inode, .flags = flags, .refs = 1};
    *ret_file = &file->base;
    return 0;
}

void sim_close(struct io_file *base)
{
    struct sim_file *file = file_of(base);
    file_unref(&file);
}

static bool misaligned(const struct sim_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset)
{
    if (!(file->flags & O_DIRECT))
        return false;
    uint64_t bits = offset;
    for (unsigned i = 0; i < n_iov; i++)
        bits |= (uint64_t)(uintptr_t)iov[i].iov_base | iov[i].iov_len;
    return bits % SIM_PAGE != 0;
}

int64_t sim_pread(struct io_file *base, void *buf, size_t n, uint64_t offset)
{
    _cleanup_file_ struct sim_file *file = file_ref(base);
    struct sim *sim = file->life->host->sim;
    struct iovec iov = {.iov_base = buf, .iov_len = n};
    if (n > INT64_MAX || offset > INT64_MAX - n || misaligned(file, &iov, 1, offset))
        return -E_INVAL;
    if (file->inode->is_dir)
        return -E_ISDIR;
    if ((file->flags & O_ACCMODE) == O_WRONLY)
        return -E_BADF;
    /* What is cached comes at once, without anybody else running in between. */
    if ((file->flags & O_DIRECT) || sim_coin(sim)) {
        struct disk_op op = {.kind = DISK_READ, .life = file->life, .offset = offset};
        int r = op_wait(&op);
        if (r < 0)
            return r;
    }
    uint64_t size = file->inode->size;
    if (offset >= size)
        return 0;
    n = MIN(n, (size_t)(size - offset));
    sim_file_read(file->inode, buf, n, offset);
    return (int64_t)n;
}

int sim_pwritev(struct io_file *base, const struct iovec *iov, unsigned n_iov, uint64_t offset)
{
    _cleanup_file_ struct sim_file *file = file_ref(base);
    struct sim *sim = file->life->host->sim;
    uint64_t n = iov_bytes(iov, n_iov);
    if (n > INT64_MAX || offset > INT64_MAX - n || misaligned(file, iov, n_iov, offset))
        return -E_INVAL;
    if ((file->flags & O_ACCMODE) == O_RDONLY)
        return -E_BADF;
    struct disk_op op = {
        .kind = DISK_WRITE, .life = file->life, .file = file, .iov = iov, .n_iov = n_iov, .offset = offset};
    int r = op_wait(&op);
    if (r == -E_IO)
        write_apply(sim, &op, true);
    if (r < 0)
        return r;
    if (!sim_has_room(file->inode, offset, n))
        return -E_NOSPC;
    write_apply(sim, &op, false);
    if (file->flags & O_DSYNC)
        sim_file_sync_range(file->inode, offset, n);
    return 0;
}

int sim_sync(struct io_file *base)
{
    _cleanup_file_ struct sim_file *file = file_ref(base);
    struct sim *sim = file->life->host->sim;
    int r = simple_wait(base->io, DISK_SYNC);
    if (r == 0) {
        sim_file_sync(file->inode);
    } else if (r != -E_CANCELED) {
        list_foreach(&file->inode->dirty, it) {
            struct sim_page *page = list_entry(it, struct sim_page, link);
            page->lost = page->lost || sim_coin(sim);
        }
    }
    return r;
}

int sim_truncate(struct io_file *base, uint64_t length)
{
    _cleanup_file_ struct sim_file *file = file_ref(base);
    if (length > INT64_MAX)
        return -E_INVAL;
    int r = simple_wait(base->io, DISK_TRUNCATE);
    if (r < 0)
        return r;
    if (length < file->inode->size)
        sim_file_cut(file->life->host->sim, file->inode, length);
    file->inode->size = length;
    return 0;
}

int sim_allocate(struct io_file *base, uint64_t offset, uint64_t length)
{
    _cleanup_file_ struct sim_file *file = file_ref(base);
    struct sim_inode *inode = file->inode;
    if (length == 0 || length > INT64_MAX || offset > INT64_MAX - length)
        return -E_INVAL;
    int r = simple_wait(base->io, DISK_ALLOCATE);
    if (r < 0)
        return r;
    uint64_t reserved = MAX(inode->n_reserved, (offset + length + SIM_PAGE - 1) / SIM_PAGE);
    uint64_t cost = MAX(inode->n_allocated, reserved) * SIM_PAGE;
    if (inode->disk->used - sim_inode_cost(inode) + cost > inode->disk->limit)
        return -E_NOSPC;
    inode->disk->used += cost - sim_inode_cost(inode);
    inode->n_reserved = reserved;
    inode->size = MAX(inode->size, offset + length);
    return 0;
}

int sim_size(struct io_file *base, uint64_t *ret_size)
{
    *ret_size = file_of(base)->inode->size;
    return 0;
}

int sim_file_fd(struct io_file *base)
{
    return -1;
}

/* ---- io.h: names ---- */

int sim_unlink(struct io *io, const char *path)
{
    struct sim_disk *disk = &sim_life_of(io)->host->disk;
    char name[SIM_NAME_BYTES_MAX + 1];
    struct sim_inode *dir;
    int r = simple_wait(io, DISK_NAME);
    if (r == 0)
        r = sim_path_parent(disk, path, &dir, name);
    if (r < 0)
        return r;
    const struct sim_inode *inode = sim_entry_get(dir, name);
    if (inode == NULL)
        return name[0] != 0 ? -E_NOENT : -E_ISDIR;
    if (inode->is_dir)
        return -E_ISDIR;
    sim_slot_change(&sim_journal_add(disk)->slots[0], dir, name, NULL);
    return 0;
}

static int rename_allowed(const struct sim_inode *inode, const struct sim_inode *to_dir, const struct sim_inode *victim)
{
    if (inode == NULL)
        return -E_NOENT;
    if (inode->is_dir && sim_tree_contains(inode, to_dir))
        return -E_INVAL;
    if (victim == NULL)
        return 0;
    if (victim->is_dir && !inode->is_dir)
        return -E_ISDIR;
    if (!victim->is_dir && inode->is_dir)
        return -E_NOTDIR;
    return victim->n_entries > 0 ? -E_NOTEMPTY : 0;
}

int sim_rename(struct io *io, const char *from, const char *to)
{
    struct sim_disk *disk = &sim_life_of(io)->host->disk;
    char from_name[SIM_NAME_BYTES_MAX + 1], to_name[SIM_NAME_BYTES_MAX + 1];
    struct sim_inode *from_dir, *to_dir;
    int r = simple_wait(io, DISK_NAME);
    if (r == 0)
        r = sim_path_parent(disk, from, &from_dir, from_name);
    if (r == 0)
        r = sim_path_parent(disk, to, &to_dir, to_name);
    if (r < 0)
        return r;
    if (from_name[0] == 0 || to_name[0] == 0)
        return -E_BUSY;
    struct sim_inode *inode = sim_entry_get(from_dir, from_name), *victim = sim_entry_get(to_dir, to_name);
    if (inode != NULL && inode == victim)
        return 0;
    r = rename_allowed(inode, to_dir, victim);
    if (r < 0)
        return r;
    struct name_change *change = sim_journal_add(disk);
    sim_slot_change(&change->slots[0], to_dir, to_name, inode);
    sim_slot_change(&change->slots[1], from_dir, from_name, NULL);
    return 0;
}

int sim_mkdir(struct io *io, const char *path, mode_t mode)
{
    struct sim_disk *disk = &sim_life_of(io)->host->disk;
    char name[SIM_NAME_BYTES_MAX + 1];
    struct sim_inode *dir;
    int r = simple_wait(io, DISK_NAME);
    if (r == 0)
        r = sim_path_parent(disk, path, &dir, name);
    if (r < 0)
        return r;
    if (name[0] == 0 || sim_entry_get(dir, name) != NULL)
        return -E_EXIST;
    struct sim_inode *inode = sim_inode_create(disk, true);
    sim_slot_change(&sim_journal_add(disk)->slots[0], dir, name, inode);
    sim_inode_unref(inode);
    return 0;
}

static int find_dir(struct io *io, const char *path, enum disk_kind kind, struct sim_inode **ret_dir)
{
    int r = simple_wait(io, kind);
    if (r == 0)
        r = sim_path_find(&sim_life_of(io)->host->disk, path, ret_dir);
    if (r < 0)
        return r;
    return (*ret_dir)->is_dir ? 0 : -E_NOTDIR;
}

int sim_sync_dir(struct io *io, const char *path)
{
    struct sim_inode *dir;
    int r = find_dir(io, path, DISK_SYNC, &dir);
    if (r == 0)
        sim_dir_sync(&sim_life_of(io)->host->disk, dir);
    return r;
}

int sim_list(struct io *io, const char *path, char ***ret_names, size_t *ret_n)
{
    struct sim_inode *dir;
    int r = find_dir(io, path, DISK_LIST, &dir);
    if (r < 0)
        return r;
    char **names = sim_alloc((dir->n_entries + 1) * sizeof *names);
    for (size_t i = 0; i < dir->n_entries; i++)
        names[i] = sim_copy(dir->entries[i].name, strlen(dir->entries[i].name) + 1);
    *ret_names = names;
    *ret_n = dir->n_entries;
    return 0;
}

int sim_statfs(struct io *io, const char *path, uint64_t *ret_total, uint64_t *ret_free)
{
    const struct sim_disk *disk = &sim_life_of(io)->host->disk;
    struct sim_inode *inode;
    int r = sim_path_find(&sim_life_of(io)->host->disk, path, &inode);
    if (r < 0)
        return r;
    *ret_total = disk->limit;
    *ret_free = disk->limit - MIN(disk->limit, disk->used);
    return 0;
}

/* ---- io_sim.h ---- */

void sim_disk_fail(struct sim_host *host, uint64_t nth, uint64_t count, int err)
{
    CHECK(nth == 0 || (count > 0 && err < 0));
    host->disk.fail_in = nth;
    host->disk.fail_count = count;
    host->disk.fail_err = err;
}

void sim_disk_crash_at(struct sim_host *host, uint64_t nth, bool power_loss)
{
    host->disk.crash_in = nth;
    host->disk.crash_power = power_loss;
}

void sim_disk_slow(struct sim_host *host, unsigned factor)
{
    host->disk.slow = factor;
}

uint64_t sim_disk_ops(const struct sim_host *host)
{
    return host->disk.ops;
}

void sim_disk_limit(struct sim_host *host, uint64_t bytes)
{
    host->disk.limit = bytes;
}

uint64_t sim_disk_used(const struct sim_host *host)
{
    return host->disk.used;
}

int sim_disk_corrupt(struct sim_host *host, const char *path, uint64_t offset)
{
    struct sim_inode *inode;
    int r = sim_path_find(&host->disk, path, &inode);
    if (r < 0)
        return r;
    if (inode->is_dir || offset >= inode->size)
        return -E_RANGE;
    struct sim_page *page = sim_page_get(inode, offset / SIM_PAGE);
    if (page->now == NULL)
        sim_page_set(inode, page, sim_alloc(SIM_PAGE));
    uint8_t bit = (uint8_t)(1u << sim_draw(host->sim, 0, 7));
    page->now[offset % SIM_PAGE] ^= bit;
    if (page->safe != NULL)
        page->safe[offset % SIM_PAGE] ^= bit;
    return 0;
}

int sim_disk_peek(struct sim_host *host, const char *path, uint64_t offset, void *buf, size_t n)
{
    struct sim_inode *inode;
    int r = sim_path_find(&host->disk, path, &inode);
    if (r < 0)
        return r;
    if (inode->is_dir || offset > inode->size || n > inode->size - offset)
        return -E_RANGE;
    sim_file_read(inode, buf, n, offset);
    return 0;
}
