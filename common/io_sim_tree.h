/* What lies on a simulated disk: inodes, pages, names, and for each what a power loss would leave of
 * it. Pure: takes no time, knows no fibers; io_sim_disk.c makes operations of it. */
#ifndef TARN_COMMON_IO_SIM_TREE_H
#define TARN_COMMON_IO_SIM_TREE_H

#include "io_sim_core.h"

#define SIM_PAGE 4096u
#define SIM_NAME_BYTES_MAX 255

struct sim_page {
    uint8_t *now;  /* NULL = zeros */
    uint8_t *safe; /* while dirty: what is durable; NULL = zeros */
    bool dirty;
    bool lost; /* a sync failed on it: stays as it is on disk until it is written again */
    struct list link; /* in inode->dirty */
};

struct sim_entry {
    char *name;
    struct sim_inode *inode;
};

struct sim_inode {
    struct sim_disk *disk;
    unsigned refs; /* names, open files, journal */
    bool is_dir, marked;
    uint64_t size, safe_size; /* safe_size is what is durable */
    struct map pages;
    struct list dirty;
    uint64_t n_allocated, n_reserved; /* pages with content; pages promised by io_allocate() */
    struct sim_entry *entries;        /* of a directory, in byte order */
    size_t n_entries;
};

/* One name that changed. A rename is two of them. */
struct slot {
    struct sim_inode *dir; /* NULL = unused */
    char *name;
    struct sim_inode *before, *after; /* NULL = no such name */
};
struct name_change {
    struct list link; /* in disk->journal */
    bool durable;     /* within sim_dir_sync() */
    struct slot slots[2];
};

/* With one reference. */
struct sim_inode *sim_inode_create(struct sim_disk *disk, bool is_dir);
struct sim_inode *sim_inode_ref(struct sim_inode *inode);
void sim_inode_unref(struct sim_inode *inode);
uint64_t sim_inode_cost(const struct sim_inode *inode);

struct sim_page *sim_page_get(struct sim_inode *inode, uint64_t index);
/* Replaces the present content by `content` (taken over; NULL = zeros) and keeps the books. */
void sim_page_set(struct sim_inode *inode, struct sim_page *page, uint8_t *content);
/* Writes within one page, as a change that a power loss may undo. */
void sim_page_write(struct sim *sim, struct sim_inode *inode, uint64_t offset, const uint8_t *buf, size_t n);
void sim_file_read(const struct sim_inode *inode, uint8_t *buf, size_t n, uint64_t offset);
/* Sets a smaller size. With `sim` as a change that a power loss may undo, without it for good. */
void sim_file_cut(struct sim *sim, struct sim_inode *inode, uint64_t size);
/* Makes pages and length durable; pages that a failed sync gave up stay given up. */
void sim_file_sync(struct sim_inode *inode);
void sim_file_sync_range(struct sim_inode *inode, uint64_t offset, uint64_t n);
/* Whether the disk has the space that writing the range takes. */
bool sim_has_room(const struct sim_inode *inode, uint64_t offset, uint64_t n);

struct sim_inode *sim_entry_get(const struct sim_inode *dir, const char *name);
/* Gives `name` in `dir` to `after` (NULL = nobody) and notes in `slot` how it was. */
void sim_slot_change(struct slot *slot, struct sim_inode *dir, const char *name, struct sim_inode *after);
/* A change to fill in with sim_slot_change(). */
struct name_change *sim_journal_add(struct sim_disk *disk);
/* Makes the names of `dir` durable. A rename is durable on both sides or on none. */
void sim_dir_sync(struct sim_disk *disk, struct sim_inode *dir);
/* Where the last component of `path` lives. With an empty name the path is the root. */
int sim_path_parent(struct sim_disk *disk, const char *path, struct sim_inode **ret_dir,
                    char name[SIM_NAME_BYTES_MAX + 1]);
int sim_path_find(struct sim_disk *disk, const char *path, struct sim_inode **ret_inode);
bool sim_tree_contains(const struct sim_inode *tree, const struct sim_inode *inode);

/* Names and bytes as a power loss leaves them. */
void sim_lose_power(struct sim *sim, struct sim_disk *disk);

#endif
