/* Which chunks of one class share the next container, and on which disk it is made. Pure: the candidates and the disks
 * in, a choice out; pack_step.c carries it out. Where the bytes are already is preferred: what is packed on a disk that
 * holds it is read there, and stays there. Rules PK1-PK4 in docs/invariants.md. Threads: none of its own. */
#ifndef TARN_METADATA_PACK_PLAN_H
#define TARN_METADATA_PACK_PLAN_H

#include "pack_rows.h"
#include "placement.h"

/* What was just written is left as it is for a while: it may be read as a file of its own, or written over. */
#define PACK_COLD_NS (20 * 1000000000ull)
/* A container is made of so many pieces or bytes, or, when they do not come, of what has waited so long. */
#define PACK_ENOUGH_PIECES 64
#define PACK_ENOUGH_BYTES MIB(4)
#define PACK_AGE_NS (600 * 1000000000ull)

#define PACK_ITEM_DISKS 8 /* holders of one candidate that are looked at */
struct pack_item {
    uint64_t since_ns; /* 0: half of its container is dead, or it is to be moved: no waiting */
    uint64_t bytes;    /* room it needs at most */
    bool alone;        /* large: a container of its own */
    unsigned n;
    uint32_t disks[PACK_ITEM_DISKS]; /* that hold it, verified, and are up */
};
struct pack_plan {
    unsigned n; /* 0: nothing now */
    size_t items[PACK_PIECES_MAX];
    uint32_t disk;
    uint64_t bytes;
    bool crowded;      /* there was enough, but no disk that may take it */
    uint64_t again_ns; /* with n == 0 when time alone makes another answer; PACK_NEVER */
};
/* `container_bytes`: as long as one may be. Cost: O(items log items). -E_NOMEM. */
int pack_plan(const struct pack_item *items, size_t n, uint64_t container_bytes, const struct placement_map *map,
              uint64_t now_ns, struct pack_plan *ret);

#endif
