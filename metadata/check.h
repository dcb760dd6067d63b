/* The consistency checker: goes through all rows of the tables and compares what must agree (docs/invariants.md).
 * It only reads, so it works on a copy, on a stopped replica's directory and inside a read transaction of a live
 * one. Memory grows with what is open, locked or linked twice, not with the number of files.
 * Threads: any; the transaction's. Cost: every row once, and a few look-ups for each. */
#ifndef TARN_METADATA_CHECK_H
#define TARN_METADATA_CHECK_H

#include "common/base.h"
#include "kv.h"

/* `rule` is the invariant's number ("N2"), `sentence` what is wrong, with ids; both borrowed for the call. */
typedef void (*check_report)(void *arg, const char *rule, const char *sentence);
struct check_summary {
    uint64_t rows, violations;
    uint64_t applied; /* the log index the tables are at */
};
/* Returns 0 when everything was looked at (violations or not), or a negative code when the tables cannot be
 * read: -E_IO, -E_NOMEM. report may be NULL. */
int check_tables(struct kv_txn *txn, check_report report, void *arg, struct check_summary *ret);

#endif
