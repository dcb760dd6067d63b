/* Looks through a volume whose store does not run, without changing a byte: superblock, boot file, index, journal, every chunk's
 * cells against its file, lengths of sealed chunks, files that belong to no chunk. A volume that was not closed is checked
 * as its next start would find it: what is in the journal counts as in the file. Page: docs/ops/scrub.md.
 * From a fiber. */
#ifndef TARN_OBJSTORE_CHECK_H
#define TARN_OBJSTORE_CHECK_H

#include "cells.h"
#include "common/coll.h"

struct volume_check_summary {
    uint64_t chunks, sealed, bytes; /* of content that was looked at */
    uint64_t damaged_chunks, damaged_cells;
    uint64_t lost_files;            /* chunks with content and without a file */
    uint64_t strays;                /* files without a chunk: the next start removes them; no damage */
    uint64_t damage;                /* findings that are damage, those of index and journal, too */
};
/* Each finding as one sentence. `damage` false: worth knowing, and in order. */
typedef void (*volume_check_fn)(void *arg, bool damage, const char *sentence);
/* `fast`: no content is read. 0: looked through, *ret tells. Errors: it cannot be checked, *ret_why is one sentence (static). */
int volume_check(struct io *io, const char *dir, bool fast, volume_check_fn fn, void *arg, struct volume_check_summary *ret,
                 const char **ret_why);

/* `tarn-stored check`: arguments behind the word; the exit code (docs/ops/exit-codes.md). */
int stored_check(int argc, char **argv);

/* ---- shared by check.c and check_data.c */
struct check_redo {
    struct list link;
    uint64_t offset;
    size_t len;
    const uint8_t *data; /* in the journal's memory */
};
/* What the journal says of a chunk. */
struct check_pending {
    struct list redos;     /* in order */
    struct cell_set doubt; /* written straight to the file, and not yet known to be on disk */
};
struct volume_checker {
    struct volume *volume; /* read-only, on the checker's stack */
    bool fast;
    struct map pending;    /* chunk → struct check_pending */
    volume_check_fn fn;
    void *arg;
    struct volume_check_summary *sum;
    uint8_t *buf;
};
void volume_check_tell(struct volume_checker *check, bool damage, const char *fmt, ...) _printf_(3, 4);
int volume_check_chunk(struct volume_checker *check, const struct chunk *chunk);
int volume_check_files(struct volume_checker *check);

#endif
