/* How a directory's data is kept: copies, failure domain, chunk size, affinity group. A directory's row
 * says only what is its own; the rest comes from the nearest directory above that says it, looked up when
 * it is needed, so that a change or a rename counts at once for what is written from then on. What
 * exists is brought to it by a walk over all chunks (heal_walk.c). Rules PO1-PO4 in docs/invariants.md.
 * Threads: the transaction's. */
#ifndef TARN_METADATA_POLICY_H
#define TARN_METADATA_POLICY_H

#include "tables.h"

#define POLICY_AFFINITY_MAX 64
#define POLICY_AFFINITY_DIR "directory" /* each directory is a group of its own */
#define POLICY_SHIFT_MIN 20             /* 1 MiB … */
#define POLICY_SHIFT_MAX 26             /* … 64 MiB */
#define POLICY_DEPTH_MAX 4096           /* directories above: a path has at most half its bytes */

struct policy {
    uint8_t copies; /* 0 in a row = inherited; so for all */
    uint8_t domain; /* enum domain */
    uint8_t shift;  /* log2 of the chunk's bytes */
    uint8_t affinity_len;
    char affinity[POLICY_AFFINITY_MAX + 1];
    uint64_t group; /* effective only: the affinity group's number; 0 = none */
};
void policy_encode(const struct policy *policy, struct writer *w);
int policy_decode(const void *data, size_t n, struct policy *ret);

/* What counts for the inode: its own copies, then the directories above. Nothing in it is 0 but `group`.
 * Cost: one look when no directory has a policy, else one or two per directory above. */
int policy_of(struct tables *t, const struct inode *inode, struct policy *ret);
void policy_default(struct policy *ret);

int policy_cmd_set(struct tables *t, const void *message);
int policy_query_get(struct tables *t, const void *message);

#endif
