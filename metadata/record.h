/* The rows of the metadata tables: keys, and the values with their encoders and decoders. Every
 * value begins with a version byte; decoders are bounded and refuse what they do not know or what
 * is left over with -E_CORRUPT. Page: docs/formats/metadata.md. Pure. Owns: decoded structs own
 * their variable parts; NAME_fini() frees them, zeroed is empty. */
#ifndef TARN_METADATA_RECORD_H
#define TARN_METADATA_RECORD_H

#include "common/base.h"
#include "common/bytes.h"

#define RECORD_VERSION 1
#define RECORD_VERSION_OPENS 2 /* sole */
#define RECORD_VERSION_STATE 2 /* 1 is read, too */
#define RECORD_VERSION_INODE 2 /* 1 is read, too */
#define RECORD_VERSION_SESSION 2 /* 1 is read, too */
#define MD_NAME_MAX 255    /* bytes of one path component (POSIX NAME_MAX) */
#define MD_INLINE_MAX 4096 /* bytes of a file kept in its inode */
#define MD_TARGET_MAX 4095 /* bytes of a symbolic link (PATH_MAX less the NUL) */
#define MD_ETAG_MAX 64
#define MD_COPIES_MAX 6
#define MD_COPIES_DEFAULT 3
#define MD_REPLICAS_MAX 16 /* of one chunk, those coming and going included */
#define MD_CHUNK_BYTES MIB(64)
#define MD_ROOT 1

/* ---- keys: a letter, then big-endian numbers and names */
enum table {
    TABLE_STATE = 'S',
    TABLE_APPLIED = 'a',
    TABLE_INODE = 'I',
    TABLE_ENTRY = 'D',
    TABLE_XATTR = 'X',
    TABLE_QUOTA = 'Q', /* kind subject */
    TABLE_LINK = 'b',    /* ino dir: how many names the directory has for it; while nlink >= 2 */
    TABLE_UPGRADE = 'c', /* where the walk that fills in the parents of version 1 goes on */
    TABLE_EXTENT = 'E',
    TABLE_HISTORY = 'v',    /* what a row was when a snapshot was taken: record_view.h */
    TABLE_HISTORY_OF = 'x', /* epoch key: the same rows, by snapshot */
    TABLE_COVER = 'm',      /* ino: snapshots that cover it besides those of its directories */
    TABLE_SNAPSHOT = 'k',   /* snapshots and clones: enum snapshot_room */
    TABLE_ORPHAN = 'O',
    TABLE_GARBAGE = 'G',
    TABLE_CHUNK = 'C',
    TABLE_GROUP = 'M',     /* parity groups: group.h */
    TABLE_GROUP_DUE = 'z', /* what is to be coded, and groups with work due: enum group_room (group_make.h) */
    TABLE_ON_DISK = 'R',
    TABLE_ENDANGERED = 'B',
    TABLE_DAMAGED = '!', /* damaged copies: damage.h */
    TABLE_OPEN_CHUNK = 'w',
    TABLE_TO_SEAL = 'Z',
    TABLE_TASK = 'T',
    TABLE_UPLOAD = 'U',
    TABLE_UPLOAD_CHUNK = 'V',
    TABLE_SESSION = 'P',
    TABLE_SESSION_UUID = 'u',
    TABLE_FENCE = 'F', /* number: the session that is fenced but not released */
    TABLE_KEPT = 'K',
    TABLE_HANDLE = 'H',
    TABLE_OPENS = 'h',
    TABLE_SESSION_CHUNK = 'p',
    TABLE_SESSION_UPLOAD = 's',
    TABLE_LOCKS = 'L',
    TABLE_LOCK_WAIT = 'W',
    TABLE_SESSION_LOCK = 'l',
    TABLE_EXCLUSIVE = 'e',
    TABLE_SESSION_EXCLUSIVE = 'f',
    TABLE_RECALLED = 'r', /* session number: a right that was asked back */
    TABLE_NODE = 'N',
    TABLE_DISK = 'd',
    TABLE_HEAL = 'g',  /* one row: struct heal_state */
    TABLE_SINCE = 'y', /* since chunk: chunks below their target or in too few domains, oldest first */
    TABLE_POLICY = 'o',
    TABLE_NODE_UUID = 'n',
    TABLE_ROLE = 'A',
    TABLE_USER = 'Y',
    TABLE_JOB = 'J',
    TABLE_JOB_LIVE = 'j',
    TABLE_JOB_PHASE = 'q',
    TABLE_JOB_INPUT = 'i',
    TABLE_TASK_RECORD = 't',
    TABLE_PIECE = '1', /* container offset: the piece that begins there */
    TABLE_PACK = '2'   /* what is to be packed and is being packed: enum pack_room (pack_rows.h) */
};
#define KEY_BYTES_MAX 320 /* letter + id + a name of 255 bytes, rounded up; below KV_KEY_MAX */
struct key {
    uint16_t len;
    bool overflow;
    uint8_t data[KEY_BYTES_MAX];
};
struct key key_table(enum table table);
struct key key_1(enum table table, uint64_t a);
struct key key_2(enum table table, uint64_t a, uint64_t b);
struct key key_3(enum table table, uint64_t a, uint64_t b, uint64_t c);
struct key key_named(enum table table, uint64_t id, const char *name, size_t len);
struct key key_state(void);
/* The key `head` with the bytes behind it. */
struct key key_append(struct key head, const void *data, size_t n);
/* The n-th number of a key made by key_1 … key_3; 0 when the key is shorter. */
uint64_t key_number(const struct key *key, unsigned n);
/* What follows the first number (a name); NULL when there is none. */
const char *key_name(const struct key *key, size_t *ret_len);

/* ---- counters, one row */
struct state {
    uint64_t next_ino, next_chunk, next_session, next_upload, next_task, next_handle, next_job;
    uint32_t next_node;
    uint64_t epoch; /* of the cluster map: grows when a node comes, goes or changes place */
    uint64_t files, chunks, sessions, tasks;
    uint64_t
        by_copies[MD_COPIES_MAX + 1]; /* chunks by live copies; the last counts that many or more */
    uint64_t below_target;
    uint64_t heal_level, heal_cursor,
        heal_next_ns; /* endangered table: where to go on, not before */
    uint64_t role_epoch;
    /* From here on numbers that version 2 counts: a row that has fewer of them means zeros, so new
     * ones are appended here and in state_extras() only. */
    uint64_t tree_upgrade; /* 1: inodes of version 1 without a parent are left */
    uint64_t last_fence;   /* given out */
    uint64_t quotas, quota_dirs, quota_counting; /* rows; of directories; under count */
    uint64_t snapshots, clones; /* snapshots that rows are kept for, clone numbers in use */
    uint64_t snapshot_epoch;    /* given to the last snapshot */
    uint64_t snapshot_next_ino; /* next_ino when it was taken: later inodes are in no snapshot */
    uint64_t snapshot_id, clone_id; /* given out last */
    uint64_t last_group;            /* given out */
};
void state_encode(const struct state *s, struct writer *w);
int state_decode(const void *data, size_t n, struct state *ret);

/* ---- tree. 16 and 64 are free: no row of any version has them. */
enum inode_flags {
    INODE_IMPLICIT = 1,    /* directory made by an object's path: goes when empty */
    INODE_ACL = 2,         /* an access ACL is stored */
    INODE_ACL_DEFAULT = 4, /* directory with a default ACL */
    INODE_QUOTA = 8,       /* directory with a quota row */
    INODE_POLICY = 32,     /* directory with a policy row */
    INODE_CAPABILITY = 128 /* security.capability is stored */
};
#define INODE_FLAGS (INODE_IMPLICIT | INODE_ACL | INODE_ACL_DEFAULT | INODE_QUOTA | INODE_POLICY | INODE_CAPABILITY)
struct inode {
    uint64_t ino; /* from the key */
    uint8_t type; /* Tarn__FileType */
    uint16_t flags;
    uint8_t copies; /* 0 = inherited at use: the default */
    uint16_t mode;
    uint32_t nlink, uid, gid;
    uint64_t size, mtime, ctime, atime, btime, version;
    uint8_t etag_len, etag[MD_ETAG_MAX];
    uint64_t allocated;   /* files: bytes of extents */
    uint64_t parent;      /* the directory of (one of) its names; 0: of version 1 and not yet found */
    uint64_t entries;     /* directories */
    uint64_t rdev;        /* devices */
    uint16_t data_len;        /* files: inline bytes; symbolic links: the target;
                                 implicit directories: their name, for pruning */
    uint8_t *data;            /* owned, NUL-terminated */
};
void inode_fini(struct inode *inode);
int inode_set_data(struct inode *inode, const void *data, size_t n); /* -E_NOMEM */
void inode_encode(const struct inode *inode, struct writer *w);
int inode_decode(uint64_t ino, const void *data, size_t n, struct inode *ret);

struct entry {
    uint64_t ino;
    uint8_t type;
};
void entry_encode(const struct entry *entry, struct writer *w);
int entry_decode(const void *data, size_t n, struct entry *ret);

struct extent {
    uint64_t offset; /* from the key */
    uint64_t length, chunk, chunk_offset;
};
void extent_encode(const struct extent *extent, struct writer *w);
int extent_decode(uint64_t offset, const void *data, size_t n, struct extent *ret);

/* ---- chunks */
enum replica_flags {
    REPLICA_READY = 1,   /* holds every acknowledged byte */
    REPLICA_SEALED = 2,  /* has answered the SEAL: length and digest are known */
    REPLICA_COPYING = 4, /* a COPY to it is under way */
    REPLICA_LEAVING = 8, /* a DELETE to it is under way */
    REPLICA_DAMAGED = 32,   /* ready, but some of its bytes are wrong or cannot be read: not live */
    REPLICA_KEPT = 64, /* with LEAVING: no DELETE yet, a COPY may bring it up to date (C26) */
    REPLICA_SEAL_AGAIN = 16 /* the last ready copy: its SEAL failed and is to be asked again */
};
struct chunk_replica {
    uint32_t disk;
    uint8_t flags;
    uint32_t source; /* copying: the disk it is read from; 0 = any (version 1) */
    uint64_t length;
    uint32_t digest;
};
enum chunk_flags {
    CHUNK_OF_UPLOAD = 1,
    CHUNK_PENDING = 2,  /* made for a CHUNK_SWAP that has not come */
    CHUNK_KEEP_TAIL = 4, /* sealed for a snapshot: as long as its copies are, once they have answered */
    CHUNK_MAKING = 8     /* of a group that is being made: nothing depends on it yet, it is neither counted nor healed */
};
enum chunk_kind {
    CHUNK_DATA = 0,
    CHUNK_PARITY = 1,   /* of its group, which owns it */
    CHUNK_CONTAINER = 2, /* made of pieces: no extent names it, chunks with `body` do */
    CHUNK_GHOST = 3      /* dead, but others of its group, which owns it, are computed from it */
};
struct chunk {
    uint64_t id;   /* from the key */
    uint8_t state; /* Tarn__ChunkState */
    uint8_t want;  /* copies */
    uint8_t flags;
    uint8_t live;          /* copies as counted in state.by_copies */
    uint64_t owner;        /* inode or upload */
    uint64_t owner_offset; /* of its extent, or index in the upload */
    uint64_t generation, length;
    uint64_t session; /* pending: whose */
    uint64_t heal_after_ns;
    /* Version 2. A row of version 1 has none of it and is not counted on its disks until it is saved
     * again. */
    bool counted;      /* in the rows of its disks */
    uint8_t domain;    /* enum domain: what copies must not share */
    uint8_t spread;    /* different domains of the live copies */
    uint8_t wish;      /* copies that the policy asks; `want` is what there are disks for */
    uint8_t shift;     /* log2 of the bytes it may grow to; 0 = 26 */
    uint64_t since_ns; /* below its target or in too few domains since then; 0 = it is not */
    uint32_t shares; /* rows that name it besides the first: history, clones (C11) */
    uint8_t kind;    /* enum chunk_kind */
    uint8_t shard;   /* index in its group */
    uint64_t group;  /* parity group it belongs to; 0 = none */
    bool coded;      /* … whose parity bears its losses: one copy is enough */
    /* Where its bytes are when it has no replicas of its own: in another chunk. 0 = it has. */
    uint64_t body, body_offset;
    uint64_t stored; /* bytes there, in `form`. Without a body: of a container the bytes of its live pieces; of another
                        chunk, with form zstd, the level of compression that was tried and did not pay */
    uint8_t form;    /* Tarn__ChunkForm */
    uint8_t n_replicas;
    struct chunk_replica replicas[MD_REPLICAS_MAX];
};
/* It has every acknowledged byte, compared with the other copies, and none of them is known to be wrong: only such a
 * copy may be the reason that another one goes (W2). */
static inline bool chunk_replica_whole(const struct chunk_replica *replica)
{
    return (replica->flags & (REPLICA_READY | REPLICA_SEALED | REPLICA_DAMAGED)) == (REPLICA_READY | REPLICA_SEALED);
}
/* Safety is counted for it, and healing sees to it: it has replicas of its own that something depends on. */
bool chunk_counts(const struct chunk *chunk);
void chunk_encode(const struct chunk *chunk, struct writer *w);
int chunk_decode(uint64_t id, const void *data, size_t n, struct chunk *ret);

struct store_task {
    uint64_t id;  /* from the key */
    uint8_t kind; /* Tarn__ChunkTask__Kind */
    uint64_t chunk, generation, length;
    uint32_t disk; /* of the node; 0 = its first (version 1) */
};
void store_task_encode(const struct store_task *task, struct writer *w);
int store_task_decode(uint64_t id, const void *data, size_t n, struct store_task *ret);

struct upload {
    uint64_t id; /* from the key */
    uint64_t session;
    uint32_t uid;
    uint8_t copies;
    uint64_t created;
    bool own_copies; /* version 2: said by the writer, not by a policy */
    uint8_t domain, shift;
    uint64_t group; /* affinity */
    uint8_t code_k, code_m, compress; /* version 3, effective: 0 = whole copies, not compressed */
};
void upload_encode(const struct upload *upload, struct writer *w);
int upload_decode(uint64_t id, const void *data, size_t n, struct upload *ret);

/* ---- sessions */
#define SESSION_NAME_MAX 64
#define SESSION_UUID_MAX 32
struct session {
    uint64_t id; /* from the key */
    uint32_t timeout_ms, node;
    uint64_t acked; /* replies up to this seq are dropped */
    uint32_t kept;  /* replies kept */
    uint64_t fence; /* its number; 0 = the session lives */
    uint8_t uuid_len, uuid[SESSION_UUID_MAX];
    uint8_t name_len;
    char name[SESSION_NAME_MAX + 1];
};
void session_encode(const struct session *session, struct writer *w);
int session_decode(uint64_t id, const void *data, size_t n, struct session *ret);

struct handle {
    uint64_t id; /* from the key */
    uint64_t ino;
    uint32_t flags; /* O_ACCMODE of the open */
};
void handle_encode(const struct handle *handle, struct writer *w);
int handle_decode(uint64_t id, const void *data, size_t n, struct handle *ret);

struct opens {
    uint32_t handles, writers; /* of one inode, over all sessions */
    uint64_t sole; /* the only session that has had it open since nobody had; 0 = several, or not known */
};
void opens_encode(const struct opens *opens, struct writer *w);
int opens_decode(const void *data, size_t n, struct opens *ret);

/* Who alone may keep changes of a file back. */
struct exclusive {
    uint64_t ino; /* from the key */
    uint64_t session, number;
    bool recalled;
};
void exclusive_encode(const struct exclusive *exclusive, struct writer *w);
int exclusive_decode(uint64_t ino, const void *data, size_t n, struct exclusive *ret);

struct recalled {
    uint8_t kind; /* Tarn__LeaseKind */
    uint64_t ino;
};
void recalled_encode(const struct recalled *recalled, struct writer *w);
int recalled_decode(const void *data, size_t n, struct recalled *ret);

struct role {
    uint64_t session, epoch;
    uint8_t address_len;
    char address[128];
};
void role_encode(const struct role *role, struct writer *w);
int role_decode(const void *data, size_t n, struct role *ret);

/* ---- a u64 alone: uuid → id, and other references */
void number_encode(uint64_t v, struct writer *w);
int number_decode(const void *data, size_t n, uint64_t *ret);

#endif
