/* A tree of inodes whose files are maps of 4 KiB pages. Each page knows its present content and, while
 * dirty, the content that would survive a power loss; each name change not yet durable is kept with
 * what was there before, so that a power loss can undo it (io_sim.h has the promises). */
#include "io_sim_tree.h"

/* ---- inodes ---- */

struct sim_inode *sim_inode_create(struct sim_disk *disk, bool is_dir)
{
    struct sim_inode *inode = sim_alloc(sizeof *inode);
    inode->disk = disk;
    inode->refs = 1;
    inode->is_dir = is_dir;
    list_init(&inode->dirty);
    return inode;
}

struct sim_inode *sim_inode_ref(struct sim_inode *inode)
{
    if (inode != NULL)
        inode->refs++;
    return inode;
}

uint64_t sim_inode_cost(const struct sim_inode *inode)
{
    return MAX(inode->n_allocated, inode->n_reserved) * SIM_PAGE;
}

static void page_free(struct sim_page *page)
{
    list_remove(&page->link);
    free(page->now);
    free(page->safe);
    free(page);
}

void sim_inode_unref(struct sim_inode *inode)
{
    if (inode == NULL || --inode->refs > 0)
        return;
    inode->disk->used -= sim_inode_cost(inode);
    size_t at = 0;
    uint64_t index;
    void *page;
    while (map_next(&inode->pages, &at, &index, &page))
        page_free(page);
    map_fini(&inode->pages);
    for (size_t i = 0; i < inode->n_entries; i++) {
        free(inode->entries[i].name);
        sim_inode_unref(inode->entries[i].inode); /* as deep as the tree of directories */
    }
    free(inode->entries);
    free(inode);
}

/* ---- pages ---- */

void sim_page_set(struct sim_inode *inode, struct sim_page *page, uint8_t *content)
{
    inode->disk->used -= sim_inode_cost(inode);
    inode->n_allocated -= page->now != NULL;
    inode->n_allocated += content != NULL;
    inode->disk->used += sim_inode_cost(inode);
    if (page->now != content)
        free(page->now);
    page->now = content;
}

struct sim_page *sim_page_get(struct sim_inode *inode, uint64_t index)
{
    struct sim_page *page = map_get(&inode->pages, index);
    if (page == NULL) {
        page = sim_alloc(sizeof *page);
        list_init(&page->link);
        CHECK(map_put(&inode->pages, index, page) == 0 || map_put(&inode->pages, index, page) == 0); /* as sim_alloc() */
    }
    return page;
}

/* Before the content changes: remembers what is durable. Now and then the old content reaches the
 * disk by itself first. */
static void page_dirty(struct sim *sim, struct sim_inode *inode, struct sim_page *page)
{
    if (page->dirty && !page->lost && sim_draw(sim, 0, 3) != 0)
        return;
    bool stuck = page->dirty && page->lost;
    page->lost = false;
    if (stuck)
        return;
    free(page->safe);
    page->safe = page->now != NULL ? sim_copy(page->now, SIM_PAGE) : NULL;
    if (!page->dirty)
        list_append(&inode->dirty, &page->link);
    page->dirty = true;
}

static void page_clean(struct sim_page *page)
{
    list_remove(&page->link);
    free(page->safe);
    page->safe = NULL;
    page->dirty = page->lost = false;
}

/* Writes within one page. */
void sim_page_write(struct sim *sim, struct sim_inode *inode, uint64_t offset, const uint8_t *buf, size_t n)
{
    struct sim_page *page = sim_page_get(inode, offset / SIM_PAGE);
    page_dirty(sim, inode, page);
    if (page->now == NULL)
        sim_page_set(inode, page, sim_alloc(SIM_PAGE));
    memcpy(page->now + offset % SIM_PAGE, buf, n);
}

void sim_file_read(const struct sim_inode *inode, uint8_t *buf, size_t n, uint64_t offset)
{
    while (n > 0) {
        size_t part = MIN(n, (size_t)(SIM_PAGE - offset % SIM_PAGE));
        const struct sim_page *page = map_get(&inode->pages, offset / SIM_PAGE);
        if (page != NULL && page->now != NULL)
            memcpy(buf, page->now + offset % SIM_PAGE, part);
        else
            memset(buf, 0, part);
        buf += part;
        offset += part;
        n -= part;
    }
}

/* The page that holds `size`, and those above it: for truncation. With `sim` as a change that a power
 * loss may undo, without it as it is. */
void sim_file_cut(struct sim *sim, struct sim_inode *inode, uint64_t size)
{
    size_t at = 0;
    uint64_t index;
    void *value;
    while (map_next(&inode->pages, &at, &index, &value)) {
        struct sim_page *page = value;
        uint64_t start = index * SIM_PAGE;
        if (start + SIM_PAGE <= size || page->now == NULL)
            continue;
        if (sim != NULL)
            page_dirty(sim, inode, page);
        if (start >= size)
            sim_page_set(inode, page, NULL);
        else
            memset(page->now + (size - start), 0, SIM_PAGE - (size - start));
    }
    inode->disk->used -= sim_inode_cost(inode);
    inode->n_reserved = MIN(inode->n_reserved, (size + SIM_PAGE - 1) / SIM_PAGE);
    inode->disk->used += sim_inode_cost(inode);
    inode->size = size;
}

/* Makes pages and length durable; those a failed sync gave up stay given up. */
void sim_file_sync(struct sim_inode *inode)
{
    list_foreach_safe(&inode->dirty, it, next) {
        struct sim_page *page = list_entry(it, struct sim_page, link);
        if (!page->lost)
            page_clean(page);
    }
    inode->safe_size = inode->size;
}

void sim_file_sync_range(struct sim_inode *inode, uint64_t offset, uint64_t n)
{
    for (uint64_t index = offset / SIM_PAGE; n > 0 && index <= (offset + n - 1) / SIM_PAGE; index++) {
        struct sim_page *page = map_get(&inode->pages, index);
        if (page != NULL && page->dirty && !page->lost)
            page_clean(page);
    }
    inode->safe_size = MAX(inode->safe_size, MIN(inode->size, offset + n));
}

/* What a power loss leaves of a file. */
static void file_settle(struct sim *sim, struct sim_inode *inode)
{
    list_foreach_safe(&inode->dirty, it, next) {
        struct sim_page *page = list_entry(it, struct sim_page, link);
        if (page->lost || sim_coin(sim))
            sim_page_set(inode, page, take_ptr(page->safe));
        page_clean(page);
    }
    if (inode->size != inode->safe_size)
        sim_file_cut(NULL, inode, sim_coin(sim) ? inode->safe_size : inode->size);
    inode->safe_size = inode->size;
}

/* ---- directories ---- */

/* Index of the first entry not before `name`. */
static size_t entry_find(const struct sim_inode *dir, const char *name, bool *ret_found)
{
    size_t low = 0, high = dir->n_entries;
    *ret_found = false;
    while (low < high) {
        size_t mid = (low + high) / 2;
        int order = strcmp(dir->entries[mid].name, name);
        if (order == 0) {
            *ret_found = true;
            return mid;
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct sim_inode *sim_entry_get(const struct sim_inode *dir, const char *name)
{
    bool found;
    size_t at = entry_find(dir, name, &found);
    return found ? dir->entries[at].inode : NULL;
}

/* Gives the name to `inode`, or to nobody (NULL). */
static void entry_set(struct sim_inode *dir, const char *name, struct sim_inode *inode)
{
    bool found;
    size_t at = entry_find(dir, name, &found);
    sim_inode_ref(inode);
    if (found) {
        sim_inode_unref(dir->entries[at].inode);
        dir->entries[at].inode = inode;
        if (inode != NULL)
            return;
        free(dir->entries[at].name);
        dir->n_entries--;
        memmove(&dir->entries[at], &dir->entries[at + 1], (dir->n_entries - at) * sizeof *dir->entries);
        return;
    }
    if (inode == NULL)
        return;
    struct sim_entry *grown = sim_alloc((dir->n_entries + 1) * sizeof *grown);
    for (size_t i = 0; i < dir->n_entries; i++)
        grown[i + (i >= at)] = dir->entries[i];
    free(dir->entries);
    dir->entries = grown;
    dir->entries[at] = (struct sim_entry){.name = sim_copy(name, strlen(name) + 1), .inode = inode};
    dir->n_entries++;
}

void sim_slot_change(struct slot *slot, struct sim_inode *dir, const char *name, struct sim_inode *after)
{
    *slot = (struct slot){.dir = sim_inode_ref(dir), .name = sim_copy(name, strlen(name) + 1), .before = sim_inode_ref(sim_entry_get(dir, name)),
                          .after = sim_inode_ref(after)};
    entry_set(dir, name, after);
}

struct name_change *sim_journal_add(struct sim_disk *disk)
{
    struct name_change *change = sim_alloc(sizeof *change);
    list_append(&disk->journal, &change->link);
    return change;
}

static void change_free(struct name_change *change)
{
    list_remove(&change->link);
    for (size_t i = 0; i < ARRAY_SIZE(change->slots); i++) {
        struct slot *slot = &change->slots[i];
        sim_inode_unref(slot->dir);
        sim_inode_unref(slot->before);
        sim_inode_unref(slot->after);
        free(slot->name);
    }
    free(change);
}

static void change_undo(struct name_change *change)
{
    for (size_t i = ARRAY_SIZE(change->slots); i-- > 0;)
        if (change->slots[i].dir != NULL)
            entry_set(change->slots[i].dir, change->slots[i].name, change->slots[i].before);
}

static bool change_touches_marked(const struct name_change *change)
{
    return (change->slots[0].dir != NULL && change->slots[0].dir->marked) ||
           (change->slots[1].dir != NULL && change->slots[1].dir->marked);
}

/* Makes the names of `dir` durable. A rename is durable on both sides or on none, so everything
 * earlier in the other directory goes with it. */
void sim_dir_sync(struct sim_disk *disk, struct sim_inode *dir)
{
    dir->marked = true;
    for (struct list *it = disk->journal.prev; it != &disk->journal; it = it->prev) {
        struct name_change *change = list_entry(it, struct name_change, link);
        if (!change_touches_marked(change))
            continue;
        for (size_t i = 0; i < ARRAY_SIZE(change->slots); i++)
            if (change->slots[i].dir != NULL)
                change->slots[i].dir->marked = true;
        change->durable = true; /* freed below: that may free a directory which is still marked here */
    }
    dir->marked = false;
    list_foreach_safe(&disk->journal, it, next) {
        struct name_change *change = list_entry(it, struct name_change, link);
        if (!change->durable)
            continue;
        for (size_t i = 0; i < ARRAY_SIZE(change->slots); i++)
            if (change->slots[i].dir != NULL)
                change->slots[i].dir->marked = false;
        change_free(change);
    }
}

/* ---- paths ---- */

/* Takes the next component off *path: its length, 0 at the end. */
static size_t next_component(const char **path)
{
    for (;;) {
        *path += strspn(*path, "/");
        size_t n = strcspn(*path, "/");
        if (n == 1 && **path == '.') {
            (*path)++;
            continue;
        }
        return n;
    }
}

/* Where the last component of `path` lives. With an empty name the path is the root. */
int sim_path_parent(struct sim_disk *disk, const char *path, struct sim_inode **ret_dir,
                       char name[SIM_NAME_BYTES_MAX + 1])
{
    struct sim_inode *dir = disk->root;
    size_t n = next_component(&path);
    name[0] = 0;
    while (n > 0) {
        if (n > SIM_NAME_BYTES_MAX)
            return -E_NAMETOOLONG;
        memcpy(name, path, n);
        name[n] = 0;
        if (strcmp(name, "..") == 0)
            return -E_INVAL;
        path += n;
        n = next_component(&path);
        if (n == 0)
            break;
        dir = sim_entry_get(dir, name);
        if (dir == NULL)
            return -E_NOENT;
        if (!dir->is_dir)
            return -E_NOTDIR;
    }
    *ret_dir = dir;
    return 0;
}

int sim_path_find(struct sim_disk *disk, const char *path, struct sim_inode **ret_inode)
{
    char name[SIM_NAME_BYTES_MAX + 1];
    struct sim_inode *dir;
    int r = sim_path_parent(disk, path, &dir, name);
    if (r < 0)
        return r;
    struct sim_inode *inode = name[0] != 0 ? sim_entry_get(dir, name) : dir;
    if (inode == NULL)
        return -E_NOENT;
    *ret_inode = inode;
    return 0;
}

/* ---- the tree as a whole ---- */

bool sim_tree_contains(const struct sim_inode *tree, const struct sim_inode *inode)
{
    if (tree == inode)
        return true;
    for (size_t i = 0; i < tree->n_entries; i++)
        if (sim_tree_contains(tree->entries[i].inode, inode))
            return true;
    return false;
}

bool sim_has_room(const struct sim_inode *inode, uint64_t offset, uint64_t n)
{
    uint64_t fresh = 0;
    for (uint64_t index = offset / SIM_PAGE; n > 0 && index <= (offset + n - 1) / SIM_PAGE; index++) {
        const struct sim_page *page = map_get(&inode->pages, index);
        fresh += page == NULL || page->now == NULL;
    }
    uint64_t cost = MAX(inode->n_allocated + fresh, inode->n_reserved) * SIM_PAGE;
    uint64_t more = cost - sim_inode_cost(inode);
    return more == 0 || inode->disk->used + more <= inode->disk->limit;
}

static void settle_tree(struct sim *sim, struct sim_inode *inode)
{
    file_settle(sim, inode);
    for (size_t i = 0; i < inode->n_entries; i++)
        settle_tree(sim, inode->entries[i].inode);
}

void sim_lose_power(struct sim *sim, struct sim_disk *disk)
{
    uint64_t n = 0;
    list_foreach(&disk->journal, it)
        n++;
    uint64_t kept = sim_draw(sim, 0, n);
    for (; n > kept; n--) {
        struct name_change *change = list_entry(disk->journal.prev, struct name_change, link);
        change_undo(change);
        change_free(change);
    }
    while (!list_empty(&disk->journal))
        change_free(list_entry(disk->journal.next, struct name_change, link));
    settle_tree(sim, disk->root);
}

void sim_disk_init(struct sim_disk *disk, uint64_t limit)
{
    list_init(&disk->journal);
    disk->limit = limit;
    disk->root = sim_inode_create(disk, true);
}

void sim_disk_fini(struct sim_disk *disk)
{
    while (!list_empty(&disk->journal))
        change_free(list_entry(disk->journal.next, struct name_change, link));
    sim_inode_unref(disk->root);
}
