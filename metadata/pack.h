/* Packing: small chunks that lie still share a container, large ones are compressed where their policy asks for it, and
 * containers that are half dead are made anew. Everything is a row, so any leader goes on where the last one was.
 *
 *   a chunk is sealed and verified ──> candidate of its class ──cold, and enough of them──> job
 *   job: MAKING (one store has a PACK task) ──done──> COPYING (the other copies) ──verified──> flip: the pieces' rows
 *   at any doubt: the container goes, the pieces stay what they were and are candidates again
 *
 * pack_plan: which and where (pure) · pack_rows: rows · pack_class.c: classes and candidates · pack_step.c: looks at
 * them, begins jobs · pack_job.c: a job's life · piece: what a piece is. Rules PI, PK in docs/invariants.md.
 * Threads: the transaction's. */
#ifndef TARN_METADATA_PACK_H
#define TARN_METADATA_PACK_H

#include "chunkmap.h"
#include "pack_rows.h"

#define PACK_SMALL_BYTES MIB(1) /* up to here a chunk is packed with others, if a chunk of its policy has room for four */
#define PACK_JOBS_MAX 16        /* under way in the cluster */
#define PACK_DISK_JOBS_MAX 2    /* … made on one disk */

/* ---- classes and candidates (pack_class.c) ---- */
int pack_class_get(struct tables *t, uint64_t id, struct pack_class *ret); /* -E_NOENT */
/* Keeps the index of what is due in step; a class with nothing waiting and no container is removed. */
int pack_class_put(struct tables *t, const struct pack_class *c);
/* The class of a policy. -E_NOENT with `make` false and no such class; else a new one, not yet saved. */
int pack_class_of(struct tables *t, const struct policy *policy, bool make, struct pack_class *ret);
/* What counts for a container: its class's policy. */
int pack_policy(struct tables *t, const struct chunk *container, struct policy *ret);
/* Notes the chunk as a candidate if it is one under the policy. In pack_consider() that of its file. */
int pack_consider_under(struct tables *t, const struct chunk *chunk, const struct policy *policy);
int pack_consider(struct tables *t, const struct chunk *chunk);
/* The class it is to be packed in as things are now; -E_NOENT: none. */
int pack_class_now(struct tables *t, const struct chunk *chunk, struct pack_class *ret);
/* Is to be compressed, or found to be not worth it, before a group is made of it. */
bool pack_compresses(const struct chunk *chunk, const struct policy *policy);
/* Once; counts it in the class and saves that. `since_ns` 0: does not wait for others. */
int pack_candidate_add(struct tables *t, struct pack_class *class, uint64_t chunk, uint64_t bytes, uint64_t since_ns);
/* The class is not yet saved. No such candidate: success. */
int pack_candidate_remove(struct tables *t, struct pack_class *class, uint64_t chunk);

/* ---- jobs (pack_job.c) ---- */
/* Begins one: a container of the class is made on `disk`. Counts it in the class, which is not yet saved. */
int pack_job_begin(struct tables *t, struct pack_class *class, uint32_t disk, const struct pack_list *list);
int pack_job_get(struct tables *t, uint64_t container, struct pack_job *ret); /* -E_NOENT */
int pack_list_get(struct tables *t, uint64_t container, struct pack_list **ret); /* free() it */
/* What is next for a job that is due. */
int pack_job_step(struct tables *t, uint64_t container);
/* A store answers a PACK; the caller saves the chunk. */
int pack_job_done(struct tables *t, struct chunk *container, unsigned index, const Tarn__ChunkTaskDone *done);
/* Something changed for a container that is being made: it is looked at in the next step. */
int pack_job_wake(struct tables *t, const struct chunk *container);
/* The container has no live piece (any more): it goes. */
int pack_container_gone(struct tables *t, struct chunk *container);

/* ---- steps (pack_step.c) ---- */
int pack_step(struct tables *t);
bool pack_due(struct tables *t, uint64_t now);

/* ---- messages (pack_task.c) ---- */
/* The pieces of a PACK task, with where their bytes are. Borrows `cluster`'s strings. */
struct pack_message {
    Tarn__Piece **pointers;
    Tarn__Piece *pieces;
    Tarn__Replica **from;
    Tarn__Replica *replicas;
    size_t n;
};
void pack_message_fini(struct pack_message *message);
int pack_task_fill(struct tables *t, uint64_t container, const struct cluster *cluster, struct pack_message *out,
                   Tarn__ChunkTask *task);

#endif
