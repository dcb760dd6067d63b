/* Quotas: how many bytes and inodes a directory's tree, a user or a group may have, and has.
 * What an inode costs is a function of its row (Q1), so the accounting hangs at the one place where
 * rows of inodes are put and removed, and what a command changes is summed up and checked at its
 * end. Without any quota it costs one comparison. Invariants Q1-Q6 in docs/invariants.md.
 * quota.c: accounting · quota_cmd.c: commands. Threads: the transaction's. */
#ifndef TARN_METADATA_QUOTA_H
#define TARN_METADATA_QUOTA_H

#include "tables.h"

#define QUOTA_PATH_MAX 1023        /* of the path that is kept to be shown */
#define QUOTA_COUNTED UINT64_MAX   /* cursor of a quota whose count is complete */

enum quota_kind { QUOTA_DIR = 1, QUOTA_USER = 2, QUOTA_GROUP = 3 };
struct quota {
    uint64_t kind, subject;             /* from the key; subject: inode, uid or gid */
    uint64_t limit_bytes, limit_files;  /* 0 = none */
    uint64_t bytes, files;              /* of the inodes below the cursor */
    uint64_t cursor;
    uint16_t path_len;
    char path[QUOTA_PATH_MAX + 1]; /* of the directory when the quota was set */
};
void quota_encode(const struct quota *quota, struct writer *w);
int quota_decode(uint64_t kind, uint64_t subject, const void *data, size_t n, struct quota *ret);

/* What this command does to one quota. */
struct quota_touched {
    struct quota quota;
    bool gone;        /* there is no such quota (any more) */
    bool dirty;       /* the row is to be put whatever the sums are */
    int64_t bytes, files;
};

int quota_get(struct tables *t, enum quota_kind kind, uint64_t subject, struct quota *ret); /* -E_NOENT */
int quota_put(struct tables *t, const struct quota *quota);

/* An inode's row is about to become `new` (NULL: it goes) after `old` (NULL: it comes). */
int quota_inode_changed(struct tables *t, const struct inode *old, const struct inode *new);
/* A directory with entries is about to go from one directory to another: the quotas that it leaves
 * or enters get what its own quota says, exactly, or begin their count anew. -E_DQUOT: one that it
 * enters is used up. */
int quota_dir_moved(struct tables *t, const struct inode *moved, uint64_t from, uint64_t to);
/* The directory is removed, and its quota with it. */
int quota_dir_removed(struct tables *t, const struct inode *dir);
/* End of a command (or of one item of a batch): puts the rows. With `enforce` -E_DQUOT when a quota
 * that grew by it is over its limit; then the command is to be taken back. */
int quota_settle(struct tables *t, bool enforce);
/* -E_DQUOT when a byte more of this inode would be refused: before something is allocated for it. */
int quota_room(struct tables *t, const struct inode *inode);
/* The same for a file of `uid` and `gid` that is to come into the directory `dir` (0 = unknown). */
int quota_room_for(struct tables *t, uint32_t uid, uint32_t gid, uint64_t dir);
/* Calls visit for the quotas of `dir` and of the directories above it, the nearest first; visit
 * returns 0 go on, 1 stop, or a negative code. */
int quota_above(struct tables *t, uint64_t dir, int (*visit)(void *arg, const struct quota *quota),
                void *arg);

/* Background counting: a bounded number of inodes of one quota. */
bool quota_due(const struct tables *t);
int quota_step(struct tables *t);

/* Narrows what statfs says to the quotas that hold for a place, as project quotas do: with a limit of
 * bytes the file system looks as big as that. */
int quota_statfs(struct tables *t, const Tarn__Where *where, Tarn__StatFsReply *reply);
int quota_cmd_set(struct tables *t, const void *message);
int quota_query_get(struct tables *t, const void *message);

#endif
