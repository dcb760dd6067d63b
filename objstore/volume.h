/* One volume: a directory with a superblock, a journal, index segments and chunk files. Opens it
 * (formats an empty directory, replays the journal), hands out chunks and their files, records
 * changes, takes checkpoints. What is written when, and why a crash between any two steps is
 * harmless: docs/formats/volume.md.
 * Threads: the io's; everything that does I/O is called from fibers. */
#ifndef TARN_OBJSTORE_VOLUME_H
#define TARN_OBJSTORE_VOLUME_H

#include "buffers.h"
#include "damage.h"
#include "index.h"
#include "journal.h"
#include "layout.h"
#include "common/io.h"

#define VOLUME_JOURNAL_BYTES MIB(32) /* of one segment, by default */
#define VOLUME_FILES_MAX 512 /* open chunk files; two descriptors each at most */
/* Full-sized files of deleted chunks kept for reuse: 16 x 64 MiB = 1 GiB, counted as free space. */
#define VOLUME_SPARES_MAX 16
/* A checkpoint is taken when the changed entries take this much memory to write down. */
#define VOLUME_DIRTY_BYTES_MAX MIB(32)
#define VOLUME_SHARDS 256
/* What nobody asked to be synced is synced anyway after this time: it bounds both what a loss of power
 * takes and what the next start has to read again. */
#define VOLUME_SYNC_MS 1000

struct volume;
struct volume_options {
    const char *dir;        /* made when its parent exists */
    uint64_t cluster_id;
    uint64_t journal_bytes; /* 0 = default; only looked at when the volume is made */
    uint64_t reserve_bytes; /* kept from clients; 0 = a fiftieth of the disk, 4 MiB at least, 16 GiB at most */
    uint64_t capacity;      /* of its file system, for chunks; 0 = all of it */
    unsigned files_max;     /* 0 = default */
    /* Who was given the chunk's file is to close it: it is about to be removed, or a cell does not match. May not wait, and
     * somebody holds cells of the chunk. NULL: nobody is given files. */
    void (*withdraw)(void *arg, const struct volume *volume, uint64_t chunk);
    void *withdraw_arg;
    const char *boot;       /* differs from boot to boot of the machine; NULL = not known */
};
#define VOLUME_BOOT_MAX 64
#define VOLUME_DELETED_MAX 65536

struct volume {
    struct io *io;
    char dir[256];
    struct superblock super;
    bool read_only; /* check.c: nothing is written, not even what is no use any more removed */
    struct index index;
    struct journal *journal;
    struct buffers buffers;
    void (*withdraw)(void *arg, const struct volume *volume, uint64_t chunk);
    void *withdraw_arg;
    struct damages damages; /* found and not yet repaired */
    struct scrub *scrub;    /* while the store serves */
    uint64_t reserve_bytes, capacity;
    unsigned files_max;
    /* files */
    struct list open;       /* chunks with open files, least recently used first */
    unsigned n_open;
    struct list unsynced;   /* chunks with direct data since the last sync of their file */
    struct list unflushed;  /* chunks with any data since the last checkpoint */
    uint64_t spares[VOLUME_SPARES_MAX];
    unsigned n_spares;
    uint64_t next_spare;
    /* checkpoints */
    uint64_t index_number;  /* of the newest index segment */
    uint64_t oldest_number; /* of the oldest that still matters */
    uint64_t index_bytes;   /* of all index segments since the last full one */
    bool want_checkpoint, closing;
    struct fiber_queue checkpoint_work, sync_work;
    struct fiber_group fibers;
    /* after a loss of power (boot.c) */
    char boot[VOLUME_BOOT_MAX];
    bool suspect;
    struct verified *verified; /* which chunks were read and right on this boot (verified.h) */
    uint64_t life; /* another number each time acknowledged bytes may have gone; 0 = never yet */
    /* Chunks deleted in this life that somebody with an old map may still write to: a write must not make
     * them anew with holes. Ids are never reused, so the bound only limits how long that is remembered.
     * For what an earlier life deleted: chunks below first_chunk were given out before this life joined,
     * so what is not here of them is not counted on here (C16). 0 = not joined: nothing is made. */
    struct map deleted;
    uint64_t first_chunk;
    /* space, looked at again after a while */
    uint64_t total, free, space_at_ms;
    bool reserve_given;
    uint64_t reserved;     /* bytes allocated in the file `reserve`, 0 = it is not there */
};

/* *ret_why is one sentence (static text) when it fails. Errors: -E_CLUSTER of another cluster,
 * -E_VERSION, -E_CORRUPT, -E_NOSPC, -E_NOENT, -E_ACCES, -E_IO, -E_NOMEM. */
int volume_open(struct io *io, const struct volume_options *options, struct volume **ret, const char **ret_why);
/* Takes a last checkpoint when it can and frees. Nobody uses the volume any more. */
void volume_close(struct volume *volume);
/* Writes what the metadata service gave into the superblock: ids, and the uuid by which it knows the node. */
int volume_set_node(struct volume *volume, const uint8_t node_uuid[16], uint32_t node, uint32_t disk);
/* 0 or what is wrong with the directory: it is gone, another one, or cannot be read. */
int volume_look(struct volume *volume);
/* The disk does not do its work: nothing is accepted any more (as after a failed write of the journal). */
void volume_fail(struct volume *volume, int err);
bool volume_failed(const struct volume *volume);

/* ---- chunks ---- */
uint64_t volume_chunks(const struct volume *volume);
/* Journals the change, applies it to the table and returns; the record is not yet written: follow
 * with journal_commit(). The caller holds the chunk's range and a reference, and has done
 * chunk_reserve(). `check` (may be NULL) runs after the last wait: not 0 stops. */
int volume_record(struct volume *volume, struct chunk *chunk, struct record *record,
                  int (*check)(const struct chunk *chunk, const struct record *record));
/* Forgets the chunk (on disk) and removes its file. The caller holds all of its cells for writing. */
int volume_delete(struct volume *volume, struct chunk *chunk);

/* The chunk was deleted here, by order of the metadata service. */
void volume_note_deleted(struct volume *volume, uint64_t chunk);
/* -E_BUSY: a loss of power may have taken bytes of it, see boot.c. -E_STALE: it was deleted here.
 * -E_NOENT: it is not here, and is not to be made by a write. */
int volume_refuses(const struct volume *volume, uint64_t chunk);

/* ---- space ---- */
/* 0 or -E_NOSPC: `bytes` more would cut into the reserve; `healing`: into the last quarter of it. */
int volume_has_room(struct volume *volume, uint64_t bytes, bool healing);
/* Near the end: blocks are allocated before anything counts on them. */
bool volume_is_tight(const struct volume *volume);
/* Bytes of the disk, and free for clients' data: without the reserve, with the spares. */
int volume_space(struct volume *volume, uint64_t *ret_total, uint64_t *ret_free);

/* The file `reserve` (space.c): takes note of what there is at open; makes it as large as the index may need, if it can; */
void volume_reserve_find(struct volume *volume);
void volume_reserve_keep(struct volume *volume);
/* gives its blocks up, false when there were none; */
bool volume_reserve_give(struct volume *volume);
/* renames it to `path`, where `bytes` can be written without new blocks. -E_NOSPC: it is not that large. */
int volume_reserve_take(struct volume *volume, const char *path, uint64_t bytes);
/* Writes what must be written: for lack of space at the price of the reserve. */
int volume_write_surely(struct volume *volume, struct io_file *file, const struct iovec *iov, unsigned n_iov, uint64_t offset);

/* ---- chunk files (files.c) ---- */
enum volume_file_kind { FILE_BUFFERED, FILE_DIRECT };
/* The chunk's file, made when it is not there, pinned open until volume_file_done(). -E_NOENT with
 * `make` false and no file. */
int volume_file(struct volume *volume, struct chunk *chunk, enum volume_file_kind kind, bool make,
                struct io_file **ret);
void volume_file_done(struct volume *volume, struct chunk *chunk);
/* Data was written to the file: it is synced by the next checkpoint, and before the next sync of the
 * journal when no journal record carries that data (`direct`). */
void volume_file_written(struct volume *volume, struct chunk *chunk, bool direct);
/* Makes room for direct writes up to `end`, in growing steps. */
int volume_file_allocate(struct volume *volume, struct chunk *chunk, struct io_file *file, uint64_t end);
void volume_spares_drop(struct volume *volume);
/* The file's data on disk, and its name. */
int volume_file_sync(struct volume *volume, struct chunk *chunk);
void volume_file_remove(struct volume *volume, struct chunk *chunk);
void volume_file_forget(void *volume, struct chunk *chunk); /* closes; for index_init() */
void volume_chunk_path(const struct volume *volume, uint64_t id, char out[512]);
int volume_sync_unsynced(void *volume, bool *ret_any); /* journal_hooks.before_sync */
int volume_sync_unflushed(struct volume *volume);
int volume_files_scan(struct volume *volume);          /* at open: which files there are; orphans go */

/* ---- what a loss of power may have taken (boot.c) ---- */
/* Learns whether the machine stopped while the volume was in use, and begins another life then. `boot` may be NULL. */
int volume_boot_open(struct volume *volume, const char *boot);
int volume_boot_settled(struct volume *volume); /* the metadata service has decided: trust what is left */
int volume_boot_close(struct volume *volume, bool failed);
/* The chunk may lack acknowledged bytes: neither read nor write it. */
bool volume_suspects(const struct volume *volume, const struct chunk *chunk);

/* ---- checkpoints (checkpoint.c) ---- */
int volume_checkpoint(struct volume *volume);
int volume_index_load(struct volume *volume, uint64_t *ret_covered);
int volume_index_write(struct volume *volume, uint64_t covered, bool full, struct writer *entries, uint64_t count);
void volume_checkpoint_run(void *volume); /* fiber */

#endif
