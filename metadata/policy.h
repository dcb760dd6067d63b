/* How a directory's data is kept: copies or a code, failure domain, chunk size, affinity group, compression. A directory's row
 * says only what is its own; the rest comes from the nearest directory above that says it, looked up when
 * it is needed, so that a change or a rename counts at once for what is written from then on. What
 * exists is brought to it by a walk over all chunks (heal_move.c). Rules PO1-PO5 in docs/invariants.md.
 * Threads: the transaction's. */
#ifndef TARN_METADATA_POLICY_H
#define TARN_METADATA_POLICY_H

#include "tables.h"

#define POLICY_AFFINITY_MAX 64
#define POLICY_AFFINITY_DIR "directory" /* each directory is a group of its own */
#define POLICY_SHIFT_MIN 20             /* 1 MiB … */
#define POLICY_SHIFT_MAX 26             /* … 64 MiB */
#define POLICY_CODE_K_MIN 2
#define POLICY_CODE_K_MAX 16
#define POLICY_CODE_M_MAX 4
#define POLICY_WHOLE 1                  /* in the place of k: whole copies, said here (code=off) */
#define POLICY_COMPRESS_OFF 1           /* else the zstd level + 1 */
#define POLICY_COMPRESS_MAX 20          /* level 19 */
#define POLICY_DEPTH_MAX 4096           /* directories above: a path has at most half its bytes */

struct policy {
    uint8_t copies; /* 0 in a row = inherited; so for all. Effective with a code: what there is until it is coded, m + 1 */
    uint8_t domain; /* enum domain */
    uint8_t shift;  /* log2 of the chunk's bytes */
    uint8_t affinity_len;
    char affinity[POLICY_AFFINITY_MAX + 1];
    /* A row has copies or a code: 2 <= k <= 16 with 1 <= m <= 4, or POLICY_WHOLE with m 0. Effective: k = 0 whole copies. */
    uint8_t code_k, code_m;
    uint8_t compress; /* in a row POLICY_COMPRESS_OFF or the level + 1. Effective: the zstd level, 0 = off */
    uint64_t group; /* effective only: the affinity group's number; 0 = none */
};
void policy_encode(const struct policy *policy, struct writer *w);
int policy_decode(const void *data, size_t n, struct policy *ret);

/* What counts for the inode: its own copies, then the directories above. Copies and code are one word: the
 * nearest of either kind counts. Nothing in it is 0 but `group`, the code and `compress`.
 * Cost: one look when no directory has a policy, else one or two per directory above. */
int policy_of(struct tables *t, const struct inode *inode, struct policy *ret);
void policy_default(struct policy *ret);
int policy_dir_removed(struct tables *t, const struct inode *dir); /* its row goes with it */

int policy_cmd_set(struct tables *t, const void *message);
int policy_query_get(struct tables *t, const void *message);

#endif
