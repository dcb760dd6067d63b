/* Background work of the tables, in bounded steps: removed files' chunks, chunks to seal, copies to
 * count again, and copies to make, most endangered first. Decides only; the stores copy. */
#ifndef TARN_METADATA_HEAL_H
#define TARN_METADATA_HEAL_H

#include "tables.h"

/* A node that is away shorter than this is expected back: nothing is copied (a restart is no loss).
 */
#define HEAL_DELAY_NS (30 * 1000000000ull)

int heal_step(struct tables *t);
bool heal_due(struct tables *t, uint64_t real_ns);
/* OP_NODE_BEAT's answer: the oldest tasks of a node. */
int heal_node_tasks(struct tables *t, uint32_t node, size_t max);

#endif
