/* What the parts of the file client share: file.c (handles, reads), file_write.c (writes, truncate,
 * sync), file_map.c (what is known of an inode). Nobody else includes it. */
#ifndef TARN_CLIENT_FILE_INTERNAL_H
#define TARN_CLIENT_FILE_INTERNAL_H

#include "file.h"

#include "common/coll.h"
#include "common/err.h"
#include "common/fiber.h"

#define PAGE_EXTENTS 256   /* extents asked for at once: 16 GiB of chunks, about 100 KiB of reply */
#define PAGES_MAX 16
#define OPEN_MAX 64        /* chunks of one file being written or not yet synced: 4 GiB */
#define MAP_FRESH_MS 1000  /* what others did to a sealed or inline part is seen this soon */
#define FILE_GIVE_UP_MS 30000 /* reads and writes look for an intact replica this long */

/* One extent as the metadata service told it. Counted: a read or write keeps it while the map moves
 * on. `extent` changes in place when a member fails. */
struct extent_ref {
    unsigned refs;
    bool dirty;          /* written since the last sync */
    bool stale;          /* not to be used any more, only kept to be synced */
    struct store_lives lives; /* of the members with what is dirty */
    uint64_t checked_ms; /* when it was last known to be in the file's map, */
    uint64_t version;    /* under which version of the inode */
    uint64_t fetch;      /* and by which fetch; 0 = by none */
    uint64_t sized_to;   /* the file had this size while the chunk was in its map and open: what is written to the
                            chunk behind it may be cut away unseen, until it is told with the chunk's number (C23) */
    Tarn__Extent *extent;
};
struct extent_ref *extent_ref_create(Tarn__Extent *extent); /* takes it; NULL: no memory, freed */
struct extent_ref *extent_ref_take(struct extent_ref *ref);
void extent_ref_drop(struct extent_ref *ref); /* NULL allowed */
void extent_ref_dropp(struct extent_ref **ref);
static inline bool extent_covers(const Tarn__Extent *extent, uint64_t offset)
{
    return offset >= extent->offset && offset - extent->offset < extent->length;
}

/* Part of the map: [from, to), extents in order with holes between them, or inline bytes. */
struct map_page {
    uint64_t from, to;
    uint64_t size; /* of the file */
    uint64_t fetched_ms;
    uint64_t version; /* of the inode: while it has this one, the page is true */
    uint64_t fetch;   /* number of the fetch that brought it */
    bool is_inline;
    uint8_t *data;
    size_t data_len;
    struct extent_ref **refs;
    size_t n;
};

/* What this process knows of one inode; shared by all its handles here, so that they agree. */
struct inode {
    uint64_t ino;
    unsigned handles, writers;
    uint64_t size, version, chunk_size;
    uint32_t mode;
    uint64_t atime, mtime, ctime; /* as last told */
    bool capability; /* security.capability is set */
    uint64_t lease_version, lease_stamp; /* while the lease is valid the inode has that version, if we do not write */
    uint64_t size_told_ms; /* when a change of ours was last answered with the size; 0 = never */
    struct map_page *pages[PAGES_MAX]; /* NULL: free */
    uint64_t change;         /* grows when pages are dropped: a fetch under way is not kept then */
    uint64_t fetches;        /* begun so far */
    uint64_t jumps;          /* times we learned of changes that were not ours */
    uint64_t lost;           /* chunks of ours found to have left the map */
    struct fiber_mutex fetching;
    struct extent_ref *open[OPEN_MAX]; /* chunks we may write to; NULL: free */
    struct fiber_mutex preparing;      /* one chunk is made writable at a time */
    struct list grows;       /* struct grow_call: ends of stored data that nobody is telling yet */
    struct fiber_mutex growing;
    bool tail_owed;          /* a write failed: what it left behind the end is to be cut */
    bool mtime_owed;
    bool settled; /* nothing of this file is on its way to a disk because of a close before */
};

struct file {
    uint32_t magic;
    struct meta *meta;
    struct stores *stores;
    struct io *io;
    struct inode *inode;
    uint64_t handle;
    uint64_t session; /* in which it was opened: with it the file is of no use any more */
    bool locked;      /* somebody took a lock through it */
    uint32_t flags; /* open(2)'s */
    bool fresh;     /* file_keep_fresh() */
};
#define FILE_MAGIC 0x66696c65u

static inline bool file_writes(const struct file *file)
{
    return (file->flags & 3) != 0; /* O_ACCMODE is not O_RDONLY */
}

/* -E_NO_SESSION when the file's session has ended. */
static inline int file_lives(const struct file *file)
{
    return file->session != 0 && file->session == meta_session(file->meta) ? 0 : -E_NO_SESSION;
}

int inode_get(struct file *file, uint64_t ino, struct inode **ret); /* found or made; counts a handle */
void inode_put(struct file *file, struct inode *inode);
void inode_learn(struct inode *inode, const Tarn__Attr *attr);
/* The same for the answer to a change of ours that leaves the known map true. */
void inode_learn_own(struct inode *inode, const Tarn__Attr *attr);
/* A change of ours led to this version: when it is the next one, nobody else changed the inode. */
void inode_step(struct inode *inode, uint64_t version);
void inode_pages_drop(struct inode *inode);
/* Not used from now on; a dirty one stays until its sync. */
void inode_open_drop(struct inode *inode, struct extent_ref *ref);
void inode_open_clear(struct inode *inode); /* all, dirty or not */
/* A chunk we write to that covers the offset, borrowed, or NULL. */
struct extent_ref *inode_open_find(struct inode *inode, uint64_t offset);
/* Takes a count of its own. False: no place; sync something first. */
bool inode_open_add(struct inode *inode, struct extent_ref *ref);

/* One call's view of the map. A fresh file's call may use what is known only if the inode's version is
 * still the same at some moment of the call (struct file_check), or what was fetched since it began. */
struct file_view {
    uint64_t fetches; /* the inode's when the call began */
    bool fetched;     /* only what was fetched since counts */
};
bool file_view_page(const struct file *file, const struct file_view *view, const struct map_page *page);
/* The chunk we write to at the offset, borrowed, when the view allows it. */
struct extent_ref *file_view_open(const struct file *file, const struct file_view *view, uint64_t offset);
/* True when the view has all that is needed to begin at the offset without asking first. */
bool file_view_knows(const struct file *file, const struct file_view *view, uint64_t offset);

/* Asks the metadata service for the map from `offset` on. have_version: of the inode; when it still
 * has that, *ret_same and nothing else happens (0: always fetch, ret_same may be NULL). */
int file_map_fetch(struct file *file, uint64_t offset, uint64_t have_version, bool *ret_same);
/* The page with the offset, fetched when absent or too old. Borrowed until the next wait. */
int file_map_page(struct file *file, const struct file_view *view, uint64_t offset, struct map_page **ret);

/* True when the version we know is the inode's without asking. */
bool inode_leased(const struct file *file);

/* Asks beside the data transfer whether what is known was still true. Lives on the caller's stack;
 * every begin needs its end. */
struct file_check {
    struct file *file;
    uint64_t offset, version;
    bool same;
    int err;
    struct fiber_group group;
};
void file_check_begin(struct file_check *check, struct file *file, uint64_t offset);
/* 0: *ret_same tells; when it is false the map at the offset was fetched. */
int file_check_end(struct file_check *check, bool *ret_same);
/* The extent at offset (counted) or NULL and the end of the hole. */
struct extent_ref *map_page_find(const struct map_page *page, uint64_t offset, uint64_t *ret_hole_end);

/* The chunks one call wrote to behind their sized_to, each with the file's end of that. A call writes at most
 * WRITE_PIECE at a time, and extents are seldom shorter than a window. */
#define WRITE_PIECE MIB(16)
#define WRITTEN_MAX 64
struct written {
    unsigned n;
    struct {
        uint64_t chunk, end;
    } to[WRITTEN_MAX];
};

/* Runs jobs of one call, at most FILE_JOBS_MAX at a time; the first error is the result. */
#define FILE_JOBS_MAX 8
struct file_job {
    int (*run)(struct file_job *job);
    struct file_jobs *jobs;
    struct file *file;
    struct extent_ref *ref; /* reads; counted */
    uint64_t offset;        /* reads: in the chunk; writes: in the file */
    uint8_t *buf;
    size_t n;
    bool fetched;            /* reads: the map was fetched for this call */
    struct written *written; /* writes */
};
struct file_jobs {
    struct fiber_group group;
    struct fiber_queue room;
    int err;
};
void file_jobs_add(struct file_jobs *jobs, const struct file_job *job); /* takes job->ref */
int file_jobs_wait(struct file_jobs *jobs);

/* A pause between tries that grows; -E_TIMEOUT after FILE_GIVE_UP_MS. Zero-initialised. */
struct file_retry {
    uint64_t since_ms, pause_ms;
};
int file_retry_pause(struct file *file, struct file_retry *retry);

int file_mtime_flush(struct file *file); /* tells the mtime that is owed, if it is */
int file_tail_settle(struct file *file); /* cuts what a failed write left behind the end, if that is owed */

#endif
