/* What heal.c and heal_move.c share: the disks as they are in this step, and one chunk's decision carried
 * out. */
#ifndef TARN_METADATA_HEAL_IMPL_H
#define TARN_METADATA_HEAL_IMPL_H

#include "chunkmap.h"
#include "heal.h"
#include "heal_plan.h"
#include "heal_state.h"

#define HEAL_STEP_LOOK 256  /* chunks looked at in one step */
#define HEAL_STEP_COPIES 64 /* COPY tasks given out in one step */
/* What we let one disk give and take in a second at most: as much as a good one (NVMe) does, so that without clients nothing
 * but the disk bounds healing. How much less it is beside clients is decided where they are felt, in the stores (objstore/pace.h);
 * here it only keeps the queues of slow disks short. Moves have time. */
#define HEAL_RATE MIB(2048)
#define MOVE_RATE MIB(512)
#define HEAL_BURST_NS (3 * 1000000000ull)
#define MOVE_BURST_NS (1 * 1000000000ull)

enum heal_kind { HEAL_LOST, HEAL_MOVE };
struct healer {
    struct tables *t;
    struct cluster cluster;
    struct placement_disk *disks;
    struct placement_map map;
    enum heal_kind kind;
    unsigned copies;  /* given out in this step */
    bool busy;        /* some disk has enough to do: what found no place may find one later */
};
int healer_init(struct healer *h, struct tables *t, enum heal_kind kind);
void healer_fini(struct healer *h);
/* The chunk as the pure code sees it. `policy` NULL: no affinity. */
int healer_view(struct tables *t, const struct chunk *chunk, const struct policy *policy, struct heal_chunk *ret);
/* Gives out one COPY, or with `source` SIZE_MAX a BUILD from the others of its group. Not yet saved. */
int healer_copy(struct healer *h, struct chunk *chunk, size_t target, size_t source);
/* The same in the place of the replica `index`, whose disk is `target`. */
int healer_copy_to(struct healer *h, struct chunk *chunk, unsigned index, size_t target, size_t source);
/* Decides and carries out, and saves when something changed. `may_add` false: copies only leave. */
int healer_chunk(struct healer *h, struct chunk *chunk, bool may_add, bool improve, struct heal_decision *ret);

/* The same for a sealed chunk that nothing depends on yet, with the affinity of `policy` (NULL: none). */
int healer_place(struct healer *h, struct chunk *chunk, const struct policy *policy, bool may_add, bool improve,
                 struct heal_decision *ret);

/* heal_move.c: one step of what is most due of walk, drain, domains and balance. */
int heal_move_step(struct tables *t);
bool heal_move_due(struct tables *t, const struct cluster *cluster, const struct heal_state *heal, uint64_t now);

#endif
