/* The consistency checker on the directory of a replica that does not run (or on a copy of one that does).
 * Waits: from a fiber. */
#ifndef TARN_METADATA_CHECK_DIR_H
#define TARN_METADATA_CHECK_DIR_H

#include "check.h"
#include "common/io.h"

struct check_dir {
    uint64_t log_first, log_last;  /* the log could be read: every group and entry matches its checksum */
    uint64_t snapshot;             /* index of the newest snapshot, 0 = none */
    bool from_snapshot;            /* there were no usable tables: the newest snapshot was loaded and checked */
    struct check_summary summary;
};
/* Reads the log, then checks the tables; without usable ones (after a crash of the machine) the newest snapshot, in
 * DIR/check.tmp, which is emptied afterwards. Changes nothing that a start would not change.
 * Errors: -E_NOENT there is neither; -E_CORRUPT after a log line that names the file; those of the files. */
int check_directory(struct io *io, const char *dir, uint64_t map_bytes, check_report report, void *arg, struct check_dir *ret);

#endif
