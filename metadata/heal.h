/* Background work of the tables, in bounded steps: removed files' chunks, chunks to seal, copies to
 * count again, copies to make (most endangered first), disks to empty, chunks to bring to their policies,
 * fill to balance. Decides only (heal_plan.h); the stores copy. Threads: the transaction's.
 * heal.c: what comes when, endangered chunks · heal_move.c: drain, balance, policies · heal_tasks.c: tasks as
 * messages · heal_status.c: the truth about it. */
#ifndef TARN_METADATA_HEAL_H
#define TARN_METADATA_HEAL_H

#include "tables.h"

/* A node that is away shorter than this is expected back: nothing is copied (a restart is no loss).
 */
#define HEAL_DELAY_NS (30 * 1000000000ull)

int heal_step(struct tables *t);
bool heal_due(struct tables *t, uint64_t real_ns);
/* Counts live copies of a batch of one disk's chunks again after it came or went; drops surplus. */
int heal_recount_step(struct tables *t, uint32_t disk);
/* Drops copies of a sealed chunk that are more than wanted, when enough verified ones stay. Saves it. */
struct chunk;
int heal_trim(struct tables *t, struct chunk *chunk);
/* OP_NODE_BEAT's answer: the oldest tasks of a node. */
int heal_node_tasks(struct tables *t, uint32_t node, size_t max);

int heal_query_status(struct tables *t, const void *message);

#endif
