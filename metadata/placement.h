/* Which nodes get the copies of a chunk. Pure: the nodes, the wish and a generator in, ids out.
 * Rules (P1-P5 in docs/invariants.md): distinct nodes; only nodes that are up and have room; over
 * racks, at most ceil(copies / racks) in one while others have candidates, so never all in one rack
 * when there are two; the first on the writer's own node; the others by two random choices, more
 * free space wins (Mitzenmacher: the power of two choices keeps the fill even without a global
 * order). */
#ifndef TARN_METADATA_PLACEMENT_H
#define TARN_METADATA_PLACEMENT_H

#include "common/base.h"
#include "common/prng.h"

#define PLACEMENT_COPIES_MAX 16
/* Two full chunks: one that is coming and one that is on its way already. */
#define PLACEMENT_ROOM_BYTES MIB(128)

struct placement_node {
    uint32_t id;
    uint32_t rack; /* number of its rack, same for same rack */
    uint64_t free;
    bool up;
    bool excluded; /* not a candidate: has a copy (counts for its rack when `holds`) or is too busy
                    */
    bool holds;
};
/* Chooses up to `copies` more nodes. writer: node id or 0. Returns how many were found in ret_ids
 * (fewer than asked when there are not enough candidates, 0 when there is none). Cost: O(nodes x
 * copies). */
unsigned placement_choose(const struct placement_node *nodes, size_t n, unsigned copies,
                          uint32_t writer, struct prng *prng, uint32_t *ret_ids);

#endif
