/* Rows of snapshots and clones, and what an inode number says about them. Pure. Owns: nothing, the
 * records are flat; a history row's value is borrowed from the input.
 *
 * An inode number has fields, most significant first: snapshot 12 bits, clone 12, metadata group 4
 * (reserved, 0), number 36. Snapshot and clone are 0 in the plain tree. A number with a snapshot is
 * a view: the inode as it was when that was taken. One with a clone is an inode of that clone: its
 * own row if there is one, else that of the inode with the same number in the clone's base. */
#ifndef TARN_METADATA_RECORD_VIEW_H
#define TARN_METADATA_RECORD_VIEW_H

#include "record.h"
#include "proto/ino.h"

#define INO_CLONE_SHIFT 40
#define SNAPSHOT_ID_MAX 4094u  /* snapshots that live at a time */
#define SNAPSHOT_LIST_ID 4095u /* in place of a snapshot: the directory of a directory's snapshots */
#define CLONE_ID_MAX 4095u     /* numbers of clones, those for clones inside clones included */
#define SNAPSHOT_DIR ".snapshot"
#define COVER_ROOTS_MAX 4

static inline uint32_t ino_clone(uint64_t ino)
{
    return (uint32_t)(ino >> INO_CLONE_SHIFT) & 0xfffu;
}
/* What grows with every new inode, whatever clone it is made in. */
static inline uint64_t ino_number(uint64_t ino)
{
    return ino & 0xffffffffffull;
}
static inline uint64_t ino_with_snapshot(uint64_t ino, uint32_t snapshot)
{
    return (ino & ~(0xfffull << INO_SNAPSHOT_SHIFT)) | (uint64_t)snapshot << INO_SNAPSHOT_SHIFT;
}
static inline uint64_t ino_with_clone(uint64_t ino, uint32_t clone)
{
    return (ino & ~(0xfffull << INO_CLONE_SHIFT)) | (uint64_t)clone << INO_CLONE_SHIFT;
}

/* ---- keys: TABLE_SNAPSHOT, then one of these */
enum snapshot_room {
    SNAPSHOT_BY_ID = 1,    /* id: struct tree_snapshot */
    SNAPSHOT_BY_NAME = 2,  /* root, name: id */
    SNAPSHOT_BY_ROOT = 3,  /* root, epoch: id */
    SNAPSHOT_BY_EPOCH = 4, /* epoch: id; of all that rows are kept for */
    CLONE_BY_ID = 5,       /* id: struct clone */
    CLONE_BY_BASE = 6,     /* family, clone number in the base: id */
    SNAPSHOT_DYING = 7,    /* id: its rows are being given back */
    CLONE_UNNAMED = 8,     /* family: a number of it has lost its last live name */
    CLONE_IN_HISTORY = 9   /* id, epoch: how many history rows of the epoch name it */
};
struct key key_history(const struct key *row, uint64_t epoch);
struct key key_history_prefix(const struct key *row);
struct key key_history_of(uint64_t epoch, const struct key *row);
/* The row's own key out of a key of TABLE_HISTORY or TABLE_HISTORY_OF. -E_CORRUPT. */
int key_of_history(const uint8_t *data, size_t n, struct key *ret, uint64_t *ret_epoch);
int key_of_history_of(const struct key *index, struct key *ret);
struct key key_snapshot_name(uint64_t root, const char *name, size_t len);

/* ---- values */
enum snapshot_state {
    SNAPSHOT_LIVE = 1,
    SNAPSHOT_HIDDEN = 2, /* removed, but clones rest on it */
    SNAPSHOT_GOING = 3   /* its rows are being given back */
};
struct tree_snapshot {
    uint32_t id; /* from the key */
    uint8_t state;
    uint64_t root, epoch, created, next_ino;
    uint32_t uid, clones; /* who took it; clone numbers that rest on it */
    uint8_t name_len;
    char name[MD_NAME_MAX + 1];
};
void tree_snapshot_encode(const struct tree_snapshot *snapshot, struct writer *w);
int tree_snapshot_decode(uint32_t id, const void *data, size_t n, struct tree_snapshot *ret);

struct clone {
    uint32_t id;             /* from the key */
    uint32_t family;         /* the number the CLONE itself made */
    uint32_t snapshot, base; /* reads go on there: snapshot, and clone number in it */
    uint64_t names; /* live entries elsewhere that name an inode of it, and live snapshots in it */
};
void clone_encode(const struct clone *clone, struct writer *w);
int clone_decode(uint32_t id, const void *data, size_t n, struct clone *ret);

/* Snapshots of which directories matter to an inode. `any`: of any directory (there were more than
 * fit). */
struct cover_set {
    bool any;
    uint8_t n;
    uint64_t roots[COVER_ROOTS_MAX];
};
void cover_set_add(struct cover_set *set, uint64_t root);
void cover_set_merge(struct cover_set *set, const struct cover_set *more);

struct cover { /* of TABLE_COVER: left a covered directory */
    struct cover_set set;
    uint64_t until; /* snapshots with later epochs are not meant */
    uint64_t epoch; /* the newest one meant: under which TABLE_HISTORY_OF has the row */
};
void cover_encode(const struct cover *cover, struct writer *w);
int cover_decode(const void *data, size_t n, struct cover *ret);

enum row_kind { ROW_ABSENT = 0, ROW_VALUE = 1, ROW_WHITEOUT = 2 };
struct history {
    enum row_kind kind;
    struct cover_set set; /* who needs it when its snapshot goes */
    const uint8_t *data;  /* ROW_VALUE: the row; borrowed */
    size_t len;
};
void history_encode(const struct history *history, struct writer *w);
int history_decode(const void *data, size_t n, struct history *ret);

/* A row of a clone that says: what the base has here is gone. */
#define ROW_WHITEOUT_BYTE 0
static inline bool row_is_whiteout(const void *data, size_t n)
{
    return n == 1 && *(const uint8_t *)data == ROW_WHITEOUT_BYTE;
}

#endif
