/* Which disk keeps each data chunk of a parity group, and which disks make the parity. Pure: the chunks' copies,
 * the disks and a generator in, disks out. Rules G2, G8 in docs/invariants.md. Threads: none of its own. */
#ifndef TARN_METADATA_GROUP_PLAN_H
#define TARN_METADATA_GROUP_PLAN_H

#include "common/ec.h"
#include "placement.h"

struct group_plan_chunk {
    unsigned n; /* its verified copies on disks that are up and stay: indices of the map's disks */
    size_t disks[PLACEMENT_COPIES_MAX];
};
struct group_plan_request {
    unsigned k, m; /* k: chunks there are, 2 at least */
    enum domain domain;
    struct group_plan_chunk chunks[EC_DATA_MAX];
};
struct group_plan {
    size_t keepers[EC_DATA_MAX];
    uint32_t copy; /* bit i: the keeper of chunk i has no copy of it yet */
    size_t parity[EC_PARITY_MAX];
};
/* No two of the k + m disks are of one node (with DOMAIN_DISK: are the same). Parity goes to disks that have copies
 * of most of the chunks, when there are such. Of racks and sites as few share more than m shards as it finds.
 * Errors: -E_NOSPC fewer than k + m nodes are up and not drained, or have room; -E_BUSY some have enough to do now. */
int group_plan(const struct group_plan_request *request, const struct placement_map *map, struct prng *prng,
               struct group_plan *ret);
/* Places there are for shards: nodes that are up and not drained (with DOMAIN_DISK: disks). */
unsigned group_plan_places(const struct placement_map *map, enum domain domain);

/* Which disks a new chunk of a file gets, so that its group can be coded without moving data: the members of one
 * group of chunks (`window`) have their first copies on k different nodes, and the others together on m more, whose
 * disks make the parity later. Deterministic in (window, slot) as long as the disks stay. *ret_n 0 when there are
 * fewer than k + m nodes with room: then placement_choose() decides. -E_NOMEM. */
struct group_plan_slot {
    uint64_t window; /* any number, the same for the chunks of one group */
    unsigned slot;   /* which of them */
    unsigned k, m;
    uint32_t writer; /* node id or 0: keeps one of them whole */
};
int group_plan_new(const struct placement_map *map, const struct group_plan_slot *slot, size_t *ret, unsigned *ret_n);

#endif
