/* Which disks get the copies of a chunk, or the members of a group. Pure: the disks, the wish and a
 * generator in, indices out. Rules P1-P9 in docs/invariants.md, reasons in docs/decisions/placement.md.
 * Units: bytes; fill in millionths of a disk. Threads: none of its own. Owns: borrows `disks`. */
#ifndef TARN_METADATA_PLACEMENT_H
#define TARN_METADATA_PLACEMENT_H

#include "common/base.h"
#include "common/prng.h"

#define PLACEMENT_COPIES_MAX 16
#define PLACEMENT_MEMBERS_MAX 20 /* of a group: 16 + 4 */
/* Two full chunks: one that is coming and one that is on its way already. */
#define PLACEMENT_ROOM_BYTES MIB(128)
#define PLACEMENT_ROOM_SHARE 8 /* or that part of a small disk */
/* A preferred disk (the writer's, an affinity group's) that is so much fuller than the average is
 * not preferred any more: preference never costs the balance more than five points. */
#define PLACEMENT_LEAN 50000

/* What two copies of a chunk must not share. Stored in rows: never renumber. */
enum domain { DOMAIN_DEFAULT = 0, DOMAIN_DISK = 1, DOMAIN_NODE = 2, DOMAIN_RACK = 3, DOMAIN_SITE = 4 };

struct placement_disk {
    uint32_t id, node;
    uint64_t rack, site; /* any numbers, the same for the same rack or site */
    uint64_t total;
    uint64_t used;  /* as well as we know: promised bytes too */
    uint64_t free;  /* as the disk says */
    uint32_t queue; /* requests waiting there */
    bool up;
    bool away;        /* down for so long that it is not expected back */
    bool draining;    /* is being emptied: takes nothing */
    bool busy;        /* gives or takes enough for now: no target */
    unsigned source_room; /* so many more copies it may give now */
};

/* All disks, ascending by id, with what is computed once for many choices. */
struct placement_map {
    struct placement_disk *disks;
    size_t n;
    uint64_t *weights;             /* running sums of MiB; owned */
    uint64_t total_mib, used_mib;  /* of disks that are up and not draining */
};
/* -E_NOMEM. `disks` must be sorted by id and stay. */
int placement_map_init(struct placement_map *map, struct placement_disk *disks, size_t n);
void placement_map_fini(struct placement_map *map);
/* SIZE_MAX when there is none. Cost: O(log disks). */
size_t placement_find(const struct placement_map *map, uint32_t id);
/* `used` and the average change by this much. */
void placement_use(struct placement_map *map, size_t index, int64_t bytes);
uint32_t placement_fill(const struct placement_disk *disk); /* millionths */
uint32_t placement_average(const struct placement_map *map);
bool placement_usable(const struct placement_disk *disk); /* may take a chunk now */

struct placement_request {
    unsigned copies;     /* how many more: copies, or the k+m members of a group */
    enum domain domain;
    uint32_t writer;     /* node id or 0 */
    uint64_t affinity;   /* group, any number but 0 */
    bool emptiest;       /* of those that fit take the emptiest instead of the better of two */
    bool apart;          /* never two on one node: there is nothing rather than that */
    unsigned n_loose;    /* with apart: the last ones of `held` are taken themselves, their nodes are not */
    unsigned n_held;     /* disks that hold a copy already; a held one is never chosen */
    uint32_t held[PLACEMENT_MEMBERS_MAX];
};
/* Chooses up to `copies` disks into ret (indices of map->disks). Returns how many: fewer than asked
 * when there are not enough usable disks. Never the same disk twice; each next one in the site (only for
 * DOMAIN_SITE), rack and node that have the fewest copies so far. Cost: O(copies x log disks) expected
 * among many domains, O(copies x disks) at worst. */
unsigned placement_choose(const struct placement_map *map, const struct placement_request *request,
                          struct prng *prng, size_t *ret);
/* Different domains of the kind among the disks (indices). Cost: O(n^2) for n <= 20. */
unsigned placement_spread(const struct placement_map *map, enum domain domain, const size_t *disks, unsigned n);
bool placement_same_domain(const struct placement_disk *a, const struct placement_disk *b, enum domain domain);

#endif
