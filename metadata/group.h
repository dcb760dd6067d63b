/* Parity groups: k data chunks, each whole on one node, and m parity chunks computed from them, on m others.
 * Any k of them give the rest back. Here: the rows, what they count, and what is lost. Rules G1-G9 in
 * docs/invariants.md, reasons in docs/decisions/codes.md.
 *
 *   UPLOAD   made while an object is put; goes with the upload or becomes CODED with the commit
 *   MAKING   `next` is being built and verified; the members keep their copies until it is CODED
 *   CODED    `shards` are right: each data chunk needs one copy only (CHUNK_CODED). While `next` is set the
 *            parity is being made anew, without dead members; the old one stays until then
 *
 * group.c: rows and counters · group_plan.c: which chunks, which disks (pure) · group_make.c: from candidates to
 * CODED · group_step.c: what is due. Threads: the transaction's. */
#ifndef TARN_METADATA_GROUP_H
#define TARN_METADATA_GROUP_H

#include "chunkmap.h"
#include "common/ec.h"

enum group_state { GROUP_UPLOAD = 1, GROUP_MAKING = 2, GROUP_CODED = 3 };
struct group_shard {
    uint64_t chunk;  /* 0 = zeros */
    uint32_t length; /* of a data chunk as sealed; of parity the group's */
    uint32_t digest; /* with its bit in `known`: what a shard computed anew must be equal to */
    uint32_t keeper; /* of `next`: the disk whose copy stays; 0 = any */
};
/* Bit i of every mask is shard i, data first. */
struct group {
    uint64_t id; /* from the key */
    uint8_t k, m, state;
    uint8_t domain;      /* enum domain: what shards must not share */
    bool leaving;        /* its policy wants copies, or another code: members gain copies, then it goes (G7) */
    uint64_t generation; /* of `shards`; 0 = never coded */
    uint64_t generation_last; /* given out: never used again */
    uint64_t length;     /* of the parity of `shards` */
    uint64_t owner;      /* inode of the members; an upload's id while UPLOAD; a policy's number of containers */
    uint64_t after_ns;   /* making it anew failed: not tried again before */
    uint32_t lost;       /* shards that no disk that is up has */
    uint32_t ghosts;     /* data chunks that are dead and stay because others are computed from them */
    uint32_t known;      /* shards with a digest */
    struct group_shard shards[EC_SHARDS_MAX];
    /* What is being made; `next_generation` 0 = nothing. */
    uint64_t next_generation, next_length;
    uint64_t next_task; /* tasks from here on were given out for it: earlier reports do not count (G4) */
    uint64_t next_ns;   /* when it began */
    uint32_t done;      /* shards of `next` that were built or verified */
    struct group_shard next[EC_SHARDS_MAX];
};
void group_encode(const struct group *group, struct writer *w);
int group_decode(uint64_t id, const void *data, size_t n, struct group *ret);

int group_get(struct tables *t, uint64_t id, struct group *ret); /* -E_NOENT */
/* Puts the row and keeps the counters and the list of what is due in step. */
int group_put(struct tables *t, struct group *group);
int group_del(struct tables *t, const struct group *group);
uint64_t group_id_next(struct tables *t);

/* ---- pure */
unsigned group_shards(const struct group *group);             /* k + m */
uint32_t group_zeros(const struct group *group);              /* shards without a chunk */
unsigned group_spare(const struct group *group);              /* live shards beyond those needed, 0 also when some are missing */
/* Disks to lose before data is lost: live shards - k + 1, zeros counted as live; 0 = lost. */
unsigned group_level(const struct group *group);
int group_index(const struct group_shard *shards, unsigned n, uint64_t chunk); /* -1 */
/* Chunks of the group by what their data bears: ret[0 … MD_COPIES_MAX], added with `sign`. */
void group_count(const struct group *group, int sign, uint64_t *by_copies);

/* ---- members, called by chunkmap.c and heal.c */
/* The member's row changes: counts what of its group is lost, which members share a domain, and learns digests.
 * Sets chunk->spread. */
int group_refresh(struct tables *t, struct chunk *chunk);
/* The level in TABLE_ENDANGERED of a member that is below its target. */
int group_endangered_level(struct tables *t, const struct chunk *chunk, uint64_t *ret);
/* Can the chunk be computed from the others of its group without this copy? Then even its last copy may go (C4). */
int group_can_rebuild(struct tables *t, const struct chunk *chunk, bool *ret);
/* The others of its group are enough, be their disks up or just away: what its disk does not have (any more) is not worth
 * keeping as if it had. The same that is asked of copies before one is given up. */
int group_bears_loss(struct tables *t, const struct chunk *chunk, bool *ret);
/* The last row that named it is gone: *ret_stays when others need its bytes still (a ghost). */
int group_member_dies(struct tables *t, struct chunk *chunk, bool *ret_stays);
/* Disks of the other members; at most EC_SHARDS_MAX - 1 live ones. */
int group_apart(struct tables *t, const struct chunk *chunk, uint32_t *disks, unsigned *ret_n);

/* ---- containers have no inode: their owner is the number of the policy they were made for */
uint64_t group_policy_number(const struct policy *policy);
bool group_policy_of_number(uint64_t number, struct policy *ret);
static inline bool group_is_policy_number(uint64_t owner)
{
    return owner >> 63 != 0;
}

int group_query_get(struct tables *t, const void *message);

#endif
