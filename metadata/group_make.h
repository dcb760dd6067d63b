/* From sealed chunks to a coded group, and back: what waits to be coded, the making (intent, builds and
 * verifications, the flip), and what is due for groups that are there. Every step is one command and leaves rows
 * that the next one, on any replica, goes on from. Rules G3-G8 in docs/invariants.md.
 *
 *   candidates ──intent──▶ MAKING ──all reported right──▶ CODED ──policy: copies──▶ leaving ──copies there──▶ chunks
 *       ▲                    │                              │ ▲
 *       └──── abort: a member changed, died, or is wrong ───┘ └─ a member died: coded anew without it
 *
 * Threads: the transaction's. */
#ifndef TARN_METADATA_GROUP_MAKE_H
#define TARN_METADATA_GROUP_MAKE_H

#include "group.h"
#include "heal_impl.h"

/* First number of the keys in TABLE_GROUP_DUE. Stored: never renumber. */
enum group_room {
    GROUP_CANDIDATE = 0, /* owner offset chunk → when it came, ns: sealed, complete, verified, its policy has a code */
    GROUP_OWNER = 1,     /* owner: its candidates are to be looked at */
    GROUP_WORK = 2,      /* group: something is being made, a member is dead, or it is to go */
    GROUP_STUCK = 3      /* owner → how many of its chunks: fewer nodes than a group needs */
};

/* ---- called where rows change */
int group_due(struct tables *t, const struct group *group); /* its row in GROUP_WORK comes or goes */
int group_due_drop(struct tables *t, uint64_t group);
/* The chunk's row was `before` and is `chunk` now. */
int group_candidate(struct tables *t, const struct chunk *before, const struct chunk *chunk);
/* The policy of a chunk of a file is `policy` now. Changes want and wish of a coded one; the caller saves it. */
int group_follow(struct tables *t, struct chunk *chunk, const struct policy *policy);

/* ---- called with what stores report; the chunk's replica `index` is that disk's. These save. */
int group_done_build(struct tables *t, struct chunk *chunk, unsigned index, const Tarn__ChunkTaskDone *done);
int group_done_verify(struct tables *t, struct chunk *chunk, unsigned index, const Tarn__ChunkTaskDone *done);
/* A copy that the making waits for has come; the chunk's row is saved already. */
int group_done_copy(struct tables *t, const struct chunk *chunk, uint32_t disk);

/* ---- steps of a making */
struct group_intent {
    uint64_t owner;
    uint8_t k, m, domain; /* k: the policy's; shards without a chunk are zeros */
    unsigned n;           /* data chunks: 2 … k */
    struct chunk *chunks;
};
struct group_plan;
int group_begin(struct healer *h, const struct group_intent *intent, const struct group_plan *plan);
/* The parity is made anew, without the dead. -E_BUSY: not now. */
int group_begin_anew(struct healer *h, struct group *group);
/* All reported right, and still all there: CODED. Else nothing. */
int group_flip(struct tables *t, struct group *group);
/* What was being made is given up; the members are candidates again. */
int group_abort(struct tables *t, struct group *group);
/* Its rows become CODED: members bear what the group bears from now on. `group` has its new shards and state. */
int group_become_coded(struct tables *t, struct group *group);
/* Parity and the dead go, the members are chunks like others. */
int group_dissolve(struct tables *t, struct group *group);
bool group_is_candidate(const struct chunk *chunk);

/* ---- group_step.c */
struct heal_state;
int group_step(struct tables *t);
bool group_step_due(struct tables *t, const struct heal_state *heal, uint64_t now);

#endif
